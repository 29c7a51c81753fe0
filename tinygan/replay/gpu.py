"""Running a program on a GPU: captured once as a CUDA graph, then launched as a whole.

A graph repeats the kernels of one run with the addresses they had. So everything has a place that
stays: inputs are read where they are if they are results of earlier runs, and else copied to arrays
of the plan's own; results are written to a set of arrays that the caller gets. What lies between
comes from a memory pool that nobody else uses. Numbers that vary are arrays of no axes.

Two runs come before the capture. They compile what is not compiled yet and fill the pool; the first
shows which of a run's requests for memory are for its results, and which for arrays that are later
joined; the second, where those get memory in their places, does exactly what is then captured. So
no result is copied, nor what is joined.

What a graph cannot hold (a product that goes to cuBLAS, a read by the host) is found when it is
captured: the program is then run line by line instead, in the same memory, and the plan says why.
"""

from contextlib import contextmanager
from functools import partial

import numpy as np

from tinygan import tree as trees
from tinygan.backend import array_module
from tinygan.kernels import current_precision
from tinygan.replay.gpu_fuse import JOINS, fuse_gates, parts_of_joins
from tinygan.replay.program import Value


def module_of(tree):
    """The module of a tree's arrays: cupy if one of them is CuPy's, else numpy."""
    modules = (array_module(a) for a in trees.leaves(tree))
    return next((xp for xp in modules if xp is not np), np)


class Plan:
    """What all runs of a program share on a GPU: a stream, a pool of memory, where results lie.

    Args:
        program: a program whose arrays are CuPy's.
        xp: the module cupy.

    Attributes:
        inputs: for each input an array of the plan's own, in the order of ``program.inputs``.
        results: the values of a set of results.
        reason: why the program is not captured; None if it is.
    """

    def __init__(self, program, xp):
        self.program = fuse_gates(program)
        self._joins = parts_of_joins(self.program)
        self.xp, self.cuda = xp, xp.cuda
        self._blocks = []  # the pool's memory: graphs have addresses there, so it never goes back
        self.pool = self.cuda.MemoryPool(partial(_new_block, self.cuda, self._blocks))
        self.stream = self.cuda.Stream(non_blocking=True)  # another one cannot be captured
        self.reason = self._line = self._last = None
        self.inputs = [xp.zeros(v.shape, v.dtype) for v in program.inputs]
        made = {line.result for line in self.program.lines}
        self.results = [v for v in program.outputs if v in made]
        self._dying = _last_uses(self.program, self.results)
        self._places, self._sizes = self._lay_out()

    @property
    def mode(self):
        """How the program is run, in words."""
        if self.reason is None:
            return "a CUDA graph"
        return f"line by line, for a CUDA graph cannot hold {self.reason}"

    def arrays(self):
        """New arrays for a set of results, and the same arrays once more to be given away."""
        blocks = [self.xp.empty(size, np.uint8) for size in self._sizes]

        def array(value, block, offset, strides):
            memory = blocks[block].data + offset
            return self.xp.ndarray(value.shape, value.dtype, memory, strides)

        places = list(zip(self.results, self._places, strict=True))
        return tuple([array(value, *place) for value, place in places] for _ in range(2))

    def prepare(self):
        """What a binding depends on beside its arrays: the precision. Called before each run.

        Runs on one stream follow each other. One on another stream than the last waits for that.
        """
        stream = self.cuda.get_current_stream()
        if self._last is not None and stream != self._last:
            self._last.synchronize()
        self._last = stream
        return current_precision()

    def bind(self, inputs, results):
        """(function, what it is in words, its calls): the program as a function without arguments.

        It reads the arrays ``inputs``, in the order of ``program.inputs``, and writes the arrays
        ``results``, of :meth:`arrays`. A graph knows addresses only: whoever keeps the function
        keeps the arrays.
        """
        self.cuda.get_current_stream().synchronize()  # the inputs are there
        with self._on_stream():
            memory, numbers = _Memory(self.pool), {}
            given = self._given(self._run(inputs, memory, numbers), memory, results)
            parts = self._parts(numbers, memory)

            def run():
                self._run_into(inputs, results, _Memory(self.pool, given, parts))

            run()
            self.stream.synchronize()
            graph = self._capture(run) if self.reason is None else None
        function = run if graph is None else graph.launch
        return function, f"{self.mode}\n{self.program}", [(function, (), {})]

    @contextmanager
    def _on_stream(self):
        """Within the block, the plan's stream; on leaving, what was begun there is done."""
        with self.stream:
            try:
                yield
            finally:
                self.stream.synchronize()

    def _capture(self, run):
        """The graph of a run, or None, and then the reason is set."""
        self.stream.begin_capture()
        graph = error = None
        try:
            run()
        except Exception as refused:
            error = refused
        finally:  # after Ctrl-C too: the stream must be usable again
            try:
                graph = self.stream.end_capture()
            except RuntimeError as refused:  # what a failed capture ends with
                error = error or refused
        if error is not None:
            line, graph = self._line, None
            where = f"{line.op.__name__}, called from {line.source or 'the step'}" if line else "it"
            why, *_ = str(error).splitlines() or [type(error).__name__]
            self.reason = f"{where}: {why}"
        return graph

    # One run

    def _run(self, inputs, memory, numbers=None):
        """The arrays of the results. Those of other lines are let go after their last use.

        In ``numbers`` is noted, for joins and their parts, the request that an array's memory was
        for, and no other array's.
        """
        watched = {v for join, parts in self._joins.items() for v in (join, *parts)}
        found = dict(self.program.constants)
        found.update(zip(self.program.inputs, inputs, strict=True))
        with self.cuda.using_allocator(memory), np.errstate(all="ignore"):
            for line in self.program.lines:
                self._line = line
                args = [found[a] if type(a) is Value else a for a in line.args]
                y = JOINS.get(line.op, line.op.fn)(*args, **line.params)
                found[line.result] = y.astype(line.result.dtype, copy=False)
                if numbers is not None and line.result in watched and y.flags.c_contiguous:
                    number = memory.number(y)
                    if number is not None and memory.made[number] == (y.data.ptr, y.nbytes):
                        numbers[line.result] = number
                del args, y
                for value in self._dying.get(line, ()):
                    del found[value]
            self._line = None
        return [found[value] for value in self.results]

    def _run_into(self, inputs, results, memory):
        """A run that leaves its results in these arrays; what was not made there is copied."""
        with self.cuda.using_allocator(memory):
            for y, place in zip(self._run(inputs, memory), results, strict=True):
                if y.data.ptr != place.data.ptr or y.strides != place.strides:
                    place[...] = y

    # Where results lie

    def _lay_out(self):
        """For each result (its block, the offset there, strides), and the bytes of each block.

        Results that one request made together lie in one block: rows of what an optimiser made.
        """
        self.cuda.get_current_stream().synchronize()
        with self._on_stream():
            memory = _Memory(self.pool)
            arrays = self._run(self.inputs, memory)
            places, sizes, block_of = [], [], {}
            for value, y in zip(self.results, arrays, strict=True):
                number = memory.number(y)
                if number is None:  # a view of an input, or of a constant
                    places.append((len(sizes), 0, None))
                    sizes.append(value.nbytes)
                    continue
                start, nbytes = memory.made[number]
                if number not in block_of:
                    block_of[number] = len(sizes)
                    sizes.append(nbytes)
                places.append((block_of[number], y.data.ptr - start, y.strides))
            del arrays, y
        return places, sizes

    def _parts(self, numbers, memory):
        """What :class:`_Memory` needs, so that parts are made in their places within joins."""
        return {
            numbers[part]: (numbers[join], memory.made[numbers[join]][1], offset)
            for join, parts in self._joins.items()
            for part, offset in parts.items()
            if join in numbers and part in numbers
        }

    def _given(self, arrays, memory, results):
        """{number of a request: memory of the results}, where the run made these arrays there."""
        found, others = {}, set()
        for y, place, (block, offset, strides) in zip(arrays, results, self._places, strict=True):
            number = memory.number(y)
            same = number is not None and memory.made[number] == (
                y.data.ptr - offset,
                self._sizes[block],
            )
            if not same or y.strides != strides:
                others.add(block)
                continue
            found.setdefault(block, {})[number] = place.data + -offset
        return {
            number: memory
            for block, at in found.items()
            if block not in others and len(at) == 1
            for number, memory in at.items()
        }


