// The MTP drafter on the demo model, whose layer was trained: formats made at load, the other tap, sampled
// drafts, vocabularies. What random layers cannot show.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/int4_weights.h"
#include "model/sampler.h"
#include "model/widen_row.h"
#include "tests/model/mtp_feed.h"
#include "tests/model/target.h"

namespace paceline {
namespace {

using testing::Chains;
using testing::Feed;
using testing::kGreedy;
using testing::Load;
using testing::Target;

class DemoModel : public ::testing::Test {
 protected:
  struct Text {
    std::vector<TokenId> tokens;
    size_t prompt = 0;
    Target::States states;
  };
  static void SetUpTestSuite() {
    target_ = new Target(absl::StrCat(PACELINE_SOURCE_DIR, "/deploy/demo-model"), testing::FastKernels());
    texts_ = new std::vector<Text>;
    // Of deploy/demo-model/eval_prompts.json under the chat template: one each of chat, stories, python,
    // json.
    for (const std::vector<TokenId>& prompt : std::vector<std::vector<TokenId>>{
             {4072, 295, 198, 647, 419, 705, 1135, 13, 4073, 198, 4072, 300, 198, 4074, 198},
             {4072, 295, 198, 915, 354, 258, 893, 615, 13, 4073, 198, 4072, 300, 198, 4074, 198},
             {4072, 295, 198,  40, 1617, 258, 1340, 489, 417, 1865, 2883, 258,
              429,  276, 3462, 13, 4073, 198, 4072, 300, 198, 4074, 198},
             {4072, 295,  198, 3161, 1089, 2268, 304,  2302, 752, 1009, 258, 607,  1079, 357, 261,  668, 1630,
              11,   1086, 13,  1780, 538,  614,  1129, 1705, 13,  4073, 198, 4072, 300,  198, 4074, 198}}) {
      Text text{.tokens = target_->Continue(prompt, 120), .prompt = prompt.size(), .states = {}};
      const auto end = std::find(text.tokens.begin() + static_cast<int64_t>(prompt.size()), text.tokens.end(),
                                 TokenId{4073});
      if (end != text.tokens.end()) text.tokens.erase(end + 1, text.tokens.end());
      text.states = target_->Run(text.tokens);
      texts_->push_back(std::move(text));
    }
  }
  static void TearDownTestSuite() {
    delete texts_;
    delete target_;
  }

  // Share of first drafts that are the target's greedy token.
  struct Outcome {
    Chains chains;
    double first = 0;
  };
  static Outcome Draft(MtpDrafterOptions options, int32_t depth, bool residual = false) {
    const std::unique_ptr<MtpDrafter> drafter = Load(*target_, std::move(options));
    Outcome outcome;
    for (const Text& text : *texts_) {
      Feed feed(*target_, *drafter, 1, text.tokens, residual ? text.states.residual : text.states.normed,
                {0, 1});
      feed.Commit(static_cast<int64_t>(text.prompt));
      for (; feed.left() > 1; feed.Commit(1)) {
        outcome.chains.push_back(feed.Draft(depth));
        outcome.first += outcome.chains.back()[0] == text.tokens[feed.position() + 1] ? 1 : 0;
      }
    }
    outcome.first /= static_cast<double>(outcome.chains.size());
    return outcome;
  }
  static double Agreement(const Chains& a, const Chains& b) {
    EXPECT_EQ(a.size(), b.size());
    double same = 0;
    for (size_t i = 0; i < a.size(); ++i) same += a[i] == b[i] ? 1 : 0;
    return same / static_cast<double>(a.size());
  }

