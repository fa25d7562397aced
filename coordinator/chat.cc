#include "coordinator/chat.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api_error.h"

namespace paceline {
namespace {

constexpr int kMaxJsonDepth = 128;

std::string Kind(const Json& json) {
  return json.is_null() ? "null"
                        : absl::StrCat(json.is_array() || json.is_object() ? "an " : "a ", json.type_name());
}

absl::Status Expected(const std::string& field, const char* what, const Json& got) {
  return FieldError(field, absl::StrCat("expected ", what, ", got ", Kind(got)));
}

// Null (and ok) where the member is missing or null.
absl::StatusOr<const std::string*> OptionalText(const Json& object, const char* name,
                                                const std::string& path) {
  const auto found = object.find(name);
  if (found == object.end() || found->is_null()) return nullptr;
  if (!found->is_string()) return Expected(absl::StrCat(path, ".", name), "a string", *found);
  return &found->get_ref<const std::string&>();
}

absl::StatusOr<std::string> RequiredText(const Json& object, const char* name, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string* text, OptionalText(object, name, path));
  if (text == nullptr) return FieldError(absl::StrCat(path, ".", name), "expected a string, got nothing");
  return *text;
}

absl::StatusOr<ChatContent> ContentFromJson(const Json& content, const std::string& path) {
  if (content.is_null()) return ChatContent();
  if (content.is_string()) return ChatContent(content.get<std::string>());
  if (!content.is_array()) return Expected(path, "a string or an array of parts", content);
  std::vector<ContentPart> parts;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string at = absl::StrCat(path, "[", i, "]");
    const Json& part = content[i];
    if (!part.is_object()) return Expected(at, "an object", part);
    ASSIGN_OR_RETURN(const std::string type, RequiredText(part, "type", at));
    if (type != "text" && type != "input_text" && type != "output_text") {
      return FieldError(absl::StrCat(at, ".type"),
                        absl::StrCat("expected \"text\", got \"", type, "\": this model reads text only"));
    }
    ASSIGN_OR_RETURN(std::string text, RequiredText(part, "text", at));
    parts.push_back({std::move(text)});
  }
  return ChatContent(std::move(parts));
}

absl::StatusOr<std::vector<ChatToolCall>> ToolCallsFromJson(const Json& calls, const std::string& path) {
  std::vector<ChatToolCall> out;
  if (calls.is_null()) return out;
  if (!calls.is_array()) return Expected(path, "an array", calls);
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string at = absl::StrCat(path, "[", i, "]");
    if (!calls[i].is_object()) return Expected(at, "an object", calls[i]);
    ChatToolCall call;
    ASSIGN_OR_RETURN(const std::string* id, OptionalText(calls[i], "id", at));
    if (id != nullptr) call.id = *id;
    const auto function = calls[i].find("function");
    if (function == calls[i].end() || !function->is_object()) {
      return FieldError(absl::StrCat(at, ".function"), "expected an object with a name and arguments");
    }
    const std::string inside = absl::StrCat(at, ".function");
    ASSIGN_OR_RETURN(call.name, RequiredText(*function, "name", inside));
    const auto arguments = function->find("arguments");
    const std::string arguments_at = absl::StrCat(inside, ".arguments");
    if (arguments != function->end() && arguments->is_object()) {
      call.arguments = arguments->dump(-1, ' ', false, Json::error_handler_t::replace);
    } else {
      ASSIGN_OR_RETURN(const std::string* text, OptionalText(*function, "arguments", inside));
      if (text != nullptr && !text->empty()) {
        ASSIGN_OR_RETURN(const Json parsed, ParseJson(*text, arguments_at));
        if (!parsed.is_object()) return Expected(arguments_at, "a JSON object as text", parsed);
        call.arguments = *text;
      }
    }
    out.push_back(std::move(call));
  }
  return out;
}

absl::StatusOr<ChatMessage> MessageFromJson(const Json& json, const std::string& path) {
  if (!json.is_object()) return Expected(path, "an object", json);
  ChatMessage message;
  ASSIGN_OR_RETURN(message.role, RequiredText(json, "role", path));
  static constexpr const char* kRoles[] = {"system", "developer", "user", "assistant", "tool"};
  if (std::find(std::begin(kRoles), std::end(kRoles), message.role) == std::end(kRoles)) {
    return FieldError(
        absl::StrCat(path, ".role"),
        absl::StrCat("expected system, developer, user, assistant or tool, got \"", message.role, "\""));
  }
  const auto content = json.find("content");
  if (content != json.end()) {
    ASSIGN_OR_RETURN(message.content, ContentFromJson(*content, absl::StrCat(path, ".content")));
  }
  if (message.content.index() == 0 && message.role != "assistant") {
    return FieldError(absl::StrCat(path, ".content"), "expected a string or an array of parts, got nothing");
  }
  if (message.role == "assistant") {
    for (const char* name : {"reasoning", "reasoning_content"}) {
      ASSIGN_OR_RETURN(const std::string* text, OptionalText(json, name, path));
      if (text != nullptr) message.reasoning_content = *text;
    }
    const auto calls = json.find("tool_calls");
    if (calls != json.end()) {
      ASSIGN_OR_RETURN(message.tool_calls, ToolCallsFromJson(*calls, absl::StrCat(path, ".tool_calls")));
    }
  }
  ASSIGN_OR_RETURN(const std::string* name, OptionalText(json, "name", path));
  if (name != nullptr) message.name = *name;
  ASSIGN_OR_RETURN(const std::string* call, OptionalText(json, "tool_call_id", path));
  if (call != nullptr) message.tool_call_id = *call;
  return message;
}

