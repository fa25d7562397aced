// Keys and values in 8 and 4 bits: what a code means and where it stands in a page. NUMERICS, Attention over
// codes. One layout for every backend, that of integer weights, so that scores and outputs are integer dot
// products over lines of 64 bytes: sixteen outputs, four bytes of inputs each.
//
//   K of a page and head   [16 panels of 16 positions][inputs: head dims]    output = position, input = dim
//   V of a page and head   [panels of 16 head dims][inputs: 256 positions]   output = dim, input = position
//
//   int8   a line takes 4 inputs: byte 4 n + j of a line is (output n, input j), code + 128
//   int4   a line takes 8 inputs: byte 4 n + j has input j in its low nibble and 4 + j in its high one, an
//          index into kKvLevels
//
// Beside the codes there is one fp32 scale for every (page, head, position) of K and of V.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace paceline::kernels {

inline constexpr int64_t kKvLine = 64;              // bytes: sixteen outputs of four
inline constexpr int32_t kKvZero = 128;             // what a stored byte of int8 is more than its code
inline constexpr int64_t kKvLargestHead = 512;      // 512 * 127 * 32639 is the last that fits an int32
inline constexpr int64_t kKvSmallestRotation = 16;  // dims; narrower ones would hide no outlier

// The sixteen levels of the Lloyd-Max quantiser of a Gaussian (Max 1960), times kKvSigma, in whole numbers:
// this scale loses least by the rounding, 0.95062 % of the variance where exact levels lose 0.95010 %. The
// tables are not inline, because files of one instruction set read them and may share no symbol with others.
constexpr int8_t kKvLevels[16] = {-104, -79, -62, -48, -36, -25, -15, -5, 5, 15, 25, 36, 48, 62, 79, 104};
inline constexpr float kKvSigma = 38.14f;  // levels per standard deviation
// Half-way between the positive levels: of a magnitude as many are below as its level
// stands from the middle.
constexpr float kKvMiddles[7] = {10.0f, 20.0f, 30.5f, 42.0f, 55.0f, 70.5f, 91.5f};

constexpr bool KvInCodes(KvDtype dtype) { return dtype == KvDtype::kInt8 || dtype == KvDtype::kInt4; }

// Dims of one Hadamard transform: the largest power of two that divides head_dim.
constexpr int64_t KvRotation(int64_t head_dim) { return head_dim & -head_dim; }

// Where the code of (output, input) stands among the codes of one page and head.
struct KvPlace {
  int64_t byte;
  int shift;  // of the nibble; 0 for int8
};
constexpr KvPlace KvPlaceOf(KvDtype dtype, int64_t output, int64_t input, int64_t inputs) {
  const int64_t per_line = dtype == KvDtype::kInt4 ? 8 : 4;
  const int64_t line = output / 16 * (inputs / per_line) + input / per_line;
  return {line * kKvLine + output % 16 * 4 + input % 4, dtype == KvDtype::kInt4 && input % 8 >= 4 ? 4 : 0};
}

}  // namespace paceline::kernels
