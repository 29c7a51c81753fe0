"""Does a critic's value of one sample depend on the others of its batch?

Then the sample has no slope of its own, and a penalty on slopes is not the one of the papers. Batch
norm is the common case, and its op carries a mark. A mean over the batch, a product with the batch
or a reshape do the same without one, so the question is put to the numbers:

- by derivative: ∂D(xᵢ)/∂xⱼ, j ≠ i, exact through the engine;
- by replacement: D(xᵢ) again, with other samples around it. It needs no derivative, and finds what
  passes through ops that have none.
"""

from typing import NamedTuple

import numpy as np

from tinygan import norms
from tinygan.backend import array_module, to_host
from tinygan.engine import Tensor, grad_values, tape, track, values

_KNOWN = {norms.standardise: "batch norm"}  # what users call an op that is marked


class Marked(NamedTuple):
    """A call that is marked as mixing samples: its op, and the layer where it stands or None."""

    op: str
    layer: str | None

    def __str__(self):
        return self.op if self.layer is None else f"{self.op} {self.layer}"


class Mixing(NamedTuple):
    """What :func:`mixing` finds; print it.

    Args:
        mixes: whether one sample's value depends on another.
        slope: the largest |∂D(xᵢ)/∂xⱼ|, j ≠ i, over all components of xⱼ; None for a critic that is
            no differentiable function.
        own_slope: the largest |∂D(xᵢ)/∂xᵢ|, to compare with; None likewise.
        change: the largest change of D(xᵢ) when the others are replaced.
        through: the :class:`Marked` calls between D(x) and x.
    """

    mixes: bool
    slope: float | None
    own_slope: float | None
    change: float
    through: tuple

    def __str__(self):
        places = {}
        for call in self.through:
            places.setdefault(call.op, []).append(call.layer)
        through = ", ".join(
            " ".join([op, *filter(None, [", ".join(filter(None, layers))])])
            for op, layers in places.items()
        )
        if self.slope is None:
            measured = f"no derivative; D(xᵢ) changes by {self.change:.3g} with the others"
        else:
            measured = (
                f"largest |∂D(xᵢ)/∂xⱼ| {self.slope:.3g} beside |∂D(xᵢ)/∂xᵢ| {self.own_slope:.3g}, "
                f"D(xᵢ) changes by {self.change:.3g} with the others"
            )
        if self.mixes:
            way = through or "ops without a mark: a reshape, a product or a sum over the batch?"
            return f"mixes samples: yes, through {way} ({measured})"
        spared = f", though {through} can" if through else ""
        return f"mixes samples: no{spared} ({measured})"


def mixing(critic, points, stream, samples=4, tolerance=0.0):
    """Whether a critic's value of one sample depends on the other samples of the batch.

    mixes = max |∂D(xᵢ)/∂xⱼ| > tolerance · max |∂D(xᵢ)/∂xᵢ|, or D(xᵢ) changes by more than rounding
    when the other samples do; i over a few random samples, j over all others

    The others are replaced twice: by copies of xᵢ, and by copies of one other sample.

    >>> import tinygan as tg
    >>> def centred(x):
    ...     return tg.ops.sum(x - tg.ops.mean(x, axis=0), axis=1)
    >>> mixing(centred, np.eye(4, 2), tg.Stream(0)).slope
    0.25

    Args:
        critic: a function of points alone that gives one logit each. With weights of
            ``track(params)``, whose names say which layer they belong to, the report names the
            layer.
        points: an array, a batch.
        stream: draws which samples are looked at.
        samples: how many of them, i.
        tolerance: what a slope may be by rounding, relative to the sample's own.
    Shapes: points (N, ...), N at least 2; critic(points) (N,) or (N, 1).
    Returns: a :class:`Mixing`.
    Raises: ValueError for points that are no array of floats, a batch of one, logits of another
        shape, and values or slopes that are not finite.
    """
    _expect_floats("mixing", "points", points, "(N, ...)", 1)
    if points.shape[0] < 2:
        raise ValueError(
            f"mixing: points of shape {points.shape}; expected a batch of two samples or more: of "
            "one, nothing can be said"
        )
    xp, n = array_module(points), points.shape[0]
    chosen = to_host(stream.permutation(n))[: max(1, samples)].tolist()
    others = to_host(stream.integers((len(chosen),), n - 1)).tolist()
    y, x, through = _recorded(critic, points)
    before = to_host(_checked(values(critic(points)) if y is None else y.data, points)).ravel()

    change = 0.0
    for i, other in zip(chosen, others, strict=True):
        for k in (i, (i + 1 + other) % n):
            batch = xp.repeat(points[k : k + 1], n, axis=0)
            batch[i] = points[i]
            after = to_host(_checked(values(critic(batch)), points)).ravel()
            change = max(change, float(abs(after[i] - before[i])))
    # Equal rows of equal batches have equal bits, but no library promises it.
    rounding = 64 * float(np.finfo(points.dtype).eps) * float(abs(before).max())

    slope = own = None
    if y is not None:
        slope, own = _slopes(y, x, chosen)
    mixes = change > rounding or (slope is not None and slope > tolerance * own)
    return Mixing(mixes, slope, own, change, through)


