"""Threads for large ops: the batch is cut into parts, each with a BLAS of one thread.

A BLAS with its own threads runs only its products in parallel. Parts of the batch run everything
in parallel: the copies and sums around the products too. How the work is cut depends on sizes and
on the number of threads alone, never on a timing: the same number gives the same bits.
"""

from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import NamedTuple

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


def split(n, part, pays):
    """The results of ``part(start, stop)`` over consecutive parts of range(n), in their order.

    One part, in this thread, unless ``pays`` holds and :func:`threads` gave more than one.
    """
    given = _threads.get()
    count = min(given.count, n) if given and pays else 1
    if count < 2:
        return [part(0, n)]
    cuts = [n * i // count for i in range(count + 1)]
    others = []
    try:
        for start, stop in zip(cuts[1:-1], cuts[2:], strict=True):
            others.append(given.pool.submit(copy_context().run, _alone, part, start, stop))
        first = copy_context().run(_alone, part, 0, cuts[1])
    finally:  # nobody may still write when this returns, not even after an error
        for other in others:
            other.exception()
    return [first, *(other.result() for other in others)]


def _alone(part, start, stop):
    """The part with no threads of its own: it would wait for a place in the pool that runs it."""
    _threads.set(None)
    return part(start, stop)


def blocks(n, size, work, pays):
    """``work(i, j)`` for the blocks i:j of ``size`` that cover range(n), over threads if it pays.

    Blocks do not depend on the number of threads; a block's passes find it in the cache.
    """

    def part(start, stop):
        for k in range(start, stop):
            work(k * size, min(n, (k + 1) * size))

    split(-(-n // size), part, pays)
