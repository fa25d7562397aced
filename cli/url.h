// Addresses of running heads as users write them.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace paceline::cli {

// True for "grpc://HOST:PORT": a running head instead of a directory.
bool IsUrl(const std::string& model);

// "HOST:PORT" of "grpc://HOST:PORT". CFG-002 for anything else.
absl::StatusOr<std::string> GrpcAddress(const std::string& url);

}  // namespace paceline::cli
