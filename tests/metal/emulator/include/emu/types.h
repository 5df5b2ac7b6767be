// Scalar and vector types: half, bfloat and vec<T, N> as Metal lays them out.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <limits>
#include <type_traits>

typedef _Float16 half;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

namespace metal {
using std::add_const_t;
using std::bool_constant;
using std::conditional;
using std::conditional_t;
using std::decay_t;
using std::enable_if;
using std::enable_if_t;
using std::false_type;
using std::integral_constant;
using std::is_convertible_v;
using std::is_integral;
using std::is_same;
using std::is_same_v;
using std::is_signed_v;
using std::is_unsigned_v;
using std::remove_const_t;
using std::remove_cv_t;
using std::remove_pointer_t;
using std::remove_reference_t;
using std::true_type;
template <class T>
constexpr bool is_integral_v = std::is_integral_v<T>;
template <class T>
using remove_addrspace_t = T;
}  // namespace metal

// Stored as 16 bits, rounded to nearest even; arithmetic goes through float.
struct bfloat {
  uint16_t bits;

  bfloat() = default;
  explicit constexpr bfloat(float x) : bits(round(x)) {}
  explicit constexpr bfloat(_Float16 x) : bits(round(static_cast<float>(x))) {}
  explicit constexpr bfloat(double x) : bits(round(static_cast<float>(x))) {}
  template <class I, class = std::enable_if_t<std::is_integral_v<I>>>
  constexpr bfloat(I x) : bits(round(static_cast<float>(x))) {}

