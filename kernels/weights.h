// Weights before a backend packs them: the neutral form that checkpoints are read into and that the reference
// backend computes from directly. Row-major everywhere: a linear layer with K inputs and N outputs is W[N,
// K], y = W x.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace paceline::kernels {

enum class WeightFormat : uint8_t {
  kF32,
  kF16,
  kBF16,
  kFp8Block128,  // E4M3 with one fp32 scale per 128 x 128 block
  kInt4,         // (code - zero) * scale, code 0..15, per group of inputs
  kInt8,         // code * scale, code -127..127, one scale per row
};

// Arithmetic of float linears.
enum class FloatMath : uint8_t {
  kPortable,  // fp32 products in one order: the same bits on every device
  kNative,    // the device's matrix units: the same bits on every device of one kind
};

constexpr bool IsInteger(WeightFormat format) {
  return format == WeightFormat::kInt4 || format == WeightFormat::kInt8;
}
// The formats that bf16 holds exactly; the others stay portable under native float math.
constexpr bool HasNativeMath(WeightFormat format) {
  return format == WeightFormat::kBF16 || format == WeightFormat::kFp8Block128;
}
const char* WeightFormatName(WeightFormat format);

struct PlainLinear {
  WeightFormat format = WeightFormat::kF32;
  int64_t outputs = 0;  // N
  int64_t inputs = 0;   // K
  // Absolute input index of column 0. Not 0 for a slice of a down projection: groups and blocks stand at
  // absolute multiples. Always a multiple of 128. For outputs the same holds of `first_output` (FP8 row
  // blocks).
  int64_t first_input = 0;
  int64_t first_output = 0;
  std::vector<uint8_t>
      data;  // [N, K] elements of 4, 2, 2 or 1 bytes; INT4: one code per byte; INT8: int8 codes
  // Or the elements stay where they were read, `data` is empty and whoever made this keeps them alive: rows
  // of [N, K] as above or, for INT4, word rows as GPTQ stores them ([ceil(K / 8), N] 32-bit words, word (r,
  // n) with the codes of inputs 8r to 8r + 7 of output n from the lowest four bits up), `stride` bytes apart.
  const uint8_t* borrowed = nullptr;
  int64_t stride = 0;
  int64_t group = 0;  // inputs per scale (integer formats); K of the whole tensor for one scale per row
  // INT4, INT8: [N, groups]; FP8: [N blocks, K blocks]; the groups and blocks that overlap this slice. Empty
  // otherwise.
  std::vector<float> scales;
  std::vector<uint8_t> zeros;  // INT4: [N, groups]; empty when every zero is 8
  bool portable = false;       // stays portable under native float math, whatever its format

  int64_t groups() const {
    return group == 0 ? 0 : (first_input + inputs + group - 1) / group - first_input / group;
  }
  int64_t row_blocks() const { return (first_output + outputs + 127) / 128 - first_output / 128; }
  int64_t column_blocks() const { return (first_input + inputs + 127) / 128 - first_input / 128; }
};

constexpr int64_t ElementBytes(WeightFormat format) {
  if (format == WeightFormat::kF32) return 4;
  return format == WeightFormat::kF16 || format == WeightFormat::kBF16 ? 2 : 1;
}
// Row n of the elements; not for borrowed INT4, which has no rows of outputs.
inline const uint8_t* RowOf(const PlainLinear& w, int64_t n) {
  if (w.borrowed != nullptr) return w.borrowed + n * w.stride;
  return w.data.data() + n * w.inputs * ElementBytes(w.format);
}
// Copies borrowed elements into `data`, INT4 as one code per byte; nothing to do where they are there.
void OwnElements(PlainLinear& w);
// Whether one of these E4M3 codes is a NaN.
bool HasE4m3Nan(const uint8_t* codes, int64_t count);

// The three projections of one expert, or of a run of its groups: gate and up [columns, hidden], down
// [hidden, columns].
struct PlainExpert {
  PlainLinear gate, up, down;
};

}  // namespace paceline::kernels
