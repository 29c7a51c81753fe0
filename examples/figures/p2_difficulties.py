"""P2's "Difficulty 1": the gradient of a confident D, and the divergence behind it."""

import time
from dataclasses import dataclass, replace

import numpy as np

import tinygan as tg
from figures.figure import Claim, Figure
from figures.judging import held, share, spread, verdict
from figures.runs import Training, finished
from tinygan import losses, metrics, ops, tree
from tinygan.engine import grad_values
from tinygan.game import draw_samples
from tinygan.study import optimal, plots
from tinygan.train import critic_step, generator_gradients

# A generator that does not learn


@dataclass(frozen=True)
class Confident:
    """P3's perceptrons on digits: D alone learns, against a generator as it was initialised.

    Args:
        steps: of D.
        hidden: width of the networks.
        batch, batches: of latent points, on which the gradients are taken.
    """

    steps: int = 1000
    hidden: int = 128
    batch: int = 64
    batches: int = 16
    seed: int = 0

    @property
    def name(self):
        """The folder."""
        return f"confident-hidden={self.hidden}-{self.steps}-seed{self.seed}"

    def make(self, folder):
        """Train D, and on the way take G's gradient of either loss."""
        changes = {"hidden": self.hidden, "penalty": "none"}
        what, game = Training("p3-mnist", self.steps, (), changes, self.seed).built()
        gan, stream = game.gan, tg.Stream(self.seed)
        start = time.process_time()
        players = game.init(stream.child(0))
        data, points = stream.child(1), stream.child(2)
        shape = (self.batch, game.latent)
        probes = [
            game.prior(stream.child(3).child(i), shape, np.float32) for i in range(self.batches)
        ]
        found = []
        for step in range(self.steps + 1):
            if step in logarithmic(self.steps):
                found.append({"step": step, **both_gradients(gan, players, probes)})
            real = draw_samples(what.sample, self.batch, data, np.float32)
            players, _ = critic_step(gan, players, real, game.prior(points, shape, np.float32))
        return {"cpu_seconds": time.process_time() - start, "gradients": found}


def logarithmic(steps):
    """0, and about ten steps in each decade."""
    return {0, *np.rint(np.geomspace(1, steps, 1 + int(10 * np.log10(steps)))).astype(int).tolist()}


def both_gradients(gan, players, probes):
    """How sure D is of G's samples, and ∇_G of the saturating and of the non-saturating loss.

    Of each loss the norm ‖ḡ‖ of the mean over all batches, and the variance of one batch's
    gradient, E ‖g − ḡ‖². ``fake`` is E σ(D(G(z))).
    """
    found = {"fake": float(np.mean([_sigma(gan, players, z).mean() for z in probes]))}
    for name, loss in (("saturating", losses.MINIMAX), ("non_saturating", losses.NON_SATURATING)):
        game = replace(gan, loss=loss)
        rows = np.stack([_flat(generator_gradients(game, players, z).tree) for z in probes])
        mean = rows.mean(axis=0)
        found[name] = float(np.linalg.norm(mean))
        found[f"{name}_variance"] = float(((rows - mean) ** 2).sum() / (len(rows) - 1))
    return found


def _sigma(gan, players, z):
    return ops.sigmoid(gan.critic(players.critic, gan.generator(players.generator, z)))


def _flat(gradient):
    return np.concatenate([a.ravel() for a in tree.leaves(gradient)]).astype(np.float64)


def confident(short, seeds):
    """A run for each seed."""
    return [Confident(seed=seed) for seed in seeds]


