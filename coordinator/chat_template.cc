#include "coordinator/chat_template.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/jinja/template.h"
#include "coordinator/jinja/text.h"

namespace paceline {
namespace {

using jinja::Value;

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr size_t kMaxSourceBytes = size_t{1} << 20;  // published templates reach 20 KB

// How a template wants what the API leaves open. Found out by showing it an example of each.
struct Habits {
  bool parts = false;            // iterates over content; else its parts are joined by newlines
  bool object_arguments = true;  // a call's arguments are an object; else their JSON text
  bool null_content = true;      // an assistant's missing content is none; else ""
};

// Nullopt where there is no such file.
absl::StatusOr<std::optional<std::string>> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  std::string text;
  std::array<char, 1 << 16> block;
  while (in.read(block.data(), block.size()) || in.gcount() > 0) {
    text.append(block.data(), static_cast<size_t>(in.gcount()));
    if (static_cast<int64_t>(text.size()) > kMaxFileBytes) {
      return Error(errors::kTokenizer, absl::StrCat(path, " is larger than ", kMaxFileBytes, " bytes"));
    }
  }
  if (in.bad()) return Error(errors::kTokenizer, absl::StrCat(path, " cannot be read to its end"));
  return text;
}

absl::StatusOr<std::optional<Json>> ReadJson(const std::string& path) {
  ASSIGN_OR_RETURN(const std::optional<std::string> text, ReadFile(path));
  if (!text) return std::nullopt;
  auto json = ParseJson(*text, path);
  if (!json.ok()) return Error(errors::kTokenizer, absl::StrCat(path, " is not JSON"));
  return std::optional<Json>(*std::move(json));
}

// LOAD-006 begins with `origin`.
absl::StatusOr<std::unique_ptr<jinja::Template>> ParseSource(const std::string& origin,
                                                             std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return Error(errors::kTokenizer,
                 absl::StrCat(origin, ": expected at most ", kMaxSourceBytes, " bytes, got ", source.size()));
  }
  auto parsed = jinja::Template::Parse(source);
  if (!parsed.ok()) return Error(errors::kTokenizer, absl::StrCat(origin, ": ", parsed.status().message()));
  return parsed;
}

// Special tokens of tokenizer_config.json: a text, or an object with `content`; null ones are not defined.
std::map<std::string, std::string> SpecialTokens(const Json& config) {
  std::map<std::string, std::string> tokens;
  for (const char* name :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const auto found = config.find(name);
    if (found == config.end()) continue;
    if (found->is_string()) {
      tokens[name] = found->get<std::string>();
    } else if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) {
      tokens[name] = (*found)["content"].get<std::string>();
    }
  }
  return tokens;
}

std::string JoinParts(const std::vector<ContentPart>& parts) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) text += '\n';
    text += parts[i].text;
  }
  return text;
}

Value DictOf(std::vector<std::pair<const char*, Value>> entries) {
  auto dict = std::make_shared<jinja::DictObject>();
  for (auto& [name, value] : entries) dict->Set(Value::Text(name), std::move(value));
  return Value::Dict(std::move(dict));
}

Value ContentValue(const ChatMessage& message, const Habits& habits) {
  if (const auto* text = std::get_if<std::string>(&message.content)) return Value::Text(*text);
  if (const auto* parts = std::get_if<std::vector<ContentPart>>(&message.content)) {
    if (!habits.parts) return Value::Text(JoinParts(*parts));
    std::vector<Value> list;
    for (const ContentPart& part : *parts) {
      list.push_back(DictOf({{"type", Value::Text("text")}, {"text", Value::Text(part.text)}}));
    }
    return Value::List(std::move(list));
  }
  return message.role == "assistant" && habits.null_content ? Value::None() : Value::Text("");
}

absl::StatusOr<Value> MessageValue(const ChatMessage& message, const Habits& habits, size_t index) {
  auto dict = std::make_shared<jinja::DictObject>();
  const auto set = [&](const char* name, Value value) { dict->Set(Value::Text(name), std::move(value)); };
  set("role", Value::Text(message.role == "developer" ? "system" : message.role));
  set("content", ContentValue(message, habits));
  if (message.reasoning_content) {
    // Families name it differently.
    for (const char* name : {"reasoning_content", "reasoning", "thinking"}) {
      set(name, Value::Text(*message.reasoning_content));
    }
  }
  if (!message.tool_calls.empty()) {
    std::vector<Value> calls;
    for (size_t i = 0; i < message.tool_calls.size(); ++i) {
      const ChatToolCall& call = message.tool_calls[i];
      const std::string text = call.arguments.empty() ? "{}" : call.arguments;
      Value arguments = Value::Text(text);
      if (habits.object_arguments) {
        const std::string field =
            absl::StrCat("messages[", index, "].tool_calls[", i, "].function.arguments");
        ASSIGN_OR_RETURN(const Json parsed, ParseJson(text, field));
        if (!parsed.is_object()) return FieldError(field, "expected a JSON object as text");
        arguments = Value::FromJson(parsed);
      }
      const Value function = DictOf({{"name", Value::Text(call.name)}, {"arguments", std::move(arguments)}});
      calls.push_back(
          DictOf({{"id", Value::Text(call.id)}, {"type", Value::Text("function")}, {"function", function}}));
    }
    set("tool_calls", Value::List(std::move(calls)));
  }
  if (message.tool_call_id) set("tool_call_id", Value::Text(*message.tool_call_id));
  if (message.name) set("name", Value::Text(*message.name));
  return Value::Dict(std::move(dict));
}

