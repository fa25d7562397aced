// Byte-level BPE from a Hugging Face tokenizer.json: NFC, the split pattern taken from the file, added tokens
// with their flags. Equal to the `tokenizers` package. Thread-safe after Create.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"

namespace paceline {

class Tokenizer {
 public:
  // LOAD-001 (absent), LOAD-006 (unusable: names the part).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& directory);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(std::string_view tokenizer_json,
                                                          const std::string& file_name);
  virtual ~Tokenizer() = default;

  // InvalidArgument (REQ-001) with the byte offset when `text` is not UTF-8. `parse_special`: special tokens
  // written in the text become their ids; added tokens that are not special are recognised either way.
  // Nothing is added in front.
  virtual absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                                      bool parse_special = true) const = 0;

  // The raw bytes of one token ("" for an id without a token). Special tokens show as written.
  virtual std::string_view TokenBytes(TokenId id) const = 0;
  virtual bool HasToken(TokenId id) const = 0;
  virtual bool IsSpecial(TokenId id) const = 0;
  // Whether a person put the token beside what training found: the special ones, and others such as <think>.
  virtual bool IsAdded(TokenId id) const { return IsSpecial(id); }
  // One past the largest id that has a token.
  virtual int64_t size() const = 0;
  // Ids in the order in which text is merged: single bytes, then what the merges make, by rank, each once.
  // Frequent pieces come early. Added tokens are not among them.
  virtual std::span<const TokenId> ByRank() const = 0;

  // The whole text of ids, U+FFFD for bytes that form no code point.
  std::string Decode(std::span<const TokenId> ids) const;
};

// Turns a stream of ids into text that never splits a code point: a piece holds complete code points, and
// U+FFFD for bytes that can no longer become one (one per maximal subpart); an unfinished tail waits. Use one
// per stream.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string Next(TokenId id);
  std::string Flush();  // what waits, as U+FFFD

 private:
  const Tokenizer& tokenizer_;  // outlives the decoder
  std::string tail_;            // an incomplete code point, at most 3 bytes
};

}  // namespace paceline
