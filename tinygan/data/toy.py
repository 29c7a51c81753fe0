"""What a GAN is trained on: toy distributions of points in the plane.

Each toy set is a small frozen object with ``sample(n, stream)``. Samples are n×2
arrays on the stream's device, and the stream's state fixes their every bit.
Lengths are in the units of the points throughout.
"""

import math
import numbers
import operator
from dataclasses import dataclass

import numpy as np

from tinygan.backend import Stream, to_device, to_host


@dataclass(frozen=True, eq=False)
class Mixture:
    """An equal-weight mixture of K isotropic Gaussians in the plane.

    p(x) = 1/K · Σₖ N(x; cₖ, σ²I)

    Args:
        centres: the cₖ; kept as a read-only float64 copy.
        deviation: σ, the standard deviation of each coordinate within a mode.
    Shapes: centres K×2.
    Raises: ValueError for centres that are not K×2 finite numbers, or a deviation
        that is not positive and finite.
    Source: the toy sets of Gulrajani et al., Improved training of Wasserstein GANs (2017).
    """

    centres: np.ndarray
    deviation: float

    def __post_init__(self):
        _freeze(self, centres=_plane("Mixture", "centres", self.centres))
        if len(self.centres) == 0:
            raise ValueError("Mixture: centres is empty; expected at least one centre")
        _freeze(self, deviation=_positive("Mixture", "deviation", self.deviation))

    @property
    def radius(self):
        """The largest norm of a centre, maxₖ ‖cₖ‖."""
        return float(np.hypot(self.centres[:, 0], self.centres[:, 1]).max())

    def sample(self, n, stream, dtype=np.float32):
        """n independent points: cₖ + σ·e, with e ~ N(0, I) and k uniform, drawn in that order.

        Shapes: returns n×2, of ``dtype`` (float32 or float64), on the stream's device.
        Raises: TypeError or ValueError for n, a stream or a dtype of the wrong kind.
        """
        n = _draws("Mixture", n, stream)
        noise = stream.normal((n, 2), dtype)
        mode = stream.integers(n, len(self.centres))
        centres = to_device(self.centres.astype(dtype), stream.device)
        return centres[mode] + self.deviation * noise

    def log_density(self, points):
        """log p at each point, in nats; finite far from every mode, where p itself is 0.

        Shapes: points m×2, NumPy or CuPy; returns m, NumPy float64.
        Raises: ValueError for points that are not m×2 finite numbers.
        """
        points = _plane("Mixture.log_density", "points", points)
        total = np.full(len(points), -math.inf)
        for centre in self.centres:
            x, y = ((points - centre) / self.deviation).T
            total = np.logaddexp(total, -0.5 * (x * x + y * y))
        return total - math.log(len(self.centres) * 2 * math.pi * self.deviation**2)

    def density(self, points):
        """p at each point, per unit of area: exp of :meth:`log_density`.

        Shapes: points m×2, NumPy or CuPy; returns m, NumPy float64.
        Raises: ValueError for points that are not m×2 finite numbers.
        """
        return np.exp(self.log_density(points))


