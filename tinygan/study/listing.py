"""The tape as a numbered listing: what was computed, from what, by which formula.

>>> import numpy as np, tinygan as tg
>>> x = tg.track(np.array([3.0, 4.0]), "x")
>>> y = tg.ops.sum(tg.ops.square(x))
>>> listing({"y": y, "∇y": tg.grad(y, x)})
y = %3
  %1  x  leaf                           float64[2]
  %2     square(x)                      float64[2]  y = a²
  %3     sum(%2)                        float64[]   y = Σ a
  2 calls, 3 elements, 24 bytes; 1 leaf
∇y = %5
  %4     multiply(x, 2)                 float64[2]  y = a·b
  %5     multiply(float64[2] of 1, %4)  float64[2]  y = a·b
  2 calls, 4 elements, 32 bytes
"""

import math
from collections import Counter
from dataclasses import dataclass
from inspect import getdoc
from itertools import chain, repeat
from typing import NamedTuple

from tinygan import tree as trees
from tinygan.engine import Tensor
from tinygan.notation import call as call_as_text
from tinygan.notation import of_one_value, written

_NO_RULE = "°"
_WIDEST = 44  # a wider entry, such as a call of many arguments, does not widen the other lines


class Line(NamedTuple):
    """A Tensor of the tape: a leaf (``op`` None), or a call and its result.

    ``args`` are the numbers of the call's arguments, None for a constant.
    """

    number: int
    name: str | None
    op: str | None
    args: tuple
    call: str
    shape: tuple
    dtype: str
    nbytes: int
    formula: str


class Section(NamedTuple):
    """A value, ``[("its title", "%7")]``, and the lines that it adds to those above it."""

    results: list
    lines: list

    @property
    def calls(self):
        """The lines that are no leaves."""
        return [line for line in self.lines if line.op]

    @property
    def elements(self):
        """How many numbers the results of the calls have together."""
        return sum(math.prod(line.shape) for line in self.calls)

    @property
    def nbytes(self):
        """How many bytes the results of the calls have together."""
        return sum(line.nbytes for line in self.calls)

    def totals(self):
        """How much there is, as a line of text."""
        if not self.lines:
            return "nothing new on the tape"
        leaves = len(self.lines) - len(self.calls)
        parts = [(len(self.calls), "call"), (self.elements, "element"), (self.nbytes, "byte")]
        text = ", ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in parts)
        return text + (f"; {leaves} {'leaf' if leaves == 1 else 'leaves'}" if leaves else "")


@dataclass(frozen=True, repr=False)
class Listing:
    """What :func:`listing` returns: print it, or read its ``sections`` and ``lines``."""

    sections: list

    @property
    def lines(self):
        """The lines of all sections."""
        return [line for section in self.sections for line in section.lines]

    def __str__(self):
        rows = {line.number: _row(line) for line in self.lines}
        columns = zip(*rows.values(), strict=True)
        widths = [min(max(map(len, column)), _WIDEST) for column in columns]
        text = []
        for section in self.sections:
            text += [f"{title} = {where}" for title, where in section.results]
            for line in section.lines:
                cells = zip(rows[line.number], widths, strict=True)
                cells = [cell.ljust(width) for cell, width in cells if width]
                text.append("  " + "  ".join(cells).rstrip())
            text.append("  " + section.totals())
        if any(_NO_RULE in line.call for line in self.lines):
            text.append(f"{_NO_RULE} no derivative passes through this argument")
        return "\n".join(text)

    __repr__ = __str__


def _row(line):
    result = f"{line.dtype}{list(line.shape)}"
    return f"%{line.number}", line.name or "", line.call, result, line.formula


def listing(value):
    """The calls below a value, arguments first, each with its result and formula; print it.

    Of several values, as in ``listing({"D(x)": y, "its slope": grad(sum(y), x)})``, each line
    stands under the first value that needs it: under "its slope" is what the slope adds.

    A Tensor is written as its name (:func:`tinygan.track` names leaves, ``h.name = "h"`` any
    Tensor) if no other has the same name, else as its number. A constant is written as its
    value, an array as dtype[shape], a parameter at its default not at all. What was computed
    from constants alone is a constant, and no call on the tape.

    Args:
        value: a Tensor or a tree of Tensors, or a dict of them: one section for each key.
    Returns: a :class:`Listing`.
    Raises: RuntimeError if a part of the tape was released; TypeError if a value is no Tensor,
        array or number.
    """
    titled = value if isinstance(value, dict) else {"value": value}
    titled = [trees.paths(tree, str(title)) for title, tree in titled.items()]
    numbers = {}
    added = [tensors_below([a for _, a in results], numbers) for results in titled]
    holders = Counter(node.name for node in chain(*added))

    def operand(a):
        if type(a) is not Tensor:
            return written(a)
        return a.name if a.name and holders[a.name] == 1 else f"%{numbers[id(a)]}"

    def line(node):
        op, args = node.op, ()
        if op is None:
            call = "leaf" if node.name else "leaf" + of_one_value(node.data)
        else:
            args = tuple(numbers.get(id(a)) for a in node.args)
            given = [
                operand(a) + _NO_RULE * (type(a) is Tensor and rule is None)
                for a, rule in zip(node.args, chain(op.rules, repeat(None)), strict=False)
            ]
            call = call_as_text(op, given, node.params)
        return Line(
            numbers[id(node)], node.name, op and op.__name__, args, call,
            node.shape, str(node.dtype), node.data.nbytes, formula(op) if op else "",
        )  # fmt: skip

    sections = []
    for results, nodes in zip(titled, added, strict=True):
        places = [
            (title, f"%{numbers[id(a)]}" if type(a) is Tensor else written(a))
            for title, a in results
        ]
        sections.append(Section(places, [line(node) for node in nodes]))
    return Listing(sections)


def formula(op):
    """The line of a primitive's docstring that says what y is; "" if there is none."""
    lines = (line.strip() for line in (getdoc(op) or "").splitlines())
    return next((line for line in lines if line.startswith(("y = ", "y["))), "")


def tensors_below(roots, numbers, who="listing", do="list it"):
    """The Tensors below ``roots`` that have no number yet, arguments first; gives them numbers.

    Unlike :func:`tinygan.tape` this goes through arguments without a rule too: their values
    were needed, if not their derivatives. ``who`` and ``do`` are words
    of its errors.

    Raises: RuntimeError if a part of the tape was released; TypeError if a root is no Tensor,
        array or number.
    """
    order = []
    stack = [a for a in reversed(roots) if type(a) is Tensor]
    for a in roots:
        if not isinstance(a, (Tensor, int, float)) and not hasattr(a, "dtype"):
            raise TypeError(f"{who}: a value is a {type(a).__name__}; expected a Tensor")
    while stack:
        node = stack[-1]
        if id(node) in numbers:
            stack.pop()
            continue
        if node.op is not None and node.args is None:
            raise RuntimeError(
                f"{who}: the tape below a result of {node.op.__name__} was released by "
                f"grad_values(..., release=True); {do} before that, or leave release out"
            )
        below = [a for a in reversed(node.args) if type(a) is Tensor and id(a) not in numbers]
        stack += below
        if not below:
            order.append(stack.pop())
            numbers[id(node)] = len(numbers) + 1
    return order
