// Too many requests for too few slots, pages and snapshots, at random: whatever has to stop, come back, go on
// from somebody else's text or end early, each request gets the tokens it would have got alone, every one
// ends, and all pages and snapshots come home. The checking trunk knows what every page holds.
#include <array>
#include <map>
#include <random>

#include "coordinator/scheduler.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fake_trunk.h"

namespace paceline {
namespace {

std::vector<TokenId> Alone(const std::vector<TokenId>& prompt, int64_t count) {
  const FakeTrunk::Model model = FakeTrunk::Hash(100);
  std::vector<TokenId> tokens = prompt;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(model(tokens));
  return {tokens.begin() + static_cast<int64_t>(prompt.size()), tokens.end()};
}

class Contention {
 public:
  struct Totals {
    int64_t requests = 0, preemptions = 0, hits = 0, restored = 0, failed = 0, rows = 0, needed = 0;
  };

  Contention(uint32_t seed, bool priorities) : random_(seed), priorities_(priorities) {
    info_ = FakeTrunk::SmallInfo();
    info_.slots = Pick(2, 8);
    info_.pages = Pick(4, 8);
    info_.snapshots = Pick(0, 3) == 0 ? 0 : Pick(1, 12);
    if (Pick(0, 1) == 1) info_.drafters = {DraftSource::kMtp, DraftSource::kSuffix};
    options_.prefill_chunk = Pick(0, 4) == 0 ? Pick(300, 600) : Pick(1, 90);
    options_.max_rows = Pick(0, 1) == 1 ? Pick(2, 40) : 0;
    for (std::vector<TokenId>& text : texts_) {
      for (int i = 0; i < 900; ++i) text.push_back(Pick(0, 99));
    }
  }

  Totals Run(int requests) {
    FakeTrunk trunk(info_, options_.prefill_chunk, FakeTrunk::Hash(info_.vocab));
    const int luck = Pick(0, 2);
    trunk.right_drafts = [&](const SequenceRows& rows, const std::vector<TokenId>&) {
      return luck == 0 ? 0 : luck == 1 ? rows.draft_depth : Pick(0, rows.draft_depth);
    };
    bool lose = false;
    trunk.before_step = [&](const StepPlan&) {
      return lose ? absl::UnavailableError("a worker is gone") : absl::OkStatus();
    };
    trunk.row_error = [&](const SequenceRows& rows, const std::vector<TokenId>&) {
      return rows.sequence == SequenceId(bad_) ? absl::DataLossError("not a number") : absl::OkStatus();
    };
    Scheduler scheduler(info_, options_);
    Totals totals;
    totals.requests = requests;
    uint64_t next = 1, step = 0;
    const auto end = [&](SequenceId id) {
      if (!scheduler.Remove(id)) return;
      if (started_.contains(id)) trunk.Release(id);
      open_.erase(id);
    };
    while (next <= static_cast<uint64_t>(requests) || !scheduler.idle()) {
      while (next <= static_cast<uint64_t>(requests) && Pick(0, 3) > 0) {
        SequenceSpec spec = Make(next++, scheduler.context());
        prompts_[spec.id] = spec.prompt;
        open_[spec.id] = spec.max_tokens;
        scheduler.Admit(std::move(spec));
      }
      for (const SequenceId id : scheduler.Start()) {
        EXPECT_TRUE(started_.insert(id).second) << "started twice";
        totals.hits += scheduler.cached_tokens(id);
      }
      if (!open_.empty() && Pick(0, 400) == 0)
        end(std::next(open_.begin(), Pick(0, static_cast<int>(open_.size()) - 1))->first);
      bad_ = Pick(0, 1000) == 0 ? static_cast<uint64_t>(Pick(1, static_cast<int>(next))) : 0;
      lose = Pick(0, 2000) == 0;
      const StepPlan plan = scheduler.Plan(StepId(++step));
      EXPECT_EQ(plan.sequences.empty(), scheduler.running() == 0);
      if (plan.sequences.empty()) continue;
      auto result = trunk.Run(plan);
      if (!result.ok()) {
        for (const SequenceRows& rows : plan.sequences) end(rows.sequence);
        ++totals.failed;
        continue;
      }
      for (const SequenceRows& rows : plan.sequences) totals.rows += static_cast<int64_t>(rows.tokens.size());
      for (const StepOutcome& outcome : scheduler.Apply(plan, *std::move(result))) {
        std::vector<TokenId>& tokens = got_[outcome.id];
        for (const RowResult& row : outcome.rows) tokens.push_back(row.token);
        if (!outcome.status.ok() || static_cast<int64_t>(tokens.size()) >= open_.at(outcome.id))
          end(outcome.id);
      }
      if (::testing::Test::HasFailure() || step > 60'000) {
        ADD_FAILURE() << "at step " << step;
        return totals;
      }
    }
    for (const auto& [id, tokens] : got_) {
      EXPECT_EQ(tokens, Alone(prompts_[id], static_cast<int64_t>(tokens.size()))) << "sequence " << id;
      totals.needed += static_cast<int64_t>(prompts_[id].size() + tokens.size());
    }
    EXPECT_TRUE(open_.empty());
    EXPECT_EQ(trunk.live(), 0);
    EXPECT_EQ(scheduler.pages_used(), 0);
    EXPECT_EQ(scheduler.cache().available(), info_.pages) << "every page comes home";
    scheduler.ForgetTexts();
    EXPECT_EQ(scheduler.cache().pages_with_text(), 0);
    EXPECT_EQ(scheduler.cache().snapshots_free(), info_.snapshots) << "every snapshot comes home";
    totals.preemptions = scheduler.counters().preemptions;
    totals.restored = trunk.restored();
    EXPECT_EQ(totals.hits, scheduler.counters().prefix_hits);
    return totals;
  }

