// The two token mixers of a layer: attention over paged KV, and Gated DeltaNet. out [rows, hidden] from x
// [rows, hidden], already normed; the residual is the caller's.
#pragma once

#include "model/caches.h"
#include "model/config.h"
#include "model/layer_weights.h"
#include "model/step_context.h"

namespace paceline {

void RunAttention(const StepContext& context, const AttentionWeights& weights, const ModelConfig& config,
                  const KvLayer& kv, const float* x, float* out);
// The two halves of RunAttention, with its bits: a row whose output nobody wants leaves its keys and values
// only.
void StoreKeysValues(const StepContext& context, const AttentionWeights& weights, const ModelConfig& config,
                     const KvLayer& kv, const float* x);
void AttendStored(const StepContext& context, const AttentionWeights& weights, const ModelConfig& config,
                  const KvLayer& kv, const float* x, float* out);
void RunDeltaNet(const StepContext& context, const DeltaNetWeights& weights, const ModelConfig& config,
                 const GdnLayer& states, const float* x, float* out);

}  // namespace paceline
