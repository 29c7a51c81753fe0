"""P3 on digits: Figures 3, 4, 7 and 8, and its appendices."""

import io
import time
from dataclasses import dataclass

import epsilon_optimal
import numpy as np
from common import write_whole
from PIL import Image

import tinygan as tg
from figures import scoring
from figures.figure import Claim, Figure
from figures.judging import held, share, spread, table, verdict
from figures.runs import Training, trained
from tinygan import data, image_scores, losses, models, optim
from tinygan.loop import run
from tinygan.models.points import Given, LinearCritic, LinearGenerator
from tinygan.study import plots
from tinygan.train import GAN, Alternating

DIGITS = {
    "no GP": {"penalty": "none"},
    "0-GP-sample, real": {"penalty": "r1"},
    "1-GP": {"penalty": "1-gp"},
    "0-GP": {},
}
ROBUST = ("0-GP-sample, real", "0-GP")
EARLY = 1000  # the paper's, and a mark of short runs too


def digits(variant, short, seed, betas=(0.5, 0.9)):
    """Figures 3, 7 and 8: perceptrons on digits, λ 100, 5 D : 1 G."""
    changes = {**DIGITS[variant], "betas": tuple(betas)}
    steps, marks = (2000, (500, 1000, 2000)) if short else (10000, (1000, 5000, 10000))
    if short:
        changes["hidden"] = 256
    return Training("p3-mnist", steps, marks, changes, seed)


def digits_all(short, seeds):
    """Figures 3 and 7."""
    return [digits(variant, short, seed) for seed in seeds for variant in DIGITS]


def digits_robust(short, seeds):
    """Figure 8: Adam (.9, .99)."""
    return [digits(variant, short, seed, (0.9, 0.99)) for seed in seeds for variant in ROBUST]


SCORED = {"0-GP": "0-gp", "0-GP-sample": "0-gp-sample"}


