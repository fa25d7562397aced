// The mistakes that drafting stacks make (speculation literature and bug trackers), planted one by one: each
// is seen by the test that claims to see it, while the real parts pass the same test on the same draws.
#include <gtest/gtest.h>

#include "tests/model/joint_strings.h"

namespace paceline {
namespace {

using testing::Adjusted;
using testing::Always;
using testing::Bug;
using testing::Coupled;
using testing::Decoding;
using testing::JointStrings;
using testing::Knowing;
using testing::Sampled;
using testing::SmallWorld;
using testing::Text;
using testing::WideWorld;
using testing::World;
using testing::WorldDrafter;

constexpr int32_t kTokens = 4;

void ExpectIdentityFails(Bug bug, const Sampling& sampling) {
  Decoding plain(SmallWorld()), drafted(SmallWorld());
  const Text want = plain.Plain(sampling, 300);
  const WorldDrafter knowing = Knowing(want, kMaxDraft);
  EXPECT_EQ(drafted.Drafted(sampling, 300, knowing, Always(3)), want);
  EXPECT_NE(drafted.Drafted(sampling, 300, knowing, Always(3), bug), want);
  EXPECT_NE(drafted.Drafted(sampling, 300, Coupled, Always(2), bug), want);
}

TEST(PlantedBug, PenaltiesWithoutOverlayBreakIdentity) {
  ExpectIdentityFails(Bug::kNoOverlay, {.seed = 1, .presence_penalty = 1.5f});
  ExpectIdentityFails(Bug::kNoOverlay, {.seed = 2, .frequency_penalty = 0.5f});
  ExpectIdentityFails(Bug::kNoOverlay, {.temperature = 0, .frequency_penalty = 0.5f});
}
TEST(PlantedBug, MinPSkippedOnVerifiedRowsBreaksIdentity) {
  ExpectIdentityFails(Bug::kMinPSkipped, {.min_p = 0.3f, .seed = 1});
}
TEST(PlantedBug, BiasSkippedOnVerifiedRowsBreaksIdentity) {
  ExpectIdentityFails(Bug::kBiasSkipped, {.seed = 1, .adjustments = Adjusted({{1, 1.5f}}, {})});
  ExpectIdentityFails(Bug::kBiasSkipped, {.seed = 1, .adjustments = Adjusted({}, {0, 2, 5, 6})});
}
TEST(PlantedBug, BonusFromTheWrongRowBreaksIdentity) {
  ExpectIdentityFails(Bug::kBonusFromWrongRow, {.seed = 1});
  // Without a penalty the likeliest tokens run in a circle that the drafter never guesses.
  ExpectIdentityFails(Bug::kBonusFromWrongRow, {.temperature = 0, .frequency_penalty = 0.3f});
}
TEST(PlantedBug, AFreshSampleOnMismatchBreaksIdentity) {
  Decoding plain(SmallWorld()), drafted(SmallWorld());
  const Sampling sampling{.seed = 1};
  EXPECT_NE(drafted.Drafted(sampling, 300, Coupled, Always(2), Bug::kFreshSampleOnMismatch),
            plain.Plain(sampling, 300));
}

// It must show in each of the worlds, in so many requests.
void ExpectDistributionFails(Bug bug, const WorldDrafter& drafter, const Sampling& sampling,
                             int64_t requests = 13000,
                             const std::vector<const World*>& worlds = {&SmallWorld(), &WideWorld()}) {
  for (const World* world : worlds) {
    const JointStrings expected = JointStrings::Expected(*world, kTokens, sampling);
    for (const int32_t depth : {1, 3}) {
      const auto badness = [&](Bug planted) {
        return Worst(
            expected,
            JointStrings::Observed(*world, kTokens, sampling, drafter, depth, requests, 500, planted),
            static_cast<double>(requests));
      };
      EXPECT_LT(badness(Bug::kNone), 1) << depth << ", " << world->vocab() << " ids";
      EXPECT_GT(badness(bug), 1) << depth << ", " << world->vocab() << " ids";
    }
  }
}
TEST(PlantedBug, AFreshSampleOnMismatchShowsInTheDistribution) {
  ExpectDistributionFails(Bug::kFreshSampleOnMismatch, Sampled, {});
  ExpectDistributionFails(Bug::kFreshSampleOnMismatch, Coupled, {});
}
TEST(PlantedBug, ARatioOfTheFullQShowsInTheDistribution) {
  ExpectDistributionFails(Bug::kRatioOfFullQ, Sampled, {.acceptance = AcceptanceRule::kRejection});
}
TEST(PlantedBug, ALowPrecisionQShowsInTheDistribution) {
  // The smallest of the mistakes: three percent of the probability in the wrong places.
  ExpectDistributionFails(
      Bug::kLowPrecisionQ, Sampled, {.acceptance = AcceptanceRule::kRejection}, 60000,
      {&SmallWorld()});  // of many ids it draws some that were not reported: a CHECK sees it
}
TEST(PlantedBug, DroppedWeakDraftsShowInTheDistribution) {
  ExpectDistributionFails(Bug::kWeakDraftsDropped, Sampled, {.acceptance = AcceptanceRule::kRejection});
}
TEST(PlantedBug, PenaltiesWithoutOverlayShowInTheDistribution) {
  ExpectDistributionFails(Bug::kNoOverlay, Sampled,
                          {.presence_penalty = 1.5f, .acceptance = AcceptanceRule::kRejection});
}
TEST(PlantedBug, MinPSkippedOnVerifiedRowsShowsInTheDistribution) {
  ExpectDistributionFails(Bug::kMinPSkipped, Coupled, {.min_p = 0.3f});
}
TEST(PlantedBug, BiasSkippedOnVerifiedRowsShowsInTheDistribution) {
  ExpectDistributionFails(Bug::kBiasSkipped, Coupled, {.adjustments = Adjusted({{1, 1.5f}}, {})});
}
TEST(PlantedBug, BonusFromTheWrongRowShowsInTheDistribution) {
  ExpectDistributionFails(Bug::kBonusFromWrongRow, Sampled, {.acceptance = AcceptanceRule::kRejection});
}

}  // namespace
}  // namespace paceline
