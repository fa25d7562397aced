// What the kinds of link share, and their makers, which only select.cc calls.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/status.h"
#include "transport/link.h"

namespace paceline {

inline absl::string_view ToAbsl(std::string_view s) { return {s.data(), s.size()}; }

// The first reason given to Link::Abort. Thread-safe.
class AbortFlag {
 public:
  void Raise(absl::Status why);
  bool raised() const { return raised_.load(std::memory_order_acquire); }
  absl::Status why() const;

 private:
  std::atomic<bool> raised_{false};
  mutable std::mutex mutex_;
  absl::Status why_;
};

// An eventfd that wakes a poll(). Thread-safe.
class WakeEvent {
 public:
  WakeEvent();
  ~WakeEvent();
  WakeEvent(const WakeEvent&) = delete;
  WakeEvent& operator=(const WakeEvent&) = delete;
  int fd() const { return fd_; }
  void Signal();
  // Forgets all signals so far.
  void Drain();

 private:
  int fd_;
};

// Bytes of a message. InvalidArgument when it is empty or longer than kMaxMessageBytes.
absl::StatusOr<size_t> MessageSize(std::span<const Bytes> parts);

// Unavailable: "NET-001: <link>: <what happened>".
absl::Status PeerGone(std::string_view link, std::string_view what);
absl::Status AcceptTimeout(std::string_view kind, std::string_view address);

// Sleeps in poll() on `fd` for `events` and on `wake` until the deadline.
void PollUntil(int fd, short events, const WakeEvent& wake, TimePoint deadline);

// "host:port", "[v6]:port". InvalidArgument (CFG-002).
struct HostPort {
  std::string host;
  std::string port;
};
absl::StatusOr<HostPort> SplitHostPort(std::string_view address);
std::string JoinHostPort(std::string_view host, int port);

std::unique_ptr<LinkListener> ListenLoopback();
absl::StatusOr<std::unique_ptr<Link>> ConnectLoopback(std::string_view address);

absl::StatusOr<std::unique_ptr<LinkListener>> ListenTcp(std::string_view host, int port);
absl::StatusOr<std::unique_ptr<Link>> ConnectTcp(std::string_view address, TimePoint deadline);

bool UcxIsBuilt();
absl::StatusOr<std::unique_ptr<LinkListener>> ListenUcx(std::string_view host, int port);
absl::StatusOr<std::unique_ptr<Link>> ConnectUcx(std::string_view address, TimePoint deadline);

}  // namespace paceline
