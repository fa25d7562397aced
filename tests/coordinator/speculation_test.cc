// Drafted steps through scheduler and engine, judged by the checking trunk: whatever is drafted and whatever
// of it is right, each request gets the tokens it would have got alone, and is told the truth about them.
#include <algorithm>
#include <array>
#include <atomic>
#include <future>
#include <map>
#include <random>

#include "absl/strings/str_format.h"
#include "coordinator/api_error.h"
#include "coordinator/calibration.h"
#include "coordinator/engine.h"
#include "coordinator/generation.h"
#include "coordinator/metrics.h"
#include "coordinator/scheduler.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fake_tokenizer.h"
#include "tests/coordinator/fake_trunk.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;

std::vector<TokenId> Expected(std::vector<TokenId> tokens, int64_t n) {
  const FakeTrunk::Model model = FakeTrunk::Hash(100);
  const size_t prompt = tokens.size();
  for (int64_t i = 0; i < n; ++i) tokens.push_back(model(tokens));
  return {tokens.begin() + static_cast<int64_t>(prompt), tokens.end()};
}

TrunkInfo DraftingInfo() {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.has_mtp = true;
  info.drafters = {DraftSource::kMtp, DraftSource::kSuffix};
  return info;
}

TEST(DraftedSchedule, RandomTrafficGivesEverySequenceItsOwnTokens) {
  int64_t drafted = 0;
  for (uint32_t seed = 0; seed < 80; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](int low, int high) {
      return std::uniform_int_distribution<int>(low, high)(random);
    };
    TrunkInfo info = DraftingInfo();
    info.slots = pick(1, 16);
    info.pages = 4 * info.slots;  // enough for all: contention_test.cc is about fewer
    SchedulerOptions options;
    options.prefill_chunk = pick(1, 70);
    options.max_rows = pick(0, 1) == 1 ? pick(1, 40) : 0;
    FakeTrunk trunk(info, options.prefill_chunk, FakeTrunk::Hash(info.vocab));
    const int luck = pick(0, 3);  // nothing right, everything, and between
    trunk.right_drafts = [&](const SequenceRows& rows, const std::vector<TokenId>&) {
      return luck == 0 ? 0 : luck == 1 ? rows.draft_depth : pick(0, rows.draft_depth);
    };
    trunk.offers = [&](const std::vector<TokenId>&) -> std::vector<DraftOffer> {
      return {{DraftSource::kMtp, pick(0, 8), 0}, {DraftSource::kSuffix, pick(0, 8), pick(1, 30)}};
    };
    Scheduler scheduler(info, options);
    std::map<SequenceId, SequenceSpec> specs;
    std::map<SequenceId, std::vector<TokenId>> got;
    std::map<SequenceId, bool> started;
    uint64_t next_id = 1, step = 1;
    int to_admit = 30;
    const auto end = [&](SequenceId id) {
      if (!scheduler.Remove(id)) return false;
      if (started[id]) trunk.Release(id);
      return true;
    };
    while (to_admit > 0 || !scheduler.idle()) {
      while (to_admit > 0 && pick(0, 2) > 0) {
        SequenceSpec spec;
        spec.id = SequenceId(next_id++);
        // Now and then up to the very end of the context.
        const int prompt = pick(1, 300);
        for (int i = 0; i < prompt; ++i) spec.prompt.push_back(pick(0, 99));
        spec.max_tokens = pick(0, 9) == 0 ? scheduler.context() - prompt : pick(1, 40);
        spec.draft.mode = std::array{DraftMode::kAuto, DraftMode::kFixed, DraftMode::kOff}[pick(0, 2)];
        spec.draft.depth = spec.draft.mode == DraftMode::kOff ? 0 : pick(1, 8);
        specs[spec.id] = spec;
        scheduler.Admit(spec);
        --to_admit;
      }
      for (const SequenceId id : scheduler.Start()) started[id] = true;
      if (!specs.empty() && pick(0, 14) == 0) {
        const SequenceId id(static_cast<uint64_t>(pick(1, static_cast<int>(next_id))));
        if (end(id)) specs.erase(id);
      }
      const StepPlan plan = scheduler.Plan(StepId(step++));
      EXPECT_EQ(plan.sequences.empty(), scheduler.running() == 0) << "whoever runs makes progress";
      if (plan.sequences.empty()) continue;
      int64_t rows = 0, prompts = 0;
      for (const SequenceRows& s : plan.sequences) {
        rows += static_cast<int64_t>(s.tokens.size()) + s.draft_depth;
        if (s.first_position < s.prompt_tokens) prompts += static_cast<int64_t>(s.tokens.size());
        const SequenceSpec& spec = specs.at(s.sequence);
        EXPECT_LE(s.draft_depth, spec.draft.depth);
        const auto left = spec.max_tokens - static_cast<int64_t>(got[s.sequence].size());
        EXPECT_LE(s.draft_depth, std::max<int64_t>(0, left - 1)) << "a draft beyond max_tokens";
      }
      EXPECT_LE(rows, scheduler.max_rows());
      const bool waits = std::any_of(specs.begin(), specs.end(), [&](const auto& entry) {
        return started[entry.first] && got[entry.first].empty();
      });
      EXPECT_TRUE(!waits || prompts > 0) << "a prompt is held up";
      auto result = trunk.Run(plan);
      ASSERT_TRUE(result.ok());
      for (const StepOutcome& outcome : scheduler.Apply(plan, *std::move(result))) {
        std::vector<TokenId>& tokens = got[outcome.id];
        drafted += outcome.drafted;
        for (const RowResult& row : outcome.rows) tokens.push_back(row.token);
        EXPECT_LE(static_cast<int64_t>(tokens.size()), specs.at(outcome.id).max_tokens);
        // Some stop inside a window; what stands behind is dropped.
        const bool stops = pick(0, 39) == 0 && !tokens.empty();
        if (stops) tokens.resize(static_cast<size_t>(pick(1, static_cast<int>(tokens.size()))));
        if (stops || static_cast<int64_t>(tokens.size()) == specs.at(outcome.id).max_tokens) {
          specs.at(outcome.id).max_tokens = static_cast<int64_t>(tokens.size());
          EXPECT_TRUE(end(outcome.id));
        }
      }
      ASSERT_LT(step, 100000u) << "no end in sight";
    }
    for (const auto& [id, spec] : specs)
      EXPECT_EQ(got[id], Expected(spec.prompt, spec.max_tokens)) << "seed " << seed << " sequence " << id;
    EXPECT_EQ(scheduler.pages_used(), 0) << "every page comes home";
    EXPECT_EQ(trunk.live(), 0);
  }
  EXPECT_GT(drafted, 10'000);
}

