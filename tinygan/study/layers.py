"""Gradients layer by layer: how large they are, and how many of them vanish.

    seen = Recorder(game, data.sample, Stream(7), every=100)
    run(game, players, data.sample, steps, stream, watch=seen)
    print(seen.csv())

Source: P4, figure 4, which counts the |g| below .01 of each layer of D over the training of a DCGAN
and of a WGAN. A count depends on how large a layer is, and on where the line is drawn: hence the
fractions, the sweep over thresholds and the histograms, of one gradient or over the training:

    steps, names, fractions = seen.course("critic", .01)
    steps, names, counts = seen.histograms("critic")
"""

import csv
import io
import math
import numbers
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tinygan import tree as trees
from tinygan.backend import Stream, to_host
from tinygan.data.images import Shuffled
from tinygan.game import Streams
from tinygan.train import GAN, Alternating, critic_gradients, generator_gradients

SIDES = ("critic", "generator")

THRESHOLD = 0.01
"""P4's: below it, a partial derivative counts as vanished."""

SWEEP = tuple(10.0**k for k in range(-10, 1))
"""Thresholds for :func:`threshold_sweep`, a decade apart."""

EDGES = tuple(k / 2 for k in range(-24, 5))
"""Where the histogram's bins of log₁₀|g| begin and end, −12 to 2 by halves; the first bin takes all
below it too, and the last all above."""


class GradientSummary(NamedTuple):
    """How large the entries of a gradient are: of one parameter, or of a layer.

    Args:
        name: the parameter's path, "conv0.weight", or the layer's, "conv0".
        size: how many entries there are.
        norm: √Σ g².
        largest: max |g|.
        zeros: how many are 0.
        thresholds: t₁, t₂, …
        below: how many are below each: |g| < t.
        histogram: how many that are not 0 have log₁₀|g| in each bin of :data:`EDGES`.
    """

    name: str
    size: int
    norm: float
    largest: float
    zeros: int
    thresholds: tuple
    below: tuple
    histogram: tuple

    @property
    def rms(self):
        """The root of the mean square, ‖g‖/√size: a norm that layers of any size share."""
        return self.norm / math.sqrt(self.size)

    @property
    def fractions(self):
        """The share of entries below each threshold, 0 to 1."""
        return tuple(count / self.size for count in self.below)


def gradient_summary(name, gradient, thresholds=(THRESHOLD,)):
    """What is to be said of one array of a gradient: a :class:`GradientSummary`.

    Sizes are compared in float64, whatever the gradient's dtype is, and the norm does not overflow.

    Args:
        thresholds: numbers above 0.
    Shapes: gradient (...), NumPy or CuPy.
    Raises: TypeError for what is no array of floats; ValueError for an array without entries, for
        entries that are not finite, and for other thresholds.
    """
    thresholds = _thresholds(thresholds)
    if getattr(getattr(gradient, "dtype", None), "kind", "") != "f" or hasattr(gradient, "edges"):
        raise TypeError(
            f"gradient_summary: {name} is a {type(gradient).__name__}; expected an array of "
            "floats, as tinygan.grad_values gives them. Of a Tensor, take .data"
        )
    g = to_host(gradient).ravel()
    if g.size == 0:
        raise ValueError(f"gradient_summary: {name} has no entries; expected at least one")
    broken = g.size - int(np.isfinite(g).sum())
    if broken:
        raise ValueError(
            f"gradient_summary: {broken:,} of the {g.size:,} entries of {name} are not finite; "
            "expected finite gradients. Lower the rates, or look at an earlier iteration"
        )
    sizes = np.sort(np.abs(g.astype(np.float64)))
    largest = float(sizes[-1])
    norm = largest * math.sqrt(np.sum(np.square(sizes / largest))) if largest > 0 else 0.0
    zeros = int(np.searchsorted(sizes, 0.0, side="right"))
    inner = np.searchsorted(sizes, [10.0**edge for edge in EDGES[1:-1]])
    histogram = np.diff(np.concatenate([[zeros], np.maximum(inner, zeros), [g.size]]))
    return GradientSummary(
        name, g.size, norm, largest, zeros, thresholds,
        tuple(np.searchsorted(sizes, thresholds).tolist()), tuple(histogram.tolist()),
    )  # fmt: skip


