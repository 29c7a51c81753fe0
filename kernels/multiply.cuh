// A slice of A times a slice of B, from shared memory into the registers of a block's threads: with
// FFMA on every GPU (and in float64), with tensor cores from sm_80.
#pragma once
#include "load.cuh"

constexpr int FP32 = 0, TF32 = 1, TF32X3 = 3;   // PRECISION

// The tile's results in the registers of its threads, by FFMA (or DFMA): PRECISION FP32.
// A warp's 32 threads lie 4 down and 8 across; each has TM x TN results.
template <class T> struct Vector;
template <> struct Vector<float> { using type = float4; static constexpr int SIZE = 4; };
template <> struct Vector<double> { using type = double2; static constexpr int SIZE = 2; };
TG_DEVICE void unpack(float (&to)[4], float4 v) {
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
TG_DEVICE void unpack(double (&to)[2], double2 v) { to[0] = v.x, to[1] = v.y; }

template <class T, int PRECISION, class Tile, int LAYOUT_A, int LAYOUT_B> struct Product {
  static_assert(PRECISION == FP32, "the tensor cores' products are of float");
  using SliceA = Staged<LAYOUT_A, Tile::BM, Tile::BK>;
  using SliceB = Staged<LAYOUT_B, Tile::BN, Tile::BK>;
  using Wide = typename Vector<T>::type;
  static constexpr int W = Vector<T>::SIZE;
  static constexpr int TM = Tile::BM / Tile::WM / 4, TN = Tile::BN / Tile::WN / 8;
  static constexpr bool WIDE_B = LAYOUT_B == ALONG_X && TN % W == 0;   // else single columns
  static constexpr int GROUP = WIDE_B ? W : 1;   // neighbouring columns that a thread holds
  static_assert(LAYOUT_A == ALONG_K || TM % W == 0, "rows are read W at a time");
  T sum[TM][TN];

  static TG_DEVICE int row(int i) {   // of the tile, for result i of this thread
    const int warp = threadIdx.x / 32 / Tile::WN * (4 * TM), lane = threadIdx.x % 32 / 8;
    return warp + (LAYOUT_A == ALONG_K ? i * 4 + lane : i / W * (4 * W) + lane * W + i % W);
  }
  static TG_DEVICE int column(int j) {
    const int warp = threadIdx.x / 32 % Tile::WN * (8 * TN), lane = threadIdx.x % 8;
    return warp + (WIDE_B ? j / W * (8 * W) + lane * W + j % W : j * 8 + lane);
  }
  TG_DEVICE Product() {
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
      for (int j = 0; j < TN; j++) sum[i][j] = 0;
  }
  // W terms of the slice for all rows or columns of this thread, read from shared memory.
  template <int LAYOUT, int COUNT, bool WIDE, int LD, class Index>
  static TG_DEVICE void read(T (&to)[COUNT][W], const T* slice, int k, Index index) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      if (LAYOUT == ALONG_K) {
        unpack(to[i], tg::load_shared((const Wide*)(slice + index(i) * LD + k)));
      } else if (WIDE) {
        if (i % W) continue;
#pragma unroll
        for (int e = 0; e < W; e++) {
          T neighbours[W];
          unpack(neighbours, tg::load_shared((const Wide*)(slice + (k + e) * LD + index(i))));
#pragma unroll
          for (int f = 0; f < W; f++) to[i + f < COUNT ? i + f : 0][e] = neighbours[f];
        }
      } else {
#pragma unroll
        for (int e = 0; e < W; e++) to[i][e] = tg::load_shared(slice + (k + e) * LD + index(i));
      }
    }
  }
  TG_DEVICE void add(const T* a, const T* b) {   // one slice of each
#pragma unroll
    for (int k = 0; k < Tile::BK; k += W) {
      T left[TM][W], right[TN][W];
      read<LAYOUT_A, TM, true, SliceA::LD>(left, a, k, row);
      read<LAYOUT_B, TN, WIDE_B, SliceB::LD>(right, b, k, column);
#pragma unroll
      for (int e = 0; e < W; e++)
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
          for (int j = 0; j < TN; j++)
            sum[i][j] = tg::multiply_add(left[i][e], right[j][e], sum[i][j]);
    }
  }
  template <class Store> TG_DEVICE void store(Store to) {   // to(row, column, GROUP results)
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
      for (int j = 0; j < TN; j += GROUP) {
        T results[GROUP];
#pragma unroll
        for (int e = 0; e < GROUP; e++) results[e] = sum[i][j + e];
        to(row(i), column(j), results);
      }
  }
};

