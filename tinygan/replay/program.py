"""A program: the flat list of primitive calls that one run of a step made.

A :class:`Program` is data. Passes make a new one from an old one; a runner executes it; printed,
it is a listing: every call with its result, its cost, its phase and where it came from.
"""

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tinygan import conv, ops
from tinygan import tree as trees
from tinygan.engine import Primitive

PHASES = ("forward", "gradient", "second order", "update")


@dataclass(frozen=True, eq=False)
class Value:
    """An array of a program: an input, a constant, or the result of a line.

    Attributes: its shape and dtype, and for an input its place among the arguments,
        ``"params.conv1.weight"``.
    """

    shape: tuple
    dtype: np.dtype
    name: str | None = None

    @property
    def size(self):
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self):
        """How many bytes it takes."""
        return self.size * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Line:
    """A call of a primitive.

    Attributes:
        op: the primitive.
        args: for each positional argument a :class:`Value`, or a number.
        params: the static arguments.
        result: a :class:`Value`.
        phase: of :data:`PHASES`. A gradient of a gradient is of second order; what optimisers
            do is the update.
        layer: whose parameters it uses, or the layer of what it works on: ``"params.conv1"``.
        source: ``"losses.py:52"``, the line of the step's code that made this call, or for a
            gradient the call whose gradient it is.
        group: lines that follow each other with the same number here are run together, a block of
            the data at a time; None is a line by itself.
    """

    op: Primitive
    args: tuple
    params: dict
    result: Value
    phase: str = "forward"
    layer: str = ""
    source: str = ""
    group: int | None = None

    @property
    def operands(self):
        """The arguments that are arrays."""
        return [a for a in self.args if type(a) is Value]

    @property
    def flops(self):
        """Floating-point operations: two for each multiply-add of a product, else one per number.

        Moving numbers counts none.
        """
        return flops(self.op, self.args, self.params, self.result)


@dataclass(frozen=True, eq=False)
class Program:
    """A step as a list of calls.

    Attributes:
        arguments: the step's arguments as a tree whose leaves are Values; leaves that are no
            arrays and no numbers are kept as they are, and are part of what the program is for.
        constants: {Value: array} of the arrays that are the same in every run.
        lines: the calls, each after those whose results it uses.
        results: what the step returned, as a tree whose leaves are Values.
    """

    arguments: tuple
    constants: dict
    lines: tuple
    results: Any
    _numbers: dict = field(default_factory=dict, repr=False)

    @property
    def inputs(self):
        """The Values of the arguments, in the order of their leaves."""
        return [a for a in trees.leaves(self.arguments) if type(a) is Value]

    @property
    def outputs(self):
        """The Values of the results, in the order of their leaves, each once."""
        return list(dict.fromkeys(a for a in trees.leaves(self.results) if type(a) is Value))

    def with_lines(self, lines, constants=None):
        """This program with other lines, and other constants if they are given."""
        constants = self.constants if constants is None else constants
        return replace(self, lines=tuple(lines), constants=constants, _numbers={})

    def number(self, value):
        """The number of a value in the listing: inputs first, then constants, then results."""
        if not self._numbers:
            everything = [*self.inputs, *self.constants, *(line.result for line in self.lines)]
            self._numbers.update({v: i + 1 for i, v in enumerate(everything)})
        return self._numbers[value]

    @property
    def flops(self):
        """Floating-point operations of all lines."""
        return sum(line.flops for line in self.lines)

    @property
    def nbytes(self):
        """Bytes of the results of all lines."""
        return sum(line.result.nbytes for line in self.lines)

    def totals(self):
        """{phase: (lines, FLOPs, bytes of results)} of the phases that occur, in their order."""
        found = {}
        for phase in PHASES:
            of_phase = [line for line in self.lines if line.phase == phase]
            if of_phase:
                flops = sum(line.flops for line in of_phase)
                found[phase] = len(of_phase), flops, sum(line.result.nbytes for line in of_phase)
        return found

    def counts(self):
        """{name of a primitive: how many lines call it}, the most frequent first."""
        return dict(Counter(line.op.__name__ for line in self.lines).most_common())

    def __str__(self):
        from tinygan.replay.listing import listing  # which knows programs

        return listing(self)

    def __repr__(self):
        from tinygan.replay.listing import title

        return f"<Program of {title(self)}>"

    def _repr_svg_(self):
        from tinygan.replay.drawing import svg

        return svg(self)


# What a call costs


def flops(op, args, params, result):
    """The operations of one call, see :attr:`Line.flops`; arguments and result have a shape."""
    count = _PRODUCTS.get(params.get("op", op))  # "op": a product with something behind it
    if count is not None:
        return count(args, params, result)
    return 0 if op in _MOVES else max([result.size, *(a.size for a in args if hasattr(a, "size"))])


def _matmul(args, params, result):
    return 2 * result.size * args[0].shape[-2 if params.get("ta") else -1]


def _affine(args, params, result):
    return 2 * result.size * args[0].shape[-1]


def _to_grid(args, params, result):
    return 2 * result.size * math.prod(args[1].shape[:3])


def _to_image(args, params, result):
    return 2 * args[0].size * math.prod(args[1].shape[:3])


def _to_weights(args, params, result):
    return 2 * args[1].size * math.prod(result.shape[:3])


_PRODUCTS = {
    ops.matmul: _matmul,
    ops.affine: _affine,
    conv.conv2d: _to_grid,
    conv.conv2d_transpose: _to_image,
    conv.conv2d_weight_grad: _to_weights,
}
_MOVES = {
    ops.reshape, ops.transpose, ops.index, ops.place, ops.concatenate, ops.stack, ops.gather,
    ops.broadcast_to, ops.stop_gradient,
}  # fmt: skip
