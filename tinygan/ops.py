"""The primitives: each a function of arrays, with one rule per argument beside it.

In the docstrings y is the result, g or ȳ the adjoint of the result, and ā the
adjoint of the argument a: what the rule returns. Rules use primitives only
(the house law), so that every order of derivative is right. Where an argument
was broadcast, the engine sums its adjoint back; rules need not know.

Functions that are no primitives are made of them and need no rule.
"""

import math

import numpy as np

from tinygan import kernels
from tinygan.backend import array_module, to_device
from tinygan.engine import Tensor, add, broadcast_to, primitive, stop_gradient, sum_to
from tinygan.kernels import fused, serves
from tinygan.parallel import blocks

__all__ = [
    "abs", "add", "affine", "broadcast_to", "clip", "concatenate", "divide", "elu", "equal",
    "exp", "expm1", "gate", "gather", "greater", "greater_equal", "index", "leaky_relu", "less",
    "less_equal", "log", "log1p", "log_sigmoid", "log_softmax", "logsumexp", "matmul", "max",
    "maximum", "mean", "minimum", "multiply", "negative", "norm", "one_hot", "pad", "place",
    "power", "ratio", "relu", "reshape", "rsqrt", "sample_norm", "sample_square_norm",
    "scatter_add", "sigmoid", "sign", "softmax", "softplus", "sqrt", "square", "stack",
    "stop_gradient", "subtract", "sum", "sum_to", "tanh", "transpose", "variance", "where",
]  # fmt: skip

BLOCK = 1 << 17  # elements at a time: a block's passes find it in the cache
PAYS = 1 << 18  # elements from which an op is split over threads


# Arithmetic


@primitive
def subtract(a, b):
    """The difference.

    y = a − b

    Gradient: ā = ȳ; b̄ = −ȳ
    """
    return a - b


@primitive
def negative(a):
    """The opposite.

    y = −a

    Gradient: ā = −ȳ
    """
    return -a


@primitive
def multiply(a, b):
    """The product, element by element.

    y = a·b

    Gradient: ā = ȳ·b; b̄ = ȳ·a
    """
    return a * b


@primitive
def divide(a, b):
    """The quotient.

    y = a/b

    Gradient: ā = ȳ/b; b̄ = −ȳ·y/b
    """
    return a / b


@primitive
def square(a):
    """The square.

    y = a²

    Gradient: ā = ȳ·2a
    """
    return a * a


@primitive
def power_number(a, *, exponent):
    """A power whose exponent p is a number.

    y = aᵖ

    Gradient: ā = ȳ·p·aᵖ⁻¹, absent for p = 0
    """
    return a**exponent


def _power_rule(g, y, a, *, exponent):
    if exponent == 0:
        return None
    if exponent == 1:
        return g
    return multiply(g, multiply(power_number(a, exponent=exponent - 1), exponent))


subtract.vjp(lambda g, y, a, b: g, lambda g, y, a, b: negative(g))
negative.vjp(lambda g, y, a: negative(g))
multiply.vjp(lambda g, y, a, b: multiply(g, b), lambda g, y, a, b: multiply(g, a))
divide.vjp(
    lambda g, y, a, b: divide(g, b),
    lambda g, y, a, b: negative(multiply(g, divide(y, b))),
)
square.vjp(lambda g, y, a: multiply(g, multiply(a, 2.0)))
power_number.vjp(_power_rule)


def power(a, b):
    """a to the power b: any a for a number b; a > 0 for an array or Tensor b.

    y = aᵇ, computed as exp(b·log a) unless b is a number
    """
    if isinstance(b, (int, float, np.generic)):
        return power_number(a, exponent=b)
    log_a = math.log(a) if isinstance(a, (int, float, np.generic)) else log(a)
    return exp(multiply(b, log_a))


# Exponentials, logarithms, roots


@primitive
def exp(a):
    """The exponential.

    y = eᵃ

    Gradient: ā = ȳ·y
    """
    return np.exp(a)


