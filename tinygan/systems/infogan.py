"""InfoGAN: codes without labels, which the samples are made to tell again.

The generator's inputs are noise z, one-hot categories, and continuous codes. The critic gives one
logit of the source and, by the same body, a distribution Q(c|X) of the codes: logits of each
category, and mean and ln σ of a Gaussian for each continuous code. With H the entropy,

    L_I = E ln Q(c|G(z, c)) + H(c) ≤ I(c; G(z, c))

is a lower bound of the mutual information of codes and samples, in nats; both players raise it.

Source: Chen et al., InfoGAN: interpretable representation learning by information maximizing
generative adversarial nets (2016), equations 3 to 6. There Q shares the critic's body, and the
authors' code (openai/InfoGAN, infogan_trainer.py) subtracts L_I from both losses: Q's part learns
in the critic's step, and so does the shared body.
"""

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from tinygan import tree as trees
from tinygan.backend import array_module, to_device
from tinygan.engine import track
from tinygan.game import Game, descend, expect_samples
from tinygan.losses import logistic_critic, non_saturating_generator
from tinygan.ops import (
    add,
    broadcast_to,
    concatenate,
    index,
    multiply,
    one_hot,
    sqrt,
    stack,
    subtract,
)
from tinygan.systems.codes import (
    accuracy,
    check_networks,
    gaussian_log_likelihood,
    log_likelihood,
    random_one_hot,
)
from tinygan.systems.fit import check_weights


class Heads(NamedTuple):
    """What the critic gives, part by part; an absent part is None, or without entries.

    Shapes: source (N,), categories a tuple of (N, Kᵢ), mean and log_deviation (N, J).
    """

    source: Any
    categories: tuple
    mean: Any
    log_deviation: Any


class Codes(NamedTuple):
    """What the generator is told beside noise.

    Shapes: categories a tuple of (N, Kᵢ), one-hot; continuous (N, J), or None if there are none.
    """

    categories: tuple
    continuous: Any


def split_heads(outputs, categories, continuous, learned_deviation=True):
    """The critic's outputs as :class:`Heads`.

    Args:
        categories: the sizes Kᵢ.
        continuous: the number J of continuous codes.
        learned_deviation: whether ln σ of each continuous code is among the outputs.
    Shapes: outputs (N, 1 + ΣKᵢ + 2J), or + J without learned deviations.
    """
    ends = list(accumulate([1, *categories, continuous, continuous]))

    def part(i):
        return index(outputs, at=(slice(None), slice(ends[i], ends[i + 1])))

    k = len(categories)
    return Heads(
        index(outputs, at=(slice(None), 0)),
        tuple([part(i) for i in range(k)]),
        part(k) if continuous else None,
        part(k + 1) if continuous and learned_deviation else None,
    )


def categorical_information(logits, codes):
    """The bound on the information in the categories, in nats.

    L_I = Σᵢ [ E ln Q(cᵢ|X) + ln Kᵢ ], at most Σᵢ ln Kᵢ

    Args:
        logits, codes: sequences, one entry for each category.
    Shapes: logits, codes (N, Kᵢ), codes one-hot; a scalar.
    Source: Chen et al. (2016), equation 5.
    """
    first, *rest = [
        add(log_likelihood(a, c), math.log(a.shape[1])) for a, c in zip(logits, codes, strict=True)
    ]
    for other in rest:
        first = add(first, other)
    return first


def continuous_information(mean, log_deviation, codes):
    """The bound on the information in the continuous codes, uniform on [−1, 1), in nats.

    L_I = Σⱼ [ E ln N(cⱼ; μⱼ, σⱼ²) + ln 2 ]

    There is no upper limit: the narrower the Gaussians that are right, the more information. (The
    authors' code takes H of a standard normal for ln 2, a constant that moves no gradient.)

    Args:
        log_deviation: ln σ; None for σ = 1. Then half the squared error is all that varies, and a
            code's part is at most ln 2 − ½·ln 2π = −.226: it trains, but measures no information.
    Shapes: mean, log_deviation, codes (N, J); a scalar.
    Source: Chen et al. (2016), equation 5 and appendix C: a factored Gaussian, σ = exp(output).
    """
    entropy = codes.shape[1] * math.log(2)
    return add(gaussian_log_likelihood(mean, log_deviation, codes), entropy)


