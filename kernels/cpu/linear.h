// Linears of one instruction set, and panels of float weights. NUMERICS: Float linears. Included by one .cc
// file, inside its anonymous namespace.

constexpr int64_t kRowChunk = 64;  // rows that a float panel keeps totals of
constexpr int Most(int rows) { return rows < kFloatRows ? rows : kFloatRows; }

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
#ifdef PACELINE_TILES
  if (m.native) return NativePanel(m, panel, begin, end, x, rows, totals);
#endif
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
#ifdef PACELINE_TILES
    if (m.native) return NativeLinear(pool, m, x.values, x.rows, y, stride);
#endif
    RunParts(pool, panels, panels * m.inputs * (4 * x.rows + 8), [&](int64_t panel) {
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
  const int64_t per_part = 4;  // panels: 64 outputs
#ifdef PACELINE_TILES
  if (TakesTiles(m, x.contract, x.rows)) {
    const TileRowShape shape = ShapeOfRows(x.width, x.contract);
    int8_t* codes = static_cast<int8_t*>(Scratch(x.rows * shape.row_bytes));
    RunParts(pool, x.rows, x.rows * shape.octets * 14, [&](int64_t r) {
      PrepareTileRow(x.codes + r * x.width, x.width, x.scales + r * groups, shape,
                     codes + r * shape.row_bytes);
    });
    RunParts(pool, Parts(panels, per_part), panels * shape.octets * (5 * x.rows + 6), [&](int64_t part) {
      const int64_t first = part * per_part, end = Least(panels, first + per_part);
      for (int64_t row = 0; row < x.rows; row += kSweepRows) {
        const int8_t* rows[kSweepRows];
        const int64_t count = Least(kSweepRows, x.rows - row);
        for (int64_t r = 0; r < count; ++r) rows[r] = codes + (row + r) * shape.row_bytes;
        const bool last = row + count == x.rows;
        TilePanelsOf(m, first, end, m.data + (last ? end : first) * m.panel_bytes, {&shape, rows, count},
                     [=](int64_t r, int64_t panel, F total) {
                       StoreUpTo(y + (row + r) * stride + panel * kLanes, total, m.outputs - panel * kLanes);
                     });
      }
    });
    return;
  }
#endif
  const int64_t ints = PreparedInts(m.octets());
  uint8_t* scratch =
      static_cast<uint8_t*>(Scratch(x.rows * (ints * 4 + static_cast<int64_t>(sizeof(PreparedRow))) + 64));
  PreparedRow* rows = reinterpret_cast<PreparedRow*>(scratch);
  // On a cache line, which is what the bytes above are for.
  int32_t* memory = reinterpret_cast<int32_t*>((reinterpret_cast<uintptr_t>(rows + x.rows) + 63) / 64 * 64);
  RunParts(pool, x.rows, x.rows * m.octets() * 14, [&](int64_t r) {
    rows[r] =
        PrepareRow(x.codes + r * x.width, x.width, x.scales + r * groups, memory + r * ints, x.contract);
  });
  RunParts(pool, Parts(panels, per_part), panels * m.octets() * (5 * x.rows + 6), [&](int64_t part) {
    const int64_t first = part * per_part, end = Least(panels, first + per_part);
    IntegerPanels(m, first, end, m.data + end * m.panel_bytes, rows, x.rows,
                  [=](int64_t r, int64_t panel, F total) {
                    StoreUpTo(y + r * stride + panel * kLanes, total, m.outputs - panel * kLanes);
                  });
  });
}
