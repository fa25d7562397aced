// Inputs of kernel tests: values, plain weights and comparisons. Everything is a function of a seed.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/scalar_math.h"

namespace paceline::kernels {

enum class Values { kOrdinary, kHard };  // hard: zeros, subnormals, huge numbers, NaN and infinities

inline std::vector<float> RandomValues(int64_t count, uint32_t seed, Values kind = Values::kOrdinary) {
  std::mt19937 bits(seed);
  std::vector<float> out(count);
  for (float& x : out) {
    x = (static_cast<float>(bits() >> 8) - 0x1p23f) * 0x1p-22f;
    if (kind == Values::kOrdinary) continue;
    static constexpr float kOdd[] = {
        0.0f, -0.0f, 1e-41f, -3e-39f, 1e30f, -2e34f, 2e37f, 1e-30f, __builtin_inff(), -__builtin_nanf("")};
    const uint32_t which = bits() % 97;
    if (which < std::size(kOdd) - 2 || (which < std::size(kOdd) && bits() % 16 == 0)) x = kOdd[which];
  }
  return out;
}

struct LinearCase {
  WeightFormat format;
  int64_t outputs, inputs;
  int64_t group = 0;  // -1: one scale per row
  bool zeros = false;
  bool narrow_scales = true;  // exactly representable in F16
  int64_t first_input = 0, first_output = 0;
};

inline PlainLinear MakeLinear(const LinearCase& c, uint32_t seed) {
  std::mt19937 bits(seed);
  PlainLinear w;
  w.format = c.format;
  w.outputs = c.outputs;
  w.inputs = c.inputs;
  w.first_input = c.first_input;
  w.first_output = c.first_output;
  const int64_t count = c.outputs * c.inputs;
  const auto scale = [&] {
    const float s = static_cast<float>(1 + bits() % 1023) * 0x1p-15f;
    return c.narrow_scales ? s : s * 1.0001f;
  };
  if (IsInteger(c.format)) {
    w.group = c.group > 0 ? c.group : c.first_input + c.inputs;
    w.data.resize(count);
    for (uint8_t& q : w.data) {
      q = c.format == WeightFormat::kInt4 ? static_cast<uint8_t>(bits() % 16)
                                          : static_cast<uint8_t>(static_cast<int>(bits() % 255) - 127);
    }
    w.scales.resize(c.outputs * w.groups());
    for (float& s : w.scales) s = scale();
    if (c.zeros) {
      w.zeros.resize(c.outputs * w.groups());
      for (uint8_t& z : w.zeros) z = static_cast<uint8_t>(bits() % 16);
    }
    return w;
  }
  const int64_t size = c.format == WeightFormat::kF32 ? 4 : c.format == WeightFormat::kFp8Block128 ? 1 : 2;
  w.data.resize(count * size);
  for (int64_t i = 0; i < count; ++i) {
    const float x = (static_cast<float>(bits() >> 8) - 0x1p23f) * 0x1p-25f;
    if (c.format == WeightFormat::kF32) {
      std::memcpy(w.data.data() + 4 * i, &x, 4);
    } else if (c.format == WeightFormat::kBF16) {
      const uint16_t h = ToBf16(x);
      std::memcpy(w.data.data() + 2 * i, &h, 2);
    } else if (c.format == WeightFormat::kF16) {
      // Every finite pattern below 2, subnormals too.
      const uint16_t h = static_cast<uint16_t>((bits() & 0x8000) | bits() % 0x4000);
      std::memcpy(w.data.data() + 2 * i, &h, 2);
    } else {
      // Every pattern but NaN.
      w.data[i] = static_cast<uint8_t>((bits() & 0x80) | bits() % 0x7F);
    }
  }
  if (c.format == WeightFormat::kFp8Block128) {
    w.scales.resize(w.row_blocks() * w.column_blocks());
    for (float& s : w.scales) s = scale();
  }
  return w;
}

// Equal bits; any NaN equals any NaN (NUMERICS: the payload of a NaN is not part of the contract).
inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b, std::string* where) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (std::memcmp(&a[i], &b[i], 4) != 0) {
      *where =
          "element " + std::to_string(i) + ": " + std::to_string(a[i]) + " against " + std::to_string(b[i]);
      return false;
    }
  }
  return a.size() == b.size();
}

}  // namespace paceline::kernels
