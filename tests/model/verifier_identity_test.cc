// Coupled text is plain text, token for token, whatever was drafted and under every sampling. Target and
// drafter: verifier_world.h.
#include <gtest/gtest.h>

#include "tests/model/verifier_world.h"

namespace paceline {
namespace {

using testing::Adjusted;
using testing::Always;
using testing::AtRandom;
using testing::Coupled;
using testing::Decoding;
using testing::Knowing;
using testing::Likeliest;
using testing::Nothing;
using testing::Sampled;
using testing::SmallWorld;
using testing::Text;
using testing::WideWorld;
using testing::WorldDrafter;

std::vector<std::pair<const char*, Sampling>> Samplings() {
  const auto bias = Adjusted({{1, 1.5f}, {4, -2.0f}}, {});
  return {
      {"greedy", {.temperature = 0}},
      {"greedy, penalties", {.temperature = 0, .repetition_penalty = 1.3f, .presence_penalty = 0.5f}},
      {"plain", {}},
      {"cool", {.temperature = 0.6f}},
      {"top-k", {.top_k = 3}},
      {"top-p", {.top_p = 0.8f}},
      {"min-p", {.min_p = 0.2f}},
      {"truncated", {.temperature = 0.8f, .top_k = 6, .top_p = 0.9f, .min_p = 0.05f}},
      {"repetition", {.repetition_penalty = 1.4f}},
      {"presence", {.presence_penalty = 1.5f}},
      {"frequency", {.frequency_penalty = 0.3f}},
      {"bias", {.adjustments = bias}},
      {"allowed", {.adjustments = Adjusted({}, {0, 2, 3, 5, 6})}},
      {"everything",
       {.temperature = 0.9f,
        .top_k = 7,
        .top_p = 0.95f,
        .min_p = 0.02f,
        .repetition_penalty = 1.1f,
        .presence_penalty = 0.4f,
        .frequency_penalty = 0.1f,
        .adjustments = Adjusted({{1, 1.5f}, {4, -2.0f}}, {0, 1, 2, 4, 5, 6, 7})}},
  };
}

int32_t RandomDepth(int64_t position) {
  return static_cast<int32_t>(testing::WorldBits(3, position) % (kMaxDraft + 1));
}

TEST(Coupled, TextIsThatOfPlainDecodingWhateverTheDrafts) {
  constexpr int64_t kLength = 1000;
  Decoding plain(SmallWorld()), drafted(SmallWorld());
  uint64_t seed = 1;
  for (const auto& [name, given] : Samplings()) {
    for (const AcceptanceRule rule : {AcceptanceRule::kCoupled, AcceptanceRule::kRejection}) {
      // Rejection promises the text only where nothing is random.
      if (rule == AcceptanceRule::kRejection && given.temperature > 0) continue;
      Sampling sampling = given;
      sampling.acceptance = rule;
      sampling.seed = seed++;
      const Text want = plain.Plain(sampling, kLength);
      const std::pair<const char*, WorldDrafter> drafters[] = {{"coupled", Coupled},
                                                               {"sampled", Sampled},
                                                               {"likeliest", Likeliest},
                                                               {"random", AtRandom},
                                                               {"none", Nothing},
                                                               {"never right", Knowing(want, 0)},
                                                               {"right once", Knowing(want, 1)},
                                                               {"right thrice", Knowing(want, 3)},
                                                               {"all-knowing", Knowing(want, kMaxDraft)}};
      for (const auto& [who, drafter] : drafters) {
        for (int32_t depth = 1; depth <= kMaxDraft; ++depth)
          ASSERT_EQ(drafted.Drafted(sampling, kLength, drafter, Always(depth)), want)
              << name << ", " << who << ", depth " << depth;
        ASSERT_EQ(drafted.Drafted(sampling, kLength, drafter, RandomDepth), want) << name << ", " << who;
      }
      drafted.Drafted(sampling, kLength, Knowing(want, kMaxDraft), Always(4));
      EXPECT_EQ(drafted.accepted(), drafted.drafted()) << name;
      drafted.Drafted(sampling, kLength, Knowing(want, 0), Always(4));
      EXPECT_EQ(drafted.accepted(), 0) << name;
    }
  }
}

// A drafter that draws with the target's noise is right far more often than one that draws by itself.
TEST(Coupled, SharedNoiseBeatsAnIndependentDraw) {
  Decoding shared(SmallWorld()), own(SmallWorld());
  shared.Drafted({.seed = 5}, 4000, Coupled, Always(1));
  own.Drafted({.seed = 5}, 4000, Sampled, Always(1));
  EXPECT_GT(shared.accepted() * 10, shared.drafted() * 6);
  EXPECT_LT(own.accepted() * 10, own.drafted() * 4);
}

// More ids than a drafter reports candidates.
TEST(Coupled, TextIsThatOfPlainDecodingInAWideVocabulary) {
  constexpr int64_t kLength = 2000;
  Decoding plain(WideWorld()), drafted(WideWorld());
  const std::pair<const char*, WorldDrafter> drafters[] = {
      {"coupled", Coupled}, {"sampled", Sampled}, {"likeliest", Likeliest}, {"random", AtRandom}};
  for (const auto& [name, sampling] : Samplings()) {
    const Text want = plain.Plain(sampling, kLength);
    for (const auto& [who, drafter] : drafters)
      ASSERT_EQ(drafted.Drafted(sampling, kLength, drafter, RandomDepth), want) << name << ", " << who;
  }
}

}  // namespace
}  // namespace paceline
