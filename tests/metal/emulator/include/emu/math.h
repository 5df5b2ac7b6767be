// The arithmetic functions of metal_stdlib, with an optional error of a few units in the last place where Metal's
// fast versions have one.
#pragma once

#include "core.h"
#include "types.h"

#define INFINITY (__builtin_inff())
#define NAN (__builtin_nanf(""))
#define HUGE_VALF (__builtin_inff())
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define HALF_MAX (metal::numeric_limits<half>::max())
#define INT_MAX 2147483647
#define UINT_MAX 4294967295u
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.78539816339744830962f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_PI_F 0.63661977236758134308f
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.43429448190325182765f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f

namespace emu {

// The error depends on the function and its argument alone, so that order cannot change a result.
inline float jitter(float y, float x, uint32_t function) {
  if (__builtin_expect(emu_jitter_ulps == 0, 1)) return y;
  if (!(y - y == 0) || y == 0) return y;
  uint32_t h = __builtin_bit_cast(uint32_t, x) * 0x9e3779b1u ^ function * 0x85ebca6bu ^ emu_jitter_seed * 0xc2b2ae35u;
  h ^= h >> 15;
  h *= 0x2c1b3c6du;
  h ^= h >> 12;
  h *= 0x297a2d39u;
  h ^= h >> 15;
  int ulps = static_cast<int>(h % (2u * static_cast<uint32_t>(emu_jitter_ulps) + 1)) - emu_jitter_ulps;
  float moved = __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, y) + static_cast<uint32_t>(ulps));
  return moved - moved == 0 ? moved : y;
}

inline float sinpi(float x) { return __builtin_sinf(x * M_PI_F); }
inline float cospi(float x) { return __builtin_cosf(x * M_PI_F); }
inline float tanpi(float x) { return __builtin_tanf(x * M_PI_F); }
inline float exp10(float x) { return __builtin_powf(10.0f, x); }
inline float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }

}  // namespace emu

