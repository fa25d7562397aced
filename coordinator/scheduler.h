// The scheduler: which rows run in the next step, and who holds which slot and KV page. A pure object without
// threads, clocks or I/O, so that its properties can be tested by the million.
//
// Continuous batching: every running sequence that has a token to feed gets one row in every step; what the
// step has left goes to prompts, in chunks; what is left then may be drafts, which the controller deals out.
// So drafts never hold up a prompt, and neither holds up a decoding sequence.
//
// Waiting sequences start by priority, then those that had to stop before, then the keys that have been
// served least, then by arrival; one that does not fit yet waits, and those behind it wait with it. A higher
// priority takes the place of a lower one. Pages are taken as texts grow. When none is left, the running
// sequence that is last in rank gives everything back and waits: its text so far is run again as a prompt, so
// no token changes (sampling depends on seed and position alone, penalties on the text). The first in rank
// can always go on, so everything ends.
//
// Where the trunk has snapshots, texts that have been run stay in the prefix cache (prefix_cache.h), and a
// sequence goes on from the longest one it begins with.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/step.h"
#include "coordinator/prefix_cache.h"
#include "coordinator/sequence.h"
#include "coordinator/shares.h"
#include "coordinator/speculation_controller.h"

namespace paceline {

struct SchedulerOptions {
  int32_t prefill_chunk = 64;  // prompt rows in a step, all sequences together
  // Rows in a step. 0 = per slot one and, where a drafter is loaded, kMaxDraft; and a prefill chunk. Fewer
  // bound drafts first.
  int32_t max_rows = 0;
  int32_t max_sequences = 0;  // sequences running at once; 0 = the trunk's slots
  // At the engine's door (admission.h), before anything is done for a request.
  int32_t max_waiting = 256;                // requests beyond those that may run
  int32_t max_waiting_per_key = 0;          // of one key; 0 = max_waiting
  int64_t max_prompt_bytes = 256LL << 20;   // of all requests together
  Duration queue_limit = Duration::zero();  // that a request may wait for its start; 0 = no limit
  SpeculationPolicy speculation;
};

// What a step brought one sequence.
struct StepOutcome {
  SequenceId id{0};
  absl::Status status;          // not ok: the sequence must be removed
  std::vector<RowResult> rows;  // tokens drawn, empty inside a prompt
  // What rows of the prompt say of the tokens behind them, where that is wanted: each row once, in order.
  std::vector<RowResult> scored;
  std::string logits_hash;
  DraftSource source = DraftSource::kNone;
  int32_t drafted = 0;  // drafts verified; all rows but the last are accepted ones
};

// Counts since the start.
struct SchedulerCounters {
  int64_t preemptions = 0;     // times a running sequence had to give everything back
  int64_t prefix_queries = 0;  // prompt tokens of requests that asked the prefix cache
  int64_t prefix_hits = 0;     // of them found
};

// Use from one thread.
class Scheduler {
 public:
  // `warn`, where given, hears what the controller has to say to people.
  Scheduler(const TrunkInfo& info, SchedulerOptions options,
            std::function<void(const std::string&)> warn = nullptr);

  // Positions a sequence may have: the model's context, or fewer where the KV pages hold no more.
  int64_t context() const { return context_; }
  int32_t running() const { return static_cast<int32_t>(running_.size()); }
  int32_t waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int32_t max_running() const { return max_sequences_; }
  int32_t max_rows() const { return max_rows_; }
  int32_t prefill_chunk() const { return prefill_chunk_; }
  int32_t pages_used() const { return cache_.held(); }
  const PrefixCache& cache() const { return cache_; }
  const SchedulerCounters& counters() const { return counters_; }
  bool idle() const { return running_.empty() && waiting_.empty(); }

  // Takes a sequence that fits the context.
  void Admit(SequenceSpec spec);
  // Moves waiting sequences into the batch while slots and pages last; returns those that moved for the first
  // time.
  std::vector<SequenceId> Start();
  // Of a sequence that has started: tokens of its prompt found in the prefix cache.
  int64_t cached_tokens(SequenceId id) const;
  // Rows of the next step, decode rows first; no sequences when there is nothing to run.
  StepPlan Plan(StepId step);
  // Books the answer to the plan just made: outcomes in plan order. A plan that failed has none: then the
  // sequences in it are removed.
  std::vector<StepOutcome> Apply(const StepPlan& plan, StepResult result);
  // Forgets a sequence, waiting or running, and takes back its slot and pages. False when there is none of
  // that id.
  bool Remove(SequenceId id);
  // Those that have never started.
  std::vector<SequenceId> Waiting() const;

  // For steps beside the plans, while nothing runs and all slots are free: a page without text; or all of
  // them, since no text is remembered.
  int32_t SparePage();
  void ForgetTexts();

  SpeculationController& controller() { return controller_; }

 private:
  using Owned = std::unique_ptr<Sequence>;

  // Who goes first: of those that wait, and of those that run.
  bool StartsBefore(const Sequence& a, const Sequence& b) const;
  static bool Outranks(const Sequence& a, const Sequence& b);
  std::vector<Sequence*> ByRank() const;

  // Starting.
  bool MakeRoom(Sequence& next);
  int64_t PagesToStart(const Sequence& next, const PrefixCache::Match& match, bool without_lower) const;
  void Begin(Owned sequence);
  PrefixCache::Match Lookup(Sequence& sequence) const;
  void ExtendDigests(Sequence& sequence, size_t pages) const;
  void Preempt(Sequence& sequence);
  void GiveBack(Sequence& sequence);

  // One step.
  void DealPrompts(const std::vector<Sequence*>& by_rank, int64_t rows_left);
  int64_t CutAtBorder(Sequence& sequence, int64_t rows) const;
  int64_t Grow(Sequence& sequence, int64_t positions, bool preempt);
  SequenceRows Rows(Sequence& sequence) const;
  void PlanDrafts(const std::vector<Sequence*>& decoding, int64_t prompt_rows, StepPlan* plan);
  void PlanSnapshots(const std::vector<Sequence*>& planned, StepPlan* plan);
  void ObserveDrafts(const StepPlan& plan, const StepResult& result);
  void Publish(Sequence& sequence, const SequenceRows& planned, bool kept);
  Sequence* Find(SequenceId id) const;

  int64_t context_ = 0;
  int32_t prefill_chunk_ = 0;
  int32_t max_rows_ = 0;
  int32_t max_sequences_ = 0;
  std::string fingerprint_;
  SpeculationController controller_;
  PrefixCache cache_;
  Shares shares_;
  SchedulerCounters counters_;
  uint64_t arrivals_ = 0;
  std::vector<Owned> waiting_;  // in order of arrival, but for those that came back
  std::vector<Owned> running_;  // in order of start
  std::vector<int32_t> free_slots_;
  std::vector<SequenceId> suspended_;  // since the last plan
};

}  // namespace paceline
