"""InfoGAN: the bound by hand, steps against their composition, codes, grids, a small training."""

import math

import numpy as np
import pytest
from test_ac_gan import NOISY, SMOOTH, close, net, same, streams

from tinygan import loop, models, nn, ops, optim, tree
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import grad_values, track
from tinygan.game import Streams
from tinygan.replay import compile
from tinygan.systems.infogan import (
    Codes,
    InfoGAN,
    categorical_information,
    continuous_information,
    critic_loss,
    generator_loss,
    information,
    split_heads,
)


def game(between=SMOOTH, **choices):
    """Codes of 3 and 2 categories and two numbers, in the plane, by networks of a few units."""
    given = (
        dict(
            categories=(3, 2),
            continuous=2,
            learned_deviation=True,
            generator_optimizer=optim.SGD(0.1),
            critic_optimizer=optim.SGD(0.05),
            batch=8,
        )
        | choices
    )
    codes = sum(given["categories"]) + given["continuous"]
    outputs = 1 + codes + (given["continuous"] if given["learned_deviation"] else 0)
    given.setdefault("generator", net("G", (3 + codes, 6, 2), between))
    given.setdefault("critic", net("D", (2, 6, outputs), between))
    return InfoGAN(**given)


def plain(dtype=np.float64):
    return lambda n, stream: stream.normal((n, 2), dtype)


def batch_of(gan, dtype=np.float64, key=3):
    return gan.draw(plain(dtype), streams(key), 0, dtype)


def normal(*shape, key=0):
    return Stream(key).normal(shape, np.float64)


# The bound, by hand


def test_the_heads():
    outputs = np.arange(20.0).reshape(2, 10)
    heads = split_heads(outputs, (3, 2), 2)
    np.testing.assert_array_equal(heads.source, outputs[:, 0])
    np.testing.assert_array_equal(heads.categories[0], outputs[:, 1:4])
    np.testing.assert_array_equal(heads.categories[1], outputs[:, 4:6])
    np.testing.assert_array_equal(heads.mean, outputs[:, 6:8])
    np.testing.assert_array_equal(heads.log_deviation, outputs[:, 8:])
    fixed = split_heads(outputs[:, :8], (3, 2), 2, learned_deviation=False)
    np.testing.assert_array_equal(fixed.mean, outputs[:, 6:8])
    assert fixed.log_deviation is None
    none = split_heads(outputs[:, :6], (3, 2), 0)
    assert none.mean is None and none.log_deviation is None
    numbers = split_heads(outputs[:, :5], (), 2)
    assert numbers.categories == ()
    np.testing.assert_array_equal(numbers.log_deviation, outputs[:, 3:5])


def test_the_information_in_categories():
    logits = normal(4, 3, key=1), normal(4, 2, key=2)
    labels = [0, 2, 1, 2], [1, 1, 0, 1]
    expected = 0.0
    for rows, chosen, size in zip(logits, labels, (3, 2), strict=True):
        for row, label in zip(rows, chosen, strict=True):
            q = math.exp(row[label]) / sum(math.exp(a) for a in row)
            expected += (math.log(q) + math.log(size)) / 4
    codes = [ops.one_hot(np.array(c), k, np.float64) for c, k in zip(labels, (3, 2), strict=True)]
    assert categorical_information(logits, codes) == pytest.approx(expected, rel=1e-13)
    sure = [100 * c for c in codes]
    assert categorical_information(sure, codes) == pytest.approx(math.log(6), rel=1e-13)
    assert categorical_information([0 * c for c in codes], codes) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("learned", [True, False])
def test_the_information_in_numbers(learned):
    mean, log_deviation, c = normal(5, 2, key=1), 0.5 * normal(5, 2, key=2), normal(5, 2, key=3)
    expected = 0.0
    for i in range(5):
        for j in range(2):
            sigma = math.exp(log_deviation[i, j]) if learned else 1.0
            density = math.exp(-((c[i, j] - mean[i, j]) ** 2) / (2 * sigma**2))
            density /= sigma * math.sqrt(2 * math.pi)
            expected += (math.log(density) - math.log(1 / 2)) / 5  # of U[−1, 1): density ½
    found = continuous_information(mean, log_deviation if learned else None, c)
    assert found == pytest.approx(expected, rel=1e-13)


def test_a_deviation_of_one_is_none():
    mean, c = normal(5, 2, key=1), normal(5, 2, key=3)
    np.testing.assert_allclose(
        continuous_information(mean, np.zeros((5, 2)), c), continuous_information(mean, None, c)
    )
    best = 2 * (math.log(2) - 0.5 * math.log(2 * math.pi))
    assert continuous_information(c, None, c) == pytest.approx(best) and best == pytest.approx(
        -2 * 0.2257913526
    )


