"""What eager rules leave behind, removed: the same numbers from fewer calls.

A rule is a function of a call, and gives the value that may stand in its place: one that is there
already, or the result of a simpler call. :func:`simplify` goes through a program with :data:`RULES`
until none applies.

Exact means: the same bits, where one NaN is as good as another. Sums are exact only in the same
order, and NumPy adds up in the order of memory: where an operand comes to lie in another order (a
transposed view does), the sums over it are those of the same numbers in another order.
"""

import math
from dataclasses import replace
from operator import is_

import numpy as np

from tinygan import ops
from tinygan import tree as trees
from tinygan.replay.program import Value

ARITHMETIC = {ops.add, ops.subtract, ops.multiply, ops.divide}
COMMUTATIVE = {ops.add, ops.multiply}  # bit for bit; a maximum of 0 and −0 is not
# Calls that treat each element by itself and broadcast as NumPy does. The gate is left out: its
# fast paths want both of its arguments in one shape.
ELEMENTWISE = ARITHMETIC | {
    ops.negative, ops.square, ops.power_number, ops.exp, ops.expm1, ops.log, ops.log1p, ops.sqrt,
    ops.rsqrt, ops.tanh, ops.sigmoid, ops.softplus, ops.sign, ops.abs, ops.share, ops.maximum,
    ops.minimum, ops.inside, ops.clip, ops.where, ops.equal, ops.greater, ops.greater_equal,
    ops.less, ops.less_equal, ops.ratio,
}  # fmt: skip


def simplify(program):
    """The program with :data:`RULES` applied until none applies, and equal calls made once.

    Results are the same bits, but for what two rules say: :func:`joined_places` (a −0 stays) and
    :func:`doubled_factor` (no overflow on the way).
    What is no longer used stays until :func:`tinygan.replay.passes.dead_code`.
    """
    while True:
        simpler = rewrite(program, RULES)
        if simpler is program:
            return program
        program = simpler


def rewrite(program, rules):
    """The program written anew, line by line, by ``rules``; itself if there is nothing to change.

    Calls that are equal (primitive, arguments, static arguments) are made once. A result of the
    program stays an array of its own: where another would do, it becomes a copy of that.
    """
    writer = Writer(program, rules)
    for line in program.lines:
        writer.take(line)
    if len(writer.lines) == len(program.lines) and all(map(is_, writer.lines, program.lines)):
        return program
    results = trees.tree_map(
        lambda a: writer.results.get(a, a) if type(a) is Value else a, program.results
    )
    return replace(program, lines=tuple(writer.lines), results=results, _numbers={})


