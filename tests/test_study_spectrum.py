"""Games as dynamical systems, against closed forms, differences of what training steps do, and
dense linear algebra."""

from functools import partial

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.optimize import linear_sum_assignment

import tinygan as tg
from tinygan import losses, models, nn, ops, optim, penalties
from tinygan import tree as trees
from tinygan.algorithms import Simultaneous, simultaneous_gradients
from tinygan.models import (
    DiracCritic,
    DiracGenerator,
    Given,
    LinearCritic,
    LinearGenerator,
    perceptron,
)
from tinygan.study.spectrum import (
    eigenvalues,
    extreme_eigenvalues,
    flow_stability,
    jacobian,
    linearized,
    map_stability,
    stability_of_flow,
    stability_of_map,
)
from tinygan.study.vector_field import (
    alternating_map,
    field_on_grid,
    flatten,
    flow_map,
    path,
    simultaneous_map,
    unflatten,
    vector_field,
)
from tinygan.train import GAN, Alternating, CriticBatch, GeneratorBatch, critic_loss

STEP = 0.2
ZERO = np.zeros((1, 1)), np.zeros((1, 1))
SGD = optim.SGD(STEP)


def dirac(loss=losses.MINIMAX, gamma=0.0, theta=0.0, psi=0.0, clip=None):
    """(game, point); γ is Mescheder's, our 2λ."""
    penalty = penalties.r1(gamma / 2) if gamma else None
    gan = GAN(DiracGenerator(theta), DiracCritic(psi), SGD, SGD, loss, penalty, clip=clip)
    return gan, gan.init(tg.Stream(0), np.float64)[:2]


def two_layers(penalty=None, loss=losses.NON_SATURATING, hidden=5, seed=0, rate=0.3, clip=None):
    """(game, its batch, a point): tanh networks, and two rates."""
    g, d = models.mlp_pair(2, 2, hidden, 1, activation=ops.tanh, bias_init=nn.fan_in_uniform)
    gan = GAN(g, d, optim.SGD(rate), optim.SGD(rate / 2), loss, penalty, clip=clip)
    streams = [tg.Stream(seed).child(i) for i in range(4)]
    real = streams[0].normal((7, 2), np.float64) * 0.5 + 1.0
    z = streams[1].normal((7, 2), np.float64)
    noise = penalty.draw(streams[2], real) if penalty else ()
    return gan, (real, z, noise), gan.init(streams[3], np.float64)[:2]


PENALTIES = {"none": None, "0-gp": penalties.zero_gp(0.7), "r1": penalties.r1(0.7)}


def by_differences(f, x, step=1e-3):
    """The Jacobian of a function of arrays, by five points along each axis."""
    columns, centre = [], flatten(x)
    for axis in np.eye(len(centre)):
        ends = [flatten(f(unflatten(centre + t * step * axis, x))) for t in (-2, -1, 1, 2)]
        columns.append((ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step))
    return np.stack(columns, 1)


def apart(found, expected):
    """The largest distance of two sets of complex numbers, matched."""
    distance = np.abs(np.asarray(found)[:, None] - np.asarray(expected)[None])
    return distance[linear_sum_assignment(distance)].max()


# Points in a row


def test_a_row_holds_the_generators_numbers_first_and_becomes_the_pair_again(stand_in):
    _, _, x = two_layers()
    row = flatten(x)
    np.testing.assert_array_equal(row[:10], x[0][0]["weight"].ravel())
    np.testing.assert_array_equal(row[-1:], x[1][1]["bias"])
    there = trees.tree_map(stand_in.asarray, x)
    back = unflatten(2 * flatten(there), there)
    assert all(type(a) is stand_in.ndarray for a in trees.leaves(back))
    np.testing.assert_array_equal(flatten(back), 2 * row)
    with pytest.raises(ValueError, match=r"a row of shape \(3,\) for parameters of 48 numbers"):
        unflatten(np.zeros(3), x)


