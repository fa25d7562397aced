// Activation codes and panels of integer weights by vector dot products. NUMERICS: Activations, Integer
// linears. Included by one .cc file, inside its anonymous namespace.

// Bytes of weights between a prefetch and their use: the more arithmetic a tile has per line, the fewer lines
// the core and the hardware's prefetchers ask for ahead of it.
constexpr int64_t kAhead = 8192;
PACELINE_INLINE void Prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

// Largest magnitude of a group; NaN when an element is not finite.
PACELINE_INLINE float GroupMax(const float* x, int64_t count) {
  F largest = Zero();
  uint32_t finite = 0xFFFF;
  for (int64_t i = 0; i < count; i += 16) {
    const F v = Abs(LoadUpTo(x + i, count - i));
    finite &= Bits(Less(v, Set1(__builtin_inff())));
    largest = Max(v, largest);
  }
  return finite == 0xFFFF ? TreeMax(largest) : __builtin_nanf("");
}

inline void QuantiseGroup(const float* x, int64_t count, float top, int16_t* codes, float* scale) {
  const float largest = GroupMax(x, count);
  if (!(largest >= kSmallestMax)) {
    *scale = largest != largest ? largest : 0.0f;
    for (int64_t i = 0; i < count; ++i) codes[i] = 0;
    return;
  }
  *scale = largest / top;
  const F s = Set1(*scale);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) StoreLow16(codes + i, RoundToInt(Div(Load(x + i), s)));
  if (i < count) {
    int16_t last[16];
    StoreLow16(last, RoundToInt(Div(LoadPart(x + i, count - i), s)));
    for (int64_t j = 0; i + j < count; ++j) codes[i + j] = last[j];
  }
}

void Quantise(ThreadPool& pool, const float* x, int32_t rows, int64_t width, ActivationContract contract,
              int16_t* codes, float* scales) {
  const float top = TopCode(contract);
  const int64_t groups = ActivationGroups(width);
  const int64_t per_part = 32;  // groups
  pool.Run(Parts(rows * groups, per_part), [=](int64_t part) {
    const int64_t end = Least((part + 1) * per_part, rows * groups);
    for (int64_t i = part * per_part; i < end; ++i) {
      const int64_t at = i / groups * width + i % groups * kActivationGroup;
      QuantiseGroup(x + at, Least(kActivationGroup, width - i % groups * kActivationGroup), top, codes + at,
                    scales + i);
    }
  });
}

// One row of codes as the dot products read them.
struct PreparedRow {
  const int32_t* codes;   // [octets][4]
  const int32_t* bytes;   // [octets][2], where the codes have one plane; else null
  const int32_t* prefix;  // [octets + 1], sums of the codes before an octet
  const float* scales;    // [activation groups]
};
PACELINE_INLINE int64_t PreparedInts(int64_t octets) { return 7 * octets + 1; }

// Fills `memory` of PreparedInts(octets of count).
inline PreparedRow PrepareRow(const int16_t* codes, int64_t count, const float* scales, int32_t* memory,
                              ActivationContract contract) {
  const int64_t octets = Parts(count, kOctet);
  int32_t* prefix = memory + 4 * octets;
  int32_t* bytes = contract == ActivationContract::kInt8 ? prefix + octets + 1 : nullptr;
  uint32_t sum = 0;
  for (int64_t o = 0; o < octets; ++o) {
    __m128i eight;
    if ((o + 1) * kOctet <= count) {
      eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + o * kOctet));
    } else {
      int16_t padded[8] = {};
      for (int64_t i = o * kOctet; i < count; ++i) padded[i % kOctet] = codes[i];
      eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(padded));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(memory + 4 * o), PrepareCodes(eight));
    if (bytes != nullptr)
      _mm_storel_epi64(reinterpret_cast<__m128i*>(bytes + 2 * o), _mm_packs_epi16(eight, eight));
    const __m128i pairs = _mm_madd_epi16(eight, _mm_set1_epi16(1));
    const __m128i two = _mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0x4E));
    const __m128i one = _mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1));
    prefix[o] = static_cast<int32_t>(sum);
    sum += static_cast<uint32_t>(_mm_cvtsi128_si32(one));
  }
  prefix[octets] = static_cast<int32_t>(sum);
  return {memory, bytes, prefix, scales};
}

PACELINE_INLINE F ScalesAt(const Matrix& m, int64_t index) {
  switch (m.scale_format) {
    case ScaleFormat::kF16:
      return LoadF16(static_cast<const uint16_t*>(m.scales) + index);
    case ScaleFormat::kBF16:
      return CastF(Shl<16>(LoadU16(static_cast<const uint16_t*>(m.scales) + index)));
    default:
      return Load(static_cast<const float*>(m.scales) + index);
  }
}

