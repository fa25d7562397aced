// The rules of acceptance. Coupled: compare. Rejection: accept with min(1, p / q), else draw from what p has
// above q; p is the target's distribution after every transform, q what the draft was really drawn from.
#include "model/verifier.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "model/sampler.h"

namespace paceline {

double Verification::Uniform(RandomPurpose purpose) const {
  return UniformOf(RandomBits(options_.sampling->seed, options_.sampling->choice, purpose,
                              static_cast<uint64_t>(position()), 0));
}

absl::StatusOr<TokenId> Verification::Judge(const kernels::KernelTable& table, ThreadPool& pool,
                                            std::span<float> logits) {
  CHECK(!done_);
  CHECK_EQ(options_.state->size(), position());
  AdjustLogits(logits, *options_.sampling, *options_.state);
  Judgement judgement;
  if (static_cast<size_t>(row_) < options_.drafts.size()) {
    ASSIGN_OR_RETURN(judgement, JudgeDraft(table, pool, logits, options_.drafts[row_]));
  } else {
    ASSIGN_OR_RETURN(judgement.token, SampleToken(table, pool, logits, *options_.sampling, position()));
  }
  options_.state->Append({&judgement.token, 1});
  ++row_;
  accepted_ += judgement.right ? 1 : 0;
  done_ = !judgement.right;
  return judgement.token;
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
