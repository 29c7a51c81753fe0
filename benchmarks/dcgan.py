"""Time steps of three convolutional GANs in tinygan, PyTorch eager and jax.jit, side by side.

    python benchmarks/dcgan.py                  # everything that is installed; some minutes
    python benchmarks/dcgan.py --quick          # a smoke test
    python benchmarks/dcgan.py --nets critic-32 --threads 1 --memory --json dcgan.json

All contenders start from the same weights and use the same batches; the losses of their first
steps must agree, or the run fails. Then they take turns, each in a process of its own, in a new
order each round, each turn the same number of steps. The tables are Markdown, on standard output.
"""

import importlib
import json
import math
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from dcgan_peers import CONTENDERS, TORCH, TORCH_LAST, tinygan_step
from nets import CASES
from timing import (
    ceilings,
    forget_peak,
    interleave,
    machine,
    quartiles,
    resident,
    run_options,
    run_parser,
    set_threads,
    table,
    timed,
    version,
    workers,
)
from tqdm import tqdm

ITERATIONS = 4  # different batches; they are used in rotation
COMPARED = 2  # steps whose losses are compared; in later ones Adam enlarges rounding
TOLERANCE = 1e-3
LEAD = 0.1  # seconds of untimed steps before each turn: caches, and others' threads, settle
MEMORY_STEPS = 12  # of which the peak of memory is taken
YARDSTICKS = (TORCH, TORCH_LAST)


def product_flops(case):
    """Operations in the products of one step of tinygan's: {kind: number}.

    Counted as it runs. A convolution with N·P·Q grid points and weights 4×4×C×O, its transpose and
    its weight gradient all have 2·N·P·Q·16·C·O; a product of n×k by k×m has 2·n·k·m.
    """
    import tinygan as tg
    from tinygan import conv, ops

    found = {"convolutions": 0, "transposed": 0, "weight gradients": 0, "others": 0}

    def see(op, args, params, out):
        if op is conv.conv2d:
            found["convolutions"] += 2 * out.size * math.prod(args[1].shape[:3])
        elif op is conv.conv2d_transpose:
            found["transposed"] += 2 * args[0].size * math.prod(args[1].shape[:3])
        elif op is conv.conv2d_weight_grad:
            found["weight gradients"] += 2 * args[1].size * math.prod(out.shape[:3])
        elif op is ops.matmul:
            inner = args[0].shape[-2 if params.get("ta") else -1]
            found["others"] += 2 * out.size * inner
        elif op is ops.affine:
            found["others"] += 2 * out.size * args[0].shape[-1]

    with ExitStack() as life:
        step = tinygan_step(case, case.batches(1), 1, life).step
        with tg.observe(see):
            step(0)
    return found


class Worker:
    """One contender in a process of its own: what it does when asked."""

    def __init__(self, name, net, threads):
        build, package = CONTENDERS[name]
        importlib.import_module(package)
        self.before = resident()
        forget_peak()
        case, self.life = CASES[net], ExitStack()
        start = perf_counter()
        self.contender = build(case, case.batches(ITERATIONS), threads, self.life)
        self.losses = [self.contender.step(0)]
        self.contender.finish()
        self.until_warm = perf_counter() - start
        self.losses += [self.contender.step(i) for i in range(1, COMPARED)]
        self.done = COMPARED

    def start(self):
        """Seconds to build it and run a step, compilation included; the losses by their names."""
        names = self.losses[0]
        return self.until_warm, {k: [float(step[k]) for step in self.losses] for k in names}

    def turn(self, steps, lead):
        """Seconds per step, after a lead of some seconds, a step at least, that are not timed."""
        start = perf_counter()
        self._run(1)
        while perf_counter() - start < lead:
            self._run(1)
        return timed(lambda: self._run(steps)) / steps

    def _run(self, steps):
        for i in range(self.done, self.done + steps):
            self.contender.step(i)
        self.contender.finish()
        self.done += steps

    def memory(self):
        """MiB resident after the imports, and at the peak; None where the system does not say."""
        return self.before, resident("VmHWM")


def compare(net, losses):
    """{name: {loss: relative difference from the first contender}}; an error if one is too large.

    A difference is relative to the loss's largest size over the steps.
    """
    first, differences = next(iter(losses)), {}
    for name, found in losses.items():
        differences[name] = {}
        for loss, values in losses[first].items():
            scale = max(map(abs, values))
            found_here = float(np.abs(np.subtract(found[loss], values)).max() / scale)
            differences[name][loss] = found_here
            if not found_here <= TOLERANCE:
                raise SystemExit(
                    f"dcgan.py: {net}: within {COMPARED} steps the {loss} losses of {name} "
                    f"{found[loss]} and {first} {values} differ by {found_here:.1e} of their size "
                    f"(limit {TOLERANCE:g}): they do not do the same work, and no time is worth "
                    "comparing"
                )
    return differences


