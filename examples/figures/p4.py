"""P4, *Analyzing Stability and Properties of GANs*: DCGAN, WGAN and AC-GAN.

Figures 6 and 7, of the latent space, are in :mod:`figures.p4_latent`.
"""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np

import tinygan as tg
from figures.figure import Claim, Figure
from figures.judging import held, share, spread, table, verdict
from figures.p2 import ablation
from figures.plane import of_few_colours
from figures.runs import Training, trained
from figures.scoring import floor, scores, shown
from tinygan.image_scores import digit_classifier
from tinygan.study import plots
from tinygan.study.layers import SWEEP, THRESHOLD, Recorder

STAND_IN = (
    "here on the 5,000 digits of the package, 32×32 in three equal channels, in CIFAR-10's place, "
    "for as many iterations as P4's epochs of CIFAR-10 take"
)
THINNER = "networks of a quarter of the width"
DCGAN_SHORT = "DCGAN with batches of 64 for 128, 1,500 iterations"
NAMED = 1000  # images that are classified
EARLY = ("conv0", "conv1", "conv2")  # P4's layers 1 to 3


def dcgan(short, seed, data=None):
    """P4's DCGAN; shortened, with batches of 64. ``data`` is a path to other images."""
    if short:
        return on(data, ablation("gan", "dcgan", True, seed))
    return on(data, Training("p4-dcgan", 39000, tuple(range(0, 39001, 1500)), {}, seed))


def wgan(short, seed, data=None):
    """P4's WGAN, likewise."""
    if short:
        return on(data, ablation("wgan", "dcgan", True, seed))
    return on(data, Training("p4-wgan", 15625, tuple(range(0, 15626, 625)), {}, seed))


def on(data, training):
    """A training on other images, if there are any."""
    return training if data is None else replace(training, opened={"name": str(data)})


def ac_gan(short, seed):
    """P4's AC-GAN."""
    if short:
        return Training("ac-gan", 1500, (0, 500, 1000, 1500), {"width": 0.25}, seed)
    return Training("ac-gan", 50000, (0, 10000, 25000, 50000), {}, seed)


def runs_of(make, short, seeds, root):
    """The finished runs of one system, a seed each.

    Raises: ValueError for a run that diverged: scores of an earlier mark are not those of the end.
    """
    runs = [trained(make(short, seed), root) for seed in seeds]
    for run in runs:
        if run.record["stopped"]:
            raise ValueError(
                f"{run.training.name} diverged ({run.record['stopped']}); expected a run of all "
                f"its {run.training.steps:,} iterations. Take other seeds"
            )
    return runs


def of(*makers):
    """The jobs of a figure that shows these systems."""
    return lambda short, seeds: [make(short, seed) for seed in seeds for make in makers]


def no_runs(short, seeds):
    """The jobs of a figure without runs."""
    return []


# Figure 1: the data


def draw_data(short, seeds, root):
    """A row of images for each class."""
    what, _ = ac_gan(short, 0).built()
    counts = np.bincount(what.images.labels)
    rows = [np.flatnonzero(what.images.labels == label)[:10] for label in range(len(counts))]
    images = what.images.take(np.concatenate(rows)).pixels

    def paint(axes):
        plots.image_panel(axes, images, "The data: a row for each class")

    numbers = {
        "images": len(what.images),
        "classes": len(counts),
        "shape": list(what.images.shape),
        "smallest_class": int(counts.min()),
        "largest_class": int(counts.max()),
    }
    size = "×".join(map(str, numbers["shape"]))
    measured = (
        f"{numbers['images']:,} images of {size} in {numbers['classes']} classes of "
        f"{numbers['smallest_class']} to {numbers['largest_class']}: the package's digits, which "
        "stand in for CIFAR-10. With CIFAR-10's own file at hand, `python examples/train.py "
        "--system p4-dcgan --data cifar-10-python.tar.gz` trains on that, and `--system p4-wgan` "
        "and `--system ac-gan` likewise."
    )
    return Claim({"": plots.png(paint, (4, 4.2))}, measured, numbers, "")


# Figures 2, 3 and 5: samples

