"""Metrics against values worked out by hand, by brute force, or known in closed form."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tinygan
from tinygan import data, metrics
from tinygan.backend import Stream

UNIT = data.ring(modes=4, radius=1.0, deviation=0.1)  # east, north, west, south


def clouds(count, points, dimension):
    """``count`` samples of one shape, coordinates on a fine grid so that sums are well scaled."""
    coordinate = st.integers(-1000, 1000).map(lambda k: k / 100)
    one = arrays(np.float64, (points, dimension), elements=coordinate)
    return st.tuples(*[one] * count)


# --- mode coverage --------------------------------------------------------------------


def test_coverage_by_hand():
    samples = np.array(
        [
            [1.0, 0.0],  # east
            [1.2, 0.0],  # east, at 2σ
            [0.0, 1.29],  # north, at 2.9σ
            [-1.31, 0.0],  # west, at 3.1σ: too far
            [0.0, 0.0],  # nowhere
        ]
    )
    result = metrics.mode_coverage(samples, UNIT)
    assert result.counts.tolist() == [2, 1, 0, 0]
    assert result.modes == 2
    assert result.modes20 == 0
    assert result.high_quality == 3 / 5
    # Shares 2/3 and 1/3 against 1/4 each.
    expected = 2 / 3 * math.log(8 / 3) + 1 / 3 * math.log(4 / 3)
    assert result.reverse_kl == pytest.approx(expected, rel=1e-14)


def test_coverage_within_a_distance():
    samples = np.array([[1.0, 0.25], [0.0, 1.45], [-1.55, 0.0]])
    assert metrics.mode_coverage(samples, UNIT).counts.tolist() == [1, 0, 0, 0]
    assert metrics.mode_coverage(samples, UNIT, within=0.5).counts.tolist() == [1, 1, 0, 0]
    assert metrics.mode_coverage(samples, UNIT, within=0.6).counts.tolist() == [1, 1, 1, 0]
    exact = np.array([[1.5, 0.0]])
    assert metrics.mode_coverage(exact, UNIT, within=0.5).modes == 1  # the edge counts


def test_a_wide_radius_still_gives_each_sample_to_its_nearest_mode_only():
    samples = np.array([[0.3, 0.1], [0.1, 0.3], [0.1, 0.4]])
    result = metrics.mode_coverage(samples, UNIT, within=10.0)
    assert result.counts.tolist() == [1, 2, 0, 0]
    assert result.high_quality == 1


def test_coverage_thresholds():
    east, north = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    samples = np.concatenate([east.repeat(20, axis=0), north.repeat(19, axis=0)])
    result = metrics.mode_coverage(samples, UNIT)
    assert (result.modes, result.modes20) == (2, 1)


def test_reverse_kl_at_its_ends():
    one = np.array([[1.0, 0.0]] * 7)
    assert metrics.mode_coverage(one, UNIT).reverse_kl == pytest.approx(math.log(4))
    assert metrics.mode_coverage(UNIT.centres, UNIT).reverse_kl == 0
    nothing = metrics.mode_coverage(np.zeros((7, 2)), UNIT)
    assert nothing.reverse_kl == math.inf
    assert (nothing.modes, nothing.modes20, nothing.high_quality) == (0, 0, 0.0)


@pytest.mark.parametrize(
    "mixture", [data.eight_gaussians(), data.twenty_five_gaussians()], ids=["ring", "grid"]
)
def test_the_mixture_itself_keeps_98_9_percent_within_3_deviations(mixture):
    n = 50_000
    samples = mixture.sample(n, Stream(1))
    result = metrics.mode_coverage(samples, mixture)
    expected = 1 - math.exp(-9 / 2)
    assert abs(result.high_quality - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    modes = len(mixture.centres)
    assert result.modes == result.modes20 == modes
    # n·KL of an even histogram is half of a chi-square with K−1 degrees of freedom.
    assert result.reverse_kl < (modes - 1 + 4 * math.sqrt(2 * (modes - 1))) / (2 * n)
    assert result.reverse_kl > 0


def test_the_published_protocol_at_scale_10():
    """Noise of 1% of the radius is far beyond 3σ, and well within 5% of the radius."""
    mixture = data.eight_gaussians(10)
    blurred = data.Mixture(mixture.centres, 0.01 * mixture.radius)
    samples = blurred.sample(2500, Stream(0))
    strict = metrics.mode_coverage(samples, mixture)
    # Within 3σ = .6σ' of the blur: 1 − exp(−.18).
    expected = 1 - math.exp(-0.18)
    assert abs(strict.high_quality - expected) < 4 * math.sqrt(expected * (1 - expected) / 2500)
    wide = metrics.mode_coverage(samples, mixture, within=0.05 * mixture.radius)
    assert wide.high_quality > 0.999
    assert wide.modes20 == 8


def test_coverage_of_the_seven_mode_ring():
    """Judged by the true ring, the one whose last mode lies on its first covers a single mode."""
    angle = np.linspace(0, 2 * np.pi, 8)
    mistaken = data.Mixture(np.stack([np.cos(angle), np.sin(angle)], axis=1), 0.01)
    result = metrics.mode_coverage(mistaken.sample(2500, Stream(0)), data.ring())
    assert result.modes == 1  # its seven centres are 2π/7 apart: only the first agrees
    assert result.counts[0] > 0
    assert abs(result.high_quality - 2 / 8 * (1 - math.exp(-4.5))) < 4 * math.sqrt(0.19 / 2500)


# --- Wasserstein ----------------------------------------------------------------------


def test_wasserstein1_by_hand():
    # Taking the nearest pair first, 1 and .6, leaves 0 and 3 to pay for: 1.7 and not 1.3.
    x = np.array([[0.0, 0.0], [1.0, 0.0]])
    y = np.array([[0.6, 0.0], [3.0, 0.0]])
    assert metrics.wasserstein1(x, y) == pytest.approx(1.3, rel=1e-15)
    x = np.array([[0.0, 0.0], [0.0, 3.0]])
    y = np.array([[0.0, 0.0], [4.0, 0.0]])
    assert metrics.wasserstein1(x, y) == pytest.approx(5 / 2, rel=1e-15)


@given(clouds(2, points=5, dimension=3))
@settings(deadline=None, max_examples=40)
def test_wasserstein1_is_the_best_of_all_permutations(pair):
    x, y = pair
    best = min(
        sum(math.dist(a, y[j]) for a, j in zip(x, order, strict=True)) / 5
        for order in itertools.permutations(range(5))
    )
    assert metrics.wasserstein1(x, y) == pytest.approx(best, rel=1e-12, abs=1e-12)


def test_wasserstein1_of_a_shift_is_its_length():
    x = Stream(0).normal((300, 2), np.float64)
    assert metrics.wasserstein1(x, x + [3, -4]) == pytest.approx(5, rel=1e-12)
    shuffled = (x + [3, -4])[Stream(1).permutation(300)]
    assert metrics.wasserstein1(x, shuffled) == pytest.approx(5, rel=1e-12)


def test_wasserstein1_between_parallel_lines_is_their_distance():
    height = Stream(2).uniform(200, np.float64)
    x = np.stack([np.zeros(200), height], axis=1)
    y = np.stack([np.full(200, 2.0), height[::-1]], axis=1)
    assert metrics.wasserstein1(x, y) == pytest.approx(2, rel=1e-12)


@given(clouds(3, points=6, dimension=2))
@settings(deadline=None)
def test_wasserstein1_is_a_metric(three):
    x, y, z = three
    xy, yz, xz = (metrics.wasserstein1(*pair) for pair in [(x, y), (y, z), (x, z)])
    assert xy >= 0
    assert metrics.wasserstein1(y, x) == pytest.approx(xy, rel=1e-12)
    assert metrics.wasserstein1(x, x[::-1]) == 0
    assert xz <= xy + yz + 1e-9
    # Never below the distance of the means (Jensen), nor sliced above whole.
    assert xy >= np.linalg.norm(x.mean(axis=0) - y.mean(axis=0)) - 1e-9
    assert metrics.sliced_wasserstein1(x, y, Stream(0), projections=9) <= xy + 1e-9


def test_sliced_wasserstein1_is_exact_on_a_line():
    x = np.array([[0.0], [5.0], [1.0]])
    y = np.array([[2.0], [0.0], [9.0]])  # sorted pairs (0, 0), (1, 2), (5, 9)
    assert metrics.sliced_wasserstein1(x, y, Stream(0)) == pytest.approx(5 / 3, rel=1e-12)
    assert metrics.wasserstein1(x, y) == pytest.approx(5 / 3, rel=1e-12)


@pytest.mark.parametrize("dimension, mean, square", [(2, 2 / math.pi, 1 / 2), (3, 1 / 2, 1 / 3)])
def test_sliced_wasserstein1_of_a_shift(dimension, mean, square):
    """Along u a shift by s is |s·u|, whose mean is 2‖s‖/π in the plane and ‖s‖/2 in space."""
    count = 20_000
    x = np.zeros((1, dimension))
    y = np.full((1, dimension), 5 / math.sqrt(dimension))
    error = 5 * math.sqrt((square - mean**2) / count)
    got = metrics.sliced_wasserstein1(x, y, Stream(1), projections=count)
    assert abs(got - 5 * mean) < 4 * error


def test_sliced_wasserstein1_directions_come_from_the_stream():
    x, y = Stream(0).normal((2, 50, 2), np.float64)
    y = y * 3
    directions = Stream(7).normal((4, 2), np.float64)
    directions = directions / np.hypot(directions[:, :1], directions[:, 1:])
    along = [
        np.mean(np.abs(np.array(sorted(p * c + q * s for p, q in x))
                       - np.array(sorted(p * c + q * s for p, q in y))))
        for c, s in directions
    ]  # fmt: skip
    stream = Stream(7)
    got = metrics.sliced_wasserstein1(x, y, stream, projections=4)
    assert got == pytest.approx(np.mean(along), rel=1e-12)
    assert metrics.sliced_wasserstein1(x, y, stream, projections=4) != got


@given(clouds(3, points=6, dimension=2))
@settings(deadline=None)
def test_sliced_wasserstein1_is_a_metric(three):
    x, y, z = three
    xy, yx, yz, xz, xx = (
        metrics.sliced_wasserstein1(*pair, Stream(3), projections=5)
        for pair in [(x, y), (y, x), (y, z), (x, z), (x, x[::-1])]
    )
    assert xy >= 0
    assert yx == pytest.approx(xy, rel=1e-12)
    assert xx == pytest.approx(0, abs=1e-12)
    assert xz <= xy + yz + 1e-9


# --- Jensen-Shannon -------------------------------------------------------------------


def test_jensen_shannon_by_hand():
    """Shares (1/2, 1/2, 0, 0) against (1/4, 0, 0, 3/4)."""
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    x = corners[[0, 1]]
    y = corners[[0, 3, 3, 3]]
    m = [3 / 8, 1 / 4, 3 / 8]
    kl_x = 1 / 2 * math.log(1 / 2 / m[0]) + 1 / 2 * math.log(1 / 2 / m[1])
    kl_y = 1 / 4 * math.log(1 / 4 / m[0]) + 3 / 4 * math.log(3 / 4 / m[2])
    expected = (kl_x + kl_y) / 2
    assert metrics.jensen_shannon(x, y, bins=2) == pytest.approx(expected, rel=1e-14)
    assert metrics.jensen_shannon(x, y, bins=2, range=((0, 1), (0, 1))) == pytest.approx(expected)


def test_jensen_shannon_of_disjoint_and_identical():
    x = Stream(0).uniform((500, 2))
    assert metrics.jensen_shannon(x, x + 2) == pytest.approx(math.log(2), rel=1e-14)
    assert metrics.jensen_shannon(x, x[::-1].copy()) == 0
    assert metrics.jensen_shannon(x, np.concatenate([x, x])) == 0
    alike = np.ones((5, 2))
    assert metrics.jensen_shannon(alike, alike) == 0  # a box of no size


def test_jensen_shannon_keeps_the_axes_apart():
    """Two diagonals have the same histogram along either axis, and differ in the plane."""
    line = np.linspace(0.05, 0.95, 10)
    rising, falling = np.stack([line, line], axis=1), np.stack([line, 1 - line], axis=1)
    assert metrics.jensen_shannon(rising, falling, bins=10) == pytest.approx(math.log(2))


def test_jensen_shannon_counts_what_lies_outside():
    unit = ((0, 1), (0, 1))
    x = np.array([[0.5, 0.5], [0.5, 0.5]])
    half = np.array([[0.5, 0.5], [5.0, 5.0]])
    out = np.array([[9.0, 0.5], [0.5, -9.0]])
    # Shares (1, 0) against (1/2, 1/2).
    expected = (math.log(4 / 3) + 1 / 2 * math.log(2 / 3) + 1 / 2 * math.log(2)) / 2
    assert metrics.jensen_shannon(x, half, 3, unit) == pytest.approx(expected, rel=1e-14)
    assert metrics.jensen_shannon(x, out, 3, unit) == pytest.approx(math.log(2), rel=1e-14)
    assert metrics.jensen_shannon(out, out, 3, unit) == 0


def test_jensen_shannon_of_figure_1():
    """Near the true .1131 of the two Gaussians; measured .1104, .1129, .1138 at 20, 30, 40 bins."""
    real, fake = data.two_gaussians()
    n = 200_000
    x = real.sample(n, Stream(0), np.float64)
    y = fake.sample(n, Stream(1), np.float64)
    assert metrics.jensen_shannon(x, y, bins=30) == pytest.approx(0.1131058392, abs=0.002)


def test_jensen_shannon_bias_is_what_the_docstring_says():
    n, bins = 5000, 10
    x = Stream(0).uniform((20, n, 2), np.float64)
    y = Stream(1).uniform((20, n, 2), np.float64)
    unit = ((0, 1), (0, 1))
    got = [metrics.jensen_shannon(a, b, bins, unit) for a, b in zip(x, y, strict=True)]
    expected = (bins**2 - 1) / (4 * n)
    # 4n·JSD is nearly a chi-square of 99 degrees: 14% deviation each, 3% for the mean of 20.
    assert np.mean(got) == pytest.approx(expected, rel=0.12)


@given(clouds(2, points=8, dimension=2), st.integers(1, 12))
@settings(deadline=None)
def test_jensen_shannon_is_symmetric_and_bounded(pair, bins):
    x, y = pair
    got = metrics.jensen_shannon(x, y, bins)
    assert -1e-15 <= got <= math.log(2) + 1e-12
    assert metrics.jensen_shannon(y, x, bins) == pytest.approx(got, abs=1e-15)
    assert metrics.jensen_shannon(x, x[::-1], bins) == 0
    assert metrics.jensen_shannon(x, y, 1) == pytest.approx(0, abs=1e-15)
    # Bins of half the size tell at least as much.
    box = ((-10, 10), (-10, 10))
    coarse = metrics.jensen_shannon(x, y, bins, box)
    assert metrics.jensen_shannon(x, y, 2 * bins, box) >= coarse - 1e-12


# --- inputs ---------------------------------------------------------------------------


def both(metric):
    """A metric of two samples as functions of its first and of its second."""
    good = np.zeros((3, 2))
    return [lambda bad: metric(bad, good), lambda bad: metric(good, bad)]


EVERY = [
    lambda bad: metrics.mode_coverage(bad, UNIT),
    *both(metrics.wasserstein1),
    *both(lambda x, y: metrics.sliced_wasserstein1(x, y, Stream(0))),
    *both(metrics.jensen_shannon),
]


@pytest.mark.parametrize("metric", EVERY)
@pytest.mark.parametrize(
    "bad, error, message",
    [
        (np.zeros(3), ValueError, r"has shape \(3,\)"),
        (np.zeros((3, 2, 1)), ValueError, r"has shape \(3, 2, 1\); expected n×"),
        (np.zeros((3, 2), int), TypeError, r"dtype int64; expected floats: points\.astype"),
        (np.zeros((3, 2), complex), TypeError, "dtype complex128"),
        (np.array([[0, 0], [0, math.nan], [0, 0]]), ValueError, "holds NaN or infinity"),
        (np.array([[0, 0], [0, -math.inf], [0, 0]]), ValueError, "holds NaN or infinity"),
        (np.zeros((0, 2)), ValueError, "is empty"),
        (np.zeros((3, 3)), ValueError, r"\(3, 3\)"),
    ],
)
def test_bad_samples_are_refused(metric, bad, error, message):
    with pytest.raises(error, match=message):
        metric(bad)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda x: metrics.wasserstein1(x, x[:2]),
            ValueError,
            r"wasserstein1: x has shape \(3, 2\) and y \(2, 2\); expected the same number",
        ),
        (
            lambda x: metrics.sliced_wasserstein1(x[:2], x, Stream(0)),
            ValueError,
            r"x has shape \(2, 2\) and y \(3, 2\)",
        ),
        (
            lambda x: metrics.sliced_wasserstein1(x, x, np.random.default_rng(0)),
            TypeError,
            "stream is a Generator",
        ),
        (
            lambda x: metrics.sliced_wasserstein1(x, x, Stream(0), projections=0),
            ValueError,
            "projections is 0; expected a whole number above 0",
        ),
        (
            lambda x: metrics.sliced_wasserstein1(x, x, Stream(0), projections=2.5),
            TypeError,
            r"projections is 2\.5",
        ),
        (lambda x: metrics.jensen_shannon(x, x, bins=0), ValueError, "bins is 0"),
        (lambda x: metrics.jensen_shannon(x, x, bins="auto"), TypeError, "bins is 'auto'"),
        (lambda x: metrics.jensen_shannon(x, x, range=(0, 1)), ValueError, r"range is \[0\.0, 1"),
        (
            lambda x: metrics.jensen_shannon(x, x, range=((0, 1), (1, 1))),
            ValueError,
            "with low < high",
        ),
        (
            lambda x: metrics.jensen_shannon(x, x, range=((0, 1), (1, math.inf))),
            ValueError,
            "with low < high",
        ),
        (
            lambda x: metrics.mode_coverage(x, data.SwissRoll()),
            TypeError,
            "mixture is a SwissRoll, which has no modes",
        ),
        (lambda x: metrics.mode_coverage(x, UNIT, within=0), ValueError, "within is 0;"),
        (lambda x: metrics.mode_coverage(x, UNIT, within=math.nan), ValueError, "within is nan"),
        (lambda x: metrics.mode_coverage(x, UNIT, within=math.inf), ValueError, "within is inf"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(np.zeros((3, 2)))


def test_inputs_are_left_alone_and_float32_is_computed_in_float64():
    x = Stream(0).normal((50, 2))
    y = Stream(1).normal((50, 2)) + np.float32(0.25)
    x.flags.writeable = y.flags.writeable = False
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    assert metrics.wasserstein1(x, y) == metrics.wasserstein1(x64, y64)
    for metric in (metrics.wasserstein1, metrics.jensen_shannon):
        assert metric(x, y) == metric(x64, y64)
    sliced = metrics.sliced_wasserstein1
    assert sliced(x, y, Stream(0)) == sliced(x64, y64, Stream(0))


def test_samples_from_a_gpu_are_brought_to_the_host(stand_in):
    x, y = Stream(0).normal((2, 30, 2), np.float64)
    there = stand_in.asarray(x), stand_in.asarray(y)
    assert metrics.wasserstein1(*there) == metrics.wasserstein1(x, y)
    assert metrics.jensen_shannon(*there) == metrics.jensen_shannon(x, y)
    sliced = metrics.sliced_wasserstein1(*there, Stream(4, device="gpu"))
    assert sliced == pytest.approx(metrics.sliced_wasserstein1(x, y, Stream(4)), rel=1e-12)
    covered = metrics.mode_coverage(there[0], UNIT)
    assert covered.counts.tolist() == metrics.mode_coverage(x, UNIT).counts.tolist()


def test_results_are_plain_numbers():
    x = Stream(0).normal((30, 2))
    coverage = metrics.mode_coverage(x, UNIT, within=1.0)
    assert [type(value) for value in coverage] == [int, int, float, float, np.ndarray]
    assert type(metrics.wasserstein1(x, x)) is float
    assert type(metrics.sliced_wasserstein1(x, x, Stream(0))) is float
    assert type(metrics.jensen_shannon(x, x)) is float


def test_importing_metrics_does_not_import_scipy():
    code = "import sys, tinygan.data, tinygan.metrics; print('scipy' in sys.modules)"
    root = Path(tinygan.__file__).parents[1]
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
