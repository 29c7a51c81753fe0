"""P4's figures 6 and 7: walks through the latent space of DCGAN and of AC-GAN."""

import math
from typing import Any, NamedTuple

import numpy as np
from train import as_digits

import tinygan as tg
from figures.figure import Claim, Figure
from figures.judging import held, share, spread, table, verdict
from figures.p4 import AC_SETTINGS, DCGAN_SHORT, STAND_IN, THINNER, ac_gan, dcgan, of, runs_of
from tinygan import models
from tinygan.image_scores import digit_classifier
from tinygan.study import plots
from tinygan.study.latent import (
    IMAGES,
    NARROW,
    class_grid,
    combination,
    endpoints,
    linear_path,
    path_length,
    spherical_path,
    typical_distance,
    variance_shares,
    with_class,
)

PAIRS = 20  # of endpoints, for each seed
NAMED = 50  # images of each class that are classified
POOL = 1280  # points from which batch norm has its statistics
KINDS = {  # how a path is walked, and the deviation that its ends are drawn with
    "ends of N(0, .02²), linear": (linear_path, NARROW),
    "ends of N(0, 1), linear": (linear_path, 1.0),
    "ends of N(0, 1), spherical": (spherical_path, 1.0),
}
P4S, PRIORS, ARC = KINDS
SUMS = {
    "mean of two": (0.5, 0.5),
    "mean times √2": (math.sqrt(0.5), math.sqrt(0.5)),
    "difference": (1.0, -1.0),
}


class Walker(NamedTuple):
    """A generator at an iteration, as a function of noise and, if it takes one, a class.

    Batch norm has the statistics of many points of the prior, so that each image is made by
    itself: in a batch of a path's own points, nearly equal ones, batch norm would blow up what
    little differs. ``own=True`` does that.

    Args:
        classes: 0 for a generator without.
        noise: how many of its inputs are noise.
    """

    net: Any
    params: Any
    statistics: Any
    classes: int
    noise: int

    def inputs(self, z, label=0):
        """What the generator is given: z, and the class of all of them."""
        return with_class(z, label % self.classes, self.classes) if self.classes else z

    def __call__(self, z, label=0, own=False):
        """Images, floats. Shapes: z (n, noise), returns (n, H, W, C)."""
        return self.net(self.params, self.inputs(z, label), None if own else self.statistics)


