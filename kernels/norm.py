"""The primitives of batch norm and layer norm: the host side of norm.cu.

``axes`` are all axes but the last (batch norm) or all but the first (layer norm); the statistics
``mean`` and ``r`` have length 1 along them. Where the split of the work needs a second launch to
add up the parts, it is small. The equations are in tinygan/norms.py.
"""

import numpy as np

from .columns import THREADS, TYPES, check, cut
from .launch import Instance, Kernel

_FACTORS = np.dtype([("inverse_count", np.float64), ("eps", np.float64)])
_SUMS = {"MEAN": 1, "DEVIATION": 1, "PROJECT": 2, "DOT": 1, "DOT_LAYER": 1}  # and how many each is
_LAYERED = ("PROJECT", "DOT_LAYER")  # those that look at features along the rows
_CPP = {False: "false", True: "true"}


def _instance(name, char="f", sums=0):
    return Instance(Kernel("norm.cu", name), THREADS, sums * THREADS * np.dtype(char).itemsize)


_REDUCE = {
    (char, kind, layer): _instance(f"reduce<{t}, {kind}, {_CPP[layer]}>", char, _SUMS[kind])
    for char, t in TYPES.items()
    for kind, layer in [*((kind, False) for kind in _SUMS), *((kind, True) for kind in _LAYERED)]
    if (kind, layer) != ("DOT_LAYER", False)
}
_TOTAL = {
    (char, kind): _instance(f"total<{t}, {kind}>", char, _SUMS[kind])
    for char, t in TYPES.items()
    for kind in _SUMS
}
_STANDARDISE, _PROJECT = (
    {
        (char, layer): _instance(f"{name}<{t}, {_CPP[layer]}>")
        for char, t in TYPES.items()
        for layer in (False, True)
    }
    for name in ("standardise", "project")
)


def instances():
    """The kernels of this module, as they are launched."""
    tables = (_REDUCE, _TOTAL, _STANDARDISE, _PROJECT)
    return [instance for table in tables for instance in table.values()]


