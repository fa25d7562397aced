// Rows as they travel: a row of sums in the narrowest whole number of bytes per element that holds it,
// without loss.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transport/exchange.h"

namespace paceline {

// Columns that share one scale in kInt16Group128.
inline constexpr int32_t kScaleColumns = 128;
constexpr int32_t ScalesOf(int32_t hidden) { return (hidden + kScaleColumns - 1) / kScaleColumns; }

// Bytes of one row: kInt16Group128 has its codes and scales, kFloat32 its values.
constexpr int64_t RowBytes(RowFormat format, int32_t hidden) {
  return format == RowFormat::kInt16Group128 ? int64_t{2} * hidden + int64_t{4} * ScalesOf(hidden)
                                             : int64_t{4} * hidden;
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
