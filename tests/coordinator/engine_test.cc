// The engine over a trunk without a model: concurrency, cancellation, failure of a step and of a row,
// readiness.
#include "coordinator/engine.h"

#include <atomic>
#include <chrono>
#include <semaphore>
#include <thread>

#include "absl/strings/str_format.h"
#include "base/error.h"
#include "coordinator/api_error.h"
#include "coordinator/generation.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fake_tokenizer.h"
#include "tests/coordinator/fake_trunk.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;

constexpr Duration kLimit = std::chrono::seconds(60);  // for waits that a working engine ends at once

class FakeCluster final : public ClusterView {
 public:
  ClusterFacts Facts() const override {
    std::lock_guard lock(mutex_);
    return facts_;
  }
  void Set(ClusterFacts facts) {
    std::lock_guard lock(mutex_);
    facts_ = std::move(facts);
  }

 private:
  mutable std::mutex mutex_;
  ClusterFacts facts_;
};

ClusterFacts TwoNodes() {
  ClusterFacts facts;
  facts.epoch = Epoch(3);
  facts.nodes.resize(3);
  facts.nodes[0].name = "head";
  facts.nodes[0].head = true;
  facts.nodes[1].name = "box";
  facts.nodes[2].name = "box-2";
  return facts;
}

GenerateRequest Ids(std::vector<TokenId> prompt, int64_t max_tokens) {
  GenerateRequest request;
  request.input = std::move(prompt);
  request.sampling.temperature = 0;
  request.stopping.max_tokens = max_tokens;
  return request;
}

std::vector<TokenId> Expected(std::vector<TokenId> prompt, int64_t n) {
  const FakeTrunk::Model model = FakeTrunk::Hash(100);
  std::vector<TokenId> out;
  for (int64_t i = 0; i < n; ++i) {
    out.push_back(model(prompt));
    prompt.push_back(out.back());
  }
  return out;
}

// Waits for the end of a generation whose events go to `queue`.
GenerationEnd Drain(GenerationQueue& queue, int* tokens = nullptr) {
  for (;;) {
    std::optional<GenerationQueue::Event> event = queue.Next(Clock::Real().Now() + kLimit);
    if (!event) {
      ADD_FAILURE() << "no end came";
      return {};
    }
    if (tokens != nullptr && std::holds_alternative<std::vector<GeneratedToken>>(*event)) ++*tokens;
    if (GenerationEnd* end = std::get_if<GenerationEnd>(&*event)) return *end;
  }
}

class EngineTest : public ::testing::Test {
 protected:
  Engine& Start(SchedulerOptions options = {}, GenerationDefaults defaults = {},
                Clock* clock = &Clock::Real()) {
    cluster_.Set(TwoNodes());
    engine_ =
        std::make_unique<Engine>(Engine::Parts{&trunk_, &tokenizer_, &cluster_, clock}, defaults, options);
    engine_->Start();
    return *engine_;
  }
  // Steps run one by one, each after a Step().
  void Gate() {
    trunk_.before_step = [this](const StepPlan&) {
      at_gate_.release();
      gate_.acquire();
      return absl::OkStatus();
    };
  }

  FakeTokenizer tokenizer_{{"a", "b", "c"}};
  FakeTrunk trunk_{FakeTrunk::SmallInfo(), 64, FakeTrunk::Hash(100)};
  FakeCluster cluster_;
  std::counting_semaphore<1 << 20> gate_{0};
  std::counting_semaphore<1 << 20> at_gate_{0};
  std::unique_ptr<Engine> engine_;  // last: its thread ends before what it uses
};

TEST_F(EngineTest, OneRequestTellsEverything) {
  Engine& engine = Start();
  GenerateRequest request = Ids({1, 2, 3}, 10);
  request.hash_logits = true;
  request.logprobs = true;
  request.top = 2;
  const auto result = RunGeneration(engine, std::move(request));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->started.prompt, (std::vector<TokenId>{1, 2, 3}));
  EXPECT_EQ(result->started.model, "fake");
  EXPECT_EQ(result->token_ids(), Expected({1, 2, 3}, 10));
  EXPECT_EQ(result->end.reason, FinishReason::kLength);
  EXPECT_EQ(result->end.usage.prompt_tokens, 3);
  EXPECT_EQ(result->end.usage.completion_tokens, 10);
  EXPECT_EQ(result->end.logits_hash, "000000000000000a") << "ten sampled rows";
  EXPECT_EQ(result->end.nodes, 3);
  EXPECT_EQ(result->end.epoch, Epoch(3));
  EXPECT_EQ(result->end.speculation.method, "off");
  EXPECT_EQ(result->tokens[0].logprob, -0.5f);
  EXPECT_EQ(result->tokens[0].top.size(), 2u);
  EXPECT_EQ(trunk_.live(), 0);
}

