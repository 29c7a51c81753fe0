"""The Regularized GAN: an encoder gives the generator a way to every sample of the data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinygan.engine import track
from tinygan.game import Game, check_no_noise, descend, draw_samples
from tinygan.losses import logistic_critic, non_saturating_generator
from tinygan.ops import add, mean, multiply, sample_square_norm, sqrt, square, stack, subtract
from tinygan.systems.fit import (
    check_batch,
    check_feeds,
    check_logit,
    check_weights,
    descend_together,
)
from tinygan.train import normal_prior


def mean_square_distance(x, y):
    """The squared distance of pairs, averaged over samples and components.

    E ‖x − y‖²/n, n components to a sample

    A weight of it means the same for points in the plane and for images.

    Shapes: x, y (N, ...); a scalar.
    """
    return mean(square(subtract(x, y)))


def square_distance(x, y):
    """The squared distance of pairs, averaged over samples alone.

    E ‖x − y‖²

    It grows with the number of components, and what a weight of it does with it.

    Shapes: x, y (N, ...); a scalar.
    """
    return mean(sample_square_norm(subtract(x, y)))


def encoder_loss(distance, encoded, distance_weight, mode_weight):
    """What draws the encoded samples G(E(x)) to their samples x, and to where D says real.

    λ₁·d(x, G(E(x))) − λ₂·E log σ(D(G(E(x))))

    Args:
        distance: d(x, G(E(x))), a scalar.
        encoded: the logits D(G(E(x))).
        distance_weight, mode_weight: λ₁ and λ₂.
    Source: Che et al., Mode regularized GANs (2017); P2, where the sign of λ₂ is a misprint.
    """
    fooling = multiply(non_saturating_generator(encoded), mode_weight)
    return add(multiply(distance, distance_weight), fooling)


def generator_loss(fake, regularizer):
    """The non-saturating loss and the encoder's.

    −E log σ(D(G(z))) + λ₁·d(x, G(E(x))) − λ₂·E log σ(D(G(E(x))))

    Args:
        fake: the logits D(G(z)).
        regularizer: of :func:`encoder_loss`.
    Source: Che et al. (2017), section 3.1; P2.
    """
    return add(non_saturating_generator(fake), regularizer)


class RegularizedPlayers(NamedTuple):
    """The parameters of the three players, and their optimisers' states."""

    generator: Any
    critic: Any
    encoder: Any
    generator_state: Any
    critic_state: Any
    encoder_state: Any


@dataclass(frozen=True)
class Regularized(Game):
    """A standard GAN whose generator must also bring back encoded samples, x → G(E(x)).

    An iteration is a step of D on x and G(z), as in the standard GAN, and then one of G and E
    together, from the same point, down one loss: its first term has no E in it, so that E descends
    the other two. Each of the two steps has samples and latent points of its own.

    Args:
        generator, critic, encoder: models z → x, x → logit and x → z.
        generator_optimizer, critic_optimizer, encoder_optimizer: of :mod:`tinygan.optim`.
        distance_weight, mode_weight: λ₁ and λ₂ of :func:`encoder_loss`. P2 gives none; the
            defaults are our choice.
        distance: d, a function of x and G(E(x)): :func:`mean_square_distance` or
            :func:`square_distance`, n times as large for n components. The paper leaves it open.
        batch: samples of a step.
        prior: draws the latent points, ``prior(stream, shape, dtype)``.
    Raises: ValueError for models that do not fit each other, weights below 0 and a batch below 1.
    Source: Che et al., Mode regularized generative adversarial networks (2017); P2.
    """

    names = (
        "critic_loss", "generator_loss", "encoder_loss", "distance",
        "critic_gradient", "generator_gradient", "encoder_gradient",
    )  # fmt: skip

    generator: Any
    critic: Any
    encoder: Any
    generator_optimizer: Any
    critic_optimizer: Any
    encoder_optimizer: Any
    distance_weight: float = 0.2
    mode_weight: float = 0.4
    distance: Callable = mean_square_distance
    batch: int = 64
    prior: Callable = normal_prior

    def __post_init__(self):
        check_feeds("Regularized", "generator", self.generator, "critic", self.critic)
        check_feeds("Regularized", "generator", self.generator, "encoder", self.encoder)
        check_feeds("Regularized", "encoder", self.encoder, "generator", self.generator)
        check_logit("Regularized", "critic", self.critic)
        check_weights(
            "Regularized", distance_weight=self.distance_weight, mode_weight=self.mode_weight
        )
        check_batch("Regularized", self.batch)
        check_no_noise(
            "Regularized", generator=self.generator, critic=self.critic, encoder=self.encoder
        )

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``, optimisers at rest: :class:`RegularizedPlayers`."""
        g = self.generator.init(stream.child(0), dtype)
        d = self.critic.init(stream.child(1), dtype)
        e = self.encoder.init(stream.child(2), dtype)
        return RegularizedPlayers(
            g,
            d,
            e,
            self.generator_optimizer.init(g),
            self.critic_optimizer.init(d),
            self.encoder_optimizer.init(e),
        )

    def draw(self, data, streams, step, dtype):
        """(x, z) for the critic's step, and (x, z) for the generator's and the encoder's.

        Shapes: x (batch, ...), z (batch, latent).
        """
        return self._pair(data, streams, dtype), self._pair(data, streams, dtype)

    def _pair(self, data, streams, dtype):
        x = draw_samples(data, self.batch, streams.data, dtype)
        return x, self.prior(streams.points, (self.batch, *self.generator.input), dtype)

    def step(self, players, batch, factor):
        """A step of the critic, then one of the generator and the encoder."""
        (x, z), (anchors, points) = batch
        d = track(players.critic, "D")
        fake = self.generator(players.generator, z)
        critic_loss = logistic_critic(self.critic(d, x), self.critic(d, fake))
        critic = descend(critic_loss, d, self.critic_optimizer, players.critic_state, factor)

        g, e = track(players.generator, "G"), track(players.encoder, "E")
        encoded = self.generator(g, self.encoder(e, anchors))
        distance = self.distance(anchors, encoded)
        regularizer = encoder_loss(
            distance, self.critic(critic.params, encoded), self.distance_weight, self.mode_weight
        )
        loss = generator_loss(self.critic(critic.params, self.generator(g, points)), regularizer)
        generator, encoder = descend_together(
            loss,
            [
                (g, self.generator_optimizer, players.generator_state),
                (e, self.encoder_optimizer, players.encoder_state),
            ],
            factor,
        )
        losses = (critic_loss, loss, regularizer, distance)
        squares = (critic.square, generator.square, encoder.square)
        return RegularizedPlayers(
            generator.params,
            critic.params,
            encoder.params,
            generator.state,
            critic.state,
            encoder.state,
        ), stack(*[a.data for a in losses], *[sqrt(a) for a in squares])
