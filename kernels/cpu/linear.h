// Linears of one instruction set, and panels of float weights. NUMERICS: Float linears. Included by one .cc
// file, inside its anonymous namespace.

constexpr int64_t kRowChunk = 64;  // rows that a float panel keeps totals of
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

// Tiles of at most kFloatRows rows, nearly equal: a small last one would cost almost as much as a large one.
template <class Element, int kStep>
void FloatTiles(const uint8_t* w, int64_t count, const float* const* x, int64_t k, int64_t rows, float scale,
                float* totals, const uint8_t* ahead) {
  for (int64_t r = 0; r < rows;) {
    float* to = totals + r * kFloatPanel;
    const int64_t tile = Parts(rows - r, Parts(rows - r, kFloatRows));
    switch (tile) {
      case 1:
        FloatRows<Element, 1, kStep>(w, count, x + r, k, scale, to, ahead);
        break;
      case 2:
        FloatRows<Element, 2, kStep>(w, count, x + r, k, scale, to, ahead);
        break;
      case 3:
        FloatRows<Element, 3, kStep>(w, count, x + r, k, scale, to, ahead);
        break;
      case 4:
        FloatRows<Element, 4, kStep>(w, count, x + r, k, scale, to, ahead);
        break;
      case 5:
        FloatRows<Element, 5, kStep>(w, count, x + r, k, scale, to, ahead);
        break;
      default:
        FloatRows<Element, kFloatRows, kStep>(w, count, x + r, k, scale, to, ahead);
    }
    r += tile;
  }
}

// The inputs of a block times `factor`, side by side: to [rows][128]. Rows that stand a multiple of 4 KiB apart
// share few cache sets where they are. False where an input times 256 could overflow.
PACELINE_INLINE bool CopyInputs(const float* const* x, int64_t k, int64_t count, int64_t rows, float factor,
                                float* to) {
  uint32_t fit = 0xFFFF;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < count; i += 16) {
      const float* from = x[r] + k + i;
      Prefetch(from + kActivationGroup);
      const F v = LoadUpTo(from, count - i);
      fit &= Bits(Less(Abs(v), Set1(0x1p119f)));
      Store(to + r * kActivationGroup + i, Mul(v, Set1(factor)));
    }
  }
  return fit == 0xFFFF;
}

// A block of weights as fp32, [count][64], which stays in the nearest caches while the rows pass by.
template <class Element>
PACELINE_INLINE void UnpackBlock(const uint8_t* w, int64_t count, float* plain, const uint8_t* ahead) {
  constexpr int64_t kStep = Element::kBytes * kFloatPanel;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < kStep; j += 64) Prefetch(ahead + i * kStep + j);
    F weights[4];
    LoadWeights<Element, 4>(w + i * kStep, weights);
    for (int v = 0; v < 4; ++v) Store(plain + i * kFloatPanel + v * 16, weights[v]);
  }
}

// totals [rows][64] = inputs [begin, end) of one panel for at most kRowChunk rows; x[r] is indexed from
// `begin`. Small: Element, read as 2^-8 of its value where that is cheaper; else Element itself.
template <class Element, class Small>
void FloatPanelOf(const Matrix& m, int64_t panel, int64_t begin, int64_t end, const float* const* x,
                  int64_t rows, float* totals) {
  constexpr int kStep = Element::kBytes * static_cast<int>(kFloatPanel);
  constexpr bool kSmall = !std::is_same_v<Element, Small>;
  for (int64_t i = 0; i < rows * kFloatPanel; i += 16) Store(totals + i, Zero());
  const uint8_t* data = m.data + panel * m.panel_bytes;
  alignas(64) float inputs[kRowChunk * kActivationGroup];
  alignas(64) float plain[kActivationGroup * kFloatPanel];
  const float* copied[kRowChunk];
  for (int64_t r = 0; r < rows; ++r) copied[r] = inputs + r * kActivationGroup;
  for (int64_t k = begin; k < end; k += kActivationGroup) {
    const int64_t count = Least(kActivationGroup, end - k);
    const float scale =
        m.block_scales == nullptr ? 1.0f : m.block_scales[panel / 2 * m.column_blocks + k / kActivationGroup];
    const uint8_t* w = data + k * kStep;
    if (rows > kFloatRows) {
      // What is read after this block: the next one, or the next panel's first.
      const uint8_t* ahead = w + kActivationGroup * kStep;
      if (CopyInputs(x, k - begin, count, rows, kSmall ? 256.0f : 1.0f, inputs) || !kSmall) {
        UnpackBlock<Small>(w, count, plain, ahead);
      } else {
        CopyInputs(x, k - begin, count, rows, 1.0f, inputs);
        UnpackBlock<Element>(w, count, plain, ahead);
      }
      FloatTiles<ElementF32, 0>(reinterpret_cast<const uint8_t*>(plain), count, copied, 0, rows, scale, totals,
                                nullptr);
      continue;
    }
    if (kSmall && CopyInputs(x, k - begin, count, rows, 256.0f, inputs)) {
      FloatTiles<Small, kStep>(w, count, copied, 0, rows, scale, totals, w + kAhead);
      continue;
    }
    FloatTiles<Element, kStep>(w, count, x, k - begin, rows, scale, totals, w + kAhead);
  }
}
void FloatPanel(const Matrix& m, int64_t panel, int64_t begin, int64_t end, const float* const* x,
                int64_t rows, float* totals) {
  switch (m.format) {
    case WeightFormat::kF32:
      return FloatPanelOf<ElementF32, ElementF32>(m, panel, begin, end, x, rows, totals);
    case WeightFormat::kF16:
      return FloatPanelOf<ElementF16, ElementF16>(m, panel, begin, end, x, rows, totals);
    case WeightFormat::kBF16:
      return FloatPanelOf<ElementBf16, ElementBf16>(m, panel, begin, end, x, rows, totals);
    case WeightFormat::kFp8Block128:
      return FloatPanelOf<ElementE4M3, ElementSmallE4M3>(m, panel, begin, end, x, rows, totals);
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
    const int64_t first = part * per_part, end = Least(panels, first + per_part);
    IntegerPanels(m, first, end, m.data + end * m.panel_bytes, rows, x.rows,
                  [=](int64_t r, int64_t panel, F total) {
                    StoreUpTo(y + r * stride + panel * kLanes, total, m.outputs - panel * kLanes);
                  });
  });
}
