// Files of placement rules: JSON, checked field by field, so that an error says which rule and which field.
#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "coordinator/planner.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace {

using Json = nlohmann::json;

struct Range {  // inclusive
  int64_t first = 0;
  int64_t last = 0;
};

// One rule of the file, with the words every error about it begins with.
class Rule {
 public:
  Rule(const Json& json, std::string name) : json_(json), name_(std::move(name)) {}

  absl::Status Bad(const char* field, std::string_view what) const {
    return Error(errors::kPlacement,
                 absl::StrCat(name_, ".", field, ": ", absl::string_view(what.data(), what.size())));
  }

  absl::Status CheckFields() const {
    if (!json_.is_object()) {
      return Error(errors::kPlacement, absl::StrCat(name_, ": expected an object, got ", json_.type_name()));
    }
    for (const auto& [field, value] : json_.items()) {
      if (field != "layers" && field != "experts" && field != "columns" && field != "holders") {
        return Bad(field.c_str(), "no such field; a rule has layers, experts, columns and holders");
      }
    }
    return absl::OkStatus();
  }

  // The field as [first, last]; absent = nothing.
  absl::StatusOr<std::optional<Range>> Interval(const char* field) const {
    const auto found = json_.find(field);
    if (found == json_.end()) return std::nullopt;
    if (!found->is_array() || found->size() != 2 || !IsIndex((*found)[0]) || !IsIndex((*found)[1])) {
      return Bad(field,
                 absl::StrCat("expected [first, last], two whole numbers from 0, got ", found->dump()));
    }
    const Range range{(*found)[0].get<int64_t>(), (*found)[1].get<int64_t>()};
    if (range.first > range.last) {
      return Bad(field, absl::StrCat("the first of ", found->dump(), " is above the last"));
    }
    return range;
  }

  absl::StatusOr<std::vector<RankId>> Holders(int32_t ranks) const {
    const auto found = json_.find("holders");
    if (found == json_.end() || !found->is_array() || found->empty()) {
      return Bad("holders", "expected a list of at least one rank, as in [0, 1]");
    }
    std::vector<RankId> holders;
    for (const Json& rank : *found) {
      if (!IsIndex(rank) || rank.get<int64_t>() >= ranks) {
        return Bad("holders", absl::StrCat("expected ranks from 0 to ", ranks - 1, ", got ", rank.dump()));
      }
      holders.push_back(RankId(static_cast<int32_t>(rank.get<int64_t>())));
    }
    return holders;
  }

 private:
  static bool IsIndex(const Json& value) {
    return value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(INT32_MAX);
  }

  const Json& json_;
  std::string name_;
};

// The groups that columns [first, last] of a layer make up.
absl::StatusOr<Range> GroupsOfColumns(const Rule& rule, Range columns, int64_t layer,
                                      const LayerShape& shape) {
  const int64_t width = shape.columns > 0 ? shape.columns : int64_t{shape.groups} * kGroupColumns;
  if (columns.last >= width) {
    return rule.Bad("columns", absl::StrCat("last column ", columns.last, " is outside layer ", layer,
                                            ", whose experts have ", width, " columns"));
  }
  if (columns.first % kGroupColumns != 0) {
    return rule.Bad("columns",
                    absl::StrCat("first column ", columns.first, " is not a multiple of ", kGroupColumns));
  }
  const bool in_last_group = columns.last / kGroupColumns == shape.groups - 1;
  const bool at_end = columns.last + 1 == width || (shape.columns == 0 && in_last_group);
  if ((columns.last + 1) % kGroupColumns != 0 && !at_end) {
    return rule.Bad("columns",
                    absl::StrCat("last column ", columns.last, " neither ends a group of ", kGroupColumns,
                                 " (", columns.last / kGroupColumns * kGroupColumns + kGroupColumns - 1,
                                 " does) nor is the last column of layer ", layer, " (", width - 1, ")"));
  }
  return Range{columns.first / kGroupColumns, columns.last / kGroupColumns};
}

absl::Status ApplyRule(const Rule& rule, Placement& placement) {
  RETURN_IF_ERROR(rule.CheckFields());
  ASSIGN_OR_RETURN(const std::optional<Range> layers, rule.Interval("layers"));
  ASSIGN_OR_RETURN(const std::optional<Range> experts, rule.Interval("experts"));
  ASSIGN_OR_RETURN(const std::optional<Range> columns, rule.Interval("columns"));
  ASSIGN_OR_RETURN(const std::vector<RankId> holders, rule.Holders(placement.ranks()));
  const int64_t layer_count = static_cast<int64_t>(placement.layers().size());
  if (layers && layers->last >= layer_count) {
    return rule.Bad("layers", absl::StrCat("last layer ", layers->last, " is outside the model, which has ",
                                           layer_count, " layers"));
  }
  const Range all_layers = layers.value_or(Range{0, layer_count - 1});
  for (int64_t l = all_layers.first; l <= all_layers.last; ++l) {
    const LayerShape shape = placement.layers()[l];
    if (shape.experts == 0) continue;  // a dense layer inside a range of layers has nothing to place
    if (experts && experts->last >= shape.experts) {
      return rule.Bad("experts", absl::StrCat("last expert ", experts->last, " is outside layer ", l,
                                              ", which has ", shape.experts, " experts"));
    }
    Range groups{0, shape.groups - 1};
    if (columns) {
      ASSIGN_OR_RETURN(groups, GroupsOfColumns(rule, *columns, l, shape));
    }
    const Range of = experts.value_or(Range{0, shape.experts - 1});
    for (int64_t e = of.first; e <= of.last; ++e) {
      placement.Assign(LayerId(static_cast<int32_t>(l)), ExpertId(static_cast<int32_t>(e)),
                       static_cast<int32_t>(groups.first),
                       static_cast<int32_t>(groups.last - groups.first + 1), holders);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Placement> ParsePlacementRules(std::string_view json, const std::string& file_name,
                                              std::vector<LayerShape> layers, int32_t ranks) {
  const Json file = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  const auto bad = [&](const std::string& what) {
    return Error(errors::kPlacement, absl::StrCat("placement file ", file_name, ": ", what));
  };
  if (file.is_discarded()) return bad("not valid JSON");
  if (!file.is_object() || !file.contains("rules") || !file["rules"].is_array()) {
    return bad("expected an object with a list `rules`");
  }
  for (const auto& [field, value] : file.items()) {
    if (field != "rules") return bad(absl::StrCat("no such field: ", field, "; expected only `rules`"));
  }
  Placement placement(Epoch(0), ranks, std::move(layers));
  const Json& rules = file["rules"];
  for (size_t i = 0; i < rules.size(); ++i) {
    const Rule rule(rules[i], absl::StrCat("placement file ", file_name, ": rules[", i, "]"));
    RETURN_IF_ERROR(ApplyRule(rule, placement));
  }
  return placement;
}

}  // namespace paceline
