"""Recording a step: eager runs under observation, more than one, so that nothing is frozen unseen.

Arrays are followed by identity. What a primitive is given is an input, the result of an earlier
call, or else a constant. Runs on other values must make the same calls, with the same
constants and the same static arguments: what differs depends on values in a way that no
recording can repeat, and is an error that says where it is.
"""

import inspect
import os
import sys
import weakref

import numpy as np

from tinygan import tree as trees
from tinygan.backend import array_module
from tinygan.engine import Tensor, _walk, observe
from tinygan.kernels.launch import pointer
from tinygan.replay.gpu import module_of
from tinygan.replay.program import PHASES, Line, Program, Value

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OPTIM = os.path.join(_HERE, "optim.py")
_BELOW = tuple(  # what lies below a step: its lines are not where a call came from
    os.path.join(_HERE, name) for name in ("engine.py", "ops.py", "conv.py", "norms.py", "replay")
)


def trace(step, *args, again=None):
    """The :class:`Program` of one call of ``step``.

    The step is run three times, on ``args``, on other values of the same shapes and on the opposite
    ones, and its results are thrown away; what it does beside computing arrays (printing, appending
    to a list) happens then and is not recorded.

    Args:
        step: a function of trees of arrays and numbers that returns such a tree. All it computes
            from them it computes by primitives.
        args: its arguments. Each number becomes a 0-d array (float64 or int64): an input like the
            others. Leaves that are neither arrays nor numbers are taken as they are.
        again: the arguments of a second and last run; without them they are made from ``args``.
    Raises: TypeError and ValueError where the step depends on values, changes an array, draws
        random numbers or returns Tensors, naming the line and the remedy. A choice that falls the
        same way in all runs is not seen: a step that has one needs ``again``.
    """
    arguments = _as_arrays(args)
    names = _names(step, args)
    first = _Recorder(arguments, names)
    with np.errstate(all="ignore"):
        try:
            program = first.record(step)
        except TypeError as error:
            leaves = zip(names, trees.leaves(args), strict=True)
            numbers = ", ".join(name for name, leaf in leaves if is_number(leaf))
            if not numbers or "one float dtype" not in str(error):
                raise
            raise TypeError(
                f"{error}. Numbers among the arguments of a recorded step ({numbers}) are 0-d "
                "float64 or int64 arrays: give them as arrays of the dtype that they meet, as "
                "np.asarray(rate, np.float32), or round them in the step with optim.rounded"
            ) from error
        # One after the other: each has arrays of its own for all arguments.
        others = trees.tree_map(_other, arguments) if again is None else _as_arrays(again)
        second = _Recorder(others, names)
        _compare(first, program, second, second.record(step))
        del others, second
        if again is None:
            third = _Recorder(trees.tree_map(_opposite, arguments), names)
            try:
                found = third.record(step)
            except Exception:  # a step may refuse a negative rate; then there is no third run
                return program
            _compare(first, program, third, found)
    return program


def is_array(leaf):
    """Whether a leaf of the arguments is an array."""
    return isinstance(leaf, np.ndarray) or (
        hasattr(leaf, "dtype") and not isinstance(leaf, np.generic) and type(leaf) is not Tensor
    )


def is_number(leaf):
    """Whether a leaf of the arguments is a number: an input, as an array of no axes."""
    return isinstance(leaf, (int, float, np.generic)) and not isinstance(leaf, (bool, np.bool_))


def _as_arrays(args):
    xp = module_of(args)

    def array(leaf):
        if type(leaf) is Tensor:
            raise TypeError(
                f"trace: an argument is a Tensor (shape {leaf.shape}); a step takes plain arrays "
                "and tracks them itself. Pass values(tree)"
            )
        if is_number(leaf):
            whole = isinstance(leaf, (int, np.integer))
            return xp.asarray(leaf, dtype=np.int64 if whole else np.float64)
        if not is_array(leaf):
            return leaf
        copy = leaf.copy()
        if type(copy) is np.ndarray:
            copy.flags.writeable = False  # a step that writes to an argument gets an error
        return copy

    return trees.tree_map(array, args)


def _names(step, args):
    """The place of every leaf: the parameter's name, then the path within the argument."""
    try:
        bound = inspect.signature(step).bind(*args)
    except ValueError:  # a function without a signature
        return [path for path, _ in trees.paths(args, fields=True)]
    names = []
    for name, value in bound.arguments.items():
        names += [path for path, _ in trees.paths(value, name, fields=True)]
    return names


