// Queries, keys and values of a projection: the first two normalised and rotated, all with their heads in front.
//
// x [batch, length, Q_HEADS + 2 * KV_HEADS, dims], rotation [batch, length, dims] -> queries, keys, values [batch, heads,
// length, dims]. A simdgroup makes one head of one token.
constexpr uint heads = Q_HEADS + 2 * KV_HEADS;
constexpr uint dims = 32 * D;

uint lane = thread_index_in_simdgroup;
uint head = thread_position_in_grid.x / 32;
uint position = thread_position_in_grid.y;
uint length = threads_per_grid.y;
uint row = thread_position_in_grid.z;
ulong token = ulong(row) * length + position;

float v[D];
qwen3_head_load<T, D>(x + (token * heads + head) * dims + lane * D, v);
if (head < Q_HEADS + KV_HEADS) {
  qwen3_norm_rope<T, D>(v, head < Q_HEADS ? q_weight : k_weight, rotation + token * dims, eps, lane);
}
if (head < Q_HEADS) {
  ulong at = (ulong(row) * Q_HEADS + head) * length + position;
  qwen3_head_store<T, D>(v, queries + at * dims + lane * D);
} else {
  bool key = head < Q_HEADS + KV_HEADS;
  ulong at = (ulong(row) * KV_HEADS + head - Q_HEADS - (key ? 0 : KV_HEADS)) * length + position;
  qwen3_head_store<T, D>(v, (key ? keys : values) + at * dims + lane * D);
}
