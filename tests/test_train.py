"""Training: steps against composition and PyTorch, the loop, its stops and its history."""

import csv
import io
import math
import signal
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import record_optimisers as recorder
from test_optim import constants

from tinygan import (
    conv,
    loop,
    losses,
    lowering,
    models,
    nn,
    norms,
    ops,
    optim,
    parallel,
    penalties,
    tree,
)
from tinygan.backend import Stream
from tinygan.engine import grad_values, track
from tinygan.game import Streams
from tinygan.penalties import Penalty, clip_weights
from tinygan.replay import compile, compiled, cpu, fuse, storage
from tinygan.replay.statistics import Statistics
from tinygan.spectral import refreshed, singular_value, spectral_norm
from tinygan.train import (
    GAN,
    Alternating,
    Diverged,
    History,
    LayerNoise,
    Record,
    critic_gradients,
    critic_step,
    generator_gradients,
    generator_step,
    iteration,
    normal_prior,
    train,
    uniform_prior,
)

PAIR = models.mlp_pair(2, 3, 6, 2, activation=ops.tanh)


def game(loss=losses.NON_SATURATING, penalty=None, **choices):
    """A small game in the plane, with two rates."""
    return GAN(
        PAIR.generator, PAIR.critic, optim.SGD(0.05), optim.SGD(0.2), loss, penalty, **choices
    )


def flat(params):
    return np.concatenate([a.reshape(-1) for a in tree.leaves(params)])


def same(one, other):
    pairs = zip(tree.leaves(one), tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def batch_of(n=8, dtype=np.float64):
    stream = Stream(5)
    return stream.normal((n, 2), dtype), stream.normal((n, 3), dtype), stream


def ring(n, stream):
    """Data: the unit circle, with a little noise."""
    angle = 2 * np.pi * stream.uniform((n, 1))
    return np.concatenate([np.cos(angle), np.sin(angle)], 1) + 0.1 * stream.normal((n, 2))


def run(gan, steps=4, seed=1, sample=ring, batch=8, start=None, **choices):
    players = gan.init(Stream(0)) if start is None else start
    return train(gan, players, sample, steps, Stream(seed), batch=batch, latent=3, **choices)


both_ways = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])


# One step against its composition

GAMES = {
    "non-saturating": game(),
    "minimax, averaged": game(losses.MINIMAX, average=True),
    "wgan-gp": game(losses.WASSERSTEIN, penalties.one_gp(10.0)),
    "0-gp on a probability": game(penalty=penalties.zero_gp(10.0, of=ops.sigmoid)),
    "hinge, dragan": game(losses.HINGE, penalties.dragan(10.0)),
    "least squares, r1": game(losses.LEAST_SQUARES, penalties.r1(2.0)),
}
each_game = pytest.mark.parametrize("gan", GAMES.values(), ids=GAMES)


@each_game
def test_the_critics_gradient_is_that_of_loss_plus_penalty(gan):
    players = gan.init(Stream(0), np.float64)
    real, z, stream = batch_of()
    noise = gan.penalty.draw(stream, real) if gan.penalty else ()
    found = critic_gradients(gan, players, real, z, noise)

    d = track(players.critic)
    fake = PAIR.generator(players.generator, z)
    loss = gan.loss.critic(PAIR.critic(d, real), PAIR.critic(d, fake), gan.average)
    expected = grad_values(loss, d)
    if gan.penalty:
        penalty = gan.penalty(lambda x: PAIR.critic(d, x), real, fake, *noise)
        assert found.penalty == penalty.data > 0
        parts = zip(tree.leaves(expected), tree.leaves(grad_values(penalty, d)), strict=True)
        expected = tree.rebuild(expected, [a + b for a, b in parts])
    else:
        assert found.penalty is None
    assert found.loss == loss.data
    assert np.linalg.norm(flat(expected)) > 0.01
    for (path, a), b in zip(tree.paths(found.tree), tree.leaves(expected), strict=True):
        assert type(a) is np.ndarray
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13, err_msg=path)


@each_game
def test_the_generators_gradient_is_that_of_its_loss_through_the_critic(gan):
    players = gan.init(Stream(0), np.float64)
    _, z, _ = batch_of()
    found = generator_gradients(gan, players, z)
    g = track(players.generator)
    loss = gan.loss.generator(PAIR.critic(players.critic, PAIR.generator(g, z)))
    assert found.loss == loss.data and found.penalty is None
    assert np.linalg.norm(flat(found.tree)) > 1e-4
    assert same(found.tree, grad_values(loss, g))


def steps_of_both(gan, seed):
    """What both steps hold that no argument and no primitive made; every seed has its numbers."""
    stream, players = Stream(seed), gan.init(Stream(seed, 99))
    real, z, rate = stream.normal((8, 2)), stream.normal((8, 3)), np.array(0.01 * seed)
    noise = gan.penalty.draw(stream, real) if gan.penalty else ()
    for _ in range(seed):
        players, _ = critic_step(gan, players, real, z, noise)
    return constants(
        lambda *args: tuple(critic_step(gan, *args)), players, real, z, noise, rate
    ) + constants(lambda *args: tuple(generator_step(gan, *args)), players, z, rate)


@pytest.mark.parametrize(
    "gan",
    [
        *GAMES.values(),
        game(losses.WASSERSTEIN, clip=0.1, clip_everything=True, one_batch=True),
        GAN(*PAIR, optim.RMSProp(0.1), optim.Adam(0.1), penalty=penalties.zero_gp_sample()),
    ],
    ids=[*GAMES, "clipped, one batch", "adam"],
)
def test_a_step_is_made_of_primitives_and_constants(gan):
    """A recorder of primitives sees all of it, and no constant differs from step to step."""
    np.testing.assert_equal(steps_of_both(gan, 1), steps_of_both(gan, 2))


def test_a_step_is_the_optimisers_update():
    gan = game(losses.WASSERSTEIN, penalties.one_gp())
    players = gan.init(Stream(0), np.float64)
    real, z, stream = batch_of()
    noise = gan.penalty.draw(stream, real)
    new, found = critic_step(gan, players, real, z, noise)
    assert same(new.critic, optim.SGD(0.2).update(players.critic, found.tree, {})[0])
    new, found = generator_step(gan, players, z)
    assert same(new.generator, optim.SGD(0.05).update(players.generator, found.tree, {})[0])
    new, found = generator_step(gan, players, z, rate=0.5)
    assert same(new.generator, optim.SGD(0.5).update(players.generator, found.tree, {})[0])


def test_a_step_takes_over_the_optimisers_state():
    adam, sgd = optim.Adam(0.1), optim.SGD(0.1, momentum=0.9)
    gan = GAN(PAIR.generator, PAIR.critic, sgd, adam)
    players = gan.init(Stream(0), np.float64)
    real, z, _ = batch_of()
    for _ in range(2):
        before = players
        players, found = critic_step(gan, before, real, z)
        d, state = adam.update(before.critic, found.tree, before.critic_state)
        assert same(players.critic, d) and same(players.critic_state, state)
        players, found = generator_step(gan, players, z)
        g, state = sgd.update(before.generator, found.tree, before.generator_state)
        assert same(players.generator, g) and same(players.generator_state, state)
    assert players.critic_state["step"] == 2


def test_each_side_leaves_the_others_arrays_alone():
    """The very same objects, and no gradient of theirs."""
    adam = optim.Adam(0.1)
    gan = GAN(PAIR.generator, PAIR.critic, adam, adam, penalty=penalties.zero_gp())
    players = gan.init(Stream(0), np.float64)
    before = tree.tree_map(lambda a: a.copy() if hasattr(a, "copy") else a, tuple(players))
    real, z, stream = batch_of()
    after, found = critic_step(gan, players, real, z, gan.penalty.draw(stream, real))
    assert after.generator is players.generator
    assert after.generator_state is players.generator_state
    assert not same(after.critic, players.critic)
    assert [a.shape for a in tree.leaves(found.tree)] == [
        a.shape for a in tree.leaves(players.critic)
    ]
    after, _ = generator_step(gan, players, z)
    assert after.critic is players.critic and after.critic_state is players.critic_state
    assert not same(after.generator, players.generator)
    assert same(tuple(players), before)  # nothing was changed in place


def test_the_critic_is_clipped_after_its_step():
    gan = game(losses.WASSERSTEIN, clip=0.01)
    players = gan.init(Stream(0), np.float64)
    real, z, _ = batch_of()
    new, found = critic_step(gan, players, real, z)
    free = optim.SGD(0.2).update(players.critic, found.tree, {})[0]
    assert same(new.critic, clip_weights(free, 0.01))
    assert abs(flat(new.critic)).max() == 0.01 < abs(flat(free)).max()
    assert same(generator_step(gan, new, z)[0].critic, new.critic)


def test_steps_on_other_devices(xp):
    """float64: the same numbers to rounding."""
    gan = game(losses.WASSERSTEIN, penalties.one_gp(10.0, of=ops.sigmoid))
    players = gan.init(Stream(0), np.float64)
    real, z, stream = batch_of()
    noise = gan.penalty.draw(stream, real)
    here = generator_step(gan, critic_step(gan, players, real, z, noise)[0], z)[0]
    there = tree.tree_map(xp.asarray, players)
    real, z, noise = tree.tree_map(xp.asarray, (real, z, noise))
    there = generator_step(gan, critic_step(gan, there, real, z, noise)[0], z)[0]
    for a, b in zip(tree.leaves(here), tree.leaves(there), strict=True):
        np.testing.assert_allclose(xp.get(b), a, rtol=1e-11, atol=1e-13)


# One step against PyTorch

LOSSES = {
    "wasserstein": losses.WASSERSTEIN,
    "non-saturating": losses.NON_SATURATING,
    "minimax": losses.MINIMAX,
    "least squares": losses.LEAST_SQUARES,
    "hinge": losses.HINGE,
}
PLACES = {
    "interpolates": penalties.INTERPOLATES,
    "real": penalties.REAL,
    "dragan": penalties.DRAGAN,
}


@pytest.mark.parametrize("name", recorder.GAMES)
def test_a_critic_step_and_a_generator_step_are_pytorchs(name):
    loss, (where, centre, one_sided, probability), weight, activation = recorder.GAMES[name]
    activation = getattr(ops, activation)
    adam = optim.Adam(1e-2, betas=(0.5, 0.9))
    gan = GAN(
        models.MLP(recorder.GENERATOR, activation),
        models.MLP(recorder.CRITIC, activation),
        adam,
        adam,
        LOSSES[loss],
        Penalty(weight, PLACES[where], centre, one_sided, ops.sigmoid if probability else None),
    )
    arrays = recorder.game_arrays()
    g, d = arrays["generator"], arrays["critic"]
    players = gan.init(Stream(0), np.float64)._replace(generator=g, critic=d)
    noise = {"interpolates": ["alpha"], "dragan": ["alpha", "u"]}.get(where, [])
    noise = [arrays[key] for key in noise]
    players, critic = critic_step(gan, players, arrays["real"], arrays["z"], noise)
    players, generator = generator_step(gan, players, arrays["z"])

    ours = {
        "losses": np.array([critic.loss, critic.penalty, generator.loss]),
        "critic gradient": flat(critic.tree),
        "critic after": flat(players.critic),
        "generator gradient": flat(generator.tree),
        "generator after": flat(players.generator),
    }
    with np.load(recorder.FILE) as file:
        theirs = {key: file[f"{name}/{key}"] for key in ours}
    assert theirs["losses"][1] > 1e-3
    for key, array in ours.items():
        scale = abs(theirs[key]).max()
        assert scale > 1e-2
        # Adam turns a gradient that cancels, 1e-17 or 0, into a step of 1e-11 or 0.
        atol = (1e-10 if "after" in key else 1e-12) * scale
        np.testing.assert_allclose(array, theirs[key], rtol=1e-10, atol=atol, err_msg=key)


