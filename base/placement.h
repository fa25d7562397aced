// The placement table: (layer, expert, group range) -> holders, for one epoch (docs/ARCHITECTURE.md,
// Placement). A group is 128 consecutive columns of an expert's intermediate dimension at an absolute
// multiple of 128; the last may be narrower. One (expert, group) pair of a layer is a leaf. Plain data: made
// by coordinator/planner, read by everyone.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"

namespace paceline {

inline constexpr int32_t kGroupColumns = 128;
constexpr int32_t GroupsOf(int64_t columns) {
  return static_cast<int32_t>((columns + kGroupColumns - 1) / kGroupColumns);
}

// What a planner must know of a layer. A layer without routed experts has experts 0.
struct LayerShape {
  int32_t experts = 0;
  int32_t groups = 0;      // per expert
  int64_t leaf_bytes = 0;  // weights of one full leaf as stored, for balance and `status`
  int64_t columns = 0;     // intermediate width, to check a placement file; 0: not known
  friend bool operator==(const LayerShape&, const LayerShape&) = default;
};

// A maximal run of groups of one expert with the same holders.
struct Segment {
  int32_t first_group = 0;
  int32_t groups = 0;
  std::vector<RankId> holders;  // ascending, never empty
  friend bool operator==(const Segment&, const Segment&) = default;
};

// Rows [first, first + count) of a matrix.
struct RowRange {
  int64_t first = 0;
  int64_t count = 0;
  friend bool operator==(const RowRange&, const RowRange&) = default;
};

class Placement {
 public:
  Placement() = default;
  // Every leaf on the head (rank 0).
  Placement(Epoch epoch, int32_t ranks, std::vector<LayerShape> layers);

  Epoch epoch() const { return epoch_; }
  void set_epoch(Epoch epoch) { epoch_ = epoch; }
  int32_t ranks() const { return ranks_; }
  const std::vector<LayerShape>& layers() const { return layers_; }

  // The segments of one expert, ascending by group, covering all its groups.
  std::span<const Segment> segments(LayerId layer, ExpertId expert) const;
  // Replaces the holders of groups [first_group, first_group + groups). Holders are sorted and deduplicated.
  void Assign(LayerId layer, ExpertId expert, int32_t first_group, int32_t groups,
              std::vector<RankId> holders);
  // Takes `rank` out of the holders wherever another rank holds the same groups: what is left to ask while it
  // is lost.
  void DropReplicas(RankId rank);

  // The group ranges of `expert` that `rank` holds, ascending, merged.
  std::vector<Segment> HeldBy(RankId rank, LayerId layer, ExpertId expert) const;
  // (layer, expert, group) triples and experts (any part of them) that `rank` holds.
  int64_t LeavesOf(RankId rank) const;
  int64_t ExpertsOf(RankId rank) const;

  // Rows of the LM head per rank; empty when the head keeps all of it.
  const std::vector<RowRange>& head_rows() const { return head_rows_; }
  void set_head_rows(std::vector<RowRange> rows) { head_rows_ = std::move(rows); }

  // InvalidArgument naming the first leaf without a holder, or a holder outside the ranks.
  absl::Status Validate() const;

  friend bool operator==(const Placement&, const Placement&) = default;

 private:
  std::vector<Segment>& at(LayerId layer, ExpertId expert);

  Epoch epoch_{0};
  int32_t ranks_ = 1;
  std::vector<LayerShape> layers_;
  std::vector<std::vector<std::vector<Segment>>> segments_;  // [layers][experts][segments]
  std::vector<RowRange> head_rows_;                          // [ranks] or empty
};

}  // namespace paceline
