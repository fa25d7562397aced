// From the byte ranges that are wanted of some files to the reads that bring them: neighbours merged, borders
// moved out to whole blocks, nothing longer than one read may be. Pure; no file is touched here.
#pragma once

#include <cstdint>
#include <vector>

namespace paceline {

// Half-open, in bytes from the start of file number `file`.
struct FileRange {
  int32_t file = 0;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t bytes() const { return end - begin; }
  friend bool operator==(const FileRange&, const FileRange&) = default;
};

struct ReadRules {
  int64_t block = 4096;  // a power of two: O_DIRECT wants positions, lengths and memory in these
  int64_t largest = int64_t{2} << 20;  // of one read; a multiple of `block`
  int64_t merge_gap =
      int64_t{128} << 10;  // unwanted bytes between two ranges that are cheaper read than sought
};

// Consecutive bytes of one file that lie consecutively in memory, too.
struct ReadExtent {
  FileRange range;     // whole blocks; may reach beyond the end of the file by less than one
  FileRange wanted;    // from the first wanted byte to the last
  int64_t memory = 0;  // where it starts among the bytes of the plan, a multiple of `block`
};

struct ReadPlan {
  std::vector<ReadExtent> extents;  // ascending, apart from each other by more than the gap
  int64_t memory_bytes = 0;
  int64_t wanted_bytes() const;
};

// `ranges` in any order, overlaps allowed, empty ones left out.
ReadPlan PlanReads(std::vector<FileRange> ranges, const ReadRules& rules);

// One read of an extent.
struct ReadPiece {
  int64_t position = 0;  // in the file
  int64_t bytes = 0;
  int64_t memory = 0;
  int64_t wanted = 0;  // so many of `bytes` have to come; the rest may lie behind the end of the file
};
std::vector<ReadPiece> PiecesOf(const ReadExtent& extent, const ReadRules& rules);

// Bytes that lie in at least one of the ranges.
int64_t UnionBytes(std::vector<FileRange> ranges);

}  // namespace paceline