def information(heads, codes):
    """The bound's two parts, (categorical, continuous); None for a part without codes."""
    return (
        categorical_information(heads.categories, codes.categories) if codes.categories else None,
        continuous_information(heads.mean, heads.log_deviation, codes.continuous)
        if codes.continuous is not None
        else None,
    )


def critic_loss(real, fake, known, weights=(1.0, 0.1), average=False):
    """What the critic, with Q, minimises.

    −E ln σ(D(x)) − E ln(1 − σ(D(G(z, c)))) − λ₁·L_I(categories) − λ₂·L_I(continuous)

    Args:
        real, fake: logits of the source.
        known: the two parts of :func:`information` on the fakes.
        weights: (λ₁, λ₂).
        average: average the losses on real and fake samples instead of summing them.
    Shapes: real, fake (N,); a scalar.
    Source: Chen et al. (2016), equation 6, and their code.
    """
    return _less_information(logistic_critic(real, fake, average), known, weights)


def generator_loss(fake, known, weights=(1.0, 0.1)):
    """What the generator minimises.

    −E ln σ(D(G(z, c))) − λ₁·L_I(categories) − λ₂·L_I(continuous)

    Arguments as in :func:`critic_loss`.

    Source: Chen et al. (2016), equation 6, and their code, which does not saturate.
    """
    return _less_information(non_saturating_generator(fake), known, weights)


def _less_information(loss, known, weights):
    for part, weight in zip(known, weights, strict=True):
        loss = loss if part is None else subtract(loss, multiply(part, weight))
    return loss


class InfoPlayers(NamedTuple):
    """Both sides' parameters and their optimisers' states; Q's are among the critic's."""

    generator: Any
    critic: Any
    generator_state: Any
    critic_state: Any


class InfoPoints(NamedTuple):
    """What fakes are made from: noise z, codes, and the generator's own noise."""

    z: Any
    codes: Codes
    noise: Any


class InfoBatch(NamedTuple):
    """What one iteration draws. The three noises are the critic's, such as its dropout masks."""

    real: Any
    critic_points: InfoPoints
    generator_points: InfoPoints
    real_noise: Any
    fake_noise: Any
    generator_noise: Any