def draw_gradient(short, seeds, root):
    """Both gradients while D becomes sure."""
    runs = {seed: _columns(Confident(seed=seed), root) for seed in seeds}
    numbers = {str(seed): vanishing(run) for seed, run in runs.items()}
    found = {name: [each[name] for each in numbers.values()] for name in numbers[str(seeds[0])]}
    claims = gradient_claims(numbers)
    measured = (
        f"After {runs[seeds[0]]['step'][-1]:,.0f} steps of D alone σ(D(G(z))) is "
        f"{_powers(found['fake_last'])}. ‖∇_G‖ of the saturating loss is then "
        f"{_powers(found['saturating_ratio'])} of what it was at the start; it falls like σ(D)^a "
        f"with a = {spread(found['slope'])}. That of the non-saturating loss is "
        f"{spread(found['non_saturating_ratio'], ',.0f')} times what it was; between batches its "
        f"variance has grown {spread(found['variance_ratio'], '.1e')} times, from "
        f"{spread(found['noise_first'], '.3f')} to {spread(found['noise_last'], '.3f')} of the "
        f"squared norm. The first fell below a hundredth with {share(claims['vanishes'])}, the "
        f"second did not fall with {share(claims['stays'])}, and its variance grew with "
        f"{share(claims['varies'])}."
    )
    agrees = verdict(*map(held, claims.values()))
    return Claim({"": _gradient_picture(runs)}, measured, numbers, agrees)


def gradient_claims(numbers):
    """For every seed, what the slides say of either gradient, once D is sure (σ(D(G(z))) < .1).

    Args:
        numbers: of :func:`vanishing`, by seed.
    """
    every = numbers.values()
    return {
        "vanishes": [each["fake_last"] < 0.1 and each["saturating_ratio"] < 0.01 for each in every],
        "follows": [each["slope"] is not None and 0.8 < each["slope"] < 1.2 for each in every],
        "stays": [each["fake_last"] < 0.1 and each["non_saturating_ratio"] >= 1 for each in every],
        "varies": [each["fake_last"] < 0.1 and each["variance_ratio"] > 1 for each in every],
    }


def vanishing(run):
    """What a run shows: last over first of each number, and the power of σ in the saturating one.

    Args:
        run: arrays by the names of :func:`both_gradients`, over the steps.
    """
    sure = run["fake"] < 0.1
    slope = None
    if sure.sum() > 1:
        slope = float(np.polyfit(np.log(run["fake"][sure]), np.log(run["saturating"][sure]), 1)[0])
    noise = run["non_saturating_variance"] / run["non_saturating"] ** 2
    return {
        "fake_first": float(run["fake"][0]),
        "fake_last": float(run["fake"][-1]),
        "saturating_ratio": float(run["saturating"][-1] / run["saturating"][0]),
        "slope": slope,
        "non_saturating_ratio": float(run["non_saturating"][-1] / run["non_saturating"][0]),
        "variance_ratio": float(
            run["non_saturating_variance"][-1] / run["non_saturating_variance"][0]
        ),
        "noise_first": float(noise[0]),
        "noise_last": float(noise[-1]),
    }


def _columns(job, root):
    """Arrays by name, of a run's rows. Raises: FileNotFoundError for a run that is not there."""
    record = finished(job, root)
    if record is None:
        raise FileNotFoundError(
            f"{root / job.name} lacks run.json, which this figure is drawn from; expected a "
            "finished run. reproduce.py makes it"
        )
    rows = record["gradients"]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _powers(values):
    """The range of small numbers: "3e-06 to 8e-06"."""
    low, high = f"{min(values):.0e}", f"{max(values):.0e}"
    return low if low == high else f"{low} to {high}"


def _gradient_picture(runs):
    both = {"saturating": plots.COLORS[0], "non_saturating": plots.COLORS[1]}

    def paint(grid):
        over, against = grid
        for i, run in enumerate(runs.values()):
            steps = run["step"] + 1
            for name, color in both.items():
                label = name.replace("_", "-") if i == 0 else None
                over.plot(steps, run[name], color=color, label=label)
                against.plot(run["fake"], run[name], color=color, marker=".", ms=3, lw=0.8)
            noise = np.sqrt(run["non_saturating_variance"])
            label = "non-saturating, deviation of a batch" if i == 0 else None
            over.plot(steps, noise, color=both["non_saturating"], ls=":", lw=1, label=label)
            label = "σ(D(G(z))), mean" if i == 0 else None
            over.plot(steps, run["fake"], color="0.5", ls="--", lw=1, label=label)
        ends = np.array([min(run["fake"].min() for run in runs.values()), 0.5])
        start = max(run["saturating"].max() for run in runs.values())
        against.plot(ends, 0.2 * start * ends / 0.5, color="0.5", ls="--", lw=1, label="slope 1")
        for axes in grid:
            axes.set(xscale="log", yscale="log")
        over.set(title="While D learns", xlabel="steps of D, + 1", ylabel="‖∇ of G‖")
        against.set(title="Against D's confidence", xlabel="mean σ(D(G(z)))", ylabel="‖∇ of G‖")
        against.invert_xaxis()
        over.legend(loc="lower left", fontsize=7.5)
        against.legend(loc="lower left", fontsize=7.5)

    return plots.png(paint, (7.2, 3.4), dpi=130, ncols=2)