def test_the_bound_is_below_the_information_and_meets_it_at_the_posterior():
    """c uniform, X = c + noise of deviation .01: I = ln 2 − ½·ln(2πe·.0001), but for the ends."""
    c = 2 * Stream(0).uniform((200_000, 1), np.float64) - 1
    x = c + 0.01 * Stream(1).normal(c.shape, np.float64)
    exact = math.log(2) - 0.5 * math.log(2 * math.pi * math.e * 1e-4)

    def bound(deviation):
        return float(continuous_information(x, np.full(x.shape, math.log(deviation)), c))

    assert bound(0.01) == pytest.approx(exact, abs=0.01)
    assert bound(0.02) < exact - 0.2 and bound(0.005) < exact - 0.2
    assert float(continuous_information(x, None, c)) < exact - 3


def test_the_losses_are_the_games_less_the_weighted_information():
    real, fake = normal(5, key=1), normal(5, key=2)
    known = np.float64(0.7), np.float64(-1.3)
    d = sum(math.log(1 + math.exp(-a)) for a in real) / 5
    d += sum(math.log(1 + math.exp(a)) for a in fake) / 5
    g = sum(math.log(1 + math.exp(-a)) for a in fake) / 5
    more = 0.7 - 0.1 * 1.3
    assert critic_loss(real, fake, known) == pytest.approx(d - more, rel=1e-13)
    assert critic_loss(real, fake, known, average=True) == pytest.approx(d / 2 - more, rel=1e-13)
    assert generator_loss(fake, known) == pytest.approx(g - more, rel=1e-13)
    weights = 2.0, 0.5
    assert generator_loss(fake, known, weights) == pytest.approx(g - 1.4 + 0.65, rel=1e-13)
    assert generator_loss(fake, (None, None)) == pytest.approx(g, rel=1e-13)


def test_the_derivatives_of_the_losses():
    codes = Codes(
        (ops.one_hot(np.array([2, 0, 1]), 3, np.float64),),
        2 * Stream(5).uniform((3, 2), np.float64) - 1,
    )

    def losses(outputs):
        heads = split_heads(outputs, (3,), 2)
        known = information(heads, codes)
        return [critic_loss(heads.source, heads.source, known), generator_loss(heads.source, known)]

    check_gradients(losses, normal(3, 8), 3)


# One step against its composition

KINDS = {
    "all codes": {},
    "unit deviation, averaged": dict(learned_deviation=False, average=True),
    "categories alone": dict(continuous=0, categorical_weight=0.5),
    "numbers alone": dict(categories=(), continuous_weight=0.3),
}
each_kind = pytest.mark.parametrize("choices", KINDS.values(), ids=KINDS)


@pytest.mark.parametrize("between", [SMOOTH, NOISY], ids=["smooth", "batch norm and dropout"])
@each_kind
def test_a_step_is_a_descent_of_the_critic_and_then_of_the_generator(between, choices):
    gan = game(between, **choices)
    players, batch = gan.init(Stream(0), np.float64), batch_of(gan)
    before = [None if a is None else a.copy() for a in tree.leaves((players, batch))]
    now, numbers = gan.step(players, batch, 1.0)
    kept = zip(before, tree.leaves((players, batch)), strict=True)
    assert all(np.array_equal(a, b) for a, b in kept if a is not None)
    n = gan.batch

    def fake(g, points):
        told = [*points.codes.categories]
        if gan.continuous:
            told.append(points.codes.continuous)
        return gan.generator(g, np.concatenate([points.z, *told], 1), noise=points.noise)

    def bound(outputs, codes):
        """Both parts of L_I, weighed, from the raw outputs."""
        total, start = 0.0, 1
        for c in codes.categories:
            size = c.shape[1]
            q = ops.log_softmax(outputs[:, start : start + size])
            total += gan.categorical_weight * (ops.sum(q * c) * (1 / n) + math.log(size))
            start += size
        if gan.continuous:
            j = gan.continuous
            mu, s = outputs[:, start : start + j], np.zeros((n, j))
            if gan.learned_deviation:
                s = outputs[:, start + j : start + 2 * j]
            z = (codes.continuous - mu) * ops.exp(ops.negative(s))
            each = -0.5 * math.log(2 * math.pi) - 0.5 * ops.square(z) - s + math.log(2)
            total += gan.continuous_weight * (ops.sum(each) * (1 / n))
        return total

    def critics(d):
        on_real = gan.critic(d, batch.real, noise=batch.real_noise)
        points = batch.critic_points
        on_fake = gan.critic(d, fake(players.generator, points), noise=batch.fake_noise)
        halves = ops.mean(ops.softplus(-on_real[:, 0])) + ops.mean(ops.softplus(on_fake[:, 0]))
        return halves * (0.5 if gan.average else 1.0) - bound(on_fake, points.codes)

    def generators(g):
        points = batch.generator_points
        outputs = gan.critic(now.critic, fake(g, points), noise=batch.generator_noise)
        return ops.mean(ops.softplus(-outputs[:, 0])) - bound(outputs, points.codes)

    for f, side, rate, loss, norm in (
        (critics, "critic", 0.05, 0, 5),
        (generators, "generator", 0.1, 1, 6),
    ):
        old = getattr(players, side)
        check_gradients(f, old, 1, tolerance=1e-5)
        tracked = track(old)
        value = f(tracked)
        gradient = grad_values(value, tracked)
        close(getattr(now, side), tree.tree_map(lambda p, g, r=rate: p - r * g, old, gradient))
        flat = np.concatenate([a.reshape(-1) for a in tree.leaves(gradient)])
        assert numbers[loss] == pytest.approx(float(value.data), rel=1e-11)
        assert numbers[norm] == pytest.approx(np.linalg.norm(flat), rel=1e-11)
        assert numbers[norm] > 0.01