  constexpr operator float() const { return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16); }

  static constexpr uint16_t round(float x) {
    uint32_t u = __builtin_bit_cast(uint32_t, x);
    if ((u & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(u >> 16 | 0x40);
    return static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
  static constexpr bfloat from_bits(uint16_t b) {
    bfloat x(0);
    x.bits = b;
    return x;
  }

#define EMU_OP(op)                                                                              \
  friend constexpr bfloat operator op(bfloat a, bfloat b) { return bfloat(float(a) op float(b)); } \
  template <class I, class = std::enable_if_t<std::is_integral_v<I>>>                           \
  friend constexpr bfloat operator op(bfloat a, I b) {                                          \
    return a op bfloat(b);                                                                      \
  }                                                                                             \
  template <class I, class = std::enable_if_t<std::is_integral_v<I>>>                           \
  friend constexpr bfloat operator op(I a, bfloat b) {                                          \
    return bfloat(a) op b;                                                                      \
  }                                                                                             \
  friend constexpr float operator op(bfloat a, float b) { return float(a) op b; }               \
  friend constexpr float operator op(float a, bfloat b) { return a op float(b); }               \
  template <class U>                                                                            \
  constexpr bfloat& operator op##=(U b) {                                                       \
    return *this = bfloat(float(*this) op float(b));                                            \
  }
  EMU_OP(+)
  EMU_OP(-)
  EMU_OP(*)
  EMU_OP(/)
#undef EMU_OP
#define EMU_OP(op)                                                                                \
  friend constexpr bool operator op(bfloat a, bfloat b) { return float(a) op float(b); }          \
  friend constexpr bool operator op(bfloat a, float b) { return float(a) op b; }                  \
  friend constexpr bool operator op(float a, bfloat b) { return a op float(b); }                  \
  template <class I, class = std::enable_if_t<std::is_integral_v<I>>>                             \
  friend constexpr bool operator op(bfloat a, I b) {                                              \
    return float(a) op float(b);                                                                  \
  }                                                                                               \
  template <class I, class = std::enable_if_t<std::is_integral_v<I>>>                             \
  friend constexpr bool operator op(I a, bfloat b) {                                              \
    return float(a) op float(b);                                                                  \
  }
  EMU_OP(==)
  EMU_OP(!=)
  EMU_OP(<)
  EMU_OP(<=)
  EMU_OP(>)
  EMU_OP(>=)
#undef EMU_OP
  constexpr bfloat operator-() const { return from_bits(bits ^ 0x8000); }
  constexpr bfloat operator+() const { return *this; }
  constexpr bfloat& operator++() { return *this += 1; }
  constexpr bfloat& operator--() { return *this -= 1; }
};

namespace metal {

template <class T>
struct numeric_limits : std::numeric_limits<T> {};
template <>
struct numeric_limits<half> {
  static constexpr int digits = 11, max_exponent = 16, min_exponent = -13;
  static constexpr half from(uint16_t b) { return __builtin_bit_cast(half, b); }
  static constexpr half infinity() { return from(0x7c00); }
  static constexpr half max() { return from(0x7bff); }
  static constexpr half lowest() { return from(0xfbff); }
  static constexpr half min() { return from(0x0400); }
  static constexpr half epsilon() { return from(0x1400); }
  static constexpr half quiet_NaN() { return from(0x7e00); }
};
template <>
struct numeric_limits<bfloat> {
  static constexpr int digits = 8, max_exponent = 128, min_exponent = -125;
  static constexpr bfloat infinity() { return bfloat::from_bits(0x7f80); }
  static constexpr bfloat max() { return bfloat::from_bits(0x7f7f); }
  static constexpr bfloat lowest() { return bfloat::from_bits(0xff7f); }
  static constexpr bfloat min() { return bfloat::from_bits(0x0080); }
  static constexpr bfloat epsilon() { return bfloat::from_bits(0x3c00); }
  static constexpr bfloat quiet_NaN() { return bfloat::from_bits(0x7fc0); }
};

template <class T>
constexpr bool is_floating_point_v = std::is_floating_point_v<T> || is_same_v<T, half> || is_same_v<T, bfloat>;
template <class T>
struct is_floating_point : bool_constant<is_floating_point_v<T>> {};
template <class T>
constexpr bool is_arithmetic_v = is_integral_v<T> || is_floating_point_v<T>;

}  // namespace metal

namespace emu {

// Loads and stores of a vector are one access, as wide as the vector.
template <int Bytes>
struct Raw;
template <>
struct Raw<2> { using type = uint16_t; };
template <>
struct Raw<4> { using type = uint32_t; };
template <>
struct Raw<8> { using type = uint64_t; };
template <>
struct Raw<16> { typedef uint32_t type __attribute__((vector_size(16), may_alias)); };
template <>
struct Raw<32> { typedef uint32_t type __attribute__((vector_size(32), may_alias)); };

template <class T>
constexpr int width = 1;
template <class T, int N>
struct Storage;
template <class T>
struct Storage<T, 2> {
  union {
    typename Raw<2 * sizeof(T)>::type raw;
    T e[2];
    struct { T x, y; };
    struct { T r, g; };
  };
};
template <class T>
struct Storage<T, 3> {
  union {
    typename Raw<4 * sizeof(T)>::type raw;
    T e[3];
    struct { T x, y, z; };
    struct { T r, g, b; };
  };
};
template <class T>
struct Storage<T, 4> {
  union {
    typename Raw<4 * sizeof(T)>::type raw;
    T e[4];
    struct { T x, y, z, w; };
    struct { T r, g, b, a; };
  };
};

// v.xy becomes v.swizzle(emu::Swizzle<0, 1>()).
template <int... I>
struct Swizzle {};

}  // namespace emu

namespace metal {

template <class T, int N>
struct vec;
template <class T>
constexpr bool is_vec = false;
template <class T, int N>
constexpr bool is_vec<vec<T, N>> = true;

}  // namespace metal

namespace emu {
template <class T, int N>
constexpr int width<metal::vec<T, N>> = N;

// The components of a swizzle, assignable where they are an lvalue's.
template <class V, class T, int... I>
struct Swizzled {
  V& of;
  operator metal::vec<T, sizeof...(I)>() const { return {of.e[I]...}; }
  const Swizzled& operator=(const metal::vec<T, sizeof...(I)>& from) const {
    int at = 0;
    metal::vec<T, sizeof...(I)> copy = from;
    ((of.e[I] = copy.e[at++]), ...);
    return *this;
  }
#define EMU_OP(op)                                                          \
  const Swizzled& operator op##=(const metal::vec<T, sizeof...(I)>& b) const { \
    return *this = metal::vec<T, sizeof...(I)>(*this) op b;                 \
  }
  EMU_OP(+) EMU_OP(-) EMU_OP(*) EMU_OP(/)
#undef EMU_OP
};
}  // namespace emu

namespace metal {

template <class T, int N>
struct vec : emu::Storage<T, N> {
  using S = emu::Storage<T, N>;
  using S::e;
  using S::raw;

  vec() = default;
  vec(const vec& o) { raw = o.raw; }
  vec& operator=(const vec& o) {
    raw = o.raw;
    return *this;
  }
  template <class U, class = enable_if_t<is_convertible_v<U, T> && is_arithmetic_v<U>>>
  vec(U s) {
    for (int i = 0; i < N; i++) e[i] = static_cast<T>(s);
  }
  vec(bfloat s)
    requires(is_same_v<T, bfloat>)
  {
    for (int i = 0; i < N; i++) e[i] = s;
  }
  template <class U>
  explicit vec(const vec<U, N>& o)
    requires(!is_same_v<U, T>)
  {
    for (int i = 0; i < N; i++) e[i] = static_cast<T>(o.e[i]);
  }
  template <class A, class B, class... Rest>
    requires(emu::width<A> + emu::width<B> + (emu::width<Rest> + ... + 0) == N)
  vec(const A& a, const B& b, const Rest&... rest) {
    int at = 0;
    put(at, a);
    put(at, b);
    (put(at, rest), ...);
  }

  T& operator[](size_t i) { return e[i]; }
  const T& operator[](size_t i) const { return e[i]; }

