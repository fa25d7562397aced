// The table of defaults and the bounds of a request.
#include "coordinator/sampling_defaults.h"

#include <cmath>
#include <limits>

#include "coordinator/api_error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fake_tokenizer.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;

TEST(SamplingDefaults, RequestThenFileThenOurs) {
  auto ours = ResolveSampling({}, {}, 100);
  ASSERT_TRUE(ours.ok());
  EXPECT_EQ(ours->temperature, 1.0f);
  EXPECT_EQ(ours->top_k, 0);
  EXPECT_EQ(ours->top_p, 1.0f);
  EXPECT_EQ(ours->min_p, 0.0f);
  GenerationDefaults file;
  file.temperature = 0.6f;
  file.top_k = 20;
  file.top_p = 0.95f;
  auto from_file = ResolveSampling({}, file, 100);
  EXPECT_EQ(from_file->temperature, 0.6f);
  EXPECT_EQ(from_file->top_k, 20);
  EXPECT_EQ(from_file->top_p, 0.95f);
  file.do_sample = false;
  EXPECT_EQ(ResolveSampling({}, file, 100)->temperature, 0.0f);
  SamplingOptions asked;
  asked.temperature = 0.9f;
  asked.top_k = 0;
  asked.seed = 0;
  auto mixed = ResolveSampling(asked, file, 100);
  EXPECT_EQ(mixed->temperature, 0.9f);
  EXPECT_EQ(mixed->top_k, 0);
  EXPECT_EQ(mixed->top_p, 0.95f);
  EXPECT_EQ(mixed->seed, 0u);
}

TEST(SamplingDefaults, AnAbsentSeedDiffersEachTime) {
  EXPECT_NE(ResolveSampling({}, {}, 100)->seed, ResolveSampling({}, {}, 100)->seed);
}

