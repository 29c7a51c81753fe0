"""Every primitive: its values, its dtype, its derivatives to order 3, its edges and its tails."""

import decimal
import itertools
import math
import operator
from typing import NamedTuple

import numpy as np
import pytest
import scipy.special as special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygan import engine, ops
from tinygan.check import check_gradients
from tinygan.engine import Primitive, Tensor, grad, grad_values, track
from tinygan.engine import values as plain
from tinygan.parallel import threads

PRIMITIVES = {
    p.__name__: p for m in (engine, ops) for p in vars(m).values() if isinstance(p, Primitive)
}
seeds = st.integers(0, 2**32 - 1)


# Inputs that stay away from kinks


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def nonzero(*shape, seed=0, gap=0.1):
    """``gap`` and more away from 0, of both signs."""
    a = normal(*shape, seed=seed)
    return np.asarray(a + np.copysign(gap, a))


def positive(*shape, seed=0):
    return np.asarray(np.abs(normal(*shape, seed=seed)) + 0.5)


def spread(*shape, seed=0):
    """No two elements nearer than 0.07."""
    rng = np.random.default_rng([seed, *shape])
    n = math.prod(shape)
    return (0.1 * (rng.permutation(n) - n / 2) + 0.03 * rng.random(n)).reshape(shape)


def test_inputs_stay_away_from_kinks():
    for shape in [(), (1,), (7,), (3, 4), (5, 5, 2)]:
        for seed in range(20):
            assert np.all(np.abs(nonzero(*shape, seed=seed)) >= 0.1)
            assert np.all(positive(*shape, seed=seed) >= 0.5)
            a = np.sort(spread(*shape, seed=seed), axis=None)
            assert np.all(np.diff(a) > 0.05)


# The registry


class Sample(NamedTuple):
    """One call: ``call(*inputs)``, its reference in NumPy or SciPy, and whether it is analytic."""

    op: Primitive
    inputs: tuple
    call: object
    reference: object
    analytic: bool
    label: str


SAMPLES = []


def sample(op, *inputs, call=None, reference, analytic=True, label=""):
    n = sum(s.op is op for s in SAMPLES)
    label = f"{op.__name__}-{label or n}"
    SAMPLES.append(Sample(op, inputs, call or op, reference, analytic, label))


LABELS = np.array([[2, 0, 2], [1, 2, -1]])
MASK = np.array([[True, False, True], [False, False, True]])

for _shapes in [((3, 2), (3, 2)), ((3, 1), (2,)), ((), (2, 2)), ((2, 1, 3), (4, 1))]:
    _a, _b = normal(*_shapes[0], seed=1), nonzero(*_shapes[1], seed=2, gap=0.7)
    sample(ops.add, _a, _b, reference=np.add)
    sample(ops.subtract, _a, _b, reference=np.subtract)
    sample(ops.multiply, _a, _b, reference=np.multiply)
    sample(ops.divide, _a, _b, reference=np.divide)
    sample(ops.ratio, _a, _b, reference=np.divide)

sample(ops.negative, normal(3, 2), reference=np.negative)
sample(ops.square, normal(3, 2), reference=np.square)
for _p in (3, 2.5, -1, 1, 0, 2, 0.5):
    sample(
        ops.power_number,
        positive(3, 2),
        call=lambda a, p=_p: ops.power_number(a, exponent=p),
        reference=lambda a, p=_p: np.power(a, float(p)),
        label=f"exponent={_p}",
    )
sample(ops.exp, normal(3, 2), reference=np.exp)
sample(ops.expm1, normal(3, 2), reference=np.expm1)
sample(ops.log, positive(3, 2), reference=np.log)
sample(ops.log1p, positive(3, 2) - 0.9, reference=np.log1p)
sample(ops.sqrt, positive(3, 2), reference=np.sqrt)
sample(ops.rsqrt, positive(3, 2), reference=lambda a: 1 / np.sqrt(a))
sample(ops.tanh, normal(3, 2), reference=np.tanh)
sample(ops.sigmoid, 3 * nonzero(3, 2), reference=special.expit)
sample(ops.softplus, 3 * nonzero(3, 2), reference=lambda a: np.logaddexp(0, a))

for _slope in (0.0, 0.2, 1.5, -0.5):
    sample(
        ops.gate,
        nonzero(3, 2),
        call=lambda a, s=_slope: ops.gate(a, a, slope=s),
        reference=lambda a, s=_slope: np.where(a > 0, a, s * a),
        label=f"itself,slope={_slope}",
    )
    sample(
        ops.gate,
        normal(3, 2, seed=3),
        nonzero(3, 2, seed=4),
        call=lambda a, m, s=_slope: ops.gate(a, m, slope=s),
        reference=lambda a, m, s=_slope: np.where(m > 0, a, s * a),
        label=f"other,slope={_slope}",
    )
sample(ops.abs, nonzero(3, 2), reference=np.abs, analytic=False)
sample(ops.maximum, spread(2, 3), spread(2, 3)[::-1], reference=np.maximum, analytic=False)
sample(ops.minimum, spread(2, 3), spread(2, 3)[::-1], reference=np.minimum, analytic=False)
sample(
    ops.maximum,
    nonzero(3, 2),
    call=lambda a: ops.maximum(0.0, a),
    reference=lambda a: np.maximum(a, 0),
    analytic=False,
    label="number",
)
sample(
    ops.minimum,
    nonzero(3, 2),
    call=lambda a: ops.minimum(a, 0.0),
    reference=lambda a: np.minimum(a, 0),
    analytic=False,
    label="number",
)
for _low, _high in [(-0.4, 0.4), (None, 0.4), (-0.4, None), (None, None)]:
    sample(
        ops.clip,
        np.array([[-1.0, -0.5, -0.3], [0.0, 0.2, 0.3], [0.5, 0.6, 2.0]]),
        call=lambda a, b=(_low, _high): ops.clip(a, low=b[0], high=b[1]),
        reference=lambda a, b=(_low, _high): np.clip(a, *b),
        analytic=False,
        label=f"{_low},{_high}",
    )
sample(
    ops.where,
    normal(2, 3, seed=5),
    normal(3, seed=6),
    call=lambda a, b: ops.where(like(MASK, a), a, b),
    reference=lambda a, b: np.where(MASK, a, b),
)
sample(
    ops.where,
    normal(seed=7),
    call=lambda a: ops.where(like(MASK, a), 1.0, a),
    reference=lambda a: np.where(MASK, 1.0, a),
    label="number",
)

sample(
    ops.reshape,
    normal(2, 6),
    call=lambda a: ops.reshape(a, shape=(3, -1)),
    reference=lambda a: a.reshape(3, 4),
)
sample(ops.transpose, normal(2, 3, 4), reference=np.transpose)
sample(
    ops.transpose,
    normal(2, 3, 4),
    call=lambda a: ops.transpose(a, axes=(1, -1, 0)),
    reference=lambda a: np.transpose(a, (1, 2, 0)),
    label="axes",
)
for _at in [(1,), (slice(None, None, -2), None, -1), (Ellipsis, slice(1, 3)), slice(3, 0, -1)]:
    sample(
        ops.index,
        normal(4, 3),
        call=lambda a, at=_at: ops.index(a, at=at),
        reference=lambda a, at=_at: a[at],
        label=str(_at),
    )


def placed(a, at, shape):
    y = np.zeros(shape, a.dtype)
    y[at] = a
    return y


