"""Value surfaces, gradient fields, and pictures that are written."""

import io

import numpy as np
import pytest
from PIL import Image

from tinygan import nn, ops
from tinygan.backend import Stream
from tinygan.engine import track
from tinygan.game import record_type
from tinygan.models import perceptron
from tinygan.study.fields import (
    box,
    gradient_field,
    grid_points,
    slopes_at,
    steepest,
    value_surface,
)
from tinygan.study.plots import (
    as_bytes,
    columns,
    image_grid,
    image_panels,
    points,
    tile,
    toy_evolution,
    toy_summary,
    training_curves,
    trajectory,
)
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


@pytest.mark.parametrize(
    "extent, expected",
    [
        (2, ((-2, 2), (-2, 2))),
        ((-2.5, 4.5), ((-2.5, 4.5), (-2.5, 4.5))),
        (((0, 1), (-3, 3)), ((0, 1), (-3, 3))),
        (np.array([[0, 1], [2, 3]]), ((0, 1), (2, 3))),
    ],
)
def test_a_part_of_the_plane_is_a_number_a_pair_or_two_pairs(extent, expected):
    assert box(extent) == expected
    points = grid_points(extent, 4)
    np.testing.assert_array_equal(points[[0, -1]].T, expected)
    assert len(np.unique(points[:, 0])) == len(np.unique(points[:, 1])) == 4


@pytest.mark.parametrize(
    "extent",
    [0.0, -1, None, "2", (1, 1), (2, 1), (1, 2, 3), ((0, 1), (0, np.nan)), np.inf, ((0, 1), (0,))],
)
def test_no_part_of_the_plane_is_an_error(extent):
    with pytest.raises(ValueError, match="expected a number above 0 for the square"):
        grid_points(extent, 3)


def test_a_box_is_laid_out_like_a_square():
    surface = value_surface(bowl, ((0, 1), (2, 6)), n=5, dtype=np.float64)
    np.testing.assert_allclose(
        surface, np.linspace(0, 1, 5) ** 2 + 3 * np.linspace(2, 6, 5)[:, None]
    )


def test_the_steepest_point_of_a_grid_is_found():
    """The slope of the bowl is (2x₁, 3): steepest at the edge where |x₁| is largest."""
    found = steepest(bowl, ((-1, 2), (0, 1)), n=7, dtype=np.float64)
    assert found.norm == 5 and found.point[0] == 2
    half = steepest(bowl, 2.0, n=3, of=lambda y: ops.multiply(y, 0.5), dtype=np.float64)
    assert half.norm == 2.5


def test_a_constant_critic_is_flat():
    points, slopes = gradient_field(lambda x: np.zeros(len(x)), 1.0, n=3)
    assert slopes.shape == points.shape and not slopes.any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_slope_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match=r"slope is not finite at \[-1.0, -1.0\]"):
        steepest(lambda x: ops.sqrt(ops.maximum(x[:, 0], 0.0)), 1.0, n=3)


def batch_norm_critic(dtype=np.float32):
    net = perceptron((2, 8, 1), norm=nn.BatchNorm)
    params = net.init(Stream(0), dtype)
    return lambda x: net(params, x)


def root(x):
    """√x₁: NaN left of the middle, with an infinite slope there."""
    return ops.sqrt(x[:, 0])


BAD_CRITICS = [
    (lambda x: ops.multiply(x, 3.0), None, r"the critic gave \(25, 2\) for .* expected one logit"),
    (lambda x: ops.mean(x), None, r"the critic gave \(\) for points \(25, 2\)"),
    (lambda x: 0.5, None, "the critic gave float for points"),
    (bowl, ops.mean, r"`of` gave \(\) for points \(25, 2\); expected one logit"),
    (
        root,
        None,
        r"the critic's (value|slope) is not finite at \[-2.0, -2.0\]; expected finite",
    ),
]


@pytest.mark.parametrize("critic, of, complaint", BAD_CRITICS)
@pytest.mark.parametrize("look", [value_surface, gradient_field, steepest])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_critics_that_have_no_landscape_are_one_clear_error(look, critic, of, complaint):
    with pytest.raises(ValueError, match=f"^{look.__name__}: {complaint}"):
        look(critic, 2, n=5, of=of)


@pytest.mark.parametrize("look", [gradient_field, steepest])
def test_slopes_of_a_critic_that_mixes_the_grid_are_an_error(look):
    """Batch norm's would be those of the whole grid: other ones for another n."""
    with pytest.raises(ValueError, match=rf"^{look.__name__}: .* batch norm \(standardise\)"):
        look(batch_norm_critic(), 1, n=5)


@pytest.mark.parametrize("look", [value_surface, gradient_field, steepest])
def test_grids_of_no_points_and_of_whole_numbers_are_errors(look):
    with pytest.raises(ValueError, match=f"^{look.__name__}: n is 0; expected 1 or more"):
        look(bowl, 1, n=0)
    with pytest.raises(ValueError, match=f"^{look.__name__}: dtype is int64; expected floats"):
        look(bowl, 1, n=3, dtype=np.int64)
    look(bowl, 1, n=1)


