"""P3, *Improving Generalization and Stability of GANs* (ICLR 2019): the zero-centred penalty."""

import numpy as np

import tinygan as tg
from figures.figure import Claim, Figure
from figures.judging import held, table, verdict
from figures.plane import (
    ASSIGNED,
    NEAR,
    SAMPLES,
    SLOPE,
    blob,
    coverage_at,
    critic_at,
    faint,
    field_at,
    field_panels,
    floor,
    of_few_colours,
    real_points,
    toward_data,
    w1,
)
from figures.runs import Training, trained
from tinygan.study.paths import path_slopes
from tinygan.study.plots import COLORS, png

# Figures 2 and 5: eight Gaussians scaled by 10, three hidden layers of 512, SGD. How long each is:
# at 10,000 iterations all can be compared; a budget of 40,000 batches through the critic ends at
# 8,000 iterations of 0-GP-sample (five batches each: real and fake twice, fake once more for G), at
# 10,000 of 0-GP and 1-GP (four) and at 13,334 without a penalty (three).
RING = {  # system, changes, marks
    "no GP": ("gan-0gp", {"penalty": "none"}, (0, 1000, 2000, 5000, 10000, 13334, 20000)),
    "no GP, TTUR": ("gan-ttur", {"penalty": "none"}, (0, 1000, 2000, 5000, 10000, 13334)),
    "0-GP": ("gan-0gp", {}, (0, 1000, 2000, 5000, 10000, 15000, 20000)),
    "0-GP, TTUR": ("gan-ttur", {}, (0, 1000, 2000, 5000, 10000, 15000, 20000)),
    "1-GP": ("gan-1gp", {}, (0, 1000, 2000, 5000, 10000)),
    "0-GP-sample": ("gan-0gp-sample", {}, (0, 1000, 2000, 5000, 8000, 10000)),
    "0-GP, λ 100": ("gan-0gp-100", {}, (0, 1000, 2000, 5000, 10000, 15000, 20000)),
}


def ring(variant, seed):
    """A variant at the paper's own size."""
    system, changes, marks = RING[variant]
    return Training(system, marks[-1], marks, changes, seed)


def rings(short, seeds):
    """All variants, all seeds; there is no short mode."""
    return [ring(variant, seed) for seed in seeds for variant in RING]


SWISS = {"0-GP": "gan-0gp", "1-GP": "gan-1gp"}
SWISS_SCALES = (1.0, 10.0)


def swiss(name, scale, short, seed):
    """Figure 6: the swiss roll, as it is and scaled."""
    changes = {"hidden": 128} if short else {}
    opened = {"name": "swissroll", "scale": scale}
    return Training(SWISS[name], 20000, (5000, 20000), changes, seed, opened=opened)


def swisses(short, seeds):
    """Both penalties, both scales, all seeds."""
    return [
        swiss(name, scale, short, seed)
        for seed in seeds
        for scale in SWISS_SCALES
        for name in SWISS
    ]


def mean(numbers):
    """The mean over seeds; None where a run has no number, because it diverged."""
    return None if None in numbers else float(np.mean(numbers))


def below(a, b):
    """Whether a number is below another; one that does not exist tells nothing."""
    return a is not None and b is not None and a < b


def each(numbers, form):
    """The numbers of all seeds, and their mean if there are several: "7, 6, 7 (6.7)"."""
    text = ", ".join("–" if x is None else format(x, form) for x in numbers)
    if len(numbers) == 1:
        return text
    whole = mean(numbers)
    return f"{text} ({'–' if whole is None else format(whole, form if '.' in form else '.1f')})"


def answers(parts):
    """What was asked, each with its answer, as a list: the keys and values of a dict."""
    return "\n".join(f"- {text}: {'yes' if holds else 'no'}" for text, holds in parts.items())


def over(seeds):
    """ "Seeds 0, 1, 2, their mean in brackets": how tables are to be read."""
    if len(seeds) == 1:
        return f"Seed {seeds[0]}"
    return f"Seeds {', '.join(map(str, seeds))}, their mean in brackets"


# Figure 2

