"""Regularized GAN and MDGAN: losses by hand, every player's step, who is held fixed, short runs."""

import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tinygan import data, losses, metrics, models, ops, optim, train, tree
from tinygan.backend import Stream
from tinygan.check import check_gradients
from tinygan.engine import Tensor, grad_values, track
from tinygan.game import Streams
from tinygan.loop import run
from tinygan.replay import compile
from tinygan.systems import mdgan, regularized
from tinygan.systems.mdgan import MDGAN
from tinygan.systems.regularized import Regularized

# A hand-written second opinion, also for the tests of the other systems


def mlp(params, x):
    """The MLP with tanh, in NumPy."""
    for i, layer in enumerate(params):
        x = (np.tanh(x) if i else x) @ layer["weight"] + layer["bias"]
    return x


def slopes(f, params, h=1e-3):
    """∇f at a tree of arrays, by five-point differences."""
    params = copy.deepcopy(params)
    found = []
    for a in tree.leaves(params):
        g = np.zeros_like(a)
        for at in np.ndindex(a.shape):
            middle, values = a[at], []
            for step in (-2, -1, 1, 2):
                a[at] = middle + step * h
                values.append(f(params))
            a[at] = middle
            g[at] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
        found.append(g)
    return tree.rebuild(params, found)


def descended(f, params, rate):
    """(params after a step of gradient descent by hand, the gradient's norm)."""
    g = slopes(f, params)
    size = math.sqrt(sum((a**2).sum() for a in tree.leaves(g)))
    return tree.tree_map(lambda p, a: p - rate * a, params, g), size


def close(one, other, rtol=1e-8, atol=1e-9):
    pairs = zip(tree.leaves(one), tree.leaves(other), strict=True)
    return all(a.shape == b.shape and np.allclose(a, b, rtol, atol) for a, b in pairs)


def same(one, other):
    pairs = zip(tree.leaves(one), tree.leaves(other), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def streams(seed, device="cpu"):
    return Streams(*[Stream(seed, device=device).child(i) for i in range(3)])


def circle(n, stream, dtype=np.float64):
    """Data: the unit circle, with a little noise."""
    return data.ring(8, 1.0, 0.1).sample(n, stream, dtype)


def iterations(game, steps=4, compiled=False, dtype=np.float64, factor=0.7):
    """(players, the numbers of each iteration) from a fixed start."""
    players, source = game.init(Stream(3), dtype), streams(4)
    step = compile(game.step) if compiled else game.step
    numbers = []
    for i in range(steps):
        batch = game.draw(partial(circle, dtype=dtype), source, i, dtype)
        players, found = step(players, batch, factor)
        numbers.append(found)
    return players, np.stack(numbers)


class Seen:
    """A model that notes, call by call, whether its parameters were tracked, and its input."""

    def __init__(self, model, name, calls):
        self.model, self.name, self.calls = model, name, calls
        self.input, self.output = model.input, (model.sizes[-1],)

    def init(self, stream, dtype):
        return self.model.init(stream, dtype)

    def __call__(self, params, x):
        tracked = all(type(a) is Tensor for a in tree.leaves(params))
        self.calls.append((self.name, tracked, x.data if type(x) is Tensor else x))
        return self.model(params, x)


GENERATOR = models.MLP((3, 5, 2), ops.tanh)
CRITIC = models.MLP((2, 5, 1), ops.tanh)
OTHER_CRITIC = models.MLP((2, 4, 1), ops.tanh)
ENCODER = models.MLP((2, 4, 3), ops.tanh)
RATES = dict(generator=0.3, critic=0.2, encoder=0.1, other=0.25)


def regularized_game(optimizer=optim.SGD, **choices):
    return Regularized(
        GENERATOR,
        CRITIC,
        ENCODER,
        optimizer(RATES["generator"]),
        optimizer(RATES["critic"]),
        optimizer(RATES["encoder"]),
        **{"batch": 4, **choices},
    )


def mdgan_game(optimizer=optim.SGD, **choices):
    return MDGAN(
        GENERATOR,
        ENCODER,
        CRITIC,
        OTHER_CRITIC,
        optimizer(RATES["generator"]),
        optimizer(RATES["encoder"]),
        optimizer(RATES["critic"]),
        optimizer(RATES["other"]),
        **{"batch": 4, **choices},
    )


GAMES = {"regularized": regularized_game, "mdgan": mdgan_game}
each_game = pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)


