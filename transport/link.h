// A Link carries whole messages in order between two ranks; a LinkListener accepts them on the head. The seam
// that loopback, tcp, ucx and nccl fill. A link knows bytes, never rows; the exchange above it knows
// rows, never tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"

namespace paceline {

using Bytes = std::span<const std::byte>;

// A longer message is refused, by the sender and by the receiver before it allocates.
inline constexpr int64_t kMaxMessageBytes = int64_t{256} << 20;

// One end of a connection between two ranks. Owned by one thread, except Wake() and Abort().
class Link {
 public:
  virtual ~Link() = default;

  // The head's end, after the worker's first message has said who it is and before anything else is sent or
  // received: makes what is left of the link, under `epoch`. True when it is whole; false: call again. Most
  // links are whole when they are accepted.
  virtual absl::StatusOr<bool> Open(Epoch epoch) {
    (void)epoch;
    return true;
  }

  // Queues one message, the concatenation of `parts`, and starts sending it; the parts may be reused on
  // return. Never blocks on the peer: what the kernel does not take now goes out in later calls of Send,
  // TryReceive or Flush (two ends that send large messages to each other must not deadlock). Unavailable: the
  // link is dead, and stays so.
  virtual absl::Status Send(std::span<const Bytes> parts) = 0;

  // The next message if one is complete, else an empty span with ok status. Drives pending sends. The bytes
  // stay valid until the next call of TryReceive. An arrived message is never empty.
  virtual absl::StatusOr<Bytes> TryReceive() = 0;

  // Sleeps until something may have arrived, Wake() or Abort() was called, or the deadline passed. May return
  // early.
  virtual void Wait(TimePoint deadline) = 0;

  // Thread-safe. A sleeping Wait returns early; where none sleeps, the next one does.
  virtual void Wake() = 0;

  // Thread-safe. Every call from now on fails with `why`; a sleeping Wait returns.
  virtual void Abort(absl::Status why) = 0;

  // "tcp 127.0.0.1:4711", for messages.
  virtual std::string Describe() const = 0;

  // Payload and header bytes in both directions since the start.
  virtual int64_t bytes() const = 0;
};

// Accepts links on the head. Owned by one thread.
class LinkListener {
 public:
  virtual ~LinkListener() = default;
  // What a worker passes to ConnectLink, e.g. "127.0.0.1:4711".
  virtual std::string address() const = 0;
  // The next link, or DeadlineExceeded.
  virtual absl::StatusOr<std::unique_ptr<Link>> Accept(TimePoint deadline) = 0;
};

// Ok when this build has `kind` and this machine what it needs; Unimplemented (NET-007) says what is missing.
absl::Status CheckLink(std::string_view kind);

// By name: "loopback", "tcp", "ucx", "nccl". NET-007 as CheckLink.
// `host`: the interface to listen on ("127.0.0.1"); port 0 takes a free one.
absl::StatusOr<std::unique_ptr<LinkListener>> ListenLink(std::string_view kind, std::string_view host,
                                                         int port);
// `admitted`: the epoch under which the caller was let into the cluster; nccl alone asks.
absl::StatusOr<std::unique_ptr<Link>> ConnectLink(std::string_view kind, std::string_view address,
                                                  TimePoint deadline, Epoch admitted = Epoch(0));
// Those of this build that need no device.
std::vector<std::string> LinkKinds();
// How long making a link of a kind may take, from the dial to the first message behind Open.
Duration LinkPatience(std::string_view kind);

// Two ends in one process.
std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> LoopbackPair();

// True for addresses that never leave this machine (127.0.0.0/8, ::1). Plain links to anything else need
// --insecure-links.
bool IsLoopbackAddress(std::string_view host);

}  // namespace paceline
