// Speculation changes speed, never text: whatever a drafter says, at whatever depth, in whatever batch, over
// however many ranks, tokens, log-probabilities and the hash of all logits are those of plain decoding.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/model/checkpoint_files.h"
#include "tests/testing/drafted_run.h"
#include "tests/testing/golden_case.h"
#include "tests/testing/local_cluster.h"

namespace paceline {
namespace {

using testing::GoldenCase;
using testing::LocalCluster;
using testing::LocalClusterOptions;
using testing::RunOutcome;
using testing::RunPolicy;
using testing::RunRequest;
using testing::ScriptedDrafter;

GoldenCase CaseOf(const std::string& name) {
  for (const GoldenCase& c : testing::GoldenCases()) {
    if (c.name == name) return c;
  }
  ADD_FAILURE() << "no case " << name;
  return {};
}

struct Model {
  std::unique_ptr<Checkpoint> checkpoint;
  std::vector<TokenId> prompt;
};

Model Golden(const std::string& name, size_t prompt_tokens = 40) {
  const GoldenCase c = CaseOf(name);
  auto checkpoint = Checkpoint::Open(c.directory);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::vector<TokenId> prompt = c.prompts.back().prompt;
  prompt.resize(std::min(prompt.size(), prompt_tokens));
  return {*std::move(checkpoint), prompt};
}

std::unique_ptr<LocalCluster> Start(const Model& model, LocalClusterOptions options) {
  options.head_backend = options.worker_backend = "cpu";
  auto cluster = LocalCluster::Start(*model.checkpoint, options);
  EXPECT_TRUE(cluster.ok()) << cluster.status();
  return *std::move(cluster);
}

std::vector<RunOutcome> RunAll(LocalTrunk& trunk, const std::vector<RunRequest>& requests,
                               const RunPolicy& policy) {
  auto outcomes = testing::RunRequests(trunk, requests, policy);
  EXPECT_TRUE(outcomes.ok()) << outcomes.status();
  return outcomes.ok() ? *std::move(outcomes) : std::vector<RunOutcome>(requests.size());
}

void ExpectSame(const std::vector<RunOutcome>& got, const std::vector<RunOutcome>& want,
                const std::string& label) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t r = 0; r < got.size(); ++r) {
    EXPECT_EQ(got[r].tokens, want[r].tokens) << label << ", request " << r;
    EXPECT_EQ(got[r].logprobs, want[r].logprobs) << label << ", request " << r;
    EXPECT_EQ(got[r].logits_hash, want[r].logits_hash) << label << ", request " << r;
  }
}

RunPolicy Always(DraftSource source, int32_t depth) {
  return {.source = source, .depth = [depth](uint64_t, size_t) { return depth; }};
}

// Knows the text: right for `right(position)` drafts, then off by one.
ScriptedDrafter::Script Oracle(std::vector<TokenId> text, std::function<int32_t(int64_t)> right,
                               int32_t vocab) {
  return [text = std::move(text), right = std::move(right), vocab](const DraftRequest& request) {
    std::vector<TokenId> drafts;
    for (int32_t d = 0; d < request.depth; ++d) {
      const size_t at = static_cast<size_t>(request.position) + 1 + d;
      const TokenId truth = at < text.size() ? text[at] : 0;
      drafts.push_back(d < right(request.position) ? truth : (truth + 1) % vocab);
    }
    return drafts;
  };
}

std::vector<TokenId> Whole(const RunRequest& request, const RunOutcome& outcome) {
  std::vector<TokenId> text = request.prompt;
  text.insert(text.end(), outcome.tokens.begin(), outcome.tokens.end());
  return text;
}

std::vector<std::pair<std::string, Sampling>> Samplings() {
  auto adjustments = std::make_shared<LogitAdjustments>();
  adjustments->bias = {{3, 2.5f}, {17, -4.0f}, {40, 6.0f}};
  auto allowed = std::make_shared<LogitAdjustments>();
  for (TokenId id = 1; id < 60; id += 2) allowed->allowed.push_back(id);
  Sampling greedy{.temperature = 0};
  Sampling penalised{
      .temperature = 0, .repetition_penalty = 1.3f, .presence_penalty = 0.7f, .frequency_penalty = 0.4f};
  Sampling seeded{.temperature = 0.9f, .top_k = 20, .top_p = 0.95f, .min_p = 0.01f, .seed = 11};
  Sampling hot{.temperature = 1.6f, .seed = 5, .presence_penalty = 1.5f};
  hot.adjustments = adjustments;
  Sampling narrow{.temperature = 1.0f, .seed = 9, .frequency_penalty = 0.3f};
  narrow.adjustments = allowed;
  return {
      {"greedy", greedy}, {"penalised", penalised}, {"seeded", seeded}, {"biased", hot}, {"allowed", narrow}};
}

