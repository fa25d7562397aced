// Panels of integer weights for codes of one 8-bit plane (`--activations int8`): products of bytes, half as
// many as for two planes. NUMERICS, Integer linears. Included by one
// .cc file, inside its anonymous namespace, behind integer.h.

// Products of unsigned weights with signed codes, summed over the 4 inputs of an operand. With VNNI one
// instruction; else pairs of products in 16 bits, of which eight fit: 8 * 2 * 15 * 127 < 2^15. Weights of 8
// bits do not fit at all, and stay with products of 16 bits.
#if PACELINE_VNNI
constexpr bool kBytesOfInt8 = true;
struct ByteDot {
  I sum;
};
PACELINE_INLINE ByteDot NoBytes() { return {ZeroI()}; }
PACELINE_INLINE void AccumulateBytes(ByteDot& dot, I weights, int32_t codes) {
  dot.sum = _mm512_dpbusd_epi32(dot.sum, weights, SetI(codes));
}
PACELINE_INLINE void WidenBytes(ByteDot&) {}
#else
constexpr bool kBytesOfInt8 = false;
struct ByteDot {
  I sum, pairs;
};
PACELINE_INLINE ByteDot NoBytes() { return {ZeroI(), ZeroI()}; }
PACELINE_INLINE void AccumulateBytes(ByteDot& dot, I weights, int32_t codes) {
  dot.pairs = AddI16(dot.pairs, MultiplyBytes(weights, SetI(codes)));
}
PACELINE_INLINE void WidenBytes(ByteDot& dot) {
  dot.sum = AddI(dot.sum, MultiplyPairs(dot.pairs, SetI(0x00010001)));
  dot.pairs = ZeroI();
}
#endif
constexpr int64_t kOctetsPerWidening = 4;  // two operands each
// Rows of the largest tile: twice as many where there are 32 registers, and masks of 16 bits.
constexpr int kOnePlaneRows = sizeof(M) == 2 ? 8 : 4;

// Terms [begin, end) of 16 outputs for R rows, as IntegerTile.
template <bool int4, int R>
PACELINE_INLINE void OnePlaneTile(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                                  const PreparedRow* rows, F* totals) {
  constexpr int64_t kLine = int4 ? 64 : 128;
  const uint8_t* data = m.data + panel * m.panel_bytes;
  const int64_t scale_bytes = m.scale_format == ScaleFormat::kF32 ? 4 : 2;
  const uint8_t* scales = static_cast<const uint8_t*>(m.scales) + panel * m.groups * kLanes * scale_bytes;
  const int32_t base = m.terms[begin].first_octet, base_group = m.terms[begin].activation_group;
  for (int r = 0; r < R; ++r) totals[r] = Zero();
  for (int32_t t = begin; t < end; ++t) {
    const Term term = m.terms[t];
    ByteDot low[R], high[R <= 2 ? R : 1];  // with few rows, a chain for each half of an octet
    for (int r = 0; r < R; ++r) low[r] = NoBytes();
    for (ByteDot& dot : high) dot = NoBytes();
    Prefetch(scales + term.group * kLanes * scale_bytes + 512);
    const uint8_t* line = data + term.first_octet * kLine;
    const int64_t first = term.first_octet - base;
    for (int64_t o = 0; o < term.octets;) {
      const int64_t stop = Least(o + kOctetsPerWidening, term.octets);
      for (; o < stop; ++o) {
        Prefetch(line + kAhead);
        if (!int4) Prefetch(line + kAhead + 64);
        const I raw = LoadI(line), nibbles = SetI(0x0F0F0F0F);
        const I four = int4 ? And(raw, nibbles) : raw;
        const I next = int4 ? And(Shr<4>(raw), nibbles) : LoadI(line + (int4 ? 0 : 64));
        line += kLine;
        for (int r = 0; r < R; ++r) {
          AccumulateBytes(low[r], four, rows[r].bytes[2 * (first + o)]);
          AccumulateBytes(R <= 2 ? high[R <= 2 ? r : 0] : low[r], next, rows[r].bytes[2 * (first + o) + 1]);
        }
      }
      for (int r = 0; r < R; ++r) WidenBytes(low[r]);
      for (ByteDot& dot : high) WidenBytes(dot);
    }
    const int64_t at = (panel * m.groups + term.group) * kLanes;
    const I zero = m.zeros != nullptr ? LoadU8(m.zeros + at) : SetI(m.zero);
    const F scale = ScalesAt(m, at);
    for (int r = 0; r < R; ++r) {
      const int32_t sum = static_cast<int32_t>(static_cast<uint32_t>(rows[r].prefix[first + term.octets]) -
                                               static_cast<uint32_t>(rows[r].prefix[first]));
      I exact = low[r].sum;
      if (R <= 2) exact = AddI(exact, high[R <= 2 ? r : 0].sum);
      exact = SubI(exact, MulI(zero, SetI(sum)));
      const F product = Mul(scale, Set1(rows[r].scales[term.activation_group - base_group]));
      totals[r] = Fma(ToFloat(exact), product, totals[r]);
    }
  }
}

template <bool int4, int R, class Use>
PACELINE_INLINE int64_t OnePlaneTiles(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                                      const PreparedRow* rows, int64_t row, int64_t count, const Use& use) {
  for (; row + R <= count; row += R) {
    F totals[R];
    OnePlaneTile<int4, R>(m, panel, begin, end, rows + row, totals);
    for (int r = 0; r < R; ++r) use(row + r, totals[r]);
  }
  return row;
}
// Whatever is left takes the next smaller tile.
template <bool int4, class Use>
PACELINE_INLINE void OnePlaneRows(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                                  const PreparedRow* rows, int64_t count, const Use& use) {
  int64_t row = 0;
  if constexpr (kOnePlaneRows >= 8) row = OnePlaneTiles<int4, 8>(m, panel, begin, end, rows, row, count, use);
  row = OnePlaneTiles<int4, 4>(m, panel, begin, end, rows, row, count, use);
  row = OnePlaneTiles<int4, 2>(m, panel, begin, end, rows, row, count, use);
  OnePlaneTiles<int4, 1>(m, panel, begin, end, rows, row, count, use);
}
