"""Threads for large ops: the batch is cut into parts, each with a BLAS of one thread.

A BLAS with its own threads runs only its products in parallel. Parts of the batch run everything
in parallel: the copies and sums around the products too. How the work is cut depends on sizes and
on the number of threads alone, never on a timing: the same number gives the same bits.
"""

import math
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import NamedTuple

import numpy as np

_threads = ContextVar("tinygan threads", default=None)


class _Threads(NamedTuple):
    count: int
    pool: object  # a ThreadPoolExecutor


@contextmanager
def threads(count):
    """Within the block, large ops use ``count`` threads, and the BLAS one in each of them.

    Without it an op runs in the caller's thread, with the BLAS as it is set. On leaving, the BLAS
    gets back the number of threads it had. That number belongs to the process: enter one such block
    at a time, not one in each of several threads.

    Raises: ValueError for a count below 1.
    """
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_limits

    if not isinstance(count, int) or count < 1:
        raise ValueError(f"threads: count is {count!r}; expected a whole number above 0")
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(max(1, count - 1)) as pool:
        token = _threads.set(_Threads(count, pool))
        try:
            yield
        finally:
            _threads.reset(token)


class Scratch:
    """Working memory that is kept from call to call, so that a steady state allocates nothing.

    A :class:`Room` for each part of the work: parts run at the same time, the same part never does.
    So one Scratch serves any number of ops, one after the other, and not two at once.

    Args:
        xp: numpy, or cupy for arrays on a GPU.
    """

    def __init__(self, xp=np):
        self.xp = xp
        self.rooms = []

    def room(self, number):
        """The room of the part of this number, counted from 0."""
        while len(self.rooms) <= number:
            self.rooms.append(Room(self.xp))
        return self.rooms[number]


class Room:
    """Named buffers that grow to the largest array asked for, and stay."""

    def __init__(self, xp=np):
        self.xp = xp
        self.buffers = {}

    def array(self, slot, shape, dtype):
        """An array on the buffer ``slot``, contents arbitrary; valid until the next of that slot.

        Shapes: the result ``shape``.
        """
        size = math.prod(shape) * dtype.itemsize
        buffer = self.buffers.get(slot)
        if buffer is None or len(buffer) < size:
            buffer = self.buffers[slot] = self.xp.empty(size, np.uint8)
        return buffer[:size].view(dtype).reshape(shape)


def split(n, part, pays, scratch=None):
    """The results of ``part(start, stop)`` over consecutive parts of range(n), in their order.

    One part, in this thread, unless ``pays`` holds and :func:`threads` gave more than one. With a
    :class:`Scratch`, ``part(start, stop, room)`` gets the part's room of it.
    """
    given = _threads.get()
    count = min(given.count, n) if given and pays else 1
    cuts = [n * i // count for i in range(count + 1)] if count > 1 else [0, n]
    parts = list(zip(cuts[:-1], cuts[1:], strict=True))
    if scratch is not None:
        parts = [(*at, scratch.room(number)) for number, at in enumerate(parts)]
    if len(parts) == 1:
        return [part(*parts[0])]
    others = []
    try:
        for arguments in parts[1:]:
            others.append(given.pool.submit(copy_context().run, _alone, part, *arguments))
        first = copy_context().run(_alone, part, *parts[0])
    finally:
        _wait_for_all(others)
    return [first, *(other.result() for other in others)]


def _wait_for_all(others):
    """Nobody may still write when this returns, not even after an error or Ctrl-C."""
    interrupt = None
    for other in others:
        while not other.done():
            try:
                other.exception()
            except BaseException as error:  # of the waiting: what the part raises is returned
                interrupt = interrupt or error
    if interrupt is not None:
        raise interrupt


def _alone(part, *arguments):
    """The part with no threads of its own: it would wait for a place in the pool that runs it."""
    _threads.set(None)
    return part(*arguments)


def blocks(n, size, work, pays, scratch=None):
    """``work(i, j)`` for the blocks i:j of ``size`` that cover range(n), over threads if it pays.

    Blocks do not depend on the number of threads; a block's passes find it in the cache. With a
    :class:`Scratch`, ``work(i, j, room)`` gets the room of its part.
    """

    def part(start, stop, *room):
        for k in range(start, stop):
            work(k * size, min(n, (k + 1) * size), *room)

    split(-(-n // size), part, pays, scratch)