 private:
  int Pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  // A text that begins as others do, up to somewhere.
  SequenceSpec Make(uint64_t id, int64_t context) {
    SequenceSpec spec;
    spec.id = SequenceId(id);
    spec.max_tokens = Pick(0, 1) == 0 ? Pick(200, 600) : Pick(1, 60);
    const int64_t most = context - spec.max_tokens;
    const int64_t prompt = std::clamp<int64_t>(Pick(0, 2) == 0 ? Pick(1, 100) : Pick(1, 600), 1, most);
    const int64_t common = Pick(0, 4) == 0 ? 0 : prompt - std::min<int64_t>(prompt, Pick(0, 60));
    const std::vector<TokenId>& text = texts_[static_cast<size_t>(Pick(0, 2))];
    spec.prompt.assign(text.begin(), text.begin() + common);
    // Now and then the next turn of an earlier conversation.
    if (Pick(0, 3) == 0 && !got_.empty()) {
      const auto earlier = std::next(got_.begin(), Pick(0, static_cast<int>(got_.size()) - 1));
      spec.prompt = prompts_[earlier->first];
      spec.prompt.insert(spec.prompt.end(), earlier->second.begin(), earlier->second.end());
      spec.prompt.resize(std::min(spec.prompt.size(), static_cast<size_t>(prompt)));
    }
    while (static_cast<int64_t>(spec.prompt.size()) < prompt) spec.prompt.push_back(Pick(0, 99));
    spec.draft.mode = std::array{DraftMode::kAuto, DraftMode::kFixed, DraftMode::kOff}[Pick(0, 2)];
    spec.draft.depth = spec.draft.mode == DraftMode::kOff ? 0 : Pick(1, 8);
    spec.key = std::array{"", "a", "b"}[Pick(0, 2)];
    if (priorities_) spec.priority = Pick(-1, 1);
    spec.sharing.prefix_cache = Pick(0, 9) > 0;
    spec.sharing.salt = Pick(0, 5) == 0 ? "salt" : "";
    return spec;
  }

  std::mt19937 random_;
  const bool priorities_;
  TrunkInfo info_;
  SchedulerOptions options_;
  std::array<std::vector<TokenId>, 3> texts_;
  uint64_t bad_ = 0;  // sequence whose rows fail in this step
  std::map<SequenceId, std::vector<TokenId>> prompts_, got_;
  std::map<SequenceId, int64_t> open_;  // max_tokens
  std::set<SequenceId> started_;
};

void Add(Contention::Totals& sum, const Contention::Totals& one) {
  sum.requests += one.requests;
  sum.preemptions += one.preemptions;
  sum.hits += one.hits;
  sum.restored += one.restored;
  sum.failed += one.failed;
  sum.rows += one.rows;
  sum.needed += one.needed;
}

TEST(Contention, OfEqualPriority) {
  Contention::Totals sum;
  for (uint32_t seed = 0; seed < 80 && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Add(sum, Contention(seed, false).Run(40));
  }
  EXPECT_GT(sum.preemptions, 200);
  EXPECT_GT(sum.failed, 20);
  EXPECT_GT(sum.hits, 4'000);
  EXPECT_GT(sum.restored, sum.hits) << "who comes back goes on from its own text, too";
  EXPECT_LT(sum.rows, 2 * sum.needed) << "giving way costs work, within reason";
  RecordProperty("preemptions", static_cast<int>(sum.preemptions));
  RecordProperty("hits", static_cast<int>(sum.hits));
}

TEST(Contention, OfAllPriorities) {
  Contention::Totals sum;
  for (uint32_t seed = 1000; seed < 1080 && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Add(sum, Contention(seed, true).Run(40));
  }
  EXPECT_GT(sum.preemptions, 400);
  EXPECT_GT(sum.hits, 4'000);
}

}  // namespace
}  // namespace paceline
