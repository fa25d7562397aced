// Which processors there are, how lists of them read, and threads that stay where they are put.
#include "base/processors.h"

#include <sched.h>

#include <atomic>
#include <thread>

#include "base/thread_pool.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

TEST(Processors, AreThoseOfTheAffinityMask) {
  cpu_set_t set;
  CPU_ZERO(&set);
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  const std::vector<int> here = ProcessorsHere();
  EXPECT_EQ(static_cast<int>(here.size()), CPU_COUNT(&set));
  for (const int processor : here) EXPECT_TRUE(CPU_ISSET(processor, &set)) << processor;
}

TEST(Processors, ListsReadBack) {
  const std::vector<int> here = ProcessorsHere();
  const auto all = ParseProcessors(ProcessorsText(here));
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_THAT(*all, ElementsAreArray(here));
  const std::string twice =
      std::to_string(here[0]) + "-" + std::to_string(here[0]) + "," + std::to_string(here[0]);
  EXPECT_THAT(*ParseProcessors(twice), ElementsAreArray({here[0]}));
}

TEST(Processors, RefusesWhatIsNoListAndWhatIsNotHere) {
  for (const char* bad : {"", "a", "1-", "-1", "3-1", "0,,1", "0-1-2", "99999999999"}) {
    const auto parsed = ParseProcessors(bad);
    EXPECT_FALSE(parsed.ok()) << bad;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("0-3,8")) << bad;
  }
  EXPECT_THAT(std::string(ParseProcessors("1023").status().message()), HasSubstr("not one this process may"));
}

TEST(Processors, APoolsThreadsStayWhereTheyArePut) {
  std::vector<int> processors = ProcessorsHere();
  if (processors.size() < 2) GTEST_SKIP() << "one processor here: a thread has no other place to be";
  processors.resize(2);
  ThreadPool pool(2, processors);
  std::atomic<int> elsewhere = 0, seen[2] = {0, 0};
  // A thread of its own: the test's stays free.
  std::thread([&] {
    pool.StayOnFirst();
    const std::thread::id caller = std::this_thread::get_id();
    // Until the helper, too, has run a part.
    while (seen[0] == 0 || seen[1] == 0) {
      pool.Run(64, [&](int64_t) {
        const int thread = std::this_thread::get_id() == caller ? 0 : 1;
        ++seen[thread];
        if (sched_getcpu() != processors[static_cast<size_t>(thread)]) ++elsewhere;
      });
    }
  }).join();
  EXPECT_EQ(elsewhere, 0);
}

}  // namespace
}  // namespace paceline
