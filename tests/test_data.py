"""Toy sets against the formulas that define them, worked out here by hand."""

import dataclasses
import itertools
import math
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.mixins import NDArrayOperatorsMixin

from tinygan import data
from tinygan.backend import Stream, import_cupy


def draws(mixture, n, seed=0):
    """Samples in float64, and the mode each came from."""
    samples = mixture.sample(n, Stream(seed), np.float64)
    apart = np.linalg.norm(samples[:, None] - mixture.centres, axis=2)
    return samples, apart.argmin(axis=1)


def distinct(points):
    return len({tuple(np.round(point, 9) + 0.0) for point in points})


SETS = {
    "eight": data.eight_gaussians(),
    "eight, scale 10": data.eight_gaussians(10),
    "twenty-five": data.twenty_five_gaussians(),
    "ring": data.ring(),
    "grid": data.grid(),
}
EVERY = {**SETS, "roll": data.SwissRoll(), "gaussian": data.two_gaussians()[1]}


# --- centres, radius, deviation -------------------------------------------------------


@pytest.mark.parametrize(
    "name, modes, radius, deviation",
    [
        ("eight", 8, 2 / 1.414, 0.02 / 1.414),
        ("eight, scale 10", 8, 10 / 1.414, 0.02 / 1.414),
        ("twenty-five", 25, 4 * math.sqrt(2) / 2.828, 0.05 / 2.828),
        ("ring", 8, 1, 0.01),
        ("grid", 25, 4 * math.sqrt(2), 0.05),
    ],
)
def test_published_sizes(name, modes, radius, deviation):
    mixture = SETS[name]
    assert mixture.centres.shape == (modes, 2)
    assert distinct(mixture.centres) == modes
    assert mixture.radius == pytest.approx(radius, rel=1e-14)
    assert mixture.deviation == pytest.approx(deviation, rel=1e-14)
    np.testing.assert_allclose(mixture.centres.mean(axis=0), 0, atol=1e-14)


def test_eight_centres_are_the_compass():
    s = math.sqrt(0.5)
    compass = [(1, 0), (s, s), (0, 1), (-s, s), (-1, 0), (-s, -s), (0, -1), (s, -s)]
    np.testing.assert_allclose(data.ring().centres, compass, atol=1e-15)
    np.testing.assert_allclose(
        data.eight_gaussians(10).centres, 10 / 1.414 * np.array(compass), atol=1e-14
    )


def test_grid_centres_are_all_pairs():
    expected = set(itertools.product([-4, -2, 0, 2, 4], repeat=2))
    assert {tuple(c) for c in data.grid().centres} == expected
    in_units = data.twenty_five_gaussians(3).centres * 2.828 / 3
    assert {tuple(c) for c in np.round(in_units, 12) + 0.0} == expected
    assert {tuple(c) for c in data.grid(side=2, spacing=6).centres} == {
        (-3, -3), (-3, 3), (3, -3), (3, 3)
    }  # fmt: skip


def test_noise_of_the_eight_is_not_scaled_but_of_the_twenty_five_is():
    assert data.eight_gaussians(10).deviation == data.eight_gaussians(1).deviation
    wide, narrow = data.twenty_five_gaussians(10), data.twenty_five_gaussians(1)
    assert wide.deviation == pytest.approx(10 * narrow.deviation)


def test_neighbours_of_the_0gp_papers_ring_are_383_deviations_apart():
    mixture = data.eight_gaussians(10)
    apart = np.linalg.norm(mixture.centres[0] - mixture.centres[1]) / mixture.deviation
    assert round(apart) == 383


def test_seven_mode_eight_mode_ring():
    """linspace's endpoint puts the last mode on the first: seven modes, one with double mass."""
    ours = data.ring(modes=8)
    angle = np.linspace(0, 2 * np.pi, 8)
    mistaken = data.Mixture(np.stack([np.cos(angle), np.sin(angle)], axis=1), 0.01)
    assert distinct(ours.centres) == 8
    assert distinct(mistaken.centres) == 7

    n = 20_000
    shares = {}
    for name, mixture in [("ours", ours), ("mistaken", mistaken)]:
        samples = mixture.sample(n, Stream(0), np.float64)
        first = np.linalg.norm(samples - [1, 0], axis=1) < 0.1
        shares[name] = first.mean()
    # Measured: .1241 against .2540; the error is one mode's whole share.
    assert abs(shares["ours"] - 1 / 8) < 4 * math.sqrt(1 / 8 * 7 / 8 / n)
    assert abs(shares["mistaken"] - 2 / 8) < 4 * math.sqrt(1 / 4 * 3 / 4 / n)


