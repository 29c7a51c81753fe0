// Batch norm and layer norm: the primitives of tinygan/norms.py, whose notation this is.
//
// The array is (groups, rows, columns) as in columns.cuh; a statistic has one number for each group
// and column. LAYER: a group is a sample of one column, and features differ along its rows, feature
// = row mod features. What an op moves is counted in arrays of the input's size.
#include "columns.cuh"

TG_DEVICE float root(float x) { return sqrtf(x); }
TG_DEVICE double root(double x) { return sqrt(x); }

// What is summed over the rows, and what becomes of the sum
enum Sum {
  MEAN,       // (Σ a)/n
  DEVIATION,  // 1/√(Σ (a − mean)²/n + eps)
  PROJECT,    // mean k, and r²·(Σ k·(a − mean))/n, with k = h·scale for LAYER and h without
  DOT,        // Σ h·(a − mean), times r
  DOT_LAYER   // Σ h·(a − mean)·r, with features for columns: the statistics go along the rows
};
template <int SUM> constexpr int sums_of = SUM == PROJECT ? 2 : 1;

struct Factors {  // what a sum is finished with; T is float or double, both exact in double
  double inverse_count, eps;
};

// y holds all the first sums (group, column), then all the second.
template <class T, int SUM>
TG_DEVICE void finish(const T (&s)[sums_of<SUM>], const Cut& cut, const Place& at, long long groups,
                      const T* r, const Factors& f, T* y) {
  const long long i = at.group * cut.columns + at.column;
  const T part = T(f.inverse_count);
  if constexpr (SUM == MEAN) y[i] = s[0] * part;
  if constexpr (SUM == DEVIATION) y[i] = T(1) / root(s[0] * part + T(f.eps));
  if constexpr (SUM == PROJECT) {
    y[i] = s[0] * part;
    y[groups * cut.columns + i] = r[i] * r[i] * (s[1] * part);
  }
  if constexpr (SUM == DOT) y[i] = s[0] * r[i];
  if constexpr (SUM == DOT_LAYER) y[i] = s[0];
}

// The sums over the rows of each block. Blocks that have all rows of their columns finish them;
// else y takes the parts (group, split, sum, column) for `total`.
// Reads: MEAN and DEVIATION a, PROJECT and DOT h and a. CuPy moves 1, 5, 7 and 6.
template <class T, int SUM, bool LAYER>
__global__ void __launch_bounds__(THREADS, 4)
    reduce(const T* __restrict__ h, const T* __restrict__ a, const T* __restrict__ mean,
           const T* __restrict__ r, const T* __restrict__ scale, T number, int features, Cut cut,
           Factors factors, T* y) {
  constexpr int N = sums_of<SUM>;
  const Place at(cut);
  const long long here = at.group * cut.rows * cut.columns + at.column;
  T centre = 0;
  if constexpr (SUM != MEAN && SUM != DOT_LAYER)
    if (at.inside) centre = mean[at.group * cut.columns + at.column];
  T s[N];
  block_sums(s, cut, at, [&](long long row, T(&v)[N]) {
    const long long i = here + row * cut.columns;
    if constexpr (SUM == MEAN) v[0] = a[i];
    if constexpr (SUM == DEVIATION) v[0] = (a[i] - centre) * (a[i] - centre);
    if constexpr (SUM == PROJECT) {
      v[0] = h[i];
      if constexpr (LAYER) v[0] *= scale ? scale[unsigned(row) % unsigned(features)] : number;
      v[1] = v[0] * (a[i] - centre);
    }
    if constexpr (SUM == DOT) v[0] = h[i] * (a[i] - centre);
    if constexpr (SUM == DOT_LAYER) {
      const unsigned sample = unsigned(row) / unsigned(features);  // here: the rows of a sample
      v[0] = h[i] * (a[i] - mean[sample]) * r[sample];
    }
  });
  if (!first(cut, at)) return;
  if (cut.splits == 1) {
    const long long groups = gridDim.x / cut.tiles;
    finish<T, SUM>(s, cut, at, groups, r, factors, y);
  } else {
    T* part = y + (at.group * cut.splits + at.split) * N * cut.columns + at.column;
#pragma unroll
    for (int k = 0; k < N; k++) part[k * cut.columns] = s[k];
  }
}

// The sums of the parts that `reduce` left, finished. The rows are its splits.
template <class T, int SUM>
__global__ void __launch_bounds__(THREADS, 4)
    total(const T* __restrict__ parts, const T* __restrict__ r, Cut cut, Factors factors, T* y) {
  constexpr int N = sums_of<SUM>;
  const Place at(cut);
  T s[N];
  block_sums(s, cut, at, [&](long long row, T(&v)[N]) {
    const T* part = parts + (at.group * cut.rows + row) * N * cut.columns + at.column;
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = part[k * cut.columns];
  });
  if (first(cut, at)) finish<T, SUM>(s, cut, at, gridDim.x / cut.tiles, r, factors, y);
}

// y = scale·r·(a − mean) + shift. Moves 2, CuPy 6.
template <class T, bool LAYER>
__global__ void __launch_bounds__(THREADS, 4)
    standardise(const T* __restrict__ a, const T* __restrict__ mean, const T* __restrict__ r,
                const T* __restrict__ scale, T scale_number, const T* __restrict__ shift,
                T shift_number, int features, Cut cut, T* __restrict__ y) {
  const Place at(cut);
  if (!at.inside) return;
  const long long here = at.group * cut.rows * cut.columns + at.column;
  const long long statistic = at.group * cut.columns + at.column;
  const T centre = mean[statistic], inverse = r[statistic];
  T slope = inverse * scale_number, offset = shift_number;
  if (!LAYER && scale) slope = inverse * scale[at.column];
  if (!LAYER && shift) offset = shift[at.column];
#pragma unroll 4
  for (long long row = at.row; row < at.stop; row += at.step) {
    if (LAYER) {
      const unsigned feature = unsigned(row) % unsigned(features);
      if (scale) slope = inverse * scale[feature];
      if (shift) offset = shift[feature];
    }
    const long long i = here + row * cut.columns;
    y[i] = (a[i] - centre) * slope + offset;
  }
}

// y = r·(k − centre − slope·(a − mean)), with centre and slope the sums PROJECT; batch norm takes
// scale into r, layer norm into k = h·scale. Moves 3, and 2 for the sums; CuPy 18.
template <class T, bool LAYER>
__global__ void __launch_bounds__(THREADS, 4)
    project(const T* __restrict__ h, const T* __restrict__ a, const T* __restrict__ mean,
            const T* __restrict__ r, const T* __restrict__ sums, const T* __restrict__ scale,
            T number, int features, Cut cut, T* __restrict__ y) {
  const Place at(cut);
  if (!at.inside) return;
  const long long groups = gridDim.x / (cut.tiles * cut.splits);
  const long long here = at.group * cut.rows * cut.columns + at.column;
  const long long statistic = at.group * cut.columns + at.column;
  const T middle = mean[statistic], centre = sums[statistic];
  const T slope = sums[groups * cut.columns + statistic];
  T outer = r[statistic];
  if (!LAYER) outer *= scale ? scale[at.column] : number;
  T inner = LAYER ? number : T(1);
#pragma unroll 4
  for (long long row = at.row; row < at.stop; row += at.step) {
    if (LAYER && scale) inner = scale[unsigned(row) % unsigned(features)];
    const long long i = here + row * cut.columns;
    const T k = LAYER ? h[i] * inner : h[i];
    y[i] = (k - centre - (a[i] - middle) * slope) * outer;
  }
}
