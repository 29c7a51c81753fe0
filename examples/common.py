"""What the examples share: the kinds of their options, and files that are written whole."""

import argparse
import io
import math
import os
import platform
import tempfile

import numpy as np

import tinygan as tg
from tinygan import losses, nn, penalties
from tinygan.train import normal_prior, uniform_prior

LOSSES = {
    "minimax": losses.MINIMAX,
    "non-saturating": losses.NON_SATURATING,
    "wasserstein": losses.WASSERSTEIN,
    "least-squares": losses.LEAST_SQUARES,
    "hinge": losses.HINGE,
}
PENALTIES = {
    "none": None,
    "0-gp": penalties.zero_gp,
    "0-gp-sample": penalties.zero_gp_sample,
    "1-gp": penalties.one_gp,
    "lp": penalties.lp,
    "r1": penalties.r1,
    "r2": penalties.r2,
    "dragan": penalties.dragan,
}
INITS = {  # weights, biases
    "he-uniform": (nn.he_uniform, nn.zeros),
    "he-normal": (nn.he_normal, nn.zeros),
    "xavier-uniform": (nn.xavier_uniform, nn.zeros),
    "xavier-normal": (nn.xavier_normal, nn.zeros),
    "normal-.02": (nn.Normal(0.02), nn.zeros),
    "fan-in": (nn.fan_in_uniform, nn.fan_in_uniform),
    "orthogonal": (nn.Orthogonal(1.4), nn.zeros),
}
ACTIVATIONS = {"relu": tg.ops.relu, "leaky-relu": tg.ops.leaky_relu, "tanh": tg.ops.tanh}
NORMS = {"batch": nn.BatchNorm, "layer": nn.LayerNorm, "none": None}
PRIORS = {"normal": normal_prior, "uniform": uniform_prior}


def one_prior(stream, shape, dtype):
    """Latent points that are all 1: a game of a single point."""
    return tg.to_device(np.ones(shape, dtype), stream.device)


def chosen_preset(argv, presets, default):
    """The preset that the command line names, found first: --help can then show its values."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", choices=presets, default=default)
    return parser.parse_known_args(argv)[0].preset


def positive(kind):
    def parse_number(text):
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
        return value

    parse_number.__name__ = kind.__name__
    return parse_number


def not_negative(text):
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


not_negative.__name__ = "float"  # what argparse calls it where the text is no number


def within(interval, fits):
    """The kind of an option that takes the numbers for which ``fits`` holds: ``interval``."""

    def parse_number(text):
        value = float(text)
        if not fits(value):
            raise argparse.ArgumentTypeError(f"{text} is not in {interval}")
        return value

    parse_number.__name__ = "float"
    return parse_number


fraction = within("[0, 1)", lambda value: 0 <= value < 1)


def count_from_zero(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return value


count_from_zero.__name__ = "int"


def seed(text):
    value = int(text)
    if not 0 <= value < 1 << 128:
        raise argparse.ArgumentTypeError(f"{text} is no seed; expected 0 to 2**128 - 1")
    return value


def add_eager(parser):
    """The option of all examples that train."""
    parser.add_argument(
        "--eager", action="store_true", help="train op by op instead of compiled: slower, for study"
    )


def mode(args):
    """How a run trained, for its report."""
    return "eager" if args.eager else "compiled"


def check_folder(out, option="--out"):
    """Make the folder that an option names, and try a file in it, before any work."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise OSError(
            f"{option} {out} cannot be written: {error.strerror}; name another"
        ) from error


def write_whole(path, content):
    """Write bytes so that ``path`` holds the old content or the new, never a part."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def versions():
    """What made a run, for its report."""
    return {
        "tinygan": tg.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def array_bytes(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
