"""P3's Figure 1 and its central claim: what D learns from a fixed set of real and fake points."""

import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from common import write_whole

import tinygan as tg
from figures.figure import Claim, Figure
from figures.judging import held, share, verdict
from tinygan import data, losses, models, ops, optim, penalties
from tinygan.game import descend
from tinygan.study import fields, optimal, plots

PENALISED = ops.sigmoid  # P3's code for its toys penalises the slope of σ(D)
WEIGHT = 1.0
PENALTIES = {
    "none": None,
    "1-gp": penalties.one_gp(WEIGHT, PENALISED),
    "0-gp-sample": penalties.zero_gp_sample(WEIGHT, PENALISED),
    "0-gp": penalties.zero_gp(WEIGHT, PENALISED),
}
OPTIMIZER = optim.Adam(1e-3)
MODEL = models.zero_gp_value_surface()
DENSITIES = data.two_gaussians()  # real, fake
LOW, HIGH, GRID = -2.5, 4.5, 100
HELD_OUT = 5000  # of each kind
COLUMNS = (
    "step", "loss", "accuracy", "held_out_loss", "held_out_accuracy", "mean_distance",
    "max_distance", "slope",
)  # fmt: skip


@dataclass(frozen=True)
class Surface:
    """A D that is trained against a generator that never changes, on the same points throughout.

    Args:
        penalty: a name of PENALTIES.
        points: so many real ones, and as many fake.
        steps: of D. 10,001 epochs of 100 points in batches of 20 are 50,005.
        batch: real points in a step, and as many fake.
        measured: at how many steps, evenly in their logarithm, it is measured.
    """

    penalty: str
    points: int = 100
    steps: int = 50005
    seed: int = 0
    batch: int = 20
    measured: int = 60

    @property
    def name(self):
        """The folder."""
        return f"surface-{self.penalty}-{self.points}points-{self.steps}-seed{self.seed}"

    def sample(self):
        """(real, fake) points to train on, and (real, fake) points held out.

        Shapes: (points, 2) and (HELD_OUT, 2); the held-out ones are those of all jobs of a seed.
        """
        stream = tg.Stream(self.seed)
        real, fake = (p.sample(self.points, stream.child(i)) for i, p in enumerate(DENSITIES))
        held_out = tuple(p.sample(HELD_OUT, stream.child(i + 2)) for i, p in enumerate(DENSITIES))
        return (real, fake), held_out

    def make(self, folder):
        """Train, and write critic.npz, curves.csv and run.json."""
        start = time.process_time()
        stream, reference = tg.Stream(self.seed), the_optimum()
        (real, fake), held_out = self.sample()
        order, noise = stream.child(5), stream.child(6)
        penalty = PENALTIES[self.penalty]
        step = tg.compile(step_with(penalty))
        d = MODEL.init(stream.child(4))
        state = OPTIMIZER.init(d)
        marks = np.unique(np.geomspace(1, self.steps, self.measured).round()).astype(int)
        rows = [(0, *measured(d, real, fake, held_out, reference))]
        per_epoch = self.points // self.batch
        for i in range(self.steps):
            if i % per_epoch == 0:
                reals, fakes = (a[order.permutation(self.points)] for a in (real, fake))
            batch = slice(i % per_epoch * self.batch, (i % per_epoch + 1) * self.batch)
            drawn = penalty.draw(noise, reals[batch]) if penalty else ()
            d, state = step(d, state, reals[batch], fakes[batch], drawn)
            if i + 1 in marks:
                rows.append((i + 1, *measured(d, real, fake, held_out, reference)))
        tg.save_weights(folder / "critic.npz", d)
        lines = [",".join(COLUMNS), *(",".join(f"{a:.9g}" for a in row) for row in rows)]
        write_whole(folder / "curves.csv", ("\n".join(lines) + "\n").encode())
        return {"stopped": None, "cpu_seconds": time.process_time() - start}


def step_with(penalty):
    """One step of D as a function of arrays."""

    def step(d, state, real, fake, noise):
        tracked = tg.track(d)

        def critic(x):
            return MODEL(tracked, x)

        loss = losses.logistic_critic(critic(real), critic(fake))
        if penalty is not None:
            loss = ops.add(loss, penalty(critic, real, fake, *noise))
        moved = descend(loss, tracked, OPTIMIZER, state)
        return moved.params, moved.state

    return step


