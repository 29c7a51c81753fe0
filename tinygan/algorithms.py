"""Other ways to play the game of two than in turns: at once, and with an eye on what follows.

In all of them both sides see one batch, both gradients are taken at the same point, and then both
move. They differ in what a side descends:

    Simultaneous      its loss
    Consensus         its loss, plus γ·½‖v‖²: how far the game is from rest
    NagarajanKolter   G its loss, plus η·‖∇_φ L_D‖²: how far D is from rest
    Unrolled          G its loss, against the critic that D will be after K more steps

φ are the parameters of D, θ those of G, and L_D, with the penalty if there is one, and L_G their
losses. The gradients of gradients that this takes are those of :func:`tinygan.grad`; nothing is
approximated. Each way is a function that gives both directions, and a game that moves along them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tinygan import optim
from tinygan import tree as trees
from tinygan.backend import array_module
from tinygan.engine import Tensor, add, grad, grad_values, track, values
from tinygan.game import Game, check_no_noise, draw_samples, square_norm
from tinygan.ops import divide, maximum, multiply, negative, sqrt, square, stack, subtract
from tinygan.penalties import clip_weights
from tinygan.train import GAN, critic_loss, normal_prior, update_critic, update_generator

FLOOR = 1e-30  # of the mean square under Adam's root: its root is 1e-15, nothing beside eps


class Directions(NamedTuple):
    """Both losses, and the gradients that both sides descend: plain arrays.

    ``penalty`` is 0 without one, and ``regularizer`` None where a way has none.
    """

    critic_loss: Any
    penalty: Any
    generator_loss: Any
    critic: Any
    generator: Any
    regularizer: Any = None


class _Sides(NamedTuple):
    """What all ways begin with, as Tensors."""

    g: Any
    d: Any
    fake: Tensor
    loss: Tensor
    penalty: Any
    total: Tensor


def _sides(gan, players, real, z, noise):
    """Both sides tracked, and the loss of D: its gradient in θ goes through the samples."""
    g, d = track(players.generator, "G"), track(players.critic, "D")
    fake = gan.generator(g, z)
    loss, penalty = critic_loss(gan, d, real, fake, noise)
    if penalty is None:
        return _Sides(g, d, fake, loss, array_module(loss.data).zeros((), loss.dtype), loss)
    return _Sides(g, d, fake, loss, penalty.data, add(loss, penalty))


def simultaneous_gradients(gan, players, real, z, noise=()):
    """Both sides' gradients at one point: :class:`Directions`.

    ∇_φ L_D(φ, θ) and ∇_θ L_G(φ, θ)

    Shapes: real (N, ...), z (N, latent), noise as ``gan.penalty.draw`` made it.
    """
    g, d, fake, loss, penalty, total = _sides(gan, players, real, z, noise)
    generator = gan.loss.generator(gan.critic(d, fake))
    return Directions(
        loss.data, penalty, generator.data, grad_values(total, d), grad_values(generator, g)
    )


def consensus_gradients(gan, players, real, z, noise=(), *, weight):
    """Both sides' gradients, and what makes both sides rest: :class:`Directions`.

    ∇_φ [L_D + γ·R] and ∇_θ [L_G + γ·R], R = ½‖v‖², v = (−∇_φ L_D, −∇_θ L_G)

    Each side takes all of R's gradient in its own parameters, that of the other's slope included.
    ``regularizer`` is R.

    Shapes: real (N, ...), z (N, latent), noise as ``gan.penalty.draw`` made it.
    Source: Mescheder et al., The numerics of GANs (2017), algorithm 2.
    """
    g, d, fake, loss, penalty, total = _sides(gan, players, real, z, noise)
    generator = gan.loss.generator(gan.critic(d, fake))
    slopes = grad(total, d), grad(generator, g)
    r = multiply(square_norm(slopes), 0.5)
    pulls = grad_values(r, (d, g))
    critic, towards = trees.tree_map(
        lambda slope, pull: add(slope, multiply(pull, weight)), values(slopes), pulls
    )
    return Directions(loss.data, penalty, generator.data, critic, towards, r.data)


def nagarajan_kolter_gradients(gan, players, real, z, noise=(), *, weight):
    """G avoids what makes D move: :class:`Directions`.

    ∇_φ L_D and ∇_θ [L_G + η·‖∇_φ L_D‖²]

    ``regularizer`` is ‖∇_φ L_D‖².

    Shapes: real (N, ...), z (N, latent), noise as ``gan.penalty.draw`` made it.
    Source: Nagarajan & Kolter, Gradient descent GAN optimization is locally stable (2017),
        section 4.
    """
    g, d, fake, loss, penalty, total = _sides(gan, players, real, z, noise)
    generator = gan.loss.generator(gan.critic(d, fake))
    slope = grad(total, d)
    r = square_norm(slope)
    towards = grad_values(add(generator, multiply(r, weight)), g)
    return Directions(loss.data, penalty, generator.data, values(slope), towards, r.data)


def unrolled_gradients(
    gan, players, real, z, noise=(), *, unroll, rate=None, zero_sum=False, factor=1.0
):
    """D's gradient, and G's against the critic that D will be: :class:`Directions`.

    ∇_φ L_D(φ₀, θ) and d/dθ L_G(φ_K(θ), θ), φ_K of :func:`unrolled_critic`

    d/dθ is the whole derivative: θ moves the samples, and through them each of the K steps.

    Args:
        zero_sum: G minimises −L_D(φ_K(θ), θ), without D's penalty, in place of its own loss. With
            the minimax loss this adds D's term on real samples, which depends on θ through φ_K;
            Metz et al. have it.
        unroll, rate, factor: as in :func:`unrolled_critic`.
    Shapes: real (N, ...), z (N, latent), noise as ``gan.penalty.draw`` made it.
    Source: Metz et al., Unrolled GANs (2017), equations 7 to 9.
    """
    g, d, fake, loss, penalty, total = _sides(gan, players, real, z, noise)
    critic = grad_values(total, d)
    d = unrolled_critic(
        gan, d, players.critic_state, real, fake, noise, unroll=unroll, rate=rate, factor=factor
    )
    if zero_sum:
        generator = negative(critic_loss(replace(gan, penalty=None), d, real, fake)[0])
    else:
        generator = gan.loss.generator(gan.critic(d, fake))
    return Directions(loss.data, penalty, generator.data, critic, grad_values(generator, g))


def unrolled_critic(gan, d, state, real, fake, noise=(), *, unroll, rate=None, factor=1.0):
    """The critic's parameters after K of its steps, as functions of the samples: Tensors.

    φₖ₊₁ = φₖ − rate·∇_φ L_D(φₖ), k = 0 … K − 1; or Adam's step in its place

    All steps see the same batch and the same noise of the penalty, as in the paper's demonstration.
    A clip follows each of them, as it follows D's own; spectral norms keep their singular vectors.

    Args:
        d: Tensors.
        fake: an array, or a Tensor to differentiate in.
        state: of the critic's optimiser: Adam goes on from there.
        unroll: K, 0 or more.
        rate: of plain gradient descent. None takes the steps of the critic's own optimiser, which
            is then :class:`tinygan.optim.SGD` without momentum or :class:`tinygan.optim.Adam`.
        factor: multiplies the rate.
    Shapes: real, fake (N, ...).
    """
    optimizer = optim.SGD(rate) if rate is not None else gan.critic_optimizer
    step = _adam_step if isinstance(optimizer, optim.Adam) else _plain_step
    for _ in range(unroll):
        loss, penalty = critic_loss(gan, d, real, fake, noise)
        slope = grad(loss if penalty is None else add(loss, penalty), d)
        d, state = step(optimizer, d, slope, state, multiply(factor, optimizer.rate))
        if gan.clip is not None:
            d = clip_weights(d, gan.clip, gan.clip_everything)
    return d


def _plain_step(optimizer, params, slope, state, rate):
    """p ← p − rate·g, of Tensors."""
    rate = optim._rounded(rate, trees.leaves(params)[0].data)
    return trees.tree_map(lambda p, s: subtract(p, multiply(s, rate)), params, slope), state


def _adam_step(optimizer, params, slope, state, rate):
    """:class:`tinygan.optim.Adam`'s step of Tensors, which can be differentiated.

    Where a mean square is below FLOOR, exactly 0 above all, its root counts as a constant: the
    root's slope there is infinite, and times the zero slope of the square would be NaN.
    """
    (beta1, beta2), dtype = optimizer.betas, trees.leaves(params)[0].dtype
    t = add(state["step"], 1)
    rate = optim.corrected_rate(rate, t, beta=beta1, dtype=dtype)
    root = optim.corrected_root(t, beta=beta2, dtype=dtype)

    def blended(m, s, decay):
        return add(multiply(m, decay), multiply(s, 1 - decay))

    def moved(p, m, v):
        scale = add(multiply(sqrt(maximum(v, FLOOR)), root), optimizer.eps)
        return subtract(p, divide(multiply(m, rate), scale))

    mean = trees.tree_map(lambda m, s: blended(m, s, beta1), state["mean"], slope)
    squares = trees.tree_map(lambda v, s: blended(v, square(s), beta2), state["square"], slope)
    new = {"step": t, "mean": mean, "square": squares}
    return trees.tree_map(moved, params, mean, squares), new


class _AtOnce(Game):
    """Both directions on one batch, then both updates. Subclasses say which directions."""

    names = ("critic_loss", "penalty", "generator_loss", "critic_gradient", "generator_gradient")
    rates = 2

    def __post_init__(self):
        name = type(self).__name__
        if self.batch < 1:
            raise ValueError(f"{name}: batch is {self.batch}; expected at least 1")
        check_no_noise(name, generator=self.gan.generator, critic=self.gan.critic)

    def init(self, stream, dtype=np.float32):
        """As :meth:`tinygan.train.GAN.init`."""
        return self.gan.init(stream, dtype, self.prior)

    def draw(self, data, streams, step, dtype):
        """(real, z, noise of the penalty) for one iteration; both sides see the same."""
        real = draw_samples(data, self.batch, streams.data, dtype)
        z = self._latent_points(self.batch, streams.points, dtype)
        noise = self.gan.penalty.draw(streams.noise, real) if self.gan.penalty else ()
        return real, z, noise

    def directions(self, players, batch, factor=1.0):
        """What both sides descend on a batch: :class:`Directions`."""
        raise NotImplementedError

    def step(self, players, batch, factor):
        """One iteration. Gradients, as numbers, are the norms of what each side descends."""
        critic, generator = factor if isinstance(factor, tuple) else (factor, factor)
        gan, found = self.gan, self.directions(players, batch, critic)
        norms = [sqrt(square_norm(tree)) for tree in (found.critic, found.generator)]
        more = () if found.regularizer is None else (found.regularizer,)
        rate = multiply(critic, gan.critic_optimizer.rate)
        players = update_critic(gan, players, found.critic, rate)
        rate = multiply(generator, gan.generator_optimizer.rate)
        players = update_generator(gan, players, found.generator, batch[1], rate)
        return players, stack(*found[:3], *norms, *more)

    def generate(self, players, n, stream):
        """n samples, at latent points of the prior."""
        dtype = trees.leaves(players.generator)[0].dtype
        return self.gan.generate(players, self._latent_points(n, stream, dtype))

    def _latent_points(self, n, stream, dtype):
        return self.prior(stream, (n, *self.gan.generator.input), dtype)


def _check_weight(name, weight):
    if not 0 <= weight < float("inf"):
        raise ValueError(f"{name}: weight is {weight}; expected a number of at least 0")


@dataclass(frozen=True)
class Simultaneous(_AtOnce):
    """Both sides move at once, each down its own loss.

    φ ← φ − rate·∇_φ L_D(φ, θ),  θ ← θ − rate·∇_θ L_G(φ, θ), both at the old φ and θ

    Args:
        gan: a :class:`tinygan.train.GAN`.
        batch: samples in a batch.
        prior: draws the latent points, ``prior(stream, shape, dtype)``.
    Raises: ValueError for a batch below 1, and for networks with noise layers.
    Source: Mescheder et al., Which training methods for GANs do actually converge? (2018).
    """

    gan: GAN
    batch: int
    prior: Callable = normal_prior

    def directions(self, players, batch, factor=1.0):
        """:func:`simultaneous_gradients`."""
        return simultaneous_gradients(self.gan, players, *batch)


@dataclass(frozen=True)
class Consensus(_AtOnce):
    """Consensus optimisation: both sides move at once, and both also towards where both rest.

    Args:
        gan, batch, prior: as in :class:`Simultaneous`.
        weight: γ, 0 or more.
    Raises: ValueError as in :class:`Simultaneous`, and for a weight below 0.
    Source: Mescheder et al., The numerics of GANs (2017).
    """

    gan: GAN
    batch: int
    weight: float
    prior: Callable = normal_prior

    names = (*_AtOnce.names, "regularizer")

    def __post_init__(self):
        super().__post_init__()
        _check_weight("Consensus", self.weight)

    def directions(self, players, batch, factor=1.0):
        """:func:`consensus_gradients`."""
        return consensus_gradients(self.gan, players, *batch, weight=self.weight)


@dataclass(frozen=True)
class NagarajanKolter(_AtOnce):
    """Both sides move at once, and G also towards where D rests.

    Args:
        gan, batch, prior: as in :class:`Simultaneous`.
        weight: η, 0 or more.
    Raises: ValueError as in :class:`Simultaneous`, and for a weight below 0.
    Source: Nagarajan & Kolter, Gradient descent GAN optimization is locally stable (2017).
    """

    gan: GAN
    batch: int
    weight: float
    prior: Callable = normal_prior

    names = (*_AtOnce.names, "regularizer")

    def __post_init__(self):
        super().__post_init__()
        _check_weight("NagarajanKolter", self.weight)

    def directions(self, players, batch, factor=1.0):
        """:func:`nagarajan_kolter_gradients`."""
        return nagarajan_kolter_gradients(self.gan, players, *batch, weight=self.weight)


@dataclass(frozen=True)
class Unrolled(_AtOnce):
    """Both sides move at once; G against the critic that D will be after K steps of its own.

    D itself takes one ordinary step. ``generator_loss`` is that against the later critic. K = 0 is
    :class:`Simultaneous`. The demonstration that goes with the paper is ``Unrolled(gan, 512, 5,
    zero_sum=True)`` with Adam for D and the minimax loss.

    Args:
        gan, batch, prior: as in :class:`Simultaneous`.
        unroll: K, 0 or more.
        rate, zero_sum: as in :func:`unrolled_gradients`.
    Raises: ValueError as in :class:`Simultaneous`, for an unroll below 0, a rate not above 0, and
        for an optimiser of the critic whose steps are not known here if there is no rate.
    Source: Metz et al., Unrolled GANs (2017).
    """

    gan: GAN
    batch: int
    unroll: int
    rate: float | None = None
    zero_sum: bool = False
    prior: Callable = normal_prior

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.unroll, (int, np.integer)) or self.unroll < 0:
            raise ValueError(f"Unrolled: unroll is {self.unroll!r}; expected 0 or more steps")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"Unrolled: rate is {self.rate}; expected a number above 0, or None")
        own = self.gan.critic_optimizer
        plain = isinstance(own, optim.SGD) and not own.momentum
        if self.rate is None and not plain and not isinstance(own, optim.Adam):
            raise ValueError(
                f"Unrolled: the critic's optimiser is {own}; expected Adam, or SGD without "
                "momentum, whose steps are differentiated. Give a rate for plain descent instead"
            )

    def directions(self, players, batch, factor=1.0):
        """:func:`unrolled_gradients`."""
        return unrolled_gradients(
            self.gan, players, *batch, unroll=self.unroll, rate=self.rate, zero_sum=self.zero_sum,
            factor=factor,
        )  # fmt: skip
