// Shares out of the placement table, hellos out of the terms.
#include "worker/join.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace paceline {

Share ShareOf(const Placement& placement, RankId rank, const ContractOptions& contract) {
  Share share;
  share.rank = rank;
  share.ranks = placement.ranks();
  share.contract = contract;
  for (size_t layer = 0; layer < placement.layers().size(); ++layer) {
    const LayerId layer_id(static_cast<int32_t>(layer));
    for (int32_t expert = 0; expert < placement.layers()[layer].experts; ++expert) {
      for (const Segment& segment : placement.HeldBy(rank, layer_id, ExpertId(expert))) {
        share.held.push_back({layer_id, ExpertId(expert), segment.first_group, segment.groups});
      }
    }
  }
  const size_t index = static_cast<size_t>(rank.value());
  if (index < placement.head_rows().size()) share.head_rows = placement.head_rows()[index];
  return share;
}

absl::StatusOr<Placement> PlacementOf(const Share& share, std::vector<LayerShape> layers) {
  Placement placement(Epoch(0), share.ranks, std::move(layers));
  for (const HeldGroups& held : share.held) {
    const auto layer = static_cast<size_t>(held.layer.value());
    const bool known = layer < placement.layers().size() &&
                       held.expert.value() < placement.layers()[layer].experts &&
                       held.first_group + held.groups <= placement.layers()[layer].groups;
    if (!known) {
      return Error(errors::kFrame,
                   absl::StrCat("the head assigned expert ", held.expert.value(), " of layer ", layer,
                                ", groups ", held.first_group, " to ", held.first_group + held.groups - 1,
                                ", which this model does not have"));
    }
    placement.Assign(held.layer, held.expert, held.first_group, held.groups, {share.rank});
  }
  if (share.head_rows.count > 0) {
    std::vector<RowRange> rows(static_cast<size_t>(share.ranks));
    rows[static_cast<size_t>(share.rank.value())] = share.head_rows;
    placement.set_head_rows(std::move(rows));
  }
  return placement;
}

JoinHello MakeHello(const JoinTerms& terms, const WorkerFacts& facts, const KnownAnswer& known_answer) {
  JoinHello hello;
  hello.facts = facts;
  hello.fingerprints = FingerprintsOf(terms.contract);
  if (known_answer) hello.known_answer = known_answer(terms.contract);
  return hello;
}

}  // namespace paceline
