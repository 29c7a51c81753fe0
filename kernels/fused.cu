// Element-wise kernels and the sum of a matrix's rows.
#include "columns.cuh"

template <class T> struct Pack;  // 16 bytes
template <> struct Pack<float> {
  float4 v;
  template <class F> TG_DEVICE static Pack map(const Pack& a, const Pack& m, F f) {
    return {make_float4(f(a.v.x, m.v.x), f(a.v.y, m.v.y), f(a.v.z, m.v.z), f(a.v.w, m.v.w))};
  }
};
template <> struct Pack<double> {
  double2 v;
  template <class F> TG_DEVICE static Pack map(const Pack& a, const Pack& m, F f) {
    return {make_double2(f(a.v.x, m.v.x), f(a.v.y, m.v.y))};
  }
};

// y = a where m > 0, slope·a elsewhere; OWN: m is a. Moves 3 arrays, or 2; CuPy 7.5, or 5.
// The first `packs`·16 bytes go as packs, the rest one by one: none of them where an array is not
// aligned to 16 bytes.
template <class T, bool OWN>
__global__ void __launch_bounds__(THREADS)
    gate(const T* __restrict__ a, const T* __restrict__ m, T slope, long long packs, long long size,
         T* __restrict__ y) {
  constexpr int WIDE = 16 / sizeof(T);
  const bool ramp = OWN && slope == T(0);  // max(a, 0): -inf·0 would be NaN, and NaN stays NaN
  auto choose = [=](T v, T mark) {
    if (mark > T(0)) return v;
    return ramp && v == v ? T(0) : v * slope;
  };
  const long long step = (long long)gridDim.x * THREADS;
  const long long me = (long long)blockIdx.x * THREADS + threadIdx.x;
  for (long long i = me; i < packs; i += step) {
    const Pack<T> v = reinterpret_cast<const Pack<T>*>(a)[i];
    const Pack<T> mark = OWN ? v : reinterpret_cast<const Pack<T>*>(m)[i];
    reinterpret_cast<Pack<T>*>(y)[i] = Pack<T>::map(v, mark, choose);
  }
  for (long long i = packs * WIDE + me; i < size; i += step) {
    const T v = a[i];
    y[i] = choose(v, OWN ? v : m[i]);
  }
}

// y[s, c] = the sum of a[row, c] over the rows of block row s: a matrix of one row where that is
// all of them; else the same kernel sums that matrix. Reads a once; 1 or 2 launches.
template <class T>
__global__ void __launch_bounds__(THREADS) column_sum(const T* __restrict__ a, Cut cut, T* y) {
  const Place at(cut);
  T sums[1];
  block_sums(sums, cut, at, [&](long long row, T(&v)[1]) {
    v[0] = a[row * cut.columns + at.column];
  });
  if (first(cut, at)) y[(long long)at.split * cut.columns + at.column] = sums[0];
}
