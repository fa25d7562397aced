#include "coordinator/http/responses.h"

#include <utility>

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

std::string PartsText(Fields& fields, const std::string& name, const Json& content) {
  static const TextPartKind kind = {"parts",
                                    {"input_text", "output_text", "text", "reasoning_text", "summary_text"},
                                    "input_text or output_text",
                                    "",
                                    {}};
  return ReadTextParts(fields, name, content, kind);
}

// Items stand one after another; what an assistant did in one turn (thought, said, called) is one message.
class ItemReader {
 public:
  ItemReader(Fields& fields, std::vector<ChatMessage>* out) : fields_(fields), out_(out) {}

  void Read(const std::string& name, const Json& json) {
    Fields item(json, name + ".");
    const std::string type = item.Text("type").value_or("message");
    if (type == "message") {
      ChatMessage message;
      message.role = item.Text("role").value_or("");
      const Json* content = item.Any("content");
      if (content == nullptr) item.Refuse("content", "expected a string or an array of parts");
      std::string text = content == nullptr ? "" : PartsText(fields_, name + ".content", *content);
      if (message.role == "assistant") {
        ChatMessage& turn = Turn();
        turn.content = std::move(text);
      } else if (message.role == "user" || message.role == "system" || message.role == "developer") {
        message.content = std::move(text);
        out_->push_back(std::move(message));
      } else {
        item.Refuse("role", absl::StrCat("expected user, assistant, system or developer, got \"",
                                         message.role, "\""));
      }
    } else if (type == "reasoning") {
      const Json* content = item.Any("content");
      if (content != nullptr) Turn().reasoning_content = PartsText(fields_, name + ".content", *content);
    } else if (type == "function_call") {
      Turn().tool_calls.push_back({item.Text("call_id").value_or(""), item.Text("name").value_or(""),
                                   item.Text("arguments").value_or("{}")});
    } else if (type == "function_call_output") {
      ChatMessage result;
      result.role = "tool";
      result.tool_call_id = item.Text("call_id");
      const Json* output = item.Any("output");
      result.content = output == nullptr ? std::string() : PartsText(fields_, name + ".output", *output);
      out_->push_back(std::move(result));
    } else {
      item.Refuse("type", absl::StrCat("this server cannot read an item of type \"", type, "\""));
    }
    fields_.Fail(item.status());
  }

 private:
  ChatMessage& Turn() {
    if (out_->empty() || out_->back().role != "assistant") {
      out_->emplace_back();
      out_->back().role = "assistant";
    }
    return out_->back();
  }

  Fields& fields_;
  std::vector<ChatMessage>* const out_;
};

void ReadInput(Fields& fields, std::vector<ChatMessage>* out) {
  if (auto instructions = fields.Text("instructions")) out->push_back({"system", *std::move(instructions)});
  const Json* input = fields.Any("input");
  if (input == nullptr) {
    fields.Refuse("input", "expected a text or an array of items");
  } else if (input->is_string()) {
    out->push_back({"user", input->get<std::string>()});
  } else if (input->is_array()) {
    ItemReader reader(fields, out);
    for (size_t i = 0; i < input->size(); ++i) reader.Read(absl::StrCat("input[", i, "]"), (*input)[i]);
  } else {
    fields.Refuse("input", absl::StrCat("expected a text or an array of items, got ", KindOf(*input)));
  }
}

void ReadTools(Fields& fields, std::vector<ToolDefinition>* out) {
  const Json* tools = fields.Array("tools");
  for (size_t i = 0; tools != nullptr && i < tools->size(); ++i) {
    Fields tool((*tools)[i], absl::StrCat("tools[", i, "]."));
    const std::string type = tool.Text("type").value_or("");
    if (type != "function")
      tool.Refuse("type", absl::StrCat("this server runs no tools of its own; expected function, got \"",
                                       type, "\""));
    const std::optional<std::string> name = tool.Text("name");
    if (!name || name->empty()) tool.Refuse("name", "expected the function's name");
    const Json* parameters = tool.Object("parameters");
    std::optional<std::string> description = tool.Text("description");
    fields.Fail(tool.status());
    if (!fields.status().ok()) return;
    out->push_back(ToolDefinition::Make(*name, std::move(description),
                                        parameters == nullptr ? Json::object() : *parameters));
  }
}

