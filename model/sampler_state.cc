// Token counts of a sequence, and its way through a constraint.
#include "model/sampler_state.h"

#include <utility>

#include "base/check.h"

namespace paceline {

SamplerState::SamplerState(const SamplerState& other)
    : tokens_(other.tokens_),
      prompt_tokens_(other.prompt_tokens_),
      constraint_(other.constraint_),
      matcher_(other.matcher_ == nullptr ? nullptr : other.matcher_->Clone()),
      followed_(other.followed_),
      counts_(other.counts_) {}

SamplerState& SamplerState::operator=(SamplerState other) {
  tokens_ = std::move(other.tokens_);
  prompt_tokens_ = other.prompt_tokens_;
  matcher_ = std::move(other.matcher_);  // before the constraint that the old one stands on
  constraint_ = std::move(other.constraint_);
  followed_ = other.followed_;
  counts_ = std::move(other.counts_);
  return *this;
}

void SamplerState::Reset(int64_t prompt_tokens, std::shared_ptr<const Constraint> constraint) {
  tokens_.clear();
  counts_.clear();
  prompt_tokens_ = prompt_tokens;
  matcher_ = constraint == nullptr ? nullptr : constraint->Start();
  constraint_ = std::move(constraint);
  followed_ = 0;
}

void SamplerState::Follow() {
  while (followed_ < generated() &&
         matcher_->Accept(tokens_[static_cast<size_t>(prompt_tokens_ + followed_)])) {
    ++followed_;
  }
}

void SamplerState::Append(std::span<const TokenId> tokens) {
  for (const TokenId token : tokens) {
    Count& count = counts_[token];
    ++(size() < prompt_tokens_ ? count.prompt : count.generated);
    tokens_.push_back(token);
  }
  if (matcher_ != nullptr) Follow();
}

void SamplerState::Truncate(int64_t position) {
  CHECK_GE(position, 0);
  while (size() > position) {
    const auto count = counts_.find(tokens_.back());
    --(size() - 1 < prompt_tokens_ ? count->second.prompt : count->second.generated);
    if (count->second.prompt == 0 && count->second.generated == 0) counts_.erase(count);
    tokens_.pop_back();
  }
  if (followed_ <= generated()) return;
  const int64_t back = followed_ - generated();
  if (back <= kConstraintRollback) {
    matcher_->Rollback(static_cast<int32_t>(back));
    followed_ = generated();
  } else {
    matcher_ = constraint_->Start();
    followed_ = 0;
    Follow();
  }
}

}  // namespace paceline
