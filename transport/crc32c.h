// CRC-32C (Castagnoli polynomial, reflected, as in RFC 3720 appendix B.4): the checksum of every frame.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace paceline {

// The checksum of the bytes that gave `crc` followed by `data`; start with 0.
uint32_t Crc32c(uint32_t crc, std::span<const std::byte> data);

namespace internal {
// The table path, which the test holds against the instruction's.
uint32_t Crc32cPortable(uint32_t crc, std::span<const std::byte> data);
}  // namespace internal

}  // namespace paceline
