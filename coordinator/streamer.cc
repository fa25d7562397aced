// Tokens to text, and stopping.
#include "coordinator/streamer.h"

#include <algorithm>
#include <utility>

namespace paceline {
namespace {

bool Contains(const std::vector<TokenId>& ids, TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Streamer::Streamer(const Tokenizer* tokenizer, StreamerOptions options)
    : tokenizer_(tokenizer), options_(std::move(options)) {
  if (tokenizer_ != nullptr) decoder_.emplace(*tokenizer_);
}

StreamedPiece Streamer::Next(TokenId id) {
  ++count_;
  const bool may_stop = count_ > options_.stopping.min_tokens;
  if (may_stop) {
    if (std::optional<StreamedPiece> stop = StopByToken(id)) return *std::move(stop);
  }
  if (tokenizer_ != nullptr && !tokenizer_->IsSpecial(id)) held_ += decoder_->Next(id);
  StreamedPiece piece;
  if (may_stop) {
    if (std::optional<StreamedPiece> stop = StopByText()) return *std::move(stop);
    piece.text = Release();
  } else {
    piece.text = std::exchange(held_, {});
  }
  if (count_ >= options_.max_tokens) {
    piece.text += Flush();
    piece.finish = FinishReason::kLength;
  }
  return piece;
}

std::optional<StreamedPiece> Streamer::StopByToken(TokenId id) {
  StreamedPiece piece;
  if (!options_.stopping.ignore_eos && Contains(options_.eos_token_ids, id)) {
    piece.match.eos_token = id;
  } else if (Contains(options_.stopping.stop_token_ids, id)) {
    piece.match.stop_token = id;
  } else {
    return std::nullopt;
  }
  piece.finish = FinishReason::kStop;
  if (options_.stopping.include_stop && tokenizer_ != nullptr) held_ += decoder_->Next(id);
  piece.text = Flush();
  return piece;
}

std::optional<StreamedPiece> Streamer::StopByText() {
  // The match that is complete first; of several, the longest.
  const std::string* match = nullptr;
  size_t match_end = std::string::npos;
  for (const std::string& stop : options_.stopping.stop_strings) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const size_t end = at + stop.size();
    if (match == nullptr || end < match_end || (end == match_end && stop.size() > match->size())) {
      match = &stop;
      match_end = end;
    }
  }
  if (match == nullptr) return std::nullopt;
  StreamedPiece piece;
  piece.text = held_.substr(0, options_.stopping.include_stop ? match_end : match_end - match->size());
  piece.finish = FinishReason::kStop;
  piece.match.stop_string = *match;
  held_.clear();
  return piece;
}

std::string Streamer::Release() {
  size_t keep = 0;
  for (const std::string& stop : options_.stopping.stop_strings) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) {
        keep = n;
        break;
      }
    }
  }
  std::string text = held_.substr(0, held_.size() - keep);
  held_.erase(0, text.size());
  return text;
}

std::string Streamer::Flush() {
  std::string text = std::exchange(held_, {});
  if (decoder_) text += decoder_->Flush();
  return text;
}

}  // namespace paceline
