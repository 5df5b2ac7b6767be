// Simdgroup and threadgroup operations: every lane of the simdgroup meets the others at each of them.
#pragma once

#include "core.h"
#include "math.h"
#include "types.h"

#define EMU_INLINE inline __attribute__((always_inline))
#define EMU_LINE int line = __builtin_LINE()

namespace metal {
enum class mem_flags : uint32_t { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4,
                                  mem_threadgroup_imageblock = 8, mem_object_data = 16, mem_device_and_threadgroup = 3 };
inline constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return static_cast<mem_flags>(static_cast<uint32_t>(a) | static_cast<uint32_t>(b));
}
EMU_INLINE void threadgroup_barrier(mem_flags flags, EMU_LINE) {
  emu_threadgroup_barrier(static_cast<uint32_t>(flags), line);
}
EMU_INLINE void simdgroup_barrier(mem_flags flags, EMU_LINE) {
  emu_simdgroup_barrier(static_cast<uint32_t>(flags), line);
}
}  // namespace metal

namespace emu {

enum Operation : uint32_t {
  kSum = 1, kProduct, kMin, kMax, kAnd, kOr, kXor, kAll, kAny, kBallot, kInclusiveSum, kExclusiveSum,
  kInclusiveProduct, kExclusiveProduct, kShuffle, kShuffleXor, kShuffleUp, kShuffleDown, kFillUp, kFillDown,
  kRotateUp, kRotateDown, kBroadcast, kBroadcastFirst, kQuadSum, kQuadProduct, kQuadMin, kQuadMax, kQuadShuffle,
  kQuadShuffleXor, kQuadBroadcast, kMatrix,
};

template <class T>
EMU_INLINE T take(const char* from) {
  T x;
  __builtin_memcpy(static_cast<void*>(&x), from, sizeof x);
  return x;
}
template <class T>
EMU_INLINE void put(char* to, const T& x) {
  __builtin_memcpy(to, static_cast<const void*>(&x), sizeof x);
}

template <class T>
EMU_INLINE Meeting meet(Operation operation, int line, const T& x, Combine combine) {
  static_assert(sizeof(T) <= 64);
  T copy = x;
  return emu_meet(operation << 8 | sizeof(T), line, &copy, sizeof(T), combine);
}

struct Add { template <class T> static T of(T a, T b) { return a + b; } };
struct Multiply { template <class T> static T of(T a, T b) { return a * b; } };
struct Least { template <class T> static T of(T a, T b) { return metal::min(a, b); } };
struct Greatest { template <class T> static T of(T a, T b) { return metal::max(a, b); } };
struct And { template <class T> static T of(T a, T b) { return a & b; } };
struct Or { template <class T> static T of(T a, T b) { return a | b; } };
struct Xor { template <class T> static T of(T a, T b) { return a ^ b; } };

// bfloat has no simd arithmetic of its own: it is widened and the result rounded once.
template <class T>
struct Wide { using type = T; };
template <>
struct Wide<bfloat> { using type = float; };
template <int N>
struct Wide<metal::vec<bfloat, N>> { using type = metal::vec<float, N>; };

// Pairs 16, 8, 4, 2 and 1 lanes apart, as a butterfly does.
template <class T, class F>
void reduce(Slots lanes, uint32_t mask, char* result) {
  using W = typename Wide<T>::type;
  W values[32];
  for (int i = 0; i < 32; i++)
    if (mask >> i & 1) values[i] = static_cast<W>(take<T>(lanes[i]));
  for (int step = 16; step; step /= 2)
    for (int i = 0; i < step; i++)
      if (mask >> (i + step) & 1) values[i] = F::of(values[i], values[i + step]);
  put(result, static_cast<T>(values[0]));
}

template <class T, class F, bool Inclusive>
T prefix(const Meeting& met, T start) {
  using W = typename Wide<T>::type;
  W total = static_cast<W>(start);
  uint32_t lane = emu_current->lane;
  for (uint32_t i = 0; i < lane + (Inclusive ? 1 : 0); i++) total = F::of(total, static_cast<W>(take<T>(met.lanes[i])));
  return static_cast<T>(total);
}

template <class T>
EMU_INLINE T lane_of(const Meeting& met, uint32_t lane, int line) {
  if (__builtin_expect(lane >= 32 || !(met.mask >> lane & 1), 0)) emu_bad_lane(lane, line);
  return take<T>(met.lanes[lane]);
}

template <class T, class F>
T quad(const Meeting& met) {
  using W = typename Wide<T>::type;
  uint32_t first = emu_current->lane & ~3u;
  W v[4];
  for (int i = 0; i < 4; i++) v[i] = static_cast<W>(take<T>(met.lanes[first + i]));
  return static_cast<T>(F::of(F::of(v[0], v[1]), F::of(v[2], v[3])));
}

}  // namespace emu

