// A trunk without a model. It checks every plan against the rules of base/step.h and draws tokens by a
// function of the tokens fed so far, as a model does: what comes out must not depend on how rows were
// batched. It has memory too: pages, slots and snapshots hold what was run into them, and every row checks
// that all it would read is its own text's.
#pragma once

#include <array>
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

  // What is said of `target` behind `token` where rows are scored.
  static float ScoreOf(TokenId token, TokenId target) {
    return -static_cast<float>(100 * token + target) / 1024.0f;
  }
  static TrunkInfo SmallInfo();
  // A model without meaning: every token of the prefix matters.
  static Model Hash(int64_t vocab);

  const TrunkInfo& info() const override { return info_; }
  absl::StatusOr<StepResult> Run(const StepPlan& plan) override;
  void Release(SequenceId sequence) override;
  // One layer and 100 bytes per step.
  ExchangeCounters counters() const override { return {steps(), 100 * steps(), 0.0}; }
  absl::Status MeasureLinks(bool bandwidth) override;

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
  int64_t restored() const;  // positions that sequences went on behind
  // Measurements of the links: with bandwidth, and without.
  std::pair<int64_t, int64_t> links_measured() const;

 private:
  struct State {
    std::vector<TokenId> fed;      // by now
    std::vector<uint64_t> hashes;  // [fed] of all tokens up to each
    std::vector<TokenId> before;   // what had been fed when it was suspended
    int32_t slot = -1;
    uint64_t hashed = 0;
    bool prefilling = true;  // since it started, until it draws
  };
  void Suspend(const StepPlan& plan);
  void Check(const StepPlan& plan);
  void CheckSharing(const StepPlan& plan);
  void CheckKeep(const StepPlan& plan, const SequenceRows& rows);
  void Restore(const SequenceRows& rows, State& state);
  void CheckMemory(const SequenceRows& rows, const State& state);
  void Feed(const SequenceRows& rows, State& state, TokenId token);

  const TrunkInfo info_;
  const int32_t prefill_chunk_;
  const Model model_;
  mutable std::mutex mutex_;
  std::map<SequenceId, State> states_;
  std::set<SequenceId> released_;
  // What a trunk's memory would hold, as hashes of all tokens up to the one at a position.
  std::map<int32_t, std::array<uint64_t, kPagePositions>> pages_;
  std::map<int32_t, uint64_t> slots_;
  std::map<int32_t, std::vector<TokenId>> snapshots_;
  int64_t steps_ = 0;
  int64_t probes_ = 0;
  int64_t drafted_ = 0;
  int64_t restored_ = 0;
  std::pair<int64_t, int64_t> links_measured_;
};

}  // namespace paceline
