"""Train the classifier behind the image scores, on the digits that come with tinygan.

    python examples/digit_classifier.py                       # half a minute
    python examples/digit_classifier.py --mnist FOLDER        # and measure it on all of MNIST

It learns from the first 4,000 shipped digits, shifted by up to two pixels at random, and is
measured on the last 1,000, which it never sees. Writes classifier.npz to --out; the file in the
package, tinygan/data/digits/classifier.npz, is what this wrote with its default settings.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
from common import check_folder, positive, seed

import tinygan as tg
from tinygan import data, image_scores, ops, optim

SHIFT = 2
SCALING = data.MNIST_NORMALISED  # as image_scores.DigitClassifier scales what it is given
NETWORK = image_scores.NETWORK


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    number, count = positive(float), positive(int)
    add = parser.add_argument
    add("--steps", type=count, default=4000, help="iterations")
    add("--batch", type=count, default=64, help="digits in a batch")
    add("--rate", type=number, default=2e-3, help="Adam's rate at first; it falls to 0")
    add("--seed", type=seed, default=0, help="of all random numbers")
    add("--threads", type=count, default=1, help="threads for large ops")
    add("--mnist", type=Path, help="a folder with MNIST's files: measure on those not shipped")
    add("--out", type=Path, default=Path("runs/digit_classifier"), help="folder for the result")
    add("--quiet", action="store_true", help="no report")
    args = parser.parse_args(argv)
    try:
        check_folder(args.out)
        others = None if args.mnist is None else unseen(data.mnist(args.mnist))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return args, others


def unseen(images):
    """The images that are not among the shipped digits, compared pixel by pixel."""
    shipped = {digit.tobytes() for digit in data.digits().pixels}
    new = [i for i, image in enumerate(images.pixels) if image.tobytes() not in shipped]
    return images.take(new)


def loss(params, images, labels):
    """The cross-entropy, −1/N · Σᵢ log softmax(logits(xᵢ))·yᵢ, with one-hot labels y."""
    chances = ops.log_softmax(NETWORK(params, images))
    return ops.negative(ops.mean(ops.sum(ops.multiply(labels, chances), axis=1)))


def training_step(optimizer):
    """A step down the loss, as one function of arrays, recorded once and replayed."""

    def step(params, state, images, labels, rate):
        tracked = tg.track(params)
        y = loss(tracked, images, labels)
        gradient = tg.grad_values(y, tracked, release=True)
        params, state = optimizer.update(params, gradient, state, rate)
        return params, state, y.data

    return tg.compile(step)


def shifted(pixels, stream):
    """Every image moved by −2 to 2 pixels down and to the right, with black coming in."""
    n, height, width, _ = pixels.shape
    padded = np.pad(pixels, [(0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)])
    top, left = stream.integers((2, n), 2 * SHIFT + 1)
    rows = top[:, None, None] + np.arange(height)[:, None]
    columns = left[:, None, None] + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows, columns]


def fit(images, args, stream):
    """Parameters trained on the images."""
    params = NETWORK.init(stream.child(0))
    optimizer = optim.Adam(args.rate)
    state, step = optimizer.init(params), training_step(optimizer)
    order, shifts = stream.child(1), stream.child(2)
    every = math.ceil(args.steps / 8)
    chosen = np.empty(0, np.int64)
    for done in range(args.steps):
        while len(chosen) < args.batch:
            chosen = np.concatenate([chosen, order.permutation(len(images))])
        batch, chosen = chosen[: args.batch], chosen[args.batch :]
        pixels = SCALING.apply(shifted(images.pixels[batch], shifts))
        labels = ops.one_hot(images.labels[batch], image_scores.CLASSES)
        rate = args.rate * (1 + math.cos(math.pi * done / args.steps)) / 2
        params, state, y = step(params, state, pixels, labels, rate)
        if not args.quiet and (done + 1) % every == 0:
            print(f"step {done + 1:,}: loss {float(y):.4f}")
    return params


def with_unit_features(params, images):
    """The same classifier with features whose mean square over the images is 1.

    hidden/c and c·logits, c² the mean square as it was: a ReLU lets a positive factor through
    """
    features, _ = image_scores.DigitClassifier(params, {})(images.pixels)
    c = np.float32(np.sqrt(np.mean(features.astype(np.float64) ** 2)))
    hidden, logits = params["hidden"], params["logits"]
    hidden = {name: a / c for name, a in hidden.items()}
    return {**params, "hidden": hidden, "logits": {**logits, "weight": logits["weight"] * c}}


def correct(params, images):
    """How many of the images are given the right label."""
    _, probabilities = image_scores.DigitClassifier(params, {})(images.pixels)
    return int(np.sum(probabilities.argmax(axis=1) == images.labels))


def main(argv=None):
    args, others = parse(argv)
    learned, held_out = image_scores.split_digits()
    start = time.perf_counter()
    with tg.threads(args.threads):
        params = with_unit_features(fit(learned, args, tg.Stream(args.seed)), learned)
        right = {"trained": correct(params, learned), "held out": correct(params, held_out)}
    seconds = time.perf_counter() - start
    config = {
        "made_by": "examples/digit_classifier.py",
        "accuracy": right["held out"] / len(held_out),
        "held_out": len(held_out),
        "trained_on": len(learned),
        "accuracy_trained_on": right["trained"] / len(learned),
        "steps": args.steps,
        "batch": args.batch,
        "rate": args.rate,
        "shift": SHIFT,
        "seed": args.seed,
    }
    path = args.out / "classifier.npz"
    tg.save_weights(path, params, config)
    if not args.quiet:
        print(f"{args.steps:,} steps in {seconds:.0f} s; {path}")
        print(f"right on {right['trained']:,} of the {len(learned):,} digits it learned from")
    print(f"right on {right['held out']:,} of {len(held_out):,} held-out digits")
    if others is not None:
        right = correct(params, others)
        print(
            f"right on {right:,} of {len(others):,} digits of {args.mnist} that are not shipped, "
            f"{right / len(others):.2%}"
        )


if __name__ == "__main__":
    main()
