// Error details: google.rpc messages in `grpc-status-details-bin`.
#include "coordinator/status_wire.h"

#include "coordinator/api_error.h"
#include "google/rpc/error_details.pb.h"

namespace paceline {
namespace {

// When to try again: a full queue empties and a lost worker returns within seconds.
constexpr int64_t kRetrySeconds = 1;

}  // namespace

grpc::Status ToGrpc(const absl::Status& status, const std::string& domain) {
  if (status.ok()) return grpc::Status::OK;
  const ErrorFacts facts = FactsOf(status);
  const std::string message(status.message());
  const auto code = static_cast<grpc::StatusCode>(status.code());  // the numbers are the same by design
  google::rpc::Status details;
  details.set_code(static_cast<int32_t>(status.code()));
  details.set_message(message);
  google::rpc::ErrorInfo info;
  info.set_reason(facts.reason);
  info.set_domain(domain);
  for (const auto& [key, value] : facts.metadata) (*info.mutable_metadata())[key] = value;
  details.add_details()->PackFrom(info);
  if (!facts.field.empty()) {
    google::rpc::BadRequest bad;
    auto* violation = bad.add_field_violations();
    violation->set_field(facts.field);
    violation->set_description(message);
    details.add_details()->PackFrom(bad);
  }
  if (facts.reason == reasons::kModelNotFound) {
    google::rpc::ResourceInfo resource;
    resource.set_resource_type("model");
    const auto name = facts.metadata.find("model");
    if (name != facts.metadata.end()) resource.set_resource_name(name->second);
    resource.set_description(message);
    details.add_details()->PackFrom(resource);
  }
  if (code == grpc::StatusCode::UNAVAILABLE || code == grpc::StatusCode::RESOURCE_EXHAUSTED) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(kRetrySeconds);
    details.add_details()->PackFrom(retry);
  }
  return grpc::Status(code, message, details.SerializeAsString());
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status out(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return out;
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad;
    if (any.UnpackTo(&info)) {
      out = WithReason(std::move(out), info.reason());
      for (const auto& [key, value] : info.metadata()) out = WithMetadata(std::move(out), key, value);
    } else if (any.UnpackTo(&bad) && bad.field_violations_size() > 0) {
      out = WithField(std::move(out), bad.field_violations(0).field());
    }
  }
  return out;
}

}  // namespace paceline
