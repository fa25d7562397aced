// The cluster as the coordinator and `status` see it: plain facts, no links. The head's cluster object
// (worker/cluster.h) implements ClusterView; the coordinator only reads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/ids.h"

namespace paceline {

enum class NodeState { kJoining, kLoading, kReady, kLost };
constexpr const char* NodeStateName(NodeState state) {
  switch (state) {
    case NodeState::kJoining:
      return "joining";
    case NodeState::kLoading:
      return "loading";
    case NodeState::kReady:
      return "ready";
    case NodeState::kLost:
      return "lost";
  }
  return "?";
}

struct NodeFacts {
  std::string name;
  bool head = false;
  int64_t pid = 0;
  std::string address;
  NodeState state = NodeState::kJoining;
  int64_t experts = 0;
  int64_t leaves = 0;
  int64_t bytes = 0;  // expert weights held
  std::string backend;
  std::string fingerprint;
  int32_t rank = 0;
  double silence_s = 0;    // since its last heartbeat; 0: the head, and who has not joined
  std::string interface;   // of the head, on the way to a worker; "none" within one process
  int64_t load_bytes = 0;  // of weights, read so far
  int64_t load_total = 0;  // of them to read; 0 until known
};

struct ClusterFacts {
  Epoch epoch{0};
  std::vector<NodeFacts> nodes;  // by rank, head first
  // Empty when every expert has a holder; else the sentence that names the lost worker.
  std::string degraded;
};

// Thread-safe.
class ClusterView {
 public:
  virtual ~ClusterView() = default;
  virtual ClusterFacts Facts() const = 0;
};

}  // namespace paceline
