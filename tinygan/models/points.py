"""The networks of games that theory solves: one number, one vector or one matrix for each player.

The Dirac-GAN plays with a point θ and a slope ψ, the linear game with linear maps. They are models
like any other, so every objective, penalty and way of training can be put to the test on them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinygan import nn
from tinygan.backend import to_device
from tinygan.engine import broadcast_to
from tinygan.ops import matmul, multiply


@dataclass(frozen=True)
class Given:
    """An initialiser of given values: nothing is drawn.

    Args:
        values: numbers, or nested tuples of them, in the shape of the parameter.
    Raises: ValueError for a parameter of another shape.
    """

    values: tuple

    def __call__(self, stream, shape, fans, dtype):
        found = np.array(self.values, dtype)
        if found.shape != shape:
            raise ValueError(
                f"Given: values of shape {found.shape} for a parameter of shape {shape}; expected "
                "one number for each entry"
            )
        return to_device(found, stream.device)


@dataclass(frozen=True)
class DiracGenerator:
    """One point, whatever the latent point is.

    G(z) = θ

    Args:
        start: θ before training.
    Shapes: z (N, 1), y (N, 1); parameters {"theta": (1,)}.
    Raises: ValueError for z of another shape.
    Source: Mescheder, Geiger & Nowozin (2018), definition 2.1; P3 section 3.4.
    """

    start: float = 1.0
    input = output = (1,)

    def init(self, stream, dtype=np.float32):
        """Parameters: {"theta"}, the start."""
        return {"theta": Given((self.start,))(stream, (1,), (1, 1), dtype)}

    def __call__(self, params, z):
        _rows("DiracGenerator", z, 1)
        return broadcast_to(params["theta"], shape=(z.shape[0], 1))


@dataclass(frozen=True)
class DiracCritic:
    """A line through zero.

    D(x) = ψ·x

    Args:
        start: ψ before training.
    Shapes: x (N, 1), logits (N, 1); parameters {"psi": (1,)}.
    Raises: ValueError for x of another shape.
    Source: Mescheder, Geiger & Nowozin (2018), definition 2.1; P3 section 3.4.
    """

    start: float = 1.0
    input = output = (1,)

    def init(self, stream, dtype=np.float32):
        """Parameters: {"psi"}, the start."""
        return {"psi": Given((self.start,))(stream, (1,), (1, 1), dtype)}

    def __call__(self, params, x):
        _rows("DiracCritic", x, 1)
        return multiply(x, params["psi"])


@dataclass(frozen=True)
class LinearGenerator:
    """A linear map of the latent point, without a bias.

    G(z) = θᵀz, with θ the transpose of the paper's θ_G

    Args:
        latent, data: the number of inputs and of outputs.
        weight_init: an initialiser; :class:`Given` for a start of one's own.
    Shapes: z (N, latent), y (N, data); parameters {"theta": (latent, data)}.
    Raises: ValueError for z of another shape.
    Source: P3 appendix B.
    """

    latent: int
    data: int
    weight_init: Callable = nn.xavier_normal

    @property
    def input(self):
        """The shape of one sample."""
        return (self.latent,)

    @property
    def output(self):
        """The shape of one sample's result."""
        return (self.data,)

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``, or given: {"theta"}."""
        shape = (self.latent, self.data)
        return {"theta": self.weight_init(stream, shape, shape, dtype)}

    def __call__(self, params, z):
        _rows("LinearGenerator", z, self.latent)
        return matmul(z, params["theta"])


@dataclass(frozen=True)
class LinearCritic:
    """A linear form, without a bias: its slope is θ everywhere.

    D(v) = θᵀv

    Args:
        data: the number of inputs.
        weight_init: an initialiser; :class:`Given` for a start of one's own.
    Shapes: v (N, data), logits (N, 1); parameters {"theta": (data, 1)}.
    Raises: ValueError for v of another shape.
    Source: P3 appendix B.
    """

    data: int
    weight_init: Callable = nn.xavier_normal
    output = (1,)

    @property
    def input(self):
        """The shape of one sample."""
        return (self.data,)

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``, or given: {"theta"}."""
        shape = (self.data, 1)
        return {"theta": self.weight_init(stream, shape, shape, dtype)}

    def __call__(self, params, v):
        _rows("LinearCritic", v, self.data)
        return matmul(v, params["theta"])


def _rows(model, x, width):
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"{model}: input of shape {x.shape}; expected (N, {width})")