  template <int... I>
  emu::Swizzled<vec, T, I...> swizzle(emu::Swizzle<I...>) & { return {*this}; }
  template <int... I>
  vec<T, sizeof...(I)> swizzle(emu::Swizzle<I...>) const& { return {e[I]...}; }
  template <int... I>
  vec<T, sizeof...(I)> swizzle(emu::Swizzle<I...>) && { return {e[I]...}; }

#define EMU_OP(op)                                                          \
  friend vec operator op(const vec& a, const vec& b) {                      \
    vec r;                                                                  \
    for (int i = 0; i < N; i++) r.e[i] = static_cast<T>(a.e[i] op b.e[i]);  \
    return r;                                                               \
  }                                                                         \
  vec& operator op##=(const vec& b) { return *this = *this op b; }
  EMU_OP(+) EMU_OP(-) EMU_OP(*) EMU_OP(/) EMU_OP(%) EMU_OP(&) EMU_OP(|) EMU_OP(^) EMU_OP(<<) EMU_OP(>>)
#undef EMU_OP
#define EMU_OP(op)                                                          \
  friend vec<bool, N> operator op(const vec& a, const vec& b) {             \
    vec<bool, N> r;                                                         \
    for (int i = 0; i < N; i++) r.e[i] = a.e[i] op b.e[i];                  \
    return r;                                                               \
  }
  EMU_OP(==) EMU_OP(!=) EMU_OP(<) EMU_OP(<=) EMU_OP(>) EMU_OP(>=) EMU_OP(&&) EMU_OP(||)
#undef EMU_OP
#define EMU_OP(op)                                                          \
  friend vec operator op(const vec& a) {                                    \
    vec r;                                                                  \
    for (int i = 0; i < N; i++) r.e[i] = static_cast<T>(op a.e[i]);         \
    return r;                                                               \
  }
  EMU_OP(-) EMU_OP(+) EMU_OP(~)
#undef EMU_OP
  friend vec<bool, N> operator!(const vec& a) {
    vec<bool, N> r;
    for (int i = 0; i < N; i++) r.e[i] = !a.e[i];
    return r;
  }

 private:
  template <class A>
  void put(int& at, const A& a) {
    if constexpr (is_vec<A>)
      for (int i = 0; i < emu::width<A>; i++) e[at++] = static_cast<T>(a.e[i]);
    else
      e[at++] = static_cast<T>(a);
  }
};

// Three components without padding, aligned as one.
template <class T>
struct packed3 {
  T x, y, z;
  packed3() = default;
  packed3(T a, T b, T c) : x(a), y(b), z(c) {}
  packed3(const vec<T, 3>& v) : x(v.x), y(v.y), z(v.z) {}
  operator vec<T, 3>() const { return {x, y, z}; }
  T& operator[](size_t i) { return (&x)[i]; }
  const T& operator[](size_t i) const { return (&x)[i]; }
};
template <class T, int N>
struct packed {
  T e[N];
  packed() = default;
  packed(const vec<T, N>& v) { for (int i = 0; i < N; i++) e[i] = v.e[i]; }
  operator vec<T, N>() const {
    vec<T, N> v;
    for (int i = 0; i < N; i++) v.e[i] = e[i];
    return v;
  }
  T& operator[](size_t i) { return e[i]; }
  const T& operator[](size_t i) const { return e[i]; }
};

template <class T, size_t N>
struct array {
  T e[N];
  constexpr T& operator[](size_t i) { return e[i]; }
  constexpr const T& operator[](size_t i) const { return e[i]; }
  constexpr size_t size() const { return N; }
};

#define EMU_VECTORS(name, T)                                            \
  typedef vec<T, 2> name##2;                                            \
  typedef vec<T, 3> name##3;                                            \
  typedef vec<T, 4> name##4;                                            \
  typedef packed<T, 2> packed_##name##2;                                \
  typedef packed3<T> packed_##name##3;                                  \
  typedef packed<T, 4> packed_##name##4;
EMU_VECTORS(bool, bool)
EMU_VECTORS(char, int8_t)
EMU_VECTORS(uchar, uchar)
EMU_VECTORS(short, short)
EMU_VECTORS(ushort, ushort)
EMU_VECTORS(int, int)
EMU_VECTORS(uint, uint)
EMU_VECTORS(long, long)
EMU_VECTORS(ulong, ulong)
EMU_VECTORS(half, half)
EMU_VECTORS(bfloat, bfloat)
EMU_VECTORS(float, float)
#undef EMU_VECTORS

}  // namespace metal

template <class To, class From>
inline To as_type(const From& x) {
  static_assert(sizeof(To) == sizeof(From), "as_type between types of different sizes");
  To to;
  __builtin_memcpy(static_cast<void*>(&to), static_cast<const void*>(&x), sizeof to);
  return to;
}
namespace metal {
using ::as_type;
}
