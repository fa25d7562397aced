// The streamer of one generation: tokens in, text out, and the decision when it is over.
//
// Text leaves as complete code points. What could still become a stop string is held until it cannot, so a
// stop string never shows, whatever tokens it is cut into; the outcome is that of reading the text one byte
// at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "coordinator/request.h"
#include "coordinator/tokenizer.h"

namespace paceline {

struct StreamerOptions {
  std::vector<TokenId> eos_token_ids = {};
  StoppingOptions stopping;  // max_tokens is not read; the resolved one follows
  int64_t max_tokens = 1;
};

struct StreamedPiece {
  std::string text;
  std::optional<FinishReason> finish;
  StopMatch match;
};

// Use from one thread. Without a tokenizer there is no text, and stop strings do not match.
class Streamer {
 public:
  // `tokenizer` may be null, else outlives the streamer.
  Streamer(const Tokenizer* tokenizer, StreamerOptions options);

  // The next token. Not to be called after a piece that finishes. Special tokens bring no text; the one that
  // stops the generation does if include_stop is set.
  StreamedPiece Next(TokenId id);
  // What is held, for a generation that ends without a token of its own to end it.
  std::string Flush();
  int64_t count() const { return count_; }

 private:
  std::optional<StreamedPiece> StopByToken(TokenId id);
  std::optional<StreamedPiece> StopByText();
  // Takes out of `held_` what can no longer be part of a stop string.
  std::string Release();

  const Tokenizer* const tokenizer_;
  const StreamerOptions options_;
  std::optional<StreamDecoder> decoder_;
  std::string held_;
  int64_t count_ = 0;
};

}  // namespace paceline
