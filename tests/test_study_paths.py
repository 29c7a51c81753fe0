"""Slopes along real–fake paths: against closed forms, naive loops, the line-integral identity."""

import numpy as np
import pytest

from tinygan import models, nn, ops
from tinygan.backend import Stream
from tinygan.models import perceptron
from tinygan.study.paths import line_integrals, path_slopes

REAL = Stream(1).normal((5, 2), np.float64) * 3
FAKE = Stream(2).normal((5, 2), np.float64) + 1
A = np.array([[2.0, 0.5], [0.5, -1.0]])
W = np.array([0.6, -0.8])


def linear(x):
    return ops.matmul(x, W[:, None])


def quadratic(x):
    """½·xᵀAx, with slope Ax."""
    return ops.multiply(ops.sum(ops.multiply(x, ops.matmul(x, A)), axis=1), 0.5)


def smooth():
    net = perceptron((2, 16, 16, 1), activation=ops.tanh)
    params = net.init(Stream(3), np.float64)
    return lambda x: net(params, x)


def test_a_linear_critic_has_one_slope_everywhere():
    found = path_slopes(linear, REAL, FAKE, n=7)
    np.testing.assert_allclose(found.norms, np.ones((5, 7)), rtol=1e-15)
    assert found.largest == pytest.approx(1) and found.mean == pytest.approx(1)
    assert found.variation < 1e-15
    way = REAL - FAKE
    np.testing.assert_allclose(found.lengths, np.linalg.norm(way, axis=1))
    np.testing.assert_allclose(found.directional.T, [way @ W / found.lengths] * 7)


def test_a_quadratic_critic_against_its_closed_form():
    found = path_slopes(quadratic, REAL, FAKE, n=4)
    np.testing.assert_array_equal(found.t, [0, 1 / 3, 2 / 3, 1])
    norms, values = np.empty((5, 4)), np.empty((5, 4))
    for p in range(5):
        for k, t in enumerate([0, 1 / 3, 2 / 3, 1]):
            point = FAKE[p] + t * (REAL[p] - FAKE[p])
            norms[p, k] = np.hypot(*(A @ point))
            values[p, k] = point @ A @ point / 2
    np.testing.assert_allclose(found.norms, norms, rtol=1e-13)
    np.testing.assert_allclose(found.values, values, rtol=1e-13)
    assert found.largest == pytest.approx(norms.max(), rel=1e-13)
    assert found.variation == pytest.approx(np.std(norms) / np.mean(norms), rel=1e-13)


def test_the_slope_of_a_probability_follows_the_chain_rule():
    plain = path_slopes(quadratic, REAL, FAKE, n=5)
    found = path_slopes(quadratic, REAL, FAKE, n=5, of=ops.sigmoid)
    y, other = 1 / (1 + np.exp(-plain.values)), 1 / (1 + np.exp(plain.values))
    np.testing.assert_allclose(found.values, y, rtol=1e-12)
    np.testing.assert_allclose(found.norms, plain.norms * y * other, rtol=1e-12)


def test_batches_change_nothing_and_bound_the_points_at_once():
    critic, seen = smooth(), []

    def watched(x):
        seen.append(x.shape[0])
        return critic(x)

    whole = path_slopes(critic, REAL, FAKE, n=6)
    found = path_slopes(watched, REAL, FAKE, n=6, batch=13)
    assert seen == [12, 12, 6]
    np.testing.assert_allclose(found.norms, whole.norms, rtol=1e-12)
    np.testing.assert_allclose(found.directional, whole.directional, rtol=1e-12)
    seen.clear()
    path_slopes(watched, REAL, FAKE, n=6, batch=1)
    assert seen == [6] * 5


def test_images_have_paths_too():
    net = models.row_perceptron((4, 3, 1), hidden=8, depth=1, activation=ops.tanh)
    params = net.init(Stream(4), np.float64)
    real, fake = (Stream(i).normal((3, 4, 3, 1), np.float64) for i in (5, 6))
    found = line_integrals(lambda x: net(params, x), real, fake)
    assert found.error.max() < 1e-12
    np.testing.assert_allclose(found.lengths, np.linalg.norm((real - fake).reshape(3, -1), axis=1))


@pytest.mark.parametrize("of", [None, ops.sigmoid])
def test_the_integral_of_the_slope_is_the_difference_of_the_ends(of):
    critic = smooth()
    found = line_integrals(critic, REAL, FAKE, of=of)
    ends = [critic(x)[:, 0] for x in (FAKE, REAL)]
    y, x = ends if of is None else map(of, ends)
    np.testing.assert_allclose(found.difference, x - y, rtol=1e-12)
    assert found.error.max() < 1e-12 and abs(found.difference).min() > 1e-3
    assert (found.steepest >= found.bound).all()


