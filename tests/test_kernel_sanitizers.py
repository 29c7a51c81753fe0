"""The kernels themselves, in the emulator, under g++'s thread, address and undefined sanitizers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinygan.kernels import compile, report
from tinygan.kernels.launch import Kernel

HERE = Path(__file__).resolve().parent
FLAGS = "-O1 -g1 "
SANITIZERS = {
    "thread": (
        "libtsan.so",
        FLAGS + "-fsanitize=thread",
        # Launches get the same addresses again, of which it would report only the first race.
        {"TSAN_OPTIONS": "suppress_equal_addresses=0"},
    ),
    "address": (
        "libasan.so",
        FLAGS + "-fsanitize=address,undefined -fsanitize-recover=address,undefined",
        {"ASAN_OPTIONS": "detect_leaks=0,halt_on_error=0"},
    ),
}
# One of each kind for every run; the first that matches. All of them with "pytest -m slow".
FEW = (
    r"conv2d<float,0,.*,4,4>",
    r"conv2d<float,1,.*,1,4>",
    r"conv2d<double,",
    r"conv2d_transpose<float,0,.*,1>",
    r"conv2d_transpose<float,3,.*,4>",
    r"conv2d_weight_grad<float,0,.*,1,1>",
    r"conv2d_weight_grad<float,1,.*,4,4>",
    r"matmul<float,3,.*,true,false,4",
    r"add_parts<float>",
    r"gate<float, false>",
    r"column_sum<float>",
    r"reduce<float, PROJECT, true>",
    r"total<float, PROJECT>",
    r"project<float, false>",
    r"adam<float>",
    r"normal<float>",
)
# The ladder's own kernels are there to be compared with, and not in these launches.
EVERY = [
    instance.kernel
    for module in report.host_modules()
    if not module.__name__.endswith(".ladder")
    for instance in module.instances()
]
each_sanitizer = pytest.mark.parametrize("sanitizer", SANITIZERS)


def watched(monkeypatch, sanitizer, kernels, sources=None):
    """{name: what the sanitizer reports} of ``kernels``, whose sources may be elsewhere."""
    library, flags, options = SANITIZERS[sanitizer]
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    command = ["g++", f"-print-file-name={library}"]
    preload = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(preload):
        pytest.skip(f"g++ has no {library}")
    monkeypatch.setenv("CXX", "g++")
    monkeypatch.setenv("TINYGAN_EMULATOR_FLAGS", flags)
    if sources:
        monkeypatch.setenv("SOURCES", str(sources))
        kernels = [Kernel(str(sources / kernel.source), kernel.name) for kernel in kernels]
    compile.compile_all(kernels)  # here, where the sanitizer does not watch the compiler
    done = subprocess.run(
        [sys.executable, str(HERE / "sanitized.py"), *(kernel.name for kernel in kernels)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "LD_PRELOAD": preload, **options},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    before, *launches = re.split(r"^== (.*)\n", done.stderr, flags=re.M)
    assert not before, before
    reports = {name: "" for name in launches[::2]}
    for name, text in zip(launches[::2], launches[1::2], strict=True):
        reports[name] += text
    assert set(reports) == {kernel.name for kernel in kernels}, done.stderr[-2000:]
    return reports


def found(pattern):
    """The first kernel whose name matches."""
    return next(kernel for kernel in EVERY if re.match(pattern, kernel.name))


@each_sanitizer
def test_kernels_of_each_kind_are_clean(sanitizer, monkeypatch):
    reports = watched(monkeypatch, sanitizer, [found(pattern) for pattern in FEW])
    assert not any(reports.values()), "".join(reports.values())


@pytest.mark.slow
@each_sanitizer
def test_every_kernel_is_clean(sanitizer, monkeypatch):
    reports = watched(monkeypatch, sanitizer, list(dict.fromkeys(EVERY)))
    assert not any(reports.values()), "".join(reports.values())


# Planted faults: sanitizer, kernel, file, old and new text, and what is reported where.

NO_BARRIER = ("tile.cuh", "    __syncthreads();\n    fetch", "    fetch", "data race")
PLANTED = {
    "no barrier, by FFMA": ("thread", r"conv2d<float,0,.*,4,4>", *NO_BARRIER, "multiply.cuh:"),
    "no barrier, by tensor cores": ("thread", r"matmul<float,1,.*,4,4>", *NO_BARRIER, "tile.cuh:"),
    "no barrier in a sum": (
        "thread", r"column_sum<float>", "columns.cuh", "__syncthreads();", "", "data race",
        "columns.cuh:",
    ),
    "no tail of rows": (
        "address", r"conv2d<float,0,.*,4,4>", "conv.cu", "if (m < rows) out", "if (m <= rows) out",
        "heap-buffer-overflow", "tile.cuh:",
    ),
    "a gate too many": (
        "address", r"gate<float, false>", "fused.cu", "i < size", "i <= size",
        "heap-buffer-overflow", "fused.cu:",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_reported(fault, tmp_path, monkeypatch):
    sanitizer, pattern, file, old, new, complaint, place = PLANTED[fault]
    for source in compile.HERE.iterdir():
        if source.suffix in (".cu", ".cuh", ".hpp"):
            text = source.read_text()
            assert source.name != file or old in text, f"nothing to plant: {old}"
            text = text.replace(old, new) if source.name == file else text
            (tmp_path / source.name).write_text(text)
    kernel = found(pattern)
    text = watched(monkeypatch, sanitizer, [kernel], tmp_path)[kernel.name]
    assert complaint in text and place in text, text
