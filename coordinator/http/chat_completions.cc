#include "coordinator/http/chat_completions.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/http/answer_head.h"
#include "coordinator/http/api_problem.h"
#include "coordinator/http/choices_envelope.h"
#include "coordinator/http/tool_grammar.h"
#include "coordinator/sampling_defaults.h"

namespace paceline {
namespace {

struct ChatShape {
  StreamOptions stream;
  bool logprobs = false;
  bool prompt_logprobs = false;
  bool token_ids = false;
  bool parallel_tool_calls = true;
  std::vector<TokenId> stops;  // ids that end a text and show nothing
};

struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;
};

class ChatReply final : public ReplyFormat {
 public:
  ChatReply(AnswerHead head, ChatShape shape, const Tokenizer* tokenizer, const OutputParserOptions& parser,
            size_t choices)
      : envelope_(std::move(head), shape.stream, choices), shape_(std::move(shape)), tokenizer_(tokenizer) {
    choices_.resize(choices);
    for (Choice& choice : choices_) {
      OutputParserOptions own = parser;
      own.id_seed = RandomSeed();
      choice.parser = std::make_unique<OutputParser>(std::move(own));
    }
  }

  void Started(size_t index, const GenerationStarted& started, std::string* out) override {
    envelope_.totals().Started(started, index == 0);
    if (index == 0 && shape_.token_ids) prompt_ = started.prompt;
    // Some clients take a first delta without content for a broken one.
    if (shape_.stream.stream) Frame(index, {{"role", "assistant"}, {"content", ""}}, out);
  }

  void Prompt(size_t index, std::vector<PromptToken> tokens, std::string*) override {
    if (index == 0) prompt_logprobs_ = PromptLogprobs(tokenizer_, tokens);  // all choices have one prompt
  }

  void Tokens(size_t index, std::vector<GeneratedToken> tokens, std::string* out) override {
    Choice& choice = choices_[index];
    for (GeneratedToken& token : tokens) {
      envelope_.totals().Token(choice.parser->in_reasoning());
      const bool ends = std::count(shape_.stops.begin(), shape_.stops.end(), token.id) > 0;
      if (shape_.token_ids) choice.ids.push_back(token.id);
      if (shape_.logprobs && !ends) choice.logged.push_back(LogprobEntry(tokenizer_, token));
      Hear(choice, choice.parser->Feed(token.text));
      if (!shape_.stream.stream) continue;
      // A token that completes nothing still has its frame: benches count frames as tokens. Inside a call's
      // form there is nothing to say.
      if (choice.deltas.empty() && !ends && choice.parser->calls() == 0)
        choice.deltas.push_back({{"content", ""}});
      if (++choice.gathered >= shape_.stream.interval) SayDeltas(index, out);
    }
  }

  void Ended(size_t index, const GenerationEnd& end, std::string* out) override {
    envelope_.totals().Ended(end);
    Choice& choice = choices_[index];
    Hear(choice, choice.parser->Finish());
    const bool called = !choice.calls.empty() && end.reason == FinishReason::kStop;
    choice.finish = called ? "tool_calls" : FinishReasonWord(end.reason);
    choice.stop_reason = StopReason(end.match);
    if (!shape_.stream.stream) return;
    SayDeltas(index, out);
    Frame(index, Json::object(), out, &choice.finish);
  }

  void Finish(std::string* out) override {
    if (shape_.stream.stream) return envelope_.EndStream(out);
    Json choices = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) choices.push_back(Whole(i));
    Json body = envelope_.Begin(std::move(choices));
    if (shape_.token_ids) body["prompt_token_ids"] = prompt_;
    if (shape_.prompt_logprobs) body["prompt_logprobs"] = std::move(prompt_logprobs_);
    envelope_.AddTotals(&body);
    out->append(Dump(body));
  }

  void Failed(const absl::Status& status, std::string* out) override {
    AppendFrame(Dump(OpenAiErrorJson(ProblemOf(RenameField(status, OpenAiNames("messages"))))), out);
  }
  HttpAnswer Refusal(const absl::Status& status) const override {
    return OpenAiError(ProblemOf(RenameField(status, OpenAiNames("messages"))));
  }

 private:
  struct Choice {
    std::unique_ptr<OutputParser> parser;
    std::string content;
    std::string reasoning;
    std::vector<ToolCall> calls;
    Json logged = Json::array();  // since the last frame, or all
    std::vector<TokenId> ids;     // the same
    std::vector<Json> deltas;     // of a stream, not said yet
    int64_t gathered = 0;         // tokens since the last frame
    std::string finish;
    Json stop_reason;
  };

