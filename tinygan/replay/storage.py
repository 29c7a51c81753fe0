"""Where each value of a program lives: planned once, so that a run allocates nothing.

A value lives in an argument's array, in a result's, in a constant, or in one of a few buffers
that values use one after the other. A view is where the array is that it is a view of; a part of a
concatenation is made in its place there. What is the plan, and what the arrays are is
decided by :meth:`Storage.arrays`, once for each set of arguments and results.
"""

from dataclasses import dataclass

import numpy as np

from tinygan.engine import broadcast_to
from tinygan.ops import concatenate
from tinygan.replay import recipes
from tinygan.replay.program import Value

ALIGNMENT = 64  # bytes: a line of the cache, and a vector register of AVX-512


@dataclass(frozen=True, eq=False)
class View:
    """A value that is part of another's memory: ``make(array of base)``."""

    base: Value
    make: object


class Storage:
    """The places of a program's values.

    Args:
        program: its lines in their order, with groups.
        within: the values that only their own group uses, block by block: they get no memory.

    Attributes:
        views: {value: :class:`View`} of values that are part of another's memory.
        skipped: the lines whose result is such a view of an argument: nothing is to be done.
        buffer_of: {value: number of its buffer}.
        sizes: bytes of each buffer.
    """

    def __init__(self, program, within=frozenset()):
        self.program = program
        self.within = within
        self.given = {*program.inputs, *program.constants}
        made = {line.result for line in program.lines}
        self.results = [v for v in program.outputs if v in made]
        self.views, self.skipped = {}, set()
        self._find_views()
        self._find_parts()
        self.last_use = self._last_uses()
        self.buffer_of, self.sizes = {}, []
        self._allocate()

    def home(self, value):
        """The value in whose memory this one is."""
        while value in self.views:
            value = self.views[value].base
        return value

    # Views

    def _find_views(self):
        outputs = set(self.results)
        uses = {}
        for line in self.program.lines:
            for a in line.operands:
                uses.setdefault(a, []).append(line)
        trial = {}  # arrays that nobody writes to: only their strides are looked at

        def array(value):
            if value not in trial:
                trial[value] = np.empty(value.shape, value.dtype)
            return trial[value]

        for line in self.program.lines:
            y, (a, *_) = line.result, (*line.operands, None)
            if y in outputs:
                continue  # a result has memory of its own
            if line.op in recipes.VIEWS:
                make = _view(line)
                found = make(array(a))
                if found.size and not np.shares_memory(found, array(a)):
                    continue  # a reshape that needs a copy
            elif line.op is broadcast_to and all(
                use.op in recipes.ELEMENTWISE and use.result.shape == y.shape
                for use in uses.get(y, ())
            ):
                make = _view(line)
                found = make(array(a))
            else:
                continue
            trial[y] = found
            self.views[y] = View(a, make)
            self.skipped.add(line)

    def _find_parts(self):
        """Values that are made in their place within a concatenation along the first axis."""
        line_of = {line.result: line for line in self.program.lines}
        taken = set()
        outputs = set(self.results)
        for line in self.program.lines:
            if line.op is not concatenate or line.params.get("axis", 0) % len(line.result.shape):
                continue
            if line.result in self.views:
                continue
            start = 0
            for a in line.args:
                stop = start + a.shape[0]
                whole = a in line_of and a not in self.views and a not in outputs
                if whole and a not in taken and a not in self.within:
                    self.views[a] = View(line.result, _rows(start, stop))
                    taken.add(a)
                start = stop

    def _last_uses(self):
        """{home: the last line, by position, that reads or writes its memory}."""
        last = {}
        for i, line in enumerate(self.program.lines):
            for v in (*line.operands, line.result):
                last[self.home(v)] = i
        return last

    # Buffers

    def _allocate(self):
        lines, free, held = self.program.lines, [], {}
        outputs, begun = set(self.results), set()
        dying, ended = {}, []
        for home, i in self.last_use.items():
            dying.setdefault(i, []).append(home)
        for i, line in enumerate(lines):
            home = self.home(line.result)
            needs = (
                home not in begun
                and home not in self.given
                and home not in outputs
                and home not in self.within
                and line not in self.skipped
            )
            begun.add(home)
            if needs:
                inherited = self._inherit(i, line, home, held)
                if inherited is None:
                    self.buffer_of[home] = self._take(free, home.nbytes)
                else:
                    self.buffer_of[home] = held.pop(inherited)
                held[home] = self.buffer_of[home]
            ended += [old for old in dying.get(i, ()) if old in held]
            if i + 1 == len(lines) or line.group is None or lines[i + 1].group != line.group:
                # Not earlier: the lines of a group take turns, block by block.
                free += [held.pop(old) for old in ended if old in held]
                ended = []

    def _inherit(self, i, line, home, held):
        """The argument whose memory the result can have: it dies here, and is read before."""
        if line.op not in recipes.ELEMENTWISE or home is not line.result:
            return None
        together = [line]
        if line.group is not None:
            together = [other for other in self.program.lines if other.group == line.group]
        for a in line.operands:
            if (
                a in held
                and self.home(a) is a
                and self.last_use[a] == i
                and a.shape == home.shape
                and a.dtype == home.dtype
                and not any(self._read_otherwise(a, other) for other in together)
            ):
                return a
        return None

    def _read_otherwise(self, a, line):
        """Whether the line reads a's memory other than block by block."""
        whole = line.op in recipes.EPILOGUES and a in line.operands
        return whole or any(b is not a and self.home(b) is a for b in line.operands)

    def _take(self, free, nbytes):
        """The number of the smallest free buffer that is large enough and not far too large."""
        fits = [b for b in free if nbytes <= self.sizes[b] <= max(2 * nbytes, 4096)]
        if fits:
            best = min(fits, key=lambda b: self.sizes[b])
            free.remove(best)
            return best
        self.sizes.append(nbytes)
        return len(self.sizes) - 1

    @property
    def nbytes(self):
        """Bytes of all buffers."""
        return sum(self.sizes)

    def memory(self):
        """New memory for all buffers."""
        return [aligned(size) for size in self.sizes]

    def arrays(self, memory, inputs, results):
        """{value: its array}, for buffers, the inputs' arrays and the results', in their orders."""
        found = dict(self.program.constants)
        found.update(zip(self.program.inputs, inputs, strict=True))
        found.update(zip(self.results, results, strict=True))
        for value, number in self.buffer_of.items():
            bytes_ = memory[number][: value.nbytes]
            found[value] = bytes_.view(value.dtype).reshape(value.shape)

        def array(value):
            if value not in found:
                view = self.views[value]
                found[value] = view.make(array(view.base))
            return found[value]

        for line in self.program.lines:
            for value in (*line.operands, line.result):
                if value not in self.within:
                    array(value)
        return found


def aligned(nbytes):
    """Fresh memory, bytes, at an aligned address."""
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + nbytes]


def _view(line):
    if line.op is broadcast_to:
        return lambda a: np.broadcast_to(a, line.params["shape"])
    return lambda a: np.asarray(line.op.fn(a, **line.params))


def _rows(start, stop):
    return lambda a: a[start:stop]