@dataclass(frozen=True, eq=False)
class Gaussian:
    """One Gaussian in the plane, N(mean, covariance).

    p(x) = exp(−½ (x−μ)ᵀ Σ⁻¹ (x−μ)) / (2π √det Σ)

    Args:
        mean: μ; kept as a read-only float64 copy.
        covariance: Σ, symmetric and positive definite; likewise.
    Shapes: mean 2, covariance 2×2.
    Raises: ValueError for other shapes, numbers that are not finite, or a covariance
        that is not symmetric and positive definite.
    """

    mean: np.ndarray
    covariance: np.ndarray

    def __post_init__(self):
        mean = np.asarray(to_host(self.mean))
        if mean.shape != (2,):
            raise ValueError(f"Gaussian: mean has shape {mean.shape}; expected (2,)")
        mean = _plane("Gaussian", "mean", mean[None])[0]
        covariance = _plane("Gaussian", "covariance", self.covariance)
        if len(covariance) != 2:
            raise ValueError(f"Gaussian: covariance has shape {covariance.shape}; expected (2, 2)")
        if covariance[0, 1] != covariance[1, 0] or not _positive_definite(covariance):
            raise ValueError(
                f"Gaussian: covariance is {covariance.tolist()}; expected a symmetric positive "
                "definite matrix: equal off the diagonal, variances and determinant above 0"
            )
        _freeze(self, mean=mean, covariance=covariance)

    def sample(self, n, stream, dtype=np.float32):
        """n independent points: μ + L·e, with e ~ N(0, I) and Σ = LLᵀ, L lower triangular.

        Shapes: returns n×2, of ``dtype`` (float32 or float64), on the stream's device.
        Raises: TypeError or ValueError for n, a stream or a dtype of the wrong kind.
        """
        n = _draws("Gaussian", n, stream)
        noise = stream.normal((n, 2), dtype)
        # Column by column and not by a matrix product, whose bits differ between BLASes.
        mean, first, second = (
            to_device(row.astype(dtype), stream.device) for row in (self.mean, *self._factor().T)
        )
        return mean + noise[:, :1] * first + noise[:, 1:] * second

    def log_density(self, points):
        """log p at each point, in nats; finite where p itself is 0.

        Shapes: points m×2, NumPy or CuPy; returns m, NumPy float64.
        Raises: ValueError for points that are not m×2 finite numbers.
        """
        points = _plane("Gaussian.log_density", "points", points)
        (a, _), (b, c) = self._factor()
        dx, dy = (points - self.mean).T
        u = dx / a
        v = (dy - b * u) / c
        return -0.5 * (u * u + v * v) - math.log(2 * math.pi * a * c)

    def density(self, points):
        """p at each point, per unit of area: exp of :meth:`log_density`.

        Shapes: points m×2, NumPy or CuPy; returns m, NumPy float64.
        Raises: ValueError for points that are not m×2 finite numbers.
        """
        return np.exp(self.log_density(points))

    def _factor(self):
        """L of Σ = LLᵀ, by Cholesky's formula."""
        (p, q), (_, r) = self.covariance
        a = math.sqrt(p)
        return np.array([[a, 0.0], [q / a, math.sqrt((p * r - q * q) / p)]])


@dataclass(frozen=True)
class SwissRoll:
    """A spiral of one and a half turns with noise about it.

    x = scale/7.5 · ((t cos t, t sin t) + 0.25·e), t = 1.5π(1 + 2u), u ~ U[0,1), e ~ N(0, I)

    Args:
        scale: enlarges the whole set, its noise too.
    Raises: ValueError for a scale that is not positive and finite.
    Source: Gulrajani et al. (2017), their toy set.
    """

    scale: float = 1.0

    def __post_init__(self):
        _freeze(self, scale=_positive("SwissRoll", "scale", self.scale))

    @property
    def radius(self):
        """The largest norm of the curve without its noise: 4.5π/7.5 · scale."""
        return 4.5 * math.pi / 7.5 * self.scale

    def sample(self, n, stream, dtype=np.float32):
        """n independent points; the noise e is drawn first, then u.

        Shapes: returns n×2, of ``dtype`` (float32 or float64), on the stream's device.
        Raises: TypeError or ValueError for n, a stream or a dtype of the wrong kind.
        """
        n = _draws("SwissRoll", n, stream)
        noise = stream.normal((n, 2), dtype)
        t = 1.5 * math.pi * (1 + 2 * stream.uniform(n, dtype))
        curve = np.stack([t * np.cos(t), t * np.sin(t)], axis=1)
        return (curve + 0.25 * noise) * (self.scale / 7.5)


def ring(modes=8, radius=1.0, deviation=0.01):
    """Gaussians evenly spaced on a circle, the first on the positive x axis.

    cₖ = radius · (cos 2πk/modes, sin 2πk/modes), k = 0 … modes−1: all distinct.
    (``linspace(0, 2π, modes)`` would put the last on top of the first.)

    Shapes: returns a :class:`Mixture` of ``modes`` centres.
    Raises: TypeError or ValueError for modes, radius or deviation that are not positive.
    Source: Metz et al., Unrolled GANs (2017); Srivastava et al., VEEGAN (2017); Lin et al.,
        PacGAN (2018).
    """
    modes = _count("ring", "modes", modes)
    radius = _positive("ring", "radius", radius)
    deviation = _positive("ring", "deviation", deviation)
    angle = 2 * math.pi * np.arange(modes) / modes
    return Mixture(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), deviation)


