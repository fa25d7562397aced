#include "coordinator/http/messages.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/http/answer_head.h"
#include "coordinator/http/api_problem.h"
#include "coordinator/http/chat_completions.h"
#include "coordinator/http/text_parts.h"
#include "coordinator/http/tool_choice.h"
#include "coordinator/http/usage.h"
#include "coordinator/sampling_defaults.h"

namespace paceline {
namespace {

// Thinking blocks come with a signature that clients send back. Nothing is signed here, and nothing checked.
constexpr char kSignature[] = "unsigned";
// A line that one client puts in front of its system prompt, different in every request: with it no prefix
// would ever be found again.
constexpr char kVolatileBlock[] = "x-anthropic-billing-header:";

std::string BlocksText(Fields& fields, const std::string& name, const Json& content) {
  static const TextPartKind kind = {"blocks", {"text"}, "text", "\n", kVolatileBlock};
  return ReadTextParts(fields, name, content, kind);
}

// One message of theirs is up to several of ours: results of tools are messages of their own.
void ReadMessage(Fields& fields, const std::string& name, const Json& json, std::vector<ChatMessage>* out) {
  Fields message(json, name + ".");
  ChatMessage own;
  own.role = message.Text("role").value_or("");
  if (own.role != "user" && own.role != "assistant")
    message.Refuse("role", absl::StrCat("expected user or assistant, got \"", own.role, "\""));
  const Json* content = message.Any("content");
  if (content == nullptr) message.Refuse("content", "expected a string or an array of blocks");
  fields.Fail(message.status());
  if (!fields.status().ok()) return;
  std::string text;
  if (!content->is_array()) text = BlocksText(fields, name + ".content", *content);
  for (size_t i = 0; content->is_array() && i < content->size(); ++i) {
    const Json& entry = (*content)[i];
    const std::string path = absl::StrCat(name, ".content[", i, "]");
    Fields block(entry, path + ".");
    const std::string type = block.Text("type").value_or("");
    if (type == "text") {
      absl::StrAppend(&text, text.empty() ? "" : "\n", block.Text("text").value_or(""));
    } else if (type == "thinking" && own.role == "assistant") {
      own.reasoning_content = own.reasoning_content.value_or("") + block.Text("thinking").value_or("");
    } else if (type == "redacted_thinking" && own.role == "assistant") {
      continue;
    } else if (type == "tool_use" && own.role == "assistant") {
      const Json* input = block.Object("input");
      own.tool_calls.push_back({block.Text("id").value_or(""), block.Text("name").value_or(""),
                                input == nullptr ? "{}" : Dump(*input)});
    } else if (type == "tool_result" && own.role == "user") {
      ChatMessage result;
      result.role = "tool";
      result.tool_call_id = block.Text("tool_use_id");
      const Json* inner = block.Any("content");
      result.content = inner == nullptr ? std::string() : BlocksText(fields, path + ".content", *inner);
      out->push_back(std::move(result));
    } else {
      block.Refuse("type", absl::StrCat("this model cannot read a block of type \"", type,
                                        "\" in a message of role ", own.role));
    }
    fields.Fail(block.status());
  }
  const bool only_results = content->is_array() && !content->empty() && text.empty() && own.role == "user";
  if (only_results) return;
  own.content = std::move(text);
  out->push_back(std::move(own));
}

void ReadTools(Fields& fields, std::vector<ToolDefinition>* out) {
  const Json* tools = fields.Array("tools");
  for (size_t i = 0; tools != nullptr && i < tools->size(); ++i) {
    Fields tool((*tools)[i], absl::StrCat("tools[", i, "]."));
    const std::string type = tool.Text("type").value_or("custom");
    if (type != "custom")
      tool.Refuse("type",
                  absl::StrCat("this server runs no tools of its own; expected custom, got \"", type, "\""));
    const std::optional<std::string> name = tool.Text("name");
    if (!name || name->empty()) tool.Refuse("name", "expected the tool's name");
    const Json* schema = tool.Object("input_schema");
    if (schema == nullptr) tool.Refuse("input_schema", "expected the JSON schema of the tool's input");
    std::optional<std::string> description = tool.Text("description");
    fields.Fail(tool.status());
    if (!fields.status().ok()) return;
    out->push_back(ToolDefinition::Make(*name, std::move(description), *schema));
  }
}

ToolChoice ReadChoice(Fields& fields) {
  ToolChoice choice;
  const Json* object = fields.Object("tool_choice");
  if (object == nullptr) return choice;
  Fields inner(*object, "tool_choice.");
  const std::string type = inner.Text("type").value_or("");
  choice.parallel = !inner.Bool("disable_parallel_tool_use").value_or(false);
  if (type == "none") {
    choice.mode = ToolMode::kNone;
  } else if (type == "any") {
    choice.mode = ToolMode::kRequired;
  } else if (type == "tool") {
    choice.mode = ToolMode::kRequired;
    choice.name = inner.Text("name").value_or("");
    if (choice.name.empty()) inner.Refuse("name", "expected the name of one of the tools");
  } else if (type != "auto") {
    inner.Refuse("type", absl::StrCat("expected auto, any, tool or none, got \"", type, "\""));
  }
  fields.Fail(inner.status());
  return choice;
}

absl::StatusOr<ChatRequest> ReadChat(Fields& fields) {
  ChatRequest chat;
  if (const Json* system = fields.Any("system")) {
    ChatMessage message;
    message.role = "system";
    message.content = BlocksText(fields, "system", *system);
    chat.messages.push_back(std::move(message));
  }
  const Json* messages = fields.Array("messages");
  if (messages == nullptr) fields.Refuse("messages", "expected an array of messages");
  for (size_t i = 0; messages != nullptr && i < messages->size(); ++i)
    ReadMessage(fields, absl::StrCat("messages[", i, "]"), (*messages)[i], &chat.messages);
  ReadTools(fields, &chat.tools);
  // Their models think when they are told to.
  chat.template_kwargs["enable_thinking"] = false;
  if (const Json* thinking = fields.Object("thinking")) {
    Fields inner(*thinking, "thinking.");
    const std::string type = inner.Text("type").value_or("");
    if (type != "enabled" && type != "adaptive" && type != "disabled")
      inner.Refuse("type", absl::StrCat("expected enabled, adaptive or disabled, got \"", type, "\""));
    chat.template_kwargs["enable_thinking"] = type != "disabled";
    fields.Fail(inner.status());
  }
  RETURN_IF_ERROR(fields.status());
  return chat;
}

struct MessageShape {
  bool stream = false;
  bool parallel = true;
  std::string request_id;
};

// A message is a row of blocks; a stream opens, fills and closes one after another.
class MessageReply final : public ReplyFormat {
 public:
  MessageReply(const ServedModel& model, MessageShape shape, OutputParserOptions parser)
      : id_("msg_" + RandomHex()), model_(model.name), shape_(std::move(shape)) {
    parser.id_seed = RandomSeed();
    parser_ = std::make_unique<OutputParser>(std::move(parser));
  }

