// Takes a model's text apart as it streams: reasoning, content, tool calls. Qwen3's form: reasoning stands in
// <think>..</think>, a call is
//
//     <tool_call>\n<function=NAME>\n<parameter=KEY>\nvalue\n</parameter>\n</function>\n</tool_call>
//
// and leaves as JSON arguments in pieces. What may become a tag is held until it is one or is not; nothing
// that is given out is ever taken back. The same text cut anywhere gives the same events, but for where
// pieces are cut. A pure object: use it from one thread at a time, one per output.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/chat.h"

namespace paceline {

struct OutputEvent {
  enum class Kind {
    kReasoning,          // text
    kContent,            // text
    kToolCallStart,      // call, id, name; text is empty
    kToolCallArguments,  // call, text: a piece of the arguments' JSON; together they are one JSON object
    kToolCallEnd,        // call: the arguments are whole
  };
  Kind kind = Kind::kContent;
  std::string text = {};  // complete code points
  int32_t call = -1;      // index of the tool call within the output, from 0
  std::string id = {};    // "call_" and 24 hexadecimal digits
  std::string name = {};
};

struct OutputParserOptions {
  // ChatPrompt::starts_in_reasoning.
  bool starts_in_reasoning = false;
  // Off: <think> and </think> are text.
  bool split_reasoning = true;
  // Off: <tool_call> is text. A front turns it off when the request has no tools, or tool_choice is "none".
  bool parse_tools = true;
  // Their schemas decide what an argument is: a string as it stands, else JSON that falls back to a string.
  std::vector<ToolDefinition> tools = {};
  // Call ids are a function of it and the call's index: give every output another one.
  uint64_t id_seed = 0;
};

class OutputParser {
 public:
  explicit OutputParser(OutputParserOptions options);
  ~OutputParser();
  OutputParser(const OutputParser&) = delete;
  OutputParser& operator=(const OutputParser&) = delete;

  // The next piece of text, cut anywhere. White space around </think> and around calls belongs to the form
  // and is dropped: before reasoning and content, behind reasoning, and between content and a call.
  std::vector<OutputEvent> Feed(std::string_view text);
  // The text is over: what was held leaves as what it is. A call that has a name is completed to valid JSON
  // (`</parameter>` and the rest may be missing when the output was cut at a limit); one without is content.
  std::vector<OutputEvent> Finish();

  // Calls begun. With at least one, a "stop" is OpenAI's finish_reason "tool_calls".
  int32_t calls() const;
  // Inside a thinking block: the next token counts as reasoning.
  bool in_reasoning() const;
  // Inside a call's form, or in what looks like one.
  bool in_call() const;

 private:
  class Machine;
  std::unique_ptr<Machine> machine_;
};

}  // namespace paceline
