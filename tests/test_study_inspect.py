"""Inspection of a tape: every value and gradient by name, and where the first NaN came from."""

import numpy as np
import pytest

import tinygan as tg
from tinygan import models, nn, ops
from tinygan.engine import primitive
from tinygan.study.inspect import inspect, statistics
from tinygan.study.listing import listing


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def leaf(*shape, name="", seed=0):
    return tg.track(normal(*shape, seed=seed), name)


# Values, gradients, names


def test_every_gradient_is_that_of_the_closed_form():
    x, w = leaf(4, 3, name="x"), leaf(3, 2, name="w", seed=1)
    found = inspect(ops.sum(ops.square(ops.tanh(ops.matmul(x, w)))))
    h = np.tanh(x.data @ w.data)
    slope = 2 * h * (1 - h**2)
    expected = {
        "x": (x.data, slope @ w.data.T),
        "w": (w.data, x.data.T @ slope),
        "matmul.1": (x.data @ w.data, slope),
        "tanh.1": (h, 2 * h),
        "square.1": (h**2, np.ones((4, 2))),
        "sum.1": ((h**2).sum(), np.array(1.0)),
    }
    assert [row.name for row in found] == list(expected)
    for name, (value, gradient) in expected.items():
        row = found[name]
        assert type(row.value) is type(row.gradient) is np.ndarray
        np.testing.assert_allclose(row.value, value, rtol=1e-14)
        np.testing.assert_allclose(row.gradient, gradient, rtol=1e-13)
        assert row.of_gradient == statistics(row.gradient)
        assert row.of_value == statistics(row.value)


def test_numbers_are_those_of_the_listing_and_names_are_unique():
    critic = models.Net(
        "D", (2,), {"in": nn.Linear(2, 4), "bend": ops.relu, "out": nn.Linear(4, 1)}
    )
    w, x = tg.track(critic.init(tg.Stream(0), np.float64), "D"), leaf(5, 2, name="x")
    slope = tg.grad(ops.sum(critic(w, x)), x)
    loss = {"penalty": ops.mean(ops.square(ops.sample_norm(slope)))}
    found, lines = inspect(loss), listing(loss).lines
    assert [(r.number, r.op, r.shape, r.dtype) for r in found] == [
        (line.number, line.op, line.shape, line.dtype) for line in lines
    ]
    names = [row.name for row in found]
    assert len(set(names)) == len(names) and {"D.in.weight", "D.out.weight", "x"} <= set(names)
    expected = tg.grad_values(loss["penalty"], w)
    for layer in ("in", "out"):
        np.testing.assert_allclose(found[f"D.{layer}.weight"].gradient, expected[layer]["weight"])
    for row in found:
        assert found[row.number] is row


def test_names_of_the_same_kind_are_numbered_forward_and_own_names_are_used_once():
    x, y = tg.track(np.ones(2), "twice"), tg.track(np.ones(2), "twice")
    z = tg.track(np.ones(2), "tanh.1")  # the name that a call will get
    first, second = ops.tanh(x), ops.tanh(y)
    second.name = "late"
    found = inspect(ops.sum(ops.add(ops.add(first, second), z)))
    names = [row.name for row in found]
    assert names == ["leaf.1", "tanh.1", "leaf.2", "late", "add.1", "leaf.3", "add.2", "sum.1"]
    assert found[second].name == "late" and found[z].name == "leaf.3"
    assert found["add.1"].of == "tanh.1, late"


def test_static_arguments_and_constants_are_written():
    x = tg.track(np.ones((2, 3)), "x")
    found = inspect(ops.sum(ops.multiply(ops.sum(x, axis=1), np.full(2, 3.0)), axis=0))
    assert [row.of for row in found] == ["leaf", "x, axis=1", "sum.1, float64[2] of 3",
                                         "multiply.1, axis=0"]  # fmt: skip


def test_all_gradients_are_made_in_one_walk():
    calls = []

    @primitive
    def doubled(a):
        """y = 2a"""
        return 2 * a

    doubled.vjp(lambda g, y, a: (calls.append(1), ops.multiply(g, 2.0))[1])
    y = tg.track(np.ones(3), "x")
    for _ in range(6):
        y = doubled(y)
    found = inspect(ops.sum(y))
    assert len(calls) == 6
    for i in range(1, 7):
        np.testing.assert_array_equal(found[f"doubled.{i}"].gradient, np.full(3, 2.0 ** (6 - i)))


