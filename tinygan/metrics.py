"""How far a set of samples is from where it should be.

Every function takes samples as n×d arrays of floats, NumPy or CuPy, computes on the
host in float64 and returns Python or NumPy numbers. Divergences are in nats, distances
in the units of the points.
"""

import math
import operator
from typing import NamedTuple

import numpy as np

from tinygan.backend import Stream, to_host


class Coverage(NamedTuple):
    """What :func:`mode_coverage` counts.

    Args:
        modes: modes with at least one high-quality sample.
        modes20: modes with at least 20.
        high_quality: the share of samples that are of high quality, 0 to 1.
        reverse_kl: KL(histogram of high-quality samples over modes ‖ uniform), nats.
        counts: high-quality samples of each mode, in the order of the mixture's centres.
    """

    modes: int
    modes20: int
    high_quality: float
    reverse_kl: float
    counts: np.ndarray


def mode_coverage(samples, mixture, within=None):
    """Which modes of a mixture the samples reach, and how many samples lie in a mode.

    A sample belongs to its nearest centre, and is of high quality if its distance
    from it is at most ``within``. With hₖ the share of mode k among the high-quality
    samples, reverse KL = Σₖ hₖ·log(K·hₖ): 0 for an even spread, log K for one mode.
    Without any high-quality sample there is no histogram, and it is infinite.

    Two protocols: 3σ, of which the mixture itself keeps 1 − exp(−9/2) = 98.9%; and
    ``within=0.05 * mixture.radius`` where modes are so narrow that 3σ is out of reach.
    Published tables use 2,500 samples.

    Args:
        mixture: a :class:`tinygan.data.Mixture`.
        within: a distance; ``None`` is 3 · mixture.deviation.
    Shapes: samples n×2; returns :class:`Coverage`, its counts of length K.
    Raises: TypeError or ValueError for samples that are not n×2 finite floats, or a
        distance that is not positive.
    Source: Srivastava et al., VEEGAN (2017); Lin et al., PacGAN (2018); Metz et al.,
        Unrolled GANs (2017).
    """
    samples = _points("mode_coverage", "samples", samples, columns=2)
    if not hasattr(mixture, "centres"):
        raise TypeError(
            f"mode_coverage: mixture is a {type(mixture).__name__}, which has no modes to cover; "
            "expected a Mixture, as from tinygan.data.ring()"
        )
    if within is None:
        within = 3 * mixture.deviation
    if not 0 < within < math.inf:
        raise ValueError(
            f"mode_coverage: within is {within!r}; expected a positive, finite distance, "
            "or None for 3 deviations"
        )
    centres = mixture.centres
    dx = samples[:, :1] - centres[:, 0]
    dy = samples[:, 1:] - centres[:, 1]
    distance = np.hypot(dx, dy)
    nearest = distance.argmin(axis=1)
    good = distance.min(axis=1) <= within
    counts = np.bincount(nearest[good], minlength=len(centres))
    total = int(counts.sum())
    reverse_kl = math.inf
    if total:
        share = counts[counts > 0] / total
        reverse_kl = float(np.sum(share * np.log(share * len(centres))))
    return Coverage(
        modes=int(np.sum(counts >= 1)),
        modes20=int(np.sum(counts >= 20)),
        high_quality=total / len(samples),
        reverse_kl=reverse_kl,
        counts=counts,
    )


def wasserstein1(x, y):
    """The exact W₁ between two samples of one size, under the Euclidean distance.

    W₁ = min over permutations π of 1/n · Σᵢ ‖xᵢ − y_π(i)‖, by linear assignment. Takes
    8n² bytes and time of order n³: seconds for 2,500 points. Two samples of one
    distribution are not at 0: take that of two real samples as the floor.

    Shapes: x and y n×d; returns a float.
    Raises: TypeError or ValueError for inputs that are not n×d finite floats of one shape.
    Source: Crouse, On implementing 2D rectangular assignment algorithms (2016), as in SciPy.
    """
    x, y = _pair("wasserstein1", x, y)
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(x, y)  # n×n; never n×n×d
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def sliced_wasserstein1(x, y, stream, projections=128):
    """The mean W₁ of two samples of one size, each seen along random directions.

    SW₁ = E over unit u of 1/n · Σᵢ |sort(x·u)ᵢ − sort(y·u)ᵢ|

    It is at most W₁; in the plane a shift by s gives 2‖s‖/π.

    Args:
        stream: gives the directions, uniform on the sphere.
        projections: how many directions; the result's error falls as 1/√projections.
    Shapes: x and y n×d; returns a float.
    Raises: TypeError or ValueError for inputs that are not n×d finite floats of one
        shape, or projections below 1.
    Source: Rabin et al., Wasserstein barycenter and its application to texture mixing (2011).
    """
    x, y = _pair("sliced_wasserstein1", x, y)
    if not isinstance(stream, Stream):
        raise TypeError(
            f"sliced_wasserstein1: stream is a {type(stream).__name__}; expected a random "
            "stream, as from tinygan.backend.Stream(0)"
        )
    projections = _count("sliced_wasserstein1", "projections", projections)
    directions = to_host(stream.normal((projections, x.shape[1]), np.float64))
    total = 0.0
    for direction in directions:  # one at a time: 2n numbers in memory, whatever the count
        along_x = np.sort(x @ direction)
        along_y = np.sort(y @ direction)
        total += np.abs(along_x - along_y).mean() / np.linalg.norm(direction)
    return float(total / projections)


