"""Boundary equilibrium GAN: the critic's errors on data and on samples are kept in a ratio."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinygan.backend import to_device
from tinygan.engine import track
from tinygan.game import Game, check_no_noise, descend, draw_samples
from tinygan.ops import abs, add, clip, mean, multiply, sqrt, stack, subtract
from tinygan.systems.fit import check_auto_encoder, check_batch, check_feeds
from tinygan.train import normal_prior


def reconstruction_error(x, reconstruction):
    """The mean absolute error of an auto-encoder, over samples and components.

    L(x) = E |x − D(x)|

    Shapes: x, reconstruction (N, ...); a scalar.
    Source: Berthelot et al. (2017), section 3.1, with exponent η = 1.
    """
    return mean(abs(subtract(x, reconstruction)))


def critic_loss(real, fake, k):
    """What the critic minimises.

    L(x) − k·L(G(z))

    Args:
        real, fake: L(x) and L(G(z)), scalars.
        k: how much the critic cares for L(G(z)), 0 to 1.
    Source: Berthelot et al. (2017), section 3.4; P2.
    """
    return subtract(real, multiply(k, fake))


def balance(k, real_error, fake_error, gamma, rate):
    """The control of k, by which L(G(z)) is kept at γ·L(x).

    k ← min(max(k + λₖ·(γ·L(x) − L(G(z))), 0), 1)

    Args:
        gamma: γ, the diversity ratio.
        rate: λₖ.
    Source: Berthelot et al. (2017), section 3.4.
    """
    gap = subtract(multiply(real_error, gamma), fake_error)
    return clip(add(k, multiply(gap, rate)), low=0.0, high=1.0)


def convergence(real_error, fake_error, gamma):
    """The measure of convergence: small where reconstructions are good and the ratio is kept.

    M = L(x) + |γ·L(x) − L(G(z))|

    Source: Berthelot et al. (2017), section 3.4.1.
    """
    return add(real_error, abs(subtract(multiply(real_error, gamma), fake_error)))


class BEPlayers(NamedTuple):
    """The parameters of both sides, their optimisers' states, and k, a 0-d array."""

    generator: Any
    critic: Any
    generator_state: Any
    critic_state: Any
    k: Any


@dataclass(frozen=True)
class BEGAN(Game):
    """A GAN of an auto-encoder's errors, with a controller that balances its two sides.

    An iteration is a step of the critic and then one of the generator, each with latent points of
    its own. k then moves by the L(x) of the critic's step and the L(G(z)) of the generator's,
    which the new critic judges; k starts at 0. As long as L(G(z)) is above γ·L(x) it stays there,
    the critic learns from data alone, and the generator may settle on one sample that is easy to
    bring back: a higher gamma, or batch norm in the generator, is what helped us.

    Args:
        generator: a model z → x.
        critic: an auto-encoder, as :class:`tinygan.models.AutoEncoder`.
        generator_optimizer, critic_optimizer: of :mod:`tinygan.optim`.
        gamma: γ, above 0 and at most 1: the L(G(z))/L(x) that is kept. The paper takes .3 to .7;
            a lower one gives sharper samples and fewer kinds of them.
        balance_rate: λₖ, by which k moves.
        batch: samples of a step.
        prior: draws the latent points, ``prior(stream, shape, dtype)``.
    Raises: ValueError for models that do not fit each other, a gamma outside (0, 1], a
        balance_rate not above 0 and a batch below 1.
    Source: Berthelot, Schumm & Metz, BEGAN (2017); P2.
    """

    names = (
        "critic_loss", "generator_loss", "real_error", "fake_error", "k", "convergence",
        "critic_gradient", "generator_gradient",
    )  # fmt: skip

    generator: Any
    critic: Any
    generator_optimizer: Any
    critic_optimizer: Any
    gamma: float = 0.5
    balance_rate: float = 0.001
    batch: int = 64
    prior: Callable = normal_prior

    def __post_init__(self):
        check_auto_encoder("BEGAN", self.critic)
        check_feeds("BEGAN", "generator", self.generator, "critic", self.critic)
        if not 0 < self.gamma <= 1:
            raise ValueError(
                f"BEGAN: gamma is {self.gamma}; expected a ratio above 0 and at most 1, such as .5"
            )
        if not 0 < self.balance_rate < math.inf:
            raise ValueError(
                f"BEGAN: balance_rate is {self.balance_rate}; expected a number above 0, such as "
                ".001"
            )
        check_batch("BEGAN", self.batch)
        check_no_noise("BEGAN", generator=self.generator, critic=self.critic)

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``, optimisers at rest, k = 0: :class:`BEPlayers`."""
        g = self.generator.init(stream.child(0), dtype)
        d = self.critic.init(stream.child(1), dtype)
        return BEPlayers(
            g,
            d,
            self.generator_optimizer.init(g),
            self.critic_optimizer.init(d),
            to_device(np.zeros((), dtype), stream.device),
        )

    def draw(self, data, streams, step, dtype):
        """(x, z of the critic's step, z of the generator's).

        Shapes: x (batch, ...), z (batch, latent).
        """
        shape = (self.batch, *self.generator.input)
        return (
            draw_samples(data, self.batch, streams.data, dtype),
            self.prior(streams.points, shape, dtype),
            self.prior(streams.points, shape, dtype),
        )

    def step(self, players, batch, factor):
        """A step of the critic, one of the generator, and one of k."""
        x, z, points = batch
        d = track(players.critic, "D")
        fake = self.generator(players.generator, z)
        real_error = reconstruction_error(x, self.critic(d, x))
        fake_error = reconstruction_error(fake, self.critic(d, fake))
        loss = critic_loss(real_error, fake_error, players.k)
        critic = descend(loss, d, self.critic_optimizer, players.critic_state, factor)

        g = track(players.generator, "G")
        fake = self.generator(g, points)
        generator_loss = reconstruction_error(fake, self.critic(critic.params, fake))
        generator = descend(
            generator_loss, g, self.generator_optimizer, players.generator_state, factor
        )
        real, judged = real_error.data, generator_loss.data
        k = balance(players.k, real, judged, self.gamma, self.balance_rate)
        return BEPlayers(generator.params, critic.params, generator.state, critic.state, k), stack(
            loss.data,
            judged,
            real,
            fake_error.data,
            k,
            convergence(real, judged, self.gamma),
            sqrt(critic.square),
            sqrt(generator.square),
        )
