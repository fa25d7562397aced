// Sixteen fp32 lanes as two AVX2 registers. Included by one .cc file, inside its anonymous namespace: no
// symbol of it may be shared with another instruction set.

#define PACELINE_INLINE inline __attribute__((always_inline))

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
using M = I;  // all ones in the lanes that hold

PACELINE_INLINE F Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
PACELINE_INLINE F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
PACELINE_INLINE I SetI(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
PACELINE_INLINE I ZeroI() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
PACELINE_INLINE F Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
PACELINE_INLINE void Store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
PACELINE_INLINE I LoadI(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
// The first `count` lanes.
PACELINE_INLINE M FirstLanes(int64_t count) {
  const __m256i n = _mm256_set1_epi32(static_cast<int32_t>(count));
  return {_mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_cmpgt_epi32(n, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
PACELINE_INLINE F LoadPart(const float* p, int64_t count) {
  const M m = FirstLanes(count);
  return {_mm256_maskload_ps(p, m.a), _mm256_maskload_ps(p + 8, m.b)};
}
PACELINE_INLINE void StorePart(float* p, F x, int64_t count) {
  const M m = FirstLanes(count);
  _mm256_maskstore_ps(p, m.a, x.a);
  _mm256_maskstore_ps(p + 8, m.b, x.b);
}
PACELINE_INLINE F Add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
PACELINE_INLINE F Sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
PACELINE_INLINE F Mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
PACELINE_INLINE F Div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
PACELINE_INLINE F Fma(F x, F y, F z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
// x > y ? x : y, so y where one is NaN; and x < y ? x : y.
PACELINE_INLINE F Max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
PACELINE_INLINE F Min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
PACELINE_INLINE F CastF(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
PACELINE_INLINE I CastI(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
PACELINE_INLINE F ToFloat(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
PACELINE_INLINE I AddI(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
PACELINE_INLINE I SubI(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
PACELINE_INLINE I MulI(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
PACELINE_INLINE I And(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
PACELINE_INLINE I Or(I x, I y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
PACELINE_INLINE I Xor(I x, I y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
template <int n>
PACELINE_INLINE I Shl(I x) {
  return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
template <int n>
PACELINE_INLINE I Shr(I x) {
  return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)};
}
template <int n>
PACELINE_INLINE I Sra(I x) {
  return {_mm256_srai_epi32(x.a, n), _mm256_srai_epi32(x.b, n)};
}
PACELINE_INLINE M LessI(I x, I y) { return {_mm256_cmpgt_epi32(y.a, x.a), _mm256_cmpgt_epi32(y.b, x.b)}; }
PACELINE_INLINE M EqualI(I x, I y) { return {_mm256_cmpeq_epi32(x.a, y.a), _mm256_cmpeq_epi32(x.b, y.b)}; }
// Ordered: false where one is NaN.
PACELINE_INLINE M Less(F x, F y) {
  return CastI({_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)});
}
PACELINE_INLINE M Equal(F x, F y) {
  return CastI({_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)});
}
PACELINE_INLINE F Select(M m, F x, F y) {
  return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(m.a)),
          _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(m.b))};
}
PACELINE_INLINE I SelectI(M m, I x, I y) {
  return {_mm256_blendv_epi8(y.a, x.a, m.a), _mm256_blendv_epi8(y.b, x.b, m.b)};
}
PACELINE_INLINE uint32_t Bits(M m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(m.a))) |
         static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(m.b))) << 8;
}
PACELINE_INLINE float FirstOf(F x) { return _mm256_cvtss_f32(x.a); }

// The tree of NUMERICS, Row sums: lane i takes lane i + 8, then i + 4, i + 2, i + 1.
PACELINE_INLINE float Tree(F x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
PACELINE_INLINE F SixteenTrees(const F* sums) {
  alignas(32) float trees[16];
  for (int i = 0; i < 16; ++i) trees[i] = Tree(sums[i]);
  return Load(trees);
}
PACELINE_INLINE float TreeMax(F x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

PACELINE_INLINE I LoadU8(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
}
PACELINE_INLINE I LoadU16(const uint16_t* p) {
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
PACELINE_INLINE F LoadF16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
// Sixteen E4M3 codes that are all numbers. Their bits, moved up, are those of a half of 2^-8 the value: the
// conversion is exact, subnormals included. Sign extension puts the sign into bits 15 and 14; 14 is cleared.
// "Small" is 2^-8 of the value, without the product that makes it whole.
PACELINE_INLINE F LoadSmallE4M3(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i half =
      _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(static_cast<int16_t>(0xBFFF)));
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)), _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
}
PACELINE_INLINE F LoadE4M3(const uint8_t* p) { return Mul(LoadSmallE4M3(p), Set1(256.0f)); }
PACELINE_INLINE void LoadSmallE4M3Pair(const uint8_t* p, F* to) {
  to[0] = LoadSmallE4M3(p);
  to[1] = LoadSmallE4M3(p + 16);
}
// Lane i from p[i * stride].
PACELINE_INLINE F Gather(const float* p, int32_t stride) {
  const __m256i at = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(stride));
  return {_mm256_i32gather_ps(p, at, 4), _mm256_i32gather_ps(p + 8 * int64_t{stride}, at, 4)};
}
// Lane i of to[j] from p[4 i + j].
PACELINE_INLINE void LoadFours(const float* p, F* to) {
  for (int j = 0; j < 4; ++j) to[j] = Gather(p + j, 4);
}
// The low 16 bits of every lane.
PACELINE_INLINE void StoreLow16(void* p, I x) {
  const __m256i low = _mm256_set1_epi32(0xFFFF);
  const __m256i packed = _mm256_packus_epi32(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low));
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));
}
// The lanes a and b of every pair at a distance of 1, 2, 4, 8 become a + b and a - b.
template <int upper>
PACELINE_INLINE __m256 Butterfly(__m256 x, __m256 partners) {
  return _mm256_blend_ps(_mm256_add_ps(partners, x), _mm256_sub_ps(partners, x), upper);
}
PACELINE_INLINE F ButterflyOne(F x) {
  return {Butterfly<0xAA>(x.a, _mm256_permute_ps(x.a, 0xB1)),
          Butterfly<0xAA>(x.b, _mm256_permute_ps(x.b, 0xB1))};
}
PACELINE_INLINE F ButterflyTwo(F x) {
  return {Butterfly<0xCC>(x.a, _mm256_permute_ps(x.a, 0x4E)),
          Butterfly<0xCC>(x.b, _mm256_permute_ps(x.b, 0x4E))};
}
PACELINE_INLINE F ButterflyFour(F x) {
  return {Butterfly<0xF0>(x.a, _mm256_permute2f128_ps(x.a, x.a, 1)),
          Butterfly<0xF0>(x.b, _mm256_permute2f128_ps(x.b, x.b, 1))};
}
PACELINE_INLINE F ButterflyEight(F x) { return {_mm256_add_ps(x.a, x.b), _mm256_sub_ps(x.a, x.b)}; }
// Every byte of x, 0..15, becomes that entry of the table at p.
PACELINE_INLINE I LookUpBytes(const uint8_t* p, I x) {
  const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_shuffle_epi8(table, x.a), _mm256_shuffle_epi8(table, x.b)};
}
// Nearest even; the values fit.
PACELINE_INLINE I RoundToInt(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }

