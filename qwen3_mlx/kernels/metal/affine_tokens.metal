// sums[n * R + r] = row r of a packed matrix times the activations at x[n], for N of them: each lane's part, in the order
// of the kernels for one token, so that a token's result is theirs to the last bit. A code is unpacked once for all N.
//
// The second half of the R rows lies `apart` rows behind the first.
template <typename T, int DIMS, int GROUP, int BITS, int V, int R, int N>
METAL_FUNC void qwen3_tokens(
    const device T* x,
    const thread uint* at,
    const device uchar* packed,
    const device T* scales,
    const device T* biases,
    uint apart,
    uint lane,
    thread float* sums) {
  constexpr uint row_bytes = uint(DIMS) * BITS / 8;
  constexpr uint row_groups = uint(DIMS) / GROUP;
#pragma clang loop unroll(full)
  for (int i = 0; i < N * R; i++) {
    sums[i] = 0.0f;
  }
  for (uint k = lane * V; k < uint(DIMS); k += 32 * V) {
    float v[N * V];
    float sum_x[N];
#pragma clang loop unroll(full)
    for (int n = 0; n < N; n++) {
      sum_x[n] = qwen3_load<T, V, BITS>(x + at[n] + k, v + n * V);
    }
    uint group = k / GROUP;
#pragma clang loop unroll(full)
    for (uint r = 0; r < R; r++) {
      uint row = r < R / 2 ? r : r - R / 2 + apart;
      float dots[N];
      qwen3_dots<V, BITS, N>(packed + row * row_bytes + k * BITS / 8, v, dots);
      float scale = float(scales[row * row_groups + group]);
      float bias = float(biases[row * row_groups + group]);
#pragma clang loop unroll(full)
      for (int n = 0; n < N; n++) {
        sums[n * R + r] = fma(scale, dots[n], fma(bias, sum_x[n], sums[n * R + r]));
      }
    }
  }
}

// The same for as many tokens as there are, up to MOST (3 or more): code for each number, so that no token is computed in
// vain.
template <typename T, int DIMS, int GROUP, int BITS, int V, int R, int MOST>
METAL_FUNC void qwen3_some_tokens(
    uint tokens,
    const device T* x,
    const thread uint* at,
    const device uchar* packed,
    const device T* scales,
    const device T* biases,
    uint apart,
    uint lane,
    thread float* sums) {
  switch (tokens) {
    case 1:
      qwen3_tokens<T, DIMS, GROUP, BITS, V, R, 1>(x, at, packed, scales, biases, apart, lane, sums);
      break;
    case 2:
      qwen3_tokens<T, DIMS, GROUP, BITS, V, R, 2>(x, at, packed, scales, biases, apart, lane, sums);
      break;
    case 3:
      qwen3_tokens<T, DIMS, GROUP, BITS, V, R, 3>(x, at, packed, scales, biases, apart, lane, sums);
      break;
    default:
      qwen3_tokens<T, DIMS, GROUP, BITS, V, R, MOST>(x, at, packed, scales, biases, apart, lane, sums);
  }
}
