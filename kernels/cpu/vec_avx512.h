// Sixteen fp32 lanes as one AVX-512 register; PACELINE_VNNI chooses the dot product of bytes. Included by one
// .cc file, inside its anonymous namespace: no symbol of it may be shared with another instruction set.

#define PACELINE_INLINE inline __attribute__((always_inline))

using F = __m512;
using I = __m512i;
using M = __mmask16;

PACELINE_INLINE F Set1(float x) { return _mm512_set1_ps(x); }
PACELINE_INLINE F Zero() { return _mm512_setzero_ps(); }
PACELINE_INLINE I SetI(int32_t x) { return _mm512_set1_epi32(x); }
PACELINE_INLINE I ZeroI() { return _mm512_setzero_si512(); }
PACELINE_INLINE F Load(const float* p) { return _mm512_loadu_ps(p); }
PACELINE_INLINE void Store(float* p, F x) { _mm512_storeu_ps(p, x); }
PACELINE_INLINE I LoadI(const void* p) { return _mm512_loadu_si512(p); }
// The first `count` lanes.
PACELINE_INLINE M FirstLanes(int64_t count) {
  return count >= 16 ? M{0xFFFF} : static_cast<M>((1u << count) - 1);
}
PACELINE_INLINE F LoadPart(const float* p, int64_t count) {
  return _mm512_maskz_loadu_ps(FirstLanes(count), p);
}
PACELINE_INLINE void StorePart(float* p, F x, int64_t count) {
  _mm512_mask_storeu_ps(p, FirstLanes(count), x);
}
PACELINE_INLINE F Add(F x, F y) { return _mm512_add_ps(x, y); }
PACELINE_INLINE F Sub(F x, F y) { return _mm512_sub_ps(x, y); }
PACELINE_INLINE F Mul(F x, F y) { return _mm512_mul_ps(x, y); }
PACELINE_INLINE F Div(F x, F y) { return _mm512_div_ps(x, y); }
PACELINE_INLINE F Fma(F x, F y, F z) { return _mm512_fmadd_ps(x, y, z); }
// x > y ? x : y, so y where one is NaN; and x < y ? x : y.
PACELINE_INLINE F Max(F x, F y) { return _mm512_max_ps(x, y); }
PACELINE_INLINE F Min(F x, F y) { return _mm512_min_ps(x, y); }
PACELINE_INLINE F CastF(I x) { return _mm512_castsi512_ps(x); }
PACELINE_INLINE I CastI(F x) { return _mm512_castps_si512(x); }
PACELINE_INLINE F ToFloat(I x) { return _mm512_cvtepi32_ps(x); }
PACELINE_INLINE I AddI(I x, I y) { return _mm512_add_epi32(x, y); }
PACELINE_INLINE I SubI(I x, I y) { return _mm512_sub_epi32(x, y); }
PACELINE_INLINE I MulI(I x, I y) { return _mm512_mullo_epi32(x, y); }
PACELINE_INLINE I And(I x, I y) { return _mm512_and_si512(x, y); }
PACELINE_INLINE I Or(I x, I y) { return _mm512_or_si512(x, y); }
PACELINE_INLINE I Xor(I x, I y) { return _mm512_xor_si512(x, y); }
template <int n>
PACELINE_INLINE I Shl(I x) {
  return _mm512_slli_epi32(x, n);
}
template <int n>
PACELINE_INLINE I Shr(I x) {
  return _mm512_srli_epi32(x, n);
}
template <int n>
PACELINE_INLINE I Sra(I x) {
  return _mm512_srai_epi32(x, n);
}
PACELINE_INLINE M LessI(I x, I y) { return _mm512_cmplt_epi32_mask(x, y); }
PACELINE_INLINE M EqualI(I x, I y) { return _mm512_cmpeq_epi32_mask(x, y); }
// Ordered: false where one is NaN.
PACELINE_INLINE M Less(F x, F y) { return _mm512_cmp_ps_mask(x, y, _CMP_LT_OQ); }
PACELINE_INLINE M Equal(F x, F y) { return _mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ); }
PACELINE_INLINE F Select(M m, F x, F y) { return _mm512_mask_blend_ps(m, y, x); }
PACELINE_INLINE I SelectI(M m, I x, I y) { return _mm512_mask_blend_epi32(m, y, x); }
PACELINE_INLINE uint32_t Bits(M m) { return m; }
PACELINE_INLINE float FirstOf(F x) { return _mm512_cvtss_f32(x); }

