"""The emulator of GPU kernels: what it computes, and that it catches what it is there to catch."""

import os
import shutil
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from emulated import Library, build

ORDERS = {"ascending": 0, "descending": 1, "random": 2}

SOURCE = r"""
#include "dialect.cuh"

// A row of tiles, reversed, through two stages of asynchronous copies. BUG plants a fault.
constexpr int NONE = 0, NO_BARRIER_BEFORE = 1, NO_BARRIER_AFTER = 2, LATE_WAIT = 3, NO_COMMIT = 4;
template <int BUG> __global__ void pipeline(const float* x, float* y, int tiles) {
  TG_SHARED(float, s);
  const int n = blockDim.x, i = threadIdx.x;
  auto fetch = [&](int tile) {
    if (tile < tiles) tg::copy_async<4>(s + tile % 2 * n + i, x + tile * n + i, true);
    if (BUG != NO_COMMIT) tg::copy_commit();
  };
  fetch(0);
  for (int tile = 0; tile < tiles; tile++) {
    fetch(tile + 1);
    tg::copy_wait<BUG == LATE_WAIT ? 2 : 1>();
    if (BUG != NO_BARRIER_BEFORE) __syncthreads();
    y[tile * n + i] = s[tile % 2 * n + n - 1 - i];
    if (BUG != NO_BARRIER_AFTER) __syncthreads();
  }
  tg::copy_wait<0>();
}

// One thread of each kind of misuse.
__global__ void divergent_barrier() {
  if (threadIdx.x < 40)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void early_exit(int thread) {
  if (threadIdx.x == (unsigned)thread) return;
  __syncthreads();
}
__global__ void deadlock() {
  if (threadIdx.x < 16) __syncthreads();
  else __syncwarp();
}
__global__ void mask_without_caller() { __syncwarp(0xffff); }
__global__ void mask_with_exited() {
  if (threadIdx.x < 4) return;
  __syncwarp();
}
__global__ void exit_while_waited_for() {
  if (threadIdx.x == 31) return;
  __syncwarp();
}
__global__ void divergent_warp(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(~0u, 1.f, 0);
  else y[threadIdx.x] = __shfl_sync(~0u, 2.f, 0);
}
__global__ void divergent_masks() {
  if (threadIdx.x < 16) __syncwarp();
  else __syncwarp(0xffff8000);
}
__global__ void late_mask() {
  if (threadIdx.x < 16 || threadIdx.x == 31) __syncwarp();
  else __syncwarp(0xffff0000);
}
__global__ void shuffle_from_outside(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffff, 1.f, 20);
}
__global__ void copy_in_flight(const float* x) {
  TG_SHARED(float, s);
  tg::copy_async<4>(s, x, true);
  tg::copy_commit();
}
template <int BYTES> __global__ void copy_offset(const float* x, int from, int to) {
  TG_SHARED(float, s);
  tg::copy_async<BYTES>(s + to, x + from, true);
  tg::copy_commit();
  tg::copy_wait<0>();
}
template <class V> __global__ void load_offset(float* y, int offset) {
  TG_SHARED(float, s);
  y[0] = reinterpret_cast<const float&>(
      static_cast<const V&>(tg::load_shared(reinterpret_cast<const V*>(s + offset))));
}
__global__ void store_offset(int offset) {
  TG_SHARED(float, s);
  tg::store_shared(s + offset, 1.f);
}
__global__ void shared_raw(float* y, int offset, int write) {
  TG_SHARED(float, s);
  __syncthreads();
  if (threadIdx.x != 3) return;
  if (write) s[offset] = 1;
  else y[0] = s[offset];
}
__global__ void global_raw(float* x, float* y, int offset, int write) {
  __syncthreads();
  if (threadIdx.x != 3) return;
  if (write) x[offset] = 1;
  else y[0] = x[offset];
}
template <int BYTES> __global__ void deep(float* y) {
  volatile char local[BYTES];
  for (int i = 0; i < BYTES; i++) local[i] = 1;
  y[0] = local[7];
}

// What is computed.
__global__ void poison(float* y) {
  TG_SHARED(float, s);
  y[blockIdx.x * blockDim.x + threadIdx.x] = s[threadIdx.x];
  s[threadIdx.x] = 1;
}
__global__ void copy_phases(const float* x, float* y, int ok) {
  TG_SHARED(float, s);
  const int i = threadIdx.x, n = blockDim.x;
  s[i] = 7;
  tg::copy_async<4>(s + i, x + i, ok);
  tg::copy_commit();
  y[i] = s[i];
  tg::copy_wait<1>();
  y[n + i] = s[i];
  tg::copy_wait<0>();
  y[2 * n + i] = s[i];
}
__global__ void wide_copies(const float* x, float* y) {
  TG_SHARED(float, s);
  if (threadIdx.x == 0) {
    tg::copy_async<16>(s, x, true);
    tg::copy_async<8>(s + 4, x + 4, true);
    tg::copy_async<16>(s + 8, nullptr, false);
    tg::copy_commit();
    tg::copy_wait<0>();
    tg::store_shared(reinterpret_cast<float2*>(s + 6), make_float2(-1, -2));
    for (int i = 0; i < 12; i++) y[i] = s[i];
  }
}
template <int MT, int NT> __global__ void tiles(const float* a, const float* b, float* d) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4, K = 8, N = 8 * NT;
  unsigned fa[MT][4], fb[NT][2];
  float fd[MT][NT][4];
  for (int m = 0; m < MT; m++)
    for (int i = 0; i < 4; i++)
      fa[m][i] = __float_as_uint(a[(16 * m + g + i % 2 * 8) * K + t + i / 2 * 4]);
  for (int n = 0; n < NT; n++)
    for (int i = 0; i < 2; i++) fb[n][i] = __float_as_uint(b[(t + 4 * i) * N + 8 * n + g]);
  for (int m = 0; m < MT; m++)
    for (int n = 0; n < NT; n++)
      for (int i = 0; i < 4; i++)
        fd[m][n][i] = d[(16 * m + g + i / 2 * 8) * N + 8 * n + 2 * t + i % 2];
  tg::mma(fd, fa, fb);
  for (int m = 0; m < MT; m++)
    for (int n = 0; n < NT; n++)
      for (int i = 0; i < 4; i++)
        d[(16 * m + g + i / 2 * 8) * N + 8 * n + 2 * t + i % 2] = fd[m][n][i];
}
__global__ void matrices(float* y, int pitch) {  // word c of row r of matrix j is 100 j + 10 r + c
  TG_SHARED(float, s);
  const int lane = threadIdx.x;
  float* row = s + lane * pitch;
  for (int c = 0; c < 4; c++) row[c] = lane / 8 * 100 + lane % 8 * 10 + c;
  __syncwarp();
  unsigned r[4];
  tg::ldmatrix_x4(r, row);
  for (int j = 0; j < 4; j++) y[lane * 4 + j] = __uint_as_float(r[j]);
}
template <class V> __global__ void strided_load(int stride, int lanes) {
  TG_SHARED(float, s);
  if ((int)threadIdx.x < lanes)
    tg::load_shared(reinterpret_cast<const V*>(s + threadIdx.x * stride));
}
template <class V> __global__ void strided_store(int stride) {
  TG_SHARED(float, s);
  tg::store_shared(reinterpret_cast<V*>(s + threadIdx.x * stride), V{});
}
template <int BYTES> __global__ void strided_copy(int stride) {
  TG_SHARED(float, s);
  tg::copy_async<BYTES>(s + threadIdx.x * stride, nullptr, false);
  tg::copy_wait<0>();
  tg::copy_commit();
  tg::copy_wait<0>();
}
template <class T> __global__ void shuffles(const T* x, T* y) {
  const int i = threadIdx.x, n = blockDim.x;
  const T v = x[i];
  y[i] = __shfl_sync(~0u, v, 3);
  y[n + i] = __shfl_xor_sync(~0u, v, 5);
  y[2 * n + i] = __shfl_down_sync(~0u, v, 3, 8);
  y[3 * n + i] = __shfl_sync(~0u, v, 1, 8);
  if (i % 32 < 16) y[4 * n + i] = __shfl_xor_sync(0xffff, v, 8);
  else y[4 * n + i] = __shfl_xor_sync(0xffff0000, v, 1);
  y[5 * n + i] = __shfl_up_sync(~0u, v, 4);
  y[6 * n + i] = __shfl_xor_sync(~0u, v, 8, 8);
}
__global__ void warp_exchange(float* y) {
  TG_SHARED(float, s);
  for (int k = 0; k < 3; k++) {
    s[threadIdx.x] = 10 * k + threadIdx.x;
    __syncwarp();
    y[k * blockDim.x + threadIdx.x] = s[threadIdx.x ^ 31];
    __syncwarp();
  }
}
__global__ void atomics(int* i, unsigned* u, float* f, int* old) {
  old[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(i, 2);
  atomicAdd(u, 3u);
  atomicAdd(f, .5f);
}
__global__ void rounding(const float* x, unsigned* y) {
  y[threadIdx.x] = tg::to_tf32(x[threadIdx.x]);
}
__global__ void arithmetic(const float* a, const float* b, const float* c, float* fused,
                           double* wide, float* apart, unsigned* high) {
  const int i = threadIdx.x;
  fused[i] = tg::multiply_add(a[i], b[i], c[i]);
  wide[i] = tg::multiply_add((double)a[i] + 1e-9, (double)b[i] + 1e-9, (double)c[i]);
  apart[i] = a[i] * b[i] + c[i];
  high[i] = __umulhi(__float_as_uint(a[i]), __float_as_uint(b[i]));
  if (__umul64hi(~0ull, 1ull << 63) != (1ull << 63) - 1) high[i] = 0;
}
__global__ void where(int* y) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  y[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
}
__global__ void visited(int* next, int* order) {
  if (threadIdx.x == 0) order[atomicAdd(next, 1)] = blockIdx.x;
}
__global__ void sequence(int* next, int* order) { order[threadIdx.x] = atomicAdd(next, 1); }
struct Scale { double by; int add; };
__global__ void transform(const float* x, float* y, Scale scale, long long n, bool negate) {
  if (threadIdx.x < n) y[threadIdx.x] = (x[threadIdx.x] * scale.by + scale.add) * (negate ? -1 : 1);
}
__global__ void shift(float* to, const float* from) {
  const float v = from[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = v;
}
"""

