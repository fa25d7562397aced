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
