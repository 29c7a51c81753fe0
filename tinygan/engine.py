"""Reverse-mode differentiation that differentiates its own gradients.

A :class:`Tensor` is an array plus the call that made it. A :class:`Primitive`
is a function of arrays with one rule per argument, and every rule is written
in primitives: what :func:`grad` returns is made of Tensors and can be
differentiated again, to any order. Whatever is not a Tensor is a constant, so
there is no flag to set and none to forget.

The house law: a rule uses only the adjoint g of its result, the result y, the
inputs, static parameters, and primitives. It keeps no array of its own.
"""

import math
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, update_wrapper
from itertools import count

import numpy as np

from tinygan import tree as trees
from tinygan.backend import array_module
from tinygan.kernels import fused, serves

_observer = ContextVar("tinygan observer", default=None)
_ndarray = np.ndarray
_NUMBERS = (int, float, np.generic)
_STATIC = frozenset({int, float, bool, str, tuple, type(None)})  # parameters that need no check


class Tensor:
    """An array and the call that made it: ``data == op(*args, **params)``.

    A leaf, made by :func:`track`, has ``op`` None. ``==`` compares identity;
    :func:`tinygan.ops.equal` compares values. ``edges`` are the ways down to other
    Tensors: pairs of an argument and its rule, for each rule that is not None. ``raw``
    are the arguments with plain arrays for Tensors.
    """

    __slots__ = ("data", "op", "args", "params", "name", "edges", "raw")

    def __init__(self, data, op=None, args=(), params=None, name=None, edges=(), raw=()):
        self.data = data
        self.op = op
        self.args = args
        self.params = params
        self.name = name
        self.edges = edges
        self.raw = raw

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    dtype = property(lambda self: self.data.dtype)

    def __len__(self):
        return len(self.data)

    def __contains__(self, value):
        self._refuse("'in'")

    def __eq__(self, other):
        if type(other) is not Tensor and hasattr(other, "dtype"):
            self._refuse("==")
        return self is other

    __hash__ = object.__hash__

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        origin = self.name or (self.op.__name__ if self.op else "leaf")
        body = np.array2string(self.data, separator=", ", prefix="Tensor(", threshold=20)
        return f"Tensor({body}, {self.dtype}, {origin})"

    def _repr_html_(self):
        from tinygan import html  # for notebooks alone

        return html.tensor(self)

    def _refuse(self, what):
        raise TypeError(
            f"{what} of a Tensor (shape {self.shape}) would leave the tape and lose its gradient; "
            "use the function of the same name in tinygan.ops, or .data for the plain array"
        )

    def __array__(self, *_, **__):
        self._refuse("np.asarray")

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        # array + tensor asks NumPy first; the tensor's own operator answers.
        reflected = _REFLECTED.get(ufunc.__name__)
        if method == "__call__" and reflected and len(args) == 2 and args[1] is self and not kwargs:
            return getattr(self, reflected)(args[0])
        self._refuse(f"np.{ufunc.__name__}")

    def __array_function__(self, function, types, args, kwargs):
        self._refuse(f"np.{function.__name__}")

    def __bool__(self):
        self._refuse("the truth value")

    def __float__(self):
        self._refuse("float()")

    def __int__(self):
        self._refuse("int()")

    def __index__(self):
        self._refuse("an index made")

    def __reduce_ex__(self, protocol):
        raise TypeError("a Tensor is not pickled or copied: its tape would go with it; use .data")


_REFLECTED = {
    "add": "__radd__",
    "subtract": "__rsub__",
    "multiply": "__rmul__",
    "divide": "__rtruediv__",
    "matmul": "__rmatmul__",
    "power": "__rpow__",
    "less": "__gt__",
    "less_equal": "__ge__",
    "greater": "__lt__",
    "greater_equal": "__le__",
}