def jensen_shannon(x, y, bins=50, range=None):
    """The Jensen-Shannon divergence of two samples in the plane, by a histogram of each.

    JSD = ½·Σ p·log(p/m) + ½·Σ q·log(q/m), m = (p + q)/2: from 0 to log 2.

    p and q are the shares of the samples in the bins, with one more bin for all that
    lies outside ``range``. Bins too large hide differences; bins too small invent them:
    two samples of n points from one distribution give about (B − 1)/(4n), B being the
    number of bins that hold points.

    Args:
        bins: how many along each axis.
        range: ((x low, x high), (y low, y high)); ``None`` is the box that holds both.
    Shapes: x n×2, y m×2; returns a float, nats.
    Raises: TypeError or ValueError for inputs that are not finite floats in the plane,
        bins below 1, or a range that is not two increasing pairs.
    Source: Lin, Divergence measures based on the Shannon entropy (1991).
    """
    x = _points("jensen_shannon", "x", x, columns=2)
    y = _points("jensen_shannon", "y", y, columns=2)
    bins = _count("jensen_shannon", "bins", bins)
    if range is None:
        low = np.minimum(x.min(axis=0), y.min(axis=0))
        high = np.maximum(x.max(axis=0), y.max(axis=0))
        box = np.stack([low, high], axis=1)
    else:
        box = _box(range)
    p = _histogram(x, bins, box)
    q = _histogram(y, bins, box)
    m = (p + q) / 2
    return 0.5 * _kl(p, m) + 0.5 * _kl(q, m)


def _histogram(points, bins, box):
    """Shares of the points in the bins, and last the share outside of the box."""
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=bins, range=box)[0].ravel()
    return np.append(counts, len(points) - counts.sum()) / len(points)


def _kl(p, m):
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / m[some])))


def _count(name, argument, value):
    try:
        value = operator.index(value)
    except TypeError as error:
        raise TypeError(
            f"{name}: {argument} is {value!r}; expected a whole number above 0"
        ) from error
    if value < 1:
        raise ValueError(f"{name}: {argument} is {value}; expected a whole number above 0")
    return value


def _box(box):
    box = np.asarray(box, np.float64)
    if box.shape != (2, 2) or not np.isfinite(box).all() or not (box[:, 0] < box[:, 1]).all():
        raise ValueError(
            f"jensen_shannon: range is {box.tolist()}; expected ((x low, x high), (y low, y high)) "
            "with low < high, or None"
        )
    return box


def _pair(name, x, y):
    x, y = _points(name, "x", x), _points(name, "y", y)
    if x.shape != y.shape:
        raise ValueError(
            f"{name}: x has shape {x.shape} and y {y.shape}; expected the same number of points "
            "of the same dimension: draw as many of one as of the other"
        )
    return x, y


def _points(name, argument, points, columns=None):
    """``points`` as an n×d float64 NumPy array of finite numbers, n and d at least 1."""
    points = np.asarray(to_host(points))
    expected = f"n×{columns}" if columns else "n×d"
    if points.ndim != 2 or columns not in (None, points.shape[1]):
        raise ValueError(
            f"{name}: {argument} has shape {points.shape}; expected {expected}, one row per point"
        )
    if points.dtype.kind != "f":
        raise TypeError(
            f"{name}: {argument} is of dtype {points.dtype}; expected floats: points.astype(float)"
        )
    if points.size == 0:
        raise ValueError(f"{name}: {argument} is empty; expected at least one point")
    points = points.astype(np.float64)
    if not np.isfinite(points).all():
        raise ValueError(
            f"{name}: {argument} holds NaN or infinity; expected finite numbers (did training "
            "diverge?)"
        )
    return points
