// What every product does with its loaders: the main loop, and the epilogue that stores results.
//
// STAGES buffers hold slices in flight: while one is multiplied, the next ones arrive. Each sum
// runs over k in ascending order, so its bits depend on the tile's shape and on nothing else.
#pragma once
#include "multiply.cuh"

// The main loop: `steps` slices through the stages. At the top of step s, slice s has arrived for
// every thread, and every thread has finished with slice s-1, whose buffer the next copy takes.
template <class Tile, class T, class A, class B, class P>
TG_DEVICE void accumulate(P& product, A& a, B& b, int steps, T* shared) {
  constexpr int STAGE = A::Slice::SIZE + B::Slice::SIZE, AHEAD = Tile::STAGES - 1;
  auto fetch = [&](int step) {
    if (step < steps) {
      T* slice = shared + step % Tile::STAGES * STAGE;
      a.load(slice);
      b.load(slice + A::Slice::SIZE);
    }
    tg::copy_commit();   // empty groups too: at the end the wait below counts them
  };
  for (int step = 0; step < AHEAD; step++) fetch(step);
  for (int step = 0; step < steps; step++) {
    tg::copy_wait<AHEAD - 1>();
    __syncthreads();
    fetch(step + AHEAD);
    const T* slice = shared + step % Tile::STAGES * STAGE;
    product.add(slice, slice + A::Slice::SIZE);
  }
}

// Number of slices in part `part` of a sum of `total` terms that is cut into parts of `terms`.
template <class Tile> TG_DEVICE int slices(int total, int terms, int part) {
  return (min(total - part * terms, terms) + Tile::BK - 1) / Tile::BK;
}

// What is done with a finished sum: the bias of its column (columns repeat every `period`), then
// the gate: LeakyReLU of the sum, or, where a mask is given, of the mask's sign (its backward).
// slope 1 is no gate.
template <class T> struct Epilogue {
  const T* bias;   // or null
  const T* mask;   // in the shape of y, or null
  T* y;
  T slope;
  int columns, period;
  TG_DEVICE T finish(T sum, long long at, int column) const {
    if (bias) sum += bias[column % period];
    if (mask) return mask[at] > 0 ? sum : slope * sum;
    if (sum > 0) return sum;
    return slope == 0 && sum == sum ? T(0) : slope * sum;   // not -infinity times 0
  }
  // GROUP neighbours of the row that starts at y[row].
  template <int GROUP>
  TG_DEVICE void operator()(long long row, int column, T (&sums)[GROUP]) const {
#pragma unroll
    for (int e = 0; e < GROUP; e++)
      if (column + e < columns) sums[e] = finish(sums[e], row + column + e, column + e);
    if (columns % GROUP == 0) {
      if (column < columns) write(y + row + column, sums);
    } else {
#pragma unroll
      for (int e = 0; e < GROUP; e++)
        if (column + e < columns) y[row + column + e] = sums[e];
    }
  }
  static TG_DEVICE void write(T* to, T (&v)[1]) { *to = v[0]; }
  static TG_DEVICE void write(float* to, float (&v)[2]) { *(float2*)to = make_float2(v[0], v[1]); }
  static TG_DEVICE void write(double* to, double (&v)[2]) {
    *(double2*)to = make_double2(v[0], v[1]);
  }
  static TG_DEVICE void write(float* to, float (&v)[4]) {
    *(float4*)to = make_float4(v[0], v[1], v[2], v[3]);
  }
};
