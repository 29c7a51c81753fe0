"""The random streams are pinned to published numbers; everything drawn later rests on them."""

import copy
import math
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import tinygan
from tinygan import backend
from tinygan.backend import Stream

MASK = (1 << 64) - 1


def philox4x64(counter, key):
    """Ten rounds of Philox4x64 in Python integers, from the paper: no NumPy in it."""
    x = [counter >> 64 * i & MASK for i in range(4)]
    k0, k1 = key & MASK, key >> 64
    for _ in range(10):
        p0 = 0xD2E7470EE14C6C93 * x[0]
        p1 = 0xCA5A826395121157 * x[2]
        x = [p1 >> 64 ^ x[1] ^ k0, p1 & MASK, p0 >> 64 ^ x[3] ^ k1, p0 & MASK]
        k0 = k0 + 0x9E3779B97F4A7C15 & MASK
        k1 = k1 + 0xBB67AE8584CAA73B & MASK
    return x


def words(hexadecimal):
    return [int(word, 16) for word in hexadecimal.split()]


def joined(hexadecimal):
    return sum(word << 64 * i for i, word in enumerate(words(hexadecimal)))


# Random123's known-answer vectors for philox4x64-10: counter, key, result.
KNOWN = [
    ("0 0 0 0", "0 0", "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    (
        " ".join(["ffffffffffffffff"] * 4),
        " ".join(["ffffffffffffffff"] * 2),
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
    ),
    (
        "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
        "452821e638d01377 be5466cf34e90c6c",
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
]


@pytest.mark.parametrize("counter, key, result", KNOWN)
def test_reference_gives_the_published_vectors(counter, key, result):
    assert philox4x64(joined(counter), joined(key)) == words(result)


def test_first_block_is_the_published_vector():
    assert Stream(0).bits(4).tolist() == words(KNOWN[0][2])


@given(
    key=st.integers(0, (1 << 128) - 1),
    counter=st.integers(0, (1 << 192) - 2),
    n=st.integers(0, 8),
)
@settings(deadline=None)
def test_bits_are_philox_blocks_from_counter_on(key, counter, n):
    expected = philox4x64(counter, key) + philox4x64(counter + 1, key)
    stream = Stream(key, counter)
    assert stream.bits(n).tolist() == expected[:n]
    assert stream.state == (key, counter + math.ceil(n / 4))


def test_bits_agree_with_numpys_generator():
    key = [7, 11]
    numpys = np.random.Philox(key=np.array(key, np.uint64), counter=0)
    ours = Stream(7 + (11 << 64), counter=1)  # NumPy raises its counter before the first block
    assert np.array_equal(ours.bits(1000), numpys.random_raw(1000))


@pytest.mark.parametrize("counter", [(1 << 64) - 1, (1 << 128) - 1])
def test_counter_carries_into_the_next_word(counter):
    expected = philox4x64(counter, 5) + philox4x64(counter + 1, 5)
    assert Stream(5, counter).bits(8).tolist() == expected


def test_state_resumes_in_the_middle():
    stream = Stream(3)
    stream.normal(7)
    state = stream.state
    expected = stream.uniform(50)
    assert np.array_equal(Stream(*state).uniform(50), expected)


def test_copies_go_on_alike_and_apart():
    stream = Stream(3)
    stream.bits(5)
    twins = [copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))]
    expected = stream.bits(9)
    for twin in twins:
        assert np.array_equal(twin.bits(9), expected)
        assert twin.state == stream.state


@pytest.mark.parametrize(
    "draw",
    [
        lambda s: s.bits(5),
        lambda s: s.uniform(5),
        lambda s: s.normal((3, 3), np.float64),
        lambda s: s.integers(5, 10),
        lambda s: s.permutation(5),
    ],
    ids=["bits", "uniform", "normal", "integers", "permutation"],
)
def test_a_draw_depends_on_its_start_only(draw):
    stream, other = Stream(8), Stream(9)
    draw(stream)
    other.bits(3)  # a stream beside it
    start = stream.state
    draw(other)
    assert np.array_equal(draw(stream), draw(Stream(*start)))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 31])
def test_draws_take_whole_blocks(n):
    cases = [
        (lambda s: s.bits(n), math.ceil(n / 4)),
        (lambda s: s.uniform(n), math.ceil(n / 8)),
        (lambda s: s.uniform(n, np.float64), math.ceil(n / 4)),
        (lambda s: s.normal(n), math.ceil(math.ceil(n / 2) / 4)),
        (lambda s: s.normal(n, np.float64), math.ceil(math.ceil(n / 2) / 2)),
        (lambda s: s.integers(n, 6), math.ceil(n / 8)),
        (lambda s: s.permutation(n), math.ceil(n / 4)),
    ]
    for draw, blocks in cases:
        stream = Stream(1, 10)
        draw(stream)
        assert stream.counter == 10 + blocks


