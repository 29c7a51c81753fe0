"""One layer, step by step: the naive kernel, then what each idea changes. README.md tells it.

``python -m tinygan.kernels.ladder`` prints what can be counted without a GPU: arithmetic, bytes,
wavefronts of shared memory, errors in the emulator, and what the compiler made of each kernel.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from . import conv
from .launch import Instance, Kernel, bank_report, emulated
from .tiles import Tile

IMAGES = 64
SIDE = 32  # of the tiles of conv2d_shared
NAIVE_THREADS = 256
_NAIVE = Instance(Kernel("naive.cu", "conv2d_naive"), NAIVE_THREADS)
_SHARED = Instance(Kernel("naive.cu", "conv2d_shared"), SIDE * SIDE, 2 * 4 * SIDE * SIDE)


class Layer(NamedTuple):
    """The sizes of a convolution; the geometry that the functions of :mod:`conv` ask for, too."""

    image: tuple
    kernel: tuple
    stride: tuple
    pad: tuple
    grid: tuple
    channels: int
    outputs: int

    @property
    def whole(self):
        """Whether the kernel covers the image exactly."""
        return self.kernel == self.image and self.pad == ((0, 0), (0, 0))

    def product(self, op, images):
        """(rows, columns, terms, how many of them) of the matrix products that ``op`` is."""
        places, taps = images * math.prod(self.grid), math.prod(self.kernel)
        if op == "conv2d":
            return places, self.outputs, taps * self.channels, 1
        if op == "conv2d_weight_grad":
            return taps * self.channels, self.outputs, places, 1
        pixels = math.prod(-(-n // s) for n, s in zip(self.image, self.stride, strict=True))
        taps = math.prod(-(-k // s) for k, s in zip(self.kernel, self.stride, strict=True))
        return images * pixels, self.channels, taps * self.outputs, math.prod(self.stride)

    def shapes(self, op, images):
        """The shapes of the inputs of ``op``."""
        x = images, *self.image, self.channels
        w = *self.kernel, self.channels, self.outputs
        z = images, *self.grid, self.outputs
        return {
            "conv2d": (x, w, (self.outputs,)),
            "conv2d_transpose": (z, w),
            "conv2d_weight_grad": (x, z),
        }[op]


LAYER = Layer((16, 16), (4, 4), (2, 2), ((1, 1), (1, 1)), (8, 8), 64, 128)
THIN = LAYER._replace(channels=8, outputs=8)  # as many wavefronts for a slice, and few slices


@dataclass(frozen=True)
class Step:
    """A rung of the ladder.

    Attributes: its name and its reason; the op that it computes; the tile of a block, None for the
        kernel without one; the precision; into how many parts the sum is cut.
    """

    name: str
    reason: str
    tile: Tile = None
    op: str = "conv2d"
    precision: str = "fp32"
    parts: int = 1

    @property
    def instance(self):
        """The kernel that does the work."""
        if self.tile is None:
            return _NAIVE
        if self.tile == _SHARED_TILE:
            return _SHARED
        make, vectors = {
            "conv2d": (conv._conv2d, (4, 4)),
            "conv2d_transpose": (conv._conv2d_transpose, (4,)),
            "conv2d_weight_grad": (conv._conv2d_weight_grad, (4, 4)),
        }[self.op]
        return make(np.dtype(np.float32), self.precision, self.tile, *vectors)

    def inputs(self, images=IMAGES, layer=LAYER):
        """Normal numbers, float32, the same in every call: (x, w, b), (z, w) or (x, z)."""
        draw = np.random.default_rng(0).standard_normal
        return tuple(draw(shape).astype(np.float32) for shape in layer.shapes(self.op, images))

    def run(self, *inputs, layer=LAYER):
        """The op of arrays as :meth:`inputs` gives them, on the GPU or in the emulator."""
        images = len(inputs[0])
        if self.instance not in (_NAIVE, _SHARED):
            terms = layer.product(self.op, images)[2]
            given = {"geometry": layer, "precision": self.precision}
            given["choice"] = self.tile, *self.cut(terms)
            return getattr(conv, self.op)(*inputs, **given)
        x, w, b = inputs
        y = np.empty_like(x, shape=(images, *layer.grid, layer.outputs))
        shape = conv._shape(layer, images, layer.channels, layer.outputs)(1, 0)
        args, grid = (x, w, b, y, *shape), self.grid(images, layer)
        self.instance.kernel(grid, (self.instance.threads,), args, self.instance.shared)
        return y

    def cut(self, terms):
        """(parts, terms of a part): at most the parts wished for, of whole slices."""
        slices = -(-terms // self.tile.terms)
        of_part = -(-slices // self.parts)
        return -(-slices // of_part), of_part * self.tile.terms

    def grid(self, images=IMAGES, layer=LAYER):
        """The blocks of the launch: across rows, columns, and parities times parts."""
        rows, columns, terms, several = layer.product(self.op, images)
        if self.tile is None:
            return (-(-rows * columns // NAIVE_THREADS),)
        across = -(-rows // self.tile.rows), -(-columns // self.tile.columns)
        return *across, several * self.cut(terms)[0]

    def slices(self, images=IMAGES, layer=LAYER):
        """How many slices of the sum a block goes through."""
        return self.cut(layer.product(self.op, images)[2])[1] // self.tile.terms

    def flops(self, images=IMAGES, layer=LAYER):
        """Multiplications and additions, those with the padding's zeros too."""
        return 2 * math.prod(layer.product(self.op, images))

    def bytes(self, images=IMAGES, layer=LAYER):
        """The least that can be moved: every input read once, the result written once."""
        rows, columns, _, several = layer.product(self.op, images)
        inputs = sum(map(math.prod, layer.shapes(self.op, images)))
        return 4 * (inputs + rows * columns * several)

    def loaded(self, images=IMAGES, layer=LAYER):
        """The bytes that blocks ask global memory for, from wherever they come: caches serve most.

        A block asks for each row and each column of its tile, term by term, the padding counted as
        if it were read; without a tile, a warp asks for one pixel and 32 weights a term. Parts of a
        sum are read again, to be added up. The bias is left out.
        """
        rows, columns, terms, several = layer.product(self.op, images)
        if self.tile is None:
            return 4 * rows * columns // 32 * terms * (1 + 32)
        down, across, _ = self.grid(images, layer)
        parts = self.cut(terms)[0]
        again = parts * rows * columns if parts > 1 else 0
        return 4 * several * (terms * (rows * across + columns * down) + again)


