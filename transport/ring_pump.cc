// One turn: all that is published goes out, then what arrived goes in as far as there are slots.
#include "transport/ring_pump.h"

#include <cstring>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"

namespace paceline {
namespace {

absl::Status TooLong(const char* what, uint64_t bytes, uint32_t capacity) {
  return Error(errors::kFrame, absl::StrCat(what, " of ", bytes, " bytes; the ring's slots have ", capacity));
}

}  // namespace

absl::StatusOr<bool> RingPump::Turn() {
  absl::StatusOr<bool> moved = TurnOnce();
  if (!moved.ok()) Close();
  return moved;
}

absl::StatusOr<bool> RingPump::TurnOnce() {
  bool moved = false;
  while (MayTake(out_, sent_) == SlotState::kReady) {
    const uint32_t bytes = BytesOf(out_, sent_);
    if (bytes > out_.capacity) return TooLong("a kernel published a message", bytes, out_.capacity);
    const Bytes message(SlotData(out_, sent_), bytes);
    RETURN_IF_ERROR(link_.Send(std::span(&message, 1)));
    GiveBack(out_, sent_++);
    moved = true;
  }
  for (;;) {
    if (arrived_.empty()) {
      ASSIGN_OR_RETURN(arrived_, link_.TryReceive());
      if (arrived_.empty()) return moved;
      if (arrived_.size() > in_.capacity) return TooLong("a message came", arrived_.size(), in_.capacity);
    }
    if (MayFill(in_, delivered_) != SlotState::kReady) return moved;
    std::memcpy(SlotData(in_, delivered_), arrived_.data(), arrived_.size());
    Publish(in_, delivered_++, static_cast<uint32_t>(arrived_.size()));
    arrived_ = {};
    moved = true;
  }
}

void RingPump::Close() {
  CloseRing(out_);
  CloseRing(in_);
}

}  // namespace paceline
