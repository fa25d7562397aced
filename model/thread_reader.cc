// BlockReader with threads that read one block after another.
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"
#include "model/block_reader.h"

namespace paceline {
namespace {

class ThreadReader final : public BlockReader {
 public:
  explicit ThreadReader(int threads) : depth_(2 * threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { ReadUntilStopped(); });
  }
  ~ThreadReader() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wanted_changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int depth() const override { return depth_; }
  void Submit(const BlockRead& read) override {
    CHECK_LT(under_way_, depth_);
    ++under_way_;
    {
      const std::lock_guard lock(mutex_);
      wanted_.push_back(read);
    }
    wanted_changed_.notify_one();
  }
  BlockDone Wait() override {
    CHECK_GT(under_way_, 0);
    --under_way_;
    std::unique_lock lock(mutex_);
    done_changed_.wait(lock, [this] { return !done_.empty(); });
    const BlockDone done = done_.front();
    done_.pop_front();
    return done;
  }

 private:
  static int64_t ReadBlock(const BlockRead& read) {
    int64_t came = 0;
    while (came < read.bytes) {
      const ssize_t got =
          ::pread(read.fd, read.to + came, static_cast<size_t>(read.bytes - came), read.position + came);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return came > 0 ? came : -errno;
      if (got == 0) break;
      came += got;
    }
    return came;
  }
  void ReadUntilStopped() {
    std::unique_lock lock(mutex_);
    while (true) {
      wanted_changed_.wait(lock, [this] { return stop_ || !wanted_.empty(); });
      if (wanted_.empty()) return;
      const BlockRead read = wanted_.front();
      wanted_.pop_front();
      lock.unlock();
      const int64_t result = ReadBlock(read);
      lock.lock();
      done_.push_back({read.tag, result});
      done_changed_.notify_one();
    }
  }

  const int depth_;
  int under_way_ = 0;  // the owner's
  std::mutex mutex_;
  std::condition_variable wanted_changed_, done_changed_;
  std::deque<BlockRead> wanted_;
  std::deque<BlockDone> done_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<BlockReader> StartReadThreads(int threads) { return std::make_unique<ThreadReader>(threads); }

}  // namespace paceline
