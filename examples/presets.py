"""Every system that the papers name, with their settings: what ``train.py --list`` prints.

The settings are the source's, where it has any for such a system; "ours" says what it leaves open.
``short`` changes them into a run of seconds or of a few minutes on two cores, which docs/systems.md
shows.
"""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """A system by name.

    Args:
        about: what it is, in a line.
        source: where its equations and settings are from.
        kind: a key of ``games.SYSTEMS``.
        data: a name or a path, as ``games.open_data`` takes it.
        steps: iterations.
        settings: what differs from the system's defaults.
        opened: how the data are opened: scale, size, channels, scaling, labels.
        short: what a short run changes: settings, and "steps".
    """

    about: str
    source: str
    kind: str
    data: str
    steps: int
    settings: dict
    opened: dict = {}
    short: dict = {}
    decay: bool = False


PLANE = dict(hidden=128, depth=3, batch=128, lr_g=1e-3, lr_d=2e-3)
"""Ours, for games on eight Gaussians whose source has no toy; the rest is in games.py."""

P3 = dict(
    hidden=512, depth=3, init="fan-in", optimizer="sgd", lr_g=3e-3, lr_d=3e-3, batch=128,
    penalise="probability", weight=10.0,
)  # fmt: skip
P3_SHORT = {"hidden": 128}
POINT = dict(model="dirac", latent=1, optimizer="sgd", lr_g=0.2, lr_d=0.2, batch=1, loss="minimax")
DIGITS32 = {"size": 32, "channels": 3}
P4_SHORT = {"width": 0.25, "steps": 1000}
P4 = dict(
    model="dcgan", latent=100, norm="batch", average=True, batch=128, lr_g=2e-4, lr_d=2e-4,
    betas=(0.5, 0.999),
)  # fmt: skip
WGAN = dict(
    loss="wasserstein", clip=0.01, optimizer="rmsprop", lr_g=5e-5, lr_d=5e-5, batch=64,
    critic_steps=5,
)  # fmt: skip
P0 = dict(
    model="dcgan", latent=100, prior="uniform", penalty="1-gp", batch=64, lr_g=2e-4, lr_d=2e-4,
    betas=(0.5, 0.999),
)  # fmt: skip
RING = dict(
    latent=256, hidden=128, depth=2, activation="tanh", init="orthogonal", batch=512,
    loss="minimax", lr_g=1e-3, lr_d=1e-4, betas=(0.5, 0.999),
)  # fmt: skip
P0_SHORT = {"width": 0.5, "steps": 1000}

