// What the runtime's own files share: fibers, simdgroups, memory and the result of a launch.
#pragma once

#include <signal.h>
#include <time.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../include/emu/core.h"

namespace emu {

constexpr int kMaxThreads = 1024;
constexpr int kMaxSimdgroups = kMaxThreads / 32;
constexpr int kMaxBuffers = 31;
constexpr int kMaxSlots = 96;  // buffers, then threadgroup variables
constexpr size_t kThreadgroupMemory = 32768;

enum Error : int32_t {
  kNone = 0,
  kOutOfBounds,
  kReadOnly,
  kUninitialised,
  kRace,
  kSimdDivergent,
  kSimdMismatch,
  kSimdAfterExit,
  kSimdLane,
  kBarrierDivergent,
  kTooMuchThreadgroupMemory,
  kStackOverflow,
  kWildAccess,
  kMisaligned,
  kArithmetic,
  kTooManyThreadgroupVariables,
  kTooLong,
};

enum SlotKind : int32_t { kInput = 0, kOutput = 1, kThreadgroup = 2 };

// One buffer, or one threadgroup variable.
struct Slot {
  char name[64];
  int32_t kind;
  int32_t initialised;  // an output filled by the host before the launch
  uint8_t* data;
  uint64_t size;
  uint64_t pages;  // bytes mapped around the data
  struct Shadow* shadow;
  uint8_t* touched;  // one bit a byte read by the launch
};

// Filled by Python; keep in step with launch.py.
struct LaunchSpec {
  void (*entry)(void**);
  uint32_t grid[3];
  uint32_t threadgroup[3];
  uint64_t seed;  // 0 keeps threads in their natural order
  int32_t instrumented;
  uint32_t line_bytes;
  int32_t jitter_ulps;
  uint32_t jitter_seed;
  double seconds;  // of processor time; 0 sets no bound
};

struct BufferCounts {
  uint64_t loads, load_requested, load_bytes, load_lines, load_distinct;
  uint64_t stores, store_requested, store_bytes, store_lines;
};

struct Result {
  int32_t error;
  int32_t slot;
  int64_t offset;
  int32_t size;
  int32_t is_write;
  uint32_t thread[3];
  uint32_t threadgroup[3];
  int32_t other_thread;  // index in its threadgroup, -1 when it belongs to another one
  int32_t line, other_line;
  char detail[160];
  uint64_t threadgroups, threads, simdgroups, barriers, simdgroup_barriers, simd_ops, switches;
  uint64_t threadgroup_memory;
  uint64_t unwritten[kMaxBuffers], first_unwritten[kMaxBuffers];
  BufferCounts counts[kMaxBuffers];
};

// memory.cpp
extern Slot slots[kMaxSlots];
extern int buffer_count, slot_count;
int slot_of(const void* address);  // -1 when outside the arena
bool in_stacks(const void* address);
void* stack_top(int thread);
bool in_stack_guard(const void* address);
void begin_threadgroup_memory();
uint64_t threadgroup_bytes();
void free_all();
bool map_failed();

// scheduler.cpp
extern const LaunchSpec* spec;
extern Result* result;
extern bool running;  // in a fiber
[[noreturn]] void fail(Error error, const char* detail = "", int line = 0, int other_line = 0);
[[noreturn]] void fail_at(Error error, const void* address, int size, bool is_write, int other_thread = 0,
                          const char* detail = "");
uint32_t random_below(uint32_t n);

// stack_switch.cpp
extern "C" {
// Saves the callee-saved registers on the running stack, stores its pointer, and resumes the other one.
void emu_switch(void** save, void* resume);
}
void* first_frame(void* top);

// faults.cpp: signals become errors of the launch for as long as one of these lives.
class Faults {
 public:
  Faults();
  ~Faults();

 private:
  static constexpr int numbers[4] = {SIGSEGV, SIGBUS, SIGFPE, SIGVTALRM};
  struct sigaction before[4];
  stack_t stack_before;
  timer_t timer;
  bool has_timer;
};
extern volatile bool out_of_time;
inline void check_time(int line) {
  if (__builtin_expect(out_of_time, 0)) fail(kTooLong, "the launch takes too long: a loop may never end", line);
}

// checks.cpp
struct Order {  // which accesses of this thread are ordered with those of others
  uint32_t threadgroup_start, threadgroup_epoch, device_epoch, device_start;
};
extern Order order;
void begin_checks();
void begin_threadgroup_checks();
void flush_simdgroup(int simdgroup);
void finish_checks();
void make_shadow(Slot& slot);
uint32_t& simd_epoch(int simdgroup);
void access(const void* address, uint32_t size, bool is_write, bool atomic, const void* pc);

}  // namespace emu
