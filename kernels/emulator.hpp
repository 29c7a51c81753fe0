// Runs CUDA kernels of the project's dialect on a CPU core, compiled by g++ or clang++ -std=c++17.
//
// Every CUDA thread is a fiber: it runs until it waits at a barrier or at a warp collective, and
// then another one goes on. Blocks run one after another. What a GPU would leave undefined stops
// the launch with a text: divergent barriers, deadlocks, accesses outside an array, misaligned or
// forgotten copies. Shared memory starts as NaN, and asynchronous copies arrive as late as
// permitted. It proves logic, not speed, and finds races only under -fsanitize=thread.
//
// Here: CUDA's words and the dialect's; emulator_interface.hpp: what these need of the emulator.
// That is emulator.cpp, of emulator_threads.hpp: fibers, barriers and the state of a launch;
// emulator_memory.hpp: shared memory, copies, tensor cores; emulator_launch.hpp: launches.
#pragma once
#include <math.h>

#include "emulator_interface.hpp"

// ---- CUDA's words ------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define TG_DEVICE inline
#define TG_TENSOR_CORES 1

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

template <class T> constexpr T min(T a, T b) { return b < a ? b : a; }
template <class T> constexpr T max(T a, T b) { return a < b ? b : a; }
using tg::emulator::same_bits;
inline unsigned __float_as_uint(float v) { return same_bits<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return same_bits<float>(v); }
inline int __float_as_int(float v) { return same_bits<int>(v); }
inline float __int_as_float(int v) { return same_bits<float>(v); }
inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned __int128>(a) * b >> 64;
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
template <class T> inline T __ldg(const T* p) { return *p; }

// ---- The dialect -------------------------------------------------------------------------------

// Defaulted arguments name the place of the call.
#define TG_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define TG_SITE(what) (::tg::emulator::Site{file, line, what})

namespace tg {

template <class V> V load_shared(const V* p, TG_PLACE) {
  emulator::check_shared(p, sizeof(V), TG_SITE("load_shared"));
  return *p;
}
template <class V> void store_shared(V* p, V v, TG_PLACE) {
  emulator::check_shared(p, sizeof(V), TG_SITE("store_shared"));
  *p = v;
}
template <int BYTES, bool REREAD = false>
void copy_async(void* shared, const void* global, bool ok, TG_PLACE) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "copy_async copies 4, 8 or 16 bytes");
  emulator::issue_copy(shared, global, BYTES, ok, TG_SITE("copy_async"));
  memset(shared, emulator::poison, BYTES);
}
inline void copy_commit() { emulator::close_group(); }
template <int N> void copy_wait() { emulator::wait_copies(N); }
inline unsigned to_tf32(float v) {
  return v != v ? 0x7fffffffu : (same_bits<unsigned>(v) + 0x1000u) & 0xffffe000u;
}
inline void ldmatrix_x4(unsigned (&r)[4], const void* row, TG_PLACE) {
  emulator::check_shared(row, 16, TG_SITE("ldmatrix_x4"));
  emulator::MatrixRows rows{{}, r};
  for (int i = 0; i < 4; i++) rows.row[i] = static_cast<const unsigned*>(row)[i];
  emulator::collective(~0u, &rows, TG_SITE("ldmatrix_x4"), emulator::exchange_rows);
}
template <int MT, int NT>
void mma(float (&d)[MT][NT][4], const unsigned (&a)[MT][4], const unsigned (&b)[NT][2], TG_PLACE) {
  static_assert(NT <= emulator::max_tiles, "mma");
  emulator::MmaOperands operands{MT, NT, &d[0][0][0], &a[0][0], &b[0][0]};
  emulator::collective(~0u, &operands, TG_SITE("mma"), emulator::multiply_tiles);
}
inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

}  // namespace tg

#define TG_SHARED(T, name) T* const name = reinterpret_cast<T*>(tg::emulator::running.shared)
#define threadIdx (tg::emulator::running.current->index)
#define blockIdx (tg::emulator::running.block)
#define blockDim (tg::emulator::running.block_size)
#define gridDim (tg::emulator::running.grid_size)

inline void __syncthreads(TG_PLACE) { tg::emulator::sync_block(TG_SITE("__syncthreads")); }
inline void __syncwarp(unsigned mask = ~0u, TG_PLACE) {
  tg::emulator::collective(mask, nullptr, TG_SITE("__syncwarp"), nullptr);
}
template <class T> T __shfl_sync(unsigned mask, T v, int source, int width = 32, TG_PLACE) {
  source = tg::emulator::lane() / width * width + source % width;
  return tg::emulator::shuffle(mask, v, source, width, TG_SITE("__shfl_sync"));
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, TG_PLACE) {
  int source = tg::emulator::lane() ^ bits;  // of an earlier group of lanes, but of no later one
  if (source < tg::emulator::lane()) width = 32;
  return tg::emulator::shuffle(mask, v, source, width, TG_SITE("__shfl_xor_sync"));
}
template <class T> T __shfl_down_sync(unsigned mask, T v, int by, int width = 32, TG_PLACE) {
  int source = tg::emulator::lane() + by;
  return tg::emulator::shuffle(mask, v, source, width, TG_SITE("__shfl_down_sync"));
}
template <class T> T __shfl_up_sync(unsigned mask, T v, int by, int width = 32, TG_PLACE) {
  int source = tg::emulator::lane() - by;
  return tg::emulator::shuffle(mask, v, source, width, TG_SITE("__shfl_up_sync"));
}

inline int atomicAdd(int* p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* p, unsigned v) {
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline float atomicAdd(float* p, float v) {
  float old, sum;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  do sum = old + v;
  while (!__atomic_compare_exchange(p, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
