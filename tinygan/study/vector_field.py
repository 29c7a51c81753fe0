"""Two players as a dynamical system: where a game moves, as a flow and as discrete maps.

The two sides' parameters (θ, φ), of G and of D, are one point of a space, and a game moves it. All
functions here make functions of that point, a pair of trees such as ``players[:2]``:

    vector_field      v(θ, φ), what gradient descent in continuous time follows
    simultaneous_map  one iteration of both sides at once
    alternating_map   one iteration in turns, as one map
    flow_map          a short time along a vector field

Given arrays they answer with arrays; given Tensors with Tensors, so that
:mod:`tinygan.study.spectrum` can differentiate them, to any order. The batch is fixed: real
samples, latent points and the penalty's noise are the same at every point.

>>> import tinygan as tg
>>> from tinygan.models import DiracCritic, DiracGenerator
>>> sgd = tg.optim.SGD(0.2)
>>> gan = tg.train.GAN(DiracGenerator(1.0), DiracCritic(-1.0), sgd, sgd, tg.losses.MINIMAX)
>>> start = gan.init(tg.Stream(0), np.float64)[:2]
>>> batch = np.zeros((1, 1)), np.zeros((1, 1))
>>> path(alternating_map(gan, *batch, generator_first=True), start, 500).shape
(501, 2)
"""

import numpy as np

from tinygan import optim
from tinygan import tree as trees
from tinygan.backend import array_module, to_host
from tinygan.engine import Tensor, grad, track, values
from tinygan.game import check_no_noise
from tinygan.ops import add, multiply, negative, reshape, subtract
from tinygan.penalties import clip_weights
from tinygan.spectral import has_spectral_norm
from tinygan.study.fields import grid_points
from tinygan.train import critic_loss

# Points: a pair of trees, or all its numbers in a row.


def flatten(pair):
    """All numbers of a tree in one row, on the host: those of G first, if it is (θ, φ).

    Shapes: returns (n,).
    """
    return np.concatenate([to_host(a).ravel() for a in trees.leaves(values(pair))])


def unflatten(row, like):
    """The tree like another whose numbers, in a row, these are; where its arrays live.

    Shapes: row (n,), n the number of numbers in ``like``.
    Raises: ValueError for a row of another length.
    """
    leaves = trees.leaves(values(like))
    n = sum(a.size for a in leaves)
    if np.shape(row) != (n,):
        raise ValueError(
            f"unflatten: a row of shape {np.shape(row)} for parameters of {n} numbers; expected "
            f"({n},), as flatten gives them"
        )
    ends = np.cumsum([a.size for a in leaves])[:-1]
    parts = zip(np.split(np.asarray(row), ends), leaves, strict=True)
    found = [array_module(a).asarray(part.reshape(a.shape), dtype=a.dtype) for part, a in parts]
    return trees.rebuild(like, found)


# Vector fields and maps


def vector_field(gan, real, z, noise=()):
    """Where both sides want to go: a function of (θ, φ) that gives (θ̇, φ̇).

    v(θ, φ) = (−∇_θ L_G(θ, φ), −∇_φ L_D(θ, φ)), L_D with its penalty

    A clip of the game is no part of it.

    Args:
        gan: a :class:`tinygan.train.GAN`.
        noise: as ``gan.penalty.draw`` made it.
    Shapes: real (N, ...), z (N, latent).
    Raises: ValueError for networks with noise layers or spectral norms.
    Source: Mescheder et al., The numerics of GANs (2017), section 2; Nagarajan & Kolter (2017).
    """
    _check("vector_field", gan)

    def v(pair):
        g, d = pair
        slopes = _generator_slope(gan, g, d, z), _critic_slope(gan, g, d, real, z, noise)
        return trees.tree_map(negative, slopes)

    return _in_kind("vector_field", v)


