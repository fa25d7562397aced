// The suffix drafter against a search that looks everywhere.
#include "model/suffix_drafter.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace paceline {
namespace {

const SequenceId kOne(1);

class SuffixDrafterTest : public ::testing::Test {
 protected:
  void Commit(SuffixDrafter& drafter, const std::vector<TokenId>& text, int64_t first, int64_t rows,
              SequenceId sequence = kOne) {
    drafter.Commit(context_,
                   {sequence, first, std::span<const TokenId>(text).subspan(first, rows), nullptr, {}});
  }
  std::vector<TokenId> Draft(SuffixDrafter& drafter, TokenId last, int64_t position, int32_t depth,
                             SequenceId sequence = kOne) {
    const DraftRequest request{sequence, last, position, depth, {}, nullptr, nullptr};
    DraftResult result;
    result.tokens = {99};  // whatever was there before
    EXPECT_TRUE(drafter.Draft(context_, {&request, 1}, {&result, 1}).ok());
    EXPECT_TRUE(result.distributions.empty());
    return result.tokens;
  }

  ThreadPool pool_{1};
  kernels::Workspace workspace_;
  const DraftContext context_{kernels::ReferenceKernels(), pool_, workspace_};
};

std::vector<TokenId> Ids(const std::string& text) { return {text.begin(), text.end()}; }

struct Oracle {
  int32_t match = 0;
  std::vector<TokenId> tokens;
};

// `text` ends with the last token drawn.
Oracle Search(const std::vector<TokenId>& text, const SuffixDrafterOptions& options, int32_t depth) {
  const int64_t last = static_cast<int64_t>(text.size()) - 1;
  Oracle best;
  int64_t from = -1;
  for (int64_t end = last - 1; end >= 0; --end) {
    int32_t length = 0;
    while (length < options.max_match && length <= end && text[end - length] == text[last - length]) ++length;
    if (length >= options.min_match && length > best.match) {
      best.match = length;
      from = end;
    }
  }
  std::vector<TokenId> all = text;
  for (int32_t i = 0; from >= 0 && i < depth; ++i) all.push_back(all[from + 1 + i]);
  best.tokens.assign(all.begin() + last + 1, all.end());
  return best;
}

TEST_F(SuffixDrafterTest, EqualsASearchEverywhereOnRandomText) {
  std::mt19937 random(21);
  int64_t found = 0, deep = 0;
  for (int32_t round = 0; round < 60; ++round) {
    SuffixDrafterOptions options;
    options.min_match = 2 + round % 9;  // longer than the long index's runs as well
    options.max_match = options.min_match + static_cast<int32_t>(random() % 30);
    options.candidates = 1 << 20;
    SuffixDrafter drafter(options);
    const uint32_t letters = 1 + random() % 4;
    std::vector<TokenId> text;
    // Letters, and copies of what stood earlier.
    while (text.size() < 400) {
      if (text.size() > 40 && random() % 3 == 0) {
        const size_t from = random() % (text.size() - 30);
        for (size_t i = 0; i < 30; ++i) text.push_back(text[from + i]);
      } else {
        text.push_back(static_cast<TokenId>(random() % letters));
      }
    }
    int64_t position = 0;
    while (position + 8 < static_cast<int64_t>(text.size())) {
      const int64_t rows = 1 + static_cast<int64_t>(random() % 7);
      Commit(drafter, text, position, rows);
      position += rows;
      std::vector<TokenId> so_far(text.begin(), text.begin() + position);
      so_far.push_back(random() % 4 == 0 ? 7 : text[position]);
      const int32_t depth = 1 + static_cast<int32_t>(random() % kMaxDraft);
      const Oracle want = Search(so_far, options, depth);
      const DraftOffer offer = drafter.Offer(kOne, so_far.back());
      ASSERT_EQ(offer.match, want.match);
      ASSERT_EQ(offer.depth > 0, want.match > 0);
      ASSERT_EQ(Draft(drafter, so_far.back(), position, depth), want.tokens);
      found += want.match > 0 ? 1 : 0;
      deep += want.match > 8 ? 1 : 0;
    }
  }
  EXPECT_GT(found, 1000);
  EXPECT_GT(deep, 500);
}

TEST_F(SuffixDrafterTest, FollowsALoopForAsLongAsAsked) {
  SuffixDrafter drafter;
  const std::vector<TokenId> text = Ids("abcabca");
  Commit(drafter, text, 0, 7);
  EXPECT_EQ(Draft(drafter, 'b', 7, 8), Ids("cabcabca"));
  EXPECT_EQ(drafter.Offer(kOne, 'b').match, 5);
  EXPECT_EQ(drafter.Offer(kOne, 'b').source, DraftSource::kSuffix);
  EXPECT_TRUE(Draft(drafter, 'x', 7, 8).empty());
  EXPECT_EQ(drafter.Offer(kOne, 'x').depth, 0);
}

TEST_F(SuffixDrafterTest, PrefersTheLongerAndThenTheLaterPlace) {
  SuffixDrafter drafter;
  const std::vector<TokenId> text = Ids("1abcX 2abcY 2abcZ 1ab");
  Commit(drafter, text, 0, static_cast<int64_t>(text.size()));
  EXPECT_EQ(Draft(drafter, 'c', static_cast<int64_t>(text.size()), 1), Ids("X"));
  SuffixDrafter short_sighted({.min_match = 3, .max_match = 3, .candidates = 32});
  Commit(short_sighted, text, 0, static_cast<int64_t>(text.size()));
  EXPECT_EQ(Draft(short_sighted, 'c', static_cast<int64_t>(text.size()), 1), Ids("Z"));
}

TEST_F(SuffixDrafterTest, SequencesAreApartAndEndWhenTold) {
  SuffixDrafter drafter;
  const std::vector<TokenId> text = Ids("hello hello");
  const SequenceId two(2);
  Commit(drafter, text, 0, 10);
  Commit(drafter, text, 0, 4, two);
  EXPECT_EQ(Draft(drafter, 'o', 10, 2), Ids(" h"));
  EXPECT_TRUE(Draft(drafter, 'o', 4, 2, two).empty());
  EXPECT_TRUE(Draft(drafter, 'o', 9, 2).empty());  // not where the text ends
  drafter.Close(kOne);
  EXPECT_EQ(drafter.open_sequences(), 1);
  EXPECT_TRUE(Draft(drafter, 'o', 10, 2).empty());
  EXPECT_EQ(drafter.Offer(kOne, 'o').depth, 0);
  // A gap: forgotten until it starts afresh.
  Commit(drafter, text, 6, 2, two);
  EXPECT_EQ(drafter.open_sequences(), 0);
  Commit(drafter, text, 0, 10, two);
  Commit(drafter, text, 0, 10, two);  // the same text again, from its start
  EXPECT_EQ(Draft(drafter, 'o', 10, 2, two), Ids(" h"));
}

TEST_F(SuffixDrafterTest, ALongTextOfFewWordsIsSearchedInBoundedTime) {
  SuffixDrafter drafter;
  const std::vector<TokenId> text(256 * 1024, 5);
  for (int64_t first = 0; first < static_cast<int64_t>(text.size()); first += 4096)
    Commit(drafter, text, first, 4096);
  for (int32_t i = 0; i < 1000; ++i) {
    const DraftOffer offer = drafter.Offer(kOne, 5);
    ASSERT_EQ(offer.match, 32);
  }
  EXPECT_EQ(Draft(drafter, 5, 256 * 1024, 3), std::vector<TokenId>(3, 5));
}

}  // namespace
}  // namespace paceline
