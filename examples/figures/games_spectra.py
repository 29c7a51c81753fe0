"""The spectra of a two-layer GAN, with and without a zero-centred penalty."""

import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
from threadpoolctl import threadpool_limits

import tinygan as tg
from figures.figure import Claim, Figure
from figures.judging import table, verdict
from figures.runs import finished
from figures.small_games import SMALL, below, nearest
from tinygan import losses, models, nn, ops, optim, penalties
from tinygan import tree as trees
from tinygan.loop import Diverged, run
from tinygan.study.plots import COLORS, png
from tinygan.study.spectrum import extreme_eigenvalues, flow_stability
from tinygan.study.vector_field import vector_field
from tinygan.train import GAN, Alternating

LOSSES = {"non-saturating": losses.NON_SATURATING, "Wasserstein": losses.WASSERSTEIN}
PENALTIES = {
    "none": None,
    "R₁": penalties.r1(0.3),
    "0-GP": penalties.zero_gp(0.3),
}
RATE, SHIFT = 0.2, 0.2
SAME = 1e-6  # of the largest eigenvalue: how near matrix-free ones must be to dense ones


@dataclass(frozen=True)
class TwoLayers:
    """A GAN of two tanh layers on one fixed batch, which knows where it rests.

    The data are what a generator of the same kind makes of the same latent points, so that with
    its parameters, and a last layer of zeros in D, nothing moves. G begins a small way off. 0-GP's
    interpolates are drawn anew in every iteration; its spectra are those of one draw.
    """

    loss: str
    penalty: str
    seed: int = 0
    steps: int = 20000
    hidden: int = 16
    batch: int = 64

    @property
    def name(self):
        """The folder."""
        words = self.loss, self.penalty.replace("₁", "1"), f"hidden={self.hidden}"
        return "-".join(["two-layers", *words, f"{self.steps}", f"seed{self.seed}"])

    def built(self):
        """The game, its batch, where it rests, and its players at the start."""
        more = dict(activation=ops.tanh, bias_init=nn.fan_in_uniform)
        sides = models.mlp_pair(2, 2, self.hidden, 1, **more)
        penalty, sgd = PENALTIES[self.penalty], optim.SGD(RATE)
        gan = GAN(*sides, sgd, sgd, LOSSES[self.loss], penalty)
        streams = [tg.Stream(self.seed).child(i) for i in range(5)]
        z = streams[0].normal((self.batch, 2), np.float64)
        teacher = sides.generator.init(streams[1], np.float64)
        real = sides.generator(teacher, z)
        players = gan.init(streams[2], np.float64)
        start = trees.tree_map(
            lambda a: a + SHIFT * streams[3].normal(a.shape, np.float64), teacher
        )
        players = players._replace(generator=start)
        first, last = players.critic
        rest = teacher, [first, trees.tree_map(np.zeros_like, last)]
        noise = penalty.draw(streams[4], real) if penalty else ()
        return SimpleNamespace(gan=gan, real=real, z=z, noise=noise, players=players, rest=rest)

    def make(self, folder):
        """Descend in turns, and write players.npz, the last ones."""
        here = self.built()
        game = Alternating(
            here.gan, self.batch, 2, prior=lambda stream, shape, dtype: here.z.astype(dtype)
        )
        kept = [here.players]
        began, stopped = time.process_time(), None
        try:
            done = run(
                game, here.players, lambda n, stream: here.real, self.steps,
                tg.Stream(self.seed).child(5), record_every=self.steps,
                watch=lambda step, players: kept.__setitem__(0, players),
            )  # fmt: skip
            if done.interrupted:  # half a run is none: no run.json
                raise KeyboardInterrupt
        except Diverged as error:
            stopped = str(error)
        last = {"generator": kept[0].generator, "critic": kept[0].critic}
        tg.save_weights(folder / "players.npz", last)
        return {"stopped": stopped, "cpu_seconds": time.process_time() - began}


def two_layers(short, seeds):
    """Both losses, with and without penalties, all seeds; there is no short mode."""
    return [
        TwoLayers(loss, penalty, seed) for seed in seeds for loss in LOSSES for penalty in PENALTIES
    ]


class Place(SimpleNamespace):
    """A point of a game, and its :class:`tinygan.study.spectrum.Stability`."""


PLACES = ("rest", "start", "end")


