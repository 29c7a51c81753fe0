"""Training: one critic step, one generator step, and the loop around them.

A step is a function of arrays: parameters, data and noise in, new parameters out.
Whom a step holds fixed it is given as plain arrays, so no gradient of theirs exists. An iteration
is the same, so that training records it once and replays it.
"""

import csv
import io
import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinygan import tree as trees
from tinygan.backend import array_module, to_host
from tinygan.engine import grad_values, track
from tinygan.losses import NON_SATURATING, Loss
from tinygan.ops import add, concatenate, square, stack, sum
from tinygan.penalties import Penalty, clip_weights


@dataclass(frozen=True)
class GAN:
    """A game: two models, their objectives, and how each side descends.

    Args:
        generator, critic: models, called as ``model(params, x)``.
        loss: a :class:`tinygan.losses.Loss`.
        generator_optimizer, critic_optimizer: of :mod:`tinygan.optim`; two rates make a TTUR.
        penalty: a :class:`tinygan.penalties.Penalty`, or None.
        clip: limit on the critic's weights after each of its steps, or None; the scales and shifts
            of its norms are left alone unless ``clip_everything``.
        average: average the two halves of the critic's loss instead of summing them.
        one_batch: send real and fake samples through the critic as one batch: the same values to
            rounding, in fewer and larger products. Not for critics that mix samples.
    Raises: ValueError for a clip not above 0, and for one_batch or a penalty with a critic that
        mixes samples.
    """

    generator: Any
    critic: Any
    generator_optimizer: Any
    critic_optimizer: Any
    loss: Loss = NON_SATURATING
    penalty: Penalty | None = None
    clip: float | None = None
    average: bool = False
    one_batch: bool = False
    clip_everything: bool = False

    def __post_init__(self):
        if self.one_batch and getattr(self.critic, "mixes_samples", False):
            raise ValueError(
                "GAN: one_batch with a critic that uses batch norm: its statistics would mix "
                "real and fake samples; expected one_batch=False, or a critic without it"
            )
        if self.penalty is not None and getattr(self.critic, "mixes_samples", False):
            raise ValueError(
                "GAN: a gradient penalty with a critic that uses batch norm: a sample's slope "
                "would hold other samples' slopes. Use layer norm or no norm in the critic"
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"GAN: clip is {self.clip}; expected a limit above 0, or None")

    def init(self, stream, dtype=np.float32):
        """Parameters drawn from ``stream``, and optimisers at rest: a :class:`Players`."""
        g = self.generator.init(stream.child(0), dtype)
        d = self.critic.init(stream.child(1), dtype)
        return Players(g, d, self.generator_optimizer.init(g), self.critic_optimizer.init(d))


class Players(NamedTuple):
    """All that training changes: the parameters of both sides and their optimisers' states."""

    generator: Any
    critic: Any
    generator_state: Any
    critic_state: Any


class Gradients(NamedTuple):
    """A loss, its penalty part, and the gradient of their sum: plain arrays."""

    loss: Any
    penalty: Any
    tree: Any


def critic_gradients(gan, players, real, z, noise=()):
    """The critic's loss on one batch, and its gradient in the critic's parameters.

    ∇_D [ loss(D(x), D(G(z))) + penalty(D, x, G(z)) ]

    Shapes: real (N, ...), z (N, latent), noise as ``gan.penalty.draw`` made it.
    """
    fake = gan.generator(players.generator, z)
    d = track(players.critic, "D")
    if gan.one_batch:
        logits = gan.critic(d, concatenate(real, fake))
        on_real, on_fake = logits[: len(real)], logits[len(real) :]
    else:
        on_real, on_fake = gan.critic(d, real), gan.critic(d, fake)
    loss = gan.loss.critic(on_real, on_fake, gan.average)
    if gan.penalty is None:
        return Gradients(loss.data, None, grad_values(loss, d, release=True))
    penalty = gan.penalty(lambda x: gan.critic(d, x), real, fake, *noise)
    return Gradients(loss.data, penalty.data, grad_values(add(loss, penalty), d, release=True))