KEPT = ("frechet_distance", "precision", "recall", "inception_style_score", "classes")
HEADS = ["images", "Fréchet distance", "precision", "recall", "score", "classes"]
FORMS = (".1f", ".2f", ".2f", ".2f", ".1f")


def worth(run, step):
    """The scores that are reported of 1,000 samples after ``step`` iterations."""
    found = scores(run, step)
    return {name: found[name] for name in KEPT}


def score_rows(named):
    """Table rows of (name, [scores of each seed])."""
    return [
        [name] + [spread([s[key] for s in each], form) for key, form in zip(KEPT, FORMS)]  # noqa: B905
        for name, each in named
    ]


def score_table(named):
    """The scores of several systems and, below, of as many other real digits."""
    rows = score_rows([*named, ("other real digits", [floor()])])
    return table(HEADS, rows) + (
        "\n\nMean ± standard error over the seeds, of 1,000 images each. Scores are our own digit "
        "classifier's: the distance is 0 at best, precision is the share of images that lie among "
        "real ones, the score at best 10."
    )


def seed_panels(runs, step, title):
    """The samples of each seed, side by side."""
    columns = 6 if len(runs) > 1 else 10

    def paint(grid):
        for axes, run in zip(grid[0], runs, strict=True):
            name = f"{title}, seed {run.training.seed}" if len(runs) > 1 else title
            plots.image_panel(axes, run.images(step, 8 * columns), name, columns)

    size = (3.1 * len(runs), 4.7) if len(runs) > 1 else (4.2, 3.6)
    return of_few_colours(plots.png(paint, size, ncols=len(runs), squeeze=False))


def draw_dcgan(short, seeds, root):
    """DCGAN's samples at the end, scored beside those before training."""
    runs = runs_of(dcgan, short, seeds, root)
    end = runs[0].last
    first, last = ([worth(run, step) for run in runs] for step in (0, end))
    real = {name: floor()[name] for name in KEPT}
    numbers = {"iterations": end, "before": first, "after": last, "other_real": real}
    return Claim({"": seed_panels(runs, end, f"DCGAN, iteration {end:,}")}, *judge_dcgan(numbers))


def judge_dcgan(numbers):
    """Better than at first, and not yet real: what "beginning" means in numbers."""
    key = "frechet_distance"
    first, last = numbers["before"], numbers["after"]
    real = numbers["other_real"]
    begins = [b[key] < a[key] / 2 for a, b in zip(first, last, strict=True)]
    lacks = [b[key] > 2 * real[key] for b in last]
    end = f"DCGAN, {numbers['iterations']:,} iterations"
    measured = (
        f"The distance to the data more than halves in {share(begins)}; it stays more than twice "
        f"that of other real digits in {share(lacks)}.\n\n"
        + score_table([("before training", first), (end, last)])
    )
    return measured, numbers, verdict(held(begins), held(lacks))


def equal_wgan(short):
    """Iterations of DCGAN and of WGAN for equally many epochs.

    Short, as P4 counts: a batch of 64 for each step of G (which P4's D saw five times over). In
    full, as D sees them: WGAN's five batches in an iteration are fresh ones.
    """
    return (1000, 1000) if short else (39000, 15625)


def draw_wgan(short, seeds, root):
    """WGAN's samples beside DCGAN's at equal epochs."""
    standard, wasserstein = (runs_of(make, short, seeds, root) for make in (dcgan, wgan))
    i, j = equal_wgan(short)
    numbers = {
        "dcgan_iterations": i,
        "wgan_iterations": j,
        "dcgan": [worth(run, i) for run in standard],
        "wgan": [worth(run, j) for run in wasserstein],
        "dcgan_cpu_seconds_per_iteration": [
            run.record["cpu_seconds"] / run.training.steps for run in standard
        ],
        "wgan_cpu_seconds_per_iteration": [
            run.record["cpu_seconds"] / run.training.steps for run in wasserstein
        ],
    }
    pictures = {"": seed_panels(wasserstein, j, f"WGAN, iteration {j:,}")}
    return Claim(pictures, *judge_wgan(numbers))