TEST(DraftedSchedule, RowsOfAStepHoldEverySlotsDrafts) {
  EXPECT_EQ(Scheduler(DraftingInfo(), {}).max_rows(), 4 * 9 + 64);
  EXPECT_EQ(Scheduler(FakeTrunk::SmallInfo(), {}).max_rows(), 4 + 64);
}

class DraftedEngine : public ::testing::Test {
 protected:
  DraftedEngine() {
    trunk_.right_drafts = [this](const SequenceRows& rows, const std::vector<TokenId>&) {
      return std::min(right_, rows.draft_depth);
    };
  }
  Engine& Start(SpeculationPolicy policy = {}) {
    SchedulerOptions options;
    options.speculation = policy;
    engine_ = std::make_unique<Engine>(Engine::Parts{&trunk_, &tokenizer_}, GenerationDefaults{}, options);
    engine_->Start();
    return *engine_;
  }
  static GenerateRequest Fixed(std::vector<TokenId> prompt, int64_t max_tokens, int64_t depth) {
    GenerateRequest request;
    request.input = std::move(prompt);
    request.sampling.temperature = 0;
    request.stopping.max_tokens = max_tokens;
    request.speculation.mode = DraftMode::kFixed;
    request.speculation.max_draft_tokens = depth;
    return request;
  }

