// The tile registers of Intel AMX (Intel SDM volume 2, LDTILECFG, TILELOADD, TDPBSUD, TDPBF16PS): eight of up
// to 16 rows x 64 bytes. tiles_emulated.h has the same names in plain code. Included by one .cc file, inside
// its anonymous namespace.
//
// Own assembly instead of the compiler's macros: GCC 12 tells its optimiser that _tile_loadconfig reads 8 of
// the 64 bytes and that _tile_loadd reads nothing, so that stores in front of them may be dropped or moved
// behind. Here the whole operand, or all of memory, is named.

// Gives register i rows[i] rows, 1 to 16, of 64 bytes. What the registers held is lost. The permission to use
// tiles is the process's (select.cc); their shape and contents are the thread's.
PACELINE_INLINE void SetTiles(const uint8_t (&rows)[8]) {
  struct alignas(64) Config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
  static_assert(sizeof(Config) == 64, "LDTILECFG reads 64 bytes");
  Config config = {};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = rows[i];
  }
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

template <int tile>
PACELINE_INLINE void ZeroTile() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(tile));
}
// Row i of the tile from p + i * pitch bytes.
template <int tile>
PACELINE_INLINE void LoadTile(const void* p, int64_t pitch) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(pitch), "i"(tile) : "memory");
}
template <int tile>
PACELINE_INLINE void StoreTile(void* p, int64_t pitch) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(pitch), "i"(tile) : "memory");
}
// c [rows, 16 int32] += a [rows, 64 signed bytes] times b [16 fours of inputs, 16 outputs x 4 unsigned
// bytes].
template <int c, int a, int b>
PACELINE_INLINE void DotSignedUnsigned() {
  __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}
// c [rows, 16 fp32] += a [rows, 32 bf16] times b [16 pairs of inputs, 16 outputs x 2 bf16]. NUMERICS, Native
// float linears.
template <int c, int a, int b>
PACELINE_INLINE void DotBf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}
