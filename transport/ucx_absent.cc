// The ucx link of a build without UCX: says so.
#include "base/error.h"
#include "transport/link_kinds.h"

namespace paceline {
namespace {

absl::Status Absent() {
  return Error(errors::kLinkAbsent,
               "this build has no ucx link; install UCX and configure with PACELINE_UCX=ON");
}

}  // namespace

bool UcxIsBuilt() { return false; }
absl::StatusOr<std::unique_ptr<LinkListener>> ListenUcx(std::string_view, int) { return Absent(); }
absl::StatusOr<std::unique_ptr<Link>> ConnectUcx(std::string_view, TimePoint) { return Absent(); }

}  // namespace paceline
