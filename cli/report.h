// What several commands print about a run: the cluster part of their JSON, and floats that read back as the
// same fp32.
#pragma once

#include "base/step.h"
#include "cli/head.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {

// How long commands that own their workers wait for them to load.
inline constexpr Duration kLocalPatience = std::chrono::minutes(60);

// The shortest decimal that reads back as the same fp32, as a JSON number.
nlohmann::json ExactFloat(float x);

// {"nodes", "epoch", "fingerprint", "leaves_per_node", "bytes_per_layer"}.
nlohmann::json ClusterJson(const Head& head, const ExchangeCounters& counters);

// Bytes of both directions per layer exchange, 0 without workers.
double BytesPerLayer(const ExchangeCounters& counters);

}  // namespace paceline::cli