def _other(a):
    """Another array of the same kind: reversed, and floats moved a little, so that few equalities
    and orders of the first survive by chance. Integers are the same ones in another order: as
    indices they stay within their range."""
    if not is_array(a):
        return a
    turned = a.reshape(-1)[::-1].reshape(a.shape)
    if a.dtype.kind == "f":
        other = turned * a.dtype.type(1.0078125) + a.dtype.type(0.0009765625)
    elif a.ndim == 0 and a.dtype.kind in "iu":
        other = a + a.dtype.type(1)
    else:
        other = turned if bool((turned != a).any()) else array_module(a).roll(turned, 1)
    other = array_module(a).asarray(other, dtype=a.dtype)  # 0-d results are scalars
    if type(other) is np.ndarray:
        other.flags.writeable = False
    return other


def _opposite(a):
    """The same array with the signs of its floats turned, for choices by sign."""
    if not is_array(a) or a.dtype.kind != "f":
        return a
    other = array_module(a).asarray(-a, dtype=a.dtype)
    if type(other) is np.ndarray:
        other.flags.writeable = False
    return other


class _Recorder:
    """One run: its lines, and which array is which value."""

    def __init__(self, arguments, names):
        self.arguments = arguments
        # {id or place of an array: (a weak reference, its value)}; both are used again after its
        # death.
        self.known = {}
        self.lines, self.constants, self.orders, self.line_of = [], {}, {}, {}
        self.kept, self.met = [], {}
        leaves = []
        for name, a in zip(names, trees.leaves(arguments), strict=True):
            leaves.append(self._meet(a, name) if is_array(a) else a)
        self.inputs = trees.rebuild(arguments, leaves)

    def record(self, step):
        try:
            with observe(self._see):
                results = step(*self.arguments)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            raise ValueError(
                f"trace: the step changes an array in place ({error}): a recorded step is a "
                "function of arrays that changes none. Return a new array instead"
            ) from error
        return Program(
            self.inputs, self.constants, tuple(self.lines), trees.tree_map(self._result, results)
        )

    def _meet(self, a, name=None):
        value = Value(tuple(a.shape), a.dtype, name)
        self.met[value] = len(self.met)
        self._hold(a, value)
        return value

    def _hold(self, a, value):
        try:
            entry = weakref.ref(a), value
        except TypeError:  # no weak references to this kind of array: kept alive instead
            self.kept.append(a)
            entry = (lambda: a), value
        self.known[id(a)] = entry
        if a.size:
            self.known[_place(a)] = entry

    def _find(self, a):
        reference, value = self.known.get(id(a), (None, None))
        if reference is not None and reference() is a:
            return value
        if a.size:
            # The same elements in the same order are the same array: nothing was computed.
            reference, value = self.known.get(_place(a), (None, None))
            if reference is not None and reference() is not None:
                return value
        return None

    def _see(self, op, args, params, out):
        out = out.data if type(out) is Tensor else out
        raw = [a.data if type(a) is Tensor else a for a in args]
        if any(a is out for a in raw) or not is_array(out):
            return  # the argument itself, as of stop_gradient, or a number made of numbers
        phase, layer, source = self._origin()
        given = tuple(self._argument(op, i, a, source) for i, a in enumerate(raw))
        result = self._meet(out)
        if type(out) is np.ndarray:
            out.flags.writeable = False  # nobody may change it unseen
        if not layer:
            layer = self._layer(given)
        line = Line(op, given, dict(params), result, phase, layer, source)
        self.orders[result] = PHASES.index(phase) if phase != "update" else 0
        self.line_of[result] = line
        self.lines.append(line)

    def _argument(self, op, position, a, source):
        if isinstance(a, (int, float, np.generic)):
            return a.item() if isinstance(a, np.generic) else a
        value = self._find(a)
        if value is None:
            base = getattr(a, "base", None)
            while base is not None and a.size:
                if self._find(base) is not None:
                    raise ValueError(
                        f"trace: {op.__name__}, called from {source}, was given a view (argument "
                        f"{position}, {a.dtype}{list(a.shape)}) that NumPy made of an array of the "
                        "step, by slicing, reshaping or transposing it. A recording would keep "
                        "its present numbers for ever: use tinygan.ops (index, reshape, transpose)"
                    )
                base = getattr(base, "base", None)
            value = self._constant(a)
        elif value in self.constants and not _same(self.constants[value], a):
            raise ValueError(
                f"trace: {op.__name__}, called from {source}, was given an array (argument "
                f"{position}, {a.dtype}{list(a.shape)}) that the step has changed in place since "
                "its first use. A recorded step is a function of arrays that changes none: make a "
                "new array instead"
            )
        return value

    def _constant(self, a):
        value = self._meet(a)
        self.constants[value] = a.copy()
        self.kept.append(a)
        return value

    def _origin(self):
        """(phase, layer, source) of the call that is being made, read off the stack."""
        frame = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if code is _walk.__code__:
                node = frame.f_locals.get("node")
                line = node is not None and self.line_of.get(self._find(node.data))
                if line:
                    order = min(self.orders[line.result] + 1, 2)
                    return PHASES[order], line.layer, line.source
                return PHASES[1], "", ""
            if not code.co_filename.startswith(_BELOW):
                break
            frame = frame.f_back
        if frame is None:
            return PHASES[0], "", ""
        file = os.path.basename(frame.f_code.co_filename)
        phase = PHASES[3] if frame.f_code.co_filename == _OPTIM else PHASES[0]
        return phase, "", f"{file}:{frame.f_lineno}"

    def _layer(self, given):
        for a in given:
            if type(a) is Value and a.name:
                layer, _, last = a.name.rpartition(".")
                if layer and not last.isdigit():
                    return layer
            if type(a) is Value and a in self.line_of and self.line_of[a].phase == "update":
                return self.line_of[a].layer  # a parameter that has just been updated
        for a in given:
            if type(a) is Value and a in self.line_of:
                return self.line_of[a].layer
        return ""

    def _result(self, leaf):
        if type(leaf) is Tensor:
            raise TypeError(
                f"trace: the step returns a Tensor (shape {leaf.shape}), which holds the tape of "
                "one run; return its .data, or values(tree)"
            )
        if isinstance(leaf, np.generic):
            leaf = leaf.item()
        if not is_array(leaf):
            return leaf
        value = self._find(leaf)
        if value is None or value in self.constants and not _same(self.constants[value], leaf):
            value = self._constant(leaf)
        return value


