"""Pictures in one house style: colour-blind safe, axes named, readable in print.

Figures are made without pyplot: no global state, no window, any thread. :func:`png` gives a figure
of your own in this style; :func:`scatter`, :func:`arrows`, :func:`curve`, :func:`image_panel` fill
its axes.
"""

import io

import numpy as np

from tinygan.html import COLORS

REAL, FAKE, CRITIC, GENERATOR = "#56B4E9", "#D55E00", "#0072B2", "#D55E00"  # Okabe & Ito (2008)
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "image.cmap": "cividis",
}


def toy_summary(file, *, title, real, samples, extent, surface, surface_label, field, history):
    """The four panels of a run on the plane, as a PNG.

    Data and samples; the critic's values with the direction of its slope; losses; gradient norms.

    Args:
        file: where to write, a path or an open binary file.
        real, samples: points (n, 2).
        extent: half the side of the square that is shown.
        surface: the critic's values on that square, of ``value_surface``.
        surface_label: what they are.
        field: (points, slopes) of ``gradient_field``.
        history: a :class:`tinygan.train.History`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        fig = Figure(figsize=(9, 8), layout="constrained")
        (cloud, land), (losses, norms) = fig.subplots(2, 2)
        fig.suptitle(title, fontsize=11)

        scatter(cloud, real, samples, extent)
        cloud.set_title(f"Data and {len(samples):,} samples")
        cloud.legend(loc="upper right", markerscale=3)

        image = land.imshow(
            surface, origin="lower", extent=(-extent, extent, -extent, extent), aspect="equal"
        )
        fig.colorbar(image, ax=land, shrink=0.85, label=surface_label)
        arrows(land, *field)
        land.set(title="Critic: value and direction of its slope", xlabel="x₁", ylabel="x₂")

        _losses(losses, history)
        _gradient_norms(norms, history)
        fig.savefig(file, dpi=130, format="png")


def training_curves(file, *, title, history):
    """Losses and gradient norms over a run, side by side, as a PNG.

    Args:
        file: where to write, a path or an open binary file.
        history: a :class:`tinygan.train.History`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        fig = Figure(figsize=(9, 3.6), layout="constrained")
        losses, norms = fig.subplots(1, 2)
        fig.suptitle(title, fontsize=11)
        _losses(losses, history)
        _gradient_norms(norms, history)
        fig.savefig(file, dpi=130, format="png")


def image_grid(file, *, images, columns=10, zoom=2):
    """Images side by side, pixel by pixel, as a PNG.

    Args:
        file: where to write, a path or an open binary file.
        images: uint8 (n, H, W, 1 or 3).
        columns: how many stand in a row.
        zoom: how many pixels of the picture an image's pixel takes, down and across.
    """
    from PIL import Image

    picture = tile(images, columns).repeat(zoom, 0).repeat(zoom, 1)
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(file, format="PNG")


def image_panels(file, *, panels, columns=10):
    """Grids of images beside each other, each under its title, as a PNG.

    Args:
        file: where to write, a path or an open binary file.
        panels: pairs (title, images), images uint8 (n, H, W, 1 or 3).
        columns: how many images stand in a row of a panel.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        fig = Figure(figsize=(3.2 * len(panels), 3.6), layout="constrained")
        for axes, (title, images) in zip(
            fig.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            image_panel(axes, images, title, columns)
        fig.savefig(file, dpi=200, format="png")


def loss_panels(file, *, panels):
    """The critic's loss of several runs, on one scale: all of it, and its last half, as a PNG.

    Args:
        file: where to write, a path or an open binary file.
        panels: pairs (name, columns), columns with the fields "step" and "critic_loss".
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        fig = Figure(figsize=(9, 3.4), layout="constrained")
        whole, close = fig.subplots(1, 2)
        for (name, columns), color in zip(panels, COLORS, strict=False):
            step, loss = columns["step"], columns["critic_loss"]
            half = step > step[-1] / 2
            curve(whole, step, loss, color, name)
            curve(close, step[half], loss[half], color, name)
        whole.set(title="Critic's loss, without penalty", xlabel="iteration", ylabel="loss")
        close.set(title="The last half", xlabel="iteration", ylabel="loss")
        whole.legend()
        fig.savefig(file, dpi=130, format="png")


