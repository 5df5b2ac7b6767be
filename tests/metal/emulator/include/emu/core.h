// The interface between a compiled kernel and the runtime.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace emu {

// The thread that is running, as its attributes show it. One operating-system thread runs all fibers.
struct Thread {
  void* stack;
  uint32_t in_grid[3], in_threadgroup[3], threadgroup[3];
  uint32_t grid[3], threads_per_threadgroup[3], dispatch_threads_per_threadgroup[3], threadgroups[3];
  uint32_t index, lane, simdgroup, simdgroups, dispatch_simdgroups;
  uint32_t finished;
};

// Where a threadgroup variable lives during one launch.
struct ThreadgroupSite {
  uint64_t launch = 0;
  void* data = nullptr;
};

using Slots = char (*)[64];  // what each of the 32 lanes handed in
using Combine = void (*)(Slots lanes, uint32_t mask, char* result);

struct Meeting {
  Slots lanes;
  const char* result;
  uint32_t mask;  // lanes that exist in this simdgroup
};

}  // namespace emu

extern "C" {
extern emu::Thread* emu_current;
extern uint64_t emu_launch_id;
extern int emu_jitter_ulps;
extern uint32_t emu_jitter_seed;

// All lanes of a simdgroup meet, each handing in `size` bytes; the last to arrive runs `combine`.
emu::Meeting emu_meet(uint32_t operation, int line, const void* payload, uint32_t size, emu::Combine combine);
void emu_threadgroup_barrier(uint32_t flags, int line);
void emu_simdgroup_barrier(uint32_t flags, int line);
void* emu_threadgroup_variable(emu::ThreadgroupSite* site, uint64_t size, uint64_t align, const char* name);
void emu_bad_lane(uint32_t lane, int line);
void emu_atomic(const void* address, uint32_t size);
}
