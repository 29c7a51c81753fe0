"""Batch norm and layer norm: values moved to mean 0 and variance 1, right to every order.

With P the centring (Px = x − mean x), n the count along the axes, r = 1/√(mean (Px)² + eps) and
x̂ = r·Px, the adjoint of x̂ with respect to x is

    x̄ = r·(Pg − x̂·mean(g·x̂))                                             (project)

which is linear and symmetric in g: project is its own rule there. Its rule in x is the gradient of
⟨u, project(h)⟩ = r·⟨u, Ph⟩ − r·⟨u, x̂⟩⟨h, x̂⟩/n; with dr = −r²·x̂/n and d⟨u, x̂⟩ = project(u),

    x̄ = −r²·(x̂·(mean(u·Ph) − 3·mean(u·x̂)·mean(h·x̂)) + Pu·mean(h·x̂) + Ph·mean(u·x̂))

in primitives, so all further orders follow. The mean and r are computed once and handed to the
primitives as arguments; they are functions of x, and their part is in x's own rule.
"""

import math

import numpy as np

from tinygan.backend import array_module
from tinygan.engine import primitive, sum_to
from tinygan.kernels import norm as kernels
from tinygan.kernels import serves
from tinygan.ops import add, multiply, negative, rsqrt, square, subtract
from tinygan.parallel import Scratch, blocks

BLOCK = 1 << 18  # elements at a time: a block's passes find it in the cache
PAYS = 1 << 20  # elements from which the batch is split over threads


def _mixes(*, axes, **_):
    return 0 in axes


def mean_over(a, axes):
    """The mean over axes, which stay with length 1.

    y = Σ a/n

    Shapes: a (N, ..., C), y the same with 1 for each of the axes.
    """
    kept = tuple(1 if i in axes else n for i, n in enumerate(a.shape))
    y = sum_to(a, shape=kept)
    return multiply(y, y.size / (a.size or 1))


def inverse_deviation(a, axes, eps):
    """One over the standard deviation over axes, which stay with length 1.

    y = 1/√(Σ (a − mean a)²/n + eps)

    Shapes: as in :func:`mean_over`.
    """
    return rsqrt(add(mean_over(square(subtract(a, mean_over(a, axes))), axes), eps))


@primitive
def block_mean(a, *, axes):
    """The mean over axes as a constant, summed block by block.

    y = Σ a/n

    Shapes: as in :func:`mean_over`.
    No rule, on purpose: the one of :func:`standardise` has its part.
    """
    if serves(a) and kernels.takes(axes, a):
        return kernels.mean(a, axes)
    return block_mean_into(_kept(a, axes), a, axes=axes)


@primitive
def block_inverse_deviation(a, mean, *, axes, eps):
    """One over the deviation from a known mean as a constant, summed block by block.

    y = 1/√(Σ (a − mean)²/n + eps)

    Shapes: as in :func:`mean_over`.
    No rule, on purpose: the one of :func:`standardise` has its part.
    """
    if serves(a) and kernels.takes(axes, a):
        return kernels.inverse_deviation(a, mean, axes, eps)
    return block_inverse_deviation_into(_kept(a, axes), a, mean, axes=axes, eps=eps)


@primitive(cross_sample=_mixes)
def standardise(a, mean, r, scale, shift, *, axes, eps):
    """a moved to mean 0 and variance 1 over the axes, then scaled and shifted by feature.

    y = scale·â + shift, â = r·(a − mean), with mean and r those of a

    Shapes: a (N, ..., C), scale and shift (C,), or numbers.
    Gradient: ā = project(ȳ): the whole derivative, through mean and r too; theirs are absent;
        s̄cale = Σ ȳ·â; s̄hift = Σ ȳ
    """
    if serves(a) and kernels.takes(axes, a, scale, shift):
        return kernels.standardise(a, mean, r, scale, shift, axes)
    y = array_module(a).empty_like(a)
    return standardise_into(y, a, mean, r, scale, shift)


