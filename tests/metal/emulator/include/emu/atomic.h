// Atomics. One operating-system thread runs every fiber, so plain operations are atomic; the checks are told.
#pragma once

#include "core.h"
#include "types.h"

#define EMU_UNCHECKED __attribute__((noinline, no_sanitize("thread")))

namespace metal {

enum memory_order { memory_order_relaxed };
enum thread_scope { thread_scope_thread, thread_scope_simdgroup, thread_scope_threadgroup, thread_scope_device };

template <class T>
struct atomic {
  T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;
typedef atomic<ulong> atomic_ulong;

// Where an atomic lives does not matter here, only that it is one.
template <class P>
using emu_value_t = remove_cv_t<decltype(std::declval<P>()->value)>;

template <class T>
EMU_UNCHECKED T emu_atomic_load(const volatile atomic<T>* at) {
  emu_atomic(const_cast<const atomic<T>*>(at), sizeof(T));
  return at->value;
}
template <class T>
EMU_UNCHECKED T emu_atomic_exchange(volatile atomic<T>* at, T x) {
  emu_atomic(const_cast<const atomic<T>*>(at), sizeof(T));
  T before = at->value;
  at->value = x;
  return before;
}

#define EMU_ATOMIC(name, expression)                                                       \
  template <class T>                                                                       \
  EMU_UNCHECKED T emu_##name(volatile atomic<T>* at, T x) {                                \
    emu_atomic(const_cast<const atomic<T>*>(at), sizeof(T));                               \
    T before = at->value;                                                                  \
    at->value = static_cast<T>(expression);                                                \
    return before;                                                                         \
  }                                                                                        \
  template <class P, class U>                                                              \
  inline auto name(P at, U x, memory_order = memory_order_relaxed) {                       \
    return emu_##name<emu_value_t<P>>(&*at, static_cast<emu_value_t<P>>(x));               \
  }
EMU_ATOMIC(atomic_fetch_add_explicit, before + x)
EMU_ATOMIC(atomic_fetch_sub_explicit, before - x)
EMU_ATOMIC(atomic_fetch_min_explicit, x < before ? x : before)
EMU_ATOMIC(atomic_fetch_max_explicit, before < x ? x : before)
EMU_ATOMIC(atomic_fetch_and_explicit, before & x)
EMU_ATOMIC(atomic_fetch_or_explicit, before | x)
EMU_ATOMIC(atomic_fetch_xor_explicit, before ^ x)

template <class P>
inline auto atomic_load_explicit(P at, memory_order = memory_order_relaxed) {
  return emu_atomic_load<emu_value_t<P>>(&*at);
}
template <class P, class U>
inline void atomic_store_explicit(P at, U x, memory_order = memory_order_relaxed) {
  emu_atomic_exchange<emu_value_t<P>>(&*at, static_cast<emu_value_t<P>>(x));
}
template <class P, class U>
inline auto atomic_exchange_explicit(P at, U x, memory_order = memory_order_relaxed) {
  return emu_atomic_exchange<emu_value_t<P>>(&*at, static_cast<emu_value_t<P>>(x));
}
template <class P, class E, class U>
inline bool atomic_compare_exchange_weak_explicit(P at, E expected, U x, memory_order, memory_order) {
  using T = emu_value_t<P>;
  T before = emu_atomic_load<T>(&*at);
  if (__builtin_memcmp(&before, &*expected, sizeof(T))) {
    *expected = before;
    return false;
  }
  emu_atomic_exchange<T>(&*at, static_cast<T>(x));
  return true;
}
inline void atomic_thread_fence(mem_flags, memory_order = memory_order_relaxed, thread_scope = thread_scope_device) {}

}  // namespace metal