@primitive
def expm1(a):
    """The exponential less one, exact for small a.

    y = eᵃ − 1

    Gradient: ā = ȳ·eᵃ
    """
    return np.expm1(a)


@primitive
def log(a):
    """The natural logarithm.

    y = ln a

    Gradient: ā = ȳ/a
    """
    return np.log(a)


@primitive
def log1p(a):
    """The logarithm of one more than a, exact for small a.

    y = ln(1 + a)

    Gradient: ā = ȳ/(1 + a)
    """
    return np.log1p(a)


@primitive
def sqrt(a):
    """The square root; its derivative at 0 is infinite (for norms see :func:`norm`).

    y = √a

    Gradient: ā = ȳ/(2y)
    """
    return np.sqrt(a)


@primitive
def rsqrt(a):
    """The reciprocal square root.

    y = 1/√a

    Gradient: ā = −½·ȳ·y³
    """
    return 1 / np.sqrt(a)


exp.vjp(lambda g, y, a: multiply(g, y))
expm1.vjp(lambda g, y, a: multiply(g, exp(a)))
log.vjp(lambda g, y, a: divide(g, a))
log1p.vjp(lambda g, y, a: divide(g, add(a, 1.0)))
sqrt.vjp(lambda g, y, a: divide(g, multiply(y, 2.0)))
rsqrt.vjp(lambda g, y, a: multiply(g, multiply(multiply(square(y), y), -0.5)))


# Smooth activations


@primitive
def tanh(a):
    """The hyperbolic tangent.

    y = tanh a

    Gradient: ā = ȳ·(1 − y²)
    """
    return np.tanh(a)


@primitive
def sigmoid(a):
    """The logistic function; neither tail overflows or is rounded away.

    y = 1/(1 + e⁻ᵃ)

    Gradient: ā = ȳ·y·σ(−a), exact where 1 − y would be rounded to 0
    """
    small = _small_exp(a)
    if a.dtype.kind == "f":
        return np.maximum(small, a > 0) / (1 + small)  # small is at most 1
    return np.where(a.real > 0, 1, small) / (1 + small)


@primitive
def softplus(a):
    """The smooth ramp; −log σ(−a), exact in both tails.

    y = ln(1 + eᵃ)

    Gradient: ā = ȳ·σ(a)
    """
    ramp = np.maximum(a, 0) if a.dtype.kind == "f" else np.where(a.real > 0, a, 0)
    return ramp + np.log1p(_small_exp(a))


def _small_exp(a):
    """e^(−|a|), which cannot overflow; for complex steps the analytic e^(∓a)."""
    if a.dtype.kind == "f":
        return np.exp(-np.abs(a))
    return np.exp(np.where(a.real > 0, -a, a))


tanh.vjp(lambda g, y, a: multiply(g, subtract(1.0, square(y))))
sigmoid.vjp(lambda g, y, a: multiply(g, multiply(y, sigmoid(negative(a)))))
softplus.vjp(lambda g, y, a: multiply(g, sigmoid(a)))


def log_sigmoid(a):
    """The logarithm of the logistic function.

    y = ln σ(a) = −softplus(−a)
    """
    return negative(softplus(negative(a)))


# Piecewise functions. Their choices are constants almost everywhere: those ops have no rule.


@primitive
def gate(a, m, *, slope):
    """a where m is positive, slope·a elsewhere: ReLU, LeakyReLU and their own gradients.

    y = a·[m > 0] + slope·a·[m ≤ 0]

    Gradient: ā = gate(ȳ, m); m̄ = 0 almost everywhere
    """
    if serves(a) and fused.takes(a, m):
        return fused.gate(a, m, slope)
    if a.size >= PAYS and array_module(a) is np and a.dtype.kind == m.dtype.kind == "f":
        if 0 <= slope <= 1 and a.shape == m.shape and a.flags.c_contiguous and m.flags.c_contiguous:
            return _gate_in_blocks(a, m, slope)
    if a is m and slope == 0:
        # NumPy's maximum with a row of zeros is 2.5 times as fast as with the number 0.
        return np.maximum(a, array_module(a).zeros(a.shape[-1:], a.dtype))
    if a is m and 0 < slope <= 1:
        return np.maximum(a, a * slope)
    if slope == 0:
        return a * (m.real > 0)
    if 0 < slope <= 1:  # np.where takes five times as long
        row = array_module(a).full(a.shape[-1:], slope, a.real.dtype)
        return a * np.maximum((m.real > 0).astype(row.dtype), row)
    return a * np.where(m.real > 0, 1, slope).astype(a.dtype)


