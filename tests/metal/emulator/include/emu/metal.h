// What a translated kernel is compiled against.
#pragma once

#include "core.h"
#include "types.h"
#include "math.h"
#include "simd.h"
#include "matrix.h"
#include "atomic.h"
#ifdef EMU_ADDRESS_SPACES
#include "address.h"
#endif

#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_INTERNAL inline __attribute__((always_inline))

namespace metal {
struct os_log {
  constexpr os_log(const char*, const char*) {}
  template <class... A>
  void log_debug(const char*, A...) const {}
  template <class... A>
  void log(const char*, A...) const {}
  template <class... A>
  void log_error(const char*, A...) const {}
};
}  // namespace metal

// Metal's types need no namespace.
using metal::packed_float2, metal::packed_float3, metal::packed_float4;
#define EMU_VECTORS(name) using metal::name##2, metal::name##3, metal::name##4;
EMU_VECTORS(bool) EMU_VECTORS(char) EMU_VECTORS(uchar) EMU_VECTORS(short) EMU_VECTORS(ushort) EMU_VECTORS(int)
EMU_VECTORS(uint) EMU_VECTORS(long) EMU_VECTORS(ulong) EMU_VECTORS(half) EMU_VECTORS(bfloat) EMU_VECTORS(float)
#undef EMU_VECTORS

namespace emu {

// A threadgroup variable: the same memory for every thread of the threadgroup.
#ifdef EMU_ADDRESS_SPACES
template <class T>
  requires(std::rank_v<T> == 1)
Pointer<std::remove_extent_t<T>, threadgroup_space, false> threadgroup_variable(ThreadgroupSite& site, const char* name) {
  return *static_cast<T*>(emu_threadgroup_variable(&site, sizeof(T), alignof(T), name));
}
#endif
template <class T>
#ifdef EMU_ADDRESS_SPACES
  requires(std::rank_v<T> != 1)
#endif
EMU_INLINE T& threadgroup_variable(ThreadgroupSite& site, const char* name) {
  void* at = site.launch == emu_launch_id ? site.data : emu_threadgroup_variable(&site, sizeof(T), alignof(T), name);
  return *static_cast<T*>(at);
}

// Arguments that become whatever type the kernel's parameter has.
struct PointerArgument {
  void* at;
  template <class T>
  operator T*() const { return static_cast<T*>(const_cast<std::remove_cv_t<T>*>(static_cast<const std::remove_cv_t<T>*>(at))); }
#ifdef EMU_ADDRESS_SPACES
  template <class T, class Space, bool Const>
  operator Pointer<T, Space, Const>() const { return static_cast<T*>(at); }
#endif
};
struct ReferenceArgument {
  void* at;
  template <class T>
  operator T&() const { return *static_cast<T*>(at); }
};
struct Attribute {
  const uint32_t* v;
  operator uint32_t() const { return v[0]; }
  operator ushort() const { return static_cast<ushort>(v[0]); }
  operator int() const { return static_cast<int>(v[0]); }
  operator metal::uint2() const { return {v[0], v[1]}; }
  operator metal::uint3() const { return {v[0], v[1], v[2]}; }
  operator metal::ushort2() const { return {v[0], v[1]}; }
  operator metal::ushort3() const { return {v[0], v[1], v[2]}; }
};

}  // namespace emu
