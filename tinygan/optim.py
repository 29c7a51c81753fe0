"""Optimisers as pure functions over trees of arrays: new parameters and new state, none changed.

    state = optimizer.init(params)
    params, state = optimizer.update(params, gradients, state)

A rate that varies is passed to ``update``; the schedules below make it. A step calls nothing but
primitives on its arrays, so that whatever records those sees all of it. A rate is a number, which
a recorded step keeps, or a 0-d array of any float dtype, which it is given anew at each step.
Source: the updates are PyTorch's (torch.optim), to the rounding.
"""

import math
from dataclasses import dataclass

import numpy as np

from tinygan import kernels
from tinygan import tree as trees
from tinygan.backend import array_module
from tinygan.engine import Tensor, add, primitive
from tinygan.kernels import optim as steps
from tinygan.ops import index


@primitive
def descend(p, d, rate):
    """A step down.

    y = p − rate·d
    """
    if steps.takes(p):
        return steps.sgd(*kernels.packed(p, d), rate)
    y = d * -rate
    y += p
    return y


@primitive
def accumulate(m, d, *, momentum):
    """The velocity of momentum.

    y = momentum·m + d
    """
    y = m * momentum
    y += d
    return y


@primitive
def blend(m, d, *, decay):
    """The moving average.

    y = decay·m + (1 − decay)·d
    """
    y = d * (1 - decay)
    y += m * decay
    return y


@primitive
def blend_square(v, d, *, decay):
    """The moving average of squares.

    y = decay·v + (1 − decay)·d²
    """
    y = d * d
    y *= 1 - decay
    y += v * decay
    return y


@primitive
def descend_scaled(p, m, v, rate, root, *, eps):
    """A step down, each component by its own scale.

    y = p − rate·m/(root·√v + eps)
    """
    scale = np.sqrt(v)
    scale *= root
    scale += eps
    y = m / scale
    y *= -rate
    y += p
    return y


@primitive(casts=True)
def rounded(a, *, dtype):
    """The argument in another dtype.

    y = a, rounded to dtype

    No rule: a graph keeps one float dtype.
    """
    return a.astype(dtype)


@primitive(casts=True)
def corrected_rate(rate, step, *, beta, dtype):
    """Adam's rate at a step, from 1, for a mean that started at 0.

    y = rate/(1 − βᵗ), computed in float64 and rounded to dtype

    Shapes: rate () or a number, step (), y ().
    No rule: optimisers are not differentiated.
    """
    y = _number(rate) / (1 - beta ** _number(step))
    return array_module(step).asarray(y, dtype=dtype)


@primitive
def corrected_root(step, *, beta, dtype):
    """What Adam multiplies √v with at a step, from 1, for a v that started at 0.

    y = 1/√(1 − βᵗ), computed in float64 and rounded to dtype

    Shapes: step (), y ().
    No rule: optimisers are not differentiated.
    """
    y = 1 - beta ** _number(step)
    y = 1 / (math.sqrt(y) if type(y) is float else np.sqrt(y))
    return array_module(step).asarray(y, dtype=dtype)


def _number(a):
    """A 0-d NumPy array as a Python number: fastest, and a float64. CuPy's stays on its device."""
    return a.item() if type(a) is np.ndarray else a


# A whole step as one primitive, for arrays that our kernels serve: there, each pass over memory
# that the primitives above take is a launch. The result is one array, as every primitive's, so that
# whatever records calls of primitives sees these; its rows are the new parameter and its state.


@primitive
def momentum_step(p, g, velocity, rate, *, momentum, nesterov):
    """A step of :class:`SGD` with momentum.

    y = [p − rate·d, b], b = momentum·velocity + g, d = b, or momentum·b + g for Nesterov

    Shapes: p, g, velocity (...), y (2, ...).
    """
    if steps.takes(p):
        arrays = kernels.packed(p, g, velocity)
        return steps.momentum(*arrays, rate, momentum=momentum, nesterov=nesterov)
    b = accumulate.fn(velocity, g, momentum=momentum)
    d = accumulate.fn(b, g, momentum=momentum) if nesterov else b
    return np.stack([descend.fn(p, d, rate), b])


