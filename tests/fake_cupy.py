"""A strict stand-in for CuPy: NumPy arrays behind CuPy's manners, for machines without a GPU.

It refuses what CuPy refuses (implicit conversion to NumPy, meeting NumPy arrays, functions and
keywords that CuPy lacks), returns 0-d arrays where NumPy returns scalars, and goes the way CuPy
goes where the way shows in the numbers: ``np.add.reduceat`` as differences of a running sum,
integer indices out of range wrapped round. It knows only the functions listed below; the
signatures are those of CuPy 14.2. Kernels run through the emulator.

A stream that is captured computes nothing: calls are written down with the addresses of their
arrays, and made when the graph is launched. What CuPy refuses in a capture is refused here, and
besides it what would go wrong quietly: sending data of the host, whose place there is used again
before the graph is launched, and taking memory that the pool does not have already.
"""

import inspect
import math
import operator
import re
import threading
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tinygan import kernels
from tinygan.kernels import compile, launch

SIGNATURES = """
all(a, axis=None, out=None, keepdims=False)
allclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False)
amax(a, axis=None, out=None, keepdims=False)
amin(a, axis=None, out=None, keepdims=False)
any(a, axis=None, out=None, keepdims=False)
append(arr, values, axis=None)
argmax(a, axis=None, dtype=None, out=None, keepdims=False)
argmin(a, axis=None, dtype=None, out=None, keepdims=False)
argsort(a, axis=-1, kind=None)
argwhere(a)
around(a, decimals=0, out=None)
array2string(a, *args, **kwargs)
array_equal(a1, a2, equal_nan=False)
array_split(ary, indices_or_sections, axis=0)
atleast_1d(*arys)
atleast_2d(*arys)
average(a, axis=None, weights=None, returned=False, *, keepdims=False)
bincount(x, weights=None, minlength=None)
broadcast_arrays(*args)
broadcast_to(array, shape)
clip(a, a_min, a_max, out=None)
concatenate(tup, axis=0, out=None, *, dtype=None, casting='same_kind')
copy(a, order='K')
count_nonzero(a, axis=None)
cov(a, y=None, rowvar=True, bias=False, ddof=None, fweights=None, aweights=None, *, dtype=None)
cumprod(a, axis=None, dtype=None, out=None)
cumsum(a, axis=None, dtype=None, out=None)
diag(v, k=0)
diagonal(a, offset=0, axis1=0, axis2=1)
diff(a, n=1, axis=-1, prepend=None, append=None)
digitize(x, bins, right=False)
dot(a, b, out=None)
einsum(*operands, **kwargs)
empty_like(prototype, dtype=None, order='K', subok=None, shape=None)
expand_dims(a, axis)
flatnonzero(a)
flip(a, axis=None)
full_like(a, fill_value, dtype=None, order='K', subok=None, shape=None)
hstack(tup, *, dtype=None, casting='same_kind')
imag(val)
inner(a, b)
isclose(a, b, rtol=1e-05, atol=1e-08, equal_nan=False)
iscomplexobj(x)
lexsort(keys)
max(a, axis=None, out=None, keepdims=False)
mean(a, axis=None, dtype=None, out=None, keepdims=False)
median(a, axis=None, out=None, overwrite_input=False, keepdims=False)
meshgrid(*xi, **kwargs)
min(a, axis=None, out=None, keepdims=False)
moveaxis(a, source, destination)
nan_to_num(x, copy=True, nan=0.0, posinf=None, neginf=None)
nonzero(a)
ones_like(a, dtype=None, order='K', subok=None, shape=None)
outer(a, b, out=None)
pad(array, pad_width, mode='constant', **kwargs)
prod(a, axis=None, dtype=None, out=None, keepdims=False)
ptp(a, axis=None, out=None, keepdims=False)
ravel(a, order='C')
real(val)
repeat(a, repeats, axis=None)
reshape(a, newshape, order='C', *, copy=None)
result_type(*arrays_and_dtypes)
roll(a, shift, axis=None)
rot90(a, k=1, axes=(0, 1))
round(a, decimals=0, out=None)
searchsorted(a, v, side='left', sorter=None)
shape(a)
size(a, axis=None)
sort(a, axis=-1, kind=None)
split(ary, indices_or_sections, axis=0)
squeeze(a, axis=None)
stack(tup, axis=0, out=None, *, dtype=None, casting='same_kind')
std(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False)
sum(a, axis=None, dtype=None, out=None, keepdims=False)
swapaxes(a, axis1, axis2)
take(a, indices, axis=None, out=None)
take_along_axis(a, indices, axis)
tensordot(a, b, axes=2)
tile(A, reps)
trace(a, offset=0, axis1=0, axis2=1, dtype=None, out=None)
transpose(a, axes=None)
tril(m, k=0)
triu(m, k=0)
unique(ar, return_index=False, return_inverse=False, return_counts=False, axis=None)
var(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False)
vstack(tup, *, dtype=None, casting='same_kind')
where(condition, x=None, y=None)
zeros_like(a, dtype=None, order='K', subok=None, shape=None)
"""

