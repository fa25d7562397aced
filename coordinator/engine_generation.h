// A request inside the engine: what it asked for, and what has come of it so far. For the engine's own files.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/api_error.h"
#include "coordinator/engine.h"

namespace paceline {

// What whoever asks an engine that is being stopped hears.
inline absl::Status Stopping() {
  return WithReason(absl::UnavailableError("the head is stopping; send the request again when it is back"),
                    reasons::kDraining);
}

// A request between Submit and OnFinished.
struct Engine::Generation {
  Generation(const Tokenizer* tokenizer, StreamerOptions options) : streamer(tokenizer, std::move(options)) {}

  std::string request_id;
  std::vector<TokenId> prompt;         // until OnStarted
  std::vector<TokenId> scored_prompt;  // until OnPrompt, where that is wanted
  std::vector<RowResult> scores;       // of its tokens but the first, as far as they have come
  int64_t prompt_tokens = 0;
  uint64_t seed = 0;
  bool logprobs = false;
  std::optional<Duration> time_limit;
  Duration queue_limit = Duration::zero();  // 0: none
  int64_t cached_tokens = 0;
  std::unique_ptr<Admission::Place> place;
  Streamer streamer;
  std::shared_ptr<GenerationSink> sink;
  std::shared_ptr<GenerationTicket> ticket;
  std::string logits_hash;
  int64_t decode_steps = 0;
  std::array<SourceStats, kDraftSources> drafts;  // [IndexOf(source)]
  PhaseSeconds phase_s{};
  TimePoint submitted;
  std::optional<TimePoint> started;
  std::optional<TimePoint> first_token;
  TimePoint last_token;

  bool waited_enough(TimePoint now) const {
    return !started && queue_limit > Duration::zero() && now - submitted >= queue_limit;
  }
  bool expired(TimePoint now) const { return time_limit && now - submitted >= *time_limit; }
};

}  // namespace paceline
