// Links by name, and which of them this build has.
#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/status.h"
#include "transport/gpu_calls.h"
#include "transport/link_kinds.h"
#include "transport/nccl_link.h"

namespace paceline {
namespace {

absl::Status NotBuilt(std::string_view kind) {
  return Error(errors::kLinkAbsent,
               absl::StrCat("this build has no link '", ToAbsl(kind), "'; it has ",
                            absl::StrJoin(LinkKinds(), ", "), ", and nccl where there are GPUs"));
}

}  // namespace

std::vector<std::string> LinkKinds() {
  std::vector<std::string> kinds = {"loopback", "tcp"};
  if (UcxIsBuilt()) kinds.emplace_back("ucx");
  return kinds;
}

absl::Status CheckLink(std::string_view kind) {
  if (kind == "nccl") return SystemGpuCalls().status();
  const std::vector<std::string> kinds = LinkKinds();
  return std::find(kinds.begin(), kinds.end(), kind) != kinds.end() ? absl::OkStatus() : NotBuilt(kind);
}

Duration LinkPatience(std::string_view kind) {
  return kind == "nccl" ? NcclOptions().make_timeout : std::chrono::seconds(10);
}

absl::StatusOr<std::unique_ptr<LinkListener>> ListenLink(std::string_view kind, std::string_view host,
                                                         int port) {
  RETURN_IF_ERROR(CheckLink(kind));
  if (kind == "loopback") return ListenLoopback();
  if (kind == "tcp") return ListenTcp(host, port);
  if (kind == "ucx") return ListenUcx(host, port);
  ASSIGN_OR_RETURN(const GpuCalls* const calls, SystemGpuCalls());
  return ListenNccl(*calls, host, port, {});
}

absl::StatusOr<std::unique_ptr<Link>> ConnectLink(std::string_view kind, std::string_view address,
                                                  TimePoint deadline, Epoch admitted) {
  RETURN_IF_ERROR(CheckLink(kind));
  if (kind == "loopback") return ConnectLoopback(address);
  if (kind == "tcp") return ConnectTcp(address, deadline);
  if (kind == "ucx") return ConnectUcx(address, deadline);
  ASSIGN_OR_RETURN(const GpuCalls* const calls, SystemGpuCalls());
  NcclOptions options;
  options.admitted = admitted;
  return ConnectNccl(*calls, address, deadline, options);
}

bool IsLoopbackAddress(std::string_view host) {
  const std::string name(host);
  in_addr v4{};
  if (inet_pton(AF_INET, name.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, name.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace paceline