for _at, _shape in [((slice(1, 3), slice(None)), (2, 3)), ((0, slice(None, None, -1)), (3,))]:
    sample(
        ops.place,
        normal(*_shape),
        call=lambda a, at=_at: ops.place(a, at=at, shape=(4, 3)),
        reference=lambda a, at=_at: placed(a, at, (4, 3)),
    )
for _axis in (0, 1, -1):
    sample(
        ops.concatenate,
        *(normal(2, 2, 2, seed=i) for i in range(3)),
        call=lambda *a, axis=_axis: ops.concatenate(*a, axis=axis),
        reference=lambda *a, axis=_axis: np.concatenate(a, axis),
        label=f"axis={_axis}",
    )
    sample(
        ops.stack,
        *(normal(2, 3, seed=i) for i in range(3)),
        call=lambda *a, axis=_axis: ops.stack(*a, axis=axis),
        reference=lambda *a, axis=_axis: np.stack(a, axis),
        label=f"axis={_axis}",
    )
sample(
    ops.concatenate,
    normal(1, 2),
    normal(3, 2),
    reference=lambda *a: np.concatenate(a),
    label="different lengths",
)


def added(a, indices, axis, size):
    y = np.zeros(a.shape[:axis] + (size,) + a.shape[axis + indices.ndim :], a.dtype)
    np.add.at(y, (slice(None),) * axis + (indices,), a)
    return y


for _axis in (0, 1, -1):
    sample(
        ops.gather,
        normal(3, 4, 3),
        call=lambda a, axis=_axis: ops.gather(a, like(LABELS, a), axis=axis),
        reference=lambda a, axis=_axis: np.take(a, LABELS, axis),
        label=f"axis={_axis}",
    )
for _axis, _shape in [(0, (2, 3, 2)), (1, (2, 2, 3)), (2, (1, 2, 2, 3))]:
    sample(
        ops.scatter_add,
        normal(*_shape),
        call=lambda a, axis=_axis: ops.scatter_add(a, like(LABELS, a), axis=axis, size=4),
        reference=lambda a, axis=_axis: added(a, LABELS % 4, axis, 4),
        label=f"axis={_axis}",
    )

sample(
    ops.sum_to,
    normal(3, 2, 4),
    call=lambda a: ops.sum_to(a, shape=(2, 1)),
    reference=lambda a: a.sum((0, 2))[:, None],
)
sample(
    ops.sum_to,
    normal(5, 4),
    call=lambda a: ops.sum_to(a, shape=(4,)),
    reference=lambda a: a.sum(0),
    label="rows",
)
sample(
    ops.sum_to,
    normal(5, 4),
    call=lambda a: ops.sum_to(a, shape=(1,)),
    reference=lambda a: a.sum().reshape(1),
    label="one element",
)
sample(
    ops.broadcast_to,
    normal(2, 1),
    call=lambda a: ops.broadcast_to(a, shape=(3, 2, 4)),
    reference=lambda a: np.broadcast_to(a, (3, 2, 4)),
)
for _axis, _keep in itertools.product([None, 0, -1, (0, 2), (0, 1, 2), ()], [False, True]):
    _axes = {"axis": _axis, "keepdims": _keep}
    _label = f"axis={_axis}{',keepdims' * _keep}"
    for _op, _reference, _draw, _analytic in [
        (ops.sum, np.sum, normal, True),
        (ops.max, np.max, spread, False),
        (ops.logsumexp, special.logsumexp, normal, True),
        (ops.norm, lambda a, **k: np.sqrt((a * a).sum(**k)), nonzero, True),
    ]:
        if _axis == () and _op is ops.logsumexp:
            _reference = lambda a, **_: a  # noqa: E731 - SciPy knows no empty axis
        sample(
            _op,
            _draw(2, 3, 2),
            call=lambda a, op=_op, k=_axes: op(a, **k),
            reference=lambda a, f=_reference, k=_axes: f(a, **k),
            analytic=_analytic,
            label=_label,
        )
for _axis in (-1, 0, (0, 1)):
    sample(
        ops.log_softmax,
        normal(3, 4),
        call=lambda a, axis=_axis: ops.log_softmax(a, axis=axis),
        reference=lambda a, axis=_axis: special.log_softmax(a, axis),
        label=f"axis={_axis}",
    )

for _ta, _tb in itertools.product([False, True], repeat=2):
    sample(
        ops.matmul,
        normal(*((4, 3) if _ta else (3, 4))),
        normal(*((2, 4) if _tb else (4, 2))),
        call=lambda a, b, t=(_ta, _tb): ops.matmul(a, b, ta=t[0], tb=t[1]),
        reference=lambda a, b, t=(_ta, _tb): (a.T if t[0] else a) @ (b.T if t[1] else b),
        label=f"ta={_ta},tb={_tb}",
    )
    sample(
        ops.matmul,
        normal(2, 1, *((4, 3) if _ta else (3, 4))),
        normal(3, *((2, 4) if _tb else (4, 2))),
        call=lambda a, b, t=(_ta, _tb): ops.matmul(a, b, ta=t[0], tb=t[1]),
        reference=lambda a, b, t=(_ta, _tb): (
            (a.swapaxes(-1, -2) if t[0] else a) @ (b.swapaxes(-1, -2) if t[1] else b)
        ),
        label=f"batches,ta={_ta},tb={_tb}",
    )
sample(
    ops.affine,
    normal(5, 3),
    normal(3, 2),
    normal(2),
    reference=lambda x, w, b: x @ w + b,
)

# Constants almost everywhere: no rule, so a plain array comes out.
sample(ops.stop_gradient, normal(3, 2), reference=lambda a: a)
sample(ops.sign, nonzero(3, 2), reference=np.sign)
sample(
    ops.share,
    np.array([1.0, 2.0, 3.0]),
    np.array([2.0, 2.0, 2.0]),
    reference=lambda a, b: np.array([0, 0.5, 1]),
)
sample(
    ops.inside,
    np.array([-2.0, -1.0, 0.0, 1.0, 2.0]),
    call=lambda a: ops.inside(a, low=-1, high=1),
    reference=lambda a: np.array([False, True, True, True, False]),
)
sample(
    ops.leader,
    np.array([[1.0, 3.0, 3.0], [5.0, 4.0, 2.0]]),
    call=lambda a: ops.leader(a, axis=1),
    reference=lambda a: np.array([[0, 0.5, 0.5], [1, 0, 0]]),
)
for _op, _reference in [
    (ops.equal, np.equal),
    (ops.greater, np.greater),
    (ops.greater_equal, np.greater_equal),
    (ops.less, np.less),
    (ops.less_equal, np.less_equal),
]:
    sample(_op, np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0]), reference=_reference)


def like(host, a):
    """The NumPy array ``host`` where ``a`` is: the samples run on other devices too."""
    a = a.data if type(a) is Tensor else a
    if type(a) is np.ndarray or type(a).__module__ != "cupy":
        return host
    import cupy

    return cupy.asarray(host)


def has_rule(op):
    """Whether any argument has a rule; the first three positions of a variadic op stand for all."""
    return any(rule is not None for rule in itertools.islice(op.rules, 3))


DIFFERENTIABLE = [s for s in SAMPLES if has_rule(s.op)]
each_sample = pytest.mark.parametrize("s", SAMPLES, ids=lambda s: s.label)
each_differentiable = pytest.mark.parametrize("s", DIFFERENTIABLE, ids=lambda s: s.label)


