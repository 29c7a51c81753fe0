"""P2 on images: what the Wasserstein distance and an encoder do for networks that fail."""

import numpy as np

from figures.figure import Claim, Figure
from figures.judging import REACHED, ended, held, less, lost, share, spread, table, verdict
from figures.runs import Training, trained
from figures.scoring import JUDGED, distance, floor, scores, shown
from tinygan.study import plots

SYSTEMS = ("dcgan", "no-norm", "mlp")
OBJECTIVES = ("wgan", "gan")
NAMES = {
    "dcgan": "DCGAN", "no-norm": "no norm", "mlp": "perceptron", "wgan": "WGAN", "gan": "GAN",
}  # fmt: skip
CURVES = [("wgan", "dcgan"), ("wgan", "mlp"), ("gan", "dcgan"), ("gan", "mlp")]
FEW = 100  # images at each mark of a curve


def ablation(objective, system, short, seed):
    """WGAN or GAN with one of three architectures; DCGAN and WGAN of P4 are the first of each."""
    name = f"ablation-{objective}-{system}"
    if not short:
        return Training(name, 20000, tuple(range(0, 20001, 1000)), {}, seed)
    changes = {"width": 0.25} | ({"filters": 64} if system == "no-norm" else {})
    if name == "ablation-gan-dcgan":
        return Training(name, 1500, tuple(range(0, 1501, 100)), changes, seed)
    return Training(name, 1000, tuple(range(0, 1001, 100)), changes, seed)


def ablations(short, seeds):
    """The whole grid."""
    return [
        ablation(objective, system, short, seed)
        for seed in seeds
        for system in SYSTEMS
        for objective in OBJECTIVES
    ]


def curves(short, seeds):
    """Those of the grid whose estimate is followed over training."""
    return [ablation(*which, short, seed) for seed in seeds for which in CURVES]


def regularized(short, seeds):
    """A standard GAN, Regularized GAN and MDGAN, all with the same perceptrons.

    Without its two terms a Regularized GAN is the standard GAN.
    """
    return [job for seed in seeds for job in with_encoders(short, seed).values()]


