// What a sequence's sampler remembers: its tokens, and how often each was generated. Rows of a step that are
// verified in order add to it token by token, so the counts in front of a row are always those of the text
// before it, drafts accepted so far included.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/ids.h"

namespace paceline {

class SamplerState {
 public:
  // Forgets everything; the first `prompt_tokens` tokens to come count as prompt.
  void Reset(int64_t prompt_tokens);
  void Append(std::span<const TokenId> tokens);
  // Takes back every token at `position` and after it.
  void Truncate(int64_t position);

  std::span<const TokenId> tokens() const { return tokens_; }
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  struct Count {
    int32_t prompt = 0;
    int32_t generated = 0;
  };
  // By token id; ids that do not occur are absent.
  const std::unordered_map<TokenId, Count>& counts() const { return counts_; }

 private:
  std::vector<TokenId> tokens_;
  int64_t prompt_tokens_ = 0;
  std::unordered_map<TokenId, Count> counts_;
};

}  // namespace paceline
