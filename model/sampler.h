// Logits to tokens. The output is a function of (logits, sampling parameters, position) only: noise is keyed,
// not drawn from a stream. NUMERICS, Sampling.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/step.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace paceline {

// Gumbel noise of (seed, choice, position of the token drawn, token).
double GumbelNoise(uint64_t seed, uint32_t choice, int64_t position, TokenId token);

// Draws one token from `logits` [vocab]; ids with a logit of minus infinity are never drawn. `position` is
// the index the token will have. DataLoss (REQ-003) when a logit is NaN or none is finite.
absl::StatusOr<TokenId> SampleToken(const kernels::KernelTable& table, ThreadPool& pool,
                                    std::span<const float> logits, const Sampling& sampling,
                                    int64_t position);

// The `count` largest logits, highest first, ties to the lower id, as log-probabilities under `log_sum_exp`.
std::vector<Candidate> TopCandidates(std::span<const float> logits, float log_sum_exp, int32_t count);

}  // namespace paceline