def critic_step(gan, players, real, z, noise=(), rate=None):
    """One step of the critic, clipped if the game says so: (new players, :class:`Gradients`)."""
    found = critic_gradients(gan, players, real, z, noise)
    d, state = gan.critic_optimizer.update(players.critic, found.tree, players.critic_state, rate)
    if gan.clip is not None:
        d = clip_weights(d, gan.clip, gan.clip_everything)
    return players._replace(critic=d, critic_state=state), found


def generator_gradients(gan, players, z):
    """The generator's loss on one batch, and its gradient in the generator's parameters.

    ∇_G loss(D(G(z)))
    """
    g = track(players.generator, "G")
    loss = gan.loss.generator(gan.critic(players.critic, gan.generator(g, z)))
    return Gradients(loss.data, None, grad_values(loss, g, release=True))


def generator_step(gan, players, z, rate=None):
    """One step of the generator: (new players, :class:`Gradients`)."""
    found = generator_gradients(gan, players, z)
    g, state = gan.generator_optimizer.update(
        players.generator, found.tree, players.generator_state, rate
    )
    return players._replace(generator=g, generator_state=state), found


def iteration(gan, players, critic_batches, points, critic_rate=None, generator_rate=None):
    """Steps of the critic and then of the generator, as one function of arrays.

    Args:
        critic_batches: (real, z, noise) for each step of the critic, as :func:`critic_step` takes
            them.
        points: z for each step of the generator.
        critic_rate, generator_rate: instead of the optimisers' own.
    Returns: (new players, numbers): of each step its loss, its penalty (0 without one) and the sum
        of squares of its gradient.
    Shapes: numbers (3·steps,), steps in their order.
    """
    numbers = []
    taken = _steps(gan, players, critic_batches, points, critic_rate, generator_rate)
    for *_, players, found in taken:  # noqa: B007, the last ones are returned
        penalty = found.penalty
        if penalty is None:
            penalty = array_module(found.loss).zeros((), found.loss.dtype)
        numbers += [found.loss, penalty, _square_norm(found.tree)]
    return players, stack(*numbers)


def _steps(gan, players, critic_batches, points, critic_rate, generator_rate):
    """Each step of an iteration: (side, its batch, players before and after, Gradients)."""
    for real, z, noise in critic_batches:
        before, (players, found) = players, critic_step(gan, players, real, z, noise, critic_rate)
        yield "critic", real, before, players, found
    for z in points:
        before, (players, found) = players, generator_step(gan, players, z, generator_rate)
        yield "generator", z, before, players, found


def _square_norm(tree):
    """The sum of squares over all leaves."""
    first, *rest = [sum(square(a)) for a in trees.leaves(tree)]
    for other in rest:
        first = add(first, other)
    return first


def normal_prior(stream, shape, dtype):
    """Latent points z ~ N(0, I)."""
    return stream.normal(shape, dtype)


def uniform_prior(stream, shape, dtype):
    """Latent points z ~ U[−1, 1), each component by itself. Source: P0, as in DCGAN."""
    return stream.uniform(shape, dtype) * 2 - 1


class Record(NamedTuple):
    """What one iteration left in the history; floats. Gradients are norms over all parameters."""

    step: int
    critic_loss: float
    penalty: float
    generator_loss: float
    critic_gradient: float
    generator_gradient: float


