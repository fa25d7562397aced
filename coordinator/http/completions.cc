#include "coordinator/http/completions.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/http/answer_head.h"
#include "coordinator/http/api_problem.h"
#include "coordinator/http/choices_envelope.h"

namespace paceline {
namespace {

constexpr int64_t kMaxLogprobs = 5;  // OpenAI's bound of this endpoint

struct CompletionShape {
  StreamOptions stream;
  int64_t n = 1;
  bool logprobs = false;
  bool prompt_logprobs = false;
  bool token_ids = false;
  std::vector<std::string> echo;  // by prompt; empty: off
  std::vector<TokenId> stops;     // ids that end a text and show nothing
};

class CompletionReply final : public ReplyFormat {
 public:
  CompletionReply(AnswerHead head, CompletionShape shape, const Tokenizer* tokenizer, size_t choices)
      : envelope_(std::move(head), shape.stream, choices),
        shape_(std::move(shape)),
        tokenizer_(tokenizer),
        choices_(choices) {}

  void Started(size_t index, const GenerationStarted& started, std::string* out) override {
    const auto n = static_cast<size_t>(shape_.n);
    envelope_.totals().Started(started, index % n == 0);
    Choice& choice = choices_[index];
    if (shape_.token_ids) choice.prompt = started.prompt;
    if (shape_.echo.empty()) return;
    choice.text = shape_.echo[index / n];
    if (shape_.logprobs) return;  // the echo has some too: see Prompt
    choice.offset = static_cast<int64_t>(choice.text.size());
    if (shape_.stream.stream) Frame(index, nullptr, out);
  }

  void Prompt(size_t index, std::vector<PromptToken> tokens, std::string* out) override {
    Choice& choice = choices_[index];
    if (shape_.prompt_logprobs) choice.prompt_logprobs = PromptLogprobs(tokenizer_, tokens);
    if (shape_.echo.empty() || !shape_.logprobs) return;
    for (PromptToken& token : tokens)
      choice.logged.push_back({token.id, token.logprob, std::move(token.top)});
    if (shape_.stream.stream) Frame(index, nullptr, out);
  }

  void Tokens(size_t index, std::vector<GeneratedToken> tokens, std::string* out) override {
    Choice& choice = choices_[index];
    for (GeneratedToken& token : tokens) {
      envelope_.totals().Token(false);
      choice.text += token.text;
      if (shape_.token_ids) choice.ids.push_back(token.id);
      const bool ends = std::count(shape_.stops.begin(), shape_.stops.end(), token.id) > 0;
      if (!ends && shape_.logprobs)
        choice.logged.push_back({token.id, token.logprob.value_or(0.0f), std::move(token.top)});
      if (shape_.stream.stream && (!ends || !choice.text.empty()) &&
          ++choice.gathered >= shape_.stream.interval)
        Frame(index, nullptr, out);
    }
  }

  void Ended(size_t index, const GenerationEnd& end, std::string* out) override {
    envelope_.totals().Ended(end);
    Choice& choice = choices_[index];
    choice.finish = FinishReasonWord(end.reason);
    choice.stop_reason = StopReason(end.match);
    if (shape_.stream.stream) Frame(index, &choice.finish, out);
  }

  void Finish(std::string* out) override {
    if (shape_.stream.stream) return envelope_.EndStream(out);
    Json choices = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) choices.push_back(ChoiceJson(i, &choices_[i].finish));
    Json body = envelope_.Begin(std::move(choices));
    envelope_.AddTotals(&body);
    out->append(Dump(body));
  }

  void Failed(const absl::Status& status, std::string* out) override {
    AppendFrame(Dump(OpenAiErrorJson(ProblemOf(RenameField(status, OpenAiNames("prompt"))))), out);
  }
  HttpAnswer Refusal(const absl::Status& status) const override {
    FieldNames names = OpenAiNames("prompt");
    names["response.output_logprobs"] = "logprobs";
    return OpenAiError(ProblemOf(RenameField(status, names)));
  }

