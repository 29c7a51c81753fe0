"""AC-GAN: a generator that is told a class, and a critic that names it.

The generator's input is noise and a one-hot label, end to end. Of the critic's outputs the first
is the logit of being real, the others are the logits of the classes.
"""

import math

from tinygan import nn
from tinygan.models.dcgan import DCGAN_NORMAL, DCGAN_SCALE
from tinygan.models.mlp import Pair
from tinygan.models.net import Net
from tinygan.ops import leaky_relu, relu, tanh


def ac_gan(channels=3, width=1.0, variant=False, *, classes=10, latent=100, dropout=0.5):
    """P4's AC-GAN for 32×32: G 110 → 384×4×4 → 192×8×8 → 96×16×16 → 3×32×32, D 16, 32, 64, 128,
    256, 512, 11; 2,993,760 and 1,663,867 parameters.

    G grows images with kernels 5 of stride 2, pad 2 and output padding 1. D has kernels 3, strides
    2, 1, 2, 1, 2, 1, batch norm from the second layer on, and dropout after every activation. Its
    last layer is linear, of 4·4·512 values. Convolutions have no biases, linear layers do, and no
    norm follows G's.

    Args:
        channels: those of the images.
        width: multiplies every hidden number of channels.
        variant: G as its table's words can be read too: 110 → 384×1×1, then kernels 4:
            192×4×4, 96×8×8, 48×16×16, 3×32×32; 1,593,888 parameters.
        classes: how many.
        latent: the numbers of noise that come before the label.
        dropout: the rate.
    Shapes: (z, one-hot label) (N, latent + classes), images (N, 32, 32, channels), critic's
        outputs (N, 1 + classes).
    Raises: ValueError for a width not above 0, sizes below 1, or a rate outside [0, 1).
    Source: Odena, Olah & Shlens (2017); P4 tables 7, 8 and 9.
    """
    if not 0 < width < math.inf:
        raise ValueError(f"ac_gan: width is {width}; expected a multiplier above 0")
    if classes < 1 or latent < 1:
        raise ValueError(f"ac_gan: classes {classes}, latent {latent}; expected at least 1 of each")
    inputs = latent + classes
    build = _with_kernels_4 if variant else _with_kernels_5
    g = build(inputs, channels, lambda c: max(1, round(c * width)))
    d = _critic(channels, classes, lambda c: max(1, round(c * width)), dropout)
    return Pair(
        Net(f"generator {inputs} to 32×32", (inputs,), g),
        Net(f"critic of 32×32 in {classes} classes", (32, 32, channels), d),
    )


def _critic(channels, classes, scaled, dropout):
    layers, inputs = {}, channels
    for i, c in enumerate((16, 32, 64, 128, 256, 512)):
        stride = 2 if i % 2 == 0 else 1
        layers[f"conv{i}"] = nn.Conv(
            inputs, scaled(c), 3, stride, 1, bias=False, weight_init=DCGAN_NORMAL
        )
        if i > 0:
            layers[f"norm{i}"] = nn.BatchNorm(scaled(c), scale_init=DCGAN_SCALE)
        layers[f"leaky_relu{i}"] = leaky_relu
        layers[f"dropout{i}"] = nn.Dropout(dropout)
        inputs = scaled(c)
    layers["row"] = nn.Flatten()
    layers["logits"] = nn.Linear(4 * 4 * inputs, 1 + classes, DCGAN_NORMAL)
    return layers


def _with_kernels_5(inputs, channels, scaled):
    a, b, c = scaled(384), scaled(192), scaled(96)
    return {
        "project": nn.Linear(inputs, 4 * 4 * a, DCGAN_NORMAL),
        "image": nn.Reshape((4, 4, a)),
        "relu0": relu,
        **_up(1, a, b, 5, 2, 2, 1),
        **_up(2, b, c, 5, 2, 2, 1),
        **_out(3, c, channels, 5, 2, 2, 1),
    }


def _with_kernels_4(inputs, channels, scaled):
    a, b, c, d = scaled(384), scaled(192), scaled(96), scaled(48)
    return {
        "project": nn.Linear(inputs, a, DCGAN_NORMAL),
        "image": nn.Reshape((1, 1, a)),
        "relu0": relu,
        **_up(1, a, b, 4, 1, 0),
        **_up(2, b, c, 4, 2, 1),
        **_up(3, c, d, 4, 2, 1),
        **_out(4, d, channels, 4, 2, 1),
    }


def _up(i, inputs, outputs, *steps):
    return {
        f"conv{i}": _grow(inputs, outputs, *steps),
        f"norm{i}": nn.BatchNorm(outputs, scale_init=DCGAN_SCALE),
        f"relu{i}": relu,
    }


def _out(i, inputs, channels, *steps):
    return {f"conv{i}": _grow(inputs, channels, *steps), "output": tanh}


def _grow(inputs, outputs, *steps):
    return nn.ConvTranspose(inputs, outputs, *steps, bias=False, weight_init=DCGAN_NORMAL)
