"""From settings to a game: what each system takes, and how its parts are put together.

A system is a function of the data and of settings by name. What it takes are its settings: one that
belongs to another system is an error before any work.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from common import ACTIVATIONS, INITS, LOSSES, NORMS, PENALTIES, PRIORS, one_prior

import tinygan as tg
from tinygan import algorithms, data, losses, models, nn, optim, penalties, spectral, systems
from tinygan.models import Net, Pair
from tinygan.train import GAN, Alternating

PRIORS = {**PRIORS, "one": one_prior}

# Data


class Data(NamedTuple):
    """What is learned: samples of a shape, from a set of the plane or from scaled images."""

    sample: Callable
    shape: tuple
    plane: Any = None
    images: Any = None
    scaling: Any = None


PLANE = {  # a function of the scale, and the scale that is taken without one
    "8gaussians": (data.eight_gaussians, 2.0),
    "25gaussians": (data.twenty_five_gaussians, 1.0),
    "swissroll": (data.SwissRoll, 1.0),
    "ring": (lambda scale: data.ring(radius=scale, deviation=0.01 * scale), 1.0),
    "grid": (lambda scale: data.grid(spacing=2.0 * scale, deviation=0.05 * scale), 1.0),
}
POINTS = ("point", "vector")  # of one sample, for the games that theory solves
SCALINGS = {"signed": data.SIGNED, "unit": data.UNIT, "normalised": data.MNIST_NORMALISED}


def open_data(name, *, scale=None, size=28, channels=1, scaling="signed", labels=False, key=0):
    """Data by its name: a set of the plane, a single point, "digits", or a path to images."""
    if name in PLANE:
        make, usual = PLANE[name]
        plane = make(usual if scale is None else scale)
        return Data(plane.sample, (2,), plane=plane)
    if name == "point":  # at zero, for the Dirac-GAN
        return Data(lambda n, stream: tg.to_device(np.zeros((n, 1)), stream.device), (1,))
    if name == "vector":  # a single point of the plane, for the linear game
        point = np.array([1.0, 0.5])
        return Data(lambda n, stream: tg.to_device(np.tile(point, (n, 1)), stream.device), (2,))
    images = open_bytes(name, size)
    if images.shape[2] < channels:
        images = images.repeated(channels)
    if max(images.shape[:2]) < size:
        images = images.padded(size)
    if images.shape != (size, size, channels):
        raise ValueError(
            f"--data {name} has images of {images.shape}; this system expects "
            f"({size}, {size}, {channels}). Take another --system, or other images"
        )
    if labels and images.labels is None:
        raise ValueError(
            f"--data {name} has no labels, which this system needs; expected MNIST's or "
            "CIFAR-10's files, or 'digits'"
        )
    if labels:
        check_classes(name, images.labels)
    shuffled = data.Shuffled(images, SCALINGS[scaling], key)
    sample = shuffled.sample_with_labels if labels else shuffled.sample
    return Data(sample, images.shape, images=images, scaling=SCALINGS[scaling])


def open_bytes(name, size):
    """Images of bytes: whoever has floats would have to say their range, for which no option is."""
    try:
        return data.open_images(name, size=size)
    except ValueError as error:
        given, floats, _ = str(error).partition(" and scaling None")
        if not floats:
            raise
        raise ValueError(
            f"--data {given}; expected bytes, uint8 from 0 to 255. Of floats x from 0 to 1 save "
            "numpy.rint(255 * x).astype(numpy.uint8)"
        ) from error


def check_classes(name, labels):
    """Labels must be 0, 1, … without a gap: there is an output for each class."""
    found = np.unique(labels)
    if len(found) < 2:
        raise ValueError(
            f"--data {name} has one class, {found[0]}, in all its labels; expected two or more. "
            "Take a --system without classes, or other images"
        )
    if found[0] != 0 or found[-1] != len(found) - 1:
        raise ValueError(
            f"--data {name} has labels from {found[0]} to {found[-1]} for {len(found)} classes; "
            f"expected 0 to {len(found) - 1}, each at least once. Number the classes anew"
        )


# Networks


def rows(sizes, hidden_norm, activation, init, **more):
    """A perceptron of named layers, between which norms and noise can stand."""
    weight_init, bias_init = INITS[init]
    return models.perceptron(
        sizes, activation=ACTIVATIONS[activation], norm=NORMS[hidden_norm],
        weight_init=weight_init, bias_init=bias_init, **more,
    )  # fmt: skip


def toy(what, *, latent, hidden, depth, activation, init, norm, critic_norm, pieces, **_):
    """Perceptrons for the plane."""
    weight_init, bias_init = INITS[init]
    (dimension,) = what.shape
    critic_norm = critic_norm or norm
    if norm == critic_norm == "none" and pieces is None:
        return models.mlp_pair(
            dimension, latent, hidden, depth, activation=ACTIVATIONS[activation],
            weight_init=weight_init, bias_init=bias_init,
        )  # fmt: skip
    middle = (hidden,) * depth
    return Pair(
        rows((latent, *middle, dimension), norm, activation, init, title="generator"),
        rows((dimension, *middle, 1), critic_norm, activation, init, pieces=pieces, title="critic"),
    )


def image_rows(what, *, latent, hidden, depth, activation, init, **_):
    """Perceptrons for images, P3's for MNIST: the generator ends without a function."""
    weight_init, bias_init = INITS[init]
    same = dict(
        hidden=hidden, depth=depth, activation=ACTIVATIONS[activation],
        weight_init=weight_init, bias_init=bias_init,
    )  # fmt: skip
    output = tg.ops.tanh if what.scaling is data.SIGNED else None
    return Pair(
        models.image_perceptron(latent, what.shape, output=output, **same),
        models.row_perceptron(what.shape, **same),
    )


