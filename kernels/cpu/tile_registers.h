// What the eight tile registers are for, and their shapes. Included by one .cc file, inside its anonymous
// namespace, behind tiles.h or tiles_emulated.h.
//
// A product C += A * B has the rows of activations in A and C, 16 outputs in B and C. Rows come in tiles of
// 16; the last tile may be lower and has registers of its own, because the tile unit takes a cycle per row.

constexpr int kC = 0, kCRest = 1;
constexpr int kA0 = 2, kA1 = 3, kARest0 = 4, kARest1 = 5;
constexpr int kB0 = 6, kB1 = 7;
constexpr int64_t kTileRows = 16;
constexpr int64_t kTileBytes = 1024;  // of a full tile

// Heights of the tiles of this thread, 0 before the first use. The shape stays until another is asked for:
// it travels with the thread, and a system that lets the core sleep drops the registers by itself.
thread_local int tile_height = 0, tile_rest = 0;

// `height` rows in kC, kA0 and kA1, `rest` rows in the others, 16 in kB0 and kB1.
inline void ShapeTiles(int height, int rest) {
  if (height == tile_height && rest == tile_rest) return;
  const uint8_t h = static_cast<uint8_t>(height), r = static_cast<uint8_t>(rest);
  SetTiles({h, r, h, h, r, r, 16, 16});
  tile_height = height;
  tile_rest = rest;
}
// For `rows` rows of tiles, of which the last may be low.
inline void ShapeTilesFor(int64_t rows) {
  const int rest = static_cast<int>(rows % kTileRows);
  if (rows < kTileRows) return ShapeTiles(rest, 1);
  ShapeTiles(static_cast<int>(kTileRows), rest == 0 ? 1 : rest);
}

PACELINE_INLINE void CopyLine(void* to, const void* from) {
  Store(static_cast<float*>(to), CastF(LoadI(from)));
}
PACELINE_INLINE void ZeroLine(void* to) { Store(static_cast<float*>(to), Zero()); }
