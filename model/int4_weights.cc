// Rounding to INT4.
#include "model/int4_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/kernels.h"
#include "kernels/plain_decode.h"
#include "model/widen_row.h"

namespace paceline {
namespace {

using kernels::PlainLinear;
using kernels::WeightFormat;

constexpr int64_t kGroup = 128;
constexpr int64_t kLanes = 16;
// Largest code the maximum of a group may take: 7 keeps weights that lie on an INT4 grid exactly, the others
// trade a clipped maximum for a finer grid.
constexpr float kTopCodes[] = {7.0f, 7.5f, 8.0f, 8.5f, 9.0f};

// Nearest FP16 where it is normal, else the value itself.
float AsHalf(float scale) {
  if (!(scale >= 0x1p-14f && scale < 65504.0f)) return scale;
  const uint32_t bits = std::bit_cast<uint32_t>(scale);
  return std::bit_cast<float>((bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu);
}

// Adding and taking away 1.5 * 2^23 rounds to the nearest even integer.
float Code(float x, float inverse) {
  constexpr float kRound = 12582912.0f;
  const float code = (x * inverse + kRound) - kRound;
  const float above = code > -8.0f ? code : -8.0f;
  return above < 7.0f ? above : 7.0f;
}

// Whole vectors of a group first: a loop of a fixed count becomes vector code.
template <class Body>
void EachLane(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) body(i + lane, lane);
  }
  for (; i < count; ++i) body(i, i % kLanes);
}

float SquaredError(const float* x, int64_t count, float scale) {
  const float inverse = 1.0f / scale;
  float lanes[kLanes] = {};
  EachLane(count, [&](int64_t i, int64_t lane) {
    const float off = x[i] - Code(x[i], inverse) * scale;
    lanes[lane] += off * off;
  });
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

// Returns the scale.
float RoundGroup(const float* x, int64_t count, uint8_t* codes) {
  // As integers, magnitudes order like the numbers and NaN above all, so one maximum finds both.
  uint32_t lanes[kLanes] = {};
  EachLane(count, [&](int64_t i, int64_t lane) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    lanes[lane] = magnitude > lanes[lane] ? magnitude : lanes[lane];
  });
  const float top = std::bit_cast<float>(*std::max_element(lanes, lanes + kLanes));
  std::memset(codes, 8, static_cast<size_t>(count));
  if (!std::isfinite(top)) return std::numeric_limits<float>::quiet_NaN();
  if (top < kernels::kSmallestMax) return 0;
  float best_scale = 0;
  float best_error = std::numeric_limits<float>::infinity();
  for (const float code : kTopCodes) {
    const float scale = AsHalf(top / code);
    const float error = SquaredError(x, count, scale);
    if (error < best_error) {
      best_error = error;
      best_scale = scale;
    }
    if (best_error == 0) break;
  }
  const float inverse = 1.0f / best_scale;
  for (int64_t i = 0; i < count; ++i)
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(Code(x[i], inverse)) + 8);
  return best_scale;
}

}  // namespace

void MakeInt4(PlainLinear& w) {
  if (w.format == WeightFormat::kInt4) return;
  CHECK_EQ(w.first_input % kGroup, 0);
  PlainLinear out;
  out.format = WeightFormat::kInt4;
  out.outputs = w.outputs;
  out.inputs = w.inputs;
  out.first_input = w.first_input;
  out.first_output = w.first_output;
  out.group = kGroup;
  out.data.resize(static_cast<size_t>(w.outputs * w.inputs));
  out.scales.resize(static_cast<size_t>(w.outputs * out.groups()));
  std::vector<float> row(static_cast<size_t>(w.inputs));
  size_t at = 0;
  for (int64_t n = 0; n < w.outputs; ++n) {
    WidenRow(w, n, row.data());
    for (int64_t k = 0; k < w.inputs; k += kGroup) {
      out.scales[at++] =
          RoundGroup(row.data() + k, std::min(kGroup, w.inputs - k), out.data.data() + n * w.inputs + k);
    }
  }
  w = std::move(out);
}

LinearRule Int4Rule() {
  return {MakeInt4, [](const Checkpoint::LinearFacts& facts) -> LinearForm {
            if (facts.format == WeightFormat::kInt4) return {WeightFormat::kInt4, facts.group};
            return {WeightFormat::kInt4, kGroup};
          }};
}

}  // namespace paceline
