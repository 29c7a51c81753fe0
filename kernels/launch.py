"""One launch path for our kernels: CuPy arrays go to the GPU, NumPy arrays to the emulator.

The same grid, block, arguments and bytes of shared memory go either way, so
that the code which chooses them is tested on machines without a GPU. CuPy is
never imported here: an array of CuPy means that somebody has imported it.
"""

import ctypes
import sys
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

import numpy as np

ORDERS = ("ascending", "descending", "random")
PRECISIONS = ("fp32", "tf32", "3xtf32")
TENSOR_CORES_FROM = 80  # TF32 and cp.async came with compute capability 8.0

_emulation = ContextVar("tinygan emulation", default=None)
_emulated_now, _ndarray = _emulation.get, np.ndarray  # serves() is asked by every small op
_precision = ContextVar("tinygan precision", default="fp32")


class Limits(NamedTuple):
    """What one multiprocessor holds, and how many there are, for one compute capability.

    Attributes: shared bytes of a multiprocessor, shared bytes that one block may ask for, threads,
        blocks, and the multiprocessors of the largest chip of that kind (emulated devices).
    Source: CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability".
    """

    shared: int
    shared_per_block: int
    threads: int
    blocks: int
    multiprocessors: int


KIB = 1024
LIMITS = {
    75: Limits(64 * KIB, 64 * KIB, 1024, 16, 72),
    80: Limits(164 * KIB, 163 * KIB, 2048, 32, 108),
    86: Limits(100 * KIB, 99 * KIB, 1536, 16, 84),
    89: Limits(100 * KIB, 99 * KIB, 1536, 24, 142),
    90: Limits(228 * KIB, 227 * KIB, 2048, 32, 132),
    100: Limits(228 * KIB, 227 * KIB, 2048, 32, 148),
    120: Limits(100 * KIB, 99 * KIB, 1536, 24, 188),
}


def limits(capability):
    """The :class:`Limits` of a compute capability, or of the newest older one that is known.

    Before 7.5 a block has 48 KiB of shared memory for certain.
    """
    known = [a for a in LIMITS if a <= capability]
    return LIMITS[max(known)] if known else LIMITS[75]._replace(shared_per_block=48 * KIB)


# Where kernels run, and how precisely


class _Emulation(NamedTuple):
    order: int
    seed: int
    architecture: int
    count_banks: bool
    guard: bool
    banks: dict  # filled as kernels run


@contextmanager
def emulated(order="ascending", seed=0, architecture=90, count_banks=False, guard=True):
    """Within the block, NumPy arrays go through our kernels, run by the emulator on the CPU.

    Args:
        order: in which order blocks, and threads between two barriers, run: ``"ascending"``,
            ``"descending"`` or ``"random"`` (drawn from ``seed``). Results must not depend on it.
        architecture: the compute capability to stand for, 90 for 9.0.
        count_banks: count the conflicts in shared memory for :func:`bank_report`.
        guard: run on copies of the arrays in guarded memory, where reading or writing outside an
            array is an error.
    Raises: ValueError for an unknown order or architecture. Where a kernel breaks a rule of the
        GPU, its call raises RuntimeError.
    """
    if order not in ORDERS:
        raise ValueError(f"emulated: order is {order!r}; expected one of {_listed(ORDERS)}")
    if architecture not in LIMITS:
        raise ValueError(
            f"emulated: architecture is {architecture!r}; expected one of {_listed(LIMITS)}"
        )
    state = _Emulation(ORDERS.index(order), seed, architecture, bool(count_banks), guard, {})
    token = _emulation.set(state)
    try:
        yield
    finally:
        _emulation.reset(token)


@contextmanager
def precision(name):
    """Within the block, products of float32 are made in this precision.

    Args:
        name: ``"fp32"`` (as without the block), ``"tf32"`` (tensor cores, inputs rounded to 11
            bits) or ``"3xtf32"`` (three such products, as accurate as fp32).
    Raises: ValueError for another name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; expected one of {_listed(PRECISIONS)}")
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)


def current_precision():
    """The precision of the innermost :func:`precision` block, ``"fp32"`` outside any."""
    return _precision.get()


def check_precision(name, array):
    """``name``, if the device of ``array`` computes in that precision.

    Raises: ValueError for an unknown name; RuntimeError for a device without tensor cores for TF32.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; expected one of {_listed(PRECISIONS)}")
    if name != "fp32" and architecture(array) < TENSOR_CORES_FROM:
        found = architecture(array) / 10
        raise RuntimeError(
            f"precision {name!r} needs a device of compute capability 8.0 or newer; "
            f"{_device_name(array)} has {found:.1f}. Use precision 'fp32' there."
        )
    return name


def serves(array):
    """Whether our kernels take ``array``: a CuPy array, or a NumPy one inside :func:`emulated`."""
    if type(array) is _ndarray:
        return _emulated_now() is not None
    return _is_cupy(array)


def architecture(array):
    """The compute capability of the device of ``array``: 90 for 9.0.

    Raises: RuntimeError for a NumPy array outside :func:`emulated`.
    """
    return _device(array)[0]


