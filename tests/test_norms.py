"""Norms: their primitives and their functions to order 3, blocks and threads, tails and errors."""

import inspect
import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygan import norms, ops, parallel, threads
from tinygan.check import check_gradients
from tinygan.engine import Primitive, Tensor, grad, grad_values, track, values
from tinygan.norms import batch_norm, layer_norm, standing_norm
from tinygan.penalties import gradient_penalty

SHAPES = [(5, 3), (3, 2, 4, 2)]
NORMS = {"batch": batch_norm, "layer": layer_norm}

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_norm = pytest.mark.parametrize("name", NORMS)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def axes_of(name, shape):
    """What a norm takes its means over."""
    return tuple(range(len(shape) - 1)) if name == "batch" else tuple(range(1, len(shape)))


def setting(shape, seed=0):
    """x of mean 2 and deviation 1.5, scale and shift, none of them simple."""
    c = shape[-1]
    x = 2 + 1.5 * normal(*shape, seed=seed)
    return [x, 1 + 0.3 * normal(c, seed=seed + 1), normal(c, seed=seed + 2)]


# References in NumPy, one group at a time, by exact sums


def groups(a, axes):
    """The index of each set of values that share a mean."""
    kept = [range(n) if i not in axes else [slice(None)] for i, n in enumerate(a.shape)]
    return [
        tuple(at)
        for at in np.array(np.meshgrid(*kept, indexing="ij"), object).T.reshape(-1, a.ndim)
    ]


def mean_by_hand(a, axes):
    y = np.empty([1 if i in axes else n for i, n in enumerate(a.shape)])
    for at in groups(a, axes):
        part = a[at].reshape(-1)
        y[tuple(0 if isinstance(i, slice) else i for i in at)] = math.fsum(part) / part.size
    return y


def inverse_by_hand(a, axes, eps):
    squares = (a - mean_by_hand(a, axes)) ** 2
    return 1 / np.sqrt(mean_by_hand(squares, axes) + eps)


def standardised_by_hand(a, axes, eps):
    return (a - mean_by_hand(a, axes)) * inverse_by_hand(a, axes, eps)


def projected_by_hand(h, a, axes, eps):
    """Jᵀh with the Jacobian of every group written out: r·(δ − 1/n − x̂ᵢx̂ⱼ/n)."""
    y, unit, r = np.empty_like(h), standardised_by_hand(a, axes, eps), inverse_by_hand(a, axes, eps)
    r = np.broadcast_to(r, a.shape)
    for at in groups(a, axes):
        u, n = unit[at].reshape(-1), unit[at].size
        jacobian = r[at].reshape(-1)[0] * (np.eye(n) - 1 / n - np.outer(u, u) / n)
        y[at] = (jacobian.T @ h[at].reshape(-1)).reshape(h[at].shape)
    return y


def by_hand(name, x, scale, shift, eps=1e-5):
    return scale * standardised_by_hand(x, axes_of(name, x.shape), eps) + shift


# The registry


class Sample(NamedTuple):
    """One call: ``call(*inputs)`` and its reference in NumPy."""

    op: Primitive
    inputs: list
    call: object
    reference: object
    label: str


PRIMITIVES = {
    name: p
    for name, p in vars(norms).items()
    if isinstance(p, Primitive) and p.__module__ == norms.__name__
}
SAMPLES = []


def statistics(a, axes, eps):
    mean = norms.block_mean(a, axes=axes)
    return mean, norms.block_inverse_deviation(a, mean, axes=axes, eps=eps)


def sample(op, inputs, reference, call=None, label=""):
    SAMPLES.append(Sample(op, inputs, call or op, reference, f"{op.__name__}-{label}"))


def standardise(a, axes, eps, scale=1.0, shift=0.0):
    return norms.standardise(a, *statistics(a, axes, eps), scale, shift, axes=axes, eps=eps)


def project(h, a, axes, eps, scale=1.0):
    return norms.project(h, a, *statistics(a, axes, eps), scale, axes=axes, eps=eps)


def standard_dot(h, a, axes, eps):
    return norms.standard_dot(h, a, *statistics(a, axes, eps), axes=axes, eps=eps)


