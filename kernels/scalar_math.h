// The transcendental functions of a step, one value at a time, and the conversions of small float formats.
// These are the definitions: docs/NUMERICS.md states them in words, vector backends repeat the same
// operations lane by lane, CUDA compiles this file. No libm call but sqrt and fma (both exact to the last bit
// by IEEE 754).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define PACELINE_HOST_DEVICE __host__ __device__
#else
#define PACELINE_HOST_DEVICE
#endif

namespace paceline::kernels {

// ---------------------------------------------------------------- fp32

inline constexpr float kLog2E = 0x1.715476p+0f;
inline constexpr float kLn2High =
    0x1.62e400p-1f;  // 9 trailing zero bits: n * high is exact for the n that occur
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;  // ln 2 = high + low
inline constexpr float kRoundMagic = 0x1.8p+23f;   // adding it rounds to an integer, nearest even
inline constexpr float kExpLowest = -104.0f;       // exp is 0 from here on down
inline constexpr float kExpHighest = 89.0f;        // exp is infinite from here on up

// e^x: n = rne(x log2 e), r = x - n ln 2, Taylor polynomial of degree 7 in r (Horner), times 2^n in two exact
// steps. exp(0) is exactly 1; NaN stays NaN.
PACELINE_HOST_DEVICE inline float Exp(float x) {
  x = x < kExpLowest ? kExpLowest : x;
  x = x > kExpHighest ? kExpHighest : x;
  const float shifted = std::fma(x, kLog2E, kRoundMagic);
  const float n = shifted - kRoundMagic;
  float r = std::fma(n, -kLn2High, x);
  r = std::fma(n, -kLn2Low, r);
  float p = 1.0f / 5040.0f;
  p = std::fma(p, r, 1.0f / 720.0f);
  p = std::fma(p, r, 1.0f / 120.0f);
  p = std::fma(p, r, 1.0f / 24.0f);
  p = std::fma(p, r, 1.0f / 6.0f);
  p = std::fma(p, r, 0.5f);
  p = std::fma(p, r, 1.0f);
  p = std::fma(p, r, 1.0f);
  // The low bits of `shifted` hold n as an integer.
  const int32_t whole = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRoundMagic);
  const int32_t half = whole >> 1;
  const float first = std::bit_cast<float>(static_cast<uint32_t>(half + 127) << 23);
  const float second = std::bit_cast<float>(static_cast<uint32_t>(whole - half + 127) << 23);
  return (p * first) * second;
}

// ln x for normal x > 0: x = m 2^e with m in [sqrt(1/2), sqrt 2), s = (m - 1) / (m + 1), odd series in s to
// s^9.
PACELINE_HOST_DEVICE inline float Log(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  // 0x3F3504F3 is sqrt(1/2): subtracting it moves the cut between two exponents there.
  const int32_t exponent = static_cast<int32_t>(bits - 0x3F3504F3u) >> 23;
  const float m = std::bit_cast<float>(bits - (static_cast<uint32_t>(exponent) << 23));
  const float e = static_cast<float>(exponent);
  const float s = (m - 1.0f) / (m + 1.0f);
  const float z = s * s;
  float p = 2.0f / 9.0f;
  p = std::fma(p, z, 2.0f / 7.0f);
  p = std::fma(p, z, 2.0f / 5.0f);
  p = std::fma(p, z, 2.0f / 3.0f);
  p = std::fma(p, z, 2.0f);
  return std::fma(e, kLn2High, std::fma(e, kLn2Low, s * p));
}

// ln(1 + e^x), x itself above 20. With t = e^x and w = 1 + t: ln(w) t / (w - 1) undoes the rounding of w
// (Kahan).
PACELINE_HOST_DEVICE inline float Softplus(float x) {
  const float t = Exp(x);
  const float w = 1.0f + t;
  const float tail = w - 1.0f;
  const float value = tail == 0.0f ? t : Log(w) * (t / tail);
  return x > 20.0f ? x : value;
}

PACELINE_HOST_DEVICE inline float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }
PACELINE_HOST_DEVICE inline float Silu(float x) { return x / (1.0f + Exp(-x)); }
PACELINE_HOST_DEVICE inline float ReciprocalSqrt(float x) { return 1.0f / std::sqrt(x); }

// ---------------------------------------------------------------- fp64 (sampling noise, rotary tables)

