"""The loop around a game: iterations with a history, a clean stop and a diagnosis."""

import csv
import io
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tinygan import tree as trees
from tinygan.backend import to_host
from tinygan.game import Streams

_LAST = 5  # records that a notebook shows


@dataclass
class History:
    """The records of a run, first to last: named tuples of floats, whose fields are ``names``."""

    records: list = field(default_factory=list)
    names: tuple = ()

    def column(self, name):
        """One field of every record, a NumPy array."""
        return np.array([getattr(record, name) for record in self.records])

    def csv(self):
        """A header and a line per record, as text."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.records[0]._fields if self.records else self.names)
        writer.writerows(self.records)
        return text.getvalue()

    def _repr_html_(self):
        from tinygan import html  # for notebooks alone

        count = len(self.records)
        names = self.records[0]._fields if count else self.names
        rows = [[html.number(x) for x in record] for record in self.records[-_LAST:]]
        which = f", the last {_LAST}" if count > _LAST else ""
        out = html.table(rows, names, f"{count} records{which}", "r" * len(names))
        losses = {name: self.column(name) for name in names if name.endswith("_loss")}
        if count > 1 and losses and "step" in names:
            out += "\n" + html.curves(self.column("step"), losses)
        return out


class Diverged(RuntimeError):
    """Training met a number that is not finite. ``players`` and ``history`` are the last good.

    A parameter that overflowed and then touched no number any more, as behind a ReLU that is shut,
    is found at the end only: the message then says that no good players are known.
    """

    def __init__(self, message, players, history):
        super().__init__(message)
        self.players = players
        self.history = history

    def __reduce__(self):
        return Diverged, (str(self), self.players, self.history)  # an exception's own loses two


class Run(NamedTuple):
    """What :func:`run` returns."""

    players: Any
    history: History
    interrupted: bool


def run(
    game,
    players,
    data,
    steps,
    stream,
    *,
    schedule=None,
    record_every=1,
    progress=False,
    watch=None,
    compiled=True,
):
    """Iterations of a game, each on a fresh draw.

    Args:
        game: a :class:`tinygan.game.Game`.
        players: where to start, of ``game.init``.
        data: ``data(n, stream)``, an array (n, ...); a pair of it and its labels where the game
            needs them.
        steps: iterations.
        stream: the run's random stream; data, latent points and all other noise are its children
            0, 1 and 2. Not the one that ``init`` was given, which takes children too: parameters
            would be made of the numbers of the data.
        schedule: a function of the iteration (from 0) that multiplies all rates.
        record_every: iterations between records of the history; the last is always recorded.
        progress: show a progress bar.
        watch: ``watch(step, players)`` before the first and after every iteration.
        compiled: record the first iteration and replay it (:func:`tinygan.compile`): the same to
            rounding, and faster. False calls every op from Python, for study, or for models and
            objectives that choose by values.
    Returns: a :class:`Run`. Ctrl-C ends the run early after the last whole iteration.
    Raises: Diverged, with a diagnosis, when a number of an iteration or a parameter is no longer
        finite; ValueError for steps below 0 and for an iteration that cannot be recorded;
        what the game raises for data that it cannot use.
    """
    if steps < 0 or record_every < 1:
        raise ValueError(f"train: steps {steps}, record_every {record_every}; expected ≥ 0 and ≥ 1")
    streams = Streams(stream.child(0), stream.child(1), stream.child(2))
    floats = [a.dtype for a in trees.leaves(players) if a.dtype.kind == "f"]
    dtype = floats[0] if floats else np.dtype(np.float32)
    step = _compiled(game) if compiled else game.step
    history = History(names=("step", *game.names))
    done, interrupted, finite, previous = 0, False, None, players
    bar = _progress_bar(steps, progress)
    try:
        if watch is not None:
            watch(0, players)
        while done < steps:
            batch = game.draw(data, streams, done, dtype)
            factor = 1.0 if schedule is None else _factor(schedule(done), game.rates)
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # Diverged tells
                now, numbers = step(players, batch, factor)
                numbers = to_host(numbers)
                if not np.isfinite(numbers).all():
                    # An update that overflowed shows only now: the last good players are older.
                    good = players if _finite(players) else previous
                    message = (
                        f"iteration {done + 1}: {game.diagnosis(players, batch, factor, numbers)}"
                    )
                    raise Diverged(message, good, _before(history, done + (good is players)))
            new = game.record(done + 1, numbers)
            # The iteration is taken over whole: Ctrl-C leaves no half of it.
            previous, players, done, record = players, now, done + 1, new
            if done % record_every == 0 or done == steps:
                history.records.append(record)
                bar.set_postfix_str(
                    " ".join(f"{name} {x:.3f}" for name, x in _losses(record)), refresh=False
                )
            bar.update()
            if watch is not None:
                watch(done, players)
        finite = _finite(players)
    except KeyboardInterrupt:
        interrupted = True
        if done and (not history.records or history.records[-1].step < done):
            history.records.append(record)
    finally:
        bar.close()
    if not (_finite(players) if finite is None else finite):
        which = f"iteration {done}: its update"
        if not _finite(previous):
            which = f"an iteration before {done}, told by none of its numbers: an update"
        raise Diverged(
            f"{which} left parameters that are not finite. Lower the rates",
            previous,
            _before(history, done),
        )
    return Run(players, history, interrupted)


def _compiled(game):
    """A game's iteration, compiled; if it cannot be recorded, the error names the way out."""
    from tinygan.replay import compile  # a third of the time that tinygan takes to import

    step = compile(game.step)

    def replayed(*args):
        try:
            return step(*args)
        except (TypeError, ValueError) as error:
            if not str(error).startswith("trace:"):
                raise
            raise type(error)(
                f"{error}. To train without a recording, give compiled=False (--eager)"
            ) from error

    return replayed


def _progress_bar(steps, visible):
    from tqdm import tqdm

    return tqdm(total=steps, unit="step", disable=not visible, dynamic_ncols=True)


def _losses(record):
    """What a progress bar shows: the losses, by who pays them."""
    pairs = zip(record._fields, record, strict=True)
    return [(name.removesuffix("_loss"), x) for name, x in pairs if name.endswith("_loss")]


def _factor(factor, rates):
    """What a schedule gave, once it is a number, or a tuple of as many as the game has rates."""
    parts = factor if isinstance(factor, tuple) else (factor,) * rates
    good = all(isinstance(part, (int, float, np.number)) and 0 <= part < np.inf for part in parts)
    if len(parts) == rates and good:
        return factor
    pair = ", or a tuple of the critic's and the generator's" if rates == 2 else ""
    kind = type(factor).__name__
    raise TypeError(
        f"train: schedule gave a {kind}, {factor!r}; expected a number of 0 or more{pair}"
    )


def _before(history, step):
    """The records of the iterations before number ``step``."""
    return History([record for record in history.records if record.step < step], history.names)


def _finite(players):
    return all(bool(np.isfinite(a).all()) for a in trees.leaves(players) if a.dtype.kind == "f")
