// The tcp link: a little-endian 32-bit length before every message, TCP_NODELAY, one sendmsg per message when
// the kernel takes it whole. Sockets never block; what the kernel refuses waits in a queue that every later
// call pushes on.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "transport/link_kinds.h"

namespace paceline {
namespace {

constexpr size_t kPrefixBytes = 4;
constexpr size_t kMaxParts = 512;          // of one sendmsg; the kernel's bound is 1,024
constexpr size_t kFirstBuffer = 64 << 10;  // bytes

std::string Errno() { return std::strerror(errno); }

class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

// Bytes that grow without being cleared first.
class Buffer {
 public:
  std::byte* data() { return data_.get(); }
  size_t capacity() const { return capacity_; }
  // At least `wanted` bytes; the first `keep` stay.
  void Reserve(size_t wanted, size_t keep) {
    if (wanted <= capacity_) return;
    auto grown = std::make_unique_for_overwrite<std::byte[]>(wanted);
    if (keep > 0) std::memcpy(grown.get(), data_.get(), keep);
    data_ = std::move(grown);
    capacity_ = wanted;
  }

 private:
  std::unique_ptr<std::byte[]> data_;
  size_t capacity_ = 0;
};

class TcpLink final : public Link {
 public:
  TcpLink(Socket socket, std::string peer) : socket_(std::move(socket)), name_("tcp " + peer) {
    const int on = 1;
    setsockopt(socket_.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    in_.Reserve(kFirstBuffer, 0);
  }

  absl::Status Send(std::span<const Bytes> parts) override {
    if (absl::Status dead = Dead(); !dead.ok()) return dead;
    if (!send_failed_.ok()) return send_failed_;
    ASSIGN_OR_RETURN(const size_t size, MessageSize(parts));
    const auto prefix = static_cast<uint32_t>(size);
    bytes_ += static_cast<int64_t>(kPrefixBytes + size);
    size_t sent = 0;
    if (!pending() && parts.size() < kMaxParts) {
      std::array<iovec, kMaxParts> pieces;
      size_t count = 0;
      pieces[count++] = {const_cast<uint32_t*>(&prefix), kPrefixBytes};
      for (const Bytes part : parts) pieces[count++] = {const_cast<std::byte*>(part.data()), part.size()};
      const msghdr message{.msg_name = nullptr,
                           .msg_namelen = 0,
                           .msg_iov = pieces.data(),
                           .msg_iovlen = count,
                           .msg_control = nullptr,
                           .msg_controllen = 0,
                           .msg_flags = 0};
      const ssize_t taken = sendmsg(socket_.fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (taken < 0 && !WouldBlock())
        return send_failed_ = PeerGone(name_, absl::StrCat("sending failed: ", Errno()));
      sent = taken < 0 ? 0 : static_cast<size_t>(taken);
    }
    if (sent < kPrefixBytes + size) {
      Queue(std::as_bytes(std::span(&prefix, 1)), sent);
      for (const Bytes part : parts) Queue(part, sent);
      send_failed_ = Flush();
    }
    return send_failed_;
  }

  absl::StatusOr<Bytes> TryReceive() override {
    if (absl::Status dead = Dead(); !dead.ok()) return dead;
    if (send_failed_.ok()) send_failed_ = Flush();
    begin_ += std::exchange(current_, 0);
    for (;;) {
      const size_t have = end_ - begin_;
      size_t wanted = kPrefixBytes;
      if (have >= kPrefixBytes) {
        uint32_t size;
        std::memcpy(&size, in_.data() + begin_, kPrefixBytes);
        if (size == 0 || size > kMaxMessageBytes) {
          return Die(absl::StrCat("a message of ", size, " bytes was announced; expected 1 to ",
                                  kMaxMessageBytes, ", so this is no Paceline link"));
        }
        wanted += size;
        if (have >= wanted) {
          current_ = wanted;
          bytes_ += static_cast<int64_t>(wanted);
          return Bytes(in_.data() + begin_ + kPrefixBytes, size);
        }
      }
      MakeRoom(have, wanted);
      const ssize_t got = recv(socket_.fd(), in_.data() + end_, in_.capacity() - end_, MSG_DONTWAIT);
      if (got > 0) {
        end_ += static_cast<size_t>(got);
        continue;
      }
      if (got == 0) return Die("the peer closed the connection");
      if (WouldBlock()) {
        if (!send_failed_.ok()) return dead_ = send_failed_;
        return Bytes();
      }
      return Die(absl::StrCat("receiving failed: ", Errno()));
    }
  }

  void Wait(TimePoint deadline) override {
    if (!Dead().ok() || Complete()) return;
    if (send_failed_.ok()) send_failed_ = Flush();
    if (!send_failed_.ok()) return;
    PollUntil(socket_.fd(), static_cast<short>(pending() ? POLLIN | POLLOUT : POLLIN), wake_, deadline);
    wake_.Drain();  // an abort is seen by its flag
  }

  void Wake() override { wake_.Signal(); }

  void Abort(absl::Status why) override {
    abort_.Raise(std::move(why));
    wake_.Signal();
  }

  std::string Describe() const override { return name_; }
  int64_t bytes() const override { return bytes_; }

 private:
  static bool WouldBlock() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

  absl::Status Dead() const { return abort_.raised() ? abort_.why() : dead_; }
  absl::Status Die(std::string_view what) { return dead_ = PeerGone(name_, what); }

  bool pending() const { return out_begin_ < out_.size(); }

  // True when TryReceive would return a message without the kernel's help.
  bool Complete() {
    const size_t begin = begin_ + current_;
    uint32_t size;
    if (end_ - begin < kPrefixBytes) return false;
    std::memcpy(&size, in_.data() + begin, kPrefixBytes);
    return end_ - begin >= kPrefixBytes + size_t{size};
  }

  // Appends what of `part` was not among the `sent` bytes already taken.
  void Queue(Bytes part, size_t& sent) {
    const size_t skip = std::min(sent, part.size());
    sent -= skip;
    out_.insert(out_.end(), part.begin() + static_cast<ptrdiff_t>(skip), part.end());
  }

  absl::Status Flush() {
    while (pending()) {
      const ssize_t taken =
          send(socket_.fd(), out_.data() + out_begin_, out_.size() - out_begin_, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (taken < 0) {
        if (WouldBlock()) return absl::OkStatus();
        return PeerGone(name_, absl::StrCat("sending failed: ", Errno()));
      }
      out_begin_ += static_cast<size_t>(taken);
    }
    out_.clear();
    out_begin_ = 0;
    return absl::OkStatus();
  }

  // Room behind end_ for a message of `wanted` bytes of which `have` came. The buffer follows what arrived,
  // not what was announced: a peer must send a quarter of a large message before memory for the next step is
  // taken.
  void MakeRoom(size_t have, size_t wanted) {
    if (have == 0) begin_ = end_ = 0;
    if (begin_ + wanted > in_.capacity() && begin_ > 0) {
      std::memmove(in_.data(), in_.data() + begin_, have);
      begin_ = 0;
      end_ = have;
    }
    if (end_ == in_.capacity())
      in_.Reserve(std::max(kFirstBuffer, std::min(wanted + kFirstBuffer, 4 * have)), have);
  }

  Socket socket_;
  std::string name_;
  WakeEvent wake_;
  AbortFlag abort_;
  absl::Status dead_;
  absl::Status send_failed_;  // messages that came before are still handed out
  Buffer in_;
  size_t begin_ = 0;  // of the first message in `in_`
  size_t end_ = 0;
  size_t current_ = 0;  // bytes of the message handed out last, with its prefix
  std::vector<std::byte> out_;
  size_t out_begin_ = 0;
  int64_t bytes_ = 0;
};

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

absl::StatusOr<Addresses> Resolve(const std::string& host, const std::string& port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  if (const int bad = getaddrinfo(host.c_str(), port.c_str(), &hints, &list); bad != 0) {
    return Error(errors::kUnreachable, absl::StrCat("cannot resolve '", host, "': ", gai_strerror(bad)));
  }
  return Addresses(list);
}

std::string NameOf(const sockaddr_storage& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size());
    return JoinHostPort(text.data(), ntohs(v6.sin6_port));
  }
  const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
  inet_ntop(AF_INET, &v4.sin_addr, text.data(), text.size());
  return JoinHostPort(text.data(), ntohs(v4.sin_port));
}

class TcpListener final : public LinkListener {
 public:
  TcpListener(Socket socket, std::string address)
      : socket_(std::move(socket)), address_(std::move(address)) {}