def started(game, seed=0):
    """Players, and a batch."""
    return game.init(Stream(seed), np.float64), game.draw(circle, streams(seed), 0, np.float64)


def log_sigmoid(a):
    return -math.log(1 + math.exp(-a))


def critic_by_hand(d, real, fake):
    """−mean log σ(D(real)) − mean log(1 − σ(D(fake))), sample by sample."""
    on_real = [log_sigmoid(mlp(d, x[None])[0, 0]) for x in real]
    on_fake = [math.log(1 - 1 / (1 + math.exp(-mlp(d, x[None])[0, 0]))) for x in fake]
    return -sum(on_real) / len(real) - sum(on_fake) / len(fake)


def fooling_by_hand(d, fake):
    return -sum(log_sigmoid(mlp(d, x[None])[0, 0]) for x in fake) / len(fake)


def distance_by_hand(x, y):
    """The mean over samples of the squared norm."""
    total = 0.0
    for a, b in zip(x, y, strict=True):
        for p, q in zip(a.reshape(-1), b.reshape(-1), strict=True):
            total += (p - q) ** 2
    return total / len(x)


# Losses


def test_distances_by_hand():
    x = np.array([[[1.0, 2.0], [0.0, -1.0]], [[3.0, 0.5], [0.0, 0.0]], [[0.0] * 2] * 2])
    y = np.array([[[0.0, 2.0], [2.0, -1.0]], [[3.0, 0.0], [1.0, 0.0]], [[3.0, 0.0], [0.0, 4.0]]])
    assert regularized.square_distance(x, y) == pytest.approx((5 + 1.25 + 25) / 3, rel=1e-14)
    assert regularized.mean_square_distance(x, y) == pytest.approx(31.25 / 12, rel=1e-14)
    assert regularized.square_distance(x, y) == pytest.approx(distance_by_hand(x, y), rel=1e-14)


def test_values_of_the_losses_by_hand():
    encoded, fake = np.array([[2.0], [-1.0]]), np.array([[0.5]])
    # −log σ at 2, −1 and .5, to ten digits
    on_encoded, on_fake = (0.1269280110 + 1.3132616875) / 2, 0.4740769842
    found = regularized.encoder_loss(np.array(3.0), encoded, 0.2, 0.4)
    assert found == pytest.approx(0.2 * 3 + 0.4 * on_encoded, rel=1e-9)
    assert regularized.generator_loss(fake, found) == pytest.approx(found + on_fake, rel=1e-9)
    manifold = mdgan.manifold_loss(np.array(3.0), encoded, 0.01)
    assert manifold == pytest.approx(3 + 0.01 * on_encoded, rel=1e-9)


def parameters(stream=None):
    stream = stream or Stream(8)
    found = {
        "G": GENERATOR.init(stream, np.float64),
        "D": CRITIC.init(stream, np.float64),
        "E": ENCODER.init(stream, np.float64),
    }
    return found, circle(4, stream), stream.normal((4, 3), np.float64)


@pytest.mark.parametrize(
    "distance", [regularized.square_distance, regularized.mean_square_distance]
)
def test_gradients_of_the_losses_to_order_3(distance):
    params, x, z = parameters()

    def loss(p):
        encoded = GENERATOR(p["G"], ENCODER(p["E"], x))
        logits, d = CRITIC(p["D"], encoded), distance(x, encoded)
        regularizer = regularized.encoder_loss(d, logits, 0.2, 0.4)
        whole = regularized.generator_loss(CRITIC(p["D"], GENERATOR(p["G"], z)), regularizer)
        return {"G": whole, "E": regularizer, "manifold": mdgan.manifold_loss(d, logits, 0.3)}

    check_gradients(loss, params, order=3)


# The Regularized GAN's step