  // Keeps what the parser found: as deltas of a stream, or as parts of the message.
  void Hear(Choice& choice, std::vector<OutputEvent> events) {
    for (OutputEvent& event : events) {
      if (event.call > 0 && !shape_.parallel_tool_calls) continue;
      const bool stream = shape_.stream.stream;
      switch (event.kind) {
        case OutputEvent::Kind::kContent:
          stream ? AddText(choice, {"content"}, event.text) : void(choice.content += event.text);
          break;
        case OutputEvent::Kind::kReasoning:
          stream ? AddText(choice, {"reasoning_content", "reasoning"}, event.text)
                 : void(choice.reasoning += event.text);
          break;
        case OutputEvent::Kind::kToolCallStart:
          choice.calls.push_back({event.id, event.name, ""});
          if (stream) {
            choice.deltas.push_back({{"tool_calls",
                                      {{{"index", event.call},
                                        {"id", event.id},
                                        {"type", "function"},
                                        {"function", {{"name", event.name}, {"arguments", ""}}}}}}});
          }
          break;
        case OutputEvent::Kind::kToolCallArguments:
          if (stream) {
            choice.deltas.push_back(
                {{"tool_calls", {{{"index", event.call}, {"function", {{"arguments", event.text}}}}}}});
          } else {
            choice.calls.back().arguments += event.text;
          }
          break;
        case OutputEvent::Kind::kToolCallEnd:
          break;
      }
    }
  }
  // Text joins a delta of its own kind.
  static void AddText(Choice& choice, std::initializer_list<const char*> names, const std::string& text) {
    if (choice.deltas.empty() || choice.deltas.back().size() != names.size() ||
        !choice.deltas.back().contains(*names.begin())) {
      choice.deltas.emplace_back(Json::object());
      for (const char* const name : names) choice.deltas.back()[name] = "";
    }
    for (const char* const name : names)
      choice.deltas.back()[name] = choice.deltas.back()[name].get_ref<const std::string&>() + text;
  }

  void SayDeltas(size_t index, std::string* out) {
    Choice& choice = choices_[index];
    for (Json& delta : choice.deltas) Frame(index, std::move(delta), out);
    choice.deltas.clear();
    choice.gathered = 0;
  }

  void Frame(size_t index, Json delta, std::string* out, const std::string* finish = nullptr) {
    Choice& choice = choices_[index];
    Json one = {{"index", index}, {"delta", std::move(delta)}};
    one["logprobs"] = choice.logged.empty() ? Json(nullptr)
                                            : Json{{"content", std::exchange(choice.logged, Json::array())}};
    one["finish_reason"] = finish == nullptr ? Json(nullptr) : Json(*finish);
    if (finish != nullptr) one["stop_reason"] = choice.stop_reason;
    if (shape_.token_ids) one["token_ids"] = std::exchange(choice.ids, {});
    Json frame = envelope_.Begin(Json::array({std::move(one)}));
    if (shape_.token_ids && !prompt_.empty()) frame["prompt_token_ids"] = std::exchange(prompt_, {});
    envelope_.EndFrame(finish != nullptr, &frame);
    AppendFrame(Dump(frame), out);
  }

