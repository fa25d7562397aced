// Fork and join for kernels: the caller works too; helpers spin for a bounded time, then sleep on a futex.
// A wake-up from sleep costs tens of microseconds, a spin a fraction of one (docs/PERFORMANCE.md).
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
  // `threads` counts the caller. Helpers are born here: construct it where threads may be born.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls body(part) once for every part in [0, parts), on all threads; returns when all are done.
  // Which thread runs a part is not fixed: results must not depend on it.
  template <class Body>
  void Run(int64_t parts, const Body& body) {
    RunParts(
        parts, [](const void* context, int64_t part) { (*static_cast<const Body*>(context))(part); }, &body);
  }

 private:
  using Function = void (*)(const void*, int64_t);
  void RunParts(int64_t parts, Function function, const void* context);
  void Help();
  void Drain(uint32_t generation);

  const int threads_;
  bool yield_ = false;  // more compute threads than cores: yield instead of spinning
  std::vector<std::thread> helpers_;
  Function function_ = nullptr;  // valid while a generation is open
  const void* context_ = nullptr;
  std::atomic<int64_t> parts_{0};        // a late helper may read it while the next Run writes it
  std::atomic<uint32_t> generation_{0};  // grows by one per Run; helpers wait on it
  // High 32 bits: generation, low 32: next part. One word, so that a late helper cannot take a part of
  // another Run.
  std::atomic<uint64_t> next_{0};
  std::atomic<int64_t> done_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace paceline