# --- samples --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_samples_have_the_stated_noise_and_even_modes(name):
    mixture, n = SETS[name], 50_000
    samples, mode = draws(mixture, n)
    noise = (samples - mixture.centres[mode]) / mixture.deviation
    # A mean of n squares of standard normals has variance 2/n.
    np.testing.assert_allclose(np.mean(noise**2, axis=0), 1, atol=4 * math.sqrt(2 / n))
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=4 / math.sqrt(n))
    assert abs(np.mean(noise[:, 0] * noise[:, 1])) < 4 / math.sqrt(n)
    modes = len(mixture.centres)
    counts = np.bincount(mode, minlength=modes)
    chi2 = np.sum((counts - n / modes) ** 2) / (n / modes)
    assert chi2 < modes - 1 + 4 * math.sqrt(2 * (modes - 1))
    # The noise knows nothing of the mode: its sign is even in each.
    assert abs(np.corrcoef(mode, noise[:, 0])[0, 1]) < 4 / math.sqrt(n)


def test_mixture_sample_is_the_stated_formula():
    mixture = data.ring(modes=5, radius=3, deviation=0.5)
    stream = Stream(11)
    noise = stream.normal((6, 2), np.float64)
    mode = stream.integers(6, 5)
    expected = [
        (3 * math.cos(2 * math.pi * k / 5) + 0.5 * e, 3 * math.sin(2 * math.pi * k / 5) + 0.5 * f)
        for k, (e, f) in zip(mode, noise, strict=True)
    ]
    np.testing.assert_allclose(mixture.sample(6, Stream(11), np.float64), expected, rtol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_swiss_roll_lies_on_its_spiral(scale):
    n = 20_000
    roll = data.SwissRoll(scale)
    samples = roll.sample(n, Stream(5), np.float64)
    stream = Stream(5)
    noise = stream.normal((n, 2), np.float64)
    u = stream.uniform(n, np.float64)
    x, y = (samples * 7.5 / scale - 0.25 * noise).T
    t = np.hypot(x, y)
    np.testing.assert_allclose(t, 1.5 * math.pi * (1 + 2 * u), rtol=1e-12)
    # Polar angle equals arc parameter, modulo a turn.
    np.testing.assert_allclose(np.cos(np.arctan2(y, x) - t), 1, atol=1e-12)
    assert t.min() >= 1.5 * math.pi
    assert t.max() < 4.5 * math.pi
    # Mean of ‖x‖²: scale²/56.25 · (mean t² + 2·.0625), t uniform from a to 3a, a = 1.5π.
    a = 1.5 * math.pi
    expected = scale**2 / 56.25 * (26 * a**2 / 6 + 0.125)
    assert np.mean(samples**2) * 2 == pytest.approx(expected, rel=0.02)


def test_swiss_roll_radius():
    assert data.SwissRoll().radius == pytest.approx(1.8849555921538759, rel=1e-15)
    assert data.SwissRoll(10).radius == pytest.approx(18.849555921538759, rel=1e-15)


@pytest.mark.parametrize("index", [0, 1])
def test_gaussian_samples_have_mean_and_covariance(index):
    mean = [(0.4, 0.9), (1.3, 1.2)][index]
    q = [0.5, 0.7][index]
    n = 100_000
    samples = data.two_gaussians()[index].sample(n, Stream(index), np.float64)
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=4 / math.sqrt(n))
    covariance = np.cov(samples.T)
    bound = 4 * math.sqrt(2 / n)
    np.testing.assert_allclose(covariance, [[1, q], [q, 1]], atol=bound)


def test_gaussian_sample_is_the_stated_formula():
    """Σ = LLᵀ with L = ((2, 0), (3, 1)), read off by hand."""
    gaussian = data.Gaussian([5, -1], [[4, 6], [6, 10]])
    e = Stream(1).normal((4, 2), np.float64)
    expected = np.stack([5 + 2 * e[:, 0], -1 + 3 * e[:, 0] + e[:, 1]], axis=1)
    np.testing.assert_allclose(gaussian.sample(4, Stream(1), np.float64), expected, rtol=1e-13)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_state_same_bits(name, dtype):
    stream = Stream(1)
    stream.bits(9)
    state = stream.state
    first = EVERY[name].sample(33, stream, dtype)
    assert first.dtype == dtype
    assert first.shape == (33, 2)
    assert np.array_equal(first, EVERY[name].sample(33, Stream(*state), dtype))
    second = EVERY[name].sample(33, stream, dtype)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", EVERY)
