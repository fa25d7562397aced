// Properties of the scheduler over random traffic, judged by the checking trunk: what comes out of a batch is
// what each sequence would have got alone, and every slot and page comes home.
#include "coordinator/scheduler.h"

#include <map>
#include <optional>
#include <random>
#include <set>

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
        scheduler.Admit(spec);
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
  scheduler.Admit(Spec(1, 4, 100));
  scheduler.Start();
  uint64_t step = 1;
  const auto run = [&] {
    const StepPlan plan = scheduler.Plan(StepId(step++));
    return scheduler.Apply(plan, *trunk.Run(plan));
  };
  run();
  scheduler.Admit(Spec(2, 100, 5));
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

// One sequence after another in the order of Start; runs a step.
class SchedulerSteps : public ::testing::Test {
 protected:
  void Make(TrunkInfo info, SchedulerOptions options = {}) {
    trunk_.emplace(info, options.prefill_chunk, FakeTrunk::Hash(info.vocab));
    scheduler_.emplace(info, options);
  }
  std::vector<StepOutcome> Step() {
    plan_ = scheduler_->Plan(StepId(++step_));
    auto result = trunk_->Run(plan_);
    EXPECT_TRUE(result.ok());
    std::vector<StepOutcome> outcomes = scheduler_->Apply(plan_, *std::move(result));
    for (const StepOutcome& outcome : outcomes) {
      for (const RowResult& row : outcome.rows) got_[outcome.id].push_back(row.token);
    }
    return outcomes;
  }
  // Rows that the last plan gave a sequence.
  int64_t RowsOf(uint64_t id) const {
    for (const SequenceRows& rows : plan_.sequences) {
      if (rows.sequence == SequenceId(id)) return static_cast<int64_t>(rows.tokens.size());
    }
    return 0;
  }
  void End(uint64_t id) {
    EXPECT_TRUE(scheduler_->Remove(SequenceId(id)));
    trunk_->Release(SequenceId(id));
  }

  std::optional<FakeTrunk> trunk_;
  std::optional<Scheduler> scheduler_;
  StepPlan plan_;
  uint64_t step_ = 0;
  std::map<SequenceId, std::vector<TokenId>> got_;
};

std::vector<SequenceId> Ids(std::initializer_list<uint64_t> ids) {
  std::vector<SequenceId> out;
  for (const uint64_t id : ids) out.push_back(SequenceId(id));
  return out;
}

TEST_F(SchedulerSteps, PromptsWaitForPagesInOrder) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.pages = 4;
  Make(info);
  EXPECT_EQ(scheduler_->context(), 1024);
  scheduler_->Admit(Spec(1, 520, 100));  // 3 pages
  scheduler_->Admit(Spec(2, 256, 2));    // 2 pages with the next token's
  scheduler_->Admit(Spec(3, 10, 1));     // would fit, but it is behind 2
  EXPECT_EQ(scheduler_->Start(), Ids({1}));
  EXPECT_TRUE(scheduler_->Start().empty());
  EXPECT_TRUE(scheduler_->Remove(SequenceId(1)));
  EXPECT_EQ(scheduler_->Start(), Ids({2, 3}));
  EXPECT_EQ(scheduler_->pages_used(), 0) << "pages are taken by rows";
  Step();
  EXPECT_EQ(scheduler_->pages_used(), 2);
}

TEST_F(SchedulerSteps, TheLastTokenNeedsNoPosition) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.pages = 1;
  Make(info, {.prefill_chunk = 256});
  // The last token of all is never run.
  scheduler_->Admit(Spec(1, 255, 1));
  scheduler_->Start();
  EXPECT_EQ(Step()[0].rows.size(), 1u);
  EXPECT_EQ(scheduler_->pages_used(), 1);
}

TEST_F(SchedulerSteps, TheYoungestGivesWayAndComesBackWithTheSameText) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.pages = 3;
  Make(info, {.prefill_chunk = 512});
  scheduler_->Admit(Spec(1, 250, 400));  // grows to 3 pages
  scheduler_->Admit(Spec(2, 200, 300));  // to 2
  EXPECT_EQ(scheduler_->Start(), Ids({1, 2}));
  int64_t stood_still = 0;
  while (scheduler_->counters().preemptions == 0) {
    Step();
    stood_still += RowsOf(2) == 0 ? 1 : 0;
    ASSERT_LT(step_, 1000u);
  }
  EXPECT_EQ(plan_.suspended, Ids({2}));
  EXPECT_GT(stood_still, 100) << "without a second page it keeps the first until that is wanted";
  const size_t before = got_[SequenceId(2)].size();
  EXPECT_GT(before, 50u);
  while (got_[SequenceId(1)].size() < 400) {
    EXPECT_TRUE(scheduler_->Start().empty());
    Step();
  }
  EXPECT_EQ(got_[SequenceId(2)].size(), before);
  End(1);
  EXPECT_TRUE(scheduler_->Start().empty()) << "it has started before";
  EXPECT_EQ(scheduler_->running(), 1);
  Step();
  EXPECT_EQ(RowsOf(2), 200 + static_cast<int64_t>(before)) << "the prompt and what it had generated";
  while (got_[SequenceId(2)].size() < 300) Step();
  EXPECT_EQ(got_[SequenceId(1)], Alone(Spec(1, 250, 400)));
  EXPECT_EQ(got_[SequenceId(2)], Alone(Spec(2, 200, 300)));
}

