// Reading without using.
#include "model/read_rate.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace paceline {

absl::StatusOr<ReadRate> MeasureReadRate(const Checkpoint& checkpoint, const LoadOptions& options,
                                         int64_t limit) {
  // One job per piece, so that what is measured is the loader's own reading.
  Loader loader(checkpoint, options);
  int64_t left = limit;
  const auto& files = checkpoint.files();
  for (size_t i = 0; i < files.size() && left > 0; ++i) {
    const int64_t end = std::min(files[i]->file_bytes(), left);
    left -= end;
    for (int64_t at = 0; at < end; at += options.rules.largest) {
      const FileRange piece{static_cast<int32_t>(i), at, std::min(end, at + options.rules.largest)};
      loader.Add([piece](std::vector<FileRange>& ranges) { ranges.push_back(piece); },
                 [](const ReadAhead&) { return absl::OkStatus(); });
    }
  }
  ThreadPool caller(1);
  RETURN_IF_ERROR(loader.Run(caller, {}));
  return ReadRate{loader.report().bytes, loader.report().seconds, loader.report().mode};
}

void DropFromPageCache(const Checkpoint& checkpoint) {
  for (const auto& file : checkpoint.files()) {
    fsync(file->fd());  // what is not written yet stays
    posix_fadvise(file->fd(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

}  // namespace paceline
