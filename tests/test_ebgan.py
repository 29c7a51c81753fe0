"""EBGAN: energies, the margin and the pulling-away term by hand, each player's step, short runs."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
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
from tinygan.engine import Tensor, grad, grad_values, track
from tinygan.loop import run
from tinygan.models.autoencoder import mlp_autoencoder
from tinygan.systems import ebgan
from tinygan.systems.ebgan import EBGAN

CRITIC = mlp_autoencoder((2,), (5,), 3, activation=ops.tanh)


def game(optimizer=optim.SGD, **choices):
    choices = {"batch": 4, "margin": 0.8, **choices}
    return EBGAN(GENERATOR, CRITIC, optimizer(0.3), optimizer(0.2), **choices)


def started(game, seed=0):
    """Players, and a batch."""
    return game.init(Stream(seed), np.float64), game.draw(circle, streams(seed), 0, np.float64)


# By hand


def layers(side):
    """The linear layers of an encoder or decoder, in order."""
    return list(side.values())


def code_by_hand(d, x):
    return mlp(layers(d["encoder"]), x)


def restored(d, x):
    """The auto-encoder in NumPy: tanh within encoder and decoder, the code linear."""
    return mlp(layers(d["decoder"]), code_by_hand(d, x))


def energies_by_hand(d, x):
    found = []
    for sample, back in zip(x, restored(d, x), strict=True):
        found.append(sum((a - b) ** 2 for a, b in zip(sample, back, strict=True)) / len(sample))
    return found


def critic_by_hand(d, real, fake, margin):
    on_real, on_fake = energies_by_hand(d, real), energies_by_hand(d, fake)
    kept = [max(0.0, margin - e) for e in on_fake]
    return sum(on_real) / len(on_real) + sum(kept) / len(kept)


def pulling_by_hand(codes):
    total, n = 0.0, len(codes)
    for i in range(n):
        for j in range(n):
            if i != j:
                dot = sum(a * b for a, b in zip(codes[i], codes[j], strict=True))
                sizes = [math.sqrt(sum(a * a for a in codes[k])) for k in (i, j)]
                total += (dot / (sizes[0] * sizes[1])) ** 2
    return total / (n * (n - 1))


def generator_by_hand(d, fake, weight):
    on_fake = energies_by_hand(d, fake)
    return sum(on_fake) / len(on_fake) + weight * pulling_by_hand(code_by_hand(d, fake))


# Energies and losses


def test_the_energy_is_each_samples_mean_squared_error():
    x = np.array([[[1.0, 2.0], [0.0, -1.0]], [[3.0, 0.5], [0.0, 0.0]]])
    y = np.array([[[0.0, 2.0], [2.0, -1.0]], [[3.0, 0.0], [1.0, 0.0]]])
    assert np.allclose(ebgan.energy(x, y), [5 / 4, 1.25 / 4], rtol=1e-14)


def test_the_margin_binds_sample_by_sample():
    real, fake = np.array([0.5, 1.5]), np.array([0.25, 3.0, 1.0])
    # .75 + 0 + 0; of the mean energy, 17/12 > 1, nothing would be left
    assert ebgan.critic_loss(real, fake, 1.0) == pytest.approx(1.0 + 0.25, rel=1e-14)
    assert ebgan.critic_loss(real, fake, 2.0) == pytest.approx(1.0 + 2.75 / 3, rel=1e-14)
    wrong = real.mean() + max(0.0, 1.0 - fake.mean())
    assert abs(wrong - 1.25) > 0.2


def test_samples_beyond_the_margin_give_the_critic_no_slope():
    real, fake = track([np.array([0.5, 1.5]), np.array([0.25, 3.0, 1.5])])
    on_real, on_fake = grad_values(ebgan.critic_loss(real, fake, 1.0), [real, fake])
    assert np.allclose(on_real, 0.5) and np.allclose(on_fake, [-1 / 3, 0, 0])


def test_the_generators_loss_by_hand():
    found = ebgan.generator_loss(np.array([0.25, 3.0, 1.0]), np.array(0.5), 0.1)
    assert found == pytest.approx(4.25 / 3 + 0.05, rel=1e-14)


# The pulling-away term

CODES = np.array([[3.0, 4.0], [4.0, 3.0], [0.0, -2.0]])
# cosines 24/25, −4/5, −3/5: squares .9216, .64, .36, each twice, over 6 pairs
PULLING = (0.9216 + 0.64 + 0.36) / 3


def test_pulling_away_by_hand():
    assert ebgan.pulling_away(CODES) == pytest.approx(PULLING, rel=1e-14)
    assert pulling_by_hand(CODES) == pytest.approx(PULLING, rel=1e-14)
    codes = Stream(2).normal((6, 2, 2), np.float64)
    assert ebgan.pulling_away(codes) == pytest.approx(
        pulling_by_hand(codes.reshape(6, 4)), rel=1e-13
    )


def test_pulling_away_at_its_ends():
    assert ebgan.pulling_away(np.eye(4)) == 0.0
    parallel = np.array([[1.0, 2.0], [-2.0, -4.0], [0.5, 1.0]])  # an opposite counts as alike
    assert ebgan.pulling_away(parallel) == pytest.approx(1.0, rel=1e-14)


def test_pulling_away_depends_on_directions_alone():
    scale = np.array([[1e-6], [1.0], [1e6]])
    assert ebgan.pulling_away(CODES * scale) == pytest.approx(PULLING, rel=1e-13)


def test_the_published_mistakes_in_it_are_far_off():
    unit = CODES / np.linalg.norm(CODES, axis=1, keepdims=True)
    cosines = unit @ unit.T
    not_squared = (cosines.sum() - 3) / 6
    with_diagonal = (cosines**2).sum() / 6
    assert not_squared == pytest.approx((0.96 - 0.8 - 0.6) / 3)  # below 0: it rewards opposites
    assert with_diagonal == pytest.approx(PULLING + 0.5)  # 1/(N − 1) too much
    assert abs(ebgan.pulling_away(CODES) - not_squared) > 0.7


@pytest.mark.parametrize("n", [2, 5])
def test_gradients_of_pulling_away_to_order_3(n):
    codes = Stream(n).normal((n, 3), np.float64) + 0.5
    check_gradients(ebgan.pulling_away, codes, order=3)


@pytest.mark.parametrize("rows", [[0], [0, 2], [0, 1, 2]])
def test_codes_of_zeros_have_no_slope_and_give_no_nan_to_order_3(rows):
    codes = CODES.copy()
    codes[rows] = 0.0
    x = track(codes)
    y = ebgan.pulling_away(x)
    left = [code for i, code in enumerate(CODES) if i not in rows]
    expected = pulling_by_hand(left) * 2 / 6 if len(left) == 2 else 0.0
    assert y.data == pytest.approx(expected, rel=1e-13)
    weights = Stream(1).normal((3, 3, 2), np.float64)
    for order in range(3):
        y = grad(y, x)
        assert type(y) is Tensor or not y.any()
        values = y.data if type(y) is Tensor else y
        assert np.isfinite(values).all() and (values[rows] == 0).all()
        if type(y) is not Tensor:
            break
        y = ops.sum(ops.multiply(y, weights[order]))


def test_pulling_away_needs_two_codes():
    with pytest.raises(ValueError, match=r"codes \(1, 2\); expected at least two"):
        ebgan.pulling_away(CODES[:1])


# Derivatives of the losses


def test_gradients_of_the_losses_to_order_3():
    params = {
        "G": GENERATOR.init(Stream(1), np.float64),
        "D": CRITIC.init(Stream(2), np.float64),
    }
    x, z = circle(4, Stream(3)), Stream(4).normal((4, 3), np.float64)

    def loss(p):
        fake = GENERATOR(p["G"], z)
        on_real = ebgan.energy(x, CRITIC(p["D"], x))
        on_fake = ebgan.energy(fake, CRITIC(p["D"], fake))
        pulling = ebgan.pulling_away(CRITIC.code(p["D"], fake))
        return {
            "binding": ebgan.critic_loss(on_real, on_fake, 1e3),
            "slack": ebgan.critic_loss(on_real, on_fake, 1e-6),
            "G": ebgan.generator_loss(on_fake, pulling, 0.1),
        }

    check_gradients(loss, params, order=3)


# The step


@pytest.mark.parametrize("margin", [0.05, 0.8, 20.0])
def test_each_player_moves_as_by_hand(margin):
    played = game(margin=margin, pulling_weight=0.4)
    players, (x, z, points) = started(played)
    now, numbers = played.step(players, (x, z, points), 0.5)

    fake = mlp(players.generator, z)
    energies = energies_by_hand(players.critic, fake)
    assert min(abs(margin - e) for e in energies) > 0.02  # no kink where the differences look
    if margin == 0.8:
        assert min(energies) < margin < max(energies)
    d, d_size = descended(lambda d: critic_by_hand(d, x, fake, margin), players.critic, 0.5 * 0.2)

    def judged(g):
        return generator_by_hand(d, mlp(g, points), 0.4)

    g, g_size = descended(judged, players.generator, 0.5 * 0.3)
    assert close(now.critic, d) and close(now.generator, g)
    assert dict(zip(played.names, numbers, strict=True)) == pytest.approx(
        {
            "critic_loss": critic_by_hand(players.critic, x, fake, margin),
            "generator_loss": judged(players.generator),
            "real_energy": np.mean(energies_by_hand(players.critic, x)),
            "fake_energy": np.mean(energies),
            "pulling_away": pulling_by_hand(code_by_hand(d, mlp(players.generator, points))),
            "critic_gradient": d_size,
            "generator_gradient": g_size,
        },
        rel=1e-8,
    )


def test_without_a_weight_the_term_is_reported_and_moves_nobody():
    plain = game(pulling_weight=0.0)
    players, batch = started(plain)
    now, numbers = plain.step(players, batch, 1.0)
    fake = mlp(players.generator, batch[2])
    g, _ = descended(
        lambda g: np.mean(energies_by_hand(now.critic, mlp(g, batch[2]))), players.generator, 0.3
    )
    assert close(now.generator, g)
    assert numbers[4] == pytest.approx(pulling_by_hand(code_by_hand(now.critic, fake)))


class Watched:
    """An auto-encoder that notes whether its parameters were tracked."""

    def __init__(self, calls):
        self.calls, self.input, self.output = calls, CRITIC.input, CRITIC.output

    def init(self, stream, dtype):
        return CRITIC.init(stream, dtype)

    def note(self, params):
        self.calls.append(("critic", all(type(a) is Tensor for a in tree.leaves(params))))

    def code(self, params, x):
        self.note(params)
        return CRITIC.code(params, x)

    def decode(self, params, codes):
        self.note(params)
        return CRITIC.decode(params, codes)

    def __call__(self, params, x):
        return self.decode(params, self.code(params, x))


def test_who_is_held_fixed_is_given_as_arrays():
    calls = []
    seen = replace(game(), generator=Seen(GENERATOR, "generator", calls), critic=Watched(calls))
    players, batch = started(seen)
    seen.step(players, batch, 1.0)
    found = [call[:2] for call in calls]
    assert found[0] == ("generator", False) and found[5] == ("generator", True)
    assert found[1:5] == [("critic", True)] * 4  # code and decode, of x and of G(z)
    assert found[6:] == [("critic", False)] * 2  # the code once


# As a game


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_compiled_iterations_equal_eager_ones(dtype, tolerance):
    played = game(partial(adam, 0.01), batch=8)
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
    "choices, error, message",
    [
        (dict(margin=0.0), ValueError, "margin is 0.0; expected a number above 0"),
        (dict(margin=math.nan), ValueError, "margin is nan; expected a number above 0"),
        (dict(margin=math.inf), ValueError, "margin is inf; expected a number above 0"),
        (dict(pulling_weight=-0.1), ValueError, "pulling_weight is -0.1; expected a number of 0"),
        (dict(batch=1), ValueError, "batch is 1; expected at least 2"),
        (dict(critic=models.MLP((2, 5, 2))), TypeError, "critic is a MLP, .*AutoEncoder"),
        (
            dict(critic=mlp_autoencoder((3,), (5,), 2)),
            ValueError,
            r"generator gives samples of shape \(2,\) and the critic takes \(3,\)",
        ),
    ],
)
def test_choices_that_make_no_sense(choices, error, message):
    with pytest.raises(error, match=f"EBGAN: .*{message}|EBGAN: {message}"):
        replace(game(), **choices)


def test_a_critic_that_gives_other_shapes_than_it_takes():
    class Wrong(Watched):
        output = property(lambda self: (3,), lambda self, value: None)

    with pytest.raises(ValueError, match=r"critic makes \(3,\) of samples of shape \(2,\)"):
        replace(game(), critic=Wrong([]))


def test_data_of_another_shape_or_dtype():
    played = game()
    with pytest.raises(ValueError, match="expected"):
        run(played, played.init(Stream(0)), lambda n, s: s.normal((n, 3)), 1, Stream(1))
    with pytest.raises(TypeError, match="float64.*expected.*float32"):
        run(played, played.init(Stream(0)), circle, 1, Stream(1))


# A short run


def test_it_learns_the_ring_and_tells_energies_apart():
    fast = optim.Adam(1e-3, (0.5, 0.9))
    critic = mlp_autoencoder((2,), (64,), 16)
    played = EBGAN(models.MLP((2, 64, 64, 2)), critic, fast, fast, margin=0.5)
    found, coverage = trained(played, 1500)
    assert coverage.modes20 >= 5 and coverage.high_quality > 0.5
    real, fake = (
        found.history.column(name)[-500:].mean() for name in ("real_energy", "fake_energy")
    )
    assert real < 0.2 < fake < 0.6  # of .5, the data's mean square: fakes are held near the margin
