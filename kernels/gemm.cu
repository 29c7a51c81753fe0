// Matrix products of the same make, for linear layers and for convolutions whose kernel covers the
// image, and the sum of a product's parts.
#include "tile.cuh"

// The operand op(M), with op a transposition or none, as the tile's loader for it.
template <class T, class Tile, int BX, int V, bool K_ADJACENT> struct Operand;
template <class T, class Tile, int BX, int V> struct Operand<T, Tile, BX, V, true> {
  using type = MatrixAlongK<T, Tile, BX, V>;
};
template <class T, class Tile, int BX, int V> struct Operand<T, Tile, BX, V, false> {
  using type = MatrixAlongX<T, Tile, BX, V>;
};

// y = op(a) op(b), op a transposition where TA, TB say so; a, b and y are contiguous. The bias is
// added to columns, column n the element n mod period. The sum is cut into gridDim.z parts of
// `part_terms` terms; with more than one, y is parts x rows x columns, to be added up.
// grid: (rows / BM, columns / BN, parts).
template <class T, int PRECISION, class Tile, bool TA, bool TB, int VA, int VB>
__global__ void __launch_bounds__(Tile::THREADS, 1)
matmul(const T* __restrict__ a, const T* __restrict__ b, const T* __restrict__ bias,
       const T* __restrict__ mask, T* __restrict__ y, T slope, int rows, int columns, int terms,
       int part_terms, int period) {
  if constexpr (PRECISION == FP32 || TG_TENSOR_CORES) {
    TG_SHARED(T, shared);
    const int m0 = blockIdx.x * Tile::BM, n0 = blockIdx.y * Tile::BN, part = blockIdx.z;
    using A = typename Operand<T, Tile, Tile::BM, VA, !TA>::type;
    using B = typename Operand<T, Tile, Tile::BN, VB, TB>::type;
    A left(a, TA ? rows : terms, m0, rows, part * part_terms, terms);
    B right(b, TB ? terms : columns, n0, columns, part * part_terms, terms);
    Product<T, PRECISION, Tile, A::LAYOUT, B::LAYOUT> product;
    accumulate<Tile>(product, left, right, slices<Tile>(terms, part_terms, part), shared);
    const Epilogue<T> out = {bias, mask, y + (long long)part * rows * columns, slope, columns,
                             period};
    product.store([&](int row, int column, auto& sums) {
      const int m = m0 + row;
      if (m < rows) out((long long)m * columns, n0 + column, sums);
    });
  }
}

// y = epilogue of the sum over parts, in their order: the same bits in every run. grid: any.
template <class T>
__global__ void __launch_bounds__(256)
add_parts(const T* __restrict__ parts, const T* __restrict__ bias, const T* __restrict__ mask,
          T* __restrict__ y, T slope, int count, int size, int period) {
  const Epilogue<T> out = {bias, mask, y, slope, size, period};
  for (int i = blockIdx.x * 256 + threadIdx.x; i < size; i += gridDim.x * 256) {
    T sum = 0;
#pragma unroll 4
    for (int part = 0; part < count; part++) sum += parts[(long long)part * size + i];
    y[i] = out.finish(sum, i, i);
  }
}
