"""Convolutions: against loops written from the trilinear form, to order 4, on both backends."""

import contextlib
import math
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from test_ops import normal

import tinygan
from tinygan import conv, lowering, ops
from tinygan.check import check_gradients
from tinygan.conv import (
    Geometry,
    conv2d,
    conv2d_into,
    conv2d_transpose,
    conv2d_transpose_into,
    conv2d_weight_grad,
    conv2d_weight_grad_into,
)
from tinygan.engine import Primitive, Tensor, grad, grad_values, observe, tape, track
from tinygan.parallel import Scratch

PRIMITIVES = {
    name: value
    for name, value in vars(conv).items()
    if isinstance(value, Primitive) and value.__module__ == conv.__name__
}
ENGINES_OWN = {"add", "sum_to", "broadcast_to"}
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module", autouse=True)
def empty_arrays_hold_nan():
    """What was never written shows: fresh memory often holds the right numbers of the last call."""
    empty = np.empty

    def dirty(shape, dtype=float, *args, **kwargs):
        a = empty(shape, dtype, *args, **kwargs)
        if a.dtype.kind in "fc":
            a.fill(np.nan)
        elif a.dtype == np.uint8:
            a.fill(255)  # bytes of a Room: NaN in every float
        return a

    np.empty = dirty
    yield
    np.empty = empty


# The oracle: T(x, w, z) = Σ x[n, s·p+k−a, s·q+m−b, c]·w[k, m, c, o]·z[n, p, q, o], in loops.