  void Started(size_t, const GenerationStarted& started, std::string* out) override {
    totals_.Started(started, true);
    if (!shape_.stream) return;
    Json message = Message();
    Say("message_start", {{"message", std::move(message)}}, out);
  }
  void Tokens(size_t, std::vector<GeneratedToken> tokens, std::string* out) override {
    for (const GeneratedToken& token : tokens) {
      totals_.Token(parser_->in_reasoning());
      Hear(parser_->Feed(token.text), out);
    }
  }
  void Ended(size_t, const GenerationEnd& end, std::string* out) override {
    totals_.Ended(end);
    Hear(parser_->Finish(), out);
    Close(out);
    if (end.reason != FinishReason::kStop) {
      stop_reason_ = "max_tokens";
    } else if (end.match.stop_string) {
      stop_reason_ = "stop_sequence";
      stop_sequence_ = *end.match.stop_string;
    } else {
      stop_reason_ = called_ ? "tool_use" : "end_turn";
    }
  }
  void Finish(std::string* out) override {
    if (!shape_.stream) return out->append(Dump(Message())), void();
    Say("message_delta",
        {{"delta", {{"stop_reason", stop_reason_}, {"stop_sequence", stop_sequence_}}}, {"usage", Usage()}},
        out);
    Say("message_stop", Json::object(), out);
  }
  void Failed(const absl::Status& status, std::string* out) override {
    AppendNamedFrame("error", Dump(AnthropicErrorJson(Problem(status), shape_.request_id)), out);
  }
  HttpAnswer Refusal(const absl::Status& status) const override {
    return AnthropicError(Problem(status), shape_.request_id);
  }
  std::string_view heartbeat() const override { return "event: ping\ndata: {\"type\":\"ping\"}\n\n"; }

 private:
  static ApiProblem Problem(const absl::Status& status) {
    return ProblemOf(RenameField(status, AnthropicNames()));
  }

  Json Usage() const {
    return {{"input_tokens", totals_.prompt_tokens() - totals_.cached_tokens()},
            {"cache_creation_input_tokens", 0},
            {"cache_read_input_tokens", totals_.cached_tokens()},
            {"output_tokens", totals_.completion_tokens()}};
  }
  Json Message() const {
    return {{"id", id_},
            {"type", "message"},
            {"role", "assistant"},
            {"model", model_},
            {"content", blocks_},
            {"stop_reason", stop_reason_},
            {"stop_sequence", stop_sequence_},
            {"usage", Usage()}};
  }

  void Say(const char* event, Json members, std::string* out) const {
    Json frame = {{"type", event}};
    frame.update(members);
    AppendNamedFrame(event, Dump(frame), out);
  }
  void Delta(Json delta, std::string* out) {
    Say("content_block_delta", {{"index", index_}, {"delta", std::move(delta)}}, out);
  }