TEST(Speculation, EveryDrafterAtEveryDepthLeavesTheTextOfPlainDecoding) {
  const Model model = Golden("hybrid-int4-fp8-bf16");
  for (const int32_t ranks : {1, 2, 3}) {
    const auto cluster = Start(model, {.ranks = ranks});
    LocalTrunk& trunk = cluster->trunk();
    const int32_t vocab = static_cast<int32_t>(trunk.info().vocab);
    for (const auto& [name, sampling] : Samplings()) {
      const std::vector<RunRequest> requests = {{model.prompt, 70, sampling}};
      const std::vector<RunOutcome> plain = RunAll(trunk, requests, RunPolicy{});
      const std::vector<TokenId> text = Whole(requests[0], plain[0]);
      std::mt19937 random(7);
      const std::vector<std::pair<std::string, ScriptedDrafter::Script>> drafters = {
          {"oracle", Oracle(
                         text, [](int64_t) { return kMaxDraft; }, vocab)},
          {"adversary", Oracle(
                            text, [](int64_t) { return 0; }, vocab)},
          {"right for a while", Oracle(
                                    text, [](int64_t p) { return static_cast<int32_t>(p * 7 % 9); }, vocab)},
          {"random",
           [&](const DraftRequest& r) {
             std::vector<TokenId> drafts(static_cast<size_t>(r.depth));
             for (TokenId& d : drafts) d = static_cast<TokenId>(random() % static_cast<uint32_t>(vocab));
             return drafts;
           }},
          {"shorter than asked", [&](const DraftRequest& r) {
             std::vector<TokenId> drafts;
             for (int32_t d = 0; d < r.depth && r.position % 3 > 0; ++d)
               drafts.push_back(text[std::min(text.size() - 1, static_cast<size_t>(r.position + 1 + d))]);
             return drafts;
           }}};
      for (const auto& [drafter, script] : drafters) {
        trunk.SetDrafter(DraftSource::kSuffix, std::make_unique<ScriptedDrafter>(script));
        for (int32_t depth = 1; depth <= kMaxDraft; ++depth) {
          // All depths on one rank; over ranks the shallowest, a middle one and the deepest.
          if (ranks > 1 && depth != 1 && depth != 3 && depth != kMaxDraft) continue;
          const auto drafted = RunAll(trunk, requests, Always(DraftSource::kSuffix, depth));
          ExpectSame(drafted, plain, absl::StrCat(ranks, " ranks, ", name, ", ", drafter, " at ", depth));
          if (drafter == "oracle") {
            EXPECT_EQ(drafted[0].accepted, drafted[0].drafted);
          } else if (drafter == "adversary") {
            EXPECT_EQ(drafted[0].accepted, 0);
          }
        }
        RunPolicy any{.source = DraftSource::kSuffix, .depth = [&](uint64_t step, size_t) {
                        return static_cast<int32_t>((step * 2654435761u >> 7) % (kMaxDraft + 1));
                      }};
        ExpectSame(RunAll(trunk, requests, any), plain,
                   absl::StrCat(ranks, " ranks, ", name, ", ", drafter, " at random depths"));
      }
    }
  }
}

