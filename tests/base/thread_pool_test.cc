// Every part runs exactly once, whatever the helpers are doing.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>

namespace paceline {
namespace {

TEST(ThreadPool, EveryPartRunsExactlyOnceUnderStress) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    std::vector<std::atomic<int>> runs(97);
    for (int round = 0; round < 3000; ++round) {
      const int64_t parts = round % 98;
      for (auto& r : runs) r.store(0, std::memory_order_relaxed);
      pool.Run(parts, [&](int64_t part) { runs[part].fetch_add(1, std::memory_order_relaxed); });
      for (int64_t part = 0; part < 97; ++part)
        ASSERT_EQ(runs[part].load(std::memory_order_relaxed), part < parts ? 1 : 0)
            << threads << " " << round;
    }
  }
}

// A helper that leaves a short Run late must not take a part of the long one that follows.
TEST(ThreadPool, ShortRunsBetweenLongOnes) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> runs(64);
  for (int round = 0; round < 100000; ++round) {
    const int64_t parts = round % 2 == 0 ? 2 : 64;
    pool.Run(parts, [&](int64_t part) { runs[part].fetch_add(1, std::memory_order_relaxed); });
    for (int64_t part = 0; part < parts; ++part) ASSERT_EQ(runs[part].exchange(0), 1) << round;
  }
}

// A pause longer than the helpers' spin puts them to sleep: the next Run has to wake them. The two parts wait
// for each other, so a helper that stays asleep would hang the test.
TEST(ThreadPool, SleepingHelpersWakeUp) {
  ThreadPool pool(2);
  for (int round = 0; round < 50; ++round) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(round % 2 == 0 ? 300 : 0);
    while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
    std::atomic<int> met{0};
    pool.Run(2, [&](int64_t) {
      met.fetch_add(1);
      while (met.load() < 2) std::this_thread::yield();
    });
    EXPECT_EQ(met.load(), 2);
  }
}

// The first part of a share holds its thread until every other part has run: they can only be taken from the
// share's end.
TEST(ThreadPool, OthersTakeWhatASlowThreadHasLeft) {
  for (int threads : {2, 3, 7}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      constexpr int64_t kParts = 101;
      std::atomic<int64_t> others{0};
      pool.Run(kParts, [&](int64_t part) {
        if (part != 0) {
          others.fetch_add(1);
          return;
        }
        while (others.load() < kParts - 1) std::this_thread::yield();
      });
      EXPECT_EQ(others.load(), kParts - 1);
    }
  }
}

// More parts than a share counts: they go in consecutive bundles.
TEST(ThreadPool, ManyPartsRunExactlyOnce) {
  ThreadPool pool(3);
  for (const int64_t parts : {65534, 65535, 65536, 131071, 200003}) {
    std::vector<std::atomic<uint8_t>> runs(static_cast<size_t>(parts) + 1);
    pool.Run(parts, [&](int64_t part) { runs[part].fetch_add(1, std::memory_order_relaxed); });
    for (int64_t part = 0; part <= parts; ++part) ASSERT_EQ(runs[part].load(), part < parts ? 1 : 0) << parts;
  }
}

TEST(ThreadPool, WritesOfPartsAreVisibleAfterRun) {
  ThreadPool pool(3);
  std::vector<int64_t> values(1000);
  for (int round = 1; round <= 200; ++round) {
    pool.Run(1000, [&](int64_t part) { values[part] += part; });
    for (int64_t part = 0; part < 1000; ++part) ASSERT_EQ(values[part], part * round);
  }
}

}  // namespace
}  // namespace paceline
