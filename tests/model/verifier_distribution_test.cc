// Under every rule of acceptance, joint strings have the probabilities of the target's own draws. Two worlds:
// one small enough that every string of five tokens is counted, one of 32 ids, more than a drafter reports
// candidates, so that a draft's distribution is a truncated one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "tests/model/joint_strings.h"

namespace paceline {
namespace {

using testing::Adjusted;
using testing::Coupled;
using testing::Decoding;
using testing::JointStrings;
using testing::Likeliest;
using testing::Sampled;
using testing::SampledAndForgotten;
using testing::SmallWorld;
using testing::Text;
using testing::WideWorld;
using testing::World;
using testing::WorldDrafter;

std::vector<std::pair<const char*, Sampling>> Samplings() {
  return {
      {"plain", {}},
      {"truncated", {.temperature = 0.8f, .top_k = 6, .top_p = 0.9f, .min_p = 0.1f}},
      {"penalties", {.repetition_penalty = 1.2f, .presence_penalty = 0.8f, .frequency_penalty = 0.3f}},
      {"everything",
       {.temperature = 1.2f,
        .top_k = 6,
        .top_p = 0.95f,
        .min_p = 0.05f,
        .repetition_penalty = 1.1f,
        .presence_penalty = 0.5f,
        .adjustments = Adjusted({{1, 1.0f}, {4, -1.0f}}, {0, 1, 2, 4, 5, 6, 7})}},
  };
}

// Every rule, depth and sampling. Returns the worst statistic over its critical value.
double ExpectTheTargetsStrings(const World& world, int32_t tokens, int64_t requests) {
  struct Rule {
    const char* name;
    AcceptanceRule acceptance;
    WorldDrafter drafter;
  };
  const Rule rules[] = {{"coupled", AcceptanceRule::kCoupled, Coupled},
                        {"rejection", AcceptanceRule::kRejection, Sampled},
                        {"rejection of certain drafts", AcceptanceRule::kRejection, Likeliest},
                        {"rejection of forgotten draws", AcceptanceRule::kRejection, SampledAndForgotten}};
  uint64_t seed = 1;
  double worst = 0;
  for (const auto& [name, given] : Samplings()) {
    const JointStrings expected = JointStrings::Expected(world, tokens, given);
    for (const Rule& rule : rules) {
      for (int32_t depth = 1; depth < tokens; ++depth, seed += static_cast<uint64_t>(requests)) {
        Sampling sampling = given;
        sampling.acceptance = rule.acceptance;
        const JointStrings seen =
            JointStrings::Observed(world, tokens, sampling, rule.drafter, depth, requests, seed);
        const double badness = Worst(expected, seen, static_cast<double>(requests));
        EXPECT_LT(badness, 1) << rule.name << ", " << name << ", depth " << depth;
        worst = std::max(worst, badness);
      }
    }
  }
  return worst;
}

// 4 samplings x 4 rules x 4 depths x 13'000 requests x 5 tokens: 4.16 million draws.
TEST(Distribution, JointStringsAreTheTargetsUnderEveryRule) {
  RecordProperty("worst", absl::StrCat(ExpectTheTargetsStrings(SmallWorld(), 5, 13000)));
}

// 4 samplings x 4 rules x 3 depths x 21'000 requests x 4 tokens: 4.03 million draws.
TEST(Distribution, JointStringsOfAWideVocabularyAreTheTargets) {
  RecordProperty("worst", absl::StrCat(ExpectTheTargetsStrings(WideWorld(), 4, 21000)));
}

// Of rejection sampling the share of accepted drafts is known: the sum of min(p, q).
TEST(Distribution, RejectionAcceptsAsOftenAsItCan) {
  const Text text = testing::kWorldPrompt;
  const std::vector<double> p = ExpectedDraw(SmallWorld(), text, {});
  SamplerState state;
  state.Reset(2);
  state.Append(testing::kWorldPrompt);
  std::vector<float> logits = SmallWorld().draft(text);
  const DraftDraw draw = *SampleDraftDistribution(logits, {}, {}, state, 2);
  double overlap = 0;
  for (const SparseDistribution::Entry& e : draw.distribution.entries)
    overlap += std::min(e.probability, p[e.token]);
  Decoding decoding(SmallWorld());
  constexpr int64_t kRequests = 50000;
  double accepted = 0;
  for (int64_t i = 0; i < kRequests; ++i) {
    decoding.Drafted({.seed = 900000 + static_cast<uint64_t>(i), .acceptance = AcceptanceRule::kRejection}, 3,
                     Sampled, testing::Always(1));
    accepted += static_cast<double>(decoding.accepted());
  }
  EXPECT_NEAR(accepted / kRequests, overlap, 5 * std::sqrt(overlap * (1 - overlap) / kRequests));
}

}  // namespace
}  // namespace paceline
