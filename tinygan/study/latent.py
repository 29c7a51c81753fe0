"""Walks through the latent space: paths between points, combinations of them, grids of classes.

Everything here makes latent points; a generator makes the images. One with batch norm should be
given :func:`tinygan.models.standing_statistics`: in a batch of points that lie close together, as
on a short path, the batch's own statistics would blow up what little differs.

Source: P4, section 3.4 and figures 6 and 7.
"""

import math
from typing import NamedTuple

import numpy as np

from tinygan.backend import device_of, to_device, to_host
from tinygan.engine import values
from tinygan.ops import concatenate, one_hot

IMAGES = 21
"""Points of a path: P4's."""

NARROW = 0.02
"""The deviation of P4's endpoints; the prior of its generators has 1."""


def endpoints(stream, latent, n=2, deviation=1.0, dtype=np.float32):
    """n latent points zᵢ ~ N(0, σ²I).

    In d dimensions two of them are about σ·√(2d) apart. With P4's σ = .02 and d = 100 that is .28,
    where points of the prior N(0, I) are 14 apart: nearly one point.

    Args:
        deviation: σ; 1 is the prior, .02 is P4's (:data:`NARROW`).
    Shapes: (n, latent).
    Raises: ValueError for a deviation that is not above 0.
    Source: P4, section 3.4.
    """
    if not 0 < deviation < math.inf:
        raise ValueError(
            f"endpoints: deviation is {deviation}; expected a number above 0, 1 for the prior"
        )
    points = stream.normal((n, latent), dtype)
    return points * points.dtype.type(deviation)


def linear_path(start, end, n=IMAGES):
    """n points evenly along the segment from one latent point to another, both included.

    zᵢ = (1 − tᵢ)·start + tᵢ·end, t from 0 to 1

    The middle of a segment between two points of N(0, I) is nearer to 0, by √2, than almost all
    points that the generator has learned from; :func:`spherical_path` avoids that.

    Shapes: start, end (latent,), returns (n, latent).
    Raises: TypeError for what are no arrays of floats; ValueError for points of other shapes or
        that are not finite, and for n below 2.
    Source: P4, section 3.4, Zₙ = λR₁ + (1 − λ)R₂ with 21 images.
    """
    start, end = _ends("linear_path", start, end)
    t = to_device(np.linspace(0.0, 1.0, _number("linear_path", n)), device_of(start))
    t = t[:, None].astype(start.dtype)
    return (1 - t) * start + t * end


def spherical_path(start, end, n=IMAGES):
    """n points from one latent point to another along the arc between their directions.

    zᵢ = r(tᵢ)·[sin((1 − tᵢ)Ω)·a + sin(tᵢΩ)·b]/sin Ω, with a and b the directions of the two, Ω
    their angle, and r(t) = (1 − t)‖start‖ + t‖end‖

    The direction turns at constant speed while the length goes evenly from one to the other. Points
    of one length so stay on their sphere. Where the directions agree, Ω = 0, the limit is the
    segment.

    Shapes: start, end (latent,), returns (n, latent), in the dtype of start.
    Raises: ValueError for a point at 0, which has no direction; for opposite points, between which
        no arc is the shortest; and as :func:`linear_path`.
    Source: Shoemake, Animating rotation with quaternion curves (1985); White, Sampling generative
        networks (2016), section 2, the same for ends of one length.
    """
    start, end = _ends("spherical_path", start, end)
    n = _number("spherical_path", n)
    first, last = (to_host(z).astype(np.float64) for z in (start, end))
    r, s = np.linalg.norm(first), np.linalg.norm(last)
    if r == 0 or s == 0:
        which = "start" if r == 0 else "end"
        raise ValueError(
            f"spherical_path: {which} is 0 and has no direction; expected another point, or use "
            "linear_path"
        )
    a, b = first / r, last / s
    # Kahan's angle: arccos(a·b) would lose half of the digits of small and of nearly flat ones.
    angle = 2 * math.atan2(np.linalg.norm(a - b), np.linalg.norm(a + b))
    if math.pi - angle <= 8 * np.finfo(start.dtype).eps:
        raise ValueError(
            "spherical_path: start and end lie opposite each other, and no arc between them is the "
            "shortest; expected other points, or use linear_path"
        )
    t = np.linspace(0.0, 1.0, n)[:, None]
    if angle < 1e-9:  # sin(tΩ)/sin Ω is t, to far below a rounding
        weights = 1 - t, t
    else:
        weights = np.sin((1 - t) * angle) / math.sin(angle), np.sin(t * angle) / math.sin(angle)
    path = ((1 - t) * r + t * s) * (weights[0] * a + weights[1] * b)
    path[0], path[-1] = first, last  # exactly, not to rounding
    return to_device(path.astype(start.dtype), device_of(start))