def convolutions(what, *, latent, width, activation, norm, critic_norm, filters, generator, **_):
    """The DCGAN of the images' size; its generator may be a perceptron of four layers of 512."""
    size, channels = what.shape[0], what.shape[2]
    if activation == "leaky-relu":
        raise ValueError(
            "--activation leaky-relu with convolutions; expected relu, which is leaky in the "
            "critic, or tanh, in both networks"
        )
    both = (tg.ops.tanh, tg.ops.tanh) if activation == "tanh" else (tg.ops.relu, tg.ops.leaky_relu)
    if size == 28:
        for option, choice in {"--norm": norm, "--critic-norm": critic_norm}.items():
            if choice not in ("none", None):
                raise ValueError(
                    f"{option} {choice} with images of 28×28, whose networks have no norms; "
                    f"expected {option} none, or a --system with images of 32×32, as p4-dcgan"
                )
        pair = models.dcgan28(
            channels, width, latent=latent, output=tg.ops.tanh, generator_filters=filters,
            activations=both,
        )  # fmt: skip
    else:
        if generator is None and latent != 100:
            raise ValueError(
                f"--latent {latent} with images of {size}×{size}, whose generator has 100 inputs; "
                "expected --latent 100, or --generator perceptron"
            )
        make = {32: models.dcgan32, 64: models.dcgan64}[size]
        same = dict(channels=channels, width=width, generator_filters=filters, activations=both)
        pair = Pair(
            make(norm=NORMS[norm], **same).generator,
            make(norm=NORMS[critic_norm or norm], **same).critic,
        )
    if generator == "perceptron":
        # PyTorch's default weights; with He's the tanh would start at its ends, as noise.
        pair = pair._replace(
            generator=models.image_perceptron(
                latent, what.shape, hidden=max(1, round(512 * width)),
                weight_init=nn.fan_in_uniform, bias_init=nn.fan_in_uniform,
            )
        )  # fmt: skip
    return pair


def dirac(what, **_):
    """A point against a slope."""
    return Pair(models.DiracGenerator(1.0), models.DiracCritic(-1.0))


def linear(what, **_):
    """A linear map against a linear form."""
    return Pair(models.LinearGenerator(1, 2), models.LinearCritic(2))


MODELS = {
    "toy": toy, "image-rows": image_rows, "dcgan": convolutions, "dirac": dirac, "linear": linear,
}  # fmt: skip


