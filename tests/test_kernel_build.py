"""Kernels from source to launch: compiling, the caches, both launch paths, and what is refused."""

import configparser
import fnmatch
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import fake_cupy
import numpy as np
import pytest

from tinygan import kernels
from tinygan.kernels import compile, launch, report
from tinygan.kernels.launch import Instance, Kernel

REVERSE = """
#include "dialect.cuh"

struct Part { int n; float shift; };

// y[i] = a * x[j] + shift + K, j being i counted from the end of its block; 7 where x is null
template <class T, int K>
__global__ void __launch_bounds__(64) reverse(T* y, const T* x, T a, Part part) {
  TG_SHARED(T, shared);
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  T v = 7;
  if (x) v = i < part.n ? x[i] : T(0);
  tg::store_shared(&shared[threadIdx.x], v);
  __syncthreads();
  v = tg::load_shared(&shared[blockDim.x - 1 - threadIdx.x]);
  if (i < part.n) y[i] = a * v + part.shift + K;
}

__global__ void __launch_bounds__(32) plain(int* y) {
  TG_SHARED(int, kept);
  kept[threadIdx.x] = VALUE;
  __syncthreads();
  y[threadIdx.x] = kept[31 - threadIdx.x];
}
"""
SPILLS = """
#include "dialect.cuh"
// 32 registers for each thread, and 64 numbers alive at once.
__global__ void __launch_bounds__(1024, 2) spills(float* y, const float* x) {
  float a[64];
#pragma unroll
  for (int i = 0; i < 64; i++) a[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; i++) y[i * 1024 + threadIdx.x] = a[i] * a[63 - i];
}
"""
PART = np.dtype([("n", np.int32), ("shift", np.float32)])