bool Has(std::string_view text, std::string_view what) { return text.find(what) != std::string_view::npos; }

// The prompt up to the end of the last message, as Transformers cuts it: a template may have trimmed the
// message.
absl::StatusOr<std::string> CutAtLastMessage(std::string text, const ChatMessage& last) {
  std::string content;
  if (const auto* whole = std::get_if<std::string>(&last.content)) content = *whole;
  if (const auto* parts = std::get_if<std::vector<ContentPart>>(&last.content);
      parts != nullptr && !parts->empty()) {
    content = parts->back().text;
  }
  const std::string_view stripped = jinja::Strip(content);
  const size_t at = stripped.empty() ? std::string::npos : text.rfind(stripped);
  if (at == std::string::npos) {
    return FieldError("continue_final_message",
                      "expected a last message whose content the chat template prints as it is");
  }
  const std::string_view unindented = jinja::Strip(content, jinja::Side::kLeft);
  const bool kept = std::string_view(text).substr(at, unindented.size()) == content;
  text.resize(at + (kept ? unindented.size() : stripped.size()));
  return text;
}

}  // namespace

struct ChatTemplate::Parts {
  std::unique_ptr<jinja::Template> plain;
  std::unique_ptr<jinja::Template> with_tools;  // null: the plain one
  std::map<std::string, std::string> special_tokens;
  ChatTemplateOptions options;
  Habits habits;
  Habits habits_with_tools;

  jinja::Rendered Render(const jinja::Template& source, const ChatRequest& request,
                         const std::vector<Value>& messages) const {
    std::vector<std::pair<std::string, Value>> context;
    const auto set = [&](const std::string& name, Value value) {
      context.emplace_back(name, std::move(value));
    };
    for (const auto& [name, token] : special_tokens) set(name, Value::Text(token));
    set("messages", Value::List(messages));
    if (request.tools.empty()) {
      set("tools", Value::None());
    } else {
      std::vector<Value> tools;
      for (const ToolDefinition& tool : request.tools) tools.push_back(Value::FromJson(tool.definition));
      set("tools", Value::List(std::move(tools)));
    }
    set("documents", Value::None());
    set("add_generation_prompt",
        Value::Bool(request.add_generation_prompt && !request.continue_final_message));
    // Later ones win.
    for (const auto& [name, value] : request.template_kwargs.items()) set(name, Value::FromJson(value));
    jinja::RenderOptions render;
    render.now = options.now;
    return source.Render(context, render);
  }

  // What the template makes of examples.
  Habits Observe(const jinja::Template& source) const {
    Habits habits;
    const auto render = [&](const std::vector<ChatMessage>& messages,
                            const std::vector<ToolDefinition>& tools, const Habits& tried) {
      std::vector<Value> values;
      for (size_t i = 0; i < messages.size(); ++i) values.push_back(*MessageValue(messages[i], tried, i));
      ChatRequest request;
      request.tools = tools;
      request.add_generation_prompt = false;
      return Render(source, request, values);
    };
    habits.parts = true;
    const jinja::Rendered parts = render({{"user", std::vector<ContentPart>{{"probed"}}}}, {}, habits);
    // A template that knows no parts prints them as Python or as JSON, or says that they are no text.
    habits.parts =
        parts.ok && Has(parts.text, "probed") && !Has(parts.text, "'type'") && !Has(parts.text, "\"type\"");

    ChatMessage call{"assistant"};
    call.tool_calls = {{"probe1234", "probe", R"({"probe_key": "probe_value"})"}};
    ChatMessage answer{"tool", "answer"};
    answer.tool_call_id = "probe1234";
    answer.name = "probe";
    const std::vector<ChatMessage> messages = {{"user", "question"}, call, answer};
    const std::vector<ToolDefinition> tools = {
        ToolDefinition::Make("probe", "Probes.", Json::parse(R"({"type":"object","properties":{}})"))};
    for (const auto& [object_arguments, null_content] :
         {std::pair(true, true), {true, false}, {false, true}, {false, false}}) {
      Habits tried = habits;
      tried.object_arguments = object_arguments;
      tried.null_content = null_content;
      const jinja::Rendered out = render(messages, tools, tried);
      if (out.ok && Has(out.text, "probe_value") && !Has(out.text, "'probe_key'") && !Has(out.text, "None"))
        return tried;
    }
    return habits;
  }
};