def test_quadrature_is_exact_up_to_its_degree():
    """A fourth power's slope along a path is a cubic: two nodes suffice, one does not."""

    def fourth(x):
        return ops.sum(ops.square(ops.square(x)), axis=1)

    two = line_integrals(fourth, REAL, FAKE, nodes=2, pieces=1)
    one = line_integrals(fourth, REAL, FAKE, nodes=1, pieces=1)
    np.testing.assert_allclose(two.integral, two.difference, rtol=1e-12)
    assert (one.error > 0.01).all()


def test_a_linear_critic_reaches_the_bound_along_its_slope():
    fake = REAL - W * np.arange(1, 6)[:, None]
    found = line_integrals(linear, REAL, fake)
    np.testing.assert_allclose(found.bound, 1, rtol=1e-12)
    np.testing.assert_allclose(found.steepest, found.bound, rtol=1e-12)


def test_a_jumping_slope_needs_pieces():
    net = models.zero_gp_toy(32).critic
    params = net.init(Stream(0), np.float64)
    errors = [
        line_integrals(lambda x: net(params, x), REAL, FAKE, pieces=k).error.mean() for k in (1, 64)
    ]
    assert errors[1] < errors[0] / 10


def test_float32_critics_are_measured_in_their_own_precision():
    net = models.zero_gp_toy(32).critic
    params = net.init(Stream(0))
    found = path_slopes(
        lambda x: net(params, x), REAL.astype(np.float32), FAKE.astype(np.float32), n=3
    )
    assert found.norms.dtype == np.float64 and found.largest > 0


def test_a_constant_critic_has_no_variation():
    found = path_slopes(lambda x: np.zeros(x.shape[0]), REAL, FAKE, n=3)
    assert found.largest == found.mean == 0
    with pytest.raises(ValueError, match="all slopes are 0"):
        _ = found.variation


def test_it_works_where_the_critic_lives(stand_in):
    real, fake = stand_in.asarray(REAL), stand_in.asarray(FAKE)

    def critic(x):
        return ops.sum(ops.square(x), axis=1)

    found = path_slopes(critic, real, fake, n=4)
    assert type(found.norms) is np.ndarray
    np.testing.assert_allclose(found.norms, path_slopes(critic, REAL, FAKE, n=4).norms)


def mixing_critic():
    net = perceptron((2, 4, 1), norm=nn.BatchNorm)
    params = net.init(Stream(0), np.float64)
    return lambda x: net(params, x)


@pytest.mark.parametrize(
    "critic, real, fake, complaint",
    [
        (linear, REAL, FAKE[:4], r"real float64\[5, 2\] and fake float64\[4, 2\] make no pairs"),
        (linear, REAL, FAKE.astype(np.float32), "make no pairs; expected equal shapes and dtypes"),
        (linear, REAL[:0], FAKE[:0], "at least one pair"),
        (linear, [[1.0, 2.0]], FAKE, "real is a list; expected an array"),
        (linear, REAL, np.ones((5, 2), int), r"fake is int64\[5, 2\]; expected an array of floats"),
        (linear, REAL, np.concatenate([FAKE[:3], REAL[3:]]), r"same point in pair 3 \(2 of 5"),
        (lambda x: x, REAL, FAKE, r"gave \(40, 2\) for points \(40, 2\); expected one logit"),
        (lambda x: ops.log(ops.negative(quadratic(x))), REAL, FAKE, "value is not finite in pair"),
        (mixing_critic(), REAL, FAKE, r"uses batch norm \(standardise\), which mixes"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_input_is_one_clear_error(critic, real, fake, complaint):
    with pytest.raises(ValueError, match=complaint):
        path_slopes(critic, real, fake, n=8)


def test_a_function_of_the_logit_that_loses_the_samples_is_an_error():
    with pytest.raises(ValueError, match=r"^path_slopes: `of` gave \(\) for points \(15, 2\)"):
        path_slopes(linear, REAL, FAKE, n=3, of=ops.mean)
    column = path_slopes(linear, REAL, FAKE, n=3, of=lambda y: ops.reshape(y, shape=(-1,)))
    np.testing.assert_array_equal(column.norms, path_slopes(linear, REAL, FAKE, n=3).norms)


def test_sizes_below_the_least_are_errors():
    with pytest.raises(ValueError, match="n is 1; expected 2"):
        path_slopes(linear, REAL, FAKE, n=1)
    with pytest.raises(ValueError, match="0 nodes on 4 pieces"):
        line_integrals(linear, REAL, FAKE, nodes=0, pieces=4)
