// Depth and source per request and step.
#include "coordinator/speculation_controller.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace paceline {
namespace {

// What a verify step leaves of the counts before it: half-lives of 64 and 1024 steps.
const double kKeep = std::exp2(-1.0 / 64);
const double kKeepPrior = std::exp2(-1.0 / 1024);
// What an arm is left with that could have drafted and was not chosen: a guess gone wrong must not last.
const double kKeepUnused = std::exp2(-1.0 / 16);
// A new request believes the others for as many drafts; one that is tried again believes nobody.
constexpr double kPriorWeight = 1;

// An arm that seems to lose drafts one token for so many steps all the same, ...
constexpr int32_t kTrial = 4;
// ... and on as long as it may yet win. After so many it is no news any more.
constexpr int32_t kTest = 16;
// So many steps in a row without a right draft end the doubt, unless the rate has long been known to be low
// and to pay all the same.
constexpr int32_t kBarren = 12;
constexpr double kBarrenRate = 0.1;
// Text that turns often turns back within a few lines: the first rest is short, and one draft is enough to go
// on resting. What never pays costs a draft per 256 steps in the end.
constexpr int32_t kFirstRest = 16;
constexpr int32_t kFirstRestOfFailed = 64;  // of an arm that has failed everybody
constexpr int32_t kLongestRest = 256;

// Matches of at least so many tokens fall into one suffix arm.
constexpr std::array<int32_t, 3> kMatchBounds = {4, 8, 16};

// MTP drafts after which an acceptance below the second number is a fault to report: weights of another
// model, a wrong tap.
constexpr int64_t kWarnDrafts = 64;
constexpr double kWarnAcceptance = 0.02;

// A draft's price before any was measured, of a step of one row.
constexpr double kGuessedDraft = 0.1;

}  // namespace

SpeculationController::SpeculationController(const SpeculationPolicy& policy,
                                             std::function<void(const std::string&)> warn)
    : policy_(policy), warn_(std::move(warn)) {
  CHECK(policy.depth >= 0 && policy.depth <= kMaxDraft);
  priors_.fill(DepthAcceptance::Prior());
}

void SpeculationController::SeedCost(int32_t batch, int32_t depth, double run_s, double draft_s) {
  CHECK(depth >= 0 && depth <= kMaxDraft);
  if (run_s > 0) run_.Seed(batch, batch * (1 + depth), run_s);
  if (depth > 0 && draft_s > 0) draft_.Seed(batch, batch * depth, draft_s);
}

size_t SpeculationController::ArmOf(const DraftOffer& offer) {
  if (offer.source == DraftSource::kMtp) return 0;
  const auto bound = std::upper_bound(kMatchBounds.begin(), kMatchBounds.end(), offer.match);
  return 1 + static_cast<size_t>(bound - kMatchBounds.begin());
}

SpeculationController::Request& SpeculationController::Of(SequenceId id) {
  const auto [found, fresh] = requests_.try_emplace(id);
  if (fresh) {
    for (size_t i = 0; i < kArms; ++i) {
      Arm& arm = found->second.arms[i];
      arm.next_rest = kFirstRest;
      if (priors_[i].Failed()) {
        Doubt(arm);
        arm.next_rest = kFirstRestOfFailed;
      } else {
        arm.acceptance = DepthAcceptance::From(priors_[i], kPriorWeight);
      }
    }
  }
  return found->second;
}

// Begins anew, with little hope.
void SpeculationController::Doubt(Arm& arm) {
  arm.acceptance = DepthAcceptance::Doubtful();
  arm.tested = 0;
  arm.barren = 0;
  arm.retest = true;
}

// Counts rests down. What an arm knew before is what sent it to rest.
void SpeculationController::Rest(Request& request) {
  for (Arm& arm : request.arms) {
    if (arm.rest_left > 0 && --arm.rest_left == 0) Doubt(arm);
  }
}