@dataclass
class History:
    """The records of a run, first to last."""

    records: list = field(default_factory=list)

    def column(self, name):
        """One field of every record, a NumPy array."""
        return np.array([getattr(record, name) for record in self.records])

    def csv(self):
        """A header and a line per record, as text."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(Record._fields)
        writer.writerows(self.records)
        return text.getvalue()


class Diverged(RuntimeError):
    """Training met a number that is not finite. ``players`` and ``history`` are the last good."""

    def __init__(self, message, players, history):
        super().__init__(message)
        self.players = players
        self.history = history


class Run(NamedTuple):
    """What :func:`train` returns."""

    players: Players
    history: History
    interrupted: bool


def train(
    gan,
    players,
    sample,
    steps,
    stream,
    *,
    batch,
    latent,
    critic_steps=1,
    generator_steps=1,
    prior=normal_prior,
    schedule=None,
    record_every=1,
    progress=False,
    watch=None,
    compiled=True,
):
    """Alternate steps of the critic and of the generator, each on a fresh batch.

    Args:
        players: where to start, of ``gan.init``.
        sample: the data, ``sample(n, stream)`` an array (n, ...).
        steps: iterations, each of ``critic_steps`` and then ``generator_steps``.
        stream: the run's random stream; data, latent points and penalty noise are its children
            0, 1 and 2.
        batch, latent: the batch's size, and the generator's number of inputs.
        prior: draws the latent points, ``prior(stream, shape, dtype)``.
        schedule: a function of the iteration (from 0) that multiplies both rates.
        record_every: iterations between records of the history; the last is always recorded.
        progress: show a progress bar.
        watch: ``watch(step, players)`` before the first and after every iteration.
        compiled: record the first iteration and replay it (:func:`tinygan.compile`): the same to
            rounding, and faster. False calls every op from Python, for study, or for models and
            objectives that choose by values.
    Returns: a :class:`Run`. Ctrl-C ends the run early after the last whole iteration.
    Raises: Diverged, with a diagnosis, when a loss, a gradient or a parameter is no longer
        finite; ValueError for sizes below 1, and for an iteration that cannot be recorded;
        TypeError for data of another dtype than the weights.
    Source: Goodfellow et al. (2014) algorithm 1; Arjovsky et al. (2017) algorithm 1 (P4).
    """
    sizes = dict(
        batch=batch, latent=latent, critic_steps=critic_steps, generator_steps=generator_steps
    )
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"train: {name} is {size}; expected at least 1")
    if steps < 0 or record_every < 1:
        raise ValueError(f"train: steps {steps}, record_every {record_every}; expected ≥ 0 and ≥ 1")
    dtype = trees.leaves(players.critic)[0].dtype
    data, points, noise = stream.child(0), stream.child(1), stream.child(2)

    def latent_points():
        return prior(points, (batch, latent), dtype)

    def critic_batch():
        real, z = _batch(sample, batch, data, dtype), latent_points()
        return real, z, gan.penalty.draw(noise, real) if gan.penalty else ()

    step = _compiled(gan) if compiled else partial(iteration, gan)
    history, done, interrupted = History(), 0, False
    previous = players
    bar = _progress_bar(steps, progress)
    try:
        if watch is not None:
            watch(0, players)
        while done < steps:
            factor = 1.0 if schedule is None else schedule(done)
            given = (
                [critic_batch() for _ in range(critic_steps)],
                [latent_points() for _ in range(generator_steps)],
                float(gan.critic_optimizer.rate * factor),
                float(gan.generator_optimizer.rate * factor),
            )
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # Diverged tells
                now, numbers = step(players, *given)
                numbers = to_host(numbers).reshape(-1, 3)
                if not np.isfinite(numbers).all():
                    # An update that overflowed shows only now: the last good players are older.
                    good = players if _finite(players) else previous
                    message = _diagnosis(gan, players, given, numbers, done + 1)
                    raise Diverged(message, good, _before(history, done + (good is players)))
            critic, generator = numbers[critic_steps - 1].tolist(), numbers[-1].tolist()
            new = Record(
                done + 1, *critic[:2], generator[0], math.sqrt(critic[2]), math.sqrt(generator[2])
            )
            # The iteration is taken over whole: Ctrl-C leaves no half of it.
            previous, players, done, record = players, now, done + 1, new
            if done % record_every == 0 or done == steps:
                history.records.append(record)
                bar.set_postfix_str(
                    f"critic {record.critic_loss:.3f} generator {record.generator_loss:.3f}",
                    refresh=False,
                )
            bar.update()
            if watch is not None:
                watch(done, players)
    except KeyboardInterrupt:
        interrupted = True
        if done and (not history.records or history.records[-1].step < done):
            history.records.append(record)
    finally:
        bar.close()
    if not _finite(players):
        raise Diverged(
            f"iteration {done}: its update left parameters that are not finite. Lower the rates",
            previous,
            _before(history, done),
        )
    return Run(players, history, interrupted)


def _compiled(gan):
    """The iteration of a game, compiled; if it cannot be recorded, the error names the way out."""
    from tinygan.replay import compile  # a third of the time that tinygan takes to import

    step = compile(partial(iteration, gan))

    def run(*args):
        try:
            return step(*args)
        except (TypeError, ValueError) as error:
            if not str(error).startswith("trace:"):
                raise
            raise type(error)(
                f"{error}. To train without a recording, give compiled=False (--eager)"
            ) from error

    return run


def _progress_bar(steps, visible):
    from tqdm import tqdm

    return tqdm(total=steps, unit="step", disable=not visible, dynamic_ncols=True)


def _batch(sample, n, stream, dtype):
    """A batch of the data, once it is an array of n samples in the dtype of the weights."""
    real = sample(n, stream)
    if not hasattr(real, "dtype") or real.dtype != dtype:
        raise TypeError(
            f"train: sample gave {getattr(real, 'dtype', type(real).__name__)}; expected an array "
            f"of {dtype}, as the critic's weights. Convert with .astype(np.{dtype})"
        )
    if real.shape[:1] != (n,):
        raise ValueError(f"train: sample({n}, stream) gave shape {real.shape}; expected ({n}, ...)")
    return real


def _before(history, step):
    """The records of the iterations before number ``step``."""
    return History([record for record in history.records if record.step < step])


def _finite(players):
    return all(
        bool(np.isfinite(a).all()) for a in trees.leaves((players.generator, players.critic))
    )


def _diagnosis(gan, players, given, numbers, step):
    """What is not finite, what is large, and what helps: the iteration's steps, one by one.

    Not from the record, whose gradients are gone, but from the same players and batches again.
    """
    for side, batch, before, _, found in _steps(gan, players, *given):
        broken = [name for name, a in _parts(found, batch) if not np.isfinite(a).all()]
        if broken or not np.isfinite(_square_norm(found.tree)):
            return _described(side, broken, step, before)
    loss, penalty, square = numbers[~np.isfinite(numbers).all(1)][0].tolist()
    return (
        f"iteration {step}: as compiled, a step gave the loss {loss:.3g}, the penalty "
        f"{penalty:.3g} and the gradient's squared norm {square:.3g}; step by step all are finite, "
        "but near the end of the numbers' range. Lower the rates"
    )


def _described(side, broken, step, players):
    """The diagnosis of one step of iteration ``step``, before which these were the players."""
    sizes = [
        (float(np.nan_to_num(abs(a).max(), nan=np.inf)), who, path)
        for who, tree in (("generator", players.generator), ("critic", players.critic))
        for path, a in trees.paths(tree)
    ]
    size, owner, path = max(sizes)
    broken = broken or ["the gradient's squared norm"]
    remedy = f"Lower the {owner}'s rate, add or raise a gradient penalty, or check the data's range"
    if side == "critic" and broken[0] == "its input batch":
        remedy = "Check the data: they are not finite"
    return (
        f"iteration {step}: the {side}'s step is no longer finite: {', '.join(broken[:6])}. "
        f"The largest parameter before it was {size:.3g}, in {'DG'[owner == 'generator']}.{path}. "
        f"{remedy}"
    )


def _parts(found, batch):
    yield "its input batch", batch
    yield "the loss", found.loss
    if found.penalty is not None:
        yield "the penalty", found.penalty
    for path, g in trees.paths(found.tree):
        yield f"the gradient of {path}", g
