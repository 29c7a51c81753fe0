"""Energy-based GAN: the critic is an auto-encoder, and its error the energy of a sample."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinygan.backend import array_module
from tinygan.engine import Tensor, track
from tinygan.game import Game, check_no_noise, descend, draw_samples
from tinygan.ops import (
    add,
    matmul,
    mean,
    multiply,
    norm,
    ratio,
    relu,
    reshape,
    sqrt,
    square,
    stack,
    subtract,
    sum,
)
from tinygan.systems.fit import (
    check_auto_encoder,
    check_batch,
    check_feeds,
    check_weights,
)
from tinygan.train import normal_prior


def energy(x, reconstruction):
    """The mean squared reconstruction error of each sample.

    D(x) = ‖x − Dec(Enc(x))‖²/n, n components to a sample

    Shapes: x, reconstruction (N, ...), result (N,).
    Source: P2; Zhao et al. (2017), section 2.3, who write the norm without the square.
    """
    return mean(square(subtract(reconstruction, x)), axis=tuple(range(1, x.ndim)))


def critic_loss(real, fake, margin):
    """Low energy for data, and at least the margin for each generated sample.

    E D(x) + E max(0, m − D(G(z)))

    Shapes: real, fake (N,), energies; a scalar.
    Source: Zhao et al., Energy-based GANs (2017), equation 1; P2.
    """
    return add(mean(real), mean(relu(subtract(margin, fake))))


def generator_loss(fake, pulling, weight):
    """Low energy for generated samples, with codes in different directions.

    E D(G(z)) + λ·PT

    Args:
        fake: the energies D(G(z)).
        pulling: PT, of :func:`pulling_away`.
        weight: λ.
    Source: Zhao et al. (2017), equation 2 and section 2.4; P2.
    """
    return add(mean(fake), multiply(pulling, weight))


def pulling_away(codes):
    """The pulling-away term: the mean squared cosine between the codes of different samples.

    PT = 1/(N(N − 1)) · Σᵢ Σⱼ≠ᵢ (sᵢᵀsⱼ/(‖sᵢ‖‖sⱼ‖))²

    A code of zeros has cosine 0 with all others, and no slope.

    Shapes: codes (N, ...); a scalar.
    Raises: ValueError for fewer than two codes.
    Source: Zhao et al. (2017), section 2.4.
    """
    n = codes.shape[0]
    if n < 2:
        raise ValueError(f"pulling_away: codes {codes.shape}; expected at least two, to compare")
    codes = reshape(codes, shape=(n, math.prod(codes.shape[1:])))
    directions = ratio(codes, norm(codes, axis=1, keepdims=True))
    cosines = matmul(directions, directions, tb=True)
    return multiply(sum(multiply(square(cosines), _pairs(codes))), 1.0 / (n * (n - 1)))


def _pairs(codes):
    """1 for each pair of different samples, 0 on the diagonal: a constant.

    Shapes: codes (N, ...), result (N, N).
    """
    raw = codes.data if type(codes) is Tensor else codes
    return 1 - array_module(raw).eye(raw.shape[0], dtype=raw.dtype)


class EBPlayers(NamedTuple):
    """The parameters of both sides and their optimisers' states."""

    generator: Any
    critic: Any
    generator_state: Any
    critic_state: Any


@dataclass(frozen=True)
class EBGAN(Game):
    """A GAN whose critic gives an energy: how badly it can bring a sample back.

    An iteration is a step of the critic and then one of the generator, each with latent points of
    its own.

    Args:
        generator: a model z → x.
        critic: an auto-encoder, as :class:`tinygan.models.AutoEncoder`.
        generator_optimizer, critic_optimizer: of :mod:`tinygan.optim`.
        margin: m, above 0: the energy from which the critic leaves a generated sample alone. Its
            scale is that of the data's mean square: what the auto-encoder gets when it gives up.
        pulling_weight: λ of :func:`pulling_away`; 0 leaves the term out.
        batch: samples of a step.
        prior: draws the latent points, ``prior(stream, shape, dtype)``.
    Raises: ValueError for models that do not fit each other, a margin not above 0, a weight below
        0 and a batch below 2; TypeError for a critic without codes.
    Source: Zhao, Mathieu & LeCun, Energy-based generative adversarial networks (2017); P2.
    """

    names = (
        "critic_loss", "generator_loss", "real_energy", "fake_energy", "pulling_away",
        "critic_gradient", "generator_gradient",
    )  # fmt: skip

    generator: Any
    critic: Any
    generator_optimizer: Any
    critic_optimizer: Any
    margin: float = 1.0
    pulling_weight: float = 0.1
    batch: int = 64
    prior: Callable = normal_prior

    def __post_init__(self):
        if not hasattr(self.critic, "code"):
            raise TypeError(
                f"EBGAN: the critic is a {type(self.critic).__name__}, which has no codes; "
                "expected an auto-encoder, as tinygan.models.AutoEncoder"
            )
        check_auto_encoder("EBGAN", self.critic)
        check_feeds("EBGAN", "generator", self.generator, "critic", self.critic)
        if not 0 < self.margin < math.inf:
            raise ValueError(
                f"EBGAN: margin is {self.margin}; expected a number above 0, such as the data's "
                "mean square"
            )
        check_weights("EBGAN", pulling_weight=self.pulling_weight)
        check_batch("EBGAN", self.batch, least=2)
        check_no_noise("EBGAN", generator=self.generator, critic=self.critic)

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``, optimisers at rest: :class:`EBPlayers`."""
        g = self.generator.init(stream.child(0), dtype)
        d = self.critic.init(stream.child(1), dtype)
        return EBPlayers(g, d, self.generator_optimizer.init(g), self.critic_optimizer.init(d))

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
        """A step of the critic, then one of the generator."""
        x, z, points = batch
        d = track(players.critic, "D")
        fake = self.generator(players.generator, z)
        real_energy, fake_energy = energy(x, self.critic(d, x)), energy(fake, self.critic(d, fake))
        d_loss = critic_loss(real_energy, fake_energy, self.margin)
        critic = descend(d_loss, d, self.critic_optimizer, players.critic_state, factor)

        g = track(players.generator, "G")
        fake = self.generator(g, points)
        code = self.critic.code(critic.params, fake)
        judged = energy(fake, self.critic.decode(critic.params, code))
        pulling = pulling_away(code)
        g_loss = generator_loss(judged, pulling, self.pulling_weight)
        generator = descend(g_loss, g, self.generator_optimizer, players.generator_state, factor)
        return EBPlayers(generator.params, critic.params, generator.state, critic.state), stack(
            d_loss.data,
            g_loss.data,
            mean(real_energy.data),
            mean(fake_energy.data),
            pulling.data,
            sqrt(critic.square),
            sqrt(generator.square),
        )
