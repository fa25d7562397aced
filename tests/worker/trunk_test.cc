// The trunk as its coordinator sees it, over real checkpoints: rows of several sequences in one step, state
// that is taken over, failures that stay with their request, what the hash covers, and workers that go away.
#include "worker/trunk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/sha256.h"
#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
#include "tests/testing/drafted_run.h"
#include "tests/testing/golden_case.h"
#include "tests/testing/local_cluster.h"

namespace paceline {
namespace {

using testing::GoldenCase;
using ::testing::HasSubstr;
using testing::LocalCluster;
using testing::LocalClusterOptions;
using testing::ScoreText;

struct Model {
  std::unique_ptr<Checkpoint> checkpoint;
  std::vector<TokenId> text;  // prompt and continuation of the last prompt
};

Model OpenCase(const std::string& name) {
  for (const GoldenCase& c : testing::GoldenCases()) {
    if (c.name != name) continue;
    Model m{*Checkpoint::Open(c.directory), c.prompts.back().prompt};
    m.text.insert(m.text.end(), c.prompts.back().continuation.begin(), c.prompts.back().continuation.end());
    return m;
  }
  ADD_FAILURE() << "no case " << name;
  return {};
}

std::unique_ptr<LocalCluster> StartCluster(const Model& model, const LocalClusterOptions& options) {
  auto cluster = LocalCluster::Start(*model.checkpoint, options);
  EXPECT_TRUE(cluster.ok()) << cluster.status();
  return *std::move(cluster);
}

std::string HashOf(LocalTrunk& trunk, const std::vector<TokenId>& text, int32_t chunk = 64) {
  const auto scores = ScoreText(trunk, text, chunk, 0);
  EXPECT_TRUE(scores.ok()) << scores.status();
  return scores.ok() ? scores->logits_hash : "";
}

// A text of `count` tokens out of the case's own.
std::vector<TokenId> Repeated(const Model& model, size_t count) {
  std::vector<TokenId> text;
  while (text.size() < count) text.push_back(model.text[text.size() * 7 % model.text.size()]);
  return text;
}

// ---------------------------------------------------------------- rows of several sequences

class TrunkTest : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  void SetUp() override {
    model_ = OpenCase(std::get<0>(GetParam()));
    options_.head_backend = options_.worker_backend = std::get<1>(GetParam());
  }
  Model model_;
  LocalClusterOptions options_;
};

// Sequences come and go, each in its own chunks, prompt rows beside decode rows, more than one block of rows
// a step.
TEST_P(TrunkTest, SequencesInOneStepDoNotKnowEachOther) {
  struct Sequence {
    std::vector<TokenId> text;
    std::string want, hash;
    int64_t done = 0;
    uint64_t starts;  // step
    int32_t slot;
    std::vector<int32_t> pages;
  };
  options_.slots = 4;
  auto cluster = StartCluster(model_, options_);
  LocalTrunk& trunk = cluster->trunk();
  std::vector<Sequence> sequences;
  for (int32_t i = 0; i < 4; ++i) {
    std::vector<TokenId> text = Repeated(model_, 40 + 20 * static_cast<size_t>(i));
    std::rotate(text.begin(), text.begin() + 5 * i, text.end());
    sequences.push_back({.text = text,
                         .want = HashOf(trunk, text),
                         .hash = "",
                         .starts = 2 * static_cast<uint64_t>(i),
                         .slot = (i + 2) % 4,
                         .pages = {7 - i}});
  }
  const std::vector<TokenId> prompt(model_.text.begin(), model_.text.begin() + 33);
  const Sampling sampling{.temperature = 0.8f, .top_p = 0.95f, .seed = 12};
  auto other = StartCluster(model_, options_);
  const auto alone = testing::Continue(other->trunk(), prompt, 12, {}, 64, sampling);
  ASSERT_TRUE(alone.ok()) << alone.status();

  // The fourth text's slot is shared with the sampled sequence: it starts when that one is over.
  std::vector<TokenId> drawn, next = prompt;
  int64_t position = 0;
  std::mt19937 random(3);
  for (uint64_t step = 0; step < 200; ++step) {
    StepPlan plan{.step = StepId(1000 + step)};
    std::vector<Sequence*> who;
    for (Sequence& s : sequences) {
      const int64_t left = static_cast<int64_t>(s.text.size()) - s.done;
      const bool waits = &s == &sequences[3] && drawn.size() < alone->size();
      if (step < s.starts || left == 0 || waits || random() % 4 == 0) continue;
      const int64_t n =
          std::min<int64_t>(left, random() % 2 == 0 ? 1 : 1 + static_cast<int64_t>(random() % 50));
      SequenceRows rows{.sequence = SequenceId(50 + static_cast<uint64_t>(s.slot)),
                        .slot = s.slot,
                        .pages = s.pages,
                        .first_position = s.done,
                        .tokens = {s.text.begin() + s.done, s.text.begin() + s.done + n}};
      rows.targets.assign(rows.tokens.size(), -1);
      rows.hash_logits = true;
      plan.sequences.push_back(std::move(rows));
      s.done += n;
      who.push_back(&s);
    }
    const bool decodes = drawn.size() < alone->size();
    if (decodes) {
      plan.sequences.push_back({.sequence = SequenceId(9),
                                .slot = sequences[3].slot,
                                .pages = {0},
                                .first_position = position,
                                .tokens = next,
                                .sampled_rows = 1,
                                .sampling = sampling});
      position += static_cast<int64_t>(next.size());
    }
    if (plan.sequences.empty()) continue;
    const auto result = trunk.Run(plan);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->sequences.size(), plan.sequences.size());
    for (size_t i = 0; i < who.size(); ++i) {
      ASSERT_TRUE(result->sequences[i].status.ok());
      EXPECT_EQ(result->sequences[i].sequence, plan.sequences[i].sequence);
      EXPECT_EQ(result->sequences[i].rows.size(), plan.sequences[i].tokens.size());
      who[i]->hash = result->sequences[i].logits_hash;
    }
    if (decodes) {
      ASSERT_EQ(result->sequences.back().rows.size(), 1u);
      EXPECT_EQ(result->sequences.back().logits_hash, "");  // was not asked for
      drawn.push_back(result->sequences.back().rows[0].token);
      next = {drawn.back()};
    }
  }
  for (const Sequence& s : sequences) {
    EXPECT_EQ(s.done, static_cast<int64_t>(s.text.size()));
    EXPECT_EQ(s.hash, s.want) << "slot " << s.slot;
  }
  EXPECT_EQ(drawn, *alone);
}

