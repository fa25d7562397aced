// Token counts of a sequence.
#include "model/sampler_state.h"

#include "base/check.h"

namespace paceline {

void SamplerState::Reset(int64_t prompt_tokens) {
  tokens_.clear();
  counts_.clear();
  prompt_tokens_ = prompt_tokens;
}

void SamplerState::Append(std::span<const TokenId> tokens) {
  for (const TokenId token : tokens) {
    Count& count = counts_[token];
    ++(size() < prompt_tokens_ ? count.prompt : count.generated);
    tokens_.push_back(token);
  }
}

void SamplerState::Truncate(int64_t position) {
  CHECK_GE(position, 0);
  while (size() > position) {
    const auto count = counts_.find(tokens_.back());
    --(size() - 1 < prompt_tokens_ ? count->second.prompt : count->second.generated);
    if (count->second.prompt == 0 && count->second.generated == 0) counts_.erase(count);
    tokens_.pop_back();
  }
}

}  // namespace paceline
