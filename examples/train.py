"""Train any system of the papers, by name.

    python examples/train.py --list                            # every system, with its source
    python examples/train.py --system mdgan --short            # a run of minutes on two cores
    python examples/train.py --system gan-0gp --penalty none   # its settings, one of them changed

Writes samples.npy, samples.png, curves.png, history.csv, metrics.json and generator.npz to --out,
and average.npz if --ema keeps a moving average of the generator, which then makes the samples.
Ctrl-C stops early and still writes them. Options that are not said come from the system.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

import games
import numpy as np
from common import (
    ACTIVATIONS,
    INITS,
    LOSSES,
    NORMS,
    PENALTIES,
    add_eager,
    array_bytes,
    check_folder,
    count_from_zero,
    fraction,
    mode,
    not_negative,
    positive,
    seed,
    versions,
    within,
    write_whole,
)
from presets import GROUPS, PRESETS

import tinygan as tg
from tinygan import image_scores, metrics, optim, systems
from tinygan import tree as trees
from tinygan.backend import check_device
from tinygan.loop import Diverged, run
from tinygan.study import plots

POINTS = 2500
IMAGES = 100
JUDGED = 1000  # images that are scored
number, count = positive(float), positive(int)

OPTIONS = {  # of games: how each is given, and what it is
    "batch": dict(type=count, help="samples in a batch"),
    "prior": dict(choices=games.PRIORS, help="of the latent points: N(0, I), U[-1, 1), or all 1"),
    "critic_steps": dict(type=count, help="critic steps in an iteration"),
    "generator_steps": dict(type=count, help="generator steps in an iteration"),
    "same_batch": dict(flag=True, help="all critic steps of an iteration on the same data"),
    "generator_first": dict(flag=True, help="the generator's steps before the critic's"),
    "anneal": dict(flag=True, help="noise falls to 0 over the run"),
    "latent": dict(type=count, help="the generator's number of inputs, but for codes"),
    "hidden": dict(type=count, help="width of the perceptrons"),
    "depth": dict(type=count, help="hidden layers of the perceptrons"),
    "width": dict(type=number, help="multiplies the channels of convolutions"),
    "activation": dict(choices=ACTIVATIONS, help="of the hidden layers"),
    "init": dict(choices=INITS, help="initial weights of the perceptrons"),
    "norm": dict(choices=NORMS, help="in both networks"),
    "critic_norm": dict(choices=NORMS, help="in the critic alone"),
    "filters": dict(type=count, help="the same channels in all hidden layers of G"),
    "generator": dict(choices=("perceptron",), help="for images, instead of convolutions"),
    "pieces": dict(type=count, help="maxout of so many pieces in the critic"),
    "spectral_norm": dict(flag=True, help="in the critic"),
    "instance_noise": dict(type=not_negative, help="deviation of noise on the critic's input"),
    "layer_noise": dict(type=not_negative, help="deviation of noise inside both networks"),
    "loss": dict(
        choices=LOSSES,
        help="the objectives of both sides; wasserstein means little unless --clip, --penalty or "
        "--spectral-norm bounds the critic's slope",
    ),
    "penalty": dict(choices=(*PENALTIES, "two-term"), help="the critic's gradient penalty"),
    "weight": dict(type=number, help="λ, the penalty's weight; γ of R1, R2 is 2λ"),
    "penalise": dict(choices=("logit", "probability"), help="the slope of D or of σ(D)"),
    "label_smoothing": dict(
        type=within("[0, 0.5)", lambda value: 0 <= value < 0.5),
        help="what the label of real falls short of 1",
    ),
    "average": dict(flag=True, help="halve the critic's loss"),
    "clip": dict(type=number, help="limit of the critic's weights after each step"),
    "clip_everything": dict(flag=True, help="clip the norms' scales and shifts too"),
    "optimizer": dict(choices=("sgd", "rmsprop", "adam"), help="for both sides"),
    "lr_g": dict(type=number, help="the generator's rate"),
    "lr_d": dict(type=number, help="the critic's rate"),
    "betas": dict(type=fraction, nargs=2, metavar="β", help="Adam's decay rates"),
    "ema": dict(
        type=within("(0, 1)", lambda value: 0 < value < 1),
        help="decay of a moving average of the generator",
    ),
    "unroll": dict(type=count, help="steps of the critic that the generator looks ahead"),
    "zero_sum": dict(flag=True, help="the unrolled generator minimises minus the critic's loss"),
    "regulariser": dict(type=not_negative, help="γ of consensus, η of Nagarajan & Kolter"),
    "variant": dict(flag=True, help="AC-GAN's other generator"),
    "saturating": dict(flag=True, help="AC-GAN's generator loss as printed"),
    "continuous": dict(type=count_from_zero, help="InfoGAN's continuous codes"),
    "distance_weight": dict(type=not_negative, help="λ₁ of Regularized GAN"),
    "mode_weight": dict(type=not_negative, help="λ₂ of Regularized GAN, λ of MDGAN"),
    "code": dict(type=count, help="length of the auto-encoder's code"),
    "margin": dict(type=number, help="EBGAN's m"),
    "pulling_weight": dict(type=not_negative, help="weight of EBGAN's pulling-away term"),
    "gamma": dict(
        type=within("(0, 1]", lambda value: 0 < value <= 1), help="BEGAN's diversity ratio"
    ),
    "balance_rate": dict(type=number, help="BEGAN's λₖ"),
}
NEEDS = {  # of settings that another can make idle: which, with which values, and the remedy
    "weight": ("penalty", ("none",), "a --penalty"),
    "penalise": ("penalty", ("none",), "a --penalty"),
    "clip_everything": ("clip", (None,), "a --clip"),
    "betas": ("optimizer", ("sgd", "rmsprop"), "--optimizer adam"),
    "same_batch": ("critic_steps", (1,), "--critic-steps 2 or more"),
    "filters": ("generator", ("perceptron",), "a --system whose generator has convolutions"),
}


def parse(argv):
    """The command line: (args, preset, settings of the game, the data, the game)."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], allow_abbrev=False, argument_default=None
    )
    add = parser.add_argument
    add("--list", action="store_true", help="print every system with its source, and stop")
    add("--system", choices=PRESETS, metavar="NAME", help="what is trained; --list names them")
    add("--short", action="store_true", help="the system's short settings, if it has any")
    add("--data", help="a set of the plane, 'digits', or a path to images; see --list")
    add("--steps", type=count, help="iterations")
    add("--decay", action=argparse.BooleanOptionalAction, help="rates to 0 over the second half")
    add("--seed", type=seed, default=0, help="of all random numbers")
    add("--device", choices=("cpu", "gpu"), default="cpu", help="where to compute")
    add("--threads", type=count, help="for images: threads for large ops; all cores without it")
    add_eager(parser)
    add("--out", type=Path, help="folder for the results; runs/NAME without it")
    add("--quiet", action="store_true", help="no progress bar and no report")
    group = parser.add_argument_group("settings of the game, where the system has them")
    for name, how in OPTIONS.items():
        how = dict(how)
        if how.pop("flag", False):
            how["action"] = argparse.BooleanOptionalAction
        group.add_argument(flag(name), **how)
    args = parser.parse_args(argv)
    if args.list:
        print(listing())
        sys.exit()
    if args.system is None:
        parser.error("--system is missing: which one? --list names them")
    preset = PRESETS[args.system]
    try:
        settings, steps = settle(args, preset)
        check_device(args.device)
        args.out = args.out or Path("runs") / args.system
        check_folder(args.out)
        what = opened(args, preset)
        if args.threads is not None and what.images is None:
            raise ValueError(
                f"--threads {args.threads} changes nothing without images: points take one thread. "
                "Leave it out"
            )
        game = games.build(preset.kind, what, settings, steps)
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        parser.error(f"--system {args.system}: {error}")
    return args, preset, settings, steps, what, game


