// Philox4x64-10 and what tinygan.backend.Stream makes of it: the same bits as NumPy's generator.
//
// Block number b of a stream is philox(counter + b): four 64-bit words, eight floats or four
// doubles. The counter is a number in the arguments plus, where `base` is not null, one in device
// memory: a CUDA graph keeps its arguments, and goes on in the stream by the memory.
// Source: Salmon, Moraes, Dror & Shaw, Parallel random numbers: as easy as 1, 2, 3 (2011).
#include "dialect.cuh"

typedef unsigned long long Word;
constexpr int THREADS = 128;

struct Start {
  Word key[2], counter[4];
};

struct Block {
  Word w[4];
};

// The 256-bit sum; it wraps.
TG_DEVICE void advance(Word (&counter)[4], const Word (&by)[4]) {
  Word carry = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const Word sum = counter[i] + by[i], all = sum + carry;
    carry = (sum < by[i]) | (all < sum);
    counter[i] = all;
  }
}

TG_DEVICE Block philox(const Start& start, const Word* base, Word number) {
  Word c[4], key[2] = {start.key[0], start.key[1]};
#pragma unroll
  for (int i = 0; i < 4; i++) c[i] = start.counter[i];
  advance(c, {number, 0, 0, 0});
  if (base) advance(c, {base[0], base[1], base[2], base[3]});
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const Word low0 = 0xD2E7470EE14C6C93ull * c[0], high0 = __umul64hi(0xD2E7470EE14C6C93ull, c[0]);
    const Word low1 = 0xCA5A826395121157ull * c[2], high1 = __umul64hi(0xCA5A826395121157ull, c[2]);
    c[0] = high1 ^ c[1] ^ key[0];
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ key[1];
    c[3] = low0;
    key[0] += 0x9E3779B97F4A7C15ull;
    key[1] += 0xBB67AE8584CAA73Bull;
  }
  return {{c[0], c[1], c[2], c[3]}};
}

// The numbers of a block: k·2^-24 from 32-bit halves, the low half first; k·2^-53 from words.
template <class T> constexpr int NUMBERS = 32 / sizeof(T);

TG_DEVICE unsigned half_of(const Block& b, int i) {
  return unsigned(i % 2 ? b.w[i / 2] >> 32 : b.w[i / 2]);
}
TG_DEVICE void uniform_of(const Block& b, float (&u)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i++) u[i] = float(half_of(b, i) >> 8) * (1.0f / (1 << 24));
}
TG_DEVICE void uniform_of(const Block& b, double (&u)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) u[i] = double(b.w[i] >> 11) * (1.0 / (1ll << 53));
}

TG_DEVICE long long first() { return (long long)blockIdx.x * THREADS + threadIdx.x; }
TG_DEVICE long long stride() { return (long long)gridDim.x * THREADS; }

// n words; a thread makes a block.
__global__ void __launch_bounds__(THREADS)
    bits(Start start, const Word* base, long long n, Word* __restrict__ y) {
  for (long long b = first(); 4 * b < n; b += stride()) {
    const Block block = philox(start, base, b);
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (4 * b + i < n) y[4 * b + i] = block.w[i];
  }
}

// n uniform numbers in [0, 1).
template <class T>
__global__ void __launch_bounds__(THREADS)
    uniform(Start start, const Word* base, long long n, T* __restrict__ y) {
  constexpr int N = NUMBERS<T>;
  for (long long b = first(); N * b < n; b += stride()) {
    T u[N];
    uniform_of(philox(start, base, b), u);
#pragma unroll
    for (int i = 0; i < N; i++)
      if (N * b + i < n) y[N * b + i] = u[i];
  }
}

// n integers in [0, high): the 32-bit halves times high, shifted right by 32.
__global__ void __launch_bounds__(THREADS)
    integers(Start start, const Word* base, Word high, long long n, long long* __restrict__ y) {
  for (long long b = first(); 8 * b < n; b += stride()) {
    const Block block = philox(start, base, b);
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (8 * b + i < n) y[8 * b + i] = (long long)(half_of(block, i) * high >> 32);
  }
}

// n normal numbers by Box and Muller: the first m = ceil(n/2) uniforms are u, the next m are v.
// 1 − u and the angle 2πv are rounded to T as in NumPy; all from there on is in double, and rounded
// once: an error below 1 ulp whatever the device's logf and cosf. That is some hundred instructions
// in double a number, by estimate: little for the noise of a step, even where a multiprocessor has
// two double units.
//
// A CUDA block makes the u and the v of THREADS Philox blocks in shared memory; the v's begin within
// one, so it makes one more. Then threads take neighbouring pairs. The stores of u and v
// meet N to a bank, which is little beside the making of what they store.
template <class T>
__global__ void __launch_bounds__(THREADS)
    normal(Start start, const Word* base, long long n, T* __restrict__ y) {
  constexpr int N = NUMBERS<T>;
  TG_SHARED(T, us);  // N·THREADS, and N·(THREADS + 1) of v
  T* vs = us + N * THREADS;
  const long long m = (n + 1) / 2;
  const int shift = int(m % N), me = threadIdx.x;
  for (long long b = (long long)blockIdx.x * THREADS; N * b < m; b += stride()) {
    const long long far = m / N + b;
    auto fill = [&](T* to, long long number) {
      T u[N];
      uniform_of(philox(start, base, number), u);
#pragma unroll
      for (int i = 0; i < N; i++) tg::store_shared(to + i, u[i]);
    };
    fill(us + N * me, b + me);
    fill(vs + N * me, far + me);
    if (me == 0) fill(vs + N * THREADS, far + THREADS);
    __syncthreads();
    for (int i = me; i < N * THREADS && N * b + i < m; i += THREADS) {
      const T rest = T(1) - tg::load_shared(us + i);
      const T angle = T(6.283185307179586) * tg::load_shared(vs + shift + i);
      const double radius = sqrt(-2.0 * log(double(rest)));
      const long long pair = N * b + i;
      y[pair] = T(radius * cos(double(angle)));
      if (m + pair < n) y[m + pair] = T(radius * sin(double(angle)));
    }
    __syncthreads();
  }
}