NINE = (
    ("a", "no GP", 1000),
    ("b", "no GP", 10000),
    ("c", "no GP, TTUR", 1000),
    ("d", "no GP, TTUR", 10000),
    ("e", "0-GP", 10000),
    ("f", "0-GP, TTUR", 10000),
    ("g", "0-GP, TTUR", 20000),
    ("h", "1-GP", 10000),
    ("i", "0-GP-sample", 10000),
)
IN_NINE = tuple(dict.fromkeys(variant for _, variant, _ in NINE))
PROPOSED = ("0-GP", "0-GP, TTUR")  # by the paper, with the λ of its Figure 2


def nine_runs(short, seeds):
    """The runs of Figure 2."""
    return [ring(variant, seed) for seed in seeds for variant in IN_NINE]


def draw_nine(short, seeds, root):
    """Figure 2."""
    numbers = {key: {"modes20": [], "modes": [], "faint": []} for key, _, _ in NINE}
    shown = {}
    for seed in seeds:
        for variant in IN_NINE:
            run = trained(ring(variant, seed), root)
            for key, _, step in (panel for panel in NINE if panel[1] == variant):
                there = step in run.players
                cover = coverage_at(run, step) if there else None
                numbers[key]["modes20"].append(cover.modes20 if there else 0)
                numbers[key]["modes"].append(cover.modes if there else 0)
                numbers[key]["faint"].append(faint(field_at(run, step)) if there else None)
                if seed == seeds[0]:
                    shown[key] = run, step, f"({key}) {variant}, {step:,}"
    parts = judge_nine(numbers)
    heads = ["panel, iteration", "modes with 20 or more samples", "modes hit", "faint part"]
    rows = [
        [
            f"({key}) {variant}, {step:,}", each(numbers[key]["modes20"], "d"),
            each(numbers[key]["modes"], "d"), each(numbers[key]["faint"], ".2f"),
        ]
        for key, variant, step in NINE
    ]  # fmt: skip
    measured = (
        f"{answers(parts)}\n\n{over(seeds)}; of {SAMPLES:,} samples, those within {NEAR:.0%} of "
        f"the radius of a centre count. The faint part is the share of the grid where {SLOPE} is "
        f"below 1% of its largest there.\n\n{table(heads, rows)}"
    )

    def paint(grid):
        field_panels(grid.ravel(), [shown[key] for key, _, _ in NINE], grid)
        for axes in grid.flat:
            axes.label_outer()

    picture = png(paint, (9, 8.6), nrows=3, ncols=3)
    record = {"seeds": list(seeds), **numbers}
    return Claim({"": of_few_colours(picture)}, measured, record, verdict(*parts.values()))


def judge_nine(numbers):
    """What the paper says of its Figure 2, True or False by the means over seeds."""
    ours = [key for key, variant, _ in NINE if variant in PROPOSED]
    others = [key for key, variant, _ in NINE if variant not in PROPOSED]
    modes = {key: mean(found["modes20"]) for key, found in numbers.items()}
    dim = {key: mean(found["faint"]) for key, found in numbers.items()}
    return {
        "0-GP with TTUR has more than half of the eight modes at 20,000": modes["g"] > 4,
        "every panel of 0-GP has more modes than every other panel": all(
            modes[a] > modes[b] for a in ours for b in others
        ),
        "and a smaller faint part": all(below(dim[a], dim[b]) for a in ours for b in others),
    }


# Figure 5

EVOLUTION = (0, 1000, 2000, 5000, 20000)


def evolutions(short, seeds):
    """The runs of Figure 5."""
    return [ring("0-GP, λ 100", seed) for seed in seeds]