# Where a game moves


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_the_field_is_what_both_sides_descend(penalty):
    gan, batch, x = two_layers(penalty)
    players = gan.init(tg.Stream(9), np.float64)._replace(generator=x[0], critic=x[1])
    found = simultaneous_gradients(gan, players, *batch)
    v = vector_field(gan, *batch)
    expected = -flatten((found.generator, found.critic))
    np.testing.assert_allclose(flatten(v(x)), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("critic_steps, generator_steps", [(1, 1), (2, 3)])
def test_the_alternating_map_is_an_iteration_of_training(first, critic_steps, generator_steps):
    gan, (real, z, noise), x = two_layers(penalties.zero_gp(0.7), clip=0.4)
    game = Alternating(gan, 7, 2, critic_steps, generator_steps, generator_first=first)
    players = gan.init(tg.Stream(9), np.float64)._replace(generator=x[0], critic=x[1])
    batch = [CriticBatch(real, z, noise)] * critic_steps, [GeneratorBatch(z)] * generator_steps
    after, _ = game.step(players, batch, 1.0)
    move = alternating_map(
        gan, real, z, noise, critic_steps=critic_steps, generator_steps=generator_steps,
        generator_first=first,
    )  # fmt: skip
    np.testing.assert_allclose(flatten(move(x)), flatten(after[:2]), rtol=1e-13, atol=1e-15)


def test_the_simultaneous_map_is_an_iteration_of_training():
    gan, batch, x = two_layers(penalties.zero_gp(0.7), clip=0.4)
    players = gan.init(tg.Stream(9), np.float64)._replace(generator=x[0], critic=x[1])
    after, _ = Simultaneous(gan, 7).step(players, batch, 1.0)
    found = flatten(simultaneous_map(gan, *batch)(x))
    np.testing.assert_allclose(found, flatten(after[:2]), rtol=1e-13, atol=1e-15)
    gan, batch, x = two_layers()
    found = flatten(simultaneous_map(gan, *batch, rate=0.1)(x))
    np.testing.assert_allclose(found, flatten(x) + 0.1 * flatten(vector_field(gan, *batch)(x)))


def test_the_field_of_dirac_on_a_grid_is_its_closed_form():
    gan, x = dirac(gamma=0.3)
    points, velocities = field_on_grid(vector_field(gan, *ZERO), x, 2.0, 5)
    theta, psi = points.T
    s = 1 / (1 + np.exp(-theta * psi))
    np.testing.assert_allclose(velocities, np.stack([s * psi, -s * theta - 0.3 * psi], 1))
    assert len(points) == 25 and points[0].tolist() == [-2, -2]


def test_the_flow_of_a_linear_field_is_the_matrix_exponential():
    gan, x = dirac(losses.WASSERSTEIN, 0.3, theta=1.0, psi=-1.0)
    v = vector_field(gan, *ZERO)
    matrix = np.array([[0, 1], [-1, -0.3]])
    rows = path(flow_map(v, 0.05), x, 40)
    expected = [expm(0.05 * k * matrix) @ rows[0] for k in range(41)]
    np.testing.assert_allclose(rows, expected, atol=2e-7)
    error = [np.abs(path(flow_map(v, t), x, 1)[1] - expm(t * matrix) @ rows[0]) for t in (0.2, 0.1)]
    assert 25 < error[0].max() / error[1].max() < 40  # order 4: 2⁵ in one step
    assert np.abs(jacobian(flow_map(v, 0.05), x) - expm(0.05 * matrix)).max() < 1e-8


# Exact Jacobians


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_the_jacobian_of_a_two_layer_game_is_that_of_differences(penalty):
    gan, batch, x = two_layers(penalty)
    players = gan.init(tg.Stream(9), np.float64)

    def down(point):  # knows nothing of gradients of gradients but the penalty's
        now = players._replace(generator=point[0], critic=point[1])
        found = simultaneous_gradients(gan, now, *batch)
        return trees.tree_map(np.negative, (found.generator, found.critic))

    found = jacobian(vector_field(gan, *batch), x)
    np.testing.assert_allclose(found, by_differences(down, x), atol=1e-9)
    _, product = tg.jvp(vector_field(gan, *batch), x, x)
    np.testing.assert_allclose(found @ flatten(x), flatten(product), atol=1e-13)


def test_the_blocks_of_the_jacobian_are_hessians():
    """−∂²L_D/∂φ² is symmetric and the engine's; in a zero-sum game the others are opposite."""
    gan, (real, z, _), x = two_layers(loss=losses.MINIMAX)
    n = flatten(x[0]).size
    found = jacobian(vector_field(gan, real, z), x)
    fake = gan.generator(x[0], z)
    u = tg.tree_map(np.cos, x[1])
    hessian = tg.hvp(lambda d: critic_loss(gan, d, real, fake)[0], x[1], u)
    np.testing.assert_allclose(found[n:, n:] @ flatten(u), -flatten(hessian), atol=1e-13)
    np.testing.assert_allclose(found[n:, n:], found[n:, n:].T, atol=1e-13)
    np.testing.assert_allclose(found[:n, n:], -found[n:, :n].T, atol=1e-13)


@pytest.mark.parametrize("first", [False, True])
def test_the_jacobian_of_the_alternating_map_goes_through_both_turns(first):
    """A turn's slope is that in its side's own parameters, though the other's depend on them."""
    gan, batch, x = two_layers(penalties.zero_gp(0.7), hidden=3)
    move = alternating_map(gan, *batch, critic_steps=2, generator_first=first)
    np.testing.assert_allclose(jacobian(move, x), by_differences(move, x), atol=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_the_maps_of_dirac_at_rest_in_closed_form(gamma):
    """f′(0) = ½: each side's turn is a matrix of its own, the map in turns their product."""
    gan, rest = dirac(gamma=gamma)
    move_g = np.array([[1, STEP / 2], [0, 1]])
    move_d = np.array([[1, 0], [-STEP / 2, 1 - STEP * gamma]])
    at_once = move_g + move_d - np.eye(2)
    for move, expected in [
        (simultaneous_map(gan, *ZERO), at_once),
        (alternating_map(gan, *ZERO), move_g @ move_d),
        (alternating_map(gan, *ZERO, generator_first=True), move_d @ move_g),
    ]:
        np.testing.assert_allclose(jacobian(move, rest), expected, atol=1e-15)
        radius = max(abs(np.roots([1, -np.trace(expected), np.linalg.det(expected)])))
        assert map_stability(move, rest).leading == pytest.approx(radius, abs=1e-7)


# Spectra


@pytest.mark.parametrize("gamma, printed", [(0.0, 0.5j), (0.3, -0.15 + 0.47697j), (1.0, -0.5)])
@pytest.mark.parametrize("loss", [losses.MINIMAX, losses.NON_SATURATING])
def test_the_eigenvalues_of_dirac_are_the_published_ones(gamma, printed, loss):
    gan, rest = dirac(loss, gamma)
    found = eigenvalues(vector_field(gan, *ZERO), rest)
    root = np.emath.sqrt(gamma**2 / 4 - 0.25)
    assert apart(found, [-gamma / 2 + root, -gamma / 2 - root]) < 1e-7
    assert abs(found[0] - printed) < 5e-6 and abs(found[1] - np.conj(printed)) < 5e-6


def test_the_linear_game_turns_about_its_rest_at_the_speed_of_its_mean_latent_point():
    """v is linear: ±i‖z̄‖ once for each number of the data, and zeros along what z̄ does not see."""
    z = np.array([[0.6, -0.8], [1.0, 0.4]])
    gan = GAN(
        LinearGenerator(2, 3, Given(((0.3, 1, 2), (1, 0, 1)))),
        LinearCritic(3, Given(((1,), (2,), (-1,)))), SGD, SGD, losses.WASSERSTEIN,
    )  # fmt: skip
    x = gan.init(tg.Stream(0), np.float64)[:2]
    found = flow_stability(vector_field(gan, np.ones((2, 3)), z), x)
    speed = np.linalg.norm(z.mean(0))
    assert apart(found.eigenvalues, [1j * speed] * 3 + [0] * 3 + [-1j * speed] * 3) < 1e-14
    assert (found.verdict, found.flat, found.rotation) == ("marginal", 3, np.inf)


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize(
    "which, key",
    [
        ("largest modulus", np.abs),
        ("largest real part", np.real),
        ("largest imaginary part", lambda e: np.abs(e.imag)),
    ],
)
def test_extreme_eigenvalues_are_those_of_the_dense_jacobian(penalty, which, key):
    gan, batch, x = two_layers(penalty, hidden=8)
    v = vector_field(gan, *batch)
    dense = np.linalg.eigvals(jacobian(v, x))
    found = extreme_eigenvalues(v, x, 4, which, stream=tg.Stream(3))
    expected = dense[np.argsort(-key(dense), kind="stable")[: len(found)]]
    assert len(found) in (4, 5) and apart(found, expected) < 1e-8
    everything = eigenvalues(v, x)
    assert apart(everything, dense) < 1e-12 and (np.diff(everything.real) < 1e-9).all()


# Verdicts


def test_verdicts_on_dirac():
    still = partial(flow_stability, vector_field(dirac()[0], *ZERO))
    assert still(dirac()[1]).verdict == "marginal"
    gan, rest = dirac(gamma=0.3)
    found = flow_stability(vector_field(gan, *ZERO), rest)
    assert (found.verdict, found.residual, found.flat) == ("stable", 0.0, 0)
    assert found.leading == pytest.approx(-0.15)
    assert found.rotation == pytest.approx(np.sqrt(0.25 - 0.0225) / 0.15)
    assert found.largest_step == pytest.approx(2 * 0.15 / 0.25)
    for rate, verdict in [(1.19, "stable"), (1.2, "marginal"), (1.21, "unstable")]:
        assert map_stability(simultaneous_map(gan, *ZERO, rate=rate), rest).verdict == verdict
    at_once = map_stability(simultaneous_map(dirac()[0], *ZERO), rest)
    in_turns = map_stability(alternating_map(dirac()[0], *ZERO), rest)
    assert (at_once.verdict, in_turns.verdict) == ("unstable", "marginal")
    assert at_once.leading == pytest.approx(np.sqrt(1 + STEP**2 / 4))


def test_a_game_in_which_both_pull_the_same_way_is_unstable():
    """Planted: G descends D's own loss, so θ̇ = −ψ/2 and ψ̇ = −θ/2, a saddle."""
    together = losses.Loss(losses.logistic_critic, lambda fake: ops.mean(ops.softplus(fake)))
    gan, rest = dirac(together)
    found = flow_stability(vector_field(gan, *ZERO), rest)
    assert apart(found.eigenvalues, [0.5, -0.5]) < 1e-14
    assert (found.verdict, found.largest_step) == ("unstable", 0.0)
    assert found.text == "unstable: the largest real part of 2 eigenvalues is 0.5"


def test_equilibria_on_a_manifold_are_counted_and_left_out_when_asked():
    """G makes the data themselves and D is 0: any first layer of D rests as well."""
    gan, (_, z, _), (g, d) = two_layers(penalties.r1(0.7), hidden=2)
    rest = g, [d[0], trees.tree_map(np.zeros_like, d[1])]
    v = vector_field(gan, gan.generator(g, z), z)
    plain, rests = (flow_stability(v, rest, manifold=m) for m in (False, True))
    assert plain.residual < 1e-15 and (plain.verdict, rests.verdict) == ("marginal", "stable")
    assert 6 <= rests.flat < len(rests.eigenvalues) == 12 + 9
    assert rests.text.startswith(
        f"stable: the largest real part of {21 - rests.flat} eigenvalues beside {rests.flat} at 0"
    )
    step = rests.largest_step
    for rate, verdict in [(0.99 * step, "stable"), (1.01 * step, "unstable")]:
        move = simultaneous_map(gan, gan.generator(g, z), z, rate=rate)
        found = map_stability(move, rest, manifold=True)
        assert (found.verdict, found.flat) == (verdict, rests.flat)


def test_a_point_that_does_not_rest_is_said_to():
    gan, _ = dirac(gamma=0.3)
    x = unflatten(np.array([1.0, -1.0]), dirac()[1])
    s = 1 / (1 + np.e)
    found = flow_stability(vector_field(gan, *ZERO), x)
    assert found.residual == pytest.approx(np.hypot(s, -s + 0.3))
    assert "But the point is no equilibrium: ‖v‖ = 0.271, expected at most 1e-06" in found.text
    found = map_stability(simultaneous_map(gan, *ZERO), x)
    assert found.residual == pytest.approx(STEP * np.hypot(s, -s + 0.3))
    assert "‖F(x) − x‖ = 0.0541, expected" in found.text


def test_verdicts_on_numbers():
    assert stability_of_flow([-1, 1e-9]).verdict == "marginal"  # within 1e-7 of the largest
    assert stability_of_flow([-1, 1e-9], manifold=True).verdict == "stable"
    assert stability_of_flow([-1, 1e-9], tolerance=1e-10).verdict == "unstable"
    assert stability_of_flow([-1, 3j, -3j], manifold=True).verdict == "marginal"
    nothing = stability_of_flow([0, 0], manifold=True)
    assert (nothing.verdict, nothing.flat, nothing.largest_step) == ("marginal", 2, 0.0)
    assert stability_of_map([0.5, -1.1]).verdict == "unstable"
    assert stability_of_map([0.5, 1.0]).verdict == "marginal"
    assert stability_of_map([0.5, 1.0], manifold=True).verdict == "stable"
    assert stability_of_map([0.5, -1.0], manifold=True).verdict == "marginal"
    assert "the linear part does not decide" in stability_of_map([0.5, -1.0]).text


# Paths


def test_paths_are_powers_of_the_map_and_say_where_numbers_end():
    gan, x = dirac(losses.WASSERSTEIN, theta=1.0, psi=-1.0)
    move = simultaneous_map(gan, *ZERO)
    rows = path(move, x, 20)
    matrix = jacobian(move, x)
    assert rows.shape == (21, 2) and rows[0].tolist() == [1, -1]
    np.testing.assert_allclose(rows[-1], np.linalg.matrix_power(matrix, 20) @ rows[0])
    with pytest.raises(ValueError, match="of 20 steps a number is not finite, and none before it"):
        path(simultaneous_map(gan, *ZERO, rate=1e40), x, 20)
    for steps in (0, 3):
        with pytest.raises(ValueError, match="1 of the 2 numbers of the start are not finite"):
            path(move, unflatten(np.array([1.0, np.nan]), x), steps)


# Bad input


def spectral():
    d = models.Net("D", (1,), {"linear": tg.spectral.SpectralNorm(nn.Linear(1, 1))})
    return GAN(DiracGenerator(), d, SGD, SGD)


ADAM = GAN(DiracGenerator(), DiracCritic(), optim.Adam(1e-3), SGD)
PUSHED = GAN(DiracGenerator(), DiracCritic(), SGD, optim.SGD(0.1, momentum=0.9))
NOISY = GAN(DiracGenerator(), perceptron((1, 2, 1), noise=nn.Dropout(0.5)), SGD, SGD)
PLAIN, REST = dirac()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: vector_field(NOISY, *ZERO), "vector_field: the critic draws noise"),
        (lambda: vector_field(spectral(), *ZERO), "the critic has spectral norms"),
        (lambda: simultaneous_map(ADAM, *ZERO), "SGD without momentum. Give a rate"),
        (lambda: alternating_map(PUSHED, *ZERO), "momentum=0.9.*expected SGD without momentum"),
        (lambda: simultaneous_map(PLAIN, *ZERO, rate=-1), "rate is -1; expected a number above 0"),
        (lambda: alternating_map(PLAIN, *ZERO, critic_steps=0), "critic_steps is 0; expected at"),
        (lambda: flow_map(None, 0), "time is 0; expected a number above 0"),
        (lambda: path(None, REST, -1), "steps is -1; expected 0 or more"),
        (lambda: vector_field(PLAIN, *ZERO)([1, 2, 3]), r"a list of 3; expected the pair \(θ, φ\)"),
        (lambda: vector_field(PLAIN, *ZERO)(PLAIN.init(tg.Stream(0))), r"players\[:2\]"),
        (lambda: field_on_grid(None, two_layers()[2], 1.0), "parameters of 48 numbers; expected"),
        (lambda: extreme_eigenvalues(None, REST, 1, stream=None), "1 eigenvalues of a game of 2"),
        (lambda: extreme_eigenvalues(None, REST, 1, "LR", stream=None), "which is 'LR'; expected"),
        (lambda: stability_of_flow([]), "no eigenvalues; expected those of a Jacobian"),
        (lambda: stability_of_map([np.nan]), "eigenvalues that are not finite"),
    ],
)
def test_bad_input_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_does_not_converge_is_said():
    """Two restarts of a basis of four find nothing."""
    gan, batch, x = two_layers(hidden=8)
    v = vector_field(gan, *batch)
    with pytest.raises(RuntimeError, match="of 2 eigenvalues of largest real part were found"):
        extreme_eigenvalues(v, x, 2, stream=tg.Stream(0), basis=4, restarts=2)