def with_noise(net, first, inside):
    """A network with normal noise on its input, and after each hidden activation."""
    if not first and not inside:
        return net
    net = as_net(net)
    layers = {"instance_noise": nn.Noise(first)} if first else {}
    last = len(net.layers) - 1
    for i, (name, layer) in enumerate(net.layers.items()):
        layers[name] = layer
        if inside and i < last and inspect.isfunction(layer):
            layers[f"{name}_noise"] = nn.Noise(inside)
    return Net(net.title, net.input, layers)


def as_net(model):
    """An MLP as a network of named layers; networks as they are."""
    if not isinstance(model, models.MLP):
        return model
    first = model.layers[0]
    return models.perceptron(
        model.sizes, activation=model.activation, output=model.output,
        weight_init=first.weight_init, bias_init=first.bias_init,
    )  # fmt: skip


# The game of two


def optimiser(name, rate, betas):
    """One side's optimiser."""
    if name == "adam":
        return optim.Adam(rate, tuple(betas))
    return {"sgd": optim.SGD, "rmsprop": optim.RMSProp}[name](rate)


def two_players(
    what, *, model="toy", latent=2, hidden=128, depth=3, width=1.0, activation="relu",
    init="he-uniform", norm="none", critic_norm=None, filters=None, generator=None, pieces=None,
    spectral_norm=False, instance_noise=0.0, layer_noise=0.0, loss="non-saturating",
    penalty="none", weight=10.0, penalise="logit", label_smoothing=0.0, average=False, clip=None,
    clip_everything=False, optimizer="adam", lr_g=1e-3, lr_d=1e-3, betas=(0.5, 0.9), ema=None,
):  # fmt: skip
    """The game of a generator and a critic that these settings describe."""
    pair = MODELS[model](
        what, latent=latent, hidden=hidden, depth=depth, width=width, activation=activation,
        init=init, norm=norm, critic_norm=critic_norm, filters=filters, generator=generator,
        pieces=pieces,
    )  # fmt: skip
    critic = with_noise(pair.critic, instance_noise, layer_noise)
    if spectral_norm and pieces is not None:
        raise ValueError(
            f"--pieces {pieces} with --spectral-norm, which is not made for maxout's several "
            "matrices. Take one of them"
        )
    if spectral_norm:
        if clip is not None:
            raise ValueError(
                "--clip with --spectral-norm: both bound the critic's slope, and clipping would "
                "spoil the singular vectors. Take one of them"
            )
        critic = spectral.spectral_norm(as_net(critic))
    pair = Pair(with_noise(pair.generator, 0.0, layer_noise), critic)
    if penalty != "none" and getattr(critic, "mixes_samples", False):
        raise ValueError(
            f"--penalty {penalty} with batch norm in the critic: a sample's slope would hold "
            "other samples' slopes. Use --critic-norm layer or none, or --penalty none"
        )
    objectives = LOSSES[loss]
    if label_smoothing:
        if loss not in ("minimax", "non-saturating"):
            raise ValueError(
                f"--label-smoothing with --loss {loss}, which has no labels; expected minimax or "
                "non-saturating"
            )
        objectives = losses.label_smoothed(1 - label_smoothing, 0.0, objectives.generator)
    if what.images is not None:
        what.scaling.check_reach(*getattr(pair.generator, "reach", (None, None)))
    of = tg.ops.sigmoid if penalise == "probability" else None
    if penalty == "two-term":
        held = penalties.TwoTermPenalty(weight, weight, of)
    else:
        held = PENALTIES[penalty](weight, of) if penalty != "none" else None
    return GAN(
        *pair, optimiser(optimizer, lr_g, betas), optimiser(optimizer, lr_d, betas), objectives,
        penalty=held, clip=clip, average=average, clip_everything=clip_everything, ema=ema,
    )  # fmt: skip


def alternating(
    what, *, batch=128, prior="normal", critic_steps=1, generator_steps=1, same_batch=False,
    generator_first=False, anneal=False, steps=None, **settings,
):  # fmt: skip
    """Steps in turns. ``anneal`` lets the noise of layers fall to 0 over the run."""
    gan = two_players(what, **settings)
    if anneal and not (settings.get("instance_noise") or settings.get("layer_noise")):
        raise ValueError(
            "--anneal lets noise fall to 0; expected --instance-noise or --layer-noise"
        )
    return Alternating(
        gan, batch, gan.generator.input[0], critic_steps, generator_steps, PRIORS[prior],
        same_batch, generator_first, optim.LinearDecay(1.0, 0.0, steps) if anneal else None,
    )  # fmt: skip