def test_each_player_of_the_regularized_gan_moves_as_by_hand():
    game = regularized_game(distance_weight=0.7, mode_weight=0.3)
    players, ((x, z), (anchors, points)) = started(game)
    now, numbers = game.step(players, ((x, z), (anchors, points)), 0.5)

    fake = mlp(players.generator, z)
    d, d_size = descended(lambda d: critic_by_hand(d, x, fake), players.critic, 0.5 * 0.2)

    def regularizer(g, e):
        encoded = mlp(g, mlp(e, anchors))
        return 0.7 * distance_by_hand(anchors, encoded) / 2 + 0.3 * fooling_by_hand(d, encoded)

    def whole(g):
        return fooling_by_hand(d, mlp(g, points)) + regularizer(g, players.encoder)

    g, g_size = descended(whole, players.generator, 0.5 * 0.3)
    e, e_size = descended(lambda e: regularizer(players.generator, e), players.encoder, 0.5 * 0.1)
    assert close(now.critic, d) and close(now.generator, g) and close(now.encoder, e)
    values = dict(zip(game.names, numbers, strict=True))
    encoded = mlp(players.generator, mlp(players.encoder, anchors))
    assert values == pytest.approx(
        {
            "critic_loss": critic_by_hand(players.critic, x, fake),
            "generator_loss": whole(players.generator),
            "encoder_loss": regularizer(players.generator, players.encoder),
            "distance": distance_by_hand(anchors, encoded) / 2,
            "critic_gradient": d_size,
            "generator_gradient": g_size,
            "encoder_gradient": e_size,
        },
        rel=1e-8,
    )


def test_without_its_regularizer_it_is_the_standard_gan():
    game = regularized_game(distance_weight=0.0, mode_weight=0.0)
    players, batch = started(game)
    (x, z), (_, points) = batch
    now, _ = game.step(players, batch, 1.0)
    gan = train.GAN(GENERATOR, CRITIC, game.generator_optimizer, game.critic_optimizer)
    plain = train.Players(
        players.generator, players.critic, players.generator_state, players.critic_state
    )
    plain, _ = train.critic_step(gan, plain, x, z)
    plain, _ = train.generator_step(gan, plain, points)
    assert same(now.critic, plain.critic)
    assert close(now.generator, plain.generator, 1e-14, 1e-14)
    assert same(now.encoder, players.encoder)


def test_the_encoder_hears_nothing_of_generated_samples():
    game = regularized_game()
    players, (critic, (anchors, points)) = started(game)
    one, _ = game.step(players, (critic, (anchors, points)), 1.0)
    other, _ = game.step(players, (critic, (anchors, points + 1)), 1.0)
    assert same(one.encoder, other.encoder) and same(one.critic, other.critic)
    assert not close(one.generator, other.generator)


def test_encoded_samples_are_led_to_where_the_critic_says_real():
    """P2 prints + λ₂ log D, which would lead them away."""
    game = regularized_game(distance_weight=0.0, mode_weight=1.0)
    players, (critic, generator) = started(game)
    now, _ = game.step(players, (critic, generator), 0.1)

    def log_d(e):
        return -fooling_by_hand(now.critic, mlp(players.generator, mlp(e, generator[0])))

    assert log_d(now.encoder) > log_d(players.encoder)


# MDGAN's steps


