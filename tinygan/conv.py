"""Convolution, its transpose and its weight gradient: one trilinear form and its three derivatives.

    T(x, w, z) = Σ x[n, s·p+k−t, s·q+l−u, c] · w[k, l, c, o] · z[n, p, q, o]

summed over samples n, grid points (p, q), kernel taps (k, l), and channels c, o; s is the stride
and (t, u) the padding above and on the left. x is zero outside the image.

    conv2d(x, w)             = ∂T/∂z      images to grid
    conv2d_transpose(z, w)   = ∂T/∂x      grid to images
    conv2d_weight_grad(x, z) = ∂T/∂w      both to weights

The six rules are read off T. Take y = conv2d(x, w) and the adjoint ȳ of y. The loss changes by
⟨ȳ, dy⟩ = T(dx, w, ȳ) + T(x, dw, ȳ), for T is linear in each argument; so x̄ = ∂T/∂x at (w, ȳ)
= conv2d_transpose(ȳ, w), and w̄ = ∂T/∂w at (x, ȳ) = conv2d_weight_grad(x, ȳ). The other two ops go
the same way: each rule is one of the three with ȳ in the place of the argument that T had lost.
The geometry never changes, so derivatives of every order stay among the three.

Layout: images N×H×W×C, grids N×P×Q×O, weights kh×kw×C×O. A row of image pixels under the kernel is
then contiguous, and the weights as a matrix are a reshape.

How they become matrix products, ``lowering.py`` says; the batch is split over the threads of
:func:`tinygan.threads`. ``conv2d_into`` and its like write into arrays that are given: they are the
primitives' own work, and what a recorded step calls. On a GPU the kernels of ``kernels/conv.cu``
take the primitives' place.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tinygan import kernels
from tinygan.backend import array_module
from tinygan.engine import primitive
from tinygan.lowering import (
    add_to_lines,
    bias_of_a_line,
    columns,
    columns_back,
    conv2d_in_tiles,
    conv2d_transpose_in_tiles,
    conv2d_weight_grad_in_tiles,
    kernel_matrix,
    tiled,
)
from tinygan.parallel import Scratch, split

PAYS = 1 << 22  # multiply-adds from which the batch is split over threads


@dataclass(frozen=True)
class Geometry:
    """Where a kernel meets an image: the sizes that the three ops share.

    P = ⌊(H + top + bottom − kh)/stride⌋ + 1 grid points down, and likewise Q across.

    Args:
        image: (H, W), or one number for both.
        kernel: (kh, kw), or one number.
        stride: (down, across), or one number.
        pad: zeros around the image, ((top, bottom), (left, right)); or one pair (down, across); or
            one number for all.
    Raises: ValueError for sizes below 1, negative padding, or a kernel that does not fit.
    """

    image: tuple
    kernel: tuple
    stride: tuple = 1
    pad: tuple = 0

    def __post_init__(self):
        for name in ("image", "kernel", "stride"):
            object.__setattr__(self, name, pair(name, getattr(self, name), least=1))
        object.__setattr__(self, "pad", _pads(self.pad))
        for size, (before, after), k in zip(self.image, self.pad, self.kernel, strict=True):
            if size + before + after < k:
                raise ValueError(
                    f"Geometry: kernel {self.kernel} does not fit image {self.image} with pad "
                    f"{self.pad}; expected image + pad of at least the kernel's size"
                )

    @classmethod
    def transposed(cls, grid, kernel, stride=1, pad=0, output_padding=0):
        """The geometry of a transposed convolution: from the grid's size to the image's.

        H = (P − 1)·stride + kh − top − bottom + output_padding. A stride s maps s image sizes to
        one grid size; output_padding, from 0 to s − 1, says which is meant.

        Raises: ValueError for an output_padding of the stride or more, or an image below 1.
        """
        grid, kernel = pair("grid", grid, 1), pair("kernel", kernel, 1)
        stride, extra = pair("stride", stride, 1), pair("output_padding", output_padding, 0)
        pad = _pads(pad)
        if any(e >= s for e, s in zip(extra, stride, strict=True)):
            raise ValueError(
                f"Geometry.transposed: output_padding {extra} with stride {stride}; expected less "
                "than the stride"
            )
        image = tuple(
            (p - 1) * s + k - sum(around) + e
            for p, s, k, around, e in zip(grid, stride, kernel, pad, extra, strict=True)
        )
        if min(image) < 1:
            raise ValueError(
                f"Geometry.transposed: grid {grid}, kernel {kernel}, stride {stride} and pad {pad} "
                f"make an image of {image}; expected less padding or a larger kernel"
            )
        return cls(image, kernel, stride, pad)

    @cached_property
    def grid(self):
        """(P, Q)."""
        return tuple(
            (size + before + after - k) // s + 1
            for size, (before, after), k, s in zip(
                self.image, self.pad, self.kernel, self.stride, strict=True
            )
        )

    @property
    def whole(self):
        """Whether the kernel covers the image exactly: the convolution is one matrix product."""
        return self.kernel == self.image and self.pad == ((0, 0), (0, 0))


def pair(name, value, least):
    """(down, across) of a size: one number stands for both.

    Raises: ValueError for anything but whole numbers of at least ``least``.
    """
    both = (value, value) if isinstance(value, (int, np.integer)) else value
    whole = isinstance(both, tuple) and len(both) == 2
    if not whole or not all(isinstance(v, (int, np.integer)) and v >= least for v in both):
        raise ValueError(
            f"Geometry: {name} is {value!r}; expected a whole number of at least {least}, or a "
            "pair (down, across)"
        )
    return int(both[0]), int(both[1])


def _pads(pad):
    if isinstance(pad, tuple) and len(pad) == 2 and all(isinstance(p, tuple) for p in pad):
        return pair("pad", pad[0], 0), pair("pad", pad[1], 0)
    down, across = pair("pad", pad, 0)
    return (down, down), (across, across)


@primitive
def conv2d(x, w, b=None, *, geometry):
    """The convolution (cross-correlation) of images with a kernel, and a bias if one is given.

    y[n, p, q, o] = Σ x[n, s·p+k−t, s·q+l−u, c]·w[k, l, c, o] + b[o]

    Shapes: x (N, H, W, C), w (kh, kw, C, O), b (O,), y (N, P, Q, O).
    Gradient: x̄ = conv2d_transpose(ȳ, w); w̄ = conv2d_weight_grad(x, ȳ); b̄ = Σ ȳ
    Raises: ValueError for shapes that do not fit the geometry or each other.
    """
    _expect_kernel(w, geometry)
    _expect("x", x, (geometry.image, w.shape[-2:-1]), "(N, H, W, C)")
    _expect_bias(b, w.shape[3])
    if kernels.take(x, w, b) and kernels.fits(geometry):
        return kernels.conv2d(*kernels.packed(x, w, b), geometry=geometry)
    xp = array_module(x)
    shape = (len(x), *geometry.grid, w.shape[3])
    y = xp.empty(shape, xp.result_type(x, w, w if b is None else b))
    return conv2d_into(y, x, w, b, geometry=geometry)


@primitive
def conv2d_transpose(z, w, b=None, *, geometry):
    """The transposed convolution: every grid point puts its kernel into the image.

    y[n, i, j, c] = Σ z[n, p, q, o]·w[k, l, c, o] + b[c], over s·p+k−t = i and s·q+l−u = j

    Shapes: z (N, P, Q, O), w (kh, kw, C, O), b (C,), y (N, H, W, C).
    Gradient: z̄ = conv2d(ȳ, w); w̄ = conv2d_weight_grad(ȳ, z); b̄ = Σ ȳ
    Raises: ValueError for shapes that do not fit the geometry or each other.
    """
    _expect_kernel(w, geometry)
    _expect("z", z, (geometry.grid, w.shape[-1:]), "(N, P, Q, O)")
    _expect_bias(b, w.shape[2])
    if kernels.take(z, w, b) and kernels.fits(geometry):
        return kernels.conv2d_transpose(*kernels.packed(z, w, b), geometry=geometry)
    xp = array_module(z)
    shape = (len(z), *geometry.image, w.shape[2])
    y = xp.empty(shape, xp.result_type(z, w, w if b is None else b))
    return conv2d_transpose_into(y, z, w, b, geometry=geometry)


@primitive
def conv2d_weight_grad(x, z, *, geometry):
    """The correlation of images with grids: the gradient of a convolution in its weights.

    y[k, l, c, o] = Σ x[n, s·p+k−t, s·q+l−u, c]·z[n, p, q, o]

    The sum runs over chunks of images in their order, within each thread's part, then over parts:
    the same bits for the same number of threads.

    Shapes: x (N, H, W, C), z (N, P, Q, O), y (kh, kw, C, O).
    Gradient: x̄ = conv2d_transpose(z, ȳ); z̄ = conv2d(x, ȳ)
    Raises: ValueError for shapes that do not fit the geometry or each other.
    """
    _expect("x", x, (geometry.image, x.shape[-1:]), "(N, H, W, C)")
    _expect("z", z, (geometry.grid, z.shape[-1:]), "(N, P, Q, O)")
    if len(x) != len(z):
        raise ValueError(f"x has {len(x)} samples and z {len(z)}; expected the same number")
    if kernels.take(x, z) and kernels.fits(geometry):
        return kernels.conv2d_weight_grad(*kernels.packed(x, z), geometry=geometry)
    xp = array_module(x)
    y = xp.empty((*geometry.kernel, x.shape[3], z.shape[3]), xp.result_type(x, z))
    return conv2d_weight_grad_into(y, x, z, geometry=geometry)


conv2d.vjp(
    lambda g, y, x, w, b=None, *, geometry: conv2d_transpose(g, w, geometry=geometry),
    lambda g, y, x, w, b=None, *, geometry: conv2d_weight_grad(x, g, geometry=geometry),
    lambda g, y, x, w, b=None, *, geometry: g,
)
conv2d_transpose.vjp(
    lambda g, y, z, w, b=None, *, geometry: conv2d(g, w, geometry=geometry),
    lambda g, y, z, w, b=None, *, geometry: conv2d_weight_grad(g, z, geometry=geometry),
    lambda g, y, z, w, b=None, *, geometry: g,
)
conv2d_weight_grad.vjp(
    lambda g, y, x, z, *, geometry: conv2d_transpose(z, g, geometry=geometry),
    lambda g, y, x, z, *, geometry: conv2d(x, g, geometry=geometry),
)


def conv2d_into(y, x, w, b=None, *, geometry, after=None, scratch=None):
    """:func:`conv2d` written into ``y``, an array in C order of the shape and dtype of the result.

    Args:
        after: ``after(i, j)`` is called when y[i:j] is finished, by the thread that made it and
            while it is in that thread's cache; once for each sample.
        scratch: a :class:`tinygan.parallel.Scratch` whose memory is used, in place of new arrays.
    Shapes: as conv2d's. The arguments are not checked but for y's layout.
    Raises: ValueError for a y that is not in C order.
    """
    _expect_c_order(y)
    xp, channels = array_module(y), w.shape[3]
    scratch, pays = scratch or Scratch(xp), _pays(y, w.size)
    if xp is np and tiled(geometry, len(x), *w.shape[2:]):
        conv2d_in_tiles(y, x, w, b, geometry, after, pays, scratch)
        return y
    matrix, bias = w.reshape(-1, channels), bias_of_a_line(y, b, scratch)

    def part(start, stop, room):
        for i, j, rows in columns(x, geometry, start, stop, room):
            xp.matmul(rows, matrix, out=y[i:j].reshape(-1, channels))
            add_to_lines(y[i:j], bias)
            if after is not None:
                after(i, j)

    split(len(x), part, pays, scratch)
    return y


def conv2d_transpose_into(y, z, w, b=None, *, geometry, after=None, scratch=None):
    """:func:`conv2d_transpose` written into ``y``; everything else as in :func:`conv2d_into`.

    Shapes: as conv2d_transpose's.
    Raises: ValueError for a y that is not in C order.
    """
    _expect_c_order(y)
    xp = array_module(y)
    scratch, pays = scratch or Scratch(xp), _pays(z, w.size)
    if xp is np and tiled(geometry, len(z), *w.shape[2:]):
        conv2d_transpose_in_tiles(y, z, w, b, geometry, after, pays, scratch)
        return y
    matrix = kernel_matrix(w, geometry, scratch).T
    bias = bias_of_a_line(y, b, scratch)

    def part(start, stop, room):
        for i, j, rows, add_up in columns_back(y, geometry, start, stop, room):
            points = z[i:j].reshape(-1, len(matrix))
            if len(matrix) == 1:
                xp.multiply(points, matrix, out=rows)  # five times as fast as BLAS
            else:
                xp.matmul(points, matrix, out=rows)
            add_up()
            add_to_lines(y[i:j], bias)
            if after is not None:
                after(i, j)

    split(len(z), part, pays, scratch)
    return y


def conv2d_weight_grad_into(y, x, z, *, geometry, scratch=None):
    """:func:`conv2d_weight_grad` written into ``y``, with memory as in :func:`conv2d_into`.

    Shapes: as conv2d_weight_grad's.
    Raises: ValueError for a y that is not in C order.
    """
    _expect_c_order(y)
    xp, channels = array_module(y), z.shape[3]
    scratch, pays = scratch or Scratch(xp), _pays(z, y.size)
    if xp is np and tiled(geometry, len(x), *y.shape[2:]):
        conv2d_weight_grad_in_tiles(y, x, z, geometry, pays, scratch)
        return y
    matrix = y.reshape(-1, channels)

    def part(start, stop, room):
        """The sum over start:stop: the first part's in y, another's in its room."""
        total = matrix if start == 0 else room.array("total", matrix.shape, y.dtype)
        if start == stop:
            total[...] = 0
        for i, j, rows in columns(x, geometry, start, stop, room):
            points = z[i:j].reshape(-1, channels)
            if i == start:
                xp.matmul(rows.T, points, out=total)
            else:
                product = room.array("product", matrix.shape, y.dtype)
                total += xp.matmul(rows.T, points, out=product)
        return total

    _, *others = split(len(x), part, pays, scratch)
    for other in others:
        matrix += other
    return y


def _pays(grid, weights):
    """Whether the product of the grid's points with the weights is worth more than one thread."""
    return array_module(grid) is np and math.prod(grid.shape[:3]) * weights >= PAYS


def _expect_c_order(y):
    if not y.flags.c_contiguous:
        raise ValueError(
            f"y of shape {y.shape} has strides {y.strides}; expected an array in C order, as "
            "np.empty makes it"
        )


def _expect(name, a, sizes, layout):
    size, channels = sizes
    expected = (*size, *channels)
    if a.ndim != 4 or a.shape[1:] != expected:
        raise ValueError(
            f"{name} has shape {a.shape}; expected {layout} = (N, {', '.join(map(str, expected))})"
        )


def _expect_kernel(w, geometry):
    if w.ndim != 4 or w.shape[:2] != geometry.kernel:
        raise ValueError(
            f"w has shape {w.shape}; expected (kh, kw, C, O) with kernel {geometry.kernel}"
        )


def _expect_bias(b, channels):
    if b is not None and b.shape != (channels,):
        raise ValueError(f"b has shape {b.shape}; expected ({channels},)")
