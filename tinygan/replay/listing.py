"""A program as text: its inputs, every call with its result and its cost, the totals.

>>> import numpy as np, tinygan as tg
>>> from tinygan.replay import trace
>>> def step(w, x):
...     w = tg.track(w)
...     return tg.grad_values(tg.ops.mean(tg.ops.square(x @ w)), w)
>>> print(listing(trace(step, np.ones((2, 1)), np.ones((3, 2))), sources=False))
2 inputs, 64 B; 9 lines, 38 FLOPs, 160 B
<BLANKLINE>
inputs
  %1  w  f64[2, 1]  16 B
  %2  x  f64[3, 2]  48 B
<BLANKLINE>
constants
  %3  f64[]  8 B  1
<BLANKLINE>
       call                     result     bytes  FLOPs
── forward: 4 lines, 19 FLOPs ─────────────────────────
  %4   matmul(x, w)             f64[3, 1]   24 B     12
  %5   square(%4)               f64[3, 1]   24 B      3
  %6   sum(%5)                  f64[]        8 B      3
  %7   multiply(%6, 0.333333)   f64[]        8 B      1
── gradient: 5 lines, 19 FLOPs ────────────────────────
  %8   multiply(1, 0.333333)    f64[]        8 B      1
  %9   broadcast_to(%8)         f64[3, 1]   24 B      0
  %10  multiply(%4, 2)          f64[3, 1]   24 B      3
  %11  multiply(%9, %10)        f64[3, 1]   24 B      3
  %12  matmul(x, %11, ta=True)  f64[2, 1]   16 B     12
<BLANKLINE>
results
  result  f64[2, 1]  16 B  %12
<BLANKLINE>
totals    lines  FLOPs  bytes
  forward       4     19   64 B
  gradient      5     19   96 B
  together      9     38  160 B
"""

import re
import textwrap
from itertools import groupby

import numpy as np

from tinygan import tree as trees
from tinygan.notation import call, of_one_value, written
from tinygan.replay.program import PHASES, Value

WIDTH = 110
_HARD_SPACE = "\N{NO-BREAK SPACE}"
_MANY = 8  # of more arrays in a group the first and the last are listed


def listing(program, phases=None, sources=True):
    """The text of a program, no wider than 110 columns.

    At the top stand the inputs, in groups, and the constants; then every line: its number, the
    call, the result, the result's bytes, the operations, and where the call comes from (the layer,
    and the line of source; a gradient has those of the call whose gradient it is); at the end what
    the step returns, and the totals.

    An operand is written as its number, an input as the end of its name (a parameter of the line's
    own layer as ``weight``), a constant without axes as its value. Static arguments at their
    defaults are left out, and so is a shape that is the result's. A bracket at the left holds lines
    that are run together.

    Args:
        program: a :class:`tinygan.replay.Program`.
        phases: list only these, such as ``("second order",)``.
        sources: False leaves the lines of source out.
    Raises: ValueError for phases that are no tuple of :data:`tinygan.replay.program.PHASES`.
    """
    if phases is not None and (isinstance(phases, str) or not set(phases) <= set(PHASES)):
        raise ValueError(
            f"listing: phases is {phases!r}; expected a tuple of some of {', '.join(PHASES)}"
        )
    writer, shown = Writer(program), PHASES if phases is None else phases
    parts = [[title(program)]]
    if phases is None:
        parts += [_inputs(program), _constants(program)]
    parts.append(_lines(writer, shown, sources))
    if phases is None:
        parts.append(_results(writer))
    parts.append(_totals(program, shown))
    return "\n\n".join("\n".join(part) for part in parts if part)


def title(program):
    """A program in one line: how much goes in, and how much is done."""
    inputs = program.inputs
    return (
        f"{_counted(len(inputs), 'input')}, {in_bytes(sum(v.nbytes for v in inputs))}; "
        f"{_counted(len(program.lines), 'line')}, {in_flops(program.flops)}, "
        f"{in_bytes(program.nbytes)}"
    )


class Writer:
    """Writes the values and calls of one program."""

    def __init__(self, program):
        self.program = program
        self.names = short_names(program.inputs)

    def operand(self, a, layer=""):
        """An argument: an input's name, a constant's value, a number, or ``%7``."""
        if type(a) is not Value:
            return written(a)
        if layer and a.name and a.name.rpartition(".")[0] == layer:
            return a.name[len(layer) + 1 :]
        if a in self.names:
            return self.names[a]
        if a.shape == () and a in self.program.constants:
            return written(self.program.constants[a])
        return f"%{self.program.number(a)}"

    def call(self, line):
        """The call of a line, ``"matmul(%4, weight, tb=True)"``."""
        given = [self.operand(a, line.layer) for a in line.args]
        told = {"shape": line.result.shape, "dtype": line.result.dtype}  # beside the call
        params = {k: v for k, v in line.params.items() if k not in told or v != told[k]}
        return call(line.op, given, params)

    def line(self, line, sources=True):
        """A line and all that is known of it, in a few rows of text."""
        made = f"%{self.program.number(line.result)} = {self.call(line)}"
        cost = f"{in_bytes(line.result.nbytes)}, {in_flops(line.flops)}"
        where = ", ".join(filter(None, (line.phase, line.layer, line.source if sources else "")))
        return f"{made}\n{of_type(line.result)}, {cost}\n{where}"


