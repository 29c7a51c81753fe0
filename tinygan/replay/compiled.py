"""A step that is recorded at its first call and replayed at every call.

It stays the function that it was: it changes none of its arguments, and its results are arrays of
the caller's own. What makes it fast is that results are written into memory which the program has
already: that of earlier results that nobody holds any more. A result that somebody holds, or a
view of it, is never written to.
"""

import ctypes
import sys
import threading
from time import perf_counter

import numpy as np

from tinygan import tree as trees
from tinygan.backend import array_module
from tinygan.engine import Tensor, _observer
from tinygan.parallel import Scratch
from tinygan.replay import cpu, gpu
from tinygan.replay.forms import reader, writer
from tinygan.replay.passes import optimise
from tinygan.replay.program import Value
from tinygan.replay.storage import aligned
from tinygan.replay.trace import is_array, is_number, trace

_ndarray = np.ndarray

KEPT = 8  # programs that one step keeps: one for each set of shapes
BOUND = 16  # functions that one program keeps: one for each set of arrays
SETS = 6  # sets of results that one program keeps
SMALL = 32  # numbers up to which a caller gets a copy: who keeps every loss does not keep sets


def compile(step, again=None):
    """``step`` as a :class:`Compiled` step: the same function, recorded once and then replayed.

    What the step closes over is a constant of the recording: give as arguments what varies. Who
    keeps the large results of many calls makes each further call find new memory.

    Args:
        step: a function of trees of arrays and numbers, as :func:`tinygan.replay.trace` takes it.
        again: a function of the step's arguments that gives, as a tuple, those of the second run
            that recording makes; without it they are made by a rule. It must not call the compiled
            step, which waits for it.
    """
    return Compiled(step, again)


class Compiled:
    """A step that is recorded, optimised and replayed; made by :func:`compile`.

    Called like the step, with the same results to rounding. The first call with new shapes, dtypes,
    nesting or device records the step anew. Results are arrays of the caller's own: no later call
    changes them while they are held. Calls from several threads take turns. An exception or Ctrl-C
    in the middle of a call leaves nothing half-done: arguments and earlier results are as they
    were, and the next call works.
    """

    def __init__(self, step, again=None):
        self.step, self.again = step, again
        self.runners = {}
        self.latest = None
        self.lock = threading.Lock()

    def __reduce__(self):
        return compile, (self.step, self.again)  # a copy records for itself

    def __repr__(self):
        name, runners = getattr(self.step, "__name__", self.step), self.runners.values()
        ways = dict.fromkeys(f", {r.plan.mode}" for r in runners if type(r.plan) is gpu.Plan)
        return f"<compiled {name}: {len(runners)} programs{''.join(ways)}>"

    def _repr_html_(self):
        from tinygan import html  # for notebooks alone
        from tinygan.replay.listing import in_bytes, in_flops

        rows = []
        for runner in list(self.runners.values()):  # another thread may record one more
            program, plan = runner.program, runner.plan
            totals = program.totals().items()
            rows.append([
                len(program.inputs), len(program.lines), in_flops(program.flops),
                in_bytes(program.nbytes), ", ".join(f"{n} {phase}" for phase, (n, *_) in totals),
                plan.mode if type(plan) is gpu.Plan else "CPU",
            ])  # fmt: skip
        head = ("inputs", "lines", "operations", "results", "of these lines", "runs as")
        name = getattr(self.step, "__name__", self.step)
        caption = f"compiled {name}: a program for each set of shapes"
        return html.table(rows, head, caption, "rrrrll")

    def __call__(self, *args):
        if _observer.get() is not None:
            return self.step(*args)  # whoever records or observes wants to see the calls
        with self.lock:
            runner = self.latest
            given = None if runner is None else runner.take(args)
            if given is None:
                runner = self._runner(args)
                given = runner.leaves(args)
            return runner.run(given)

    def program(self, *args):
        """The optimised :class:`Program` for arguments like these; print it."""
        with self.lock:
            return self._runner(args).program

    def source(self, *args):
        """The text of the function that is run for arguments like these."""
        with self.lock:
            return self._runner(args).source(args)

    def profile(self, *args, repeats=10):
        """Where a call's time goes: [(function, calls, seconds)], the longest first.

        Each call of the program is timed by itself, ``repeats`` times; the least counts.
        """
        with self.lock:
            return self._runner(args).profile(args, repeats)

    def _runner(self, args):
        key = signature(args)
        runner = self.runners.pop(key, None)
        if runner is None:
            other = None if self.again is None else self.again(*args)
            program = optimise(trace(self.step, *args, again=other))
            runner = Runner(program, gpu.module_of(args))
        self.runners[key] = self.latest = runner  # the latest last
        if len(self.runners) > KEPT:
            del self.runners[next(iter(self.runners))]
        return runner


