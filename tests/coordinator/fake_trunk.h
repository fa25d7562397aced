// A trunk without a model. It checks every plan against the rules of base/step.h and draws tokens by a
// function of the tokens fed so far, as a model does: what comes out must not depend on how rows were
// batched.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "base/step.h"

namespace paceline {

class FakeTrunk final : public Trunk {
 public:
  // What follows a prefix.
  using Model = std::function<TokenId(const std::vector<TokenId>& prefix)>;

  FakeTrunk(TrunkInfo info, int32_t prefill_chunk, Model model);

  static TrunkInfo SmallInfo();
  // A model without meaning: every token of the prefix matters.
  static Model Hash(int64_t vocab);

  const TrunkInfo& info() const override { return info_; }
  absl::StatusOr<StepResult> Run(const StepPlan& plan) override;
  void Release(SequenceId sequence) override;
  // One layer and 100 bytes per step.
  ExchangeCounters counters() const override { return {steps(), 100 * steps(), 0.0}; }

  // How many of `depth` drafts are right; the rest are wrong. Set before the engine starts, with
  // TrunkInfo::drafters naming who drafts. Without it drafters have nothing to say.
  std::function<int32_t(const SequenceRows&, const std::vector<TokenId>& prefix)> right_drafts;
  // What is offered after a step; the default is the MTP layer, any depth.
  std::function<std::vector<DraftOffer>(const std::vector<TokenId>& prefix)> offers;
  // Seconds of a step, drafting included in the second.
  std::function<std::pair<double, double>(const StepPlan&)> seconds;
  std::vector<int32_t> distinct_experts;  // of every step

  // Called at the start of every step, before anything is checked; not ok fails the step.
  std::function<absl::Status(const StepPlan&)> before_step;
  // Not ok fails one sequence.
  std::function<absl::Status(const SequenceRows&, const std::vector<TokenId>& prefix)> row_error;

  int live() const;
  int64_t steps() const;
  int64_t probes() const;
  int64_t drafted() const;

 private:
  struct State {
    std::vector<TokenId> fed;
    int32_t slot = -1;
    std::vector<int32_t> pages;
    uint64_t hashed = 0;
  };
  void Check(const StepPlan& plan);

  const TrunkInfo info_;
  const int32_t prefill_chunk_;
  const Model model_;
  mutable std::mutex mutex_;
  std::map<SequenceId, State> states_;
  std::set<SequenceId> released_;
  int64_t steps_ = 0;
  int64_t probes_ = 0;
  int64_t drafted_ = 0;
};

}  // namespace paceline
