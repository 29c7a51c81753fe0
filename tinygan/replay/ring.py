"""A ring of numbers that a step writes where its arrays are, and the host reads now and then.

Reading a loss after every step makes the host wait for a GPU. A step that records its numbers in a
:class:`Ring`, an argument and a result like all others, lets it run ahead::

    ring = empty_ring(100, 6, like=loss)
    def step(players, ring, batch):
        players, numbers = iteration(players, batch)
        return players, record(ring, numbers)
"""

from typing import Any, NamedTuple

import numpy as np

from tinygan.backend import array_module, to_host
from tinygan.engine import primitive
from tinygan.ops import add


class Ring(NamedTuple):
    """Attributes: rows (n, k), the latest n of all; count (), how many there were, int64."""

    rows: Any
    count: Any


def empty_ring(n, k, like):
    """A :class:`Ring` of n rows of k numbers, of the dtype and on the device of ``like``.

    Raises: ValueError for n or k below 1.
    """
    if min(n, k) < 1:
        raise ValueError(f"empty_ring: {n} rows of {k} numbers; expected at least 1 of each")
    xp = array_module(like)
    return Ring(xp.zeros((n, k), like.dtype), xp.zeros((), np.int64))


@primitive
def put_row(rows, row, count):
    """The rows with one of them replaced, the one whose turn it is.

    y[i] = row where i = count mod n, else rows[i]

    No rule, on purpose: what is recorded is not differentiated.

    Shapes: rows, y (n, k), row (k,), count ().
    """
    turn = array_module(rows).arange(len(rows)) == count % len(rows)
    return np.where(turn[:, None], row, rows)


def record(ring, row):
    """The ring with one more row.

    Shapes: row (k,).
    """
    return Ring(put_row(ring.rows, row, ring.count), add(ring.count, 1))


def latest(ring, n, count):
    """The latest n rows, oldest first, as a NumPy array: one copy from the device.

    Args:
        count: how many were recorded so far. The host knows it, and need not ask the device.
    Shapes: y (n, k).
    Raises: ValueError for more rows than the ring has or were recorded.
    """
    size = len(ring.rows)
    if not 0 <= n <= min(size, count):
        raise ValueError(
            f"latest: {n} rows of {count} that were recorded in a ring of {size}; expected at most "
            f"{min(size, count)}. Make the ring longer, or read it more often"
        )
    return to_host(ring.rows)[np.arange(count - n, count) % size]