def test_float32_is_the_default(name):
    assert EVERY[name].sample(1, Stream(0)).dtype == np.float32


# --- densities ------------------------------------------------------------------------


def box(low, high, count):
    """A count×count grid of points over [low, high]², and the area of its cells."""
    line = np.linspace(low, high, count)
    points = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    return points, (line[1] - line[0]) ** 2


@pytest.mark.parametrize(
    "distribution, low, high",
    [
        (data.ring(deviation=0.1), -2, 2),
        (data.grid(deviation=0.3), -7, 7),
        (data.twenty_five_gaussians(20), -36, 36),
        (data.two_gaussians()[0], -9, 10),
        (data.Gaussian([1, -2], [[0.5, -0.6], [-0.6, 2]]), -14, 12),
    ],
    ids=["ring", "grid", "twenty-five", "real", "tilted"],
)
def test_densities_integrate_to_one(distribution, low, high):
    # For a smooth function that vanishes at the border the rectangle rule is exact to rounding.
    points, area = box(low, high, 401)
    assert distribution.density(points).sum() * area == pytest.approx(1, abs=1e-9)


def test_mixture_density_by_hand():
    mixture = data.Mixture([[0, 0], [3, 4]], 2.0)
    expected = (1 + math.exp(-25 / 8)) / 2 / (8 * math.pi)
    np.testing.assert_allclose(mixture.density([[0, 0], [3, 4]]), [expected] * 2, rtol=1e-14)
    middle = math.exp(-6.25 / 8) / (8 * math.pi)
    np.testing.assert_allclose(mixture.density([[1.5, 2.0]]), [middle], rtol=1e-14)


def test_gaussian_density_by_hand():
    """Σ = ((4, 6), (6, 10)) has determinant 4 and inverse ((2.5, −1.5), (−1.5, 1))."""
    gaussian = data.Gaussian([5, -1], [[4, 6], [6, 10]])
    dx, dy = 1.0, 2.0
    square = 2.5 * dx * dx - 3 * dx * dy + dy * dy
    expected = math.exp(-square / 2) / (2 * math.pi * 2)
    np.testing.assert_allclose(gaussian.density([[6, 1]]), [expected], rtol=1e-13)


def test_log_density_holds_where_the_density_is_zero():
    mixture = data.eight_gaussians(10)
    sigma = mixture.deviation
    assert mixture.density([[0, 0]])[0] == 0
    expected = -((10 / 0.02) ** 2) / 2 - math.log(2 * math.pi * sigma**2)
    np.testing.assert_allclose(mixture.log_density([[0, 0]]), [expected], rtol=1e-12)
    gaussian = data.Gaussian([0, 0], [[1, 0], [0, 1]])
    expected = -5000 - math.log(2 * math.pi)
    np.testing.assert_allclose(gaussian.log_density([[100, 0]]), [expected], rtol=1e-14)


@given(
    shift=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    point=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
)
@settings(deadline=None)
def test_density_moves_with_its_centres(shift, point):
    centres = np.array([[0.0, 0], [1, 2], [-3, 1]])
    here = data.Mixture(centres, 0.7).log_density([point])
    there = data.Mixture(centres + shift, 0.7).log_density([np.add(point, shift)])
    np.testing.assert_allclose(here, there, rtol=1e-9, atol=1e-9)


# --- golden numbers: the two Gaussians of figure 1 of the 0-GP paper --------------------


def ideal(points):
    """D* = p_r/(p_r + p_f)."""
    real, fake = data.two_gaussians()
    r, f = real.density(points), fake.density(points)
    return r / (r + f)


def test_optimal_discriminator_of_figure_1():
    points = [[0.4, 0.9], [1.3, 1.2], [0, 0]]
    golden = [0.5790643075, 0.3514136245, 0.5812612449]
    np.testing.assert_allclose(ideal(points), golden, atol=5e-11)


