// Verification by itself: one step, rows judged one after another. What whole texts come to: the identity,
// distribution and bugs tests beside this one.
#include "model/verifier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "model/sampler.h"

namespace paceline {
namespace {

using Text = std::vector<TokenId>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct OneStep {
  SamplerState state;
  ThreadPool pool{1};
  OneStep() {
    state.Reset(2);
    state.Append(Text{3, 5});
  }
  absl::StatusOr<TokenId> Judge(Verification& verification, std::vector<float> logits) {
    return verification.Judge(kernels::ReferenceKernels(), pool, logits);
  }
};

TEST(Verification, WithoutDraftsOneRowIsEnough) {
  OneStep step;
  const Sampling greedy{.temperature = 0};
  Verification verification({.sampling = &greedy, .state = &step.state, .position = 2});
  EXPECT_FALSE(verification.done());
  EXPECT_EQ(*step.Judge(verification, {0, 1, 5, 0, 0, 0, 0, 0}), 2);
  EXPECT_TRUE(verification.done());
  EXPECT_EQ(verification.accepted(), 0);
  EXPECT_EQ(step.state.tokens().back(), 2);
  EXPECT_EQ(step.state.counts().at(2).generated, 1);
}

TEST(Verification, ARowThatIsNotNumbersFailsUnderEveryRule) {
  const std::vector<float> bad = {0, std::numeric_limits<float>::quiet_NaN(), 0, 0, 0, 0, 0, 0};
  const Text drafts = {2};
  for (const AcceptanceRule rule : {AcceptanceRule::kCoupled, AcceptanceRule::kRejection}) {
    for (const double assume : {-1.0, 1.0}) {
      OneStep step;
      const Sampling sampling{.acceptance = rule};
      Verification verification({.sampling = &sampling,
                                 .state = &step.state,
                                 .drafts = drafts,
                                 .position = 2,
                                 .assume_acceptance = assume});
      const auto token = step.Judge(verification, bad);
      ASSERT_FALSE(token.ok());
      EXPECT_EQ(CodeOf(std::string(token.status().message())), "REQ-003");
      EXPECT_EQ(step.state.size(), 2);
    }
  }
}

TEST(Verification, AMaskedDraftIsNeverEmitted) {
  const Text drafts = {4};
  for (uint64_t seed = 0; seed < 200; ++seed) {
    for (const AcceptanceRule rule : {AcceptanceRule::kCoupled, AcceptanceRule::kRejection}) {
      OneStep step;
      const Sampling sampling{.seed = seed, .acceptance = rule};
      Verification verification(
          {.sampling = &sampling, .state = &step.state, .drafts = drafts, .position = 2});
      EXPECT_NE(*step.Judge(verification, {0, 0, 0, 0, -kInfinity, 0, 0, 0}), 4);
      EXPECT_TRUE(verification.done());
    }
  }
}

TEST(Verification, AssumedAcceptanceAsksNeitherTargetNorDraft) {
  constexpr int32_t kSteps = 20000;
  for (const double assume : {0.0, 0.6, 1.0}) {
    for (const TokenId draft : {2, 6}) {  // what the target draws, and what it never would
      const Text drafts(4, draft);
      double judged = 0, right = 0;
      for (uint64_t seed = 0; seed < kSteps / 4; ++seed) {
        OneStep step;
        const Sampling greedy{.temperature = 0, .seed = seed};
        Verification verification({.sampling = &greedy,
                                   .state = &step.state,
                                   .drafts = drafts,
                                   .position = 2,
                                   .assume_acceptance = assume});
        int32_t rows = 0;
        while (!verification.done()) {
          const TokenId token = *step.Judge(verification, {0, 1, 5, 0, 0, 0, 0, 0});
          EXPECT_EQ(token, verification.done() ? 2 : draft);
          ++rows;
        }
        EXPECT_EQ(rows, verification.accepted() + 1);
        judged += std::min(rows, 4);
        right += verification.accepted();
      }
      EXPECT_NEAR(right / judged, assume, 5 * std::sqrt(assume * (1 - assume) / judged));
    }
  }
}

}  // namespace
}  // namespace paceline
