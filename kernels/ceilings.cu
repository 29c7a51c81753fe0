// What the chip can do at most, for the floors of benchmarks/gpu.py: kernels that do one thing.
#include "dialect.cuh"

constexpr int THREADS = 256;
constexpr int CHAINS = 16, LINKS = 16;  // multiply_adds: a thread's sums; turns unrolled
constexpr int MT = 4, NT = 4;           // of mma_tf32: tiles 16 x 8 of a warp, side by side

// y = x, 16 bytes at a time: `packs` of them. Moves 2 arrays.
__global__ void __launch_bounds__(THREADS)
    copy(const float* __restrict__ x, float* __restrict__ y, long long packs) {
  const float4* from = reinterpret_cast<const float4*>(x);
  float4* to = reinterpret_cast<float4*>(y);
  const long long step = (long long)gridDim.x * THREADS;
  long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
  for (; i + 3 * step < packs; i += 4 * step) {  // four in flight
    float4 v[4];
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = from[i + j * step];
#pragma unroll
    for (int j = 0; j < 4; j++) to[i + j * step] = v[j];
  }
  for (; i < packs; i += step) to[i] = from[i];
}

// y[thread] = the sum of its CHAINS chains v -> v·x[0] + x[1], each of LINKS·repeats links and
// begun at x[2 + chain] + the thread's place in its block. 2·CHAINS·LINKS·repeats operations a
// thread; independent chains hide each other's latency.
__global__ void __launch_bounds__(THREADS)
    multiply_adds(const float* __restrict__ x, float* __restrict__ y, int repeats) {
  const float slope = x[0], offset = x[1];
  float v[CHAINS];
#pragma unroll
  for (int c = 0; c < CHAINS; c++) v[c] = x[2 + c] + float(threadIdx.x);
#pragma unroll 1
  for (int i = 0; i < repeats; i++)
#pragma unroll
    for (int link = 0; link < LINKS; link++)
#pragma unroll
      for (int c = 0; c < CHAINS; c++) v[c] = tg::multiply_add(v[c], slope, offset);
  float sum = 0;
#pragma unroll
  for (int c = 0; c < CHAINS; c++) sum += v[c];
  y[(long long)blockIdx.x * THREADS + threadIdx.x] = sum;
}

// y[thread] = the sum of its results in repeats·A·B, A of 16·MT x 8 and B of 8 x 8·NT, TF32. x has
// their fragments, 32 lanes together: 4·MT words of A, 2·NT of B. A warp makes repeats·MT·NT
// products of 2·16·8·8 operations; a result waits for none but its own before.
__global__ void __launch_bounds__(THREADS)
    mma_tf32(const float* __restrict__ x, float* __restrict__ y, int repeats) {
#if TG_TENSOR_CORES
  const int lane = threadIdx.x % 32;
  unsigned a[MT][4], b[NT][2];
  float d[MT][NT][4];
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int e = 0; e < 4; e++) a[m][e] = tg::to_tf32(x[(4 * m + e) * 32 + lane]);
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int e = 0; e < 2; e++) b[n][e] = tg::to_tf32(x[(4 * MT + 2 * n + e) * 32 + lane]);
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) d[m][n][e] = 0;
#pragma unroll 4
  for (int i = 0; i < repeats; i++) tg::mma<MT, NT>(d, a, b);
  float sum = 0;
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) sum += d[m][n][e];
  y[(long long)blockIdx.x * THREADS + threadIdx.x] = sum;
#endif
}
