// A conversation as plain data: messages, tools and what the chat template is told besides. The API fronts
// make these from their wire formats; coordinator/chat_template.h turns them into a prompt. No thread owns
// anything here.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace paceline {

// JSON whose objects keep the order in which they were written: templates print tools and arguments in it.
using Json = nlohmann::ordered_json;

// One entry of a content array. Only text can be shown to these models: ChatMessagesFromJson refuses other
// types.
struct ContentPart {
  std::string text;
};

// A call that the assistant made in an earlier turn.
struct ChatToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // a JSON object as text, as the OpenAI API has it; "" means {}
};

// nullopt (null, or left out), a string, or an array of parts.
using ChatContent = std::variant<std::monostate, std::string, std::vector<ContentPart>>;

struct ChatMessage {
  std::string role;  // "system", "developer" (shown as "system"), "user", "assistant", "tool"
  ChatContent content = {};
  std::optional<std::string> reasoning_content = {};  // of an assistant's earlier turn
  std::vector<ChatToolCall> tool_calls = {};          // of an assistant's earlier turn
  std::optional<std::string> tool_call_id = {};       // of a tool's answer
  std::optional<std::string> name = {};
};

// A function the model may call.
struct ToolDefinition {
  std::string name;
  Json parameters =
      Json::object();  // JSON schema of the arguments' object; an empty object where none was given
  // The whole entry of `tools` as the client wrote it, {"type": "function", "function": {..}}: what the
  // template prints.
  Json definition = {};

  // An entry made of its parts, for fronts whose clients write tools another way (Anthropic).
  static ToolDefinition Make(std::string name, std::optional<std::string> description, Json parameters);
};

// All that a chat template sees of a request.
struct ChatRequest {
  std::vector<ChatMessage> messages;
  std::vector<ToolDefinition> tools = {};  // empty: the template is told that there are none
  // Further variables of the template (enable_thinking, reasoning_effort, ..). An object.
  Json template_kwargs = Json::object();
  bool add_generation_prompt = true;
  bool continue_final_message =
      false;  // the prompt ends inside the last message, which the model goes on with
};

// The `messages` array of OpenAI's chat completions. Unknown members are left out. `reasoning` is read as
// `reasoning_content`. REQ-001 (api_error.h: FactsOf(status).field is "messages[2].content") for a wrong
// shape, an unknown role, a part that is not text, arguments that are not a JSON object.
absl::StatusOr<std::vector<ChatMessage>> ChatMessagesFromJson(const Json& messages);

// The same array from messages: ChatMessagesFromJson reads it back.
Json ChatMessagesToJson(const std::vector<ChatMessage>& messages);

// The `tools` array of OpenAI's chat completions. REQ-001 names the field ("tools[0].function.name").
absl::StatusOr<std::vector<ToolDefinition>> ToolsFromJson(const Json& tools);

// Strict JSON, order kept, at most 128 levels deep. REQ-001 with the byte offset of the mistake and `field`.
absl::StatusOr<Json> ParseJson(std::string_view text, std::string_view field);

}  // namespace paceline
