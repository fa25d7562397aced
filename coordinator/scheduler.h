// The scheduler: which rows run in the next step, and who holds which slot and KV page. A pure object without
// threads, clocks or I/O, so that its properties can be tested by the million.
//
// Continuous batching: every running sequence that has a token to feed gets one row in every step; what the
// step has left goes to prompts, in order of arrival, in chunks; what is left then may be drafts, which the
// controller deals out. So drafts never hold up a prompt, and neither holds up a decoding sequence. Pages for a whole request are set aside when
// it starts, so a request that started always ends; one that does not fit yet waits, and those behind it wait
// with it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/step.h"
#include "coordinator/sequence.h"
#include "coordinator/speculation_controller.h"

namespace paceline {

struct SchedulerOptions {
  int32_t prefill_chunk = 64;  // prompt rows in a step, all sequences together
  // Rows in a step. 0 = per slot one and, where a drafter is loaded, kMaxDraft; and a prefill chunk. Fewer
  // bound drafts first.
  int32_t max_rows = 0;
  int32_t max_sequences = 0;   // sequences running at once; 0 = the trunk's slots
  int32_t max_waiting = 256;   // requests that may wait for a slot or for pages
  SpeculationPolicy speculation;
};

// What a step brought one sequence.
struct StepOutcome {
  SequenceId id{0};
  absl::Status status;          // not ok: the sequence must be removed
  std::vector<RowResult> rows;  // tokens drawn, empty inside a prompt
  std::string logits_hash;
  DraftSource source = DraftSource::kNone;
  int32_t drafted = 0;  // drafts verified; all rows but the last are accepted ones
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
  int32_t pages_used() const { return pages_total_ - static_cast<int32_t>(free_pages_.size()); }
  bool idle() const { return running_.empty() && waiting_.empty(); }

  // Takes a sequence that fits the context. REQ-004 when too many wait.
  absl::Status Admit(SequenceSpec spec);
  // Moves waiting sequences into the batch while slots and pages last; returns those that moved.
  std::vector<SequenceId> Start();
  // Rows of the next step, decode rows first; no sequences when there is nothing to run.
  StepPlan Plan(StepId step);
  // Books the answer to the plan just made: outcomes in plan order.
  std::vector<StepOutcome> Apply(const StepPlan& plan, StepResult result);
  // Forgets a sequence, waiting or running, and takes back its slot and pages. False when there is none of
  // that id.
  bool Remove(SequenceId id);
  std::vector<SequenceId> Waiting() const;

  SpeculationController& controller() { return controller_; }

 private:
  void PlanDrafts(const std::vector<Sequence*>& decoding, int64_t prompt_rows, StepPlan* plan);
  void ObserveDrafts(const StepPlan& plan, const StepResult& result);
  SequenceRows Rows(const Sequence& sequence, int64_t rows) const;

  int64_t context_ = 0;
  int32_t pages_total_ = 0;
  int32_t prefill_chunk_ = 0;
  int32_t max_rows_ = 0;
  int32_t max_sequences_ = 0;
  int32_t max_waiting_ = 0;
  SpeculationController controller_;
  std::deque<SequenceSpec> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of start
  std::vector<int32_t> free_slots_;
  std::vector<int32_t> free_pages_;
};

}  // namespace paceline
