// A trunk that is known before it is loaded: the API listens, and says that it loads, from the first instant.
#pragma once

#include <utility>

#include "base/check.h"
#include "base/step.h"

namespace paceline::cli {

class DeferredTrunk final : public Trunk {
 public:
  explicit DeferredTrunk(TrunkInfo info) : info_(std::move(info)) {}
  // Before the engine that owns this is started. `trunk` outlives it.
  void Set(Trunk* trunk) { trunk_ = trunk; }

  const TrunkInfo& info() const override { return info_; }
  absl::StatusOr<StepResult> Run(const StepPlan& plan) override {
    CHECK(trunk_ != nullptr);
    return trunk_->Run(plan);
  }
  void Release(SequenceId sequence) override {
    if (trunk_ != nullptr) trunk_->Release(sequence);
  }
  ExchangeCounters counters() const override {
    return trunk_ == nullptr ? ExchangeCounters{} : trunk_->counters();
  }
  absl::Status MeasureLinks(bool bandwidth) override {
    CHECK(trunk_ != nullptr);
    return trunk_->MeasureLinks(bandwidth);
  }

 private:
  const TrunkInfo info_;
  Trunk* trunk_ = nullptr;
};

}  // namespace paceline::cli
