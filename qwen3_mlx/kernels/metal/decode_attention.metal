// softmax(scale * queries @ keys) @ values for one query of each row, by blocks of BLOCK tokens.
//
// queries [batch, q_heads, HEAD_DIM]; of each segment rows [batch or 1, kv_heads, capacity, 2 * words] and lengths
// [batch] -> out [batch, q_heads, HEAD_DIM] if every row fits in a block, else (SPLIT) out [q_heads, blocks,
// HEAD_DIM + 2], the blocks of all rows one row after another: sums of weight * value, the highest score (in bits: to
// the base 2), the sum of the weights. A weight is 2^(score - highest).
//
// A threadgroup takes a block of one row and up to 8 heads that share a key/value head. In a step each of its simdgroups
// takes two halves of 16 / heads tokens: the score of token t of a half and head h ends up in lane t * heads + h of that
// half of the simdgroup. What is added to what depends on positions in the row alone, not on the segment that holds a
// token nor on other rows.
//
// BITS 16: keys and values are not packed. They are the first and the second segment's rows, [..., HEAD_DIM] of T.
constexpr uint heads = Q_PER_KV > 8 ? 8 : Q_PER_KV;
constexpr uint half_tokens = 16 / heads;
constexpr uint tokens = 2 * half_tokens;
constexpr uint simdgroups = 4;
constexpr uint dims = HEAD_DIM / 32;
constexpr uint words = HEAD_DIM * BITS / 32 + (BITS == 16 ? 0 : HEAD_DIM / GROUP);
constexpr uint width = BITS == 16 ? words : 2 * words;  // of a token in its buffer
constexpr float lowest = -1e38f;  // finite, so that no difference of two is NaN

uint lane = thread_index_in_simdgroup;
uint simdgroup = simdgroup_index_in_threadgroup;
uint index = thread_index_in_threadgroup;
uint first_head = threadgroup_position_in_grid.x * heads;
uint slot = threadgroup_position_in_grid.y;
uint batch = queries_shape[0];
uint q_heads = queries_shape[1];

// The row and the block of it.
uint row = SPLIT ? 0 : slot;
uint block = SPLIT ? slot : 0;
Qwen3Segments segments;
uint length = 0;
for (; row < batch; row++) {
  segments.second = lengths0[row];
  segments.third = SEGMENTS > 1 ? segments.second + lengths1[row] : segments.second;
  length = SEGMENTS > 2 ? segments.third + lengths2[row] : segments.third;
  uint blocks = (length + BLOCK - 1) / BLOCK;
  if (!SPLIT || block < blocks) {
    break;
  }
  block -= blocks;
}
if (row >= batch) {
  return;
}
uint kv_heads = rows0_shape[1];
uint kv_head = first_head / Q_PER_KV;
segments.rows[0] =
    (const device uint*)rows0 + ulong((rows0_shape[0] > 1 ? row : 0) * kv_heads + kv_head) * rows0_shape[2] * width;
segments.rows[1] = segments.rows[0];
segments.rows[2] = segments.rows[0];
if (SEGMENTS > 1 || BITS == 16) {
  segments.rows[1] =
      (const device uint*)rows1 + ulong((rows1_shape[0] > 1 ? row : 0) * kv_heads + kv_head) * rows1_shape[2] * width;
}
if (SEGMENTS > 2) {
  segments.rows[2] =
      (const device uint*)rows2 + ulong((rows2_shape[0] > 1 ? row : 0) * kv_heads + kv_head) * rows2_shape[2] * width;
}

threadgroup float shared[heads * HEAD_DIM];
threadgroup float maxima[simdgroups * heads];
threadgroup float totals[heads];

float scale_bits = scale * 1.44269504089f;
for (uint i = index; i < heads * HEAD_DIM; i += simdgroups * 32) {
  shared[i] = scale_bits * float(queries[ulong(row * q_heads + first_head) * HEAD_DIM + i]);
}
threadgroup_barrier(mem_flags::mem_threadgroup);
float q[heads * dims];
float sums[heads * dims];
#pragma clang loop unroll(full)
for (uint h = 0; h < heads; h++) {
#pragma clang loop unroll(full)
  for (uint d = 0; d < dims; d++) {
    q[h * dims + d] = shared[h * HEAD_DIM + lane * dims + d];
    sums[h * dims + d] = 0.0f;
  }
}

