// linear_packed for weights of 16 bits that are not packed: out[row] = weight @ x[row].
//
// x [rows, DIMS], weight [outs, DIMS] -> out [rows, outs]. A simdgroup makes the same 4 numbers of up to 4 rows of x.
constexpr uint rows_at_once = 4;
constexpr uint tokens_at_once = 4;

uint lane = thread_index_in_simdgroup;
uint first = (threadgroup_position_in_grid.z * 2 + simdgroup_index_in_threadgroup) * rows_at_once;
uint from = threadgroup_position_in_grid.x * tokens_at_once;
uint outs = weight_shape[0];
uint tokens = min(tokens_at_once, uint(x_shape[0]) - from);

uint at[tokens_at_once];
#pragma clang loop unroll(full)
for (uint n = 0; n < tokens_at_once; n++) {
  at[n] = (from + n) * DIMS;
}
float sums[tokens_at_once * rows_at_once];
qwen3_some_plain_tokens<T, DIMS, V, rows_at_once>(tokens, x, at, weight + ulong(first) * DIMS, lane, sums);
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