def simultaneous(what, *, batch=128, prior="normal", **settings):
    """Both sides at once."""
    return algorithms.Simultaneous(two_players(what, **settings), batch, PRIORS[prior])


def consensus(what, *, batch=128, prior="normal", regulariser=0.1, **settings):
    """Both sides at once, each also towards where both rest."""
    return algorithms.Consensus(two_players(what, **settings), batch, regulariser, PRIORS[prior])


def nagarajan_kolter(what, *, batch=128, prior="normal", regulariser=0.1, **settings):
    """Both sides at once, the generator also towards where the critic rests."""
    gan = two_players(what, **settings)
    return algorithms.NagarajanKolter(gan, batch, regulariser, PRIORS[prior])


def unrolled(what, *, batch=128, prior="normal", unroll=5, zero_sum=False, **settings):
    """The generator against the critic that will be."""
    if settings.get("optimizer") == "rmsprop":
        raise ValueError(
            "--optimizer rmsprop with --unroll, which differentiates the critic's steps; expected "
            "adam or sgd"
        )
    gan = two_players(what, **settings)
    return algorithms.Unrolled(gan, batch, unroll, zero_sum=zero_sum, prior=PRIORS[prior])


# Games of their own


def ac_gan(
    what, *, width=1.0, variant=False, saturating=False, average=False, batch=100, lr_g=2e-4,
    lr_d=2e-4, betas=(0.5, 0.999),
):  # fmt: skip
    """P4's networks; as many classes as there are labels."""
    classes = int(what.images.labels.max()) + 1
    pair = models.ac_gan(what.shape[2], width, variant, classes=classes)
    return systems.ACGAN(
        *pair, optim.Adam(lr_g, tuple(betas)), optim.Adam(lr_d, tuple(betas)), classes, batch,
        average, saturating,
    )  # fmt: skip


def rows_for(what, latent, hidden, outputs=1):
    """Generator and critic of the systems whose papers leave them open: perceptrons, ours.

    Batch norm in the generator: without it EBGAN and BEGAN end in one image.
    """
    same = dict(hidden=hidden, depth=2)
    return Pair(
        models.image_perceptron(latent, what.shape, norm=nn.BatchNorm, **same),
        models.row_perceptron(what.shape, outputs, activation=tg.ops.leaky_relu, **same),
    )


def infogan(
    what, *, width=0.5, latent=62, continuous=2, batch=128, lr_g=1e-3, lr_d=2e-4,
    betas=(0.5, 0.999),
):  # fmt: skip
    """Ten categories and some continuous codes; the convolutions of DCGAN-28, without norms."""
    pair = models.dcgan28(what.shape[2], width, latent=latent + 10 + continuous, output=tg.ops.tanh)
    layers = dict(pair.critic.layers)
    layers["logit"] = replace(layers["logit"], outputs=1 + 10 + 2 * continuous)
    return systems.InfoGAN(
        pair.generator, Net("critic and codes of 28×28", what.shape, layers),
        optim.Adam(lr_g, tuple(betas)), optim.Adam(lr_d, tuple(betas)), (10,), continuous,
        batch=batch,
    )  # fmt: skip


def regularized(
    what, *, hidden=256, latent=32, distance_weight=5.0, mode_weight=0.4, batch=32, lr_g=1e-3,
    lr_d=2e-4, betas=(0.5, 0.9),
):  # fmt: skip
    """With an encoder, whose rate is the generator's."""
    pair = rows_for(what, latent, hidden)
    encoder = rows_for(what, latent, hidden, outputs=latent).critic
    g, d = optim.Adam(lr_g, tuple(betas)), optim.Adam(lr_d, tuple(betas))
    return systems.Regularized(*pair, encoder, g, d, g, distance_weight, mode_weight, batch=batch)