TEST(Speculation, BatchesMixPrefillPlainAndVerifyRows) {
  const Model model = Golden("int4-wide-experts");
  for (const int32_t ranks : {1, 2, 3}) {
    const auto cluster = Start(model, {.ranks = ranks, .slots = 16, .pages = 32});
    LocalTrunk& trunk = cluster->trunk();
    const int32_t vocab = static_cast<int32_t>(trunk.info().vocab);
    const auto samplings = Samplings();
    std::vector<RunRequest> requests;
    for (size_t r = 0; r < 16; ++r) {
      std::vector<TokenId> prompt = model.prompt;
      prompt.resize(3 + r * 2 % prompt.size());
      requests.push_back({prompt, 40 + static_cast<int32_t>(r), samplings[r % samplings.size()].second});
    }
    std::vector<RunOutcome> alone;
    std::vector<std::vector<TokenId>> texts;
    for (const RunRequest& request : requests) {
      alone.push_back(RunAll(trunk, {request}, RunPolicy{})[0]);
      texts.push_back(Whole(request, alone.back()));
    }
    for (size_t batch = 1; batch <= requests.size(); ++batch) {
      if (ranks > 1 && batch != 2 && batch != 5 && batch != 16) continue;
      const std::vector<RunRequest> some(requests.begin(), requests.begin() + static_cast<int64_t>(batch));
      const std::vector<RunOutcome> want(alone.begin(), alone.begin() + static_cast<int64_t>(batch));
      // Finds the request by its prompt and text so far; right now and then.
      trunk.SetDrafter(
          DraftSource::kSuffix, std::make_unique<ScriptedDrafter>([&](const DraftRequest& r) {
            for (const auto& text : texts) {
              const auto so_far = r.sampler->tokens();
              if (text.size() <= so_far.size() || !std::equal(so_far.begin(), so_far.end(), text.begin()))
                continue;
              return Oracle(text, [](int64_t p) { return static_cast<int32_t>(p % 6); }, vocab)(r);
            }
            return std::vector<TokenId>(static_cast<size_t>(r.depth), 1);
          }));
      RunPolicy policy{.source = DraftSource::kSuffix, .chunk = 7, .stagger = 3};
      policy.depth = [](uint64_t step, size_t r) { return static_cast<int32_t>((step + 5 * r) % 7); };
      ExpectSame(RunAll(trunk, some, policy), want, absl::StrCat(ranks, " ranks, batch of ", batch));
    }
  }
}

// Every offset to every border of a block, over and over, by the demo model's own words.
TEST(Speculation, FourThousandTokens) {
  Model model;
  auto checkpoint = Checkpoint::Open(PACELINE_DEMO_MODEL);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  model.checkpoint = *std::move(checkpoint);
  const auto cluster = Start(model, {.ranks = 2, .pages = 40});
  LocalTrunk& trunk = cluster->trunk();
  const int32_t vocab = static_cast<int32_t>(trunk.info().vocab);
  const std::vector<RunRequest> requests = {
      {{100, 200, 300}, 4096, {.temperature = 0.8f, .top_p = 0.95f, .seed = 3}}};
  const std::vector<RunOutcome> plain = RunAll(trunk, requests, RunPolicy{});
  const std::vector<TokenId> text = Whole(requests[0], plain[0]);
  trunk.SetDrafter(DraftSource::kSuffix,
                   std::make_unique<ScriptedDrafter>(
                       Oracle(text, [](int64_t p) { return static_cast<int32_t>(p * 5 % 10); }, vocab)));
  RunPolicy policy{.source = DraftSource::kSuffix};
  policy.depth = [](uint64_t step, size_t) { return static_cast<int32_t>(step * 3 % (kMaxDraft + 1)); };
  const std::vector<RunOutcome> drafted = RunAll(trunk, requests, policy);
  ExpectSame(drafted, plain, "4096 tokens");
  EXPECT_GT(drafted[0].accepted, 1000);
  EXPECT_LT(drafted[0].steps, 3000);
}

// The model's own MTP layer, over ranks: the text of plain decoding, whatever its format and tap.
TEST(Speculation, TheMtpLayerDraftsAndTheTextStays) {
  const Model model = Golden("mtp-equals-target");
  // A text of two words repeats itself, so the suffix drafter has something to say as well.
  auto two = std::make_shared<LogitAdjustments>();
  two->allowed = {5, 6};
  Sampling two_words{.temperature = 1.0f, .seed = 2};
  two_words.adjustments = two;
  for (const int32_t ranks : {1, 3}) {
    for (const MtpFormat format : {MtpFormat::kStored, MtpFormat::kInt4}) {
      for (const HiddenTap tap : {HiddenTap::kPostNorm, HiddenTap::kPreNorm}) {
        LocalClusterOptions options{.ranks = ranks};
        options.drafting = {.mtp = true, .required = true, .suffix = true, .format = format, .tap = tap};
        const auto cluster = Start(model, options);
        LocalTrunk& trunk = cluster->trunk();
        ASSERT_EQ(trunk.info().drafters, (std::vector<DraftSource>{DraftSource::kMtp, DraftSource::kSuffix}));
        for (const auto& [name, sampling] : Samplings()) {
          const std::vector<RunRequest> requests = {{model.prompt, 70, sampling}, {{5, 6, 7}, 50, two_words}};
          const std::vector<RunOutcome> plain = RunAll(trunk, requests, RunPolicy{});
          for (const DraftSource source : trunk.info().drafters) {
            RunPolicy policy{.source = source, .chunk = 9, .stagger = 2};
            policy.depth = [](uint64_t step, size_t r) { return static_cast<int32_t>((step * 7 + r) % 9); };
            const std::vector<RunOutcome> drafted = RunAll(trunk, requests, policy);
            ExpectSame(drafted, plain, absl::StrCat(DraftSourceName(source), " over ", ranks, ", ", name));
            EXPECT_GT(drafted[1].drafted, 0) << DraftSourceName(source);
            if (source == DraftSource::kMtp && format == MtpFormat::kStored && tap == HiddenTap::kPostNorm) {
              EXPECT_GT(drafted[0].accepted, 0);
            }
          }
        }
      }
    }
  }
}