def test_every_primitive_has_a_sample():
    missing = set(PRIMITIVES) - {s.op.__name__ for s in SAMPLES}
    assert not missing, f"give each of {sorted(missing)} a sample() in this file"
    assert {id(s.op) for s in SAMPLES} <= {id(p) for p in PRIMITIVES.values()}


@pytest.mark.parametrize("name", sorted(n for n, p in PRIMITIVES.items() if has_rule(p)))
def test_the_samples_of_a_primitive_reach_each_of_its_rules(name, monkeypatch):
    op = PRIMITIVES[name]
    samples = [s for s in DIFFERENTIABLE if s.op is op]
    arguments = max(len(s.inputs) for s in samples)
    rules = list(itertools.islice(op.rules, arguments + 1))
    called = set()

    def spy(i, rule):
        def call(*args, **params):
            called.add(i)
            return rule(*args, **params)

        return call if rule is not None else None

    monkeypatch.setattr(op, "rules", tuple(spy(i, rule) for i, rule in enumerate(rules)))
    for s in samples:
        x = track(list(s.inputs))
        y = s.call(*x)
        if type(y) is Tensor:
            grad_values(y, x, np.ones_like(y.data))
    variadic = not isinstance(PRIMITIVES[name].rules, tuple) or name in ("concatenate", "stack")
    wanted = {i for i, rule in enumerate(rules) if rule is not None}
    assert called >= (set(range(arguments)) if variadic else wanted)


@pytest.mark.parametrize("s", [s for s in SAMPLES if not has_rule(s.op)], ids=lambda s: s.label)
def test_an_op_without_a_rule_gives_a_constant(s):
    y = s.call(*track(list(s.inputs)))
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, s.reference(*s.inputs))


# Derivatives


@each_differentiable
def test_derivatives_of_orders_1_to_3_are_right(s):
    report = check_gradients(
        lambda x: s.call(*x), list(s.inputs), order=3, tolerance=1e-6, complex_step=s.analytic
    )
    oracles = {"difference", "complex step"} if s.analytic else {"difference"}
    assert {(row.order, row.oracle) for row in report.rows} == {
        (order, oracle) for order in (1, 2, 3) for oracle in oracles
    }


COMPOSED = {
    "power-number": (lambda a: ops.power(a, 2.5), [positive(3, 2)]),
    "power-integer": (lambda a: ops.power(a, 3), [normal(3, 2)]),
    "power-tensor": (ops.power, [positive(3, 1), normal(2)]),
    "power-numpy-scalar": (lambda a: ops.power(a, np.float64(1.5)), [positive(3, 2)]),
    "log_sigmoid": (ops.log_sigmoid, [3 * nonzero(3, 2)]),
    "softmax": (ops.softmax, [normal(3, 4)]),
    "softmax-axis": (lambda a: ops.softmax(a, axis=0), [normal(3, 4)]),
    "relu": (ops.relu, [nonzero(3, 2)]),
    "leaky_relu": (ops.leaky_relu, [nonzero(3, 2)]),
    "elu": (ops.elu, [nonzero(3, 2)]),
    "elu-alpha": (lambda a: ops.elu(a, alpha=0.5), [nonzero(3, 2)]),
    "mean": (ops.mean, [normal(3, 4)]),
    "mean-axis": (lambda a: ops.mean(a, axis=(0, 2), keepdims=True), [normal(2, 3, 4)]),
    "variance": (ops.variance, [normal(3, 4)]),
    "variance-axis": (lambda a: ops.variance(a, axis=-1, ddof=1), [normal(2, 3, 4)]),
    "pad": (lambda a: ops.pad(a, ((1, 0), (0, 2))), [normal(3, 2)]),
    "sample_norm": (ops.sample_norm, [normal(4, 3, 2)]),
    "sample_norm-vectors": (ops.sample_norm, [nonzero(4)]),
    "sample_square_norm": (ops.sample_square_norm, [normal(4, 3, 2)]),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_derivatives_of_composed_functions_are_right(name):
    f, inputs = COMPOSED[name]
    check_gradients(lambda x: f(*x), inputs, order=3, tolerance=1e-6)


UNARY = {
    "negative": (ops.negative, normal),
    "square": (ops.square, normal),
    "exp": (ops.exp, normal),
    "expm1": (ops.expm1, normal),
    "log": (ops.log, positive),
    "log1p": (ops.log1p, positive),
    "sqrt": (ops.sqrt, positive),
    "rsqrt": (ops.rsqrt, positive),
    "tanh": (ops.tanh, normal),
    "sigmoid": (ops.sigmoid, nonzero),
    "softplus": (ops.softplus, nonzero),
    "log_sigmoid": (ops.log_sigmoid, nonzero),
    "relu": (ops.relu, nonzero),
    "leaky_relu": (ops.leaky_relu, nonzero),
    "elu": (ops.elu, nonzero),
    "abs": (ops.abs, nonzero),
}
BINARY = {
    "add": (ops.add, np.add),
    "subtract": (ops.subtract, np.subtract),
    "multiply": (ops.multiply, np.multiply),
    "divide": (ops.divide, np.divide),
    "maximum": (ops.maximum, np.maximum),
    "minimum": (ops.minimum, np.minimum),
    "ratio": (ops.ratio, np.divide),
}
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


@given(st.sampled_from(sorted(UNARY)), shapes, seeds)
def test_unary_ops_are_right_for_every_shape(name, shape, seed):
    f, draw = UNARY[name]
    x = draw(*shape, seed=seed)
    assert f(track(x)).shape == shape
    check_gradients(f, x, order=2, directions=1)


@given(
    st.sampled_from(sorted(BINARY)),
    hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3, max_dims=3),
    seeds,
)
def test_binary_ops_broadcast_like_numpy_and_their_gradients_come_back(name, drawn, seed):
    f, reference = BINARY[name]
    a = nonzero(*drawn.input_shapes[0], seed=seed)
    b = nonzero(*drawn.input_shapes[1], seed=seed + 1, gap=0.7)
    if name in ("maximum", "minimum"):
        b += np.where(np.abs(np.subtract(a, b)).min(initial=1) < 0.06, 20.0, 0.0)
    y = f(track(a), track(b))
    assert y.shape == drawn.result_shape
    np.testing.assert_array_equal(y.data, reference(a, b))
    check_gradients(lambda x: f(*x), [a, b], order=2, directions=1)


@st.composite
def shape_and_axis(draw):
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3))
    axis = st.none() | st.sets(st.integers(0, max(len(shape) - 1, 0)), max_size=len(shape)).map(
        tuple
    )
    if shape:
        axis |= st.integers(-len(shape), len(shape) - 1)
    return shape, draw(axis)


REDUCTIONS = {
    "sum": (ops.sum, np.sum, normal),
    "mean": (ops.mean, np.mean, normal),
    "max": (ops.max, np.max, spread),
    "logsumexp": (
        ops.logsumexp,
        lambda a, axis, keepdims: np.log(np.exp(a).sum(axis=axis, keepdims=keepdims)),
        normal,
    ),
    "variance": (ops.variance, np.var, normal),
    "norm": (
        ops.norm,
        lambda a, axis, keepdims: np.sqrt((a * a).sum(axis=axis, keepdims=keepdims)),
        nonzero,
    ),
}


