"""The facts of the papers that can be checked exactly, each beside what tinygan measures.

    python examples/facts.py
    python examples/facts.py --page docs/facts.md

Prints a table of all numbers; with --page it writes the page. Takes a few seconds.
"""

import argparse
import math
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import write_whole

import tinygan as tg
from tinygan import data, losses, metrics, models, ops, optim, penalties
from tinygan import train as training
from tinygan.algorithms import Simultaneous
from tinygan.loop import run
from tinygan.models.points import (
    DiracCritic,
    DiracGenerator,
    Given,
    LinearCritic,
    LinearGenerator,
)
from tinygan.study import fields, optimal, paths, spectrum, vector_field
from tinygan.train import GAN, Alternating

# What a number is, and when it is right


class Number(NamedTuple):
    """A golden number and the measured one.

    Args:
        what: what is measured.
        golden: as text where it was given, and then to half a unit of its last digit; a float where
            it has a closed form, or where it is a bound.
        measured: what tinygan's functions found.
        relation: "=", or "≥", "≤" of the measured number to a bound.
        within: how far it may be from a golden number in closed form, of rounding.
    """

    what: str
    golden: str | float
    measured: float
    relation: str = "="
    within: float = 1e-12

    @property
    def error(self):
        """|measured − golden|."""
        return abs(self.measured - float(self.golden))

    @property
    def allowed(self):
        """How large the error may be."""
        return half_a_unit(self.golden) if isinstance(self.golden, str) else self.within

    def holds(self):
        """Whether it is right."""
        if self.relation == "=":
            return self.measured == float(self.golden) or self.error <= self.allowed
        gap = self.measured - float(self.golden)
        return (gap if self.relation == "≥" else -gap) >= -self.within

    def cells(self):
        """What the page shows: what, golden, from, measured, error.

        Rounding errors are bounded, not shown: they are not the same on every machine.
        """
        right = self.holds()
        if self.relation != "=":
            bound = f"{self.relation} {plain(self.golden, 3)}"
            return self.what, bound, "bound", plain(self.measured, 3), "holds" if right else "no"
        if isinstance(self.golden, str):
            found, error = like(self.golden, self.measured), f"{self.error:.0e}"
            return self.what, self.golden, "given", found, error
        error = f"< {self.within:g}" if right else f"{self.error:.0e}"
        # Where 0 is expected, only rounding is left.
        found = plain(self.measured, 10 if self.within < 1e-9 else 4)
        found = "0" if right and not self.golden else found
        return self.what, plain(self.golden), "closed form", found, error


def half_a_unit(text):
    """Half a unit of the last digit of a number as text.

    >>> half_a_unit("3.0969487"), half_a_unit("2.64266e-6")
    (5e-08, 5e-12)
    """
    digits, _, power = text.partition("e")
    places = len(digits.partition(".")[2])
    return float(f"5e{int(power or 0) - places - 1}")


def like(text, value):
    """A value with as many digits as a number that is given as text.

    >>> like("3.0969487", 3.09694871), like("2.64266e-6", 2.642657e-6)
    ('3.0969487', '2.64266e-6')
    """
    digits, _, power = text.partition("e")
    places = len(digits.partition(".")[2])
    if not power:
        return f"{value:.{places}f}"
    digits, _, power = f"{value:.{places}e}".partition("e")
    return f"{digits}e{int(power)}"


