// Affine-packed weights times 16-bit activations, V values a lane at a time (V = 4, 8 or 16; a group holds whole lanes).
//
// A row's value k is scale * q_k + bias with an unsigned q_k of 4 or 8 bits, low bits first, so a lane's part of a dot
// product is scale * sum(q_k x_k) + bias * sum(x_k). All arithmetic is float32.

template <typename T>
METAL_FUNC float2 qwen3_pair(uint word);
template <>
METAL_FUNC float2 qwen3_pair<bfloat16_t>(uint word) {
  return float2(as_type<float>(word << 16), as_type<float>(word & 0xffff0000u));
}
template <>
METAL_FUNC float2 qwen3_pair<half>(uint word) {
  return float2(as_type<half2>(word));
}

// Loads V activations into x, ready for qwen3_dot, and returns their sum. 4-bit values are not shifted down before
// they are multiplied: the activations are scaled down instead, by powers of two, once for all rows.
template <typename T, int V, int BITS>
METAL_FUNC float qwen3_load(const device T* from, thread float* x) {
  uint words[V / 2];
  if (V == 4) {
    uint2 all = *(const device uint2*)from;
    words[0] = all.x;
    words[1] = all.y;
  } else {
#pragma clang loop unroll(full)
    for (int i = 0; i < V / 8; i++) {
      uint4 all = ((const device uint4*)from)[i];
      words[4 * i] = all.x;
      words[4 * i + 1] = all.y;
      words[4 * i + 2] = all.z;
      words[4 * i + 3] = all.w;
    }
  }
  float sum = 0.0f;
#pragma clang loop unroll(full)
  for (int i = 0; i < V / 2; i++) {
    float2 both = qwen3_pair<T>(words[i]);
    sum += both.x;
    sum += both.y;
    if (BITS == 4) {
      both *= (i & 1) ? float2(1.0f / 256.0f, 1.0f / 4096.0f) : float2(1.0f, 1.0f / 16.0f);
    }
    x[2 * i] = both.x;
    x[2 * i + 1] = both.y;
  }
  return sum;
}

// The i-th four codes of a lane's packed words, into q; those of 4 bits stay where they are, see qwen3_load.
template <int BITS>
METAL_FUNC void qwen3_codes(const thread uint* words, int i, thread float* q) {
  if (BITS == 8) {
    uchar4 bytes = as_type<uchar4>(words[i]);
    q[0] = float(bytes.x);
    q[1] = float(bytes.y);
    q[2] = float(bytes.z);
    q[3] = float(bytes.w);
  } else {
    uint low16 = words[i / 2] >> (16 * (i & 1));
    q[0] = float(low16 & 0x000fu);
    q[1] = float(low16 & 0x00f0u);
    q[2] = float(low16 & 0x0f00u);
    q[3] = float(low16 & 0xf000u);
  }
}

// sums[n] = sum(q_k x[n][k]) over the V values packed at row, for N times V activations; one load.
template <int V, int BITS, int N>
METAL_FUNC void qwen3_dots(const device uchar* row, const thread float* x, thread float* sums) {
  constexpr int bytes = V * BITS / 8;
  uint words[bytes < 4 ? 1 : bytes / 4];
  if (bytes == 2) {
    words[0] = *(const device ushort*)row;
  } else if (bytes == 4) {
    words[0] = *(const device uint*)row;
  } else if (bytes == 8) {
    uint2 all = *(const device uint2*)row;
    words[0] = all.x;
    words[bytes < 8 ? 0 : 1] = all.y;
  } else {
    uint4 all = *(const device uint4*)row;
    words[0] = all.x;
    words[bytes < 16 ? 0 : 1] = all.y;
    words[bytes < 16 ? 0 : 2] = all.z;
    words[bytes < 16 ? 0 : 3] = all.w;
  }
#pragma clang loop unroll(full)
  for (int n = 0; n < N; n++) {
    sums[n] = 0.0f;
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < V / 4; i++) {
    float q[4];
    qwen3_codes<BITS>(words, i, q);
#pragma clang loop unroll(full)
    for (int n = 0; n < N; n++) {
      const thread float* at = x + n * V + 4 * i;
      float sum = q[0] * at[0];
      sum = fma(q[1], at[1], sum);
      sum = fma(q[2], at[2], sum);
      sums[n] += fma(q[3], at[3], sum);
    }
  }
}

template <int V, int BITS>
METAL_FUNC float qwen3_dot(const device uchar* row, const thread float* x) {
  float sum;
  qwen3_dots<V, BITS, 1>(row, x, &sum);
  return sum;
}
