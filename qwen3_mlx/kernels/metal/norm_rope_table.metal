// The rotary cosines and sines at the positions offsets[row] ... offsets[row] + length - 1.
//
// offsets [batch] (int32), turns [PAIRS] (2^-64 of a turn per position, uint64) -> rotation [batch, length, 2 * PAIRS]
// (float32), the cosines before the sines. The product of position and turns drops whole turns by itself; what is over
// a multiple of a quarter turn is at most pi / 4.
uint pair = thread_position_in_grid.x;
uint position = thread_position_in_grid.y;
uint length = threads_per_grid.y;
uint row = thread_position_in_grid.z;

ulong angle = ulong(long(offsets[row]) + long(position)) * turns[pair];
ulong quarters = (angle + (1ul << 61)) >> 62;
float rest = float(long(angle - (quarters << 62))) * 3.40612158e-19f;  // 2 pi / 2^64
float cosine = precise::cos(rest);
float sine = precise::sin(rest);
if (quarters & 1) {
  float before = cosine;
  cosine = -sine;
  sine = before;
}
if (quarters & 2) {
  cosine = -cosine;
  sine = -sine;
}
ulong at = (ulong(row) * length + position) * (2 * PAIRS) + pair;
rotation[at] = cosine;
rotation[at + PAIRS] = sine;
