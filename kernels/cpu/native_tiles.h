// Panels of BF16 and FP8 weights by bf16 tile products. NUMERICS, Native float linears. Included by one .cc
// file, inside its anonymous namespace.
//
// A row of activations is two tile rows, its high and its low term, so that one product of tiles gives both
// sums. Weights become pairs of inputs in the nearest cache: 64 outputs x 128 inputs are 16 B tiles, made
// once for all rows.

constexpr int64_t kChunk = 32;                           // inputs of one product of tiles
constexpr int64_t kChunks = kActivationGroup / kChunk;   // of a block
constexpr int64_t kNativeRows = 128;                     // rows of a sweep over unpacked weights
constexpr int64_t kRowsPerTile = kTileRows / 2;          // of activations
constexpr int64_t kTermBytes = kActivationGroup * 2;     // one term of one row in a block
constexpr int64_t kBlockBytes = kTileRows * kTermBytes;  // both terms of a tile's rows
constexpr int64_t kVectors = kFloatPanel / kLanes;       // B tiles side by side

// Sixteen outputs of inputs k and k + 1 as bf16 pairs, from where the two inputs' weights stand. Exact.
struct PairsOfBf16 {
  static constexpr int64_t kBytes = 2;
  static PACELINE_INLINE I First(const uint8_t* p) { return LoadU16(reinterpret_cast<const uint16_t*>(p)); }
  static PACELINE_INLINE I Second(const uint8_t* p) { return Shl<16>(First(p)); }
};
// E4M3 has 3 bits behind the point and exponents that bf16 has, those of its subnormals too.
struct PairsOfE4M3 {
  static constexpr int64_t kBytes = 1;
  static PACELINE_INLINE I First(const uint8_t* p) { return Shr<16>(CastI(LoadE4M3(p))); }
  static PACELINE_INLINE I Second(const uint8_t* p) { return CastI(LoadE4M3(p)); }
};

// `count` inputs as two bf16 terms each, zeros up to a whole chunk: high [128], low [128].
PACELINE_INLINE void SplitInputs(const float* x, int64_t count, uint8_t* high, uint8_t* low) {
  for (int64_t i = 0; i < Parts(count, kChunk) * kChunk; i += 16) {
    const F v = i < count ? LoadUpTo(x + i, count - i) : Zero();
    const I first = ToBf16Lanes(v);
    StoreLow16(high + 2 * i, first);
    StoreLow16(low + 2 * i, ToBf16Lanes(Sub(v, CastF(Shl<16>(first)))));
  }
}

// B tiles [chunks][4] of `count` inputs at w, zeros up to a whole chunk.
template <class Pairs>
PACELINE_INLINE void PairWeights(const uint8_t* w, int64_t count, uint8_t* tiles) {
  constexpr int64_t kInput = kFloatPanel * Pairs::kBytes;
  for (int64_t k = 0; k < Parts(count, kChunk) * kChunk; k += 2) {
    uint8_t* line = tiles + k / kChunk * kVectors * kTileBytes + k % kChunk / 2 * 64;
    for (int64_t v = 0; v < kVectors; ++v) {
      const uint8_t* from = w + k * kInput + v * kLanes * Pairs::kBytes;
      if (v % (4 / Pairs::kBytes) == 0) Prefetch(from + kAhead), Prefetch(from + kInput + kAhead);
      const I first = k < count ? Pairs::First(from) : ZeroI();
      const I second = k + 1 < count ? Pairs::Second(from + kInput) : ZeroI();
      Store(reinterpret_cast<float*>(line + v * kTileBytes), CastF(Or(first, second)));
    }
  }
}

// Sums of both terms of a tile's rows with 16 outputs: dots [16][16]. The A tiles are loaded.
PACELINE_INLINE void BlockDots(const uint8_t* tiles, int64_t chunks, float* dots) {
  constexpr int64_t kNext = kVectors * kTileBytes;
  ZeroTile<kNativeC>();
  LoadTile<kNativeB0>(tiles, 64);
  DotBf16<kNativeC, kNativeA[0], kNativeB0>();
  if (chunks > 1) {
    LoadTile<kNativeB1>(tiles + kNext, 64);
    DotBf16<kNativeC, kNativeA[1], kNativeB1>();
  }
  if (chunks > 2) {
    LoadTile<kNativeB0>(tiles + 2 * kNext, 64);
    DotBf16<kNativeC, kNativeA[2], kNativeB0>();
  }
  if (chunks > 3) {
    LoadTile<kNativeB1>(tiles + 3 * kNext, 64);
    DotBf16<kNativeC, kNativeA[3], kNativeB1>();
  }
  StoreTile<kNativeC>(dots, 64);
}

