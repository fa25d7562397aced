// The rules of acceptance. Coupled: compare. Rejection: accept with min(1, p / q), else draw from what p has
// above q; p is the target's distribution after every transform, q what the draft was really drawn from.
#include "model/verifier.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/status.h"
#include "model/sampler.h"

namespace paceline {
namespace {

absl::Status NothingLeft() {
  return Error(
      errors::kRequestField,
      "constraint: no token of this model's vocabulary goes on from here: the constraint, the allowed "
      "ids and the ids that end the text leave none; allow more of them");
}

// A draw that failed over logits that are numbers found none that may be drawn.
absl::Status WhyNothing(std::span<const float> logits, absl::Status status) {
  return std::all_of(logits.begin(), logits.end(),
                     [](float logit) { return logit == -std::numeric_limits<float>::infinity(); })
             ? NothingLeft()
             : status;
}

}  // namespace

double Verification::Uniform(RandomPurpose purpose) const {
  return UniformOf(RandomBits(options_.sampling->seed, options_.sampling->choice, purpose,
                              static_cast<uint64_t>(position()), 0));
}

absl::StatusOr<TokenId> Verification::Judge(const kernels::KernelTable& table, ThreadPool& pool,
                                            std::span<float> logits) {
  CHECK(!done_);
  CHECK_EQ(options_.state->size(), position());
  if (ConstraintMatcher* matcher = options_.state->matcher(); matcher != nullptr) {
    if (!options_.state->obeyed()) return NothingLeft();
    MaskLogits(logits, {}, matcher->Allowed());
  }
  AdjustLogits(logits, *options_.sampling, *options_.state);
  absl::StatusOr<Judgement> judged = JudgeRow(table, pool, logits);
  if (!judged.ok()) return WhyNothing(logits, judged.status());
  const Judgement judgement = *judged;
  options_.state->Append({&judgement.token, 1});
  ++row_;
  accepted_ += judgement.right ? 1 : 0;
  done_ = !judgement.right;
  return judgement.token;
}

absl::StatusOr<Verification::Judgement> Verification::JudgeRow(const kernels::KernelTable& table,
                                                               ThreadPool& pool,
                                                               std::span<const float> logits) const {
  if (static_cast<size_t>(row_) < options_.drafts.size())
    return JudgeDraft(table, pool, logits, options_.drafts[row_]);
  ASSIGN_OR_RETURN(const TokenId token, SampleToken(table, pool, logits, *options_.sampling, position()));
  return Judgement{token, false};
}

absl::StatusOr<Verification::Judgement> Verification::JudgeDraft(const kernels::KernelTable& table,
                                                                 ThreadPool& pool,
                                                                 std::span<const float> logits,
                                                                 TokenId draft) const {
  const bool assume = options_.assume_acceptance >= 0;
  if (!assume && options_.sampling->acceptance == AcceptanceRule::kRejection &&
      options_.sampling->temperature > 0.0f) {
    return Reject(table, pool, logits, draft);
  }
  // Forced acceptance still pays for the draw: a bench measures what a step costs.
  ASSIGN_OR_RETURN(const TokenId drawn, SampleToken(table, pool, logits, *options_.sampling, position()));
  if (!assume) return Judgement{drawn, drawn == draft};
  const bool right = Uniform(RandomPurpose::kAssume) < options_.assume_acceptance;
  return Judgement{right ? draft : drawn, right};
}

absl::StatusOr<Verification::Judgement> Verification::Reject(const kernels::KernelTable& table,
                                                             ThreadPool& pool, std::span<const float> logits,
                                                             TokenId draft) const {
  ASSIGN_OR_RETURN(SparseDistribution rest, TargetDistribution(table, pool, logits, *options_.sampling));
  CHECK(options_.distributions.empty() || options_.distributions.size() == options_.drafts.size());
  const SparseDistribution certain{{{draft, 1.0}}};
  const bool known = !options_.distributions.empty() && !options_.distributions[row_].entries.empty();
  const SparseDistribution& drafted = known ? options_.distributions[row_] : certain;

  const auto before = [](const SparseDistribution::Entry& e, TokenId token) { return e.token < token; };
  const auto find = [&](auto& entries, TokenId token) {
    const auto at = std::lower_bound(entries.begin(), entries.end(), token, before);
    return at != entries.end() && at->token == token ? at : entries.end();
  };
  const auto target = find(rest.entries, draft);
  const double p = target == rest.entries.end() ? 0.0 : target->probability;
  const auto source = find(drafted.entries, draft);
  // A draft that its own distribution rules out would pass the ratio for nothing.
  CHECK(source != drafted.entries.end() && source->probability > 0);
  if (Uniform(RandomPurpose::kAccept) * source->probability < p) return Judgement{draft, true};

  for (const SparseDistribution::Entry& q : drafted.entries) {
    const auto at = find(rest.entries, q.token);
    if (at != rest.entries.end()) at->probability = std::max(at->probability - q.probability, 0.0);
  }
  const TokenId drawn = DrawFrom(rest, *options_.sampling, RandomPurpose::kResidual, position());
  // Nothing of p is above q only where both are the same but for rounding.
  if (drawn < 0) return Judgement{draft, true};
  return Judgement{drawn, false};
}

}  // namespace paceline