def terms(geometry):
    """(i, j, p, q, k, m) wherever tap (k, m) of grid point (p, q) meets a pixel (i, j)."""
    (height, width), (kh, kw) = geometry.image, geometry.kernel
    (down, across), ((top, bottom), (left, right)) = geometry.stride, geometry.pad
    for p in range(0, (top + height + bottom - kh) // down + 1):
        for q in range(0, (left + width + right - kw) // across + 1):
            for k in range(kh):
                for m in range(kw):
                    i, j = down * p + k - top, across * q + m - left
                    if 0 <= i < height and 0 <= j < width:
                        yield i, j, p, q, k, m


def grid_of(geometry):
    """(P, Q), counted: where the kernel can stand on the padded image."""
    (height, width), (kh, kw) = geometry.image, geometry.kernel
    (down, across), ((top, bottom), (left, right)) = geometry.stride, geometry.pad
    return (
        len(range(0, top + height + bottom - kh + 1, down)),
        len(range(0, left + width + right - kw + 1, across)),
    )


def naive_conv2d(x, w, b=None, *, geometry):
    y = np.zeros((len(x), *grid_of(geometry), w.shape[3]))
    for n in range(len(x)):
        for i, j, p, q, k, m in terms(geometry):
            y[n, p, q] += x[n, i, j] @ w[k, m]
    return y if b is None else y + b


def naive_transpose(z, w, b=None, *, geometry):
    y = np.zeros((len(z), *geometry.image, w.shape[2]))
    for n in range(len(z)):
        for i, j, p, q, k, m in terms(geometry):
            y[n, i, j] += w[k, m] @ z[n, p, q]
    return y if b is None else y + b


def naive_weight_grad(x, z, *, geometry):
    y = np.zeros((*geometry.kernel, x.shape[3], z.shape[3]))
    for n in range(len(x)):
        for i, j, p, q, k, m in terms(geometry):
            y[k, m] += x[n, i, j, :, None] * z[n, p, q]
    return y


NAIVE = {
    conv2d: naive_conv2d,
    conv2d_transpose: naive_transpose,
    conv2d_weight_grad: naive_weight_grad,
}


def close_to_the_loops(op, inputs, geometry, got):
    """Every element is within rounding of the loops', by the size of the terms it is a sum of."""
    exact = [a.astype(np.float64) for a in inputs]
    expected = NAIVE[op](*exact, geometry=geometry)
    scale = NAIVE[op](*map(np.abs, exact), geometry=geometry)
    assert got.shape == expected.shape and got.dtype == inputs[0].dtype
    if got.dtype == np.float64:
        bound = 1e-12 * scale
    else:
        x = inputs[0]
        most = len(x) * math.prod(grid_of(geometry)) if op is conv2d_weight_grad else None
        most = most or math.prod(geometry.kernel) * x.shape[3]
        bound = np.finfo(np.float32).eps * (4 + 2 * math.sqrt(most)) * scale
    wrong = ~(np.abs(got - expected) <= bound)  # and NaN is wrong
    assert not wrong.any(), (geometry, np.argwhere(wrong)[:5], got[wrong][:5], expected[wrong][:5])


def close(a, b):
    """Within rounding: the same sums in another order."""
    assert a.shape == b.shape and a.dtype == b.dtype
    tolerance = 1e-12 if a.dtype == np.float64 else 1e-5
    largest = np.abs(b).max(initial=1)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * largest)


# Geometries and inputs


def whole(low, high):
    """Whole numbers, all as likely: st.integers is fond of the ends."""
    return st.sampled_from(range(low, high + 1))


def twice(low, high):
    return st.tuples(whole(low, high), whole(low, high))


@st.composite
def geometries(draw, images=9, kernels=6, strides=4, pads=4):
    """Kernels that fit, whatever they leave uncovered; every size differs down and across."""
    image, stride = draw(twice(1, images)), draw(twice(1, strides))
    pad = draw(st.tuples(twice(0, pads), twice(0, pads)))
    most = [min(kernels, size + sum(around)) for size, around in zip(image, pad, strict=True)]
    return Geometry(image, draw(st.tuples(whole(1, most[0]), whole(1, most[1]))), stride, pad)


small_geometries = geometries(images=6, kernels=4, strides=3, pads=3)

CORNERS = {
    "a pixel": Geometry(1, 1),
    "kernel of one": Geometry((4, 3), 1),
    "the whole image": Geometry((4, 3), (4, 3)),
    "the whole image, strided": Geometry((3, 4), (3, 4), (2, 3)),
    "as large as the image, padded": Geometry(3, 3, 1, 1),
    "as large as image and pad": Geometry((2, 3), (4, 5), 1, 1),
    "one row": Geometry((1, 7), (1, 3), (1, 2)),
    "one column": Geometry((7, 1), (3, 1), (2, 1)),
    "halving": Geometry(8, 4, 2, 1),
    "leftovers": Geometry((9, 8), (2, 3), (4, 3)),
    "stride above the kernel": Geometry((8, 9), (2, 1), (3, 4)),
    "stride above the image": Geometry((2, 3), (2, 2), (4, 4), 1),
    "stride of one": Geometry((5, 6), (3, 2)),
    "kernel no multiple of the stride": Geometry((7, 8), (5, 4), (2, 3), (2, 1)),
    "pad above the kernel": Geometry((2, 3), (1, 2), (2, 3), 4),
    "pad on one side": Geometry((4, 5), (3, 3), (2, 1), ((0, 2), (3, 0))),
    "pad in the leftover": Geometry((4, 4), (3, 3), (3, 3), ((0, 1), (0, 1))),
}
each_corner = pytest.mark.parametrize("geometry", CORNERS.values(), ids=CORNERS)
OPS = {
    "conv2d": (conv2d, "xwb"),
    "conv2d without bias": (conv2d, "xw"),
    "conv2d_transpose": (conv2d_transpose, "zwc"),
    "conv2d_transpose without bias": (conv2d_transpose, "zw"),
    "conv2d_weight_grad": (conv2d_weight_grad, "xz"),
}
each_op = pytest.mark.parametrize("op, letters", OPS.values(), ids=OPS)
by_columns_and_by_tiles = pytest.mark.parametrize("tiles", [None, 8], ids=["columns", "tiles"])


def inputs_of(letters, geometry, samples=3, channels=(2, 3), seed=0, dtype=np.float64):
    """The arrays of T by their letters; b and c are the biases of its two sides."""
    below, above = channels
    shapes = {
        "x": (samples, *geometry.image, below),
        "w": (*geometry.kernel, below, above),
        "z": (samples, *grid_of(geometry), above),
        "b": (above,),
        "c": (below,),
    }
    return [normal(*shapes[at], seed=seed + ord(at)).astype(dtype) for at in letters]


def transposed(a):
    return np.ascontiguousarray(a.T).T


def swapped(a):
    return np.ascontiguousarray(a.swapaxes(0, -1)).swapaxes(0, -1)


def every_other(a):
    wide = np.full([2 * n + 1 for n in a.shape], np.nan, a.dtype)
    wide[(slice(1, None, 2),) * a.ndim] = a
    return wide[(slice(1, None, 2),) * a.ndim]


def backwards(a):
    return np.ascontiguousarray(a[(slice(None, None, -1),) * a.ndim])[
        (slice(None, None, -1),) * a.ndim
    ]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = [np.copy, transposed, swapped, every_other, backwards, read_only]


def chunks_of(images, geometry, channels, dtype):
    """A size of the chunks, in bytes of columns, that holds so many images."""
    taps = math.prod(grid_of(geometry)) * math.prod(geometry.kernel)
    return images * taps * channels * np.dtype(dtype).itemsize


@contextlib.contextmanager
def lowered(chunk=None, threads=None, tiles=None, many=None):
    """The ops with chunks of so many bytes and so many threads, however small the work.

    With ``tiles``, the ops that can go by tiles do, this many tiles at a time. From ``many``
    channels on, the columns of a transposed convolution are summed where they lie.
    """
    with contextlib.ExitStack() as stack:
        if many is not None:
            stack.enter_context(mock.patch.object(lowering, "MANY", many))
        if chunk is not None:
            stack.enter_context(mock.patch.object(lowering, "CHUNK", chunk))
        if tiles is not None:
            for name, value in {
                "CHANNELS": 1,
                "TILES": 1,
                "WORK": 1,
                "PRODUCT": 1,
                "ROWS": tiles,
            }.items():
                stack.enter_context(mock.patch.object(lowering, name, value))
        if threads is not None:
            stack.enter_context(mock.patch.object(conv, "PAYS", 0))
            stack.enter_context(tinygan.threads(threads))
        yield


# Values


@each_op
@given(
    geometry=geometries(),
    samples=whole(0, 5),
    channels=twice(1, 4),
    dtype=st.sampled_from([np.float32, np.float64]),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    many=st.sampled_from([1, 3, 5]),
    seed=seeds,
)
def test_the_ops_are_the_loops(
    op, letters, geometry, samples, channels, dtype, layouts, many, seed
):
    inputs = inputs_of(letters, geometry, samples, channels, seed % 1000, dtype)
    given_as = [f(a) for f, a in zip(layouts, inputs, strict=False)]
    with lowered(many=many):
        y = op(*given_as, geometry=geometry)
    for a, before in zip(given_as, inputs, strict=True):
        assert a.tobytes() == before.tobytes(), "an input was changed"
        assert not np.shares_memory(y, a)
    assert y.flags.writeable
    close_to_the_loops(op, inputs, geometry, y)


@each_op
@each_corner
@pytest.mark.parametrize("many", [2, 16])  # of two channels: many, and few
def test_the_ops_are_the_loops_in_the_corners(op, letters, geometry, many):
    for dtype in (np.float32, np.float64):
        for samples in (0, 1, 3):
            inputs = inputs_of(letters, geometry, samples, dtype=dtype)
            copies = [a.copy() for a in inputs]
            with lowered(many=many):
                y = op(*inputs, geometry=geometry)
            assert all(map(np.array_equal, inputs, copies))
            assert not any(np.shares_memory(y, a) for a in inputs)
            close_to_the_loops(op, inputs, geometry, y)


@each_op
def test_no_samples_give_zeros_or_nothing(op, letters):
    geometry = CORNERS["halving"]
    y = op(*inputs_of(letters, geometry, samples=0), geometry=geometry)
    assert not y.any() and (len(y) == 0 or op is conv2d_weight_grad)


@pytest.mark.parametrize("pad", [0, 1, (2, 0)])
def test_stride_1_is_scipys_correlation(pad):
    geometry = Geometry((6, 5), (3, 2), 1, pad)
    x, w = inputs_of("xw", geometry, samples=1)
    padded = np.pad(x[0], (*geometry.pad, (0, 0)))
    y = conv2d(x, w, geometry=geometry)
    for o in range(w.shape[3]):
        expected = scipy.signal.correlate(padded, w[..., o], "valid")[..., 0]
        np.testing.assert_allclose(y[0, :, :, o], expected, rtol=1e-12, atol=1e-13)


def test_a_small_case_by_hand():
    """Stride 2, one zero above and on the left, the last row and column uncovered."""
    geometry = Geometry(4, 2, 2, ((1, 0), (1, 0)))
    x = np.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    w = np.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(2, 2, 1, 1)
    y = conv2d(x, w, np.array([0.5]), geometry=geometry)
    assert y[0, :, :, 0].tolist() == [
        [1000 * 1 + 0.5, 100 * 2 + 1000 * 3 + 0.5],
        [10 * 5 + 1000 * 9 + 0.5, 6 + 10 * 7 + 100 * 10 + 1000 * 11 + 0.5],
    ]
    z = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    assert conv2d_transpose(z, w, np.array([0.5]), geometry=geometry)[0, :, :, 0].tolist() == [
        [1000.5, 200.5, 2000.5, 0.5],
        [30.5, 4.5, 40.5, 0.5],
        [3000.5, 400.5, 4000.5, 0.5],
        [0.5, 0.5, 0.5, 0.5],
    ]
    assert conv2d_weight_grad(x, z, geometry=geometry)[:, :, 0, 0].tolist() == [
        [4 * 6, 3 * 5 + 4 * 7],
        [2 * 2 + 4 * 10, 1 * 1 + 2 * 3 + 3 * 9 + 4 * 11],
    ]


# Chunks and threads


@each_op
@given(
    geometry=small_geometries,
    samples=whole(0, 5),
    images=whole(0, 3),
    threads=st.sampled_from([None, 1, 2, 3]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=seeds,
)
def test_chunks_and_threads_change_rounding_only(
    op, letters, geometry, samples, images, threads, dtype, seed
):
    """Several chunks, the last of them smaller, in several parts of the batch."""
    inputs = inputs_of(letters, geometry, samples, seed=seed % 1000, dtype=dtype)
    copies = [a.copy() for a in inputs]
    with lowered(chunks_of(images, geometry, 2, dtype), threads):
        y = op(*inputs, geometry=geometry)
        again = op(*inputs, geometry=geometry)
    assert y.tobytes() == again.tobytes()
    assert all(map(np.array_equal, inputs, copies))
    close_to_the_loops(op, inputs, geometry, y)


@each_op
@each_corner
@pytest.mark.parametrize("threads", [None, 2, 3])
def test_chunks_and_threads_in_the_corners(op, letters, geometry, threads):
    inputs = inputs_of(letters, geometry, samples=5)
    whole = op(*inputs, geometry=geometry)
    for images in (0, 2, 3, 4):
        with lowered(chunks_of(images, geometry, 2, np.float64), threads):
            y = op(*inputs, geometry=geometry)
            assert y.tobytes() == op(*inputs, geometry=geometry).tobytes()
        close(y, whole)
        close_to_the_loops(op, inputs, geometry, y)


@pytest.mark.numpy_path("threads")
@each_op
def test_threads_are_used_where_the_work_pays(op, letters):
    geometry = Geometry(8, 4, 2, 1)
    inputs = inputs_of(letters, geometry, samples=6)
    submit = ThreadPoolExecutor.submit
    with mock.patch.object(ThreadPoolExecutor, "submit", autospec=True, side_effect=submit) as spy:
        with tinygan.threads(3):
            with mock.patch.object(conv, "PAYS", 10**9):
                op(*inputs, geometry=geometry)
            assert spy.call_count == 0
            with mock.patch.object(conv, "PAYS", 0):
                op(*inputs, geometry=geometry)
            assert spy.call_count == 2


@each_op
@each_corner
def test_a_result_stays_as_it_is_when_the_op_runs_again(op, letters, geometry):
    y = op(*inputs_of(letters, geometry), geometry=geometry)
    before = y.copy()
    other = op(*inputs_of(letters, geometry, seed=1), geometry=geometry)
    assert not np.shares_memory(y, other)
    assert np.array_equal(y, before) and not np.array_equal(other, before)


@each_op
def test_calls_from_several_threads_do_not_meet(op, letters):
    geometry = CORNERS["kernel no multiple of the stride"]
    calls = [inputs_of(letters, geometry, seed=seed) for seed in range(4)]
    expected = [op(*inputs, geometry=geometry) for inputs in calls]
    together = threading.Barrier(4)

    def repeated(inputs):
        together.wait(10)
        return [op(*inputs, geometry=geometry).tobytes() for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:  # in this context: what it emulates, they do too
        jobs = [pool.submit(copy_context().run, repeated, inputs) for inputs in calls]
    for y, job in zip(expected, jobs, strict=True):
        assert set(job.result()) == {y.tobytes()}


# Into given arrays


INTO = {
    conv2d: conv2d_into,
    conv2d_transpose: conv2d_transpose_into,
    conv2d_weight_grad: conv2d_weight_grad_into,
}
only_numpy = pytest.mark.numpy_path("results written into given arrays")
SEVERAL = [  # one after the other on the same scratch: larger, smaller, padded elsewhere
    Geometry(8, 4, 2, 1),  # the first two may go by tiles
    Geometry((8, 12), (4, 6), (2, 3), ((1, 1), (3, 0))),
    Geometry((4, 5), (3, 3), (2, 1), ((0, 2), (3, 0))),
    Geometry((9, 8), (2, 3), (4, 3)),
    Geometry((4, 3), (4, 3)),
    Geometry((5, 6), (3, 2), 1, 1),
]


@only_numpy
@each_op
@by_columns_and_by_tiles
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_bits_are_the_ops_whatever_the_scratch_held_before(op, letters, threads, tiles):
    scratch = Scratch()
    with lowered(chunks_of(2, SEVERAL[0], 2, np.float32), threads, tiles):
        for _ in range(2):
            for geometry in SEVERAL:
                for samples, dtype in ((5, np.float32), (0, np.float32), (7, np.float64)):
                    inputs = inputs_of(letters, geometry, samples, dtype=dtype)
                    y = op(*inputs, geometry=geometry)
                    given = np.full_like(y, np.nan)
                    assert INTO[op](given, *inputs, geometry=geometry, scratch=scratch) is given
                    assert given.tobytes() == y.tobytes(), geometry
                    for room in scratch.rooms:  # a careless op would read the last one's numbers
                        for buffer in room.buffers.values():
                            buffer.fill(255)
        assert len(scratch.rooms) == threads


@only_numpy
@each_op
@by_columns_and_by_tiles
@pytest.mark.parametrize("threads", [1, 2])
def test_a_second_call_allocates_nothing(op, letters, threads, tiles):
    geometry = Geometry(16, 4, 2, 1)
    inputs = inputs_of(letters, geometry, 8, (24, 24), dtype=np.float32)
    y, scratch = op(*inputs, geometry=geometry), Scratch()

    def peak(scratch):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        INTO[op](y, *inputs, geometry=geometry, scratch=scratch)
        return tracemalloc.get_traced_memory()[1] - before

    buffered = np.setbufsize(64)  # NumPy's own buffers, of a fixed size, are not what is counted
    with lowered(chunks_of(2, geometry, 24, np.float32), threads, tiles and 32):
        tracemalloc.start()
        try:
            first, second, without = peak(scratch), peak(scratch), peak(None)
        finally:
            tracemalloc.stop()
            np.setbufsize(buffered)
    assert first > 200_000 and without > 200_000, "or the second proves nothing"
    assert second < 20_000  # no array of the work's size, the smallest of which has 36,864 bytes


@only_numpy
@pytest.mark.parametrize("op, letters", [OPS[name] for name in OPS if "weight" not in name])
@by_columns_and_by_tiles
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("geometry", SEVERAL)
def test_after_sees_each_sample_once_and_finished(op, letters, threads, geometry, tiles):
    """It changes what it sees, as an activation does: nothing may be written afterwards."""
    inputs = inputs_of(letters, geometry, 7)
    expected = op(*inputs, geometry=geometry)
    y, seen = np.full_like(expected, np.nan), []

    def after(i, j):
        assert np.abs(y[i:j] - expected[i:j]).max() < 1e-12
        seen.extend((n, threading.get_ident()) for n in range(i, j))
        y[i:j] *= 2

    with lowered(chunks_of(2, geometry, 2, np.float64), threads, tiles):
        INTO[op](y, *inputs, geometry=geometry, after=after)
        whole = op(*inputs, geometry=geometry)
    assert sorted(n for n, _ in seen) == list(range(7))
    assert len({thread for _, thread in seen}) == threads
    assert y.tobytes() == (2 * whole).tobytes()


@each_op
def test_a_result_that_is_not_in_c_order_is_refused(op, letters):
    geometry = CORNERS["halving"]
    inputs = inputs_of(letters, geometry)
    y = op(*inputs, geometry=geometry)
    with pytest.raises(ValueError, match="expected an array in C order"):
        INTO[op](transposed(y), *inputs, geometry=geometry)


# One form


@given(
    geometry=geometries(),
    samples=whole(0, 4),
    channels=twice(1, 4),
    images=st.sampled_from([None, 1, 2]),
    seed=seeds,
)
def test_the_three_ops_are_derivatives_of_one_trilinear_form(
    geometry, samples, channels, images, seed
):
    x, w, z = inputs_of("xwz", geometry, samples, channels, seed % 1000)
    chunk = images and chunks_of(images, geometry, channels[0], x.dtype)
    with lowered(chunk):
        values = [
            np.vdot(z, conv2d(x, w, geometry=geometry)),
            np.vdot(x, conv2d_transpose(z, w, geometry=geometry)),
            np.vdot(w, conv2d_weight_grad(x, z, geometry=geometry)),
        ]
    norms = math.prod(np.linalg.norm(a) for a in (x, w, z))
    assert max(values) - min(values) <= 1e-12 * norms


# Derivatives


class Sample(NamedTuple):
    """One call of a primitive: its letters name the inputs, as in T."""

    op: Primitive
    letters: str
    geometry: Geometry
    channels: tuple = (2, 2)


DERIVED = {
    "asymmetric": Geometry((4, 3), (3, 2), (2, 1), ((1, 0), (0, 2))),
    "whole": Geometry((2, 3), (2, 3)),
    "stride above the kernel": Geometry((4, 4), (1, 2), (2, 3), 1),
}
SAMPLES = {
    f"{name}-{label}": Sample(op, letters, geometry)
    for name, (op, letters) in OPS.items()
    for label, geometry in DERIVED.items()
}
SAMPLES["conv2d-one channel"] = Sample(conv2d, "xwb", DERIVED["asymmetric"], (1, 1))
SAMPLES["conv2d_transpose-one channel"] = Sample(
    conv2d_transpose, "zwc", DERIVED["asymmetric"], (1, 1)
)
SAMPLES["conv2d_weight_grad-one channel"] = Sample(
    conv2d_weight_grad, "xz", DERIVED["asymmetric"], (1, 1)
)
each_sample = pytest.mark.parametrize("s", SAMPLES.values(), ids=SAMPLES)


def test_every_primitive_has_a_sample():
    missing = set(PRIMITIVES.values()) - {s.op for s in SAMPLES.values()}
    assert not missing, f"give each of {missing} a sample in this file"
    assert set(NAIVE) == set(PRIMITIVES.values()), "and a naive loop"


@pytest.mark.parametrize("op", PRIMITIVES.values(), ids=PRIMITIVES)
def test_the_samples_of_a_primitive_reach_each_of_its_rules(op, monkeypatch):
    called = set()

    def spy(i, rule):
        def call(*args, **params):
            called.add(i)
            return rule(*args, **params)

        return call

    monkeypatch.setattr(op, "rules", tuple(spy(i, rule) for i, rule in enumerate(op.rules)))
    for s in SAMPLES.values():
        if s.op is op:
            x = track(inputs_of(s.letters, s.geometry, 2, s.channels))
            y = op(*x, geometry=s.geometry)
            grad_values(y, x, np.ones(y.shape))
    assert called == set(range(len(op.rules)))


def of_order_4(s):
    """The op under a curve: no derivative up to order 4 of it is zero."""

    def f(x):
        y = s.op(*x, geometry=s.geometry)
        return ops.tanh(ops.multiply(y, 0.3))

    return f


@each_sample
def test_derivatives_of_orders_1_to_3_are_right(s):
    inputs = inputs_of(s.letters, s.geometry, 2, s.channels)
    report = check_gradients(
        lambda x: s.op(*x, geometry=s.geometry), inputs, order=3, complex_step=True, directions=1
    )
    assert set(report.worst) == {1, 2, 3}


@pytest.mark.parametrize("name", [name for name in SAMPLES if "asymmetric" in name])
def test_derivatives_of_orders_1_to_4_are_right_under_a_curve(name):
    s = SAMPLES[name]
    report = check_gradients(
        of_order_4(s),
        inputs_of(s.letters, s.geometry, 2, s.channels),
        order=4,
        complex_step=True,
        directions=1,
    )
    assert set(report.worst) == {1, 2, 3, 4}
    assert all(row.engine for row in report.rows), "a derivative of zero proves nothing"


@pytest.mark.parametrize("name", [name for name in SAMPLES if "asymmetric" in name])
def test_derivatives_in_one_argument_are_right(name):
    """The others constant: the complex step makes this argument complex and no other."""
    s = SAMPLES[name]
    inputs = inputs_of(s.letters, s.geometry, 2, s.channels)
    for i, a in enumerate(inputs):

        def f(t, i=i):
            return of_order_4(s)([*inputs[:i], t, *inputs[i + 1 :]])

        check_gradients(f, a, order=2, complex_step=True, directions=1)


def test_derivatives_of_all_three_ops_in_one_another_are_right():
    """conv2d of a transposed convolution, and a convolution with a weight gradient as weights."""
    geometry = DERIVED["asymmetric"]

    def f(t):
        images = conv2d_transpose(t["z"], t["w"], t["c"], geometry=geometry)
        weights = conv2d_weight_grad(t["x"], t["z"], geometry=geometry)
        return conv2d(images, weights, t["b"], geometry=geometry)

    letters = "xwzbc"
    inputs = dict(zip(letters, inputs_of(letters, geometry, 2, (2, 1)), strict=True))
    check_gradients(f, inputs, order=4, complex_step=True, directions=1)


@given(geometry=small_geometries, samples=whole(0, 3), seed=seeds)
def test_gradients_are_the_loops(geometry, samples, seed):
    """The rules, read off T: each gradient is one of the three with ȳ in an argument's place."""
    x, w, z, b, c = inputs_of("xwzbc", geometry, samples, seed=seed % 1000)
    at = {"geometry": geometry}
    for op, inputs, u, expected in [
        (
            conv2d,
            [x, w, b],
            z,
            [naive_transpose(z, w, **at), naive_weight_grad(x, z, **at), z.sum((0, 1, 2))],
        ),
        (
            conv2d_transpose,
            [z, w, c],
            x,
            [naive_conv2d(x, w, **at), naive_weight_grad(x, z, **at), x.sum((0, 1, 2))],
        ),
        (conv2d_weight_grad, [x, z], w, [naive_transpose(z, w, **at), naive_conv2d(x, w, **at)]),
    ]:
        tracked = track(inputs)
        y = op(*tracked, geometry=geometry)
        for found in (grad_values(y, tracked, u), [g.data for g in grad(y, tracked, u)]):
            for g, e in zip(found, expected, strict=True):
                close(g, e)


def calls_in(f):
    """The names of the primitives that f calls, and what f returns."""
    names = []
    with observe(lambda op, args, params, out: names.append(op.__name__)):
        out = f()
    return names, out


@each_op
@pytest.mark.parametrize("how", [grad, grad_values])
def test_a_third_gradient_is_made_of_the_three_ops_and_the_engines_own(op, letters, how):
    geometry = DERIVED["asymmetric"]
    arrays = inputs_of(letters, geometry, 2)
    rng = np.random.default_rng(0)

    def third():
        x = track(arrays)
        y = op(*x, geometry=geometry)
        for step in (grad, grad, how):
            u = [Tensor(rng.standard_normal(t.shape)) for t in (y if type(y) is list else [y])]
            roots = y if type(y) is list else [y]
            x = x + u  # the adjoints too, so that no derivative vanishes
            y = step(roots, x, u)
        return y

    names, found = calls_in(third)
    assert set(names) <= set(PRIMITIVES) | ENGINES_OWN
    assert set(names) >= set(PRIMITIVES), "the three ops lead to one another"
    if how is grad:
        recorded = {node.op.__name__ for node in tape(found) if node.op is not None}
        assert recorded <= set(PRIMITIVES) | ENGINES_OWN
    assert any(np.any(g.data if type(g) is Tensor else g) for g in found)


ONE_TRACKED = [
    (conv2d, "xwb", "x", ["conv2d_transpose"]),
    (conv2d, "xwb", "w", ["conv2d_weight_grad"]),
    (conv2d, "xwb", "b", ["sum_to"]),
    (conv2d_transpose, "zwc", "z", ["conv2d"]),
    (conv2d_transpose, "zwc", "w", ["conv2d_weight_grad"]),
    (conv2d_transpose, "zwc", "c", ["sum_to"]),
    (conv2d_weight_grad, "xz", "x", ["conv2d_transpose"]),
    (conv2d_weight_grad, "xz", "z", ["conv2d"]),
]


@pytest.mark.parametrize("how", [grad, grad_values])
@pytest.mark.parametrize(
    "op, letters, wanted, calls", ONE_TRACKED, ids=[f"{t[0].__name__}-{t[2]}" for t in ONE_TRACKED]
)
def test_only_what_was_asked_for_is_computed(op, letters, wanted, calls, how):
    geometry = DERIVED["asymmetric"]
    inputs = dict(zip(letters, inputs_of(letters, geometry), strict=True))
    t = inputs[wanted] = track(inputs[wanted])
    y = op(*inputs.values(), geometry=geometry)
    assert calls_in(lambda: how(y, t, np.ones(y.shape)))[0] == calls


def test_constant_weights_have_no_gradient_computed_in_a_penalty():
    """Two gradients deep: the images' only."""
    geometry = DERIVED["asymmetric"]
    x, w, b = inputs_of("xwb", geometry)
    t = track(x)

    def penalty():
        y = ops.sum(ops.square(conv2d(t, w, b, geometry=geometry)))
        return grad_values(ops.sum(ops.square(grad(y, t))), t)

    names, _ = calls_in(penalty)
    assert "conv2d_weight_grad" not in names and "conv2d_transpose" in names


def test_a_penalty_through_two_layers_has_the_slope_of_the_loops():
    """‖∇ₓD(x)‖² of conv, leaky ReLU, conv, sum: its gradient in both weights, entry by entry."""
    first = Geometry((5, 4), (3, 3), (2, 1), ((1, 0), (1, 1)))
    second = Geometry(first.grid, (2, 3), (1, 2), ((0, 1), (1, 1)))
    x, w1, b1 = inputs_of("xwb", first, samples=2, channels=(2, 3))
    (w2,) = inputs_of("w", second, channels=(3, 2), seed=1)
    slope, step = 0.2, 1e-3

    def naive(w1, w2):
        hidden = naive_conv2d(x, w1, b1, geometry=first)
        assert np.abs(hidden).min() > 4 * step * np.abs(x).max(), "a kink nearby"
        ones = np.ones((len(x), *grid_of(second), w2.shape[3]))
        back = naive_transpose(ones, w2, geometry=second) * np.where(hidden > 0, 1, slope)
        return (naive_transpose(back, w1, geometry=first) ** 2).sum()

    def penalty(p):
        t = track(x)
        hidden = ops.leaky_relu(conv2d(t, p["w1"], p["b1"], geometry=first), slope=slope)
        return ops.sum(ops.square(grad(ops.sum(conv2d(hidden, p["w2"], geometry=second)), t)))

    params = track({"w1": w1, "b1": b1, "w2": w2})
    value = penalty(params)
    assert value.data == pytest.approx(naive(w1, w2), rel=1e-12)
    found = grad_values(value, params)
    assert not found["b1"].any()
    for name, a in (("w1", w1), ("w2", w2)):
        expected = np.zeros_like(a)
        for at in np.ndindex(a.shape):
            sides = []
            for sign in (1, -1):
                moved = {"w1": w1.copy(), "w2": w2.copy()}
                moved[name][at] += sign * step  # the penalty is a square in each entry: exact
                sides.append(naive(**moved))
            expected[at] = (sides[0] - sides[1]) / (2 * step)
        assert np.abs(found[name] - expected).max() <= 1e-7 * np.abs(expected).max()


# Both libraries


@each_op
@each_corner
def test_the_ops_work_wherever_the_arrays_are(op, letters, geometry, xp):
    for dtype in (np.float32, np.float64):
        inputs = inputs_of(letters, geometry, samples=5, dtype=dtype)
        expected = op(*inputs, geometry=geometry)
        there = [xp.asarray(a) for a in inputs]
        for images in (0, 2, 9):
            with lowered(chunks_of(images, geometry, 2, dtype)):
                y = op(*there, geometry=geometry)
            close(xp.get(y), expected)
        for a, before in zip(there, inputs, strict=True):
            assert np.array_equal(xp.get(a), before)
        none = [xp.asarray(a) for a in inputs_of(letters, geometry, samples=0, dtype=dtype)]
        assert not xp.get(op(*none, geometry=geometry)).any()


@each_op
def test_gradients_are_the_same_wherever_the_arrays_are(op, letters, xp):
    geometry = DERIVED["asymmetric"]
    inputs = inputs_of(letters, geometry)

    def second(arrays):
        x = track(arrays)
        y = ops.sum(ops.square(op(*x, geometry=geometry)))
        return grad_values(sum(ops.sum(ops.square(g)) for g in grad(y, x)), x)

    expected = second(inputs)
    found = second([xp.asarray(a) for a in inputs])
    for g, e in zip(found, expected, strict=True):
        close(xp.get(g), e)


def test_the_stand_in_has_views_by_strides(stand_in):
    import cupy

    as_strided = cupy.lib.stride_tricks.as_strided
    a = stand_in.asarray(np.arange(6.0))
    windows = as_strided(a, (2, 3), (16, 8))
    assert type(windows) is stand_in.ndarray
    assert windows.get().tolist() == [[0, 1, 2], [2, 3, 4]]
    a[2] = 9.0
    assert windows.get().tolist() == [[0, 1, 9], [9, 3, 4]], "a view, not a copy"
    assert as_strided(a).shape == (6,) and as_strided(a[1:], shape=(2,)).get().tolist() == [1, 9]
    assert as_strided(a[4:], (2,), (-8,)).get().tolist() == [4, 3], "within the array's memory"


@pytest.mark.parametrize(
    "use, error",
    [
        (lambda f, a: f(a, (2, 3), (16, 8), writeable=False), TypeError),  # NumPy's, not CuPy's
        (lambda f, a: f(a, (2, 3), (16, 8), subok=True), TypeError),
        (lambda f, a: f(np.ones(6), (2, 3), (16, 8)), TypeError),
        (lambda f, a: np.lib.stride_tricks.as_strided(a, (2, 3), (16, 8)), TypeError),
        (lambda f, a: f(a, (2, 4), (24, 8)), IndexError),  # CuPy would read past the end
        (lambda f, a: f(a, (2,), (-8,)), IndexError),
        (lambda f, a: f(a[2:], (5,), (8,)), IndexError),
    ],
)
def test_the_stand_ins_views_are_strict(use, error, stand_in):
    import cupy

    with pytest.raises(error):
        use(cupy.lib.stride_tricks.as_strided, stand_in.asarray(np.arange(6.0)))


def test_the_stand_in_multiplies_into_an_array(stand_in):
    import cupy

    a, b = stand_in.asarray(normal(3, 2)), stand_in.asarray(normal(2, 4))
    out = cupy.zeros((5, 4))
    for product in (cupy.matmul, np.matmul):
        out[...] = 0
        rows = out[1:4]
        assert product(a, b, out=rows) is rows
        np.testing.assert_array_equal(out.get()[1:4], a.get() @ b.get())
        assert not out.get()[[0, 4]].any()
    column = stand_in.asarray(normal(3, 1))
    product = cupy.empty((3, 4))
    assert cupy.multiply(column, out[1:2], out=product) is product
    np.testing.assert_array_equal(product.get(), column.get() * out.get()[1:2])


@pytest.mark.parametrize(
    "out, error",
    [
        (lambda cupy: np.zeros((3, 4)), TypeError),  # an array of the host
        (lambda cupy: cupy.zeros((4, 3)), ValueError),
        (lambda cupy: cupy.zeros((3, 4), int), TypeError),
    ],
    ids=["NumPy", "shape", "dtype"],
)
def test_the_stand_in_refuses_to_multiply_into_another_kind_of_array(out, error, stand_in):
    import cupy

    a, b = stand_in.asarray(normal(3, 2)), stand_in.asarray(normal(2, 4))
    for product in (cupy.matmul, np.matmul):
        with pytest.raises(error):
            product(a, b, out=out(cupy))


def test_the_stand_in_knows_the_type_of_a_result(stand_in):
    import cupy

    a, b = (stand_in.asarray(np.ones(2, dtype)) for dtype in (np.float32, np.float64))
    for result_type in (cupy.result_type, np.result_type):
        assert result_type(a, b) == np.float64
        assert result_type(a, a) == result_type(a, np.float32) == result_type(a, 2.0) == np.float32
    with pytest.raises(TypeError):
        cupy.result_type(a, dtype=np.float32)


# Geometry


@given(geometries())
def test_the_grid_is_where_the_kernel_can_stand(geometry):
    assert geometry.grid == grid_of(geometry)
    assert all(type(size) is int for size in geometry.grid)


@given(geometries())
def test_transposed_finds_the_image_back(geometry):
    """Of the images with one grid, output_padding says which."""
    leftover = tuple(
        (size + sum(around) - k) % s
        for size, around, k, s in zip(
            geometry.image, geometry.pad, geometry.kernel, geometry.stride, strict=True
        )
    )
    rest = (geometry.kernel, geometry.stride, geometry.pad)
    assert Geometry.transposed(geometry.grid, *rest, leftover) == geometry


@given(
    grid=twice(1, 6),
    kernel=twice(1, 5),
    stride=twice(1, 4),
    pad=twice(0, 3),
)
def test_every_output_padding_gives_the_grid_back(grid, kernel, stride, pad):
    """And PyTorch's size: (P − 1)·stride − 2·pad + dilation·(kernel − 1) + output_padding + 1."""
    for extra in np.ndindex(stride):
        image = tuple(
            (p - 1) * s - 2 * around + 1 * (k - 1) + e + 1
            for p, s, around, k, e in zip(grid, stride, pad, kernel, extra, strict=True)
        )
        if min(image) < 1:
            with pytest.raises(ValueError, match="expected less padding or a larger kernel"):
                Geometry.transposed(grid, kernel, stride, pad, extra)
        else:
            geometry = Geometry.transposed(grid, kernel, stride, pad, extra)
            assert geometry.image == image
            assert geometry.grid == grid
            assert (geometry.kernel, geometry.stride) == (kernel, stride)
            assert geometry.pad == tuple((around, around) for around in pad)


def test_transposed_takes_padding_of_each_side():
    geometry = Geometry.transposed((3, 4), (4, 5), (2, 3), ((1, 0), (2, 3)), (1, 0))
    assert geometry == Geometry((8, 9), (4, 5), (2, 3), ((1, 0), (2, 3)))


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_tensorflows_same_padding_can_be_said(size, kernel, stride):
    """The grid is ⌈size/stride⌉; the odd zero goes below and on the right."""
    wanted = -(-size // stride)
    zeros = max((wanted - 1) * stride + kernel - size, 0)
    pad = (zeros // 2, zeros - zeros // 2)
    assert Geometry(size, kernel, stride, (pad, pad)).grid == (wanted, wanted)


@pytest.mark.parametrize(
    "geometry, full",
    [
        (Geometry(5, 3), ((5, 5), (3, 3), (1, 1), ((0, 0), (0, 0)))),
        (Geometry((5, 6), 3, 2, 1), ((5, 6), (3, 3), (2, 2), ((1, 1), (1, 1)))),
        (Geometry(5, (3, 2), (1, 2), (1, 2)), ((5, 5), (3, 2), (1, 2), ((1, 1), (2, 2)))),
        (Geometry(5, 3, 1, ((1, 2), (3, 4))), ((5, 5), (3, 3), (1, 1), ((1, 2), (3, 4)))),
        (Geometry(np.int64(5), np.int32(3)), ((5, 5), (3, 3), (1, 1), ((0, 0), (0, 0)))),
        (Geometry.transposed(4, 4, 2, 1), ((8, 8), (4, 4), (2, 2), ((1, 1), (1, 1)))),
        (Geometry.transposed(1, 4), ((4, 4), (4, 4), (1, 1), ((0, 0), (0, 0)))),
    ],
    ids=repr,
)
def test_numbers_stand_for_pairs(geometry, full):
    assert (geometry.image, geometry.kernel, geometry.stride, geometry.pad) == full
    assert geometry == Geometry(*full) and hash(geometry) == hash(Geometry(*full))
    assert all(type(size) is int for size in geometry.image + geometry.kernel)


def test_a_geometry_does_not_change():
    with pytest.raises(AttributeError):
        Geometry(5, 3).stride = (2, 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 1), "image is 0; expected a whole number of at least 1, or a pair (down, across)"),
        (((5, -1), 1), "image is (5, -1); expected a whole number of at least 1"),
        (((5, 5, 3), 1), "image is (5, 5, 3); expected a whole number of at least 1, or a pair"),
        ((5.0, 1), "image is 5.0; expected a whole number of at least 1"),
        (("5", 1), "image is '5'; expected a whole number of at least 1"),
        ((5, 0), "kernel is 0; expected a whole number of at least 1"),
        ((5, (3, 0)), "kernel is (3, 0); expected a whole number of at least 1"),
        ((5, None), "kernel is None; expected a whole number of at least 1"),
        ((5, 3, 0), "stride is 0; expected a whole number of at least 1"),
        ((5, 3, (1, 0.5)), "stride is (1, 0.5); expected a whole number of at least 1"),
        ((5, 3, 1, -1), "pad is -1; expected a whole number of at least 0, or a pair"),
        ((5, 3, 1, (0, -1)), "pad is (0, -1); expected a whole number of at least 0"),
        ((5, 3, 1, ((0, 0), (0, -1))), "pad is (0, -1); expected a whole number of at least 0"),
        ((5, 3, 1, ((0, 0), 1)), "pad is ((0, 0), 1); expected a whole number of at least 0"),
        ((5, 3, 1, "same"), "pad is 'same'; expected a whole number of at least 0"),
        (
            ((5, 3), (3, 6), 1, ((0, 0), (1, 1))),
            "kernel (3, 6) does not fit image (5, 3) with pad ((0, 0), (1, 1)); expected image + "
            "pad of at least the kernel's size",
        ),
        (((2, 9), 3), "kernel (3, 3) does not fit image (2, 9) with pad ((0, 0), (0, 0))"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError) as caught:
        Geometry(*arguments)
    assert str(caught.value).startswith("Geometry: " + message)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            (4, 4, 2, 1, 2),
            "Geometry.transposed: output_padding (2, 2) with stride (2, 2); expected less than "
            "the stride",
        ),
        (
            (4, 4, (3, 1), 1, (2, 1)),
            "Geometry.transposed: output_padding (2, 1) with stride (3, 1); expected less than "
            "the stride",
        ),
        (
            (1, (2, 4), 1, (1, 2)),
            "Geometry.transposed: grid (1, 1), kernel (2, 4), stride (1, 1) and pad ((1, 1), "
            "(2, 2)) make an image of (0, 0); expected less padding or a larger kernel",
        ),
        ((0, 4), "Geometry: grid is 0; expected a whole number of at least 1"),
        ((4, 0), "Geometry: kernel is 0; expected a whole number of at least 1"),
        ((4, 4, 0), "Geometry: stride is 0; expected a whole number of at least 1"),
        ((4, 4, 1, -1), "Geometry: pad is -1; expected a whole number of at least 0"),
        ((4, 4, 1, 0, -1), "Geometry: output_padding is -1; expected a whole number of at least 0"),
    ],
)
def test_a_transposed_geometry_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError) as caught:
        Geometry.transposed(*arguments)
    assert str(caught.value).startswith(message)