def places_of(job, root):
    """Where the game rests, began and ended, with the spectrum of the flow at each."""
    path_ = root / job.name / "players.npz"
    if finished(job, root) is None or not path_.exists():
        raise FileNotFoundError(
            f"{path_} is not there, which this figure is drawn from; expected a finished run. "
            "Remove the folder, and reproduce.py makes it anew"
        )
    here, last = job.built(), tg.load_weights(path_)[0]
    v = vector_field(here.gan, here.real, here.z, here.noise)
    found = {}
    for name, x in {
        "rest": here.rest,
        "start": here.players[:2],
        "end": (last["generator"], last["critic"]),
    }.items():
        apart = here.gan.generator(x[0], here.z) - here.real
        found[name] = Place(
            x=x, v=v, stability=flow_stability(v, x, manifold=True),
            distance=float(np.sqrt((apart**2).sum(1).mean())),
        )  # fmt: skip
    return found


def matrix_free(place):
    """Extreme eigenvalues by products alone; of the largest real parts at rest too many are 0."""
    kinds = "largest modulus", "largest imaginary part"
    return np.concatenate(
        [extreme_eigenvalues(place.v, place.x, 4, kind, stream=tg.Stream(7)) for kind in kinds]
    )


def draw_spectra(short, seeds, root):
    """Spectra at rest, at the start and at the end; those of the first seed are shown."""
    jobs = two_layers(short, seeds)
    with threadpool_limits(1):  # small matrices: more threads only wait for each other
        places = {job: places_of(job, root) for job in jobs}
        shown = {
            (job, name): matrix_free(place)
            for job in jobs
            if job.seed == seeds[0]
            for name, place in places[job].items()
        }
    found = {}
    for job, there in places.items():
        row = found.setdefault(job.loss, {}).setdefault(job.penalty, {})
        for name, place in there.items():
            stability = place.stability
            row.setdefault(name, []).append(
                {
                    "seed": job.seed,
                    "largest_real_part": stability.leading,
                    "largest_ratio": finite(stability.rotation),
                    "at_zero": stability.flat,
                    "residual": stability.residual,
                    "verdict": stability.verdict,
                    "largest_step": stability.largest_step,
                    "distance": place.distance,
                }
            )
    numbers = {
        "games": found,
        "parameters": len(places[jobs[0]]["rest"].stability.eigenvalues),
        "batch": jobs[0].batch,
        "steps": jobs[0].steps,
        "matrix_free_less_dense": max(
            nearest(near, places[job][name].stability.eigenvalues)
            / np.abs(places[job][name].stability.eigenvalues).max()
            for (job, name), near in shown.items()
        ),
    }
    numbers["0gp_less_r1_at_rest"] = max(
        nearest(
            there["rest"].stability.eigenvalues,
            places[replace(job, penalty="R₁")]["rest"].stability.eigenvalues,
        )
        for job, there in places.items()
        if job.penalty == "0-GP"
    )
    titles = {"rest": "At rest", "start": "At the start", "end": "After training"}

    def paint(grid):
        marks = {"none": ("o", COLORS[1]), "R₁": ("s", COLORS[0])}
        for loss, row in zip(LOSSES, grid, strict=True):
            for name, axes in zip(PLACES, row, strict=True):
                axes.axvline(0, color="0.6", lw=0.8)
                for penalty, (mark, color) in marks.items():
                    job = replace(jobs[0], loss=loss, penalty=penalty)
                    near = shown[job, name]
                    e = places[job][name].stability.eigenvalues
                    what = "no penalty" if penalty == "none" else f"{penalty}, weight .3"
                    axes.plot(e.real, e.imag, mark, color=color, ms=3, mew=0, label=what)
                    axes.plot(near.real, near.imag, mark, color=color, ms=7.5, mfc="none", mew=0.8)
                axes.set_xscale("symlog", linthresh=1e-2)
                axes.set_yscale("symlog", linthresh=1e-2)
                ticks = [-1, -0.01, 0, 0.01, 1]
                axes.set(xlim=(-10, 10), ylim=(-10, 10), xticks=ticks, yticks=ticks)
                axes.set(title=f"{titles[name]}, {loss}", xlabel="Re λ", ylabel="Im λ")
                axes.title.set_fontsize(9)
                axes.label_outer()
        grid[0, 0].plot([], [], "o", color="0.3", ms=7.5, mfc="none", mew=0.8, label="matrix-free")
        below(grid[0, 0], 3)

    pictures = {"": png(paint, (8.2, 5.4), 120, nrows=2, ncols=3)}
    return Claim(pictures, say_spectra(numbers), numbers, judge_spectra(numbers))