OBJECTIVES = {
    "gan-minimax": Preset(
        "the saturating generator",
        "Goodfellow et al. (2014); P0 (1), P1 (3.1), P3 (1), P4 (1); networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(loss="minimax"),
        decay=True,
    ),
    "gan": Preset(
        "the standard GAN, non-saturating",
        "Goodfellow et al. (2014); P1 §3.1, P3 §2.2.1; networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE,
        decay=True,
    ),
    "wgan": Preset(
        "Wasserstein GAN with clipped weights",
        "Arjovsky et al. (2017); P1 §3.3, P4 Alg. 1; networks ours",
        "alternating",
        "8gaussians",
        10000,
        WGAN | dict(hidden=512),
        short={"hidden": 128},
    ),
    "wgan-gp": Preset(
        "Wasserstein GAN with the one-centred penalty",
        "Gulrajani et al. (2017), its toy code",
        "alternating",
        "8gaussians",
        10000,
        dict(
            hidden=512,
            loss="wasserstein",
            penalty="1-gp",
            weight=0.1,
            batch=256,
            lr_g=1e-4,
            lr_d=1e-4,
            critic_steps=5,
        ),
        short={"hidden": 128, "lr_g": 5e-4, "lr_d": 5e-4},
    ),
    "lsgan": Preset(
        "least squares",
        "Mao et al. (2017); networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(loss="least-squares"),
        decay=True,
    ),
    "hinge-gan": Preset(
        "hinge, with spectral norm",
        "Lim & Ye (2017), Miyato et al. (2018); networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(loss="hinge", spectral_norm=True),
        decay=True,
    ),
    "ac-gan": Preset(
        "AC-GAN: classes are given and named",
        "Odena et al. (2017); P4 (3), (4), tables 7 to 9, G's source term non-saturating",
        "ac-gan",
        "digits",
        50000,
        {},
        DIGITS32 | {"labels": True},
        {"width": 0.25, "steps": 1500},
    ),
    "regularized-gan": Preset(
        "the generator must bring back encoded data",
        "Che et al. (2017); P2; settings ours",
        "regularized",
        "digits",
        20000,
        {},
        short={"steps": 8000},
    ),
    "mdgan": Preset(
        "manifold step, then diffusion step",
        "Che et al. (2017), algorithm 1; P2; settings ours",
        "mdgan",
        "digits",
        20000,
        {},
        short={"steps": 6000},
    ),
    "ebgan": Preset(
        "an auto-encoder's error as energy",
        "Zhao et al. (2017); P2; settings ours",
        "ebgan",
        "digits",
        20000,
        {},
        short={"steps": 8000},
    ),
    "began": Preset(
        "auto-encoder errors in equilibrium",
        "Berthelot et al. (2017); P2; networks and rates ours; the short run has γ .9, λₖ .01",
        "began",
        "digits",
        20000,
        {},
        short={"steps": 8000, "gamma": 0.9, "balance_rate": 0.01},
    ),
    "infogan": Preset(
        "codes that the critic must read back",
        "Chen et al. (2016); P2's contents",
        "infogan",
        "digits",
        20000,
        {},
        short={"width": 0.25, "steps": 2000},
    ),
    "linear-game": Preset(
        "a linear form against a linear map, Fixed-Alt-GD",
        "P3 §2.3, App. B",
        "alternating",
        "vector",
        400,
        dict(
            model="linear",
            latent=1,
            prior="one",
            loss="wasserstein",
            optimizer="sgd",
            lr_g=0.02,
            lr_d=0.02,
            batch=1,
        ),
    ),
    "dirac-gan": Preset(
        "one point against one slope",
        "Mescheder et al. (2018); P3 §3.4",
        "alternating",
        "point",
        500,
        POINT | dict(generator_first=True),
    ),
    "dirac-gan-r1": Preset(
        "the same with R₁, γ = .3",
        "Mescheder et al. (2018); P3 §3.4",
        "alternating",
        "point",
        500,
        POINT | dict(generator_first=True, penalty="r1", weight=0.15),
    ),
}

PENALTIES = {
    "gan-1gp": Preset(
        "one-centred, on interpolates",
        "P0 (3), P1, P3 (7)",
        "alternating",
        "8gaussians",
        20000,
        P3 | dict(penalty="1-gp"),
        {"scale": 10.0},
        P3_SHORT,
    ),
    "gan-0gp": Preset(
        "zero-centred, on interpolates",
        "P3 (6), Figure 2",
        "alternating",
        "8gaussians",
        20000,
        P3 | dict(penalty="0-gp"),
        {"scale": 10.0},
        P3_SHORT,
    ),
    "gan-0gp-100": Preset(
        "the same with λ 100",
        "P3 Figure 5",
        "alternating",
        "8gaussians",
        20000,
        P3 | dict(penalty="0-gp", weight=100.0),
        {"scale": 10.0},
        P3_SHORT,
    ),
    "gan-0gp-sample": Preset(
        "zero-centred, at real and fake samples",
        "P3 §3.3, after Mescheder et al. (2018)",
        "alternating",
        "8gaussians",
        20000,
        P3 | dict(penalty="0-gp-sample"),
        {"scale": 10.0},
        P3_SHORT,
    ),
    "gan-r1": Preset(
        "zero-centred, at real samples",
        "Mescheder et al. (2018); weight, networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(penalty="r1", weight=0.5),
        decay=True,
    ),
    "gan-r2": Preset(
        "zero-centred, at fake samples",
        "Mescheder et al. (2018); weight, networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(penalty="r2", weight=0.5),
        decay=True,
    ),
    "wgan-lp": Preset(
        "slope at most 1",
        "Petzka et al. (2018), λ 10",
        "alternating",
        "8gaussians",
        10000,
        dict(
            hidden=512,
            loss="wasserstein",
            penalty="lp",
            batch=256,
            lr_g=1e-4,
            lr_d=1e-4,
            critic_steps=5,
        ),
        short={"hidden": 128, "lr_g": 5e-4, "lr_d": 5e-4},
    ),
    "dragan": Preset(
        "slope 1 around real samples",
        "Kodali et al. (2017), λ 10; networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(penalty="dragan"),
        decay=True,
    ),
    "gan-two-term": Preset(
        "flat at the samples and equal in pairs",
        "P3 §3.2, which rejects it; networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(penalty="two-term", weight=0.3),
        decay=True,
    ),
    "gan-spectral": Preset(
        "spectral normalisation",
        "Miyato et al. (2018); networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(spectral_norm=True),
        decay=True,
    ),
    "gan-instance-noise": Preset(
        "noise on the critic's input, annealed",
        "Sønderby et al. (2017), Arjovsky & Bottou; P2; networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(instance_noise=0.5, anneal=True),
        decay=True,
    ),
    "gan-layer-noise": Preset(
        "noise inside D and G, annealed",
        "Zhao et al. (2017); P2; networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(layer_noise=0.2, anneal=True),
        decay=True,
    ),
    "gan-ema": Preset(
        "a moving average of the generator",
        "Yazıcı et al. (2019); networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(penalty="0-gp", weight=0.3, ema=0.995),
    ),
    "gan-smooth-labels": Preset(
        "real is .9, not 1",
        "Salimans et al. (2016); networks and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(label_smoothing=0.1),
        decay=True,
    ),
}

