// out[row, slot] = silu(gate @ x[row]) * (up @ x[row]) with the gate and up of expert experts[row, slot].
//
// x [rows, DIMS], experts [rows, TOP_K], packed [stack, 2 * INNER, DIMS], the INNER rows of gate before those of up ->
// out [rows, TOP_K, INNER]. A simdgroup makes 4 numbers, from 4 rows of gate and the same 4 of up; each lane takes V
// values of the 8 rows' columns at a time.
constexpr uint rows_at_once = 4;
constexpr uint row_bytes = uint(DIMS) * BITS / 8;
constexpr uint row_groups = uint(DIMS) / GROUP;

uint lane = thread_index_in_simdgroup;
uint first = (threadgroup_position_in_grid.x * 2 + simdgroup_index_in_threadgroup) * rows_at_once;
uint pair = threadgroup_position_in_grid.z;
uint token = pair / TOP_K;

ulong start = ulong(experts[pair]) * (2 * INNER) + first;
const device uchar* packed = (const device uchar*)weight + start * row_bytes;
ulong groups = start * row_groups;

float sums[2 * rows_at_once];
#pragma clang loop unroll(full)
for (uint r = 0; r < 2 * rows_at_once; r++) {
  sums[r] = 0.0f;
}
for (uint k = lane * V; k < uint(DIMS); k += 32 * V) {
  float v[V];
  float sum_x = qwen3_load<T, V, BITS>(x + ulong(token) * DIMS + k, v);
  uint group = k / GROUP;
#pragma clang loop unroll(full)
  for (uint r = 0; r < 2 * rows_at_once; r++) {
    uint row = r < rows_at_once ? r : r - rows_at_once + INNER;
    float dot = qwen3_dot<V, BITS>(packed + row * row_bytes + k * BITS / 8, v);
    float scale = float(scales[groups + row * row_groups + group]);
    float bias = float(biases[groups + row * row_groups + group]);
    sums[r] = fma(scale, dot, fma(bias, sum_x, sums[r]));
  }
}
#pragma clang loop unroll(full)
for (uint r = 0; r < rows_at_once; r++) {
  float gate = simd_sum(sums[r]);
  float up = simd_sum(sums[r + rows_at_once]);
  if (lane == r) {
    out[ulong(pair) * INNER + first + r] = T(gate / (1.0f + precise::exp(-gate)) * up);
  }
}
