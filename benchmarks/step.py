"""Time six GAN training steps in tinygan, eager and compiled, beside PyTorch, JAX and others.

    python benchmarks/step.py                   # everything that is installed; many minutes
    python benchmarks/step.py --quick           # a smoke test
    python benchmarks/step.py --steps 0-gp-64 critic-32 --threads 1 --json step.json
    python benchmarks/step.py --read step.json --chart step.png     # nothing is timed
    python benchmarks/step.py --steady 10000    # memory over many steps of the compiled ones
    python benchmarks/step.py --where           # what the time of a compiled step goes to

All contenders start from the same weights and use the same batches; the losses and the weights of
their first iterations must agree, or the run fails. Then they take turns, each in a process of its
own, in a new order each round, each turn the same number of iterations. The tables are Markdown, on
standard output.
"""

import gc
import importlib
import json
import os
import sys
import tracemalloc
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import step_report
from nets import CASES as NETS
from step_peers import (
    COMPARED,
    COMPILED,
    CONTENDERS,
    EAGER,
    ITERATIONS,
    TORCH,
    TUNED,
    product_flops,
)
from timing import (
    ceilings,
    forget_peak,
    import_seconds,
    interleave,
    machine,
    quartiles,
    resident,
    run_options,
    run_parser,
    set_threads,
    timed,
    version,
    workers,
)
from toys import TOYS
from tqdm import tqdm

CASES = {**TOYS, **NETS}
YARDSTICKS = (TORCH, TUNED)
LEAD = 0.1  # seconds of untimed steps before each turn: caches, and others' threads, settle
LOSSES_AGREE = 1e-3  # of a loss's largest size over the compared iterations
# Of the norm of the weights' movement. Rounding puts a point on the other side of a kink of ReLU
# now and then, which moves a gradient by some 1e-3, and Adam makes whole steps of what is left of
# gradients near zero. So the second step's losses are the sharper test where Adam is.
WEIGHTS_AGREE, WEIGHTS_AGREE_ADAM = 1e-4, 1e-1
STEADY = {"0-gp-64": 1, "critic-32": 50}  # an N-th of the steps asked for
MODULES = ("numpy", "tinygan", "torch", "jax", "autograd.numpy")


