"""The pass that sends batches through together which meet the same weights one after the other.

Two calls of a layer on two batches are one call on the batches end to end: fewer calls, and larger
products. Downwards nothing is cut and put together again: what works on each row apart and gets
consecutive rows of one array works on the array, and its results are rows of that result. So
layer after layer merges, and the gradients too, whose gates have rows of one array as masks. At
last, sums of weight gradients over several batches become one product over all rows.

What is counted, and never timed, so that the same program always becomes the same program:

- A merged call saves :data:`CALL`, and a product reads its weights once less.
- Rows that stand in one array already, in this order, cost nothing. Others need a concatenation. A
  part of it costs nothing if a line makes it and it is nowhere else a part: a runner lets that line
  write into its place. Any other part (an input, rows of another array, a result of the step) is a
  copy, and costs its bytes twice, read and written.
- A product of a sum saves its result's bytes four times (written; read, read and written by the
  addition). But if its rows are no array yet and more than :data:`CACHE`, they cost their bytes
  once: they have to wait, and are read from memory again.
- Results of more than :data:`CACHE` are not merged across an update: they would lie in memory from
  one step to the next.

Merged lines compute the same numbers row by row; only a BLAS may sum a larger product in another
order. Sums of weight gradients are sums in another order. Both are rounding.
"""

from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

from tinygan import ops
from tinygan.conv import conv2d, conv2d_transpose, conv2d_weight_grad
from tinygan.norms import block_inverse_deviation, block_mean, project, standardise
from tinygan.replay.program import Line, Value

CALL = 1 << 14  # bytes that are read or written in about the time that a call takes by itself
CACHE = 1 << 20  # bytes that a core still has at hand when they are needed again

# What treats rows (entries of the first axis) apart: a row of the result depends on the same row of
# each batch among the arguments, on what is the same for all rows, and on nothing else. It is a
# closed list, since nothing in a primitive says so: an op that is not here is never merged.

# The first argument is the batch, the others are weights.
_PRODUCTS = {ops.affine, ops.matmul, conv2d, conv2d_transpose}
# An argument is a batch if it has the rows of the result, else the same for all of them.
_ELEMENTWISE = {
    ops.abs, ops.add, ops.clip, ops.divide, ops.equal, ops.exp, ops.expm1, ops.gate, ops.greater,
    ops.greater_equal, ops.inside, ops.less, ops.less_equal, ops.log, ops.log1p, ops.maximum,
    ops.minimum, ops.multiply, ops.negative, ops.power_number, ops.ratio, ops.rsqrt, ops.share,
    ops.sigmoid, ops.sign, ops.softplus, ops.sqrt, ops.square, ops.subtract, ops.tanh, ops.where,
}  # fmt: skip
# If their axes leave out the first: how many arguments, from the first on, are batches.
_NORMS = {standardise: 3, project: 4, block_mean: 1, block_inverse_deviation: 2}
_REDUCTIONS = {ops.sum, ops.max, ops.norm, ops.logsumexp}
# If they keep the first axis as it is; its length is part of what they are told.
_SHAPES = {ops.reshape, ops.broadcast_to}
# These sum over rows: sums of them are one over more rows. All arguments are batches.
_SUMS = {ops.matmul, conv2d_weight_grad, ops.sum_to}
# What may be no array of its own, and so cannot be made in its place in a concatenation.
_VIEWS = {ops.reshape, ops.transpose, ops.index, ops.stop_gradient}


def merge_batches(program):
    """The program with batches merged that meet the same weights, by the rule above.

    Ops that mix the rows of a batch, and the layers beside them, are left alone. Outputs are those
    of the program up to the rounding of products and of sums of weight gradients.
    """
    graph = _Graph(program, program.lines, {})
    for rules in [
        (_tidy, _reuse, _merge_parts, _merge_placed, _merge_products, _merge_concatenated),
        (_tidy, _merge_sums),
    ]:
        while (lines := next(filter(None, (rule(graph) for rule in rules)), None)) is not None:
            graph = _Graph(program, ordered(lines), graph.aparts)
    return program.with_lines(graph.lines)