def multiprocessors(array):
    """How many multiprocessors the device of ``array`` has.

    Raises: RuntimeError for a NumPy array outside :func:`emulated`.
    """
    return _device(array)[1]


def pointer(array):
    """The address of the first element of ``array``, on its device."""
    return array.ctypes.data if type(array) is np.ndarray else array.data.ptr


def bank_report():
    """How warps met the banks of shared memory, by line of source, inside ``emulated``.

    Returns: one dict for each line and kind of access of the kernels that ran since the block
        ``with emulated(count_banks=True)`` began: kernel, site ("file:line"), kind, accesses,
        wavefronts and ideal, the wavefronts without a conflict.
    Raises: RuntimeError outside such a block.
    """
    state = _emulation.get()
    if state is None or not state.count_banks:
        raise RuntimeError("bank_report() is called inside 'with emulated(count_banks=True)'")
    names = ("accesses", "wavefronts", "ideal")
    return [
        {"kernel": kernel, "site": site, "kind": kind, **dict(zip(names, counts, strict=True))}
        for (kernel, site, kind), counts in state.banks.items()
    ]


def _listed(names):
    return ", ".join(map(repr, names))


def _is_cupy(array):
    return type(array).__module__.partition(".")[0] == "cupy"


_devices = {}  # what a device is does not change: (cupy, id) -> (capability, multiprocessors)


def _device(array):
    if _is_cupy(array):
        cupy = sys.modules["cupy"]
        key = cupy, cupy.cuda.runtime.getDevice()
        if key not in _devices:
            device = cupy.cuda.Device(key[1])
            found = int(device.compute_capability), device.attributes["MultiProcessorCount"]
            _devices[key] = found
        return _devices[key]
    state = _emulation.get()
    if state is None:
        raise RuntimeError(_OUTSIDE)
    return state.architecture, LIMITS[state.architecture].multiprocessors


def _device_name(array):
    return "this GPU" if _is_cupy(array) else "the emulated device"


# Kernels

_OUTSIDE = (
    "a kernel was given a NumPy array outside 'with tinygan.kernels.emulated()'. Move the array "
    "to the GPU with tinygan.to_device(array, 'gpu'), or emulate."
)
_NULL = np.uintp(0)
_NUMBERS = frozenset(kind for kind in np.sctypeDict.values() if np.dtype(kind).kind in "biuf")
_STATIC_LIMIT = 48 * KIB  # more shared memory than this must be asked for, kernel by kernel


class Kernel:
    """One instance of a kernel; cheap to make, compiled at its first call and then kept.

    Args:
        source: the file, in this directory or by an absolute path.
        name: the C++ name with its template arguments: ``"conv2d<float, 1>"``.
    """

    __slots__ = ("source", "name", "_loaded")

    def __init__(self, source, name):
        self.source = source
        self.name = name
        self._loaded = None, None  # the module cupy, and what launches there

    def __repr__(self):
        return f"Kernel({self.source!r}, {self.name!r})"

    def __eq__(self, other):
        if type(other) is not Kernel:
            return NotImplemented
        return (self.source, self.name) == (other.source, other.name)

    def __hash__(self):
        return hash((self.source, self.name))

    def __reduce__(self):
        return Kernel, (self.source, self.name)

    def __call__(self, grid, block, args, shared=0):
        """Run the kernel over ``grid`` blocks of ``block`` threads.

        Args:
            grid, block: tuples of 1 to 3 sizes above 0.
            args: for a pointer an array or None (a null pointer); for a number a NumPy scalar
                (``np.int32(n)``) of the type that the kernel declares; for a struct a structured
                NumPy array of size 1.
            shared: bytes of dynamic shared memory of a block.
        Raises: ValueError for an array that is not C-contiguous or not aligned to its itemsize, and
            for an empty grid. TypeError for what no kernel takes, or arrays of both modules.
            RuntimeError for NumPy arrays outside :func:`emulated`, a kernel that does not compile,
            and what the emulator finds.
        """
        ready, on_gpu, on_cpu = [], False, False
        for position, a in enumerate(args):
            if a is None:
                ready.append(_NULL)
                continue
            if type(a) in _NUMBERS:
                ready.append(a)
                continue
            if type(a) is np.ndarray:
                if a.dtype.kind == "V":
                    if a.size != 1:
                        raise ValueError(
                            f"{self}: argument {position} is a structured array of shape "
                            f"{a.shape}; a struct is passed as an array of size 1"
                        )
                    ready.append(np.ascontiguousarray(a))
                    continue
                on_cpu = True
                address = a.ctypes.data
            elif _is_cupy(a) and hasattr(a, "data"):
                on_gpu = True
                address = a.data.ptr
                here = sys.modules["cupy"].cuda.runtime.getDevice()
                if a.device.id != here:
                    raise ValueError(
                        f"{self}: argument {position} is on GPU {a.device.id}, and the current one "
                        f"is {here}; launch inside 'with cupy.cuda.Device({a.device.id})'"
                    )
            else:
                raise TypeError(
                    f"{self}: argument {position} is {a!r}; expected an array, None, a NumPy "
                    "scalar such as np.int32(3), or a structured NumPy array of size 1"
                )
            if not a.flags.c_contiguous:
                raise ValueError(
                    f"{self}: argument {position}, of shape {a.shape} and strides {a.strides}, is "
                    "not C-contiguous; pass numpy.ascontiguousarray(array)"
                )
            if address % a.itemsize:
                raise ValueError(
                    f"{self}: argument {position}, {a.dtype} at address {address:#x}, is not "
                    f"aligned to {a.itemsize} bytes; pass array.copy()"
                )
            ready.append(a)
        if min(grid) < 1 or min(block) < 1:
            raise ValueError(f"{self}: grid {grid} and block {block}; expected sizes above 0")
        if on_cpu and on_gpu:
            raise TypeError(f"{self}: its arrays are of NumPy and of CuPy; expected one of the two")
        state = _emulation.get()
        if on_gpu or (state is None and not on_cpu and "cupy" in sys.modules):
            self._on_gpu()(grid, block, ready, shared)
        elif state is None:
            raise RuntimeError(_OUTSIDE)
        else:
            run_emulated(self, grid, block, ready, shared, state)

    def _on_gpu(self):
        cupy = sys.modules["cupy"]
        module, launch = self._loaded
        if module is not cupy:  # a stand-in for CuPy comes and goes
            from .compile import gpu_kernel

            kernel, allowed = gpu_kernel(self), {}

            def launch(grid, block, args, shared):
                if shared > _STATIC_LIMIT:
                    device = cupy.cuda.runtime.getDevice()
                    if allowed.get(device, 0) < shared:
                        kernel.max_dynamic_shared_size_bytes = shared
                        allowed[device] = shared
                kernel(grid, block, tuple(args), shared_mem=shared)

            self._loaded = cupy, launch
        return launch


