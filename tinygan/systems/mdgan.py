"""Manifold-diffusion GAN: first the data's manifold is learnt, then mass is spread on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinygan.engine import track
from tinygan.game import Game, check_no_noise, descend, draw_samples
from tinygan.losses import logistic_critic, non_saturating_generator
from tinygan.ops import add, multiply, sqrt, stack
from tinygan.systems.fit import (
    check_batch,
    check_feeds,
    check_logit,
    check_weights,
    descend_together,
)
from tinygan.systems.regularized import square_distance
from tinygan.train import normal_prior


def manifold_loss(distance, encoded, weight):
    """What the generator and the encoder minimise in the manifold step.

    −λ·E log σ(D₁(G(E(x)))) + ‖x − G(E(x))‖²

    Args:
        distance: of x and G(E(x)), a scalar.
        encoded: the logits D₁(G(E(x))).
        weight: λ.
    Source: Che et al., Mode regularized GANs (2017), algorithm 1; P2.
    """
    return add(multiply(non_saturating_generator(encoded), weight), distance)


class MDPlayers(NamedTuple):
    """The parameters of the four players, and their optimisers' states."""

    generator: Any
    encoder: Any
    manifold_critic: Any
    diffusion_critic: Any
    generator_state: Any
    encoder_state: Any
    manifold_critic_state: Any
    diffusion_critic_state: Any


