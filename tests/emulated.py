"""Kernels of a test, compiled into one library and launched without tinygan's launch code.

Imports NumPy only: a process under a sanitizer loads it too.
"""

import ctypes
import subprocess
from pathlib import Path

import numpy as np

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
FLAGS = "-std=c++17 -march=native -ffp-contract=off -fPIC -shared -Wall -Wextra -Werror"


def build(path, source, kernels, compiler="g++", flags="-O2"):
    """Compile the text ``source`` with its ``kernels``, {name: instance}, to ``path``."""
    exports = "".join(
        f"#define tinygan_launch launch_{name}\n#define tinygan_banks banks_{name}\n"
        f"TG_EXPORT({instance})\n#undef tinygan_launch\n#undef tinygan_banks\n"
        for name, instance in kernels.items()
    )
    cu, cpp = path.with_suffix(".cu"), path.with_suffix(".cpp")
    cu.write_text(source)
    cpp.write_text(f'#include "{cu.name}"\n{exports}')
    command = [compiler, *FLAGS.split(), *flags.split(), "-Wno-unknown-pragmas", "-DTG_EMULATOR"]
    subprocess.run(
        [*command, "-I", str(KERNELS), str(KERNELS / "emulator.cpp"), str(cpp), "-o", str(path)],
        check=True,
    )
    return path


class Options(ctypes.Structure):
    _fields_ = [
        ("order", ctypes.c_int),
        ("seed", ctypes.c_uint),
        ("count_banks", ctypes.c_int),
        ("n_args", ctypes.c_int),
        ("types", ctypes.c_char_p),
        ("bytes", ctypes.POINTER(ctypes.c_longlong)),
    ]


class Library:
    """The kernels of a compiled library; a call launches one and returns the error's text."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))

    def __call__(
        self, name, grid, block, *args, shared=0, order=0, seed=0, count_banks=False, checked=True
    ):
        cells, types, sizes = [], [], []
        for a in args:
            if a is None:
                cells.append(np.zeros(1, np.uint64))
                types.append("*")
                sizes.append(-1)
            elif isinstance(a, np.ndarray) and a.dtype.kind != "V":
                cells.append(np.array([a.ctypes.data], np.uint64))
                types.append("*" + a.dtype.str[1:])
                sizes.append(a.nbytes)
            else:
                cells.append(np.array(a))
                types.append(cells[-1].dtype.str[1:])
                sizes.append(-1)
        types = ",".join(types).encode() if checked else None
        sizes = (ctypes.c_longlong * len(sizes))(*sizes) if checked else None
        options = Options(order, seed, count_banks, len(args), types, sizes)
        pointers = (ctypes.c_void_p * len(cells))(*[cell.ctypes.data for cell in cells])
        grid, block = ((ctypes.c_uint * 3)(*[*size, 1, 1][:3]) for size in (grid, block))
        launch = getattr(self._library, "launch_" + name)
        launch.restype = ctypes.c_char_p
        text = launch(
            grid, block, ctypes.c_size_t(shared), ctypes.byref(pointers), ctypes.byref(options)
        )
        return text and text.decode()

    def banks(self, name):
        """{kind: (accesses, wavefronts, ideal)}, counted since the last call."""
        report = getattr(self._library, "banks_" + name)
        report.restype = ctypes.c_char_p
        lines = [line.split("\t") for line in report().decode().splitlines()]
        return {kind: tuple(map(int, counts)) for _, kind, *counts in lines}
