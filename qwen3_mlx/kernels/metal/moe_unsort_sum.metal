// out[row] = sum over slots of weights[row, slot] * y[places[row, slot]], in float32 and in the order of the slots.
//
// y [pairs, HIDDEN], places [pairs], weights [rows, TOP_K] -> out [rows, HIDDEN]. A thread makes 4 numbers.
uint column = thread_position_in_grid.x * 4;
uint row = thread_position_in_grid.y;

float4 sum = 0.0f;
for (uint pair = row * TOP_K; pair < (row + 1) * TOP_K; pair++) {
  uint2 words = *(const device uint2*)(y + ulong(places[pair]) * HIDDEN + column);
  sum = fma(float4(weights[pair]), float4(qwen3_pair<T>(words.x), qwen3_pair<T>(words.y)), sum);
}
#pragma clang loop unroll(full)
for (uint i = 0; i < 4; i++) {
  out[ulong(row) * HIDDEN + column + i] = T(sum[i]);
}
