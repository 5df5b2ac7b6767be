// Fibers, their order, simd operations, barriers and the launch itself.
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runtime.h"

extern "C" {
emu::Thread* emu_current;
uint64_t emu_launch_id;
int emu_jitter_ulps;
uint32_t emu_jitter_seed;
// Saves the callee-saved registers on the running stack, stores its pointer, and resumes the other one.
void emu_switch(void** save, void* resume);
void emu_start();
}

#if defined(__x86_64__)
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch,.-emu_switch
.globl emu_start
.type emu_start,@function
emu_start:
  call emu_thread_main
  ud2
.size emu_start,.-emu_start
.section .note.GNU-stack,"",@progbits
.text
)");
static void* first_frame(void* top) {
  auto** frame = static_cast<void**>(top);
  frame -= 2;  // keeps the stack on a 16-byte boundary at the call
  *--frame = reinterpret_cast<void*>(emu_start);
  for (int i = 0; i < 6; i++) *--frame = nullptr;
  return frame;
}
#elif defined(__aarch64__)
asm(R"(
.text
.globl emu_switch
.type emu_switch,%function
emu_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.globl emu_start
.type emu_start,%function
emu_start:
  bl emu_thread_main
  brk #1
)");
static void* first_frame(void* top) {
  auto** frame = static_cast<void**>(top) - 20;
  memset(frame, 0, 160);
  frame[11] = reinterpret_cast<void*>(emu_start);  // x30, where the first switch returns to
  return frame;
}
#else
#error "the emulator's stack switch is written for x86-64 and aarch64"
#endif

