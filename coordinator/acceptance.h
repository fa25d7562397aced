// How often drafts are right: per depth, given that the draft got so far. Beta counts that forget, and a
// change detector beside them, for text that turns from prose to code between two tokens.
//
// A depth that has not been tried for a while is believed to be as good as the one before it. So deeper
// drafts are tried again now and then, and a depth once given up is not lost for good.
#pragma once

#include <array>
#include <cstdint>

#include "base/step.h"

namespace paceline {

// Use from one thread.
class DepthAcceptance {
 public:
  // Knows nothing: half a draft was right and half a draft wrong.
  DepthAcceptance() = default;
  // What is believed of a source nobody has tried.
  static DepthAcceptance Prior();
  // What is believed of a source that has failed: little, on so little ground that one right draft changes
  // it.
  static DepthAcceptance Doubtful();
  // Begins with what `prior` knows, taken for `weight` drafts per depth.
  static DepthAcceptance From(const DepthAcceptance& prior, double weight);

  // A verify step; `keep` < 1 is what it leaves of all counted before.
  void Count(int32_t drafted, int32_t accepted, double keep);
  // A step in which nothing was drafted: forgets towards `prior`, taken for one draft.
  void Fade(const DepthAcceptance& prior, double keep);
  // To be asked before a step is counted: whether its first draft convinces that the rate is no longer what
  // was believed. If so, all from before the change is forgotten, and the step has been counted.
  bool Turned(bool first_accepted);
  // Whether many drafts were counted and hardly a first one was right.
  bool Failed() const;
  // [i] the probability that drafts 0..i are all accepted, every depth `deviations` standard deviations above
  // its mean.
  std::array<double, kMaxDraft> Survival(double deviations = 0) const;

 private:
  struct Counts {
    double yes = 0, no = 0;
  };
  // Evidence that the first draft's rate is another one than believed, and what was seen since it began.
  struct Change {
    double evidence = 0;
    Counts seen;
  };
  static void Weigh(Change* change, double now, double other, bool accepted);
  // [i] conditional on 0..i-1
  std::array<double, kMaxDraft> Rates(double deviations) const;

  std::array<Counts, kMaxDraft> depths_ = {Counts{0.5, 0.5}};
  Change drop_, rise_;
};

}  // namespace paceline
