"""Layers as pairs: ``layer.init(stream)`` makes the parameters, ``layer(params, x)`` uses them.

A layer holds sizes and choices, never arrays. Its parameters are a dict of
arrays; as Tensors (:func:`tinygan.track`) they collect gradients, as arrays
they are constants. Weights are (inputs, outputs), or (..., inputs, outputs)
with leading kernel axes: the layer computes x·w + b.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinygan.backend import to_device, to_host
from tinygan.engine import broadcast_to, primitive
from tinygan.ops import add, affine, max, multiply, reshape, rsqrt, square, subtract

# Initialisers: (stream, shape, fans, dtype) -> array, with fans = (fan_in, fan_out) of the layer.


def zeros(stream, shape, fans, dtype):
    """Zeros."""
    return to_device(np.zeros(shape, dtype), stream.device)


def he_uniform(stream, shape, fans, dtype):
    """Uniform on ±√(6/fan_in). Source: He et al. (2015), for ReLU."""
    return _uniform(stream, shape, math.sqrt(6 / fans[0]), dtype)


def he_normal(stream, shape, fans, dtype):
    """Normal with deviation √(2/fan_in). Source: He et al. (2015), for ReLU."""
    return _normal(stream, shape, math.sqrt(2 / fans[0]), dtype)


def xavier_uniform(stream, shape, fans, dtype):
    """Uniform on ±√(6/(fan_in + fan_out)). Source: Glorot & Bengio (2010), for tanh."""
    return _uniform(stream, shape, math.sqrt(6 / (fans[0] + fans[1])), dtype)


def xavier_normal(stream, shape, fans, dtype):
    """Normal with deviation √(2/(fan_in + fan_out)). Source: Glorot & Bengio (2010)."""
    return _normal(stream, shape, math.sqrt(2 / (fans[0] + fans[1])), dtype)


def fan_in_uniform(stream, shape, fans, dtype):
    """Uniform on ±1/√fan_in: PyTorch's default for the weights and biases of linear layers."""
    return _uniform(stream, shape, 1 / math.sqrt(fans[0]), dtype)


@dataclass(frozen=True)
class Normal:
    """Normal with a given deviation. Source: Radford et al. (2016), who take .02."""

    deviation: float = 0.02

    def __call__(self, stream, shape, fans, dtype):
        return _normal(stream, shape, self.deviation, dtype)


@dataclass(frozen=True)
class Orthogonal:
    """A matrix with orthonormal rows or columns, times a gain. Source: Saxe et al. (2014)."""

    gain: float = 1.0

    def __call__(self, stream, shape, fans, dtype):
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = (rows, columns) if rows >= columns else (columns, rows)
        q, r = np.linalg.qr(to_host(stream.normal(tall, np.float64)))
        q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)  # else q depends on LAPACK's signs
        q = q if rows >= columns else q.T
        return to_device((self.gain * q.reshape(shape)).astype(dtype), stream.device)


def _uniform(stream, shape, bound, dtype):
    return (stream.uniform(shape, dtype) * 2 - 1) * np.dtype(dtype).type(bound)


def _normal(stream, shape, deviation, dtype):
    return stream.normal(shape, dtype) * np.dtype(dtype).type(deviation)


# Layers


@dataclass(frozen=True)
class Linear:
    """A linear layer with a bias.

    y = x·weight + bias

    Shapes: x (N, inputs), weight (inputs, outputs), bias (outputs,), y (N, outputs).
    """

    inputs: int
    outputs: int
    weight_init: Callable = he_uniform
    bias_init: Callable = zeros

    def __post_init__(self):
        _positive("Linear", inputs=self.inputs, outputs=self.outputs)

    def init(self, stream, dtype=np.float32):
        fans = (self.inputs, self.outputs)
        return {
            "weight": self.weight_init(stream, fans, fans, dtype),
            "bias": self.bias_init(stream, (self.outputs,), fans, dtype),
        }

    def __call__(self, params, x):
        return affine(x, params["weight"], params["bias"])


@dataclass(frozen=True)
class Maxout:
    """The largest of several linear layers, output by output.

    y = maxₖ (x·weightₖ + biasₖ)

    Shapes: x (N, inputs), weight (inputs, outputs·pieces), bias (outputs·pieces,), y (N, outputs).
    Source: Goodfellow et al., Maxout networks (2013); the network that judged samples there had it.
    """

    inputs: int
    outputs: int
    pieces: int = 2
    weight_init: Callable = he_uniform
    bias_init: Callable = zeros

    def __post_init__(self):
        _positive("Maxout", inputs=self.inputs, outputs=self.outputs, pieces=self.pieces)

    def init(self, stream, dtype=np.float32):
        shape, fans = (self.inputs, self.outputs * self.pieces), (self.inputs, self.outputs)
        return {
            "weight": self.weight_init(stream, shape, fans, dtype),
            "bias": self.bias_init(stream, shape[1:], fans, dtype),
        }

    def __call__(self, params, x):
        y = affine(x, params["weight"], params["bias"])
        return max(reshape(y, shape=(-1, self.outputs, self.pieces)), axis=2)


@primitive(cross_sample=True)
def batch_mean(a):
    """The mean over all axes but the last: one number per feature, from the whole batch.

    y[c] = Σ a[..., c]/n

    Shapes: a (N, ..., C), y (C,).
    Gradient: ā = ȳ/n, broadcast
    """
    return a.mean(tuple(range(a.ndim - 1)))


batch_mean.vjp(
    lambda g, y, a: broadcast_to(multiply(g, 1.0 / (a.size // a.shape[-1])), shape=a.shape)
)


def batch_norm(x, scale, shift, eps=1e-5):
    """Each feature moved to mean 0 and variance 1 over the batch, then scaled and shifted.

    y = scale·(x − μ)/√(σ² + eps) + shift; σ² is the biased variance over the batch

    Every sample's output depends on the other samples: a gradient penalty through it is an
    error (see :mod:`tinygan.penalties`).

    Shapes: x, y (N, ..., C), scale and shift (C,).
    Source: Ioffe & Szegedy (2015).
    """
    offset = subtract(x, batch_mean(x))
    spread = rsqrt(add(batch_mean(square(offset)), eps))
    return add(multiply(multiply(offset, spread), scale), shift)


def _positive(layer, **sizes):
    for name, size in sizes.items():
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{layer}: {name} is {size!r}; expected a whole number above 0")
