"""Games at once, with consensus, and unrolled, against differences that go the plain way round.

The oracles know nothing of gradients of gradients: they take whole critic steps on plain arrays
(``critic_gradients``, ``Adam.update``), or norms of plain gradients, and are differenced along
random directions.
"""

from dataclasses import replace

import numpy as np
import pytest

import tinygan as tg
from tinygan import algorithms, losses, models, nn, ops, optim, penalties
from tinygan import tree as trees
from tinygan.algorithms import Consensus, NagarajanKolter, Simultaneous, Unrolled
from tinygan.game import Streams
from tinygan.loop import run
from tinygan.penalties import clip_weights
from tinygan.train import GAN, Players, critic_gradients, critic_step, generator_gradients

LOSSES = {
    "minimax": losses.MINIMAX,
    "non-saturating": losses.NON_SATURATING,
    "wasserstein": losses.WASSERSTEIN,
    "least squares": losses.LEAST_SQUARES,
    "hinge": losses.HINGE,
}
PENALTIES = {
    "none": None,
    "0-gp": penalties.zero_gp(1.0),
    "1-gp": penalties.one_gp(1.0),
    "lp": penalties.lp(1.0),
    "r1": penalties.r1(1.0),
    "r2": penalties.r2(1.0),
    "sample": penalties.zero_gp_sample(1.0, of=ops.sigmoid),
    "dragan": penalties.dragan(1.0),
}
BATCH = 4
G, D = models.mlp_pair(2, 2, 3, 1, activation=ops.tanh, bias_init=nn.fan_in_uniform)


def make(loss=losses.MINIMAX, penalty=None, rate=0.3, optimizer=optim.SGD, **more):
    return GAN(G, D, optimizer(rate), optimizer(rate), loss, penalty, **more)


def blob(n, stream):
    return stream.normal((n, 2), np.float64) * 0.5 + 1.0


def streams(seed=1):
    stream = tg.Stream(seed)
    return Streams(stream.child(0), stream.child(1), stream.child(2))


def started(game, seed=0):
    """Players and a batch."""
    players = game.init(tg.Stream(seed), np.float64)
    return players, game.draw(blob, streams(seed + 1), 0, np.float64)


def slope(f, tree, stream, step=2e-4):
    """(direction, the derivative of f along it), by a five-point difference."""
    v = trees.tree_map(lambda a: stream.normal(a.shape, np.float64), tree)

    def at(t):
        return float(f(trees.tree_map(lambda a, d: a + t * d, tree, v)))

    near, far = (at(step) - at(-step)) / (2 * step), (at(2 * step) - at(-2 * step)) / (4 * step)
    return v, (4 * near - far) / 3


def along(tree, v):
    return sum((a * b).sum() for a, b in zip(trees.leaves(tree), trees.leaves(v), strict=True))


def check_slope(gradient, f, tree, tolerance=1e-7, step=2e-4):
    stream = tg.Stream(7)
    for _ in range(2):
        v, expected = slope(f, tree, stream, step)
        assert along(gradient, v) == pytest.approx(expected, rel=tolerance, abs=tolerance)


