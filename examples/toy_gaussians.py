"""Train a GAN on points of the plane, and see what its loss and its penalty do.

    python examples/toy_gaussians.py                      # eight Gaussians, about a minute
    python examples/toy_gaussians.py --penalty none       # the same without a penalty
    python examples/toy_gaussians.py --preset p3-ring     # the settings of a paper

Writes samples.npy, history.csv, metrics.json, summary.png and evolution.gif to --out. Ctrl-C
stops early and still writes them.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
from common import (
    ACTIVATIONS,
    INITS,
    LOSSES,
    PENALTIES,
    add_eager,
    array_bytes,
    check_folder,
    chosen_preset,
    fraction,
    mode,
    positive,
    seed,
    versions,
    write_whole,
)
from threadpoolctl import threadpool_limits

import tinygan as tg
from tinygan import data, metrics, models, optim
from tinygan.backend import check_device
from tinygan.study.fields import gradient_field, value_surface
from tinygan.train import GAN, Diverged, train

SAMPLES = 2500
PAIRED = 1000  # samples for the exact Wasserstein distance, whose time grows with their cube

DATASETS = {  # a function of the scale, and the scale that is taken without --scale
    "8gaussians": (data.eight_gaussians, 2.0),
    "25gaussians": (data.twenty_five_gaussians, 1.0),
    "swissroll": (data.SwissRoll, 1.0),
    "ring": (lambda scale: data.ring(radius=scale, deviation=0.01 * scale), 1.0),
    "grid": (lambda scale: data.grid(spacing=2.0 * scale, deviation=0.05 * scale), 1.0),
}
DEFAULT = dict(
    dataset="8gaussians", scale=None, loss="non-saturating", penalty="0-gp", weight=0.3,
    penalise="logit", optimizer="adam", lr_g=1e-3, lr_d=2e-3, betas=(0.5, 0.9), clip=None,
    init="he-uniform", activation="relu", batch=256, latent=2, hidden=128, depth=3,
    critic_steps=1, steps=6000, decay=True,
)  # fmt: skip
PRESETS = {  # what differs from the default; sources in the comments
    "default": {},
    # Improving Generalization and Stability of GANs (ICLR 2019), Figure 2, its public code
    "p3-ring": dict(
        scale=10.0, weight=10.0, penalise="probability", optimizer="sgd", lr_g=3e-3, lr_d=3e-3,
        init="fan-in", batch=128, hidden=512, steps=20000, decay=False,
    ),
    # the same, Figure 5
    "p3-evolution": dict(
        scale=10.0, weight=100.0, penalise="probability", optimizer="sgd", lr_g=3e-3, lr_d=3e-3,
        init="fan-in", batch=128, hidden=512, steps=20000, decay=False,
    ),
    # the same with two rates; they are not published, 3e-3 and 9e-3 are ours
    "p3-ttur": dict(
        scale=10.0, weight=10.0, penalise="probability", optimizer="sgd", lr_g=3e-3, lr_d=9e-3,
        init="fan-in", batch=128, hidden=512, steps=20000, decay=False,
    ),
    # Gulrajani et al. (2017), the public toy code
    "wgan-gp": dict(
        loss="wasserstein", penalty="1-gp", weight=0.1, lr_g=1e-4, lr_d=1e-4, hidden=512,
        critic_steps=5, steps=10000, decay=False,
    ),
    # Arjovsky et al. (2017), the settings of its images on our toy networks
    "wgan": dict(
        loss="wasserstein", penalty="none", clip=0.01, optimizer="rmsprop", lr_g=5e-5, lr_d=5e-5,
        batch=64, hidden=512, critic_steps=5, steps=10000, decay=False,
    ),
    # the standard GAN, otherwise as the default
    "gan": dict(penalty="none"),
    # Petzka et al. (2018) and Kodali et al. (2017) with their weights
    "wgan-lp": dict(
        loss="wasserstein", penalty="lp", weight=10.0, lr_g=1e-4, lr_d=1e-4, hidden=512,
        critic_steps=5, steps=10000, decay=False,
    ),
    "dragan": dict(penalty="dragan", weight=10.0),
    # the ring of the unrolled-GAN demonstration (Metz et al. 2017), without unrolling
    "unrolled-ring": dict(
        dataset="ring", loss="minimax", penalty="none", lr_g=1e-3, lr_d=1e-4, betas=(0.5, 0.999),
        init="orthogonal", activation="tanh", batch=512, latent=256, depth=2, steps=25000,
        decay=False,
    ),
}  # fmt: skip


def parse(argv):
    """Settings from the command line: an option, else the preset's value, else the default."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(**{**DEFAULT, **PRESETS[chosen_preset(argv, PRESETS, "default")]})
    number, count = positive(float), positive(int)
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="default", help="settings to start from")
    add("--dataset", choices=DATASETS, help="what is learned")
    add("--scale", type=number, help="the data's scale; each set has its own default")
    add("--loss", choices=LOSSES, help="the objectives of both sides")
    add("--penalty", choices=PENALTIES, help="the critic's gradient penalty")
    add("--weight", type=number, help="λ, the penalty's weight; γ of R1, R2 is 2λ")
    add("--penalise", choices=("logit", "probability"), help="the slope of D or of σ(D)")
    add("--optimizer", choices=("sgd", "rmsprop", "adam"), help="for both sides")
    add("--lr-g", type=number, help="the generator's rate")
    add("--lr-d", type=number, help="the critic's rate")
    add("--betas", type=fraction, nargs=2, metavar="β", help="Adam's decay rates")
    add("--clip", type=number, help="limit of the critic's weights after each step")
    add("--init", choices=INITS, help="initial weights")
    add("--activation", choices=ACTIVATIONS, help="of the hidden layers")
    add("--batch", type=count, help="samples in a batch")
    add("--latent", type=count, help="the generator's number of inputs")
    add("--hidden", type=count, help="width of the hidden layers")
    add("--depth", type=count, help="number of hidden layers")
    add("--critic-steps", type=count, help="critic steps before each generator step")
    add("--steps", type=count, help="generator steps")
    add("--decay", action=argparse.BooleanOptionalAction, help="rates to 0 over the second half")
    add("--seed", type=seed, default=0, help="of all random numbers")
    add("--device", choices=("cpu", "gpu"), default="cpu", help="where to compute")
    add("--threads", type=count, help="BLAS threads; without it 1 up to 256 units, then all cores")
    add_eager(parser)
    add("--out", type=Path, default=Path("runs/toy"), help="folder for the results")
    add("--quiet", action="store_true", help="no progress bar and no report")
    args = parser.parse_args(argv)
    try:
        check_device(args.device)
        check_folder(args.out)
    except (RuntimeError, OSError) as error:
        parser.error(str(error))
    return args


