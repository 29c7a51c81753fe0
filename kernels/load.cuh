// The tile of a matrix product, Y[m][n] = sum over k of A[m][k] * B[k][n], that a block computes,
// and the loaders that bring slices of A and B, BK terms of the sum, to shared memory. Convolutions
// are such products whose A is never written down: its loader finds every element in the images.
#pragma once
#include "dialect.cuh"

template <int BM_, int BN_, int BK_, int WM_, int WN_, int STAGES_> struct Tile {
  static constexpr int BM = BM_, BN = BN_, BK = BK_;      // rows, columns, terms of a slice
  static constexpr int WM = WM_, WN = WN_;                // warps down and across
  static constexpr int STAGES = STAGES_, THREADS = 32 * WM * WN;
};

// How a slice of an operand lies in shared memory; X is the operand's other axis, m or n.
// ALONG_K: [x][k], neighbours in k adjacent; ALONG_X: [k][x].
// Rows are padded so that the fragment reads below touch 32 different banks: an odd multiple of 4
// words lets 8 rows of 16 bytes pass at once, 8 words beyond a multiple of 32 lets 4 rows of 8.
constexpr int ALONG_K = 0, ALONG_X = 1;

template <int LAYOUT, int BX, int BK> struct Staged {
  static constexpr int LD = LAYOUT == ALONG_K ? BK + 4 : (BX + 23) / 32 * 32 + 8;
  static constexpr int SIZE = LAYOUT == ALONG_K ? BX * LD : BK * LD;
};

// Three digits that count places of a sum, the last fastest, advanced by a fixed step without a
// division: (row, column, channel) under a kernel, or (image, row, column) of a grid.
struct Odometer {
  int high, middle, low, step_high, step_middle, step_low, middles, lows;
  TG_DEVICE Odometer(int at, int step, int middles_, int lows_) {
    middles = middles_, lows = lows_;
    low = at % lows, middle = at / lows % middles, high = at / lows / middles;
    step_low = step % lows, step_middle = step / lows % middles, step_high = step / lows / middles;
  }
  TG_DEVICE void advance() {
    low += step_low;
    int carry = low >= lows;
    low -= carry * lows;
    middle += step_middle + carry;
    carry = middle >= middles;
    middle -= carry * middles;
    high += step_high + carry;
  }
};

// Which vectors of V elements of a slice a thread copies: always the same place in a row of the
// slice, in PASSES rows that lie ROWS apart.
template <class Tile, int LAYOUT, int BX, int V> struct Share {
  using Slice = Staged<LAYOUT, BX, Tile::BK>;
  static constexpr int LENGTH = LAYOUT == ALONG_K ? Tile::BK : BX;   // of a row of the slice
  static constexpr int HEIGHT = LAYOUT == ALONG_K ? BX : Tile::BK;
  static constexpr int VECTORS = LENGTH / V, ROWS = Tile::THREADS / VECTORS;
  static constexpr int PASSES = (HEIGHT + ROWS - 1) / ROWS;
  // Two rows of 16 words are written at once; rows r and r + 4, 20 words apart each, meet no bank
  // twice, neighbours would. So the low three bits of the row are rotated.
  static constexpr bool ROTATED = LAYOUT == ALONG_K && LENGTH == 16;
  static_assert(LENGTH % V == 0 && Tile::THREADS % VECTORS == 0, "threads share rows evenly");
  static_assert(!ROTATED || ROWS % 8 == 0, "a rotated row is as far from the next pass's");
  static TG_DEVICE int place() { return threadIdx.x % VECTORS * V; }
  static TG_DEVICE int row() {   // of the first pass
    const int row = threadIdx.x / VECTORS;
    return ROTATED ? (row & ~7) | (row & 1) << 2 | (row >> 1 & 3) : row;
  }
  static TG_DEVICE bool has(int pass) {
    return HEIGHT % ROWS == 0 || row() + pass * ROWS < HEIGHT;
  }
  // The copy of a pass. `from` is not read, and may lie anywhere, unless ok.
  template <bool REREAD = false, class T>
  static TG_DEVICE void copy(T* slice, int pass, const T* from, bool ok) {
    T* to = slice + row() * Slice::LD + place() + pass * ROWS * Slice::LD;
    tg::copy_async<V * sizeof(T), REREAD>(to, from, ok);
  }
};

// The loaders. load() brings the next slice. Whether a copy is within the matrix takes one
// comparison where it can: the others, which hold for a whole slice or for all of them, move its
// limit. Offsets are unsigned, for those past the end may wrap; arrays have below 2^31 elements.

