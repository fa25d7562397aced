// The system's own routing decides: a datagram socket that is connected has the address its packets would
// leave from, and an interface has that address.
#include "transport/interfaces.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

namespace paceline {
namespace {

constexpr char kUnknown[] = "unknown";
constexpr uint16_t kAnyPort = 9;  // a connected datagram socket wants one

union Address {
  sockaddr any;
  sockaddr_in v4;
  sockaddr_in6 v6;
};

// The host of "host:port", numeric. False where it is none.
bool Parse(std::string_view text, Address* out) {
  std::string host(text.substr(0, text.rfind(':')));
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  std::memset(out, 0, sizeof *out);
  if (inet_pton(AF_INET, host.c_str(), &out->v4.sin_addr) == 1) {
    out->v4.sin_family = AF_INET;
    out->v4.sin_port = htons(kAnyPort);
    return true;
  }
  if (inet_pton(AF_INET6, host.c_str(), &out->v6.sin6_addr) == 1) {
    out->v6.sin6_family = AF_INET6;
    out->v6.sin6_port = htons(kAnyPort);
    return true;
  }
  return false;
}

bool SameHost(const Address& a, const sockaddr* b) {
  if (b == nullptr || b->sa_family != a.any.sa_family) return false;
  if (a.any.sa_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in*>(b)->sin_addr.s_addr == a.v4.sin_addr.s_addr;
  }
  const in6_addr& other = reinterpret_cast<const sockaddr_in6*>(b)->sin6_addr;
  return std::memcmp(&other, &a.v6.sin6_addr, sizeof other) == 0;
}

}  // namespace

std::string InterfaceTowards(std::string_view address) {
  Address at;
  if (!Parse(address, &at)) return kUnknown;
  const int fd = socket(at.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return kUnknown;
  socklen_t size = sizeof at;
  const bool routed = connect(fd, &at.any, size) == 0 && getsockname(fd, &at.any, &size) == 0;
  close(fd);
  ifaddrs* all = nullptr;
  if (!routed || getifaddrs(&all) != 0) return kUnknown;
  std::string name = kUnknown;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (SameHost(at, one->ifa_addr)) {
      name = one->ifa_name;
      break;
    }
  }
  freeifaddrs(all);
  return name;
}

}  // namespace paceline
