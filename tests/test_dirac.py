"""The games that theory solves, played by real GAN objects: Dirac's, and P3's linear one.

Dirac-GAN: data at 0, G(z) = θ, D(x) = ψ·x. With a loss f, Mescheder's D is high on fakes and
ours on data: his ψ is our −ψ. His start (1, 1) is our θ = 1, ψ = −1.
"""

import numpy as np
import pytest

import tinygan as tg
from tinygan import losses, ops, optim, penalties
from tinygan.algorithms import Consensus, NagarajanKolter, Simultaneous, Unrolled
from tinygan.engine import grad, jvp
from tinygan.loop import run
from tinygan.models.points import (
    DiracCritic,
    DiracGenerator,
    Given,
    LinearCritic,
    LinearGenerator,
)
from tinygan.train import GAN, Alternating, critic_loss, critic_step

STEP = 0.2


def origin(n, stream):
    return np.zeros((n, 1))


def dirac(loss=losses.MINIMAX, gamma=0.0, clip=None, step=STEP, theta=1.0, psi=-1.0):
    """``gamma`` is Mescheder's: his penalty is γ/2·E‖∇D‖² = γ/2·ψ²."""
    penalty = penalties.r1(gamma / 2) if gamma else None
    return GAN(
        DiracGenerator(theta), DiracCritic(psi), optim.SGD(step), optim.SGD(step), loss, penalty,
        clip=clip,
    )  # fmt: skip


def alternating(gan):
    return Alternating(gan, 1, 1, generator_first=True)


def simultaneous(gan):
    return Simultaneous(gan, 1)


def point(players):
    return np.array([players.generator["theta"][0], players.critic["psi"][0]])


def path(game, steps, compiled=True):
    """(θ, ψ) before the first and after every iteration."""
    found = []
    start = game.init(tg.Stream(0), np.float64)
    run(
        game, start, origin, steps, tg.Stream(1), compiled=compiled,
        watch=lambda step, players: found.append(point(players)),
    )  # fmt: skip
    return np.array(found)


GAMES = {
    "GAN": {},
    "WGAN, clip 1": {"loss": losses.WASSERSTEIN, "clip": 1.0},
    "R1, γ = .3": {"gamma": 0.3},
    "R1, γ = 1": {"gamma": 1.0},
}
RADII = [  # of 500 steps, and half a unit of the last digit that is given
    ("GAN", simultaneous, 3.0969487, 5e-8),
    ("GAN", alternating, 1.4210189, 5e-8),
    ("WGAN, clip 1", simultaneous, 1.0021520, 5e-8),
    ("WGAN, clip 1", alternating, 1.0241189, 5e-8),
    ("R1, γ = .3", simultaneous, 2.64266e-6, 5e-12),
    ("R1, γ = .3", alternating, 2.30091e-7, 5e-13),
    ("R1, γ = 1", simultaneous, 9.5287e-22, 5e-27),
    ("R1, γ = 1", alternating, 7.4812e-17, 5e-22),
]


@pytest.mark.parametrize("name, way, radius, digits", RADII)
def test_the_final_radius_is_the_published_one(name, way, radius, digits):
    last = path(way(dirac(**GAMES[name])), 500)[-1]
    assert abs(np.hypot(*last) - radius) <= digits


def test_the_radius_is_of_that_scheme_start_and_weight():
    """Each fault moves the radius by far more than the digits of the table."""

    def radius(gan, way=simultaneous):
        return np.hypot(*path(way(gan), 500)[-1])

    assert abs(radius(dirac(psi=1.0)) - 3.0969487) > 1e-3  # D's sign
    assert abs(radius(dirac(), lambda gan: Alternating(gan, 1, 1)) - 1.4210189) > 1e-3  # ψ first
    assert radius(dirac(gamma=0.6)) < 1e-10  # γ for γ/2
    assert abs(radius(dirac(loss=losses.NON_SATURATING)) - 3.0969487) > 1e-2


def test_eager_takes_the_same_path():
    for way in (simultaneous, alternating):
        game = way(dirac(gamma=0.3))
        np.testing.assert_array_equal(path(game, 50, compiled=False), path(game, 50))