def test_a_surface_of_tracked_weights_is_an_array():
    net = perceptron((2, 4, 1))
    params = net.init(Stream(0), np.float64)
    plain, tracked = (
        value_surface(lambda x, p=p: net(p, x), 1, n=3, of=ops.sigmoid, dtype=np.float64)
        for p in (params, track(params, "D"))
    )
    assert type(tracked) is np.ndarray
    np.testing.assert_array_equal(tracked, plain)


def test_slopes_at_any_points():
    points = np.array([[1.0, 2.0], [-3.0, 0.5], [0.0, 0.0]])
    found = slopes_at(bowl, points)
    np.testing.assert_allclose(found.values, [7, 10.5, 0])
    np.testing.assert_allclose(found.slopes, [[2, 3], [-6, 3], [0, 3]])
    half = slopes_at(lambda x: ops.reshape(bowl(x), shape=(-1, 1)), points, of=ops.sigmoid)
    y = 1 / (1 + np.exp(-found.values))
    np.testing.assert_allclose(half.values, y)
    np.testing.assert_allclose(half.slopes, found.slopes * (y * (1 - y))[:, None])
    assert slopes_at(bowl, points.astype(np.float32)).slopes.dtype == np.float32


@pytest.mark.parametrize(
    "critic, points, complaint",
    [
        (bowl, [[1.0, 2.0]], r"points is a list; expected an array of floats, \(N, ...\)"),
        (bowl, np.ones((2, 2), int), r"points is int64\[2, 2\]; expected an array of floats"),
        (bowl, np.ones(2), r"points is float64\[2\]"),
        (root, np.array([[1.0, 0.0], [-1.0, 0.0]]), r"value is not finite at \[-1.0, 0.0\]"),
        (root, np.zeros((1, 2)), r"slope is not finite at \[0.0, 0.0\]"),
        (root, np.zeros((1, 4)), "slope is not finite at point 0"),
        (batch_norm_critic(np.float64), np.eye(2), "batch norm .* mixes"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_points_without_slopes_are_one_clear_error(critic, points, complaint):
    with pytest.raises(ValueError, match=f"^slopes_at: .*{complaint}"):
        slopes_at(critic, points)


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


# Images


def images_of(n, height, width, channels, seed=0):
    """No pixel is white: white is what lies between images."""
    return np.random.default_rng(seed).integers(0, 255, (n, height, width, channels), np.uint8)


def opened(png):
    picture = Image.open(io.BytesIO(png))
    picture.load()  # all of it can be read
    assert picture.format == "PNG"
    return picture


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n, columns, rows", [(6, 3, 2), (7, 3, 3), (2, 3, 1), (1, 1, 1)])
def test_images_stand_row_by_row_on_white(n, columns, rows, channels):
    """Of 4×5 pixels each; the last row may be ragged."""
    images = images_of(n, 4, 5, channels)
    sheet = tile(images, columns)
    assert sheet.shape == (rows * 6 - 2, columns * 7 - 2, channels) and sheet.dtype == np.uint8
    rest = sheet.copy()
    for i, image in enumerate(images):
        top, left = i // columns * 6, i % columns * 7
        np.testing.assert_array_equal(sheet[top : top + 4, left : left + 5], image)
        rest[top : top + 4, left : left + 5] = 255
    assert (rest == 255).all()  # the gaps, and what the last row lacks


def test_a_tile_is_no_view_of_the_images():
    images = images_of(1, 3, 3, 1)
    tile(images, 1)[:] = 7
    np.testing.assert_array_equal(images, images_of(1, 3, 3, 1))


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("zoom", [1, 3])
def test_a_grid_holds_the_pixels_of_the_images(channels, mode, zoom):
    images = images_of(5, 4, 6, channels)
    picture = opened(as_bytes(image_grid, images=images, columns=3, zoom=zoom))
    assert picture.mode == mode
    assert picture.size == ((3 * 8 - 2) * zoom, (2 * 6 - 2) * zoom)  # across, then down
    pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)
    sheet = tile(images, 3)
    for down in range(zoom):
        for across in range(zoom):
            np.testing.assert_array_equal(pixels[down::zoom, across::zoom], sheet)


def test_a_grid_is_ten_across_and_doubled_unless_told(tmp_path):
    image_grid(tmp_path / "grid.png", images=images_of(11, 3, 3, 1))
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (2 * (10 * 5 - 2), 2 * (2 * 5 - 2))


def test_panels_show_their_images_beside_each_other():
    """Three panels of one colour each: a colour is found in its panel alone."""
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    panels = [
        (f"panel {i}", np.full((4, 8, 8, 3), colour, np.uint8)) for i, colour in enumerate(colours)
    ]
    picture = opened(as_bytes(image_panels, panels=panels, columns=2))
    assert picture.size == (3 * 640, 720)
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    for i, colour in enumerate(colours):
        there = (abs(pixels - colour).max(2) < 3).mean(0)  # by column of the picture
        third = slice(i * 640, (i + 1) * 640)
        assert there[third].mean() > 0.5
        assert there.sum() == pytest.approx(there[third].sum())


def test_panels_show_grey_images_as_grey():
    images = np.full((1, 8, 8, 1), 77, np.uint8)
    picture = opened(as_bytes(image_panels, panels=[("grey", images)]))
    assert picture.size == (640, 720)
    pixels = np.asarray(picture.convert("RGB"))
    assert (pixels == 77).all(2).mean() > 0.005  # one image of ten in a row
    assert (pixels.max(2) == pixels.min(2)).all()  # no colour anywhere


def test_training_curves_hold_both_sides_and_a_penalty_if_there_is_one():
    def curves(penalty):
        records = [Record(i, 1 / i, penalty / i, 2.0 - 1 / i, 3.0, 4.0 / i) for i in range(1, 301)]
        png = as_bytes(training_curves, title="a run", history=History(records))
        picture = opened(png)
        assert picture.size == (1170, 468)
        return np.asarray(picture.convert("RGB")).astype(int)

    def shows(pixels, colour):
        return (abs(pixels - colour).max(2) < 25).sum() > 100

    blue, orange, green = (0, 114, 178), (213, 94, 0), (0, 158, 115)
    without, with_one = curves(0.0), curves(1.5)
    for pixels in (without, with_one):
        for half in (pixels[:, :585], pixels[:, 585:]):  # losses, gradient norms
            assert shows(half, blue) and shows(half, orange)
    assert not shows(without, green)
    assert shows(with_one[:, :585], green) and not shows(with_one[:, 585:], green)


def test_training_curves_of_a_single_iteration_without_gradients():
    """A norm of 0 has no place on a logarithmic axis."""
    history = History([Record(1, 0.5, 0.0, 0.7, 0.0, 1.0)])
    assert opened(as_bytes(training_curves, title="one", history=history)).size == (1170, 468)


# Any game's history, samples and way


def drawn(monkeypatch, draw, **kwargs):
    """The axes of a picture, as they were when it was written."""
    from matplotlib.figure import Figure

    seen = []
    save = Figure.savefig

    def savefig(self, *args, **how):
        seen.extend(self.axes)
        return save(self, *args, **how)

    monkeypatch.setattr(Figure, "savefig", savefig)
    assert as_bytes(draw, **kwargs).startswith(b"\x89PNG")
    return seen


def histories(names, rows):
    record = record_type(names)
    return History([record(i + 1, *row) for i, row in enumerate(rows)])


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_columns_are_drawn_by_what_they_are(monkeypatch):
    names = ("critic_loss", "generator_loss", "k", "never", "critic_gradient")
    rows = [(1.0, 2.0, 0.5, 0.0, 3.0), (0.5, 1.0, 0.25, 0.0, 2.0)]
    losses, norms, rest = drawn(monkeypatch, columns, title="a", history=histories(names, rows))
    assert labels(losses) == ["critic", "generator"] and losses.get_ylabel() == "losses"
    assert labels(norms) == ["critic"] and norms.get_yscale() == "log"
    assert labels(rest) == ["k"]  # what is 0 throughout is left out
    assert [list(line.get_ydata()) for line in rest.lines][-1] == [0.5, 0.25]


@pytest.mark.parametrize("small, scale", [(1.0, "linear"), (0.1, "log"), (-0.1, "linear")])
def test_losses_of_very_different_sizes_are_drawn_on_a_log_scale(monkeypatch, small, scale):
    history = histories(("one_loss", "other_loss"), [(50.0, small), (40.0, small)])
    (losses,) = drawn(monkeypatch, columns, title="a", history=history)
    assert losses.get_yscale() == scale


def test_gradients_of_zero_are_drawn_on_an_even_scale(monkeypatch):
    rows = [(1.0, 0.0), (0.5, 2.0)]
    history = histories(("critic_loss", "critic_gradient"), rows)
    losses, norms = drawn(monkeypatch, columns, title="a", history=history)
    assert norms.get_yscale() == "linear"


def test_points_show_the_data_and_the_samples(monkeypatch):
    real, samples = np.zeros((3, 2)), np.ones((4, 2))
    (axes,) = drawn(monkeypatch, points, title="a", real=real, samples=samples, extent=2.0)
    assert [len(line.get_xdata()) for line in axes.lines] == [3, 4]
    assert axes.get_xlim() == axes.get_ylim() == (-2, 2) and axes.get_title() == "a"


def test_a_trajectory_begins_and_ends_where_the_numbers_did(monkeypatch):
    path = np.array([[1.0, -1.0], [0.5, 0.0], [0.0, 2.0]])
    (axes,) = drawn(monkeypatch, trajectory, title="a", path=path)
    way, start, end = (np.stack(line.get_data(), 1) for line in axes.lines)
    np.testing.assert_array_equal(way, path)
    np.testing.assert_array_equal([start[0], end[0]], path[[0, -1]])
    assert labels(axes) == ["start", "end"] and axes.get_xlabel() == "θ, the generator"
