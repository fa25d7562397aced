// A trunk seen by one of several engines that take turns on it: what its decode steps spent is counted apart
// from its prompts, and from the steps of the others.
#pragma once

#include <cstdint>

#include "base/step.h"

namespace paceline::cli {

// Of decode steps.
struct DecodeMeter {
  double draft_s = 0;     // drafting
  double exchange_s = 0;  // waiting for workers after local work was done
};

class MeteredTrunk final : public Trunk {
 public:
  // `last_step` is shared by all that see `trunk`: a worker must not meet one step number twice. Both outlive
  // this. Never two engines at a time.
  MeteredTrunk(Trunk& trunk, StepId& last_step) : trunk_(trunk), last_step_(last_step) {}

  const TrunkInfo& info() const override { return trunk_.info(); }
  absl::StatusOr<StepResult> Run(const StepPlan& plan) override {
    StepPlan own = plan;
    last_step_ = StepId(last_step_.value() + 1);
    own.step = last_step_;
    bool decodes = !own.sequences.empty();
    for (const SequenceRows& rows : own.sequences) decodes &= rows.first_position >= rows.prompt_tokens;
    const ExchangeCounters before = trunk_.counters();
    absl::StatusOr<StepResult> result = trunk_.Run(own);
    const ExchangeCounters after = trunk_.counters();
    counters_.layers += after.layers - before.layers;
    counters_.bytes += after.bytes - before.bytes;
    counters_.seconds += after.seconds - before.seconds;
    if (decodes && result.ok()) {
      decode_.draft_s += result->draft_s;
      decode_.exchange_s += after.seconds - before.seconds;
    }
    return result;
  }
  void Release(SequenceId sequence) override { trunk_.Release(sequence); }
  // Of steps through this one. The trunk itself may be busy with another engine's.
  ExchangeCounters counters() const override { return counters_; }
  absl::Status MeasureLinks(bool bandwidth) override { return trunk_.MeasureLinks(bandwidth); }

  // While no step of this one runs.
  const DecodeMeter& decode() const { return decode_; }

 private:
  Trunk& trunk_;
  StepId& last_step_;
  ExchangeCounters counters_;
  DecodeMeter decode_;
};

}  // namespace paceline::cli
