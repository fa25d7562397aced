// Logits to tokens. The output is a function of (logits, sampling parameters, position) only: noise is keyed,
// not drawn from a stream. NUMERICS, Sampling.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/random.h"
#include "base/step.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/drafter.h"
#include "model/sampler_state.h"

namespace paceline {

// Ids whose bit in `allowed` [MaskWords(vocab)] is not set count as minus infinity from here on; no bits at
// all: nothing changes. `ids` as in SampleDraft. A NaN stays one.
void MaskLogits(std::span<float> logits, std::span<const TokenId> ids, std::span<const uint64_t> allowed);

// What a request adds to its logits [vocab], in place: allowed ids, bias, then penalties by the text in
// `state`. Whatever masks ids for other reasons (ids without a token, a constraint) sets them to minus
// infinity before this call: no adjustment brings them back. A NaN stays one. Ids outside the vocabulary are
// passed over.
void AdjustLogits(std::span<float> logits, const Sampling& sampling, const SamplerState& state);

// Draws one token from `logits` [vocab]; ids with a logit of minus infinity are never drawn. `position` is
// the index the token will have. DataLoss (REQ-003) when a logit is NaN or the largest is not finite.
absl::StatusOr<TokenId> SampleToken(const kernels::KernelTable& table, ThreadPool& pool,
                                    std::span<const float> logits, const Sampling& sampling,
                                    int64_t position);

// What SampleToken draws from: ids ascending, by the logits it would be given. 16 bytes per candidate.
// Errors as SampleToken.
absl::StatusOr<SparseDistribution> TargetDistribution(const kernels::KernelTable& table, ThreadPool& pool,
                                                      std::span<const float> logits,
                                                      const Sampling& sampling);

// A draft coupled to the target: the same adjustments, transforms and noise over the ids a drafter knows.
// `logits` are adjusted in place; `ids` [logits] ascending, empty: the index is the id. `ahead`: drafts in
// front of this one that are not in `state` yet. DataLoss (REQ-003) as SampleToken, also when none of the ids
// may be drawn.
absl::StatusOr<TokenId> SampleDraft(std::span<float> logits, std::span<const TokenId> ids,
                                    const Sampling& sampling, const SamplerState& state, int64_t position,
                                    std::span<const TokenId> ahead = {});

// A draft for AcceptanceRule::kRejection and what it was drawn from: SampleDraft's candidates, of these the
// kDraftCandidates likeliest, so that little must be kept. Everything else as SampleDraft.
inline constexpr size_t kDraftCandidates = 20;
struct DraftDraw {
  TokenId token = 0;
  SparseDistribution distribution;
};
absl::StatusOr<DraftDraw> SampleDraftDistribution(std::span<float> logits, std::span<const TokenId> ids,
                                                  const Sampling& sampling, const SamplerState& state,
                                                  int64_t position, std::span<const TokenId> ahead = {});

// Draws by one keyed uniform number over the running sum of the entries, which need not add up to 1. -1 when
// none is above 0.
TokenId DrawFrom(const SparseDistribution& distribution, const Sampling& sampling, RandomPurpose purpose,
                 int64_t position);

// The `count` largest logits, highest first, ties to the lower id, as log-probabilities under `log_sum_exp`.
std::vector<Candidate> TopCandidates(std::span<const float> logits, float log_sum_exp, int32_t count);

}  // namespace paceline