def plain(value, digits=10):
    """A number in so many digits, less if it is small."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value + 0.0:.{digits if abs(value) >= 1e-4 else 3}g}"


class Fact(NamedTuple):
    """A fact of the papers.

    Args:
        title: in a line.
        means: what it says and how it is checked.
        shown_by: the functions of tinygan that are put to the test.
        measure: a function that gives its numbers.
    """

    title: str
    means: str
    shown_by: tuple
    measure: Callable


# Fact 1

LINE = optimal.trapezoid((-12, 14), 1041)
NORMAL, SHIFTED = optimal.gaussian(0.0, 1.0), optimal.gaussian(1.3, 1.0)


def uniform(low, high):
    """The log-density that is even between two places."""
    return optimal.log_of(lambda x: ((x[:, 0] >= low) & (x[:, 0] < high)) / (high - low))


def value(critic, real, fake, rule):
    """V = E_r log σ(D) + E_g log(1 − σ(D)), by quadrature."""
    logits = critic(rule.points)
    p, q = (np.exp(density(rule.points)) * rule.weights for density in (real, fake))
    return -float(p @ ops.softplus(-logits) + q @ ops.softplus(logits))


def optimal_discriminator():
    critic = optimal.optimal_gan(NORMAL, SHIFTED)
    x = np.linspace(-4, 5, 91)[:, None]
    p, q = np.exp(NORMAL(x)), np.exp(SHIFTED(x))
    d = tg.track(critic(x))
    loss = ops.sum(p * ops.softplus(ops.negative(d)) + q * ops.softplus(d))
    jsd = optimal.jensen_shannon(NORMAL, SHIFTED, LINE)
    apart = uniform(0, 1), uniform(2, 3)
    pieces = optimal.gauss_legendre((0, 3), panels=3)
    same = optimal.optimal_gan(NORMAL, NORMAL)
    return [
        Number(
            "largest |σ(D*) − p_r/(p_r + p_g)|, N(0, 1) and N(1.3, 1)", 0.0,
            float(abs(ops.sigmoid(critic(x)) - p / (p + q)).max()),
        ),
        Number(
            "largest slope of D's loss in D(x), at D*", 0.0,
            float(abs(tg.grad_values(loss, d)).max()),
        ),
        Number(
            "V(D*) − (2·JSD − 2·log 2)", 0.0,
            value(critic, NORMAL, SHIFTED, LINE) - (2 * jsd - 2 * math.log(2)),
        ),
        Number("D where p_r = p_g", 0.5, float(ops.sigmoid(same(x)).mean())),
        Number(
            "V there: −log 4", -math.log(4), value(same, NORMAL, NORMAL, LINE)
        ),
        Number(
            "JSD of disjoint supports: log 2", math.log(2), optimal.jensen_shannon(*apart, pieces)
        ),
        Number(
            "KL of disjoint supports", math.inf, optimal.kullback_leibler(*apart, pieces)
        ),
    ]  # fmt: skip


# Figure 1's two Gaussians

SQUARE, SIDE = (-2.5, 4.5), 100


def two_gaussians():
    real, fake = (optimal.gaussian(g.mean, g.covariance) for g in data.two_gaussians())
    critic = optimal.optimal_gan(real, fake)
    at = np.array([g.mean for g in data.two_gaussians()] + [np.zeros(2)])
    of_r, of_f, of_0 = map(float, ops.sigmoid(critic(at)))
    rule = optimal.trapezoid(((-10, 12), (-10, 12)), 221)
    surface = fields.value_surface(critic, SQUARE, SIDE, ops.sigmoid, dtype=np.float64)
    steepest = fields.steepest(critic, SQUARE, SIDE, ops.sigmoid, dtype=np.float64).norm
    spacing = (SQUARE[1] - SQUARE[0]) / (SIDE - 1)
    differences = np.hypot(*np.gradient(surface, spacing)).max()
    return [
        Number("D*(μ_r)", "0.5790643075", of_r),
        Number("D*(μ_f)", "0.3514136245", of_f),
        Number("D*(0, 0)", "0.5812612449", of_0),
        Number("JSD", "0.1131058392", optimal.jensen_shannon(real, fake, rule)),
        Number("KL(r‖g)", "0.5934432694", optimal.kullback_leibler(real, fake, rule)),
        Number("KL(g‖r)", "0.4794979071", optimal.kullback_leibler(fake, real, rule)),
        Number("V(D*)", "-1.1600826828", value(critic, real, fake, rule)),
        Number("least D* on the grid", "0.01838021", float(surface.min())),
        Number("mean D* on the grid", "0.67196975", float(surface.mean())),
        Number("largest ‖∇D*‖ on the grid", "0.7523", steepest),
        Number("the same by central differences", "0.7489", float(differences)),
    ]


# Fact 2


def generator_gradients():
    critic = optimal.optimal_gan(NORMAL, SHIFTED)
    found = {
        name: float(optimal.location_gradient(loss.generator, critic, SHIFTED, LINE)[0])
        for name, loss in {"s": losses.MINIMAX, "n": losses.NON_SATURATING}.items()
    }
    place = tg.track(np.array(1.3))

    def moved(x):
        """log N(place, 1), which can be differentiated in its place."""
        gap = ops.subtract(x[:, 0], place)
        return ops.subtract(ops.multiply(ops.square(gap), -0.5), 0.5 * math.log(2 * math.pi))

    twice = ops.multiply(optimal.jensen_shannon(NORMAL, moved, LINE), 2.0)
    reverse = ops.subtract(optimal.kullback_leibler(moved, NORMAL, LINE), twice)
    return [
        Number("saturating, D* held fixed", "0.449010", found["s"]),
        Number("non-saturating, D* held fixed", "0.850990", found["n"]),
        Number(
            "saturating − d/dθ 2·JSD", 0.0, found["s"] - float(tg.grad_values(twice, place))
        ),
        Number(
            "non-saturating − d/dθ (KL(p_g‖p_r) − 2·JSD)", 0.0,
            found["n"] - float(tg.grad_values(reverse, place)),
        ),
    ]  # fmt: skip


# Fact 3

WIDTH = 0.1


def parallel_lines():
    height = tg.Stream(3).uniform((200,), np.float64)
    found = []
    for theta in (1.0, 0.25, -0.5):
        line, other = (np.stack([np.full(200, at), height], axis=1) for at in (0.0, theta))
        found.append(
            Number(f"W₁ of the lines, θ = {theta:g}", abs(theta), metrics.wasserstein1(line, other))
        )
    theta = 0.5
    bars = uniform(0, WIDTH), uniform(theta, theta + WIDTH)  # across the lines
    edges = np.linspace(-0.2, 0.8, 101)
    critic = optimal.optimal_wasserstein(*bars, edges)
    slopes = paths.path_slopes(
        critic, np.full((1, 1), 0.001), np.full((1, 1), theta + WIDTH - 0.001), n=100
    ).norms
    height = np.linspace(0, 1, 50)
    line, other = (np.stack([np.full(50, at), height], axis=1) for at in (0.0, theta))
    told = critic(line[:, :1]).mean() - critic(other[:, :1]).mean()
    return [
        *found,
        Number(
            "W₁ of two bars, from their densities", theta, optimal.wasserstein1(*bars, edges)
        ),
        Number("slope of the optimal critic between them, least", 1.0, float(slopes.min())),
        Number("slope of the optimal critic between them, largest", 1.0, float(slopes.max())),
        Number("E D*(x) − E D*(y), x on the one line, y on the other", theta, float(told)),
    ]  # fmt: skip


# Fact 4


def simplex(n):
    """n points of norm 1, all as far from each other: ⟨vᵢ, vⱼ⟩ = −1/(n − 1)."""
    v = np.eye(n) - 1 / n
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def margin(real, fake, epsilon, alpha, k):
    """How far D is beyond ½ ± ε/2, at the worst sample."""
    model, params = models.epsilon_optimal(real, fake, epsilon, alpha, k)
    over = model(params, real).min() - (0.5 + epsilon / 2)
    return float(min(over, 0.5 - epsilon / 2 - model(params, fake).max()))


def epsilon_optimal():
    epsilon, alpha, n = 0.5, 0.25, 5
    v = simplex(n)
    k = models.sufficient_k(v, epsilon, alpha)
    _, params = models.epsilon_optimal(v[:1], v[1:], epsilon, alpha)
    rows = tg.Stream(4).normal((27, 10), np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    enough = models.sufficient_k(rows, epsilon, 0.1)
    gap = 1 - max(a @ b for i, a in enumerate(rows) for b in rows[:i])
    return [
        Number(
            "k of a simplex of 5, ε = ½, α = ¼: ln 12/1.25",
            math.log((n - 1) * (epsilon + alpha) / alpha) / (1 + 1 / (n - 1)), k,
        ),
        Number("margin there: no smaller k will do", 0.0, margin(v[:1], v[1:], epsilon, alpha, k)),
        Number(
            "margin at .999·k", 0.0, margin(v[:1], v[1:], epsilon, alpha, 0.999 * k), "≤"
        ),
        Number(
            "k of 27 random directions of 10 components, from its formula",
            math.log(26 * 0.6 / 0.1) / gap, enough, within=1e-10,
        ),
        Number(
            "margin there, 20 real and 7 fake", 0.0,
            margin(rows[:20], rows[20:], epsilon, 0.1, enough), "≥",
        ),
        Number(
            "parameters for d = 5, N = 5: (d + 1)·N", 30.0, float(models.count_parameters(params))
        ),
    ]  # fmt: skip


# Fact 5


def tanh_critic(hidden=16, seed=5, scale=2.0):
    """A smooth critic of the plane with random weights."""
    model = models.MLP((2, hidden, hidden, 1), activation=ops.tanh)
    params = model.init(tg.Stream(seed), np.float64)
    params = tg.tree_map(lambda a: scale * a, params)
    return lambda x: model(params, x)


def line_integral():
    stream = tg.Stream(6)
    x, y = stream.normal((50, 2), np.float64), stream.normal((50, 2), np.float64) + 1.0
    smooth = paths.line_integrals(tanh_critic(), x, y, pieces=64)
    v = simplex(6)
    epsilon = 0.6
    model, params = models.epsilon_optimal(v[:3], v[3:], epsilon, 0.1)
    real, fake = np.repeat(v[:3], 3, axis=0), np.tile(v[3:], (3, 1))
    built = paths.line_integrals(lambda a: model(params, a), real, fake)
    return [
        Number("largest |∫∇D·ds − (D(x) − D(y))|, a tanh D, 50 pairs", 0.0, smooth.error.max()),
        Number("the same, the ε-optimal D, 9 pairs", 0.0, built.error.max()),
        Number(
            "least (D(x) − D(y))/ε of the ε-optimal D", 1.0, built.difference.min() / epsilon, "≥"
        ),
        Number(
            "least slope over ε/‖x − y‖", 1.0, (built.steepest * built.lengths).min() / epsilon, "≥"
        ),
        Number(
            "the same of the tanh D, with D(x) − D(y) for ε", 1.0,
            (smooth.steepest / smooth.bound).min(), "≥",
        ),
    ]  # fmt: skip


# Fact 6

X, Z, RATE = np.array([[2.0, 0.5]]), np.array([[0.6, -0.8]]), 0.02


def linear_gan(theta_g, theta_d):
    """P3's linear game from given players."""
    start = (Given(tuple(map(tuple, a))) for a in (theta_g, theta_d))
    g, d = next(start), next(start)
    return GAN(
        LinearGenerator(2, 2, g), LinearCritic(2, d), optim.SGD(RATE), optim.SGD(RATE),
        losses.WASSERSTEIN,
    )  # fmt: skip


