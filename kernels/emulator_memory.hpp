// What the dialect does with shared memory, and the arithmetic of tensor cores.
#pragma once
#include "emulator_threads.hpp"

namespace tg {
namespace emulator __attribute__((visibility("hidden"))) {

// ---- Shared memory -----------------------------------------------------------------------------

// Wavefronts: in one of them each of the 32 banks serves one word. 32 lanes of 4 bytes go at once,
// 8 bytes by half-warps, 16 bytes by quarter-warps.
struct Row {
  unsigned lanes, words[warp_size];  // the first word that a lane touches
};
struct Counter {
  unsigned long long accesses, wavefronts, ideal;
  unsigned visits[max_threads];
  std::map<std::pair<int, unsigned>, Row> open;  // (warp, visit): lanes are still to come
};
static std::map<std::tuple<std::string, int, std::string, int>, Counter> counters;

static void count(Counter& counter, const Row& row, int bytes) {
  int words = bytes / 4, at_once = warp_size / words;
  counter.accesses++;
  for (int start = 0; start < warp_size; start += at_once) {
    std::vector<unsigned> touched;
    for (int l = start; l < start + at_once; l++)
      for (int i = 0; i < words; i++)
        if (row.lanes >> l & 1) touched.push_back(row.words[l] + i);
    std::sort(touched.begin(), touched.end());
    touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
    int of_bank[32] = {}, most = 0;
    for (unsigned word : touched) most = std::max(most, ++of_bank[word % 32]);
    counter.wavefronts += most;
    counter.ideal += most > 0;
  }
}
static void count_access(size_t offset, int bytes, Site site) {
  const char* slash = strrchr(site.file, '/');
  Counter& counter = counters[{slash ? slash + 1 : site.file, site.line, site.what, bytes}];
  int number = running.current->number;
  auto at = counter.open.try_emplace({number / warp_size, counter.visits[number]++}).first;
  at->second.words[lane()] = offset / 4;
  at->second.lanes |= 1u << lane();
  if (at->second.lanes != warp().alive) return;
  count(counter, at->second, bytes);
  counter.open.erase(at);
}
static void close_counts() {  // what divergent warps left open
  for (auto& [key, counter] : counters) {
    for (auto& open : counter.open) count(counter, open.second, std::get<3>(key));
    counter.open.clear();
    memset(counter.visits, 0, sizeof counter.visits);
  }
}

// The address must lie in the block's shared memory and be a multiple of the bytes moved at once.
TG_UNWATCHED void check_shared(const void* p, size_t bytes, Site site) {
  running.current->site = site;
  const char* address = static_cast<const char*>(p);
  long long offset = address - state.shared->data, size = state.shared->bytes;
  if (offset < 0 || offset + static_cast<long long>(bytes) > size)
    fail("%s: bytes %lld to %lld of the block's %lld bytes of shared memory", describe(site).chars,
         offset, offset + static_cast<long long>(bytes) - 1, size);
  if (offset % bytes)
    fail("%s: misaligned, byte %lld of shared memory for %zu bytes at once", describe(site).chars,
         offset, bytes);
  if (state.count_banks) count_access(offset, bytes, site);
}

// ---- Asynchronous copies -----------------------------------------------------------------------

TG_UNWATCHED void issue_copy(void* shared, const void* global, int bytes, bool ok, Site site) {
  Thread& me = *running.current;
  check_shared(shared, bytes, site);
  if (ok && reinterpret_cast<uintptr_t>(global) % bytes)
    fail("%s: misaligned, global address %p for %d bytes", describe(site).chars, global, bytes);
  if (me.issued - me.done == max_copies)
    fail("%s: more than %d copies of a thread in flight", describe(site).chars, max_copies);
  state.copies[me.number][me.issued++ % max_copies] = {
      static_cast<char*>(shared), static_cast<const char*>(global), bytes, ok, me.group, site};
}

TG_UNWATCHED void close_group() { running.current->group++; }

// Watched by ThreadSanitizer, as the copies are accesses of the kernel.
static void arrive(const Copy& copy) {
  for (int i = 0; i < copy.bytes; i += 4) {
    int word = 0;
    if (copy.ok) word = *reinterpret_cast<const int*>(copy.global + i);
    *reinterpret_cast<int*>(copy.shared + i) = word;
  }
}

// The oldest copy that is not of the `keep` latest groups, or nullptr.
static TG_UNWATCHED const Copy* next_arrival(unsigned keep) {
  Thread& me = *running.current;
  if (me.issued == me.done) return state.arriving = nullptr;
  const Copy& copy = state.copies[me.number][me.done % max_copies];
  if (copy.group + keep >= me.group) return state.arriving = nullptr;
  me.done++;
  return state.arriving = &copy;
}

void wait_copies(unsigned keep) {
  while (const Copy* copy = next_arrival(keep)) arrive(*copy);
}

// ---- Tensor cores ------------------------------------------------------------------------------

using Doubles = double __attribute__((vector_size(64)));
using Bits = unsigned long long __attribute__((vector_size(64)));
using Ints = int __attribute__((vector_size(32)));

// c += p[0] + p[1] + p[2] + p[3] as tensor cores add: the five terms are aligned to the largest
// exponent and truncated one bit below the 24 of its significand, and so is the sum, to 24 bits.
// Source: Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores, 2021.
inline void add_products(Doubles& c, const Doubles (&p)[4]) {
  const Bits magnitude = Bits{} + 0x7fffffffffffffff, exponents = Bits{} + 0x7ff0000000000000;
  Doubles largest = Doubles{} + 0x1p-126, plain = c;
  auto compare = [&](const Doubles& term) {
    Doubles size = (Doubles)((Bits)term & magnitude);
    largest = size > largest ? size : largest;
  };
  compare(c);
  for (const Doubles& term : p) compare(term), plain += term;
  Bits exponent = (Bits)largest & exponents;
  Doubles quantum = (Doubles)(exponent - (24ull << 52));               // 2^(e - 24)
  Doubles scale = (Doubles)((Bits{} + (2070ull << 52)) - exponent);  // its inverse, exact
  Ints sum = __builtin_convertvector(c * scale, Ints);               // truncates
  for (const Doubles& term : p) sum += __builtin_convertvector(term * scale, Ints);
  Doubles total = __builtin_convertvector(sum, Doubles) * quantum;
  total = (Doubles)((Bits)total & ~((Bits{} + (1ull << 29)) - 1));
  c = plain - plain == 0 ? total : plain;  // infinities and NaN go their way
}

inline double tf32(unsigned bits) { return same_bits<float>(bits & 0xffffe000u); }

TG_UNWATCHED void multiply_tiles(void** lanes, unsigned) {
  auto operands = reinterpret_cast<MmaOperands**>(lanes);
  const int m_tiles = operands[0]->m, n_tiles = operands[0]->n;
  Doubles b[max_tiles][8];
  for (int l = 0; l < warp_size; l++)
    for (int n = 0; n < n_tiles; n++)
      for (int i = 0; i < 2; i++) b[n][l % 4 + 4 * i][l / 4] = tf32(operands[l]->b[2 * n + i]);
  for (int m = 0; m < m_tiles; m++) {
    double a[16][8];
    for (int l = 0; l < warp_size; l++)
      for (int i = 0; i < 4; i++)
        a[l / 4 + 8 * (i % 2)][l % 4 + 4 * (i / 2)] = tf32(operands[l]->a[4 * m + i]);
    for (int n = 0; n < n_tiles; n++)
      for (int row = 0; row < 16; row++) {
        float* d[4];  // of the four lanes that hold the row, two neighbours each
        Doubles sum;
        for (int t = 0; t < 4; t++) {
          d[t] = operands[row % 8 * 4 + t]->d + 4 * (m * n_tiles + n) + row / 8 * 2;
          sum[2 * t] = d[t][0], sum[2 * t + 1] = d[t][1];
        }
        for (int k = 0; k < 8; k += 4) {
          Doubles products[4];
          for (int i = 0; i < 4; i++) products[i] = b[n][k + i] * a[row][k + i];
          add_products(sum, products);
        }
        for (int t = 0; t < 4; t++) d[t][0] = sum[2 * t], d[t][1] = sum[2 * t + 1];
      }
  }
}

TG_UNWATCHED void exchange_rows(void** lanes, unsigned) {
  auto rows = reinterpret_cast<MatrixRows**>(lanes);
  for (int l = 0; l < warp_size; l++)
    for (int j = 0; j < 4; j++) rows[l]->result[j] = rows[8 * j + l / 4]->row[l % 4];
}

}  // namespace emulator
}  // namespace tg