# What the ops refuse

AT = Geometry((5, 4), (3, 2), 2, 1)
GRID = AT.grid
X, W, Z = (2, 5, 4, 3), (3, 2, 3, 6), (2, *GRID, 6)


@pytest.mark.parametrize(
    "op, shapes, message",
    [
        (
            conv2d,
            [(2, 4, 5, 3), W],
            "x has shape (2, 4, 5, 3); expected (N, H, W, C) = (N, 5, 4, 3)",
        ),
        (conv2d, [(5, 4, 3), W], "x has shape (5, 4, 3); expected (N, H, W, C) = (N, 5, 4, 3)"),
        (
            conv2d,
            [(2, 3, 5, 4), W],
            "x has shape (2, 3, 5, 4); expected (N, H, W, C) = (N, 5, 4, 3)",
        ),
        (
            conv2d,
            [(2, 5, 4, 2), W],
            "x has shape (2, 5, 4, 2); expected (N, H, W, C) = (N, 5, 4, 3)",
        ),
        (
            conv2d,
            [X, (2, 3, 3, 6)],
            "w has shape (2, 3, 3, 6); expected (kh, kw, C, O) with kernel (3, 2)",
        ),
        (
            conv2d,
            [X, (3, 2, 3)],
            "w has shape (3, 2, 3); expected (kh, kw, C, O) with kernel (3, 2)",
        ),
        (conv2d, [X, W, (3,)], "b has shape (3,); expected (6,)"),
        (conv2d, [X, W, (1, 6)], "b has shape (1, 6); expected (6,)"),
        (conv2d, [X, W, ()], "b has shape (); expected (6,)"),
        (
            conv2d_transpose,
            [X, W],
            f"z has shape {X}; expected (N, P, Q, O) = (N, {GRID[0]}, {GRID[1]}, 6)",
        ),
        (
            conv2d_transpose,
            [(2, *GRID, 3), W],
            f"z has shape {(2, *GRID, 3)}; expected (N, P, Q, O) = (N, {GRID[0]}, {GRID[1]}, 6)",
        ),
        (
            conv2d_transpose,
            [(*GRID, 6), W],
            f"z has shape {(*GRID, 6)}; expected (N, P, Q, O) = (N, {GRID[0]}, {GRID[1]}, 6)",
        ),
        (
            conv2d_transpose,
            [Z, (3, 3, 3, 6)],
            "w has shape (3, 3, 3, 6); expected (kh, kw, C, O) with kernel (3, 2)",
        ),
        (
            conv2d_transpose,
            [Z, (6,)],
            "w has shape (6,); expected (kh, kw, C, O) with kernel (3, 2)",
        ),
        (conv2d_transpose, [Z, W, (6,)], "b has shape (6,); expected (3,)"),
        (
            conv2d_weight_grad,
            [(2, 5, 5, 3), Z],
            "x has shape (2, 5, 5, 3); expected (N, H, W, C) = (N, 5, 4, 3)",
        ),
        (
            conv2d_weight_grad,
            [X, (2, 5, 4, 6)],
            f"z has shape (2, 5, 4, 6); expected (N, P, Q, O) = (N, {GRID[0]}, {GRID[1]}, 6)",
        ),
        (
            conv2d_weight_grad,
            [X, (3, *GRID, 6)],
            "x has 2 samples and z 3; expected the same number",
        ),
    ],
)
@pytest.mark.parametrize("tracked", [False, True])
def test_shapes_that_do_not_fit_name_the_op_and_what_was_expected(op, shapes, message, tracked):
    inputs = [np.ones(shape) for shape in shapes]
    given_as = ", ".join(f"float64{list(shape)}" for shape in shapes)
    with pytest.raises(ValueError) as caught:
        op(*(track(inputs) if tracked else inputs), geometry=AT)
    assert str(caught.value) == f"{op.__name__}({given_as}, geometry={AT!r}): {message}"


@each_op
def test_one_float_dtype_in_all_arguments(op, letters):
    for odd in range(len(letters)):
        inputs = inputs_of(letters, AT)
        inputs[odd] = inputs[odd].astype(np.float32)
        with pytest.raises(TypeError, match=rf"{op.__name__}: mixed dtypes .*one float dtype"):
            op(*inputs, geometry=AT)


@each_op
def test_arrays_of_two_libraries_cannot_meet(op, letters, stand_in):
    first, *rest = inputs_of(letters, AT)
    with pytest.raises(TypeError, match=rf"{op.__name__}: arrays of .*tinygan.to_device"):
        op(stand_in.asarray(first), *rest, geometry=AT)


def test_a_bias_by_keyword_loses_no_gradient():
    """Keywords are static: the engine says so."""
    x, w, b = inputs_of("xwb", AT)
    with pytest.raises(TypeError, match="conv2d: b is static and was given a Tensor"):
        conv2d(x, w, b=track(b), geometry=AT)


def test_the_geometry_is_a_keyword():
    x, w = inputs_of("xw", AT)
    with pytest.raises(TypeError):
        conv2d(x, w)
