// Reading ahead on one thread, packing on the others.
#include "model/loader.h"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status.h"
#include "model/load_arena.h"
#include "model/read_files.h"

namespace paceline {

namespace {

constexpr int kReadThreads = 8;           // enough for a fast disk without a ring
constexpr int64_t kProgressSteps = 1000;  // calls of a progress callback at most

double SecondsSince(TimePoint start) { return Seconds(Clock::Real().Now() - start); }

}  // namespace

// One Run. The reading thread owns reader_, files_ and slots_; mutex_ guards what both sides touch.
class LoadRun {
 public:
  LoadRun(Loader& loader, ThreadPool& pool, const LoadCallback& progress)
      : loader_(loader),
        rules_(loader.options_.rules),
        pool_(pool),
        progress_(progress),
        files_(loader.checkpoint_.files(), loader.options_.io != LoadIo::kBuffered) {}

  absl::Status Run() {
    const TimePoint start = Clock::Real().Now();
    PlanJobs();
    LoadReport& report = loader_.report_;
    if (!order_.empty()) {
      arena_ = std::make_unique<LoadArena>(arena_bytes_, rules_.block);
      OpenReader();
      std::thread reading([this] { ReadAll(); });
      pool_.Run(pool_.threads(), [this](int64_t) { UseAll(); });
      reading.join();
      reader_ = nullptr;
    }
    report.seconds = SecondsSince(start);
    report.wait_seconds = wait_seconds_ / pool_.threads();
    report.work_seconds = work_seconds_ / pool_.threads();
    report.mode = absl::StrCat(kind_, ", ", files_.Describe());
    if (!files_.note().empty())
      report.notes.push_back(absl::StrCat(files_.note(), ": loading goes through the page cache"));
    RETURN_IF_ERROR(error_);
    RETURN_IF_ERROR(files_.CheckUnchanged());
    for (const Loader::After& after : loader_.after_) {
      if (after.apart == nullptr || after.apart->ok()) after.run();
    }
    return absl::OkStatus();
  }

 private:
  // A job whose bytes are on their way, or have come.
  struct Held {
    Loader::Job* job = nullptr;
    ReadPlan plan;
    std::vector<bool> failed;  // by extent
    uint8_t* memory = nullptr;
    size_t left = 0;  // pieces
    ReadAhead ahead;
  };
  struct Piece {
    Held* held = nullptr;
    size_t extent = 0;
    ReadPiece piece;
    bool direct = false;  // was submitted past the page cache
  };

  ReadPlan PlanOf(const Loader::Job& job) const {
    std::vector<FileRange> ranges;
    job.list(ranges);
    return PlanReads(std::move(ranges), rules_);
  }

  // In the order of the files: a disk reads on where it is.
  void PlanJobs() {
    std::vector<FileRange> all;
    int64_t memory = 0;
    for (Loader::Job& job : loader_.jobs_) {
      const ReadPlan plan = PlanOf(job);
      for (const ReadExtent& extent : plan.extents) all.push_back(extent.wanted);
      job.wanted_bytes = plan.wanted_bytes();
      if (!plan.extents.empty()) job.first = plan.extents[0].wanted;
      memory += plan.memory_bytes;
      total_ += job.wanted_bytes;
      order_.push_back(&job);
    }
    loader_.report_.bytes = UnionBytes(std::move(all));
    std::stable_sort(order_.begin(), order_.end(), [](const Loader::Job* a, const Loader::Job* b) {
      return std::tie(a->first.file, a->first.begin) < std::tie(b->first.file, b->first.begin);
    });
    arena_bytes_ =
        std::clamp(memory, rules_.block, loader_.options_.memory_bytes / rules_.block * rules_.block);
  }

  void OpenReader() {
    const LoadOptions& options = loader_.options_;
    kind_ = "threads";
    if (options.io == LoadIo::kRing) {
      absl::StatusOr<std::unique_ptr<BlockReader>> ring =
          OpenRing(options.depth, arena_->data(), arena_->bytes());
      if (ring.ok()) {
        kind_ = "io_uring";
        reader_ = *std::move(ring);
      } else {
        loader_.report_.notes.push_back(
            absl::StrCat(std::string(ring.status().message()), ": loading reads with threads"));
      }
    }
    if (reader_ == nullptr) reader_ = StartReadThreads(kReadThreads);
    if (options.wrap_reader) reader_ = options.wrap_reader(std::move(reader_));
    slots_.resize(static_cast<size_t>(reader_->depth()));
    for (size_t i = 0; i < slots_.size(); ++i) free_slots_.push_back(i);
  }

