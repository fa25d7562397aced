#include "coordinator/chat_wire.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/chat_template.h"
#include "coordinator/http/chat_completions.h"
#include "paceline/inference/v1/inference.pb.h"

namespace paceline {
namespace {

namespace pb = inference::v1;

// Members of a tool and of a JSON schema that people write first, in their order.
constexpr const char* kUsual[] = {"type",  "function", "name",       "description", "parameters",
                                  "title", "enum",     "properties", "items",       "required"};

size_t Rank(const std::string& name) {
  return static_cast<size_t>(std::find(std::begin(kUsual), std::end(kUsual), name) - std::begin(kUsual));
}

Json FromStruct(const google::protobuf::Struct& wire, bool usual_order);

Json FromValue(const google::protobuf::Value& wire, bool usual_order) {
  switch (wire.kind_case()) {
    case google::protobuf::Value::kNumberValue: {
      const double number = wire.number_value();
      // JSON's numbers have no type here; a whole one was written as one.
      if (number == std::floor(number) && std::abs(number) < 0x1p53) return static_cast<int64_t>(number);
      return number;
    }
    case google::protobuf::Value::kStringValue:
      return wire.string_value();
    case google::protobuf::Value::kBoolValue:
      return wire.bool_value();
    case google::protobuf::Value::kStructValue:
      return FromStruct(wire.struct_value(), usual_order);
    case google::protobuf::Value::kListValue: {
      Json list = Json::array();
      for (const google::protobuf::Value& value : wire.list_value().values()) {
        list.push_back(FromValue(value, usual_order));
      }
      return list;
    }
    default:
      return nullptr;
  }
}

// The names of properties are anybody's, so the alphabet orders them; their schemas are schemas again.
Json FromProperties(const google::protobuf::Struct& wire) {
  const std::map<std::string, google::protobuf::Value> sorted(wire.fields().begin(), wire.fields().end());
  Json object = Json::object();
  for (const auto& [name, schema] : sorted) object[name] = FromValue(schema, true);
  return object;
}

Json FromStruct(const google::protobuf::Struct& wire, bool usual_order) {
  std::map<std::pair<size_t, std::string>, const google::protobuf::Value*> members;
  for (const auto& [name, value] : wire.fields()) members[{usual_order ? Rank(name) : 0, name}] = &value;
  Json object = Json::object();
  for (const auto& [key, value] : members) {
    const bool properties = usual_order && key.second == "properties" && value->has_struct_value();
    object[key.second] = properties ? FromProperties(value->struct_value()) : FromValue(*value, usual_order);
  }
  return object;
}

// The field is one of the chat's.
absl::Status Within(const absl::Status& status) {
  const ErrorFacts facts = FactsOf(status);
  if (facts.field.empty() || facts.field.starts_with("chat")) return status;
  return WithField(status, absl::StrCat("chat.", facts.field));
}

absl::Status CheckTemplate(const ChatTemplate* chat_template) {
  if (chat_template != nullptr) return absl::OkStatus();
  return WithField(
      WithReason(absl::UnimplementedError("chat: the model has no chat template; send text or token_ids"),
                 reasons::kFeatureDisabled),
      "chat");
}

}  // namespace

absl::StatusOr<ChatRequest> ChatFromWire(const pb::ChatInput& wire) {
  Json messages = Json::array(), tools = Json::array();
  if (wire.has_json()) {
    if (wire.messages_size() > 0 || wire.tools_size() > 0) {
      return FieldError("chat.json", "expected it alone, got messages or tools beside it");
    }
    ASSIGN_OR_RETURN(const Json whole, ParseJson(wire.json(), "chat.json"));
    if (!whole.is_object()) return FieldError("chat.json", "expected an object with messages");
    messages = whole.value("messages", Json::array());
    tools = whole.value("tools", Json::array());
  } else {
    for (const google::protobuf::Struct& message : wire.messages())
      messages.push_back(FromStruct(message, false));
    for (const google::protobuf::Struct& tool : wire.tools()) tools.push_back(FromStruct(tool, true));
  }
  ChatRequest request;
  auto read = ChatMessagesFromJson(messages);
  if (!read.ok()) return Within(read.status());
  request.messages = *std::move(read);
  auto defined = ToolsFromJson(tools);
  if (!defined.ok()) return Within(defined.status());
  request.tools = *std::move(defined);
  if (wire.has_template_kwargs()) request.template_kwargs = FromStruct(wire.template_kwargs(), false);
  if (wire.has_add_generation_prompt()) request.add_generation_prompt = wire.add_generation_prompt();
  request.continue_final_message = wire.continue_final_message();
  return request;
}

absl::StatusOr<PreparedChat> ChatCallFromWire(const pb::ChatInput& wire, GenerateRequest request,
                                              const ChatTemplate* chat_template) {
  RETURN_IF_ERROR(CheckTemplate(chat_template));
  ASSIGN_OR_RETURN(ChatRequest chat, ChatFromWire(wire));
  ToolChoice choice;
  choice.parallel = !wire.has_parallel_tool_calls() || wire.parallel_tool_calls();
  if (wire.tool_choice() == "none") {
    choice.mode = ToolMode::kNone;
  } else if (!wire.tool_choice().empty() && wire.tool_choice() != "auto") {
    choice.mode = ToolMode::kRequired;
    if (wire.tool_choice() != "required") {
      choice.name = wire.tool_choice();
      choice.parallel = false;
    }
  }
  auto prepared = PrepareChat(std::move(chat), choice, std::move(request), chat_template);
  if (!prepared.ok()) return Within(prepared.status());
  return prepared;
}

absl::StatusOr<ChatPrompt> PromptFromWire(const pb::ChatInput& wire, const ChatTemplate* chat_template) {
  RETURN_IF_ERROR(CheckTemplate(chat_template));
  ASSIGN_OR_RETURN(const ChatRequest request, ChatFromWire(wire));
  auto prompt = chat_template->Apply(request);
  if (!prompt.ok()) return Within(prompt.status());
  return prompt;
}

}  // namespace paceline
