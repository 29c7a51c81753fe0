"""What the benchmarks share: threads, a description of the machine, interleaved rounds."""

import argparse
import gc
import importlib.metadata
import os
import platform
import random
import statistics
import subprocess
import sys
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

# Variables that change which kernels or how many threads the libraries use.
PREFIXES = (
    "ATEN_", "BLIS_", "GLIBC_TUNABLES", "GOMP_", "JAX_", "MALLOC_", "MKL_", "NPROC", "NPY_", "OMP_",
    "ONEDNN_", "OPENBLAS_", "VECLIB_", "XLA_",
)  # fmt: skip

ENVIRONMENT = ", ".join(  # as it was at the start: some libraries add to it when imported
    f"{key}={value}" for key, value in sorted(os.environ.items()) if key.startswith(PREFIXES)
)


def cores():
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_parser(description, contenders, rounds, seconds, turn):
    """A parser of the options that every script of turns has; these are their defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--threads", type=int, default=cores(), help="default: all cores")
    add("--contenders", nargs="+", choices=contenders, default=list(contenders))
    add("--rounds", type=int, default=rounds)
    add("--seconds", type=float, default=seconds, help=f"length of {turn}")
    add("--quick", action="store_true", help="few, short turns: a smoke test")
    add("--json", metavar="FILE", help="write all figures and every turn's time")
    return parser


def run_options(parser):
    """The options, checked before any work."""
    options = parser.parse_args()
    for name in ("threads", "rounds", "seconds"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} is {getattr(options, name)}; expected a number above 0")
    if options.threads > cores():
        parser.error(f"--threads is {options.threads}; this process may use {cores()} cores")
    if options.json and not os.access(Path(options.json).absolute().parent, os.W_OK):
        parser.error(f"--json {options.json}: its folder does not exist or cannot be written")
    return options


def set_threads(n):
    """Give every library n threads; call it before PyTorch and JAX are imported.

    Where the system allows it the process is bound to n cores: XLA has no other setting that
    holds for all its threads. Processes started later inherit all this.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n])
    os.environ.update(OMP_NUM_THREADS=str(n), OPENBLAS_NUM_THREADS=str(n), NPROC=str(n))
    if n == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    threadpool_limits(n)


def version(package):
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine(threads):
    """What a reader needs to know to judge the figures: a dict of strings, ready to print."""
    blas = [
        f"{lib['internal_api']} {lib['version']}, {lib.get('architecture', 'unknown')} kernels, "
        f"threads: {lib['num_threads']}"
        for lib in threadpool_info()
        if lib["user_api"] == "blas"
    ]
    # Without a pool of its own that threadpoolctl knows (Apple's Accelerate): what NumPy says.
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    bound = ", and every process is bound to as many cores"
    found = {
        "CPU": _cpu_name(),
        "cores": f"{os.cpu_count()}, {threads} used",
        "threads": f"{threads} asked for{bound if hasattr(os, 'sched_setaffinity') else ''}",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "NumPy": f"{np.__version__}, {'; '.join(blas) or built['name']}",
        "PyTorch": _torch(),
        "JAX": version("jax") or "not installed",
        "HIPS autograd": version("autograd") or "not installed",
        "environment": ENVIRONMENT or "no variable that restricts kernels or threads is set",
    }
    share = busy()
    if share is not None:
        found["other processes"] = f"they kept the cores {share:.0%} busy just before the run"
        if share > 0.05:
            found["WARNING"] = (
                "the machine is not quiet; threads that wait for a core slow all down"
            )
    return found


