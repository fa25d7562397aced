// What the eight tile registers are for, and their shapes. Included by one .cc file, inside its anonymous
// namespace, behind tiles.h or tiles_emulated.h.
//
// A product C += A * B has the rows of activations in A and C, 16 outputs in B and C. The tile unit takes a
// cycle per row: all tiles of a sweep are equally high, and no higher than its rows ask for.

// Integer products take C, A and B by turns, so that a product does not wait for the registers of the last.
constexpr int kC0 = 0, kA0 = 2, kA1 = 3, kB0 = 4;  // and C1, B1, B2, B3 behind them
constexpr int kNativeC = 0;                        // of bf16 products
constexpr int kNativeA[4] = {1, 2, 3, 4};
constexpr int kNativeB0 = 6, kNativeB1 = 7;
constexpr int64_t kTileRows = 16;
constexpr int64_t kTileBytes = 1024;  // of a full tile

// Rows of the tiles of this thread, 0 before the first use: of C and A, and of the registers between them and
// the last two, which are C and A, or B. The shape stays until another is asked for: it travels with the
// thread, and a system that lets the core sleep drops the registers by itself.
thread_local int64_t tile_height = 0, tile_middle = 0;

PACELINE_INLINE void ShapeTiles(int64_t height, int64_t middle) {
  if (height == tile_height && middle == tile_middle) return;
  const uint8_t h = static_cast<uint8_t>(height), m = static_cast<uint8_t>(middle);
  SetTiles({h, h, h, h, m, m, 16, 16});
  tile_height = height;
  tile_middle = middle;
}
// `height` rows, 1 to 16, in C and A; 16 in B.
inline void ShapeTilesForIntegers(int64_t height) { ShapeTiles(height, kTileRows); }
inline void ShapeTilesForBf16(int64_t height) { ShapeTiles(height, height); }

PACELINE_INLINE void CopyLine(void* to, const void* from) {
  Store(static_cast<float*>(to), CastF(LoadI(from)));
}
PACELINE_INLINE void ZeroLine(void* to) { Store(static_cast<float*>(to), Zero()); }
