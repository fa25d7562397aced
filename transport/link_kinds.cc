// What the kinds of link share: abort flag, wake event, poll with a deadline, addresses.
#include "transport/link_kinds.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"

namespace paceline {

void AbortFlag::Raise(absl::Status why) {
  const std::lock_guard lock(mutex_);
  if (raised()) return;
  why_ = why.ok() ? absl::CancelledError("the link was aborted") : std::move(why);
  raised_.store(true, std::memory_order_release);
}

absl::Status AbortFlag::why() const {
  const std::lock_guard lock(mutex_);
  return why_;
}

WakeEvent::WakeEvent() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) { CHECK_GE(fd_, 0); }
WakeEvent::~WakeEvent() { close(fd_); }

void WakeEvent::Signal() {
  // EAGAIN would mean that it is signalled already.
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof(one));
}

void WakeEvent::Drain() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = read(fd_, &count, sizeof(count));
}

absl::StatusOr<size_t> MessageSize(std::span<const Bytes> parts) {
  size_t size = 0;
  for (const Bytes part : parts) size += part.size();
  if (size == 0)
    return absl::InvalidArgumentError("an empty message: a link carries messages of 1 byte or more");
  if (size > static_cast<size_t>(kMaxMessageBytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a message of ", size, " bytes; a link carries at most ", kMaxMessageBytes));
  }
  return size;
}

absl::Status PeerGone(std::string_view link, std::string_view what) {
  return Error(errors::kNodeLost, absl::StrCat(ToAbsl(link), ": ", ToAbsl(what)));
}

absl::Status AcceptTimeout(std::string_view kind, std::string_view address) {
  return Error(errors::kTimeout, absl::StrCat("no ", ToAbsl(kind), " link arrived at ", ToAbsl(address),
                                              " before the deadline"));
}

void PollUntil(int fd, short events, const WakeEvent& wake, TimePoint deadline) {
  const Duration left = std::max(Duration::zero(), deadline - Clock::Real().Now());
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  const timespec timeout{.tv_sec = static_cast<time_t>(std::min<int64_t>(seconds.count(), 3600)),
                         .tv_nsec = static_cast<long>((left - seconds).count())};
  pollfd watched[] = {{.fd = fd, .events = events, .revents = 0},
                      {.fd = wake.fd(), .events = POLLIN, .revents = 0}};
  ppoll(watched, 2, &timeout, nullptr);
}

absl::StatusOr<HostPort> SplitHostPort(std::string_view address) {
  HostPort parts;
  if (const size_t bracket = address.find(']');
      !address.empty() && address.front() == '[' && bracket != address.npos) {
    if (bracket + 1 < address.size() && address[bracket + 1] == ':') {
      parts = {std::string(address.substr(1, bracket - 1)), std::string(address.substr(bracket + 2))};
    }
  } else if (const size_t colon = address.find(':'); colon != address.npos && colon == address.rfind(':')) {
    parts = {std::string(address.substr(0, colon)), std::string(address.substr(colon + 1))};
  }
  int port = 0;
  if (parts.host.empty() || !absl::SimpleAtoi(parts.port, &port) || port < 1 || port > 65535) {
    return Error(errors::kOption,
                 absl::StrCat("link address '", ToAbsl(address), "': expected HOST:PORT or [IPV6]:PORT"));
  }
  return parts;
}

std::string JoinHostPort(std::string_view host, int port) {
  const bool v6 = host.find(':') != host.npos;
  return v6 ? absl::StrCat("[", ToAbsl(host), "]:", port) : absl::StrCat(ToAbsl(host), ":", port);
}

}  // namespace paceline