  static Target* target_;
  static std::vector<Text>* texts_;
};

Target* DemoModel::target_ = nullptr;
std::vector<DemoModel::Text>* DemoModel::texts_ = nullptr;

// The layer's weights lie on an INT4 grid: what is left of a difference is 8-bit activations and the head.
TEST_F(DemoModel, Int4DraftsAreNearlyAlwaysTheStoredOnes) {
  const Outcome stored = Draft({.format = MtpFormat::kStored}, 3);
  EXPECT_GT(stored.chains.size(), 200u);
  EXPECT_GT(stored.first, 0.93);
  const Outcome int8_head = Draft({.int4_head = DraftHeadFormat::kInt8}, 3);
  EXPECT_GT(Agreement(int8_head.chains, stored.chains), 0.95);
  const Outcome int4_head = Draft({.int4_head = DraftHeadFormat::kInt4}, 3);
  EXPECT_GT(Agreement(int4_head.chains, stored.chains), 0.9);
  EXPECT_GT(int4_head.first, stored.first - 0.02);
  // By itself a head this small keeps the form it is stored in.
  EXPECT_GT(Agreement(Draft({}, 3).chains, stored.chains), 0.97);
}

// What is on disk is INT4; told as floats, it must come back code by code.
TEST_F(DemoModel, Int4MadeAtLoadIsTheGridTheLayerWasTrainedOn) {
  const auto check = [](const kernels::PlainLinear& stored) {
    ASSERT_EQ(stored.format, kernels::WeightFormat::kInt4);
    kernels::PlainLinear floats;
    floats.outputs = stored.outputs;
    floats.inputs = stored.inputs;
    floats.data.resize(static_cast<size_t>(stored.outputs * stored.inputs) * 4);
    std::vector<float> row(static_cast<size_t>(stored.inputs));
    for (int64_t n = 0; n < stored.outputs; ++n) {
      WidenRow(stored, n, row.data());
      std::copy_n(row.data(), row.size(), reinterpret_cast<float*>(floats.data.data()) + n * stored.inputs);
    }
    MakeInt4(floats);
    std::vector<float> again(row.size());
    for (int64_t n = 0; n < stored.outputs; ++n) {
      WidenRow(stored, n, row.data());
      WidenRow(floats, n, again.data());
      ASSERT_EQ(again, row) << "row " << n;
    }
  };
  check(*target_->checkpoint().ReadLinear("mtp.fc"));
  check(*target_->checkpoint().ReadLinear("mtp.layers.0.self_attn.q_proj"));
  const kernels::PlainExpert expert = *target_->checkpoint().ReadExpert("mtp.layers.0.mlp", 3);
  check(expert.gate);
  check(expert.down);
}

TEST_F(DemoModel, TheOtherTapIsAnotherAndWorseDrafter) {
  const Outcome post = Draft({.format = MtpFormat::kStored}, 2);
  const Outcome pre = Draft({.format = MtpFormat::kStored, .tap = HiddenTap::kPreNorm}, 2, /*residual=*/true);
  // The first draft differs by what the target hands over, the second also by what the layer feeds back.
  EXPECT_NE(pre.chains, post.chains);
  EXPECT_LT(pre.first, post.first);
}

// Drafts of a sampled request share the target's noise: another seed, other drafts.
TEST_F(DemoModel, SampledDraftsFollowSeedPenaltiesAndAllowedIds) {
  const std::unique_ptr<MtpDrafter> drafter = Load(*target_, {});
  const Text& text = (*texts_)[1];
  Feed feed(*target_, *drafter, 1, text.tokens, text.states.normed, {1, 0});
  feed.Commit(60);
  SamplerState state;
  state.Reset(static_cast<int64_t>(text.prompt));
  state.Append(std::span<const TokenId>(text.tokens).subspan(0, 61));
  const auto draft = [&](const Sampling& sampling) {
    DraftRequest request = feed.Request(kMaxDraft);
    request.sampling = &sampling;
    request.sampler = &state;
    DraftResult result;
    EXPECT_TRUE(drafter->Draft(feed.context(), {&request, 1}, {&result, 1}).ok());
    return result;
  };
  Chains seen;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const Sampling hot{.temperature = 3.0f, .seed = seed};
    seen.push_back(draft(hot).tokens);
    EXPECT_EQ(seen.back().size(), static_cast<size_t>(kMaxDraft));
    EXPECT_EQ(draft(hot).tokens, seen.back());
    EXPECT_TRUE(draft(hot).distributions.empty());
  }
  EXPECT_NE(seen[0], seen[1]);
  EXPECT_NE(seen[2], seen[3]);
  EXPECT_EQ(draft({.temperature = 1.0f, .top_k = 1, .seed = 5}).tokens, draft(kGreedy).tokens);

  // Five ids and a penalty for each use: no draft repeats one in front of it, so its own chain counts.
  auto adjustments = std::make_shared<LogitAdjustments>();
  adjustments->allowed = {300, 301, 305, 615, 1705};
  const DraftResult penalised =
      draft({.temperature = 0.0f, .frequency_penalty = 1000.0f, .adjustments = adjustments});
  std::vector<TokenId> first(penalised.tokens.begin(), penalised.tokens.begin() + 3);
  EXPECT_THAT(first, ::testing::Each(::testing::AnyOfArray(adjustments->allowed)));
  std::sort(first.begin(), first.end());
  EXPECT_EQ(std::unique(first.begin(), first.end()), first.end());