void ReadFormat(Fields& fields, ConstraintSpec* constraint) {
  const Json* text = fields.Object("text");
  if (text == nullptr) return;
  Fields outer(*text, "text.");
  if (const Json* format = outer.Object("format")) {
    Fields inner(*format, "text.format.");
    const std::string type = inner.Text("type").value_or("");
    if (type == "json_object") {
      constraint->kind = ConstraintSpec::Kind::kJsonObject;
    } else if (type == "json_schema") {
      const Json* schema = inner.Any("schema");
      if (schema == nullptr) inner.Refuse("schema", "expected the JSON schema of the answer");
      constraint->kind = ConstraintSpec::Kind::kJsonSchema;
      if (schema != nullptr) constraint->text = Dump(*schema);
    } else if (type != "text") {
      inner.Refuse("type", absl::StrCat("expected text, json_object or json_schema, got \"", type, "\""));
    }
    outer.Fail(inner.status());
  }
  fields.Fail(outer.status());
}

// What a response repeats of its request.
Json EchoOf(Fields& fields, const StoppingOptions& stopping) {
  const auto or_else = [&fields](const char* name, Json fallback) {
    const Json* value = fields.Any(name);
    return value == nullptr ? std::move(fallback) : *value;
  };
  Json echo = {{"instructions", or_else("instructions", nullptr)},
               {"max_output_tokens", stopping.max_tokens ? Json(*stopping.max_tokens) : Json(nullptr)},
               {"metadata", or_else("metadata", Json::object())},
               {"parallel_tool_calls", or_else("parallel_tool_calls", true)},
               {"previous_response_id", nullptr},
               {"reasoning", or_else("reasoning", {{"effort", nullptr}, {"summary", nullptr}})},
               {"store", false},
               {"temperature", or_else("temperature", nullptr)},
               {"text", or_else("text", {{"format", {{"type", "text"}}}})},
               {"tool_choice", or_else("tool_choice", "auto")},
               {"tools", or_else("tools", Json::array())},
               {"top_p", or_else("top_p", nullptr)},
               {"truncation", "disabled"},
               {"background", false},
               {"user", or_else("user", nullptr)}};
  return echo;
}

struct ResponseShape {
  bool stream = false;
  bool parallel = true;
  Json echo;
};

// A response is a row of items: reasoning, a message, calls. A stream opens, fills and closes one after
// another, every event numbered.
class ResponseReply final : public ReplyFormat {
 public:
  ResponseReply(const ServedModel& model, ResponseShape shape, OutputParserOptions parser)
      : id_("resp_" + RandomHex()), model_(model.name), created_(UnixSeconds()), shape_(std::move(shape)) {
    parser.id_seed = RandomSeed();
    parser_ = std::make_unique<OutputParser>(std::move(parser));
  }

  void Started(size_t, const GenerationStarted& started, std::string* out) override {
    totals_.Started(started, true);
    Say("response.created", {{"response", Response("in_progress")}}, out);
    Say("response.in_progress", {{"response", Response("in_progress")}}, out);
  }
  void Tokens(size_t, std::vector<GeneratedToken> tokens, std::string* out) override {
    for (const GeneratedToken& token : tokens) {
      totals_.Token(parser_->in_reasoning());
      Hear(parser_->Feed(token.text), out);
    }
  }
  void Ended(size_t, const GenerationEnd& end, std::string* out) override {
    totals_.Ended(end);
    complete_ = end.reason == FinishReason::kStop;
    Hear(parser_->Finish(), out);
    Close(complete_ ? "completed" : "incomplete", out);
  }
  void Finish(std::string* out) override {
    Json response = Response(complete_ ? "completed" : "incomplete");
    if (!shape_.stream) return out->append(Dump(response)), void();
    Say(complete_ ? "response.completed" : "response.incomplete", {{"response", std::move(response)}}, out);
  }
  void Failed(const absl::Status& status, std::string* out) override {
    const ApiProblem problem = Problem(status);
    // Clients that know the API read the first, those that look for "error" in any frame the second.
    Json response = Response("failed");
    response["error"] = {{"code", problem.code.empty() ? "server_error" : problem.code},
                         {"message", problem.message}};
    Say("response.failed", {{"response", std::move(response)}}, out);
    AppendFrame(Dump(OpenAiErrorJson(problem)), out);
  }
  HttpAnswer Refusal(const absl::Status& status) const override { return OpenAiError(Problem(status)); }

