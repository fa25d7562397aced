#include "coordinator/http/tool_grammar.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/http/api_problem.h"

namespace paceline {
namespace {

// Rules that values refer to. A string is free but for "</", which ends it: a model that wants to say it must
// be asked for the call with tool_choice auto.
constexpr char kCommonRules[] = R"(text ::= ( [^<] | "<" [^/] )*
integer ::= "-"? [0-9]+
number ::= "-"? [0-9]+ ( "." [0-9]+ )? ( [eE] [-+]? [0-9]+ )?
boolean ::= "true" | "false"
quoted ::= "\"" ( [^"\\<\x00-\x1f] | "\\" ["\\/bfnrt] | "\\u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] )* "\""
json ::= object | array | quoted | number | boolean | "null"
object ::= "{" ( quoted ": " json ( ", " quoted ": " json )* )? "}"
array ::= "[" ( json ( ", " json )* )? "]"
parameter ::= "<parameter=" [a-zA-Z0-9_.-]+ ">\n" text "\n</parameter>\n"
)";

// A string of the grammar.
std::string Literal(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
  }
  return out + "\"";
}

// A value as the call's form writes it: strings as they stand, the rest as JSON.
std::string ValueText(const Json& value) {
  return value.is_string() ? value.get<std::string>() : Dump(value);
}

std::string ValueRule(const Json& schema) {
  if (!schema.is_object()) return "text";
  if (const auto found = schema.find("enum"); found != schema.end() && found->is_array() && !found->empty()) {
    std::string choices;
    for (const Json& value : *found)
      absl::StrAppend(&choices, choices.empty() ? "" : " | ", Literal(ValueText(value)));
    return absl::StrCat("( ", choices, " )");
  }
  if (const auto found = schema.find("const"); found != schema.end()) return Literal(ValueText(*found));
  const auto type = schema.find("type");
  if (type == schema.end() || !type->is_string()) return "text";
  for (const char* const known : {"integer", "number", "boolean", "object", "array"}) {
    if (*type == known) return known;
  }
  return *type == "null" ? "\"null\"" : "text";
}

bool Required(const Json& parameters, const std::string& name) {
  const auto required = parameters.find("required");
  return required != parameters.end() && required->is_array() &&
         std::any_of(required->begin(), required->end(),
                     [&name](const Json& entry) { return entry == name; });
}

std::string Parameters(const Json& parameters) {
  if (!parameters.is_object()) return "parameter*";
  const auto properties = parameters.find("properties");
  if (properties == parameters.end() || !properties->is_object()) return "parameter*";
  std::string out;
  for (const auto& [name, schema] : properties->items()) {
    const std::string one = absl::StrCat(Literal(absl::StrCat("<parameter=", name, ">\n")), " ",
                                         ValueRule(schema), " ", Literal("\n</parameter>\n"));
    absl::StrAppend(&out, " ", Required(parameters, name) ? one : absl::StrCat("( ", one, " )?"));
  }
  return out;
}

}  // namespace

std::string ToolCallGrammar(const std::vector<ToolDefinition>& tools, const std::string& name,
                            bool parallel) {
  std::string functions;
  std::string rules;
  for (size_t i = 0; i < tools.size(); ++i) {
    if (!name.empty() && tools[i].name != name) continue;
    absl::StrAppend(&functions, functions.empty() ? "" : " | ", "function-", i);
    absl::StrAppend(&rules, "function-", i, " ::= ", Literal(absl::StrCat(tools[i].name, ">\n")), " ",
                    Parameters(tools[i].parameters), "\n");
  }
  // Behind a thinking block stands an empty line.
  return absl::StrCat("root ::= \"\\n\"? \"\\n\"? call", parallel ? " ( \"\\n\" \"\\n\"? call )*" : "",
                      "\ncall ::= \"<tool_call>\\n<function=\" ( ", functions,
                      " ) \"</function>\\n</tool_call>\"\n", rules, kCommonRules);
}

}  // namespace paceline
