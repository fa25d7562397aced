// The tool calls that a text may be, as a grammar: what tool_choice "required", or one named function, makes
// of the tools' schemas. The form is that of coordinator/output_parser.h.
#pragma once

#include <string>
#include <vector>

#include "coordinator/chat.h"

namespace paceline {

// EBNF (docs/STRUCTURED.md) of one call, or of several where `parallel`, of the
// tools called `name`, or of any where it is empty. Parameters stand in the order of the schema; those not
// required may be absent.
std::string ToolCallGrammar(const std::vector<ToolDefinition>& tools, const std::string& name, bool parallel);

}  // namespace paceline
