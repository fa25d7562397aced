// The MTP layer as a drafter, driven step by step as a trunk does: prompts in chunks, chains that are
// rejected, stretches without drafts, several sequences at once. The judge is MtpLayer::DraftChains, which
// has a whole text at once, and it is held to the golden cases elsewhere.
#include "model/mtp_drafter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "model/int4_weights.h"
#include "tests/model/target.h"
#include "tests/testing/golden_case.h"

namespace paceline {
namespace {

using testing::GoldenCase;
using testing::GoldenPrompt;
using testing::Target;

using Chains = std::vector<std::vector<TokenId>>;

const Sampling kGreedy{.temperature = 0.0f};
constexpr int32_t kPages = 12;

GoldenCase CaseOf(const std::string& name) {
  for (const GoldenCase& c : testing::GoldenCases()) {
    if (c.name == name) return c;
  }
  ADD_FAILURE() << "no case " << name;
  return {};
}

std::vector<TokenId> TextOf(const GoldenPrompt& p) {
  std::vector<TokenId> text = p.prompt;
  text.insert(text.end(), p.continuation.begin(), p.continuation.end());
  return text;
}

std::unique_ptr<MtpDrafter> Load(Target& target, MtpDrafterOptions options) {
  options.pages = kPages;
  auto drafter =
      MtpDrafter::Load(target.checkpoint(), target.table, target.pool, target.embedding(), options);
  EXPECT_TRUE(drafter.ok()) << drafter.status();
  return *std::move(drafter);
}

std::unique_ptr<MtpDrafter> LoadStored(Target& target) {
  return Load(target, {.format = MtpFormat::kStored});
}

// Chains after every position of a text, by the layer itself.
Chains Judge(Target& target, const std::vector<float>& hidden, const std::vector<TokenId>& text,
             int32_t depth) {
  auto layer = MtpLayer::Load(target.checkpoint(), target.table, target.pool);
  EXPECT_TRUE(layer.ok()) << layer.status();
  auto chains = (*layer)->DraftChains(target.table, target.pool, target.workspace,
                                      kernels::ActivationContract::kInt16, target.embedding(), target.head(),
                                      kernels::KvDtype::kBF16, hidden.data(), text, depth);
  EXPECT_TRUE(chains.ok()) << chains.status();
  return *std::move(chains);
}

// A sequence whose text is known beforehand.
class Feed {
 public:
  Feed(Target& target, MtpDrafter& drafter, int32_t id, std::vector<TokenId> text, std::vector<float> hidden,
       std::vector<int32_t> pages)
      : context_{target.table, target.pool, target.workspace},
        drafter_(drafter),
        id_(id),
        text_(std::move(text)),
        hidden_(std::move(hidden)),
        pages_(std::move(pages)),
        width_(target.hidden()) {}

  int64_t position() const { return position_; }  // of the token that has been drawn and not run
  int64_t left() const { return static_cast<int64_t>(text_.size()) - position_; }
  void Commit(int64_t rows) {
    drafter_.Commit(context_,
                    {SequenceId(id_), position_, std::span<const TokenId>(text_).subspan(position_, rows),
                     hidden_.data() + position_ * width_, pages_});
    position_ += rows;
  }
  DraftRequest Request(int32_t depth) const {
    return {SequenceId(id_), text_[position_], position_, depth, pages_, &kGreedy, nullptr};
  }
  std::vector<TokenId> Draft(int32_t depth) {
    const DraftRequest request = Request(depth);
    DraftResult result;
    EXPECT_TRUE(drafter_.Draft(context_, {&request, 1}, {&result, 1}).ok());
    return result.tokens;
  }
  // As if another token than the text's had been drawn.
  std::vector<TokenId> DraftBehind(TokenId other, int32_t depth) {
    DraftRequest request = Request(depth);
    request.last_token = other;
    DraftResult result;
    EXPECT_TRUE(drafter_.Draft(context_, {&request, 1}, {&result, 1}).ok());
    return result.tokens;
  }
  const DraftContext& context() const { return context_; }

