"""A part of gpu.py: every instance of every kernel once, at small shapes, through its own function.

This is what compute-sanitizer watches. Shapes are ragged: no multiple of a tile, sums cut into
parts. The results are only looked at for numbers that are none; that they are right is for the
tests. What was launched is compared with the list of instances, so that none is left out.
"""

import re
from contextlib import contextmanager
from functools import partial

import numpy as np

FEW = r"copy|gate float"  # under the emulator, where each instance takes seconds to compile


def cases(place):
    """(label, call) for each; a call returns the arrays to look at."""
    from tinygan.kernels import tiles
    from tinygan.kernels.tiles import SINGLE

    rng = np.random.default_rng(0)

    def array(*shape, dtype=np.float32):
        return place.asarray(rng.normal(size=shape).astype(dtype))

    for precision, (*wide, narrow) in tiles.TILES.items():
        if precision == "fp64":  # what arrays of float64 take, whatever is asked for
            doubles = partial(array, dtype=np.float64)
            for tile in (*wide, narrow):
                yield from _products(doubles, None, tile, 3, 5, "double")
            continue
        for tile in (*wide, narrow):
            yield from _products(array, precision, tile, 4, 4)
        yield from _products(array, precision, narrow, 3, 5)
        yield from _products(array, precision, SINGLE[precision], 3, 8)
        yield from _products(array, precision, SINGLE[precision], 3, 5)
    for dtype, name in ((np.float32, "float"), (np.float64, "double")):
        yield from _small(partial(array, dtype=dtype), name)
        yield from _random(place, dtype, name)
    yield from _random(place, None, "words")
    yield from _ceilings(place, array)
    yield from _ladder(place)