class Worker:
    """One contender in a process of its own: what it does when asked."""

    def __init__(self, name, case, threads):
        self.entry, self.case, self.threads = CONTENDERS[name], case, threads
        importlib.import_module(self.entry.package)
        self.before = resident()
        forget_peak()
        self.life = ExitStack()

    def start(self):
        """Build it and run the compared iterations.

        Returns {"until_warm_s": seconds to build it and run an iteration, compilation included,
        "losses": {name: values}, "movement": of all weights}; or {"failed": why}.
        """
        start = perf_counter()
        try:
            self.contender = self.entry.build(
                self.case, self.case.batches(ITERATIONS), self.threads, self.life
            )
            weights, losses = [_flat(self.contender.weights())], [self.contender.step(0)]
        except Exception as error:
            if not self.entry.may_fail:
                raise
            first, *_ = str(error).splitlines() or [""]
            return {"failed": f"{type(error).__name__}: {first}"}
        self.contender.finish()
        until_warm = perf_counter() - start
        losses += [self.contender.step(i) for i in range(1, COMPARED)]
        weights.append(_flat(self.contender.weights()))
        self.done = COMPARED
        return {
            "until_warm_s": until_warm,
            "losses": {name: [float(step[name]) for step in losses] for name in losses[0]},
            "movement": weights[1] - weights[0],
        }

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

    def steady(self, steps):
        """What many steps do to memory, the cycle collector off: what a step leaves would stay.

        Resident MiB before and after; then, over a tenth of the steps, bytes that Python and NumPy
        hold before and after, and the most that one step asked for beyond what was held before it.
        """
        self._run(10)
        traced = max(1, steps // 10)
        asked = np.zeros(traced, np.int64)
        gc.collect()
        gc.disable()
        early = resident()
        self._run(steps)
        late = resident()
        tracemalloc.start()
        self._run(3)  # what is alive has now been allocated under its eyes
        first = tracemalloc.get_traced_memory()[0]
        for i in range(traced):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            self._run(1)
            asked[i] = tracemalloc.get_traced_memory()[1] - before
        last = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        gc.enable()
        return {
            "steps": steps,
            "resident_mib": (early, late),
            "traced_steps": traced,
            "traced_bytes": (first, last),
            "asked_bytes": (int(np.median(asked)), int(asked.max())),
        }

    def where(self):
        """(seconds of a step, [(function, how many calls, seconds of all of them)])."""
        steps = max(1, round(0.3 / self.turn(1, LEAD)))
        return min(self.turn(steps, 0) for _ in range(3)), self.contender.profile()


def _flat(sides):
    """All weights as one array, but for biases before a batch norm: it takes them out again, so
    that their gradient is nothing but rounding."""
    return np.concatenate([
        np.ravel(layer[name])
        for side in sides
        for layer in side
        for name in sorted(layer)
        if name != "bias" or "scale" not in layer
    ])  # fmt: skip


def compare(title, found, adam):
    """{name: (losses, movement)}: how far each is from the first; an error if one is too far.

    Args:
        found: {name: {"losses": {loss: values}, "movement": of the weights}}.
    """
    (first, reference), *_ = found.items()
    length = np.linalg.norm(reference["movement"])
    differences = {}
    for name, one in found.items():
        losses = max(
            float(np.abs(np.subtract(one["losses"][loss], values)).max() / max(map(abs, values)))
            for loss, values in reference["losses"].items()
        )
        moved = float(np.linalg.norm(one["movement"] - reference["movement"]) / length)
        differences[name] = losses, moved
        for what, far, limit in (
            ("losses", losses, LOSSES_AGREE),
            ("movement of the weights", moved, WEIGHTS_AGREE_ADAM if adam else WEIGHTS_AGREE),
        ):
            if not far <= limit:
                raise SystemExit(
                    f"step.py: {title}: within {COMPARED} iterations the {what} of {name} and "
                    f"{first} differ by {far:.1e} of their size (limit {limit:g}): they do not do "
                    f"the same work, and no time is worth comparing. Losses: {one['losses']} and "
                    f"{reference['losses']}"
                )
    return differences


def run_case(case, names, threads, rounds, seconds, progress):
    """Compare and time one case: {name: results}."""
    ask, found, results = {}, {}, {}
    with workers() as begin:
        for name in names:  # one after the other: a start is timed
            ask[name] = begin(f"{name} on {case.title}", Worker, name, case, threads)
            found[name] = ask[name]("start")
            if "failed" in found[name]:
                results[name] = found.pop(name)
        names = list(found)
        differences = compare(case.title, found, case.betas)
        one = min(ask[names[0]]("turn", 1, 0) for _ in range(3))
        steps, lead = max(1, round(seconds / one)), min(LEAD, seconds)
        turns = {name: partial(ask[name], "turn", steps, lead) for name in names}
        times = interleave(turns, rounds, progress.update)
        memory = {name: ask[name]("memory") for name in names}
    for name in names:
        results[name] = {
            "seconds": times[name],
            "steps_per_turn": steps,
            "quartiles_ms": [s * 1e3 for s in quartiles(times[name])],
            "ratios": {
                to: quartiles([a / b for a, b in zip(times[name], times[to], strict=True)])
                for to in YARDSTICKS
                if to in times
            },
            "until_warm_s": found[name]["until_warm_s"],
            "memory_mib": memory[name],
            "losses": found[name]["losses"],
            "differences": differences[name],
        }
    return results


def run_one(name, case, threads, method, *arguments):
    """What one method of a contender gives, alone in a fresh process."""
    with workers() as begin:
        ask = begin(f"{name} on {case.title}", Worker, name, case, threads)
        ask("start")
        return ask(method, *arguments)


def installed(names, first=EAGER):
    """The contenders whose packages are there, ``first`` anyway; says which are skipped."""
    found = []
    for name in dict.fromkeys([first, *names]):
        package = CONTENDERS[name].package
        if package == "tinygan" or version(package) is not None:
            found.append(name)
        else:
            print(f"SKIPPED: {name}, because {package} is not installed", flush=True)
    return found


def contenders(name, names):
    """Those of ``names`` that have the step called ``name``."""
    return [n for n in names if name in TOYS or CONTENDERS[n].convolutions]


def run_all(options, names, figures):
    """Time every step; the file of --json is written after each."""
    threads = options.threads
    rates, steps = figures["sgemm_gflops"], figures["steps"] = ceilings(threads), {}
    turns = sum(len(contenders(step, names)) for step in options.steps) * options.rounds
    with tqdm(total=turns, unit="turn") as progress:
        for step in options.steps:
            progress.set_description(step)
            case, who = CASES[step], contenders(step, names)
            steps[step] = {
                "title": case.title,
                "flops": product_flops(case),
                "contenders": run_case(
                    case, who, threads, options.rounds, options.seconds, progress
                ),
            }
            rates.update({how: max(rates[how], rate) for how, rate in ceilings(threads).items()})
            write(figures, options.json)


def write(figures, path):
    """The figures as JSON, if that was asked for."""
    if path:
        Path(path).write_text(json.dumps(figures, indent=1))


def run_imports(repeats):
    """{module: seconds of some fresh interpreters}, of those that are installed."""
    packages = [m for m in MODULES if version(m.partition(".")[0]) is not None]
    return {m: import_seconds(m, repeats) for m in tqdm(packages, desc="imports", unit="module")}


def steady(options):
    """The table of --steady."""
    found = {}
    steps = [step for step in options.steps if step in STEADY] or list(STEADY)
    for step in steps:
        for name in (COMPILED, EAGER):
            count = max(10, options.steady // STEADY[step])
            found[step, name] = run_one(name, CASES[step], options.threads, "steady", count)
            print(f"- {step}, {name}: {count} steps done", file=sys.stderr, flush=True)
    return step_report.steady(found)


def main():
    parser = run_parser(__doc__, CONTENDERS, rounds=15, seconds=0.3, turn="a turn of tinygan eager")
    add = parser.add_argument
    add("--steps", nargs="+", choices=CASES, default=list(CASES))
    add("--imports", action="store_true", help="also time the libraries' imports")
    add("--chart", metavar="FILE", help="draw the figures")
    add("--read", metavar="FILE", help="show the figures of an earlier --json, and time nothing")
    add("--steady", metavar="N", type=int, help="only: memory over N steps of the compiled toy")
    add("--where", action="store_true", help="only: what compiled steps spend their time on")
    options = run_options(parser)
    if options.steady is not None and options.steady < 1:
        parser.error(f"--steady is {options.steady}; expected at least 1")
    if options.read:
        figures = json.loads(Path(options.read).read_text())
    else:
        set_threads(options.threads)
        if options.quick:
            options.rounds, options.seconds = 2, 0.01
        names, about = installed(options.contenders), machine(options.threads)
        print("\n".join(f"- {key}: {value}" for key, value in about.items()), flush=True)
        if options.steady is not None:
            return print(steady(options))
        if options.where:
            found = {
                step: run_one(COMPILED, CASES[step], options.threads, "where")
                for step in options.steps
            }
            return print(step_report.where(found))
        figures = {"machine": about, "threads": options.threads}
        run_all(options, names, figures)
        if options.imports:
            figures["import_seconds"] = run_imports(1 if options.quick else 7)
            write(figures, options.json)
        print(f"- {options.rounds} rounds, turns of {options.seconds:g} s of tinygan eager")
    print(step_report.text(figures))
    if options.chart:
        step_report.chart(figures, options.chart)


if __name__ == "__main__":
    with TemporaryDirectory() as compiled:  # what torch.compile writes: none is found there
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", compiled)
        sys.exit(main())
