"""A network as a list of named layers, from one sample's shape to another's."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from tinygan import nn
from tinygan import tree as trees
from tinygan.backend import Stream
from tinygan.engine import values
from tinygan.nn import BatchNorm
from tinygan.norms import block_mean
from tinygan.ops import relu, sigmoid, tanh


@dataclass(frozen=True, eq=False)
class Net:
    """Layers, one after the other.

    y = fₙ(… f₁(x))

    Args:
        title: what ``print`` calls it.
        input: the shape of one sample, (100,) or (32, 32, 3).
        layers: a dict from names to layers of :mod:`tinygan.nn`, or to functions of Tensors that
            keep the shape.
    Shapes: x (N, *input), y (N, *output).
    Raises: ValueError for layers that do not fit each other, naming the layer; TypeError for what
        is neither a layer nor a function.
    """

    title: str
    input: tuple
    layers: dict

    def __post_init__(self):
        object.__setattr__(self, "input", tuple(self.input))
        if not self.layers:
            raise ValueError(f"{self.title}: no layers; expected at least one")
        for name, layer in self.layers.items():
            if not callable(layer) or hasattr(layer, "layers"):
                raise TypeError(
                    f"{self.title}, layer {name} is a {type(layer).__name__}; expected a layer of "
                    "tinygan.nn or a function. Of another network, give the layers"
                )
        self.shapes()

    @property
    def output(self):
        """The shape of one sample's result."""
        return list(self.shapes().values())[-1]

    @property
    def reach(self):
        """(lowest, highest) of what the last layer can give; None for a side without a bound."""
        ends = {tanh: (-1.0, 1.0), sigmoid: (0.0, 1.0), relu: (0.0, None)}
        last = list(self.layers.values())[-1]
        return ends.get(last, (None, None)) if not hasattr(last, "init") else (None, None)

    @property
    def mixes_samples(self):
        """Whether a sample's result depends on the others of its batch: batch norm does that."""
        return any(isinstance(layer, BatchNorm) for layer in self.layers.values())

    def shapes(self):
        """The shape of one sample after each layer, by name."""
        shape, found = self.input, {}
        for name, layer in self.layers.items():
            try:
                shape = layer.output_shape(shape) if hasattr(layer, "output_shape") else shape
            except ValueError as error:
                raise ValueError(f"{self.title}, layer {name}: {error}") from error
            found[name] = shape
        return found

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``: {name: {"weight", ...}} for layers that have any."""
        return {
            name: layer.init(stream, dtype)
            for name, layer in self.layers.items()
            if hasattr(layer, "init")
        }

    def __call__(self, params, x, statistics=None):
        """The result; with ``statistics`` (:func:`standing_statistics`) batch norm uses those."""
        self._check(params, x)
        if statistics is not None:
            self._check_statistics(statistics)
        for name, layer in self.layers.items():
            if statistics is not None and isinstance(layer, BatchNorm):
                x = layer.standing(params[name], x, statistics[name])
            else:
                x = self._apply(name, params, x)
        return x

    def _apply(self, name, params, x):
        layer = self.layers[name]
        if name in params:
            return layer(params[name], x)
        y = layer(x)
        if y.shape != x.shape and not hasattr(layer, "output_shape"):
            raise ValueError(
                f"{self.title}: the function {name} made {y.shape} of {x.shape}; expected the same "
                "shape. Use nn.Reshape or nn.Flatten, or a layer with a method output_shape"
            )
        return y

    def _check_statistics(self, statistics):
        missing = [
            name
            for name, layer in self.layers.items()
            if isinstance(layer, BatchNorm) and name not in statistics
        ]
        if missing:
            raise ValueError(
                f"{self.title}: no statistics of {', '.join(missing)}; expected those of every "
                "batch norm, as standing_statistics makes them"
            )

    def _check(self, params, x):
        expected = [name for name, layer in self.layers.items() if hasattr(layer, "init")]
        given = list(params) if isinstance(params, dict) else [f"a {type(params).__name__}"]
        if given != expected:
            raise ValueError(
                f"{self.title}: parameters of {', '.join(given) or 'nothing'}; expected those of "
                f"{', '.join(expected)}, as init makes them"
            )
        if x.shape[1:] != self.input:
            raise ValueError(
                f"{self.title}: input of shape {x.shape}; expected (N, "
                f"{', '.join(map(str, self.input))})"
            )

    def __str__(self):
        params = {name: _blank(layer) for name, layer in self.layers.items()}
        rows = [("", "input", _by(self.input), "")]
        for (name, layer), shape in zip(self.layers.items(), self.shapes().values(), strict=True):
            count = sum(a.size for a in trees.leaves(params.get(name, {})))
            rows.append((name, _describe(layer), _by(shape), f"{count:,}" if count else ""))
        total = sum(a.size for a in trees.leaves(params))
        rows.append(("", "total", "", f"{total:,}"))
        a, b, c, d = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [f"{r[0]:<{a}}  {r[1]:<{b}}  {r[2]:>{c}}  {r[3]:>{d}}".rstrip() for r in rows]
        return "\n".join([self.title, *lines])


def standing_statistics(net, params, batches):
    """What batch norm uses for single samples: each feature's mean and variance over ``batches``.

    The batches go through the network with their own statistics, as in training. The mean is that
    of all values, and the variance theirs about it, biased: every sample counts alike. (PyTorch
    keeps a running average over the steps, with a momentum of .1 and the unbiased variance.)

    Args:
        batches: arrays of inputs (N, *net.input), as many as you like.
    Returns: {name: {"mean", "variance"}} for each batch norm of the network.
    Raises: ValueError without batches, or for batches of another shape.
    Source: Wu & Johnson, Rethinking "batch" in BatchNorm (2021), section 3.2.
    """
    found, count, params = {}, 0, values(params)
    for x in batches:
        net._check(params, x)
        count += len(x)
        share = len(x) / max(1, count)
        for name, layer in net.layers.items():
            if isinstance(layer, BatchNorm):
                found[name] = _pooled(found.get(name), x, share)
            x = net._apply(name, params, x)
    if count == 0:
        raise ValueError("standing_statistics: no batches; expected at least one")
    return found


def _pooled(so_far, x, share):
    """Moments of all batches, of which the last, x, is a share: no E x² − (E x)², which cancels."""
    axes = tuple(range(x.ndim - 1))
    centre = block_mean(x, axes=axes)
    mean, variance = centre.reshape(-1), block_mean((x - centre) ** 2, axes=axes).reshape(-1)
    if so_far is None:
        return {"mean": mean, "variance": variance}
    step, bend = mean - so_far["mean"], variance - so_far["variance"]
    return {
        "mean": so_far["mean"] + step * share,
        "variance": so_far["variance"] + bend * share + step * step * (share * (1 - share)),
    }


def _blank(layer):
    """The layer's parameters as zeros, which take no time: to count them."""
    if not hasattr(layer, "init"):
        return {}
    inits = {f.name: nn.zeros for f in fields(layer) if f.name.endswith("_init")}
    return replace(layer, **inits).init(Stream(0))


def _by(shape):
    return "×".join(map(str, shape))


def _describe(layer: Any):
    """A layer in a few words: what it is, its kernel, stride and padding."""
    words = [getattr(layer, "__name__", type(layer).__name__)]
    if hasattr(layer, "kernel"):
        words.append(f"{_size(layer.kernel)} stride {_size(layer.stride, False)}")
        if layer.pad != 0:
            words.append(f"pad {_size(layer.pad, False)}")
        if getattr(layer, "output_padding", 0) != 0:
            words.append(f"+{_size(layer.output_padding, False)}")
        if not layer.bias:
            words.append("no bias")
    return " ".join(words)


def _size(size, both=True):
    if isinstance(size, tuple):
        return "×".join(_size(s, False) for s in size)
    return f"{size}×{size}" if both else str(size)


def count_parameters(tree):
    """How many numbers a tree of parameters holds."""
    return sum(math.prod(a.shape) for a in trees.leaves(tree))
