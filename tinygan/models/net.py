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
from tinygan.ops import relu, reshape, sigmoid, square, subtract, tanh


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

    def draw(self, stream, n, dtype=np.float32, level=1.0):
        """What the dropout and noise layers use for n samples, drawn from ``stream``: ``noise``.

        Args:
            level: multiplies the deviation of :class:`tinygan.nn.Noise`, for schedules.
        Returns: {name: array (n, ...)} for the layers that draw; {} if none does.
        """
        if not any(hasattr(layer, "draw") for layer in self.layers.values()):
            return {}  # without working out shapes: a game asks in every iteration
        return {
            name: self.layers[name].draw(stream, (n, *shape), dtype, level)
            for name, shape in self.shapes().items()
            if hasattr(self.layers[name], "draw")
        }

    def __call__(self, params, x, statistics=None, noise=None):
        """The result.

        Args:
            statistics: of :func:`standing_statistics`, for batch norm to use; None for those of x.
            noise: of :meth:`draw`, for dropout and noise; None or {} for neither, as in sampling.
        Raises: ValueError, naming the layer, for parameters, inputs, statistics or noise that are
            not those of this network.
        """
        self._check(params, x)
        self._check_noise(noise)
        if statistics is not None:
            self._check_statistics(statistics)
        for name, layer in self.layers.items():
            if statistics is not None and isinstance(layer, BatchNorm):
                x = layer.standing(params[name], x, statistics[name])
            else:
                x = self._apply(name, params, x, noise)
        return x

    def statistics(self, params, x, noise=None):
        """Each batch norm's mean and variance of this batch, as constants.

        mean = Σ h/n, variance = Σ (h − mean)²/n, biased, over the samples and places of its input h

        Shapes: x (N, *input), each mean and variance (channels,).
        Returns: {name: {"mean", "variance"}}, {} for a network without batch norm.
        """
        self._check(params, x)
        self._check_noise(noise)
        found, params, x = {}, values(params), values(x)
        wanted = [name for name, layer in self.layers.items() if isinstance(layer, BatchNorm)]
        for name in self.layers:
            if len(found) == len(wanted):
                break  # nobody asks for what comes after the last
            if name in wanted:
                found[name] = _moments(x)
            x = self._apply(name, params, x, noise)
        return found

    def _apply(self, name, params, x, noise=None):
        layer = self.layers[name]
        given = (params[name], x) if name in params else (x,)
        if noise and name in noise:
            given += (noise[name],)
        try:
            y = layer(*given)
        except ValueError as error:
            raise ValueError(f"{self.title}, layer {name}: {error}") from error
        if y.shape != x.shape and not hasattr(layer, "output_shape"):
            raise ValueError(
                f"{self.title}: the function {name} made {y.shape} of {x.shape}; expected the same "
                "shape. Use nn.Reshape or nn.Flatten, or a layer with a method output_shape"
            )
        return y

    def _check_noise(self, noise):
        if noise is None:
            return
        expected = [name for name, layer in self.layers.items() if hasattr(layer, "draw")]
        given = list(noise) if isinstance(noise, dict) else [f"a {type(noise).__name__}"]
        if given and set(given) != set(expected):
            raise ValueError(
                f"{self.title}: noise for {', '.join(given)}; expected it for "
                f"{', '.join(expected) or 'no layer'}, as draw makes it, or None"
            )

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

    def _rows(self):
        """The layers as (name, what it is, output shape, parameters), then the total."""
        params = {name: _blank(layer) for name, layer in self.layers.items()}
        rows = [("", "input", _by(self.input), "")]
        for (name, layer), shape in zip(self.layers.items(), self.shapes().values(), strict=True):
            count = sum(a.size for a in trees.leaves(params.get(name, {})))
            rows.append((name, _describe(layer), _by(shape), f"{count:,}" if count else ""))
        total = sum(a.size for a in trees.leaves(params))
        rows.append(("", "total", "", f"{total:,}"))
        return rows

    def __str__(self):
        rows = self._rows()
        a, b, c, d = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [f"{r[0]:<{a}}  {r[1]:<{b}}  {r[2]:>{c}}  {r[3]:>{d}}".rstrip() for r in rows]
        return "\n".join([self.title, *lines])

    def _repr_html_(self):
        from tinygan import html  # for notebooks alone

        return html.table(self._rows(), ("", "layer", "output", "parameters"), self.title, "llrr")


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
    found, count = None, 0
    for x in batches:
        count += len(x)
        found = _pooled(found, net.statistics(params, x), len(x) / max(1, count))
    if count == 0:
        raise ValueError("standing_statistics: no batches; expected at least one")
    return found


def _moments(x):
    """The mean and the biased variance of each feature: no E x² − (E x)², which cancels."""
    axes, features = tuple(range(x.ndim - 1)), x.shape[-1:]
    mean = block_mean(x, axes=axes)
    variance = block_mean(square(subtract(x, mean)), axes=axes)
    return {"mean": reshape(mean, shape=features), "variance": reshape(variance, shape=features)}


def _pooled(so_far, last, share):
    """Moments of all batches, of which the last is a share."""
    if so_far is None:
        return last
    pooled = {}
    for name, old in so_far.items():
        step, bend = (last[name][key] - old[key] for key in ("mean", "variance"))
        pooled[name] = {
            "mean": old["mean"] + step * share,
            "variance": old["variance"] + bend * share + step * step * (share * (1 - share)),
        }
    return pooled


def _blank(layer):
    """The layer's learned parameters as zeros, which take no time: to count them."""
    layer = getattr(layer, "layer", layer)  # of spectral norm, without its two vectors
    if not hasattr(layer, "init"):
        return {}
    inits = {f.name: nn.zeros for f in fields(layer) if f.name.endswith("_init")}
    return replace(layer, **inits).init(Stream(0))


def _by(shape):
    return "×".join(map(str, shape))


def _describe(layer: Any):
    """A layer in a few words: what it is, its kernel, stride and padding, its noise."""
    words = [getattr(layer, "__name__", type(layer).__name__)]
    words += [f"{getattr(layer, key):g}" for key in ("rate", "deviation") if hasattr(layer, key)]
    if hasattr(layer, "layer"):
        words.append(_describe(layer.layer))
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