INSTANCES = {
    **{f"pipeline_{bug}": f"pipeline<{bug}>" for bug in range(5)},
    **{
        name: name
        for name in """divergent_barrier early_exit deadlock mask_without_caller mask_with_exited
        exit_while_waited_for divergent_warp divergent_masks late_mask shuffle_from_outside
        copy_in_flight
        store_offset shared_raw global_raw poison copy_phases wide_copies matrices
        warp_exchange atomics rounding arithmetic where visited sequence transform shift""".split()
    },
    **{f"copy_offset_{n}": f"copy_offset<{n}>" for n in (4, 8, 16)},
    **{f"strided_copy_{n}": f"strided_copy<{n}>" for n in (4, 8, 16)},
    **{
        f"{kernel}_{v}": f"{kernel}<{v}>"
        for kernel in ("load_offset", "strided_load", "strided_store")
        for v in ("float", "float2", "float4", "double", "double2")
    },
    **{f"tiles_{m}{n}": f"tiles<{m}, {n}>" for m, n in ((1, 1), (2, 3))},
    "deep_100": "deep<100 << 10>",
    "deep_130": "deep<130 << 10>",
    "shuffles_float": "shuffles<float>",
    "shuffles_double": "shuffles<double>",
}


def line(text, after=0):
    """The line of ``SOURCE`` that holds ``text``."""
    return 1 + next(i for i, row in enumerate(SOURCE.splitlines()) if i >= after and text in row)