class Optimum(NamedTuple):
    """The best D of the two Gaussians, on the grid of the picture.

    Args:
        critic: its logit, a function of points, of primitives.
        points, probability, weights: σ(D*) and (p_r + p_g)/2 on the grid.
    Shapes: points (GRID², 2), the lowest row first; the others (GRID²,).
    """

    critic: object
    points: np.ndarray
    probability: np.ndarray
    weights: np.ndarray


def the_optimum():
    """The :class:`Optimum`."""
    real, fake = (optimal.gaussian(p.mean, p.covariance) for p in DENSITIES)
    critic = optimal.optimal_gan(real, fake)
    points = optimal.trapezoid(((LOW, HIGH), (LOW, HIGH)), GRID).points
    weights = optimal.mixture_density(real, fake, points)
    return Optimum(critic, points, ops.sigmoid(critic(points)), weights)


def measured(d, real, fake, held_out, optimum):
    """The numbers of COLUMNS but the step: on D's own points, on those held out, on the grid."""

    def critic(x):
        return MODEL(d, x)

    points = optimum.points.astype(np.float32)
    found = optimal.distance(
        ops.sigmoid(critic(points))[:, 0], optimum.probability, optimum.weights
    )
    return (
        *loss_and_accuracy(critic, real, fake), *loss_and_accuracy(critic, *held_out),
        found.mean, found.maximum, steepest(critic, points),
    )  # fmt: skip


def loss_and_accuracy(critic, real, fake):
    """D's loss without a penalty, and the mean of the shares of real and fake points it knows."""
    on_real, on_fake = critic(real), critic(fake)
    accuracy = ((on_real > 0).mean() + (on_fake < 0).mean()) / 2
    return float(losses.logistic_critic(on_real, on_fake)), float(accuracy)


def steepest(critic, points):
    """The largest ‖∇σ(D)‖ at the points."""
    slopes = fields.slopes_at(critic, points, ops.sigmoid).slopes
    return float(np.linalg.norm(slopes, axis=1).max())


MORE, LONGER = "no penalty, 10 × points", "no penalty, 10 × points, 10 × steps"
OURS = "0-GP"
VARIANTS = {  # the paper's panels a to e; it does not say how long b took
    "no penalty": Surface("none"),
    MORE: Surface("none", points=1000),
    "1-GP": Surface("1-gp"),
    "0-GP-sample": Surface("0-gp-sample"),
    OURS: Surface("0-gp"),
    LONGER: Surface("none", points=1000, steps=500050),
}
SAME_POINTS = [name for name in VARIANTS if name not in (MORE, LONGER)]
PANELS = [name for name in VARIANTS if name != LONGER]


def jobs(short, seeds):
    """All variants, all seeds; they take a minute at most, so there is no short mode."""
    return [replace(job, seed=seed) for seed in seeds for job in VARIANTS.values()]


def curve_jobs(short, seeds):
    """Those of the curves, which end together."""
    return [job for job in jobs(short, seeds) if job.steps == VARIANTS[OURS].steps]


# PyTorch runs of the same settings, made beforehand, seeds 0 and 1: mean |σ(D) − σ(D*)|, largest
# slope, accuracy.
ORIENTATION = {
    "no penalty": ((0.322, 0.320), (112, 68), (0.61, 0.63)),
    MORE: ((0.070, 0.094), (7.4, 10.6), (0.68, 0.67)),
    "1-GP": ((0.129, 0.131), (4.9, 4.6), (0.65, 0.68)),
    "0-GP-sample": ((0.157, 0.122), (37, 30), (0.65, 0.67)),
    OURS: ((0.066, 0.088), (2.6, 2.3), (0.67, 0.68)),
}
DENSE = 0.01  # of the largest density on the grid: below, hardly a point falls


class Learned(NamedTuple):
    """A job that is done: its D, its training and held-out points, and the curves of COLUMNS."""

    job: Surface
    critic: object
    points: tuple
    held_out: tuple
    curves: np.ndarray


def learned(job, root):
    """A job that is done, read from its folder.

    Raises: FileNotFoundError for a folder that lacks what the figure needs.
    """
    folder = root / job.name
    needed = ("run.json", "critic.npz", "curves.csv")
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}, which this figure is drawn from; expected a "
            "finished run. Remove the folder, and reproduce.py makes it anew"
        )
    d = tg.load_weights(folder / "critic.npz")[0]
    curves = np.genfromtxt(folder / "curves.csv", delimiter=",", names=True)
    points, held_out = job.sample()
    return Learned(job, lambda x: MODEL(d, x), points, held_out, curves)


