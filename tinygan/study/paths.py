"""The critic between a real and a fake sample: its slopes along the straight path.

    c(t) = y + t·(x − y), t from 0 to 1, x real, y fake

The integral of ∇d along the path is d(x) − d(y), whatever the critic: it cannot tell two samples
apart without being steep somewhere between them, at least |d(x) − d(y)|/‖x − y‖. P3's penalty is
smallest, for given mean slope, where all slopes are equal: the coefficient of variation says how
far from that a critic is.
"""

from typing import NamedTuple

import numpy as np

from tinygan.backend import array_module, to_host
from tinygan.study.fields import _slopes
from tinygan.study.mixing import _expect_floats


class PathSlopes(NamedTuple):
    """What :func:`path_slopes` finds, on the host, in float64.

    Args:
        t: where on the path, 0 at the fake sample and 1 at the real one, (n,).
        values: d there, (pairs, n).
        norms: ‖∇d‖ there, (pairs, n).
        directional: ⟨∇d, (x − y)/‖x − y‖⟩ there, (pairs, n).
        lengths: ‖x − y‖, (pairs,).
    """

    t: np.ndarray
    values: np.ndarray
    norms: np.ndarray
    directional: np.ndarray
    lengths: np.ndarray

    @property
    def largest(self):
        """The largest norm at any point of any path."""
        return float(self.norms.max())

    @property
    def mean(self):
        """The mean of all norms."""
        return float(self.norms.mean())

    @property
    def variation(self):
        """The coefficient of variation of all norms: 0 where all are equal.

        std ‖∇d‖ / mean ‖∇d‖, the deviation with 1/n; from E‖∇d‖² = mean²·(1 + variation²), it says
        how much of a zero-centred penalty is spent on unequal slopes

        Raises: ValueError where all slopes are 0, as of a constant critic.
        Source: P3 section 3.2, by Cauchy and Schwarz.
        """
        if self.mean == 0:
            raise ValueError(
                "PathSlopes.variation: all slopes are 0, so there is no coefficient of variation; "
                "expected a critic that is not constant along all paths"
            )
        return float(self.norms.std()) / self.mean


class LineIntegrals(NamedTuple):
    """What :func:`line_integrals` finds, one number for each pair, in float64.

    Args:
        integral: ∫ ⟨∇d(c(t)), x − y⟩ dt from 0 to 1, by quadrature.
        difference: d(x) − d(y).
        steepest: the largest ‖∇d‖ at the nodes.
        lengths: ‖x − y‖.
    """

    integral: np.ndarray
    difference: np.ndarray
    steepest: np.ndarray
    lengths: np.ndarray

    @property
    def error(self):
        """|integral − difference|: of quadrature, and of rounding."""
        return abs(self.integral - self.difference)

    @property
    def bound(self):
        """What some slope of the path reaches at least: |d(x) − d(y)|/‖x − y‖."""
        return abs(self.difference) / self.lengths


def path_slopes(critic, real, fake, n=32, of=None, batch=8192):
    """The critic's slopes on the straight paths between pairs of a real and a fake sample.

    ‖∇d(y + t·(x − y))‖ at n even steps of t from 0 to 1, d = of(D)

    Args:
        critic: a function of points alone that gives one logit each.
        real, fake: arrays x and y, in pairs.
        n: how many points of each path, its ends among them.
        of: what is differentiated, a function of the logit such as :func:`tinygan.ops.sigmoid`;
            None is the logit itself.
        batch: how many points go through the critic at once, or one path if that is more.
    Shapes: real, fake (pairs, ...); returns a :class:`PathSlopes`.
    Raises: ValueError for shapes or dtypes that make no pairs, a pair that coincides, n below 2,
        logits of another shape (also after ``of``), slopes that are not finite, and a critic that
        mixes samples through an op that is marked, as batch norm's is. Mixing without a mark is not
        seen here, and the slopes then depend on ``batch``: :func:`tinygan.study.mixing.mixing`
        finds it.
    Source: P3 sections 2.2.2 and 3.2.
    """
    if n < 2:
        raise ValueError(f"path_slopes: n is {n}; expected 2 or more, the ends of a path")
    t = np.linspace(0, 1, n)
    return PathSlopes(t, *_along("path_slopes", critic, real, fake, t, of, batch))