def _new_block(cuda, blocks, nbytes):
    """Memory for a pool that gives back, when it runs short, what it thinks nobody uses."""
    blocks.append(cuda.MemoryPointer(cuda.Memory(nbytes), 0))
    return blocks[-1]


class _Memory:
    """An allocator for one run: requests are numbered, and some get memory of a certain place.

    Args:
        pool: what the other requests get theirs from.
        given: {number of a request: memory}.
        parts: {number of a request: (number of a later one, bytes of that, offset in its memory)}.
    """

    def __init__(self, pool, given=None, parts=None):
        self.pool, self.given, self.parts = pool, given or {}, parts or {}
        self.made = []  # (address, bytes) of each request
        self.waiting = {}  # {number of a later request: its memory, in which there are parts}

    def __call__(self, nbytes):
        memory = self._memory_for(len(self.made), nbytes)
        self.made.append((memory.ptr, nbytes))
        return memory

    def _memory_for(self, number, nbytes):
        if number in self.waiting:
            return self.waiting.pop(number)
        if number in self.given:
            return self.given[number]
        if number not in self.parts:
            return self.pool.malloc(nbytes)
        whole, size, offset = self.parts[number]
        if whole not in self.waiting:
            self.waiting[whole] = self._memory_for(whole, size)
        return self.waiting[whole] + offset

    def number(self, a):
        """The number of the request that a living array's memory was for, or None: not of here."""
        for number in reversed(range(len(self.made))):  # an address may have been used before
            start, nbytes = self.made[number]
            if start <= a.data.ptr < start + nbytes:
                return number
        return None


def _last_uses(program, results):
    """{line: the values that no later line uses}, results and what is not made by lines aside."""
    kept = {*results, *program.inputs, *program.constants}
    found, seen = {}, set()
    for line in reversed(program.lines):
        ended = {v for v in (*line.operands, line.result) if v not in kept and v not in seen}
        seen |= ended
        if ended:
            found[line] = ended
    return found
