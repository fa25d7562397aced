// Properties of the scheduler over random traffic, judged by the checking trunk: what comes out of a batch is
// what each sequence would have got alone, and every slot and page comes home.
#include "coordinator/scheduler.h"

#include <map>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fake_trunk.h"

namespace paceline {
namespace {

SequenceSpec Spec(uint64_t id, int64_t prompt, int64_t max_tokens) {
  SequenceSpec spec;
  spec.id = SequenceId(id);
  for (int64_t i = 0; i < prompt; ++i)
    spec.prompt.push_back(static_cast<TokenId>((id * 7 + static_cast<uint64_t>(i) * 13) % 100));
  spec.max_tokens = max_tokens;
  return spec;
}

std::vector<TokenId> Alone(const SequenceSpec& spec) {
  const FakeTrunk::Model model = FakeTrunk::Hash(100);
  std::vector<TokenId> tokens = spec.prompt;
  for (int64_t i = 0; i < spec.max_tokens; ++i) tokens.push_back(model(tokens));
  return {tokens.begin() + static_cast<int64_t>(spec.prompt.size()), tokens.end()};
}

TEST(Scheduler, RandomTrafficGivesEverySequenceItsOwnTokens) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](int low, int high) {
      return std::uniform_int_distribution<int>(low, high)(random);
    };
    TrunkInfo info = FakeTrunk::SmallInfo();
    info.slots = pick(1, 6);
    info.pages = pick(4, 16);
    SchedulerOptions options;
    options.prefill_chunk = pick(1, 70);
    options.max_rows = pick(0, 1) == 1 ? pick(1, 20) : 0;
    options.max_sequences = pick(0, 3);
    FakeTrunk trunk(info, options.prefill_chunk, FakeTrunk::Hash(info.vocab));
    Scheduler scheduler(info, options);

    std::map<SequenceId, SequenceSpec> specs;
    std::map<SequenceId, std::vector<TokenId>> got;
    std::map<SequenceId, bool> started;
    uint64_t next_id = 1;
    int to_admit = 25;
    uint64_t step = 1;
    while (to_admit > 0 || !scheduler.idle()) {
      while (to_admit > 0 && pick(0, 2) > 0) {
        SequenceSpec spec = Spec(next_id++, pick(1, 300), pick(1, 40));
        specs[spec.id] = spec;
        ASSERT_TRUE(scheduler.Admit(spec).ok());
        --to_admit;
      }
      for (const SequenceId id : scheduler.Start()) started[id] = true;
      EXPECT_LE(scheduler.running(), scheduler.max_running());
      // Now and then somebody leaves before the end.
      if (!specs.empty() && pick(0, 9) == 0) {
        const SequenceId id(static_cast<uint64_t>(pick(1, static_cast<int>(next_id))));
        if (scheduler.Remove(id)) {
          if (started[id]) trunk.Release(id);
          specs.erase(id);
        }
      }
      const StepPlan plan = scheduler.Plan(StepId(step++));
      int64_t rows = 0;
      for (const SequenceRows& s : plan.sequences) rows += static_cast<int64_t>(s.tokens.size());
      EXPECT_TRUE(options.max_rows == 0 || rows <= options.max_rows);
      EXPECT_EQ(plan.sequences.empty(), scheduler.running() == 0) << "whoever runs makes progress";
      if (plan.sequences.empty()) continue;
      auto result = trunk.Run(plan);
      ASSERT_TRUE(result.ok());
      for (const StepOutcome& outcome : scheduler.Apply(plan, *std::move(result))) {
        std::vector<TokenId>& tokens = got[outcome.id];
        for (const RowResult& row : outcome.rows) tokens.push_back(row.token);
        if (static_cast<int64_t>(tokens.size()) == specs.at(outcome.id).max_tokens) {
          EXPECT_TRUE(scheduler.Remove(outcome.id));
          trunk.Release(outcome.id);
        }
      }
      ASSERT_LT(step, 100000u) << "no end in sight";
    }
    for (const auto& [id, spec] : specs)
      EXPECT_EQ(got[id], Alone(spec)) << "seed " << seed << " sequence " << id;
    EXPECT_EQ(scheduler.pages_used(), 0) << "every page comes home";
    EXPECT_EQ(trunk.live(), 0);
  }
}

TEST(Scheduler, DecodesDuringALongPrompt) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  Scheduler scheduler(info, {.prefill_chunk = 16});
  FakeTrunk trunk(info, 16, FakeTrunk::Hash(info.vocab));
  ASSERT_TRUE(scheduler.Admit(Spec(1, 4, 100)).ok());
  scheduler.Start();
  uint64_t step = 1;
  const auto run = [&] {
    const StepPlan plan = scheduler.Plan(StepId(step++));
    return scheduler.Apply(plan, *trunk.Run(plan));
  };
  run();
  ASSERT_TRUE(scheduler.Admit(Spec(2, 100, 5)).ok());
  scheduler.Start();
  for (int i = 0; i < 6; ++i) {  // 6 chunks of 16 leave 4 of 100
    const std::vector<StepOutcome> outcomes = run();
    ASSERT_EQ(outcomes.size(), 2u);
    EXPECT_EQ(outcomes[0].id, SequenceId(1));
    EXPECT_EQ(outcomes[0].rows.size(), 1u) << "a prompt never delays a decode row";
    EXPECT_TRUE(outcomes[1].rows.empty());
  }
  EXPECT_EQ(run()[1].rows.size(), 1u);
}

TEST(Scheduler, WaitsForPagesInOrderAndRefusesBeyondTheQueue) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.pages = 4;
  Scheduler scheduler(info, {.max_waiting = 3});
  EXPECT_EQ(scheduler.context(), 1024);
  ASSERT_TRUE(scheduler.Admit(Spec(1, 257, 300)).ok());  // 556 positions, 3 pages
  ASSERT_TRUE(scheduler.Admit(Spec(2, 256, 2)).ok());    // 2 pages
  ASSERT_TRUE(scheduler.Admit(Spec(3, 10, 1)).ok());     // would fit, but it is behind 2
  const absl::Status full = scheduler.Admit(Spec(4, 1, 1));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), ::testing::HasSubstr("REQ-004"));
  EXPECT_EQ(scheduler.Start(), std::vector<SequenceId>{SequenceId(1)});
  EXPECT_TRUE(scheduler.Start().empty());
  EXPECT_TRUE(scheduler.Remove(SequenceId(1)));
  EXPECT_EQ(scheduler.Start(), (std::vector<SequenceId>{SequenceId(2), SequenceId(3)}));
  EXPECT_EQ(scheduler.pages_used(), 3);
}

TEST(Scheduler, TheLastTokenNeedsNoPosition) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  Scheduler scheduler(info, {});
  ASSERT_TRUE(scheduler.Admit(Spec(1, 256, 1)).ok());
  scheduler.Start();
  EXPECT_EQ(scheduler.pages_used(), 1);
}

TEST(Scheduler, FewPagesBoundTheContext) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.pages = 2;
  EXPECT_EQ(Scheduler(info, {}).context(), 512);
}

}  // namespace
}  // namespace paceline
