"""What is optimal: the best critic of two known densities, and how far apart those are.

Densities are given by their logarithms, functions of points, so that nothing underflows far from
the data; :func:`log_of` makes one of a plain density. If they are made of primitives (as those of
:func:`gaussian` are), so are the optimal critics, and the engine differentiates them. Integrals are
sums over a :class:`Rule` of points and weights, in float64 and nats; its bounds have to hold the
mass of both densities, which is checked.

Shapes: points (N, d), also for d = 1; log-densities and critics give (N,) or (N, 1).
"""

import math
from typing import NamedTuple

import numpy as np

from tinygan.backend import device_of, to_device, to_host
from tinygan.engine import Tensor, grad_values, track
from tinygan.ops import (
    abs,
    add,
    exp,
    log,
    matmul,
    multiply,
    negative,
    reshape,
    sigmoid,
    sign,
    softplus,
    square,
    subtract,
    sum,
)

MASS_ERROR = 0.01  # how much of a density a rule may lose or invent
SAME = 1e-13  # distribution functions that differ by less are equal: it is their rounding
SKEW = 1e-10  # by which a covariance may fail to be symmetric, relative to its largest entry
CELL = 5  # Gauss points for the mass between two edges


# Densities


def log_of(density):
    """The log-density of a plain density: −∞ where that is 0.

    log p(x)

    Args:
        density: a function of points, nowhere negative.
    Returns: a function of points. Where both densities of a pair are 0, also because they
        underflow, an optimal critic is undefined: a log-density written as such is better.
    Raises: ValueError, when called, for a density that is negative or not finite, or that does
        not give one number for each point.
    """

    def log_density(points):
        p = density(points)
        _check_each("log_of", "density", p, points)
        raw = to_host(_raw(p))
        wrong = ~((raw >= 0) & (raw < np.inf)).reshape(-1)
        if wrong.any():
            where = int(wrong.argmax())
            raise ValueError(
                f"log_of: the density is {raw.reshape(-1)[where]} at {_point(points, where)}; "
                "expected 0 or more, and finite"
            )
        with np.errstate(divide="ignore"):
            return log(p)

    return log_density


def gaussian(mean, covariance):
    """The log-density of a Gaussian, made of primitives.

    log p(x) = −½ (x−μ)ᵀ Σ⁻¹ (x−μ) − ½ log det(2πΣ)

    Args:
        mean, covariance: numbers for d = 1, else arrays; those of a
            :class:`tinygan.data.Gaussian`, for one.
    Shapes: mean (d,), covariance (d, d); the function takes points (N, d) and gives (N,).
    Raises: ValueError for shapes that do not fit, numbers that are not finite, or a covariance
        that is not symmetric, to rounding, and positive definite; when called, for points of
        another shape, or that are no floats.
    """
    mean = np.atleast_1d(np.asarray(mean, np.float64))
    covariance = np.atleast_2d(np.asarray(covariance, np.float64))
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
        raise ValueError(
            f"gaussian: mean {mean.shape} with covariance {covariance.shape}; expected (d,) and "
            "(d, d)"
        )
    if not np.isfinite(mean).all():
        raise ValueError(f"gaussian: the mean is {mean.tolist()}; expected finite numbers")
    factor = _factor(covariance)
    whiten = np.linalg.inv(factor).T
    constant = -float(np.log(np.diag(factor)).sum()) - mean.size / 2 * math.log(2 * math.pi)

    def log_density(points):
        _check_points("gaussian", points, mean.size)
        u = matmul(subtract(points, _like(mean, points)), _like(whiten, points))
        return add(multiply(sum(square(u), axis=1), -0.5), constant)

    return log_density


def _factor(covariance):
    """L of Σ = L·Lᵀ, L lower triangular."""
    # Cholesky reads one triangle alone, and takes NaN.
    wide = np.abs(covariance).max()
    if np.isfinite(wide) and np.abs(covariance - covariance.T).max() <= SKEW * wide:
        try:
            return np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            pass  # told below
    raise ValueError(
        f"gaussian: the covariance {covariance.tolist()} is not positive definite; expected finite "
        "numbers, symmetric, with eigenvalues above 0"
    )


