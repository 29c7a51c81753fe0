// Launches: arguments checked and guarded, blocks run, faults turned into texts; the exported ABI.
#pragma once
#include "emulator_memory.hpp"

namespace tg {
namespace emulator __attribute__((visibility("hidden"))) {

// An access to unmapped memory by a thread of the launch ends the launch; others are passed on.
static TG_UNWATCHED void on_fault(int signal, siginfo_t* info, void*) {
  if (!running.current || !pthread_equal(state.owner, pthread_self())) {
    sigaction(signal, &state.previous_action, nullptr);
    return;  // to the same access, which faults again
  }
  char* address = static_cast<char*>(info->si_addr);
  Text where = describe(state.arriving ? state.arriving->site : running.current->site);
  const char* how = state.arriving ? "by" : "after";
  auto outside = [&](const Guarded& memory, const char* name) {
    fail("access to byte %lld of %s of %zu bytes, %s %s",
         static_cast<long long>(address - memory.data), name, memory.bytes, how, where.chars);
  };
  if (address < state.stacks && address >= state.stacks - guard_bytes) fail_stack();
  if (state.shared->near(address)) outside(*state.shared, "the block's shared memory");
  for (const Guarded& array : state.arrays)
    if (array.near(address)) {
      char name[40];
      snprintf(name, sizeof name, "argument %d, an array", array.argument);
      outside(array, name);
    }
  fail("access to address %p, which is no array of the launch, %s %s", info->si_addr, how,
       where.chars);
}

struct FaultHandler {
  stack_t previous_stack;
  FaultHandler() {
    stack_t alternate = {};
    alternate.ss_sp = state.fault_stack, alternate.ss_size = sizeof state.fault_stack;
    sigaltstack(&alternate, &previous_stack);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // left by a switch, not by a return
    sigaction(SIGSEGV, &action, &state.previous_action);
  }
  ~FaultHandler() {
    sigaction(SIGSEGV, &state.previous_action, nullptr);
    sigaltstack(&previous_stack, nullptr);
  }
};

static TG_UNWATCHED void start_threads() {
  const dim3& size = running.block_size;
  state.alive = state.n_threads, state.arrived = 0;
  for (int i = 0; i < state.n_warps; i++) {
    int lanes = std::min(warp_size, state.n_threads - i * warp_size);
    unsigned all = ~0u >> (warp_size - lanes);
    state.warps[i] = {all, all, 0, 0, {}};
  }
  for (int i = 0; i < state.n_threads; i++) {
    Thread& thread = state.threads[i];
    thread = {};
    thread.number = i;
    thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
#if TG_TSAN
    thread.tsan = __tsan_create_fiber(0);
#endif
    char* floor = state.stacks + i * stack_bytes;
#if TG_ASAN
    __asan_unpoison_memory_region(floor, stack_bytes);
#endif
    // Stacks that begin at different cache sets: at equal ones they would evict each other.
    void** frame = reinterpret_cast<void**>(floor + stack_bytes - i % 16 * 256) - TG_FRAME_WORDS;
    memset(frame, 0, TG_FRAME_WORDS * sizeof *frame);
    frame[TG_RETURN_WORD] = reinterpret_cast<void*>(enter_thread);
    thread.stack_pointer = frame;
  }
}

// Nothing orders the blocks, so ThreadSanitizer finds races between them. What they may use in
// turn, stacks and shared memory, is mapped anew for it.
static void map_anew(char* start, size_t bytes) {
  mmap(start, bytes, PROT_READ | PROT_WRITE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

// Runs the threads of the blocks in turn; returns after the last one or at a failure.
static TG_UNWATCHED void run_blocks() {
  const dim3& grid = running.grid_size;
  size_t n_blocks = size_t(grid.x) * grid.y * grid.z;
  std::vector<unsigned> shuffled(state.order == 2 ? n_blocks : 0);
  for (size_t i = 0; i < shuffled.size(); i++) {
    size_t other = next_random() % (i + 1);
    shuffled[i] = shuffled[other], shuffled[other] = i;
  }
  for (size_t i = 0; i < n_blocks && !state.failed; i++) {
    size_t b = state.order == 2 ? shuffled[i] : state.order == 1 ? n_blocks - 1 - i : i;
    running.block = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y),
                   unsigned(b / grid.x / grid.y)};
    Guarded& shared = *state.shared;
    if (TG_TSAN) {
      map_anew(state.stacks, state.n_threads * stack_bytes);
      map_anew(shared.low, shared.high - shared.low);
      memset(shared.low, poison, shared.high - shared.low);
    }
    memset(shared.data, poison, shared.bytes);
    start_threads();
    Thread* first = running.current = pick();
    switch_to(&state.launch_stack, first->stack_pointer, first->tsan);
    state.arriving = nullptr;
    close_counts();
#if TG_TSAN  // which knows 8128 of them at most
    for (int t = 0; t < state.n_threads; t++) __tsan_destroy_fiber(state.threads[t].tsan);
#endif
  }
  acquire(&state.exit_key);
}

[[gnu::format(printf, 1, 2)]] static const char* refuse(const char* format, ...) {
  va_list values;
  va_start(values, format);
  write_text(format, values);
  va_end(values);
  return state.text;
}

// NumPy's code of a type, "*" before it for an array.
static std::string code(const Type& type) {
  return (type.array ? "*" : "") + std::string(1, type.kind) +
         (type.bytes ? std::to_string(type.bytes) : "");
}

// Copies the arrays into guarded memory, overlapping ones together, and points `pointers` there.
static bool guard_arrays(const Kernel& kernel, const EmulatorOptions& options, void** args,
                         std::vector<char*>& pointers) {
  std::vector<int> arrays;
  for (int i = 0; i < kernel.n_types; i++) {
    if (!kernel.types[i].array) continue;
    memcpy(&pointers[i], args[i], sizeof(char*));
    if (options.bytes && options.bytes[i] >= 0 && pointers[i]) arrays.push_back(i);
  }
  std::sort(arrays.begin(), arrays.end(), [&](int a, int b) { return pointers[a] < pointers[b]; });
  std::vector<std::pair<char*, char*>> spans;
  std::vector<int> span_of;
  for (int i : arrays) {
    char* end = pointers[i] + options.bytes[i];
    if (spans.empty() || pointers[i] >= spans.back().second) spans.push_back({pointers[i], end});
    spans.back().second = std::max(spans.back().second, end);
    span_of.push_back(spans.size() - 1);
  }
  for (auto [start, end] : spans) {
    Guarded memory(end - start, reinterpret_cast<uintptr_t>(start));
    if (!memory.data) return false;
    memory.original = start;
    memcpy(memory.data, start, end - start);
    state.arrays.push_back(std::move(memory));
  }
  for (size_t k = 0; k < arrays.size(); k++) {
    Guarded& memory = state.arrays[span_of[k]];
    memory.argument = memory.argument < 0 ? arrays[k] : std::min(memory.argument, arrays[k]);
    pointers[arrays[k]] = memory.data + (pointers[arrays[k]] - memory.original);
  }
  return true;
}

static const char* check_arguments(const Kernel& kernel, const EmulatorOptions& options) {
  int takes = kernel.n_types;
  if (options.n_args != takes)
    return refuse("takes %d arguments, was given %d", takes, options.n_args);
  std::string rest = options.types ? options.types : "";
  for (int i = 0; options.types && i < takes; i++) {
    std::string given = rest.substr(0, rest.find(',')), want = code(kernel.types[i]);
    rest = rest.size() > given.size() ? rest.substr(given.size() + 1) : "";
    bool any = want[0] == '*' && (given == "*" || (given[0] == '*' && want[1] == 'V'));
    if (given != want && !any)
      return refuse("argument %d is to be of type %s, was given %s (NumPy's codes, * for arrays)",
                    i, want.c_str(), given.c_str());
  }
  return nullptr;
}

const char* launch(const Kernel& kernel, const unsigned grid[3], const unsigned block[3],
                   size_t shared_bytes, void** args, const EmulatorOptions* given) {
  EmulatorOptions options = {0, 0, 0, kernel.n_types, nullptr, nullptr};
  if (given) options = *given;
  state.kernel = kernel.name, state.failed = false, running.current = nullptr;
  size_t n_threads = size_t(block[0]) * block[1] * block[2];
  if (n_threads < 1 || n_threads > max_threads || block[2] > 64)
    return refuse("blocks of %ux%ux%u threads; 1 to %d are possible, 64 of them along z", block[0],
                  block[1], block[2], max_threads);
  if (!grid[0] || !grid[1] || !grid[2] || grid[0] >> 31 || grid[1] >> 16 || grid[2] >> 16)
    return refuse("a grid of %ux%ux%u blocks; 1 to 2147483647x65535x65535 are possible", grid[0],
                  grid[1], grid[2]);
  if (shared_bytes > max_shared)
    return refuse("%zu bytes of shared memory a block; at most %zu are possible", shared_bytes,
                  max_shared);
  if (const char* text = check_arguments(kernel, options)) return text;

  std::vector<char*> pointers(kernel.n_types);
  std::vector<void*> guarded_args(args, args + kernel.n_types);
  Guarded shared(shared_bytes, 0);
  bool mapped = shared.data && guard_arrays(kernel, options, args, pointers);
  if (mapped && !state.stacks) {  // and kept: to map them again would cost more than small launches
    void* got = mmap(nullptr, guard_bytes + max_threads * stack_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got != MAP_FAILED && mprotect(got, guard_bytes, PROT_NONE) == 0)
      state.stacks = static_cast<char*>(got) + guard_bytes;
  }
  if (!mapped || !state.stacks) {
    state.arrays.clear();
    return refuse("no memory for the emulator");
  }
  for (size_t i = 0; i < pointers.size(); i++)
    if (kernel.types[i].array) guarded_args[i] = &pointers[i];

  state.shared = &shared, running.shared = shared.data;
  state.args = guarded_args.data(), state.body = kernel.body;
  running.grid_size = {grid[0], grid[1], grid[2]};
  running.block_size = {block[0], block[1], block[2]};
  state.n_threads = n_threads, state.n_warps = (n_threads + warp_size - 1) / warp_size;
  state.order = options.order, state.random = 0x9e3779b97f4a7c15 + options.seed;
  state.count_banks = options.count_banks && !TG_TSAN;
  state.owner = pthread_self();
#if TG_TSAN
  state.launch_tsan = __tsan_get_current_fiber();
#endif
  if (TG_TSAN || TG_ASAN) {  // they report faults themselves, with the source line
    run_blocks();
  } else {
    FaultHandler handler;
    run_blocks();
  }
  if (const char* p = shared.touched_margin(); p && !state.failed)
    refuse("write to byte %lld of the block's shared memory of %zu bytes",
           static_cast<long long>(p - shared.data), shared.bytes);
  for (const Guarded& array : state.arrays)
    if (const char* p = array.touched_margin(); p && !state.failed)
      refuse("write to byte %lld of argument %d, an array of %zu bytes",
             static_cast<long long>(p - array.data), array.argument, array.bytes);
  for (const Guarded& array : state.arrays)  // only what changed: an array may be read-only
    if (!state.failed && memcmp(array.original, array.data, array.bytes) != 0)
      memcpy(array.original, array.data, array.bytes);
  state.arrays.clear();
  if (state.failed) counters.clear();
  return state.failed ? state.text : nullptr;
}

const char* bank_report() {
  static std::string text;
  text.clear();
  for (auto& [key, c] : counters) {
    auto& [file, line, what, bytes] = key;
    text += file + ":" + std::to_string(line) + "\t" + what + " " + std::to_string(bytes) + "\t" +
            std::to_string(c.accesses) + "\t" + std::to_string(c.wavefronts) + "\t" +
            std::to_string(c.ideal) + "\n";
  }
  counters.clear();
  return text.c_str();
}

}  // namespace emulator
}  // namespace tg