namespace metal {

#define EMU_REDUCE(name, operation, F)                                                        \
  template <class T>                                                                          \
  EMU_INLINE T name(T x, EMU_LINE) {                                                          \
    return emu::take<T>(emu::meet(emu::operation, line, x, emu::reduce<T, emu::F>).result);   \
  }
EMU_REDUCE(simd_sum, kSum, Add)
EMU_REDUCE(simd_product, kProduct, Multiply)
EMU_REDUCE(simd_min, kMin, Least)
EMU_REDUCE(simd_max, kMax, Greatest)
EMU_REDUCE(simd_and, kAnd, And)
EMU_REDUCE(simd_or, kOr, Or)
EMU_REDUCE(simd_xor, kXor, Xor)

#define EMU_PREFIX(name, operation, F, inclusive, start)                                      \
  template <class T>                                                                          \
  EMU_INLINE T name(T x, EMU_LINE) {                                                          \
    return emu::prefix<T, emu::F, inclusive>(emu::meet(emu::operation, line, x, nullptr), static_cast<T>(start)); \
  }
EMU_PREFIX(simd_prefix_inclusive_sum, kInclusiveSum, Add, true, 0)
EMU_PREFIX(simd_prefix_exclusive_sum, kExclusiveSum, Add, false, 0)
EMU_PREFIX(simd_prefix_inclusive_product, kInclusiveProduct, Multiply, true, 1)
EMU_PREFIX(simd_prefix_exclusive_product, kExclusiveProduct, Multiply, false, 1)

template <class T>
EMU_INLINE T simd_shuffle(T x, ushort lane, EMU_LINE) {
  return emu::lane_of<T>(emu::meet(emu::kShuffle, line, x, nullptr), lane, line);
}
template <class T>
EMU_INLINE T simd_shuffle_xor(T x, ushort mask, EMU_LINE) {
  return emu::lane_of<T>(emu::meet(emu::kShuffleXor, line, x, nullptr), emu_current->lane ^ mask, line);
}
// Lanes with no partner keep their own value.
template <class T>
EMU_INLINE T simd_shuffle_up(T x, ushort delta, EMU_LINE) {
  auto met = emu::meet(emu::kShuffleUp, line, x, nullptr);
  return emu_current->lane < delta ? x : emu::lane_of<T>(met, emu_current->lane - delta, line);
}
template <class T>
EMU_INLINE T simd_shuffle_down(T x, ushort delta, EMU_LINE) {
  auto met = emu::meet(emu::kShuffleDown, line, x, nullptr);
  return emu_current->lane + delta >= 32 ? x : emu::lane_of<T>(met, emu_current->lane + delta, line);
}
template <class T>
EMU_INLINE T simd_shuffle_rotate_up(T x, ushort delta, EMU_LINE) {
  return emu::lane_of<T>(emu::meet(emu::kRotateUp, line, x, nullptr), (emu_current->lane - delta) & 31, line);
}
template <class T>
EMU_INLINE T simd_shuffle_rotate_down(T x, ushort delta, EMU_LINE) {
  return emu::lane_of<T>(emu::meet(emu::kRotateDown, line, x, nullptr), (emu_current->lane + delta) & 31, line);
}
template <class T>
EMU_INLINE T simd_shuffle_and_fill_up(T x, T filling, ushort delta, EMU_LINE) {
  struct { T x, filling; } both{x, filling};
  auto met = emu::meet(emu::kFillUp, line, both, nullptr);
  uint32_t lane = emu_current->lane;
  if (lane >= delta) return emu::lane_of<decltype(both)>(met, lane - delta, line).x;
  return emu::lane_of<decltype(both)>(met, (lane - delta) & 31, line).filling;
}
template <class T>
EMU_INLINE T simd_shuffle_and_fill_down(T x, T filling, ushort delta, EMU_LINE) {
  struct { T x, filling; } both{x, filling};
  auto met = emu::meet(emu::kFillDown, line, both, nullptr);
  uint32_t lane = emu_current->lane;
  if (lane + delta < 32) return emu::lane_of<decltype(both)>(met, lane + delta, line).x;
  return emu::lane_of<decltype(both)>(met, (lane + delta) & 31, line).filling;
}
template <class T>
EMU_INLINE T simd_broadcast(T x, ushort lane, EMU_LINE) {
  return emu::lane_of<T>(emu::meet(emu::kBroadcast, line, x, nullptr), lane, line);
}
template <class T>
EMU_INLINE T simd_broadcast_first(T x, EMU_LINE) {
  return emu::lane_of<T>(emu::meet(emu::kBroadcastFirst, line, x, nullptr), 0, line);
}

struct simd_vote {
  typedef uint64_t vote_t;
  vote_t bits;
  explicit constexpr simd_vote(vote_t v = 0) : bits(v) {}
  explicit constexpr operator vote_t() const { return bits; }
  bool all() const { return bits == 0xffffffffu; }
  bool any() const { return bits != 0; }
};
inline simd_vote emu_ballot(emu::Operation operation, bool x, int line) {
  auto met = emu::meet(operation, line, x, nullptr);
  uint32_t bits = 0;
  for (int i = 0; i < 32; i++)
    if ((met.mask >> i & 1) && met.lanes[i][0]) bits |= 1u << i;
  return simd_vote(bits);
}
EMU_INLINE simd_vote simd_ballot(bool x, EMU_LINE) { return emu_ballot(emu::kBallot, x, line); }
EMU_INLINE bool simd_all(bool x, EMU_LINE) {
  auto met = emu::meet(emu::kAll, line, static_cast<int>(x), emu::reduce<int, emu::And>);
  return emu::take<int>(met.result);
}
EMU_INLINE bool simd_any(bool x, EMU_LINE) {
  auto met = emu::meet(emu::kAny, line, static_cast<int>(x), emu::reduce<int, emu::Or>);
  return emu::take<int>(met.result);
}
EMU_INLINE bool simd_is_first() { return emu_current->lane == 0; }

#define EMU_QUAD(name, operation, F)                                                    \
  template <class T>                                                                    \
  EMU_INLINE T name(T x, EMU_LINE) {                                                    \
    return emu::quad<T, emu::F>(emu::meet(emu::operation, line, x, nullptr));           \
  }
EMU_QUAD(quad_sum, kQuadSum, Add)
EMU_QUAD(quad_product, kQuadProduct, Multiply)
EMU_QUAD(quad_min, kQuadMin, Least)
EMU_QUAD(quad_max, kQuadMax, Greatest)
template <class T>
EMU_INLINE T quad_shuffle(T x, ushort lane, EMU_LINE) {
  return emu::lane_of<T>(emu::meet(emu::kQuadShuffle, line, x, nullptr), (emu_current->lane & ~3u) + (lane & 3), line);
}
template <class T>
EMU_INLINE T quad_shuffle_xor(T x, ushort mask, EMU_LINE) {
  return emu::lane_of<T>(emu::meet(emu::kQuadShuffleXor, line, x, nullptr), emu_current->lane ^ (mask & 3), line);
}
template <class T>
EMU_INLINE T quad_broadcast(T x, ushort lane, EMU_LINE) {
  return emu::lane_of<T>(emu::meet(emu::kQuadBroadcast, line, x, nullptr), (emu_current->lane & ~3u) + (lane & 3), line);
}

}  // namespace metal
