// The state of a head.
#include "coordinator/serving_state.h"

#include "coordinator/api_error.h"

namespace paceline {

ClusterState ServingState::Now() const {
  if (draining_) return ClusterState::kDraining;
  if (served_ && !cluster_.Facts().degraded.empty()) return ClusterState::kDegraded;
  return serving_ ? ClusterState::kReady : ClusterState::kLoading;
}

absl::Status ServingState::Admit() const {
  switch (Now()) {
    case ClusterState::kReady:
    case ClusterState::kDegraded:
      return absl::OkStatus();
    case ClusterState::kDraining:
      return WithReason(absl::UnavailableError("the head is draining and takes no new requests; ask another"),
                        reasons::kDraining);
    case ClusterState::kLoading:
      break;
  }
  return WithReason(absl::UnavailableError(
                        "the model is loading or its workers are still to prove themselves; try again soon"),
                    reasons::kModelLoading);
}

}  // namespace paceline
