"""Spectral normalisation: a layer whose weight matrix is divided by its largest singular value.

    W̄ = W/σ(W), σ(W) = leftᵀ·W·right

W is the layer's weight as a matrix (inputs, outputs), of a convolution (height·width·inputs,
outputs). left and right are its first singular vectors. They lie among the layer's parameters, are
constants of every loss, and are not learned: power iteration keeps them,

    left ← W·right/‖W·right‖,  right ← Wᵀ·left/‖Wᵀ·left‖                  (refreshed)

one of it for each step of training, since weights move little in a step. (While one singular value
overtakes another, σ is too small by some per cent, and catches up.) Optimisers see a gradient of 0
and leave both as they are; clip_weights would not, so do not clip such parameters.

Source: Miyato, Kataoka, Koyama & Yoshida, Spectral normalization for GANs (2018), algorithm 1.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from tinygan import nn
from tinygan import tree as trees
from tinygan.engine import Tensor, stop_gradient
from tinygan.ops import greater, matmul, multiply, norm, ratio, reshape, sum, where

START = 100  # power iterations on the first weights


@dataclass(frozen=True)
class SpectralNorm:
    """A linear layer or a convolution with its weight matrix divided by its largest singular value.

    y = layer(x) with weight/σ, σ = leftᵀ·weight·right

    left and right are constants: ∂σ/∂weight = left·rightᵀ. For singular vectors this is the
    derivative of σ itself; that they turn with the weight is left out of further derivatives, as
    in the source. A weight of 0 stays 0.

    Args:
        layer: an :class:`tinygan.nn.Linear` or :class:`tinygan.nn.Conv`.
    Shapes: x and y as of the layer; left (inputs,), or (height·width·inputs,), right (outputs,).
    Raises: TypeError for another layer.
    Source: Miyato et al. (2018), equation 8.
    """

    layer: nn.Linear | nn.Conv

    def __post_init__(self):
        if not isinstance(self.layer, (nn.Linear, nn.Conv)):
            raise TypeError(
                f"SpectralNorm: a layer of type {type(self.layer).__name__}; expected nn.Linear or "
                "nn.Conv, whose weight as a matrix has one column per output"
            )

    def init(self, stream, dtype=np.float32):
        """The layer's parameters, with "left" and "right".

        The source starts from random vectors and lets the steps of training improve them. Here they
        get 100 power iterations first, so that the first step divides by σ too, to about 1e-4.
        """
        params = self.layer.init(stream, dtype)
        rows, columns = _matrix(params["weight"]).shape
        vectors = {"left": _drawn(stream, rows, dtype), "right": _drawn(stream, columns, dtype)}
        return refreshed({**params, **vectors}, START)

    def output_shape(self, shape):
        """The shape of one sample's result, for that of one sample."""
        return self.layer.output_shape(shape)

    def __call__(self, params, x):
        weight = ratio(params["weight"], singular_value(params))
        return self.layer({**params, "weight": weight}, x)


def singular_value(params):
    """The largest singular value of a layer's weight, as its vectors left and right have it.

    σ = leftᵀ·W·right

    Args:
        params: those of a :class:`SpectralNorm`.
    Shapes: returns ().
    """
    weight = _matrix(params["weight"])
    left, right = (stop_gradient(params[key]) for key in ("left", "right"))
    return sum(multiply(matmul(_row(left), weight), right))


def refreshed(params, iterations=1):
    """A network's parameters after power iteration for each of its layers with spectral norm.

    left ← W·right/‖W·right‖, then right ← Wᵀ·left/‖Wᵀ·left‖

    Call it in every step, before the network is used. By primitives only; everything else is
    returned as it is. A vector that W takes to 0 stays.

    Args:
        params: a tree of arrays, with or without such layers.
        iterations: how often; σ's error falls by the factor (σ₂/σ₁)² each time.
    Raises: ValueError for fewer than one iteration; TypeError for tracked parameters.
    Source: Miyato et al. (2018), algorithm 1.
    """
    if not isinstance(iterations, (int, np.integer)) or iterations < 1:
        raise ValueError(f"refreshed: iterations is {iterations!r}; expected 1 or more")
    return trees.rebuild(params, _leaves(params, iterations))


def has_spectral_norm(model):
    """Whether a model has a layer with spectral norm."""
    layers = getattr(model, "layers", None)
    return isinstance(layers, dict) and any(type(a) is SpectralNorm for a in layers.values())


def _leaves(tree, iterations):
    """The leaves of the refreshed tree, in the order of the tree's."""
    if isinstance(tree, dict) and {"weight", "left", "right"} <= tree.keys():
        tree = tree | _iterated(tree, iterations)
    if isinstance(tree, (dict, list, tuple)):
        branches = tree.values() if isinstance(tree, dict) else tree
        return [leaf for branch in branches for leaf in _leaves(branch, iterations)]
    return [tree]


def _iterated(params, iterations):
    if any(type(a) is Tensor for a in trees.leaves(params)):
        raise TypeError(
            "refreshed: tracked parameters; expected arrays: the vectors are constants. Refresh "
            "first, then track"
        )
    weight, left, right = _matrix(params["weight"]), params["left"], params["right"]
    for _ in range(iterations):
        left = _unit(matmul(_row(right), weight, tb=True), left)
        right = _unit(matmul(_row(left), weight), right)
    return {"left": left, "right": right}


def _unit(row, before):
    """A row as a vector of length 1; the one before where it is 0."""
    length = norm(row)
    return where(greater(length, 0.0), reshape(ratio(row, length), shape=before.shape), before)


def _drawn(stream, n, dtype):
    vector = stream.normal((n,), dtype)
    return ratio(vector, norm(vector))


def _matrix(weight):
    if weight.ndim == 2:
        return weight
    return reshape(weight, shape=(math.prod(weight.shape[:-1]), weight.shape[-1]))


def _row(vector):
    return reshape(vector, shape=(1, vector.shape[0]))


def spectral_norm(net):
    """A network with every linear layer and convolution in a :class:`SpectralNorm`.

    Batch norm and layer norm are left as they are; with them the network's slope has no bound.

    Args:
        net: a :class:`tinygan.models.Net`; dcgan32(norm=None).critic, say.
    Raises: TypeError for a network that is no Net, and for one with a transposed convolution,
        maxout, or a layer that is of none of these kinds and has a weight, naming it.
    """
    if not isinstance(getattr(net, "layers", None), dict):
        raise TypeError(
            f"spectral_norm: a {type(net).__name__}; expected a models.Net, whose layers have names"
        )
    layers = {}
    for name, layer in net.layers.items():
        wrap = hasattr(layer, "weight_init")
        try:
            layers[name] = SpectralNorm(layer) if wrap else layer
        except TypeError as error:
            raise TypeError(f"spectral_norm, layer {name} of {net.title}: {error}") from error
    return replace(net, layers=layers)