def mixture_density(real, fake, points):
    """The density of real and fake samples together, the weight of :func:`distance`.

    (p_r + p_g)/2

    Args:
        real, fake: log-densities.
    Shapes: points (N, d); returns (N,), on the host.
    """
    a, b = (to_host(_raw(_log("mixture_density", p, points))) for p in (real, fake))
    return np.exp(np.logaddexp(a, b)) / 2


# The optimal critic of each objective


def optimal_gan(real, fake):
    """The optimal critic of the standard GAN, minimax and non-saturating, as a logit.

    D*(x) = log p_r(x) − log p_g(x), σ(D*) = p_r/(p_r + p_g)

    Args:
        real, fake: log-densities.
    Returns: a critic, a function of points; ±∞ where only one density is 0.
    Shapes: points (N, d), logits (N,).
    Raises: ValueError, when called, where both densities are 0.
    Source: Goodfellow et al. (2014), proposition 1; P3 equation 2.
    """

    def critic(points):
        return subtract(*_pair("optimal_gan", real, fake, points))

    return critic


def optimal_smoothed(real, fake, real_label=0.9, fake_label=0.0):
    """The optimal critic of :func:`tinygan.losses.label_smoothed`, as a logit.

    σ(D*) = (a·p_r + b·p_g)/(p_r + p_g)

    Args:
        real, fake: log-densities.
        real_label, fake_label: a and b, 0 ≤ b < a ≤ 1.
    Returns: a critic, as in :func:`optimal_gan`.
    Shapes: points (N, d), logits (N,).
    Raises: ValueError for other labels, and when called where both densities are 0.
    Source: Salimans et al. (2016), section 3.4.
    """
    if not 0 <= fake_label < real_label <= 1:
        raise ValueError(
            f"optimal_smoothed: labels {real_label} for real and {fake_label} for fake; expected "
            "0 <= fake_label < real_label <= 1, such as 0.9 and 0"
        )

    def critic(points):
        ratio = subtract(*_pair("optimal_smoothed", real, fake, points))
        return subtract(
            _log_mix(ratio, real_label, fake_label), _log_mix(ratio, 1 - real_label, 1 - fake_label)
        )

    return critic


def _log_mix(ratio, a, b):
    """log((a·p_r + b·p_g)/(p_r + p_g)), of log p_r − log p_g; a number above 0 at least one."""
    one, other = negative(softplus(negative(ratio))), negative(softplus(ratio))
    if not a:
        return add(other, math.log(b))
    if not b:
        return add(one, math.log(a))
    # log of σ(r)·a + σ(−r)·b: both terms stay normal numbers or one rules.
    return log(add(multiply(exp(one), a), multiply(exp(other), b)))


def optimal_least_squares(real, fake):
    """The optimal critic of least squares with the labels 1 and 0; no logit.

    D*(x) = p_r/(p_r + p_g)

    Args:
        real, fake: log-densities.
    Returns: a critic, a function of points.
    Shapes: points (N, d), values (N,).
    Raises: ValueError, when called, where both densities are 0.
    Source: Mao et al., Least squares GANs (2017).
    """

    def critic(points):
        return sigmoid(subtract(*_pair("optimal_least_squares", real, fake, points)))

    return critic


def optimal_hinge(real, fake):
    """The optimal critic of the hinge loss: flat but for jumps where the densities are equal.

    D*(x) = sign(p_r − p_g); where they are equal anything in [−1, 1] is optimal, and this is 0

    Its expected loss is 2 − 2·TV, of :func:`total_variation`.

    Args:
        real, fake: log-densities.
    Returns: a critic, a function of points, whose derivative is 0: plain arrays.
    Shapes: points (N, d), values (N,).
    Raises: ValueError, when called, where both densities are 0.
    Source: Lim & Ye, Geometric GAN (2017).
    """

    def critic(points):
        return sign(subtract(*_pair("optimal_hinge", real, fake, points)))

    return critic