pytestmark = pytest.mark.usefixtures("nothing_emulated")
needs_nvrtc = pytest.mark.skipif(
    not (compile.nvrtc_library() or shutil.which("nvcc")),
    reason="neither nvidia-cuda-nvrtc nor nvcc is installed",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("kernels")
    (path / "reverse.cu").write_text("#ifndef VALUE\n#define VALUE 3\n#endif\n" + REVERSE)
    (path / "spills.cu").write_text(SPILLS)
    return path


@pytest.fixture(scope="module")
def reverse(folder):
    return Kernel(str(folder / "reverse.cu"), "reverse<float, 1>")


def part(n, shift=0.5):
    return np.array([(n, shift)], PART)


def run(kernel, x, n, a=2.0, shared=256):
    """The kernel on ``x`` in blocks of 64, for the first n elements."""
    xp = np if type(x) is np.ndarray else sys.modules["cupy"]
    y = xp.zeros(x.shape, np.float32)
    kernel((-(-n // 64),), (64,), (y, x, np.float32(a), part(n)), shared)
    return y


def expected(x, n, a=2.0):
    padded = np.zeros(-(-n // 64) * 64, np.float32)
    padded[:n] = x[:n]
    return a * padded.reshape(-1, 64)[:, ::-1].reshape(-1)[:n] + np.float32(1.5)


X = np.arange(200, dtype=np.float32)


# Both ways to launch


@pytest.mark.parametrize("order", launch.ORDERS)
def test_a_kernel_runs_in_the_emulator(reverse, order):
    with kernels.emulated(order):
        y = run(reverse, X, 150)
    np.testing.assert_array_equal(y[:150], expected(X, 150))
    np.testing.assert_array_equal(y[150:], 0)


def test_a_kernel_runs_through_the_calls_of_cupy(reverse, stand_in):
    y = run(reverse, stand_in.asarray(X), 150)
    np.testing.assert_array_equal(stand_in.get(y)[:150], expected(X, 150))


def test_none_is_a_null_pointer(reverse, stand_in):
    for xp in (np, stand_in.module):
        y = xp.zeros(64, np.float32)
        with kernels.emulated():
            reverse((1,), (64,), (y, None, np.float32(2), part(64)), 256)
        assert float(y.min()) == float(y.max()) == 2 * 7 + 1.5


def test_arrays_of_one_element_are_pointers_too(reverse, stand_in):
    for array in (np.ones(1, np.float32), stand_in.asarray(np.ones(1, np.float32))):
        with kernels.emulated():
            y = run(reverse, array, 1)
        assert y.shape == (1,) and float(y[0]) == 1.5  # the last of a block of zeros


def test_cupy_is_asked_for_much_shared_memory_once(reverse, stand_in, monkeypatch):
    asked, limit = [], fake_cupy.RawKernel.max_dynamic_shared_size_bytes

    def ask(kernel, value):
        asked.append(value)
        limit.fset(kernel, value)

    monkeypatch.setattr(
        fake_cupy.RawKernel, "max_dynamic_shared_size_bytes", property(limit.fget, ask)
    )
    x = stand_in.asarray(X)
    for shared in (256, 48 * 1024, 60_000, 50_000, 60_000, 227 * 1024, 256):
        np.testing.assert_array_equal(
            run(reverse, x, 64, shared=shared)[:64].get(), expected(X, 64)
        )
    assert asked == [60_000, 227 * 1024]
    with pytest.raises(RuntimeError, match="INVALID_VALUE"):
        run(reverse, x, 64, shared=227 * 1024 + 1)


def test_the_stand_in_refuses_what_cupy_refuses(reverse, stand_in, folder):
    cupy, y = stand_in.module, stand_in.asarray(X)
    options = ("-std=c++17", f"-I{folder}", f"-I{compile.HERE}")
    code, name = '#include "reverse.cu"', reverse.name
    module = cupy.RawModule(code=code, options=options, name_expressions=(name,))
    kernel = module.get_function(name)
    arguments = (y, y, np.float32(1), part(1))
    kernel((1,), (64,), arguments, shared_mem=256)
    with pytest.raises(RuntimeError, match="INVALID_VALUE"):
        kernel((1,), (64,), arguments, shared_mem=48 * 1024 + 4)
    with pytest.raises(TypeError, match=r"numpy.ndarray of shape \(200,\)"):
        kernel((1,), (64,), (y, X, np.float32(1), part(1)), shared_mem=256)
    with pytest.raises(TypeError):
        kernel([1], (64,), arguments, shared_mem=256)
    with pytest.raises(TypeError):
        kernel((1,), (64,), (y, y, 1.0, part(1)), shared_mem=256)
    with pytest.raises(RuntimeError, match="NOT_FOUND"):
        module.get_function("reverse<float, 2>")
    with pytest.raises(TypeError):
        cupy.RawModule(code=code, options=list(options))
    with pytest.raises(Exception, match="C\\+\\+14"):
        cupy.RawModule(code=code, options=options[1:])


def test_another_cupy_gets_its_own_kernel(reverse, monkeypatch):
    for _ in range(2):
        module = fake_cupy.module()
        monkeypatch.setitem(sys.modules, "cupy", module)
        made = []

        class RawModule(fake_cupy.RawModule):
            def __init__(self, **given):
                super().__init__(**given)
                made.append(self)  # noqa: B023

        monkeypatch.setattr(module, "RawModule", RawModule)
        run(reverse, module.asarray(X), 64)
        run(reverse, module.asarray(X), 64)
        assert len(made) == 1


def test_cupy_sees_a_change_of_a_header(stand_in, tmp_path, monkeypatch):
    """CuPy keeps compiled kernels by the text it is given, which only includes the sources."""
    codes = []

    def raw_module(**given):
        codes.append(given["code"])
        return fake_cupy.RawModule(**given)

    monkeypatch.setattr(stand_in.module, "RawModule", raw_module)
    (tmp_path / "plain.cu").write_text('#include "beside.cuh"\n' + REVERSE)
    for value in (5, 5, 6):
        (tmp_path / "beside.cuh").write_text(f"#define VALUE {value}\n")
        y = stand_in.asarray(np.zeros(32, np.int32))
        Kernel(str(tmp_path / "plain.cu"), "plain")((1,), (32,), (y,), 128)
    assert codes[0] == codes[1] != codes[2]


def test_threads_may_launch_at_once(reverse):
    x = np.arange(30_000, dtype=np.float32)
    with kernels.emulated("random", seed=3), ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(copy_context().run, run, reverse, x + i, x.size) for i in range(8)]
    for i, job in enumerate(jobs):
        np.testing.assert_array_equal(job.result(), expected(x + i, x.size))


# Contexts


def test_who_is_served(stand_in):
    assert not kernels.serves(X) and not kernels.serves([1.0]) and not kernels.serves(np.float32(1))
    assert kernels.serves(stand_in.asarray(X))
    with kernels.emulated():
        assert kernels.serves(X)
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(kernels.serves(X)))
        thread.start()
        thread.join()
        assert elsewhere == [False]  # a thread that nobody gave this context
    assert not kernels.serves(X)


def test_the_device_stood_for(stand_in, monkeypatch):
    with kernels.emulated(architecture=80):
        assert (kernels.architecture(X), kernels.multiprocessors(X)) == (80, 108)
        with kernels.emulated():
            assert (kernels.architecture(X), kernels.multiprocessors(X)) == (90, 132)
        assert kernels.architecture(X) == 80
        assert kernels.architecture(stand_in.asarray(X)) == 90
    with pytest.raises(RuntimeError, match=r"outside 'with tinygan\.kernels\.emulated\(\)'"):
        kernels.architecture(X)


def test_precision_is_a_context():
    assert kernels.current_precision() == "fp32"
    with kernels.precision("tf32"):
        with kernels.precision("3xtf32"):
            assert kernels.current_precision() == "3xtf32"
        assert kernels.current_precision() == "tf32"
    assert kernels.current_precision() == "fp32"


def test_a_device_too_old_for_a_precision(stand_in, monkeypatch):
    with kernels.emulated(architecture=75):
        assert kernels.check_precision("fp32", X) == "fp32"
        for name in ("tf32", "3xtf32"):
            with pytest.raises(
                RuntimeError, match=rf"'{name}'.*8\.0.*emulated.* 7\.5\. Use .*'fp32'"
            ):
                kernels.check_precision(name, X)
    with kernels.emulated(architecture=80):
        assert kernels.check_precision("tf32", X) == "tf32"
    monkeypatch.setattr(stand_in.module.cuda.Device, "compute_capability", "75")
    with pytest.raises(RuntimeError, match=r"this GPU has 7\.5"):
        kernels.check_precision("tf32", stand_in.asarray(X))


@pytest.mark.parametrize(
    "wrong, given",
    [
        (lambda: kernels.emulated(order="sideways"), "'sideways'"),
        (lambda: kernels.emulated(architecture=9), "9"),
        (lambda: kernels.precision("fp16"), "'fp16'"),
    ],
)
def test_contexts_say_what_they_know(wrong, given):
    with pytest.raises(ValueError, match=f"is {given}; expected one of"), wrong():
        pass


def test_banks_are_counted(reverse):
    with kernels.emulated(count_banks=True):
        run(reverse, X, 64)
        run(reverse, X, 64)
        rows = kernels.bank_report()
    assert {row["kernel"] for row in rows} == {"reverse<float, 1>"} and len(rows) == 2
    for row in rows:
        assert row["site"].startswith("reverse.cu:")
        assert row["accesses"] == row["wavefronts"] == row["ideal"] == 4  # 2 launches of 2 warps
    with pytest.raises(RuntimeError, match="count_banks=True"), kernels.emulated():
        kernels.bank_report()


# What is refused


def misaligned():
    return np.zeros(4 * 10 + 1, np.uint8)[1:].view(np.float32)


@pytest.mark.parametrize(
    "array, complaint",
    [
        (np.zeros((4, 6), np.float32).T, r"argument 1, of shape \(6, 4\).*not C-contiguous"),
        (np.zeros(20, np.float32)[::2], "argument 1.*not C-contiguous"),
        (misaligned(), "argument 1.*not aligned to 4 bytes"),
    ],
)
def test_memory_that_a_kernel_cannot_read(reverse, stand_in, array, complaint):
    y = np.zeros(10, np.float32)
    with kernels.emulated(), pytest.raises(ValueError, match=complaint):
        reverse((1,), (64,), (y, array, np.float32(1), part(1)), 256)
    y, array = fake_cupy.wrap(y), fake_cupy.wrap(array)
    with pytest.raises(ValueError, match=complaint):
        reverse((1,), (64,), (y, array, np.float32(1), part(1)), 256)


@pytest.mark.parametrize("a", [2, 2.0, "x", np.str_("x"), [1.0], np.zeros(1, PART)[0]])
def test_arguments_that_no_kernel_takes(reverse, a):
    y = np.zeros(10, np.float32)
    with kernels.emulated(), pytest.raises(TypeError, match=r"argument 2 .*np\.int32"):
        reverse((1,), (64,), (y, y, a, part(1)), 256)


def test_structs_come_one_at_a_time(reverse):
    y = np.zeros(10, np.float32)
    with kernels.emulated(), pytest.raises(ValueError, match=r"argument 3 .*\(2,\)"):
        reverse((1,), (64,), (y, y, np.float32(1), np.zeros(2, PART)), 256)


def test_numpy_arrays_outside_emulated(reverse, stand_in):
    with pytest.raises(RuntimeError, match=r"outside 'with tinygan.*to_device"):
        run(reverse, X, 10)
    y = stand_in.asarray(np.zeros(10, np.float32))
    with pytest.raises(TypeError, match="of NumPy and of CuPy"):
        reverse((1,), (64,), (y, X, np.float32(1), part(1)), 256)
    with kernels.emulated(), pytest.raises(TypeError, match="of NumPy and of CuPy"):
        reverse((1,), (64,), (y, X, np.float32(1), part(1)), 256)


@pytest.mark.parametrize("grid, block", [((0,), (64,)), ((1, 0), (64,)), ((1,), (0,))])
def test_an_empty_grid_is_refused(reverse, stand_in, grid, block):
    for y in (np.zeros(64, np.float32), stand_in.asarray(np.zeros(64, np.float32))):
        with kernels.emulated(), pytest.raises(ValueError, match="sizes above 0"):
            reverse(grid, block, (y, y, np.float32(1), part(1)), 256)


def test_an_argument_of_the_wrong_type_is_found(reverse):
    y = np.zeros(64, np.float32)
    for wrong in (np.float64(1), np.int32(1)):
        with kernels.emulated(), pytest.raises(RuntimeError, match="argument 2"):
            reverse((1,), (64,), (y, y, wrong, part(1)), 256)
    with kernels.emulated(), pytest.raises(RuntimeError, match="argument"):
        reverse((1,), (64,), (y, y, np.float32(1)), 256)
    with kernels.emulated(), pytest.raises(RuntimeError, match="argument 1"):
        reverse((1,), (64,), (y, y.astype(np.int32), np.float32(1), part(1)), 256)


def test_more_shared_memory_than_a_block_has(reverse):
    for architecture, most in ((75, 64), (80, 163), (90, 227)):
        with kernels.emulated(architecture=architecture):
            run(reverse, X, 64, shared=most * 1024)
            with pytest.raises(RuntimeError, match=f"{most * 1024} at most"):
                run(reverse, X, 64, shared=most * 1024 + 1)


def test_what_the_emulator_finds_is_an_error(reverse):
    y = np.zeros(100, np.float32)
    with kernels.emulated(), pytest.raises(RuntimeError, match="reverse.cu: .*argument 0"):
        reverse((2,), (64,), (y, None, np.float32(1), part(128)), 256)  # 128 into 100
    assert not y.any()
    with kernels.emulated(), pytest.raises(RuntimeError, match="reverse<float, 1>.*shared"):
        run(reverse, X, 64, shared=128)


def test_writing_a_read_only_array_is_an_error(reverse):
    y = np.zeros(64, np.float32)
    y.flags.writeable = False
    with kernels.emulated(), pytest.raises(RuntimeError, match="argument 0, a read-only array"):
        reverse((1,), (64,), (y, None, np.float32(1), part(64)), 256)
    x = X.copy()
    x.flags.writeable = False
    with kernels.emulated():
        run(reverse, x, 64)


# Compiling for the emulator


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A cache of its own and a compiler that writes down its runs; gives the compilations."""
    monkeypatch.setenv("TINYGAN_CACHE", str(tmp_path / "cache"))
    (real, *more), _, _ = compile.compiler()
    wrapper, log = tmp_path / "c++", tmp_path / "runs"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {real} {" ".join(more)} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    return lambda: sum(".so" in line for line in log.read_text().splitlines())


BUILD = "import sys; from tinygan.kernels.compile import *; from tinygan.kernels import Kernel\n"


def test_what_is_compiled_stays_compiled(counted, tmp_path, folder):
    source = tmp_path / "plain.cu"
    source.write_text('#include "beside.cuh"\n' + REVERSE)
    header = tmp_path / "beside.cuh"
    header.write_text("#define VALUE 5\n")
    kernel = Kernel(str(source), "plain")
    first = compile.build(kernel)
    assert compile.build(kernel) == first and counted() == 1
    code = BUILD + "print(build(Kernel(*sys.argv[1:])))"
    again = subprocess.check_output([sys.executable, "-c", code, str(source), "plain"], text=True)
    assert again.strip() == str(first) and counted() == 1
    assert compile.build(Kernel(str(source), "reverse<float, 2>")) != first and counted() == 2

    y = np.zeros(32, np.int32)
    with kernels.emulated():
        kernel((1,), (32,), (y,), 128)
    assert (y == 5).all() and counted() == 2
    header.write_text("#define VALUE 6\n")
    assert compile.build(kernel) != first and counted() == 3
    assert [p.suffix for p in (tmp_path / "cache").iterdir() if p.suffix != ".so"] == [".o"]


def test_processes_may_compile_the_same_kernel_at_once(counted, tmp_path, folder):
    code = BUILD + "print(build(Kernel(*sys.argv[1:])))"
    command = [sys.executable, "-c", code, str(folder / "reverse.cu"), "plain"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in both}
    assert len(paths) == 1
    kept = [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".o"]
    assert list(map(str, kept)) == list(paths)


def test_flags_make_another_library(folder, monkeypatch):
    kernel, y = Kernel(str(folder / "reverse.cu"), "plain"), np.zeros(32, np.int32)
    for value in (3, 11):
        if value != 3:
            monkeypatch.setenv("TINYGAN_EMULATOR_FLAGS", f"-DVALUE={value} -O1")
        with kernels.emulated():
            kernel((1,), (32,), (y,), 128)
        assert (y == value).all()


def test_a_list_of_kernels_is_compiled_at_once(counted, folder):
    every = [Kernel(str(folder / "reverse.cu"), f"reverse<float, {k}>") for k in (1, 2, 1)]
    compile.compile_all(every, jobs=2)
    assert counted() == 2
    for kernel in every:
        compile.build(kernel)
    assert counted() == 2


def test_a_kernel_that_does_not_compile(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGAN_CACHE", str(tmp_path))
    kernel = Kernel(str(folder / "reverse.cu"), "reverse<flot, 1>")
    with kernels.emulated(), pytest.raises(RuntimeError) as caught:
        run(kernel, X, 10)
    text = str(caught.value)
    assert "reverse<flot, 1> of" in text and "does not compile with" in text and "flot" in text
    log = Path(text.rpartition("The full log is ")[2].removesuffix("."))
    assert "flot" in log.read_text() and not list(tmp_path.glob("*.so"))
    with pytest.raises(RuntimeError, match="does not compile"):
        compile.compile_all([kernel])


def test_a_kernel_that_does_not_compile_for_cupy(folder, stand_in):
    kernel = Kernel(str(folder / "reverse.cu"), "reverse<flot, 1>")
    with pytest.raises(RuntimeError, match=r"reverse<flot, 1>.*not compile with NVRTC \(CuPy 14"):
        run(kernel, stand_in.asarray(X), 10)


def test_a_source_that_is_not_there(folder, tmp_path):
    with kernels.emulated(), pytest.raises(FileNotFoundError, match="nowhere.cu cannot be read"):
        Kernel("nowhere.cu", "f")((1,), (1,), (X,))
    (tmp_path / "lost.cu").write_text('#include "dialect.cuh"\n#include "lost.cuh"\n')
    with pytest.raises(FileNotFoundError, match="lost.cuh, included by .*lost.cu cannot be read"):
        compile.sources(str(tmp_path / "lost.cu"))


def test_no_compiler(reverse, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "g++-0"))
    monkeypatch.setenv("TINYGAN_EMULATOR_FLAGS", "-DNOT_LOADED_YET")
    remedy = r"Install g\+\+ or clang\+\+, or set CXX"
    with kernels.emulated(), pytest.raises(RuntimeError, match=f"CXX is '.*g\\+\\+-0'.*{remedy}"):
        run(reverse, X, 10)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compile, "_compilers", {})
    with kernels.emulated(), pytest.raises(RuntimeError, match=f"there is none. {remedy}"):
        run(reverse, X, 10)


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYGAN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(RuntimeError, match="set TINYGAN_CACHE"):
        compile.cache_directory()
    monkeypatch.delenv("TINYGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compile.cache_directory() == tmp_path / "tinygan"


def test_clang_compiles_too(reverse, monkeypatch):
    if not shutil.which("clang++"):
        pytest.skip("clang++ is not installed")
    monkeypatch.setenv("CXX", "clang++")
    monkeypatch.setenv("TINYGAN_EMULATOR_FLAGS", "-DBY_CLANG")
    with kernels.emulated():
        np.testing.assert_array_equal(run(reverse, X, 150)[:150], expected(X, 150))


# Compiling for a GPU, without one


@needs_nvrtc
@pytest.mark.parametrize("architecture", report.ARCHITECTURES)
def test_a_cubin_and_its_registers(folder, reverse, architecture):
    made = compile.cubin(reverse, architecture)
    assert 8 <= made.registers <= 32 and made.spill_stores == made.spill_loads == 0
    assert made.path.read_bytes().startswith(b"\x7fELF")
    stamp = made.path.stat().st_mtime_ns
    assert compile.cubin(reverse, architecture) == made
    assert made.path.stat().st_mtime_ns == stamp


@needs_nvrtc
def test_spills_are_reported(folder):
    kernel = Kernel(str(folder / "spills.cu"), "spills")
    made = compile.cubin(kernel, 90)
    assert made.registers == 32 and min(made.spill_stores, made.spill_loads, made.stack) >= 16
    rows = report.rows([Instance(kernel, 1024, 0)])
    assert [row[3] for row in rows] == list(report.ARCHITECTURES)
    assert len(spilling(rows)) == 2


@needs_nvrtc
def test_a_kernel_that_does_not_compile_for_a_gpu(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TINYGAN_CACHE", str(tmp_path))
    kernel = Kernel(str(folder / "reverse.cu"), "reverse<flot, 1>")
    with pytest.raises(
        RuntimeError, match=r"reverse<flot, 1>.*not compile with .* sm_90:(.|\n)*flot"
    ):
        compile.cubin(kernel, 90)


def test_nvcc_does_it_where_nvrtc_is_not(folder, monkeypatch, tmp_path):
    if not shutil.which("nvcc"):
        pytest.skip("nvcc is not installed")
    monkeypatch.setenv("TINYGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(compile, "_nvrtc_found", [None])
    spills = Kernel(str(folder / "spills.cu"), "spills")
    assert compile.cubin(spills, 90).spill_stores >= 16
    one = compile.cubin(Kernel(str(folder / "reverse.cu"), "reverse<float, 1>"), 80)
    assert 8 <= one.registers <= 32 and one.spill_stores == 0
    with pytest.raises(RuntimeError, match="with nvcc for sm_90"):
        compile.cubin(Kernel(str(folder / "reverse.cu"), "reverse<flot, 1>"), 90)


def test_neither_nvrtc_nor_nvcc(reverse, monkeypatch, tmp_path):
    monkeypatch.setattr(compile, "_nvrtc_found", [None])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="Install the package nvidia-cuda-nvrtc"):
        compile.cubin(reverse, 90)


# The report


@pytest.mark.parametrize(
    "architecture, threads, registers, shared, blocks, by",
    [
        (80, 256, 32, 0, 8, "threads"),
        (80, 256, 33, 0, 6, "registers"),  # 40 a thread: 12 warps of each scheduler's quarter
        (80, 256, 128, 0, 2, "registers"),
        (80, 128, 168, 0, 3, "registers"),
        (80, 1024, 255, 0, 0, "registers"),
        (80, 32, 16, 0, 32, "blocks"),
        (86, 32, 16, 0, 16, "blocks"),
        (80, 128, 32, 100 * 1024, 1, "shared memory"),
        (90, 128, 32, 100 * 1024, 2, "shared memory"),
        (80, 128, 32, 163 * 1024, 1, "shared memory"),
        (90, 128, 32, 227 * 1024, 1, "shared memory"),
        (75, 128, 32, 32 * 1024, 2, "shared memory"),
        (80, 96, 96, 0, 6, "registers"),
        (80, 96, 95, 102_000, 1, "shared memory"),
    ],
)
def test_blocks_of_a_multiprocessor(architecture, threads, registers, shared, blocks, by):
    found = report.blocks_per_multiprocessor(architecture, threads, registers, shared)
    assert found == (blocks, by)


def spilling(rows):
    return [row for row in rows if row[report.COLUMNS.index("spill bytes")]]


HOSTS = {module.__name__.rpartition(".")[2]: module for module in report.host_modules()}


def test_every_host_module_is_found():
    assert {"conv", "gemm"} <= set(HOSTS)
    launching = {path.stem for path in compile.HERE.glob("*.py") if "Kernel(" in path.read_text()}
    assert launching - {"launch"} <= set(HOSTS)


@needs_nvrtc
@pytest.mark.parametrize("host", HOSTS)
def test_no_kernel_spills(host):
    rows = report.rows(HOSTS[host].instances())
    assert rows
    assert spilling(rows) == []
    assert all(row[report.COLUMNS.index("blocks per multiprocessor")] > 0 for row in rows)


@needs_nvrtc
def test_the_report_is_a_table(folder, reverse, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report, "instances", lambda: [Instance(reverse, 64, 256)])
    report.main([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("kernel  ") and len(lines) == 3
    assert lines[2].split()[:5] == ["reverse<float,", "1>", "64", "256", "90"]
    report.main(["--sm", "90", "--markdown", str(tmp_path / "table.md")])
    table = (tmp_path / "table.md").read_text().splitlines()
    blocks = [row[-2:] for row in report.rows([Instance(reverse, 64, 100 * 1024)])]
    assert blocks == [(1, "shared memory"), (2, "shared memory")]
    assert len(table) == 3 and len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| `reverse<float, 1>` | 64 | 256 | 90 |")


# The suite as on a GPU


@pytest.mark.parametrize("emulated", [True, False])
def test_the_option_emulated_sends_the_tests_arrays_through_kernels(emulated):
    tests = Path(__file__).parent
    names = ["test_threads_are_used_where_the_work_pays", "test_calls_from_several_threads"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", " or ".join(names)]
    command += [str(tests / "test_conv.py"), *(["--emulated"] if emulated else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert ("5 skipped" in done.stdout) == emulated
    assert ("only NumPy's path has threads" in done.stdout) == emulated
    assert ("emulated: 5 of 5 tests launched kernels" in done.stdout) == emulated, done.stdout


# The package


def test_importing_the_kernels_compiles_nothing():
    code = "import sys, tinygan.kernels; print('tinygan.kernels.compile' in sys.modules)"
    done = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert done.strip() == "False"


def test_the_package_holds_every_file():
    root = Path(__file__).parent.parent
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg", encoding="utf-8")
    packages = set(config["options"]["packages"].split())
    here = {
        ".".join(path.parent.relative_to(root).parts)
        for path in (root / "tinygan").rglob("__init__.py")
    }
    assert packages == here | {"tinygan.kernels"}
    patterns = ["*.py", *config["options.package_data"]["tinygan.kernels"].split()]
    left_out = [
        path.name
        for path in (root / "kernels").iterdir()
        if path.is_file() and not any(fnmatch.fnmatch(path.name, p) for p in patterns)
    ]
    assert left_out == [] and os.path.samefile(compile.HERE, Path(kernels.__file__).parent)
