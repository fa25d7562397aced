#include "coordinator/tool_arguments.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace paceline {
namespace {

constexpr int kMaxReferences = 8;  // schemas that point to schemas

struct Types {
  bool text = false;
  bool null = false;
  bool other = false;
  void Add(const Json& type) {
    if (!type.is_string()) return;
    const std::string& name = type.get_ref<const std::string&>();
    (name == "string" ? text : name == "null" ? null : other) = true;
  }
};

const Json* Member(const Json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

// "#/$defs/Name" within `root`; null where it leads nowhere.
const Json* Resolve(const Json& root, const std::string& reference) {
  if (!reference.starts_with("#/")) return nullptr;
  const Json* at = &root;
  for (size_t from = 2; at != nullptr && from <= reference.size();) {
    const size_t end = std::min(reference.find('/', from), reference.size());
    at = Member(*at, reference.substr(from, end - from).c_str());
    from = end + 1;
  }
  return at;
}

void Collect(const Json& root, const Json& schema, int references, Types* types) {
  if (references > kMaxReferences) return;
  if (const Json* reference = Member(schema, "$ref"); reference != nullptr && reference->is_string()) {
    const Json* target = Resolve(root, reference->get_ref<const std::string&>());
    if (target != nullptr) Collect(root, *target, references + 1, types);
  }
  if (const Json* type = Member(schema, "type")) {
    types->Add(*type);
    if (type->is_array()) {
      for (const Json& one : *type) types->Add(one);
    }
    return;
  }
  const auto add_value = [&](const Json& value) {
    (value.is_string() ? types->text : value.is_null() ? types->null : types->other) = true;
  };
  if (const Json* values = Member(schema, "enum"); values != nullptr && values->is_array()) {
    for (const Json& value : *values) add_value(value);
  }
  if (const Json* value = Member(schema, "const")) add_value(*value);
  for (const char* several : {"anyOf", "oneOf", "allOf"}) {
    const Json* options = Member(schema, several);
    if (options == nullptr || !options->is_array()) continue;
    for (const Json& option : *options) Collect(root, option, references + 1, types);
  }
  if (Member(schema, "properties") != nullptr || Member(schema, "items") != nullptr) types->other = true;
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t from = text.find_first_not_of(kSpace);
  if (from == std::string_view::npos) return "";
  return text.substr(from, text.find_last_not_of(kSpace) - from + 1);
}

}  // namespace

ArgumentKind KindOfArgument(const ToolDefinition& tool, std::string_view parameter) {
  const Json* properties = Member(tool.parameters, "properties");
  const Json* schema = properties == nullptr ? nullptr : Member(*properties, std::string(parameter).c_str());
  Types types;
  if (schema != nullptr) Collect(tool.parameters, *schema, 0, &types);
  if (types.text) return types.null && !types.other ? ArgumentKind::kTextOrNull : ArgumentKind::kText;
  return types.other || types.null ? ArgumentKind::kJson : ArgumentKind::kText;
}

std::string JsonEscaped(std::string_view text) {
  const std::string quoted = Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
  return quoted.substr(1, quoted.size() - 2);
}

std::string ArgumentAsJson(std::string_view text, ArgumentKind kind) {
  const std::string_view trimmed = Trim(text);
  const bool null = trimmed == "null" || trimmed == "None";
  if (kind != ArgumentKind::kText && null) return "null";
  if (kind == ArgumentKind::kJson) {
    // Models trained on Python write its words.
    if (trimmed == "True" || trimmed == "False") return trimmed == "True" ? "true" : "false";
    if (Json::accept(trimmed.begin(), trimmed.end())) return std::string(trimmed);
  }
  return absl::StrCat("\"", JsonEscaped(text), "\"");
}

}  // namespace paceline