@dataclass(frozen=True)
class InfoGAN(Game):
    """InfoGAN: one step of the critic with Q, then one of the generator on fresh points.

    The generator's inputs are noise, the one-hot categories, and the continuous codes; noise and
    continuous codes are uniform on [−1, 1), as in the authors' code. The critic sees real and fake
    samples as two batches, each with batch-norm statistics of its own.

    Args:
        generator, critic: networks (:class:`tinygan.models.Net`).
        generator_optimizer, critic_optimizer: of :mod:`tinygan.optim`; the authors take Adam with
            β₁ = .5, rate 1e-3 for the generator and 2e-4 for the critic.
        categories: the size Kᵢ of each categorical code.
        continuous: how many continuous codes there are, J.
        categorical_weight, continuous_weight: λ₁ and λ₂. The paper takes 1 for categories, and less
            for continuous codes, so that their part is no larger than the rest of the loss.
        learned_deviation: whether Q gives the deviation of each continuous code too, as in the
            paper; without it Q has σ = 1, as in the authors' run on MNIST. Learned ones want Adam:
            plain SGD can run away where σ is small, for slopes grow as 1/σ².
        batch: samples in each batch.
        average: see :func:`critic_loss`.
    Shapes: generator (N, noise + ΣKᵢ + J) -> (N, ...), critic (N, ...) -> (N, 1 + ΣKᵢ + 2J), or
        1 + ΣKᵢ + J without learned deviations.
    Raises: ValueError for no codes at all, categories of fewer than 2, weights below 0, and for
        networks that do not fit the codes.
    Source: Chen et al. (2016); openai/InfoGAN, launchers/run_mnist_exp.py.
    """

    generator: Any
    critic: Any
    generator_optimizer: Any
    critic_optimizer: Any
    categories: tuple = (10,)
    continuous: int = 2
    categorical_weight: float = 1.0
    continuous_weight: float = 0.1
    learned_deviation: bool = True
    batch: int = 128
    average: bool = False

    names = (
        "critic_loss",
        "generator_loss",
        "categorical_information",
        "continuous_information",
        "accuracy",
        "critic_gradient",
        "generator_gradient",
    )

    def __post_init__(self):
        if not isinstance(self.categories, (tuple, list)):
            raise TypeError(
                f"InfoGAN: categories is {self.categories!r}; expected a tuple of sizes, as (10,)"
            )
        object.__setattr__(self, "categories", tuple(self.categories))
        if any(size < 2 for size in self.categories) or self.continuous < 0:
            raise ValueError(
                f"InfoGAN: categories {self.categories} and {self.continuous} continuous codes; "
                "expected sizes of at least 2, and 0 or more"
            )
        if not self.categories and not self.continuous:
            raise ValueError(
                "InfoGAN: no codes; expected a category or a continuous code. Without codes it is "
                "a GAN: tinygan.train.GAN"
            )
        check_weights(
            "InfoGAN",
            categorical_weight=self.categorical_weight,
            continuous_weight=self.continuous_weight,
        )
        each = 2 if self.learned_deviation else 1
        outputs = 1 + sum(self.categories) + each * self.continuous
        why = (
            f"1 for the source, {sum(self.categories)} for the categories and {each} for each of "
            f"{self.continuous} continuous codes"
        )
        check_networks(self, (outputs, why), sum(self.categories) + self.continuous)

    @property
    def weights(self):
        """(λ₁, λ₂), of the categories and of the continuous codes."""
        return self.categorical_weight, self.continuous_weight

    @property
    def latent(self):
        """How many of the generator's inputs are noise."""
        return self.generator.input[0] - sum(self.categories) - self.continuous

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``, optimisers at rest: :class:`InfoPlayers`."""
        g = self.generator.init(stream.child(0), dtype)
        d = self.critic.init(stream.child(1), dtype)
        return InfoPlayers(g, d, self.generator_optimizer.init(g), self.critic_optimizer.init(d))

    def draw(self, data, streams, step, dtype):
        """A batch of the data, points for both steps, and the critic's noise.

        Args:
            data: ``data(n, stream)``, an array (n, ...); no labels.
        Raises: TypeError or ValueError for data of another dtype or shape.
        """
        real = expect_samples(
            data(self.batch, streams.data), self.batch, dtype, self.critic.input, "InfoGAN"
        )
        points = [self._points(streams, dtype) for _ in range(2)]
        noise = [self.critic.draw(streams.noise, self.batch, dtype) for _ in range(3)]
        return InfoBatch(real, *points, *noise)

    def _points(self, streams, dtype):
        z = _signed(streams.points, (self.batch, self.latent), dtype)
        codes = self.draw_codes(self.batch, streams.points, dtype)
        return InfoPoints(z, codes, self.generator.draw(streams.noise, self.batch, dtype))

    def draw_codes(self, n, stream, dtype=np.float32):
        """n codes, each category equally likely, each number uniform: :class:`Codes`."""
        categories = tuple([random_one_hot(stream, n, size, dtype) for size in self.categories])
        if not self.continuous:
            return Codes(categories, None)
        return Codes(categories, _signed(stream, (n, self.continuous), dtype))

    def _fake(self, params, points):
        x = concatenate(points.z, *_parts(points.codes), axis=1)
        return self.generator(params, x, noise=points.noise)

    def _heads(self, params, x, noise):
        outputs = self.critic(params, x, noise=noise)
        return split_heads(outputs, self.categories, self.continuous, self.learned_deviation)

    def step(self, players, batch, factor):
        """One step of each player: (new players, numbers).

        Shapes: numbers (7,), as ``names``: losses before each step; the parts of L_I in the
            generator's, in nats, and the share of its categories that Q names, 0 to 1 (a part
            without codes is 0); and norms of gradients over all parameters.
        """
        points = batch.critic_points
        fake = self._fake(players.generator, points)
        d = track(players.critic, "D")
        on_real = self._heads(d, batch.real, batch.real_noise)
        on_fake = self._heads(d, fake, batch.fake_noise)
        known = information(on_fake, points.codes)
        d_loss = critic_loss(on_real.source, on_fake.source, known, self.weights, self.average)
        critic = descend(d_loss, d, self.critic_optimizer, players.critic_state, factor)

        points = batch.generator_points
        g = track(players.generator, "G")
        heads = self._heads(critic.params, self._fake(g, points), batch.generator_noise)
        known = information(heads, points.codes)
        g_loss = generator_loss(heads.source, known, self.weights)
        generator = descend(g_loss, g, self.generator_optimizer, players.generator_state, factor)

        zero = array_module(g_loss.data).zeros((), g_loss.dtype)
        numbers = stack(
            d_loss.data,
            g_loss.data,
            *[zero if part is None else part.data for part in known],
            _mean_accuracy(heads.categories, points.codes.categories, zero),
            sqrt(critic.square),
            sqrt(generator.square),
        )
        players = InfoPlayers(generator.params, critic.params, generator.state, critic.state)
        return players, numbers

    def generate(self, players, n, stream, codes=None, one_noise=False):
        """n samples, of given codes or of random ones.

        Batch norm in the generator uses the statistics of these n.

        Args:
            codes: :class:`Codes` of n samples, as :meth:`grid` makes them.
            one_noise: use one z for all n, so that samples differ by their codes alone.
        Shapes: returns (n, ...) on the stream's device.
        Raises: ValueError for codes of other shapes.
        """
        dtype = trees.leaves(players.generator)[0].dtype
        z = _signed(stream, (1 if one_noise else n, self.latent), dtype)
        if codes is None:
            codes = self.draw_codes(n, stream, dtype)
        x = concatenate(
            broadcast_to(z, shape=(n, self.latent)),
            *[to_device(a.astype(dtype), stream.device) for a in self._parts(codes, n)],
            axis=1,
        )
        return self.generator(players.generator, x)

    def _parts(self, codes, n):
        """The codes one by one, as the generator takes them, once they are those of n samples."""
        sizes = [*self.categories, *([self.continuous] if self.continuous else [])]
        parts = _parts(codes)
        given, expected = [a.shape for a in parts], [(n, size) for size in sizes]
        if given != expected:
            raise ValueError(
                f"InfoGAN: codes of shapes {given}; expected {expected}. grid and draw_codes make "
                "such"
            )
        return parts

    def grid(self, columns=10, sweep=0, reach=2.0, category=0):
        """Codes of a grid of samples: a row for each category, along which one code is swept.

        All other categories are their first, all other continuous codes 0.

        Args:
            columns: how many values the continuous code takes, evenly from −reach to reach.
            sweep: which continuous code.
            reach: the paper's figures go to 2, twice as far as training.
            category: which categorical code the rows are; without any there is one row.
        Shapes: :class:`Codes` of rows·columns samples, row by row.
        Raises: ValueError for a code that the game has not got, or fewer than 1 columns.
        Source: Chen et al. (2016), figure 2.
        """
        if columns < 1 or not 0 <= sweep < self.continuous:
            raise ValueError(
                f"InfoGAN.grid: {columns} columns of the continuous code {sweep}; expected at "
                f"least 1, and one of the {self.continuous} codes, from 0 on"
            )
        if not 0 <= category < max(1, len(self.categories)):
            raise ValueError(
                f"InfoGAN.grid: category is {category}; expected one of the "
                f"{len(self.categories)} categorical codes, from 0 on"
            )
        rows = self.categories[category] if self.categories else 1
        row = np.repeat(np.arange(rows), columns)
        labels = [row if i == category else 0 * row for i in range(len(self.categories))]
        numbers = np.zeros((rows * columns, self.continuous), np.float32)
        numbers[:, sweep] = np.tile(np.linspace(-reach, reach, columns), rows)
        sizes = zip(labels, self.categories, strict=True)
        return Codes(tuple([one_hot(a, size) for a, size in sizes]), numbers)


def _signed(stream, shape, dtype):
    """Uniform numbers in [−1, 1)."""
    return stream.uniform(shape, dtype) * 2 - 1


def _parts(codes):
    """The codes one by one, in the order in which the generator takes them."""
    return [*codes.categories, *(() if codes.continuous is None else [codes.continuous])]


def _mean_accuracy(logits, codes, zero):
    """The mean over all categories of how many Q names; 0 without categories."""
    total = zero
    for a, c in zip(logits, codes, strict=True):
        total = add(total, accuracy(a.data, c))
    return multiply(total, 1.0 / max(1, len(codes)))