def test_each_player_of_mdgan_moves_as_by_hand():
    game = mdgan_game(weight=0.3)
    players, (x, anchors, z) = started(game)
    now, numbers = game.step(players, (x, anchors, z), 0.5)
    g, e = players.generator, players.encoder

    encoded = mlp(g, mlp(e, x))
    d1, d1_size = descended(
        lambda d: critic_by_hand(d, x, encoded), players.manifold_critic, 0.5 * 0.2
    )

    def manifold(g, e):
        y = mlp(g, mlp(e, x))
        return 0.3 * fooling_by_hand(d1, y) + distance_by_hand(x, y)

    new_g, g_size = descended(lambda g: manifold(g, players.encoder), g, 0.5 * 0.3)
    new_e, e_size = descended(lambda e: manifold(players.generator, e), e, 0.5 * 0.1)

    real, fake = mlp(new_g, mlp(new_e, anchors)), mlp(new_g, z)
    d2, d2_size = descended(
        lambda d: critic_by_hand(d, real, fake), players.diffusion_critic, 0.5 * 0.25
    )
    last_g, last_size = descended(lambda g: fooling_by_hand(d2, mlp(g, z)), new_g, 0.5 * 0.3)
    assert close(now.manifold_critic, d1) and close(now.encoder, new_e)
    assert close(now.diffusion_critic, d2) and close(now.generator, last_g)
    values = dict(zip(game.names, numbers, strict=True))
    assert values == pytest.approx(
        {
            "manifold_critic_loss": critic_by_hand(players.manifold_critic, x, encoded),
            "manifold_loss": manifold(g, e),
            "distance": distance_by_hand(x, encoded),
            "diffusion_critic_loss": critic_by_hand(players.diffusion_critic, real, fake),
            "diffusion_loss": fooling_by_hand(d2, fake),
            "manifold_critic_gradient": d1_size,
            "manifold_gradient": g_size,
            "encoder_gradient": e_size,
            "diffusion_critic_gradient": d2_size,
            "diffusion_gradient": last_size,
        },
        rel=1e-8,
    )


def test_a_step_leaves_alone_who_does_not_play():
    game = mdgan_game(optim.Adam)
    players, (x, anchors, z) = started(game)
    now, _ = game.manifold_step(players, x)
    assert now.diffusion_critic is players.diffusion_critic
    assert now.diffusion_critic_state is players.diffusion_critic_state
    assert not close(now.encoder, players.encoder)
    after, _ = game.diffusion_step(now, anchors, z)
    for name in ("encoder", "encoder_state", "manifold_critic", "manifold_critic_state"):
        assert getattr(after, name) is getattr(now, name)
    assert not close(after.generator, now.generator)
    assert int(after.generator_state["step"]) == 2  # both of its steps are one optimiser's


def test_who_is_held_fixed_is_given_as_arrays():
    calls = []
    seen = {
        name: Seen(model, name, calls)
        for name, model in dict(
            generator=GENERATOR,
            encoder=ENCODER,
            manifold_critic=CRITIC,
            diffusion_critic=OTHER_CRITIC,
        ).items()
    }
    game = replace(mdgan_game(), **seen)
    players, batch = started(game)
    calls.clear()
    game.step(players, batch, 1.0)
    assert sorted((name, tracked) for name, tracked, _ in calls[:4]) == [
        ("encoder", False),
        ("generator", False),
        ("manifold_critic", True),
        ("manifold_critic", True),
    ]
    assert sorted((name, tracked) for name, tracked, _ in calls[4:7]) == [
        ("encoder", True),
        ("generator", True),
        ("manifold_critic", False),
    ]
    assert sorted((name, tracked) for name, tracked, _ in calls[7:12]) == [
        ("diffusion_critic", True),
        ("diffusion_critic", True),
        ("encoder", False),
        ("generator", False),
        ("generator", False),
    ]
    assert sorted((name, tracked) for name, tracked, _ in calls[12:]) == [
        ("diffusion_critic", False),
        ("generator", True),
    ]

    calls.clear()
    del seen["manifold_critic"], seen["diffusion_critic"]
    game = replace(regularized_game(), **seen, critic=Seen(CRITIC, "critic", calls))
    players, batch = started(game)
    game.step(players, batch, 1.0)
    assert [(name, tracked) for name, tracked, _ in calls[:3]] == [
        ("generator", False),
        ("critic", True),
        ("critic", True),
    ]
    by_name = {(name, tracked) for name, tracked, _ in calls[3:]}
    assert by_name == {("generator", True), ("encoder", True), ("critic", False)}


SQUARE = dict(  # latent points of the data's shape: here a critic could take z itself
    generator=models.MLP((2, 5, 2), ops.tanh), encoder=models.MLP((2, 4, 2), ops.tanh)
)