def _compare(first, program, second, again):
    """An error that names the first difference between two runs of a step."""
    for a, b in zip(program.lines, again.lines, strict=False):
        where = f"{a.op.__name__}, called from {a.source or 'the step'},"
        if a.op is not b.op or a.source != b.source:
            raise ValueError(
                f"trace: for other values the step goes another way: {where} is "
                f"{b.op.__name__}, called from {b.source}, there. A recording would take the "
                "first way for ever: choose with ops.where or ops.maximum, or leave the choice "
                "outside the step"
            )
        if a.params != b.params:
            raise ValueError(
                f"trace: {where} has the static arguments {a.params}, and {b.params} for other "
                "values: they depend on values, and a recording would freeze them. Give what "
                "varies by position, as an array"
            )
        if a.result.shape != b.result.shape or a.result.dtype != b.result.dtype:
            raise ValueError(
                f"trace: the result of {where} has shape {a.result.shape}, and {b.result.shape} "
                "for other values; the shapes of a recording are fixed"
            )
        for i, (x, y) in enumerate(zip(a.args, b.args, strict=True)):
            if type(x) is not Value or type(y) is not Value:
                if x is not y and x != y and not (x != x and y != y):
                    raise ValueError(
                        f"trace: argument {i} of {where} is the number {x}, and {y} for other "
                        "values: it depends on values (a float() or .item()?), and a recording "
                        "would freeze it. Keep it an array"
                    )
                continue
            _compare_constants(where, i, first, program, x, second, again, y)
    if len(program.lines) != len(again.lines):
        raise ValueError(
            f"trace: the step makes {len(program.lines)} calls, and {len(again.lines)} for other "
            "values: it branches or loops on values. Leave the choice outside the step"
        )
    try:
        trees.tree_map(lambda *_: None, program.results, again.results)
    except ValueError as error:
        raise ValueError(
            f"trace: for other values the step returns another tree ({error}); a recording would "
            "return the first for ever"
        ) from error
    outputs = zip(trees.leaves(program.results), trees.leaves(again.results), strict=True)
    for i, (x, y) in enumerate(outputs):
        if type(x) is Value and type(y) is Value:
            _compare_constants(f"result {i} of the step", None, first, program, x, second, again, y)
        elif x is not y and x != y and not (x != x and y != y):
            raise ValueError(
                f"trace: result {i} of the step is {x!r}, and {y!r} for other values, and no "
                "array: a recording would freeze it. Return an array (no float() or .item())"
            )


def _compare_constants(where, i, first, program, x, second, again, y):
    what = where if i is None else f"argument {i} of {where}"
    if first.met[x] != second.met[y]:
        raise ValueError(
            f"trace: {what} is another array for other values: the step chooses by values. Choose "
            "with ops.where"
        )
    if x not in program.constants:
        return
    a, b = program.constants[x], again.constants[y]
    if a.shape != b.shape or a.dtype != b.dtype or not _same(a, b):
        raise ValueError(
            f"trace: {what} ({a.dtype}{list(a.shape)}) is no result of a primitive and differs "
            "from run to run: NumPy made it of the step's arrays, or it was drawn or read inside "
            "the step. A recording would freeze it: compute with tinygan.ops, and give random "
            "draws and counters as arguments"
        )


def _place(a):
    """Which elements an array has, in which order."""
    return pointer(a), a.shape, a.strides, a.dtype


def _same(a, b):
    equal = a == b
    if a.dtype.kind == "f":
        equal = equal | ((a != a) & (b != b))
    return bool(equal.all())