def busy(seconds=1.0):
    """The share of all cores' time that is in use, over some seconds; None if unknown."""

    def times():
        numbers = [int(n) for n in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
        return sum(numbers), numbers[3] + numbers[4]  # all, idle

    with suppress(OSError, ValueError):
        all_before, idle_before = times()
        sleep(seconds)
        all_after, idle_after = times()
        return 1 - (idle_after - idle_before) / (all_after - all_before)
    return None


def _cpu_name():
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _torch():
    if version("torch") is None:
        return "not installed"
    import torch

    shown = torch.__config__.show().splitlines()
    mkl = [line.strip(" -").partition(" for ")[0] for line in shown if "Math Kernel" in line]
    return (
        f"{torch.__version__}, {mkl[0] if mkl else 'without MKL'}, "
        f"capability {torch.backends.cpu.get_cpu_capability()}, "
        f"threads: {torch.get_num_threads()}"
    )


def sgemm_rates(n=2048, repeats=6):
    """GFLOP/s of an n×n float32 matrix product in NumPy, PyTorch and JAX: the best of some."""
    a = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
    products = {"NumPy": lambda: a @ a}
    if version("torch") is not None:
        import torch

        b = torch.from_numpy(a)
        products["PyTorch"] = lambda: b @ b
    if version("jax") is not None:
        import jax.numpy as jnp

        c = jnp.asarray(a)
        products["JAX"] = lambda: (c @ c).block_until_ready()
    best = {}
    for _ in range(repeats):
        for name, product in products.items():
            best[name] = min(timed(product), best.get(name, float("inf")))
    return {name: 2 * n**3 / seconds / 1e9 for name, seconds in best.items()}


def split_sgemm_rate(threads, n=2048, repeats=6):
    """GFLOP/s of an n×n product in tinygan's threads: rows apart, a BLAS of one thread in each."""
    import tinygan
    from tinygan.parallel import split

    a = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
    y = np.empty_like(a)

    def part(i, j):
        np.matmul(a[i:j], a, out=y[i:j])

    with tinygan.threads(threads):
        best = min(timed(lambda: split(n, part, True)) for _ in range(repeats))
    return 2 * n**3 / best / 1e9


def ceilings(threads):
    """:func:`sgemm_rates`, and NumPy's with the product split over as many Python threads."""
    return {**sgemm_rates(), "NumPy, split": split_sgemm_rate(threads)}


def timed(f):
    """How many seconds one call takes."""
    start = perf_counter()
    f()
    return perf_counter() - start


def interleave(turns, rounds, after=lambda: None):
    """Call every turn once a round, in a new order each round: {name: [result of each round]}.

    The orders are random from a fixed seed, so that no turn always follows the same other one.
    The cycle collector stays on, but does not walk what was alive before.
    """
    gc.collect()
    gc.freeze()
    order, shuffle = list(turns), random.Random(0).shuffle
    results = {name: [] for name in turns}
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            results[name].append(turns[name]())
            after()
    return results


@contextmanager
def workers():
    """A function that starts a worker in a process of its own: ``begin(title, start, *arguments)``.

    It returns ``ask(method, *arguments)``, which calls a method of what ``start(*arguments)`` made
    there. If that fails, the run ends with the title.
    """
    spawn, started = get_context("spawn"), []

    def begin(title, start, *arguments):
        pipe, theirs = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(theirs, start, arguments), daemon=True)
        started.append((process, pipe))
        process.start()
        theirs.close()

        def ask(*request):
            try:
                pipe.send(request)
                return pipe.recv()
            except (EOFError, OSError) as error:
                raise SystemExit(f"{Path(sys.argv[0]).name}: {title} failed; see above") from error

        return ask

    try:
        yield begin
        for process, pipe in started:
            pipe.send(None)
            process.join()
    finally:
        for process, _ in started:
            process.terminate()


def _serve(pipe, start, arguments):
    """The life of a worker's process: answer (method, *arguments) until None comes."""
    worker = start(*arguments)
    while (request := pipe.recv()) is not None:
        method, *arguments = request
        pipe.send(getattr(worker, method)(*arguments))


def quartiles(values):
    """(lower quartile, median, upper quartile)."""
    if len(values) == 1:
        return (values[0],) * 3
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def table(header, rows):
    """A Markdown table; columns after the first are aligned to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def python(*arguments):
    """What a fresh interpreter printed, run as this one is."""
    done = subprocess.run(
        [sys.executable, *arguments], check=True, text=True, stdout=subprocess.PIPE
    )
    return done.stdout.strip()


def import_seconds(module, repeats):
    """Seconds that each of some fresh interpreters needs to import a module after NumPy."""
    code = (
        "import numpy, time; start = time.perf_counter(); "
        f"import {module}; print(time.perf_counter() - start)"
    )
    if module == "numpy":
        code = "import time; start = time.perf_counter(); import numpy; "
        code += "print(time.perf_counter() - start)"
    python("-c", code)  # the first run may compile
    return [float(python("-c", code)) for _ in range(repeats)]


def resident(field="VmRSS"):
    """Resident memory in MiB now, or its peak ("VmHWM"); None where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return None


def forget_peak():
    """Start the record of peak memory anew, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