  const DraftResult rejection =
      draft({.temperature = 1.5f, .seed = 9, .acceptance = AcceptanceRule::kRejection});
  ASSERT_EQ(rejection.distributions.size(), rejection.tokens.size());
  for (size_t i = 0; i < rejection.tokens.size(); ++i) {
    double total = 0, own = 0;
    for (const SparseDistribution::Entry& e : rejection.distributions[i].entries) {
      total += e.probability;
      own += e.token == rejection.tokens[i] ? e.probability : 0;
    }
    EXPECT_NEAR(total, 1.0, 1e-9);
    EXPECT_GT(own, 0.0);
  }
}

// With one noise for both, a good drafter is right far more often than its and the target's chances would
// have it; noise of another place or another seed does not do that.
TEST_F(DemoModel, SampledDraftsAreCoupledToTheTargetsDraws) {
  const std::unique_ptr<MtpDrafter> drafter = Load(*target_, {.format = MtpFormat::kStored});
  const Text& text = (*texts_)[1];
  const int64_t vocab = target_->checkpoint().config().vocab;
  const Batch none;
  const StepContext step{target_->table, target_->pool, target_->workspace,
                         kernels::ActivationContract::kInt16, none};
  std::vector<float> logits(static_cast<size_t>(vocab));
  const auto draw = [&](const float* hidden, const Sampling& sampling, int64_t position) {
    target_->head().ForwardHeld(step, hidden, 1, logits.data(), vocab);
    return *SampleToken(target_->table, target_->pool, logits, sampling, position);
  };
  int32_t first = 0, second = 0, others = 0, count = 0;
  const int64_t width = target_->hidden();
  Feed feed(*target_, *drafter, 1, text.tokens, text.states.normed, {1, 0});
  feed.Commit(static_cast<int64_t>(text.prompt));
  for (; feed.left() > 1; feed.Commit(1), ++count) {
    const int64_t at = feed.position();
    const Sampling sampling{.temperature = 2.5f, .seed = 77}, other{.temperature = 2.5f, .seed = 78};
    SamplerState state;
    state.Append(std::span<const TokenId>(text.tokens).subspan(0, at + 1));
    DraftRequest request = feed.Request(2);
    request.sampling = &sampling;
    request.sampler = &state;
    DraftResult result;
    ASSERT_TRUE(drafter->Draft(feed.context(), {&request, 1}, {&result, 1}).ok());
    ASSERT_EQ(result.tokens.size(), 2u);
    const float* here = text.states.normed.data() + at * width;
    first += result.tokens[0] == draw(here, sampling, at + 1) ? 1 : 0;
    others += result.tokens[0] == draw(here, other, at + 1) ? 1 : 0;
    std::vector<TokenId> drafted(text.tokens.begin(), text.tokens.begin() + at + 1);
    drafted.push_back(result.tokens[0]);
    const std::vector<float> hidden = target_->Run(drafted).normed;
    second += result.tokens[1] == draw(hidden.data() + (at + 1) * width, sampling, at + 2) ? 1 : 0;
  }
  EXPECT_GT(count, 80);
  EXPECT_GT(first, others + count / 5) << second << " of " << count;
  EXPECT_GT(second, others + count / 5) << first << " of " << count;
}

// The draft of a subset is the best of the subset: a second drafter whose best is in it drafts the same.
TEST_F(DemoModel, AVocabularyGivesTheBestOfItsIds) {
  const Outcome whole = Draft({.format = MtpFormat::kStored}, 1);
  std::vector<bool> half(static_cast<size_t>(target_->checkpoint().config().vocab));
  std::vector<TokenId> ids;
  for (size_t id = 0; id < half.size(); ++id) {
    half[id] = id % 2 == 0;
    if (half[id]) ids.push_back(static_cast<TokenId>(id));
  }
  const Outcome some = Draft({.format = MtpFormat::kStored, .vocabulary = ids}, 1);
  const Outcome masked = Draft({.format = MtpFormat::kStored, .has_token = half}, 1);
  EXPECT_EQ(some.chains, masked.chains);
  int64_t kept = 0;
  for (size_t i = 0; i < whole.chains.size(); ++i) {
    EXPECT_EQ(some.chains[i][0] % 2, 0);
    if (whole.chains[i][0] % 2 != 0) continue;
    EXPECT_EQ(some.chains[i][0], whole.chains[i][0]);
    ++kept;
  }
  EXPECT_GT(kept, 20);
}

}  // namespace
}  // namespace paceline
