// Events of the parser as pieces with tokens.
#include "coordinator/answer_channels.h"

#include <algorithm>
#include <utility>

namespace paceline {

AnswerChannels::AnswerChannels(const std::optional<OutputParserOptions>& parser) {
  if (parser) parser_ = std::make_unique<OutputParser>(*parser);
}

void AnswerChannels::Add(std::vector<OutputEvent> events, std::vector<AnswerPiece>* pieces) {
  for (OutputEvent& event : events) {
    AnswerPiece piece;
    switch (event.kind) {
      case OutputEvent::Kind::kContent:
      case OutputEvent::Kind::kReasoning:
        piece.channel = event.kind == OutputEvent::Kind::kReasoning ? kReasoningChannel : kContentChannel;
        piece.text = std::move(event.text);
        piece.continued = true;
        break;
      case OutputEvent::Kind::kToolCallStart:
      case OutputEvent::Kind::kToolCallArguments:
        piece.call = std::move(event);
        break;
      case OutputEvent::Kind::kToolCallEnd:
        continue;
    }
    pieces->push_back(std::move(piece));
  }
}

std::vector<AnswerPiece> AnswerChannels::Feed(const std::string& text) {
  std::vector<AnswerPiece> pieces;
  if (parser_ == nullptr) {
    pieces.push_back({.text = text});
    return pieces;
  }
  reasoning_tokens_ += parser_->in_reasoning() ? 1 : 0;
  const bool was_in_call = parser_->in_call();
  Add(parser_->Feed(text), &pieces);
  // The token itself stands with its first text, or, where it lets none out, in front of all.
  const auto first =
      std::find_if(pieces.begin(), pieces.end(), [](const AnswerPiece& piece) { return !piece.call; });
  if (first != pieces.end()) {
    first->continued = false;
    return pieces;
  }
  AnswerPiece token;
  if (was_in_call || parser_->in_call()) {
    token = {.channel = kToolCallChannel, .text = text};
  } else if (parser_->in_reasoning()) {
    token.channel = kReasoningChannel;
  }
  pieces.insert(pieces.begin(), std::move(token));
  return pieces;
}

std::vector<AnswerPiece> AnswerChannels::Finish() {
  std::vector<AnswerPiece> pieces;
  if (parser_ != nullptr) Add(parser_->Finish(), &pieces);
  return pieces;
}

}  // namespace paceline
