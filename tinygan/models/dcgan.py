"""DCGAN: convolutional generators and critics, and the pairs of them that the papers train.

A generator projects its latent point to a small image of many channels and doubles the image with
each transposed convolution; a critic halves it with each convolution. Critics give one logit.
"""

import math

from tinygan import nn
from tinygan.models.mlp import Pair
from tinygan.models.net import Net
from tinygan.ops import leaky_relu, relu, sigmoid, tanh

DCGAN_NORMAL = nn.Normal(0.02)
DCGAN_SCALE = nn.Normal(0.02, mean=1.0)


def generator(
    latent, hidden, channels, *, kernel=4, norm=nn.BatchNorm, bias=False, activation=relu,
    output=tanh, weight_init=DCGAN_NORMAL,
):  # fmt: skip
    """z → 4×4 → 8×8 → …: a transposed convolution with kernel 4, then one of stride 2 per doubling.

    Args:
        latent: the number of inputs.
        hidden: the channels at 4×4, 8×8, …; the image is twice the size of the last.
        channels: those of the image.
        kernel: 4 (pad 1) or 5 (pad 2, output padding 1) for the doublings.
        norm: a layer of :mod:`tinygan.nn` after each hidden convolution, or None.
        bias: whether the convolutions have one.
        output: the last function: tanh for images in [−1, 1], sigmoid for [0, 1].
    Shapes: z (N, latent), images (N, 4·2ᵈ, 4·2ᵈ, channels) for d hidden layers.
    Raises: ValueError for another kernel.
    Source: Radford, Metz & Chintala (2016), figure 1.
    """
    layers = {"pixel": nn.Reshape((1, 1, latent))}
    sizes = (latent, *hidden, channels)
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        steps = (4, 1, 0) if i == 0 else _doubling(kernel)
        layers[f"conv{i}"] = nn.ConvTranspose(
            inputs, outputs, *steps, bias=bias, weight_init=weight_init
        )
        if i < len(hidden):
            _finish(layers, i, outputs, norm, activation)
    layers["output"] = output
    size = 2 ** (len(hidden) + 2)
    return Net(f"generator {latent} to {size}×{size}", (latent,), layers)


def critic(
    image, channels, hidden, *, kernel=4, norm=nn.BatchNorm, norm_from=1, bias=False,
    activation=leaky_relu, weight_init=DCGAN_NORMAL,
):  # fmt: skip
    """A convolution of stride 2 per halving, and one more down to a logit.

    Args:
        image, channels: the images' size and channels.
        hidden: the channels after each halving.
        kernel: 4 (pad 1) or 5 (pad 2) for the halvings. The last convolution covers what is left of
            the image; at 2×2 it is one more of stride 2, as in P4.
        norm: a layer of :mod:`tinygan.nn` before each activation from number ``norm_from`` on, or
            None.
        bias: whether the convolutions have one.
    Shapes: images (N, image, image, channels), logits (N, 1).
    Raises: ValueError for another kernel, or an image too small for so many halvings.
    Source: Radford, Metz & Chintala (2016).
    """
    layers, sizes, left = {}, (channels, *hidden), image
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers[f"conv{i}"] = nn.Conv(
            inputs, outputs, *_halving(kernel), bias=bias, weight_init=weight_init
        )
        _finish(layers, i, outputs, norm if i >= norm_from else None, activation)
        left = (left + (kernel == 5)) // 2
    last = _halving(kernel) if left == 2 else (left, 1, 0)
    layers[f"conv{len(hidden)}"] = nn.Conv(sizes[-1], 1, *last, bias=bias, weight_init=weight_init)
    layers["logit"] = nn.Flatten()
    return Net(f"critic of {image}×{image}", (image, image, channels), layers)


def _finish(layers, i, channels, norm, activation):
    if norm is not None:
        layers[f"norm{i}"] = norm(channels, scale_init=DCGAN_SCALE)
    layers[f"{_name(activation)}{i}"] = activation


def _name(activation):
    return getattr(activation, "__name__", type(activation).__name__)


def _doubling(kernel):
    if kernel == 4:
        return 4, 2, 1
    if kernel == 5:
        return 5, 2, 2, 1
    raise ValueError(f"kernel is {kernel}; expected 4 or 5, which halve and double an image")


def _halving(kernel):
    return _doubling(kernel)[:3]


def _scaled(width, *channels):
    if not 0 < width < math.inf:
        raise ValueError(f"width is {width}; expected a multiplier above 0")
    return tuple(max(1, round(c * width)) for c in channels)


def _constant(filters, hidden):
    return hidden if filters is None else (filters,) * len(hidden)