UFUNCS = set(
    """
    absolute add arccos arccosh arcsin arcsinh arctan arctan2 arctanh bitwise_and bitwise_count
    bitwise_or bitwise_xor cbrt ceil conjugate copysign cos cosh deg2rad degrees divide divmod
    equal exp exp2 expm1 fabs float_power floor floor_divide fmax fmin fmod frexp gcd greater
    greater_equal heaviside hypot invert isfinite isinf isnan lcm ldexp left_shift less
    less_equal log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not logical_or
    logical_xor matmul maximum minimum modf multiply negative nextafter not_equal positive power
    rad2deg radians reciprocal remainder right_shift rint sign signbit sin sinh sqrt square
    subtract tan tanh trunc
    """.split()
)

METHODS = """
all(axis=None, out=None, keepdims=False)
any(axis=None, out=None, keepdims=False)
argmax(axis=None, out=None, dtype=None, keepdims=False)
argmin(axis=None, out=None, dtype=None, keepdims=False)
clip(min=None, max=None, out=None)
conj()
copy(order='C')
cumprod(axis=None, dtype=None, out=None)
cumsum(axis=None, dtype=None, out=None)
diagonal(offset=0, axis1=0, axis2=1)
dot(b, out=None)
flatten(order='C')
max(axis=None, out=None, keepdims=False)
mean(axis=None, dtype=None, out=None, keepdims=False)
min(axis=None, out=None, keepdims=False)
nonzero()
prod(axis=None, dtype=None, out=None, keepdims=False)
ravel(order='C')
repeat(repeats, axis=None)
reshape(*shape, order='C', copy=None)
round(decimals=0, out=None)
searchsorted(v, side='left', sorter=None)
squeeze(axis=None)
std(axis=None, dtype=None, out=None, ddof=0, keepdims=False)
sum(axis=None, dtype=None, out=None, keepdims=False)
swapaxes(axis1, axis2)
trace(offset=0, axis1=0, axis2=1, dtype=None, out=None)
transpose(*axes)
var(axis=None, dtype=None, out=None, ddof=0, keepdims=False)
"""


def _signatures(text):
    table = {}
    for line in text.strip().splitlines():
        name, _, arguments = line.partition("(")
        scope = {}
        exec(f"def f({arguments}: pass", scope)
        table[name] = inspect.signature(scope["f"])
    return table


SIGNATURES = _signatures(SIGNATURES)
METHODS = _signatures(METHODS)
SCALARS = (bool, int, float, complex, np.generic)
NO_COPY = (
    "Implicit conversion to a NumPy array is not allowed. "
    "Please use `.get()` to construct a NumPy array explicitly."
)