class Writer:
    """A program as it is written anew; what a rule may ask, and how it makes a call.

    Attributes:
        lines: those written so far.
        uses: {value: the lines so far that use it}.
        became: {value of the old program: the one in its place}, where they differ.
        results: {leaf of the old results: the one in its place}.
    """

    def __init__(self, program, rules):
        self.constants, self.rules = program.constants, rules
        self.lines, self.uses, self.became, self.results = [], {}, {}, {}
        self._outputs = set(program.outputs)
        self._taken = {*program.inputs, *program.constants}  # not to be given away as a result
        self._place = {v: i for i, v in enumerate([*program.inputs, *program.constants])}
        self._made, self._known, self._uniform = {}, {}, {}
        self._line = None

    def take(self, line):
        """Write a line of the old program, or let another value stand for its result."""
        args = tuple(self.became.get(a, a) for a in line.args)
        if not all(map(is_, args, line.args)):
            line = replace(line, args=args)
        self._line, old = line, line.result
        value = self._simplest(line)
        if value is not old:
            self.became[old] = value
        if old in self._outputs:
            if value in self._taken:
                value = self._copy(value)
            self._taken.add(value)
            self.results[old] = value

    def call(self, op, args, shape, params=None):
        """The value of a call in its simplest form; it is from where the line in hand is from.

        Shapes: ``shape`` is the result's; its dtype is that of the line in hand.
        """
        result = Value(tuple(shape), self._line.result.dtype)
        return self._simplest(
            replace(self._line, op=op, args=tuple(args), params=params or {}, result=result)
        )

    def broadcast(self, a, shape):
        """``a``, or a broadcast of it if it does not have the shape."""
        return a if a.shape == shape else self.call(ops.broadcast_to, (a,), shape, {"shape": shape})

    def by(self, a, op):
        """The line that makes ``a``, if it is a call of ``op``, else None."""
        line = self._made.get(a)
        return line if line is not None and line.op is op else None

    def number(self, a):
        """The number that a float constant holds in all its places, or None."""
        if a not in self.constants:
            return None
        if a not in self._uniform:
            self._uniform[a] = _uniform(self.constants[a])
        return self._uniform[a]

    def _simplest(self, line):
        for rule in self.rules:
            value = rule(self, line)
            if value is not None:
                return value
        key = self._key(line)
        if key not in self._known:
            self._known[key] = line.result
            self._append(line)
        return self._known[key]

    def _append(self, line):
        self.lines.append(line)
        self._made[line.result] = line
        self._place[line.result] = len(self._place)
        for a in line.operands:
            self.uses.setdefault(a, []).append(line)

    def _copy(self, value):
        line, shape = self._line, value.shape
        if line.op is not ops.broadcast_to or line.args != (value,):
            result = Value(shape, value.dtype)
            line = replace(
                line, op=ops.broadcast_to, args=(value,), params={"shape": shape}, result=result
            )
        self._append(line)
        return line.result

    def _key(self, line):
        """What is the same for two calls exactly if they are the same."""
        args = [
            self._place[a] if type(a) is Value else (type(a).__name__, repr(a)) for a in line.args
        ]
        if line.op in COMMUTATIVE:
            args.sort(key=str)
        defaults = getattr(line.op.fn, "__kwdefaults__", None) or {}
        params = {name: frozen(value) for name, value in line.params.items()}
        given = {n: p for n, p in params.items() if n not in defaults or p != frozen(defaults[n])}
        return line.op, tuple(args), tuple(sorted(given.items()))


def frozen(param):
    """A static argument as something to compare and to look up; texts and tuples."""
    if getattr(param, "shape", None) is not None and hasattr(param, "tobytes"):
        return str((param.shape, param.dtype, param.tobytes()))
    if isinstance(param, (tuple, list)):
        return str([type(param).__name__, *map(frozen, param)])
    return f"{type(param).__name__} {param!r}"


def _uniform(array):
    if array.dtype.kind != "f" or array.size == 0:
        return None
    first = array.reshape(-1)[:1]
    if bool(((array == first) & (np.signbit(array) == np.signbit(first))).all()):
        return first.item()
    return None


# The rules. Each gets the writer and a line whose arguments are in their simplest form already, and
# gives a value or None.


def nested_broadcasts(writer, line):
    """Two broadcasts → the last; one to the shape that is there → its argument. Exact: copies."""
    if line.op is not ops.broadcast_to:
        return None
    (a,), shape = line.args, line.result.shape
    if a.shape == shape:
        return a
    first = writer.by(a, ops.broadcast_to)
    return first and writer.broadcast(first.args[0], shape)


def transposed_factor(writer, line):
    """matmul(transpose(a), b) → matmul(a, b, ta). The flag makes the same view: exact."""
    if line.op is not ops.matmul:
        return None
    for i, flag in enumerate(("ta", "tb")):
        turn = writer.by(line.args[i], ops.transpose)
        if turn is None:
            continue
        n = len(turn.result.shape)
        if _axes(turn) == (*range(n - 2), n - 1, n - 2):
            params = line.params | {flag: not line.params.get(flag, False)}
            args = _with(line.args, i, turn.args[0])
            return writer.call(ops.matmul, args, line.result.shape, params)
    return None


def _axes(line):
    n, axes = len(line.result.shape), line.params.get("axes")
    return tuple(reversed(range(n))) if axes is None else tuple(int(k) % n for k in axes)