// The tree of NUMERICS, Row sums: lane i takes lane i + 8, then i + 4, i + 2, i + 1.
PACELINE_INLINE float Tree(F x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
// The trees of sixteen sums side by side: lane i is the tree of sums[i]. Every step adds the halves of two
// vectors into one.
PACELINE_INLINE F SixteenTrees(const F* sums) {
  F eights[8], fours[4], twos[2];
  for (int i = 0; i < 8; ++i)  // sums i and i + 8
    eights[i] = _mm512_add_ps(_mm512_shuffle_f32x4(sums[i], sums[i + 8], 0x44),
                              _mm512_shuffle_f32x4(sums[i], sums[i + 8], 0xEE));
  for (int i = 0; i < 4; ++i)  // i, i + 4, i + 8, i + 12, four lanes each
    fours[i] = _mm512_add_ps(_mm512_shuffle_f32x4(eights[i], eights[i + 4], 0x88),
                             _mm512_shuffle_f32x4(eights[i], eights[i + 4], 0xDD));
  // Quarters now hold i, i + 8, i + 4, i + 12.
  for (int i = 0; i < 2; ++i)
    twos[i] = _mm512_add_ps(_mm512_shuffle_ps(fours[i], fours[i + 2], 0x44),
                            _mm512_shuffle_ps(fours[i], fours[i + 2], 0xEE));
  const F ones =
      _mm512_add_ps(_mm512_shuffle_ps(twos[0], twos[1], 0x88), _mm512_shuffle_ps(twos[0], twos[1], 0xDD));
  // Quarter q holds, from its base b = 0, 8, 4, 12: b, b + 2, b + 1, b + 3.
  const I order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return _mm512_permutexvar_ps(order, ones);
}
PACELINE_INLINE float TreeMax(F x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

PACELINE_INLINE I LoadU8(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
PACELINE_INLINE I LoadU16(const uint16_t* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
PACELINE_INLINE F LoadF16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
// E4M3 codes that are all numbers. Their bits, moved up, are those of a half of 2^-8 the value: the
// conversion is exact, subnormals included. Sign extension puts the sign into bits 15 and 14; 14 is cleared.
// "Small" is 2^-8 of the value, without the product that makes it whole.
PACELINE_INLINE F LoadSmallE4M3(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_cvtph_ps(
      _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(static_cast<int16_t>(0xBFFF))));
}
PACELINE_INLINE F LoadE4M3(const uint8_t* p) {
  return _mm512_mul_ps(LoadSmallE4M3(p), _mm512_set1_ps(256.0f));
}
// Thirty-two of them.
PACELINE_INLINE void LoadSmallE4M3Pair(const uint8_t* p, F* to) {
  const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i half =
      _mm512_and_si512(_mm512_slli_epi16(wide, 7), _mm512_set1_epi16(static_cast<int16_t>(0xBFFF)));
  to[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(half));
  to[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1));
}
// Lane i from p[i * stride].
PACELINE_INLINE F Gather(const float* p, int32_t stride) {
  const I lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_i32gather_ps(_mm512_mullo_epi32(lanes, _mm512_set1_epi32(stride)), p, 4);
}
// Lane i of to[j] from p[4 i + j].
PACELINE_INLINE void LoadFours(const float* p, F* to) {
  const I even = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
  const F quarters[4] = {Load(p), Load(p + 16), Load(p + 32), Load(p + 48)};
  for (int j = 0; j < 4; j += 2) {
    const I order = _mm512_add_epi32(even, _mm512_set1_epi32(j));
    const F low = _mm512_permutex2var_ps(quarters[0], order, quarters[1]);
    const F high = _mm512_permutex2var_ps(quarters[2], order, quarters[3]);
    to[j] = _mm512_shuffle_f32x4(low, high, 0x44);
    to[j + 1] = _mm512_shuffle_f32x4(low, high, 0xEE);
  }
}
// The low 16 bits of every lane.
PACELINE_INLINE void StoreLow16(void* p, I x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x));
}
// The lanes a and b of every pair at a distance of 1, 2, 4, 8 become a + b and a - b.
PACELINE_INLINE F Butterfly(F x, F partners, M upper) {
  return _mm512_mask_sub_ps(_mm512_add_ps(partners, x), upper, partners, x);
}
PACELINE_INLINE F ButterflyOne(F x) { return Butterfly(x, _mm512_permute_ps(x, 0xB1), 0xAAAA); }
PACELINE_INLINE F ButterflyTwo(F x) { return Butterfly(x, _mm512_permute_ps(x, 0x4E), 0xCCCC); }
PACELINE_INLINE F ButterflyFour(F x) { return Butterfly(x, _mm512_shuffle_f32x4(x, x, 0xB1), 0xF0F0); }
PACELINE_INLINE F ButterflyEight(F x) { return Butterfly(x, _mm512_shuffle_f32x4(x, x, 0x4E), 0xFF00); }
// Every byte of x, 0..15, becomes that entry of the table at p.
PACELINE_INLINE I LookUpBytes(const uint8_t* p, I x) {
  const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), x);
}
// Nearest even; the values fit.
PACELINE_INLINE I RoundToInt(F x) { return _mm512_cvtps_epi32(x); }