  int32_t right_ = 2;
  FakeTokenizer tokenizer_{{"a", "b", "c"}};
  FakeTrunk trunk_{DraftingInfo(), 64, FakeTrunk::Hash(100)};
  std::unique_ptr<Engine> engine_;
};

TEST_F(DraftedEngine, TokensStepsAndDraftsAreCountedApart) {
  Engine& engine = Start();
  GenerateRequest request = Fixed({1, 2, 3}, 11, 3);
  request.hash_logits = true;
  const auto result = RunGeneration(engine, std::move(request));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->token_ids(), Expected({1, 2, 3}, 11));
  // One token ends the prompt; then 3 + 3 + 3 of steps with 3 drafts, 2 right; one token is left.
  const SpeculationStats& stats = result->end.speculation;
  EXPECT_EQ(stats.method, "mtp");
  EXPECT_EQ(stats.decode_steps, 5);
  EXPECT_EQ(stats.steps, 3);
  EXPECT_EQ(stats.drafted, 9);
  EXPECT_EQ(stats.accepted, 6);
  EXPECT_DOUBLE_EQ(stats.mean_accepted_length(), 3.0);
  EXPECT_EQ(stats.acceptance_histogram, (std::vector<int64_t>{0, 0, 3}));
  EXPECT_EQ(stats.drafted_per_position, (std::vector<int64_t>{3, 3, 3}));
  EXPECT_EQ(stats.accepted_per_position, (std::vector<int64_t>{3, 3, 0})) << "as deep as drafts were";
  ASSERT_EQ(stats.sources.size(), 1u);
  EXPECT_EQ(stats.sources[0].name, "mtp");
  std::string marks;
  for (const GeneratedToken& token : result->tokens) marks += token.drafted ? 'd' : '.';
  EXPECT_EQ(marks, ".dd.dd.dd..");
  EXPECT_EQ(result->end.logits_hash, "000000000000000b") << "eleven rows";
  EXPECT_EQ(engine.stats().tokens, 11);
  EXPECT_EQ(trunk_.live(), 0);
}

TEST_F(DraftedEngine, AStopInsideTheWindowDropsTheRest) {
  right_ = 8;
  Engine& engine = Start();
  const std::vector<TokenId> expected = Expected({5, 6}, 40);
  for (size_t at = 1; at < 12; ++at) {
    const TokenId stop = expected[at];
    if (std::find(expected.begin(), expected.begin() + static_cast<int64_t>(at), stop) !=
        expected.begin() + static_cast<int64_t>(at)) {
      continue;
    }
    GenerateRequest request = Fixed({5, 6}, 40, 8);
    request.stopping.stop_token_ids = {stop};
    request.hash_logits = true;
    const int64_t before = engine.stats().tokens;
    const auto result = RunGeneration(engine, std::move(request));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->end.reason, FinishReason::kStop);
    EXPECT_EQ(result->token_ids(),
              (std::vector<TokenId>{expected.begin(), expected.begin() + static_cast<int64_t>(at) + 1}));
    EXPECT_EQ(result->end.usage.completion_tokens, static_cast<int64_t>(at) + 1);
    EXPECT_EQ(engine.stats().tokens - before, static_cast<int64_t>(at) + 1);
    EXPECT_EQ(result->end.logits_hash, absl::StrFormat("%016x", at + 1)) << "rows behind the stop count not";
    // Of each step the accepted drafts whose tokens were emitted.
    int64_t marked = 0;
    for (const GeneratedToken& token : result->tokens) marked += token.drafted ? 1 : 0;
    EXPECT_EQ(result->end.speculation.accepted, marked);
    EXPECT_EQ(trunk_.live(), 0);
  }
}

