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
          {"drafted_per_position", stats.drafted_per_position},
          {"accepted_per_position", stats.accepted_per_position},
          {"acceptance_per_position", AcceptancePerPosition(stats)},
          {"decode_steps", stats.decode_steps},
          {"histogram", stats.acceptance_histogram},
          {"per_source", PerSourceJson(stats)}};
}

nlohmann::json DistinctExpertsJson(const std::vector<ExpertHistogram>& layers) {
  nlohmann::json out = {{"bounds", ExpertHistogram::kBounds}, {"layers", nlohmann::json::array()}};
  for (const ExpertHistogram& layer : layers) out["layers"].push_back(layer.counts);
  return out;
}

std::vector<double> AcceptancePerPosition(const SpeculationStats& stats) {
  std::vector<double> shares;
  const size_t depths = std::min(stats.drafted_per_position.size(), stats.accepted_per_position.size());
  for (size_t i = 0; i < depths && stats.drafted_per_position[i] > 0; ++i) {
    shares.push_back(static_cast<double>(stats.accepted_per_position[i]) /
                     static_cast<double>(stats.drafted_per_position[i]));
  }
  return shares;
}

std::string AcceptanceText(const SpeculationStats& stats) {
  std::string text;
  for (const double share : AcceptancePerPosition(stats))
    absl::StrAppendFormat(&text, "%s%.2f", text.empty() ? "" : " ", share);
  return text.empty() ? "-" : text;
}

std::string SpeculationLine(const SpeculationStats& stats, int64_t tokens) {
  if (stats.drafted == 0) return {};
  const double steps = static_cast<double>(std::max<int64_t>(1, stats.decode_steps));
  return absl::StrFormat(
      "%s: %.2f tokens per step, %d of %d drafts accepted (%.0f %%; by position %s), %d steps", stats.method,
      static_cast<double>(tokens) / steps, stats.accepted, stats.drafted,
      100 * static_cast<double>(stats.accepted) / static_cast<double>(stats.drafted), AcceptanceText(stats),
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
