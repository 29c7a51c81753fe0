// The state of a launch; CUDA threads as fibers; barriers and warp collectives.
#pragma once
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "emulator_interface.hpp"
#if TG_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#if TG_ASAN
#include <sanitizer/asan_interface.h>
#endif

// Saves the registers that a call must keep, changes stacks and restores them.
extern "C" void tinygan_switch(void** save, void* load);
#if defined(__x86_64__)
asm(R"(.text
.globl tinygan_switch
.hidden tinygan_switch
.type tinygan_switch,@function
tinygan_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi); movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret
)");
#define TG_FRAME_WORDS 8  // of the registers, the place to return to and an empty word
#define TG_RETURN_WORD 6
#elif defined(__aarch64__)
asm(R"(.text
.globl tinygan_switch
.hidden tinygan_switch
.type tinygan_switch,%function
tinygan_switch:
  sub sp,sp,#160
  stp x19,x20,[sp]; stp x21,x22,[sp,#16]; stp x23,x24,[sp,#32]; stp x25,x26,[sp,#48]
  stp x27,x28,[sp,#64]; stp x29,x30,[sp,#80]; stp d8,d9,[sp,#96]; stp d10,d11,[sp,#112]
  stp d12,d13,[sp,#128]; stp d14,d15,[sp,#144]
  mov x9,sp; str x9,[x0]; mov sp,x1
  ldp x19,x20,[sp]; ldp x21,x22,[sp,#16]; ldp x23,x24,[sp,#32]; ldp x25,x26,[sp,#48]
  ldp x27,x28,[sp,#64]; ldp x29,x30,[sp,#80]; ldp d8,d9,[sp,#96]; ldp d10,d11,[sp,#112]
  ldp d12,d13,[sp,#128]; ldp d14,d15,[sp,#144]
  add sp,sp,#160; ret
)");
#define TG_FRAME_WORDS 20
#define TG_RETURN_WORD 11
#else
#error "no tinygan_switch() for this CPU: write one; it saves the registers a call must keep"
#endif

namespace tg {
namespace emulator __attribute__((visibility("hidden"))) {

constexpr int max_threads = 1024, max_copies = 256;
constexpr size_t max_shared = 227 << 10;  // of a block on sm_90
constexpr size_t stack_bytes = (TG_ASAN ? 512 : 128) << 10;
constexpr size_t floor_bytes = 256;  // of a stack, which are zero unless it overflowed
constexpr size_t guard_bytes = 1 << 20;  // wide: an index off by a row must not jump over it

struct Copy {
  char* shared;
  const char* global;
  int bytes;
  bool ok;
  unsigned group;
  Site site;
};
struct Warp {
  unsigned runnable, alive, waiting;  // a bit per lane; waiting at a collective
  unsigned generation;
  char order_key[2];
};

// Memory with unmapped guards on both sides, its end flush against the upper one. Its address
// agrees with `align` modulo 16, because vector accesses are checked.
struct Guarded {
  char *data = nullptr, *mapping = nullptr, *low = nullptr, *high = nullptr;
  size_t bytes = 0, total = 0;
  char* original = nullptr;
  int argument = -1;

  Guarded(size_t n, uintptr_t align) : bytes(n) {
    align %= 16;
#if TG_ASAN  // guards it better
    mapping = static_cast<char*>(malloc(n + align));
    data = low = mapping + align, high = data + n;
#else
    size_t page = sysconf(_SC_PAGESIZE), room = (n + 32 + page) / page * page;
    total = room + 2 * guard_bytes;
    void* got = mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) return;
    mapping = static_cast<char*>(got), low = mapping + guard_bytes, high = low + room;
    if (mprotect(low, room, PROT_READ | PROT_WRITE) != 0) return;
    data = high - n;
    while (reinterpret_cast<uintptr_t>(data) % 16 != align) data--;
    memset(low, poison, data - low);
    memset(data + n, poison, high - data - n);
#endif
  }
  Guarded(Guarded&& from) {
    memcpy(static_cast<void*>(this), &from, sizeof *this);
    from.mapping = nullptr;
  }
  ~Guarded() {
    if (TG_ASAN) free(mapping);
    else if (mapping) munmap(mapping, total);
  }
  bool near(const char* p) const { return p >= mapping && p < mapping + total; }
  // The margins between data and guards are too small to be unmapped: they are compared instead.
  const char* touched_margin() const {
    for (const char* p = low; p < high; p++) {
      if (p == data && (p += bytes) == high) break;
      if (static_cast<unsigned char>(*p) != poison) return p;
    }
    return nullptr;
  }
};

struct State {
  Thread threads[max_threads];
  Warp warps[max_threads / warp_size];
  Copy copies[max_threads][max_copies];  // of each thread, a ring
  int n_threads, n_warps, alive, arrived;
  Site barrier;
  unsigned generation;
  char order_key[2], exit_key;
  void* launch_stack;
  void* launch_tsan;
  Guarded* shared;
  std::vector<Guarded> arrays;
  void (*body)(void**);
  void** args;
  const char* kernel;
  int order;
  uint64_t random;
  bool count_banks, failed;
  char* stacks;
  const Copy* volatile arriving;  // read by the handler of faults
  pthread_t owner;
  struct sigaction previous_action;
  char text[2048], fault_stack[64 << 10];
};
static State state;
Running running;

inline Warp& warp() { return state.warps[running.current->number / warp_size]; }

static TG_UNWATCHED unsigned next_random() {  // xorshift64*
  state.random ^= state.random >> 12, state.random ^= state.random << 25;
  state.random ^= state.random >> 27;
  return state.random * 2685821657736338717ull >> 32;
}

// ---- Fibers ------------------------------------------------------------------------------------

static TG_UNWATCHED void switch_to(void** save, void* stack_pointer, void* tsan) {
#if TG_TSAN  // without it every switch would order the two fibers, and no race could be seen
  __tsan_switch_to_fiber(tsan, __tsan_switch_to_fiber_no_sync);
#else
  (void)tsan;
#endif
  tinygan_switch(save, stack_pointer);
}

// Tells ThreadSanitizer that what came before release(key) comes before what follows acquire(key).
static TG_UNWATCHED void release(void* key) {
#if TG_TSAN
  __tsan_release(key);
#else
  (void)key;
#endif
}
static TG_UNWATCHED void acquire(void* key) {
#if TG_TSAN
  __tsan_acquire(key);
#else
  (void)key;
#endif
}

Text describe(Site site) {
  const char* slash = site.file ? strrchr(site.file, '/') : nullptr;
  Text text;
  if (!site.file) snprintf(text.chars, sizeof text.chars, "the kernel's start");
  else
    snprintf(text.chars, sizeof text.chars, "%s at %s:%d", site.what,
             slash ? slash + 1 : site.file, site.line);
  return text;
}

static TG_UNWATCHED void write_text(const char* format, va_list values) {
  int n = snprintf(state.text, sizeof state.text, "kernel %s", state.kernel);
  if (const Thread* me = running.current)
    n += snprintf(state.text + n, sizeof state.text - n, ", block (%u,%u,%u), thread (%u,%u,%u)",
                  running.block.x, running.block.y, running.block.z, me->index.x, me->index.y,
                  me->index.z);
  n += snprintf(state.text + n, sizeof state.text - n, ": ");
  vsnprintf(state.text + n, sizeof state.text - n, format, values);
  state.failed = true;
}

// Abandons all threads of the launch and returns to it. Their stacks are used again, not unwound.
TG_UNWATCHED void fail(const char* format, ...) {
  va_list values;
  va_start(values, format);
  write_text(format, values);
  va_end(values);
  void* abandoned;
  running.current = nullptr;
  switch_to(&abandoned, state.launch_stack, state.launch_tsan);
  TG_UNREACHABLE;
}

// The next thread that can run: of the current warp while it has one, which is fast, or any.
static TG_UNWATCHED Thread* pick() {
  int here = running.current ? running.current->number / warp_size : 0;
  if (!running.current && state.order == 1) here = state.n_warps - 1;
  if (state.order == 2) here = next_random() % state.n_warps;
  for (int i = 0; i < state.n_warps; i++) {
    int w = (state.order == 1 ? here - i + state.n_warps : here + i) % state.n_warps;
    unsigned ready = state.warps[w].runnable;
    if (!ready) continue;
    int first = state.order == 1 ? 31 - __builtin_clz(ready) : __builtin_ctz(ready);
    if (state.order == 2)
      for (first = next_random() % warp_size; !(ready >> first & 1);) first = (first + 1) % 32;
    return &state.threads[w * warp_size + first];
  }
  return nullptr;
}

TG_NORETURN static TG_UNWATCHED void fail_deadlock() {
  const Thread *one = nullptr, *other = nullptr;
  for (int i = 0; i < state.n_threads; i++) {
    const Thread& thread = state.threads[i];
    if (!(state.warps[i / warp_size].alive >> (i % warp_size) & 1)) continue;
    if (!one) one = &thread;
    else if (!other && (thread.site.line != one->site.line || thread.mask != one->mask))
      other = &thread;
  }
  if (!other) other = one;
  fail("deadlock: no thread can go on; thread %d waits in %s, thread %d in %s", one->number,
       describe(one->site).chars, other->number, describe(other->site).chars);
}

static TG_UNWATCHED void yield() {
  Thread* me = running.current;
  Thread* next = pick();
  if (!next) fail_deadlock();
  running.current = next;
  switch_to(&me->stack_pointer, next->stack_pointer, next->tsan);
}

static TG_UNWATCHED bool same(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0) &&
         (a.what == b.what || strcmp(a.what, b.what) == 0);
}

TG_UNWATCHED void sync_block(Site site) {
  Thread& me = *running.current;
  me.site = site;
  if (state.alive != state.n_threads)
    fail("%s, after %d threads of the block have exited; all must reach it", describe(site).chars,
         state.n_threads - state.alive);
  if (state.arrived && !same(state.barrier, site)) {
    Text mine = describe(site);
    fail("divergent barrier: %s, but other threads of the block wait in %s", mine.chars,
         describe(state.barrier).chars);
  }
  state.barrier = site;
  // Two keys in turn: with one, a fast thread's next release would order a slow one's acquire.
  void* key = &state.order_key[state.generation & 1];
  release(key);
  if (++state.arrived == state.n_threads) {
    state.arrived = 0, state.generation++;
    for (int i = 0; i < state.n_warps; i++) state.warps[i].runnable = state.warps[i].alive;
  } else {
    warp().runnable &= ~(1u << lane());
    yield();
  }
  acquire(key);
}

// Waits until all lanes of `mask` are here; the last one does the work for all. Only __syncwarp()
// orders memory: to rely on a shuffle for that is a race on a GPU, and so it is here.
TG_UNWATCHED void collective(unsigned mask, void* exchange, Site site, Work work) {
  Thread& me = *running.current;
  Warp& w = warp();
  unsigned bit = 1u << lane();
  me.site = site, me.mask = mask, me.exchange = exchange;
  if (!(mask & bit))
    fail("%s: its mask %08x lacks the calling lane %d", describe(site).chars, mask, lane());
  if (mask & ~w.alive)
    fail("%s: its mask %08x names lanes %08x, which have exited or do not exist",
         describe(site).chars, mask, mask & ~w.alive);
  Thread* first = &me - lane();
  bool last = (w.waiting & mask) == (mask & ~bit);
  for (unsigned others = w.waiting & mask; others; others = last ? others & (others - 1) : 0) {
    Thread& other = first[__builtin_ctz(others)];
    if (other.mask == mask && same(other.site, site)) continue;
    if (!(other.mask & bit)) {  // it waits for others and will come here after them
      last = false;
      break;
    }
    Text mine = describe(site);
    fail("divergent warp: %s with mask %08x, but lane %d waits in %s with mask %08x", mine.chars,
         mask, __builtin_ctz(others), describe(other.site).chars, other.mask);
  }
  void* key = &w.order_key[w.generation & 1];
  if (!work) release(key);
  if (last) {
    void* lanes[warp_size];
    for (int l = 0; l < warp_size; l++) lanes[l] = first[l].exchange;
    if (work) work(lanes, mask);
    w.waiting &= ~mask, w.runnable |= mask, w.generation++;
  } else {
    w.waiting |= bit, w.runnable &= ~bit;
    yield();
  }
  if (!work) acquire(key);
}

TG_NORETURN static TG_UNWATCHED void fail_stack() {
  for (int i = 0; i < max_threads; i++) memset(state.stacks + i * stack_bytes, 0, floor_bytes);
  fail("stack overflow: calls and local arrays take more than %zu KiB", stack_bytes >> 10);
}

static TG_UNWATCHED void enter_thread() {
  state.body(state.args);
  Thread& me = *running.current;
  Warp& w = warp();
  unsigned bit = 1u << lane();
  if (me.issued != me.done)
    fail("exits with %u asynchronous copies in flight, the oldest by %s: copy_wait<0>() is missing",
         me.issued - me.done,
         describe(state.copies[me.number][me.done % max_copies].site).chars);
  const char* floor = state.stacks + me.number * stack_bytes;
  for (size_t i = 0; i < floor_bytes; i++)
    if (floor[i]) fail_stack();
  if (state.arrived)
    fail("exits, but other threads of the block wait in %s", describe(state.barrier).chars);
  for (unsigned others = w.waiting; others; others &= others - 1)
    if (const Thread& other = (&me - lane())[__builtin_ctz(others)]; other.mask & bit)
      fail("exits, but lane %d waits for it in %s", __builtin_ctz(others),
           describe(other.site).chars);
  w.runnable &= ~bit, w.alive &= ~bit;
  release(&state.exit_key);
  if (--state.alive == 0) {
    running.current = nullptr;
    switch_to(&me.stack_pointer, state.launch_stack, state.launch_tsan);
  }
  yield();
}

}  // namespace emulator
}  // namespace tg