def _gate_in_blocks(a, m, slope):
    """The gate for large arrays: each block's passes find it in the cache; the same bits."""
    y = np.empty(a.shape, a.dtype)  # like a, but in C order
    flat, marks, result = a.reshape(-1), m.reshape(-1), y.reshape(-1)
    floor = np.full(BLOCK, slope, a.dtype)  # maximum is five times as fast with a row as with one

    def ramp(i, j):
        if slope == 0:  # not flat·0, which is NaN at infinity
            np.maximum(flat[i:j], floor[: j - i], out=result[i:j])
        else:
            np.multiply(flat[i:j], floor[0], out=result[i:j])
            np.maximum(flat[i:j], result[i:j], out=result[i:j])

    def masked(i, j):
        result[i:j] = marks[i:j] > 0
        if slope:
            np.maximum(result[i:j], floor[: j - i], out=result[i:j])
        result[i:j] *= flat[i:j]

    blocks(a.size, BLOCK, ramp if a is m else masked, a.size >= PAYS)
    return y


gate.vjp(lambda g, y, a, m, *, slope: gate(g, m, slope=slope), None)


def relu(x):
    """The ramp, with derivative 0 at 0.

    y = max(x, 0)
    """
    return gate(x, x, slope=0.0)


def leaky_relu(x, slope=0.2):
    """The ramp with a slope below zero, and that slope at 0.

    y = x where x > 0, slope·x elsewhere
    """
    return gate(x, x, slope=slope)


def elu(x, alpha=1.0):
    """The exponential linear unit; its derivative at 0 is alpha.

    y = x where x > 0, alpha·(eˣ − 1) elsewhere

    Source: Clevert, Unterthiner & Hochreiter (2016)
    """
    ramp = relu(x)
    return add(ramp, multiply(expm1(subtract(x, ramp)), alpha))


@primitive
def sign(a):
    """The sign: −1, 0 or 1.

    y = a/|a|, and 0 at 0
    """
    return np.sign(a)


@primitive
def abs(a):
    """The absolute value, with subgradient 0 at 0.

    y = |a|

    Gradient: ā = ȳ·sign(a)
    """
    return np.abs(a)


@primitive
def share(a, b):
    """a's share of the larger of two: 1, or ½ at a tie, or 0.

    y = [a > b] + ½·[a = b]
    """
    return ((a > b) + 0.5 * (a == b)).astype(a.dtype)


@primitive
def maximum(a, b):
    """The larger of two; at a tie each gets half the gradient.

    y = max(a, b)

    Gradient: ā = ȳ·share(a, b); b̄ = ȳ·share(b, a)
    """
    return np.maximum(a, b)


@primitive
def minimum(a, b):
    """The smaller of two; at a tie each gets half the gradient.

    y = min(a, b)

    Gradient: ā = ȳ·share(−a, −b); b̄ = ȳ·share(−b, −a)
    """
    return np.minimum(a, b)


@primitive
def inside(a, *, low, high):
    """Whether a lies in a closed interval; an absent bound does not bind.

    y = [low ≤ a ≤ high]
    """
    lower = a >= (-math.inf if low is None else low)
    return lower & (a <= (math.inf if high is None else high))


@primitive
def clip(a, *, low=None, high=None):
    """a limited to a closed interval, with derivative 1 on its ends.

    y = min(max(a, low), high)

    Gradient: ā = ȳ·[low ≤ a ≤ high]
    """
    return np.clip(a, low, high)


