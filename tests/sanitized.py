"""Runs kernels in a process under a sanitizer: ``python sanitized.py KERNEL ...``.

The launches are those of benchmarks/gpu.py's part "once": every kernel, at small ragged shapes.
Before each its name goes to stderr, where sanitizers write. SOURCES in the environment names a
folder of other sources than tinygan's.
"""

import os
import sys
from pathlib import Path

from tinygan import kernels
from tinygan.kernels import launch

TIMES = 3  # that a kernel is launched: parts of sums are added up in most of the cases


def main(names):
    """Go through all cases; launch only the kernels ``names``."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    import gpu_once
    from gpu_place import Emulator

    run, folder = launch.run_emulated, os.environ.get("SOURCES")
    left = dict.fromkeys(names, TIMES)

    def chosen(kernel, *arguments):
        if left.get(kernel.name):
            left[kernel.name] -= 1
            print(f"== {kernel.name}", file=sys.stderr, flush=True)
            if folder:
                kernel = launch.Kernel(str(Path(folder, kernel.source)), kernel.name)
            run(kernel, *arguments)

    launch.run_emulated = chosen
    with kernels.emulated():
        for _, call in gpu_once.cases(Emulator()):
            call()


if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)  # not for the compiler, which is asked for its version
    main(sys.argv[1:])
