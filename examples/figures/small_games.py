"""The games of two players that theory solves, as dynamical systems: Dirac-GAN, the linear game."""

import numpy as np

import tinygan as tg
from figures.figure import Claim, Figure
from figures.judging import table, verdict
from tinygan import losses, models, optim, penalties
from tinygan.models import DiracCritic, DiracGenerator, LinearCritic, LinearGenerator
from tinygan.study.plots import COLORS, arrows, png
from tinygan.study.spectrum import eigenvalues, flow_stability, jacobian
from tinygan.study.vector_field import (
    alternating_map,
    field_on_grid,
    path,
    simultaneous_map,
    vector_field,
)
from tinygan.train import GAN

STEP = 0.2
WAYS = {
    "at once": simultaneous_map,
    "in turns": lambda gan, *batch: alternating_map(gan, *batch, generator_first=True),
}
WAY_LINES = dict(zip(WAYS, ("-", "--"), strict=True))
WAY_COLORS = dict(zip(WAYS, (COLORS[1], COLORS[0]), strict=True))


def no_jobs(short, seeds):
    """What is drawn in a second needs no runs."""
    return []


def below(axes, columns):
    """A legend of some axes below all of the picture."""
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def parts(number):
    """A complex number for JSON."""
    return [float(number.real), float(number.imag)]


def written(number, digits=4):
    """a ± bi, of (a, b); pairs of conjugates by the upper one."""
    real, imaginary = number
    found = f"{real:.{digits}g}" if abs(real) > 1e-12 else "0"
    return f"{found} ± {abs(imaginary):.5g}i" if abs(imaginary) > 1e-7 else found


# Dirac-GAN

DIRAC = {  # loss, γ, clip; radii after 500 steps at once and in turns, and half a unit of the last
    "GAN": (losses.MINIMAX, 0.0, None, (3.0969487, 1.4210189), (5e-8, 5e-8)),
    "WGAN, clip 1": (losses.WASSERSTEIN, 0.0, 1.0, (1.0021520, 1.0241189), (5e-8, 5e-8)),
    "GAN + R₁, γ = .3": (losses.MINIMAX, 0.3, None, (2.64266e-6, 2.30091e-7), (5e-12, 5e-13)),
    "GAN + R₁, γ = 1": (losses.MINIMAX, 1.0, None, (9.5287e-22, 7.4812e-17), (5e-27, 5e-22)),
}
POINT = np.zeros((1, 1)), np.zeros((1, 1))  # the data, and the latent point


def dirac(name, theta=1.0, psi=-1.0, where=penalties.r1):
    """(game, players) of the Dirac-GAN; the paper's ψ is −ψ here, its γ our 2λ."""
    loss, gamma, clip = DIRAC[name][:3]
    sgd, penalty = optim.SGD(STEP), where(gamma / 2) if gamma else None
    gan = GAN(DiracGenerator(theta), DiracCritic(psi), sgd, sgd, loss, penalty, clip=clip)
    return gan, gan.init(tg.Stream(0), np.float64)[:2]


