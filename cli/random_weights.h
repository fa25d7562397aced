// Weights and rows that nobody reads: what `bench kernels` computes with.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/weights.h"

namespace paceline::cli {

// xorshift64*: weights need no better.
class Noise {
 public:
  explicit Noise(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 1) {}
  uint64_t Next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1Dull;
  }
  float Uniform() { return static_cast<float>(static_cast<int32_t>(Next() >> 32)) * 0x1p-31f; }
  std::vector<float> Floats(int64_t count, float amplitude = 1.0f) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float& x : out) x = Uniform() * amplitude;
    return out;
  }

 private:
  uint64_t state_;
};

// [outputs, inputs] of numbers that no sum overflows, and scales that are exact in F16, as a checkpoint's
// are.
inline kernels::PlainLinear RandomLinear(kernels::WeightFormat format, int64_t outputs, int64_t inputs,
                                         int64_t group, uint64_t seed) {
  Noise noise(seed);
  kernels::PlainLinear w;
  w.format = format;
  w.outputs = outputs;
  w.inputs = inputs;
  const int64_t size = format == kernels::WeightFormat::kF32    ? 4
                       : format == kernels::WeightFormat::kBF16 ? 2
                                                                : 1;
  w.data.resize(static_cast<size_t>(outputs * inputs * size));
  for (size_t i = 0; i + 8 <= w.data.size(); i += 8) {
    uint64_t bits = noise.Next();
    if (format == kernels::WeightFormat::kInt4) bits &= 0x0F0F0F0F0F0F0F0Full;
    // Numbers below 2: no NaN, no overflow.
    if (format == kernels::WeightFormat::kFp8Block128) bits &= 0xBFBFBFBFBFBFBFBFull;
    if (format == kernels::WeightFormat::kBF16) bits &= 0xBF7FBF7FBF7FBF7Full;
    if (format == kernels::WeightFormat::kInt8) bits &= 0x7F7F7F7F7F7F7F7Full;
    std::memcpy(w.data.data() + i, &bits, 8);
  }
  int64_t scales = 0;
  if (kernels::IsInteger(format)) {
    w.group = group;
    scales = outputs * w.groups();
  } else if (format == kernels::WeightFormat::kFp8Block128) {
    scales = w.row_blocks() * w.column_blocks();
  }
  w.scales.resize(static_cast<size_t>(scales));
  for (float& s : w.scales) s = static_cast<float>(1 + noise.Next() % 1023) * 0x1p-20f;
  return w;
}

}  // namespace paceline::cli
