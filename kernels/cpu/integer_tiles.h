// Panels of integer weights by tile products: the interface of integer.h for machines with AMX, and for its
// emulator. NUMERICS, Integer linears. Included by one .cc file, inside its anonymous namespace.
//
// A line of packed INT4 weights holds 16 outputs x 8 inputs; its low and high nibbles are two rows of a B
// tile, so that 8 lines become one tile of 64 inputs in the nearest cache. INT8 weights lie as tiles already.
// A row of activations is one tile row per plane, the planes of a row next to each other. A term has at most
// 128 inputs, two B tiles: they are unpacked once and all row tiles sweep over them.

constexpr int64_t kTileOctets = 8;   // octets of one B tile
constexpr int64_t kSweepRows = 128;  // rows that pass by one unpacked term
constexpr int64_t kInt8Line = 128;   // bytes of an octet of INT8 weights
constexpr int64_t kInt4Line = 64;

// One row of codes as the tile products read them.
struct PreparedRow {
  const int8_t* codes;    // [planes] of plane_bytes: inputs in order, high plane first
  const int32_t* prefix;  // [octets + 1], sums of the codes before an octet
  const float* scales;    // [activation groups]
  int64_t plane_bytes;
  int32_t planes;
};

// A tile may start at any octet and reads 64 inputs: behind the last code there are zeros for it.
PACELINE_INLINE int64_t CodeBytes(int64_t octets) { return Parts(octets * kOctet, 64) * 64 + 64; }
// The sums of codes lie behind the first plane. An odd number of cache lines spreads the rows of a tile over
// the sets of the cache.
PACELINE_INLINE int64_t PlaneBytes(int64_t octets) {
  return (CodeBytes(octets) / 64 + Parts((octets + 1) * 4, 64)) / 2 * 128 + 64;
}
PACELINE_INLINE int64_t PreparedInts(int64_t octets) { return 2 * PlaneBytes(octets) / 4; }

// Fills `memory` of PreparedInts(octets of count).
inline PreparedRow PrepareRow(const int16_t* codes, int64_t count, const float* scales, int32_t* memory,
                              ActivationContract contract) {
  const int64_t octets = Parts(count, kOctet), plane_bytes = PlaneBytes(octets);
  const int32_t planes = contract == ActivationContract::kInt16 ? 2 : 1;
  int8_t* first = reinterpret_cast<int8_t*>(memory);
  int8_t* last = first + (planes - 1) * plane_bytes;  // the low plane
  int32_t* prefix = memory + CodeBytes(octets) / 4;
  uint32_t sum = 0;
  for (int64_t o = 0; o < octets; ++o) {
    const __m128i eight = LoadOctet(codes, count, o);
    // The low plane is the signed low byte, the high plane what is left, divided by 256.
    const __m128i low = _mm_srai_epi16(_mm_slli_epi16(eight, 8), 8);
    const __m128i high = _mm_srai_epi16(_mm_sub_epi16(eight, low), 8);
    const __m128i bytes = _mm_packs_epi16(high, low);
    if (planes == 2) _mm_storel_epi64(reinterpret_cast<__m128i*>(first + o * kOctet), bytes);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(last + o * kOctet), _mm_unpackhi_epi64(bytes, bytes));
    const __m128i pairs = _mm_madd_epi16(eight, _mm_set1_epi16(1));
    const __m128i two = _mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0x4E));
    const __m128i one = _mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1));
    prefix[o] = static_cast<int32_t>(sum);
    sum += static_cast<uint32_t>(_mm_cvtsi128_si32(one));
  }
  prefix[octets] = static_cast<int32_t>(sum);
  for (int32_t p = 0; p < planes; ++p) {
    for (int64_t i = octets * kOctet; i < CodeBytes(octets); ++i) first[p * plane_bytes + i] = 0;
  }
  return {first, prefix, scales, plane_bytes, planes};
}

