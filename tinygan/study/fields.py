"""The critic as a landscape: its values and slopes on a grid of the plane, or at any points.

The part of the plane is a number e for the square [−e, e]², a pair (low, high) for the square
[low, high]², or two pairs, x's and y's, for any box.
"""

from typing import NamedTuple

import numpy as np

from tinygan.backend import to_device, to_host
from tinygan.engine import Tensor, grad_values, track, values
from tinygan.ops import sum
from tinygan.study.mixing import _expect_floats, marked_calls


def box(extent):
    """The part of the plane that ``extent`` names: ((x low, x high), (y low, y high)), floats.

    >>> box(2)
    ((-2.0, 2.0), (-2.0, 2.0))
    >>> box((-2.5, 4.5))
    ((-2.5, 4.5), (-2.5, 4.5))
    >>> box(((0, 1), (0, 3)))
    ((0.0, 1.0), (0.0, 3.0))

    Raises: ValueError for anything else, for a low end that is not below the high one, and for
        ends that are not finite.
    """
    try:
        ends = np.asarray(extent)
        ends = ends.astype(np.float64) if ends.dtype.kind in "iuf" else np.empty(0)
    except ValueError:  # pairs of unequal length
        ends = np.empty(0)
    if ends.shape == ():
        ends = np.stack([-ends, ends])
    if ends.shape == (2,):
        ends = np.stack([ends, ends])
    if ends.shape != (2, 2) or not np.isfinite(ends).all() or not (ends[:, 0] < ends[:, 1]).all():
        raise ValueError(
            f"extent is {extent!r}; expected a number above 0 for the square about the origin, "
            "(low, high) for a square, or ((x low, x high), (y low, y high)), low below high"
        )
    (left, right), (bottom, top) = ends.tolist()
    return (left, right), (bottom, top)


def grid_points(extent, n):
    """n×n points on a part of the plane, row by row from below, its edges included.

    Args:
        extent: as in :func:`box`.
    Shapes: (n·n, 2), float64.
    """
    x, y = np.meshgrid(*(np.linspace(low, high, n) for low, high in box(extent)))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def value_surface(critic, extent, n=100, of=None, device="cpu", dtype=np.float32):
    """The critic's values on :func:`grid_points`, as an image whose first row is the lowest.

    A critic with batch norm is shown as it is of the grid as one batch.

    Args:
        critic: a function of points alone that gives one logit each.
        extent: as in :func:`box`.
        of: a function of the logit to show instead, such as :func:`tinygan.ops.sigmoid`.
    Shapes: (n, n).
    Raises: ValueError for n below 1, a dtype of no floats, values of another shape, and values that
        are not finite.
    Source: the panels of P3's Figure 1.
    """
    points = _grid("value_surface", extent, n, dtype)
    y = critic(to_device(points, device))
    found = to_host(values(_shown("value_surface", y, points, of)))
    _expect_finite("value_surface", "value", found, points)
    return found.reshape(n, n)


def gradient_field(critic, extent, n=20, of=None, device="cpu", dtype=np.float32):
    """Points of a grid and the critic's slope at each: ∇ₓ of(D(x)).

    Args: as in :func:`value_surface`.
    Shapes: points and slopes (n·n, 2).
    Raises: ValueError as :func:`value_surface`, and as :func:`slopes_at`.
    Source: the panels of P3's Figure 2, where ``of`` is :func:`tinygan.ops.log_sigmoid`.
    """
    return _field("gradient_field", critic, extent, n, of, device, dtype)


class Slopes(NamedTuple):
    """What :func:`slopes_at` finds at each point, on the host: of(D(x)), and ∇ₓ of(D(x))."""

    values: np.ndarray
    slopes: np.ndarray