def test_divergences_of_figure_1():
    real, fake = data.two_gaussians()
    points, area = box(-12, 14, 521)
    log_r, log_f = real.log_density(points), fake.log_density(points)
    r, f = np.exp(log_r), np.exp(log_f)
    log_m = np.logaddexp(log_r, log_f) - math.log(2)
    jsd = (np.sum(r * (log_r - log_m)) + np.sum(f * (log_f - log_m))) / 2 * area
    assert jsd == pytest.approx(0.1131058392, abs=5e-11)
    assert np.sum(r * (log_r - log_f)) * area == pytest.approx(0.5934432694, abs=5e-11)
    assert np.sum(f * (log_f - log_r)) * area == pytest.approx(0.4794979071, abs=5e-11)
    assert 2 * jsd - 2 * math.log(2) == pytest.approx(-1.1600826828, abs=1e-10)


def test_optimal_surface_of_figure_1():
    points, _ = box(-2.5, 4.5, 100)
    surface = ideal(points)
    assert surface.min() == pytest.approx(0.01838021, abs=5e-9)
    assert surface.mean() == pytest.approx(0.67196975, abs=5e-9)
    by_differences = np.hypot(*np.gradient(surface.reshape(100, 100), 7 / 99))
    assert by_differences.max() == pytest.approx(0.7489, abs=5e-5)
    # ∇D* = D*(1 − D*)·∇(log p_r − log p_f)
    real, fake = data.two_gaussians()
    pull = np.linalg.solve(fake.covariance, (points - fake.mean).T)
    pull -= np.linalg.solve(real.covariance, (points - real.mean).T)
    slope = surface * (1 - surface) * np.hypot(*pull)
    assert slope.max() == pytest.approx(0.7523, abs=5e-5)


# --- frozen, and errors ---------------------------------------------------------------


def test_sets_cannot_be_changed():
    centres = np.array([[0.0, 1.0]])
    mixture = data.Mixture(centres, 1)
    centres[:] = 7
    assert mixture.centres.tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="read-only"):
        mixture.centres[0, 0] = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        mixture.deviation = 2.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.SwissRoll().scale = 2.0
    with pytest.raises(ValueError, match="read-only"):
        data.two_gaussians()[0].covariance[0, 0] = 5


@pytest.mark.parametrize("bad", [0, -1, -0.5, math.nan, math.inf])
def test_sizes_must_be_positive_and_finite(bad):
    for make, name in [
        (lambda: data.eight_gaussians(bad), "scale"),
        (lambda: data.twenty_five_gaussians(scale=bad), "scale"),
        (lambda: data.SwissRoll(bad), "scale"),
        (lambda: data.ring(radius=bad), "radius"),
        (lambda: data.ring(deviation=bad), "deviation"),
        (lambda: data.grid(spacing=bad), "spacing"),
        (lambda: data.grid(deviation=bad), "deviation"),
        (lambda: data.Mixture([[0, 0]], bad), "deviation"),
    ]:
        with pytest.raises(ValueError, match=f"{name} is {bad!r}; expected a positive, finite"):
            make()


