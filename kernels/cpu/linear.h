// Activation codes and linears of one instruction set. NUMERICS: Activations, Integer linears, Float linears.
// Included by one .cc file, inside its anonymous namespace.

// Bytes of weights between a prefetch and their use: the more arithmetic a tile has per line, the fewer lines
// the core and the hardware's prefetchers ask for ahead of it.
constexpr int64_t kAhead = 8192;
PACELINE_INLINE void Prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

constexpr int64_t kRowChunk = 64;  // rows that a float panel keeps totals of
constexpr int Most(int rows) { return rows < kFloatRows ? rows : kFloatRows; }

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
  const int32_t* prefix;  // [octets + 1], sums of the codes before an octet
  const float* scales;    // [activation groups]
};
PACELINE_INLINE int64_t PreparedInts(int64_t octets) { return 5 * octets + 1; }

// Fills `memory` of PreparedInts(octets of count).
inline PreparedRow PrepareRow(const int16_t* codes, int64_t count, const float* scales, int32_t* memory) {
  const int64_t octets = Parts(count, kOctet);
  int32_t* prefix = memory + 4 * octets;
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
    const __m128i pairs = _mm_madd_epi16(eight, _mm_set1_epi16(1));
    const __m128i two = _mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0x4E));
    const __m128i one = _mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1));
    prefix[o] = static_cast<int32_t>(sum);
    sum += static_cast<uint32_t>(_mm_cvtsi128_si32(one));
  }
  prefix[octets] = static_cast<int32_t>(sum);
  return {memory, prefix, scales};
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
PACELINE_INLINE void IntegerPanel(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                                  const PreparedRow* rows, int64_t count, const Use& use) {
  if (m.format == WeightFormat::kInt4) {
    IntegerRows<true>(m, panel, begin, end, rows, count, use);
  } else {
    IntegerRows<false>(m, panel, begin, end, rows, count, use);
  }
}

// NV vectors of 16 weights at p.
template <class Element, int NV>
PACELINE_INLINE void LoadWeights(const uint8_t* p, F* weights) {
  for (int v = 0; v < NV; ++v) weights[v] = Element::At(p + v * 16 * Element::kBytes);
}
template <>
PACELINE_INLINE void LoadWeights<ElementSmallE4M3, 2>(const uint8_t* p, F* weights) {
  LoadSmallE4M3Pair(p, weights);
}
template <>
PACELINE_INLINE void LoadWeights<ElementSmallE4M3, 4>(const uint8_t* p, F* weights) {
  LoadSmallE4M3Pair(p, weights);
  LoadSmallE4M3Pair(p + 32, weights + 2);
}

// One block of at most 128 inputs for R rows and NV vectors of outputs, added to totals [R][64]. `ahead` is
// where the weights stand that are read next, kStep bytes per input.
template <class Element, int R, int NV, int kStep>
PACELINE_INLINE void FloatBlock(const uint8_t* w, int64_t count, const float* const* x, int64_t k,
                                float scale, float* totals, const uint8_t* ahead) {
  F block[R][NV];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < NV; ++v) block[r][v] = Zero();
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int j = 0; j < kStep; j += 64) Prefetch(ahead + i * kStep + j);
    F weights[NV];
    LoadWeights<Element, NV>(w + i * kFloatPanel * Element::kBytes, weights);
    for (int r = 0; r < R; ++r) {
      const F input = Set1(x[r][k + i]);
      for (int v = 0; v < NV; ++v) block[r][v] = Fma(weights[v], input, block[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < NV; ++v) {
      float* total = totals + r * kFloatPanel + v * 16;
      Store(total, Fma(block[r][v], Set1(scale), Load(total)));
    }
  }
}

template <class Element, int R, int kStep>
PACELINE_INLINE void FloatRows(const uint8_t* w, int64_t count, const float* const* x, int64_t k, float scale,
                               float* totals, const uint8_t* ahead) {
  constexpr int kVectors = FloatTile(R);
  FloatBlock<Element, R, kVectors, kStep>(w, count, x, k, scale, totals, ahead);
  for (int v = kVectors; v < 4; v += kVectors)
    FloatBlock<Element, R, kVectors, 0>(w + v * 16 * Element::kBytes, count, x, k, scale, totals + v * 16,
                                        ahead);
}

