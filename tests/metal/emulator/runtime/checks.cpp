// The instrumented mode: what the compiler's thread-sanitizer calls see of every load and store.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <unordered_map>

#include "runtime.h"

namespace emu {

// The last write and the last read of one byte. Epochs never repeat within a launch; 0 means never.
struct Shadow {
  uint32_t write_epoch, write_simd_epoch, read_epoch, read_simd_epoch;
  uint16_t write_thread, read_thread;
  uint8_t write_atomic, read_atomic;
  uint8_t read_by_many;       // read_thread is one of several in this simdgroup
  uint8_t read_by_simdgroups;  // and in several simdgroups
};

Order order;

namespace {

constexpr uint32_t kHost = 1;  // the epoch of what the host wrote before the launch

struct Access {
  const void* pc;
  uint32_t occurrence;
  uint32_t slot_and_write;
  uint64_t offset;
  uint32_t size;
};

// What the lanes of a simdgroup touched since they last met, and how often each passed an instruction.
struct Log {
  std::vector<Access> accesses;
  std::unordered_map<const void*, uint32_t> passes[32];
};

Log logs[kMaxSimdgroups];
uint32_t simd_epochs[kMaxSimdgroups];
constexpr size_t kLongLog = 4 << 20;

void count(const Access* first, const Access* last) {
  BufferCounts& counts = result->counts[first->slot_and_write >> 1];
  bool is_write = first->slot_and_write & 1;
  uint64_t requested = 0, bytes = 0, lines = 0, end = 0, line_end = 0;
  for (const Access* a = first; a != last; a++) {  // sorted by offset
    uint64_t stop = a->offset + a->size;
    requested += a->size;
    if (stop > end) {
      bytes += stop - std::max(end, a->offset);
      end = stop;
    }
    uint64_t from = std::max(line_end, a->offset / spec->line_bytes);
    uint64_t to = (stop + spec->line_bytes - 1) / spec->line_bytes;
    if (to > from) {
      lines += to - from;
      line_end = to;
    }
  }
  (is_write ? counts.stores : counts.loads)++;
  (is_write ? counts.store_requested : counts.load_requested) += requested;
  (is_write ? counts.store_bytes : counts.load_bytes) += bytes;
  (is_write ? counts.store_lines : counts.load_lines) += lines;
}

void touch(Slot& slot, uint64_t offset, uint32_t size) {
  for (uint64_t i = offset; i < offset + size; i++) slot.touched[i >> 3] |= 1 << (i & 7);
}

bool ordered_with(uint32_t other_thread, uint32_t other_simd_epoch, const Thread* thread) {
  return other_thread == thread->index ||
         (other_thread / 32 == thread->simdgroup && other_simd_epoch != simd_epochs[thread->simdgroup]);
}

void check_race(const Slot& slot, Shadow& s, const void* at, bool is_write, bool atomic, uint32_t epoch) {
  const Thread* thread = emu_current;
  bool device = slot.kind != kThreadgroup;
  uint32_t start = device ? order.device_start : order.threadgroup_start;
  if (!device && s.write_epoch < start) s.write_epoch = 0;
  if (!device && s.read_epoch < start) s.read_epoch = 0;
  if (s.write_epoch > kHost && !(atomic && s.write_atomic)) {
    if (s.write_epoch < start) fail_at(kRace, at, 1, is_write, -1, "with a write");
    if (s.write_epoch == epoch && !ordered_with(s.write_thread, s.write_simd_epoch, thread))
      fail_at(kRace, at, 1, is_write, s.write_thread, "with a write");
  }
  if (is_write && s.read_epoch && !(atomic && s.read_atomic)) {
    if (s.read_epoch < start) fail_at(kRace, at, 1, true, -1, "with a read");
    bool many = s.read_by_many && (s.read_thread / 32 != thread->simdgroup ||
                                   s.read_simd_epoch == simd_epochs[thread->simdgroup]);
    if (s.read_epoch == epoch &&
        (s.read_by_simdgroups || many || !ordered_with(s.read_thread, s.read_simd_epoch, thread)))
      fail_at(kRace, at, 1, true, s.read_thread, "with a read");
  }
}

void note_read(Shadow& s, bool atomic, uint32_t epoch) {
  const Thread* thread = emu_current;
  uint32_t now = simd_epochs[thread->simdgroup];
  if (s.read_epoch == epoch) {
    if (s.read_thread / 32 != thread->simdgroup)
      s.read_by_simdgroups = 1;
    else if (s.read_simd_epoch != now)
      s.read_by_many = 0;
    else if (s.read_thread != thread->index)
      s.read_by_many = 1;
    s.read_atomic &= atomic;
  } else {
    s.read_by_many = s.read_by_simdgroups = 0;
    s.read_atomic = atomic;
  }
  s.read_epoch = epoch;
  s.read_simd_epoch = now;
  s.read_thread = static_cast<uint16_t>(thread->index);
}

void check_bytes(Slot& slot, uint64_t offset, uint32_t size, bool is_write, bool atomic) {
  const Thread* thread = emu_current;
  bool device = slot.kind != kThreadgroup;
  uint32_t epoch = device ? order.device_epoch : order.threadgroup_epoch;
  for (uint64_t i = offset; i < offset + size; i++) {
    Shadow& s = slot.shadow[i];
    const void* at = slot.data + i;
    check_race(slot, s, at, is_write, atomic, epoch);
    if (!is_write || atomic) {
      if (!s.write_epoch) fail_at(kUninitialised, at, static_cast<int>(size), false);
      note_read(s, atomic, epoch);
    }
    if (is_write) {
      s.write_epoch = epoch;
      s.write_simd_epoch = simd_epochs[thread->simdgroup];
      s.write_thread = static_cast<uint16_t>(thread->index);
      s.write_atomic = atomic;
    }
  }
}

// Anonymous memory costs nothing until it is touched.
template <class T>
T* zeroed(uint64_t n) {
  void* at = mmap(nullptr, n * sizeof(T) + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<T*>(at);
}

}  // namespace

uint32_t& simd_epoch(int simdgroup) { return simd_epochs[simdgroup]; }

void make_shadow(Slot& slot) { slot.shadow = zeroed<Shadow>(slot.size); }

void begin_checks() {
  order = {kHost + 1, kHost + 1, kHost + 1, kHost + 1};
  for (int i = 0; i < buffer_count; i++) {
    Slot& slot = slots[i];
    if (slot.kind == kInput) {
      slot.touched = zeroed<uint8_t>(slot.size / 8 + 1);
      continue;
    }
    make_shadow(slot);
    if (slot.initialised)
      for (uint64_t b = 0; b < slot.size; b++) slot.shadow[b].write_epoch = kHost;
  }
}

void begin_threadgroup_checks() {
  order.threadgroup_start = ++order.threadgroup_epoch;
  order.device_start = ++order.device_epoch;
  memset(simd_epochs, 0, sizeof simd_epochs);
}

void flush_simdgroup(int simdgroup) {
  Log& log = logs[simdgroup];
  auto& list = log.accesses;
  if (list.empty()) return;
  auto same = [](const Access& a, const Access& b) {
    return a.pc == b.pc && a.occurrence == b.occurrence && a.slot_and_write == b.slot_and_write;
  };
  std::sort(list.begin(), list.end(), [&](const Access& a, const Access& b) {
    if (a.pc != b.pc) return a.pc < b.pc;
    if (a.occurrence != b.occurrence) return a.occurrence < b.occurrence;
    if (a.slot_and_write != b.slot_and_write) return a.slot_and_write < b.slot_and_write;
    return a.offset < b.offset;
  });
  for (size_t i = 0; i < list.size();) {
    size_t j = i + 1;
    while (j < list.size() && same(list[i], list[j])) j++;
    count(&list[i], &list[i] + (j - i));
    i = j;
  }
  list.clear();
  for (auto& passes : log.passes) passes.clear();
}

void finish_checks() {
  for (int s = 0; s < kMaxSimdgroups; s++) {
    if (!result->error) flush_simdgroup(s);
    logs[s].accesses.clear();
    for (auto& passes : logs[s].passes) passes.clear();
  }
  for (int i = 0; i < slot_count; i++) {
    Slot& slot = slots[i];
    if (slot.touched) {
      for (uint64_t b = 0; b < slot.size / 8 + 1; b++)
        result->counts[i].load_distinct += __builtin_popcount(slot.touched[b]);
      munmap(slot.touched, slot.size / 8 + 2);
      slot.touched = nullptr;
    }
    if (!slot.shadow) continue;
    if (slot.kind == kOutput && !result->error)
      for (uint64_t b = slot.size; b-- > 0;)
        if (!slot.shadow[b].write_epoch) {
          result->unwritten[i]++;
          result->first_unwritten[i] = b;
        }
    munmap(slot.shadow, slot.size * sizeof(Shadow) + 1);
    slot.shadow = nullptr;
  }
}

void access(const void* address, uint32_t size, bool is_write, bool atomic, const void* pc) {
  check_time(0);
  int index = slot_of(address);
  if (index < 0 || !emu_current) return;
  Slot& slot = slots[index];
  int64_t offset = static_cast<const uint8_t*>(address) - slot.data;
  if (offset < 0 || static_cast<uint64_t>(offset) + size > slot.size)
    fail_at(kOutOfBounds, address, static_cast<int>(size), is_write);
  if (is_write && slot.kind == kInput) fail_at(kReadOnly, address, static_cast<int>(size), true);
  if (slot.shadow) check_bytes(slot, static_cast<uint64_t>(offset), size, is_write, atomic);
  if (slot.touched) touch(slot, static_cast<uint64_t>(offset), size);
  if (slot.kind == kThreadgroup) return;
  Log& log = logs[emu_current->simdgroup];
  uint32_t occurrence = log.passes[emu_current->lane][pc]++;
  log.accesses.push_back({pc, occurrence, static_cast<uint32_t>(index) << 1 | (is_write ? 1u : 0u),
                          static_cast<uint64_t>(offset), size});
}

}  // namespace emu

using namespace emu;

#define PC __builtin_return_address(0)
#define ALIGNED(size, is_write)                                                              \
  if (reinterpret_cast<uintptr_t>(at) % size && slot_of(at) >= 0)                            \
    fail_at(kMisaligned, at, size, is_write);
#define HOOKS(size)                                                                          \
  void __tsan_read##size(void* at) { ALIGNED(size, false) access(at, size, false, false, PC); } \
  void __tsan_write##size(void* at) { ALIGNED(size, true) access(at, size, true, false, PC); }  \
  void __tsan_unaligned_read##size(void* at) { access(at, size, false, false, PC); }         \
  void __tsan_unaligned_write##size(void* at) { access(at, size, true, false, PC); }         \
  void __tsan_volatile_read##size(void* at) { access(at, size, false, false, PC); }          \
  void __tsan_volatile_write##size(void* at) { access(at, size, true, false, PC); }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* at, size_t size) { access(at, static_cast<uint32_t>(size), false, false, PC); }
void __tsan_write_range(void* at, size_t size) { access(at, static_cast<uint32_t>(size), true, false, PC); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

void emu_atomic(const void* address, uint32_t size) {
  if (spec->instrumented) access(address, size, true, true, __builtin_return_address(0));
}
}
