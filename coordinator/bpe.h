// Byte-pair merging by rank over the bytes of one piece of text. Thread-safe after construction.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"

namespace paceline {

class Bpe {
 public:
  struct Merge {
    TokenId left, right, result;
  };

  // `byte_tokens` [256]: the token of each single byte, -1 where there is none (the byte is then dropped, as
  // the `tokenizers` package does). `merges` by rank; of a pair that stands twice the last one counts.
  // `whole`: pieces that are a token of their own without merging (ignore_merges); empty when the merges
  // decide.
  Bpe(const std::array<TokenId, 256>& byte_tokens, const std::vector<Merge>& merges,
      absl::flat_hash_map<std::string, TokenId> whole);

  // Appends the tokens of `piece`: O(n log n) in its bytes.
  void Encode(std::string_view piece, std::vector<TokenId>* ids) const;

 private:
  struct RankedMerge {
    int32_t rank;
    TokenId result;
  };

  const RankedMerge* Find(TokenId left, TokenId right) const;
  void EncodeShort(std::vector<TokenId>* symbols) const;
  void EncodeLong(std::vector<TokenId>* symbols) const;

  std::array<TokenId, 256> byte_tokens_;
  absl::flat_hash_map<uint64_t, RankedMerge> merges_;  // (left, right)
  absl::flat_hash_map<std::string, TokenId> whole_;
};

}  // namespace paceline
