// A conversation as its owner steers it: what was said, how the next answer is to be made, and the commands
// that begin with a slash. Knows no model and no terminal.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "coordinator/chat.h"
#include "coordinator/request.h"

namespace paceline::cli {

struct ChatQuestion {
  ChatRequest chat;
  SamplingOptions sampling;
  std::optional<int64_t> max_tokens;
};

struct ChatAnswer {
  std::string content;
  std::string reasoning;
  FinishReason reason = FinishReason::kStop;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt
  int64_t tokens = 0;
  std::optional<int64_t> steps;  // that brought tokens
  int64_t drafted = 0;
  int64_t accepted = 0;
  Duration first_token{};  // from the question to it; 0: none came
  Duration decode{};       // from it to the last
};

// "42 tokens at 310.2 tok/s, the first after 0.12 s; 37 of 40 drafts accepted (93 %), 1.91 tokens per step;
// ..".
std::string AnswerLine(const ChatAnswer& answer);

struct ChatSettings {
  std::string system;
  std::optional<bool> think;  // absent: as the template has it
  std::optional<double> temperature;
  std::optional<uint64_t> seed;
  std::optional<int64_t> max_tokens;
};

class ChatSession {
 public:
  explicit ChatSession(ChatSettings settings) : settings_(std::move(settings)) {}

  enum class Step : uint8_t { kAsk, kSaid, kWrong, kLeave };
  struct Outcome {
    Step step = Step::kSaid;
    std::string text;  // what to tell the person; of kWrong, what was wrong
  };
  // What one line comes to. A line that begins with / is a command, one that begins with // a text that
  // begins with /. After kAsk: Question, then Answered or TakeBack.
  Outcome Take(const std::string& line);

  ChatQuestion Question() const;
  // Its text is history from here on. An answer that was stopped before it said anything takes the question
  // with it; false then.
  bool Answered(const ChatAnswer& answer);
  // There was no answer.
  void TakeBack();

  const std::vector<ChatMessage>& history() const { return history_; }

 private:
  Outcome Command(const std::string& name, const std::string& rest);
  Outcome Save(const std::string& file) const;
  Outcome Load(const std::string& file);
  std::string Statistics() const;

  ChatSettings settings_;
  std::vector<ChatMessage> history_;  // without the system message
  // Of all answers since the start.
  int64_t answers_ = 0;
  ChatAnswer sum_;
  ChatAnswer last_;
};

}  // namespace paceline::cli