# The loop


def exact_ring(n, stream):
    """The same circle in float64."""
    return ring(n, stream).astype(np.float64)


def by_hand(
    gan, steps, critic_steps=1, schedule=lambda step: 1.0, sample=ring, dtype=np.float32, batch=8
):
    """What :func:`train` says it does, written out."""
    players, stream = gan.init(Stream(0), dtype), Stream(1)
    data, points, noise = (stream.child(i) for i in range(3))
    for step in range(steps):
        for _ in range(critic_steps):
            real, z = sample(batch, data), points.normal((batch, 3), dtype)
            extra = gan.penalty.draw(noise, real) if gan.penalty else ()
            rate = gan.critic_optimizer.rate * schedule(step)
            players, _ = critic_step(gan, players, real, z, extra, rate)
        z = points.normal((batch, 3), dtype)
        players, _ = generator_step(gan, players, z, gan.generator_optimizer.rate * schedule(step))
    return players


def trained(gan, steps, compiled, **choices):
    """The players after some iterations: of eager training those written out, bit for bit."""
    if compiled:
        return run(gan, steps, **choices).players
    return by_hand(gan, steps, **choices)


@pytest.mark.parametrize("critic_steps", [1, 3])
@each_game
def test_training_is_its_steps_written_out(gan, critic_steps):
    found = run(gan, critic_steps=critic_steps, compiled=False)
    assert same(found.players, by_hand(gan, 4, critic_steps=critic_steps))
    assert not found.interrupted


def equal_to_rounding(one, other, bound=1e-7):
    """Rounding grows from iteration to iteration, and the more the larger the rates are."""
    for (path, a), b in zip(tree.paths(tuple(one)), tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound * abs(b).max(), err_msg=path)


@pytest.mark.parametrize("critic_steps", [1, 3])
@each_game
def test_compiled_training_is_its_steps_written_out_to_rounding(gan, critic_steps):
    start = gan.init(Stream(0), np.float64)
    found = run(gan, 5, critic_steps=critic_steps, start=start, sample=exact_ring)
    expected = by_hand(gan, 5, critic_steps, sample=exact_ring, dtype=np.float64)
    equal_to_rounding(found.players, expected)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    gan = game(penalty=penalties.zero_gp())
    one, again, other = run(gan), run(gan), run(gan, seed=2)
    assert same(one.players, again.players) and one.history == again.history
    assert not same(one.players.generator, other.players.generator)
    assert not same(one.players.critic, other.players.critic)


def test_the_two_sides_start_from_streams_of_their_own():
    gan = game()
    players = gan.init(Stream(0))
    assert same(players.generator, PAIR.generator.init(Stream(0).child(0)))
    assert same(players.critic, PAIR.critic.init(Stream(0).child(1)))
    assert all(a.dtype == np.float64 for a in tree.leaves(gan.init(Stream(0), np.float64)[:2]))


def test_every_critic_step_has_a_fresh_batch():
    seen = []

    def sample(n, stream):
        seen.append(ring(n, stream))
        return seen[-1]

    run(game(), steps=3, sample=sample, critic_steps=5)
    assert len(seen) == 15
    assert len({a.tobytes() for a in seen}) == 15
    assert all(a.shape == (8, 2) for a in seen)


def test_every_step_has_fresh_latent_points():
    seen = []

    class Watched:
        init = PAIR.generator.init

        def __call__(self, params, z):
            seen.append(z.tobytes())
            return PAIR.generator(params, z)

    gan = GAN(Watched(), PAIR.critic, optim.SGD(0.1), optim.SGD(0.1))
    run(gan, steps=3, critic_steps=2, compiled=False)
    assert len(seen) == len(set(seen)) == 9  # 2 critic steps and a generator step, three times


def test_two_rates_belong_to_two_sides():
    def moved(generator_rate, critic_rate):
        gan = GAN(PAIR.generator, PAIR.critic, optim.SGD(generator_rate), optim.SGD(critic_rate))
        start = gan.init(Stream(0))
        end = run(gan, steps=1, start=start).players
        return tuple(
            np.linalg.norm(flat(getattr(end, side)) - flat(getattr(start, side)))
            for side in ("generator", "critic")
        )

    slow, fast_critic, fast_generator = moved(1e-3, 1e-3), moved(1e-3, 3e-3), moved(3e-3, 1e-3)
    assert fast_critic[1] == pytest.approx(3 * slow[1], rel=1e-3)
    assert fast_critic[0] == pytest.approx(slow[0], rel=0.1)
    assert fast_generator[0] == pytest.approx(3 * slow[0], rel=1e-3)
    assert fast_generator[1] == slow[1]


@both_ways
def test_a_schedule_multiplies_both_rates(compiled):
    gan = game(penalty=penalties.zero_gp())
    schedule = optim.LinearDecay(1.0, 0.0, 4)
    start = gan.init(Stream(0), np.float64)
    exact = {"start": start, "sample": exact_ring, "compiled": compiled}
    found = run(gan, schedule=schedule, **exact)
    expected = by_hand(gan, 4, schedule=schedule, sample=exact_ring, dtype=np.float64)
    assert compiled or same(found.players, expected)
    equal_to_rounding(found.players, expected)
    with pytest.raises(AssertionError):
        equal_to_rounding(run(gan, **exact).players, expected)

    frozen = run(gan, schedule=lambda step: 0.0, **exact).players
    assert same(frozen, start)


def test_a_schedule_is_asked_once_an_iteration_from_zero_on():
    asked = []
    run(game(), steps=3, critic_steps=2, schedule=lambda step: asked.append(step) or 1.0)
    assert asked == [0, 1, 2]


def test_clipping_holds_at_the_end():
    found = run(game(losses.WASSERSTEIN, clip=0.02), critic_steps=2)
    assert abs(flat(found.players.critic)).max() <= np.float32(0.02)
    assert abs(flat(found.players.generator)).max() > 0.02


def test_no_steps_change_nothing():
    gan = game()
    start = gan.init(Stream(0))
    found = run(gan, steps=0, start=start)
    assert found.players is start and found.history.records == [] and not found.interrupted


def test_training_in_float64():
    gan = game(penalty=penalties.one_gp())
    found = run(
        gan,
        start=gan.init(Stream(0), np.float64),
        sample=lambda n, stream: stream.normal((n, 2), np.float64),
    )
    assert all(a.dtype == np.float64 for a in tree.leaves(found.players[:2]))


def test_training_on_another_device_is_the_same_run(xp):
    gan = game(losses.WASSERSTEIN, penalties.one_gp(0.1))

    def on(device):
        stream = Stream(1, device=device)
        players = gan.init(Stream(0, device=device))
        sample = lambda n, stream: stream.normal((n, 2))  # noqa: E731
        return train(gan, players, sample, 3, stream, batch=8, latent=3, critic_steps=2)

    here, there = on("cpu"), on(xp.device)
    for a, b in zip(tree.leaves(here.players), tree.leaves(there.players), strict=True):
        np.testing.assert_allclose(xp.get(b), a, rtol=1e-4, atol=1e-6)
    assert all(type(x) in (int, float) for record in there.history.records for x in record)


def test_a_wasserstein_critic_of_two_points_finds_their_distance():
    """Real at 1, fake at −1, one-sided penalty: −loss → W₁ = 2 (a little more by its softness)."""
    critic = models.MLP((1, 16, 1))
    gan = GAN(
        models.MLP((1, 1)),
        critic,
        optim.SGD(1e-12),
        optim.Adam(0.01, (0.5, 0.9)),
        losses.WASSERSTEIN,
        penalties.lp(10.0),
    )
    start = gan.init(Stream(0))
    at = [{"weight": np.zeros((1, 1), np.float32), "bias": np.array([-1], np.float32)}]
    found = train(
        gan,
        start._replace(generator=at),
        lambda n, stream: np.ones((n, 1), np.float32),
        300,
        Stream(1),
        batch=32,
        latent=1,
    )
    assert -found.history.records[-1].critic_loss == pytest.approx(2, abs=0.25)
    assert -found.history.records[0].critic_loss < 1.5


def test_a_line_learns_a_normal_distribution():
    """G(z) = az + b from N(0, 1) to N(3, .5²): the mean and the deviation come within .2."""
    gan = GAN(
        models.MLP((1, 1)),
        models.MLP((1, 16, 1), ops.tanh),
        optim.Adam(0.01, (0.5, 0.9)),
        optim.Adam(0.02, (0.5, 0.9)),
        losses.NON_SATURATING,
        penalties.r1(0.5),
    )

    def normal(n, stream):
        return 3 + np.float32(0.5) * stream.normal((n, 1))

    found = train(gan, gan.init(Stream(3)), normal, 800, Stream(4), batch=64, latent=1)
    (layer,) = found.players.generator
    assert layer["bias"][0] == pytest.approx(3, abs=0.2)
    assert abs(layer["weight"][0, 0]) == pytest.approx(0.5, abs=0.2)
    undecided = found.history.column("critic_loss")[-100:].mean()
    assert undecided == pytest.approx(2 * math.log(2), abs=0.1)


# History


@both_ways
@pytest.mark.parametrize("critic_steps", [1, 2])
def test_a_record_holds_floats_of_its_iteration(compiled, critic_steps):
    """Of several steps of the critic, those of the last."""
    gan = game(losses.WASSERSTEIN, penalties.one_gp(3.0))
    found = run(gan, steps=3, compiled=compiled, critic_steps=critic_steps)
    players, stream = gan.init(Stream(0)), Stream(1)
    data, points, noise = (stream.child(i) for i in range(3))
    for record in found.history.records:
        for _ in range(critic_steps):
            real, z = ring(8, data), points.normal((8, 3))
            players, critic = critic_step(gan, players, real, z, gan.penalty.draw(noise, real))
        players, generator = generator_step(gan, players, points.normal((8, 3)))
        assert all(type(x) is float for x in record[1:])
        written_out = tuple(map(float, (critic.loss, critic.penalty, generator.loss)))
        assert compiled or record[1:4] == written_out
        assert record[1:4] == pytest.approx(written_out, rel=1e-4)
        norms = [np.linalg.norm(flat(found.tree)) for found in (critic, generator)]
        both = [record.critic_gradient, record.generator_gradient]
        assert both == pytest.approx(norms, rel=1e-4, abs=2e-8)  # rounding, where eager has 0
    assert [record.step for record in found.history.records] == [1, 2, 3]


def test_without_a_penalty_its_column_is_zero():
    assert run(game()).history.column("penalty").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "steps, every, recorded",
    [(6, 1, [1, 2, 3, 4, 5, 6]), (6, 2, [2, 4, 6]), (7, 3, [3, 6, 7]), (2, 10, [2])],
)
def test_record_every(steps, every, recorded):
    history = run(game(), steps=steps, record_every=every).history
    assert history.column("step").tolist() == recorded
    full = run(game(), steps=steps).history
    assert history.records == [full.records[i - 1] for i in recorded]