MODELS = {
    "original-gan": Preset(
        "maxout in the critic",
        "Goodfellow et al. (2014); sizes and rates ours",
        "alternating",
        "8gaussians",
        6000,
        PLANE | dict(hidden=64, pieces=5, loss="minimax"),
        decay=True,
    ),
    "p3-mnist": Preset(
        "P3's perceptrons for MNIST",
        "P3 §4.2 and its code",
        "alternating",
        "digits",
        10000,
        dict(
            model="image-rows",
            latent=50,
            hidden=512,
            init="fan-in",
            penalty="0-gp",
            weight=100.0,
            penalise="probability",
            lr_g=3e-4,
            lr_d=3e-4,
            batch=64,
            critic_steps=5,
        ),
        {"scaling": "normalised"},
        {"hidden": 256, "steps": 5000, "critic_steps": 1},
    ),
    "dcgan28": Preset(
        "DCGAN-28 without norms, λ 1",
        "P0 (3); WGAN-GP's MNIST networks",
        "alternating",
        "digits",
        4000,
        P0 | dict(weight=1.0),
        {},
        P0_SHORT,
    ),
    "dcgan28-0gp": Preset(
        "the same with the zero-centred penalty",
        "P3 (6); rates ours",
        "alternating",
        "digits",
        3000,
        P0 | dict(prior="normal", penalty="0-gp", weight=1.0, lr_g=5e-4, lr_d=5e-4),
        {},
        P0_SHORT,
    ),
    "dcgan64": Preset(
        "DCGAN-64",
        "Radford et al. (2016); P0 Figure 1",
        "alternating",
        "digits",
        20000,
        P4 | dict(average=False, prior="uniform"),
        {"size": 64, "channels": 3},
        {"width": 0.125, "steps": 2500, "batch": 32, "lr_g": 2e-3},
    ),
    "p4-dcgan": Preset(
        "P4's DCGAN",
        "P4 tables 1 to 3",
        "alternating",
        "digits",
        39000,
        P4,
        DIGITS32,
        P4_SHORT,
    ),
    "p4-wgan": Preset(
        "P4's WGAN; every critic parameter clipped",
        "P4 tables 4 to 6",
        "alternating",
        "digits",
        15625,
        P4 | WGAN | dict(average=False, clip_everything=True),
        DIGITS32,
        {"width": 0.25, "steps": 800},
    ),
    "ac-gan-variant": Preset(
        "AC-GAN's other generator",
        "P4 table 8, read the other way",
        "ac-gan",
        "digits",
        50000,
        dict(variant=True),
        DIGITS32 | {"labels": True},
        {"width": 0.5, "steps": 1500},
    ),
    "ablation-gan-dcgan": Preset(
        "standard GAN, DCGAN",
        "P2, after Arjovsky et al. (2017)",
        "alternating",
        "digits",
        20000,
        P4 | dict(batch=64),
        DIGITS32,
        P4_SHORT,
    ),
    "ablation-gan-no-norm": Preset(
        "standard GAN, no norm, constant filters",
        "P2, after Arjovsky et al. (2017)",
        "alternating",
        "digits",
        20000,
        P4 | dict(batch=64, norm="none", filters=256),
        DIGITS32,
        P4_SHORT | {"filters": 64},
    ),
    "ablation-gan-mlp": Preset(
        "standard GAN, a perceptron as generator",
        "P2, after Arjovsky et al. (2017)",
        "alternating",
        "digits",
        20000,
        P4 | dict(batch=64, generator="perceptron"),
        DIGITS32,
        P4_SHORT,
    ),
    "ablation-wgan-dcgan": Preset(
        "WGAN, DCGAN",
        "P2, after Arjovsky et al. (2017)",
        "alternating",
        "digits",
        20000,
        P4 | WGAN | dict(average=False, clip_everything=True),
        DIGITS32,
        P4_SHORT | {"steps": 800},
    ),
    "ablation-wgan-no-norm": Preset(
        "WGAN, no norm, constant filters",
        "P2, after Arjovsky et al. (2017)",
        "alternating",
        "digits",
        20000,
        P4 | WGAN | dict(average=False, norm="none", filters=256),
        DIGITS32,
        P4_SHORT | {"filters": 64},
    ),
    "ablation-wgan-mlp": Preset(
        "WGAN, a perceptron as generator",
        "P2, after Arjovsky et al. (2017)",
        "alternating",
        "digits",
        20000,
        P4 | WGAN | dict(average=False, generator="perceptron", clip_everything=True),
        DIGITS32,
        P4_SHORT,
    ),
    "p0-constant-filters": Preset(
        "the same filters in all of G",
        "P0's future work",
        "alternating",
        "digits",
        4000,
        P0 | dict(weight=1.0, filters=128),
        {},
        P0_SHORT | {"filters": 64},
    ),
    "p0-mlp": Preset(
        "a perceptron as generator",
        "P0's future work",
        "alternating",
        "digits",
        4000,
        P0 | dict(weight=1.0, generator="perceptron"),
        {},
        P0_SHORT,
    ),
    "p0-tanh": Preset(
        "tanh everywhere",
        "P0's future work",
        "alternating",
        "digits",
        4000,
        P0 | dict(weight=1.0, activation="tanh"),
        {},
        P0_SHORT,
    ),
}