@each_kind
def test_the_numbers_of_the_codes_are_those_of_the_generators_step(choices):
    gan = game(batch=32, **choices)
    players, batch = gan.init(Stream(0), np.float64), batch_of(gan)
    now, numbers = gan.step(players, batch, 1.0)
    points = batch.generator_points
    told = [a for a in (*points.codes.categories, points.codes.continuous) if a is not None]
    x = gan.generator(players.generator, np.concatenate([points.z, *told], 1))
    heads = split_heads(
        gan.critic(now.critic, x), gan.categories, gan.continuous, gan.learned_deviation
    )
    for i, part in zip((2, 3), information(heads, points.codes), strict=True):
        assert numbers[i] == pytest.approx(0 if part is None else float(part), rel=1e-12)
    right = [
        np.mean(a.argmax(1) == c.argmax(1))
        for a, c in zip(heads.categories, points.codes.categories, strict=True)
    ]
    assert numbers[4] == pytest.approx(np.mean(right) if right else 0)
    assert numbers.shape == (len(gan.names),)


def test_the_critics_step_trains_q_on_the_fakes():
    """Q's columns of the last layer move in the critic's step, down −λ·L_I."""
    gan = game()
    players, batch = gan.init(Stream(0), np.float64), batch_of(gan)
    now = gan.step(players, batch, 1.0)[0]
    moved = np.abs(now.critic["linear1"]["weight"] - players.critic["linear1"]["weight"])
    assert (moved.max(0) > 1e-5).all()
    still = game(categorical_weight=0.0, continuous_weight=0.0).step(players, batch, 1.0)[0]
    moved = np.abs(still.critic["linear1"]["weight"] - players.critic["linear1"]["weight"])
    assert moved[:, 0].max() > 1e-5 and moved[:, 1:].max() == 0


@each_kind
def test_compiled_steps_are_eager_ones(choices):
    momentum = optim.SGD(0.02, momentum=0.5)
    gan = game(NOISY, generator_optimizer=momentum, critic_optimizer=momentum, **choices)
    for dtype, tight in (
        (np.float64, dict(rtol=1e-9, atol=1e-12)),
        (np.float32, dict(rtol=2e-3, atol=2e-5)),
    ):
        step, source = compile(gan.step), streams()
        eager = quick = gan.init(Stream(0), dtype)
        eager.critic["linear1"]["weight"][...] *= 0.1  # deviations near 1, which SGD can follow
        for i in range(5):
            batch = gan.draw(plain(dtype), source, i, dtype)
            eager, numbers = gan.step(eager, batch, 0.9**i)
            quick, others = step(quick, batch, 0.9**i)
            assert numbers.dtype == dtype
            close([eager, numbers], [quick, others], **tight)


def test_it_runs_on_the_device_of_its_streams(stand_in):
    gan = game(NOISY)
    real = normal(8, 2, key=7)
    here = gan.draw(lambda n, s: real, streams(), 0, np.float64)
    source = Streams(*[Stream(3, device="gpu").child(i) for i in range(3)])
    there = gan.draw(lambda n, s: stand_in.asarray(real), source, 0, np.float64)
    now, numbers = gan.step(gan.init(Stream(0, device="gpu"), np.float64), there, 1.0)
    assert type(numbers) is stand_in.ndarray
    expected = gan.step(gan.init(Stream(0), np.float64), here, 1.0)
    close([expected[1]], [stand_in.get(numbers)], rtol=1e-9)
    samples = gan.generate(now, 12, Stream(1, device="gpu"), gan.grid(4), one_noise=True)
    assert type(samples) is stand_in.ndarray
    ours = gan.generate(expected[0], 12, Stream(1), gan.grid(4), one_noise=True)
    close([ours], [stand_in.get(samples)], rtol=1e-9)