def test_a_history_is_written_as_csv():
    history = History(
        [Record(1, 0.5, 0.0, 0.1, 1.25, 1 / 3), Record(2, -1e-30, 2.5, 0.1, 1e30, 0.0)]
    )
    text = history.csv()
    assert text.endswith("\n") and "\r" not in text and len(text.splitlines()) == 3
    header, *rows = csv.reader(io.StringIO(text))
    assert header == [
        "step",
        "critic_loss",
        "penalty",
        "generator_loss",
        "critic_gradient",
        "generator_gradient",
    ]
    assert [Record(int(row[0]), *map(float, row[1:])) for row in rows] == history.records


def test_a_column_is_an_array():
    history = run(game(), steps=3).history
    column = history.column("generator_loss")
    assert column.shape == (3,) and column[1] == history.records[1].generator_loss
    with pytest.raises(AttributeError):
        history.column("nothing")


# Watching and stopping


@both_ways
def test_watch_sees_the_start_and_every_iteration(compiled):
    seen = []
    gan = game()
    start = gan.init(Stream(0))
    keep = lambda step, players: seen.append((step, players))  # noqa: E731
    found = run(gan, start=start, watch=keep, compiled=compiled)
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4]
    assert seen[0][1] is start and seen[-1][1] is found.players
    for step, players in seen[1:]:
        assert same(players, trained(gan, step, compiled))


def test_watching_changes_nothing():
    assert same(run(game()).players, run(game(), watch=lambda step, players: None).players)


def interrupt_at(when):
    def watch(step, players):
        if step == when:
            raise KeyboardInterrupt

    return watch


@both_ways
@pytest.mark.parametrize("when", [0, 1, 3])
def test_ctrl_c_between_iterations_returns_the_last_whole_one(when, compiled):
    gan = game(penalty=penalties.zero_gp())
    found = run(gan, steps=100, watch=interrupt_at(when), compiled=compiled)
    assert found.interrupted
    assert same(found.players, trained(gan, when, compiled))
    assert found.history.column("step").tolist() == list(range(1, when + 1))


@both_ways
@pytest.mark.parametrize("calls", [1, 5, 6])
def test_ctrl_c_within_an_iteration_takes_nothing_of_it_over(calls, compiled):
    """Of three critic steps an iteration, the fifth batch belongs to the second."""
    gan, seen = game(penalty=penalties.zero_gp()), []

    def sample(n, stream):
        seen.append(n)
        if len(seen) == calls:
            raise KeyboardInterrupt
        return ring(n, stream)

    found = run(gan, steps=100, sample=sample, critic_steps=3, compiled=compiled)
    whole = (calls - 1) // 3
    assert found.interrupted
    assert same(found.players, trained(gan, whole, compiled, critic_steps=3))
    assert found.history.column("step").tolist() == list(range(1, whole + 1))


@pytest.fixture
def listening():
    """Python's own handler of Ctrl-C: a shell's background job ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@both_ways
def test_a_real_signal_is_ctrl_c(listening, compiled):
    def sample(n, stream):
        if stream.counter > 200:
            signal.raise_signal(signal.SIGINT)
        return ring(n, stream)

    found = run(game(), steps=10**4, sample=sample, compiled=compiled)
    assert found.interrupted and 0 < len(found.history.records) < 200
    assert same(found.players, trained(game(), len(found.history.records), compiled))


@pytest.mark.parametrize("microseconds", range(300, 3000, 600))
def test_a_signal_in_the_middle_of_a_replay_leaves_the_last_whole_iteration(microseconds):
    """A signal that arrives at any moment; what is kept is as without it."""
    gan = game(losses.WASSERSTEIN, penalties.one_gp())

    def watch(step, players):
        if step == 5:  # the recording is long done
            signal.setitimer(signal.ITIMER_REAL, microseconds * 1e-6)

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        found = run(gan, 10**6, watch=watch)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert found.interrupted
    assert same(found.players, run(gan, found.history.records[-1].step).players)


def test_the_last_iteration_is_recorded_after_ctrl_c_too():
    history = run(game(), steps=100, record_every=5, watch=interrupt_at(7)).history
    assert history.column("step").tolist() == [5, 7]
    history = run(game(), steps=100, record_every=5, watch=interrupt_at(5)).history
    assert history.column("step").tolist() == [5]


def test_other_exceptions_are_not_swallowed():
    def watch(step, players):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(game(), watch=watch)


def test_a_progress_bar_on_request(capsys):
    run(game())
    assert capsys.readouterr().err == ""
    run(game(), progress=True)
    shown = capsys.readouterr().err
    assert "4/4" in shown and "critic" in shown and "generator" in shown


# Divergence


def poisoned(at, value):
    """Data whose batch number ``at`` holds one number that is not finite."""
    seen = []

    def sample(n, stream):
        seen.append(n)
        real = ring(n, stream)
        if len(seen) == at:
            real[0, 0] = value
        return real

    return sample


@both_ways
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("penalty", [None, penalties.one_gp()], ids=["no penalty", "1-gp"])
def test_data_that_are_not_finite_stop_training_with_a_diagnosis(value, penalty, compiled):
    gan = game(losses.WASSERSTEIN, penalty)
    with pytest.raises(Diverged) as caught:
        run(gan, steps=10, sample=poisoned(4, value), compiled=compiled)
    message = str(caught.value)
    assert "iteration 4: the critic's step is no longer finite: its input batch" in message
    assert "check the data" in message.lower()
    assert same(caught.value.players, trained(gan, 3, compiled))
    assert caught.value.history.column("step").tolist() == [1, 2, 3]
    assert isinstance(caught.value, RuntimeError)


@both_ways
@pytest.mark.parametrize("batch", [4, 5, 6])
def test_the_diagnosis_is_of_the_step_that_broke(batch, compiled):
    """The second of three critic steps, say: the parameters it names are those before that step."""
    gan = game(losses.WASSERSTEIN)
    with pytest.raises(Diverged) as caught:
        run(gan, steps=10, sample=poisoned(batch, np.nan), critic_steps=3, compiled=compiled)
    players, stream = by_hand(gan, 1, critic_steps=3), Stream(1)
    data, points = stream.child(0), stream.child(1)
    for _ in range(3):
        ring(8, data), points.normal((8, 3))
    points.normal((8, 3))
    for _ in range(batch - 4):
        players, _ = critic_step(gan, players, ring(8, data), points.normal((8, 3)))
    largest = max(abs(flat(players.generator)).max(), abs(flat(players.critic)).max())
    assert "iteration 2: the critic's step is no longer finite: its input" in str(caught.value)
    assert f"before it was {largest:.3g}, in" in str(caught.value)
    assert same(caught.value.players, trained(gan, 1, compiled, critic_steps=3))


def test_a_number_that_is_not_finite_only_as_compiled_is_told_as_such(monkeypatch):
    """Rounding may decide at the very end of float32's range."""

    def broken(step):
        def run(*args):
            players, numbers = step(*args)
            return players, np.where(np.arange(6) == 1, np.inf, numbers)

        return run

    monkeypatch.setattr("tinygan.replay.compile", broken)
    with pytest.raises(Diverged, match="iteration 1: as compiled, .* the penalty inf") as caught:
        run(game(penalty=penalties.zero_gp()))
    assert same(caught.value.players, game().init(Stream(0)))


def diverge(generator_rate=0.01, critic_rate=0.01, penalty=None, loss=losses.NON_SATURATING, **how):
    gan = GAN(
        *models.mlp_pair(2, 3, 6, 2, activation=ops.leaky_relu),
        optim.SGD(generator_rate),
        optim.SGD(critic_rate),
        loss,
        penalty,
    )
    with pytest.raises(Diverged) as caught:
        run(gan, steps=50, **how)
    return gan, caught.value


@both_ways
@pytest.mark.parametrize("rate", [1e3, 1e10, 1e20])
def test_a_huge_rate_stops_training_without_a_warning(rate, compiled):
    """Warnings are errors here: what overflows on the way is not shown, the diagnosis is."""
    gan, error = diverge(rate, rate, penalties.one_gp(10.0), compiled=compiled)
    assert "is no longer finite" in str(error) and "rate" in str(error)
    done = len(error.history.records)
    assert [record.step for record in error.history.records] == list(range(1, done + 1))
    assert np.isfinite(flat(error.players[:2])).all()
    assert all(math.isfinite(x) for record in error.history.records for x in record)


@both_ways
def test_the_diagnosis_names_the_largest_parameter_and_the_rate_of_its_side(compiled):
    """Whichever side's step it was that met the first infinity."""
    how = {"loss": losses.LEAST_SQUARES, "compiled": compiled}
    _, error = diverge(critic_rate=1e6, generator_rate=1e-30, **how)
    assert ", in D." in str(error) and "the critic's rate" in str(error)
    _, error = diverge(generator_rate=1e6, critic_rate=1e-30, **how)
    assert ", in G." in str(error) and "the generator's rate" in str(error)


@both_ways
@pytest.mark.parametrize("steps", [1, 5])
def test_the_players_of_a_diverged_run_are_finite_even_if_an_update_overflowed(steps, compiled):
    """A finite gradient of some 100 times a rate of 10³⁸ leaves float32 in the update itself."""
    line = models.MLP((3, 2))
    gan = GAN(line, models.MLP((2, 1)), optim.SGD(1e38), optim.SGD(1e-3), losses.WASSERSTEIN)
    start = gan.init(Stream(0))
    start = start._replace(critic=tree.tree_map(lambda a: 100 * a, start.critic))
    z = Stream(5).normal((8, 3))
    with np.errstate(over="ignore"):
        new, found = generator_step(gan, start, z)
    assert np.isfinite(flat(found.tree)).all() and np.isinf(flat(new.generator)).any()
    with pytest.raises(Diverged) as caught:
        run(gan, steps=steps, start=start, compiled=compiled)
    assert np.isfinite(flat(caught.value.players[:2])).all()
    assert caught.value.history.records == []  # the iteration whose update is lost is not told


@both_ways
@pytest.mark.parametrize("steps", [4, 6])
def test_the_players_of_a_diverged_run_are_those_before_the_update_that_overflowed(steps, compiled):
    """The generator's: the iteration's own numbers are still finite."""
    gan = GAN(*PAIR, optim.SGD(0.05), optim.SGD(1e-40), losses.WASSERSTEIN)
    schedule = lambda step: 1e40 if step == 3 else 1.0  # noqa: E731
    with pytest.raises(Diverged) as caught:
        run(gan, steps=steps, schedule=schedule, compiled=compiled)
    assert same(caught.value.players, trained(gan, 3, compiled))
    assert caught.value.history.column("step").tolist() == [1, 2, 3]


# Priors and generator steps


def test_the_normal_prior_is_the_streams_normal_numbers():
    z = normal_prior(Stream(3), (20000, 2), np.float32)
    np.testing.assert_array_equal(z, Stream(3).normal((20000, 2)))
    assert z.dtype == np.float32 and abs(z.mean()) < 0.02
    assert z.std() == pytest.approx(1, abs=0.02) and abs(z).max() > 3
    assert normal_prior(Stream(3), (2, 2), np.float64).dtype == np.float64


def test_the_uniform_prior_fills_minus_one_to_one():
    """A variance of ⅓, no correlation, and half the points on each side of 0."""
    z = uniform_prior(Stream(3), (20000, 2), np.float32)
    np.testing.assert_array_equal(z, 2 * Stream(3).uniform((20000, 2)) - 1)
    assert z.dtype == np.float32 and uniform_prior(Stream(3), (2, 2), np.float64).dtype == float
    assert -1 <= z.min() < -0.999 and 0.999 < z.max() < 1
    assert abs(z.mean()) < 0.02 and z.var() == pytest.approx(1 / 3, abs=0.01)
    assert abs(np.corrcoef(z.T)[0, 1]) < 0.03