def draw_evolution(short, seeds, root):
    """Figure 5."""
    runs = [trained(job, root) for job in evolutions(short, seeds)]
    steps = runs[0].training.marks
    numbers = {"seeds": list(seeds), "iterations": list(steps), "two_real_sets": []}
    numbers |= {"w1": [], "share": [], "modes20": []}
    for run in runs:
        rows = [evolution_at(run, step) for step in steps]
        for key in ("w1", "share", "modes20"):
            numbers[key].append([row[key] for row in rows])
        numbers["two_real_sets"].append(floor(run))
    numbers["stopped"] = [run.record["stopped"] for run in runs]
    parts = judge_evolution(numbers)
    heads = [
        "iteration",
        "W₁, radii of the ring",
        "share in modes",
        "modes with 20 or more samples",
    ]
    rows = [
        [
            f"{step:,}",
            *(
                each([of_seed[i] for of_seed in numbers[key]], form)
                for key, form in {"w1": ".3f", "share": ".2f", "modes20": "d"}.items()
            ),
        ]
        for i, step in enumerate(steps)
    ]
    measured = (
        f"{answers(parts)}\n\n{over(seeds)}; two real sets have W₁ "
        f"{each(numbers['two_real_sets'], '.3f')}. The share in modes is that of the {SAMPLES:,} "
        f"samples within {NEAR:.0%} of the radius of a centre.{diverged(numbers['stopped'])}\n\n"
        f"{table(heads, rows)}"
    )
    picture = png(lambda grid: paint_evolution(grid, runs, numbers), (9, 5.9), nrows=2, ncols=3)
    return Claim({"": of_few_colours(picture)}, measured, numbers, verdict(*parts.values()))


def evolution_at(run, step):
    """W₁, the share in modes and the modes at an iteration: None for a run that had diverged."""
    if step not in run.players:
        return dict.fromkeys(("w1", "share", "modes20"))
    cover = coverage_at(run, step)
    near = w1(run, run.samples(step, ASSIGNED))
    return {"w1": near, "share": cover.high_quality, "modes20": cover.modes20}


def diverged(stopped):
    """A sentence on the runs that ended early, if there are any."""
    lost = sum(reason is not None for reason in stopped)
    return f" {lost} of {len(stopped)} runs diverged: – is after that." if lost else ""


def paint_evolution(grid, runs, numbers):
    """Five moments of the first seed, and the way of all seeds."""
    panels = [(runs[0], step, f"iteration {step:,}") for step in EVOLUTION]
    field_panels(grid.ravel()[:5], panels, grid)
    for axes in grid.ravel()[[1, 2, 4]]:
        axes.set_ylabel("")
    way = grid.ravel()[5]
    thousands = np.array(numbers["iterations"]) / 1000
    for i in range(len(runs)):
        near, share = (np.array(numbers[key][i], float) for key in ("w1", "share"))
        way.plot(thousands, near, "-o", ms=3, color=COLORS[0], label="W₁, radii" if not i else None)
        way.plot(
            thousands, share, "--s", ms=3, color=COLORS[1],
            label="share in modes" if not i else None,
        )  # fmt: skip
    way.set(xlabel="iterations, thousands", title="All seeds" if len(runs) > 1 else "The same run")
    way.set_ylim(0, None)
    way.legend()


def judge_evolution(numbers):
    """First the overall structure, then the modes; by the means over seeds.

    A part that needs a number that a diverged run lacks does not hold.
    """
    at = {step: i for i, step in enumerate(numbers["iterations"])}

    def when(key, step):
        return mean([of_seed[at[step]] for of_seed in numbers[key]])

    first, near, end = (when("w1", step) for step in (0, 5000, 20000))
    share, later = (when("share", step) for step in (5000, 20000))
    modes = when("modes20", 20000)
    return {
        "at 5,000 W₁ has made more than half of its way": (
            None not in (first, near, end) and first - near > (first - end) / 2 > 0
        ),
        "and less than half of those samples lie in modes that do at 20,000": (
            None not in (share, later) and share < later / 2
        ),
        "at 20,000 more than half of the eight modes have 20 samples or more": (
            modes is not None and modes > 4
        ),
    }


# Figures 2 and 5 as a table

