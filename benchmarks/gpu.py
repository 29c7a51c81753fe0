"""Test the kernels on a GPU, measure the chip, and time layers and steps beside PyTorch with cuDNN.

    python benchmarks/gpu.py --out results      # everything, within ten minutes; gpu.md, gpu.json
    python benchmarks/gpu.py --quick            # few, short turns: a smoke test
    python benchmarks/gpu.py --tiles --parts tiles
    python benchmarks/gpu.py --emulate          # no GPU: everything but the times, at tiny sizes
    python benchmarks/gpu.py --kernels-once     # every kernel once, for a checker to watch

Parts run one after the other, each in a process of its own with a limit of time: one that fails, or
is cut off, loses no results of others, and keeps its own so far. What cannot run is skipped, and
the output says why. The exit status is 1 if a part failed or found something wrong.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic, strftime
from typing import NamedTuple

from gpu_process import ROOT, Log, run_command
from gpu_report import document, summary, wrong

RESERVE = 5  # seconds at the end, to stop a part and write
SLOWER = 4  # than on a GPU: compiling for the emulator
FEW = ["32/D1", "32/D3"]  # layers for it
TOOLS = ("memcheck", "racecheck", "synccheck")
INSTALL = "pip install --no-build-isolation --no-deps -e ."


class Part(NamedTuple):
    """What is run in a process, or several, of its own.

    Attributes: title; seconds that it may take; whether it runs under the emulator too; the
        function run(name, options, seconds, record), which calls record(row) for every row and
        returns (status, reason).
    """

    title: str
    seconds: float
    emulated: bool
    run: object


# Parts


def run_rows(name, options, seconds, record):
    """A part whose rows a process of this script makes, one line of JSON each."""
    with tempfile.TemporaryDirectory() as folder:
        file, log, seen = Path(folder, "rows"), Log(), 0

        def collect():
            nonlocal seen
            if file.exists():
                with file.open() as text:
                    text.seek(seen)
                    whole = text.read().rpartition("\n")[0]
                if whole:
                    seen += len(whole.encode()) + 1
                    for line in whole.split("\n"):
                        record(json.loads(line))

        left = str(max(0.1, seconds - RESERVE))
        command = [sys.executable, __file__, *options.argv, "--run", name, str(file), left]
        status = run_command(command, seconds, log, collect)
        collect()
    if status is None:
        return "CUT OFF", f"it took longer than its {seconds:.0f} s"
    if status:
        return "FAILED", f"exit status {status}: {log.last()}"
    return "done", None


def run_tests(name, options, seconds, record):
    """The tests that run on CuPy."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-k", "cupy", "-p", "no:cacheprovider"]
    if _has("xdist"):
        command += ["-n", str(min(8, os.cpu_count() or 1))]
    log, failed = Log(), []

    def see(line):
        log(line)
        if line.startswith(("FAILED ", "ERROR ")):
            failed.append(line)

    status = run_command([*command, *options.tests], seconds, see)
    counts = {}
    for line in reversed(log.lines):  # "3 failed, 120 passed, 7 skipped in 31.42s"
        counts = {
            word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", line)
        }
        if counts:
            break
    record({**counts, "command": " ".join(command[1:]), "which": failed[:50]})
    shown = ", ".join(f"{n} {word}" for word, n in counts.items()) or log.last()
    if status is None:
        return "CUT OFF", f"after {seconds:.0f} s: {shown}"
    return ("done" if status == 0 and counts.get("passed") else "FAILED"), shown


def run_sanitizer(name, options, seconds, record):
    """compute-sanitizer's tools over every kernel."""
    tool = shutil.which("compute-sanitizer")
    if not tool:
        return "SKIPPED", "compute-sanitizer is not installed"
    deadline, bad = monotonic() + seconds, []
    for i, kind in enumerate(TOOLS):
        log, lines = Log(show=False), []

        def see(line, log=log, lines=lines):
            log(line)
            if "SUMMARY" in line:
                lines.append(line.strip("= "))

        given = (deadline - monotonic()) / (len(TOOLS) - i)
        if given < 1:
            bad.append(f"{kind}: no time left")
            continue
        print(f"    {kind}", flush=True)
        command = [tool, "--tool", kind, "--error-exitcode", "77", "--print-limit", "20"]
        script = [sys.executable, __file__, "--kernels-once", *options.argv]
        status = run_command([*command, *script], given, see)
        found = lines[-1] if lines else log.last()
        record({"tool": kind, "exit": status, "found": found, "log": log.lines if status else []})
        if status != 0:
            ended = f"cut off after {given:.0f} s" if status is None else f"exit status {status}"
            bad.append(f"{kind}: {ended}: {found}")
    if bad:
        return "FAILED", "; ".join(bad)
    return "done", f"{', '.join(TOOLS)}: no errors"