def optimal_wasserstein(real, fake, edges):
    """The optimal 1-Lipschitz critic on the line: Kantorovich's potential.

    D*′(x) = sign(F_g(x) − F_r(x)), D*(edges[0]) = 0; slope 0 where the distribution functions are
    equal, where any slope within ±1 is optimal

    Both densities are divided by their mass within the edges. F is exact to rounding for smooth
    densities; jumps and kinks of a density belong on edges. Where F_g − F_r changes sign between
    two edges, it is taken for straight: the critic's kinks are right to the square of the spacing.
    Beyond the edges the last slopes go on.

    Args:
        real, fake: log-densities on the line.
        edges: rising numbers that hold both densities' mass.
    Returns: a critic, a function of points, made of primitives.
    Shapes: edges (n,), points (N, 1), values (N,).
    Raises: ValueError for edges that do not rise, or that miss more than 1% of the mass; when
        called, for points of another shape, or that are no floats.
    Source: Villani, Topics in optimal transportation (2003), remarks 2.19; Arjovsky et al. (2017).
    """
    edges, excess, _ = _cumulated("optimal_wasserstein", real, fake, edges)
    knots, slopes = _knots(edges, excess)
    heights = np.concatenate([[0.0], np.cumsum(slopes * np.diff(knots))])

    def critic(points):
        _check_points("optimal_wasserstein", points, 1)
        x = reshape(points, shape=(points.shape[0],))
        cell = np.searchsorted(knots, to_host(_raw(x)), side="right") - 1
        cell = np.clip(cell, 0, len(slopes) - 1)
        slope, height, start = (_like(a[cell], points) for a in (slopes, heights, knots))
        return add(multiply(subtract(x, start), slope), height)

    return critic


# Distance


class Distance(NamedTuple):
    """What :func:`distance` measures: the mean and the maximum of |D − D*|."""

    mean: float
    maximum: float


def distance(critic_values, optimal_values, weights=None):
    """How far a critic is from the optimal one.

    mean = Σ wᵢ·|Dᵢ − D*ᵢ| / Σ wᵢ, maximum over the points with wᵢ > 0

    On a grid, the weight (p_r + p_g)/2 of :func:`mixture_density` makes the mean that over samples;
    without it empty corners rule.

    Args:
        critic_values, optimal_values: of D and D* at the same points; as probabilities, for one.
        weights: not negative; None is 1 everywhere.
    Shapes: all three equal; returns :class:`Distance`.
    Raises: ValueError for shapes that differ, values that are not finite (take σ of logits), and
        weights that are negative, not finite or 0 everywhere.
    """
    d, best = (np.asarray(to_host(a), np.float64) for a in (critic_values, optimal_values))
    w = np.ones(d.shape) if weights is None else np.asarray(to_host(weights), np.float64)
    if not d.shape == best.shape == w.shape:
        raise ValueError(
            f"distance: values {d.shape}, optimal {best.shape} and weights {w.shape}; expected one "
            "shape, one number for each point"
        )
    for name, a in (("critic_values", d), ("optimal_values", best), ("weights", w)):
        if not np.isfinite(a).all():
            raise ValueError(
                f"distance: {name} hold NaN or infinity; expected finite numbers. Compare "
                "probabilities, sigmoid(logits), where a density is 0"
            )
    if (w < 0).any() or not w.any():
        raise ValueError("distance: weights are negative somewhere, or 0 everywhere; expected >= 0")
    gap = np.abs(d - best)
    return Distance(float((w * gap).sum() / w.sum()), float(gap[w > 0].max()))


# Quadrature


class Rule(NamedTuple):
    """An integral as a sum: ∫ f ≈ Σ weightsᵢ·f(pointsᵢ).

    Shapes: points (N, d), weights (N,), float64.
    """

    points: np.ndarray
    weights: np.ndarray


def trapezoid(bounds, n=201):
    """n equidistant points along each axis.

    For smooth functions that vanish at the bounds, as most densities do, the error falls faster
    than any power of the spacing h: for a Gaussian as exp(−2π²σ²/h²), below rounding from h = ¾ σ.
    Else it falls as h².

    Args:
        bounds: (low, high) on the line, ((low, high), (low, high)) for a box in the plane.
    Shapes: points (n^d, d).
    Raises: ValueError for bounds that are no rising pairs, and n below 2.
    """
    bounds = _bounds("trapezoid", bounds)
    if n < 2:
        raise ValueError(f"trapezoid: n is {n}; expected at least 2 points along each axis")
    axes = []
    for low, high in bounds:
        weights = np.full(n, (high - low) / (n - 1))
        weights[[0, -1]] /= 2
        axes.append((np.linspace(low, high, n), weights))
    return _product(axes)


