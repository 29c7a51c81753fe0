"""The spectrum of a game: eigenvalues of its Jacobian, and what they say of convergence.

Near a point where a game rests, it moves as its linear part does:

    the flow ẋ = v(x) converges there if all eigenvalues λ of v's Jacobian have Re λ < 0,
    a map x ← F(x) if all eigenvalues μ of F's Jacobian have |μ| < 1.

The Jacobians are exact: products Jᵀ·u and J·u are the engine's, its gradients of its own gradients.
Small games give the whole matrix, row by row; of larger ones the extreme eigenvalues are found by
products alone. Take float64.

>>> import tinygan as tg
>>> from tinygan.models import DiracCritic, DiracGenerator
>>> from tinygan.study.vector_field import vector_field
>>> sgd = tg.optim.SGD(0.2)
>>> gan = tg.train.GAN(
...     DiracGenerator(0.0), DiracCritic(0.0), sgd, sgd, tg.losses.MINIMAX, tg.penalties.r1(0.15)
... )
>>> rest = gan.init(tg.Stream(0), np.float64)[:2]
>>> flow_stability(vector_field(gan, np.zeros((1, 1)), np.zeros((1, 1))), rest).text
'stable: the largest real part of 2 eigenvalues is -0.15; simultaneous steps converge below 1.2'
"""

from typing import NamedTuple

import numpy as np

from tinygan import tree as trees
from tinygan.engine import Tensor, grad, grad_values, track, values
from tinygan.study.vector_field import flatten, unflatten

TOLERANCE = 1e-7  # of the largest eigenvalue: a double one is found to the root of rounding, 1e-8


def linearized(f, x):
    """The linear part of a function at a point: u ↦ J·u, rows of numbers.

    J = ∂f/∂x. :func:`tinygan.jvp` for many directions: the tape is recorded once.

    Args:
        f: a function of a tree of Tensors that gives one, of :mod:`tinygan.study.vector_field`.
        x: a tree of arrays.
    Shapes: u (n,), J·u (m,), as of :func:`tinygan.study.vector_field.flatten`.
    """
    leaves = track(x)
    y = _tensors(f(leaves))
    u = trees.tree_map(lambda a: Tensor(np.zeros_like(a.data)), y)
    transposed = grad(y, leaves, u)  # Jᵀu, linear in u: its own transpose is J

    def product(direction):
        return flatten(grad_values(transposed, u, unflatten(direction, x)))

    return product


def jacobian(f, x):
    """The Jacobian of a function at a point, row by row.

    J[i, j] = ∂fᵢ/∂xⱼ, row i is Jᵀeᵢ, :func:`tinygan.vjp`'s

    Args:
        f, x: as in :func:`linearized`.
    Shapes: (m, n).
    """
    leaves = track(x)
    y = _tensors(f(leaves))
    like = values(y)
    rows = np.eye(flatten(like).size)
    return np.array([flatten(grad_values(y, leaves, unflatten(row, like))) for row in rows])


def eigenvalues(f, x):
    """All eigenvalues of the Jacobian, those with the largest real part first; conjugates in pairs.

    Args:
        f, x: as in :func:`linearized`, f(x) shaped like x.
    Shapes: (n,), complex.
    Raises: ValueError for a point, or a Jacobian, that is not finite, and for an f(x) of another
        number of numbers than x.
    """
    _check_point("eigenvalues", x)
    with np.errstate(all="ignore"):  # what is not finite is told below
        found = jacobian(f, x)
    _check_image("eigenvalues", len(found), found.shape[1])
    _check_finite("eigenvalues", "entries of the Jacobian", found)
    return _sorted(np.linalg.eigvals(found))