TEST_F(DraftedEngine, EveryStopMeansTheSameInsideAWindow) {
  std::vector<std::string> letters;
  for (int i = 0; i < 100; ++i) letters.emplace_back(1, "abcd"[i % 4]);
  const FakeTokenizer tokenizer(letters);
  SchedulerOptions options;
  options.speculation.calibrate = false;
  engine_ = std::make_unique<Engine>(Engine::Parts{.trunk = &trunk_, .tokenizer = &tokenizer},
                                     GenerationDefaults{}, options);
  engine_->Start();
  std::mt19937 random(7);
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  int by_text = 0, by_token = 0;
  for (int i = 0; i < 60; ++i) {
    GenerateRequest request = Fixed({pick(0, 99), pick(0, 99)}, pick(1, 60), 0);
    request.stopping.min_tokens = std::array{0, 0, 5, 12}[static_cast<size_t>(pick(0, 3))];
    request.stopping.min_tokens =
        std::min<int64_t>(request.stopping.min_tokens, *request.stopping.max_tokens);
    request.stopping.include_stop = pick(0, 1) == 1;
    for (int n = pick(0, 2); n > 0; --n) {
      std::string& stop = request.stopping.stop_strings.emplace_back();
      for (int k = pick(1, 4); k > 0; --k) stop += "abcd"[pick(0, 3)];
    }
    for (int n = pick(0, 3); n > 0; --n) request.stopping.stop_token_ids.push_back(pick(0, 99));
    const auto plain = RunGeneration(*engine_, request);
    ASSERT_TRUE(plain.ok()) << plain.status();
    by_text += plain->end.match.stop_string ? 1 : 0;
    by_token += plain->end.match.stop_token ? 1 : 0;
    for (const int64_t depth : {1, 3, 8}) {
      for (const int32_t right : {0, 2, 8}) {
        right_ = right;
        request.speculation.max_draft_tokens = depth;
        const auto drafted = RunGeneration(*engine_, request);
        ASSERT_TRUE(drafted.ok()) << drafted.status();
        const std::string which = absl::StrFormat("request %d, depth %d, right %d", i, depth, right);
        EXPECT_EQ(drafted->token_ids(), plain->token_ids()) << which;
        std::string text, plain_text;
        for (const GeneratedToken& token : drafted->tokens) text += token.text;
        for (const GeneratedToken& token : plain->tokens) plain_text += token.text;
        EXPECT_EQ(text, plain_text) << which;
        EXPECT_EQ(drafted->end.reason, plain->end.reason) << which;
        EXPECT_EQ(drafted->end.match.stop_string, plain->end.match.stop_string) << which;
        EXPECT_EQ(drafted->end.match.stop_token, plain->end.match.stop_token) << which;
        EXPECT_EQ(drafted->end.usage.completion_tokens, plain->end.usage.completion_tokens) << which;
      }
    }
  }
  EXPECT_GT(by_text, 10);
  EXPECT_GT(by_token, 5);
  engine_->Stop();
}

TEST_F(DraftedEngine, TheTimeLimitCutsBetweenTokens) {
  right_ = 8;
  ManualClock clock;
  trunk_.before_step = [&](const StepPlan&) {
    clock.Advance(std::chrono::seconds(2));
    return absl::OkStatus();
  };
  SchedulerOptions options;
  options.speculation.calibrate = false;
  engine_ = std::make_unique<Engine>(Engine::Parts{.trunk = &trunk_, .clock = &clock}, GenerationDefaults{},
                                     options);
  engine_->Start();
  GenerateRequest request = Fixed({3}, 40, 4);
  request.stopping.time_limit = std::chrono::seconds(5);
  const auto late = RunGeneration(*engine_, request);
  ASSERT_TRUE(late.ok()) << late.status();
  EXPECT_EQ(late->end.reason, FinishReason::kTimeLimit);
  // A token at 2 s, five at 4 s, and of those at 6 s the first.
  EXPECT_EQ(late->token_ids(), Expected({3}, 7));
  EXPECT_EQ(late->end.speculation.accepted, 5);
  EXPECT_EQ(late->end.speculation.drafted_per_position, (std::vector<int64_t>{2, 2, 2, 2}));
  EXPECT_EQ(late->end.speculation.accepted_per_position, (std::vector<int64_t>{2, 1, 1, 1}));
  engine_->Stop();
}