def combination(points, weights):
    """Linear combinations of latent points.

    Σᵢ wᵢ·zᵢ

    Of points of N(0, I) it has the deviation √Σwᵢ²: the mean of two has 1/√2, and is so no typical
    point of the prior; weights with Σwᵢ² = 1 keep to it.

    Args:
        points: (k, latent).
        weights: numbers (k,), or one such row for each combination (m, k); (1, −1, 1) for
            z₁ − z₂ + z₃.
    Shapes: returns (latent,) or (m, latent).
    Raises: TypeError for points that are no array of floats; ValueError for points or weights that
        are not finite, and for weights of another number than the points.
    """
    _check_floats("combination", points=points)
    rows = np.asarray(weights, np.float64)
    if points.ndim != 2 or rows.ndim not in (1, 2) or rows.shape[-1] != len(points):
        raise ValueError(
            f"combination: weights of shape {rows.shape} for points of shape {points.shape}; "
            "expected points (k, latent) and k weights, or rows of k"
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"combination: weights {rows.tolist()}; expected finite numbers")
    if not np.isfinite(values(points)).all():
        raise ValueError("combination: a point that is not finite; expected finite latent points")
    return to_device(rows.astype(points.dtype), device_of(points)) @ points


def with_class(noise, labels, classes):
    """What a class-conditional generator is given: noise, and then the one-hot class.

    Args:
        labels: a class for each point, or one for all.
        classes: how many there are, K.
    Shapes: noise (n, d), labels (n,) or a number, returns (n, d + K).
    Raises: TypeError for noise that is no array of floats; TypeError or ValueError for labels that
        are no classes, or of another number.
    Source: AC-GAN, whose generator takes both side by side (:class:`tinygan.systems.ACGAN`).
    """
    _check_floats("with_class", noise=noise)
    labels = np.asarray(to_host(labels) if hasattr(labels, "shape") else labels)
    if labels.ndim == 0:
        labels = np.full(len(noise), labels)
    if labels.shape != (len(noise),):
        raise ValueError(
            f"with_class: labels of shape {labels.shape} for {len(noise)} points; expected one for "
            "each, or a single one for all"
        )
    codes = to_device(one_hot(labels, classes, noise.dtype), device_of(noise))
    return concatenate(noise, codes, axis=1)


def class_grid(noise, classes):
    """Every class at the same noise: a row of the grid for each class, a column for each noise.

    Row by row: point i·n + j is noise j with class i. What is the same down a column comes from the
    noise, what is the same along a row from the class.

    Shapes: noise (n, d), returns (classes·n, d + classes).
    Raises: TypeError for noise that is no array of floats; ValueError for less than one class.
    Source: P4, figure 5; Odena et al. (2017).
    """
    if classes < 1:
        raise ValueError(f"class_grid: {classes} classes; expected 1 or more")
    labels = np.repeat(np.arange(classes), len(noise))
    return with_class(concatenate(*[noise] * classes, axis=0), labels, classes)


class Shares(NamedTuple):
    """Of the variance of a grid of images: what each of its two sides accounts for; sum 1.

    Args:
        rows: the variance of the rows' means: what the class alone changes.
        columns: that of the columns' means: what the noise alone changes.
        both: the rest, what a class does to one noise and not to another.
    """

    rows: float
    columns: float
    both: float


