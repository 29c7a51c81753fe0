// The three derivatives of T(x, w, z) = sum x[n, s*p+k-t, s*q+l-u, c] w[k, l, c, o] z[n, p, q, o]
// as implicit GEMMs: images N x H x W x C, weights kh x kw x C x O, grids N x P x Q x O. No im2col
// is written to memory.
#include "tile.cuh"

struct Shape {   // passed by value: 15 int32
  int images, height, width, channels;            // N, H, W, C
  int grid_down, grid_across, outputs;            // P, Q, O
  int kernel_down, kernel_across, stride_down, stride_across, top, left;
  int parts, terms;   // the sum is cut into `parts` parts of `terms` terms, a multiple of BK
};

// y[n, p, q, o]: rows are places, columns outputs, the sum over kh*kw*C. grid: (rows / BM,
// columns / BN, parts); with more than one part, y is parts x (N, P, Q, O), to be added up.
template <class T, int PRECISION, class Tile, int VX, int VW>
__global__ void __launch_bounds__(Tile::THREADS, 1)
conv2d(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias,
       const T* __restrict__ mask, T* __restrict__ y, T slope, Shape s) {
  if constexpr (PRECISION == FP32 || TG_TENSOR_CORES) {
    TG_SHARED(T, shared);
    const int m0 = blockIdx.x * Tile::BM, n0 = blockIdx.y * Tile::BN, part = blockIdx.z;
    const int rows = s.images * s.grid_down * s.grid_across;
    const int terms = s.kernel_down * s.kernel_across * s.channels;
    const Places places = {s.grid_down, s.grid_across, rows, s.stride_down, s.stride_across,
                           -s.top, -s.left};
    PixelsUnderKernel<T, Tile, Tile::BM, VX, 1> a(x, s.height, s.width, s.channels, places,
                                                  s.kernel_down, s.kernel_across, m0,
                                                  part * s.terms);
    MatrixAlongX<T, Tile, Tile::BN, VW> b(w, s.outputs, n0, s.outputs, part * s.terms, terms);
    Product<T, PRECISION, Tile, ALONG_K, ALONG_X> product;
    accumulate<Tile>(product, a, b, slices<Tile>(terms, s.terms, part), shared);
    const Epilogue<T> out = {bias, mask, y + (long long)part * rows * s.outputs, slope, s.outputs,
                             s.outputs};
    product.store([&](int row, int column, auto& sums) {
      const int m = m0 + row;
      if (m < rows) out((long long)m * s.outputs, n0 + column, sums);
    });
  }
}