double SpeculationController::RunCost(int32_t batch, int64_t rows, int64_t prefill_rows) {
  const auto [found, fresh] = run_asked_.try_emplace(rows);
  if (fresh) {
    found->second =
        run_.Hopeful(batch, static_cast<int32_t>(rows)) + prefill_row_s_ * static_cast<double>(prefill_rows);
  }
  return found->second;
}

double SpeculationController::DraftCost(const Passes& passes) {
  double cost = 0;
  for (int32_t j = 0; j < kMaxDraft && passes[static_cast<size_t>(j)] > 0; ++j) {
    const int32_t n = passes[static_cast<size_t>(j)];
    const auto [found, fresh] = draft_asked_.try_emplace(int64_t{n} * kMaxDraft + j);
    if (fresh && draft_.empty()) {
      found->second = kGuessedDraft * run_.Estimate(1, 1);
    } else if (fresh) {
      const double with = draft_.Estimate(n, n * (j + 1));
      const double without = j > 0 ? draft_.Estimate(n, n * j) : 0.0;
      found->second = std::max(0.0, with - without);
    }
    cost += found->second;
  }
  return cost;
}

// Tokens per second of a step in which this candidate drafts at its best depth, relative to a plain one; the
// better of two ways: it alone, and all candidates alike (which share the passes of the drafter).
double SpeculationController::Gain(const std::array<double, kMaxDraft>& survival, DraftSource source,
                                   int32_t most, int32_t batch, const DraftLimits& limits) {
  const double plain = RunCost(batch, batch, limits.prefill_rows);
  double best = 0;
  for (const int32_t n : {1, batch}) {
    Passes passes{};
    double tokens = batch;
    for (int32_t k = 1; k <= most; ++k) {
      const int64_t rows = int64_t{batch} + int64_t{n} * k;
      if (rows > limits.rows) break;
      tokens += n * survival[static_cast<size_t>(k - 1)];
      if (source == DraftSource::kMtp) passes[static_cast<size_t>(k - 1)] = n;
      const double cost = RunCost(batch, rows, limits.prefill_rows) + DraftCost(passes);
      best = std::max(best, tokens / cost * plain / batch);
    }
  }
  return best;
}

SpeculationController::Plan SpeculationController::Fixed(const DraftCandidate& candidate) const {
  Plan plan;
  for (const DraftOffer& offer : candidate.offers) {
    const int32_t depth = std::min({candidate.choice.depth, candidate.max_depth, offer.depth});
    if (depth <= 0 || !MayDraft(policy_.drafter, offer.source)) continue;
    if (plan.source == DraftSource::kMtp) continue;  // a fixed depth means the model's own drafter
    plan.source = offer.source;
    plan.arm = ArmOf(offer);
    plan.least = plan.most = depth;
  }
  return plan;
}

SpeculationController::Plan SpeculationController::Auto(const DraftCandidate& candidate, Request& request,
                                                        const DraftLimits& limits, int32_t batch) {
  Plan best;
  std::array<double, kMaxDraft> certain;
  certain.fill(1.0);
  for (const DraftOffer& offer : candidate.offers) {
    if (!MayDraft(policy_.drafter, offer.source)) continue;
    int32_t most = std::min({candidate.choice.depth, candidate.max_depth, offer.depth});
    if (most <= 0) continue;
    Plan plan;
    plan.source = offer.source;
    plan.arm = ArmOf(offer);
    Arm& arm = request.arms[plan.arm];
    if (arm.rest_left > 0) continue;
    if (arm.retest && arm.tested == 0) most = 1;
    plan.most = most;
    plan.survival = arm.acceptance.Survival();
    plan.gain = Gain(plan.survival, plan.source, most, batch, limits);
    const bool barren = arm.barren >= kBarren && plan.survival[0] < kBarrenRate;
    if (plan.gain > 1.0 && !barren) {
      if (arm.tested >= kTest) {
        arm.next_rest = kFirstRest;
        arm.retest = false;
      }
    } else {
      // Not for lack of right drafts: nothing could pay in such a step.
      if (Gain(certain, plan.source, most, batch, limits) <= 1.0) continue;
      // Close to the border it is no matter which side is right: a rest only where it is clear. One that has
      // rested knows that it is likely to rest again.
      const double deviations = arm.retest ? 0.0 : arm.tested < kTest ? 1.0 : 0.5;
      const bool may_win = Gain(arm.acceptance.Survival(deviations), plan.source, most, batch, limits) > 1.0;
      if (barren || (arm.tested >= (arm.retest ? 1 : kTrial) && !may_win)) {
        arm.rest_left = arm.next_rest;
        arm.next_rest = std::min(2 * arm.next_rest, kLongestRest);
        continue;
      }
      plan.least = plan.most = 1;
    }
    if (plan.gain > best.gain) best = plan;
  }
  return best;
}