def run_case(net, names, options, progress):
    """Compare and time one net: {name: results}."""
    ask, until_warm, losses = {}, {}, {}
    with workers() as begin:
        for name in names:  # one after the other: a start is timed
            ask[name] = begin(f"{name} on {net}", Worker, name, net, options.threads)
            until_warm[name], losses[name] = ask[name]("start")
        differences = compare(net, losses)
        one = min(ask[names[0]]("turn", 1, 0) for _ in range(3))
        steps, lead = max(1, round(options.seconds / one)), min(LEAD, options.seconds)
        turns = {name: partial(ask[name], "turn", steps, lead) for name in names}
        times = interleave(turns, options.rounds, progress.update)
    results = {}
    for name in names:
        low, middle, high = quartiles(times[name])
        results[name] = {
            "seconds": times[name],
            "steps_per_turn": steps,
            "median_ms": middle * 1e3,
            "quartiles_ms": (low * 1e3, high * 1e3),
            "until_warm_s": until_warm[name],
            "losses": losses[name],
            "differences": differences[name],
            "ratios": {
                to: quartiles([a / b for a, b in zip(times[name], times[to], strict=True)])
                for to in YARDSTICKS
                if to in times
            },
        }
    return results


def run_memory(net, name, threads):
    """MiB after imports and at the peak of some steps, in a fresh process with nothing beside."""
    with workers() as begin:
        ask = begin(f"{name} on {net}", Worker, name, net, threads)
        ask("turn", MEMORY_STEPS, 0)
        return ask("memory")


def time_table(results, floors):
    """A row for each net and contender."""
    rows = []
    for net in results:
        for name, r in results[net].items():
            low, high = r["quartiles_ms"]
            ratios = ["{1:.2f} ({0:.2f}–{2:.2f})".format(*q) for q in r["ratios"].values()]
            rows.append([
                net,
                name,
                f"{r['median_ms']:.4g} ({low:.4g}–{high:.4g})",
                *ratios,
                f"{floors[net] / r['median_ms']:.0%}",
                f"{r['until_warm_s']:.2g}",
            ])  # fmt: skip
    to = [f"ratio to {name}" for name in next(iter(results[net].values()))["ratios"]]
    return table(["net", "contender", "ms per step", *to, "floor/time", "s until warm"], rows)


def loss_table(results):
    """The losses of the compared steps, and how far they are from the first contender's."""
    rows = []
    for net in results:
        for name, r in results[net].items():
            for loss, values in r["losses"].items():
                shown = ", ".join(f"{v:.7g}" for v in values)
                rows.append([net, name, loss, shown, f"{r['differences'][loss]:.0e}"])
    return table(["net", "contender", "loss", f"first {COMPARED} steps", "differs by"], rows)


def memory_table(memory):
    """MiB, a row for each net and contender."""
    rows = []
    for net in memory:
        for name, (before, peak) in memory[net].items():
            if before is None or peak is None:
                rows.append([net, name, "–", "–", "–"])
            else:
                rows.append([net, name, f"{before:.0f}", f"{peak - before:.0f}", f"{peak:.0f}"])
    return table(["net", "contender", "MiB after imports", "peak beyond", "peak in total"], rows)


def installed(names):
    """The contenders whose packages are there; the output says which are skipped."""
    found = []
    for name in dict.fromkeys(["tinygan", *names]):
        package = CONTENDERS[name][1]
        if package == "tinygan" or version(package) is not None:
            found.append(name)
        else:
            print(f"SKIPPED: {name}, because {package} is not installed", flush=True)
    return found


def main():
    parser = run_parser(__doc__, CONTENDERS, rounds=15, seconds=0.5, turn="a tinygan turn")
    parser.add_argument("--nets", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--memory", action="store_true", help="also measure peak memory")
    options = run_options(parser)
    set_threads(options.threads)
    if options.quick:
        options.rounds, options.seconds = 2, 0.01
    names, about = installed(options.contenders), machine(options.threads)
    print("\n".join(f"- {key}: {value}" for key, value in about.items()), flush=True)

    rates, results, flops, memory = ceilings(options.threads), {}, {}, {}
    with tqdm(total=options.rounds * len(names) * len(options.nets), unit="turn") as progress:
        for net in options.nets:
            progress.set_description(net)
            flops[net] = product_flops(CASES[net])
            results[net] = run_case(net, names, options, progress)
            again = ceilings(options.threads)
            rates = {how: max(rates[how], again[how]) for how in again}
    if options.memory:
        for net in tqdm(options.nets, desc="memory", unit="net"):
            memory[net] = {name: run_memory(net, name, options.threads) for name in names}

    floors = {net: sum(flops[net].values()) / max(rates.values()) / 1e6 for net in flops}
    print("- sgemm, 2048²: " + ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in rates.items()))
    for net in options.nets:
        parts = ", ".join(f"{k} {v / 1e9:.4g}" for k, v in flops[net].items() if v)
        print(
            f"- {CASES[net].title}: {sum(flops[net].values()) / 1e9:.4g} GFLOP ({parts}) per step, "
            f"a floor of {floors[net]:.3g} ms"
        )
    print(f"- {options.rounds} rounds, turns of {options.seconds:g} s of tinygan\n")
    print(time_table(results, floors))
    print()
    print(loss_table(results))
    if options.memory:
        print()
        print(memory_table(memory))
    if options.json:
        everything = {
            "machine": about,
            "threads": options.threads,
            "sgemm_gflops": rates,
            "flops": flops,
            "nets": results,
            "memory_mib": memory,
        }
        Path(options.json).write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    sys.exit(main())