def slopes_at(critic, points, of=None):
    """The critic's values and slopes at any points: of(D(x)) and ∇ₓ of(D(x)).

    In the precision of the points.

    Args:
        critic: a function of points alone that gives one logit each.
        points: an array where the critic lives.
        of: as in :func:`value_surface`.
    Shapes: points (N, ...); returns a :class:`Slopes`, (N,) and as the points.
    Raises: ValueError for points that are no array of floats, logits of another shape (also after
        ``of``), values or slopes that are not finite, and a critic that mixes samples through an op
        that is marked, as batch norm's is; :func:`tinygan.study.mixing.mixing` finds the others.
    """
    _expect_floats("slopes_at", "points", points, "(N, ...)", 2)
    found = Slopes(*_slopes("slopes_at", critic, points, of))
    for what, a in zip(("value", "slope"), found, strict=True):
        _expect_finite("slopes_at", what, a, points)
    return found


class Steepest(NamedTuple):
    """What :func:`steepest` finds: the norm of a slope, and the point (2,) where it is."""

    norm: float
    point: np.ndarray


def steepest(critic, extent, n=100, of=None, device="cpu", dtype=np.float32):
    """The largest slope at the points of a grid: max ‖∇ₓ of(D(x))‖.

    A lower bound of the largest on the whole box. The slopes are the engine's: differences between
    neighbours of a grid would smooth what is steep.

    Args: as in :func:`value_surface`.
    Raises: ValueError as :func:`gradient_field`.
    """
    points, slopes = _field("steepest", critic, extent, n, of, device, dtype)
    norms = np.linalg.norm(slopes.astype(np.float64), axis=1)
    at = int(norms.argmax())
    return Steepest(float(norms[at]), points[at])


def _grid(name, extent, n, dtype):
    if n < 1:
        raise ValueError(f"{name}: n is {n}; expected 1 or more, the points along a side")
    if np.dtype(dtype).kind != "f":  # whole numbers would move the points
        raise ValueError(f"{name}: dtype is {np.dtype(dtype)}; expected floats, such as np.float32")
    return grid_points(extent, n).astype(dtype)


def _field(name, critic, extent, n, of, device, dtype):
    """(points, slopes) of a grid, checked."""
    points = _grid(name, extent, n, dtype)
    _, slopes = _slopes(name, critic, to_device(points, device), of)
    _expect_finite(name, "slope", slopes, points)
    return points, slopes


def _slopes(name, critic, points, of):
    """d = of(D) and ∇d at points, on the host, (N,) and as the points. They may not be finite.

    ``name`` is the function that errors speak of.
    """
    x = track(points, "points")
    y = _shown(name, critic(x), points, of)
    if type(y) is not Tensor:  # a critic that ignores its points
        return to_host(y).reshape(-1), np.zeros(points.shape, points.dtype)
    found = marked_calls(y, x)
    if found:
        raise ValueError(
            f"{name}: the critic uses {found[0]}, which mixes the samples of a batch, so that a "
            "point has no slope of its own. Give the critic standing statistics, or use layer "
            "norm or no normalisation in it"
        )
    return to_host(y.data).reshape(-1), to_host(grad_values(sum(y), x))


def _shown(name, y, points, of):
    """of(y), where both have one number for each point."""
    _expect_one_each(f"{name}: the critic", y, points)
    if of is None:
        return y
    y = of(y)
    _expect_one_each(f"{name}: `of`", y, points)
    return y


def _expect_one_each(who, y, points):
    n, given = len(points), getattr(y, "shape", type(y).__name__)
    if given not in ((n,), (n, 1)):
        raise ValueError(
            f"{who} gave {given} for points {points.shape}; expected one logit for each sample, "
            f"({n},) or ({n}, 1)"
        )


def _expect_finite(name, what, found, points):
    finite = np.isfinite(found).all(axis=tuple(range(1, found.ndim)))
    if not finite.all():
        i = np.flatnonzero(~finite)[0]
        where = to_host(points[i]).tolist() if points[i].size <= 3 else f"point {i}"
        raise ValueError(
            f"{name}: the critic's {what} is not finite at {where}; expected finite numbers "
            "(did training diverge?)"
        )
