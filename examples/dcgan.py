"""Train a convolutional GAN on images: the shipped digits, or images of your own.

    python examples/dcgan.py                                  # digits, a few minutes
    python examples/dcgan.py --preset p0 --weight 10          # a paper's settings
    python examples/dcgan.py --preset p4-wgan --data cifar-10-python.tar.gz

Writes sample grids while it trains (samples_*.png), and at the end samples.npy, curves.png,
history.csv, generator.npz, critic.npz and metrics.json to --out (with --standing also
statistics.npz). Ctrl-C stops early and still writes them.
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
    LOSSES,
    NORMS,
    PENALTIES,
    PRIORS,
    add_eager,
    array_bytes,
    check_folder,
    chosen_preset,
    fraction,
    mode,
    not_negative,
    positive,
    seed,
    versions,
    write_whole,
)

import tinygan as tg
from tinygan import data, models, optim
from tinygan.backend import check_device
from tinygan.study.plots import as_bytes, image_grid, training_curves
from tinygan.train import GAN, Diverged, train

SAMPLES = 100
SCALING = data.SIGNED  # every generator here ends in a tanh
MODELS = {  # the networks and the images' size
    "dcgan28": (models.dcgan28, 28),
    "dcgan32": (models.dcgan32, 32),
    "dcgan64": (models.dcgan64, 64),
}

DEFAULT = dict(
    data="digits", model="dcgan28", width=0.5, kernel=None, norm=None, critic_norm=None,
    filters=None, tanh=False, clip_everything=False,
    loss="non-saturating", penalty="0-gp", weight=1.0, optimizer="adam", lr_g=5e-4, lr_d=5e-4,
    betas=(0.5, 0.999), clip=None, average=False, batch=64, critic_steps=1, generator_steps=1,
    prior="normal", steps=3000,
)  # fmt: skip
PRESETS = {  # what differs from the default; sources in the comments
    "digits": {},
    # Patel & Siddiki, Effects of Gradient Penalty on GANs: λ 0, 1, 10 by --weight (0 is none)
    "p0": dict(width=1.0, penalty="1-gp", lr_g=2e-4, lr_d=2e-4, prior="uniform", steps=4000),
    # Analyzing Stability and Properties of GANs: DCGAN, its Table 1 and 2
    "p4-dcgan": dict(
        model="dcgan32", width=1.0, penalty="none", lr_g=2e-4, lr_d=2e-4, average=True,
        batch=128, steps=39000,
    ),
    # the same, WGAN, Tables 4 and 5, 100 epochs; the rate 5e-4 in its text is a misprint. As the
    # WGAN authors' code clips batch norm's scales too; without that nothing is learned here
    "p4-wgan": dict(
        model="dcgan32", width=1.0, loss="wasserstein", penalty="none", optimizer="rmsprop",
        lr_g=5e-5, lr_d=5e-5, clip=0.01, clip_everything=True, critic_steps=5, steps=15625,
    ),
    # Gulrajani et al. (2017): images, with layer norm in place of batch norm in the critic
    "wgan-gp": dict(
        model="dcgan32", width=1.0, critic_norm="layer", loss="wasserstein", penalty="1-gp",
        weight=10.0,
        lr_g=1e-4, lr_d=1e-4, betas=(0.5, 0.9), critic_steps=5, steps=20000,
    ),
}  # fmt: skip


def parse(argv):
    """Settings from the command line: an option, else the preset's value, else the default."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(**{**DEFAULT, **PRESETS[chosen_preset(argv, PRESETS, "digits")]})
    number, count = positive(float), positive(int)
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="digits", help="settings to start from")
    add("--data", help="'digits', or a path: IDX, CIFAR-10, .npy, .npz, a folder of images")
    add("--model", choices=MODELS, help="the networks")
    add("--width", type=number, help="multiplies the networks' channels")
    add("--kernel", type=int, choices=(4, 5), help="of dcgan32 and dcgan64; 4 without it")
    add("--norm", choices=NORMS, help="of dcgan32 and dcgan64; batch without it")
    add("--critic-norm", choices=NORMS, help="of the critic alone; --norm without it")
    add("--filters", type=count, help="the same channels in all hidden layers of G")
    add("--tanh", action="store_true", help="tanh in all hidden layers")
    add("--loss", choices=LOSSES, help="the objectives of both sides")
    add("--penalty", choices=PENALTIES, help="the critic's gradient penalty, on the logit")
    add("--weight", type=not_negative, help="λ, the penalty's weight; 0 is no penalty")
    add("--optimizer", choices=("rmsprop", "adam"), help="for both sides")
    add("--lr-g", type=number, help="the generator's rate")
    add("--lr-d", type=number, help="the critic's rate")
    add("--betas", type=fraction, nargs=2, metavar="β", help="Adam's decay rates")
    add("--clip", type=number, help="limit of the critic's weights after each step")
    add(
        "--clip-everything",
        action=argparse.BooleanOptionalAction,
        help="clip the norms' scales and shifts too",
    )
    add("--average", action=argparse.BooleanOptionalAction, help="halve the critic's loss")
    add("--batch", type=count, help="samples in a batch")
    add("--critic-steps", type=count, help="critic steps in an iteration")
    add("--generator-steps", type=count, help="generator steps in an iteration")
    add("--prior", choices=PRIORS, help="of the latent points: N(0, I) or U[-1, 1)")
    add("--steps", type=count, help="iterations")
    add("--epochs", type=number, help="passes over the data by the critic, instead of --steps")
    add("--standing", action="store_true", help="sample with batch norm's standing statistics")
    add("--every", type=count, help="iterations between sample grids; without it 8 in all")
    add("--seed", type=seed, default=0, help="of all random numbers")
    add("--device", choices=("cpu", "gpu"), default="cpu", help="where to compute")
    add("--threads", type=count, default=os.cpu_count(), help="threads for large ops")
    add_eager(parser)
    add("--out", type=Path, default=Path("runs/dcgan"), help="folder for the results")
    add("--quiet", action="store_true", help="no progress bar and no report")
    args = parser.parse_args(argv)
    settle(args, parser)
    try:
        check_device(args.device)
        check_folder(args.out)
        images = read(args)
        gan = build(args, images)
    except (RuntimeError, OSError, ValueError) as error:
        parser.error(str(error))
    return args, images, gan