// The B tile of up to 8 octets at `from`, 64 bytes a row. Octets that the tile has and the term has not are
// zeros: whatever codes stand there, they add nothing.
template <bool int4>
PACELINE_INLINE const uint8_t* TileOfWeights(const uint8_t* from, int64_t octets, uint8_t* memory) {
  for (int64_t i = 0; i < octets * (int4 ? kInt4Line : kInt8Line); i += 64) Prefetch(from + kAhead + i);
  if (!int4 && octets == kTileOctets) return from;
  if (octets < kTileOctets) {
    for (int64_t i = 0; i < kTileBytes; i += 64) ZeroLine(memory + i);
  }
  const I low4 = SetI(0x0F0F0F0F);
  for (int64_t o = 0; o < octets; ++o) {
    uint8_t* to = memory + o * 128;
    if (int4) {
      const I raw = LoadI(from + o * kInt4Line);
      Store(reinterpret_cast<float*>(to), CastF(And(raw, low4)));
      Store(reinterpret_cast<float*>(to + 64), CastF(And(Shr<4>(raw), low4)));
    } else {
      CopyLine(to, from + o * kInt8Line);
      CopyLine(to + 64, from + o * kInt8Line + 64);
    }
  }
  return memory;
}

// Products of one row tile with the one or two B tiles of a term, stored to dots [tile rows][16].
template <int c, int a0, int a1>
PACELINE_INLINE void TileDots(const int8_t* codes, int64_t pitch, bool second, int32_t* dots) {
  ZeroTile<c>();
  LoadTile<a0>(codes, pitch);
  DotSignedUnsigned<c, a0, kB0>();
  if (second) {
    LoadTile<a1>(codes + 64, pitch);
    DotSignedUnsigned<c, a1, kB1>();
  }
  StoreTile<c>(dots, 64);
}

// Bytes from one tile row to the next when the rows of a tile lie evenly, or 0.
PACELINE_INLINE int64_t RowPitch(const PreparedRow* rows, int64_t count, int planes) {
  const auto distance = [&](int64_t i) __attribute__((always_inline)) {
    return static_cast<int64_t>(reinterpret_cast<intptr_t>(rows[i + 1].codes) -
                                reinterpret_cast<intptr_t>(rows[i].codes));
  };
  if (count == 1) return rows->plane_bytes;
  const int64_t pitch = planes == 2 ? 2 * rows->plane_bytes : distance(0);
  for (int64_t i = 0; i + 1 < count; ++i) {
    if (distance(i) != pitch) return 0;
  }
  return pitch / planes;
}