PAIRS, PLACES = 128, 17  # straight paths between real points and samples, and points on each
EQUAL = {
    "10,000 iterations": dict.fromkeys(RING, 10000),
    "40,000 batches through D": {
        **dict.fromkeys(RING, 10000), "no GP": 13334, "no GP, TTUR": 13334, "0-GP-sample": 8000,
    },
    "20,000 iterations": {name: 20000 for name, (_, _, marks) in RING.items() if 20000 in marks},
}  # fmt: skip
COLUMNS = {  # title, format; the first six are drawn
    "modes20": ("modes with 20 or more samples", "d"),
    "modes": ("modes hit", "d"),
    "w1": ("W₁, radii of the ring", ".3f"),
    "cv_probability": ("variation of ‖∇σ(D)‖", ".2f"),
    "largest": ("largest ‖∇σ(D)‖", ".3g"),
    "cv_logit": ("variation of ‖∇D‖, the logit's", ".2f"),
    "largest_logit": ("largest ‖∇D‖, the logit's", ".3g"),
}


def ring_numbers(run, step):
    """All columns of a run at an iteration: of one that had diverged no modes, and None."""
    if step not in run.players:
        return dict.fromkeys(COLUMNS) | {"modes20": 0, "modes": 0}
    samples, real = run.samples(step, SAMPLES), real_points(run, SAMPLES)
    cover = coverage_at(run, step)
    paths = critic_at(run, step), real[:PAIRS], samples[:PAIRS], PLACES
    logit, probability = path_slopes(*paths), path_slopes(*paths, of=tg.ops.sigmoid)
    return {
        "modes20": cover.modes20,
        "modes": cover.modes,
        "w1": w1(run, samples),
        "cv_probability": probability.variation if probability.mean else None,
        "cv_logit": logit.variation if logit.mean else None,
        "largest": probability.largest,
        "largest_logit": logit.largest,
    }


def draw_rings(short, seeds, root):
    """Figures 2 and 5 in numbers."""
    found, floors = {}, []
    for seed in seeds:
        for variant in RING:
            run = trained(ring(variant, seed), root)
            for step in {steps[variant] for steps in EQUAL.values() if variant in steps}:
                found[variant, step, seed] = ring_numbers(run, step)
        floors.append(floor(run))
    numbers = {
        at: {
            variant: {key: [found[variant, step, seed][key] for seed in seeds] for key in COLUMNS}
            for variant, step in steps.items()
        }
        for at, steps in EQUAL.items()
    }
    parts = judge_rings(numbers)
    text = [
        answers(parts),
        f"{over(seeds)}. Slopes are those on {PAIRS} straight paths between real points and "
        f"samples, {PLACES} points each; their variation is deviation/mean. The paper's D is a "
        "probability, so that its slopes are those of σ(D); those of the logit stand beside them "
        "and are not judged (that was changed with runs at hand). Two real sets have W₁ "
        f"{each(floors, '.3f')}. – is a run that diverged: it "
        "has no modes, and counts for nothing else.",
    ]
    for at, variants in numbers.items():
        heads = [f"at {at}", *(title for title, _ in COLUMNS.values())]
        rows = [
            [variant, *(each(row[key], form) for key, (_, form) in COLUMNS.items())]
            for variant, row in variants.items()
        ]
        text.append(table(heads, rows))
    picture = png(
        lambda grid: paint_rings(grid, numbers, float(np.mean(floors))),
        (9, 6.4), nrows=2, ncols=3, sharey=True,
    )  # fmt: skip
    record = {"seeds": list(seeds), "two_real_sets": floors, **numbers}
    return Claim({"": picture}, "\n\n".join(text), record, verdict(*parts.values()))