ChatTemplate::ChatTemplate(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Create(
    std::string_view source, std::map<std::string, std::string> special_tokens, ChatTemplateOptions options) {
  auto parts = std::make_unique<Parts>();
  ASSIGN_OR_RETURN(parts->plain, ParseSource("the chat template", source));
  parts->special_tokens = std::move(special_tokens);
  parts->options = std::move(options);
  parts->habits = parts->Observe(*parts->plain);
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(parts)));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& directory,
                                                                 ChatTemplateOptions options) {
  const std::string config_path = directory + "/tokenizer_config.json";
  ASSIGN_OR_RETURN(const std::optional<Json> config, ReadJson(config_path));
  std::map<std::string, std::string> tokens;
  if (config && config->is_object()) tokens = SpecialTokens(*config);

  const std::string jinja_path = directory + "/chat_template.jinja",
                    json_path = directory + "/chat_template.json";
  std::string origin = jinja_path;
  ASSIGN_OR_RETURN(std::optional<std::string> plain, ReadFile(jinja_path));
  std::optional<std::string> with_tools;
  // A template, or a list of named ones of which two are known.
  const auto take = [&](const Json& json, const std::string& path) {
    const auto found = json.is_object() ? json.find("chat_template") : json.end();
    if (!json.is_object() || found == json.end()) return;
    origin = path;
    if (found->is_string()) {
      plain = found->get<std::string>();
    } else if (found->is_array()) {
      for (const Json& named : *found) {
        if (!named.is_object()) continue;
        const std::string name =
            named.value("name", Json()).is_string() ? named["name"].get<std::string>() : "";
        if (!named.value("template", Json()).is_string()) continue;
        if (name == "default") plain = named["template"].get<std::string>();
        if (name == "tool_use") with_tools = named["template"].get<std::string>();
      }
    }
  };
  if (!plain) {
    ASSIGN_OR_RETURN(const std::optional<Json> file, ReadJson(json_path));
    if (file) take(*file, json_path);
  }
  if (!plain && config) take(*config, config_path);
  if (!plain && with_tools) plain = with_tools;
  if (!plain) return nullptr;

  auto parts = std::make_unique<Parts>();
  ASSIGN_OR_RETURN(parts->plain, ParseSource(origin, *plain));
  parts->special_tokens = std::move(tokens);
  parts->options = std::move(options);
  parts->habits = parts->Observe(*parts->plain);
  if (with_tools && *with_tools != *plain) {
    ASSIGN_OR_RETURN(parts->with_tools,
                     ParseSource(absl::StrCat(origin, ": the template tool_use"), *with_tools));
    parts->habits_with_tools = parts->Observe(*parts->with_tools);
  }
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(parts)));
}

absl::StatusOr<ChatPrompt> ChatTemplate::Apply(const ChatRequest& request) const {
  if (request.messages.empty()) return FieldError("messages", "expected at least one message, got none");
  for (const char* taken : {"messages", "tools", "documents"}) {
    if (request.template_kwargs.contains(taken)) {
      return FieldError(absl::StrCat("template_kwargs.", taken),
                        "expected another name: the request itself sets this one");
    }
  }
  const bool with_tools = !request.tools.empty() && parts_->with_tools != nullptr;
  const Habits& habits = with_tools ? parts_->habits_with_tools : parts_->habits;
  std::vector<Value> messages;
  messages.reserve(request.messages.size());
  for (size_t i = 0; i < request.messages.size(); ++i) {
    ASSIGN_OR_RETURN(Value message, MessageValue(request.messages[i], habits, i));
    messages.push_back(std::move(message));
  }
  jinja::Rendered rendered =
      parts_->Render(with_tools ? *parts_->with_tools : *parts_->plain, request, messages);
  if (rendered.raised) {
    return FieldError("messages", absl::StrCat("the chat template refuses them: ", rendered.sentence));
  }
  if (!rendered.ok) {
    return FieldError("messages", absl::StrCat("the chat template cannot show them: ", rendered.sentence,
                                               " (line ", rendered.line, " of the template)"));
  }
  ChatPrompt prompt;
  if (request.continue_final_message) {
    ASSIGN_OR_RETURN(prompt.text, CutAtLastMessage(std::move(rendered.text), request.messages.back()));
  } else {
    prompt.text = std::move(rendered.text);
  }
  prompt.starts_in_reasoning = request.add_generation_prompt && !request.continue_final_message &&
                               jinja::Strip(prompt.text, jinja::Side::kRight).ends_with("<think>");
  return prompt;
}

}  // namespace paceline
