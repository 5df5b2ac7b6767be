// out[row] = sum over slots of products[row, slot], in their order.
//
// products [rows, TOP_K, HIDDEN] (float32) -> out [rows, HIDDEN]. A thread makes one number.
uint column = thread_position_in_grid.x;
uint row = thread_position_in_grid.y;
const device float* from = products + ulong(row) * TOP_K * HIDDEN + column;

float sum = 0.0f;
for (uint slot = 0; slot < uint(TOP_K); slot++) {
  sum += from[slot * HIDDEN];
}
out[ulong(row) * HIDDEN + column] = T(sum);