def ordered(lines):
    """The lines, each after those whose results it uses, and otherwise in the order they have.

    A line that comes too late moves up, with those that it needs, to the first that uses it.

    Raises: ValueError if lines use each other's results in a circle.
    """
    line_of = {line.result: line for line in lines}
    found, begun = {}, set()
    for line in lines:
        stack = [line]
        while stack:
            top = stack[-1]
            needed = [line_of[a] for a in top.operands if a in line_of and line_of[a] not in found]
            if not needed or top in found:
                stack.pop()
                found[top] = None
                continue
            if top in begun:
                raise ValueError(
                    f"ordered: {top.op.__name__}, called from {top.source or 'no known place'}, "
                    "needs its own result; expected lines without a circle. A pass has made a line "
                    "depend on itself"
                )
            begun.add(top)
            stack += reversed(needed)
    return list(found)


class _Rows(NamedTuple):
    """Consecutive rows of an array."""

    whole: Value
    start: int
    stop: int

    @property
    def nbytes(self):
        return self.whole.nbytes // max(1, self.whole.shape[0]) * (self.stop - self.start)


class _Graph:
    """Lines in their order, and what the rules ask about them."""

    def __init__(self, program, lines, aparts):
        self.lines = list(lines)
        self.outputs = set(program.outputs)
        self.aparts = aparts  # {line: what _apart says of it}, found once
        self.line_of, self.place_of, self.users = {}, {}, defaultdict(list)
        self.below = {}  # {value: which lines it depends on, itself included, as bits}
        self.update = {}  # {line: how often updates had begun or ended before it}
        self.concatenations = []
        self.parts = set()  # of concatenations and stacks
        self.value_of = {}  # {rows of an array: the value that they are}
        self.start_of = {}  # {value: its rows in a concatenation}
        self._fill()
        self.groups = _groups(self)

    def _fill(self):
        count = 0
        for i, line in enumerate(self.lines):
            y = line.result
            self.line_of[y], self.place_of[y] = line, i
            for a in line.operands:
                self.users[a].append(line)
            if i and (line.phase == "update") != (self.lines[i - 1].phase == "update"):
                count += 1
            self.update[line] = count
            if line.op is ops.index and y.shape:
                self.value_of.setdefault(self.rows(y), y)
            self.note(line)

    def note(self, line):
        """What a line depends on, and if it is a concatenation, its parts."""
        y = line.result
        self.below[y] = 1 << self.place_of[y] if y in self.place_of else 0
        for a in line.operands:
            self.below[y] |= self.below.get(a, 0)
        if line.op in (ops.concatenate, ops.stack):
            self.parts.update(line.operands)
        if _is_end_to_end(line):
            self.concatenations.append((line, [self.rows(a) for a in line.args]))
            start = 0
            for a in line.args:
                self.start_of.setdefault(a, _Rows(y, start, start + a.shape[0]))
                start += a.shape[0]

    def depends(self, value, line):
        """Whether a value is computed from a line's result, or is it."""
        return bool(self.below.get(value, 0) >> self.place_of[line.result] & 1)

    def independent(self, line, others):
        return not any(
            self.depends(line.result, other) or self.depends(other.result, line) for other in others
        )

    def rows(self, value):
        """Where a value's rows are: in an array that it is an index of, or in itself."""
        line = self.line_of.get(value)
        if line is not None and line.op is ops.index and line.args[0].shape:
            found = _consecutive(line.params["at"], line.args[0].shape[0])
            if found is not None:
                whole, start, _ = self.rows(line.args[0])
                return _Rows(whole, start + found[0], start + found[1])
        return _Rows(value, 0, value.shape[0])

    def place(self, value):
        """Where a value's rows are in the concatenation that their array is a part of, if any."""
        rows = self.rows(value)
        start = self.start_of.get(rows.whole)
        if start is None:
            return rows
        return _Rows(start.whole, start.start + rows.start, start.start + rows.stop)

    def runs(self, values, lines):
        """The values' rows, one after the other, as few runs of rows.

        They are rows of an array or of a concatenation that is there already, unless that depends
        on the lines, which are to use them.
        """
        found, rest = [], _joined([self.rows(a) for a in values])
        while rest:
            best, used = rest[0], 1
            for line, parts in self.concatenations:
                for k, part in enumerate(parts):
                    n = _common(parts[k:], rest) if part == rest[0] else 0
                    if n > used and not any(self.depends(line.result, other) for other in lines):
                        start = _length(parts[:k])
                        best = _Rows(line.result, start, start + _length(parts[k : k + n]))
                        used = n
            found.append(best)
            rest = rest[used:]
        return _joined(found)

    def copied(self, runs):
        """For each run, the bytes to be copied if the runs are put end to end."""
        if len(runs) == 1:
            return [0]
        return [0 if self._free(run) and runs.count(run) == 1 else run.nbytes for run in runs]

    def _free(self, run):
        """Whether the line that makes the rows can write them into their place."""
        line = self.line_of.get(run.whole)
        return (
            line is not None
            and run == _Rows(run.whole, 0, run.whole.shape[0])
            and line.op not in _VIEWS
            and run.whole not in self.outputs
            and run.whole not in self.parts
        )

    def apart(self, line):
        """What :func:`_apart` says of a line."""
        if line not in self.aparts:
            self.aparts[line] = _apart(line)
        return self.aparts[line]

    def changed(self, changes):
        """The lines after changes: (old lines, new lines, the line in whose place these stand)."""
        new_at = {at: new for _, new, at in changes}
        gone = {line for old, _, _ in changes for line in old}
        found = []
        for line in self.lines:
            found += new_at.get(line, ())
            if line not in gone:
                found.append(line)
        return found


