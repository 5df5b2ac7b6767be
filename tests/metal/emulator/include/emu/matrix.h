// simdgroup_matrix<T, 8, 8>: two neighbouring elements of a row a lane, laid out as Apple's GPUs lay them out.
#pragma once

#include "simd.h"

namespace metal {

template <class T, int Cols, int Rows>
struct simdgroup_matrix {
  static_assert(Cols == 8 && Rows == 8, "Metal has 8 by 8 simdgroup matrices");
  vec<T, 2> elements;

  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    elements = {row() == column() ? diagonal : T(0), row() == column() + 1 ? diagonal : T(0)};
  }
  vec<T, 2>& thread_elements() { return elements; }
  const vec<T, 2>& thread_elements() const { return elements; }

  static int row_of(uint32_t lane) { return static_cast<int>((lane / 4 & 4) + (lane / 2) % 4); }
  static int column_of(uint32_t lane) { return static_cast<int>((lane / 4 & 2) * 2 + lane % 2 * 2); }
  static int row() { return row_of(emu_current->lane); }
  static int column() { return column_of(emu_current->lane); }
};

typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int C, int R>
inline simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, C, R> m;
  m.elements = vec<T, 2>(value, value);
  return m;
}

template <class T, class P>
EMU_INLINE void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, P from, ulong stride = 8, ulong2 origin = ulong2(0),
                               bool transpose = false, EMU_LINE) {
  emu::meet(emu::kMatrix, line, 0, nullptr);
  for (int i = 0; i < 2; i++) {
    ulong r = static_cast<ulong>(m.row()), c = static_cast<ulong>(m.column() + i);
    m.elements.e[i] = transpose ? from[(origin.y + c) * stride + origin.x + r] : from[(origin.y + r) * stride + origin.x + c];
  }
}
template <class T, class P>
EMU_INLINE void simdgroup_store(const simdgroup_matrix<T, 8, 8>& m, P to, ulong stride = 8, ulong2 origin = ulong2(0),
                                bool transpose = false, EMU_LINE) {
  emu::meet(emu::kMatrix, line, 0, nullptr);
  for (int i = 0; i < 2; i++) {
    ulong r = static_cast<ulong>(m.row()), c = static_cast<ulong>(m.column() + i);
    to[transpose ? (origin.y + c) * stride + origin.x + r : (origin.y + r) * stride + origin.x + c] = m.elements.e[i];
  }
}

namespace {
template <class A, class B>
struct EmuPair { vec<A, 2> a; vec<B, 2> b; };
}  // namespace

template <class D, class A, class B, class C>
EMU_INLINE void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                              const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<C, 8, 8>& c,
                                              EMU_LINE) {
  using Both = EmuPair<A, B>;
  auto met = emu::meet(emu::kMatrix, line, Both{a.elements, b.elements}, nullptr);
  if (met.mask != ~0u) emu_bad_lane(static_cast<uint32_t>(__builtin_ctz(~met.mask)), line);
  using M = simdgroup_matrix<A, 8, 8>;
  float left[8], right[8][2];
  int row = M::row(), column = M::column();
  for (uint32_t lane = 0; lane < 32; lane++) {
    Both both = emu::take<Both>(met.lanes[lane]);
    for (int i = 0; i < 2; i++) {
      if (M::row_of(lane) == row) left[M::column_of(lane) + i] = static_cast<float>(both.a.e[i]);
      if (M::column_of(lane) == column) right[M::row_of(lane)][i] = static_cast<float>(both.b.e[i]);
    }
  }
  vec<C, 2> start = c.elements;
  for (int i = 0; i < 2; i++) {
    float sum = static_cast<float>(start.e[i]);
    for (int k = 0; k < 8; k++) sum += left[k] * right[k][i];
    d.elements.e[i] = static_cast<D>(sum);
  }
}
template <class D, class A, class B>
EMU_INLINE void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b, EMU_LINE) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0)), line);
}
template <class A, class B>
EMU_INLINE simdgroup_matrix<A, 8, 8> operator*(const simdgroup_matrix<A, 8, 8>& a, const simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_matrix<A, 8, 8> d;
  simdgroup_multiply(d, a, b, 0);
  return d;
}

}  // namespace metal
