// A cluster of a head and a worker called box, which a test may lose.
#pragma once

#include <mutex>
#include <string>

#include "base/cluster.h"

namespace paceline {

class TwoNodes final : public ClusterView {
 public:
  ClusterFacts Facts() const override {
    std::lock_guard lock(mutex_);
    return facts_;
  }
  void Lose(const std::string& sentence) {
    std::lock_guard lock(mutex_);
    facts_.degraded = sentence;
    facts_.nodes[1].state = sentence.empty() ? NodeState::kReady : NodeState::kLost;
  }
  TwoNodes() {
    facts_.epoch = Epoch(7);
    facts_.nodes.resize(2);
    facts_.nodes[0] = {"head", true, 11, "127.0.0.1:1", NodeState::kReady, 4, 8, 1000, "cpu", "f00d"};
    facts_.nodes[1] = {"box", false, 12, "127.0.0.1:2", NodeState::kReady, 3, 6, 900, "reference", "f00d"};
  }

 private:
  mutable std::mutex mutex_;
  ClusterFacts facts_;
};

}  // namespace paceline