  std::string address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Link>> Accept(TimePoint deadline) override {
    for (;;) {
      sockaddr_storage peer{};
      socklen_t size = sizeof(peer);
      const int fd =
          accept4(socket_.fd(), reinterpret_cast<sockaddr*>(&peer), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd >= 0) return std::make_unique<TcpLink>(Socket(fd), NameOf(peer));
      const bool transient =
          errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ECONNABORTED;
      if (!transient)
        return Error(errors::kUnreachable, absl::StrCat("accepting on ", address_, " failed: ", Errno()));
      if (Clock::Real().Now() >= deadline) return AcceptTimeout("tcp", address_);
      PollUntil(socket_.fd(), POLLIN, wake_, deadline);
    }
  }

 private:
  Socket socket_;
  std::string address_;
  WakeEvent wake_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LinkListener>> ListenTcp(std::string_view host, int port) {
  ASSIGN_OR_RETURN(const Addresses list,
                   Resolve(std::string(host), absl::StrCat(port), AI_PASSIVE | AI_NUMERICSERV));
  std::string last;
  for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
    Socket socket(::socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int on = 1;
    setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (socket.fd() < 0 || bind(socket.fd(), a->ai_addr, a->ai_addrlen) != 0 ||
        listen(socket.fd(), 64) != 0) {
      last = Errno();
      continue;
    }
    sockaddr_storage bound{};
    socklen_t size = sizeof(bound);
    getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&bound), &size);
    return std::make_unique<TcpListener>(std::move(socket), NameOf(bound));
  }
  return Error(errors::kUnreachable, absl::StrCat("cannot listen on ", JoinHostPort(host, port), ": ", last));
}

absl::StatusOr<std::unique_ptr<Link>> ConnectTcp(std::string_view address, TimePoint deadline) {
  ASSIGN_OR_RETURN(const HostPort where, SplitHostPort(address));
  ASSIGN_OR_RETURN(const Addresses list, Resolve(where.host, where.port, AI_NUMERICSERV));
  const WakeEvent never;
  std::string last;
  for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
    Socket socket(::socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (socket.fd() < 0 || (connect(socket.fd(), a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS)) {
      last = Errno();
      continue;
    }
    for (;;) {
      pollfd ready{.fd = socket.fd(), .events = POLLOUT, .revents = 0};
      if (poll(&ready, 1, 0) > 0) break;
      if (Clock::Real().Now() >= deadline) {
        return Error(errors::kTimeout,
                     absl::StrCat("no answer from ", ToAbsl(address), " before the deadline"));
      }
      PollUntil(socket.fd(), POLLOUT, never, deadline);
    }
    int failed = 0;
    socklen_t size = sizeof(failed);
    getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &failed, &size);
    if (failed == 0) return std::make_unique<TcpLink>(std::move(socket), std::string(address));
    last = std::strerror(failed);
  }
  return Error(errors::kUnreachable, absl::StrCat("cannot connect to ", ToAbsl(address), ": ", last));
}

}  // namespace paceline
