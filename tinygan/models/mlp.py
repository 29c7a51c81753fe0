"""The multilayer perceptron, and the pairs of them that the papers train."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tinygan import nn
from tinygan.ops import relu, tanh


@dataclass(frozen=True)
class MLP:
    """Linear layers with an activation between them.

    y = Lₙ(f(… f(L₁(x))))

    Args:
        sizes: the widths, inputs first: (2, 512, 512, 1) has two hidden layers.
        activation: a function of Tensors, between the layers.
        output: a function of Tensors at the end, or None for a linear output.
        weight_init, bias_init: initialisers of :mod:`tinygan.nn`.
    Shapes: x (N, sizes[0]), y (N, sizes[-1]).
    """

    sizes: tuple
    activation: Callable = relu
    output: Callable | None = None
    weight_init: Callable = nn.he_uniform
    bias_init: Callable = nn.zeros
    layers: tuple = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        if len(self.sizes) < 2:
            raise ValueError(f"MLP: sizes {self.sizes}; expected inputs, hidden widths, outputs")
        layers = tuple(
            nn.Linear(inputs, outputs, self.weight_init, self.bias_init)
            for inputs, outputs in zip(self.sizes[:-1], self.sizes[1:], strict=True)
        )
        object.__setattr__(self, "layers", layers)  # a frozen dataclass's own way to set a field

    @property
    def input(self):
        """The shape of one sample."""
        return self.sizes[:1]

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``: a list of {"weight", "bias"}, first layer first."""
        return [layer.init(stream, dtype) for layer in self.layers]

    def __call__(self, params, x):
        if len(params) != len(self.layers):
            raise ValueError(f"MLP: {len(params)} layers of parameters for sizes {self.sizes}")
        if x.ndim != 2 or x.shape[1] != self.sizes[0]:
            raise ValueError(
                f"MLP: input of shape {x.shape}; expected (N, {self.sizes[0]}) for sizes "
                f"{self.sizes}"
            )
        for i, layer in enumerate(self.layers):
            x = layer(params[i], self.activation(x) if i else x)
        return x if self.output is None else self.output(x)

    def __str__(self):
        name = getattr(self.activation, "__name__", repr(self.activation))
        rows, total = [], 0
        for i, layer in enumerate(self.layers):
            count = (layer.inputs + 1) * layer.outputs
            rows.append(f"  {i}  {layer.inputs:>5} -> {layer.outputs:<5} {count:>9}")
            total += count
        return "\n".join([f"MLP, {name}, {total} parameters", *rows])

    def _repr_html_(self):
        from tinygan import html  # for notebooks alone

        rows, total = [("", "input", self.sizes[0], "")], 0
        after = [self.activation] * (len(self.layers) - 1) + [self.output]
        for i, (layer, f) in enumerate(zip(self.layers, after, strict=True)):
            what = "Linear" if f is None else f"Linear, {getattr(f, '__name__', repr(f))}"
            count = (layer.inputs + 1) * layer.outputs
            rows.append((i, what, layer.outputs, f"{count:,}"))
            total += count
        rows.append(("", "total", "", f"{total:,}"))
        return html.table(rows, ("", "layer", "output", "parameters"), "MLP", "llrr")


class Pair(NamedTuple):
    """A generator, from latent points to data, and a critic, from data to one logit."""

    generator: Any
    critic: Any

    @property
    def latent(self):
        """The generator's number of inputs."""
        return self.generator.input[0]

    def _repr_html_(self):
        from tinygan import html  # for notebooks alone

        shown = {"Generator": self.generator, "Critic": self.critic}
        return "\n".join(html.titled(title, model) for title, model in shown.items())


def mlp_pair(
    data, latent, hidden, depth, *, activation=relu, weight_init=nn.he_uniform, bias_init=nn.zeros
):
    """A generator and a critic with ``depth`` hidden layers of ``hidden`` units each."""
    if depth < 0:
        raise ValueError(f"mlp_pair: depth is {depth}; expected 0 or more hidden layers")
    middle = (hidden,) * depth
    return Pair(
        MLP((latent, *middle, data), activation, None, weight_init, bias_init),
        MLP((data, *middle, 1), activation, None, weight_init, bias_init),
    )


def zero_gp_toy(hidden=512, depth=3):
    """P3's toy networks: z and data 2-dimensional, three hidden ReLU layers, PyTorch's default
    weights. Presets: hidden 64 and 512.

    Source: Improving Generalization and Stability of GANs (ICLR 2019), section 4.2; its text says
    two hidden layers, its code has three.
    """
    return mlp_pair(2, 2, hidden, depth, weight_init=nn.fan_in_uniform, bias_init=nn.fan_in_uniform)


def zero_gp_value_surface():
    """The discriminator of P3's Figure 1: 2 → 64 tanh → 64 tanh → 1, PyTorch's default weights."""
    return MLP((2, 64, 64, 1), tanh, None, nn.fan_in_uniform, nn.fan_in_uniform)


def wgan_gp_toy():
    """WGAN-GP's toy networks: three hidden ReLU layers of 512, He-uniform weights.

    Source: Gulrajani et al. (2017), their public toy code.
    """
    return mlp_pair(2, 2, 512, 3)


def zero_gp_mnist():
    """P3's networks for MNIST: G 50 → 512³ → 784 with a linear output, D 784 → 512³ → 1.

    Source: P3, section 4.2; data normalised by mean .1307 and deviation .3081.
    """
    return mlp_pair(784, 50, 512, 3, weight_init=nn.fan_in_uniform, bias_init=nn.fan_in_uniform)


def unrolled_ring():
    """The networks of P2's ring: z of 256, two hidden tanh layers of 128, orthogonal with gain 1.4.

    Source: the demonstration of Metz et al., Unrolled GANs (2017).
    """
    return mlp_pair(2, 256, 128, 2, activation=tanh, weight_init=nn.Orthogonal(1.4))
