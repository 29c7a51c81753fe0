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
from tinygan.conv import Geometry, conv2d, conv2d_transpose, pair
from tinygan.norms import batch_norm, layer_norm, standing_norm
from tinygan.ops import add, affine, max, multiply, reshape

# Initialisers: (stream, shape, fans, dtype) -> array, with fans = (fan_in, fan_out) of the layer.


def zeros(stream, shape, fans, dtype):
    """Zeros."""
    return to_device(np.zeros(shape, dtype), stream.device)


def ones(stream, shape, fans, dtype):
    """Ones."""
    return to_device(np.ones(shape, dtype), stream.device)


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
    """Normal with a given deviation and mean. Source: Radford et al. (2016), who take .02."""

    deviation: float = 0.02
    mean: float = 0.0

    def __call__(self, stream, shape, fans, dtype):
        return _normal(stream, shape, self.deviation, dtype) + np.dtype(dtype).type(self.mean)


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
        """Parameters drawn from ``stream``: {"weight", "bias"}."""
        fans = (self.inputs, self.outputs)
        return {
            "weight": self.weight_init(stream, fans, fans, dtype),
            "bias": self.bias_init(stream, (self.outputs,), fans, dtype),
        }

    def output_shape(self, shape):
        """The shape of one sample's result, for that of one sample."""
        if shape != (self.inputs,):
            raise ValueError(f"Linear: samples of shape {shape}; expected ({self.inputs},)")
        return (self.outputs,)

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
        """Parameters drawn from ``stream``: {"weight", "bias"}."""
        shape, fans = (self.inputs, self.outputs * self.pieces), (self.inputs, self.outputs)
        return {
            "weight": self.weight_init(stream, shape, fans, dtype),
            "bias": self.bias_init(stream, shape[1:], fans, dtype),
        }

    def output_shape(self, shape):
        """The shape of one sample's result, for that of one sample."""
        if shape != (self.inputs,):
            raise ValueError(f"Maxout: samples of shape {shape}; expected ({self.inputs},)")
        return (self.outputs,)

    def __call__(self, params, x):
        y = affine(x, params["weight"], params["bias"])
        return max(reshape(y, shape=(-1, self.outputs, self.pieces)), axis=2)


@dataclass(frozen=True)
class Conv:
    """A convolution with a bias, or without.

    y = conv2d(x, weight) + bias

    Args:
        inputs, outputs: channels.
        kernel, stride, pad: as in :class:`tinygan.conv.Geometry`.
        bias: False where a norm follows, which takes it away again.
        weight_init, bias_init: initialisers; fan_in is kernel·inputs, and fan_out
            kernel·outputs/stride², how many outputs an input reaches.
    Shapes: x (N, H, W, inputs), weight (kh, kw, inputs, outputs), bias (outputs,),
        y (N, P, Q, outputs).
    Raises: ValueError for sizes, kernels, strides and pads that make no sense, and for images of
        another layout or number of channels.
    """

    inputs: int
    outputs: int
    kernel: int | tuple
    stride: int | tuple = 1
    pad: int | tuple = 0
    bias: bool = True
    weight_init: Callable = he_uniform
    bias_init: Callable = zeros

    def __post_init__(self):
        _positive("Conv", inputs=self.inputs, outputs=self.outputs)
        self.geometry(10**6)  # refuses a kernel, stride or pad that makes no sense

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``: {"weight"}, and "bias" if the layer has one."""
        kh, kw = pair("kernel", self.kernel, 1)
        shape, taps = (kh, kw, self.inputs, self.outputs), kh * kw
        reach = taps / math.prod(pair("stride", self.stride, 1))
        return _kernel(self, stream, shape, (taps * self.inputs, reach * self.outputs), dtype)

    def geometry(self, image):
        """Where the kernel meets an image of this size."""
        return Geometry(image, self.kernel, self.stride, self.pad)

    def output_shape(self, shape):
        """The shape of one sample's result, for that of one sample."""
        height, width, _ = _image("Conv", shape, self.inputs)
        return (*self.geometry((height, width)).grid, self.outputs)

    def __call__(self, params, x):
        _image("Conv", x.shape[1:], self.inputs)
        bias = (params["bias"],) if self.bias else ()
        return conv2d(x, params["weight"], *bias, geometry=self.geometry(x.shape[1:3]))