TEST_F(EngineTest, TextPromptsAreEncoded) {
  Engine& engine = Start();
  GenerateRequest request = Ids({}, 1);
  request.input = std::string("cab");
  const auto result = RunGeneration(engine, std::move(request));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->started.prompt, (std::vector<TokenId>{2, 0, 1}));
}

TEST_F(EngineTest, SixteenAtOnceGetWhatEachWouldGetAlone) {
  Engine& engine = Start();
  std::vector<std::thread> clients;
  std::atomic<int> right{0};
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&, i] {
      std::vector<TokenId> prompt;
      for (int n = 0; n < 5 + i * 17; ++n) prompt.push_back((i * 3 + n) % 100);
      const auto result = RunGeneration(engine, Ids(prompt, 20 + i));
      if (result.ok() && result->token_ids() == Expected(prompt, 20 + i)) ++right;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 16);
  EXPECT_EQ(trunk_.live(), 0);
  EXPECT_EQ(engine.stats().pages_used, 0);
}

TEST_F(EngineTest, CancelEndsWithinAStepAndFreesTheSlot) {
  Gate();
  Engine& engine = Start();
  auto queue = std::make_shared<GenerationQueue>();
  const auto ticket = engine.Submit(Ids({1}, 1000), queue);
  ASSERT_TRUE(ticket.ok());
  at_gate_.acquire();  // inside the first step
  gate_.release();
  at_gate_.acquire();  // inside the second
  (*ticket)->Cancel();
  gate_.release();  // the second ends; there is no third
  int tokens = 0;
  const GenerationEnd end = Drain(*queue, &tokens);
  EXPECT_TRUE(end.status.ok());
  EXPECT_EQ(end.reason, FinishReason::kCancelled);
  EXPECT_EQ(tokens, 2);
  EXPECT_EQ(trunk_.steps(), 2);
  EXPECT_EQ(trunk_.live(), 0);
  EXPECT_EQ(engine.stats().running, 0);
  EXPECT_EQ(engine.stats().pages_used, 0);
}

TEST_F(EngineTest, ALostWorkerEndsTheRequestsOfTheStepAndTheEngineGoesOn) {
  std::atomic<bool> lose{true};
  trunk_.before_step = [&](const StepPlan&) {
    return lose ? Error(errors::kNodeLost, "worker box-2 is gone (connection reset)") : absl::OkStatus();
  };
  Engine& engine = Start();
  const auto lost = RunGeneration(engine, Ids({1, 2}, 10));
  ASSERT_FALSE(lost.ok());
  EXPECT_EQ(lost.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(lost.status().message()), HasSubstr("box-2"));
  const ErrorFacts facts = FactsOf(lost.status());
  EXPECT_EQ(facts.reason, reasons::kNodeLost);
  EXPECT_EQ(facts.metadata.at("node"), "box-2");
  EXPECT_EQ(facts.metadata.at("rank"), "2");
  lose = false;
  const auto good = RunGeneration(engine, Ids({1, 2}, 10));
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->token_ids(), Expected({1, 2}, 10));
  EXPECT_EQ(engine.stats().pages_used, 0);
}

TEST_F(EngineTest, ARowErrorEndsItsOwnRequestOnly) {
  trunk_.row_error = [](const SequenceRows&, const std::vector<TokenId>& prefix) {
    return prefix[0] == 99 && prefix.size() > 4 ? Error(errors::kNonFinite, "a leaf is not finite")
                                                : absl::OkStatus();
  };
  Engine& engine = Start();
  absl::Status bad_status;
  std::thread bad([&] { bad_status = RunGeneration(engine, Ids({99}, 100)).status(); });
  const auto good = RunGeneration(engine, Ids({1}, 200));
  bad.join();
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->token_ids(), Expected({1}, 200));
  EXPECT_EQ(bad_status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(FactsOf(bad_status).reason, reasons::kNonFinite);
}

