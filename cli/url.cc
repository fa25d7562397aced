// One scheme so far.
#include "cli/url.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace paceline::cli {
namespace {
constexpr char kScheme[] = "grpc://";
}

bool IsUrl(const std::string& model) { return model.rfind(kScheme, 0) == 0; }

absl::StatusOr<std::string> GrpcAddress(const std::string& url) {
  std::string address = IsUrl(url) ? url.substr(sizeof(kScheme) - 1) : "";
  if (!address.empty() && address.back() == '/') address.pop_back();
  const size_t colon = address.rfind(':');
  const bool has_port = colon != std::string::npos && colon > 0 && colon + 1 < address.size() &&
                        address.find_first_not_of("0123456789", colon + 1) == std::string::npos;
  if (!has_port) return Error(errors::kOption, absl::StrCat("expected grpc://HOST:PORT, got '", url, "'"));
  return address;
}

}  // namespace paceline::cli