# Distances between what does not overlap

APART = np.linspace(-1.0, 1.0, 81)  # 0 among them
POINTS = 32  # on each line
MOVED = np.linspace(0.0, 10.0, 101)  # deviations


def between_lines(shift):
    """(JSD, KL, W₁) of two parallel lines of length 1, a distance apart.

    Both stand on the same heights, so that they share all their points or none.
    """
    height = (np.arange(POINTS) + 0.5) / POINTS
    one = np.stack([np.zeros(POINTS), height], axis=1)
    other = one + [shift, 0.0]
    _, place = np.unique(np.concatenate([one, other]), axis=0, return_inverse=True)
    p, q = (np.bincount(part, minlength=place.max() + 1) / POINTS for part in np.split(place, 2))
    return (
        0.5 * (_kl(p, (p + q) / 2) + _kl(q, (p + q) / 2)),
        _kl(p, q),
        metrics.wasserstein1(one, other),
    )


def _kl(p, q):
    """KL(p ‖ q) of two distributions on the same points: infinite where p is and q is not."""
    some = p > 0
    if (q[some] == 0).any():
        return float("inf")
    return float(np.sum(p[some] * np.log(p[some] / q[some])))


def between_gaussians(shift):
    """(JSD, its slope in θ, W₁) of N(0, 1) and N(θ, 1) at θ = shift, by quadrature."""
    theta = tg.track(np.array(float(shift)))

    def moved(points):
        off = ops.square(ops.subtract(points[:, 0], theta))
        return ops.multiply(ops.add(off, np.log(2 * np.pi)), -0.5)

    still = optimal.gaussian(0.0, 1.0)
    jsd = optimal.jensen_shannon(still, moved, optimal.trapezoid((-12.0, 22.0), 341))
    w1 = optimal.wasserstein1(still, optimal.gaussian(shift, 1.0), np.linspace(-12, 22, 341))
    return float(jsd.data), float(grad_values(jsd, theta)), w1


def draw_jsd(short, seeds, root):
    """Three distances, of lines and of Gaussians."""
    lines = np.array([between_lines(shift) for shift in APART])
    gaussians = np.array([between_gaussians(shift) for shift in MOVED])
    numbers = flatness(APART, lines, MOVED, gaussians)
    measured = (
        f"Of two parallel lines at any distance θ ≠ 0 the JSD is log 2 = {np.log(2):.6f} (largest "
        f"error {numbers['jsd_off_log2']:.0g}); KL is infinite at {numbers['kl_infinite']} of "
        f"{numbers['separations']} distances; W₁ is |θ| (largest error {numbers['w1_off']:.0g}). "
        f"Of N(0, 1) and N(θ, 1) the JSD's slope in θ is at most {numbers['jsd_slope_max']:.3f}, "
        f"and at θ = {MOVED[-1]:.0f} it is {numbers['jsd_slope_last']:.0e}; that of W₁ is "
        f"{numbers['w1_slope_min']:.4f} to {numbers['w1_slope_max']:.4f} everywhere."
    )
    agrees = verdict(*jsd_claims(numbers).values())
    return Claim({"": _jsd_picture(lines, gaussians)}, measured, numbers, agrees)


