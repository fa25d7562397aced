// What a parameter of a tool call is by the tool's JSON schema, and how its text becomes JSON. Pure
// functions.
#pragma once

#include <string>
#include <string_view>

#include "coordinator/chat.h"

namespace paceline {

enum class ArgumentKind {
  kText,        // a string, as it stands
  kTextOrNull,  // the same, but the word null is null
  kJson,        // anything else: JSON, a string where it is none
};

// What `parameter` is in the schema of `tool`'s arguments. A parameter that the schema does not know is text,
// and so is one it says nothing about, or that may be a string among other things.
ArgumentKind KindOfArgument(const ToolDefinition& tool, std::string_view parameter);

// A text as JSON, without the quotes around it. `text` is valid UTF-8.
std::string JsonEscaped(std::string_view text);

// A whole argument as JSON.
std::string ArgumentAsJson(std::string_view text, ArgumentKind kind);

}  // namespace paceline