class Instance(NamedTuple):
    """A kernel as the models launch it: what reports and tests go through.

    Attributes: the kernel, the threads of a block, and the bytes of its dynamic shared memory.
    """

    kernel: Kernel
    threads: int
    shared: int = 0


# The emulator's side


class _Options(ctypes.Structure):
    _fields_ = [
        ("order", ctypes.c_int),
        ("seed", ctypes.c_uint),
        ("count_banks", ctypes.c_int),
        ("n_args", ctypes.c_int),
        ("types", ctypes.c_char_p),
        ("bytes", ctypes.POINTER(ctypes.c_longlong)),
    ]


@cache
def _arrays_of(n):
    """The types of n pointers and of n sizes: made anew for each launch, they would be garbage."""
    return ctypes.c_void_p * n, ctypes.c_longlong * n


# The emulator catches what a kernel does outside its arrays by a signal handler of the process.
_one_at_a_time = threading.Lock()


def run_emulated(kernel, grid, block, args, shared, state=None):
    """Run ``kernel`` through the emulator, with arguments as :class:`Kernel` has checked them.

    Raises: RuntimeError with what the emulator found, or if a read-only array was written to.
    """
    from .compile import emulator

    state = state or _emulation.get() or _Emulation(0, 0, 90, False, True, {})
    limits = LIMITS[state.architecture]
    if shared > limits.shared_per_block:
        raise RuntimeError(
            f"{kernel}: {shared} bytes of shared memory; a block of compute capability "
            f"{state.architecture / 10:.1f} has {limits.shared_per_block} at most"
        )
    grid, block = ((ctypes.c_uint * 3)(*size, *(1,) * (3 - len(size))) for size in (grid, block))
    n = len(args)
    pointers, counts = _arrays_of(n)
    cells, types, sizes = pointers(), [], counts()
    kept, read_only = [], []
    for i, a in enumerate(args):
        if a is _NULL:
            cell, code, size = np.array(a), "*", -1
        elif type(a) is np.ndarray and a.dtype.kind != "V":
            cell, code, size = np.array(a.ctypes.data, np.uintp), "*" + a.dtype.str[1:], a.nbytes
            if not a.flags.writeable:
                read_only.append((i, a, a.tobytes()))
        else:
            cell, code, size = np.array(a), a.dtype.str[1:], -1
        kept.append(cell)
        cells[i], sizes[i] = cell.ctypes.data, size
        types.append(code)
    options = _Options(
        state.order,
        state.seed,
        state.count_banks,
        n,
        ",".join(types).encode(),
        sizes if state.guard else None,
    )
    library = emulator(kernel)
    with _one_at_a_time:
        error = library.launch(grid, block, shared, cells, ctypes.byref(options))
        report = library.banks() if state.count_banks else b""
    if error:
        raise RuntimeError(f"{kernel.source}: {error.decode()}")
    for i, a, before in read_only:
        if a.tobytes() != before:
            raise RuntimeError(f"{kernel}: argument {i}, a read-only array, was written to")
    for line in report.decode().splitlines():
        site, kind, *counts = line.split("\t")
        key = kernel.name, site, kind
        so_far = state.banks.get(key, (0, 0, 0))
        state.banks[key] = tuple(x + int(y) for x, y in zip(so_far, counts, strict=True))