TEST_P(TrunkTest, PositionZeroStartsASlotAfresh) {
  const std::vector<TokenId> first = model_.text;
  const std::vector<TokenId> second(model_.text.rbegin(), model_.text.rend());
  auto fresh = StartCluster(model_, options_);
  const std::string want = HashOf(fresh->trunk(), second);
  auto used = StartCluster(model_, options_);
  // The same slot and pages, left in the middle of a text.
  ASSERT_TRUE(ScoreText(used->trunk(), first, 64, 0, SequenceId(1), /*release=*/false).ok());
  const auto again = ScoreText(used->trunk(), second, 64, 0, SequenceId(2));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->logits_hash, want);
  // The hash goes on until the sequence is released, and starts anew after.
  const auto longer = ScoreText(used->trunk(), second, 64, 0, SequenceId(1));
  ASSERT_TRUE(longer.ok());
  EXPECT_NE(longer->logits_hash, want);
  const auto anew = ScoreText(used->trunk(), second, 64, 0, SequenceId(1));
  ASSERT_TRUE(anew.ok());
  EXPECT_EQ(anew->logits_hash, want);
}

// 300 positions: chunks that end before, at and after the borders of Gated DeltaNet blocks (32), of the
// exchange (64) and of KV pages (256); pages in any order.
TEST_P(TrunkTest, BordersOfBlocksAndPagesDoNotShow) {
  const std::vector<TokenId> text = Repeated(model_, 300);
  auto cluster = StartCluster(model_, options_);
  LocalTrunk& trunk = cluster->trunk();
  const std::string want = HashOf(trunk, text, 300);
  const std::vector<std::vector<int32_t>> cuts = {{31, 33, 63, 65, 255, 257},
                                                  {32, 64, 128, 256},
                                                  {1, 30, 31, 32, 33, 34, 254, 255, 256, 257, 258},
                                                  {250, 299}};
  for (size_t i = 0; i < cuts.size(); ++i) {
    std::vector<int32_t> ends = cuts[i];
    ends.push_back(300);
    int32_t first = 0;
    std::string hash;
    for (const int32_t end : ends) {
      SequenceRows rows{.sequence = SequenceId(70 + i),
                        .slot = 3,
                        .pages = {9 - static_cast<int32_t>(i), 4},
                        .first_position = first,
                        .tokens = {text.begin() + first, text.begin() + end}};
      rows.targets.assign(rows.tokens.size(), -1);
      rows.hash_logits = true;
      const auto result = trunk.Run({.step = StepId(1), .sequences = {rows}});
      ASSERT_TRUE(result.ok()) << result.status();
      hash = result->sequences[0].logits_hash;
      first = end;
    }
    EXPECT_EQ(hash, want) << "cuts " << i;
  }
}