def signature(args):
    """What a program is for: nesting, and the kind, shape and dtype of every leaf; hashable."""
    if type(args) is np.ndarray:
        return args.shape, args.dtype
    if isinstance(args, dict):
        return dict, tuple(args), tuple([signature(a) for a in args.values()])
    if isinstance(args, (list, tuple)):
        return type(args), tuple([signature(a) for a in args])
    if type(args) is Tensor:
        raise TypeError(
            f"a compiled step was given a Tensor (shape {args.shape}); expected plain arrays: "
            "the step tracks them itself. Pass values(tree)"
        )
    if is_number(args):
        return "a number", int if isinstance(args, (int, np.integer)) else float
    if isinstance(args, np.ndarray) and type(args) is not np.ndarray:
        raise TypeError(
            f"a compiled step was given a {type(args).__name__}, a subclass of NumPy's array; "
            "expected plain arrays. Pass np.asarray(array)"
        )
    if is_array(args):
        return array_module(args).__name__, args.shape, args.dtype
    try:
        hash(args)
    except TypeError as error:
        raise TypeError(
            f"a compiled step was given {args!r}, of type {type(args).__name__}; expected trees of "
            "arrays and numbers, and beside them only what can be hashed. Close over the rest: "
            "compile(lambda params, x: step(config, params, x))"
        ) from error
    return type(args), args


class _Results:
    """Memory for one set of results: the program's arrays of it, and the callers'.

    A view of a caller's array keeps that array alive; nobody else refers to it. While it has no
    reference but the one in this set, its memory is free.
    """

    def __init__(self, arrays, given):
        self.arrays, self.given = arrays, given
        self.shapes = [a.shape for a in given]

    def free(self):
        """Whether nobody holds an array of the set, or a view of one."""
        for a in self.given:
            if sys.getrefcount(a) != ALONE:
                return False
        return True

    def changed(self):
        """Whether a holder has given an array another shape, dtype or flag."""
        return [a.shape for a in self.given] != self.shapes or any(
            a.dtype is not b.dtype or a.strides != b.strides or not a.flags.writeable
            for a, b in zip(self.given, self.arrays, strict=True)
            if type(a) is _ndarray
        )


def _arrays(values):
    """New arrays, and the same once more, to be given away.

    Those rest on a buffer that is no array (nor a memoryview, which NumPy looks through): their
    views then refer to them, and not to the memory below.
    """
    memory = [aligned(v.nbytes) for v in values]
    pairs = list(zip(values, memory, strict=True))
    return (
        [m.view(v.dtype).reshape(v.shape) for v, m in pairs],
        [np.ndarray(v.shape, v.dtype, (ctypes.c_char * len(m)).from_buffer(m)) for v, m in pairs],
    )


def _references(arrays):
    """What getrefcount says of arrays to which a list has the only references."""
    return {sys.getrefcount(a) for a in arrays}


(ALONE,) = _references([np.empty(0)])