std::vector<DraftDecision> SpeculationController::Decide(std::span<const DraftCandidate> candidates,
                                                         const DraftLimits& limits) {
  if (candidates.empty()) return {};  // a step of prompts alone has no price to divide by
  const auto batch = static_cast<int32_t>(candidates.size());
  run_asked_.clear();
  draft_asked_.clear();
  std::vector<DraftDecision> decisions(candidates.size());
  std::vector<Plan> plans(candidates.size());
  int64_t rows = batch;
  double tokens = batch;
  Passes passes{};
  const auto deepen = [&](size_t i) {
    const Plan& plan = plans[i];
    const auto j = static_cast<size_t>(decisions[i].depth++);
    decisions[i].source = plan.source;
    ++rows;
    tokens += plan.survival[j];
    if (plan.source == DraftSource::kMtp) ++passes[j];
  };
  // Fixed depths first, then what is on trial, then the pool of those whose drafts should pay.
  for (size_t i = 0; i < candidates.size(); ++i) {
    const DraftCandidate& candidate = candidates[i];
    if (candidate.choice.mode == DraftMode::kOff) continue;
    Request& request = Of(candidate.id);
    Rest(request);
    plans[i] = candidate.choice.mode == DraftMode::kFixed ? Fixed(candidate)
                                                          : Auto(candidate, request, limits, batch);
    request.arm = plans[i].arm;
  }
  for (const DraftMode mode : {DraftMode::kFixed, DraftMode::kAuto}) {
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (candidates[i].choice.mode != mode) continue;
      while (decisions[i].depth < plans[i].least && rows < limits.rows) deepen(i);
    }
  }
  struct Step {
    double survival;
    size_t candidate;
  };
  std::vector<Step> pool;
  for (size_t i = 0; i < candidates.size(); ++i) {
    for (int32_t j = decisions[i].depth; plans[i].least == 0 && j < plans[i].most; ++j)
      pool.push_back({plans[i].survival[static_cast<size_t>(j)], i});
  }
  // Survival never grows with depth, so a candidate's drafts stay in order.
  std::stable_sort(pool.begin(), pool.end(),
                   [](const Step& a, const Step& b) { return a.survival > b.survival; });
  // What drafts are measured by is a plain step. While that is only guessed none are made: believed too dear,
  // it would never be tried, and drafts that lose would go on for good.
  if (watched_ && rows == batch && limits.prefill_rows == 0 && !run_.Known(batch, batch)) return decisions;
  std::vector<DraftDecision> best = decisions;
  double best_value = tokens / (RunCost(batch, rows, limits.prefill_rows) + DraftCost(passes));
  for (const Step& step : pool) {
    if (rows >= limits.rows) break;
    deepen(step.candidate);
    const double value = tokens / (RunCost(batch, rows, limits.prefill_rows) + DraftCost(passes));
    if (value > best_value) {
      best_value = value;
      best = decisions;
    }
  }
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].choice.mode != DraftMode::kAuto || best[i].depth > 0) continue;
    Request& request = Of(candidates[i].id);
    for (const DraftOffer& offer : candidates[i].offers) {
      Arm& arm = request.arms[ArmOf(offer)];
      if (offer.depth > 0 && arm.rest_left == 0) arm.acceptance.Fade(priors_[ArmOf(offer)], kKeepUnused);
    }
  }
  return best;
}