TEST(SamplingDefaults, KnobsOutsideTheirRangeAreNamed) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {-0.1f, nan, std::numeric_limits<float>::infinity()}) {
    const auto got = ResolveSampling({.temperature = bad}, {}, 100);
    ASSERT_FALSE(got.ok());
    EXPECT_EQ(FactsOf(got.status()).field, "sampling.temperature");
    EXPECT_EQ(FactsOf(got.status()).reason, reasons::kInvalidField);
  }
  for (const float bad : {0.0f, 1.01f, nan}) EXPECT_FALSE(ResolveSampling({.top_p = bad}, {}, 100).ok());
  for (const float bad : {-0.1f, 1.01f, nan}) EXPECT_FALSE(ResolveSampling({.min_p = bad}, {}, 100).ok());
  EXPECT_FALSE(ResolveSampling({.top_k = -1}, {}, 100).ok());
  EXPECT_EQ(ResolveSampling({.top_k = 4'000'000'000}, {}, 100)->top_k, 0)
      << "more than the vocabulary is off";
}

TEST(SamplingDefaults, PromptErrorsNameIdAndIndex) {
  EXPECT_THAT(std::string(CheckPrompt({}, 10).message()), HasSubstr("no tokens"));
  const absl::Status status = CheckPrompt({1, 2, 10}, 10);
  EXPECT_THAT(std::string(status.message()), HasSubstr("id 10 at index 2"));
  EXPECT_FALSE(CheckPrompt({-1}, 10).ok());
  EXPECT_TRUE(CheckPrompt({0, 9}, 10).ok());
}

TEST(SamplingDefaults, ContextBoundsPromptAndTokensTogether) {
  EXPECT_EQ(*ResolveMaxTokens({}, 10, 100), 90);
  EXPECT_EQ(*ResolveMaxTokens({.max_tokens = 90}, 10, 100), 90);
  const auto over = ResolveMaxTokens({.max_tokens = 91}, 10, 100);
  ASSERT_FALSE(over.ok());
  EXPECT_EQ(over.status().code(), absl::StatusCode::kInvalidArgument);
  const ErrorFacts facts = FactsOf(over.status());
  EXPECT_EQ(facts.reason, reasons::kContextLength);
  EXPECT_EQ(facts.metadata.at("promptTokens"), "10");
  EXPECT_EQ(facts.metadata.at("maxTokens"), "91");
  EXPECT_FALSE(ResolveMaxTokens({}, 100, 100).ok()) << "no room for one token";
  EXPECT_FALSE(ResolveMaxTokens({.max_tokens = 0}, 1, 100).ok());
  EXPECT_FALSE(ResolveMaxTokens({.max_tokens = 5, .min_tokens = 6}, 1, 100).ok());
  EXPECT_FALSE(ResolveMaxTokens({.max_tokens = std::numeric_limits<int64_t>::max()}, 1, 100).ok());
}

TEST(SamplingDefaults, PenaltiesAndAdjustmentsHaveBounds) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const auto field = [](const SamplingOptions& options) {
    const auto got = ResolveSampling(options, {}, 100);
    return got.ok() ? std::string("ok") : FactsOf(got.status()).field;
  };
  for (const float bad : {nan, inf, -inf}) {
    EXPECT_EQ(field({.presence_penalty = bad}), "sampling.presence_penalty");
    EXPECT_EQ(field({.frequency_penalty = bad}), "sampling.frequency_penalty");
  }
  for (const float bad : {nan, inf, 0.0f, -1.0f})
    EXPECT_EQ(field({.repetition_penalty = bad}), "sampling.repetition_penalty");
  EXPECT_EQ(field({.presence_penalty = -2.0f, .frequency_penalty = 2.0f, .repetition_penalty = 0.5f}), "ok");
  for (const float bad : {nan, inf, -100.5f, 101.0f})
    EXPECT_EQ(field({.logit_bias = {{1, bad}}}), "sampling.logit_bias");
  EXPECT_EQ(field({.logit_bias = {{100, 1.0f}}}), "sampling.logit_bias");
  EXPECT_EQ(field({.logit_bias = {{-1, 1.0f}}}), "sampling.logit_bias");
  EXPECT_EQ(field({.logit_bias = {{0, -100.0f}, {99, 100.0f}}}), "ok");
  EXPECT_EQ(field({.allowed_token_ids = {1, 100}}), "sampling.allowed_token_ids");
  EXPECT_EQ(ResolveSampling({}, {}, 100)->adjustments, nullptr);
  const FakeTokenizer tokenizer{{"a", "b", "c"}};
  EXPECT_EQ(FactsOf(ResolveSampling({.allowed_token_ids = {50, 60}}, {}, 100, &tokenizer).status()).field,
            "sampling.allowed_token_ids");
  EXPECT_EQ(ResolveSampling({.allowed_token_ids = {50, 2, 0, 2}}, {}, 100, &tokenizer)->adjustments->allowed,
            (std::vector<TokenId>{0, 2}));
}

TEST(SamplingDefaults, SpeculationIsTheRequestsThenThePolicys) {
  SpeculationPolicy policy;
  policy.mode = DraftMode::kFixed;
  policy.depth = 4;
  const auto resolve = [&](std::optional<DraftMode> mode, std::optional<int64_t> depth) {
    GenerateRequest request;
    request.speculation.mode = mode;
    request.speculation.max_draft_tokens = depth;
    const auto got = ResolveSpeculation(request, policy);
    return got.ok() ? std::pair(got->mode, got->depth) : std::pair(DraftMode::kOff, -1);
  };
  EXPECT_EQ(resolve({}, {}), std::pair(DraftMode::kFixed, 4));
  EXPECT_EQ(resolve({}, 2), std::pair(DraftMode::kFixed, 2));
  EXPECT_EQ(resolve({}, 8), std::pair(DraftMode::kFixed, 4)) << "a cap, not a wish";
  EXPECT_EQ(resolve({}, 0), std::pair(DraftMode::kOff, 0));
  EXPECT_EQ(resolve(DraftMode::kFixed, 7), std::pair(DraftMode::kFixed, 7));
  EXPECT_EQ(resolve(DraftMode::kFixed, {}), std::pair(DraftMode::kOff, -1));
  EXPECT_EQ(resolve(DraftMode::kAuto, {}), std::pair(DraftMode::kAuto, 4));
  EXPECT_EQ(resolve(DraftMode::kOff, 3), std::pair(DraftMode::kOff, 0));
  EXPECT_EQ(resolve(DraftMode::kAuto, 9), std::pair(DraftMode::kOff, -1));
}

}  // namespace
}  // namespace paceline