def jsd_claims(numbers):
    """What the slides say of either distance, of the numbers of :func:`flatness`."""
    return {
        "jsd": numbers["jsd_off_log2"] < 1e-12,
        "kl": numbers["kl_infinite"] == numbers["separations"],
        "w1": numbers["w1_off"] < 1e-12,
        "jsd_slope": numbers["jsd_slope_last"] < 1e-3 * numbers["jsd_slope_max"],
        "w1_slope": max(abs(numbers[f"w1_slope_{end}"] - 1) for end in ("min", "max")) < 1e-3,
    }


def flatness(apart, lines, moved, gaussians):
    """How far each distance is from what the slides say of it.

    Shapes: apart (n,), lines (n, 3) of :func:`between_lines`; moved (m,), gaussians (m, 3) of
        :func:`between_gaussians`.
    """
    off = apart != 0
    slopes = np.diff(gaussians[:, 2]) / np.diff(moved)
    return {
        "separations": int(off.sum()),
        "jsd_off_log2": float(np.abs(lines[off, 0] - np.log(2)).max()),
        "kl_infinite": int(np.isinf(lines[off, 1]).sum()),
        "w1_off": float(np.abs(lines[:, 2] - np.abs(apart)).max()),
        "jsd_slope_max": float(gaussians[:, 1].max()),
        "jsd_slope_last": float(gaussians[-1, 1]),
        "w1_slope_min": float(slopes.min()),
        "w1_slope_max": float(slopes.max()),
    }


def _jsd_picture(lines, gaussians):
    jsd, w1 = plots.COLORS[:2]
    log2 = np.log(2)

    def paint(grid):
        parallel, moving, slopes = grid
        off = APART != 0
        for side in (APART < 0, APART > 0):
            parallel.plot(APART[side], lines[side, 0], color=jsd)
        parallel.plot(APART[~off], lines[~off, 0], "o", color=jsd, ms=4)
        parallel.plot(0, log2, "o", color=jsd, ms=4, mfc="white")
        parallel.plot(APART, lines[:, 2], color=w1)
        parallel.set(title="Parallel lines", xlabel="distance θ", ylabel="nats, or length")
        moving.plot(MOVED, gaussians[:, 0], color=jsd, label="JSD")
        moving.plot(MOVED, gaussians[:, 2], color=w1, label="W₁")
        moving.axhline(log2, color="0.6", lw=0.8, ls=":", label="log 2")
        moving.set(
            title="N(0, 1) and N(θ, 1)", xlabel="distance θ", ylabel="nats, or length", ylim=(0, 3)
        )
        moving.legend(loc="center right")
        slopes.plot(MOVED[1:], gaussians[1:, 1], color=jsd)
        slopes.plot(
            (MOVED[1:] + MOVED[:-1]) / 2, np.diff(gaussians[:, 2]) / np.diff(MOVED), color=w1
        )
        slopes.set(
            title="Their slopes in θ", xlabel="distance θ", ylabel="slope", yscale="log",
            ylim=(1e-7, 4),
        )  # fmt: skip

    return plots.png(paint, (7.4, 2.7), dpi=130, ncols=3)


FIGURES = {
    "P2.gradient": Figure(
        title="Saturating and non-saturating gradient under a confident D",
        says="Early on D is sure of every fake sample, and the gradient of log(1 − D(G(z))) "
        "vanishes; that of −log D(G(z)) does not, but becomes unstable.",
        settings="P3's perceptrons on the package's 5,000 digits, 128 wide, Adam 3·10⁻⁴, 64 images "
        "a step; G as initialised; the slides give no settings",
        short="",
        jobs=confident,
        draw=draw_gradient,
    ),
    "P2.jsd": Figure(
        title="JSD and W₁ of distributions that do not overlap",
        says="Without overlap the JSD is log 2 however far apart two distributions are, so it has "
        "no gradient; W₁ is their distance, and has one everywhere.",
        settings="exact, without any training",
        short="",
        jobs=lambda short, seeds: [],
        draw=draw_jsd,
        seeds=(),
    ),
}