def steps_to_optimality(distance, epsilon):
    """Steps of D alone from θ_D = 0 until D(x) − D(y) = ε, at a distance of x and y."""
    y = X - np.array([[distance, 0.0]])
    gan = linear_gan(Z.T @ y, np.zeros((2, 1)))  # ‖z‖ = 1, so that G(z) = y
    players, steps = gan.init(tg.Stream(0), np.float64), 0
    while (X - y) @ players.critic["theta"] < epsilon * (1 - 1e-12):
        players, _ = training.critic_step(gan, players, X, Z)
        steps += 1
    return float(steps)


def fixed_alternation():
    epsilon = 1.0
    y = X - np.array([[2.0, 0.0]])
    gap = X - y
    across = np.array([[0.0], [0.05]])  # of θ_D, which tells nothing apart
    gan = linear_gan(Z.T @ y, epsilon * gap.T / (gap**2).sum() + across)
    start = gan.init(tg.Stream(0), np.float64)[:2]
    move = vector_field.alternating_map(gan, X, Z)
    places = vector_field.path(move, start, 100)
    theta_g, theta_d = places[:, :4].reshape(-1, 2, 2), places[:, 4:]
    gaps = X - np.einsum("i,nij->nj", Z[0], theta_g)
    told = (theta_d * gaps).sum(1)
    steepness, distance = np.linalg.norm(theta_d, axis=1), np.linalg.norm(gaps, axis=1)
    near = int(np.argmax(np.diff(distance) > 0))  # it shrinks until there, then overshoots
    # θ_D' = θ_D + α·gap, then gap' = gap − α·θ_D'·‖z‖², in each component; ‖z‖ = 1.
    turn = np.array([[1.0, RATE], [-RATE, 1 - RATE**2]])
    first = np.stack([theta_d[0], gaps[0]])
    ways = np.array([np.linalg.matrix_power(turn, n) @ first for n in range(len(places))])
    g, d = tg.track(start)
    loss = ops.sum(ops.subtract(gan.critic(d, X), gan.critic(d, gan.generator(g, Z))))
    slope_g, slope_d = tg.grad_values(loss, (g, d))
    return [
        Number(
            "∂L/∂θ_D − (x − y), its largest entry", 0.0,
            float(abs(slope_d["theta"].T - gap).max()),
        ),
        Number(
            "∂L/∂θ_G + θ_D·zᵀ, its largest entry", 0.0,
            float(abs(slope_g["theta"] + Z.T @ theta_d[:1]).max()),
        ),
        Number(
            "way of (θ_D, x − y) in 100 steps − powers of its matrix, the largest entry", 0.0,
            float(abs(np.stack([theta_d, gaps], axis=1) - ways).max()),
        ),
        Number(
            "least ‖θ_D‖·‖x − y‖/|D(x) − D(y)| on the way", 1.0,
            float((steepness * distance / abs(told)).min()), "≥",
        ),
        Number(
            "‖∂L/∂θ_D‖ = ‖x − y‖ where y is nearest, of that at the start", 0.05,
            float(distance[near] / distance[0]), "≤",
        ),
        Number(
            "‖∂L/∂θ_G‖ there, of that at the start", 2.0, float(steepness[near] / steepness[0]), "≥"
        ),
        Number("|D(x) − D(y)|/ε there, 1 at the start", 0.5, float(abs(told[near]) / epsilon), "≤"),
        *(
            Number(
                f"D-steps to ε = 1 from θ_D = 0 at ‖x − y‖ = {r:g}: ⌈ε/(α‖x − y‖²)⌉",
                float(math.ceil(epsilon / (RATE * r * r) - 1e-9)), steps_to_optimality(r, epsilon),
            )
            for r in (2.0, 1.0, 0.5)
        ),
    ]  # fmt: skip


