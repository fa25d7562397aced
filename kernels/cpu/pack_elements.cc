// From rows, or GPTQ's words, to panels (packed.h): loading is as fast as this, so whole tiles go through
// registers. The same elements land in the same places whichever way they go.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/packed.h"

namespace paceline::kernels::cpu {
namespace {

// Rows of 16 bytes to columns: each round of interleaving row i with row i + N / 2 moves one bit of the row
// number into the column number, so after log2(N) rounds the two have changed places.
template <int N, class Low, class High>
inline void TransposeTile(const uint8_t* from, int64_t stride, uint8_t* to, int64_t to_stride, const Low& low,
                          const High& high) {
  __m128i rows[N], next[N];
  for (int i = 0; i < N; ++i) rows[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * stride));
  for (int round = N; round > 1; round /= 2) {
    for (int i = 0; i < N / 2; ++i) {
      next[2 * i] = low(rows[i], rows[i + N / 2]);
      next[2 * i + 1] = high(rows[i], rows[i + N / 2]);
    }
    for (int i = 0; i < N; ++i) rows[i] = next[i];
  }
  for (int i = 0; i < N; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * to_stride), rows[i]);
}

// A tile of 16 / kSize rows by as many columns, elements of kSize bytes.
template <int kSize>
inline void Transpose(const uint8_t* from, int64_t stride, uint8_t* to, int64_t to_stride) {
  if constexpr (kSize == 1) {
    TransposeTile<16>(
        from, stride, to, to_stride, [](__m128i a, __m128i b) { return _mm_unpacklo_epi8(a, b); },
        [](__m128i a, __m128i b) { return _mm_unpackhi_epi8(a, b); });
  } else if constexpr (kSize == 2) {
    TransposeTile<8>(
        from, stride, to, to_stride, [](__m128i a, __m128i b) { return _mm_unpacklo_epi16(a, b); },
        [](__m128i a, __m128i b) { return _mm_unpackhi_epi16(a, b); });
  } else {
    TransposeTile<4>(
        from, stride, to, to_stride, [](__m128i a, __m128i b) { return _mm_unpacklo_epi32(a, b); },
        [](__m128i a, __m128i b) { return _mm_unpackhi_epi32(a, b); });
  }
}

// [rows, columns] to [columns][panel width] with one row per lane: element (n, k) goes to
// to + n * kSize + k * to_stride.
template <int kSize>
void TransposeRows(const uint8_t* from, int64_t stride, int64_t rows, int64_t columns, uint8_t* to,
                   int64_t to_stride) {
  constexpr int64_t kTile = 16 / kSize;
  int64_t n = 0;
  for (; n + kTile <= rows; n += kTile) {
    int64_t k = 0;
    for (; k + kTile <= columns; k += kTile)
      Transpose<kSize>(from + n * stride + k * kSize, stride, to + n * kSize + k * to_stride, to_stride);
    for (; k < columns; ++k) {
      for (int64_t i = n; i < n + kTile; ++i)
        std::memcpy(to + i * kSize + k * to_stride, from + i * stride + k * kSize, kSize);
    }
  }
  for (; n < rows; ++n) {
    for (int64_t k = 0; k < columns; ++k)
      std::memcpy(to + n * kSize + k * to_stride, from + n * stride + k * kSize, kSize);
  }
}

template <int kSize>
void PackFloats(const PlainLinear& part, int64_t n0, int64_t k0, const Matrix& m, uint8_t* memory) {
  const int64_t row_bytes = part.inputs * kSize;
  const uint8_t* rows = part.borrowed != nullptr ? part.borrowed : part.data.data();
  const int64_t stride = part.borrowed != nullptr ? part.stride : row_bytes;
  for (int64_t n = 0; n < part.outputs;) {
    const int64_t lane = (n0 + n) % kFloatPanel;
    const int64_t count = std::min(kFloatPanel - lane, part.outputs - n);
    uint8_t* panel = memory + (n0 + n) / kFloatPanel * m.panel_bytes;
    TransposeRows<kSize>(rows + n * stride, stride, count, part.inputs,
                         panel + (k0 * kFloatPanel + lane) * kSize, kFloatPanel * kSize);
    n += count;
  }
}

// Nibbles 0..7 of a word to the octet's order: byte j holds nibble j below and nibble 4 + j above.
inline uint32_t OctetOfWord(uint32_t word) {
  uint32_t swap = (word ^ (word >> 8)) & 0x0000FF00u;
  word ^= swap ^ (swap << 8);
  swap = (word ^ (word >> 4)) & 0x00F000F0u;
  return word ^ swap ^ (swap << 4);
}

