// Defaults and bounds of a request.
#include "coordinator/sampling_defaults.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "coordinator/api_error.h"

namespace paceline {
namespace {

// Bounds that keep one request from costing the head more than its tokens do.
constexpr int32_t kMaxCandidates = 20;
constexpr size_t kMaxStopStrings = 64;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxStopTokens = 1024;
constexpr float kMaxBias = 100.0f;  // as OpenAI bounds it

// The ranges clients know from OpenAI and vLLM; far outside of them a logit would leave fp32.
absl::Status CheckPenalties(const Sampling& sampling) {
  const auto check = [](const char* field, float value, float low, float high) -> absl::Status {
    if (value >= low && value <= high) return absl::OkStatus();
    return FieldError(field, absl::StrCat("expected a number from ", low, " to ", high, ", got ", value));
  };
  RETURN_IF_ERROR(check("sampling.repetition_penalty", sampling.repetition_penalty, 0.01f, 100.0f));
  RETURN_IF_ERROR(check("sampling.presence_penalty", sampling.presence_penalty, -2.0f, 2.0f));
  return check("sampling.frequency_penalty", sampling.frequency_penalty, -2.0f, 2.0f);
}

// Null when there is nothing to adjust.
absl::StatusOr<std::shared_ptr<const LogitAdjustments>> ResolveAdjustments(const SamplingOptions& options,
                                                                           int64_t vocab,
                                                                           const Tokenizer* tokenizer) {
  if (options.logit_bias.empty() && options.allowed_token_ids.empty()) return nullptr;
  const auto outside = [vocab](const char* field, TokenId id) {
    return FieldError(field,
                      absl::StrCat("id ", id, " is outside the vocabulary; expected 0 to ", vocab - 1));
  };
  auto adjustments = std::make_shared<LogitAdjustments>();
  for (const auto& [id, bias] : options.logit_bias) {
    if (id < 0 || id >= vocab) return outside("sampling.logit_bias", id);
    if (!(bias >= -kMaxBias && bias <= kMaxBias)) {
      return FieldError("sampling.logit_bias", absl::StrCat("expected a number from ", -kMaxBias, " to ",
                                                            kMaxBias, " for id ", id, ", got ", bias));
    }
    adjustments->bias.emplace_back(id, bias);
  }
  for (const TokenId id : options.allowed_token_ids) {
    if (id < 0 || id >= vocab) return outside("sampling.allowed_token_ids", id);
    if (tokenizer == nullptr || tokenizer->HasToken(id)) adjustments->allowed.push_back(id);
  }
  std::vector<TokenId>& allowed = adjustments->allowed;
  if (allowed.empty() && !options.allowed_token_ids.empty()) {
    return FieldError("sampling.allowed_token_ids",
                      "none of the ids is a token of this model's tokenizer; allow at least one that is");
  }
  std::sort(allowed.begin(), allowed.end());
  allowed.erase(std::unique(allowed.begin(), allowed.end()), allowed.end());
  return adjustments;
}

}  // namespace

uint64_t RandomSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

absl::StatusOr<Sampling> ResolveSampling(const SamplingOptions& options, const GenerationDefaults& defaults,
                                         int64_t vocab, const Tokenizer* tokenizer) {
  Sampling sampling;
  const float file_temperature = defaults.do_sample == false ? 0.0f : defaults.temperature.value_or(1.0f);
  sampling.temperature = options.temperature.value_or(file_temperature);
  sampling.top_p = options.top_p.value_or(defaults.top_p.value_or(1.0f));
  sampling.min_p = options.min_p.value_or(0.0f);
  const int64_t top_k = options.top_k.value_or(defaults.top_k.value_or(0));
  // Written so that NaN fails every test.
  if (!(sampling.temperature >= 0.0f && std::isfinite(sampling.temperature))) {
    return FieldError(
        "sampling.temperature",
        absl::StrCat("expected a finite number from 0 (greedy) up, got ", sampling.temperature));
  }
  if (!(sampling.top_p > 0.0f && sampling.top_p <= 1.0f)) {
    return FieldError("sampling.top_p",
                      absl::StrCat("expected a number above 0, at most 1 (off), got ", sampling.top_p));
  }
  if (!(sampling.min_p >= 0.0f && sampling.min_p <= 1.0f)) {
    return FieldError("sampling.min_p",
                      absl::StrCat("expected a number from 0 (off) to 1, got ", sampling.min_p));
  }
  if (top_k < 0) {
    return FieldError("sampling.top_k", absl::StrCat("expected a whole number from 0 (off) up, got ", top_k));
  }
  sampling.top_k = top_k >= vocab ? 0 : static_cast<int32_t>(top_k);
  sampling.seed = options.seed.has_value() ? *options.seed : RandomSeed();
  sampling.choice = options.choice;
  sampling.repetition_penalty = options.repetition_penalty.value_or(1.0f);
  sampling.presence_penalty = options.presence_penalty.value_or(0.0f);
  sampling.frequency_penalty = options.frequency_penalty.value_or(0.0f);
  RETURN_IF_ERROR(CheckPenalties(sampling));
  ASSIGN_OR_RETURN(sampling.adjustments, ResolveAdjustments(options, vocab, tokenizer));
  return sampling;
}

absl::StatusOr<DraftChoice> ResolveSpeculation(const GenerateRequest& request,
                                               const SpeculationPolicy& policy) {
  const SpeculationOptions& options = request.speculation;
  if (options.acceptance == AcceptanceRule::kRejection && request.sampling.seed) {
    return FieldError("speculation.acceptance",
                      "rejection sampling draws as many random numbers as drafts happen to need, so a seed "
                      "would not bring the same text again; leave out the seed, or use coupled acceptance");
  }
  const DraftMode mode = options.mode.value_or(policy.mode);
  const std::optional<int64_t>& asked = options.max_draft_tokens;
  if (asked && (*asked < 0 || *asked > kMaxDraft)) {
    return FieldError("speculation.max_draft_tokens",
                      absl::StrCat("expected 0 to ", kMaxDraft, ", got ", *asked));
  }
  if (options.mode == DraftMode::kFixed && !asked) {
    return FieldError("speculation.max_draft_tokens",
                      absl::StrCat("mode FIXED needs the number of drafts per step, 0 to ", kMaxDraft));
  }
  DraftChoice choice{mode, static_cast<int32_t>(asked.value_or(policy.depth))};
  // A cap on the server's default, not a depth of the request's own.
  if (!options.mode) choice.depth = std::min(choice.depth, policy.depth);
  if (choice.depth == 0) choice.mode = DraftMode::kOff;
  if (choice.mode == DraftMode::kOff) choice.depth = 0;
  return choice;
}

absl::Status CheckPrompt(const std::vector<TokenId>& prompt, int64_t vocab) {
  if (prompt.empty()) {
    return FieldError("token_ids", "the prompt has no tokens; give at least one");
  }
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] < 0 || prompt[i] >= vocab) {
      return FieldError("token_ids", absl::StrCat("id ", prompt[i], " at index ", i,
                                                  " is outside the vocabulary; expected 0 to ", vocab - 1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ResolveMaxTokens(const StoppingOptions& options, int64_t prompt_tokens,
                                         int64_t context) {
  if (options.max_tokens && *options.max_tokens < 1) {
    return FieldError("stopping.max_tokens", absl::StrCat("expected at least 1, got ", *options.max_tokens));
  }
  const int64_t left = context - prompt_tokens;
  if (left < 1 || options.max_tokens.value_or(1) > left) {
    const std::string asked = options.max_tokens ? absl::StrCat(" and max_tokens ", *options.max_tokens)
                                                 : " and at least one to generate";
    absl::Status status = Error(
        errors::kContextLength,
        absl::StrCat("the prompt has ", prompt_tokens, prompt_tokens == 1 ? " token" : " tokens", asked,
                     ": more than the context of ", context, "; shorten the prompt or lower max_tokens"));
    status = WithMetadata(std::move(status), "promptTokens", std::to_string(prompt_tokens));
    if (options.max_tokens)
      status = WithMetadata(std::move(status), "maxTokens", std::to_string(*options.max_tokens));
    return WithMetadata(std::move(status), "contextLength", std::to_string(context));
  }
  const int64_t max_tokens = options.max_tokens.value_or(left);
  if (options.min_tokens < 0 || options.min_tokens > max_tokens) {
    return FieldError("stopping.min_tokens",
                      absl::StrCat("expected 0 to max_tokens (", max_tokens, "), got ", options.min_tokens));
  }
  return max_tokens;
}

absl::Status CheckRequest(const GenerateRequest& request, int64_t vocab) {
  const StoppingOptions& stopping = request.stopping;
  if (stopping.stop_strings.size() > kMaxStopStrings) {
    return FieldError("stopping.stop_strings", absl::StrCat("expected at most ", kMaxStopStrings, ", got ",
                                                            stopping.stop_strings.size()));
  }
  for (const std::string& stop : stopping.stop_strings) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return FieldError("stopping.stop_strings", absl::StrCat("expected strings of 1 to ", kMaxStopBytes,
                                                              " bytes, got one of ", stop.size()));
    }
  }
  if (stopping.stop_token_ids.size() > kMaxStopTokens) {
    return FieldError("stopping.stop_token_ids", absl::StrCat("expected at most ", kMaxStopTokens, ", got ",
                                                              stopping.stop_token_ids.size()));
  }
  for (const TokenId id : stopping.stop_token_ids) {
    if (id < 0 || id >= vocab) {
      return FieldError("stopping.stop_token_ids",
                        absl::StrCat("id ", id, " is outside the vocabulary; expected 0 to ", vocab - 1));
    }
  }
  if (stopping.time_limit && *stopping.time_limit <= Duration::zero()) {
    return FieldError("stopping.time_limit", "expected a duration above zero");
  }
  if (request.top < 0 || request.top > std::min<int64_t>(kMaxCandidates, vocab)) {
    return FieldError("response.output_logprobs",
                      absl::StrCat("expected at most ", std::min<int64_t>(kMaxCandidates, vocab),
                                   " candidates per token, got ", request.top));
  }
  const int32_t prompt_top = request.prompt_top.value_or(0);
  if (prompt_top < 0 || prompt_top > std::min<int64_t>(kMaxCandidates, vocab)) {
    return FieldError("response.prompt_logprobs",
                      absl::StrCat("expected at most ", std::min<int64_t>(kMaxCandidates, vocab),
                                   " candidates per token, got ", prompt_top));
  }
  return absl::OkStatus();
}

}  // namespace paceline