  void Open(const char* type, Json block, std::string* out) {
    if (open_ == type) return;
    Close(out);
    open_ = type;
    ++index_;
    text_.clear();
    block_ = block;
    if (shape_.stream)
      Say("content_block_start", {{"index", index_}, {"content_block", std::move(block)}}, out);
  }
  void Close(std::string* out) {
    if (open_.empty()) return;
    if (shape_.stream) {
      if (open_ == "thinking") Delta({{"type", "signature_delta"}, {"signature", kSignature}}, out);
      Say("content_block_stop", {{"index", index_}}, out);
    } else {
      if (open_ == "thinking") {
        block_["thinking"] = text_;
        block_["signature"] = kSignature;
      } else if (open_ == "text") {
        block_["text"] = text_;
      } else {
        block_["input"] = Json::parse(text_, nullptr, false);
        if (block_["input"].is_discarded()) block_["input"] = Json::object();
      }
      blocks_.push_back(std::move(block_));
    }
    open_.clear();
  }

  void Hear(std::vector<OutputEvent> events, std::string* out) {
    for (OutputEvent& event : events) {
      if (event.call > 0 && !shape_.parallel) continue;
      switch (event.kind) {
        case OutputEvent::Kind::kContent:
          Open("text", {{"type", "text"}, {"text", ""}}, out);
          if (shape_.stream) Delta({{"type", "text_delta"}, {"text", event.text}}, out);
          break;
        case OutputEvent::Kind::kReasoning:
          Open("thinking", {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}}, out);
          if (shape_.stream) Delta({{"type", "thinking_delta"}, {"thinking", event.text}}, out);
          break;
        case OutputEvent::Kind::kToolCallStart: {
          called_ = true;
          Close(out);
          // Their ids begin in another way.
          const std::string id =
              absl::StartsWith(event.id, "call_") ? "toolu_" + event.id.substr(5) : event.id;
          Open("tool_use",
               {{"type", "tool_use"}, {"id", id}, {"name", event.name}, {"input", Json::object()}}, out);
          break;
        }
        case OutputEvent::Kind::kToolCallArguments:
          if (shape_.stream) Delta({{"type", "input_json_delta"}, {"partial_json", event.text}}, out);
          break;
        case OutputEvent::Kind::kToolCallEnd:
          Close(out);
          break;
      }
      if (!open_.empty()) text_ += event.text;
    }
  }

  const std::string id_;
  const std::string model_;
  const MessageShape shape_;
  std::unique_ptr<OutputParser> parser_;
  Totals totals_;
  Json blocks_ = Json::array();  // closed ones, of an answer in one piece
  Json block_;                   // the open one
  std::string open_;             // its type
  std::string text_;             // of the open one
  int64_t index_ = -1;           // its number
  bool called_ = false;
  Json stop_reason_;
  Json stop_sequence_;
};

}  // namespace

FieldNames AnthropicNames() {
  return {{"stopping.stop_strings", "stop_sequences"},
          {"constraint", "tool_choice"},
          {"token_ids", "messages"},
          {"text", "messages"}};
}

absl::StatusOr<ReadRequest> ReadMessages(Fields& fields, const ServedModel& model,
                                         const ChatTemplate* chat_template, const std::string& request_id,
                                         bool strict) {
  GenerateRequest common;
  common.sampling.temperature = fields.Float("temperature");
  common.sampling.top_p = fields.Float("top_p");
  common.sampling.top_k = fields.Whole("top_k");
  common.stopping.stop_strings = fields.Texts("stop_sequences");
  common.stopping.max_tokens = fields.Whole("max_tokens");
  ReadSpeculation(fields, &common.speculation);
  ReadScheduling(fields, &common);
  if (!common.stopping.max_tokens) fields.Refuse("max_tokens", "expected the most tokens to generate");
  MessageShape shape;
  shape.stream = fields.Bool("stream").value_or(false);
  shape.request_id = request_id;
  for (const char* const ignored : {"model", "metadata", "service_tier", "container", "context_management"})
    fields.Ignore(ignored);
  const ToolChoice choice = ReadChoice(fields);
  shape.parallel = choice.parallel;
  ASSIGN_OR_RETURN(ChatRequest chat, ReadChat(fields));
  RETURN_IF_ERROR(CheckUnknown(fields, strict));
  ASSIGN_OR_RETURN(PreparedChat prepared,
                   PrepareChat(std::move(chat), choice, std::move(common), chat_template));
  ReadRequest read;
  read.call.stream = shape.stream;
  read.requests.push_back(std::move(prepared.request));
  read.format = std::make_unique<MessageReply>(model, std::move(shape), std::move(prepared.parser));
  return read;
}

absl::StatusOr<int64_t> CountMessageTokens(Fields& fields, const ServedModel& model,
                                           const ChatTemplate* chat_template) {
  const ToolChoice choice = ReadChoice(fields);
  ASSIGN_OR_RETURN(ChatRequest chat, ReadChat(fields));
  ASSIGN_OR_RETURN(const PreparedChat prepared, PrepareChat(std::move(chat), choice, {}, chat_template));
  if (model.tokenizer == nullptr)
    return FieldError("messages", "this model has no tokenizer, so its prompts cannot be counted");
  ASSIGN_OR_RETURN(const std::vector<TokenId> ids,
                   model.tokenizer->Encode(std::get<std::string>(prepared.request.input)));
  return static_cast<int64_t>(ids.size());
}

}  // namespace paceline
