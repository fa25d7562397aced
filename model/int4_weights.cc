// Rounding to INT4.
#include "model/int4_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
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
constexpr int64_t kCandidates = std::size(kTopCodes);

// Nearest FP16 where it is normal, else the value itself.
float AsHalf(float scale) {
  if (!(scale >= 0x1p-14f && scale < 65504.0f)) return scale;
  const uint32_t bits = std::bit_cast<uint32_t>(scale);
  return std::bit_cast<float>((bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu);
}

// Adding and taking away 1.5 * 2^23 rounds to the nearest even integer.
constexpr float kRound = 12582912.0f;

float Code(float x, float inverse) {
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

// Half of the lanes at once: what the compiler makes of a vector is the best the machine has.
using Vector = float __attribute__((vector_size(4 * kLanes / 2)));

Vector SquaredError(Vector x, Vector scale, Vector inverse) {
  const Vector round = Vector{} + kRound;
  const Vector code = (x * inverse + round) - round;
  const Vector low = Vector{} - 8.0f, high = Vector{} + 7.0f;
  const Vector above = code > low ? code : low;
  const Vector off = x - (above < high ? above : high) * scale;
  return off * off;
}

// Squared errors of the group under each candidate: in one pass, for the sums of one candidate alone would
// wait on each other.
void SquaredErrors(const float* x, int64_t count, const float* scales, float* errors) {
  constexpr int64_t kHalf = kLanes / 2;
  float lanes[kCandidates][kLanes] = {};
  float inverses[kCandidates];
  for (int64_t c = 0; c < kCandidates; ++c) inverses[c] = 1.0f / scales[c];
  int64_t i = 0;
  Vector sums[kCandidates][2] = {};
  for (; i + kLanes <= count; i += kLanes) {
    Vector low, high;
    std::memcpy(&low, x + i, sizeof(low));
    std::memcpy(&high, x + i + kHalf, sizeof(high));
    for (int64_t c = 0; c < kCandidates; ++c) {
      const Vector scale = Vector{} + scales[c], inverse = Vector{} + inverses[c];
      sums[c][0] += SquaredError(low, scale, inverse);
      sums[c][1] += SquaredError(high, scale, inverse);
    }
  }
  std::memcpy(lanes, sums, sizeof(lanes));
  for (; i < count; ++i) {
    for (int64_t c = 0; c < kCandidates; ++c) {
      const float off = x[i] - Code(x[i], inverses[c]) * scales[c];
      lanes[c][i % kLanes] += off * off;
    }
  }
  std::fill_n(errors, kCandidates, 0.0f);
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    for (int64_t c = 0; c < kCandidates; ++c) errors[c] += lanes[c][lane];
  }
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
  float scales[kCandidates], errors[kCandidates];
  for (int64_t c = 0; c < kCandidates; ++c) scales[c] = AsHalf(top / kTopCodes[c]);
  SquaredErrors(x, count, scales, errors);
  float best_scale = 0;
  float best_error = std::numeric_limits<float>::infinity();
  for (int64_t c = 0; c < kCandidates; ++c) {
    if (errors[c] < best_error) {
      best_error = errors[c];
      best_scale = scales[c];
    }
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
