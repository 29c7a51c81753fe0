"""Training: one critic step, one generator step, and the loop around them.

A step is a function of arrays: parameters, data and noise in, new parameters out.
Whom a step holds fixed it is given as plain arrays, so no gradient of theirs exists.
"""

import csv
import io
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tinygan import tree as trees
from tinygan.engine import grad_values, track
from tinygan.losses import NON_SATURATING, Loss
from tinygan.ops import add, concatenate
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
    Returns: a :class:`Run`. Ctrl-C ends the run early after the last whole iteration.
    Raises: Diverged, with a diagnosis, when a loss, a gradient or a parameter is no longer
        finite; ValueError for sizes below 1; TypeError for data of another dtype than the weights.
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
    history, done, interrupted = History(), 0, False
    previous = players
    bar = _progress_bar(steps, progress)
    try:
        if watch is not None:
            watch(0, players)
        while done < steps:
            factor = 1.0 if schedule is None else schedule(done)
            now, good = players, (players, previous, history)
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # Diverged tells
                for _ in range(critic_steps):
                    real, z = (
                        _batch(sample, batch, data, dtype),
                        prior(points, (batch, latent), dtype),
                    )
                    extra = gan.penalty.draw(noise, real) if gan.penalty else ()
                    rate = gan.critic_optimizer.rate * factor
                    before, (now, critic) = now, critic_step(gan, now, real, z, extra, rate)
                    d_norm = _checked("critic", critic, real, done, before, good)
                rate = gan.generator_optimizer.rate * factor
                for _ in range(generator_steps):
                    z = prior(points, (batch, latent), dtype)
                    before, (now, generator) = now, generator_step(gan, now, z, rate)
                    g_norm = _checked("generator", generator, z, done, before, good)
            penalty = 0.0 if critic.penalty is None else float(critic.penalty)
            record = Record(
                done + 1, float(critic.loss), penalty, float(generator.loss), d_norm, g_norm
            )
            # The iteration is taken over whole: Ctrl-C leaves no half of it.
            previous, players, done = players, now, done + 1
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


def _checked(side, found, batch, step, before, good):
    """The norm of a gradient; Diverged if it or the loss is not finite."""
    total = 0.0
    for g in trees.leaves(found.tree):
        flat = g.reshape(-1)
        total += float(flat @ flat)
    loss = float(found.loss) + (0.0 if found.penalty is None else float(found.penalty))
    if math.isfinite(total) and math.isfinite(loss):
        return math.sqrt(total)
    players, previous, history = good
    # An update that overflowed shows only now: the last good players are those before it.
    if not _finite(players):
        players, history = previous, _before(history, step)
    raise Diverged(_diagnosis(side, found, batch, step, before), players, history)


def _before(history, step):
    """The records of the iterations before number ``step``."""
    return History([record for record in history.records if record.step < step])


def _finite(players):
    return all(
        bool(np.isfinite(a).all()) for a in trees.leaves((players.generator, players.critic))
    )


def _diagnosis(side, found, batch, step, players):
    """What is not finite, what is large, and what helps."""
    finite = {name: bool(np.isfinite(a).all()) for name, a in _parts(found, batch)}
    broken = [name for name, good in finite.items() if not good] or ["the gradient's squared norm"]
    sizes = [
        (float(np.nan_to_num(abs(a).max(), nan=np.inf)), who, path)
        for who, tree in (("generator", players.generator), ("critic", players.critic))
        for path, a in trees.paths(tree)
    ]
    size, owner, path = max(sizes)
    remedy = f"Lower the {owner}'s rate, add or raise a gradient penalty, or check the data's range"
    if side == "critic" and broken[0] == "its input batch":
        remedy = "Check the data: they are not finite"
    return (
        f"iteration {step + 1}: the {side}'s step is no longer finite: {', '.join(broken[:6])}. "
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