@given(st.sampled_from(sorted(REDUCTIONS)), shape_and_axis(), st.booleans(), seeds)
def test_reductions_take_axes_and_keepdims_like_numpy(name, drawn, keepdims, seed):
    f, reference, draw = REDUCTIONS[name]
    shape, axis = drawn
    a = draw(*shape, seed=seed)
    y = f(track(a), axis=axis, keepdims=keepdims)
    expected = reference(a, axis=axis, keepdims=keepdims)
    assert y.shape == np.shape(expected)
    np.testing.assert_allclose(y.data, expected, rtol=1e-12, atol=1e-13)
    check_gradients(lambda t: f(t, axis=axis, keepdims=keepdims), a, order=2, directions=1)


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3, max_dims=3), seeds)
def test_sum_to_is_the_transpose_of_broadcasting(drawn, seed):
    shape, full = drawn.input_shapes[0], drawn.result_shape
    a, b = normal(*shape, seed=seed), normal(*full, seed=seed + 1)
    summed = ops.sum_to(b, shape=shape)
    assert summed.shape == shape
    left, right = np.vdot(ops.broadcast_to(a, shape=full), b), np.vdot(a, summed)
    assert left == pytest.approx(right, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 1), (1, 2), (3, 1), (3, 2)])
def test_a_bias_of_any_shape_gets_a_gradient_of_its_own_shape(shape):
    b, x = track(np.ones(shape)), np.arange(6.0).reshape(3, 2)
    for g in (grad_values(ops.sum(b * x), b), grad(ops.sum(b * x), b).data):
        assert g.shape == shape and g.sum() == 15


# Values and dtypes


def cast(inputs, dtype):
    return [a.astype(dtype) for a in inputs]


@each_sample
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_are_numpys(s, dtype):
    y = s.call(*cast(s.inputs, dtype))
    expected = s.reference(*s.inputs)
    assert type(y) is np.ndarray
    assert y.dtype == (np.dtype(dtype) if expected.dtype.kind == "f" else expected.dtype)
    assert y.shape == expected.shape
    tolerance = 2e-6 if dtype is np.float32 else 1e-13
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


@each_sample
def test_raw_and_tracked_calls_give_the_same_bits(s):
    for dtype in (np.float32, np.float64):
        inputs = cast(s.inputs, dtype)
        raw, tracked = s.call(*inputs), plain(s.call(*track(inputs)))
        assert raw.tobytes() == tracked.tobytes() and raw.shape == tracked.shape


@each_differentiable
def test_float32_stays_float32_through_two_gradients(s):
    x = track(cast(s.inputs, np.float32))
    y = s.call(*x)
    assert y.dtype == np.float32
    first = grad(y, x, np.ones_like(y.data))
    assert [g.dtype for g in first] == [np.float32] * len(x)
    second = grad(first, x, [np.ones_like(g.data) for g in first])
    assert [g.dtype for g in second] == [np.float32] * len(x)
    third = grad_values(second, x, [np.ones_like(g.data) for g in second])
    assert [g.dtype for g in third] == [np.float32] * len(x)
    assert [g.shape for g in third] == [a.shape for a in s.inputs]


@each_differentiable
def test_float32_gradients_are_those_of_float64(s):
    found = []
    for dtype in (np.float32, np.float64):
        x = track(cast(cast(s.inputs, np.float32), dtype))
        y = s.call(*x)
        found.append(grad_values(y, x, np.ones_like(y.data)))
    for single, double in zip(*found, strict=True):
        np.testing.assert_allclose(single, double, rtol=2e-5, atol=2e-6)


@each_sample
def test_inputs_are_never_changed(s):
    inputs = [a.copy() for a in s.inputs]
    before = [a.tobytes() for a in inputs]
    s.call(*inputs)
    x = [Tensor(a) for a in inputs]
    y = s.call(*x)
    if type(y) is Tensor:
        grads = grad_values(y, x, np.ones_like(y.data))
        for g in grads:
            g += 1  # the result is ours to change
    assert [a.tobytes() for a in inputs] == before


@each_differentiable
def test_gradients_share_no_memory_with_inputs_or_each_other(s):
    x = track([a.copy() for a in s.inputs])
    y = s.call(*x)
    u = np.ones_like(y.data)
    grads = grad_values(y, x, u)
    held = [u, y.data, *(t.data for t in x)]
    for i, g in enumerate(grads):
        assert g.flags.writeable and g.base is None
        assert not any(np.may_share_memory(g, other) for other in held + grads[:i])


@each_sample
def test_strides_do_not_matter(s):
    expected = s.call(*s.inputs)
    for view in (
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
        lambda a: a[::-1].copy()[::-1] if a.ndim else a,
    ):
        got = s.call(*(view(a) for a in s.inputs))
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-13)


def test_every_array_library_gives_the_same(xp):
    """Values, gradients and second gradients of each sample, wherever the arrays live."""
    for s in SAMPLES:
        expected = _three_orders(s, np.asarray)
        for a, b in zip(expected, _three_orders(s, xp.asarray), strict=True):
            b = xp.get(b)
            assert a.dtype == b.dtype and a.shape == b.shape, s.label
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12, err_msg=s.label)


def _three_orders(s, move):
    x = track([move(a) for a in s.inputs])
    y = s.call(*x)
    if type(y) is not Tensor:
        return [y]
    first = grad(y, x, move(np.cos(np.arange(y.size)).reshape(y.shape)))
    u = [move(np.sin(1.0 + np.arange(g.size)).reshape(g.shape)) for g in first]
    return [y.data, *plain(first), *grad_values(first, x, u)]


# Float32 tails, against decimal arithmetic with 60 digits


DIGITS = decimal.Context(prec=60, Emin=-99999, Emax=99999)


def exactly(f, numbers):
    """f of each number in 60-digit decimals, rounded to float64."""
    with decimal.localcontext(DIGITS):
        return np.array([float(f(decimal.Decimal(float(a)))) for a in np.ravel(numbers)])


def ulps(got, exact):
    """Errors in units of the last place of float32."""
    assert got.dtype == np.float32
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return np.abs(got.ravel().astype(np.float64) - exact) / spacing


TAILS = np.concatenate(
    [
        np.float32([0.0, 1e-30, 1e-8, 1e-3, 88, 89, 103, 104, 1e3, 1e4]),
        np.logspace(-6, 4, 101, dtype=np.float32),
    ]
)
TAILS = np.concatenate([-TAILS, TAILS])


@pytest.fixture
def loud():
    """Floating-point trouble is an error; only results that round to zero are not."""
    with np.errstate(all="raise", under="ignore"):
        yield


@pytest.mark.parametrize(
    "f, exact",
    [
        (ops.sigmoid, lambda a: 1 / (1 + (-a).exp())),
        (ops.softplus, lambda a: (1 + a.exp()).ln() if a > -60 else a.exp()),
        (ops.log_sigmoid, lambda a: -(1 + (-a).exp()).ln() if a < 60 else -(-a).exp()),
        (ops.tanh, lambda a: 1 - 2 / (1 + (2 * a).exp())),
        (ops.elu, lambda a: a if a > 0 else a.exp() - 1),
    ],
    ids=["sigmoid", "softplus", "log_sigmoid", "tanh", "elu"],
)
def test_float32_tails_are_exact_to_a_few_ulp(f, exact, loud):
    assert ulps(f(TAILS), exactly(exact, TAILS)).max() <= 4