 private:
  struct Logged {
    TokenId id = 0;
    std::optional<float> logprob;  // none: of a prompt's first token
    std::vector<Candidate> top;
  };
  struct Choice {
    std::string text;  // since the last frame, or all of it
    std::vector<Logged> logged;
    Json prompt_logprobs;
    std::vector<TokenId> ids;
    std::vector<TokenId> prompt;
    int64_t offset = 0;    // of the next token in the text, in bytes
    int64_t gathered = 0;  // tokens since the last frame
    std::string finish;
    Json stop_reason;
  };

  Json Logprobs(Choice& choice) const {
    Json lists = {{"tokens", Json::array()},
                  {"token_logprobs", Json::array()},
                  {"top_logprobs", Json::array()},
                  {"text_offset", Json::array()}};
    for (const Logged& token : choice.logged) {
      const std::string text = TokenText(tokenizer_, token.id);
      lists["tokens"].push_back(text);
      lists["token_logprobs"].push_back(token.logprob ? Json(*token.logprob) : Json(nullptr));
      Json top = Json::object();
      for (const Candidate& candidate : token.top)
        top[TokenText(tokenizer_, candidate.token)] = candidate.logprob;
      lists["top_logprobs"].push_back(token.logprob ? std::move(top) : Json(nullptr));
      lists["text_offset"].push_back(choice.offset);
      choice.offset += static_cast<int64_t>(text.size());
    }
    choice.logged.clear();
    return lists;
  }

  // What has gathered; leaves nothing behind.
  Json ChoiceJson(size_t index, const std::string* finish) {
    Choice& choice = choices_[index];
    Json json = {{"index", index}, {"text", std::exchange(choice.text, {})}};
    json["logprobs"] = shape_.logprobs ? Logprobs(choice) : Json(nullptr);
    if (shape_.prompt_logprobs) json["prompt_logprobs"] = std::move(choice.prompt_logprobs);
    json["finish_reason"] = finish == nullptr ? Json(nullptr) : Json(*finish);
    json["stop_reason"] = finish == nullptr ? Json(nullptr) : choice.stop_reason;
    if (shape_.token_ids) {
      json["token_ids"] = std::exchange(choice.ids, {});
      if (!choice.prompt.empty()) json["prompt_token_ids"] = std::exchange(choice.prompt, {});
    }
    choice.gathered = 0;
    return json;
  }

  void Frame(size_t index, const std::string* finish, std::string* out) {
    Json frame = envelope_.Begin(Json::array({ChoiceJson(index, finish)}));
    envelope_.EndFrame(finish != nullptr, &frame);
    AppendFrame(Dump(frame), out);
  }

  ChoicesEnvelope envelope_;
  const CompletionShape shape_;
  const Tokenizer* const tokenizer_;
  std::vector<Choice> choices_;
};

using Prompt = std::variant<std::string, std::vector<TokenId>>;

bool AllNumbers(const Json& array) {
  return std::all_of(array.begin(), array.end(), [](const Json& entry) { return entry.is_number(); });
}

// A string, an array of token ids, or an array of either.
std::vector<Prompt> ReadPrompts(Fields& fields) {
  const Json* prompt = fields.Any("prompt");
  if (prompt == nullptr) {
    fields.Refuse("prompt", "expected a text or token ids to go on from");
    return {};
  }
  if (prompt->is_string()) return {prompt->get<std::string>()};
  if (!prompt->is_array() || prompt->empty()) {
    fields.Refuse("prompt", "expected a string, an array of token ids, or an array of either");
    return {};
  }
  if (AllNumbers(*prompt)) return {fields.Ids("prompt")};
  if (prompt->size() > static_cast<size_t>(kMaxChoices)) {
    fields.Refuse("prompt", absl::StrCat("expected at most ", kMaxChoices, " prompts, got ", prompt->size()));
    return {};
  }
  std::vector<Prompt> prompts;
  for (size_t i = 0; i < prompt->size(); ++i) {
    const Json& entry = (*prompt)[i];
    if (entry.is_string()) {
      prompts.emplace_back(entry.get<std::string>());
      continue;
    }
    // One array of ids, read under a name of its own.
    const std::string name = absl::StrCat("prompt[", i, "]");
    const Json wrapped = {{name, entry}};
    Fields inner(wrapped);
    prompts.emplace_back(inner.Ids(name.c_str()));
    fields.Fail(inner.status());
  }
  return prompts;
}

void ReadLogprobs(Fields& fields, GenerateRequest* request) {
  const std::optional<int64_t> logprobs = fields.Whole("logprobs");
  if (!logprobs) return;
  if (*logprobs < 0 || *logprobs > kMaxLogprobs) {
    return fields.Refuse("logprobs", absl::StrCat("expected 0 to ", kMaxLogprobs, ", got ", *logprobs));
  }
  request->logprobs = true;
  request->top = static_cast<int32_t>(*logprobs);
}

}  // namespace