class Primitive:
    """A function of arrays that knows the rule of each of its arguments.

    Positional arguments are arrays, Tensors or numbers; keyword arguments are
    static. The result is a Tensor if a Tensor with a rule is among the
    arguments, else a plain array. A rule that is None, or returns None, is a
    derivative that is zero: nothing is computed for it.

    ``cross_sample`` marks an op whose result mixes the samples of a batch; a function of the static
    arguments if it depends on them. ``casts`` marks one that may change the float dtype, which a
    graph cannot: it has no rules.
    """

    def __init__(self, fn, cross_sample=False, casts=False):
        update_wrapper(self, fn)
        self.fn = fn
        self.rules = ()
        self.cross_sample = cross_sample
        self.casts = casts

    def __repr__(self):
        return f"<primitive {self.__name__}>"

    def mixes_samples(self, params):
        """Whether a call with these static arguments mixes the samples of a batch."""
        mark = self.cross_sample
        return mark(**params) if callable(mark) else mark

    def __reduce__(self):
        return self.__qualname__  # by name, like a function

    def vjp(self, *rules):
        """Set the rules ``(g, y, *args, **params) -> adjoint of the argument``, one each."""
        self.rules = rules
        return self

    def vjp_each(self, rule):
        """Set one rule for all positions of a variadic op: ``rule(i, g, y, *args, **params)``."""
        self.rules = _ByPosition(rule)
        return self

    def __call__(self, *args, **params):
        raw = []
        dtype = None
        tracked = odd = False
        for a in args:
            kind = type(a)
            if kind is Tensor:
                tracked = True
                a = a.data
                kind = type(a)
            if kind is _ndarray:
                if a.dtype is not dtype:
                    if dtype is None:
                        dtype = a.dtype
                    else:
                        odd = True
            elif kind is not float and kind is not int:
                a = self._admit(a)
                odd = True
            raw.append(a)
        if odd:
            dtype = self._agree(raw)
        if params:
            for value in params.values():
                if type(value) not in _STATIC:
                    self._check_static(params)
        try:
            out = self.fn(*raw, **params)
        except (ValueError, TypeError, IndexError) as error:
            kind = next(k for k in (ValueError, IndexError, TypeError) if isinstance(error, k))
            raise kind(f"{self._call_as_text(raw, params)}: {error}") from error
        if type(out) is not _ndarray or out.dtype is not dtype:
            out = self._settle(out, dtype, raw)
        if tracked:
            edges = []
            for a, rule in zip(args, self.rules):  # noqa: B905 - rules may be endless
                if type(a) is Tensor and rule is not None:
                    edges.append((a, rule))
            if edges:
                out = Tensor(out, self, args, params, None, edges, raw)
        watch = _observer.get()
        if watch is not None:
            watch(self, args, params, out)
        return out

    def _admit(self, a):
        """A CuPy array, a NumPy scalar (as a Python number), a bool; or an error."""
        if isinstance(a, np.generic):
            return a.item()
        if isinstance(a, (bool, complex)) or hasattr(a, "dtype"):
            return a
        raise TypeError(
            f"{self.__name__}: argument of type {type(a).__name__}; expected a Tensor, an array or "
            "a number. Lists become arrays with np.asarray, lists of Tensors a Tensor with "
            "ops.stack"
        )

    def _agree(self, raw):
        """The common dtype of the real arrays, after a check that they can meet."""
        arrays = [a for a in raw if hasattr(a, "dtype")]
        kinds = {type(a) for a in arrays}
        if len(kinds) > 1:
            names = " and ".join(sorted(f"{k.__module__}.{k.__name__}" for k in kinds))
            raise TypeError(
                f"{self.__name__}: arrays of {names} cannot meet in one op; move them to one "
                "device with tinygan.to_device"
            )
        floats = {a.dtype for a in arrays if a.dtype.kind == "f"}
        if len(floats) > 1:
            given = ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays)
            raise TypeError(
                f"{self.__name__}: mixed dtypes {given}; a graph keeps one float dtype. Convert "
                "the data with .astype before it is tracked"
            )
        return floats.pop() if floats else None

    def _check_static(self, params):
        for key, value in params.items():
            if isinstance(value, np.generic):
                params[key] = value.item()
            elif type(value) is Tensor or (
                isinstance(value, list) and any(type(v) is Tensor for v in value)
            ):
                raise TypeError(
                    f"{self.__name__}: {key} is static and was given a Tensor, whose gradient "
                    "would be lost. Arrays and Tensors are given by position; pass .data if a "
                    "constant is meant"
                )

    def _settle(self, out, dtype, raw):
        """A 0-d result as an array; a result that changed its float dtype as an error."""
        if isinstance(out, np.generic):
            out = np.asarray(out)
            if out.dtype is dtype:
                return out
        floats = [a.dtype for a in raw if hasattr(a, "dtype") and a.dtype.kind == "f"]
        if floats and not self.casts and out.dtype.kind == "f" and out.dtype != floats[0]:
            given = ", ".join(f"{a.dtype}{list(a.shape)}" for a in raw if hasattr(a, "dtype"))
            raise TypeError(
                f"{self.__name__}: {given} gave {out.dtype}; a graph keeps one float dtype. "
                "Convert integers and other floats with .astype first"
            )
        return out

    def _call_as_text(self, raw, params):
        given = [f"{a.dtype}{list(a.shape)}" if hasattr(a, "dtype") else repr(a) for a in raw]
        given += [f"{key}={value!r}" for key, value in params.items()]
        return f"{self.__name__}({', '.join(given)})"