// As it is: sixteen registers hold no more than the sums.
PACELINE_INLINE I Once(I x) { return x; }

// Operands of 16 outputs x 4 inputs, and their products with four prepared codes of one row, which stand in
// every lane.
struct Codes {
  I a, b;
};
PACELINE_INLINE Codes LoadCodes(const int32_t* codes) { return {SetI(codes[0]), SetI(codes[1])}; }
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
PACELINE_INLINE Operand Whole8(I line) {
  const I mask = SetI(0x00FF00FF);
  return {And(line, mask), And(Shr<8>(line), mask)};
}
PACELINE_INLINE I MultiplyPairs(I x, I y) {
  return {_mm256_madd_epi16(x.a, y.a), _mm256_madd_epi16(x.b, y.b)};
}
// Unsigned bytes times signed ones, neighbours added into 16 bits; sums of 16 bits.
PACELINE_INLINE I MultiplyBytes(I x, I y) {
  return {_mm256_maddubs_epi16(x.a, y.a), _mm256_maddubs_epi16(x.b, y.b)};
}
PACELINE_INLINE I AddI16(I x, I y) { return {_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)}; }
PACELINE_INLINE void Accumulate(Dot& dot, const Operand& w, const Codes& codes) {
  dot.a = AddI(dot.a, AddI(MultiplyPairs(w.even, codes.a), MultiplyPairs(w.odd, codes.b)));
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

// Four doubles of magnitude < 2^22 times 2^32, rounded to nearest even, as int64. Whole part and rest are
// exact, and each fits the trick with 1.5 * 2^52.
PACELINE_INLINE __m256i ToFixed4(__m256d x) {
  const __m256d magic = _mm256_set1_pd(0x1.8p52);
  const __m256i magic_bits = _mm256_castpd_si256(magic);
  const __m256d whole_shifted = _mm256_add_pd(x, magic);
  const __m256d rest = _mm256_sub_pd(x, _mm256_sub_pd(whole_shifted, magic));
  const __m256d rest_shifted = _mm256_add_pd(_mm256_mul_pd(rest, _mm256_set1_pd(0x1p32)), magic);
  const __m256i whole = _mm256_sub_epi64(_mm256_castpd_si256(whole_shifted), magic_bits);
  const __m256i fraction = _mm256_sub_epi64(_mm256_castpd_si256(rest_shifted), magic_bits);
  return _mm256_add_epi64(_mm256_slli_epi64(whole, 32), fraction);
}
// Sixteen sums of rne(x_i * 2^32).
struct Fixed {
  __m256i quarters[4];
};
PACELINE_INLINE Fixed ZeroFixed() {
  const __m256i zero = _mm256_setzero_si256();
  return {{zero, zero, zero, zero}};
}
PACELINE_INLINE void AddFixed(Fixed& sums, F x) {
  const __m128 quarters[4] = {_mm256_castps256_ps128(x.a), _mm256_extractf128_ps(x.a, 1),
                              _mm256_castps256_ps128(x.b), _mm256_extractf128_ps(x.b, 1)};
  for (int i = 0; i < 4; ++i)
    sums.quarters[i] = _mm256_add_epi64(sums.quarters[i], ToFixed4(_mm256_cvtps_pd(quarters[i])));
}
// Nothing is gained by other units here.
constexpr float kFixedUnits = 1.0f;
PACELINE_INLINE void AddUnits(Fixed& sums, F x) { AddFixed(sums, x); }
PACELINE_INLINE void AddTo(int64_t* to, const Fixed& sums) {
  for (int i = 0; i < 4; ++i) {
    __m256i* p = reinterpret_cast<__m256i*>(to + 4 * i);
    _mm256_storeu_si256(p, _mm256_add_epi64(_mm256_loadu_si256(p), sums.quarters[i]));
  }
}
// Four int64 rounded once to fp32. From 2^52 on, bits below 2^12 only decide "exact or not": they are folded
// into bit 11, so that the conversion to double is exact and the one to float is the only rounding.
PACELINE_INLINE __m128 FromFixed4(__m256i v) {
  const __m256i sign = _mm256_cmpgt_epi64(_mm256_setzero_si256(), v);
  const __m256i magnitude = _mm256_xor_si256(v, sign);
  const __m256i large = _mm256_cmpgt_epi64(magnitude, _mm256_set1_epi64x((int64_t{1} << 52) - 1));
  const __m256i low = _mm256_and_si256(v, _mm256_set1_epi64x(0xFFF));
  const __m256i exact = _mm256_cmpeq_epi64(low, _mm256_setzero_si256());
  const __m256i sticky = _mm256_andnot_si256(exact, _mm256_set1_epi64x(0x800));
  const __m256i folded = _mm256_or_si256(_mm256_sub_epi64(v, low), sticky);
  v = _mm256_blendv_epi8(v, folded, large);
  const __m256i high =
      _mm256_xor_si256(_mm256_srli_epi64(v, 32), _mm256_set1_epi64x(0x4530000080000000));  // 2^84 + 2^63 + ..
  const __m256i rest = _mm256_blend_epi32(v, _mm256_set1_epi64x(0x4330000000000000), 0xAA);  // 2^52 + ..
  const __m256d top =
      _mm256_sub_pd(_mm256_castsi256_pd(high), _mm256_castsi256_pd(_mm256_set1_epi64x(0x4530000080100000)));
  return _mm256_cvtpd_ps(_mm256_add_pd(top, _mm256_castsi256_pd(rest)));
}
PACELINE_INLINE F FromFixed(const int64_t* p) {
  const __m256i* q = reinterpret_cast<const __m256i*>(p);
  const auto pair = [&](int i) __attribute__((always_inline)) {
    return _mm256_set_m128(FromFixed4(_mm256_loadu_si256(q + i + 1)), FromFixed4(_mm256_loadu_si256(q + i)));
  };
  return {pair(0), pair(2)};
}

// Queries whose integer sums over a panel of keys or values stay in registers.
constexpr int kCodeQueries = 4;
// Edge of a square of sums that stays in registers.
constexpr int kTile = 2;

// Vectors of 16 outputs that a float tile of `rows` rows keeps in registers.
constexpr int FloatTile(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
constexpr int kFloatRows = 4;  // of the largest tile
// From so many rows on, a block of float weights is made fp32 once for all of them.
constexpr int64_t kUnpackRows = 9;
constexpr int kCodePanels = 1;  // panels of a tile of codes
constexpr int kPairRows = 3;
constexpr int kCodeRows = 4;  // of the largest tile of codes
