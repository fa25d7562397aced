// Rows of activation codes as tile products read them, and when they do. Included by one .cc file, inside its
// anonymous namespace, behind integer.h.

constexpr int64_t kGroupOctets = kActivationGroup / kOctet;

// From so many rows on, tiles are faster than dot products of vectors. The emulator's say nothing about
// speed: it leaves single rows to them, so that both ways meet in a step.
PACELINE_INLINE bool TakesTiles(const Matrix& m, ActivationContract contract, int64_t rows) {
#ifndef PACELINE_TILES
  return false;
#endif
  if (!PACELINE_VNNI) return rows >= 2;
  const bool int4 = m.format == WeightFormat::kInt4;
  if (contract == ActivationContract::kInt8) return rows >= 8;
  return rows >= (int4 ? 5 : 2);
}

// Where the parts of a row of codes stand, in bytes. The high plane comes first. A tile may start at any
// octet and reads 64 inputs: behind the last code is memory for it. Sums of codes in front of an octet start
// anew in every activation group, 17 for each.
struct TileRowShape {
  int64_t octets, groups;
  int64_t planes;
  int64_t plane_bytes;
  int64_t sums_at, scales_at;
  int64_t row_bytes;
};
inline TileRowShape ShapeOfRows(int64_t width, ActivationContract contract) {
  TileRowShape s;
  s.octets = Parts(width, kOctet);
  s.groups = Parts(s.octets, kGroupOctets);
  s.planes = contract == ActivationContract::kInt16 ? 2 : 1;
  const int64_t codes = Parts(s.octets * kOctet, 64) * 64 + 64;
  // An odd number of cache lines spreads the rows of a tile over the sets of the cache.
  s.plane_bytes = (codes / 64 + Parts(s.groups * (kGroupOctets + 1) * 4, 64)) / 2 * 128 + 64;
  s.sums_at = codes;
  s.scales_at = s.plane_bytes + codes;
  s.row_bytes = 2 * s.plane_bytes;
  return s;
}

// Fills one activation group of a row: `count` codes with their scale.
inline void PrepareTileGroup(const int16_t* codes, int64_t count, float scale, int64_t group,
                             const TileRowShape& shape, int8_t* row) {
  int8_t* first = row + group * kActivationGroup;
  int8_t* last = first + (shape.planes - 1) * shape.plane_bytes;  // the low plane
  int32_t* sums = reinterpret_cast<int32_t*>(row + shape.sums_at) + group * (kGroupOctets + 1);
  reinterpret_cast<float*>(row + shape.scales_at)[group] = scale;
  uint32_t sum = 0;
  const int64_t octets = Parts(count, kOctet);
  for (int64_t o = 0; o < octets; ++o) {
    const __m128i eight = LoadOctet(codes, count, o);
    // The low plane is the signed low byte, the high plane what is left, divided by 256.
    const __m128i low = _mm_srai_epi16(_mm_slli_epi16(eight, 8), 8);
    const __m128i high = _mm_srai_epi16(_mm_sub_epi16(eight, low), 8);
    const __m128i bytes = _mm_packs_epi16(high, low);
    if (shape.planes == 2) _mm_storel_epi64(reinterpret_cast<__m128i*>(first + o * kOctet), bytes);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(last + o * kOctet), _mm_unpackhi_epi64(bytes, bytes));
    const __m128i pairs = _mm_madd_epi16(eight, _mm_set1_epi16(1));
    const __m128i two = _mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0x4E));
    const __m128i one = _mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1));
    sums[o] = static_cast<int32_t>(sum);
    sum += static_cast<uint32_t>(_mm_cvtsi128_si32(one));
  }
  sums[octets] = static_cast<int32_t>(sum);
  if (group + 1 < shape.groups) return;
  for (int64_t p = 0; p < shape.planes; ++p) {
    for (int64_t i = shape.octets * kOctet; i < shape.sums_at; ++i) row[p * shape.plane_bytes + i] = 0;
  }
}
inline void PrepareTileRow(const int16_t* codes, int64_t width, const float* scales,
                           const TileRowShape& shape, int8_t* row) {
  for (int64_t g = 0; g < shape.groups; ++g) {
    const int64_t begin = g * kActivationGroup;
    PrepareTileGroup(codes + begin, Least(kActivationGroup, width - begin), scales[g], g, shape, row);
  }
}
