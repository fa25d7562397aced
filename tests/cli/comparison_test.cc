// What `verify` calls a difference, and how it says so.
#include "cli/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace paceline::cli {
namespace {

using ::testing::HasSubstr;

std::vector<GeneratedToken> TokensOf(const std::vector<std::pair<TokenId, float>>& tokens) {
  std::vector<GeneratedToken> run;
  for (const auto& [id, logprob] : tokens) {
    GeneratedToken token;
    token.id = id;
    token.logprob = logprob;
    run.push_back(token);
  }
  return run;
}

TEST(ComparisonTest, EqualRunsHaveNoDifference) {
  const auto run = TokensOf({{5, -1.5f}, {6, -0.25f}});
  const Comparison c = Compare("ranks-greedy", run, run);
  EXPECT_EQ(c.tokens, 2);
  EXPECT_FALSE(c.difference.has_value());
  EXPECT_EQ(ComparisonsJson({c}).dump(),
            R"({"equal":true,"comparisons":[{"name":"ranks-greedy","equal":true,"tokens":2,)"
            R"("first_difference":null,"drafted":0,"accepted":0}]})");
  EXPECT_THAT(ComparisonsTable({c}), HasSubstr("\nequal: "));
}

TEST(ComparisonTest, TheFirstDifferingTokenCounts) {
  const Comparison c = Compare("drafted-seeded", TokensOf({{5, -1.5f}, {6, -0.25f}, {7, 0}}),
                               TokensOf({{5, -1.5f}, {8, -0.5f}, {9, 0}}));
  ASSERT_TRUE(c.difference.has_value());
  EXPECT_EQ(c.difference->position, 1);
  EXPECT_EQ(c.tokens, 2);
  const auto json = ComparisonsJson({Compare("ranks-greedy", {}, {}), c});
  EXPECT_FALSE(json["equal"]);
  EXPECT_EQ(json["comparisons"][1]["first_difference"].dump(),
            R"({"position":1,"left":[6,-0.25],"right":[8,-0.5]})");
  EXPECT_THAT(ComparisonsTable({c}), HasSubstr("DIFFERENT: 1 of 1 comparisons"));
  EXPECT_THAT(ComparisonsTable({c}), HasSubstr("at token 1: id 6 (-0.25) against id 8 (-0.5)"));
}

TEST(ComparisonTest, OneBitOfALogProbabilityIsADifference) {
  const Comparison c =
      Compare("ranks-greedy", TokensOf({{5, -1.5f}}), TokensOf({{5, std::nextafterf(-1.5f, 0.0f)}}));
  ASSERT_TRUE(c.difference.has_value());
  EXPECT_EQ(c.difference->position, 0);
}

TEST(ComparisonTest, AShorterRunDiffersWhereItEnds) {
  const Comparison c = Compare("batched-greedy", TokensOf({{5, -1.5f}, {6, -1.0f}}), TokensOf({{5, -1.5f}}));
  ASSERT_TRUE(c.difference.has_value());
  EXPECT_EQ(c.difference->position, 1);
  EXPECT_EQ(ComparisonsJson({c})["comparisons"][0]["first_difference"]["right"], nullptr);
}

}  // namespace
}  // namespace paceline::cli