def leaf_gradients(tree, thresholds=(THRESHOLD,)):
    """A :class:`GradientSummary` of every parameter's gradient, in the order of the tree.

    Spectral norms keep two singular vectors beside their weight, "left" and "right", which nobody
    learns: they are left out.

    Args:
        tree: a gradient shaped like the parameters, as ``critic_gradients(...).tree``.
    Raises: as :func:`gradient_summary`; ValueError for a tree without arrays.
    """
    learned = [
        (path, g)
        for path, g in trees.paths(tree)
        if path.rpartition(".")[2] not in ("left", "right")
    ]
    if not learned:
        raise ValueError("leaf_gradients: a tree without arrays; expected those of a gradient")
    return tuple(gradient_summary(path, g, thresholds) for path, g in learned)


def layer_gradients(tree, thresholds=(THRESHOLD,)):
    """A :class:`GradientSummary` of every layer: its weight, bias, scale and shift together.

    Args, Raises: as :func:`leaf_gradients`.
    """
    return by_layer(leaf_gradients(tree, thresholds))


def by_layer(summaries):
    """Those of parameters, joined to those of their layers: "conv0.weight" belongs to "conv0".

    Sizes and counts add up, norms as √Σ‖·‖², and the largest is the largest.

    Args:
        summaries: of :func:`leaf_gradients`.
    """
    layers = {}
    for each in summaries:
        layers.setdefault(each.name.rpartition(".")[0] or each.name, []).append(each)
    return tuple(joined(name, members) for name, members in layers.items())


def joined(name, summaries):
    """Several summaries as one, under a name: as if of all their entries at once.

    Raises: ValueError for none, and for summaries of different thresholds.
    """
    if len({each.thresholds for each in summaries}) != 1:
        given = [each.thresholds for each in summaries]
        raise ValueError(
            f"joined: {name} is of summaries with the thresholds {given}; expected at least one "
            "summary, and the same thresholds in all"
        )
    return GradientSummary(
        name,
        sum(each.size for each in summaries),
        math.hypot(*(each.norm for each in summaries)),
        max(each.largest for each in summaries),
        sum(each.zeros for each in summaries),
        summaries[0].thresholds,
        tuple(map(sum, zip(*(each.below for each in summaries), strict=True))),
        tuple(map(sum, zip(*(each.histogram for each in summaries), strict=True))),
    )


class Sweep(NamedTuple):
    """Which share of each layer's gradient lies below each of many thresholds.

    Shapes: names and sizes (layers,), thresholds (T,), counts and fractions (layers, T).
    """

    names: tuple
    sizes: np.ndarray
    thresholds: np.ndarray
    counts: np.ndarray
    fractions: np.ndarray


def threshold_sweep(tree, thresholds=SWEEP):
    """The share of |g| below a threshold as a function of it, layer by layer: a :class:`Sweep`.

    F(t) = #{|g| < t}/size, the distribution function of |g|

    What is read off at one threshold holds for that one: the sweep shows whether another would
    have told another story.

    Args, Raises: as :func:`leaf_gradients`.
    """
    found = layer_gradients(tree, thresholds)
    return Sweep(
        tuple(each.name for each in found),
        np.array([each.size for each in found]),
        np.array(found[0].thresholds),
        np.array([each.below for each in found]),
        np.array([each.fractions for each in found]),
    )


class GradientRecord(NamedTuple):
    """What a :class:`Recorder` saw at one iteration: both losses, and a summary per parameter.

    Args:
        step: after how many iterations.
        critic_loss, generator_loss: on the recorder's own batch; the critic's without its penalty.
        critic, generator: of :func:`leaf_gradients`; :func:`by_layer` joins them. () and a loss of
            None for a side that is not recorded.
    """

    step: int
    critic_loss: float | None
    generator_loss: float | None
    critic: tuple
    generator: tuple


