// Rows as 8-bit matrix products read them: the codes of each 32 inputs as bytes, plane by plane, and their
// sum. NUMERICS, Activations. A code is 256 h + l; `l` is plane 0, `h` plane 1. Inputs behind the last are
// zeros.
#pragma once

#include "kernels/cuda/device.h"

namespace paceline::kernels::cuda {

inline constexpr int64_t kChunk = 32;  // inputs of one product of bytes

// How many chunks a row of `width` inputs takes: whole groups of 128.
constexpr int64_t ChunksOf(int64_t width) { return (width + kActivationGroup - 1) / kActivationGroup * 4; }

struct Codes {
  int32_t planes = 2;        // 2: int16 codes, 1: int8 codes
  int64_t chunks = 0;        // of a row
  uint8_t* bytes = nullptr;  // [rows][chunks][planes][32]
  int32_t* sums = nullptr;   // [rows][chunks], of the codes
  float* scales = nullptr;   // [rows][chunks / 4]
};

// Four consecutive codes of a group as bytes of one plane.
PACELINE_DEVICE uint32_t PlaneWord(const int32_t (&code)[4], int32_t plane) {
  uint32_t word = 0;
  PACELINE_UNROLL
  for (int32_t i = 0; i < 4; ++i) {
    const uint32_t shifted = static_cast<uint32_t>(plane == 0 ? code[i] : code[i] + 128) >> (8 * plane);
    word |= (shifted & 0xFFu) << (8 * i);
  }
  return word;
}

// The codes of a whole warp's four each, as group `group` of row `row`. Lane l has those of inputs 4 l to 4 l
// + 3.
PACELINE_DEVICE void StoreCodes(const Codes& to, int64_t row, int64_t group, const int32_t (&code)[4]) {
  const int32_t lane = ThreadIndex() % kWarp;
  const int64_t chunk = group * 4 + lane / 8;
  uint8_t* bytes = to.bytes + (row * to.chunks + chunk) * to.planes * kChunk + lane % 8 * 4;
  for (int32_t plane = 0; plane < to.planes; ++plane)
    *reinterpret_cast<uint32_t*>(bytes + plane * kChunk) = PlaneWord(code, plane);
  int32_t sum = code[0] + code[1] + code[2] + code[3];
  PACELINE_UNROLL
  for (int32_t step = 1; step <= 4; step *= 2) sum += ShuffleXor(sum, step);
  if (lane % 8 == 0) to.sums[row * to.chunks + chunk] = sum;
}

// Codes and scale of a group of which every lane of a warp has four values, zeros behind the last. The scale
// is returned to all lanes.
PACELINE_DEVICE float QuantiseGroup(const float (&x)[4], float top, int32_t (&code)[4]) {
  float largest = 0;
  bool finite = true;
  PACELINE_UNROLL
  for (int32_t i = 0; i < 4; ++i) {
    finite = finite && IsFinite(x[i]);
    largest = Larger(largest, Magnitude(x[i]));
  }
  // A NaN or an infinity anywhere is an infinite maximum everywhere.
  largest = finite ? largest : Infinity();
  PACELINE_UNROLL
  for (int32_t step = 16; step >= 1; step /= 2) largest = Larger(largest, ShuffleXor(largest, step));
  finite = largest < Infinity();
  const bool zero = !finite || largest < kSmallestMax;
  const float scale = !finite ? NotANumber() : zero ? 0.0f : largest / top;
  PACELINE_UNROLL
  for (int32_t i = 0; i < 4; ++i) code[i] = zero ? 0 : RoundToInt(x[i] / scale);
  return scale;
}

// Codes of rows of floats: as planes, and as the table's int16 where `plain` is there. One warp per group.
struct QuantiseRows {
  struct Args {
    const float* x;  // [rows, width]
    int64_t rows, width;
    float top;
    Codes to;             // bytes null: none
    int16_t* plain;       // [rows, width], or null
    float* plain_scales;  // [rows, groups], with `plain`
  };
  static constexpr int32_t kThreads = 128;
  static Grid Blocks(const Args& a) { return {Parts(a.rows * ActivationGroups(a.width), kThreads / kWarp)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t groups = ActivationGroups(a.width);
    const int64_t item = BlockX() * (kThreads / kWarp) + ThreadIndex() / kWarp;
    if (item >= a.rows * groups) return;
    const int64_t row = item / groups, group = item % groups;
    const int32_t lane = ThreadIndex() % kWarp;
    const int64_t first = group * kActivationGroup + lane * 4;
    float x[4];
    int32_t code[4];
    PACELINE_UNROLL
    for (int32_t i = 0; i < 4; ++i) x[i] = first + i < a.width ? a.x[row * a.width + first + i] : 0.0f;
    const float scale = QuantiseGroup(x, a.top, code);
    if (a.to.bytes != nullptr) {
      StoreCodes(a.to, row, group, code);
      if (lane == 0) a.to.scales[row * groups + group] = scale;
    }
    if (a.plain == nullptr) return;
    PACELINE_UNROLL
    for (int32_t i = 0; i < 4; ++i) {
      if (first + i < a.width) a.plain[row * a.width + first + i] = static_cast<int16_t>(code[i]);
    }
    if (lane == 0) a.plain_scales[row * groups + group] = scale;
  }
};

// Codes that came as the table has them, as planes. Scales are taken as they are.
struct SplitCodes {
  struct Args {
    const int16_t* codes;  // [rows, width]
    int64_t rows, width;
    Codes to;
  };
  static constexpr int32_t kThreads = 128;
  static Grid Blocks(const Args& a) { return {Parts(a.rows * ActivationGroups(a.width), kThreads / kWarp)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t groups = ActivationGroups(a.width);
    const int64_t item = BlockX() * (kThreads / kWarp) + ThreadIndex() / kWarp;
    if (item >= a.rows * groups) return;
    const int64_t row = item / groups, group = item % groups;
    const int64_t first = group * kActivationGroup + ThreadIndex() % kWarp * 4;
    int32_t code[4];
    PACELINE_UNROLL
    for (int32_t i = 0; i < 4; ++i) code[i] = first + i < a.width ? a.codes[row * a.width + first + i] : 0;
    StoreCodes(a.to, row, group, code);
  }
};

}  // namespace paceline::kernels::cuda
