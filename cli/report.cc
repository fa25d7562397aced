// Shared parts of JSON answers.
#include "cli/report.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string>

#include "absl/strings/str_format.h"

namespace paceline::cli {

nlohmann::json ExactFloat(float x) {
  // nlohmann prints a double so that it reads back as that double; the double nearest the shortest fp32
  // decimal prints as just that decimal.
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof(text), x);
  return std::strtod(std::string(text, end.ptr).c_str(), nullptr);
}

nlohmann::json PerSourceJson(const SpeculationStats& stats) {
  nlohmann::json out = nlohmann::json::object();
  for (const SpeculationStats::Source& source : stats.sources) {
    out[source.name] = {{"steps", source.steps}, {"drafted", source.drafted}, {"accepted", source.accepted}};
  }
  return out;
}

nlohmann::json SpeculationJson(const SpeculationStats& stats) {
  return {{"method", stats.method},
          {"steps", stats.steps},
          {"drafted", stats.drafted},
          {"accepted", stats.accepted},
          {"accepted_per_position", stats.accepted_per_position},
          {"decode_steps", stats.decode_steps},
          {"histogram", stats.acceptance_histogram},
          {"per_source", PerSourceJson(stats)}};
}

nlohmann::json DistinctExpertsJson(const std::vector<ExpertHistogram>& layers) {
  nlohmann::json out = {{"bounds", ExpertHistogram::kBounds}, {"layers", nlohmann::json::array()}};
  for (const ExpertHistogram& layer : layers) out["layers"].push_back(layer.counts);
  return out;
}

std::string SpeculationLine(const SpeculationStats& stats, int64_t tokens) {
  if (stats.drafted == 0) return {};
  std::string positions;
  for (const int64_t n : stats.accepted_per_position) {
    absl::StrAppendFormat(&positions, "%s%.2f", positions.empty() ? "" : " ",
                          static_cast<double>(n) / static_cast<double>(stats.steps));
  }
  const double steps = static_cast<double>(std::max<int64_t>(1, stats.decode_steps));
  return absl::StrFormat(
      "%s: %.2f tokens per step, %d of %d drafts accepted (%.0f %%; by position %s), %d steps", stats.method,
      static_cast<double>(tokens) / steps, stats.accepted, stats.drafted,
      100 * static_cast<double>(stats.accepted) / static_cast<double>(stats.drafted), positions,
      stats.decode_steps);
}

double BytesPerLayer(const ExchangeCounters& counters) {
  return counters.layers == 0 ? 0.0
                              : static_cast<double>(counters.bytes) / static_cast<double>(counters.layers);
}

nlohmann::json ClusterJson(const Head& head, const ExchangeCounters& counters) {
  nlohmann::json out;
  const std::vector<int64_t> leaves = head.LeavesPerNode();
  out["nodes"] = leaves.size();
  out["epoch"] = head.epoch().value();
  out["fingerprint"] = head.info().fingerprint;
  out["leaves_per_node"] = leaves;
  out["bytes_per_layer"] = BytesPerLayer(counters);
  return out;
}

}  // namespace paceline::cli
