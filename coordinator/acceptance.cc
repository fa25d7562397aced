// Counting drafts.
#include "coordinator/acceptance.h"

#include <algorithm>
#include <cmath>

namespace paceline {
namespace {

// Evidence (natural logarithm of odds) that a change needs. At 4 a run of seven wrong drafts convinces of the
// end of a rate of 0.6, three of one of 0.9.
constexpr double kConviction = 4.0;
// The other rate tested for: a third of the yes, or of the no.
constexpr double kChange = 1.0 / 3.0;
constexpr double kLeast = 1e-3;  // rates stay off 0 and 1, where logarithms end

// What is assumed of a source nobody has tried: the demo models' first depth is near it, and every depth
// further is a little worse.
constexpr double kFirstGuess = 0.6;
constexpr double kGuessDecay = 0.95;
constexpr double kPriorWeight = 8;  // drafts

}  // namespace

double AcceptanceCount::optimistic() const {
  const double n = yes_ + no_, p = mean();
  return std::min(1.0, p + std::sqrt(p * (1.0 - p) / (n + 1.0)));
}

bool AcceptanceCount::Suspect(Change* change, double other, bool accepted) {
  const double now = std::clamp(mean(), kLeast, 1.0 - kLeast);
  other = std::clamp(other, kLeast, 1.0 - kLeast);
  change->evidence += accepted ? std::log(other / now) : std::log((1.0 - other) / (1.0 - now));
  (accepted ? change->yes : change->no) += 1.0;
  if (change->evidence <= 0) *change = Change();
  return change->evidence > kConviction;
}

bool AcceptanceCount::Count(bool accepted, double keep) {
  const bool dropped = Suspect(&drop_, mean() * kChange, accepted);
  const bool rose = Suspect(&rise_, 1.0 - (1.0 - mean()) * kChange, accepted);
  if (dropped || rose) {
    const Change since = dropped ? drop_ : rise_;
    // Half a draft of each kind keeps the rate off its ends.
    yes_ = since.yes + 0.25;
    no_ = since.no + 0.25;
    drop_ = rise_ = Change();
    return true;
  }
  yes_ = yes_ * keep + (accepted ? 1.0 : 0.0);
  no_ = no_ * keep + (accepted ? 0.0 : 1.0);
  return false;
}

DepthAcceptance DepthAcceptance::Prior() {
  DepthAcceptance prior;
  double guess = kFirstGuess;
  for (AcceptanceCount& depth : prior.depths_) {
    depth = AcceptanceCount(guess, kPriorWeight);
    guess *= kGuessDecay;
  }
  return prior;
}

DepthAcceptance DepthAcceptance::From(const DepthAcceptance& prior, double weight) {
  DepthAcceptance out;
  for (size_t i = 0; i < out.depths_.size(); ++i) {
    // Never quite sure: a prior of 0 or 1 could not be unlearnt.
    out.depths_[i] = AcceptanceCount(std::clamp(prior.depths_[i].mean(), 0.02, 0.98), weight);
  }
  return out;
}

bool DepthAcceptance::Count(int32_t drafted, int32_t accepted, double keep) {
  bool changed = false;
  const int32_t judged = std::min(drafted, accepted + 1);
  for (int32_t i = 0; i < judged; ++i) {
    const bool depth_changed = depths_[static_cast<size_t>(i)].Count(i < accepted, keep);
    if (i == 0) changed = depth_changed;
  }
  return changed;
}

std::array<double, kMaxDraft> DepthAcceptance::Survival(bool optimistic) const {
  std::array<double, kMaxDraft> survival{};
  double product = 1.0;
  for (size_t i = 0; i < survival.size(); ++i) {
    product *= optimistic ? depths_[i].optimistic() : depths_[i].mean();
    survival[i] = product;
  }
  return survival;
}

}  // namespace paceline