TEST_F(DraftedEngine, CancellationComesBetweenSteps) {
  right_ = 8;
  int steps = 0;
  std::promise<std::shared_ptr<GenerationTicket>> promise;
  const std::shared_future<std::shared_ptr<GenerationTicket>> ticket = promise.get_future().share();
  trunk_.before_step = [&](const StepPlan&) {
    if (++steps == 3) ticket.get()->Cancel();
    return absl::OkStatus();
  };
  SpeculationPolicy policy;
  policy.calibrate = false;
  Engine& engine = Start(policy);
  auto queue = std::make_shared<GenerationQueue>();
  auto submitted = engine.Submit(Fixed({3}, 40, 4), queue);
  ASSERT_TRUE(submitted.ok());
  promise.set_value(*submitted);
  std::vector<TokenId> got;
  for (;;) {
    auto event = queue->Next(Clock::Real().Now() + std::chrono::seconds(60));
    ASSERT_TRUE(event);
    if (const auto* tokens = std::get_if<std::vector<GeneratedToken>>(&*event)) {
      for (const GeneratedToken& token : *tokens) got.push_back(token.id);
    }
    const auto* end = std::get_if<GenerationEnd>(&*event);
    if (end == nullptr) continue;
    EXPECT_EQ(end->reason, FinishReason::kCancelled);
    EXPECT_EQ(end->usage.completion_tokens, 11);
    break;
  }
  EXPECT_EQ(got, Expected({3}, 11)) << "the window that ran is not cut";
  EXPECT_EQ(trunk_.live(), 0);
}

TEST_F(DraftedEngine, OneSinkCallPerStep) {
  Engine& engine = Start();
  auto queue = std::make_shared<GenerationQueue>();
  ASSERT_TRUE(engine.Submit(Fixed({1}, 10, 2), queue).ok());
  std::vector<size_t> sizes;
  for (;;) {
    auto event = queue->Next(Clock::Real().Now() + std::chrono::seconds(60));
    ASSERT_TRUE(event);
    if (const auto* tokens = std::get_if<std::vector<GeneratedToken>>(&*event))
      sizes.push_back(tokens->size());
    if (std::holds_alternative<GenerationEnd>(*event)) break;
  }
  EXPECT_EQ(sizes, (std::vector<size_t>{1, 3, 3, 3}));
}

TEST_F(DraftedEngine, OffMeansOffAndThePolicyIsTheDefault) {
  SpeculationPolicy policy;
  policy.mode = DraftMode::kFixed;
  policy.depth = 4;
  Engine& engine = Start(policy);
  GenerateRequest request = Fixed({7}, 20, 4);
  request.speculation = {};
  EXPECT_TRUE(RunGeneration(engine, request).ok());
  const auto depths = engine.stats().speculation.depths;
  EXPECT_GE(depths[4], 5);
  EXPECT_EQ(depths[5] + depths[6] + depths[7] + depths[8], 0);
  const int64_t before = trunk_.drafted();
  request.speculation.mode = DraftMode::kOff;
  const auto plain = RunGeneration(engine, request);
  EXPECT_EQ(trunk_.drafted(), before);
  EXPECT_EQ(plain->end.speculation.method, "off");
  EXPECT_EQ(plain->token_ids(), Expected({7}, 20));
}