def of_type(a):
    """The dtype and shape of an array: ``f32[128, 2]``."""
    dtype = np.dtype(a.dtype)
    short = dtype.kind + str(8 * dtype.itemsize) if dtype.kind in "fiu" else str(dtype)
    return f"{short}{list(a.shape)}"


def in_bytes(n):
    """A number of bytes with three digits and a unit."""
    return _scaled(n, 1024, ("B", "KiB", "MiB", "GiB"))


def in_flops(n):
    """A number of operations with three digits and a unit."""
    return _scaled(n, 1000, ("FLOPs", "kFLOP", "MFLOP", "GFLOP", "TFLOP"))


def _in_column(flops):
    """Operations in a column that is headed FLOPs."""
    return in_flops(flops).removesuffix("FLOPs").removesuffix("FLOP").strip()


def _scaled(n, base, units):
    step = 0
    while n >= base and step + 1 < len(units):
        n, step = n / base, step + 1
    return f"{n:.0f} {units[step]}" if n >= 100 else f"{n:.3g} {units[step]}"


def _counted(n, what):
    return f"{n:,} {what}{'s' * (n != 1)}"


def short_names(values):
    """{value: the end of its name that no other has, and that does not begin with a number}.

    ``nets.first.0.weight`` becomes ``first.0.weight`` beside ``nets.second.0.weight``.
    """
    parts = {v: v.name.split(".") for v in values if v.name}
    ends = {}
    for v, names in parts.items():
        for n in range(1, len(names) + 1):
            ends.setdefault(".".join(names[-n:]), []).append(v)
    short = {}
    for v, names in parts.items():
        tails = [".".join(names[-n:]) for n in range(1, len(names) + 1)]
        fit = [t for t in tails if len(ends[t]) == 1 and not t[0].isdigit()]
        if fit or len(ends[v.name]) == 1:
            short[v] = fit[0] if fit else v.name
    return short


# The parts of the page


def _inputs(program):
    used = {a for line in program.lines for a in line.operands} | set(program.outputs)
    rows, met = [], {}
    for place, group in _groups([(v.name or "", v) for v in program.inputs]):
        values = [v for _, v in group]
        note = "" if used & set(values) else "not used"
        details = "; ".join(filter(None, (_details(place, group, met), note)))
        rows.append([_numbers(program, values), place, *_kinds(values), details])
    return ["inputs", *_table(rows)] if rows else []


def _constants(program):
    rows = [
        [f"%{program.number(v)}", "", of_type(v), in_bytes(v.nbytes), _content(a)]
        for v, a in program.constants.items()
    ]
    return ["constants", *_table(rows)] if rows else []


def _content(a):
    """What is in a constant, if that is short."""
    if a.ndim == 0:
        return written(a)
    return of_one_value(a).strip() or (written(tuple(a.tolist())) if a.size <= 4 else "")


def _results(writer):
    paths = trees.paths(writer.program.results)
    found = [(path or "result", v) for path, v in paths if type(v) is Value]
    rows = []
    for place, group in _groups(found):
        values = [v for _, v in group]
        where = [writer.operand(v) for v in values]
        rows.append(["", place, *_kinds(values), _shortened(where)])
    return ["results", *_table(rows)] if rows else []


def _groups(found):
    """(path, value) pairs in runs of the same place, the path without its last two names.

    Yields (place, [(rest of the path, value)]), and what stands alone as (path, [(path, value)]).
    """

    def place(pair):
        names = pair[0].rsplit(".", 2)
        return names[0] if len(names) > 1 else ""

    for start, group in groupby(found, place):
        group = list(group)
        if start and len(group) > 1:
            yield start, [(path[len(start) + 1 :], v) for path, v in group]
        else:
            yield from ((path, [(path, v)]) for path, v in group)


def _numbers(program, values):
    first, last = program.number(values[0]), program.number(values[-1])
    return f"%{first}" if first == last else f"%{first}–%{last}"


def _kinds(values):
    """The type of one array or of several, and their bytes."""
    nbytes = in_bytes(sum(v.nbytes for v in values))
    if len(values) == 1:
        return [of_type(values[0]), nbytes]
    dtypes = " and ".join(sorted({str(v.dtype) for v in values}))
    return [f"{len(values)} × {dtypes}", nbytes]


