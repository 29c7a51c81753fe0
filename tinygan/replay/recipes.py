"""How each primitive is computed into given memory: the same NumPy calls as its own, with out=.

A recipe ``recipe(emit, y, *args, **params)`` writes y from the args by calls
``emit(function, *arrays, out=array)``, each a NumPy function that allocates nothing; temporary
memory is ``emit.like(y)``. Numbers among the args come as 0-d arrays. The calls are made now for a
list that is run many times.

A primitive without a recipe is computed by its own function and copied: right, but it allocates.
"""

import math

import numpy as np

from tinygan import conv, norms, ops, optim
from tinygan.engine import add, broadcast_to, stop_gradient, sum_to
from tinygan.replay.masks import gate_mask

ROWS = 1024  # rows at a time of a sum over rows, as in the engine


def _ufunc(function):
    def recipe(emit, y, *args):
        emit(function, *args, out=y)

    return recipe


def _square(emit, y, a):
    emit(np.multiply, a, a, out=y)


def _rsqrt(emit, y, a):
    emit(np.sqrt, a, out=y)
    emit(np.divide, emit.number(1.0, y), y, out=y)


def _small_exp(emit, t, a):
    emit(np.absolute, a, out=t)
    emit(np.negative, t, out=t)
    emit(np.exp, t, out=t)


def _sigmoid(emit, y, a):
    small, positive = emit.like(y), emit.like(y, bool)
    _small_exp(emit, small, a)
    emit(np.greater, a, emit.number(0.0, y), out=positive)
    emit(np.copyto, y, positive)  # NumPy allocates a buffer where dtypes differ within a ufunc
    emit(np.maximum, small, y, out=y)
    emit(np.add, small, emit.number(1.0, y), out=small)
    emit(np.divide, y, small, out=y)


def _softplus(emit, y, a):
    small = emit.like(y)
    _small_exp(emit, small, a)
    emit(np.log1p, small, out=small)
    emit(np.maximum, a, emit.number(0.0, y), out=y)
    emit(np.add, y, small, out=y)


def _gate(emit, y, a, m, *, slope):
    if a is m and slope == 0:
        # A whole array of zeros: NumPy's maximum with one number takes five times as long.
        emit(np.maximum, a, emit.full(y, 0.0), out=y)
    elif a is m:
        small = emit.like(y)
        emit(np.multiply, a, emit.number(slope, y), out=small)
        emit(np.maximum, a, small, out=y)
    else:
        mask = emit.like(y)
        _gate_mask(emit, mask, m, slope=slope)
        emit(np.multiply, a, mask, out=y)


def _gate_mask(emit, y, m, *, slope):
    positive = emit.like(y, bool)
    emit(np.greater, m, emit.number(0.0, y), out=positive)
    emit(np.copyto, y, positive)
    if slope:
        emit(np.maximum, y, emit.full(y, slope), out=y)


def _ratio(emit, y, a, b):
    zero, rest = emit.like(b, bool), emit.like(b)
    flag = emit.like(b)
    emit(np.equal, b, emit.number(0.0, y), out=zero)
    emit(np.copyto, flag, zero)
    emit(np.add, b, flag, out=rest)
    emit(np.divide, a, rest, out=y)
    emit(np.subtract, emit.number(1.0, y), flag, out=flag)
    emit(np.multiply, y, flag, out=y)


def _descend(emit, y, p, d, rate):
    t = emit.like(y)
    emit(np.multiply, d, emit.opposite(rate), out=t)
    emit(np.add, t, p, out=y)


def _accumulate(emit, y, m, d, *, momentum):
    t = emit.like(y)
    emit(np.multiply, m, emit.number(momentum, y), out=t)
    emit(np.add, t, d, out=y)


def _blend(emit, y, m, d, *, decay):
    t, u = emit.like(y), emit.like(y)
    emit(np.multiply, d, emit.number(1 - decay, y), out=t)
    emit(np.multiply, m, emit.number(decay, y), out=u)
    emit(np.add, t, u, out=y)


def _blend_square(emit, y, v, d, *, decay):
    t, u = emit.like(y), emit.like(y)
    emit(np.multiply, d, d, out=t)
    emit(np.multiply, t, emit.number(1 - decay, y), out=t)
    emit(np.multiply, v, emit.number(decay, y), out=u)
    emit(np.add, t, u, out=y)


def _descend_scaled(emit, y, p, m, v, rate, root, *, eps):
    scale = emit.like(y)
    emit(np.sqrt, v, out=scale)
    emit(np.multiply, scale, root, out=scale)
    emit(np.add, scale, emit.number(eps, y), out=scale)
    emit(np.divide, m, scale, out=scale)
    emit(np.multiply, scale, emit.opposite(rate), out=scale)
    emit(np.add, scale, p, out=y)


