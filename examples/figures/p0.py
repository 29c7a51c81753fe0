"""P0, Patel & Siddiki, *Effects of Gradient Penalty on GANs*: what the weight of a 1-GP does."""

import numpy as np
from train import scores

from figures.figure import Claim, Figure
from figures.judging import REACHED, ended, held, less, lost, share, spread, table, verdict
from figures.runs import Training, trained
from figures.scoring import JUDGED, floor, shown
from tinygan.study import plots

WEIGHTS = (0, 1, 10)


def training(weight, short, seed):
    """A DCGAN without batch norm on digits, λ times the one-centred penalty on the logit."""
    changes = {"penalty": "none"} if weight == 0 else {"weight": float(weight)}
    if short:
        changes |= {"width": 0.25, "lr_g": 4e-4, "lr_d": 4e-4}
    steps = 2000 if short else 19000  # 20 passes of 60,000 digits
    return Training("dcgan28", steps, (steps // 4, steps // 2, steps), changes, seed)


def trainings(short, seeds):
    """All weights, all seeds."""
    return [training(weight, short, seed) for seed in seeds for weight in WEIGHTS]


# Figures 2 to 4


def draw_samples(short, seeds, root):
    """Samples of the three, and whether a penalty makes them better and more varied."""
    grids, numbers = [], {}
    for seed in seeds:
        for weight in WEIGHTS:
            run = trained(training(weight, short, seed), root)
            found = {"stopped": run.record["stopped"]}
            if ended(run):
                found |= {"iteration": run.last, **scores(run.what, run.samples(run.last, JUDGED))}
                if seed == seeds[0]:
                    grids.append((weight, shown(run, run.last, 100)))
            numbers.setdefault(f"{weight}", {})[str(seed)] = found
    better, wider = compared(numbers)
    words = [
        f"with λ = {weight} samples are nearer to the digits than without a penalty with "
        f"{share(better[weight])}, and reach more of them (recall) with {share(wider[weight])}"
        for weight in better
    ]
    rows = [
        [f"λ = {weight}", *(spread(_column(each, name), form) for name, form in COLUMNS.items())]
        for weight, each in numbers.items()
    ]
    real = floor()
    rows.append(
        ["other real digits", *(format(real[name], form) for name, form in COLUMNS.items())]
    )
    measured = (
        f"{_lost(numbers)}{JUDGED:,} images after the last iteration: {'; '.join(words)} (only "
        f"where a recall of {REACHED} says that digits are reached at all).\n\n"
    ) + table(["", "Fréchet ↓", "precision", "recall", "inception-style ↑"], rows)
    agrees = verdict(*map(held, better.values()), *map(held, wider.values()))

    def paint(panels):
        for axes, (weight, images) in zip(panels, grids, strict=False):
            distance = numbers[f"{weight}"][str(seeds[0])]["frechet_distance"]
            plots.image_panel(axes, images, f"λ = {weight}: {distance:.2f}")

    picture = plots.png(paint, (7.4, 2.85), dpi=115, ncols=len(WEIGHTS))
    return Claim({"": picture}, measured, {**numbers, "real": real}, agrees)


COLUMNS = {
    "frechet_distance": ".2f", "precision": ".2f", "recall": ".2f", "inception_style_score": ".2f",
}  # fmt: skip


def _lost(numbers):
    return lost({f"λ = {weight}": by_seed for weight, by_seed in numbers.items()})


def _column(by_seed, name):
    return [found.get(name) for found in by_seed.values()]


def compared(numbers):
    """For each λ above 0, and every seed, whether samples are better and wider than at 0.

    Better is a smaller Fréchet distance, wider a larger recall; neither is one that does not reach
    :data:`REACHED` of the digits. A pair of which a run diverged is neither.

    Args:
        numbers: scores by λ, "0" among them, and by seed.
    """

    def wins(weight, name, sign):
        pairs = zip(numbers[weight].values(), numbers["0"].values(), strict=True)
        return [
            less(*[each.get(name) for each in (ours, theirs)][::sign]) and ours["recall"] >= REACHED
            for ours, theirs in pairs
        ]

    weights = [weight for weight in numbers if weight != "0"]
    return (
        {weight: wins(weight, "frechet_distance", 1) for weight in weights},
        {weight: wins(weight, "recall", -1) for weight in weights},
    )


# Figures 5 and 6


def draw_losses(short, seeds, root):
    """D's loss over each run, and its last half."""
    histories, numbers = {}, {}
    for seed in seeds:
        for weight in WEIGHTS:
            run = trained(training(weight, short, seed), root)
            found = {"stopped": run.record["stopped"]}
            if not found["stopped"]:
                found |= last_half(run.history)
            numbers.setdefault(f"{weight}", {})[str(seed)] = found
            if seed == seeds[0]:
                histories[weight] = run.history
    steadier = steadier_than_without(numbers)
    words = [
        f"with λ = {weight} it varies less than without a penalty with {share(flags)}"
        for weight, flags in steadier.items()
    ]
    rows = [
        [
            f"λ = {weight}",
            *(spread(_column(each, name), ".3f") for name in ("mean", "deviation")),
            f"{sum(found['stopped'] is not None for found in each.values())}",
        ]
        for weight, each in numbers.items()
    ]
    measured = (
        f"{_lost(numbers)}D's loss without its penalty, over the last half: {'; '.join(words)} "
        "(only where its mean is between 5% and 95% of 2·log 2, so that D is neither blind nor has "
        "won).\n\n"
    ) + table(["", "mean", "standard deviation", "runs that diverged"], rows)

    def paint(panels):
        whole, close = panels
        for (weight, columns), color in zip(histories.items(), plots.COLORS, strict=False):
            step, loss = columns["step"], columns["critic_loss"]
            half = step > step[-1] / 2
            plots.curve(whole, step, loss, color, f"λ = {weight}")
            plots.curve(close, step[half], loss[half], color, f"λ = {weight}")
        whole.set(title="D's loss, without its penalty", xlabel="iteration", ylabel="loss, nats")
        close.set(title="Its last half", xlabel="iteration", ylabel="loss, nats")
        whole.legend()

    picture = plots.png(paint, (7.4, 3.0), dpi=120, ncols=2)
    return Claim({"": picture}, measured, numbers, verdict(*map(held, steadier.values())))


def steadier_than_without(numbers):
    """For each λ above 0, and every seed, whether D's loss varies less than at 0.

    Neither a run that diverged is steadier, nor one against a run that did, nor one whose D is
    blind (a loss of 2·log 2) or has won (0), which varies little because nothing is played.

    Args:
        numbers: of :func:`last_half`, by λ, "0" among them, and by seed.
    """
    even = 2 * np.log(2)
    return {
        weight: [
            less(a.get("deviation"), b.get("deviation")) and 0.05 < a["mean"] / even < 0.95
            for a, b in zip(each.values(), numbers["0"].values(), strict=True)
        ]
        for weight, each in numbers.items()
        if weight != "0"
    }


def last_half(history):
    """The mean and the standard deviation of the critic's loss over the last half of a run."""
    loss = history["critic_loss"][history["step"] > history["step"][-1] / 2]
    return {"mean": float(np.mean(loss)), "deviation": float(np.std(loss))}


SETTINGS = (
    "DCGAN-28 without batch norm, penalty on the logit, non-saturating loss, Adam 2·10⁻⁴ "
    "(.5, .999), batch 64, z ~ U[−1, 1]¹⁰⁰, 19,000 iterations (20 passes of MNIST's 60,000 digits; "
    "here on the 5,000 of the package)"
)
SHORT = "a quarter of the channels, 2,000 iterations in place of 19,000, Adam 4·10⁻⁴"

FIGURES = {
    "P0.F2": Figure(
        title="Figures 2 to 4: samples at λ = 0, 1 and 10",
        says="Samples with a gradient penalty look better than those without, which are noisier "
        "and vary less.",
        settings=SETTINGS + "; numbers are the Fréchet distance of our classifier's features",
        short=SHORT,
        jobs=trainings,
        draw=draw_samples,
    ),
    "P0.F5": Figure(
        title="Figures 5 and 6: D's loss, whole and close",
        says="The three losses side by side; the abstract speaks of more stable training with a "
        "penalty, which we take as a loss that varies less.",
        settings=SETTINGS,
        short=SHORT,
        jobs=trainings,
        draw=draw_losses,
    ),
}