def with_encoders(short, seed):
    """The same by name, for one seed."""
    steps = 5000 if short else 20000
    marks = tuple(steps * part // 4 for part in range(1, 5))
    without = {"distance_weight": 0.0, "mode_weight": 0.0}
    return {
        "GAN": Training("regularized-gan", steps, marks, without, seed),
        "Regularized GAN": Training("regularized-gan", steps, marks, {}, seed),
        "MDGAN": Training("mdgan", steps, marks, {}, seed),
    }


# The grid of architectures


def draw_ablation(short, seeds, root):
    """Samples of the six, and whether WGAN goes on where GAN fails."""
    grid, numbers = {}, {}
    for seed in seeds:
        for system in SYSTEMS:
            for objective in OBJECTIVES:
                run = trained(ablation(objective, system, short, seed), root)
                found = {"stopped": run.record["stopped"]}
                if ended(run):
                    found |= {"iteration": run.last, **scores(run, run.last)}
                numbers.setdefault(f"{objective}-{system}", {})[str(seed)] = found
                if seed == seeds[0] and ended(run):
                    grid[objective, system] = shown(run, run.last, 32)
    learns, better = learnt(numbers)
    contrast = alone(numbers)
    words = [
        f"{NAMES[objective]} with {NAMES[system]} with {share(learns[f'{objective}-{system}'])}"
        for objective in OBJECTIVES
        for system in SYSTEMS
    ]
    nearer = [f"{NAMES[system]} with {share(flags)}" for system, flags in better.items()]
    rows = [
        [
            f"{NAMES[objective]}, {NAMES[system]}",
            *(
                spread(_column(numbers[f"{objective}-{system}"], name), form)
                for name, form in SHOWN.items()
            ),
        ]
        for system in SYSTEMS
        for objective in OBJECTIVES
    ]
    apart = [f"{NAMES[system]} with {share(flags)}" for system, flags in contrast.items()]
    short_of = [
        NAMES[system]
        for system in contrast
        if not any(learns[f"wgan-{system}"] + learns[f"gan-{system}"])
    ]
    unsaid = "" if not short_of else (
        f" Neither learns with {' or '.join(short_of)}: such runs cannot tell the two "
        "apart there."
    )  # fmt: skip
    measured = (
        f"{lost(numbers)}{JUDGED:,} images after the last iteration. Those that learn, which is "
        f"to reach {REACHED:.0%} of the digits (recall): {'; '.join(words)}. WGAN learns where GAN "
        f"does not: {'; '.join(apart)}.{unsaid} WGAN is nearer to the digits than GAN "
        "(not judged): "
        f"{'; '.join(nearer)}.\n\n{_scored(rows)}"
    )
    agrees = verdict(
        *(held(learns[f"{objective}-dcgan"]) for objective in OBJECTIVES),
        *map(held, contrast.values()),
    )

    def paint(axes):
        for row, objective in zip(axes, OBJECTIVES, strict=True):
            for panel, system in zip(row, SYSTEMS, strict=True):
                score = numbers[f"{objective}-{system}"][str(seeds[0])].get("frechet_distance")
                _sheet(panel, grid.get((objective, system)),
                       f"{NAMES[objective]}, {NAMES[system]}", score, 8)  # fmt: skip

    picture = plots.png(paint, (7.4, 3.2), dpi=100, nrows=2, ncols=3)
    return Claim({"": picture}, measured, {**numbers, "real": floor()}, agrees)


def _sheet(axes, images, name, score, columns):
    """The images under their score; of a run that diverged the words alone."""
    if images is None:
        axes.set(title=f"{name}: diverged", xticks=[], yticks=[])
    else:
        plots.image_panel(axes, images, f"{name}: {score:.1f}", columns)


def alone(numbers):
    """For every seed, whether WGAN learns where GAN does not, with the two harder architectures.

    A GAN that diverged has no scores, and is no evidence.

    Args:
        numbers: as of :func:`learnt`.
    """

    def recalls(name):
        return [found.get("recall") for found in numbers[name].values()]

    return {
        system: [
            w is not None and g is not None and g < REACHED <= w
            for w, g in zip(recalls(f"wgan-{system}"), recalls(f"gan-{system}"), strict=True)
        ]
        for system in ("no-norm", "mlp")
    }


def learnt(numbers):
    """For every seed, which of the six learn, and where WGAN is nearer to the digits than GAN.

    To learn is a recall of :data:`REACHED` or more, nearer a smaller Fréchet distance.

    Args:
        numbers: scores by "wgan-mlp", … and by seed.
    """
    learns = {
        name: [found.get("recall", 0) >= REACHED for found in by_seed.values()]
        for name, by_seed in numbers.items()
    }
    better = {
        system: [
            less(a.get("frechet_distance"), b.get("frechet_distance"))
            for a, b in zip(
                numbers[f"wgan-{system}"].values(), numbers[f"gan-{system}"].values(), strict=True
            )
        ]
        for system in SYSTEMS
    }
    return learns, better


SHOWN = {
    "frechet_distance": ".2f", "precision": ".2f", "recall": ".2f", "effective_classes": ".1f",
    "inception_style_score": ".2f",
}  # fmt: skip


def _column(by_seed, name):
    return [found.get(name) for found in by_seed.values()]


def _scored(rows):
    """The table of scores, its last row that of other real digits."""
    real = ["other real digits", *(format(floor()[name], form) for name, form in SHOWN.items())]
    heads = ["", "Fréchet ↓", "precision", "recall", "effective classes", "inception-style ↑"]
    return table(heads, [*rows, real])


# With an encoder


def draw_regularized(short, seeds, root):
    """Samples of the three, and whether the encoder helps."""
    grid, numbers = {}, {}
    for seed in seeds:
        for name, job in with_encoders(short, seed).items():
            run = trained(job, root)
            scored = scores(run, run.last) if ended(run) else {}
            numbers.setdefault(name, {})[str(seed)] = {"stopped": run.record["stopped"], **scored}
            if seed == seeds[0] and ended(run):
                grid[name] = shown(run, run.last, 60)
    found = helped(numbers)
    words = [
        f"{name} is nearer to the digits than the GAN of the same networks with "
        f"{share(each['better'])} and reaches more of them (recall) with {share(each['wider'])}"
        for name, each in found.items()
    ]
    best = [
        less(a.get("frechet_distance"), b.get("frechet_distance")) and a["recall"] >= REACHED
        for a, b in zip(numbers["MDGAN"].values(), numbers["Regularized GAN"].values(), strict=True)
    ]
    rows = [
        [name, *(spread(_column(numbers[name], column), form) for column, form in SHOWN.items())]
        for name in numbers
    ]
    measured = (
        f"{lost(numbers)}{JUDGED:,} images after the last iteration: {'; '.join(words)}; MDGAN is "
        f"nearer than Regularized GAN with {share(best)}. Only what reaches {REACHED:.0%} of the "
        f"digits counts.\n\n{_scored(rows)}"
    )
    parts = [flags for each in found.values() for flags in each.values()]
    agrees = verdict(*map(held, [*parts, best]))

    def paint(axes):
        for panel, name in zip(axes, numbers, strict=True):
            score = numbers[name][str(seeds[0])].get("frechet_distance")
            _sheet(panel, grid.get(name), name, score, 10)

    picture = plots.png(paint, (7.4, 1.75), dpi=120, ncols=3)
    return Claim({"": picture}, measured, {**numbers, "real": floor()}, agrees)


def helped(numbers):
    """For every seed, whether each system with an encoder is better than GAN, and wider.

    Better is a smaller Fréchet distance, wider a larger recall; neither is one that does not reach
    :data:`REACHED` of the digits, and no pair of which a run diverged.

    Args:
        numbers: scores by name, "GAN" among them, and by seed.
    """
    found = {}
    for name in numbers:
        if name == "GAN":
            continue
        pairs = list(zip(numbers[name].values(), numbers["GAN"].values(), strict=True))
        learns = [a.get("recall", 0) >= REACHED for a, _ in pairs]
        nearer = [less(a.get("frechet_distance"), b.get("frechet_distance")) for a, b in pairs]
        more = [less(b.get("recall"), a.get("recall")) for a, b in pairs]
        found[name] = {
            "better": [x and y for x, y in zip(learns, nearer, strict=True)],
            "wider": [x and y for x, y in zip(learns, more, strict=True)],
        }
    return found


# The estimate over training


def estimates(run):
    """What the critic's loss says of the distance at each mark but 0: a dict by iteration.

    −loss of a Wasserstein critic; log 2 − loss/2 of a standard one whose halves are summed, which
    is the JSD if D is optimal, and less otherwise. Averaged over the iterations since the mark
    before, of which a half is taken.
    """
    loss, step = run.history["critic_loss"], run.history["step"]
    found, before = {}, 0
    for mark in sorted(run.players):
        near = (step > (before + mark) / 2) & (step <= mark)
        if near.any():
            mean = float(loss[near].mean())
            found[mark] = -mean if run.game.gan.clip else jensen_shannon_estimate(mean, run.game)
        before = mark
    return found


def jensen_shannon_estimate(loss, game):
    """(2·log 2 − V)/2 of the standard critic's loss V, of summed halves."""
    return float(np.log(2)) - (loss if game.gan.average else loss / 2)


def told(estimate, score):
    """Spearman's rank correlation of the estimate with the distance that was scored.

    1 where the estimate falls whenever samples get better; None for fewer than three marks.
    ``after_peak`` is of the marks from the largest estimate on: before
    it the critic is still learning to tell samples from data.

    Args:
        estimate, score: numbers, mark by mark.
    """
    peak = int(np.argmax(estimate)) if len(estimate) else 0
    return {
        "all": _spearman(estimate, score),
        "after_peak": _spearman(estimate[peak:], score[peak:]),
    }


def _spearman(x, y):
    if len(x) < 3:
        return None
    ranks = [np.argsort(np.argsort(each)) for each in (x, y)]  # floats, of which none are equal
    return float(np.corrcoef(*ranks)[0, 1])


def draw_quality(short, seeds, root):
    """Estimates beside scores over training."""
    numbers, pictures = {}, {}
    for seed in seeds:
        for which in CURVES:
            run = trained(ablation(*which, short, seed), root)
            estimate = estimates(run)
            score = [distance(run, mark, FEW) for mark in estimate]
            numbers.setdefault("-".join(which), {})[str(seed)] = {
                "stopped": run.record["stopped"],
                "iterations": list(estimate),
                "estimate": list(estimate.values()),
                "kernel_distance": score,
                **told(list(estimate.values()), score),
            }
            if seed == seeds[0] and estimate:
                marks = list(estimate)
                three = (marks[0], marks[len(marks) // 2], marks[-1])
                pictures[which] = [(mark, shown(run, mark, 4)) for mark in three]
    rows = [
        [
            f"{NAMES[objective]}, {NAMES[system]}",
            "W₁" if objective == "wgan" else "JSD",
            *(
                spread(_column(numbers[f"{objective}-{system}"], part), ".2f")
                for part in ("all", "after_peak")
            ),
        ]
        for objective, system in CURVES
    ]
    claims = tells(numbers)
    measured = (
        f"{lost(numbers)}Rank correlation over training of the critic's estimate with the kernel "
        f"distance between samples and digits ({FEW} images at each mark). Above .5 for WGAN over "
        f"all marks in {share(claims['wgan'], 'runs')}; above .5 for WGAN and not for the standard "
        "GAN's estimate of the JSD, with the same architecture and seed, in "
        f"{share(claims['wgan_alone'], 'pairs of runs')}. The last column leaves out the marks "
        "before the estimate's peak, while D learns to tell samples from data; it is not judged."
        "\n\n" + table(["", "estimate", "all marks", "from its peak on"], rows)
    )
    agrees = verdict(*map(held, claims.values()))
    return Claim({"": _quality_picture(numbers, pictures)}, measured, numbers, agrees)


def tells(numbers):
    """For each run, whether WGAN's estimate tells how good samples are, and where GAN's does not.

    That is a rank correlation above .5 over all marks. A run without a number, or that diverged,
    shows neither that its estimate tells nor that it does not.
    """
    pairs = [
        [None if each.get("stopped") else each["all"] for each in pair]
        for name, by_seed in numbers.items()
        if name.startswith("wgan")
        for pair in zip(by_seed.values(), numbers[name[1:]].values(), strict=True)
    ]
    return {
        "wgan": [less(0.5, w) for w, _ in pairs],
        "wgan_alone": [less(0.5, w) and g is not None and g <= 0.5 for w, g in pairs],
    }


def _quality_picture(numbers, pictures):
    def paint(grid):
        for column, which in zip(grid.T, CURVES, strict=True):
            critic, quality, images = column
            for i, found in enumerate(numbers["-".join(which)].values()):
                look = dict(lw=1.8 if i == 0 else 0.7, marker="." if i == 0 else None)
                critic.plot(found["iterations"], found["estimate"], color=plots.CRITIC, **look)
                quality.plot(
                    found["iterations"], found["kernel_distance"], color=plots.GENERATOR, **look
                )
            objective, system = which
            critic.set_title(f"{NAMES[objective]}, {NAMES[system]}")
            critic.set_ylabel("estimate of W₁" if objective == "wgan" else "estimate of JSD, nats")
            critic.set_ylim(bottom=0)
            quality.set(xlabel="iteration", ylim=(0, None), ylabel="kernel distance")
            if which not in pictures:  # diverged before its first mark
                images.set_axis_off()
                continue
            marks, sheets = zip(*pictures[which], strict=True)
            sheet = np.concatenate([plots.tile(each, 2)[None] for each in sheets])
            plots.image_panel(images, sheet, "", 3)
            for i, mark in enumerate(marks):
                place = dict(ha="center", fontsize=8, transform=images.transAxes)
                images.text((2 * i + 1) / 6, 1.06, f"{mark:,}", **place)

    size, heights = (8.4, 4.6), {"height_ratios": (3, 3, 1.7)}
    return plots.png(paint, size, dpi=110, nrows=3, ncols=4, gridspec_kw=heights)


SETTINGS = (
    "WGAN: RMSProp 5·10⁻⁵, clip .01, 5 critic steps; GAN: Adam 2·10⁻⁴ (.5, .999); batch 64; 20,000 "
    "iterations; the slides give none; here on the 5,000 digits of the package, padded to 32×32×3"
)
SHORT = (
    "a quarter of the width (64 constant filters), 1,000 iterations (GAN with DCGAN 1,500) in "
    "place of 20,000"
)

FIGURES = {
    "P2.quality": Figure(
        title="The critic's estimate against the quality of samples, over training",
        says="WGAN's value function seems to go with the quality of samples; that the standard "
        "GAN's does not is said by P0 (section on WGAN), not by the slides.",
        settings=SETTINGS,
        short=SHORT,
        jobs=curves,
        draw=draw_quality,
    ),
    "P2.ablation": Figure(
        title="WGAN above GAN: DCGAN, no norm with constant filters, a perceptron as generator",
        says="The slides show such pictures without a word. Arjovsky et al. (2017), whose they "
        "are: with a DCGAN both learn; without batch norm and with a perceptron WGAN goes on, "
        "where the GAN fails or loses modes.",
        settings=SETTINGS + "; numbers are the Fréchet distance of our classifier's features",
        short=SHORT,
        jobs=ablations,
        draw=draw_ablation,
    ),
    "P2.regularized": Figure(
        title="Regularized GAN and MDGAN against the standard GAN of the same networks",
        says="An encoder is to make the two distributions overlap, against missing modes; the "
        "first D of MDGAN has the harder task. The slides' pictures (of faces, beside DCGAN) stand "
        "without a word: that MDGAN is best is how we read their order.",
        settings="perceptrons of 256 with batch norm in G, z 32, Adam (G and E 10⁻³, D 2·10⁻⁴; "
        "MDGAN's G and E 5·10⁻⁴), batch 32, λ₁ 5 and λ₂ .4, MDGAN's λ .01, 20,000 iterations: "
        "ours, the slides give none; on the 5,000 digits of the package; numbers are the "
        "Fréchet distance of our classifier's features",
        short="5,000 iterations in place of 20,000",
        jobs=regularized,
        draw=draw_regularized,
    ),
}