 private:
  static ApiProblem Problem(const absl::Status& status) {
    FieldNames names = OpenAiNames("input");
    names["stopping.max_tokens"] = "max_output_tokens";
    names["constraint"] = "text.format";
    return ProblemOf(RenameField(status, names));
  }

  Json Response(const char* status) const {
    const std::string_view word = status;
    Json json = {{"id", id_}, {"object", "response"}, {"created_at", created_}, {"status", status}};
    json["error"] = nullptr;
    json["incomplete_details"] = word == "incomplete" ? Json{{"reason", "max_output_tokens"}} : Json(nullptr);
    json["model"] = model_;
    json["output"] = items_;
    json.update(shape_.echo);
    json["usage"] = nullptr;
    if (word == "completed" || word == "incomplete") {
      json["usage"] = {{"input_tokens", totals_.prompt_tokens()},
                       {"input_tokens_details", {{"cached_tokens", totals_.cached_tokens()}}},
                       {"output_tokens", totals_.completion_tokens()},
                       {"output_tokens_details", {{"reasoning_tokens", totals_.reasoning_tokens()}}},
                       {"total_tokens", totals_.prompt_tokens() + totals_.completion_tokens()}};
      json["timings"] = totals_.Timings();
      json["metrics"] = totals_.Metrics();
    }
    return json;
  }

  void Say(const char* event, Json members, std::string* out) {
    if (!shape_.stream) return;
    Json frame = {{"type", event}};
    frame["sequence_number"] = sequence_++;
    frame.update(members);
    AppendNamedFrame(event, Dump(frame), out);
  }
  // Events about the open item.
  Json Place() const { return {{"item_id", item_["id"]}, {"output_index", items_.size()}}; }
  Json PartPlace() const {
    Json place = Place();
    place["content_index"] = 0;
    return place;
  }
  static Json With(Json json, const Json& more) {
    json.update(more);
    return json;
  }
  Json Part() const {
    if (open_ == Kind::kReasoning) return {{"type", "reasoning_text"}, {"text", text_}};
    return {{"type", "output_text"},
            {"text", text_},
            {"annotations", Json::array()},
            {"logprobs", Json::array()}};
  }

  enum class Kind : uint8_t { kNone, kReasoning, kMessage, kCall };

  // `prefix` of the item's id.
  void Open(Kind kind, const char* prefix, Json members, std::string* out) {
    if (open_ == kind && kind != Kind::kCall) return;
    Close("completed", out);
    open_ = kind;
    item_ = {{"id", prefix + RandomHex()}};
    item_.update(members);
    item_["status"] = "in_progress";
    text_.clear();
    Say("response.output_item.added", {{"output_index", items_.size()}, {"item", item_}}, out);
    if (kind != Kind::kCall) Say("response.content_part.added", With(PartPlace(), {{"part", Part()}}), out);
  }

  void Close(const char* status, std::string* out) {
    switch (open_) {
      case Kind::kNone:
        return;
      case Kind::kReasoning:
        Say("response.reasoning_text.done", With(PartPlace(), {{"text", text_}}), out);
        break;
      case Kind::kMessage:
        Say("response.output_text.done", With(PartPlace(), {{"text", text_}, {"logprobs", Json::array()}}),
            out);
        break;
      case Kind::kCall:
        Say("response.function_call_arguments.done",
            With(Place(), {{"name", item_["name"]}, {"arguments", text_}}), out);
        item_["arguments"] = text_;
        break;
    }
    if (open_ != Kind::kCall) {
      Say("response.content_part.done", With(PartPlace(), {{"part", Part()}}), out);
      item_["content"] = Json::array({Part()});
    }
    item_["status"] = status;
    Say("response.output_item.done", {{"output_index", items_.size()}, {"item", item_}}, out);
    items_.push_back(std::move(item_));
    item_ = nullptr;
    open_ = Kind::kNone;
  }

