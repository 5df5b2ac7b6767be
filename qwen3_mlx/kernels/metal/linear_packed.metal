// A linear layer on packed weights: out[row] = packed @ x[row], each row by the same sums whatever the others are.
//
// x [rows, DIMS], packed weight [outs, DIMS] -> out [rows, outs]. A simdgroup makes the same 4 numbers of up to 4 rows of
// x, for which a code is unpacked once. Threadgroups that read the same weights follow one another.
constexpr uint rows_at_once = 4;
constexpr uint tokens_at_once = 4;

uint lane = thread_index_in_simdgroup;
uint first = (threadgroup_position_in_grid.z * 2 + simdgroup_index_in_threadgroup) * rows_at_once;
uint from = threadgroup_position_in_grid.x * tokens_at_once;
uint outs = weight_shape[0];
uint tokens = min(tokens_at_once, uint(x_shape[0]) - from);

const device uchar* packed = (const device uchar*)weight + ulong(first) * (uint(DIMS) * BITS / 8);
ulong groups = ulong(first) * (uint(DIMS) / GROUP);
uint at[tokens_at_once];
#pragma clang loop unroll(full)
for (uint n = 0; n < tokens_at_once; n++) {
  at[n] = (from + n) * DIMS;
}
float sums[tokens_at_once * rows_at_once];
qwen3_some_tokens<T, DIMS, GROUP, BITS, V, rows_at_once, tokens_at_once>(
    tokens, x, at, packed, scales + groups, biases + groups, rows_at_once / 2, lane, sums);
#pragma clang loop unroll(full)
for (uint n = 0; n < tokens_at_once; n++) {
  if (n < tokens) {
#pragma clang loop unroll(full)
    for (uint r = 0; r < rows_at_once; r++) {
      float sum = simd_sum(sums[n * rows_at_once + r]);
      if (lane == r) {
        out[ulong(from + n) * outs + first + r] = T(sum);
      }
    }
  }
}
