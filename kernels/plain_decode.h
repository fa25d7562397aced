// Elements of a PlainLinear as numbers: shared by the reference backend, embeddings and packers.
#pragma once

#include <cstring>

#include "base/check.h"
#include "kernels/scalar_math.h"
#include "kernels/weights.h"

namespace paceline::kernels {

// The stored value of element (n, k): exact; without the block scale for FP8, and q - z without the scale for
// integers.
inline float StoredValue(const PlainLinear& w, int64_t n, int64_t k) {
  const uint8_t* row = RowOf(w, n);
  switch (w.format) {
    case WeightFormat::kF32: {
      float x;
      std::memcpy(&x, row + 4 * k, 4);
      return x;
    }
    case WeightFormat::kF16: {
      uint16_t x;
      std::memcpy(&x, row + 2 * k, 2);
      return FromF16(x);
    }
    case WeightFormat::kBF16: {
      uint16_t x;
      std::memcpy(&x, row + 2 * k, 2);
      return FromBf16(x);
    }
    case WeightFormat::kFp8Block128:
      return FromE4M3(row[k]);
    case WeightFormat::kInt4:
    case WeightFormat::kInt8:
      break;
  }
  CHECK(!"integer weights have no stored float value");
  return 0;
}

// Group of input k (relative to the slice), relative to the first group that overlaps it.
inline int64_t WeightGroup(const PlainLinear& w, int64_t k) {
  return (w.first_input + k) / w.group - w.first_input / w.group;
}

// q - z of an integer weight.
inline int32_t CentredCode(const PlainLinear& w, int64_t n, int64_t k) {
  if (w.format == WeightFormat::kInt8) return static_cast<int8_t>(RowOf(w, n)[k]);
  CHECK(w.borrowed == nullptr);
  const uint8_t raw = w.data[n * w.inputs + k];
  const int32_t zero = w.zeros.empty() ? 8 : w.zeros[n * w.groups() + WeightGroup(w, k)];
  return raw - zero;
}

// The block scale of an FP8 weight, 1 for the other float formats.
inline float BlockScale(const PlainLinear& w, int64_t n, int64_t k) {
  if (w.format != WeightFormat::kFp8Block128) return 1.0f;
  const int64_t row = (w.first_output + n) / 128 - w.first_output / 128;
  const int64_t column = (w.first_input + k) / 128 - w.first_input / 128;
  return w.scales[row * w.column_blocks() + column];
}

// The weight as a number: what an embedding row holds.
inline float PlainValue(const PlainLinear& w, int64_t n, int64_t k) {
  if (IsInteger(w.format))
    return static_cast<float>(CentredCode(w, n, k)) * w.scales[n * w.groups() + WeightGroup(w, k)];
  return w.format == WeightFormat::kFp8Block128 ? StoredValue(w, n, k) * BlockScale(w, n, k)
                                                : StoredValue(w, n, k);
}

}  // namespace paceline::kernels
