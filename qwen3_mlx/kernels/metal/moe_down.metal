// out[row] = sum over slots of weights[row, slot] * (down[experts[row, slot]] @ inner[row, slot]).
//
// inner [rows, TOP_K, DIMS], experts and weights [rows, TOP_K], packed down [stack, HIDDEN, DIMS] -> out [rows, HIDDEN].
// A threadgroup makes 8 numbers of one row. Each of its SLOTS simdgroups takes one chosen expert (or every SLOTS-th of
// them), each lane V values of the 8 rows' columns at a time; the slots are added in order.
constexpr uint rows_at_once = 8;
constexpr uint row_bytes = uint(DIMS) * BITS / 8;
constexpr uint row_groups = uint(DIMS) / GROUP;

uint lane = thread_index_in_simdgroup;
uint simdgroup = simdgroup_index_in_threadgroup;
uint first = threadgroup_position_in_grid.x * rows_at_once;
uint token = threadgroup_position_in_grid.z;

threadgroup float partial[TOP_K * rows_at_once];

for (uint slot = simdgroup; slot < uint(TOP_K); slot += SLOTS) {
  uint pair = token * TOP_K + slot;
  ulong start = ulong(experts[pair]) * HIDDEN + first;
  const device uchar* packed = (const device uchar*)weight + start * row_bytes;
  ulong groups = start * row_groups;

  float sums[rows_at_once];
#pragma clang loop unroll(full)
  for (uint r = 0; r < rows_at_once; r++) {
    sums[r] = 0.0f;
  }
  for (uint k = lane * V; k < uint(DIMS); k += 32 * V) {
    float x[V];
    float sum_x = qwen3_load<T, V, BITS>(inner + ulong(pair) * DIMS + k, x);
    uint group = k / GROUP;
#pragma clang loop unroll(full)
    for (uint r = 0; r < rows_at_once; r++) {
      float dot = qwen3_dot<V, BITS>(packed + r * row_bytes + k * BITS / 8, x);
      float scale = float(scales[groups + r * row_groups + group]);
      float bias = float(biases[groups + r * row_groups + group]);
      sums[r] = fma(scale, dot, fma(bias, sum_x, sums[r]));
    }
  }
  float share = weights[pair];
#pragma clang loop unroll(full)
  for (uint r = 0; r < rows_at_once; r++) {
    float sum = simd_sum(sums[r]);
    if (lane == r) {
      partial[slot * rows_at_once + r] = share * sum;
    }
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);

if (simdgroup == 0 && lane < rows_at_once) {
  float sum = 0.0f;
  for (uint slot = 0; slot < uint(TOP_K); slot++) {
    sum += partial[slot * rows_at_once + lane];
  }
  out[ulong(token) * HIDDEN + first + lane] = T(sum);
}