@pytest.mark.parametrize("prior", [normal_prior, uniform_prior])
def test_a_prior_goes_on_where_its_stream_is(prior):
    stream = Stream(3)
    first, second = prior(stream, (5, 2), np.float32), prior(stream, (5, 2), np.float32)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, prior(Stream(3), (5, 2), np.float32))


class Watched:
    """The generator of the pair, with its inputs in ``seen``."""

    init = PAIR.generator.init

    def __init__(self):
        self.seen = []

    def __call__(self, params, z):
        self.seen.append(z)
        return PAIR.generator(params, z)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_prior_draws_every_batch_of_latent_points(dtype):
    """From the run's own stream for them, child 1, in the dtype of the weights."""
    watched, shapes = Watched(), []

    def prior(stream, shape, dtype):
        shapes.append((shape, dtype))
        return uniform_prior(stream, shape, dtype)

    gan = GAN(watched, PAIR.critic, optim.SGD(0.1), optim.SGD(0.1))
    start = gan.init(Stream(0), dtype)
    sample = lambda n, stream: stream.normal((n, 2), dtype)  # noqa: E731
    choices = {"start": start, "sample": sample, "prior": prior}
    run(gan, steps=2, critic_steps=2, compiled=False, **choices)
    assert shapes == [((8, 3), dtype)] * 6
    points = Stream(1).child(1)
    assert len(watched.seen) == 6
    for z in watched.seen:
        assert z.dtype == dtype
        np.testing.assert_array_equal(z, uniform_prior(points, (8, 3), dtype))


def test_without_a_prior_the_points_are_normal():
    one, other = run(game()), run(game(), prior=normal_prior)
    assert same(one.players, other.players)
    assert not same(one.players, run(game(), prior=uniform_prior).players)


def test_every_generator_step_has_fresh_latent_points():
    """A batch of data and one of points for each critic step, then points alone."""
    watched, batches = Watched(), []

    def sample(n, stream):
        batches.append(n)
        return ring(n, stream)

    gan = GAN(watched, PAIR.critic, optim.SGD(0.1), optim.SGD(0.1))
    run(gan, steps=3, sample=sample, critic_steps=2, generator_steps=4, compiled=False)
    assert len(batches) == 3 * 2
    assert len(watched.seen) == len({z.tobytes() for z in watched.seen}) == 3 * (2 + 4)


def test_generator_steps_are_the_steps_written_out():
    gan = game(penalty=penalties.zero_gp())
    found = run(gan, steps=2, generator_steps=3, schedule=lambda step: 0.5, compiled=False)
    players, stream = gan.init(Stream(0)), Stream(1)
    data, points, noise = (stream.child(i) for i in range(3))
    for record in found.history.records:
        real, z = ring(8, data), points.normal((8, 3))
        players, _ = critic_step(gan, players, real, z, gan.penalty.draw(noise, real), 0.1)
        for _ in range(3):
            players, last = generator_step(gan, players, points.normal((8, 3)), 0.025)
        assert record.generator_loss == last.loss  # of the last of the three
    assert same(found.players, players) and len(found.history.records) == 2


# Compiled


def slots(players, numbers):
    """What an iteration returns, in the parts that are compared each with its own scale."""
    yield "numbers", [numbers]
    for side in ("generator", "critic"):
        yield side, tree.leaves(getattr(players, side))
        for name, state in getattr(players, f"{side}_state").items():
            yield f"{side}'s {name}", tree.leaves(state)


def distances(found, expected):
    """How far the parts are apart, relative to the largest value of each part."""
    apart = {}
    for (name, ours), (_, theirs) in zip(slots(*found), slots(*expected), strict=True):
        pairs = list(zip(ours, theirs, strict=True))
        assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in pairs)
        assert all(np.isfinite(a).all() for a, _ in pairs)  # max() passes over NaN
        apart[name] = max(abs(a - b).max() for a, b in pairs)
        apart[name] /= max(abs(b).max() for b in theirs) or 1
    return apart


def follow(
    gan, *, batch=6, critic_steps=1, step=iteration, reference=iteration, more=lambda stream: ()
):  # fmt: skip
    """The largest distance of 100 compiled iterations from eager ones, each from eager's players.

    In float64, and with rates that fall.
    """
    compiled, stream, worst = compile(partial(step, gan)), Stream(1), 0
    players = start = gan.init(Stream(0), np.float64)

    def points():
        return stream.normal((batch, *gan.generator.input), np.float64)

    def critic_batch():
        real = stream.normal((batch, *gan.critic.input), np.float64)
        return real, points(), gan.penalty.draw(stream, real) if gan.penalty else ()

    for i in range(100):
        batches = [critic_batch() for _ in range(critic_steps)]
        given = batches, [(points(),)], 0.004 / (1 + i), 0.004 / (2 + i), *more(stream)
        expected = reference(gan, players, *given)
        worst = max(worst, *distances(compiled(players, *given), expected).values())
        players = expected[0]
    before, after = tree.leaves(start[:2]), tree.leaves(players[:2])
    moved = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(moved) > len(moved) / 2
    return worst


only_numpy = pytest.mark.numpy_path("results written into given arrays")
# float64 rounds by 1e-16, and sums in another order make more of it: 5e-15 at most was met here.
BOUND = 1e-13
FEW_ULPS = 4 * 2.0**-23
THIN = models.mlp_pair(2, 3, 5, 1, activation=ops.tanh)
WEIGHT = 0.3
ALL_PENALTIES = {
    "none": None,
    "0-gp": penalties.zero_gp(WEIGHT),
    "0-gp-sample": penalties.zero_gp_sample(WEIGHT),
    "1-gp": penalties.one_gp(WEIGHT),
    "lp": penalties.lp(WEIGHT),
    "r1": penalties.r1(WEIGHT),
    "r2": penalties.r2(WEIGHT),
    "dragan": penalties.dragan(WEIGHT),
}
OPTIMIZERS = {  # of the generator and of the critic: each meets every loss and penalty
    # A large eps: 1e-17 in place of a gradient that cancels to 0 makes a step of rate·1e-17/eps.
    "sgd, adam": (optim.SGD(1), optim.Adam(1, (0.5, 0.9), eps=1e-3)),
    "rmsprop, momentum": (optim.RMSProp(1, eps=1e-3), optim.SGD(1, 0.9)),
    "adam, nesterov": (optim.Adam(1, eps=1e-3), optim.SGD(1, 0.9, nesterov=True)),
}


@only_numpy
@pytest.mark.parametrize("optimizers", OPTIMIZERS)
@pytest.mark.parametrize("penalty", ALL_PENALTIES)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_compiled_iteration_is_the_eager_one(loss, penalty, optimizers):
    gan = GAN(*THIN, *OPTIMIZERS[optimizers], LOSSES[loss], ALL_PENALTIES[penalty])
    assert follow(gan) <= BOUND


class Dropping:
    """A critic with dropout, whose mask it is given: by each iteration, as an argument."""

    body, head = models.MLP((2, 6)), models.MLP((6, 1))
    input = (2,)

    def __init__(self, mask=None):
        self.mask = mask

    def init(self, stream, dtype):
        return [self.body.init(stream.child(0), dtype), self.head.init(stream.child(1), dtype)]

    def __call__(self, params, x):
        hidden = ops.leaky_relu(self.body(params[0], x))
        return self.head(params[1], nn.dropout(hidden, self.mask))


def with_dropout(gan, players, batches, points, critic_rate, generator_rate, mask):
    gan = replace(gan, critic=Dropping(mask))
    return iteration(gan, players, batches, points, critic_rate, generator_rate)


def draw_mask(stream):
    return (nn.dropout_mask(stream, (6, 6), 0.4, np.float64),)


MAXOUT = models.Net("maxout", (2,), {"pieces": nn.Maxout(2, 4, 3), "top": nn.Linear(4, 1)})
PAIRS = {
    name: models.mlp_pair(2, 3, 6, 2, activation=getattr(ops, name))
    for name in ("relu", "leaky_relu", "elu", "tanh", "sigmoid", "softplus")
}
PAIRS["maxout"] = models.Pair(PAIR.generator, MAXOUT)
PAIRS["dropout"] = models.Pair(PAIR.generator, Dropping())
PAIRS["dcgan28"] = models.dcgan28(1, 1 / 32, latent=5)
for size in (32, 64):
    of = {32: models.dcgan32, 64: models.dcgan64}[size]
    for norm in (nn.BatchNorm, nn.LayerNorm, None):
        PAIRS[f"dcgan{size}, {getattr(norm, '__name__', 'no norm')}"] = of(1, 1 / 128, norm=norm)


@only_numpy
@pytest.mark.parametrize("name", PAIRS)
def test_a_compiled_iteration_is_the_eager_one_for_every_network(name):
    pair, adam = PAIRS[name], optim.Adam(1, (0.5, 0.9), eps=1e-3)
    mixes = getattr(pair.critic, "mixes_samples", False)
    gan = GAN(
        *pair, adam, adam, losses.LEAST_SQUARES, None if mixes else penalties.one_gp(WEIGHT),
        one_batch=not mixes and name != "dropout",
    )  # fmt: skip
    how = {"batch": 3} if "dcgan" in name else {"critic_steps": 2}
    if name == "dropout":
        how |= {"step": with_dropout, "reference": with_dropout, "more": draw_mask}
    assert follow(gan, **how) <= BOUND


LARGE = {  # games whose arrays are taken for large, and what of it the second thread must meet
    "wgan-gp, convolutions": (
        models.dcgan32(1, 1 / 64, norm=None), losses.WASSERSTEIN, penalties.one_gp(WEIGHT), 1000,
        {"groups", "tiles"},
    ),
    "batch norm": (
        models.dcgan32(1, 1 / 64), losses.NON_SATURATING, None, 1000,
        {"groups", "tiles", "statistics"},
    ),
    "0-gp": (PAIR, losses.NON_SATURATING, penalties.zero_gp(WEIGHT), 7, {"groups"}),
}  # fmt: skip


def large_game(name):
    pair, loss, penalty, _, _ = LARGE[name]
    adam = optim.Adam(1, (0.5, 0.9), eps=1e-3)
    return GAN(*pair, adam, adam, loss, penalty)


@pytest.fixture
def large(monkeypatch):
    """Arrays of any size are fused, gathered, tiled and cut for threads; what a second thread did.

    ``eagerly(f)`` is f with none of it, in one thread.
    """
    main, seen = threading.get_ident(), set()
    limits = [
        (fuse, "LARGE"), (cpu, "PAYS"), (conv, "PAYS"), (norms, "PAYS"), (ops, "PAYS"),
        (lowering, "WORK"), (lowering, "TILES"), (lowering, "CHANNELS"),
    ]  # fmt: skip
    usual = [(module, limit, getattr(module, limit)) for module, limit in limits]

    def spy(owner, name, what):
        function = getattr(owner, name)

        def seeing(*args):
            if threading.get_ident() != main:
                seen.add(what)
            return function(*args)

        monkeypatch.setattr(owner, name, seeing)

    spy(cpu._Group, "__call__", "groups")
    spy(Statistics, "__call__", "statistics")
    spy(lowering, "_together", "tiles")

    def cut(block):
        monkeypatch.setattr(cpu, "BLOCK", block)
        for module, limit in limits:
            monkeypatch.setattr(module, limit, 2 if limit == "LARGE" else 1)  # of one: no group

    def eagerly(f, *args):
        with pytest.MonkeyPatch.context() as patch, parallel.threads(1):
            for module, limit, value in usual:
                patch.setattr(module, limit, value)
            return f(*args)

    with parallel.threads(2):
        yield cut, eagerly, seen


