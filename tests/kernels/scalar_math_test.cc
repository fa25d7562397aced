// The functions of kernels/scalar_math.h against long double libm, within stated bounds, and their exact
// special values.
#include "kernels/scalar_math.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace paceline::kernels {
namespace {

// Error in units of the last place of T at the true value.
template <class T>
long double Ulps(T got, long double want) {
  int exponent;
  std::frexp(want, &exponent);
  const int lowest = std::numeric_limits<T>::min_exponent - std::numeric_limits<T>::digits;
  const int unit = std::max(exponent - std::numeric_limits<T>::digits, lowest);
  return std::fabs((static_cast<long double>(got) - want) / std::ldexp(1.0L, unit));
}

TEST(ScalarMath, Fp32FunctionsStayWithinTheirBounds) {
  long double exp_error = 0, log_error = 0, silu_error = 0, softplus_error = 0;
  for (int i = -(1 << 20); i <= 1 << 20; ++i) {
    const float x = static_cast<float>(i) * 0x1.58p-14f;  // -86 to 86
    exp_error = std::max(exp_error, Ulps(Exp(x), std::exp(static_cast<long double>(x))));
    const long double e = std::exp(-static_cast<long double>(x));
    silu_error = std::max(silu_error, Ulps(Silu(x), x / (1 + e)));
    if (x <= 20)
      softplus_error =
          std::max(softplus_error, Ulps(Softplus(x), std::log1p(std::exp(static_cast<long double>(x)))));
  }
  for (uint32_t bits = 0x00800000; bits < 0x7F800000; bits += 1009) {
    const float x = std::bit_cast<float>(bits);
    if (std::fabs(x - 1) < 1e-6f) continue;
    log_error = std::max(log_error, Ulps(Log(x), std::log(static_cast<long double>(x))));
  }
  RecordProperty("exp", std::to_string(exp_error));
  EXPECT_LT(exp_error, 1.5L);
  EXPECT_LT(log_error, 3.0L);
  EXPECT_LT(silu_error, 4.0L);
  EXPECT_LT(softplus_error, 5.0L);
}

TEST(ScalarMath, Fp64FunctionsStayWithinTheirBounds) {
  std::mt19937_64 bits(1);
  long double exp_error = 0, log_error = 0, sin_error = 0;
  for (int i = 0; i < 1 << 20; ++i) {
    const double unit = (static_cast<double>(bits() >> 12) + 0.5) * 0x1p-52;
    const double x = (unit - 0.5) * 1200;
    exp_error = std::max(exp_error, Ulps(Exp64(x), std::exp(static_cast<long double>(x))));
    log_error = std::max(log_error, Ulps(Log64(unit), std::log(static_cast<long double>(unit))));
    // Angles of positions up to 2^20: absolute error, the tables are rounded to fp32.
    const double angle = unit * 0x1p20;
    const SinCos got = SinCos64(angle);
    sin_error = std::max(sin_error, std::fabs(got.sin - std::sin(static_cast<long double>(angle))));
    sin_error = std::max(sin_error, std::fabs(got.cos - std::cos(static_cast<long double>(angle))));
  }
  EXPECT_LT(exp_error, 2.0L);
  EXPECT_LT(log_error, 3.0L);
  EXPECT_LT(sin_error, 4e-16L);
}

TEST(ScalarMath, SpecialValues) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-0.0f), 1.0f);
  EXPECT_EQ(Exp(-infinity), 0.0f);
  EXPECT_EQ(Exp(-104.0f), 0.0f);
  EXPECT_EQ(Exp(infinity), infinity);
  EXPECT_EQ(Exp(89.0f), infinity);
  EXPECT_TRUE(std::isnan(Exp(nan)));
  EXPECT_EQ(Log(1.0f), 0.0f);
  EXPECT_EQ(Log64(1.0), 0.0);
  EXPECT_EQ(Exp64(0.0), 1.0);
  EXPECT_EQ(Exp64(-1000.0), 0.0);
  EXPECT_EQ(Silu(0.0f), 0.0f);
  EXPECT_EQ(Sigmoid(0.0f), 0.5f);
  EXPECT_EQ(Softplus(100.0f), 100.0f);
  EXPECT_EQ(Softplus(-200.0f), 0.0f);
  EXPECT_TRUE(std::isnan(Softplus(nan)));
  EXPECT_EQ(SinCos64(0.0).sin, 0.0);
  EXPECT_EQ(SinCos64(0.0).cos, 1.0);
  for (uint32_t b = 0; b < 0x10000; ++b) {
    const uint16_t bits = static_cast<uint16_t>(b);
    if (std::isnan(FromBf16(bits))) continue;
    EXPECT_EQ(ToBf16(FromBf16(bits)), bits);
  }
  EXPECT_EQ(FromF16(0x0001), 0x1p-24f);
  EXPECT_EQ(FromF16(0x7BFF), 65504.0f);
  EXPECT_EQ(FromE4M3(0x01), 0x1p-9f);
  EXPECT_EQ(FromE4M3(0x7E), 448.0f);
  EXPECT_TRUE(std::isnan(FromE4M3(0xFF)));
}

}  // namespace
}  // namespace paceline::kernels
