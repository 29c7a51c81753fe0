"""Multilayer perceptrons of named layers: with norms, noise and maxout, for rows and for images.

:class:`tinygan.models.MLP` is the plain one. These are :class:`tinygan.models.Net`, so that any
layer of :mod:`tinygan.nn` can stand between the linear ones.
"""

import math

from tinygan import nn
from tinygan.models.net import Net
from tinygan.ops import relu, tanh


def perceptron(
    sizes, *, activation=relu, output=None, norm=None, noise=None, input_noise=None, pieces=None,
    weight_init=nn.he_uniform, bias_init=nn.zeros, title="perceptron",
):  # fmt: skip
    """Linear layers with an activation, and what else is wanted, between them.

    y = Lₙ(f(… f(L₁(x)))), f = noise ∘ activation ∘ norm

    Args:
        sizes: the widths, inputs first: (2, 512, 512, 1) has two hidden layers.
        activation: a function of Tensors, after each hidden layer.
        output: a function of Tensors at the end, or None for a linear output.
        norm: a layer of :mod:`tinygan.nn` between each hidden layer and its activation, called with
            the width; or None.
        noise: a layer after each activation, ``nn.Dropout(0.5)`` or ``nn.Noise(0.3)``; or None.
        input_noise: the same before the first layer.
        pieces: a number makes the hidden layers :class:`tinygan.nn.Maxout` of so many pieces, which
            takes the activation's place.
        weight_init, bias_init: initialisers of :mod:`tinygan.nn`.
        title: what ``print`` calls it.
    Shapes: x (N, sizes[0]), y (N, sizes[-1]).
    Raises: ValueError for fewer than two sizes, or sizes below 1.
    Source: Goodfellow et al. (2014), whose discriminators have maxout and dropout.
    """
    if len(sizes) < 2:
        raise ValueError(f"{title}: sizes {sizes}; expected inputs, hidden widths, outputs")
    layers = {} if input_noise is None else {"input_noise": input_noise}
    *hidden, last = zip(sizes[:-1], sizes[1:], strict=True)
    for i, (inputs, outputs) in enumerate(hidden):
        if pieces is None:
            layers[f"linear{i}"] = nn.Linear(inputs, outputs, weight_init, bias_init)
        else:
            layers[f"maxout{i}"] = nn.Maxout(inputs, outputs, pieces, weight_init, bias_init)
        if norm is not None:
            layers[f"norm{i}"] = norm(outputs)
        if pieces is None:
            name = getattr(activation, "__name__", type(activation).__name__)
            layers[f"{name}{i}"] = activation
        if noise is not None:
            layers[f"noise{i}"] = noise
    layers[f"linear{len(hidden)}"] = nn.Linear(*last, weight_init, bias_init)
    if output is not None:
        layers["output"] = output
    return Net(title, sizes[:1], layers)


def image_perceptron(latent, image, hidden=512, depth=4, *, output=tanh, **choices):
    """A generator of images without convolutions: a perceptron whose row is cut into an image.

    y = output(reshape(perceptron(z)))

    Args:
        latent: the number of inputs.
        image: the shape of one, (32, 32, 3).
        hidden, depth: the width and number of hidden layers. Four and tanh are in the improved
            WGAN's code; the first WGAN's has three, and no last function.
        output: the last function: tanh for images in [−1, 1], sigmoid for [0, 1], None for any.
        choices: those of :func:`perceptron`.
    Shapes: z (N, latent), images (N, *image).
    Raises: ValueError as in :func:`perceptron`.
    Source: Arjovsky et al. (2017), section 4.3; Gulrajani et al. (2017); P0's future work; P2.
    """
    rows = perceptron((latent, *(hidden,) * depth, math.prod(image)), **choices)
    title = f"perceptron {latent} to {'×'.join(map(str, image))}"
    layers = {**rows.layers, "image": nn.Reshape(tuple(image))}
    if output is not None:
        layers["output"] = output
    return Net(title, rows.input, layers)


def row_perceptron(image, outputs=1, hidden=512, depth=3, **choices):
    """A critic or an encoder of images without convolutions: a perceptron of their values in a row.

    y = perceptron(flatten(x))

    Args:
        image: the shape of one, (28, 28, 1).
        outputs: 1 for a logit; a code's length for an encoder.
        hidden, depth: the width and number of hidden layers.
        choices: those of :func:`perceptron`.
    Shapes: images (N, *image), y (N, outputs).
    Raises: ValueError as in :func:`perceptron`.
    """
    rows = perceptron((math.prod(image), *(hidden,) * depth, outputs), **choices)
    title = f"perceptron {'×'.join(map(str, image))} to {outputs}"
    return Net(title, image, {"row": nn.Flatten(), **rows.layers})
