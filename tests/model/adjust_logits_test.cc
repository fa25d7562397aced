// Allowed ids, bias and penalties: order and arithmetic of NUMERICS, Sampling, to the bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>

#include "model/sampler.h"

namespace paceline {
namespace {

using ::testing::ElementsAre;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

SamplerState StateOf(const std::vector<TokenId>& prompt, const std::vector<TokenId>& text) {
  SamplerState state;
  state.Reset(static_cast<int64_t>(prompt.size()));
  state.Append(prompt);
  state.Append(text);
  return state;
}
std::vector<float> AdjustedBy(std::vector<float> logits, const Sampling& sampling,
                              const SamplerState& state) {
  AdjustLogits(logits, sampling, state);
  return logits;
}
std::shared_ptr<const LogitAdjustments> With(std::vector<std::pair<TokenId, float>> bias,
                                             std::vector<TokenId> allowed) {
  return std::make_shared<LogitAdjustments>(LogitAdjustments{std::move(bias), std::move(allowed)});
}

TEST(AdjustLogits, TouchesNothingWhenNothingIsAskedFor) {
  // The bits of a NaN and of a negative zero too.
  const std::vector<float> row = {kNaN, -0.0f, 0.0f, 1e-42f, kMinusInfinity, -kNaN, 3.3f};
  const SamplerState state = StateOf({0, 1, 2}, {3, 4, 5, 6});
  for (const Sampling& sampling :
       {Sampling{}, Sampling{.temperature = 0.3f, .top_k = 3, .top_p = 0.1f, .min_p = 0.2f},
        Sampling{.adjustments = With({}, {})}}) {
    std::vector<float> got = row;
    AdjustLogits(got, sampling, state);
    EXPECT_EQ(std::memcmp(got.data(), row.data(), row.size() * sizeof(float)), 0);
  }
}

TEST(AdjustLogits, PenaltiesCountWhatTheyShould) {
  // 0 and 1 stand in the prompt, 1 and 2 in the text, 2 twice; 3 nowhere.
  const SamplerState state = StateOf({0, 1, 0}, {1, 2, 2});
  const std::vector<float> row = {4, 4, -4, 4};
  EXPECT_THAT(AdjustedBy(row, {.repetition_penalty = 2}, state), ElementsAre(2, 2, -8, 4));
  EXPECT_THAT(AdjustedBy(row, {.repetition_penalty = 0.5f}, state), ElementsAre(8, 8, -2, 4));
  EXPECT_THAT(AdjustedBy(row, {.presence_penalty = 1}, state), ElementsAre(4, 3, -5, 4));
  EXPECT_THAT(AdjustedBy(row, {.frequency_penalty = 1}, state), ElementsAre(4, 3, -6, 4));
  EXPECT_THAT(AdjustedBy(row, {.presence_penalty = -1, .frequency_penalty = -0.5f}, state),
              ElementsAre(4, 5.5f, -2, 4));
}

TEST(AdjustLogits, BiasComesBeforeTheRepetitionPenaltyAndThatBeforeTheOthers) {
  const SamplerState state = StateOf({}, {0, 1, 1});
  const Sampling sampling{.repetition_penalty = 2,
                          .presence_penalty = 1,
                          .frequency_penalty = 0.25f,
                          .adjustments = With({{0, -3}, {1, 3}, {2, 0.5f}}, {})};
  // 1 - 3 is negative, so it is multiplied; -1 + 3 is positive, so it is divided.
  EXPECT_THAT(AdjustedBy({1, -1, 0}, sampling, state), ElementsAre(-5.25f, -0.5f, 0.5f));
}

TEST(AdjustLogits, ForbiddenIdsStayForbidden) {
  const SamplerState state = StateOf({0}, {1, 2, 4});
  const Sampling sampling{.repetition_penalty = 1.5f,
                          .presence_penalty = -2,
                          .frequency_penalty = -2,
                          .adjustments = With({{0, 100}, {3, 100}, {4, 1}}, {1, 3, 4, 77})};
  const std::vector<float> got = AdjustedBy({1, 2, 3, kMinusInfinity, 5, 6}, sampling, state);
  EXPECT_EQ(got[0], kMinusInfinity);
  EXPECT_EQ(got[2], kMinusInfinity);
  EXPECT_EQ(got[3], kMinusInfinity);  // masked before: no bias brings it back
  EXPECT_EQ(got[5], kMinusInfinity);
  EXPECT_TRUE(std::isfinite(got[1]) && std::isfinite(got[4]));
}

TEST(AdjustLogits, ANaNStaysVisible) {
  const Sampling sampling{
      .repetition_penalty = 1.5f, .presence_penalty = 1, .adjustments = With({{1, 1}}, {0})};
  const std::vector<float> got = AdjustedBy({1, kNaN, kNaN}, sampling, StateOf({1}, {1}));
  EXPECT_TRUE(std::isnan(got[1]) && std::isnan(got[2]));
}

TEST(AdjustLogits, IdsOutsideTheVocabularyArePassedOver) {
  const Sampling sampling{.presence_penalty = 1, .adjustments = With({{-1, 1}, {2, 1}, {9, 1}}, {0, 1, 5})};
  EXPECT_THAT(AdjustedBy({1, 2}, sampling, StateOf({7}, {8, 1})), ElementsAre(1, 1));
}

// One rounding for every operation in NUMERICS; no order of ids in it.
TEST(AdjustLogits, IsFp32StepByStep) {
  std::mt19937 random(5);
  const auto real = [&](float scale) {
    return (static_cast<float>(random() % 2000001) / 1000000.0f - 1.0f) * scale;
  };
  for (int32_t round = 0; round < 300; ++round) {
    std::vector<float> row(50);
    for (float& l : row) l = real(20);
    std::vector<TokenId> prompt, text;
    for (int32_t i = 0; i < 20; ++i) prompt.push_back(static_cast<TokenId>(random() % 50));
    for (int32_t i = 0; i < 60; ++i) text.push_back(static_cast<TokenId>(random() % 50));
    std::vector<std::pair<TokenId, float>> bias;
    for (TokenId id = 0; id < 50; id += 3) bias.push_back({id, real(3)});
    const Sampling sampling{.repetition_penalty = 1.5f + real(0.7f),
                            .presence_penalty = real(2),
                            .frequency_penalty = real(1),
                            .adjustments = With(bias, {})};
    const std::vector<float> got = AdjustedBy(row, sampling, StateOf(prompt, text));
    for (TokenId id = 0; id < 50; ++id) {
      volatile float want = row[id];  // every step a float of its own
      if (id % 3 == 0) want = want + bias[static_cast<size_t>(id / 3)].second;
      const auto count = std::count(text.begin(), text.end(), id);
      if (count > 0 || std::count(prompt.begin(), prompt.end(), id) > 0)
        want = want > 0 ? want / sampling.repetition_penalty : want * sampling.repetition_penalty;
      if (count > 0) {
        want = want - sampling.presence_penalty;
        volatile const float often = sampling.frequency_penalty * static_cast<float>(count);
        want = want - often;
      }
      ASSERT_EQ(got[id], want) << id;
    }
  }
}

// Rows judged in order and taken back leave no trace.
TEST(SamplerState, TakingBackIsAsIfItNeverWas) {
  SamplerState state = StateOf({0, 1}, {1, 2});
  const SamplerState before = state;
  state.Append(std::vector<TokenId>{2, 3, 1, 1});
  state.Truncate(4);
  const Sampling sampling{.repetition_penalty = 1.3f, .presence_penalty = 1, .frequency_penalty = 0.5f};
  const std::vector<float> row = {1, 2, 3, 4};
  EXPECT_EQ(AdjustedBy(row, sampling, state), AdjustedBy(row, sampling, before));
  EXPECT_EQ(state.counts().size(), before.counts().size());
}

TEST(MaskLogits, LeavesTheAllowedAndKeepsWhatIsNoNumber) {
  std::mt19937 random(3);
  for (const size_t vocab : {1u, 63u, 64u, 65u, 200u, 321u}) {
    for (int round = 0; round < 20; ++round) {
      std::vector<uint64_t> allowed((vocab + 63) / 64);
      for (uint64_t& word : allowed) {
        const uint32_t kind = random() % 4;
        word = kind == 0 ? 0 : kind == 1 ? ~uint64_t{0} : (uint64_t{random()} << 32 | random());
      }
      std::vector<float> row(vocab);
      for (float& logit : row) logit = random() % 9 == 0 ? kNaN : static_cast<float>(random() % 100) - 50;
      std::vector<TokenId> ids;  // some of the vocabulary, as a drafter has it
      std::vector<float> some;
      for (size_t id = 0; id < vocab; ++id) {
        if (random() % 3 != 0) continue;
        ids.push_back(static_cast<TokenId>(id));
        some.push_back(row[id]);
      }
      std::vector<float> got = row, got_some = some;
      MaskLogits(got, {}, allowed);
      if (!ids.empty()) MaskLogits(got_some, ids, allowed);
      const auto expect = [&](float masked, float before, size_t id) {
        const bool may = allowed[id / 64] >> (id % 64) & 1;
        if (std::isnan(before)) {
          EXPECT_TRUE(std::isnan(masked));
        } else {
          EXPECT_EQ(masked, may ? before : kMinusInfinity);
        }
      };
      for (size_t id = 0; id < vocab; ++id) expect(got[id], row[id], id);
      for (size_t i = 0; i < ids.size(); ++i) expect(got_some[i], some[i], static_cast<size_t>(ids[i]));
    }
  }
  std::vector<float> free = {1, 2, kMinusInfinity};
  MaskLogits(free, {}, {});
  EXPECT_THAT(free, ElementsAre(1, 2, kMinusInfinity));
}

// Allows the ids 0, 1, 2, .. in this order, and counts what is asked of it.
class Counting final : public Constraint {
 public:
  class Matcher final : public ConstraintMatcher {
   public:
    std::span<const uint64_t> Allowed() override {
      mask_ = uint64_t{1} << next_;
      return {&mask_, 1};
    }
    bool Accept(TokenId token) override {
      if (token != next_) return false;
      ++next_;
      return true;
    }
    void Rollback(int32_t tokens) override {
      EXPECT_LE(tokens, kConstraintRollback);
      next_ -= tokens;
      EXPECT_GE(next_, 0);
    }
    std::unique_ptr<ConstraintMatcher> Clone() const override { return std::make_unique<Matcher>(*this); }

