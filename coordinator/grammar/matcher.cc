#include "coordinator/grammar/matcher.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace paceline {
namespace {

// Takes back at most so many tokens: what a step can draft, and some.
constexpr size_t kMostHistory = 64;
constexpr size_t kLeastHistory = 32;

void SetBit(std::span<uint64_t> mask, TokenId id, bool value) {
  uint64_t& word = mask[static_cast<size_t>(id) / 64];
  const uint64_t bit = uint64_t{1} << (static_cast<size_t>(id) % 64);
  word = value ? word | bit : word & ~bit;
}

bool HasBit(std::span<const uint64_t> mask, TokenId id) {
  return mask[static_cast<size_t>(id) / 64] >> (static_cast<size_t>(id) % 64) & 1;
}

bool Contains(const StopIds& stops, TokenId id) { return std::binary_search(stops.begin(), stops.end(), id); }

class GrammarMatcher final : public ConstraintMatcher {
 public:
  GrammarMatcher(std::shared_ptr<MaskSource> source, const StopIds& stops, std::string_view begun)
      : source_(std::move(source)), stops_(stops), cursor_(source_->Start()) {
    if (begun.empty()) return;
    CHECK(source_->Advance(cursor_, begun));
    cursor_.configs.erase(cursor_.configs.begin());
  }

  std::span<const uint64_t> Allowed() override {
    const bool can_end = ended() || source_->CanEnd(cursor_);
    if (ended()) {
      mask_.assign(static_cast<size_t>(MaskWords(source_->tokens().vocab())), 0);
    } else {
      shared_ = source_->Mask(cursor_);
      const bool same = std::all_of(stops_.begin(), stops_.end(),
                                    [&](TokenId id) { return HasBit(*shared_, id) == can_end; });
      if (same) return *shared_;
      mask_ = *shared_;
    }
    for (const TokenId id : stops_) SetBit(mask_, id, can_end);
    return mask_;
  }

  bool Accept(TokenId token) override {
    if (Contains(stops_, token)) {
      if (!ended() && !source_->CanEnd(cursor_)) return false;
      cursor_.configs.push_back(kEnded);
    } else {
      const std::string_view bytes = source_->tokens().Of(token);
      if (ended() || bytes.empty() || !source_->Advance(cursor_, bytes)) return false;
    }
    if (cursor_.configs.size() > kMostHistory)
      cursor_.configs.erase(cursor_.configs.begin(), cursor_.configs.end() - kLeastHistory);
    return true;
  }

  void Rollback(int32_t tokens) override {
    CHECK_GE(tokens, 0);
    CHECK_LT(static_cast<size_t>(tokens), cursor_.configs.size());
    cursor_.configs.resize(cursor_.configs.size() - static_cast<size_t>(tokens));
  }

  std::unique_ptr<ConstraintMatcher> Clone() const override {
    auto copy = std::make_unique<GrammarMatcher>(*this);
    return copy;
  }

 private:
  static constexpr Machine::Config kEnded = -1;  // behind an id that ends the text
  bool ended() const { return cursor_.configs.back() == kEnded; }

  std::shared_ptr<MaskSource> source_;
  StopIds stops_;
  MaskSource::Cursor cursor_;
  std::shared_ptr<const TokenMask> shared_;  // the mask given out, or
  TokenMask mask_;                           // a copy in which ids that end the text differ
};

class DelayedMatcher final : public ConstraintMatcher {
 public:
  explicit DelayedMatcher(const DelayedConstraint& constraint) : constraint_(constraint) {}

  std::span<const uint64_t> Allowed() override {
    return behind_ != nullptr ? behind_->Allowed() : constraint_.Allowed(states_.back());
  }

  bool Accept(TokenId token) override {
    if (behind_ != nullptr) {
      if (!behind_->Accept(token)) return false;
      ++accepted_behind_;
      return true;
    }
    if (token < 0 || token >= constraint_.vocab() || !HasBit(constraint_.Allowed(states_.back()), token))
      return false;
    const std::string_view bytes = constraint_.tokenizer().TokenBytes(token);
    const auto [state, used] = constraint_.Read(states_.back(), bytes);
    if (state == constraint_.marker().size()) {
      behind_ = constraint_.behind().StartBehind(bytes.substr(used));
      accepted_behind_ = 0;
    } else {
      states_.push_back(state);
      if (states_.size() > kMostHistory) states_.erase(states_.begin(), states_.end() - kLeastHistory);
    }
    return true;
  }

