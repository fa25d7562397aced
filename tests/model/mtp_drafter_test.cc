// The MTP layer as a drafter, driven step by step as a trunk does: prompts in chunks, chains that are
// rejected, stretches without drafts, several sequences at once. The judge is MtpLayer::DraftChains, which
// has a whole text at once, and it is held to the golden cases elsewhere.
#include "model/mtp_drafter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "base/error.h"
#include "tests/model/checkpoint_files.h"
#include "tests/model/mtp_feed.h"
#include "tests/model/target.h"
#include "tests/testing/golden_case.h"

namespace paceline {
namespace {

using testing::Chains;
using testing::Feed;
using testing::GoldenCase;
using testing::GoldenPrompt;
using testing::Load;
using testing::LoadStored;
using testing::Target;

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

// ---------------------------------------------------------------- in depth

// Right drafts follow from the token alone there, so one case holds every depth to it.
TEST(MtpEqualsTarget, EveryDraftIsRightAtEveryDepth) {
  const GoldenCase c = CaseOf("mtp-equals-target");
  Target target(c.directory, testing::FastKernels());
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(target);
  size_t compared = 0;
  for (const GoldenPrompt& p : c.prompts) {
    const std::vector<TokenId> text = TextOf(p);
    Feed feed(target, *drafter, 1, text, target.Run(text).normed, {3, 1});
    feed.Commit(static_cast<int64_t>(p.prompt.size()));
    for (; feed.left() > 1; feed.Commit(1)) {
      const std::vector<TokenId> got = feed.Draft(kMaxDraft);
      ASSERT_EQ(got.size(), static_cast<size_t>(kMaxDraft));
      for (size_t i = 0; i < got.size() && feed.position() + 1 + i < text.size(); ++i, ++compared)
        ASSERT_EQ(got[i], text[feed.position() + 1 + i]) << "depth " << i + 1 << " at " << feed.position();
    }
  }
  EXPECT_GT(compared, 50u);
}

// A layer of random weights, random hidden states and 600 tokens: whatever a key or value changes, the best
// token changes.
class MtpDrafterTest : public ::testing::Test {
 protected:
  static constexpr int64_t kVocab = 600;

  void SetUp() override {
    testing::Tensors tensors = testing::SmallTensors();
    nlohmann::json config = testing::SmallConfig();
    config["vocab_size"] = kVocab;
    tensors["model.embed_tokens.weight"] = testing::Bf16({kVocab, 256}, 71);
    tensors["lm_head.weight"] = testing::Bf16({kVocab, 256}, 72);
    folder_.WriteModel(config, tensors);
    target_ = std::make_unique<Target>(folder_.path(), testing::FastKernels());
    text_ = Text(120, 1);
    hidden_ = Hidden(120, 1);
  }
  static std::vector<TokenId> Text(int64_t count, uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<TokenId> text(static_cast<size_t>(count));
    for (TokenId& token : text) token = static_cast<TokenId>(random() % kVocab);
    return text;
  }
  std::vector<float> Hidden(int64_t rows, uint32_t seed) const {
    return testing::Values(rows * target_->hidden(), seed + 1000);
  }
  Feed MakeFeed(MtpDrafter& drafter, int32_t id = 1, std::vector<int32_t> pages = {3, 1}) {
    return Feed(*target_, drafter, id, text_, hidden_, std::move(pages));
  }