inline constexpr double kLn2High64 = 0x1.62e42fee00000p-1;
inline constexpr double kLn2Low64 = 0x1.a39ef35793c76p-33;
inline constexpr double kRoundMagic64 = 0x1.8p+52;

// e^x for |x| <= 700, Taylor polynomial of degree 13; 0 below.
inline double Exp64(double x) {
  if (x < -700.0) return 0.0;
  const double n = std::fma(x, 0x1.71547652b82fep+0, kRoundMagic64) - kRoundMagic64;
  double r = std::fma(n, -kLn2High64, x);
  r = std::fma(n, -kLn2Low64, r);
  constexpr double kFactorial[14] = {
      1, 1, 2, 6, 24, 120, 720, 5040.0, 40320.0, 362880.0, 3628800.0, 39916800.0, 479001600.0, 6227020800.0};
  double p = 1.0 / kFactorial[13];
  for (int i = 12; i >= 0; --i) p = std::fma(p, r, 1.0 / kFactorial[i]);
  return p * std::bit_cast<double>(static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52);
}

// ln x for normal x > 0, as Log with the series to s^23.
inline double Log64(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  const int64_t exponent = static_cast<int64_t>(bits - 0x3FE6A09E667F3BCDull) >> 52;
  const double m = std::bit_cast<double>(bits - (static_cast<uint64_t>(exponent) << 52));
  const double e = static_cast<double>(exponent);
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double p = 2.0 / 23.0;
  for (int i = 21; i >= 1; i -= 2) p = std::fma(p, z, 2.0 / i);
  return std::fma(e, kLn2High64, std::fma(e, kLn2Low64, s * p));
}

struct SinCos {
  double sin, cos;
};
// For |x| < 2^30: quadrant by three-part pi/2, Taylor polynomials on [-pi/4, pi/4].
inline SinCos SinCos64(double x) {
  const double k = std::fma(x, 0x1.45f306dc9c883p-1, kRoundMagic64) - kRoundMagic64;
  double r = std::fma(k, -0x1.921fb54400000p+0, x);
  r = std::fma(k, -0x1.0b4611a600000p-34, r);
  r = std::fma(k, -0x1.3198a2e037073p-69, r);
  const double z = r * r;
  double s = -1.0 / 1307674368000.0;  // 1 / 15!
  s = std::fma(s, z, 1.0 / 6227020800.0);
  s = std::fma(s, z, -1.0 / 39916800.0);
  s = std::fma(s, z, 1.0 / 362880.0);
  s = std::fma(s, z, -1.0 / 5040.0);
  s = std::fma(s, z, 1.0 / 120.0);
  s = std::fma(s, z, -1.0 / 6.0);
  s = std::fma(s, z * r, r);
  double c = 1.0 / 20922789888000.0;  // 1 / 16!
  c = std::fma(c, z, -1.0 / 87178291200.0);
  c = std::fma(c, z, 1.0 / 479001600.0);
  c = std::fma(c, z, -1.0 / 3628800.0);
  c = std::fma(c, z, 1.0 / 40320.0);
  c = std::fma(c, z, -1.0 / 720.0);
  c = std::fma(c, z, 1.0 / 24.0);
  c = std::fma(c, z, -0.5);
  c = std::fma(c, z, 1.0);
  switch (static_cast<int64_t>(k) & 3) {
    case 0:
      return {s, c};
    case 1:
      return {c, -s};
    case 2:
      return {-s, -c};
    default:
      return {-c, s};
  }
}

// ---------------------------------------------------------------- small float formats

PACELINE_HOST_DEVICE inline float FromBf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Nearest even; NaN stays NaN.
PACELINE_HOST_DEVICE inline uint16_t ToBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

PACELINE_HOST_DEVICE inline float FromF16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = bits >> 10 & 31;
  const uint32_t mantissa = bits & 1023;
  if (exponent == 0) {
    // Subnormal: mantissa * 2^-24, exact in fp32.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | mantissa << 13);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

// E4M3 (FN): bias 7, no infinity, 0x7F and 0xFF are NaN.
PACELINE_HOST_DEVICE inline float FromE4M3(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  const uint32_t exponent = bits >> 3 & 15;
  const uint32_t mantissa = bits & 7;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-9f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(sign | 0x7FC00000u);
  return std::bit_cast<float>(sign | (exponent + 120) << 23 | mantissa << 20);
}

}  // namespace paceline::kernels
