"""Matrix products on the GPU, with the same tiles as the convolutions.

cuBLAS cannot be captured in a CUDA graph through CuPy; these products can, and give the same bits
in every run.
"""

import sys
from functools import cache

import numpy as np

from .launch import (
    Instance,
    Kernel,
    architecture,
    check_precision,
    current_precision,
    multiprocessors,
    pointer,
    serves,
)
from .tiles import ALONG_K, ALONG_X, CODE, NARROW, SINGLE, TILES, choose

DTYPES = np.dtype(np.float32), np.dtype(np.float64)
LIMIT = 1 << 31  # elements of an array: offsets in the kernels are 32-bit
BLOCK = 256  # threads of add_parts
FEW = 16  # terms
GRID = 65535  # blocks in y and in z


def matmul(
    a, b, bias=None, *, ta=False, tb=False, slope=1.0, mask=None, precision=None, choice=None
):
    """The matrix product, each factor transposed if asked, and what may follow it.

    s = op(a)·op(b) + bias;  y = s where s (or, if given, mask) is positive, slope·s elsewhere

    ``choice`` is (tile, parts of the sum, terms of a part) in place of :func:`tiles.choose`'s.

    Shapes: op(a) (n, k), op(b) (k, m), y and mask (n, m), bias (m,).
    Raises: ValueError and TypeError for shapes, dtypes or memory that do not fit; RuntimeError for
        a device too old for the precision.
    """
    return product(a, b, bias, ta, tb, slope, mask, precision, choice)


def product(a, b, bias, ta, tb, slope, mask, precision, choice, repeats=1):
    """As :func:`matmul`; the bias, of m/repeats numbers, is added to the columns in turns."""
    dtype = check_arrays("matmul", a=a, b=b, bias=bias, mask=mask)
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"matmul: a has {a.ndim} axes and b {b.ndim}; expected two each")
    rows, terms = a.shape[::-1] if ta else a.shape
    inner, columns = b.shape[::-1] if tb else b.shape
    if ta and tb:  # the one case without a kernel, and a rare one
        b, tb = b.T.copy(), False
    if inner != terms:
        raise ValueError(
            f"matmul: a{'ᵀ' if ta else ''} has {terms} columns and b{'ᵀ' if tb else ''} {inner} "
            "rows; expected the same number"
        )
    period = columns // repeats
    expect("matmul", "bias", bias, (period,))
    expect("matmul", "mask", mask, (rows, columns))
    y = empty_like(a, (rows, columns))
    if y.size == 0:
        return y
    v = vector((a, a.shape[1]), (b, b.shape[1]))

    def sizes(parts, of_part):
        return tuple(map(np.int32, (rows, columns, terms, of_part, period)))

    def instance(precision, tile):
        return _matmul(dtype, precision, tile, ta, tb, v)

    run(
        instance, (a, b), y, (rows, columns, terms, 1), v == 1, sizes, (bias, mask, slope, period),
        precision, choice,
    )  # fmt: skip
    return y