@only_numpy
@pytest.mark.parametrize("name", LARGE)
def test_a_compiled_iteration_of_large_arrays_is_the_eager_one(name, large):
    cut, eagerly, seen = large
    *_, block, wanted = LARGE[name]
    cut(block)
    reference = partial(eagerly, iteration)
    assert follow(large_game(name), batch=4, reference=reference) <= 1e-11
    assert seen == wanted


def each_part(found, expected):
    """As :func:`distances`, of results in any precision from those in float64."""
    return distances(tree.tree_map(np.float64, found), tree.tree_map(np.float64, expected))


@only_numpy
@pytest.mark.parametrize("name", LARGE)
def test_a_compiled_iteration_in_float32_is_as_near_to_float64_as_the_eager_one(name, large):
    """Twenty iterations, each from the same players; of each part the largest distance.

    A Wasserstein critic's biases get the difference of two sums that nearly cancel. Eager makes the
    sums apart, and often exactly; compiled they are one product, of whose terms, some thousand
    times the result, rounding is left with some processors' BLAS.
    """
    cut, eagerly, seen = large
    *_, block, wanted = LARGE[name]
    cut(block)
    gan, stream = large_game(name), Stream(1)
    compiled, players = compile(partial(iteration, gan)), gan.init(Stream(0))
    ours, theirs = {}, {}
    for i in range(20):
        real, *points = (
            stream.normal((4, *net.input)) for net in (gan.critic, gan.generator, gan.generator)
        )
        noise = gan.penalty.draw(stream, real) if gan.penalty else ()
        batch = [(real, points[0], noise)], [(z,) for z in points[1:]]
        rates = 0.004 / (1 + i), 0.004 / (2 + i)
        exact = eagerly(iteration, gan, *tree.tree_map(np.float64, (players, *batch)), *rates)
        found = eagerly(iteration, gan, players, *batch, *rates)
        for worst, result in (ours, compiled(players, *batch, *rates)), (theirs, found):
            for part, distance in each_part(result, exact).items():
                worst[part] = max(worst.get(part, 0), distance)
        players = found[0]
    assert seen == wanted
    for part, distance in theirs.items():
        cancelled = gan.loss is losses.WASSERSTEIN and part == "critic's mean"
        assert ours[part] <= 4 * distance + (1000 if cancelled else 1) * FEW_ULPS, part


def of_nan(memory):
    memory[...] = 255  # as floats: NaN
    return memory


@only_numpy
@pytest.mark.parametrize(
    "test",
    [
        test_a_compiled_iteration_of_large_arrays_is_the_eager_one,
        test_a_compiled_iteration_in_float32_is_as_near_to_float64_as_the_eager_one,
    ],
    ids=["float64", "float32"],
)
def test_an_element_that_a_block_leaves_out_is_caught(test, large, monkeypatch):
    work, fresh = cpu._Group.__call__, storage.aligned
    monkeypatch.setattr(cpu._Group, "__call__", lambda self, i, j: work(self, i, max(i + 1, j - 1)))
    # Fresh memory may hold the right numbers of an earlier test: here it holds none at all.
    for module in (compiled, cpu, storage):
        monkeypatch.setattr(module, "aligned", lambda nbytes: of_nan(fresh(nbytes)))
    with pytest.raises((AssertionError, RuntimeWarning)):
        test("0-gp", large)


@pytest.mark.parametrize(
    "changes",
    [
        {"penalty": penalties.one_gp(WEIGHT * (1 + 1e-9))},
        {"average": True},
        {"critic_optimizer": optim.Adam(1, (0.5, 0.9), eps=1e-3 * (1 + 1e-6))},
    ],
    ids=["weight", "average", "eps"],
)
def test_another_game_is_told_from_the_compiled_one(changes):
    gan = GAN(*THIN, *OPTIMIZERS["sgd, adam"], penalty=penalties.one_gp(WEIGHT))

    def other(gan, *given):
        return iteration(replace(gan, **changes), *given)

    assert follow(gan) <= BOUND < follow(gan, reference=other)


def test_training_is_compiled_unless_asked_otherwise(monkeypatch):
    calls = []

    def counted(step):
        compiled = compile(step)
        return lambda *args: calls.append(step) or compiled(*args)

    monkeypatch.setattr("tinygan.replay.compile", counted)
    run(game(), steps=3, compiled=False)
    assert calls == []
    run(game(), steps=3)
    assert len(calls) == 3


def test_players_that_somebody_holds_are_never_written_to():
    held = []
    gan = GAN(*PAIR, optim.Adam(0.01), optim.Adam(0.01), penalty=penalties.zero_gp())
    run(gan, 30, watch=lambda step, now: held.append((now, tree.tree_map(np.copy, tuple(now)))))
    assert len(held) == 31 and not same(held[-1][0], held[-2][0])
    for players, copy in held:
        assert same(tuple(players), copy)


def as_number(real, fake, average=False):
    return ops.multiply(ops.mean(ops.subtract(fake, real)), float(ops.mean(real).data))


def by_numpy(real, fake, average=False):
    return ops.mean(ops.multiply(ops.subtract(fake, real), np.tanh(real.data)))


@pytest.mark.parametrize("critic", [as_number, by_numpy])
def test_a_loss_that_cannot_be_recorded_is_an_error_that_names_the_way_out(critic):
    gan = game(losses.Loss(critic, losses.wasserstein_generator))
    with pytest.raises(ValueError, match=r"trace: .*test_train.py.* compiled=False \(--eager\)"):
        run(gan)
    assert len(run(gan, compiled=False).history.records) == 4


# Batch norm


TINY = models.dcgan32(1, 1 / 64)


def conv_game(**choices):
    adam = optim.Adam(2e-3, (0.5, 0.999))
    return GAN(*TINY, adam, adam, **choices)


def stripes(n, stream):
    """Images of 32×32 with bright rows, each image as bright as it happens to be."""
    image = np.tile(np.array([[1.0], [-1.0]], np.float32), (16, 32))[..., None]
    return image * stream.uniform((n, 1, 1, 1))


def conv_run(gan, steps=3, batch=8, **choices):
    start = gan.init(Stream(0))
    return train(gan, start, stripes, steps, Stream(1), batch=batch, latent=100, **choices)


def scales(params):
    return np.concatenate([a for path, a in tree.paths(params) if path.endswith("scale")])


def test_a_convolutional_gan_with_batch_norm_trains():
    """Every array moves, and the generator's rows become bright and dark by turns.

    Over six seeds the likeness was .95 to .98.
    """
    gan = conv_game()
    assert gan.generator.mixes_samples and gan.critic.mixes_samples
    start, found = gan.init(Stream(0)), conv_run(gan, steps=150)
    for before, after in zip(tree.paths(start[:2]), tree.paths(found.players[:2]), strict=True):
        assert before[0] == after[0] and not np.array_equal(before[1], after[1]), before[0]
    assert found.history.records[0].critic_loss == pytest.approx(2 * math.log(2), abs=0.3)

    def likeness(params):
        rows = gan.generator(params, Stream(9).normal((64, 100))).mean((0, 2, 3))
        return np.corrcoef(rows, np.tile([1, -1], 16))[0, 1]

    assert likeness(start.generator) < 0.3 and likeness(found.players.generator) > 0.7


def test_a_convolutional_gan_with_batch_norm_is_reproducible():
    one, again = conv_run(conv_game()), conv_run(conv_game())
    assert same(one.players, again.players) and one.history == again.history


@pytest.mark.numpy_path("threads")
def test_two_threads_give_the_same_bits_twice(monkeypatch):
    """However small the ops are: all that can be cut in two is."""
    monkeypatch.setattr("tinygan.conv.PAYS", 1)
    monkeypatch.setattr("tinygan.norms.PAYS", 1)
    monkeypatch.setattr("tinygan.ops.PAYS", 1)
    cut, alone = [], parallel._alone
    monkeypatch.setattr(parallel, "_alone", lambda *args: cut.append(1) or alone(*args))
    with parallel.threads(2):
        one, again = conv_run(conv_game()), conv_run(conv_game())
    assert len(cut) > 100
    assert same(one.players, again.players) and one.history == again.history
    found = conv_run(conv_game(), steps=1).history.records[0]
    assert one.history.records[0][1:4] == pytest.approx(found[1:4], rel=1e-4)


@pytest.mark.parametrize("everything", [False, True])
def test_clipping_takes_the_scales_of_batch_norm_only_if_asked(everything):
    """They start at 1 ± .02, and one step of 2e-3 moves them no further than that."""
    gan = conv_game(loss=losses.WASSERSTEIN, clip=0.01, clip_everything=everything)
    d = conv_run(gan, steps=1).players.critic
    weights = [a for path, a in tree.paths(d) if path.endswith("weight")]
    limit = np.float32(0.01)
    assert max(abs(a).max() for a in weights) == limit
    if everything:
        assert (scales(d) == limit).all()
    else:
        assert (scales(d) > 0.9).all()


def test_scales_are_left_alone_unless_asked():
    assert not conv_game(clip=0.01).clip_everything
    assert conv_game().clip is None


def test_one_batch_of_both_is_refused_to_a_critic_that_mixes_samples():
    with pytest.raises(ValueError, match="one_batch with a critic that uses batch norm"):
        conv_game(one_batch=True)
    layered = models.dcgan32(1, 1 / 64, norm=nn.LayerNorm)
    adam = optim.Adam(1e-3)
    assert not layered.critic.mixes_samples
    assert GAN(*layered, adam, adam, one_batch=True).one_batch
    # Batch norm in the generator alone is no objection.
    assert GAN(TINY.generator, layered.critic, adam, adam, one_batch=True).one_batch
    assert GAN(*PAIR, adam, adam, one_batch=True).one_batch  # a critic that says nothing of it


def test_real_and_fake_samples_go_through_batch_norm_apart():
    gan = conv_game()
    players = gan.init(Stream(0), np.float64)
    real, z = Stream(2).normal((4, 32, 32, 1), np.float64), Stream(3).normal((4, 100), np.float64)
    fake = gan.generator(players.generator, z)
    apart = [gan.critic(players.critic, x) for x in (real, fake)]
    found = critic_gradients(gan, players, real, z)
    assert float(found.loss) == pytest.approx(float(gan.loss.critic(*apart, False)), rel=1e-12)
    both = gan.critic(players.critic, np.concatenate([real, fake]))
    assert not np.allclose(both[:4], apart[0], rtol=1e-3)


# Bad input


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize(
    "name", ["batch", "latent", "critic_steps", "generator_steps", "record_every"]
)
def test_sizes_below_one_are_errors_before_any_work(name, size):
    def sample(n, stream):
        raise AssertionError("no work was to be done")

    gan = game()
    choices = {"batch": 8, "latent": 3, name: size}
    with pytest.raises(ValueError, match=f"{name}.*{size}"):
        train(gan, gan.init(Stream(0)), sample, 5, Stream(1), **choices)


def test_negative_steps_are_an_error():
    with pytest.raises(ValueError, match="steps -1"):
        run(game(), steps=-1)


@pytest.mark.parametrize("limit", [0.0, -0.01, math.nan])
def test_a_clipping_limit_that_is_not_above_zero_is_an_error_before_any_work(limit):
    with pytest.raises(ValueError, match="clip.* is .*above 0"):
        game(clip=limit)


