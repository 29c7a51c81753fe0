"""The oracle: what it reports, what it refuses, and that it finds mistakes."""

import numpy as np
import pytest
from test_ops import normal

from tinygan import check, ops
from tinygan.backend import Stream
from tinygan.check import GradientError, check_gradients
from tinygan.engine import Tensor, primitive


@primitive
def bent(a):
    """A cube whose rule says 3.003·a²: one part in a thousand too much."""
    return a * a * a


bent.vjp(lambda g, y, a: ops.multiply(g, ops.multiply(ops.square(a), 3.003)))


def cube(a):
    return ops.power(a, 3)


def test_a_right_function_passes_to_order_3():
    report = check_gradients(cube, normal(3), order=3)
    assert report.passed
    assert [row.order for row in report.rows] == [1, 2, 3, 1, 2, 3]
    assert set(report.worst) == {1, 2, 3} and max(report.worst.values()) < 1e-8


def test_order_2_and_two_directions_are_the_default():
    report = check_gradients(cube, normal(3))
    assert [(row.order, row.oracle) for row in report.rows] == 2 * [
        (1, "difference"),
        (2, "difference"),
    ]


def test_a_wrong_function_raises_with_the_report_as_its_text():
    with pytest.raises(GradientError) as caught:
        check_gradients(bent, normal(3), order=2)
    text = str(caught.value)
    assert text.startswith("derivatives differ from their oracles\n")
    report = check_gradients(bent, normal(3), order=2, raises=False)
    assert str(report) in text
    assert not report.passed
    assert isinstance(caught.value, AssertionError)


def test_the_error_is_the_one_that_was_planted():
    report = check_gradients(bent, normal(3), order=1, raises=False)
    assert report.worst[1] == pytest.approx(0.003 / 3.003, rel=1e-5)
    assert not report.passed
    assert check_gradients(bent, normal(3), order=1, tolerance=1.1e-3).passed


def test_a_later_order_is_checked_against_the_one_before_it():
    """With the gradient 3.003·a² taken for granted, its own derivative is right."""
    report = check_gradients(bent, normal(3), order=3, raises=False)
    assert report.worst[1] > 9e-4
    assert report.worst[2] < 1e-8 and report.worst[3] < 1e-8


def test_the_report_is_a_table_that_marks_what_is_wrong():
    lines = str(check_gradients(bent, normal(3), order=2, directions=1, raises=False)).split("\n")
    assert lines[0].split() == ["order", "oracle", "engine", "oracle", "says", "error"]
    assert len(lines) == 3
    assert lines[1].split()[:2] == ["1", "difference"] and lines[1].endswith("WRONG")
    assert lines[2].split()[:2] == ["2", "difference"] and "WRONG" not in lines[2]
    assert len(lines[0]) == len(lines[2])


def test_the_complex_step_has_a_row_and_a_tolerance_of_its_own():
    report = check_gradients(bent, normal(3), order=1, complex_step=True, raises=False)
    assert [row.oracle for row in report.rows] == 2 * ["difference", "complex step"]
    good = check_gradients(cube, normal(3), order=3, complex_step=True)
    assert max(row.error for row in good.rows if row.oracle == "complex step") < 1e-13
    only_differences_pass = dict(order=1, tolerance=1e-2, complex_step=True)
    with pytest.raises(GradientError):
        check_gradients(bent, normal(3), **only_differences_pass)
    check_gradients(bent, normal(3), **only_differences_pass, complex_tolerance=1e-2)


def test_the_complex_step_finds_what_differences_cannot_see():
    @primitive
    def barely_bent(a):
        return a * a

    barely_bent.vjp(lambda g, y, a: ops.multiply(g, ops.multiply(a, 2.0000002)))
    check_gradients(barely_bent, normal(3), order=1)
    with pytest.raises(GradientError):
        check_gradients(barely_bent, normal(3), order=1, complex_step=True)


def test_nan_does_not_pass():
    @primitive
    def broken(a):
        return a + 0.0

    broken.vjp(lambda g, y, a: ops.multiply(g, float("nan")))
    report = check_gradients(broken, normal(3), order=1, raises=False)
    assert not report.passed and np.isnan(report.worst[1])
    with pytest.raises(GradientError):
        check_gradients(broken, normal(3), order=1)
    # Of order 2 the engine's number may be 0 where the others are NaN: max(0, nan) is 0.
    broken = primitive(lambda a: a**3)
    broken.vjp(lambda g, y, a: ops.multiply(g, float("nan")))
    report = check_gradients(broken, normal(3), order=2, complex_step=True, raises=False)
    assert any(row.engine == 0 and np.isnan(row.expected) for row in report.rows)
    assert all(np.isnan(row.error) for row in report.rows)
    assert str(report).count("WRONG") == len(report.rows) and not report.passed


def test_a_value_that_is_nan_is_no_kink():
    @primitive
    def hole(a):
        return np.where(a == 1, np.nan, np.cbrt(a - 1))

    hole.vjp(lambda g, y, a: g)
    report = check_gradients(hole, np.ones(1), order=1, directions=1, raises=False)
    assert np.isnan(report.rows[0].error) and report.rows[0].note == ""