class Runner:
    """One program at work: its memory, its results' arrays, and the functions bound to them."""

    def __init__(self, program, xp=np):
        self.kind = xp.ndarray
        if xp is np:
            self.plan = cpu.Plan(program, Scratch())
            self.inputs = [None] * len(program.inputs)
            self.results = self.plan.storage.results
        else:
            self.plan = gpu.Plan(program, xp)
            self.inputs, self.results = self.plan.inputs, self.plan.results
        self.program = self.plan.program
        self.sets, self.bound = [], {}
        self.owned = {}  # id of a caller's array: the program's array of the same memory
        places = {v: i for i, v in enumerate(self.results)}
        inputs = {v: i for i, v in enumerate(program.inputs)}
        from_where = []
        for leaf in trees.leaves(program.results):
            if type(leaf) is not Value:
                from_where.append(("is", leaf))
            elif leaf in places:
                small = leaf.size <= SMALL
                from_where.append(("copied result" if small else "result", places[leaf]))
            elif leaf in inputs:
                from_where.append(("input", inputs[leaf]))
            else:
                from_where.append(("constant", program.constants[leaf]))
        self.write = writer(program.results, from_where)
        self.read = reader(program.arguments)
        self.expected = trees.leaves(program.arguments)
        self.is_input = [type(a) is Value for a in self.expected]

    def take(self, args):
        """The arguments' arrays and numbers, in order; None if the program is not for them."""
        try:
            leaves = self.read(args)
        except (KeyError, TypeError, ValueError):
            return None
        for a, v in zip(leaves, self.expected, strict=True):
            if type(v) is not Value:
                if a is not v and (type(a) is not type(v) or a != v):
                    return None
            elif type(a) is self.kind:
                if a.shape != v.shape or (a.dtype is not v.dtype and a.dtype != v.dtype):
                    return None
            elif type(a) is not float or v.shape or v.dtype.kind != "f":
                return None  # not so quickly, at least
        return leaves if all(self.is_input) else self._inputs_of(leaves)

    def leaves(self, args):
        """The arrays and numbers of arguments that the program is for."""
        return self._inputs_of(trees.leaves(args))

    def _inputs_of(self, leaves):
        return [leaf for leaf, is_input in zip(leaves, self.is_input, strict=True) if is_input]

    def run(self, given):
        """The results for the arguments' arrays and numbers."""
        results = self._free_set()
        self._bind(given, results)[0]()
        return self.write(results.given, given)

    def source(self, args):
        """The text of the function that runs."""
        return self._bind(self.leaves(args), self._free_set())[1]

    def profile(self, args, repeats):
        """As :meth:`Compiled.profile`."""
        calls = self._bind(self.leaves(args), self._free_set())[2]
        best = [float("inf")] * len(calls)
        for _ in range(repeats):
            for i, (function, positional, named) in enumerate(calls):
                start = perf_counter()
                function(*positional, **named)
                best[i] = min(best[i], perf_counter() - start)
        found = {}
        for (function, _, _), seconds in zip(calls, best, strict=True):
            name = getattr(function, "__name__", str(function))
            count, total = found.get(name, (0, 0.0))
            found[name] = count + 1, total + seconds
        rows = [(name, count, seconds) for name, (count, seconds) in found.items()]
        return sorted(rows, key=lambda row: -row[2])

    def _bind(self, given, results):
        """What reads these arguments and writes these results: (function, source, calls, copied).

        Results of earlier calls are read where they are; other arguments are copied to a place of
        their own. In the steady state the same few sets of arrays come again and again.
        """
        owned, mine = self.owned, []
        for a in given:
            ours = owned.get(id(a))  # to which a holder may have given another shape
            same = ours is not None and ours.shape == a.shape and ours.dtype == a.dtype
            mine.append(id(a) if same else 0)
        key = (id(results), *mine)
        if self.kind is not _ndarray:
            key = (self.plan.prepare(), *key)
        bound = self.bound.get(key)
        if bound is None:
            copied = [(i, self._place(i)) for i, at in enumerate(mine) if not at]
            places = dict(copied)
            sources = [places[i] if i in places else owned[id(a)] for i, a in enumerate(given)]
            self._make_room(places.keys())
            bound = self.bound[key] = *self.plan.bind(sources, results.arrays), copied
        for i, place in bound[3]:
            place[...] = given[i]
        return bound

    def _place(self, i):
        """Where input number i is copied to, if it is no earlier result."""
        if self.inputs[i] is None:
            value = self.program.inputs[i]
            self.inputs[i] = np.empty(value.shape, value.dtype)
        return self.inputs[i]

    def _make_room(self, copied):
        """Let go of functions that are not needed again, it seems, before one more is bound.

        A first call copies the parameters; the next finds them among the results. If less is
        copied now, then the functions that copy more go, and with them the places.
        """
        for key, bound in list(self.bound.items()):
            if {i for i, _ in bound[3]} > copied or len(self.bound) >= BOUND:
                del self.bound[key]
        if self.kind is _ndarray:
            used = copied | {i for bound in self.bound.values() for i, _ in bound[3]}
            self.inputs = [a if i in used else None for i, a in enumerate(self.inputs)]

    def _free_set(self):
        """A set of results that nobody holds, the least recently used; a new one if all are held.

        Of many sets that are held the oldest is left to its holders. Each step leaves things as
        they must be, for Ctrl-C may come between any two.
        """
        for each in self.sets:
            if each.free():
                if each.changed():
                    self._forget(each)
                    self.sets = [other for other in self.sets if other is not each]
                    return self._free_set()
                self.sets = [*(other for other in self.sets if other is not each), each]
                return each
        if len(self.sets) >= SETS:
            self._forget(self.sets[0])
            self.sets = self.sets[1:]
        on_gpu = type(self.plan) is gpu.Plan
        new = _Results(*(self.plan.arrays() if on_gpu else _arrays(self.results)))
        self.sets = [*self.sets, new]
        pairs = zip(new.given, new.arrays, strict=True)
        self.owned.update((id(theirs), ours) for theirs, ours in pairs)
        return new

    def _forget(self, old):
        ids = {id(old), *map(id, old.given)}
        for a in old.given:
            self.owned.pop(id(a), None)
        for key in [key for key in self.bound if ids & set(key)]:
            del self.bound[key]