// Sweeps at most kNativeRows rows over one panel; totals [rows][64]. tile_of(tile, begin, count) is the A
// tile of rows 8 * tile on and inputs [begin, begin + count): [8 rows][2 terms][128 inputs], 16 rows of
// tiles, of which fewer exist when there are fewer than 8 rows in all.
template <class Pairs, class TileOf>
inline void SweepNative(const Matrix& m, int64_t panel, int64_t begin, int64_t end, int64_t rows,
                        const TileOf& tile_of, float* totals) {
  alignas(64) uint8_t tiles[kChunks * kVectors * kTileBytes];
  alignas(64) float dots[2][kTileRows * kLanes];
  ShapeTilesForBf16(Least(2 * rows, kTileRows));
  for (int64_t i = 0; i < rows * kFloatPanel; i += 16) Store(totals + i, Zero());
  const uint8_t* data = m.data + panel * m.panel_bytes;
  for (int64_t k = begin; k < end; k += kActivationGroup) {
    const int64_t count = Least(kActivationGroup, end - k), chunks = Parts(count, kChunk);
    const float scale =
        m.block_scales == nullptr ? 1.0f : m.block_scales[panel / 2 * m.column_blocks + k / kActivationGroup];
    PairWeights<Pairs>(data + k * kFloatPanel * Pairs::kBytes, count, tiles);
    for (int64_t tile = 0; tile < Parts(rows, kRowsPerTile); ++tile) {
      const uint8_t* of = tile_of(tile, k - begin, count);
      LoadTile<kNativeA[0]>(of, kTermBytes);
      LoadTile<kNativeA[1]>(of + 64, kTermBytes);
      LoadTile<kNativeA[2]>(of + 128, kTermBytes);
      LoadTile<kNativeA[3]>(of + 192, kTermBytes);
      for (int64_t v = 0; v < kVectors; ++v) {
        float* sums = dots[v % 2];
        BlockDots(tiles + v * kTileBytes, chunks, sums);
        for (int64_t r = tile * kRowsPerTile; r < Least(rows, (tile + 1) * kRowsPerTile); ++r) {
          const float* own = sums + r % kRowsPerTile * 2 * kLanes;
          float* total = totals + r * kFloatPanel + v * kLanes;
          Store(total, Fma(Add(Load(own), Load(own + kLanes)), Set1(scale), Load(total)));
        }
      }
    }
  }
}
template <class TileOf>
PACELINE_INLINE void SweepNativePanel(const Matrix& m, int64_t panel, int64_t begin, int64_t end,
                                      int64_t rows, const TileOf& tile_of, float* totals) {
  Require(rows <= kNativeRows, "a sweep of more than 128 rows");
  if (m.format == WeightFormat::kBF16)
    return SweepNative<PairsOfBf16>(m, panel, begin, end, rows, tile_of, totals);
  SweepNative<PairsOfE4M3>(m, panel, begin, end, rows, tile_of, totals);
}

// Both terms of up to 8 rows, zeros for the rows of the tile that are not there. row(r): inputs.
template <class RowOf>
PACELINE_INLINE void SplitTile(const RowOf& row, int64_t rows, int64_t count, uint8_t* to) {
  for (int64_t r = 0; r < rows; ++r)
    SplitInputs(row(r), count, to + r * 2 * kTermBytes, to + (r * 2 + 1) * kTermBytes);
  for (int64_t i = rows * 2 * kTermBytes; i < kBlockBytes; i += 64) ZeroLine(to + i);
}

// As FloatPanel in linear.h, for matrices whose arithmetic is native.
inline void NativePanel(const Matrix& m, int64_t panel, int64_t begin, int64_t end, const float* const* x,
                        int64_t rows, float* totals) {
  alignas(64) uint8_t split[kBlockBytes];
  SweepNativePanel(
      m, panel, begin, end, rows,
      [&](int64_t tile, int64_t at, int64_t count) {
        const float* const* of = x + tile * kRowsPerTile;
        SplitTile([=](int64_t r) { return of[r] + at; }, Least(kRowsPerTile, rows - tile * kRowsPerTile),
                  count, split);
        return split;
      },
      totals);
}

// A whole linear layer: the inputs are split once for all panels. y[row * stride + n].
inline void NativeLinear(ThreadPool& pool, const Matrix& m, const float* x, int64_t rows, float* y,
                         int64_t stride) {
  const int64_t width = m.inputs, blocks = Parts(width, kActivationGroup);
  // [tiles of 8 rows][blocks][16][128 bf16], on a cache line.
  uint8_t* memory = static_cast<uint8_t*>(Scratch(Parts(rows, kRowsPerTile) * blocks * kBlockBytes));
  RunParts(pool, Parts(rows, kRowsPerTile), rows * width, [=](int64_t tile) {
    for (int64_t block = 0; block < blocks; ++block) {
      const float* from = x + tile * kRowsPerTile * width + block * kActivationGroup;
      SplitTile([=](int64_t r) { return from + r * width; }, Least(kRowsPerTile, rows - tile * kRowsPerTile),
                Least(kActivationGroup, width - block * kActivationGroup),
                memory + (tile * blocks + block) * kBlockBytes);
    }
  });
  pool.Run(m.panels(), [=, &m](int64_t panel) {
    alignas(64) float totals[kNativeRows * kFloatPanel];
    const int64_t left = m.outputs - panel * kFloatPanel;
    for (int64_t first = 0; first < rows; first += kNativeRows) {
      const int64_t count = Least(kNativeRows, rows - first);
      SweepNativePanel(
          m, panel, 0, width, count,
          [=](int64_t tile, int64_t at, int64_t) {
            return memory + ((first / kRowsPerTile + tile) * blocks + at / kActivationGroup) * kBlockBytes;
          },
          totals);
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t v = 0; v < kFloatPanel && v < left; v += 16) {
          StoreUpTo(y + (first + r) * stride + panel * kFloatPanel + v, Load(totals + r * kFloatPanel + v),
                    left - v);
        }
      }
    }
  });
}
