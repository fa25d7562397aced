// Plain weights whose elements lie elsewhere, made independent.
#include "kernels/weights.h"

#include <algorithm>
#include <cstring>

namespace paceline::kernels {
namespace {

// Eight nibbles, lowest first, to eight bytes.
uint64_t SpreadNibbles(uint32_t word) {
  uint64_t x = word;
  x = (x | (x << 16)) & 0x0000FFFF0000FFFFull;
  x = (x | (x << 8)) & 0x00FF00FF00FF00FFull;
  return (x | (x << 4)) & 0x0F0F0F0F0F0F0F0Full;
}

// Word rows -> codes [outputs, inputs].
void SpreadWords(const PlainLinear& w, uint8_t* codes) {
  const int64_t word_rows = (w.inputs + 7) / 8;
  constexpr int64_t kTile = 16;  // word rows per tile: two cache lines of each output row
  for (int64_t r0 = 0; r0 < word_rows; r0 += kTile) {
    const int64_t r1 = std::min(word_rows, r0 + kTile);
    for (int64_t n = 0; n < w.outputs; ++n) {
      for (int64_t r = r0; r < r1; ++r) {
        uint32_t word;
        std::memcpy(&word, w.borrowed + r * w.stride + 4 * n, 4);
        const uint64_t eight = SpreadNibbles(word);
        std::memcpy(codes + n * w.inputs + 8 * r, &eight,
                    static_cast<size_t>(std::min<int64_t>(8, w.inputs - 8 * r)));
      }
    }
  }
}

}  // namespace

void OwnElements(PlainLinear& w) {
  if (w.borrowed == nullptr) return;
  const int64_t row_bytes = w.inputs * ElementBytes(w.format);
  w.data.resize(static_cast<size_t>(w.outputs * row_bytes));
  if (w.format == WeightFormat::kInt4) {
    SpreadWords(w, w.data.data());
  } else {
    for (int64_t n = 0; n < w.outputs; ++n)
      std::memcpy(w.data.data() + n * row_bytes, w.borrowed + n * w.stride, static_cast<size_t>(row_bytes));
  }
  w.borrowed = nullptr;
  w.stride = 0;
}

bool HasE4m3Nan(const uint8_t* codes, int64_t count) {
  // No early end inside a run: a loop of a fixed count becomes vector code.
  constexpr int64_t kRun = 256;
  int64_t i = 0;
  for (; i + kRun <= count; i += kRun) {
    uint8_t found = 0;
    for (int64_t j = 0; j < kRun; ++j) found |= static_cast<uint8_t>((codes[i + j] & 0x7F) == 0x7F);
    if (found != 0) return true;
  }
  for (; i < count; ++i) {
    if ((codes[i] & 0x7F) == 0x7F) return true;
  }
  return false;
}

}  // namespace paceline::kernels