def close(a, b, **tolerance):
    for x, y in zip(trees.leaves(a), trees.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


# The plain way round


def later_critic(gan, players, batch, unroll, rate=None):
    """φ_K by whole steps on plain arrays."""
    if rate is not None:
        gan = replace(gan, critic_optimizer=optim.SGD(rate))
        players = players._replace(critic_state={})
    for _ in range(unroll):
        players, _ = critic_step(gan, players, *batch)
    return players.critic


def later_loss(gan, players, batch, unroll, rate=None, zero_sum=False):
    """θ -> L_G(φ_K(θ), θ), or −L_D without its penalty."""
    real, z, _ = batch

    def f(theta):
        d = later_critic(gan, players._replace(generator=theta), batch, unroll, rate)
        fake = gan.generator(theta, z)
        if zero_sum:
            return -gan.loss.critic(gan.critic(d, real), gan.critic(d, fake), gan.average)
        return gan.loss.generator(gan.critic(d, fake))

    return f


def square(tree):
    return sum((a**2).sum() for a in trees.leaves(tree))


def energy(gan, batch):
    """(θ, φ) -> ½‖v‖², of first-order gradients."""

    def f(sides):
        players = Players(*sides, {}, {})
        found = critic_gradients(gan, players, *batch), generator_gradients(gan, players, batch[1])
        return 0.5 * (square(found[0].tree) + square(found[1].tree))

    return f


# At once


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("loss", LOSSES)
def test_simultaneous_takes_both_gradients_at_one_point(loss, penalty):
    gan = make(LOSSES[loss], PENALTIES[penalty])
    game = Simultaneous(gan, BATCH)
    players, batch = started(game)
    d, g = critic_gradients(gan, players, *batch), generator_gradients(gan, players, batch[1])
    new, numbers = game.step(players, batch, 0.5)
    moved = trees.tree_map(lambda p, s: p - 0.15 * s, players.critic, d.tree)
    close(new.critic, moved, rtol=1e-12, atol=1e-14)
    moved = trees.tree_map(lambda p, s: p - 0.15 * s, players.generator, g.tree)
    close(new.generator, moved, rtol=1e-12, atol=1e-14)
    expected = [
        d.loss, 0.0 if d.penalty is None else d.penalty, g.loss, square(d.tree) ** 0.5,
        square(g.tree) ** 0.5,
    ]  # fmt: skip
    np.testing.assert_allclose(numbers, expected, rtol=1e-12)
    assert len(numbers) == len(game.names)


def test_both_sides_see_the_same_samples():
    players, (real, z, noise) = started(Simultaneous(make(penalty=PENALTIES["0-gp"]), BATCH))
    assert real.shape == z.shape == (BATCH, 2) and noise[0].shape == (BATCH, 1)


# Consensus, Nagarajan & Kolter


@pytest.mark.parametrize("penalty", ["none", "0-gp", "1-gp", "r1", "r2", "sample", "dragan"])
@pytest.mark.parametrize("loss", ["minimax", "non-saturating", "wasserstein", "least squares"])
def test_consensus_descends_the_energy(loss, penalty):
    gan, weight = make(LOSSES[loss], PENALTIES[penalty]), 0.7
    game = Consensus(gan, BATCH, weight)
    players, batch = started(game)
    found = game.directions(players, batch)
    plain = algorithms.simultaneous_gradients(gan, players, *batch)
    pulls = [
        trees.tree_map(lambda a, b: (a - b) / weight, *pair)
        for pair in ((found.generator, plain.generator), (found.critic, plain.critic))
    ]
    f, sides = energy(gan, batch), (players.generator, players.critic)
    check_slope(pulls, lambda pair: f(pair), list(sides))
    assert found.regularizer == pytest.approx(f(sides), rel=1e-12)
    assert np.linalg.norm(trees.leaves(pulls)[0]) > 1e-3  # there is something to check


@pytest.mark.parametrize("penalty", ["none", "0-gp", "1-gp", "r2"])
@pytest.mark.parametrize("loss", ["minimax", "wasserstein"])
def test_nagarajan_and_kolter_move_the_generator_to_where_the_critic_rests(loss, penalty):
    gan, weight = make(LOSSES[loss], PENALTIES[penalty]), 0.7
    game = NagarajanKolter(gan, BATCH, weight)
    players, batch = started(game)

    def f(theta):
        now = players._replace(generator=theta)
        plain = gan.loss.generator(gan.critic(players.critic, gan.generator(theta, batch[1])))
        return plain + weight * square(critic_gradients(gan, now, *batch).tree)

    found = game.directions(players, batch)
    check_slope(found.generator, f, players.generator)
    close(found.critic, critic_gradients(gan, players, *batch).tree, rtol=1e-12, atol=1e-15)
    without = algorithms.nagarajan_kolter_gradients(gan, players, *batch, weight=0.0)
    own = along(found.generator, found.generator)
    assert abs(along(without.generator, found.generator) - own) > 1e-3 * own  # η does something


@pytest.mark.parametrize("game", [Consensus, NagarajanKolter])
def test_weight_zero_is_simultaneous(game):
    gan = make(penalty=PENALTIES["0-gp"])
    players, batch = started(Simultaneous(gan, BATCH))
    plain = Simultaneous(gan, BATCH).directions(players, batch)
    found = game(gan, BATCH, 0.0).directions(players, batch)
    close(found.critic, plain.critic, rtol=1e-12, atol=1e-16)
    close(found.generator, plain.generator, rtol=1e-12, atol=1e-16)


# Unrolled


def warm(gan, players, batch, steps=3):
    """After some steps, when Adam's mean squares are not 0."""
    for _ in range(steps):
        players, _ = critic_step(gan, players, *batch)
    return players


@pytest.mark.parametrize("zero_sum", [False, True])
@pytest.mark.parametrize("penalty", ["none", "0-gp", "1-gp"])
@pytest.mark.parametrize("unroll", [1, 3, 5])
def test_unrolled_differentiates_through_every_step(unroll, penalty, zero_sum):
    gan = make(losses.MINIMAX, PENALTIES[penalty], average=zero_sum)
    game = Unrolled(gan, BATCH, unroll, zero_sum=zero_sum)
    players, batch = started(game)
    found = game.directions(players, batch)
    f = later_loss(gan, players, batch, unroll, zero_sum=zero_sum)
    check_slope(found.generator, f, players.generator)
    assert found.generator_loss == pytest.approx(float(f(players.generator)), rel=1e-12)
    close(found.critic, critic_gradients(gan, players, *batch).tree, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", ["r1", "r2", "sample", "dragan"])
def test_unrolled_with_every_loss_and_other_penalties(loss, penalty):
    gan = make(LOSSES[loss], PENALTIES[penalty])
    game = Unrolled(gan, BATCH, 2)
    players, batch = started(game)
    found = game.directions(players, batch)
    f = later_loss(gan, players, batch, 2)
    check_slope(found.generator, f, players.generator)


@pytest.mark.parametrize("penalty", ["none", "0-gp"])
@pytest.mark.parametrize("unroll", [1, 3, 5])
def test_unrolled_differentiates_through_adam(unroll, penalty):
    gan = make(penalty=PENALTIES[penalty], optimizer=lambda rate: optim.Adam(0.05, (0.5, 0.9)))
    game = Unrolled(gan, BATCH, unroll)
    players, batch = started(game)
    players = warm(gan, players, batch)
    found = game.directions(players, batch)
    check_slope(found.generator, later_loss(gan, players, batch, unroll), players.generator)


def test_unrolled_by_plain_descent_at_a_rate_of_its_own():
    gan = make(penalty=PENALTIES["0-gp"], optimizer=optim.Adam)
    game = Unrolled(gan, BATCH, 3, 0.2)
    players, batch = started(game)
    found = game.directions(players, batch)
    check_slope(found.generator, later_loss(gan, players, batch, 3, 0.2), players.generator)


@pytest.mark.parametrize(
    "optimizer", [lambda rate: optim.SGD(rate), lambda rate: optim.Adam(rate, (0.5, 0.9))]
)
@pytest.mark.parametrize("clip", [None, 0.4])
def test_the_unrolled_critic_is_where_whole_steps_lead(optimizer, clip):
    gan = make(optimizer=optimizer, clip=clip)
    players, batch = started(Unrolled(gan, BATCH, 1))
    players = warm(gan, players, batch)
    real, z, noise = batch
    fake = gan.generator(players.generator, z)
    d = algorithms.unrolled_critic(
        gan, tg.track(players.critic), players.critic_state, real, fake, noise, unroll=4
    )
    close(tg.values(d), later_critic(gan, players, batch, 4), rtol=1e-9, atol=1e-12)


def test_a_clip_follows_every_inner_step():
    """Where a weight is clipped, θ moves it no more; differences say the same."""
    gan = make(losses.WASSERSTEIN, clip=0.4)
    game = Unrolled(gan, BATCH, 3)
    players, batch = started(game)
    players = players._replace(critic=clip_weights(players.critic, 0.4))
    found = game.directions(players, batch)
    f = later_loss(gan, players, batch, 3)
    check_slope(found.generator, f, players.generator, step=1e-5, tolerance=1e-6)
    free = Unrolled(make(losses.WASSERSTEIN), BATCH, 3).directions(players, batch)
    assert abs(free.generator_loss - found.generator_loss) > 1e-6
    new, _ = game.step(players, batch, 1.0)
    assert max(abs(a).max() for a in trees.leaves(new.critic)) == 0.4


def test_the_factor_of_a_schedule_multiplies_the_inner_rate():
    gan = make(rate=0.4)
    players, batch = started(Unrolled(gan, BATCH, 3))
    half = Unrolled(gan, BATCH, 3).directions(players, batch, 0.5)
    slow = Unrolled(make(rate=0.2), BATCH, 3).directions(players, batch)
    close(half.generator, slow.generator, rtol=1e-12)


def test_no_unrolling_is_the_ordinary_game():
    for gan in (make(penalty=PENALTIES["0-gp"]), make(losses.NON_SATURATING)):
        players, batch = started(Simultaneous(gan, BATCH))
        found = Unrolled(gan, BATCH, 0).directions(players, batch)
        g = generator_gradients(gan, players, batch[1])
        close(found.generator, g.tree, rtol=1e-12, atol=1e-16)
        assert found.generator_loss == pytest.approx(float(g.loss))
    zero_sum = Unrolled(make(), BATCH, 0, zero_sum=True).directions(players, batch)
    ordinary = generator_gradients(make(), players, batch[1])  # the minimax loss is the same game
    close(zero_sum.generator, ordinary.tree, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_that_are_exactly_zero_make_no_nan_in_adam(dtype):
    """A dead ReLU's weights, and a Wasserstein critic's last bias, with Adam at rest."""
    generator, critic = models.mlp_pair(2, 2, 4, 1)
    gan = GAN(generator, critic, optim.Adam(1e-2), optim.Adam(1e-2), losses.WASSERSTEIN)
    game = Unrolled(gan, BATCH, 3)
    players = game.init(tg.Stream(0), dtype)
    players.critic[0]["bias"][1] = -100.0
    batch = game.draw(lambda n, s: blob(n, s).astype(dtype), streams(), 0, dtype)
    slope = critic_gradients(gan, players, *batch).tree
    assert (slope[0]["weight"][:, 1] == 0).all()
    with np.errstate(all="raise", under="ignore"):
        found = game.directions(players, batch)
        new, numbers = game.step(players, batch, 1.0)
    for a in trees.leaves((found.generator, new.generator, new.critic)):
        assert np.isfinite(a).all() and a.dtype == dtype
    assert np.isfinite(numbers).all()


def test_the_root_without_its_floor_would_give_nan(monkeypatch):
    monkeypatch.setattr(algorithms, "FLOOR", 0.0)
    with pytest.raises(FloatingPointError, match="invalid value"):
        test_slopes_that_are_exactly_zero_make_no_nan_in_adam(np.float64)


# Compiled


def games(gan):
    return [
        Simultaneous(gan, BATCH),
        Consensus(gan, BATCH, 0.1),
        NagarajanKolter(gan, BATCH, 0.1),
        Unrolled(gan, BATCH, 2),
        Unrolled(gan, BATCH, 2, zero_sum=True),
    ]


def check_compiled(game, steps=3, tolerance=1e-10):
    players = game.init(tg.Stream(0), np.float64)
    step, drawn = tg.compile(game.step), streams()
    eager = replayed = players
    for i in range(steps):
        batch, factor = game.draw(blob, drawn, i, np.float64), 1.0 / (i + 1)
        eager, numbers = game.step(eager, batch, factor)
        replayed, others = step(replayed, batch, factor)
        close(replayed, eager, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(others, numbers, rtol=tolerance, atol=tolerance)
        assert len(others) == len(game.names)


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize(
    "loss, penalty",
    [
        *[(loss, "none") for loss in LOSSES],
        *[("non-saturating", penalty) for penalty in PENALTIES if penalty != "none"],
    ],
)
def test_a_compiled_step_is_the_eager_one(loss, penalty, way):
    check_compiled(games(make(LOSSES[loss], PENALTIES[penalty]))[way])


@pytest.mark.parametrize("way", range(5))
def test_a_compiled_step_with_adam_clip_average_and_one_batch(way):
    """Adam divides slopes near 0 by themselves, so rounding is seen through a magnifying glass."""
    gan = make(
        optimizer=lambda rate: optim.Adam(0.01), clip=0.5, one_batch=True, ema=0.9, average=True
    )
    check_compiled(games(gan)[way], tolerance=1e-7)


def test_batch_norm_in_the_generator_and_spectral_norm_in_the_critic():
    """Batch norm differentiated twice; singular vectors found anew after the step; an average."""
    from tinygan.models import Net
    from tinygan.spectral import SpectralNorm

    generator = Net(
        "G", (2,), {"in": nn.Linear(2, 3), "norm": nn.BatchNorm(3), "f": ops.tanh,
                    "out": nn.Linear(3, 2)},
    )  # fmt: skip
    critic = Net(
        "D", (2,), {"in": SpectralNorm(nn.Linear(2, 3)), "f": ops.tanh, "out": nn.Linear(3, 1)}
    )
    gan = GAN(generator, critic, optim.SGD(0.1), optim.SGD(0.1), losses.NON_SATURATING, ema=0.9)
    for game in games(gan):
        check_compiled(game)
        players, batch = started(game)
        new, _ = game.step(players, batch, 1.0)
        before, after = (p.critic["in"]["left"] for p in (players, new))
        assert abs(after - before).max() > 1e-6
        average = trees.tree_map(lambda a, p: 0.9 * a + 0.1 * p, players.generator, new.generator)
        close(new.average.params, average, rtol=1e-12)
    game = Unrolled(gan, BATCH, 2)
    players, batch = started(game)
    found = game.directions(players, batch)
    theta = players.generator
    f = fixed_vectors_loss(gan, players, batch, 2)
    check_slope(found.generator, f, theta, tolerance=1e-6)


def fixed_vectors_loss(gan, players, batch, unroll):
    """As ``later_loss``, with the singular vectors held over the inner steps."""

    def f(theta):
        now = players._replace(generator=theta)
        for _ in range(unroll):
            found = critic_gradients(gan, now, *batch)
            d, _ = gan.critic_optimizer.update(now.critic, found.tree, {})
            now = now._replace(critic=d)
        return gan.loss.generator(gan.critic(now.critic, gan.generator(theta, batch[1])))

    return f


@pytest.mark.parametrize("way", range(5))
def test_games_run_in_the_loop(way):
    game = games(make(penalty=PENALTIES["0-gp"]))[way]
    done = run(
        game, game.init(tg.Stream(0), np.float64), blob, 3, tg.Stream(1), schedule=lambda i: 0.5
    )
    assert done.history.records[-1]._fields == ("step", *game.names)
    samples = game.generate(done.players, 7, tg.Stream(2))
    assert samples.shape == (7, 2) and samples.dtype == np.float64


@pytest.mark.parametrize("way", range(5))
def test_a_schedule_may_have_a_factor_for_each_side(way):
    """One side's is 0: it stays; the other moves as with its own factor for both."""
    game = games(make(penalty=PENALTIES["0-gp"]))[way]
    players, batch = started(game)
    both, _ = game.step(players, batch, 0.5)
    critic, _ = game.step(players, batch, (0.5, 0.0))
    assert same(critic.critic, both.critic) and same(critic.generator, players.generator)
    generator, _ = game.step(players, batch, (0.0, 0.5))
    assert same(generator.critic, players.critic)
    assert not same(generator.generator, players.generator)
    assert game.rates == 2


def same(one, other):
    pairs = zip(trees.leaves(one), trees.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("way", range(5))
def test_float32_stays_float32(way):
    gan = make(penalty=PENALTIES["1-gp"], optimizer=lambda rate: optim.Adam(0.01))
    game = games(gan)[way]
    players = game.init(tg.Stream(0))
    batch = game.draw(lambda n, s: blob(n, s).astype(np.float32), streams(), 0, np.float32)
    for step in (game.step, tg.compile(game.step)):
        new, numbers = step(players, batch, 0.5)
        assert numbers.dtype == np.float32
        assert {a.dtype for a in trees.leaves(new)} == {np.dtype(np.float32), np.dtype(np.int64)}


@pytest.mark.parametrize("way", range(5))
def test_steps_work_where_the_players_live(stand_in, way):
    gan = make(penalty=PENALTIES["0-gp"], optimizer=lambda rate: optim.Adam(0.01))
    game = games(gan)[way]
    players, batch = started(game)
    there = trees.tree_map(lambda a: tg.to_device(a, "gpu"), (players, batch))
    expected, found = game.step(players, batch, 0.5), game.step(*there, 0.5)
    assert all(type(a) is stand_in.ndarray for a in trees.leaves(found))
    found = trees.tree_map(stand_in.get, found)
    close(found, expected, rtol=1e-6, atol=1e-9)
    assert type(game.generate(there[0], 3, tg.Stream(0, device="gpu"))) is stand_in.ndarray


# Planted faults: each is a plausible mistake, and each is told from the right way


def gradient_error(gan, players, batch, wrong, unroll=2):
    """How far a wrong generator direction is from differences, beside its own size."""
    f = later_loss(gan, players, batch, unroll)
    v, expected = slope(f, players.generator, tg.Stream(7))
    return abs(along(wrong, v) - expected) / abs(expected)


def test_a_cut_graph_is_not_unrolling():
    """The critic of later as a constant (the first-order surrogate) gives another gradient."""
    gan = make(penalty=PENALTIES["0-gp"])
    players, batch = started(Unrolled(gan, BATCH, 2))
    later = players._replace(critic=later_critic(gan, players, batch, 2))
    surrogate = generator_gradients(gan, later, batch[1]).tree
    right = Unrolled(gan, BATCH, 2).directions(players, batch).generator
    assert gradient_error(gan, players, batch, right) < 1e-8
    assert gradient_error(gan, players, batch, surrogate) > 1e-2


@pytest.mark.parametrize("fault", ["sign", "one step less", "rate", "no penalty", "no moments"])
def test_planted_faults_in_unrolling_are_caught(monkeypatch, fault):
    adam = fault == "no moments"
    optimizer = (lambda rate: optim.Adam(0.05, (0.5, 0.9))) if adam else optim.SGD
    gan = make(penalty=PENALTIES["0-gp"], optimizer=optimizer)
    players, batch = started(Unrolled(gan, BATCH, 2))
    players = warm(gan, players, batch)
    game, factor, given = Unrolled(gan, BATCH, 2), 1.0, players
    if fault == "sign":
        factor = -1.0
    elif fault == "one step less":
        game = Unrolled(gan, BATCH, 1)
    elif fault == "rate":
        factor = 1.1
    elif fault == "no penalty":
        right = algorithms.critic_loss
        monkeypatch.setattr(algorithms, "critic_loss", lambda *args: (right(*args)[0], None))
    else:
        given = players._replace(critic_state=gan.critic_optimizer.init(players.critic))
    wrong = game.directions(given, batch, factor).generator
    monkeypatch.undo()
    assert gradient_error(gan, players, batch, wrong) > 1e-4


@pytest.mark.parametrize("fault", ["sign", "half", "own slope alone"])
def test_planted_faults_in_consensus_are_caught(fault):
    gan = make(penalty=PENALTIES["0-gp"])
    players, batch = started(Consensus(gan, BATCH, 1.0))
    found = Consensus(gan, BATCH, 1.0).directions(players, batch)
    plain = algorithms.simultaneous_gradients(gan, players, *batch)
    pull = trees.tree_map(np.subtract, found.generator, plain.generator)
    if fault == "sign":
        wrong = trees.tree_map(np.negative, pull)
    elif fault == "half":
        wrong = trees.tree_map(lambda a: 2 * a, pull)
    else:  # without the part of R that is the critic's slope
        theirs = algorithms.nagarajan_kolter_gradients(gan, players, *batch, weight=0.5)
        theirs = trees.tree_map(np.subtract, theirs.generator, plain.generator)
        wrong = trees.tree_map(np.subtract, pull, theirs)
    f = energy(gan, batch)
    v, expected = slope(lambda g: f((g, players.critic)), players.generator, tg.Stream(7))
    assert along(pull, v) == pytest.approx(expected, rel=1e-7)
    assert abs(along(wrong, v) - expected) > 1e-3 * abs(expected)


# Errors


def test_what_makes_no_sense_is_refused():
    gan = make()
    with pytest.raises(ValueError, match="Simultaneous: batch is 0; expected at least 1"):
        Simultaneous(gan, 0)
    with pytest.raises(ValueError, match="Consensus: weight is -1; expected a number of at least"):
        Consensus(gan, 4, -1)
    with pytest.raises(ValueError, match="NagarajanKolter: weight is nan"):
        NagarajanKolter(gan, 4, float("nan"))
    with pytest.raises(ValueError, match="Unrolled: unroll is -1; expected 0 or more"):
        Unrolled(gan, 4, -1)
    with pytest.raises(ValueError, match="Unrolled: rate is 0; expected a number above 0, or None"):
        Unrolled(gan, 4, 1, 0)


@pytest.mark.parametrize("optimizer", [optim.RMSProp(0.1), optim.SGD(0.1, momentum=0.9)])
def test_an_optimiser_that_is_not_unrolled_needs_a_rate(optimizer):
    gan = replace(make(), critic_optimizer=optimizer)
    with pytest.raises(ValueError, match="expected Adam, or SGD without momentum.*Give a rate"):
        Unrolled(gan, 4, 1)
    game = Unrolled(gan, BATCH, 1, 0.1)
    players, batch = started(game)
    found = game.directions(players, batch)
    check_slope(found.generator, later_loss(gan, players, batch, 1, 0.1), players.generator)


def test_networks_that_draw_noise_are_refused():
    noisy = models.Net(
        "D", (2,), {"in": nn.Linear(2, 3), "out": nn.Linear(3, 1), "noise": nn.Noise(0.1)}
    )
    gan = replace(make(), critic=noisy)
    with pytest.raises(ValueError, match="Consensus: the critic draws noise in its layers"):
        Consensus(gan, 4, 1.0)


def test_data_of_another_dtype_are_refused():
    game = Simultaneous(make(), BATCH)
    with pytest.raises(TypeError, match="expected an array of float32"):
        game.draw(blob, streams(), 0, np.dtype(np.float32))