def settle(args, parser):
    """Settings that do not apply become None, so that no report says that they did."""
    if args.model == "dcgan28":
        for name in ("kernel", "norm", "critic_norm"):
            if getattr(args, name) is not None:
                option = "--" + name.replace("_", "-")
                parser.error(f"{option} is not for dcgan28, of kernel 5 without norms")
    else:
        args.kernel, args.norm = args.kernel or 4, args.norm or "batch"
        args.critic_norm = args.critic_norm or args.norm
    if args.weight == 0:
        args.penalty = "none"
    if args.penalty == "none":
        args.weight = None
    if args.optimizer != "adam":
        args.betas = None


def read(args):
    """The images in the size of the model, padded with black where they are smaller.

    Those of dcgan32 and dcgan64 have three channels: grey is repeated.
    """
    _, size = MODELS[args.model]
    images = data.open_images(args.data, size=size)
    if args.model != "dcgan28" and images.shape[2] == 1:
        images = images.repeated(3)
    if max(images.shape[:2]) < size:
        images = images.padded(size)
    if images.shape[:2] != (size, size):
        raise ValueError(
            f"--data {args.data} has images of {images.shape}; --model {args.model} expects "
            f"({size}, {size}, 1 or 3). Choose another model"
        )
    return images


def build(args, images):
    """The game that the settings describe."""
    networks = MODELS[args.model][0]
    settings = dict(channels=images.shape[2], width=args.width, generator_filters=args.filters)
    if args.tanh:
        settings["activations"] = (tg.ops.tanh, tg.ops.tanh)
    if args.model == "dcgan28":
        pair = networks(**settings, latent=100, output=tg.ops.tanh)
    else:
        generator = networks(**settings, kernel=args.kernel, norm=NORMS[args.norm]).generator
        critic = networks(**settings, kernel=args.kernel, norm=NORMS[args.critic_norm]).critic
        pair = models.Pair(generator, critic)
    SCALING.check_reach(*pair.generator.reach)
    if args.optimizer == "adam":
        g, d = (optim.Adam(rate, tuple(args.betas)) for rate in (args.lr_g, args.lr_d))
    else:
        g, d = optim.RMSProp(args.lr_g), optim.RMSProp(args.lr_d)
    make = PENALTIES[args.penalty]
    if make and pair.critic.mixes_samples:
        raise ValueError(
            f"--penalty {args.penalty} with batch norm in the critic: a sample's slope would hold "
            "other samples' slopes. Use --critic-norm layer or none, or --penalty none"
        )
    return GAN(
        pair.generator, pair.critic, g, d, LOSSES[args.loss],
        penalty=make(args.weight) if make else None, clip=args.clip, average=args.average,
        clip_everything=args.clip_everything,
        one_batch=not pair.critic.mixes_samples,
    )  # fmt: skip


