"""Losses: values by hand, exact tails, gradients to order 3, identities, published mistakes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from scipy.integrate import quad

from tinygan import losses, ops
from tinygan.check import check_gradients
from tinygan.engine import Tensor, grad, grad_values, track

GAMES = {
    "smoothed": losses.label_smoothed(0.9, 0.1),
    "minimax": losses.MINIMAX,
    "non-saturating": losses.NON_SATURATING,
    "wasserstein": losses.WASSERSTEIN,
    "least squares": losses.LEAST_SQUARES,
    "hinge": losses.HINGE,
}
LOGISTIC = ("minimax", "non-saturating")


def cross_entropy(logits, label):
    """−a·ln σ − (1 − a)·ln(1 − σ), averaged."""
    terms = label * np.logaddexp(0, -logits) + (1 - label) * np.logaddexp(0, logits)
    return terms.mean()


# Independent formulas: NumPy in float64, with logaddexp(0, t) for ln(1 + eᵗ).
CRITICS = {
    "smoothed": lambda r, f: cross_entropy(r, 0.9) + cross_entropy(f, 0.1),
    "minimax": lambda r, f: np.logaddexp(0, -r).mean() + np.logaddexp(0, f).mean(),
    "non-saturating": lambda r, f: np.logaddexp(0, -r).mean() + np.logaddexp(0, f).mean(),
    "wasserstein": lambda r, f: f.mean() - r.mean(),
    "least squares": lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2,
    "hinge": lambda r, f: np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean(),
}
GENERATORS = {
    "smoothed": lambda f: np.logaddexp(0, -f).mean(),
    "minimax": lambda f: -np.logaddexp(0, f).mean(),
    "non-saturating": lambda f: np.logaddexp(0, -f).mean(),
    "wasserstein": lambda f: -f.mean(),
    "least squares": lambda f: ((f - 1) ** 2).mean() / 2,
    "hinge": lambda f: -f.mean(),
}
each = pytest.mark.parametrize("name", GAMES)

REAL = np.array([2.0, -1.0, 0.25])
FAKE = np.array([-3.0, 0.5])


def critic_slopes(game, real, fake, average=False):
    """∂/∂real and ∂/∂fake of the critic's loss."""
    real, fake = track([np.asarray(real), np.asarray(fake)])
    return grad_values(game.critic(real, fake, average), [real, fake])


def generator_slope(game, fake):
    fake = track(np.asarray(fake))
    return grad_values(game.generator(fake), fake)


# Values


@pytest.mark.parametrize(
    "name, critic, generator",
    [
        # ln(1 + e⁻²), ln(1 + e), ln(1 + e⁻·²⁵) and ln(1 + e⁻³), ln(1 + e·⁵) to ten digits
        (
            "minimax",
            (0.1269280110 + 1.3132616875 + 0.5759394198) / 3 + (0.0485873516 + 0.9740769842) / 2,
            -(0.0485873516 + 0.9740769842) / 2,
        ),
        (
            "non-saturating",
            (0.1269280110 + 1.3132616875 + 0.5759394198) / 3 + (0.0485873516 + 0.9740769842) / 2,
            (3.0485873516 + 0.4740769842) / 2,
        ),
        ("wasserstein", -1.25 - 1.25 / 3, 1.25),
        ("least squares", (1 + 4 + 0.5625) / 6 + (9 + 0.25) / 4, (16 + 0.25) / 4),
        ("hinge", (0 + 2 + 0.75) / 3 + (0 + 1.5) / 2, 1.25),
    ],
)
def test_values_by_hand(name, critic, generator):
    game = GAMES[name]
    assert game.critic(REAL, FAKE) == pytest.approx(critic, rel=1e-9)
    assert game.generator(FAKE) == pytest.approx(generator, rel=1e-9)


