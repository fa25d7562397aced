// Links by name, and which of them this build has.
#include <arpa/inet.h>
#include <netinet/in.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "transport/link_kinds.h"

namespace paceline {
namespace {

absl::Status NotBuilt(std::string_view kind) {
  return Error(errors::kLinkAbsent, absl::StrCat("this build has no link '", ToAbsl(kind), "'; it has ",
                                                 absl::StrJoin(LinkKinds(), ", ")));
}

}  // namespace

std::vector<std::string> LinkKinds() {
  std::vector<std::string> kinds = {"loopback", "tcp"};
  if (UcxIsBuilt()) kinds.emplace_back("ucx");
  return kinds;
}

absl::StatusOr<std::unique_ptr<LinkListener>> ListenLink(std::string_view kind, std::string_view host,
                                                         int port) {
  if (kind == "loopback") return ListenLoopback();
  if (kind == "tcp") return ListenTcp(host, port);
  if (kind == "ucx" && UcxIsBuilt()) return ListenUcx(host, port);
  return NotBuilt(kind);
}

absl::StatusOr<std::unique_ptr<Link>> ConnectLink(std::string_view kind, std::string_view address,
                                                  TimePoint deadline) {
  if (kind == "loopback") return ConnectLoopback(address);
  if (kind == "tcp") return ConnectTcp(address, deadline);
  if (kind == "ucx" && UcxIsBuilt()) return ConnectUcx(address, deadline);
  return NotBuilt(kind);
}

bool IsLoopbackAddress(std::string_view host) {
  const std::string name(host);
  in_addr v4{};
  if (inet_pton(AF_INET, name.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, name.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace paceline
