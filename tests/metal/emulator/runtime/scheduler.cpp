// Fibers, their order, simd operations, barriers and the launch itself.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runtime.h"

extern "C" {
emu::Thread* emu_current;
uint64_t emu_launch_id;
int emu_jitter_ulps;
uint32_t emu_jitter_seed;
}

namespace emu {

const LaunchSpec* spec;
Result* result;
bool running;

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
  check_time(line);
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
  check_time(line);
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
    Faults faults;
    run_all();
  }
  out->threadgroup_memory = threadgroup_bytes();
  if (launch->instrumented) finish_checks();
  return out->error;
}
}