ALGORITHMS = {
    "wgan-same-batch": Preset(
        "five critic steps on the same batch",
        "P4's WGAN as it was run; networks ours",
        "alternating",
        "8gaussians",
        10000,
        WGAN | dict(hidden=512, same_batch=True),
        short={"hidden": 128},
    ),
    "gan-ttur": Preset(
        "two rates",
        "Heusel et al. (2017); P3; the rates are ours",
        "alternating",
        "8gaussians",
        20000,
        P3 | dict(penalty="0-gp", lr_d=9e-3),
        {"scale": 10.0},
        P3_SHORT,
    ),
    "gan-simultaneous": Preset(
        "both sides at once",
        "Mescheder et al. (2018); networks and rates ours",
        "simultaneous",
        "8gaussians",
        6000,
        PLANE,
        decay=True,
    ),
    "gan-d-inner": Preset(
        "D in the inner loop: 10 steps to 1",
        "P2; networks and rates ours",
        "alternating",
        "8gaussians",
        3000,
        PLANE | dict(critic_steps=10),
        decay=True,
    ),
    "gan-g-inner": Preset(
        "G in the inner loop: 1 step to 10",
        "P2: max min is not min max; networks and rates ours",
        "alternating",
        "8gaussians",
        3000,
        PLANE | dict(generator_steps=10),
        decay=True,
    ),
    "gan-unrolled": Preset(
        "G against the critic of 5 steps on",
        "Metz et al. (2017); P2's ring",
        "unrolled",
        "ring",
        25000,
        RING | dict(unroll=5, zero_sum=True),
        short={"steps": 6000, "batch": 256},
    ),
    "unrolled-ring": Preset(
        "the same ring, not unrolled",
        "Metz et al. (2017); P2's ring",
        "simultaneous",
        "ring",
        25000,
        RING,
        short={"steps": 15000, "batch": 256},
    ),
    "gan-consensus": Preset(
        "consensus optimisation",
        "Mescheder et al. (2017); weight, networks and rates ours",
        "consensus",
        "8gaussians",
        6000,
        PLANE | dict(regulariser=0.1),
        decay=True,
    ),
    "gan-nagarajan-kolter": Preset(
        "G avoids what makes D move",
        "Nagarajan & Kolter (2017); weight, networks and rates ours",
        "nagarajan-kolter",
        "8gaussians",
        6000,
        PLANE | dict(regulariser=0.1),
        decay=True,
    ),
}

GROUPS = {
    "objectives": OBJECTIVES,
    "penalties, constraints, noise": PENALTIES,
    "networks": MODELS,
    "algorithms": ALGORITHMS,
}
PRESETS: dict[str, Any] = {name: p for group in GROUPS.values() for name, p in group.items()}
