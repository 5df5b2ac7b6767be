// sums[n * R + r] = row r of a matrix of 16-bit values times the activations at x[n], for N of them: each lane's part, in
// an order that does not depend on N. A weight is read once for all N.
template <typename T, int DIMS, int V, int R, int N>
METAL_FUNC void qwen3_plain_tokens(
    const device T* x, const thread uint* at, const device T* weight, uint lane, thread float* sums) {
#pragma clang loop unroll(full)
  for (int i = 0; i < N * R; i++) {
    sums[i] = 0.0f;
  }
  for (uint k = lane * V; k < uint(DIMS); k += 32 * V) {
    float v[N * V];
#pragma clang loop unroll(full)
    for (int n = 0; n < N; n++) {
      qwen3_load<T, V, 8>(x + at[n] + k, v + n * V);
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < R; r++) {
      float w[V];
      qwen3_load<T, V, 8>(weight + uint(r) * DIMS + k, w);
#pragma clang loop unroll(full)
      for (int n = 0; n < N; n++) {
#pragma clang loop unroll(full)
        for (int i = 0; i < V; i++) {
          sums[n * R + r] = fma(w[i], v[n * V + i], sums[n * R + r]);
        }
      }
    }
  }
}

// The same for as many tokens as there are, up to 4.
template <typename T, int DIMS, int V, int R>
METAL_FUNC void qwen3_some_plain_tokens(
    uint tokens, const device T* x, const thread uint* at, const device T* weight, uint lane, thread float* sums) {
  switch (tokens) {
    case 1:
      qwen3_plain_tokens<T, DIMS, V, R, 1>(x, at, weight, lane, sums);
      break;
    case 2:
      qwen3_plain_tokens<T, DIMS, V, R, 2>(x, at, weight, lane, sums);
      break;
    case 3:
      qwen3_plain_tokens<T, DIMS, V, R, 3>(x, at, weight, lane, sums);
      break;
    default:
      qwen3_plain_tokens<T, DIMS, V, R, 4>(x, at, weight, lane, sums);
  }
}