def extreme_eigenvalues(
    f, x, count, which="largest real part", *, stream, basis=None, restarts=None
):
    """Some eigenvalues of the Jacobian, from products J·u alone: no matrix is formed.

    Arnoldi's method with restarts, ARPACK by :func:`scipy.sparse.linalg.eigs`. Eigenvalues that
    are many in one place, such as zeros along flat directions, are found once or a few times.

    Args:
        f, x: as in :func:`eigenvalues`.
        count: how many, 1 to n − 2; one more where a pair of conjugates would be cut.
        which: "largest real part", "largest modulus" or "largest imaginary part".
        stream: draws the vector to begin with.
        basis: the number of Arnoldi vectors, above count + 1 and at most n; more of them need
            fewer restarts.
        restarts: at most so many; 10·n unless told.
    Returns: complex numbers, sorted as in :func:`eigenvalues`.
    Raises: ValueError for other counts, for another ``which``, and as :func:`eigenvalues`;
        RuntimeError if the method does not converge, or cannot go on.
    Source: Lehoucq, Sorensen & Yang, ARPACK users' guide (1998).
    """
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs

    codes = {"largest real part": "LR", "largest modulus": "LM", "largest imaginary part": "LI"}
    if which not in codes:
        raise ValueError(f"extreme_eigenvalues: which is {which!r}; expected one of {list(codes)}")
    n = flatten(x).size
    if not 1 <= count <= n - 2:
        raise ValueError(
            f"extreme_eigenvalues: {count} eigenvalues of a game of {n} numbers; expected 1 to "
            f"{n - 2}. spectrum.eigenvalues gives them all"
        )
    _check_point("extreme_eigenvalues", x)
    with np.errstate(all="ignore"):  # what is not finite is told below
        product = linearized(f, x)
        first = stream.normal((n,), np.float64)
        once = product(first)
    _check_image("extreme_eigenvalues", len(once), n)
    _check_finite("extreme_eigenvalues", "entries of the Jacobian times a vector", once)
    if not once.any():
        # A vector drawn at random: J is 0, and so are its eigenvalues. ARPACK would not begin.
        return np.zeros(count, np.complex128)
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    basis = min(n, max(4 * count, 40)) if basis is None else basis
    try:
        found = eigs(
            operator, count, which=codes[which], v0=first, ncv=basis,
            maxiter=restarts, return_eigenvectors=False,
        )  # fmt: skip
    except ArpackNoConvergence as error:
        raise RuntimeError(
            f"extreme_eigenvalues: {len(error.eigenvalues)} of {count} eigenvalues of {which} were "
            f"found with a basis of {basis}: many may lie close together, as those at 0 along flat "
            "directions do. Ask for others or fewer, or take a larger basis or more restarts"
        ) from error
    except ArpackError as error:
        raise RuntimeError(
            f"extreme_eigenvalues: Arnoldi's method with a basis of {basis} of {n} cannot go on "
            f"({error}): the Jacobian may have a low rank. Take another basis or stream, or "
            "spectrum.eigenvalues, which gives them all"
        ) from error
    near = 1e-9 * np.abs(found).max()
    cut = [e.conjugate() for e in found if np.abs(found - e.conjugate()).min() > near]
    return _sorted(np.append(found, cut))


def _tensors(tree):
    """With Tensors for the plain arrays: what does not depend on the point has slope 0."""
    return trees.tree_map(lambda a: a if type(a) is Tensor else Tensor(a), tree)


def _check_point(name, x):
    _check_finite(name, "numbers of the point", flatten(x))


def _check_finite(name, what, numbers):
    broken = numbers.size - int(np.isfinite(numbers).sum())
    if broken:
        raise ValueError(
            f"{name}: {broken:,} of the {numbers.size:,} {what} are not finite; expected finite "
            "ones (did training diverge?)"
        )


def _check_image(name, m, n):
    if m != n:
        raise ValueError(
            f"{name}: f(x) has {m} numbers and x has {n}; expected as many, as of a vector field "
            "or a map. Of others, spectrum.jacobian gives the matrix"
        )


def _sorted(found):
    """By falling real part. Conjugates stay together: parts are compared as they are rounded."""
    scale = np.abs(found).max(initial=0) or 1
    keys = np.round(np.stack([found.real, np.abs(found.imag), found.imag]) / scale, 9)
    return found[np.lexsort(-keys[::-1])]


class Stability(NamedTuple):
    """What eigenvalues say of a game near a point.

    Args:
        verdict: "stable", "unstable", or "marginal" where the linear part does not decide.
        leading: what decides: of a flow the largest real part, of a map the spectral radius.
        rotation: of a flow the largest |Im λ/Re λ|, inf on the axis; None of a map.
        largest_step: of a flow, x + h·v(x) converges for h below it; 0 if for none. None of a map.
        flat: how many eigenvalues belong to directions along which nothing moves.
        residual: how far the point is from rest, ‖v(x)‖ or ‖F(x) − x‖; None if not known.
        eigenvalues: all of them.
        text: all this in a sentence or two.
    """

    verdict: str
    leading: float
    rotation: float | None
    largest_step: float | None
    flat: int
    residual: float | None
    eigenvalues: np.ndarray
    text: str


