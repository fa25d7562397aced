// Small float types as fp32, from their bits alone, so that every machine decodes the same. All conversions
// are exact.
#pragma once

#include <bit>
#include <cstdint>

namespace paceline {

static_assert(std::endian::native == std::endian::little,
              "checkpoints are little-endian and are read in place");

inline float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// IEEE binary16. Scaling by 2^112 moves the exponent's bias and normalises subnormals in one exact
// multiplication.
inline float HalfToFloat(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t rest = uint32_t{bits & 0x7fffu} << 13;
  const float scaled = std::bit_cast<float>(rest) * 0x1p112f;
  const uint32_t special =
      std::bit_cast<uint32_t>(scaled) | 0x7f800000u;  // infinities and NaNs keep their payload
  const uint32_t magnitude = rest >= 0x0f800000u ? special : std::bit_cast<uint32_t>(scaled);
  return std::bit_cast<float>(sign | magnitude);
}

// Nearest even; for finite values.
inline uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// E4M3 (FN): bias 7, no infinity, 0x7f and 0xff are NaN.
constexpr bool IsE4m3Nan(uint8_t code) { return (code & 0x7fu) == 0x7fu; }

}  // namespace paceline