@dataclass(frozen=True)
class MDGAN(Game):
    """A GAN in two steps, of which no critic compares raw data with G(z).

    An iteration has four parts, each with the players that the parts before it left:

    1. manifold, D₁: real x against fake G(E(x)), by :func:`tinygan.losses.logistic_critic`;
    2. manifold, G and E together, from the same point: :func:`manifold_loss`;
    3. diffusion, D₂: G(E(x)) as real against G(z) as fake, likewise;
    4. diffusion, G: −E log σ(D₂(G(z))).

    Parts 1 and 2 share their samples x, parts 3 and 4 their points z, and the samples x of part 3
    are others. G's optimiser takes both of its steps. (P2 prints D₂(z) for D₂(G(z)), which a
    critic of samples cannot take.)

    Args:
        generator, encoder: models z → x and x → z.
        manifold_critic, diffusion_critic: D₁ and D₂, models x → logit.
        generator_optimizer, encoder_optimizer, manifold_critic_optimizer,
            diffusion_critic_optimizer: of :mod:`tinygan.optim`.
        weight: λ, of D₁'s part in the manifold step. 10⁻² is our start, for the squared norm.
        distance: of x and G(E(x)): :func:`tinygan.systems.regularized.square_distance`, the
            squared norm. (``mean_square_distance`` is that over the number of components: for
            images so small that Adam, whose scale both of G's steps share, hardly feels it.)
        batch: samples of a step.
        prior: draws the latent points, ``prior(stream, shape, dtype)``.
    Raises: ValueError for models that do not fit each other, a weight below 0 and a batch below 1.
    Source: Che et al., Mode regularized generative adversarial networks (2017), algorithm 1; P2.
    """

    names = (
        "manifold_critic_loss", "manifold_loss", "distance", "diffusion_critic_loss",
        "diffusion_loss", "manifold_critic_gradient", "manifold_gradient", "encoder_gradient",
        "diffusion_critic_gradient", "diffusion_gradient",
    )  # fmt: skip

    generator: Any
    encoder: Any
    manifold_critic: Any
    diffusion_critic: Any
    generator_optimizer: Any
    encoder_optimizer: Any
    manifold_critic_optimizer: Any
    diffusion_critic_optimizer: Any
    weight: float = 0.01
    distance: Callable = square_distance
    batch: int = 64
    prior: Callable = normal_prior

    def __post_init__(self):
        for name in ("manifold_critic", "diffusion_critic"):
            critic, words = getattr(self, name), name.replace("_", " ")
            check_feeds("MDGAN", "generator", self.generator, words, critic)
            check_logit("MDGAN", words, critic)
        check_feeds("MDGAN", "generator", self.generator, "encoder", self.encoder)
        check_feeds("MDGAN", "encoder", self.encoder, "generator", self.generator)
        check_weights("MDGAN", weight=self.weight)
        check_batch("MDGAN", self.batch)
        check_no_noise(
            "MDGAN", generator=self.generator, encoder=self.encoder,
            manifold_critic=self.manifold_critic, diffusion_critic=self.diffusion_critic,
        )  # fmt: skip

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``, optimisers at rest: :class:`MDPlayers`."""
        g = self.generator.init(stream.child(0), dtype)
        e = self.encoder.init(stream.child(1), dtype)
        d1 = self.manifold_critic.init(stream.child(2), dtype)
        d2 = self.diffusion_critic.init(stream.child(3), dtype)
        return MDPlayers(
            g,
            e,
            d1,
            d2,
            self.generator_optimizer.init(g),
            self.encoder_optimizer.init(e),
            self.manifold_critic_optimizer.init(d1),
            self.diffusion_critic_optimizer.init(d2),
        )

    def draw(self, data, streams, step, dtype):
        """(x of the manifold step, x of the diffusion step, z of the diffusion step).

        Shapes: x (batch, ...), z (batch, latent).
        """
        return (
            draw_samples(data, self.batch, streams.data, dtype),
            draw_samples(data, self.batch, streams.data, dtype),
            self.prior(streams.points, (self.batch, *self.generator.input), dtype),
        )

    def step(self, players, batch, factor):
        """The manifold step of D₁ and of G and E, then the diffusion step of D₂ and of G."""
        x, anchors, z = batch
        players, manifold = self.manifold_step(players, x, factor)
        players, diffusion = self.diffusion_step(players, anchors, z, factor)
        losses, squares = zip(manifold, diffusion, strict=True)
        return players, stack(
            *[a.data for part in losses for a in part],
            *[sqrt(a) for part in squares for a in part],
        )

    def manifold_step(self, players, x, factor=1.0):
        """D₁ learns to tell x from G(E(x)), then G and E to bring them together.

        Returns: (new players, (losses, squared gradient norms)), each in the order of ``names``.
        """
        d = track(players.manifold_critic, "D1")
        encoded = self.generator(players.generator, self.encoder(players.encoder, x))
        critic_loss = logistic_critic(self.manifold_critic(d, x), self.manifold_critic(d, encoded))
        critic = descend(
            critic_loss, d, self.manifold_critic_optimizer, players.manifold_critic_state, factor
        )
        g, e = track(players.generator, "G"), track(players.encoder, "E")
        encoded = self.generator(g, self.encoder(e, x))
        distance = self.distance(x, encoded)
        loss = manifold_loss(distance, self.manifold_critic(critic.params, encoded), self.weight)
        generator, encoder = descend_together(
            loss,
            [
                (g, self.generator_optimizer, players.generator_state),
                (e, self.encoder_optimizer, players.encoder_state),
            ],
            factor,
        )
        players = players._replace(
            generator=generator.params,
            encoder=encoder.params,
            manifold_critic=critic.params,
            generator_state=generator.state,
            encoder_state=encoder.state,
            manifold_critic_state=critic.state,
        )
        squares = (critic.square, generator.square, encoder.square)
        return players, ((critic_loss, loss, distance), squares)

    def diffusion_step(self, players, x, z, factor=1.0):
        """D₂ learns to tell G(E(x)) from G(z), then G to make them alike; E stays.

        Returns: (new players, (losses, squared gradient norms)), each in the order of ``names``.
        """
        d = track(players.diffusion_critic, "D2")
        encoded = self.generator(players.generator, self.encoder(players.encoder, x))
        fake = self.generator(players.generator, z)
        critic_loss = logistic_critic(
            self.diffusion_critic(d, encoded), self.diffusion_critic(d, fake)
        )
        critic = descend(
            critic_loss, d, self.diffusion_critic_optimizer, players.diffusion_critic_state, factor
        )
        g = track(players.generator, "G")
        loss = non_saturating_generator(self.diffusion_critic(critic.params, self.generator(g, z)))
        generator = descend(loss, g, self.generator_optimizer, players.generator_state, factor)
        players = players._replace(
            generator=generator.params,
            diffusion_critic=critic.params,
            generator_state=generator.state,
            diffusion_critic_state=critic.state,
        )
        return players, ((critic_loss, loss), (critic.square, generator.square))
