// What the kernels need of metal_stdlib, as CUDA: enough to compile them and count their registers, not to run them.
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;

#define METAL_FUNC __device__ __forceinline__
#define NAN __int_as_float(0x7fc00000)
#define INFINITY __int_as_float(0x7f800000)

struct half {
  ushort bits;
  half() = default;
  METAL_FUNC explicit half(float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
  METAL_FUNC operator float() const {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
  }
};

struct bfloat16_t {
  ushort bits;
  bfloat16_t() = default;
  METAL_FUNC explicit bfloat16_t(float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
  METAL_FUNC operator float() const { return __uint_as_float(uint(bits) << 16); }
};

typedef half float16_t;

namespace metal {
template <typename T, int N>
struct vec;
template <typename T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  T x, y;
  vec() = default;
  METAL_FUNC vec(T a, T b) : x(a), y(b) {}
  template <typename U>
  METAL_FUNC explicit vec(vec<U, 2> v) : x(v.x), y(v.y) {}
  METAL_FUNC vec& operator*=(vec v) {
    x *= v.x;
    y *= v.y;
    return *this;
  }
  METAL_FUNC T operator[](int i) const { return i ? y : x; }
};
template <typename T>
struct vec<T, 3> {
  T x, y, z;
  METAL_FUNC vec(T a, T b, T c) : x(a), y(b), z(c) {}
};
template <typename T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  T x, y, z, w;
  vec() = default;
  METAL_FUNC vec(T a) : x(a), y(a), z(a), w(a) {}
  METAL_FUNC vec(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
  METAL_FUNC vec(vec<T, 2> a, vec<T, 2> b) : x(a.x), y(a.y), z(b.x), w(b.y) {}
  METAL_FUNC T operator[](int i) const { return i < 2 ? (i ? y : x) : (i == 2 ? z : w); }
};
typedef vec<float, 2> float2;
typedef vec<float, 4> float4;
typedef vec<half, 2> half2;
typedef vec<uint, 2> uint2;
typedef vec<uint, 3> uint3;
typedef vec<uint, 4> uint4;
typedef vec<uchar, 4> uchar4;

template <typename T, typename U>
METAL_FUNC T as_type(U x) {
  static_assert(sizeof(T) == sizeof(U), "sizes differ");
  T y;
  memcpy(&y, &x, sizeof(T));
  return y;
}

METAL_FUNC float abs(float x) { return fabsf(x); }
METAL_FUNC float min(float x, float y) { return fminf(x, y); }
METAL_FUNC float max(float x, float y) { return fmaxf(x, y); }
METAL_FUNC uint min(uint x, uint y) { return x < y ? x : y; }
METAL_FUNC uint max(uint x, uint y) { return x > y ? x : y; }
METAL_FUNC float fma(float x, float y, float z) { return fmaf(x, y, z); }
METAL_FUNC float4 fma(float4 x, float4 y, float4 z) {
  return float4(fmaf(x.x, y.x, z.x), fmaf(x.y, y.y, z.y), fmaf(x.z, y.z, z.z), fmaf(x.w, y.w, z.w));
}
METAL_FUNC float rint(float x) { return rintf(x); }
METAL_FUNC float clamp(float x, float low, float high) { return fminf(fmaxf(x, low), high); }

namespace fast {
METAL_FUNC float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
}  // namespace fast

// cosf and sinf keep an array of 28 bytes for arguments far larger than the kernels' own.
namespace precise {
METAL_FUNC float exp(float x) { return expf(x); }
METAL_FUNC float cos(float x) { return cosf(x); }
METAL_FUNC float sin(float x) { return sinf(x); }
METAL_FUNC float rsqrt(float x) { return rsqrtf(x); }
}  // namespace precise

enum class mem_flags { mem_none, mem_device, mem_threadgroup };
METAL_FUNC void threadgroup_barrier(mem_flags) { __syncthreads(); }
METAL_FUNC void simdgroup_barrier(mem_flags) { __syncwarp(); }

template <typename T>
METAL_FUNC T simd_shuffle(T x, uint lane) {
  return __shfl_sync(0xffffffffu, x, lane);
}
template <typename T>
METAL_FUNC T simd_broadcast(T x, uint lane) {
  return __shfl_sync(0xffffffffu, x, lane);
}
template <typename T>
METAL_FUNC T simd_shuffle_xor(T x, uint mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}
METAL_FUNC bool simd_any(bool x) { return __any_sync(0xffffffffu, x); }

#define QWEN3_REDUCTION(name, combined)            \
  template <typename T>                            \
  METAL_FUNC T name(T x) {                         \
    for (int apart = 16; apart > 0; apart /= 2) {  \
      T y = simd_shuffle_xor(x, apart);            \
      x = combined;                                \
    }                                              \
    return x;                                      \
  }
QWEN3_REDUCTION(simd_sum, x + y)
QWEN3_REDUCTION(simd_max, max(x, y))
QWEN3_REDUCTION(simd_min, min(x, y))