 private:
  const DraftContext context_;
  MtpDrafter& drafter_;
  const int32_t id_;
  const std::vector<TokenId> text_;
  const std::vector<float> hidden_;  // [tokens, hidden]
  const std::vector<int32_t> pages_;
  const int64_t width_;
  int64_t position_ = 0;
};

std::vector<TokenId> Beginning(const std::vector<TokenId>& chain, size_t count) {
  return {chain.begin(), chain.begin() + static_cast<int64_t>(std::min(count, chain.size()))};
}

// ---------------------------------------------------------------- golden cases

class MtpDrafterGolden : public ::testing::TestWithParam<GoldenCase> {};

TEST_P(MtpDrafterGolden, StepByStepDraftsAreTheLayersOwn) {
  const GoldenCase& c = GetParam();
  if (c.prompts[0].drafts.empty()) return;
  Target target(c.directory, testing::FastKernels());
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(target);
  std::mt19937 random(11);
  const auto below = [&](uint32_t n) { return static_cast<int64_t>(random() % n); };
  for (const GoldenPrompt& p : c.prompts) {
    const std::vector<TokenId> text = TextOf(p);
    const std::vector<float> hidden = target.Run(text).normed;
    const Chains want = Judge(target, hidden, text, 4);
    // Page ids in any order: the pages of a trunk are.
    Feed feed(target, *drafter, 1, text, hidden, {7, 2, 9, 0, 4, 11});
    while (feed.position() < static_cast<int64_t>(p.prompt.size()) / 2)
      feed.Commit(std::min(feed.left(), 1 + below(90)));
    while (feed.left() > 1) {
      const size_t at = static_cast<size_t>(feed.position()) - 1;
      const size_t depth = 1 + static_cast<size_t>(below(4));
      // A chain behind a token that was never drawn, and one that ends early: neither must show.
      if (below(4) == 0) feed.DraftBehind(static_cast<TokenId>(below(20)), 4);
      if (below(4) != 0) {
        const std::vector<TokenId> got = feed.Draft(static_cast<int32_t>(depth));
        ASSERT_EQ(got, Beginning(want[at], depth)) << "after position " << at;
        const size_t sure = std::min<size_t>(depth, static_cast<size_t>(p.drafts_sure[at]));
        EXPECT_EQ(Beginning(got, sure), Beginning(p.drafts[at], sure)) << "after position " << at;
      }
      feed.Commit(std::min(feed.left() - 1, 1 + below(5)));
    }
    drafter->Close(SequenceId(1));
  }
  EXPECT_EQ(drafter->open_sequences(), 0);
}

INSTANTIATE_TEST_SUITE_P(Cases, MtpDrafterGolden, ::testing::ValuesIn(testing::GoldenCases()),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           for (char& ch : name) ch = ch == '-' ? '_' : ch;
                           return name;
                         });

// ---------------------------------------------------------------- one case in depth

class MtpDrafterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const GoldenCase c = CaseOf("mtp-equals-target");
    target_ = std::make_unique<Target>(c.directory, testing::FastKernels());
    for (const GoldenPrompt& p : c.prompts) {
      if (p.prompt.size() + p.continuation.size() > prompt_ + text_.size() || text_.empty()) {
        prompt_ = p.prompt.size();
        text_ = TextOf(p);
      }
    }
    states_ = target_->Run(text_);
  }
  Feed MakeFeed(MtpDrafter& drafter, int32_t id = 1, std::vector<int32_t> pages = {3, 1}) {
    return Feed(*target_, drafter, id, text_, states_.normed, std::move(pages));
  }

  std::unique_ptr<Target> target_;
  size_t prompt_ = 0;
  std::vector<TokenId> text_;
  Target::States states_;
};

TEST_F(MtpDrafterTest, EveryDraftIsRightAtEveryDepthWhenTheLayerEqualsTheTarget) {
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(*target_);
  Feed feed = MakeFeed(*drafter);
  feed.Commit(static_cast<int64_t>(prompt_));
  size_t compared = 0;
  while (feed.left() > 1) {
    const std::vector<TokenId> got = feed.Draft(kMaxDraft);
    ASSERT_EQ(got.size(), static_cast<size_t>(kMaxDraft));
    for (size_t i = 0; i < got.size() && feed.position() + 1 + i < text_.size(); ++i, ++compared)
      ASSERT_EQ(got[i], text_[feed.position() + 1 + i]) << "depth " << i + 1 << " at " << feed.position();
    feed.Commit(1);
  }
  EXPECT_GT(compared, 50u);
}

