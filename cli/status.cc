// `status`: what runs where, asked of a running head.
#include <grpcpp/grpcpp.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/url.h"
#include "nlohmann/json.hpp"
#include "paceline/control/v1/control.grpc.pb.h"

namespace paceline::cli {
namespace {

constexpr auto kPatience = std::chrono::seconds(5);

// "CLUSTER_STATE_READY" as "ready".
std::string LowerTail(const std::string& name, size_t prefix) {
  std::string out = name.substr(std::min(prefix, name.size()));
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}
std::string Name(control::v1::ClusterState state) {
  return LowerTail(control::v1::ClusterState_Name(state), sizeof("CLUSTER_STATE_") - 1);
}
std::string Name(control::v1::NodeState state) {
  return LowerTail(control::v1::NodeState_Name(state), sizeof("NODE_STATE_") - 1);
}
std::string Name(control::v1::NodeRole role) {
  return LowerTail(control::v1::NodeRole_Name(role), sizeof("NODE_ROLE_") - 1);
}

absl::StatusOr<control::v1::GetClusterStatusResponse> Ask(const std::string& url) {
  ASSIGN_OR_RETURN(const std::string address, GrpcAddress(url));
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  const auto stub = control::v1::ControlService::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  control::v1::GetClusterStatusResponse response;
  const grpc::Status answered = stub->GetClusterStatus(&context, {}, &response);
  if (answered.ok()) return response;
  return Error(errors::kUnreachable, absl::StrCat("no head answers at ", address, " (", answered.error_message(),
                                                  "); compare with grpc= in the ready line of `paceline serve`"));
}

void PrintJson(const control::v1::GetClusterStatusResponse& status) {
  nlohmann::ordered_json out;
  out["state"] = Name(status.state());
  out["epoch"] = status.epoch();
  out["model"] = status.model();
  out["nodes"] = nlohmann::ordered_json::array();
  for (const control::v1::Node& node : status.nodes()) {
    nlohmann::ordered_json entry;
    entry["name"] = node.name();
    entry["role"] = Name(node.role());
    entry["pid"] = node.pid();
    entry["address"] = node.address();
    entry["state"] = Name(node.state());
    entry["experts"] = node.experts();
    entry["leaves"] = node.leaves();
    entry["bytes"] = node.bytes();
    entry["backend"] = node.backend();
    entry["fingerprint"] = node.fingerprint();
    out["nodes"].push_back(std::move(entry));
  }
  std::printf("%s\n", out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

void PrintTable(const control::v1::GetClusterStatusResponse& status) {
  std::printf("%s, epoch %llu, model %s\n", Name(status.state()).c_str(),
              static_cast<unsigned long long>(status.epoch()), status.model().c_str());
  if (!status.degraded().empty()) std::printf("%s\n", status.degraded().c_str());
  std::printf("%-24s %-7s %-8s %8s %8s %10s  %-10s %-22s %s\n", "NODE", "ROLE", "STATE", "EXPERTS", "LEAVES", "MIB",
              "BACKEND", "ADDRESS", "FINGERPRINT");
  for (const control::v1::Node& node : status.nodes()) {
    std::printf("%-24s %-7s %-8s %8lld %8lld %10.1f  %-10s %-22s %s\n", node.name().c_str(), Name(node.role()).c_str(),
                Name(node.state()).c_str(), static_cast<long long>(node.experts()),
                static_cast<long long>(node.leaves()), static_cast<double>(node.bytes()) / (1 << 20),
                node.backend().c_str(), node.address().c_str(), node.fingerprint().c_str());
  }
}

}  // namespace

int Run(const StatusOptions& options) {
  const absl::StatusOr<control::v1::GetClusterStatusResponse> status = Ask(options.url);
  if (!status.ok()) return StdErr().Fail(status.status());
  options.json ? PrintJson(*status) : PrintTable(*status);
  return 0;
}

}  // namespace paceline::cli
