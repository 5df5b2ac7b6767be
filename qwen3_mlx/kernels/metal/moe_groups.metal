// Groups pairs of a token and an expert by expert: order = the pairs sorted by expert, equal ones by number;
// starts[e] = how many pairs have an expert below e, so that those of e are order[starts[e] ... starts[e + 1] - 1].
//
// experts [pairs] -> order [pairs], starts [experts + 1 or more]. A thread counts what comes before one pair, or before
// the first of one expert: no thread waits for another.
uint i = thread_position_in_grid.x;
uint pairs = experts_shape[0] * experts_shape[1];
bool of_pair = i < pairs;
uint expert = of_pair ? experts[i] : i - pairs;

uint before = 0;
for (uint j = 0; j < pairs; j++) {
  uint other = experts[j];
  before += uint(other < expert || (of_pair && other == expert && j < i));
}
if (of_pair) {
  order[before] = i;
} else {
  starts[expert] = before;
}
