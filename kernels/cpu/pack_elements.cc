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

// The same of eight words.
inline __m256i OctetsOfWords(__m256i words) {
  const __m256i middle_bytes = _mm256_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15,  //
                                                0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  words = _mm256_shuffle_epi8(words, middle_bytes);
  const __m256i swap =
      _mm256_and_si256(_mm256_xor_si256(words, _mm256_srli_epi32(words, 4)), _mm256_set1_epi32(0x00F000F0));
  return _mm256_xor_si256(words, _mm256_xor_si256(swap, _mm256_slli_epi32(swap, 4)));
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
        const int64_t left = part.inputs - r * kOctet;
        if (count == kLanes && left >= kOctet) {
          for (int64_t half = 0; half < 64; half += 32) {
            const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + half));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + r * 64 + half), OctetsOfWords(words));
          }
          continue;
        }
        // What stands behind the last input of the file is not ours to keep.
        const uint32_t keep = left >= kOctet ? ~0u : (1u << (4 * left)) - 1;
        for (int64_t i = 0; i < count; ++i) {
          uint32_t word;
          std::memcpy(&word, from + 4 * i, 4);
          word = OctetOfWord(word & keep);
          std::memcpy(to + r * 64 + 4 * i, &word, 4);
        }
      }
      n += count;
    }
  }
}

// The 32-bit unit that one output has in an octet: eight INT4 codes, or four INT8 codes with 128 added.
template <bool kInt4>
inline uint32_t UnitOfCodes(const uint8_t* codes, int64_t count) {
  constexpr int64_t kInputs = kInt4 ? 8 : 4;
  uint64_t x = 0;
  std::memcpy(&x, codes, static_cast<size_t>(std::min(count, kInputs)));
  if (kInt4) return static_cast<uint32_t>(x) | static_cast<uint32_t>(x >> 32) << 4;
  const uint32_t keep = count >= kInputs ? ~0u : (1u << (8 * count)) - 1;
  return (static_cast<uint32_t>(x) ^ 0x80808080u) & keep;
}

// Four units of one output, from as many codes as they take.
template <bool kInt4>
inline __m128i FourUnits(const uint8_t* codes) {
  const auto load = [](const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); };
  if (!kInt4) return _mm_xor_si128(load(codes), _mm_set1_epi8(-128));
  // In each 64 bits: the upper four codes move beside the lower ones, whose upper nibbles are 0.
  const auto fold = [](__m128i x) { return _mm_castsi128_ps(_mm_or_si128(x, _mm_srli_epi64(x, 28))); };
  return _mm_castps_si128(_mm_shuffle_ps(fold(load(codes)), fold(load(codes + 16)), 0x88));
}

template <bool kInt4>
void PackCodes(const PlainLinear& part, int64_t n0, int64_t k0, const Matrix& m, uint8_t* memory) {
  constexpr int64_t kInputs = kInt4 ? 8 : 4;  // of a unit
  const int64_t units = (part.inputs + kInputs - 1) / kInputs;
  uint8_t* base = memory + k0 / kInputs * 64;
  const auto place = [&](int64_t n) {
    return base + (n0 + n) / kLanes * m.panel_bytes + (n0 + n) % kLanes * 4;
  };
  for (int64_t n = 0; n < part.outputs;) {
    int64_t u = 0;
    const bool four = (n0 + n) % 4 == 0 && n + 4 <= part.outputs;
    if (four) {
      uint8_t* to = place(n);
      for (; (u + 4) * kInputs <= part.inputs; u += 4) {
        __m128i rows[4];
        for (int64_t i = 0; i < 4; ++i) rows[i] = FourUnits<kInt4>(RowOf(part, n + i) + u * kInputs);
        const __m128i a = _mm_unpacklo_epi32(rows[0], rows[2]), b = _mm_unpackhi_epi32(rows[0], rows[2]);
        const __m128i c = _mm_unpacklo_epi32(rows[1], rows[3]), d = _mm_unpackhi_epi32(rows[1], rows[3]);
        const __m128i columns[4] = {_mm_unpacklo_epi32(a, c), _mm_unpackhi_epi32(a, c),
                                    _mm_unpacklo_epi32(b, d), _mm_unpackhi_epi32(b, d)};
        for (int64_t i = 0; i < 4; ++i)
          _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (u + i) * 64), columns[i]);
      }
    }
    const int64_t end = four ? n + 4 : n + 1;
    for (; n < end; ++n) {
      for (int64_t v = u; v < units; ++v) {
        const uint32_t unit = UnitOfCodes<kInt4>(RowOf(part, n) + v * kInputs, part.inputs - v * kInputs);
        std::memcpy(place(n) + v * 64, &unit, 4);
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
      if (part.format == WeightFormat::kInt8) {
        PackCodes<false>(part, n0, k0, m, memory);
      } else if (part.borrowed != nullptr) {
        PackInt4Words(part, n0, k0, m, memory);
      } else {
        PackCodes<true>(part, n0, k0, m, memory);
      }
      return;
    case WeightFormat::kFp8Block128:
      // A checkpoint with such a code is refused when it is read (LOAD-005); the kernels convert numbers
      // only.
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