def feature_sum(a):
    return mean_by_hand(a, axes_of("batch", a.shape)).reshape(-1) * (a.size // a.shape[-1])


for _shape, _axes in [
    ((5, 3), (0,)),
    ((4, 3), (1,)),
    ((2, 2, 3, 2), (0, 1, 2)),
    ((2, 2, 2, 3), (1, 2, 3)),
]:
    for _eps in (1e-5, 0.3):
        _way = {"axes": _axes, "eps": _eps}
        _label = f"{_shape},axes={_axes},eps={_eps}"
        _a, _h = 1 + normal(*_shape, seed=1), normal(*_shape, seed=2)
        sample(
            norms.block_mean,
            [_a],
            lambda a, axes=_axes: mean_by_hand(a, axes),
            lambda a, axes=_axes: norms.block_mean(a, axes=axes),
            _label,
        )
        sample(
            norms.block_inverse_deviation,
            [_a],
            lambda a, k=_way: inverse_by_hand(a, **k),
            lambda a, k=_way: statistics(a, **k)[1],
            _label,
        )
        _scale, _shift = 1 + normal(_shape[-1], seed=3), normal(_shape[-1], seed=4)
        sample(
            norms.standardise,
            [_a],
            lambda a, k=_way: standardised_by_hand(a, **k),
            lambda a, k=_way: standardise(a, **k),
            _label,
        )
        sample(
            norms.standardise,
            [_a, _scale, _shift],
            lambda a, b, c, k=_way: b * standardised_by_hand(a, **k) + c,
            lambda a, b, c, k=_way: standardise(a, **k, scale=b, shift=c),
            f"scaled,{_label}",
        )
        sample(
            norms.project,
            [_h, _a],
            lambda h, a, k=_way: projected_by_hand(h, a, **k),
            lambda h, a, k=_way: project(h, a, **k),
            _label,
        )
        sample(
            norms.project,
            [_h, _a, _scale],
            lambda h, a, b, k=_way: projected_by_hand(h * b, a, **k),
            lambda h, a, b, k=_way: project(h, a, **k, scale=b),
            f"scaled,{_label}",
        )
        sample(
            norms.standard_dot,
            [_h, _a],
            lambda h, a, k=_way: feature_sum(h * standardised_by_hand(a, **k)),
            lambda h, a, k=_way: standard_dot(h, a, **k),
            _label,
        )


def has_rule(op):
    return any(rule is not None for rule in op.rules)


each_sample = pytest.mark.parametrize("s", SAMPLES, ids=lambda s: s.label)
each_differentiable = pytest.mark.parametrize(
    "s", [s for s in SAMPLES if has_rule(s.op)], ids=lambda s: s.label
)


def test_every_primitive_has_a_sample():
    missing = set(PRIMITIVES) - {s.op.__name__ for s in SAMPLES}
    assert not missing, f"give each of {sorted(missing)} a sample() in this file"
    assert len(PRIMITIVES) >= 5


@each_sample
def test_values_are_the_references(s):
    got = s.call(*s.inputs)
    np.testing.assert_allclose(got, s.reference(*s.inputs), rtol=1e-13, atol=1e-14)
    assert got.shape == s.reference(*s.inputs).shape


@each_differentiable
def test_derivatives_of_orders_1_to_3_are_right(s):
    report = check_gradients(lambda x: s.call(*x), s.inputs, order=3, complex_step=True)
    assert {row.order for row in report.rows} == {1, 2, 3}


@pytest.mark.parametrize("op", [p for p in PRIMITIVES.values() if has_rule(p)], ids=str)
def test_the_samples_of_a_primitive_reach_each_of_its_rules(op, monkeypatch):
    called = set()

    def spy(i, rule):
        def call(*args, **params):
            called.add(i)
            return rule(*args, **params)

        return call if rule is not None else None

    wanted = {i for i, rule in enumerate(op.rules) if rule is not None}
    monkeypatch.setattr(op, "rules", tuple(spy(i, rule) for i, rule in enumerate(op.rules)))
    for s in SAMPLES:
        if s.op is op:
            x = track(s.inputs)
            y = s.call(*x)
            grad_values(y, x, np.ones_like(y.data))
    assert called == wanted


def test_statistics_are_constants_and_no_way_down():
    """Mean and r are in the rule of x: a path through them would count their part twice."""
    a = track(normal(4, 3))
    mean, r = statistics(a, (0,), 1e-5)
    assert type(mean) is np.ndarray and type(r) is np.ndarray
    y = norms.standardise(a, *track([mean, r]), 1.0, 0.0, axes=(0,), eps=1e-5)
    assert [x for x, _ in y.edges] == [a]
    for y in (
        norms.project(normal(4, 3), a, *track([mean, r]), 1.0, axes=(0,), eps=1e-5),
        norms.standard_dot(normal(4, 3), a, *track([mean, r]), axes=(0,), eps=1e-5),
    ):
        assert [x for x, _ in y.edges] == [a]


@pytest.mark.parametrize(
    "axes, mixes", [((0,), True), ((0, 1, 2), True), ((1,), False), ((1, 2, 3), False)]
)
def test_an_op_mixes_samples_if_its_axes_have_the_batch(axes, mixes):
    for op in (norms.standardise, norms.project, norms.standard_dot):
        assert op.mixes_samples({"axes": axes, "eps": 1e-5}) is mixes
    assert not ops.affine.mixes_samples({})


# The functions


@each_norm
@each_shape
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_a_norm_is_its_formula(name, shape, eps):
    x, scale, shift = setting(shape)
    got = NORMS[name](x, scale, shift, eps)
    np.testing.assert_allclose(got, by_hand(name, x, scale, shift, eps), rtol=1e-12, atol=1e-13)


def test_the_default_eps_is_ten_to_the_minus_five():
    for f in (batch_norm, layer_norm, standing_norm):
        assert inspect.signature(f).parameters["eps"].default == 1e-5


def test_eps_is_added_under_the_root_and_the_variance_is_biased():
    """Values 0 and 2 have mean 1, biased variance 1; with eps 3 the deviation is √4 = 2."""
    x, one, zero = np.array([[0.0], [2.0]]), np.ones(1), np.zeros(1)
    assert batch_norm(x, one, zero, 3.0).tolist() == [[-0.5], [0.5]]
    one, zero = np.ones(2), np.zeros(2)
    assert layer_norm(x.T, one, zero, 3.0).tolist() == [[-0.5, 0.5]]
    one, zero = np.ones(1), np.zeros(1)
    assert standing_norm(x, one, one, one, zero, 3.0).tolist() == [[-0.5], [0.5]]


def test_scale_multiplies_and_shift_is_added():
    x = np.array([[-1.0, -1], [1, 1]])
    got = batch_norm(x, np.array([2.0, 3]), np.array([10.0, 20]), 0.0)
    assert got.tolist() == [[8, 17], [12, 23]]


@each_norm
@pytest.mark.parametrize("shape", [*SHAPES, (4, 2, 3)], ids=str)
def test_gradients_in_x_scale_and_shift_jointly_to_order_three(name, shape):
    check_gradients(lambda t: NORMS[name](*t), setting(shape), order=3, complex_step=True)


@each_norm
def test_gradients_behind_a_curved_function_to_order_three(name):
    """A loss whose slope in y is not constant: the adjoint of x̂ depends on x as well."""

    def f(t):
        return ops.sum(ops.tanh(NORMS[name](*t, 0.1)))

    check_gradients(f, setting((4, 2, 3)), order=3, complex_step=True)


@each_shape
def test_gradients_of_standing_norm_in_all_five_to_order_three(shape):
    x, scale, shift = setting(shape)
    given = [x, normal(shape[-1]), np.abs(normal(shape[-1])) + 0.5, scale, shift]
    expected = scale * (x - given[1]) / np.sqrt(given[2] + 1e-5) + shift
    np.testing.assert_allclose(standing_norm(*given), expected, rtol=1e-13, atol=1e-14)
    check_gradients(lambda t: standing_norm(*t), given, order=3, complex_step=True)


@each_shape
def test_standing_norm_with_the_batchs_own_statistics_is_batch_norm(shape):
    x, scale, shift = setting(shape)
    axes = axes_of("batch", shape)
    got = standing_norm(x, x.mean(axes), x.var(axes), scale, shift)
    np.testing.assert_allclose(got, batch_norm(x, scale, shift), rtol=1e-12, atol=1e-13)


def composed_of_helpers(name, x, scale, shift, eps):
    axes = axes_of(name, x.shape)
    centred = ops.subtract(x, norms.mean_over(x, axes))
    unit = ops.multiply(centred, norms.inverse_deviation(x, axes, eps))
    return ops.add(ops.multiply(unit, scale), shift)


def composed_of_ops(name, x, scale, shift, eps):
    axes = axes_of(name, x.shape)
    centred = ops.subtract(x, ops.mean(x, axis=axes, keepdims=True))
    deviation = ops.sqrt(ops.add(ops.mean(ops.square(centred), axis=axes, keepdims=True), eps))
    return ops.add(ops.multiply(ops.divide(centred, deviation), scale), shift)


def to_order_three(f, given):
    """f and its derivatives along fixed directions: arrays in the shape of the inputs, in order."""
    x = track(given)
    y = f(*x)
    found = [y.data]
    u = normal(*y.shape, seed=50)
    for k in range(3):
        y = grad(y, x, u)
        found += values(y)
        u = [normal(*a.shape, seed=60 + 10 * k + i) for i, a in enumerate(given)]
    return found


@each_norm
@each_shape
@pytest.mark.parametrize("composed", [composed_of_helpers, composed_of_ops])
@pytest.mark.parametrize("eps", [1e-5, 0.2])
def test_the_fused_norm_is_the_composed_one_to_order_three(name, shape, composed, eps):
    fused = to_order_three(lambda *t: NORMS[name](*t, eps), setting(shape))
    other = to_order_three(lambda *t: composed(name, *t, eps), setting(shape))
    for a, b in zip(fused, other, strict=True):
        assert np.linalg.norm(a - b) <= 2e-12 * max(1, np.linalg.norm(b))
    assert all(np.linalg.norm(b) > 1e-3 for b in fused[:1] + fused[1::3])  # y, and those in x


@given(
    st.sampled_from(["batch", "layer"]),
    st.lists(st.integers(1, 4), min_size=2, max_size=4),
    st.integers(0, 99),
)
def test_shifts_and_scalings_of_x_change_nothing(name, shape, seed):
    """With eps 0 and the right groups y(αx + β) = y(x), so Σ x̄ = 0 and Σ x̄·x = 0 in each."""
    shape = (shape[0] + 1, *shape[1:-1], shape[-1] + 1)
    x, scale, shift = setting(shape, seed)
    axes = axes_of(name, shape)
    if x.std(axes).min() < 0.1:
        return
    y = NORMS[name](x, scale, shift, 0.0)
    again = NORMS[name](3 * x - 7, scale, shift, 0.0)
    np.testing.assert_allclose(y, again, rtol=1e-9, atol=1e-9)
    unit = (y - shift) / scale
    np.testing.assert_allclose(unit.mean(axes), 0, atol=1e-10)
    np.testing.assert_allclose((unit**2).mean(axes), 1, rtol=1e-10)
    tracked = track(x)
    slope = grad_values(NORMS[name](tracked, scale, shift, 0.0), tracked, normal(*shape, seed=9))
    np.testing.assert_allclose(slope.sum(axes), 0, atol=1e-9)
    np.testing.assert_allclose((slope * x).sum(axes), 0, atol=1e-9)


def test_layer_norms_samples_do_not_depend_on_each_other_and_batch_norms_do():
    x, scale, shift = setting((4, 2, 3))
    other = x.copy()
    other[1:] += normal(3, 2, 3)
    layer = layer_norm(x, scale, shift), layer_norm(other, scale, shift)
    batch = batch_norm(x, scale, shift), batch_norm(other, scale, shift)
    assert np.array_equal(layer[0][0], layer[1][0])
    assert abs(batch[0][0] - batch[1][0]).max() > 0.05


# A published mistake


def two_values(distance, eps):
    """x = (0, distance) of one feature, y of the second, and its derivatives in the second.

    With d half the distance and r = 1/√(d² + eps): y = d·r, y' = ½·eps·r³, y'' = −¾·eps·d·r⁵.
    """
    d = distance / 2
    r = 1 / math.sqrt(d * d + eps)
    x = track(np.array([[0.0], [distance]]))
    return x, r, d, (d * r, eps * r**3 / 2, -0.75 * eps * d * r**5)


SECOND = np.array([[0.0], [1.0]])


def test_the_second_derivative_of_two_values_in_closed_form():
    for distance, eps in [(0.2, 0.01), (0.1, 1e-3), (1.0, 0.3), (2.0, 1e-5)]:
        x, _, _, expected = two_values(distance, eps)
        y = batch_norm(x, np.ones(1), np.zeros(1), eps)
        first = grad(y, x, SECOND)
        second = grad(first, x, SECOND)
        got = [a.data[1, 0] for a in (y, first, second)]
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_mistake_saved_statistics_in_the_second_derivative():
    """A backward pass that keeps the mean and r of the forward pass as constants is right once
    and wrong twice: y'' of x = (0, .2) with eps .01 is −13.26, and it says −35.36; with eps 0,
    where y is 1 whatever x, it says −100. With x̂ kept as well it says 0."""
    for eps, right, wrong in [(0.01, -13.258252, -35.355339), (0.0, 0.0, -100.0)]:
        x, r, d, (_, slope, bend) = two_values(0.2, eps)
        assert bend == pytest.approx(right, rel=1e-7)
        assert -(r**3) * d == pytest.approx(wrong, rel=1e-7)

        kept_mean, kept_r = np.array([[0.1]]), np.array([[r]])
        kept_unit = kept_r * (x.data - kept_mean)

        def backward(unit, r=kept_r):
            along = norms.mean_over(ops.multiply(SECOND, unit), (0,))
            return ops.multiply(ops.subtract(SECOND - 0.5, ops.multiply(unit, along)), r)

        first = backward(ops.multiply(ops.subtract(x, kept_mean), kept_r))
        assert first.data[1, 0] == pytest.approx(slope, rel=1e-12, abs=1e-12)
        assert grad_values(first, x, SECOND)[1, 0] == pytest.approx(wrong, rel=1e-7)
        assert type(backward(kept_unit)) is np.ndarray  # no way down: its derivative is 0

        ours = grad(batch_norm(x, np.ones(1), np.zeros(1), eps), x, SECOND)
        assert ours.data[1, 0] == pytest.approx(slope, rel=1e-12, abs=1e-12)
        assert grad_values(ours, x, SECOND)[1, 0] == pytest.approx(right, rel=1e-7, abs=1e-10)


# Precision


def float32_error(name, ratio, shape=(512, 4, 4, 8)):
    """How far float32 is from float64 from the same numbers: value and slope, of deviation 1."""
    x = (ratio + normal(*shape)).astype(np.float32)
    given = [x, np.ones(shape[-1], np.float32), np.zeros(shape[-1], np.float32)]
    u = normal(*shape, seed=5).astype(np.float32)

    def both(dtype):
        a, scale, shift = track([b.astype(dtype) for b in given])
        y = NORMS[name](a, scale, shift)
        return y.data, grad_values(y, a, u.astype(dtype))

    pairs = zip(both(np.float32), both(np.float64), strict=True)
    return [float(abs(a - b).max() / abs(b).max()) for a, b in pairs]


@each_norm
@pytest.mark.parametrize("ratio", [0.0, 1e3])
def test_float32_is_off_by_a_few_roundings_times_the_mean_over_the_deviation(name, ratio):
    """The mean is known to a few parts in 10⁷ of itself; subtracted from x, that is 10⁻⁷ times
    mean/deviation. A variance as E x² − (E x)² would be off by the square of it: 6% at 10³."""
    for error in float32_error(name, ratio):
        assert error < 5e-7 * max(2, ratio)


@each_norm
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("eps", [1e-5, np.float64(1e-5), 1])
def test_the_dtype_is_kept_to_order_three(name, dtype, eps):
    x = track([a.astype(dtype) for a in setting((3, 2, 4))])
    y = NORMS[name](*x, eps)
    assert y.dtype == dtype
    u = np.ones_like(y.data)
    for _ in range(3):
        y = grad(y, x, u)
        u = [np.ones_like(a.data) for a in y]
        assert all(a.dtype == dtype for a in y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_primitives_keep_the_dtype(dtype):
    for s in SAMPLES:
        assert s.call(*[a.astype(dtype) for a in s.inputs]).dtype == dtype


def test_eps_is_added_in_float32():
    """1/√(1 + 1e-9) is 1 in float32: eps is rounded to the array's own dtype before it is added."""
    x = np.array([[-1.0], [1.0]], np.float32)
    assert statistics(x, (0,), 1e-9)[1] == np.float32(1)
    assert batch_norm(x, np.ones(1, np.float32), np.zeros(1, np.float32), 1e-9).tolist() == [
        [-1],
        [1],
    ]


def test_mixed_dtypes_are_an_error():
    x, scale, shift = setting((3, 2))
    for f in NORMS.values():
        with pytest.raises(TypeError, match="mixed dtypes"):
            f(x.astype(np.float32), scale, shift)


# Tails


@each_norm
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("constant", [0.0, 7.0, 0.1])
def test_a_constant_feature_gives_the_shift_and_a_finite_slope(name, dtype, constant):
    """Variance 0: y is the shift, and its slope that of (x − mean)/√eps, a factor of 316 for
    eps = 10⁻⁵; all of it finite to order 3."""
    shape = (4, 2, 2)
    given = [np.full(shape, constant, dtype), np.full(2, 2, dtype), np.full(2, 0.5, dtype)]
    x, scale, shift = track(given)
    y = NORMS[name](x, scale, shift)
    np.testing.assert_allclose(y.data, 0.5, atol=1e3 * np.finfo(dtype).eps)
    u = normal(*shape).astype(dtype)
    slope = grad_values(y, x, u)
    expected = 2 * (u - u.mean(axes_of(name, shape), keepdims=True)) / np.sqrt(1e-5)
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-3)
    y = grad(y, [x, scale, shift], u)
    for _ in range(2):
        y = grad(y, [x, scale, shift], [np.ones_like(a.data) for a in y])
        assert all(np.isfinite(a.data).all() for a in y)


@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 1, 3), (0, 3), (0, 2, 2, 3)], ids=str)
def test_batch_norm_of_one_value_per_feature_or_none_is_an_error(shape):
    with pytest.raises(ValueError, match="fewer than two values of each feature") as error:
        batch_norm(np.ones(shape), np.ones(3), np.zeros(3))
    assert str(shape) in str(error.value) and "standing statistics" in str(error.value)