def sum_of_broadcast(writer, line):
    """The sum over just the axes along which a was repeated n times → a·n.

    Not the same bits: n·a is rounded once, where the sum of n terms is rounded n − 1 times.
    """
    if line.op not in (ops.sum, ops.sum_to):
        return None
    repeat = writer.by(line.args[0], ops.broadcast_to)
    if repeat is None or repeat.result.dtype != line.result.dtype or line.result.dtype.kind != "f":
        return None
    (a,), shape = repeat.args, repeat.result.shape
    if repeat.result.size == 0:
        return None
    if _lengthened((1,) * (len(shape) - len(a.shape)) + a.shape, shape) != _summed(line, shape):
        return None
    y = writer.call(ops.multiply, (a, float(math.prod(shape) // a.size)), a.shape)
    if y.shape == line.result.shape:
        return y
    return writer.call(ops.reshape, (y,), line.result.shape, {"shape": line.result.shape})


def _summed(line, shape):
    """The axes, of more than one element, over which a sum runs."""
    if line.op is ops.sum_to:
        to = line.params["shape"]
        return _lengthened((1,) * (len(shape) - len(to)) + tuple(to), shape)
    axis = line.params.get("axis")
    axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return {i % len(shape) for i in axes if shape[i] != 1}


def _lengthened(shape, to):
    return {i for i, (n, m) in enumerate(zip(shape, to, strict=True)) if n != m}


def broadcast_operands(writer, line):
    """multiply(broadcast_to(a), b) → multiply(a, b): NumPy broadcasts by itself. Exact.

    Where b is no larger than a, the product is, and is broadcast afterwards.
    """
    if line.op not in ELEMENTWISE:
        return None
    repeats = [writer.by(a, ops.broadcast_to) for a in line.args]
    if not any(repeats):
        return None
    args = [a if r is None else r.args[0] for a, r in zip(line.args, repeats, strict=True)]
    shape = np.broadcast_shapes(*(a.shape for a in args if type(a) is Value))
    return writer.broadcast(writer.call(line.op, args, shape, line.params), line.result.shape)


def uniform_constant(writer, line):
    """Arithmetic with a constant array that is one number throughout → with the number. Exact.

    The number has the array's dtype exactly; NumPy rounds it to that dtype again.
    """
    if line.op not in ARITHMETIC or len(line.operands) < 2:
        return None
    for i, a in enumerate(line.args):
        number, other = writer.number(a), line.args[1 - i]
        if number is not None and a.dtype == other.dtype:
            y = writer.call(line.op, _with(line.args, i, number), other.shape)
            return writer.broadcast(y, line.result.shape)
    return None


def number_second(writer, line):
    """multiply(c, a) → multiply(a, c), likewise sums, so that other rules need not look. Exact."""
    if line.op not in COMMUTATIVE or type(line.args[0]) is Value or type(line.args[1]) is not Value:
        return None
    return writer.call(line.op, line.args[::-1], line.result.shape)


def neutral_number(writer, line):
    """a·1, a/1, a − 0 → a. Exact; a + 0 is not, for it makes 0 of −0."""
    if line.op not in ARITHMETIC or type(line.args[1]) is Value:
        return None
    a, number = line.args
    neutral = number == 1 if line.op in (ops.multiply, ops.divide) else _is_plus_zero(number)
    if line.op is ops.add or not neutral or not _same_kind(a, line.result):
        return None
    return a


def _is_plus_zero(number):
    return number == 0 and math.copysign(1, number) == 1


def doubled_factor(writer, line):
    """multiply(multiply(a, c), d) → multiply(a, c·d) for c = ±1, ±2, ±4, …: square's rule has 2.

    Such a c does not round a·c, and so a·(c·d) is rounded as (a·c)·d is. Exact but where a·c
    overflows: (a·c)·d is infinite, while a·(c·d) need not be.
    """
    if line.op is not ops.multiply or line.result.dtype.kind != "f":
        return None
    first = writer.by(line.args[0], ops.multiply)
    if first is None or not all(map(_is_float, (first.args[1], line.args[1]))):
        return None
    (a, c), d = first.args, line.args[1]
    if math.frexp(abs(c))[0] != 0.5 or abs(c) < 1:
        return None
    limits = np.finfo(line.result.dtype)
    if abs(d) < float(limits.smallest_normal) or abs(c * d) > float(limits.max):
        return None  # d and c·d are rounded to the dtype, and must keep all their digits
    return writer.call(ops.multiply, (a, c * d), line.result.shape)


def double_negative(writer, line):
    """−(−a) → a. Exact: the sign is a bit."""
    first = writer.by(line.args[0], ops.negative) if line.op is ops.negative else None
    return first and first.args[0]


def sum_with_negative(writer, line):
    """a + (−b) → a − b; (−a) + b → b − a; a − (−b) → a + b. Exact: IEEE 754 defines them so."""
    if line.op not in (ops.add, ops.subtract) or line.result.dtype.kind != "f":
        return None
    a, b = line.args
    other = {ops.add: ops.subtract, ops.subtract: ops.add}[line.op]
    right, left = writer.by(b, ops.negative), writer.by(a, ops.negative)
    if right is not None:
        return writer.call(other, (a, right.args[0]), line.result.shape)
    if left is not None and line.op is ops.add:
        return writer.call(ops.subtract, (b, left.args[0]), line.result.shape)
    return None


def product_of_negatives(writer, line):
    """(−a)·(−b) → a·b; (−a)·c → a·(−c) and −(a·c) → a·(−c) for numbers c.

    Exact: rounding does not see the sign.
    """
    if line.result.dtype.kind != "f":
        return None
    if line.op is ops.negative:
        product = writer.by(line.args[0], ops.multiply)
        if product is None or not _is_float(product.args[1]):
            return None
        a, c = product.args
        return writer.call(ops.multiply, (a, -c), line.result.shape)
    if line.op is not ops.multiply:
        return None
    (a, b), left = line.args, writer.by(line.args[0], ops.negative)
    right = writer.by(b, ops.negative)
    if left is None or (right is None and not _is_float(b)):
        return None
    b = -b if right is None else right.args[0]
    return writer.call(ops.multiply, (left.args[0], b), line.result.shape)


def plain_slices(writer, line):
    """A range of one axis written in one way, so that equal parts are seen to be equal. Exact."""
    if line.op not in (ops.index, ops.place):
        return None
    whole = line.args[0].shape if line.op is ops.index else line.result.shape
    span = _span(line.params["at"], whole)
    at = span and _at(*span)
    if span is None or frozen(at) == frozen(line.params["at"]):
        return None
    return writer.call(line.op, line.args, line.result.shape, line.params | {"at": at})


def part_of_parts(writer, line):
    """A part of a part → one part; the whole → the array; a part of a concatenation → of its part;
    and of what was placed there → that. Exact: moves.
    """
    span = range_of(line)
    if span is None:
        return None
    (axis, start, stop), (a,), shape = span, line.args, line.result.shape
    if a.shape == shape:
        return a
    outer, joined, placed = (writer.by(a, op) for op in (ops.index, ops.concatenate, ops.place))
    if outer is not None and range_of(outer) is not None and range_of(outer)[0] == axis:
        shift = range_of(outer)[1]
        at = _at(axis, start + shift, stop + shift)
        return writer.call(ops.index, outer.args, shape, {"at": at})
    if joined is not None and _axis(joined) == axis:
        end = 0
        for part in joined.args:
            begin, end = end, end + part.shape[axis]
            if begin <= start and stop <= end:
                at = _at(axis, start - begin, stop - begin)
                return writer.call(ops.index, (part,), shape, {"at": at})
    if placed is not None and _span(placed.params["at"], a.shape) == span:
        return placed.args[0]
    return None


def joined_parts(writer, line):
    """A concatenation of neighbouring parts of an array → the part that they are, or the array; of
    concatenations → one; of one array → that. Exact: moves.
    """
    if line.op is not ops.concatenate:
        return None
    axis, parts = _axis(line), []
    for a in line.args:
        inner = writer.by(a, ops.concatenate)
        parts += inner.args if inner is not None and _axis(inner) == axis else [a]
    joined = parts[:1]
    for a in parts[1:]:
        both = _neighbours(writer, joined[-1], a, axis)
        joined[-1:] = [joined[-1], a] if both is None else [both]
    if len(joined) == 1:
        return joined[0]
    if tuple(joined) == line.args:
        return None
    return writer.call(ops.concatenate, joined, line.result.shape, line.params)


def _neighbours(writer, a, b, axis):
    """The part of an array that a and then b are, or None."""
    first, second = writer.by(a, ops.index), writer.by(b, ops.index)
    if first is None or second is None or first.args != second.args:
        return None
    left, right = range_of(first), range_of(second)
    if left is None or right is None or (left[0], right[0], left[2]) != (axis, axis, right[1]):
        return None
    shape = _with(a.shape, axis, right[2] - left[1])
    return writer.call(ops.index, first.args, shape, {"at": _at(axis, left[1], right[2])})


def joined_places(writer, line):
    """place(a, rows 0:k) + place(b, rows k:n) → concatenate(a, b), placed if rows are left over.

    What two slices of an array leave behind. A sum with 0 is exact, but for the sign of −0, which
    the sum makes 0 and this does not.
    """
    if line.op is not ops.add:
        return None
    places = [writer.by(a, ops.place) for a in line.args]
    if None in places:
        return None
    shape = line.result.shape
    spans = [_span(p.params["at"], shape) for p in places]
    if None in spans or spans[0][0] != spans[1][0]:
        return None
    (first, a), (second, b) = sorted(zip(spans, places, strict=True), key=lambda pair: pair[0])
    (axis, start, middle), (_, other, stop) = first, second
    if middle != other:
        return None
    part = _with(shape, axis, stop - start)
    y = writer.call(ops.concatenate, (*a.args, *b.args), part, {"axis": axis})
    if part == shape:
        return y
    return writer.call(ops.place, (y,), shape, {"at": _at(axis, start, stop), "shape": shape})


def mask_of_activation(writer, line):
    """gate(g, m) → gate(g, y) where y = gate(m, m) stands before, of a slope not below 0.

    y is positive exactly where m is: it is m itself there, and slope·m, 0, −0 or NaN elsewhere. So
    the gate of g multiplies by the same factors: exact. m is then needed no more once y is there,
    and y may take its memory. (gate(y, m) stays: gate(y, y) would be computed as a maximum.)
    """
    if line.op is not ops.gate:
        return None
    g, m = line.args
    if g is m:
        return None
    for use in writer.uses.get(m, ()):
        own = use.op is ops.gate and use.args == (m, m) and use.params["slope"] >= 0
        if own and use.result is not g:
            return writer.call(ops.gate, (g, use.result), line.result.shape, line.params)
    return None


RULES = (
    number_second,
    uniform_constant,
    neutral_number,
    double_negative,
    sum_with_negative,
    product_of_negatives,
    doubled_factor,
    transposed_factor,
    nested_broadcasts,
    sum_of_broadcast,
    broadcast_operands,
    plain_slices,
    part_of_parts,
    joined_parts,
    joined_places,
    mask_of_activation,
)


def _with(items, i, item):
    return (*items[:i], item, *items[i + 1 :])


def _same_kind(a, result):
    return type(a) is Value and a.shape == result.shape and a.dtype == result.dtype


def _is_float(a):
    return isinstance(a, float) and math.isfinite(a)


def _axis(line):
    return line.params.get("axis", 0) % len(line.result.shape)


def range_of(line):
    """(axis, start, stop) of an index that is a range of one axis, else None."""
    return _span(line.params["at"], line.args[0].shape) if line.op is ops.index else None


def _span(at, shape):
    """(axis, start, stop) where ``at`` is a range of one axis and all of the others, else None."""
    items = at if isinstance(at, tuple) else (at,)
    if not shape or len(items) > len(shape):
        return None
    if any(type(item) is not slice or item.step not in (None, 1) for item in items):
        return None
    spans = [(i, *item.indices(shape[i])[:2]) for i, item in enumerate(items)]
    cuts = [span for span in spans if span[1:] != (0, shape[span[0]])]
    if len(cuts) > 1 or any(start > stop for _, start, stop in cuts):
        return None
    return cuts[0] if cuts else (0, 0, shape[0])


def _at(axis, start, stop):
    return (slice(None),) * axis + (slice(start, stop),)