// y[n, i, j, c]: pixel (i, j) collects from grid point (p, q) through tap (k, l) where s*p+k-t = i
// and s*q+l-u = j. So k = (i+t) mod s, that plus s, ...: the pixels of one remainder (a parity, at
// stride 2) share their taps, and each parity is a convolution of stride 1 of its own, with no term
// that is zero by construction. Rows are the pixels of a parity, columns channels, the sum over
// its taps and O. grid: (rows / BM, columns / BN, parities * parts).
template <class T, int PRECISION, class Tile, int V>
__global__ void __launch_bounds__(Tile::THREADS, 1)
conv2d_transpose(const T* __restrict__ z, const T* __restrict__ w, const T* __restrict__ bias,
                 const T* __restrict__ mask, T* __restrict__ y, T slope, Shape s) {
  if constexpr (PRECISION == FP32 || TG_TENSOR_CORES) {
    TG_SHARED(T, shared);
    const int m0 = blockIdx.x * Tile::BM, n0 = blockIdx.y * Tile::BN;
    const int part = blockIdx.z % s.parts, parity = blockIdx.z / s.parts;
    const int tap_down = parity / s.stride_across, tap_across = parity % s.stride_across;
    // Pixels i = tap + s*u - t of this parity: the first u, and how many.
    const int first_down = max(0, (s.top - tap_down + s.stride_down - 1) / s.stride_down);
    const int first_across = max(0, (s.left - tap_across + s.stride_across - 1) / s.stride_across);
    const int down = (s.height + s.top - tap_down + s.stride_down - 1) / s.stride_down - first_down;
    const int across =
        (s.width + s.left - tap_across + s.stride_across - 1) / s.stride_across - first_across;
    const int rows = s.images * down * across;
    if (m0 >= rows) return;   // the whole block: the largest parity has set the grid
    const int taps_down = (s.kernel_down - tap_down + s.stride_down - 1) / s.stride_down;
    const int taps_across = (s.kernel_across - tap_across + s.stride_across - 1) / s.stride_across;
    const bool taps = taps_down > 0 && taps_across > 0;   // none: a stride beyond the kernel
    const int terms = taps ? taps_down * taps_across * s.outputs : 0;
    const Places places = {down, across, rows, 1, 1, first_down, first_across};
    PixelsUnderKernel<T, Tile, Tile::BM, V, -1> a(z, s.grid_down, s.grid_across, s.outputs, places,
                                                  taps_down, max(1, taps_across), m0,
                                                  part * s.terms);
    const int tap_size = s.channels * s.outputs, row_size = s.kernel_across * tap_size;
    WeightsOfParity<T, Tile, Tile::BN, V> b(w + tap_down * row_size + tap_across * tap_size,
                                            s.channels, s.outputs, s.stride_down * row_size,
                                            s.stride_across * tap_size, taps_down,
                                            max(1, taps_across), n0, part * s.terms);
    Product<T, PRECISION, Tile, ALONG_K, ALONG_K> product;
    accumulate<Tile>(product, a, b, slices<Tile>(terms, s.terms, part), shared);
    const long long size = (long long)s.images * s.height * s.width * s.channels;
    const Epilogue<T> out = {bias, mask, y + part * size, slope, s.channels, s.channels};
    product.store([&](int row, int column, auto& sums) {
      const int m = m0 + row;
      if (m >= rows) return;
      const int n = m / (down * across);
      const int i = (m / across % down + first_down) * s.stride_down + tap_down - s.top;
      const int j = (m % across + first_across) * s.stride_across + tap_across - s.left;
      out(((n * (long long)s.height + i) * s.width + j) * s.channels, n0 + column, sums);
    });
  }
}

// y[k, l, c, o]: rows are taps and channels (k, l, c), columns outputs, the sum over all places.
// grid: (rows / BM, columns / BN, parts).
template <class T, int PRECISION, class Tile, int VX, int VZ>
__global__ void __launch_bounds__(Tile::THREADS, 1)
conv2d_weight_grad(const T* __restrict__ x, const T* __restrict__ z, T* __restrict__ y, Shape s) {
  if constexpr (PRECISION == FP32 || TG_TENSOR_CORES) {
    TG_SHARED(T, shared);
    const int m0 = blockIdx.x * Tile::BM, n0 = blockIdx.y * Tile::BN, part = blockIdx.z;
    const int rows = s.kernel_down * s.kernel_across * s.channels;
    const int terms = s.images * s.grid_down * s.grid_across;
    const Places places = {s.grid_down, s.grid_across, terms, s.stride_down, s.stride_across,
                           -s.top, -s.left};
    TapsOverPlaces<T, Tile, Tile::BM, VX> a(x, s.images, s.height, s.width, s.channels, places,
                                            s.kernel_down, s.kernel_across, m0, part * s.terms);
    MatrixAlongX<T, Tile, Tile::BN, VZ> b(z, s.outputs, n0, s.outputs, part * s.terms, terms);
    Product<T, PRECISION, Tile, ALONG_X, ALONG_X> product;
    accumulate<Tile>(product, a, b, slices<Tile>(terms, s.terms, part), shared);
    const Epilogue<T> out = {nullptr, nullptr, y + (long long)part * rows * s.outputs, T(1),
                             s.outputs, s.outputs};
    product.store([&](int row, int column, auto& sums) {
      const int m = m0 + row;
      if (m < rows) out((long long)m * s.outputs, n0 + column, sums);
    });
  }
}
