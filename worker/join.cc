// Shares out of the placement table, hellos out of the terms.
#include "worker/join.h"

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

JoinHello MakeHello(const JoinTerms& terms, const WorkerFacts& facts, const KnownAnswer& known_answer) {
  JoinHello hello;
  hello.facts = facts;
  hello.fingerprints = FingerprintsOf(terms.contract);
  if (known_answer) hello.known_answer = known_answer(terms.contract);
  return hello;
}

}  // namespace paceline
