"""Element-wise kernels and the sum of a matrix's rows: the host side of fused.cu."""

import numpy as np

from .columns import BLOCKS, THREADS, TYPES, check, cut
from .launch import Instance, Kernel

_PER_BLOCK = 4 * THREADS  # packs of 16 bytes, up to the blocks that keep a chip busy
_GATE = {
    (char, own): Instance(Kernel("fused.cu", f"gate<{t}, {str(own).lower()}>"), THREADS)
    for char, t in TYPES.items()
    for own in (False, True)
}
_COLUMN_SUM = {
    char: Instance(
        Kernel("fused.cu", f"column_sum<{t}>"), THREADS, THREADS * np.dtype(char).itemsize
    )
    for char, t in TYPES.items()
}


def instances():
    """The kernels of this module, as they are launched."""
    return [*_GATE.values(), *_COLUMN_SUM.values()]


def takes(a, *others):
    """Whether :func:`gate` takes these: C-contiguous floats of one dtype and shape."""
    return a.dtype.char in TYPES and all(
        b.dtype == a.dtype and b.shape == a.shape and b.flags.c_contiguous for b in (a, *others)
    )


def gate(a, m, slope):
    """a where m is positive, slope·a elsewhere; NaN and infinity as in :func:`tinygan.ops.gate`.

    y = a·[m > 0] + slope·a·[m ≤ 0]

    Moves 3 arrays, or 2 where m is a.

    Shapes: a, m, y the same.
    Raises: TypeError or ValueError for other dtypes, shapes, or arrays that are not C-contiguous.
    """
    check("gate", a.shape, a=a, m=m)
    y = np.empty_like(a)
    if a.size == 0:
        return y
    wide = 16 // a.itemsize
    packs = 0 if any(_address(b) % 16 for b in (a, m, y)) else a.size // wide
    grid = min(4 * BLOCKS, -(-max(packs, a.size - packs * wide) // _PER_BLOCK))
    instance = _GATE[a.dtype.char, a is m]
    args = [a, m, a.dtype.type(slope), np.int64(packs), np.int64(a.size), y]
    instance.kernel((grid,), (THREADS,), args)
    return y


def column_sum(a):
    """The sum of a matrix's rows, in an order that depends on its shape alone.

    y[c] = Σ a[r, c]

    Reads the matrix once, in one launch or two.

    Shapes: a (R, C), y (C,).
    Raises: TypeError or ValueError for another dtype, and for what is no C-contiguous matrix.
    """
    check("column_sum", None, a=a)
    if a.ndim != 2:
        raise ValueError(f"column_sum: a has shape {a.shape}; expected a matrix")
    if a.size == 0:
        return np.zeros_like(a, shape=a.shape[1])
    instance = _COLUMN_SUM[a.dtype.char]
    while True:
        rows, columns = a.shape
        parts = cut(1, rows, columns)
        shape = (columns,) if parts.splits == 1 else (parts.splits, columns)
        y = np.empty_like(a, shape=shape)
        instance.kernel(parts.grid, (THREADS,), [a, parts.struct, y], instance.shared)
        if parts.splits == 1:
            return y
        a = y


def _address(a):
    return a.ctypes.data if type(a) is np.ndarray else a.data.ptr
