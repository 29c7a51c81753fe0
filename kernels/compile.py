"""From a source and a name to something that runs: by g++ or clang++ for the emulator, by NVRTC.

What was compiled is kept on disk, under the hash of everything that went into
it: no change of a source, a header, a compiler or a flag is ever missed.
"""

import ctypes
import os
import re
import sys
import threading
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.M)
_CXX_FLAGS = "-std=c++17 -O2 -fPIC -ffp-contract=off -Wno-unknown-pragmas".split()


def sources(source):
    """The files that ``source`` is made of, itself first, each as (path, bytes).

    Raises: FileNotFoundError that names the file and who includes it.
    """
    found, waiting = {}, [(HERE / source, None)]
    while waiting:
        path, by = waiting.pop(0)
        if path in found:
            continue
        try:
            found[path] = path.read_bytes()
        except OSError as error:
            whose = f", included by {by}" if by else ""
            raise FileNotFoundError(
                f"kernel source {path}{whose} cannot be read: {error}"
            ) from None
        for name in _INCLUDE.findall(found[path]):
            beside, ours = path.parent / name.decode(), HERE / name.decode()
            waiting.append((beside if beside.exists() else ours, path))
    return list(found.items())


def digest(source, *more):
    """SHA-256 (hex) of the files of ``source`` and of the texts ``more``."""
    import hashlib

    h = hashlib.sha256()
    for path, data in sources(source):
        h.update(b"%s %d\n" % (path.name.encode(), len(data)))
        h.update(data)
    for text in more:
        h.update(b"%d\n" % len(text))
        h.update(str(text).encode())
    return h.hexdigest()


def cache_directory():
    """Where compiled kernels are kept: $TINYGAN_CACHE, or tinygan in the user's cache directory.

    Raises: RuntimeError if it cannot be made.
    """
    given = os.environ.get("TINYGAN_CACHE")
    if not given:
        given = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "tinygan")
    path = Path(given).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(
            f"compiled kernels cannot be kept in {path} ({error}); set TINYGAN_CACHE to a "
            "directory that can be written to"
        ) from error
    return path


# The emulator


class Library:
    """A kernel compiled for the emulator: ``launch`` and ``banks`` of its shared library."""

    def __init__(self, path):
        self.path = path
        library = ctypes.CDLL(str(path))
        self.launch, self.banks = library.tinygan_launch, library.tinygan_banks
        self.launch.restype = self.banks.restype = ctypes.c_char_p
        self.launch.argtypes = [
            ctypes.c_uint * 3,
            ctypes.c_uint * 3,
            ctypes.c_size_t,
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.c_void_p,
        ]


_libraries = {}
_loading = threading.Lock()


def emulator(kernel):
    """The :class:`Library` of ``kernel``, compiled if that was not done before.

    Environment: CXX names the compiler, TINYGAN_EMULATOR_FLAGS adds flags (sanitizers).
    Raises: RuntimeError if there is no compiler, or the kernel does not compile.
    """
    key = kernel, os.environ.get("TINYGAN_EMULATOR_FLAGS", "")
    found = _libraries.get(key)
    if found is None:
        path = build(kernel)
        with _loading:
            found = _libraries.get(key)
            if found is None:
                found = _libraries[key] = Library(path)
    return found


_compilers = {}


def compiler():
    """The C++ compiler as (command, version, flags): $CXX, or g++, or clang++.

    Raises: RuntimeError if there is none.
    """
    import platform
    import shlex
    import shutil
    import subprocess

    given = os.environ.get("CXX", "")
    if given in _compilers:
        return _compilers[given]
    command = shlex.split(given) or [shutil.which("g++") or shutil.which("clang++") or ""]
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        what = f"CXX is {given!r}, which does not run ({error})" if given else "there is none"
        raise RuntimeError(
            f"the emulator of GPU kernels needs a C++17 compiler; {what}. Install g++ or clang++, "
            "or set CXX to one."
        ) from None
    flags = list(_CXX_FLAGS)
    if "clang" not in done.stdout.lower():
        # Each library has an emulator of its own; g++ would let them share its variables.
        flags += ["-fno-gnu-unique"]
    native = subprocess.run(
        [*command, "-march=native", "-x", "c++", "-E", "-o", os.devnull, os.devnull],
        capture_output=True,
    )
    if native.returncode == 0:
        flags += ["-march=native"]
    # "native" is another machine's where a home directory is shared: its CPU is part of the key.
    version = "\n".join([done.stdout, platform.machine(), _cpu()])
    _compilers[given] = command, version, flags
    return _compilers[given]


def _cpu():
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    kinds = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in text.splitlines() if line.startswith(kinds)}))


