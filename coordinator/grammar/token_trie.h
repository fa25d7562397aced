// A vocabulary as a tree of bytes, laid out in the order in which it is walked: a step that fails skips
// everything behind it by one jump. Immutable.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "coordinator/tokenizer.h"

namespace paceline {

class TokenTrie {
 public:
  struct Node {
    uint32_t end = 0;          // behind the last node below this one
    uint32_t first_token = 0;  // of tokens(); those of the next node follow
    uint16_t depth = 1;        // bytes from the root, this one included
    uint8_t byte = 0;
  };

  TokenTrie() = default;
  // `ids` in any order; each has bytes.
  TokenTrie(const Tokenizer& tokenizer, std::vector<TokenId> ids);

  uint32_t size() const { return nodes_.empty() ? 0 : static_cast<uint32_t>(nodes_.size()) - 1; }
  const Node& node(uint32_t i) const { return nodes_[i]; }
  // The tokens whose last byte is node i's.
  std::span<const TokenId> tokens(uint32_t i) const {
    return std::span(tokens_).subspan(nodes_[i].first_token,
                                      nodes_[i + 1].first_token - nodes_[i].first_token);
  }
  int32_t depth() const { return depth_; }

 private:
  std::vector<Node> nodes_;  // and one behind the last
  std::vector<TokenId> tokens_;
  int32_t depth_ = 0;
};

// What grammars may be made of: the tokens with bytes that training found, in two trees. Most tokens are
// short; what a grammar's state allows of those depends on few bytes of what may follow.
class TokenBytes {
 public:
  // Lengthy tokens are tried one by one with every mask, so there may not be many.
  TokenBytes(const Tokenizer& tokenizer, int64_t vocab, size_t max_lengthy = 1024);

  const TokenTrie& brief() const { return brief_; }  // at most brief_bytes() long
  const TokenTrie& lengthy() const { return lengthy_; }
  int32_t brief_bytes() const { return brief_bytes_; }
  int64_t vocab() const { return vocab_; }
  // Of a token in one of the trees; "" for every other id, special and added tokens among them.
  std::string_view Of(TokenId id) const;

 private:
  const Tokenizer& tokenizer_;
  const int64_t vocab_;
  std::vector<bool> has_;  // [vocab]
  TokenTrie brief_, lengthy_;
  int32_t brief_bytes_ = 0;
};

}  // namespace paceline
