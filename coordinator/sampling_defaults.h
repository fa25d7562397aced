// From what a request says and what the model's generation_config.json says to the numbers a step uses: one
// table for the command line and every API, and the checks that make a request safe to run.
#pragma once

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "base/step.h"
#include "coordinator/request.h"
#include "coordinator/tokenizer.h"

namespace paceline {

// What generation_config.json says; absent where it is silent.
struct GenerationDefaults {
  std::optional<bool> do_sample = {};  // false means temperature 0
  std::optional<float> temperature = {};
  std::optional<float> top_p = {};
  std::optional<int64_t> top_k = {};
  std::vector<TokenId> eos_token_ids = {};
};

// What a request without a seed gets.
uint64_t RandomSeed();

// Request, then file, then 1.0 / off / 1.0 / 0 for temperature, top_k, top_p, min_p. An absent seed is drawn
// from the machine. Of the allowed ids those stay that `tokenizer`, where given, has. REQ-001 names a knob
// outside its range, and allowed ids of which none is left.
absl::StatusOr<Sampling> ResolveSampling(const SamplingOptions& options, const GenerationDefaults& defaults,
                                         int64_t vocab, const Tokenizer* tokenizer = nullptr);

// Request, then policy. REQ-001: a depth that is none, or rejection sampling together with a seed.
absl::StatusOr<DraftChoice> ResolveSpeculation(const GenerateRequest& request,
                                               const SpeculationPolicy& policy);

// The prompt as a trunk may run it. REQ-001: no tokens, or an id outside [0, vocab) with its index.
absl::Status CheckPrompt(const std::vector<TokenId>& prompt, int64_t vocab);

// Tokens the request may generate, given the positions a sequence may have. REQ-002 when the prompt and
// max_tokens do not fit (with promptTokens and maxTokens as metadata), REQ-001 for values outside their
// range.
absl::StatusOr<int64_t> ResolveMaxTokens(const StoppingOptions& options, int64_t prompt_tokens,
                                         int64_t context);

// REQ-001: an empty or oversized stop string, too many of them, a stop id outside the vocabulary, too many
// candidates.
absl::Status CheckRequest(const GenerateRequest& request, int64_t vocab);

}  // namespace paceline
