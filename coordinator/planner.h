// The planner: from a placement's name or file to the table of holders. Pure functions; what fits is another
// matter.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/placement.h"

namespace paceline {

// `kind_or_file` is one of
//   contiguous  whole experts, one range of neighbours per rank, the head's first;
//   strided     whole experts, expert e on rank e mod ranks;
//   sliced      every expert's groups dealt over the ranks, see PlanSliced;
//   a path      of a file of rules, see ParsePlacementRules.
// CFG-001 names what is wrong with the file.
absl::StatusOr<Placement> PlanPlacement(const std::string& kind_or_file, std::vector<LayerShape> layers,
                                        int32_t ranks);

Placement PlanContiguous(std::vector<LayerShape> layers, int32_t ranks);
Placement PlanStrided(std::vector<LayerShape> layers, int32_t ranks);

// Each rank takes one run of groups of every expert, runs as even as they can be. What is left over when the
// groups do not divide goes to ranks in turn, the turn carried from expert to expert and from layer to layer,
// so totals differ by one leaf at most. With fewer groups than ranks the same turn hands out single groups;
// with one group per expert these are whole experts, dealt evenly. A rank is without work in a layer only
// where ranks outnumber leaves.
Placement PlanSliced(std::vector<LayerShape> layers, int32_t ranks);

// {"rules":[{"layers":[first,last],"experts":[first,last],"columns":[first,last],"holders":[rank,..]}]}:
// inclusive ranges, an absent range means all; columns start at multiples of 128 and end before one or at the
// last column; a later rule wins; what no rule names stays on the head. CFG-001 names the rule by index and
// the field.
absl::StatusOr<Placement> ParsePlacementRules(std::string_view json, const std::string& file_name,
                                              std::vector<LayerShape> layers, int32_t ranks);

// Rows of a matrix of `rows` rows cut over the ranks at multiples of 128 (an FP8 scale block), as evenly as
// that allows, head first.
std::vector<RowRange> SplitHeadRows(int64_t rows, int32_t ranks);  // [ranks]

}  // namespace paceline
