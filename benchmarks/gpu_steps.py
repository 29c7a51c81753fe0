"""A part of gpu.py: training steps of nets.py in tinygan on CuPy, eager and as a CUDA graph, and in
PyTorch eager.

All contenders start from the same weights on the same batches, in one process. The losses of their
first steps are compared with those of tinygan on NumPy.
"""

from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from time import perf_counter
from types import SimpleNamespace

import numpy as np
from gpu_layers import PRECISIONS, WIDTH
from gpu_place import tf32
from nets import CASES
from step_peers import COMPARED, ITERATIONS, product_flops, tinygan_step, torch_step
from timing import cores, interleave, version

EMULATED = ("critic-32",)  # the nets that the emulator takes seconds for
TURN = 0.05  # seconds of a turn
CALLS = 20  # of which the host's time is the least


def step_rows(place, options, left):
    """A row for each net.

    Args:
        left: says how many seconds are left; what does not fit is reported as not reached.
    """
    builders, missing = contenders(place)
    if missing:
        yield {"note": f"SKIPPED: {missing}"}
    for net in EMULATED if options.emulate else options.nets:
        if left() < 0:
            yield {"note": f"NOT REACHED: {net} and later nets, for lack of time"}
            return
        case = _scaled(CASES[net]) if options.emulate else CASES[net]
        batches = case.batches(ITERATIONS)
        flops = sum(product_flops(case).values())
        exact = _losses(tinygan_step, nullcontext, case, batches)
        with ExitStack() as life:
            found = _compare(place, builders, case, batches, life)
            turns = {name: partial(_turn, place, one) for name, one in found.running.items()}
            if not place.emulated:
                times = interleave(turns, options.rounds)
                host = {name: _host(place, one) for name, one in found.running.items()}
            else:
                times, host = {}, {}
        yield {
            "net": net,
            "title": case.title,
            "flops": flops,
            "reference": exact,
            "losses": found.losses,
            "precisions": {name: precision for name, (precision, _, _) in builders.items()},
            "differences": {name: _differences(exact, of) for name, of in found.losses.items()},
            "failed": found.failed,
            "times": times,
            "host": host,
        }


def contenders(place):
    """{name: (precision, how to build it, its context)}, and what is skipped."""
    device = "cpu" if place.emulated else "gpu"
    found = {
        f"tinygan {precision}": (
            precision,
            partial(tinygan_step, device=device),
            partial(_ours, place, precision),
        )
        for precision in PRECISIONS
        if precision == "fp32" or not place.emulated
    }
    if not place.emulated:  # a graph is of CuPy's arrays
        found |= {
            f"{name}, compiled": (precision, partial(_graph, device=device), context)
            for name, (precision, _, context) in found.items()
        }
    if version("torch") is None:
        return found, "PyTorch is not installed"
    import torch

    torch.set_grad_enabled(True)
    if not place.emulated and not torch.cuda.is_available():
        return found, f"PyTorch {torch.__version__} finds no GPU"
    for last in (False, True):
        for on in (False,) if place.emulated else (False, True):
            layout = "channels-last" if last else "default layout"
            found[f"PyTorch {layout}, TF32 {'on' if on else 'off'}"] = (
                "tf32" if on else "fp32",
                partial(torch_step, channels_last=last, device="cpu" if place.emulated else "cuda"),
                partial(tf32, on),
            )
    return found, "PyTorch has no TF32 on a CPU" if place.emulated else None


@contextmanager
def _ours(place, precision):
    from tinygan import kernels

    with place.ours(), kernels.precision(precision):
        yield


def _graph(case, batches, threads, life, device):
    """The step as a CUDA graph.

    Raises: RuntimeError if it could not be captured, and runs line by line.
    """
    contender = tinygan_step(case, batches, threads, life, compiled=True, device=device)
    ((runs, *_),) = contender.profile()
    if runs != "launch":
        raise RuntimeError("the step is no CUDA graph; repr of the compiled step says why")
    return contender


def _compare(place, builders, case, batches, life):
    """Build the contenders and run their first steps: those that run, losses, failures."""
    found = SimpleNamespace(running={}, losses={}, failed={})
    for name, (_, build, context) in builders.items():
        try:
            with context():
                contender = build(case, batches, 1, life)
                found.losses[name] = _first(contender)
                place.wait()
            found.running[name] = SimpleNamespace(
                contender=contender, context=context, done=COMPARED
            )
        except RuntimeError as problem:
            found.failed[name] = str(problem).splitlines()[0]
    return found


def _first(contender):
    """{loss: its values over the first steps}."""
    steps = [contender.step(i) for i in range(COMPARED)]
    return {name: [float(step[name]) for step in steps] for name in steps[0]}


def _losses(build, context, case, batches):
    with ExitStack() as life, context():
        return _first(build(case, batches, min(8, cores()), life))


def _differences(exact, found):
    """{loss: the largest difference over the steps, of the loss's largest size}."""
    return {
        name: float(np.abs(np.subtract(found[name], values)).max() / max(map(abs, values)))
        for name, values in exact.items()
    }


def _turn(place, one):
    """Seconds per step: as many as take TURN, after one that does not count."""

    def step():
        one.contender.step(one.done)
        one.done += 1

    with one.context():
        single = place.steps(step, 1)
        return place.steps(step, max(1, round(TURN / single)))


def _host(place, one):
    """Seconds of the host per step, the least: until the call returns, not until it is done."""
    least = float("inf")
    with one.context():
        for _ in range(CALLS):
            place.wait()
            start = perf_counter()
            one.contender.step(one.done)
            least = min(least, perf_counter() - start)
            one.done += 1
    return least


def _scaled(case):
    """The case with a sixteenth of its channels and a batch of 2."""
    down, up = (tuple(max(1, n // WIDTH) for n in side) for side in (case.down, case.up))
    return replace(case, down=down, up=up, batch=2)
