// Counters as Prometheus reads them: vLLM's names where vLLM has the thing, so that dashboards and scalers made
// for it work untouched, and `paceline_` for all of ours.
#pragma once

#include <string>

#include "base/step.h"
#include "coordinator/engine.h"

namespace paceline {

// Text format 0.0.4.
std::string MetricsText(const EngineStats& stats, const TrunkInfo& info);

}  // namespace paceline