@primitive(cross_sample=_mixes)
def project(h, a, mean, r, scale, *, axes, eps):
    """The adjoint of :func:`standardise`: what of h changes neither the mean nor the deviation.

    y = r·(k − mean k − â·mean(k·â)), â = r·(a − mean), k = h·scale

    Shapes: h, a, y (N, ..., C), scale (C,), or a number.
    Gradient: with p = project(ȳ) of scale 1, h̄ = p·scale; s̄cale = Σ p·h; ā as derived at the top
        of this file
    """
    if serves(a) and kernels.takes(axes, a, scale) and kernels.takes(axes, h):
        return kernels.project(h, a, mean, r, scale, axes)
    return project_into(array_module(h).empty_like(h), h, a, mean, r, scale, axes=axes)


@primitive(cross_sample=_mixes)
def standard_dot(h, a, mean, r, *, axes, eps):
    """The sum of products with the standardised values, by feature.

    y[c] = Σ h[..., c]·â[..., c], â = r·(a − mean)

    Shapes: h, a (N, ..., C), y (C,).
    Gradient: h̄ = â·ȳ; ā = project(h) of scale ȳ
    """
    if serves(a) and kernels.takes(axes, a) and kernels.takes(axes, h):
        return kernels.standard_dot(h, a, mean, r, axes)
    y = array_module(h).empty_like(h, shape=h.shape[-1:])
    return standard_dot_into(y, h, a, mean, r, axes=axes)


standardise.vjp(
    lambda g, y, a, mean, r, scale, shift, *, axes, eps: project(
        g, a, mean, r, scale, axes=axes, eps=eps
    ),
    None,
    None,
    lambda g, y, a, mean, r, scale, shift, *, axes, eps: standard_dot(
        g, a, mean, r, axes=axes, eps=eps
    ),
    lambda g, y, a, mean, r, scale, shift, *, axes, eps: g,
)
project.vjp(
    lambda g, y, h, a, mean, r, scale, *, axes, eps: multiply(
        project(g, a, mean, r, 1.0, axes=axes, eps=eps), scale
    ),
    lambda g, y, h, a, mean, r, scale, *, axes, eps: _bend(g, multiply(h, scale), a, axes, eps),
    None,
    None,
    lambda g, y, h, a, mean, r, scale, *, axes, eps: multiply(
        project(g, a, mean, r, 1.0, axes=axes, eps=eps), h
    ),
)
standard_dot.vjp(
    lambda g, y, h, a, mean, r, *, axes, eps: multiply(
        standardise(a, mean, r, 1.0, 0.0, axes=axes, eps=eps), g
    ),
    lambda g, y, h, a, mean, r, *, axes, eps: project(h, a, mean, r, g, axes=axes, eps=eps),
    None,
    None,
)


def _bend(u, h, a, axes, eps):
    """The gradient of ⟨u, project(h)⟩ in a, as derived at the top of this file."""
    unit = _standardised(a, 1.0, 0.0, axes, eps)
    r = inverse_deviation(a, axes, eps)
    on_u, on_h = mean_over(multiply(u, unit), axes), mean_over(multiply(h, unit), axes)
    u, h = subtract(u, mean_over(u, axes)), subtract(h, mean_over(h, axes))
    inner = subtract(mean_over(multiply(u, h), axes), multiply(multiply(on_u, on_h), 3.0))
    bent = add(multiply(unit, inner), add(multiply(u, on_h), multiply(h, on_u)))
    return negative(multiply(square(r), bent))


def _standardised(a, scale, shift, axes, eps):
    mean = block_mean(a, axes=axes)
    r = block_inverse_deviation(a, mean, axes=axes, eps=eps)
    return standardise(a, mean, r, scale, shift, axes=axes, eps=eps)


