// absl::Status to and from gRPC: the code and the sentence as they are, reason, field and facts as google.rpc
// details.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace paceline {

// `domain` is the full name of the service that answers.
grpc::Status ToGrpc(const absl::Status& status, const std::string& domain);

// The way back: payloads hold again what ToGrpc was given.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace paceline