def _plain(value):
    """The NumPy arrays inside; TypeError for NumPy arrays, which CuPy does not take."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if type(value) in (list, tuple):
        return type(value)(_plain(v) for v in value)
    return value


def _call_kernels(function, *sources):
    """What a function of hosts' arrays gives, as arrays of this module: CuPy has no scalars.

    It is called now, or at each launch of the graph that is being captured. Results that are views
    of the ``sources``, nested in lists and tuples, share their memory.
    """
    stream, sources = current_stream(), _arrays(sources)
    if not stream.is_capturing():
        return _placed(function(), sources, lambda y, value: y.__setitem__(..., value))
    with np.errstate(all="ignore"):
        value = function()  # for its shape: the numbers mean nothing yet
    fresh = []
    result = _placed(value, sources, lambda y, value: fresh.append(y))
    if fresh:
        stream.journal.append(lambda: _write_all(fresh, function()))
    return result


def _change_in_place(function):
    """Call a function that writes to arrays, now or at each launch."""
    stream = current_stream()
    if stream.is_capturing():
        stream.journal.append(function)
    else:
        function()


def _arrays(nested):
    if isinstance(nested, ndarray):
        return [nested]
    if isinstance(nested, dict):
        nested = nested.values()
    elif not isinstance(nested, (list, tuple)):
        return []
    return [a for each in nested for a in _arrays(each)]


def _placed(value, sources, write):
    if type(value) in (list, tuple):
        return type(value)(_placed(v, sources, write) for v in value)
    if not isinstance(value, (np.ndarray, np.generic)):
        return value
    value = np.asarray(value)
    for a in sources:
        if np.may_share_memory(value, a._host):
            return wrap(value, a)
    if allocator() is None:
        return wrap(value)
    memory = allocator()(value.nbytes)
    strides = np.empty_like(value).strides
    y = ndarray(value.shape, value.dtype, memory, strides)
    write(y._host, value)
    return y


def _write_all(places, value):
    values = value if type(value) in (list, tuple) else [value]
    for place, value in zip(places, values, strict=True):
        place[...] = value


def _refuse_in_capture():
    """Called by all that waits for the device."""
    if current_stream().is_capturing():
        raise RuntimeError(
            "the current stream is capturing, so synchronous API calls are disallowed"
        )


def _indices(at):
    parts = tuple(i._host if isinstance(i, ndarray) else i for i in _as_tuple(at))
    if all(isinstance(i, (int, np.integer)) for i in parts):
        return *parts, ...  # one element is a view too
    return parts


def _as_tuple(at):
    return at if type(at) is tuple else (at,)


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """cupy.ndarray as far as tinygan may use it."""

    __module__ = "cupy"
    __slots__ = ("_host", "_memory", "base", "__weakref__")
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        if memptr is None and allocator() is not None:
            memptr = allocator()(
                math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
            )
        self._memory, self.base = memptr, None
        buffer, offset = (None, 0) if memptr is None else (memptr.mem.bytes, memptr.offset)
        self._host = np.ndarray(shape, dtype, buffer, offset, strides, order)

    # What NumPy asks

    def __array__(self, dtype=None, copy=None):
        raise TypeError(NO_COPY)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        name = ufunc.__name__
        if name not in UFUNCS or method not in ("__call__", "reduce", "reduceat"):
            return NotImplemented
        out = kwargs.pop("out", (None,))[0]
        for x in inputs + (() if out is None else (out,)):
            if not isinstance(x, (ndarray, np.ndarray, *SCALARS)) and method == "__call__":
                return NotImplemented
        if method == "reduceat":
            if name != "add":
                raise NotImplementedError(f"`cupy_{name}.reduceat` is not supported yet")
            return _add_reduceat(*inputs, **kwargs)
        if method == "reduce" and name not in ("add", "multiply"):
            raise NotImplementedError(f"`cupy_{name}.reduce` is not supported yet")
        if name == "matmul":
            _refuse_cublas()
        plain = tuple(_plain(x) for x in inputs)
        if out is None:
            return _call_kernels(lambda: getattr(ufunc, method)(*plain, **kwargs), inputs)
        host = _plain(out)
        _change_in_place(lambda: getattr(ufunc, method)(*plain, out=host, **kwargs))
        return out

    def __array_function__(self, function, kinds, args, kwargs):
        name = function.__name__
        if name not in SIGNATURES or not function.__module__.startswith("numpy"):
            return NotImplemented
        if not all(issubclass(kind, (ndarray, np.ndarray)) for kind in kinds):
            return NotImplemented
        return _call(name, args, kwargs)

    # Attributes

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    dtype = property(lambda self: self._host.dtype)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    device = property(lambda self: types.SimpleNamespace(id=0))
    T = property(lambda self: wrap(self._host.T, self))
    imag = property(lambda self: _call_kernels(lambda: self._host.imag, self))
    flags = property(
        lambda self: types.SimpleNamespace(
            c_contiguous=self._host.flags.c_contiguous,
            f_contiguous=self._host.flags.f_contiguous,
            owndata=self.base is None,
        )
    )

    @property
    def data(self):
        mem = _NumPys(self._host) if self._memory is None else self._memory.mem
        return MemoryPointer(mem, self._host.ctypes.data - mem.ptr)

    @property
    def real(self):
        return wrap(self._host.real, self) if self._host.dtype.kind == "c" else self

    # Leaving the device: explicit, or a Python number

    def get(self, stream=None, order="C", out=None, blocking=True):
        _refuse_in_capture()
        return self._host.copy(order)

    def item(self):
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def tobytes(self, order="C"):
        return self.get().tobytes(order)

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __complex__(self):
        return complex(self.get())

    def __repr__(self):
        return repr(self.get())

    def __reduce__(self):
        return asarray, (self.get(),)

    # Containers

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, at):
        if _is_mask(at):
            _refuse_in_capture()
        at, host = _indices(at), self._host
        return _call_kernels(lambda: host[at], self)

    def __setitem__(self, at, value):
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("Non-scalar numpy.ndarray cannot be used for fill")
        at, host = _indices(at), self._host
        value = value._host if isinstance(value, ndarray) else value
        if isinstance(value, np.ndarray) and np.may_share_memory(host, value):
            _refuse_overlap(host[at], value)
        _change_in_place(lambda: host.__setitem__(at, value))

    # Methods that are not like NumPy's, and the rest

    def __eq__(self, other):
        if type(other).__eq__ is object.__eq__ or other is None:
            return _call_kernels(lambda: np.zeros(self.shape, bool))
        return np.equal(self, other)

    def __ne__(self, other):
        if type(other).__eq__ is object.__eq__ or other is None:
            return _call_kernels(lambda: np.ones(self.shape, bool))
        return np.not_equal(self, other)

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if casting is not None or subok is not None:
            raise TypeError("casting and subok are not supported yet")
        if not copy and np.dtype(dtype) == self.dtype:
            return self
        host = self._host
        return _call_kernels(lambda: host.astype(dtype, order))

    def argsort(self, axis=-1, kind=None):
        if kind not in (None, "stable"):
            raise ValueError("kind can only be None or 'stable'")
        _refuse_in_capture()
        return _call_kernels(lambda: self._host.argsort(axis, kind="stable"))

    def sort(self, axis=-1, kind=None):
        if kind not in (None, "stable"):
            raise ValueError("kind can only be None or 'stable'")
        _refuse_in_capture()
        self._host.sort(axis, kind="stable")

    def take(self, indices, axis=None, out=None):
        indices = indices._host if isinstance(indices, ndarray) else np.asarray(indices, int)
        host = self._host
        return _call_kernels(lambda: np.take(host, indices, axis, mode="wrap"))

    def view(self, dtype=None, type=None):
        return wrap(self._host.view() if dtype is None else self._host.view(dtype), self)

    def fill(self, value):
        host = self._host
        value = value.item() if isinstance(value, ndarray) else value
        _change_in_place(lambda: host.fill(value))

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()


def _method(name):
    signature = METHODS[name]

    def method(self, *args, **kwargs):
        signature.bind(*args, **kwargs)
        if name in WAITING:
            _refuse_in_capture()
        if name in CUBLAS:
            _refuse_cublas()
        sources = [self, args, kwargs]
        args, kwargs = _plain(args), {key: _plain(value) for key, value in kwargs.items()}
        function = getattr(self._host, name)
        return _call_kernels(lambda: function(*args, **kwargs), sources)

    method.__name__ = name
    return method


for _name in METHODS:
    setattr(ndarray, _name, _method(_name))


def wrap(host, of=None):
    """A NumPy array as an array of this module, as a view of another if one is given."""
    a = ndarray.__new__(ndarray)
    a._host = host
    a._memory = None if of is None else of._memory
    a.base = of if of is None or of.base is None else of.base
    return a


def _refuse_overlap(y, a):
    """CuPy copies in no particular order: an array that overlaps with its copy is a mistake."""
    same = y.ctypes.data == a.ctypes.data and y.strides == a.strides
    if np.shares_memory(y, a) and not same:
        raise RuntimeError(f"an array of strides {a.strides} is copied to its own memory")


def _is_mask(at):
    return any(isinstance(i, ndarray) and i.dtype == bool for i in _as_tuple(at))


def _call(name, args, kwargs):
    SIGNATURES[name].bind(*args, **kwargs)  # a TypeError where CuPy has no such argument
    if name == "empty_like":
        return empty_like(*args, **kwargs)
    if name == "where" and not isinstance(args[0], ndarray):
        raise AttributeError("'bool' object has no attribute 'astype'")
    if name == "take":
        return args[0].take(*args[1:], **kwargs)
    if name in ("argsort", "sort") and kwargs.get("kind") not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")
    if name in WAITING or (name == "where" and len(args) + len(kwargs) == 1):
        _refuse_in_capture()
    if name in CUBLAS:
        _refuse_cublas()
    if name in JOINING and len(args[0]) > 8:
        _refuse_host("the addresses of more than 8 arrays, which it joins,")
    sources = [args, kwargs]
    args, kwargs = _plain(args), {key: _plain(value) for key, value in kwargs.items()}
    return _call_kernels(lambda: getattr(np, name)(*args, **kwargs), sources)


def _add_reduceat(array, indices, axis=0, dtype=None, out=None):
    """As CuPy does it: what a running sum gained from one index to the next."""
    array, indices = _plain(array), np.append(_plain(indices), _plain(array).shape[axis])
    shape = [1 if i == axis else n for i, n in enumerate(array.shape)]
    sums = array.cumsum(axis, dtype)
    sums = np.append(np.zeros(shape, sums.dtype), sums, axis)
    mask = (indices[:-1] >= indices[1:]).reshape(-1, *[1] * (array.ndim - axis - 1))
    gained = sums.take(indices[1:], axis) - sums.take(indices[:-1], axis)
    return wrap(np.where(mask, array.take(indices[:-1], axis), gained))


# Streams, graphs and memory

# What waits for the device, to know the size of its result or for Thrust.
WAITING = set("argsort argwhere bincount flatnonzero lexsort median nonzero sort unique".split())
CUBLAS = {"dot", "einsum", "inner", "matmul", "tensordot"}
JOINING = {"concatenate", "stack", "hstack", "vstack"}
_thread = threading.local()  # CuPy keeps these by thread too


def current_stream():
    """cupy.cuda.get_current_stream()"""
    stack = getattr(_thread, "streams", None)
    return stack[-1] if stack else Stream.null


def allocator():
    """The allocator of the innermost using_allocator; None: NumPy's, which no pool knows of."""
    stack = getattr(_thread, "allocators", None)
    return stack[-1] if stack else _refused if current_stream().is_capturing() else None


