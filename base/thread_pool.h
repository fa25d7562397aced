// Fork and join for kernels: the caller works too; helpers spin for a bounded time, then sleep on a futex.
// A wake-up from sleep costs tens of microseconds, a spin a fraction of one (docs/PERFORMANCE.md). Every
// thread starts with a share of consecutive parts of its own, so that what it reads is one stream, and takes
// the last parts of slower threads when it is through.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace paceline {

// Use from one thread at a time. Run() does not allocate.
class ThreadPool {
 public:
  // `threads` counts the caller. Helpers are born here: construct it where threads may be born. With
  // `processors`, one per thread, helper t stays on the t-th; the first is for the caller (StayOnFirst).
  explicit ThreadPool(int threads, std::vector<int> processors = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }
  // Keeps the calling thread on the processor meant for callers; does nothing without processors. To be
  // called by a thread that does nothing but run this pool, before its runs: what it gives birth to later
  // inherits the place.
  void StayOnFirst();

  // Calls body(part) once for every part in [0, parts), on all threads; returns when all are done. Thread t
  // of n begins at part parts * t / n and goes upwards; which thread runs a part in the end is not fixed, so
  // results must not depend on it.
  template <class Body>
  void Run(int64_t parts, const Body& body) {
    RunParts(
        parts, [](const void* context, int64_t part) { (*static_cast<const Body*>(context))(part); }, &body);
  }

 private:
  using Function = void (*)(const void*, int64_t);
  void RunParts(int64_t parts, Function function, const void* context);
  void Help(int thread);
  void Drain(int thread, uint32_t generation);
  bool Take(int thread, uint32_t generation, bool last, int64_t* item);
  void RunItem(int64_t item);

  // What is left of one thread's share: generation << 32 | first item << 16 | end. One word, so that an item
  // is taken from either end by one exchange, and a late helper cannot take one of another Run.
  struct alignas(64) Share {
    std::atomic<uint64_t> word{0};
  };

  const int threads_;
  const std::vector<int> processors_;
  std::thread::id stays_;  // on processors_[0]
  bool yield_ = false;     // more compute threads than cores: yield instead of spinning
  std::vector<std::thread> helpers_;
  // Of the open generation: read only by who has taken an item of it.
  Function function_ = nullptr;
  const void* context_ = nullptr;
  int64_t parts_ = 0;
  int64_t parts_per_item_ = 1;
  std::unique_ptr<Share[]> shares_;                  // [threads]
  alignas(64) std::atomic<uint32_t> generation_{0};  // grows by one per Run; helpers wait on it
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<int64_t> done_{0};  // items
};

}  // namespace paceline
