// The polling core between a kernel's rings (base/slot_ring.h) and a link: what the kernel has published goes
// out as a message, what arrives is put where the kernel polls. For links that post from the host, ucx above
// all. No caller of the product yet: rows start in host memory until the trunk keeps them on the device.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/slot_ring.h"
#include "transport/link.h"

namespace paceline {

// Owned by the thread that owns the link. The rings and the link outlive it.
class RingPump {
 public:
  // `out` is filled by the kernel, `in` polled by it.
  RingPump(Link& link, const SlotRing& out, const SlotRing& in) : link_(link), out_(out), in_(in) {}
  // Whoever polls the rings must not wait for a pump that is gone.
  ~RingPump() { Close(); }
  RingPump(const RingPump&) = delete;
  RingPump& operator=(const RingPump&) = delete;

  // Moves what is there, without waiting; false: nothing was. After an error both rings are closed:
  // Unavailable, as the link says; DataLoss (NET-004): a message that is longer than the slots of either
  // ring.
  absl::StatusOr<bool> Turn();

 private:
  absl::StatusOr<bool> TurnOnce();
  void Close();

  Link& link_;
  const SlotRing out_;
  const SlotRing in_;
  uint64_t sent_ = 0;
  uint64_t delivered_ = 0;
  Bytes arrived_;  // what has no slot yet; the link is not asked for more meanwhile
};

}  // namespace paceline
