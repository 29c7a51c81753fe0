"""Time three toy GAN steps in tinygan, PyTorch eager, jax.jit and HIPS autograd, side by side.

    python benchmarks/toy.py                    # everything that is installed; a few minutes
    python benchmarks/toy.py --quick            # a smoke test
    python benchmarks/toy.py --threads 1 --steps 0-gp-64 --json toy.json

All contenders start from the same weights and use the same batches and noise; their first
losses and weights must agree, or the run fails. Then they take turns, each in a process of its
own, in a new order each round, each turn the same number of iterations. The tables are Markdown,
on standard output.
"""

import importlib
import json
import math
import sys
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from peers import CASES, CONTENDERS, tinygan_eager
from timing import (
    forget_peak,
    import_seconds,
    interleave,
    machine,
    quartiles,
    resident,
    run_options,
    run_parser,
    set_threads,
    sgemm_rates,
    table,
    timed,
    version,
    workers,
)
from tqdm import tqdm

import tinygan as tg

ITERATIONS = 16  # different batches; they are used in rotation
# Iterations whose losses are compared. No more: where a gradient is zero but for rounding,
# Adam makes whole steps of the rounding, which no two libraries share.
COMPARED = 2
TOLERANCES = {"losses": 1e-3, "movement of the weights": 2e-2}
LEAD = 0.05  # seconds of untimed steps before each turn: caches, and others' threads, settle
YARDSTICK = "PyTorch eager"


def gemm_flops(case):
    """Floating-point operations of the matrix products in one iteration of tinygan's.

    Counted as it runs: 2·n·k·m for each product of n×k by k×m.
    """
    total = 0

    def see(op, args, params, out):
        nonlocal total
        if op is tg.ops.matmul:
            inner = args[0].shape[-2 if params.get("ta") else -1]
            total += 2 * out.size * inner
        elif op is tg.ops.affine:
            total += 2 * out.size * args[0].shape[-1]

    step = tinygan_eager(case, case.batches(1)).step
    with tg.observe(see):
        step(0)
    return total


class Worker:
    """One contender in a process of its own: what it does when asked."""

    def __init__(self, name, step):
        build, package, _ = CONTENDERS[name]
        case = CASES[step]
        batches = case.batches(ITERATIONS)
        if package:
            importlib.import_module(package)
        self.before = resident()
        forget_peak()
        start = perf_counter()
        self.contender = build(case, batches)
        self.weights = [_flat(self.contender.weights())]
        self.losses = [self.contender.step(0)]
        self.contender.finish()
        self.until_warm = perf_counter() - start
        self.losses += [self.contender.step(i) for i in range(1, COMPARED)]
        self.weights.append(_flat(self.contender.weights()))
        self.done = COMPARED

    def start(self):
        """Seconds to build it and run an iteration, compilation included; losses; movement."""
        losses = np.array([[float(loss) for loss in pair] for pair in self.losses])
        return self.until_warm, losses, self.weights[1] - self.weights[0]

    def turn(self, iterations, lead):
        """Seconds per iteration, after a lead of iterations that are not timed."""
        self._run(lead)
        return timed(lambda: self._run(iterations)) / iterations

    def _run(self, iterations):
        for i in range(self.done, self.done + iterations):
            self.contender.step(i)
        self.contender.finish()
        self.done += iterations

    def peak(self):
        """MiB that all this added to resident memory at most, beyond imports; or None."""
        peak = resident("VmHWM")
        return None if peak is None else peak - self.before


def _flat(sides):
    return np.concatenate([a.ravel() for side in sides for layer in side for a in layer])


def compare(title, losses, moves):
    """How far each contender is from the first, {name: (losses, movement)}; an error if too far.

    A loss's difference is relative to its largest size over the iterations; the movement's is
    ‖Δw − Δw₁‖/‖Δw₁‖ over all parameters w.
    """
    first, differences = next(iter(losses)), {}
    scale, length = np.abs(losses[first]).max(0), np.linalg.norm(moves[first])
    for name in losses:
        differences[name] = (
            float((np.abs(losses[name] - losses[first]) / scale).max()),
            float(np.linalg.norm(moves[name] - moves[first]) / length),
        )
        for (what, limit), found in zip(TOLERANCES.items(), differences[name], strict=True):
            if not found <= limit:
                raise SystemExit(
                    f"toy.py: {title}: within {COMPARED} iterations the {what} of {name} and "
                    f"{first} differ by {found:.1e} of their size (limit {limit:g}): they do not "
                    "do the same work, and no time is worth comparing"
                )
    return differences


