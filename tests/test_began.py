"""BEGAN: its errors, controller and convergence by hand, each player's step, short runs."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from test_ebgan import Watched, restored
from test_regularized import (
    GENERATOR,
    Seen,
    adam,
    circle,
    close,
    descended,
    iterations,
    mlp,
    same,
    streams,
    trained,
)

from tinygan import models, ops, optim, train, tree
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import grad_values, track
from tinygan.loop import run
from tinygan.models.autoencoder import mlp_autoencoder
from tinygan.systems import began
from tinygan.systems.began import BEGAN

CRITIC = mlp_autoencoder((2,), (5,), 3, activation=ops.tanh)


def game(optimizer=optim.SGD, **choices):
    return BEGAN(GENERATOR, CRITIC, optimizer(0.3), optimizer(0.2), **{"batch": 4, **choices})


def started(game, seed=0, k=0.6):
    """Players whose k is no longer 0, and a batch."""
    players = game.init(Stream(seed), np.float64)
    batch = game.draw(circle, streams(seed), 0, np.float64)
    return players._replace(k=np.array(k)), batch


# By hand


def error_by_hand(d, x):
    """The mean of |x − D(x)| over all components."""
    total = 0.0
    for sample, back in zip(x, restored(d, x), strict=True):
        total += sum(abs(a - b) for a, b in zip(sample, back, strict=True))
    return total / x.size


def balance_by_hand(k, real, fake, gamma, rate):
    return min(1.0, max(0.0, k + rate * (gamma * real - fake)))


# The pure functions


def test_the_error_is_the_mean_absolute_one():
    x = np.array([[[1.0, 2.0], [0.0, -1.0]], [[3.0, 0.5], [0.0, 0.0]]])
    y = np.array([[[0.0, 2.0], [2.0, -1.0]], [[3.0, 0.0], [1.0, 0.0]]])
    assert began.reconstruction_error(x, y) == pytest.approx(4.5 / 8, rel=1e-14)


def test_the_critics_loss_by_hand():
    found = began.critic_loss(np.array(0.5), np.array(2.0), np.array(0.25))
    assert found == pytest.approx(0.0, abs=1e-15)
    assert began.critic_loss(np.array(0.5), np.array(2.0), np.array(0.0)) == 0.5


@pytest.mark.parametrize(
    "k, real, fake, gamma, rate, expected",
    [
        (0.5, 2.0, 0.4, 0.5, 0.1, 0.56),  # fakes too easy: look at them more
        (0.5, 2.0, 1.6, 0.5, 0.1, 0.44),  # too hard: less
        (0.5, 2.0, 1.0, 0.5, 0.1, 0.5),  # in balance
        (0.02, 0.0, 1.0, 0.5, 0.1, 0.0),  # not below 0
        (0.99, 2.0, 0.0, 0.5, 0.1, 1.0),  # not above 1
        (0.0, 1.0, 0.9, 0.7, 0.5, 0.0),
        (1.0, 1.0, 0.9, 0.7, 0.5, 0.9),
    ],
)
def test_the_balance_by_hand(k, real, fake, gamma, rate, expected):
    found = began.balance(np.array(k), np.array(real), np.array(fake), gamma, rate)
    assert found == pytest.approx(expected, rel=1e-13, abs=1e-15)
    assert balance_by_hand(k, real, fake, gamma, rate) == pytest.approx(expected, abs=1e-15)


def test_convergence_by_hand():
    for fake, expected in ((0.4, 2.6), (1.6, 2.6), (1.0, 2.0)):
        found = began.convergence(np.array(2.0), np.array(fake), 0.5)
        assert found == pytest.approx(expected, rel=1e-14)


# Derivatives


def test_gradients_of_the_losses_to_order_3():
    params = {
        "G": GENERATOR.init(Stream(1), np.float64),
        "D": CRITIC.init(Stream(2), np.float64),
    }
    x, z = circle(4, Stream(3)), Stream(4).normal((4, 3), np.float64)

    def losses(p):
        fake = GENERATOR(p["G"], z)
        on_real = began.reconstruction_error(x, CRITIC(p["D"], x))
        on_fake = began.reconstruction_error(fake, CRITIC(p["D"], fake))
        return {
            "D": began.critic_loss(on_real, on_fake, 0.3),
            "G": on_fake,
            "M": began.convergence(on_real, on_fake, 0.5),
            "k": began.balance(0.5, on_real, on_fake, 0.5, 0.1),
        }

    fake = mlp(params["G"], z)
    gaps = [abs(a - restored(params["D"], a)).min() for a in (x, fake)]
    assert min(gaps) > 0.02  # no kink where the differences look
    check_gradients(losses, params, order=3)


def test_the_kink_of_a_perfect_reconstruction_has_slope_0():
    x, y = np.array([[1.0, 2.0]]), track(np.array([[1.0, 3.0]]))
    assert np.array_equal(grad_values(began.reconstruction_error(x, y), y), [[0.0, 0.5]])


# The step


@pytest.mark.parametrize("k", [0.0, 0.6, 1.0])
def test_each_player_moves_as_by_hand(k):
    played = game(gamma=0.4, balance_rate=0.05)
    players, (x, z, points) = started(played, k=k)
    now, numbers = played.step(players, (x, z, points), 0.5)

    fake = mlp(players.generator, z)
    d, d_size = descended(
        lambda d: error_by_hand(d, x) - k * error_by_hand(d, fake), players.critic, 0.5 * 0.2
    )
    g, g_size = descended(lambda g: error_by_hand(d, mlp(g, points)), players.generator, 0.5 * 0.3)
    real, judged = (
        error_by_hand(players.critic, x),
        error_by_hand(d, mlp(players.generator, points)),
    )
    expected = balance_by_hand(k, real, judged, 0.4, 0.05)
    assert close(now.critic, d) and close(now.generator, g)
    assert now.k.shape == () and now.k == pytest.approx(expected, rel=1e-10, abs=1e-15)
    on_fake = error_by_hand(players.critic, fake)
    assert dict(zip(played.names, numbers, strict=True)) == pytest.approx(
        {
            "critic_loss": real - k * on_fake,
            "generator_loss": judged,
            "real_error": real,
            "fake_error": on_fake,
            "k": expected,
            "convergence": real + abs(0.4 * real - judged),
            "critic_gradient": d_size,
            "generator_gradient": g_size,
        },
        rel=1e-8,
    )


def test_a_critic_with_k_0_does_not_look_at_generated_samples():
    played = game()
    players, (x, z, points) = started(played, k=0.0)
    one, _ = played.step(players, (x, z, points), 1.0)
    other, _ = played.step(players, (x, z + 1, points), 1.0)
    assert same(one.critic, other.critic)


def test_k_starts_at_0_in_the_dtype_of_the_weights():
    for dtype in (np.float32, np.float64):
        k = game().init(Stream(0), dtype).k
        assert type(k) is np.ndarray and k.shape == () and k.dtype == dtype and k == 0


def test_the_schedule_of_the_rates_does_not_touch_the_balance():
    played = game(balance_rate=0.05)
    players, batch = started(played)
    one, first = played.step(players, batch, 1.0)
    still, second = played.step(players, batch, 0.0)
    assert same(still.critic, players.critic) and not same(one.critic, players.critic)
    values = dict(zip(played.names, second, strict=True))
    expected = balance_by_hand(0.6, values["real_error"], values["generator_loss"], 0.5, 0.05)
    assert still.k == pytest.approx(expected, rel=1e-13)


def test_who_is_held_fixed_is_given_as_arrays():
    calls = []
    seen = replace(game(), generator=Seen(GENERATOR, "generator", calls), critic=Watched(calls))
    players, batch = started(seen)
    seen.step(players, batch, 1.0)
    found = [call[:2] for call in calls]
    assert found[0] == ("generator", False) and found[5] == ("generator", True)
    assert found[1:5] == [("critic", True)] * 4  # code and decode, of x and of G(z)
    assert found[6:] == [("critic", False)] * 2


# As a game


def test_the_controller_over_a_run():
    """Every k of a real run is the controller's of the numbers before it, and stays in [0, 1]."""
    played = game(partial(adam, 0.02), balance_rate=0.5, batch=16, gamma=0.7)
    found = run(played, played.init(Stream(0), np.float64), circle, 150, Stream(1))
    k, met = 0.0, []
    for record in found.history.records:
        k = balance_by_hand(k, record.real_error, record.generator_loss, 0.7, 0.5)
        assert record.k == pytest.approx(k, rel=1e-10, abs=1e-14)
        gap = abs(0.7 * record.real_error - record.generator_loss)
        assert record.convergence == pytest.approx(record.real_error + gap, rel=1e-12)
        met.append(k)
    assert min(met) == 0.0 and max(met) > 0.05  # it was clipped, and it moved
    assert found.players.k == pytest.approx(k, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_compiled_iterations_equal_eager_ones(dtype, tolerance):
    played = game(partial(adam, 0.01), batch=8, balance_rate=0.5, gamma=1.0)
    players, numbers = iterations(played, 5, False, dtype)
    again, found = iterations(played, 5, True, dtype)
    assert close(again, players, tolerance, tolerance)
    assert np.allclose(found, numbers, tolerance, tolerance)
    assert numbers.shape == (5, len(played.names)) and numbers.dtype == dtype
    assert {a.dtype for a in tree.leaves(players) if a.dtype.kind == "f"} == {np.dtype(dtype)}


def test_the_same_seed_gives_the_same_bits():
    played = game(partial(adam, 0.01))
    for compiled in (True, False):
        one, numbers = iterations(played, 3, compiled)
        other, again = iterations(played, 3, compiled)
        assert same(one, other) and np.array_equal(numbers, again)
    assert not close(played.init(Stream(0)), played.init(Stream(1)))


def test_generated_samples():
    played = game(prior=train.uniform_prior)
    players = played.init(Stream(0), np.float64)
    found = played.generate(players, 5, Stream(1))
    z = train.uniform_prior(Stream(1), (5, 3), np.float64)
    assert found.dtype == np.float64 and close(found, mlp(players.generator, z), 1e-13)
    _, z, points = played.draw(circle, streams(0), 0, np.float64)
    assert z.shape == points.shape == (4, 3) and (abs(z) <= 1).all() and not same(z, points)


def test_steps_on_the_stand_in_for_a_gpu(stand_in):
    played = game(partial(adam, 0.01))
    real = partial(circle, dtype=np.float32)
    players = played.init(Stream(0, device="gpu"))
    players, numbers = played.step(
        players, played.draw(real, streams(0, "gpu"), 0, np.float32), 1.0
    )
    _, expected = played.step(
        played.init(Stream(0)), played.draw(real, streams(0), 0, np.float32), 1.0
    )
    assert np.allclose(stand_in.get(numbers), expected, rtol=1e-4, atol=1e-5)
    assert {type(a) for a in tree.leaves(players)} == {stand_in.ndarray}


# Bad input


@pytest.mark.parametrize(
    "choices, message",
    [
        (dict(gamma=0.0), "gamma is 0.0; expected a ratio above 0 and at most 1"),
        (dict(gamma=1.1), "gamma is 1.1; expected a ratio above 0 and at most 1"),
        (dict(gamma=math.nan), "gamma is nan; expected a ratio"),
        (dict(balance_rate=0.0), "balance_rate is 0.0; expected a number above 0"),
        (dict(balance_rate=math.inf), "balance_rate is inf; expected a number above 0"),
        (dict(batch=0), "batch is 0; expected at least 1"),
        (
            dict(critic=models.MLP((2, 5, 1))),
            r"critic makes \(1,\) of samples of shape \(2,\); .*AutoEncoder",
        ),
        (
            dict(critic=mlp_autoencoder((3,), (5,), 2)),
            r"generator gives samples of shape \(2,\) and the critic takes \(3,\)",
        ),
    ],
)
def test_choices_that_make_no_sense(choices, message):
    with pytest.raises(ValueError, match=f"BEGAN: .*{message}|BEGAN: {message}"):
        replace(game(), **choices)


def test_the_ends_of_gamma_are_taken():
    assert game(gamma=1.0).gamma == 1.0 and game(gamma=1e-6).gamma == 1e-6


def test_data_of_another_shape_or_dtype():
    played = game()
    with pytest.raises(ValueError, match="expected"):
        run(played, played.init(Stream(0)), lambda n, s: s.normal((n, 3)), 1, Stream(1))
    with pytest.raises(TypeError, match="float64.*expected.*float32"):
        run(played, played.init(Stream(0)), circle, 1, Stream(1))


# A short run


def test_it_learns_to_bring_the_ring_back_and_samples_come_nearer():
    """In the plane it finds some modes and not all: nothing in BEGAN asks for more."""
    fast = optim.Adam(1e-3, (0.5, 0.9))
    critic = mlp_autoencoder((2,), (64,), 2)
    played = BEGAN(models.MLP((2, 64, 64, 2)), critic, fast, fast, balance_rate=0.05)
    found, coverage = trained(played, 1500)
    real, m = found.history.column("real_error"), found.history.column("convergence")
    assert real[0] > 0.4 and real[-100:].mean() < 0.08
    assert m[-100:].mean() < 0.15 and coverage.modes >= 2
