// Placements: every leaf held once, balance, the head's share, and errors that name rule and field.
#include "coordinator/planner.h"

#include <algorithm>
#include <fstream>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;

std::vector<LayerShape> Layers() {
  return {{8, 4, 1000, 512}, {0, 0, 0, 0},    {3, 1, 10, 100}, {5, 3, 10, 300},
          {16, 7, 10, 896},  {1, 1, 10, 128}, {1, 5, 10, 600}};
}

int64_t TotalLeaves(const std::vector<LayerShape>& layers) {
  int64_t total = 0;
  for (const LayerShape& layer : layers) total += int64_t{layer.experts} * layer.groups;
  return total;
}

std::vector<int64_t> LeavesPerRank(const Placement& placement) {
  std::vector<int64_t> leaves;
  for (int32_t r = 0; r < placement.ranks(); ++r) leaves.push_back(placement.LeavesOf(RankId(r)));
  return leaves;
}

TEST(Planner, EveryKindHoldsEveryLeafOnce) {
  for (const std::string kind : {"contiguous", "strided", "sliced"}) {
    for (int32_t ranks = 1; ranks <= 9; ++ranks) {
      const auto placement = PlanPlacement(kind, Layers(), ranks);
      ASSERT_TRUE(placement.ok()) << placement.status();
      EXPECT_TRUE(placement->Validate().ok()) << placement->Validate();
      const std::vector<int64_t> leaves = LeavesPerRank(*placement);
      int64_t sum = 0;
      for (const int64_t n : leaves) sum += n;
      EXPECT_EQ(sum, TotalLeaves(Layers())) << kind << " over " << ranks;
      EXPECT_GT(leaves[0], 0) << "the head always holds a share";
    }
  }
}

TEST(Planner, WholeExpertsStayWhole) {
  for (const std::string kind : {"contiguous", "strided"}) {
    const auto placement = PlanPlacement(kind, Layers(), 3);
    ASSERT_TRUE(placement.ok());
    for (size_t l = 0; l < Layers().size(); ++l) {
      for (int32_t e = 0; e < Layers()[l].experts; ++e) {
        EXPECT_EQ(placement->segments(LayerId(static_cast<int32_t>(l)), ExpertId(e)).size(), 1u);
      }
    }
  }
}

TEST(Planner, ContiguousIsEvenAndLeavesSomeWithoutWork) {
  const auto placement = PlanPlacement("contiguous", {{8, 2, 1, 256}, {2, 2, 1, 256}}, 3);
  ASSERT_TRUE(placement.ok());
  const auto holder = [&](int32_t layer, int32_t expert) {
    return placement->segments(LayerId(layer), ExpertId(expert))[0].holders[0].value();
  };
  std::vector<int32_t> first;
  for (int32_t e = 0; e < 8; ++e) first.push_back(holder(0, e));
  EXPECT_EQ(first, (std::vector<int32_t>{0, 0, 0, 1, 1, 1, 2, 2}));
  EXPECT_EQ(holder(1, 0), 0);
  EXPECT_EQ(holder(1, 1), 1);
}

TEST(Planner, StridedIsExpertModuloRanks) {
  const auto placement = PlanPlacement("strided", {{7, 2, 1, 256}}, 3);
  ASSERT_TRUE(placement.ok());
  for (int32_t e = 0; e < 7; ++e) {
    EXPECT_EQ(placement->segments(LayerId(0), ExpertId(e))[0].holders[0], RankId(e % 3));
  }
}

TEST(Planner, SlicedBalancesToOneLeaf) {
  for (int32_t ranks = 1; ranks <= 12; ++ranks) {
    for (int32_t groups = 1; groups <= 9; ++groups) {
      for (int32_t experts = 1; experts <= 9; ++experts) {
        const LayerShape shape{experts, groups, 1, 0};
        const auto placement = PlanPlacement("sliced", {shape, shape, {3, 2, 1, 0}}, ranks);
        ASSERT_TRUE(placement.ok());
        ASSERT_TRUE(placement->Validate().ok());
        const std::vector<int64_t> leaves = LeavesPerRank(*placement);
        const auto [least, most] = std::minmax_element(leaves.begin(), leaves.end());
        EXPECT_LE(*most - *least, 1) << experts << " experts of " << groups << " groups over " << ranks;
        for (int32_t e = 0; e < experts; ++e) {
          std::set<int32_t> holders;
          for (const Segment& s : placement->segments(LayerId(0), ExpertId(e))) {
            EXPECT_TRUE(holders.insert(s.holders[0].value()).second)
                << "a rank's groups of one expert are one run";
            EXPECT_LE(s.groups, (groups + ranks - 1) / ranks);
          }
          EXPECT_EQ(static_cast<int32_t>(holders.size()), std::min(groups, ranks));
        }
        // Work for every rank in a layer that has leaves enough.
        if (experts * groups < ranks) continue;
        for (int32_t r = 0; r < ranks; ++r) {
          int64_t held = 0;
          for (int32_t e = 0; e < experts; ++e) {
            for (const Segment& s : placement->HeldBy(RankId(r), LayerId(1), ExpertId(e))) held += s.groups;
          }
          EXPECT_GT(held, 0) << "rank " << r;
        }
      }
    }
  }
}

