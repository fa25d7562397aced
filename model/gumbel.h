// The draw of a token: argmax of logit / temperature + keyed Gumbel noise, over all ids or some of them.
// NUMERICS, Sampling.
#pragma once

#include <cstdint>
#include <span>

#include "base/ids.h"
#include "base/step.h"
#include "base/thread_pool.h"

namespace paceline {

// Gumbel noise of (seed, choice, position of the token drawn, token).
double GumbelNoise(uint64_t seed, uint32_t choice, int64_t position, TokenId token);

// Index of the highest score among the logits [n], min-p applied, without top-k and top-p; ties to the lower
// index. `ids` [n] ascending; empty: the index is the id. `best`: index of the highest logit, which is
// finite; no logit is NaN. `pool` may be null.
int64_t GumbelArgMax(ThreadPool* pool, std::span<const float> logits, std::span<const TokenId> ids,
                     int64_t best, const Sampling& sampling, int64_t position);

}  // namespace paceline