@each_norm
def test_one_sample_with_an_extent_is_a_batch(name):
    given = setting((1, 3, 2, 2))
    got = NORMS[name](*given)
    np.testing.assert_allclose(got, by_hand(name, *given), rtol=1e-12, atol=1e-13)
    check_gradients(lambda t: NORMS[name](*t), given, order=3, directions=1)


def test_two_values_per_feature_are_enough():
    assert batch_norm(np.array([[0.0], [4.0]]), np.ones(1), np.zeros(1), 0.0).tolist() == [
        [-1],
        [1],
    ]


def test_layer_norm_of_one_value_is_its_shift():
    assert layer_norm(np.full((3, 1), 9.0), np.ones(1), np.full(1, 0.5)).tolist() == [[0.5]] * 3


@pytest.mark.parametrize("shape", [(0, 3), (0, 2, 2, 3)], ids=str)
def test_an_empty_batch_through_layer_and_standing_norm_is_empty(shape, xp):
    x, scale, shift = (xp.asarray(a) for a in (np.ones(shape), np.ones(3), np.zeros(3)))
    assert layer_norm(x, scale, shift).shape == shape
    assert standing_norm(x, shift, scale, scale, shift).shape == shape


@pytest.mark.parametrize("shape", [(0, 3), (0, 2, 2, 3)], ids=str)
def test_an_empty_batch_has_no_slope_in_scale_and_shift(shape):
    x, scale, shift = track([np.ones(shape), np.ones(3), np.zeros(3)])
    found = grad_values(layer_norm(x, scale, shift), [x, scale, shift], np.ones(shape))
    assert [a.shape for a in found] == [shape, (3,), (3,)] and not any(a.any() for a in found)


