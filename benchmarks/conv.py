"""Time each layer of the nets in nets.py: tinygan's convolutions beside PyTorch's and jax.jit's.

    python benchmarks/conv.py                   # everything that is installed; some minutes
    python benchmarks/conv.py --quick           # a smoke test
    python benchmarks/conv.py --layers critic-32 iteration-64/G1 --threads 1 --json conv.json

Three operations of each layer: forward (with its bias), the gradient in the input, the gradient in
the weights, on plain arrays. All contenders get the same values, and their results must agree, or
the run fails. Then they take turns, each in a process of its own, in a new order each round, each
turn of the same length. The tables are Markdown, on standard output.
"""

import importlib
import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from nets import CASES
from step_peers import jax_convolution
from timing import (
    ceilings,
    interleave,
    machine,
    quartiles,
    run_options,
    run_parser,
    set_threads,
    table,
    version,
    workers,
)
from tqdm import tqdm

OPERATIONS = ("forward", "input gradient", "weight gradient")
TOLERANCE = 1e-4
LEAD = 0.01  # seconds of untimed calls before each turn: caches, and others' threads, settle
TORCH, TORCH_LAST = "PyTorch", "PyTorch, channels-last"

LAYERS = {
    f"{net}/{name}": (layer, case.batch)
    for net, case in CASES.items()
    for name, layer in case.layers().items()
}


class Calls(NamedTuple):
    """One library's version of a layer: a call for each operation, and how to read its result."""

    calls: dict
    read: dict  # to N×H×W×C, or 4×4×C×O, in NumPy


def arrays(layer, batch):
    """(input, weight, bias, adjoint of the result), always the same."""
    rng = np.random.default_rng(0)
    x, z = (rng.normal(size=shape).astype(np.float32) for shape in layer.shapes(batch))
    params = layer.weights(rng)
    x, g = (z, x) if layer.transposed else (x, z)
    return x, params["weight"], params["bias"], g


def tinygan_calls(layer, x, w, b, g):
    from tinygan.conv import Geometry, conv2d, conv2d_transpose, conv2d_weight_grad

    at = {"geometry": Geometry(layer.image, w.shape[:2], layer.stride, layer.pad)}
    forward, back, pair = conv2d, conv2d_transpose, (x, g)
    if layer.transposed:
        forward, back, pair = back, forward, (g, x)
    calls = {
        "forward": lambda: forward(x, w, b, **at),
        "input gradient": lambda: back(g, w, **at),
        "weight gradient": lambda: conv2d_weight_grad(*pair, **at),
    }
    return Calls(calls, dict.fromkeys(calls, np.asarray))


def torch_calls(layer, x, w, b, g, channels_last=False):
    import torch
    from torch.nn.functional import conv2d, conv_transpose2d

    torch.set_grad_enabled(False)  # for the rest of this process
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, g = (
        torch.from_numpy(a).permute(0, 3, 1, 2).contiguous(memory_format=layout) for a in (x, g)
    )
    w = torch.from_numpy(w).permute(3, 2, 0, 1).contiguous(memory_format=layout)
    b = torch.from_numpy(b)
    stride, pad = [layer.stride] * 2, [layer.pad] * 2
    forward = conv_transpose2d if layer.transposed else conv2d
    backward = partial(
        torch.ops.aten.convolution_backward,
        g, x, w, None, stride, pad, [1, 1], layer.transposed, [0, 0], 1,
    )  # fmt: skip
    calls = {
        "forward": lambda: forward(x, w, b, stride, pad),
        "input gradient": lambda: backward([True, False, False])[0],
        "weight gradient": lambda: backward([False, True, False])[1],
    }
    read = dict.fromkeys(calls, lambda y: y.permute(0, 2, 3, 1).numpy())
    read["weight gradient"] = lambda y: y.permute(2, 3, 1, 0).numpy()
    return Calls(calls, read)


