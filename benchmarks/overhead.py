"""What tinygan adds to NumPy: microseconds per call, per recorded call and per step of the walk.

    python benchmarks/overhead.py               # about a minute
    python benchmarks/overhead.py --quick       # a smoke test

On 4×4 float32 arrays, where the arithmetic costs next to nothing; CPU time of one thread. Also:
long chains, whose time should grow in proportion, and a training loop, whose memory should not
grow. PyTorch and HIPS autograd do the same where they are installed. The tables are Markdown, on
standard output.
"""

import argparse
import gc
import sys
import tracemalloc
from contextlib import ExitStack
from time import process_time

import numpy as np
from step_peers import tinygan_step
from timing import interleave, machine, quartiles, resident, set_threads, table, version
from toys import TOYS
from tqdm import tqdm

import tinygan as tg
from tinygan import ops


def timed(f):
    """Seconds of this process's time, whatever else the machine does, that one call takes."""
    start = process_time()
    f()
    return process_time() - start


def microseconds(calls, rounds, seconds, bar):
    """Medians of interleaved rounds, in µs per call: {name: µs}."""

    def turn(call):
        one = timed(lambda: [call() for _ in range(20)]) / 20
        repeats = range(max(1, int(seconds / one)))

        def all_of_them():
            for _ in repeats:
                call()

        def taken():
            return timed(all_of_them) / len(repeats)

        return taken

    times = interleave({name: turn(call) for name, call in calls.items()}, rounds, bar.update)
    return {name: quartiles(found)[1] * 1e6 for name, found in times.items()}


def operations():
    """{op: {who: a call}} for ops on 4×4 arrays."""
    draw = np.random.default_rng(0).normal
    a, b = (draw(size=(4, 4)).astype(np.float32) for _ in range(2))
    x, flat = tg.track(a), (16,)
    calls = {
        "add": {"NumPy": lambda: a + b, "arrays": lambda: ops.add(a, b)},
        "multiply": {"NumPy": lambda: a * b, "arrays": lambda: ops.multiply(a, b)},
        "matmul": {"NumPy": lambda: a @ b, "arrays": lambda: ops.matmul(a, b)},
        "relu": {"NumPy": lambda: np.maximum(a, 0), "arrays": lambda: ops.relu(a)},
        "sum": {"NumPy": lambda: a.sum(), "arrays": lambda: ops.sum(a)},
        "reshape": {"NumPy": lambda: a.reshape(flat), "arrays": lambda: ops.reshape(a, shape=flat)},
    }
    for name, call in {
        "add": lambda: ops.add(x, b),
        "multiply": lambda: ops.multiply(x, b),
        "matmul": lambda: ops.matmul(x, b),
        "relu": lambda: ops.relu(x),
        "sum": lambda: ops.sum(x),
        "reshape": lambda: ops.reshape(x, shape=flat),
    }.items():
        calls[name]["recorded"] = call
    if version("torch"):
        import torch

        s, t = torch.tensor(a, requires_grad=True), torch.tensor(b)
        for name, call in {
            "add": lambda: s + t,
            "multiply": lambda: s * t,
            "matmul": lambda: s @ t,
            "relu": lambda: torch.relu(s),
            "sum": lambda: s.sum(),
            "reshape": lambda: s.reshape(flat),
        }.items():
            calls[name]["PyTorch"] = call
    if version("autograd"):
        import autograd.numpy as anp

        h = _box(a)
        for name, call in {
            "add": lambda: h + b,
            "multiply": lambda: h * b,
            "matmul": lambda: anp.matmul(h, b),
            "relu": lambda: anp.maximum(h, 0),
            "sum": lambda: anp.sum(h),
            "reshape": lambda: anp.reshape(h, flat),
        }.items():
            calls[name]["HIPS autograd"] = call
    return calls


def _box(a):
    """A value as HIPS autograd records it."""
    from autograd.core import VJPNode
    from autograd.tracer import new_box

    return new_box(a, 0, VJPNode.new_root())


def chain(n, x, multiply, b):
    """x·b·b·…·b, n times."""
    for _ in range(n):
        x = multiply(x, b)
    return x


def walks(n):
    """{library: {what: a call}} over a chain of n products."""
    a = np.full((4, 4), 0.5, np.float32)
    b = np.ones((4, 4), np.float32)
    x = tg.track(a)
    y = chain(n, x, ops.multiply, b)
    calls = {
        "NumPy": {"forward": lambda: chain(n, a, np.multiply, b)},
        "tinygan": {
            "forward": lambda: chain(n, x, ops.multiply, b),
            "gradient": lambda: tg.grad_values(y, x, b),
            "differentiable gradient": lambda: tg.grad(y, x, b),
            "the order of the walk": lambda: tg.tape([y], {id(x)}),
        },
    }
    if version("torch"):
        import torch

        s, t = torch.tensor(a, requires_grad=True), torch.tensor(b)
        z = chain(n, s, torch.mul, t)
        # With create_graph the root keeps what it made; a fresh chain keeps the memory flat.
        calls["PyTorch"] = {
            "forward": lambda: chain(n, s, torch.mul, t),
            "gradient": lambda: torch.autograd.grad(z, s, t, retain_graph=True),
            "differentiable gradient": lambda: torch.autograd.grad(z, s, t, create_graph=True),
        }
    if version("autograd"):
        import autograd.numpy as anp
        from autograd import make_vjp

        h = _box(a)
        back, _ = make_vjp(lambda v: chain(n, v, anp.multiply, b))(a)
        calls["HIPS autograd"] = {
            "forward": lambda: chain(n, h, anp.multiply, b),
            "gradient": lambda: back(b),
        }
    return calls


