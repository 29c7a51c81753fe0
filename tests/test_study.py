"""Value surfaces, gradient fields, and pictures that are written."""

import io

import numpy as np
from PIL import Image

from tinygan import ops
from tinygan.study.fields import gradient_field, grid_points, value_surface
from tinygan.study.plots import as_bytes, toy_evolution, toy_summary
from tinygan.train import History, Record


def bowl(x):
    """D(x) = x₁² + 3·x₂, with slope (2x₁, 3)."""
    return ops.add(ops.square(x[:, 0]), ops.multiply(x[:, 1], 3.0))


def test_a_grid_goes_row_by_row_from_below():
    points = grid_points(2.0, 3)
    assert points.shape == (9, 2)
    np.testing.assert_array_equal(points[:3], [[-2, -2], [0, -2], [2, -2]])
    np.testing.assert_array_equal(points[-1], [2, 2])


def test_the_surface_has_the_critics_values():
    surface = value_surface(bowl, 2.0, n=5, dtype=np.float64)
    ticks = np.linspace(-2, 2, 5)
    np.testing.assert_allclose(surface, ticks[None, :] ** 2 + 3 * ticks[:, None])


def test_the_field_has_the_critics_slopes():
    points, slopes = gradient_field(bowl, 2.0, n=4, dtype=np.float64)
    np.testing.assert_allclose(slopes, np.stack([2 * points[:, 0], 0 * points[:, 0] + 3], 1))


def test_the_field_of_a_function_of_the_logit_follows_the_chain_rule():
    points, plain = gradient_field(bowl, 1.0, n=4, dtype=np.float64)
    _, slopes = gradient_field(bowl, 1.0, n=4, of=ops.log_sigmoid, dtype=np.float64)
    logit = points[:, 0] ** 2 + 3 * points[:, 1]
    np.testing.assert_allclose(slopes, plain / (1 + np.exp(logit))[:, None])


def test_field_and_surface_work_where_the_critic_lives(stand_in):
    surface = value_surface(bowl, 1.0, n=4, device="gpu")
    _, slopes = gradient_field(bowl, 1.0, n=4, device="gpu")
    assert type(surface) is np.ndarray and type(slopes) is np.ndarray


def test_pictures_are_drawn_without_pyplot(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 2))
    history = History([Record(i, 1.0 / i, 0.0, 2.0, 0.0, 1.0) for i in range(1, 251)])
    png = as_bytes(
        toy_summary, title="a run", real=points, samples=points, extent=2.0,
        surface=value_surface(bowl, 2.0, n=10), surface_label="D(x)",
        field=gradient_field(bowl, 2.0, n=5), history=history,
    )  # fmt: skip
    assert Image.open(io.BytesIO(png)).size == (1170, 1040)
    gif = as_bytes(toy_evolution, frames=[(0, points), (9, points + 1)], real=points, extent=2.0)
    assert Image.open(io.BytesIO(gif)).n_frames == 2
    import sys

    assert "matplotlib.pyplot" not in sys.modules