def simultaneous_map(gan, real, z, noise=(), rate=None):
    """One iteration of :class:`tinygan.algorithms.Simultaneous`: a function of (θ, φ).

    F(x) = x + h·v(x), and D's clip if there is one

    Args:
        rate: h, for both sides; None takes those of the game's optimisers, plain SGD.
        gan, real, z, noise: as in :func:`vector_field`.
    Raises: ValueError as in :func:`vector_field`, for a rate not above 0, and for other optimisers
        without a rate.
    Source: Mescheder et al., Which training methods for GANs do actually converge? (2018).
    """
    _check("simultaneous_map", gan)
    rate_g, rate_d = _rates("simultaneous_map", gan, rate)

    def move(pair):
        g, d = pair
        down_g, down_d = _generator_slope(gan, g, d, z), _critic_slope(gan, g, d, real, z, noise)
        return _moved(g, down_g, rate_g), _clipped(gan, _moved(d, down_d, rate_d))

    return _in_kind("simultaneous_map", move)


def alternating_map(
    gan, real, z, noise=(), rate=None, *, critic_steps=1, generator_steps=1, generator_first=False
):
    """One iteration of :class:`tinygan.train.Alternating` as one map: a function of (θ, φ).

    F = F_G ∘ F_D, each side's steps from where the other's have led; F_D ∘ F_G with
    ``generator_first``

    Every step sees the same batch.

    Args:
        rate: h, as in :func:`simultaneous_map`.
        critic_steps, generator_steps: of an iteration, 1 or more.
        gan, real, z, noise: as in :func:`vector_field`.
    Raises: ValueError as in :func:`simultaneous_map`, and for less than one step.
    Source: Mescheder et al. (2018), section 2.2; P3 proposition 2 (Fixed-Alt-GD).
    """
    _check("alternating_map", gan)
    rate_g, rate_d = _rates("alternating_map", gan, rate)
    for name, n in {"critic_steps": critic_steps, "generator_steps": generator_steps}.items():
        if n < 1:
            raise ValueError(f"alternating_map: {name} is {n}; expected at least 1")
    turns = ["critic"] * critic_steps + ["generator"] * generator_steps
    if generator_first:
        turns.reverse()

    def move(pair):
        g, d = pair
        for side in turns:
            if side == "critic":
                down = _critic_slope(gan, g, d, real, z, noise)
                d = _clipped(gan, _moved(d, down, rate_d))
            else:
                g = _moved(g, _generator_slope(gan, g, d, z), rate_g)
        return g, d

    return _in_kind("alternating_map", move)


def flow_map(v, time):
    """A short time along a vector field, by the Runge-Kutta method of order 4: a function of x.

    F(x) = x + t/6·(k₁ + 2k₂ + 2k₃ + k₄), k₁ = v(x), k₂ = v(x + t/2·k₁), k₃ = v(x + t/2·k₂),
    k₄ = v(x + t·k₃)

    Args:
        v: a function of a tree, of :func:`vector_field` or your own.
        time: t.
    Raises: ValueError for a time not above 0.
    """
    if not 0 < time < float("inf"):
        raise ValueError(f"flow_map: time is {time}; expected a number above 0")

    def along(x, k, t):
        return trees.tree_map(lambda a, b: add(a, multiply(b, t)), x, k)

    def move(x):
        k1 = v(x)
        k2 = v(along(x, k1, time / 2))
        k3 = v(along(x, k2, time / 2))
        k4 = v(along(x, k3, time))
        for k, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
            x = along(x, k, weight * time / 6)
        return x

    return move


# Where they lead


def path(move, start, steps):
    """Where a map leads: the point before the first and after every step.

    xₖ₊₁ = F(xₖ)

    Args:
        move: F, of :func:`simultaneous_map`, :func:`alternating_map` or :func:`flow_map`.
        start: a pair of trees of arrays.
    Shapes: returns (steps + 1, n), rows as of :func:`flatten`: (θ, ψ) of the Dirac-GAN.
    Raises: ValueError for less than 0 steps, for a start that is not finite, and where a number is
        no longer finite.
    """
    if steps < 0:
        raise ValueError(f"path: steps is {steps}; expected 0 or more")
    point, rows = start, [flatten(start)]
    broken = rows[0].size - int(np.isfinite(rows[0]).sum())
    if broken:
        raise ValueError(
            f"path: {broken:,} of the {rows[0].size:,} numbers of the start are not finite; "
            "expected finite ones (did training diverge?)"
        )
    for i in range(steps):
        with np.errstate(over="ignore", invalid="ignore"):  # said in words, below
            point = move(point)
        rows.append(flatten(point))
        if not np.isfinite(rows[-1]).all():
            raise ValueError(
                f"path: after {i + 1} of {steps} steps a number is not finite, and none before it "
                f"was above {np.abs(rows[-2]).max():.3g}; take fewer steps, or a smaller rate"
            )
    return np.array(rows)