# The linear loss: paths in closed form


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("way", [simultaneous, alternating])
def test_the_linear_loss_goes_along_powers_of_a_matrix(gamma, way):
    """θ' = θ + hψ and ψ' = ψ − hθ − hγψ; the other's new value for the old in turns."""
    h = STEP
    step = np.array([[1, h], [-h, 1 - h * gamma]])
    if way is alternating:
        move_g, move_d = np.array([[1, h], [0, 1]]), np.array([[1, 0], [-h, 1 - h * gamma]])
        step = move_d @ move_g
    found = path(way(dirac(losses.WASSERSTEIN, gamma)), 30)
    expected = [np.linalg.matrix_power(step, n) @ found[0] for n in range(31)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_at_once_the_radius_grows_by_one_factor_and_in_turns_an_ellipse_is_kept():
    gan = dirac(losses.WASSERSTEIN)
    radius = np.hypot(*path(simultaneous(gan), 40).T)
    np.testing.assert_allclose(radius, np.sqrt(2) * (1 + STEP**2) ** (np.arange(41) / 2))
    theta, psi = path(alternating(gan), 200).T
    kept = theta**2 + psi**2 + STEP * theta * psi
    np.testing.assert_allclose(kept, kept[0], rtol=1e-12)


# Eigenvalues of the game's Jacobian at rest


def field(gan):
    """v(θ, ψ) = (−∂L_G/∂θ, −∂L_D/∂ψ), of Tensors."""

    def v(x):
        g, d = x
        real, z = np.zeros((1, 1)), np.zeros((1, 1))
        fake = gan.generator(g, z)
        loss, penalty = critic_loss(gan, d, real, fake)
        total = loss if penalty is None else ops.add(loss, penalty)
        down = grad(gan.loss.generator(gan.critic(d, fake)), g), grad(total, d)
        return tg.tree_map(ops.negative, down)

    return v


def by_jvp(gan):
    """The Jacobian of v at (0, 0), column by column."""
    x = ({"theta": np.zeros(1)}, {"psi": np.zeros(1)})
    columns = []
    for direction in ((1.0, 0.0), (0.0, 1.0)):
        along = ({"theta": np.array(direction[:1])}, {"psi": np.array(direction[1:])})
        _, (a, b) = jvp(field(gan), x, along)
        columns.append([a["theta"][0], b["psi"][0]])
    return np.array(columns).T


def by_steps(game):
    """The Jacobian at (0, 0) of what a game's players move along, by differences."""
    columns = []
    for axis in (0, 1):
        ends = []
        for side in (1e-5, -1e-5):
            place = np.zeros(2)
            place[axis] = side
            players = game.init(tg.Stream(0), np.float64)
            players = players._replace(generator={"theta": place[:1]}, critic={"psi": place[1:]})
            found = game.directions(players, (np.zeros((1, 1)), np.zeros((1, 1)), ()))
            ends.append([-found.generator["theta"][0], -found.critic["psi"][0]])
        columns.append((np.array(ends[0]) - ends[1]) / 2e-5)
    return np.array(columns).T


def eigenvalues(jacobian):
    """Those of a 2×2 matrix, the one with the larger imaginary part (or real part) first."""
    half = np.trace(jacobian) / 2
    root = np.sqrt(complex(half**2 - np.linalg.det(jacobian)))
    return np.array([half + root, half - root])


def pair_around(centre, square):
    root = np.sqrt(complex(square))
    return np.array([centre + root, centre - root])


@pytest.mark.parametrize("gamma, printed", [(0.0, 0.5j), (0.3, -0.15 + 0.47697j), (1.0, -0.5 + 0j)])
@pytest.mark.parametrize("loss", [losses.MINIMAX, losses.NON_SATURATING])
def test_eigenvalues_of_the_game(gamma, printed, loss):
    """−γ/2 ± √(γ²/4 − f′(0)²) with f′(0) = ½, for the saturating and the other loss alike."""
    gan = dirac(loss, gamma)
    found = eigenvalues(by_jvp(gan))
    np.testing.assert_allclose(found, pair_around(-gamma / 2, gamma**2 / 4 - 0.25), atol=1e-15)
    assert abs(found[0] - printed) < 5e-6
    np.testing.assert_allclose(by_steps(simultaneous(gan)), by_jvp(gan), atol=1e-10)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 10.0])
def test_eigenvalues_of_consensus(weight):
    """With v ≈ A·x, A = [[0, ½], [−½, 0]]: A − γAᵀA = A − γ/4, so −γ/4 ± ½i."""
    found = eigenvalues(by_steps(Consensus(dirac(), 1, weight)))
    np.testing.assert_allclose(found, pair_around(-weight / 4, -0.25), atol=1e-8)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 4.0])
