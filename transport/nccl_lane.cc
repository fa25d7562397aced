// Slots, stream and communicator of one direction.
#include "transport/nccl_lane.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "base/status.h"

namespace paceline {
namespace {

// Rows are kilobytes: a few blocks carry them, and the rest of the GPU computes.
constexpr int kMostBlocks = 4;

}  // namespace

absl::StatusOr<std::shared_ptr<Gpu>> Gpu::Open(const GpuCalls& calls, int ordinal) {
  int device = 0;
  int result = calls.cuInit(0);
  if (result == kGpuSuccess) result = calls.cuDeviceGet(&device, ordinal);
  std::shared_ptr<Gpu> gpu(new Gpu(calls, device));
  if (result == kGpuSuccess) result = calls.cuDevicePrimaryCtxRetain(&gpu->context_, device);
  if (result == kGpuSuccess) result = calls.cuDeviceGetUuid(&gpu->uuid_, device);
  if (result == kGpuSuccess) return gpu;
  return Error(errors::kLinkAbsent, absl::StrCat("--link nccl cannot use GPU ", ordinal, ": ",
                                                 std::string(gpu->Check(result, "opening it").message())));
}

Gpu::~Gpu() {
  if (context_ != nullptr) calls_.cuDevicePrimaryCtxRelease(device_);
}

absl::Status Gpu::Check(int result, const char* call) const {
  if (result == kGpuSuccess) return absl::OkStatus();
  const char* words = nullptr;
  if (calls_.cuGetErrorString(result, &words) != kGpuSuccess || words == nullptr)
    words = "unknown to the driver";
  return absl::UnavailableError(absl::StrCat(call, " failed: ", words, " (", result, ")"));
}

absl::StatusOr<std::unique_ptr<NcclLane>> NcclLane::Make(std::shared_ptr<Gpu> gpu, Way way) {
  std::unique_ptr<NcclLane> lane(new NcclLane(std::move(gpu), way));
  RETURN_IF_ERROR(lane->Allocate());
  return lane;
}

absl::Status NcclLane::Allocate() {
  const GpuCalls& calls = gpu_->calls();
  RETURN_IF_ERROR(gpu_->Check(calls.cuStreamCreate(&stream_, kGpuStreamNonBlocking), "cuStreamCreate"));
  for (Slot& slot : slots_) {
    void* host = nullptr;
    RETURN_IF_ERROR(gpu_->Check(calls.cuMemHostAlloc(&host, kNcclSlotBytes, 0), "cuMemHostAlloc"));
    slot.host = static_cast<std::byte*>(host);
    RETURN_IF_ERROR(gpu_->Check(calls.cuMemAlloc(&slot.device, kNcclSlotBytes), "cuMemAlloc"));
    RETURN_IF_ERROR(gpu_->Check(calls.cuEventCreate(&slot.event, kGpuEventWithoutTiming), "cuEventCreate"));
  }
  return absl::OkStatus();
}

NcclLane::~NcclLane() {
  Abort();
  const GpuCalls& calls = gpu_->calls();
  // What the aborted communicator left in the stream ends by itself; cuMemFree waits for it.
  for (const Slot& slot : slots_) {
    if (slot.device != 0) calls.cuMemFree(slot.device);
    if (slot.host != nullptr) calls.cuMemFreeHost(slot.host);
    if (slot.event != nullptr) calls.cuEventDestroy(slot.event);
  }
  if (stream_ != nullptr) calls.cuStreamDestroy(stream_);
}

void NcclLane::Abort() {
  if (communicator_ != nullptr) gpu_->calls().ncclCommAbort(std::exchange(communicator_, nullptr));
}

absl::Status NcclLane::Failed(int result, const char* call) const {
  const GpuCalls& calls = gpu_->calls();
  const char* more = communicator_ == nullptr ? nullptr : calls.ncclGetLastError(communicator_);
  const std::string detail = more == nullptr || *more == '\0' ? "" : absl::StrCat(" (", more, ")");
  return absl::UnavailableError(
      absl::StrCat("NCCL's ", call, " failed: ", calls.ncclGetErrorString(result), detail));
}

absl::Status NcclLane::Begin(const NcclId& id, int rank) {
  rank_ = rank;
  NcclConfig config;
  config.min_ctas = 1;
  config.max_ctas = kMostBlocks;
  const int result = gpu_->calls().ncclCommInitRankConfig(&communicator_, 2, id, rank, &config);
  if (result != kNcclSuccess && result != kNcclInProgress) return Failed(result, "ncclCommInitRankConfig");
  return absl::OkStatus();
}

absl::StatusOr<bool> NcclLane::Settled() {
  int state = kNcclInProgress;
  const int result = gpu_->calls().ncclCommGetAsyncError(communicator_, &state);
  if (result != kNcclSuccess) return Failed(result, "ncclCommGetAsyncError");
  if (state == kNcclInProgress) return false;
  if (state != kNcclSuccess) return Failed(state, "communicator");
  return true;
}

void NcclLane::Post(size_t bytes) {
  CHECK(has_free_slot());
  CHECK(bytes > 0 && bytes <= kNcclSlotBytes);
  SlotOf(posted_++).bytes = bytes;
}

absl::Status NcclLane::Start() {
  const GpuCalls& calls = gpu_->calls();
  const Slot& slot = SlotOf(started_);
  const int peer = 1 - rank_;
  if (way_ == Way::kSend) {
    RETURN_IF_ERROR(gpu_->Check(calls.cuMemcpyHtoDAsync(slot.device, slot.host, slot.bytes, stream_),
                                "cuMemcpyHtoDAsync"));
  }
  int result = calls.ncclGroupStart();
  if (result != kNcclSuccess) return Failed(result, "ncclGroupStart");
  auto* const memory = reinterpret_cast<void*>(static_cast<uintptr_t>(slot.device));
  result = way_ == Way::kSend ? calls.ncclSend(memory, slot.bytes, kNcclBytes, peer, communicator_, stream_)
                              : calls.ncclRecv(memory, slot.bytes, kNcclBytes, peer, communicator_, stream_);
  const int ended = calls.ncclGroupEnd();  // in any case, or the thread stays in the group
  if (result != kNcclSuccess && result != kNcclInProgress)
    return Failed(result, way_ == Way::kSend ? "ncclSend" : "ncclRecv");
  if (ended != kNcclSuccess && ended != kNcclInProgress) return Failed(ended, "ncclGroupEnd");
  starting_ = true;
  return absl::OkStatus();
}

absl::Status NcclLane::Finish() {
  const GpuCalls& calls = gpu_->calls();
  const Slot& slot = SlotOf(started_);
  if (way_ == Way::kReceive) {
    RETURN_IF_ERROR(gpu_->Check(calls.cuMemcpyDtoHAsync(slot.host, slot.device, slot.bytes, stream_),
                                "cuMemcpyDtoHAsync"));
  }
  RETURN_IF_ERROR(gpu_->Check(calls.cuEventRecord(slot.event, stream_), "cuEventRecord"));
  starting_ = false;
  ++started_;
  return absl::OkStatus();
}

absl::Status NcclLane::Drive(TimePoint now) {
  if (idle()) return absl::OkStatus();
  // Also asked while operations only run: a peer that is gone shows here, not at the event.
  ASSIGN_OR_RETURN(bool settled, Settled());
  while (settled && (starting_ || started_ < posted_)) {
    RETURN_IF_ERROR(starting_ ? Finish() : Start());
    if (starting_) {
      ASSIGN_OR_RETURN(settled, Settled());
    }
  }
  const uint64_t before = ended_;
  while (ended_ < started_) {
    const int result = gpu_->calls().cuEventQuery(SlotOf(ended_).event);
    if (result == kGpuNotReady) break;
    RETURN_IF_ERROR(gpu_->Check(result, "cuEventQuery"));
    ++ended_;
    if (way_ == Way::kSend) ++released_;
  }
  if (ended_ != before) clock_runs_ = false;
  if (!idle() && !clock_runs_) {
    clock_runs_ = true;
    waiting_since_ = now;
  }
  return absl::OkStatus();
}

Bytes NcclLane::Arrived() const {
  if (way_ == Way::kSend || released_ == ended_) return {};
  const Slot& slot = SlotOf(released_);
  return Bytes(slot.host, slot.bytes);
}

}  // namespace paceline
