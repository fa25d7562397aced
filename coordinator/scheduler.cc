// One step: rows, pages, drafts, snapshots. Who starts and who stops: scheduler_start.cc.
#include "coordinator/scheduler.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"

namespace paceline {

Scheduler::Scheduler(const TrunkInfo& info, SchedulerOptions options,
                     std::function<void(const std::string&)> warn)
    : fingerprint_(info.fingerprint),
      controller_(options.speculation, std::move(warn)),
      cache_(info.pages, info.snapshots) {
  CHECK_GE(info.slots, 1);
  CHECK_GE(info.pages, 1);
  CHECK_GE(options.prefill_chunk, 1);
  context_ = std::min<int64_t>(info.context, info.pages * kPagePositions);
  prefill_chunk_ = options.prefill_chunk;
  const int32_t per_slot = info.drafters.empty() ? 1 : 1 + kMaxDraft;
  max_rows_ = options.max_rows > 0 ? options.max_rows : info.slots * per_slot + options.prefill_chunk;
  // Never more sequences than rows: then decode rows always fit, and a prompt always finds at least one row.
  max_sequences_ = std::min(info.slots, max_rows_);
  if (options.max_sequences > 0) max_sequences_ = std::min(max_sequences_, options.max_sequences);
  for (int32_t slot = info.slots - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

Sequence* Scheduler::Find(SequenceId id) const {
  for (const auto* list : {&running_, &waiting_}) {
    for (const Owned& sequence : *list) {
      if (sequence->spec.id == id) return sequence.get();
    }
  }
  return nullptr;
}

std::vector<Sequence*> Scheduler::ByRank() const {
  std::vector<Sequence*> ranked;
  for (const Owned& sequence : running_) ranked.push_back(sequence.get());
  std::sort(ranked.begin(), ranked.end(),
            [](const Sequence* a, const Sequence* b) { return Outranks(*a, *b); });
  return ranked;
}

SequenceRows Scheduler::Rows(Sequence& sequence) const {
  SequenceRows out;
  out.sequence = sequence.spec.id;
  out.slot = sequence.slot;
  out.pages = sequence.pages;
  out.first_position = sequence.computed;
  const auto first = sequence.tokens.begin() + sequence.computed;
  out.tokens.assign(first, first + sequence.rows);
  out.sampled_rows = sequence.rows == sequence.pending() ? 1 : 0;
  out.prompt_tokens = sequence.prompt_tokens;
  out.sampling = sequence.spec.sampling;
  out.top = sequence.spec.top;
  out.logprobs = sequence.spec.logprobs;
  out.hash_logits = sequence.spec.hash_logits;
  out.stops = sequence.spec.stops;
  if (sequence.scores_due()) {
    CHECK_EQ(out.sampled_rows, 0);
    for (int64_t at = sequence.computed; at < sequence.computed + sequence.rows; ++at) {
      out.targets.push_back(at >= sequence.scored ? sequence.tokens[static_cast<size_t>(at) + 1] : -1);
    }
    out.top = *sequence.spec.prompt_top;
    out.hash_logits = false;  // the hash is of rows that drew
  }
  if (sequence.restore >= 0) {
    out.restore = sequence.restore;
    out.prefix.assign(sequence.tokens.begin(), first);
  }
  return out;
}

StepPlan Scheduler::Plan(StepId step) {
  StepPlan plan;
  plan.step = step;
  const std::vector<Sequence*> by_rank = ByRank();
  int64_t rows_left = max_rows_;
  for (Sequence* sequence : by_rank) {
    sequence->rows = sequence->prefilling() ? 0 : 1;
    rows_left -= sequence->rows;
    CHECK(sequence->prefilling() || sequence->pending() == 1);
  }
  DealPrompts(by_rank, std::min<int64_t>(prefill_chunk_, rows_left));
  // The first in rank takes what it needs, if need be from the last. Who gets no page stands still, and keeps
  // what it has until somebody in front of it wants it.
  for (Sequence* sequence : by_rank) {
    if (sequence->slot < 0 || sequence->rows == 0) continue;
    const int64_t covered = Grow(*sequence, sequence->computed + sequence->rows, /*preempt=*/true);
    sequence->rows = std::clamp<int64_t>(covered - sequence->computed, 0, sequence->rows);
  }
  std::vector<Sequence*> planned;  // [i] of plan.sequences[i]
  for (const Owned& sequence : running_) {
    if (!sequence->prefilling() && sequence->rows > 0) planned.push_back(sequence.get());
  }
  const size_t decoding = planned.size();
  int64_t prompt_rows = 0;
  for (const Owned& sequence : running_) {
    if (!sequence->prefilling() || sequence->rows == 0) continue;
    planned.push_back(sequence.get());
    prompt_rows += sequence->rows;
  }
  for (Sequence* sequence : planned) plan.sequences.push_back(Rows(*sequence));
  PlanDrafts({planned.begin(), planned.begin() + static_cast<int64_t>(decoding)}, prompt_rows, &plan);
  PlanSnapshots(planned, &plan);
  plan.suspended = std::exchange(suspended_, {});
  CHECK(!plan.sequences.empty() || running_.empty());
  return plan;
}

// Of equal priority the first in rank may have half of the rows; the rest goes to whoever needs least, so
// that a long prompt neither holds up short ones nor waits for them.
void Scheduler::DealPrompts(const std::vector<Sequence*>& by_rank, int64_t rows_left) {
  std::vector<Sequence*> prompts;
  for (Sequence* sequence : by_rank) {
    if (sequence->prefilling()) prompts.push_back(sequence);
  }
  const auto give = [&](Sequence* sequence, int64_t limit) {
    const int64_t more = std::min({limit, rows_left, sequence->pending() - sequence->rows});
    const int64_t rows = CutAtBorder(*sequence, sequence->rows + more);
    rows_left -= rows - sequence->rows;
    sequence->rows = rows;
  };
  for (auto first = prompts.begin(); first != prompts.end();) {
    const auto end = std::find_if(
        first, prompts.end(), [&](const Sequence* s) { return s->spec.priority != (*first)->spec.priority; });
    Sequence* const oldest = *first;
    give(oldest, end - first > 1 ? (rows_left + 1) / 2 : rows_left);
    std::stable_sort(first + 1, end,
                     [](const Sequence* a, const Sequence* b) { return a->pending() < b->pending(); });
    for (auto other = first + 1; other != end; ++other) give(*other, rows_left);
    give(oldest, rows_left);
    first = end;
  }
}

// Rows that are scored stop in front of the one that draws. Rows that lead over a page border stop at it, the
// last one they reach, so that the state there can be stored; unless it is.
int64_t Scheduler::CutAtBorder(Sequence& sequence, int64_t rows) const {
  if (sequence.scores_due()) rows = std::min(rows, sequence.prompt_tokens - 1 - sequence.computed);
  if (!cache_.on() || !sequence.spec.sharing.prefix_cache || rows == 0) return rows;
  const int64_t pages = (sequence.computed + rows) / kPagePositions;
  const int64_t border = pages * kPagePositions;
  if (border <= sequence.computed || border == sequence.computed + rows) return rows;
  ExtendDigests(sequence, static_cast<size_t>(pages));
  const int32_t page = cache_.Find(sequence.digests[static_cast<size_t>(pages) - 1]);
  return page >= 0 && cache_.has_snapshot(page) ? rows : border - sequence.computed;
}

// Takes pages until they hold `positions`, if need be from sequences of lower rank where `preempt` allows it;
// returns the positions they hold then.
int64_t Scheduler::Grow(Sequence& sequence, int64_t positions, bool preempt) {
  while (static_cast<int64_t>(sequence.pages.size()) < PagesOf(positions)) {
    if (cache_.available() == 0) {
      if (!preempt) break;
      Sequence* last = &sequence;
      for (const Owned& other : running_) {
        if (Outranks(*last, *other)) last = other.get();
      }
      if (last == &sequence) break;
      Preempt(*last);
      continue;
    }
    sequence.pages.push_back(cache_.Take());
  }
  return static_cast<int64_t>(sequence.pages.size()) * kPagePositions;
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
    // Nobody gives up a page for a draft.
    const int64_t first = decoding[i]->computed + 1;
    const int64_t covered = Grow(*decoding[i], first + decisions[i].depth, /*preempt=*/false);
    const auto depth = static_cast<int32_t>(std::min<int64_t>(decisions[i].depth, covered - first));
    SequenceRows& rows = plan->sequences[i];
    rows.pages = decoding[i]->pages;
    if (depth == 0) continue;
    rows.drafter = decisions[i].source;
    rows.draft_depth = depth;
  }
}

void Scheduler::PlanSnapshots(const std::vector<Sequence*>& planned, StepPlan* plan) {
  if (!cache_.on()) return;
  for (size_t i = 0; i < planned.size(); ++i) {
    Sequence& sequence = *planned[i];
    SequenceRows& rows = plan->sequences[i];
    if (!sequence.spec.sharing.prefix_cache) continue;
    const int64_t end = rows.first_position + static_cast<int64_t>(rows.tokens.size());
    const int64_t border = (end + rows.draft_depth) / kPagePositions * kPagePositions;
    const bool ends_there = rows.draft_depth > 0 || rows.tokens.size() == 1 || border == end;
    if (border <= rows.first_position || !ends_there) continue;
    if (border == end) {  // else the text up to there is not known yet
      const auto pages = static_cast<size_t>(border / kPagePositions);
      ExtendDigests(sequence, pages);
      const int32_t page = cache_.Find(sequence.digests[pages - 1]);
      if (page >= 0 && cache_.has_snapshot(page)) continue;
    }
    sequence.keep = cache_.TakeSnapshot(std::span(sequence.pages).first(sequence.published));
    rows.keep = sequence.keep;
    rows.keep_position = border;
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
    const Sequence* sequence = Find(planned.sequence);
    CHECK(sequence != nullptr);
    if (sequence->prefilling()) {
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
    Sequence& sequence = *Find(planned.sequence);
    CHECK_GE(sequence.slot, 0);
    StepOutcome outcome;
    outcome.id = planned.sequence;
    outcome.status = std::move(got.status);
    outcome.logits_hash = std::move(got.logits_hash);
    if (outcome.status.ok() && !planned.targets.empty()) {
      CHECK_EQ(got.rows.size(), planned.targets.size());
      const auto known = static_cast<int64_t>(
          std::count(planned.targets.begin(), planned.targets.end(), TokenId{-1}));  // they come first
      outcome.scored.assign(std::make_move_iterator(got.rows.begin() + known),
                            std::make_move_iterator(got.rows.end()));
      const auto run = static_cast<int64_t>(planned.tokens.size());
      sequence.computed += run;
      sequence.scored = std::max(sequence.scored, sequence.computed);
      shares_.Serve(sequence.spec.key, run, 0);
      Publish(sequence, planned, got.kept);
    } else if (outcome.status.ok()) {
      CHECK(got.drafted >= 0 && got.drafted <= planned.draft_depth);
      const auto drawn = static_cast<int64_t>(got.rows.size());
      CHECK(drawn >= planned.sampled_rows && drawn <= planned.sampled_rows + got.drafted);
      // The rows fed, and of the drafts those that were right: their rows count as fed.
      const int64_t run = static_cast<int64_t>(planned.tokens.size()) + drawn - planned.sampled_rows;
      sequence.computed += run;
      shares_.Serve(sequence.spec.key, run, drawn);
      for (const RowResult& row : got.rows) sequence.tokens.push_back(row.token);
      sequence.offers = std::move(got.offers);
      Publish(sequence, planned, got.kept);
      outcome.rows = std::move(got.rows);
      outcome.drafted = got.drafted;
      outcome.source = got.drafted > 0 ? planned.drafter : DraftSource::kNone;
    }
    outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

// What has been run is there for others from now on: pages that are full, and the state at a border. A
// sequence that failed leaves nothing of its step.
void Scheduler::Publish(Sequence& sequence, const SequenceRows& planned, bool kept) {
  if (sequence.restore >= 0) {
    cache_.Unpin(sequence.restore);
    sequence.restore = -1;
  }
  if (!cache_.on() || !sequence.spec.sharing.prefix_cache) return;
  const auto full = static_cast<size_t>(sequence.computed / kPagePositions);
  ExtendDigests(sequence, full);
  for (; sequence.published < full; ++sequence.published) {
    int32_t& page = sequence.pages[sequence.published];
    page = cache_.Publish(sequence.digests[sequence.published], page);
  }
  if (sequence.keep < 0) return;
  if (kept) {
    const auto pages = static_cast<size_t>(planned.keep_position / kPagePositions);
    const bool anchor = sequence.prompt_tokens / kPagePositions == static_cast<int64_t>(pages);
    cache_.Attach(sequence.keep, std::span(sequence.pages).first(pages), anchor);
  } else {
    cache_.ReturnSnapshot(sequence.keep);
  }
  sequence.keep = -1;
}

}  // namespace paceline