def variance_shares(images, rows):
    """How much of what differs in a grid of images is due to its rows, and how much to its columns.

    x[i, j] = m + r[i] + c[j] + e[i, j], with r, c and e of mean 0 along i, j and both: the shares
    of Σ‖r[i]‖²·n, Σ‖c[j]‖²·k and Σ‖e[i, j]‖² in Σ‖x[i, j] − m‖²

    Args:
        rows: how many there are, k: of :func:`class_grid`, the classes.
    Shapes: images (k·n, ...), row by row; returns :class:`Shares`.
    Raises: ValueError for a number of images that does not fit, fewer than 2 rows or columns, and
        for images that are all the same.
    Source: the analysis of variance of two factors, Fisher (1925).
    """
    x = _images("variance_shares", images)
    if rows < 2 or len(x) % rows or len(x) // rows < 2:
        raise ValueError(
            f"variance_shares: {len(x)} images in {rows} rows; expected a grid of 2 rows and 2 "
            "columns or more"
        )
    # From the first image, which changes no share: images that are the same so differ by exactly 0,
    # not by what rounding makes of their mean.
    x = x - x[0]
    largest = np.abs(x).max(initial=0)
    if largest == 0:
        raise ValueError("variance_shares: all images are the same; expected some that differ")
    x = (x / largest).reshape(rows, len(x) // rows, -1)  # no square overflows, or vanishes
    x = x - x.mean(axis=(0, 1))
    r, c = x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    total = np.sum(x * x)
    parts = [np.sum(np.square(np.broadcast_to(part, x.shape))) for part in (r, c, x - r - c)]
    return Shares(*(float(part / total) for part in parts))


class PathLength(NamedTuple):
    """How images change along a path.

    Args:
        steps: ‖xᵢ₊₁ − xᵢ‖, in the images' units.
        length: Σ steps.
        chord: ‖xₙ − x₁‖, at most the length.
    """

    steps: np.ndarray
    length: float
    chord: float

    @property
    def unevenness(self):
        """The largest step over the mean one: 1 for an even change, n − 1 for a single jump.

        Raises: ValueError for a path on which nothing changes.
        """
        if self.length == 0:
            raise ValueError("PathLength: nothing changes along the path; no step is the largest")
        return float(self.steps.max() * len(self.steps) / self.length)


def path_length(images):
    """How far images go from one to the next, in the space of their pixels: a :class:`PathLength`.

    Shapes: images (n, ...), n of 2 or more; steps (n − 1,).
    Raises: ValueError for fewer than 2, and for images that are not finite.
    """
    x = _images("path_length", images)
    steps = np.linalg.norm(np.diff(x, axis=0), axis=1)
    return PathLength(steps, float(steps.sum()), float(np.linalg.norm(x[-1] - x[0])))


def typical_distance(images):
    """How far two independent samples are apart: the root of the mean square distance.

    √(2·Σ‖xᵢ − m‖²/(n − 1)), which is √E‖x − x'‖² without bias

    The measure for a path's chord: ends whose images are closer by far than this are nearly one
    image.

    Shapes: images (n, ...), n of 2 or more.
    Raises: as :func:`path_length`.
    """
    x = _images("typical_distance", images)
    return math.sqrt(2 * np.sum(np.square(x - x.mean(axis=0))) / (len(x) - 1))


def _images(name, images):
    x = np.asarray(to_host(images), np.float64)
    broken = x.size - int(np.isfinite(x).sum())
    if len(x) < 2 or broken:
        raise ValueError(
            f"{name}: {len(x)} images, {broken} of whose pixels are not finite; expected 2 or "
            "more images, all finite"
        )
    return x.reshape(len(x), -1)


def _check_floats(name, **arrays):
    """Integers would make integers of what they are multiplied by."""
    for what, a in arrays.items():
        dtype = getattr(a, "dtype", None)
        if getattr(dtype, "kind", "") != "f":
            given = f"a {type(a).__name__}" if dtype is None else f"{dtype}{list(a.shape)}"
            raise TypeError(
                f"{name}: {what} is {given}; expected an array of floats. Make it one with "
                "np.asarray(…, np.float32)"
            )


def _ends(name, start, end):
    _check_floats(name, start=start, end=end)
    if start.ndim != 1 or start.shape != end.shape or start.dtype != end.dtype:
        raise ValueError(
            f"{name}: start is {start.dtype}{list(start.shape)}, end {end.dtype}"
            f"{list(end.shape)}; expected two latent points of one shape (latent,) and one dtype"
        )
    if not (np.isfinite(start).all() and np.isfinite(end).all()):
        raise ValueError(f"{name}: an end that is not finite; expected finite latent points")
    return start, end


def _number(name, n):
    if n < 2:
        raise ValueError(f"{name}: n is {n}; expected 2 points or more, both ends among them")
    return n
