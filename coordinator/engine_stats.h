// What everything outside the engine's thread may know of its state, and how the engine counts it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/cluster.h"
#include "base/step.h"
#include "coordinator/request.h"
#include "coordinator/scheduler.h"
#include "coordinator/serving_counters.h"

namespace paceline {

// Speculation of all requests since the start.
struct SpeculationCounters {
  std::array<SourceStats, kDraftSources> sources;  // [IndexOf(source)]; a step of one sequence each
  std::array<int64_t, kMaxDraft + 1> depths{};  // [drafts verified] steps of a sequence that brought tokens
  int64_t decode_steps = 0;  // steps of a sequence that brought tokens: its prompt's last too
  double draft_s = 0;        // drafting
  double verify_s = 0;       // the rest of steps with drafts
};

// In how many steps how many experts of a layer were visited.
struct ExpertHistogram {
  static constexpr std::array<int32_t, 11> kBounds = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
  std::array<int64_t, kBounds.size() + 1> counts{};  // up to kBounds[i], and above all
  int64_t sum = 0;

  void Count(int32_t experts);
};

// What everything outside the engine thread may know of its state; as of the end of the last step.
struct EngineStats {
  int32_t running = 0;
  int32_t waiting = 0;
  int32_t max_running = 0;
  int32_t pages_used = 0;    // that running sequences hold
  int32_t pages_cached = 0;  // with text to go on from, held or not
  int32_t pages_total = 0;
  int64_t steps = 0;
  int64_t tokens = 0;     // generated
  int64_t rows = 0;       // run, prompts included
  int64_t step_rows = 0;  // of the last step
  double step_s = 0;      // of it, by the trunk's own clock; 0: it does not say
  SchedulerCounters scheduling;
  int32_t snapshots = 0;  // states to go on from
  int32_t snapshots_total = 0;
  ExchangeCounters exchange;  // for requests: neither measuring at the start nor proofs of readiness
  SpeculationCounters speculation;
  std::vector<ExpertHistogram> distinct_experts;  // [MoE layers]; empty until a trunk counts them
  ServingCounters serving;

  // A step that ran: its rows, its times, the experts it visited.
  void CountStep(const StepPlan& plan, const StepResult& result);
};

// What a client hears of the drafts of its request.
SpeculationStats StatsOf(int64_t decode_steps, const std::array<SourceStats, kDraftSources>& sources);

}  // namespace paceline