@pytest.mark.parametrize("penalty", [None, penalties.one_gp()], ids=["no penalty", "1-gp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, bool])
def test_data_of_another_dtype_are_an_error_that_names_it(dtype, penalty):
    """uint8 meets float32 in NumPy without a word: pixels from 0 to 255 would be trained on."""
    with pytest.raises(TypeError, match=f"{np.dtype(dtype)}.*float32"):
        run(game(penalty=penalty), sample=lambda n, stream: ring(n, stream).astype(dtype))


@pytest.mark.parametrize("penalty", [None, penalties.one_gp()], ids=["no penalty", "1-gp"])
def test_a_batch_of_another_size_is_an_error(penalty):
    with pytest.raises(ValueError, match="8"):
        run(game(penalty=penalty), sample=lambda n, stream: ring(n + 1, stream))


def test_data_that_are_no_array_are_an_error():
    with pytest.raises(TypeError, match="sample.*list"):
        run(game(), sample=lambda n, stream: ring(n, stream).tolist())


def test_data_of_another_width_are_an_error_that_names_the_shapes():
    with pytest.raises(ValueError, match=r"input of shape \(8, 5\).*\(N, 2\)"):
        run(game(), sample=lambda n, stream: stream.normal((n, 5)))


def test_a_latent_size_that_is_not_the_generators_is_an_error():
    gan = game()
    with pytest.raises(ValueError, match=r"input of shape \(8, 4\).*\(N, 3\)"):
        train(gan, gan.init(Stream(0)), ring, 2, Stream(1), batch=8, latent=4)


@pytest.mark.parametrize("loss", [losses.WASSERSTEIN, losses.HINGE, losses.NON_SATURATING])
def test_one_batch_gives_the_same_loss_and_gradient_to_rounding(loss):
    apart, together = (
        GAN(*PAIR, optim.SGD(0.1), optim.SGD(0.1), loss, penalties.one_gp(), one_batch=one)
        for one in (False, True)
    )
    players = apart.init(Stream(0), np.float64)
    real, z, alpha = (Stream(i).normal((8, n), np.float64) for i, n in ((1, 2), (2, 3), (3, 1)))
    found = [critic_gradients(gan, players, real, z, (alpha,)) for gan in (apart, together)]
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-13)
    np.testing.assert_allclose(flat(found[0].tree), flat(found[1].tree), rtol=1e-9, atol=1e-14)
    assert not np.array_equal(flat(found[0].tree), np.zeros_like(flat(found[0].tree)))


# The game of two: its orders, batches and schedules


def drawn_by_hand(game, steps, sample=exact_ring, dtype=np.float64):
    """What :class:`Alternating` says it draws, without layers of noise: ([critic's], [points])."""
    data, points, noise = (Stream(1).child(i) for i in range(3))
    for _ in range(steps):
        batches = []
        for i in range(game.critic_steps):
            if i == 0 or not game.same_batch:
                real = sample(8, data)
            extra = game.gan.penalty.draw(noise, real) if game.gan.penalty else ()
            batches.append((real, points.normal((8, 3), dtype), extra))
        yield batches, [points.normal((8, 3), dtype) for _ in range(game.generator_steps)]


def played_by_hand(game, steps, schedule=lambda step: (1.0, 1.0)):
    """The players after so many iterations of steps called one by one."""
    gan = game.gan
    players = gan.init(Stream(0), np.float64)
    for step, (batches, points) in enumerate(drawn_by_hand(game, steps)):
        critic_rate, generator_rate = (
            factor * optimizer.rate
            for factor, optimizer in zip(
                schedule(step), (gan.critic_optimizer, gan.generator_optimizer), strict=True
            )
        )

        def critics(players, batches=batches, rate=critic_rate):
            for real, z, noise in batches:
                players, _ = critic_step(gan, players, real, z, noise, rate)
            return players

        def generators(players, points=points, rate=generator_rate):
            for z in points:
                players, _ = generator_step(gan, players, z, rate)
            return players

        order = (generators, critics) if game.generator_first else (critics, generators)
        for side in order:
            players = side(players)
    return players


def play(game, steps=3, start=None, compiled=False, sample=exact_ring, **how):
    """A run of a game of two in float64."""
    start = game.init(Stream(0), np.float64) if start is None else start
    return loop.run(game, start, sample, steps, Stream(1), compiled=compiled, **how)


ORDERS = {
    "same batch": {"critic_steps": 3, "same_batch": True},
    "generator first": {"generator_first": True},
    "2 of D, 3 of G": {"critic_steps": 2, "generator_steps": 3},
    "G first, 3 of G": {"critic_steps": 2, "generator_steps": 3, "generator_first": True},
    "all": {
        "critic_steps": 3, "generator_steps": 2, "generator_first": True, "same_batch": True,
    },
}  # fmt: skip
each_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)


@each_order
def test_every_order_is_its_steps_written_out(order):
    """Bit for bit; compiled, to rounding."""
    playing = Alternating(game(penalty=penalties.dragan(0.1)), 8, 3, **order)
    expected = played_by_hand(playing, 3)
    assert same(play(playing).players, expected)
    equal_to_rounding(play(playing, compiled=True).players, expected)


def test_no_two_orders_give_the_same():
    found = [
        flat(played_by_hand(Alternating(game(), 8, 3, **order), 3).critic)
        for order in (*ORDERS.values(), {})
    ]
    for i, one in enumerate(found):
        assert not any(np.allclose(one, other, rtol=1e-6) for other in found[:i])


@both_ways
@pytest.mark.parametrize("order", ["2 of D, 3 of G", "generator first"])
def test_a_schedule_of_two_is_the_critics_and_the_generators(order, compiled):
    playing = Alternating(game(penalty=penalties.r1(0.2)), 8, 3, **ORDERS[order])
    schedule = lambda step: (1.0 - 0.3 * step, 0.25 * step)  # noqa: E731
    found = play(playing, schedule=schedule, compiled=compiled).players
    equal_to_rounding(found, played_by_hand(playing, 3, schedule))


@both_ways
def test_a_side_whose_rate_is_zero_stands_still(compiled):
    start = game().init(Stream(0), np.float64)
    for still, moving, factors in (
        ("critic", "generator", (0.0, 1.0)), ("generator", "critic", (1, 0)),
    ):  # fmt: skip
        found = play(
            Alternating(game(), 8, 3), schedule=lambda step, given=factors: given, compiled=compiled
        ).players
        assert same(getattr(found, still), getattr(start, still))
        assert not same(getattr(found, moving), getattr(start, moving))


def test_a_schedule_of_three_is_an_error():
    with pytest.raises(TypeError, match="schedule gave a tuple.*expected a number.*or a tuple of"):
        run(game(), schedule=lambda step: (1.0, 1.0, 1.0))


def test_the_same_batch_is_one_array_and_its_latent_points_are_fresh():
    """The data are asked once an iteration; the noise of a penalty is fresh as well."""
    asked, seen, points = [], [], []

    class Seeing:
        init, input = PAIR.critic.init, (2,)

        def __call__(self, params, x):
            seen.append(x)
            return PAIR.critic(params, x)

    def sample(n, stream):
        asked.append(exact_ring(n, stream))
        return asked[-1]

    gan = GAN(PAIR.generator, Seeing(), optim.SGD(0.1), optim.SGD(0.1))
    play(
        Alternating(gan, 8, 3, critic_steps=3, same_batch=True), 2, sample=sample,
        start=gan.init(Stream(0), np.float64),
    )  # fmt: skip
    assert len(asked) == 2 and not np.array_equal(*asked)
    real = [x for x in seen if any(x is a for a in asked)]
    assert [next(i for i, a in enumerate(asked) if a is x) for x in real] == [0, 0, 0, 1, 1, 1]

    drawing = Alternating(game(penalty=penalties.dragan()), 8, 3, critic_steps=3, same_batch=True)
    streams = Streams(Stream(1), Stream(2), Stream(3))
    critics, _ = drawing.draw(exact_ring, streams, 0, np.float64)
    assert [type(batch.real) for batch in critics] == [np.ndarray, tuple, tuple]
    points = {batch.z.tobytes() for batch in critics}
    noise = {a.tobytes() for batch in critics for a in batch.noise}
    assert len(points) == 3 and len(noise) == 6
    fresh = replace(drawing, same_batch=False).draw(exact_ring, streams, 0, np.float64)[0]
    assert len({batch.real.tobytes() for batch in fresh}) == 3


@pytest.mark.parametrize(
    "order, compiled", [*((order, False) for order in ORDERS), ("G first, 3 of G", True)]
)
def test_a_record_is_of_the_last_step_of_each_side(order, compiled):
    """Whoever comes first."""
    gan = game(losses.WASSERSTEIN, penalties.one_gp(3.0))
    playing = Alternating(gan, 8, 3, **ORDERS[order])
    players = playing.init(Stream(0), np.float64)
    records = play(playing, 2, compiled=compiled).history.records
    for record, (batches, points) in zip(records, drawn_by_hand(playing, 2), strict=True):
        last = {}
        sides = [("critic", batch) for batch in batches] + [("generator", (z,)) for z in points]
        if playing.generator_first:
            sides = sides[len(batches) :] + sides[: len(batches)]
        for side, batch in sides:
            step = critic_step if side == "critic" else generator_step
            players, last[side] = step(gan, players, *batch)
        expected = (
            record.step,
            *map(float, (last["critic"].loss, last["critic"].penalty, last["generator"].loss)),
            *(np.linalg.norm(flat(last[side].tree)) for side in ("critic", "generator")),
        )  # fmt: skip
        assert type(record) is Record and record == pytest.approx(expected, rel=1e-9, abs=1e-14)


@both_ways
@pytest.mark.parametrize("generator_first", [False, True])
def test_the_diagnosis_is_of_the_first_step_that_broke_in_that_order(generator_first, compiled):
    """A generator that has gone too far already: its own step meets that first only if first."""
    gan = game(losses.LEAST_SQUARES)
    start = gan.init(Stream(0), np.float64)
    far = [{key: a * 1e200 for key, a in layer.items()} for layer in start.critic]
    with pytest.raises(Diverged) as caught:
        playing = Alternating(gan, 8, 3, generator_first=generator_first)
        play(playing, start=start._replace(critic=far), compiled=compiled)
    first = "generator" if generator_first else "critic"
    assert f"iteration 1: the {first}'s step is no longer finite" in str(caught.value)
    largest = max(abs(flat(far)))
    assert f"before it was {largest:.3g}, in D." in str(caught.value)


@both_ways
def test_every_step_of_fixed_numbers_is_counted(compiled):
    adam = optim.Adam(1e-3)
    gan = GAN(*PAIR, adam, adam)
    found = run(gan, 4, critic_steps=3, generator_steps=2, compiled=compiled).players
    assert (found.critic_state["step"], found.generator_state["step"]) == (12, 8)
    found = run(gan, 4, generator_steps=5, generator_first=True, compiled=compiled).players
    assert (found.critic_state["step"], found.generator_state["step"]) == (4, 20)


