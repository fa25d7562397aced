// The placement table: cutting and joining of segments, and what a rank holds.
#include "base/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace paceline {
namespace {

constexpr RankId kHead(0), kOne(1), kTwo(2), kThree(3);

// Layer 0: 2 experts of 8 groups; layer 1 is dense; layer 2: 3 experts of 1 group.
Placement Fresh() {
  return {
      Epoch(4), 4, {{.experts = 2, .groups = 8}, {.experts = 0, .groups = 0}, {.experts = 3, .groups = 1}}};
}

std::vector<Segment> SegmentsOf(const Placement& p, int32_t layer, int32_t expert) {
  const auto s = p.segments(LayerId(layer), ExpertId(expert));
  return {s.begin(), s.end()};
}

TEST(Placement, StartsOnTheHead) {
  const Placement p = Fresh();
  EXPECT_EQ(SegmentsOf(p, 0, 1), (std::vector<Segment>{{0, 8, {kHead}}}));
  EXPECT_EQ(p.LeavesOf(kHead), 2 * 8 + 3);
  EXPECT_EQ(p.ExpertsOf(kHead), 5);
  EXPECT_EQ(p.LeavesOf(kOne), 0);
  EXPECT_TRUE(p.Validate().ok());
}

TEST(Placement, AssignCutsASegmentInThree) {
  Placement p = Fresh();
  p.Assign(LayerId(0), ExpertId(0), 2, 3, {kOne});
  EXPECT_EQ(SegmentsOf(p, 0, 0), (std::vector<Segment>{{0, 2, {kHead}}, {2, 3, {kOne}}, {5, 3, {kHead}}}));
  EXPECT_EQ(SegmentsOf(p, 0, 1), (std::vector<Segment>{{0, 8, {kHead}}}));  // its neighbour is untouched
  EXPECT_EQ(p.LeavesOf(kOne), 3);
  EXPECT_TRUE(p.Validate().ok());
}

TEST(Placement, AssignAtBothEnds) {
  Placement p = Fresh();
  p.Assign(LayerId(0), ExpertId(0), 0, 1, {kOne});
  p.Assign(LayerId(0), ExpertId(0), 7, 1, {kTwo});
  EXPECT_EQ(SegmentsOf(p, 0, 0), (std::vector<Segment>{{0, 1, {kOne}}, {1, 6, {kHead}}, {7, 1, {kTwo}}}));
}

TEST(Placement, AssignSwallowsWhatItCovers) {
  Placement p = Fresh();
  for (int32_t g = 0; g < 8; ++g) p.Assign(LayerId(0), ExpertId(0), g, 1, {RankId(g % 4)});
  ASSERT_EQ(SegmentsOf(p, 0, 0).size(), 8u);
  p.Assign(LayerId(0), ExpertId(0), 1, 6, {kThree});
  EXPECT_EQ(SegmentsOf(p, 0, 0), (std::vector<Segment>{{0, 1, {kHead}}, {1, 7, {kThree}}}));
  p.Assign(LayerId(0), ExpertId(0), 0, 8, {kTwo});
  EXPECT_EQ(SegmentsOf(p, 0, 0), (std::vector<Segment>{{0, 8, {kTwo}}}));
}

TEST(Placement, EqualNeighboursBecomeOneSegment) {
  Placement p = Fresh();
  p.Assign(LayerId(0), ExpertId(0), 0, 2, {kOne});
  p.Assign(LayerId(0), ExpertId(0), 4, 2, {kOne});
  p.Assign(LayerId(0), ExpertId(0), 2, 2, {kOne});
  EXPECT_EQ(SegmentsOf(p, 0, 0), (std::vector<Segment>{{0, 6, {kOne}}, {6, 2, {kHead}}}));
}

TEST(Placement, HoldersAreSortedAndUnique) {
  Placement p = Fresh();
  p.Assign(LayerId(2), ExpertId(1), 0, 1, {kThree, kOne, kThree, kHead});
  EXPECT_EQ(SegmentsOf(p, 2, 1), (std::vector<Segment>{{0, 1, {kHead, kOne, kThree}}}));
}

TEST(Placement, HeldByJoinsSegmentsOfDifferentReplicas) {
  Placement p = Fresh();
  p.Assign(LayerId(0), ExpertId(0), 1, 2, {kOne});
  p.Assign(LayerId(0), ExpertId(0), 3, 2, {kOne, kTwo});
  p.Assign(LayerId(0), ExpertId(0), 6, 1, {kOne});
  EXPECT_EQ(p.HeldBy(kOne, LayerId(0), ExpertId(0)), (std::vector<Segment>{{1, 4, {kOne}}, {6, 1, {kOne}}}));
  EXPECT_EQ(p.HeldBy(kTwo, LayerId(0), ExpertId(0)), (std::vector<Segment>{{3, 2, {kTwo}}}));
  EXPECT_TRUE(p.HeldBy(kThree, LayerId(0), ExpertId(0)).empty());
  EXPECT_EQ(p.LeavesOf(kOne), 5);
  EXPECT_EQ(p.ExpertsOf(kOne), 1);
  EXPECT_EQ(p.LeavesOf(kHead), 8 - 5 + 8 + 3);
}

TEST(Placement, WithoutARankOthersServeItsReplicas) {
  Placement p = Fresh();
  p.Assign(LayerId(0), ExpertId(0), 0, 2, {kOne, kTwo});
  p.Assign(LayerId(0), ExpertId(0), 2, 2, {kTwo});
  p.Assign(LayerId(0), ExpertId(1), 0, 8, {kOne});
  p.DropReplicas(kOne);
  EXPECT_EQ(SegmentsOf(p, 0, 0), (std::vector<Segment>{{0, 4, {kTwo}}, {4, 4, {kHead}}}));
  EXPECT_EQ(SegmentsOf(p, 0, 1), (std::vector<Segment>{{0, 8, {kOne}}}));  // nobody else has it
  EXPECT_TRUE(p.Validate().ok());
}

TEST(Placement, ValidateNamesTheLeafWithoutAHolder) {
  Placement p = Fresh();
  p.Assign(LayerId(0), ExpertId(1), 3, 2, {});
  const absl::Status status = p.Validate();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("CFG-001: layer 0 expert 1 group 3 "));
}

TEST(Placement, ValidateNamesARankOutsideTheCluster) {
  for (const int32_t rank : {4, -1}) {
    Placement p = Fresh();
    p.Assign(LayerId(2), ExpertId(2), 0, 1, {RankId(rank)});
    EXPECT_THAT(std::string(p.Validate().message()),
                ::testing::HasSubstr("layer 2 expert 2 is given to rank " + std::to_string(rank)));
  }
}

TEST(Placement, GroupsAreCountedUp) {
  EXPECT_EQ(GroupsOf(1), 1);
  EXPECT_EQ(GroupsOf(128), 1);
  EXPECT_EQ(GroupsOf(129), 2);
  EXPECT_EQ(GroupsOf(1024), 8);
}

TEST(PlacementDeathTest, GroupsOutsideTheExpertAreOurOwnMistake) {
  Placement p = Fresh();
  EXPECT_DEATH(p.Assign(LayerId(0), ExpertId(0), 7, 2, {kOne}), "check failed");
  EXPECT_DEATH(p.Assign(LayerId(1), ExpertId(0), 0, 1, {kOne}), "check failed");
}

}  // namespace
}  // namespace paceline
