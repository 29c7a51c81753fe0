"""A discriminator that is ε-optimal by construction, on any finite data.

One hidden unit for each sample. Its softmax picks the unit of the sample at hand, the sharper the
larger k is, and the last layer says ½ + ε/2 + α of real ones and ½ − ε/2 − α of fake ones. It
separates the samples that it was built from and knows nothing else: between two of them its slope
must be somewhere as large as ε over their distance, so it explodes as they meet.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinygan import nn
from tinygan.backend import array_module
from tinygan.ops import concatenate, matmul, softmax

UNIT = 1e-5  # how far from 1 the norm of a sample may be: what float32 leaves of it


@dataclass(frozen=True)
class SoftmaxMLP:
    """One hidden softmax layer, without biases.

    D(v) = W₂ᵀ·softmax(W₁ᵀ·v)

    Args:
        inputs: the samples' number of components.
        units: the width of the hidden layer.
        weight_init: an initialiser of :mod:`tinygan.nn`.
    Shapes: v (N, inputs), y (N, 1); parameters {"hidden": (inputs, units), "output": (units, 1)},
        (inputs + 1)·units numbers.
    Raises: ValueError for v of another shape, or sizes below 1.
    Source: P3 appendix A, whose W₁ is the transpose of ours.
    """

    inputs: int
    units: int
    weight_init: Callable = nn.xavier_uniform
    output = (1,)

    def __post_init__(self):
        if self.inputs < 1 or self.units < 1:
            raise ValueError(
                f"SoftmaxMLP: inputs {self.inputs}, units {self.units}; expected at least 1 of each"
            )

    @property
    def input(self):
        """The shape of one sample."""
        return (self.inputs,)

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``: {"hidden", "output"}."""
        first, last = (self.inputs, self.units), (self.units, 1)
        return {
            "hidden": self.weight_init(stream, first, first, dtype),
            "output": self.weight_init(stream, last, last, dtype),
        }

    def __call__(self, params, v):
        if v.ndim != 2 or v.shape[1] != self.inputs:
            raise ValueError(
                f"SoftmaxMLP: input of shape {v.shape}; expected (N, {self.inputs}), samples in "
                "rows"
            )
        return matmul(softmax(matmul(v, params["hidden"])), params["output"])


def sufficient_k(samples, epsilon, alpha):
    """How sharp the softmax must be for the bound to hold, whatever is real and what is fake.

    k = ln((N − 1)(ε + α)/α) / (1 − maxᵢ≠ⱼ⟨vᵢ, vⱼ⟩)

    The unit of vᵢ has at vᵢ the softmax s ≥ 1/(1 + (N − 1)e^(−k(1 − max))), and
    D(vᵢ) ≥ ½ + (2s − 1)(ε/2 + α) for a real vᵢ; that is ½ + ε/2 or more from
    s = (ε + α)/(ε + 2α) on. Equality holds where all others are of the other kind and all equally
    near, as in a regular simplex: then no smaller k will do.

    Args:
        samples: all of them, real and fake.
        epsilon: the gap in D between any real and any fake sample, 0 < ε < 1.
        alpha: how far beyond the gap the last layer goes, 0 < α ≤ (1 − ε)/2; the larger, the
            smaller k.
    Shapes: samples (N, d), of norm 1.
    Raises: ValueError for ε, α outside their ranges, fewer than two samples, samples that are not
        of norm 1, and equal ones.
    Source: P3 appendix A, whose "large enough" is this number.
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon is {epsilon}; expected a gap above 0 and below 1")
    if not (alpha > 0 and epsilon / 2 + alpha <= 0.5):
        raise ValueError(
            f"alpha is {alpha}; expected it above 0 and at most (1 − ε)/2 = {(1 - epsilon) / 2:g}, "
            "so that D stays in [0, 1]"
        )
    gap = _gap(samples)
    return math.log((len(samples) - 1) * (epsilon + alpha) / alpha) / gap


def _gap(samples):
    """minᵢ≠ⱼ ⟨vᵢ, vᵢ − vⱼ⟩, which is 1 − max ⟨vᵢ, vⱼ⟩ without its cancellation."""
    if samples.ndim != 2 or len(samples) < 2:
        raise ValueError(
            f"samples of shape {samples.shape}; expected (N, d) with at least two samples. Reshape "
            "images to rows"
        )
    lengths = array_module(samples).sqrt((samples**2).sum(1))
    worst = int(abs(lengths - 1).argmax())
    if not abs(float(lengths[worst]) - 1) <= UNIT:
        raise ValueError(
            f"sample {worst} has norm {float(lengths[worst]):.6g}; expected 1. Divide each sample "
            "by its norm"
        )
    smallest = math.inf
    for i, v in enumerate(samples):
        gaps = (v - samples) @ v
        gaps[i] = math.inf
        j = int(gaps.argmin())
        if not float(gaps[j]) > 0:
            raise ValueError(
                f"samples {min(i, j)} and {max(i, j)} are equal; expected all to differ. Leave "
                "repeated ones out: no function tells them apart"
            )
        smallest = min(smallest, float(gaps[j]))
    return smallest


def epsilon_optimal(real, fake, epsilon, alpha, k=None):
    """The discriminator that is ε-optimal on these samples: (model, parameters).

    W₁ = k·[v₁, …, v_N], W₂ = ½ + ε/2 + α on real samples, ½ − ε/2 − α on fake ones;
    D(x) ≥ ½ + ε/2 and D(y) ≤ ½ − ε/2 for each real x and fake y, from k = :func:`sufficient_k` on,
    to rounding

    D is a probability, not a logit: take ``tinygan.ops.log(D) − log(1 − D)`` where one is expected.

    Args:
        real, fake: samples of norm 1, all different; of both together in this order the v.
        epsilon, alpha: as in :func:`sufficient_k`.
        k: how sharp the softmax is; None for the sufficient one.
    Shapes: real (n, d), fake (m, d); (d + 1)(m + n) parameters.
    Raises: ValueError as in :func:`sufficient_k`, for samples of two shapes, and a k not above 0.
    Source: P3 appendix A.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"epsilon_optimal: real {real.shape}, fake {fake.shape}; expected (n, d) and (m, d). "
            "Reshape images to rows"
        )
    samples = concatenate(real, fake)
    enough = sufficient_k(samples, epsilon, alpha)
    if k is None:
        k = enough
    elif not 0 < k < math.inf:
        raise ValueError(f"epsilon_optimal: k is {k}; expected a number above 0, or None")
    output = array_module(samples).full((len(samples), 1), 0.5 - epsilon / 2 - alpha, samples.dtype)
    output[: len(real)] = 0.5 + epsilon / 2 + alpha
    hidden = (samples * samples.dtype.type(k)).T.copy()
    return SoftmaxMLP(samples.shape[1], len(samples)), {"hidden": hidden, "output": output}