# Fact 7

WEIGHTS = (1.0, 10.0, 100.0, 1000.0)


def quadratic_critic(w):
    """D(v) = w₁v₁ + w₂v₂ + w₃v₁² + w₄v₁v₂ + w₅v₂², without a constant. Shapes: w (5, 1)."""

    def critic(v):
        a, b = v[:, :1], v[:, 1:]
        columns = a, b, ops.square(a), ops.multiply(a, b), ops.square(b)
        return ops.matmul(ops.concatenate(*columns, axis=1), w)

    return critic


def best_spreads(weights):
    """(deviation of σ(D) over samples for each λ, the limit of λ times it) of the best quadratic D.

    0-GP on places between all pairs: loss and penalty are convex in w, and BFGS finds the minimum
    with the engine's gradients. As λ grows, w goes to −M⁻¹g/λ, with g the loss's gradient and M
    the penalty's Hessian at w = 0, and σ(D) to ½ + D/4.
    """
    from scipy.optimize import minimize

    real, fake = (
        each.sample(16, tg.Stream(7).child(i), np.float64)
        for i, each in enumerate(data.two_gaussians())
    )
    pairs = np.repeat(real, 16, axis=0), np.tile(fake, (16, 1))
    points = np.concatenate(
        [penalties.interpolates(*pairs, np.full((256, 1), t)) for t in np.linspace(0, 1, 5)]
    )
    samples = np.concatenate([real, fake])

    def loss(w):
        critic = quadratic_critic(w)
        return losses.MINIMAX.critic(critic(real), critic(fake))

    def penalty(w):
        return penalties.gradient_penalty(quadratic_critic(w), points)

    row, found = np.zeros(5), []
    for weight in weights:

        def objective(row, weight=weight):
            w = tg.track(row.reshape(5, 1))
            y = ops.add(loss(w), ops.multiply(penalty(w), weight))
            return float(y.data), tg.grad_values(y, w).ravel()

        row = minimize(objective, row, jac=True, options={"gtol": 1e-10}).x
        found.append(float(ops.sigmoid(quadratic_critic(row.reshape(5, 1))(samples)).std()))
    w = tg.track(np.zeros((5, 1)))
    g = tg.grad_values(loss(w), w)
    columns = [tg.hvp(penalty, np.zeros((5, 1)), u.reshape(5, 1)) for u in np.eye(5)]
    hessian = np.concatenate(columns, axis=1)
    far = -np.linalg.solve(hessian, g)
    return found, float(quadratic_critic(far)(samples).std() / 4)


