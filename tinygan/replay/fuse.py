"""The pass that groups element-wise lines, to be run together, block by block, in the cache."""

from dataclasses import replace

from tinygan.replay import recipes

LARGE = 1 << 16  # numbers from which a group pays: smaller arrays are in the cache anyway


def fuse(program):
    """Large element-wise lines in groups, behind the convolution whose result they work on.

    A line joins the group that makes one of its arguments, or that shares one with it, if all its
    arguments are ready there and its result has the group's shape: it moves up. Each line's own
    result is the same to the bit. So do the mean and the deviation of a batch that a convolution
    makes; they round otherwise than a pass of their own.
    """
    units, unit_of, late = [], {}, set()
    for line in program.lines:
        where = _statistics_of(line, units, unit_of, late)
        if where is not None:
            units[where].append(line)
            unit_of[line.result] = where
            late.add(line.result)  # ready when the whole unit is done
        elif line.op in recipes.EPILOGUES and recipes.takes(line) and line.result.size >= LARGE:
            units.append([line])
            unit_of[line.result] = len(units) - 1
        elif recipes.elementwise(line) and line.result.size >= LARGE and line.result.shape:
            where = _unit_for(line, units, unit_of, late)
            if where is None:
                units.append([])
                where = len(units) - 1
            units[where].append(line)
            unit_of[line.result] = where
        else:
            units.append([line])
            unit_of[line.result] = len(units) - 1
    lines, group = [], 0
    for unit in units:
        first = unit[0]
        if len(unit) > 1 or (recipes.elementwise(first) and first.result.shape):
            if first.result.size >= LARGE:
                lines += [replace(line, group=group) for line in unit]
                group += 1
                continue
        lines += unit
    return program.with_lines(lines)


def _statistics_of(line, units, unit_of, late):
    """The index of the unit whose convolution makes what the line is a statistic of, or None."""
    if line.op not in recipes.STATISTICS:
        return None
    y, *mean = line.operands
    i = unit_of.get(y)
    if i is None or units[i][0].result is not y or units[i][0].op not in recipes.PRODUCTS:
        return None
    if line.params["axes"] != tuple(range(len(y.shape) - 1)) or y.size < LARGE:
        return None
    if any(other.op is line.op for other in units[i]):
        return None  # one of each kind
    return i if all(a in late and unit_of[a] == i for a in mean) else None


def _unit_for(line, units, unit_of, late):
    """The index of the unit that the line can join, or None."""
    ready = max((unit_of.get(a, -1) + (a in late) for a in line.operands), default=-1)
    for i in range(max(ready, 0), len(units)):
        first = units[i][0]
        if first.result.shape != line.result.shape or first.result.dtype != line.result.dtype:
            continue
        if first.op in recipes.EPILOGUES:
            if i == ready and any(unit_of.get(a) == i for a in line.operands):
                return i
        elif recipes.elementwise(first):
            shared = {a for other in units[i] for a in (*other.operands, other.result)}
            if any(a in shared and a.shape == line.result.shape for a in line.operands):
                return i
    return None
