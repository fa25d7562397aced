// Loading a share of a checkpoint at the speed of its disk. Whoever wants weights adds jobs: which bytes, and
// what to make of them. Run reads ahead of all jobs in the order of the files, many reads at a time into a
// bounded stretch of memory, while the compute threads turn what has come into packed weights and give the
// memory back. So a weight is in memory in two forms only while it is being packed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/thread_pool.h"
#include "model/block_reader.h"
#include "model/checkpoint.h"
#include "model/read_ahead.h"
#include "model/read_plan.h"

namespace paceline {

// Bytes read so far and in all. Called from several threads, never from two at a time.
using LoadCallback = std::function<void(int64_t done, int64_t total)>;

// How files are read. Each falls back to the next where a system refuses it, and the report says so.
enum class LoadIo : uint8_t {
  kRing,      // io_uring past the page cache
  kThreads,   // blocking reads of a few threads past the page cache
  kBuffered,  // the same through the page cache
};

struct LoadOptions {
  LoadIo io = LoadIo::kRing;
  int depth = 32;  // reads on their way
  ReadRules rules;
  int64_t memory_bytes = int64_t{128} << 20;  // read ahead and being packed
  // Tests put faults between the loader and its reads.
  std::function<std::unique_ptr<BlockReader>(std::unique_ptr<BlockReader>)> wrap_reader;
};

struct LoadReport {
  int64_t bytes = 0;       // wanted of the files; what two jobs share counts once
  int64_t read_bytes = 0;  // read: whole blocks and gaps, shared bytes twice
  int64_t reads = 0;
  int64_t misses = 0;             // reads that jobs had to do themselves
  int64_t peak_memory_bytes = 0;  // read ahead and being packed
  double seconds = 0;
  double wait_seconds = 0;         // compute threads waited for bytes, on average
  double work_seconds = 0;         // compute threads packed, on average
  std::string mode;                // "io_uring, O_DIRECT"
  std::vector<std::string> notes;  // for people: what was refused
};

// Set up by one thread. Whatever jobs write to stays where it is until Run has returned.
class Loader {
 public:
  // `checkpoint` outlives the loader.
  explicit Loader(const Checkpoint& checkpoint, LoadOptions options = {});

  const Checkpoint& checkpoint() const { return checkpoint_; }

  // `list` appends the byte ranges that are wanted; called twice, on different threads. `use` gets them, on a
  // compute thread; a LOAD-* error of it ends the load. Bytes of one job are in memory together: megabytes,
  // not gigabytes.
  using List = std::function<void(std::vector<FileRange>& ranges)>;
  using Use = std::function<absl::Status(const ReadAhead& ahead)>;
  void Add(List list, Use use);
  // On the thread of Run, after every job has ended well, in the order of the calls.
  void Then(std::function<void()> after) { after_.push_back({std::move(after), apart_}); }
  // Jobs that `add` adds fail among themselves: their first error goes to *error, the rest of them is left
  // out, and the load goes on.
  void Apart(absl::Status* error, const std::function<absl::Status()>& add);

  // Once. LOAD-003 also when a file was changed while it was read.
  absl::Status Run(ThreadPool& pool, const LoadCallback& progress);
  const LoadReport& report() const { return report_; }

 private:
  friend class LoadRun;
  struct Job {
    List list;
    Use use;
    absl::Status* apart = nullptr;
    FileRange first;  // where it begins in the files
    int64_t wanted_bytes = 0;
  };
  struct After {
    std::function<void()> run;
    absl::Status* apart = nullptr;
  };

  const Checkpoint& checkpoint_;
  const LoadOptions options_;
  std::vector<Job> jobs_;
  std::vector<After> after_;
  absl::Status* apart_ = nullptr;
  LoadReport report_;
};

// LoadIo by its name on the command line: "auto", "threads", "buffered".
LoadIo LoadIoOf(const std::string& word);

}  // namespace paceline
