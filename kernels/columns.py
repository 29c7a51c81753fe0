"""How an array (groups, rows, columns) is cut into blocks: the Python half of columns.cuh."""

from typing import NamedTuple

import numpy as np

THREADS = 256
FLIGHT = 4  # rows of a thread in flight
LEAST = 4  # such flights of a thread before rows are split: a second launch costs more
CHAIN = 64  # additions in a row of one sum, which then joins others in pairs
# Blocks that keep the largest chips busy. The count is no device's own, on which the order of the
# sums would depend, and their last bits with it.
BLOCKS = 512
TYPES = {"f": "float", "d": "double"}  # by the character of the dtype

_CUT = np.dtype(
    [
        ("rows", np.int64),
        ("chunk", np.int64),
        ("columns", np.int32),
        ("splits", np.int32),
        ("tiles", np.int32),
        ("width", np.int32),
    ]
)


class Cut(NamedTuple):
    """Attributes: what the kernels get, the blocks of the grid, and those of them down the rows."""

    struct: np.ndarray
    grid: tuple
    splits: int


def cut(groups, rows, columns, whole=False):
    """The cut of an array (groups, rows, columns); with ``whole``, blocks have all of the rows.

    Raises: ValueError for an array of more blocks than a grid has, or an empty one.
    """
    width = min(5, (columns - 1).bit_length())  # a warp: 32 neighbours
    tiles = -(-columns >> width)
    step = (THREADS >> width) * FLIGHT
    flights = -(-rows * groups * tiles // (BLOCKS * step))
    chunk = -(-rows // step) * step if whole else step * min(CHAIN, max(LEAST, flights))
    splits = -(-rows // chunk) if chunk else 0
    blocks = groups * splits * tiles
    if not 0 < blocks < 1 << 31 or columns >= 1 << 31:
        raise ValueError(
            f"an array of {groups} groups of {rows} x {columns} would take {blocks} blocks; "
            "expected 1 to 2**31 - 1"
        )
    struct = np.array([(rows, chunk, columns, splits, tiles, width)], _CUT)
    return Cut(struct, (blocks,), splits)


def check(name, shape, dtype=None, /, **arrays):
    """That all are float32 or all float64 (``dtype``, if given), C-contiguous, and of one shape.

    Args:
        shape: what they must have, or None for any.
    Raises: TypeError or ValueError that names the array.
    """
    for key, a in arrays.items():
        if not hasattr(a, "dtype") or a.dtype.char not in TYPES:
            what = getattr(a, "dtype", type(a).__name__)
            raise TypeError(f"{name}: {key} is {what}; expected a float32 or float64 array")
        if a.dtype != (dtype := dtype or a.dtype):
            raise TypeError(f"{name}: {key} is {a.dtype}, others are {dtype}; expected one dtype")
        if shape is not None and a.shape != shape:
            raise ValueError(f"{name}: {key} has shape {a.shape}; expected {shape}")
        if not a.flags.c_contiguous:
            raise ValueError(
                f"{name}: {key} of shape {a.shape} has strides {a.strides}; expected C-contiguous "
                "memory, as numpy.ascontiguousarray makes it"
            )