def _refused(nbytes):
    raise CUDARuntimeError(
        f"cudaErrorStreamCaptureUnsupported: {nbytes} bytes of new memory while a stream is "
        "capturing (CuPy would take them, at an address that nobody keeps for the graph)"
    )


def _refuse_cublas():
    if current_stream().is_capturing():
        raise NotImplementedError(
            "calling cuBLAS API during stream capture is currently unsupported"
        )


def _refuse_host(what="an array"):
    if current_stream().is_capturing():
        raise RuntimeError(
            f"{what} would be sent from memory of the host while a stream is capturing (CuPy would "
            "let it pass, and the graph would read there at every launch)"
        )


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError"""


class Stream:
    """cupy.cuda.Stream; work is done at once, or written down while it is captured."""

    count = 0

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        if not null:
            Stream.count += 1
        self.ptr = 0 if null else Stream.count
        self.journal = None
        self.invalid = False

    def __eq__(self, other):
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self):
        return self.ptr

    def __enter__(self):
        _thread.__dict__.setdefault("streams", []).append(self)
        return self

    def __exit__(self, *args):
        _thread.streams.pop()

    def synchronize(self):
        if self.is_capturing():
            self.invalid = True
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is "
                "capturing"
            )

    def is_capturing(self):
        return self.journal is not None

    def begin_capture(self, mode=None):
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.is_capturing():
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is capturing already")
        self.journal, self.invalid = [], False

    def end_capture(self):
        if not self.is_capturing():
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is not capturing")
        journal, self.journal = self.journal, None
        if self.invalid:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error "
                "during capture"
            )
        graph = Graph.__new__(Graph)
        graph.calls, graph.launches = journal, 0
        return graph


Stream.null = Stream(null=True)


class Graph:
    """cupy.cuda.Graph: calls, made again in the same memory at each launch."""

    def __init__(self, *args, **kwargs):
        raise NotImplementedError("graphs are made by capturing a stream")

    def launch(self, stream=None):
        self.launches += 1
        with np.errstate(all="ignore"):
            for call in self.calls:
                call()

    def upload(self, stream=None):
        pass


class _NumPys:
    """Memory of no pool: that of a NumPy array."""

    def __init__(self, host):
        self.host = host
        self.ptr = host.ctypes.data

    bytes = property(lambda self: self.host.reshape(-1).view(np.uint8))


class Memory:
    """cupy.cuda.Memory: what cudaMalloc gives."""

    def __init__(self, size):
        memory = np.full(size + 512, 0xFF, np.uint8)
        offset = -memory.ctypes.data % 512
        self.bytes = memory[offset : offset + size]
        self.ptr, self.size = self.bytes.ctypes.data, size


class _Block:
    """Memory of a pool while somebody holds it; given back, it is filled with NaN."""

    def __init__(self, pool, stream, memory):
        self.pool, self.stream, self.memory = pool, stream, memory
        self.bytes, self.ptr, self.size = memory.bytes, memory.ptr, memory.size

    def __del__(self):
        if not any(stream.is_capturing() for stream in self.pool.streams):
            self.bytes.fill(0xFF)
        self.pool.kept[self.stream].append(self.memory)


class MemoryPointer:
    """cupy.cuda.MemoryPointer"""

    def __init__(self, mem, offset):
        self.mem, self.offset = mem, offset

    ptr = property(lambda self: self.mem.ptr + self.offset)

    def __add__(self, offset):
        return MemoryPointer(self.mem, self.offset + offset)


class MemoryPool:
    """cupy.cuda.MemoryPool: freed memory serves later requests of as many bytes, by stream.

    CuPy's splits blocks and joins them again; here a request gets the smallest free block that is
    large enough, whole. ``streams`` are those that asked.
    """

    def __init__(self, allocator=None):
        self.allocator = allocator or (lambda size: MemoryPointer(Memory(size), 0))
        self.kept, self.streams, self.total = {}, set(), 0

    def malloc(self, size):
        stream = current_stream()
        self.streams.add(stream)
        size = -(-max(size, 1) // 512) * 512
        kept = self.kept.setdefault(stream.ptr, [])
        fits = [memory for memory in kept if memory.size >= size]
        if fits:
            memory = min(fits, key=lambda memory: (memory.size, memory.ptr))
            kept.remove(memory)
        else:
            if stream.is_capturing():
                _refused(size)
            memory = self.allocator(size).mem
            self.total += size
        return MemoryPointer(_Block(self, stream.ptr, memory), 0)

    def free_all_blocks(self, stream=None):
        self.total = self.used_bytes()
        for kept in self.kept.values():
            kept.clear()

    def total_bytes(self):
        return self.total

    def used_bytes(self):
        return self.total - sum(memory.size for kept in self.kept.values() for memory in kept)


@contextmanager
def using_allocator(allocator=None):
    """cupy.cuda.using_allocator"""
    _thread.__dict__.setdefault("allocators", []).append(allocator)
    try:
        yield
    finally:
        _thread.allocators.pop()


# The module


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    if isinstance(a, ndarray):
        return a if dtype in (None, a.dtype) and not copy else a.astype(dtype or a.dtype)
    _refuse_host()
    host = np.array(a, dtype=dtype, order=order or "K")
    if host.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    return _call_kernels(lambda: host)


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if isinstance(obj, ndarray):
        host, order = obj._host, order
        return _call_kernels(lambda: np.array(host, dtype, order=order, ndmin=ndmin))
    return asarray(np.array(_plain(obj), dtype, ndmin=ndmin))


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def arange(start, stop=None, step=1, dtype=None):
    return _call_kernels(lambda: np.arange(start, stop, step, dtype))


def as_strided(x, shape=None, strides=None):
    """CuPy's views are not checked: they read and write whatever lies there. These are."""
    if not isinstance(x, ndarray):
        raise TypeError(f"Argument 'memptr' has incorrect type: x is {type(x)}")
    view = np.lib.stride_tricks.as_strided(x._host, shape, strides)
    owner = x._host
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    (low, high), (start, stop) = map(np.lib.array_utils.byte_bounds, (view, owner))
    if view.size and not start <= low <= high <= stop:
        raise IndexError(f"a view of shape {shape} and strides {strides} leaves its array's memory")
    return wrap(view, x)