// Terms [begin, end) of 16 outputs for R rows. The prepared rows start at the first octet and activation
// group of the first term.
template <bool int4, int R>
PACELINE_INLINE void IntegerTile(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                                 const PreparedRow* rows, F* totals) {
  // With few rows the dot products would wait for their own latency: each half of an octet gets a chain. INT8
  // reads twice the bytes per product and waits for them anyway.
  constexpr bool kTwoChains = int4 && R <= 2;
  const uint8_t* data = m.data + panel * m.panel_bytes;
  const int64_t scale_bytes = m.scale_format == ScaleFormat::kF32 ? 4 : 2;
  const uint8_t* scales = static_cast<const uint8_t*>(m.scales) + panel * m.groups * kLanes * scale_bytes;
  const int32_t base = m.terms[begin].first_octet, base_group = m.terms[begin].activation_group;
  for (int r = 0; r < R; ++r) totals[r] = Zero();
  for (int32_t t = begin; t < end; ++t) {
    const Term term = m.terms[t];
    Dot dots[R], more[R];
    for (int r = 0; r < R; ++r) dots[r] = more[r] = {ZeroI(), ZeroI()};
    // At least 4 terms ahead.
    Prefetch(scales + term.group * kLanes * scale_bytes + 512);
    const uint8_t* line = data + term.first_octet * int64_t{int4 ? 64 : 128};
    const int64_t first = term.first_octet - base;
    for (int64_t o = first; o < first + term.octets; ++o) {
      Prefetch(line + kAhead);
      if (!int4) Prefetch(line + kAhead + 64);
      const I raw = LoadI(line);
      const Operand low = int4 ? Low4(raw) : Whole8(raw);
      const Operand high = int4 ? High4(raw) : Whole8(LoadI(line + (int4 ? 0 : 64)));
      line += int4 ? 64 : 128;
      for (int r = 0; r < R; ++r) {
        Accumulate(dots[r], low, rows[r].codes + 4 * o);
        Accumulate(kTwoChains ? more[r] : dots[r], high, rows[r].codes + 4 * o + 2);
      }
    }
    const int64_t at = (panel * m.groups + term.group) * kLanes;
    const I zero = m.zeros != nullptr ? LoadU8(m.zeros + at) : SetI(m.zero);
    const F scale = ScalesAt(m, at);
    for (int r = 0; r < R; ++r) {
      const int32_t sum = static_cast<int32_t>(static_cast<uint32_t>(rows[r].prefix[first + term.octets]) -
                                               static_cast<uint32_t>(rows[r].prefix[first]));
      I exact = Finish(dots[r]);
      if (kTwoChains) exact = AddI(exact, Finish(more[r]));
      exact = SubI(exact, MulI(zero, SetI(sum)));
      const F product = Mul(scale, Set1(rows[r].scales[term.activation_group - base_group]));
      totals[r] = Fma(ToFloat(exact), product, totals[r]);
    }
  }
}

template <bool int4, int R, class Use>
PACELINE_INLINE void IntegerTileRows(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                                     const PreparedRow* rows, int64_t row, const Use& use) {
  F totals[R];
  IntegerTile<int4, R>(m, panel, begin, end, rows + row, totals);
  for (int r = 0; r < R; ++r) use(row + r, totals[r]);
}
// Calls `use(row, total)` with 16 outputs of every row.
template <bool int4, class Use>
PACELINE_INLINE void IntegerRows(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                                 const PreparedRow* rows, int64_t count, const Use& use) {
  int64_t row = 0;
  for (; row + kCodeRows <= count; row += kCodeRows)
    IntegerTileRows<int4, kCodeRows>(m, panel, begin, end, rows, row, use);
  if (kCodeRows > 4 && row + 4 <= count) {
    IntegerTileRows<int4, 4>(m, panel, begin, end, rows, row, use);
    row += 4;
  }
  switch (count - row) {
    case 3:
      return IntegerTileRows<int4, 3>(m, panel, begin, end, rows, row, use);
    case 2:
      return IntegerTileRows<int4, 2>(m, panel, begin, end, rows, row, use);
    case 1:
      return IntegerTileRows<int4, 1>(m, panel, begin, end, rows, row, use);
    default:
      return;
  }
}
template <class Use>
PACELINE_INLINE bool OnePlanePanel(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                                   const PreparedRow* rows, int64_t count, const Use& use);
template <class Use>
PACELINE_INLINE void IntegerPanel(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                                  const PreparedRow* rows, int64_t count, const Use& use) {
  if (count > 0 && rows->bytes != nullptr && OnePlanePanel(m, panel, begin, end, rows, count, use)) return;
  if (m.format == WeightFormat::kInt4) {
    IntegerRows<true>(m, panel, begin, end, rows, count, use);
  } else {
    IntegerRows<false>(m, panel, begin, end, rows, count, use);
  }
}