def takes(axes, a, *by_feature):
    """Whether these kernels take a with means over ``axes``, and arrays by feature or numbers."""
    if a.dtype.char not in TYPES or a.size == 0 or not a.flags.c_contiguous:
        return False
    if axes != tuple(range(a.ndim - 1)) and (0 in axes or a.size // len(a) >= 1 << 31):
        return False
    for b in by_feature:
        if hasattr(b, "dtype"):
            if b.dtype != a.dtype or b.shape != a.shape[-1:] or not b.flags.c_contiguous:
                return False
    return axes in (tuple(range(a.ndim - 1)), tuple(range(1, a.ndim))) and axes != ()


def mean(a, axes):
    """The mean over axes. Reads a once.

    y = Σ a/n

    Shapes: a (N, ..., C), y the same with 1 for each of the axes.
    """
    check("mean", None, a=a)
    return _reduce("MEAN", None, a, None, None, None, axes).reshape(_kept(a, axes))


def inverse_deviation(a, mean, axes, eps):
    """One over the deviation from a known mean. Reads a once.

    y = 1/√(Σ (a − mean)²/n + eps)

    Shapes: as in :func:`mean`.
    """
    check("inverse_deviation", None, a=a)
    check("inverse_deviation", _kept(a, axes), a.dtype, mean=mean)
    y = _reduce("DEVIATION", None, a, mean, None, None, axes, eps)
    return y.reshape(mean.shape)


def standardise(a, mean, r, scale, shift, axes):
    """a moved by mean and r, scaled and shifted by feature. Moves 2 arrays of a's size.

    y = scale·r·(a − mean) + shift

    Shapes: a, y (N, ..., C), scale and shift (C,), or numbers.
    """
    check("standardise", None, a=a)
    check("standardise", _kept(a, axes), a.dtype, mean=mean, r=r)
    scale, scale_number = _feature("standardise", "scale", scale, a)
    shift, shift_number = _feature("standardise", "shift", shift, a)
    y = np.empty_like(a)
    parts = cut(*_layout(a, axes))
    features = np.int32(a.shape[-1])
    args = [a, mean, r, scale, scale_number, shift, shift_number, features, parts.struct, y]
    instance = _STANDARDISE[a.dtype.char, 0 not in axes]
    instance.kernel(parts.grid, (THREADS,), args)
    return y


def project(h, a, mean, r, scale, axes):
    """The adjoint of :func:`standardise`. Moves 5 arrays of a's size: 2 for two sums, then 3.

    y = r·(k − mean k − â·mean(k·â)), â = r·(a − mean), k = h·scale

    Shapes: h, a, y (N, ..., C), scale (C,), or a number.
    """
    check("project", a.shape, a=a, h=h)
    check("project", _kept(a, axes), a.dtype, mean=mean, r=r)
    sums = _reduce("PROJECT", h, a, mean, r, scale, axes)
    scale, number = _feature("project", "scale", scale, a)
    y = np.empty_like(a)
    parts = cut(*_layout(a, axes))
    args = [h, a, mean, r, sums, scale, number, np.int32(a.shape[-1]), parts.struct, y]
    _PROJECT[a.dtype.char, 0 not in axes].kernel(parts.grid, (THREADS,), args)
    return y


def standard_dot(h, a, mean, r, axes):
    """The sum of products with the standardised values, by feature. Reads h and a once.

    y[c] = Σ h[..., c]·â[..., c], â = r·(a − mean)

    Shapes: h, a (N, ..., C), y (C,).
    """
    check("standard_dot", a.shape, a=a, h=h)
    check("standard_dot", _kept(a, axes), a.dtype, mean=mean, r=r)
    return _reduce("DOT" if 0 in axes else "DOT_LAYER", h, a, mean, r, None, axes)


def _reduce(kind, h, a, mean, r, scale, axes, eps=0.0):
    """The sums ``kind`` of norm.cu, in a vector."""
    char, layer = a.dtype.char, 0 not in axes and kind in _LAYERED
    scale, number = _feature(kind, "scale", 1.0 if scale is None else scale, a)
    groups, rows, columns = _layout(a, axes)
    features = a.shape[-1]
    if kind == "DOT_LAYER":  # a feature's rows are those of all samples
        features, groups, rows, columns = rows // features, 1, a.size // features, features
    factors = np.array([(1 / rows, eps)], _FACTORS)
    parts = cut(groups, rows, columns)
    size = _SUMS[kind] * groups * columns
    y = np.empty_like(a, shape=size * parts.splits)
    instance = _REDUCE[char, kind, layer]
    args = [h, a, mean, r, scale, number, np.int32(features), parts.struct, factors, y]
    instance.kernel(parts.grid, (THREADS,), args, instance.shared)
    if parts.splits == 1:
        return y
    left, y = y, np.empty_like(a, shape=size)
    parts = cut(groups, parts.splits, columns, whole=True)
    instance = _TOTAL[char, kind]
    args = [left, r, parts.struct, factors, y]
    instance.kernel(parts.grid, (THREADS,), args, instance.shared)
    return y


def _layout(a, axes):
    """(groups, rows, columns) of a: batch norm's columns are the features, layer norm has one."""
    if axes and axes == tuple(range(a.ndim - 1)):
        return 1, a.size // a.shape[-1], a.shape[-1]
    if axes and axes == tuple(range(1, a.ndim)):
        return len(a), a.size // len(a), 1
    raise ValueError(
        f"means over axes {axes} of shape {a.shape}; expected all axes but the last, or but the "
        "first"
    )


def _kept(a, axes):
    return tuple(1 if i in axes else n for i, n in enumerate(a.shape))


def _feature(name, key, value, a):
    """(array or None, number): how a kernel gets what is an array by feature, or a number."""
    if not hasattr(value, "dtype"):
        return None, a.dtype.type(value)
    check(name, a.shape[-1:], a.dtype, **{key: value})
    return value, a.dtype.type(0)