def test_alternating_gradient_descent_with_fixed_numbers_of_steps_by_hand():
    """G(z) = g·z, D(x) = d·x, Wasserstein: d ← d + r(E x − g·E z), then g ← g + r·d·E z, twice."""
    line = models.MLP((1, 1))
    gan = GAN(line, line, optim.SGD(0.2), optim.SGD(0.2), losses.WASSERSTEIN)
    start = gan.init(Stream(0), np.float64)
    ones = lambda stream, shape, dtype: np.ones(shape, dtype)  # noqa: E731
    playing = Alternating(gan, 4, 1, critic_steps=2, generator_steps=3, prior=ones)
    threes = lambda n, stream: np.full((n, 1), 3.0)  # noqa: E731
    found = play(playing, 5, start=start, sample=threes).players

    (g, a), (d, b) = (
        (layer["weight"].item(), layer["bias"].item())
        for layer in (start.generator[0], start.critic[0])
    )
    for _ in range(5):
        for _ in range(2):
            d += 0.2 * (3 - (g + a))
        for _ in range(3):
            g, a = g + 0.2 * d, a + 0.2 * d
    assert flat(found.generator) == pytest.approx([g, a], rel=1e-12)
    assert flat(found.critic) == pytest.approx([d, b], rel=1e-12)


def test_an_iteration_may_have_steps_of_one_side_only():
    gan = game(penalty=penalties.zero_gp())
    players = gan.init(Stream(0), np.float64)
    real, z, stream = batch_of()
    noise = gan.penalty.draw(stream, real)
    new, numbers = iteration(gan, players, [], [(z,), (2 * z,)])
    expected, _ = generator_step(gan, generator_step(gan, players, z)[0], 2 * z)
    assert same(new, expected) and numbers.shape == (6,)
    new, numbers = iteration(gan, players, [(real, z, noise)], [])
    assert same(new, critic_step(gan, players, real, z, noise)[0]) and numbers.shape == (3,)


def test_samples_of_the_game_are_the_generators_at_points_of_its_prior():
    for dtype in (np.float32, np.float64):
        players = game().init(Stream(0), dtype)
        found = Alternating(game(), 8, 3, prior=uniform_prior).generate(players, 5, Stream(7))
        points = uniform_prior(Stream(7), (5, 3), dtype)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, PAIR.generator(players.generator, points))


# Layers of noise

NOISY_G = models.Net(
    "noisy generator", (3,),
    {"hidden": nn.Linear(3, 4), "tanh": ops.tanh, "noise": nn.Noise(0.5), "top": nn.Linear(4, 2)},
)  # fmt: skip
NOISY_D = models.Net(
    "noisy critic", (2,),
    {
        "instance": nn.Noise(0.3), "hidden": nn.Linear(2, 3), "tanh": ops.tanh,
        "dropout": nn.Dropout(0.4), "top": nn.Linear(3, 1),
    },
)  # fmt: skip


def noisy_game(loss=losses.WASSERSTEIN, penalty=None, **choices):
    return GAN(NOISY_G, NOISY_D, optim.SGD(0.1), optim.SGD(0.2), loss, penalty, **choices)


def noisy_batch(gan, level=None, **choices):
    """The players, and the first iteration's draws."""
    noise_level = None if level is None else lambda step: level
    playing = Alternating(gan, 8, 3, noise_level=noise_level, **choices)
    streams = Streams(*(Stream(1).child(i) for i in range(3)))
    return gan.init(Stream(0), np.float64), playing.draw(exact_ring, streams, 0, np.float64)


def generated_by_numpy(p, z, noise):
    h = np.tanh(z @ p["hidden"]["weight"] + p["hidden"]["bias"]) + noise["noise"]
    return h @ p["top"]["weight"] + p["top"]["bias"]


def judged_by_numpy(p, x, noise):
    h = np.tanh((x + noise["instance"]) @ p["hidden"]["weight"] + p["hidden"]["bias"])
    return (h * noise["dropout"]) @ p["top"]["weight"] + p["top"]["bias"]


def slopes_by_numpy(p, x):
    """∇ₓ D without noise, at each x: W·(top·(1 − tanh²))."""
    h = np.tanh(x @ p["hidden"]["weight"] + p["hidden"]["bias"])
    return (p["top"]["weight"][:, 0] * (1 - h * h)) @ p["hidden"]["weight"].T


def slope_by_differences(f, params, size=1e-6):
    """The gradient of a number, component by component."""
    found = []
    for leaf in tree.leaves(params):
        for i in np.ndindex(leaf.shape):
            kept = leaf[i]
            ends = []
            for sign in (1, -1):
                leaf[i] = kept + sign * size
                ends.append(f(params))
            leaf[i] = kept
            found.append((ends[0] - ends[1]) / (2 * size))
    return np.array(found)


def test_every_use_of_a_network_has_noise_of_its_own():
    """D on real and on fake samples, and G, of each step of each side."""
    _, (critics, generators) = noisy_batch(noisy_game(), critic_steps=2, generator_steps=2)
    shapes = {"instance": (8, 2), "dropout": (8, 3)}
    layers = [batch.layers for batch in (*critics, *generators)]
    assert all(type(one) is LayerNoise for one in layers)
    assert [one.real == {} for one in layers] == [False, False, True, True]
    seen = []
    for one in layers:
        for noise, expected in ((one.real, shapes), (one.fake, shapes), (one.generator, None)):
            wanted = {"noise": (8, 4)} if expected is None else expected
            assert {name: a.shape for name, a in noise.items()} == (wanted if noise else {})
            seen += [a.tobytes() for name, a in noise.items() if name != "dropout"]
            assert all(a.dtype == np.float64 for a in noise.values())
    assert len(seen) == len(set(seen)) == 2 * 3 + 2 * 2
    masks = [one["dropout"] for pair in critics for one in (pair.layers.real, pair.layers.fake)]
    assert all(not np.array_equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


def test_networks_without_noise_are_given_none():
    _, (critics, generators) = noisy_batch(game())
    assert critics[0].layers == () and generators[0].layers == ()


@pytest.mark.parametrize("penalty", [None, penalties.r1(0.7)], ids=["none", "r1"])
def test_the_critics_step_with_noise_by_hand(penalty):
    """The penalty is of the critic without noise."""
    gan = noisy_game(penalty=penalty)
    players, ((batch,), _) = noisy_batch(gan)
    real, z, noise, layers = batch

    def parts(d):
        fake = generated_by_numpy(players.generator, z, layers.generator)
        on_real, on_fake = (
            judged_by_numpy(d, real, layers.real), judged_by_numpy(d, fake, layers.fake)
        )  # fmt: skip
        slope = 0.7 * (slopes_by_numpy(d, real) ** 2).sum(1).mean() if penalty else 0.0
        return on_fake.mean() - on_real.mean(), slope

    found = critic_gradients(gan, players, *batch)
    loss, slope = parts(players.critic)
    assert float(found.loss) == pytest.approx(loss, rel=1e-12)
    assert (found.penalty is None) == (penalty is None)
    if penalty:
        assert float(found.penalty) == pytest.approx(slope, rel=1e-12)
    expected = slope_by_differences(lambda d: sum(parts(d)), players.critic)
    np.testing.assert_allclose(flat(found.tree), expected, rtol=1e-6, atol=1e-8)
    new, _ = critic_step(gan, players, real, z, noise, None, layers)
    assert same(new.critic, optim.SGD(0.2).update(players.critic, found.tree, {})[0])


def test_the_generators_step_with_noise_by_hand():
    """Through D with the noise of this step, not of the critic's."""
    gan = noisy_game()
    players, (_, (batch,)) = noisy_batch(gan)
    z, layers = batch

    def loss(g):
        fake = generated_by_numpy(g, z, layers.generator)
        return -judged_by_numpy(players.critic, fake, layers.fake).mean()

    found = generator_gradients(gan, players, z, layers)
    assert float(found.loss) == pytest.approx(loss(players.generator), rel=1e-12)
    expected = slope_by_differences(loss, players.generator)
    np.testing.assert_allclose(flat(found.tree), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("generator_first", [False, True])
@pytest.mark.parametrize("penalty", [None, penalties.one_gp(0.3)], ids=["none", "1-gp"])
def test_noisy_iterations_are_the_steps_written_out(penalty, generator_first):
    playing = Alternating(
        noisy_game(penalty=penalty), 8, 3, 2, 2, generator_first=generator_first,
        noise_level=lambda step: 1.5 - 0.5 * step,
    )  # fmt: skip
    gan, players = playing.gan, playing.init(Stream(0), np.float64)
    streams = Streams(*(Stream(1).child(i) for i in range(3)))
    for step in range(3):
        critics, generators = playing.draw(exact_ring, streams, step, np.float64)
        turns = [(critic_step, batch) for batch in critics]
        turns += [(generator_step, (z, layers)) for z, layers in generators]
        for take, batch in turns[2:] + turns[:2] if generator_first else turns:
            *given, layers = batch
            players, _ = take(gan, players, *given, layers=layers)
    assert same(play(playing).players, players)
    equal_to_rounding(play(playing, compiled=True).players, players)


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0, 3.0])
def test_the_level_multiplies_the_deviation_of_noise_and_not_of_dropout(level):
    (_, plain), (_, found) = noisy_batch(noisy_game()), noisy_batch(noisy_game(), level)
    for (path, a), b in zip(tree.paths(found, fields=True), tree.leaves(plain), strict=True):
        factor = level if path.endswith(("instance", "noise")) else 1.0
        np.testing.assert_allclose(a, factor * b, rtol=1e-14, err_msg=path)


@both_ways
def test_the_level_is_that_of_the_iteration(compiled):
    """It is asked once an iteration from 0 on; at 0 every network is without its noise."""
    asked = []

    def fading(step):
        asked.append(step)
        return max(0.0, 1 - step / 2)

    quiet = {name: a for name, a in NOISY_D.layers.items() if name != "dropout"}
    gan = replace(noisy_game(), critic=replace(NOISY_D, layers=quiet))
    playing = Alternating(gan, 8, 3, noise_level=fading)
    seen = []
    found = play(playing, 5, compiled=compiled, watch=lambda step, players: seen.append(players))
    assert asked == [0, 1, 2, 3, 4]
    bare = {name: a for name, a in quiet.items() if name != "instance"}
    silent = {name: a for name, a in NOISY_G.layers.items() if name != "noise"}
    without = replace(
        gan, critic=replace(NOISY_D, layers=bare), generator=replace(NOISY_G, layers=silent)
    )
    batches = list(drawn_by_hand(Alternating(without, 8, 3), 5))
    for step, (batch, points) in enumerate(batches):
        by_itself, _ = critic_step(without, seen[step], *batch[0])
        by_itself, _ = generator_step(without, by_itself, points[0])
        apart = abs(flat(by_itself.critic) - flat(seen[step + 1].critic)).max()
        assert apart < 1e-12 if step >= 2 else apart > 1e-4
    assert same(found.players, seen[-1])


def test_training_passes_the_level_on():
    gan, start = noisy_game(), noisy_game().init(Stream(0))
    quiet, loud, plain = (
        run(gan, start=start, noise_level=level).players
        for level in (lambda step: 0.0, lambda step: 1.0, None)
    )
    assert same(loud, plain) and not same(loud, quiet)


def test_a_level_below_zero_is_an_error():
    with pytest.raises(ValueError, match="Noise: level is -1"):
        run(noisy_game(), noise_level=lambda step: -1)


@pytest.mark.parametrize("layer", [None, nn.Dropout(0.5)], ids=["plain", "dropout"])
def test_a_level_without_noise_to_multiply_is_an_error(layer):
    layers = {} if layer is None else {"drop": layer}
    critic = models.Net("critic", (2,), {**layers, "linear": nn.Linear(2, 1)})
    with pytest.raises(ValueError, match="noise_level for networks without noise.*nn.Noise"):
        Alternating(replace(game(), critic=critic), 8, 3, noise_level=lambda step: 1.0)