def line_integrals(critic, real, fake, nodes=8, pieces=16, of=None, batch=8192):
    """The integral of the critic's slope along each path, beside the difference of its ends.

    ∫ ⟨∇d, ds⟩ = d(x) − d(y), so that max ‖∇d‖ ≥ |d(x) − d(y)|/‖x − y‖

    By Gauss–Legendre quadrature on equal pieces of the path: exact for polynomials of degree
    2·nodes − 1. The slope of a ReLU critic jumps, so its error falls as 1/pieces only, whatever the
    nodes.

    Args:
        nodes: points on each piece.
        pieces: of each path.
        critic, real, fake, of, batch: as in :func:`path_slopes`.
    Shapes: real, fake (pairs, ...); returns a :class:`LineIntegrals`.
    Raises: ValueError as :func:`path_slopes`, and for nodes or pieces below 1.
    Source: P3 section 2.2.2.
    """
    if nodes < 1 or pieces < 1:
        raise ValueError(f"line_integrals: {nodes} nodes on {pieces} pieces; expected 1 or more")
    place, weight = np.polynomial.legendre.leggauss(nodes)
    start = np.arange(pieces)[:, None] / pieces
    t = (start + (place + 1) / (2 * pieces)).ravel()
    weight = np.tile(weight / (2 * pieces), pieces)
    t = np.concatenate([[0.0], t, [1.0]])  # the ends are for the difference alone
    found = _along("line_integrals", critic, real, fake, t, of, batch)
    values, norms, directional, lengths = found
    integral = directional[:, 1:-1] @ weight * lengths
    return LineIntegrals(
        integral, values[:, -1] - values[:, 0], norms[:, 1:-1].max(axis=1), lengths
    )


def _along(name, critic, real, fake, t, of, batch):
    """Values, norms, directional derivatives (pairs, len(t)), and lengths (pairs,)."""
    _expect_pairs(name, real, fake)
    xp, pairs, axes = array_module(real), real.shape[0], tuple(range(1, real.ndim))
    way = to_host(real).astype(np.float64) - to_host(fake)
    lengths = np.sqrt(np.square(way).sum(axis=axes))
    coinciding = np.flatnonzero(lengths == 0)
    if coinciding.size:
        raise ValueError(
            f"{name}: real and fake are the same point in pair {coinciding[0]} ({coinciding.size} "
            f"of {pairs} pairs); expected pairs that differ: a path needs a length"
        )
    ticks = xp.asarray(t, real.dtype).reshape(1, len(t), *(1,) * len(axes))
    values, norms, directional = (np.empty((pairs, len(t))) for _ in range(3))
    several = max(1, batch // len(t))
    for start in range(0, pairs, several):
        part = slice(start, start + several)
        x, y = real[part, None], fake[part, None]
        points = x * ticks + y * (1 - ticks)  # at t = 0 and 1 the samples themselves, to the bit
        d, slope = _slopes(name, critic, points.reshape(-1, *real.shape[1:]), of)
        shape = (len(points), len(t))
        values[part] = d.reshape(shape)
        slope = slope.reshape(*shape, -1).astype(np.float64)
        norms[part] = np.linalg.norm(slope, axis=2)
        unit = way[part].reshape(len(points), -1) / lengths[part, None]
        directional[part] = np.einsum("ptc,pc->pt", slope, unit)
    for what, found in {"value": values, "slope": norms}.items():
        if not np.isfinite(found).all():
            pair, at = np.argwhere(~np.isfinite(found))[0]
            raise ValueError(
                f"{name}: the critic's {what} is not finite in pair {pair} at t = {t[at]:.3g}; "
                "expected finite numbers (did training diverge?)"
            )
    return values, norms, directional, lengths


def _expect_pairs(name, real, fake):
    for who, a in {"real": real, "fake": fake}.items():
        _expect_floats(name, who, a, "(pairs, ...)", 2)
    if real.shape != fake.shape or real.dtype != fake.dtype or not real.size:
        raise ValueError(
            f"{name}: real {real.dtype}{list(real.shape)} and fake "
            f"{fake.dtype}{list(fake.shape)} make no pairs; expected equal shapes and dtypes, and "
            "at least one pair"
        )
