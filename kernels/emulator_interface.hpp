// What kernels and the emulator know of each other. Every instance of a kernel is compiled by
// itself, with this alone: no standard containers, whose headers would take longer than the kernel.
// The emulator itself, emulator.cpp, is compiled once and linked to each.
#pragma once
#include <stdint.h>
#include <string.h>

#include <type_traits>
#include <utility>

#ifdef __has_feature
#define TG_HAS_FEATURE(x) __has_feature(x)
#else
#define TG_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || TG_HAS_FEATURE(thread_sanitizer)
#define TG_TSAN 1
// The emulator's own state passes between fibers without locks: only kernel code is watched.
#define TG_UNWATCHED __attribute__((no_sanitize("thread"), noinline, unused))
#else
#define TG_TSAN 0
#define TG_UNWATCHED __attribute__((unused))
#endif
#if defined(__SANITIZE_ADDRESS__) || TG_HAS_FEATURE(address_sanitizer)
#define TG_ASAN 1
// Before it leaves for good, the sanitizer looks for the ends of the stack, and knows no fiber's.
#define TG_NORETURN
#define TG_UNREACHABLE
#else
#define TG_ASAN 0
#define TG_NORETURN [[noreturn]]
#define TG_UNREACHABLE __builtin_unreachable()
#endif

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

struct EmulatorOptions {
  int order;               // of threads and of blocks: 0 ascending, 1 descending, 2 random
  unsigned seed;           // of the random order
  int count_banks;         // 1: count wavefronts of shared memory accesses, see tinygan_banks()
  int n_args;              // how many arguments are given
  const char* types;       // per argument, comma separated: NumPy's dtype.str[1:], "*f4" for an
                           // array of f4, "*" for a null pointer; nullptr: not checked
  const long long* bytes;  // per argument: of the array it points at, -1: no array; nullptr: not
                           // checked
};

namespace tg {
// Hidden: each library has an emulator of its own, and a process loads many.
namespace emulator __attribute__((visibility("hidden"))) {

constexpr int warp_size = 32;
constexpr int poison = 0xff;  // makes NaN of floats and -1 of integers

struct Site {
  const char* file;
  int line;
  const char* what;
};
struct Thread {
  void* stack_pointer;
  int number;
  dim3 index;
  Site site;               // of the latest operation of the dialect
  unsigned mask;           // of the warp collective at which it waits
  void* exchange;          // what it brings to that collective
  unsigned issued, done;   // copies, counted
  unsigned group;          // of copies, the open one
  void* tsan;
};
struct Running {
  Thread* current;
  dim3 block, block_size, grid_size;
  char* shared;            // memory of the block
};
extern Running running;

inline int lane() { return running.current->number % warp_size; }

// The threads' operations; emulator_threads.hpp and emulator_memory.hpp.
void check_shared(const void* p, size_t bytes, Site site);
void issue_copy(void* shared, const void* global, int bytes, bool ok, Site site);
void close_group();
void wait_copies(unsigned keep);
void sync_block(Site site);
using Work = void (*)(void** lanes, unsigned mask);
void collective(unsigned mask, void* exchange, Site site, Work work);
[[gnu::format(printf, 1, 2)]] TG_NORETURN void fail(const char* format, ...);
struct Text {
  char chars[160];
};
Text describe(Site site);

template <class To, class From> inline To same_bits(From v) {
  static_assert(sizeof(To) == sizeof(From), "same_bits");
  To to;
  memcpy(&to, &v, sizeof to);
  return to;
}

constexpr int max_tiles = 16;
struct MmaOperands {
  int m, n;  // tiles
  float* d;
  const unsigned *a, *b;
};
void multiply_tiles(void** lanes, unsigned);
struct MatrixRows {
  unsigned row[4];  // the 16 bytes that the lane names
  unsigned* result;
};
void exchange_rows(void** lanes, unsigned);

template <class T> struct Shuffled {
  T mine, got;
  int source;
};
template <class T> TG_UNWATCHED void shuffle_lanes(void** lanes, unsigned mask) {
  auto all = reinterpret_cast<Shuffled<T>**>(lanes);
  for (int l = 0; l < warp_size; l++)
    if (mask >> l & 1) all[l]->got = all[all[l]->source]->mine;
}
template <class T> T shuffle(unsigned mask, T value, int source, int width, Site site) {
  int own = lane(), first = own / width * width;
  if (source < first || source >= first + width) source = own;
  if (!(mask >> source & 1))
    fail("%s reads lane %d, which its mask %08x lacks", describe(site).chars, source, mask);
  Shuffled<T> shuffled{value, value, source};
  collective(mask, &shuffled, site, shuffle_lanes<T>);
  return shuffled.got;
}

// A kernel, and what it takes: NumPy's code of each type (its dtype.str without byte order).
struct Type {
  bool array;
  char kind;
  int bytes;
};
struct Kernel {
  const char* name;
  void (*body)(void**);
  int n_types;
  const Type* types;
};
const char* launch(const Kernel& kernel, const unsigned grid[3], const unsigned block[3],
                   size_t shared_bytes, void** args, const EmulatorOptions* options);
const char* bank_report();

template <class T> constexpr Type type_of() {
  using V = std::remove_cv_t<T>;
  if constexpr (std::is_pointer_v<V>) {
    Type to = type_of<std::remove_pointer_t<V>>();
    return {true, to.kind, to.bytes};
  } else if constexpr (std::is_void_v<V>) return {false, 'V', 0};
  else if constexpr (std::is_same_v<V, bool>) return {false, 'b', 1};
  else if constexpr (std::is_floating_point_v<V>) return {false, 'f', sizeof(V)};
  else if constexpr (!std::is_integral_v<V>) return {false, 'V', sizeof(V)};
  else return {false, std::is_signed_v<V> ? 'i' : 'u', sizeof(V)};
}
template <class T> T value_at(const void* p) {  // which NumPy may have placed anywhere
  T value;
  memcpy(static_cast<void*>(&value), p, sizeof value);
  return value;
}
template <auto K> struct Entry;
template <class... A, void (*K)(A...)> struct Entry<K> {
  static constexpr Type types[] = {type_of<A>()..., {}};
  template <size_t... I> static void call(void** args, std::index_sequence<I...>) {
    K(value_at<std::remove_cv_t<A>>(args[I])...);
  }
  static void body(void** args) { call(args, std::index_sequence_for<A...>()); }
  static Kernel kernel(const char* name) { return {name, body, sizeof...(A), types}; }
};

}  // namespace emulator
}  // namespace tg

#define TG_EXPORT(...)                                                                             \
  extern "C" __attribute__((visibility("default"))) const char* tinygan_launch(                    \
      const unsigned grid[3], const unsigned block[3], size_t shared_bytes, void** args,           \
      const EmulatorOptions* options) {                                                            \
    return tg::emulator::launch(tg::emulator::Entry<&__VA_ARGS__>::kernel(#__VA_ARGS__), grid,     \
                                block, shared_bytes, args, options);                               \
  }                                                                                                \
  extern "C" __attribute__((visibility("default"))) const char* tinygan_banks(void) {              \
    return tg::emulator::bank_report();                                                            \
  }