def field_on_grid(v, like, extent, n=20):
    """A vector field of two numbers on :func:`tinygan.study.fields.grid_points`, for a picture.

    Args:
        v: of :func:`vector_field`, or any function of a tree that gives one like it.
        like: a pair of trees that hold two numbers in all, as those of a Dirac-GAN.
    Shapes: points and velocities (n·n, 2).
    Raises: ValueError for parameters of more or less than two numbers.
    """
    size = flatten(like).size
    if size != 2:
        raise ValueError(
            f"field_on_grid: parameters of {size} numbers; expected two, as of a Dirac-GAN. Of "
            "larger games study.spectrum shows the eigenvalues"
        )
    points = grid_points(extent, n)
    return points, np.array([flatten(v(unflatten(point, like))) for point in points])


# Each side's slope, in its own parameters alone


def _critic_slope(gan, g, d, real, z, noise):
    """∇_φ L_D. In turns θ may depend on φ by a step before: φ counts there as another."""
    own = _apart(d)
    loss, penalty = critic_loss(gan, own, real, gan.generator(g, z), noise)
    return grad(loss if penalty is None else add(loss, penalty), own)


def _generator_slope(gan, g, d, z):
    """∇_θ L_G, likewise."""
    own = _apart(g)
    return grad(gan.loss.generator(gan.critic(d, gan.generator(own, z))), own)


def _apart(tree):
    """Nodes of their own with the same values: a slope in them does not go through the tree."""
    return trees.tree_map(lambda a: reshape(a, shape=a.shape), tree)


def _moved(tree, slope, rate):
    return trees.tree_map(lambda p, s: subtract(p, multiply(s, rate)), tree, slope)


def _clipped(gan, d):
    return d if gan.clip is None else clip_weights(d, gan.clip, gan.clip_everything)


def _in_kind(name, f):
    """f of a pair of Tensors, as a function that also answers arrays with arrays."""

    def answered(pair):
        if type(pair) is not tuple or len(pair) != 2:
            found = f"{type(pair).__name__} of {len(pair)}" if hasattr(pair, "__len__") else pair
            raise ValueError(
                f"{name}: the point is a {found}; expected the pair (θ, φ), as players[:2]"
            )
        if any(type(a) is Tensor for a in trees.leaves(pair)):
            return f(pair)
        return values(f(track(pair)))

    return answered


def _check(name, gan):
    check_no_noise(name, generator=gan.generator, critic=gan.critic)
    for side, model in {"generator": gan.generator, "critic": gan.critic}.items():
        if has_spectral_norm(model):
            raise ValueError(
                f"{name}: the {side} has spectral norms, whose singular vectors move with every "
                "step but by no gradient; expected networks without"
            )


def _rates(name, gan, rate):
    """Of G and of D."""
    if rate is not None:
        if not 0 < rate < float("inf"):
            raise ValueError(f"{name}: rate is {rate}; expected a number above 0, or None")
        return rate, rate
    sides = gan.generator_optimizer, gan.critic_optimizer
    for optimizer in sides:
        if not isinstance(optimizer, optim.SGD) or optimizer.momentum:
            raise ValueError(
                f"{name}: an optimiser is {optimizer}, whose state would be a part of the point; "
                "expected SGD without momentum. Give a rate for plain descent instead"
            )
    return tuple(optimizer.rate for optimizer in sides)