class Recorder:
    """Both sides' gradients over a run, layer by layer: a ``watch`` for :func:`tinygan.loop.run`.

    ∇_D [loss(D) + penalty] in D's parameters and ∇_G loss(G) in G's, both at the players as they
    are, on a batch drawn for this alone. The run's own random numbers stay as they are, and so does
    every bit of what it learns.

    Args:
        game: a :class:`tinygan.train.Alternating`; or a :class:`tinygan.train.GAN`, which is taken
            with latent points from N(0, I).
        data: ``data(n, stream)``, samples of the run's data. Of the ``sample`` of a
            :class:`tinygan.data.Shuffled`, which would move on, a copy in an order of its own is
            taken; any other source that keeps a place must be another one than the run's.
        stream: of the recorder's batches. That of iteration i depends on i alone, not on what was
            recorded before.
        every: iterations between records.
        batch: samples in a batch; the game's own without it (64 of a GAN).
        thresholds: as in :func:`gradient_summary`; :data:`SWEEP` for a sweep over the training.
        sides: whose gradients; one alone takes half of the time.
    Raises: TypeError for another game, or what is no stream; ValueError for sizes below 1, and for
        other thresholds or sides. When called: TypeError for players that have no two sides;
        ValueError for gradients that are not finite.
    """

    def __init__(
        self, game, data, stream, *, every=100, batch=None, thresholds=(THRESHOLD,), sides=SIDES
    ):
        if isinstance(game, GAN):
            game = Alternating(game, 64 if batch is None else batch, game.generator.input[0])
        if not isinstance(game, Alternating):
            raise TypeError(
                f"Recorder: game is a {type(game).__name__}; expected a tinygan.train.Alternating, "
                "or a GAN, whose sides have a gradient each. Of another game, give the gradients "
                "to layer_gradients"
            )
        if not isinstance(stream, Stream):
            raise TypeError(
                f"Recorder: stream is a {type(stream).__name__}; expected a tinygan.Stream of the "
                "recorder's own, as Stream(7)"
            )
        if every < 1:
            raise ValueError(f"Recorder: every is {every}; expected 1 or more iterations")
        if not sides or not set(sides) <= set(SIDES):
            raise ValueError(f"Recorder: sides are {sides!r}; expected some of {SIDES}")
        self.game = replace(
            game, batch=game.batch if batch is None else batch, critic_steps=1, generator_steps=1
        )
        self.thresholds = _thresholds(thresholds)
        self.every = every
        self.sides = tuple(side for side in SIDES if side in sides)
        self.records = []
        self._data, self._stream = data, stream

    def __call__(self, step, players):
        """Record the players after ``step`` iterations, if it is time."""
        if step % self.every == 0:
            self.records.append(self.look(step, players))

    def look(self, step, players):
        """A :class:`GradientRecord` of players, which is not kept.

        Args:
            players: with the parameters ``.generator`` and ``.critic``.
        """
        if not hasattr(players, "generator") or not hasattr(players, "critic"):
            raise TypeError(
                f"Recorder: players are a {type(players).__name__}; expected those of its game, "
                "with .generator and .critic"
            )
        own = self._stream.child(step)
        streams = Streams(own.child(0), own.child(1), own.child(2))
        dtype = trees.leaves(players.critic)[0].dtype
        data = _of_its_own(self._data, own.child(3))
        (for_critic,), (for_generator,) = self.game.draw(data, streams, step, dtype)
        found = {
            "critic": lambda: critic_gradients(self.game.gan, players, *for_critic),
            "generator": lambda: generator_gradients(self.game.gan, players, *for_generator),
        }
        losses, summaries = dict.fromkeys(SIDES), dict.fromkeys(SIDES, ())
        for side in self.sides:
            gradients = found[side]()
            losses[side] = float(gradients.loss)
            try:
                summaries[side] = leaf_gradients(gradients.tree, self.thresholds)
            except ValueError as error:
                raise ValueError(f"Recorder: the {side} at iteration {step}: {error}") from error
        return GradientRecord(step, *losses.values(), *summaries.values())

    def at(self, step):
        """The record of an iteration.

        Raises: ValueError for one that was not recorded.
        """
        for record in self.records:
            if record.step == step:
                return record
        steps = [record.step for record in self.records]
        shown = ", ".join(map(str, steps[:6])) + (f", … {steps[-1]}" if len(steps) > 6 else "")
        raise ValueError(
            f"Recorder: no record of iteration {step}; recorded: {shown or 'none yet'}. It records "
            f"every {self.every} iterations"
        )

    def course(self, side="critic", threshold=None):
        """How the share of vanishing gradients went: (steps, names, fractions), layer by layer.

        Of a ``Recorder(..., thresholds=SWEEP)``, this for each t in ``SWEEP`` is what
        :func:`threshold_sweep` would have shown at every record:

            np.stack([seen.course("critic", t)[2] for t in SWEEP], axis=-1)

        of shape (records, layers, T).

        Args:
            side: "critic" or "generator", one that is recorded.
            threshold: one of the recorder's; the first without it.
        Shapes: steps (records,), names (layers,), fractions (records, layers).
        Raises: ValueError for another side or threshold, and without records.
        """
        threshold = self.thresholds[0] if threshold is None else threshold
        if threshold not in self.thresholds or side not in self.sides:
            raise ValueError(
                f"Recorder: the course of {side!r} below {threshold}; expected one of the sides "
                f"{self.sides} and of the thresholds {self.thresholds}"
            )
        at = self.thresholds.index(threshold)
        return self._over_records(side, lambda layer: layer.fractions[at])

    def histograms(self, side="critic"):
        """How the sizes of the gradients went: (steps, names, counts), layer by layer.

        counts[i, l, b] entries of layer l have log₁₀|g| in bin b of :data:`EDGES` at record i;
        those that are 0 are in none. :func:`tinygan.study.plots.gradient_histograms` draws them.

        Args:
            side: "critic" or "generator", one that is recorded.
        Shapes: steps (records,), names (layers,), counts (records, layers, bins).
        Raises: ValueError for another side, and without records.
        """
        if side not in self.sides:
            raise ValueError(
                f"Recorder: the histograms of {side!r}; expected one of the sides {self.sides}"
            )
        return self._over_records(side, lambda layer: layer.histogram)

    def _over_records(self, side, of):
        if not self.records:
            raise ValueError("Recorder: nothing recorded yet; expected a run that it watched")
        layers = [by_layer(getattr(record, side)) for record in self.records]
        return (
            np.array([record.step for record in self.records]),
            tuple(each.name for each in layers[0]),
            np.array([[of(each) for each in row] for row in layers]),
        )

    def table(self, layers=True):
        """Everything that was recorded: a dict for each iteration, side and layer.

        Args:
            layers: False for a row of every parameter instead.
        """
        rows: list[dict[str, Any]] = []
        for record in self.records:
            for side in self.sides:
                found = getattr(record, side)
                for each in by_layer(found) if layers else found:
                    row = {"step": record.step, "side": side, "name": each.name}
                    row |= {"size": each.size, "norm": each.norm, "rms": each.rms}
                    row |= {"largest": each.largest, "zeros": each.zeros}
                    for t, count, share in zip(
                        each.thresholds, each.below, each.fractions, strict=True
                    ):
                        row |= {f"below {t:g}": count, f"fraction below {t:g}": share}
                    rows.append(row)
        return rows

    def csv(self, layers=True):
        """The table as text: a header and a line for each row.

        Raises: ValueError without records.
        """
        rows = self.table(layers)
        if not rows:
            raise ValueError("Recorder: nothing recorded yet; expected a run that it watched")
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _of_its_own(data, stream):
    """The data as nobody else draws them: of shuffled images, in an order of our own."""
    source = getattr(data, "__self__", None)
    if not isinstance(source, Shuffled):
        return data
    mine = Shuffled(source.images, source.scaling, stream.key, source.dtype)
    return getattr(mine, data.__name__)


def _thresholds(thresholds):
    found = tuple(thresholds) if np.iterable(thresholds) else ()
    if not found or not all(_is_number(t) and 0 < t < math.inf for t in found):
        raise ValueError(
            f"gradient_summary: thresholds are {thresholds!r}; expected a tuple of one or more "
            "numbers above 0, such as P4's (0.01,)"
        )
    return tuple(map(float, found))


def _is_number(t):
    return isinstance(t, numbers.Real) and not isinstance(t, bool)  # NumPy's are registered
