// The fork-join pool.
#include "base/thread_pool.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/processors.h"

namespace paceline {
namespace {

// Long enough for the gaps inside a step, short enough that an idle process uses no core.
constexpr auto kSpin = std::chrono::microseconds(100);
constexpr int64_t kMostItems = 0xFFFF;  // a share counts items in 16 bits

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads, std::vector<int> processors)
    : threads_(threads), processors_(std::move(processors)), shares_(std::make_unique<Share[]>(threads)) {
  CHECK_GE(threads, 1);
  CHECK(processors_.empty() || static_cast<int>(processors_.size()) == threads);
  yield_ = threads > static_cast<int>(std::thread::hardware_concurrency());
  for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { Help(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& t : helpers_) t.join();
}

void ThreadPool::StayOnFirst() {
  if (processors_.empty() || stays_ == std::this_thread::get_id()) return;
  stays_ = std::this_thread::get_id();
  StayOn(processors_.front());
}

void ThreadPool::RunParts(int64_t parts, Function function, const void* context) {
  if (parts <= 0) return;
  if (threads_ == 1 || parts == 1) {
    for (int64_t part = 0; part < parts; ++part) function(context, part);
    return;
  }
  // All shares of the last Run are empty, so nobody reads these until the new shares are out.
  function_ = function;
  context_ = context;
  parts_ = parts;
  parts_per_item_ = (parts + kMostItems - 1) / kMostItems;
  const int64_t items = (parts + parts_per_item_ - 1) / parts_per_item_;
  done_.store(0, std::memory_order_relaxed);
  const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  for (int64_t t = 0; t < threads_; ++t) {
    const uint64_t first = static_cast<uint64_t>(items * t / threads_);
    const uint64_t end = static_cast<uint64_t>(items * (t + 1) / threads_);
    shares_[t].word.store(uint64_t{generation} << 32 | first << 16 | end, std::memory_order_release);
  }
  // seq_cst pairs with the sleeper's increment-then-check: either it sees the new generation or we see it
  // asleep.
  generation_.store(generation, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) generation_.notify_all();
  Drain(0, generation);
  int spins = 0;
  while (done_.load(std::memory_order_acquire) < items) {
    // Helpers that lost their core to another process need ours.
    if (yield_ || ++spins > 20000) std::this_thread::yield();
    Pause();
  }
}

void ThreadPool::RunItem(int64_t item) {
  const int64_t end = std::min(parts_, (item + 1) * parts_per_item_);
  for (int64_t part = item * parts_per_item_; part < end; ++part) function_(context_, part);
}

// The first or the last item left of a share. By compare-and-swap on a word that holds the generation: after
// the last item of a Run nobody reads its function again until the next one has published its own.
bool ThreadPool::Take(int thread, uint32_t generation, bool last, int64_t* item) {
  std::atomic<uint64_t>& share = shares_[thread].word;
  uint64_t word = share.load(std::memory_order_acquire);
  while (word >> 32 == generation) {
    const uint64_t first = word >> 16 & 0xFFFF, end = word & 0xFFFF;
    if (first == end) return false;
    *item = static_cast<int64_t>(last ? end - 1 : first);
    // Neither half runs over: first < end <= kMostItems.
    const uint64_t rest = last ? word - 1 : word + (1u << 16);
    if (share.compare_exchange_weak(word, rest, std::memory_order_acq_rel, std::memory_order_acquire))
      return true;
  }
  return false;
}

void ThreadPool::Drain(int thread, uint32_t generation) {
  int64_t done = 0, item = 0;
  while (Take(thread, generation, /*last=*/false, &item)) {
    RunItem(item);
    ++done;
  }
  // Then from whoever has most left, from the end, where its owner comes last.
  while (true) {
    int slowest = -1;
    uint64_t most = 0;
    for (int t = 0; t < threads_; ++t) {
      const uint64_t word = shares_[t].word.load(std::memory_order_relaxed);
      const uint64_t left = (word & 0xFFFF) - (word >> 16 & 0xFFFF);
      if (word >> 32 != generation || left <= most) continue;
      most = left;
      slowest = t;
    }
    if (slowest < 0) break;
    if (!Take(slowest, generation, /*last=*/true, &item)) continue;
    RunItem(item);
    ++done;
  }
  // A thread that took nothing must not touch the count: it may belong to the next Run.
  if (done > 0) done_.fetch_add(done, std::memory_order_release);
}

void ThreadPool::Help(int thread) {
  if (!processors_.empty()) StayOn(processors_[static_cast<size_t>(thread)]);
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
    Drain(thread, generation);
  }
}

}  // namespace paceline