# Codes


def test_what_is_drawn():
    gan = game(NOISY, batch=4000)
    batch = batch_of(gan)
    np.testing.assert_array_equal(batch.real, plain()(4000, streams().data))
    first, second = batch.critic_points, batch.generator_points
    for points in (first, second):
        for c, size in zip(points.codes.categories, (3, 2), strict=True):
            assert c.shape == (4000, size) and set(np.unique(c)) == {0.0, 1.0}
            np.testing.assert_array_equal(c.sum(1), 1)
            even = 4000 / size
            assert ((c.sum(0) - even) ** 2 / even).sum() < 13.8  # χ², up to 2 degrees
        for u in (points.z, points.codes.continuous):
            assert -1 <= u.min() < -0.99 and 0.99 < u.max() < 1
            assert abs(u.mean()) < 0.03 and abs(u.var() - 1 / 3) < 0.02
        one = points.codes.categories[0][:, 0]
        assert abs(np.corrcoef(one, points.codes.continuous[:, 0])[0, 1]) < 0.06
    assert not same(first.codes.categories, second.codes.categories)
    assert not np.array_equal(first.z, second.z)
    assert not np.array_equal(first.codes.continuous, second.codes.continuous)
    masks = [n["dropout0"] for n in (batch.real_noise, batch.fake_noise, batch.generator_noise)]
    masks += [points.noise["dropout0"] for points in (first, second)]
    for i, mask in enumerate(masks):
        assert set(np.unique(mask)) == {0.0, 2.0}
        assert not any(np.array_equal(mask, other) for other in masks[:i])


def reader(**choices):
    """A game whose generator gives its own inputs: what it is told can be read off."""
    given = dict(categories=(3, 2), continuous=2) | choices
    n = 3 + sum(given["categories"]) + given["continuous"]
    outputs = n - 2 + given["continuous"]
    g = models.Net("G", (n,), {"copy": nn.Linear(n, n)})
    d = models.Net("D", (n,), {"logits": nn.Linear(n, outputs)})
    gan = InfoGAN(g, d, optim.SGD(0.1), optim.SGD(0.1), batch=8, **given)
    players = gan.init(Stream(0), np.float64)
    copy = {"copy": {"weight": np.eye(n), "bias": np.zeros(n)}}
    return gan, players._replace(generator=copy)