TEST(Planner, RulesGiveRangesReplicasAndTheLastWord) {
  const auto placement = ParsePlacementRules(
      R"({"rules":[{"layers":[0,6],"experts":[0,0],"columns":[0,127],"holders":[1]},
                   {"layers":[0,0],"experts":[0,3],"columns":[128,511],"holders":[2,1,1]},
                   {"layers":[0,0],"experts":[2,2],"columns":[256,383],"holders":[0]},
                   {"layers":[3,3],"experts":[4,4],"columns":[256,299],"holders":[2]}]})",
      "p.json",
      {{8, 4, 1, 512},
       {0, 0, 0, 0},
       {3, 1, 1, 128},
       {5, 3, 1, 300},
       {16, 7, 1, 896},
       {1, 1, 1, 128},
       {1, 5, 1, 600}},
      3);
  ASSERT_TRUE(placement.ok()) << placement.status();
  ASSERT_TRUE(placement->Validate().ok());
  const auto segments = placement->segments(LayerId(0), ExpertId(2));
  ASSERT_EQ(segments.size(), 4u);
  EXPECT_EQ(segments[0], (Segment{0, 1, {RankId(0)}}));
  EXPECT_EQ(segments[1], (Segment{1, 1, {RankId(1), RankId(2)}}));
  EXPECT_EQ(segments[2], (Segment{2, 1, {RankId(0)}}));
  EXPECT_EQ(segments[3], (Segment{3, 1, {RankId(1), RankId(2)}}));
  EXPECT_EQ(placement->segments(LayerId(3), ExpertId(4))[1], (Segment{2, 1, {RankId(2)}}));
  EXPECT_EQ(placement->segments(LayerId(0), ExpertId(7))[0], (Segment{0, 4, {RankId(0)}}))
      << "unnamed stays on the head";
}

TEST(Planner, RuleErrorsNameRuleAndField) {
  const struct {
    const char* rules;
    const char* says;
  } cases[] = {
      {R"([{"holders":[0]},{"columns":[0,99],"layers":[0,0],"holders":[0]}])", "rules[1].columns"},
      {R"([{"columns":[64,127],"layers":[0,0],"holders":[0]}])", "rules[0].columns"},
      {R"([{"columns":[256,260],"layers":[3,3],"holders":[0]}])", "rules[0].columns"},
      {R"([{"columns":[0,640],"layers":[0,0],"holders":[0]}])", "rules[0].columns"},
      {R"([{"layers":[0,7],"holders":[0]}])", "rules[0].layers"},
      {R"([{"layers":[2,1],"holders":[0]}])", "rules[0].layers"},
      {R"([{"layers":[-1,1],"holders":[0]}])", "rules[0].layers"},
      {R"([{"layers":[0.5,1],"holders":[0]}])", "rules[0].layers"},
      {R"([{"layers":[0,0],"experts":[0,8],"holders":[0]}])", "rules[0].experts"},
      {R"([{"holders":[]}])", "rules[0].holders"},
      {R"([{"holders":[3]}])", "rules[0].holders"},
      {R"([{"layers":[0,0]}])", "rules[0].holders"},
      {R"([{"layers":[0,0],"expert":[0,1],"holders":[0]}])", "rules[0].expert"},
      {R"([7])", "rules[0]"},
      {R"({})", "rules"},
      {R"([}])", "not valid JSON"},
  };
  for (const auto& c : cases) {
    const auto placement =
        ParsePlacementRules(std::string("{\"rules\":") + c.rules + "}", "p.json", Layers(), 3);
    ASSERT_FALSE(placement.ok()) << c.rules;
    EXPECT_THAT(std::string(placement.status().message()), HasSubstr("CFG-001: placement file p.json"));
    EXPECT_THAT(std::string(placement.status().message()), HasSubstr(c.says)) << c.rules;
  }
}

TEST(Planner, UnknownNameSaysWhatIsKnown) {
  const auto placement = PlanPlacement("slicd", Layers(), 2);
  ASSERT_FALSE(placement.ok());
  EXPECT_THAT(std::string(placement.status().message()), HasSubstr("contiguous, strided or sliced"));
}

TEST(Planner, ReadsAFile) {
  const std::string path = ::testing::TempDir() + "/planner_test_rules.json";
  std::ofstream(path) << R"({"rules":[{"layers":[0,0],"holders":[1]}]})";
  const auto placement = PlanPlacement(path, Layers(), 2);
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->LeavesOf(RankId(1)), 32);
}

TEST(Planner, HeadRowsCoverAllAtMultiplesOf128) {
  for (const int64_t rows : {1, 63, 64, 65, 100, 129, 512, 1000, 248320}) {
    for (int32_t ranks = 1; ranks <= 9; ++ranks) {
      const std::vector<RowRange> cut = SplitHeadRows(rows, ranks);
      ASSERT_EQ(cut.size(), static_cast<size_t>(ranks));
      int64_t next = 0;
      int64_t least = rows;
      int64_t most = 0;
      for (const RowRange& range : cut) {
        EXPECT_EQ(range.first, next);
        EXPECT_TRUE(range.count == 0 || range.first % 128 == 0);
        next += range.count;
        least = std::min(least, range.count);
        most = std::max(most, range.count);
      }
      EXPECT_EQ(next, rows);
      EXPECT_LE(most - least, 255);
    }
  }
}

}  // namespace
}  // namespace paceline
