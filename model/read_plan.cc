// Merging and cutting of reads.
#include "model/read_plan.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"

namespace paceline {
namespace {

// Overlapping ranges, and those at most `gap` apart, as one; ascending.
std::vector<FileRange> Merged(std::vector<FileRange> ranges, int64_t gap) {
  std::erase_if(ranges, [](const FileRange& r) { return r.bytes() <= 0; });
  std::sort(ranges.begin(), ranges.end(), [](const FileRange& a, const FileRange& b) {
    return std::tie(a.file, a.begin) < std::tie(b.file, b.begin);
  });
  std::vector<FileRange> out;
  for (const FileRange& range : ranges) {
    CHECK_GE(range.begin, 0);
    if (!out.empty() && out.back().file == range.file && range.begin - out.back().end <= gap) {
      out.back().end = std::max(out.back().end, range.end);
    } else {
      out.push_back(range);
    }
  }
  return out;
}

}  // namespace

int64_t ReadPlan::wanted_bytes() const {
  int64_t bytes = 0;
  for (const ReadExtent& extent : extents) bytes += extent.wanted.bytes();
  return bytes;
}

ReadPlan PlanReads(std::vector<FileRange> ranges, const ReadRules& rules) {
  CHECK(rules.block > 0 && (rules.block & (rules.block - 1)) == 0);
  CHECK(rules.largest >= rules.block && rules.largest % rules.block == 0 && rules.merge_gap >= 0);
  ReadPlan plan;
  // Two blocks of room at least, or extents that were apart would meet once their borders have moved out.
  for (const FileRange& wanted : Merged(std::move(ranges), std::max(rules.merge_gap, 2 * rules.block))) {
    ReadExtent extent;
    extent.wanted = wanted;
    extent.range = {wanted.file, wanted.begin / rules.block * rules.block,
                    (wanted.end + rules.block - 1) / rules.block * rules.block};
    extent.memory = plan.memory_bytes;
    plan.memory_bytes += extent.range.bytes();
    plan.extents.push_back(extent);
  }
  return plan;
}

std::vector<ReadPiece> PiecesOf(const ReadExtent& extent, const ReadRules& rules) {
  std::vector<ReadPiece> pieces;
  for (int64_t at = extent.range.begin; at < extent.range.end; at += rules.largest) {
    ReadPiece piece;
    piece.position = at;
    piece.bytes = std::min(rules.largest, extent.range.end - at);
    piece.memory = extent.memory + at - extent.range.begin;
    piece.wanted = std::min(at + piece.bytes, extent.wanted.end) - at;
    pieces.push_back(piece);
  }
  return pieces;
}

int64_t UnionBytes(std::vector<FileRange> ranges) {
  int64_t bytes = 0;
  for (const FileRange& range : Merged(std::move(ranges), 0)) bytes += range.bytes();
  return bytes;
}

}  // namespace paceline