def grid(side=5, spacing=2.0, deviation=0.05):
    """Gaussians on a square grid about the origin, side·side of them.

    c = spacing · (i, j), i and j from −(side−1)/2 to (side−1)/2 in steps of 1;
    the default reaches from −4 to 4.

    Shapes: returns a :class:`Mixture` of side² centres.
    Raises: TypeError or ValueError for side, spacing or deviation that are not positive.
    Source: Srivastava et al., VEEGAN (2017); Lin et al., PacGAN (2018).
    """
    side = _count("grid", "side", side)
    spacing = _positive("grid", "spacing", spacing)
    deviation = _positive("grid", "deviation", deviation)
    place = spacing * (np.arange(side) - (side - 1) / 2)
    x, y = np.meshgrid(place, place, indexing="ij")
    return Mixture(np.stack([x.ravel(), y.ravel()], axis=1), deviation)


def eight_gaussians(scale=2.0):
    """Eight Gaussians on a circle of radius scale/1.414, σ = 0.02/1.414 whatever the scale.

    x = (scale·c + 0.02·e)/1.414, e ~ N(0, I), c one of eight points of the unit circle.
    Scale 2 is WGAN-GP's, scale 10 that of the 0-GP paper.

    Shapes: returns a :class:`Mixture` of 8 centres.
    Raises: ValueError for a scale that is not positive and finite.
    Source: Gulrajani et al. (2017); Thanh-Tung et al., Improving generalization and
        stability of GANs (2019).
    """
    scale = _positive("eight_gaussians", "scale", scale)
    return ring(modes=8, radius=scale / 1.414, deviation=0.02 / 1.414)


def twenty_five_gaussians(scale=1.0):
    """Twenty-five Gaussians on a 5×5 grid; the scale enlarges their noise too.

    x = scale · ((2i, 2j) + 0.05·e)/2.828, e ~ N(0, I), i and j from −2 to 2.

    Shapes: returns a :class:`Mixture` of 25 centres.
    Raises: ValueError for a scale that is not positive and finite.
    Source: Gulrajani et al. (2017).
    """
    scale = _positive("twenty_five_gaussians", "scale", scale)
    return grid(side=5, spacing=scale * 2 / 2.828, deviation=scale * 0.05 / 2.828)


def two_gaussians():
    """The pair (real, fake) on which discriminators overfit.

    real N((.4, .9), ((1, .5), (.5, 1))), fake N((1.3, 1.2), ((1, .7), (.7, 1)))

    Shapes: returns two :class:`Gaussian`.
    Source: Thanh-Tung et al. (2019), figure 1.
    """
    real = Gaussian([0.4, 0.9], [[1.0, 0.5], [0.5, 1.0]])
    fake = Gaussian([1.3, 1.2], [[1.0, 0.7], [0.7, 1.0]])
    return real, fake


def _freeze(instance, **fields):
    """Set the checked fields of a frozen dataclass; arrays become read-only."""
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
        object.__setattr__(instance, name, value)


def _draws(name, n, stream):
    """n, checked with the stream before anything is drawn from it."""
    if not isinstance(stream, Stream):
        raise TypeError(
            f"{name}.sample: stream is a {type(stream).__name__}; expected a random stream, "
            "as from tinygan.backend.Stream(0)"
        )
    return _count(f"{name}.sample", "n", n)


def _count(where, name, value):
    try:
        value = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{where}: {name} is {value!r}; expected a whole number above 0") from error
    if value < 1:
        raise ValueError(f"{where}: {name} is {value}; expected a whole number above 0")
    return value


def _positive(where, name, value):
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{where}: {name} is {value!r}; expected a positive number")
    if not 0 < value < math.inf:
        raise ValueError(f"{where}: {name} is {value!r}; expected a positive, finite number")
    return float(value)


def _plane(where, name, points):
    """A float64 NumPy copy of ``points``, checked to be m×2 finite numbers."""
    points = np.asarray(to_host(points))
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
        raise ValueError(
            f"{where}: {name} is a {points.dtype} array of shape {points.shape}; expected real "
            "numbers, one row of 2 coordinates per point"
        )
    points = points.astype(np.float64)
    if not np.isfinite(points).all():
        raise ValueError(f"{where}: {name} holds NaN or infinity; expected finite numbers")
    return points


def _positive_definite(matrix):
    (p, q), (_, r) = matrix
    return p > 0 and p * r - q * q > 0