@each
@given(
    shape=array_shapes(min_dims=1, max_dims=3, max_side=5),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.1, 1.0, 30.0, 1e4]),
)
def test_values_are_the_formulas_for_logits_of_any_shape(name, shape, seed, scale):
    rng = np.random.default_rng(seed)
    real, fake = scale * rng.standard_normal((2, *shape))
    size = abs(real).mean() + abs(fake).mean() + 1  # the terms of a sum may cancel
    if name == "least squares":
        size **= 2
    critic, generator = CRITICS[name](real, fake), GENERATORS[name](fake)
    assert GAMES[name].critic(real, fake) == pytest.approx(critic, rel=1e-13, abs=1e-14 * size)
    assert GAMES[name].generator(fake) == pytest.approx(generator, rel=1e-13, abs=1e-14 * size)


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_are_scalars_of_their_logits_dtype(name, dtype):
    real, fake = REAL.astype(dtype), FAKE.astype(dtype)
    for loss in (
        GAMES[name].critic(real, fake),
        GAMES[name].critic(real, fake, average=True),
        GAMES[name].generator(fake),
    ):
        assert type(loss) is np.ndarray and loss.shape == () and loss.dtype == dtype
    assert type(GAMES[name].generator(track(fake))) is Tensor


@each
def test_real_and_fake_batches_may_differ_in_size(name):
    more = np.concatenate([FAKE, FAKE, FAKE])
    assert GAMES[name].critic(REAL, more) == pytest.approx(GAMES[name].critic(REAL, FAKE))


@each
def test_real_comes_first_and_the_order_matters(name):
    """Swapped, the critic learns to call fakes real: the loss and both gradients differ."""
    game = GAMES[name]
    right, swapped = game.critic(REAL[:2], FAKE), game.critic(FAKE, REAL[:2])
    assert right != pytest.approx(swapped, rel=0.1)
    to_real, to_fake = critic_slopes(game, [0.5], [0.5])
    assert to_real < 0 < to_fake  # a step down raises D on real and lowers it on fake


def test_a_sure_critic_is_worth_nothing_and_swapped_very_much():
    assert losses.logistic_critic(np.array([50.0]), np.array([-50.0])) < 1e-20
    assert losses.logistic_critic(np.array([-50.0]), np.array([50.0])) == 100.0


@each
def test_average_halves_the_loss_and_every_gradient_exactly(name):
    game = GAMES[name]
    assert game.critic(REAL, FAKE) == 2 * game.critic(REAL, FAKE, average=True)
    whole, half = critic_slopes(game, REAL, FAKE), critic_slopes(game, REAL, FAKE, average=True)
    for a, b in zip(whole, half, strict=True):
        assert abs(b).max() > 0 and np.array_equal(a, 2 * b)


