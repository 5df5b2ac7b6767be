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

// A token's key begins at rows[word]; 32 bits number the words of a head's row.
struct Qwen3Token {
  const device uint* rows;
  uint word;
};

template <int SEGMENTS>
METAL_FUNC Qwen3Token qwen3_token(Qwen3Segments segments, uint position, uint words) {
  const device uint* rows = segments.rows[0];
  if (SEGMENTS > 1) {
    bool later = position >= segments.second;
    bool last = SEGMENTS > 2 && position >= segments.third;
    rows = last ? segments.rows[2] : later ? segments.rows[1] : rows;
    position -= last ? segments.third : later ? segments.second : 0;
  }
  return {rows, position * words};
}

// This lane's values of the key or value that begins at rows[word]: scale * code + bias, or (BITS 16) two of T a word.
template <typename T, int V, int BITS, int GROUP>
METAL_FUNC void qwen3_unpack(const device uint* rows, uint word, uint lane, thread float* values) {
  if (BITS == 16) {
#pragma clang loop unroll(full)
    for (int i = 0; i < V / 2; i++) {
      float2 pair = qwen3_pair<T>(rows[word + lane * (V / 2) + i]);
      values[2 * i] = pair.x;
      values[2 * i + 1] = pair.y;
    }
    return;
  }
  constexpr uint bytes = V * BITS / 8;
  uint codes;
  if (bytes == 4) {
    codes = rows[word + lane];
  } else if (bytes == 2) {
    codes = ((const device ushort*)rows)[2 * word + lane];
  } else {
    codes = ((const device uchar*)rows)[4 * word + lane];
  }
  float2 affine = qwen3_pair<T>(rows[word + V * BITS + lane * V / GROUP]);
#pragma clang loop unroll(full)
  for (int i = 0; i < V; i++) {
    values[i] = fma(affine.x, float((codes >> (BITS * i)) & ((1u << BITS) - 1)), affine.y);
  }
}

// Of two numbers of this lane, the first or the second one's sum with what the lane WIDTH away has of it.
template <uint WIDTH>
METAL_FUNC float qwen3_exchange(float first, float second, uint lane) {
  bool upper = lane & WIDTH;
  return (upper ? second : first) + simd_shuffle_xor(upper ? first : second, WIDTH);
}

template <uint WIDTH>
METAL_FUNC void qwen3_halve(thread float* values, uint lane) {
#pragma clang loop unroll(full)
  for (uint i = 0; i < WIDTH; i++) {
    values[i] = qwen3_exchange<WIDTH>(values[i], values[i + WIDTH], lane);
  }
}

// 16 sums over half a simdgroup at once, of which lanes l and l + 16 return that of values[l] over their half.
METAL_FUNC float qwen3_sums(thread float* values, uint lane) {
  qwen3_halve<8>(values, lane);
  qwen3_halve<4>(values, lane);
  qwen3_halve<2>(values, lane);
  qwen3_halve<1>(values, lane);
  return values[0];
}

// Lanes t * HEADS + h of either half hold a number of head h. The highest number of the lane's head, and the sum.
template <uint HEADS>
METAL_FUNC float qwen3_highest(float x, uint lane) {
  x = max(x, simd_shuffle_xor(x, 16));
  if (HEADS == 5) {
    uint head = lane % 16 % HEADS;
    return max(max(simd_shuffle(x, head), simd_shuffle(x, head + 5)), simd_shuffle(x, head + 10));
  }
#pragma clang loop unroll(full)
  for (uint apart = HEADS; apart < 16; apart *= 2) {
    x = max(x, simd_shuffle_xor(x, apart));
  }
  return x;
}

template <uint HEADS>
METAL_FUNC float qwen3_total(float x, uint lane) {
  x += simd_shuffle_xor(x, 16);
  if (HEADS == 5) {
    uint head = lane % 16 % HEADS;
    return simd_shuffle(x, head) + simd_shuffle(x, head + 5) + simd_shuffle(x, head + 10);
  }
#pragma clang loop unroll(full)
  for (uint apart = HEADS; apart < 16; apart *= 2) {
    x += simd_shuffle_xor(x, apart);
  }
  return x;
}