  // The reading thread.
  void ReadAll() {
    while (TakeJobs()) {
      while (!free_slots_.empty() && !queue_.empty()) Submit();
      if (free_slots_.size() < slots_.size()) {
        Receive();
        continue;
      }
      std::unique_lock lock(mutex_);
      if (next_ == order_.size() && waiting_ == nullptr) break;
      // The next job waits for memory that the compute threads have.
      given_.wait(lock, [this] { return stop_ || given_count_ != given_seen_; });
    }
    while (free_slots_.size() < slots_.size()) Receive();
    const std::lock_guard lock(mutex_);
    all_read_ = true;
    ready_changed_.notify_all();
  }

  // Queues jobs whose bytes fit into memory, but no more than keep the reader busy. False: the load has
  // failed.
  bool TakeJobs() {
    while (true) {
      {
        const std::lock_guard lock(mutex_);
        if (stop_) return false;
      }
      if (queue_.size() >= 2 * slots_.size()) return true;
      if (waiting_ == nullptr) {
        if (next_ == order_.size()) return true;
        waiting_ = std::make_unique<Held>();
        waiting_->job = order_[next_++];
        waiting_->plan = PlanOf(*waiting_->job);
        waiting_->failed.resize(waiting_->plan.extents.size());
      }
      Held* const held = waiting_.get();
      if (held->plan.memory_bytes > 0) {
        const std::lock_guard lock(mutex_);
        held->memory = arena_->Take(held->plan.memory_bytes);
        given_seen_ = given_count_;
        if (held->memory == nullptr) return true;
        loader_.report_.peak_memory_bytes = std::max(loader_.report_.peak_memory_bytes, arena_->lent_bytes());
      }
      for (size_t i = 0; i < held->plan.extents.size(); ++i) {
        for (const ReadPiece& piece : PiecesOf(held->plan.extents[i], rules_)) {
          queue_.push_back({held, i, piece});
          ++held->left;
        }
      }
      under_way_.push_back(std::move(waiting_));
      if (held->left == 0) Ready(held);
    }
  }

  void Submit() {
    const size_t slot = free_slots_.back();
    free_slots_.pop_back();
    slots_[slot] = queue_.front();
    queue_.pop_front();
    loader_.report_.read_bytes += slots_[slot].piece.bytes;
    SubmitSlot(slot);
  }

  void SubmitSlot(size_t slot) {
    Piece& p = slots_[slot];
    const int32_t file = p.held->plan.extents[p.extent].range.file;
    const int fd = files_.fd(file);
    p.direct = files_.direct(file);
    ++loader_.report_.reads;
    reader_->Submit({fd, p.piece.position, p.piece.bytes, p.held->memory + p.piece.memory, slot});
  }

  void Receive() {
    const BlockDone done = reader_->Wait();
    const auto slot = static_cast<size_t>(done.tag);
    const Piece& p = slots_[slot];
    const int32_t file = p.held->plan.extents[p.extent].range.file;
    if (done.result == -EINVAL && p.direct) {
      files_.GiveUpDirect(file, std::strerror(EINVAL));
      SubmitSlot(slot);
      return;
    }
    if (done.result < p.piece.wanted) {
      // Once more through the page cache; if that fails, the job reads for itself and says what is wrong.
      const absl::Status again =
          files_.file(file).ReadAt(p.piece.position, p.piece.wanted, p.held->memory + p.piece.memory);
      if (!again.ok()) p.held->failed[p.extent] = true;
    }
    Held* const held = p.held;
    free_slots_.push_back(slot);
    if (--held->left == 0) Ready(held);
  }

  void Ready(Held* held) {
    const auto at = std::find_if(under_way_.begin(), under_way_.end(),
                                 [held](const std::unique_ptr<Held>& h) { return h.get() == held; });
    std::unique_ptr<Held> own = std::move(*at);
    under_way_.erase(at);
    for (size_t i = 0; i < own->plan.extents.size(); ++i) {
      const ReadExtent& extent = own->plan.extents[i];
      const int64_t skipped = extent.wanted.begin - extent.range.begin;
      if (!own->failed[i]) own->ahead.Add(extent.wanted, own->memory + extent.memory + skipped);
    }
    const std::lock_guard lock(mutex_);
    ready_.push_back(std::move(own));
    ready_changed_.notify_one();
  }