// Terms [begin, end) of 16 outputs for at most kSweepRows rows; use(first + r, total).
template <bool int4, int planes, class Use>
inline void TileSweep(const Matrix& m, int64_t panel, int32_t begin, int32_t end, const PreparedRow* rows,
                      int64_t count, int64_t first_row, const Use& use) {
  constexpr int64_t kRows = kTileRows / planes;  // of activations in a full tile
  constexpr int64_t kLine = int4 ? kInt4Line : kInt8Line;
  alignas(64) uint8_t lines[2][2][kTileBytes];  // of two terms by turns: the next does not wait for the last
  alignas(64) int8_t gathered[kTileRows * 128];
  alignas(64) int32_t dots[2][kTileRows * kLanes];
  alignas(64) float totals[kSweepRows * kLanes];
  int64_t pitches[kSweepRows / kRows];
  const int64_t tiles = Parts(count, kRows);
  for (int64_t tile = 0; tile < tiles; ++tile)
    pitches[tile] = RowPitch(rows + tile * kRows, Least(kRows, count - tile * kRows), planes);
  for (int64_t i = 0; i < count * kLanes; i += kLanes) Store(totals + i, Zero());
  ShapeTilesFor(count * planes);

  const uint8_t* data = m.data + panel * m.panel_bytes;
  const int64_t scale_bytes = m.scale_format == ScaleFormat::kF32 ? 4 : 2;
  const uint8_t* scales = static_cast<const uint8_t*>(m.scales) + panel * m.groups * kLanes * scale_bytes;
  const int32_t base = m.terms[begin].first_octet, base_group = m.terms[begin].activation_group;
  for (int32_t t = begin; t < end; ++t) {
    const Term term = m.terms[t];
    Prefetch(scales + term.group * kLanes * scale_bytes + 512);
    const uint8_t* from = data + term.first_octet * kLine;
    const bool second = term.octets > kTileOctets;
    LoadTile<kB0>(TileOfWeights<int4>(from, Least(term.octets, kTileOctets), lines[t % 2][0]), 64);
    if (second) {
      LoadTile<kB1>(
          TileOfWeights<int4>(from + kTileOctets * kLine, term.octets - kTileOctets, lines[t % 2][1]), 64);
    }
    const int64_t at = (panel * m.groups + term.group) * kLanes;
    const I zero = m.zeros != nullptr ? LoadU8(m.zeros + at) : SetI(m.zero);
    const F scale = ScalesAt(m, at);
    const int64_t first = term.first_octet - base;
    const int64_t group = term.activation_group - base_group;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const PreparedRow* of = rows + tile * kRows;
      const int64_t n = Least(kRows, count - tile * kRows);
      const int8_t* codes = of->codes + first * kOctet;
      int64_t pitch = pitches[tile];
      if (pitch == 0) {
        pitch = 128;
        codes = gathered;
        for (int64_t i = 0; i < n * planes; ++i) {
          const int8_t* row = of[i / planes].codes + i % planes * of->plane_bytes + first * kOctet;
          CopyLine(gathered + i * 128, row);
          if (second) CopyLine(gathered + i * 128 + 64, row + 64);
        }
      }
      int32_t* sums = dots[tile % 2];
      if (tile > 0 && n < kRows) {
        TileDots<kCRest, kARest0, kARest1>(codes, pitch, second, sums);
      } else {
        TileDots<kC, kA0, kA1>(codes, pitch, second, sums);
      }
      for (int64_t r = 0; r < n; ++r) {
        const int32_t sum = static_cast<int32_t>(static_cast<uint32_t>(of[r].prefix[first + term.octets]) -
                                                 static_cast<uint32_t>(of[r].prefix[first]));
        I exact = LoadI(sums + r * planes * kLanes);
        if (planes == 2) exact = AddI(Shl<8>(exact), LoadI(sums + (r * planes + 1) * kLanes));
        exact = SubI(exact, MulI(zero, SetI(sum)));
        float* total = totals + (tile * kRows + r) * kLanes;
        Store(total, Fma(ToFloat(exact), Mul(scale, Set1(of[r].scales[group])), Load(total)));
      }
    }
  }
  for (int64_t r = 0; r < count; ++r) use(first_row + r, Load(totals + r * kLanes));
}

template <bool int4, int planes, class Use>
PACELINE_INLINE void TilePanel(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                               const PreparedRow* rows, int64_t count, const Use& use) {
  for (int64_t row = 0; row < count; row += kSweepRows)
    TileSweep<int4, planes>(m, panel, begin, end, rows + row, Least(kSweepRows, count - row), row, use);
}
// Calls `use(row, total)` with 16 outputs of every row. All rows are of one contract. The prepared rows start
// at the first octet and activation group of the first term.
template <class Use>
PACELINE_INLINE void IntegerPanel(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                                  const PreparedRow* rows, int64_t count, const Use& use) {
  if (count == 0) return;
  const bool two = rows->planes == 2;
  if (m.format == WeightFormat::kInt4) {
    if (two) return TilePanel<true, 2>(m, panel, begin, end, rows, count, use);
    return TilePanel<true, 1>(m, panel, begin, end, rows, count, use);
  }
  if (two) return TilePanel<false, 2>(m, panel, begin, end, rows, count, use);
  TilePanel<false, 1>(m, panel, begin, end, rows, count, use);
}
// Panels [first, end); `use(row, panel, total)`. Each asks for its own weights ahead.
template <class Use>
PACELINE_INLINE void IntegerPanels(const Matrix& m, int64_t first, int64_t end, const uint8_t*,
                                   const PreparedRow* rows, int64_t count, const Use& use) {
  const int32_t terms = m.first_term[ActivationGroups(m.inputs)];
  for (int64_t panel = first; panel < end; ++panel)
    IntegerPanel(m, panel, 0, terms, rows, count, [&](int64_t r, F total) { use(r, panel, total); });
}