def test_children_differ_and_leave_the_parent():
    parent = Stream(42)
    parent.bits(4)
    state = parent.state
    children = [parent.child(i) for i in range(100)]
    children.append(parent.child(3).child(3))
    assert parent.state == state
    firsts = {tuple(child.bits(4).tolist()) for child in children}
    firsts.add(tuple(parent.bits(4).tolist()))
    assert len(firsts) == 102
    # A child is named by the seed and its number, not by how far the parent went.
    assert parent.child(3).state == Stream(42).child(3).state


def test_childs_key_is_two_words_of_an_unreachable_block():
    low, high = philox4x64((1 << 192) + 6, 42)[:2]
    assert Stream(42).child(6).state == (low | high << 64, 0)


def test_child_is_independent_of_parent():
    parent, child = Stream(42), Stream(42).child(0)
    both = np.corrcoef(parent.normal(20_000, np.float64), child.normal(20_000, np.float64))
    assert abs(both[0, 1]) < 4 / math.sqrt(20_000)


def test_uniform_is_the_stated_formula():
    block = philox4x64(0, 0)
    halves = [half for word in block for half in (word & 0xFFFFFFFF, word >> 32)]
    float32 = Stream(0).uniform(8)
    assert float32.dtype == np.float32
    assert float32.tolist() == [(half >> 8) / 2**24 for half in halves]
    float64 = Stream(0).uniform(4, np.float64)
    assert float64.dtype == np.float64
    assert float64.tolist() == [(word >> 11) / 2**53 for word in block]


