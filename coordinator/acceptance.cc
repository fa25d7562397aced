// Counting drafts.
#include "coordinator/acceptance.h"

#include <algorithm>
#include <cmath>

namespace paceline {
namespace {

// Evidence (natural logarithm of odds) that a change needs (Page, "Continuous inspection schemes", Biometrika
// 1954). At 6 nine wrong drafts in a row convince of the end of a rate of 0.6, four of one of 0.9.
constexpr double kConviction = 6.0;
// The other rate tested for: a third of the yes, or of the no.
constexpr double kChange = 1.0 / 3.0;
// Rates are taken for no surer than this, or two wrong drafts would end a good text.
constexpr double kLeast = 0.02, kMost = 0.9;

// What it takes to be called a failure: so many first drafts, and at most so many of them right.
constexpr double kFailedDrafts = 48, kFailedRate = 0.05;

// Drafts that the depth before is worth as evidence.
constexpr double kNeighbour = 2.0;

// Of a source nobody has tried: near the demo models' first depth, and a little worse at every further one.
constexpr double kFirstGuess = 0.6;
constexpr double kGuessDecay = 0.95;
constexpr double kPriorWeight = 8;  // drafts

}  // namespace

DepthAcceptance DepthAcceptance::Prior() {
  DepthAcceptance prior;
  double guess = kFirstGuess;
  for (Counts& depth : prior.depths_) {
    depth = {guess * kPriorWeight, (1.0 - guess) * kPriorWeight};
    guess *= kGuessDecay;
  }
  return prior;
}

DepthAcceptance DepthAcceptance::Doubtful() {
  DepthAcceptance doubtful;
  doubtful.depths_[0] = {0.1, 0.4};
  return doubtful;
}

DepthAcceptance DepthAcceptance::From(const DepthAcceptance& prior, double weight) {
  DepthAcceptance out;
  const std::array<double, kMaxDraft> rates = prior.Rates(0);
  for (size_t i = 0; i < out.depths_.size(); ++i) {
    // Never quite sure: a rate of 0 or 1 could not be unlearnt.
    const double rate = std::clamp(rates[i], 0.02, 0.98);
    out.depths_[i] = {rate * weight, (1.0 - rate) * weight};
  }
  return out;
}

std::array<double, kMaxDraft> DepthAcceptance::Rates(double deviations) const {
  std::array<double, kMaxDraft> rates{};
  double before = 0;
  for (size_t i = 0; i < rates.size(); ++i) {
    const double weight = i == 0 ? 0.0 : kNeighbour;
    const double n = depths_[i].yes + depths_[i].no + weight;
    const double mean = (depths_[i].yes + weight * before) / n;
    rates[i] = std::min(1.0, mean + deviations * std::sqrt(mean * (1.0 - mean) / (n + 1.0)));
    before = rates[i];
  }
  return rates;
}

void DepthAcceptance::Weigh(Change* change, double now, double other, bool accepted) {
  change->evidence += accepted ? std::log(other / now) : std::log((1.0 - other) / (1.0 - now));
  (accepted ? change->seen.yes : change->seen.no) += 1.0;
  if (change->evidence <= 0) *change = Change();
}

void DepthAcceptance::Count(int32_t drafted, int32_t accepted, double keep) {
  for (int32_t i = 0; i < kMaxDraft; ++i) {
    Counts& depth = depths_[static_cast<size_t>(i)];
    depth.yes *= keep;
    depth.no *= keep;
    if (i < accepted) {
      depth.yes += 1.0;
    } else if (i == accepted && i < drafted) {
      depth.no += 1.0;
    }
  }
}

void DepthAcceptance::Fade(const DepthAcceptance& prior, double keep) {
  const std::array<double, kMaxDraft> rates = prior.Rates(0);
  for (size_t i = 0; i < depths_.size(); ++i) {
    depths_[i].yes = depths_[i].yes * keep + rates[i] * (1.0 - keep);
    depths_[i].no = depths_[i].no * keep + (1.0 - rates[i]) * (1.0 - keep);
  }
}

bool DepthAcceptance::Turned(bool first_accepted) {
  const double now = std::clamp(Rates(0)[0], kLeast, kMost);
  Weigh(&drop_, now, now * kChange, first_accepted);
  Weigh(&rise_, now, 1.0 - (1.0 - now) * kChange, first_accepted);
  if (std::max(drop_.evidence, rise_.evidence) <= kConviction) return false;
  const Counts seen = drop_.evidence > kConviction ? drop_.seen : rise_.seen;
  depths_.fill({});
  // Half a draft keeps the rate off its ends.
  depths_[0] = {seen.yes + 0.25, seen.no + 0.25};
  drop_ = rise_ = Change();
  return true;
}

bool DepthAcceptance::Failed() const {
  const double drafts = depths_[0].yes + depths_[0].no;
  return drafts >= kFailedDrafts && depths_[0].yes <= kFailedRate * drafts;
}

std::array<double, kMaxDraft> DepthAcceptance::Survival(double deviations) const {
  std::array<double, kMaxDraft> survival = Rates(deviations);
  for (size_t i = 1; i < survival.size(); ++i) survival[i] *= survival[i - 1];
  return survival;
}

}  // namespace paceline
