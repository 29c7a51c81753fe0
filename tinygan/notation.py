"""Calls and constants in few characters: how listings write them."""

from types import EllipsisType

import numpy as np

from tinygan.conv import Geometry


def call(op, given, params):
    """A call as text, from the texts of its arguments; static ones at their defaults are left out.

    >>> from tinygan.ops import sum
    >>> call(sum, ["x"], {"axis": (1,), "keepdims": False})
    'sum(x, axis=(1,))'
    """
    usual = getattr(op.fn, "__kwdefaults__", None) or {}
    given = list(given) + [
        written(v) if isinstance(v, Geometry) else f"{key}={written(v)}"
        for key, v in params.items()
        if key not in usual or v is not usual[key]
    ]
    return f"{op.__name__}({', '.join(given)})"


def written(a):
    """A constant in few characters: a number by its value, an array by its type and shape."""
    if isinstance(a, np.dtype):
        return str(a)
    if isinstance(a, Geometry):
        pad = a.pad[0] if a.pad[0] == a.pad[1] else a.pad
        return f"{a.kernel[0]}×{a.kernel[1]} stride {_both(a.stride)} pad {_both(pad)}"
    if hasattr(a, "dtype"):
        if a.ndim == 0:
            return written(a.item())
        return f"{a.dtype}{list(a.shape)}{of_one_value(a)}"
    if isinstance(a, float):
        return f"{a:.6g}"
    if type(a) is tuple:
        return f"({', '.join(map(written, a))}{',' * (len(a) == 1)})"
    if isinstance(a, slice):
        parts = ["" if part is None else str(part) for part in (a.start, a.stop, a.step)]
        return ":".join(parts if parts[2] else parts[:2])
    return "..." if isinstance(a, EllipsisType) else repr(a)


def _both(pair):
    """Two equal sizes as one number."""
    return str(pair[0]) if pair[0] == pair[1] else written(pair)


def of_one_value(a):
    """``" of 1"`` for an array of ones, and so on; "" if its elements differ."""
    first = a.reshape(-1)[:1]
    return f" of {written(first.item())}" if a.size and bool((a == first).all()) else ""
