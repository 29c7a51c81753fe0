"""Walks through the latent space against closed forms: spheres, arcs, endpoints, variances."""

import math

import numpy as np
import pytest

from tinygan import models, nn, optim
from tinygan.backend import Stream, to_host
from tinygan.study.latent import (
    NARROW,
    class_grid,
    combination,
    endpoints,
    linear_path,
    path_length,
    spherical_path,
    typical_distance,
    variance_shares,
    with_class,
)
from tinygan.systems import ACGAN

float_types = pytest.mark.parametrize("dtype, tol", [(np.float32, 2e-6), (np.float64, 1e-14)])


def normed(z):
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def ends(dtype=np.float64, latent=100, key=0):
    return Stream(key).normal((2, latent), dtype)


def angles(path, start):
    """From the start, in the plane of start and end: atan2 of the two coordinates."""
    path, start = path.astype(np.float64), normed(start.astype(np.float64))
    along = path @ start
    across = np.linalg.norm(path - along[:, None] * start, axis=1)
    return np.arctan2(across, along)


@float_types
def test_a_segment_has_both_ends_and_even_steps(dtype, tol):
    start, end = ends(dtype)
    path = linear_path(start, end)
    assert path.shape == (21, 100) and path.dtype == dtype
    assert path[0].tobytes() == start.tobytes() and path[-1].tobytes() == end.tobytes()
    np.testing.assert_allclose(path[10], (start + end) / 2, rtol=tol, atol=tol)
    np.testing.assert_allclose(path[3], 0.85 * start + 0.15 * end, rtol=tol, atol=10 * tol)


@float_types
def test_an_arc_stays_on_its_sphere_and_turns_at_constant_speed(dtype, tol):
    start, end = ends(dtype)
    end = (end * (np.linalg.norm(start) / np.linalg.norm(end))).astype(dtype)
    path = spherical_path(start, end)
    assert path.dtype == dtype
    assert path[0].tobytes() == start.tobytes() and path[-1].tobytes() == end.tobytes()
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), np.linalg.norm(start), rtol=tol)
    whole = math.acos(float(normed(start.astype(float)) @ normed(end.astype(float))))
    np.testing.assert_allclose(angles(path, start), np.linspace(0, whole, 21), atol=10 * tol)
    # It stays in the plane of its ends.
    assert np.linalg.matrix_rank(path.astype(np.float64), tol=1e-3) == 2


