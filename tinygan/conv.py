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

The lowerings: a chunk of images is laid out so that each grid point has its kh·kw·C inputs in one
row (im2col), and one matrix product does the rest; the transpose makes the same rows by a product
and adds them back (col2im). A chunk is as large as the cache likes, and the batch is split over the
threads of :func:`tinygan.threads`. On a GPU the kernels of ``kernels/conv.cu`` do without columns.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tinygan import kernels
from tinygan.backend import array_module
from tinygan.engine import primitive
from tinygan.parallel import split

CHUNK = 1 << 22  # bytes of columns at a time: they are written and read back from the cache
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
    xp, (n, (p, q), channels) = array_module(x), (len(x), geometry.grid, w.shape[3])
    y = xp.empty((n, p, q, channels), xp.result_type(x, w, w if b is None else b))
    matrix = w.reshape(-1, channels)

    def part(start, stop):
        for i, j, columns in _columns(x, geometry, start, stop):
            rows = y[i:j].reshape(-1, channels)
            xp.matmul(columns, matrix, out=rows)
            if b is not None:
                rows += b

    split(n, part, _pays(y, matrix.size))
    return y


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
    xp, n, channels = array_module(z), len(z), w.shape[2]
    y = xp.empty((n, *geometry.image, channels), xp.result_type(z, w, w if b is None else b))
    matrix = w.reshape(-1, w.shape[3]).T

    def part(start, stop):
        for i, j, columns, add_up in _columns_back(y, geometry, start, stop):
            rows = z[i:j].reshape(-1, len(matrix))
            if len(matrix) == 1:
                xp.multiply(rows, matrix, out=columns)  # five times as fast as BLAS
            else:
                xp.matmul(rows, matrix, out=columns)
            add_up()
            if b is not None:
                y[i:j] += b

    split(n, part, _pays(z, matrix.size))
    return y


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
    xp, channels = array_module(x), z.shape[3]
    shape = (math.prod(geometry.kernel) * x.shape[3], channels)
    dtype = xp.result_type(x, z)

    def part(start, stop):
        total = None
        for i, j, columns in _columns(x, geometry, start, stop):
            product = columns.T @ z[i:j].reshape(-1, channels)
            if total is None:
                total = product
            else:
                total += product
        return xp.zeros(shape, dtype) if total is None else total

    first, *others = split(len(x), part, _pays(z, shape[0] * channels))
    for other in others:
        first += other
    return first.reshape(*geometry.kernel, x.shape[3], channels)


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


def _columns(x, geometry, start, stop):
    """im2col: (i, j, columns) for chunks i:j of start:stop, one row of kh·kw·C per grid point."""
    xp, channels = array_module(x), x.shape[3]
    if geometry.whole:
        if start < stop:
            yield start, stop, x[start:stop].reshape(stop - start, -1)
        return
    (height, width), (p, q), (kh, kw) = geometry.image, geometry.grid, geometry.kernel
    (top, bottom), (left, right) = geometry.pad
    chunk = _chunk(geometry, x, stop - start)
    columns = xp.empty((chunk, p, q, kh, kw * channels), x.dtype)
    padded = xp.zeros((chunk, top + height + bottom, left + width + right, channels), x.dtype)
    sample, line, pixel, item = padded.strides
    under_kernel = xp.lib.stride_tricks.as_strided(
        padded,
        columns.shape,
        (sample, geometry.stride[0] * line, geometry.stride[1] * pixel, line, item),
    )
    for i in range(start, stop, chunk):
        j = min(i + chunk, stop)
        padded[: j - i, top : top + height, left : left + width] = x[i:j]
        columns[: j - i] = under_kernel[: j - i]
        yield i, j, columns[: j - i].reshape((j - i) * p * q, -1)


def _columns_back(y, geometry, start, stop):
    """col2im: (i, j, columns, add_up) for chunks i:j; add_up() puts the columns' sums into y[i:j].

    Taps k and l that differ by less than a stride never meet in a pixel. So the kernel is cut into
    tiles of one stride, and each tile of all grid points is added at once: with image rows counted
    as (block, row in block), tile a adds to blocks a, a+1, …, a+P−1.
    """
    xp, channels = array_module(y), y.shape[3]
    if geometry.whole:
        if start < stop:
            yield start, stop, y[start:stop].reshape(stop - start, -1), lambda: None
        return
    (height, width), (p, q), (kh, kw) = geometry.image, geometry.grid, geometry.kernel
    (top, _), (left, _) = geometry.pad
    down, across = geometry.stride
    blocks_down = max(p + (kh - 1) // down, -(-(top + height) // down))
    blocks_across = max(q + (kw - 1) // across, -(-(left + width) // across))
    chunk = _chunk(geometry, y, stop - start)
    columns = xp.empty((chunk, p, q, kh, kw, channels), y.dtype)
    blocks = xp.empty((chunk, blocks_down, down, blocks_across, across, channels), y.dtype)
    padded = blocks.reshape(chunk, blocks_down * down, blocks_across * across, channels)
    for i in range(start, stop, chunk):
        j = min(i + chunk, stop)

        def add_up(i=i, j=j):
            _add_tiles(columns[: j - i], blocks[: j - i])
            y[i:j] = padded[: j - i, top : top + height, left : left + width]

        yield i, j, columns[: j - i].reshape((j - i) * p * q, -1), add_up


def _add_tiles(columns, blocks):
    """The sums of all columns that meet in a pixel, into the blocks.

    Shapes: columns (n, P, Q, kh, kw, C), blocks (n, blocks down, stride, blocks across, stride, C).
    """
    (p, q, kh, kw), (down, across) = columns.shape[1:5], blocks.shape[2:5:2]
    blocks[:, p:] = 0
    blocks[:, :p, :, q:] = 0
    for ky in range(0, kh, down):
        for kx in range(0, kw, across):
            tile = columns[:, :, :, ky : ky + down, kx : kx + across].transpose(0, 1, 3, 2, 4, 5)
            rows, cols = tile.shape[2], tile.shape[4]
            a, b = ky // down, kx // across
            place = blocks[:, a : a + p, :rows, b : b + q, :cols]
            if a or b:
                place += tile
            else:  # the first of all: nothing to add to, and the rest of its blocks is 0
                blocks[:, :p, rows:] = 0
                blocks[:, :p, :rows, :q, cols:] = 0
                place[...] = tile


def _chunk(geometry, images, n):
    """How many images to lower at once."""
    if array_module(images) is not np:
        return max(1, n)  # a GPU has no use for the cache's size
    taps = math.prod(geometry.grid) * math.prod(geometry.kernel)
    return max(1, min(n, CHUNK // max(1, taps * images.shape[3] * images.dtype.itemsize)))


def _pays(grid, weights):
    """Whether the product of the grid's points with the weights is worth more than one thread."""
    return array_module(grid) is np and math.prod(grid.shape[:3]) * weights >= PAYS


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