def build(args):
    """The game that the settings describe."""
    weight_init, bias_init = INITS[args.init]
    pair = models.mlp_pair(
        2, args.latent, args.hidden, args.depth, activation=ACTIVATIONS[args.activation],
        weight_init=weight_init, bias_init=bias_init,
    )  # fmt: skip
    if args.optimizer == "adam":
        g, d = (optim.Adam(rate, tuple(args.betas)) for rate in (args.lr_g, args.lr_d))
    elif args.optimizer == "rmsprop":
        g, d = optim.RMSProp(args.lr_g), optim.RMSProp(args.lr_d)
    else:
        g, d = optim.SGD(args.lr_g), optim.SGD(args.lr_d)
    of = tg.ops.sigmoid if args.penalise == "probability" else None
    make = PENALTIES[args.penalty]
    return GAN(
        pair.generator, pair.critic, g, d, LOSSES[args.loss],
        penalty=make(args.weight, of) if make else None, clip=args.clip,
    )  # fmt: skip


def measure(samples, dataset, stream):
    """Every score of the samples; those of modes are None where the data has no modes."""
    real, other = dataset.sample(SAMPLES, stream), dataset.sample(SAMPLES, stream)
    scores = {
        "w1": metrics.wasserstein1(samples[:PAIRED], real[:PAIRED]),
        "w1_of_real": metrics.wasserstein1(other[:PAIRED], real[:PAIRED]),
        "sliced_w1": metrics.sliced_wasserstein1(samples, real, stream),
        "jensen_shannon": metrics.jensen_shannon(samples, real),
    }
    names = ("modes", "modes20", "high_quality", "share_within_5_percent", "reverse_kl")
    scores.update(dict.fromkeys(names))
    if isinstance(dataset, data.Mixture):
        close = metrics.mode_coverage(samples, dataset)
        near = metrics.mode_coverage(samples, dataset, within=0.05 * dataset.radius)
        scores.update(
            modes=close.modes,
            modes20=close.modes20,
            high_quality=close.high_quality,
            share_within_5_percent=near.high_quality,
            modes20_within_5_percent=near.modes20,
            reverse_kl=close.reverse_kl if math.isfinite(close.reverse_kl) else None,
        )
    return scores