def draw_dirac(short, seeds, root):
    """Paths of 500 steps, their last radii, and the eigenvalues at rest."""
    mirror = np.array([1, -1])  # to the paper's sign of ψ
    paths, fields, found = {}, {}, {}
    for name, (_, gamma, _, published, digits) in DIRAC.items():
        gan, start = dirac(name)
        _, rest = dirac(name, 0.0, 0.0)
        v = vector_field(gan, *POINT)
        paths[name] = {
            way: path(move(gan, *POINT), start, 500) * mirror for way, move in WAYS.items()
        }
        extent = 1.7 if gamma else 3.5
        fields[name] = [a * mirror for a in field_on_grid(v, start, extent, 17)]
        slope = 0.5 if gan.loss is losses.MINIMAX else 1.0  # f′(0)
        root_ = np.emath.sqrt(gamma**2 / 4 - slope**2)
        local = flow_stability(v, rest)
        radii = [float(np.hypot(*rows[-1])) for rows in paths[name].values()]
        found[name] = {
            "radii": dict(zip(WAYS, radii, strict=True)),
            "published": dict(zip(WAYS, published, strict=True)),
            "same": all(abs(a - b) <= d for a, b, d in zip(radii, published, digits, strict=True)),
            "eigenvalue": parts(local.eigenvalues[0]),
            "closed_form": parts(np.complex128(-gamma / 2 + root_)),
            "verdict": local.verdict,
            "largest_step": local.largest_step,
        }
    other, rest = dirac("GAN + R₁, γ = .3", 0.0, 0.0, penalties.zero_gp)
    alpha = (np.full((1, 1), 0.5),)  # any: the slope is ψ everywhere
    apart = jacobian(vector_field(other, *POINT, alpha), rest) - jacobian(
        vector_field(dirac("GAN + R₁, γ = .3")[0], *POINT), rest
    )
    numbers = {"games": found, "jacobian_0gp_less_r1": float(np.abs(apart).max())}

    def paint(grid):
        for axes, name in zip(grid.flat, DIRAC, strict=True):
            arrows(axes, *fields[name], color="0.65")
            for way, rows in paths[name].items():
                axes.plot(*rows.T, WAY_LINES[way], color=WAY_COLORS[way], lw=1.3, label=way)
            axes.plot(*paths[name]["at once"][0], "o", color="black", ms=4, label="start")
            axes.plot(0, 0, "+", color="black", ms=9, mew=1.6, label="rest")
            axes.set(title=name, aspect="equal", xlabel="θ, the generator", ylabel="ψ, the critic")
        below(grid[0, 0], 4)

    def paint_radius(axes):
        for name, color in zip(DIRAC, COLORS, strict=False):
            for way, rows in paths[name].items():
                radius = np.hypot(*rows.T)
                axes.plot(radius, WAY_LINES[way], color=color, lw=1.2, label=f"{name}, {way}")
        axes.set(title="Distance from rest", xlabel="iteration", yscale="log", ylabel="√(θ² + ψ²)")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))

    pictures = {"": png(paint, (6.3, 6.8), 120, nrows=2, ncols=2)}
    pictures["-radius"] = png(paint_radius, (6.3, 3.2), 120)
    return Claim(pictures, say_dirac(numbers), numbers, judge_dirac(numbers))


def say_dirac(numbers):
    """The numbers in words."""
    rows = [
        [name, *[f"{found['radii'][way]:.8g}" for way in WAYS],
         *[f"{found['published'][way]:.8g}" for way in WAYS],
         written(found["eigenvalue"]), found["verdict"]]
        for name, found in numbers["games"].items()
    ]  # fmt: skip
    heads = ["game", "radius, at once", "in turns", "expected", "expected, in turns"]
    same = sum(found["same"] for found in numbers["games"].values())
    wrong = max(
        abs(complex(*found["eigenvalue"]) - complex(*found["closed_form"]))
        for found in numbers["games"].values()
    )
    return (
        f"Radius after 500 steps of {STEP} from (1, 1), θ first in turns: {same} of {len(rows)} "
        "games end at the expected radii to the digits given. The eigenvalues of the exact "
        f"Jacobian at rest are those of −γ/2 ± √(γ²/4 − f′(0)²) to {wrong:.1g} (a double one to "
        "the root of rounding). 0-GP on interpolates gives the same Jacobian as R₁ (difference "
        f"{numbers['jacobian_0gp_less_r1']:.1g}), as P3 §3.4 says. A clip is no part of the flow, "
        "and its limit is out of reach at rest.\n\n"
        + table([*heads, "eigenvalues at rest", "of the flow"], rows)
    )


