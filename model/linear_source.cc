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

// Rows of a tensor whose unwanted parts are shorter than this are read as one stretch.
constexpr int64_t kWholeRowsGap = int64_t{64} << 10;

// Rows [row, row + rows) of a row-major tensor, and of each only bytes [begin, end).
struct Block {
  int64_t row_bytes = 0;
  int64_t row = 0;
  int64_t rows = 0;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t width() const { return end - begin; }
  bool whole_rows() const { return begin == 0 && end == row_bytes; }
  // From the first byte to the last.
  int64_t offset() const { return row * row_bytes + begin; }
  int64_t stretch() const { return rows == 0 ? 0 : (rows - 1) * row_bytes + width(); }
};

void ListBlock(const StoredTensor& tensor, const Block& b, std::vector<FileRange>& ranges) {
  if (b.row_bytes - b.width() <= kWholeRowsGap) {
    ranges.push_back(tensor.RangeOf(b.offset(), b.stretch()));
    return;
  }
  for (int64_t r = 0; r < b.rows; ++r)
    ranges.push_back(tensor.RangeOf(b.offset() + r * b.row_bytes, b.width()));
}

// out [rows, width]
absl::Status ReadBlock(const StoredTensor& tensor, const Block& b, const ReadAhead& ahead, uint8_t* out) {
  if (b.whole_rows()) return ahead.Read(tensor, b.offset(), b.stretch(), out);
  const uint8_t* here = ahead.View(tensor, b.offset(), b.stretch());
  for (int64_t r = 0; r < b.rows; ++r) {
    if (here != nullptr) {
      std::memcpy(out + r * b.width(), here + r * b.row_bytes, static_cast<size_t>(b.width()));
    } else {
      RETURN_IF_ERROR(ahead.Read(tensor, b.offset() + r * b.row_bytes, b.width(), out + r * b.width()));
    }
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
Block ScaleBlock(const StoredTensor& tensor, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  const int64_t size = DtypeBytes(tensor.entry->dtype);
  return {tensor.entry->shape[1] * size, row, rows, column * size, (column + columns) * size};
}

absl::StatusOr<std::vector<float>> ReadScales(const StoredTensor& tensor, int64_t row, int64_t rows,
                                              int64_t column, int64_t columns, const ReadAhead& ahead) {
  const TensorEntry& entry = *tensor.entry;
  std::vector<uint8_t> raw(static_cast<size_t>(rows * columns * DtypeBytes(entry.dtype)));
  RETURN_IF_ERROR(ReadBlock(tensor, ScaleBlock(tensor, row, rows, column, columns), ahead, raw.data()));
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

Block ZeroBlock(const LinearSource& source, int64_t group, int64_t groups, int64_t first, int64_t outputs) {
  return {source.zeros.entry->shape[1] * 4, group, groups, first / 8 * 4, (first + outputs + 7) / 8 * 4};
}

// Zeros [groups, outputs] of groups [group, group + groups) and outputs [first, first + outputs); empty when
// every one is 8.
absl::StatusOr<std::vector<uint8_t>> ReadZeros(const LinearSource& source, int64_t group, int64_t groups,
                                               int64_t first, int64_t outputs, const ReadAhead& ahead) {
  const Block block = ZeroBlock(source, group, groups, first, outputs);
  const int64_t word0 = block.begin / 4;
  const int64_t words = block.width() / 4;
  std::vector<uint32_t> raw(static_cast<size_t>(groups * words));
  RETURN_IF_ERROR(ReadBlock(source.zeros, block, ahead, reinterpret_cast<uint8_t*>(raw.data())));
  const uint32_t all_eight = source.true_zeros ? 0x88888888u : 0x77777777u;
  if (std::all_of(raw.begin(), raw.end(), [&](uint32_t word) { return word == all_eight; }))
    return std::vector<uint8_t>();
  std::vector<uint8_t> zeros(static_cast<size_t>(groups * outputs));
  bool eights = true;
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t n = 0; n < outputs; ++n) {
      const int64_t column = first + n;
      const uint32_t stored =
          raw[static_cast<size_t>(g * words + column / 8 - word0)] >> (4 * (column % 8)) & 15u;
      const auto zero = static_cast<uint8_t>(source.true_zeros ? stored : (stored + 1) & 15u);
      zeros[static_cast<size_t>(g * outputs + n)] = zero;
      eights = eights && zero == 8;
    }
  }
  if (eights) zeros.clear();
  return zeros;
}

Block WordBlock(const LinearSource& source, const PlainLinear& part) {
  return {source.outputs * 4, part.first_input / 8, (part.inputs + 7) / 8, part.first_output * 4,
          (part.first_output + part.outputs) * 4};
}

absl::Status ReadInt4(const LinearSource& source, PlainLinear& out, const ReadAhead& ahead) {
  const int64_t n = out.outputs;
  const Block block = WordBlock(source, out);
  out.borrowed = ahead.View(source.weight, block.offset(), block.stretch());
  out.stride = block.row_bytes;
  if (out.borrowed == nullptr) {
    std::vector<uint8_t> words(static_cast<size_t>(block.rows * block.width()));
    RETURN_IF_ERROR(ReadBlock(source.weight, block, ahead, words.data()));
    out.borrowed = words.data();
    out.stride = block.width();
    OwnElements(out);
  }
  out.group = source.group;
  const int64_t group = out.first_input / out.group;
  const int64_t groups = out.groups();
  ASSIGN_OR_RETURN(const std::vector<float> scales,
                   ReadScales(source.scales, group, groups, out.first_output, n, ahead));
  out.scales = Transposed(scales, groups, n);
  ASSIGN_OR_RETURN(const std::vector<uint8_t> zeros,
                   ReadZeros(source, group, groups, out.first_output, n, ahead));
  if (!zeros.empty()) out.zeros = Transposed(zeros, groups, n);
  return absl::OkStatus();
}

// The inputs of one group are scattered over K, which the integer contract has no form for: the exact weights
// as fp32.
absl::Status ReadActOrder(const LinearSource& source, PlainLinear& out, const ReadAhead& ahead) {
  LinearSource flat = source;
  flat.group = source.inputs;  // the codes alone are wanted; any one-group view of the scales does
  PlainLinear codes = out;
  codes.format = WeightFormat::kInt4;
  RETURN_IF_ERROR(ReadInt4(flat, codes, ahead));
  OwnElements(codes);
  const int64_t n = out.outputs;
  const int64_t k = out.inputs;
  const int64_t groups = source.scales.entry->shape[0];
  ASSIGN_OR_RETURN(const std::vector<float> scales,
                   ReadScales(source.scales, 0, groups, out.first_output, n, ahead));
  ASSIGN_OR_RETURN(const std::vector<uint8_t> zeros,
                   ReadZeros(source, 0, groups, out.first_output, n, ahead));
  std::vector<int32_t> g_idx(static_cast<size_t>(k));
  RETURN_IF_ERROR(ahead.Read(source.g_idx, out.first_input * 4, k * 4, g_idx.data()));
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
      const int zero = zeros.empty() ? 8 : zeros[at];
      const float value = static_cast<float>(code - zero) * scales[at];
      std::memcpy(out.data.data() + 4 * (i * k + j), &value, 4);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadFp8(const LinearSource& source, PlainLinear& out, const ReadAhead& ahead) {
  for (int64_t n = 0; n < out.outputs; ++n) {
    const uint8_t* row = RowOf(out, n);
    if (!kernels::HasE4m3Nan(row, out.inputs)) continue;
    const int64_t k = std::find_if(row, row + out.inputs, IsE4m3Nan) - row;
    return Error(errors::kModelValues,
                 absl::StrCat(source.weight.Describe(), ": NaN at [", out.first_output + n, ", ",
                              out.first_input + k, "]; the file is damaged or was exported wrongly"));
  }
  ASSIGN_OR_RETURN(out.scales, ReadScales(source.scales, out.first_output / 128, out.row_blocks(),
                                          out.first_input / 128, out.column_blocks(), ahead));
  return absl::OkStatus();
}

Block ElementBlock(const LinearSource& source, const PlainLinear& part) {
  const int64_t size = DtypeBytes(source.weight.entry->dtype);
  return {source.inputs * size, source.first_row + part.first_output, part.outputs, part.first_input * size,
          (part.first_input + part.inputs) * size};
}

// What is read of `source`, still without elements.
PlainLinear PartOf(const LinearSource& source, Span64 outputs, Span64 inputs) {
  if (outputs.end < 0) outputs.end = source.outputs;
  if (inputs.end < 0) inputs.end = source.inputs;
  CHECK(0 <= outputs.begin && outputs.begin <= outputs.end && outputs.end <= source.outputs);
  CHECK(0 <= inputs.begin && inputs.begin <= inputs.end && inputs.end <= source.inputs);
  CHECK_EQ(inputs.begin % 128, 0);
  PlainLinear part;
  part.format = source.format;
  part.first_output = outputs.begin;
  part.first_input = inputs.begin;
  part.outputs = outputs.end - outputs.begin;
  part.inputs = inputs.end - inputs.begin;
  return part;
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

absl::StatusOr<PlainLinear> ReadLinearSource(const LinearSource& source, Span64 outputs, Span64 inputs,
                                             const ReadAhead& ahead) {
  PlainLinear out = PartOf(source, outputs, inputs);
  if (source.act_order) {
    RETURN_IF_ERROR(ReadActOrder(source, out, ahead));
    return out;
  }
  if (source.format == WeightFormat::kInt4) {
    RETURN_IF_ERROR(ReadInt4(source, out, ahead));
    return out;
  }
  const Block block = ElementBlock(source, out);
  out.borrowed = ahead.View(source.weight, block.offset(), block.stretch());
  if (out.borrowed != nullptr) {
    out.stride = block.row_bytes;
  } else {
    out.data.resize(static_cast<size_t>(block.rows * block.width()));
    RETURN_IF_ERROR(ReadBlock(source.weight, block, ahead, out.data.data()));
  }
  if (source.format == WeightFormat::kFp8Block128) RETURN_IF_ERROR(ReadFp8(source, out, ahead));
  return out;
}

void ListLinearSource(const LinearSource& source, Span64 outputs, Span64 inputs,
                      std::vector<FileRange>& ranges) {
  PlainLinear part = PartOf(source, outputs, inputs);
  if (source.zeros.present()) {
    int64_t group = 0, groups = source.scales.entry->shape[0];
    if (source.act_order) {
      ranges.push_back(source.g_idx.RangeOf(part.first_input * 4, part.inputs * 4));
    } else {
      part.group = source.group;
      group = part.first_input / part.group;
      groups = part.groups();
    }
    ListBlock(source.weight, WordBlock(source, part), ranges);
    ListBlock(source.zeros, ZeroBlock(source, group, groups, part.first_output, part.outputs), ranges);
    ListBlock(source.scales, ScaleBlock(source.scales, group, groups, part.first_output, part.outputs),
              ranges);
    return;
  }
  ListBlock(source.weight, ElementBlock(source, part), ranges);
  if (source.format == WeightFormat::kFp8Block128) {
    ListBlock(source.scales,
              ScaleBlock(source.scales, part.first_output / 128, part.row_blocks(), part.first_input / 128,
                         part.column_blocks()),
              ranges);
  }
}

absl::StatusOr<std::vector<float>> ReadFloats(const StoredTensor& tensor, const ReadAhead& ahead) {
  std::vector<uint8_t> raw(static_cast<size_t>(tensor.entry->bytes()));
  RETURN_IF_ERROR(ahead.Read(tensor, 0, tensor.entry->bytes(), raw.data()));
  const int64_t count = tensor.entry->bytes() / DtypeBytes(tensor.entry->dtype);
  std::vector<float> out(static_cast<size_t>(count));
  WidenFloats(tensor.entry->dtype, raw.data(), count, out.data());
  return out;
}

}  // namespace paceline
