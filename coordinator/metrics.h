// What a scrape shows: vLLM's names where vLLM has the thing, so that dashboards and scalers made for it work
// untouched, and `paceline_` for all of ours. docs/METRICS.md lists every one of them.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/cluster.h"
#include "base/process_facts.h"
#include "base/step.h"
#include "coordinator/call_counters.h"
#include "coordinator/engine.h"
#include "coordinator/serving_state.h"

namespace paceline {

// A moment of a head.
struct MetricsSnapshot {
  EngineStats engine;
  std::map<std::string, int64_t> refused;  // Engine::refusals()
  TrunkInfo model;
  ClusterFacts cluster;
  ClusterState state = ClusterState::kLoading;
  std::map<CallCounters::Name, int64_t> calls;
  ProcessFacts process;
};

struct MetricsOptions {
  std::string version;
  bool vllm_names = true;  // what vLLM has too stands under its names as well
};

// Of the parts that every front has. Thread-safe, as they are.
MetricsSnapshot TakeSnapshot(const Engine& engine, const ClusterView& cluster, const ServingState& state);

// Text format 0.0.4.
std::string MetricsText(const MetricsSnapshot& snapshot, const MetricsOptions& options = {});

}  // namespace paceline
