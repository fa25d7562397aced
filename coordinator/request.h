// A generation as plain data: what is asked, what happens on the way, what it comes to. The API fronts and
// the CLI translate to and from these; nothing here knows protobuf, and nothing here knows the trunk.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/step.h"
#include "coordinator/grammar/spec.h"
#include "coordinator/speculation.h"

namespace paceline {

// Absent knobs take the model's defaults, see sampling_defaults.h.
struct SamplingOptions {
  std::optional<float> temperature = {};  // 0 = greedy
  std::optional<float> top_p = {};
  std::optional<int64_t> top_k = {};  // 0 = off
  std::optional<float> min_p = {};
  std::optional<uint64_t> seed = {};
  uint32_t choice = 0;  // of several answers to one prompt: each its own noise under one seed
  std::optional<float> presence_penalty = {};    // 0 = off
  std::optional<float> frequency_penalty = {};   // 0 = off
  std::optional<float> repetition_penalty = {};  // 1 = off
  std::map<TokenId, float> logit_bias = {};
  std::vector<TokenId> allowed_token_ids = {};  // empty: all
};

struct StoppingOptions {
  std::optional<int64_t> max_tokens = {};  // absent: what is left of the context
  int64_t min_tokens = 0;                  // no stop of any kind before so many tokens are out
  std::vector<std::string> stop_strings = {};
  std::vector<TokenId> stop_token_ids = {};
  bool ignore_eos = false;
  bool include_stop = false;                 // the text keeps what stopped it
  std::optional<Duration> time_limit = {};   // since submission
  std::optional<Duration> queue_limit = {};  // until it starts; absent: the server's
};

// Texts that were run before are gone on from; texts of other keys or salts are never met.
struct CacheOptions {
  std::string salt = {};
  bool bypass = false;  // neither goes on from such a text nor leaves one
};

struct GenerateRequest {
  std::string request_id = {};  // for people and logs; empty: one is made
  std::string key = {};         // the tenant; tenants have equal shares, and no text in common
  int32_t priority = 0;         // higher first, and in the place of lower ones
  std::variant<std::string, std::vector<TokenId>> input =
      {};  // text (special tokens recognised, nothing added) or ids
  SamplingOptions sampling;
  StoppingOptions stopping;
  ConstraintSpec constraint;
  SpeculationOptions speculation;
  CacheOptions cache;
  bool logprobs = false;  // of every generated token
  int32_t top = 0;        // candidates per generated token, with their log-probabilities
  std::optional<int32_t> prompt_top =
      {};                    // candidates per token of the prompt (OnPrompt); absent: no OnPrompt
  bool hash_logits = false;  // fill GenerationEnd::logits_hash
};

enum class FinishReason { kStop, kLength, kCancelled, kTimeLimit };
constexpr const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kTimeLimit:
      return "time_limit";
  }
  return "?";
}

// What made a generation stop; nothing set unless the reason is kStop.
struct StopMatch {
  std::optional<std::string> stop_string = {};
  std::optional<TokenId> stop_token = {};
  std::optional<TokenId> eos_token = {};
};

struct GenerationStarted {
  std::string request_id;
  std::string model;
  std::vector<TokenId> prompt;
  uint64_t seed = 0;
  int64_t cached_tokens = 0;  // of the prompt, found in the prefix cache
  double queue_s = 0;
  Epoch epoch{0};
};

struct GeneratedToken {
  TokenId id = 0;
  std::string text;              // complete code points this token lets out; text that may yet turn out to
                                 // be a stop string waits for a later token
  std::string bytes;             // the token's own
  std::optional<float> logprob;  // before any transform
  std::vector<Candidate> top;
  bool drafted = false;  // a drafter had guessed it
};

// A token of the prompt, as the model finds it behind those in front.
struct PromptToken {
  TokenId id = 0;
  std::string text;              // complete code points this token lets out
  std::string bytes;             // the token's own
  std::optional<float> logprob;  // before any transform; the first token has none
  int32_t rank = 0;              // among all tokens; 1: the likeliest, 0: of the first token
  std::vector<Candidate> top;
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_prompt_tokens = 0;
};

// Tokens, steps and drafts are different things and are counted apart: a request's tokens stand in Usage.
struct SpeculationStats {
  std::string method = "off";  // the source of most drafts: "mtp", "suffix"; "off" when none was verified
  int64_t decode_steps = 0;    // steps that brought tokens: the prompt's last, and verify steps, among them
  int64_t steps = 0;           // verify steps
  int64_t drafted = 0;
  int64_t accepted = 0;
  std::vector<int64_t> acceptance_histogram;  // [drafts accepted in a verify step]
  // [position in the draft], both as long as the deepest draft was.
  std::vector<int64_t> drafted_per_position;
  std::vector<int64_t> accepted_per_position;
  struct Source {
    std::string name;
    int64_t steps = 0;
    int64_t drafted = 0;
    int64_t accepted = 0;
  };
  std::vector<Source> sources;  // those that drafted

  // The token that is always the target's own included.
  double mean_accepted_length() const {
    return steps > 0 ? 1.0 + static_cast<double>(accepted) / static_cast<double>(steps) : 1.0;
  }
};

struct GenerationTimings {
  double queue_s = 0;        // submission to the first step
  double prefill_s = 0;      // first step to first token
  double first_token_s = 0;  // submission to first token
  double decode_s = 0;       // first token to last
  PhaseSeconds phase_s{};    // of the steps it took part in, shared with others
};

// The end of a generation, however it came. With a status that is not ok the reason means nothing.
struct GenerationEnd {
  absl::Status status;
  FinishReason reason = FinishReason::kStop;
  StopMatch match;
  Usage usage;
  SpeculationStats speculation;
  GenerationTimings timings;
  uint64_t seed = 0;
  std::string logits_hash;  // set when asked for and at least one token came
  int32_t nodes = 1;
  Epoch epoch{0};
  std::string fingerprint;
};

// Receives one generation. Called from the engine's thread, never twice at once, so no call may block:
// OnStarted once before the prompt is run, OnTokens any number of times, OnFinished last and exactly once. A
// request that ends while it still waits gets OnFinished alone.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  virtual void OnStarted(const GenerationStarted& started) = 0;
  // Where it was asked for: once, before the first OnTokens.
  virtual void OnPrompt(std::vector<PromptToken>) {}
  virtual void OnTokens(std::vector<GeneratedToken> tokens) = 0;
  virtual void OnFinished(const GenerationEnd& end) = 0;
};

}  // namespace paceline