void SpeculationController::Observe(const StepObservation& step) {
  if (step.outcomes.empty()) return;
  ObserveCosts(step);
  for (const DraftOutcome& outcome : step.outcomes) {
    if (outcome.asked == 0) continue;
    const auto found = requests_.find(outcome.id);
    if (found == requests_.end()) continue;
    Request& request = found->second;
    Arm& arm = request.arms[request.arm];
    ++arm.tested;
    arm.barren = outcome.accepted > 0 ? 0 : arm.barren + 1;
    if (arm.acceptance.Turned(outcome.accepted > 0)) {
      arm.tested = 0;  // after a change it may show within a few steps that it still pays
    } else {
      // A drafter that was asked, so paid for, and brought nothing is as good as wrong.
      arm.acceptance.Count(std::max(1, outcome.drafted), outcome.accepted, kKeep);
    }
    if (outcome.drafted == 0) continue;  // which says nothing of other requests
    priors_[request.arm].Count(outcome.drafted, outcome.accepted, kKeepPrior);
    if (outcome.source == DraftSource::kMtp) ObserveFirst(outcome.accepted > 0);
  }
}

void SpeculationController::ObserveCosts(const StepObservation& step) {
  const auto batch = static_cast<int32_t>(step.outcomes.size());
  int32_t rows = batch;
  int32_t deepest = 0, drafting = 0;
  Passes passes{};
  for (const DraftOutcome& outcome : step.outcomes) {
    rows += outcome.drafted;
    if (outcome.source != DraftSource::kMtp || outcome.drafted == 0) continue;
    ++drafting;
    deepest = std::max(deepest, outcome.drafted);
    for (int32_t j = 0; j < outcome.drafted; ++j) ++passes[static_cast<size_t>(j)];
  }
  watched_ = step.run_s > 0;
  if (!watched_) return;
  if (step.prefill_rows == 0) {
    run_.Observe(batch, rows, step.run_s);
  } else if (!run_.empty()) {
    const double over = step.run_s - run_.Estimate(batch, rows);
    const double each = std::max(0.0, over) / static_cast<double>(step.prefill_rows);
    prefill_row_s_ = prefill_row_s_ == 0 ? each : prefill_row_s_ + 0.1 * (each - prefill_row_s_);
  }
  if (drafting == 0 || !(step.draft_s > 0)) return;
  // Sequences that drafted to different depths: what all of them to the deepest would have cost.
  const double expected = draft_.empty() ? 0.0 : DraftCost(passes);
  const double alike = expected > 0 ? draft_.Estimate(drafting, drafting * deepest) / expected : 1.0;
  draft_.Observe(drafting, drafting * deepest, step.draft_s * alike);
}

void SpeculationController::ObserveFirst(bool accepted) {
  ++mtp_first_drafts_;
  mtp_first_accepted_ += accepted ? 1 : 0;
  if (warned_ || mtp_first_drafts_ < kWarnDrafts) return;
  const double rate = static_cast<double>(mtp_first_accepted_) / static_cast<double>(mtp_first_drafts_);
  if (rate >= kWarnAcceptance) return;
  warned_ = true;
  if (warn_) {
    warn_(
        absl::StrFormat("of %d first drafts of the MTP layer %d were right; its weights may not belong to "
                        "this model, or hidden states are tapped at the wrong place (--draft off stops "
                        "drafting)",
                        mtp_first_drafts_, mtp_first_accepted_));
  }
}

}  // namespace paceline
