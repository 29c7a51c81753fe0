"""NumPy or CuPy, and nothing else in tinygan needs to know which.

CuPy arrays answer NumPy's own functions (``np.exp(x)`` of a CuPy array runs on
the GPU and returns a CuPy array), so one source serves both. What is left for
this file: importing CuPy, moving arrays, and random numbers. It is the only
file that imports CuPy, and it does so only when a GPU is asked for.
"""

import ctypes
import math
import operator
import os
import sys

import numpy as np

from tinygan.kernels import random as kernels
from tinygan.kernels import serves

DEVICES = ("cpu", "gpu")
_MASK64 = (1 << 64) - 1


def _keep_freed_memory():
    """Let glibc keep up to 2 GiB of freed memory for the next step; elsewhere nothing is done.

    It gives freed memory back to the system by default, and the next training step faults it in
    again page by page: a third of the time of a step of large layers, most of it when two threads
    fault at once. All threads share one heap, so that what one has freed serves the others.
    """
    if "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return  # somebody has decided already
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # glibc's numbers of the settings
    mallopt(mmap_threshold, 1 << 25)  # the largest that glibc takes
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(arena_max, 1)


_keep_freed_memory()


def import_cupy():
    """The ``cupy`` module, with a GPU behind it.

    Raises: RuntimeError that says what to install, if CuPy or a GPU is missing.
    """
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            "device 'gpu' needs CuPy, which could not be imported. Install it with "
            "pip install 'tinygan[cuda13]' (or 'tinygan[cuda12]', to match your driver), "
            "or use device 'cpu'."
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy raises its own CUDARuntimeError, not importable without it
        raise RuntimeError(
            f"device 'gpu' needs a CUDA driver and a GPU; CuPy {cupy.__version__} found none "
            f"({error}). Check nvidia-smi, or use device 'cpu'."
        ) from error
    if count == 0:
        raise RuntimeError("device 'gpu' needs a GPU; CuPy found none. Use device 'cpu'.")
    return cupy


def array_module(array):
    """The module that made ``array``: ``numpy``, or ``cupy``, which is then imported already."""
    if type(array) is np.ndarray:
        return np
    return sys.modules["cupy"] if type(array).__module__.partition(".")[0] == "cupy" else np


def device_of(array):
    """Where an array is, ``"cpu"`` or ``"gpu"``."""
    return "cpu" if array_module(array) is np else "gpu"


def check_device(device):
    """``device`` if it can be used here; ValueError or RuntimeError with the remedy if not."""
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}; expected one of {', '.join(map(repr, DEVICES))}")
    if device == "gpu":
        import_cupy()
    return device


def to_device(array, device):
    """``array`` (NumPy or CuPy) on ``device``; the array itself if it is there already."""
    if check_device(device) == "gpu":
        return import_cupy().asarray(array)
    return to_host(array)


def to_host(array):
    """``array`` (NumPy or CuPy) as a NumPy array."""
    return array if array_module(array) is np else array.get()