def settle(args, preset):
    """The game's settings, and its iterations: an option, else short, else the system's own."""
    given = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    takes = options(preset)
    for name in given:
        if name not in takes:
            others = [k for k, p in PRESETS.items() if name in options(p)]
            raise ValueError(
                f"{flag(name)} is nothing that this system has; systems that have it: "
                f"{', '.join(others[:5])}"
                + (f" and {len(others) - 5} more" if len(others) > 5 else "")
            )
    short = dict(preset.short) if args.short else {}
    steps = args.steps or short.pop("steps", preset.steps)
    short.pop("steps", None)
    settings = {**games.settings_of(preset.kind), **preset.settings, **short, **given}
    for name in given:
        if is_idle(name, settings):
            other, _, remedy = NEEDS[name]
            there = settings[other] not in (None, "none")
            why = f"with {flag(other)} {settings[other]}" if there else f"without {flag(other)}"
            raise ValueError(
                f"{flag(name)} changes nothing {why}; expected {remedy}, or no {flag(name)}"
            )
    return settings, steps


def is_idle(name, settings):
    """Whether a setting changes nothing because of another one's value."""
    other, values, _ = NEEDS.get(name, (None, (), None))
    return other in settings and settings[other] in values


def used(kind, settings):
    """The settings that change something in a game, as it is reported."""
    return {
        name: settings[name]
        for name in games.options_of(kind, settings)
        if not is_idle(name, settings)
    }


