// The fork-join pool.
#include "base/thread_pool.h"

#include <chrono>

#include "base/check.h"

namespace paceline {
namespace {

// Long enough for the gaps inside a step, short enough that an idle process uses no core.
constexpr auto kSpin = std::chrono::microseconds(100);

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  CHECK_GE(threads, 1);
  yield_ = threads > static_cast<int>(std::thread::hardware_concurrency());
  for (int i = 1; i < threads; ++i) helpers_.emplace_back([this] { Help(); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& t : helpers_) t.join();
}

void ThreadPool::RunParts(int64_t parts, Function function, const void* context) {
  if (parts <= 0) return;
  if (threads_ == 1 || parts == 1) {
    for (int64_t part = 0; part < parts; ++part) function(context, part);
    return;
  }
  CHECK_LT(parts, int64_t{1} << 31);
  const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  // Seals the old word first: a late helper that holds its last part number and already reads the new
  // parts_ would otherwise take a part that neither Run has.
  next_.store(uint64_t{generation} << 32 | 0xFFFFFFFFu, std::memory_order_relaxed);
  function_ = function;
  context_ = context;
  parts_.store(parts, std::memory_order_release);
  done_.store(0, std::memory_order_relaxed);
  next_.store(uint64_t{generation} << 32, std::memory_order_release);
  // seq_cst pairs with the sleeper's increment-then-check: either it sees the new generation or we see it
  // asleep.
  generation_.store(generation, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) generation_.notify_all();
  Drain(generation);
  int spins = 0;
  while (done_.load(std::memory_order_acquire) < parts) {
    // Helpers that lost their core to another process need ours.
    if (yield_ || ++spins > 20000) std::this_thread::yield();
    Pause();
  }
}

// Takes parts of `generation` until none is left. A part is taken by compare-and-swap on (generation, next),
// so after the last part of a Run nobody touches function_ or context_ again until the next one has published
// them.
void ThreadPool::Drain(uint32_t generation) {
  uint64_t word = next_.load(std::memory_order_acquire);
  while (word >> 32 == generation) {
    const int64_t part = static_cast<int64_t>(word & 0xFFFFFFFFu);
    // parts_ may belong to a newer Run here; that one has sealed next_ before, so the exchange below fails.
    const int64_t parts = parts_.load(std::memory_order_acquire);
    if (part >= parts) return;
    if (!next_.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    function_(context_, part);
    done_.fetch_add(1, std::memory_order_release);
    word = next_.load(std::memory_order_acquire);
  }
}

void ThreadPool::Help() {
  uint32_t seen = 0;
  while (true) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    uint32_t generation = generation_.load(std::memory_order_acquire);
    while (generation == seen) {
      for (int i = 0; i < 64 && generation == seen; ++i) {
        Pause();
        generation = generation_.load(std::memory_order_acquire);
      }
      if (generation != seen) break;
      if (yield_) std::this_thread::yield();
      if (std::chrono::steady_clock::now() >= until) {
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        generation_.wait(seen, std::memory_order_seq_cst);
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
        generation = generation_.load(std::memory_order_acquire);
      }
    }
    if (stop_.load(std::memory_order_acquire)) return;
    seen = generation;
    Drain(generation);
  }
}

}  // namespace paceline
