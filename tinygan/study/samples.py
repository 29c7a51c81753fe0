"""A small call of each differentiable primitive, away from its kinks: what `explain` measures on.

An op of as many float arrays, of one shape, as it has arguments needs no entry here: it is called
with numbers between 0.4 and 1. The others have one below.
"""

import inspect
import math
from typing import Any, NamedTuple

import numpy as np

from tinygan import conv, norms, ops
from tinygan.engine import broadcast_to, sum_to
from tinygan.engine import values as plain


class Sample(NamedTuple):
    """A call: ``call(*inputs, **params)``.

    ``call`` is the op; or, for an op of which some arguments are functions of others, a function
    that makes those itself. All float arrays among the inputs are then differentiated.
    """

    call: Any
    inputs: tuple
    params: dict


def numbers(*shape, k=0):
    """Numbers from 0.4 to 1, all different; arrays of other k are nowhere equal to this one.

    Shapes: y ``shape``, float64.
    """
    n = math.prod(shape)
    step = next(s for s in range(max(1, round(0.618 * n)), n + 2) if math.gcd(s, n) == 1)
    order = np.arange(n) * step % max(n, 1)
    order = order[::-1] if k % 2 else order
    return (0.4 + 0.5 * order / max(n, 1) + 0.03 * k).reshape(shape)


def signed(*shape, k=0):
    """:func:`numbers`, every other one with a minus."""
    a = numbers(*shape, k=k).reshape(-1)
    a[::2] *= -1
    return a.reshape(shape)


def sample_of(op):
    """The :class:`Sample` of a primitive; None if it needs inputs that nobody gave."""
    return written_samples().get(op) or _general(op)


def written_samples():
    """{op: its :class:`Sample`} of the ops that arrays of one shape do not fit."""
    a, b, c = numbers(2, 3), numbers(2, 3, k=1), numbers(3, k=2)
    mask = np.array([[True, False, True], [False, False, True]])
    labels = np.array([2, 0, 2])  # one of them twice
    geometry = conv.Geometry((4, 3), (2, 3), (2, 1), ((1, 0), (1, 1)))
    p, q = geometry.grid
    image, grid = signed(2, 4, 3, 2), signed(2, p, q, 3, k=1)
    weights = signed(2, 3, 2, 3, k=2)
    return {
        op: Sample(op, inputs, params)
        for op, inputs, params in [
            (broadcast_to, (c,), {"shape": (2, 3)}),
            (sum_to, (a,), {"shape": (3,)}),
            (ops.abs, (signed(2, 3),), {}),
            (ops.power_number, (a,), {"exponent": 2.5}),
            (ops.gate, (a, signed(2, 3, k=1)), {"slope": 0.2}),
            (ops.clip, (a,), {"low": 0.5, "high": 0.75}),
            (ops.where, (mask, a, b), {}),
            (ops.reshape, (a,), {"shape": (3, 2)}),
            (ops.index, (a,), {"at": (slice(None, None, -1), 1)}),
            (ops.place, (c,), {"at": (slice(None), 1), "shape": (3, 2)}),
            (ops.concatenate, (a, numbers(2, 1, k=1)), {"axis": 1}),
            (ops.stack, (a, b), {"axis": 1}),
            (ops.gather, (a, labels), {"axis": 1}),
            (ops.scatter_add, (a, labels), {"axis": 1, "size": 3}),
            (ops.matmul, (a, b), {"tb": True}),
            (ops.affine, (a, numbers(3, 2, k=1), numbers(2, k=2)), {}),
            (conv.conv2d, (image, weights, c), {"geometry": geometry}),
            (conv.conv2d_transpose, (grid, weights, numbers(2)), {"geometry": geometry}),
            (conv.conv2d_weight_grad, (image, grid), {"geometry": geometry}),
        ]
    } | _of_norms(a, b, c)


def _of_norms(a, b, c):
    """Mean and deviation belong to the values: the rule of those has their part."""
    axes, eps = (0,), 0.1

    def statistics(a):
        a = plain(a)
        mean = norms.block_mean(a, axes=axes)
        return mean, norms.block_inverse_deviation(a, mean, axes=axes, eps=eps)

    def standardise(a, scale, shift, **params):
        return norms.standardise(a, *statistics(a), scale, shift, **params)

    def project(h, a, scale, **params):
        return norms.project(h, a, *statistics(a), scale, **params)

    def standard_dot(h, a, **params):
        return norms.standard_dot(h, a, *statistics(a), **params)

    params = {"axes": axes, "eps": eps}
    return {
        norms.standardise: Sample(standardise, (a, c, numbers(3)), params),
        norms.project: Sample(project, (b, a, c), params),
        norms.standard_dot: Sample(standard_dot, (b, a), params),
    }


def _general(op):
    """A call with arrays of one shape, if the op takes it and answers with finite floats."""
    parameters = inspect.signature(op.fn).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    inputs = tuple(numbers(2, 3, k=k) for k in range(len(positional)))
    try:
        with np.errstate(all="ignore"):
            y = op(*inputs)
    except (TypeError, ValueError, IndexError, ArithmeticError):
        return None
    floats = getattr(y, "dtype", None) == np.float64
    return Sample(op, inputs, {}) if inputs and floats and np.isfinite(y).all() else None