// Tiles of at most kFloatRows rows; the first one prefetches.
template <class Element, int kStep>
void FloatTiles(const uint8_t* w, int64_t count, const float* const* x, int64_t k, int64_t rows, float scale,
                float* totals, const uint8_t* ahead) {
  for (int64_t r = 0; r < rows;) {
    float* to = totals + r * kFloatPanel;
    const int64_t left = rows - r;
    if (kFloatRows >= 8 && left >= 8) {
      FloatRows<Element, Most(8), kStep>(w, count, x + r, k, scale, to, ahead);
      r += 8;
    } else if (kFloatRows >= 6 && left >= 6) {
      FloatRows<Element, Most(6), kStep>(w, count, x + r, k, scale, to, ahead);
      r += 6;
    } else if (kFloatRows >= 5 && left == 5) {
      FloatRows<Element, Most(5), kStep>(w, count, x + r, k, scale, to, ahead);
      r += 5;
    } else if (left >= 4) {
      FloatRows<Element, 4, kStep>(w, count, x + r, k, scale, to, ahead);
      r += 4;
    } else if (left == 3) {
      FloatRows<Element, 3, kStep>(w, count, x + r, k, scale, to, ahead);
      r += 3;
    } else if (left == 2) {
      FloatRows<Element, 2, kStep>(w, count, x + r, k, scale, to, ahead);
      r += 2;
    } else {
      FloatRows<Element, 1, kStep>(w, count, x + r, k, scale, to, ahead);
      r += 1;
    }
  }
}

// The inputs of a block times 2^8, for weights that are read as 2^-8 of their value: scaled [rows][128].
// False where a product could overflow.
PACELINE_INLINE bool ScaleInputs(const float* const* x, int64_t k, int64_t count, int64_t rows,
                                 float* scaled) {
  uint32_t fit = 0xFFFF;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < count; i += 16) {
      const F v = LoadUpTo(x[r] + k + i, count - i);
      fit &= Bits(Less(Abs(v), Set1(0x1p119f)));
      Store(scaled + r * kActivationGroup + i, Mul(v, Set1(256.0f)));
    }
  }
  return fit == 0xFFFF;
}

// totals [rows][64] = inputs [begin, end) of one panel for at most kRowChunk rows; x[r] is indexed from
// `begin`.
template <class Element>
void FloatPanelOf(const Matrix& m, int64_t panel, int64_t begin, int64_t end, const float* const* x,
                  int64_t rows, float* totals) {
  constexpr int kStep = Element::kBytes * static_cast<int>(kFloatPanel);
  constexpr bool kFp8 = Element::kBytes == 1;
  for (int64_t i = 0; i < rows * kFloatPanel; i += 16) Store(totals + i, Zero());
  const uint8_t* data = m.data + panel * m.panel_bytes;
  for (int64_t k = begin; k < end; k += kActivationGroup) {
    const int64_t count = Least(kActivationGroup, end - k);
    const float scale =
        m.block_scales == nullptr ? 1.0f : m.block_scales[panel / 2 * m.column_blocks + k / kActivationGroup];
    const uint8_t* w = data + k * kStep;
    if (Element::kBytes < 4 && rows >= kUnpackRows) {
      // 32 KiB that stay in the nearest caches while the rows pass by.
      alignas(64) float plain[kActivationGroup * kFloatPanel];
      for (int64_t i = 0; i < count * kFloatPanel; i += 16)
        Store(plain + i, Element::At(w + i * Element::kBytes));
      FloatTiles<ElementF32, kStep>(reinterpret_cast<const uint8_t*>(plain), count, x, k - begin, rows, scale,
                                    totals, w + kActivationGroup * kStep);
      continue;
    }
    if (kFp8) {
      alignas(64) float scaled[kUnpackRows * kActivationGroup];
      if (ScaleInputs(x, k - begin, count, rows, scaled)) {
        const float* inputs[kUnpackRows];
        for (int64_t r = 0; r < rows; ++r) inputs[r] = scaled + r * kActivationGroup;
        FloatTiles<ElementSmallE4M3, kStep>(w, count, inputs, 0, rows, scale, totals, w + kAhead);
        continue;
      }
    }
    FloatTiles<Element, kStep>(w, count, x, k - begin, rows, scale, totals, w + kAhead);
  }
}
void FloatPanel(const Matrix& m, int64_t panel, int64_t begin, int64_t end, const float* const* x,
                int64_t rows, float* totals) {
  switch (m.format) {
    case WeightFormat::kF32:
      return FloatPanelOf<ElementF32>(m, panel, begin, end, x, rows, totals);
    case WeightFormat::kF16:
      return FloatPanelOf<ElementF16>(m, panel, begin, end, x, rows, totals);
    case WeightFormat::kBF16:
      return FloatPanelOf<ElementBf16>(m, panel, begin, end, x, rows, totals);
    case WeightFormat::kFp8Block128:
      return FloatPanelOf<ElementE4M3>(m, panel, begin, end, x, rows, totals);
    default:
      Broken("an integer matrix has no float panel");
  }
}