class Stream:
    """A stream of random numbers that is passed, never global.

    The bits are those of Philox4x64-10 under ``key``, block by block from
    ``counter`` on: (key, counter) is the whole state, and the same pair gives
    the same integers on every machine and device. Every draw takes whole
    blocks, so its numbers depend on the counter where it starts and on nothing
    drawn from other streams.

    Uniforms and normals are made from the bits by the formulas below, on a GPU
    by our kernel. Its integers and uniforms are the same to the bit. Its normals
    differ from NumPy's, whose logarithm in float32 is up to 4 ulp off, by as
    much as those do from the exact value of the formula.

    Args:
        key: the seed, an integer from 0 to 2**128 - 1.
        counter: how many blocks of four 64-bit words were taken already.
        device: where the draws are put, ``"cpu"`` or ``"gpu"``.
    Source: Salmon, Moraes, Dror & Shaw, Parallel random numbers: as easy as
        1, 2, 3 (2011); Box & Muller (1958).
    """

    def __init__(self, key, counter=0, device="cpu"):
        try:
            key, counter = operator.index(key), operator.index(counter)
        except TypeError as error:
            raise TypeError(
                f"Stream: key and counter are integers, got {key!r} and {counter!r}"
            ) from error
        if not 0 <= key < 1 << 128:
            raise ValueError(f"Stream: key is {key}; expected 0 to 2**128 - 1")
        if not 0 <= counter < 1 << 192:
            raise ValueError(f"Stream: counter is {counter}; expected 0 to 2**192 - 1")
        self.key = key
        self.counter = counter
        self.device = check_device(device)
        self._philox = _philox(key, counter)

    def __repr__(self):
        return f"Stream(key={self.key}, counter={self.counter}, device={self.device!r})"

    @property
    def state(self):
        """(key, counter): ``Stream(*state)`` goes on where this one stands."""
        return self.key, self.counter

    def child(self, index):
        """A stream of its own for part number ``index``; this stream does not move.

        Its key is two words of this key's block 2**192 + index, which no draw
        reaches.
        """
        index = operator.index(index)
        if not 0 <= index < 1 << 63:
            raise ValueError(f"Stream.child: index is {index}; expected 0 to 2**63 - 1")
        low, high = _philox(self.key, (1 << 192) + index).random_raw(4)[:2]
        return Stream(int(low) | int(high) << 64, device=self.device)

    def bits(self, n):
        """n words of 64 bits, a NumPy uint64 array; takes ceil(n / 4) blocks."""
        (n,), _ = _size(n)
        blocks = -(-n // 4)
        self.counter += blocks
        return self._philox.random_raw(4 * blocks)[:n]

    def uniform(self, shape, dtype=np.float32):
        """Uniform numbers in [0, 1): k·2⁻²⁴ from 32-bit halves, k·2⁻⁵³ from words in float64."""
        draw = self._kernels_draw(kernels.fill_uniform, shape, _real(dtype))
        return to_device(self._uniform(shape, dtype), self.device) if draw is None else draw

    def _uniform(self, shape, dtype):
        shape, n = _size(shape)
        if _real(dtype) == np.float32:
            words = self.bits(-(-n // 2)).view(np.uint32)[:n] >> np.uint32(8)
            draw = words.astype(np.float32) * np.float32(2.0**-24)
        else:
            draw = (self.bits(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return draw.reshape(shape)

    def normal(self, shape, dtype=np.float32):
        """Standard normal numbers by Box and Muller.

        n numbers take m = ceil(n/2) pairs (u, v), both uniform on [0, 1): the first m are
        √(−2 ln(1−u))·cos 2πv, the rest √(−2 ln(1−u))·sin 2πv. One draw of 2m uniforms holds the
        m u's, then the m v's.
        """
        shape, n = _size(shape)
        dtype = _real(dtype)
        draw = self._kernels_draw(kernels.fill_normal, shape, dtype)
        if draw is not None:
            return draw
        m = -(-n // 2)
        uv = self._uniform((2, m), dtype)
        radius = np.sqrt(dtype.type(-2) * np.log(dtype.type(1) - uv[0]))
        angle = dtype.type(2 * math.pi) * uv[1]
        draw = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]
        return to_device(draw.reshape(shape), self.device)

    def integers(self, shape, high):
        """Integers in [0, high), int64: the 32-bit halves times high, shifted right by 32.

        The bias is below high·2⁻³²; ``high`` goes up to 2³².
        """
        shape, n = _size(shape)
        high = operator.index(high)
        if not 1 <= high <= 1 << 32:
            raise ValueError(f"Stream.integers: high is {high}; expected 1 to 2**32")
        draw = self._kernels_draw(kernels.fill_integers, shape, np.dtype(np.int64), high)
        if draw is not None:
            return draw
        halves = self.bits(-(-n // 2)).view(np.uint32)[:n].astype(np.uint64)
        draw = (halves * np.uint64(high) >> np.uint64(32)).astype(np.int64)
        return to_device(draw.reshape(shape), self.device)

    def _kernels_draw(self, fill, shape, dtype, *given):
        """What ``fill`` of our kernels draws; None where they do not serve."""
        xp = import_cupy() if self.device == "gpu" else np
        if not serves(xp.empty(0)):
            return None
        y = xp.empty(_size(shape)[0], dtype)
        blocks = fill(y, *given, self.key, self.counter)
        self.counter += blocks
        self._philox.advance(blocks)
        return y

    def permutation(self, n):
        """A permutation of 0..n−1, int64: the order that sorts n words."""
        return to_device(np.argsort(self.bits(n), kind="stable"), self.device)


def _philox(key, counter):
    """NumPy's generator, placed so that its first block is number ``counter``."""
    # NumPy raises the counter before it makes a block, hence the -1 (modulo 2**256).
    before = (counter - 1) % (1 << 256)
    words = np.array([before >> 64 * i & _MASK64 for i in range(4)], np.uint64)
    return np.random.Philox(key=np.array([key & _MASK64, key >> 64], np.uint64), counter=words)


def _size(shape):
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    try:
        sizes = tuple(map(operator.index, sizes))
    except TypeError as error:
        raise TypeError(f"Stream: size is {shape!r}; expected whole numbers") from error
    if any(n < 0 for n in sizes):
        raise ValueError(f"Stream: size is {shape!r}; sizes cannot be negative")
    return sizes, math.prod(sizes)


def _real(dtype):
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"Stream: dtype is {dtype}; expected float32 or float64")
    return dtype