def constant_and_even():
    found = []
    gap = np.array([[1.5, -2.0]])  # x − y of a single pair
    for weight in (1.0, 100.0):
        # L = −w·(x − y) + λ‖w‖²: one step of rate 1/(2λ) leads to its minimum.
        gan = GAN(
            LinearGenerator(1, 2, Given(((0.0, 0.0),))), LinearCritic(2),
            optim.SGD(1.0), optim.SGD(1 / (2 * weight)), losses.WASSERSTEIN,
            penalties.zero_gp(weight),
        )  # fmt: skip
        players = gan.init(tg.Stream(0), np.float64)
        players, _ = training.critic_step(
            gan, players, gap, np.ones((1, 1)), gan.penalty.draw(tg.Stream(1), gap)
        )
        found.append(
            Number(
                f"‖∇D‖ of a linear Wasserstein D at λ = {weight:g}: ‖x − y‖/(2λ)",
                2.5 / (2 * weight), float(np.linalg.norm(players.critic["theta"])),
            )
        )  # fmt: skip
    (free, *deviations), limit = best_spreads((0.0, *WEIGHTS))
    for weight, deviation, before in zip(WEIGHTS, deviations, [free, *deviations], strict=False):
        found.append(
            Number(
                f"deviation of σ(D) over samples, the best quadratic D at λ = {weight:g}, to half "
                f"of that at λ = {weight / 10 if weight > 1 else 0:g}",
                before / 2, deviation, "≤", 0.0,
            )
        )  # fmt: skip
    found.append(
        Number(
            f"λ times it at λ = {WEIGHTS[-1]:g}, of the limit for λ → ∞", 1.0,
            WEIGHTS[-1] * deviations[-1] / limit, within=0.01,
        )
    )  # fmt: skip

    stream = tg.Stream(10)
    x, y = stream.normal((20, 2), np.float64), stream.normal((20, 2), np.float64)
    slopes = paths.path_slopes(tanh_critic(), x, y)
    root = math.sqrt(np.square(slopes.norms).mean())
    n = 1001
    bowl = paths.path_slopes(
        lambda v: ops.multiply(ops.sample_square_norm(v), 0.5), np.eye(2)[:1], np.zeros((1, 2)), n=n
    )
    flat = paths.path_slopes(lambda v: ops.matmul(v, np.array([[3.0], [4.0]])), x, y)
    return [
        *found,
        Number(
            "E‖∇D‖/√E‖∇D‖² along paths, a linear D", 1.0,
            flat.mean / math.sqrt(np.square(flat.norms).mean()),
        ),
        Number("E‖∇D‖/√E‖∇D‖² along paths, a tanh D", 0.9, slopes.mean / root, "≤"),
        Number(
            "the same − 1/√(1 + variation²)", 0.0,
            slopes.mean / root - 1 / math.sqrt(1 + slopes.variation**2),
        ),
        Number("variation of ‖∇D‖, a linear D", 0.0, flat.variation),
        Number(
            "variation of ‖∇D‖, D = ½‖v‖² from 0 outwards, at n places: √((n + 1)/(3(n − 1)))",
            math.sqrt((n + 1) / (3 * (n - 1))), bowl.variation,
        ),
    ]  # fmt: skip