@primitive
def rmsprop_step(p, g, square, rate, *, decay, eps):
    """A step of :class:`RMSProp`.

    y = [p − rate·g/(√v + eps), v], v = decay·square + (1 − decay)·g²

    Shapes: p, g, square (...), y (2, ...).
    """
    if steps.takes(p):
        return steps.rmsprop(*kernels.packed(p, g, square), rate, decay=decay, eps=eps)
    v = blend_square.fn(square, g, decay=decay)
    return np.stack([descend_scaled.fn(p, g, v, rate, 1.0, eps=eps), v])


@primitive
def adam_step(p, g, mean, square, rate, root, *, beta1, beta2, eps):
    """A step of :class:`Adam`.

    y = [p − rate·m/(root·√v + eps), m, v], m = β₁·mean + (1 − β₁)·g, v = β₂·square + (1 − β₂)·g²

    Shapes: p, g, mean, square (...), y (3, ...).
    """
    if steps.takes(p):
        arrays = kernels.packed(p, g, mean, square)
        return steps.adam(*arrays, rate, root, beta1=beta1, beta2=beta2, eps=eps)
    m, v = blend.fn(mean, g, decay=beta1), blend_square.fn(square, g, decay=beta2)
    return np.stack([descend_scaled.fn(p, m, v, rate, root, eps=eps), m, v])


def _rows(stepped, params):
    """The rows of each array of ``stepped``, gathered into trees like ``params``."""
    rows = range(len(stepped[0]))
    return [trees.rebuild(params, [index(y, at=(i, ...)) for y in stepped]) for i in rows]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with momentum or Nesterov's.

    b ← momentum·b + g;  p ← p − rate·b, with g + momentum·b in b's place for Nesterov

    Source: PyTorch's SGD (dampening 0).
    """

    rate: float
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self):
        _check("SGD", self.rate, momentum=self.momentum)
        if self.nesterov and not self.momentum:
            raise ValueError("SGD: nesterov needs a momentum above 0")

    def init(self, params):
        """The state before the first step."""
        _refuse_tensors("SGD.init", params)
        return {"velocity": trees.tree_map(np.zeros_like, params)} if self.momentum else {}

    def update(self, params, grads, state, rate=None):
        """(new parameters, new state) after one step; ``rate`` overrides the optimiser's."""
        ps, gs, rate = _leaves("SGD", params, grads, self.rate if rate is None else rate)
        rate = _rounded(rate, ps[0])
        directions, new = gs, {}
        if self.momentum:
            old = _aligned(params, state["velocity"])
            if steps.takes(ps[0]):
                how = {"momentum": self.momentum, "nesterov": self.nesterov}
                stepped = [
                    momentum_step(p, g, m, rate, **how) for p, g, m in zip(ps, gs, old, strict=True)
                ]
                params, velocity = _rows(stepped, params)
                return params, {"velocity": velocity}
            velocity = [
                accumulate(m, g, momentum=self.momentum) for m, g in zip(old, gs, strict=True)
            ]
            new["velocity"] = trees.rebuild(params, velocity)
            directions = velocity
            if self.nesterov:
                directions = [
                    accumulate(m, g, momentum=self.momentum)
                    for m, g in zip(velocity, gs, strict=True)
                ]
        stepped = [descend(p, d, rate) for p, d in zip(ps, directions, strict=True)]
        return trees.rebuild(params, stepped), new


