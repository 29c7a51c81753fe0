"""Every intermediate value and gradient of a result, by name: which are large, zero or not finite.

>>> import numpy as np, tinygan as tg
>>> x = tg.track(np.array([1.0, -2.0, 0.5]), "x")
>>> loss = tg.ops.sum(tg.ops.tanh(tg.ops.multiply(x, 3.0)))
>>> found = inspect(loss)
>>> found
    name        of          result         ‖y‖     mean  max|y|  y=0     ‖ȳ‖     mean  max|ȳ|  ȳ=0
%1  x           leaf        float64[3]   2.291  -0.1667       2   0%  0.5429   0.1906  0.5421   0%
%2  multiply.1  x, 3        float64[3]   6.874     -0.5       6   0%   0.181  0.06353  0.1807   0%
%3  tanh.1      multiply.1  float64[3]   1.676   0.3001       1   0%   1.732        1       1   0%
%4  sum.1       tanh.1      float64[]   0.9002   0.9002  0.9002   0%       1        1       1   0%
>>> found["tanh.1"].gradient
array([1., 1., 1.])
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np

from tinygan import html
from tinygan import tree as trees
from tinygan.backend import to_host
from tinygan.engine import Tensor, grad_values, tape
from tinygan.notation import call as call_as_text
from tinygan.notation import written
from tinygan.study.listing import tensors_below

_WIDEST = 34  # letters of a call's arguments; the others stand in ``Row.of``


class Statistics(NamedTuple):
    """An array in a few numbers; None for an array without elements.

    ‖a‖ = √Σ a², mean = Σ a/n, largest = max |a|, zeros = the fraction of a that is exactly 0;
    ``nans`` and ``infs`` are counts. Where one is not 0 the others say NaN or infinity too.
    """

    norm: float | None
    mean: float | None
    largest: float | None
    zeros: float | None
    nans: int
    infs: int

    @property
    def finite(self):
        """Whether there is no NaN and no infinity."""
        return not self.nans and not self.infs


def statistics(a):
    """The :class:`Statistics` of an array, NumPy's or CuPy's, computed in float64."""
    flat = to_host(a).reshape(-1).astype(np.float64)
    if not flat.size:
        return Statistics(None, None, None, None, 0, 0)
    nans, infs = int(np.isnan(flat).sum()), int(np.isinf(flat).sum())
    largest = float(np.abs(flat).max())
    scale = largest if 0 < largest < math.inf else 1.0  # no square overflows
    with np.errstate(over="ignore", invalid="ignore"):
        norm = scale * float(np.linalg.norm(flat / scale))
        mean = float(flat.mean())
    return Statistics(norm, mean, largest, float((flat == 0).mean()), nans, infs)


@dataclass(frozen=True, eq=False, repr=False)
class Row:
    """A leaf, or a call and its result.

    Attributes:
        number: as in :func:`tinygan.study.listing.listing`.
        name: "tanh.2" for the second tanh in forward order; the name of a Tensor that has one of
            its own, "D.0.weight".
        op: the primitive's name, None for a leaf.
        of: the call's arguments by their names, "leaf" for a leaf.
        shape, dtype: those of the value.
        of_value: the :class:`Statistics` of the value.
        of_gradient: those of the result's gradient in it; None where no derivative comes by, and
            without gradients.
        value: the plain array.
    """

    number: int
    name: str
    op: str | None
    of: str
    shape: tuple
    dtype: str
    of_value: Statistics
    of_gradient: Statistics | None
    value: Any
    _gradient: Any
    _missing: str

    @property
    def gradient(self):
        """∂result/∂value, a plain array; zeros where no derivative comes by.

        Raises: ValueError if a result has several elements and no cotangent was given.
        """
        if self._missing:
            raise ValueError(f"inspect: no gradient of {self.name}: {self._missing}")
        return np.zeros_like(self.value) if self._gradient is None else self._gradient

    def __repr__(self):
        found = f"%{self.number} {self.name} = {self.of}: {self.dtype}{list(self.shape)}, "
        found += f"value {_in_words(self.of_value)}"
        return found + (f"; gradient {_in_words(self.of_gradient)}" if self.of_gradient else "")


def _in_words(s):
    if s.norm is None:
        return "without elements"
    return f"norm {s.norm:.4g}, mean {s.mean:.4g}, largest {s.largest:.4g}, {s.zeros:.0%} zero"


@dataclass(frozen=True, eq=False, repr=False)
class NotFinite:
    """Where the first NaN or infinity came from; print it.

    Attributes:
        of: "value" or "gradient".
        name: the row whose value or gradient it is.
        op: the name of the row whose call, or whose rule, made it; None for a leaf, a cotangent,
            or a sum of gradients each of which is finite.
        says: the finding as a sentence.
        inputs: (what, :class:`Range`) of what went into it.
    """

    of: str
    name: str
    op: str | None
    says: str
    inputs: list

    def __str__(self):
        lines = [f"  {what}: {found}" for what, found in self.inputs]
        return "\n".join([self.says, *lines])

    __repr__ = __str__

    def _repr_html_(self):
        return html.code(str(self))


class Range(NamedTuple):
    """The finite numbers of an array lie from ``low`` to ``high``; None if there are none."""

    low: float | None
    high: float | None
    nans: int
    infs: int

    def __str__(self):
        span = "no finite number" if self.low is None else f"from {self.low:.6g} to {self.high:.6g}"
        if self.low is not None and self.low == self.high:
            span = f"{self.low:.6g}"
        bad = [f"{n} {what}" for n, what in ((self.nans, "NaN"), (self.infs, "inf")) if n]
        return ", ".join([span, *bad])


def _range(a):
    flat = np.asarray(to_host(a) if hasattr(a, "dtype") else a, np.float64).reshape(-1)
    finite = flat[np.isfinite(flat)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    return Range(low, high, int(np.isnan(flat).sum()), int(np.isinf(flat).sum()))


@dataclass(frozen=True, eq=False, repr=False)
class Inspection:
    """What :func:`inspect` returns: print it, read its ``rows``, or take one by name.

    ``found["tanh.2"]``, ``found[7]`` (its number) and ``found[h]`` (a Tensor) are rows.
    """

    rows: list
    results: list = field(repr=False)
    _nodes: list = field(repr=False)
    _missing: str

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __getitem__(self, key):
        if isinstance(key, bool) or not isinstance(key, (str, int, np.integer, Tensor)):
            raise TypeError(
                f"inspect: a row is asked for by a {type(key).__name__}; expected its name, its "
                "number or its Tensor. All rows are in .rows"
            )
        if type(key) is Tensor:
            found = [r for r, a in zip(self.rows, self._nodes, strict=True) if a is key]
        else:
            found = [row for row in self.rows if key in (row.name, row.number)]
        if not found:
            raise KeyError(
                f"inspect: {key!r} is not below the result; {_nearest(key, self.rows)}. "
                "Print the inspection to see all names"
            )
        return found[0]

    def first_not_finite(self, of=None):
        """Where the first NaN or infinity appeared, a :class:`NotFinite`; None if all is finite.

        Values are looked at in forward order, then gradients in backward order. For a gradient it
        is the rule that made the first bad one that is named.

        Args:
            of: "value" or "gradient" to look at those alone.
        Raises: ValueError for gradients of an inspection without them.
        """
        if of not in (None, "value", "gradient"):
            raise ValueError(
                f"first_not_finite: of is {of!r}; expected 'value', 'gradient' or None for both"
            )
        if of == "gradient" and self._missing:
            raise ValueError(f"inspect: no gradients: {self._missing}")
        found = None if of == "gradient" else self._first_value()
        if found is None and of != "value" and not self._missing:
            found = self._first_gradient()
        return found

    def _first_value(self):
        for row, node in zip(self.rows, self._nodes, strict=True):
            if row.of_value.finite:
                continue
            what, op = f"{row.name}, a leaf,", None
            if node.op is not None:
                what, op = f"{row.name} = {node.op.__name__}({row.of})", row.name
            bad = f"{html.not_finite(to_host(node.data))} of {node.size}"
            says = f"{what} is the first value that is not finite: {bad}"
            return NotFinite("value", row.name, op, says, self._arguments(node))
        return None

    def _first_gradient(self):
        rows = {id(node): row for row, node in zip(self.rows, self._nodes, strict=True)}
        backward = tape(self.results)[::-1]
        for node in backward:
            row = rows[id(node)]
            if row.of_gradient.finite:
                continue
            bad = f"the gradient of {row.name} is the first that is not finite"
            bad += f", {html.not_finite(to_host(row.gradient))} of {node.size}"
            makers = [c for c in backward if any(a is node for a, _ in c.edges)]
            for maker in makers:  # their own gradients are finite: they came before
                if self._makes_it(maker, node, rows[id(maker)].gradient):
                    by = rows[id(maker)]
                    says = f"{bad}: by the rule of {by.name} = {maker.op.__name__}({by.of})"
                    given = [("ȳ", _range(by.gradient)), ("y", _range(maker.data))]
                    inputs = given + self._arguments(maker)
                    return NotFinite("gradient", row.name, by.name, says, inputs)
            inputs = [(f"ȳ of {rows[id(c)].name}", _range(rows[id(c)].gradient)) for c in makers]
            cause = "a sum of finite gradients" if makers else "it is the cotangent"
            return NotFinite("gradient", row.name, None, f"{bad}: {cause}", inputs)
        return None

    @staticmethod
    def _makes_it(maker, node, g):
        with np.errstate(all="ignore"):
            for a, rule in maker.edges:
                if a is node:
                    part = rule(g, maker.data, *maker.raw, **maker.params)
                    if part is not None and not np.isfinite(to_host(part)).all():
                        return True
        return False

    def _arguments(self, node):
        names = {id(a): row.name for row, a in zip(self.rows, self._nodes, strict=True)}
        return [
            (names.get(id(a)) or written(a), _range(raw))
            for a, raw in zip(node.args, node.raw, strict=True)
            if raw is not None
        ]

    def _cells(self):
        """The header, and a list of texts for each row; columns that nothing needs are absent."""
        bad = not all(
            s is None or s.finite for row in self.rows for s in (row.of_value, row.of_gradient)
        )
        head = ["", "name", "of", "result", "‖y‖", "mean", "max|y|", "y=0"]
        head += [] if self._missing else ["‖ȳ‖", "mean", "max|ȳ|", "ȳ=0"]
        head += ["not finite"] if bad else []
        body = []
        for row in self.rows:
            of = row.of if len(row.of) <= _WIDEST else row.of[: _WIDEST - 1] + "…"
            cells = [f"%{row.number}", row.name, of, f"{row.dtype}{list(row.shape)}"]
            cells += _numbers(row.of_value)
            if not self._missing:
                cells += _numbers(row.of_gradient) if row.of_gradient else ["none", "", "", ""]
            if bad:
                pairs = (("y", row.of_value), ("ȳ", row.of_gradient))
                counts = [
                    f"{which}: {n} {what}"
                    for which, s in pairs
                    if s
                    for n, what in ((s.nans, "NaN"), (s.infs, "inf"))
                    if n
                ]
                cells.append(", ".join(counts))
            body.append(cells)
        return head, body

    def __str__(self):
        head, body = self._cells()
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if 4 <= i < 12 and head[i] != "not finite" else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in (head, *body)
        ]
        return "\n".join(lines + ([f"no gradients: {self._missing}"] if self._missing else []))

    __repr__ = __str__

    def _repr_html_(self):
        head, body = self._cells()
        align = "llll" + "r" * (4 if self._missing else 8) + "l"
        out = html.table(body, head, align=align)
        return out + (html.paragraph(f"no gradients: {self._missing}") if self._missing else "")


def _numbers(s):
    if s.norm is None:
        return ["empty", "", "", ""]
    return [f"{s.norm:.4g}", f"{s.mean:.4g}", f"{s.largest:.4g}", _percent(s.zeros)]


def _percent(fraction):
    """A fraction, such that only 0 and 1 are written as such."""
    if 0 < fraction < 0.01:
        return "<1%"
    return ">99%" if 0.99 < fraction < 1 else f"{fraction:.0%}"


def _nearest(key, rows):
    names = [row.name for row in rows]
    close = get_close_matches(str(key), names, 3, 0.4) or names[:3]
    return f"the nearest names are {', '.join(close)}" if close else "nothing is"


def inspect(value, cotangent=None):
    """Every value below a result, and the result's gradient in each of them.

    ȳ = (∂ Σ result/∂y)ᵀu for every leaf and every call's result y, with u = 1 for scalars

    All gradients are made in one walk from the result downwards. A gradient is a Tensor like any
    other, so that ``inspect(penalty)`` shows the second order too, and ``inspect(grad(y, x))`` the
    values that the gradient is made of.

    Args:
        value: a Tensor, a loss; or a tree of Tensors, whose sum is then differentiated.
        cotangent: u, a tree like ``value`` of arrays. Without it, a result of several elements has
            values and no gradients; asking for one is an error.
    Returns: an :class:`Inspection`; print it.
    Raises: RuntimeError if a part of the tape was released; TypeError if nothing in ``value`` is a
        Tensor; ValueError for a cotangent of another shape.
    """
    roots, numbers = trees.leaves(value), {}
    nodes = tensors_below(roots, numbers, "inspect", "inspect it")
    if not nodes:
        kinds = ", ".join(dict.fromkeys(type(a).__name__ for a in roots)) or "nothing"
        raise TypeError(
            f"inspect: given {kinds}; expected a Tensor or a tree with one. What is computed from "
            "plain arrays leaves no tape: track() the inputs first"
        )
    results = [a for a in roots if type(a) is Tensor]
    missing = ""
    if cotangent is not None:
        given = trees.leaves(trees.tree_map(lambda _, u: u, value, cotangent))
        cotangent = [u for a, u in zip(roots, given, strict=True) if type(a) is Tensor]
    else:
        several = [a for a in results if a.size != 1]
        if several:
            missing = (
                f"a result has shape {list(several[0].shape)} and no cotangent was given; inspect "
                "its sum or mean, or inspect(value, cotangent=u) with u of that shape"
            )
    gradients = {}
    if not missing:
        reached = tape(results)
        with np.errstate(all="ignore"):  # what is not finite is what this is for
            found = grad_values(results, reached, cotangent)
        gradients = {id(a): g for a, g in zip(reached, found, strict=True)}
    names = _names(nodes)
    rows = []
    for node in nodes:
        g = gradients.get(id(node))
        rows.append(
            Row(
                numbers[id(node)], names[id(node)], node.op and node.op.__name__,
                _arguments_as_text(node, names), node.shape, str(node.dtype),
                statistics(node.data), None if g is None else statistics(g), node.data, g, missing,
            )
        )  # fmt: skip
    return Inspection(rows, results, nodes, missing)


def _names(nodes):
    """{id of a Tensor: its own name, if no other has it, else one made of its op}, each once."""
    counts, automatic = Counter(), {}
    for node in nodes:
        kind = node.op.__name__ if node.op else "leaf"
        counts[kind] += 1
        automatic[id(node)] = f"{kind}.{counts[kind]}"
    holders = Counter(node.name for node in nodes)
    taken = set(automatic.values())
    return {
        id(node): node.name
        if node.name and holders[node.name] == 1 and node.name not in taken
        else automatic[id(node)]
        for node in nodes
    }


def _arguments_as_text(node, names):
    if node.op is None:
        return "leaf"
    given = [names[id(a)] if type(a) is Tensor else written(a) for a in node.args]
    return call_as_text(node.op, given, node.params)[len(node.op.__name__) + 1 : -1]