def all_learned(names, seeds, root):
    """{variant: a :class:`Learned` for each seed}."""
    return {
        name: [learned(replace(VARIANTS[name], seed=seed), root) for seed in seeds]
        for name in names
    }


# Figure 1


def surface_numbers(runs, optimum):
    """What the json of Figure 1 holds: of each variant, each measure over the seeds."""
    dense = optimum.weights > DENSE * optimum.weights.max()
    points = optimum.points.astype(np.float32)
    variants = {}
    for name, each in runs.items():
        rows = {"mean_distance": [], "max_distance": [], "max_where_dense": [], "slope": []}
        rows |= {"held_out_accuracy": [], "accuracy": []}
        for run in each:
            values = ops.sigmoid(run.critic(points))[:, 0]
            found = optimal.distance(values, optimum.probability, optimum.weights)
            inner = optimal.distance(values[dense], optimum.probability[dense])
            rows["mean_distance"].append(found.mean)
            rows["max_distance"].append(found.maximum)
            rows["max_where_dense"].append(inner.maximum)
            rows["slope"].append(steepest(run.critic, points))
            rows["accuracy"].append(loss_and_accuracy(run.critic, *run.points)[1])
            rows["held_out_accuracy"].append(loss_and_accuracy(run.critic, *run.held_out)[1])
        variants[name] = rows
    return {
        "variants": variants,
        "seeds": [run.job.seed for run in runs[OURS]],
        "optimum": {
            "slope": steepest(optimum.critic, optimum.points),
            "held_out_accuracy": [of_the_optimum(optimum, run.held_out)[1] for run in runs[OURS]],
            "accuracy_of_the_densities": best_accuracy(),
        },
        "pytorch": {
            name: dict(zip(("mean_distance", "slope", "held_out_accuracy"), row, strict=True))
            for name, row in ORIENTATION.items()
        },
    }


def of_the_optimum(optimum, points):
    """D*'s loss and accuracy on (real, fake) points."""
    return loss_and_accuracy(optimum.critic, *(a.astype(np.float64) for a in points))


def best_accuracy():
    """The largest share of real and fake points that any D can know: (1 + TV)/2."""
    real, fake = (optimal.gaussian(p.mean, p.covariance) for p in DENSITIES)
    rule = optimal.trapezoid(((-8, 10), (-8, 10)), 301)
    return (1 + optimal.total_variation(real, fake, rule)) / 2


def judge_surfaces(numbers):
    """What the paper says of its Figure 1: {what was asked: an answer for each seed}.

    All of it by the mean distance from D*; the runs of a seed have the same points.
    """
    far = {name: rows["mean_distance"] for name, rows in numbers["variants"].items()}
    ours, plain = far[OURS], far["no penalty"]

    def nearer(name, other):
        return [a < b for a, b in zip(far[name], far[other], strict=True)]

    others = [far[name] for name in SAME_POINTS if name != OURS]
    return {
        "at equal points 0-GP ends nearest to D*": [
            a < min(rest) for a, *rest in zip(ours, *others, strict=True)
        ],
        "1-GP helps: it ends nearer to D* than without a penalty": nearer("1-GP", "no penalty"),
        "0-GP-sample does not help: it ends no nearer to D* than without a penalty": [
            a >= b for a, b in zip(far["0-GP-sample"], plain, strict=True)
        ],
        "with ten times the points and no penalty D ends farther from D* than 0-GP after as many "
        "steps": nearer(OURS, MORE),
        "and after as many epochs": nearer(OURS, LONGER),
    }


def best_of(numbers):
    """Which penalty leads in each measure, at equal points, by the means over seeds."""
    means = {
        name: {key: float(np.mean(rows[key])) for key in WORDS}
        for name, rows in numbers["variants"].items()
    }
    target = numbers["optimum"]["slope"]
    ranks = {
        "mean_distance": lambda x: x,
        "max_where_dense": lambda x: x,
        "held_out_accuracy": lambda x: -x,
        "slope": lambda x: abs(x - target),
    }
    return {
        key: min(SAME_POINTS, key=lambda name: rank(means[name][key]))  # noqa: B023
        for key, rank in ranks.items()
    }