  testing::Folder folder_;
  std::unique_ptr<Target> target_;
  std::vector<TokenId> text_;
  std::vector<float> hidden_;  // [text, hidden]
};

TEST_F(MtpDrafterTest, ATokenThatWasNotTheOneGuessedLeavesNothing) {
  const Chains want = Judge(*target_, hidden_, text_, 4);
  EXPECT_NE(want[20], want[21]);
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(*target_);
  for (int64_t at = 1; at < 12; ++at) {
    for (const bool again : {false, true}) {
      Feed feed = MakeFeed(*drafter);
      feed.Commit(at);
      const TokenId other = (text_[static_cast<size_t>(at)] + 1) % kVocab;
      EXPECT_NE(feed.DraftBehind(other, 8), Beginning(want[at - 1], 4));
      if (again) {
        EXPECT_EQ(feed.Draft(4), want[at - 1]);
      }
      // The slot was written behind the other token; the commit says otherwise.
      for (const int64_t rows : {1, 2}) {
        feed.Commit(rows);
        EXPECT_EQ(feed.Draft(4), want[feed.position() - 1]) << "at " << at << ", then " << rows;
        feed.DraftBehind(other, 8);
      }
    }
  }
}

TEST_F(MtpDrafterTest, ManySequencesAtOnceEqualEachAlone) {
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(*target_), alone = LoadStored(*target_);
  constexpr int32_t kSequences = 5;
  std::vector<Feed> together, single;
  for (int32_t i = 0; i < kSequences; ++i) {
    const std::vector<TokenId> text = Text(120, i);
    const std::vector<float> hidden = Hidden(120, i);
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
  const std::vector<TokenId> text = Text(300, 5);
  const std::vector<float> hidden = Hidden(300, 5);
  const Chains want = Judge(*target_, hidden, text, 8);
  const std::unique_ptr<MtpDrafter> quiet = LoadStored(*target_), busy = LoadStored(*target_);
  Feed a(*target_, *quiet, 1, text, hidden, {5, 6}), b(*target_, *busy, 1, text, hidden, {0, 8});
  for (const int64_t rows : {3, 61, 1, 1, 130}) {
    a.Commit(rows);
    b.Commit(rows);
    EXPECT_EQ(b.Draft(3), Beginning(want[b.position() - 1], 3));
  }
  for (; a.left() > 12; b.Draft(2)) {
    a.Commit(1);
    b.Commit(1);
  }
  for (; a.left() > 2; a.Commit(1), b.Commit(1)) {
    EXPECT_EQ(a.Draft(kMaxDraft), want[a.position() - 1]);
    EXPECT_EQ(b.Draft(kMaxDraft), want[a.position() - 1]);
  }
}

TEST_F(MtpDrafterTest, NumbersThatAreNoneEndOneChainOnly) {
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(*target_);
  Feed good = MakeFeed(*drafter, 1, {3, 1});
  std::vector<float> damaged = hidden_;
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
  EXPECT_EQ(results[1].tokens, Beginning(Judge(*target_, hidden_, text_, 4)[9], 4));
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
                                   hidden_.data(), std::vector<int32_t>{3, 1}});
  EXPECT_EQ(drafter->Offer(SequenceId(1), 5).depth, 0);
  EXPECT_TRUE(feed.Draft(3).empty());
  EXPECT_EQ(drafter->open_sequences(), 0);
  Feed again = MakeFeed(*drafter);
  again.Commit(8);
  EXPECT_EQ(again.Draft(3), want);
}

TEST_F(MtpDrafterTest, AChainEndsWithThePagesItHas) {
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(*target_);
  Feed feed(*target_, *drafter, 1, Text(256, 6), Hidden(256, 6), {6});
  feed.Commit(253);
  EXPECT_EQ(feed.Draft(8).size(), 4u);  // slots 252 to 255
}

TEST_F(MtpDrafterTest, AMissingTensorIsNamed) {
  testing::Tensors tensors = testing::SmallTensors();
  tensors.erase("mtp.layers.0.self_attn.k_norm.weight");
  const testing::Folder folder;
  folder.WriteModel(testing::SmallConfig(), tensors);
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto drafter =
      MtpDrafter::Load(**checkpoint, target_->table, target_->pool, target_->embedding(), {});
  const std::string message(drafter.status().message());
  EXPECT_EQ(CodeOf(message), "LOAD-004") << message;
  EXPECT_THAT(message, ::testing::HasSubstr("mtp.layers.0.self_attn.k_norm.weight"));
}

// Every stored format becomes INT4 and still drafts; a BF16 layer shrinks by nearly four.
TEST_F(MtpDrafterTest, Int4IsMadeOfWhateverIsStored) {
  const std::unique_ptr<MtpDrafter> stored = LoadStored(*target_);
  const std::unique_ptr<MtpDrafter> int4 = Load(*target_, {.int4_head = DraftHeadFormat::kInt4});
  EXPECT_LT(int4->bytes_per_draft() * 3, stored->bytes_per_draft());
  Feed feed = MakeFeed(*int4);
  feed.Commit(70);
  EXPECT_EQ(feed.Draft(kMaxDraft).size(), static_cast<size_t>(kMaxDraft));
  for (const GoldenCase& c : testing::GoldenCases()) {
    if (c.prompts[0].drafts.empty()) continue;
    Target target(c.directory, testing::FastKernels());
    const std::unique_ptr<MtpDrafter> drafter = Load(target, {});
    const std::vector<TokenId> text = TextOf(c.prompts[0]);
    Feed of(target, *drafter, 1, text, target.Run(text).normed, {0, 1, 2, 3});
    of.Commit(static_cast<int64_t>(text.size()) - 2);
    EXPECT_EQ(of.Draft(3).size(), 3u) << c.name;
  }
}

TEST_F(MtpDrafterTest, AVocabularyBoundsTheDrafts) {
  std::vector<TokenId> few;
  for (TokenId id = 1; id < kVocab; id += 3) few.push_back(id);
  std::vector<bool> has_token(kVocab, true);
  has_token[4] = has_token[7] = false;
  const std::unique_ptr<MtpDrafter> drafter =
      Load(*target_, {.format = MtpFormat::kStored, .vocabulary = few, .has_token = has_token});
  Feed feed = MakeFeed(*drafter);
  size_t drafted = 0;
  while (feed.left() > 2) {
    feed.Commit(1);
    for (const TokenId id : feed.Draft(3)) {
      ++drafted;
      EXPECT_EQ(id % 3, 1);
      EXPECT_NE(id, 4);
      EXPECT_NE(id, 7);
    }
  }
  EXPECT_GT(drafted, 300u);
  // A request that allows none of them has no drafts.
  auto adjustments = std::make_shared<LogitAdjustments>();
  adjustments->allowed = {4, 5, 6};
  const Sampling sampling{.temperature = 0.7f, .adjustments = adjustments};
  const SamplerState state;
  DraftRequest request = feed.Request(4);
  request.sampling = &sampling;
  request.sampler = &state;
  DraftResult result;
  ASSERT_TRUE(drafter->Draft(feed.context(), {&request, 1}, {&result, 1}).ok());
  EXPECT_TRUE(result.tokens.empty());
}

// A page is left with its last positions waiting for their keys, and gone on from with another text behind
// it.
TEST_F(MtpDrafterTest, ATextGoesOnFromASnapshot) {
  constexpr int64_t kBorder = kPagePositions;
  for (const int64_t behind : {0, 1, 7}) {  // rows committed in the same step, behind the border
    text_ = Text(kBorder + 40, 3);
    hidden_ = Hidden(kBorder + 40, 3);
    const std::unique_ptr<MtpDrafter> drafter = LoadStored(*target_);
    Feed first = MakeFeed(*drafter, 1, {5, 6});
    while (first.position() < kBorder - 2) first.Commit(1);
    first.Commit(2 + behind);
    first.Keep(4, kBorder);
    drafter->Close(SequenceId(1));

    const std::vector<TokenId> other = Text(40, 4);
    const std::vector<float> other_hidden = Hidden(40, 4);
    std::copy(other.begin(), other.end(), text_.begin() + kBorder);
    std::copy(other_hidden.begin(), other_hidden.end(), hidden_.begin() + kBorder * target_->hidden());
    const Chains want = Judge(*target_, hidden_, text_, 4);
    Feed second = MakeFeed(*drafter, 2, {5, 9});
    second.Restore(4, kBorder);
    for (; second.left() > 5; second.Commit(1 + second.position() % 3))
      EXPECT_EQ(second.Draft(4), want[second.position() - 1])
          << behind << " behind, at " << second.position();
  }
}

TEST_F(MtpDrafterTest, WithoutASnapshotNothingIsDrafted) {
  const std::unique_ptr<MtpDrafter> drafter = LoadStored(*target_);
  Feed feed = MakeFeed(*drafter);
  feed.Restore(0, 100);
  feed.Commit(3);
  EXPECT_TRUE(feed.Draft(4).empty());
}

}  // namespace
}  // namespace paceline
