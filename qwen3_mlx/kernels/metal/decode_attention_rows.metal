// What decode attention does with packed tokens and with a simdgroup, after affine.metal.
//
// A head's vector is HEAD_DIM codes and then one word for each group of them: scale low, bias high, both of type T.
// Lane l of a simdgroup holds values l * V ... l * V + V - 1 of it.

// The rows of one head in up to three buffers that follow one another: positions from `second` on are in rows[1], from
// `third` on in rows[2].
struct Qwen3Segments {
  const device uint* rows[3];
  uint second;
  uint third;
};

// Where the key of the token at a position begins; a token takes `words` words.
template <int SEGMENTS>
METAL_FUNC const device uint* qwen3_token(Qwen3Segments segments, uint position, uint words) {
  const device uint* rows = segments.rows[0];
  if (SEGMENTS > 1) {
    bool later = position >= segments.second;
    bool last = SEGMENTS > 2 && position >= segments.third;
    rows = last ? segments.rows[2] : later ? segments.rows[1] : rows;
    position -= last ? segments.third : later ? segments.second : 0;
  }
  return rows + ulong(position) * words;
}

// This lane's values of a key or a value: scale * code + bias.
template <typename T, int V, int BITS, int GROUP>
METAL_FUNC void qwen3_unpack(const device uint* packed, uint lane, thread float* values) {
  constexpr uint bytes = V * BITS / 8;
  const device uchar* codes = (const device uchar*)packed + lane * bytes;
  uint word;
  if (bytes == 4) {
    word = *(const device uint*)codes;
  } else if (bytes == 2) {
    word = *(const device ushort*)codes;
  } else {
    word = *codes;
  }
  float2 affine = qwen3_pair<T>(packed[V * BITS + lane * V / GROUP]);
#pragma clang loop unroll(full)
  for (int i = 0; i < V; i++) {
    values[i] = fma(affine.x, float((word >> (BITS * i)) & ((1u << BITS) - 1)), affine.y);
  }
}

template <uint WIDTH>
METAL_FUNC void qwen3_halve(thread float* values, uint lane) {
  bool upper = lane & WIDTH;
#pragma clang loop unroll(full)
  for (uint i = 0; i < WIDTH; i++) {
    float kept = upper ? values[i + WIDTH] : values[i];
    float sent = upper ? values[i] : values[i + WIDTH];
    values[i] = kept + simd_shuffle_xor(sent, WIDTH);
  }
}

// 32 sums over the simdgroup at once, of which lane l returns that of values[l]: 31 shuffles, where simd_sum of each
// would take five times as many.
METAL_FUNC float qwen3_sums(thread float* values, uint lane) {
  qwen3_halve<16>(values, lane);
  qwen3_halve<8>(values, lane);
  qwen3_halve<4>(values, lane);
  qwen3_halve<2>(values, lane);
  qwen3_halve<1>(values, lane);
  return values[0];
}

// Lane t * HEADS + h holds a number of token t and head h. The highest number of the lane's head, and the sum.
template <uint HEADS>
METAL_FUNC float qwen3_highest(float x, uint lane) {
  if ((HEADS & (HEADS - 1)) == 0) {
#pragma clang loop unroll(full)
    for (uint apart = HEADS; apart < 32; apart *= 2) {
      x = max(x, simd_shuffle_xor(x, apart));
    }
    return x;
  }
  float highest = simd_shuffle(x, lane % HEADS);
#pragma clang loop unroll(full)
  for (uint t = 1; t < 32 / HEADS; t++) {
    highest = max(highest, simd_shuffle(x, t * HEADS + lane % HEADS));
  }
  return highest;
}

template <uint HEADS>
METAL_FUNC float qwen3_total(float x, uint lane) {
  float sum = simd_shuffle(x, lane % HEADS);
#pragma clang loop unroll(full)
  for (uint t = 1; t < 32 / HEADS; t++) {
    sum += simd_shuffle(x, t * HEADS + lane % HEADS);
  }
  return sum;
}
