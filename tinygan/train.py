"""The game of two: one critic step, one generator step, and what alternates between them.

A step is a function of arrays: parameters, data and noise in, new parameters out.
Whom a step holds fixed it is given as plain arrays, so no gradient of theirs exists. An iteration
is the same, so that :func:`tinygan.loop.run` records it once and replays it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinygan import ema
from tinygan import tree as trees
from tinygan.backend import Stream, array_module
from tinygan.engine import grad_values, track
from tinygan.game import Game, draw_samples, square_norm
from tinygan.loop import Diverged, History, Run, run
from tinygan.losses import NON_SATURATING, Loss
from tinygan.nn import Noise
from tinygan.ops import add, concatenate, multiply, stack
from tinygan.penalties import Penalty, clip_weights
from tinygan.spectral import has_spectral_norm, refreshed

__all__ = [
    "GAN",
    "Alternating",
    "CriticBatch",
    "Diverged",
    "GeneratorBatch",
    "Gradients",
    "History",
    "LayerNoise",
    "Players",
    "Record",
    "Run",
    "critic_gradients",
    "critic_loss",
    "critic_step",
    "generator_gradients",
    "generator_step",
    "iteration",
    "normal_prior",
    "train",
    "uniform_prior",
    "update_critic",
    "update_generator",
]


@dataclass(frozen=True)
class GAN:
    """A game: two models, their objectives, and how each side descends.

    Args:
        generator, critic: models, called as ``model(params, x)``.
        loss: a :class:`tinygan.losses.Loss`.
        generator_optimizer, critic_optimizer: of :mod:`tinygan.optim`; two rates make a TTUR.
        penalty: a :class:`tinygan.penalties.Penalty`, or None.
        clip: limit on the critic's weights after each of its steps, or None; the scales and shifts
            of its norms are left alone unless ``clip_everything``.
        average: average the two halves of the critic's loss instead of summing them.
        one_batch: send real and fake samples through the critic as one batch: the same values to
            rounding, in fewer and larger products. Not for critics that mix samples or draw noise.
        ema: decay of an exponential moving average of the generator (:mod:`tinygan.ema`), from
            which samples are then made; or None. It asks a generator for its ``input``.
    Raises: ValueError for a clip not above 0, an ema outside (0, 1), one_batch or a penalty with a
        critic that mixes samples, one_batch with one that draws noise, and a clip with spectral
        norms.
    """

    generator: Any
    critic: Any
    generator_optimizer: Any
    critic_optimizer: Any
    loss: Loss = NON_SATURATING
    penalty: Penalty | None = None
    clip: float | None = None
    average: bool = False
    one_batch: bool = False
    clip_everything: bool = False
    ema: float | None = None

    def __post_init__(self):
        if self.one_batch and getattr(self.critic, "mixes_samples", False):
            raise ValueError(
                "GAN: one_batch with a critic that uses batch norm: its statistics would mix "
                "real and fake samples; expected one_batch=False, or a critic without it"
            )
        if self.one_batch and _noise(self.critic, Stream(0), 1, np.float32):
            raise ValueError(
                "GAN: one_batch with a critic that draws noise, for real and for fake samples "
                "apart; expected one_batch=False, or a critic without noise layers"
            )
        if self.penalty is not None and getattr(self.critic, "mixes_samples", False):
            raise ValueError(
                "GAN: a gradient penalty with a critic that uses batch norm: a sample's slope "
                "would hold other samples' slopes. Use layer norm or no norm in the critic"
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"GAN: clip is {self.clip}; expected a limit above 0, or None")
        if self.clip is not None and has_spectral_norm(self.critic):
            raise ValueError(
                f"GAN: clip is {self.clip} with a critic of spectral norms, whose singular vectors "
                "it would clip too. Both bound the slope: expected clip=None, or a critic without"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(
                f"GAN: ema is {self.ema}; expected a decay above 0 and below 1, such as .999, or "
                "None"
            )

    def init(self, stream, dtype=np.float32, prior=None):
        """Parameters drawn from ``stream``, and optimisers at rest: a :class:`Players`.

        Args:
            prior: of the 64 latent points from whose statistics a moving average starts, where
                the generator has batch norm; N(0, I) without one.
        """
        g = self.generator.init(stream.child(0), dtype)
        d = self.critic.init(stream.child(1), dtype)
        average = ()
        if self.ema is not None:
            draw = prior or normal_prior
            z = draw(stream.child(2), (64, *self.generator.input), dtype)
            noise = _noise(self.generator, stream.child(3), 64, dtype)
            average = ema.start(self.generator, g, z, noise)
        return Players(
            g, d, self.generator_optimizer.init(g), self.critic_optimizer.init(d), average
        )

    def generate(self, players, z):
        """Samples of the generator, or of its moving average if there is one, at points z."""
        if self.ema is None:
            return self.generator(players.generator, z)
        return ema.sample(self.generator, self.averaged(players), z)

    def averaged(self, players):
        """The players' moving average of the generator, a :class:`tinygan.ema.Average`.

        Raises: ValueError for players without one.
        """
        if not players.average:
            raise ValueError(
                f"GAN: ema is {self.ema}, but the players have no average, as those of a game "
                "without one; expected players of its own init, or with "
                "average=ema.start(generator, params, z)"
            )
        return players.average


class Players(NamedTuple):
    """All that training changes: both sides' parameters, their optimisers' states, and the moving
    average of the generator: () without one."""

    generator: Any
    critic: Any
    generator_state: Any
    critic_state: Any
    average: Any = ()


class LayerNoise(NamedTuple):
    """What noise layers use in one step: for D on real and on fake samples, and for G.

    Each is what ``Net.draw`` gave; {} for networks without noise layers.
    """

    real: Any
    fake: Any
    generator: Any


class Gradients(NamedTuple):
    """A loss, its penalty part, and the gradient of their sum: plain arrays."""

    loss: Any
    penalty: Any
    tree: Any


def critic_loss(gan, d, real, fake, noise=(), layers=()):
    """The critic's loss on one batch, and its penalty: two scalars, the second None without one.

    loss(D(x), D(G(z))) and penalty(D, x, G(z))

    Args:
        d: the critic's parameters, Tensors or arrays.
        noise: as ``gan.penalty.draw`` made it.
        layers: a :class:`LayerNoise`, or (). The penalty is that of the critic without noise.
    Shapes: real, fake (N, ...).
    """
    if gan.one_batch:
        logits = gan.critic(d, concatenate(real, fake))
        on_real, on_fake = logits[: len(real)], logits[len(real) :]
    else:
        on_real = _called(gan.critic, d, real, layers and layers.real)
        on_fake = _called(gan.critic, d, fake, layers and layers.fake)
    loss = gan.loss.critic(on_real, on_fake, gan.average)
    if gan.penalty is None:
        return loss, None
    return loss, gan.penalty(lambda x: gan.critic(d, x), real, fake, *noise)


def critic_gradients(gan, players, real, z, noise=(), layers=()):
    """The critic's loss on one batch, and its gradient in the critic's parameters.

    ∇_D [ loss(D(x), D(G(z))) + penalty(D, x, G(z)) ]

    Shapes: real (N, ...), z (N, latent); noise and layers as in :func:`critic_loss`.
    """
    fake = _called(gan.generator, players.generator, z, layers and layers.generator)
    d = track(players.critic, "D")
    loss, penalty = critic_loss(gan, d, real, fake, noise, layers)
    if penalty is None:
        return Gradients(loss.data, None, grad_values(loss, d, release=True))
    return Gradients(loss.data, penalty.data, grad_values(add(loss, penalty), d, release=True))


def critic_step(gan, players, real, z, noise=(), rate=None, layers=()):
    """One step of the critic, held to its limits: (new players, :class:`Gradients`).

    Afterwards weights are clipped if the game says so, and spectral norms find their singular
    vectors anew.
    """
    found = critic_gradients(gan, players, real, z, noise, layers)
    return update_critic(gan, players, found.tree, rate), found


def update_critic(gan, players, gradient, rate=None):
    """The players after the critic has moved down a gradient, held to its limits.

    Args:
        gradient: a tree like the critic's parameters.
        rate: instead of the optimiser's own.
    """
    d, state = gan.critic_optimizer.update(players.critic, gradient, players.critic_state, rate)
    if gan.clip is not None:
        d = clip_weights(d, gan.clip, gan.clip_everything)
    return players._replace(critic=refreshed(d), critic_state=state)


def generator_gradients(gan, players, z, layers=()):
    """The generator's loss on one batch, and its gradient in the generator's parameters.

    ∇_G loss(D(G(z)))
    """
    g = track(players.generator, "G")
    fake = _called(gan.generator, g, z, layers and layers.generator)
    logits = _called(gan.critic, players.critic, fake, layers and layers.fake)
    loss = gan.loss.generator(logits)
    return Gradients(loss.data, None, grad_values(loss, g, release=True))


def generator_step(gan, players, z, rate=None, layers=()):
    """One step of the generator and its moving average: (new players, :class:`Gradients`)."""
    found = generator_gradients(gan, players, z, layers)
    noise = layers.generator if layers else None
    return update_generator(gan, players, found.tree, z, rate, noise), found


def update_generator(gan, players, gradient, z, rate=None, noise=None):
    """The players after the generator has moved down a gradient, and its moving average with it.

    Args:
        gradient: a tree like the generator's parameters.
        z, noise: the latent points, and what the generator's layers drew for them: whose batch
            statistics the average takes in.
        rate: instead of the optimiser's own.
    """
    g, state = gan.generator_optimizer.update(
        players.generator, gradient, players.generator_state, rate
    )
    g, average = refreshed(g), players.average
    if gan.ema is not None:
        average = ema.moved(gan.generator, gan.averaged(players), g, z, gan.ema, noise)
    return players._replace(generator=g, generator_state=state, average=average)


def _called(model, params, x, noise):
    """Models without noise layers need not know of noise."""
    return model(params, x, noise=noise) if noise else model(params, x)


def _noise(model, stream, n, dtype, level=1.0):
    """What a model's noise layers use for n samples; {} for models without any."""
    return model.draw(stream, n, dtype, level) if hasattr(model, "draw") else {}