def test_what_arpack_gives_up_is_said(monkeypatch):
    import scipy.sparse.linalg as sparse

    def eigs(*_, **__):
        raise sparse.ArpackError(-9999)

    monkeypatch.setattr(sparse, "eigs", eigs)
    with pytest.raises(RuntimeError, match="Arnoldi's method with a basis of 10 of 10 cannot go"):
        extreme_eigenvalues(ops.tanh, np.ones(10), 2, stream=tg.Stream(0))


def test_eigenvalues_of_what_is_not_finite_or_not_square_are_refused():
    """As of players that have diverged, of a slope that is infinite, and of another function."""
    gan, x = dirac(gamma=0.3)
    few = partial(extreme_eigenvalues, count=1, stream=tg.Stream(0))
    for bad in (np.nan, np.inf):
        broken = unflatten(np.array([bad, 0.0]), x)
        says = "1 of the 2 numbers of the point are not finite; expected finite"
        with pytest.raises(ValueError, match=f"eigenvalues: {says}"):
            eigenvalues(vector_field(gan, *ZERO), broken)
        with pytest.raises(ValueError, match=f"flow_stability: {says}"):
            flow_stability(vector_field(gan, *ZERO), broken)
        with pytest.raises(ValueError, match=f"map_stability: {says}"):
            map_stability(simultaneous_map(gan, *ZERO), broken)
        with pytest.raises(ValueError, match="extreme_eigenvalues: 1 of the 4 numbers"):
            few(ops.tanh, np.array([1.0, bad, 0, 0]))
    root = np.array([0.0, 1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="eigenvalues: .* entries of the Jacobian are not finite"):
        eigenvalues(ops.sqrt, root)
    with pytest.raises(ValueError, match="extreme_eigenvalues: 1 of the 4 entries of the Jacobian"):
        few(ops.sqrt, root)
    for found in (eigenvalues, few):
        with pytest.raises(ValueError, match=r"f\(x\) has 2 numbers and x has 4; expected as many"):
            found(lambda x: ops.tanh(x[:2]), root)


def test_what_does_not_depend_on_the_point_has_slope_0():
    """A side that rests, and a game that does not move at all."""
    x = np.array([0.5, 2.0]), np.array([1.0, -1.0, 3.0])

    def half(pair):
        return ops.tanh(pair[0]), np.ones(3)

    slope = 1 - np.tanh(x[0]) ** 2
    np.testing.assert_allclose(jacobian(half, x), np.diag([*slope, 0, 0, 0]), rtol=1e-14)
    product = linearized(half, x)(np.arange(1.0, 6.0))
    np.testing.assert_allclose(product, [slope[0], 2 * slope[1], 0, 0, 0], rtol=1e-14)
    found = extreme_eigenvalues(half, x, 2, stream=tg.Stream(0))
    assert apart(found, slope) < 1e-12
    for still in (
        lambda pair: x,
        lambda pair: trees.tree_map(lambda a: ops.multiply(a, 0.0), pair),
    ):
        found = extreme_eigenvalues(still, x, 3, stream=tg.Stream(0))
        assert found.tolist() == [0, 0, 0] and found.dtype == complex
        assert eigenvalues(still, x).tolist() == [0] * 5


def test_linearized_answers_many_directions_from_one_tape():
    gan, batch, x = two_layers()
    calls = []
    v = vector_field(gan, *batch)
    product = linearized(lambda p: calls.append(1) or v(p), x)
    first, second = product(np.eye(48)[0]), product(np.eye(48)[5])
    both = product(np.eye(48)[0] - 2 * np.eye(48)[5])
    np.testing.assert_allclose(both, first - 2 * second, atol=1e-14)
    assert len(calls) == 1
    dense = jacobian(v, x)
    np.testing.assert_allclose(np.stack([first, second], 1), dense[:, [0, 5]], atol=1e-13)