def walker(run):
    """The generator that a run ended with."""
    game = getattr(run.game, "gan", run.game)
    net, params, stream = game.generator, run.players[run.last].generator, tg.Stream(98)
    classes = getattr(game, "classes", 0)
    bare = Walker(net, params, None, classes, net.input[0] - classes)
    batches = [stream.normal((POOL // 10, bare.noise)) for _ in range(10)]
    if classes:  # as in training, a batch holds all of them
        batches = [with_class(z, np.arange(len(z)) % classes, classes) for z in batches]
    return bare._replace(statistics=models.standing_statistics(net, params, batches))


def ends_of(noise, kind, n=PAIRS):
    """n paths' points, each between two ends of its own. Shapes: (n, 21, noise)."""
    walk, deviation = KINDS[kind]
    stream = tg.Stream(97)
    ends = [endpoints(stream, noise, deviation=deviation) for _ in range(n)]
    return np.stack([walk(*pair) for pair in ends])


def walked(walk, pairs=PAIRS):
    """What images do along paths of each kind.

    "ends": the distance between the images at the ends, over that between any two samples (of the
    path's class); "largest step" over the mean one; "middle": the length of the middle point, over
    that of points of the prior; "ends, own statistics": with batch norm's of the path itself.
    """
    some = tg.Stream(96).normal((100, walk.noise))
    usual = [typical_distance(walk(some, label)) for label in range(walk.classes or 1)]
    found = {}
    for kind in KINDS:
        points = ends_of(walk.noise, kind, pairs)
        lengths = [path_length(walk(z, i)) for i, z in enumerate(points)]
        itself = [path_length(walk(z, i, own=True)) for i, z in enumerate(points)]
        units = [usual[i % len(usual)] for i in range(pairs)]
        middle = np.linalg.norm(points[:, IMAGES // 2], axis=1).mean() / math.sqrt(walk.noise)
        found[kind] = {
            "ends": float(np.mean([a.chord / b for a, b in zip(lengths, units, strict=True)])),
            "largest_step": float(np.mean([each.unevenness for each in lengths])),
            "middle": float(middle),
            "ends_own_statistics": float(
                np.mean([a.chord / b for a, b in zip(itself, units, strict=True)])
            ),
        }
    return found


def pixels(run, images):
    """Floats as uint8."""
    return run.what.scaling.invert(images)


def paint_paths(grid, run, walk, rows, label=3):
    """For each of (kind of path, whether batch norm is the path's own): the images at the left, at
    the centre and at the right, and all 21."""
    for i, ((three, every), (kind, own)) in enumerate(zip(grid, rows, strict=True)):
        images = pixels(run, walk(ends_of(walk.noise, kind, 1)[0], label, own))
        title = f"class {label}, {kind}" if walk.classes else kind
        title += "; batch norm of these 21" if own else ""
        ends = images[[0, IMAGES // 2, IMAGES - 1]]
        plots.image_panel(three, ends, "" if i else "left, centre, right", 3)
        plots.image_panel(every, images, title, 11)


def path_table(found):
    """The means over the seeds, a row for each kind of path."""
    heads = [
        "path",
        "distance of the end images",
        "the same, batch norm of the path's own",
        "largest step over the mean one",
        "length of the middle point",
    ]
    keys = ("ends", "ends_own_statistics", "largest_step", "middle")
    rows = [
        [kind, *(spread([each[kind][key] for each in found]) for key in keys)] for kind in KINDS
    ]
    return table(heads, rows) + (
        "\n\nDistances are in units of that between any two samples of N(0, 1), of the same class "
        "where there are classes; a middle point's length in units of √100, a point's of N(0, 1). "
        "A largest step of 1 is a path of even steps, of 20 a single jump."
    )


SLOWLY, APART = 4.0, 0.5  # steps that are no jumps; images at the ends that differ


def turns(found, kind):
    """Whether, for each seed, the image at one end turns into another one, without a jump."""
    return [each[kind]["ends"] > APART and each[kind]["largest_step"] < SLOWLY for each in found]


def path_words(found):
    """What is said of the paths of P4's ends and of the prior's."""
    return (
        f"Between P4's ends the image turns into another one, slowly, in {share(turns(found, P4S))}"
        f": their images are {spread([each[P4S]['ends'] for each in found])} of the usual "
        "distance apart. Between ends that are drawn as the generator learned them, N(0, 1), it "
        f"does in {share(turns(found, PRIORS))} on a line and in {share(turns(found, ARC))} on an "
        "arc. "
    )


def draw_dcgan(short, seeds, root):
    """DCGAN's paths."""
    runs = runs_of(dcgan, short, seeds, root)
    walks = [walker(run) for run in runs]

    def paint(grid):
        paint_paths(grid, runs[0], walks[0], [*((kind, False) for kind in KINDS), (P4S, True)])

    picture = plots.png(paint, (8, 5.2), nrows=4, ncols=2, width_ratios=(2.6, 5))
    return Claim({"": picture}, *judge_dcgan([walked(walk) for walk in walks]))


def judge_dcgan(found):
    """Whether the images turn slowly into each other: between P4's ends, and between others."""
    itself = spread([each[P4S]["ends_own_statistics"] for each in found])
    measured = (
        f"{path_words(found)}With batch norm's statistics of the path's own 21 images, as of a "
        f"network left in training mode, P4's ends are {itself} of the usual distance apart: the "
        "first layer is linear and has no bias, so batch norm takes the deviation out again, and "
        "the shortest path looks like any other. P4 does not say which it took.\n\n"
        + path_table(found)
    )
    agrees = verdict(held(turns(found, P4S)), held(turns(found, PRIORS)))
    return measured, {"paths": found}, agrees


def named(walk, run, weights):
    """Of images at combinations of two noises: the share that our classifier names as asked."""
    stream, classify, right = tg.Stream(95), digit_classifier(), []
    for label in range(walk.classes):
        two = stream.normal((2, NAMED * walk.noise))
        z = combination(two, weights).reshape(NAMED, walk.noise)
        likeliest = classify(as_digits(pixels(run, walk(z, label))))[1].argmax(axis=1)
        right.append(np.mean(likeliest == label))
    return float(np.mean(right))


def draw_ac_gan(short, seeds, root):
    """AC-GAN's paths within a class, and a third image from two noises."""
    runs = runs_of(ac_gan, short, seeds, root)
    walks = [walker(run) for run in runs]

    def paint(grid):
        paint_paths(grid[:3], runs[0], walks[0], [(kind, False) for kind in KINDS])
        two = tg.Stream(95).normal((2, walks[0].noise))
        z = np.concatenate([two, combination(two, [SUMS["mean of two"]])])
        grids = class_grid(z, walks[0].classes)
        images = walks[0].net(walks[0].params, grids, walks[0].statistics)
        images = pixels(runs[0], images).reshape(walks[0].classes, 3, *images.shape[1:])
        few, every = grid[3]
        plots.image_panel(few, images[3], "noise 1, noise 2, their mean", 3)
        every_row = images.swapaxes(0, 1).reshape(-1, *images.shape[2:])
        title = "noise 1, noise 2, their mean; classes 0 to 9"
        plots.image_panel(every, every_row, title, walks[0].classes)

    ratios = {"width_ratios": (2.6, 5), "height_ratios": (2, 2, 2, 3)}
    picture = plots.png(paint, (8, 6), dpi=95, nrows=4, ncols=2, **ratios)
    grids = [class_grid(tg.Stream(94).normal((40, walk.noise)), walk.classes) for walk in walks]
    numbers = {
        "paths": [walked(walk) for walk in walks],
        "named_as_asked": {
            name: [named(*pair, weights) for pair in zip(walks, runs, strict=True)]
            for name, weights in {"one noise": (1.0, 0.0), **SUMS}.items()
        },
        "variance": [
            variance_shares(walk.net(walk.params, z, walk.statistics), walk.classes)._asdict()
            for walk, z in zip(walks, grids, strict=True)
        ],
    }
    return Claim({"": picture}, *judge_ac_gan(numbers))


LOST = 0.5  # of what one noise has named as asked: a sum with less has lost its class


def judge_ac_gan(numbers):
    """Whether combinations lose their class, and whether the noise says more than the class."""
    asked, parts = numbers["named_as_asked"], numbers["variance"]
    pairs = zip(asked["one noise"], asked["mean of two"], strict=True)
    loses = [mixed < LOST * single for single, mixed in pairs]
    noisy = [each["columns"] > each["rows"] for each in parts]
    slow = turns(numbers["paths"], PRIORS)
    rows = [
        [name, f"{math.sqrt(sum(w * w for w in weights)):.2f}", spread(asked[name], ".0%")]
        for name, weights in {"one noise": (1.0, 0.0), **SUMS}.items()
    ]
    measured = (
        f"{path_words(numbers['paths'])}Our classifier of digits names "
        f"{spread(asked['one noise'], '.0%')} of the images of one noise as asked, and "
        f"{spread(asked['mean of two'], '.0%')} of those of the mean of two: less than half as "
        f"many in {share(loses)}. Of the variance of images at 40 noises in 10 classes, the class "
        "alone accounts for "
        f"{spread([each['rows'] for each in parts], '.0%')}, the noise alone for "
        f"{spread([each['columns'] for each in parts], '.0%')}, and what a noise does in one class "
        f"and not in another for {spread([each['both'] for each in parts], '.0%')}; the noise has "
        f"more than the class in {share(noisy)}.\n\n"
        + path_table(numbers["paths"])
        + "\n\n"
        + table(["combination of noises", "its deviation", "named as asked"], rows)
    )
    return measured, numbers, verdict(held(slow), held(loses), held(noisy))


FIGURES = {
    "P4.F6": Figure(
        "A walk through DCGAN's latent space",
        "On the way from one latent point to another, in 21 images, the object at one end slowly "
        "turns into that at the other. P4 draws the ends from N(0, .02²).",
        f"DCGAN as in figure 2; {STAND_IN}; 21 images from λ 0 to 1, evenly.",
        f"{THINNER}; {DCGAN_SHORT}",
        of(dcgan),
        draw_dcgan,
    ),
    "P4.F7": Figure(
        "A walk through AC-GAN's latent space, and a third image from two noises",
        "The same within AC-GAN. The image of a linear combination of two noises hardly shows the "
        "class that it was made for: the latent point counts for more than the label.",
        AC_SETTINGS,
        f"{THINNER}; 1,500 iterations",
        of(ac_gan),
        draw_ac_gan,
    ),
}