def run(make, operands, y, shape, single, sizes, epilogue, precision, choice):
    """Choose a tile and launch a product's kernel into ``y``; add up the parts of its sum.

    Args:
        make: make(precision, tile) is the kernel's instance.
        shape: (rows, columns, terms, how many products side by side).
        single: whether an operand is copied one element at a time.
        sizes: sizes(parts, terms of a part) are the kernel's last arguments.
        epilogue: (bias, mask, slope, period of the bias), or None if the kernel has none.
        precision, choice: as in :func:`matmul`.
    Raises: ValueError for a grid that no GPU takes.
    """
    rows, columns, terms, grids = shape
    precision = precision_for(y, precision, terms)
    tile, parts, of_part = choice or choose(
        precision, *shape, single, architecture(y), multiprocessors(y)
    )
    instance = make(precision, tile)
    grid = -(-rows // tile.rows), -(-columns // tile.columns), grids * parts
    if max(grid[1:]) > GRID:
        raise ValueError(
            f"{instance.kernel.name}: a grid of {grid} blocks; a GPU takes {GRID} across and in "
            "depth: use fewer channels, or a smaller stride"
        )
    bias, mask, slope, period = epilogue or (None, None, 1, y.shape[-1])
    number = y.dtype.type
    if parts == 1:
        after = (bias, mask, y, number(slope)) if epilogue else (y,)
    else:
        pieces = empty_like(y, (parts, *y.shape))
        after = (None, None, pieces, number(1)) if epilogue else (pieces,)
    arguments = (*operands, *after, *sizes(parts, of_part))
    instance.kernel(grid, (instance.threads,), arguments, instance.shared)
    if parts > 1:
        blocks = min(-(-y.size // BLOCK), 8 * multiprocessors(y))
        counts = tuple(map(np.int32, (parts, y.size, period)))
        arguments = (pieces, bias, mask, y, number(slope), *counts)
        _add_parts(y.dtype).kernel((blocks,), (BLOCK,), arguments)


@cache
def _matmul(dtype, precision, tile, ta, tb, v):
    vb = 1 if tile.columns == NARROW and not tb else v
    flags = f"{str(ta).lower()},{str(tb).lower()},{v},{vb}"
    name = f"matmul<{type_name(dtype)},{CODE[precision]},{tile.name},{flags}>"
    layouts = (ALONG_X if ta else ALONG_K), (ALONG_K if tb else ALONG_X)
    shared = tile.shared(*layouts, dtype.itemsize)
    return Instance(Kernel("gemm.cu", name), tile.threads, shared)


@cache
def _add_parts(dtype):
    return Instance(Kernel("gemm.cu", f"add_parts<{type_name(dtype)}>"), BLOCK, 0)


def instances():
    """Every instance that :func:`matmul` can ask for."""
    found = [_add_parts(dtype) for dtype in DTYPES]
    for precision, (*wide, narrow) in TILES.items():
        dtype = DTYPES[precision == "fp64"]
        for ta, tb in ((False, False), (False, True), (True, False)):
            if precision != "fp64":
                found += [_matmul(dtype, precision, tile, ta, tb, 4) for tile in (*wide, narrow)]
            found.append(_matmul(dtype, precision, SINGLE[precision], ta, tb, 1))
            found.append(_matmul(dtype, precision, narrow, ta, tb, 1))
    return found


# What all products share


def take(*arrays):
    """Whether our products serve these arrays (None aside): all float32 or all float64, and there.

    "There" is on the GPU, or anywhere inside :func:`tinygan.kernels.emulated`. Arrays of 2³¹
    elements and more are left to others.
    """
    if not serves(arrays[0]):
        return False
    dtype = arrays[0].dtype
    return dtype in DTYPES and all(
        a is None or (a.dtype == dtype and a.size < LIMIT) for a in arrays
    )


def packed(*arrays):
    """The arrays (or None), each as it is if it is C-contiguous, else a copy that is."""
    return tuple(
        a if a is None or a.flags.c_contiguous else np.ascontiguousarray(a) for a in arrays
    )


def check_arrays(where, **arrays):
    """The dtype of the arrays; TypeError or ValueError for those a kernel cannot take."""
    given = {name: a for name, a in arrays.items() if a is not None}
    for name, a in given.items():
        if not hasattr(a, "dtype"):
            raise TypeError(f"{where}: {name} is a {type(a).__name__}; expected an array")
    dtypes = {a.dtype for a in given.values()}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        named = ", ".join(f"{name} {a.dtype}" for name, a in given.items())
        raise TypeError(f"{where}: {named}; expected all float32 or all float64: convert them")
    for name, a in given.items():
        if a.size >= LIMIT:
            raise ValueError(
                f"{where}: {name} has {a.size} elements; expected fewer than 2³¹: use smaller "
                "batches"
            )
    return dtypes.pop()


def expect(where, name, a, shape):
    """ValueError unless ``a`` is None or of the shape."""
    if a is not None and a.shape != shape:
        raise ValueError(f"{where}: {name} has shape {a.shape}; expected {shape}")


def empty_like(a, shape):
    """An array on ``a``'s device."""
    xp = np if type(a) is np.ndarray else sys.modules["cupy"]
    return xp.empty(shape, a.dtype)


def precision_for(a, precision, terms):
    """The precision asked for, or the context's, as a kernel's.

    float64 is computed in float64 always. 3xTF32 stands for float32's accuracy: a sum of a few
    terms, where its own error of some 3·2⁻²⁴ would show, is made with FFMA.
    """
    precision = check_precision(current_precision() if precision is None else precision, a)
    if a.dtype == np.float64:
        return "fp64"
    return "fp32" if precision == "3xtf32" and terms < FEW else precision


def type_name(dtype):
    """The element type in CUDA."""
    return "double" if dtype == np.float64 else "float"


def vector(*operands):
    """How many elements one copy moves: 4 where all the operands' rows are aligned to 16 bytes.

    Args:
        operands: (array, length of its rows) each.
    """
    aligned = all(
        a.itemsize == 4 and length % 4 == 0 and pointer(a) % 16 == 0 for a, length in operands
    )
    return 4 if aligned else 1