TEST_F(MtpDrafterTest, ManySequencesAtOnceEqualEachAlone) {
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(*target_), alone = LoadStored(*target_);
  constexpr int32_t kSequences = 5;
  std::vector<Feed> together, single;
  const auto reversed = [&](int64_t cut) {  // another text for each
    std::vector<TokenId> text(text_.begin() + cut, text_.end());
    std::reverse(text.begin(), text.end());
    return text;
  };
  for (int32_t i = 0; i < kSequences; ++i) {
    const std::vector<TokenId> text = i == 0 ? text_ : reversed(i);
    const std::vector<float> hidden = target_->Run(text).normed;
    together.emplace_back(*target_, *drafter, i, text, hidden, std::vector<int32_t>{2 * i, 2 * i + 1});
    single.emplace_back(*target_, *alone, i, text, hidden, std::vector<int32_t>{1, 0});
  }
  std::vector<Chains> want(kSequences), got(kSequences);
  const auto start = [](int32_t i) { return 1 + 9 * i; };
  const auto depth = [](int32_t i, int32_t round) { return 1 + (i + round) % 6; };
  const auto rows = [](int32_t i, int32_t round) { return 1 + (i * 3 + round) % 4; };
  constexpr int32_t kRounds = 8;
  for (int32_t i = 0; i < kSequences; ++i) {
    single[i].Commit(start(i));
    for (int32_t round = 0; round < kRounds; ++round) {
      want[i].push_back(single[i].Draft(depth(i, round)));
      single[i].Commit(rows(i, round));
    }
    alone->Close(SequenceId(i));
  }
  for (int32_t i = 0; i < kSequences; ++i) together[i].Commit(start(i));
  for (int32_t round = 0; round < kRounds; ++round) {
    std::vector<DraftRequest> requests;
    for (int32_t i = kSequences - 1; i >= 0; --i) requests.push_back(together[i].Request(depth(i, round)));
    std::vector<DraftResult> results(requests.size());
    ASSERT_TRUE(drafter->Draft(together[0].context(), requests, results).ok());
    for (int32_t i = 0; i < kSequences; ++i) {
      got[i].push_back(results[kSequences - 1 - i].tokens);
      together[i].Commit(rows(i, round));
    }
  }
  EXPECT_EQ(got, want);
}

// A stretch without drafts is longer than what may wait, so its keys and values are written on the way.
TEST_F(MtpDrafterTest, ALongStretchWithoutDraftsLeavesWhatDraftingLeaves) {
  std::vector<TokenId> text;
  while (text.size() < 300) text.insert(text.end(), text_.begin(), text_.end());
  const std::vector<float> hidden = target_->Run(text).normed;
  const std::unique_ptr<MtpDrafter> quiet = LoadStored(*target_), busy = LoadStored(*target_);
  Feed a(*target_, *quiet, 1, text, hidden, {5, 6}), b(*target_, *busy, 1, text, hidden, {0, 8});
  for (const int64_t rows : {3, 61, 1, 1, 130}) {
    a.Commit(rows);
    b.Commit(rows);
    b.Draft(3);
  }
  while (a.left() > 2) {
    a.Commit(1);
    b.Commit(1);
    b.Draft(2);
  }
  EXPECT_EQ(a.Draft(kMaxDraft), b.Draft(kMaxDraft));
  EXPECT_EQ(a.Draft(2), Beginning(Judge(*target_, hidden, text, 2)[a.position() - 1], 2));
}

