// Plans of reads: every wanted byte once, whole blocks, nothing longer than a read may be.
#include "model/read_plan.h"

#include <gtest/gtest.h>

#include <random>

namespace paceline {
namespace {

TEST(ReadPlan, MovesBordersOutToBlocks) {
  const ReadRules rules{.block = 4096, .largest = 8192, .merge_gap = 10000};
  const ReadPlan plan = PlanReads({{0, 5000, 5001}}, rules);
  ASSERT_EQ(plan.extents.size(), 1u);
  EXPECT_EQ(plan.extents[0].range, (FileRange{0, 4096, 8192}));
  EXPECT_EQ(plan.extents[0].wanted, (FileRange{0, 5000, 5001}));
  EXPECT_EQ(plan.memory_bytes, 4096);
  EXPECT_EQ(plan.wanted_bytes(), 1);
}

TEST(ReadPlan, MergesNeighboursOfOneFileOnly) {
  const ReadRules rules{.block = 4096, .largest = 8192, .merge_gap = 10000};
  EXPECT_EQ(PlanReads({{0, 20000, 30000}, {0, 0, 10000}}, rules).extents.size(), 1u);
  EXPECT_EQ(PlanReads({{0, 20001, 30000}, {0, 0, 10000}}, rules).extents.size(), 2u);
  EXPECT_EQ(PlanReads({{1, 10000, 30000}, {0, 0, 10000}}, rules).extents.size(), 2u);
  EXPECT_TRUE(PlanReads({{0, 7, 7}}, rules).extents.empty());
}

TEST(ReadPlan, LastPieceMayEndBehindTheFile) {
  const ReadRules rules{.block = 4096, .largest = 8192, .merge_gap = 0};
  const ReadPlan plan = PlanReads({{0, 100, 20000}}, rules);
  const std::vector<ReadPiece> pieces = PiecesOf(plan.extents.at(0), rules);
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[2].position, 16384);
  EXPECT_EQ(pieces[2].bytes, 4096);
  EXPECT_EQ(pieces[2].wanted, 20000 - 16384);
  EXPECT_EQ(pieces[0].wanted, 8192);
}

TEST(ReadPlan, HoldsForRandomRanges) {
  std::mt19937 bits(3);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint32_t>(n)); };
  for (int round = 0; round < 2000; ++round) {
    ReadRules rules;
    rules.block = int64_t{512} << below(4);
    rules.largest = rules.block * (1 + below(9));
    rules.merge_gap = below(20000);
    std::vector<FileRange> ranges;
    for (int64_t i = below(12); i >= 0; --i) {
      const int64_t begin = below(200000);
      ranges.push_back({static_cast<int32_t>(below(3)), begin, begin + below(round % 2 == 0 ? 50 : 30000)});
    }
    const ReadPlan plan = PlanReads(ranges, rules);
    // Every range lies in one extent.
    for (const FileRange& r : ranges) {
      if (r.bytes() == 0) continue;
      int holders = 0;
      for (const ReadExtent& e : plan.extents)
        holders += e.wanted.file == r.file && e.wanted.begin <= r.begin && r.end <= e.wanted.end;
      EXPECT_EQ(holders, 1);
    }
    int64_t memory = 0;
    for (size_t i = 0; i < plan.extents.size(); ++i) {
      const ReadExtent& e = plan.extents[i];
      EXPECT_EQ(e.range.begin % rules.block, 0);
      EXPECT_EQ(e.range.end % rules.block, 0);
      EXPECT_LT(e.wanted.begin - e.range.begin, rules.block);
      EXPECT_LT(e.range.end - e.wanted.end, rules.block);
      EXPECT_LE(e.range.begin, e.wanted.begin);
      EXPECT_GE(e.range.end, e.wanted.end);
      EXPECT_EQ(e.memory, memory);
      memory += e.range.bytes();
      // Both ends of what is wanted are somebody's: no byte is read for nobody at a border.
      bool first = false, last = false;
      for (const FileRange& r : ranges) {
        first |= r.file == e.wanted.file && r.begin == e.wanted.begin && r.bytes() > 0;
        last |= r.file == e.wanted.file && r.end == e.wanted.end && r.bytes() > 0;
      }
      EXPECT_TRUE(first && last);
      if (i > 0 && plan.extents[i - 1].range.file == e.range.file) {
        EXPECT_LE(plan.extents[i - 1].range.end, e.range.begin);
        EXPECT_GT(e.wanted.begin - plan.extents[i - 1].wanted.end, rules.merge_gap);
      }
      // Pieces are the extent, cut.
      int64_t at = e.range.begin, wanted = 0;
      for (const ReadPiece& p : PiecesOf(e, rules)) {
        EXPECT_EQ(p.position, at);
        EXPECT_EQ(p.memory - e.memory, at - e.range.begin);
        EXPECT_GT(p.bytes, 0);
        EXPECT_LE(p.bytes, rules.largest);
        EXPECT_EQ(p.bytes % rules.block, 0);
        EXPECT_GT(p.wanted, 0);
        EXPECT_LE(p.wanted, p.bytes);
        at += p.bytes;
        wanted = p.position + p.wanted;
      }
      EXPECT_EQ(at, e.range.end);
      EXPECT_EQ(wanted, e.wanted.end);
    }
    EXPECT_EQ(memory, plan.memory_bytes);
  }
}

TEST(ReadPlan, CountsSharedBytesOnce) {
  EXPECT_EQ(UnionBytes({{0, 0, 10}, {0, 5, 20}, {0, 20, 21}, {1, 0, 10}, {0, 30, 30}}), 31);
}

}  // namespace
}  // namespace paceline
