// Which text is found, what goes first, and what never goes.
#include "coordinator/prefix_cache.h"

#include <numeric>

#include "base/step.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Digests of a made-up text of `pages` pages.
std::vector<std::string> Digests(TokenId text, size_t pages, const std::string& salt = "") {
  std::vector<std::string> digests;
  std::vector<TokenId> page(kPagePositions);
  for (size_t i = 0; i < pages; ++i) {
    std::iota(page.begin(), page.end(), text * 10'000 + static_cast<TokenId>(i) * 256);
    digests.push_back(NextInChain(i > 0 ? digests.back() : ChainRoot("f00d", "key", salt), page));
  }
  return digests;
}

// Runs a text: takes its pages, publishes them, stores states at the ends given (pages).
std::vector<int32_t> RunText(PrefixCache& cache, const std::vector<std::string>& digests,
                             const std::vector<size_t>& ends, size_t anchor = 0) {
  std::vector<int32_t> pages;
  for (size_t i = 0; i < digests.size(); ++i) {
    pages.push_back(cache.Take());
    pages[i] = cache.Publish(digests[i], pages[i]);
    if (std::count(ends.begin(), ends.end(), i + 1) == 0) continue;
    const int32_t snapshot = cache.TakeSnapshot(std::span(pages).first(i));
    if (snapshot >= 0) cache.Attach(snapshot, std::span(pages).first(i + 1), i + 1 == anchor);
  }
  return pages;
}

TEST(PrefixCache, AChainNamesTheWholeTextAndWhoseItIs) {
  const std::vector<std::string> one = Digests(1, 3), other = Digests(2, 3), salted = Digests(1, 3, "x");
  EXPECT_EQ(one, Digests(1, 3));
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NE(one[i], other[i]);
    EXPECT_NE(one[i], salted[i]);
  }
  EXPECT_NE(ChainRoot("a", "bc", ""), ChainRoot("ab", "c", ""));
  EXPECT_NE(ChainRoot("a", "b", ""), ChainRoot("a", "", "b"));
}

TEST(PrefixCache, FindsTheLongestTextThatEndsAtAState) {
  PrefixCache cache(10, 4);
  const std::vector<std::string> text = Digests(1, 5);
  const std::vector<int32_t> pages = RunText(cache, text, {2, 4});
  EXPECT_EQ(cache.held(), 5);
  EXPECT_EQ(cache.Longest(text).pages.size(), 4u) << "page 5 has no state";
  EXPECT_EQ(cache.Longest(std::span(text).first(3)).pages.size(), 2u);
  EXPECT_THAT(cache.Longest(std::span(text).first(1)).pages, IsEmpty());
  EXPECT_EQ(cache.Longest(std::span(text).first(1)).snapshot, -1);
  EXPECT_THAT(cache.Longest(Digests(2, 5)).pages, IsEmpty());
  cache.Drop(pages);
  EXPECT_EQ(cache.held(), 0);
  EXPECT_EQ(cache.available(), 10);
  EXPECT_EQ(cache.Longest(text).pages.size(), 4u) << "nobody holds it, and it is still there";
}

TEST(PrefixCache, TheEndOfTheTextLongestUnusedGoesFirst) {
  PrefixCache cache(6, 6);
  const std::vector<std::string> one = Digests(1, 3), two = Digests(2, 3);
  cache.Drop(RunText(cache, one, {1, 2, 3}));
  cache.Drop(RunText(cache, two, {1, 2, 3}));
  const auto left = [&] {
    return std::pair(cache.Longest(one).pages.size(), cache.Longest(two).pages.size());
  };
  EXPECT_EQ(left(), std::pair(size_t{3}, size_t{3}));
  std::vector<int32_t> taken = {cache.Take()};
  EXPECT_EQ(left(), std::pair(size_t{2}, size_t{3}));
  EXPECT_EQ(cache.snapshots_free(), 1) << "its state went with it";
  // Used again, it is no longer the one longest unused.
  const PrefixCache::Match match = cache.Longest(one);
  for (const int32_t page : match.pages) cache.Hold(page);
  cache.Drop(match.pages);
  taken.push_back(cache.Take());
  EXPECT_EQ(left(), std::pair(size_t{2}, size_t{2}));
  // Held, it stays.
  for (const int32_t page : match.pages) cache.Hold(page);
  taken.push_back(cache.Take());
  taken.push_back(cache.Take());
  EXPECT_EQ(left(), std::pair(size_t{2}, size_t{0}));
  EXPECT_EQ(cache.available(), 0);
  cache.Drop(match.pages);
  cache.Drop(taken);
  EXPECT_EQ(cache.available(), 6);
}