// Levels of arrays and objects, without reading the values: the parser keeps a tree that is freed by
// recursion.
int JsonDepth(std::string_view text) {
  int depth = 0, deepest = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (inside) {
      if (c == '\\') ++i;
      inside = c != '"';
      continue;
    }
    inside = c == '"';
    if (c == '[' || c == '{') deepest = std::max(deepest, ++depth);
    if (c == ']' || c == '}') --depth;
  }
  return deepest;
}

}  // namespace

ToolDefinition ToolDefinition::Make(std::string name, std::optional<std::string> description,
                                    Json parameters) {
  ToolDefinition tool;
  tool.name = std::move(name);
  tool.parameters = parameters.is_object() ? std::move(parameters) : Json::object();
  Json function = {{"name", tool.name}};
  if (description) function["description"] = *std::move(description);
  function["parameters"] = tool.parameters;
  tool.definition = {{"type", "function"}, {"function", std::move(function)}};
  return tool;
}

absl::StatusOr<std::vector<ChatMessage>> ChatMessagesFromJson(const Json& messages) {
  if (!messages.is_array()) return Expected("messages", "an array", messages);
  std::vector<ChatMessage> out;
  out.reserve(messages.size());
  for (size_t i = 0; i < messages.size(); ++i) {
    ASSIGN_OR_RETURN(ChatMessage message, MessageFromJson(messages[i], absl::StrCat("messages[", i, "]")));
    out.push_back(std::move(message));
  }
  return out;
}

Json ChatMessagesToJson(const std::vector<ChatMessage>& messages) {
  Json out = Json::array();
  for (const ChatMessage& message : messages) {
    Json entry = {{"role", message.role}, {"content", nullptr}};
    if (const auto* text = std::get_if<std::string>(&message.content)) entry["content"] = *text;
    if (const auto* parts = std::get_if<std::vector<ContentPart>>(&message.content)) {
      entry["content"] = Json::array();
      for (const ContentPart& part : *parts)
        entry["content"].push_back({{"type", "text"}, {"text", part.text}});
    }
    if (message.reasoning_content) entry["reasoning_content"] = *message.reasoning_content;
    for (const ChatToolCall& call : message.tool_calls) {
      entry["tool_calls"].push_back({{"id", call.id},
                                     {"type", "function"},
                                     {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    }
    if (message.tool_call_id) entry["tool_call_id"] = *message.tool_call_id;
    if (message.name) entry["name"] = *message.name;
    out.push_back(std::move(entry));
  }
  return out;
}

absl::StatusOr<std::vector<ToolDefinition>> ToolsFromJson(const Json& tools) {
  std::vector<ToolDefinition> out;
  if (tools.is_null()) return out;
  if (!tools.is_array()) return Expected("tools", "an array", tools);
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string path = absl::StrCat("tools[", i, "]");
    const Json& entry = tools[i];
    if (!entry.is_object()) return Expected(path, "an object", entry);
    ASSIGN_OR_RETURN(const std::string* type, OptionalText(entry, "type", path));
    if (type != nullptr && *type != "function") {
      return FieldError(absl::StrCat(path, ".type"),
                        absl::StrCat("expected \"function\", got \"", *type, "\""));
    }
    const auto function = entry.find("function");
    if (function == entry.end() || !function->is_object()) {
      return FieldError(absl::StrCat(path, ".function"), "expected an object with a name and parameters");
    }
    ToolDefinition tool;
    ASSIGN_OR_RETURN(tool.name, RequiredText(*function, "name", absl::StrCat(path, ".function")));
    if (tool.name.empty())
      return FieldError(absl::StrCat(path, ".function.name"), "expected a name, got an empty one");
    const auto parameters = function->find("parameters");
    if (parameters != function->end() && !parameters->is_null()) {
      if (!parameters->is_object())
        return Expected(absl::StrCat(path, ".function.parameters"), "an object", *parameters);
      tool.parameters = *parameters;
    }
    tool.definition = entry;
    out.push_back(std::move(tool));
  }
  return out;
}

absl::StatusOr<Json> ParseJson(std::string_view text, std::string_view field) {
  if (JsonDepth(text) > kMaxJsonDepth) {
    return FieldError(field,
                      absl::StrCat("expected at most ", kMaxJsonDepth, " levels of arrays and objects"));
  }
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::parse_error& error) {
    return FieldError(field, absl::StrCat("expected JSON, which byte ", error.byte, " is not"));
  } catch (const Json::exception& error) {  // a number that no type holds
    return FieldError(field, absl::StrCat("expected JSON: ", error.what()));
  }
}

}  // namespace paceline