// A step of several blocks over workers, with a probe of each, and the LM head cut over the ranks.
TEST_P(TrunkTest, ALongStepOverWorkersHasTheBitsOfOneProcess) {
  const std::vector<TokenId> text = Repeated(model_, 200);
  const std::string want = HashOf(StartCluster(model_, options_)->trunk(), text, 200);
  options_.ranks = 3;
  options_.placement = "strided";
  options_.link = "tcp";
  options_.head_split = true;
  auto cluster = StartCluster(model_, options_);
  SequenceRows rows{.sequence = SequenceId(1), .slot = 0, .pages = {0}, .first_position = 0, .tokens = text};
  rows.targets.assign(text.size(), -1);
  rows.hash_logits = true;
  const auto result = cluster->trunk().Run({.step = StepId(1), .sequences = {rows}, .probe_workers = true});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->sequences[0].logits_hash, want);
  EXPECT_GT(cluster->trunk().counters().bytes, 0);
}

TEST_P(TrunkTest, TheKvDtypeAndTheActivationContractShow) {
  const std::vector<TokenId> text(model_.text.begin(), model_.text.begin() + 50);
  const std::string want = HashOf(StartCluster(model_, options_)->trunk(), text);
  std::set<std::string> hashes = {want};
  for (const kernels::KvDtype dtype :
       {kernels::KvDtype::kF32, kernels::KvDtype::kInt8, kernels::KvDtype::kInt4}) {
    LocalClusterOptions other = options_;
    other.kv_dtype = dtype;
    const std::string hash = HashOf(StartCluster(model_, other)->trunk(), text);
    EXPECT_TRUE(hashes.insert(hash).second);
    for (const kernels::KernelTable* table : kernels::cpu::Testable()) {
      other.table = table;
      EXPECT_EQ(HashOf(StartCluster(model_, other)->trunk(), text, 7), hash) << table->name;
    }
  }

  LocalClusterOptions int8 = options_;
  int8.contract = kernels::ActivationContract::kInt8;
  const std::string coarse = HashOf(StartCluster(model_, int8)->trunk(), text);
  EXPECT_NE(coarse, want);
  int8.ranks = 3;
  int8.placement = "sliced";
  EXPECT_EQ(HashOf(StartCluster(model_, int8)->trunk(), text, 7), coarse);
  for (const kernels::KernelTable* table : kernels::cpu::Testable()) {
    int8.table = table;
    EXPECT_EQ(HashOf(StartCluster(model_, int8)->trunk(), text, 20), coarse) << table->name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, TrunkTest,
    ::testing::Values(std::tuple{"int4-wide-experts", "reference"}, std::tuple{"int4-wide-experts", "cpu"},
                      std::tuple{"hybrid-int4-fp8-bf16", "cpu"}, std::tuple{"qwen3-moe-int4", "cpu"}),
    [](const auto& info) {
      std::string name = absl::StrCat(std::get<0>(info.param), "_", std::get<1>(info.param));
      for (char& ch : name) ch = ch == '-' ? '_' : ch;
      return name;
    });

// ---------------------------------------------------------------- failures of one request

// A kernel table has no room for state, so what the planted kernels do stands here.
int32_t planted_row = -1;                // of the step
std::vector<float>* captured = nullptr;  // outputs of the LM head
int64_t captured_outputs = 0;

void PlantedExperts(ThreadPool& pool, kernels::Workspace& workspace, const kernels::Activations& x,
                    std::span<const kernels::ExpertTask> tasks, kernels::ActivationContract contract,
                    int64_t* sums, uint8_t* row_errors) {
  kernels::reference::Experts(pool, workspace, x, tasks, contract, sums, row_errors);
  if (planted_row >= 0) row_errors[planted_row] = 1;
}

TEST(TrunkErrors, ARowThatLeavesTheNumbersFailsItsOwnRequest) {
  const Model model = OpenCase("int4-wide-experts");
  kernels::KernelTable table = kernels::ReferenceKernels();
  table.experts = PlantedExperts;
  LocalClusterOptions options;
  options.table = &table;
  auto cluster = StartCluster(model, options);
  const std::string want = HashOf(cluster->trunk(), {model.text.begin(), model.text.begin() + 6});

  const auto rows = [&](uint64_t sequence, int64_t first, int64_t count) {
    SequenceRows r{.sequence = SequenceId(sequence),
                   .slot = static_cast<int32_t>(sequence),
                   .pages = {static_cast<int32_t>(sequence)},
                   .first_position = first,
                   .tokens = {model.text.begin() + first, model.text.begin() + first + count}};
    r.targets.assign(r.tokens.size(), -1);
    r.hash_logits = true;
    return r;
  };
  // Rows 0-1, 2-4 and 5 of the step.
  const int32_t owner[] = {0, 0, 1, 1, 1, 2};
  for (int32_t bad = 0; bad < 6; ++bad) {
    SCOPED_TRACE(absl::StrCat("row ", bad));
    planted_row = bad;
    auto result =
        cluster->trunk().Run({.step = StepId(1), .sequences = {rows(1, 0, 2), rows(2, 0, 3), rows(3, 0, 1)}});
    planted_row = -1;
    ASSERT_TRUE(result.ok()) << result.status();
    StepPlan rest{.step = StepId(2), .sequences = {rows(1, 2, 4), rows(2, 3, 3), rows(3, 1, 5)}};
    for (int32_t i = 0; i < 3; ++i) {
      const SequenceResult& s = result->sequences[static_cast<size_t>(i)];
      if (i != owner[bad]) {
        EXPECT_TRUE(s.status.ok()) << s.status;
        continue;
      }
      EXPECT_EQ(s.status.code(), absl::StatusCode::kDataLoss);
      EXPECT_EQ(CodeOf(std::string(s.status.message())), "REQ-003");
      EXPECT_TRUE(s.rows.empty());
      // Its slot and page are given to a fresh text.
      cluster->trunk().Release(s.sequence);
      rest.sequences[static_cast<size_t>(i)] = rows(s.sequence.value(), 0, 6);
    }
    // The others go on with the bits they would have had.
    result = cluster->trunk().Run(rest);
    ASSERT_TRUE(result.ok()) << result.status();
    for (const SequenceResult& s : result->sequences) {
      EXPECT_EQ(s.logits_hash, want) << s.sequence;
      cluster->trunk().Release(s.sequence);
    }
  }
}

// ---------------------------------------------------------------- what the hash covers

void CapturingLinear(ThreadPool& pool, const kernels::Linear& w, const kernels::Activations& x, float* y,
                     int64_t stride) {
  kernels::reference::LinearForward(pool, w, x, y, stride);
  if (captured == nullptr || w.outputs != captured_outputs) return;
  for (int32_t row = 0; row < x.rows; ++row)
    captured->insert(captured->end(), y + row * stride, y + row * stride + w.outputs);
}

std::string HashOfFloats(const float* values, int64_t count) {
  Sha256 hash;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(values[i]);
    for (int shift = 0; shift < 32; shift += 8) {
      const uint8_t byte = static_cast<uint8_t>(bits >> shift);
      hash.Add(&byte, 1);
    }
  }
  return hash.Hex().substr(0, 16);
}

class LogitsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = OpenCase("hybrid-int4-fp8-bf16");
    vocab_ = captured_outputs = model_.checkpoint->config().vocab;
    table_.linear = CapturingLinear;
    options_.table = &table_;
    captured = &logits_;
  }
  void TearDown() override { captured = nullptr; }

  Model model_;
  int64_t vocab_ = 0;
  kernels::KernelTable table_ = kernels::ReferenceKernels();
  LocalClusterOptions options_;
  std::vector<float> logits_;  // [rows so far, vocab]
};

TEST_F(LogitsTest, ScoringHashesEveryPositionInOrder) {
  auto cluster = StartCluster(model_, options_);
  const int64_t count = 90 * vocab_;
  for (const int32_t chunk : {90, 17, 1}) {  // 90 rows are two pieces of the LM head
    logits_.clear();
    const std::string hash = HashOf(cluster->trunk(), {model_.text.begin(), model_.text.begin() + 90}, chunk);
    ASSERT_EQ(static_cast<int64_t>(logits_.size()), count);
    EXPECT_EQ(hash, HashOfFloats(logits_.data(), count));
    EXPECT_NE(hash, HashOfFloats(logits_.data(), count - vocab_));
  }
}

TEST_F(LogitsTest, GeneratingHashesTheRowsTokensWereDrawnFrom) {
  options_.has_token.assign(static_cast<size_t>(vocab_) - 3, true);  // masks come after the hash
  auto cluster = StartCluster(model_, options_);
  std::string hash;
  std::vector<TokenId> tokens(model_.text.begin(), model_.text.begin() + 20);
  int64_t position = 0;
  for (int step = 0; step < 5; ++step) {
    const bool prompt = step == 0;
    SequenceRows rows{.sequence = SequenceId(1),
                      .slot = 0,
                      .pages = {0},
                      .first_position = position,
                      .tokens = tokens,
                      .sampled_rows = prompt ? 0 : 1,
                      .sampling = {.temperature = 2, .seed = 4},
                      .hash_logits = true};
    const auto result =
        cluster->trunk().Run({.step = StepId(static_cast<uint64_t>(step)), .sequences = {rows}});
    ASSERT_TRUE(result.ok()) << result.status();
    position += static_cast<int64_t>(tokens.size());
    hash = result->sequences[0].logits_hash;
    EXPECT_EQ(hash, prompt ? "" : HashOfFloats(logits_.data(), step * vocab_));
    tokens = {prompt ? model_.text[20] : result->sequences[0].rows[0].token};
  }
  EXPECT_EQ(static_cast<int64_t>(logits_.size()), 4 * vocab_);
}