@primitive
def where(condition, a, b):
    """a where the condition holds, b elsewhere.

    y = a if condition else b

    Gradient: ā = ȳ where the condition holds, else 0; b̄ the other way round
    """
    return np.where(condition, a, b)


abs.vjp(lambda g, y, a: multiply(g, sign(a)))
maximum.vjp(
    lambda g, y, a, b: multiply(g, share(a, b)),
    lambda g, y, a, b: multiply(g, share(b, a)),
)
minimum.vjp(
    lambda g, y, a, b: multiply(g, share(negative(a), negative(b))),
    lambda g, y, a, b: multiply(g, share(negative(b), negative(a))),
)
clip.vjp(lambda g, y, a, *, low, high: multiply(g, inside(a, low=low, high=high)))
where.vjp(
    None,
    lambda g, y, condition, a, b: where(condition, g, 0.0),
    lambda g, y, condition, a, b: where(condition, 0.0, g),
)


@primitive
def equal(a, b):
    """Whether two values are equal, a plain array of bool (``==`` compares identity).

    y = [a = b]
    """
    return a == b


@primitive
def greater(a, b):
    """Whether a is greater, a plain array of bool.

    y = [a > b]
    """
    return a > b


@primitive
def greater_equal(a, b):
    """Whether a is at least b, a plain array of bool.

    y = [a ≥ b]
    """
    return a >= b


@primitive
def less(a, b):
    """Whether a is less, a plain array of bool.

    y = [a < b]
    """
    return a < b


@primitive
def less_equal(a, b):
    """Whether a is at most b, a plain array of bool.

    y = [a ≤ b]
    """
    return a <= b


# Shape


@primitive
def reshape(a, *, shape):
    """The same elements in another shape; one length may be −1.

    y[i] = a[j], i and j at the same place in C order

    Gradient: ā = reshape(ȳ)
    """
    return a.reshape(shape)


@primitive
def transpose(a, *, axes=None):
    """The axes in another order; reversed without ``axes``.

    y[i] = a[j], jₐₓₑₛ₍ₖ₎ = iₖ

    Gradient: ā = transpose(ȳ) by the inverse order
    """
    return np.transpose(a, axes)


def _transpose_rule(g, y, a, *, axes=None):
    if axes is None:
        return transpose(g)
    return transpose(g, axes=tuple(int(i) for i in np.argsort([k % a.ndim for k in axes])))


@primitive
def index(a, *, at):
    """A part of a by integers, slices, None and Ellipsis: a view.

    y = a[at]

    Gradient: ā = place(ȳ, at) in zeros
    """
    return a[at]


@primitive
def place(a, *, at, shape):
    """Zeros of a shape with a put at a part of them, by integers and slices.

    y = 0, then y[at] = a

    Gradient: ā = ȳ[at]
    """
    y = np.zeros_like(a, shape=shape)
    y[at] = a
    return y


@primitive
def concatenate(*arrays, axis=0):
    """Arrays, given one by one, end to end along an axis.

    y = [a₀, a₁, …]

    Gradient: āᵢ = its part of ȳ
    """
    return np.concatenate(arrays, axis)


def _concatenate_rule(i, g, y, *arrays, axis=0):
    axis %= arrays[i].ndim
    start = 0
    for a in arrays[:i]:
        start += a.shape[axis]
    return index(g, at=(slice(None),) * axis + (slice(start, start + arrays[i].shape[axis]),))


@primitive
def stack(*arrays, axis=0):
    """Arrays of one shape, given one by one, along a new axis.

    y[…, i, …] = aᵢ

    Gradient: āᵢ = ȳ[…, i, …]
    """
    return np.stack(arrays, axis)


def _stack_rule(i, g, y, *arrays, axis=0):
    return index(g, at=(slice(None),) * (axis % (arrays[0].ndim + 1)) + (i,))


