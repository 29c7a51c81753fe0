"""The convolutional networks that conv.py and step.py time, defined once and in plain NumPy.

All convolutions are 4×4 with a bias. Critics have LeakyReLU with slope .2, generators ReLU and, at
the end, tanh. Images are N×H×W×C and weights 4×4×C×O, with the image's channels C before the
grid's O, for convolutions (image to grid) and transposed ones (grid to image) alike. This file
imports no library but NumPy, so that the processes that time another one hold nothing else.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

KERNEL = 4
LATENT = 100
SLOPE = 0.2
EPS = 1e-5
PENALTY = 10.0


@dataclass(frozen=True)
class Layer:
    """A convolution from an image to a grid, or transposed, from the grid to the image.

    Args:
        image, channels: the image's side and channels.
        features: the grid's channels.
        stride, pad: on all sides.
        transposed: whether the grid is the input.
        norm: whether a batch norm follows.
    """

    image: int
    channels: int
    features: int
    stride: int
    pad: int
    transposed: bool
    norm: bool = False

    @property
    def grid(self):
        """The grid's side."""
        return (self.image + 2 * self.pad - KERNEL) // self.stride + 1

    def flops(self, batch):
        """Operations of the layer, of its input gradient, and of its weight gradient: each.

        2·N·P·Q·16·C·O: what a matrix product does, taps that fall outside the image included.
        """
        return 2 * batch * self.grid**2 * KERNEL**2 * self.channels * self.features

    def shapes(self, batch):
        """Of the image and the grid."""
        image, grid = (self.image,) * 2, (self.grid,) * 2
        return (batch, *image, self.channels), (batch, *grid, self.features)

    def weights(self, rng):
        """{"weight", "bias"}, and of a batch norm {"scale", "shift"}; float32."""
        fan_in, outputs = KERNEL**2 * self.channels, self.features
        if self.transposed:  # how many products meet in a pixel, on average
            fan_in = KERNEL**2 * self.features * self.grid**2 / self.image**2
            outputs = self.channels
        shape = (KERNEL, KERNEL, self.channels, self.features)
        found = {
            "weight": rng.normal(size=shape) * (2 / fan_in) ** 0.5,
            "bias": rng.normal(size=outputs) * 0.1,
        }
        if self.norm:
            found["scale"] = 1 + 0.1 * rng.normal(size=outputs)
            found["shift"] = 0.1 * rng.normal(size=outputs)
        return {name: a.astype(np.float32) for name, a in found.items()}


class Batch(NamedTuple):
    """What one iteration uses; what it does not need is None."""

    # For each step of the critic the real samples, the fakes or latent points to make them from,
    # and where between the two the penalty's points lie, (N, 1, …).
    critic: list
    latent: np.ndarray | None  # latent points of the generator's step


@dataclass(frozen=True)
class Case:
    """A pair of networks and how it is trained.

    Args:
        image: the images' side; they have three channels.
        down: the critic's hidden channels; each layer has stride 2 and pad 1, the last covers the
            4×4 that are left.
        up: the generator's hidden channels at 4×4, 8×8, …; none if fakes are given, and then only
            the critic is trained.
        penalised: Wasserstein loss and slope 1 at interpolates (λ 10), real and fake as one batch.
            Otherwise the standard non-saturating loss, with batch norm in the critic from its
            second layer on.
    """

    title: str
    image: int
    down: tuple
    up: tuple
    batch: int
    penalised: bool
    rate: float
    betas: tuple
    critic_steps = 1
    split = True  # tinygan cuts large ops over Python threads, with a BLAS of one thread in each

    @property
    def wasserstein(self):
        """Whether the loss is Wasserstein's."""
        return self.penalised

    @property
    def penalty(self):
        """The penalty's weight, or None."""
        return PENALTY if self.penalised else None

    @property
    def one_batch(self):
        """Whether real and fake go through the critic as one batch: not with batch norm."""
        return self.penalised

    def critic(self):
        """Its layers, from the image to the logit."""
        layers, channels, side = [], 3, self.image
        for i, features in enumerate(self.down):
            norm = not self.penalised and i >= 1
            layers.append(Layer(side, channels, features, 2, 1, False, norm))
            channels, side = features, side // 2
        return [*layers, Layer(side, channels, 1, 1, 0, False)]

    def generator(self):
        """Its layers, from the latent point to the image; none where fakes are given."""
        if not self.up:
            return []
        layers = [Layer(4, self.up[0], LATENT, 1, 0, True, True)]
        for i, features in enumerate(self.up):
            last = i + 1 == len(self.up)
            channels = 3 if last else self.up[i + 1]
            layers.append(Layer(8 << i, channels, features, 2, 1, True, not last))
        return layers

    def layers(self):
        """{"D0", "D1", …, "G0", …: layer}."""
        return {
            f"{side}{i}": layer
            for side, layers in (("D", self.critic()), ("G", self.generator()))
            for i, layer in enumerate(layers)
        }

    def weights(self):
        """(the generator's, the critic's): a list of each layer's; always the same."""
        rng = np.random.default_rng(0)
        return tuple(
            [layer.weights(rng) for layer in side] for side in (self.generator(), self.critic())
        )

    def batches(self, iterations):
        """A :class:`Batch` for each iteration; always the same."""
        rng, n = np.random.default_rng(1), self.batch

        def images(shift):
            values = np.tanh(rng.normal(size=(n, self.image, self.image, 3)) + shift)
            return values.astype(np.float32)

        def latent():
            return rng.normal(size=(n, LATENT)).astype(np.float32) if self.up else None

        def alpha():
            return rng.uniform(size=(n, 1, 1, 1)).astype(np.float32) if self.penalised else None

        return [
            Batch([(images(0.3), latent() if self.up else images(-0.3), alpha())], latent())
            for _ in range(iterations)
        ]


CASES = {
    "critic-32": Case(
        "critic-32: WGAN-GP, critic 3→64→128→256→1, batch 64, one critic step, Adam",
        32, (64, 128, 256), (), 64, True, 1e-4, (0.5, 0.9),
    ),
    "iteration-64": Case(
        "iteration-64: WGAN-GP, critic 3→64→128→256→512→1, generator 100→512→256→128→64→3, "
        "batch 32, 1+1 steps, Adam",
        64, (64, 128, 256, 512), (512, 256, 128, 64), 32, True, 1e-4, (0.5, 0.9),
    ),
    "standard-32": Case(
        "standard-32: GAN, critic 3→64→128→256→1, generator 100→256→128→64→3, both with batch "
        "norm, batch 128, 1+1 steps, Adam",
        32, (64, 128, 256), (256, 128, 64), 128, False, 2e-4, (0.5, 0.999),
    ),
}  # fmt: skip
