// How often drafts are right: per depth, given that the draft got so far. Beta counts that forget, and a
// change detector beside them, for text that turns from prose to code between two tokens.
#pragma once

#include <array>
#include <cstdint>

#include "base/step.h"

namespace paceline {

// One stream of yes and no. Use from one thread.
class AcceptanceCount {
 public:
  AcceptanceCount() = default;
  // Begins as if `weight` drafts of rate `mean` had been seen.
  AcceptanceCount(double mean, double weight) : yes_(mean * weight), no_((1.0 - mean) * weight) {}

  // `keep` < 1 is what a step leaves of what was counted before. True when the rate has changed, and all
  // from before the change has been forgotten.
  bool Count(bool accepted, double keep);
  double mean() const { return yes_ / (yes_ + no_); }
  // A standard deviation above the mean: what the rate may well be.
  double optimistic() const;

 private:
  // Evidence that the rate is no longer mean() but a given other one (Page, "Continuous inspection schemes",
  // Biometrika 1954), and what was seen since it began.
  struct Change {
    double evidence = 0;
    double yes = 0, no = 0;
  };
  bool Suspect(Change* change, double other, bool accepted);

  double yes_ = 0.5;
  double no_ = 0.5;
  Change drop_, rise_;
};

// Acceptance of a source by depth: [i] of draft i when all before it were right.
class DepthAcceptance {
 public:
  DepthAcceptance() = default;
  static DepthAcceptance Prior();
  // Begins with what `prior` knows, taken for `weight` drafts per depth.
  static DepthAcceptance From(const DepthAcceptance& prior, double weight);

  // A verify step. True when the rate of the first draft has changed.
  bool Count(int32_t drafted, int32_t accepted, double keep);
  // [i] the probability that drafts 0..i are all accepted.
  std::array<double, kMaxDraft> Survival(bool optimistic = false) const;
  double first() const { return depths_[0].mean(); }

 private:
  std::array<AcceptanceCount, kMaxDraft> depths_;
};

}  // namespace paceline