reshape.vjp(lambda g, y, a, *, shape: reshape(g, shape=a.shape))
transpose.vjp(_transpose_rule)
index.vjp(lambda g, y, a, *, at: place(g, at=at, shape=a.shape))
place.vjp(lambda g, y, a, *, at, shape: index(g, at=at))
concatenate.vjp_each(_concatenate_rule)
stack.vjp_each(_stack_rule)


def pad(a, widths):
    """a with zeros around it.

    Args:
        widths: (before, after) for each axis, as in ``np.pad``.
    Raises: ValueError for negative or missing widths.
    """
    if len(widths) != a.ndim or any(len(w) != 2 or w[0] < 0 or w[1] < 0 for w in widths):
        raise ValueError(
            f"pad: widths {widths} for shape {a.shape}; expected {a.ndim} pairs (before, after), "
            "none negative"
        )
    at = tuple(slice(before, before + n) for (before, _), n in zip(widths, a.shape, strict=True))
    shape = tuple(before + n + after for (before, after), n in zip(widths, a.shape, strict=True))
    return place(a, at=at, shape=shape)


@primitive
def gather(a, indices, *, axis=0):
    """The entries of an axis that integers name, repeats allowed.

    y = a[…, indices, …]

    Gradient: ā = scatter_add(ȳ, indices)
    """
    return np.take(a, indices, axis)


@primitive
def scatter_add(a, indices, *, axis, size):
    """Zeros, with entries of a added where integers say: gather's transpose.

    y[…, indices[k], …] += a[…, k, …]

    Equal indices are sorted together and summed in their order: the same bits every time.

    Gradient: ā = gather(ȳ, indices)
    """
    lead, tail = a.shape[:axis], a.shape[axis + indices.ndim :]
    entries = a.reshape(math.prod(lead), indices.size, math.prod(tail))
    y = np.zeros_like(a, shape=(entries.shape[0], size, entries.shape[2]))
    where_to = indices.reshape(-1) % size
    order = where_to.argsort(kind="stable")
    entries, where_to = entries[:, order], where_to[order]
    new = np.concatenate([where_to[:1] == where_to[:1], np.diff(where_to) != 0])
    first = np.nonzero(new)[0]
    if indices.size:
        y[:, where_to[first]] = _segment_sums(entries, new, first)
    return y.reshape(lead + (size,) + tail)


def _segment_sums(entries, new, first):
    """The sums over axis 1 of the runs that start at ``first``, where ``new`` holds."""
    if array_module(entries) is np:
        return np.add.reduceat(entries, first, axis=1)
    # CuPy's reduceat takes differences of one running sum: small runs drown in it. Here each
    # place adds the sum that ends ``reach`` places before it, if that is still in its run.
    start = first[np.cumsum(new) - 1]
    place = np.cumsum(np.ones_like(start)) - 1
    reach = 1
    while reach < entries.shape[1]:
        inside = (place - reach >= start)[reach:, None]
        before = np.where(inside, entries[:, :-reach], 0)
        entries = np.concatenate([entries[:, :reach], entries[:, reach:] + before], axis=1)
        reach *= 2
    last = np.concatenate([first[1:] - 1, place[-1:]])
    return entries[:, last]


gather.vjp(
    lambda g, y, a, indices, *, axis=0: scatter_add(
        g, indices, axis=axis % a.ndim, size=a.shape[axis]
    ),
    None,
)
scatter_add.vjp(lambda g, y, a, indices, *, axis, size: gather(g, indices, axis=axis), None)


def _getitem(a, at):
    """a[at] as NumPy has it, with any mix of integers, slices, None, Ellipsis, arrays and masks."""
    parts = at if isinstance(at, tuple) else (at,)
    if all(p is None or p is Ellipsis or isinstance(p, (int, np.integer, slice)) for p in parts):
        return index(a, at=at)
    if any(type(p) is Tensor for p in parts):
        raise TypeError("an index cannot be a Tensor; give its .data, an integer or bool array")
    xp = array_module(a.data)
    place_of = xp.arange(a.size).reshape(a.shape)
    return gather(reshape(a, shape=(-1,)), place_of[at])