  // A compute thread.
  void UseAll() {
    double waited = 0, worked = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      const TimePoint start = Clock::Real().Now();
      ready_changed_.wait(lock, [this] { return !ready_.empty() || all_read_; });
      waited += SecondsSince(start);
      if (ready_.empty()) break;
      const std::unique_ptr<Held> held = std::move(ready_.front());
      ready_.pop_front();
      absl::Status* const apart = held->job->apart;
      if (!stop_ && (apart == nullptr || apart->ok())) {
        lock.unlock();
        const TimePoint begin = Clock::Real().Now();
        absl::Status used = held->job->use(held->ahead);
        worked += SecondsSince(begin);
        lock.lock();
        if (!used.ok()) Fail(apart, std::move(used));
      }
      loader_.report_.misses += held->ahead.misses();
      done_ += held->job->wanted_bytes;
      if (held->memory != nullptr) {
        arena_->Give(held->memory, held->plan.memory_bytes);
        ++given_count_;
        given_.notify_one();
      }
      lock.unlock();
      Tell();
      lock.lock();
    }
    wait_seconds_ += waited;
    work_seconds_ += worked;
  }

  // With the lock.
  void Fail(absl::Status* apart, absl::Status why) {
    if (apart != nullptr) {
      if (apart->ok()) *apart = std::move(why);
      return;
    }
    if (error_.ok()) error_ = std::move(why);
    stop_ = true;
    given_.notify_one();
  }

  void Tell() {
    if (!progress_) return;
    const std::lock_guard telling(telling_);
    int64_t done;
    {
      const std::lock_guard lock(mutex_);
      if (stop_) return;
      done = done_;
    }
    const int64_t step = total_ > 0 ? kProgressSteps * done / total_ : 0;
    if (step == told_) return;
    told_ = step;
    progress_(done, total_);
  }

  Loader& loader_;
  const ReadRules rules_;
  ThreadPool& pool_;
  const LoadCallback& progress_;
  std::vector<Loader::Job*> order_;
  int64_t total_ = 0;
  int64_t arena_bytes_ = 0;
  std::string kind_ = "nothing";

  // The reading thread's.
  ReadFiles files_;
  size_t next_ = 0;                // of order_
  std::unique_ptr<Held> waiting_;  // the job after those, without memory yet
  std::vector<std::unique_ptr<Held>> under_way_;
  std::deque<Piece> queue_;
  std::vector<Piece> slots_;  // by tag
  std::vector<size_t> free_slots_;

  std::mutex mutex_;
  std::condition_variable ready_changed_, given_;
  std::unique_ptr<LoadArena> arena_;
  std::deque<std::unique_ptr<Held>> ready_;
  int64_t given_count_ = 0;  // times that memory came back
  int64_t given_seen_ = 0;   // of them, before the last attempt to take some
  int64_t done_ = 0;         // bytes
  bool stop_ = false;
  bool all_read_ = false;
  absl::Status error_;
  double wait_seconds_ = 0, work_seconds_ = 0;

  std::mutex telling_;  // taken before mutex_
  int64_t told_ = -1;

  std::unique_ptr<BlockReader> reader_;  // goes before the memory that it reads into
};

Loader::Loader(const Checkpoint& checkpoint, LoadOptions options)
    : checkpoint_(checkpoint), options_(std::move(options)) {}

void Loader::Add(List list, Use use) {
  Job job;
  job.list = std::move(list);
  job.use = std::move(use);
  job.apart = apart_;
  jobs_.push_back(std::move(job));
}

void Loader::Apart(absl::Status* error, const std::function<absl::Status()>& add) {
  CHECK(apart_ == nullptr);
  const size_t jobs = jobs_.size(), after = after_.size();
  apart_ = error;
  *error = add();
  apart_ = nullptr;
  if (error->ok()) return;
  jobs_.resize(jobs);
  after_.resize(after);
}

absl::Status Loader::Run(ThreadPool& pool, const LoadCallback& progress) {
  return LoadRun(*this, pool, progress).Run();
}

LoadIo LoadIoOf(const std::string& word) {
  if (word == "threads") return LoadIo::kThreads;
  return word == "buffered" ? LoadIo::kBuffered : LoadIo::kRing;
}

}  // namespace paceline