def batch_norm(x, scale, shift, eps=1e-5):
    """Each feature moved to mean 0 and variance 1 over the batch, then scaled and shifted.

    y = scale·(x − μ)/√(σ² + eps) + shift; σ² is the biased variance over the batch

    Every sample's output depends on the other samples: a sample's own slope does not exist, and
    asking for its norm is an error (see :mod:`tinygan.penalties`).

    Shapes: x, y (N, ..., C), scale and shift (C,).
    Raises: ValueError for fewer than two values of each feature, and for vectors of another length
        than C.
    Source: Ioffe & Szegedy (2015).
    """
    _expect_features("batch_norm", x, scale, shift)
    if x.size < 2 * x.shape[-1]:
        raise ValueError(
            f"batch_norm: x of shape {x.shape} has fewer than two values of each feature, so no "
            "variance; expected a larger batch, or standing statistics"
        )
    return _standardised(x, scale, shift, tuple(range(x.ndim - 1)), eps)


def layer_norm(x, scale, shift, eps=1e-5):
    """Each sample moved to mean 0 and variance 1 over all its values, then scaled and shifted.

    y = scale·(x − μ)/√(σ² + eps) + shift; σ² is the biased variance over the sample; scale and
    shift are per feature, as in the code of the source, and not per value

    No sample depends on another.

    Shapes: x, y (N, ..., C), scale and shift (C,).
    Raises: ValueError for vectors of another length than C.
    Source: Ba, Kiros & Hinton (2016); Gulrajani et al. (2017).
    """
    _expect_features("layer_norm", x, scale, shift)
    return _standardised(x, scale, shift, tuple(range(1, x.ndim)), eps)


def standing_norm(x, mean, variance, scale, shift, eps=1e-5):
    """Batch norm with given statistics: each sample is treated by itself.

    y = scale·(x − mean)/√(variance + eps) + shift

    Shapes: x, y (N, ..., C), the others (C,).
    Raises: ValueError for vectors of another length than C.
    """
    _expect_features("standing_norm", x, mean, variance, scale, shift)
    slope = multiply(scale, rsqrt(add(variance, eps)))
    return add(multiply(subtract(x, mean), slope), shift)


def _expect_features(name, x, *vectors):
    for v in vectors:
        if v.shape != x.shape[-1:]:
            raise ValueError(
                f"{name}: a vector of shape {v.shape} for x of shape {x.shape}; expected "
                f"{x.shape[-1:]}, one number per feature"
            )


# The same into given memory, with working memory that is kept (see parallel.Scratch).


def block_mean_into(y, a, *, axes, scratch=None):
    """:func:`block_mean` into y. Shapes: as in :func:`mean_over`."""
    _means([y], a, axes, lambda i, j, room: [a[i:j]], scratch)
    return y


def block_inverse_deviation_into(y, a, mean, *, axes, eps, scratch=None):
    """:func:`block_inverse_deviation` into y. Shapes: as in :func:`mean_over`."""

    def squares(i, j, room):
        given = a[i:j]
        offset = room.array("offset", given.shape, a.dtype)
        np.subtract(given, _samples(mean, i, j), out=offset)
        offset *= offset
        return [offset]

    _means([y], a, axes, squares, scratch)
    y += a.dtype.type(eps)
    np.sqrt(y, out=y)
    np.divide(a.dtype.type(1), y, out=y)
    return y


def standardise_into(y, a, mean, r, scale, shift, *, after=None, scratch=None):
    """:func:`standardise` into y; ``after(i, j)`` is called when y[i:j] is finished.

    Shapes: as in :func:`standardise`.
    """
    slope = r * scale

    def part(i, j):
        out = y[i:j]
        np.subtract(a[i:j], _samples(mean, i, j), out=out)
        out *= _samples(slope, i, j)
        out += shift
        if after is not None:
            after(i, j)

    _each_block(a, part)
    return y