# Kernels: compiled and launched as CuPy does, but by the emulator


class CompileException(Exception):
    """cupy.cuda.compiler.CompileException"""


class CUDADriverError(RuntimeError):
    """cupy.cuda.driver.CUDADriverError"""


class RawModule:
    """cupy.RawModule of a code that includes one source of kernels, found by the options' -I."""

    def __init__(
        self,
        *,
        code=None,
        path=None,
        options=(),
        backend="nvrtc",
        translate_cucomplex=False,
        enable_cooperative_groups=False,
        name_expressions=None,
        jitify=None,
    ):
        if not isinstance(code, str) or type(options) is not tuple:
            raise TypeError(f"code is {type(code)} and options {type(options)}: a str and a tuple")
        if path is not None or backend != "nvrtc":
            raise NotImplementedError("this stand-in compiles code, by NVRTC")
        if not any(option in ("-std=c++17", "--std=c++17") for option in options):
            raise CompileException("NVRTC of CuPy compiles C++14 if no option says more")
        (name,) = re.findall(r'^#include "(.*)"$', code, re.M)
        folders = [Path(option[2:]) for option in options if option.startswith("-I")]
        files = [folder / name for folder in folders if (folder / name).is_file()]
        if not files:
            raise CompileException(f"cannot open source file {name!r}")
        self._source = str(files[0])
        self._names = tuple(name_expressions or ())

    def get_function(self, name):
        _refuse_in_capture()  # a module is loaded by the driver, which may wait
        if name not in self._names:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        return RawKernel(kernels.Kernel(self._source, name))