def test_the_diffusion_critic_sees_generated_samples():
    """P2 prints D₂(z): where the shapes allow it, that gives another gradient."""
    game = replace(mdgan_game(), **SQUARE)
    players, (x, anchors, z) = started(game)
    now, _ = game.manifold_step(players, x)
    after, _ = game.diffusion_step(now, anchors, z)

    def gradient(fake):
        d = track(now.diffusion_critic)
        real = mlp(now.generator, mlp(now.encoder, anchors))
        loss = losses.logistic_critic(OTHER_CRITIC(d, real), OTHER_CRITIC(d, fake))
        return grad_values(loss, d)

    def moved(fake):
        return tree.tree_map(lambda p, g: p - 0.25 * g, now.diffusion_critic, gradient(fake))

    assert close(after.diffusion_critic, moved(mlp(now.generator, z)), 1e-12)
    assert not close(after.diffusion_critic, moved(z), 1e-3)

    calls = []
    watched = replace(game, diffusion_critic=Seen(OTHER_CRITIC, "D2", calls))
    watched.diffusion_step(now, anchors, z)
    real, fake, again = [given for _, _, given in calls]
    assert np.allclose(real, mlp(now.generator, mlp(now.encoder, anchors)))
    assert np.allclose(fake, mlp(now.generator, z)) and np.allclose(again, fake)


def test_latent_points_reach_the_diffusion_critic_only_through_the_generator():
    game = replace(mdgan_game(), **SQUARE)
    players, (x, anchors, z) = started(game)
    deaf = copy.deepcopy(players.generator)
    deaf[0]["weight"][:] = 0.0  # G(z) no longer depends on z
    players = players._replace(generator=deaf)
    one, _ = game.diffusion_step(players, anchors, z)
    other, _ = game.diffusion_step(players, anchors, z + 5)
    assert same(one.diffusion_critic, other.diffusion_critic)


# As games


@each_game
def test_names_and_numbers(make):
    game = make()
    assert len(set(game.names)) == len(game.names)
    players, numbers = iterations(game, 1)
    assert numbers.shape == (1, len(game.names)) and np.isfinite(numbers).all()
    assert type(players) is type(game.init(Stream(0)))


@each_game
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_compiled_iterations_equal_eager_ones(make, dtype, tolerance):
    game = replace(make(partial(adam, 0.01)), batch=8)
    players, numbers = iterations(game, 5, False, dtype)
    again, found = iterations(game, 5, True, dtype)
    assert close(again, players, tolerance, tolerance)
    assert np.allclose(found, numbers, tolerance, tolerance)
    assert numbers.dtype == dtype
    assert {a.dtype for a in tree.leaves(players) if a.dtype.kind == "f"} == {np.dtype(dtype)}


def adam(scale, rate):
    return optim.Adam(rate * scale, (0.5, 0.9))


@each_game
def test_the_same_seed_gives_the_same_bits(make):
    game = make(partial(adam, 0.01))
    for compiled in (True, False):
        one, numbers = iterations(game, 3, compiled)
        other, again = iterations(game, 3, compiled)
        assert same(one, other) and np.array_equal(numbers, again)
    assert not close(game.init(Stream(0)), game.init(Stream(1)))


@each_game
def test_every_player_starts_from_draws_of_its_own(make):
    first = []
    for params in make().init(Stream(0), np.float64):
        if isinstance(params, list):  # parameters, not states
            weight = params[0]["weight"]
            first.append(weight.reshape(-1)[:3] * math.sqrt(weight.shape[0]))  # of one scale
    assert len(first) >= 3
    assert all(abs(a - b).max() > 1e-6 for i, a in enumerate(first) for b in first[:i])


@each_game
def test_generated_samples(make):
    game = make(prior=train.uniform_prior)
    players = game.init(Stream(0), np.float64)
    found = game.generate(players, 5, Stream(1))
    z = train.uniform_prior(Stream(1), (5, 3), np.float64)
    assert found.dtype == np.float64 and close(found, mlp(players.generator, z), 1e-13)
    assert game.generate(game.init(Stream(0)), 5, Stream(1)).dtype == np.float32


@each_game
def test_points_come_from_the_prior(make):
    game = make(prior=lambda stream, shape, dtype: np.full(shape, 7.0, dtype))
    batch = game.draw(circle, streams(0), 0, np.float64)
    points = [a for a in tree.leaves(batch) if a.shape == (4, 3)]
    assert points and all((a == 7).all() for a in points)


