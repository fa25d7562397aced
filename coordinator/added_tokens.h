// Tokens that are matched in the text itself, before BPE: <|im_start|> and its like, with their flags, taken
// as the `tokenizers` package takes them (leftmost, then longest).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"

namespace paceline {

struct AddedToken {
  TokenId id = 0;
  std::string content;       // as matched: normalised where `normalized` is set
  bool single_word = false;  // not where a word character stands on either side
  bool lstrip = false;       // takes the spaces on its left
  bool rstrip = false;       // takes the spaces on its right
  bool normalized = false;   // matched in the normalised text, after all that are not
  bool special = false;
};

// A stretch of text: an added token, or (id < 0) text between them.
struct TextSpan {
  TokenId id;
  std::string_view text;
};

class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  // A content that stands twice: the first one counts. Empty contents are ignored.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // Appends the spans of `text` to `spans`. `skip_special`: special tokens stay text, and what they cover is
  // still not searched for other tokens (as in the package).
  void Split(std::string_view text, bool skip_special, std::vector<TextSpan>* spans) const;

 private:
  // The longest token that begins at `at`: its index, or -1.
  int LongestAt(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  absl::flat_hash_map<uint64_t, int> edges_;  // (trie node, byte) -> trie node
  std::vector<int> token_at_;                 // [trie node] index of the token that ends there, or -1
  bool starts_[256] = {};                     // some token begins with this byte
};

}  // namespace paceline
