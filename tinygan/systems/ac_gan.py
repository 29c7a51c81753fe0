"""AC-GAN: the generator is told a class, and the critic names the class of every sample.

The critic gives 1 + K logits: D₀ of the source, real or fake, then those of the K classes. With

    L_S = E ln σ(D₀(x)) + E ln(1 − σ(D₀(G(z, c))))
    L_C = E ln P(C = c|x) + E ln P(C = c|G(z, c))

the critic maximises L_S + L_C and the generator L_C − L_S.

Source: Odena, Olah & Shlens, Conditional image synthesis with auxiliary classifier GANs (2017),
equations 2 and 3; P4 equations 3 and 4.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinygan import tree as trees
from tinygan.backend import to_device
from tinygan.engine import track
from tinygan.game import Game, descend, expect_samples
from tinygan.losses import minimax_generator, non_saturating_generator
from tinygan.ops import (
    add,
    concatenate,
    index,
    log_sigmoid,
    mean,
    multiply,
    negative,
    sqrt,
    stack,
    subtract,
)
from tinygan.systems.codes import (
    accuracy,
    check_networks,
    log_likelihood,
    one_hot_labels,
    random_one_hot,
)


def split_heads(logits):
    """The critic's logits of the source and of the classes: (D₀, D₁…D_K).

    Shapes: logits (N, 1 + K); returns (N,) and (N, K).
    """
    return index(logits, at=(slice(None), 0)), index(logits, at=(slice(None), slice(1, None)))


def source_log_likelihood(real_logits, fake_logits):
    """How well the critic tells real from fake.

    L_S = E ln σ(D₀(x)) + E ln(1 − σ(D₀(G(z, c))))

    Shapes: logits (N, 1 + K); a scalar.
    Source: P4 equation 3.
    """
    real, fake = split_heads(real_logits)[0], split_heads(fake_logits)[0]
    return add(mean(log_sigmoid(real)), mean(log_sigmoid(negative(fake))))


def class_log_likelihood(logits, classes):
    """How well the critic names the classes of samples, real or fake: one half of L_C.

    E ln P(C = c|X), P the softmax of D₁…D_K

    Shapes: logits (N, 1 + K), classes (N, K), one-hot; a scalar.
    Source: P4 equation 4. The logarithm is what some code leaves out: −E P(C = c|X) has hardly a
        gradient where the critic is wrong.
    """
    return log_likelihood(split_heads(logits)[1], classes)


def critic_loss(real_logits, fake_logits, real_classes, fake_classes, average=False):
    """What the critic minimises.

    −(L_S + L_C)

    Args:
        average: average the loss on real samples and that on fake ones instead of summing them.
    Shapes: logits (N, 1 + K), classes (N, K), one-hot; a scalar.
    Source: Odena et al. (2017), section 4; P4 section 2.3 and its equations 3 and 4, which sum.
    """
    source = source_log_likelihood(real_logits, fake_logits)
    real = class_log_likelihood(real_logits, real_classes)
    fake = class_log_likelihood(fake_logits, fake_classes)
    total = negative(add(source, add(real, fake)))
    return multiply(total, 0.5) if average else total


def generator_loss(fake_logits, fake_classes, saturating=False):
    """What the generator minimises.

    −E ln P(C = c|G(z, c)) − E ln σ(D₀(G(z, c)))

    Args:
        saturating: E ln(1 − σ(D₀(G(z, c)))) for the second term: what of −(L_C − L_S) depends on
            the generator. Its gradient vanishes where the critic is sure that a sample is fake.
    Shapes: logits (N, 1 + K), classes (N, K), one-hot; a scalar.
    Source: Odena et al. (2017), section 4; P4 section 2.3 prints the saturating form. The other
        is the one in common use, for the reason above.
    """
    source = minimax_generator if saturating else non_saturating_generator
    return subtract(
        source(split_heads(fake_logits)[0]), class_log_likelihood(fake_logits, fake_classes)
    )


class ACPlayers(NamedTuple):
    """Both sides' parameters and their optimisers' states."""

    generator: Any
    critic: Any
    generator_state: Any
    critic_state: Any


class ACPoints(NamedTuple):
    """What fakes are made from: noise z, one-hot classes, and the generator's own noise."""

    z: Any
    classes: Any
    noise: Any


class ACBatch(NamedTuple):
    """What one iteration draws. The three noises are the critic's, such as its dropout masks."""

    real: Any
    real_classes: Any
    critic_points: ACPoints
    generator_points: ACPoints
    real_noise: Any
    fake_noise: Any
    generator_noise: Any