def test_between_points_of_two_lengths_the_length_goes_evenly():
    start, end = np.array([2.0, 0.0]), np.array([0.0, 5.0])
    path = spherical_path(start, end, 4)
    t = np.linspace(0, 1, 4)
    expected = (2 + 3 * t)[:, None] * np.stack([np.cos(t * np.pi / 2), np.sin(t * np.pi / 2)], 1)
    np.testing.assert_allclose(path, expected, atol=1e-15)


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-7, 1e-3])
def test_nearly_parallel_ends_give_nearly_the_segment(gap):
    start = np.array([3.0, 0.0, 0.0])
    end = 4 * np.array([math.cos(gap), math.sin(gap), 0.0])
    path = spherical_path(start, end)
    t = np.linspace(0, 1, 21)
    expected = (3 + t)[:, None] * np.stack([np.cos(t * gap), np.sin(t * gap), 0 * t], 1)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-18)
    if gap == 0:
        np.testing.assert_allclose(path, linear_path(start, end), rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_without_an_arc_are_refused(dtype):
    z = ends(dtype)[0]
    with pytest.raises(ValueError, match="opposite each other"):
        spherical_path(z, z * dtype(-1.3))
    with pytest.raises(ValueError, match="end is 0 and has no direction"):
        spherical_path(z, 0 * z)
    with pytest.raises(ValueError, match="start is 0"):
        spherical_path(0 * z, z)
    bent = -z
    bent[0] += dtype(0.01)  # an arc again
    assert np.isfinite(spherical_path(z, bent)).all()


@pytest.mark.parametrize("path", [linear_path, spherical_path])
def test_paths_refuse_what_are_no_two_points(path):
    a, b = ends()
    for start, end, n, words in [
        (a, b[:5], 21, "of one shape"),
        (a, b.astype(np.float32), 21, "one dtype"),
        (a[None], b[None], 21, "of one shape"),
        (a, b * np.nan, 21, "not finite"),
        (a, b, 1, "n is 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            path(start, end, n)


def test_endpoints_of_p4_are_nearly_one_point():
    """Their distance has the root mean square σ·√(2d)."""
    for deviation in (1.0, NARROW):
        z = endpoints(Stream(0), 100, 2000, deviation, np.float64)
        apart = np.mean(np.sum(np.square(z[::2] - z[1::2]), axis=1))
        assert apart == pytest.approx(200 * deviation**2, rel=0.02)
    z = endpoints(Stream(0), 5)
    assert z.dtype == np.float32 and z.tobytes() == Stream(0).normal((2, 5)).tobytes()
    with pytest.raises(ValueError, match="deviation is 0"):
        endpoints(Stream(0), 5, deviation=0)


def test_combinations_are_sums():
    z = Stream(0).normal((3, 4), np.float64)
    np.testing.assert_allclose(combination(z, (1, -1, 1)), z[0] - z[1] + z[2], rtol=1e-15)
    found = combination(z.astype(np.float32), [(0.5, 0.5, 0), (0, 0, 2)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [(z[0] + z[1]) / 2, 2 * z[2]], rtol=1e-6)
    for weights in [(1, 2), [[1, 2]], 3.0]:
        with pytest.raises(ValueError, match="expected points"):
            combination(z, weights)
    with pytest.raises(ValueError, match="finite numbers"):
        combination(z, (1, np.nan, 0))
    with pytest.raises(ValueError, match="a point that is not finite"):
        combination(z * np.inf, (1, 1, 0))


def test_only_floats_are_latent_points():
    """The numbers of a path and the weights of a sum would be cut to integers."""
    a, b = np.array([1, 0]), np.array([0, 10])
    for call, given in [
        (lambda: linear_path(a, b, 5), r"linear_path: start is int64\[2\]"),
        (lambda: linear_path(a * 1.0, [0.0, 1.0]), "end is a list"),
        (lambda: spherical_path(a, b), "spherical_path: start is int64"),
        (
            lambda: combination(np.stack([a, b]), (0.5, 0.5)),
            r"points is int64\[2, 2\]",
        ),
        (lambda: combination([[1.0, 2.0]], (1,)), "points is a list"),
        (lambda: with_class(np.ones((2, 3), int), 0, 2), "with_class: noise is int64"),
    ]:
        with pytest.raises(TypeError, match=given + ".*expected an array of floats"):
            call()


def test_a_grid_has_noise_down_its_columns_and_classes_along_its_rows():
    noise = Stream(0).normal((3, 5))
    grid = class_grid(noise, 4).reshape(4, 3, 9)
    assert grid.dtype == np.float32
    for i in range(4):
        np.testing.assert_array_equal(grid[i, :, :5], noise)
        np.testing.assert_array_equal(grid[i, :, 5:], np.tile(np.eye(4)[i], (3, 1)))
    np.testing.assert_array_equal(with_class(noise, 2, 4), grid[2])
    np.testing.assert_array_equal(with_class(noise, [0, 3, 1], 4)[1], grid[3, 1])
    with pytest.raises(ValueError, match="labels from 4 to 4 for 4"):
        with_class(noise, 4, 4)
    with pytest.raises(ValueError, match="for 3 points"):
        with_class(noise, [1, 2], 4)
    with pytest.raises(ValueError, match="0 classes; expected 1 or more"):
        class_grid(noise, 0)


def test_ac_gan_is_given_its_classes_in_this_order():
    """The same latent points as the game's own, so the same images."""
    g = models.Net("G", (9,), {"only": nn.Linear(9, 2)})
    d = models.Net("D", (2,), {"only": nn.Linear(2, 5)})
    game = ACGAN(g, d, optim.SGD(0.1), optim.SGD(0.1), classes=4)
    players = game.init(Stream(0))
    expected = game.generate(players, 8, Stream(1))
    z = with_class(Stream(1).normal((8, 5)), np.arange(8) % 4, 4)
    np.testing.assert_array_equal(g(players.generator, z), expected)


def test_shares_of_variance_tell_rows_from_columns():
    row, column = Stream(0).normal((4, 1, 6), np.float64), Stream(1).normal((1, 5, 6), np.float64)
    spread = [np.sum(np.square(part - part.mean(axis=(0, 1)))) for part in (row, column)]
    shares = variance_shares((7 + row + column).reshape(20, 2, 3), 4)
    r, c = 5 * spread[0], 4 * spread[1]
    assert shares == pytest.approx((r / (r + c), c / (r + c), 0.0), abs=1e-14)
    checks = np.array([[1.0, -1.0], [-1.0, 1.0]])  # neither alone changes anything
    for scale, level in [(1, 0), (1e-200, 0), (1e200, 0), (2.0**-50, 1.0)]:
        assert variance_shares(level + scale * checks.ravel(), 2) == pytest.approx((0, 0, 1))
    for images, rows, words in [
        (np.ones(4), 2, "the same"),
        (np.full((6, 7), 0.1), 2, "the same"),  # whose mean is not .1 to the last digit
        (np.ones((4, 0)), 2, "the same"),
        (checks.ravel(), 3, "2 rows"),
        (np.array([1.0, np.nan, 0, 0]), 2, "not finite"),
    ]:
        with pytest.raises(ValueError, match=words):
            variance_shares(images, rows)


def test_a_paths_length_and_what_it_is_measured_by():
    corners = np.array([[0, 0], [3, 0], [3, 4.0]]).reshape(3, 1, 2)
    found = path_length(corners)
    np.testing.assert_array_equal(found.steps, [3, 4])
    assert (found.length, found.chord, found.unevenness) == (7, 5, 8 / 7)
    still = path_length(np.ones((3, 2)))
    assert still.length == 0
    with pytest.raises(ValueError, match="nothing changes"):
        still.unevenness  # noqa: B018
    x = Stream(0).normal((30, 4), np.float64)
    pairs = [np.sum(np.square(a - b)) for i, a in enumerate(x) for b in x[:i]]
    assert typical_distance(x) == pytest.approx(math.sqrt(np.mean(pairs)), rel=1e-12)
    for images in (x[:1], x * np.inf):
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="expected 2 or more"):
            typical_distance(images)


def test_paths_live_where_their_ends_do(stand_in):
    z = Stream(0, device="gpu").normal((2, 6))
    host = [to_host(a) for a in z]
    for path in (linear_path, spherical_path):
        found = path(z[0], z[1])
        assert type(found) is type(z)
        np.testing.assert_allclose(to_host(found), path(*host), rtol=1e-6)
    grid = class_grid(z, 3)
    assert type(grid) is type(z)
    np.testing.assert_array_equal(to_host(grid), class_grid(np.stack(host), 3))