def judge_dirac(numbers):
    """Without a penalty neither way comes to rest, with one both do; the digits are right."""
    settled = {
        name: [radius < 1e-4 for radius in found["radii"].values()]
        for name, found in numbers["games"].items()
    }
    with_penalty = [all(found) for name, found in settled.items() if "R₁" in name]
    without = [not any(found) for name, found in settled.items() if "R₁" not in name]
    digits = [found["same"] for found in numbers["games"].values()]
    verdicts = [
        found["verdict"] == ("stable" if "R₁" in name else "marginal")
        for name, found in numbers["games"].items()
    ]
    return verdict(*with_penalty, *without, *digits, *verdicts)


# The linear game

LAMBDAS = (0.0, 0.15, 0.5, 1.0)  # at 1 = ‖z‖ both eigenvalues meet
TARGET = np.array([[1.0, -0.5]])


def linear(weight):
    """(game, players at its start) of D = θ_Dᵀv against G = θ_G·z, z = 1."""
    sgd, penalty = optim.SGD(STEP), penalties.r1(weight) if weight else None
    start = {"generator": models.Given(((0.0, 0.0),)), "critic": models.Given(((0.0,), (0.0,)))}
    gan = GAN(
        LinearGenerator(1, 2, start["generator"]), LinearCritic(2, start["critic"]), sgd, sgd,
        losses.WASSERSTEIN, penalty,
    )  # fmt: skip
    return gan, gan.init(tg.Stream(0), np.float64)[:2]


def linear_closed_forms(weight, step=STEP):
    """Eigenvalues of each pair: of the flow, of the map at once, of the map in turns.

    λ = −w ± √(w² − 1) of [[0, 1], [−1, −2w]]; 1 + hλ; and of
    [[1, 0], [−h, 1 − 2hw]]·[[1, h], [0, 1]], whose trace is 2 − 2hw − h² and determinant 1 − 2hw.
    """
    root = np.emath.sqrt(weight**2 - 1)
    flow = np.array([-weight + root, -weight - root], complex)
    half = 1 - step * weight - step**2 / 2
    inner = np.emath.sqrt(half**2 - (1 - 2 * step * weight))
    return flow, 1 + step * flow, np.array([half + inner, half - inner], complex)


def nearest(found, expected):
    """The largest distance of a found number from the nearest of those expected."""
    return float(np.abs(found[:, None] - np.asarray(expected)[None]).min(1).max())


def draw_linear(short, seeds, root):
    """The spectra of the flow and of both maps, and how far the game is from rest."""
    batch = TARGET, np.ones((1, 1))
    found, spectra, ways = {}, {}, {}
    for weight in LAMBDAS:
        gan, start = linear(weight)
        maps = {way: move(gan, *batch) for way, move in WAYS.items()}
        spectra[weight] = [
            eigenvalues(f, start) for f in (vector_field(gan, *batch), *maps.values())
        ]
        rows = {way: path(move, start, 400) for way, move in maps.items()}
        rest = np.append(TARGET, [0, 0])
        ways[weight] = {way: np.linalg.norm(a - rest, axis=1) for way, a in rows.items()}
        errors = map(nearest, spectra[weight], linear_closed_forms(weight))
        found[f"{weight:g}"] = {
            "flow": parts(spectra[weight][0][0]),
            "radius": {
                way: float(np.abs(a).max())
                for way, a in zip(WAYS, spectra[weight][1:], strict=True)
            },
            "error": max(errors),
            "distance": {way: float(a[-1]) for way, a in ways[weight].items()},
        }
    numbers = {"weights": found, "steps": 400, "step": STEP}
    numbers["start"] = float(np.linalg.norm(TARGET))

    def paint(panels):
        flow, circle, far = panels
        angle = np.linspace(0, 2 * np.pi, 300)
        circle.plot(np.cos(angle), np.sin(angle), color="0.6", lw=0.8)
        flow.axvline(0, color="0.6", lw=0.8)
        for weight, color in zip(LAMBDAS, COLORS, strict=False):
            of_flow, *of_maps = spectra[weight]
            flow.plot(of_flow.real, of_flow.imag, "s", color=color, ms=6)
            what = f"R₁, weight {weight:g}" if weight else "no penalty"
            far.plot([], [], "s", color=color, label=what)
            for way, mus, mark in zip(WAYS, of_maps, "ox", strict=True):
                circle.plot(mus.real, mus.imag, mark, color=color, ms=6, mew=1.5)
                far.plot(ways[weight][way], WAY_LINES[way], color=color, lw=1.1)
        flow.set(title="Flow", xlabel="Re λ", ylabel="Im λ", xlim=(-1.2, 0.4))
        circle.set(title="One step, and the unit circle", xlabel="Re μ", ylabel="Im μ")
        circle.set(xlim=(0.74, 1.06), ylim=(-0.26, 0.26))
        far.set(title="Distance from rest", xlabel="iteration")
        far.set(ylabel="√(‖x − G(z)‖² + ‖θ_D‖²)", yscale="log", ylim=(1e-8, 5e3))
        for way, mark in zip(WAYS, "ox", strict=True):
            far.plot([], [], WAY_LINES[way] + mark, color="black", mew=1.5, lw=1.1, label=way)
        below(far, 6)

    pictures = {"": png(paint, (9, 3.5), 120, ncols=3)}
    return Claim(pictures, say_linear(numbers), numbers, judge_linear(numbers))