void PackInt4Words(const PlainLinear& part, int64_t n0, int64_t k0, const Matrix& m, uint8_t* memory) {
  const int64_t octets = (part.inputs + kOctet - 1) / kOctet;
  constexpr int64_t kTile = 16;  // word rows: what a panel takes of them is one run of a kilobyte
  for (int64_t r0 = 0; r0 < octets; r0 += kTile) {
    const int64_t r1 = std::min(octets, r0 + kTile);
    for (int64_t n = 0; n < part.outputs;) {
      const int64_t lane = (n0 + n) % kLanes;
      const int64_t count = std::min(kLanes - lane, part.outputs - n);
      uint8_t* to = memory + (n0 + n) / kLanes * m.panel_bytes + k0 / kOctet * 64 + lane * 4;
      for (int64_t r = r0; r < r1; ++r) {
        const uint8_t* from = part.borrowed + r * part.stride + 4 * n;
        // What stands behind the last input of the file is not ours to keep.
        const int64_t left = part.inputs - r * kOctet;
        const uint32_t keep = left >= kOctet ? ~0u : (1u << (4 * left)) - 1;
        uint32_t words[kLanes];
        if (count == kLanes) {
          std::memcpy(words, from, 64);
          for (uint32_t& word : words) word = OctetOfWord(word & keep);
          std::memcpy(to + r * 64, words, 64);
          continue;
        }
        for (int64_t i = 0; i < count; ++i) {
          std::memcpy(words, from + 4 * i, 4);
          words[0] = OctetOfWord(words[0] & keep);
          std::memcpy(to + r * 64 + 4 * i, words, 4);
        }
      }
      n += count;
    }
  }
}

// The 32-bit unit that one output has in an octet: eight INT4 codes, or four INT8 codes with 128 added.
inline uint32_t UnitOfCodes(const uint8_t* codes, int64_t count, bool int4) {
  uint64_t x = 0;
  if (int4) {
    if (count >= 8) {
      std::memcpy(&x, codes, 8);
    } else {
      std::memcpy(&x, codes, static_cast<size_t>(count));
    }
    return static_cast<uint32_t>(x) | static_cast<uint32_t>(x >> 32) << 4;
  }
  if (count >= 4) {
    std::memcpy(&x, codes, 4);
    return static_cast<uint32_t>(x) ^ 0x80808080u;
  }
  std::memcpy(&x, codes, static_cast<size_t>(count));
  return (static_cast<uint32_t>(x) ^ 0x80808080u) & ((1u << (8 * count)) - 1);
}

void PackCodes(const PlainLinear& part, int64_t n0, int64_t k0, const Matrix& m, uint8_t* memory) {
  const bool int4 = part.format == WeightFormat::kInt4;
  const int64_t unit_inputs = int4 ? 8 : 4;
  const int64_t units = (part.inputs + unit_inputs - 1) / unit_inputs;
  uint8_t* base = memory + k0 / unit_inputs * 64;
  constexpr int64_t kTile = 64;  // units: a few lines of each of 16 rows
  for (int64_t u0 = 0; u0 < units; u0 += kTile) {
    const int64_t u1 = std::min(units, u0 + kTile);
    for (int64_t n = 0; n < part.outputs; ++n) {
      const uint8_t* row = RowOf(part, n);
      uint8_t* to = base + (n0 + n) / kLanes * m.panel_bytes + (n0 + n) % kLanes * 4;
      for (int64_t u = u0; u < u1; ++u) {
        const uint32_t unit = UnitOfCodes(row + u * unit_inputs, part.inputs - u * unit_inputs, int4);
        std::memcpy(to + u * 64, &unit, 4);
      }
    }
  }
}

}  // namespace

void PackElements(const PlainLinear& part, int64_t n0, int64_t k0, const Matrix& m, uint8_t* memory) {
  CHECK(part.format == m.format);
  CHECK(n0 >= 0 && n0 + part.outputs <= m.outputs && k0 >= 0 && k0 + part.inputs <= m.inputs);
  switch (part.format) {
    case WeightFormat::kInt4:
    case WeightFormat::kInt8:
      CHECK_EQ(k0 % kOctet, 0);
      CHECK(part.inputs % kOctet == 0 || k0 + part.inputs == m.inputs);
      if (part.format == WeightFormat::kInt4 && part.borrowed != nullptr) {
        PackInt4Words(part, n0, k0, m, memory);
      } else {
        PackCodes(part, n0, k0, m, memory);
      }
      return;
    case WeightFormat::kFp8Block128:
      // A checkpoint with such a code is refused when it is read (LOAD-005); the kernels convert numbers only.
      for (int64_t n = 0; n < part.outputs; ++n) CHECK(!HasE4m3Nan(RowOf(part, n), part.inputs));
      PackFloats<1>(part, n0, k0, m, memory);
      return;
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      PackFloats<2>(part, n0, k0, m, memory);
      return;
    case WeightFormat::kF32:
      PackFloats<4>(part, n0, k0, m, memory);
      return;
  }
}

}  // namespace paceline::kernels::cpu