class RawKernel:
    """What RawModule.get_function returns; ``launches`` counts its calls."""

    def __init__(self, kernel):
        self.launches = 0
        self._kernel = kernel
        self._shared = launch.KIB * 48
        try:
            compile.emulator(kernel)
        except RuntimeError as error:
            raise CompileException(str(error)) from error

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, value):
        if value > launch.LIMITS[90].shared_per_block:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self._shared = value

    def __call__(self, grid, block, args, *, shared_mem=0):
        if type(grid) is not tuple or type(block) is not tuple:
            raise TypeError(f"Expected tuple, got {type(grid)} and {type(block)}")
        if shared_mem > self._shared:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self.launches += 1
        args = [_argument(a) for a in args]
        _change_in_place(lambda: launch.run_emulated(self._kernel, grid, block, args, shared_mem))


def _argument(a):
    if isinstance(a, ndarray):
        return a._host
    if isinstance(a, np.ndarray) and a.size != 1:
        raise TypeError(
            f"You are trying to pass a numpy.ndarray of shape {a.shape} as a kernel parameter. "
            "Only numpy.ndarrays of size one can be passed by value."
        )
    if not isinstance(a, (np.generic, np.ndarray)):
        raise TypeError(f"Unsupported type {type(a)}")
    return a.copy() if isinstance(a, np.ndarray) else a  # by value: a graph keeps it