TEST(PrefixCache, TheSameTextRunTwiceBecomesOne) {
  PrefixCache cache(4, 1);
  const std::vector<std::string> text = Digests(1, 1);
  const int32_t mine = cache.Take(), yours = cache.Take();
  EXPECT_EQ(cache.Publish(text[0], mine), mine);
  EXPECT_EQ(cache.Publish(text[0], mine), mine);
  EXPECT_EQ(cache.Publish(text[0], yours), mine);
  EXPECT_EQ(cache.held(), 1);
  EXPECT_TRUE(cache.shared(mine));
  cache.Drop({&mine, 1});
  EXPECT_EQ(cache.held(), 1);
  cache.Drop({&mine, 1});
  EXPECT_EQ(cache.held(), 0);
}

TEST(PrefixCache, ALaterStateOfATextMakesAnEarlierOneWorthLess) {
  PrefixCache cache(20, 4);
  const std::vector<std::string> one = Digests(1, 2), two = Digests(2, 8);
  RunText(cache, one, {2});
  // A long text goes round in its own states; of the other's none is lost for it.
  RunText(cache, two, {1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_EQ(cache.Longest(one).pages.size(), 2u);
  EXPECT_EQ(cache.Longest(two).pages.size(), 8u);
  EXPECT_EQ(cache.snapshots_attached(), 4);
}

TEST(PrefixCache, AnchorsAndWhatWasUsedOutliveOthers) {
  PrefixCache cache(30, 4);
  const std::vector<std::string> one = Digests(1, 8), two = Digests(2, 3);
  RunText(cache, one, {1, 3, 4}, /*anchor=*/3);
  const PrefixCache::Match first = cache.Longest(std::span(one).first(1));
  ASSERT_EQ(first.pages.size(), 1u);
  cache.Pin(first.snapshot);
  cache.Unpin(first.snapshot);
  RunText(cache, two, {1, 2, 3});
  EXPECT_EQ(cache.Longest(std::span(one).first(1)).pages.size(), 1u) << "somebody has gone on from it";
  EXPECT_EQ(cache.Longest(std::span(one).first(3)).pages.size(), 3u) << "an anchor";
  EXPECT_EQ(cache.Longest(two).pages.size(), 3u);
}

TEST(PrefixCache, APinnedStateStays) {
  PrefixCache cache(8, 1);
  const std::vector<std::string> one = Digests(1, 1), two = Digests(2, 1);
  const std::vector<int32_t> pages = RunText(cache, one, {1});
  const PrefixCache::Match match = cache.Longest(one);
  cache.Pin(match.snapshot);
  EXPECT_EQ(cache.TakeSnapshot({}), -1);
  cache.Unpin(match.snapshot);
  const int32_t taken = cache.TakeSnapshot({});
  EXPECT_EQ(taken, match.snapshot);
  EXPECT_THAT(cache.Longest(one).pages, IsEmpty());
  cache.ReturnSnapshot(taken);
  RunText(cache, two, {1});
  EXPECT_EQ(cache.Longest(two).pages.size(), 1u);
}

TEST(PrefixCache, AStateThatIsThereIsNotStoredTwice) {
  PrefixCache cache(8, 2);
  const std::vector<std::string> text = Digests(1, 1);
  RunText(cache, text, {1});
  const int32_t before = cache.Longest(text).snapshot;
  RunText(cache, text, {1});
  EXPECT_EQ(cache.Longest(text).snapshot, before);
  EXPECT_EQ(cache.snapshots_free(), 1);
}

TEST(PrefixCache, ClearForgetsWhatNobodyHolds) {
  PrefixCache cache(8, 8);
  const std::vector<std::string> one = Digests(1, 2), two = Digests(2, 2);
  const std::vector<int32_t> held = RunText(cache, one, {1, 2});
  cache.Drop(RunText(cache, two, {1, 2}));
  cache.Clear();
  EXPECT_EQ(cache.Longest(one).pages.size(), 2u);
  EXPECT_THAT(cache.Longest(two).pages, IsEmpty());
  cache.Drop(held);
  cache.Clear();
  EXPECT_EQ(cache.pages_with_text(), 0);
  EXPECT_EQ(cache.snapshots_free(), 8);
}

}  // namespace
}  // namespace paceline
