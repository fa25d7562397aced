// Progress in words, and how often a log hears of it.
#include "cli/progress.h"

#include <gtest/gtest.h>

namespace paceline::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(LoadTrack, SaysShareRateAndTimeLeft) {
  LoadTrack track;
  ManualClock clock;
  track.Update(clock.Now(), 0, 13'000'000'000);
  EXPECT_EQ(track.Text(), "0 % of 13.00 GB");
  clock.Advance(seconds(2));
  track.Update(clock.Now(), 5'200'000'000, 13'000'000'000);
  EXPECT_EQ(track.Text(), "40 % of 13.00 GB, 2.60 GB/s, 3 s left");
  clock.Advance(seconds(3));
  track.Update(clock.Now(), 13'000'000'000, 13'000'000'000);
  EXPECT_EQ(track.Text(), "100 % of 13.00 GB, 2.60 GB/s");
}

TEST(LoadTrack, AShortLoadIsOneLine) {
  LoadTrack track;
  ManualClock clock;
  int lines = 0;
  for (int64_t done = 0; done <= 100; ++done) {
    clock.Advance(milliseconds(4));
    track.Update(clock.Now(), done, 100);
    lines += track.DueInLog(clock.Now());
  }
  EXPECT_EQ(lines, 1);
  EXPECT_FALSE(track.DueInLog(clock.Now()));
}

TEST(LoadTrack, ALongLoadIsALineForEveryTenth) {
  LoadTrack track;
  ManualClock clock;
  std::vector<int64_t> said;
  for (int64_t done = 0; done <= 1000; ++done) {
    clock.Advance(milliseconds(20));
    track.Update(clock.Now(), done, 1000);
    if (track.DueInLog(clock.Now())) said.push_back(done);
  }
  EXPECT_EQ(said, (std::vector<int64_t>{100, 200, 300, 400, 500, 600, 700, 800, 900, 1000}));
}

TEST(LoadTrack, AVerySlowLoadIsALineInFiveSeconds) {
  LoadTrack track;
  ManualClock clock;
  int lines = 0;
  for (int64_t done = 0; done < 60; ++done) {
    track.Update(clock.Now(), done, 1'000'000);
    lines += track.DueInLog(clock.Now());
    clock.Advance(seconds(1));
  }
  EXPECT_EQ(lines, 11);
}

TEST(BytesText, KeepsAFewDigits) {
  EXPECT_EQ(BytesText(9'140'000), "9.1 MB");
  EXPECT_EQ(BytesText(13'021'000'000), "13.02 GB");
}

}  // namespace
}  // namespace paceline::cli