// x, read once into a register where instructions could read it from memory twice.
PACELINE_INLINE I Once(I x) {
  __asm__("" : "+v"(x));
  return x;
}

// Operands of 16 outputs x 4 inputs, and their products with four prepared codes of one row, which stand in
// every lane.
struct Codes {
  I a, b;
};
PACELINE_INLINE Codes LoadCodes(const int32_t* codes) { return {SetI(codes[0]), SetI(codes[1])}; }
#if PACELINE_VNNI
using Operand = I;  // unsigned bytes
struct Dot {
  I a, b;  // of the high plane, of the low plane
};
PACELINE_INLINE Operand Low4(I line) { return And(line, SetI(0x0F0F0F0F)); }
PACELINE_INLINE Operand High4(I line) { return And(Shr<4>(line), SetI(0x0F0F0F0F)); }
PACELINE_INLINE Operand Whole8(I line) { return line; }
// In assembly, because GCC 12 moves every sum of the intrinsic to another register and back in each round of
// a loop, and spills where that leaves too few.
PACELINE_INLINE void Accumulate(Dot& dot, Operand w, Codes codes) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(dot.a) : "v"(w), "v"(codes.a));
  __asm__("vpdpbusd %2, %1, %0" : "+v"(dot.b) : "v"(w), "v"(codes.b));
}
PACELINE_INLINE void AccumulateAt(Dot& dot, Operand w, const int32_t* codes) {
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(dot.a) : "v"(w), "m"(codes[0]));
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(dot.b) : "v"(w), "m"(codes[1]));
}
PACELINE_INLINE Dot StartDot(I start) { return {ZeroI(), start}; }
PACELINE_INLINE Dot JoinDots(const Dot& x, const Dot& y) { return {AddI(x.a, y.a), AddI(x.b, y.b)}; }
PACELINE_INLINE I Finish(const Dot& dot) { return AddI(Shl<8>(dot.a), dot.b); }
// Eight codes for Accumulate: high bytes 0..3, low bytes 0..3, high 4..7, low 4..7. The low plane is the
// signed low byte, the high plane what is left, divided by 256.
PACELINE_INLINE __m128i PrepareCodes(__m128i codes) {
  const __m128i low = _mm_srai_epi16(_mm_slli_epi16(codes, 8), 8);
  const __m128i high = _mm_srai_epi16(_mm_sub_epi16(codes, low), 8);
  return _mm_shuffle_epi32(_mm_packs_epi16(high, low), 0xD8);
}
constexpr int kCodePanels = 2;  // panels of a tile of codes, from kPairRows rows on
constexpr int kPairRows = 3;
constexpr int kCodeRows = 6;  // of the largest tile of codes
#else
struct Operand {
  I even, odd;  // inputs 0 and 2, 1 and 3, as int16
};
struct Dot {
  I a;
};
PACELINE_INLINE Operand Low4(I line) {
  const I mask = SetI(0x000F000F);
  return {And(line, mask), And(Shr<8>(line), mask)};
}
PACELINE_INLINE Operand High4(I line) { return Low4(Shr<4>(line)); }
PACELINE_INLINE I MultiplyPairs(I x, I y) { return _mm512_madd_epi16(x, y); }
// Unsigned bytes times signed ones, neighbours added into 16 bits; sums of 16 bits.
PACELINE_INLINE I MultiplyBytes(I x, I y) { return _mm512_maddubs_epi16(x, y); }
PACELINE_INLINE I AddI16(I x, I y) { return _mm512_add_epi16(x, y); }
PACELINE_INLINE Operand Whole8(I line) {
  const I mask = SetI(0x00FF00FF);
  return {And(line, mask), And(Shr<8>(line), mask)};
}
PACELINE_INLINE void Accumulate(Dot& dot, const Operand& w, const Codes& codes) {
  dot.a = AddI(dot.a, AddI(_mm512_madd_epi16(w.even, codes.a), _mm512_madd_epi16(w.odd, codes.b)));
}
PACELINE_INLINE void AccumulateAt(Dot& dot, const Operand& w, const int32_t* codes) {
  Accumulate(dot, w, LoadCodes(codes));
}
PACELINE_INLINE Dot StartDot(I start) { return {start}; }
PACELINE_INLINE Dot JoinDots(const Dot& x, const Dot& y) { return {AddI(x.a, y.a)}; }
PACELINE_INLINE I Finish(const Dot& dot) { return dot.a; }
// Eight codes for Accumulate: (0, 2), (1, 3), (4, 6), (5, 7).
PACELINE_INLINE __m128i PrepareCodes(__m128i codes) {
  return _mm_shuffle_epi8(codes, _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
}
constexpr int kCodePanels = 2;  // panels of a tile of codes, from kPairRows rows on
constexpr int kPairRows = 3;
constexpr int kCodeRows = 6;  // of the largest tile of codes
#endif

// Sixteen sums of rne(x_i * 2^32).
struct Fixed {
  __m512i low, high;
};
PACELINE_INLINE Fixed ZeroFixed() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
// What AddUnits takes: x times this.
constexpr float kFixedUnits = 0x1p32f;
PACELINE_INLINE void AddUnits(Fixed& sums, F scaled) {
  sums.low = _mm512_add_epi64(sums.low, _mm512_cvtps_epi64(_mm512_castps512_ps256(scaled)));
  // By way of memory: the units that would take the halves apart are the ones that are busy.
  alignas(64) float halves[16];
  _mm512_store_ps(halves, scaled);
  asm("" : "+m"(halves));
  sums.high = _mm512_add_epi64(sums.high, _mm512_cvtps_epi64(_mm256_load_ps(halves + 8)));
}
// The product is exact, whatever x: a power of two, upwards.
PACELINE_INLINE void AddFixed(Fixed& sums, F x) { AddUnits(sums, Mul(x, Set1(kFixedUnits))); }
PACELINE_INLINE void AddTo(int64_t* to, const Fixed& sums) {
  _mm512_storeu_si512(to, _mm512_add_epi64(_mm512_loadu_si512(to), sums.low));
  _mm512_storeu_si512(to + 8, _mm512_add_epi64(_mm512_loadu_si512(to + 8), sums.high));
}
// int64 rounded once to fp32.
PACELINE_INLINE F FromFixed(const int64_t* p) {
  const __m256 low = _mm512_cvtepi64_ps(_mm512_loadu_si512(p));
  const __m256 high = _mm512_cvtepi64_ps(_mm512_loadu_si512(p + 8));
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

// Queries whose integer sums over a panel of keys or values stay in registers.
constexpr int kCodeQueries = 8;
// Edge of a square of sums that stays in registers.
constexpr int kTile = 4;

// Vectors of 16 outputs that a float tile of `rows` rows keeps in registers.
constexpr int FloatTile(int rows) { return rows <= 6 ? 4 : 2; }
constexpr int kFloatRows = 8;  // of the largest tile
// From so many rows on, a block of float weights is made fp32 once for all of them.
constexpr int64_t kUnpackRows = 17;
