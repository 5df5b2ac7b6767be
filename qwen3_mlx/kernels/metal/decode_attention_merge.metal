// Merges the blocks of decode attention: out [batch, q_heads, HEAD_DIM] from partials [q_heads, blocks, HEAD_DIM + 2]
// (decode_attention.metal says what they are) and the lengths [batch] of the segments.
//
// A threadgroup makes one head of one row; its simdgroups take every 8th block of the row and add up in their order.
// The result of a row with one block is the very one that decode_attention would have written itself.
constexpr uint simdgroups = 8;
constexpr uint width = HEAD_DIM + 2;
constexpr uint dims = HEAD_DIM / 32;
constexpr float lowest = -1e38f;

uint lane = thread_index_in_simdgroup;
uint simdgroup = simdgroup_index_in_threadgroup;
uint head = threadgroup_position_in_grid.x;
uint row = threadgroup_position_in_grid.y;
uint slots = partials_shape[1];

uint first = 0;
uint count = 0;
for (uint r = 0; r <= row; r++) {
  uint length = lengths0[r];
  length += SEGMENTS > 1 ? lengths1[r] : 0;
  length += SEGMENTS > 2 ? lengths2[r] : 0;
  first = min(first + count, slots);
  count = min((length + BLOCK - 1) / BLOCK, slots - first);
}
const device float* blocks = partials + (ulong(head) * slots + first) * width;

threadgroup float shared[simdgroups * HEAD_DIM];
threadgroup float maxima[simdgroups];
threadgroup float totals[simdgroups];

float highest = lowest;
for (uint b = simdgroup + lane * simdgroups; b < count; b += 32 * simdgroups) {
  highest = max(highest, blocks[b * width + HEAD_DIM]);
}
highest = simd_max(highest);

float sums[dims];
#pragma clang loop unroll(full)
for (uint d = 0; d < dims; d++) {
  sums[d] = 0.0f;
}
float total = 0.0f;
for (uint start = simdgroup; start < count; start += 32 * simdgroups) {
  uint mine = start + lane * simdgroups;
  float factor = 0.0f;
  if (mine < count) {
    float peak = blocks[mine * width + HEAD_DIM];
    factor = peak == highest ? 1.0f : fast::exp2(peak - highest);
    total = fma(factor, blocks[mine * width + HEAD_DIM + 1], total);
  }
  for (uint b = start, from = 0; b < count && from < 32; b += simdgroups, from++) {
    float of_block = simd_shuffle(factor, from);
#pragma clang loop unroll(full)
    for (uint d = 0; d < dims; d++) {
      sums[d] = fma(of_block, blocks[b * width + d * 32 + lane], sums[d]);
    }
  }
}
total = simd_sum(total);
if (lane == 0) {
  maxima[simdgroup] = highest;
  totals[simdgroup] = total;
}
#pragma clang loop unroll(full)
for (uint d = 0; d < dims; d++) {
  shared[simdgroup * HEAD_DIM + d * 32 + lane] = sums[d];
}
threadgroup_barrier(mem_flags::mem_threadgroup);

uint dim = thread_index_in_threadgroup;
if (dim < uint(HEAD_DIM)) {
  float peak = lowest;
  for (uint s = 0; s < simdgroups; s++) {
    peak = max(peak, maxima[s]);
  }
  float sum = 0.0f;
  float weights = 0.0f;
  for (uint s = 0; s < simdgroups; s++) {
    float factor = maxima[s] == peak ? 1.0f : fast::exp2(maxima[s] - peak);
    sum = fma(factor, shared[s * HEAD_DIM + dim], sum);
    weights = fma(factor, totals[s], weights);
  }
  out[ulong(row * threadgroups_per_grid.x + head) * HEAD_DIM + dim] = T(weights == 0.0f ? 0.0f : sum / weights);
}