@dataclass(frozen=True)
class ConvTranspose:
    """A transposed convolution with a bias, or without: what grows images.

    y = conv2d_transpose(x, weight) + bias

    Args:
        inputs, outputs: channels.
        kernel, stride, pad, output_padding: as in :meth:`tinygan.conv.Geometry.transposed`.
        bias: False where a norm follows, which takes it away again.
        weight_init, bias_init: initialisers; fan_in is kernel·inputs/stride², how many inputs meet
            in an output, and fan_out kernel·outputs.
    Shapes: x (N, P, Q, inputs), weight (kh, kw, outputs, inputs), bias (outputs,),
        y (N, H, W, outputs).
    Raises: ValueError as in :class:`Conv`, and for an output_padding of the stride or more.
    """

    inputs: int
    outputs: int
    kernel: int | tuple
    stride: int | tuple = 1
    pad: int | tuple = 0
    output_padding: int | tuple = 0
    bias: bool = True
    weight_init: Callable = he_uniform
    bias_init: Callable = zeros

    def __post_init__(self):
        _positive("ConvTranspose", inputs=self.inputs, outputs=self.outputs)
        self.geometry(10**6)  # refuses a kernel, stride or pad that makes no sense

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``: {"weight"}, and "bias" if the layer has one."""
        kh, kw = pair("kernel", self.kernel, 1)
        shape, taps = (kh, kw, self.outputs, self.inputs), kh * kw
        reach = taps / math.prod(pair("stride", self.stride, 1))
        return _kernel(self, stream, shape, (reach * self.inputs, taps * self.outputs), dtype)

    def geometry(self, grid):
        """Where the kernel meets the image that a grid of this size makes."""
        return Geometry.transposed(grid, self.kernel, self.stride, self.pad, self.output_padding)

    def output_shape(self, shape):
        """The shape of one sample's result, for that of one sample."""
        p, q, _ = _image("ConvTranspose", shape, self.inputs)
        return (*self.geometry((p, q)).image, self.outputs)

    def __call__(self, params, x):
        _image("ConvTranspose", x.shape[1:], self.inputs)
        bias = (params["bias"],) if self.bias else ()
        return conv2d_transpose(x, params["weight"], *bias, geometry=self.geometry(x.shape[1:3]))


def _kernel(layer, stream, shape, fans, dtype):
    params = {"weight": layer.weight_init(stream, shape, fans, dtype)}
    if layer.bias:
        params["bias"] = layer.bias_init(stream, (layer.outputs,), fans, dtype)
    return params


@dataclass(frozen=True)
class _Norm:
    channels: int
    eps: float = 1e-5
    scale_init: Callable = ones
    shift_init: Callable = zeros

    def __post_init__(self):
        _positive(type(self).__name__, channels=self.channels)
        if not self.eps >= 0:
            raise ValueError(f"{type(self).__name__}: eps is {self.eps}; expected 0 or more")

    def init(self, stream, dtype=np.float32):
        """Parameters: {"scale", "shift"}."""
        shape, fans = (self.channels,), (self.channels, self.channels)
        return {
            "scale": self.scale_init(stream, shape, fans, dtype),
            "shift": self.shift_init(stream, shape, fans, dtype),
        }

    def output_shape(self, shape):
        """The shape of one sample's result, for that of one sample."""
        if shape[-1] != self.channels:
            raise ValueError(
                f"{type(self).__name__}: samples of shape {shape}; expected {self.channels} "
                "channels, last"
            )
        return shape


class BatchNorm(_Norm):
    """:func:`tinygan.norms.batch_norm` with its scale and shift.

    Training and, unless asked otherwise, sampling use the statistics of the batch at hand. eps is
    added to the variance, under the root. There is no running average and so no momentum: standing
    statistics are computed from given batches when they are wanted
    (:func:`tinygan.models.standing_statistics`).

    Shapes: x, y (N, ..., channels), scale and shift (channels,).
    """

    def __call__(self, params, x):
        return batch_norm(x, params["scale"], params["shift"], self.eps)

    def standing(self, params, x, statistics):
        """The same with standing statistics: {"mean", "variance"}, each (channels,)."""
        mean, variance = statistics["mean"], statistics["variance"]
        return standing_norm(x, mean, variance, params["scale"], params["shift"], self.eps)


class LayerNorm(_Norm):
    """:func:`tinygan.norms.layer_norm` with its scale and shift, one per channel.

    Shapes: x, y (N, ..., channels), scale and shift (channels,).
    """

    def __call__(self, params, x):
        return layer_norm(x, params["scale"], params["shift"], self.eps)


@dataclass(frozen=True)
class Flatten:
    """All of a sample's values in one row, in the order height, width, channels.

    Shapes: x (N, ...), y (N, product of the rest).
    """

    def output_shape(self, shape):
        """The shape of one sample's result, for that of one sample."""
        return (math.prod(shape),)

    def __call__(self, x):
        return reshape(x, shape=(x.shape[0], math.prod(x.shape[1:])))