def draw(args, gan, players, run_stream, dataset, history, frames, samples, title):
    """summary.png and evolution.gif as bytes; matplotlib is loaded only here."""
    from tinygan.study.plots import as_bytes, toy_evolution, toy_summary

    extent = 1.5 * dataset.radius
    real = tg.to_host(dataset.sample(SAMPLES, run_stream))
    probability = args.loss in ("minimax", "non-saturating")

    def critic(x):
        return gan.critic(players.critic, x)

    summary = as_bytes(
        toy_summary,
        title=title,
        real=real,
        samples=samples,
        extent=extent,
        surface=value_surface(
            critic, extent, of=tg.ops.sigmoid if probability else None, device=args.device
        ),
        surface_label="σ(D(x)), the probability of real" if probability else "D(x)",
        field=gradient_field(
            critic, extent, of=tg.ops.log_sigmoid if probability else None, device=args.device
        ),
        history=history,
    )
    return summary, as_bytes(toy_evolution, frames=frames, real=real, extent=extent)


def main(argv=None):
    args = parse(argv)
    make, usual = DATASETS[args.dataset]
    dataset = make(usual if args.scale is None else args.scale)
    gan = build(args)
    stream = tg.Stream(args.seed, device=args.device)
    probe = stream.child(2).normal((SAMPLES, args.latent))
    marks = {0, *(round(step) for step in np.geomspace(1, args.steps, 24))}
    frames = []

    def watch(step, players):
        if step in marks:
            frames.append((step, tg.to_host(gan.generator(players.generator, probe))))

    def decay(step):
        return min(1.0, 2 * (1 - step / args.steps))

    if not args.quiet:
        print("settings: " + " ".join(f"{k}={v}" for k, v in vars(args).items() if k != "quiet"))
    # Products of small matrices take longer on two threads than on one.
    threads = args.threads or (1 if args.hidden <= 256 else os.cpu_count())
    start, stopped = time.perf_counter(), None
    try:
        with threadpool_limits(threads):
            run = train(
                gan, gan.init(stream.child(0)), dataset.sample, args.steps, stream.child(1),
                batch=args.batch, latent=args.latent, critic_steps=args.critic_steps,
                schedule=decay if args.decay else None, progress=not args.quiet, watch=watch,
                compiled=not args.eager,
            )  # fmt: skip
        players, history = run.players, run.history
        stopped = "Ctrl-C" if run.interrupted else None
    except Diverged as error:
        players, history, stopped = error.players, error.history, str(error)
    seconds = time.perf_counter() - start
    done = history.records[-1].step if history.records else 0
    if done == 0:
        sys.exit(f"nothing was learned: {stopped}")

    samples = tg.to_host(gan.generator(players.generator, probe))
    scores = measure(samples, dataset, tg.Stream(args.seed).child(3))
    report = {
        **scores,
        "seconds": seconds,
        "steps_done": done,
        "stopped": stopped,
        "seed": args.seed,
        "threads": threads,
        "mode": mode(args),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "versions": versions(),
    }
    title = f"{args.dataset}, {args.loss} loss, penalty {args.penalty}, iteration {done:,}"
    summary, evolution = draw(
        args, gan, players, stream.child(4), dataset, history, frames, samples, title
    )
    write_whole(args.out / "samples.npy", array_bytes(samples))
    write_whole(args.out / "history.csv", history.csv().encode())
    write_whole(args.out / "metrics.json", (json.dumps(report, indent=2) + "\n").encode())
    write_whole(args.out / "summary.png", summary)
    write_whole(args.out / "evolution.gif", evolution)
    if not args.quiet:
        for name, value in scores.items():
            print(f"{name:>26}  {value if not isinstance(value, float) else round(value, 4)}")
        print(f"{done:,} iterations in {seconds:.1f} s; results in {args.out}")
    if stopped and stopped != "Ctrl-C":
        sys.exit(f"stopped early: {stopped}")


if __name__ == "__main__":
    main()
