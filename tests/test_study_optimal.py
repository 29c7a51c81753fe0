"""What is optimal: golden numbers, closed forms, SciPy, and the losses themselves as judges."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from tinygan import data, losses, metrics, ops, penalties
from tinygan.engine import Tensor, grad_values, hvp, track
from tinygan.study import optimal
from tinygan.study.optimal import gaussian, log_of, trapezoid

REAL, FAKE = (gaussian(p.mean, p.covariance) for p in data.two_gaussians())
PLANE = trapezoid(((-8, 10), (-8, 10)), 101)
LINE = trapezoid((-12, 13), 401)
P, Q = gaussian(0, 1), gaussian(1.3, 1)
EDGES = np.linspace(-22, 23, 901)


def uniform(low, high):
    return log_of(lambda x: ((x[:, 0] > low) & (x[:, 0] < high)) / (high - low))


def value(critic, real, fake, rule):
    """V(D) = E log σ(D) + E log(1 − σ(D))."""
    p, q = (np.exp(density(rule.points)) * rule.weights for density in (real, fake))
    d = critic(rule.points)
    return -(p @ ops.softplus(-d) + q @ ops.softplus(d))


# Golden numbers


def test_the_optimal_discriminator_of_figure_1():
    critic = optimal.optimal_gan(REAL, FAKE)
    points = np.array([[0.4, 0.9], [1.3, 1.2], [0, 0]])
    golden = [0.5790643075, 0.3514136245, 0.5812612449]
    np.testing.assert_allclose(ops.sigmoid(critic(points)), golden, atol=5e-11, rtol=0)

    x = track(trapezoid(((-2.5, 4.5), (-2.5, 4.5)), 100).points)
    probability = ops.sigmoid(critic(x))
    surface = probability.data.reshape(100, 100)
    assert round(surface.min(), 8) == 0.01838021 and round(surface.mean(), 8) == 0.67196975
    slopes = grad_values(ops.sum(probability), x)
    assert round(np.linalg.norm(slopes, axis=1).max(), 4) == 0.7523
    differences = np.gradient(surface, 7 / 99)  # rows go up, columns to the right
    assert round(np.hypot(*differences).max(), 4) == 0.7489
    by_engine = slopes.reshape(100, 100, 2)[1:-1, 1:-1, ::-1]
    by_difference = np.stack(differences, axis=2)[1:-1, 1:-1]
    assert np.abs(by_engine - by_difference).max() < 0.02


def test_the_divergences_of_figure_1():
    jsd = optimal.jensen_shannon(REAL, FAKE, PLANE)
    assert round(jsd, 10) == 0.1131058392
    assert round(optimal.kullback_leibler(REAL, FAKE, PLANE), 10) == 0.5934432694
    assert round(optimal.kullback_leibler(FAKE, REAL, PLANE), 10) == 0.4794979071
    v = value(optimal.optimal_gan(REAL, FAKE), REAL, FAKE, PLANE)
    assert round(v, 10) == -1.1600826828
    assert v == pytest.approx(2 * jsd - 2 * math.log(2), abs=1e-14)
    other = optimal.gauss_legendre(((-8, 10), (-8, 10)), 10, 12)
    assert optimal.jensen_shannon(REAL, FAKE, other) == pytest.approx(jsd, abs=1e-12)


def test_the_generators_gradients_at_the_optimal_discriminator():
    critic = optimal.optimal_gan(P, Q)
    saturating = optimal.location_gradient(losses.minimax_generator, critic, Q, LINE)
    other = optimal.location_gradient(losses.non_saturating_generator, critic, Q, LINE)
    assert [round(float(a), 6) for a in (*saturating, *other)] == [0.449010, 0.850990]

    place = track(np.zeros(1))

    def moved(x):
        return Q(ops.subtract(x, place))

    jsd, kl = optimal.jensen_shannon(P, moved, LINE), optimal.kullback_leibler(moved, P, LINE)
    jsd, kl = grad_values(jsd, place), grad_values(kl, place)
    np.testing.assert_allclose(saturating, 2 * jsd, atol=1e-12)
    np.testing.assert_allclose(other, kl - 2 * jsd, atol=1e-12)
    np.testing.assert_allclose(kl, 1.3, atol=1e-12)  # of ½·1.3²


# Against SciPy and closed forms


def test_densities_are_scipys():
    x = np.random.default_rng(0).normal(size=(20, 2))
    for ours, theirs in zip((REAL, FAKE), data.two_gaussians(), strict=True):
        expected = stats.multivariate_normal(theirs.mean, theirs.covariance)
        np.testing.assert_allclose(ours(x), expected.logpdf(x), atol=1e-13)
        np.testing.assert_allclose(ours(x), theirs.log_density(x), atol=1e-13)
    np.testing.assert_allclose(
        optimal.mixture_density(REAL, FAKE, x), (np.exp(REAL(x)) + np.exp(FAKE(x))) / 2, rtol=1e-12
    )


def test_divergences_on_the_line_are_scipys():
    p, q = stats.norm(0.2, 0.7), stats.t(3)
    a, b = (lambda x, f=f: f.logpdf(x[:, 0]) for f in (p, q))
    rule = optimal.gauss_legendre((-150, 150), 20, 300)

    def m(x):
        return np.log((p.pdf(x) + q.pdf(x)) / 2)

    kl, _ = integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -10, 10, limit=200)
    jsd, _ = integrate.quad(
        lambda x: (p.pdf(x) * (p.logpdf(x) - m(x)) + q.pdf(x) * (q.logpdf(x) - m(x))) / 2,
        -150, 150, limit=500, points=(-3, 0, 3),
    )  # fmt: skip
    assert optimal.kullback_leibler(a, b, rule) == pytest.approx(kl, abs=1e-8)
    assert optimal.jensen_shannon(a, b, rule) == pytest.approx(jsd, abs=1e-6)
    two = optimal.total_variation(P, Q, LINE)  # 2Φ(1.3/2) − 1; its kink is the error's
    assert two == pytest.approx(2 * stats.norm.cdf(0.65) - 1, abs=1e-4)


def test_gauss_legendre_is_exact_for_polynomials_and_the_plane_has_its_axes_in_order():
    rule = optimal.gauss_legendre(((0, 1), (0, 3)), 3, 2)
    x, y = rule.points.T
    assert rule.weights @ (x**5 * y**2) == pytest.approx(9 / 6, abs=1e-13)
    assert trapezoid((0, 2), 5).weights.tolist() == [0.25, 0.5, 0.5, 0.5, 0.25]
    points = trapezoid(((0, 1), (5, 6)), 2).points
    np.testing.assert_array_equal(points, [[0, 5], [1, 5], [0, 6], [1, 6]])


@pytest.mark.parametrize(
    "p, q", [(P, Q), (gaussian(0, 1), gaussian(0.3, 4)), (gaussian(1, 0.25), Q)]
)
def test_wasserstein1_is_that_of_quantiles_and_the_potential_attains_it(p, q):
    found = optimal.wasserstein1(p, q, EDGES)
    rank = (np.arange(400) + 0.5) / 400
    rule = trapezoid((-22, 23), 4001)
    places = rule.points[:, 0]
    masses = [np.exp(f(rule.points)) * rule.weights for f in (p, q)]
    quantiles = [np.interp(rank, np.cumsum(mass), places)[:, None] for mass in masses]
    assert found == pytest.approx(metrics.wasserstein1(*quantiles), abs=0.01)

    critic = optimal.optimal_wasserstein(p, q, EDGES)

    def gap(critic):  # E D(x) − E D(G(z)), negative of the critic's loss
        return (masses[0] - masses[1]) @ critic(rule.points)

    assert gap(critic) == pytest.approx(found, abs=2e-5)
    x = track(rule.points)
    slopes = grad_values(ops.sum(critic(x)), x)
    assert set(np.unique(slopes)) <= {-1.0, 0.0, 1.0}
    # No other 1-Lipschitz critic does better: bent at random places, by zigzags.
    for seed in range(5):
        rng = np.random.default_rng(seed)
        bends = np.cumsum(np.where(rng.random(4001) < 0.01, -1, 1).cumprod()) * 45 / 4000
        assert gap(lambda x, bends=bends: bends) < found


def test_wasserstein1_has_its_closed_forms():
    assert optimal.wasserstein1(P, Q, EDGES) == pytest.approx(1.3, abs=1e-12)
    broad = gaussian(0, 4)
    assert optimal.wasserstein1(P, broad, EDGES) == pytest.approx(math.sqrt(2 / math.pi), abs=1e-6)
    coarse = np.linspace(-22, 23, 200)  # F_r and F_g cross between two of them
    found = optimal.wasserstein1(P, broad, coarse)
    assert found == pytest.approx(math.sqrt(2 / math.pi), abs=1e-4)
    critic = optimal.optimal_wasserstein(P, broad, coarse)  # −|x| + c, to the bend's place
    left, top, right = critic(np.array([[-1.0], [0.0], [1.0]]))
    assert left == pytest.approx(right, abs=1e-3) and top - left == pytest.approx(1, abs=1e-3)
    edges = np.linspace(-1, 4, 51)  # jumps lie on edges
    boxes = uniform(0, 1), uniform(2, 3)
    assert optimal.wasserstein1(*boxes, edges) == pytest.approx(2, abs=1e-12)


def laplace(mean):
    return lambda x: -np.abs(x[:, 0] - mean) - math.log(2)


@pytest.mark.parametrize("n", [201, 401, 1001])
def test_what_the_edges_lose_of_a_mass_does_not_count_over_their_width(n):
    edges = np.linspace(-60, 60, n)  # at kinks between them up to 0.8% of a mass is lost
    assert optimal.wasserstein1(laplace(0), laplace(0.3), edges) == pytest.approx(0.3, abs=1e-12)


@pytest.mark.parametrize("share", [0.992, 1.008])
@pytest.mark.parametrize("wide", [16, 200])
def test_a_density_that_is_normalised_to_one_percent_is_normalised(wide, share):
    edges = np.linspace(-wide, wide, 2001)
    at = np.linspace(-wide, wide, 101)[:, None]
    broad = gaussian(1, 4)  # its F and that of P are equal at −1 alone
    expected = optimal.wasserstein1(P, broad, edges)
    potential = optimal.optimal_wasserstein(P, broad, edges)(at)

    def off(density):
        return lambda x: density(x) + math.log(share)

    for real, fake in ((P, off(broad)), (off(P), broad)):
        assert optimal.wasserstein1(real, fake, edges) == pytest.approx(expected, abs=1e-10)
        found = optimal.optimal_wasserstein(real, fake, edges)(at)
        np.testing.assert_allclose(found, potential, atol=1e-9)


# Optimal, says the loss itself

COUNTS = np.array([[1, 5, 3, 2, 4, 3], [4, 1, 2, 2, 5, 4]])  # real and fake samples in each cell


def of_cells(counts):
    """A log-density that is the share of the samples that a cell has."""
    return lambda x: np.log(counts[x[:, 0].astype(int)] / counts.sum())


def loss_of_cells(loss):
    """The critic's loss as a function of D's values in the cells, of a batch of all samples."""
    real, fake = (np.repeat(np.arange(6), counts) for counts in COUNTS)
    return lambda d: loss.critic(ops.gather(d, real), ops.gather(d, fake))


@pytest.mark.parametrize(
    "loss, best",
    [
        (losses.MINIMAX, optimal.optimal_gan),
        (losses.NON_SATURATING, optimal.optimal_gan),
        (losses.LEAST_SQUARES, optimal.optimal_least_squares),
        (losses.label_smoothed(), optimal.optimal_smoothed),
        (
            losses.label_smoothed(0.8, 0.3),
            lambda *densities: optimal.optimal_smoothed(*densities, 0.8, 0.3),
        ),
    ],
    ids=["minimax", "non-saturating", "least squares", "smoothed", "smoothed on both sides"],
)
def test_the_losss_derivative_is_zero_at_the_optimal_critic(loss, best):
    critic = best(*map(of_cells, COUNTS))
    d = track(critic(np.arange(6.0)[:, None]))
    of_values = loss_of_cells(loss)
    assert np.abs(grad_values(of_values(d), d)).max() < 1e-15
    for direction in np.eye(6):
        assert direction @ hvp(of_values, d.data, direction) > 0.01


def test_no_critic_has_a_smaller_hinge_loss():
    best = optimal.optimal_hinge(*map(of_cells, COUNTS))(np.arange(6.0)[:, None])
    shares = COUNTS / COUNTS.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(best, np.sign(shares[0] - shares[1]))
    of_values = loss_of_cells(losses.HINGE)
    least = of_values(best)
    assert least == pytest.approx(2 - np.abs(shares[0] - shares[1]).sum(), abs=1e-14)
    rng = np.random.default_rng(0)
    for size in (1e-3, 0.1, 3.0):
        for _ in range(50):
            assert of_values(best + size * rng.normal(size=6)) >= least - 1e-14


def test_penalties_and_their_derivatives_take_the_optimal_critic():
    critic = optimal.optimal_gan(REAL, FAKE)
    x = np.random.default_rng(1).normal(size=(7, 2))
    slopes = []
    for real, sign in ((data.two_gaussians()[0], 1), (data.two_gaussians()[1], -1)):
        slopes.append(-sign * (x - real.mean) @ np.linalg.inv(real.covariance))
    expected = (np.sum(slopes, axis=0) ** 2).sum(axis=1).mean()
    points = track(x)
    penalty = penalties.gradient_penalty(critic, points)
    assert penalty.data == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(grad_values(penalty, points)).all()


# The edges


def test_disjoint_supports():
    rule = optimal.gauss_legendre((-1, 4), 4, 5)
    a, b = uniform(0, 1), uniform(2, 3)
    assert optimal.jensen_shannon(a, b, rule) == pytest.approx(math.log(2), abs=1e-15)
    assert optimal.kullback_leibler(a, b, rule) == math.inf
    wide = optimal.gauss_legendre((-60, 60), 8, 24)  # on which the Gaussian underflows
    assert optimal.kullback_leibler(P, uniform(-5, 5), wide) == math.inf
    assert optimal.total_variation(a, b, rule) == pytest.approx(1, abs=1e-15)
    assert optimal.kullback_leibler(a, uniform(0, 2), rule) == pytest.approx(math.log(2))
    where = np.array([[0.5], [2.5]])
    np.testing.assert_array_equal(ops.sigmoid(optimal.optimal_gan(a, b)(where)), [1, 0])
    smoothed = ops.sigmoid(optimal.optimal_smoothed(a, b)(where))
    np.testing.assert_allclose(smoothed, [0.9, 0], atol=1e-15)


def test_far_away_log_densities_still_tell():
    far = np.array([[60.0], [-60.0]])
    critic = optimal.optimal_gan(P, Q)
    np.testing.assert_allclose(critic(far), 0.845 - 1.3 * far[:, 0])
    x = far.astype(np.float32)
    assert critic(x).dtype == np.float32
    kl = optimal.kullback_leibler(gaussian(0, 1), gaussian(60, 1), trapezoid((-70, 130), 2001))
    assert kl == pytest.approx(1800, rel=1e-10)
    assert optimal.jensen_shannon(P, P, LINE) == 0


@pytest.mark.parametrize(
    "best",
    [
        optimal.optimal_gan,
        optimal.optimal_least_squares,
        optimal.optimal_hinge,
        optimal.optimal_smoothed,
    ],
)
def test_densities_that_are_zero_where_they_are_divided_by(best):
    plain = [log_of(lambda x, m=m: np.exp(-((x[:, 0] - m) ** 2))) for m in (0, 1)]
    critic = best(*plain)
    assert np.isfinite(critic(np.array([[2.0]]))).all()
    with pytest.raises(ValueError, match=r"point 1, \[50.0\].*Give log-densities"):
        critic(np.array([[0.0], [50.0], [60.0]]))


def epanechnikov(x):
    """The log of ¾(1 − x²) on [−1, 1], of primitives."""
    inside = ops.subtract(1.0, ops.square(ops.reshape(x, shape=(x.shape[0],))))
    with np.errstate(divide="ignore"):
        return ops.log(ops.multiply(ops.gate(inside, inside, slope=0.0), 0.75))


def test_a_critic_is_not_asked_where_the_generator_has_no_density():
    real = gaussian(0.3, 1)
    critic = optimal.optimal_gan(real, epanechnikov)
    within = optimal.gauss_legendre((-1, 1), 16, 8)
    loss = losses.minimax_generator
    expected = optimal.location_gradient(loss, critic, epanechnikov, within)
    beyond = optimal.gauss_legendre((-2, 2), 16, 16)
    found = optimal.location_gradient(loss, critic, epanechnikov, beyond)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    x, weights = within.points[:, 0], within.weights  # ∫ −σ(D*)·D*′·p_g of the closed forms
    p, q = stats.norm(0.3, 1).pdf(x), 0.75 * (1 - x**2)
    slopes = (0.3 - x) + 2 * x / (1 - x**2)
    np.testing.assert_allclose(found, [-(weights * q * p / (p + q)) @ slopes], rtol=1e-12)

    both = optimal.optimal_gan(epanechnikov, epanechnikov)  # undefined beyond ±1
    found = optimal.location_gradient(loss, both, epanechnikov, beyond)
    np.testing.assert_allclose(found, [0.0], atol=1e-15)


def box(low, high):
    """The log-density of a box, 0 wide of it, of primitives."""

    def log_density(x):
        a = ops.reshape(x, shape=(x.shape[0],))
        raw = a.data if type(a) is Tensor else a
        inside = (raw > low) & (raw < high)
        return ops.where(inside, ops.multiply(a, 0.0), np.full(len(raw), -np.inf))

    return log_density


def test_a_loss_that_is_infinite_where_the_generator_is_has_no_gradient():
    rule = optimal.gauss_legendre((0.5, 1.5), 8, 2)
    critic = optimal.optimal_gan(box(0, 1), box(0.5, 1.5))
    with pytest.raises(ValueError, match="location_gradient: the loss or its slope is not finite"):
        optimal.location_gradient(losses.non_saturating_generator, critic, box(0.5, 1.5), rule)
    # √|x|: its mean is finite, its slope at 0 is not.
    message = "location_gradient: the loss or its slope is not finite"
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        optimal.location_gradient(
            losses.wasserstein_generator,
            lambda x: ops.power(ops.abs(x), 0.5),
            P,
            trapezoid((-8, 8), 33),
        )


def test_a_critic_without_derivative_has_no_gradient():
    for critic in (optimal.optimal_hinge(P, Q), lambda x: np.ones(len(x))):
        with pytest.raises(ValueError, match="location_gradient: .* critic with a derivative"):
            optimal.location_gradient(losses.hinge_generator, critic, Q, LINE)


def test_a_weight_below_zero_counts():
    even, coarse = trapezoid((-11.0, 13.0), 193), trapezoid((-11.0, 13.0), 97)
    rule = optimal.Rule(  # extrapolated: (4·fine − coarse)/3, here as two rules in one
        np.concatenate([even.points, coarse.points]),
        np.concatenate([even.weights * 4 / 3, coarse.weights / -3]),
    )
    critic = optimal.optimal_gan(P, Q)
    found = optimal.location_gradient(losses.minimax_generator, critic, Q, rule)
    expected = optimal.location_gradient(losses.minimax_generator, critic, Q, LINE)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_covariance_is_symmetric_to_rounding():
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    covariance = turn @ np.diag([1.0, 5.0, 0.1]) @ turn.T
    covariance[0, 1] += 1e-15
    x = np.random.default_rng(3).normal(size=(4, 3))
    expected = stats.multivariate_normal(np.zeros(3), (covariance + covariance.T) / 2).logpdf(x)
    np.testing.assert_allclose(gaussian(np.zeros(3), covariance)(x), expected, rtol=1e-12)


def test_a_rule_is_a_rule():
    for call in (
        lambda rule: optimal.kullback_leibler(P, Q, rule),
        lambda rule: optimal.location_gradient(
            losses.minimax_generator, optimal.optimal_gan(P, Q), Q, rule
        ),
    ):
        with pytest.raises(TypeError, match="the rule is a tuple; expected a Rule"):
            call(tuple(LINE))


def flat(x):
    return np.zeros(len(x))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: log_of(lambda x: -x[:, 0])(np.ones((1, 1))), "density is -1.0 at point 0"),
        (lambda: log_of(lambda x: x[:, 0])(np.full((1, 1), np.nan)), "density is nan at point 0"),
        (
            lambda: optimal.optimal_gan(P, lambda x: x)(np.ones((2, 1)) * np.nan),
            "is nan at point 0",
        ),
        (lambda: optimal.optimal_gan(P, lambda x: 0.0)(np.ones((2, 1))), "gave float for points"),
        (lambda: optimal.optimal_smoothed(P, Q, 0.2, 0.3), "0 <= fake_label < real_label <= 1"),
        (lambda: log_of(lambda x: 0.5)(np.ones((2, 1))), "log_of: a density gave float for points"),
        (lambda: log_of(lambda x: np.ones((2, 2)))(np.ones((2, 1))), r"gave \(2, 2\) for points"),
        (lambda: gaussian([0, 0], [[1, 2], [2, 1]]), "not positive definite"),
        (lambda: gaussian([0, 0], [[1, 0.9], [0, 1]]), "not positive definite; .* symmetric"),
        (lambda: gaussian(0, np.nan), "not positive definite; expected finite"),
        (lambda: gaussian([0, 0], np.diag([1, np.inf])), "not positive definite; expected finite"),
        (lambda: gaussian(np.nan, 1), "the mean is .nan.; expected finite"),
        (
            lambda: P(np.array([[0], [1]])),
            "gaussian: points are int64; expected an array of floats",
        ),
        (lambda: P([[0.0]]), "gaussian: points are list; expected an array of floats"),
        (
            lambda: optimal.optimal_wasserstein(P, Q, EDGES)(np.array([[0], [1]])),
            "optimal_wasserstein: points are int64",
        ),
        (lambda: gaussian(0, np.eye(2)), r"expected \(d,\) and \(d, d\)"),
        (lambda: P(np.ones((3, 2))), r"expected \(N, 1\)"),
        (
            lambda: optimal.jensen_shannon(P, Q, trapezoid((-1, 1), 99)),
            "first density has the mass",
        ),
        (lambda: optimal.kullback_leibler(P, flat, LINE), "second density has the mass 25"),
        (lambda: optimal.wasserstein1(P, Q, np.linspace(-9, 3, 99)), "second density has the mass"),
        (lambda: optimal.wasserstein1(P, Q, [3, 2, 1]), "rising numbers"),
        (lambda: optimal.optimal_wasserstein(P, Q, EDGES)(np.ones(3)), r"expected \(N, 1\)"),
        (
            lambda: optimal.location_gradient(
                losses.minimax_generator, optimal.optimal_gan(P, Q), Q, trapezoid((5, 6), 9)
            ),
            "generator's density has the mass",
        ),
        (lambda: trapezoid((1, 1)), "low < high"),
        (lambda: trapezoid((0, math.inf)), "finite"),
        (lambda: trapezoid((0, 1), 1), "at least 2"),
        (lambda: optimal.gauss_legendre((0, 1), 0), "at least 1"),
        (lambda: optimal.distance([1, 2], [1]), "one shape"),
        (lambda: optimal.distance([1, np.inf], [1, np.inf]), "sigmoid"),
        (lambda: optimal.distance([1], [1], [0]), "0 everywhere"),
        (lambda: optimal.distance([1, 1], [1, 1], [-1, 3]), "negative"),
    ],
)
def test_bad_input_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_distance_is_weighted():
    d, best = np.array([[0.1, 0.5], [0.9, 0.0]]), np.array([[0.2, 0.5], [0.5, 1.0]])
    assert optimal.distance(d, best) == (pytest.approx(0.375), 1.0)
    found = optimal.distance(d, best, np.array([[1, 1], [2, 0]]))
    assert found == (pytest.approx((0.1 + 0.8) / 4), pytest.approx(0.4))


def test_critics_work_where_the_points_live(stand_in):
    points = np.array([[0.5], [2.0]])
    critics = [
        optimal.optimal_gan(P, Q),
        optimal.optimal_hinge(P, Q),
        optimal.optimal_wasserstein(P, Q, EDGES),
    ]
    for critic in critics:
        there = track(stand_in.asarray(points))
        y = critic(there)
        y = y.data if type(y) is Tensor else y  # the hinge's is flat
        assert type(y) is stand_in.ndarray
        np.testing.assert_allclose(y.get(), critic(points))
