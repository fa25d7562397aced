// `status`: what runs where, asked of a running head.
#include "base/status.h"

#include <cstdio>

#include "cli/api_key.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "coordinator/client.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {
namespace {

constexpr Duration kPatience = std::chrono::seconds(5);

absl::StatusOr<ClusterStatus> Ask(const std::string& url) {
  ASSIGN_OR_RETURN(const std::string address, AddressOfUrl(url));
  return ApiClient(address, ApiKeyOfEnvironment()).Status(kPatience);
}

absl::StatusOr<std::string> AskMetrics(const std::string& url) {
  ASSIGN_OR_RETURN(const std::string address, AddressOfUrl(url));
  return ApiClient(address, ApiKeyOfEnvironment()).Metrics(kPatience);
}

const char* RoleName(const NodeFacts& node) { return node.head ? "head" : "worker"; }

void PrintJson(const ClusterStatus& status) {
  nlohmann::ordered_json out;
  out["state"] = ClusterStateName(status.state);
  out["epoch"] = status.facts.epoch.value();
  out["model"] = status.model;
  out["nodes"] = nlohmann::ordered_json::array();
  for (const NodeFacts& node : status.facts.nodes) {
    nlohmann::ordered_json entry;
    entry["name"] = node.name;
    entry["role"] = RoleName(node);
    entry["pid"] = node.pid;
    entry["address"] = node.address;
    entry["state"] = NodeStateName(node.state);
    entry["experts"] = node.experts;
    entry["leaves"] = node.leaves;
    entry["bytes"] = node.bytes;
    entry["backend"] = node.backend;
    entry["fingerprint"] = node.fingerprint;
    out["nodes"].push_back(std::move(entry));
  }
  std::printf("%s\n", out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

void PrintTable(const ClusterStatus& status) {
  std::printf("%s, epoch %u, model %s\n", ClusterStateName(status.state), status.facts.epoch.value(),
              status.model.c_str());
  if (!status.facts.degraded.empty()) std::printf("%s\n", status.facts.degraded.c_str());
  std::printf("%-24s %-7s %-8s %8s %8s %10s  %-12s %-22s %s\n", "NODE", "ROLE", "STATE", "EXPERTS", "LEAVES",
              "MIB", "BACKEND", "ADDRESS", "FINGERPRINT");
  for (const NodeFacts& node : status.facts.nodes) {
    std::printf("%-24s %-7s %-8s %8lld %8lld %10.1f  %-12s %-22s %s\n", node.name.c_str(), RoleName(node),
                NodeStateName(node.state), static_cast<long long>(node.experts),
                static_cast<long long>(node.leaves), static_cast<double>(node.bytes) / (1 << 20),
                node.backend.c_str(), node.address.c_str(), node.fingerprint.c_str());
  }
}

}  // namespace

int Run(const StatusOptions& options) {
  if (options.metrics) {
    const absl::StatusOr<std::string> text = AskMetrics(options.url);
    if (!text.ok()) return StdErr().Fail(text.status());
    std::fputs(text->c_str(), stdout);
    return 0;
  }
  const absl::StatusOr<ClusterStatus> status = Ask(options.url);
  if (!status.ok()) return StdErr().Fail(status.status());
  options.json ? PrintJson(*status) : PrintTable(*status);
  return 0;
}

}  // namespace paceline::cli