@pytest.fixture(scope="session", params=["g++", "clang++"])
def emulator(request, tmp_path_factory):
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    path = tmp_path_factory.mktemp("emulator") / "kernels.so"
    return Library(build(path, SOURCE, INSTANCES, request.param))


def i32(*values):
    return [np.int32(v) for v in values]


def floats(*shape):
    return np.zeros(shape, np.float32)


# Order and results


def run_pipeline(emulator, bug, order, seed=0):
    x, y = np.arange(5 * 64, dtype=np.float32), floats(5 * 64)
    error = emulator(
        f"pipeline_{bug}", [1], [64], x, y, *i32(5), shared=512, order=order, seed=seed
    )
    return error, np.array_equal(y.reshape(5, 64), x.reshape(5, 64)[:, ::-1])


def test_every_order_gives_the_same_bits(emulator):
    runs = [(0, 0), (1, 0), *((2, seed) for seed in range(5))]
    assert [run_pipeline(emulator, 0, *run) for run in runs] == [(None, True)] * 7


@pytest.mark.parametrize(
    "bug", [1, 2, 3, 4], ids=["no barrier before", "no barrier after", "late wait", "no commit"]
)
def test_a_planted_bug_shows_in_some_order(emulator, bug):
    runs = [(0, 0), (1, 0), (2, 0)]
    assert any(run_pipeline(emulator, bug, *run) != (None, True) for run in runs)


def test_orders_are_what_they_say(emulator):
    def of(kernel, grid, block, n, **options):
        order = np.zeros(n, np.int32)
        assert emulator(kernel, grid, block, np.zeros(1, np.int32), order, **options) is None
        return list(order)

    assert of("visited", [9], [32], 9) == list(range(9))
    assert of("visited", [9], [32], 9, order=1) == list(range(9))[::-1]
    shuffled = of("visited", [9], [32], 9, order=2, seed=1)
    assert sorted(shuffled) == list(range(9)) and shuffled != sorted(shuffled)
    assert shuffled == of("visited", [9], [32], 9, order=2, seed=1)
    assert shuffled != of("visited", [9], [32], 9, order=2, seed=2)
    assert of("sequence", [1], [70], 70) == list(range(70))
    assert of("sequence", [1], [70], 70, order=1) == list(range(70))[::-1]
    mixed = of("sequence", [1], [70], 70, order=2)
    assert sorted(mixed) == list(range(70)) and mixed != sorted(mixed)


def test_indices_in_three_dimensions(emulator):
    y = np.zeros((2 * 3 * 4, 5 * 2 * 3), np.int32)
    assert emulator("where", [4, 3, 2], [5, 2, 3], y) is None
    assert np.array_equal(y, np.arange(24)[:, None] * 1000 + np.arange(30))


def test_arguments_by_value(emulator):
    x, y = np.arange(4, dtype=np.float32), floats(4)
    scale = np.array((0.5, 3), np.dtype([("by", "f8"), ("add", "i4")], align=True))
    args = x, y, scale, np.int64(3), np.bool_(True)
    assert emulator("transform", [1], [4], *args) is None
    assert list(y) == [-3, -3.5, -4, 0]


# Barriers and warps


def test_threads_at_different_barriers(emulator):
    first = line("__syncthreads();", line("void divergent_barrier"))
    for order, (thread, here, there) in enumerate([(40, 2, 0), (39, 0, 2)]):
        text = emulator("divergent_barrier", [1], [64], order=order)
        assert text == (
            f"kernel divergent_barrier, block (0,0,0), thread ({thread},0,0): divergent barrier: "
            f"__syncthreads at kernels.cu:{first + here}, but other threads of the block wait in "
            f"__syncthreads at kernels.cu:{first + there}"
        )


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("thread", [0, 33, 63])
def test_a_thread_that_exits_before_a_barrier(emulator, thread, order):
    text = emulator("early_exit", [1], [64], *i32(thread), order=order)
    assert "the block have exited" in text or f"({thread},0,0): exits, but other threads" in text
    assert f"kernels.cu:{line('__syncthreads', line('void early_exit'))}" in text
    assert emulator("early_exit", [1], [64], *i32(64), order=order) is None