def test_a_grid_has_a_row_for_each_category_and_sweeps_one_number():
    gan, players = reader()
    x = gan.generate(players, 15, Stream(1), gan.grid(5), one_noise=True)
    for i in range(15):
        row, column = divmod(i, 5)
        sweep = [-2.0, -1.0, 0.0, 1.0, 2.0][column]
        np.testing.assert_array_equal(x[i, 3:], [*np.eye(3)[row], 1, 0, sweep, 0])
        np.testing.assert_array_equal(x[i, :3], x[0, :3])
    assert (np.abs(x[0, :3]) < 1).all() and x.dtype == np.float64
    other = gan.grid(3, sweep=1, reach=1.0, category=1)
    np.testing.assert_array_equal(other.categories[0], np.eye(3)[[0] * 6])
    np.testing.assert_array_equal(other.categories[1], np.eye(2)[[0, 0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(other.continuous, [[0, -1], [0, 0], [0, 1]] * 2)


def test_without_categories_a_grid_is_one_row():
    gan, players = reader(categories=())
    codes = gan.grid(4, reach=3.0)
    assert codes.categories == ()
    np.testing.assert_array_equal(codes.continuous, [[-3, 0], [-1, 0], [1, 0], [3, 0]])
    x = gan.generate(players, 4, Stream(1), codes)
    np.testing.assert_array_equal(x[:, 3:], codes.continuous)
    assert not np.array_equal(x[0, :3], x[1, :3])


def test_samples_of_random_codes():
    gan, players = reader(continuous=0)
    x = gan.generate(players, 500, Stream(1))
    np.testing.assert_array_equal(x[:, 3:6].sum(1), 1)
    np.testing.assert_array_equal(x[:, 6:].sum(1), 1)
    assert (x[:, 3:].sum(0) > 100).all() and (np.abs(x[:, :3]) <= 1).all()


# Errors


@pytest.mark.parametrize(
    "choices, error, message",
    [
        (dict(categories=(3, 1)), ValueError, r"categories \(3, 1\) and 2 continuous codes; exp"),
        (dict(continuous=-1, critic=None, generator=None), ValueError, "and -1 continuous codes"),
        (dict(categories=(), continuous=0), ValueError, "no codes; expected a category or"),
        (dict(continuous_weight=-0.1), ValueError, "continuous_weight is -0.1"),
        (dict(batch=0), ValueError, "batch is 0; expected at least 1"),
        (
            dict(critic=net("D", (2, 6, 8), SMOOTH)),
            ValueError,
            r"expected \(10,\): 1 for the source, 5 for the categories and 2 for each of 2",
        ),
        (
            dict(critic=net("D", (2, 6, 10), SMOOTH), learned_deviation=False),
            ValueError,
            r"shape \(10,\); expected \(8,\): 1 for .* and 1 for each of 2",
        ),
        (
            dict(generator=net("G", (7, 6, 2), SMOOTH)),
            ValueError,
            r"shape \(7,\); expected \(7 \+ noise,\)",
        ),
        (dict(generator=models.MLP((10, 6, 2))), TypeError, "the generator is a MLP"),
    ],
)
def test_choices_that_do_not_fit(choices, error, message):
    with pytest.raises(error, match=f"InfoGAN: .*{message}"):
        game(**choices)


@pytest.mark.parametrize(
    "x, error, message",
    [
        (np.zeros((8, 2), np.float32), TypeError, "sample gave float32; expected .* float64"),
        (np.zeros((8, 3)), ValueError, r"sample\(.* gave shape \(8, 3\); expected \(8, 2\)"),
        ((np.zeros((8, 2)), np.zeros(8, int)), TypeError, "sample gave a tuple.*labels.*Shuffled"),
    ],
)
def test_data_that_do_not_fit(x, error, message):
    with pytest.raises(error, match=f"InfoGAN: {message}"):
        game().draw(lambda n, s: x, streams(), 0, np.float64)


def test_codes_that_do_not_fit():
    gan, players = reader()
    with pytest.raises(ValueError, match=r"codes of shapes .*\(15, 3\).*; expected .*\(4, 3\)"):
        gan.generate(players, 4, Stream(1), gan.grid(5))
    with pytest.raises(ValueError, match="5 columns of the continuous code 2; expected"):
        gan.grid(5, sweep=2)
    with pytest.raises(ValueError, match="category is 2; expected one of the 2"):
        gan.grid(5, category=2)


# Training


def test_the_same_seed_gives_the_same_bits():
    adam = optim.Adam(1e-3)
    gan = game(NOISY, generator_optimizer=adam, critic_optimizer=adam)

    def run(key):
        return loop.run(gan, gan.init(Stream(0)), plain(np.float32), 4, Stream(key))

    one, two, other = run(1), run(1), run(2)
    assert same(one.players, two.players) and one.history.csv() == two.history.csv()
    assert not same(one.players, other.players)
    assert one.history.csv().splitlines()[0] == "step," + ",".join(InfoGAN.names)


def test_after_a_small_training_the_categories_are_the_clusters():
    """Three Gaussians without labels: each category makes one of them, and Q names it."""
    centres = 2 * np.array([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])

    def data(n, stream):
        x = centres[stream.integers(n, 3)] + 0.2 * stream.normal((n, 2), np.float64)
        return x.astype(np.float32)

    leaky, adam = {"leaky_relu": lambda n: ops.leaky_relu}, optim.Adam(2e-3, (0.5, 0.999))
    gan = InfoGAN(
        net("G", (2 + 3, 32, 2), leaky),
        net("D", (2, 32, 1 + 3), leaky),
        adam,
        adam,
        categories=(3,),
        continuous=0,
        batch=64,
    )
    run = loop.run(gan, gan.init(Stream(0)), data, 2000, Stream(1), record_every=500)
    codes = Codes((np.repeat(np.eye(3, dtype=np.float32), 200, axis=0),), None)
    samples = gan.generate(run.players, 600, Stream(2), codes)
    far = np.linalg.norm(samples[:, None] - centres[None], axis=2)
    nearest = far.argmin(1).reshape(3, 200)
    homes = [np.bincount(row, minlength=3).argmax() for row in nearest]
    assert sorted(homes) == [0, 1, 2]
    assert all((row == home).mean() > 0.95 for row, home in zip(nearest, homes, strict=True))
    assert np.median(far.min(1)) < 0.6
    last = run.history.records[-1]
    assert last.accuracy > 0.95 and last.categorical_information > 0.9 * math.log(3)
