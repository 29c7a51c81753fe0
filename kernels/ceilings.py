"""Kernels that measure what the chip can do at most: the host side of ceilings.cu.

``benchmarks/gpu.py`` times them, for the floors that it compares layers with.
"""

import numpy as np

from .columns import check
from .launch import Instance, Kernel, check_precision, multiprocessors

THREADS = 256
CHAINS, LINKS = 16, 16
MT, NT = 4, 4
ADDS_VALUES = 2 + CHAINS
MMA_VALUES = 32 * (4 * MT + 2 * NT)

_COPY = Instance(Kernel("ceilings.cu", "copy"), THREADS)
_ADDS = Instance(Kernel("ceilings.cu", "multiply_adds"), THREADS)
_MMA = Instance(Kernel("ceilings.cu", "mma_tf32"), THREADS)


def instances():
    """The kernels of this module, as they are launched."""
    return [_COPY, _ADDS, _MMA]


def copy(x, y):
    """Copy x to y. Moves 2 arrays.

    Shapes: x, y (n,), float32, n a multiple of 4, both aligned to 16 bytes.
    Raises: TypeError or ValueError for other arrays.
    """
    check("copy", x.shape, np.dtype(np.float32), x=x, y=y)
    if x.size % 4 or x.size == 0:
        raise ValueError(f"copy: x has {x.size} elements; expected a multiple of 4, above 0")
    packs = x.size // 4
    grid = min(-(-packs // THREADS), 16 * multiprocessors(x))
    _COPY.kernel((grid,), (THREADS,), (x, y, np.int64(packs)))


def multiply_adds(x, repeats, blocks):
    """Chains of multiply-adds in float32: (their sums by thread, the operations that it took).

    v ← x[0]·v + x[1], from v = x[2 + chain] + thread, LINKS·repeats times; y = Σ v over chains

    Shapes: x (2 + CHAINS,), y (blocks, THREADS).
    Raises: TypeError or ValueError for another x.
    """
    check("multiply_adds", (ADDS_VALUES,), np.dtype(np.float32), x=x)
    y = np.empty_like(x, shape=(blocks, THREADS))
    _ADDS.kernel((blocks,), (THREADS,), (x, y, np.int32(repeats)))
    return y, 2 * CHAINS * LINKS * repeats * THREADS * blocks


def mma_tf32(x, repeats, blocks):
    """Products of fragments in TF32: (the results' sums by thread, the operations that it took).

    Shapes: x (MMA_VALUES,), the fragments of A (16·MT, 8) and B (8, 8·NT) as ceilings.cu has them;
        y (blocks, THREADS).
    Raises: TypeError or ValueError for another x; RuntimeError for a device without TF32.
    """
    check("mma_tf32", (MMA_VALUES,), np.dtype(np.float32), x=x)
    check_precision("tf32", x)
    y = np.empty_like(x, shape=(blocks, THREADS))
    _MMA.kernel((blocks,), (THREADS,), (x, y, np.int32(repeats)))
    return y, 2 * 16 * 8 * 8 * MT * NT * repeats * THREADS // 32 * blocks
