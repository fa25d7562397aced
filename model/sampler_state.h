// What a sequence's sampler remembers: its tokens, and how often each was generated. Rows of a step that are
// verified in order add to it token by token, so the counts in front of a row are always those of the text
// before it, drafts accepted so far included. So is where the text stands in its constraint.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/constraint.h"
#include "base/ids.h"

namespace paceline {

class SamplerState {
 public:
  SamplerState() = default;
  SamplerState(const SamplerState& other);
  SamplerState(SamplerState&&) = default;
  SamplerState& operator=(SamplerState other);

  // Forgets everything; the first `prompt_tokens` tokens to come count as prompt, and those behind them obey
  // `constraint`, where given.
  void Reset(int64_t prompt_tokens, std::shared_ptr<const Constraint> constraint = nullptr);
  void Append(std::span<const TokenId> tokens);
  // Takes back every token at `position` and after it.
  void Truncate(int64_t position);

  // Where the text stands in its constraint; null without one. Not to be left elsewhere than it was found.
  ConstraintMatcher* matcher() const { return matcher_.get(); }
  // False once a token came that the constraint does not allow, until it is taken back.
  bool obeyed() const { return matcher_ == nullptr || followed_ == generated(); }

  std::span<const TokenId> tokens() const { return tokens_; }
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  struct Count {
    int32_t prompt = 0;
    int32_t generated = 0;
  };
  // By token id; ids that do not occur are absent.
  const std::unordered_map<TokenId, Count>& counts() const { return counts_; }

 private:
  int64_t generated() const { return size() > prompt_tokens_ ? size() - prompt_tokens_ : 0; }
  void Follow();

  std::vector<TokenId> tokens_;
  int64_t prompt_tokens_ = 0;
  std::shared_ptr<const Constraint> constraint_;
  std::unique_ptr<ConstraintMatcher> matcher_;
  int64_t followed_ = 0;  // generated tokens that the matcher has accepted
  std::unordered_map<TokenId, Count> counts_;
};

}  // namespace paceline
