"""Running a program on the CPU: one straight-line function of NumPy calls into planned memory.

The function has a line for each call, no loop over them, and allocates nothing. Its text can be
read: ``Runner.source``. Groups of large element-wise lines run block by block, each block's passes
in the cache, over the threads of :func:`tinygan.threads`. How the work is cut depends on sizes and
the number of threads alone.
"""

import threading

import numpy as np

from tinygan import norms
from tinygan.parallel import blocks
from tinygan.replay import recipes
from tinygan.replay.fuse import fuse
from tinygan.replay.masks import share_masks
from tinygan.replay.program import Value
from tinygan.replay.statistics import Statistics
from tinygan.replay.storage import Storage, aligned

BLOCK = 1 << 16  # elements of a group's block
PAYS = 1 << 18  # elements from which a group is split over threads


def prepare(program):
    """The program as it is run here: masks shared, element-wise lines in groups."""
    return fuse(share_masks(program))


_POSITIONAL = {  # of two arguments, maximum and minimum want out= by name
    f for f in vars(np).values() if isinstance(f, np.ufunc) and f not in (np.maximum, np.minimum)
}


class Plan:
    """What all runs of a program share: its storage, the memory of its buffers, its constants."""

    def __init__(self, program, scratch):
        program = self.program = prepare(program)
        self.groups = _groups(program)
        self.storage = Storage(program, _within(program, self.groups))
        self.memory = self.storage.memory()
        self.scratch = scratch
        self.constants = {}
        self.temporaries = {}

    def bind(self, inputs, results):
        """(function, its source, its calls): the program as a function without arguments.

        It reads the arrays ``inputs`` and writes the arrays ``results``, in the orders of
        ``program.inputs`` and ``storage.results``: C-contiguous, and none in another.
        """
        arrays = self.storage.arrays(self.memory, inputs, results)
        calls, once = [], {}
        lines = iter(enumerate(self.program.lines))
        for i, line in lines:
            if line in self.storage.skipped:
                continue
            if i in self.groups:
                members = self.groups[i]
                self._emit_group(calls, members, arrays)
                for _ in members[1:]:
                    next(lines)
                continue
            emit = _Emit(self, calls, once=once)
            _emit_line(emit, line, arrays[line.result], arrays.__getitem__)
        return *_generate(calls, self.program, arrays), calls

    def _emit_group(self, calls, members, arrays):
        head = members[0]
        if head.op in recipes.EPILOGUES:
            emit = _Emit(self, calls)
            rest = [line for line in members[1:] if line.op not in recipes.STATISTICS]
            group = _Group(self, rest, arrays, False) if rest else None
            gathered = self._statistics(members, arrays)
            if gathered is None or group is None:
                emit.after = gathered or group
            else:
                emit.after = _Both(gathered, group)
            if gathered is not None:
                calls.append((gathered.begin, (), {}))
            _emit_line(emit, head, arrays[head.result], arrays.__getitem__)
            if gathered is not None:
                calls.append((gathered.finish, (), {}))
            return
        flat = all(
            a.size == 1 or (a.shape == head.result.shape and arrays[a].flags.c_contiguous)
            for line in members
            for a in line.operands
            if a in arrays
        )
        group = _Group(self, members, arrays, flat)
        size, n = head.result.size, head.result.shape[0]
        if flat:
            calls.append((blocks, (size, BLOCK, group, size >= PAYS), {}))
        else:
            rows = max(1, BLOCK * n // size)
            calls.append((blocks, (n, rows, group, size >= PAYS), {}))

    def _statistics(self, members, arrays):
        """What gathers the mean and the deviation of the group's product; None if none is asked."""
        found = {line.op: line for line in members if line.op in recipes.STATISTICS}
        if not found:
            return None
        mean, deviation = found[norms.block_mean], found.get(norms.block_inverse_deviation)

        def temporary(shape, dtype):
            owner = threading.get_ident(), "statistics"
            return _Emit(self, None, owner).like(None, dtype, shape)

        return Statistics(
            arrays[members[0].result],
            arrays[mean.result],
            None if deviation is None else arrays[deviation.result],
            None if deviation is None else deviation.params["eps"],
            temporary,
        )


class _Both:
    """Two things to do with samples i:j, the first before the second may change them."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def __call__(self, i, j):
        self.first(i, j)
        self.second(i, j)


def _groups(program):
    """{index of the first line: the lines} of every group."""
    found, start = {}, None
    for i, line in enumerate(program.lines):
        if line.group is None:
            start = None
        elif start is not None and program.lines[start].group == line.group:
            found[start].append(line)
        else:
            start = i
            found[i] = [line]
    return found


def _within(program, groups):
    """The values that only the lines of their own group use, block by block, and nobody else.

    A head's result is made as a whole, and statistics are there when the whole group is done.
    """
    inner = {
        line.result: line.group
        for lines in groups.values()
        for line in lines
        if line.op not in recipes.EPILOGUES | recipes.STATISTICS
    }
    outside = set(program.outputs)
    for line in program.lines:
        outside |= {a for a in line.operands if inner.get(a) != line.group}
    return frozenset(v for v in inner if v not in outside)


def _emit_line(emit, line, y, array):
    args = [
        array(a) if type(a) is Value else emit.number(a, y) if line.op in recipes.ELEMENTWISE else a
        for a in line.args
    ]
    recipe = recipes.ELEMENTWISE.get(line.op) or recipes.WHOLE.get(line.op)
    if recipe is not None and recipes.takes(line):
        recipe(emit, y, *args, **line.params)
    else:
        emit(_by_itself, line.op.fn, line.params, y, *args)


def _by_itself(function, params, y, *args):
    """A primitive without a recipe: computed by its own function, and copied."""
    y[...] = function(*args, **params)


class _Emit:
    """What a recipe writes its calls to; see :mod:`tinygan.replay.recipes`."""

    def __init__(self, plan, calls, owner=None, once=None):
        self.once = once
        self.plan = plan
        self.calls = calls
        self.owner = owner
        self.scratch = plan.scratch
        self.after = None
        self.used = 0

    def __call__(self, function, *args, **kwargs):
        self.calls.append((function, args, kwargs))

    def number(self, x, y):
        """A number as a 0-d array of y's dtype."""
        key = float(x).hex() if isinstance(x, float) else x, y.dtype
        if key not in self.plan.constants:
            self.plan.constants[key] = np.asarray(x, y.dtype)
        return self.plan.constants[key]

    def full(self, y, x, shape=None):
        """An array of one number, of y's shape and dtype unless a shape is given."""
        key = x, y.shape if shape is None else shape, y.dtype
        if key not in self.plan.constants:
            self.plan.constants[key] = np.full(key[1], x, y.dtype)
        return self.plan.constants[key]

    def like(self, y, dtype=None, shape=None):
        """Temporary memory of y's shape and dtype, or others: until the next line."""
        shape, dtype = y.shape if shape is None else shape, np.dtype(dtype or y.dtype)
        key = self.owner, self.used, shape, dtype
        self.used += 1
        if key not in self.plan.temporaries:
            nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            self.plan.temporaries[key] = aligned(nbytes).view(dtype).reshape(shape)
        return self.plan.temporaries[key]

    def opposite(self, a):
        """−a, made once for all lines of a program."""
        key = id(a)  # each value has one array, and it lives until its last use
        y = None if self.once is None else self.once.get(key)
        if y is None:
            y = np.empty_like(a) if self.once is not None else self.like(a)
            self(np.negative, a, out=y)
            if self.once is not None:
                self.once[key] = y
        return y


class _Group:
    """A group's lines for samples, or flat elements, i:j; each thread has its own temporaries."""

    def __init__(self, plan, lines, arrays, flat):
        self.plan, self.lines, self.arrays, self.flat = plan, lines, arrays, flat
        self.ready = {}

    def __call__(self, i, j):
        key = i, j, threading.get_ident()
        calls = self.ready.get(key)
        if calls is None:
            calls = self.ready[key] = self._calls(i, j, key[2])
        for function, args, kwargs in calls:
            function(*args, **kwargs)

    def _calls(self, i, j, thread):
        calls, blocks_of = [], {}
        shape = self.lines[0].result.shape

        def make(value):
            if value not in self.arrays:  # used by this group alone
                owner = thread, len(blocks_of)
                size = (j - i,) if self.flat else (j - i, *shape[1:])
                return _Emit(self.plan, calls, owner).like(None, value.dtype, size)
            a = self.arrays[value]
            if self.flat:
                return a.reshape(-1)[i:j] if a.size > 1 else a.reshape(())
            return a[i:j] if a.ndim == len(shape) and a.shape[0] == shape[0] else a

        def block(value):
            if value not in blocks_of:
                blocks_of[value] = make(value)
            return blocks_of[value]

        for line in self.lines:
            _emit_line(_Emit(self.plan, calls, thread), line, block(line.result), block)
        return calls


def _generate(calls, program, arrays):
    """One function that makes the calls, and its text."""
    names, objects = {}, {}
    for value, a in arrays.items():
        names[id(a)] = f"v{program.number(value)}"
        objects[names[id(a)]] = a

    def name(x):
        if x is None or type(x) in (int, bool):
            return repr(x)
        if type(x) is tuple and all(type(e) in (int, type(None)) for e in x):
            return repr(x)
        if id(x) not in names:
            base = getattr(x, "__name__", type(x).__name__.strip("_").lower())
            base = "".join(c if c.isalnum() else "_" for c in base)
            known = base in objects or not isinstance(x, (type(np.add), type(np.copyto)))
            names[id(x)] = f"{base}{len(names)}" if known else base
            objects[names[id(x)]] = x
        return names[id(x)]

    body = []
    for function, args, kwargs in calls:
        given = [name(a) for a in args]
        if function is np.copyto and not kwargs:
            body.append(f"    {given[0]}[...] = {given[1]}")  # half the time of the call
            continue
        out = kwargs.get("out")
        if len(kwargs) == 1 and out is not None and function in _POSITIONAL:
            given.append(name(out))  # a seventh of a small call's time is the keyword's
        else:
            given += [f"{key}={name(a)}" for key, a in kwargs.items()]
        body.append(f"    {name(function)}({', '.join(given)})")
    source = "\n".join(["def run():", *(body or ["    pass"]), ""])
    exec(compile(source, "<program>", "exec"), objects)
    return objects["run"], source