PARTS = {
    "compile": Part("Kernels compiled", 100, False, run_rows),
    "once": Part("Every kernel once", 60, True, run_rows),
    "ceilings": Part("Ceilings of the chip", 40, True, run_rows),
    "layers": Part("Layers beside cuDNN", 130, True, run_rows),
    "gemms": Part("Products beside cuBLAS", 30, True, run_rows),
    "ladder": Part("The ladder's steps", 20, True, run_rows),
    "steps": Part("Training steps", 100, True, run_rows),
    "tests": Part("Tests on CuPy", 150, False, run_tests),
    "sanitizer": Part("compute-sanitizer", 120, False, run_sanitizer),
    "tiles": Part("All tiles", 150, True, run_rows),
}


def _has(module):
    from importlib.util import find_spec

    return find_spec(module) is not None


# In a part's own process


def run_part(name, file, left, options):
    """Make the rows of a part, and write each as it comes."""
    import gpu_layers
    import gpu_once
    import gpu_steps
    from gpu_place import place

    makers = {
        "compile": gpu_once.compile_rows,
        "once": gpu_once.once_rows,
        "ceilings": gpu_layers.ceiling_rows,
        "layers": gpu_layers.layer_rows,
        "gemms": gpu_layers.gemm_rows,
        "ladder": gpu_layers.ladder_rows,
        "steps": gpu_steps.step_rows,
        "tiles": gpu_layers.tile_rows,
    }
    deadline = monotonic() + float(left)
    with open(file, "a") as rows:
        for row in makers[name](place(options.emulate), options, lambda: deadline - monotonic()):
            rows.write(json.dumps(row) + "\n")
            rows.flush()
            keys = ("note", "case", "ceiling", "layer", "net", "operation", "precision")
            print(" ".join(str(row[key]) for key in keys if key in row) or row, flush=True)


def kernels_once(options):
    """Run every kernel once and say so; 1 if one fails or was left out."""
    import gpu_once
    from gpu_place import place

    rows = list(gpu_once.once_rows(place(options.emulate), options, None))
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return int(bool(wrong("once", rows)))


def probe(options):
    """What the machine is: {"unusable": None or why, key: value, ...}."""
    import platform

    import numpy as np

    about = {"emulated": options.emulate, "date": strftime("%Y-%m-%d %H:%M:%S %z")}
    about["system"] = (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )
    about["NumPy"] = np.__version__
    try:
        import tinygan
        import tinygan.kernels  # noqa: F401
    except ImportError as error:
        return {**about, "unusable": f"tinygan cannot be imported ({error}): {INSTALL}"}
    about["tinygan"] = tinygan.__version__
    about["PyTorch"] = _about_torch()
    if options.emulate:
        from tinygan.kernels.compile import compiler

        about["device"] = "none: the emulator"
        about["compiler"] = compiler()[1].splitlines()[0]
        return {**about, "unusable": None}
    from tinygan.backend import import_cupy

    try:
        cupy = import_cupy()
    except RuntimeError as error:
        return {**about, "unusable": str(error)}
    device, runtime = cupy.cuda.Device(), cupy.cuda.runtime
    found = runtime.getDeviceProperties(device.id)
    about["device"] = (
        f"{found['name'].decode()}, compute capability {found['major']}.{found['minor']}, "
        f"{found['multiProcessorCount']} multiprocessors, "
        f"{found['totalGlobalMem'] / 2**30:.0f} GiB, {found['l2CacheSize'] / 2**20:.0f} MiB of L2"
    )
    about["driver"] = f"{_nvidia_smi()}; CUDA {_version(runtime.driverGetVersion())}"
    nvrtc = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
    about["CuPy"] = (
        f"{cupy.__version__}, CUDA runtime {_version(runtime.runtimeGetVersion())}, NVRTC {nvrtc}"
    )
    return {**about, "unusable": None}


def _version(number):
    return f"{number // 1000}.{number % 1000 // 10}"


def _about_torch():
    if not _has("torch"):
        return "not installed"
    import torch

    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None
    return f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}"