def test_eigenvalues_of_nagarajan_and_kolter(weight):
    """‖∇_ψ L_D‖² ≈ θ²/4 pulls θ alone: [[−η/2, ½], [−½, 0]]."""
    found = eigenvalues(by_steps(NagarajanKolter(dirac(), 1, weight)))
    np.testing.assert_allclose(found, pair_around(-weight / 4, weight**2 / 16 - 0.25), atol=1e-8)


@pytest.mark.parametrize("unroll, rate", [(0, 0.5), (1, 0.5), (3, 0.5), (5, 0.2)])
def test_eigenvalues_of_unrolling(unroll, rate):
    """ψ_K ≈ ψ − K·r·θ/2, so θ descends −ψθ/2 + K·r·θ²/4: [[−K·r/2, ½], [−½, 0]]."""
    found = eigenvalues(by_steps(Unrolled(dirac(), 1, unroll, rate)))
    pull = unroll * rate
    np.testing.assert_allclose(found, pair_around(-pull / 4, pull**2 / 16 - 0.25), atol=1e-8)


@pytest.mark.parametrize(
    "way",
    [
        lambda gan: Consensus(gan, 1, 1.0),
        lambda gan: NagarajanKolter(gan, 1, 1.0),
        lambda gan: Unrolled(gan, 1, 5),
    ],
)
def test_what_diverges_at_once_converges_with_an_eye_on_what_follows(way):
    start, plain = np.sqrt(2), np.hypot(*path(simultaneous(dirac()), 500)[-1])
    assert plain > 2 * start
    assert np.hypot(*path(way(dirac()), 500)[-1]) < 1e-6


# Directions away from rest, in closed form


def directions(game, theta, psi):
    players = game.init(tg.Stream(0), np.float64)
    players = players._replace(generator={"theta": np.array([theta])})
    players = players._replace(critic={"psi": np.array([psi])})
    found = game.directions(players, (np.zeros((3, 1)), np.zeros((3, 1)), ()))
    return found.generator["theta"][0], found.critic["psi"][0]


def s(t):
    return 1 / (1 + np.exp(-t))


POINTS = [(1.0, -1.0), (0.3, 2.0), (-1.2, 0.7), (0.0, 0.4)]


@pytest.mark.parametrize("theta, psi", POINTS)
def test_consensus_descends_its_closed_form(theta, psi):
    """With s = σ(ψθ): v = (sψ, −sθ), so R = ½s²r², r² = θ² + ψ², and s′ = s(1 − s) gives

    ∂R/∂θ = s²(θ + (1 − s)ψr²), ∂R/∂ψ = s²(ψ + (1 − s)θr²).
    """
    weight, a, r2 = 0.7, s(psi * theta), theta**2 + psi**2
    expected = (
        -a * psi + weight * a**2 * (theta + (1 - a) * psi * r2),
        a * theta + weight * a**2 * (psi + (1 - a) * theta * r2),
    )
    found = directions(Consensus(dirac(), 3, weight), theta, psi)
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("theta, psi", POINTS)
def test_nagarajan_and_kolter_descend_their_closed_form(theta, psi):
    """‖∇_ψ L_D‖² = s²θ², whose slope in θ is 2s²θ(1 + (1 − s)ψθ)."""
    weight, a = 0.7, s(psi * theta)
    expected = (
        -a * psi + weight * 2 * a**2 * theta * (1 + (1 - a) * psi * theta),
        a * theta,
    )
    found = directions(NagarajanKolter(dirac(), 3, weight), theta, psi)
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("theta, psi", POINTS)
def test_one_unrolled_step_in_closed_form(theta, psi):
    """ψ₁ = ψ − r·s·θ; d/dθ of −softplus(ψ₁θ) is −σ(ψ₁θ)(ψ₁ + θ·dψ₁/dθ)."""
    rate, a = 0.7, s(psi * theta)
    psi1 = psi - rate * a * theta
    slope = -rate * (a + a * (1 - a) * psi * theta)
    expected = (-s(psi1 * theta) * (psi1 + theta * slope), a * theta)
    found = directions(Unrolled(dirac(), 3, 1, rate), theta, psi)
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)


# P3, appendix B: Fixed-Alt-GD on the linear game

X, Z = np.array([[1.0, -2.0, 0.5]]), np.array([[0.6, -0.8]])
RATE = 0.05


def linear_gan(theta_g, theta_d):
    return GAN(
        LinearGenerator(2, 3, Given(theta_g)), LinearCritic(3, Given(theta_d)), optim.SGD(RATE),
        optim.SGD(RATE), losses.WASSERSTEIN,
    )  # fmt: skip


