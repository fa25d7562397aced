// Many reads at a time: through io_uring, or with threads where a system does not allow it. Owned and used by
// one thread.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace paceline {

struct BlockRead {
  int fd = -1;
  int64_t position = 0;
  int64_t bytes = 0;
  uint8_t* to = nullptr;  // stays where it is until the read is done
  uint64_t tag = 0;       // the caller's
};

struct BlockDone {
  uint64_t tag = 0;
  int64_t result = 0;  // bytes that came, or a negated errno
};

class BlockReader {
 public:
  // Waits for reads that are on their way.
  virtual ~BlockReader() = default;
  virtual int depth() const = 0;
  // At most depth() reads are submitted and not yet returned by Wait.
  virtual void Submit(const BlockRead& read) = 0;
  // One that is done, in no order; at least one must be on its way.
  virtual BlockDone Wait() = 0;
};

// Reads into [memory, memory + bytes) go faster, for that stretch is announced to the kernel once; others
// work too. Unavailable says why the system gives no ring: too old, or forbidden (containers,
// kernel.io_uring_disabled).
absl::StatusOr<std::unique_ptr<BlockReader>> OpenRing(int depth, uint8_t* memory, int64_t bytes);
std::unique_ptr<BlockReader> StartReadThreads(int threads);

}  // namespace paceline