def _products(array, precision, tile, channels, outputs, kind=""):
    """Convolutions and products that copy 4 elements at a time where sizes are multiples of 4."""
    from tinygan import kernels
    from tinygan.conv import Geometry

    x, z = array(3, 6, 8, channels), array(3, 3, 4, outputs)
    w, bias, mask = array(4, 4, channels, outputs), array(outputs), array(3, 3, 4, outputs)
    rows, inner = 20 * channels, 7 * channels
    a, b, c = array(rows, inner), array(inner, outputs), array(outputs, inner)
    d, e = array(rows, channels), array(rows, outputs)

    def how(terms):
        slices = -(-terms // tile.terms)  # in two parts, if there are two
        of_part = -(-slices // 2)
        choice = tile, -(-slices // of_part), of_part * tile.terms
        return {"precision": precision, "choice": choice}

    at = {"geometry": Geometry((6, 8), (4, 4), 2, 1)}
    calls = {
        "conv2d": partial(
            kernels.conv2d, x, w, bias, slope=0.2, mask=mask, **at, **how(16 * channels)
        ),
        "conv2d_transpose": partial(kernels.conv2d_transpose, z, w, **at, **how(4 * outputs)),
        "conv2d_weight_grad": partial(kernels.conv2d_weight_grad, x, z, **at, **how(3 * 3 * 4)),
        "matmul": partial(kernels.matmul, a, b, **how(inner)),
        "matmul tb": partial(kernels.matmul, a, c, tb=True, **how(inner)),
        "matmul ta": partial(kernels.matmul, d, e, ta=True, **how(rows)),
    }
    if channels % 4 and not outputs % 4:
        del calls["conv2d_transpose"]  # it reads along the outputs, in fours: done with others
    for name, call in calls.items():
        yield f"{name} {kind or precision} {tile.name} {channels}→{outputs}", partial(_one, call)


def _small(array, kind):
    from tinygan.kernels import fused, norm, optim

    # Large enough that the sums of a norm have parts, which a second launch adds up.
    a, h = array(6, 5, 5, 32), array(6, 5, 5, 32)
    long, mark = array(2, 12, 12, 33), array(2, 12, 12, 33)
    scale, rate, root = array(32), array(1).reshape(()), array(1).reshape(())
    yield f"gate {kind}", lambda: [fused.gate(a, h, 0.2), fused.gate(a, a, 0.2)]
    yield f"column_sum {kind}", lambda: [fused.column_sum(a.reshape(-1, 32))]
    for title, axes, x, y, by in (
        ("batch norm", (0, 1, 2), a, h, scale),
        ("layer norm", (1, 2, 3), long, mark, array(33)),
    ):
        yield f"{title} {kind}", partial(_norm, norm, axes, x, y, by)
    p, g = array(1001), array(1001)
    m, v = array(1001), array(1001) ** 2
    yield f"sgd {kind}", lambda: [optim.sgd(p, g, rate)]
    for nesterov in (False, True):
        more = {"momentum": 0.9, "nesterov": nesterov}
        yield f"momentum {nesterov} {kind}", partial(_one, optim.momentum, p, g, m, rate, **more)
    yield f"rmsprop {kind}", lambda: [optim.rmsprop(p, g, v, rate, decay=0.9, eps=1e-8)]
    more = {"beta1": 0.5, "beta2": 0.9, "eps": 1e-8}
    yield f"adam {kind}", partial(_one, optim.adam, p, g, m, v, rate, root, **more)


def _one(f, *arguments, **more):
    return [f(*arguments, **more)]


def _norm(norm, axes, x, h, by):
    mean = norm.mean(x, axes)
    r = norm.inverse_deviation(x, mean, axes, 1e-5)
    return [
        mean,
        r,
        norm.standardise(x, mean, r, by, by, axes),
        norm.project(h, x, mean, r, by, axes),
        norm.standard_dot(h, x, mean, r, axes),
    ]


def _random(place, dtype, kind):
    from tinygan.kernels import random

    key, counter, size = 7, (1 << 64) - 3, 1001
    base = place.asarray(np.array([5, 0, 0, 0], np.uint64))

    def fill(f, dtype, *more):
        y = place.xp.empty(size, dtype)
        f(y, *more, key, counter, base)
        return [y]

    if dtype is None:
        yield "bits", partial(fill, random.fill_bits, np.uint64)
        yield "integers", partial(fill, random.fill_integers, np.int64, 1000)
    else:
        yield f"uniform {kind}", partial(fill, random.fill_uniform, dtype)
        yield f"normal {kind}", partial(fill, random.fill_normal, dtype)


def _ceilings(place, array):
    from tinygan.kernels import ceilings

    def copy():
        x = array(1000)
        y = place.xp.empty_like(x)
        ceilings.copy(x, y)
        return [y]

    yield "copy", copy
    yield "multiply_adds", lambda: [ceilings.multiply_adds(array(ceilings.ADDS_VALUES), 2, 2)[0]]
    yield "mma_tf32", lambda: [ceilings.mma_tf32(array(ceilings.MMA_VALUES), 2, 2)[0]]


def _ladder(place):
    """The ladder's steps, on a thin layer."""
    from tinygan.kernels import ladder

    for step in ladder.steps():
        inputs = map(place.asarray, step.inputs(1, ladder.THIN))
        yield f"ladder {step.name}", partial(_one, step.run, *inputs, layer=ladder.THIN)


@contextmanager
def launched():
    """The set of kernels that are launched within."""
    from tinygan.kernels import Kernel

    call, found = Kernel.__call__, set()

    def watched(self, *arguments, **more):
        found.add(self)
        return call(self, *arguments, **more)

    Kernel.__call__ = watched
    try:
        yield found
    finally:
        Kernel.__call__ = call


def compile_all(place):
    """Compile every instance for the GPU, side by side, into CuPy's cache; how many there are."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    from tinygan.kernels.compile import gpu_kernel
    from tinygan.kernels.report import instances

    kernels = list(dict.fromkeys(instance.kernel for instance in instances()))
    use = place.xp.cuda.Device().use  # a thread has no context of its own accord
    with ThreadPoolExecutor(os.cpu_count(), initializer=use) as pool:
        list(pool.map(gpu_kernel, kernels))
    return len(kernels)


def compile_rows(place, options, left):
    """One row: how many kernels were compiled."""
    yield {"compiled": compile_all(place)}


def once_rows(place, options, left):
    """A row for each case that fails, or gives NaN or infinity; one with the totals.

    On a GPU each array is an allocation of its own, not a piece of CuPy's pool, so that a memory
    checker sees where it ends.
    """
    from tinygan.kernels.report import instances

    if not place.emulated:
        place.xp.cuda.set_allocator(None)
    match = options.match or (FEW if place.emulated else "")
    failures = ran = 0
    with launched() as found, place.ours():
        for label, call in cases(place):
            if not re.search(match, label):
                continue
            ran += 1
            try:
                results = [place.get(y) for y in call()]
                place.wait()
                bad = [y for y in results if y.dtype.kind == "f" and not np.isfinite(y).all()]
                problem = f"{len(bad)} results with NaN or infinity" if bad else None
            except RuntimeError as error:
                problem = str(error)
            if problem:
                failures += 1
                yield {"case": label, "problem": problem}
    missing = sorted({instance.kernel.name for instance in instances()} - {k.name for k in found})
    yield {
        "cases": ran,
        "failures": failures,
        "launched": len(found),
        "missing": missing if not match else [],
        "only": match or None,
    }