def test_float32_expm1_and_log1p_are_exact_for_small_numbers(loud):
    a = np.logspace(-30, 0, 50, dtype=np.float32) * np.float32(0.9)
    a = np.concatenate([-a, a])
    assert ulps(ops.expm1(a), exactly(lambda t: t.exp() - 1, a)).max() <= 4
    assert ulps(ops.log1p(a), exactly(lambda t: (1 + t).ln(), a)).max() <= 4


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.1, 10, 100, 1e4])
def test_float32_log_softmax_is_exact_to_a_few_ulp(scale, seed, loud):
    a = np.float32(scale) * normal(5, seed=seed).astype(np.float32)
    with decimal.localcontext(DIGITS):
        numbers = [decimal.Decimal(float(v)) for v in a]
        top = max(numbers)
        total = sum((v - top).exp() for v in numbers)
        exact = np.array([float(v - top - total.ln()) for v in numbers])
        lse = np.array([float(top + total.ln())])
    # To subtract the largest rounds by half a place of the gap: so much is in the question.
    gap = float(top - sorted(numbers)[-2])
    assert ulps(ops.log_softmax(a), exact).max() <= 4 + gap
    error = abs(float(ops.logsumexp(a)) - lse[0])
    assert error <= 2 * np.spacing(np.float32(max(abs(lse[0]), abs(float(top)))))


@pytest.mark.parametrize("gap", [20.0, 60.0, 85.0])
def test_log_softmax_of_a_confident_row_keeps_the_tail_of_its_leader(gap, loud):
    a = np.array([0, -gap, -gap - 1], np.float32)
    exact = exactly(lambda g: -(1 + (-g).exp() * (1 + decimal.Decimal(-1).exp())).ln(), [gap])
    assert 0 < -exact[0] < 1e-8
    assert ulps(ops.log_softmax(a)[:1], exact)[0] <= 4
    assert ulps(ops.logsumexp(a).reshape(1), -exact)[0] <= 4


@pytest.mark.parametrize("f", [ops.logsumexp, ops.log_softmax, ops.softmax])
def test_softmax_family_does_not_overflow(f, loud):
    a = np.array([[1e4, -1e4, 0], [3e38, 1, 2], [-3e38, -3e38, -3e38]], np.float32)
    assert np.isfinite(f(a, axis=1)).all()
    x = track(a)
    y = f(x, axis=1)
    assert np.isfinite(grad_values(y, x, np.ones_like(y.data))).all()


def test_logsumexp_of_tied_leaders(loud):
    for n in (2, 3, 1000):
        a = np.full(n, 5, np.float32)
        assert float(ops.logsumexp(a)) == pytest.approx(5 + math.log(n), rel=2e-7)
        np.testing.assert_allclose(ops.softmax(a), 1 / n, rtol=1e-6)


def test_logsumexp_takes_minus_infinity_for_a_masked_entry(loud):
    a = np.array([[-np.inf, 1.0, 2.0], [-np.inf, -np.inf, 3.0]], np.float32)
    expected = special.logsumexp(a.astype(np.float64), axis=1)
    np.testing.assert_allclose(ops.logsumexp(a, axis=1), expected, rtol=1e-6)
    x = track(a)
    g = grad_values(ops.sum(ops.logsumexp(x, axis=1)), x)
    np.testing.assert_allclose(g, special.softmax(a.astype(np.float64), axis=1), rtol=1e-6)


def test_logsumexp_of_nothing_but_minus_infinity_is_minus_infinity():
    a = np.full((2, 3), -np.inf, np.float32)
    assert np.array_equal(ops.logsumexp(a, axis=1), [-np.inf, -np.inf])


def test_logsumexp_of_infinity_is_infinity():
    assert ops.logsumexp(np.array([np.inf, 0.0], np.float32)) == np.inf


@pytest.mark.parametrize("a", [-60.0, 60.0, -30.0, 30.0, 80.0, -80.0])
def test_float32_gradient_of_sigmoid_is_exact_in_the_tails(a, loud):
    x = track(np.float32([a]))
    exact = exactly(lambda t: t.exp() / (1 + t.exp()) ** 2, [a])
    assert ulps(grad_values(ops.sum(ops.sigmoid(x)), x), exact)[0] <= 4


@pytest.mark.parametrize("a", [-60.0, 60.0, -30.0, 30.0])
def test_float32_second_gradient_of_softplus_is_exact_in_the_tails(a, loud):
    x = track(np.float32([a]))
    first = grad(ops.sum(ops.softplus(x)), x)
    assert ulps(first.data, exactly(lambda t: 1 / (1 + (-t).exp()), [a]))[0] <= 4
    second = grad_values(ops.sum(first), x)
    exact = exactly(lambda t: t.exp() / (1 + t.exp()) ** 2, [a])
    assert ulps(second, exact)[0] <= 4


def test_gradients_are_finite_at_any_size(loud):
    for f in (ops.sigmoid, ops.softplus, ops.log_sigmoid, ops.tanh, ops.elu, ops.relu):
        x = track(TAILS)
        g = grad(ops.sum(f(x)), x)
        assert np.isfinite(g.data).all()
        assert np.isfinite(grad_values(ops.sum(g), x)).all()


# Norms


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_float32_norm_neither_overflows_nor_vanishes(size, loud):
    a = np.float32(size) * np.array([[3, -4], [1, 0]], np.float32)
    x = track(a)
    y = ops.sample_norm(x)
    exact = np.sqrt((a.astype(np.float64) ** 2).sum(1))
    assert ulps(y.data, exact).max() <= 4
    g = grad_values(ops.sum(y), x)
    assert ulps(g, (a / exact[:, None]).ravel()).max() <= 4


def test_gradient_of_the_norm_at_zero_is_zero_to_order_2(loud):
    for dtype in (np.float32, np.float64):
        a = np.array([[0, 0, 0], [3, 0, 4]], dtype)
        x = track(a)
        first = grad(ops.sum(ops.sample_norm(x)), x)
        assert np.array_equal(first.data[0], [0, 0, 0])
        np.testing.assert_allclose(first.data[1], [0.6, 0, 0.8], rtol=1e-6)
        v = np.array([[1, 2, 3], [1, 2, 3]], dtype)
        second = grad_values(first, x, v)
        assert np.array_equal(second[0], [0, 0, 0])
        n = a[1] / 5
        np.testing.assert_allclose(second[1], (v[1] - n * (n @ v[1])) / 5, rtol=1e-6)


def test_norm_of_zeros_alone_is_zero_with_zero_gradients(loud):
    x = track(np.zeros(4, np.float32))
    y = ops.norm(x)
    first = grad(y, x)
    assert float(y.data) == 0 and not first.data.any()
    assert not grad_values(first, x, np.ones(4, np.float32)).any()


def test_norm_passes_on_what_is_not_finite():
    assert ops.norm(np.array([np.inf, 1.0])) == np.inf
    assert np.isnan(ops.norm(np.array([np.nan, 1.0])))


@given(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4), seeds)
def test_sample_norms_are_one_per_sample_whatever_the_rank(shape, seed):
    a = normal(*shape, seed=seed)
    expected = np.linalg.norm(a.reshape(shape[0], -1), axis=1)
    np.testing.assert_allclose(ops.sample_norm(a), expected, rtol=1e-12)
    np.testing.assert_allclose(ops.sample_square_norm(a), expected**2, rtol=1e-12)


