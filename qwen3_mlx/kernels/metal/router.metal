// Chooses TOP_K of EXPERTS for one token, by one simdgroup.
//
// logits [rows, EXPERTS] -> experts [rows, TOP_K] (uint32), weights [rows, TOP_K] (float32), best first; of equal
// logits the lowest index comes first. Lane l holds the logits l, l + 32, l + 64, ...
//
// Indices are always distinct and below EXPERTS, whatever the logits hold: they say where the experts' weights are
// read. A NaN counts as the least logit when choosing, and makes the row's weights NaN.
constexpr uint held = (EXPERTS + 31) / 32;
constexpr uint kept = (TOP_K + 31) / 32;
constexpr uint none = 0xffffffffu;

uint lane = thread_index_in_simdgroup;
uint row = threadgroup_position_in_grid.y;

float values[held];
bool nan_seen = false;
float highest = -INFINITY;
#pragma clang loop unroll(full)
for (uint i = 0; i < held; i++) {
  uint expert = i * 32 + lane;
  float value = -INFINITY;
  if (expert < uint(EXPERTS)) {
    value = float(logits[row * EXPERTS + expert]);
    if ((as_type<uint>(value) & 0x7fffffffu) > 0x7f800000u) {
      value = -INFINITY;
      nan_seen = true;
    }
  }
  values[i] = value;
  highest = max(highest, value);
}
highest = simd_max(highest);
nan_seen = simd_any(nan_seen);

float total = 0.0f;
if (!NORMALISE) {
#pragma clang loop unroll(full)
  for (uint i = 0; i < held; i++) {
    // Past the last expert the value is -inf, which adds 0 unless every logit is -inf: then all is NaN anyway.
    total += precise::exp(values[i] - highest);
  }
  total = simd_sum(total);
}

// Each pick is the first, in the order (value falling, index rising), that comes after the one before.
uint chosen[kept];
float shares[kept];
float last_value = INFINITY;
uint last_index = none;
#pragma clang loop unroll(full)
for (uint k = 0; k < kept; k++) {
  chosen[k] = 0;
  shares[k] = 0.0f;
  for (uint slot = 0; slot < min(32u, uint(TOP_K) - k * 32); slot++) {
    float best = -INFINITY;
    uint at = none;
#pragma clang loop unroll(full)
    for (uint i = 0; i < held; i++) {
      uint expert = i * 32 + lane;
      bool left = last_index == none || values[i] < last_value || (values[i] == last_value && expert > last_index);
      if (left && (at == none || values[i] > best)) {
        best = values[i];
        at = expert;
      }
    }
    last_value = simd_max(best);
    last_index = simd_min(best == last_value ? at : none);
    float share = precise::exp(last_value - highest);
    if (NORMALISE) {
      total += share;
    }
    if (lane == slot) {
      chosen[k] = last_index;
      shares[k] = share;
    }
  }
}

#pragma clang loop unroll(full)
for (uint k = 0; k < kept; k++) {
  uint slot = k * 32 + lane;
  if (slot < uint(TOP_K)) {
    experts[row * TOP_K + slot] = chosen[k];
    weights[row * TOP_K + slot] = nan_seen ? NAN : shares[k] / total;
  }
}