def one_hot(labels, classes, dtype=np.float32):
    """Rows of zeros with a one at each label: a constant.

    y[i, k] = [labels[i] = k]

    Shapes: labels (...), y (..., classes).
    Raises: TypeError if labels are no integers; ValueError if one is outside 0..classes−1.
    """
    labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"one_hot: labels are {labels.dtype}; expected integers")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"one_hot: labels from {int(labels.min())} to {int(labels.max())} for {classes} "
            f"classes; expected 0 to {classes - 1}"
        )
    numbers = np.arange(classes)
    if array_module(labels) is not np:
        numbers = to_device(numbers, "gpu")
    return (labels[..., None] == numbers).astype(dtype)


# Reductions. ``axis`` is None (all), an integer or a tuple; ``keepdims`` as in NumPy.


def _expand(g, a, axis):
    """A reduction's adjoint g, over ``axis`` of a, broadcast back to a's shape."""
    if axis is not None and g.ndim != a.ndim:
        axes = {i % a.ndim for i in (axis if isinstance(axis, tuple) else (axis,))}
        g = reshape(g, shape=tuple(1 if i in axes else n for i, n in enumerate(a.shape)))
    return broadcast_to(g, shape=a.shape)


@primitive
def sum(a, *, axis=None, keepdims=False):
    """The sum over axes.

    y = Σ a

    Gradient: ā = ȳ, broadcast
    """
    return a.sum(axis, keepdims=keepdims)


@primitive
def leader(a, *, axis=None):
    """Which elements are the largest along the axes: 1, or 1/n each where n are tied, else 0.

    y = [a = max a]/n
    """
    top = a == a.max(axis, keepdims=True)
    return (top / top.sum(axis, keepdims=True)).astype(a.dtype)


@primitive
def max(a, *, axis=None, keepdims=False):
    """The largest element over axes; tied elements share the gradient equally.

    y = max a

    Gradient: ā = ȳ·[a = y]/n
    """
    return a.max(axis, keepdims=keepdims)


@primitive
def logsumexp(a, *, axis=None, keepdims=False):
    """The logarithm of a sum of exponentials, by way of the largest: no overflow.

    y = ln Σ eᵃ

    Gradient: ā = ȳ·eᵃ⁻ʸ
    """
    shift, rest = _shifted(a, axis)
    y = shift + np.log1p(rest)
    return y if keepdims else y.squeeze(axis)


@primitive
def log_softmax(a, *, axis=-1):
    """The logarithm of the softmax, exact in the tails.

    y = a − ln Σ eᵃ

    Gradient: ā = ȳ − eʸ·Σȳ
    """
    shift, rest = _shifted(a, axis)
    return (a - shift) - np.log1p(rest)


def _shifted(a, axis):
    """(m, r) with ln Σ eᵃ = m + ln(1 + r): m the largest real part, r the others' sum over eᵐ.

    Leaving the largest itself out of r keeps what a sum 1 + r would round away.
    """
    top = a.real.max(axis, keepdims=True)
    finite = np.isfinite(top)
    shift = np.where(finite, top, 0).astype(a.real.dtype)
    terms = np.exp(a - shift)
    largest = leader.fn(a.real, axis=axis) if axis is not None else leader.fn(a.real)
    return top, np.where(finite, _without(terms, largest, axis), 0)  # ±inf is its own sum


def _without(terms, largest, axis):
    # n tied leaders hold n·e⁰ = n: of the sum n − 1 stay. Complex steps ride on the leaders too.
    excess = np.where(largest > 0, terms - 1, terms)
    ties = (largest > 0).sum(axis, keepdims=True) - 1
    return excess.sum(axis, keepdims=True) + ties.astype(terms.real.dtype)