def _nvidia_smi():
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit"]
        asked += ["--format=csv,noheader", "--id=0"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip() + " (driver, largest SM clock, power limit)"
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: nvidia-smi does not run ({error})"


# The whole


def ask_probe(options):
    """:func:`probe` in a process of its own: a broken driver or library ends that one."""
    command = [sys.executable, __file__, *options.argv, "--probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
        return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        why = (done.stderr.strip().splitlines() or ["no output"])[-1]
    except subprocess.TimeoutExpired:
        why = "it did not answer in 120 s"
    return {"emulated": options.emulate, "unusable": f"the machine could not be asked: {why}"}


def run_parts(parts, about, unusable, options):
    """Run the parts, writing all there is after each row: {name: how it ended, its rows, ...}.

    Args:
        unusable: why none can run, or None.
    """
    results, start = {}, monotonic()
    for name, part in parts.items():
        result = results[name] = {"title": part.title, "rows": [], "problems": []}
        left = options.seconds - (monotonic() - start) - RESERVE
        seconds = part.seconds * (SLOWER if options.emulate else 1)
        seconds = min(options.budgets.get(name, seconds), left)
        if unusable:
            result |= {"status": "SKIPPED", "reason": unusable.partition(". ")[0]}
        elif options.emulate and not part.emulated:
            result |= {"status": "SKIPPED", "reason": "it needs a GPU; this run is emulated"}
        elif seconds < 2:
            result |= {"status": "SKIPPED", "reason": f"no time left of {options.seconds:.0f} s"}
        else:
            began = monotonic()
            print(f"{part.title}: at most {seconds:.0f} s", flush=True)
            result |= {"status": "CUT OFF", "reason": "it was running when this was written"}

            def record(row, rows=result["rows"]):
                rows.append(row)
                write(about, results, options)

            try:
                status, reason = part.run(name, options, seconds, record)
            except Exception as error:  # a part's failure is its own
                status, reason = "FAILED", f"{type(error).__name__}: {error}"
            problems = wrong(name, result["rows"])
            if problems and status == "done":
                status, reason = "FAILED", f"{len(problems)} results are not as they must be"
            result |= {"status": status, "reason": reason, "problems": problems}
            result["seconds"] = monotonic() - began
        print(f"{part.title}: {result['status']} {result['reason'] or ''}", flush=True)
        write(about, results, options)
    return results


def write(about, results, options):
    """gpu.md and gpu.json in the folder asked for, whole or not at all."""
    if options.out:
        texts = {
            "gpu.md": document(about, results) + "\n",
            "gpu.json": json.dumps({"about": about, "parts": results}, indent=1) + "\n",
        }
        for name, text in texts.items():
            file = Path(options.out, name)
            file.with_suffix(".part").write_text(text)
            file.with_suffix(".part").replace(file)


def parse(argv):
    from nets import CASES
    from roofline import layers

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", metavar="DIR", help="write gpu.md and gpu.json there")
    add("--quick", action="store_true", help="few, short turns: a smoke test")
    add("--emulate", action="store_true", help="without a GPU, tiny sizes, no times")
    add("--tiles", action="store_true", help="also time every tile")
    add("--parts", nargs="+", choices=PARTS, help="default: all, tiles only if asked for")
    add("--seconds", type=float, help="for everything: 590; four times as long if emulated")
    add("--budget", nargs="+", default=[], metavar="PART=SECONDS", help="a part's own limit")
    add("--batch", type=int, help="of the layers: 64; 2 if emulated")
    add(
        "--layers",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="32, 64 or 32/D0, …; all, few if emulated",
    )
    add("--nets", nargs="+", choices=CASES, default=list(CASES), help="the steps'")
    add("--rounds", type=int, default=11)
    add("--calls", type=int, default=10, help="of a layer in a turn")
    add("--match", metavar="REGEX", help="of the kernels that run once, those with such a label")
    add("--tests", nargs="+", default=["tests"], metavar="FILE")
    add("--kernels-once", action="store_true", help="run every kernel once, and nothing else")
    add("--probe", action="store_true", help=argparse.SUPPRESS)
    add("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.argv = list(argv)
    if options.seconds is None:
        options.seconds = 590.0 * (SLOWER if options.emulate else 1)
    if options.emulate and not options.layers:
        options.layers = FEW
    for name in ("seconds", "rounds", "calls"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} is {getattr(options, name)}; expected a number above 0")
    options.batch = options.batch or (2 if options.emulate else 64)
    unknown = set(options.layers) - set(layers()) - {"32", "64"}
    if unknown:
        parser.error(
            f"--layers {' '.join(sorted(unknown))}: expected of 32, 64, {', '.join(layers())}"
        )
    options.budgets = {}
    for entry in options.budget:
        name, _, seconds = entry.partition("=")
        if name not in PARTS or not re.fullmatch(r"\d+(\.\d+)?", seconds):
            parser.error(f"--budget {entry}: expected PART=SECONDS, a part of {', '.join(PARTS)}")
        options.budgets[name] = float(seconds)
    if options.quick:
        options.rounds, options.calls = 2, 3
    if options.out:
        Path(options.out).mkdir(parents=True, exist_ok=True)
    return options


def main(argv=None):
    """The command line: 1 if a part failed or found something wrong."""
    options = parse(sys.argv[1:] if argv is None else argv)
    if options.probe:
        print(json.dumps(probe(options)))
        return 0
    if options.run:
        run_part(*options.run, options)
        return 0
    if options.kernels_once:
        return kernels_once(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a running part is ended too
    about = ask_probe(options)
    unusable = about.pop("unusable")
    if unusable:
        print(f"SKIPPED: all that needs a GPU: {unusable}")
    print("\n".join(f"- {key}: {value}" for key, value in about.items()), flush=True)
    wanted = options.parts or [name for name in PARTS if name != "tiles" or options.tiles]
    parts = {name: PARTS[name] for name in PARTS if name in wanted}
    results = run_parts(parts, about, unusable, options)
    print("\n" + summary(about, results))
    bad = [part for part in results.values() if part["status"] not in ("done", "SKIPPED")]
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