# Memory


@pytest.mark.parametrize("s", SAMPLES, ids=lambda s: s.label)
def test_primitives_leave_their_inputs_alone_and_share_no_memory(s):
    inputs = [a.copy() for a in s.inputs]
    for a in inputs:
        a.flags.writeable = False
    y = s.call(*inputs)
    assert not any(np.shares_memory(y, a) for a in inputs)
    assert all(np.array_equal(a, b) for a, b in zip(inputs, s.inputs, strict=True))


@each_norm
def test_norms_leave_their_inputs_alone_and_share_no_memory(name):
    """Even where scale 1 and shift 0 would let x through."""
    given = [normal(4, 2, 3), np.ones(3), np.zeros(3)]
    before = [a.copy() for a in given]
    u = normal(4, 2, 3, seed=1)
    x = track(given)
    y = NORMS[name](*x)
    found = [y.data, *grad_values(y, x, u)]
    found.append(standing_norm(given[0], given[2], given[1], given[1], given[2], 0.0))
    for a in found:
        assert not any(np.shares_memory(a, b) for b in [*given, u])
    for a, b in zip(given, before, strict=True):
        assert np.array_equal(a, b)


@each_norm
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, ::-1],
        lambda a: a.swapaxes(1, 2).copy().swapaxes(1, 2),
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    ],
    ids=["reversed", "swapped", "Fortran", "strided"],
)
def test_any_strides_will_do(name, view):
    x, scale, shift = setting((4, 3, 5, 2))
    got = to_order_three(lambda *t: NORMS[name](*t), [view(x), scale, shift])
    expected = to_order_three(
        lambda *t: NORMS[name](*t), [np.ascontiguousarray(view(x)), scale, shift]
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


# Blocks and threads


@pytest.fixture
def blocks(monkeypatch):
    """``blocks(size)`` sets the elements of a block and returns the numbers of blocks that ran."""
    split, ran = parallel.split, []

    def spy(n, part, pays, scratch=None):
        ran.append(n)
        return split(n, part, pays, scratch)

    monkeypatch.setattr(parallel, "split", spy)

    def set_size(size, pays=norms.PAYS):
        monkeypatch.setattr(norms, "BLOCK", size)
        monkeypatch.setattr(norms, "PAYS", pays)
        ran.clear()
        return ran

    return set_size


@pytest.mark.numpy_path("blocks")
@each_norm
@pytest.mark.parametrize(
    "block, count",
    [(1, 7), (24, 7), (25, 7), (48, 4), (72, 3), (7 * 24, 1), (1 << 16, 1)],
    ids=["a sample is larger", "one", "one and a bit", "two, last ragged", "three", "all", "more"],
)
def test_blocks_change_roundings_only(name, block, count, blocks):
    """Seven samples of 24 values, in blocks that divide them or do not."""
    given = setting((7, 2, 4, 3))
    blocks(1 << 30)
    whole = to_order_three(lambda *t: NORMS[name](*t), given)
    ran = blocks(block)
    parts = to_order_three(lambda *t: NORMS[name](*t), given)
    assert set(ran) == {count}
    for a, b in zip(parts, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@each_norm
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", [1, 48, 100, 1 << 16])
def test_threads_give_the_same_bits(name, dtype, block, blocks):
    given = [a.astype(dtype) for a in setting((7, 2, 4, 3))]

    def run():
        x = track(given)
        y = NORMS[name](*x)
        first = grad_values(y, x, normal(*y.shape, seed=5).astype(dtype))
        unit = standardise(x[0], axes_of(name, y.shape), 1e-5)
        bent = grad_values(grad(unit, x[0], y.data), x[0], y.data)
        return [y.data, *first, bent]

    blocks(block, pays=0)
    alone = run()
    for count in (1, 2, 3):
        with threads(count):
            for a, b in zip(run(), alone, strict=True):
                assert np.array_equal(a, b)


@pytest.mark.numpy_path("threads")
def test_threads_share_large_batches_only(monkeypatch):
    """From PAYS elements on, and by blocks of BLOCK elements."""
    seen = []
    monkeypatch.setattr(norms, "BLOCK", 64)
    monkeypatch.setattr(norms, "PAYS", 256)
    monkeypatch.setattr(
        parallel,
        "split",
        lambda n, part, pays, scratch=None: seen.append((n, pays)) or [part(0, n)],
    )
    for samples, expected in [(4, (1, False)), (15, (4, False)), (16, (4, True)), (17, (5, True))]:
        seen.clear()
        norms.standardise.fn(
            np.ones((samples, 16)),
            np.zeros((1, 16)),
            np.ones((1, 16)),
            1.0,
            0.0,
            axes=(0,),
            eps=0.0,
        )
        assert seen == [expected]


# Other devices


@each_norm
@each_shape
def test_other_devices_give_the_same_numbers(name, shape, xp):
    given = setting(shape)

    def run(move):
        x = track([move(a) for a in given])
        y = NORMS[name](*x)
        first = grad(y, x, move(normal(*shape, seed=5)))
        second = grad_values(first, x, [move(normal(*a.shape, seed=6)) for a in given])
        return [y.data, *values(first), *second]

    for a, b in zip(run(xp.asarray), run(np.asarray), strict=True):
        np.testing.assert_allclose(xp.get(a), b, rtol=1e-10, atol=1e-12)


@each_norm
def test_float32_on_other_devices(name, xp):
    given = [a.astype(np.float32) for a in setting((3, 2, 4, 2))]
    got = xp.get(NORMS[name](*map(xp.asarray, given)))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, NORMS[name](*given), rtol=1e-5, atol=1e-5)


# Penalised critics


def critic(norm, params, x):
    h = ops.affine(x, params["weight"], params["bias"])
    return ops.matmul(ops.tanh(norm(h, params["scale"], params["shift"], 0.1)), params["last"])


def critic_setting():
    params = {
        "weight": normal(2, 3),
        "bias": normal(3, seed=1),
        "scale": 1 + 0.3 * normal(3, seed=2),
        "shift": normal(3, seed=3),
        "last": 2 * normal(3, 1, seed=4),
    }
    return params, normal(4, 2, seed=16)


def test_a_gradient_penalty_refuses_batch_norm_and_takes_layer_norm():
    params, points = critic_setting()
    with pytest.raises(ValueError, match="standardise, which mixes the samples of a batch"):
        gradient_penalty(lambda x: critic(batch_norm, params, x), points)
    got = gradient_penalty(lambda x: critic(layer_norm, params, x), points)
    assert type(got) is np.ndarray or type(got) is Tensor


def test_standing_norm_is_no_batch_norm_for_a_penalty():
    params, points = critic_setting()

    def standing(x, scale, shift, eps):
        return standing_norm(x, np.zeros(3), np.ones(3), scale, shift, eps)

    assert gradient_penalty(lambda x: critic(standing, params, x), points).data > 0


@pytest.mark.parametrize("name, insist", [("batch", True), ("layer", False)])
@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_a_penalty_through_a_norm_is_right_to_order_two(name, insist, centre):
    """Derivatives of the penalty in every parameter and in the points, against differences."""
    params, points = critic_setting()

    def f(t):
        return gradient_penalty(
            lambda x: critic(NORMS[name], t["params"], x), t["x"], centre=centre, insist=insist
        )

    check_gradients(f, {"params": params, "x": points}, order=2, complex_step=True)


def test_a_penalty_through_layer_norm_is_that_of_each_sample_alone():
    params, points = critic_setting()

    def penalty(points):
        return gradient_penalty(lambda x: critic(layer_norm, params, x), points, centre=1.0).data

    alone = np.mean([penalty(points[i : i + 1]) for i in range(len(points))])
    assert penalty(points) == pytest.approx(alone, rel=1e-12)


def test_the_float32_mean_of_a_large_batch_is_summed_in_parts():
    """One running sum of 32,768 values about 1000 would be off by some 2e-3."""
    x = (1000 + normal(128, 16, 16, 8, seed=9)).astype(np.float32)
    exact = x.astype(np.float64).mean((0, 1, 2))
    assert abs(norms.block_mean(x, axes=(0, 1, 2)).reshape(-1) - exact).max() < 5e-4