sum.vjp(lambda g, y, a, *, axis=None, keepdims=False: _expand(g, a, axis))
max.vjp(
    lambda g, y, a, *, axis=None, keepdims=False: multiply(
        _expand(g, a, axis), leader(a, axis=axis)
    )
)
logsumexp.vjp(
    lambda g, y, a, *, axis=None, keepdims=False: multiply(
        _expand(g, a, axis), exp(subtract(a, _expand(y, a, axis)))
    )
)
log_softmax.vjp(
    lambda g, y, a, *, axis=-1: subtract(g, multiply(exp(y), sum(g, axis=axis, keepdims=True)))
)


def softmax(a, axis=-1):
    """Exponentials that sum to one.

    y = eᵃ/Σ eᵃ
    """
    return exp(log_softmax(a, axis=axis))


def mean(a, axis=None, keepdims=False):
    """The mean over axes.

    y = Σ a/n
    """
    return multiply(sum(a, axis=axis, keepdims=keepdims), 1.0 / _count(a, axis, "mean"))


def variance(a, axis=None, keepdims=False, ddof=0):
    """The mean square distance from the mean; ``ddof`` is taken off the count, as in NumPy.

    y = Σ (a − mean a)²/(n − ddof)
    """
    n = _count(a, axis, "variance")
    if n <= ddof:
        raise ValueError(f"variance: {n} elements with ddof {ddof}; expected more than ddof")
    offset = subtract(a, mean(a, axis, keepdims=True))
    return multiply(sum(square(offset), axis=axis, keepdims=keepdims), 1.0 / (n - ddof))


