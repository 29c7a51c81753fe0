"""P2, Li, *Tackling the Gradient Issues in GANs*: why gradients fail, and what helps."""

import numpy as np

import tinygan as tg
from figures import p2_difficulties, p2_images
from figures.figure import Claim, Figure
from figures.judging import ended, held, less, lost, share, spread, table, verdict
from figures.p2_images import SYSTEMS, ablation, ablations, regularized
from figures.runs import Training, trained
from tinygan import metrics
from tinygan.study import plots

__all__ = ["FIGURES", "SYSTEMS", "ablation", "ablations", "inner", "regularized", "ring"]

RING_MARKS = (0, 5000, 10000, 15000, 20000, 25000)
SAMPLES = 2500
NEAR = 0.5  # of the samples, that are near a mode: less has not learned where modes are


def ring(short, seeds):
    """The unrolled-GAN demo's ring: the standard GAN as published, the unrolled one shorter."""
    return [job for seed in seeds for job in both_rings(short, seed).values()]


def both_rings(short, seed):
    """The same by name, for one seed."""
    marks = tuple(mark * 2 // 5 for mark in RING_MARKS) if short else RING_MARKS
    unrolled = {"batch": 256} if short else {}
    return {
        "standard": Training("unrolled-ring", 25000, RING_MARKS, {}, seed),
        "unrolled": Training("gan-unrolled", marks[-1], marks, unrolled, seed),
    }


def inner(short, seeds):
    """D in the inner loop against G in the inner loop."""
    return [job for seed in seeds for job in both_inner(seed).values()]


def both_inner(seed):
    """The same by name, for one seed."""
    return {
        side: Training(f"gan-{side.lower()}-inner", 3000, (3000,), {}, seed, decay=True)
        for side in "DG"
    }


# Which modes have mass


def coverage(samples, mixture):
    """Where a generator's mass is: a dict of numbers.

    - ``modes``: with 20 samples or more within 5% of the radius, ``quality`` the share of those;
    - ``shares``: of each mode, of all samples by the nearest; ``reached``: modes with a quarter of
      their due at least; ``effective`` = exp(entropy of the shares);
    - ``sliced_w1``: to the data.

    Shapes: samples (n, 2).
    """
    near = metrics.mode_coverage(samples, mixture, within=0.05 * mixture.radius)
    every = metrics.mode_coverage(samples, mixture, within=1e9)
    share = every.counts / every.counts.sum()
    some = share[share > 0]
    stream = tg.Stream(1)
    real = mixture.sample(len(samples), stream)
    return {
        "modes": near.modes20,
        "quality": near.high_quality,
        "shares": share.tolist(),
        "reached": int(np.sum(share >= 0.25 / len(share))),
        "effective": float(np.exp(-np.sum(some * np.log(some)))),
        "sliced_w1": metrics.sliced_wasserstein1(samples, real, stream),
    }


def moves(shares):
    """How much mass changes its mode from each mark to the next: half the sum of differences.

    Shapes: shares (marks, modes); returns marks − 1 numbers from 0 to 1.
    """
    return (np.abs(np.diff(np.asarray(shares), axis=0)).sum(axis=1) / 2).tolist()


def draw_ring(short, seeds, root):
    """Six marks of both, as the slides have them."""
    clouds, numbers = {}, {}
    for seed in seeds:
        for name, job in both_rings(short, seed).items():
            run = trained(job, root)
            found = {}
            for mark in sorted(run.players):
                samples = run.samples(mark, SAMPLES)
                found[str(mark)] = coverage(samples, run.what.plane)
                if seed == seeds[0]:
                    clouds[name, mark] = samples
            moved = moves([each["shares"] for each in found.values()]) if found else []
            numbers.setdefault(name, {})[str(seed)] = {
                "stopped": run.record["stopped"], "marks": found, "moved": moved,
            }  # fmt: skip
    modes = len(run.what.plane.centres)
    missing, hops = ring_claims(numbers, modes)
    last = [found["marks"].get(str(job.marks[-1]), {}) for found in numbers["unrolled"].values()]
    rows = [
        [
            name,
            seed,
            ", ".join(f"{each['reached']}" for each in found["marks"].values()),
            ", ".join(f"{each:.2f}" for each in found["moved"]),
            ", ".join(f"{each['quality']:.2f}" for each in found["marks"].values()),
        ]
        for name, by_seed in numbers.items()
        for seed, found in by_seed.items()
    ]
    measured = (
        f"{lost(numbers)}At its last mark the standard GAN is near modes and misses some of the "
        f"{modes} with {share(missing)}. From one mark at which it is near modes to the next, more "
        f"than half of its mass goes to other modes with {share(hops)}; other moves, of a "
        "cloud between modes, stand in the table alone. It is near modes with half of "
        "its samples or more within "
        "5% of the radius of one; a sample belongs to the nearest mode; a mode has mass with a "
        "quarter of its due or more. The unrolled GAN (Metz et al.) is shown, not judged: the "
        f"slides do not speak of it, and after its {job.marks[-1]:,} iterations "
        f"{spread([each.get('quality') for each in last])} of its samples are near a mode.\n\n"
        + table(
            ["", "seed", "modes with mass, mark by mark", "mass that moved", "share near a mode"],
            rows,
        )
    )
    agrees = verdict(held(missing), held(hops))
    real = tg.to_host(run.what.plane.sample(500, tg.Stream(2)))
    marks = {name: [mark for which, mark in clouds if which == name] for name in numbers}

    def paint(grid):
        for row, (name, steps) in zip(grid, marks.items(), strict=True):
            for axes, mark in zip(row, steps, strict=False):
                plots.scatter(axes, real, clouds[name, mark], 1.6)
                axes.set(title=f"{mark:,}", xlabel="", ylabel="", xticks=[], yticks=[])
            row[0].set_ylabel(f"{name}\nx₂")
        for axes in grid[1]:
            axes.set_xlabel("x₁")
        grid[1, -1].legend(loc="center", fontsize=6, markerscale=1.5, handletextpad=0)

    picture = plots.png(paint, (8.4, 3.1), dpi=120, nrows=2, ncols=len(RING_MARKS))
    return Claim({"": picture}, measured, numbers, agrees)


def ring_claims(numbers, modes):
    """For every seed of the standard GAN: modes are missing at the end; mass goes to other modes.

    Both only where half of the samples are near modes: a cloud that has not learned misses nothing.
    A run that diverged shows neither.

    Args:
        numbers: as :func:`draw_ring` collects them.
        modes: of the data.
    """
    missing, hops = [], []
    for found in numbers["standard"].values():
        marks = [] if found["stopped"] else list(found["marks"].values())
        near = [each["quality"] >= NEAR for each in marks]
        missing.append(bool(marks) and near[-1] and marks[-1]["reached"] < modes)
        steps = zip(near, near[1:], found["moved"], strict=False)
        hops.append(any(before and after and moved > 0.5 for before, after, moved in steps))
    return missing, hops


def draw_inner(short, seeds, root):
    """Where either ends."""
    clouds, numbers = {}, {}
    for seed in seeds:
        for side, job in both_inner(seed).items():
            run = trained(job, root)
            found = {"stopped": run.record["stopped"]}
            if ended(run):
                clouds[side, seed] = run.samples(run.last, SAMPLES)
                found |= coverage(clouds[side, seed], run.what.plane)
            numbers.setdefault(side, {})[str(seed)] = found
    narrower, few, all_of_them = inner_claims(numbers, len(run.what.plane.centres))
    rows = [
        [
            f"{side} in the inner loop",
            ", ".join(f"{each.get('modes', '–')}" for each in by_seed.values()),
            spread([each.get("effective") for each in by_seed.values()], ".1f"),
            spread([each.get("quality") for each in by_seed.values()]),
            spread([each.get("sliced_w1") for each in by_seed.values()]),
        ]
        for side, by_seed in numbers.items()
    ]
    measured = (
        f"{lost(numbers)}G in the inner loop has fewer effective modes (exp of the entropy of "
        f"their shares) than D there with {share(narrower)}, and two or fewer with {share(few)}; D "
        f"in the inner loop reaches all eight with {share(all_of_them)}. All of it only where half "
        "of the samples or more are near a mode.\n\n"
        + table(["", "modes, each seed", "effective modes", "share near a mode", "sliced W₁"], rows)
    )
    agrees = verdict(held(narrower), held(few), held(all_of_them))
    real = tg.to_host(run.what.plane.sample(500, tg.Stream(2)))

    def paint(grid):
        for row, side in zip(grid, numbers, strict=True):
            for axes, seed in zip(row, seeds, strict=True):
                plots.scatter(axes, real, clouds.get((side, seed), real[:0]), 2.4)
                gone = "" if (side, seed) in clouds else ": diverged"
                axes.set_title(f"{side} inside, seed {seed}{gone}")
                axes.label_outer()
        grid[0, 0].legend(loc="center", fontsize=8, markerscale=2)

    size = (2.4 * len(seeds) + 0.4, 5.0)
    picture = plots.png(paint, size, dpi=110, nrows=2, ncols=len(seeds), squeeze=False)
    return Claim({"": picture}, measured, numbers, agrees)


def inner_claims(numbers, modes):
    """For every seed: G inside has fewer effective modes; two or fewer; D inside has all.

    Only where half of the samples are near modes, which neither a run that did not learn nor one
    that diverged shows.
    """
    pairs = [
        [each if each.get("quality", 0) >= NEAR else {} for each in pair]
        for pair in zip(numbers["D"].values(), numbers["G"].values(), strict=True)
    ]
    return (
        [less(g.get("effective"), d.get("effective")) for d, g in pairs],
        [g.get("effective", modes) <= 2 for _, g in pairs],
        [d.get("modes") == modes for d, _ in pairs],
    )


FIGURES = {
    **p2_difficulties.FIGURES,
    "P2.ring": Figure(
        title="The ring of eight Gaussians, standard (above) and unrolled (below)",
        says="Pictures without a word, under the head of missing modes: the generator is on few "
        "modes at a time, and on others at the next mark.",
        settings="the unrolled-GAN demo's: z 256, two tanh layers of 128, batch 512, saturating G, "
        "Adam 10⁻³ for G and 10⁻⁴ for D, σ .01; 25,000 iterations; unrolled by 5 steps",
        short="the unrolled one 10,000 iterations with batch 256; the standard one as it is",
        jobs=ring,
        draw=draw_ring,
    ),
    "P2.inner": Figure(
        title="D in the inner loop against G in the inner loop",
        says="min over G of max over D is not max of min: with D inside it tends to the right "
        "distribution, with G inside all mass goes to the likeliest point.",
        settings="eight Gaussians, perceptrons of 128, Adam 10⁻³ for G and 2·10⁻³ for D, batch "
        "128, 10 steps inside to 1 outside, 3,000 iterations, rates to 0 over their second half: "
        "ours, the slides give none",
        short="",
        jobs=inner,
        draw=draw_inner,
    ),
    **p2_images.FIGURES,
}
