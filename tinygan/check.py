"""Derivative oracles: is a gradient right, and the gradient of that gradient?

With φ₀(x) = ⟨u, f(x)⟩ and φₖ(x) = ⟨∇φₖ₋₁(x), vₖ⟩, order k of the engine is
compared with one difference of its own order k−1 along vₖ, for random u, v₁,
v₂, …: differences of differences would lose too many digits.
"""

from dataclasses import dataclass, field

import numpy as np

from tinygan import tree as trees
from tinygan.backend import Stream, device_of, to_device
from tinygan.engine import Tensor, grad, track

STEP = 1e-3  # of the five-point difference: error ~ STEP⁴, rounding ~ 1e-16/STEP
COMPLEX_STEP = 1e-30


class GradientError(AssertionError):
    """A derivative that differs from its oracle; its text is the report."""


@dataclass(frozen=True)
class Row:
    """One comparison: derivative ``order`` along a direction, by the engine and by an oracle."""

    order: int
    oracle: str
    engine: float
    expected: float
    error: float
    note: str = ""


@dataclass
class Report:
    """What :func:`check_gradients` found: print it, or read ``rows``, ``worst`` and ``passed``."""

    tolerance: float
    complex_tolerance: float
    rows: list = field(default_factory=list)

    def _bad(self, row):
        limit = self.complex_tolerance if row.oracle == "complex step" else self.tolerance
        return not row.error <= limit

    @property
    def passed(self):
        """Whether every error is within its tolerance; NaN is not."""
        return not any(self._bad(row) for row in self.rows)

    @property
    def worst(self):
        """The largest relative error of each order: ``{1: 2e-13, 2: ...}``; NaN counts as worst."""
        worst = {}
        for row in self.rows:
            # np.maximum keeps a NaN
            worst[row.order] = float(np.maximum(worst.get(row.order, 0.0), row.error))
        return worst

    def __str__(self):
        lines = [f"{'order':>5}  {'oracle':<12} {'engine':>17} {'oracle says':>17} {'error':>9}"]
        for row in self.rows:
            verdict = "  WRONG" if self._bad(row) else ""
            lines.append(
                f"{row.order:>5}  {row.oracle:<12} {row.engine:>17.10g} {row.expected:>17.10g} "
                f"{row.error:>9.1e}{verdict}{'  ' + row.note if row.note else ''}"
            )
        return "\n".join(lines)

    def _repr_html_(self):
        from tinygan import html  # for notebooks alone

        rows = []
        for row in self.rows:
            error = f"{row.error:.1e}"
            if self._bad(row):
                error = html.Bold(f"{error} WRONG")
            numbers = f"{row.engine:.10g}", f"{row.expected:.10g}"
            rows.append((row.order, row.oracle, *numbers, error, row.note))
        head = ("order", "oracle", "engine", "oracle says", "error", "")
        caption = f"Derivatives, {'right' if self.passed else 'WRONG'} to {self.tolerance:g}"
        return html.table(rows, head, caption, "rlrrrl")


def check_gradients(
    f,
    x,
    order=2,
    *,
    tolerance=1e-6,
    complex_step=False,
    complex_tolerance=1e-8,
    directions=2,
    stream=None,
    raises=True,
):
    """Compare the derivatives of f at x, of orders 1 to ``order``, with finite differences.

    Error: |engine − oracle| / max(|engine|, |oracle|, 10⁻⁴(1 + |φₖ₋₁|)); NaN, which does not pass,
    if one of them is.

    Args:
        f: a function of one tree of Tensors that returns a Tensor or a tree of them. It must be
            smooth within 2·10⁻³ of x: keep away from the kinks of ReLU and the like.
        x: a tree of float64 arrays.
        tolerance: the largest relative error against differences that passes.
        complex_step: compare with Im φ(x + ih·v)/h as well, exact to rounding, for an f that is
            analytic (no abs, no comparison that depends on the imaginary part).
        directions: how many random (u, v₁, v₂, …) are tried.
        stream: the random stream of the directions; ``Stream(0)`` without one.
        raises: whether an error above the tolerance raises.
    Returns: a :class:`Report`; print it.
    Raises: GradientError, with the report as its text; TypeError if x is not float64.
    """
    if order < 1 or directions < 1:
        raise ValueError(f"order {order}, directions {directions}; expected at least 1 of each")
    for path, a in trees.paths(x):
        if getattr(a, "dtype", None) != np.float64:
            raise TypeError(
                f"check_gradients: x{'.' + path if path else ''} is "
                f"{getattr(a, 'dtype', type(a).__name__)}; expected a float64 array, since "
                "differences in float32 prove nothing"
            )
    stream = stream or Stream(0)
    report = Report(tolerance, complex_tolerance)
    shapes = trees.tree_map(lambda a: a.data if type(a) is Tensor else _array(a), f(track(x)))
    for _ in range(directions):
        u = _normal_like(shapes, stream)
        vs = [_normal_like(x, stream) for _ in range(order)]
        for k in range(1, order + 1):
            report.rows += _compare(f, x, u, vs[:k], complex_step)
    if raises and not report.passed:
        raise GradientError(f"derivatives differ from their oracles\n{report}")
    return report


def _array(a):
    return a if hasattr(a, "dtype") else np.asarray(a)


def directional(f, x, u, vs):
    """φₖ(x), k = len(vs): f's derivative along v₁, …, vₖ, weighed by u, by the engine. A number."""
    # Not track(): the complex step brings complex arrays. [...]: 0-d sums are NumPy scalars.
    x = trees.tree_map(lambda a: Tensor(a[...]), x)
    y = trees.tree_map(lambda a: a if type(a) is Tensor else Tensor(_array(a)), f(x))
    y, x = trees.leaves(y), trees.leaves(x)
    along = trees.leaves(u)
    for v in vs:
        along = [a.astype(t.dtype) for a, t in zip(along, y, strict=True)]
        y = grad(y, x, along)
        along = trees.leaves(v)
    return sum((a * t.data).sum() for a, t in zip(along, y, strict=True)).item()


def _compare(f, x, u, vs, complex_step):
    order, v = len(vs), vs[-1]

    def before(step):
        moved = trees.tree_map(lambda a, d: a + step * d, x, v)
        return directional(f, moved, u, vs[:-1])

    engine = directional(f, x, u, vs)
    scale = 1e-4 * (1 + abs(before(0.0)))
    near = (before(STEP) - before(-STEP)) / (2 * STEP)
    far = (before(2 * STEP) - before(-2 * STEP)) / (4 * STEP)
    difference = (4 * near - far) / 3
    rough = abs(near - far) > 0.01 * _largest(near, far, scale)
    note = "steps of 1e-3 and 2e-3 disagree: a kink nearby?" if rough else ""
    rows = [_row(order, "difference", engine, difference, scale, note)]
    if complex_step:
        exact = before(1j * COMPLEX_STEP).imag / COMPLEX_STEP
        rows.append(_row(order, "complex step", engine, exact, scale, ""))
    return rows


def _row(order, oracle, engine, expected, scale, note):
    error = abs(engine - expected) / _largest(engine, expected, scale)
    return Row(order, oracle, engine, expected, error, note)


def _largest(*numbers):
    """The largest absolute value; NaN if one is, where max() may pass over it."""
    return float(np.max(np.abs(numbers)))


def _normal_like(tree, stream):
    def draw(a):
        return to_device(stream.normal(a.shape, np.float64), device_of(a))

    return trees.tree_map(draw, tree)
