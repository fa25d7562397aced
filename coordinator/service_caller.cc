// Metadata to a name.
#include "coordinator/service_caller.h"

#include <string_view>

#include "coordinator/api_error.h"

namespace paceline {
namespace {

std::string_view ValueOf(const grpc::CallbackServerContext& context, const char* name) {
  const auto found = context.client_metadata().find(name);
  if (found == context.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

}  // namespace

absl::StatusOr<std::string> CallerOf(const grpc::CallbackServerContext& context, const ApiKeys& keys) {
  if (keys.empty()) return std::string();
  const std::string* name = keys.NameOf(ValueOf(context, "authorization"), ValueOf(context, "x-api-key"));
  if (name != nullptr) return *name;
  return WithReason(absl::UnauthenticatedError(
                        "this head needs an API key: send it as metadata `authorization: Bearer KEY`"),
                    reasons::kApiKeyInvalid);
}

}  // namespace paceline