def judge_rings(numbers):
    """What the paper says of its Figures 2 and 5, True or False by the means over seeds."""
    iterations, batches, last = (
        {
            variant: {key: mean(values) for key, values in row.items()}
            for variant, row in variants.items()
        }
        for variants in numbers.values()
    )
    with_100 = "0-GP, λ 100"
    others = [variant for variant in RING if variant not in (*PROPOSED, with_100)]

    def most(found):
        return all(found[a]["modes20"] > found[b]["modes20"] for a in PROPOSED for b in others)

    evenest = all(
        below(iterations[a]["cv_probability"], iterations[b]["cv_probability"])
        for a in PROPOSED
        for b in others
    )
    free, held_down = (iterations[a]["largest"] for a in ("no GP, TTUR", "0-GP, TTUR"))
    before, after = ({a: at[a]["largest"] for a in ("no GP", "0-GP")} for at in (iterations, last))
    return {
        "0-GP has more than half of the eight modes at 20,000, with either rate": all(
            last[a]["modes20"] > 4 for a in PROPOSED
        ),
        "and with λ 100": last[with_100]["modes20"] > 4,
        "with λ 10 it has more than all others at equal iterations": most(iterations),
        "and at equal batches through D": most(batches),
        "its ‖∇σ(D)‖ vary least along paths": evenest,
        "without a penalty the largest ‖∇σ(D)‖ grows from 10,000 to 20,000, with 0-GP it falls": (
            below(before["no GP"], after["no GP"]) and below(after["0-GP"], before["0-GP"])
        ),
        "with TTUR it is more than ten times as large without a penalty as with 0-GP": (
            held_down is not None and below(10 * held_down, free)
        ),
    }


def paint_rings(grid, numbers, real_sets):
    """A dot for each seed, a bar for the mean."""
    names = list(RING)
    offsets = np.linspace(-0.25, 0.25, len(numbers))
    handles = {}
    for axes, (key, (title, _)) in zip(grid.flat, COLUMNS.items(), strict=False):
        for (at, variants), offset, color in zip(numbers.items(), offsets, COLORS, strict=False):
            for variant, row in variants.items():
                values = [x for x in row[key] if x is not None]
                y = names.index(variant) + offset
                axes.plot(values, [y] * len(values), "o", ms=3.5, color=color, alpha=0.6, mew=0)
                if values:
                    mark = axes.plot(np.mean(values), y, "|", ms=9, mew=1.8, color=color)
                    handles[at] = mark[0]
        axes.set_xlabel(title)
        if key in ("modes20", "modes"):
            axes.set(xlim=(-0.4, 8.4), xticks=range(0, 9, 2))
        elif key in ("largest", "largest_logit"):
            axes.set_xscale("log")
        else:
            axes.set_xlim(0, None)
        if key == "w1":
            axes.axvline(real_sets, color="0.5", lw=1, ls=":")
            axes.annotate(
                "two real sets", (real_sets, 0.5), xycoords=("data", "axes fraction"), fontsize=7,
                color="0.4", xytext=(2, 0), textcoords="offset points", rotation=90, va="center",
            )  # fmt: skip
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    grid.flat[0].figure.legend(
        handles.values(), [f"at {at}" for at in handles],
        loc="outside lower center", ncols=3,
    )  # fmt: skip


# Figure 6


def draw_swiss(short, seeds, root):
    """Figure 6."""
    titles = {(name, scale): f"{name}, scale {scale:g}" for scale in SWISS_SCALES for name in SWISS}
    numbers = {title: {"w1": [], "toward_data": [], "stopped": []} for title in titles.values()}
    shown, floors, blobs = [], [], []
    for seed in seeds:
        for (name, scale), title in titles.items():
            run = trained(swiss(name, scale, short, seed), root)
            step, row = run.training.steps, numbers[title]
            there = step in run.players
            row["w1"].append(w1(run, run.samples(step, ASSIGNED)) if there else None)
            row["toward_data"].append(
                toward_data(field_at(run, step), real_points(run, 20000)) if there else None
            )
            row["stopped"].append(run.record["stopped"])
            if seed == seeds[0]:
                after = "" if there else "; later it diverged"
                shown.append((run, run.last, f"{title}, at {run.last:,}{after}"))
        floors.append(floor(run))
        blobs.append(blob(run))
    parts = judge_swiss(numbers, blobs)
    heads = ["run", "W₁, radii of the roll", "cosine of field and way to the data"]
    rows = [
        [title, each(row["w1"], ".3f"), each(row["toward_data"], ".2f")]
        for title, row in numbers.items()
    ]
    measured = (
        f"{answers(parts)}\n\n{over(seeds)}; – is a run that diverged. The cosine is that between "
        f"∇ log σ(D) and the way to the nearest real point, its mean over the grid. Two real sets "
        f"have W₁ {each(floors, '.3f')}, a Gaussian with the roll's own mean and covariance "
        f"{each(blobs, '.3f')}: that bound was chosen with the runs at hand.\n\n"
        f"{table(heads, rows)}"
    )
    picture = png(lambda grid: field_panels(grid.ravel(), shown, grid), (8, 7.6), nrows=2, ncols=2)
    record = {"seeds": list(seeds), "two_real_sets": floors, "gaussian": blobs, **numbers}
    return Claim({"": of_few_colours(picture)}, measured, record, verdict(*parts.values()))