TEST_F(DraftedEngine, AutoMeasuresOnceBeforeTheFirstRequestAndDrafts) {
  right_ = 8;
  trunk_.seconds = [](const StepPlan& plan) {
    double rows = 0, drafts = 0;
    for (const SequenceRows& s : plan.sequences) {
      rows += static_cast<double>(s.tokens.size()) + s.draft_depth;
      drafts = std::max<double>(drafts, s.draft_depth);
    }
    return std::pair{0.01 + 0.0005 * rows, 0.0002 * drafts};
  };
  trunk_.distinct_experts = {3, 200};
  Engine& engine = Start();
  EXPECT_TRUE(engine.Warm(std::chrono::seconds(60)).ok());
  EXPECT_EQ(trunk_.live(), 0) << "measuring leaves nothing behind";
  const int64_t measured = trunk_.steps();
  EXPECT_GT(measured, 30);
  EXPECT_EQ(engine.stats().tokens, 0) << "and is nobody's text";
  GenerateRequest request = Fixed({1, 2}, 400, 1);
  request.speculation = {};
  const auto result = RunGeneration(engine, std::move(request));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->token_ids(), Expected({1, 2}, 400));
  EXPECT_LT(trunk_.steps() - measured, 80) << "drafts that are always right are used to the full";
  EXPECT_EQ(result->end.speculation.method, "mtp");

  MetricsSnapshot now;
  now.engine = engine.stats();
  now.model = engine.info();
  const std::string text = MetricsText(now);
  const SpeculationStats& stats = result->end.speculation;
  const std::string labels = "{engine=\"0\",model_name=\"fake\"} ";
  EXPECT_THAT(text, HasSubstr("# TYPE vllm:spec_decode_num_drafts_total counter"));
  EXPECT_THAT(text,
              HasSubstr("vllm:spec_decode_num_drafts_total" + labels + std::to_string(stats.steps) + "\n"));
  EXPECT_THAT(text, HasSubstr("vllm:spec_decode_num_draft_tokens_total" + labels +
                              std::to_string(stats.drafted) + "\n"));
  EXPECT_THAT(text, HasSubstr("vllm:spec_decode_num_accepted_tokens_total" + labels +
                              std::to_string(stats.accepted) + "\n"));
  EXPECT_THAT(text, HasSubstr("vllm:spec_decode_num_accepted_tokens_per_pos_total{engine=\"0\",model_name="
                              "\"fake\",position=\"0\"} " +
                              std::to_string(stats.accepted_per_position[0]) + "\n"));
  EXPECT_THAT(text, HasSubstr("paceline_spec_decode_num_drafts_total{model=\"fake\",source=\"mtp\"} " +
                              std::to_string(stats.steps) + "\n"));
  EXPECT_THAT(text, HasSubstr("paceline_draft_depth_count{model=\"fake\"} " +
                              std::to_string(stats.decode_steps) + "\n"));
  EXPECT_THAT(text, HasSubstr("paceline_distinct_experts_bucket{layer=\"0\",model=\"fake\",le=\"2\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("paceline_distinct_experts_bucket{layer=\"1\",model=\"fake\",le=\"128\"} 0\n"));
}

TEST_F(DraftedEngine, ADrafterThatBringsNothingIsSoonLeftAlone) {
  trunk_.right_drafts = nullptr;
  std::atomic<int64_t> asked = 0;
  trunk_.before_step = [&](const StepPlan& plan) {
    for (const SequenceRows& rows : plan.sequences) asked += rows.draft_depth > 0 ? 1 : 0;
    return absl::OkStatus();
  };
  Engine& engine = Start();
  ASSERT_TRUE(engine.Warm(std::chrono::seconds(60)).ok());
  const int64_t before = asked;
  GenerateRequest request = Fixed({4, 5}, 120, 1);
  request.speculation = {};
  const auto result = RunGeneration(engine, std::move(request));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->token_ids(), Expected({4, 5}, 120));
  EXPECT_GT(asked - before, 0);
  EXPECT_LE(asked - before, 16);
  EXPECT_EQ(result->end.speculation.method, "off");
}