def say_linear(numbers):
    """The numbers in words."""
    rows = [
        [weight, written(found["flow"]),
         *[f"{found['radius'][way]:.6g}" for way in WAYS],
         *[f"{found['distance'][way]:.3g}" for way in WAYS]]
        for weight, found in numbers["weights"].items()
    ]  # fmt: skip
    wrong = max(found["error"] for found in numbers["weights"].values())
    return (
        "The game is linear, so its Jacobian is the same everywhere. Eigenvalues of the flow, and "
        f"the spectral radius of one step of {numbers['step']}; all are the closed forms to "
        f"{wrong:.1g}, a double one to the root of rounding. The distance from rest, G(z) = x and "
        f"θ_D = 0, is that after {numbers['steps']} steps from θ_D = θ_G = 0, which is "
        f"{numbers['start']:.3g} away.\n\n"
        + table(
            ["R₁'s λ", "flow", "radius, at once", "in turns", "distance, at once", "in turns"],
            rows,
        )
    )


def judge_linear(numbers):
    """Without a penalty the flow is on the axis, and a step at once outside of the circle."""
    first, *others = numbers["weights"].values()
    held = [
        abs(first["flow"][0]) < 1e-12,
        first["radius"]["at once"] > 1 + 1e-9,
        abs(first["radius"]["in turns"] - 1) < 1e-9,
        first["distance"]["in turns"] > 0.1,
    ]
    held += [found["flow"][0] < -1e-9 for found in others]
    held += [max(found["distance"].values()) < 0.1 for found in others]
    held += [found["error"] < 1e-6 for found in numbers["weights"].values()]
    return verdict(*held)


SMALL = {
    "G.dirac": Figure(
        "Dirac-GAN: where four games go, at once and in turns",
        "Without a penalty, and with clipped weights, neither way comes to rest: at once the game "
        "leaves, in turns it circles. R₁ brings both to rest, and γ = 1 = 2f′(0) is critical. P3 "
        "§3.4 says that 0-GP does the same.",
        f"f(t) = −softplus(−t), data at 0, steps of {STEP} from (1, 1), 500 iterations, θ first in "
        "turns (Mescheder et al. 2018, section 2)",
        "",
        no_jobs,
        draw_dirac,
        (),
    ),
    "G.linear": Figure(
        "The linear game: eigenvalues of the flow and of both maps",
        "The game of two linear maps turns about its rest: imaginary eigenvalues, a step at once "
        "outside of the unit circle, Fixed-Alt-GD on it. A zero-centred penalty moves them in.",
        f"D = θ_Dᵀv, G = θ_G·z, z = 1, x = (1, −.5), steps of {STEP} (P3 appendix B)",
        "",
        no_jobs,
        draw_linear,
        (),
    ),
}