def _is_end_to_end(line):
    return line.op is ops.concatenate and line.params.get("axis", 0) % len(line.result.shape) == 0


def _consecutive(at, n):
    """(start, stop) if an index takes consecutive rows of n, and all of each, else None."""
    first, *others = at if isinstance(at, tuple) and at else (at,)
    if not isinstance(first, slice) or any(other != slice(None) for other in others):
        return None
    start, stop, step = first.indices(n)
    return (start, stop) if step == 1 and start < stop else None


def _joined(runs):
    """The runs, with those as one that follow each other in their array."""
    found = []
    for run in runs:
        if found and found[-1].whole is run.whole and found[-1].stop == run.start:
            found[-1] = found[-1]._replace(stop=run.stop)
        else:
            found.append(run)
    return found


def _common(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def _length(runs):
    return sum(run.stop - run.start for run in runs)


def _array(graph, runs, like, new):
    """The value that holds the runs end to end; the lines that make it are added to ``new``."""
    values = []
    for run in runs:
        value, start, stop = run
        if run in graph.value_of:
            value = graph.value_of[run]
        elif (start, stop) != (0, value.shape[0]):
            value = Value((stop - start, *value.shape[1:]), value.dtype)
            new.append(_made(ops.index, (run.whole,), {"at": slice(start, stop)}, value, like))
        values.append(value)
    if len(values) == 1:
        return values[0]
    y = Value((_length(runs), *values[0].shape[1:]), values[0].dtype)
    new.append(_made(ops.concatenate, tuple(values), {}, y, like))
    return y


def _arrays(graph, several, like, new):
    """The same for several lists of runs; for equal ones it is one value: gate(a, a) stays so."""
    made = {}
    for runs in map(tuple, several):
        if runs not in made:
            made[runs] = _array(graph, runs, like, new)
        yield made[runs]


def _made(op, args, params, result, like):
    return Line(op, args, params, result, like.phase, like.layer, like.source)


# Lines that treat rows apart


class _Apart(NamedTuple):
    """What a line that treats rows apart must share with another to be merged with it."""

    key: tuple
    batches: tuple  # the positions of the arguments that are batches


def _apart(line):
    """The :class:`_Apart` of a line, or None if it does not treat rows apart."""
    op, params, y = line.op, line.params, line.result
    if not y.shape or op.mixes_samples(params):
        return None
    n, static = y.shape[0], tuple(sorted((k, repr(v)) for k, v in params.items()))
    if op in _PRODUCTS:
        batches = 1
        if op is ops.matmul:
            if params.get("ta") or len(line.args[1].shape) != 2:
                return None
            static = bool(params.get("tb"))
    elif op in _NORMS and 0 not in params["axes"]:
        batches = _NORMS[op]
    elif op in _REDUCTIONS and _leaves_rows(params.get("axis"), len(line.args[0].shape)):
        batches = 1
    elif op in _SHAPES and len(line.args[0].shape) and _keeps_rows(line):
        batches, static = 1, ()
    elif op in _ELEMENTWISE:
        batches = None
    else:
        return None
    if batches is None:
        at = [i for i, a in enumerate(line.args) if type(a) is Value and _has_rows(a, y)]
    else:
        at = list(range(batches))
    if not at or any(_shape(line.args[i])[:1] != (n,) for i in at):
        return None
    pattern = tuple(
        (a.shape[1:], a.dtype) if i in at else a if type(a) is Value else (type(a), repr(a))
        for i, a in enumerate(line.args)
    )
    return _Apart((op, static, y.shape[1:], y.dtype, pattern), tuple(at))


def _shape(a):
    return a.shape if type(a) is Value else ()


def _has_rows(a, y):
    return len(a.shape) == len(y.shape) and a.shape[0] == y.shape[0]


def _leaves_rows(axis, ndim):
    axes = () if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return axis is not None and all(i % ndim for i in axes)


def _keeps_rows(line):
    a, y = line.args[0], line.result
    return a.shape[0] == y.shape[0] and (line.op is ops.reshape or len(a.shape) == len(y.shape))


def _groups(graph):
    """Lines that could be merged by what they are: lists of (line, positions of its batches)."""
    found = defaultdict(list)
    for line in graph.lines:
        # A result of the step has memory of its own: it stays a line's result.
        if line.result not in graph.outputs:
            apart = graph.apart(line)
            if apart is not None:
                found[apart.key].append((line, apart.batches))
    return [group for group in found.values() if len(group) > 1]


def _merged(graph, group, batches, runs):
    """The change that makes the group one line, and its results rows of that one's.

    ``runs`` holds the rows of each of the batches.
    """
    last = max(group, key=lambda line: graph.place_of[line.result])
    like, new = group[0], []
    args, n = list(like.args), sum(line.result.shape[0] for line in group)
    for i, a in zip(batches, _arrays(graph, runs, like, new), strict=True):
        args[i] = a
    y = Value((n, *like.result.shape[1:]), like.result.dtype)
    params = dict(like.params, shape=y.shape) if like.op in _SHAPES else like.params
    new.append(replace(like, args=tuple(args), params=params, result=y))
    start = 0
    for line in group:
        stop = start + line.result.shape[0]
        new.append(_made(ops.index, (y,), {"at": slice(start, stop)}, line.result, line))
        start = stop
    return group, new, last


def _near(graph, group):
    """The lines of a group that can be merged without large results lying about.

    Lines on both sides of an update are merged if all results fit the cache; else those that stand
    on the last one's side.
    """
    if sum(line.result.nbytes for line in group) <= CACHE:
        return group
    side = graph.update[max(group, key=lambda line: graph.place_of[line.result])]
    return [line for line in group if graph.update[line] == side]


# The rules. Each gives the lines after what it changes, or None if there is nothing to change.


def _tidy(graph):
    """Whole arrays for what is them, cut or put together; concatenations once; nothing unused."""
    lines, other, known = [], {}, {}
    for line in graph.lines:
        y, new, whole = line.result, [], None
        if any(a in other for a in line.operands):
            line = _using(line, other)  # and the next time it is looked at
        elif line.op is ops.index and _is_all(graph, line):
            whole = line.args[0]
        elif _is_end_to_end(line):
            runs = tuple(_joined([part for a in line.args for part in _parts(graph, a)]))
            if runs in known:
                whole = known[runs]
            elif len(runs) != len(line.args):
                whole = _array(graph, runs, line, new)
            known.setdefault(runs, y if whole is None else whole)
        if whole is None or y in graph.outputs:
            lines.append(line)
        else:
            other[y] = other.get(whole, whole)
            lines += [_using(each, other) for each in new]
    used, kept = set(graph.outputs), []
    for line in reversed(lines):
        if line.result in used or line.op not in (ops.index, ops.concatenate):
            used.update(line.operands)
            kept.append(line)
    return kept[::-1] if other or len(kept) < len(graph.lines) else None


def _using(line, other):
    """A line with other values for some of its arguments."""
    return replace(line, args=tuple(other.get(a, a) for a in line.args))


def _is_all(graph, line):
    """Whether an index takes all there is."""
    return line.result.shape == line.args[0].shape and bool(
        _consecutive(line.params["at"], line.args[0].shape[0])
    )


def _parts(graph, value):
    """The rows that a concatenation's part is made of: its own parts, if it is only that."""
    line = graph.line_of.get(value)
    inner = line is not None and _is_end_to_end(line) and value not in graph.outputs
    if inner and len(graph.users[value]) == 1:
        return [part for a in line.args for part in _parts(graph, a)]
    return [graph.rows(value)]


def _reuse(graph):
    """Lines on rows that are among another's: rows of its result, in place of being made twice."""
    for found in _on_arrays(graph, graph.place):
        for line, _, rows in found:
            for other, _, theirs in found:
                earlier = graph.place_of[other.result] < graph.place_of[line.result]
                if (
                    other is not line
                    and (earlier or rows != theirs)
                    and not graph.depends(other.result, line)
                    and _within(rows, theirs)
                ):
                    start = rows[0].start - theirs[0].start
                    at = {"at": slice(start, start + line.result.shape[0])}
                    new = _made(ops.index, (other.result,), at, line.result, line)
                    return graph.changed([([line], [new], line)])
    return None


def _within(rows, others):
    """Whether rows of each array are among others, at the same place in each."""
    pairs = list(zip(rows, others, strict=True))
    among = all(b.start <= a.start and a.stop <= b.stop for a, b in pairs)
    return among and len({a.start - b.start for a, b in pairs}) == 1


def _merge_parts(graph):
    """Lines that have consecutive rows of the same arrays: one line on all the rows.

    All groups at once: the lines of a group depend on the same arrays, so that no two groups can
    need each other's results.
    """
    changes, merged = [], set()
    for found in _on_arrays(graph, graph.rows):
        for chosen, batches in _consecutive_lines(graph, found):
            if not merged.intersection(chosen):
                runs = [graph.runs([line.args[i] for line in chosen], chosen) for i in batches]
                changes.append(_merged(graph, chosen, batches, runs))
                merged.update(chosen)
    return graph.changed(changes) if changes else None


def _merge_placed(graph):
    """The same for lines whose batches are parts of a concatenation."""
    for found in _on_arrays(graph, graph.place):
        for chosen, batches in _consecutive_lines(graph, found):
            runs = [graph.runs([line.args[i] for line in chosen], chosen) for i in batches]
            if all(len(run) == 1 for run in runs):
                return graph.changed([_merged(graph, chosen, batches, runs)])
    return None


def _on_arrays(graph, where):
    """Lines that could be merged and whose batches are rows of the same arrays.

    Each as (line, positions of its batches, their rows), by the first batch's rows.
    """
    for group in graph.groups:
        by_arrays = defaultdict(list)
        for line, batches in group:
            rows = [where(line.args[i]) for i in batches]
            by_arrays[tuple(part.whole for part in rows)].append((line, batches, rows))
        for found in by_arrays.values():
            if len(found) > 1:
                yield sorted(found, key=lambda entry: entry[2][0].start)


def _consecutive_lines(graph, found):
    """(lines, positions of their batches) where each batch goes on where the line before ends."""
    near = _near(graph, [line for line, _, _ in found])
    found = [entry for entry in found if entry[0] in near]
    for k, (first, batches, at) in enumerate(found):
        chosen = [first]
        for line, _, rows in found[k + 1 :]:
            if all(a.stop == b.start for a, b in zip(at, rows, strict=True)):
                chosen.append(line)
                at = rows
        if len(chosen) > 1:
            yield chosen, batches


def _merge_products(graph):
    """Products of several batches with the same weights: one product."""
    for group in graph.groups:
        if group[0][0].op not in _PRODUCTS:
            continue
        lines = _near(graph, [line for line, _ in group if not _beside_mixing(graph, line)])
        lines = _in_order(graph, _without_paths(graph, lines))
        if len(lines) < 2:
            continue
        saved = CALL + sum(a.nbytes for a in lines[0].args[1:] if type(a) is Value)
        lines = [line for line in lines if _cost(graph, lines, line) <= saved]
        runs = graph.runs([line.args[0] for line in lines], lines)
        if len(lines) > 1 and 2 * sum(graph.copied(runs)) <= (len(lines) - 1) * saved:
            return graph.changed([_merged(graph, lines, (0,), [runs])])
    return None


def _cost(graph, lines, line):
    """The bytes read and written for a line's batch to stand among those of the others."""
    runs = graph.runs([other.args[0] for other in lines], lines)
    rows = graph.rows(line.args[0])
    costs = zip(runs, graph.copied(runs), strict=True)
    return sum(2 * copied for run, copied in costs if run == rows)


def _without_paths(graph, lines):
    """Lines that do not depend on each other, the last ones first, each with rows of its own.

    If the gradients of one batch are there twice, the later ones, which the gradients of the
    weights are made of, go with the other batches: their factors are then the rows of one array.
    """
    chosen, met = [], []
    for line in reversed(lines):
        rows = _meets(graph, line)
        if graph.independent(line, chosen) and not any(_overlap(rows, other) for other in met):
            chosen.append(line)
            met += [] if rows is None else [rows]
    return chosen[::-1]


def _overlap(a, b):
    return a is not None and a.whole is b.whole and a.start < b.stop and b.start < a.stop


def _in_order(graph, lines):
    """The lines in the order of the rows that they meet, if they all do; else in the program's."""
    rows = {line: _meets(graph, line) for line in lines}
    if None in rows.values():
        return lines
    return sorted(lines, key=lambda line: (graph.place_of.get(rows[line].whole, -1), rows[line]))


def _meets(graph, line):
    """The rows of a larger array that a line's result meets next: of the gate's mask, mostly."""
    value = line.result
    while True:
        following = None
        for user in graph.users[value]:
            apart = None if user.op in _PRODUCTS else graph.apart(user)
            for i in apart.batches if apart is not None else ():
                rows = graph.rows(user.args[i])
                if user.args[i] is not value and rows.whole is not user.args[i]:
                    return rows
            if apart is not None and user.operands == [value]:
                following = user.result
        if following is None:
            return None
        value = following


def _beside_mixing(graph, line):
    """Whether there is nothing but element-wise lines between a line and one that mixes rows.

    To merge it would only mean that its result is cut again at once.
    """
    met, ways = {line}, [(line, True), (line, False)]
    while ways:
        here, down = ways.pop()
        if down:
            beside = graph.users[here.result]
        else:
            operands = here.operands[:1] if here.op in _PRODUCTS else here.operands
            beside = [graph.line_of[a] for a in operands if a in graph.line_of]
        for other in beside:
            if other.op in _NORMS and 0 in other.params["axes"]:
                return True
            if other.op.mixes_samples(other.params):
                return True
            if other not in met and other.op in _ELEMENTWISE | _SHAPES:
                met.add(other)
                ways.append((other, down))
    return False


def _merge_concatenated(graph):
    """Lines whose results stand end to end in a concatenation: one line on their batches."""
    for concatenation, _ in graph.concatenations:
        lines = [graph.line_of.get(a) for a in concatenation.args]
        aparts = [None if line is None else graph.apart(line) for line in lines]
        for i, apart in enumerate(aparts):
            j = i
            while apart is not None and j < len(lines) and aparts[j] == apart:
                j += 1
            group = lines[i:j]
            if len(group) < 2 or len(set(group)) < len(group):
                continue
            if any(line.result in graph.outputs for line in group):
                continue
            if not all(graph.independent(a, group[:k]) for k, a in enumerate(group)):
                continue
            runs = [graph.runs([line.args[k] for line in group], group) for k in apart.batches]
            if not any(sum(graph.copied(run)) for run in runs):
                return graph.changed([_merged(graph, group, apart.batches, runs)])
    return None


# Sums over rows


def _merge_sums(graph):
    """Terms of a sum that are themselves sums over rows: one sum over all rows.

    All sums at once: what they were made of, nothing else uses.
    """
    changes = []
    for root in graph.lines:
        if root.op is not ops.add or _is_inner(graph, root):
            continue
        terms = _terms(graph, root)
        by_key = defaultdict(list)
        for term in terms:
            line = graph.line_of.get(term)
            if line is not None and len(graph.users[term]) == 1 and term not in graph.outputs:
                key = _sum_key(line)
                if key is not None:
                    by_key[key].append(line)
        joined = [
            lines
            for same in by_key.values()
            for lines in _fewest(graph, [(line,) for line in same], root)
            if len(lines) > 1
        ]
        if joined:
            changes.append(_with_sums(graph, root, terms, joined))
            for line in changes[-1][1]:
                graph.note(line)  # the next sum may use what stands end to end now
    return graph.changed(changes) if changes else None


def _is_inner(graph, line):
    """Whether a line is an addition within a larger sum, and nothing else."""
    users = graph.users[line.result]
    return (
        line.op is ops.add
        and len(users) == 1
        and users[0].op is ops.add
        and all(_shape(a) == line.result.shape for a in (*line.args, users[0].result))
        and line.result not in graph.outputs
    )


def _terms(graph, line):
    """The terms of a sum, from left to right."""
    found = []
    for a in line.args:
        inner = graph.line_of.get(a) if type(a) is Value else None
        if inner is not None and _is_inner(graph, inner):
            found += _terms(graph, inner)
        else:
            found.append(a)
    return found


def _sum_key(line):
    """What sums over rows must share to be one, or None if the line is no such sum."""
    if line.op not in _SUMS:
        return None
    shapes = [a.shape for a in line.args]
    if line.op is ops.matmul:
        flags = line.params.get("ta"), line.params.get("tb")
        if not flags[0] or flags[1] or any(len(shape) != 2 for shape in shapes):
            return None
    if line.op is ops.sum_to and len(shapes[0]) <= len(line.result.shape):
        return None
    static = () if line.op is ops.matmul else tuple(sorted(line.params.items()))
    return line.op, static, line.result.shape, line.result.dtype, tuple(s[1:] for s in shapes)


def _fewest(graph, sums, root):
    """The sums, tuples of lines, joined two by two for as long as that saves bytes."""
    saved = 2 * CALL + 4 * root.result.nbytes
    costs = {found: _cost_of_rows(graph, found, root) for found in sums}
    while len(sums) > 1:
        pairs = [(a, b) for a in sums for b in sums if a is not b]
        gains = []
        for a, b in pairs:
            if a + b not in costs:
                costs[a + b] = _cost_of_rows(graph, a + b, root)
            gains.append(saved + costs[a] + costs[b] - costs[a + b])
        best = max(range(len(pairs)), key=gains.__getitem__)  # the first of equals
        if gains[best] < 0:
            break
        a, b = pairs[best]
        sums = [a + b if found is a else found for found in sums if found is not b]
    return sums


def _cost_of_rows(graph, lines, root):
    """The bytes that it costs to have the lines' rows end to end."""
    cost = 0
    for position in range(len(lines[0].args)):
        runs = graph.runs([line.args[position] for line in lines], [root])
        if len(runs) > 1:
            nbytes = sum(run.nbytes for run in runs)
            cost += 2 * sum(graph.copied(runs)) + (nbytes if nbytes > CACHE else 0)
    return cost


def _with_sums(graph, root, terms, joined):
    """The change that joins terms of a sum, tuples of lines, and adds up from left to right."""
    old, new, rest = [root, *_additions(graph, root)], [], list(terms)
    for lines in joined:
        like = replace(lines[0], phase=root.phase)
        batches = zip(*(line.args for line in lines), strict=True)
        runs = [graph.runs(batch, [root]) for batch in batches]
        y = Value(like.result.shape, like.result.dtype)
        new.append(replace(like, args=tuple(_arrays(graph, runs, like, new)), result=y))
        first = min(rest.index(line.result) for line in lines)
        gone = {line.result for line in lines}
        rest = [a for a in (*rest[:first], y, *rest[first:]) if a not in gone]
        old += lines
    total = rest[0]
    for a in rest[1:]:
        y = Value(root.result.shape, root.result.dtype)
        new.append(replace(root, args=(total, a), result=y))
        total = y
    new[-1] = replace(new[-1], result=root.result)
    return old, new, root


def _additions(graph, line):
    """The additions within a sum."""
    inner = [graph.line_of.get(a) for a in line.args]
    inner = [a for a in inner if a is not None and _is_inner(graph, a)]
    return inner + [b for a in inner for b in _additions(graph, a)]