def test_what_no_derivative_reaches_has_zeros_and_says_none():
    x, m = tg.track(np.ones(2), "x"), tg.track(np.array([1.0, -1.0]), "m")
    found = inspect(ops.sum(ops.gate(x, ops.negative(m), slope=0.5)))
    row = found["negative.1"]
    assert row.of_gradient is None
    np.testing.assert_array_equal(row.gradient, np.zeros(2))
    assert "none" in next(line for line in str(found).splitlines() if "negative.1" in line)
    np.testing.assert_array_equal(found["x"].gradient, [0.5, 1.0])


def test_several_results_are_summed_and_a_cotangent_weighs_them():
    x = tg.track(np.array([1.0, 2.0]), "x")
    both = [ops.sum(ops.square(x)), ops.sum(ops.multiply(x, 5.0))]
    np.testing.assert_array_equal(inspect(both)["x"].gradient, 2 * x.data + 5)
    y, u = ops.square(x), np.array([10.0, 1.0])
    np.testing.assert_array_equal(inspect(y, cotangent=u)["x"].gradient, 2 * x.data * u)
    with pytest.raises(ValueError, match="cotangent is float64.3. for a y of float64.2."):
        inspect(y, cotangent=np.ones(3))


def test_a_gradient_is_inspected_like_any_value():
    x = tg.track(np.array([0.3, -1.0]), "x")
    slope = tg.grad(ops.sum(ops.tanh(x)), x)
    found = inspect({"x": slope})
    h = np.tanh(x.data)
    np.testing.assert_allclose(found["subtract.1"].value, 1 - h**2, rtol=1e-15)
    with pytest.raises(ValueError, match=r"no gradient of tanh.1: a result has shape \[2\] and no"):
        _ = found["tanh.1"].gradient
    with pytest.raises(ValueError, match="no gradients: a result has shape"):
        found.first_not_finite("gradient")
    assert found.first_not_finite() is None
    assert "ȳ" not in str(found).split("no gradients")[0] and "cotangent=u" in str(found)
    second = inspect(ops.sum(slope))
    np.testing.assert_allclose(second["x"].gradient, -2 * h * (1 - h**2), rtol=1e-14)


def test_statistics_are_those_of_a_naive_loop():
    a = np.array([[3.0, 0.0, -4.0], [0.0, 0.0, 12.0]], np.float32)
    assert statistics(a) == (13.0, 11 / 6, 12.0, 0.5, 0, 0)
    assert statistics(np.array([3e200, -4e200])).norm == pytest.approx(5e200, rel=1e-15)
    assert statistics(np.zeros(3)) == (0.0, 0.0, 0.0, 1.0, 0, 0)
    assert statistics(np.zeros((0, 2))) == (None, None, None, None, 0, 0)
    assert statistics(np.array(-2.0)) == (2.0, -2.0, 2.0, 0.0, 0, 0)
    bad = statistics(np.array([np.nan, np.inf, -np.inf, 0.0]))
    assert (bad.nans, bad.infs, bad.zeros, bad.finite) == (1, 2, 0.25, False)


def test_the_table():
    x = tg.track(np.array([[2.0, 0.0]]), "x")
    expected = """\
    name        of           result         ‖y‖  mean  max|y|  y=0    ‖ȳ‖  mean  max|ȳ|  ȳ=0
%1  x           leaf         float64[1, 2]    2     1       2  50%     12     6      12  50%
%2  square.1    x            float64[1, 2]    4     2       4  50%      2     1       2  50%
%3  multiply.1  square.1, x  float64[1, 2]    8     4       8  50%  1.414     1       1   0%
%4  sum.1       multiply.1   float64[]        8     8       8   0%      1     1       1   0%"""
    assert str(inspect(ops.sum(ops.multiply(ops.square(x), x)))) == expected


# NaN and infinity


def test_the_first_value_that_is_not_finite_is_told_with_its_inputs():
    x = tg.track(np.array([1.0, 0.0, -2.0]), "x")
    with np.errstate(all="ignore"):
        loss = ops.sum(ops.multiply(ops.log(ops.multiply(x, 2.0)), 0.0))
    found = inspect(loss).first_not_finite()
    assert (found.of, found.name, found.op) == ("value", "log.1", "log.1")
    assert found.inputs == [("multiply.1", (-4.0, 2.0, 0, 0))]
    assert str(found) == (
        "log.1 = log(multiply.1) is the first value that is not finite: 1 NaN, 1 inf of 3\n"
        "  multiply.1: from -4 to 2"
    )
    assert "y: 1 NaN, y: 1 inf" in str(inspect(loss))


