// products[row, slot] = weights[row, slot] * (down[experts[row, slot]] @ inner[row, slot]), in float32: moe_down for more
// tokens, but for its sum. One expert at a time, whose weights are unpacked once for 4 of its tokens.
//
// inner [rows, TOP_K, DIMS], order and starts as of moe_groups, weights [rows, TOP_K], packed down [stack, HIDDEN, DIMS]
// -> products [rows, TOP_K, HIDDEN]. A simdgroup makes the same 8 numbers of all tokens of an expert.
constexpr uint rows_at_once = 8;
constexpr uint tokens_at_once = 4;

uint lane = thread_index_in_simdgroup;
uint first = (threadgroup_position_in_grid.x * 2 + simdgroup_index_in_threadgroup) * rows_at_once;
uint expert = threadgroup_position_in_grid.z;

ulong start = ulong(expert) * HIDDEN + first;
const device uchar* packed = (const device uchar*)weight + start * (uint(DIMS) * BITS / 8);
ulong groups = start * (uint(DIMS) / GROUP);

uint end = starts[expert + 1];
for (uint i = starts[expert]; i < end; i += tokens_at_once) {
  uint tokens = min(tokens_at_once, end - i);
  uint pairs[tokens_at_once];
  uint at[tokens_at_once];
#pragma clang loop unroll(full)
  for (uint n = 0; n < tokens_at_once; n++) {
    pairs[n] = order[min(i + n, end - 1)];
    at[n] = pairs[n] * DIMS;
  }
  float sums[tokens_at_once * rows_at_once];
  qwen3_some_tokens<T, DIMS, GROUP, BITS, V, rows_at_once, tokens_at_once>(
      tokens, inner, at, packed, scales + groups, biases + groups, rows_at_once / 2, lane, sums);
#pragma clang loop unroll(full)
  for (uint n = 0; n < tokens_at_once; n++) {
    if (n < tokens) {
      float share = weights[pairs[n]];
#pragma clang loop unroll(full)
      for (uint r = 0; r < rows_at_once; r++) {
        float sum = simd_sum(sums[n * rows_at_once + r]);
        if (lane == r) {
          products[ulong(pairs[n]) * HIDDEN + first + r] = share * sum;
        }
      }
    }
  }
}