def tile(images, columns):
    """Images in rows on white, with two white pixels between them.

    Shapes: images uint8 (n, H, W, C), returns uint8 (rows·(H + 2) − 2, columns·(W + 2) − 2, C).
    """
    n, height, width, channels = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows, height + 2, columns, width + 2, channels), 255, np.uint8)
    for i, image in enumerate(images):
        sheet[i // columns, :height, i % columns, :width] = image
    return sheet.reshape(rows * (height + 2), columns * (width + 2), channels)[:-2, :-2]


def _losses(axes, history):
    step = history.column("step")
    curve(axes, step, history.column("critic_loss"), CRITIC, "critic, without penalty")
    curve(axes, step, history.column("generator_loss"), GENERATOR, "generator")
    if history.column("penalty").any():
        curve(axes, step, history.column("penalty"), "#009E73", "penalty (weighted)")
    axes.set(title="Losses", xlabel="iteration", ylabel="loss")
    axes.legend()


def _gradient_norms(axes, history):
    step = history.column("step")
    curve(axes, step, history.column("critic_gradient"), CRITIC, "critic")
    curve(axes, step, history.column("generator_gradient"), GENERATOR, "generator")
    axes.set(title="Gradient norms", xlabel="iteration", ylabel="‖gradient‖ of all parameters")
    if all((history.column(f"{side}_gradient") > 0).all() for side in ("critic", "generator")):
        axes.set_yscale("log")
    axes.legend()


def points(file, *, title, real, samples, extent):
    """Data and samples in the plane, as a PNG.

    Args:
        file: where to write, a path or an open binary file.
        real, samples: points (n, 2).
        extent: half the side of the square that is shown.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        fig = Figure(figsize=(3.6, 3.6), layout="constrained")
        axes = fig.subplots()
        scatter(axes, real, samples, extent)
        axes.set_title(title)
        fig.savefig(file, dpi=110, format="png")


def trajectory(file, *, title, path, names=("θ, the generator", "ψ, the critic")):
    """Where two numbers went, from the first to the last iteration, as a PNG.

    Args:
        file: where to write, a path or an open binary file.
        path: the two numbers before the first and after every iteration (n, 2).
        names: what they are.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        fig = Figure(figsize=(3.6, 3.6), layout="constrained")
        axes = fig.subplots()
        axes.plot(*path.T, color=CRITIC, lw=0.8, marker=".", ms=2)
        axes.plot(*path[0], "o", color=REAL, ms=6, label="start")
        axes.plot(*path[-1], "o", color=FAKE, ms=6, label="end")
        axes.set(title=title, xlabel=names[0], ylabel=names[1])
        axes.legend()
        fig.savefig(file, dpi=110, format="png")


def columns(file, *, title, history):
    """Every number of a history over the run: losses, gradient norms, and the rest, as a PNG.

    Args:
        file: where to write, a path or an open binary file.
        history: a :class:`tinygan.loop.History`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = [name for name in history.records[0]._fields if name != "step"]
    groups = {
        "losses": [name for name in names if name.endswith("_loss")],
        "‖gradient‖": [name for name in names if name.endswith("_gradient")],
    }
    taken = {name for group in groups.values() for name in group}
    rest = [name for name in names if name not in taken and history.column(name).any()]
    groups = {what: group for what, group in {**groups, "other numbers": rest}.items() if group}
    with rc_context(STYLE):
        fig = Figure(figsize=(4.2 * len(groups), 3.4), layout="constrained")
        fig.suptitle(title, fontsize=11)
        step = history.column("step")
        for axes, (what, group) in zip(
            fig.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True
        ):
            for name, color in zip(group, COLORS, strict=False):
                label = name.removesuffix("_loss").removesuffix("_gradient").replace("_", " ")
                curve(axes, step, history.column(name), color, label)
            axes.set(xlabel="iteration", ylabel=what)
            axes.legend(frameon=True, framealpha=0.8, edgecolor="none")  # it may lie on curves
            values = np.concatenate([history.column(name) for name in group])
            # Else the small ones of very different numbers lie on the axis.
            wide = what == "‖gradient‖" or values.max() > 100 * values.min()
            if values.min() > 0 and wide:
                axes.set_yscale("log")
        fig.savefig(file, dpi=110, format="png")


def toy_evolution(file, *, frames, real, extent, milliseconds=250):
    """A GIF of the samples while they learn.

    Args:
        frames: pairs (iteration, samples), samples (n, 2).
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    images = []
    with rc_context(STYLE):
        for step, samples in frames:
            fig = Figure(figsize=(4, 4), layout="constrained")
            canvas = FigureCanvasAgg(fig)
            axes = fig.subplots()
            scatter(axes, real, samples, extent)
            axes.set_title(f"iteration {step:,}")
            canvas.draw()
            images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    durations = [milliseconds] * (len(images) - 1) + [8 * milliseconds]
    images[0].save(
        file, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0
    )


def png(paint, size, dpi=110, **subplots):
    """A figure in the house style, as the bytes of a PNG.

    >>> png(lambda axes: axes.plot([0, 1]), (4, 3))[:4]
    b'\\x89PNG'

    Args:
        paint: a function that is given what ``Figure.subplots(**subplots)`` returns.
        size: width and height, inches.
        subplots: ``nrows``, ``ncols``, ``sharex``, …
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with rc_context(STYLE):
        fig = Figure(figsize=size, layout="constrained")
        paint(fig.subplots(**subplots))
        fig.savefig(buffer, dpi=dpi, format="png")
    return buffer.getvalue()


def image_panel(axes, images, title, columns=10):
    """Images side by side in axes of their own, under a title.

    Shapes: images uint8 (n, H, W, 1 or 3).
    """
    picture = tile(images, columns)
    picture = picture.repeat(3, 2) if picture.shape[2] == 1 else picture
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title)
    axes.axis("off")


def as_bytes(draw, **kwargs):
    """What ``draw(file, **kwargs)`` writes, as bytes: a file can then be written whole."""
    buffer = io.BytesIO()
    draw(buffer, **kwargs)
    return buffer.getvalue()


def scatter(axes, real, samples, extent):
    """Data and samples in the plane, on the square [−extent, extent]².

    Shapes: real, samples (n, 2).
    """
    axes.plot(*real.T, ".", ms=5, color=REAL, alpha=0.5, mew=0, label="data", rasterized=True)
    axes.plot(*samples.T, ".", ms=2, color=FAKE, alpha=0.7, mew=0, label="samples", rasterized=True)
    axes.set(
        xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xlabel="x₁", ylabel="x₂"
    )


def arrows(axes, points, slopes, color="white"):
    """The direction of a slope at each point of a square grid; none where it is 0.

    Shapes: points, slopes (n·n, 2), as of :func:`tinygan.study.fields.gradient_field`.
    """
    length = np.linalg.norm(slopes, axis=1, keepdims=True)
    spacing = np.ptp(points[:, 0]) / (np.sqrt(len(points)) - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        direction = np.where(length > 0, slopes / length, 0) * 0.7 * spacing
    axes.quiver(
        *points.T, *direction.T, color=color, angles="xy", scale_units="xy", scale=1,
        width=0.003, pivot="mid", alpha=0.85,
    )  # fmt: skip


def curve(axes, step, values, color, label):
    """A thin line of the values and a thick one of their running median."""
    axes.plot(step, values, color=color, lw=0.4, alpha=0.3)
    width = max(1, len(values) // 100)
    if width > 1:
        blocks = len(values) // width
        smooth = np.median(values[: blocks * width].reshape(blocks, width), axis=1)
        step = step[: blocks * width].reshape(blocks, width).mean(axis=1)
    else:
        smooth = values
    axes.plot(step, smooth, color=color, lw=1.6, label=label)


def gradient_histograms(file, *, title, steps, names, counts):
    """How large the entries of each layer's gradient are over a run, as a PNG: a panel a layer.

    The colour is the share of entries of that size in those of the layer that are not 0, on a log
    scale; white is none. The dashed line is P4's threshold, .01. All panels have one scale; sizes
    that no layer has are cut off.

    Args:
        file: where to write, a path or an open binary file.
        steps, names, counts: of :meth:`tinygan.study.layers.Recorder.histograms`.
    Shapes: steps (records,), rising; names (layers,), counts (records, layers, bins).
    Raises: ValueError for counts of another shape, and for steps that do not rise.
    Source: P4, figure 4, which shows the counts below the line alone.
    """
    from matplotlib import rc_context
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    from tinygan.study.layers import EDGES, THRESHOLD

    steps, counts = np.asarray(steps, np.float64), np.asarray(counts)
    expected = (len(steps), len(names), len(EDGES) - 1)
    if counts.shape != expected or 0 in expected or (np.diff(steps) <= 0).any():
        raise ValueError(
            f"gradient_histograms: counts of shape {counts.shape} for {len(steps)} steps and "
            f"{len(names)} names; expected {expected} and rising steps, as of Recorder.histograms"
        )
    whole = counts.sum(axis=2, keepdims=True)
    shares = np.ma.masked_equal(counts / np.maximum(whole, 1), 0)
    held = np.flatnonzero(counts.any(axis=(0, 1)))
    low, high = (EDGES[held[0]], EDGES[held[-1] + 1]) if len(held) else (EDGES[0], EDGES[-1])
    # A record's colour goes half of the way to the next ones.
    half = np.diff(steps) / 2 if len(steps) > 1 else np.array([0.5])
    ends = [steps[0] - half[0], *(steps[:-1] + half[: len(steps) - 1]), steps[-1] + half[-1]]
    down = -(-len(names) // 5)
    across = -(-len(names) // down)
    with rc_context(STYLE):
        fig = Figure(figsize=(1.4 + 1.9 * across, 0.9 + 2.1 * down), layout="constrained")
        fig.suptitle(title, fontsize=11)
        grid = fig.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for i, axes in enumerate(grid.flat):
            if i >= len(names):
                axes.set_visible(False)
                continue
            image = axes.pcolormesh(
                ends, EDGES, shares[:, i].T, norm=LogNorm(1e-3, 1), rasterized=True
            )
            line = axes.axhline(np.log10(THRESHOLD), color=FAKE, lw=1.2, ls="--")
            axes.set(title=f"layer {names[i]}", ylim=(low, high))
            if i % across == 0:
                axes.set_ylabel("log₁₀ |g|")
            if i + across >= len(names):
                axes.set_xlabel("iteration")
                axes.tick_params(labelbottom=True)
        fig.colorbar(image, ax=grid, label="share of entries", extend="min")
        fig.legend([line], [f"|g| = {THRESHOLD:g}"], loc="outside lower right")
        fig.savefig(file, dpi=110, format="png")