def mdgan(
    what, *, hidden=256, latent=32, mode_weight=0.01, batch=32, lr_g=5e-4, lr_d=2e-4,
    betas=(0.5, 0.9),
):  # fmt: skip
    """With an encoder and two critics, one for each step."""
    pair = rows_for(what, latent, hidden)
    encoder = rows_for(what, latent, hidden, outputs=latent).critic
    g, d = optim.Adam(lr_g, tuple(betas)), optim.Adam(lr_d, tuple(betas))
    return systems.MDGAN(
        pair.generator, encoder, pair.critic, pair.critic, g, g, d, d, mode_weight, batch=batch
    )


def ebgan(
    what, *, hidden=256, latent=32, code=32, margin=0.3, pulling_weight=0.1, batch=32, lr_g=1e-3,
    lr_d=1e-3, betas=(0.5, 0.9),
):  # fmt: skip
    """An auto-encoder's error as energy, and the pulling-away term."""
    if batch < 2:
        raise ValueError(
            f"--batch {batch} with the pulling-away term, which compares the codes of a batch; "
            "expected --batch 2 or more"
        )
    generator = rows_for(what, latent, hidden).generator
    critic = models.mlp_autoencoder(what.shape, (hidden,), code, output=tg.ops.tanh)
    return systems.EBGAN(
        generator, critic, optim.Adam(lr_g, tuple(betas)), optim.Adam(lr_d, tuple(betas)), margin,
        pulling_weight, batch,
    )  # fmt: skip


def began(
    what, *, hidden=256, latent=32, code=16, gamma=0.5, balance_rate=0.001, batch=32, lr_g=1e-3,
    lr_d=1e-3, betas=(0.5, 0.9),
):  # fmt: skip
    """An auto-encoder's errors, kept in a ratio."""
    generator = rows_for(what, latent, hidden).generator
    critic = models.mlp_autoencoder(what.shape, (hidden,), code, output=tg.ops.tanh)
    return systems.BEGAN(
        generator, critic, optim.Adam(lr_g, tuple(betas)), optim.Adam(lr_d, tuple(betas)), gamma,
        balance_rate, batch,
    )  # fmt: skip


SYSTEMS = {
    "alternating": alternating,
    "simultaneous": simultaneous,
    "consensus": consensus,
    "nagarajan-kolter": nagarajan_kolter,
    "unrolled": unrolled,
    "ac-gan": ac_gan,
    "infogan": infogan,
    "regularized": regularized,
    "mdgan": mdgan,
    "ebgan": ebgan,
    "began": began,
}
OF_THE_PAIR = {"alternating", "simultaneous", "consensus", "nagarajan-kolter", "unrolled"}
DATA = {"scale": None, "size": 28, "channels": 1, "scaling": "signed", "labels": False}


def settings_of(kind):
    """What a system takes, and its values where nothing else is said."""
    functions = [SYSTEMS[kind], *([two_players] if kind in OF_THE_PAIR else [])]
    return {
        name: parameter.default
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "steps"
    }


def options_of(kind, settings):
    """The settings that change something in a game: not those of networks that it does not have.

    Args:
        settings: of the game; "model" says which networks there are.
    """
    idle = {"model"}
    if kind in OF_THE_PAIR:
        read = {name: set(inspect.signature(make).parameters) for name, make in MODELS.items()}
        model = settings.get("model", "toy")
        idle |= set.union(*read.values()) - read[model]
        if model in ("dirac", "linear"):
            idle |= {"spectral_norm", "instance_noise", "layer_noise", "anneal"}
        if model == "dirac":  # its samples are all the same, whatever the latent points are
            idle |= {"batch", "prior", "same_batch"}
        if kind != "alternating":
            idle |= {"instance_noise", "layer_noise"}
    return [name for name in settings_of(kind) if name not in idle]


def build(kind, what, settings, steps):
    """The game of a system; ``steps`` are those of the whole run, for what is scheduled."""
    if kind == "alternating":
        settings = {**settings, "steps": steps}
    game = SYSTEMS[kind](what, **settings)
    sides = getattr(game, "gan", game)
    if game.batch < 2 and any(
        getattr(getattr(sides, side, None), "mixes_samples", False)
        for side in ("generator", "critic")
    ):
        raise ValueError(
            f"--batch {game.batch} with batch norm, which compares the samples of a batch; "
            "expected --batch 2 or more"
        )
    return game