def options(preset):
    """The settings that a system takes."""
    return games.options_of(preset.kind, preset.settings)


def flag(name):
    """A setting as it is given on the command line."""
    return "--" + name.replace("_", "-")


def opened(args, preset):
    """The data, once they are of the kind that the system can use."""
    name = preset.data if args.data is None else args.data
    plane = f"a set of the plane: {', '.join(games.PLANE)}"
    images = "images: 'digits', or a path to MNIST, CIFAR-10, .npy, .npz or a folder"
    if preset.data in games.POINTS:
        fits, expected = name == preset.data, f"{preset.data}, which its networks are made for"
    elif preset.data in games.PLANE:
        fits, expected = name in games.PLANE, plane
    else:
        fits, expected = name not in (*games.PLANE, *games.POINTS), images
    if not fits:
        raise ValueError(
            f"--data {name} is nothing that this system can learn; expected {expected}"
        )
    return games.open_data(
        **{**games.DATA, **data_of(args, preset)}, key=tg.Stream(args.seed).child(4).key
    )


def data_of(args, preset):
    """The data's name and how they are opened; a scale is that of the system's own data."""
    if args.data is None or args.data == preset.data:
        return {"name": preset.data, **preset.opened}
    return {"name": args.data} | {k: v for k, v in preset.opened.items() if k != "scale"}


def listing():
    """Every system: its name, what it is, its data, its source."""
    wide = max(map(len, PRESETS))
    lines = []
    for title, group in GROUPS.items():
        lines += ["", title.capitalize()]
        lines += [
            f"  {name:<{wide}}  {p.about} ({p.data}). {p.source}" for name, p in group.items()
        ]
    return "\n".join(lines[1:])


def scores(what, samples):
    """What the samples are worth, as far as it can be told: of sets of the plane, and of digits."""
    if what.plane is not None:
        stream = tg.Stream(1)
        real = what.plane.sample(len(samples), stream)
        found = {"sliced_w1": metrics.sliced_wasserstein1(samples, real, stream)}
        if hasattr(what.plane, "centres"):
            within = {"3σ": None, "5%": 0.05 * what.plane.radius}
            for name, distance in within.items():
                c = metrics.mode_coverage(samples, what.plane, within=distance)
                found[f"modes within {name}"] = c.modes
                found[f"modes of 20 within {name}"] = c.modes20
                found[f"share within {name}"] = c.high_quality
                found[f"reverse_kl within {name}"] = (
                    c.reverse_kl if math.isfinite(c.reverse_kl) else None
                )
        return found
    if what.images is None or what.images.name != "digits":
        return {}
    real = what.images.take(tg.Stream(1).permutation(len(what.images))[: len(samples)])
    report = image_scores.image_report(
        as_digits(what.scaling.invert(samples)), as_digits(real.pixels)
    )
    return {
        name: value if not isinstance(value, float) or math.isfinite(value) else None
        for name, value in report.items()
    }


def as_digits(images):
    """Images as the digit classifier knows them: 28×28, grey, without the black border."""
    border = (images.shape[1] - 28) // 2
    inner = images[:, border : border + 28, border : border + 28]
    return np.rint(inner.mean(axis=3, keepdims=True)).astype(np.uint8)


def generated(game, players, n, stream):
    """Samples on the host; InfoGAN's by its codes: a category's in a row, along a number."""
    if isinstance(game, systems.InfoGAN) and game.continuous:
        return tg.to_host(game.generate(players, IMAGES, stream, game.grid(10), one_noise=True))
    return tg.to_host(game.generate(players, n, stream))