@pytest.mark.parametrize(
    ("kernel", "texts"),
    [
        ("deadlock", ["deadlock", "thread 0 waits in __syncthreads", "16 in __syncwarp"]),
        ("mask_without_caller", ["thread (16,0,0)", "mask 0000ffff lacks the calling lane 16"]),
        ("mask_with_exited", ["names lanes 0000000f, which have exited"]),
        ("exit_while_waited_for", ["thread (31,0,0): exits, but lane 0 waits for it in __syncw"]),
        ("divergent_warp", ["thread (16,0,0): divergent warp: __shfl_sync", "but lane 0 waits in"]),
        ("divergent_masks", ["with mask ffff8000, but lane 15 waits in", "with mask ffffffff"]),
        ("late_mask", ["thread (31,0,0)", "but lane 16 waits in", "with mask ffff0000"]),
        ("shuffle_from_outside", ["reads lane 20, which its mask 0000ffff lacks"]),
    ],
)
def test_misuse_of_warps(emulator, kernel, texts):
    args = [floats(32)] if kernel in ("divergent_warp", "shuffle_from_outside") else []
    text = emulator(kernel, [1], [32], *args)
    assert text and all(part in text for part in [f"kernel {kernel}, block (0,0,0)", *texts]), text
    assert "kernels.cu:" in text


def test_a_mask_beyond_the_block(emulator):
    text = emulator("warp_exchange", [1], [20], floats(60), shared=80)
    assert "names lanes fff00000, which have exited or do not exist" in text