def dcgan32(
    channels=3, width=1.0, *, kernel=4, norm=nn.BatchNorm, norm_from=1, filters=None,
    generator_filters=None, activations=(relu, leaky_relu),
):  # fmt: skip
    """P4's networks for 32×32: G 100 → 1024×4×4 → 512×8×8 → 256×16×16 → 3×32×32, D 32, 64, 128,
    256, 1; 12,140,032 and 694,656 parameters. No biases.

    Args:
        width: multiplies every hidden number of channels.
        norm: None for none: then the convolutions have biases.
        norm_from: 1 leaves D's first layer without norm; 0 is the printed table.
        filters, generator_filters: the same number of channels in every hidden layer of both, or of
            G, instead of those above.
        activations: of G and D; (tanh, tanh) for P0's variant.
    Shapes: z (N, 100), images (N, 32, 32, channels), logits (N, 1).
    Raises: ValueError for a kernel other than 4 and 5, or a width not above 0.
    Source: P4, Analyzing Stability and Properties of GANs, tables 1 and 2 (DCGAN), 4 and 5 (WGAN).
    """
    g, d = _scaled(width, 1024, 512, 256), _scaled(width, 32, 64, 128, 256)
    g = _constant(filters if generator_filters is None else generator_filters, g)
    return _pair(32, channels, g, _constant(filters, d), kernel, norm, norm_from, activations)


def dcgan64(
    channels=3, width=1.0, *, kernel=4, norm=nn.BatchNorm, norm_from=1, filters=None,
    generator_filters=None, activations=(relu, leaky_relu),
):  # fmt: skip
    """DCGAN's networks for 64×64: G 100 → 1024×4×4 → 512×8×8 → 256×16×16 → 128×32×32 → 3×64×64,
    D its mirror image. Arguments as in :func:`dcgan32`; width ½ is the one in common use.

    Shapes: z (N, 100), images (N, 64, 64, channels), logits (N, 1).
    Raises: ValueError as in :func:`dcgan32`.
    Source: Radford, Metz & Chintala (2016), figure 1, with kernel 5; P0 figure 1.
    """
    g = _scaled(width, 1024, 512, 256, 128)
    d = _constant(filters, g[::-1])
    g = _constant(filters if generator_filters is None else generator_filters, g)
    return _pair(64, channels, g, d, kernel, norm, norm_from, activations)


def _pair(image, channels, g, d, kernel, norm, norm_from, activations):
    bias = norm is None
    return Pair(
        generator(
            100, g, channels, kernel=kernel, norm=norm, bias=bias, activation=activations[0]
        ),
        critic(
            image, channels, d, kernel=kernel, norm=norm, norm_from=norm_from, bias=bias,
            activation=activations[1],
        ),
    )  # fmt: skip


def dcgan28(
    channels=1, width=1.0, *, latent=128, output=sigmoid, generator_filters=None,
    activations=(relu, leaky_relu), weight_init=nn.he_uniform,
):  # fmt: skip
    """DCGAN for 28×28 without batch norm: G fc → 256×4×4 → 128×7×7 → 64×14×14 → 28×28, D back.

    Kernels 5 of stride 2 with pad 2; 4×4 grows to 7×7, the 8×8 of it cropped. 1,554,177 and
    1,030,145 parameters. Both have biases.

    Args:
        width: multiplies the 64, 128 and 256 channels.
        latent: the number of inputs; P0 takes 100.
        output: sigmoid for images in [0, 1], tanh for [−1, 1].
        generator_filters: the same number of channels in every hidden layer of G, instead.
        activations: of G and D; (tanh, tanh) for P0's variant.
    Shapes: z (N, latent), images (N, 28, 28, channels), logits (N, 1).
    Raises: ValueError for a width not above 0.
    Source: Gulrajani et al. (2017), their MNIST networks; P0 prints no sizes.
    """
    up, down = activations
    a, b, c = _constant(generator_filters, _scaled(width, 64, 128, 256))
    g = {
        "project": nn.Linear(latent, 4 * 4 * c, weight_init),
        "reshape": nn.Reshape((4, 4, c)),
        f"{_name(up)}0": up,
        "conv1": nn.ConvTranspose(c, b, 5, 2, 2, 0, weight_init=weight_init),
        f"{_name(up)}1": up,
        "conv2": nn.ConvTranspose(b, a, 5, 2, 2, 1, weight_init=weight_init),
        f"{_name(up)}2": up,
        "conv3": nn.ConvTranspose(a, channels, 5, 2, 2, 1, weight_init=weight_init),
        "output": output,
    }
    a, b, c = _scaled(width, 64, 128, 256)
    d = {
        "conv0": nn.Conv(channels, a, 5, 2, 2, weight_init=weight_init),
        f"{_name(down)}0": down,
        "conv1": nn.Conv(a, b, 5, 2, 2, weight_init=weight_init),
        f"{_name(down)}1": down,
        "conv2": nn.Conv(b, c, 5, 2, 2, weight_init=weight_init),
        f"{_name(down)}2": down,
        "row": nn.Flatten(),
        "logit": nn.Linear(4 * 4 * c, 1, weight_init),
    }
    return Pair(
        Net(f"generator {latent} to 28×28", (latent,), g),
        Net("critic of 28×28", (28, 28, channels), d),
    )