def run_case(step, names, rounds, seconds, progress):
    """Compare and time one step: {name: results}."""
    ask, until_warm, losses, moves = {}, {}, {}, {}
    with workers() as begin:
        for name in names:  # one after the other: a start is timed
            ask[name] = begin(f"{name} on {step}", Worker, name, step)
            until_warm[name], losses[name], moves[name] = ask[name]("start")
        differences = compare(CASES[step].title, losses, moves)
        one = min(ask[names[0]]("turn", 1, 1) for _ in range(5))
        iterations, lead = max(1, round(seconds / one)), math.ceil(LEAD / one)
        turns = {name: partial(ask[name], "turn", iterations, lead) for name in names}
        times = interleave(turns, rounds, progress.update)
        peaks = {name: ask[name]("peak") for name in names}
    results = {}
    for name in names:
        low, middle, high = quartiles(times[name])
        results[name] = {
            "seconds": times[name],
            "iterations_per_turn": iterations,
            "median_ms": middle * 1e3,
            "quartiles_ms": (low * 1e3, high * 1e3),
            "until_warm_s": until_warm[name],
            "peak_mib": peaks[name],
            "loss_difference": differences[name][0],
            "movement_difference": differences[name][1],
        }
        if YARDSTICK in times:
            ratios = [a / b for a, b in zip(times[name], times[YARDSTICK], strict=True)]
            results[name]["ratio"] = quartiles(ratios)
    return results


def report(results, flops, ceilings):
    """The main table."""
    top = max(ceilings.values())
    rows = []
    for step in results:
        floor = flops[step] / top / 1e6
        for name, r in results[step].items():
            low, high = r["quartiles_ms"]
            rows.append([
                CASES[step].title,
                name,
                f"{r['median_ms']:.3g}",
                f"{low:.3g}–{high:.3g}",
                "{1:.2f} ({0:.2f}–{2:.2f})".format(*r["ratio"]) if "ratio" in r else "–",
                f"{floor / r['median_ms']:.0%}",
                f"{r['until_warm_s']:.2g}",
                "–" if r["peak_mib"] is None else f"{r['peak_mib']:.0f}",
                f"{r['loss_difference']:.0e}, {r['movement_difference']:.0e}",
            ])  # fmt: skip
    header = [
        "step", "contender", "ms, median", "quartiles", "ratio to PyTorch eager (quartiles)",
        "floor/time", "s until warm", "peak MiB", "losses, movement differ by",
    ]  # fmt: skip
    return table(header, rows)


def main():
    parser = run_parser(__doc__, CONTENDERS, rounds=21, seconds=0.3, turn="a tinygan turn")
    parser.add_argument("--steps", nargs="+", choices=CASES, default=list(CASES))
    options = run_options(parser)
    set_threads(options.threads)
    rounds, seconds, repeats = options.rounds, options.seconds, 7
    if options.quick:
        rounds, seconds, repeats = 2, 0.03, 1

    names = []
    for name in dict.fromkeys(["tinygan", *options.contenders]):
        package = CONTENDERS[name][1]
        if package is None or version(package) is not None:
            names.append(name)
        else:
            print(f"SKIPPED: {name}, because {package} is not installed", flush=True)
    about = machine(options.threads)
    print("\n".join(f"- {key}: {value}" for key, value in about.items()), flush=True)

    ceilings, results, flops, imports = sgemm_rates(), {}, {}, {}
    with tqdm(total=rounds * len(names) * len(options.steps), unit="turn") as progress:
        for step in options.steps:
            progress.set_description(step)
            flops[step] = gemm_flops(CASES[step])
            results[step] = run_case(step, names, rounds, seconds, progress)
            again = sgemm_rates()
            ceilings = {library: max(ceilings[library], again[library]) for library in again}
    modules = ["numpy", *(CONTENDERS[name][2] for name in names if CONTENDERS[name][2])]
    for module in tqdm(modules, desc="imports", unit="module"):
        imports[module] = import_seconds(module, repeats)

    print("- sgemm, 2048²: " + ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in ceilings.items()))
    for step in options.steps:
        floor = flops[step] / max(ceilings.values()) / 1e6
        print(
            f"- {step}: {flops[step] / 1e9:.4g} GFLOP in matrix products per iteration, a floor of "
            f"{floor:.3g} ms"
        )
    print(f"- {rounds} rounds, turns of {seconds:g} s of tinygan\n")
    print(report(results, flops, ceilings))
    print()
    print(
        table(
            ["import", "ms beyond `import numpy`, median", "quartiles"],
            [
                [f"`{m}`" + (" itself" if m == "numpy" else "")]
                + ["{1:.0f}".format(*q), "{0:.0f}–{2:.0f}".format(*q)]
                for m, q in ((m, quartiles([1e3 * s for s in imports[m]])) for m in modules)
            ],
        )
    )
    if options.json:
        everything = {
            "machine": about,
            "threads": options.threads,
            "sgemm_gflops": ceilings,
            "gemm_flops": flops,
            "steps": results,
            "import_seconds": imports,
        }
        Path(options.json).write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    sys.exit(main())
