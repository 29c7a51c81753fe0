"""Gradient penalties: one function with four choices, and its named presets.

    P = E over points x of (‖∇ₓ d(x)‖ − c)²

- where: interpolates, real, fake, real and fake, DRAGAN's perturbed reals, or any points;
- centre c: 0, 1 or any;
- side: both, or only norms above c, max(0, ‖∇‖ − c)²;
- of what: d is the logit D(x), or a function of it, such as σ(D(x)).

∇ₓ is taken with :func:`tinygan.grad`, so P can be differentiated in the critic's
weights, to any order. Norms are per sample, over all components of a sample.
λ multiplies E[...]; Mescheder's γ/2 is our λ, so λ = γ/2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tinygan import tree as trees
from tinygan.engine import Tensor, grad, tape, track
from tinygan.ops import (
    add,
    clip,
    concatenate,
    mean,
    multiply,
    relu,
    reshape,
    sample_norm,
    sample_square_norm,
    sqrt,
    square,
    subtract,
    sum,
    variance,
)


def gradient_penalty(critic, points, *, centre=0.0, one_sided=False, of=None, insist=False):
    """The penalty on the norm of the critic's slope at given points.

    E (‖∇ₓ d(x)‖ − centre)², or E max(0, ‖∇ₓ d(x)‖ − centre)² if one-sided; d = of(D)

    With centre 0 this is a mean of squares without a square root. Elsewhere the norm has
    subgradient 0 at 0: a zero slope gives no NaN, and no push either.

    Args:
        critic: a function of points alone that returns one logit each; its weights, if they
            are Tensors, collect the penalty's gradient.
        points: an array, or a Tensor to differentiate in the points as well.
        of: what is penalised, a function of the logit; None is the logit itself.
        insist: allow critics whose op mixes samples, for study.
    Shapes: points (N, ...), critic(points) (N,) or (N, 1); a scalar.
    Raises: ValueError for a critic that mixes samples (batch norm), for logits of another
        shape, and for a negative centre.
    Source: P3 equations 6 and 7; Gulrajani et al. (2017); Petzka et al. (2018); Mescheder et
        al. (2018).
    """
    _check_centre("gradient_penalty", centre)
    slopes, _ = _slopes(critic, points, of, insist)
    if centre == 0:
        return mean(sample_square_norm(slopes))
    excess = subtract(sample_norm(slopes), centre)
    return mean(square(relu(excess) if one_sided else excess))


def two_term_penalty(critic, real, fake, slope_weight, difference_weight, *, of=None):
    """The form that P3 considers and rejects: flat at the samples, and equal in pairs.

    λ₁·E ‖∇ᵥ d(v)‖² + λ₂·E (d(x) − d(y))², v over real and fake, (x, y) in pairs

    A critic can make both small and still be steep between the samples.

    Source: P3 section 3.2, there with minus signs for a maximiser.
    """
    if real.shape != fake.shape:
        raise ValueError(
            f"two_term_penalty: real {real.shape} and fake {fake.shape} make no pairs; expected "
            "equal shapes"
        )
    slopes, values = _slopes(critic, concatenate(real, fake), of, False)
    difference = subtract(values[: real.shape[0]], values[real.shape[0] :])
    return add(
        multiply(mean(sample_square_norm(slopes)), slope_weight),
        multiply(mean(square(difference)), difference_weight),
    )


def _check_centre(where, centre):
    if not centre >= 0:
        raise ValueError(f"{where}: centre is {centre}; expected 0 or more, as for norms")


def _slopes(critic, points, of, insist):
    """(∇ₓ d(x), d(x)) at each point."""
    # A node of its own: of an unrolled critic the weights depend on the samples too, and the slope
    # in x is that with the weights held.
    own = type(points) is Tensor
    x = reshape(points, shape=points.shape) if own else track(points, "points")
    y = critic(x)
    if y.size != x.shape[0] or y.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"gradient_penalty: the critic gave {y.shape} for points {x.shape}; expected one "
            f"logit for each sample, ({x.shape[0]},) or ({x.shape[0]}, 1)"
        )
    y = y if of is None else of(y)
    if type(y) is not Tensor:
        y = Tensor(y)  # a critic that ignores its input: slope 0
    for node in tape([y], {id(x)}):
        if node is x or node.op is None:
            continue
        if node.op.mixes_samples(node.params) and not insist:
            raise ValueError(
                f"gradient_penalty: the critic uses {node.op.__name__}, which mixes the samples of "
                "a batch (batch norm does). A sample's slope would then hold other samples' "
                "slopes, and the penalty would not be the one of the papers. Use layer norm or no "
                "normalisation in the critic, or call gradient_penalty with insist=True"
            )
    return grad(sum(y), x), y


# Where. A pair: the noise to draw for a batch, and the points it places.


class Points(NamedTuple):
    """``draw(stream, real)`` gives a tuple of noise arrays, ``place(real, fake, *noise)`` points.

    Drawing is apart so that a step is a function of arrays only.
    """

    draw: Callable
    place: Callable


def interpolates(real, fake, alpha):
    """Points on the segments between pairs of real and fake samples.

    x̂ = α·x + (1 − α)·y, one α per sample

    Shapes: real, fake (N, ...), alpha (N, 1, ...).
    Raises: ValueError if real and fake make no pairs, or alpha is not one number per sample.
    """
    if real.shape != fake.shape or real.dtype != fake.dtype:
        raise ValueError(
            f"interpolates: real {real.dtype}{list(real.shape)} and fake "
            f"{fake.dtype}{list(fake.shape)} make no pairs; expected equal shapes and dtypes"
        )
    _check_alpha("interpolates", real, alpha)
    return add(multiply(real, alpha), multiply(fake, subtract(1.0, alpha)))


def dragan_points(real, fake, alpha, u):
    """Real samples, perturbed.

    x̂ = x + α·½·std(X)·u, u ~ U[0, 1) per component, one α per sample, std over the batch's
    every component

    Source: Kodali et al., On convergence and stability of GANs (2017), their code.
    """
    _check_alpha("dragan_points", real, alpha)
    spread = multiply(sqrt(variance(real)), 0.5)
    return add(real, multiply(multiply(u, alpha), spread))


def _check_alpha(where, real, alpha):
    per_sample = (real.shape[0],) + (1,) * (real.ndim - 1)
    if alpha.shape != per_sample:
        raise ValueError(
            f"{where}: alpha has shape {alpha.shape} for samples {real.shape}; expected "
            f"{per_sample}, one number per sample, or points leave the segments"
        )


def _draw_alpha(stream, real):
    return (stream.uniform((real.shape[0],) + (1,) * (real.ndim - 1), real.dtype),)


def _draw_alpha_and_u(stream, real):
    return (*_draw_alpha(stream, real), stream.uniform(real.shape, real.dtype))


def _draw_nothing(stream, real):
    return ()


INTERPOLATES = Points(_draw_alpha, interpolates)
REAL = Points(_draw_nothing, lambda real, fake: real)
FAKE = Points(_draw_nothing, lambda real, fake: fake)
REAL_AND_FAKE = Points(_draw_nothing, lambda real, fake: concatenate(real, fake))
DRAGAN = Points(_draw_alpha_and_u, dragan_points)


@dataclass(frozen=True)
class Penalty:
    """λ times the penalty, with its four choices: ``penalty(critic, real, fake, *noise)``.

    Args:
        weight: λ, above 0.
        where: a :class:`Points`.
        centre, one_sided, of: as in :func:`gradient_penalty`.
    """

    weight: float
    where: Points = INTERPOLATES
    centre: float = 0.0
    one_sided: bool = False
    of: Callable | None = None

    def __post_init__(self):
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"Penalty: weight is {self.weight}; expected a number above 0")
        _check_centre("Penalty", self.centre)

    def draw(self, stream, real):
        """The noise that one batch needs, a tuple of arrays."""
        return self.where.draw(stream, real)

    def __call__(self, critic, real, fake, *noise):
        points = self.where.place(real, fake, *noise)
        p = gradient_penalty(
            critic, points, centre=self.centre, one_sided=self.one_sided, of=self.of
        )
        return multiply(p, self.weight)


@dataclass(frozen=True)
class TwoTermPenalty:
    """:func:`two_term_penalty` as a :class:`Penalty`: ``penalty(critic, real, fake)``.

    Args:
        slope_weight, difference_weight: λ₁ and λ₂, at least 0.
        of: as in :func:`gradient_penalty`.
    Raises: ValueError for a weight that is negative or not finite.
    Source: P3 section 3.2, which rejects it.
    """

    slope_weight: float
    difference_weight: float
    of: Callable | None = None

    def __post_init__(self):
        weights = self.slope_weight, self.difference_weight
        if not all(0 <= weight < float("inf") for weight in weights):
            raise ValueError(f"TwoTermPenalty: weights {weights}; expected numbers of at least 0")

    def draw(self, stream, real):
        """Nothing: its points are the samples."""
        return ()

    def __call__(self, critic, real, fake):
        return two_term_penalty(
            critic, real, fake, self.slope_weight, self.difference_weight, of=self.of
        )


def zero_gp(weight=10.0, of=None):
    """0-GP: slope 0 on the way between samples. Source: P3 equation 6."""
    return Penalty(weight, INTERPOLATES, 0.0, of=of)


def one_gp(weight=10.0, of=None):
    """1-GP: slope 1 on the way between samples. Source: Gulrajani et al. (2017); P3 equation 7."""
    return Penalty(weight, INTERPOLATES, 1.0, of=of)


def lp(weight=10.0, of=None):
    """The Lipschitz penalty: slope at most 1. Source: Petzka et al. (2018)."""
    return Penalty(weight, INTERPOLATES, 1.0, one_sided=True, of=of)


def r1(weight=5.0, of=None):
    """R₁: slope 0 at real samples; weight is γ/2. Source: Mescheder et al. (2018)."""
    return Penalty(weight, REAL, 0.0, of=of)


def r2(weight=5.0, of=None):
    """R₂: slope 0 at fake samples; weight is γ/2. Source: Mescheder et al. (2018)."""
    return Penalty(weight, FAKE, 0.0, of=of)


def zero_gp_sample(weight=10.0, of=None):
    """0-GP-sample: slope 0 at real and fake samples, the mean over both. Source: P3 section 3.3."""
    return Penalty(weight, REAL_AND_FAKE, 0.0, of=of)


def dragan(weight=10.0, of=None):
    """DRAGAN: slope 1 around real samples. Source: Kodali et al. (2017)."""
    return Penalty(weight, DRAGAN, 1.0, of=of)


def clip_weights(params, limit, everything=False):
    """Weights and biases limited to [−limit, limit]; a tree of arrays like ``params``.

    A normalisation's ``scale`` and ``shift`` are left alone (a scale of at most .01 would shut
    the layer), unless ``everything`` asks for them as the WGAN authors' code does.

    Raises: ValueError for a limit that is not above 0.
    Source: Arjovsky et al. (2017); P4 algorithm 1, limit .01.
    """
    if not limit > 0:
        raise ValueError(f"clip_weights: limit is {limit}; expected a number above 0")

    def clipped(path, a):
        name = path.rpartition(".")[2]
        if name in ("scale", "shift") and not everything:
            return a
        return clip(a, low=-limit, high=limit)

    return trees.rebuild(params, [clipped(path, a) for path, a in trees.paths(params)])