def judge_wgan(numbers):
    """Whether WGAN's images are the worse ones, and its iterations the longer ones."""
    pairs = list(zip(numbers["dcgan"], numbers["wgan"], strict=True))
    farther = [b["frechet_distance"] > a["frechet_distance"] for a, b in pairs]
    unlike = [b["precision"] < a["precision"] for a, b in pairs]
    times = [numbers[f"{name}_cpu_seconds_per_iteration"] for name in ("dcgan", "wgan")]
    slower = [b > a for a, b in zip(*times, strict=True)]
    ratio = [b / a for a, b in zip(*times, strict=True)]
    measured = (
        f"WGAN's images are farther from the data than DCGAN's in {share(farther)}, and fewer of "
        f"them lie among real ones in {share(unlike)}. An iteration of WGAN takes "
        f"{spread(ratio, '.1f')} times as long.\n\n"
        + score_table(
            [
                (f"DCGAN, {numbers['dcgan_iterations']:,} iterations", numbers["dcgan"]),
                (f"WGAN, {numbers['wgan_iterations']:,} iterations", numbers["wgan"]),
            ]
        )
    )
    return measured, numbers, verdict(held(farther), held(unlike), held(slower))


def equal_ac_gan(short):
    """Iterations of DCGAN and of AC-GAN for equally many epochs, to a twentieth."""
    return (1500, 1000) if short else (39000, 50000)


def draw_ac_gan(short, seeds, root):
    """AC-GAN's samples by class, beside DCGAN's scores at equal epochs."""
    standard, auxiliary = (runs_of(make, short, seeds, root) for make in (dcgan, ac_gan))
    i, j = equal_ac_gan(short)
    end, classify = auxiliary[0].last, digit_classifier()
    named = []
    for run in auxiliary:
        likeliest = classify(shown(run, end, NAMED))[1].argmax(axis=1)
        named.append(float(np.mean(likeliest == np.arange(NAMED) % 10)))  # classes go round
    numbers = {
        "dcgan_iterations": i,
        "ac_gan_iterations": j,
        "last_iteration": end,
        "dcgan": [worth(run, i) for run in standard],
        "ac_gan": [worth(run, j) for run in auxiliary],
        "ac_gan_last": [worth(run, end) for run in auxiliary],
        "named_as_asked": named,
    }

    def paint(grid):
        for axes, run in zip(grid[0], auxiliary, strict=True):
            columns = 6 if len(auxiliary) > 1 else 10
            images = run.images(end, 10 * columns)  # the class goes round: down, then across
            order = np.arange(10 * columns).reshape(columns, 10).T.ravel()
            title = f"AC-GAN, iteration {end:,}"
            title += f", seed {run.training.seed}" if len(auxiliary) > 1 else ""
            plots.image_panel(axes, images[order], title, columns)

    size = (3.1 * len(auxiliary), 5.6) if len(auxiliary) > 1 else (4.2, 4.4)
    pictures = {"": of_few_colours(plots.png(paint, size, ncols=len(auxiliary), squeeze=False))}
    return Claim(pictures, *judge_ac_gan(numbers))


def judge_ac_gan(numbers):
    """Whether AC-GAN's images are better than DCGAN's."""
    pairs = list(zip(numbers["dcgan"], numbers["ac_gan"], strict=True))
    nearer = [b["frechet_distance"] < a["frechet_distance"] for a, b in pairs]
    like = [b["precision"] > a["precision"] for a, b in pairs]
    clear = [b["inception_style_score"] > a["inception_style_score"] for a, b in pairs]
    recall = [spread([each[i]["recall"] for each in pairs]) for i in (0, 1)]
    measured = (
        "At equal epochs AC-GAN's images have the higher score, for being surely of some class, in "
        f"{share(clear)}; more of them lie among real ones in {share(like)}, and they are nearer "
        f"to the data as a whole in {share(nearer)}: of the real images {recall[1]} lie among "
        f"AC-GAN's and {recall[0]} among DCGAN's. At the end "
        f"{spread(numbers['named_as_asked'], '.0%')} of AC-GAN's images are what was asked for, by "
        "our classifier of digits (10% by chance). A row of the picture is a class, 0 to 9.\n\n"
        + score_table(
            [
                (f"DCGAN, {numbers['dcgan_iterations']:,} iterations", numbers["dcgan"]),
                (f"AC-GAN, {numbers['ac_gan_iterations']:,} iterations", numbers["ac_gan"]),
                (f"AC-GAN, {numbers['last_iteration']:,} iterations", numbers["ac_gan_last"]),
            ]
        )
    )
    return measured, numbers, verdict(held(nearer), held(like), held(clear))


