// Requests driven through a trunk step by step.
#include "tests/testing/drafted_run.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/status.h"

namespace paceline::testing {
namespace {

struct Running {
  SequenceId id{0};
  std::vector<TokenId> tokens;  // prompt and text
  int64_t computed = 0;
  std::vector<int32_t> pages;
  RunOutcome outcome;
};

void ReleaseAll(LocalTrunk& trunk, const std::vector<Running>& all) {
  for (const Running& run : all) trunk.Release(run.id);
}

}  // namespace

absl::StatusOr<std::vector<RunOutcome>> RunRequests(LocalTrunk& trunk, std::span<const RunRequest> requests,
                                                    const RunPolicy& policy) {
  static uint64_t next_sequence = 1'000'000;
  static uint64_t next_step = 1;
  std::vector<Running> all(requests.size());
  int32_t page = 0;
  for (size_t r = 0; r < requests.size(); ++r) {
    all[r].id = SequenceId(next_sequence++);
    all[r].tokens = requests[r].prompt;
    const int64_t positions = static_cast<int64_t>(requests[r].prompt.size()) + requests[r].count;
    all[r].pages.resize((positions + kPagePositions - 1) / kPagePositions);
    std::iota(all[r].pages.begin(), all[r].pages.end(), page);
    page += static_cast<int32_t>(all[r].pages.size());
  }
  for (uint64_t step = 0;; ++step) {
    StepPlan plan{.step = StepId(next_step++)};
    std::vector<size_t> who;
    bool left = false;
    for (size_t r = 0; r < all.size(); ++r) {
      Running& run = all[r];
      const RunRequest& request = requests[r];
      const int64_t remaining = request.count - static_cast<int64_t>(run.outcome.tokens.size());
      left |= remaining > 0;
      if (remaining == 0 || step < r * policy.stagger) continue;
      const int64_t pending = static_cast<int64_t>(run.tokens.size()) - run.computed;
      const int64_t n = std::min<int64_t>(pending, policy.chunk);
      SequenceRows rows{.sequence = run.id,
                        .slot = static_cast<int32_t>(r),
                        .pages = run.pages,
                        .first_position = run.computed,
                        .tokens = {run.tokens.begin() + run.computed, run.tokens.begin() + run.computed + n}};
      rows.sampled_rows = n == pending ? 1 : 0;
      rows.prompt_tokens = static_cast<int64_t>(request.prompt.size());
      rows.sampling = request.sampling;
      rows.logprobs = true;
      rows.hash_logits = true;
      if (pending == 1 && !run.outcome.tokens.empty() && policy.source != DraftSource::kNone) {
        rows.drafter = policy.source;
        rows.draft_depth = static_cast<int32_t>(std::min<int64_t>(policy.depth(step, r), remaining - 1));
      }
      plan.sequences.push_back(std::move(rows));
      who.push_back(r);
    }
    if (!left) break;
    if (plan.sequences.empty()) continue;
    absl::StatusOr<StepResult> result = trunk.Run(plan);
    if (!result.ok()) {
      ReleaseAll(trunk, all);
      return result.status();
    }
    for (size_t i = 0; i < who.size(); ++i) {
      Running& run = all[who[i]];
      SequenceResult& got = result->sequences[i];
      if (!got.status.ok()) {
        ReleaseAll(trunk, all);
        return got.status;
      }
      if (plan.sequences[i].sampled_rows == 0) {
        run.computed += static_cast<int64_t>(plan.sequences[i].tokens.size());
        continue;
      }
      CHECK(!got.rows.empty());
      const int64_t accepted = static_cast<int64_t>(got.rows.size()) - 1;
      CHECK_LE(accepted, got.drafted);
      run.computed += static_cast<int64_t>(plan.sequences[i].tokens.size()) + accepted;
      ++run.outcome.steps;
      run.outcome.drafted += got.drafted;
      run.outcome.accepted += accepted;
      for (int64_t d = 0; d < got.drafted; ++d) ++run.outcome.drafted_per_position[d];
      for (int64_t d = 0; d < accepted; ++d) ++run.outcome.accepted_per_position[d];
      for (const RowResult& row : got.rows) {
        run.tokens.push_back(row.token);
        run.outcome.tokens.push_back(row.token);
        run.outcome.logprobs.push_back(row.logprob);
      }
      run.outcome.logits_hash = got.logits_hash;
    }
  }
  ReleaseAll(trunk, all);
  std::vector<RunOutcome> outcomes;
  for (Running& run : all) outcomes.push_back(std::move(run.outcome));
  return outcomes;
}

void ScriptedDrafter::Commit(const DraftContext&, const CommittedRows& rows) {
  int64_t& committed = committed_[rows.sequence];
  if (rows.first_position == 0) committed = 0;
  CHECK_EQ(rows.first_position, committed);
  committed += static_cast<int64_t>(rows.tokens.size());
}

absl::Status ScriptedDrafter::Draft(const DraftContext&, std::span<const DraftRequest> requests,
                                    std::span<DraftResult> drafts) {
  if (fail_every_ > 0 && ++calls_ % fail_every_ == 0) return absl::InternalError("as the test wanted");
  for (size_t i = 0; i < requests.size(); ++i) {
    CHECK_EQ(requests[i].position, committed_.at(requests[i].sequence));
    CHECK_EQ(requests[i].sampler->size(), requests[i].position + 1);
    drafts[i].tokens = script_(requests[i]);
    if (static_cast<int32_t>(drafts[i].tokens.size()) > requests[i].depth)
      drafts[i].tokens.resize(requests[i].depth);
  }
  return absl::OkStatus();
}

}  // namespace paceline::testing