def test_ratio_is_zero_where_its_denominator_is(loud):
    a, b = np.array([0.0, 1.0, 1e300]), np.array([0.0, 0.0, 2.0])
    assert np.array_equal(ops.ratio(a, b), [0, 0, 5e299])


# Subgradients, by convention


def slope_at(f, *point):
    x = track([np.array([float(p)]) for p in point])
    return [float(g[0]) for g in grad_values(ops.sum(f(*x)), x)]


def test_relu_has_derivative_0_at_0():
    assert slope_at(ops.relu, 0) == [0]
    assert slope_at(ops.relu, -0.0) == [0]


def test_leaky_relu_has_its_slope_at_0():
    assert slope_at(ops.leaky_relu, 0) == [0.2]
    assert slope_at(lambda x: ops.leaky_relu(x, slope=0.01), 0) == [0.01]


def test_elu_has_alpha_at_0():
    assert slope_at(lambda x: ops.elu(x, alpha=0.7), 0) == [0.7]


def test_abs_has_derivative_0_at_0():
    assert slope_at(ops.abs, 0) == [0]


def test_maximum_and_minimum_share_a_tie_in_halves():
    assert slope_at(ops.maximum, 2, 2) == [0.5, 0.5]
    assert slope_at(ops.minimum, 2, 2) == [0.5, 0.5]
    assert slope_at(lambda a: ops.maximum(a, 2.0), 2) == [0.5]
    assert slope_at(lambda a: ops.minimum(2.0, a), 2) == [0.5]


def test_clip_has_derivative_1_on_its_ends():
    x = track(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]))
    assert grad_values(ops.sum(ops.clip(x, low=-1, high=1)), x).tolist() == [0, 1, 1, 1, 0]


def test_max_shares_its_gradient_among_ties():
    x = track(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.0, 1.0, 0.0]]))
    g = grad_values(ops.sum(ops.max(x, axis=1)), x)
    np.testing.assert_allclose(g, [[0, 0.5, 0.5], [1 / 3] * 3, [0, 1, 0]], rtol=1e-15)
    assert grad_values(ops.max(x), x).sum() == 1


def test_gate_decides_by_its_second_argument_alone():
    a, m = np.array([1.0, -1.0, 1.0]), np.array([1.0, 1.0, -1.0])
    assert ops.gate(a, m, slope=0.5).tolist() == [1, -1, 0.5]
    x = track([a, m])
    ga, gm = grad_values(ops.sum(ops.gate(*x, slope=0.5)), x)
    assert ga.tolist() == [1, 1, 0.5] and gm.tolist() == [0, 0, 0]


def test_the_second_derivative_of_a_leaky_relu_costs_nothing():
    x = track(nonzero(3, 2))
    g = grad(ops.sum(ops.leaky_relu(x)), x)
    seen = []
    with engine.observe(lambda op, *rest: seen.append(op.__name__)):
        second = grad_values(g, x, np.ones((3, 2)))
    assert seen == [] and not second.any()


# Power


def test_integer_powers_of_negative_numbers():
    x = track(np.array([-2.0]))
    y = x**3
    assert y.data.tolist() == [-8]
    first = grad(ops.sum(y), x)
    assert first.data.tolist() == [12]
    assert grad_values(ops.sum(first), x).tolist() == [-12]


@pytest.mark.parametrize("exponent", [0, 1, 2, 3])
def test_integer_powers_are_smooth_at_0(exponent):
    x = track(np.zeros(1))
    y = ops.sum(x**exponent)
    for k in range(1, 5):
        y = grad(y, x) if type(y) is Tensor else Tensor(np.zeros(1))
        expected = math.factorial(exponent) if k == exponent else 0
        assert y.data.tolist() == [expected], f"order {k}"
        y = ops.sum(y)


# Shapes and parts


def test_transposing_twice_is_nothing():
    a = normal(2, 3, 4)
    for axes in itertools.permutations(range(3)):
        x = track(a)
        y = ops.transpose(x, axes=axes)
        np.testing.assert_array_equal(y.data, a.transpose(axes))
        u = normal(*y.shape, seed=1)
        np.testing.assert_array_equal(grad_values(y, x, u), u.transpose(tuple(np.argsort(axes))))


def test_concatenate_takes_constants_among_tensors():
    a, b, c = normal(2, 2), normal(1, 2), normal(3, 2)
    x = track(b)
    y = ops.concatenate(a, x, c)
    assert y.data.tolist() == np.concatenate([a, b, c]).tolist()
    u = normal(6, 2, seed=1)
    assert grad_values(y, x, u).tolist() == u[2:3].tolist()


def test_the_same_tensor_twice_in_one_call_gets_both_parts():
    x = track(normal(2, 2))
    y = ops.concatenate(x, x)
    u = normal(4, 2, seed=1)
    np.testing.assert_array_equal(grad_values(y, x, u), u[:2] + u[2:])
    np.testing.assert_array_equal(grad_values(ops.sum(x * x), x), 2 * x.data)


@given(
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3),
    st.data(),
    seeds,
)
def test_pad_is_numpys(shape, data, seed):
    widths = data.draw(
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(0, 2)),
            min_size=len(shape),
            max_size=len(shape),
        )
    )
    a = normal(*shape, seed=seed)
    np.testing.assert_array_equal(ops.pad(a, widths), np.pad(a, widths))
    check_gradients(lambda x: ops.pad(x, widths), a, order=2, directions=1)


@pytest.mark.parametrize("widths", [((1, 1),), ((1, -1), (0, 0)), ((1,), (1,)), ()])
def test_pad_refuses_bad_widths(widths):
    with pytest.raises(ValueError, match=r"pad: widths .* expected 2 pairs"):
        ops.pad(normal(2, 2), widths)


@given(st.integers(1, 4), hnp.array_shapes(min_dims=0, max_dims=2, min_side=0), seeds)
def test_one_hot_has_a_one_at_each_label(classes, shape, seed):
    labels = np.random.default_rng(seed).integers(0, classes, shape)
    y = ops.one_hot(labels, classes)
    assert y.shape == (*shape, classes) and y.dtype == np.float32
    np.testing.assert_array_equal(y, np.eye(classes)[labels])


def test_one_hot_takes_lists_and_dtypes():
    assert ops.one_hot([1, 0], 2, dtype=np.float64).dtype == np.float64
    assert ops.one_hot([1, 0], 2).tolist() == [[0, 1], [1, 0]]


def test_one_hot_refuses_what_are_no_labels():
    with pytest.raises(TypeError, match="float64; expected integers"):
        ops.one_hot(np.array([0.0, 1.0]), 2)
    with pytest.raises(ValueError, match="labels from 0 to 2 for 2 classes; expected 0 to 1"):
        ops.one_hot(np.array([0, 2]), 2)
    with pytest.raises(ValueError, match="labels from -1"):
        ops.one_hot(np.array([-1]), 2)


def test_one_hot_goes_where_the_labels_are(xp):
    assert xp.get(ops.one_hot(xp.asarray([1, 0]), 2)).tolist() == [[0, 1], [1, 0]]


def test_variance_refuses_too_few_elements():
    with pytest.raises(ValueError, match="variance: 1 elements with ddof 1"):
        ops.variance(np.ones(1), ddof=1)


@pytest.mark.parametrize("f", [ops.mean, ops.variance])
def test_means_of_nothing_are_errors(f):
    with pytest.raises(ValueError, match=r"shape \(0, 2\) has no elements along axis 0"):
        f(np.ones((0, 2)), axis=0)


