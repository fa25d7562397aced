// The INT8 form of a float LM head (docs/NUMERICS.md, INT8 head): one scale per row, s = max|w| / 127, code =
// rne(w / s).
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "model/checkpoint.h"
#include "model/widen_row.h"

namespace paceline {
namespace {

using kernels::PlainLinear;
using kernels::WeightFormat;

// Returns the row's scale.
float QuantiseRow(const float* row, int64_t count, int8_t* codes) {
  // As integers, magnitudes order like the numbers and NaN above all, so one maximum finds both.
  uint32_t top = 0;
  for (int64_t i = 0; i < count; ++i) top = std::max(top, std::bit_cast<uint32_t>(row[i]) & 0x7fffffffu);
  const float largest = std::bit_cast<float>(top);
  const float scale = std::isfinite(largest) ? largest / 127.0f : std::numeric_limits<float>::quiet_NaN();
  if (!(scale > 0)) {
    std::memset(codes, 0, static_cast<size_t>(count));
    return scale;
  }
  // Adding and taking away 1.5 * 2^23 rounds to the nearest even integer. The bounds matter only where the
  // scale itself is subnormal and was rounded down.
  constexpr float kRound = 12582912.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float bounded = std::min(127.0f, std::max(-127.0f, row[i] / scale));
    codes[i] = static_cast<int8_t>(static_cast<int32_t>((bounded + kRound) - kRound));
  }
  return scale;
}

}  // namespace

kernels::PlainLinear QuantiseRowsInt8(const kernels::PlainLinear& head) {
  CHECK(head.format == WeightFormat::kF32 || head.format == WeightFormat::kF16 ||
        head.format == WeightFormat::kBF16);
  CHECK_EQ(head.first_input, 0);
  PlainLinear out;
  out.format = WeightFormat::kInt8;
  out.outputs = head.outputs;
  out.inputs = head.inputs;
  out.first_output = head.first_output;
  out.group = head.inputs;
  out.scales.resize(static_cast<size_t>(head.outputs));
  out.data.resize(static_cast<size_t>(head.outputs * head.inputs));
  std::vector<float> row(static_cast<size_t>(head.inputs));
  for (int64_t n = 0; n < head.outputs; ++n) {
    WidenRow(head, n, row.data());
    out.scales[static_cast<size_t>(n)] =
        QuantiseRow(row.data(), head.inputs, reinterpret_cast<int8_t*>(out.data.data()) + n * head.inputs);
  }
  return out;
}

}  // namespace paceline