// A matrix whose elements lie [x][k] in memory, k adjacent.
template <class T, class Tile, int BX, int V> struct MatrixAlongK {
  static constexpr int LAYOUT = ALONG_K;
  using Slice = Staged<LAYOUT, BX, Tile::BK>;
  using Mine = Share<Tile, LAYOUT, BX, V>;
  const T* from;
  int x, xs, k, ks, ld;
  TG_DEVICE MatrixAlongK(const T* matrix, int ld_, int x0, int xs_, int k0, int ks_)
      : from(matrix), x(x0 + Mine::row()), xs(xs_), k(k0 + Mine::place()), ks(ks_), ld(ld_) {}
  TG_DEVICE void load(T* slice) {
    const int limit = k < ks ? xs : 0;
#pragma unroll
    for (int pass = 0; pass < Mine::PASSES; pass++) {
      if (!Mine::has(pass)) break;
      const int here = x + pass * Mine::ROWS;
      Mine::copy(slice, pass, from + (unsigned(here) * unsigned(ld) + unsigned(k)), here < limit);
    }
    k += Tile::BK;
  }
};

// A matrix whose elements lie [k][x] in memory, x adjacent.
template <class T, class Tile, int BX, int V> struct MatrixAlongX {
  static constexpr int LAYOUT = ALONG_X;
  using Slice = Staged<LAYOUT, BX, Tile::BK>;
  using Mine = Share<Tile, LAYOUT, BX, V>;
  const T* from;
  int x, k, ks, ld;
  TG_DEVICE MatrixAlongX(const T* matrix, int ld_, int x0, int xs, int k0, int ks_)
      : from(matrix), x(x0 + Mine::place()), k(k0 + Mine::row()), ks(x < xs ? ks_ : 0), ld(ld_) {}
  TG_DEVICE void load(T* slice) {
#pragma unroll
    for (int pass = 0; pass < Mine::PASSES; pass++) {
      if (!Mine::has(pass)) break;
      const int here = k + pass * Mine::ROWS;
      Mine::copy(slice, pass, from + (unsigned(here) * unsigned(ld) + unsigned(x)), here < ks);
    }
    k += Tile::BK;
  }
};

// Places (n, p, q) where a kernel is put on images, seen from the images: place m has its corner
// at pixel (step*p + start, step*q + start) of image n, down and across.
struct Places {
  int count_down, count_across, total;   // of p, of q, of m
  int step_down, step_across, start_down, start_across;
};

// Row m of A is what the kernel covers at place m; k runs over (tap row, tap column, channel).
// Kernels overlap, so the next taps read most of these pixels again: REREAD.
// DIRECTION 1: taps go down and right of the corner (conv2d). -1: up and left (its transpose,
// where an image's pixel collects from the grid).
template <class T, class Tile, int BX, int V, int DIRECTION> struct PixelsUnderKernel {
  static constexpr int LAYOUT = ALONG_K;
  static constexpr int BELOW = 0x4000, ABOVE = -0x8000;   // every image, and their sum too
  using Slice = Staged<LAYOUT, BX, Tile::BK>;
  using Mine = Share<Tile, LAYOUT, BX, V>;
  const T* from;
  Odometer tap;
  int height, width, taps_down;
  int corner[Mine::PASSES], at[Mine::PASSES];   // of this thread's rows: offset; row << 16 | column
  TG_DEVICE PixelsUnderKernel(const T* images, int height_, int width_, int channels, Places places,
                              int taps_down_, int taps_across, int m0, int k0)
      : from(images), tap(k0 + Mine::place(), Tile::BK, taps_across, channels), height(height_),
        width(width_), taps_down(taps_down_) {
#pragma unroll
    for (int pass = 0; pass < Mine::PASSES; pass++) {
      const int m = m0 + Mine::row() + pass * Mine::ROWS;
      const int n = m / (places.count_down * places.count_across);
      const int p = m / places.count_across % places.count_down, q = m % places.count_across;
      const int row = p * places.step_down + places.start_down;
      const int column = q * places.step_across + places.start_across;
      corner[pass] = ((n * height + row) * width + column) * channels;
      at[pass] = (m < places.total ? row : ABOVE) * 0x10000 + (column & 0xffff);
    }
  }
  TG_DEVICE void load(T* slice) {
    const unsigned offset = DIRECTION * (tap.high * width + tap.middle) * tap.lows + tap.low;
    const int down = tap.high < taps_down ? DIRECTION * tap.high : BELOW;
#pragma unroll
    for (int pass = 0; pass < Mine::PASSES; pass++) {
      if (!Mine::has(pass)) break;
      const int row = (at[pass] >> 16) + down;
      const int column = (short)(at[pass] & 0xffff) + DIRECTION * tap.middle;
      const bool ok = (unsigned)row < (unsigned)height && (unsigned)column < (unsigned)width;
      Mine::template copy<true>(slice, pass, from + (unsigned(corner[pass]) + offset), ok);
    }
    tap.advance();
  }
};