# Gather and scatter


@st.composite
def gathers(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    n = shape[axis]
    indices = draw(
        hnp.arrays(
            np.int64,
            hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=6),
            elements=st.integers(-n, n - 1),
        )
    )
    return shape, axis, indices


@given(gathers(), seeds)
def test_gather_is_take_and_its_gradient_is_add_at(drawn, seed):
    shape, axis, indices = drawn
    a = normal(*shape, seed=seed)
    x = track(a)
    y = ops.gather(x, indices, axis=axis)
    np.testing.assert_array_equal(y.data, np.take(a, indices, axis))
    u = normal(*y.shape, seed=seed + 1)
    expected = np.zeros(shape)
    np.add.at(expected, (slice(None),) * (axis % len(shape)) + (indices,), u)
    np.testing.assert_allclose(grad_values(y, x, u), expected, rtol=1e-12, atol=1e-13)
    check_gradients(lambda t: ops.gather(t, indices, axis=axis), a, order=2, directions=1)


def test_scatter_add_of_many_repeats_is_accurate_and_the_same_every_time(xp):
    """A batch's small gradients for one row must not drown in the other rows' large ones."""
    rng = np.random.default_rng(0)
    n = 20_000
    indices = rng.integers(0, 50, n)
    a = (10.0 ** rng.uniform(-3, 3, 50)[indices])[:, None] * rng.random((n, 2))
    a = a.astype(np.float32)
    expected = np.zeros((50, 2))
    np.add.at(expected, indices, a.astype(np.float64))
    once, again = (
        xp.get(ops.scatter_add(xp.asarray(a), xp.asarray(indices), axis=0, size=50))
        for _ in range(2)
    )
    assert once.tobytes() == again.tobytes()
    assert once.dtype == np.float32
    np.testing.assert_allclose(once, expected, rtol=1e-5)


def test_scatter_add_keeps_what_is_not_finite_in_its_own_place(xp):
    a = xp.asarray(np.array([1.0, np.inf, 2.0, 3.0], np.float32))
    y = ops.scatter_add(a, xp.asarray(np.array([0, 1, 2, 0])), axis=0, size=4)
    assert xp.get(y).tolist() == [4, np.inf, 2, 0]


def test_gather_refuses_indices_out_of_range():
    with pytest.raises(IndexError, match=r"gather\(float64\[3\], int64\[1\]"):
        ops.gather(np.ones(3), np.array([3]))


# Indexing


GRID = normal(4, 5, 3)
ROWS, COLUMNS = np.array([2, 0, 2]), np.array([4, 4, 1])
EXPRESSIONS = [
    "0", "-1", "2, 3", "1, -2, 0", "np.int64(2)", "np.int64(1), np.uint8(2)",
    ":", "1:3", "::2", "::-1", "3:0:-2", "-2:", "5:2", ":, 1", ":, ::-1, 1:", "1, ::2",
    "None", "..., None", "None, 1, None", "..., 0", "1, ...", "...", "..., ::-2", "0, ..., 1:2",
    "()", "ROWS", "ROWS, COLUMNS", ":, ROWS", "..., ROWS % 3", "[0, 3, 3]", "[[0, 1], [3, 3]]",
    "ROWS, 1", "1, COLUMNS", "ROWS, :, 2", "0, :, ROWS", "ROWS, None, COLUMNS", "None, ROWS",
    "ROWS[:, None], COLUMNS", "ROWS, ..., [0]", "ROWS, 1:3", "-ROWS", "ROWS.astype(np.uint8)",
    "np.array([], int)", "np.array(2)", "GRID > 0", "GRID[:, :, 0] > 0", "GRID[:, 0, 0] > 0",
    "GRID[:, 0, 0] > 9", "[True, False, True, True]", ":, GRID[0, :, 0] > 0",
    "GRID[:, :, 0] > 0, 1", "1, GRID[0] > 0", "np.array(True)", "True", "None, GRID[:, 0, 0] > 0",
    "[True, False, False, True], [1, 2]",
]  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_indexing_is_numpys_and_its_gradient_is_add_at(expression):
    x = track(GRID)
    expected = eval(f"GRID[{expression}]")
    y = eval(f"x[{expression}]")
    assert type(y) is Tensor and y.dtype == GRID.dtype
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.data, expected)
    u = normal(*y.shape, seed=9)
    counted = np.zeros_like(GRID)
    at = eval(f"np.index_exp[{expression}]")
    np.add.at(counted, at, u)
    np.testing.assert_allclose(grad_values(y, x, u), counted, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("expression", EXPRESSIONS[::7] + ["ROWS, :, 2", "GRID > 0"])
def test_indexing_has_right_derivatives_of_order_3(expression):
    check_gradients(
        lambda x: eval(f"x[{expression}]", {**globals(), "x": x}) ** 3, GRID, order=3, directions=1
    )


@pytest.mark.parametrize("expression", ["1:, ::-1", "ROWS, COLUMNS", "GRID > 0", "[0, 3]"])
def test_indexing_works_wherever_the_array_is(expression, xp):
    x = track(xp.asarray(GRID))
    y = eval(f"x[{expression}]")
    np.testing.assert_array_equal(xp.get(y.data), eval(f"GRID[{expression}]"))
    assert type(grad_values(ops.sum(y), x)) is xp.ndarray


@pytest.mark.parametrize("expression", ["4", "0, 5", "[4]", ":, :, :, 0", "0.5", "'a'"])
def test_a_bad_index_is_an_index_error(expression):
    for a in (GRID, track(GRID)):
        with pytest.raises(IndexError):
            eval(f"a[{expression}]", {"a": a})


def test_an_index_cannot_be_a_tensor():
    x = track(GRID)
    with pytest.raises(TypeError, match="an index cannot be a Tensor"):
        x[x]
    with pytest.raises(TypeError, match="an index cannot be a Tensor"):
        x[0, track(np.ones(2))]


def test_iterating_over_a_tensor_gives_its_rows():
    x = track(normal(3, 2))
    rows = list(x)
    assert len(rows) == len(x) == 3 and all(type(row) is Tensor for row in rows)
    np.testing.assert_array_equal(np.stack([row.data for row in rows]), x.data)


def test_a_tensor_without_axes_cannot_be_iterated():
    with pytest.raises(TypeError):
        list(track(np.array(1.0)))
    with pytest.raises(TypeError):
        len(track(np.array(1.0)))


# Products


@given(
    st.booleans(),
    st.booleans(),
    hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, min_side=0, max_side=2),
    st.tuples(*[st.integers(0, 3)] * 3),
    seeds,
)
def test_matmul_broadcasts_batches_and_transposes(ta, tb, batch, sizes, seed):
    n, k, m = sizes
    a = normal(*batch.input_shapes[0], *((k, n) if ta else (n, k)), seed=seed)
    b = normal(*batch.input_shapes[1], *((m, k) if tb else (k, m)), seed=seed + 1)
    y = ops.matmul(a, b, ta=ta, tb=tb)
    expected = np.matmul(np.swapaxes(a, -1, -2) if ta else a, np.swapaxes(b, -1, -2) if tb else b)
    assert y.shape == expected.shape == (*batch.result_shape, n, m)
    np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-13)
    check_gradients(lambda x: ops.matmul(x[0], x[1], ta=ta, tb=tb), [a, b], order=2, directions=1)