def gauss_legendre(bounds, n=16, panels=16):
    """n Gauss points in each of the equal panels of each axis.

    Exact to rounding for polynomials of degree 2n − 1 on each panel: also for densities that jump,
    where the jumps lie between panels.

    Args:
        bounds: as in :func:`trapezoid`.
    Shapes: points ((n·panels)^d, d).
    Raises: ValueError for bounds that are no rising pairs, and n or panels below 1.
    """
    bounds = _bounds("gauss_legendre", bounds)
    if n < 1 or panels < 1:
        raise ValueError(f"gauss_legendre: n is {n}, panels {panels}; expected at least 1 of each")
    return _product([_gauss(np.linspace(low, high, panels + 1), n) for low, high in bounds])


def _gauss(edges, n):
    """Points and weights of n Gauss points between each two edges."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + nodes)).ravel(), (half * weights).ravel()


def _product(axes):
    """The rule of a box from those of its axes; the first coordinate runs fastest."""
    points = np.meshgrid(*(nodes for nodes, _ in reversed(axes)), indexing="ij")
    weights = 1.0
    for _, along in axes:
        weights = np.multiply.outer(along, weights)
    return Rule(np.stack([p.ravel() for p in reversed(points)], axis=1), weights.ravel())


def _bounds(where, bounds):
    pairs = np.atleast_2d(np.asarray(bounds, np.float64))
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not (pairs[:, 0] < pairs[:, 1]).all():
        raise ValueError(
            f"{where}: bounds are {bounds}; expected (low, high) with low < high, or one such pair "
            "for each axis"
        )
    if not np.isfinite(pairs).all():
        raise ValueError(f"{where}: bounds are {bounds}; expected finite numbers")
    return pairs


# Divergences


def kullback_leibler(p, q, rule):
    """The Kullback-Leibler divergence KL(p‖q).

    ∫ p·(log p − log q); ∞ by definition where p > 0 and q = 0

    Args:
        p, q: log-densities; of Tensors, the result is one too and can be differentiated.
        rule: a :class:`Rule`, whose bounds hold the mass of both.
    Returns: a float, nats; or a Tensor.
    Raises: ValueError for a rule that misses more than 1% of the mass of p or q; TypeError for what
        is no :class:`Rule`.
    """
    a, b = _masses("kullback_leibler", p, q, rule)
    if _divides_by_zero(a, b):
        return math.inf
    return _number(_expected(a, rule, lambda a, b: subtract(a, b), b))


def jensen_shannon(real, fake, rule):
    """The Jensen-Shannon divergence: 0 for equal densities, log 2 for disjoint ones.

    ½·KL(p_r‖m) + ½·KL(p_g‖m), m = (p_r + p_g)/2

    At D* the value of the standard GAN, E log σ(D) + E log(1 − σ(D)), is 2·JSD − 2·log 2.

    Args:
        real, fake, rule: as in :func:`kullback_leibler`.
    Returns: a float, nats; or a Tensor.
    Raises: as :func:`kullback_leibler`.
    Source: Lin (1991); Goodfellow et al. (2014), theorem 1.
    """
    a, b = _masses("jensen_shannon", real, fake, rule)

    def over_mixture(a, b):  # log(a/m), finite also where the other is 0
        return subtract(math.log(2), softplus(subtract(b, a)))

    halves = _expected(a, rule, over_mixture, b), _expected(b, rule, over_mixture, a)
    return _number(multiply(add(*halves), 0.5))


def total_variation(real, fake, rule):
    """The total variation distance, from 0 to 1.

    ½·∫ |p_r − p_g|

    No classifier of real and fake samples, drawn as often, is right more often than
    (1 + TV)/2; sign(D*) is.

    Args:
        real, fake, rule: as in :func:`kullback_leibler`.
    Returns: a float; or a Tensor.
    Raises: as :func:`kullback_leibler`.
    """
    a, b = _masses("total_variation", real, fake, rule)
    return _number(multiply(sum(multiply(abs(subtract(exp(a), exp(b))), rule.weights)), 0.5))


def wasserstein1(real, fake, edges):
    """W₁ of two densities on the line.

    ∫ |F_r(x) − F_g(x)| dx

    Exact to rounding for smooth densities where F_r − F_g keeps its sign between two edges; where
    it does not, it is taken for straight, and the error falls as the cube of the spacing.

    Args:
        real, fake, edges: as in :func:`optimal_wasserstein`.
    Returns: a float, in the units of the points.
    Raises: as :func:`optimal_wasserstein`.
    """
    edges, excess, area = _cumulated("wasserstein1", real, fake, edges)
    a, b = excess[:-1], excess[1:]
    crossing = a * b < 0
    # The part before the crossing is a triangle, the other what is left.
    before = np.diff(edges) * a * np.abs(a) / (2 * np.where(crossing, np.abs(a - b), 1))
    before = np.where(crossing, before, 0)
    return float((np.abs(before) + np.abs(area - before)).sum())


def _expected(a, rule, f, b):
    """∫ p·f(log p, log q) over the points where p > 0, of log p and log q."""
    inside = _raw(a) > -np.inf
    weights = rule.weights
    if not inside.all():
        a, b, weights = a[inside], b[inside], weights[inside]
    return sum(multiply(multiply(exp(a), f(a, b)), weights))


def _divides_by_zero(a, b):
    """Whether q = 0 somewhere where p > 0."""
    return bool(((_raw(b) == -np.inf) & (_raw(a) > -np.inf)).any())


def _masses(where, p, q, rule):
    """log p and log q at a rule's points, whose masses are near 1."""
    _check_rule(where, rule)
    found = [_log(where, density, rule.points) for density in (p, q)]
    for name, a in zip(("first", "second"), found, strict=True):
        mass = float((np.exp(_raw(a)) * rule.weights).sum())
        _check_mass(where, name, mass, "a rule of wider bounds or more points")
    return found


