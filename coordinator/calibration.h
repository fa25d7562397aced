// The start-up measurement behind the cost table: real steps of the real trunk, over the real links, with
// random tokens in sequences of their own.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "base/step.h"

namespace paceline {

struct CalibrationLimits {
  int32_t sequences = 1;  // at once
  int32_t rows = 1;       // in a step
  int32_t prefill_chunk = 1;
  bool mtp = true;  // the MTP layer drafts; else rows alone are measured
};

// Of a step of `batch` sequences with `depth` drafts each.
struct StepCost {
  int32_t batch = 0;
  int32_t depth = 0;
  double run_s = 0;
  double draft_s = 0;
};

// Batches of 1, 2, 4 and so on, as many as fit into about a second and a half by the trunk's own clock; the
// rest is left to extrapolation. Of one sequence at least the depths 0, 1 and 4 are measured; of others
// nothing is told unless it was two depths. Takes slots and pages from 0 on, which must be free, and gives
// them back. A trunk that does not say how long it took is asked once and measured not at all. Errors are the
// trunk's.
absl::StatusOr<std::vector<StepCost>> MeasureStepCosts(Trunk& trunk, const CalibrationLimits& limits,
                                                       const std::function<SequenceId()>& new_sequence,
                                                       const std::function<StepId()>& new_step);

}  // namespace paceline