@pytest.mark.parametrize("bad", [0, -3])
def test_counts_must_be_positive(bad):
    for make, name in [
        (lambda: data.ring(modes=bad), "modes"),
        (lambda: data.grid(side=bad), "side"),
        (lambda: data.ring().sample(bad, Stream(0)), "n"),
        (lambda: data.SwissRoll().sample(bad, Stream(0)), "n"),
        (lambda: data.two_gaussians()[0].sample(bad, Stream(0)), "n"),
    ]:
        with pytest.raises(ValueError, match=f"{name} is {bad}; expected a whole number above 0"):
            make()


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: data.ring(modes=8.0), TypeError, r"ring: modes is 8\.0; expected a whole number"),
        (lambda: data.ring(radius="1"), TypeError, "ring: radius is '1'"),
        (lambda: data.SwissRoll(None), TypeError, "SwissRoll: scale is None"),
        (lambda: data.Mixture([0, 0], 1), ValueError, r"int64 array of shape \(2,\)"),
        (lambda: data.Mixture([[0, 0, 0]], 1), ValueError, r"shape \(1, 3\)"),
        (lambda: data.Mixture(np.zeros((0, 2)), 1), ValueError, "centres is empty"),
        (lambda: data.Mixture([[0, math.nan]], 1), ValueError, "centres holds NaN"),
        (lambda: data.Mixture([["a", "b"]], 1), ValueError, "expected real numbers"),
        (lambda: data.Mixture([[1j, 0]], 1), ValueError, "complex128"),
        (lambda: data.ring().density([1.0, 2.0]), ValueError, r"points is a float64 .*\(2,\)"),
        (lambda: data.ring().density([[1.0, math.inf]]), ValueError, "NaN or infinity"),
        (lambda: data.two_gaussians()[0].density([[1.0]]), ValueError, r"shape \(1, 1\)"),
        (lambda: data.Gaussian([0], np.eye(2)), ValueError, r"mean has shape \(1,\)"),
        (lambda: data.Gaussian([0, math.inf], np.eye(2)), ValueError, "mean holds NaN"),
        (lambda: data.Gaussian([0, 0], np.ones((3, 2))), ValueError, r"covariance .*\(3, 2\)"),
        (lambda: data.Gaussian([0, 0], np.eye(3)), ValueError, r"covariance .*\(3, 3\)"),
        (lambda: data.Gaussian([0, 0], [[1, 0], [1, 1]]), ValueError, "expected a symmetric"),
        (lambda: data.Gaussian([0, 0], [[1, 1], [1, 1]]), ValueError, "positive definite"),
        (lambda: data.Gaussian([0, 0], [[-1, 0], [0, -1]]), ValueError, "positive definite"),
        (lambda: data.ring().sample(2.5, Stream(0)), TypeError, r"Mixture.sample: n is 2\.5"),
        (
            lambda: data.ring().sample(5, np.random.default_rng(0)),
            TypeError,
            r"stream is a Generator; expected .* tinygan\.backend\.Stream\(0\)",
        ),
        (lambda: data.SwissRoll().sample(5, 0), TypeError, "stream is a int"),
    ],
)
def test_errors_name_what_was_given(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", EVERY)
def test_a_refused_sample_does_not_move_the_stream(name):
    stream = Stream(4)
    with pytest.raises(ValueError, match="n is 0"):
        EVERY[name].sample(0, stream)
    with pytest.raises(TypeError, match="float16"):
        EVERY[name].sample(5, stream, np.float16)
    assert stream.state == (4, 0)


# --- another device --------------------------------------------------------------------


class Elsewhere(NDArrayOperatorsMixin):
    """An array that, like CuPy's, refuses to be mixed with NumPy's."""

    __module__ = "cupy"

    def __init__(self, array):
        self.array = np.asarray(array)

    def get(self):
        return self.array

    def __getitem__(self, key):
        return Elsewhere(self.array[self._inner(key)])

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return Elsewhere(getattr(ufunc, method)(*map(self._inner, inputs), **kwargs))

    def __array_function__(self, function, types, args, kwargs):
        arrays = [self._inner(a) for a in args[0]]
        return Elsewhere(function(arrays, *args[1:], **kwargs))

    @staticmethod
    def _inner(value):
        if isinstance(value, np.ndarray):
            raise TypeError("a NumPy array met a GPU array")
        return value.array if isinstance(value, Elsewhere) else value


@pytest.fixture
def gpu(monkeypatch):
    """A stand-in for CuPy, with a GPU behind it, on any machine."""
    cupy = types.ModuleType("cupy")
    cupy.asarray = Elsewhere
    cupy.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=lambda: 1))
    monkeypatch.setitem(sys.modules, "cupy", cupy)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_are_made_on_the_streams_device(stand_in, name, dtype):
    there = EVERY[name].sample(20, Stream(2, device="gpu"), dtype)
    here = EVERY[name].sample(20, Stream(2), dtype)
    found = stand_in.get(there)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, here, rtol=20 * np.finfo(dtype).eps)  # normals differ by ulps


def test_densities_take_points_from_any_device(gpu):
    points = np.array([[1.0, 0.0], [0.5, 0.5]])
    for distribution in (data.ring(deviation=0.5), data.two_gaussians()[0]):
        there = distribution.density(Elsewhere(points))
        assert np.array_equal(there, distribution.density(points))


def test_the_stand_in_refuses_to_be_mixed(gpu):
    with pytest.raises(TypeError, match="met a GPU array"):
        Elsewhere(np.zeros(3)) + np.zeros(3)


def test_samples_on_a_real_gpu():
    try:
        cupy = import_cupy()
    except RuntimeError as error:
        pytest.skip(str(error))
    for name, distribution in EVERY.items():
        there = distribution.sample(1000, Stream(2, device="gpu"))
        assert isinstance(there, cupy.ndarray)
        assert there.dtype == np.float32
        here = distribution.sample(1000, Stream(2))
        # The GPU rounds sines and cosines in its own way, and nothing else.
        atol = 1e-5 if name == "roll" else 0
        np.testing.assert_allclose(there.get(), here, rtol=0, atol=atol)