def _count(a, axis, name):
    axes = range(a.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    n = math.prod(a.shape[i] for i in axes)
    if n == 0:
        raise ValueError(f"{name}: shape {a.shape} has no elements along axis {axis}")
    return n


# Norms


@primitive
def ratio(a, b):
    """The quotient, and 0 where b is 0.

    y = a/b where b ≠ 0, else 0

    Gradient: ā = ratio(ȳ, b); b̄ = −ȳ·ratio(y, b)
    """
    zero = b == 0
    return a / (b + zero) * (1 - zero.astype(b.dtype))


@primitive
def norm(a, *, axis=None, keepdims=False):
    """The Euclidean norm over axes, with subgradient 0 at 0; scaled, so no square overflows.

    y = √Σ a²

    Gradient: ā = ȳ·a/y, and 0 where y = 0
    """
    scale = np.abs(a.real).max(axis, keepdims=True)
    scale = np.where((scale > 0) & np.isfinite(scale), scale, 1).astype(scale.dtype)
    y = scale * np.sqrt(((a / scale) ** 2).sum(axis, keepdims=True))
    return y if keepdims else y.squeeze(axis)


ratio.vjp(
    lambda g, y, a, b: ratio(g, b),
    lambda g, y, a, b: negative(multiply(g, ratio(y, b))),
)
norm.vjp(
    lambda g, y, a, *, axis=None, keepdims=False: multiply(
        _expand(g, a, axis), ratio(a, _expand(y, a, axis))
    )
)


def sample_norm(a):
    """The Euclidean norm of each sample over all its components, whatever its rank.

    yₙ = √Σ aₙ²

    Shapes: a (N, ...), y (N,).
    """
    return norm(a, axis=tuple(range(1, a.ndim)))


def sample_square_norm(a):
    """The squared Euclidean norm of each sample over all its components; no square root.

    yₙ = Σ aₙ²

    Shapes: a (N, ...), y (N,).
    """
    return sum(square(a), axis=tuple(range(1, a.ndim)))


# Products


@primitive
def matmul(a, b, *, ta=False, tb=False):
    """The matrix product over the last two axes, each factor transposed if asked.

    y = a·b, with aᵀ for a if ta, bᵀ for b if tb

    Shapes: a (..., n, k), b (..., k, m), y (..., n, m); leading axes broadcast.
    Gradient: ā = ȳ·bᵀ; b̄ = aᵀ·ȳ
    """
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError("matmul takes arrays of at least two axes; reshape vectors first")
    if serves(a) and a.ndim == b.ndim == 2 and kernels.take(a, b):
        return kernels.matmul(*kernels.packed(a, b), ta=ta, tb=tb)
    a = a.swapaxes(-1, -2) if ta else a
    b = b.swapaxes(-1, -2) if tb else b
    if a.shape[-1] == 1 == b.shape[-2]:
        return a * b  # an outer product: five times as fast as BLAS, and the same bits
    return a @ b


def _matmul_left(g, y, a, b, *, ta=False, tb=False):
    return matmul(b, g, ta=tb, tb=True) if ta else matmul(g, b, tb=not tb)


def _matmul_right(g, y, a, b, *, ta=False, tb=False):
    return matmul(g, a, ta=True, tb=ta) if tb else matmul(a, g, ta=not ta)


@primitive
def affine(x, w, b):
    """A linear layer: the matrix product and a bias for each column.

    y = x·w + b

    Shapes: x (N, inputs), w (inputs, outputs), b (outputs,), y (N, outputs).
    Gradient: x̄ = ȳ·wᵀ; w̄ = xᵀ·ȳ; b̄ = Σₙ ȳₙ
    """
    if serves(x) and x.ndim == w.ndim == 2 and kernels.take(x, w, b):
        return kernels.matmul(*kernels.packed(x, w, b))
    y = x @ w
    y += b
    return y


matmul.vjp(_matmul_left, _matmul_right)
affine.vjp(
    lambda g, y, x, w, b: matmul(g, w, tb=True),
    lambda g, y, x, w, b: matmul(x, g, ta=True),
    lambda g, y, x, w, b: g,
)


def _matmul_operator(a, b):
    """a @ b with NumPy's treatment of vectors: a row on the left, a column on the right."""
    vector_a, vector_b = a.ndim == 1, b.ndim == 1
    if vector_a:
        a = reshape(a, shape=(1, -1))
    if vector_b:
        b = reshape(b, shape=(-1, 1))
    y = matmul(a, b)
    if vector_a or vector_b:
        rows = () if vector_a else y.shape[-2:-1]
        y = reshape(y, shape=y.shape[:-2] + rows + (() if vector_b else y.shape[-1:]))
    return y


# Operators and methods of a Tensor


Tensor.__add__ = lambda a, b: add(a, b)
Tensor.__radd__ = lambda a, b: add(b, a)
Tensor.__sub__ = lambda a, b: subtract(a, b)
Tensor.__rsub__ = lambda a, b: subtract(b, a)
Tensor.__mul__ = lambda a, b: multiply(a, b)
Tensor.__rmul__ = lambda a, b: multiply(b, a)
Tensor.__truediv__ = lambda a, b: divide(a, b)
Tensor.__rtruediv__ = lambda a, b: divide(b, a)
Tensor.__pow__ = lambda a, b: power(a, b)
Tensor.__rpow__ = lambda a, b: power(b, a)
Tensor.__matmul__ = lambda a, b: _matmul_operator(a, b)
Tensor.__rmatmul__ = lambda a, b: _matmul_operator(b, a)
Tensor.__neg__ = lambda a: negative(a)
Tensor.__abs__ = lambda a: abs(a)
Tensor.__getitem__ = _getitem
Tensor.__lt__ = lambda a, b: less(a, b)
Tensor.__le__ = lambda a, b: less_equal(a, b)
Tensor.__gt__ = lambda a, b: greater(a, b)
Tensor.__ge__ = lambda a, b: greater_equal(a, b)
Tensor.T = property(lambda a: transpose(a))
Tensor.sum = lambda a, axis=None, keepdims=False: sum(a, axis=axis, keepdims=keepdims)
Tensor.mean = lambda a, axis=None, keepdims=False: mean(a, axis, keepdims)
Tensor.max = lambda a, axis=None, keepdims=False: max(a, axis=axis, keepdims=keepdims)
Tensor.reshape = lambda a, *shape: reshape(
    a, shape=shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
)
Tensor.transpose = lambda a, *axes: transpose(
    a, axes=axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes or None
)
