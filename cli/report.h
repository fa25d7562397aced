// What several commands print about a run: the cluster part of their JSON, and floats that read back as the
// same fp32.
#pragma once

#include <string>
#include <vector>

#include "base/step.h"
#include "cli/head.h"
#include "coordinator/engine.h"
#include "coordinator/request.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {

// How long commands that own their workers wait for them to load.
inline constexpr Duration kLocalPatience = std::chrono::minutes(60);

// The shortest decimal that reads back as the same fp32, as a JSON number.
nlohmann::json ExactFloat(float x);

// {"nodes", "epoch", "fingerprint", "leaves_per_node", "bytes_per_layer"}.
nlohmann::json ClusterJson(const Head& head, const ExchangeCounters& counters);

// {"mtp": {"steps", "drafted", "accepted"}, ..} of the sources that drafted.
nlohmann::json PerSourceJson(const SpeculationStats& stats);
// Everything the counts of one generation say.
nlohmann::json SpeculationJson(const SpeculationStats& stats);
// {"bounds": [..], "layers": [[steps with at most bounds[0] experts, .., with more than the last], ..]}.
nlohmann::json DistinctExpertsJson(const std::vector<ExpertHistogram>& layers);
// [position in the draft] accepted of the drafts that were made at that position. Empty when nothing was
// drafted, or the head that counted does not say how deep.
std::vector<double> AcceptancePerPosition(const SpeculationStats& stats);
// The same for people: "0.70 0.40", "-" for none.
std::string AcceptanceText(const SpeculationStats& stats);
// "mtp: 1.90 tokens per step, 40 of 80 drafts accepted (50 %; by position 0.70 0.30), 41 steps"; empty when
// nothing was drafted.
std::string SpeculationLine(const SpeculationStats& stats, int64_t tokens);

// Bytes of both directions per layer exchange, 0 without workers.
double BytesPerLayer(const ExchangeCounters& counters);

}  // namespace paceline::cli