namespace metal {

#define EMU_FOR_VECTORS(name)                            \
  template <class T, int N>                              \
  inline vec<T, N> name(vec<T, N> x) {                   \
    for (int i = 0; i < N; i++) x.e[i] = name(x.e[i]);   \
    return x;                                            \
  }
#define EMU_UNARY(name, expression)                                               \
  inline float name(float x) { return expression; }                               \
  inline half name(half x) { return static_cast<half>(name(static_cast<float>(x))); } \
  inline bfloat name(bfloat x) { return bfloat(name(static_cast<float>(x))); }    \
  EMU_FOR_VECTORS(name)

#define EMU_INEXACT(X)                                                                                  \
  X(exp, __builtin_expf) X(exp2, __builtin_exp2f) X(exp10, emu::exp10) X(log, __builtin_logf)           \
  X(log2, __builtin_log2f) X(log10, __builtin_log10f) X(sin, __builtin_sinf) X(cos, __builtin_cosf)     \
  X(tan, __builtin_tanf) X(asin, __builtin_asinf) X(acos, __builtin_acosf) X(atan, __builtin_atanf)     \
  X(sinh, __builtin_sinhf) X(cosh, __builtin_coshf) X(tanh, __builtin_tanhf) X(asinh, __builtin_asinhf) \
  X(acosh, __builtin_acoshf) X(atanh, __builtin_atanhf) X(sqrt, __builtin_sqrtf) X(rsqrt, emu::rsqrt)   \
  X(sinpi, emu::sinpi) X(cospi, emu::cospi) X(tanpi, emu::tanpi)

namespace precise {
#define X(name, function) EMU_UNARY(name, function(x))
EMU_INEXACT(X)
#undef X
}  // namespace precise
namespace fast {
#define X(name, function) EMU_UNARY(name, emu::jitter(function(x), x, __COUNTER__))
EMU_INEXACT(X)
#undef X
}  // namespace fast
#define X(name, function) using fast::name;
EMU_INEXACT(X)
#undef X

EMU_UNARY(floor, __builtin_floorf(x))
EMU_UNARY(ceil, __builtin_ceilf(x))
EMU_UNARY(trunc, __builtin_truncf(x))
EMU_UNARY(round, __builtin_roundf(x))
EMU_UNARY(rint, __builtin_rintf(x))
EMU_UNARY(fabs, __builtin_fabsf(x))
EMU_UNARY(fract, x - __builtin_floorf(x))
EMU_UNARY(saturate, x != x ? 0.0f : x < 0.0f ? 0.0f : x > 1.0f ? 1.0f : x)
EMU_UNARY(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? x : 0.0f)

inline float abs(float x) { return __builtin_fabsf(x); }
inline half abs(half x) { return static_cast<half>(__builtin_fabsf(static_cast<float>(x))); }
inline bfloat abs(bfloat x) { return bfloat::from_bits(x.bits & 0x7fff); }
template <class I, class = enable_if_t<is_integral_v<I>>>
inline I abs(I x) {
  return x < 0 ? static_cast<I>(-x) : x;
}
EMU_FOR_VECTORS(abs)

#define EMU_TEST(name, expression)                                                  \
  inline bool name(float x) { return expression; }                                  \
  inline bool name(half x) { return name(static_cast<float>(x)); }                  \
  inline bool name(bfloat x) { return name(static_cast<float>(x)); }                \
  template <class T, int N>                                                         \
  inline vec<bool, N> name(const vec<T, N>& x) {                                    \
    vec<bool, N> r;                                                                 \
    for (int i = 0; i < N; i++) r.e[i] = name(x.e[i]);                              \
    return r;                                                                       \
  }
EMU_TEST(isnan, __builtin_isnan(x))
EMU_TEST(isinf, __builtin_isinf(x))
EMU_TEST(isfinite, __builtin_isfinite(x))
EMU_TEST(isnormal, __builtin_isnormal(x))
EMU_TEST(signbit, __builtin_signbit(x) != 0)

#define EMU_BINARY(name, expression)                                                                          \
  inline float name(float x, float y) { return expression; }                                                  \
  inline half name(half x, half y) { return static_cast<half>(name(static_cast<float>(x), static_cast<float>(y))); } \
  inline bfloat name(bfloat x, bfloat y) { return bfloat(name(static_cast<float>(x), static_cast<float>(y))); } \
  template <class T, int N>                                                                                   \
  inline vec<T, N> name(vec<T, N> x, const vec<T, N>& y) {                                                    \
    for (int i = 0; i < N; i++) x.e[i] = name(x.e[i], y.e[i]);                                                \
    return x;                                                                                                 \
  }
EMU_BINARY(fmin, __builtin_fminf(x, y))
EMU_BINARY(fmax, __builtin_fmaxf(x, y))
EMU_BINARY(fmod, __builtin_fmodf(x, y))
EMU_BINARY(fdim, __builtin_fdimf(x, y))
EMU_BINARY(copysign, __builtin_copysignf(x, y))
EMU_BINARY(nextafter, __builtin_nextafterf(x, y))
EMU_BINARY(step, y < x ? 0.0f : 1.0f)

#define EMU_INEXACT2(X) X(pow, __builtin_powf(x, y)) X(powr, __builtin_powf(x, y)) X(atan2, __builtin_atan2f(x, y)) X(divide, x / y)
namespace precise {
EMU_INEXACT2(EMU_BINARY)
}
namespace fast {
#define X(name, expression) EMU_BINARY(name, emu::jitter(expression, x + y, __COUNTER__))
EMU_INEXACT2(X)
#undef X
using metal::fmax;
using metal::fmin;
}  // namespace fast
#define X(name, expression) using fast::name;
EMU_INEXACT2(X)
#undef X
namespace precise {
using metal::fmax;
using metal::fmin;
}

#define EMU_MIN_MAX(T)                                        \
  inline constexpr T min(T x, T y) { return y < x ? y : x; }  \
  inline constexpr T max(T x, T y) { return x < y ? y : x; }  \
  inline constexpr T clamp(T x, T low, T high) { return min(max(x, low), high); }
EMU_MIN_MAX(float)
EMU_MIN_MAX(half)
EMU_MIN_MAX(bfloat)
EMU_MIN_MAX(int8_t)
EMU_MIN_MAX(uchar)
EMU_MIN_MAX(short)
EMU_MIN_MAX(ushort)
EMU_MIN_MAX(int)
EMU_MIN_MAX(uint)
EMU_MIN_MAX(long)
EMU_MIN_MAX(ulong)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#define EMU_MIN_MAX_VECTOR(name)                                          \
  template <class T, int N>                                               \
  inline vec<T, N> name(vec<T, N> x, const vec<T, N>& y) {                \
    for (int i = 0; i < N; i++) x.e[i] = name(x.e[i], y.e[i]);            \
    return x;                                                             \
  }                                                                       \
  template <class T, int N>                                               \
  inline vec<T, N> name(const vec<T, N>& x, T y) {                        \
    return name(x, vec<T, N>(y));                                         \
  }
EMU_MIN_MAX_VECTOR(min)
EMU_MIN_MAX_VECTOR(max)
template <class T>
inline T min3(T x, T y, T z) { return min(x, min(y, z)); }
template <class T>
inline T max3(T x, T y, T z) { return max(x, max(y, z)); }
template <class T, int N>
inline vec<T, N> clamp(const vec<T, N>& x, const vec<T, N>& low, const vec<T, N>& high) {
  return min(max(x, low), high);
}
template <class T, int N>
inline vec<T, N> clamp(const vec<T, N>& x, T low, T high) {
  return min(max(x, low), high);
}

inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline half fma(half a, half b, half c) {
  return static_cast<half>(__builtin_fmaf(static_cast<float>(a), static_cast<float>(b), static_cast<float>(c)));
}
inline bfloat fma(bfloat a, bfloat b, bfloat c) {
  return bfloat(__builtin_fmaf(static_cast<float>(a), static_cast<float>(b), static_cast<float>(c)));
}
template <class T, int N>
inline vec<T, N> fma(vec<T, N> a, const vec<T, N>& b, const vec<T, N>& c) {
  for (int i = 0; i < N; i++) a.e[i] = fma(a.e[i], b.e[i], c.e[i]);
  return a;
}
template <class T>
inline T mix(T x, T y, T a) { return x + (y - x) * a; }
template <class T>
inline T smoothstep(T low, T high, T x) {
  T t = clamp((x - low) / (high - low), T(0), T(1));
  return t * t * (T(3) - T(2) * t);
}
inline float ldexp(float x, int n) { return __builtin_ldexpf(x, n); }
inline float frexp(float x, int& n) { return __builtin_frexpf(x, &n); }
inline float modf(float x, float& whole) { return __builtin_modff(x, &whole); }
inline float sincos(float x, float& c) {
  c = cos(x);
  return sin(x);
}

template <class T>
  requires(!is_vec<T>)
inline T select(T a, T b, bool c) {
  return c ? b : a;
}
template <class T, int N>
inline vec<T, N> select(vec<T, N> a, const vec<T, N>& b, const vec<bool, N>& c) {
  for (int i = 0; i < N; i++) a.e[i] = c.e[i] ? b.e[i] : a.e[i];
  return a;
}
template <int N>
inline bool all(const vec<bool, N>& x) {
  for (int i = 0; i < N; i++)
    if (!x.e[i]) return false;
  return true;
}
template <int N>
inline bool any(const vec<bool, N>& x) {
  for (int i = 0; i < N; i++)
    if (x.e[i]) return true;
  return false;
}
inline bool all(bool x) { return x; }
inline bool any(bool x) { return x; }
template <class T, int N>
inline T dot(const vec<T, N>& a, const vec<T, N>& b) {
  T sum = a.e[0] * b.e[0];
  for (int i = 1; i < N; i++) sum = sum + a.e[i] * b.e[i];
  return sum;
}
template <class T, int N>
inline T length_squared(const vec<T, N>& a) { return dot(a, a); }
template <class T, int N>
inline T length(const vec<T, N>& a) { return sqrt(dot(a, a)); }
template <class T, int N>
inline T distance(const vec<T, N>& a, const vec<T, N>& b) { return length(a - b); }
template <class T, int N>
inline vec<T, N> normalize(const vec<T, N>& a) { return a * vec<T, N>(rsqrt(dot(a, a))); }
template <class T>
inline vec<T, 3> cross(const vec<T, 3>& a, const vec<T, 3>& b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

template <class I>
  requires is_integral_v<I>
inline I popcount(I x) {
  return static_cast<I>(__builtin_popcountll(static_cast<std::make_unsigned_t<I>>(x)));
}
template <class I>
  requires is_integral_v<I>
inline I clz(I x) {
  using U = std::make_unsigned_t<I>;
  return static_cast<I>(x ? __builtin_clzll(static_cast<U>(x)) - (64 - 8 * int(sizeof(I))) : 8 * int(sizeof(I)));
}
template <class I>
  requires is_integral_v<I>
inline I ctz(I x) {
  return static_cast<I>(x ? __builtin_ctzll(static_cast<std::make_unsigned_t<I>>(x)) : 8 * int(sizeof(I)));
}
template <class I>
  requires is_integral_v<I>
inline I reverse_bits(I x) {
  using U = std::make_unsigned_t<I>;
  U r = 0;
  for (unsigned i = 0; i < 8 * sizeof(I); i++) r |= (static_cast<U>(x) >> i & 1) << (8 * sizeof(I) - 1 - i);
  return static_cast<I>(r);
}
template <class I>
  requires is_integral_v<I>
inline I rotate(I x, I n) {
  using U = std::make_unsigned_t<I>;
  unsigned bits = 8 * sizeof(I), k = static_cast<U>(n) % bits;
  return static_cast<I>(k ? U(U(x) << k) | U(U(x) >> (bits - k)) : U(x));
}
template <class I>
  requires is_integral_v<I>
inline I extract_bits(I x, uint offset, uint bits) {
  if (!bits) return 0;
  uint size = 8 * sizeof(I);
  I up = static_cast<I>(static_cast<std::make_unsigned_t<I>>(x) << (size - bits - offset));
  return static_cast<I>(up >> (size - bits));
}
template <class I>
  requires is_integral_v<I>
inline I insert_bits(I base, I insert, uint offset, uint bits) {
  using U = std::make_unsigned_t<I>;
  U mask = (bits >= 8 * sizeof(I) ? ~U(0) : (U(1) << bits) - 1) << offset;
  return static_cast<I>((U(base) & ~mask) | ((U(insert) << offset) & mask));
}
inline int mulhi(int a, int b) { return static_cast<int>(static_cast<long>(a) * b >> 32); }
inline uint mulhi(uint a, uint b) { return static_cast<uint>(static_cast<ulong>(a) * b >> 32); }
inline ulong mulhi(ulong a, ulong b) { return static_cast<ulong>(static_cast<unsigned __int128>(a) * b >> 64); }
template <class I>
inline I mul24(I a, I b) { return a * b; }
template <class I>
inline I mad24(I a, I b, I c) { return a * b + c; }
template <class I>
inline auto absdiff(I a, I b) { return static_cast<std::make_unsigned_t<I>>(a < b ? b - a : a - b); }

}  // namespace metal
