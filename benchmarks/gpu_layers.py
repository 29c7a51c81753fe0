"""Parts of gpu.py: ceilings, layers beside cuDNN, products beside cuBLAS, the ladder, all tiles.

Each part is a generator of rows, dictionaries that gpu.py writes down as they come; gpu_report.py
makes tables of them. A row has the times of every round, in seconds, by contender; none under the
emulator, where only the errors mean something.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from conv import OPERATIONS, arrays, describe
from gpu_place import tf32
from nets import KERNEL
from roofline import layer_counts, layers, matmul_counts, terms
from timing import interleave, version

PRECISIONS = ("fp32", "tf32", "3xtf32")
PARTS = (1, 2, 4, 8, 16, 32, 64)  # of a sum, beside those chosen
TILE_ROUNDS = 3
COPIED, REPEATS = 1 << 28, 4000  # floats of the copy, 1 GiB; of the kernels that only compute
WIDTH = 16  # what the emulator's layers and products are thinner by
GEMMS = {  # rows, terms, columns of the forward product x·w
    "toy 512, batch 256": (256, 512, 512),
    "toy 64, batch 128": (128, 64, 64),
    "100 → 4²×256, batch 64": (64, 100, 4096),
    "4²×512 → 1, batch 64": (64, 8192, 1),
    "square 4096": (4096, 4096, 4096),
}


class Contender(NamedTuple):
    """One way to make the products.

    Attributes: its name; the precision it computes in; the context to call it in; for a layer,
        ``calls(layer, sets)``, and for matrices ``products(sets)``: {operation: a call for each
        set of inputs}; ``read``: {operation: its result as an array of ours}.
    """

    name: str
    precision: str
    context: object
    calls: object
    products: object
    read: dict


def contenders(place):
    """Ours in three precisions; PyTorch in both layouts, with TF32 and without. What is skipped."""
    found = [_ours(place, precision) for precision in PRECISIONS]
    if version("torch") is None:
        return found, "PyTorch is not installed"
    import torch

    torch.set_grad_enabled(False)  # for the rest of this process
    if not place.emulated and not torch.cuda.is_available():
        return found, f"PyTorch {torch.__version__} finds no GPU"
    for last in (False, True):
        found += [_torch(place, last, on) for on in ((False,) if place.emulated else (False, True))]
    return found, "PyTorch has no TF32 on a CPU" if place.emulated else None


def _ours(place, precision, choice=None):
    from tinygan import kernels
    from tinygan.conv import Geometry

    def calls(layer, sets):
        at = {
            "geometry": Geometry(layer.image, (KERNEL, KERNEL), layer.stride, layer.pad),
            "precision": precision,
            "choice": choice,
        }
        forward, back = kernels.conv2d, kernels.conv2d_transpose
        if layer.transposed:
            forward, back = back, forward
        grad = kernels.conv2d_weight_grad
        pairs = [(g, x) if layer.transposed else (x, g) for x, _, g in sets]
        return {
            "forward": [partial(forward, x, w, **at) for x, w, _ in sets],
            "input gradient": [partial(back, g, w, **at) for _, w, g in sets],
            "weight gradient": [partial(grad, *pair, **at) for pair in pairs],
        }

    def products(sets):
        make = partial(kernels.matmul, precision=precision)
        return {
            "forward": [partial(make, x, w) for x, w, _ in sets],
            "input gradient": [partial(make, g, w, tb=True) for _, w, g in sets],
            "weight gradient": [partial(make, x, g, ta=True) for x, _, g in sets],
        }

    read = dict.fromkeys(OPERATIONS, lambda y: y)
    return Contender(f"tinygan {precision}", precision, place.ours, calls, products, read)


def _torch(place, last, on):
    import torch
    from torch.nn.functional import conv2d, conv_transpose2d

    layout = torch.channels_last if last else torch.contiguous_format

    def images(a):
        return place.torch(a).permute(0, 3, 1, 2).contiguous(memory_format=layout)

    def weights(a):
        return place.torch(a).permute(3, 2, 0, 1).contiguous(memory_format=layout)

    def calls(layer, sets):
        sizes = [layer.stride] * 2, [layer.pad] * 2
        forward = conv_transpose2d if layer.transposed else conv2d
        ready = [(images(x), weights(w), images(g)) for x, w, g in sets]
        backward = torch.ops.aten.convolution_backward
        rest = None, *sizes, [1, 1], layer.transposed, [0, 0], 1
        return {
            "forward": [partial(forward, x, w, None, *sizes) for x, w, _ in ready],
            "input gradient": [
                partial(backward, g, x, w, *rest, [True, False, False]) for x, w, g in ready
            ],
            "weight gradient": [
                partial(backward, g, x, w, *rest, [False, True, False]) for x, w, g in ready
            ],
        }

    def products(sets):
        ready = [tuple(map(place.torch, s)) for s in sets]
        return {
            "forward": [partial(torch.matmul, x, w) for x, w, _ in ready],
            "input gradient": [partial(torch.matmul, g, w.T) for _, w, g in ready],
            "weight gradient": [partial(torch.matmul, x.T, g) for x, _, g in ready],
        }

    def reader(which, axes):
        def read(y):
            y = y[which] if isinstance(y, tuple) else y
            return place.from_torch(y.permute(*axes) if y.ndim == 4 else y)

        return read

    read = {
        "forward": reader(0, (0, 2, 3, 1)),
        "input gradient": reader(0, (0, 2, 3, 1)),
        "weight gradient": reader(1, (2, 3, 1, 0)),
    }
    name = f"PyTorch {'channels-last' if last else 'default layout'}, TF32 {'on' if on else 'off'}"
    return Contender(name, "tf32" if on else "fp32", partial(tf32, on), calls, products, read)


# The reference: float64, tap by tap, by plain matrix products


def reference(layer, operation, x, w, g):
    """The result of an operation in float64, on the device of the arrays.

    Shapes: as in :func:`conv.arrays`: the layer's input x, weight w, and the result's adjoint g.
    """
    x, w, g = (a.astype(np.float64) for a in (x, w, g))
    if operation == "weight gradient":
        return _to_weights(layer, *((g, x) if layer.transposed else (x, g)))
    if layer.transposed == (operation == "forward"):
        return _to_image(layer, x if operation == "forward" else g, w)
    return _to_grid(layer, x if operation == "forward" else g, w)


def _taps(layer, padded):
    """(row, column, the pixels of the padded images under it, one for each grid point)."""
    reach = layer.stride * (layer.grid - 1) + 1
    for k in range(KERNEL):
        for m in range(KERNEL):
            down, across = (slice(i, i + reach, layer.stride) for i in (k, m))
            yield k, m, padded[:, down, across]


def _padded(layer, x, n, channels):
    side = layer.image + 2 * layer.pad
    inside = slice(layer.pad, layer.pad + layer.image)
    padded = np.zeros_like(x, shape=(n, side, side, channels))
    return padded, padded[:, inside, inside]


def _to_grid(layer, x, w):
    padded, inside = _padded(layer, x, len(x), layer.channels)
    inside[:] = x
    return sum(
        pixels.reshape(-1, layer.channels) @ w[k, m] for k, m, pixels in _taps(layer, padded)
    ).reshape(len(x), layer.grid, layer.grid, layer.features)


def _to_image(layer, z, w):
    padded, inside = _padded(layer, z, len(z), layer.channels)
    for k, m, pixels in _taps(layer, padded):
        pixels += (z.reshape(-1, layer.features) @ w[k, m].T).reshape(pixels.shape)
    return inside


def _to_weights(layer, x, z):
    padded, inside = _padded(layer, x, len(x), layer.channels)
    inside[:] = x
    w = np.zeros_like(x, shape=(KERNEL, KERNEL, layer.channels, layer.features))
    for k, m, pixels in _taps(layer, padded):
        w[k, m] = pixels.reshape(-1, layer.channels).T @ z.reshape(-1, layer.features)
    return w


def error(got, exact):
    """‖got − exact‖ / ‖exact‖; infinite for another shape, NaN where something is NaN."""
    if got.shape != exact.shape:
        return float("inf")
    difference, size = ((a * a).sum() ** 0.5 for a in (got.astype(np.float64) - exact, exact))
    return float(difference / size)


def limit(precision, count):
    """The largest error that is right: 1e-3 in TF32, else √K·2⁻²⁴ with K the length of the sum."""
    return 1e-3 if precision == "tf32" else count**0.5 * 2.0**-24


# Layers and products


def measure(place, names, calls, exact, options):
    """Run the contenders on one operation: {"times": {name: [...]}, "errors": {name: error}}.

    Args:
        names: the contenders. calls: {name: its calls}. exact: the reference.
    """
    errors, turns, failed = {}, {}, {}
    for who in names:
        try:
            with who.context():
                results = [call() for call in calls[who.name]]  # compiles; cuDNN chooses its plan
                errors[who.name] = error(who.read(results[0]), exact)
                del results

            turns[who.name] = partial(
                _turn_or_none, place, who.context, who.name, calls[who.name], failed
            )
        except RuntimeError as problem:
            failed[who.name] = str(problem).splitlines()[0]
    times = {} if place.emulated else interleave(turns, options.rounds)
    times = {name: [t for t in found if t] for name, found in times.items() if name not in failed}
    return {"times": times, "errors": errors, "failed": failed}


def _turn_or_none(place, context, name, calls, failed):
    """Seconds per call, or None once the contender has failed: the others' times still count."""
    if name not in failed:
        try:
            with context():
                return place.turn(calls)
        except RuntimeError as problem:
            failed[name] = str(problem).splitlines()[0]
    return None


