"""Convolution, its transpose and its weight gradient on the GPU: the kernels of conv.cu.

The three are the derivatives of one trilinear form (see :mod:`tinygan.conv`); a geometry is
anything with its sizes, ``image``, ``kernel``, ``stride``, ``pad`` and ``grid``, and ``whole``.
"""

import math
from functools import cache

import numpy as np

from .gemm import (
    DTYPES,
    GRID,
    check_arrays,
    empty_like,
    expect,
    product,
    run,
    type_name,
    vector,
)
from .launch import Instance, Kernel
from .tiles import ALONG_K, ALONG_X, CODE, NARROW, SINGLE, TILES

SHAPE = np.dtype(
    [
        (name, np.int32)
        for name in (
            "images", "height", "width", "channels", "grid_down", "grid_across", "outputs",
            "kernel_down", "kernel_across", "stride_down", "stride_across", "top", "left",
            "parts", "terms",
        )
    ]
)  # fmt: skip
REACH = 1 << 14  # rows and columns of a padded image: the loader packs both into 32 bits


def conv2d(x, w, bias=None, *, geometry, slope=1.0, mask=None, precision=None, choice=None):
    """The convolution of images with a kernel, a bias, and the LeakyReLU that may follow.

    s[n, p, q, o] = Σ x[n, s·p+k−t, s·q+l−u, c]·w[k, l, c, o] + bias[o]
    y = s where s (or, if given, mask) is positive, slope·s elsewhere

    With a mask this is the LeakyReLU's backward: the gate of the values of the forward pass.
    ``choice`` is (tile, parts of the sum, terms of a part) in place of :func:`tiles.choose`'s.

    Shapes: x (N, H, W, C), w (kh, kw, C, O), bias (O,), y and mask (N, P, Q, O).
    Raises: ValueError and TypeError for shapes, dtypes or memory that do not fit; RuntimeError for
        a device too old for the precision.
    """
    dtype = check_arrays("conv2d", x=x, w=w, bias=bias, mask=mask)
    outputs, channels = _expect_kernel("conv2d", w, geometry)
    expect("conv2d", "x", x, (len(x), *geometry.image, channels))
    expect("conv2d", "bias", bias, (outputs,))
    result = len(x), *geometry.grid, outputs
    expect("conv2d", "mask", mask, result)
    if geometry.whole and len(x):
        return product(
            _rows(x), _matrix(w), bias, False, False, slope, _rows(mask), precision, choice
        ).reshape(result)
    y = empty_like(x, result)
    if y.size == 0:
        return y
    vx, vw = _vectors((x, channels), (w, outputs))
    rows, terms = math.prod(y.shape[:3]), channels * math.prod(geometry.kernel)
    run(
        lambda precision, tile: _conv2d(dtype, precision, tile, vx, vw), (x, w), y,
        (rows, outputs, terms, 1), vx == 1, _shape(geometry, len(x), channels, outputs),
        (bias, mask, slope, outputs), precision, choice,
    )  # fmt: skip
    return y


