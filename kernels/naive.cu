// The first two steps of the ladder (README.md): conv2d as one would write it first, then with
// tiles in shared memory. What comes after them are instances of conv.cu. No model uses these two.
#include "conv.cu"  // Shape

// One thread for each result y[n, p, q, o], every factor from global memory. A warp has 32
// neighbouring outputs o of one place: each term costs it a pixel, the same for all its threads,
// and 32 weights, for 32 multiply-adds. grid: (results / 256).
__global__ void __launch_bounds__(256)
conv2d_naive(const float* __restrict__ x, const float* __restrict__ w,
             const float* __restrict__ bias, float* __restrict__ y, Shape s) {
  const int at = blockIdx.x * 256 + threadIdx.x;
  if (at >= s.images * s.grid_down * s.grid_across * s.outputs) return;
  const int o = at % s.outputs, m = at / s.outputs;
  const int n = m / (s.grid_down * s.grid_across);
  const int p = m / s.grid_across % s.grid_down, q = m % s.grid_across;
  float sum = 0;
  for (int k = 0; k < s.kernel_down; k++) {
    for (int l = 0; l < s.kernel_across; l++) {
      const int row = s.stride_down * p + k - s.top, column = s.stride_across * q + l - s.left;
      if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
      const float* pixel = x + ((n * s.height + row) * s.width + column) * s.channels;
      const float* weight = w + (k * s.kernel_across + l) * s.channels * s.outputs + o;
      for (int c = 0; c < s.channels; c++)
        sum = tg::multiply_add(pixel[c], weight[c * s.outputs], sum);
    }
  }
  y[at] = sum + bias[o];
}

// The same as a matrix product: rows m are places, columns o, terms (tap row, tap column, channel).
// A block of SIDE x SIDE threads brings SIDE terms of SIDE rows and of SIDE columns to shared
// memory, where each number serves SIDE results. A thread still has one result, and reads two words
// of shared memory for each multiply-add. grid: (places / SIDE, outputs / SIDE).
constexpr int SIDE = 32;

__global__ void __launch_bounds__(SIDE* SIDE)
conv2d_shared(const float* __restrict__ x, const float* __restrict__ w,
              const float* __restrict__ bias, float* __restrict__ y, Shape s) {
  TG_SHARED(float, shared);
  float* const pixels = shared;                 // [row][term]
  float* const weights = shared + SIDE * SIDE;  // [term][column]
  const int down = threadIdx.x / SIDE, across = threadIdx.x % SIDE;  // in both tiles
  const int m = blockIdx.x * SIDE + down, o = blockIdx.y * SIDE + across;
  const int rows = s.images * s.grid_down * s.grid_across;
  const int terms = s.kernel_down * s.kernel_across * s.channels;
  const int n = m / (s.grid_down * s.grid_across);
  const int top = m / s.grid_across % s.grid_down * s.stride_down - s.top;
  const int left = m % s.grid_across * s.stride_across - s.left;
  float sum = 0;
  for (int first = 0; first < terms; first += SIDE) {
    const int term = first + across, c = term % s.channels, tap = term / s.channels;
    const int row = top + tap / s.kernel_across, column = left + tap % s.kernel_across;
    const bool pixel = m < rows && term < terms && row >= 0 && row < s.height &&
                       column >= 0 && column < s.width;
    const int at = ((n * s.height + row) * s.width + column) * s.channels + c;
    tg::store_shared(pixels + threadIdx.x, pixel ? x[at] : 0.f);
    const bool weight = first + down < terms && o < s.outputs;
    const int of = (first + down) * s.outputs + o;
    tg::store_shared(weights + threadIdx.x, weight ? w[of] : 0.f);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < SIDE; k++)
      sum = tg::multiply_add(tg::load_shared(pixels + down * SIDE + k),
                             tg::load_shared(weights + k * SIDE + across), sum);
    __syncthreads();  // before the next terms are written
  }
  if (m < rows && o < s.outputs) y[m * s.outputs + o] = sum + bias[o];
}