@dataclass(frozen=True)
class Reshape:
    """Each sample in another shape.

    Shapes: x (N, ...), y (N, *shape).
    Raises: ValueError for samples of another number of values.
    """

    shape: tuple

    def output_shape(self, shape):
        """The shape of one sample's result, for that of one sample."""
        if math.prod(shape) != math.prod(self.shape):
            raise ValueError(
                f"Reshape: {shape} has {math.prod(shape)} values; expected {math.prod(self.shape)} "
                f"for {self.shape}"
            )
        return self.shape

    def __call__(self, x):
        return reshape(x, shape=(x.shape[0], *self.shape))


def dropout_mask(stream, shape, rate, dtype=np.float32):
    """What :func:`dropout` multiplies with: 1/(1 − rate) with probability 1 − rate, else 0.

    Drawn apart from the step that uses it, like all noise: the step stays a function of arrays.

    Shapes: returns ``shape``, that of the x it is for.
    Raises: ValueError for a rate outside [0, 1).
    Source: Srivastava et al. (2014), scaled in training as in PyTorch.
    """
    _check_rate("dropout_mask", rate)
    keep = stream.uniform(shape, dtype) >= np.dtype(dtype).type(rate)
    return keep.astype(dtype) * np.dtype(dtype).type(1 / (1 - rate))


def dropout(x, mask):
    """Values left out at random, the others made larger so that the mean stays.

    y = x·mask, mask of :func:`dropout_mask`; without one (None), as when sampling, y = x

    :class:`Dropout` is the same as a layer of a network.

    Shapes: x, mask, y (N, ...).
    Raises: ValueError for a mask of another shape.
    """
    if mask is None:
        return x
    return multiply(x, _fitting("dropout: mask", mask, x))


@dataclass(frozen=True)
class Dropout:
    """:func:`dropout` as a layer, without parameters.

    y = x·noise, noise of :meth:`draw`; without it, as when sampling, y = x

    Shapes: x, noise, y (N, ...).
    Raises: ValueError for a rate outside [0, 1), and for noise of another shape than x.
    Source: Srivastava et al. (2014), scaled in training as in PyTorch.
    """

    rate: float = 0.5

    def __post_init__(self):
        _check_rate("Dropout", self.rate)

    def draw(self, stream, shape, dtype=np.float32, level=1.0):
        """A mask for an x of this shape, by :func:`dropout_mask`; no level changes it."""
        return dropout_mask(stream, shape, self.rate, dtype)

    def __call__(self, x, noise=None):
        return x if noise is None else multiply(x, _fitting("Dropout: noise", noise, x))


@dataclass(frozen=True)
class Noise:
    """Normal noise added to the values, a layer without parameters.

    y = x + noise, noise of :meth:`draw`; without it, as when sampling, y = x

    As a network's first layer it is noise on the samples themselves, "instance noise".

    Shapes: x, noise, y (N, ...).
    Raises: ValueError for a deviation below 0, and for noise of another shape than x.
    Source: Sønderby et al. (2017), Arjovsky & Bottou (2017) on samples; Zhao et al. (2017) between
        layers.
    """

    deviation: float

    def __post_init__(self):
        if not 0 <= self.deviation < math.inf:
            raise ValueError(f"Noise: deviation is {self.deviation}; expected 0 or more, finite")

    def draw(self, stream, shape, dtype=np.float32, level=1.0):
        """Normal noise of deviation level·deviation for an x of this shape.

        Raises: ValueError for a level below 0.
        """
        if not 0 <= level < math.inf:
            raise ValueError(f"Noise: level is {level}; expected 0 or more, finite")
        return _normal(stream, shape, level * self.deviation, dtype)

    def __call__(self, x, noise=None):
        return x if noise is None else add(x, _fitting("Noise: noise", noise, x))


def _check_rate(name, rate):
    if not 0 <= rate < 1:
        raise ValueError(f"{name}: rate is {rate}; expected 0 or more and below 1")


def _fitting(what, noise, x):
    shape = getattr(noise, "shape", f"of type {type(noise).__name__}")
    if shape != x.shape:
        raise ValueError(f"{what} {shape} for x {x.shape}; expected the same shape")
    return noise


def _image(layer, shape, channels):
    if len(shape) != 3 or shape[2] != channels:
        hint = ", channels last" if len(shape) == 3 and shape[0] == channels else ""
        raise ValueError(
            f"{layer}: samples of shape {shape}; expected (height, width, {channels}){hint}"
        )
    return shape


def _positive(layer, **sizes):
    for name, size in sizes.items():
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{layer}: {name} is {size!r}; expected a whole number above 0")
