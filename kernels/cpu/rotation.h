// The Hadamard transform of head vectors of one instruction set. NUMERICS, Attention over codes. Included by
// one .cc file, inside its anonymous namespace.

// x [dim] in place: transforms of consecutive blocks, the largest power of two that divides dim, each divided
// by the root of its size. Neighbours first: four steps inside a vector, then whole vectors.
inline void RotateHead(float* x, int64_t dim) {
  const int64_t block = dim & -dim;
  const F factor = Set1(1.0f / SquareRoot(static_cast<float>(block)));
  for (int64_t i = 0; i < dim; i += 16) {
    F v = Load(x + i);
    v = ButterflyOne(v);
    v = ButterflyTwo(v);
    v = ButterflyFour(v);
    Store(x + i, ButterflyEight(v));
  }
  for (int64_t step = 16; step < block; step *= 2) {
    for (int64_t first = 0; first < dim; first += 2 * step) {
      for (int64_t i = first; i < first + step; i += 16) {
        const F a = Load(x + i), b = Load(x + i + step);
        Store(x + i, Add(a, b));
        Store(x + i + step, Sub(a, b));
      }
    }
  }
  for (int64_t i = 0; i < dim; i += 16) Store(x + i, Mul(Load(x + i), factor));
}