def project_into(y, h, a, mean, r, scale, *, axes, after=None, scratch=None):
    """:func:`project` into y; ``after(i, j)`` is called when y[i:j] is finished.

    Shapes: as in :func:`project`.
    """
    scratch = scratch or Scratch(array_module(h))
    of_batch = 0 in axes  # a feature's own scale can then wait until the end
    inner, outer = (1.0, r * scale) if of_batch else (scale, r)

    def given(i, j, room):
        k = h[i:j]
        if of_batch:
            return k
        return np.multiply(k, inner, out=room.array("given", k.shape, h.dtype))

    def sums(i, j, room):
        k = given(i, j, room)
        product = room.array("product", k.shape, h.dtype)
        np.subtract(a[i:j], _samples(mean, i, j), out=product)
        product *= k
        return [k, product]

    centre, slope = _kept(h, axes), _kept(h, axes)
    _means([centre, slope], h, axes, sums, scratch)
    slope *= r * r  # â·mean(k·â) = (a − mean)·r²·mean(k·(a − mean))

    def part(i, j, room):
        out = y[i:j]
        offset = room.array("product", out.shape, h.dtype)
        np.subtract(a[i:j], _samples(mean, i, j), out=offset)
        offset *= _samples(slope, i, j)
        np.subtract(given(i, j, room), _samples(centre, i, j), out=out)
        out -= offset
        out *= _samples(outer, i, j)
        if after is not None:
            after(i, j)

    _each_block(h, part, scratch)
    return y


def standard_dot_into(y, h, a, mean, r, *, axes, scratch=None):
    """:func:`standard_dot` into y. Shapes: as in :func:`standard_dot`."""
    of_batch = 0 in axes  # r is then the same for all samples, and can wait until the end

    def products(i, j, room):
        given = a[i:j]
        product = room.array("product", given.shape, a.dtype)
        np.subtract(given, _samples(mean, i, j), out=product)
        product *= h[i:j]
        if not of_batch:
            product *= _samples(r, i, j)
        return [product]

    kept = (1,) * (a.ndim - 1) + a.shape[-1:]
    _means([y.reshape(kept)], a, tuple(range(a.ndim - 1)), products, scratch)
    y *= a.dtype.type(a.size // a.shape[-1])
    if of_batch:
        y *= r.reshape(-1)
    return y


def _samples(statistic, i, j):
    """The statistic of samples i:j; one of the whole batch is everybody's."""
    return statistic if len(statistic) == 1 else statistic[i:j]


def _kept(like, axes):
    """New memory for a mean over axes, which stay with length 1."""
    shape = tuple(1 if i in axes else m for i, m in enumerate(like.shape))
    return array_module(like).empty(shape, like.dtype)


def _means(ys, like, axes, values, scratch):
    """Means over axes into ``ys``, of ``values(i, j, room)``: the values of samples i:j, for each.

    Blocks do not depend on the threads, so neither do the bits.
    """
    xp, n = array_module(like), len(like)
    scratch = scratch or Scratch(xp)
    if 0 not in axes:

        def means(i, j, room):
            for y, part in zip(ys, values(i, j, room), strict=True):
                part.mean(axes, keepdims=True, out=y[i:j])

        _each_block(like, means, scratch)
        return
    kept, block = ys[0].shape, _block(like)
    sums = [xp.empty((-(-n // block), *kept[1:]), like.dtype) for _ in ys]

    def part(i, j, room):
        for total, found in zip(sums, values(i, j, room), strict=True):
            rows = found.reshape(-1, like.shape[-1])
            total[i // block] = sum_to.fn(rows, shape=rows.shape[1:]).reshape(kept[1:])

    _each_block(like, part, scratch)
    for y, total in zip(ys, sums, strict=True):
        total.sum(0, keepdims=True, out=y)
        y *= like.dtype.type(math.prod(kept) / max(1, like.size))


def _block(like):
    """Samples in a block."""
    if array_module(like) is not np:
        return max(1, len(like))
    return max(1, BLOCK * len(like) // max(1, like.size))


def _each_block(like, work, scratch=None):
    """``work(i, j)`` for the blocks i:j of the batch, over threads where that pays."""
    blocks(len(like), _block(like), work, like.size >= PAYS, scratch)