def jax_calls(layer, x, w, b, g):
    import jax

    def forward(x, w, b):
        return jax_convolution(layer, x, w) + b

    def in_input(x, w, g):
        return jax.vjp(lambda x: jax_convolution(layer, x, w), x)[1](g)[0]

    def in_weight(x, w, g):
        return jax.vjp(lambda w: jax_convolution(layer, x, w), w)[1](g)[0]

    x, w, b, g = (jax.numpy.asarray(a) for a in (x, w, b, g))
    calls = {
        name: partial(lambda f, *a: f(*a).block_until_ready(), jax.jit(f), x, w, last)
        for name, f, last in zip(OPERATIONS, (forward, in_input, in_weight), (b, g, g), strict=True)
    }
    return Calls(calls, dict.fromkeys(calls, np.asarray))


# Name: (its calls of a layer, the package it needs).
CONTENDERS = {
    "tinygan": (tinygan_calls, "tinygan"),
    TORCH: (torch_calls, "torch"),
    TORCH_LAST: (partial(torch_calls, channels_last=True), "torch"),
    "jax.jit": (jax_calls, "jax"),
}


class Worker:
    """One contender in a process of its own: what it does when asked."""

    def __init__(self, name, threads):
        self.build, package = CONTENDERS[name]
        module, self.life = importlib.import_module(package), ExitStack()
        if package == "tinygan":
            self.life.enter_context(module.threads(threads))

    def results(self, layer):
        """Prepare a layer; {operation: result}."""
        layer, batch = LAYERS[layer]
        self.calls, read = self.build(layer, *arrays(layer, batch))
        return {name: np.ascontiguousarray(read[name](f())) for name, f in self.calls.items()}

    def turn(self, operation, seconds):
        """Seconds per call, over as many calls as take that long, after some that do not count."""
        call = self.calls[operation]
        _calls(call, min(LEAD, seconds))
        return _calls(call, seconds)


def _calls(call, seconds):
    """Call until the time is over, once at least: the mean time of a call."""
    count, start, passed = 0, perf_counter(), 0.0
    while not count or passed < seconds:
        call()
        count += 1
        passed = perf_counter() - start
    return passed / count


def compare(layer, results):
    """{name: {operation: ‖y − y₁‖/‖y₁‖}}, y₁ the first contender's; an error if too large."""
    first, differences = next(iter(results)), {}
    for name, found in results.items():
        differences[name] = {}
        for operation, y in results[first].items():
            error = float("inf")
            if found[operation].shape == y.shape:
                error = float(np.linalg.norm(found[operation] - y) / np.linalg.norm(y))
            differences[name][operation] = error
            if not error <= TOLERANCE:
                raise SystemExit(
                    f"conv.py: {layer}, {operation}: the results of {name} and {first} differ by "
                    f"{error:.1e} of their size (limit {TOLERANCE:g})"
                )
    return differences


def run_layer(layer, ask, options, progress):
    """Compare and time one layer: {operation: {name: results}}."""
    differences = compare(layer, {name: ask[name]("results", layer) for name in ask})
    results = {}
    for operation in OPERATIONS:
        turns = {name: partial(ask[name], "turn", operation, options.seconds) for name in ask}
        times = interleave(turns, options.rounds, progress.update)
        medians = {name: quartiles(times[name])[1] for name in ask}
        yardsticks = {name: name for name in (TORCH,) if name in times}
        torches = [name for name in (TORCH, TORCH_LAST) if name in times]
        if len(torches) == 2:
            yardsticks["the faster layout"] = min(torches, key=medians.get)
        results[operation] = {
            name: {
                "seconds": times[name],
                "quartiles_ms": [1e3 * q for q in quartiles(times[name])],
                "difference": differences[name][operation],
                "ratios": {
                    to: quartiles([a / b for a, b in zip(times[name], times[who], strict=True)])
                    for to, who in yardsticks.items()
                },
            }
            for name in ask
        }
    return results


def describe(layer, batch):
    """A layer's sizes: pixels and channels in, and out."""
    image, grid = (f"{a[1]}²×{a[3]}" for a in layer.shapes(batch))
    return f"{grid} → {image}" if layer.transposed else f"{image} → {grid}"


