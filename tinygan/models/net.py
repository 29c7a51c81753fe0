"""A network as a list of named layers, from one sample's shape to another's."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygan import tree as trees
from tinygan.backend import Stream
from tinygan.engine import values
from tinygan.nn import BatchNorm
from tinygan.norms import block_mean


@dataclass(frozen=True, eq=False)
class Net:
    """Layers, one after the other.

    y = fₙ(… f₁(x))

    Args:
        title: what ``print`` calls it.
        input: the shape of one sample, (100,) or (32, 32, 3).
        layers: a dict from names to layers of :mod:`tinygan.nn`, or functions of Tensors.
    Shapes: x (N, *input), y (N, *output).
    Raises: ValueError for layers that do not fit each other, naming the layer.
    """

    title: str
    input: tuple
    layers: dict

    def __post_init__(self):
        self.shapes()

    @property
    def output(self):
        """The shape of one sample's result."""
        return list(self.shapes().values())[-1]

    @property
    def mixes_samples(self):
        """Whether a sample's result depends on the others of its batch: batch norm does that."""
        return any(isinstance(layer, BatchNorm) for layer in self.layers.values())

    def shapes(self):
        """The shape of one sample after each layer, by name."""
        shape, found = self.input, {}
        for name, layer in self.layers.items():
            try:
                shape = layer.output(shape) if hasattr(layer, "output") else shape
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
        for name, layer in self.layers.items():
            if statistics is not None and isinstance(layer, BatchNorm):
                x = layer.standing(params[name], x, statistics[name])
            else:
                x = _apply(layer, params.get(name), x)
        return x

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
        params = self.init(Stream(0))
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

    The batches go through the network with their own statistics, as in training. The mean is the
    mean of the batches' means, the variance that of all values about it: biased, and exact for
    batches of one size. (PyTorch keeps a running average instead, with a momentum of .1 and the
    unbiased variance.)

    Args:
        batches: arrays of inputs (N, *net.input), as many as you like.
    Returns: {name: {"mean", "variance"}} for each batch norm of the network.
    Raises: ValueError without batches.
    Source: Wu & Johnson, Rethinking "batch" in BatchNorm (2021), section 3.2.
    """
    found, count, params = {}, 0, values(params)
    for x in batches:
        count += 1
        for name, layer in net.layers.items():
            if isinstance(layer, BatchNorm):
                found[name] = _pooled(found.get(name), x, 1 / count)
            x = _apply(layer, params.get(name), x)
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


def _apply(layer, params, x):
    return layer(x) if params is None else layer(params, x)


def _by(shape):
    return "×".join(map(str, shape))


def _describe(layer: Any):
    """A layer in a few words: what it is, its kernel, stride and padding."""
    words = [getattr(layer, "__name__", type(layer).__name__)]
    if hasattr(layer, "kernel"):
        words.append(f"{_size(layer.kernel)} stride {_size(layer.stride, False)}")
        if layer.pad != 0:
            words.append(f"pad {_size(layer.pad, False)}")
    return " ".join(words)


def _size(size, both=True):
    if isinstance(size, tuple):
        return "×".join(_size(s, False) for s in size)
    return f"{size}×{size}" if both else str(size)


def count_parameters(tree):
    """How many numbers a tree of parameters holds."""
    return sum(math.prod(a.shape) for a in trees.leaves(tree))
