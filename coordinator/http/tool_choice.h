// Whether the text must be a call, may be one, or must not, and of which tool: `tool_choice` as OpenAI's
// endpoints have it. Anthropic's words for it stand in messages.cc.
#pragma once

#include <cstdint>
#include <string>

#include "coordinator/http/fields.h"

namespace paceline {

enum class ToolMode : uint8_t { kNone, kAuto, kRequired };
struct ToolChoice {
  ToolMode mode = ToolMode::kAuto;
  std::string name = {};  // kRequired: this one; empty: any
  bool parallel = true;   // kRequired: several calls may follow one another
};

// Where an object has the tool's name.
enum class ToolNameAt : uint8_t {
  kFunction,  // {"type": "function", "function": {"name": ..}}, of chat completions
  kItself,    // {"type": "function", "name": ..}, of responses
};

// "none", "auto", "required", or such an object; `parallel` stays as it is. REQ-001 about tool_choice.
ToolChoice ReadToolChoice(Fields& fields, ToolNameAt name_at);

}  // namespace paceline
