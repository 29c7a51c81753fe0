"""The optimisers' steps, one launch for a leaf: the host side of optim.cu.

A step returns the new arrays as the rows of one: the parameter first, then its state. Products are
rounded before they are added, so the bits are those of the primitives in tinygan/optim.py, but for
float32 numbers below 2⁻¹²⁶, which CuPy has the GPU take for 0.
"""

import numpy as np

from .columns import BLOCKS, THREADS, TYPES, check
from .launch import Instance, Kernel, serves

_NAMES = {
    "sgd": "sgd<{}>",
    "momentum": "momentum<{}, false>",
    "nesterov": "momentum<{}, true>",
    "rmsprop": "rmsprop<{}>",
    "adam": "adam<{}>",
}
_KERNELS = {
    (char, name): Instance(Kernel("optim.cu", text.format(t)), THREADS)
    for char, t in TYPES.items()
    for name, text in _NAMES.items()
}


def instances():
    """The kernels of this module, as they are launched."""
    return list(_KERNELS.values())


def takes(p):
    """Whether these kernels serve the parameter: float32 or float64, on the GPU or emulated."""
    return serves(p) and p.dtype.char in TYPES


def sgd(p, g, rate):
    """A step down. Moves 3 arrays.

    y = p − rate·g

    Shapes: p, g, y (...), rate ().
    Raises: TypeError or ValueError for arrays that differ, or are not C-contiguous floats.
    """
    return _step("sgd", 1, [p, g], [rate]).reshape(p.shape)


def momentum(p, g, velocity, rate, *, momentum, nesterov):
    """A step of momentum, or Nesterov's. Moves 5 arrays.

    b = momentum·velocity + g; y = [p − rate·b, b], with g + momentum·b in b's place for Nesterov

    Shapes: p, g, velocity (...), rate (), y (2, ...).
    Raises: as in :func:`sgd`.
    """
    return _step("nesterov" if nesterov else "momentum", 2, [p, g, velocity], [rate], momentum)


def rmsprop(p, g, square, rate, *, decay, eps):
    """A step of RMSProp. Moves 5 arrays.

    v = decay·square + (1 − decay)·g²; y = [p − rate·g/(√v + eps), v]

    Shapes: p, g, square (...), rate (), y (2, ...).
    Raises: as in :func:`sgd`.
    """
    return _step("rmsprop", 2, [p, g, square], [rate], decay, 1 - decay, eps)


def adam(p, g, mean, square, rate, root, *, beta1, beta2, eps):
    """A step of Adam. Moves 7 arrays.

    m = β₁·mean + (1 − β₁)·g; v = β₂·square + (1 − β₂)·g²; y = [p − rate·m/(root·√v + eps), m, v]

    Shapes: p, g, mean, square (...), rate and root (), y (3, ...).
    Raises: as in :func:`sgd`.
    """
    numbers = beta1, 1 - beta1, beta2, 1 - beta2, eps
    return _step("adam", 3, [p, g, mean, square], [rate, root], *numbers)


def _step(name, rows, arrays, scalars, *numbers):
    p = arrays[0]
    check(name, p.shape, **{f"array {i}": a for i, a in enumerate(arrays)})
    check(name, (), p.dtype, **{f"number {i}": a for i, a in enumerate(scalars)})
    y = np.empty_like(p, shape=(rows, *p.shape))
    if p.size:
        numbers = (p.dtype.type(x) for x in numbers)
        args = [*arrays, *scalars, *numbers, np.int64(p.size), y]
        grid = min(4 * BLOCKS, -(-p.size // THREADS))
        _KERNELS[p.dtype.char, name].kernel((grid,), (THREADS,), args)
    return y
