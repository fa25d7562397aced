// Rows as they travel: a row of sums in the narrowest whole number of bytes per element that holds it,
// without loss.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transport/exchange.h"

namespace paceline {

// Columns that share one scale in formats with codes.
inline constexpr int32_t kScaleColumns = 128;
constexpr int32_t ScalesOf(int32_t hidden) { return (hidden + kScaleColumns - 1) / kScaleColumns; }

// Bytes of one code, or of one value of kFloat32.
constexpr int64_t ElementBytes(RowFormat format) {
  return format == RowFormat::kInt8Group128 ? 1 : format == RowFormat::kInt16Group128 ? 2 : 4;
}
// Bytes of one row: codes and scales, or values.
constexpr int64_t RowBytes(RowFormat format, int32_t hidden) {
  return ElementBytes(format) * hidden + (HasCodes(format) ? int64_t{4} * ScalesOf(hidden) : 0);
}

inline constexpr int kMinSumBytes = 4;
inline constexpr int kMaxSumBytes = 8;

// The least of 4..8 bytes that holds every element of `sums` [count] in two's complement.
int SumBytes(const int64_t* sums, int32_t count);

// Writes the low `bytes` bytes of every element of `sums` [count], little-endian, to `out` [count * bytes].
void PackSums(const int64_t* sums, int32_t count, int bytes, std::byte* out);

// Adds `count` elements of `bytes` bytes each to `sums` [count], modulo 2^64: a peer's nonsense is wrong,
// never undefined.
void AddSums(const std::byte* packed, int32_t count, int bytes, int64_t* sums);

}  // namespace paceline
