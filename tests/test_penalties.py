"""Penalties: against per-sample loops, finite differences and closed forms; published mistakes.

    python tests/test_penalties.py

prints how far float32 is from float64, as a Markdown table.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygan import loop, losses, models, nn, ops, optim, penalties, tree
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import Tensor, grad, grad_values, track, values
from tinygan.penalties import TwoTermPenalty, gradient_penalty, two_term_penalty
from tinygan.train import GAN, Alternating, critic_gradients, critic_loss

PRESETS = {
    "0-gp": penalties.zero_gp,
    "1-gp": penalties.one_gp,
    "lp": penalties.lp,
    "r1": penalties.r1,
    "r2": penalties.r2,
    "0-gp-sample": penalties.zero_gp_sample,
    "dragan": penalties.dragan,
}
CHOICES = {  # where (a function of real, fake and noise), centre, one-sided
    "0-gp": ("interpolates", 0.0, False),
    "1-gp": ("interpolates", 1.0, False),
    "lp": ("interpolates", 1.0, True),
    "r1": ("real", 0.0, False),
    "r2": ("fake", 0.0, False),
    "0-gp-sample": ("both", 0.0, False),
    "dragan": ("dragan", 1.0, False),
}
SHAPES = {"points": (4, 2), "sequences": (3, 2, 3), "images": (3, 2, 2, 2)}

each_preset = pytest.mark.parametrize("name", PRESETS)
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
each_of = pytest.mark.parametrize("of", [None, ops.sigmoid], ids=["logit", "probability"])


def critic(params, x):
    """A tanh MLP of points, sequences or images; params is a list of {"weight", "bias"}."""
    x = ops.reshape(x, shape=(x.shape[0], -1))
    for i, layer in enumerate(params):
        x = ops.affine(ops.tanh(x) if i else x, layer["weight"], layer["bias"])
    return x


def critic_params(inputs, seed=0, widths=(4, 3), gain=1.5):
    rng = np.random.default_rng(seed)
    sizes = (inputs, *widths, 1)
    return [
        {
            "weight": gain * rng.standard_normal((m, n)) / math.sqrt(m),
            "bias": 0.3 * rng.standard_normal(n),
        }
        for m, n in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def batches(shape, seed=0):
    """Real and fake, unlike in mean and spread."""
    rng = np.random.default_rng(seed + 100)
    return rng.standard_normal(shape), 0.5 + 0.7 * rng.standard_normal(shape)


def setting(shape, seed=0, gain=1.5):
    """Critic parameters, real, fake, α and DRAGAN's u."""
    rng = np.random.default_rng(seed + 200)
    alpha = rng.uniform(size=(shape[0],) + (1,) * (len(shape) - 1))
    params = critic_params(math.prod(shape[1:]), seed, gain=gain)
    return params, *batches(shape, seed), alpha, rng.uniform(size=shape)


# Seeds and gains with slopes on both sides of 1, of the logit and of the probability.
STRADDLING = {
    2: {None: (2, 2.0), ops.sigmoid: (2, 4.0)},
    3: {None: (1, 2.0), ops.sigmoid: (3, 4.0)},
    4: {None: (2, 3.0), ops.sigmoid: (0, 3.0)},
}


def straddling(shape, of):
    params, real, fake, alpha, u = found = setting(shape, *STRADDLING[len(shape)][of])
    points = naive_points("interpolates", real, fake, alpha, u)
    norms = naive_norms(params, points, of is not None)
    assert norms.min() < 0.95 and norms.max() > 1.05 and abs(norms - 1).min() > 0.05
    return found


def noise_of(where, alpha, u):
    return {"interpolates": (alpha,), "dragan": (alpha, u)}.get(where, ())


# The naive penalty: one sample at a time, an explicit Jacobian, no tinygan.


def naive_slope(params, x):
    """D(x) and ∇D(x) of one sample, flat."""
    h, jacobian = x.reshape(-1), np.eye(x.size)
    for i, layer in enumerate(params):
        if i:
            h = np.tanh(h)
            jacobian = jacobian @ np.diag(1 - h**2)
        h = h @ layer["weight"] + layer["bias"]
        jacobian = jacobian @ layer["weight"]
    return h[0], jacobian[:, 0]


def naive_norms(params, points, probability):
    norms = []
    for x in points:
        d, slope = naive_slope(params, x)
        if probability:
            slope = slope * math.exp(-abs(d)) / (1 + math.exp(-abs(d))) ** 2
        norms.append(math.sqrt(math.fsum(s * s for s in slope)))
    return np.array(norms)


def naive_points(where, real, fake, alpha, u):
    if where == "interpolates":
        pairs = zip(alpha.reshape(-1), real, fake, strict=True)
        return np.array([a * x + (1 - a) * y for a, x, y in pairs])
    if where == "dragan":
        spread = math.sqrt(((real - real.mean()) ** 2).mean())
        triples = zip(alpha.reshape(-1), real, u, strict=True)
        return np.array([x + a * 0.5 * spread * v for a, x, v in triples])
    return {"real": real, "fake": fake, "both": np.array([*real, *fake])}[where]


def naive_penalty(params, points, centre, one_sided, probability):
    excess = naive_norms(params, points, probability) - centre
    if one_sided:
        excess = np.where(excess > 0, excess, 0)
    return float((excess**2).mean())