_SHARED_TILE = Tile(SIDE, SIDE, SIDE, SIDE, 1, 1, 0.1)
_STEPS = (
    Step("naive", "one thread for each result, every factor from global memory"),
    Step("shared memory", "what is loaded once serves 32 results", _SHARED_TILE),
    Step(
        "registers",
        "8 x 4 results of a thread: a word of shared memory serves several; the next slice comes "
        "while one is multiplied",
        Tile(64, 64, 16, 2, 2, 2, 0.5),
    ),
    Step(
        "stages",
        "three slices on their way: global memory answers slower than a slice is multiplied",
        Tile(64, 64, 16, 2, 2, 4, 0.65),
    ),
    Step(
        "larger tile",
        "8 x 8 results of a thread, 128 x 128 of a block: fewer bytes for each result",
        Tile(128, 128, 16, 4, 2, 3, 0.85),
    ),
    Step(
        "TF32",
        "tensor cores: a warp's 64 x 32 results, 11 bits of each factor",
        Tile(128, 64, 32, 2, 2, 3, 0.75),
        precision="tf32",
    ),
    Step(
        "TF32, larger tile",
        "a warp's 64 x 64 results: fewer reads of shared memory for each product",
        Tile(128, 128, 32, 2, 2, 3, 0.8),
        precision="tf32",
    ),
    Step(
        "3xTF32",
        "three products of halves in place of one: float32's accuracy on tensor cores",
        Tile(128, 64, 16, 2, 2, 4, 0.8),
        precision="3xtf32",
    ),
    Step(
        "weight gradient",
        "few results, long sums: too few blocks",
        Tile(64, 64, 32, 2, 2, 4, 0.6),
        "conv2d_weight_grad",
        "tf32",
    ),
    Step(
        "weight gradient in parts",
        "the sum in 4 parts, added in their order: four times the blocks, the same bits every run",
        Tile(64, 64, 32, 2, 2, 4, 0.6),
        "conv2d_weight_grad",
        "tf32",
        4,
    ),
    Step(
        "transpose by parities",
        "the pixels of a parity share their taps: a convolution without the zeros between, which "
        "are 3 of 4 terms",
        Tile(128, 64, 32, 2, 2, 3, 0.75),
        "conv2d_transpose",
        "tf32",
    ),
)


def steps():
    """The steps, in order.

    To time one on a GPU: ``inputs = [cupy.asarray(a) for a in step.inputs()]``, then
    ``step.run(*inputs)``.
    """
    return _STEPS


def instances():
    """The kernels of this module, as they are launched."""
    return list(dict.fromkeys(step.instance for step in _STEPS))