def _check_rule(where, rule):
    if not isinstance(rule, Rule):
        raise TypeError(
            f"{where}: the rule is a {type(rule).__name__}; expected a Rule, of trapezoid or "
            "gauss_legendre, or Rule(points, weights)"
        )


def _check_mass(where, name, mass, remedy):
    if not 1 - MASS_ERROR < mass < 1 + MASS_ERROR:
        raise ValueError(
            f"{where}: the {name} density has the mass {mass:.6g} there; expected 1. Take {remedy}"
            ", and see that the density is normalised"
        )


def _cumulated(where, real, fake, edges):
    """Edges, F_g − F_r at them, and its integral between each two; of the normalised densities."""
    edges = np.asarray(edges, np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(
            f"{where}: edges of shape {edges.shape}; expected rising numbers, such as "
            "np.linspace(-10, 10, 2001)"
        )
    if not np.isfinite(edges).all():
        raise ValueError(f"{where}: edges hold infinity; expected finite numbers")
    points, weights = _gauss(edges, CELL)
    width = np.diff(edges)
    total, areas = [], []
    for name, density in (("first", real), ("second", fake)):
        log_p = to_host(_raw(_log(where, density, points[:, None])))
        mass = (np.exp(log_p) * weights).reshape(-1, CELL)
        whole = float(mass.sum())
        _check_mass(where, name, whole, "wider edges, or more of them")
        mass = mass / whole  # else what is lost of it would count over all the width that follows
        total.append(np.concatenate([[0.0], np.cumsum(mass.sum(axis=1))]))
        # What lies at t adds to F from t on: y − t of the way from x to y.
        rest = edges[1:, None] - points.reshape(-1, CELL)
        areas.append(total[-1][:-1] * width + (mass * rest).sum(axis=1))
    excess = total[1] - total[0]
    excess[np.abs(excess) < SAME] = 0
    return edges, excess, areas[1] - areas[0]


def _knots(edges, excess):
    """Where the potential may bend, and its slope between: sign of the excess, cut at its zeros."""
    knots, slopes = [edges[0]], []
    for x, y, a, b in zip(edges[:-1], edges[1:], excess[:-1], excess[1:], strict=True):
        if a * b < 0:
            knots.append(x + (y - x) * a / (a - b))
            slopes.append(np.sign(a))
        knots.append(y)
        slopes.append(np.sign(a if b == 0 else b))
    return np.array(knots), np.array(slopes)


# Gradients of the generator


def location_gradient(loss, critic, fake, rule):
    """The gradient of a generator's loss in the place of its density, the critic held fixed.

    d/dθ E ℓ(D(x + θ)) at θ = 0, x ∼ p_g  =  ∫ p_g(x)·∇ₓ ℓ(D(x)) dx

    At D* = log p_r − log p_g the saturating loss gives the gradient of 2·JSD, and the
    non-saturating one that of KL(p_g‖p_r) − 2·JSD.

    Args:
        loss: a generator's, of :mod:`tinygan.losses`: a mean over the batch of a function of each
            logit.
        critic: a function of each point alone, made of primitives; without jumps where p_g > 0,
            whose part is in no slope. Where p_g = 0 it is not asked.
        fake: the log-density p_g.
        rule: a :class:`Rule`, whose bounds hold its mass.
    Shapes: returns (d,).
    Raises: ValueError for a rule that misses more than 1% of the mass, a loss or a slope that is
        not finite where p_g > 0, and a critic without derivative, such as that of
        :func:`optimal_hinge`; TypeError for what is no :class:`Rule`.
    Source: Arjovsky & Bottou (2017), theorem 2.5; Goodfellow et al. (2014).
    """
    _check_rule("location_gradient", rule)
    log_p = _raw(_log("location_gradient", fake, rule.points))
    mass = np.exp(log_p) * rule.weights
    remedy = "a rule of wider bounds or more points"
    _check_mass("location_gradient", "generator's", float(mass.sum()), remedy)
    held = mass != 0  # elsewhere the critic may be infinite or undefined, and 0·∞ is NaN
    x = track(rule.points[held])
    y = loss(critic(x))
    if type(y) is not Tensor:
        raise ValueError(
            "location_gradient: the loss does not depend on the points through primitives; expected"
            " a critic with a derivative. That of optimal_hinge has jumps alone"
        )
    slopes = grad_values(y, x) * len(x)  # the loss is a mean
    if not (np.isfinite(y.data).all() and np.isfinite(slopes).all()):
        raise ValueError(
            "location_gradient: the loss or its slope is not finite where the generator's density "
            "is above 0; expected finite numbers. At D* of the non-saturating loss the data's "
            "density may not be 0 there"
        )
    return mass[held] @ slopes


# Points and values


def _pair(where, real, fake, points):
    """Both log-densities at points, where not both are −∞."""
    a, b = (_log(where, density, points) for density in (real, fake))
    nothing = (_raw(a) == -np.inf) & (_raw(b) == -np.inf)
    if bool(nothing.any()):
        first = int(to_host(nothing).argmax())
        raise ValueError(
            f"{where}: both densities are 0 at {_point(points, first)}, where the optimal critic "
            "divides by their sum. Give log-densities, which stay finite where a density underflows"
            ", or points within the support of one of them"
        )
    return a, b


def _log(where, density, points):
    """A log-density at points, one number each, and none of them NaN or +∞."""
    a = density(points)
    _check_each(where, "log-density", a, points)
    raw = _raw(a)
    wrong = ~(raw < np.inf).reshape(-1)
    if bool(wrong.any()):
        first = int(to_host(wrong).argmax())
        raise ValueError(
            f"{where}: a log-density is {to_host(raw).reshape(-1)[first]} at "
            f"{_point(points, first)}; expected a finite number, or −∞ where the density is 0. "
            "log_of makes a log-density of a plain density"
        )
    return a if a.ndim == 1 else reshape(a, shape=(len(points),))


def _check_each(where, what, a, points):
    if not hasattr(a, "shape") or a.shape not in ((len(points),), (len(points), 1)):
        raise ValueError(
            f"{where}: a {what} gave {getattr(a, 'shape', type(a).__name__)} for points "
            f"{points.shape}; expected one number for each point, ({len(points)},)"
        )


def _check_points(where, points, d):
    dtype = getattr(points, "dtype", None)
    if dtype is None or dtype.kind not in "fc":  # constants made integers would be wrong ones
        raise ValueError(
            f"{where}: points are {dtype or type(points).__name__}; expected an array of floats. "
            "Convert with .astype(np.float64)"
        )
    if points.ndim != 2 or points.shape[1] != d:
        raise ValueError(f"{where}: points of shape {points.shape}; expected (N, {d})")


def _point(points, i):
    return f"point {i}, {to_host(_raw(points))[i].tolist()}"


def _raw(a):
    return a.data if type(a) is Tensor else a


def _like(a, points):
    """A constant as an array of the points' kind, dtype and device."""
    raw = _raw(points)
    return to_device(np.asarray(a, raw.dtype), device_of(raw))


def _number(a):
    return a if type(a) is Tensor else float(a)
