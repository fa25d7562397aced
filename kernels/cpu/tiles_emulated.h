// Tile registers in plain code, with the names of tiles.h: what `--isa amx-emulated` runs on, so that layout
// and arithmetic of the tile kernels are tested on any machine. Faults where the hardware would (Intel SDM
// volume 2, TILELOADD, TDPBSUD, TDPBF16PS). Included by one .cc file, inside its anonymous namespace.

struct EmulatedTiles {
  uint8_t rows[8];  // 0: not configured
  alignas(64) uint8_t data[8][16][64];
};
// Zeros from the start, so that no file of another instruction set shares an initialiser.
thread_local EmulatedTiles emulated_tiles;

inline void SetTiles(const uint8_t (&rows)[8]) {
  EmulatedTiles& t = emulated_tiles;
  for (int i = 0; i < 8; ++i) {
    Require(rows[i] >= 1 && rows[i] <= 16, "a tile of fewer than 1 or more than 16 rows");
    t.rows[i] = rows[i];
    // LDTILECFG zeroes the registers; garbage instead would do as well, but not the last shape's contents.
    for (auto& row : t.data[i]) {
      for (uint8_t& byte : row) byte = 0;
    }
  }
}

template <int tile>
inline void ZeroTile() {
  static_assert(tile >= 0 && tile < 8, "there are eight tiles");
  EmulatedTiles& t = emulated_tiles;
  Require(t.rows[tile] != 0, "a tile is used before tiles have a shape");
  for (auto& row : t.data[tile]) {
    for (uint8_t& byte : row) byte = 0;
  }
}
template <int tile>
inline void LoadTile(const void* p, int64_t pitch) {
  ZeroTile<tile>();
  EmulatedTiles& t = emulated_tiles;
  for (int i = 0; i < t.rows[tile]; ++i) {
    const uint8_t* from = static_cast<const uint8_t*>(p) + i * pitch;
    for (int j = 0; j < 64; ++j) t.data[tile][i][j] = from[j];
  }
}
template <int tile>
inline void StoreTile(void* p, int64_t pitch) {
  const EmulatedTiles& t = emulated_tiles;
  Require(t.rows[tile] != 0, "a tile is stored before tiles have a shape");
  for (int i = 0; i < t.rows[tile]; ++i) {
    uint8_t* to = static_cast<uint8_t*>(p) + i * pitch;
    for (int j = 0; j < 64; ++j) to[j] = t.data[tile][i][j];
  }
}

// The shapes that a product of tiles must have.
template <int c, int a, int b>
inline void RequireProduct() {
  static_assert(c != a && a != b && c != b, "a product takes three different tiles");
  const EmulatedTiles& t = emulated_tiles;
  Require(t.rows[c] != 0 && t.rows[c] == t.rows[a], "a product's rows differ from its left side's");
  Require(t.rows[b] == 16, "the right side of a product has 16 rows of 4 bytes per output");
}

template <int c, int a, int b>
inline void DotSignedUnsigned() {
  RequireProduct<c, a, b>();
  EmulatedTiles& t = emulated_tiles;
  for (int row = 0; row < t.rows[c]; ++row) {
    int32_t sums[16];
    __builtin_memcpy(sums, t.data[c][row], 64);
    for (int k = 0; k < 16; ++k) {
      int32_t left[4];
      for (int j = 0; j < 4; ++j) left[j] = static_cast<int8_t>(t.data[a][row][4 * k + j]);
      const uint8_t* right = t.data[b][k];  // [16 outputs][4]
      for (int n = 0; n < 16; ++n) {
        sums[n] += left[0] * right[4 * n] + left[1] * right[4 * n + 1] + left[2] * right[4 * n + 2] +
                   left[3] * right[4 * n + 3];
      }
    }
    __builtin_memcpy(t.data[c][row], sums, 64);
  }
}

// MXCSR with "denormals are zero" and "flush to zero", as the tile unit always has it, while this lives. The
// compiler does not know that arithmetic depends on it: operands must come from memory behind the
// constructor, and results go to memory in front of the destructor.
class FlushedSubnormals {
 public:
  FlushedSubnormals() : saved_(_mm_getcsr()) {
    _mm_setcsr(saved_ | 0x8040);
    __asm__ volatile("" : : : "memory");
  }
  ~FlushedSubnormals() {
    __asm__ volatile("" : : : "memory");
    _mm_setcsr(saved_);
  }
  FlushedSubnormals(const FlushedSubnormals&) = delete;
  FlushedSubnormals& operator=(const FlushedSubnormals&) = delete;

 private:
  const uint32_t saved_;
};

template <int c, int a, int b>
__attribute__((noinline)) void DotBf16() {
  RequireProduct<c, a, b>();
  EmulatedTiles& t = emulated_tiles;
  const FlushedSubnormals flushed;
  for (int row = 0; row < t.rows[c]; ++row) {
    F even = Zero(), odd = Zero();
    for (int k = 0; k < 16; ++k) {
      int32_t left;
      __builtin_memcpy(&left, t.data[a][row] + 4 * k, 4);
      const I right = LoadI(t.data[b][k]);
      const I high = SetI(static_cast<int32_t>(0xFFFF0000));
      even = Fma(CastF(Shl<16>(SetI(left))), CastF(Shl<16>(right)), even);
      odd = Fma(CastF(And(SetI(left), high)), CastF(And(right, high)), odd);
    }
    float* to = reinterpret_cast<float*>(t.data[c][row]);
    Store(to, Add(Load(to), Add(even, odd)));
  }
}
