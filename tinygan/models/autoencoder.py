"""Auto-encoders, whose error judges samples in EBGAN and BEGAN, and encoders of images."""

import math
from dataclasses import dataclass, replace

import numpy as np

from tinygan import nn
from tinygan.models.dcgan import critic
from tinygan.models.net import Net
from tinygan.models.perceptron import perceptron
from tinygan.ops import leaky_relu, tanh


@dataclass(frozen=True, eq=False)
class AutoEncoder:
    """A network to a code, and one back.

    y = decoder(encoder(x))

    Args:
        encoder, decoder: networks; the decoder takes codes and gives what the encoder takes.
    Shapes: x, y (N, *input), codes (N, *encoder.output); parameters {"encoder", "decoder"}.
    Raises: ValueError for networks that do not fit each other.
    Source: Zhao, Mathieu & LeCun (2017), whose critic's value is the mean squared error;
        Berthelot, Schumm & Metz (2017), the mean absolute one.
    """

    encoder: Net
    decoder: Net

    def __post_init__(self):
        if self.decoder.input != self.encoder.output:
            raise ValueError(
                f"AutoEncoder: codes of shape {self.encoder.output} for a decoder of "
                f"{self.decoder.input}; expected the same shape. Give the decoder the encoder's "
                "output as its input"
            )
        if self.decoder.output != self.encoder.input:
            raise ValueError(
                f"AutoEncoder: samples of shape {self.encoder.input}, reconstructions of "
                f"{self.decoder.output}; expected the same shape. Let the decoder end where the "
                "encoder begins"
            )

    @property
    def input(self):
        """The shape of one sample."""
        return self.encoder.input

    @property
    def output(self):
        """The shape of one reconstruction, that of a sample."""
        return self.decoder.output

    @property
    def reach(self):
        """(lowest, highest) of what a reconstruction can be; None for a side without a bound."""
        return self.decoder.reach

    @property
    def mixes_samples(self):
        """Whether a sample's reconstruction depends on the others of its batch."""
        return self.encoder.mixes_samples or self.decoder.mixes_samples

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``: {"encoder", "decoder"}."""
        return {
            "encoder": self.encoder.init(stream, dtype),
            "decoder": self.decoder.init(stream, dtype),
        }

    def code(self, params, x):
        """The codes of samples. Shapes: x (N, *input), y (N, *encoder.output)."""
        self._check(params)
        return self.encoder(params["encoder"], x)

    def decode(self, params, codes):
        """The reconstructions that codes stand for. Shapes: codes (N, *decoder.input), y of x."""
        self._check(params)
        return self.decoder(params["decoder"], codes)

    def __call__(self, params, x):
        return self.decode(params, self.code(params, x))

    def _check(self, params):
        if not isinstance(params, dict) or set(params) != {"encoder", "decoder"}:
            given = list(params) if isinstance(params, dict) else type(params).__name__
            raise ValueError(
                f"AutoEncoder: parameters {given}; expected those of encoder and decoder, as init "
                "makes them"
            )

    def __str__(self):
        return f"{self.encoder}\n\n{self.decoder}"

    def _repr_html_(self):
        return f"{self.encoder._repr_html_()}\n{self.decoder._repr_html_()}"


def conv_autoencoder(
    image, channels, hidden, latent=None, *, norm=None, activation=leaky_relu,
    output=tanh, weight_init=nn.he_normal,
):  # fmt: skip
    """Convolutions with kernel 4 that halve an image, and transposed ones that double it again.

    x → hidden[0] → hidden[1] → … → code → … → hidden[0] → y

    Kernels 4 of stride 2 and a code of maps are EBGAN's way. BEGAN's auto-encoder has pairs of
    kernels 3, subsampling, ``elu`` of :mod:`tinygan.ops` and a code of ``latent`` numbers; these
    layers in its place, and no norm unless asked for, are our choice.

    Args:
        image, channels: the images' size and channels; 28 halves twice, 32 up to five times.
        hidden: the channels after each halving.
        latent: the length of the code, with a linear layer before and after it; None for the last
            maps themselves.
        norm: a layer of :mod:`tinygan.nn` before each hidden activation but the first, or None.
        activation: a function of Tensors, after each hidden layer.
        output: the last function: tanh for images in [−1, 1], sigmoid for [0, 1], None for any.
        weight_init: an initialiser.
    Shapes: images (N, image, image, channels), codes (N, latent) or (N, h, h, hidden[-1]).
    Raises: ValueError for an image that cannot be halved so many times, or no hidden channels.
    Source: Zhao, Mathieu & LeCun (2017); Berthelot, Schumm & Metz (2017).
    """
    if not hidden or image % 2 ** len(hidden):
        raise ValueError(
            f"conv_autoencoder: image of size {image} for hidden channels {hidden}; expected at "
            f"least one of them, and a size that halves {len(hidden)} times"
        )
    shape, side = (image, image, channels), image // 2 ** len(hidden)
    steps = dict(kernel=4, stride=2, pad=1, weight_init=weight_init)
    maps, row = (side, side, hidden[-1]), side * side * hidden[-1]
    down, up = {}, {}
    for i, (a, b) in enumerate(zip((channels, *hidden[:-1]), hidden, strict=True)):
        down[f"conv{i}"] = nn.Conv(a, b, **steps)
        _finish(down, i, b, norm if i else None, activation)
    if latent is not None:
        down |= {"row": nn.Flatten(), "code": nn.Linear(row, latent, weight_init)}
        up |= {"project": nn.Linear(latent, row, weight_init), "image": nn.Reshape(maps)}
        _finish(up, 0, hidden[-1], norm, activation)
    sizes = (*hidden[::-1], channels)
    for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True), 1):
        up[f"conv{i}"] = nn.ConvTranspose(a, b, **steps)
        if i < len(hidden):
            _finish(up, i, b, norm, activation)
    if output is not None:
        up["output"] = output
    code = maps if latent is None else (latent,)
    return AutoEncoder(
        Net(f"encoder of {image}×{image}", shape, down),
        Net(f"decoder to {image}×{image}", code, up),
    )


def _finish(layers, i, channels, norm, activation):
    if norm is not None:
        layers[f"norm{i}"] = norm(channels)
    layers[f"{getattr(activation, '__name__', type(activation).__name__)}{i}"] = activation


def mlp_autoencoder(sample, hidden, latent, *, output=None, **choices):
    """Perceptrons to a code and back: data → hidden → code → hidden → data.

    Args:
        sample: the shape of one, (2,) or (28, 28, 1).
        hidden: the widths on the way to the code, a tuple; on the way back in reverse.
        latent: the length of the code, which is linear.
        output: the last function of the decoder, tanh for images in [−1, 1]; None for any data.
        choices: those of :func:`tinygan.models.perceptron`.
    Shapes: x (N, *sample), codes (N, latent).
    Raises: ValueError as in :func:`tinygan.models.perceptron`.
    Source: Zhao, Mathieu & LeCun (2017), whose networks for digits are perceptrons.
    """
    sample = tuple(sample)
    size, name = math.prod(sample), "×".join(map(str, sample))
    to = perceptron((size, *hidden, latent), **choices).layers
    back = perceptron((latent, *reversed(hidden), size), **choices).layers
    last = {"sample": nn.Reshape(sample)} | ({} if output is None else {"output": output})
    return AutoEncoder(
        Net(f"encoder of {name}", sample, {"row": nn.Flatten(), **to}),
        Net(f"decoder to {name}", (latent,), back | last),
    )


def encoder(image, channels, hidden, latent, *, activation=leaky_relu, **choices):
    """From images to latent points: :func:`tinygan.models.critic` with ``latent`` outputs.

    Its last convolution has a bias, whatever the others have: nothing follows that would take it
    away.

    Args:
        image, channels, hidden: as in :func:`tinygan.models.critic`.
        latent: the number of outputs, the generator's number of inputs.
        choices: the others of :func:`tinygan.models.critic`.
    Shapes: images (N, image, image, channels), y (N, latent).
    Raises: ValueError as in :func:`tinygan.models.critic`, and for a latent below 1.
    Source: Che et al., Mode regularized GANs (2017).
    """
    layers = dict(critic(image, channels, hidden, activation=activation, **choices).layers)
    last = f"conv{len(hidden)}"
    layers[last] = replace(layers[last], outputs=latent, bias=True)
    layers["code"] = layers.pop("logit")
    return Net(f"encoder of {image}×{image} to {latent}", (image, image, channels), layers)
