"""What is looked at in runs on the plane: modes, distances, fields of slopes; their pictures."""

import io

import numpy as np

import tinygan as tg
from tinygan import metrics
from tinygan.study.fields import gradient_field
from tinygan.study.plots import scatter

SAMPLES = 2500
NEAR = 0.05  # a sample counts as a mode's within so much of the ring's radius
ASSIGNED = 1000  # points of an exact W₁
GRID = 20  # the paper's
EXTENT = 1.4  # half the side of a panel, in radii of the data
SLOPE = "‖∇ log σ(D)‖"


def real_points(run, n, which=0):
    """Fresh real points for the seed of a run; ``which`` tells sets apart."""
    return run.what.sample(n, tg.Stream(run.training.seed).child(90 + which))


def critic_at(run, step):
    """The critic as it was: a function of points."""
    return lambda x: run.game.gan.critic(run.players[step].critic, x)


def extent_of(run):
    """Half the side of a panel."""
    return EXTENT * run.what.plane.radius


def field_at(run, step):
    """(points, slopes) of log σ(D) on a grid, slopes in float64."""
    points, slopes = gradient_field(
        critic_at(run, step), extent_of(run), GRID, of=tg.ops.log_sigmoid
    )
    return points, slopes.astype(np.float64)


def coverage_at(run, step):
    """Modes that 2,500 samples reach."""
    ring = run.what.plane
    return metrics.mode_coverage(run.samples(step, SAMPLES), ring, within=NEAR * ring.radius)


def w1(run, samples):
    """Exact W₁ of the first 1,000 samples and as many real points, in radii of the data."""
    real = real_points(run, ASSIGNED)
    return metrics.wasserstein1(samples[:ASSIGNED], real) / run.what.plane.radius


def floor(run):
    """The same of two real sets."""
    return w1(run, real_points(run, ASSIGNED, which=1))


def blob(run):
    """The same of points of a Gaussian that has the data's mean and covariance, but no form."""
    real = real_points(run, SAMPLES, which=1).astype(np.float64)
    noise = tg.Stream(run.training.seed).child(93).normal((ASSIGNED, real.shape[1]))
    spread = np.linalg.cholesky(np.cov(real, rowvar=False))
    return w1(run, real.mean(axis=0) + noise @ spread.T)


def faint(field):
    """The share of the grid where the slope is below a hundredth of the largest there."""
    norms = np.linalg.norm(field[1], axis=1)
    return float(np.mean(norms < 0.01 * norms.max()))


def toward_data(field, data):
    """The mean cosine between the slopes and the way to the nearest of many real points."""
    from scipy.spatial import cKDTree

    points, slopes = field
    way = data[cKDTree(data).query(points)[1]] - points
    length = np.linalg.norm(way, axis=1) * np.linalg.norm(slopes, axis=1)
    cosine = np.divide((way * slopes).sum(1), length, out=np.zeros(len(way)), where=length > 0)
    return float(cosine.mean())


def field_panels(panels_axes, panels, beside):
    """Data, samples and the direction of ∇ log σ(D), coloured by its size, on one scale.

    Args:
        panels_axes: axes, one for each panel.
        panels: (run, step, title); a step that was not reached leaves its panel empty.
        beside: the axes that the scale of colours stands beside.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    fields = [field_at(run, step) if step in run.players else None for run, step, _ in panels]
    sizes = np.concatenate([np.linalg.norm(f[1], axis=1) for f in fields if f is not None])
    lowest = max(sizes.min(), sizes.max() * 1e-4)
    norm = LogNorm(lowest, sizes.max())
    for axes, (run, step, title), field in zip(panels_axes, panels, fields, strict=True):
        extent = extent_of(run)
        if field is None:
            axes.text(0, 0, "diverged before", ha="center", va="center")
            axes.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal")
        else:
            scatter(axes, real_points(run, SAMPLES), run.samples(step, SAMPLES), extent)
            for line in axes.lines:
                line.set(zorder=3, alpha=0.6)
            _arrows(axes, field, norm, extent)
        axes.set_title(title)
    figure = panels_axes[0].figure
    scale, extend = ScalarMappable(norm, "viridis_r"), "min" if sizes.min() < lowest else "neither"
    figure.colorbar(scale, ax=beside, shrink=0.7, label=SLOPE, extend=extend, aspect=35)
    handles, labels = panels_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, markerscale=2.5)


def _arrows(axes, field, norm, extent):
    points, slopes = field
    length = np.linalg.norm(slopes, axis=1)
    seen = length > 0
    ways = slopes[seen] / length[seen, None] * 0.75 * 2 * extent / (GRID - 1)
    axes.quiver(
        *points[seen].T, *ways.T, np.maximum(length[seen], norm.vmin), norm=norm,
        cmap="viridis_r", angles="xy", scale_units="xy", scale=1, width=0.005, pivot="mid",
        zorder=2,
    )  # fmt: skip


def of_few_colours(picture):
    """A PNG with a palette of 256 colours: a third of the bytes, and no difference to be seen."""
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        buffer, format="PNG", optimize=True
    )
    return buffer.getvalue()