def report(results, top):
    """A row for each layer and operation; times with quartiles, ratios with quartiles."""
    first = next(iter(next(iter(results.values())).values()))
    rows = []
    for layer, operations in results.items():
        flops = LAYERS[layer][0].flops(LAYERS[layer][1])
        floor = flops / top / 1e6
        for operation, found in operations.items():
            rows.append([
                f"{layer}, {describe(*LAYERS[layer])}",
                operation,
                f"{flops / 1e9:.3g}",
                f"{floor:.3g}",
                *("{1:.3g} ({0:.3g}–{2:.3g})".format(*r["quartiles_ms"]) for r in found.values()),
                *(
                    "{1:.2f} ({0:.2f}–{2:.2f})".format(*ratio)
                    for ratio in found["tinygan"]["ratios"].values()
                ),
                *(f"{floor / r['quartiles_ms'][1]:.0%}" for r in found.values()),
            ])  # fmt: skip
    header = [
        "layer", "operation", "GFLOP", "floor, ms", *(f"{name}, ms" for name in first),
        *(f"tinygan to {to}" for to in first["tinygan"]["ratios"]),
        *(f"floor/{name}" for name in first),
    ]  # fmt: skip
    return table(header, rows)


def totals(results):
    """A row for each net and operation: the sum of the layers' medians."""
    sums = {}
    for layer, operations in results.items():
        for operation, found in operations.items():
            row = sums.setdefault((layer.partition("/")[0], operation), dict.fromkeys(found, 0.0))
            for name, r in found.items():
                row[name] += r["quartiles_ms"][1]
    names = list(next(iter(sums.values())))
    rows = [[*key, *(f"{row[name]:.3g}" for name in names)] for key, row in sums.items()]
    return table(["net", "operation, all its layers", *(f"{name}, ms" for name in names)], rows)


def main():
    parser = run_parser(__doc__, CONTENDERS, rounds=15, seconds=0.05, turn="a turn")
    parser.add_argument(
        "--layers", nargs="+", default=list(CASES), metavar="LAYER",
        help=f"nets ({', '.join(CASES)}) or layers, critic-32/D0; default: all",
    )  # fmt: skip
    options = run_options(parser)
    chosen = [layer for layer in LAYERS if {layer, layer.partition("/")[0]} & set(options.layers)]
    unknown = set(options.layers) - set(CASES) - set(LAYERS)
    if unknown:
        parser.error(f"--layers {' '.join(sorted(unknown))}: expected of {', '.join(LAYERS)}")
    set_threads(options.threads)
    if options.quick:
        options.rounds, options.seconds = 2, 0.001
    names = []
    for name in dict.fromkeys(["tinygan", *options.contenders]):
        package = CONTENDERS[name][1]
        if package == "tinygan" or version(package) is not None:
            names.append(name)
        else:
            print(f"SKIPPED: {name}, because {package} is not installed", flush=True)
    about = machine(options.threads)
    print("\n".join(f"- {key}: {value}" for key, value in about.items()), flush=True)

    rates, results = ceilings(options.threads), {}
    turns = options.rounds * len(names) * len(OPERATIONS) * len(chosen)
    with workers() as begin, tqdm(total=turns, unit="turn") as progress:
        ask = {name: begin(name, Worker, name, options.threads) for name in names}
        for layer in chosen:
            progress.set_description(layer)
            results[layer] = run_layer(layer, ask, options, progress)
    again = ceilings(options.threads)
    rates = {how: max(rates[how], again[how]) for how in again}

    worst = max(r["difference"] for o in results.values() for f in o.values() for r in f.values())
    print("- sgemm, 2048²: " + ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in rates.items()))
    print(f"- results differ by at most {worst:.0e} of their size")
    print(f"- {options.rounds} rounds, turns of {options.seconds:g} s\n")
    print(report(results, max(rates.values())))
    print()
    print(totals(results))
    if options.json:
        everything = {
            "machine": about,
            "threads": options.threads,
            "sgemm_gflops": rates,
            "flops": {layer: LAYERS[layer][0].flops(LAYERS[layer][1]) for layer in chosen},
            "layers": results,
        }
        Path(options.json).write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    sys.exit(main())