TEST(Speculation, AnMtpLayerThatEqualsItsTargetIsAlwaysRight) {
  const Model model = Golden("mtp-equals-target");
  LocalClusterOptions options{.ranks = 2};
  options.drafting = {.mtp = true, .required = true, .format = MtpFormat::kStored};
  const auto cluster = Start(model, options);
  for (int32_t depth = 1; depth <= kMaxDraft; ++depth) {
    const std::vector<RunRequest> requests = {{model.prompt, 100, {.temperature = 0}}};
    const RunOutcome drafted = RunAll(cluster->trunk(), requests, Always(DraftSource::kMtp, depth))[0];
    EXPECT_GT(drafted.drafted, 0);
    EXPECT_EQ(drafted.accepted, drafted.drafted) << "depth " << depth;
    EXPECT_LE(drafted.steps, 100 / (depth + 1) + 2) << "depth " << depth;
  }
}

// Rejection sampling keeps the distribution, not the text; that it runs over real rows is all that is asked
// here.
TEST(Speculation, RejectionSamplingRunsAndForcedAcceptanceIsWhatWasAsked) {
  const Model model = Golden("mtp-equals-target");
  LocalClusterOptions options{.ranks = 2};
  options.drafting = {.mtp = true, .required = true};
  Sampling rejecting{.temperature = 1.0f, .seed = 4, .acceptance = AcceptanceRule::kRejection};
  {
    const auto cluster = Start(model, options);
    const RunOutcome drafted =
        RunAll(cluster->trunk(), {{model.prompt, 90, rejecting}}, Always(DraftSource::kMtp, 3))[0];
    EXPECT_EQ(drafted.tokens.size(), 90u);
    EXPECT_GT(drafted.accepted, 0);
  }
  options.drafting.assume_acceptance = 0.7;
  const auto cluster = Start(model, options);
  const RunOutcome forced = RunAll(cluster->trunk(), {{model.prompt, 2000, {.temperature = 0, .seed = 8}}},
                                   Always(DraftSource::kMtp, 1))[0];
  const double rate = static_cast<double>(forced.accepted) / static_cast<double>(forced.drafted);
  EXPECT_NEAR(rate, 0.7, 0.07);  // five standard deviations of about 1,200 draws
}

// A draft whose row leaves the numbers is wrong, not an error: it never was text.
TEST(Speculation, NonsenseBehindAWrongDraftHurtsNobody) {
  const GoldenCase c = CaseOf("hybrid-int4-fp8-bf16");
  const Model whole = Golden(c.name);
  const std::vector<RunRequest> requests = {{whole.prompt, 40, {.temperature = 0}}};
  const std::vector<RunOutcome> plain = RunAll(Start(whole, {})->trunk(), requests, RunPolicy{});
  const std::vector<TokenId> text = Whole(requests[0], plain[0]);
  TokenId poisoned = 5;
  while (std::find(text.begin(), text.end(), poisoned) != text.end()) ++poisoned;

  testing::Folder folder;
  for (const auto& entry : std::filesystem::directory_iterator(c.directory)) {
    if (entry.path().extension() != ".safetensors")
      std::filesystem::copy_file(entry.path(),
                                 std::filesystem::path(folder.path()) / entry.path().filename());
  }
  testing::Tensors tensors = testing::ReadTensors(c.directory + "/model.safetensors");
  size_t changed = 0;
  for (auto& [name, tensor] : tensors) {
    if (!name.ends_with("embed_tokens.weight")) continue;
    ASSERT_EQ(tensor.dtype, "BF16");
    const size_t row_bytes = static_cast<size_t>(tensor.shape[1]) * 2;
    for (size_t b = 0; b < row_bytes; b += 2) {
      tensor.bytes[static_cast<size_t>(poisoned) * row_bytes + b] = '\x80';
      tensor.bytes[static_cast<size_t>(poisoned) * row_bytes + b + 1] = '\x7f';  // infinity
    }
    ++changed;
  }
  ASSERT_EQ(changed, 1u);
  folder.Write("model.safetensors", testing::Safetensors(tensors));
  auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const Model model{*std::move(checkpoint), whole.prompt};
  const auto cluster = Start(model, {.ranks = 2});
  LocalTrunk& trunk = cluster->trunk();
  trunk.SetDrafter(DraftSource::kSuffix, std::make_unique<ScriptedDrafter>([&](const DraftRequest& r) {
                     std::vector<TokenId> drafts(static_cast<size_t>(r.depth), poisoned);
                     const size_t next = static_cast<size_t>(r.position) + 1;
                     if (r.position % 2 == 0 && next < text.size()) drafts[0] = text[next];
                     return drafts;
                   }));
  const std::vector<RunOutcome> drafted = RunAll(trunk, requests, Always(DraftSource::kSuffix, 4));
  ExpectSame(drafted, plain, "poisoned drafts");
  EXPECT_GT(drafted[0].accepted, 5);

  // Fed as text, the same token ends its request, and only its own.
  const auto fed =
      testing::RunRequests(trunk, std::vector<RunRequest>{{{1, poisoned, 2}, 3, {.temperature = 0}}}, {});
  EXPECT_FALSE(fed.ok());
}

