// Packing of sums: whole-word stores and loads that overlap their neighbour's bytes, so no element has a
// branch.
#include "transport/row_codec.h"

#include <bit>
#include <cstring>

#include "base/check.h"

namespace paceline {
namespace {

static_assert(std::endian::native == std::endian::little, "frames are little-endian and copied as they lie");

template <int kBytes>
void Pack(const int64_t* sums, int32_t count, std::byte* out) {
  // A store of 8 bytes spills into the elements that are written next; the last two would spill past the row.
  const int32_t wide = count > 2 ? count - 2 : 0;
  for (int32_t i = 0; i < wide; ++i) std::memcpy(out + int64_t{kBytes} * i, &sums[i], 8);
  for (int32_t i = wide; i < count; ++i) std::memcpy(out + int64_t{kBytes} * i, &sums[i], kBytes);
}

template <int kBytes>
void Add(const std::byte* packed, int32_t count, int64_t* sums) {
  constexpr int kShift = 64 - 8 * kBytes;
  const auto add = [&](int32_t i, uint64_t raw) {
    const auto value = static_cast<uint64_t>(static_cast<int64_t>(raw << kShift) >> kShift);
    sums[i] = static_cast<int64_t>(static_cast<uint64_t>(sums[i]) + value);
  };
  const int32_t wide = count > 2 ? count - 2 : 0;
  for (int32_t i = 0; i < wide; ++i) {
    uint64_t raw;
    std::memcpy(&raw, packed + int64_t{kBytes} * i, 8);
    add(i, raw);
  }
  for (int32_t i = wide; i < count; ++i) {
    uint64_t raw = 0;
    std::memcpy(&raw, packed + int64_t{kBytes} * i, kBytes);
    add(i, raw);
  }
}

// The two widths that are machine types are left to the vectoriser.
void Pack4(const int64_t* sums, int32_t count, std::byte* out) {
  for (int32_t i = 0; i < count; ++i) {
    const auto low = static_cast<int32_t>(sums[i]);
    std::memcpy(out + int64_t{4} * i, &low, 4);
  }
}

void Add4(const std::byte* packed, int32_t count, int64_t* sums) {
  for (int32_t i = 0; i < count; ++i) {
    int32_t value;
    std::memcpy(&value, packed + int64_t{4} * i, 4);
    sums[i] = static_cast<int64_t>(static_cast<uint64_t>(sums[i]) + static_cast<uint64_t>(int64_t{value}));
  }
}

}  // namespace

int SumBytes(const int64_t* sums, int32_t count) {
  uint64_t any = 0;  // every bit that differs from its element's sign
  for (int32_t i = 0; i < count; ++i) any |= static_cast<uint64_t>(sums[i] ^ (sums[i] >> 63));
  const int bytes = (std::bit_width(any) + 1 + 7) / 8;
  return bytes < kMinSumBytes ? kMinSumBytes : bytes;
}

void PackSums(const int64_t* sums, int32_t count, int bytes, std::byte* out) {
  switch (bytes) {
    case 4:
      return Pack4(sums, count, out);
    case 5:
      return Pack<5>(sums, count, out);
    case 6:
      return Pack<6>(sums, count, out);
    case 7:
      return Pack<7>(sums, count, out);
    case 8:
      std::memcpy(out, sums, size_t{8} * static_cast<size_t>(count));
      return;
    default:
      CHECK_EQ(bytes, kMaxSumBytes);
  }
}

void AddSums(const std::byte* packed, int32_t count, int bytes, int64_t* sums) {
  switch (bytes) {
    case 4:
      return Add4(packed, count, sums);
    case 5:
      return Add<5>(packed, count, sums);
    case 6:
      return Add<6>(packed, count, sums);
    case 7:
      return Add<7>(packed, count, sums);
    case 8:
      return Add<8>(packed, count, sums);
    default:
      CHECK_EQ(bytes, kMaxSumBytes);
  }
}

}  // namespace paceline
