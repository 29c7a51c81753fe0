"""A program run call by call, as it stands: what every pass and every runner is compared with."""

import numpy as np

from tinygan import tree as trees
from tinygan.backend import array_module
from tinygan.replay.gpu import module_of
from tinygan.replay.program import Value


def evaluate(program, *args):
    """What the step returned for these arguments, by calling the program's lines in their order.

    Nothing is reused and nothing checked but the shapes: slow and plain.

    Raises: ValueError for arguments of other shapes, dtypes or nesting than the program's.
    """
    found, xp = dict(program.constants), module_of(args)
    pairs = []
    trees.tree_map(lambda value, a: pairs.append((value, a)), program.arguments, args)
    for value, a in pairs:
        if type(value) is Value:
            if isinstance(a, (int, float, np.generic)):
                a = xp.asarray(a, dtype=value.dtype)
            if a.shape != value.shape or a.dtype != value.dtype:
                raise ValueError(
                    f"{value.name} is {a.dtype}{list(a.shape)}; the program is for "
                    f"{value.dtype}{list(value.shape)}. Trace the step again"
                )
            found[value] = a
    for line in program.lines:
        given = [found[a] if type(a) is Value else a for a in line.args]
        y = line.op.fn(*given, **line.params)
        found[line.result] = array_module(y).asarray(y, dtype=line.result.dtype)
    return trees.tree_map(lambda a: found[a] if type(a) is Value else a, program.results)
