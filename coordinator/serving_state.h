// What the API fronts of a head share: whether it takes requests (what the serving layer said last, and what
// the cluster says now), and the counts of what they answered.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "base/cluster.h"
#include "coordinator/call_counters.h"

namespace paceline {

enum class ClusterState { kLoading, kReady, kDegraded, kDraining };
constexpr const char* ClusterStateName(ClusterState state) {
  switch (state) {
    case ClusterState::kLoading:
      return "loading";
    case ClusterState::kReady:
      return "ready";
    case ClusterState::kDegraded:
      return "degraded";
    case ClusterState::kDraining:
      return "draining";
  }
  return "?";
}

// Thread-safe.
class ServingState {
 public:
  // `cluster` outlives the state.
  explicit ServingState(const ClusterView& cluster) : cluster_(cluster) {}

  void SetServing(bool serving) {
    serving_ = serving;
    if (serving) served_ = true;
  }
  void SetDraining() { draining_ = true; }
  ClusterState Now() const;
  // Ok when requests are taken; else Unavailable with reason MODEL_LOADING or DRAINING. A degraded cluster is
  // the engine's to refuse, which names the worker.
  absl::Status Admit() const;

  // Answers outlive fronts, and count at their end.
  const std::shared_ptr<CallCounters>& calls() const { return calls_; }

 private:
  const ClusterView& cluster_;
  std::atomic<bool> serving_{false};
  std::atomic<bool> served_{false};  // ever: a cluster that has never been whole is loading, not degraded
  std::atomic<bool> draining_{false};
  const std::shared_ptr<CallCounters> calls_ = std::make_shared<CallCounters>();
};

}  // namespace paceline