def _has_noise_layer(model):
    layers = getattr(model, "layers", None)
    return isinstance(layers, dict) and any(isinstance(a, Noise) for a in layers.values())


class CriticBatch(NamedTuple):
    """What one step of the critic is given; ``real`` is () where it is that of the first step."""

    real: Any
    z: Any
    noise: tuple = ()
    layers: tuple = ()


class GeneratorBatch(NamedTuple):
    """What one step of the generator is given."""

    z: Any
    layers: tuple = ()


class Record(NamedTuple):
    """What one iteration left in the history; floats. Gradients are norms over all parameters."""

    step: int
    critic_loss: float
    penalty: float
    generator_loss: float
    critic_gradient: float
    generator_gradient: float


def normal_prior(stream, shape, dtype):
    """Latent points z ~ N(0, I)."""
    return stream.normal(shape, dtype)


def uniform_prior(stream, shape, dtype):
    """Latent points z ~ U[−1, 1), each component by itself. Source: P0, as in DCGAN."""
    return stream.uniform(shape, dtype) * 2 - 1


@dataclass(frozen=True)
class Alternating(Game):
    """Steps of one side and then of the other, each from where the steps before it have led.

    k critic steps to 1 generator step put D in the inner loop, 1 to k put G there: min over G of
    max over D is not max of min, and G in the inner loop answers each D with the one mode that it
    likes best (P2). With SGD at one rate for both sides and fixed numbers of steps this is
    Fixed-Alt-GD (P3, proposition 2).

    Args:
        gan: a :class:`GAN`.
        batch: samples in a batch.
        latent: the generator's number of inputs.
        critic_steps, generator_steps: of an iteration.
        prior: draws the latent points, ``prior(stream, shape, dtype)``.
        same_batch: all critic steps of an iteration see the same real samples, instead of fresh
            ones: P4's WGAN as it was run. Latent points are fresh.
        generator_first: the generator's steps come before the critic's.
        noise_level: a function of the iteration that multiplies the deviation of
            :class:`tinygan.nn.Noise` layers, to anneal it; None is 1.
    Raises: ValueError for sizes below 1, and for a noise_level where no network draws noise.
    Source: Goodfellow et al. (2014) algorithm 1; Arjovsky et al. (2017) algorithm 1 (P4).
    """

    gan: GAN
    batch: int
    latent: int
    critic_steps: int = 1
    generator_steps: int = 1
    prior: Callable = normal_prior
    same_batch: bool = False
    generator_first: bool = False
    noise_level: Callable | None = None

    names = Record._fields[1:]
    rates = 2

    def __post_init__(self):
        networks = self.gan.generator, self.gan.critic
        if self.noise_level is not None and not any(map(_has_noise_layer, networks)):
            raise ValueError(
                "train: a noise_level for networks without noise; expected None, or networks with "
                "tinygan.nn.Noise layers"
            )
        for name in ("batch", "latent", "critic_steps", "generator_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"train: {name} is {getattr(self, name)}; expected at least 1")

    def init(self, stream, dtype=np.float32):
        """As :meth:`GAN.init`."""
        return self.gan.init(stream, dtype, self.prior)

    def draw(self, data, streams, step, dtype):
        """([:class:`CriticBatch`, …], [:class:`GeneratorBatch`, …]) for one iteration."""
        gan, level = self.gan, 1.0 if self.noise_level is None else self.noise_level(step)

        def latent_points():
            return self.prior(streams.points, (self.batch, self.latent), dtype)

        def layers(with_real):
            def noise_of(model):
                return _noise(model, streams.noise, self.batch, dtype, level)

            real = noise_of(gan.critic) if with_real else {}
            found = LayerNoise(real, noise_of(gan.critic), noise_of(gan.generator))
            return found if any(found) else ()

        critic_batches = []
        for i in range(self.critic_steps):
            if i == 0 or not self.same_batch:
                real = draw_samples(data, self.batch, streams.data, dtype)
            noise = gan.penalty.draw(streams.noise, real) if gan.penalty else ()
            shown = () if i and self.same_batch else real
            critic_batches.append(CriticBatch(shown, latent_points(), noise, layers(True)))
        generator_batches = [
            GeneratorBatch(latent_points(), layers(False)) for _ in range(self.generator_steps)
        ]
        return critic_batches, generator_batches

    def step(self, players, batch, factor):
        """One iteration; ``factor`` may be a tuple, for the critic's rate and the generator's."""
        rates = self._rates(factor)
        return iteration(self.gan, players, *batch, *rates, self.generator_first)

    def _rates(self, factor):
        critic, generator = factor if isinstance(factor, tuple) else (factor, factor)
        return (
            multiply(critic, self.gan.critic_optimizer.rate),
            multiply(generator, self.gan.generator_optimizer.rate),
        )

    def generate(self, players, n, stream):
        """n samples, at latent points of the prior."""
        dtype = trees.leaves(players.generator)[0].dtype
        return self.gan.generate(players, self.prior(stream, (n, self.latent), dtype))

    def record(self, step, numbers):
        """The last step's of each side, gradients as norms: a :class:`Record`."""
        rows = numbers.reshape(-1, 3)
        critic, generator = rows[self.critic_steps - 1].tolist(), rows[-1].tolist()
        norms = math.sqrt(critic[2]), math.sqrt(generator[2])
        return Record(step, *critic[:2], generator[0], *norms)

    def diagnosis(self, players, batch, factor, numbers):
        """What is not finite, what is large, and what helps: the iteration's steps, one by one.

        Not from the numbers, whose gradients are gone, but from the same players and batches again.
        """
        taken = _steps(self.gan, players, *batch, *self._rates(factor), self.generator_first)
        for side, samples, before, _, found in taken:
            broken = [name for name, a in _parts(found, samples) if not np.isfinite(a).all()]
            if broken or not np.isfinite(square_norm(found.tree)):
                return _described(side, broken, before)
        rows = numbers.reshape(-1, 3)
        loss, penalty, square = rows[~np.isfinite(rows).all(1)][0].tolist()
        return (
            f"as compiled, a step gave the loss {loss:.3g}, the penalty {penalty:.3g} and the "
            f"gradient's squared norm {square:.3g}; step by step all are finite, but near the end "
            "of the numbers' range. Lower the rates"
        )


def iteration(
    gan,
    players,
    critic_batches,
    generator_batches,
    critic_rate=None,
    generator_rate=None,
    generator_first=False,
):
    """Steps of the critic and then of the generator, as one function of arrays.

    Args:
        critic_batches: a :class:`CriticBatch` for each step of the critic.
        generator_batches: a :class:`GeneratorBatch` for each step of the generator.
        critic_rate, generator_rate: instead of the optimisers' own.
        generator_first: the other way round.
    Returns: (new players, numbers): of each step its loss, its penalty (0 without one) and the sum
        of squares of its gradient.
    Shapes: numbers (3·steps,), the critic's steps first.
    """
    numbers = {"critic": [], "generator": []}
    taken = _steps(
        gan, players, critic_batches, generator_batches, critic_rate, generator_rate,
        generator_first,
    )  # fmt: skip
    for side, _, _, players, found in taken:  # noqa: B007, B020, the last ones are returned
        penalty = found.penalty
        if penalty is None:
            penalty = array_module(found.loss).zeros((), found.loss.dtype)
        numbers[side] += [found.loss, penalty, square_norm(found.tree)]
    return players, stack(*numbers["critic"], *numbers["generator"])


def _steps(gan, players, critic_batches, generator_batches, critic_rate, generator_rate, swapped):
    """Each step of an iteration: (side, its samples, players before and after, Gradients)."""
    same = critic_batches[0][0] if critic_batches else None
    sides = ["critic"] * len(critic_batches) + ["generator"] * len(generator_batches)
    pairs = list(zip(sides, [*critic_batches, *generator_batches], strict=True))
    if swapped:
        pairs = pairs[len(critic_batches) :] + pairs[: len(critic_batches)]
    for side, batch in pairs:
        before = players
        if side == "critic":
            batch = CriticBatch(*batch)
            samples = same if type(batch.real) is tuple else batch.real
            players, found = critic_step(
                gan, players, samples, batch.z, batch.noise, critic_rate, batch.layers
            )
        else:
            samples, layers = GeneratorBatch(*batch)
            players, found = generator_step(gan, players, samples, generator_rate, layers)
        yield side, samples, before, players, found


def train(
    gan,
    players,
    sample,
    steps,
    stream,
    *,
    batch,
    latent,
    critic_steps=1,
    generator_steps=1,
    prior=normal_prior,
    schedule=None,
    record_every=1,
    progress=False,
    watch=None,
    compiled=True,
    same_batch=False,
    generator_first=False,
    noise_level=None,
):
    """Alternate steps of the critic and of the generator: :class:`Alternating`, run.

    Args:
        players: where to start, of ``gan.init``.
        sample: the data, ``sample(n, stream)`` an array (n, ...).
        steps: iterations, each of ``critic_steps`` and ``generator_steps``.
        batch, latent, critic_steps, generator_steps, prior, same_batch, generator_first,
            noise_level: as in :class:`Alternating`.
        schedule: a function of the iteration (from 0) that multiplies both rates; or that gives a
            tuple of two, for the critic's rate and the generator's.
        stream, record_every, progress, watch, compiled: as in :func:`tinygan.loop.run`.
    Returns: a :class:`tinygan.loop.Run`. Ctrl-C ends the run early after the last whole iteration.
    Raises: Diverged, with a diagnosis, when a loss, a gradient or a parameter is no longer
        finite; ValueError for sizes below 1, and for an iteration that cannot be recorded;
        TypeError for data of another dtype than the weights.
    """
    game = Alternating(
        gan, batch, latent, critic_steps, generator_steps, prior, same_batch, generator_first,
        noise_level,
    )  # fmt: skip
    return run(
        game, players, sample, steps, stream, schedule=schedule, record_every=record_every,
        progress=progress, watch=watch, compiled=compiled,
    )  # fmt: skip


def _described(side, broken, players):
    """The diagnosis of one step, before which these were the players."""
    sizes = [
        (float(np.nan_to_num(abs(a).max(), nan=np.inf)), who, path)
        for who, tree in (("generator", players.generator), ("critic", players.critic))
        for path, a in trees.paths(tree)
    ]
    size, owner, path = max(sizes)
    broken = broken or ["the gradient's squared norm"]
    remedy = f"Lower the {owner}'s rate, add or raise a gradient penalty, or check the data's range"
    if side == "critic" and broken[0] == "its input batch":
        remedy = "Check the data: they are not finite"
    return (
        f"the {side}'s step is no longer finite: {', '.join(broken[:6])}. "
        f"The largest parameter before it was {size:.3g}, in {'DG'[owner == 'generator']}.{path}. "
        f"{remedy}"
    )


def _parts(found, batch):
    yield "its input batch", batch
    yield "the loss", found.loss
    if found.penalty is not None:
        yield "the penalty", found.penalty
    for path, g in trees.paths(found.tree):
        yield f"the gradient of {path}", g