TEST_F(DraftedEngine, NothingIsMeasuredUntilSomebodyWantsAuto) {
  SpeculationPolicy policy;
  policy.mode = DraftMode::kFixed;
  trunk_.seconds = [](const StepPlan&) { return std::pair{0.001, 0.0001}; };
  Engine& engine = Start(policy);
  EXPECT_TRUE(engine.Warm(std::chrono::seconds(60)).ok());
  EXPECT_EQ(trunk_.steps(), 1);
  EXPECT_EQ(engine.stats().exchange.layers, 0) << "a proof of readiness is no request's";
  GenerateRequest request = Fixed({1, 2}, 9, 8);
  ASSERT_TRUE(RunGeneration(engine, request).ok());
  const int64_t fixed = trunk_.steps();
  EXPECT_EQ(fixed, 1 + 4) << "the prompt, and 3 + 3 + 2 tokens";
  request.speculation.mode = DraftMode::kAuto;
  ASSERT_TRUE(RunGeneration(engine, request).ok());
  const int64_t measured = trunk_.steps() - fixed;
  EXPECT_GT(measured, 30);
  EXPECT_LE(engine.stats().exchange.layers, 4 + 9) << "nor is measuring";
  EXPECT_EQ(engine.stats().exchange.bytes, 100 * engine.stats().exchange.layers);
  const int64_t before = trunk_.steps();
  ASSERT_TRUE(RunGeneration(engine, request).ok());
  EXPECT_LE(trunk_.steps() - before, 9) << "once";
}

TEST_F(DraftedEngine, AFailedMeasurementIsLoggedAndGivenUpAfterThree) {
  std::atomic<int> measured = 0;
  trunk_.before_step = [&](const StepPlan& plan) {
    // Only a measurement has a prompt of eight.
    if (plan.sequences[0].prompt_tokens != 8) return absl::OkStatus();
    ++measured;
    return absl::InternalError("a worker stumbled");
  };
  std::vector<std::string> log;
  SchedulerOptions options;
  engine_ = std::make_unique<Engine>(
      Engine::Parts{.trunk = &trunk_, .log = [&](const std::string& line) { log.push_back(line); }},
      GenerationDefaults{}, options);
  engine_->Start();
  for (int i = 0; i < 5; ++i) {
    GenerateRequest request = Fixed({1, 2}, 9, 1);
    request.speculation = {};
    const auto result = RunGeneration(*engine_, std::move(request));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->token_ids(), Expected({1, 2}, 9));
  }
  engine_->Stop();
  EXPECT_EQ(measured, 3);
  ASSERT_EQ(log.size(), 3u);
  EXPECT_THAT(log[0], HasSubstr("a worker stumbled"));
}

TEST(DraftedEngineParts, AFixedDepthNeedsADrafter) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.draft_refusal = "mtp.fc.weight is missing";
  FakeTrunk trunk(info, 64, FakeTrunk::Hash(100));
  SchedulerOptions options;
  options.speculation.mode = DraftMode::kFixed;
  Engine engine(Engine::Parts{.trunk = &trunk}, GenerationDefaults{}, options);
  GenerateRequest request;
  request.input = std::vector<TokenId>{1};
  request.stopping.max_tokens = 4;
  EXPECT_TRUE(engine.Check(request).ok()) << "the head's own choice is the head's own matter";
  request.speculation.mode = DraftMode::kFixed;
  request.speculation.max_draft_tokens = 0;
  EXPECT_TRUE(engine.Check(request).ok());
  request.speculation.max_draft_tokens = 2;
  const absl::Status refused = engine.Check(request);
  EXPECT_EQ(FactsOf(refused).reason, reasons::kFeatureDisabled);
  EXPECT_EQ(FactsOf(refused).field, "speculation.mode");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("mtp.fc.weight is missing"));
}