def build(kernel):
    """The path of ``kernel``'s library for the emulator, compiled if it is not in the cache."""
    source, object_ = HERE / kernel.source, _emulator_object()
    text = f'#define TG_EMULATOR 1\n#include "{source.name}"\nTG_EXPORT({kernel.name})\n'
    # The object first: after the kernel, g++'s sanitizers do not find the kernel's lines.
    flags = ["-shared", "-I", str(source.parent), "-I", str(HERE), str(object_)]
    return _compiled(kernel, text, ".so", flags, object_.name)


def _emulator_object():
    """The emulator without a kernel, which is linked to every kernel: compiled once."""
    with _compiling:  # once, however many threads ask
        return _compiled(_EMULATOR, '#include "emulator.cpp"\n', ".o", ["-c", "-I", str(HERE)])


class _Source(NamedTuple):
    source: str
    name: str


_EMULATOR = _Source("emulator.cpp", "emulator")
_compiling = threading.Lock()


def _compiled(kernel, text, suffix, more, *of_key):
    """The path of ``text`` compiled by g++ or clang++, from the cache if it is there."""
    import shlex
    import subprocess
    import tempfile

    command, version, flags = compiler()
    flags = [*flags, *shlex.split(os.environ.get("TINYGAN_EMULATOR_FLAGS", ""))]
    key = digest(kernel.source, text, version, *command, *flags, *of_key)
    path = cache_directory() / f"{_stem(kernel.name)}-{key[:32]}{suffix}"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="compiling-") as directory:
        generated, made = Path(directory, "kernel.cpp"), Path(directory, "kernel" + suffix)
        generated.write_text(text)
        done = subprocess.run(
            [*command, *flags, *more, str(generated), "-o", str(made)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(_failure(kernel, " ".join(command), done.stderr))
        os.replace(made, path)  # whole or not at all, whoever else compiles it at the same time
    return path


def _failure(kernel, by, log):
    """The message of a kernel that does not compile; the whole log goes to a file."""
    key = digest(kernel.source, kernel.name, by)[:32]
    path = cache_directory() / f"{_stem(kernel.name)}-{key}.log"
    path.write_text(log)
    lines = log.splitlines()
    first = next((i for i, line in enumerate(lines) if "error" in line), 0)
    shown = "\n".join(f"    {line}" for line in lines[first : first + 5])
    return (
        f"kernel {kernel.name} of {kernel.source} does not compile with {by}:\n{shown}\n"
        f"The full log is {path}."
    )


def _stem(name):
    return re.sub(r"\W+", "_", name)[:60].strip("_")


def compile_all(kernels, jobs=None):
    """Compile ``kernels`` for the emulator, ``jobs`` at a time (one for each processor).

    Raises: RuntimeError of the first, in their order, that does not compile.
    """
    from concurrent.futures import ThreadPoolExecutor

    compiler()  # its error once, not once for each
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        list(pool.map(build, dict.fromkeys(kernels)))  # g++ is a process: threads suffice


# The GPU

# What CuPy adds to the options it is given, so that a report is about the same code.
_CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")


def _options(source):
    directories = dict.fromkeys((str((HERE / source).parent), str(HERE)))
    return ("-std=c++17", *(f"-I{directory}" for directory in directories))


def gpu_kernel(kernel):
    """``kernel`` as a RawKernel of the CuPy that is imported; NVRTC compiles it for its device.

    Raises: RuntimeError if it does not compile.
    """
    cupy = sys.modules["cupy"]
    # CuPy's cache looks at the text it is given, not at what that includes: the hash is in it.
    code = f'// {digest(kernel.source)}\n#include "{Path(kernel.source).name}"\n'
    try:
        module = cupy.RawModule(
            code=code, options=_options(kernel.source), name_expressions=(kernel.name,)
        )
        return module.get_function(kernel.name)
    except cupy.cuda.compiler.CompileException as error:
        by = f"NVRTC (CuPy {cupy.__version__})"
        raise RuntimeError(_failure(kernel, by, str(error))) from error


class Cubin(NamedTuple):
    """What the compiler made of a kernel for one architecture.

    Attributes: registers of a thread; bytes of a thread that it stores to and loads from memory
        for lack of registers (spills), and of its stack; bytes of static shared memory of a block;
        the path of the cubin.
    """

    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    static_shared: int
    path: Path


def cubin(kernel, architecture):
    """``kernel`` compiled for ``architecture`` (90 for 9.0), which needs no GPU: a :class:`Cubin`.

    NVRTC of the package nvidia-cuda-nvrtc does it, or nvcc where that is not installed.

    Raises: RuntimeError if neither is there, or the kernel does not compile.
    """
    library = nvrtc_library()
    make, version = (_by_nvrtc, library) if library else (_by_nvcc, _nvcc())
    key = digest(kernel.source, kernel.name, str(version), str(architecture))[:32]
    path = cache_directory() / f"{_stem(kernel.name)}-sm_{architecture}-{key}.cubin"
    log = path.with_suffix(".ptxas")
    if not path.exists():
        code, symbol, text = make(kernel, architecture)
        start = text.index(f"Compiling entry function '{symbol}'")
        end = text.find("Compiling entry function", start + 1)
        _write(log, text[start : end if end > 0 else len(text)].encode())
        _write(path, code)  # after its log: where it is, both are
    text = log.read_text()

    def count(pattern):
        found = re.search(pattern, text)
        return int(found[1]) if found else 0

    return Cubin(
        count(r"Used (\d+) registers"),
        count(r"(\d+) bytes spill stores"),
        count(r"(\d+) bytes spill loads"),
        count(r"(\d+) bytes stack frame"),
        count(r"(\d+) bytes smem"),
        path,
    )


def cubin_all(kernels, architectures, jobs=None):
    """{(kernel, architecture): Cubin}, ``jobs`` compiled at a time (one for each processor).

    Raises: as :func:`cubin`, of the first in their order.
    """
    from concurrent.futures import ThreadPoolExecutor

    keys = [(kernel, arch) for kernel in dict.fromkeys(kernels) for arch in architectures]
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:  # NVRTC lets threads run side by side
        return dict(zip(keys, pool.map(lambda key: cubin(*key), keys), strict=True))


def _write(path, data):
    """Whole or not at all, whoever else writes it at the same time."""
    import tempfile

    with tempfile.NamedTemporaryFile(dir=path.parent, prefix="writing-", delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


_nvrtc_found = []


def nvrtc_library():
    """The path of libnvrtc in the installed package nvidia-cuda-nvrtc, or None."""
    if not _nvrtc_found:
        files = (
            file
            for place in sys.path
            for pattern in ("nvidia/cu*/lib/libnvrtc.so*", "nvidia/cuda_nvrtc/lib/libnvrtc.so*")
            for file in sorted(Path(place or ".").glob(pattern))
        )
        _nvrtc_found.append(next(files, None))
    return _nvrtc_found[0]


def _by_nvrtc(kernel, architecture):
    """(cubin, symbol, log)"""
    nvrtc = ctypes.CDLL(str(nvrtc_library()))
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p

    def check(status):
        if status:
            raise RuntimeError(f"{kernel}: {nvrtc.nvrtcGetErrorString(status).decode()}")

    def fetch(what):
        size = ctypes.c_size_t()
        check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        data = ctypes.create_string_buffer(size.value)
        check(getattr(nvrtc, f"nvrtcGet{what}")(program, data))
        return data.raw

    code = f'#include "{Path(kernel.source).name}"\n'.encode()
    name, symbol = kernel.name.encode(), ctypes.c_char_p()
    options = [f"-arch=sm_{architecture}", "--ptxas-options=-v"]
    options += [*_options(kernel.source), *_CUPY_OPTIONS]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    program = ctypes.c_void_p()
    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), code, b"kernel.cu", 0, None, None))
    try:
        check(nvrtc.nvrtcAddNameExpression(program, name))
        failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
        log = fetch("ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise RuntimeError(_failure(kernel, f"NVRTC for sm_{architecture}", log))
        check(nvrtc.nvrtcGetLoweredName(program, name, ctypes.byref(symbol)))
        return fetch("CUBIN"), symbol.value.decode(), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _nvcc():
    import shutil

    found = shutil.which("nvcc")
    if not found:
        raise RuntimeError(
            "compiling a kernel for a GPU needs NVRTC or nvcc, and neither was found. Install the "
            "package nvidia-cuda-nvrtc (pip install 'tinygan[test]'), or put nvcc on the PATH."
        )
    return found


def _by_nvcc(kernel, architecture):
    """(cubin, symbol, log)"""
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        file, made = Path(directory, "kernel.cu"), Path(directory, "kernel.cubin")
        file.write_text(
            f'#include "{Path(kernel.source).name}"\n'
            f"void instantiate() {{ auto kernel = &{kernel.name}; (void)kernel; }}\n"
        )
        command = [_nvcc(), "-cubin", f"-arch=sm_{architecture}", "-Xptxas=-v", "-ftz=true"]
        done = subprocess.run(
            [*command, *_options(kernel.source), "-o", str(made), str(file)],
            capture_output=True,
            text=True,
        )
        log = done.stdout + done.stderr
        if done.returncode:
            raise RuntimeError(_failure(kernel, f"nvcc for sm_{architecture}", log))
        # Of a template it is the only instance; its symbol has an I after the name.
        name = re.match(r"[\w:]+", kernel.name)[0].rpartition("::")[2]
        after = "I" if "<" in kernel.name else "(?!I)"
        symbol = re.search(rf"entry function '(\w*\d{name}{after}\w*)'", log)[1]
        return made.read_bytes(), symbol, log