def mean_and_error(values, digits):
    """mean ± standard error, as text; the mean alone of one value."""
    text = f"{np.mean(values):.{digits}f}"
    if len(values) < 2:
        return text
    return f"{text} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.{digits}f}"


def surface_table(numbers):
    """Two tables: mean ± standard error beside the PyTorch runs, and every seed."""
    optimum = numbers["optimum"]
    lines = [
        "| | mean \\|σ(D) − σ(D*)\\| | max, where dense | max, on the grid | accuracy, held out | "
        "largest ‖∇σ(D)‖ | PyTorch, for orientation: mean; slope; accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in numbers["variants"].items():
        other = numbers["pytorch"].get(name, {})
        cells = [
            mean_and_error(rows["mean_distance"], 3),
            mean_and_error(rows["max_where_dense"], 2),
            mean_and_error(rows["max_distance"], 2),
            mean_and_error(rows["held_out_accuracy"], 3),
            mean_and_error(rows["slope"], 1),
            "; ".join(", ".join(f"{a:g}" for a in values) for values in other.values()),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    accuracy = mean_and_error(optimum["held_out_accuracy"], 3)
    lines.append(f"| D* | 0 | 0 | 0 | {accuracy} | {optimum['slope']:.4f} | |")
    seeds = " | ".join(f"seed {seed}" for seed in numbers["seeds"])
    lines += [
        "",
        f"| mean \\|σ(D) − σ(D*)\\|; largest ‖∇σ(D)‖; accuracy | {seeds} |",
        "|---|" + "---|" * len(numbers["seeds"]),
    ]
    for name, rows in numbers["variants"].items():
        each = zip(rows["mean_distance"], rows["slope"], rows["held_out_accuracy"], strict=True)
        cells = [f"{a:.3f}; {b:.1f}; {c:.3f}" for a, b, c in each]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cells = [f"0; {optimum['slope']:.4f}; {c:.3f}" for c in optimum["held_out_accuracy"]]
    lines.append("| D* | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_surfaces(short, seeds, root):
    """P3.F1."""
    runs, optimum = all_learned(VARIANTS, seeds, root), the_optimum()
    numbers = surface_numbers(runs, optimum)
    parts = judge_surfaces(numbers)
    numbers["parts"] = parts
    wins = "; ".join(f"{WORDS[key]}, {name}" for key, name in best_of(numbers).items())
    asked = "\n".join(
        f"- {text}: {'yes' if held(flags) else 'no'} ({share(flags)})"
        for text, flags in parts.items()
    )
    measured = (
        f"{asked}\n\nAll of that by the mean \\|σ(D) − σ(D*)\\|; the paper names no measure. Best "
        f"at equal points, in the mean over {len(seeds)} seeds: {wins}. No D is right on more than "
        f"{numbers['optimum']['accuracy_of_the_densities']:.4f} of all points; D*'s own accuracy "
        f"on {2 * HELD_OUT:,} of them varies about that. Dense is where (p_r + p_g)/2 is at least "
        f"{DENSE:.0%} of its largest value; the maximum on the grid lies in empty corners.\n\n"
        + surface_table(numbers)
    )
    first = {name: runs[name][0] for name in PANELS}
    picture = plots.png(
        lambda grid: paint_surfaces(grid, first, optimum, f"seed {seeds[0]}"), (7.4, 5.4), 100,
        nrows=2, ncols=3, sharex=True, sharey=True,
    )  # fmt: skip
    agrees = verdict(*(held(flags) for flags in parts.values()))
    return Claim({"": picture}, measured, numbers, agrees)


WORDS = {
    "mean_distance": "mean \\|σ(D) − σ(D*)\\|",
    "max_where_dense": "its maximum where points are dense",
    "held_out_accuracy": "accuracy on held-out points",
    "slope": "largest ‖∇σ(D)‖ nearest to that of D*",
}


def paint_surfaces(grid, runs, optimum, title):
    """The five value surfaces of one seed with their training points, and D*."""
    from matplotlib.patheffects import withStroke

    ticks = np.linspace(LOW, HIGH, GRID)
    points = optimum.points.astype(np.float32)
    surfaces = {name: ops.sigmoid(run.critic(points)) for name, run in runs.items()}
    surfaces["D*, the optimal one"] = optimum.probability
    half = {"colors": "white", "linestyles": "--", "linewidths": 1.1}
    stroke = [withStroke(linewidth=2.2, foreground="black")]
    for axes, (name, values), letter in zip(grid.flat, surfaces.items(), "abcdef", strict=True):
        image = axes.imshow(
            values.reshape(GRID, GRID), origin="lower", extent=(LOW, HIGH, LOW, HIGH), vmin=0,
            vmax=1,
        )  # fmt: skip
        if name in runs:
            size = 3.2 if len(runs[name].points[0]) <= 100 else 1.5
            kinds = (plots.REAL, "o", "real"), (plots.FAKE, "^", "fake")
            for a, (color, marker, label) in zip(runs[name].points, kinds, strict=True):
                axes.plot(
                    *a.T, marker, color=color, ms=size, mec="white", mew=0.1 * size, label=label
                )
        line = axes.contour(
            ticks, ticks, optimum.probability.reshape(GRID, GRID), [0.5], zorder=3, **half
        )
        line.set_path_effects(stroke)
        axes.set(title=f"({letter}) {name}", xlim=(LOW, HIGH), ylim=(LOW, HIGH), aspect="equal")
    for axes in grid[-1]:
        axes.set_xlabel("x₁")
    for axes in grid[:, 0]:
        axes.set_ylabel("x₂")
    figure = grid[0, 0].figure
    figure.suptitle(title, fontsize="medium")
    figure.colorbar(image, ax=grid, shrink=0.8, label="σ(D), the probability of real")
    (line,) = grid[0, 0].plot([], [], "--", color="white", lw=1.1, label="D* = ½")
    line.set_path_effects(stroke)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, markerscale=1.6)


# The central claim


CURVES = ("loss", "accuracy", "held_out_loss", "held_out_accuracy")


def curve_numbers(runs, optimum):
    """What the json of the claim holds: the curves of each variant and seed, and D*'s values."""
    some = runs[OURS]
    return {
        "seeds": [run.job.seed for run in some],
        "step": some[0].curves["step"].astype(int).tolist(),
        "variants": {
            name: {key: [run.curves[key].tolist() for run in each] for key in CURVES}
            for name, each in runs.items()
        },
        "optimum": {
            "loss": [of_the_optimum(optimum, run.points)[0] for run in some],
            "accuracy": [of_the_optimum(optimum, run.points)[1] for run in some],
            "held_out_loss": [of_the_optimum(optimum, run.held_out)[0] for run in some],
            "held_out_accuracy": [of_the_optimum(optimum, run.held_out)[1] for run in some],
        },
    }


def judge_curves(numbers):
    """(summary by variant, whether D overfits without a penalty, who ends nearest to D*, verdict).

    The summary: the last training accuracy; the best and the last accuracy and loss held out; means
    over the seeds.
    """
    summary = {}
    for name, curves in numbers["variants"].items():
        mean = {key: np.mean(curves[key], axis=0) for key in CURVES}
        summary[name] = {
            "accuracy": float(mean["accuracy"][-1]),
            "best_held_out": float(mean["held_out_accuracy"].max()),
            "held_out_accuracy": float(mean["held_out_accuracy"][-1]),
            "least_held_out_loss": float(mean["held_out_loss"].min()),
            "held_out_loss": float(mean["held_out_loss"][-1]),
        }
    plain = summary["no penalty"]
    overfits = (
        plain["accuracy"] > 0.9
        and plain["held_out_accuracy"] < plain["best_held_out"] - 0.01
        and plain["held_out_loss"] > plain["least_held_out_loss"]
    )
    best = {key: float(np.mean(numbers["optimum"][key])) for key in CURVES}
    nearest = {
        key: min(SAME_POINTS, key=lambda name: abs(summary[name][key] - best[key]))  # noqa: B023
        for key in ("held_out_accuracy", "held_out_loss")
    }
    holds = [overfits, *(name == OURS for name in nearest.values())]
    return summary, overfits, nearest, verdict(*holds)


def draw_claim(short, seeds, root):
    """P3.claim."""
    runs, optimum = all_learned(PANELS, seeds, root), the_optimum()
    numbers = curve_numbers(runs, optimum)
    summary, overfits, nearest, agrees = judge_curves(numbers)
    numbers["summary"] = summary
    best = {key: float(np.mean(values)) for key, values in numbers["optimum"].items()}
    plain, ours = summary["no penalty"], summary[OURS]
    lines = [
        f"Means over {len(seeds)} seeds. Without a penalty D ends with {plain['accuracy']:.3f} of "
        f"its training points right, and {plain['held_out_accuracy']:.3f} of fresh ones, after "
        f"{plain['best_held_out']:.3f} on the way; 0-GP ends with {ours['accuracy']:.3f} and "
        f"{ours['held_out_accuracy']:.3f}. D* has {best['held_out_accuracy']:.3f} of the fresh "
        f"ones. Nearest to that ends {nearest['held_out_accuracy']}, and nearest to D*'s loss "
        f"{nearest['held_out_loss']}, of those with equal points.",
        "",
        "| | accuracy, training | accuracy, held out: best, last | loss, held out: least, last |",
        "|---|---|---|---|",
        *(
            f"| {name} | {row['accuracy']:.3f} | {row['best_held_out']:.3f}, "
            f"{row['held_out_accuracy']:.3f} | {row['least_held_out_loss']:.3f}, "
            f"{row['held_out_loss']:.3f} |"
            for name, row in summary.items()
        ),
        f"| D* | {best['accuracy']:.3f} | {best['held_out_accuracy']:.3f} | "
        f"{best['held_out_loss']:.3f} |",
    ]
    picture = plots.png(
        lambda grid: paint_curves(grid, numbers), (7.4, 5.6), 120, nrows=2, ncols=2, sharex=True,
        sharey="row",
    )  # fmt: skip
    return Claim({"": picture}, "\n".join(lines), numbers, agrees)


def paint_curves(grid, numbers):
    """Accuracy above, loss below; training points to the left, held-out ones to the right."""
    step = np.array(numbers["step"])
    shown = step >= min(10, step[-1])  # before, D is as it was drawn
    panels = (("accuracy", "held_out_accuracy"), ("loss", "held_out_loss"))
    for row, keys in zip(grid, panels, strict=True):
        for axes, key in zip(row, keys, strict=True):
            for (name, curves), color in zip(
                numbers["variants"].items(), plots.COLORS, strict=False
            ):
                values = np.array(curves[key])[:, shown]
                low, high = values.min(axis=0), values.max(axis=0)
                axes.fill_between(step[shown], low, high, color=color, alpha=0.15, lw=0)
                style = "--" if name == MORE else "-"
                axes.plot(step[shown], values.mean(axis=0), style, color=color, lw=1.5, label=name)
            best = np.mean(numbers["optimum"][key])
            axes.axhline(best, color="black", lw=1, ls=":", label="D*")
            axes.set(xscale="log")
    for axes, title in zip(grid[0], ("Training points", "10,000 held-out points"), strict=True):
        axes.set_title(title)
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("loss without penalty, nats")
    grid[1, 0].set_yscale("log")
    grid[1, 0].set_yticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    grid[1, 0].minorticks_off()
    for axes in grid[1]:
        axes.set_xlabel("step of D")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    grid[0, 0].figure.legend(handles, labels, loc="outside lower center", ncols=3)


SETTINGS = (
    "D 2 → 64 tanh → 64 tanh → 1, Adam 1e-3 (.9, .999), 100 real and 100 fake points of the two "
    "Gaussians, batches of 20 + 20, λ 1 on the slope of σ(D), 10,001 epochs of 5 steps; more "
    "points are 1,000 + 1,000, for as many steps"
)
SEEDS = (0, 1, 2, 3, 4)
FIGURES = {
    "P3.F1": Figure(
        "Value surfaces of D on two Gaussians, against the optimal one",
        "A D trained to the end on fixed points bends around them, also with more points; 1-GP "
        "helps, 0-GP-sample does not; with 0-GP its surface is closest to the optimal one.",
        SETTINGS + f", and also for as many epochs: {VARIANTS[LONGER].steps:,} steps",
        "", jobs, draw_surfaces, SEEDS,
    ),
    "P3.claim": Figure(
        "A D against a G that is held fixed: accuracy and loss on training and held-out points, "
        "mean and range over the seeds",
        "Without a penalty D comes to know its own training points, and errs on fresh ones; with "
        "0-GP it generalises.",
        SETTINGS, "", curve_jobs, draw_claim, SEEDS,
    ),
}  # fmt: skip