absl::Status CheckUnknown(const Fields& fields, bool strict) {
  const std::vector<std::string> unknown = fields.Unknown();
  if (!strict || unknown.empty()) return absl::OkStatus();
  return FieldError(unknown.front(),
                    "this server knows no such field and was told to refuse them (--strict-api)");
}

absl::StatusOr<ReadRequest> ReadCompletion(Fields& fields, const ServedModel& model, bool strict) {
  ReadRequest read;
  CompletionShape shape;
  GenerateRequest common;
  ReadSampling(fields, &common.sampling);
  ReadStopping(fields, &common.stopping);
  ReadSpeculation(fields, &common.speculation);
  ReadScheduling(fields, &common);
  ReadConstraint(fields, &common.constraint);
  ReadLogprobs(fields, &common);
  shape.stream = ReadStream(fields);
  shape.n = ReadChoices(fields);
  shape.logprobs = common.logprobs;
  shape.token_ids = fields.Bool("return_token_ids").value_or(false);
  for (const char* const ignored : {"model", "user", "metadata", "store"}) fields.Ignore(ignored);
  if (fields.Whole("best_of").value_or(shape.n) > shape.n)
    fields.Refuse("best_of", "this server returns every choice it makes; ask for them with n");
  if (!fields.Text("suffix").value_or("").empty())
    fields.Refuse("suffix", "this server cannot fill in the middle; leave suffix out");
  std::vector<Prompt> prompts = ReadPrompts(fields);
  if (static_cast<int64_t>(prompts.size()) * shape.n > kMaxChoices) {
    fields.Refuse("n", absl::StrCat("expected at most ", kMaxChoices, " texts in one answer, got ",
                                    prompts.size(), " prompts with ", shape.n, " choices each"));
  }
  const bool echo = fields.Bool("echo").value_or(false);
  shape.prompt_logprobs = ReadPromptLogprobs(fields, shape.stream.stream, &common);
  if (echo && common.logprobs) common.prompt_top = std::max(common.prompt_top.value_or(0), common.top);
  RETURN_IF_ERROR(fields.status());
  RETURN_IF_ERROR(CheckUnknown(fields, strict));

  if (!common.stopping.ignore_eos) shape.stops = model.eos_token_ids;
  for (const Prompt& prompt : prompts) {
    const std::string* text = std::get_if<std::string>(&prompt);
    if (!echo) break;
    shape.echo.push_back(text != nullptr              ? *text
                         : model.tokenizer != nullptr ? model.tokenizer->Decode(std::get<1>(prompt))
                                                      : "");
  }
  for (Prompt& prompt : prompts) {
    GenerateRequest request = common;
    request.input = std::move(prompt);
    ASSIGN_OR_RETURN(std::vector<GenerateRequest> one,
                     RequestsOf(std::move(request), shape.n, model.tokenizer));
    read.requests.insert(read.requests.end(), std::make_move_iterator(one.begin()),
                         std::make_move_iterator(one.end()));
  }
  read.call.stream = shape.stream.stream;
  read.format = std::make_unique<CompletionReply>(
      AnswerHead::Make("cmpl-", "text_completion", model.name, model.fingerprint), std::move(shape),
      model.tokenizer, read.requests.size());
  return read;
}

}  // namespace paceline
