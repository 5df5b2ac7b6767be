// The arena of buffers and threadgroup variables between guard pages, and the fibers' stacks.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "runtime.h"

namespace emu {

Slot slots[kMaxSlots];
int buffer_count, slot_count;

namespace {

constexpr size_t kStack = 256 << 10;

uint8_t* arena;
size_t stride;  // address space given to each slot: far strays still land in the slot they left
uint8_t* stacks;
size_t page;
uint8_t poison = 0xA5;  // what memory holds that nobody wrote
uint64_t used_threadgroup_bytes;

size_t rounded(size_t n, size_t to) { return (n + to - 1) / to * to; }

void reserve() {
  if (arena) return;
  page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (size_t each = size_t{32} << 30; each >= size_t{64} << 20; each /= 2) {
    void* at = mmap(nullptr, each * kMaxSlots, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) continue;
    arena = static_cast<uint8_t*>(at);
    stride = each;
    break;
  }
  void* at = mmap(nullptr, (kStack + page) * kMaxThreads, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return;
  stacks = static_cast<uint8_t*>(at);
  for (int i = 0; i < kMaxThreads; i++)
    mprotect(stacks + i * (kStack + page) + page, kStack, PROT_READ | PROT_WRITE);
}

// The data ends where a guard page begins, as far as alignment allows.
bool map_slot(int index, size_t size, size_t align) {
  Slot& slot = slots[index];
  slot.size = size;
  slot.pages = rounded(size ? size : 1, page);
  if (slot.pages + (stride >> 1) > stride) return false;
  uint8_t* middle = arena + index * stride + (stride >> 2) / page * page;
  if (mprotect(middle, slot.pages, PROT_READ | PROT_WRITE)) return false;
  slot.data = middle + (slot.pages - rounded(size ? size : 1, align));
  return true;
}

uint8_t* first_page(const Slot& slot) {
  return reinterpret_cast<uint8_t*>(reinterpret_cast<uintptr_t>(slot.data) / page * page);
}

}  // namespace

int slot_of(const void* address) {
  auto* at = static_cast<const uint8_t*>(address);
  if (at < arena || at >= arena + stride * kMaxSlots) return -1;
  int index = static_cast<int>((at - arena) / stride);
  return index < slot_count ? index : -1;
}

bool in_stacks(const void* address) {
  auto* at = static_cast<const uint8_t*>(address);
  return at >= stacks && at < stacks + (kStack + page) * kMaxThreads;
}

bool in_stack_guard(const void* address) {
  return in_stacks(address) &&
         static_cast<size_t>(static_cast<const uint8_t*>(address) - stacks) % (kStack + page) < page;
}

void* stack_top(int thread) { return stacks + (thread + 1) * (kStack + page); }

void begin_threadgroup_memory() {
  for (int i = buffer_count; i < slot_count; i++) memset(first_page(slots[i]), poison, slots[i].pages);
}

uint64_t threadgroup_bytes() { return used_threadgroup_bytes; }

}  // namespace emu

using namespace emu;

extern "C" {

void emu_poison(uint8_t value) { poison = value; }

// A buffer of the next launch, filled with poison; null when there is no room.
void* emu_buffer(const char* name, int32_t kind, uint64_t size, uint64_t align) {
  reserve();
  if (!arena || !stacks || buffer_count == kMaxBuffers || !map_slot(buffer_count, size, align)) return nullptr;
  Slot& slot = slots[buffer_count++];
  slot_count = buffer_count;
  used_threadgroup_bytes = 0;
  snprintf(slot.name, sizeof slot.name, "%s", name);
  slot.kind = kind;
  slot.initialised = 0;
  memset(first_page(slot), poison, slot.pages);
  return slot.data;
}

// Nothing more is written by the host: inputs become read-only.
void emu_seal(int32_t index, int32_t initialised) {
  Slot& slot = slots[index];
  slot.initialised = initialised;
  if (slot.kind == kInput) mprotect(first_page(slot), slot.pages, PROT_READ);
}

// The offset of a byte just before the buffer that the kernel wrote to, or 0.
int64_t emu_written_before(int32_t index) {
  Slot& slot = slots[index];
  for (uint8_t* at = slot.data - 1; at >= first_page(slot); at--)
    if (*at != poison) return at - slot.data;
  for (uint8_t* at = slot.data + slot.size; at < first_page(slot) + slot.pages; at++)
    if (*at != poison) return at - slot.data;
  return 0;
}

const char* emu_slot_name(int32_t index) { return slots[index].name; }
uint64_t emu_slot_size(int32_t index) { return slots[index].size; }
int32_t emu_slot_kind(int32_t index) { return slots[index].kind; }

void emu_free_all() {
  for (int i = 0; i < kMaxSlots; i++) {
    if (!slots[i].data) continue;
    mmap(first_page(slots[i]), slots[i].pages, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    slots[i].data = nullptr;
  }
  buffer_count = slot_count = 0;
}

void* emu_threadgroup_variable(ThreadgroupSite* site, uint64_t size, uint64_t align, const char* name) {
  if (site->launch == emu_launch_id) return site->data;
  if (slot_count == kMaxSlots) fail(kTooManyThreadgroupVariables, name);
  // Metal aligns each variable; what fits is decided on the sum.
  used_threadgroup_bytes = rounded(used_threadgroup_bytes, align) + size;
  if (used_threadgroup_bytes > kThreadgroupMemory) {
    char text[120];
    snprintf(text, sizeof text, "%s brings the threadgroup's memory to %llu bytes", name,
             static_cast<unsigned long long>(used_threadgroup_bytes));
    fail(kTooMuchThreadgroupMemory, text);
  }
  Slot& slot = slots[slot_count];
  if (!map_slot(slot_count, size, align < 4 ? align : 4)) fail(kTooManyThreadgroupVariables, name);
  // Vectors in it keep their alignment even where the end is then not flush.
  slot.data = first_page(slot) + (slot.pages - rounded(size, 16));
  slot_count++;
  snprintf(slot.name, sizeof slot.name, "%s", name);
  slot.kind = kThreadgroup;
  slot.initialised = 0;
  memset(first_page(slot), poison, slot.pages);
  if (spec->instrumented) make_shadow(slot);
  site->launch = emu_launch_id;
  site->data = slot.data;
  return slot.data;
}
}