  void Hear(std::vector<OutputEvent> events, std::string* out) {
    for (OutputEvent& event : events) {
      if (event.call > 0 && !shape_.parallel) continue;
      const char* said = nullptr;
      switch (event.kind) {
        case OutputEvent::Kind::kReasoning:
          Open(Kind::kReasoning, "rs_",
               {{"type", "reasoning"}, {"summary", Json::array()}, {"content", Json::array()}}, out);
          said = "response.reasoning_text.delta";
          break;
        case OutputEvent::Kind::kContent:
          Open(Kind::kMessage, "msg_",
               {{"type", "message"}, {"role", "assistant"}, {"content", Json::array()}}, out);
          said = "response.output_text.delta";
          break;
        case OutputEvent::Kind::kToolCallStart:
          Open(Kind::kCall, "fc_",
               {{"type", "function_call"}, {"call_id", event.id}, {"name", event.name}, {"arguments", ""}},
               out);
          continue;
        case OutputEvent::Kind::kToolCallArguments:
          text_ += event.text;
          Say("response.function_call_arguments.delta", With(Place(), {{"delta", event.text}}), out);
          continue;
        case OutputEvent::Kind::kToolCallEnd:
          Close("completed", out);
          continue;
      }
      text_ += event.text;
      Json delta = With(PartPlace(), {{"delta", event.text}});
      if (event.kind == OutputEvent::Kind::kContent) delta["logprobs"] = Json::array();
      Say(said, std::move(delta), out);
    }
  }

  const std::string id_;
  const std::string model_;
  const int64_t created_;
  const ResponseShape shape_;
  std::unique_ptr<OutputParser> parser_;
  Totals totals_;
  Json items_ = Json::array();  // closed ones
  Json item_;                   // the open one
  std::string text_;            // its text or arguments so far
  Kind open_ = Kind::kNone;
  int64_t sequence_ = 0;
  bool complete_ = false;
};

}  // namespace

absl::StatusOr<ReadRequest> ReadResponse(Fields& fields, const ServedModel& model,
                                         const ChatTemplate* chat_template, bool strict) {
  GenerateRequest common;
  ChatRequest chat;
  ResponseShape shape;
  ReadSampling(fields, &common.sampling);
  ReadSpeculation(fields, &common.speculation);
  ReadScheduling(fields, &common);
  common.stopping.max_tokens = fields.Whole("max_output_tokens");
  ReadFormat(fields, &common.constraint);
  shape.stream = fields.Bool("stream").value_or(false);
  shape.parallel = fields.Bool("parallel_tool_calls").value_or(true);
  ToolChoice choice = ReadToolChoice(fields, ToolNameAt::kItself);
  choice.parallel = shape.parallel && choice.name.empty();
  ReadTools(fields, &chat.tools);
  ReadInput(fields, &chat.messages);
  for (const char* const stateful : {"previous_response_id", "conversation", "prompt"}) {
    if (fields.Any(stateful) != nullptr)
      fields.Refuse(stateful, "this server stores nothing; send the whole conversation as input");
  }
  if (fields.Bool("background").value_or(false))
    fields.Refuse("background",
                  "this server stores nothing, so it cannot answer later; leave background out");
  if (const Json* reasoning = fields.Object("reasoning")) {
    const std::optional<std::string> effort = Fields(*reasoning).Text("effort");
    if (effort) chat.template_kwargs["reasoning_effort"] = *effort;
    if (effort == "none") chat.template_kwargs["enable_thinking"] = false;
  }
  if (const Json* kwargs = fields.Object("chat_template_kwargs")) chat.template_kwargs.update(*kwargs);
  for (const char* const ignored : {"model", "include", "service_tier", "store", "stream_options",
                                    "truncation", "prompt_cache_key", "safety_identifier", "max_tool_calls"})
    fields.Ignore(ignored);
  shape.echo = EchoOf(fields, common.stopping);
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(CheckUnknown(fields, strict));
  ASSIGN_OR_RETURN(PreparedChat prepared,
                   PrepareChat(std::move(chat), choice, std::move(common), chat_template));
  ReadRequest read;
  read.call.stream = shape.stream;
  read.requests.push_back(std::move(prepared.request));
  read.format = std::make_unique<ResponseReply>(model, std::move(shape), std::move(prepared.parser));
  return read;
}

}  // namespace paceline