namespace emu {

const LaunchSpec* spec;
Result* result;

namespace {

struct Simdgroup {
  uint32_t alive, ready, arrived, at_barrier, finished;
  uint32_t generation, operation;
  int line;
  const void* pc;
  alignas(64) char lanes[2][32][64];
  alignas(64) char results[2][64];
};

Thread threads[kMaxThreads];
Simdgroup simdgroups[kMaxSimdgroups];
void* main_stack;
uint32_t group_size, simdgroup_count, finished_count, barrier_count;
uint32_t ready_simdgroups;
uint32_t barrier_flags;
int barrier_line;
uint64_t random_state;
bool running;

uint32_t rotated(uint32_t mask, uint32_t from) {  // the first bit at or after `from`, going round
  uint32_t later = from < 32 ? mask & (~0u << from) : 0;
  return __builtin_ctz(later ? later : mask);
}

uint32_t random_bit(uint32_t mask) {
  for (uint32_t skip = random_below(__builtin_popcount(mask)); skip; skip--) mask &= mask - 1;
  return __builtin_ctz(mask);
}

[[noreturn]] void leave() {
  running = false;
  void* abandoned;
  emu_switch(&abandoned, main_stack);
  abort();
}

// Hands the processor to another thread that can run.
void next(Thread* from) {
  if (!ready_simdgroups) leave();
  uint32_t s, lane;
  if (spec->seed) {
    s = random_bit(ready_simdgroups);
    lane = random_bit(simdgroups[s].ready);
  } else {
    s = rotated(ready_simdgroups, from->simdgroup);
    lane = rotated(simdgroups[s].ready, s == from->simdgroup ? from->lane + 1 : 0);
  }
  Thread* to = &threads[s * 32 + lane];
  emu_current = to;
  result->switches++;
  if (to != from) emu_switch(&from->stack, to->stack);
}

void wake(uint32_t s, uint32_t mask) {
  simdgroups[s].ready |= mask;
  if (simdgroups[s].ready) ready_simdgroups |= 1u << s;
}

void block(Thread* thread) {
  Simdgroup& group = simdgroups[thread->simdgroup];
  group.ready &= ~(1u << thread->lane);
  if (!group.ready) ready_simdgroups &= ~(1u << thread->simdgroup);
}

}  // namespace

uint32_t random_below(uint32_t n) {  // xorshift64*
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return static_cast<uint32_t>(((random_state * 2685821657736338717ull) >> 32) % n);
}

void fail(Error error, const char* detail, int line, int other_line) {
  result->error = error;
  result->line = line;
  result->other_line = other_line;
  snprintf(result->detail, sizeof result->detail, "%s", detail);
  for (int i = 0; i < 3; i++) {
    result->thread[i] = emu_current->in_threadgroup[i];
    result->threadgroup[i] = emu_current->threadgroup[i];
  }
  leave();
}

void fail_at(Error error, const void* address, int size, bool is_write, int other_thread, const char* detail) {
  result->slot = slot_of(address);
  if (result->slot >= 0)
    result->offset = static_cast<const uint8_t*>(address) - slots[result->slot].data;
  else
    result->offset = reinterpret_cast<int64_t>(address);
  result->size = size;
  result->is_write = is_write;
  result->other_thread = other_thread;
  fail(error, detail);
}

namespace {

void start_threads(const uint32_t group[3]) {
  uint32_t size[3];
  group_size = 1;
  for (int i = 0; i < 3; i++) {
    uint32_t first = group[i] * spec->threadgroup[i];
    size[i] = spec->grid[i] - first < spec->threadgroup[i] ? spec->grid[i] - first : spec->threadgroup[i];
    group_size *= size[i];
  }
  simdgroup_count = (group_size + 31) / 32;
  finished_count = barrier_count = 0;
  uint32_t full = spec->threadgroup[0] * spec->threadgroup[1] * spec->threadgroup[2];
  for (uint32_t index = 0; index < group_size; index++) {
    Thread& t = threads[index];
    uint32_t at[3] = {index % size[0], index / size[0] % size[1], index / (size[0] * size[1])};
    for (int i = 0; i < 3; i++) {
      t.in_threadgroup[i] = at[i];
      t.in_grid[i] = group[i] * spec->threadgroup[i] + at[i];
      t.threadgroup[i] = group[i];
      t.grid[i] = spec->grid[i];
      t.threads_per_threadgroup[i] = size[i];
      t.dispatch_threads_per_threadgroup[i] = spec->threadgroup[i];
      t.threadgroups[i] = (spec->grid[i] + spec->threadgroup[i] - 1) / spec->threadgroup[i];
    }
    t.index = index;
    t.lane = index % 32;
    t.simdgroup = index / 32;
    t.simdgroups = simdgroup_count;
    t.dispatch_simdgroups = (full + 31) / 32;
    t.stack = first_frame(stack_top(static_cast<int>(index)));
  }
  ready_simdgroups = 0;
  for (uint32_t s = 0; s < simdgroup_count; s++) {
    Simdgroup& g = simdgroups[s];
    uint32_t lanes = group_size - s * 32 < 32 ? group_size - s * 32 : 32;
    g.alive = lanes == 32 ? ~0u : (1u << lanes) - 1;
    g.ready = g.arrived = g.at_barrier = g.finished = g.generation = 0;
    wake(s, g.alive);
  }
  result->threads += group_size;
  result->simdgroups += simdgroup_count;
  result->threadgroups++;
}

void run_threadgroup(const uint32_t group[3]) {
  start_threads(group);
  begin_threadgroup_memory();
  if (spec->instrumented) begin_threadgroup_checks();
  uint32_t s = spec->seed ? random_bit(ready_simdgroups) : 0;
  emu_current = &threads[s * 32 + (spec->seed ? random_bit(simdgroups[s].ready) : 0)];
  running = true;
  emu_switch(&main_stack, emu_current->stack);
  running = false;
}

void on_signal(int number, siginfo_t* info, void* context) {
  if (!running) {  // not ours: let it happen again under the default action
    signal(number, SIG_DFL);
    return;
  }
  bool is_write = false;
#if defined(__x86_64__)
  is_write = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2;
#else
  (void)context;
#endif
  const void* address = info->si_addr;
  if (number == SIGFPE) fail(kArithmetic, "integer division by zero");
  if (in_stack_guard(address)) fail(kStackOverflow, "a thread's stack is full: recursion, or a huge local array");
  int slot = slot_of(address);
  if (slot >= 0) {
    auto* at = static_cast<const uint8_t*>(address);
    bool inside = at >= slots[slot].data && at < slots[slot].data + slots[slot].size;
    fail_at(inside ? kReadOnly : kOutOfBounds, address, 0, is_write);
  }
  fail_at(kWildAccess, address, 0, is_write);
}

struct Signals {
  static constexpr int numbers[3] = {SIGSEGV, SIGBUS, SIGFPE};
  struct sigaction before[3];
  stack_t stack_before;
  alignas(64) static inline char stack[65536];

  Signals() {
    stack_t ours{};
    ours.ss_sp = stack;
    ours.ss_size = sizeof stack;
    sigaltstack(&ours, &stack_before);
    struct sigaction action {};
    action.sa_sigaction = on_signal;
    // The handler never returns: it resumes the launch on another stack.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 3; i++) sigaction(numbers[i], &action, &before[i]);
  }
  ~Signals() {
    for (int i = 0; i < 3; i++) sigaction(numbers[i], &before[i], nullptr);
    sigaltstack(&stack_before, nullptr);
  }
};

void run_all() {
  uint32_t groups[3];
  uint64_t total = 1;
  for (int i = 0; i < 3; i++) {
    groups[i] = (spec->grid[i] + spec->threadgroup[i] - 1) / spec->threadgroup[i];
    total *= groups[i];
  }
  std::vector<uint32_t> sequence;
  if (spec->seed) {
    sequence.resize(total);
    for (uint64_t i = 0; i < total; i++) sequence[i] = static_cast<uint32_t>(i);
    for (uint64_t i = total; i > 1; i--) std::swap(sequence[i - 1], sequence[random_below(static_cast<uint32_t>(i))]);
  }
  for (uint64_t i = 0; i < total && !result->error; i++) {
    uint64_t n = spec->seed ? sequence[i] : i;
    uint32_t group[3] = {static_cast<uint32_t>(n % groups[0]), static_cast<uint32_t>(n / groups[0] % groups[1]),
                         static_cast<uint32_t>(n / groups[0] / groups[1])};
    run_threadgroup(group);
  }
}

}  // namespace
}  // namespace emu