def finite(number):
    """None for what JSON cannot hold."""
    return float(number) if np.isfinite(number) else None


def ratios(rows):
    """|Im/Re| of all seeds, in words."""
    return ", ".join(
        "∞" if a["largest_ratio"] is None else f"{a['largest_ratio']:.3g}" for a in rows
    )


def real_part(row):
    """The largest real part, 0 where only rounding is left."""
    found = row["largest_real_part"]
    return f"{found:.2g}" if abs(found) > 1e-13 else "0"


def say_spectra(numbers):
    """The numbers in words: every seed's."""

    def counted(rows):
        verdicts = [row["verdict"] for row in rows]
        return ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))

    rows = []
    for loss, row in numbers["games"].items():
        for penalty, there in row.items():
            rest, end = there["rest"], there["end"]
            rows.append(
                [loss, penalty, ", ".join(real_part(a) for a in rest),
                 ratios(rest), counted(rest),
                 ", ".join(real_part(a) for a in end),
                 ", ".join(f"{a['residual']:.1g}" for a in end),
                 ", ".join(f"{a['distance']:.2g}" for a in end)]
            )  # fmt: skip
    first = next(iter(numbers["games"].values()))["none"]
    flat = sorted({a["at_zero"] for row in numbers["games"].values() for a in row["none"]["rest"]})
    begun = ", ".join(f"{a['distance']:.2g}" for a in first["start"])
    better, pairs = nearer(numbers)
    drifts = max(a["residual"] for row in numbers["games"].values() for a in row["R₁"]["end"])
    return (
        f"{numbers['parameters']} parameters on a batch of {numbers['batch']} whose rest is known. "
        f"There {' or '.join(map(str, flat))} eigenvalues are 0, along directions in which the "
        "game rests as well (a critic of zeros can have any first layer); the numbers are of the "
        "others, one for each seed. 0-GP on interpolates has the spectrum of R₁ there, to "
        f"{numbers['0gp_less_r1_at_rest']:.1g}. G begins {begun} away from the data and descends "
        f"{numbers['steps']:,} iterations in turns; of {pairs} runs with a penalty {better} end "
        "nearer to the data than the same run without. They are not yet at rest (‖v‖ up to "
        f"{drifts:.1g} with R₁): real parts above 0 at the end tell of a drift, and are no "
        "verdict. Matrix-free eigenvalues are the dense ones to "
        f"{numbers['matrix_free_less_dense']:.1g} of the largest; the verdict asks for "
        f"{SAME:g}. The picture shows the first seed.\n\n"
        + table(
            ["loss", "penalty", "at rest: max Re λ", "max \\|Im/Re\\|", "verdict",
             "at the end: max Re λ", "‖v‖", "distance from the data"],
            rows,
        )
    )  # fmt: skip


def judge_spectra(numbers):
    """At rest the penalty makes the flow stable, and moves its spectrum left and off the axis.

    And the eigenvalues found by products alone are those of the dense Jacobian.
    """
    held = [numbers["matrix_free_less_dense"] < SAME]
    for row in numbers["games"].values():
        for penalty in (name for name in row if name != "none"):
            for bare, tamed in zip(row["none"]["rest"], row[penalty]["rest"], strict=True):
                ratio = bare["largest_ratio"]
                held += [
                    tamed["verdict"] == "stable",
                    tamed["largest_real_part"] < bare["largest_real_part"],
                    tamed["largest_ratio"] is not None
                    and (ratio is None or tamed["largest_ratio"] < ratio),
                ]
    return verdict(*held)


def nearer(numbers):
    """(how often a run with a penalty ended nearer to the data than its twin without, of all)."""
    held = [
        tamed["distance"] < bare["distance"]
        for row in numbers["games"].values()
        for penalty in (name for name in row if name != "none")
        for bare, tamed in zip(row["none"]["end"], row[penalty]["end"], strict=True)
    ]
    return sum(held), len(held)


FIGURES = {
    **SMALL,
    "G.spectra": Figure(
        "Spectra of a two-layer GAN, with and without a zero-centred penalty",
        "Near rest a GAN converges if the eigenvalues of its Jacobian have negative real parts; a "
        "zero-centred penalty moves them to the left, and off the imaginary axis (Nagarajan & "
        "Kolter 2017; Mescheder et al. 2018).",
        f"2-16-2 and 2-16-1, tanh, float64; SGD {RATE}, one batch of 64, in turns; λ = .3 (γ = .6)",
        "",
        two_layers,
        draw_spectra,
    ),
}