# Recipes that work on each element by itself: any block of all arrays gives that block of y. They
# read each argument before they write y, so that y may have the memory of an argument.
ELEMENTWISE = {
    add: _ufunc(np.add),
    ops.subtract: _ufunc(np.subtract),
    ops.negative: _ufunc(np.negative),
    ops.multiply: _ufunc(np.multiply),
    ops.divide: _ufunc(np.divide),
    ops.square: _square,
    ops.exp: _ufunc(np.exp),
    ops.expm1: _ufunc(np.expm1),
    ops.log: _ufunc(np.log),
    ops.log1p: _ufunc(np.log1p),
    ops.sqrt: _ufunc(np.sqrt),
    ops.rsqrt: _rsqrt,
    ops.tanh: _ufunc(np.tanh),
    ops.sigmoid: _sigmoid,
    ops.softplus: _softplus,
    ops.gate: _gate,
    gate_mask: _gate_mask,
    ops.sign: _ufunc(np.sign),
    ops.abs: _ufunc(np.absolute),
    ops.maximum: _ufunc(np.maximum),
    ops.minimum: _ufunc(np.minimum),
    ops.ratio: _ratio,
    optim.descend: _descend,
    optim.accumulate: _accumulate,
    optim.blend: _blend,
    optim.blend_square: _blend_square,
    optim.descend_scaled: _descend_scaled,
}


def _matmul(emit, y, a, b, *, ta=False, tb=False):
    a = a.swapaxes(-1, -2) if ta else a
    b = b.swapaxes(-1, -2) if tb else b
    if a.shape[-1] == 1 == b.shape[-2]:
        emit(np.multiply, a, b, out=y)
    else:
        emit(np.matmul, a, b, out=y)


def _affine(emit, y, x, w, b):
    emit(np.matmul, x, w, out=y)
    emit(np.add, y, b, out=y)


def _concatenate(emit, y, *arrays, axis=0):
    start, before = 0, (slice(None),) * (axis % y.ndim)
    for a in arrays:
        stop = start + a.shape[axis]
        part = y[(*before, slice(start, stop))]
        if part.__array_interface__["data"] != a.__array_interface__["data"]:
            emit(np.copyto, part, a)  # else it was written there
        start = stop


def _stack(emit, y, *arrays, axis=0):
    for i, a in enumerate(arrays):
        emit(np.copyto, y[(*(slice(None),) * (axis % y.ndim), i, ...)], a)


def _place(emit, y, a, *, at, shape):
    emit(np.copyto, y, emit.number(0.0, y))
    emit(np.copyto, y[_view_at(at)], a)


def _view_at(at):
    """The index with an Ellipsis: what it gives is then a view, and never a scalar."""
    at = at if type(at) is tuple else (at,)
    return at if any(p is Ellipsis for p in at) else (*at, ...)


def _copy(emit, y, a, **_):
    emit(np.copyto, y, a)


def _reshape(emit, y, a, *, shape):
    emit(np.copyto, y.reshape(a.shape), a)


def _transpose(emit, y, a, *, axes=None):
    emit(np.copyto, y, np.transpose(a, axes))


def _index(emit, y, a, *, at):
    emit(np.copyto, y, a[_view_at(at)])


def _sum(emit, y, a, *, axis=None, keepdims=False):
    if axis in (-1, (a.ndim - 1,)) and a.ndim > 1 and 2 <= a.shape[-1] <= 4 and not keepdims:
        emit(np.add, a[..., 0], a[..., 1], out=y)  # a reduction of short rows takes five times that
        for k in range(2, a.shape[-1]):
            emit(np.add, y, a[..., k], out=y)
        return
    emit(np.add.reduce, a, axis=axis, keepdims=keepdims, out=y)


def _norm(emit, y, a, *, axis=None, keepdims=False):
    kept = tuple(
        1 if axis is None or i in _axes(axis, a.ndim) else n for i, n in enumerate(a.shape)
    )
    y, t, scale = y.reshape(kept), emit.like(a), emit.like(a, shape=kept)
    usable, finite = emit.like(scale, bool), emit.like(scale, bool)
    emit(np.absolute, a, out=t)
    emit(np.maximum.reduce, t, axis=axis, keepdims=True, out=scale)
    emit(np.greater, scale, emit.number(0.0, a), out=usable)
    emit(np.isfinite, scale, out=finite)
    emit(np.logical_and, usable, finite, out=usable)
    emit(np.logical_not, usable, out=usable)
    emit(np.copyto, scale, emit.number(1.0, a), where=usable)
    emit(np.divide, a, scale, out=t)
    emit(np.multiply, t, t, out=t)
    emit(np.add.reduce, t, axis=axis, keepdims=True, out=y)
    emit(np.sqrt, y, out=y)
    emit(np.multiply, scale, y, out=y)


def _axes(axis, ndim):
    return [i % ndim for i in (axis if isinstance(axis, tuple) else (axis,))]