TEST_F(EngineTest, RequestsAreCheckedBeforeTheyWait) {
  Engine& engine = Start();
  const auto refused = [&](GenerateRequest request) {
    return engine.Submit(std::move(request), std::make_shared<GenerationQueue>()).status();
  };
  EXPECT_EQ(FactsOf(refused(Ids({}, 1))).field, "token_ids");
  EXPECT_THAT(std::string(refused(Ids({1, 100}, 1)).message()), HasSubstr("id 100 at index 1"));
  EXPECT_EQ(FactsOf(refused(Ids({1}, 1024))).reason, reasons::kContextLength);
  EXPECT_EQ(FactsOf(refused(Ids(std::vector<TokenId>(1024, 1), 1))).reason, reasons::kContextLength);
  GenerateRequest hot = Ids({1}, 1);
  hot.sampling.temperature = -1;
  EXPECT_EQ(FactsOf(refused(hot)).field, "sampling.temperature");
  GenerateRequest text = Ids({1}, 1);
  text.input = std::string();
  EXPECT_EQ(FactsOf(refused(text)).field, "text");
}

TEST_F(EngineTest, ARequestCanBeCheckedBeforeAnythingRuns) {
  ClusterFacts waiting = TwoNodes();
  waiting.degraded = "NET-001: no worker has joined as rank 1 yet";
  cluster_.Set(waiting);
  Engine engine({&trunk_, &tokenizer_, &cluster_}, {}, {});
  EXPECT_TRUE(engine.Check(Ids({1, 2}, 3)).ok());
  EXPECT_THAT(std::string(engine.Check(Ids({1, 100}, 1)).message()), HasSubstr("id 100 at index 1"));
  EXPECT_EQ(FactsOf(engine.Check(Ids({1}, 1024))).reason, reasons::kContextLength);
  EXPECT_EQ(engine.stats().steps, 0);
}

TEST_F(EngineTest, AnAbsentMaxTokensRunsToTheEndOfTheContext) {
  Engine& engine = Start();
  GenerateRequest request = Ids(std::vector<TokenId>(1000, 7), 1);
  request.stopping.max_tokens.reset();
  const auto result = RunGeneration(engine, std::move(request));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->tokens.size(), 24u);
}

TEST_F(EngineTest, TheQueueIsBounded) {
  Gate();
  SchedulerOptions options;
  options.max_waiting = 2;
  options.max_sequences = 1;
  Engine& engine = Start(options);
  std::vector<std::shared_ptr<GenerationQueue>> queues;
  for (int i = 0; i < 3; ++i) {
    queues.push_back(std::make_shared<GenerationQueue>());
    ASSERT_TRUE(engine.Submit(Ids({1}, 1), queues.back()).ok());
    if (i == 0) at_gate_.acquire();  // the first is inside its step, the rest must wait
  }
  // Refused at the door: what is wrong with the request has not been looked at.
  const absl::Status full = engine.Submit(Ids({}, 1), std::make_shared<GenerationQueue>()).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(FactsOf(full).reason, reasons::kQueueFull);
  gate_.release(1000);
  for (const auto& queue : queues) EXPECT_TRUE(Drain(*queue).status.ok());
  EXPECT_TRUE(RunGeneration(engine, Ids({1}, 1)).ok()) << "there is room again";
}

TEST_F(EngineTest, OneKeyLeavesRoomForOthers) {
  Gate();
  SchedulerOptions options;
  options.max_waiting = 4;
  options.max_waiting_per_key = 1;
  options.max_sequences = 1;
  Engine& engine = Start(options);
  std::vector<std::shared_ptr<GenerationQueue>> queues;
  const auto submit = [&](const std::string& key) {
    GenerateRequest request = Ids({1}, 1);
    request.key = key;
    queues.push_back(std::make_shared<GenerationQueue>());
    return engine.Submit(std::move(request), queues.back()).status();
  };
  ASSERT_TRUE(submit("a").ok());
  at_gate_.acquire();
  ASSERT_TRUE(submit("a").ok());
  EXPECT_EQ(FactsOf(submit("a")).reason, reasons::kQueueFull);
  queues.pop_back();
  ASSERT_TRUE(submit("b").ok());
  gate_.release(1000);
  for (const auto& queue : queues) EXPECT_TRUE(Drain(*queue).status.ok());
}