def lengths(sizes, rounds, bar):
    """{n: (ms to build a chain of n, ms of grad_values, ms of grad)}: medians."""
    b = np.ones((4, 4), np.float32)
    x = tg.track(b)

    def turn(n):
        def taken():
            built = []
            return (
                timed(lambda: built.append(chain(n, x, ops.multiply, b))),
                timed(lambda: tg.grad_values(built[0], x, b)),
                timed(lambda: tg.grad(built[0], x, b)),
            )

        return taken

    found = interleave({n: turn(n) for n in sizes}, rounds, bar.update)
    return {
        n: [quartiles(column)[1] * 1e3 for column in zip(*times, strict=True)]
        for n, times in found.items()
    }


def memory(steps, bar):
    """MiB after a tenth and after all of a training loop: the process's, and Python's own.

    The cycle collector is off: what a step leaves behind would stay. The second figure is
    what tracemalloc counts, in a loop of a tenth of the length.
    """
    case = TOYS["0-gp-64"]
    step = tinygan_step(case, case.batches(4), 1, ExitStack()).step

    def run(first, last, read):
        for i in range(first, last):
            step(i)
            bar.update()
        return read()

    gc.collect()
    gc.disable()
    try:
        early = run(0, steps // 10, resident)
        late = run(steps // 10, steps, resident)
        tracemalloc.start()
        counted = [
            run(0, steps // 100, tracemalloc.get_traced_memory)[0],
            run(steps // 100, steps // 10, tracemalloc.get_traced_memory)[0],
        ]
        tracemalloc.stop()
    finally:
        gc.enable()
    return early, late, [size / 2**20 for size in counted]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="few, short turns: a smoke test")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; expected at least 1")
    rounds, seconds, steps = options.rounds, 0.02, 10_000
    if options.quick:
        rounds, seconds, steps = 2, 0.002, 100
    set_threads(1)
    print("\n".join(f"- {key}: {value}" for key, value in machine(1).items()), flush=True)

    ops_calls, walk_calls, sizes = operations(), walks(1000), (5_000, 10_000, 20_000)
    total = rounds * (
        sum(map(len, ops_calls.values())) + sum(map(len, walk_calls.values())) + len(sizes)
    )
    with tqdm(total=total, unit="turn") as bar:
        per_op = {op: microseconds(c, rounds, seconds, bar) for op, c in ops_calls.items()}
        flat = {(who, what): f for who, calls in walk_calls.items() for what, f in calls.items()}
        per_node = {k: v / 1000 for k, v in microseconds(flat, rounds, seconds, bar).items()}
        long = lengths(sizes, rounds, bar)
    with tqdm(total=steps + steps // 10, unit="step") as bar:
        early, late, counted = memory(steps, bar)

    def cell(found, key):
        return f"{found[key]:.2f}" if key in found else "–"

    peers = [name for name in ("PyTorch", "HIPS autograd") if name in walk_calls]
    print("\nOne call on 4×4 float32, µs:\n")
    print(
        table(
            ["op", "NumPy", "tinygan on arrays", "tinygan, recorded", "recorded − NumPy", *peers],
            [
                [op, *(f"{us[k]:.2f}" for k in ("NumPy", "arrays", "recorded"))]
                + [f"{us['recorded'] - us['NumPy']:.2f}", *(cell(us, name) for name in peers)]
                for op, us in per_op.items()
            ],
        )
    )
    print("\nA chain of 1,000 products of 4×4, µs per node:\n")
    kinds = ("forward", "gradient", "differentiable gradient", "the order of the walk")
    print(
        table(
            ["library", *kinds],
            [[who, *(cell(per_node, (who, what)) for what in kinds)] for who in walk_calls],
        )
    )
    print("\nChains of products, ms (µs per node):\n")
    print(
        table(
            ["nodes", "forward", "`grad_values`", "`grad`"],
            [
                [f"{n:,}", *(f"{ms:.1f} ({ms / n * 1e3:.2f})" for ms in found)]
                for n, found in long.items()
            ],
        )
    )
    print(f"\nMemory of {steps:,} training iterations ({TOYS['0-gp-64'].title}), collector off:")
    if late is not None:
        print(f"- resident {early:.1f} MiB after {steps // 10:,}, {late:.1f} MiB after {steps:,}")
    print(
        f"- counted by tracemalloc {counted[0]:.3f} MiB after {steps // 100:,}, "
        f"{counted[1]:.3f} MiB after {steps // 10:,}"
    )


if __name__ == "__main__":
    sys.exit(main())