START_G = ((0.1, 0.4, -0.2), (0.3, 0.2, 0.1))


def linear_path(critic_steps, iterations):
    """Players and history of Fixed-Alt-GD from an ε-optimal discriminator, ε = 1."""
    y = Z @ np.array(START_G)
    gap = X - y
    theta_d = (gap / (gap**2).sum()).T  # D(x) − D(y) = 1
    gan = linear_gan(START_G, tuple(map(tuple, theta_d)))
    game = Alternating(gan, 1, 2, critic_steps, prior=lambda stream, shape, dtype: Z.astype(dtype))
    met = []
    done = run(
        game, game.init(tg.Stream(0), np.float64), lambda n, stream: X, iterations, tg.Stream(1),
        watch=lambda step, players: met.append(players),
    )  # fmt: skip
    return met, done.history


def states(met):
    """x − y and θ_D of each moment."""
    gaps = [(X - Z @ players.generator["theta"])[0] for players in met]
    return np.array(gaps), np.array([players.critic["theta"][:, 0] for players in met])


def test_the_linear_games_gradients_are_the_papers():
    """∂L/∂θ_D = x − y for who maximises; ∂L/∂θ_G = −θ_D·zᵀ. Their norms stand in the history."""
    met, history = linear_path(1, 60)
    gaps, slopes = states(met)
    np.testing.assert_allclose(np.diff(slopes, axis=0), RATE * gaps[:-1], rtol=1e-9, atol=1e-12)
    moved = np.diff([players.generator["theta"] for players in met], axis=0)
    down = -slopes[1:, None, :] * Z.T  # θ_G's transpose: (latent, data)
    np.testing.assert_allclose(moved, -RATE * down, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        history.column("critic_gradient"), np.linalg.norm(gaps[:-1], axis=1), rtol=1e-12
    )
    np.testing.assert_allclose(
        history.column("generator_gradient"),
        np.linalg.norm(slopes[1:], axis=1) * np.linalg.norm(Z),
        rtol=1e-12,
    )


def test_a_discriminator_that_tells_epsilon_apart_is_as_steep_as_epsilon_over_the_distance():
    """‖θ_D‖ ≥ (D(x) − D(y))/‖x − y‖ at every moment; with equality at the start."""
    met, _ = linear_path(1, 60)
    gaps, slopes = states(met)
    told = (slopes * gaps).sum(1)
    bound = told / np.linalg.norm(gaps, axis=1)
    assert (np.linalg.norm(slopes, axis=1) >= bound - 1e-12).all()
    assert np.linalg.norm(slopes[0]) == pytest.approx(bound[0])


@pytest.mark.parametrize("critic_steps", [1, 3])
def test_fixed_alternation_cannot_keep_the_discriminator_optimal(critic_steps):
    """While x − y shrinks, D's gradient does, G's grows, and D(x) − D(y) falls below ε = 1."""
    met, history = linear_path(critic_steps, 200)
    gaps, slopes = states(met)
    distance = np.linalg.norm(gaps, axis=1)
    near = int(np.argmax(np.diff(distance) > 0))  # it shrinks until there, then overshoots
    assert 0 < near and distance[near] < 0.15 * distance[0]
    told = (slopes * gaps).sum(1)
    assert told[0] == pytest.approx(1) and told[near] < 0.5
    pull = history.column("generator_gradient")
    assert history.column("critic_gradient")[near] < 0.15 * distance[0] < pull[near]
    assert pull[near] > pull[0]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_the_steps_to_optimality_grow_as_the_square_of_the_distance_falls(share):
    """From θ_D = 0, n steps tell n·rate·‖x − y‖² apart: ε needs ε/(rate·‖x − y‖²) of them."""
    y = Z @ np.array(START_G)
    direction = Z / (Z**2).sum()
    theta = np.array(START_G) + direction.T @ ((1 - share) * (X - y))  # y moves towards x
    gan = linear_gan(tuple(map(tuple, theta)), ((0.0,), (0.0,), (0.0,)))
    players = gan.init(tg.Stream(0), np.float64)
    gap = (X - Z @ theta)[0]
    np.testing.assert_allclose(gap, share * (X - y)[0])
    epsilon, steps = 0.5, 0
    while gap @ players.critic["theta"][:, 0] < epsilon:
        players, _ = critic_step(gan, players, X, Z)
        steps += 1
    assert steps == np.ceil(epsilon / (RATE * gap @ gap))