TEST_F(LogitsTest, AMaskedIdIsNeverDrawnAndItsLogprobStays) {
  const std::vector<TokenId> prompt(model_.text.begin(), model_.text.begin() + 12);
  const auto draw = [&](const std::vector<bool>& has_token, const Sampling& sampling) {
    options_.has_token = has_token;
    SequenceRows rows{.sequence = SequenceId(1),
                      .slot = 0,
                      .pages = {0},
                      .first_position = 0,
                      .tokens = prompt,
                      .sampled_rows = 12,
                      .sampling = sampling,
                      .top = 5,
                      .logprobs = true};
    auto cluster = StartCluster(model_, options_);
    auto result = cluster->trunk().Run({.step = StepId(1), .sequences = {rows}});
    EXPECT_TRUE(result.ok()) << result.status();
    return std::move(result->sequences[0]);
  };
  const SequenceResult open = draw({}, {.temperature = 0});
  ASSERT_EQ(open.rows.size(), 12u);
  std::vector<bool> has_token(static_cast<size_t>(vocab_), true);
  for (const RowResult& r : open.rows) has_token[static_cast<size_t>(r.token)] = false;
  const SequenceResult masked = draw(has_token, {.temperature = 0});
  for (size_t i = 0; i < 12; ++i) {
    const RowResult& was = open.rows[i];
    const RowResult& is = masked.rows[i];
    EXPECT_EQ(was.token, was.top[0].token);
    EXPECT_EQ(was.logprob, was.top[0].logprob);
    ASSERT_EQ(is.top.size(), 5u);
    for (size_t k = 0; k < 5; ++k) {
      EXPECT_EQ(is.top[k].token, was.top[k].token);
      EXPECT_EQ(is.top[k].logprob, was.top[k].logprob);
    }
    EXPECT_TRUE(has_token[static_cast<size_t>(is.token)]);
    const auto best = std::find_if(is.top.begin(), is.top.end(), [&](const Candidate& c) {
      return has_token[static_cast<size_t>(c.token)];
    });
    if (best != is.top.end()) {
      EXPECT_EQ(is.token, best->token);
      EXPECT_EQ(is.logprob, best->logprob);
    }
  }
  // Ids past the end of the list are ids the tokenizer lacks.
  for (uint64_t seed = 0; seed < 8; ++seed) {
    for (const RowResult& r : draw(std::vector<bool>(5, true), {.temperature = 50, .seed = seed}).rows)
      EXPECT_LT(r.token, 5);
  }
  EXPECT_EQ(draw(std::vector<bool>(5, false), {}).status.code(), absl::StatusCode::kDataLoss);
}

