// Formats to PlainLinear. Layouts: docs/FORMATS.md, INT4 and FP8.
#include "model/linear_source.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "base/status.h"
#include "model/float_bits.h"
#include "model/json_guard.h"

namespace paceline {
namespace {

using kernels::PlainLinear;
using kernels::WeightFormat;

// Rows [row, row + rows) of a row-major tensor, and of each only bytes [begin, end).
absl::Status ReadBlock(const StoredTensor& tensor, int64_t row_bytes, int64_t row, int64_t rows,
                       int64_t begin, int64_t end, uint8_t* out) {
  if (begin == 0 && end == row_bytes) return tensor.Read(row * row_bytes, rows * row_bytes, out);
  for (int64_t r = 0; r < rows; ++r) {
    RETURN_IF_ERROR(tensor.Read((row + r) * row_bytes + begin, end - begin, out + r * (end - begin)));
  }
  return absl::OkStatus();
}

void WidenFloats(Dtype dtype, const uint8_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == Dtype::kF32) {
      std::memcpy(to + i, from + 4 * i, 4);
      continue;
    }
    uint16_t bits;
    std::memcpy(&bits, from + 2 * i, 2);
    to[i] = dtype == Dtype::kF16 ? HalfToFloat(bits) : Bf16ToFloat(bits);
  }
}

// The block [row, row + rows) x [column, column + columns) of a 2-D float tensor, checked to be finite.
absl::StatusOr<std::vector<float>> ReadScales(const StoredTensor& tensor, int64_t row, int64_t rows,
                                              int64_t column, int64_t columns) {
  const TensorEntry& entry = *tensor.entry;
  const int64_t size = DtypeBytes(entry.dtype);
  std::vector<uint8_t> raw(static_cast<size_t>(rows * columns * size));
  RETURN_IF_ERROR(ReadBlock(tensor, entry.shape[1] * size, row, rows, column * size,
                            (column + columns) * size, raw.data()));
  std::vector<float> out(static_cast<size_t>(rows * columns));
  WidenFloats(entry.dtype, raw.data(), rows * columns, out.data());
  for (int64_t i = 0; i < rows * columns; ++i) {
    if (!std::isfinite(out[static_cast<size_t>(i)])) {
      return Error(
          errors::kModelValues,
          absl::StrCat(tensor.Describe(), ": the scale at [", row + i / columns, ", ", column + i % columns,
                       "] is not finite; the file is damaged or was exported wrongly"));
    }
  }
  return out;
}

// Eight nibbles, lowest first, to eight bytes.
uint64_t SpreadNibbles(uint32_t word) {
  uint64_t x = word;
  x = (x | (x << 16)) & 0x0000FFFF0000FFFFull;
  x = (x | (x << 8)) & 0x00FF00FF00FF00FFull;
  return (x | (x << 4)) & 0x0F0F0F0F0F0F0F0Full;
}

// words [word_rows, outputs] -> codes [outputs, inputs], word_rows = ceil(inputs / 8).
void UnpackCodes(const std::vector<uint32_t>& words, int64_t outputs, int64_t inputs, uint8_t* codes) {
  const int64_t word_rows = (inputs + 7) / 8;
  constexpr int64_t kTile = 16;  // word rows per tile: two cache lines of each output row
  for (int64_t r0 = 0; r0 < word_rows; r0 += kTile) {
    const int64_t r1 = std::min(word_rows, r0 + kTile);
    for (int64_t n = 0; n < outputs; ++n) {
      for (int64_t r = r0; r < r1; ++r) {
        const uint64_t eight = SpreadNibbles(words[static_cast<size_t>(r * outputs + n)]);
        std::memcpy(codes + n * inputs + 8 * r, &eight,
                    static_cast<size_t>(std::min<int64_t>(8, inputs - 8 * r)));
      }
    }
  }
}