def scored(name, short, seed):
    """Figure 4 on digits: score curves under two rates."""
    changes = {"penalty": SCORED[name], "weight": 10.0, "lr_g": 1e-4, "lr_d": 3e-4}
    steps = 20000
    if short:
        steps = 2000
        changes |= {"width": 0.25, "lr_g": 4e-4, "lr_d": 1.2e-3}
    return Training("dcgan28-0gp", steps, tuple(range(0, steps + 1, steps // 10)), changes, seed)


def scored_all(short, seeds):
    """Both penalties, all seeds."""
    return [scored(name, short, seed) for seed in seeds for name in SCORED]


# Figures 3, 7 and 8: images, and who learned

SHOWN = 64
LEARNED = 0.05  # of the real digits, the share that must lie among samples
KEPT = ("inception_style_score", "classes", "recall", "frechet_distance")


def judged(run, step):
    """A run's samples by our own scores; all None where it diverged before that iteration."""
    if step not in run.players:
        return dict.fromkeys(KEPT)
    found = scoring.scores(run, step)
    return {name: found[name] for name in KEPT}


def learned(found):
    """Whether samples have all ten digits and reach the real ones: neither collapse nor noise."""
    return found["recall"] is not None and found["recall"] >= LEARNED and found["classes"] == 10


def alone(numbers, winner="0-GP"):
    """Whether the winner learns, and each other one does not where the winner does.

    Each part is asked of more than half of the seeds. That another does not learn says nothing
    where the winner does not either: then no part holds.

    Args:
        numbers: by variant, a list of what :func:`judged` found, seed by seed.
    """
    mine = list(map(learned, numbers[winner]))
    others = (map(learned, found) for name, found in numbers.items() if name != winner)
    return verdict(
        held(mine),
        *(held([a and not b for a, b in zip(mine, theirs, strict=True)]) for theirs in others),
    )


def ahead(numbers, winner="0-GP"):
    """Whether the winner has the highest recall and the least Fréchet distance.

    "yes" with every seed, "in part" in the mean over seeds.
    """

    def best(of):
        mine, *others = (of(name) for name in [winner, *(n for n in numbers if n != winner)])
        return all(mine[0] > other[0] and mine[1] < other[1] for other in others)

    def pair(found):  # a run that diverged is behind all
        if found["recall"] is None:
            return -1.0, np.inf
        return found["recall"], found["frechet_distance"]

    if all(best(lambda name, i=i: pair(numbers[name][i])) for i in range(len(numbers[winner]))):
        return "yes"
    return "in part" if best(lambda name: np.mean([*map(pair, numbers[name])], axis=0)) else "no"


def rows_of(rows):
    """What was found, a line for each run: pairs of its name and what :func:`judged` found."""
    forms = dict(zip(KEPT, (".2f", ".1f", ".3f", ".1f"), strict=True))
    heads = ["", "score, 1 to 10", "digits of 10", "recall", "Fréchet distance", "learned"]
    lines = []
    for name, found in rows:
        cells = [spread([each[key] for each in found], form) for key, form in forms.items()]
        lines.append([name, *cells, share([learned(each) for each in found])])
    return table(heads, lines)


READ = (
    "Scores are our own (`tinygan.image_scores`), of 1,000 samples against 1,000 real digits: no "
    "published score can be compared with them. *Learned*: all ten digits, and a recall (the share "
    f"of real digits that lie among samples) of {LEARNED:g} or more."
)


def sheet(panels, columns, size):
    """Grids of images beside each other on one picture.

    Args:
        panels: pairs (title, images); None for images of a run that diverged.
    """

    def paint(grid):
        for axes in np.ravel(grid):
            axes.axis("off")
        for axes, (title, images) in zip(np.ravel(grid), panels, strict=False):
            if images is None:
                axes.text(0.5, 0.5, "diverged", ha="center", va="center")
                axes.set_title(title)
            else:
                plots.image_panel(axes, images, title, columns=8)

    rows = -(-len(panels) // columns)
    colored = plots.png(paint, size, dpi=120, nrows=rows, ncols=columns, squeeze=False)
    buffer = io.BytesIO()  # all of it is grey: a third of the bytes
    Image.open(io.BytesIO(colored)).convert("L").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def shown(run, step):
    """Some of a run's samples, or None of a run that diverged."""
    return scoring.shown(run, step, SHOWN) if step in run.players else None


def compared(job, variants, seeds, root, step):
    """(numbers, runs), each by variant and seed: samples at an iteration, judged."""
    runs = {v: [trained(job(v, seed), root) for seed in seeds] for v in variants}
    return {v: [judged(run, step) for run in runs[v]] for v in variants}, runs


def counted(numbers):
    """Who learned, in words."""
    return ", ".join(
        f"{name} with {share([learned(each) for each in found])}" for name, found in numbers.items()
    )


LONG = {"0-GP-sample, real": "0-GP on real samples only"}


def panels_of(runs, step):
    """What the variants made with the first seed, each under its name."""
    return [(LONG.get(name, name), shown(first, step)) for name, (first, *_) in runs.items()]


def claim(pictures, opening, rows, numbers, agrees):
    """The claim of a figure of images: words, how to read the table, the table."""
    return Claim(pictures, f"{opening} {READ}\n\n{rows_of(rows)}", numbers, agrees)


def draw_early(short, seeds, root):
    """Figure 3."""
    numbers, runs = compared(lambda v, s: digits(v, short, s), DIGITS, seeds, root, EARLY)
    last = runs["0-GP"][0].training.marks[-1]
    later = [judged(run, last) for run in runs["0-GP"]]
    what = runs["0-GP"][0].what
    real = what.images.take(tg.Stream(1).permutation(len(what.images))[:SHOWN])
    panels = panels_of(runs, EARLY)
    panels += [(f"0-GP, iteration {last:,}", shown(runs["0-GP"][0], last))]
    panels += [("real digits", real.pixels)]
    rows = [*numbers.items(), (f"0-GP, iteration {last:,}", later)]
    idle = [float(np.mean(run.history["generator_gradient"] == 0)) for run in runs["1-GP"]]
    opening = f"At iteration {EARLY:,} there learned: {counted(numbers)}."
    if max(idle) > 0:
        opening += (
            " With 1-GP the generator's gradient is exactly 0 in "
            f"{', '.join(f'{100 * share:.0f}%' for share in idle)} of the recorded iterations. It "
            "asks a slope of 1 of σ(D), which lies between 0 and 1: its mean slope on the way from "
            "x to y is at most 1/‖x − y‖, and images are far apart."
        )
    return claim(
        {"": sheet(panels, 3, (7.2, 5.3))}, opening, rows,
        {
            "iteration": EARLY, "seeds": list(seeds), "variants": numbers,
            "0-GP later": {"iteration": last, "found": later}, "1-GP, generator idle": idle,
        },
        alone(numbers),
    )  # fmt: skip


def draw_late(short, seeds, root):
    """Figure 7."""
    step = digits("0-GP", short, 0).marks[-1]
    numbers, runs = compared(lambda v, s: digits(v, short, s), DIGITS, seeds, root, step)
    return claim(
        {"": sheet(panels_of(runs, step), 4, (9.0, 2.55))},
        f"At iteration {step:,} there learned: {counted(numbers)}.", numbers.items(),
        {"iteration": step, "seeds": list(seeds), "variants": numbers},
        ahead(numbers),
    )  # fmt: skip


def draw_robust(short, seeds, root):
    """Figure 8."""
    step = digits("0-GP", short, 0).marks[-1]
    numbers, runs = compared(
        lambda v, s: digits(v, short, s, (0.9, 0.99)), ROBUST, seeds, root, step
    )
    return claim(
        {"": sheet(panels_of(runs, step), 2, (6.0, 3.1))},
        f"At iteration {step:,} there learned: {counted(numbers)}.", numbers.items(),
        {"iteration": step, "seeds": list(seeds), "variants": numbers},
        alone(numbers),
    )  # fmt: skip


# Figure 4: score curves


def curve_of(run, n=scoring.JUDGED):
    """Our score and the Fréchet distance at each kept iteration; None after it diverged."""
    embed, (real, _), found = image_scores.digit_classifier(), scoring.reference(), []
    for step in run.training.marks:
        score = frechet = None
        if step in run.players:
            features, p = embed(scoring.shown(run, step, n))
            score = image_scores.inception_style_score(p)
            frechet = image_scores.frechet_distance(real, features)
        found.append(
            {"iteration": step, "inception_style_score": score, "frechet_distance": frechet}
        )
    return found


def column(curves, key):
    """One number of all curves. Shapes: (seeds, marks), NaN where there is none."""
    return np.array([[np.nan if m[key] is None else m[key] for m in curve] for curve in curves])


def differences(numbers, mine="0-GP", other="0-GP-sample"):
    """One score less the other, of the same seed: the seeds share the data and the noise.

    A run that diverged scores 1, the least. Of each seed the mean over all marks after the start:
    marks of one run are no independent numbers, seeds are.

    Returns: a dict: "seeds", a number for each; "mean"; "error", the standard error of the mean,
    None for one seed; "marks above", at how many of "marks" the mean over seeds is above 0.
    """
    a, b = (
        np.nan_to_num(column(numbers[name], "inception_style_score"), nan=1.0)[:, 1:]
        for name in (mine, other)
    )
    each = (a - b).mean(1)
    n = len(each)
    return {
        "seeds": each.tolist(), "mean": float(each.mean()),
        "error": float(each.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        "marks above": int(((a - b).mean(0) > 0).sum()), "marks": a.shape[1],
    }  # fmt: skip


def consistent(found):
    """Whether a score is above another all along, beyond the noise of the seeds.

    "yes" where the mean difference exceeds its standard error and is above 0 at every mark; "in
    part" where one of the two is all that is known: not at every mark, or one seed, without an
    error. Else "no": a difference within the noise is none.

    Args:
        found: of :func:`differences`.
    """
    throughout = found["marks above"] == found["marks"]
    if found["error"] is None:
        return "in part" if throughout else "no"
    if found["mean"] <= found["error"]:
        return "no"
    return "yes" if throughout else "in part"


def compared_in_pairs(found):
    """What :func:`differences` found, in words."""
    each = ", ".join(f"{d:+.3f}" for d in found["seeds"])
    told = f"{found['mean']:+.3f}"
    if found["error"] is None:
        judged = "one seed has no standard error"
    else:
        told += f" ± {found['error']:.3f}"
        if abs(found["mean"]) <= found["error"]:
            judged = "no difference beyond the noise of the seeds"
        else:
            judged = "beyond the noise of the seeds"
            judged += "" if found["mean"] > 0 else ", the other way round"
    return (
        "The score of 0-GP less that of 0-GP-sample with the same seed, in the mean over the marks "
        f"after the start, is {told} ({each}): {judged}. The mean over seeds is higher with 0-GP "
        f"at {found['marks above']} of {found['marks']} marks."
    )


def draw_scores(short, seeds, root):
    """Figure 4."""
    numbers = {
        name: [curve_of(trained(scored(name, short, seed), root)) for seed in seeds]
        for name in SCORED
    }
    best = scoring.floor()
    step = [mark["iteration"] for mark in next(iter(numbers.values()))[0]]

    def paint(grid):
        for axes, key, label in (
            (grid[0], "inception_style_score", "our inception-style score, 1 to 10"),
            (grid[1], "frechet_distance", "our Fréchet distance"),
        ):
            for (name, curves), color in zip(numbers.items(), plots.COLORS, strict=False):
                values = column(curves, key)
                axes.plot(step, values.T, color=color, lw=0.7, alpha=0.6)
                axes.plot(step, values.mean(0), color=color, lw=2.2, label=name)
            axes.axhline(best[key], color="0.5", lw=0.8, ls="--", label="other real digits")
            axes.set(xlabel="iteration of the generator", ylabel=label)
        grid[0].set_title("Digits, our score (the paper: ImageNet)")
        grid[1].set_title("The same samples")
        grid[1].set_yscale("log")
        grid[0].legend(loc="lower right")

    forms = {"inception_style_score": ".2f", "frechet_distance": ".1f"}
    heads = [f"{what}, {name}" for what in ("score", "Fréchet") for name in SCORED]
    lines = [
        [f"{mark:,}"]
        + [
            spread([curve[i][key] for curve in numbers[name]], form)
            for key, form in forms.items()
            for name in SCORED
        ]
        for i, mark in enumerate(step)
    ]
    apart = differences(numbers)
    measured = (
        f"On digits and by our own score (no ImageNet here). {compared_in_pairs(apart)} Other real "
        "digits score "
        f"{best['inception_style_score']:.2f}, at a Fréchet distance of "
        f"{best['frechet_distance']:.2f}.\n\n{table(['iteration', *heads], lines)}"
    )
    return Claim(
        {"": plots.png(paint, (8.0, 3.2), dpi=130, ncols=2)}, measured,
        {
            "seeds": list(seeds), "other real digits": best, "curves": numbers,
            "0-GP less 0-GP-sample": apart,
        },
        consistent(apart),
    )  # fmt: skip


# Appendix A: the ε-optimal discriminator

EPSILON, ALPHA = 0.6, 0.1
POINTS, IMAGES = 4, 100  # of each kind


def built(real, fake, pairs):
    """What P3's construction is on these samples, and at a tenth of the k that it takes.

    Args:
        pairs: of :func:`epsilon_optimal.study`, or of the nearest two samples alone.
    """
    samples = np.concatenate([real, fake])
    k = models.sufficient_k(samples, EPSILON, ALPHA)

    def margin(k):
        model, params = models.epsilon_optimal(real, fake, EPSILON, ALPHA, k)
        over = model(params, real).min() - (0.5 + EPSILON / 2)
        under = 0.5 - EPSILON / 2 - model(params, fake).max()
        return float(min(over, under)), models.count_parameters(params)

    nearest = min(pairs, key=lambda pair: pair["distance"])
    return {
        "samples": len(samples), "components": samples.shape[1], "k": k,
        "parameters": margin(k)[1], "margin": margin(k)[0], "margin at k/10": margin(k / 10)[0],
        "nearest": nearest["distance"], "slope": nearest["slope"], "bound": nearest["bound"],
        "least slope over bound": min(pair["slope"] / pair["bound"] for pair in pairs),
    }  # fmt: skip


def on_digits(seed):
    """A hundred shipped digits as real, a hundred others as fake: it tells even those apart."""
    rows = data.digits().pixels.reshape(-1, 28 * 28) / 255.0
    some = rows[tg.Stream(seed).permutation(len(rows))[: 2 * IMAGES]]
    some /= np.linalg.norm(some, axis=1, keepdims=True)
    real, fake = some[:IMAGES], some[IMAGES:]
    apart = np.linalg.norm(real[:, None] - fake, axis=2)
    i, j = np.unravel_index(apart.argmin(), apart.shape)
    model, params = models.epsilon_optimal(real, fake, EPSILON, ALPHA)
    slope = epsilon_optimal.steepest(lambda v: model(params, v), real[i], fake[j])
    distance = float(apart[i, j])
    return built(real, fake, [{"distance": distance, "slope": slope, "bound": EPSILON / distance}])


def holds(found):
    """Whether D is ε-optimal to rounding, of the size that P3 says, and as steep as it must be."""
    return (
        found["margin"] >= -1e-9
        and found["parameters"] == (found["components"] + 1) * found["samples"]
        and found["least slope over bound"] >= 1 - 1e-9
    )


def draw_epsilon(short, seeds, root):
    """Appendix A."""
    numbers, picture = {"points of the circle": [], "digits": []}, None
    for seed in seeds:
        stream = tg.Stream(seed)
        real, fake = (epsilon_optimal.on_the_circle(POINTS, stream.child(i)) for i in (0, 1))
        critic, found = epsilon_optimal.study(real, fake, EPSILON, ALPHA)
        if picture is None:
            picture = plots.as_bytes(
                epsilon_optimal.draw, critic=critic, real=real, fake=fake, epsilon=EPSILON,
                pairs=found["pairs"],
            )  # fmt: skip
        numbers["points of the circle"].append(built(real, fake, found["pairs"]))
        numbers["digits"].append(on_digits(seed))
    heads = ["samples", "seed", "k", "parameters", "least margin", "at k/10"]
    heads += ["nearest two", "slope there", "ε/‖x − y‖"]
    lines = []
    for name, group in numbers.items():
        for seed, found in zip(seeds, group, strict=True):
            cells = [
                f"{found['samples']} {name}", f"{seed}", f"{found['k']:.4g}",
                f"{found['parameters']:,}", f"{found['margin']:.2g}",
                f"{found['margin at k/10']:.2g}", f"{found['nearest']:.2g}",
                f"{found['slope']:.3g}", f"{found['bound']:.3g}",
            ]  # fmt: skip
            lines.append(cells)
    every = [found for group in numbers.values() for found in group]
    measured = (
        f"ε = {EPSILON:g}, α = {ALPHA:g}. ε-optimal, of (d + 1)(m + n) parameters and as steep as "
        f"it must be: {sum(map(holds, every))} of {len(every)}. The margin is how far D is beyond "
        "½ ± ε/2 at the worst sample; below 0 it is not ε-optimal. The nearest two of all set k, "
        "also where they are of one kind: then a tenth may do. Of the digits a random half is "
        f"called fake.\n\n{table(heads, lines)}"
    )
    agrees = "yes" if all(map(holds, every)) else "no"
    return Claim({"": picture}, measured, {"seeds": list(seeds), **numbers}, agrees)


# Appendix B: Fixed-Alt-GD on the linear game

RATE, GAP, DISTANCE = 0.005, 1.0, 2.0  # α, ε, ‖x − y‖ at the start
WIDE, LATENT = 3, 2  # of x and of z
COLUMNS = ("iteration", "distance", "told", "steepness", "critic_gradient", "generator_gradient")


@dataclass(frozen=True)
class LinearGame:
    """Fixed-Alt-GD from an ε-optimal D: one real and one fake sample, both players linear.

    Args:
        critic_steps: of D for one of G.
        steps: iterations.
    """

    critic_steps: int
    seed: int = 0
    steps: int = 1600

    @property
    def name(self):
        """The folder."""
        return f"linear-game-critic_steps={self.critic_steps}-{self.steps}-seed{self.seed}"

    def make(self, folder):
        """Play, and write path.csv: at each iteration what appendix B speaks of."""
        stream = tg.Stream(self.seed)
        away = stream.child(0).normal((1, WIDE), np.float64)
        z = stream.child(1).normal((1, LATENT), np.float64)
        theta_g = stream.child(2).normal((LATENT, WIDE), np.float64)
        gap = DISTANCE * away / np.linalg.norm(away)
        x = z @ theta_g + gap
        theta_d = (GAP / (gap**2).sum() * gap).T  # D(x) − D(y) = ε, by the smallest slope that can
        gan = GAN(
            LinearGenerator(LATENT, WIDE, Given(tuple(map(tuple, theta_g)))),
            LinearCritic(WIDE, Given(tuple(map(tuple, theta_d)))),
            optim.SGD(RATE), optim.SGD(RATE), losses.WASSERSTEIN,
        )  # fmt: skip
        game = Alternating(
            gan, 1, LATENT, self.critic_steps, prior=lambda stream, shape, dtype: z.astype(dtype)
        )
        path, began = [], time.process_time()

        def watch(step, players):
            sides = tg.track((players.generator, players.critic))
            told = tg.ops.subtract(
                gan.critic(sides[1], x), gan.critic(sides[1], gan.generator(sides[0], z))
            )
            slopes = tg.grad_values(tg.ops.sum(told), sides)
            distance = np.linalg.norm(x - z @ players.generator["theta"])
            norms = [np.linalg.norm(a) for a in (players.critic["theta"], *map(theta, slopes))]
            path.append((step, distance, told.data.item(), norms[0], norms[2], norms[1]))

        done = run(
            game, game.init(tg.Stream(0), np.float64), lambda n, stream: x, self.steps,
            tg.Stream(1), watch=watch,
        )  # fmt: skip
        if done.interrupted:  # half a path is none: no run.json
            raise KeyboardInterrupt
        rows = [",".join(COLUMNS), *(",".join(f"{v:.17g}" for v in row) for row in path)]
        write_whole(folder / "path.csv", ("\n".join(rows) + "\n").encode())
        return {"stopped": None, "cpu_seconds": time.process_time() - began}


def theta(tree):
    """The one parameter of a linear player."""
    return tree["theta"]


ALTERNATIONS = (1, 5, 25)


def linear_games(short, seeds):
    """One, five and 25 steps of D for one of G."""
    return [LinearGame(steps, seed) for seed in seeds for steps in ALTERNATIONS]


def path_of(game, root):
    """path.csv of a game that is done.

    Raises: FileNotFoundError without it.
    """
    path = root / game.name / "path.csv"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, which this figure is drawn from; expected a finished run. Remove "
            "the folder, and reproduce.py makes it anew"
        )
    return np.genfromtxt(path, delimiter=",", names=True)


def approach(path, critic_steps, rate=RATE, gap=GAP):
    """What became of D while y came near x for the first time.

    D(x) − D(y) = ε would take another ⌈(ε − told)/(α‖x − y‖²)⌉ steps of D, with y held still: each
    adds α‖x − y‖².
    """
    distance, told = path["distance"], path["told"]
    wanting = np.maximum(0.0, gap * (1 - 1e-9) - told)  # 1e-9: of rounding
    near = int(np.argmax(np.diff(distance) > 0))  # then it overshoots
    lost = np.flatnonzero(wanting[: near + 2] > 0)

    def at(i):
        return {
            "iteration": int(path["iteration"][i]), "distance": float(distance[i]),
            "told": float(told[i]), "steepness": float(path["steepness"][i]),
            "needed": float(gap / distance[i]),
            "critic_gradient": float(path["critic_gradient"][i]),
            "generator_gradient": float(path["generator_gradient"][i]),
            "steps wanting": int(np.ceil(wanting[i] / (rate * distance[i] ** 2))),
        }  # fmt: skip

    return {
        "critic_steps": critic_steps, "start": at(0), "nearest": at(near),
        "lost": int(path["iteration"][lost[0]]) if len(lost) else None,
        "farthest afterwards": float(distance[near:].max()),
    }  # fmt: skip


def cannot_keep(found):
    """Whether D ceased to be ε-optimal while y came near, as its gradient fell and G's grew."""
    start, near = found["start"], found["nearest"]
    return (
        found["lost"] is not None
        and near["critic_gradient"] < start["critic_gradient"]
        and near["generator_gradient"] > start["generator_gradient"]
    )


def draw_linear(short, seeds, root):
    """Appendix B."""
    paths = {game: path_of(game, root) for game in linear_games(short, seeds)}
    numbers = [
        {"seed": game.seed, **approach(path, game.critic_steps)} for game, path in paths.items()
    ]

    def paint(grid):
        steepness, gradients, told = grid
        path = paths[LinearGame(1, seeds[0])]
        step = path["iteration"]
        steepness.semilogy(step, path["steepness"], color=plots.CRITIC, label="‖θ$_D$‖")
        steepness.semilogy(
            step, GAP / path["distance"], color=plots.FAKE, lw=1, label="ε/‖x − y‖, to be ε-optimal"
        )
        steepness.set(title="How steep D is, and has to be", ylabel="slope")
        gradients.semilogy(
            step, path["critic_gradient"], color=plots.CRITIC, lw=1, label="‖∂L/∂θ$_D$‖ = ‖x − y‖"
        )
        gradients.semilogy(
            step, path["generator_gradient"], color=plots.GENERATOR, label="‖∂L/∂θ$_G$‖"
        )
        gradients.set(title="What each side learns from", ylabel="norm of the gradient")
        for axes in (steepness, gradients):
            axes.set_xlabel("iteration, 1 D : 1 G")
            low, high = axes.get_ylim()
            axes.set_ylim(low, high * (high / low) ** 0.25)
            axes.legend(loc="upper center")
        for steps, color in zip(ALTERNATIONS, plots.COLORS, strict=False):
            path = paths[LinearGame(steps, seeds[0])]
            near = approach(path, steps)["nearest"]["iteration"] + 1
            told.plot(
                path["distance"][:near], path["told"][:near], color=color, marker=".", ms=3,
                lw=1, label=f"{steps} D : 1 G",
            )  # fmt: skip
        told.axhline(GAP, color="0.4", lw=0.8, ls="--", label="ε")
        told.invert_xaxis()
        told.set(title="What D tells apart as y nears x", xlabel="‖x − y‖", ylabel="D(x) − D(y)")
        told.legend(loc="upper right")

    heads = ["D : G", "seed", "ε-optimal until", "‖x − y‖ at the start, nearest", "‖θ_D‖ there"]
    heads += [
        "needed",
        "D(x) − D(y) there",
        "D-steps wanting there",
        "‖∂L/∂θ_G‖ at the start, there",
    ]
    lines = []
    for found in numbers:
        start, near = found["start"], found["nearest"]
        lost = "the end" if found["lost"] is None else f"iteration {found['lost'] - 1}"
        cells = [
            f"{found['critic_steps']} : 1", f"{found['seed']}", lost,
            f"{start['distance']:.2f}, {near['distance']:.2g}", f"{near['steepness']:.2f}",
            f"{near['needed']:,.4g}", f"{near['told']:.2g}", f"{near['steps wanting']:,}",
            f"{start['generator_gradient']:.2f}, {near['generator_gradient']:.2f}",
        ]  # fmt: skip
        lines.append(cells)
    every = list(map(cannot_keep, numbers))
    back = min(found["farthest afterwards"] / found["start"]["distance"] for found in numbers)
    measured = (
        f"ε = {GAP:g}, α = {RATE:g} for both; D starts ε-optimal. In {sum(every)} of {len(every)} "
        "games it ceased to be while y came near x, as D's gradient fell and G's grew. *There* is "
        "where y comes nearest; D(x) − D(y) is negative if it has just passed x. It does not stay: "
        f"the players circle, and ‖x − y‖ comes back to {100 * back:.0f}% of its start or "
        f"more.\n\n{table(heads, lines)}"
    )
    return Claim(
        {"": plots.png(paint, (9.6, 3.0), dpi=130, ncols=3)}, measured,
        {"rate": RATE, "epsilon": GAP, "games": numbers},
        verdict(*every),
    )  # fmt: skip


HERE = "here on the 5,000 digits that come with tinygan"
SHORTER = "2,000 iterations for 10,000, 256 units for 512"

FIGURES = {
    "P3.F3": Figure(
        "Digits at iteration 1,000: four critics, and 0-GP later",
        "After 1,000 iterations GANs without a penalty, with 0-GP on real samples only and with "
        "1-GP show mode collapse or nothing at all; 0-GP on interpolates makes digits.",
        f"MNIST in the paper, {HERE}; perceptrons of three layers of 512, no batch norm, Adam 3e-4 "
        "(.5, .9), λ 100, 5 D : 1 G",
        SHORTER, digits_all, draw_early,
    ),
    "P3.F4": Figure(
        "Score curves of 0-GP and 0-GP-sample under two rates, on digits",
        "On ImageNet the Inception score of 0-GP is above that of 0-GP-sample all along.",
        f"ImageNet in the paper, {HERE}: DCGAN-28, λ 10, rates 1e-4 for G, 3e-4 for D, 20,000 "
        "iterations",
        "2,000 iterations, a quarter of the filters, rates 4e-4 and 1.2e-3",
        scored_all, draw_scores,
    ),
    "P3.F7": Figure(
        "The same four critics at the last iteration",
        "At 10,000 iterations, too, the samples of 0-GP are the best of the four.",
        f"as P3.F3, {HERE}; 10,000 iterations",
        SHORTER, digits_all, draw_late,
    ),
    "P3.F8": Figure(
        "Adam (.9, .99): 0-GP on real samples only, and 0-GP",
        "With Adam (.9, .99) 0-GP makes digits after 10,000 iterations, and 0-GP on real samples "
        "only does not.",
        f"as P3.F3 with Adam (.9, .99), {HERE}; 10,000 iterations",
        SHORTER, digits_robust, draw_robust,
    ),
    "P3.AppA": Figure(
        "The ε-optimal discriminator, built",
        "For any two finite sets and ε a discriminator of one hidden layer and (d + 1)(m + n) "
        "parameters is ε-optimal; between a real x and a fake y it is somewhere as steep as "
        "ε/‖x − y‖.",
        "the construction itself: samples of norm 1, softmax layer, k large enough",
        "", lambda short, seeds: [], draw_epsilon,
    ),
    "P3.AppB": Figure(
        "Fixed-Alt-GD on the linear game",
        "With one rate and a fixed number of D-steps for one of G, an ε-optimal D does not remain "
        "so: as y nears x its gradient ‖x − y‖ goes to 0 while the slope that it needs, and G's "
        "gradient, grow.",
        "one real and one fake sample, both players linear, L = D(x) − D(y)",
        "", linear_games, draw_linear,
    ),
}  # fmt: skip
