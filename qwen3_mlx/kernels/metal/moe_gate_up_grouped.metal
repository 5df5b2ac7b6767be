// moe_gate_up for more tokens: one expert at a time, whose weights are unpacked once for 3 of its tokens.
//
// x [rows, DIMS], order and starts as of moe_groups, packed [stack, 2 * INNER, DIMS], the INNER rows of gate before those
// of up -> out [rows, TOP_K, INNER]. A simdgroup makes the same 4 numbers of all tokens of an expert.
constexpr uint rows_at_once = 4;
constexpr uint tokens_at_once = 3;

uint lane = thread_index_in_simdgroup;
uint first = (threadgroup_position_in_grid.x * 2 + simdgroup_index_in_threadgroup) * rows_at_once;
uint expert = threadgroup_position_in_grid.z;

ulong start = ulong(expert) * (2 * INNER) + first;
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
    at[n] = pairs[n] / TOP_K * DIMS;
  }
  float sums[tokens_at_once * 2 * rows_at_once];
  qwen3_some_tokens<T, DIMS, GROUP, BITS, V, 2 * rows_at_once, tokens_at_once>(
      tokens, x, at, packed, scales + groups, biases + groups, INNER, lane, sums);
#pragma clang loop unroll(full)
  for (uint n = 0; n < tokens_at_once; n++) {
    if (n < tokens) {
#pragma clang loop unroll(full)
      for (uint r = 0; r < rows_at_once; r++) {
        float gate = simd_sum(sums[n * 2 * rows_at_once + r]);
        float up = simd_sum(sums[(n * 2 + 1) * rows_at_once + r]);
        if (lane == r) {
          out[ulong(pairs[n]) * INNER + first + r] = T(gate / (1.0f + precise::exp(-gate)) * up);
        }
      }
    }
  }
}