@pytest.mark.parametrize(
    "a, b",
    [((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((4, 2, 3), (3,)), ((3,), (4, 3, 2)),
     ((2, 3), (3, 2)), ((4, 2, 3), (3, 2)), ((0,), (0,)), ((2, 0), (0,))],
)  # fmt: skip
def test_the_matmul_operator_treats_vectors_like_numpy(a, b):
    a, b = normal(*a), normal(*b)
    y = track(a) @ track(b)
    assert y.shape == np.shape(a @ b)
    np.testing.assert_allclose(y.data, a @ b, rtol=1e-13)
    np.testing.assert_allclose((a @ track(b)).data, a @ b, rtol=1e-13)
    np.testing.assert_allclose((track(a) @ b).data, a @ b, rtol=1e-13)
    check_gradients(lambda x: x[0] @ x[1], [a, b], order=2, directions=1)


@pytest.mark.parametrize("a, b", [((2, 3), (2, 3)), ((3,), (2,)), ((2, 2, 3), (3, 3, 1))])
def test_shapes_that_do_not_match_name_the_op_and_the_shapes(a, b):
    with pytest.raises(ValueError, match=r"matmul\(float64\[.*\], float64\[.*\]\)"):
        track(normal(*a)) @ normal(*b)


def test_matmul_refuses_vectors_by_name():
    with pytest.raises(ValueError, match=r"matmul\(float64\[3\], float64\[3\]\).*two axes"):
        ops.matmul(np.ones(3), np.ones(3))


# Operators


OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "@": operator.matmul,
    "**": operator.pow,
}
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sides", ["tensor tensor", "tensor array", "array tensor"])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_numpys_between_arrays(name, sides, dtype):
    f = OPERATORS[name]
    a, b = positive(2, 2, seed=1).astype(dtype), positive(2, 2, seed=2).astype(dtype)
    x = [track(v) if side == "tensor" else v for v, side in zip((a, b), sides.split(), strict=True)]
    y = f(*x)
    assert type(y) is Tensor and y.dtype == dtype
    np.testing.assert_allclose(y.data, f(a, b), rtol=1e-6 if dtype is np.float32 else 1e-14)
    if dtype is np.float64:
        check_gradients(lambda t: f(t, b), a, order=2, directions=1)
        check_gradients(lambda t: f(a, t), b, order=2, directions=1)


@pytest.mark.parametrize("number", [2, 2.0, np.float64(2), np.float32(2), np.int64(2)], ids=repr)
@pytest.mark.parametrize("name", [n for n in OPERATORS if n != "@"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_operators_take_numbers_on_either_side_and_keep_the_dtype(name, number, dtype):
    f = OPERATORS[name]
    a = positive(2, 2).astype(dtype)
    x = track(a)
    for y, expected in [
        (f(x, number), f(a, float(number))),
        (f(number, x), f(float(number), a)),
    ]:
        assert type(y) is Tensor and y.dtype == dtype
        np.testing.assert_allclose(y.data, expected, rtol=1e-6)
    if dtype is np.float64:
        check_gradients(lambda t: f(t, number), a, order=2, directions=1)
        check_gradients(lambda t: f(number, t), a, order=2, directions=1)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_give_plain_arrays_of_bool(name):
    f = COMPARISONS[name]
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    for left, right in [(track(a), b), (a, track(b)), (track(a), track(b)), (track(a), 2.0)]:
        y = f(left, right)
        assert type(y) is np.ndarray and y.dtype == bool
        np.testing.assert_array_equal(y, f(a, 2.0))
    np.testing.assert_array_equal(f(2.0, track(a)), f(2.0, a))
    np.testing.assert_array_equal(f(np.float64(2), track(a)), f(2.0, a))


def test_operators_meet_arrays_of_the_same_library(xp):
    a = xp.asarray(positive(2, 2))
    x = track(a)
    for name, f in OPERATORS.items():
        for y in (f(x, x), f(a, x), f(x, a)):
            assert type(y) is Tensor, name
            np.testing.assert_allclose(
                xp.get(y.data), f(positive(2, 2), positive(2, 2)), rtol=1e-14
            )


def test_unary_operators():
    x = track(nonzero(3))
    np.testing.assert_array_equal((-x).data, -x.data)
    np.testing.assert_array_equal(abs(x).data, np.abs(x.data))


def test_in_place_operators_make_new_tensors():
    a = normal(3)
    x = track(a)
    y = x
    y += 1
    y *= 2
    np.testing.assert_array_equal(x.data, a)
    np.testing.assert_array_equal(y.data, (a + 1) * 2)


def test_an_array_does_not_swallow_a_tensor_in_place():
    a, x = np.ones(3), track(np.ones(3))
    with pytest.raises(TypeError, match=r"np\.add of a Tensor"):
        a += x
    assert a.tolist() == [1, 1, 1]


def test_methods_are_the_functions():
    a = spread(2, 3, 2)
    x = track(a)
    np.testing.assert_array_equal(x.T.data, a.T)
    np.testing.assert_array_equal(x.sum().data, a.sum())
    np.testing.assert_array_equal(
        x.sum(axis=(0, 2), keepdims=True).data, a.sum((0, 2))[None, :, None]
    )
    np.testing.assert_allclose(x.mean(axis=1).data, a.mean(1), rtol=1e-14)
    np.testing.assert_array_equal(x.max(axis=0).data, a.max(0))
    np.testing.assert_array_equal(x.reshape(3, -1).data, a.reshape(3, -1))
    np.testing.assert_array_equal(x.reshape((4, 3)).data, a.reshape(4, 3))
    np.testing.assert_array_equal(x.reshape([12]).data, a.reshape(12))
    np.testing.assert_array_equal(x.transpose().data, a.T)
    np.testing.assert_array_equal(x.transpose(1, 0, 2).data, a.transpose(1, 0, 2))
    np.testing.assert_array_equal(x.transpose((1, 0, 2)).data, a.transpose(1, 0, 2))


def test_all_lists_what_the_module_offers():
    public = {
        name
        for name, value in vars(ops).items()
        if not name.startswith("_")
        and (isinstance(value, Primitive) or getattr(value, "__module__", "") == ops.__name__)
    }
    assert set(ops.__all__) <= public
    assert public - set(ops.__all__) <= {"power_number", "share", "inside", "leader"}


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gate_of_large_arrays_has_the_bits_of_small_ones(slope, dtype):
    """Blocks and threads change nothing, at infinity and NaN either."""
    rng = np.random.default_rng(5)
    n = 2 * ops.PAYS + 77
    a, m = rng.standard_normal((2, n)).astype(dtype)
    a[:6] = np.inf, -np.inf, np.nan, 0.0, -0.0, -1.0
    m[5:9] = 0.0, -0.0, np.nan, np.inf
    with np.errstate(invalid="ignore"):
        for marks in (a, m):
            small = [
                ops.gate.fn(part, part if marks is a else marks[i : i + 1000], slope=slope)
                for i in range(0, n, 1000)
                for part in (a[i : i + 1000],)
            ]
            for count in (1, 2):
                with threads(count):
                    large = ops.gate.fn(a, marks, slope=slope)
                np.testing.assert_array_equal(large, np.concatenate(small))
                assert large.dtype == dtype


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_sums_of_whole_numbers_are_counts(dtype):
    a = np.ones((300, 2), dtype)
    np.testing.assert_array_equal(ops.sum_to.fn(a, shape=(2,)), [300, 300])