using namespace emu;

extern "C" {

static void* arguments[kMaxBuffers];

void emu_thread_main() {
  spec->entry(arguments);
  Thread* thread = emu_current;
  Simdgroup& group = simdgroups[thread->simdgroup];
  if (group.arrived) fail(kSimdAfterExit, "this lane leaves while others wait in a simd operation", 0, group.line);
  if (barrier_count) fail(kBarrierDivergent, "this thread leaves while others wait at a barrier", 0, barrier_line);
  group.finished |= 1u << thread->lane;
  finished_count++;
  block(thread);
  if (spec->instrumented && group.finished == group.alive) flush_simdgroup(static_cast<int>(thread->simdgroup));
  next(thread);
  abort();
}

Meeting emu_meet(uint32_t operation, int line, const void* payload, uint32_t size, Combine combine) {
  const void* pc = __builtin_return_address(0);
  Thread* thread = emu_current;
  Simdgroup& group = simdgroups[thread->simdgroup];
  if (group.finished) fail(kSimdAfterExit, "some lanes of this simdgroup have left", line);
  if (group.at_barrier) fail(kSimdDivergent, "some lanes of this simdgroup wait at a barrier", line, barrier_line);
  if (!group.arrived) {
    group.operation = operation;
    group.line = line;
    group.pc = pc;
  } else if (group.operation != operation) {
    fail(kSimdMismatch, "lanes of one simdgroup are in different simd operations", line, group.line);
  } else if (group.line != line || (spec->instrumented && group.pc != pc)) {
    fail(kSimdDivergent, "lanes of one simdgroup came here by different branches", line, group.line);
  }
  uint32_t parity = group.generation & 1;
  memcpy(group.lanes[parity][thread->lane], payload, size);
  group.arrived |= 1u << thread->lane;
  if (group.arrived == group.alive) {
    if (combine) combine(group.lanes[parity], group.alive, group.results[parity]);
    group.arrived = 0;
    group.generation++;
    result->simd_ops++;
    wake(thread->simdgroup, group.alive);
    if (spec->instrumented) flush_simdgroup(static_cast<int>(thread->simdgroup));
    if (spec->seed) next(thread);  // the last to arrive need not be the first to go on
  } else {
    block(thread);
    next(thread);
  }
  return {group.lanes[parity], group.results[parity], group.alive};
}

void emu_threadgroup_barrier(uint32_t flags, int line) {
  Thread* thread = emu_current;
  Simdgroup& group = simdgroups[thread->simdgroup];
  if (group.arrived) fail(kSimdDivergent, "a barrier while other lanes wait in a simd operation", line, group.line);
  if (finished_count) fail(kBarrierDivergent, "some threads of this threadgroup have left", line);
  if (barrier_count && barrier_line != line)
    fail(kBarrierDivergent, "threads of one threadgroup wait at different barriers", line, barrier_line);
  if (barrier_count && barrier_flags != flags)
    fail(kBarrierDivergent, "threads of one threadgroup wait with different memory flags", line, barrier_line);
  barrier_line = line;
  barrier_flags = flags;
  group.at_barrier |= 1u << thread->lane;
  if (++barrier_count < group_size) {
    block(thread);
    next(thread);
    return;
  }
  barrier_count = 0;
  result->barriers++;
  // A barrier orders only the memory it names.
  if (flags & 1) order.device_epoch++;
  if (flags & 2) order.threadgroup_epoch++;
  for (uint32_t s = 0; s < simdgroup_count; s++) {
    if (spec->instrumented) flush_simdgroup(static_cast<int>(s));
    simdgroups[s].at_barrier = 0;
    wake(s, simdgroups[s].alive);
  }
  if (spec->seed) next(thread);
}

void emu_simdgroup_barrier(uint32_t flags, int line) {
  emu_meet(0xb0 | flags, line, &flags, sizeof flags, [](Slots, uint32_t, char*) {
    result->simdgroup_barriers++;
    result->simd_ops--;
    simd_epoch(static_cast<int>(emu_current->simdgroup))++;
  });
}

void emu_bad_lane(uint32_t lane, int line) {
  char text[80];
  snprintf(text, sizeof text, "a shuffle reads lane %u, which this simdgroup does not have", lane);
  fail(kSimdLane, text, line);
}

int emu_launch(const LaunchSpec* launch, Result* out) {
  spec = launch;
  result = out;
  memset(out, 0, sizeof *out);
  emu_launch_id++;
  emu_jitter_ulps = launch->jitter_ulps;
  emu_jitter_seed = launch->jitter_seed;
  random_state = launch->seed * 0x9e3779b97f4a7c15ull + 1;
  slot_count = buffer_count;
  for (int i = 0; i < buffer_count; i++) arguments[i] = slots[i].data;
  if (launch->instrumented) begin_checks();
  {
    Signals signals;
    run_all();
  }
  out->threadgroup_memory = threadgroup_bytes();
  if (launch->instrumented) finish_checks();
  return out->error;
}
}
