// Activation codes and panels of integer weights by vector dot products. NUMERICS: Activations, Integer
// linears. Included by one .cc file, inside its anonymous namespace.

// Bytes of weights between a prefetch and their use: the more arithmetic a tile has per line, the fewer lines
// the core and the hardware's prefetchers ask for ahead of it.
constexpr int64_t kAhead = 8192;
PACELINE_INLINE void Prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
// Into the second cache: for what is wanted much later.
PACELINE_INLINE void PrefetchFar(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

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
    const __m128i eight = LoadOctet(codes, count, o);
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

// P panels from `panel` on; `next` is where the weights stand that are read after them, of as many panels at
// the same distances. With one tile of rows, a tile asks for what it will read itself a little later. With
// more, only the first reads from memory: each asks for its part of the next panels, so that memory never
// rests.
struct Panels {
  int64_t panel;
  const uint8_t* next;
  int64_t tile, tiles;  // of the rows
};

// One octet of P panels for R rows: its first four inputs into `low`, the others into `high`, [P * R] each.
// `codes` is what every row's codes have to be moved by.
template <bool int4, int R, int P, bool far>
PACELINE_INLINE void AddOctet(const uint8_t* const* lines, const uint8_t* const* ahead, int64_t offset,
                              int64_t ahead_offset, const int32_t* const* rows, int64_t codes, Dot* low,
                              Dot* high) {
  Operand first[P], second[P];
  PACELINE_UNROLL
  for (int p = 0; p < P; ++p) {
    const uint8_t* line = lines[p] + offset;
    if (far) {
      PrefetchFar(ahead[p] + ahead_offset);  // at most a line from the one before
    } else {
      Prefetch(ahead[p] + ahead_offset);
      if (!int4) Prefetch(ahead[p] + ahead_offset + 64);
    }
    const I raw = Once(LoadI(line));
    first[p] = int4 ? Low4(raw) : Whole8(raw);
    second[p] = int4 ? High4(raw) : Whole8(LoadI(line + 64));
  }
  PACELINE_UNROLL
  for (int r = 0; r < R; ++r) {
    const int32_t* own = rows[r] + codes;
    if (P == 1) {
      AccumulateAt(low[r], first[0], own);
      AccumulateAt(high[r], second[0], own + 2);
      continue;
    }
    const Codes one = LoadCodes(own);
    PACELINE_UNROLL
    for (int p = 0; p < P; ++p) Accumulate(low[p * R + r], first[p], one);
    const Codes two = LoadCodes(own + 2);
    PACELINE_UNROLL
    for (int p = 0; p < P; ++p) Accumulate(high[p * R + r], second[p], two);
  }
}

// One term of 16 outputs of P panels for R rows, into `exact` [P * R]: the integer sums. The prepared rows
// start at octet `base` of the matrix.
template <bool int4, int R, int P, bool far>
PACELINE_INLINE void SumTerm(const Matrix& m, const Panels& at, const Term& term, int64_t base,
                             const PreparedRow* rows, I* exact) {
  constexpr int64_t kOctetBytes = int4 ? 64 : 128;
  // With few rows the dot products would wait for their own latency: each half of an octet, and with the
  // fewest every second octet, gets sums of its own.
  constexpr int kSets = R * P <= 2 ? 4 : R * P <= 4 ? 2 : 1;
  Dot dots[kSets][P * R];
  const int64_t first = term.first_octet - base;
  const uint8_t* lines[P];
  const uint8_t* ahead[P];
  const int32_t* codes[R];
  const int64_t offset = term.first_octet * kOctetBytes, beyond = offset + kAhead - m.panel_bytes;
  const int64_t step = far ? kOctetBytes / at.tiles : kOctetBytes;
  const int64_t part = far ? (at.tile * m.panel_bytes + offset) / at.tiles : beyond;
  I zeros[P];
  PACELINE_UNROLL
  for (int p = 0; p < P; ++p) {
    zeros[p] = m.zeros == nullptr ? SetI(m.zero)
                                  : LoadU8(m.zeros + ((at.panel + p) * m.groups + term.group) * kLanes);
    lines[p] = m.data + (at.panel + p) * m.panel_bytes + offset;
    ahead[p] = !far && beyond < 0 ? lines[p] + kAhead : at.next + p * m.panel_bytes + part;
  }
  PACELINE_UNROLL
  for (int r = 0; r < R; ++r) {
    codes[r] = rows[r].codes + 4 * first;
    // The zero point leaves with the start: w - z over the codes is w over the codes, less z times their sum.
    const I minus_sum = SubI(SetI(rows[r].prefix[first]), SetI(rows[r].prefix[first + term.octets]));
    PACELINE_UNROLL
    for (int p = 0; p < P; ++p) {
      dots[0][p * R + r] = StartDot(MulI(zeros[p], minus_sum));
      PACELINE_UNROLL
      for (int set = 1; set < kSets; ++set) dots[set][p * R + r] = StartDot(ZeroI());
    }
  }
  int64_t o = 0;
  if (kSets == 4) {
    for (; o + 2 <= term.octets; o += 2) {
      AddOctet<int4, R, P, far>(lines, ahead, o * kOctetBytes, o * step, codes, 4 * o, dots[0], dots[1]);
      AddOctet<int4, R, P, far>(lines, ahead, (o + 1) * kOctetBytes, (o + 1) * step, codes, 4 * o + 4,
                                dots[kSets - 2], dots[kSets - 1]);
    }
  }
  for (; o < term.octets; ++o)
    AddOctet<int4, R, P, far>(lines, ahead, o * kOctetBytes, o * step, codes, 4 * o, dots[0],
                              dots[kSets > 1 ? 1 : 0]);
  PACELINE_UNROLL
  for (int i = 0; i < P * R; ++i) {
    Dot dot = dots[0][i];
    PACELINE_UNROLL
    for (int set = 1; set < kSets; ++set) dot = JoinDots(dot, dots[set][i]);
    exact[i] = Finish(dot);
  }
}

// Rows of a tile that is not the only one: nearly equal tiles of more than kCodeRows rows have half of that.
constexpr int kFewestOfMany = kCodeRows / 2;

// SumTerm; then calls `use(i, sum, scale)` for every sum of [P * R] and what it has to be multiplied by, with
// `units` to be given in fixed point's unit. `base_group`: the activation group that the rows start with.
template <bool int4, int R, int P, bool units = false, class Use>
PACELINE_INLINE void ForTerm(const Matrix& matrix, const Panels& at, const Term& term, int64_t base,
                             int64_t base_group, const PreparedRow* rows, const Use& use) {
  I exact[P * R];
  if (at.tiles == 1 || R < kFewestOfMany) {
    SumTerm<int4, R, P, false>(matrix, at, term, base, rows, exact);
  } else {
    SumTerm<int4, R, P, true>(matrix, at, term, base, rows, exact);
  }
  rows = Afresh(rows);
  const Matrix& m = *Afresh(&matrix);
  const int64_t row_group = term.activation_group - base_group;
  PACELINE_UNROLL
  for (int p = 0; p < P; ++p) {
    const int64_t scale_at = ((at.panel + p) * m.groups + term.group) * kLanes;
    F scale = ScalesAt(m, scale_at);
    if (units && kFixedUnits != 1.0f) scale = Mul(scale, Set1(kFixedUnits));
    // The same term of the panels that come next.
    Prefetch(static_cast<const uint8_t*>(m.scales) +
             (scale_at + P * m.groups * kLanes) * (m.scale_format == ScaleFormat::kF32 ? 4 : 2));
    PACELINE_UNROLL
    for (int r = 0; r < R; ++r)
      use(p * R + r, ToFloat(exact[p * R + r]), Mul(scale, Set1(rows[r].scales[row_group])));
  }
}

// Adds a term to totals [P][R] vectors, which are memory: the sums of a term need the registers.
template <bool int4, int R, int P>
PACELINE_INLINE void AddTerm(const Matrix& m, const Panels& at, const Term& term, int64_t base,
                             int64_t base_group, const PreparedRow* rows, float* totals) {
  float* to = Afresh(totals);
  ForTerm<int4, R, P>(m, at, term, base, base_group, rows,
                      [=](int i, F sum, F scale) __attribute__((always_inline)) {
                        Store(to + i * kLanes, Fma(sum, scale, Load(to + i * kLanes)));
                      });
}

// All inputs of P panels for R rows: totals [P][R] vectors of 16 outputs.
template <bool int4, int R, int P>
__attribute__((noinline)) void IntegerTile(const Matrix& m, const Panels& at, const PreparedRow* rows,
                                           float* totals) {
  for (int i = 0; i < P * R; ++i) Store(totals + i * kLanes, Zero());
  const int32_t end = m.first_term[ActivationGroups(m.inputs)];
  for (int32_t t = 0; t < end; ++t) AddTerm<int4, R, P>(m, at, m.terms[t], 0, 0, rows, totals);
}

// Whether tiles are of two panels: codes loaded once serve both. INT8 is bound by memory as long as one tile
// holds the rows, and one stream is then the better way to read.
PACELINE_INLINE bool InPairs(bool int4, int64_t rows) {
  return kCodePanels == 2 && rows >= (int4 ? kPairRows : kCodeRows + 1);
}
// Rows go in tiles of nearly the same size: a small last one would cost almost as much as a large one.
PACELINE_INLINE int64_t TileRows(int64_t left) { return Parts(left, Parts(left, kCodeRows)); }

template <bool int4, int P>
PACELINE_INLINE void IntegerTileOf(int64_t rows, const Matrix& m, const Panels& at, const PreparedRow* of,
                                   float* totals) {
  switch (rows) {
    case 1:
      return IntegerTile<int4, 1, P>(m, at, of, totals);
    case 2:
      return IntegerTile<int4, 2, P>(m, at, of, totals);
    case 3:
      return IntegerTile<int4, 3, P>(m, at, of, totals);
    case 4:
      return IntegerTile<int4, 4, P>(m, at, of, totals);
    case 5:
      return IntegerTile<int4, (kCodeRows < 5 ? 1 : 5), P>(m, at, of, totals);
    default:
      return IntegerTile<int4, (kCodeRows < 6 ? 1 : 6), P>(m, at, of, totals);
  }
}

// Panels [first, end) for `count` rows of whole-width codes; calls `use(row, panel, total)` with 16 outputs
// of every row. `next`: the weights that are read afterwards.
template <bool int4, class Use>
PACELINE_INLINE void IntegerPanelsOf(const Matrix& m, int64_t first, int64_t end, const uint8_t* next,
                                     const PreparedRow* rows, int64_t count, const Use& use) {
  alignas(64) float totals[kCodePanels * kCodeRows * kLanes];
  const bool pairs = InPairs(int4, count);
  const int64_t tiles = Parts(count, kCodeRows);
  for (int64_t panel = first; panel < end;) {
    const int64_t wide = pairs && panel + 2 <= end ? 2 : 1;
    const uint8_t* then = panel + wide < end ? m.data + (panel + wide) * m.panel_bytes : next;
    for (int64_t row = 0, t = 0; row < count; ++t) {
      const int64_t tile = TileRows(count - row);
      const Panels at{panel, then, t, tiles};
      if (wide == 1) {
        IntegerTileOf<int4, 1>(tile, m, at, rows + row, totals);
      } else {
        IntegerTileOf<int4, kCodePanels>(tile, m, at, rows + row, totals);
      }
      for (int64_t p = 0; p < wide; ++p) {
        for (int64_t r = 0; r < tile; ++r) use(row + r, panel + p, Load(totals + (p * tile + r) * kLanes));
      }
      row += tile;
    }
    panel += wide;
  }
}
