// Ids that do not mix: an ExpertId cannot be passed where a RankId is meant.
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>

namespace paceline {

template <class Tag, class Int = int32_t>
class Id {
 public:
  constexpr Id() = default;
  constexpr explicit Id(Int value) : value_(value) {}
  constexpr Int value() const { return value_; }
  friend constexpr auto operator<=>(Id, Id) = default;
  friend std::ostream& operator<<(std::ostream& out, Id id) { return out << id.value_; }

 private:
  Int value_ = 0;
};

using RankId = Id<struct RankTag>;    // 0 is the head
using LayerId = Id<struct LayerTag>;  // position in the trunk; the MTP layer never travels
using ExpertId = Id<struct ExpertTag>;
using Epoch = Id<struct EpochTag, uint32_t>;  // version of the placement table
using StepId = Id<struct StepTag, uint64_t>;
using SequenceId = Id<struct SequenceTag, uint64_t>;  // one timeline of tokens, unique in a head's life

using TokenId = int32_t;

}  // namespace paceline

template <class Tag, class Int>
struct std::hash<paceline::Id<Tag, Int>> {
  size_t operator()(paceline::Id<Tag, Int> id) const { return std::hash<Int>()(id.value()); }
};