// [groups, outputs] -> [outputs, groups]
template <class T>
std::vector<T> Transposed(const std::vector<T>& from, int64_t groups, int64_t outputs) {
  std::vector<T> to(from.size());
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t n = 0; n < outputs; ++n)
      to[static_cast<size_t>(n * groups + g)] = from[static_cast<size_t>(g * outputs + n)];
  }
  return to;
}

// Zeros [groups, outputs] of groups [group, group + groups) and outputs [first, first + outputs).
absl::StatusOr<std::vector<uint8_t>> ReadZeros(const LinearSource& source, int64_t group, int64_t groups,
                                               int64_t first, int64_t outputs) {
  const int64_t word0 = first / 8;
  const int64_t words = (first + outputs + 7) / 8 - word0;
  std::vector<uint32_t> raw(static_cast<size_t>(groups * words));
  RETURN_IF_ERROR(ReadBlock(source.zeros, source.zeros.entry->shape[1] * 4, group, groups, word0 * 4,
                            (word0 + words) * 4, reinterpret_cast<uint8_t*>(raw.data())));
  std::vector<uint8_t> zeros(static_cast<size_t>(groups * outputs));
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t n = 0; n < outputs; ++n) {
      const int64_t column = first + n;
      const uint32_t stored =
          raw[static_cast<size_t>(g * words + column / 8 - word0)] >> (4 * (column % 8)) & 15u;
      zeros[static_cast<size_t>(g * outputs + n)] =
          static_cast<uint8_t>(source.true_zeros ? stored : (stored + 1) & 15u);
    }
  }
  return zeros;
}

absl::Status ReadInt4(const LinearSource& source, PlainLinear& out) {
  const int64_t n = out.outputs;
  const int64_t k = out.inputs;
  const int64_t word_rows = (k + 7) / 8;
  std::vector<uint32_t> words(static_cast<size_t>(word_rows * n));
  RETURN_IF_ERROR(ReadBlock(source.weight, source.outputs * 4, out.first_input / 8, word_rows,
                            out.first_output * 4, (out.first_output + n) * 4,
                            reinterpret_cast<uint8_t*>(words.data())));
  out.data.resize(static_cast<size_t>(n * k));
  UnpackCodes(words, n, k, out.data.data());
  out.group = source.group;
  const int64_t group = out.first_input / out.group;
  const int64_t groups = out.groups();
  ASSIGN_OR_RETURN(const std::vector<float> scales,
                   ReadScales(source.scales, group, groups, out.first_output, n));
  out.scales = Transposed(scales, groups, n);
  ASSIGN_OR_RETURN(const std::vector<uint8_t> zeros, ReadZeros(source, group, groups, out.first_output, n));
  if (!std::all_of(zeros.begin(), zeros.end(), [](uint8_t zero) { return zero == 8; })) {
    out.zeros = Transposed(zeros, groups, n);
  }
  return absl::OkStatus();
}

