// What one answer cost, in the shapes that clients read: OpenAI's usage, llama-server's timings, vLLM's
// metrics.speculative_decoding.
#pragma once

#include <cstdint>

#include "coordinator/chat.h"
#include "coordinator/request.h"

namespace paceline {

// Adds up the generations of one answer: its choices, its prompts.
class Totals {
 public:
  // `first_choice`: the prompt counts once, however many answers it gets.
  void Started(const GenerationStarted& started, bool first_choice);
  void Token(bool reasoning);
  void Ended(const GenerationEnd& end);

  Json Usage() const;
  Json Timings() const;
  // vLLM's shape, with what else there is to say of speculation.
  Json Metrics() const;

  int64_t prompt_tokens() const { return prompt_; }
  int64_t cached_tokens() const { return cached_; }
  int64_t completion_tokens() const { return completion_; }
  int64_t reasoning_tokens() const { return reasoning_; }

 private:
  int64_t prompt_ = 0;
  int64_t cached_ = 0;  // of the prompt, found in the prefix cache
  int64_t completion_ = 0;
  int64_t reasoning_ = 0;
  SpeculationStats speculation_;
  GenerationTimings timings_;  // of choices the longest
};

}  // namespace paceline
