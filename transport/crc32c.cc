// CRC-32C by the SSE4.2 instruction, three streams at a time because its latency is three cycles; by table
// elsewhere.
#include "transport/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace paceline {
namespace {

using Table = std::array<uint32_t, 256>;

constexpr uint32_t kPolynomial = 0x82F63B78;  // 0x1EDC6F41, bits reversed

constexpr Table MakeTable() {
  Table table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}
constexpr Table kTable = MakeTable();

uint32_t UpdatePortable(uint32_t state, const std::byte* data, size_t size) {
  for (size_t i = 0; i < size; ++i)
    state = kTable[(state ^ static_cast<uint32_t>(data[i])) & 255] ^ (state >> 8);
  return state;
}

#if defined(__x86_64__)

constexpr size_t kStream = 512;  // bytes of each of the three streams

// What kStream zero bytes do to a state is linear in the state: four tables, one per byte of it.
class ZeroShift {
 public:
  ZeroShift() {
    const std::array<std::byte, kStream> zeros{};
    std::array<uint32_t, 32> of_bit{};
    for (int bit = 0; bit < 32; ++bit)
      of_bit[bit] = UpdatePortable(uint32_t{1} << bit, zeros.data(), kStream);
    for (int byte = 0; byte < 4; ++byte) {
      for (uint32_t value = 0; value < 256; ++value) {
        uint32_t shifted = 0;
        for (int bit = 0; bit < 8; ++bit) {
          if ((value >> bit & 1) != 0) shifted ^= of_bit[8 * byte + bit];
        }
        tables_[byte][value] = shifted;
      }
    }
  }
  uint32_t operator()(uint32_t state) const {
    return tables_[0][state & 255] ^ tables_[1][state >> 8 & 255] ^ tables_[2][state >> 16 & 255] ^
           tables_[3][state >> 24];
  }

 private:
  std::array<Table, 4> tables_{};
};

uint64_t Load64(const std::byte* p) {
  uint64_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

__attribute__((target("sse4.2"))) uint32_t UpdateSse42(uint32_t state, const std::byte* data, size_t size) {
  static const ZeroShift shift;
  uint64_t crc = state;
  while (size >= 3 * kStream) {
    uint64_t second = 0;
    uint64_t third = 0;
    for (size_t i = 0; i < kStream; i += 8) {
      crc = _mm_crc32_u64(crc, Load64(data + i));
      second = _mm_crc32_u64(second, Load64(data + kStream + i));
      third = _mm_crc32_u64(third, Load64(data + 2 * kStream + i));
    }
    crc = shift(static_cast<uint32_t>(crc)) ^ second;
    crc = shift(static_cast<uint32_t>(crc)) ^ third;
    data += 3 * kStream;
    size -= 3 * kStream;
  }
  for (; size >= 8; data += 8, size -= 8) crc = _mm_crc32_u64(crc, Load64(data));
  for (; size > 0; ++data, --size) {
    crc = _mm_crc32_u8(static_cast<uint32_t>(crc), static_cast<unsigned char>(*data));
  }
  return static_cast<uint32_t>(crc);
}

#endif

}  // namespace

uint32_t Crc32c(uint32_t crc, std::span<const std::byte> data) {
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  if (has_instruction) return ~UpdateSse42(~crc, data.data(), data.size());
#endif
  return internal::Crc32cPortable(crc, data);
}

uint32_t internal::Crc32cPortable(uint32_t crc, std::span<const std::byte> data) {
  return ~UpdatePortable(~crc, data.data(), data.size());
}

}  // namespace paceline
