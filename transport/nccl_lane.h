// One direction of an nccl link: a communicator of two ranks, a stream, and a few slots of pinned host memory
// with device memory behind each. A lane of its own per direction, since NCCL runs the operations of one
// communicator one after the other: two ends that both send first would each wait for a receive that stands
// behind the other's send.
//
//   sender     Post > copy to the device > ncclSend > event             slot is free again
//   receiver   Post > ncclRecv > copy to the host > event > Arrived     Release: slot is free again
//
// Communicators are non-blocking: a call that starts an operation returns before the operation is in the
// stream, so what must follow it there (copy, event) waits until ncclCommGetAsyncError no longer says "in
// progress". Nothing here waits: Drive does what can be done now.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "transport/gpu_calls.h"
#include "transport/link.h"

namespace paceline {

// Longer messages go in several operations, so that memory is taken once, when the link is made.
inline constexpr size_t kNcclSlotBytes = size_t{1} << 20;
inline constexpr uint64_t kNcclSlots = 4;  // per lane: one is filled while others travel

// The GPU of a link: its context is current between two calls of the link alone.
class Gpu {
 public:
  // Device `ordinal` of those that CUDA_VISIBLE_DEVICES shows. NET-007 where there is none.
  static absl::StatusOr<std::shared_ptr<Gpu>> Open(const GpuCalls& calls, int ordinal);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const GpuCalls& calls() const { return calls_; }
  const GpuUuid& uuid() const { return uuid_; }
  // Unavailable with the driver's words, unless `result` is success. Here and in the lane: who is at the
  // other end, and the code in front, is what the link adds.
  absl::Status Check(int result, const char* call) const;

  class Scope {
   public:
    explicit Scope(const Gpu& gpu) : gpu_(gpu) { gpu.calls_.cuCtxPushCurrent(gpu.context_); }
    ~Scope() {
      GpuContext* popped = nullptr;
      gpu_.calls_.cuCtxPopCurrent(&popped);
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    const Gpu& gpu_;
  };

 private:
  Gpu(const GpuCalls& calls, int device) : calls_(calls), device_(device) {}
  const GpuCalls& calls_;
  const int device_;
  GpuContext* context_ = nullptr;
  GpuUuid uuid_{};
};

// Called within a Gpu::Scope by the thread that owns the link.
class NcclLane {
 public:
  enum class Way { kSend, kReceive };
  // Takes memory, stream and events.
  static absl::StatusOr<std::unique_ptr<NcclLane>> Make(std::shared_ptr<Gpu> gpu, Way way);
  // Aborts what is under way.
  ~NcclLane();

  // Starts to make the communicator as `rank` (0: head, 1: worker) of two.
  absl::Status Begin(const NcclId& id, int rank);
  // True when nothing is in progress: the communicator stands, or the last operation is in the stream.
  absl::StatusOr<bool> Settled();

  bool has_free_slot() const { return posted_ - released_ < kNcclSlots; }
  // The pinned memory of the next operation, kNcclSlotBytes. A sender fills it before Post.
  std::byte* free_slot() { return SlotOf(posted_).host; }
  // Queues the next operation, of 1 to kNcclSlotBytes bytes. There is a free slot.
  void Post(size_t bytes);
  // Starts and ends what can be. Unavailable: NCCL or the driver gave up.
  absl::Status Drive(TimePoint now);

  // Receiver: the oldest operation that ended and was not released; empty if none.
  Bytes Arrived() const;
  void Release() { ++released_; }

  bool idle() const { return ended_ == posted_; }
  // Operations that have ended.
  uint64_t ended() const { return ended_; }
  // Since when the oldest operation under way is the oldest; meaningless while idle.
  TimePoint waiting_since() const { return waiting_since_; }

  // Ends every operation and the communicator, at both their ends or not. Idempotent.
  void Abort();

 private:
  struct Slot {
    std::byte* host = nullptr;  // [kNcclSlotBytes] pinned
    GpuAddress device = 0;      // [kNcclSlotBytes]
    GpuEvent* event = nullptr;
    size_t bytes = 0;
  };
  NcclLane(std::shared_ptr<Gpu> gpu, Way way) : gpu_(std::move(gpu)), way_(way) {}
  absl::Status Allocate();
  Slot& SlotOf(uint64_t operation) { return slots_[operation % kNcclSlots]; }
  const Slot& SlotOf(uint64_t operation) const { return slots_[operation % kNcclSlots]; }
  absl::Status Start();
  absl::Status Finish();
  absl::Status Failed(int result, const char* call) const;

  const std::shared_ptr<Gpu> gpu_;
  const Way way_;
  std::array<Slot, kNcclSlots> slots_;
  GpuStream* stream_ = nullptr;
  NcclCommunicator* communicator_ = nullptr;
  int rank_ = 0;
  bool starting_ = false;  // operation `started_` was given to NCCL and is not in the stream yet
  // Operations counted from 0: released_ <= ended_ <= started_ <= posted_.
  uint64_t posted_ = 0;
  uint64_t started_ = 0;
  uint64_t ended_ = 0;
  uint64_t released_ = 0;
  TimePoint waiting_since_;
  bool clock_runs_ = false;  // waiting_since_ belongs to operation ended_
};

}  // namespace paceline
