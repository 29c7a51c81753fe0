"""Passes: functions from a program to one that does the same with less.

A pass changes neither its argument nor what :func:`tinygan.replay.evaluate` gives, bit for bit
unless its docstring says otherwise. Lines that it makes keep the phase, the layer and the source of
those they come from.
"""

from typing import NamedTuple

import numpy as np

from tinygan.backend import array_module
from tinygan.replay.algebra import rewrite, simplify
from tinygan.replay.fuse import fuse
from tinygan.replay.masks import share_masks
from tinygan.replay.merge import merge_batches
from tinygan.replay.program import Value
from tinygan.replay.storage import Storage

FOLD = 1 << 20  # bytes up to which a constant may be larger than what it is made of


def dead_code(program):
    """The program without the lines and constants that no result needs."""
    needed, lines = set(program.outputs), []
    for line in reversed(program.lines):
        if line.result in needed:
            needed.update(line.operands)
            lines.append(line)
    constants = {v: a for v, a in program.constants.items() if v in needed}
    return program.with_lines(reversed(lines), constants)


def fold_constants(program):
    """The program with each line whose arrays are all constants made a constant itself.

    Not where a result of more than 1 MiB would take the place of smaller constants, as of a
    broadcast: reading it may take longer than making it. Results of the program stay lines.
    """
    constants, lines, outputs = dict(program.constants), [], set(program.outputs)
    for line in program.lines:
        known = line.operands and all(a in constants for a in line.operands)
        if known and line.result not in outputs and _worth_keeping(line):
            constants[line.result] = _computed(line, constants)
        else:
            lines.append(line)
    return program.with_lines(lines, constants)


def _worth_keeping(line):
    return line.result.nbytes <= max(FOLD, sum(a.nbytes for a in line.operands))


def _computed(line, constants):
    given = [constants[a] if type(a) is Value else a for a in line.args]
    with np.errstate(all="ignore"):
        y = line.op.fn(*given, **line.params)
    xp = array_module(constants[line.operands[0]])
    return xp.array(y, dtype=line.result.dtype, order="C")  # no view of another constant


def common_subexpressions(program):
    """The program with each call made once: the same primitive, arguments and static arguments.

    a + b and b + a are the same, and a·b and b·a. A result that equals another becomes a copy of
    it. (gate(a, m) whose a and m turn out to be equal is computed as gate(m, m), which gives 0
    instead of −0, and for −∞ instead of NaN.)
    """
    return rewrite(program, ())


# In this order. Constants come first, for the rules look for numbers in them, and what nobody needs
# is gone before batches are merged; then once more, for what has come to stand side by side.
PASSES = (
    dead_code,
    fold_constants,
    common_subexpressions,
    simplify,
    dead_code,
    merge_batches,
    fold_constants,
    simplify,
    dead_code,
)


def optimise(program):
    """The program after all :data:`PASSES`, in their order."""
    for one in PASSES:
        program = one(program)
    return program


class Row(NamedTuple):
    """What a program costs after a pass: lines, floating-point operations, bytes of results."""

    name: str
    lines: int
    flops: int
    nbytes: int


def report(program):
    """The cost of a program before, and after each pass: a list of :class:`Row`.

    The last three are what the CPU's runner adds: shared masks, groups of element-wise lines, and
    buffers that values use in turn; the bytes of that row are the buffers'.
    """
    rows = [Row("as traced", len(program.lines), program.flops, program.nbytes)]
    for one in (*PASSES, share_masks, fuse):
        program = one(program)
        name = one.__name__.replace("_", " ")
        rows.append(Row(name, len(program.lines), program.flops, program.nbytes))
    buffers = Storage(program).nbytes
    return [*rows, Row("memory in turns", len(program.lines), program.flops, buffers)]


def table(rows):
    """The rows of a :func:`report` as text."""
    text = [f"{'after':<24}{'lines':>8}{'MFLOP':>12}{'MB':>10}"]
    for name, lines, flops, nbytes in rows:
        text.append(f"{name:<24}{lines:>8}{flops / 1e6:>12.3f}{nbytes / 1e6:>10.3f}")
    return "\n".join(text)