class Measured : public ::testing::Test {
 protected:
  absl::StatusOr<std::vector<StepCost>> Costs(CalibrationLimits limits, double step_s) {
    trunk_.right_drafts = [](const SequenceRows&, const std::vector<TokenId>&) { return 0; };
    trunk_.seconds = [this, step_s](const StepPlan& plan) {
      int64_t rows = 0, depth = 0;
      for (const SequenceRows& s : plan.sequences) {
        rows += static_cast<int64_t>(s.tokens.size()) + s.draft_depth;
        depth = std::max<int64_t>(depth, s.draft_depth);
      }
      // Cold at first.
      return std::pair{(trunk_steps_++ < 3 ? 5.0 : 1.0) * step_s * static_cast<double>(9 + rows) / 10,
                       0.1 * step_s * static_cast<double>(depth)};
    };
    auto costs = MeasureStepCosts(
        trunk_, limits, [&] { return SequenceId(next_sequence_++); }, [&] { return StepId(next_step_++); });
    trunk_steps_ = 0;
    EXPECT_EQ(trunk_.live(), 0);
    return costs;
  }
  static std::map<int32_t, std::map<int32_t, StepCost>> ByBatch(const std::vector<StepCost>& costs) {
    std::map<int32_t, std::map<int32_t, StepCost>> out;
    for (const StepCost& cost : costs) out[cost.batch][cost.depth] = cost;
    return out;
  }

  int trunk_steps_ = 0;
  uint64_t next_sequence_ = 1, next_step_ = 1;
  FakeTrunk trunk_{DraftingInfo(), 64, FakeTrunk::Hash(100)};
};

TEST_F(Measured, EveryDepthOfFewSequences) {
  const auto costs = Costs({4, 100, 64, true}, 0.001);
  ASSERT_TRUE(costs.ok()) << costs.status();
  const auto by_batch = ByBatch(*costs);
  ASSERT_EQ(by_batch.size(), 3u);
  for (const auto& [batch, depths] : by_batch) {
    ASSERT_EQ(depths.size(), 9u) << batch;
    for (const auto& [depth, cost] : depths) {
      EXPECT_DOUBLE_EQ(cost.run_s, 0.0001 * (9 + batch * (1 + depth))) << batch << " " << depth;
      EXPECT_DOUBLE_EQ(cost.draft_s, 0.0001 * depth);
    }
  }
}

TEST_F(Measured, SlowStepsLeaveACurveOfOneSequenceAndNoPointAlone) {
  for (const double step_s : {0.05, 0.1, 0.2, 0.5, 2.0}) {
    const auto costs = Costs({4, 100, 64, true}, step_s);
    ASSERT_TRUE(costs.ok()) << costs.status();
    auto by_batch = ByBatch(*costs);
    for (const int32_t depth : {0, 1, 4}) EXPECT_TRUE(by_batch[1].contains(depth)) << step_s << " " << depth;
    for (const auto& [batch, depths] : by_batch) EXPECT_GE(depths.size(), 2u) << step_s << " " << batch;
  }
}

TEST_F(Measured, RowsWithoutTheMtpLayerAsPiecesOfAPrompt) {
  const auto costs = Costs({4, 100, 16, false}, 0.001);
  ASSERT_TRUE(costs.ok()) << costs.status();
  EXPECT_EQ(trunk_.drafted(), 0);
  auto by_batch = ByBatch(*costs);
  EXPECT_EQ(by_batch[1].size(), 9u);
  EXPECT_EQ(by_batch[4].size(), 4u) << "0 to 3: a chunk of 16 rows";
  for (const auto& [depth, cost] : by_batch[1]) EXPECT_DOUBLE_EQ(cost.run_s, 0.0001 * (10 + depth)) << depth;
}

}  // namespace
}  // namespace paceline