# Fact 8


def penalties_in_closed_form():
    stream = tg.Stream(11)
    x, y = stream.normal((30, 2), np.float64), stream.normal((30, 2), np.float64)
    w = np.array([[3.0], [4.0]])

    def line(v):
        return ops.matmul(v, w)

    def bowl(v):
        return ops.multiply(ops.sample_square_norm(v), 0.5)

    def zero_gp_along(critic):
        # Two Gauss points are exact for a quadratic function of α, as ‖∇D‖² of a bowl is.
        places = (0.5 + sign * math.sqrt(1 / 12) for sign in (-1, 1))
        points = (penalties.interpolates(x, y, np.full((30, 1), a)) for a in places)
        return np.mean([penalties.gradient_penalty(critic, p).data for p in points])

    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1.0, -1.0])

    def quadratic(v):
        return ops.sum(ops.multiply(v, ops.add(ops.multiply(ops.matmul(v, a), 0.5), b)), axis=1)

    norms = np.linalg.norm(x @ a + b, axis=1)
    one_gp = penalties.gradient_penalty(quadratic, x, centre=1.0)
    circle = x / np.linalg.norm(x, axis=1, keepdims=True)
    return [
        Number(
            "1-GP of D = wᵀv, w = (3, 4): (‖w‖ − 1)²", 16.0,
            float(penalties.gradient_penalty(line, x, centre=1.0).data),
        ),
        Number("0-GP of the same: ‖w‖²", 25.0, float(penalties.gradient_penalty(line, x).data)),
        Number(
            "1-GP of D = ½‖v‖² at points of norm 3: (3 − 1)²", 4.0,
            float(penalties.gradient_penalty(bowl, 3 * circle, centre=1.0).data),
        ),
        Number(
            "0-GP of D = ½‖v‖² on segments − E(‖x‖² + ⟨x, y⟩ + ‖y‖²)/3", 0.0,
            float(zero_gp_along(bowl) - (x * x + x * y + y * y).sum(1).mean() / 3),
        ),
        Number(
            "1-GP of D = ½vᵀAv + bᵀv − E(‖Av + b‖ − 1)²", 0.0,
            float(one_gp.data - ((norms - 1) ** 2).mean()),
        ),
    ]  # fmt: skip


# The Dirac-GAN

STEP = 0.2
DIRACS = {
    "GAN": ({}, "3.0969487", "1.4210189"),
    "WGAN, clip 1": ({"loss": losses.WASSERSTEIN, "clip": 1.0}, "1.0021520", "1.0241189"),
    "GAN + R1, γ = .3": ({"gamma": 0.3}, "2.64266e-6", "2.30091e-7"),
    "GAN + R1, γ = 1": ({"gamma": 1.0}, "9.5287e-22", "7.4812e-17"),
}


def dirac(loss=losses.MINIMAX, gamma=0.0, clip=None, theta=1.0, psi=-1.0):
    """Data at 0, G = θ, D = ψx. Mescheder's ψ is our −ψ, his γ twice our λ."""
    return GAN(
        DiracGenerator(theta), DiracCritic(psi), optim.SGD(STEP), optim.SGD(STEP), loss,
        penalties.r1(gamma / 2) if gamma else None, clip=clip,
    )  # fmt: skip


def final_radius(game, steps=500):
    """√(θ² + ψ²) after so many iterations."""
    start = game.init(tg.Stream(0), np.float64)
    players = run(
        game, start, lambda n, stream: np.zeros((n, 1)), steps, tg.Stream(1), record_every=steps
    ).players
    return float(np.hypot(players.generator["theta"][0], players.critic["psi"][0]))


def dirac_radii():
    found = []
    for name, (settings, at_once, in_turns) in DIRACS.items():
        gan = dirac(**settings)
        turns = Alternating(gan, 1, 1, generator_first=True)
        found.append(Number(f"{name}, simultaneous", at_once, final_radius(Simultaneous(gan, 1))))
        found.append(Number(f"{name}, alternating", in_turns, final_radius(turns)))
    return found