TEST_F(EngineTest, AQueueLimitEndsTheWait) {
  ManualClock clock;
  Gate();
  SchedulerOptions options;
  options.max_sequences = 1;
  options.queue_limit = std::chrono::seconds(5);
  Engine& engine = Start(options, {}, &clock);
  auto runs = std::make_shared<GenerationQueue>();
  auto waits = std::make_shared<GenerationQueue>();
  auto patient = std::make_shared<GenerationQueue>();
  ASSERT_TRUE(engine.Submit(Ids({1}, 3), runs).ok());
  at_gate_.acquire();
  ASSERT_TRUE(engine.Submit(Ids({2}, 3), waits).ok());
  GenerateRequest own = Ids({3}, 3);
  own.stopping.queue_limit = std::chrono::seconds(50);
  ASSERT_TRUE(engine.Submit(std::move(own), patient).ok());
  clock.Advance(std::chrono::seconds(6));
  gate_.release(1000);
  const GenerationEnd end = Drain(*waits);
  EXPECT_EQ(end.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(FactsOf(end.status).reason, reasons::kQueueTimeout);
  EXPECT_TRUE(Drain(*runs).status.ok()) << "what runs has waited enough";
  EXPECT_TRUE(Drain(*patient).status.ok());
}

TEST_F(EngineTest, PreemptedStreamsRepeatNothing) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.pages = 4;
  FakeTrunk trunk(info, 64, FakeTrunk::Hash(100));
  Engine engine({&trunk, &tokenizer_, &cluster_}, {}, {});
  engine.Start();
  std::vector<std::thread> clients;
  std::atomic<int> right{0};
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&, i] {
      std::vector<TokenId> prompt;
      for (int n = 0; n < 40 + i * 17; ++n) prompt.push_back((i * 3 + n) % 100);
      GenerateRequest request = Ids(prompt, 300 + i);
      request.priority = i % 3;
      request.hash_logits = true;
      const auto result = RunGeneration(engine, std::move(request));
      if (result.ok() && result->token_ids() == Expected(prompt, 300 + i) &&
          result->end.logits_hash == absl::StrFormat("%016x", 300 + i))
        ++right;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 8);
  EXPECT_GT(engine.stats().scheduling.preemptions, 0);
  EXPECT_EQ(engine.stats().pages_used, 0);
  EXPECT_EQ(trunk.live(), 0);
}

// A generation and the scores of its prompt.
class ScoredQueue final : public GenerationSink {
 public:
  void OnStarted(const GenerationStarted&) override {}
  void OnPrompt(std::vector<PromptToken> tokens) override {
    EXPECT_TRUE(prompt.empty()) << "told twice";
    EXPECT_EQ(generated, 0) << "told behind the first token";
    prompt = std::move(tokens);
  }
  void OnTokens(std::vector<GeneratedToken> tokens) override { generated += tokens.size(); }
  void OnFinished(const GenerationEnd& end) override { done.set_value(end.status); }

  std::vector<PromptToken> prompt;
  size_t generated = 0;
  std::promise<absl::Status> done;
};