  Json Whole(size_t index) {
    Choice& choice = choices_[index];
    Json message = {{"role", "assistant"}};
    message["content"] =
        choice.content.empty() && !choice.calls.empty() ? Json(nullptr) : Json(choice.content);
    message["refusal"] = nullptr;
    if (!choice.reasoning.empty()) {
      message["reasoning_content"] = choice.reasoning;
      message["reasoning"] = choice.reasoning;
    }
    for (const ToolCall& call : choice.calls) {
      message["tool_calls"].push_back({{"id", call.id},
                                       {"type", "function"},
                                       {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    }
    Json one = {{"index", index}, {"message", std::move(message)}};
    one["logprobs"] = shape_.logprobs ? Json{{"content", std::move(choice.logged)}} : Json(nullptr);
    one["finish_reason"] = choice.finish;
    one["stop_reason"] = choice.stop_reason;
    if (shape_.token_ids) one["token_ids"] = choice.ids;
    return one;
  }

  ChoicesEnvelope envelope_;
  const ChatShape shape_;
  const Tokenizer* const tokenizer_;
  std::vector<Choice> choices_;
  std::vector<TokenId> prompt_;
  Json prompt_logprobs_;
};

void ReadTemplateOptions(Fields& fields, ChatRequest* chat) {
  if (const Json* kwargs = fields.Object("chat_template_kwargs")) chat->template_kwargs = *kwargs;
  if (auto effort = fields.Text("reasoning_effort")) {
    Json& kwargs = chat->template_kwargs;
    if (*effort == "none" && !kwargs.contains("enable_thinking")) kwargs["enable_thinking"] = false;
    if (!kwargs.contains("reasoning_effort")) kwargs["reasoning_effort"] = *std::move(effort);
  }
  chat->continue_final_message = fields.Bool("continue_final_message").value_or(false);
  chat->add_generation_prompt = fields.Bool("add_generation_prompt").value_or(!chat->continue_final_message);
}

void ReadChatLogprobs(Fields& fields, GenerateRequest* request) {
  request->logprobs = fields.Bool("logprobs").value_or(false);
  const std::optional<int64_t> top = fields.Whole("top_logprobs");
  if (!top) return;
  if (*top > 0 && !request->logprobs) fields.Refuse("top_logprobs", "needs logprobs: true beside it");
  // The engine knows the upper bound.
  request->top = static_cast<int32_t>(std::clamp<int64_t>(*top, -1, 1 << 20));
}

}  // namespace

absl::StatusOr<PreparedChat> PrepareChat(ChatRequest chat, const ToolChoice& choice, GenerateRequest request,
                                         const ChatTemplate* chat_template) {
  if (chat_template == nullptr)
    return FieldError("messages", "this model has no chat template; send its prompt to /v1/completions");
  PreparedChat prepared;
  if (choice.mode == ToolMode::kNone) chat.tools.clear();
  ASSIGN_OR_RETURN(ChatPrompt prompt, chat_template->Apply(chat));
  prepared.parser.starts_in_reasoning = prompt.starts_in_reasoning;
  prepared.parser.parse_tools = !chat.tools.empty();
  prepared.parser.tools = chat.tools;
  if (choice.mode == ToolMode::kRequired) {
    const bool known =
        std::any_of(chat.tools.begin(), chat.tools.end(),
                    [&choice](const ToolDefinition& tool) { return tool.name == choice.name; });
    if (chat.tools.empty() || (!choice.name.empty() && !known)) {
      return FieldError("tool_choice", choice.name.empty()
                                           ? "a call is required, but there are no tools to call"
                                           : absl::StrCat("there is no tool named ", choice.name));
    }
    if (request.constraint.kind != ConstraintSpec::Kind::kNone) {
      return FieldError("tool_choice", "the text cannot be a call and follow response_format; leave out one");
    }
    request.constraint.kind = ConstraintSpec::Kind::kEbnf;
    request.constraint.text = ToolCallGrammar(chat.tools, choice.name, choice.parallel);
  }
  request.input = std::move(prompt.text);
  prepared.request = std::move(request);
  return prepared;
}

absl::StatusOr<ReadRequest> ReadChatCompletion(Fields& fields, const ServedModel& model,
                                               const ChatTemplate* chat_template, bool strict) {
  ChatShape shape;
  ChatRequest chat;
  GenerateRequest common;
  ReadSampling(fields, &common.sampling);
  ReadStopping(fields, &common.stopping);
  ReadSpeculation(fields, &common.speculation);
  ReadScheduling(fields, &common);
  ReadConstraint(fields, &common.constraint);
  ReadChatLogprobs(fields, &common);
  ReadTemplateOptions(fields, &chat);
  shape.stream = ReadStream(fields);
  shape.logprobs = common.logprobs;
  shape.prompt_logprobs = ReadPromptLogprobs(fields, shape.stream.stream, &common);
  shape.token_ids = fields.Bool("return_token_ids").value_or(false);
  shape.parallel_tool_calls = fields.Bool("parallel_tool_calls").value_or(true);
  const int64_t n = ReadChoices(fields);
  ToolChoice choice = ReadToolChoice(fields, ToolNameAt::kFunction);
  choice.parallel = shape.parallel_tool_calls && choice.name.empty();
  for (const char* const ignored : {"model", "user", "metadata", "store", "service_tier", "prompt_cache_key",
                                    "safety_identifier", "verbosity"}) {
    fields.Ignore(ignored);
  }
  const Json* messages = fields.Array("messages");
  const Json* tools = fields.Array("tools");
  if (messages == nullptr) fields.Refuse("messages", "expected an array of messages");
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(CheckUnknown(fields, strict));
  ASSIGN_OR_RETURN(chat.messages, ChatMessagesFromJson(*messages));
  if (tools != nullptr) {
    ASSIGN_OR_RETURN(chat.tools, ToolsFromJson(*tools));
  }
  if (!common.stopping.ignore_eos) shape.stops = model.eos_token_ids;
  ASSIGN_OR_RETURN(PreparedChat prepared,
                   PrepareChat(std::move(chat), choice, std::move(common), chat_template));

  ReadRequest read;
  ASSIGN_OR_RETURN(read.requests, RequestsOf(std::move(prepared.request), n, model.tokenizer));
  for (size_t i = 1; i < read.requests.size(); ++i) read.requests[i].prompt_top.reset();
  read.call.stream = shape.stream.stream;
  const char* const object = shape.stream.stream ? "chat.completion.chunk" : "chat.completion";
  read.format =
      std::make_unique<ChatReply>(AnswerHead::Make("chatcmpl-", object, model.name, model.fingerprint),
                                  std::move(shape), model.tokenizer, prepared.parser, read.requests.size());
  return read;
}

}  // namespace paceline