// The same pixels with the roles changed, for the gradient in the weights: row x is a tap (row,
// column, channel) and k runs over the places (n, p, q). To find a place costs more than to find a
// tap's pixel there, so a thread copies several taps, GROUPS of them, of few places; eight threads
// side by side, or more of smaller vectors, still take whole lines of 128 bytes.
template <class T, class Tile, int BX, int V> struct TapsOverPlaces {
  static constexpr int LAYOUT = ALONG_X;
  using Slice = Staged<LAYOUT, BX, Tile::BK>;
  static constexpr int VECTORS = BX / V, LINE = 128 / (V * sizeof(T));
  static constexpr int LEAST = Tile::THREADS / Tile::BK;   // not to leave a thread without a row
  static constexpr int SIDE = LINE > LEAST ? LINE : LEAST;
  static constexpr int ACROSS = SIDE < VECTORS ? SIDE : VECTORS, GROUPS = VECTORS / ACROSS;
  static constexpr int ROWS = Tile::THREADS / ACROSS, PASSES = Tile::BK / ROWS;
  static_assert(GROUPS * ACROSS == VECTORS && ROWS * PASSES == Tile::BK, "shares are even");
  static constexpr int BELOW = 0x4000, ABOVE = -0x8000;   // every image, and their sum too
  const T* from;
  Odometer place;
  Places places;
  int images, height, width, channels;
  int offset[GROUPS], at[GROUPS];   // of this thread's taps: of the element; row << 16 | column
  static TG_DEVICE int row() { return threadIdx.x / ACROSS; }
  static TG_DEVICE int x(int group) { return (threadIdx.x % ACROSS + group * ACROSS) * V; }
  TG_DEVICE TapsOverPlaces(const T* pixels, int images_, int height_, int width_, int channels_,
                           Places places_, int taps_down, int taps_across, int x0, int k0)
      : from(pixels), place(k0 + row(), ROWS, places_.count_down, places_.count_across),
        places(places_), images(images_), height(height_), width(width_), channels(channels_) {
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      const int tap = (x0 + x(group)) / channels, channel = (x0 + x(group)) % channels;
      const int down = tap / taps_across + places.start_down;
      const int across = tap % taps_across + places.start_across;
      offset[group] = (down * width + across) * channels + channel;
      at[group] = (tap < taps_down * taps_across ? down : ABOVE) * 0x10000 + (across & 0xffff);
    }
  }
  TG_DEVICE void load(T* slice) {
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
      const int down = place.middle * places.step_down, column0 = place.low * places.step_across;
      const int pixel = ((place.high * height + down) * width + column0) * channels;
      const int row0 = place.high < images ? down : BELOW;
#pragma unroll
      for (int group = 0; group < GROUPS; group++) {
        const int row = row0 + (at[group] >> 16), column = column0 + (short)(at[group] & 0xffff);
        const bool ok = (unsigned)row < (unsigned)height && (unsigned)column < (unsigned)width;
        tg::copy_async<V * sizeof(T)>(
            slice + (this->row() + pass * ROWS) * Slice::LD + x(group),
            from + (unsigned(pixel) + unsigned(offset[group])), ok);
      }
      place.advance();
    }
  }
};

// The weights (kh, kw, C, O) as the transpose reads them: x is the channel c; k runs over (tap row,
// tap column, o) of one parity, whose taps lie a stride apart.
template <class T, class Tile, int BX, int V> struct WeightsOfParity {
  static constexpr int LAYOUT = ALONG_K;
  using Slice = Staged<LAYOUT, BX, Tile::BK>;
  using Mine = Share<Tile, LAYOUT, BX, V>;
  const T* from;   // the parity's first tap
  Odometer tap;
  int channels, x, taps_down, next_down, next_across;
  TG_DEVICE WeightsOfParity(const T* first, int channels_, int outputs, int next_down_,
                            int next_across_, int taps_down_, int taps_across, int x0, int k0)
      : from(first), tap(k0 + Mine::place(), Tile::BK, taps_across, outputs), channels(channels_),
        x(x0 + Mine::row()), taps_down(taps_down_), next_down(next_down_),
        next_across(next_across_) {}
  TG_DEVICE void load(T* slice) {
    const unsigned offset = tap.high * unsigned(next_down) + tap.middle * next_across + tap.low;
    const int limit = tap.high < taps_down ? channels : 0;
#pragma unroll
    for (int pass = 0; pass < Mine::PASSES; pass++) {
      if (!Mine::has(pass)) break;
      const int here = x + pass * Mine::ROWS;
      Mine::copy(slice, pass, from + (unsigned(here) * unsigned(tap.lows) + offset), here < limit);
    }
    tap.advance();
  }
};
