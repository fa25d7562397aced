// The bytes that the meter books for a step, against what the configuration says the step has to read:
// weights times the bits of their format, the experts that were chosen, the state and the keys and values of
// the text so far. No code of the model is asked but for how many experts were chosen.
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <string>

#include "model/stage_meter.h"
#include "tests/model/checkpoint_files.h"
#include "tests/model/small_shape.h"
#include "tests/testing/local_cluster.h"

namespace paceline {
namespace {

using testing::kSmallShape;

constexpr double kMost = 0.02;  // off, of a stage and of a step
constexpr int64_t kKeyHeads = 16, kGdnDim = 128, kTaps = 4, kBlock = 32, kHeadDim = 256, kKvHeads = 2;

// Bits of a weight, its share of the scales included.
constexpr double kInt4 = 4 + 16.0 / 128, kFp8 = 8, kBf16 = 16, kInt8 = 8, kF32 = 32;
struct Bits {
  double projections, gates, experts, shared;
};
Bits BitsOf(const std::string& format) {
  if (format == "hybrid") return {kFp8, kBf16, kInt4, kFp8};
  if (format == "int4") return {kInt4, kInt4, kInt4, kBf16};
  return {kBf16, kBf16, kBf16, kBf16};
}

// Bytes by stage of `rows` rows at positions first, first + 1, .. of one sequence. `experts`: chosen ones of
// all layers together.
std::map<Stage, double> Arithmetic(const std::string& format, double head_bits, double kv_bits, int64_t first,
                                   int64_t rows, int64_t experts) {
  const synth::ModelShape& s = kSmallShape;
  const double hidden = static_cast<double>(s.hidden);
  const double values = static_cast<double>(s.value_heads * kGdnDim);
  const double keys = static_cast<double>(kKeyHeads * kGdnDim);
  const double heads = static_cast<double>(s.heads * kHeadDim);
  const double kv = static_cast<double>(kKvHeads * kHeadDim);
  const double columns = static_cast<double>(s.columns);
  const double layers = s.layers, gdn = 3, attention = 1;  // three to one
  const Bits bits = BitsOf(format);
  const auto bytes = [](double weights, double of_each) { return weights * of_each / 8; };

  std::map<Stage, double> out;
  out[Stage::kAttentionProjections] =
      attention * bytes(hidden * (2 * heads + 2 * kv + heads), bits.projections);
  out[Stage::kAttention] = attention * bytes(2 * kv * static_cast<double>(first + rows), kv_bits);
  out[Stage::kDeltaNetProjections] =
      gdn * (bytes(hidden * (2 * keys + values + values + values), bits.projections) +
             bytes(hidden * 2 * static_cast<double>(s.value_heads), bits.gates));
  const bool folds = first / kBlock != (first + rows) / kBlock;
  const double state = values * kGdnDim * (folds ? 3 : 1);
  const double since =
      static_cast<double>(first % kBlock) * (keys + values + static_cast<double>(s.value_heads));
  const double convolution = (2 * keys + values) * (kTaps + kTaps - 1);  // weights, and the inputs before
  out[Stage::kDeltaNet] = gdn * bytes(state + since + convolution, kF32);
  out[Stage::kExperts] = static_cast<double>(experts) * bytes(3 * hidden * columns, bits.experts);
  out[Stage::kSharedExpert] = layers * (bytes(3 * hidden * columns, bits.shared) + bytes(hidden, kBf16));
  out[Stage::kRouter] = layers * bytes(hidden * static_cast<double>(s.experts), kBf16);
  out[Stage::kHead] = bytes(hidden * static_cast<double>(s.vocab), head_bits);
  out[Stage::kNorms] =
      bytes((2 * layers + 1) * hidden, kF32) + bytes(static_cast<double>(rows) * hidden, kBf16);
  return out;
}

// Of an element of a key or value, its share of the scale included.
double KvBits(kernels::KvDtype dtype) {
  if (dtype == kernels::KvDtype::kInt8) return 8 + kF32 / kHeadDim;
  if (dtype == kernels::KvDtype::kInt4) return 4 + kF32 / kHeadDim;
  return dtype == kernels::KvDtype::kF32 ? kF32 : kBf16;
}

struct Case {
  const char* format;
  HeadFormat head;
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.format; }

class ByteMeter : public ::testing::TestWithParam<Case> {};

TEST_P(ByteMeter, AgreesWithTheModelsArithmetic) {
  const std::string format = GetParam().format;
  const testing::Folder folder;
  ASSERT_TRUE(
      synth::WriteShape(kSmallShape, {.directory = folder.path(), .like = "small", .format = format}).ok());
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  testing::LocalClusterOptions options;
  options.head_backend = "cpu";
  options.threads = 2;
  options.lm_head = GetParam().head;
  options.kv_dtype = GetParam().kv_dtype;
  const auto cluster = testing::LocalCluster::Start(**checkpoint, options);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  const double head_bits = GetParam().head == HeadFormat::kInt8 ? kInt8 : kBf16;

  int64_t position = 0;
  for (const int32_t rows : {25, 1, 4, 1, 8, 1}) {  // the fifth crosses a border of a block
    SCOPED_TRACE(::testing::Message() << rows << " rows at " << position);
    StepPlan plan;
    plan.step = StepId(static_cast<uint64_t>(position) + 1);
    SequenceRows s;
    s.sequence = SequenceId(1);
    s.pages = {0};
    s.first_position = position;
    for (int32_t i = 0; i < rows; ++i)
      s.tokens.push_back(static_cast<TokenId>((position + i) * 7919 % kSmallShape.vocab));
    s.sampled_rows = rows;
    s.sampling.temperature = 0;
    plan.sequences.push_back(std::move(s));
    StageMeter meter;
    (*cluster)->trunk().SetMeter(&meter);
    const absl::StatusOr<StepResult> result = (*cluster)->trunk().Run(plan);
    (*cluster)->trunk().SetMeter(nullptr);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->distinct_experts.size(), static_cast<size_t>(kSmallShape.layers));
    const int64_t experts =
        std::accumulate(result->distinct_experts.begin(), result->distinct_experts.end(), int64_t{0});

    const std::map<Stage, double> want =
        Arithmetic(format, head_bits, KvBits(GetParam().kv_dtype), position, rows, experts);
    double all_want = 0, all_have = 0;
    for (int stage = 0; stage < static_cast<int>(Stage::kCount); ++stage) {
      const Stage which = static_cast<Stage>(stage);
      const double have = static_cast<double>(meter.at(which).bytes);
      const auto found = want.find(which);
      all_have += have;
      all_want += found == want.end() ? 0.0 : found->second;
      if (found == want.end()) {
        EXPECT_EQ(have, 0) << StageName(which);
        continue;
      }
      EXPECT_GT(meter.at(which).seconds, 0) << StageName(which);
      // One row of 64, or 16 of them, take a panel of their own: only their sum is held to the bound.
      if (which == Stage::kRouter || which == Stage::kSharedExpert) {
        EXPECT_GE(have, found->second * (1 - kMost)) << StageName(which);
        continue;
      }
      EXPECT_NEAR(have / found->second, 1, kMost) << StageName(which);
    }
    EXPECT_NEAR(all_have / all_want, 1, kMost);
    position += rows;
  }
}

std::string NameOf(const Case& c) {
  const char* const kv[] = {"", "_fp32_kv", "_int8_kv", "_int4_kv"};  // by KvDtype
  return std::string(c.format) + (c.head == HeadFormat::kInt8 ? "_int8_head" : "") +
         kv[static_cast<int>(c.kv_dtype)];
}

INSTANTIATE_TEST_SUITE_P(Formats, ByteMeter,
                         ::testing::Values(Case{"hybrid", HeadFormat::kAuto},
                                           Case{"hybrid", HeadFormat::kInt8}, Case{"int4", HeadFormat::kAuto},
                                           Case{"bf16", HeadFormat::kAuto},
                                           Case{"int4", HeadFormat::kAuto, kernels::KvDtype::kF32},
                                           Case{"int4", HeadFormat::kAuto, kernels::KvDtype::kInt8},
                                           Case{"int4", HeadFormat::kAuto, kernels::KvDtype::kInt4}),
                         [](const auto& info) { return NameOf(info.param); });

}  // namespace
}  // namespace paceline
