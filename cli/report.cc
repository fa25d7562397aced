// Shared parts of JSON answers.
#include "cli/report.h"

#include <charconv>
#include <cstdlib>
#include <string>

namespace paceline::cli {

nlohmann::json ExactFloat(float x) {
  // nlohmann prints a double so that it reads back as that double; the double nearest the shortest fp32
  // decimal prints as just that decimal.
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof(text), x);
  return std::strtod(std::string(text, end.ptr).c_str(), nullptr);
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