def test_a_constant_and_a_leaf_can_be_the_cause():
    x = tg.track(np.ones(2), "x")
    found = inspect(ops.sum(ops.multiply(x, np.array([np.inf, 2.0])))).first_not_finite()
    assert found.op == "multiply.1" and found.inputs[1] == ("float64[2]", (2.0, 2.0, 0, 1))
    found = inspect(ops.sum(tg.track(np.array([np.nan]), "bad"))).first_not_finite()
    assert (found.name, found.op, found.inputs) == ("bad", None, [])
    assert str(found) == "bad, a leaf, is the first value that is not finite: 1 NaN of 1"


def test_the_first_gradient_that_is_not_finite_is_that_of_the_rule_that_made_it():
    x = tg.track(np.array([0.0, 4.0]), "x")
    found = inspect(ops.sum(ops.tanh(ops.sqrt(ops.square(x)))))
    assert found.first_not_finite("value") is None
    first = found.first_not_finite()
    assert (first.of, first.name, first.op) == ("gradient", "square.1", "sqrt.1")
    assert dict(first.inputs)["y"] == (0.0, 2.0 * 2, 0, 0) and dict(first.inputs)["ȳ"].high == 1.0
    assert "by the rule of sqrt.1 = sqrt(square.1)" in str(first)
    assert found["x"].of_gradient.nans == 1  # what came of it, further down


def test_of_several_rules_the_one_at_fault_is_named():
    x = tg.track(np.array([0.0, 1.0]), "x")
    loss = ops.add(ops.sum(ops.square(x)), ops.sum(ops.sqrt(x)))
    assert inspect(loss).first_not_finite().op == "sqrt.1"
    loss = ops.add(ops.sum(ops.sqrt(x)), ops.sum(ops.square(x)))
    assert inspect(loss).first_not_finite().op == "sqrt.1"


def test_a_sum_that_overflows_and_a_bad_cotangent_are_no_rule_s_fault():
    x = tg.track(np.array([1e-10]), "x")
    half = 1.5e308
    loss = ops.add(ops.sum(ops.multiply(x, half)), ops.sum(ops.multiply(x, half)))
    found = inspect(loss).first_not_finite()
    assert (found.of, found.name, found.op) == ("gradient", "x", None)
    assert "a sum of finite gradients" in str(found) and len(found.inputs) == 2
    found = inspect(ops.square(x), cotangent=np.array([np.nan])).first_not_finite()
    assert (found.name, found.op, found.inputs) == ("square.1", None, [])
    assert inspect(ops.sum(x)).first_not_finite() is None
    with pytest.raises(ValueError, match="of is 'values'; expected 'value', 'gradient' or None"):
        inspect(ops.sum(x)).first_not_finite("values")


# Errors, other devices


def test_a_released_tape_and_what_is_no_tensor_are_errors():
    x = tg.track(np.ones(2), "x")
    loss = ops.sum(ops.square(x))
    tg.grad_values(loss, x, release=True)
    with pytest.raises(RuntimeError, match="inspect: the tape below .* inspect it before that"):
        inspect(loss)
    with pytest.raises(TypeError, match="inspect: given ndarray, float; expected a Tensor"):
        inspect([np.ones(2), 1.0])
    with pytest.raises(TypeError, match="inspect: a value is a str"):
        inspect("loss")
    found = inspect(ops.sum(ops.tanh(x)))
    with pytest.raises(KeyError, match="'tanh.7' is not below the result.*tanh.1"):
        found["tanh.7"]
    with pytest.raises(KeyError):
        found[tg.track(np.ones(2))]
    for key, kind in [(np.ones(3), "ndarray"), (True, "bool"), (slice(2), "slice")]:
        with pytest.raises(TypeError, match=f"asked for by a {kind}; expected its name, its"):
            found[key]
    assert found[np.int64(1)] is found.rows[0]


def test_empty_and_constant_results():
    x = tg.track(np.zeros((0, 3)), "x")
    found = inspect([ops.sum(ops.tanh(x)), 2.0])
    assert found["tanh.1"].of_gradient.norm is None and found["x"].gradient.shape == (0, 3)
    assert "empty" in str(found) and found.first_not_finite() is None


def test_on_a_gpu(stand_in):
    x = tg.track(stand_in.asarray(np.array([0.5, -2.0])), "x")
    found = inspect(ops.sum(ops.tanh(x)))
    expected = 1 - np.tanh([0.5, -2.0]) ** 2
    np.testing.assert_allclose(stand_in.get(found["x"].gradient), expected, rtol=1e-14)
    assert found["x"].of_gradient.largest == pytest.approx(expected.max())
    bad = tg.track(stand_in.asarray(np.array([0.0, 1.0])), "x")
    assert inspect(ops.sum(ops.sqrt(bad))).first_not_finite().op == "sqrt.1"