// The inputs of one group are scattered over K, which the integer contract has no form for: the exact weights
// as fp32.
absl::Status ReadActOrder(const LinearSource& source, PlainLinear& out) {
  LinearSource flat = source;
  flat.group = source.inputs;  // the codes alone are wanted; any one-group view of the scales does
  PlainLinear codes = out;
  codes.format = WeightFormat::kInt4;
  RETURN_IF_ERROR(ReadInt4(flat, codes));
  const int64_t n = out.outputs;
  const int64_t k = out.inputs;
  const int64_t groups = source.scales.entry->shape[0];
  ASSIGN_OR_RETURN(const std::vector<float> scales,
                   ReadScales(source.scales, 0, groups, out.first_output, n));
  ASSIGN_OR_RETURN(const std::vector<uint8_t> zeros, ReadZeros(source, 0, groups, out.first_output, n));
  std::vector<int32_t> g_idx(static_cast<size_t>(k));
  RETURN_IF_ERROR(source.g_idx.Read(out.first_input * 4, k * 4, g_idx.data()));
  out.data.resize(static_cast<size_t>(n * k * 4));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const int64_t g = g_idx[static_cast<size_t>(j)];
      if (g < 0 || g >= groups) {
        return Error(errors::kModelValues,
                     absl::StrCat(source.g_idx.Describe(), ": changed while it was read"));
      }
      const auto at = static_cast<size_t>(g * n + i);
      const int code = codes.data[static_cast<size_t>(i * k + j)];
      const float value = static_cast<float>(code - zeros[at]) * scales[at];
      std::memcpy(out.data.data() + 4 * (i * k + j), &value, 4);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadFp8(const LinearSource& source, PlainLinear& out) {
  for (size_t i = 0; i < out.data.size(); ++i) {
    if (IsE4m3Nan(out.data[i])) {
      const auto at = static_cast<int64_t>(i);
      return Error(
          errors::kModelValues,
          absl::StrCat(source.weight.Describe(), ": NaN at [", out.first_output + at / out.inputs, ", ",
                       out.first_input + at % out.inputs, "]; the file is damaged or was exported wrongly"));
    }
  }
  ASSIGN_OR_RETURN(out.scales, ReadScales(source.scales, out.first_output / 128, out.row_blocks(),
                                          out.first_input / 128, out.column_blocks()));
  return absl::OkStatus();
}

}  // namespace

int64_t LinearSource::stored_bytes() const {
  if (!present()) return 0;
  // A fused tensor holds many sources: only this one's rows count.
  int64_t bytes =
      zeros.present() ? weight.entry->bytes() : outputs * inputs * DtypeBytes(weight.entry->dtype);
  for (const StoredTensor* part : {&scales, &zeros, &g_idx}) {
    if (part->present()) bytes += part->entry->bytes();
  }
  return bytes;
}

absl::StatusOr<PlainLinear> ReadLinearSource(const LinearSource& source, Span64 outputs, Span64 inputs) {
  if (outputs.end < 0) outputs.end = source.outputs;
  if (inputs.end < 0) inputs.end = source.inputs;
  CHECK(0 <= outputs.begin && outputs.begin <= outputs.end && outputs.end <= source.outputs);
  CHECK(0 <= inputs.begin && inputs.begin <= inputs.end && inputs.end <= source.inputs);
  CHECK_EQ(inputs.begin % 128, 0);
  PlainLinear out;
  out.format = source.format;
  out.first_output = outputs.begin;
  out.first_input = inputs.begin;
  out.outputs = outputs.end - outputs.begin;
  out.inputs = inputs.end - inputs.begin;
  if (source.act_order) {
    RETURN_IF_ERROR(ReadActOrder(source, out));
    return out;
  }
  if (source.format == WeightFormat::kInt4) {
    RETURN_IF_ERROR(ReadInt4(source, out));
    return out;
  }
  const int64_t size = DtypeBytes(source.weight.entry->dtype);
  out.data.resize(static_cast<size_t>(out.outputs * out.inputs * size));
  RETURN_IF_ERROR(ReadBlock(source.weight, source.inputs * size, source.first_row + outputs.begin,
                            out.outputs, inputs.begin * size, inputs.end * size, out.data.data()));
  if (source.format == WeightFormat::kFp8Block128) RETURN_IF_ERROR(ReadFp8(source, out));
  return out;
}

absl::StatusOr<std::vector<float>> ReadFloats(const StoredTensor& tensor) {
  std::vector<uint8_t> raw(static_cast<size_t>(tensor.entry->bytes()));
  RETURN_IF_ERROR(tensor.Read(0, tensor.entry->bytes(), raw.data()));
  const int64_t count = tensor.entry->bytes() / DtypeBytes(tensor.entry->dtype);
  std::vector<float> out(static_cast<size_t>(count));
  WidenFloats(tensor.entry->dtype, raw.data(), count, out.data());
  return out;
}

}  // namespace paceline
