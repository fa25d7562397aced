// The controller of speculation: per step, who guesses how far for which request, so that the whole step
// brings the most tokens per second. A pure object: no threads, no clocks, no I/O.
//
// It knows what steps cost (cost_table.h) and how often drafts have been right (acceptance.h), and nothing of
// the drafts it will cause: a decision that looked at the token to be judged could bend the text (coupled
// acceptance would forgive it, rejection sampling would not).
//
// Each request has *arms*: the MTP layer, and the suffix drafter by how long its match is. An arm whose
// drafts do not pay is given a few steps to show otherwise, then rests (16 steps, doubling to 256), then is
// tried again with one draft. So is from its first step on what has failed all requests before;
// its first rest is 64 steps.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/step.h"
#include "coordinator/acceptance.h"
#include "coordinator/cost_table.h"
#include "coordinator/speculation.h"

namespace paceline {

// A sequence about to decode.
struct DraftCandidate {
  SequenceId id{0};
  DraftChoice choice;
  int32_t max_depth = 0;               // what max_tokens and the context leave
  std::span<const DraftOffer> offers;  // of its last step
};

struct DraftDecision {
  DraftSource source = DraftSource::kNone;
  int32_t depth = 0;
};

// What a step has for decoding sequences.
struct DraftLimits {
  int64_t rows = 0;          // one per sequence and all drafts
  int64_t prefill_rows = 0;  // that run beside them
};

struct DraftOutcome {
  SequenceId id{0};
  DraftSource source = DraftSource::kNone;  // as decided
  int32_t asked = 0;                        // drafts decided on
  int32_t drafted = 0;                      // of them made; fewer where the drafter had no more to say
  int32_t accepted = 0;
};

struct StepObservation {
  int64_t prefill_rows = 0;
  double draft_s = 0;
  double run_s = 0;                        // 0: not measured
  std::span<const DraftOutcome> outcomes;  // of every decoding sequence of the step
};

// Use from one thread.
class SpeculationController {
 public:
  // `warn`, where given, hears sentences for the log.
  SpeculationController(const SpeculationPolicy& policy, std::function<void(const std::string&)> warn);

  // Of a start-up measurement: `batch` sequences, each with `depth` drafts of the MTP layer.
  void SeedCost(int32_t batch, int32_t depth, double run_s, double draft_s);

  // One decision per candidate. Requests of a fixed depth are served first, in order.
  std::vector<DraftDecision> Decide(std::span<const DraftCandidate> candidates, const DraftLimits& limits);
  void Observe(const StepObservation& step);
  void Forget(SequenceId id) { requests_.erase(id); }

  const SpeculationPolicy& policy() const { return policy_; }

 private:
  // 0: MTP. From 1 on: suffix, by length of the match.
  static constexpr size_t kArms = 5;
  struct Arm {
    DepthAcceptance acceptance;
    int32_t tested = 0;     // verify steps since it was taken up
    int32_t barren = 0;     // verify steps since a draft was last right
    int32_t rest_left = 0;  // steps
    int32_t next_rest = 0;  // steps
    bool retest = false;
  };
  struct Request {
    std::array<Arm, kArms> arms;
    size_t arm = 0;  // of the last decision
  };
  // How one candidate may draft.
  struct Plan {
    DraftSource source = DraftSource::kNone;
    size_t arm = 0;
    int32_t least = 0;  // depth that is settled: fixed, or a trial
    int32_t most = 0;
    double gain = 0;
    std::array<double, kMaxDraft> survival{};
  };
  // Drafting sequences by depth: [j] those of the MTP layer that draft more than j tokens.
  using Passes = std::array<int32_t, kMaxDraft>;

  static size_t ArmOf(const DraftOffer& offer);
  Request& Of(SequenceId id);
  static void Doubt(Arm& arm);
  static void Rest(Request& request);
  Plan Fixed(const DraftCandidate& candidate) const;
  Plan Auto(const DraftCandidate& candidate, Request& request, const DraftLimits& limits, int32_t batch);
  double Gain(const std::array<double, kMaxDraft>& survival, DraftSource source, int32_t most, int32_t batch,
              const DraftLimits& limits);
  // Both remember what they were asked for during one decision.
  double RunCost(int32_t batch, int64_t rows, int64_t prefill_rows);
  double DraftCost(const Passes& passes);
  void ObserveCosts(const StepObservation& step);
  void ObserveFirst(bool accepted);

  const SpeculationPolicy policy_;
  const std::function<void(const std::string&)> warn_;
  CostTable run_{CostTable::Kind::kRows};
  CostTable draft_{CostTable::Kind::kDepth};
  double prefill_row_s_ = 0;
  bool watched_ = true;                              // the trunk says how long steps take
  std::unordered_map<int64_t, double> run_asked_;    // rows -> seconds
  std::unordered_map<int64_t, double> draft_asked_;  // sequences and depth -> seconds of the last pass
  std::array<DepthAcceptance, kArms> priors_;        // of all requests together
  std::unordered_map<SequenceId, Request> requests_;
  int64_t mtp_first_drafts_ = 0;
  int64_t mtp_first_accepted_ = 0;
  bool warned_ = false;
};

}  // namespace paceline
