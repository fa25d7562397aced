// The placement table.
#include "base/placement.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"

namespace paceline {

Placement::Placement(Epoch epoch, int32_t ranks, std::vector<LayerShape> layers)
    : epoch_(epoch), ranks_(ranks), layers_(std::move(layers)) {
  for (const LayerShape& layer : layers_) {
    segments_.emplace_back(layer.experts, std::vector<Segment>{{0, layer.groups, {RankId(0)}}});
  }
}

std::span<const Segment> Placement::segments(LayerId layer, ExpertId expert) const {
  return const_cast<Placement*>(this)->at(layer, expert);
}

std::vector<Segment>& Placement::at(LayerId layer, ExpertId expert) {
  CHECK_LT(static_cast<size_t>(layer.value()), segments_.size());
  CHECK_LT(static_cast<size_t>(expert.value()), segments_[layer.value()].size());
  return segments_[layer.value()][expert.value()];
}

void Placement::Assign(LayerId layer, ExpertId expert, int32_t first_group, int32_t groups,
                       std::vector<RankId> holders) {
  std::vector<Segment>& old = at(layer, expert);
  CHECK_GE(first_group, 0);
  CHECK_LE(first_group + groups, layers_[layer.value()].groups);
  std::sort(holders.begin(), holders.end());
  holders.erase(std::unique(holders.begin(), holders.end()), holders.end());
  std::vector<Segment> fresh;
  const auto add = [&fresh](int32_t first, int32_t count, const std::vector<RankId>& who) {
    if (count <= 0) return;
    if (!fresh.empty() && fresh.back().holders == who &&
        fresh.back().first_group + fresh.back().groups == first) {
      fresh.back().groups += count;
    } else {
      fresh.push_back({first, count, who});
    }
  };
  const int32_t end = first_group + groups;
  bool placed = false;
  for (const Segment& s : old) {
    const int32_t s_end = s.first_group + s.groups;
    add(s.first_group, std::min(s_end, first_group) - s.first_group, s.holders);
    if (!placed && s_end > first_group) {
      add(first_group, groups, holders);
      placed = true;
    }
    const int32_t after = std::max(s.first_group, end);
    add(after, s_end - after, s.holders);
  }
  old = std::move(fresh);
}

void Placement::DropReplicas(RankId rank) {
  for (size_t layer = 0; layer < segments_.size(); ++layer) {
    for (size_t expert = 0; expert < segments_[layer].size(); ++expert) {
      const std::vector<Segment> before = segments_[layer][expert];  // Assign() replaces the list
      for (const Segment& s : before) {
        std::vector<RankId> others = s.holders;
        if (std::erase(others, rank) == 0 || others.empty()) continue;
        Assign(LayerId(static_cast<int32_t>(layer)), ExpertId(static_cast<int32_t>(expert)), s.first_group,
               s.groups, std::move(others));
      }
    }
  }
}

std::vector<Segment> Placement::HeldBy(RankId rank, LayerId layer, ExpertId expert) const {
  std::vector<Segment> held;
  for (const Segment& s : segments(layer, expert)) {
    if (!std::binary_search(s.holders.begin(), s.holders.end(), rank)) continue;
    if (!held.empty() && held.back().first_group + held.back().groups == s.first_group) {
      held.back().groups += s.groups;
    } else {
      held.push_back({s.first_group, s.groups, {rank}});
    }
  }
  return held;
}

int64_t Placement::LeavesOf(RankId rank) const {
  int64_t leaves = 0;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    for (int32_t e = 0; e < layers_[layer].experts; ++e) {
      for (const Segment& s : HeldBy(rank, LayerId(static_cast<int32_t>(layer)), ExpertId(e)))
        leaves += s.groups;
    }
  }
  return leaves;
}

int64_t Placement::ExpertsOf(RankId rank) const {
  int64_t experts = 0;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    for (int32_t e = 0; e < layers_[layer].experts; ++e) {
      experts += HeldBy(rank, LayerId(static_cast<int32_t>(layer)), ExpertId(e)).empty() ? 0 : 1;
    }
  }
  return experts;
}

absl::Status Placement::Validate() const {
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    for (int32_t e = 0; e < layers_[layer].experts; ++e) {
      int32_t next = 0;
      for (const Segment& s : segments_[layer][e]) {
        if (s.first_group != next || s.holders.empty()) break;
        for (const RankId r : s.holders) {
          if (r.value() < 0 || r.value() >= ranks_) {
            return Error(errors::kPlacement,
                         absl::StrCat("layer ", layer, " expert ", e, " is given to rank ", r.value(),
                                      ", but the cluster has ranks 0 to ", ranks_ - 1));
          }
        }
        next += s.groups;
      }
      if (next != layers_[layer].groups) {
        return Error(errors::kPlacement,
                     absl::StrCat("layer ", layer, " expert ", e, " group ", next,
                                  " has no holder; every group of every expert needs one"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace paceline