  void Rollback(int32_t tokens) override {
    CHECK_GE(tokens, 0);
    if (behind_ != nullptr) {
      const auto inside = static_cast<int32_t>(std::min<int64_t>(tokens, accepted_behind_));
      behind_->Rollback(inside);
      accepted_behind_ -= inside;
      if (tokens == inside) return;
      tokens -= inside + 1;  // the token in which the marker ended
      behind_ = nullptr;
    }
    CHECK_LT(static_cast<size_t>(tokens), states_.size());
    states_.resize(states_.size() - static_cast<size_t>(tokens));
  }

  std::unique_ptr<ConstraintMatcher> Clone() const override {
    auto copy = std::make_unique<DelayedMatcher>(constraint_);
    copy->states_ = states_;
    copy->behind_ = behind_ == nullptr ? nullptr : behind_->Clone();
    copy->accepted_behind_ = accepted_behind_;
    return copy;
  }

 private:
  const DelayedConstraint& constraint_;
  std::vector<size_t> states_ = {0};
  std::unique_ptr<ConstraintMatcher> behind_;  // once the marker has come
  int64_t accepted_behind_ = 0;
};

}  // namespace

GrammarConstraint::GrammarConstraint(std::shared_ptr<MaskSource> source, StopIds stops)
    : source_(std::move(source)), stops_(std::move(stops)) {}

std::unique_ptr<ConstraintMatcher> GrammarConstraint::StartBehind(std::string_view bytes) const {
  return std::make_unique<GrammarMatcher>(source_, stops_, bytes);
}

bool GrammarConstraint::MayBegin(std::string_view bytes) const {
  MaskSource::Cursor cursor = source_->Start();
  return source_->Advance(cursor, bytes);
}

DelayedConstraint::DelayedConstraint(std::shared_ptr<const GrammarConstraint> behind, std::string marker,
                                     const Tokenizer& tokenizer, int64_t vocab)
    : behind_(std::move(behind)), marker_(std::move(marker)), tokenizer_(tokenizer), vocab_(vocab) {
  CHECK(!marker_.empty());
  fallback_.resize(marker_.size());
  for (size_t i = 1; i < marker_.size(); ++i) {
    size_t border = fallback_[i - 1];
    while (border > 0 && marker_[border] != marker_[i]) border = fallback_[border - 1];
    fallback_[i] = border + (marker_[border] == marker_[i] ? 1 : 0);
  }
  TokenMask all(static_cast<size_t>(MaskWords(vocab)), ~uint64_t{0});
  if (vocab % 64 != 0) all.back() = (uint64_t{1} << (vocab % 64)) - 1;
  for (const TokenId id : behind_->stops()) SetBit(all, id, false);
  masks_.assign(marker_.size(), all);
  for (TokenId id = 0; id < std::min(vocab, tokenizer.size()); ++id) {
    const std::string_view bytes = tokenizer.TokenBytes(id);
    if (bytes.find(marker_.back()) == std::string_view::npos) continue;
    for (size_t state = 0; state < marker_.size(); ++state) {
      const Reached reached = Read(state, bytes);
      if (reached.state == marker_.size() && reached.used < bytes.size() &&
          !behind_->MayBegin(bytes.substr(reached.used))) {
        SetBit(masks_[state], id, false);
      }
    }
  }
}

DelayedConstraint::Reached DelayedConstraint::Read(size_t state, std::string_view bytes) const {
  for (size_t i = 0; i < bytes.size(); ++i) {
    while (state > 0 && marker_[state] != bytes[i]) state = fallback_[state - 1];
    if (marker_[state] == bytes[i]) ++state;
    if (state == marker_.size()) return {state, i + 1};
  }
  return {state, bytes.size()};
}

std::unique_ptr<ConstraintMatcher> DelayedConstraint::Start() const {
  return std::make_unique<DelayedMatcher>(*this);
}

}  // namespace paceline