TEST(Speculation, ADrafterThatFailsCostsDraftsOnly) {
  const Model model = Golden("int4-wide-experts");
  const std::vector<RunRequest> requests = {{model.prompt, 60, {.temperature = 0}}};
  const auto cluster = Start(model, {});
  LocalTrunk& trunk = cluster->trunk();
  const std::vector<RunOutcome> plain = RunAll(trunk, requests, RunPolicy{});
  auto drafter = std::make_unique<ScriptedDrafter>(Oracle(
      Whole(requests[0], plain[0]), [](int64_t) { return 2; }, static_cast<int32_t>(trunk.info().vocab)));
  drafter->FailEvery(3);
  trunk.SetDrafter(DraftSource::kSuffix, std::move(drafter));
  const std::vector<RunOutcome> drafted = RunAll(trunk, requests, Always(DraftSource::kSuffix, 4));
  ExpectSame(drafted, plain, "failing drafter");
  EXPECT_GT(drafted[0].accepted, 10);
  EXPECT_LT(drafted[0].drafted, 4 * drafted[0].steps - 20) << "every third call brought nothing";
}

// Behind a draft that ends the text nothing is run.
TEST(Speculation, NoRowsBehindADraftedStop) {
  const Model model = Golden("int4-wide-experts");
  const auto cluster = Start(model, {});
  LocalTrunk& trunk = cluster->trunk();
  trunk.SetDrafter(DraftSource::kSuffix, std::make_unique<ScriptedDrafter>([](const DraftRequest&) {
                     return std::vector<TokenId>{5, 7, 9, 11, 9};
                   }));
  SequenceRows rows{.sequence = SequenceId(1), .pages = {0}, .tokens = {1, 2, 3}, .sampled_rows = 1};
  const auto first = trunk.Run({.step = StepId(1), .sequences = {rows}});
  ASSERT_TRUE(first.ok()) << first.status();
  rows.first_position = 3;
  rows.tokens = {first->sequences[0].rows[0].token};
  rows.drafter = DraftSource::kSuffix;
  rows.draft_depth = 5;
  rows.stops = std::make_shared<const std::vector<TokenId>>(std::vector<TokenId>{9, 400});
  const auto second = trunk.Run({.step = StepId(2), .sequences = {rows}});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->sequences[0].drafted, 3);
}

TEST(Speculation, AWorkerLostDuringAVerifyStepEndsItsRequests) {
  const Model model = Golden("int4-wide-experts");
  const std::vector<RunRequest> requests = {{model.prompt, 60, {.temperature = 0}}};
  const auto cluster = Start(model, {.ranks = 2});
  LocalTrunk& trunk = cluster->trunk();
  int64_t drafts = 0;
  trunk.SetDrafter(DraftSource::kSuffix, std::make_unique<ScriptedDrafter>([&](const DraftRequest& r) {
                     if (++drafts == 9) cluster->Kill(RankId(1));
                     return std::vector<TokenId>(static_cast<size_t>(r.depth), 1);
                   }));
  const auto lost = testing::RunRequests(trunk, requests, Always(DraftSource::kSuffix, 5));
  EXPECT_TRUE(absl::IsUnavailable(lost.status())) << lost.status();
  EXPECT_EQ(drafts, 9);
}

}  // namespace
}  // namespace paceline