def reference(op, inputs, layer=LAYER):
    """The op in float64, in loops over the taps: step 0.

    y[n, p, q, o] = Σ x[n, s·p+k−t, s·q+l−u, c]·w[k, l, c, o] + b[o], or one of its derivatives

    Shapes: as in :meth:`Step.inputs`.
    """
    a, b, *bias = (array.astype(np.float64) for array in inputs)
    (height, width), ((top, bottom), (left, right)) = layer.image, layer.pad
    padded = np.zeros((len(a), top + height + bottom, left + width + right, layer.channels))
    image = padded[:, top : top + height, left : left + width]
    if op != "conv2d_transpose":
        image[...] = a
    y = {
        "conv2d": np.zeros((len(a), *layer.grid, layer.outputs)),
        "conv2d_transpose": image,
        "conv2d_weight_grad": np.zeros((*layer.kernel, layer.channels, layer.outputs)),
    }[op]
    for k, m in np.ndindex(*layer.kernel):
        places = (
            slice(first, first + step * count, step)
            for first, step, count in zip((k, m), layer.stride, layer.grid, strict=True)
        )
        seen = padded[(slice(None), *places)]  # by tap (k, m)
        if op == "conv2d":
            y += seen @ b[k, m]
        elif op == "conv2d_transpose":
            seen += a @ b[k, m].T
        else:
            y[k, m] = np.tensordot(seen, b, ((0, 1, 2), (0, 1, 2)))
    return y + bias[0] if bias else y


def error(step, images=1, layer=LAYER):
    """How far the step's result in the emulator is from float64: ‖found − exact‖/‖exact‖."""
    inputs = step.inputs(images, layer)
    exact = reference(step.op, inputs, layer)
    with emulated():
        found = step.run(*inputs, layer=layer)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


@cache
def wavefronts(step):
    """Wavefronts of shared memory for one slice of a block, reads and writes, in the emulator.

    They do not depend on the layer's size: that of ``THIN``, on one image, is run.
    """
    with emulated(count_banks=True):
        step.run(*step.inputs(1, THIN), layer=THIN)
        total = sum(row["wavefronts"] for row in bank_report())
    if step.tile is None:
        return 0
    slices = math.prod(step.grid(1, THIN)) * step.slices(1, THIN)
    return total // slices


def counted():
    """The table of what is counted, as rows of text; the first is the heading."""
    rows = [
        (
            *("step", "tile", "blocks", "MB, at least", "MB, loaded by blocks"),
            *("FLOP per byte loaded", "wavefronts of a block", "multiply-adds per wavefront"),
            "error",
        )
    ]
    for step in _STEPS:
        tile, passed = step.tile, wavefronts(step)
        rows.append(
            (
                step.name,
                f"{tile.rows} x {tile.columns} x {tile.terms}" if tile else "none",
                f"{math.prod(step.grid())}",
                f"{step.bytes() / 1e6:.1f}",
                f"{step.loaded() / 1e6:.1f}",
                f"{step.flops() / step.loaded():.1f}",
                f"{passed * step.slices()}" if passed else "0",
                f"{tile.rows * tile.columns * tile.terms / passed:.0f}" if passed else "none",
                f"{error(step):.1e}",
            )
        )
    return rows


def compiled(architecture=90):
    """The table of what the compiler made of the steps, as rows of text.

    Raises: RuntimeError if there is neither NVRTC nor nvcc.
    """
    from . import report

    table = report.rows([step.instance for step in _STEPS], (architecture,))
    rows = [("step", "threads", "shared bytes", "registers", "spill bytes", "blocks", "limited by")]
    for step, (_, threads, shared, _, registers, spills, _, blocks, by) in zip(
        _STEPS, table, strict=True
    ):
        rows.append((step.name, *map(str, (threads, shared, registers, spills, blocks, by))))
    return rows


def markdown(rows):
    """Rows of text as a table in Markdown, the first their heading."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def main():
    """The command line: prints the tables."""
    first = _STEPS[0]
    print(f"{IMAGES} images of {LAYER.image[0]} x {LAYER.image[1]} x {LAYER.channels} -> ", end="")
    print(f"{LAYER.outputs} channels; {first.flops() / 1e9:.2f} GFLOP for every step.\n")
    for step in _STEPS:
        print(f"{step.name}: {step.reason}.")
    print("\nCounted:\n\n" + markdown(counted()))
    try:
        print("Compiled for sm_90, blocks of a multiprocessor:\n\n" + markdown(compiled()))
    except RuntimeError as missing:
        print(f"Not compiled: {missing}\n")
    print("Time: not measured: no GPU was at hand.")


if __name__ == "__main__":
    main()