def main(argv=None):
    args, images, gan = parse(argv)
    stream = tg.Stream(args.seed, device=args.device)
    shuffled = data.Shuffled(images, SCALING, stream.child(4).key)
    prior, latent = PRIORS[args.prior], gan.generator.input[0]
    per_step = args.batch * args.critic_steps
    steps = args.steps if args.epochs is None else math.ceil(args.epochs * len(images) / per_step)
    args.steps = steps  # what the report says
    every = args.every or math.ceil(steps / 8)
    probe = prior(stream.child(2), (SAMPLES, latent), np.float32)

    def samples_of(players, statistics=None):
        with np.errstate(all="ignore"):
            samples = tg.to_host(gan.generator(players.generator, probe, statistics))
        return SCALING.invert(np.nan_to_num(samples))  # grey where a large generator overflows

    def save_grid(step, samples):
        write_whole(args.out / f"samples_{step:06d}.png", as_bytes(image_grid, images=samples))

    def watch(step, players):
        if 0 < step < steps and step % every == 0:
            save_grid(step, samples_of(players))

    if not args.quiet:
        print(gan.generator, gan.critic, sep="\n\n", end="\n\n")
        print(f"{len(images):,} images of {images.name}, {steps:,} iterations")
    start, stopped = time.perf_counter(), None
    with tg.threads(args.threads):
        players = gan.init(stream.child(0))
        try:
            run = train(
                gan, players, shuffled.sample, steps, stream.child(1), batch=args.batch,
                latent=latent, critic_steps=args.critic_steps,
                generator_steps=args.generator_steps, prior=prior, progress=not args.quiet,
                watch=watch, compiled=not args.eager,
            )  # fmt: skip
            players, history = run.players, run.history
            stopped = "Ctrl-C" if run.interrupted else None
        except Diverged as error:
            players, history, stopped = error.players, error.history, str(error)
        seconds = time.perf_counter() - start
        done = history.records[-1].step if history.records else 0
        if done == 0:
            sys.exit(f"nothing was learned: {stopped}")
        statistics = None
        if args.standing:
            points = stream.child(3)
            batches = [prior(points, (args.batch, latent), np.float32) for _ in range(20)]
            statistics = models.standing_statistics(gan.generator, players.generator, batches)
        samples = samples_of(players, statistics)

    last = history.records[-1]
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    report = {
        "critic_loss": last.critic_loss,
        "penalty": last.penalty,
        "generator_loss": last.generator_loss,
        "critic_gradient": last.critic_gradient,
        "generator_gradient": last.generator_gradient,
        "seconds": seconds,
        "seconds_per_iteration": seconds / done,
        "steps_done": done,
        "epochs_done": done * per_step / len(images),
        "stopped": stopped,
        "mode": mode(args),
        "data": {"name": images.name, "images": len(images), "shape": images.shape},
        "parameters": {
            "generator": models.count_parameters(players.generator),
            "critic": models.count_parameters(players.critic),
        },
        "settings": settings,
        "versions": versions(),
    }
    title = f"{args.model}, {args.loss} loss, penalty {args.penalty}" + (
        f" (λ {args.weight:g})" if args.penalty != "none" else ""
    )
    save_grid(done, samples)
    write_whole(args.out / "samples.npy", array_bytes(samples))
    write_whole(args.out / "history.csv", history.csv().encode())
    write_whole(args.out / "curves.png", as_bytes(training_curves, title=title, history=history))
    tg.save_weights(args.out / "generator.npz", players.generator, settings)
    tg.save_weights(args.out / "critic.npz", players.critic, settings)
    if statistics:
        tg.save_weights(args.out / "statistics.npz", statistics, settings)
    write_whole(args.out / "metrics.json", (json.dumps(report, indent=2) + "\n").encode())
    if not args.quiet:
        print(f"{done:,} iterations in {seconds:.1f} s; results in {args.out}")
    if stopped and stopped != "Ctrl-C":
        sys.exit(f"stopped early: {stopped}")


if __name__ == "__main__":
    main()
