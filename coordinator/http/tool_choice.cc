#include "coordinator/http/tool_choice.h"

namespace paceline {

ToolChoice ReadToolChoice(Fields& fields, ToolNameAt name_at) {
  ToolChoice choice;
  const Json* value = fields.Any("tool_choice");
  if (value == nullptr || *value == "auto") return choice;
  if (*value == "none") {
    choice.mode = ToolMode::kNone;
  } else if (*value == "required") {
    choice.mode = ToolMode::kRequired;
  } else if (value->is_object()) {
    choice.mode = ToolMode::kRequired;
    const bool nested = name_at == ToolNameAt::kFunction;
    Fields inner(*value, "tool_choice.");
    const Json* named = nested ? inner.Object("function") : value;
    if (named != nullptr) choice.name = Fields(*named).Text("name").value_or("");
    if (choice.name.empty())
      inner.Refuse(nested ? "function.name" : "name", "expected the name of one of the tools");
    fields.Fail(inner.status());
  } else {
    fields.Refuse("tool_choice", "expected none, auto, required, or an object that names a function");
  }
  return choice;
}

}  // namespace paceline
