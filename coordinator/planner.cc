// Named placements and the cut of the LM head. Files of rules: placement_rules.cc.
#include "coordinator/planner.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"

namespace paceline {
namespace {

constexpr int64_t kHeadRowsUnit = 128;

// The share of rank `rank` when `items` are dealt over `ranks`, the first ones taking what is left over.
struct Share {
  int64_t first = 0;
  int64_t count = 0;
};
Share EvenShare(int64_t items, int32_t ranks, int32_t rank) {
  const int64_t base = items / ranks;
  const int64_t extra = items % ranks;
  return {base * rank + std::min<int64_t>(rank, extra), base + (rank < extra ? 1 : 0)};
}

}  // namespace

Placement PlanContiguous(std::vector<LayerShape> layers, int32_t ranks) {
  Placement placement(Epoch(0), ranks, std::move(layers));
  for (size_t l = 0; l < placement.layers().size(); ++l) {
    const LayerShape shape = placement.layers()[l];
    for (int32_t rank = 1; rank < ranks; ++rank) {
      const Share share = EvenShare(shape.experts, ranks, rank);
      for (int64_t e = share.first; e < share.first + share.count; ++e) {
        placement.Assign(LayerId(static_cast<int32_t>(l)), ExpertId(static_cast<int32_t>(e)), 0, shape.groups,
                         {RankId(rank)});
      }
    }
  }
  return placement;
}

Placement PlanStrided(std::vector<LayerShape> layers, int32_t ranks) {
  Placement placement(Epoch(0), ranks, std::move(layers));
  for (size_t l = 0; l < placement.layers().size(); ++l) {
    const LayerShape shape = placement.layers()[l];
    for (int32_t e = 0; e < shape.experts; ++e) {
      placement.Assign(LayerId(static_cast<int32_t>(l)), ExpertId(e), 0, shape.groups, {RankId(e % ranks)});
    }
  }
  return placement;
}

Placement PlanSliced(std::vector<LayerShape> layers, int32_t ranks) {
  Placement placement(Epoch(0), ranks, std::move(layers));
  int32_t turn = 0;  // the rank that takes the next left-over group
  for (size_t l = 0; l < placement.layers().size(); ++l) {
    const LayerShape shape = placement.layers()[l];
    const int32_t base = shape.groups / ranks;
    const int32_t extra = shape.groups % ranks;
    for (int32_t e = 0; e < shape.experts; ++e) {
      int32_t next = 0;
      for (int32_t rank = 0; rank < ranks; ++rank) {
        const int32_t since_turn = (rank - turn + ranks) % ranks;
        const int32_t groups = base + (since_turn < extra ? 1 : 0);
        if (groups == 0) continue;
        placement.Assign(LayerId(static_cast<int32_t>(l)), ExpertId(e), next, groups, {RankId(rank)});
        next += groups;
      }
      CHECK_EQ(next, shape.groups);
      turn = (turn + extra) % ranks;
    }
  }
  return placement;
}

std::vector<RowRange> SplitHeadRows(int64_t rows, int32_t ranks) {
  std::vector<RowRange> cut;
  const int64_t units = (rows + kHeadRowsUnit - 1) / kHeadRowsUnit;
  for (int32_t rank = 0; rank < ranks; ++rank) {
    const Share share = EvenShare(units, ranks, rank);
    const int64_t first = std::min(rows, share.first * kHeadRowsUnit);
    const int64_t end = std::min(rows, (share.first + share.count) * kHeadRowsUnit);
    cut.push_back({first, end - first});
  }
  return cut;
}

absl::StatusOr<Placement> PlanPlacement(const std::string& kind_or_file, std::vector<LayerShape> layers,
                                        int32_t ranks) {
  CHECK_GE(ranks, 1);
  if (kind_or_file == "contiguous") return PlanContiguous(std::move(layers), ranks);
  if (kind_or_file == "strided") return PlanStrided(std::move(layers), ranks);
  if (kind_or_file == "sliced") return PlanSliced(std::move(layers), ranks);
  std::ifstream file(kind_or_file, std::ios::binary);
  if (!file) {
    return Error(
        errors::kPlacement,
        absl::StrCat("placement `", kind_or_file,
                     "` is neither contiguous, strided or sliced nor a file that can be read; give one of "
                     "the three names or the path of a file of rules"));
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad())
    return Error(errors::kPlacement, absl::StrCat("placement file ", kind_or_file, ": reading it failed"));
  return ParsePlacementRules(text, kind_or_file, std::move(layers), ranks);
}

}  // namespace paceline