def judge_swiss(numbers, blobs):
    """What the paper says of its Figure 6, True or False by most seeds.

    A run has learned the roll if it is nearer to it than a Gaussian of the same mean and
    covariance, in which no roll is to be seen. Whether 1-GP has is only asked where 0-GP has; a run
    that diverged has not.

    Shapes: blobs, the W₁ of that Gaussian, (seeds,).
    """

    def learned(title):
        return [below(near, bound) for near, bound in zip(numbers[title]["w1"], blobs, strict=True)]

    def beside(scale, answer):
        """Whether 0-GP learned the roll and 1-GP did, or did not, seed by seed."""
        row = numbers[f"1-GP, scale {scale}"]
        told = [
            a is not None or b is not None for a, b in zip(row["w1"], row["stopped"], strict=True)
        ]
        pairs = zip(
            learned(f"0-GP, scale {scale}"), learned(f"1-GP, scale {scale}"), told, strict=True
        )
        return held([known and ours and theirs is answer for ours, theirs, known in pairs])

    field = {title: row["toward_data"] for title, row in numbers.items()}
    return {
        "0-GP learns the roll, as it is and scaled: its W₁ is below that of a Gaussian with the "
        "roll's mean and covariance": all(held(learned(f"0-GP, scale {s}")) for s in (1, 10)),
        "1-GP learns the roll as it is, by the same bound": beside(1, True),
        "its field points to the data less than that of 0-GP": held(
            [
                below(a, b)
                for a, b in zip(field["1-GP, scale 1"], field["0-GP, scale 1"], strict=True)
            ]
        ),
        "it does not learn the scaled one, which 0-GP does": beside(10, False),
    }


TOY = (
    "eight Gaussians scaled by 10, three hidden layers of 512, SGD 3e-3, batch 128, {}, penalty on "
    "σ(D), one step of D for one of G"
)
FIGURES = {
    "P3.F2": Figure(
        "Fields of log D on eight Gaussians: no penalty, 0-GP, 1-GP, 0-GP-sample",
        "Without a penalty, with 1-GP and with 0-GP at samples, the slope of log D is large where "
        "the generator's samples crowd and vanishes elsewhere, real samples included, and the "
        "generator collapses to some modes. With 0-GP between samples slopes are of like size "
        "everywhere, and the whole distribution is learned.",
        TOY.format("λ 10") + "; TTUR: 9e-3 for D (the paper's rate is not published)",
        "",
        nine_runs,
        draw_nine,
    ),
    "P3.F5": Figure(
        "How 0-GP with λ 100 learns eight Gaussians",
        "0-GP learns like a Wasserstein GAN: first the overall structure, then the single modes.",
        TOY.format("λ 100"),
        "",
        evolutions,
        draw_evolution,
    ),
    "P3.F2F5": Figure(
        "Figures 2 and 5 in numbers: modes, distances, slopes along real–fake paths",
        "Only 0-GP prevents the collapse of modes. At a given mean, its penalty is smallest where "
        "all slopes are equal, so it spreads D's capacity evenly. Without a penalty the slopes of "
        "D explode, with TTUR for good.",
        TOY.format("λ 10 and 100") + "; TTUR: 9e-3 for D",
        "",
        rings,
        draw_rings,
    ),
    "P3.F6": Figure(
        "The swiss roll, as it is and scaled by 10, with 0-GP and 1-GP",
        "1-GP learns the roll, but with a field of bad shape; it fails on the scaled one.",
        "three hidden layers of 512, SGD 3e-3, batch 128, λ 10, penalty on σ(D), 20,000 iterations",
        "hidden layers of 128",
        swisses,
        draw_swiss,
    ),
}