def marked_calls(y, x):
    """The calls between ``x`` and ``y`` that are marked as mixing samples, the first one first.

    Args:
        y, x: Tensors, y computed from x.
    Returns: a tuple of :class:`Marked`; a layer's name is that of its weights, less the last part.
    """
    calls, layer = [], None
    for node in tape([y], {id(x)}):
        if node is x or node.op is None:
            continue
        own = _layer(node)
        layer = own or layer
        if node.op.mixes_samples(node.params):
            where = f"at {own}" if own else f"after {layer}" if layer else None
            name = node.op.__name__
            known = _KNOWN.get(node.op)
            calls.append(Marked(f"{known} ({name})" if known else name, where))
    return tuple(calls)


def _layer(node):
    """The layer whose weights a call takes, by their names: "conv1" for "conv1.weight"."""
    for a in node.args:
        if type(a) is Tensor and a.op is None and a.name and "." in a.name:
            return a.name.rpartition(".")[0]
    return None


def _recorded(critic, points):
    """(D(x), x, marked calls), or (None, None, ()) where the critic is no differentiable function.

    What NumPy does to a Tensor is a TypeError of the engine's; a critic that is wrong in another
    way raises again when it is given arrays.
    """
    x = track(points, "points")
    try:
        y = critic(x)
    except TypeError:
        return None, None, ()
    if type(y) is not Tensor or not tape([y], {id(x)}):  # nothing of y is computed from x
        return None, None, ()
    _checked(y.data, points)
    return y, x, marked_calls(y, x)


def _slopes(y, x, chosen):
    """(largest slope in another sample, largest slope in the sample itself)."""
    xp = array_module(y.data)
    across = own = 0.0
    for i in chosen:
        cotangent = xp.zeros_like(y.data)
        cotangent[i] = 1
        row = abs(to_host(grad_values(y, x, cotangent)))
        if not np.isfinite(row).all():
            raise ValueError(
                f"mixing: the slope of D(x[{i}]) is not finite; expected finite numbers (did "
                "training diverge?)"
            )
        own = max(own, float(row[i].max()))
        row[i] = 0
        across = max(across, float(row.max()))
    return across, own


def _expect_floats(name, who, a, shape, ndim):
    """An array of floats of ``ndim`` axes or more."""
    array = type(a) is not Tensor and hasattr(a, "dtype")
    if not array or a.dtype.kind != "f" or a.ndim < ndim:
        given = f"{a.dtype}{list(a.shape)}" if array else f"a {type(a).__name__}"
        raise ValueError(
            f"{name}: {who} is {given}; expected an array of floats, {shape}, one row per sample"
        )


def _checked(y, points):
    n = points.shape[0]
    if getattr(y, "shape", None) not in ((n,), (n, 1)):
        raise ValueError(
            f"mixing: the critic gave {getattr(y, 'shape', type(y).__name__)} for points "
            f"{points.shape}; expected one logit for each sample, ({n},) or ({n}, 1). A critic of "
            "several samples at once mixes them by its construction"
        )
    if not np.isfinite(to_host(y)).all():
        raise ValueError(
            "mixing: the critic's values are not finite; expected finite numbers (did training "
            "diverge?)"
        )
    return y