# Figure 4: vanishing gradients


def gradients_of(run, change=lambda critic: critic):
    """The gradients of D's convolutions at all marks: how many there are, and how many are small.

    On a batch of its own at each mark, as large as the run's.

    Args:
        change: what is made of D's parameters before.
    Shapes: steps (marks,), sizes (layers,), counts below each threshold (marks, layers, T).
    """
    thresholds = tuple(sorted({*SWEEP, THRESHOLD}))
    recorder = Recorder(
        run.game, run.what.sample, tg.Stream(7), every=1, thresholds=thresholds, sides=("critic",)
    )
    for step in sorted(run.players):
        players = run.players[step]
        recorder(step, SimpleNamespace(generator=players.generator, critic=change(players.critic)))
    rows = [
        [each for each in record.critic if each.name.startswith("conv")]
        for record in recorder.records
    ]
    return {
        "steps": [record.step for record in recorder.records],
        "layers": [each.name.partition(".")[0] for each in rows[0]],
        "sizes": [each.size for each in rows[0]],
        "thresholds": list(thresholds),
        "below": [[list(each.below) for each in row] for row in rows],
        "zeros": [[each.zeros for each in row] for row in rows],
        "histograms": [[list(each.histogram) for each in row] for row in rows],
    }


def unscaled(critic):
    """A critic with the scales of its norms at 1, as before training."""
    return {
        name: layer | {"scale": np.ones_like(layer["scale"])} if "scale" in layer else layer
        for name, layer in critic.items()
    }


def fractions(found, threshold=THRESHOLD):
    """The share of each layer's gradient below a threshold. Shapes: (marks, layers)."""
    below = np.array(found["below"])[..., found["thresholds"].index(threshold)]
    return below / np.array(found["sizes"])


def early(found, threshold=THRESHOLD):
    """The mean share of D's first three layers below a threshold. Shapes: (marks,)."""
    layers = [found["layers"].index(name) for name in EARLY]
    return fractions(found, threshold)[:, layers].mean(axis=1)