TEST_F(SchedulerSteps, AHigherPriorityTakesThePlaceOfALowerOne) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.slots = 2;
  Make(info);
  const auto admit = [&](uint64_t id, int32_t priority) {
    SequenceSpec spec = Spec(id, 30, 20);
    spec.priority = priority;
    scheduler_->Admit(std::move(spec));
  };
  admit(1, 0);
  admit(2, -1);
  admit(3, -1);
  EXPECT_EQ(scheduler_->Start(), Ids({1, 2}));
  for (int i = 0; i < 5; ++i) Step();
  admit(4, 0);  // the same as 1: takes the place of 2
  admit(5, 0);  // nobody is lower than it now
  EXPECT_EQ(scheduler_->Start(), Ids({4}));
  EXPECT_EQ(scheduler_->counters().preemptions, 1);
  Step();
  EXPECT_EQ(plan_.suspended, Ids({2}));
  EXPECT_EQ(RowsOf(1), 1);
  EXPECT_EQ(RowsOf(4), 30);
  End(1);
  EXPECT_EQ(scheduler_->Start(), Ids({5}));
  End(4);
  EXPECT_TRUE(scheduler_->Start().empty()) << "2 comes back before 3, and has started before";
  Step();
  EXPECT_GT(RowsOf(2), 30) << "its prompt and what it had generated";
  while (got_[SequenceId(2)].size() < 20) Step();
  EXPECT_EQ(got_[SequenceId(2)], Alone(Spec(2, 30, 20)));
}

TEST_F(SchedulerSteps, KeysAreServedAlike) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.slots = 1;
  Make(info);
  const auto admit = [&](uint64_t id, const std::string& key) {
    SequenceSpec spec = Spec(id, 10, 5);
    spec.key = key;
    scheduler_->Admit(std::move(spec));
  };
  for (uint64_t id = 1; id <= 6; ++id) admit(id, "many");
  admit(7, "few");
  admit(8, "few");
  std::vector<uint64_t> order;
  for (int i = 0; i < 8; ++i) {
    const std::vector<SequenceId> started = scheduler_->Start();
    ASSERT_EQ(started.size(), 1u);
    order.push_back(started[0].value());
    while (got_[started[0]].size() < 5) Step();
    End(started[0].value());
  }
  EXPECT_THAT(order, ::testing::ElementsAre(1, 7, 2, 8, 3, 4, 5, 6));
}

TEST_F(SchedulerSteps, AKeyThatWasAwayHasNothingSavedUp) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.slots = 1;
  Make(info);
  const auto admit = [&](uint64_t id, const std::string& key) {
    SequenceSpec spec = Spec(id, 10, 5);
    spec.key = key;
    scheduler_->Admit(std::move(spec));
  };
  const auto run = [&] {
    const std::vector<SequenceId> started = scheduler_->Start();
    EXPECT_EQ(started.size(), 1u);
    while (got_[started[0]].size() < 5) Step();
    End(started[0].value());
    return started[0].value();
  };
  for (uint64_t id = 1; id <= 6; ++id) admit(id, "stays");
  for (uint64_t id = 1; id <= 3; ++id) EXPECT_EQ(run(), id);
  for (uint64_t id = 10; id <= 13; ++id) admit(id, "comes");
  std::vector<uint64_t> order;
  for (int i = 0; i < 4; ++i) order.push_back(run());
  EXPECT_THAT(order, ::testing::ElementsAre(4, 10, 5, 11)) << "in turns from here on";
}

TEST_F(SchedulerSteps, ALongPromptHoldsUpNoShortOne) {
  Make(FakeTrunk::SmallInfo(), {.prefill_chunk = 64});
  scheduler_->Admit(Spec(1, 900, 5));
  scheduler_->Admit(Spec(2, 60, 5));
  scheduler_->Admit(Spec(3, 20, 5));
  scheduler_->Start();
  Step();
  EXPECT_EQ(RowsOf(1), 32);
  EXPECT_EQ(RowsOf(3), 20) << "the shortest first";
  EXPECT_EQ(RowsOf(2), 12);
  Step();
  EXPECT_EQ(RowsOf(1), 32);
  EXPECT_EQ(RowsOf(2), 32);
  Step();
  EXPECT_EQ(RowsOf(2), 16);
  EXPECT_EQ(RowsOf(1), 48) << "what is left goes back to the first";
}

TEST_F(SchedulerSteps, DecodingLeavesRowsToPrompts) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.slots = 8;
  Make(info, {.prefill_chunk = 64, .max_rows = 4});
  EXPECT_EQ(scheduler_->max_running(), 4);
  for (uint64_t id = 1; id <= 3; ++id) scheduler_->Admit(Spec(id, 2, 500));
  scheduler_->Start();
  for (int i = 0; i < 10; ++i) Step();
  scheduler_->Admit(Spec(4, 10, 5));
  scheduler_->Start();
  for (int i = 0; i < 10; ++i) {
    Step();
    EXPECT_EQ(RowsOf(4), 1);
  }
  EXPECT_EQ(got_[SequenceId(4)].size(), 1u);
}

TEST(Scheduler, FewPagesBoundTheContext) {
  TrunkInfo info = FakeTrunk::SmallInfo();
  info.pages = 2;
  EXPECT_EQ(Scheduler(info, {}).context(), 512);
}

}  // namespace
}  // namespace paceline
