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
#include "base/error.h"
#include "model/int4_weights.h"
#include "model/sampler.h"
#include "tests/model/checkpoint_files.h"
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

// ---------------------------------------------------------------- the trained model

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