@each
def test_other_devices_give_the_same_numbers(name, xp):
    real, fake = (track(xp.asarray(a)) for a in (REAL, FAKE))
    loss = GAMES[name].critic(real, fake)
    assert xp.get(loss.data) == pytest.approx(CRITICS[name](REAL, FAKE), rel=1e-12)
    there = [xp.get(g) for g in grad_values(loss, [real, fake])]
    for a, b in zip(there, critic_slopes(GAMES[name], REAL, FAKE), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


# Tails

TAILS = [1e4, 1e3, 300.0, 104.0, 89.0, 88.0, 60.0, 40.0, 30.0, 17.0, 16.0, 5.0, 1.0, 1e-3, 0.0]
TAILS += [-t for t in TAILS]


def softplus_exactly(t):
    return max(t, 0.0) + math.log1p(math.exp(-abs(t)))


def sigmoid_exactly(t):
    small = math.exp(-abs(t))
    return (1.0 if t >= 0 else small) / (1.0 + small)


def close(got, expected, dtype, ulps=4):
    """Equal to a few units in the last place, and below float's range to its smallest number."""
    spacing = np.spacing(dtype(abs(expected)))
    return got.dtype == dtype and abs(float(got) - expected) <= ulps * float(spacing)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("logit", TAILS)
def test_logistic_losses_are_exact_in_the_tails(logit, dtype):
    """ln σ and ln(1 − σ) to 4 ulp for every |logit| up to 10⁴, in value and gradient."""
    logit = float(dtype(logit))
    d = np.array([logit], dtype)
    nothing = np.array([np.inf], dtype)  # softplus(−∞) = 0: leaves one half
    assert close(losses.logistic_critic(d, -nothing), softplus_exactly(-logit), dtype)
    assert close(losses.logistic_critic(nothing, d), softplus_exactly(logit), dtype)
    assert close(losses.minimax_generator(d), -softplus_exactly(logit), dtype)
    assert close(losses.non_saturating_generator(d), softplus_exactly(-logit), dtype)

    on_real, on_fake = critic_slopes(losses.MINIMAX, d, d)
    assert close(on_real[0], -sigmoid_exactly(-logit), dtype)
    assert close(on_fake[0], sigmoid_exactly(logit), dtype)
    assert close(generator_slope(losses.MINIMAX, d)[0], -sigmoid_exactly(logit), dtype)
    assert close(generator_slope(losses.NON_SATURATING, d)[0], -sigmoid_exactly(-logit), dtype)


@pytest.mark.parametrize("name", LOGISTIC)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_limits(name, dtype):
    game, far = GAMES[name], np.array([1e4], dtype)
    assert game.critic(far, -far) == 0
    assert game.critic(-far, far) == 2e4
    assert critic_slopes(game, -far, far) == [-1, 1]
    assert critic_slopes(game, far, -far) == [0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_saturating_generator_gets_nothing_from_a_sure_critic_and_the_other_all(dtype):
    sure = np.array([-1e4], dtype)
    assert losses.minimax_generator(sure) == 0 and generator_slope(losses.MINIMAX, sure) == 0
    assert losses.non_saturating_generator(sure) == 1e4
    assert generator_slope(losses.NON_SATURATING, sure) == -1


@each
def test_derivatives_stay_finite_to_order_three_in_the_tails(name):
    for logit in (-1e4, -90.0, 90.0, 1e4):
        x = track(np.array([logit], np.float32))
        y = GAMES[name].critic(x, x)
        for _ in range(3):
            y = grad(y, x, None if y.size == 1 else np.ones_like(y.data))
            assert np.isfinite(y.data).all() and y.dtype == np.float32


# Gradients


def smooth_logits(shape, seed):
    """Logits at least 0.05 away from the hinges at ±1."""
    x = np.random.default_rng(seed).normal(0, 2, shape)
    return x + 0.1 * np.where(abs(abs(x) - 1) < 0.05, np.sign(x) * np.sign(abs(x) - 1), 0)


@each
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("shape", [(4,), (3, 1), (2, 2, 2)])
def test_critic_gradients_to_order_three(name, average, shape):
    x = {"real": smooth_logits(shape, 1), "fake": smooth_logits(shape, 2)}

    def f(x):
        return GAMES[name].critic(x["real"], x["fake"], average)

    report = check_gradients(f, x, order=3, complex_step=name != "hinge")
    assert report.worst[1] < 1e-9


@each
@pytest.mark.parametrize("shape", [(4,), (3, 1)])
def test_generator_gradients_to_order_three(name, shape):
    check_gradients(GAMES[name].generator, smooth_logits(shape, 3), order=3, complex_step=True)


@each
def test_gradients_are_the_formulas(name):
    sigmoid = np.vectorize(sigmoid_exactly)
    real, fake = critic_slopes(GAMES[name], REAL, FAKE)
    on_real, on_fake = {
        "smoothed": (sigmoid(REAL) - 0.9, sigmoid(FAKE) - 0.1),
        "minimax": (-sigmoid(-REAL), sigmoid(FAKE)),
        "non-saturating": (-sigmoid(-REAL), sigmoid(FAKE)),
        "wasserstein": (-np.ones(3), np.ones(2)),
        "least squares": (REAL - 1, FAKE),
        "hinge": (-1.0 * (REAL < 1), 1.0 * (FAKE > -1)),
    }[name]
    np.testing.assert_allclose(real, on_real / 3, rtol=1e-14)
    np.testing.assert_allclose(fake, on_fake / 2, rtol=1e-14)
    np.testing.assert_allclose(
        generator_slope(GAMES[name], FAKE),
        {
            "smoothed": -sigmoid(-FAKE),
            "minimax": -sigmoid(FAKE),
            "non-saturating": -sigmoid(-FAKE),
            "least squares": FAKE - 1,
        }.get(name, -np.ones(2))
        / 2,
        rtol=1e-14,
    )


# Identities at the optimal discriminator D* = ln p_r − ln p_g: N(0, 1) against N(1.3, 1)

SHIFT = 1.3
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def best_logit(x):
    """((x − 1.3)² − x²)/2"""
    return SHIFT**2 / 2 - SHIFT * x


def density(x, mean):
    return math.exp(-0.5 * (x - mean) ** 2) / math.sqrt(2 * math.pi)


def jensen_shannon(shift):
    def side(x, p, q):
        return 0.5 * p * math.log(2 * p / (p + q))

    def integrand(x):
        p, q = density(x, 0), density(x, shift)
        return side(x, p, q) + side(x, q, p)

    return quad(integrand, -9, 9 + shift, epsabs=1e-13, epsrel=1e-12, limit=200)[0]


def expectation(f):
    """E f(n), n ~ N(0, 1), by 60 Gauss-Hermite nodes; f takes one point."""
    return sum(w * f(np.array([n])).item() for w, n in zip(WEIGHTS, NODES, strict=True))


def test_equal_distributions_give_minus_log_four():
    undecided = np.zeros(8)
    assert -losses.logistic_critic(undecided, undecided) == pytest.approx(-math.log(4), rel=1e-15)


def test_the_value_at_the_optimum_is_twice_jensen_shannon_less_log_four():
    none = np.array([-np.inf])
    on_real = expectation(lambda n: losses.logistic_critic(best_logit(n), none))
    on_fake = expectation(lambda n: losses.logistic_critic(-none, best_logit(n + SHIFT)))
    expected = 2 * jensen_shannon(SHIFT) - math.log(4)
    assert -(on_real + on_fake) == pytest.approx(expected, abs=1e-9)


def test_disjoint_supports_give_twice_log_two_less_log_four():
    """JSD = ln 2, and D* is sure everywhere: V = 0."""
    sure = np.array([1e4])
    assert -losses.logistic_critic(sure, -sure) == pytest.approx(
        2 * math.log(2) - math.log(4), abs=1e-15
    )


def test_no_other_logit_beats_the_optimum():
    x = np.linspace(-2, 3, 11)
    p, q = (np.array([density(t, mean) for t in x]) for mean in (0, SHIFT))
    best = track(best_logit(x))
    value = ops.sum(
        ops.add(
            ops.multiply(ops.softplus(ops.negative(best)), p), ops.multiply(ops.softplus(best), q)
        )
    )
    assert abs(grad_values(value, best)).max() < 1e-15


def push(generator):
    """d/dθ of the generator's loss at θ = 1.3, with D* held fixed: fake points are n + θ."""

    def at(n):
        x = track(n + SHIFT)
        d = ops.subtract(SHIFT**2 / 2, ops.multiply(x, SHIFT))
        return grad_values(generator(d), x)

    return expectation(at)


def slope_of(divergence, h=1e-3):
    return (divergence(SHIFT + h) - divergence(SHIFT - h)) / (2 * h)


def test_the_saturating_gradient_is_that_of_twice_jensen_shannon():
    found = push(losses.minimax_generator)
    assert found == pytest.approx(0.449010, abs=5e-7)
    assert found == pytest.approx(slope_of(lambda t: 2 * jensen_shannon(t)), rel=2e-6)


def test_the_non_saturating_gradient_is_that_of_reverse_kl_less_twice_jensen_shannon():
    found = push(losses.non_saturating_generator)
    assert found == pytest.approx(0.850990, abs=5e-7)
    expected = slope_of(lambda t: t**2 / 2 - 2 * jensen_shannon(t))  # KL(p_g‖p_r) = θ²/2
    assert found == pytest.approx(expected, rel=2e-6)


# Mistakes that published code makes, each with what it costs


def test_mistake_sigmoid_twice():
    """The loss takes logits. Given σ(D), a sure and right D costs 1.006 and a wrong one learns
    nothing: its gradient is 2·10⁻¹⁸ where 1 is right."""
    right_and_sure = np.array([40.0])
    squashed = ops.sigmoid(right_and_sure), ops.sigmoid(-right_and_sure)
    assert losses.logistic_critic(right_and_sure, -right_and_sure) < 1e-17
    assert losses.logistic_critic(*squashed) == pytest.approx(1.006408868, rel=1e-9)

    wrong = track(np.array([-40.0]))
    twice = grad_values(losses.non_saturating_generator(ops.sigmoid(wrong)), wrong)
    once = grad_values(losses.non_saturating_generator(wrong), wrong)
    assert once == pytest.approx(-1, rel=1e-15)
    assert twice == pytest.approx(-0.5 * math.exp(-40), rel=1e-12)  # −2.1e-18


def test_mistake_log_of_sigma_plus_1e_8():
    """−ln(σ + 10⁻⁸) at a logit of −40 is 18.42 where 40 is right, its gradient −4·10⁻¹⁰ where −1
    is: the generator that needs help most gets none."""

    def patched(fake):
        return ops.negative(ops.mean(ops.log(ops.add(ops.sigmoid(fake), 1e-8))))

    x = track(np.array([-40.0]))
    assert losses.non_saturating_generator(x).data == pytest.approx(40, rel=1e-15)
    assert patched(x).data == pytest.approx(18.420680743, rel=1e-9)
    assert grad_values(losses.non_saturating_generator(x), x) == pytest.approx(-1, rel=1e-15)
    assert grad_values(patched(x), x) == pytest.approx(-4.248354e-10, rel=1e-6)

    # where the logit is large, 1e-8 makes a negative cross-entropy
    sure = np.array([40.0])
    assert patched(sure) == pytest.approx(-1e-8, rel=1e-6)
    assert 0 < losses.non_saturating_generator(sure) < 1e-17


def test_mistake_log_of_one_less_sigma_in_float32():
    """ln(1 − σ) is −∞ from a logit of 17 on, since σ is rounded to 1; the gradient is NaN."""
    x = track(np.array([18.0], np.float32))
    with np.errstate(all="ignore"):
        naive = ops.mean(ops.log(ops.subtract(1.0, ops.sigmoid(x))))
        assert naive.data == -np.inf
        slope = grad_values(naive, x)
        assert not np.isfinite(slope).all()
    assert losses.minimax_generator(x).data == pytest.approx(-18, rel=1e-6)
    assert generator_slope(losses.MINIMAX, x.data) == pytest.approx(-1, rel=1e-6)


def test_mistake_softmax_before_a_loss_that_applies_it():
    """With ten classes such a loss never falls below ln(1 + 9/e) = 1.461, where the right one is
    4·10⁻⁴, and after a wrong answer the true class gets a gradient of −5·10⁻⁵ where −1 is right."""

    def cross_entropy(logits):
        return ops.negative(ops.index(ops.log_softmax(logits), at=(0, 0)))

    sure = np.zeros((1, 10))
    sure[0, 0] = 10.0
    assert cross_entropy(sure) == pytest.approx(4.085159e-4, rel=1e-6)
    assert cross_entropy(ops.softmax(sure)) == pytest.approx(1.46149873, rel=1e-8)
    sure[0, 0] = 1e4
    assert cross_entropy(ops.softmax(sure)) == pytest.approx(math.log(1 + 9 / math.e), rel=1e-14)

    wrong = np.zeros((1, 10))
    wrong[0, 1] = 10.0
    wrong = track(wrong)
    once = grad_values(cross_entropy(wrong), wrong)
    twice = grad_values(cross_entropy(ops.softmax(wrong)), wrong)
    assert once[0, 0] == pytest.approx(-0.999954619, rel=1e-9)
    assert twice[0, 0] == pytest.approx(-5.20269245e-5, rel=1e-8)


# Bad input


@each
def test_empty_batches_are_an_error(name):
    with pytest.raises(ValueError, match="no elements"):
        GAMES[name].critic(np.zeros(0), FAKE)
    with pytest.raises(ValueError, match="no elements"):
        GAMES[name].generator(np.zeros((0, 1)))


@each
def test_mixed_dtypes_are_an_error(name):
    with pytest.raises(TypeError, match="mixed dtypes"):
        GAMES[name].critic(REAL.astype(np.float32), FAKE)


# Label smoothing


def test_smoothed_labels_ask_for_their_own_probability():
    """One-sided: D is least punished where σ(D(x)) = a, and a sure D is pushed back."""
    game = losses.label_smoothed(0.9)
    logit = math.log(0.9 / 0.1)
    fake = np.array([-40.0])
    for real, sign in ((logit, 0), (logit + 1, 1), (logit - 1, -1)):
        slope, _ = critic_slopes(game, np.array([real]), fake)
        assert np.sign(np.round(slope[0], 12)) == sign
    plain, _ = critic_slopes(losses.NON_SATURATING, np.array([logit + 1]), fake)
    assert plain[0] < 0


def test_labels_of_one_and_zero_are_the_standard_game():
    given = REAL, FAKE
    one, other = losses.label_smoothed(1.0, 0.0), losses.NON_SATURATING
    assert float(one.critic(*given)) == pytest.approx(float(other.critic(*given)), abs=1e-15)


@pytest.mark.parametrize("labels", [(0.1, 0.9), (1.1, 0.0), (0.9, -0.1), (0.5, 0.5)])
def test_labels_in_the_wrong_order_or_range_are_an_error(labels):
    with pytest.raises(ValueError, match="label_smoothed: labels.*expected 0 <= fake < real <= 1"):
        losses.label_smoothed(*labels)