class _ByPosition:
    def __init__(self, rule):
        self.rule = rule

    def __iter__(self):
        return (partial(self.rule, i) for i in count())


def primitive(fn=None, *, cross_sample=False, casts=False):
    """Make a function of arrays a :class:`Primitive`; a decorator."""
    if fn is None:
        return partial(Primitive, cross_sample=cross_sample, casts=casts)
    return Primitive(fn, cross_sample, casts)


def track(tree, name=""):
    """``tree`` with every array as a Tensor: a leaf that gradients can be asked for.

    Leaves are named after their place, ``"D.0.weight"`` for ``track(params, "D")``.

    Raises: TypeError for leaves that are no float32 or float64 arrays.
    """
    return trees.rebuild(tree, [_leaf(a, path) for path, a in trees.paths(tree, name)])


def _leaf(a, name):
    where = f"track: {name or 'the argument'}"
    if type(a) is Tensor:
        raise TypeError(f"{where} is a Tensor already; use it as it is, or track its .data")
    if isinstance(a, (float, np.generic)):
        a = np.asarray(a)
    if getattr(a, "dtype", None) not in (np.float32, np.float64):
        what = getattr(a, "dtype", type(a).__name__)
        raise TypeError(
            f"{where} has type {what}; derivatives need float32 or float64 arrays. "
            "Convert with .astype(np.float32)"
        )
    return Tensor(a, name=name or None)


def values(tree):
    """``tree`` with every Tensor replaced by its plain array."""
    return trees.tree_map(lambda a: a.data if type(a) is Tensor else a, tree)


@contextmanager
def observe(callback):
    """Within the block, ``callback(op, args, params, out)`` sees every call of a primitive."""
    token = _observer.set(callback)
    try:
        yield
    finally:
        _observer.reset(token)


# The three primitives that the walk itself needs.


@primitive
def add(a, b):
    """The sum.

    y = a + b

    Gradient: ā = ȳ; b̄ = ȳ
    """
    return a + b


@primitive
def sum_to(a, *, shape):
    """The sum over the axes along which ``shape`` would be broadcast to a's shape.

    y[j] = Σ a[i] over all i that broadcasting maps to j

    Gradient: ā = broadcast(ȳ)
    """
    lead = a.ndim - len(shape)
    if len(shape) == 1 < a.ndim and shape == a.shape[-1:] and a.dtype.kind in "fc":
        if serves(a) and fused.takes(a):
            return fused.column_sum(a.reshape(math.prod(a.shape[:-1]), *shape))
        if type(a) is _ndarray:
            return _sum_of_rows(a.reshape(math.prod(a.shape[:-1]), *shape))
    axes = tuple(i for i in range(a.ndim) if i < lead or shape[i - lead] != a.shape[i])
    return a.sum(axes, keepdims=True).reshape(shape)


