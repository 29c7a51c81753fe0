"""Which tile computes a product, and into how many parts its sum is cut.

The choice is a table of tiles and a count, made once for a shape and kept: no kernel is ever timed
to choose, so that one shape gets one tile and the same bits in every run on one machine.
"""

from functools import lru_cache
from typing import NamedTuple

from .launch import limits

ALONG_K, ALONG_X = 0, 1  # how a slice lies in shared memory; see load.cuh
CODE = {"fp32": 0, "fp64": 0, "tf32": 1, "3xtf32": 3}  # the precisions in multiply.cuh


class Tile(NamedTuple):
    """A block's tile of a matrix product: ``Tile`` in load.cuh.

    Args:
        rows, columns: results of a block; terms: of one slice of the sum.
        down, across: the block's warps.
        stages: slices in flight.
        efficiency: the part of the chip's rate that a full chip of such blocks is expected to
            reach; an estimate from counts of reads and instructions (README.md), not a measurement.
    """

    rows: int
    columns: int
    terms: int
    down: int
    across: int
    stages: int
    efficiency: float

    @property
    def threads(self):
        """Threads of a block."""
        return 32 * self.down * self.across

    @property
    def name(self):
        """The type in load.cuh."""
        return f"Tile<{','.join(map(str, self[:6]))}>"

    def shared(self, layout_a, layout_b, itemsize):
        """Bytes of shared memory of a block: all stages of both operands' slices."""
        slices = self._slice(layout_a, self.rows) + self._slice(layout_b, self.columns)
        return self.stages * slices * itemsize

    def _slice(self, layout, size):
        if layout == ALONG_K:
            return size * (self.terms + 4)
        return self.terms * ((size + 23) // 32 * 32 + 8)


# From large to small; the last, for a few columns (an image's channels, a critic's one output).
# A slice is 16 terms for FFMA, whose work per term is 8 times a tensor core's, and 32 for those.
TILES = {
    "fp32": (
        Tile(128, 128, 16, 4, 2, 3, 0.85),
        Tile(128, 64, 16, 4, 1, 4, 0.80),
        Tile(64, 64, 16, 2, 2, 4, 0.65),
        Tile(128, 8, 16, 4, 1, 4, 0.25),
    ),
    "fp64": (  # two stages, for the shared memory of old chips
        Tile(64, 64, 16, 2, 2, 2, 0.65),
        Tile(128, 8, 16, 4, 1, 2, 0.25),
    ),
    "tf32": (
        Tile(128, 128, 32, 2, 2, 3, 0.90),
        Tile(128, 64, 32, 2, 2, 3, 0.68),
        Tile(64, 64, 32, 2, 2, 4, 0.50),
        Tile(128, 8, 32, 4, 1, 4, 0.15),
    ),
    "3xtf32": (
        Tile(128, 64, 16, 2, 2, 4, 0.80),
        Tile(64, 64, 16, 2, 2, 4, 0.75),
        Tile(128, 8, 16, 4, 1, 4, 0.25),
    ),
}
# Copied one element at a time, where channels do not come in fours: fewer rows a thread has to
# remember.
SINGLE = {
    "fp32": Tile(64, 64, 16, 2, 2, 4, 0.5),
    "fp64": TILES["fp64"][0],
    "tf32": Tile(64, 64, 16, 2, 2, 4, 0.5),
    "3xtf32": Tile(64, 64, 16, 2, 2, 4, 0.5),
}
NARROW = 8  # columns

# Multiply-adds per second of one multiprocessor, and the memory's bytes per second over the number
# of multiprocessors: data sheets (A100, H100), to weigh tiles against parts. Only ratios matter.
RATES = {
    80: {"fp32": 90e9, "fp64": 45e9, "tf32": 720e9, "3xtf32": 240e9, "memory": 14e9},
    90: {"fp32": 250e9, "fp64": 125e9, "tf32": 1160e9, "3xtf32": 390e9, "memory": 23e9},
}
START = 6  # slices that a block's start and end cost as much time as
LEAST_TERMS = 128  # of a part


def candidates(precision, columns, single, architecture):
    """The tiles to choose from, those that fit a block's shared memory there, large ones first.

    Args:
        columns: of the product; few of them take a tile of their own.
        single: whether an operand is copied one element at a time.
    """
    if columns <= NARROW:
        tiles = TILES[precision][-1:]
    elif single:
        tiles = (SINGLE[precision],)
    else:
        tiles = TILES[precision][:-1]
    most = limits(architecture).shared_per_block
    itemsize = 8 if precision == "fp64" else 4
    return [tile for tile in tiles if tile.shared(ALONG_K, ALONG_K, itemsize) <= most]


@lru_cache(maxsize=4096)
def choose(precision, rows, columns, terms, grids, single, architecture, multiprocessors):
    """(tile, parts, terms of a part) for a product.

    The time of a choice is counted as: waves of blocks over the multiprocessors, each of the
    slices of a part and START, at the tile's share of the rate; then, if there are parts, writing
    and adding them. The least wins, the larger tile where two are level.

    Args:
        rows, columns, terms: of the product.
        grids: how many such products run side by side (the parities of a transpose).
        single, architecture: as in :func:`candidates`.
    """
    rates = RATES[max((a for a in RATES if a <= architecture), default=80)]
    best = None
    for tile in candidates(precision, columns, single, architecture):
        blocks = grids * -(-rows // tile.rows) * -(-columns // tile.columns)
        slices = -(-terms // tile.terms)
        for wanted in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
            if wanted > 1 and terms // wanted < LEAST_TERMS:
                break
            of_part = max(1, -(-slices // wanted))
            parts = max(1, -(-slices // of_part))
            waves = -(-blocks * parts // multiprocessors)
            work = tile.rows * tile.columns * tile.terms / (tile.efficiency * rates[precision])
            time = waves * (of_part + START) * work
            if parts > 1:
                traffic = 4 * rows * grids * columns * (2 * parts + 1)
                time += traffic / (rates["memory"] * multiprocessors)
            if best is None or time < best[0]:
                best = time, tile, parts, of_part * tile.terms
    return best[1:]
