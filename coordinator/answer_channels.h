// One answer of a chat, taken apart token by token: which channel every token belongs to, and the tool calls.
// A pure object, one per output.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/output_parser.h"

namespace paceline {

inline constexpr std::string_view kContentChannel = "content";
inline constexpr std::string_view kReasoningChannel = "reasoning";
inline constexpr std::string_view kToolCallChannel = "tool_call";

// A piece of the answer, in order: text of a token, or a part of a tool call.
struct AnswerPiece {
  std::string_view channel = kContentChannel;  // of text
  std::string text = {};
  bool continued = false;  // more text of the token in front
  // A call begins (its id and name) or goes on (its text: a piece of the arguments); then the rest is unset.
  std::optional<OutputEvent> call = {};
};

class AnswerChannels {
 public:
  // Without a parser everything is content, as it stands.
  explicit AnswerChannels(const std::optional<OutputParserOptions>& parser);

  // What the next token says, given its text: exactly one piece is the token, others continue it or are of
  // calls. Text that may yet become a tag waits for a later token. In a call the text is the model's own.
  std::vector<AnswerPiece> Feed(const std::string& text);
  // What was held; no piece is a token.
  std::vector<AnswerPiece> Finish();

  int64_t reasoning_tokens() const { return reasoning_tokens_; }
  bool called() const { return parser_ != nullptr && parser_->calls() > 0; }

 private:
  static void Add(std::vector<OutputEvent> events, std::vector<AnswerPiece>* pieces);

  std::unique_ptr<OutputParser> parser_;  // null: none
  int64_t reasoning_tokens_ = 0;
};

}  // namespace paceline
