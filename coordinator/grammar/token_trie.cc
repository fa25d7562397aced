#include "coordinator/grammar/token_trie.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"

namespace paceline {
TokenTrie::TokenTrie(const Tokenizer& tokenizer, std::vector<TokenId> ids) {
  std::vector<std::pair<std::string_view, TokenId>> sorted;
  sorted.reserve(ids.size());
  for (const TokenId id : ids) sorted.emplace_back(tokenizer.TokenBytes(id), id);
  std::sort(sorted.begin(), sorted.end());
  std::vector<uint32_t> open;  // nodes from the root to the last one
  std::string_view last;
  for (const auto& [bytes, id] : sorted) {
    CHECK(!bytes.empty() && bytes.size() <= std::numeric_limits<uint16_t>::max());
    const size_t shared = static_cast<size_t>(
        std::mismatch(bytes.begin(), bytes.end(), last.begin(), last.end()).first - bytes.begin());
    for (; open.size() > shared; open.pop_back())
      nodes_[open.back()].end = static_cast<uint32_t>(nodes_.size());
    for (size_t i = shared; i < bytes.size(); ++i) {
      open.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back({0, static_cast<uint32_t>(tokens_.size()), static_cast<uint16_t>(i + 1),
                        static_cast<uint8_t>(bytes[i])});
    }
    tokens_.push_back(id);
    depth_ = std::max(depth_, static_cast<int32_t>(bytes.size()));
    last = bytes;
  }
  for (const uint32_t node : open) nodes_[node].end = static_cast<uint32_t>(nodes_.size());
  if (!nodes_.empty()) nodes_.push_back({0, static_cast<uint32_t>(tokens_.size()), 1, 0});
}

TokenBytes::TokenBytes(const Tokenizer& tokenizer, int64_t vocab, size_t max_lengthy)
    : tokenizer_(tokenizer), vocab_(vocab), has_(static_cast<size_t>(vocab)) {
  std::vector<TokenId> all;
  std::vector<size_t> lengths;
  for (TokenId id = 0; id < std::min(vocab, tokenizer.size()); ++id) {
    const std::string_view bytes = tokenizer.TokenBytes(id);
    if (bytes.empty() || bytes.size() > std::numeric_limits<uint16_t>::max() || tokenizer.IsAdded(id))
      continue;
    has_[static_cast<size_t>(id)] = true;
    all.push_back(id);
    lengths.push_back(bytes.size());
  }
  std::sort(lengths.begin(), lengths.end());
  if (lengths.size() > max_lengthy) {
    brief_bytes_ = static_cast<int32_t>(lengths[lengths.size() - max_lengthy - 1]);
  } else if (!lengths.empty()) {
    // Too few to be worth two trees.
    brief_bytes_ = static_cast<int32_t>(lengths.back());
  }
  const auto cut = std::partition(all.begin(), all.end(), [&](TokenId id) {
    return static_cast<int32_t>(tokenizer.TokenBytes(id).size()) <= brief_bytes_;
  });
  lengthy_ = TokenTrie(tokenizer, {cut, all.end()});
  brief_ = TokenTrie(tokenizer, {all.begin(), cut});
}

std::string_view TokenBytes::Of(TokenId id) const {
  if (id < 0 || id >= vocab_ || !has_[static_cast<size_t>(id)]) return {};
  return tokenizer_.TokenBytes(id);
}

}  // namespace paceline
