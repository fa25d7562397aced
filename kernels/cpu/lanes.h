// What every op of an instruction set builds on: functions of kernels/scalar_math.h over sixteen lanes, the
// conversions of stored formats, row sums. Included by one .cc file, inside its anonymous namespace.

// In front of a loop over rows, panels or vectors whose sums must be registers: GCC leaves long bodies rolled
// up, and their arrays in memory. A sanitizer checks every access, and takes minutes over bodies that are
// written out.
#if defined(__SANITIZE_ADDRESS__)
#define PACELINE_UNROLL
#elif defined(__clang__)
#if __has_feature(address_sanitizer)
#define PACELINE_UNROLL
#else
#define PACELINE_UNROLL _Pragma("unroll")
#endif
#else
#define PACELINE_UNROLL _Pragma("GCC unroll 16")
#endif

// The same address, of which the compiler knows nothing: it reads again what stands there, and so keeps
// nothing of it in registers across a loop that needs them all.
template <class T>
PACELINE_INLINE T* Afresh(T* p) {
  __asm__("" : "+r"(p));
  return p;
}

PACELINE_INLINE int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
PACELINE_INLINE int64_t Parts(int64_t count, int64_t size) { return (count + size - 1) / size; }
PACELINE_INLINE void Require(bool holds, const char* what) {
  if (!holds) Broken(what);
}
// Handing parts to other threads takes some 300 ns, and fetching what they have written about as much again:
// work of fewer vector instructions than this, roughly counted, stays on the calling thread.
constexpr int64_t kSharedWork = 6000;
template <class Body>
PACELINE_INLINE void RunParts(ThreadPool& pool, int64_t parts, int64_t work, const Body& body) {
  if (work >= kSharedWork) return pool.Run(parts, body);
  for (int64_t part = 0; part < parts; ++part) body(part);
}
PACELINE_INLINE F LoadUpTo(const float* p, int64_t count) {
  return count >= 16 ? Load(p) : LoadPart(p, count);
}
PACELINE_INLINE void StoreUpTo(float* p, F x, int64_t count) {
  if (count >= 16) {
    Store(p, x);
  } else {
    StorePart(p, x, count);
  }
}
PACELINE_INLINE F Abs(F x) { return CastF(And(CastI(x), SetI(0x7FFFFFFF))); }
PACELINE_INLINE F Negate(F x) { return CastF(Xor(CastI(x), SetI(static_cast<int32_t>(0x80000000)))); }
PACELINE_INLINE float SquareRoot(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
PACELINE_INLINE float ReciprocalRoot(float x) { return 1.0f / SquareRoot(x); }
PACELINE_INLINE float Larger(float a, float b) { return a < b ? b : a; }

PACELINE_INLINE F ExpLanes(F x) {
  x = Max(Set1(kExpLowest), x);
  x = Min(Set1(kExpHighest), x);
  const F magic = Set1(kRoundMagic);
  const F shifted = Fma(x, Set1(kLog2E), magic);
  const F n = Sub(shifted, magic);
  F r = Fma(n, Set1(-kLn2High), x);
  r = Fma(n, Set1(-kLn2Low), r);
  F p = Set1(1.0f / 5040.0f);
  p = Fma(p, r, Set1(1.0f / 720.0f));
  p = Fma(p, r, Set1(1.0f / 120.0f));
  p = Fma(p, r, Set1(1.0f / 24.0f));
  p = Fma(p, r, Set1(1.0f / 6.0f));
  p = Fma(p, r, Set1(0.5f));
  p = Fma(p, r, Set1(1.0f));
  p = Fma(p, r, Set1(1.0f));
  const I whole = SubI(CastI(shifted), CastI(magic));
  const I half = Sra<1>(whole);
  const I bias = SetI(127);
  const F first = CastF(Shl<23>(AddI(half, bias)));
  const F second = CastF(Shl<23>(AddI(SubI(whole, half), bias)));
  return Mul(Mul(p, first), second);
}
PACELINE_INLINE F LogLanes(F x) {
  const I bits = CastI(x);
  const I exponent = Sra<23>(SubI(bits, SetI(0x3F3504F3)));
  const F m = CastF(SubI(bits, Shl<23>(exponent)));
  const F e = ToFloat(exponent);
  const F one = Set1(1.0f);
  const F s = Div(Sub(m, one), Add(m, one));
  const F z = Mul(s, s);
  F p = Set1(2.0f / 9.0f);
  p = Fma(p, z, Set1(2.0f / 7.0f));
  p = Fma(p, z, Set1(2.0f / 5.0f));
  p = Fma(p, z, Set1(2.0f / 3.0f));
  p = Fma(p, z, Set1(2.0f));
  return Fma(e, Set1(kLn2High), Fma(e, Set1(kLn2Low), Mul(s, p)));
}
PACELINE_INLINE F SoftplusLanes(F x) {
  const F t = ExpLanes(x);
  const F w = Add(Set1(1.0f), t);
  const F tail = Sub(w, Set1(1.0f));
  const F value = Select(Equal(tail, Zero()), t, Mul(LogLanes(w), Div(t, tail)));
  return Select(Less(Set1(20.0f), x), x, value);
}
PACELINE_INLINE F SigmoidLanes(F x) { return Div(Set1(1.0f), Add(Set1(1.0f), ExpLanes(Negate(x)))); }
PACELINE_INLINE F SiluLanes(F x) { return Div(x, Add(Set1(1.0f), ExpLanes(Negate(x)))); }
PACELINE_INLINE float ExpOne(float x) { return FirstOf(ExpLanes(Set1(x))); }
PACELINE_INLINE float LogOne(float x) { return FirstOf(LogLanes(Set1(x))); }
PACELINE_INLINE float SigmoidOne(float x) { return FirstOf(SigmoidLanes(Set1(x))); }
PACELINE_INLINE float SoftplusOne(float x) { return FirstOf(SoftplusLanes(Set1(x))); }

// Stored formats, sixteen elements at p.
struct ElementF32 {
  static constexpr int64_t kBytes = 4;
  static PACELINE_INLINE F At(const uint8_t* p) { return Load(reinterpret_cast<const float*>(p)); }
};
struct ElementF16 {
  static constexpr int64_t kBytes = 2;
  static PACELINE_INLINE F At(const uint8_t* p) { return LoadF16(reinterpret_cast<const uint16_t*>(p)); }
};
struct ElementBf16 {
  static constexpr int64_t kBytes = 2;
  static PACELINE_INLINE F At(const uint8_t* p) {
    return CastF(Shl<16>(LoadU16(reinterpret_cast<const uint16_t*>(p))));
  }
};
// No code is NaN: packing has seen to it.
struct ElementE4M3 {
  static constexpr int64_t kBytes = 1;
  static PACELINE_INLINE F At(const uint8_t* p) { return LoadE4M3(p); }
};
struct ElementSmallE4M3 {
  static constexpr int64_t kBytes = 1;
  static PACELINE_INLINE F At(const uint8_t* p) { return LoadSmallE4M3(p); }
};
// Up to sixteen elements, the rest zero.
template <class Element>
PACELINE_INLINE F ElementsUpTo(const uint8_t* p, int64_t count) {
  if (count >= 16) return Element::At(p);
  alignas(64) uint8_t padded[16 * Element::kBytes] = {};
  for (int64_t i = 0; i < count * Element::kBytes; ++i) padded[i] = p[i];
  return Element::At(padded);
}
// bf16 bits, nearest even, NaN stays NaN, in the low halves of the lanes.
PACELINE_INLINE I ToBf16Lanes(F x) {
  const I bits = CastI(x);
  const I rounded = Shr<16>(AddI(AddI(bits, SetI(0x7FFF)), And(Shr<16>(bits), SetI(1))));
  const I quiet = Or(Shr<16>(bits), SetI(0x40));
  return SelectI(LessI(SetI(0x7F800000), And(bits, SetI(0x7FFFFFFF))), quiet, rounded);
}

// NUMERICS, Row sums. A lane without an element is left alone: adding a zero could turn -0 into +0.
PACELINE_INLINE float DotProduct(const float* a, const float* b, int64_t count) {
  F lanes = Zero();
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) lanes = Fma(Load(a + i), Load(b + i), lanes);
  if (i < count) {
    const F next = Fma(LoadPart(a + i, count - i), LoadPart(b + i, count - i), lanes);
    lanes = Select(FirstLanes(count - i), next, lanes);
  }
  return Tree(lanes);
}
template <class Element>
PACELINE_INLINE float DotProductOf(const float* a, const uint8_t* b, int64_t count) {
  F lanes = Zero();
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t left = count - i;
    const F next = Fma(LoadUpTo(a + i, left), ElementsUpTo<Element>(b + i * Element::kBytes, left), lanes);
    lanes = left >= 16 ? next : Select(FirstLanes(left), next, lanes);
  }
  return Tree(lanes);
}
// Dot products of Q rows of a with P rows of b: dots [Q][P]. `count` is a multiple of 16. One load serves
// many products, and the sums hide each other's latency.
template <class Element, int Q, int P>
PACELINE_INLINE void DotTile(const float* const* a, const uint8_t* const* b, int64_t count, float* dots) {
  F sums[Q * P];
  for (int i = 0; i < Q * P; ++i) sums[i] = Zero();
  for (int64_t i = 0; i < count; i += 16) {
    F other[P];
    for (int j = 0; j < P; ++j) other[j] = Element::At(b[j] + i * Element::kBytes);
    for (int r = 0; r < Q; ++r) {
      const F own = Load(a[r] + i);
      for (int j = 0; j < P; ++j) sums[r * P + j] = Fma(own, other[j], sums[r * P + j]);
    }
  }
  if (Q * P == 16) {
    Store(dots, SixteenTrees(sums));
  } else {
    for (int i = 0; i < Q * P; ++i) dots[i] = Tree(sums[i]);
  }
}
constexpr int kTileSums = kTile * kTile;

// The largest value, NaN passed over; minus infinity when there is none.
PACELINE_INLINE float Largest(const float* x, int64_t count) {
  const F lowest = Set1(-__builtin_inff());
  F largest = lowest;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) largest = Max(Load(x + i), largest);
  if (i < count) largest = Max(Select(FirstLanes(count - i), LoadPart(x + i, count - i), lowest), largest);
  return TreeMax(largest);
}

// Codes [8 octet, 8 octet + 8) of `count`, zeros behind the last.
PACELINE_INLINE __m128i LoadOctet(const int16_t* codes, int64_t count, int64_t octet) {
  const int64_t begin = octet * kOctet;
  if (begin + kOctet <= count) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + begin));
  int16_t padded[kOctet] = {};
  for (int64_t i = begin; i < count; ++i) padded[i - begin] = codes[i];
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(padded));
}