// ---------------------------------------------------------------- workers that go away

std::string RulesFile(const std::string& name, const std::string& rules) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/trunk-", getpid(), "-", name, ".json");
  std::ofstream(path) << R"({"rules":)" << rules << "}";
  return path;
}

class LostWorkerTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    model_ = OpenCase("int4-wide-experts");
    text_.assign(model_.text.begin(), model_.text.begin() + 30);
    options_.link = GetParam();
    options_.ranks = 3;
  }
  void ExpectLost(LocalCluster& cluster, const std::string& name) {
    const auto result = ScoreText(cluster.trunk(), text_, 10, 0, SequenceId(8));
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable) << result.status();
    EXPECT_EQ(CodeOf(std::string(result.status().message())), "NET-001") << result.status();
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(name));
    cluster.trunk().Release(SequenceId(8));
  }
  Model model_;
  std::vector<TokenId> text_;
  LocalClusterOptions options_;
};

TEST_P(LostWorkerTest, TheStepNamesTheWorkerWhoseExpertsNobodyElseHolds) {
  options_.placement = "sliced";
  options_.ranks = 2;
  auto cluster = StartCluster(model_, options_);
  EXPECT_NE(HashOf(cluster->trunk(), text_), "");
  cluster->Kill(RankId(1));
  ExpectLost(*cluster, "worker-1");
  cluster->Forget(RankId(1));
  ExpectLost(*cluster, "worker-1");
}

TEST_P(LostWorkerTest, AWorkerWithoutExpertsIsNotMissed) {
  options_.placement = RulesFile("idle", R"([{"experts":[0,1],"holders":[1]}])");
  auto cluster = StartCluster(model_, options_);
  const std::string want = HashOf(cluster->trunk(), text_);
  cluster->Kill(RankId(2));
  EXPECT_EQ(HashOf(cluster->trunk(), text_), want);
  cluster->Forget(RankId(2));
  EXPECT_EQ(HashOf(cluster->trunk(), text_), want);
}

TEST_P(LostWorkerTest, AReplicaTakesOverOnceTheLossIsKnown) {
  options_.placement = RulesFile("replicas", R"([{"experts":[0,3],"holders":[1,2]}])");
  auto cluster = StartCluster(model_, options_);
  const std::string want = HashOf(cluster->trunk(), text_);
  cluster->Kill(RankId(1));
  ExpectLost(*cluster, "worker-1");  // in the step that finds out
  cluster->Forget(RankId(1));
  EXPECT_EQ(HashOf(cluster->trunk(), text_), want);
  cluster->Kill(RankId(2));
  ExpectLost(*cluster, "worker-2");
}