def test_a_kink_nearby_is_named():
    x = np.array([1.0, 1e-4])
    with pytest.raises(GradientError, match="a kink nearby"):
        check_gradients(ops.relu, x, order=1)
    report = check_gradients(ops.relu, np.array([1.0, 0.1]), order=1)
    assert not any(row.note for row in report.rows)
    report = check_gradients(bent, normal(3), order=1, raises=False)
    assert not any(row.note for row in report.rows), "a wrong rule is no kink"


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_what_is_not_float64_is_refused_with_its_place(dtype):
    with pytest.raises(TypeError, match=rf"x\.w\.1 is {np.dtype(dtype)}; expected a float64"):
        check_gradients(ops.sum, {"w": [normal(2), np.ones(2, dtype)]})
    with pytest.raises(TypeError, match="differences in float32 prove nothing"):
        check_gradients(ops.sum, np.ones(2, np.float32))


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match=r"x\.0 is float; expected a float64 array"):
        check_gradients(lambda x: x[0], [1.0])


@pytest.mark.parametrize("arguments", [{"order": 0}, {"order": -1}, {"directions": 0}])
def test_orders_and_directions_below_one_are_refused(arguments):
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        check_gradients(cube, normal(3), **arguments)


@pytest.mark.parametrize("directions", [1, 5])
def test_each_direction_has_a_row_for_each_order(directions):
    report = check_gradients(cube, normal(3), order=3, directions=directions)
    assert len(report.rows) == 3 * directions
    assert len({row.engine for row in report.rows}) == 3 * directions


def test_the_same_stream_gives_the_same_report():
    reports = [str(check_gradients(cube, normal(3))) for _ in range(2)]
    assert reports[0] == reports[1]
    assert str(check_gradients(cube, normal(3), stream=Stream(0))) == reports[0]
    assert str(check_gradients(cube, normal(3), stream=Stream(1))) != reports[0]


def test_trees_in_and_trees_out():
    def f(x):
        h = ops.tanh(ops.affine(x["x"], x["w"], x["b"]))
        return [h, {"s": ops.sum(ops.square(x["w"])), "c": np.ones(2)}]

    x = {"x": normal(4, 3), "w": normal(3, 2), "b": normal(2)}
    assert max(check_gradients(f, x, order=3).worst.values()) < 1e-6
    with pytest.raises(GradientError):
        check_gradients(lambda t: f({**t, "b": bent(t["b"])}), x, order=1)


def test_a_mistake_in_one_argument_of_many_is_found():
    def f(x):
        return ops.sum(ops.add(cube(x[0]), bent(x[1])))

    with pytest.raises(GradientError):
        check_gradients(f, [normal(3), normal(3, seed=1)], order=1)


def test_numbers_without_axes():
    for x in (np.array(0.7), np.float64(0.7)):
        assert max(check_gradients(cube, x, order=3, complex_step=True).worst.values()) < 1e-8
    check_gradients(lambda t: cube(t["a"]) * t["b"], {"a": np.array(0.7), "b": np.array(2.0)})


def test_empty_arrays_have_nothing_to_be_wrong():
    assert check_gradients(cube, np.ones((0, 2)), order=2).passed


@pytest.mark.parametrize("f", [lambda x: 1.5, lambda x: np.ones(2), lambda x: ops.sign(x)])
def test_a_constant_function_has_derivative_zero(f):
    report = check_gradients(f, normal(3), order=2)
    assert all(row.engine == 0 == row.expected for row in report.rows)


def test_large_and_small_values_are_judged_by_their_size():
    for scale in (1e-6, 1e6):
        check_gradients(lambda x: ops.multiply(cube(x), scale), normal(3), order=3)  # noqa: B023
    with pytest.raises(GradientError):
        check_gradients(lambda x: ops.multiply(bent(x), 1e6), normal(3), order=1)


def test_inputs_are_not_changed():
    x = normal(3)
    before = x.copy()
    check_gradients(cube, x, order=3, complex_step=True)
    np.testing.assert_array_equal(x, before)


def test_directional_is_the_derivative_it_says():
    x, u, v, w = (normal(4, seed=i) for i in range(4))
    assert check.directional(cube, x, u, []) == pytest.approx((u * x**3).sum())
    assert check.directional(cube, x, u, [v]) == pytest.approx((u * 3 * x**2 * v).sum())
    assert check.directional(cube, x, u, [v, w]) == pytest.approx((u * 6 * x * v * w).sum())
    assert check.directional(cube, x, u, [v, w, v]) == pytest.approx((u * 6 * v * w * v).sum())


def test_each_order_takes_one_difference_of_the_order_before(monkeypatch):
    """Differences of differences would lose the digits: every order asks the engine itself."""
    asked = []
    directional = check.directional

    def spy(f, x, u, vs):
        asked.append(len(vs))
        return directional(f, x, u, vs)

    monkeypatch.setattr(check, "directional", spy)
    check_gradients(cube, normal(3), order=3, directions=1)
    for order in (1, 2, 3):
        assert asked.count(order - 1) >= 4
    assert asked.count(3) == 1


def test_functions_of_plain_python_are_welcome():
    def f(x):
        total = 0.0
        for row in x:
            total = total + (row @ row) ** 2 / 2
        return total

    assert type(f(Tensor(normal(3, 2)))) is Tensor
    check_gradients(f, normal(3, 2), order=3)


def test_the_check_runs_wherever_the_array_is(xp):
    assert check_gradients(cube, xp.asarray(normal(3)), order=2).passed
