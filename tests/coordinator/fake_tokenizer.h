// A tokenizer of one token per listed string, the longest match first. Enough to write prompts and read text
// in tests.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "coordinator/tokenizer.h"

namespace paceline {

class FakeTokenizer final : public Tokenizer {
 public:
  explicit FakeTokenizer(std::vector<std::string> tokens, std::vector<TokenId> special = {})
      : tokens_(std::move(tokens)), special_(std::move(special)) {}

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text, bool) const override {
    std::vector<TokenId> ids;
    while (!text.empty()) {
      TokenId best = -1;
      for (size_t id = 0; id < tokens_.size(); ++id) {
        const std::string& token = tokens_[id];
        if (token.empty() || text.substr(0, token.size()) != token) continue;
        if (best < 0 || token.size() > tokens_[best].size()) best = static_cast<TokenId>(id);
      }
      if (best < 0) return Error(errors::kRequestField, "text: no token fits");
      ids.push_back(best);
      text.remove_prefix(tokens_[best].size());
    }
    return ids;
  }
  std::string_view TokenBytes(TokenId id) const override {
    return HasToken(id) ? std::string_view(tokens_[id]) : std::string_view();
  }
  bool HasToken(TokenId id) const override { return id >= 0 && id < size(); }
  bool IsSpecial(TokenId id) const override {
    return std::find(special_.begin(), special_.end(), id) != special_.end();
  }
  int64_t size() const override { return static_cast<int64_t>(tokens_.size()); }
  std::span<const TokenId> ByRank() const override { return {}; }

 private:
  std::vector<std::string> tokens_;
  std::vector<TokenId> special_;
};

}  // namespace paceline