   private:
    TokenId next_ = 0;
    uint64_t mask_ = 0;
  };
  std::unique_ptr<ConstraintMatcher> Start() const override { return std::make_unique<Matcher>(); }
};

TEST(SamplerState, FollowsAConstraintBehindThePromptAndBack) {
  SamplerState state;
  state.Reset(3, std::make_shared<Counting>());
  state.Append(std::vector<TokenId>{9, 9});
  EXPECT_TRUE(state.obeyed());
  // The rest of the prompt and the first of the text come together, as after preemption.
  state.Append(std::vector<TokenId>{9, 0, 1, 2});
  EXPECT_TRUE(state.obeyed());
  EXPECT_EQ(state.matcher()->Allowed()[0], 8u);
  state.Append(std::vector<TokenId>{7, 4});
  EXPECT_FALSE(state.obeyed());
  EXPECT_EQ(state.matcher()->Allowed()[0], 8u);
  state.Truncate(7);  // 7 is still there
  EXPECT_FALSE(state.obeyed());
  state.Truncate(6);
  EXPECT_TRUE(state.obeyed());
  state.Truncate(4);
  EXPECT_EQ(state.matcher()->Allowed()[0], 2u);
  for (TokenId id = 1; id < 40; ++id) state.Append({&id, 1});
  // Further back than a matcher goes.
  state.Truncate(8);
  EXPECT_TRUE(state.obeyed());
  EXPECT_EQ(state.matcher()->Allowed()[0], 32u);
  state.Truncate(1);
  EXPECT_TRUE(state.obeyed());
  EXPECT_EQ(state.matcher()->Allowed()[0], 1u);
  state.Reset(0);
  EXPECT_EQ(state.matcher(), nullptr);
}

}  // namespace
}  // namespace paceline