@dataclass(frozen=True)
class RMSProp:
    """Steps scaled by the root of a moving average of squared gradients.

    v ← decay·v + (1 − decay)·g²;  p ← p − rate·g/(√v + eps)

    Source: Tieleman & Hinton (2012) in PyTorch's form: eps outside the root.
    """

    rate: float
    decay: float = 0.99
    eps: float = 1e-8

    def __post_init__(self):
        _check("RMSProp", self.rate, decay=self.decay)

    def init(self, params):
        """The state before the first step."""
        _refuse_tensors("RMSProp.init", params)
        return {"square": trees.tree_map(np.zeros_like, params)}

    def update(self, params, grads, state, rate=None):
        """(new parameters, new state) after one step; ``rate`` overrides the optimiser's."""
        ps, gs, rate = _leaves("RMSProp", params, grads, self.rate if rate is None else rate)
        rate, one = _rounded(rate, ps[0]), _rounded(1.0, ps[0])
        old = _aligned(params, state["square"])
        if steps.takes(ps[0]):
            stepped = [
                rmsprop_step(p, g, v, rate, decay=self.decay, eps=self.eps)
                for p, g, v in zip(ps, gs, old, strict=True)
            ]
            params, square = _rows(stepped, params)
            return params, {"square": square}
        square = [blend_square(v, g, decay=self.decay) for v, g in zip(old, gs, strict=True)]
        stepped = [
            descend_scaled(p, g, v, rate, one, eps=self.eps)
            for p, g, v in zip(ps, gs, square, strict=True)
        ]
        return trees.rebuild(params, stepped), {"square": trees.rebuild(params, square)}


@dataclass(frozen=True)
class Adam:
    """Moving averages of the gradient and its square, both corrected for their start at 0.

    m ← β₁·m + (1 − β₁)·g;  v ← β₂·v + (1 − β₂)·g²
    p ← p − rate·(m/(1 − β₁ᵗ))/(√(v/(1 − β₂ᵗ)) + eps)

    The state's "step" is t, a 0-d int64 array; an int is taken too.

    Source: Kingma & Ba (2015) in PyTorch's form: eps outside the root.
    """

    rate: float
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self):
        _check("Adam", self.rate, beta1=self.betas[0], beta2=self.betas[1])

    def init(self, params):
        """The state before the first step."""
        _refuse_tensors("Adam.init", params)
        return {
            "step": _module(trees.leaves(params)).zeros((), np.int64),
            "mean": trees.tree_map(np.zeros_like, params),
            "square": trees.tree_map(np.zeros_like, params),
        }

    def update(self, params, grads, state, rate=None):
        """(new parameters, new state) after one step; ``rate`` overrides the optimiser's."""
        beta1, beta2 = self.betas
        ps, gs, rate = _leaves("Adam", params, grads, self.rate if rate is None else rate)
        t, dtype = state["step"], ps[0].dtype
        if isinstance(t, (int, np.integer)):
            t = _module(ps).asarray(t, dtype=np.int64)
        t = add(t, 1)
        rate = corrected_rate(rate, t, beta=beta1, dtype=dtype)
        root = corrected_root(t, beta=beta2, dtype=dtype)
        ms, vs = _aligned(params, state["mean"]), _aligned(params, state["square"])
        if steps.takes(ps[0]):
            how = {"beta1": beta1, "beta2": beta2, "eps": self.eps}
            stepped = [
                adam_step(p, g, m, v, rate, root, **how)
                for p, g, m, v in zip(ps, gs, ms, vs, strict=True)
            ]
            params, mean, square = _rows(stepped, params)
            return params, {"step": t, "mean": mean, "square": square}
        ms = [blend(m, g, decay=beta1) for m, g in zip(ms, gs, strict=True)]
        vs = [blend_square(v, g, decay=beta2) for v, g in zip(vs, gs, strict=True)]
        stepped = [
            descend_scaled(p, m, v, rate, root, eps=self.eps)
            for p, m, v in zip(ps, ms, vs, strict=True)
        ]
        state = {"step": t, "mean": trees.rebuild(params, ms), "square": trees.rebuild(params, vs)}
        return trees.rebuild(params, stepped), state