@each_game
def test_steps_on_the_stand_in_for_a_gpu(make, stand_in):
    game = make(partial(adam, 0.01))
    players = game.init(Stream(0, device="gpu"))
    real = partial(circle, dtype=np.float32)
    batch = game.draw(real, streams(0, "gpu"), 0, np.float32)
    players, numbers = game.step(players, batch, 1.0)
    host = game.init(Stream(0))
    _, expected = game.step(host, game.draw(real, streams(0), 0, np.float32), 1.0)
    assert np.allclose(stand_in.get(numbers), expected, rtol=1e-4, atol=1e-5)
    assert {type(a) for a in tree.leaves(players)} == {stand_in.ndarray}
    assert type(game.generate(players, 3, Stream(1, device="gpu"))) is stand_in.ndarray


# Bad input


WIDE = models.MLP((2, 5, 4), ops.tanh)


@pytest.mark.parametrize(
    "make, choices, message",
    [
        (regularized_game, dict(encoder=WIDE), r"encoder gives samples of shape \(4,\) and the ge"),
        (regularized_game, dict(critic=GENERATOR), r"generator gives .* \(2,\) and the critic tak"),
        (regularized_game, dict(critic=WIDE), r"critic gives samples of shape \(4,\).*one logit"),
        (regularized_game, dict(distance_weight=-1.0), "distance_weight is -1.0; expected a numb"),
        (regularized_game, dict(mode_weight=math.nan), "mode_weight is nan; expected a number"),
        (regularized_game, dict(batch=0), "batch is 0; expected at least 1"),
        (mdgan_game, dict(encoder=WIDE), r"encoder gives samples of shape \(4,\) and the generat"),
        (mdgan_game, dict(diffusion_critic=GENERATOR), r"and the diffusion critic takes \(3,\)"),
        (mdgan_game, dict(manifold_critic=GENERATOR), r"and the manifold critic takes \(3,\)"),
        (mdgan_game, dict(diffusion_critic=WIDE), "the diffusion critic gives .*one logit"),
        (mdgan_game, dict(weight=-0.1), "weight is -0.1; expected a number of 0 or more"),
        (mdgan_game, dict(batch=0), "batch is 0; expected at least 1"),
    ],
)
def test_choices_that_make_no_sense(make, choices, message):
    with pytest.raises(ValueError, match=message):
        replace(make(), **choices)


@each_game
def test_data_of_another_shape_or_dtype(make):
    game = make()
    with pytest.raises(ValueError, match="expected"):
        run(game, game.init(Stream(0)), lambda n, s: s.normal((n, 3)), 1, Stream(1))
    with pytest.raises(TypeError, match="float64.*expected.*float32"):
        run(game, game.init(Stream(0)), circle, 1, Stream(1))


# Short runs: what they learn


def trained(game, steps, seed=0, toy=None):
    """(history, coverage of a ring within a fifth of its radius) after a run."""
    toy = toy or data.ring(8, 1.0, 0.05)
    found = run(game, game.init(Stream(seed)), toy.sample, steps, Stream(seed + 1))
    samples = game.generate(found.players, 2500, Stream(7))
    return found, metrics.mode_coverage(samples, toy, within=0.2)


def plane(*sizes):
    """An MLP of the short runs: ReLU, two hidden layers of 64."""
    return models.MLP((sizes[0], 64, 64, sizes[1]))


FAST = optim.Adam(1e-3, (0.5, 0.9))


def test_a_regularized_gan_learns_the_ring():
    game = Regularized(plane(2, 2), plane(2, 1), plane(2, 2), FAST, FAST, FAST)
    found, coverage = trained(game, 1500)
    assert coverage.modes20 >= 6 and coverage.high_quality > 0.5
    assert found.history.column("distance")[-100:].mean() < 0.6  # of 1, the data's mean square


def test_mdgan_learns_the_ring_and_the_way_back():
    game = MDGAN(plane(2, 2), plane(2, 2), plane(2, 1), plane(2, 1), FAST, FAST, FAST, FAST)
    found, coverage = trained(game, 1500)
    assert coverage.modes20 >= 6 and coverage.high_quality > 0.5
    distance = found.history.column("distance")
    assert distance[0] > 0.5 and distance[-100:].mean() < 0.05
