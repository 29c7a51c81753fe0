// Arrays as (groups, rows, columns), walked down their columns and summed over the rows.
//
// Batch norm is one group whose columns are the features; layer norm has the samples for groups and
// one column. A block takes a tile of columns of one group over a run of rows. Its threads stand
// 2^width columns wide, so that a warp reads neighbours, however few columns there are; a thread
// stays in its column, where the column's statistics are registers. Loads are of single numbers, as
// the columns of 3 channels are no multiple of 16 bytes; four rows in flight a thread fill the bus.
//
// Sums are in a fixed order: no thread's pace shows in them. A thread's chains end after 64 rows
// (cut() in columns.py), and pairs are added from there: a sum of K rounds by far less than √K u.
#pragma once
#include "dialect.cuh"

constexpr int THREADS = 256;
constexpr int FLIGHT = 4;  // rows of a thread in flight

// How the array is cut; cut() in columns.py fills it.
struct Cut {
  long long rows;   // of a group
  long long chunk;  // rows of a block
  int columns;
  int splits;  // blocks down the rows
  int tiles;   // blocks across the columns
  int width;   // a block is 2^width columns wide
};

// Where a thread stands.
struct Place {
  long long group, row, stop;  // its rows are row, row + step, ... below stop
  int split, column, step;
  bool inside;  // false where a tile hangs over the last column

  TG_DEVICE explicit Place(const Cut& cut) {
    const unsigned down = blockIdx.x / cut.tiles;
    group = down / cut.splits;
    split = int(down % cut.splits);
    const unsigned across = blockIdx.x % cut.tiles, lane = threadIdx.x & ((1u << cut.width) - 1);
    column = int((across << cut.width) + lane);
    step = THREADS >> cut.width;
    inside = column < cut.columns;
    row = split * cut.chunk + (threadIdx.x >> cut.width);
    stop = split * cut.chunk + cut.chunk;
    if (stop > cut.rows) stop = cut.rows;
    if (!inside) stop = 0;
  }
};

// Sums down the columns of a block's part: value(row, v) sets the N numbers of a row. The sums are
// in the threads of the block's first row, those that `first` answers for. All threads must come.
template <class T, int N, class Value>
TG_DEVICE void block_sums(T (&sums)[N], const Cut& cut, const Place& at, Value value) {
  T part[FLIGHT][N] = {};
  long long row = at.row;
  for (; row + (FLIGHT - 1) * at.step < at.stop; row += FLIGHT * at.step) {
    T v[FLIGHT][N];
#pragma unroll
    for (int i = 0; i < FLIGHT; i++) value(row + i * at.step, v[i]);
#pragma unroll
    for (int i = 0; i < FLIGHT; i++)
#pragma unroll
      for (int k = 0; k < N; k++) part[i][k] += v[i][k];
  }
  for (; row < at.stop; row += at.step) {
    T v[N];
    value(row, v);
#pragma unroll
    for (int k = 0; k < N; k++) part[0][k] += v[k];
  }
  TG_SHARED(T, tile);  // N times THREADS
  const int me = threadIdx.x;
#pragma unroll
  for (int k = 0; k < N; k++) {
    const T pairs = (part[0][k] + part[1][k]) + (part[2][k] + part[3][k]);
    tg::store_shared(tile + k * THREADS + me, pairs);
  }
  for (int half = THREADS / 2; half >> cut.width; half /= 2) {
    __syncthreads();
    if (me < half) {
#pragma unroll
      for (int k = 0; k < N; k++) {
        T* mine = tile + k * THREADS + me;
        tg::store_shared(mine, tg::load_shared(mine) + tg::load_shared(mine + half));
      }
    }
  }
#pragma unroll
  for (int k = 0; k < N; k++) sums[k] = tg::load_shared(tile + k * THREADS + me);
}

TG_DEVICE bool first(const Cut& cut, const Place& at) {
  return at.inside && threadIdx.x >> cut.width == 0;
}