def dirac_eigenvalues():
    found = []
    for gamma, digits in ((0.0, None), (0.3, "0.47697"), (1.0, None)):
        gan = dirac(gamma=gamma, theta=0.0, psi=0.0)
        rest = gan.init(tg.Stream(0), np.float64)[:2]
        batch = np.zeros((1, 1)), np.zeros((1, 1))
        one, other = spectrum.eigenvalues(vector_field.vector_field(gan, *batch), rest)
        root = complex(gamma**2 / 4 - 0.25) ** 0.5
        # A double eigenvalue is found to the root of rounding.
        within = 1e-7 if root == 0 else 1e-12
        found += [
            Number(f"real part, γ = {gamma:g}", -gamma / 2, one.real, within=within),
            Number(f"imaginary part, γ = {gamma:g}", root.imag, abs(one.imag), within=within),
        ]
        if digits:
            found.append(Number(f"imaginary part, γ = {gamma:g}, as given", digits, abs(one.imag)))
    return [*found, Number("sum of the two, γ = 1: −γ", -1.0, (one + other).real)]


FACTS = {
    "1": Fact(
        "The optimal discriminator",
        "For densities p_r and p_g the best σ(D) is p_r/(p_r + p_g), and its value is V(D*) = "
        "2·JSD − 2·log 2. Where the two are equal D says ½ and V = −log 4; where their supports "
        "are disjoint, JSD is log 2 however far apart they lie, and KL is infinite: neither tells "
        "the generator where to go. Integrals are by quadrature.",
        (
            "study.optimal.optimal_gan",
            "study.optimal.jensen_shannon",
            "study.optimal.kullback_leibler",
        ),
        optimal_discriminator,
    ),
    "1, Figure 1": Fact(
        "The two Gaussians of P3's Figure 1",
        "Real N((.4, .9), ((1, .5), (.5, 1))), fake N((1.3, 1.2), ((1, .7), (.7, 1))); D* as a "
        "probability, the grid 100×100 on [−2.5, 4.5]². The gradients are the engine's; "
        "differences between neighbours of the grid smooth what is steep. Outside of the square "
        "‖∇D*‖ has no bound.",
        (
            "data.two_gaussians",
            "study.optimal.optimal_gan",
            "study.fields.value_surface",
            "study.fields.steepest",
        ),
        two_gaussians,
    ),
    "2": Fact(
        "What the generator descends at D*",
        "With D* held fixed, the gradient of the saturating loss is that of 2·JSD, and that of the "
        "non-saturating one that of KL(p_g‖p_r) − 2·JSD: it pushes the two apart in the sense of "
        "JSD. An identity of gradients, in one dimension, N(0, 1) against N(θ, 1) at θ = 1.3; the "
        "divergences are differentiated in θ by the engine.",
        ("study.optimal.location_gradient", "losses.MINIMAX", "losses.NON_SATURATING"),
        generator_gradients,
    ),
    "3": Fact(
        "W₁ between parallel lines",
        "Between two parallel lines at distance θ, W₁ is |θ|: it falls as they come near, as JSD "
        "does not. The optimal critic has slope 1 almost everywhere between them, and the "
        "difference of its means is W₁. Samples lie at the same heights; across the lines, bars of "
        f"width {WIDTH:g} have densities.",
        ("metrics.wasserstein1", "study.optimal.wasserstein1", "study.optimal.optimal_wasserstein"),
        parallel_lines,
    ),
    "4": Fact(
        "The ε-optimal discriminator",
        "P3, appendix A: one softmax layer of a unit for each sample, W₁ = k·[v₁, …], W₂ = ½ ± "
        "(ε/2 + α), tells any two finite sets of unit vectors apart by ε, from k = "
        "ln((N − 1)(ε + α)/α)/(1 − max⟨vᵢ, vⱼ⟩) on, 0 < α ≤ (1 − ε)/2. It has (d + 1)(m + n) "
        "parameters. In a simplex no smaller k will do. The margin is how far D is beyond ½ ± ε/2 "
        "at the worst sample.",
        ("models.epsilon_optimal", "models.sufficient_k"),
        epsilon_optimal,
    ),
    "5": Fact(
        "The line integral of the slope",
        "∫∇D·ds from y to x is D(x) − D(y). So a D that tells x and y apart by ε is somewhere on "
        "the way as steep as ε/‖x − y‖: it explodes as fake samples come near real ones.",
        ("study.paths.line_integrals",),
        line_integral,
    ),
    "6": Fact(
        "Fixed-Alt-GD cannot keep D ε-optimal",
        "P3, appendix B: D(v) = θ_Dᵀv, G(z) = θ_G z, L = D(x) − D(y). To tell x and y apart by ε "
        "takes ‖θ_D‖ ≥ ε/‖x − y‖; ∂L/∂θ_D = x − y goes to 0 as y nears x, ∂L/∂θ_G = −θ_D zᵀ "
        f"grows. One D-step for one of G, rate {RATE:g}, from an ε-optimal D.",
        ("study.vector_field.alternating_map", "train.critic_step"),
        fixed_alternation,
    ),
    "7": Fact(
        "What a zero-centred penalty does",
        "As λ grows, the best D becomes a constant, σ(D) = ½, and its deviation falls as 1/λ: in "
        "closed form for a linear D, and for one of linear and square terms, whose loss and "
        "penalty are convex, found by descent. And for given E‖∇D‖² the mean slope E‖∇D‖ is "
        "largest where all norms are equal (Cauchy and Schwarz): the coefficient of variation of "
        "‖∇D‖ along paths says how far from that a D is.",
        ("penalties.gradient_penalty", "study.paths.path_slopes"),
        constant_and_even,
    ),
    "8": Fact(
        "Penalties in closed form",
        "A linear D has the slope w everywhere, so 1-GP is exactly (‖w‖ − 1)². The slope of a "
        "quadratic D is linear, so its penalties are polynomials or known norms: checks for any "
        "implementation.",
        ("penalties.gradient_penalty", "penalties.interpolates"),
        penalties_in_closed_form,
    ),
    "Dirac-GAN": Fact(
        "The Dirac-GAN after 500 steps",
        "Data at 0, G = θ, D = ψx, f(t) = −softplus(−t), step .2 from (1, 1); in turns θ moves "
        "first; γ is Mescheder's, twice our λ. The distance from the equilibrium: plain GAN "
        "runs away or circles, clipping circles, R1 converges.",
        ("algorithms.Simultaneous", "train.Alternating", "penalties.r1"),
        dirac_radii,
    ),
    "eigenvalues": Fact(
        "Eigenvalues of the Dirac-GAN at its equilibrium",
        "−γ/2 ± √(γ²/4 − f′(0)²) with f′(0) = ½: on the imaginary axis without a penalty, so that "
        "the linear part does not decide; to its left with R1. The Jacobian is the engine's own.",
        ("study.vector_field.vector_field", "study.spectrum.eigenvalues"),
        dirac_eigenvalues,
    ),
}

