"""The ε-optimal discriminator: its bound, how tight it is, and what its slope must be."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from tinygan import models, ops, penalties
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import grad, grad_values, track
from tinygan.models import SoftmaxMLP, epsilon_optimal, sufficient_k


def on_the_sphere(n, d, seed=1, dtype=np.float64):
    a = Stream(seed).normal((n, d), np.float64)
    return (a / np.linalg.norm(a, axis=1, keepdims=True)).astype(dtype)


def two_sets(n, m, d, seed=1, dtype=np.float64):
    v = on_the_sphere(n + m, d, seed, dtype)
    return v[:n], v[n:]


def simplex(n):
    """n points of norm 1, all as far from each other: ⟨vᵢ, vⱼ⟩ = −1/(n − 1)."""
    v = np.eye(n) - 1 / n
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def by_hand(real, fake, epsilon, alpha, k, at):
    """D at one point, in plain loops."""
    terms, weights = [], []
    for v in real:
        terms.append(np.exp(k * (sum(a * b for a, b in zip(v, at, strict=True)) - 1)))
        weights.append(0.5 + epsilon / 2 + alpha)
    for v in fake:
        terms.append(np.exp(k * (sum(a * b for a, b in zip(v, at, strict=True)) - 1)))
        weights.append(0.5 - epsilon / 2 - alpha)
    return sum(t * w for t, w in zip(terms, weights, strict=True)) / sum(terms)


def margins(real, fake, epsilon, alpha, k=None):
    """How far D is beyond ½ ± ε/2 on real and on fake samples: the least of each."""
    model, params = epsilon_optimal(real, fake, epsilon, alpha, k)
    over = model(params, real).min() - 0.5 - epsilon / 2
    under = 0.5 - epsilon / 2 - model(params, fake).max()
    return float(over), float(under)


def slope(model, params, v):
    """∇D at points. Shapes: v (N, d), y (N, d)."""
    v = track(v)
    return grad_values(ops.sum(model(params, v)), v)


# What it promises


@pytest.mark.parametrize("d", [2, 3, 10, 50])
@pytest.mark.parametrize("counts", [(3, 4), (1, 1), (20, 7)])
@pytest.mark.parametrize("choice", [(0.1, 0.45), (0.8, 0.02)])
def test_with_the_sufficient_k_it_is_epsilon_optimal(d, counts, choice):
    for seed in range(3):
        real, fake = two_sets(*counts, d, seed)
        assert min(margins(real, fake, *choice)) >= -1e-12


def test_with_a_tenth_of_that_k_it_is_not():
    for d in (3, 10, 50):
        real, fake = two_sets(20, 7, d)
        k = sufficient_k(np.concatenate([real, fake]), 0.5, 0.1)
        assert min(margins(real, fake, 0.5, 0.1, k / 10)) < -0.01
        assert min(margins(real, fake, 0.5, 0.1, k)) >= 0


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("epsilon, alpha", [(0.1, 0.05), (0.5, 0.25), (0.8, 0.01)])
def test_in_a_simplex_no_smaller_k_will_do(n, epsilon, alpha):
    """One real sample among fake ones that are all as near: the bound is met exactly."""
    v = simplex(n)
    k = sufficient_k(v, epsilon, alpha)
    gap = 1 + 1 / (n - 1)
    assert k == pytest.approx(np.log((n - 1) * (epsilon + alpha) / alpha) / gap, rel=1e-12)
    assert margins(v[:1], v[1:], epsilon, alpha)[0] == pytest.approx(0, abs=1e-13)
    assert margins(v[:1], v[1:], epsilon, alpha, 0.999 * k)[0] < -1e-6
    assert margins(v[:1], v[1:], epsilon, alpha, 1.001 * k)[0] > 1e-6


def test_on_random_data_the_sufficient_k_is_about_twice_the_least():
    """Bisection: .47 to .65 of it in 20 dimensions, .57 to .74 in 50, where all are nearly as far.

    In few dimensions one pair is nearest: .43 if it is of two kinds, ln 6/ln 66 for a single
    neighbour, and down to .05 if it is of one kind, which need not be told apart.
    """
    for d, seed in itertools.product((20, 50), range(5)):
        real, fake = two_sets(6, 6, d, seed)
        high = sufficient_k(np.concatenate([real, fake]), 0.5, 0.1)
        low, enough = 0.0, high
        for _ in range(40):
            middle = (low + high) / 2
            if min(margins(real, fake, 0.5, 0.1, middle)) >= 0:
                high = middle
            else:
                low = middle
        assert 0.4 * enough < high < 0.8 * enough


def test_as_k_grows_it_says_the_weight_of_the_sample_at_hand():
    real, fake = two_sets(4, 5, 6)
    model, params = epsilon_optimal(real, fake, 0.5, 0.2, k=1e5)
    np.testing.assert_allclose(model(params, real), 0.95, rtol=1e-12)
    np.testing.assert_allclose(model(params, fake), 0.05, rtol=1e-12)


def test_it_is_the_papers_formula_in_loops():
    real, fake = two_sets(3, 2, 4)
    points = on_the_sphere(6, 4, seed=7)
    model, params = epsilon_optimal(real, fake, 0.3, 0.1, k=7.5)
    expected = [[by_hand(real, fake, 0.3, 0.1, 7.5, at)] for at in points]
    np.testing.assert_allclose(model(params, points), expected, rtol=1e-13)


def test_the_sufficient_k_is_its_formula_in_loops():
    v = on_the_sphere(7, 3)
    largest = max(v[i] @ v[j] for i in range(7) for j in range(7) if i != j)
    expected = np.log(6 * (0.3 + 0.1) / 0.1) / (1 - largest)
    assert sufficient_k(v, 0.3, 0.1) == pytest.approx(expected, rel=1e-12)


def test_the_sufficient_k_of_near_neighbours_does_not_cancel():
    """1 − ⟨v, w⟩ = 5e-13 as a difference of two products would keep three digits."""
    v = np.array([[0.6, 0.8], [np.cos(np.arccos(0.6) + 1e-6), np.sin(np.arccos(0.6) + 1e-6)]])
    exact = [[Fraction(x) for x in row] for row in v]
    gaps = [sum(a * (a - b) for a, b in zip(*pair, strict=True)) for pair in (exact, exact[::-1])]
    expected = np.log(0.6 / 0.1) / float(min(gaps))
    assert sufficient_k(v, 0.5, 0.1) == pytest.approx(expected, rel=1e-9)
    naive = np.log(0.6 / 0.1) / (1 - v[0] @ v[1])
    assert abs(naive / expected - 1) > 1e-6


def test_it_has_d_plus_1_parameters_for_each_sample():
    real, fake = two_sets(11, 8, 5)
    model, params = epsilon_optimal(real, fake, 0.5, 0.1)
    assert models.count_parameters(params) == (5 + 1) * (11 + 8)
    assert models.count_parameters(model.init(Stream(0))) == (5 + 1) * (11 + 8)
    assert (model.input, model.output) == ((5,), (1,)) and model == SoftmaxMLP(5, 19)
    assert [a.shape for a in params.values()] == [(5, 19), (19, 1)]
    assert [a.shape for a in model.init(Stream(0)).values()] == [(5, 19), (19, 1)]
    assert list(params) == list(model.init(Stream(0)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_keeps_the_samples_dtype(dtype):
    real, fake = two_sets(5, 5, 4, dtype=dtype)
    model, params = epsilon_optimal(real, fake, 0.5, 0.1)
    assert model(params, real).dtype == dtype and params["hidden"].dtype == dtype
    assert min(margins(real, fake, 0.5, 0.1)) > -1e-4
    assert model.init(Stream(0), dtype)["output"].dtype == dtype


def test_other_devices_build_the_same(xp):
    real, fake = two_sets(4, 3, 5)
    model, params = epsilon_optimal(xp.asarray(real), xp.asarray(fake), 0.5, 0.1)
    there = xp.get(model(params, xp.asarray(real)))
    model, params = epsilon_optimal(real, fake, 0.5, 0.1)
    np.testing.assert_allclose(there, model(params, real), rtol=1e-10)


def test_gradients_to_order_three():
    real, fake = two_sets(3, 2, 4)
    model, params = epsilon_optimal(real, fake, 0.5, 0.1, k=4.0)
    check_gradients(
        lambda t: model(t["params"], t["v"]),
        {"params": params, "v": on_the_sphere(4, 4, seed=5)},
        order=3,
        complex_step=True,
    )


def test_its_penalty_can_be_differentiated():
    real, fake = two_sets(3, 2, 4)
    model, params = epsilon_optimal(real, fake, 0.5, 0.1, k=4.0)
    points = on_the_sphere(4, 4, seed=5)
    check_gradients(
        lambda p: penalties.gradient_penalty(lambda v: model(p, v), points, centre=1.0), params
    )


# What its slope must be (P3 section 4: facts 4 and 5)


def along(model, params, x, y, n=20001):
    """Points x + t·(y − x), D there, and ∇D·(y − x)."""
    t = np.linspace(0, 1, n)[:, None]
    points = x + t * (y - x)
    return model(params, points)[:, 0], slope(model, params, points) @ (y - x)


def test_the_slopes_line_integral_is_the_difference_of_values():
    real, fake = two_sets(4, 4, 3)
    model, params = epsilon_optimal(real, fake, 0.6, 0.1)
    for x, y in itertools.product(real, fake):
        values, rates = along(model, params, y, x)
        integral = (rates[1:-1].sum() + rates[[0, -1]].sum() / 2) / (len(rates) - 1)
        assert integral == pytest.approx(values[-1] - values[0], abs=1e-6)
        assert integral >= 0.6 - 1e-6
        detour = on_the_sphere(1, 3, seed=9)[0]  # the same on any other way
        twice = 0.0
        for a, b in ((y, detour), (detour, x)):
            _, rates = along(model, params, a, b)
            twice += (rates[1:-1].sum() + rates[[0, -1]].sum() / 2) / (len(rates) - 1)
        assert twice == pytest.approx(integral, abs=1e-6)


def test_somewhere_between_two_samples_the_slope_is_epsilon_over_their_distance_or_more():
    real, fake = two_sets(4, 4, 3)
    model, params = epsilon_optimal(real, fake, 0.6, 0.1)
    for x, y in itertools.product(real, fake):
        points = x + np.linspace(0, 1, 4001)[:, None] * (y - x)
        steepest = np.linalg.norm(slope(model, params, points), axis=1).max()
        assert steepest >= 0.6 / np.linalg.norm(x - y)


def test_the_slope_explodes_as_a_fake_sample_meets_a_real_one():
    steepest = []
    for angle in (1e-1, 1e-2, 1e-3):
        x, y = np.array([1.0, 0.0]), np.array([np.cos(angle), np.sin(angle)])
        model, params = epsilon_optimal(x[None], y[None], 0.6, 0.1)
        points = x + np.linspace(0, 1, 2001)[:, None] * (y - x)
        steepest.append(np.linalg.norm(slope(model, params, points), axis=1).max())
        assert steepest[-1] >= 0.6 / np.linalg.norm(x - y)
        # Two units make a logistic of height ε + 2α, steepest where k·‖x − y‖(ε + 2α)/4
        expected = 0.8 * params["hidden"].max() * np.linalg.norm(x - y) / 4
        assert steepest[-1] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(np.divide(steepest[1:], steepest[:-1]), 10, rtol=2e-3)


def test_the_engines_slope_is_that_of_the_formula():
    """∇D = k·Σ sᵢ(wᵢ − D)vᵢ, by hand."""
    real, fake = two_sets(3, 3, 4)
    k, at = 5.0, on_the_sphere(1, 4, seed=3)[0]
    model, params = epsilon_optimal(real, fake, 0.5, 0.1, k)
    v = np.concatenate([real, fake])
    s = np.exp(k * v @ at) / np.exp(k * v @ at).sum()
    w = np.where(np.arange(6) < 3, 0.85, 0.15)
    expected = k * ((s * (w - s @ w)) @ v)
    np.testing.assert_allclose(slope(model, params, at[None])[0], expected, rtol=1e-12)
    again = track(at[None])
    assert grad(ops.sum(model(params, again)), again).shape == (1, 4)


# Bad input


@pytest.mark.parametrize(
    "epsilon, alpha, complaint",
    [
        (0.0, 0.1, "epsilon is 0.0"),
        (1.0, 0.1, "epsilon is 1.0"),
        (float("nan"), 0.1, "epsilon is nan"),
        (0.5, 0.0, "alpha is 0.0"),
        (0.5, 0.26, r"at most \(1 − ε\)/2 = 0.25"),
        (0.5, float("nan"), "alpha is nan"),
    ],
)
def test_choices_outside_their_ranges(epsilon, alpha, complaint):
    real, fake = two_sets(2, 2, 3)
    with pytest.raises(ValueError, match=complaint):
        epsilon_optimal(real, fake, epsilon, alpha)


@pytest.mark.parametrize("epsilon", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_the_largest_alpha_is_allowed(epsilon):
    real, fake = two_sets(2, 2, 3)
    model, params = epsilon_optimal(real, fake, epsilon, round((1 - epsilon) / 2, 2))
    assert params["output"].max() == pytest.approx(1) and min(params["output"]) >= -1e-15


def test_samples_must_have_norm_1():
    real, fake = two_sets(2, 3, 3)
    fake = fake * np.array([[1.0], [1.0], [1.1]])
    with pytest.raises(ValueError, match="sample 4 has norm 1.1; expected 1. Divide each"):
        epsilon_optimal(real, fake, 0.5, 0.1)
    real = real * np.nan
    with pytest.raises(ValueError, match="norm nan"):
        epsilon_optimal(real, fake, 0.5, 0.1)


def test_samples_must_differ():
    real, fake = two_sets(3, 3, 3)
    fake[1] = real[2]
    with pytest.raises(ValueError, match="samples 2 and 4 are equal; expected all to differ"):
        epsilon_optimal(real, fake, 0.5, 0.1)


def test_samples_must_be_rows_of_one_length():
    real, fake = two_sets(2, 2, 3)
    for bad in (real[:, :2], real[0], real[:, None]):
        with pytest.raises(ValueError, match="Reshape images to rows"):
            epsilon_optimal(bad, fake, 0.5, 0.1)
    for bad in (real[0], real[:1]):
        with pytest.raises(ValueError, match="at least two samples"):
            sufficient_k(bad, 0.5, 0.1)


@pytest.mark.parametrize("k", [0.0, -1.0, float("inf"), float("nan")])
def test_k_must_be_a_number_above_0(k):
    real, fake = two_sets(2, 2, 3)
    with pytest.raises(ValueError, match=f"k is {k}; expected a number above 0"):
        epsilon_optimal(real, fake, 0.5, 0.1, k)


def test_the_model_refuses_other_input_and_sizes():
    model = SoftmaxMLP(3, 4)
    for shape in ((5, 2), (3,), (5, 3, 1)):
        with pytest.raises(ValueError, match=r"input of shape .*expected \(N, 3\)"):
            model(model.init(Stream(0)), np.ones(shape, np.float32))
    for sizes in ((0, 4), (3, 0)):
        with pytest.raises(ValueError, match="expected at least 1 of each"):
            SoftmaxMLP(*sizes)