@pytest.mark.parametrize("dtype", ["float", "double"])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_shuffles(emulator, dtype, order):
    x = np.random.default_rng(0).standard_normal(64).astype(dtype if dtype == "double" else "f4")
    y = np.zeros((7, 64), x.dtype)
    assert emulator(f"shuffles_{dtype}", [1], [64], x, y, order=order) is None
    lane, first = np.arange(64) % 32, np.arange(64) // 32 * 32
    assert np.array_equal(y[0], x[first + 3])
    assert np.array_equal(y[1], x[first + (lane ^ 5)])
    assert np.array_equal(y[2], x[first + np.where(lane % 8 + 3 < 8, lane + 3, lane)])
    assert np.array_equal(y[3], x[first + lane // 8 * 8 + 1])
    assert np.array_equal(y[4], x[first + np.where(lane < 16, lane ^ 8, lane ^ 1)])
    assert np.array_equal(y[5], x[first + np.where(lane < 4, lane, lane - 4)])
    assert np.array_equal(y[6], x[first + np.where(lane // 8 % 2, lane - 8, lane)])


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_syncwarp_and_atomics(emulator, order):
    y = floats(3, 64)
    assert emulator("warp_exchange", [1], [64], y, shared=256, order=order) is None
    assert np.array_equal(y, 10 * np.arange(3)[:, None] + (np.arange(64) ^ 31))
    i, u, f, old = np.zeros(1, "i4"), np.zeros(1, "u4"), floats(1), np.zeros(96, "i4")
    assert emulator("atomics", [3], [32], i, u, f, old, order=order) is None
    assert (i[0], u[0], f[0]) == (192, 288, 48)
    assert np.array_equal(np.sort(old), 2 * np.arange(96))


# Memory


def test_shared_memory_starts_as_nan_in_every_block(emulator):
    y = floats(96)
    assert emulator("poison", [3], [32], y, shared=128) is None
    assert np.isnan(y).all()


@pytest.mark.parametrize("ok", [True, False])
def test_copies_arrive_at_their_wait_and_not_before(emulator, ok):
    x, y = np.arange(1, 33, dtype=np.float32), floats(3, 32)
    assert emulator("copy_phases", [1], [32], x, y, *i32(ok), shared=128) is None
    assert np.isnan(y[:2]).all()
    assert np.array_equal(y[2], x if ok else 0 * x)


def test_wide_copies(emulator):
    x, y = np.arange(1, 13, dtype=np.float32), floats(12)
    assert emulator("wide_copies", [1], [32], x, y, shared=48) is None
    assert list(y) == [1, 2, 3, 4, 5, 6, -1, -2, 0, 0, 0, 0]


def test_copies_in_flight_at_the_exit(emulator):
    text = emulator("copy_in_flight", [1], [1], floats(1), shared=16)
    at = line("copy_async", line("void copy_in_flight"))
    assert (
        f"exits with 1 asynchronous copies in flight, the oldest by copy_async at kernels.cu:{at}"
        in text
    )


def test_misaligned_copies_and_vectors(emulator):
    x = floats(64)
    for n in (4, 8, 16):
        for offset in range(4):
            for place in ((offset, 0), (0, offset)):
                text = emulator(f"copy_offset_{n}", [1], [1], x, *i32(*place), shared=64)
                assert ("misaligned" in (text or "")) == (4 * offset % n != 0), text
    sizes = {"float": 4, "float2": 8, "double": 8, "float4": 16, "double2": 16}
    for v, n in sizes.items():
        for offset in range(4):
            text = emulator(f"load_offset_{v}", [1], [1], x, *i32(offset), shared=64)
            assert ("misaligned" in (text or "")) == (4 * offset % n != 0), text
    # An array keeps its own alignment: a vector access to a shifted view fails as on a GPU.
    assert "misaligned" in emulator("copy_offset_16", [1], [1], x[1:], *i32(0, 0), shared=64)


@pytest.mark.parametrize("offset", [-1, 16, 15_000])
def test_checked_accesses_outside_shared_memory(emulator, offset):
    x = floats(4)
    what = f"bytes {4 * offset} to {4 * offset + 3} of the block's 64 bytes of shared memory"
    assert what in emulator("load_offset_float", [1], [1], x, *i32(offset), shared=64)
    assert what in emulator("store_offset", [1], [1], *i32(offset), shared=64)
    assert what in emulator("copy_offset_4", [1], [1], x, *i32(0, offset), shared=64)


@pytest.mark.parametrize("write", [0, 1])
@pytest.mark.parametrize("offset", [16, 17, 1000, 200_000, -2000, -200_000])
def test_plain_accesses_outside_shared_memory(emulator, offset, write):
    text = emulator("shared_raw", [1], [32], floats(1), *i32(offset, write), shared=64)
    assert text.startswith("kernel shared_raw, block (0,0,0), thread (3,0,0): access to byte")
    assert f"byte {4 * offset} of the block's shared memory of 64 bytes" in text
    assert f"after __syncthreads at kernels.cu:{line('__sync', line('void shared_raw'))}" in text


@pytest.mark.parametrize("write", [0, 1])
@pytest.mark.parametrize("offset", [20, 21, 1000, 200_000, -2000, -200_000])
def test_plain_accesses_outside_an_array(emulator, offset, write):
    x, y = floats(20), floats(20)
    text = emulator("global_raw", [1], [32], x, y, *i32(offset, write))
    assert "thread (3,0,0): access to byte" in text
    assert f"byte {4 * offset} of argument 0, an array of 80 bytes" in text


def test_accesses_between_an_array_and_its_guards(emulator):
    x, y = floats(20), floats(20)
    assert "write to byte -4 of argument 0, an array of 80" in emulator(
        "global_raw", [1], [32], x, y, *i32(-1, 1)
    )
    assert emulator("global_raw", [1], [32], x, y, *i32(-1, 0)) is None
    assert np.isnan(y[0])
    text = emulator("shared_raw", [1], [32], y, *i32(-1, 1), shared=64)
    assert "write to byte -4 of the block's shared memory of 64 bytes" in text
    x = floats(19)  # does not fill its last 16 bytes
    assert "write to byte 76 of argument 0" in emulator("global_raw", [1], [32], x, y, *i32(19, 1))


def test_a_failed_launch_changes_no_array(emulator):
    scale = np.array((1, 1), np.dtype([("by", "f8"), ("add", "i4")], align=True))
    x, y = floats(20), floats(64)
    text = emulator("transform", [1], [64], x, y, scale, np.int64(64), np.bool_(False))
    assert "thread (20,0,0): access to byte 80 of argument 0" in text  # others wrote to y
    assert not y.any()


def test_other_addresses(emulator):
    y = floats(4)
    assert "access to address 0xc, which is no array of the launch" in emulator(
        "global_raw", [1], [32], None, y, *i32(3, 0)
    )
    empty = "of argument 0, an array of 0 bytes"
    assert empty in emulator("global_raw", [1], [32], floats(0), y, *i32(3, 0))
    assert "access to byte 4096 of argument 0" in emulator(
        "copy_offset_4", [1], [1], floats(1024), *i32(1024, 0), shared=64
    )


def test_a_copy_from_outside_names_where_it_was_issued(emulator):
    x, y = floats(4 * 64), floats(5 * 64)
    text = emulator("pipeline_0", [1], [64], x, y, *i32(5), shared=512)
    at = line("copy_async")
    assert text.endswith(
        f" of argument 0, an array of 1024 bytes, by copy_async at kernels.cu:{at}"
    )


def test_arrays_that_overlap_stay_so(emulator):
    base = np.arange(10, dtype=np.float32)
    assert emulator("shift", [1], [8], base[:8], base[2:]) is None
    assert list(base) == [2, 3, 4, 5, 6, 7, 8, 9, 8, 9]
    assert emulator("shift", [1], [10], base, base) is None


def test_read_only_arrays_are_not_written_to(emulator, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(8, dtype=np.float32))
    x, y = np.load(tmp_path / "x.npy", mmap_mode="r"), floats(8)
    assert emulator("shift", [1], [8], y, np.asarray(x)) is None
    assert np.array_equal(x, y)


def test_a_stack_overflow(emulator):
    for order in ORDERS.values():
        assert emulator("deep_100", [1], [2], floats(1), order=order) is None
        text = emulator("deep_130", [1], [2], floats(1), order=order)
        assert "stack overflow: calls and local arrays take more than 128 KiB" in text


@pytest.mark.parametrize(
    ("grid", "block", "shared", "text"),
    [
        ([1], [1025], 0, "blocks of 1025x1x1 threads; 1 to 1024 are possible"),
        ([1], [32, 0], 0, "blocks of 32x0x1 threads"),
        ([1], [1, 1, 65], 0, "64 of them along z"),
        ([0], [32], 0, "a grid of 0x1x1 blocks"),
        ([1, 65536], [32], 0, "a grid of 1x65536x1 blocks"),
        ([1], [32], 232449, "232449 bytes of shared memory a block; at most 232448"),
    ],
)
def test_impossible_sizes(emulator, grid, block, shared, text):
    assert text in emulator("deadlock", grid, block, shared=shared)


def test_the_largest_sizes(emulator):
    y = np.zeros(1024, np.int32)
    assert emulator("where", [1], [1024], y, shared=232448) is None
    assert np.array_equal(y, np.arange(1024))


def test_arguments_are_checked(emulator):
    x, y = floats(4), floats(4)
    scale = np.array((1, 1), np.dtype([("by", "f8"), ("add", "i4")], align=True))
    good = [x, y, scale, np.int64(3), np.bool_(True)]
    assert emulator("transform", [1], [4], *good) is None
    assert "takes 5 arguments, was given 4" in emulator("transform", [1], [4], *good[:4])
    for i, bad, text in [
        (0, x.astype(np.float64), "argument 0 is to be of type *f4, was given *f8"),
        (1, np.float32(1), "argument 1 is to be of type *f4, was given f4"),
        (2, np.array((1,), [("by", "f8")]), "argument 2 is to be of type V16, was given V8"),
        (3, np.int32(3), "argument 3 is to be of type i8, was given i4"),
        (3, None, "argument 3 is to be of type i8, was given *"),
    ]:
        text_given = emulator("transform", [1], [4], *good[:i], bad, *good[i + 1 :])
        assert text in text_given


# Tensor cores


def five_terms(terms):
    """A tensor core's sum of an accumulator and four products, each a Fraction."""

    def exponent(v):
        e = v.numerator.bit_length() - v.denominator.bit_length()
        return e if abs(v) >= Fraction(2) ** e else e - 1

    def truncated(v, e):
        quantum = Fraction(2) ** e
        return int(v / quantum) * quantum  # int() rounds towards zero

    e = max([exponent(v) for v in terms if v] + [-126])
    total = sum(truncated(v, e - 24) for v in terms)
    return truncated(total, exponent(total) - 23) if total else total


def by_fractions(a, b, c):
    def tf32(m):
        return (np.ascontiguousarray(m).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)

    a, b = tf32(a), tf32(b)
    y = np.empty_like(c)
    for i, j in np.ndindex(c.shape):
        total = Fraction(float(c[i, j]))
        for k in (0, 4):
            products = [
                Fraction(float(a[i, m])) * Fraction(float(b[m, j])) for m in range(k, k + 4)
            ]
            total = five_terms([total, *products])
        y[i, j] = float(total)
    return y


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 3)])
def test_mma_to_the_bit(emulator, m, n):
    rng = np.random.default_rng(m)
    for spread in (0, 4, 12):
        a, b, c = (
            (rng.standard_normal(size) * 2.0 ** rng.uniform(-spread, spread, size)).astype("f4")
            for size in ((16 * m, 8), (8, 8 * n), (16 * m, 8 * n))
        )
        c *= 2.0 ** rng.integers(-3, 4)
        d = c.copy()
        assert emulator(f"tiles_{m}{n}", [1], [32], a, b, d) is None
        expected = by_fractions(a, b, c)
        assert np.array_equal(d, expected)
        exact = a.astype("f8") @ b.astype("f8") + c
        assert np.abs(d - exact).max() < 4e-3 * (np.abs(a) @ np.abs(b) + np.abs(c)).max()
        assert not np.array_equal(d, exact.astype("f4"))


@pytest.mark.parametrize(
    ("c", "products", "expected"),
    [
        (0, [1 + 2**-10, 0, 0, 0], 1 + 2**-10),
        (1, [2**-24] * 4, 1 + 2**-22),  # one bit below the significand is kept
        (1, [2**-25] * 4, 1),  # and the next one is not
        (-1, [2**-25] * 4, -1),
        (1, [2**-24, 0, 0, 0], 1),  # the sum is truncated,
        (-1, [-(2**-24)] * 3 + [0], -1 - 2**-23),  # towards zero
        (1, [-(2**-24), 0, 0, 0], 1 - 2**-24),
        (2**24, [-(2**24), 1, 0, 0], 1),
        (2**26, [-(2**26), 1, 0, 0], 0),
        (0, [np.inf, 1, 0, 0], np.inf),
        (-np.inf, [np.inf, 1, 0, 0], np.nan),
        (np.nan, [1, 1, 0, 0], np.nan),
        (1, [np.nan, 1, 0, 0], np.nan),
        (0, [0, 0, 0, 0], 0),
    ],
)
def test_mma_adds_as_tensor_cores_do(emulator, c, products, expected):
    a, b, d = floats(16, 8), floats(8, 8), floats(16, 8)
    a[3, :4], b[:, 5], d[3, 5] = products, 1, c
    assert emulator("tiles_11", [1], [32], a, b, d) is None
    assert np.array_equal(d[3, 5], np.float32(expected), equal_nan=True)
    others = np.ones(d.shape, bool)
    others[3, 5 if np.isfinite(products).all() else slice(None)] = False
    assert not d[others].any()


def test_rounding_to_tf32(emulator):
    bits = np.array([0x3F800000, 0x3F800FFF, 0x3F801000, 0xBF801000, 0x3F803000, 0x7F7FFFFF,
                     0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x7F800001, 0x80000000],
                    np.uint32)  # fmt: skip
    y = np.zeros_like(bits)
    assert emulator("rounding", [1], [len(bits)], bits.view(np.float32), y) is None
    assert [hex(v) for v in y] == [hex(v) for v in [
        0x3F800000, 0x3F800000, 0x3F802000, 0xBF802000, 0x3F804000, 0x7F800000,
        0x7F800000, 0xFF800000, 0x7FFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF, 0x80000000]]  # fmt: skip


def test_arithmetic_is_rounded_as_written(emulator):
    a, b, c = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    c -= a * b  # cancels, so that one rounding and two differ
    fused, apart, wide, high = floats(64), floats(64), np.zeros(64), np.zeros(64, np.uint32)
    assert emulator("arithmetic", [1], [64], a, b, c, fused, wide, apart, high) is None

    def exactly(a, b, c):
        numbers = zip(a, b, c, strict=True)
        return [
            float(Fraction(float(p)) * Fraction(float(q)) + Fraction(float(r)))
            for p, q, r in numbers
        ]

    assert np.array_equal(fused, np.array(exactly(a, b, c), np.float32))
    assert np.array_equal(apart, a * b + c) and not np.array_equal(apart, fused)
    assert np.array_equal(wide, exactly(a.astype("f8") + 1e-9, b.astype("f8") + 1e-9, c))
    u, v = a.view(np.uint32).astype(object), b.view(np.uint32).astype(object)
    assert np.array_equal(high, (u * v // 2**32).astype(np.uint32))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_ldmatrix_layout(emulator, order):
    y = floats(32, 4)
    assert emulator("matrices", [1], [32], y, *i32(4), shared=512, order=order) is None
    lane = np.arange(32)[:, None]
    assert np.array_equal(y, 100 * np.arange(4) + lane // 4 * 10 + lane % 4)


# Bank conflicts


@pytest.mark.parametrize(
    ("vector", "stride", "wavefronts", "ideal"),
    [
        ("float", 1, 1, 1),
        ("float", 0, 1, 1),  # one word for all: a broadcast
        ("float", 2, 2, 1),
        ("float", 17, 1, 1),
        ("float", 32, 32, 1),
        ("float2", 2, 2, 2),
        ("float2", 32, 32, 2),
        ("double", 2, 2, 2),
        ("float4", 4, 4, 4),
        ("float4", 0, 4, 4),
        ("float4", 32, 32, 4),
        ("float4", 36, 4, 4),
        ("double2", 8, 8, 4),
    ],
)
def test_wavefronts(emulator, vector, stride, wavefronts, ideal):
    size = {"float": 4, "float2": 8, "double": 8, "float4": 16, "double2": 16}[vector]
    shared = 4 * 63 * stride + 16
    options = {"shared": shared, "count_banks": True}
    assert emulator(f"strided_load_{vector}", [3], [64], *i32(stride, 64), **options) is None
    counts = emulator.banks(f"strided_load_{vector}")
    assert counts == {f"load_shared {size}": (6, 6 * wavefronts, 6 * ideal)}
    if stride:
        assert emulator(f"strided_store_{vector}", [1], [64], *i32(stride), **options) is None
        counts = emulator.banks(f"strided_store_{vector}")
        assert counts == {f"store_shared {size}": (2, 2 * wavefronts, 2 * ideal)}
        assert emulator(f"strided_copy_{size}", [1], [64], *i32(stride), **options) is None
        counts = emulator.banks(f"strided_copy_{size}")
        assert counts == {f"copy_async {size}": (2, 2 * wavefronts, 2 * ideal)}


def test_wavefronts_of_some_lanes_and_of_none(emulator):
    options = {"shared": 4096, "count_banks": True}
    assert emulator("strided_load_float", [2], [32], *i32(32, 8), **options) is None
    assert emulator.banks("strided_load_float") == {"load_shared 4": (2, 16, 2)}
    assert emulator("strided_load_float", [2], [32], *i32(32, 8), shared=4096) is None
    assert emulator.banks("strided_load_float") == {}
    assert emulator("strided_load_float", [2], [32], *i32(64, 32), **options) is not None
    assert emulator.banks("strided_load_float") == {}


@pytest.mark.parametrize(("pitch", "wavefronts"), [(4, 4), (32, 32), (36, 4), (8, 8)])
def test_wavefronts_of_ldmatrix(emulator, pitch, wavefronts):
    options = {"shared": 31 * 4 * pitch + 16, "count_banks": True}
    assert emulator("matrices", [1], [32], floats(128), *i32(pitch), **options) is None
    assert emulator.banks("matrices") == {"ldmatrix_x4 16": (1, wavefronts, 4)}


# The process around it


def in_subprocess(code, *args, **environment):
    here = os.path.dirname(os.path.abspath(__file__))
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": here, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_other_faults_of_the_process_are_not_swallowed(emulator):
    code = """
import ctypes, sys
import numpy as np
from emulated import Library
library, x = Library(sys.argv[1]), np.zeros(4, np.float32)
for _ in range(3):
    text = library("global_raw", [1], [32], x, x, np.int32(9), np.int32(0))
    assert "byte 36 of argument 0" in text, text
print("caught", flush=True)
ctypes.string_at(0)
"""
    done = in_subprocess(code, emulator._library._name)
    assert done.stdout == "caught\n"
    assert done.returncode == -11


RACES = r"""
#include "dialect.cuh"
template <int BUG> __global__ void reverse(const float* x, float* y) {
  TG_SHARED(float, s);
  const int i = threadIdx.x, n = blockDim.x;
  for (int k = 0; k < 3; k++) {
    s[i] = x[i];
    if (BUG != 1) __syncthreads();
    y[blockIdx.x * n + i] = s[n - 1 - i];
    if (BUG != 2) __syncthreads();
  }
}
template <int BUG> __global__ void neighbours(const float* x, float* y) {
  TG_SHARED(float, s);
  s[threadIdx.x] = x[threadIdx.x];
  const float v = __shfl_xor_sync(~0u, 1.f, 1);  // orders no memory
  if (!BUG) __syncwarp();
  y[blockIdx.x * blockDim.x + threadIdx.x] = v + s[threadIdx.x ^ 1];
}
template <int BUG> __global__ void copies(const float* x, float* y) {
  TG_SHARED(float, s);
  const int i = threadIdx.x;
  for (int k = 0; k < 3; k++) {
    tg::copy_async<4>(s + i, x + i, true);
    tg::copy_commit();
    tg::copy_wait<0>();
    if (BUG != 1) __syncthreads();
    unsigned a[1][4], b[1][2] = {};
    float d[1][1][4] = {};
    tg::ldmatrix_x4(a[0], s + i % 8 * 4);
    tg::mma(d, a, b);
    y[blockIdx.x * blockDim.x + i] = d[0][0][0] + tg::load_shared(s + (i ^ 33));
    if (BUG != 2) __syncthreads();
  }
}
template <int BUG> __global__ void blocks(const float* x, float* y) {
  y[BUG ? threadIdx.x : blockIdx.x * blockDim.x + threadIdx.x] = x[threadIdx.x];
}
template <int BUG> __global__ void counter(const float*, float* y) {
  if (BUG) *y += 1;
  else atomicAdd(y, 1.f);
}
template <int OFFSET> __global__ void reach(const float* x, float* y) {
  TG_SHARED(float, s);
  s[threadIdx.x] = x[threadIdx.x + OFFSET];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
template <int OFFSET> __global__ void reach_shared(const float* x, float* y) {
  TG_SHARED(float, s);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x + OFFSET];
}
template <int BUG> __global__ void overflow(const float*, float* y) {
  const int i = 0x7fffffff - 64 + threadIdx.x;
  y[threadIdx.x] = i + (BUG ? 32 : 1);
}
template <int BUG> __global__ void divergent(const float*, float* y) {
  y[threadIdx.x] = 0;
  if (BUG && threadIdx.x < 7) return;
  __syncthreads();
}
"""

RUN = """
import sys
import numpy as np
from emulated import Library
path, *kernels = sys.argv[1:]
library = Library(path)
for kernel in kernels:
    print("== " + kernel, file=sys.stderr, flush=True)
    for order in (0, 1, 2):
        x, y = np.arange(64, dtype=np.float32), np.zeros(128, np.float32)
        print(kernel, library(kernel, [2], [64], x, y, shared=256, order=order), flush=True)
"""


def sanitized(directory, sanitizer, library, kernels, **environment):
    """{kernel: (the launches' texts, the sanitizer's report)}: all run in one process."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    command = ["g++", f"-print-file-name={library}"]
    preload = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(preload):
        pytest.skip(f"g++ has no {library}")
    instances = {f"{name}_{bug}": f"{name}<{bug}>" for name, bug in kernels}
    flags = f"-O0 -g1 {sanitizer}"
    path = build(directory / "sanitized.so", RACES, instances, "g++", flags)
    done = in_subprocess(RUN, path, *instances, LD_PRELOAD=preload, **environment)
    reports = dict(part.split("\n", 1) for part in done.stderr.split("== ")[1:] if "\n" in part)
    assert list(reports) == list(instances), done.stderr
    texts = [row.split(" ", 1) for row in done.stdout.splitlines()]
    return {k: ([t for name, t in texts if name == k], reports[k]) for k in instances}


THREAD = [
    (kernel, bug)
    for kernel, bugs in [
        ("reverse", 3), ("neighbours", 2), ("copies", 3), ("blocks", 2), ("counter", 2)
    ]
    for bug in range(bugs)
]  # fmt: skip


@pytest.fixture(scope="session")
def races(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tsan")
    # Launches get the same addresses again, of which it would report only the first race.
    options = "suppress_equal_addresses=0"
    return sanitized(directory, "-fsanitize=thread", "libtsan.so", THREAD, TSAN_OPTIONS=options)


@pytest.mark.parametrize(("kernel", "bug"), THREAD)
def test_thread_sanitizer_finds_races_and_only_those(races, kernel, bug):
    texts, report = races[f"{kernel}_{bug}"]
    assert texts == ["None"] * 3
    assert ("WARNING: ThreadSanitizer: data race" in report) == (bug > 0), report
    assert ("sanitized.cu:" in report) == (bug > 0)


ADDRESS = {
    "reach": "heap-buffer-overflow",
    "reach_shared": "heap-buffer-overflow",
    "overflow": "signed integer overflow",
    "divergent": None,
}


@pytest.fixture(scope="session")
def faults(tmp_path_factory):
    directory = tmp_path_factory.mktemp("asan")
    flags = "-fsanitize=address,undefined -fsanitize-recover=address,undefined"
    kernels = [(kernel, bug) for kernel in ADDRESS for bug in (0, 1)]
    options = "detect_leaks=0,halt_on_error=0"
    return sanitized(directory, flags, "libasan.so", kernels, ASAN_OPTIONS=options)


@pytest.mark.parametrize("bug", [0, 1])
@pytest.mark.parametrize("kernel", ADDRESS)
def test_address_and_undefined_sanitizers(faults, kernel, bug):
    texts, report = faults[f"{kernel}_{bug}"]
    if bug and ADDRESS[kernel]:
        assert ADDRESS[kernel] in report and "sanitized.cu:" in report
    else:
        assert not report
    if kernel == "divergent" and bug:
        assert all("have exited" in text or "exits, but" in text for text in texts)
    else:
        assert texts == ["None"] * 3