class Device:
    """cupy.cuda.Device of an H100."""

    compute_capability = "90"
    attributes = {"MultiProcessorCount": 132}

    def __init__(self, index=0):
        self.id = operator.index(index)

    def synchronize(self):
        current_stream().synchronize()


def empty(shape, dtype=float, order="C"):
    """Memory as it is: nothing is written, in a graph neither."""
    return ndarray(shape, dtype, order=order)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    like = np.empty_like(_plain(prototype), dtype, order, shape=shape)
    return ndarray(like.shape, like.dtype, strides=like.strides)


def _creator(name):
    make = getattr(np, name)
    return lambda *args, **kwargs: _call_kernels(lambda: make(*args, **kwargs))


def _function(name):
    if name not in UFUNCS:
        return lambda *args, **kwargs: _call(name, args, kwargs)

    def call(*args, out=None, **kwargs):
        if out is not None:
            kwargs["out"] = (out,)  # what NumPy makes of it
        return ndarray.__array_ufunc__(None, getattr(np, name), "__call__", *args, **kwargs)

    return call


def module():
    """A module to be put at ``sys.modules["cupy"]``."""
    cupy = types.ModuleType("cupy", __doc__)
    for name in UFUNCS | set(SIGNATURES):
        setattr(cupy, name, _function(name))
    for name in ("zeros", "ones", "full", "eye", "linspace"):
        setattr(cupy, name, _creator(name))
    for name in ("float16", "float32", "float64", "int32", "int64", "bool_", "newaxis"):
        setattr(cupy, name, getattr(np, name))
    cupy.ndarray, cupy.asarray, cupy.array, cupy.empty = ndarray, asarray, array, empty
    cupy.asnumpy, cupy.arange = asnumpy, arange
    cupy.get_array_module = lambda *args: cupy if any(isinstance(a, ndarray) for a in args) else np
    cupy.lib = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=as_strided))
    cupy.__version__ = "14.2.0 (stand-in)"
    cupy.cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(
            getDeviceCount=lambda: 1,
            getDevice=lambda: 0,
            CUDARuntimeError=CUDARuntimeError,
        ),
        Device=type("Device", (Device,), {}),  # a test may turn it into another device
        Stream=Stream,
        Graph=Graph,
        Memory=Memory,
        MemoryPool=MemoryPool,
        MemoryPointer=MemoryPointer,
        get_current_stream=current_stream,
        using_allocator=using_allocator,
        compiler=types.SimpleNamespace(CompileException=CompileException),
    )
    cupy.RawModule = RawModule
    return cupy
