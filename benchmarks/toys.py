"""The toy steps that step.py times, defined once and in plain NumPy, as nets.py's are.

Generators go from 2-dimensional points to 2-dimensional points, critics to one logit, both through
hidden layers of one width with ReLU between them. The data are eight Gaussians on a circle.
"""

from dataclasses import dataclass

import numpy as np
from nets import Batch


@dataclass(frozen=True)
class Toy:
    """A pair of multilayer perceptrons and how it is trained.

    Args:
        hidden, depth: the width and number of the hidden layers.
        critic_steps: to each step of the generator.
        wasserstein: Wasserstein loss and slope 1 of D at interpolates; else the standard
            non-saturating loss and slope 0 of σ(D).
        penalty: the weight λ of that.
        betas: Adam's; None is SGD.
    """

    title: str
    hidden: int
    depth: int
    batch: int
    critic_steps: int
    wasserstein: bool
    penalty: float
    rate: float
    betas: tuple | None
    one_batch = True  # real and fake samples go through the critic as one batch
    split = False  # tinygan leaves the threads to the BLAS: one product has work for all

    def weights(self):
        """(the generator's, the critic's): a list of each layer's {"weight", "bias"}."""
        rng = np.random.default_rng(0)
        return tuple(self._layers(rng, outputs) for outputs in (2, 1))

    def _layers(self, rng, outputs):
        sizes = [2, *[self.hidden] * self.depth, outputs]
        found = []
        for inputs, features in zip(sizes[:-1], sizes[1:], strict=True):
            weight = rng.normal(size=(inputs, features)) * (2 / inputs) ** 0.5
            bias = rng.normal(size=features) * 0.1
            found.append({"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)})
        return found

    def batches(self, iterations):
        """A :class:`nets.Batch` for each iteration; always the same."""
        rng, n = np.random.default_rng(1), self.batch

        def points():
            return rng.normal(size=(n, 2)).astype(np.float32)

        def real():
            angle = rng.integers(8, size=(n, 1)) * (np.pi / 4)
            centre = np.hstack([np.cos(angle), np.sin(angle)])
            return ((2 * centre + 0.02 * rng.normal(size=(n, 2))) / 2**0.5).astype(np.float32)

        def alpha():
            return rng.uniform(size=(n, 1)).astype(np.float32)

        return [
            Batch([(real(), points(), alpha()) for _ in range(self.critic_steps)], points())
            for _ in range(iterations)
        ]


TOYS = {
    "wgan-gp": Toy(
        "toy WGAN-GP, 3×512, batch 256, 5+1 steps, Adam",
        512, 3, 256, 5, True, 0.1, 1e-4, (0.5, 0.9),
    ),
    "0-gp-512": Toy(
        "toy 0-GP, 2×512, batch 128, 1+1 steps, SGD", 512, 2, 128, 1, False, 10.0, 3e-3, None
    ),
    "0-gp-64": Toy(
        "toy 0-GP, 2×64, batch 128, 1+1 steps, SGD", 64, 2, 128, 1, False, 10.0, 3e-3, None
    ),
}  # fmt: skip
