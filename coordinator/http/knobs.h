// The knobs that OpenAI's endpoints share, under their names there and under those of vLLM and llama-server
// where OpenAI has none. What values are allowed is not decided here but by the engine, for every API alike.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/http/api_problem.h"
#include "coordinator/http/fields.h"
#include "coordinator/request.h"
#include "coordinator/tokenizer.h"

namespace paceline {

inline constexpr int64_t kMaxChoices = 128;  // OpenAI's bound of n

struct StreamOptions {
  bool stream = false;
  bool include_usage = false;
  bool usage_every_chunk = false;
  int64_t interval = 1;  // tokens per frame
};

// temperature, top_p, top_k, min_p, seed, the penalties, logit_bias, allowed_token_ids.
void ReadSampling(Fields& fields, SamplingOptions* sampling);
// max_tokens, max_completion_tokens, min_tokens, stop, stop_token_ids, ignore_eos,
// include_stop_str_in_output, timeout.
void ReadStopping(Fields& fields, StoppingOptions* stopping);
// `speculation`: {"mode": "auto" | "off" | "fixed", "max_draft_tokens": N}.
// vLLM's names: `priority`, of which the lower goes first, and `cache_salt`.
void ReadScheduling(Fields& fields, GenerateRequest* request);
void ReadSpeculation(Fields& fields, SpeculationOptions* speculation);
// stream, stream_options, stream_interval.
StreamOptions ReadStream(Fields& fields);
// response_format; structured_outputs and guided_* of vLLM; json_schema and grammar of llama-server.
void ReadConstraint(Fields& fields, ConstraintSpec* constraint);
// vLLM's prompt_logprobs, for answers in one piece; false where it is not asked for.
bool ReadPromptLogprobs(Fields& fields, bool stream, GenerateRequest* request);
// n, from 1 to kMaxChoices.
int64_t ReadChoices(Fields& fields);

// The same request for `n` choices: one seed, and a number for each.
absl::StatusOr<std::vector<GenerateRequest>> RequestsOf(GenerateRequest request, int64_t n,
                                                        const Tokenizer* tokenizer);

// How OpenAI's clients call the validator's fields; `prompt` is where the text came from.
FieldNames OpenAiNames(const std::string& prompt);

}  // namespace paceline