def _sum_to(emit, y, a, *, shape):
    lead = a.ndim - len(shape)
    if len(shape) == 1 < a.ndim and shape == a.shape[-1:]:
        if not a.flags.c_contiguous:  # reshaping it would copy, once and for all
            whole = emit.like(y, shape=a.shape)
            emit(np.copyto, whole, a)
            a = whole
        _sum_of_rows(emit, y, a.reshape(math.prod(a.shape[:-1]), *shape))
        return
    axes = tuple(i for i in range(a.ndim) if i < lead or shape[i - lead] != a.shape[i])
    kept = tuple(1 if i in axes else n for i, n in enumerate(a.shape))
    emit(np.add.reduce, a, axis=axes, keepdims=True, out=y.reshape(kept))


def _sum_of_rows(emit, y, rows):
    """As the engine's: BLAS adds up blocks of rows, and their sums are added up."""
    n, whole = len(rows), len(rows) - len(rows) % ROWS
    ones = emit.full(y, 1.0, shape=(max(n - whole, min(n, ROWS)),))
    if whole == 0:
        emit(np.matmul, ones[:n], rows, out=y)
        return
    parts = emit.like(y, shape=(n // ROWS, rows.shape[1]))
    emit(np.matmul, ones[:ROWS], rows[:whole].reshape(n // ROWS, ROWS, rows.shape[1]), out=parts)
    rest = emit.like(y)
    emit(np.matmul, ones[: n - whole], rows[whole:], out=rest)
    emit(np.add.reduce, parts, axis=0, out=y)
    emit(np.add, y, rest, out=y)


def _clip(emit, y, a, *, low=None, high=None):
    emit(np.clip, a, low, high, out=y)


def _conv2d(emit, y, x, w, b=None, *, geometry):
    emit(conv.conv2d_into, y, x, w, b, geometry=geometry, after=emit.after, scratch=emit.scratch)


def _conv2d_transpose(emit, y, z, w, b=None, *, geometry):
    emit(
        conv.conv2d_transpose_into, y, z, w, b, geometry=geometry, after=emit.after,
        scratch=emit.scratch,
    )  # fmt: skip


def _conv2d_weight_grad(emit, y, x, z, *, geometry):
    emit(conv.conv2d_weight_grad_into, y, x, z, geometry=geometry, scratch=emit.scratch)


def _block_mean(emit, y, a, *, axes):
    emit(norms.block_mean_into, y, a, axes=axes, scratch=emit.scratch)


def _block_inverse_deviation(emit, y, a, mean, *, axes, eps):
    emit(norms.block_inverse_deviation_into, y, a, mean, axes=axes, eps=eps, scratch=emit.scratch)


def _standardise(emit, y, a, mean, r, scale, shift, *, axes, eps):
    given = a, mean, r, scale, shift
    emit(norms.standardise_into, y, *given, after=emit.after, scratch=emit.scratch)


def _project(emit, y, h, a, mean, r, scale, *, axes, eps):
    given = h, a, mean, r, scale
    emit(norms.project_into, y, *given, axes=axes, after=emit.after, scratch=emit.scratch)


def _standard_dot(emit, y, h, a, mean, r, *, axes, eps):
    emit(norms.standard_dot_into, y, h, a, mean, r, axes=axes, scratch=emit.scratch)


# Recipes that y must have memory of its own for.
WHOLE = {
    ops.matmul: _matmul,
    ops.affine: _affine,
    ops.concatenate: _concatenate,
    ops.stack: _stack,
    ops.place: _place,
    broadcast_to: _copy,
    stop_gradient: _copy,
    ops.reshape: _reshape,
    ops.transpose: _transpose,
    ops.index: _index,
    ops.sum: _sum,
    ops.norm: _norm,
    sum_to: _sum_to,
    ops.clip: _clip,
    conv.conv2d: _conv2d,
    conv.conv2d_transpose: _conv2d_transpose,
    conv.conv2d_weight_grad: _conv2d_weight_grad,
    norms.block_mean: _block_mean,
    norms.block_inverse_deviation: _block_inverse_deviation,
    norms.standardise: _standardise,
    norms.project: _project,
    norms.standard_dot: _standard_dot,
}

VIEWS = {ops.reshape, ops.transpose, ops.index}  # the result can be the argument's own memory
# A group may begin with one of these: they call ``emit.after(i, j)`` when samples i:j are made.
PRODUCTS = {conv.conv2d, conv.conv2d_transpose}
EPILOGUES = PRODUCTS | {norms.standardise, norms.project}
# What can be gathered while a product makes its samples.
STATISTICS = {norms.block_mean, norms.block_inverse_deviation}


def takes(line):
    """Whether the line has a recipe: its primitive does, and its arrays are real."""
    if any(a.dtype.kind not in "f" for a in (*line.operands, line.result)):
        return line.op in (ops.reshape, ops.transpose, ops.index, ops.concatenate, broadcast_to)
    if line.op is ops.matmul:
        return all(len(a.shape) >= 2 for a in line.operands)
    if line.op is ops.gate:
        return 0 <= line.params["slope"] <= 1
    return line.op in ELEMENTWISE or line.op in WHOLE


def elementwise(line):
    """Whether the line works on each element by itself, and its result has the largest shape."""
    return line.op in ELEMENTWISE and takes(line) and math.prod(line.result.shape) > 0