TEST_F(MtpDrafterTest, NumbersThatAreNoneEndOneChainOnly) {
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(*target_);
  Feed good = MakeFeed(*drafter, 1, {3, 1});
  std::vector<float> damaged = states_.normed;
  damaged[9 * target_->hidden() + 1] = std::numeric_limits<float>::quiet_NaN();
  Feed bad(*target_, *drafter, 2, text_, damaged, {0, 2});
  good.Commit(10);
  bad.Commit(10);
  const std::vector<TokenId> want = MakeFeed(*drafter, 3, {4, 5}).Draft(4);  // not open: no draft
  EXPECT_TRUE(want.empty());
  const std::vector<DraftRequest> requests = {bad.Request(4), good.Request(4)};
  std::vector<DraftResult> results(2);
  ASSERT_TRUE(drafter->Draft(good.context(), requests, results).ok());
  EXPECT_TRUE(results[0].tokens.empty());
  EXPECT_EQ(results[1].tokens, Beginning(Judge(*target_, states_.normed, text_, 4)[9], 4));
}

TEST_F(MtpDrafterTest, AGapForgetsTheSequenceUntilItStartsAfresh) {
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(*target_);
  EXPECT_EQ(drafter->Offer(SequenceId(1), 5).depth, 0);
  Feed feed = MakeFeed(*drafter);
  feed.Commit(8);
  EXPECT_EQ(drafter->Offer(SequenceId(1), 5).depth, kMaxDraft);
  const std::vector<TokenId> want = feed.Draft(3);
  EXPECT_EQ(want.size(), 3u);
  drafter->Commit(feed.context(), {SequenceId(1), 20, std::span<const TokenId>(text_).subspan(20, 2),
                                   states_.normed.data(), std::vector<int32_t>{3, 1}});
  EXPECT_EQ(drafter->Offer(SequenceId(1), 5).depth, 0);
  EXPECT_TRUE(feed.Draft(3).empty());
  EXPECT_EQ(drafter->open_sequences(), 0);
  Feed again = MakeFeed(*drafter);
  again.Commit(8);
  EXPECT_EQ(again.Draft(3), want);
}

TEST_F(MtpDrafterTest, AChainEndsWithThePagesItHas) {
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(*target_);
  std::vector<TokenId> text;
  while (text.size() < 256) text.insert(text.end(), text_.begin(), text_.end());
  Feed feed(*target_, *drafter, 1, text, target_->Run(text).normed, {6});
  feed.Commit(253);
  EXPECT_EQ(feed.Draft(8).size(), 4u);  // slots 252 to 255
}

TEST_F(MtpDrafterTest, TheOtherTapIsAnotherDrafter) {
  const std::unique_ptr<MtpDrafter> drafter =
      Load(*target_, {.format = MtpFormat::kStored, .tap = MtpTap::kPreNorm});
  const std::unique_ptr<MtpDrafter> post = LoadStored(*target_);
  const GoldenCase c = CaseOf("mtp-equals-target");
  Feed pre(*target_, *drafter, 1, text_, states_.residual, {3, 1});
  Feed usual(*target_, *post, 1, text_, states_.normed, {3, 1});
  Chains a, b;
  while (pre.left() > 2) {
    pre.Commit(1);
    usual.Commit(1);
    a.push_back(pre.Draft(3));
    b.push_back(usual.Draft(3));
    EXPECT_EQ(a.back().size(), 3u);
  }
  EXPECT_NE(states_.residual, states_.normed);
}

TEST_F(MtpDrafterTest, AVocabularyBoundsTheDrafts) {
  std::vector<TokenId> few;
  for (TokenId id = 1; id < target_->checkpoint().config().vocab; id += 3) few.push_back(id);
  std::vector<bool> has_token(static_cast<size_t>(target_->checkpoint().config().vocab), true);
  has_token[4] = has_token[7] = false;
  const std::unique_ptr<MtpDrafter> drafter =
      Load(*target_, {.format = MtpFormat::kStored, .vocabulary = few, .has_token = has_token});
  Feed feed = MakeFeed(*drafter);
  while (feed.left() > 2) {
    feed.Commit(1);
    for (const TokenId id : feed.Draft(3)) {
      EXPECT_EQ(id % 3, 1);
      EXPECT_NE(id, 4);
      EXPECT_NE(id, 7);
    }
  }
}

}  // namespace
}  // namespace paceline
