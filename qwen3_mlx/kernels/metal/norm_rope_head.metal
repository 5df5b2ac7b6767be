// A head in the registers of a simdgroup: lane l holds its D coordinates from l * D on, in float32 (D = 2 or 4).

template <typename T, int D>
METAL_FUNC void qwen3_head_load(const device T* from, thread float* v) {
  uint words[D / 2];
  if (D == 4) {
    uint2 both = *(const device uint2*)from;
    words[0] = both.x;
    words[D / 2 - 1] = both.y;
  } else {
    words[0] = *(const device uint*)from;
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < D / 2; i++) {
    float2 pair = qwen3_pair<T>(words[i]);
    v[2 * i] = pair.x;
    v[2 * i + 1] = pair.y;
  }
}

template <typename T, int D>
METAL_FUNC void qwen3_head_store(const thread float* v, device T* to) {
  uint words[D / 2];
#pragma clang loop unroll(full)
  for (int i = 0; i < D / 2; i++) {
    words[i] = uint(as_type<ushort>(T(v[2 * i]))) | uint(as_type<ushort>(T(v[2 * i + 1]))) << 16;
  }
  if (D == 4) {
    *(device uint2*)to = uint2(words[0], words[D / 2 - 1]);
  } else {
    *(device uint*)to = words[0];
  }
}

// RMSNorm over the head, then coordinate i is rotated with i + 16 * D, which is the lane ^ 16's. table: the cosines of
// the first 16 * D coordinates, then the sines.
template <typename T, int D>
METAL_FUNC void qwen3_norm_rope(
    thread float* v, const device T* weight, const device float* table, float eps, uint lane) {
  float squares = 0.0f;
#pragma clang loop unroll(full)
  for (int i = 0; i < D; i++) {
    squares = fma(v[i], v[i], squares);
  }
  float inverse = precise::rsqrt(simd_sum(squares) * (1.0f / (32 * D)) + eps);

  float w[D];
  qwen3_head_load<T, D>(weight + lane * D, w);
  const device float* angles = table + (lane & 15) * D;
  vec<float, D> cosines = *(const device vec<float, D>*)angles;
  vec<float, D> sines = *(const device vec<float, D>*)(angles + 16 * D);
  float side = lane < 16 ? -1.0f : 1.0f;
#pragma clang loop unroll(full)
  for (int i = 0; i < D; i++) {
    float normed = v[i] * inverse * w[i];
    float partner = simd_shuffle_xor(normed, 16);
    v[i] = fma(normed, cosines[i], side * partner * sines[i]);
  }
}

// The bits of the nearest T that is not smaller in magnitude.
template <typename T>
METAL_FUNC ushort qwen3_away_from_zero(float x) {
  ushort bits = as_type<ushort>(T(x));
  bool shrunk = abs(float(as_type<T>(bits))) < abs(x);
  return shrunk ? bits + 1 : bits;
}

// Half of a packed row (packed_rows.py has the layout and the rule): the head's codes, then its scales and biases.
template <typename T, int D, int BITS, int GROUP>
METAL_FUNC void qwen3_head_pack(const thread float* v, device uint* row, uint lane) {
  constexpr uint lanes = GROUP / D;
  constexpr float most = (1 << BITS) - 1;
  float high = -INFINITY;
  float low = INFINITY;
#pragma clang loop unroll(full)
  for (int i = 0; i < D; i++) {
    bool finite = (as_type<uint>(v[i]) & 0x7fffffffu) < 0x7f800000u;
    high = max(high, finite ? v[i] : INFINITY);
    low = min(low, finite ? v[i] : -INFINITY);
  }
#pragma clang loop unroll(full)
  for (uint other = 1; other < lanes; other *= 2) {
    high = max(high, simd_shuffle_xor(high, other));
    low = min(low, simd_shuffle_xor(low, other));
  }
  bool whole = high < INFINITY;
  bool below = -low > high;
  ushort bias_bits = qwen3_away_from_zero<T>(whole ? (below ? low : high) : NAN);
  float bias = float(as_type<T>(bias_bits));
  float step = max(abs((below ? high : low) - bias) / most, 1e-7f);
  ushort scale_bits = qwen3_away_from_zero<T>(below ? step : -step);
  float scale = float(as_type<T>(scale_bits));

  uint codes = 0;
  if (whole) {
#pragma clang loop unroll(full)
    for (int i = 0; i < D; i++) {
      codes |= uint(clamp(rint((v[i] - bias) / scale), 0.0f, most)) << (BITS * i);
    }
  }
  if (D * BITS == 32) {
    row[lane] = codes;
  } else if (D * BITS == 16) {
    ((device ushort*)row)[lane] = ushort(codes);
  } else {
    ((device uchar*)row)[lane] = uchar(codes);
  }
  if (lane % lanes == 0) {
    row[D * BITS + lane / lanes] = uint(scale_bits) | uint(bias_bits) << 16;
  }
}
