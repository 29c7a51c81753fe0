"""Operations and bytes of layers and matrix products, and the least time a chip needs for them.

    python benchmarks/roofline.py           # the layers of DCGAN-32 and DCGAN-64, counted

A product of A and B to C moves at least each of the three arrays once. The three derivatives of a
convolution have the same three arrays, images, weights and grids; each reads two and writes one: so
the forward pass, the gradient in the input and the gradient in the weights have the same counts.
"""

import math
import sys
from typing import NamedTuple

from nets import CASES, KERNEL

ITEMSIZE = 4  # float32, in every precision of the products
NETS = {"32": "standard-32", "64": "iteration-64"}  # DCGAN of that size: the case it is taken from


class Counts(NamedTuple):
    """What a product takes at least.

    Attributes: floating-point operations, a multiply-add being two; bytes read and written.
    """

    flops: int
    bytes: int


class Ceilings(NamedTuple):
    """What a chip was measured to do at most.

    Attributes: bytes per second, read and written; operations per second by FFMA in float32, and
        by the tensor cores in TF32.
    """

    bandwidth: float
    fp32: float
    tf32: float

    def rate(self, precision):
        """Operations per second in ``"fp32"``, ``"tf32"`` or ``"3xtf32"``: three TF32 products."""
        return {"fp32": self.fp32, "tf32": self.tf32, "3xtf32": self.tf32 / 3}[precision]


def layer_counts(layer, batch):
    """The :class:`Counts` of a layer of nets.py, the same for each of its three operations.

    2·N·P·Q·16·C·O operations, taps that fall on the padding included; 4·(N·H·W·C + 16·C·O +
    N·P·Q·O) bytes. The bias is not counted.
    """
    image, grid = layer.shapes(batch)
    weights = KERNEL**2 * layer.channels * layer.features
    elements = math.prod(image) + weights + math.prod(grid)
    return Counts(layer.flops(batch), ITEMSIZE * elements)


def matmul_counts(rows, terms, columns):
    """The :class:`Counts` of (rows, terms)·(terms, columns), and of its two gradients, each."""
    elements = rows * terms + terms * columns + rows * columns
    return Counts(2 * rows * terms * columns, ITEMSIZE * elements)


def floor(counts, precision, ceilings):
    """The seconds that no kernel can beat: max(operations / rate, bytes / bandwidth)."""
    return max(counts.flops / ceilings.rate(precision), counts.bytes / ceilings.bandwidth)


def bound(counts, precision, ceilings):
    """What the floor comes from: ``"arithmetic"`` or ``"memory"``."""
    arithmetic = counts.flops / ceilings.rate(precision) >= counts.bytes / ceilings.bandwidth
    return "arithmetic" if arithmetic else "memory"


def terms(layer, operation, batch):
    """How many products each result is the sum of, at most: K of the error bound √K·2⁻²⁴.

    Args:
        operation: ``"forward"``, ``"input gradient"`` or ``"weight gradient"``.
    """
    if operation == "weight gradient":
        return batch * layer.grid**2
    to_image = layer.transposed == (operation == "forward")
    if not to_image:
        return KERNEL**2 * layer.channels
    return min(math.ceil(KERNEL / layer.stride), layer.grid) ** 2 * layer.features


def geometric_mean(values):
    """exp of the mean logarithm; None of no values."""
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def layers():
    """{"32/D0": layer, ..., "64/G4": layer}: critics and generators of DCGAN-32 and DCGAN-64."""
    return {
        f"{size}/{name}": layer
        for size, case in NETS.items()
        for name, layer in CASES[case].layers().items()
    }


def main(batch=64):
    from timing import table

    rows = []
    for name, layer in layers().items():
        image, grid = (f"{shape[1]}²×{shape[3]}" for shape in layer.shapes(batch))
        counts = layer_counts(layer, batch)
        shown = f"{grid} → {image}" if layer.transposed else f"{image} → {grid}"
        rows.append([
            f"{name}, {shown}", f"{counts.flops / 1e9:.4g}", f"{counts.bytes / 1e6:.4g}",
            f"{counts.flops / counts.bytes:.3g}",
        ])  # fmt: skip
    print(f"Each of the three operations, batch {batch}:\n")
    print(table(["layer", "GFLOP", "MB", "operations per byte"], rows))


if __name__ == "__main__":
    sys.exit(main())