def scaled(layer):
    """The layer with a sixteenth of its channels; an image's 3 and a critic's 1 stay."""
    channels, features = (
        n if n <= 3 else max(1, n // WIDTH) for n in (layer.channels, layer.features)
    )
    return replace(layer, channels=channels, features=features)


def chosen_layers(options):
    """{name: layer} of the options; thinner ones for the emulator."""
    found = {
        name: scaled(layer) if options.emulate else layer
        for name, layer in layers().items()
        if not options.layers or {name, name.partition("/")[0]} & set(options.layers)
    }
    return found


def layer_rows(place, options, left):
    """A row for each layer and operation.

    Args:
        left: says how many seconds are left; what does not fit is reported as not reached.
    """
    names, missing = contenders(place)
    if missing:
        yield {"note": f"SKIPPED: {missing}"}
    for name, layer in chosen_layers(options).items():
        if left() < 0:
            yield {"note": f"NOT REACHED: {name} and later layers, for lack of time"}
            return
        data = arrays(layer, options.batch)
        sets = _sets(place, (data[0], data[1], data[3]), options)
        calls = {who.name: who.calls(layer, sets) for who in names}
        for operation in OPERATIONS:
            exact = reference(layer, operation, *sets[0])
            of_operation = {who: by_operation[operation] for who, by_operation in calls.items()}
            readers = [who._replace(read=who.read[operation]) for who in names]
            found = measure(place, readers, of_operation, exact, options)
            k = terms(layer, operation, options.batch)
            yield {
                "layer": name,
                "shown": describe(layer, options.batch),
                "channels": layer.channels,
                "operation": operation,
                **layer_counts(layer, options.batch)._asdict(),
                **_limits(names, k),
                **found,
            }


def gemm_rows(place, options, left):
    """A row for each product and operation."""
    names, missing = contenders(place)
    if missing:
        yield {"note": f"SKIPPED: {missing}"}
    names = [who for who in names if "channels-last" not in who.name]  # matrices have one layout
    names = [who._replace(name=who.name.replace(" default layout", "")) for who in names]
    rng = np.random.default_rng(0)
    for name, sizes in GEMMS.items():
        if options.emulate:
            sizes = tuple(max(1, size // WIDTH) for size in sizes)
            if max(sizes) > 10:
                continue  # seconds each
        if left() < 0:
            yield {"note": f"NOT REACHED: {name} and later products, for lack of time"}
            return
        rows, inner, columns = sizes
        shapes = (rows, inner), (inner, columns), (rows, columns)
        data = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
        sets = _sets(place, data, options)
        calls = {who.name: who.products(sets) for who in names}
        x, w, g = (a.astype(np.float64) for a in sets[0])
        for operation, exact, k in (
            ("forward", x @ w, inner),
            ("input gradient", g @ w.T, columns),
            ("weight gradient", x.T @ g, rows),
        ):
            of_operation = {who: by_operation[operation] for who, by_operation in calls.items()}
            readers = [who._replace(read=who.read[operation]) for who in names]
            yield {
                "layer": name,
                "shown": f"{rows}×{inner}·{inner}×{columns}",
                "operation": operation,
                **matmul_counts(*sizes)._asdict(),
                **_limits(names, k),
                **measure(place, readers, of_operation, exact, options),
            }


def _sets(place, data, options):
    """The data once for each call of a turn, each time in memory of its own."""
    return [tuple(map(place.asarray, data)) for _ in range(1 if options.emulate else options.calls)]


def _limits(names, k):
    return {
        "precisions": {who.name: who.precision for who in names},
        "limits": {
            who.name: limit(who.precision, k) for who in names if who.name.startswith("tinygan")
        },
    }


# The ladder of kernels/README.md


def ladder_rows(place, options, left):
    """A row for each step of the ladder: its kernel on the ladder's layer, or a thin one."""
    from tinygan.kernels import ladder

    images, layer = (1, ladder.THIN) if options.emulate else (ladder.IMAGES, ladder.LAYER)
    for step in ladder.steps():
        if left() < 0:
            yield {"note": f"NOT REACHED: {step.name} and later steps, for lack of time"}
            return
        data = step.inputs(images, layer)
        exact = place.asarray(ladder.reference(step.op, data, layer))
        calls = [partial(step.run, *arrays, layer=layer) for arrays in _sets(place, data, options)]
        who = Contender("kernel", step.precision, place.ours, None, None, lambda y: y)
        yield {
            "layer": step.name,
            "operation": step.op,
            "kernel": step.instance.kernel.name,
            "flops": step.flops(images, layer),
            "bytes": step.bytes(images, layer),
            "precisions": {"kernel": step.precision},
            "limits": {"kernel": limit(step.precision, layer.product(step.op, images)[2])},
            **measure(place, [who], {"kernel": calls}, exact, options),
        }


# Tiles


def tile_rows(place, options, left):
    """A row for each layer, operation and precision: every tile, the sum in few and many parts."""
    for name, layer in chosen_layers(options).items():
        data = arrays(layer, options.batch)
        sets = _sets(place, (data[0], data[1], data[3]), options)
        for precision in PRECISIONS:
            if left() < 0:
                yield {"note": f"NOT REACHED: {name} in {precision} and later, for lack of time"}
                return
            for operation in OPERATIONS:
                asked, chosen = asked_for(place, _ours(place, precision), layer, sets, operation)
                choices = {_label(choice): choice for choice in [chosen, *candidates(asked)]}
                turns = {}
                for label, choice in choices.items():
                    calls = _ours(place, precision, choice).calls(layer, sets)[operation]
                    turns[label] = partial(_turn_or_none, place, place.ours, label, calls, {})
                    turns[label]()  # compiled before the rounds
                rounds = min(options.rounds, TILE_ROUNDS)
                yield {
                    "layer": name,
                    "operation": operation,
                    "precision": precision,
                    "chosen": _label(chosen),
                    "times": {} if place.emulated else interleave(turns, rounds),
                    "candidates": list(choices),
                }


def _label(choice):
    tile, parts, _ = choice
    return f"{tile.rows}×{tile.columns}×{tile.terms}, {parts} parts"


def asked_for(place, who, layer, sets, operation):
    """The arguments of tiles.choose in an operation, which is made, and its answer."""
    from tinygan.kernels import gemm, tiles

    found = []

    def watch(*arguments):
        found.append((arguments, tiles.choose(*arguments)))
        return found[-1][1]

    gemm.choose = watch
    try:
        with who.context():
            who.calls(layer, sets)[operation][0]()
    finally:
        gemm.choose = tiles.choose
    return found[-1]


def candidates(asked):
    """(tile, parts, terms of a part) of all tiles that can make the product."""
    from tinygan.kernels import tiles

    precision, _, columns, count, _, single, architecture, _ = asked
    for tile in tiles.candidates(precision, columns, single, architecture):
        slices = -(-count // tile.terms)
        for wanted in PARTS:
            if wanted == 1 or count // wanted >= tiles.LEAST_TERMS:
                of_part = -(-slices // wanted)
                yield tile, -(-slices // of_part), of_part * tile.terms


# Ceilings


def ceiling_rows(place, options, left):
    """A row for each ceiling: what it is, its rates over the rounds, and whether it was right."""
    from tinygan import kernels
    from tinygan.kernels import ceilings

    small, xp = place.emulated, place.xp
    rng = np.random.default_rng(0)
    size = 1 << 12 if small else COPIED
    numbers = rng.normal(size=1 << 12).astype(np.float32)
    x = place.asarray(np.resize(numbers, size))
    # v -> offset - v: bits that change at each link, and never settle
    chain = np.r_[-1, rng.normal(size=ceilings.ADDS_VALUES - 1)].astype(np.float32)
    exact_adds = _chains(chain, ceilings)
    words = np.round(256 * rng.normal(size=ceilings.MMA_VALUES)).astype(np.float32) / 256  # TF32
    chain, fragments = place.asarray(chain), place.asarray(words)
    with place.ours():
        chip = kernels.multiprocessors(x)
    repeats, blocks = (2, (2, 1)) if small else (REPEATS, (8 * chip, 2 * chip))

    y = xp.empty_like(x)

    def memcpy():
        xp.copyto(y, x)
        return y, 8 * size

    def copy():
        ceilings.copy(x, y)
        return y, 8 * size

    def adds():
        return ceilings.multiply_adds(chain, repeats, blocks[0])

    def products():
        return ceilings.mma_tf32(fragments, repeats, blocks[1])

    exact_products = repeats * _fragments(words, ceilings)
    for what, unit, call, exact, off in (
        ("copy by our kernel", "bytes", copy, numbers, 0),
        ("copy by the runtime", "bytes", memcpy, numbers, 0),
        ("FFMA", "operations", adds, exact_adds, 1e-6),
        ("mma.sync TF32", "operations", products, exact_products, 1e-3),
    ):
        y.fill(np.nan)
        with place.ours():
            found, work = call()
            right = error(place.get(found.reshape(-1)[: exact.size]), exact) <= off
            turns = {what: lambda call=call: place.turn([call])}
            times = interleave(turns, 1 if small else options.rounds)[what]
        rates = [] if small else [work / seconds for seconds in times]
        yield {"ceiling": what, "unit": unit, "work": work, "rates": rates, "right": right}


def _chains(x, ceilings):
    """What multiply_adds must give a block's threads: after an even number of links, the start."""
    return (x[2:, None].astype(np.float64) + np.arange(ceilings.THREADS)).sum(0)


def _fragments(x, ceilings):
    """What one product of mma_tf32 must add to the threads of a warp, for each warp of a block."""
    mt, nt = ceilings.MT, ceilings.NT
    words = x.astype(np.float64).reshape(-1, 8, 4)  # lane 4g + t: row g, column t
    a, b = words[: 4 * mt].reshape(mt, 4, 8, 4).sum(0), words[4 * mt :].reshape(nt, 2, 8, 4).sum(0)
    left = np.block([[a[0], a[2]], [a[1], a[3]]])  # 16 x 8
    right = np.concatenate([b[0].T, b[1].T])  # 8 x 8
    by_lane = (left @ right).reshape(2, 8, 4, 2).sum((0, 3)).reshape(32)
    return np.tile(by_lane, ceilings.THREADS // 32)
