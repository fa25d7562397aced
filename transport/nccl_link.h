// The nccl link: rows by NCCL's point-to-point operations, GPU to GPU; everything else over a side link (tcp)
// of the same two ends. Who has come is said there first; then the head draws the communicators' ids (one per
// direction), hands them over, and both ends make the communicators without blocking. A message is announced
// there too, with its length, and only then received: no kernel ever waits on a GPU for a message that nobody
// sends. A peer that dies closes the side link, which NCCL would not notice.
//
// A link dies once and stays dead: after a failure of NCCL, the deadline of a transfer, Abort or the peer's
// end, both communicators are aborted. New ones are made with the new link of a member that joins again,
// under the epoch of then.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "transport/gpu_calls.h"
#include "transport/link.h"

namespace paceline {

enum class NcclEnd { kHead, kWorker };

struct NcclOptions {
  // From the ids on, until both communicators stand. NCCL looks for its networks first, which takes seconds.
  Duration make_timeout = std::chrono::seconds(60);
  // Of one operation at the receiver, who only starts it when the sender has. A sender has no deadline of its
  // own: its peer may compute for long before it looks, and whether it lives is the heartbeat's question.
  Duration transfer_timeout = std::chrono::seconds(10);
  Clock* clock = &Clock::Real();
  int device = 0;  // of those that CUDA_VISIBLE_DEVICES shows
  // Worker: the epoch it was admitted under; communicators of an older one are refused.
  Epoch admitted{0};
};

// Greets over `side`, which outlives nothing else. `calls` live as long as the process. NET-007: no GPU, NCCL
// too old.
absl::StatusOr<std::unique_ptr<Link>> MakeNcclLink(const GpuCalls& calls, std::unique_ptr<Link> side,
                                                   NcclEnd end, const NcclOptions& options);

// The kind "nccl" over tcp. The worker's call returns when the head has greeted.
absl::StatusOr<std::unique_ptr<LinkListener>> ListenNccl(const GpuCalls& calls, std::string_view host,
                                                         int port, const NcclOptions& options);
absl::StatusOr<std::unique_ptr<Link>> ConnectNccl(const GpuCalls& calls, std::string_view address,
                                                  TimePoint deadline, const NcclOptions& options);

}  // namespace paceline