@dataclass(frozen=True)
class ACGAN(Game):
    """AC-GAN: one step of the critic, then one of the generator on fresh points.

    The generator's inputs are noise and then the one-hot class. The critic sees real and fake
    samples as two batches, each with batch-norm statistics of its own.

    Args:
        generator, critic: networks (:class:`tinygan.models.Net`).
        generator_optimizer, critic_optimizer: of :mod:`tinygan.optim`; P4 has Adam with rate 2e-4
            and betas (.5, .999).
        classes: how many classes there are, K.
        batch: samples in each batch.
        average: see :func:`critic_loss`.
        saturating: see :func:`generator_loss`.
    Shapes: generator (N, noise + K) -> (N, ...), critic (N, ...) -> (N, 1 + K).
    Raises: ValueError for fewer than 2 classes, and for networks that do not fit them.
    Source: Odena et al. (2017); P4 section 2.3 and its tables 7 to 9.
    """

    generator: Any
    critic: Any
    generator_optimizer: Any
    critic_optimizer: Any
    classes: int = 10
    batch: int = 100
    average: bool = False
    saturating: bool = False

    names = (
        "critic_loss",
        "generator_loss",
        "real_accuracy",
        "fake_accuracy",
        "critic_gradient",
        "generator_gradient",
    )

    def __post_init__(self):
        if self.classes < 2:
            raise ValueError(f"ACGAN: classes is {self.classes}; expected at least 2")
        why = f"1 for the source and {self.classes} for the classes"
        check_networks(self, (1 + self.classes, why), self.classes)

    @property
    def latent(self):
        """How many of the generator's inputs are noise."""
        return self.generator.input[0] - self.classes

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``, optimisers at rest: :class:`ACPlayers`."""
        g = self.generator.init(stream.child(0), dtype)
        d = self.critic.init(stream.child(1), dtype)
        return ACPlayers(g, d, self.generator_optimizer.init(g), self.critic_optimizer.init(d))

    def draw(self, data, streams, step, dtype):
        """A batch with its labels, points for both steps, and the critic's noise.

        Args:
            data: ``data(n, stream)`` gives a pair (samples, labels), as
                ``Shuffled.sample_with_labels`` does.
        Raises: TypeError for data without labels, or of another dtype; ValueError for labels out
            of range, and for other shapes.
        """
        found = data(self.batch, streams.data)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise TypeError(
                f"ACGAN: data({self.batch}, stream) gave a {type(found).__name__}; expected a pair "
                "(samples, labels): AC-GAN needs labelled data. Image sets with labels give them "
                "by Shuffled.sample_with_labels"
            )
        real = expect_samples(found[0], self.batch, dtype, self.critic.input, "ACGAN")
        classes = one_hot_labels(self, found[1], self.batch, self.classes, dtype)
        points = [self._points(streams, dtype) for _ in range(2)]
        noise = [self.critic.draw(streams.noise, self.batch, dtype) for _ in range(3)]
        return ACBatch(real, classes, *points, *noise)

    def _points(self, streams, dtype):
        z = streams.points.normal((self.batch, self.latent), dtype)
        classes = random_one_hot(streams.points, self.batch, self.classes, dtype)
        return ACPoints(z, classes, self.generator.draw(streams.noise, self.batch, dtype))

    def _fake(self, params, points):
        x = concatenate(points.z, points.classes, axis=1)
        return self.generator(params, x, noise=points.noise)

    def step(self, players, batch, factor):
        """One step of each player: (new players, numbers).

        Shapes: numbers (6,), as ``names``: losses before each step, accuracies of the critic's
            classes on its own batches, 0 to 1, and norms of gradients over all parameters.
        """
        points = batch.critic_points
        fake = self._fake(players.generator, points)
        d = track(players.critic, "D")
        on_real = self.critic(d, batch.real, noise=batch.real_noise)
        on_fake = self.critic(d, fake, noise=batch.fake_noise)
        d_loss = critic_loss(on_real, on_fake, batch.real_classes, points.classes, self.average)
        critic = descend(d_loss, d, self.critic_optimizer, players.critic_state, factor)

        points = batch.generator_points
        g = track(players.generator, "G")
        logits = self.critic(critic.params, self._fake(g, points), noise=batch.generator_noise)
        g_loss = generator_loss(logits, points.classes, self.saturating)
        generator = descend(g_loss, g, self.generator_optimizer, players.generator_state, factor)

        numbers = stack(
            d_loss.data,
            g_loss.data,
            accuracy(split_heads(on_real.data)[1], batch.real_classes),
            accuracy(split_heads(on_fake.data)[1], batch.critic_points.classes),
            sqrt(critic.square),
            sqrt(generator.square),
        )
        players = ACPlayers(generator.params, critic.params, generator.state, critic.state)
        return players, numbers

    def generate(self, players, n, stream, classes=None):
        """n samples of given classes.

        Batch norm in the generator uses the statistics of these n.

        Args:
            classes: n labels; without them they go round 0, 1, …, K − 1, 0, ….
        Shapes: classes (n,), integers; returns (n, ...) on the stream's device.
        Raises: TypeError or ValueError for labels of another kind, number or range.
        """
        dtype = trees.leaves(players.generator)[0].dtype
        labels = np.arange(n) % self.classes if classes is None else classes
        if not hasattr(labels, "dtype"):
            labels = np.asarray(labels)
        codes = to_device(one_hot_labels(self, labels, n, self.classes, dtype), stream.device)
        z = stream.normal((n, self.latent), dtype)
        return self.generator(players.generator, concatenate(z, codes, axis=1))