def picture(args, preset, what, samples, path):
    """samples.png as bytes: points over data, images side by side, or the way of two numbers."""
    if what.plane is not None:
        real = tg.to_host(what.plane.sample(POINTS, tg.Stream(1)))
        return plots.as_bytes(
            plots.points, title=args.system, real=real, samples=samples,
            extent=1.5 * what.plane.radius,
        )  # fmt: skip
    if what.images is not None:
        return plots.as_bytes(plots.image_grid, images=what.scaling.invert(samples))
    names = ("θ, the generator", "ψ, the critic")
    if preset.data == "vector":
        names = ("‖θ‖ of the generator", "‖θ‖ of the critic")
    return plots.as_bytes(plots.trajectory, title=args.system, path=np.array(path), names=names)


def main(argv=None):
    args, preset, settings, steps, what, game = parse(argv)
    stream = tg.Stream(args.seed, device=args.device)
    decaying = preset.decay if args.decay is None else args.decay
    schedule = optim.LinearDecay(1.0, 0.0, -(-steps // 2), after=steps // 2) if decaying else None
    on_points = what.plane is None and what.images is None
    path = []

    def watch(step, players):
        if on_points:
            leaves = trees.leaves((players.generator, players.critic))
            path.append([np.linalg.norm(tg.to_host(a)) if a.size > 1 else a.item() for a in leaves])

    if not args.quiet:
        print(f"{args.system}: {preset.about}. {preset.source}. {steps:,} iterations")
    start, stopped = time.perf_counter(), None
    with tg.threads((args.threads or os.cpu_count()) if what.images is not None else 1):
        players = game.init(stream.child(0), np.float64 if on_points else np.float32)
        try:
            done = run(
                game, players, what.sample, steps, stream.child(1), schedule=schedule,
                progress=not args.quiet, watch=watch, compiled=not args.eager,
            )  # fmt: skip
            players, history = done.players, done.history
            stopped = "Ctrl-C" if done.interrupted else None
        except Diverged as error:
            players, history, stopped = error.players, error.history, str(error)
        seconds = time.perf_counter() - start
        if not history.records:
            sys.exit(f"nothing was learned: {stopped}")
        n = IMAGES if what.images is not None else POINTS
        with np.errstate(all="ignore"):
            samples = np.nan_to_num(generated(game, players, n, stream.child(2)))
            judged = samples
            if what.images is not None:
                judged = np.nan_to_num(tg.to_host(game.generate(players, JUDGED, stream.child(3))))
    last, settings = history.records[-1], used(preset.kind, settings)
    report = {
        "system": args.system,
        "about": preset.about,
        "source": preset.source,
        "scores": scores(what, judged),
        "last": last._asdict(),
        "seconds": seconds,
        "steps_done": last.step,
        "steps": steps,
        "short": args.short,
        "stopped": stopped,
        "mode": mode(args),
        "data": data_of(args, preset),
        "settings": settings,
        "seed": args.seed,
        "versions": versions(),
    }
    title = f"{args.system}: {preset.about}"
    write_whole(args.out / "samples.npy", array_bytes(samples))
    write_whole(args.out / "samples.png", picture(args, preset, what, samples, path))
    curves = plots.as_bytes(plots.columns, title=title, history=history)
    write_whole(args.out / "curves.png", curves)
    write_whole(args.out / "history.csv", history.csv().encode())
    made_by = {"system": args.system, "data": report["data"], "settings": settings}
    tg.save_weights(args.out / "generator.npz", players.generator, made_by)
    if getattr(players, "average", ()):  # what the samples are made of, then
        tg.save_weights(args.out / "average.npz", players.average._asdict(), made_by)
    write_whole(args.out / "metrics.json", (json.dumps(report, indent=2) + "\n").encode())
    if not args.quiet:
        for name, value in report["scores"].items():
            print(f"{name:>26}  {value if not isinstance(value, float) else round(value, 4)}")
        print(f"{last.step:,} iterations in {seconds:.1f} s; results in {args.out}")
    if stopped and stopped != "Ctrl-C":
        sys.exit(f"stopped early: {stopped}")


if __name__ == "__main__":
    main()