// The same on tensor cores (sm_80 and newer), 16 x 8 results and 8 terms at a time. Thread `lane`
// of a warp holds, with g = lane / 4 and t = lane % 4, of A rows g and g+8 at terms t and t+4; of B
// column g at terms t and t+4; of the results rows g and g+8 at columns 2t and 2t+1.
// TF32 keeps 11 bits of each factor. TF32X3 splits factors, a = high + low, and adds low*high,
// high*low and high*high: 22 bits. Tensor cores cut off where they add, towards zero, which in a
// long sum adds up; so TF32X3 starts each slice from 0 and adds it to the sum with rounding.
//
// The conversion cvt.rna is two instructions before an mma, for each word that is read: a fifth of
// the loop. Tensor cores drop a factor's low 13 bits, which shrinks it by 2^-11 E[1/m] = 2^-11 /
// (2 ln 2) on average, for significands m from 1 to 2 as numbers of all sizes have them. Enlarged
// by so much beforehand, one multiplication, it is right on average; a number that fits 11 bits
// stays what it is, and NaN stays NaN (which adding half a unit to the bits would not keep).
constexpr float TRUNCATED = 1.f + 0.7213475f / 2048;

// Where a slice lies along x, a thread reads four neighbours at once: which row of the tile is row
// g of which product is ours to say. Rows 4g to 4g+3 are g and g+8 of two products, columns 4g to
// 4g+3 are g of four. The results are then neighbours too.
template <int PRECISION, class Tile, int LAYOUT_A, int LAYOUT_B> struct TensorProduct {
  using SliceA = Staged<LAYOUT_A, Tile::BM, Tile::BK>;
  using SliceB = Staged<LAYOUT_B, Tile::BN, Tile::BK>;
  static constexpr int MT = Tile::BM / Tile::WM / 16, NT = Tile::BN / Tile::WN / 8;
  static constexpr bool WIDE_B = LAYOUT_B == ALONG_X && NT % 4 == 0;
  static constexpr int GROUP = WIDE_B ? 4 : 2;   // neighbouring columns that a thread holds
  static_assert(LAYOUT_A == ALONG_K || MT % 2 == 0, "rows are read for two products at a time");
  float sum[MT][NT][4];

  static TG_DEVICE int lane() { return threadIdx.x % 32; }
  static TG_DEVICE int warp_row() { return threadIdx.x / 32 / Tile::WN * (16 * MT); }
  static TG_DEVICE int warp_column() { return threadIdx.x / 32 % Tile::WN * (8 * NT); }
  static TG_DEVICE int row(int i, int half) {   // of the tile: row g, or g+8, of product i
    const int g = lane() / 4;
    return warp_row() + (LAYOUT_A == ALONG_K ? 16 * i + g + 8 * half
                                             : i / 2 * 32 + 4 * g + i % 2 * 2 + half);
  }
  static TG_DEVICE int column(int j, int c) {   // of the tile: column c of product j
    return warp_column() + (WIDE_B ? j / 4 * 32 + 4 * c + j % 4 : 8 * j + c);
  }
  static TG_DEVICE void clear(float (&sum)[MT][NT][4]) {
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
      for (int j = 0; j < NT; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) sum[i][j][e] = 0;
  }
  TG_DEVICE TensorProduct() { clear(sum); }

  static TG_DEVICE void read_four(unsigned (&to)[4], const float* from) {
    const float4 v = tg::load_shared((const float4*)from);
    to[0] = __float_as_uint(v.x), to[1] = __float_as_uint(v.y);
    to[2] = __float_as_uint(v.z), to[3] = __float_as_uint(v.w);
  }
  static TG_DEVICE void read_a(unsigned (&to)[MT][4], const float* slice, int k) {
    const int t = lane() % 4;
    if (LAYOUT_A == ALONG_K) {
#pragma unroll
      for (int i = 0; i < MT; i++)
        tg::ldmatrix_x4(to[i], slice + (warp_row() + 16 * i + lane() % 16) * SliceA::LD + k +
                                   lane() / 16 * 4);
    } else {
#pragma unroll
      for (int i = 0; i < MT; i += 2)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          unsigned four[4];
          read_four(four, slice + (k + t + 4 * e) * SliceA::LD + row(i, 0));
          const int next = i + 1 < MT ? i + 1 : 0;
          to[i][2 * e] = four[0], to[i][2 * e + 1] = four[1];
          to[next][2 * e] = four[2], to[next][2 * e + 1] = four[3];
        }
    }
  }
  static TG_DEVICE void read_b(unsigned (&to)[NT][2], const float* slice, int k) {
    const int g = lane() / 4, t = lane() % 4;
    if (WIDE_B) {
#pragma unroll
      for (int j = 0; j < NT; j += 4)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          unsigned four[4];
          read_four(four, slice + (k + t + 4 * e) * SliceB::LD + column(j, g));
#pragma unroll
          for (int f = 0; f < 4; f++) to[j + f < NT ? j + f : 0][e] = four[f];
        }
    } else if (LAYOUT_B == ALONG_K && NT % 2 == 0) {
#pragma unroll
      for (int j = 0; j < NT; j += 2) {   // four 8 x 4 blocks: two columns' halves each
        unsigned pair[4];
        tg::ldmatrix_x4(pair, slice + column(j, lane() / 16 * 8 + lane() % 8) * SliceB::LD + k +
                                  lane() / 8 % 2 * 4);
        const int next = j + 1 < NT ? j + 1 : 0;
        to[j][0] = pair[0], to[j][1] = pair[1];
        to[next][0] = pair[2], to[next][1] = pair[3];
      }
    } else {
#pragma unroll
      for (int j = 0; j < NT; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int x = column(j, g), term = k + t + 4 * e;
          to[j][e] = __float_as_uint(tg::load_shared(
              slice + (LAYOUT_B == ALONG_K ? x * SliceB::LD + term : term * SliceB::LD + x)));
        }
    }
  }
  static TG_DEVICE unsigned rounded(unsigned v) {
    return __float_as_uint(__uint_as_float(v) * TRUNCATED);
  }
  // v to the nearest 11 bits, and what is left of it to low: NaN, whatever v's bits, if v is.
  static TG_DEVICE unsigned split(unsigned v, unsigned& low) {
    const unsigned high = (v + 0x1000) & 0xffffe000;
    low = __float_as_uint((__uint_as_float(v) - __uint_as_float(high)) * TRUNCATED);
    return high;
  }
  TG_DEVICE void add(const float* a, const float* b) {
    float slice_sum[MT][NT][4];
    if (PRECISION == TF32X3) clear(slice_sum);
#pragma unroll
    for (int k = 0; k < Tile::BK; k += 8) {
      unsigned left[MT][4], right[NT][2];
      read_a(left, a, k);
      read_b(right, b, k);
      if (PRECISION == TF32) {
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
          for (int e = 0; e < 4; e++) left[i][e] = rounded(left[i][e]);
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) right[j][e] = rounded(right[j][e]);
        tg::mma<MT, NT>(sum, left, right);
      } else {
        unsigned left_low[MT][4], right_low[NT][2];
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
          for (int e = 0; e < 4; e++) left[i][e] = split(left[i][e], left_low[i][e]);
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) right[j][e] = split(right[j][e], right_low[j][e]);
        tg::mma<MT, NT>(slice_sum, left_low, right);
        tg::mma<MT, NT>(slice_sum, left, right_low);
        tg::mma<MT, NT>(slice_sum, left, right);
      }
    }
    if (PRECISION == TF32X3) {
#pragma unroll
      for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) sum[i][j][e] += slice_sum[i][j][e];
    }
  }
  template <class Store> TG_DEVICE void store(Store to) {   // to(row, column, GROUP results)
    const int t = lane() % 4;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        if constexpr (WIDE_B) {
#pragma unroll
          for (int j = 0; j < NT; j += 4)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              float results[4];
#pragma unroll
              for (int f = 0; f < 4; f++) results[f] = sum[i][j + f][2 * half + e];
              to(row(i, half), column(j, 2 * t + e), results);
            }
        } else {
#pragma unroll
          for (int j = 0; j < NT; j++) {
            float results[2] = {sum[i][j][2 * half], sum[i][j][2 * half + 1]};
            to(row(i, half), column(j, 2 * t), results);
          }
        }
  }
};

template <class Tile, int LAYOUT_A, int LAYOUT_B>
struct Product<float, TF32, Tile, LAYOUT_A, LAYOUT_B>
    : TensorProduct<TF32, Tile, LAYOUT_A, LAYOUT_B> {};
template <class Tile, int LAYOUT_A, int LAYOUT_B>
struct Product<float, TF32X3, Tile, LAYOUT_A, LAYOUT_B>
    : TensorProduct<TF32X3, Tile, LAYOUT_A, LAYOUT_B> {};
