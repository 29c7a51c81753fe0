"""Random numbers of Philox4x64-10, as tinygan.backend.Stream draws them: random.cu's host side.

``key`` and ``counter`` are the stream's. ``base``, where given, is an array of four uint64 words,
low word first, on the same device: a number that is added to ``counter``. A CUDA graph, which keeps
its arguments, goes on in the stream by changing that array. Each function returns how many blocks
of four words it took from the stream.
"""

import numpy as np

from .columns import TYPES
from .launch import Instance, Kernel

THREADS = 128
_START = np.dtype([("key", np.uint64, 2), ("counter", np.uint64, 4)])
_MOST = 1 << 16  # blocks of a grid; threads go on from there
_MASK64 = (1 << 64) - 1
_SHARED = (2 * THREADS + 1) * 32  # the numbers of two Philox blocks a thread, and of one more


def _instance(name, shared=0):
    return Instance(Kernel("random.cu", name), THREADS, shared)


_BITS, _INTEGERS = _instance("bits"), _instance("integers")
_UNIFORM = {char: _instance(f"uniform<{t}>") for char, t in TYPES.items()}
_NORMAL = {char: _instance(f"normal<{t}>", _SHARED) for char, t in TYPES.items()}


def instances():
    """The kernels of this module, as they are launched."""
    return [_BITS, _INTEGERS, *_UNIFORM.values(), *_NORMAL.values()]


def fill_bits(y, key, counter, base=None):
    """The stream's words into y, an array of uint64. Writes y once."""
    return _fill("fill_bits", _BITS if y.dtype == np.uint64 else None, y, key, counter, base)


def fill_integers(y, high, key, counter, base=None):
    """Integers in [0, high) into y, an array of int64: the stream's 32-bit halves·high·2⁻³²."""
    instance = _INTEGERS if y.dtype == np.int64 else None
    return _fill("fill_integers", instance, y, key, counter, base, np.uint64(high))


def fill_uniform(y, key, counter, base=None):
    """Uniform numbers in [0, 1) into y, an array of float32 or float64."""
    return _fill("fill_uniform", _UNIFORM.get(y.dtype.char), y, key, counter, base)


def fill_normal(y, key, counter, base=None):
    """Standard normal numbers into y, an array of float32 or float64.

    They are the formula of :meth:`tinygan.backend.Stream.normal`, rounded once after 1 − u and 2πv:
    float32 numbers are within 1 ulp of the exact value, which NumPy's own are not.
    """
    return _fill("fill_normal", _NORMAL.get(y.dtype.char), y, key, counter, base, each=2)


def _fill(name, instance, y, key, counter, base, *more, each=1):
    if instance is None:
        raise TypeError(f"{name}: y is {y.dtype}, which this does not fill")
    if base is not None and (base.dtype != np.uint64 or base.shape != (4,)):
        raise TypeError(f"{name}: base is {base.dtype}{list(base.shape)}; expected uint64[4]")
    if y.size == 0:
        return 0
    words = [key >> 64 * i & _MASK64 for i in range(2)]
    place = [counter >> 64 * i & _MASK64 for i in range(4)]
    start = np.array([(words, place)], _START)
    numbers = 8 if instance is _INTEGERS else 32 // y.itemsize  # of a block of four words
    blocks = -(-y.size // numbers)
    grid = min(_MOST, -(-blocks // (each * THREADS)))
    args = [start, base, *more, np.int64(y.size), y]
    instance.kernel((grid,), (THREADS,), args, instance.shared)
    return blocks