void LinearForward(ThreadPool& pool, const Linear& linear, const Activations& x, float* y, int64_t stride) {
  const Matrix& m = static_cast<const PackedLinear&>(linear).matrix.view;
  Require(m.inputs == x.width, "linear: the rows' width is not the layer's inputs");
  if (m.inputs == 0 || x.rows == 0) return;
  const int64_t panels = m.panels();
  if (!m.integer()) {
    Require(x.values != nullptr, "linear: a float layer needs values");
    pool.Run(panels, [&](int64_t panel) {
      alignas(64) float totals[kRowChunk * kFloatPanel];
      const int64_t left = m.outputs - panel * kFloatPanel;
      for (int64_t first = 0; first < x.rows; first += kRowChunk) {
        const int64_t rows = Least(kRowChunk, x.rows - first);
        const float* inputs[kRowChunk];
        for (int64_t r = 0; r < rows; ++r) inputs[r] = x.values + (first + r) * x.width;
        FloatPanel(m, panel, 0, m.inputs, inputs, rows, totals);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t v = 0; v < kFloatPanel && v < left; v += 16)
            StoreUpTo(y + (first + r) * stride + panel * kFloatPanel + v, Load(totals + r * kFloatPanel + v),
                      left - v);
        }
      }
    });
    return;
  }
  Require(x.codes != nullptr && x.scales != nullptr, "linear: an integer layer needs codes");
  const int64_t groups = ActivationGroups(x.width);
  const int64_t ints = PreparedInts(m.octets());
  uint8_t* scratch =
      static_cast<uint8_t*>(Scratch(x.rows * (ints * 4 + static_cast<int64_t>(sizeof(PreparedRow))) + 64));
  PreparedRow* rows = reinterpret_cast<PreparedRow*>(scratch);
  int32_t* memory = reinterpret_cast<int32_t*>(rows + x.rows);
  RunParts(pool, x.rows, x.rows * m.octets() * 14, [&](int64_t r) {
    rows[r] = PrepareRow(x.codes + r * x.width, x.width, x.scales + r * groups, memory + r * ints);
  });
  const int64_t per_part = 4;  // panels: 64 outputs
  RunParts(pool, Parts(panels, per_part), panels * m.octets() * (5 * x.rows + 6), [&](int64_t part) {
    for (int64_t panel = part * per_part; panel < Least(panels, (part + 1) * per_part); ++panel) {
      const int64_t left = m.outputs - panel * kLanes;
      float* to = y + panel * kLanes;
      IntegerPanel(m, panel, 0, m.first_term[groups], rows, x.rows,
                   [=](int64_t r, F total) { StoreUpTo(to + r * stride, total, left); });
    }
  });
}
