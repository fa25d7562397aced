// An ExpertHandler that computes nothing worth knowing, for tests of everything around it: a leaf adds
// (rank, expert, groups) as numbers, so that a test sees which rank answered for what.
#pragma once

#include <memory>
#include <utility>

#include "base/error.h"
#include "worker/join.h"

namespace paceline {

class FakeHandler final : public ExpertHandler {
 public:
  explicit FakeHandler(Share share) : share_(std::move(share)) {}

  static int64_t Leaf(RankId rank, int32_t expert, int32_t groups) {
    return int64_t{rank.value()} * 1000000 + int64_t{expert} * 1000 + groups;
  }
  absl::Status Experts(LayerId layer, const RowBlock& rows, std::span<const Route> routes,
                       ExpertSums into) override {
    for (const Route& route : routes) {
      if (!Holds(layer, route)) return Error(errors::kFrame, "a route names a leaf that is not held");
      for (int32_t i = 0; i < rows.hidden; ++i) {
        into.sums[int64_t{route.row} * rows.hidden + i] += Leaf(share_.rank, route.expert, route.groups);
      }
    }
    return absl::OkStatus();
  }
  absl::Status MatmulRows(int32_t, const float*, int32_t, int32_t, float*) override {
    return absl::OkStatus();
  }
  int64_t MatmulOutputs(int32_t) const override { return share_.head_rows.count; }
  int32_t hidden() const override { return kHidden; }

  static constexpr int32_t kHidden = 128;

 private:
  bool Holds(LayerId layer, const Route& route) const {
    for (const HeldGroups& held : share_.held) {
      if (held.layer == layer && held.expert.value() == route.expert &&
          held.first_group <= route.first_group &&
          held.first_group + held.groups >= route.first_group + route.groups) {
        return true;
      }
    }
    return false;
  }
  const Share share_;
};

inline absl::StatusOr<LoadedHandler> LoadFake(const Share& share,
                                              const std::function<void(LoadProgress)>& progress) {
  LoadedHandler out;
  out.handler = std::make_unique<FakeHandler>(share);
  for (const HeldGroups& held : share.held) {
    ++out.facts.experts;
    out.facts.leaves += held.groups;
  }
  out.facts.bytes = 100 * out.facts.leaves;
  progress({out.facts.bytes, out.facts.bytes});
  return out;
}

// What a fake worker says of itself.
inline WorkerFacts FakeFacts(const std::string& name, int64_t pid) {
  WorkerFacts facts;
  facts.name = name;
  facts.pid = pid;
  facts.model_digest = "digest-of-the-model";
  facts.backend = "fake";
  facts.isa = "none";
  facts.build = "test";
  return facts;
}

}  // namespace paceline
