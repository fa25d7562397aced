// What the disk gives: the yardstick of loading.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "model/loader.h"

namespace paceline {

struct ReadRate {
  int64_t bytes = 0;
  double seconds = 0;
  std::string mode;  // as LoadReport has it
  double bytes_per_second() const { return seconds > 0 ? static_cast<double>(bytes) / seconds : 0; }
};

// Reads the checkpoint's files from front to back, at most `limit` bytes, as a loader with these options
// reads but with nothing made of the bytes. LOAD-003.
absl::StatusOr<ReadRate> MeasureReadRate(const Checkpoint& checkpoint, const LoadOptions& options,
                                         int64_t limit);

// Takes the checkpoint's files out of the page cache, as far as the system does so.
void DropFromPageCache(const Checkpoint& checkpoint);

}  // namespace paceline