def conv2d_transpose(
    z, w, bias=None, *, geometry, slope=1.0, mask=None, precision=None, choice=None
):
    """The transposed convolution, a bias, and the LeakyReLU (or its backward) that may follow.

    s[n, i, j, c] = Σ z[n, p, q, o]·w[k, l, c, o] + bias[c], over s·p+k−t = i and s·q+l−u = j
    y = s where s (or, if given, mask) is positive, slope·s elsewhere

    Shapes: z (N, P, Q, O), w (kh, kw, C, O), bias (C,), y and mask (N, H, W, C).
    Raises: as :func:`conv2d`.
    """
    dtype = check_arrays("conv2d_transpose", z=z, w=w, bias=bias, mask=mask)
    outputs, channels = _expect_kernel("conv2d_transpose", w, geometry)
    expect("conv2d_transpose", "z", z, (len(z), *geometry.grid, outputs))
    expect("conv2d_transpose", "bias", bias, (channels,))
    result = len(z), *geometry.image, channels
    expect("conv2d_transpose", "mask", mask, result)
    if geometry.whole and len(z):
        return product(
            _rows(z), _matrix(w), bias, False, True, slope, _rows(mask), precision, choice,
            repeats=math.prod(geometry.image),
        ).reshape(result)  # fmt: skip
    y = empty_like(z, result)
    if y.size == 0:
        return y
    v = vector((z, outputs), (w, outputs))
    (height, width), (down, across) = geometry.image, geometry.stride
    parities = down * across
    rows = len(z) * -(-height // down) * -(-width // across)  # of the largest parity
    terms = outputs * -(-geometry.kernel[0] // down) * -(-geometry.kernel[1] // across)
    run(
        lambda precision, tile: _conv2d_transpose(dtype, precision, tile, v), (z, w), y,
        (rows, channels, terms, parities), v == 1, _shape(geometry, len(z), channels, outputs),
        (bias, mask, slope, channels), precision, choice,
    )  # fmt: skip
    return y


def conv2d_weight_grad(x, z, *, geometry, precision=None, choice=None):
    """The correlation of images with grids: the gradient of a convolution in its weights.

    y[k, l, c, o] = Σ x[n, s·p+k−t, s·q+l−u, c]·z[n, p, q, o]

    A sum that is cut into parts is added up in their order: the same bits in every run.

    Shapes: x (N, H, W, C), z (N, P, Q, O), y (kh, kw, C, O).
    Raises: as :func:`conv2d`.
    """
    dtype = check_arrays("conv2d_weight_grad", x=x, z=z)
    _expect_axes("conv2d_weight_grad", x=x, z=z)
    channels, outputs = x.shape[3], z.shape[3]
    expect("conv2d_weight_grad", "x", x, (len(x), *geometry.image, channels))
    expect("conv2d_weight_grad", "z", z, (len(x), *geometry.grid, outputs))
    result = *geometry.kernel, channels, outputs
    if geometry.whole and len(x):
        return product(_rows(x), _rows(z), None, True, False, 1.0, None, precision, choice).reshape(
            result
        )
    y = empty_like(x, result)
    if y.size == 0 or len(x) == 0:
        y.fill(0)
        return y
    vx, vz = _vectors((x, channels), (z, outputs))
    rows, terms = math.prod(y.shape[:3]), math.prod(z.shape[:3])
    run(
        lambda precision, tile: _conv2d_weight_grad(dtype, precision, tile, vx, vz), (x, z), y,
        (rows, outputs, terms, 1), vx == 1, _shape(geometry, len(x), channels, outputs), None,
        precision, choice,
    )  # fmt: skip
    return y


@cache
def _conv2d(dtype, precision, tile, vx, vw):
    vw = 1 if tile.columns == NARROW else vw
    name = f"conv2d<{type_name(dtype)},{CODE[precision]},{tile.name},{vx},{vw}>"
    shared = tile.shared(ALONG_K, ALONG_X, dtype.itemsize)
    return Instance(Kernel("conv.cu", name), tile.threads, shared)


@cache
def _conv2d_transpose(dtype, precision, tile, v):
    name = f"conv2d_transpose<{type_name(dtype)},{CODE[precision]},{tile.name},{v}>"
    shared = tile.shared(ALONG_K, ALONG_K, dtype.itemsize)
    return Instance(Kernel("conv.cu", name), tile.threads, shared)


@cache
def _conv2d_weight_grad(dtype, precision, tile, vx, vz):
    vz = 1 if tile.columns == NARROW else vz
    name = f"conv2d_weight_grad<{type_name(dtype)},{CODE[precision]},{tile.name},{vx},{vz}>"
    shared = tile.shared(ALONG_X, ALONG_X, dtype.itemsize)
    return Instance(Kernel("conv.cu", name), tile.threads, shared)


def instances():
    """Every instance that the three functions can ask for."""
    found = []
    for precision, (*wide, narrow) in TILES.items():
        dtype = DTYPES[precision == "fp64"]
        fours = [] if precision == "fp64" else [(tile, 4, 4) for tile in (*wide, narrow)]
        ones = [(SINGLE[precision], 1, 1), (narrow, 1, 1)]
        mixed = [] if precision == "fp64" else [(SINGLE[precision], 1, 4)]
        for tile, v, vo in fours + ones + mixed:
            found.append(_conv2d(dtype, precision, tile, v, vo))
            found.append(_conv2d_weight_grad(dtype, precision, tile, v, vo))
        for tile, v, _ in fours + ones:
            found.append(_conv2d_transpose(dtype, precision, tile, v))
    return found


def _vectors(images, others):
    """Elements that one copy moves of the images and of the other operand: (4, 4), (1, 4), (1, 1).

    An image of 3 channels is copied one by one; what meets it need not be.
    """
    v = vector(others)
    return (vector(images) if v == 4 else 1), v


def fits(geometry):
    """Whether the kernels take the geometry: its sizes, and its parities as blocks of a grid."""
    return _reach(geometry) <= REACH and 128 * math.prod(geometry.stride) <= GRID


def _reach(geometry):
    (top, bottom), (left, right) = geometry.pad
    height, width = geometry.image
    longest = max(height + top + bottom, width + left + right)
    return longest + max(geometry.kernel) + max(geometry.stride)


def _shape(geometry, images, channels, outputs):
    """sizes(parts, terms of a part): what :func:`run` gives the kernel last, one struct."""
    (top, _), (left, _) = geometry.pad
    height, width = geometry.image
    if _reach(geometry) > REACH:
        raise ValueError(
            f"an image of {height} x {width} with pad {geometry.pad} is too large for the kernels; "
            f"expected fewer than {REACH} rows and columns: cut it into pieces"
        )
    sizes = (
        images, height, width, channels, *geometry.grid, outputs, *geometry.kernel,
        *geometry.stride, top, left,
    )  # fmt: skip
    return lambda parts, terms: (np.array((*sizes, parts, terms), SHAPE),)


def _rows(a):
    """One row for each sample."""
    return None if a is None else a.reshape(len(a), -1)


def _matrix(w):
    return w.reshape(-1, w.shape[3])


def _expect_axes(where, **arrays):
    for name, a in arrays.items():
        if a.ndim != 4:
            raise ValueError(f"{where}: {name} has {a.ndim} axes; expected 4, channels last")


def _expect_kernel(where, w, geometry):
    if w.ndim != 4 or w.shape[:2] != geometry.kernel:
        raise ValueError(
            f"{where}: w has shape {w.shape}; expected (kh, kw, C, O) with kernel {geometry.kernel}"
        )
    return w.shape[3], w.shape[2]