// Greedy decoding of one sequence behind a prompt that went in one step. A step that fails runs again, once
// the loss of worker 1 is known.
struct Decoded {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  int failed = 0;
};
Decoded DecodeOn(LocalCluster& cluster, const std::vector<TokenId>& prompt, size_t count, int32_t depth) {
  Decoded out;
  SequenceRows rows{.sequence = SequenceId(3), .slot = 1, .pages = {2}, .tokens = prompt, .sampled_rows = 1};
  rows.prompt_tokens = static_cast<int64_t>(prompt.size());
  rows.sampling = {.temperature = 0, .frequency_penalty = 0.1f};
  rows.logprobs = true;
  for (uint64_t step = 1; out.tokens.size() < count; ++step) {
    const StepPlan plan{.step = StepId(step), .sequences = {rows}};
    absl::StatusOr<StepResult> result = cluster.trunk().Run(plan);
    if (!result.ok()) {
      EXPECT_TRUE(absl::IsUnavailable(result.status())) << result.status();
      if (rows.first_position == 0 || out.failed++ > 0) break;
      cluster.Forget(RankId(1));
      result = cluster.trunk().Run(plan);
    }
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) break;
    for (const RowResult& row : result->sequences[0].rows) {
      out.tokens.push_back(row.token);
      out.logprobs.push_back(row.logprob);
    }
    rows.first_position = static_cast<int64_t>(prompt.size() + out.tokens.size()) - 1;
    rows.tokens = {out.tokens.back()};
    rows.drafter = depth > 0 ? DraftSource::kSuffix : DraftSource::kNone;
    rows.draft_depth = depth;
  }
  return out;
}

// The link dies at every message of some steps, so in every layer; the text and its log-probabilities are a
// twin's that never failed. Steps cross borders of recurrent state on the way.
TEST(FailedStep, TakesItsRowsBackAndMayRunAgain) {
  const Model model = OpenCase("int4-wide-experts");
  const std::vector<TokenId> prompt = Repeated(model, 27);
  constexpr size_t kCount = 45;
  LocalClusterOptions options;
  const Decoded twin = DecodeOn(*StartCluster(model, options), prompt, kCount, 0);
  ASSERT_GE(twin.tokens.size(), kCount);
  options.ranks = 2;
  options.placement = RulesFile("either", R"([{"experts":[0,3],"holders":[1,0]}])");
  int failed = 0;
  for (const int32_t depth : {0, 4}) {
    for (int64_t message = 8; message < 90; message += message < 40 ? 2 : 7) {
      SCOPED_TRACE(::testing::Message() << "depth " << depth << ", message " << message);
      options.simulate = SimulationOptions{.die_after_messages = message};
      const auto cluster = StartCluster(model, options);
      // Right now and then, and never for the whole window.
      cluster->trunk().SetDrafter(
          DraftSource::kSuffix, std::make_unique<testing::ScriptedDrafter>([&](const DraftRequest& r) {
            std::vector<TokenId> guess;
            for (int32_t k = 0; k < r.depth; ++k) {
              const size_t at = static_cast<size_t>(r.position) + 1 - prompt.size() + static_cast<size_t>(k);
              const bool right = at < twin.tokens.size() && k < r.position % 4;
              guess.push_back(right ? twin.tokens[at] : 1);
            }
            return guess;
          }));
      Decoded got = DecodeOn(*cluster, prompt, kCount, depth);
      failed += got.failed;
      ASSERT_LE(got.failed, 1);
      if (got.tokens.size() < kCount) {
        EXPECT_TRUE(got.tokens.empty()) << "only a prompt may be lost";
        continue;
      }
      got.tokens.resize(kCount);
      got.logprobs.resize(kCount);
      EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), twin.tokens.begin()));
      EXPECT_TRUE(std::equal(got.logprobs.begin(), got.logprobs.end(), twin.logprobs.begin()));
    }
  }
  EXPECT_GT(failed, 30);
}

INSTANTIATE_TEST_SUITE_P(Links, LostWorkerTest, ::testing::Values("loopback", "tcp"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace paceline
