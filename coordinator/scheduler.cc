// Continuous batching with chunked prefill.
#include "coordinator/scheduler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"

namespace paceline {

Scheduler::Scheduler(const TrunkInfo& info, SchedulerOptions options,
                     std::function<void(const std::string&)> warn)
    : controller_(options.speculation, std::move(warn)) {
  CHECK_GE(info.slots, 1);
  CHECK_GE(info.pages, 1);
  CHECK_GE(options.prefill_chunk, 1);
  context_ = std::min<int64_t>(info.context, info.pages * kPagePositions);
  pages_total_ = info.pages;
  prefill_chunk_ = options.prefill_chunk;
  const int32_t per_slot = info.drafters.empty() ? 1 : 1 + kMaxDraft;
  max_rows_ = options.max_rows > 0 ? options.max_rows : info.slots * per_slot + options.prefill_chunk;
  // Never more sequences than rows: then decode rows always fit, and a prompt always finds at least one row.
  max_sequences_ = std::min(info.slots, max_rows_);
  if (options.max_sequences > 0) max_sequences_ = std::min(max_sequences_, options.max_sequences);
  max_waiting_ = options.max_waiting;
  for (int32_t slot = info.slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  for (int32_t page = info.pages - 1; page >= 0; --page) free_pages_.push_back(page);
}

absl::Status Scheduler::Admit(SequenceSpec spec) {
  CHECK(!spec.prompt.empty());
  CHECK_GE(spec.max_tokens, 1);
  CHECK_LE(static_cast<int64_t>(spec.prompt.size()) + spec.max_tokens, context_);
  if (waiting() >= max_waiting_) {
    return Error(errors::kQueueFull, absl::StrCat(running(), " requests run and ", waiting(),
                                                  " wait, as many as may; try again when some have ended"));
  }
  waiting_.push_back(std::move(spec));
  return absl::OkStatus();
}

std::vector<SequenceId> Scheduler::Start() {
  std::vector<SequenceId> started;
  while (!waiting_.empty() && running() < max_sequences_) {
    auto sequence = std::make_unique<Sequence>();
    sequence->spec = std::move(waiting_.front());
    const int64_t pages = std::max<int64_t>(1, PagesOf(sequence->positions_needed()));
    if (pages > static_cast<int64_t>(free_pages_.size())) {
      waiting_.front() = std::move(sequence->spec);
      break;
    }
    waiting_.pop_front();
    sequence->tokens = sequence->spec.prompt;
    sequence->slot = free_slots_.back();
    free_slots_.pop_back();
    sequence->pages.assign(free_pages_.end() - pages, free_pages_.end());
    free_pages_.resize(free_pages_.size() - pages);
    started.push_back(sequence->spec.id);
    running_.push_back(std::move(sequence));
  }
  return started;
}

SequenceRows Scheduler::Rows(const Sequence& sequence, int64_t rows) const {
  SequenceRows out;
  out.sequence = sequence.spec.id;
  out.slot = sequence.slot;
  out.pages = sequence.pages;
  out.first_position = sequence.computed;
  const auto first = sequence.tokens.begin() + sequence.computed;
  out.tokens.assign(first, first + rows);
  out.sampled_rows = rows == sequence.pending() ? 1 : 0;
  out.prompt_tokens = static_cast<int64_t>(sequence.spec.prompt.size());
  out.sampling = sequence.spec.sampling;
  out.top = sequence.spec.top;
  out.logprobs = sequence.spec.logprobs;
  out.hash_logits = sequence.spec.hash_logits;
  out.stops = sequence.spec.stops;
  return out;
}

StepPlan Scheduler::Plan(StepId step) {
  StepPlan plan;
  plan.step = step;
  int64_t rows_left = max_rows_;
  std::vector<Sequence*> decoding;  // [i] of plan.sequences[i]
  for (const auto& sequence : running_) {
    if (sequence->in_prompt()) continue;
    CHECK_EQ(sequence->pending(), 1);
    plan.sequences.push_back(Rows(*sequence, 1));
    decoding.push_back(sequence.get());
    --rows_left;
  }
  int64_t prompt_rows = 0;
  int64_t prompt_left = std::min<int64_t>(prefill_chunk_, rows_left);
  for (const auto& sequence : running_) {
    if (prompt_left == 0) break;
    if (!sequence->in_prompt()) continue;
    const int64_t rows = std::min(prompt_left, sequence->pending());
    plan.sequences.push_back(Rows(*sequence, rows));
    prompt_left -= rows;
    prompt_rows += rows;
  }
  PlanDrafts(decoding, prompt_rows, &plan);
  return plan;
}

void Scheduler::PlanDrafts(const std::vector<Sequence*>& decoding, int64_t prompt_rows, StepPlan* plan) {
  std::vector<DraftCandidate> candidates;
  for (const Sequence* sequence : decoding) {
    candidates.push_back({sequence->spec.id, sequence->spec.draft, sequence->max_draft(), sequence->offers});
  }
  const std::vector<DraftDecision> decisions =
      controller_.Decide(candidates, {.rows = max_rows_ - prompt_rows, .prefill_rows = prompt_rows});
  for (size_t i = 0; i < decisions.size(); ++i) {
    if (decisions[i].depth == 0) continue;
    plan->sequences[i].drafter = decisions[i].source;
    plan->sequences[i].draft_depth = decisions[i].depth;
  }
}

// Decoding sequences stand first in a plan, and each has fed everything it had.
void Scheduler::ObserveDrafts(const StepPlan& plan, const StepResult& result) {
  StepObservation observation;
  observation.draft_s = result.draft_s;
  observation.run_s = result.run_s;
  std::vector<DraftOutcome> outcomes;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const SequenceRows& planned = plan.sequences[i];
    const SequenceResult& got = result.sequences[i];
    if (planned.first_position < planned.prompt_tokens) {
      observation.prefill_rows += static_cast<int64_t>(planned.tokens.size());
      continue;
    }
    DraftOutcome& outcome = outcomes.emplace_back();
    outcome.id = planned.sequence;
    outcome.source = planned.drafter;
    if (!got.status.ok()) continue;
    outcome.asked = planned.draft_depth;
    outcome.drafted = got.drafted;
    outcome.accepted = got.drafted > 0 ? static_cast<int32_t>(got.rows.size()) - 1 : 0;
  }
  observation.outcomes = outcomes;
  controller_.Observe(observation);
}

std::vector<StepOutcome> Scheduler::Apply(const StepPlan& plan, StepResult result) {
  CHECK_EQ(plan.sequences.size(), result.sequences.size());
  ObserveDrafts(plan, result);
  std::vector<StepOutcome> outcomes;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const SequenceRows& planned = plan.sequences[i];
    SequenceResult& got = result.sequences[i];
    CHECK_EQ(planned.sequence, got.sequence);
    const auto found = std::find_if(running_.begin(), running_.end(),
                                    [&](const auto& s) { return s->spec.id == planned.sequence; });
    CHECK(found != running_.end());
    Sequence& sequence = **found;
    StepOutcome outcome;
    outcome.id = planned.sequence;
    outcome.status = std::move(got.status);
    outcome.logits_hash = std::move(got.logits_hash);
    if (outcome.status.ok()) {
      CHECK(got.drafted >= 0 && got.drafted <= planned.draft_depth);
      const auto drawn = static_cast<int64_t>(got.rows.size());
      CHECK(drawn >= planned.sampled_rows && drawn <= planned.sampled_rows + got.drafted);
      // The rows fed, and of the drafts those that were right: their rows count as fed.
      sequence.computed += static_cast<int64_t>(planned.tokens.size()) + drawn - planned.sampled_rows;
      for (const RowResult& row : got.rows) sequence.tokens.push_back(row.token);
      sequence.offers = std::move(got.offers);
      outcome.rows = std::move(got.rows);
      outcome.drafted = got.drafted;
      outcome.source = got.drafted > 0 ? planned.drafter : DraftSource::kNone;
    }
    outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

bool Scheduler::Remove(SequenceId id) {
  controller_.Forget(id);
  const auto running =
      std::find_if(running_.begin(), running_.end(), [&](const auto& s) { return s->spec.id == id; });
  if (running != running_.end()) {
    free_slots_.push_back((*running)->slot);
    free_pages_.insert(free_pages_.end(), (*running)->pages.begin(), (*running)->pages.end());
    running_.erase(running);
    return true;
  }
  const auto waiting =
      std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& s) { return s.id == id; });
  if (waiting == waiting_.end()) return false;
  waiting_.erase(waiting);
  return true;
}

std::vector<SequenceId> Scheduler::Waiting() const {
  std::vector<SequenceId> ids;
  for (const SequenceSpec& spec : waiting_) ids.push_back(spec.id);
  return ids;
}

}  // namespace paceline