HEAD = """# Facts

What the papers claim and can be checked exactly, each with its golden number and what tinygan's own
functions measure. `python examples/facts.py` prints the numbers, `--page docs/facts.md` writes this
page; the test suite measures them all again, and compares this page.

*Given*: the golden number was computed independently of tinygan, or printed in a paper, and the
measured one agrees to all its digits; the error is mostly what these leave out. *Closed form*: it
has a formula, and the error is bounded by rounding. *Bound*: an inequality.
"""


def name_of(key, fact):
    """ "Fact 1. The optimal …" or, of what has no number, its title."""
    return f"Fact {key}. {fact.title}" if key.isdigit() else fact.title


def page(found):
    """The page as Markdown, of what :func:`measured` found."""
    lines = [HEAD]
    for key, numbers in found.items():
        fact = FACTS[key]
        shown_by = "Shown by " + ", ".join(f"`{name}`" for name in fact.shown_by) + "."
        lines += [f"## {name_of(key, fact)}", "", *wrapped(fact.means), "", *wrapped(shown_by), ""]
        lines += ["| number | golden | from | measured | error |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(escaped, number.cells()))} |" for number in numbers]
        lines.append("")
    return "\n".join(lines)


def escaped(text):
    """Text whose stars and bars are themselves in Markdown."""
    return text.replace("*", r"\*").replace("|", r"\|")


def wrapped(text):
    """Lines of a paragraph."""
    return textwrap.wrap(escaped(text), 100, break_long_words=False, break_on_hyphens=False)


def table(found):
    """The same for a terminal."""
    cells = [number.cells() for numbers in found.values() for number in numbers]
    wide = [max(len(row[i]) for row in cells) for i in range(5)]
    lines = []
    for key, numbers in found.items():
        lines += ["", name_of(key, FACTS[key])]
        for number in numbers:
            row = zip(number.cells(), wide, strict=True)
            text = "  ".join(f"{cell:<{width}}" for cell, width in row).rstrip()
            lines.append(f"  {text}" + ("" if number.holds() else "  WRONG"))
    return "\n".join(lines[1:])


def measured():
    """All numbers by fact."""
    return {key: fact.measure() for key, fact in FACTS.items()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--page", type=Path, help="write the page there, such as docs/facts.md")
    args = parser.parse_args(argv)
    if args.page is not None and not args.page.parent.is_dir():
        parser.error(f"--page {args.page}: no folder {args.page.parent}; make it, or name another")
    found = measured()
    print(table(found))
    wrong = [n.what for numbers in found.values() for n in numbers if not n.holds()]
    if args.page is not None:
        write_whole(args.page, page(found).encode())
    if wrong:
        sys.exit(f"{len(wrong)} numbers are wrong: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