def test_normal_is_the_stated_formula():
    block = philox4x64(0, 0)
    u1, u2, v1, v2 = ((word >> 11) / 2**53 for word in block)
    radius = [math.sqrt(-2 * math.log(1 - u)) for u in (u1, u2)]
    expected = [radius[0] * math.cos(2 * math.pi * v1), radius[1] * math.cos(2 * math.pi * v2)]
    expected += [radius[0] * math.sin(2 * math.pi * v1), radius[1] * math.sin(2 * math.pi * v2)]
    np.testing.assert_allclose(Stream(0).normal(4, np.float64), expected, rtol=1e-14)
    np.testing.assert_allclose(Stream(0).normal(3, np.float64), expected[:3], rtol=1e-14)
    halves = np.array(block, np.uint64).view(np.uint32) >> 8
    u, v = (halves / 2.0**24).reshape(2, 4)
    angle = 2 * np.pi * v
    expected = np.sqrt(-2 * np.log(1 - u)) * np.array([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(Stream(0).normal((2, 4)), expected, rtol=2e-5, atol=1e-6)


def test_integers_are_the_stated_formula():
    block = philox4x64(0, 0)
    halves = [half for word in block for half in (word & 0xFFFFFFFF, word >> 32)]
    draw = Stream(0).integers((2, 4), 10)
    assert draw.dtype == np.int64
    assert draw.ravel().tolist() == [half * 10 >> 32 for half in halves]
    assert Stream(0).integers(8, 1 << 32).tolist() == halves
    assert Stream(0).integers(8, 1).tolist() == [0] * 8


def test_permutation_orders_the_words():
    draw = Stream(6).permutation(1000)
    assert sorted(draw.tolist()) == list(range(1000))
    assert np.all(np.diff(Stream(6).bits(1000)[draw].astype(np.float64)) >= 0)
    places = [Stream(seed).permutation(3).tolist() for seed in range(600)]
    counts = [places.count(order) for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0])]
    assert all(60 < count < 140 for count in counts)  # 100 expected, deviation 9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_is_uniform(dtype):
    draw = Stream(1).uniform(100_000, dtype)
    assert draw.min() >= 0
    assert draw.max() < 1
    assert stats.kstest(draw, "uniform").pvalue > 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_is_normal(dtype):
    n = 100_000
    draw = Stream(2).normal(n, dtype)
    assert draw.dtype == dtype
    draw = draw.astype(np.float64)
    assert stats.kstest(draw, "norm").pvalue > 0.01
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(np.mean(draw**power) - moment) < 4 * math.sqrt(variance / n)
    # Cosine and sine halves share their radius; they must not be correlated, nor neighbours.
    for lag in (1, n // 2):
        assert abs(np.mean(draw[:-lag] * draw[lag:])) < 4 / math.sqrt(n - lag)


@pytest.mark.numpy_path("uniform numbers that a test can plant")
def test_normal_is_finite_at_the_ends_of_the_uniform(monkeypatch):
    ends = np.array([[0, 1 - 2**-24], [0, 0]], np.float32)
    monkeypatch.setattr(Stream, "_uniform", lambda self, shape, dtype: ends)
    draw = Stream(0).normal(4)
    assert draw[0] == 0
    assert draw[1] == pytest.approx(math.sqrt(48 * math.log(2)), rel=1e-6)


def test_integers_are_even():
    counts = np.bincount(Stream(3).integers(60_000, 7), minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("shape", [(), 0, 5, (3, 4), [2, 3], (0, 4), (2, 3, 4, 5)])
def test_shapes(shape):
    expected = (shape,) if isinstance(shape, int) else tuple(shape)
    for dtype in (np.float32, np.float64):
        assert Stream(0).uniform(shape, dtype).shape == expected
        assert Stream(0).normal(shape, dtype).shape == expected
    assert Stream(0).integers(shape, 3).shape == expected


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Stream(-1), ValueError, "key is -1"),
        (lambda: Stream(1 << 128), ValueError, r"expected 0 to 2\*\*128 - 1"),
        (lambda: Stream(0, -1), ValueError, "counter is -1"),
        (lambda: Stream(0, 1 << 192), ValueError, r"expected 0 to 2\*\*192 - 1"),
        (lambda: Stream(0.5), TypeError, "integers, got 0.5"),
        (lambda: Stream("seed"), TypeError, "integers, got 'seed'"),
        (lambda: Stream(0, device="cuda"), ValueError, "'cuda'; expected one of 'cpu', 'gpu'"),
        (lambda: Stream(0).child(-1), ValueError, "index is -1"),
        (lambda: Stream(0).child(1 << 63), ValueError, "index is"),
        (lambda: Stream(0).uniform(-1), ValueError, "size is -1"),
        (lambda: Stream(0).normal((2, -3)), ValueError, r"size is \(2, -3\)"),
        (lambda: Stream(0).uniform(3, np.float16), TypeError, "dtype is float16"),
        (lambda: Stream(0).normal(3, np.int64), TypeError, "expected float32 or float64"),
        (lambda: Stream(0).integers(3, 0), ValueError, "high is 0"),
        (lambda: Stream(0).integers(3, (1 << 32) + 1), ValueError, "expected 1 to"),
    ],
)
def test_errors_name_what_was_given(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_refused_draw_does_not_move_the_stream():
    stream = Stream(4)
    for draw in (
        lambda: stream.uniform(3, np.float16),
        lambda: stream.normal(-1),
        lambda: stream.integers(3, 0),
    ):
        with pytest.raises((TypeError, ValueError)):
            draw()
    assert stream.state == (4, 0)


def test_gpu_without_cupy_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # makes "import cupy" fail
    for use in (backend.import_cupy, lambda: Stream(0, device="gpu")):
        with pytest.raises(RuntimeError, match=r"pip install 'tinygan\[cuda13\]'.*device 'cpu'"):
            use()


def fake_cupy(count):
    module = types.ModuleType("cupy")
    module.__version__ = "0"
    runtime = types.SimpleNamespace(getDeviceCount=count)
    module.cuda = types.SimpleNamespace(runtime=runtime)
    return module


def test_gpu_without_a_driver_names_the_remedy(monkeypatch):
    def count():
        raise OSError("insufficient driver")

    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(count))
    with pytest.raises(RuntimeError, match="insufficient driver.*nvidia-smi.*device 'cpu'"):
        backend.to_device(np.zeros(3), "gpu")


def test_gpu_without_a_gpu_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(lambda: 0))
    with pytest.raises(RuntimeError, match="found none. Use device 'cpu'"):
        backend.check_device("gpu")


def test_childs_draw_where_their_parents_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(lambda: 1))
    assert Stream(0, device="gpu").child(1).device == "gpu"
    assert Stream(0).child(1).device == "cpu"


def test_host_arrays_stay_as_they_are():
    array = np.arange(3.0)
    assert backend.array_module(array) is np
    assert backend.to_host(array) is array
    assert backend.to_device(array, "cpu") is array


def test_importing_and_using_the_cpu_does_not_import_cupy(tmp_path):
    # A CuPy that cannot be imported unnoticed, in front of any real one.
    (tmp_path / "cupy.py").write_text("raise SystemExit('cupy was imported')\n")
    code = "from tinygan.backend import Stream; print(Stream(0).normal(3).dtype)"
    root = str(Path(tinygan.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.stderr == ""
    assert result.stdout == "float32\n"


def test_an_array_says_where_it_is(stand_in):
    assert backend.device_of(np.zeros(2)) == "cpu"
    assert backend.device_of(stand_in.module.asarray(np.zeros(2))) == "gpu"