def test_noise_does_not_move_the_data_or_the_points():
    """They have streams of their own: runs with and without noise see the same samples."""
    _, (noisy, points) = noisy_batch(noisy_game(penalty=penalties.dragan()), critic_steps=2)
    _, (bare, others) = noisy_batch(game(), critic_steps=2)
    for one, other in zip(noisy, bare, strict=True):
        assert np.array_equal(one.real, other.real) and np.array_equal(one.z, other.z)
    assert np.array_equal(points[0].z, others[0].z)


def test_samples_are_made_without_noise():
    gan = noisy_game()
    players, z = gan.init(Stream(0), np.float64), Stream(3).normal((5, 3), np.float64)
    expected = generated_by_numpy(players.generator, z, {"noise": 0.0})
    np.testing.assert_allclose(gan.generate(players, z), expected, rtol=1e-13)


@pytest.mark.parametrize("layer", [nn.Noise(0.1), nn.Dropout(0.5)], ids=["noise", "dropout"])
def test_one_batch_of_both_is_refused_to_a_critic_that_draws_noise(layer):
    drawing = models.Net("critic", (2,), {"noise": layer, "top": nn.Linear(2, 1)})
    with pytest.raises(ValueError, match="one_batch with a critic that draws noise.* one_batch=F"):
        GAN(PAIR.generator, drawing, optim.SGD(0.1), optim.SGD(0.1), one_batch=True)
    assert not GAN(PAIR.generator, drawing, optim.SGD(0.1), optim.SGD(0.1)).one_batch
    assert GAN(NOISY_G, PAIR.critic, optim.SGD(0.1), optim.SGD(0.1), one_batch=True).one_batch


def test_a_noisy_iteration_that_breaks_is_diagnosed_with_its_noise(monkeypatch):
    """The first iteration's own noise is not finite, and nothing else is."""
    draw = models.Net.draw

    def broken(self, *args):
        noise = draw(self, *args)
        return {name: np.full_like(a, np.nan) for name, a in noise.items()}

    monkeypatch.setattr(models.Net, "draw", broken)
    with pytest.raises(Diverged, match="iteration 1: the critic's step is no longer finite: the l"):
        play(Alternating(noisy_game(), 8, 3))


# The moving average

WITH_NORM = models.Net(
    "generator", (3,),
    {
        "noise": nn.Noise(0.2), "hidden": nn.Linear(3, 5, bias_init=nn.he_normal),
        "norm": nn.BatchNorm(5), "tanh": ops.tanh, "top": nn.Linear(5, 2),
    },
)  # fmt: skip
AVERAGED = {"MLP": PAIR.generator, "batch norm": WITH_NORM}
each_averaged = pytest.mark.parametrize("generator", AVERAGED.values(), ids=AVERAGED)


def moments(params, z, noise):
    """What batch norm met of a batch, with its noise: () of an MLP."""
    if type(params) is list:
        return ()
    h = (z + noise["noise"]) @ params["hidden"]["weight"] + params["hidden"]["bias"]
    return {"norm": {"mean": h.mean(0), "variance": h.var(0)}}


def averaged_game(generator, decay=0.8, penalty=None):
    return GAN(
        generator, PAIR.critic, optim.SGD(0.3), optim.SGD(0.2), penalty=penalty, ema=decay
    )  # fmt: skip


@each_averaged
@pytest.mark.parametrize("generator_first", [False, True])
def test_the_average_is_that_of_a_loop_over_the_generators_steps(generator, generator_first):
    """Of parameters after each step, and of the step's own batch with them."""
    gan = averaged_game(generator, penalty=penalties.r1(0.3))
    playing = Alternating(gan, 8, 3, 2, 3, generator_first=generator_first)
    start = gan.init(Stream(0), np.float64)
    without = replace(gan, ema=None)
    players = without.init(Stream(0), np.float64)
    assert same(start[:4], players[:4]) and players.average == ()
    z = Stream(0).child(2).normal((64, 3), np.float64)
    noise = {"noise": 0.2 * Stream(0).child(3).normal((64, 3), np.float64)}
    average = players.generator, moments(players.generator, z, noise)
    for a, b in zip(tree.leaves(start.average), tree.leaves(average), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)

    streams = Streams(*(Stream(1).child(i) for i in range(3)))
    for step in range(4):
        critics, generators = playing.draw(exact_ring, streams, step, np.float64)
        turns = [(critic_step, batch) for batch in critics]
        turns += [(generator_step, batch) for batch in generators]
        for take, batch in turns[2:] + turns[:2] if generator_first else turns:
            *given, layers = batch
            players, _ = take(without, players, *given, layers=layers)
            if take is generator_step:
                noise = layers and layers.generator
                now = players.generator, moments(players.generator, batch.z, noise)
                average = tree.tree_map(lambda a, b: 0.8 * a + 0.2 * b, average, now)
    found = play(playing, 4).players
    assert same(found[:4], players[:4])  # the average changes nothing of the game
    assert len(tree.leaves(found.average)) == len(tree.leaves(average))
    for (path, a), b in zip(tree.paths(found.average), tree.leaves(average), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14, err_msg=path)
    assert abs(flat(found.average.params) - flat(found.generator)).max() > 1e-3


@each_averaged
def test_samples_are_made_by_the_average(generator):
    """Each by itself: batch norm uses the average's statistics."""
    gan = averaged_game(generator)
    playing = Alternating(gan, 8, 3)
    players = play(playing, 6).players
    points = Stream(7).normal((5, 3), np.float64)
    params, statistics = players.average
    given = (statistics,) if statistics else ()
    expected = generator(params, points, *given)
    np.testing.assert_allclose(gan.generate(players, points), expected, rtol=1e-13)
    np.testing.assert_allclose(playing.generate(players, 5, Stream(7)), expected, rtol=1e-13)
    np.testing.assert_allclose(gan.generate(players, points[:1]), expected[:1], rtol=1e-12)
    assert abs(expected - generator(players.generator, points)).max() > 1e-3
    plain = replace(gan, ema=None).generate(players, points)
    np.testing.assert_array_equal(plain, generator(players.generator, points))


@each_averaged
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_compiled_average_is_the_eager_one_to_rounding(generator, dtype):
    playing = Alternating(averaged_game(generator), 8, 3)
    start = playing.init(Stream(0), dtype)
    how = {"start": start, "sample": ring if dtype == np.float32 else exact_ring}
    one, other = (play(playing, 5, compiled=compiled, **how) for compiled in (True, False))
    bound = 1e-3 if dtype == np.float32 else 1e-10
    equal_to_rounding(one.players, other.players, bound)
    assert all(a.dtype == dtype for a in tree.leaves(one.players.average))
    assert not np.allclose(flat(start.average.params), flat(one.players.average.params))


def test_the_critics_step_leaves_the_average_alone():
    gan = averaged_game(WITH_NORM)
    players = gan.init(Stream(0), np.float64)
    real, z, _ = batch_of()
    assert critic_step(gan, players, real, z)[0].average is players.average
    assert generator_step(gan, players, z)[0].average is not players.average


@pytest.mark.parametrize("decay", [0, 0.0, 1, 1.0, -0.5, 1.5, math.nan])
def test_a_decay_that_is_not_between_zero_and_one_is_an_error_before_any_work(decay):
    with pytest.raises(ValueError, match=f"GAN: ema is {decay}; expected a decay above 0 and bel"):
        averaged_game(PAIR.generator, decay)


# Spectral norms

BOUNDED = models.Pair(
    *(
        spectral_norm(
            models.Net(
                title, (inputs,),
                {"hidden": nn.Linear(inputs, 8), "elu": ops.elu, "top": nn.Linear(8, outputs)},
            )
        )
        for title, inputs, outputs in (("generator", 3, 2), ("critic", 2, 1))
    )
)  # fmt: skip


def largest_singular_values(params):
    """Of weight/σ, σ by the layer's own vectors: 1 where these are the first ones."""
    for layer in params.values():
        w = layer["weight"]
        yield np.linalg.svd(w, compute_uv=False)[0] / (layer["left"] @ w @ layer["right"])


@pytest.mark.parametrize(
    "order, compiled",
    [({}, True), ({"critic_steps": 2, "generator_steps": 2, "generator_first": True}, False)],
    ids=["compiled", "eager, G first"],
)
def test_spectral_norms_follow_their_weights_in_both_networks(order, compiled):
    adam = optim.Adam(4e-3, (0.5, 0.9))
    gan = GAN(*BOUNDED, adam, adam, losses.HINGE, penalties.r1(0.1), ema=0.9)
    start = gan.init(Stream(0), np.float64)
    worst = {"generator": 0.0, "critic": 0.0}

    def watch(step, players):
        for side in worst:
            apart = max(abs(s - 1) for s in largest_singular_values(getattr(players, side)))
            worst[side] = max(worst[side], apart)

    found = play(Alternating(gan, 8, 3, **order), 60, compiled=compiled, watch=watch).players
    assert max(worst.values()) < 0.01, worst
    for side in worst:
        stale = [
            now | {key: then[key] for key in ("left", "right")}
            for now, then in zip(
                getattr(found, side).values(), getattr(start, side).values(), strict=True
            )
        ]
        drifted = dict(enumerate(stale))
        assert max(abs(s - 1) for s in largest_singular_values(drifted)) > 0.02, side


def test_spectral_vectors_are_refreshed_once_after_each_step():
    gan = GAN(*BOUNDED, optim.SGD(0.1), optim.SGD(0.1))
    players = gan.init(Stream(0), np.float64)
    real, z, _ = batch_of()
    new, found = critic_step(gan, players, real, z)
    assert same(new.critic, refreshed(optim.SGD(0.1).update(players.critic, found.tree, {})[0]))
    new, found = generator_step(gan, players, z)
    expected = optim.SGD(0.1).update(players.generator, found.tree, {})[0]
    assert same(new.generator, refreshed(expected)) and not same(new.generator, expected)


def test_clipping_is_refused_to_a_critic_of_spectral_norms():
    rates = optim.SGD(0.1), optim.SGD(0.1)
    with pytest.raises(ValueError, match="clip is 0.01 with a critic of spectral norms.*clip=None"):
        GAN(*BOUNDED, *rates, clip=0.01)
    assert GAN(BOUNDED.generator, PAIR.critic, *rates, clip=0.01).clip == 0.01
    assert GAN(*BOUNDED, *rates).clip is None


def test_the_average_of_spectral_norms_has_vectors_of_its_own_weights():
    """Averages of turning unit vectors are short and point elsewhere: they are refreshed too."""
    network = spectral_norm(models.perceptron((3, 32, 32, 2)))
    adam = optim.Adam(5e-3, (0.5, 0.9))
    gan = GAN(network, PAIR.critic, adam, adam, ema=0.99)
    players = run(gan, 300, start=gan.init(Stream(0), np.float64), sample=exact_ring).players
    params = players.average.params
    for name in ("linear0", "linear1", "linear2"):
        layer = params[name]
        true = np.linalg.svd(layer["weight"], compute_uv=False)[0]
        assert float(singular_value(layer)) == pytest.approx(true, rel=2e-3)
    z = Stream(3).normal((64, 3), np.float64)
    exact = network(refreshed(params, 300), z)
    np.testing.assert_allclose(gan.generate(players, z), exact, atol=0.01)


def test_players_without_an_average_are_told_to_a_game_that_has_one():
    gan = replace(game(), ema=0.9)
    players = game().init(Stream(0))
    with pytest.raises(ValueError, match="ema is 0.9, but the players have no average.*ema.start"):
        gan.generate(players, np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="ema is 0.9, but the players have no average.*ema.start"):
        run(gan, start=players)
