"""The mask of a gate as an array: what several gates of one activation can share."""

from collections import Counter

import numpy as np

from tinygan.engine import primitive
from tinygan.ops import gate, index, multiply
from tinygan.replay.program import Line, Value


@primitive
def gate_mask(m, *, slope):
    """What a gate multiplies with.

    y = 1 where m > 0, slope elsewhere

    No rule, on purpose: it stands in programs only, which are not differentiated.
    """
    return np.maximum((m > 0).astype(m.dtype), m.dtype.type(slope))


def share_masks(program):
    """Gates of the same values with the same slope share one mask.

    gate(a, m) = a·gate_mask(m), to the bit, for slopes from 0 to 1. A mask pays from its second
    use; gates of a value by itself, gate(m, m), have a quicker way and stay. The mask of a part is
    that part of the mask.
    """
    part_of = {line.result: line for line in program.lines if line.op is index}
    gates = [line for line in program.lines if _masked(line)]
    whole = {(line.args[1], line.params["slope"]) for line in gates}

    def source(line):
        """What the mask is made of: the gate's m, or what m is a part of, if that has a mask."""
        m, slope = line.args[1], line.params["slope"]
        if m in part_of and (part_of[m].args[0], slope) in whole:
            return part_of[m].args[0], slope
        return m, slope

    uses = Counter(source(line) for line in gates)
    masks, lines = {}, []

    def mask(m, slope, line):
        if (m, slope) not in masks:
            masks[m, slope] = Value(m.shape, m.dtype)
            params = {"slope": slope}
            lines.append(Line(gate_mask, (m,), params, masks[m, slope], *_origin(line)))
        return masks[m, slope]

    for line in program.lines:
        if not _masked(line) or uses[source(line)] < 2:
            lines.append(line)
            continue
        m, slope = source(line)
        found = mask(m, slope, line)
        if m is not line.args[1]:
            part, at = Value(line.result.shape, m.dtype), part_of[line.args[1]].params
            lines.append(Line(index, (found,), at, part, *_origin(line)))
            found = part
        lines.append(Line(multiply, (line.args[0], found), {}, line.result, *_origin(line)))
    return program.with_lines(lines)


def _masked(line):
    return (
        line.op is gate
        and line.args[0] is not line.args[1]
        and type(line.args[1]) is Value
        and line.args[1].dtype.kind == "f"
        and line.args[1].shape == line.result.shape
        and line.args[1].dtype == line.result.dtype
        and 0 <= line.params["slope"] <= 1
    )


def _origin(line):
    return line.phase, line.layer, line.source