float highest = lowest;
float total = 0.0f;  // of this lane's slot only
uint slot_token = lane % 16 < half_tokens * heads ? lane / 16 * half_tokens + lane % 16 / heads : tokens;
uint end = min(length, (block + 1) * BLOCK);
for (uint start = block * BLOCK + simdgroup * tokens; start < end; start += simdgroups * tokens) {
  float scores[16];
#pragma clang loop unroll(full)
  for (uint t = 0; t < half_tokens; t++) {
    float first[dims];
    float second[dims];
    // Past the end the last token stands in: what lies behind it may be anything.
    Qwen3Token token = qwen3_token<SEGMENTS>(segments, min(start + t, end - 1), width);
    qwen3_unpack<T, dims, BITS, GROUP>(token.rows, token.word, lane, first);
    token = qwen3_token<SEGMENTS>(segments, min(start + half_tokens + t, end - 1), width);
    qwen3_unpack<T, dims, BITS, GROUP>(token.rows, token.word, lane, second);
#pragma clang loop unroll(full)
    for (uint h = 0; h < heads; h++) {
      float of_first = q[h * dims] * first[0];
      float of_second = q[h * dims] * second[0];
#pragma clang loop unroll(full)
      for (uint d = 1; d < dims; d++) {
        of_first = fma(q[h * dims + d], first[d], of_first);
        of_second = fma(q[h * dims + d], second[d], of_second);
      }
      scores[t * heads + h] = qwen3_exchange<16>(of_first, of_second, lane);
    }
  }
#pragma clang loop unroll(full)
  for (uint unused = half_tokens * heads; unused < 16; unused++) {
    scores[unused] = 0.0f;
  }
  float score = qwen3_sums(scores, lane);
  bool counts = slot_token < tokens && start + slot_token < end;
  float higher = max(highest, qwen3_highest<heads>(counts ? score : lowest, lane));
  if (simd_any(higher > highest)) {
    float factor = fast::exp2(highest - higher);
    highest = higher;
    total *= factor;
#pragma clang loop unroll(full)
    for (uint h = 0; h < heads; h++) {
      float of_head = simd_broadcast(factor, h);
#pragma clang loop unroll(full)
      for (uint d = 0; d < dims; d++) {
        sums[h * dims + d] *= of_head;
      }
    }
  }
  float weight = counts ? fast::exp2(score - highest) : 0.0f;
  total += weight;
#pragma clang loop unroll_count(4)
  for (uint t = 0; t < tokens; t++) {
    float value[dims];
    Qwen3Token token = qwen3_token<SEGMENTS>(segments, min(start + t, end - 1), width);
    if (BITS == 16) {
      qwen3_unpack<T, dims, BITS, GROUP>(segments.rows[1], token.word, lane, value);
    } else {
      qwen3_unpack<T, dims, BITS, GROUP>(token.rows, token.word + words, lane, value);
    }
    uint from = t / half_tokens * 16 + t % half_tokens * heads;
#pragma clang loop unroll(full)
    for (uint h = 0; h < heads; h++) {
      float of_head = simd_broadcast(weight, from + h);
#pragma clang loop unroll(full)
      for (uint d = 0; d < dims; d++) {
        sums[h * dims + d] = fma(of_head, value[d], sums[h * dims + d]);
      }
    }
  }
}

// The simdgroups add up in their order, to the highest score of all.
total = qwen3_total<heads>(total, lane);
if (lane < heads) {
  maxima[simdgroup * heads + lane] = highest;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
float peak = lowest;
#pragma clang loop unroll(full)
for (uint s = 0; s < simdgroups; s++) {
  peak = max(peak, maxima[s * heads + lane % 16 % heads]);
}
float factor = fast::exp2(highest - peak);
for (uint turn = 0; turn < simdgroups; turn++) {
  if (turn == simdgroup) {
    if (lane < heads) {
      totals[lane] = fma(factor, total, turn > 0 ? totals[lane] : 0.0f);
    }
#pragma clang loop unroll(full)
    for (uint h = 0; h < heads; h++) {
      float of_head = simd_broadcast(factor, h);
#pragma clang loop unroll(full)
      for (uint d = 0; d < dims; d++) {
        uint i = h * HEAD_DIM + lane * dims + d;
        shared[i] = fma(of_head, sums[h * dims + d], turn > 0 ? shared[i] : 0.0f);
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

uint slots = threadgroups_per_grid.y;
for (uint i = index; i < heads * HEAD_DIM; i += simdgroups * 32) {
  uint head = i / HEAD_DIM;
  if (SPLIT) {
    out[(ulong(first_head + head) * slots + slot) * (HEAD_DIM + 2) + i % HEAD_DIM] = OUT(shared[i]);
  } else {
    // A row without tokens has no weights.
    float result = totals[head] == 0.0f ? 0.0f : shared[i] / totals[head];
    out[ulong(row * q_heads + first_head) * HEAD_DIM + i] = OUT(result);
  }
}
if (SPLIT && index < heads) {
  ulong at = (ulong(first_head + index) * slots + slot) * (HEAD_DIM + 2) + HEAD_DIM;
  out[at] = OUT(peak);
  out[at + 1] = OUT(totals[index]);
}