def _sum_of_rows(rows, block=1024):
    """The sum of a matrix's rows. BLAS beats rows.sum(0) four to one; sums of sums round less."""
    n, whole = len(rows), len(rows) - len(rows) % block
    rest = np.ones(n - whole, rows.dtype) @ rows[whole:]
    if whole == 0:
        return rest
    parts = np.ones(block, rows.dtype) @ rows[:whole].reshape(n // block, block, rows.shape[1])
    return parts.sum(0) + rest


@primitive
def broadcast_to(a, *, shape):
    """The array repeated along new axes and axes of length one, by NumPy's rule.

    y[i] = a[j] for all i that broadcasting maps to j

    Gradient: ā = sum_to(ȳ)
    """
    # np.broadcast_to, a view, takes longer for small arrays.
    y = array_module(a).empty(shape, a.dtype)
    y[...] = a
    return y


add.vjp(lambda g, y, a, b: g, lambda g, y, a, b: g)
sum_to.vjp(lambda g, y, a, *, shape: broadcast_to(g, shape=a.shape))
broadcast_to.vjp(lambda g, y, a, *, shape: sum_to(g, shape=a.shape))


def tape(roots, wanted=None):
    """The Tensors below ``roots``, arguments first: what the walk visits, in reverse.

    With ``wanted`` (a set of ids of Tensors), only those on a way down to one of them.

    Raises: RuntimeError if a part of the tape was released.
    """
    return _order(roots, wanted)[0]


def _order(roots, wanted):
    """The tape, and the ids of its nodes and of all those wanted."""
    order, met, done, live = [], set(), set(), set(wanted or ())
    stack = list(roots)
    while stack:
        node = stack[-1]
        key = id(node)
        if key in done:
            stack.pop()
            continue
        if key not in met:
            if node.args is None:
                raise RuntimeError(
                    "this tape was released by grad_values(..., release=True) and cannot be "
                    "walked again; leave release out of the first call"
                )
            met.add(key)
            depth = len(stack)
            for a, _ in node.edges:
                if id(a) not in done and (a.op is not None or wanted is None):
                    stack.append(a)
            if len(stack) > depth:
                continue  # the arguments first; this node is met again after them
        stack.pop()
        done.add(key)
        if wanted is None or key in live:
            order.append(node)
            continue
        for a, _ in node.edges:
            if id(a) in live:
                live.add(key)
                order.append(node)
                break
    return order, live


def grad(y, xs, cotangent=None):
    """The gradient of ``y`` in ``xs``, as Tensors that can be differentiated again.

    x̄ = Σᵢ (∂yᵢ/∂x)ᵀ uᵢ, with u = 1 for a scalar y.

    Args:
        y: a Tensor with one element, or any Tensor or tree of Tensors with a ``cotangent``.
        xs: a Tensor or a tree of Tensors, leaves or intermediates.
        cotangent: u, arrays or Tensors in the shape of y.
    Returns: a tree like ``xs``; zeros where y does not depend on x.
    Raises: TypeError if y or an x is no Tensor; ValueError for shapes that do not fit.
    """
    found = _walk(y, xs, cotangent, record=True, release=False)
    found = [g if type(g) is Tensor else Tensor(g) for g in found]
    return trees.rebuild(xs, found)


def grad_values(y, xs, cotangent=None, release=False):
    """:func:`grad` as plain arrays: the same rules, and nothing recorded. Training's last call.

    With ``release``, the tape of y is taken apart on the way, so that every
    intermediate array is freed as soon as it was used; y cannot be
    differentiated again. The arrays returned are writable and share no memory.
    """
    found = _walk(y, xs, cotangent, record=False, release=release)
    seen = {id(u) for u in trees.leaves(cotangent)}
    for i, g in enumerate(found):
        if g.base is not None or id(g) in seen:
            found[i] = broadcast_to(g, shape=g.shape)  # a copy that an observer sees
        seen.add(id(g))
    return trees.rebuild(xs, found)


def _walk(y, xs, cotangent, record, release):
    roots, targets = trees.leaves(y), trees.leaves(xs)
    for x in targets:
        if type(x) is not Tensor:
            raise TypeError(
                f"grad: an x is a {type(x).__name__}, a constant; expected Tensors: track() it "
                "before y is computed from it"
            )
    adjoints = {}
    for root, u in zip(roots, _cotangents(y, roots, cotangent), strict=True):
        if not record and type(u) is Tensor:
            u = u.data
        key = id(root)
        adjoints[key] = add(adjoints[key], u) if key in adjoints else u

    wanted = {id(x) for x in targets}
    order, live = _order(roots, wanted)
    while order:
        node = order.pop()
        key = id(node)
        g = adjoints.get(key) if key in wanted else adjoints.pop(key, None)
        if node.op is None or g is None:
            continue
        out, inputs = (node, node.args) if record else (node.data, node.raw)
        params = node.params
        for a, rule in node.edges:
            key = id(a)
            if key not in live:
                continue
            part = rule(g, out, *inputs, **params)
            if part is None:
                continue
            if part.shape != a.data.shape:
                part = sum_to(part, shape=a.data.shape)
            held = adjoints.get(key)
            adjoints[key] = part if held is None else add(held, part)
        if release:
            node.args = node.raw = node.edges = None
    return [
        adjoints[id(x)] if adjoints.get(id(x)) is not None else np.zeros_like(x.data)
        for x in targets
    ]


def _cotangents(y, roots, cotangent):
    for root in roots:
        if type(root) is not Tensor:
            raise TypeError(
                f"grad: y is a {type(root).__name__}, a constant; expected a Tensor. No tracked "
                "Tensor reached it: track() the inputs before y is computed"
            )
    if cotangent is None:
        for root in roots:
            if root.size != 1:
                raise ValueError(
                    f"grad: y has shape {root.shape} and no cotangent; give grad(y, xs, "
                    "cotangent) an array of that shape, or differentiate a sum or mean"
                )
        return [array_module(r.data).ones(r.shape, r.dtype) for r in roots]
    given = trees.leaves(trees.tree_map(lambda _, u: u, y, cotangent))
    for i, (root, u) in enumerate(zip(roots, given, strict=True)):
        if isinstance(u, _NUMBERS) and root.size == 1:
            given[i] = u = np.full_like(root.data, u)
        if not hasattr(u, "shape") or u.shape != root.shape or u.dtype != root.dtype:
            given_as = f"{u.dtype}{list(u.shape)}" if hasattr(u, "shape") else repr(u)
            raise ValueError(
                f"grad: cotangent is {given_as} for a y of "
                f"{root.dtype}{list(root.shape)}; expected the same shape and dtype"
            )
    return given


def vjp(f, x, u):
    """f(x) and Jᵀu, with J the Jacobian of f at x.

    Args:
        f: a function of one tree that returns a tree.
        x: a tree of arrays, answered with arrays; or of Tensors, answered with Tensors.
        u: a tree in the shape of f(x).
    """
    x, plain = _inputs(x)
    y = _outputs(f(x))
    return (values(y), grad_values(y, x, u)) if plain else (y, grad(y, x, u))


def jvp(f, x, v):
    """f(x) and Jv, with J the Jacobian of f at x. Arguments as in :func:`vjp`; v is shaped like x.

    Jᵀu is linear in u, so its own transposed derivative in the direction v is Jv.
    """
    x, plain = _inputs(x)
    y = _outputs(f(x))
    u = trees.tree_map(lambda a: Tensor(np.zeros_like(a.data)), y)
    transposed = grad(y, x, u)
    return (values(y), grad_values(transposed, u, v)) if plain else (y, grad(transposed, u, v))


def hvp(f, x, v):
    """Hv, with H the Hessian of the scalar f at x. Arguments as in :func:`jvp`."""
    x, plain = _inputs(x)
    gradient = grad(_outputs(f(x)), x)
    return grad_values(gradient, x, v) if plain else grad(gradient, x, v)


def _inputs(x):
    kinds = {type(a) is Tensor for a in trees.leaves(x)}
    if len(kinds) > 1:
        raise TypeError("x mixes Tensors and arrays; give all Tensors or all arrays")
    return (x, False) if kinds == {True} else (track(x), True)


def _outputs(y):
    """A result that does not depend on x is a constant; as a leaf it has derivative zero."""
    return trees.tree_map(
        lambda a: (
            a if type(a) is Tensor else Tensor(np.asarray(a) if isinstance(a, _NUMBERS) else a)
        ),
        y,
    )


@primitive
def stop_gradient(a):
    """The argument as a constant: the same array, no derivative.

    y = a
    """
    return a
