// Who calls the gRPC API: the same keys as over HTTP, in the metadata.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/api_keys.h"
#include "grpcpp/server_context.h"

namespace paceline {

// The name of the key that the call shows as `authorization: Bearer KEY` or `x-api-key: KEY`; "" where there
// are no keys. Unauthenticated (API_KEY_INVALID) where it shows none that is known.
absl::StatusOr<std::string> CallerOf(const grpc::CallbackServerContext& context, const ApiKeys& keys);

}  // namespace paceline