def relative(a, b):
    """‖a − b‖/‖b‖ over whole trees."""
    a, b = (np.concatenate([x.reshape(-1) for x in tree.leaves(t)]) for t in (a, b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# Against the naive loop


@each_of
@each_shape
@each_preset
def test_presets_are_the_naive_loop_times_their_weight(name, shape, of):
    params, real, fake, alpha, u = straddling(shape, of)
    where, centre, one_sided = CHOICES[name]
    penalty = PRESETS[name](3.0, of=of)
    got = penalty(lambda x: critic(params, x), real, fake, *noise_of(where, alpha, u))
    points = naive_points(where, real, fake, alpha, u)
    expected = 3.0 * naive_penalty(params, points, centre, one_sided, of is not None)
    assert expected > 1e-4
    assert got.data == pytest.approx(expected, rel=1e-12)


@given(
    shape=st.sampled_from([(1, 3), (5, 2), (2, 3, 2), (2, 2, 3, 2), (4, 1)]),
    centre=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    one_sided=st.booleans(),
    probability=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_all_choices_at_given_points_are_the_naive_loop(
    shape, centre, one_sided, probability, seed
):
    params, points, *_ = setting(shape, seed)
    got = gradient_penalty(
        lambda x: critic(params, x),
        points,
        centre=centre,
        one_sided=one_sided,
        of=ops.sigmoid if probability else None,
    )
    expected = naive_penalty(params, points, centre, one_sided, probability)
    assert got.data == pytest.approx(expected, rel=1e-11, abs=1e-15)


@each_of
@each_shape
@each_preset
def test_the_gradient_in_every_parameter_is_the_naive_loops_difference(name, shape, of):
    params, real, fake, alpha, u = straddling(shape, of)
    where, centre, one_sided = CHOICES[name]
    d = track(params)
    noise = noise_of(where, alpha, u)
    loss = PRESETS[name](2.0, of=of)(lambda x: critic(d, x), real, fake, *noise)
    got = grad_values(loss, d)

    points = naive_points(where, real, fake, alpha, u)
    moved = tree.tree_map(np.copy, params)
    expected = tree.tree_map(np.zeros_like, params)
    for p, e in zip(tree.leaves(moved), tree.leaves(expected), strict=True):
        for at in np.ndindex(p.shape):
            middle, h, sides = p[at], 2e-4, []
            for step in (h, -h, 2 * h, -2 * h):
                p[at] = middle + step
                sides.append(2 * naive_penalty(moved, points, centre, one_sided, of is not None))
            p[at] = middle
            e[at] = (8 * (sides[0] - sides[1]) - (sides[2] - sides[3])) / (12 * h)
    assert relative(got, expected) < 1e-8
    scale = max(abs(e).max() for e in tree.leaves(expected))
    assert scale > 1e-4
    for path, g in tree.paths(got):
        e = dict(tree.paths(expected))[path]
        assert (abs(g - e) <= 1e-6 * abs(e) + 1e-9 * scale).all(), path
    assert not got[-1]["bias"].any() or of  # a shift of the logit changes no slope


def check(f, x):
    """To order 3 by differences to 1e-6, and by complex steps to 1e-8."""
    report = check_gradients(f, x, order=3, directions=1, complex_step=True)
    assert len(report.rows) == 6


def six_sigma(d):
    return ops.multiply(ops.sigmoid(d), 6.0)


@pytest.mark.parametrize("of", [None, six_sigma], ids=["logit", "probability"])
@each_preset
def test_order_three_in_parameters_real_and_fake(name, of):
    params, real, fake, alpha, u = setting((4, 2), seed=8, gain=1.2)
    noise = noise_of(CHOICES[name][0], alpha, u)
    if name == "lp":
        points = naive_points("interpolates", real, fake, alpha, u)
        norms = naive_norms(params, points, of is not None) * (6 if of else 1)
        assert norms.min() < 0.9 < 1.1 < norms.max() and abs(norms - 1).min() > 0.05

    def f(x):
        return PRESETS[name](2.0, of=of)(
            lambda points: critic(x["d"], points), x["real"], x["fake"], *noise
        )

    check(f, {"d": params, "real": real, "fake": fake})


@pytest.mark.parametrize("name", ["sequences", "images"])
@pytest.mark.parametrize("preset", ["0-gp", "1-gp", "dragan"])
def test_order_three_for_inputs_of_rank_three_and_four(name, preset):
    params, real, fake, alpha, u = setting(SHAPES[name], seed=4)
    noise = noise_of(CHOICES[preset][0], alpha, u)

    def f(x):
        return PRESETS[preset](1.0)(
            lambda points: critic(x["d"], points), x["real"], x["fake"], *noise
        )

    check(f, {"d": params, "real": real, "fake": fake})


def test_order_three_of_the_two_term_form():
    params, real, fake, *_ = setting((3, 2), seed=5)

    def f(x):
        return two_term_penalty(lambda p: critic(x["d"], p), x["real"], x["fake"], 0.7, 1.3)

    check(f, {"d": params, "real": real, "fake": fake})


@each_preset
def test_other_devices_give_the_same_numbers(name, xp):
    params, real, fake, alpha, u = straddling((3, 2, 2, 2), ops.sigmoid)
    noise = noise_of(CHOICES[name][0], alpha, u)

    def both(move):
        d = track(tree.tree_map(move, params))
        loss = PRESETS[name](2.0, of=ops.sigmoid)(
            lambda x: critic(d, x), move(real), move(fake), *map(move, noise)
        )
        return loss.data, grad_values(loss, d)

    here, there = both(np.asarray), both(xp.asarray)
    assert xp.get(there[0]) == pytest.approx(here[0], rel=1e-12)
    assert relative(tree.tree_map(xp.get, there[1]), here[1]) < 1e-12


# Where


def test_alpha_one_gives_exactly_the_real_points_and_zero_the_fake():
    _, real, fake, *_ = setting((3, 2, 2, 2))
    assert np.array_equal(penalties.interpolates(real, fake, np.ones((3, 1, 1, 1))), real)
    assert np.array_equal(penalties.interpolates(real, fake, np.zeros((3, 1, 1, 1))), fake)


def test_at_alpha_one_and_zero_0_gp_is_exactly_r1_and_r2():
    params, real, fake, *_ = setting((4, 2))
    d = track(params)

    def slope(penalty, *noise):
        return grad_values(penalty(lambda x: critic(d, x), real, fake, *noise), d)

    one, zero = np.ones((4, 1)), np.zeros((4, 1))
    for mixed, plain in [
        (slope(penalties.zero_gp(2.0), one), slope(penalties.r1(2.0))),
        (slope(penalties.zero_gp(2.0), zero), slope(penalties.r2(2.0))),
    ]:
        for a, b in zip(tree.leaves(mixed), tree.leaves(plain), strict=True):
            assert np.array_equal(a, b)
    assert relative(slope(penalties.r1(2.0)), slope(penalties.r2(2.0))) > 0.1


def test_0_gp_sample_is_the_mean_of_r1_and_r2():
    params, real, fake, *_ = setting((4, 2))

    def value(penalty):
        return penalty(lambda x: critic(params, x), real, fake).data

    mean = (value(penalties.r1(2.0)) + value(penalties.r2(2.0))) / 2
    assert value(penalties.zero_gp_sample(2.0)) == pytest.approx(mean, rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_noise_is_one_alpha_per_sample_and_one_u_per_component(shape, dtype):
    real = np.zeros(shape, dtype)
    (alpha,) = penalties.one_gp().draw(Stream(1), real)
    assert alpha.shape == shape[:1] + (1,) * (len(shape) - 1) and alpha.dtype == dtype
    assert len(np.unique(alpha)) == shape[0]
    alpha, u = penalties.dragan().draw(Stream(1), real)
    assert alpha.shape == shape[:1] + (1,) * (len(shape) - 1)
    assert u.shape == shape and len(np.unique(u)) == u.size and u.dtype == dtype
    for preset in (penalties.r1, penalties.r2, penalties.zero_gp_sample):
        assert preset().draw(Stream(1), real) == ()


def test_alpha_and_u_are_uniform_on_zero_to_one():
    for noise in penalties.dragan().draw(Stream(7), np.zeros((20000, 1))):
        counts = np.histogram(noise, 10, (0, 1))[0]
        assert counts.sum() == 20000 and abs(counts / 2000 - 1).max() < 0.1


def test_dragans_points_by_formula():
    """x + α·½·std(X)·u: std over every component of the batch, not per feature."""
    real = np.array([[0.0, 10.0], [0.0, 30.0]])  # mean 10, deviations −10, 0, −10, 20
    alpha, u = np.array([[0.5], [1.0]]), np.array([[0.2, 0.4], [0.6, 0.8]])
    got = penalties.dragan_points(real, None, alpha, u)
    std = math.sqrt((100 + 0 + 100 + 400) / 4)
    expected = [[0.05 * std, 10 + 0.1 * std], [0.3 * std, 30 + 0.4 * std]]
    np.testing.assert_allclose(got, expected, rtol=1e-15)


# Weight: Mescheder's γ/2 is our λ


def test_the_weight_of_r1_is_half_of_mescheders_gamma():
    gamma = 10.0
    params, real, fake, *_ = setting((4, 2))
    squares = naive_norms(params, real, False) ** 2
    theirs = gamma / 2 * squares.mean()
    ours = penalties.r1(gamma / 2)(lambda x: critic(params, x), real, fake).data
    assert ours == pytest.approx(theirs, rel=1e-13)
    default = penalties.r1()(lambda x: critic(params, x), real, fake).data
    assert default == ours  # γ = 10 is Mescheder's choice
    assert penalties.r2().weight == 5.0


@each_preset
def test_the_weight_multiplies_value_and_gradient(name):
    params, real, fake, alpha, u = setting((4, 2))
    noise = noise_of(CHOICES[name][0], alpha, u)
    d = track(params)
    one, four = (
        PRESETS[name](weight)(lambda x: critic(d, x), real, fake, *noise) for weight in (1.0, 4.0)
    )
    assert four.data == 4 * one.data
    for a, b in zip(
        tree.leaves(grad_values(one, d)), tree.leaves(grad_values(four, d)), strict=True
    ):
        assert np.array_equal(4 * a, b)


# Closed forms


def linear(w):
    return lambda x: ops.affine(ops.reshape(x, shape=(x.shape[0], -1)), w, np.array([0.5], w.dtype))


def norm_of(centre, one_sided=False):
    def penalty(w, points):
        return gradient_penalty(linear(w), points, centre=centre, one_sided=one_sided)

    return penalty


def test_a_linear_critic_exactly():
    """‖w‖ = 5: 1-GP 16, 0-GP 25, LP 16; its gradient 2(‖w‖ − 1)w/‖w‖ or 2w."""
    points = np.random.default_rng(0).standard_normal((6, 2))
    w = track(np.array([[3.0], [4.0]]))
    for centre, one_sided, value, slope in [
        (1.0, False, 16.0, [4.8, 6.4]),
        (1.0, True, 16.0, [4.8, 6.4]),
        (0.0, False, 25.0, [6.0, 8.0]),
        (5.0, False, 0.0, [0.0, 0.0]),
        (2.0, False, 9.0, [3.6, 4.8]),
    ]:
        loss = norm_of(centre, one_sided)(w, points)
        assert loss.data == value
        np.testing.assert_allclose(grad_values(loss, w)[:, 0], slope, rtol=1e-15)


def test_lp_is_exactly_zero_below_slope_one():
    w = track(np.array([[0.3], [0.4]]))
    loss = norm_of(1.0, one_sided=True)(w, np.ones((6, 2)))
    assert loss.data == 0 and not grad_values(loss, w).any()
    assert norm_of(1.0)(w, np.ones((6, 2))).data == pytest.approx(0.25, rel=1e-15)


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=8).filter(lambda w: math.hypot(*w) > 1e-3),
    st.floats(0, 3),
)
def test_a_linear_critics_penalty_is_the_square_of_its_norms_excess(w, centre):
    norm, points = math.hypot(*w), np.ones((3, len(w)))
    w = np.array(w)[:, None]
    expected = (norm - centre) ** 2
    close = dict(rel=1e-13, abs=1e-13)
    assert norm_of(centre)(w, points).data == pytest.approx(expected, **close)
    one_sided = expected if norm > centre else 0.0
    assert norm_of(centre, True)(w, points).data == pytest.approx(one_sided, **close)


def quadratic(matrix):
    """½ xᵀAx"""
    return lambda x: ops.multiply(ops.sum(ops.multiply(ops.matmul(x, matrix), x), axis=1), 0.5)


def test_a_quadratic_critic_in_closed_form():
    """∇D = Sx, S = ½(A + Aᵀ); every penalty and its gradient in A follow."""
    rng = np.random.default_rng(1)
    a, x = rng.standard_normal((3, 3)), rng.standard_normal((5, 3))
    slopes = x @ ((a + a.T) / 2)
    norms = np.sqrt((slopes**2).sum(1))
    tracked = track(a)

    def by_formula(centre):
        pull = 2 * (norms - centre) / norms  # ∂(‖s‖ − c)²/∂s = pull·s
        outer = np.einsum("n,ni,nj->ij", pull, slopes, x) / len(x)
        return ((norms - centre) ** 2).mean(), (outer + outer.T) / 2

    for centre in (0.0, 1.0):
        loss = gradient_penalty(quadratic(tracked), x, centre=centre)
        value, slope = by_formula(centre)
        assert loss.data == pytest.approx(value, rel=1e-13)
        np.testing.assert_allclose(grad_values(loss, tracked), slope, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("centre", [0.0, 1.0])
def test_the_penalty_of_a_probability_is_that_of_sigma_prime_times_slope(centre):
    params, points, *_ = setting((6, 2), seed=2)
    logits, slopes = zip(*[naive_slope(params, x) for x in points], strict=True)
    sigma = 1 / (1 + np.exp(-np.array(logits)))
    norms = sigma * (1 - sigma) * np.sqrt((np.array(slopes) ** 2).sum(1))
    got = gradient_penalty(lambda x: critic(params, x), points, centre=centre, of=ops.sigmoid)
    assert got.data == pytest.approx(((norms - centre) ** 2).mean(), rel=1e-12)


def test_any_function_of_the_logit_can_be_penalised():
    w = np.array([[3.0], [4.0]])
    got = gradient_penalty(linear(w), np.ones((2, 2)), of=lambda d: ops.multiply(d, 3.0))
    assert got.data == pytest.approx(225, rel=1e-14)


def test_the_two_term_form_by_hand():
    """w = (3, 4), pairs 1 and 2 apart along w: λ₁·25 + λ₂·(5² + 10²)/2."""
    w = track(np.array([[3.0], [4.0]]))
    real = np.array([[0.6, 0.8], [1.2, 1.6]])
    loss = two_term_penalty(linear(w), real, np.zeros((2, 2)), 2.0, 3.0)
    assert loss.data == pytest.approx(2 * 25 + 3 * 62.5, rel=1e-14)
    # the gradient: 2λ₁w + 2λ₂·mean((w·δ)δ)
    mean = (5 * real[0] + 10 * real[1]) / 2
    np.testing.assert_allclose(
        grad_values(loss, w)[:, 0], 4 * np.array([3.0, 4.0]) + 6 * mean, rtol=1e-14
    )


@each_of
def test_the_two_term_form_is_the_naive_loop(of):
    params, real, fake, *_ = setting((4, 2, 2))
    got = two_term_penalty(lambda x: critic(params, x), real, fake, 0.7, 1.3, of=of)
    d = [np.array([naive_slope(params, x)[0] for x in batch]) for batch in (real, fake)]
    if of:
        d = [1 / (1 + np.exp(-v)) for v in d]
    norms = naive_norms(params, np.array([*real, *fake]), of is not None)
    expected = 0.7 * (norms**2).mean() + 1.3 * ((d[0] - d[1]) ** 2).mean()
    assert got.data == pytest.approx(expected, rel=1e-12)


# A zero gradient

ROOTED = ["1-gp", "lp", "dragan"]


def dead(kind):
    """Critics without a slope: zero weights, or ReLU units that are all shut."""
    if kind == "zero weights":
        return tree.tree_map(np.zeros_like, critic_params(2)), critic
    params = critic_params(2)
    for layer in params[:-1]:
        layer["bias"] = layer["bias"] - 50
    mlp = models.MLP((2, 4, 3, 1))
    return params, mlp


@each_of
@pytest.mark.parametrize("kind", ["zero weights", "shut units"])
@pytest.mark.parametrize("name", ROOTED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_zero_gradient_is_finite_to_order_two_and_pushes_nowhere(name, kind, of, dtype):
    params, model = dead(kind)
    params, *arrays = tree.tree_map(lambda a: a.astype(dtype), [params, *setting((4, 2))[1:]])
    real, fake, alpha, u = arrays
    d = track(params)
    noise = noise_of(CHOICES[name][0], alpha, u)
    loss = PRESETS[name](2.0, of=of)(lambda x: model(d, x), real, fake, *noise)
    assert loss.data == (0.0 if name == "lp" else 2.0)
    first = grad(loss, d)
    assert not any(a.any() for a in tree.leaves(values(first)))
    u = tree.tree_map(lambda a: np.ones_like(a.data), first)
    second = grad_values(first, d, u)
    assert all(np.isfinite(a).all() for a in tree.leaves(second))


def test_a_zero_slope_of_0_gp_is_a_minimum():
    params, model = dead("zero weights")
    d = track(params)
    loss = gradient_penalty(lambda x: model(d, x), setting((4, 2))[1])
    assert loss.data == 0 and not any(a.any() for a in tree.leaves(grad_values(loss, d)))


def test_one_dead_sample_leaves_the_others_their_push():
    """ReLU: a sample at −1 is dead, the slope at +1 is w."""
    w = track(np.array([[3.0]]))
    loss = gradient_penalty(
        lambda x: ops.multiply(ops.relu(x), w), np.array([[-1.0], [1.0]]), centre=1.0
    )
    assert loss.data == (1 + 4) / 2
    assert grad_values(loss, w) == (0 + 2 * 2) / 2


def test_a_critic_that_ignores_its_input_has_slope_zero():
    real, fake = batches((4, 2))
    constant = penalties.one_gp(3.0)(lambda x: np.zeros((4, 1)), real, fake, np.ones((4, 1)))
    assert constant.data == 3.0
    bias = track(np.ones((4, 1)))
    loss = penalties.r1(3.0)(lambda x: ops.multiply(bias, 2.0), real, fake)
    assert loss.data == 0 and not grad_values(loss, bias).any()


def test_subnormal_and_huge_slopes_keep_their_norm_in_float32():
    """Squares of 10⁻³⁰ and 10³⁰ leave float32; the norm is scaled, so 1-GP's is not lost."""
    points = np.ones((2, 2), np.float32)
    tiny = norm_of(1.0)(np.full((2, 1), 1e-30, np.float32), points)
    assert tiny.data == 1.0
    w = track(np.full((2, 1), 1e-30, np.float32))
    slope = grad_values(norm_of(1.0)(w, points), w)
    np.testing.assert_allclose(slope, -2 * math.sqrt(0.5), rtol=1e-6)


# Batch norm: an op that mixes samples


def normalised(x):
    return nn.batch_norm(x, np.ones(x.shape[-1]), np.zeros(x.shape[-1]))


def with_batch_norm(params, x):
    """The tanh MLP with a batch norm before its first activation."""
    first = ops.affine(x, params[0]["weight"], params[0]["bias"])
    return critic(params[1:], ops.tanh(normalised(first)))


@each_preset
def test_batch_norm_in_a_penalised_critic_is_an_error_that_says_why(name):
    params, real, fake, alpha, u = setting((4, 2))
    noise = noise_of(CHOICES[name][0], alpha, u)
    with pytest.raises(
        ValueError, match="standardise, which mixes the samples of a batch"
    ) as error:
        PRESETS[name]()(lambda x: with_batch_norm(params, x), real, fake, *noise)
    for word in ("batch norm", "layer norm", "insist=True"):
        assert word in str(error.value)
    with pytest.raises(ValueError, match="mixes the samples"):
        two_term_penalty(lambda x: with_batch_norm(params, x), real, fake, 1.0, 1.0)


def test_batch_norm_elsewhere_is_no_error():
    """Of other data, or in the generator that made the points."""
    params, real, *_ = setting((4, 2))
    z = track(real)
    points = normalised(z)
    got = gradient_penalty(
        lambda x: ops.multiply(critic(params, x), ops.sum(ops.square(normalised(z)))), points
    )
    assert np.isfinite(got.data)


def test_mistake_batch_norm_in_a_penalised_critic():
    """Of a linear critic behind batch norm the outputs sum to a constant: every sample's "slope"
    is 0, 0-GP is 0 and 1-GP is 1. Sample by sample the norms are 1.23 to 2.42, and 1-GP is 1.68."""
    rng = np.random.default_rng(3)
    points, w = rng.standard_normal((16, 3)), 2 * rng.standard_normal((3, 1))

    def mixing(x):
        return ops.matmul(normalised(x), w)

    wrong = gradient_penalty(mixing, points, centre=1.0, insist=True)
    assert wrong.data == pytest.approx(1, rel=1e-12)
    assert gradient_penalty(mixing, points, insist=True).data < 1e-25

    # the slope of each sample's own output: the diagonal of the Jacobian
    x = track(points)
    y = mixing(x)
    own = np.stack([grad_values(y, x, np.eye(16)[:, [i]])[i] for i in range(16)])
    norms = np.sqrt((own**2).sum(1))
    assert (norms.min(), norms.max()) == pytest.approx((1.23138254, 2.41765489), rel=1e-8)
    assert ((norms - 1) ** 2).mean() == pytest.approx(1.67793339, rel=1e-8)


def with_layer_norm(params, x):
    """The tanh MLP with a layer norm before its first activation."""
    h = ops.affine(x, params[0]["weight"], params[0]["bias"])
    h = nn.layer_norm(h, np.ones(h.shape[-1]), np.zeros(h.shape[-1]))
    return critic(params[1:], ops.tanh(h))


@each_preset
def test_layer_norm_in_a_penalised_critic_is_allowed_and_per_sample(name):
    params, real, fake, alpha, u = setting((4, 2))
    noise = noise_of(CHOICES[name][0], alpha, u)
    got = PRESETS[name]()(lambda x: with_layer_norm(params, x), real, fake, *noise)
    points = naive_points(CHOICES[name][0], real, fake, alpha, u)
    _, centre, one_sided = CHOICES[name]
    alone = [
        gradient_penalty(
            lambda x: with_layer_norm(params, x), point[None], centre=centre, one_sided=one_sided
        ).data
        for point in points
    ]
    assert got.data == pytest.approx(PRESETS[name]().weight * np.mean(alone), rel=1e-12)


def test_insisting_gives_the_mixed_penalty_and_its_true_gradient():
    """The number is not the papers', but its derivatives are right."""
    params, points, *_ = setting((4, 2), seed=8, gain=1.2)

    def f(d):
        return gradient_penalty(lambda x: with_batch_norm(d, x), points, centre=1.0, insist=True)

    check_gradients(f, params, order=2, directions=1)


# A convolutional critic

LEAKY = 0.2


def conv_critic(layer_norm):
    """8×8 images: two convolutions of stride 2 with biases and leaky ReLU, and a linear logit."""
    layers = {"conv0": nn.Conv(2, 3, 4, 2, 1), "leaky0": ops.leaky_relu}
    layers["conv1"] = nn.Conv(3, 2, 4, 2, 1)
    if layer_norm:
        layers["norm1"] = nn.LayerNorm(2, eps=0.1)
    layers |= {"leaky1": ops.leaky_relu, "row": nn.Flatten(), "logit": nn.Linear(8, 1)}
    return models.Net("critic", (8, 8, 2), layers)


def naive_conv_critic(params, x):
    """D(x) of one image, and everything that a leaky ReLU sees, by loops."""
    h, seen = x, []
    for i in range(2):
        w, b = params[f"conv{i}"]["weight"], params[f"conv{i}"]["bias"]
        padded = np.pad(h, ((1, 1), (1, 1), (0, 0)))
        size = h.shape[0] // 2
        h = np.zeros((size, size, len(b)))
        for p, q, o in np.ndindex(*h.shape):
            part = padded[2 * p : 2 * p + 4, 2 * q : 2 * q + 4]
            h[p, q, o] = (part * w[..., o]).sum() + b[o]
        if i == 1 and "norm1" in params:
            unit = (h - h.mean()) / np.sqrt(((h - h.mean()) ** 2).mean() + 0.1)
            h = params["norm1"]["scale"] * unit + params["norm1"]["shift"]
        seen.append(h.reshape(-1))
        h = np.where(h > 0, h, LEAKY * h)
    d = h.reshape(-1) @ params["logit"]["weight"][:, 0] + params["logit"]["bias"][0]
    return d, np.concatenate(seen)


def five_points(f, array, at, h):
    """The slope of f in one element of an array, which f reads."""
    middle, sides = array[at], []
    for step in (h, -h, 2 * h, -2 * h):
        array[at] = middle + step
        sides.append(f())
    array[at] = middle
    return (8 * (sides[0] - sides[1]) - (sides[2] - sides[3])) / (12 * h)


def conv_setting(layer_norm):
    """Parameters and pairs of images whose interpolates are away from every kink."""
    net = conv_critic(layer_norm)
    for seed in range(100):
        stream = Stream(seed)
        params = tree.tree_map(
            lambda a, s=stream: 1.3 * a + 0.3 * s.normal(a.shape, np.float64),
            net.init(stream, np.float64),
        )
        real, fake = (stream.normal((2, 8, 8, 2), np.float64) for _ in range(2))
        alpha = np.array([0.3, 0.8]).reshape(2, 1, 1, 1)
        points = naive_points("interpolates", real, fake, alpha, None)
        seen = np.concatenate([naive_conv_critic(params, x)[1] for x in points])
        if abs(seen).min() > 0.012:
            return net, params, real, fake, alpha, points
    raise AssertionError("every seed is near a kink")


@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer norm"])
def test_wgan_gp_through_convolutions_in_every_parameter(layer_norm):
    """The value against loops and differences in every pixel; its gradient against differences
    in every parameter, to 1e-7 of the whole and of each element that is not tiny."""
    net, params, real, fake, alpha, points = conv_setting(layer_norm)
    loss = penalties.one_gp(10.0)
    norms = []
    for x in points:
        x = x.copy()
        slope = [
            five_points(lambda x=x: naive_conv_critic(params, x)[0], x, at, 1e-3)
            for at in np.ndindex(*x.shape)
        ]
        norms.append(math.sqrt(math.fsum(s * s for s in slope)))
    expected = 10 * np.mean((np.array(norms) - 1) ** 2)
    d = track(params)
    got = loss(lambda x: net(d, x), real, fake, alpha)
    assert expected > 0.1 and got.data == pytest.approx(expected, rel=1e-8)

    found = grad_values(got, d)
    moved = tree.tree_map(np.copy, params)

    def value():
        return loss(lambda x: net(moved, x), real, fake, alpha).data

    differences = tree.tree_map(np.zeros_like, params)
    for a, e in zip(tree.leaves(moved), tree.leaves(differences), strict=True):
        for at in np.ndindex(a.shape):
            e[at] = five_points(value, a, at, 3e-4)
    assert relative(found, differences) < 1e-8
    scale = max(abs(e).max() for e in tree.leaves(differences))
    for (path, g), e in zip(tree.paths(found), tree.leaves(differences), strict=True):
        assert (abs(g - e) <= 1e-7 * abs(e) + 1e-8 * scale).all(), path
        # where D is linear piece by piece, biases move no slope; nor does what is added at the end
        dead = path in ("logit.bias", "norm1.shift") or (not layer_norm and path.endswith("bias"))
        assert g.any() != dead, path


@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "layer norm"])
def test_wgan_gp_through_convolutions_to_order_two(layer_norm):
    net, params, real, fake, alpha, _ = conv_setting(layer_norm)

    stream = Stream(0)
    ways = [
        tree.tree_map(lambda a: 0.1 * stream.normal(a.shape, np.float64), params) for _ in range(3)
    ]

    def f(t):
        """The penalty as the parameters move along three ways: so little that no kink is met."""
        d = params
        for i, way in enumerate(ways):
            d = tree.tree_map(lambda a, v, step=t[i]: ops.add(a, ops.multiply(v, step)), d, way)
        return penalties.one_gp(1.0)(lambda x: net(d, x), real, fake, alpha)

    check_gradients(f, np.zeros(3), order=2, directions=1)


def test_batch_norm_in_a_convolutional_critic_is_an_error():
    critic = models.critic(8, 1, (2, 2), norm=nn.BatchNorm)
    params = critic.init(Stream(0), np.float64)
    points = np.random.default_rng(0).standard_normal((3, 8, 8, 1))
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        gradient_penalty(lambda x: critic(params, x), points)
    allowed = models.critic(8, 1, (2, 2), norm=nn.LayerNorm)
    assert gradient_penalty(lambda x: allowed(params, x), points, centre=1.0).data > 0


# Mistakes that published code makes, each with what it costs


def image_slopes():
    """Slopes of a linear critic on 4 images of 2×3×5, every one of norm exactly 1: 1-GP is 0."""
    w = track(np.full((30, 1), 1 / math.sqrt(30)))
    images = np.random.default_rng(4).standard_normal((4, 2, 3, 5))
    assert gradient_penalty(linear(w), images, centre=1.0).data < 1e-30
    x = track(images)
    return grad(ops.sum(linear(w)(x)), x)


def one_gp_over(axes):
    return ops.mean(ops.square(ops.subtract(ops.norm(image_slopes(), axis=axes), 1.0))).data


def test_mistake_the_norm_over_the_whole_batch():
    """√N where every norm is 1: a penalty of (√4 − 1)² = 1 where 0 is right."""
    assert one_gp_over(None) == pytest.approx((math.sqrt(4) - 1) ** 2, rel=1e-12)


def test_mistake_the_norm_over_axis_1_of_an_image():
    """Only over the rows: 1/√15 where 1 is right, a penalty of .550 where 0 is."""
    assert one_gp_over(1) == pytest.approx((1 / math.sqrt(15) - 1) ** 2, rel=1e-12)


def test_mistake_the_norm_per_channel():
    """1/√5 of it in each of 5 channels: a penalty of .306 where 0 is right."""
    assert one_gp_over((1, 2)) == pytest.approx((1 / math.sqrt(5) - 1) ** 2, rel=1e-12)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_our_norms_are_per_sample_for_every_rank(rank):
    """Samples of slope 1 and 2: (0 + 1)/2, whatever the rank."""
    shape = (2, 2, 3, 5)[: rank - 1] + (60 // math.prod((2, 2, 3, 5)[: rank - 1]),)
    points = np.zeros(shape)
    size = points[0].size
    slopes = np.full(shape, 1 / math.sqrt(size)) * np.array([1, 2]).reshape(2, *[1] * (rank - 1))
    got = gradient_penalty(
        lambda x: ops.sum(ops.multiply(x, slopes), axis=tuple(range(1, rank))), points, centre=1.0
    )
    assert got.data == pytest.approx(0.5, rel=1e-12)


def distance_from_segment(points, real, fake):
    """How far each point is from the segment of its pair, in lengths of the segment."""
    points, real, fake = (a.reshape(len(a), -1) for a in (points, real, fake))
    way = real - fake
    length = (way**2).sum(1)
    along = np.clip(((points - fake) * way).sum(1) / length, 0, 1)
    off = points - fake - along[:, None] * way
    return np.sqrt((off**2).sum(1) / length)


def image_pairs():
    """512 pairs of images 4×4×3 whose every component differs by 1."""
    rng = np.random.default_rng(6)
    fake = rng.standard_normal((512, 4, 4, 3))
    return fake + rng.choice([-1.0, 1.0], fake.shape), fake


def test_one_alpha_per_sample_stays_on_the_segments_and_fills_them():
    real, fake = image_pairs()
    (alpha,) = penalties.one_gp().draw(Stream(0), real)
    points = penalties.interpolates(real, fake, alpha)
    assert distance_from_segment(points, real, fake).max() < 1e-15
    assert np.var(alpha) == pytest.approx(1 / 12, rel=0.1)


@pytest.mark.parametrize(
    "shape, parts, distance",
    [((512, 1, 4, 1), 4, 0.25), ((512, 4, 4, 1), 16, 0.28), ((512, 4, 4, 3), 48, 0.286)],
    ids=["per column", "per pixel", "per component"],
)
def test_mistake_alpha_per_column_pixel_or_component(shape, parts, distance):
    """The points leave the segments, by √((1 − 1/k)/12) of their length with k parts, and crowd at
    their middle: the variance along them is 1/(12k) where 1/12 is right."""
    real, fake = image_pairs()
    alpha = np.broadcast_to(Stream(0).uniform(shape, np.float64), real.shape)
    with pytest.raises(ValueError, match="one number per sample"):
        penalties.interpolates(real, fake, alpha)
    points = alpha * real + (1 - alpha) * fake
    off = distance_from_segment(points, real, fake)
    rms = math.sqrt((off**2).mean())
    assert rms == pytest.approx(math.sqrt((1 - 1 / parts) / 12), rel=0.05)
    assert rms == pytest.approx(distance, rel=0.05)
    along = ((points - fake) * (real - fake)).sum((1, 2, 3)) / 48
    assert np.var(along) == pytest.approx(1 / (12 * parts), rel=0.15)


def test_mistake_alpha_per_column_of_toy_data():
    """In the plane too: α of shape (N, 2) fills the rectangle between two points."""
    real, fake = np.ones((512, 2)), np.zeros((512, 2))
    alpha = Stream(0).uniform((512, 2), np.float64)
    with pytest.raises(ValueError, match=r"\(512, 2\) for samples .* expected \(512, 1\)"):
        penalties.interpolates(real, fake, alpha)
    wrong = alpha * real + (1 - alpha) * fake
    assert distance_from_segment(wrong, real, fake).max() > 0.4
    right = penalties.interpolates(real, fake, *penalties.one_gp().draw(Stream(0), real))
    assert distance_from_segment(right, real, fake).max() < 1e-15


def test_mistake_one_alpha_per_batch():
    """The points lie on the segments, but all at one place: a batch's mean α has variance 1/12,
    where it is 1/(12N) with one per sample."""
    n, stream = 16, Stream(0)
    real, fake = np.ones((n, 3)), np.zeros((n, 3))

    def spread(draw):
        alphas = [draw() for _ in range(2000)]
        return np.var([(alpha * real + (1 - alpha) * fake).mean() for alpha in alphas])

    with pytest.raises(ValueError, match="one number per sample"):
        penalties.interpolates(real, fake, stream.uniform((1, 1), np.float64))
    assert spread(lambda: stream.uniform((1, 1), np.float64)) == pytest.approx(1 / 12, rel=0.1)
    ours = spread(lambda: penalties.one_gp().draw(stream, real)[0])
    assert ours == pytest.approx(1 / (12 * n), rel=0.1)


def test_mistake_a_root_at_a_zero_gradient():
    """√Σ∇² has an infinite slope at 0: one dead sample of 4 makes the whole gradient NaN."""
    w = track(np.array([[2.0]]))
    x = track(np.array([[-1.0], [1.0], [2.0], [3.0]]))
    slopes = grad(ops.sum(ops.multiply(ops.relu(x), w)), x)
    rooted = ops.sqrt(ops.sum(ops.square(slopes), axis=1))
    naive = ops.mean(ops.square(ops.subtract(rooted, 1.0)))
    assert naive.data == 1.0
    with np.errstate(all="ignore"):
        assert np.isnan(grad_values(naive, w)).all()

    ours = gradient_penalty(lambda x: ops.multiply(ops.relu(x), w), x.data, centre=1.0)
    assert ours.data == 1.0
    assert grad_values(ours, w) == 3 * 2 / 4

    # an eps under the root hides it, and moves the value: norm √eps where 0 is right
    eps = ops.sqrt(ops.add(ops.sum(ops.square(slopes), axis=1), 1e-12))
    assert eps.data[0] == pytest.approx(1e-6)


@pytest.mark.parametrize("cut", ["grad_values", "data", "stop_gradient"])
def test_mistake_the_graph_cut(cut):
    """The penalty's value is right and its gradient missing: training goes on as if λ were 0."""
    params, real, fake, alpha, _ = setting((4, 2))
    d = track(params)
    points = penalties.interpolates(real, fake, alpha)
    x = track(points)
    y = ops.sum(critic(d, x))
    slopes = {
        "grad_values": lambda: grad_values(y, x),
        "data": lambda: grad(y, x).data,
        "stop_gradient": lambda: ops.stop_gradient(grad(y, x)),
    }[cut]()
    wrong = ops.multiply(ops.mean(ops.square(ops.subtract(ops.sample_norm(slopes), 1.0))), 10.0)
    right = penalties.one_gp(10.0)(lambda x: critic(d, x), real, fake, alpha)
    assert type(wrong) is np.ndarray and type(right) is Tensor
    assert wrong == pytest.approx(right.data, rel=1e-14)

    loss = losses.wasserstein_critic(critic(d, real), critic(d, fake))
    without = grad_values(loss, d)
    found = grad_values(ops.add(loss, wrong), d)
    assert relative(found, without) == 0
    assert relative(found, grad_values(ops.add(loss, right), d)) > 0.9  # an error of 90% or more
    with pytest.raises(TypeError, match="y is a ndarray, a constant"):
        grad_values(wrong, d)


def test_mistake_clipping_batch_norms_scale():
    """Limited to .01 the scale shuts the layer: deviation .01 where 1 is right."""
    params = {"scale": np.ones(3), "shift": np.full(3, 0.5), "weight": np.full((3, 3), 0.5)}
    x = np.random.default_rng(0).standard_normal((1000, 3))

    def deviation(params):
        return nn.batch_norm(x, params["scale"], params["shift"]).std(0)

    np.testing.assert_allclose(deviation(penalties.clip_weights(params, 0.01)), 1, rtol=1e-4)
    everything = penalties.clip_weights(params, 0.01, everything=True)
    np.testing.assert_allclose(deviation(everything), 0.01, rtol=1e-4)


# Weight clipping


def test_clipping_limits_weights_and_biases_and_leaves_scale_and_shift():
    params = [
        {"weight": np.array([[-3.0, 0.005], [0.01, 3.0]]), "bias": np.array([-0.02, 0.0])},
        {"scale": np.array([2.0]), "shift": np.array([-2.0])},
    ]
    got = penalties.clip_weights(params, 0.01)
    assert got[0]["weight"].tolist() == [[-0.01, 0.005], [0.01, 0.01]]
    assert got[0]["bias"].tolist() == [-0.01, 0.0]
    assert got[1]["scale"] == [2.0] and got[1]["shift"] == [-2.0]
    everything = penalties.clip_weights(params, 0.01, everything=True)
    assert everything[1]["scale"] == [0.01] and everything[1]["shift"] == [-0.01]
    assert params[0]["weight"][0, 0] == -3.0 and params[1]["scale"] == 2.0


def test_clipping_keeps_dtype_and_nesting():
    params = {"a": (np.ones(2, np.float32),), "b": [np.zeros((2, 2), np.float32)]}
    got = penalties.clip_weights(params, 0.5)
    assert type(got["a"]) is tuple and type(got["b"]) is list
    assert all(a.dtype == np.float32 for a in tree.leaves(got))


@pytest.mark.parametrize("limit", [0.0, -0.01, math.nan])
def test_a_limit_that_is_not_above_zero_is_an_error(limit):
    with pytest.raises(ValueError, match="limit is .*above 0"):
        penalties.clip_weights({"weight": np.ones(2)}, limit)


# Bad input


def unit(x):
    return ops.sum(x, axis=1)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
@each_preset
def test_a_weight_that_is_not_above_zero_is_an_error(name, weight):
    with pytest.raises(ValueError, match="weight is .*above 0"):
        PRESETS[name](weight)


@pytest.mark.parametrize("centre", [-1.0, math.nan])
def test_a_centre_below_zero_is_an_error(centre):
    with pytest.raises(ValueError, match="centre is .*0 or more"):
        gradient_penalty(unit, np.ones((3, 2)), centre=centre)
    with pytest.raises(ValueError, match="centre is .*0 or more"):
        penalties.Penalty(1.0, centre=centre)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: ops.multiply(x, 2.0),
        lambda x: ops.sum(x),
        lambda x: ops.reshape(ops.sum(x, axis=1), shape=(1, -1)),
        lambda x: ops.index(ops.sum(x, axis=1), at=slice(2)),
    ],
    ids=["two logits each", "one for all", "a row", "too few"],
)
def test_a_critic_without_one_logit_for_each_sample_is_an_error(wrong):
    with pytest.raises(ValueError, match="expected one logit for each sample"):
        gradient_penalty(wrong, np.ones((3, 2)))


def test_a_single_logit_without_axes_is_an_error_too():
    with pytest.raises(ValueError, match="expected one logit for each sample"):
        gradient_penalty(lambda x: ops.sum(x), np.ones((1, 2)))


def test_real_and_fake_that_make_no_pairs_are_an_error():
    for penalty in (penalties.zero_gp(), penalties.one_gp(), penalties.lp()):
        with pytest.raises(ValueError, match=r"\[3, 2\] and fake float64\[4, 2\] make no pairs"):
            penalty(unit, np.ones((3, 2)), np.ones((4, 2)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="float32.*float64.*make no pairs"):
        penalties.interpolates(np.ones((3, 2), np.float32), np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"real \(3, 2\) and fake \(2, 2\) make no pairs"):
        two_term_penalty(unit, np.ones((3, 2)), np.ones((2, 2)), 1.0, 1.0)


def test_points_that_are_integers_or_none_at_all_are_an_error():
    with pytest.raises(TypeError, match="points has type int64.*float32 or float64"):
        gradient_penalty(unit, np.ones((3, 2), np.int64))
    with pytest.raises(ValueError, match="no elements"):
        gradient_penalty(unit, np.ones((0, 2)))


# Dirac-GAN: real at 0, fake at θ, D(x) = ψx. Golden numbers of f(t) = −softplus(−t), step .2,
# start (1, 1), 500 steps. Mescheder writes L = f(ψθ) with D high on fake; our D is high on real,
# so his ψ is minus ours.

DIRAC = {  # loss, γ, clip: radius after 500 simultaneous and alternating steps
    "GAN": (losses.MINIMAX, 0.0, None, 3.0969487, 1.4210189),
    "WGAN, clip 1": (losses.WASSERSTEIN, 0.0, 1.0, 1.0021520, 1.0241189),
    "GAN + R1, .3": (losses.MINIMAX, 0.3, None, 2.64266e-6, 2.30091e-7),
    "GAN + R1, 1": (losses.MINIMAX, 1.0, None, 9.5287e-22, 7.4812e-17),
}


def dirac_gradients(loss, gamma, theta, psi):
    """∂/∂θ of the generator's loss and ∂/∂ψ of the critic's with its penalty: Tensors."""
    real = np.zeros((1, 1))
    fake = ops.multiply(theta, np.ones((1, 1)))

    def d(x):
        return ops.multiply(x, psi)

    critic_loss = loss.critic(d(real), d(fake))
    if gamma:
        critic_loss = ops.add(critic_loss, penalties.r1(gamma / 2)(d, real, fake))
    return grad(loss.generator(d(fake)), theta), grad(critic_loss, psi)


def dirac_radius(name, alternating):
    loss, gamma, clip, *_ = DIRAC[name]
    sgd = optim.SGD(0.2)
    theta, psi = np.array(1.0), np.array(-1.0)
    for _ in range(500):
        to_theta, to_psi = values(dirac_gradients(loss, gamma, *track([theta, psi])))
        theta, _ = sgd.update(theta, to_theta, {})
        if alternating:
            to_psi = values(dirac_gradients(loss, gamma, *track([theta, psi])))[1]
        psi, _ = sgd.update(psi, to_psi, {})
        if clip:
            psi = penalties.clip_weights(psi, clip)
    return math.hypot(theta, psi)


@pytest.mark.parametrize("name", DIRAC)
def test_dirac_gans_golden_numbers(name):
    *_, simultaneous, alternating = DIRAC[name]
    digits = 7e-6 if simultaneous < 1e-3 else 5e-8  # as many as are printed
    assert dirac_radius(name, alternating=False) == pytest.approx(simultaneous, rel=digits)
    assert dirac_radius(name, alternating=True) == pytest.approx(alternating, rel=digits)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_dirac_gans_eigenvalues_at_the_equilibrium(gamma):
    """−γ/2 ± √(γ²/4 − ¼): ±.5i, −.15 ± .47697i, a double −.5."""
    players = track([np.array(0.0), np.array(0.0)])
    field = dirac_gradients(losses.MINIMAX, gamma, *players)
    jacobian = -np.array([grad_values(f, players) for f in field])
    expected = -gamma / 2 + np.array([1, -1]) * np.emath.sqrt(gamma**2 / 4 - 0.25)
    # the polynomial's coefficients: a double root is known to √eps only
    np.testing.assert_allclose(np.poly(jacobian), np.poly(expected).real, atol=1e-14)
    if gamma == 0.3:
        found = np.linalg.eigvals(jacobian)
        assert sorted(found.imag) == pytest.approx([-0.47697, 0.47697], abs=5e-6)
        assert found.real == pytest.approx([-0.15, -0.15], abs=1e-12)


# float32 against float64


def float32_errors():
    """Rows (what, setting, preset, value's relative error, parameter gradient's).

    The critic is 2 → 64 tanh → 64 tanh → 1. Its weights are rounded to float32 first, and both
    precisions then start from the same numbers.
    """
    rows = []
    rng = np.random.default_rng(5)
    base = [
        {"weight": layer["weight"], "bias": 0.3 * rng.standard_normal(layer["bias"].shape)}
        for layer in critic_params(2, seed=6, widths=(64, 64), gain=1.5)
    ]
    points = rng.standard_normal((64, 2))

    def slopes(params, x):
        return naive_norms(params, x, False)

    def add(what, at, params, x, of=None):
        params, x = tree.tree_map(np.float32, [params, x])
        for preset, centre in (("0-GP", 0.0), ("1-GP", 1.0)):
            found = {}
            for dtype in (np.float32, np.float64):
                d = track(tree.tree_map(lambda a, t=dtype: a.astype(t), params))
                loss = gradient_penalty(
                    lambda x, d=d: critic(d, x), x.astype(dtype), centre=centre, of=of
                )
                found[dtype] = (
                    loss.data.astype(np.float64),
                    tree.tree_map(np.float64, grad_values(loss, d)),
                )
            value, gradient = map(relative, found[np.float32], found[np.float64])
            rows.append((what, at, preset, value, gradient))

    def scaled(factor):
        last = {"weight": base[-1]["weight"] * factor, "bias": base[-1]["bias"]}
        return [*base[:-1], last]

    mean = slopes(base, points).mean()
    for size in (1.0, 1e-2, 1e-4, 1e-6, 1e-8):
        add("mean ‖∇D‖, by small weights", f"{size:g}", scaled(size / mean), points)
    for size in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        # Each unit of the last hidden layer has a twin with its sign turned, a little smaller.
        twin = {
            "weight": np.concatenate([base[1]["weight"]] * 2, axis=1),
            "bias": np.concatenate([base[1]["bias"]] * 2),
        }
        last = np.concatenate([base[2]["weight"], -(1 - size) * base[2]["weight"]]) / mean
        params = [base[0], twin, {"weight": last, "bias": base[2]["bias"]}]
        add("mean ‖∇D‖, by cancelling", f"{size:g}", params, points)
    for distance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        one = points[:1]
        factor = (1 + distance) / slopes(base, one)[0]
        add("‖∇D‖ − 1, one point", f"{distance:g}", scaled(factor), one)
    for logit in (0, 10, -10, 40, -40, 80, -80):
        params = scaled(1 / mean)
        params[-1] = {"weight": params[-1]["weight"], "bias": np.array([float(logit)])}
        add("σ(D), logits near", f"{logit:+d}" if logit else "0", params, points, ops.sigmoid)
    return rows


def float32_table():
    rows = float32_errors()
    lines = [
        "| | | 0-GP value | 0-GP gradient | 1-GP value | 1-GP gradient |",
        "|---|---|---|---|---|---|",
    ]
    for zero, one in zip(rows[::2], rows[1::2], strict=True):
        errors = " | ".join(f"{e:.1e}" for e in (*zero[3:], *one[3:]))
        lines.append(f"| {zero[0]} | {zero[1]} | {errors} |")
    return "\n".join(lines)


def test_float32_errors_are_bounded():
    """Some 10⁻⁷ everywhere, but for what conditioning costs: a slope of size s that cancels has
    error ~10⁻⁷/s, (‖∇‖ − 1)² at a distance δ ~10⁻⁶/δ; and squares under 10⁻³⁸ are 0."""
    for what, at, preset, value, gradient in float32_errors():
        limit = 5e-6
        if "cancelling" in what and preset == "0-GP" or "− 1" in what and preset == "1-GP":
            limit = 5e-6 / float(at)
        if "σ" in what and abs(float(at)) == 80 and preset == "0-GP":
            assert value == gradient == 1.0  # (10⁻³⁵)² is 0 in float32: a flat σ needs no push
            continue
        if "cancelling" in what and preset == "1-GP":
            gradient *= float(at)
        assert value < limit and gradient < limit, (what, at, preset, value, gradient)


# The two-term form as a penalty of a game

PLANE = models.mlp_pair(2, 3, 5, 2, activation=ops.tanh)


def two_term_game(weights=(0.7, 1.3), of=None, **choices):
    sgd = optim.SGD(0.05)
    return GAN(*PLANE, sgd, sgd, losses.WASSERSTEIN, TwoTermPenalty(*weights, of), **choices)


@each_of
@pytest.mark.parametrize("weights", [(0.7, 1.3), (0.0, 2.0), (3.0, 0.0), (0, 0)], ids=str)
def test_the_two_term_penalty_is_the_two_term_form(weights, of):
    """Each term with its own weight, on the samples themselves."""
    params = critic_params(2)
    real, fake = batches((4, 2))
    of_point = lambda x: critic(params, x)  # noqa: E731
    got = TwoTermPenalty(*weights, of)(of_point, real, fake)
    assert float(got.data) == float(two_term_penalty(of_point, real, fake, *weights, of=of).data)

    points = track(np.concatenate([real, fake]))
    y = of_point(points) if of is None else of(of_point(points))
    slopes, d = grad(ops.sum(y), points).data, y.data[:, 0]
    apart = d[: len(real)] - d[len(real) :]
    by_numpy = weights[0] * (slopes**2).sum(1).mean() + weights[1] * (apart**2).mean()
    assert float(got.data) == pytest.approx(by_numpy, rel=1e-12, abs=1e-15)
    assert by_numpy > 1e-3 or not any(weights)


def test_the_two_term_penalty_draws_nothing():
    stream = Stream(3)
    assert TwoTermPenalty(1.0, 2.0).draw(stream, np.ones((4, 2), np.float32)) == ()
    assert stream.counter == 0


@pytest.mark.parametrize("bad", [-1e-9, -2.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", [0, 1])
def test_weights_of_the_two_term_penalty_out_of_range_are_errors(bad, place):
    weights = [1.0, 1.0]
    weights[place] = bad
    with pytest.raises(ValueError, match=f"TwoTermPenalty: weights .*{bad}.* at least 0"):
        TwoTermPenalty(*weights)


@each_of
@pytest.mark.parametrize("one_batch", [False, True])
def test_a_game_with_the_two_term_penalty(of, one_batch):
    """Its number is the form's, and the critic's gradient that of both together."""
    gan = two_term_game(of=of, one_batch=one_batch)
    players = gan.init(Stream(0), np.float64)
    real, z = Stream(1).normal((6, 2), np.float64), Stream(2).normal((6, 3), np.float64)
    fake = PLANE.generator(players.generator, z)
    found = critic_gradients(gan, players, real, z)

    d = track(players.critic)
    form = two_term_penalty(lambda x: PLANE.critic(d, x), real, fake, 0.7, 1.3, of=of)
    loss = losses.WASSERSTEIN.critic(PLANE.critic(d, real), PLANE.critic(d, fake))
    assert float(found.penalty) == pytest.approx(float(form.data), rel=1e-12) and form.data > 1e-3
    expected = grad_values(ops.add(loss, form), d)
    without = grad_values(loss, d)
    for a, b in zip(tree.leaves(found.tree), tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    assert any(
        not np.allclose(a, b, rtol=1e-3)
        for a, b in zip(tree.leaves(found.tree), tree.leaves(without), strict=True)
    )
    check_gradients(lambda d: ops.add(*critic_loss(gan, d, real, fake)), players.critic, order=2)


def test_a_compiled_game_with_the_two_term_penalty_is_the_eager_one():
    playing = Alternating(two_term_game(), 6, 3, critic_steps=2)
    start = playing.init(Stream(0), np.float64)
    data = lambda n, stream: 1 + stream.normal((n, 2), np.float64)  # noqa: E731
    one, other = (
        loop.run(playing, start, data, 4, Stream(1), compiled=compiled)
        for compiled in (True, False)
    )
    for a, b in zip(tree.leaves(one.players), tree.leaves(other.players), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    assert (other.history.column("penalty") > 1e-4).all()


if __name__ == "__main__":
    print(float32_table())