def ends(course):
    """A course before training, and the mean of its last quarter."""
    return float(course[0]), float(course[-max(1, len(course) // 4) :].mean(axis=0))


def draw_gradients(short, seeds, root, data=None):
    """Counts, fractions and a sweep of DCGAN beside WGAN."""
    runs = {
        name: runs_of(partial(make, data=data), short, seeds, root)
        for name, make in {"dcgan": dcgan, "wgan": wgan}.items()
    }
    numbers = {name: [gradients_of(run) for run in each] for name, each in runs.items()}
    numbers["wgan_with_scales_of_1"] = [gradients_of(run, unscaled) for run in runs["wgan"]]

    def paint(grid):
        for column, (name, title) in enumerate({"dcgan": "DCGAN", "wgan": "WGAN"}.items()):
            paint_gradients([row[column] for row in grid], numbers[name], title)
        for row in grid:
            row[1].set(ylabel="")
            top = max(axes.get_ylim()[1] for axes in row)
            for axes in row:
                axes.set_ylim(0, max(top, 1.0))
        grid[0][1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="layer of D")

    pictures = {"": plots.png(paint, (8, 7.6), dpi=100, nrows=3, ncols=2, sharey="row")}
    for name, title in {"dcgan": "DCGAN", "wgan": "WGAN"}.items():
        first = numbers[name][0]
        pictures[f"-{name}"] = plots.as_bytes(
            plots.gradient_histograms,
            title=f"{title}: gradients of D's layers, seed {seeds[0]}",
            steps=np.array(first["steps"]),
            names=[str(i + 1) for i in range(len(first["layers"]))],
            counts=np.array(first["histograms"]),
        )
    return Claim(pictures, *judge_gradients(numbers))


def paint_gradients(column, found, title):
    """Three panels of one system: a line for each layer, the mean over the seeds."""
    from matplotlib import colormaps

    count, part, sweep = column
    first = found[0]
    steps, thresholds = first["steps"], np.array(first["thresholds"])
    for i in range(len(first["layers"])):
        color = colormaps["viridis"](0.9 * i / max(1, len(first["layers"]) - 1))
        label = f"{i + 1}: {first['sizes'][i]:,} weights"
        shares = np.stack([fractions(each)[:, i] for each in found])
        mean = shares.mean(axis=0)
        with np.errstate(divide="ignore"):  # a layer may have none: log 0 is not drawn
            logs = np.log10(mean * first["sizes"][i])
        count.plot(steps, np.where(np.isfinite(logs), logs, np.nan), color=color, label=label)
        part.plot(steps, mean, color=color)
        part.fill_between(steps, shares.min(0), shares.max(0), color=color, alpha=0.15, lw=0)
        curves = [np.array(each["below"])[:, i] / each["sizes"][i] for each in found]
        start, end = (np.mean([c[at] for c in curves], axis=0) for at in (0, -1))
        sweep.semilogx(thresholds, start, color=color, ls=":")
        sweep.semilogx(thresholds, end, color=color)
    count.set(title=f"{title}: log₁₀ count", xlabel="iteration")
    count.set_ylabel(f"log₁₀ #{{|g| < {THRESHOLD:g}}}")
    part.set(title=f"{title}: fraction", xlabel="iteration")
    part.set_ylabel(f"share with |g| < {THRESHOLD:g}")
    sweep.set(title=f"{title}: start dotted, end solid", xlabel="threshold t")
    sweep.set_ylabel("share with |g| < t")
    sweep.axvline(THRESHOLD, color="0.7", lw=0.8, zorder=0)


def vanishing(data=None):
    """Figure 4: on the package's digits, or on images at a path, such as CIFAR-10's."""
    where = STAND_IN if data is None else "here on the images of --data"
    return Figure(
        "Vanishing gradients, layer by layer: DCGAN against WGAN",
        "In DCGAN ever more of the gradients of D's layers 1 to 3 go to zero as training goes on; "
        "in WGAN their number stays about what it was at the start. The number is the count of "
        "|gradient| < .01 of each layer, on a log scale. (On CIFAR-10, as in the paper, where a "
        "GPU or hours are at hand: `python examples/reproduce.py P4.F4 --data "
        "cifar-10-python.tar.gz`; not run for this page.)",
        f"As in figures 2 and 3; {where}.",
        f"{THINNER}; {DCGAN_SHORT}; WGAN 1,000",
        of(partial(dcgan, data=data), partial(wgan, data=data)),
        partial(draw_gradients, data=data),
    )


RISES, STAYS = 0.05, 0.1  # changes of a share that count as a rise, and that still count as none


def judge_gradients(numbers):
    """Whether DCGAN's early gradients vanish more and more while WGAN's share stays as it was."""
    found = {"DCGAN": numbers["dcgan"], "WGAN": numbers["wgan"]}
    went = {name: [ends(early(each)) for each in runs] for name, runs in found.items()}
    highest, unclipped = (
        spread([float(early(each).max()) for each in numbers[key]])
        for key in ("wgan", "wgan_with_scales_of_1")
    )
    later = spread([ends(early(each))[1] for each in numbers["wgan_with_scales_of_1"]])
    rises = [b - a > RISES for a, b in went["DCGAN"]]
    stays = [abs(b - a) <= STAYS for a, b in went["WGAN"]]
    fewer = [w[1] < d[1] for d, w in zip(went["DCGAN"], went["WGAN"], strict=True)]
    always = min(
        min(row[-1] for row in each["zeros"]) / each["sizes"][-1]
        for runs in found.values()
        for each in runs
    )
    first, last = ({n: spread([e[i] for e in w]) for n, w in went.items()} for i in (0, 1))
    measured = (
        f"Of the gradients of D's first three layers, the share below {THRESHOLD:g} goes from "
        f"{first['DCGAN']} to {last['DCGAN']} in DCGAN and from {first['WGAN']} to {last['WGAN']} "
        "in WGAN, from before training to the mean of the last quarter; WGAN's is up to "
        f"{highest} in between. DCGAN's rises by more than {RISES:g} in {share(rises)}, "
        f"WGAN's stays within {STAYS:g} of its start in {share(stays)}, and WGAN's is the smaller "
        f"one at the end in {share(fewer)}. WGAN's first steps clip the scales of the norms from 1 "
        "to .01 together with the weights. The same critics with those scales set back to 1 have "
        f"at most {unclipped} below the line, and {later} in the last quarter: a fixed threshold "
        "tells the size of the critic as much as what vanishes in it.\n\n"
        + layer_table(found)
        + "\n\nThe first three layers at other thresholds:\n\n"
        + sweep_table(found)
        + f"\n\nOf the last layer at least {always:.0%} is exactly 0 in every record: its 4×4 "
        "kernel stands on a 2×2 image with a border of padding, so that 12 of its 16 taps see "
        "zeros alone. That is the architecture, not a gradient that vanishes. Lines are means over "
        "the seeds, bands their range; a gap is a count of 0."
    )
    numbers = {
        **numbers,
        "early_share_first_and_last": {k: [*map(list, v)] for k, v in went.items()},
    }
    return measured, numbers, verdict(held(rises), held(stays))


def layer_table(found):
    """The share below the threshold, layer by layer, before training and at the end."""
    rows = []
    for name, runs in found.items():
        shares = [fractions(each) for each in runs]
        for i, when in enumerate(("start", "last quarter")):
            columns = range(shares[0].shape[1])
            means = [spread([ends(share[:, k])[i] for share in shares]) for k in columns]
            rows.append([f"{name}, {when}", *means])
    return table(["share below .01", *(f"layer {k + 1}" for k in columns)], rows)


def sweep_table(found, thresholds=(1e-4, 1e-3, 1e-2, 1e-1, 1.0)):
    """The early layers' share below other thresholds, before training and at the end."""
    heads = [f"{name}, {when}" for name in found for when in ("start", "last quarter")]
    rows = []
    for t in thresholds:
        went = [[ends(early(each, t)) for each in runs] for runs in found.values()]
        rows.append([f"{t:g}", *(spread([e[i] for e in w]) for w in went for i in (0, 1))])
    return table(["threshold", *heads], rows)


# Figures 8 and 9: losses


def roughness(loss):
    """How much a loss jumps from one record to the next.

    The standard deviation of lₜ₊₁ − lₜ, over the mean |l|, over max l − min l, and over that of l.

    Raises: ValueError for a loss that never changes.
    """
    loss = np.asarray(loss, np.float64)
    if len(loss) < 3 or not np.ptp(loss) > 0:
        raise ValueError("roughness: a loss that never changes; expected that of a run")
    jump = np.std(np.diff(loss))
    return {
        "to_mean": float(jump / np.mean(np.abs(loss))),
        "to_range": float(jump / np.ptp(loss)),
        "to_deviation": float(jump / np.std(loss)),
    }


def gap(history):
    """Iterations from one record of a history to the next: a long run keeps a thousand or two."""
    return int(np.median(np.diff(history["step"]))) if len(history) > 1 else 1


def evened(histories):
    """({name: its records}, {name: iterations between them}), at gaps as equal as they can be.

    Of each, every k-th record, k such that k·(its gap) is nearest to the widest gap of all.

    Args:
        histories: {name: a history for each seed}, of one gap.
    """
    gaps = {name: gap(each[0]) for name, each in histories.items()}
    every = {name: max(1, round(max(gaps.values()) / each)) for name, each in gaps.items()}
    kept = {name: [h[:: every[name]] for h in each] for name, each in histories.items()}
    return kept, {name: gaps[name] * every[name] for name in gaps}


def from_to(gaps):
    """Between which iterations a jump is, in words."""
    if set(gaps.values()) == {1}:
        return "From one iteration to the next"
    each = " and ".join(f"{n} iterations of {name}" for name, n in gaps.items())
    return f"From one record to the next ({each})"


def draw_losses(short, seeds, root):
    """Losses of DCGAN and WGAN, each on its own scale."""
    runs = {
        name: runs_of(make, short, seeds, root)
        for name, make in {"DCGAN": dcgan, "WGAN": wgan}.items()
    }
    kept, gaps = evened({name: [run.history for run in each] for name, each in runs.items()})
    numbers = {
        name: {
            side: [roughness(history[f"{side}_loss"]) for history in found]
            for side in ("critic", "generator")
        }
        for name, found in kept.items()
    }
    numbers["gaps"] = gaps

    def paint(grid):
        for column, (name, found) in enumerate(runs.items()):
            for row, side in enumerate(("critic", "generator")):
                axes = grid[row][column]
                for run, color in zip(found, plots.COLORS, strict=False):
                    label = f"seed {run.training.seed}"
                    plots.curve(
                        axes, run.history["step"], run.history[f"{side}_loss"], color, label
                    )
                who = "D" if side == "critic" else "G"
                axes.set(title=f"{name}: {who}", xlabel="iteration", ylabel=f"loss of {who}")
        if len(seeds) > 1:
            grid[0][1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    picture = plots.png(paint, (8, 5.2), nrows=2, ncols=2)
    return Claim({"": picture}, *judge_losses(numbers))


def judge_losses(numbers):
    """Whether WGAN's critic has the smoother loss, by three measures of what smooth means."""
    standard, wasserstein = numbers["DCGAN"]["critic"], numbers["WGAN"]["critic"]
    measures = {
        "to_mean": "of the mean size",
        "to_range": "of the range",
        "to_deviation": "of the deviation",
    }
    smoother = {
        key: [w[key] < d[key] for d, w in zip(standard, wasserstein, strict=True)]
        for key in measures
    }
    heads = ["jumps of the loss, deviation as a share", *measures.values()]
    rows = [
        [f"{name}, {side}", *(spread([each[key] for each in found[side]]) for key in measures)]
        for name, found in ((name, numbers[name]) for name in ("DCGAN", "WGAN"))
        for side in ("critic", "generator")
    ]
    words = ", ".join(f"{share(smoother[key])} {text}" for key, text in measures.items())
    measured = (
        f"{from_to(numbers['gaps'])} WGAN's critic loss jumps less than DCGAN's, measured as a "
        f"share, in {words}.\n\n"
        + table(heads, rows)
        + "\n\nThe two losses have different units, so that only shares can be compared. A jump as "
        "large as the deviation times √2 is that of pure noise: there the loss has no trend."
    )
    return measured, numbers, verdict(*(held(each) for each in smoother.values()))


def draw_ac_losses(short, seeds, root):
    """Losses and class accuracies of AC-GAN."""
    runs = runs_of(ac_gan, short, seeds, root)
    tenth = max(1, len(runs[0].history) // 10)

    def ends(run, name):
        column = run.history[name]
        return [float(column[:tenth].mean()), float(column[-tenth:].mean())]

    names = ("critic_loss", "generator_loss", "real_accuracy", "fake_accuracy")
    both = {"AC-GAN": runs, "DCGAN": runs_of(dcgan, short, seeds, root)}
    kept, gaps = evened({name: [run.history for run in each] for name, each in both.items()})
    numbers = {
        **{name: [ends(run, name) for run in runs] for name in names},
        "roughness": [roughness(history["critic_loss"]) for history in kept["AC-GAN"]],
        "dcgan_roughness": [roughness(history["critic_loss"]) for history in kept["DCGAN"]],
        "gaps": gaps,
    }

    def paint(grid):
        first = runs[0].history
        for name, color in {"critic": plots.CRITIC, "generator": plots.GENERATOR}.items():
            plots.curve(grid[0], first["step"], first[f"{name}_loss"], color, name)
        for name, color in {"real": plots.REAL, "fake": plots.FAKE}.items():
            plots.curve(grid[1], first["step"], first[f"{name}_accuracy"], color, name)
        seed = f"seed {runs[0].training.seed}"
        grid[0].set(title=f"AC-GAN: losses, {seed}", xlabel="iteration", ylabel="loss")
        grid[1].set(title="D's naming of classes", xlabel="iteration", ylabel="share right")
        grid[1].set_ylim(0, 1.02)
        for axes in grid:
            axes.legend()

    return Claim({"": plots.png(paint, (8, 3.2), ncols=2)}, *judge_ac_losses(numbers))


def judge_ac_losses(numbers):
    """Whether AC-GAN makes steady progress, and is steadier than DCGAN."""
    falls = [last < first for first, last in numbers["critic_loss"]]
    names = [last > max(0.5, first) for first, last in numbers["fake_accuracy"]]
    pairs = list(zip(numbers["dcgan_roughness"], numbers["roughness"], strict=True))
    steadier = [b["to_mean"] < a["to_mean"] for a, b in pairs]
    rows = [
        [
            name.replace("_", " "),
            *(spread([each[i] for each in numbers[name]]) for i in (0, 1)),
        ]
        for name in ("critic_loss", "generator_loss", "real_accuracy", "fake_accuracy")
    ]
    jumps = [
        spread([each["to_mean"] for each in numbers[key]])
        for key in ("roughness", "dcgan_roughness")
    ]
    measured = (
        f"D's loss falls in {share(falls)}, and D comes to name more than half of the fakes as G "
        f"was asked to make them in {share(names)}. {from_to(numbers['gaps'])} D's loss jumps "
        f"by {jumps[0]} of its mean, DCGAN's by {jumps[1]}: less in {share(steadier)}.\n\n"
        + table(["AC-GAN", "first tenth", "last tenth"], rows)
    )
    return measured, numbers, verdict(held(falls), held(names), held(steadier))


AC_SETTINGS = (
    "AC-GAN, Adam 2e-4 (.5, .999), batches of 100, dropout .5, 100 epochs of CIFAR-10: 50,000 "
    f"iterations; {STAND_IN}."
)
BESIDE = AC_SETTINGS.removesuffix(".") + "; DCGAN as in figure 2."

FIGURES = {
    "P4.F1": Figure(
        "The data",
        "What all three systems learn from: CIFAR-10, ten classes of images of 32×32.",
        "CIFAR-10; here the 5,000 digits of the package, 32×32 in three equal channels.",
        "",
        no_runs,
        draw_data,
        (),
    ),
    "P4.F2": Figure(
        "Samples of DCGAN",
        "After 100 epochs DCGAN begins to make realistic images; to deceive a person it would need "
        "longer training.",
        "DCGAN-32, Adam 2e-4 (.5, .999), batches of 128, 100 epochs of CIFAR-10: 39,000 "
        f"iterations; {STAND_IN}.",
        f"{THINNER}; {DCGAN_SHORT}",
        of(dcgan),
        draw_dcgan,
    ),
    "P4.F3": Figure(
        "Samples of WGAN",
        "At as many epochs as DCGAN, WGAN's images are less clear; it trains more slowly and has "
        "not converged.",
        "DCGAN-32 without the sigmoid, RMSProp 5e-5, batches of 64, clip .01 of all parameters, 5 "
        "critic steps (on fresh batches; P4 took the same one five times), 100 epochs of CIFAR-10: "
        f"15,625 iterations; DCGAN as in figure 2; {STAND_IN}.",
        f"{THINNER}; WGAN 1,000 iterations; {DCGAN_SHORT}, compared after 1,000",
        of(dcgan, wgan),
        draw_wgan,
    ),
    "P4.F4": vanishing(),
    "P4.F5": Figure(
        "Samples of AC-GAN, a class in each row",
        "AC-GAN makes meaningful images, and greatly improves on DCGAN.",
        BESIDE,
        f"{THINNER}; AC-GAN 1,500 iterations; {DCGAN_SHORT}; compared after 1,000 of AC-GAN, which "
        "are as many epochs as DCGAN's",
        of(dcgan, ac_gan),
        draw_ac_gan,
    ),
    "P4.F8": Figure(
        "Losses of DCGAN and WGAN",
        "WGAN's critic has a much smoother loss than DCGAN's discriminator, whose loss fluctuates "
        "wildly.",
        f"As in figures 2 and 3; {STAND_IN}.",
        f"{THINNER}; {DCGAN_SHORT}; WGAN 1,000",
        of(dcgan, wgan),
        draw_losses,
    ),
    "P4.F9": Figure(
        "Losses of AC-GAN",
        "AC-GAN's training progresses steadily; being told the class stabilises it.",
        BESIDE,
        f"{THINNER}; AC-GAN 1,500 iterations; {DCGAN_SHORT}",
        of(dcgan, ac_gan),
        draw_ac_losses,
    ),
}