// Prompts that have to stop in the middle, and some behind a text that is cached, are scored row by row, each
// row once.
TEST_F(EngineTest, AScoredPromptSurvivesGivingWay) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.pages = 4;
  info.snapshots = 4;
  FakeTrunk trunk(info, 64, FakeTrunk::Hash(100));
  Engine engine({&trunk, &tokenizer_, &cluster_}, {}, {});
  engine.Start();
  std::vector<std::thread> clients;
  for (int i = 0; i < 12; ++i) {
    clients.emplace_back([&, i] {
      std::vector<TokenId> prompt;
      for (int n = 0; n < 1 + i * 60; ++n) prompt.push_back((n * 7 + n / 9) % 100);  // they begin alike
      GenerateRequest request = Ids(prompt, 300 + i);
      request.priority = i % 4;
      if (i % 3 != 0) request.prompt_top = i % 2;
      const auto queue = std::make_shared<ScoredQueue>();
      ASSERT_TRUE(engine.Submit(std::move(request), queue).ok());
      ASSERT_TRUE(queue->done.get_future().get().ok());
      EXPECT_EQ(queue->generated, static_cast<size_t>(300 + i));
      ASSERT_EQ(queue->prompt.size(), i % 3 != 0 ? prompt.size() : 0u);
      for (size_t n = 1; n < queue->prompt.size(); ++n) {
        EXPECT_EQ(queue->prompt[n].id, prompt[n]);
        EXPECT_EQ(queue->prompt[n].logprob, FakeTrunk::ScoreOf(prompt[n - 1], prompt[n])) << n;
        EXPECT_EQ(queue->prompt[n].top.size(), static_cast<size_t>(i % 2));
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GT(engine.stats().scheduling.preemptions, 0);
  EXPECT_EQ(engine.stats().pages_used, 0);
  EXPECT_EQ(trunk.live(), 0);
}

TEST_F(EngineTest, TheNextTurnGoesOnFromTheLast) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.snapshots = 8;
  FakeTrunk trunk(info, 64, FakeTrunk::Hash(100));
  Engine engine({&trunk, &tokenizer_, &cluster_}, {}, {});
  engine.Start();
  std::vector<TokenId> prompt;
  for (int n = 0; n < 300; ++n) prompt.push_back(n % 100);
  auto turn = RunGeneration(engine, Ids(prompt, 300));
  ASSERT_TRUE(turn.ok());
  EXPECT_EQ(turn->started.cached_tokens, 0);
  const std::vector<TokenId> answer = turn->token_ids();
  std::vector<TokenId> longer = prompt;
  longer.insert(longer.end(), answer.begin(), answer.end());
  longer.push_back(7);
  for (int round = 0; round < 2; ++round) {
    turn = RunGeneration(engine, Ids(longer, 20));
    ASSERT_TRUE(turn.ok());
    EXPECT_EQ(turn->token_ids(), Expected(longer, 20));
    EXPECT_EQ(turn->started.cached_tokens, 512) << "two pages, one of them mostly generated";
    EXPECT_EQ(turn->end.usage.cached_prompt_tokens, 512);
  }
  GenerateRequest other = Ids(longer, 20);
  other.cache.salt = "another";
  turn = RunGeneration(engine, std::move(other));
  EXPECT_EQ(turn->started.cached_tokens, 0);
  EXPECT_EQ(turn->token_ids(), Expected(longer, 20));
  other = Ids(longer, 20);
  other.key = "somebody";
  EXPECT_EQ(RunGeneration(engine, std::move(other))->started.cached_tokens, 0);
  other = Ids(longer, 20);
  other.cache.bypass = true;
  EXPECT_EQ(RunGeneration(engine, std::move(other))->started.cached_tokens, 0);
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.scheduling.prefix_hits, 1024);
  EXPECT_EQ(stats.scheduling.prefix_queries, 300 + 4 * 601);
  EXPECT_EQ(stats.pages_used, 0);
  // A proof of readiness takes a page nobody's text is in.
  ASSERT_TRUE(engine.Warm(kLimit).ok());
  EXPECT_EQ(RunGeneration(engine, Ids(longer, 20))->started.cached_tokens, 512);
}

TEST_F(EngineTest, WarmDrawsATokenAndProbesInTheSameStep) {
  Engine& engine = Start();
  EXPECT_TRUE(engine.Warm(kLimit).ok());
  EXPECT_EQ(trunk_.steps(), 1);
  EXPECT_EQ(trunk_.probes(), 1);
  EXPECT_EQ(trunk_.live(), 0);
}

TEST_F(EngineTest, WarmJoinsWhatRunsAndWaitsForAToken) {
  Gate();
  SchedulerOptions options;
  options.prefill_chunk = 4;
  Engine& engine = Start(options);
  auto queue = std::make_shared<GenerationQueue>();
  ASSERT_TRUE(engine.Submit(Ids(std::vector<TokenId>(12, 5), 2), queue).ok());
  at_gate_.acquire();
  absl::Status warm;
  std::thread asker([&] { warm = engine.Warm(kLimit); });
  gate_.release(1000);
  asker.join();
  EXPECT_TRUE(warm.ok()) << warm;
  EXPECT_GE(trunk_.probes(), 1);
  EXPECT_TRUE(Drain(*queue).status.ok());
}

TEST_F(EngineTest, WarmSaysWhoDidNotAnswer) {
  trunk_.before_step = [](const StepPlan& plan) {
    return plan.probe_workers ? Error(errors::kNodeLost, "worker box did not answer") : absl::OkStatus();
  };
  Engine& engine = Start();
  const absl::Status warm = engine.Warm(kLimit);
  EXPECT_EQ(warm.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(FactsOf(warm).metadata.at("node"), "box");
}

TEST_F(EngineTest, ADegradedClusterTakesNothingAndDropsWhatWaits) {
  Gate();
  SchedulerOptions options;
  options.max_sequences = 1;
  Engine& engine = Start(options);
  auto running = std::make_shared<GenerationQueue>();
  auto waiting = std::make_shared<GenerationQueue>();
  ASSERT_TRUE(engine.Submit(Ids({1}, 3), running).ok());
  at_gate_.acquire();
  ASSERT_TRUE(engine.Submit(Ids({2}, 3), waiting).ok());
  ClusterFacts facts = TwoNodes();
  facts.degraded = "expert 3 of layer 0 has no holder since worker box was lost";
  cluster_.Set(facts);
  const absl::Status refused = engine.Submit(Ids({3}, 3), std::make_shared<GenerationQueue>()).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(FactsOf(refused).reason, reasons::kNodeLost);
  EXPECT_EQ(FactsOf(refused).metadata.at("node"), "box");
  gate_.release(1000);
  EXPECT_EQ(Drain(*waiting).status.code(), absl::StatusCode::kUnavailable);
  Drain(*running);
}

TEST_F(EngineTest, StopEndsWhatRuns) {
  Gate();
  Engine& engine = Start();
  auto queue = std::make_shared<GenerationQueue>();
  ASSERT_TRUE(engine.Submit(Ids({1}, 1000), queue).ok());
  at_gate_.acquire();
  std::thread stopper([&] { engine.Stop(); });
  // The step is held until the engine refuses new requests, so the request cannot end on its own first.
  const auto refusal = [&] {
    return engine.Submit(Ids({1}, 1), std::make_shared<GenerationQueue>()).status();
  };
  while (FactsOf(refusal()).reason != reasons::kDraining) std::this_thread::yield();
  gate_.release(1 << 19);
  stopper.join();
  const GenerationEnd end = Drain(*queue);
  EXPECT_EQ(FactsOf(end.status).reason, reasons::kDraining);
  EXPECT_EQ(FactsOf(engine.Submit(Ids({1}, 1), queue).status()).reason, reasons::kDraining);
  EXPECT_EQ(trunk_.live(), 0);
}

TEST_F(EngineTest, TheTimeLimitIsAReasonAfterTokensAndAnErrorBefore) {
  ManualClock clock;
  Gate();
  Engine& engine = Start({}, {}, &clock);
  GenerateRequest request = Ids({1}, 300);
  request.stopping.time_limit = std::chrono::seconds(5);
  auto queue = std::make_shared<GenerationQueue>();
  ASSERT_TRUE(engine.Submit(request, queue).ok());
  at_gate_.acquire();
  gate_.release();
  at_gate_.acquire();  // one token is out
  clock.Advance(std::chrono::seconds(6));
  gate_.release();
  const GenerationEnd end = Drain(*queue);
  EXPECT_TRUE(end.status.ok());
  EXPECT_EQ(end.reason, FinishReason::kTimeLimit);
  EXPECT_EQ(end.usage.completion_tokens, 2);

  request.input = std::vector<TokenId>(200, 1);  // several chunks before the first token
  ASSERT_TRUE(engine.Submit(request, queue).ok());
  at_gate_.acquire();
  clock.Advance(std::chrono::seconds(6));
  gate_.release();
  EXPECT_EQ(Drain(*queue).status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(EngineTest, LinksAreMeasuredWithTheProofAndEveryTenSeconds) {
  ManualClock clock;
  Engine& engine = Start({}, {}, &clock);
  const auto run = [&engine] { ASSERT_TRUE(RunGeneration(engine, Ids({1}, 3)).ok()); };
  using Measured = std::pair<int64_t, int64_t>;
  run();
  EXPECT_EQ(trunk_.links_measured(), Measured(0, 0)) << "nobody has shown that the workers answer";
  ASSERT_TRUE(engine.Warm(kLimit).ok());
  EXPECT_EQ(trunk_.links_measured(), Measured(1, 0));
  clock.Advance(std::chrono::seconds(9));
  run();
  run();
  EXPECT_EQ(trunk_.links_measured(), Measured(1, 0));
  clock.Advance(std::chrono::seconds(1));
  run();
  run();  // what comes behind the last step of the first is done by now
  EXPECT_EQ(trunk_.links_measured(), Measured(1, 1));
}

TEST_F(EngineTest, EosEndsUnlessIgnored) {
  GenerationDefaults defaults;
  defaults.eos_token_ids = {Expected({4, 4}, 6).back()};
  Engine& engine = Start({}, defaults);
  const auto stopped = RunGeneration(engine, Ids({4, 4}, 30));
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ(stopped->end.reason, FinishReason::kStop);
  EXPECT_EQ(stopped->end.match.eos_token, defaults.eos_token_ids[0]);
  EXPECT_LE(stopped->tokens.size(), 6u);
  GenerateRequest ignoring = Ids({4, 4}, 30);
  ignoring.stopping.ignore_eos = true;
  EXPECT_EQ(RunGeneration(engine, std::move(ignoring))->tokens.size(), 30u);
}

}  // namespace
}  // namespace paceline