# Schedules: step number, from 0, to rate.


@dataclass(frozen=True)
class LinearDecay:
    """``start`` for ``after`` steps, then to ``end`` in equal parts over ``steps``, then ``end``.

    rate(t) = start + (end − start)·u, u = (t − after)/steps within [0, 1]
    """

    start: float
    end: float
    steps: int
    after: int = 0

    def __post_init__(self):
        _check_steps("LinearDecay", self.steps)

    def __call__(self, step):
        return self.start + (self.end - self.start) * _part(step - self.after, self.steps)


@dataclass(frozen=True)
class CosineDecay:
    """From ``start`` to ``end`` over ``steps`` steps, slowly at both ends, then ``end``.

    rate(t) = end + (start − end)·(1 + cos(π·u))/2, u = t/steps within [0, 1]

    Source: Loshchilov & Hutter, SGDR (2017), without restarts.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self):
        _check_steps("CosineDecay", self.steps)

    def __call__(self, step):
        wave = (1 + math.cos(math.pi * _part(step, self.steps))) / 2
        return self.end + (self.start - self.end) * wave


@dataclass(frozen=True)
class ExponentialDecay:
    """``start``, times ``factor`` for every ``steps`` steps.

    rate(t) = start·factor^(t/steps)
    """

    start: float
    factor: float
    steps: int

    def __post_init__(self):
        _check_steps("ExponentialDecay", self.steps)

    def __call__(self, step):
        return self.start * self.factor ** (step / self.steps)


def _part(step, steps):
    """The part of ``steps`` that is over, from 0 to 1."""
    return min(max(step / steps, 0.0), 1.0)


def _check(name, rate, **fractions):
    if not 0 < rate < math.inf:
        raise ValueError(f"{name}: rate is {rate}; expected a number above 0")
    for key, value in fractions.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}: {key} is {value}; expected 0 or more and below 1")


def _check_steps(name, steps):
    if not steps > 0:
        raise ValueError(f"{name}: steps is {steps}; expected a number above 0")


def _refuse_tensors(where, tree):
    if any(type(a) is Tensor for a in trees.leaves(tree)):
        raise TypeError(
            f"{where}: given a Tensor; optimisers work on plain arrays. Use grad_values for "
            "gradients and values(params) for parameters"
        )


def _leaves(name, params, grads, rate):
    """The leaves of both trees in the parameters' order, and the rate."""
    ps, gs = trees.leaves(params), _aligned(params, grads)
    _refuse_tensors(f"{name}.update", [*ps, *gs, rate])
    for p, g in zip(ps, gs, strict=True):
        if p.shape != g.shape or p.dtype != g.dtype:
            raise ValueError(
                f"{name}.update: a gradient of {g.dtype}{list(g.shape)} for a parameter of "
                f"{p.dtype}{list(p.shape)}; expected the same shape and dtype"
            )
    if not ps:
        raise ValueError(f"{name}.update: the parameters are an empty tree; expected arrays")
    if getattr(rate, "shape", ()) != ():
        raise ValueError(
            f"{name}.update: rate has shape {rate.shape}; expected a number or a 0-d array"
        )
    return ps, gs, rate


def _rounded(rate, like):
    """A number or 0-d array as a 0-d array of the dtype of ``like``."""
    if not hasattr(rate, "dtype") or isinstance(rate, np.generic):
        return array_module(like).asarray(rate, dtype=like.dtype)
    return rate if rate.dtype == like.dtype else rounded(rate, dtype=like.dtype)


def _module(arrays):
    """The module that made the arrays; NumPy for none."""
    return array_module(arrays[0]) if arrays else np


def _aligned(params, tree):
    """The leaves of ``tree`` in the parameters' order: dicts may hold their keys in another."""
    found = []
    trees.tree_map(lambda _, leaf: found.append(leaf), params, tree)
    return found
