// An MTP drafter fed as a trunk feeds it, with texts and hidden states known beforehand.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "model/mtp_drafter.h"
#include "tests/model/target.h"

namespace paceline::testing {

using Chains = std::vector<std::vector<TokenId>>;

inline const Sampling kGreedy{.temperature = 0.0f};
inline constexpr int32_t kPages = 12;

inline std::unique_ptr<MtpDrafter> Load(Target& target, MtpDrafterOptions options) {
  options.pages = kPages;
  auto drafter =
      MtpDrafter::Load(target.checkpoint(), target.table, target.pool, target.embedding(), options);
  EXPECT_TRUE(drafter.ok()) << drafter.status();
  return *std::move(drafter);
}

inline std::unique_ptr<MtpDrafter> LoadStored(Target& target) {
  return Load(target, {.format = MtpFormat::kStored});
}

// A sequence whose text is known beforehand.
class Feed {
 public:
  Feed(Target& target, MtpDrafter& drafter, int32_t id, std::vector<TokenId> text, std::vector<float> hidden,
       std::vector<int32_t> pages)
      : context_{target.table, target.pool, target.workspace},
        drafter_(drafter),
        id_(id),
        text_(std::move(text)),
        hidden_(std::move(hidden)),
        pages_(std::move(pages)),
        width_(target.hidden()) {}

  int64_t position() const { return position_; }  // of the token that has been drawn and not run
  int64_t left() const { return static_cast<int64_t>(text_.size()) - position_; }
  void Commit(int64_t rows) {
    drafter_.Commit(context_,
                    {SequenceId(id_), position_, std::span<const TokenId>(text_).subspan(position_, rows),
                     hidden_.data() + position_ * width_, pages_});
    position_ += rows;
  }
  // What stands in front of `border` is stored; and gone on from.
  void Keep(int32_t snapshot, int64_t border) {
    drafter_.Keep(context_, SequenceId(id_), snapshot, hidden_.data() + (border - 1) * width_, pages_);
  }
  void Restore(int32_t snapshot, int64_t position) {
    position_ = position;
    drafter_.Restore(context_, SequenceId(id_), snapshot, std::span<const TokenId>(text_).first(position));
  }
  DraftRequest Request(int32_t depth) const {
    return {SequenceId(id_), text_[position_], position_, depth, pages_, &kGreedy, nullptr};
  }
  std::vector<TokenId> Draft(int32_t depth) {
    const DraftRequest request = Request(depth);
    DraftResult result;
    EXPECT_TRUE(drafter_.Draft(context_, {&request, 1}, {&result, 1}).ok());
    return result.tokens;
  }
  // As if another token than the text's had been drawn.
  std::vector<TokenId> DraftBehind(TokenId other, int32_t depth) {
    DraftRequest request = Request(depth);
    request.last_token = other;
    DraftResult result;
    EXPECT_TRUE(drafter_.Draft(context_, {&request, 1}, {&result, 1}).ok());
    return result.tokens;
  }
  const DraftContext& context() const { return context_; }

 private:
  const DraftContext context_;
  MtpDrafter& drafter_;
  const int32_t id_;
  const std::vector<TokenId> text_;
  const std::vector<float> hidden_;  // [tokens, hidden]
  const std::vector<int32_t> pages_;
  const int64_t width_;
  int64_t position_ = 0;
};

}  // namespace paceline::testing
