"""What training needs of a game, and the one way in which its players descend.

A game says who plays, what one iteration draws, and what it does with that. Drawing is apart from
playing, so that an iteration is a function of arrays: :func:`tinygan.loop.run` records it once
and replays it. :mod:`tinygan.train` has the game of two that most papers play, and
:mod:`tinygan.systems` the others.
"""

from collections import namedtuple
from functools import cache
from typing import NamedTuple

import numpy as np

from tinygan import tree as trees
from tinygan.backend import Stream
from tinygan.engine import add, grad_values, values
from tinygan.ops import multiply, square, sum
from tinygan.spectral import refreshed


class Streams(NamedTuple):
    """The random streams of a run: of the data, of latent points and codes, of all other noise."""

    data: Stream
    points: Stream
    noise: Stream


class Game:
    """A game, as :func:`tinygan.loop.run` trains it.

    A subclass is a frozen dataclass of models, optimisers and choices, without arrays. Its players,
    all that training changes, are a named tuple of trees of arrays.

    ``names`` are what the numbers of an iteration are, fields of the history's records; ``rates``
    is 2 for a game whose schedule may give a tuple, of the critic's factor and the generator's.
    """

    names = ()
    rates = 1

    def init(self, stream, dtype=np.float32):
        """The players before training: parameters drawn from ``stream``, optimisers at rest."""
        raise NotImplementedError

    def draw(self, data, streams, step, dtype):
        """All that is random in one iteration: a tree of arrays.

        Args:
            data: ``data(n, stream)`` gives n samples; with their labels, if the game needs them.
            streams: a :class:`Streams`.
            step: the iteration, from 0, for what is scheduled.
        """
        raise NotImplementedError

    def step(self, players, batch, factor):
        """One iteration, by primitives only: (new players, numbers).

        Args:
            batch: of :meth:`draw`.
            factor: multiplies every optimiser's rate, a number or a 0-d array.
        Shapes: numbers (len(names),), or more for a game with a ``record`` of its own.
        """
        raise NotImplementedError

    def generate(self, players, n, stream):
        """n samples G(z), on the stream's device: of a game with a ``generator`` and a ``prior``.

        Shapes: returns (n, ...).
        """
        if not hasattr(self, "generator"):
            raise NotImplementedError(f"{type(self).__name__} has no generate of its own")
        dtype = trees.leaves(players.generator)[0].dtype
        z = self.prior(stream, (n, *self.generator.input), dtype)
        return self.generator(players.generator, z)

    def record(self, step, numbers):
        """What the history keeps of an iteration: a named tuple of ``step`` and ``names``."""
        return record_type(self.names)(step, *numbers.tolist())

    def diagnosis(self, players, batch, factor, numbers):
        """What is not finite in an iteration that these players began, and what helps."""
        drawn = [a for a in trees.leaves(batch) if getattr(a, "dtype", np.dtype(int)).kind == "f"]
        if not all(bool(np.isfinite(a).all()) for a in drawn):
            return "what it drew is not finite. Check the data: they are not"
        broken = [
            name for name, value in zip(self.names, numbers, strict=True) if not np.isfinite(value)
        ]
        sizes = [
            (float(np.nan_to_num(abs(a).max(), nan=np.inf)), path)
            for path, a in trees.paths(players, fields=True)
            if a.size and a.dtype.kind == "f"
        ]
        size, path = max(sizes, default=(0.0, "nothing"))
        return (
            f"{', '.join(broken)} is not finite. The largest number before it was {size:.3g}, in "
            f"{path}. Lower the rates, or check the data's range"
        )


@cache
def record_type(names):
    """The type of a history's records: a named tuple of "step" and these names."""
    kind = namedtuple("Record", ("step", *names))
    kind.__reduce__ = lambda self: (
        _record,
        (self._fields[1:], tuple(self)),
    )  # made here, not there
    return kind


def _record(names, fields):
    return record_type(names)(*fields)


class Descent(NamedTuple):
    """A player after a step: its parameters, its optimiser's state, its gradient's ‖·‖²."""

    params: object
    state: object
    square: object


def descend(loss, tracked, optimizer, state, factor=1.0):
    """One step of one player down its loss: a :class:`Descent`. Spectral norms are refreshed.

    Args:
        loss: a scalar Tensor, made of ``tracked``.
        tracked: the player's parameters, as :func:`tinygan.track` made them.
        factor: multiplies the optimiser's rate.
    """
    gradient = grad_values(loss, tracked, release=True)
    params, state = optimizer.update(
        values(tracked), gradient, state, multiply(factor, optimizer.rate)
    )
    return Descent(refreshed(params), state, square_norm(gradient))


def draw_samples(data, n, stream, dtype):
    """A batch of the data, once it is what a game can use.

    Shapes: returns (n, ...).
    Raises: as :func:`expect_samples`.
    """
    return expect_samples(data(n, stream), n, dtype)


def expect_samples(samples, n, dtype, shape=None, who="data"):
    """The data's samples, once they are an array of n in the dtype of the weights.

    Args:
        shape: of one sample; None for any.
        who: begins the messages, such as the name of a game.
    Shapes: samples (n, ...), returned as they are.
    Raises: TypeError for what is no array, for a pair with labels, and for another dtype;
        ValueError for another shape.
    """
    if isinstance(samples, tuple):
        raise TypeError(
            f"{who}: sample gave a tuple, as of samples with their labels; expected the samples "
            "alone, an array. Image sets give them by Shuffled.sample"
        )
    dtype = np.dtype(dtype)
    if not hasattr(samples, "dtype") or samples.dtype != dtype:
        raise TypeError(
            f"{who}: sample gave {getattr(samples, 'dtype', type(samples).__name__)}; expected an "
            f"array of {dtype}, as the weights. Convert with .astype(np.{dtype})"
        )
    if samples.shape[:1] != (n,) or shape is not None and samples.shape[1:] != tuple(shape):
        rest = ", ".join(["..."] if shape is None else map(str, shape))
        raise ValueError(
            f"{who}: sample({n}, stream) gave shape {samples.shape}; expected ({n}, {rest})"
        )
    return samples


def check_no_noise(game, **models):
    """That no network draws noise in its layers, for a game that does not hand it out.

    Args:
        game: its name.
        models: networks and auto-encoders, by what they are in the game.
    Raises: ValueError for a network with dropout or noise layers.
    """
    for name, model in models.items():
        networks = (model.encoder, model.decoder) if hasattr(model, "decoder") else (model,)
        if any(hasattr(net, "draw") and net.draw(Stream(0), 1) for net in networks):
            raise ValueError(
                f"{game}: the {name} draws noise in its layers, which this game does not hand "
                "out; expected networks without dropout and noise layers"
            )


def square_norm(tree):
    """The sum of squares over all leaves of a tree of arrays or Tensors.

    Σ a², a scalar
    """
    first, *rest = [sum(square(a)) for a in trees.leaves(tree)]
    for other in rest:
        first = add(first, other)
    return first