def stability_of_flow(
    eigenvalues, *, residual=None, manifold=False, tolerance=TOLERANCE, rest=1e-6
):
    """The verdict on ẋ = v(x) from the eigenvalues of v's Jacobian: a :class:`Stability`.

    stable if max Re λ < 0, unstable if max Re λ > 0; then simultaneous steps x + h·v(x) converge
    for h < min 2|Re λ|/|λ|², which is where all |1 + hλ| < 1

    With ``manifold``, eigenvalues 0 are taken to belong to directions along which equilibria lie,
    as of a critic that has parameters to spare, and the verdict is on the rest. That a direction
    of eigenvalue 0 is one of equilibria is a property of the game, which eigenvalues do not show.

    Args:
        eigenvalues: complex numbers; of some only, the verdict is on these.
        residual: ‖v(x)‖, for the text.
        tolerance: times the largest |λ|: what counts as 0.
        rest: the largest residual of a point that counts as an equilibrium.
    Raises: ValueError for no eigenvalues, or some that are not finite.
    Source: Mescheder et al. (2018), section 2.1 and appendix A; The numerics of GANs (2017),
        section 3, for the step; Nagarajan & Kolter (2017), section 3, for the manifold.
    """
    found = _checked("stability_of_flow", eigenvalues)
    near = tolerance * np.abs(found).max()
    flat = np.abs(found) <= near
    judged = found[~flat] if manifold else found
    leading = float(judged.real.max()) if len(judged) else 0.0
    off_axis = np.abs(judged.real) > near
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(off_axis, np.abs(judged.imag / judged.real), np.inf)
    rotation = float(slopes[np.abs(judged) > near].max(initial=0))
    verdict = _verdict(leading, near, len(judged))
    largest = 0.0
    if verdict == "stable":
        largest = float((2 * np.abs(judged.real) / np.abs(judged) ** 2).min())
    kind = f"{len(judged)} eigenvalues" + (f" beside {flat.sum()} at 0" if manifold else "")
    says = f"{verdict}: the largest real part of {kind} is {leading:.4g}"
    if verdict == "stable":
        says += f"; simultaneous steps converge below {largest:.4g}"
    if verdict == "marginal":
        says += f", within {near:.2g} of the axis, and the linear part does not decide"
    says += _unrest("‖v‖", residual, rest)
    return Stability(verdict, leading, rotation, largest, int(flat.sum()), residual, found, says)


def stability_of_map(eigenvalues, *, residual=None, manifold=False, tolerance=TOLERANCE, rest=1e-6):
    """The verdict on x ← F(x) from the eigenvalues of F's Jacobian: a :class:`Stability`.

    stable if the spectral radius max |μ| < 1, unstable if max |μ| > 1

    With ``manifold``, eigenvalues 1 are those of directions along which fixed points lie.

    Args:
        eigenvalues, manifold: as in :func:`stability_of_flow`.
        residual: ‖F(x) − x‖, for the text.
        tolerance: times the largest |μ − 1|: what counts as 1.
        rest: as in :func:`stability_of_flow`.
    Raises: ValueError as in :func:`stability_of_flow`.
    Source: Mescheder et al. (2018), section 2.1 and appendix A.
    """
    found = _checked("stability_of_map", eigenvalues)
    near = tolerance * np.abs(found - 1).max()
    flat = np.abs(found - 1) <= near
    judged = found[~flat] if manifold else found
    radius = float(np.abs(judged).max()) if len(judged) else 1.0
    verdict = _verdict(radius - 1, near, len(judged))
    kind = f"{len(judged)} eigenvalues" + (f" beside {flat.sum()} at 1" if manifold else "")
    says = f"{verdict}: the spectral radius of {kind} is {radius:.10g}"
    if verdict == "marginal":
        says += f", within {near:.2g} of 1, and the linear part does not decide"
    says += _unrest("‖F(x) − x‖", residual, rest)
    return Stability(verdict, radius, None, None, int(flat.sum()), residual, found, says)


def flow_stability(v, x, **choices):
    """:func:`stability_of_flow` of a vector field at a point, by its whole Jacobian.

    Args:
        v: of :func:`tinygan.study.vector_field.vector_field`.
        x: a pair of trees of arrays.
        choices: ``manifold``, ``tolerance``, ``rest``.
    Raises: ValueError as :func:`eigenvalues`.
    """
    _check_point("flow_stability", x)
    residual = float(np.linalg.norm(flatten(v(x))))
    return stability_of_flow(eigenvalues(v, x), residual=residual, **choices)


def map_stability(move, x, **choices):
    """:func:`stability_of_map` of a map at a point, by its whole Jacobian.

    Args:
        move: of :func:`tinygan.study.vector_field.simultaneous_map` or ``alternating_map``.
        x, choices: as in :func:`flow_stability`.
    Raises: ValueError as :func:`eigenvalues`.
    """
    _check_point("map_stability", x)
    residual = float(np.linalg.norm(flatten(move(x)) - flatten(x)))
    return stability_of_map(eigenvalues(move, x), residual=residual, **choices)


def _verdict(excess, near, judged):
    if abs(excess) <= near or not judged:
        return "marginal"
    return "stable" if excess < 0 else "unstable"


def _unrest(name, residual, rest):
    if residual is None or residual <= rest:
        return ""
    return (
        f". But the point is no equilibrium: {name} = {residual:.3g}, expected at most {rest:.3g}; "
        "the eigenvalues tell how the game moves near it, not whether it converges"
    )


def _checked(name, eigenvalues):
    found = np.asarray(eigenvalues, np.complex128).ravel()
    if not found.size or not np.isfinite(found).all():
        what = "no eigenvalues" if not found.size else "eigenvalues that are not finite"
        raise ValueError(f"{name}: {what}; expected those of a Jacobian at a finite point")
    return found
