// out[row] = x[row] / sqrt(mean(x[row]^2) + eps) * weight, rounded once.
//
// x [rows, DIMS], weight [DIMS] -> out [rows, DIMS]. A threadgroup of 8 simdgroups makes a row, each thread 4 values of
// it at a time; the simdgroups add up in their order.
constexpr uint simdgroups = 8;
constexpr uint step = simdgroups * 32 * 4;

uint index = thread_index_in_threadgroup;
ulong start = ulong(threadgroup_position_in_grid.y) * DIMS;
threadgroup float parts[simdgroups];

float squares = 0.0f;
for (uint k = index * 4; k < uint(DIMS); k += step) {
  float v[4];
  qwen3_load<T, 4, 8>(x + start + k, v);
#pragma clang loop unroll(full)
  for (int i = 0; i < 4; i++) {
    squares = fma(v[i], v[i], squares);
  }
}
squares = simd_sum(squares);
if (thread_index_in_simdgroup == 0) {
  parts[simdgroup_index_in_threadgroup] = squares;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
float total = 0.0f;
#pragma clang loop unroll(full)
for (uint s = 0; s < simdgroups; s++) {
  total += parts[s];
}
float inverse = precise::rsqrt(fma(total, 1.0f / DIMS, eps));
for (uint k = index * 4; k < uint(DIMS); k += step) {
  float v[4];
  float w[4];
  qwen3_load<T, 4, 8>(x + start + k, v);
  qwen3_load<T, 4, 8>(weight + k, w);
#pragma clang loop unroll(full)
  for (int i = 0; i < 4; i++) {
    out[start + k + i] = T(v[i] * inverse * w[i]);
  }
}