def _details(place, group, met):
    """The arrays of a group with their shapes, or the group above that has the same."""
    if len(group) == 1:
        return ""
    shown = [f"{path} {list(v.shape)}" for path, v in group]
    like = met.setdefault(tuple(shown), place)
    return _shortened(shown) if like == place else f"as {like}"


def _shortened(shown):
    return ", ".join(shown if len(shown) <= _MANY else [shown[0], "…", shown[-1]])


def _lines(writer, phases, sources):
    lines = [line for line in writer.program.lines if line.phase in phases]
    if not lines:
        return []
    layers = without_common_start({line.layer for line in writer.program.lines})
    head = ["layer" if any(layers.values()) else "", "source"]
    rows = [["", "call", "result", "bytes", "FLOPs", *head]]
    for line in lines:
        rows.append(
            [
                f"%{writer.program.number(line.result)}",
                writer.call(line),
                of_type(line.result),
                in_bytes(line.result.nbytes),
                _in_column(line.flops),
                _end(layers[line.layer]),
                line.source,
            ]
        )
    rows = rows if sources else [row[:-1] for row in rows]
    text, *blocks = _blocks(rows, right=(3, 4), wide=1)
    width = max(len(row) for block in (text, *blocks) for row in block)
    blocks, before = iter(_bracketed(lines, blocks)), None
    for phase, run in groupby(lines, lambda line: line.phase):
        run = list(run)
        within = before is not None and run[0].group == before  # a bracket that goes on
        rule = f"{_counted(len(run), 'line')}, {in_flops(sum(line.flops for line in run))} "
        text.append(f"{'├' if within else '─'}─ {phase}: {rule}".ljust(width, "─"))
        for _ in run:
            text += next(blocks)
        before = run[-1].group
    return text


def _end(name, most=16):
    """The end of a dotted name, in so many letters."""
    while len(name) > most and "." in name:
        name = "…" + name.lstrip("…").partition(".")[2]
    return name


def _bracketed(lines, blocks):
    """The blocks with a bracket at the left of lines that are run together."""
    for group, pairs in groupby(zip(lines, blocks, strict=True), lambda pair: pair[0].group):
        run = [block for _, block in pairs]
        rows = sum(map(len, run))
        if group is None or len(run) == 1:
            yield from run
            continue
        marks = iter(["┌", *"│" * (rows - 2), "└"])
        yield from ([next(marks) + row[1:] for row in block] for block in run)


def _totals(program, phases):
    totals = {phase: total for phase, total in program.totals().items() if phase in phases}
    rows = [[phase, *total] for phase, total in totals.items()]
    if len(rows) != 1:
        rows.append(["together", *(sum(total[i] for total in totals.values()) for i in range(3))])
    rows = [[phase, str(n), _in_column(flops), in_bytes(size)] for phase, n, flops, size in rows]
    blocks = _blocks([["totals", "lines", "FLOPs", "bytes"], *rows], right=(1, 2, 3), wide=0)
    return [line[2:] if i == 0 else line for i, block in enumerate(blocks) for line in block]


def without_common_start(names):
    """{name: the name without the names that all begin with}, for dotted names."""
    parts = [name.split(".") for name in names if name]
    n = 0
    while len(parts) > 1 and all(len(p) > n + 1 and p[n] == parts[0][n] for p in parts):
        n += 1
    return {name: ".".join(name.split(".")[n:]) for name in names}


def _table(rows):
    """The lines of a table of which the fourth column is at its right, and the last is wrapped."""
    return [line for block in _blocks(rows, right=(3,), wide=-1) for line in block]


def _blocks(rows, right, wide):
    """The rows of a table in columns, each as its lines; the column ``wide`` gets what is left."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    gaps = 2 * (sum(width > 0 for width in widths) - 1)
    left = WIDTH - 2 - gaps - (sum(widths) - widths[wide])
    widths[wide] = max(1, min(widths[wide], max(left, 20)))
    blocks = []
    for row in rows:
        whole = re.sub(r" (?=\[|[\d, ]*[\])])", _HARD_SPACE, row[wide])  # shapes are not parted
        whole = re.sub(r"^(\w{20,}\()", r"\1 ", whole)  # after a long name there may be a break
        wrapped = textwrap.wrap(
            whole, widths[wide], subsequent_indent="  ", break_long_words=False
        ) or [""]
        block = []
        for i, part in enumerate(wrapped):
            cells = [cell if i == 0 else "" for cell in row]
            cells[wide] = part.replace("( ", "(").replace(_HARD_SPACE, " ")
            cells = [
                cell.rjust(width) if j in right else cell.ljust(width)
                for j, (cell, width) in enumerate(zip(cells, widths, strict=True))
                if any(columns[j])
            ]
            block.append(("  " + "  ".join(cells)).rstrip())
        blocks.append(block)
    return blocks
