// `chat http://..`: the conversation goes to /v1/chat/completions as a whole each time, in OpenAI's words.
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/chat_model.h"
#include "cli/console.h"
#include "cli/files.h"
#include "cli/http_client.h"
#include "cli/openai_answer.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {
namespace {

using nlohmann::json;

bool Wanted() { return !StopRequested(); }

absl::Status Refused(const OpenAiError& error) {
  return absl::FailedPreconditionError(absl::StrCat(
      "the server answered ", error.status, error.code.empty() ? "" : " ", error.code, ": ", error.message));
}

class HttpAnswer final : public OpenAiAnswer {
 public:
  explicit HttpAnswer(const ChatModel::OnText& on_text) : on_text_(on_text), asked_(Clock::Real().Now()) {}

  void OnText(std::string_view content, std::string_view reasoning, TimePoint at) override {
    if (chunks_++ == 0) first_ = at;
    last_ = at;
    answer_.content.append(content);
    answer_.reasoning.append(reasoning);
    if (!reasoning.empty()) on_text_(true, reasoning);
    if (!content.empty()) on_text_(false, content);
  }
  void OnDone(const absl::Status& status, TimePoint) override { status_ = status; }

  absl::StatusOr<ChatAnswer> Take() {
    if (error()) return Refused(*error());
    if (!status_.ok() && !absl::IsCancelled(status_)) return status_;
    answer_.reason = absl::IsCancelled(status_)    ? FinishReason::kCancelled
                     : finish_reason() == "length" ? FinishReason::kLength
                                                   : FinishReason::kStop;
    answer_.prompt_tokens = counts().prompt_tokens.value_or(0);
    answer_.cached_tokens = counts().cached_tokens.value_or(0);
    answer_.tokens = counts().output_tokens.value_or(chunks_);
    answer_.steps = counts().steps;
    answer_.drafted = counts().drafted.value_or(0);
    answer_.accepted = counts().accepted.value_or(0);
    if (chunks_ > 0) {
      answer_.first_token = first_ - asked_;
      answer_.decode = last_ - first_;
    }
    return std::move(answer_);
  }

 private:
  const ChatModel::OnText& on_text_;
  const TimePoint asked_;
  TimePoint first_{}, last_{};
  int64_t chunks_ = 0;
  ChatAnswer answer_;
  absl::Status status_;
};

class HttpModel final : public ChatModel {
 public:
  HttpModel(std::unique_ptr<HttpLoop> loop, std::string key, DraftingFlags drafting)
      : loop_(std::move(loop)), key_(std::move(key)), drafting_(std::move(drafting)) {}

  absl::Status Greet() {
    ASSIGN_OR_RETURN(const HttpReply reply,
                     loop_->Fetch({.method = "GET", .path = "/v1/models", .key = key_}, Wanted));
    if (reply.status != 200) return Refused(ReadOpenAiError(reply.status, reply.body));
    const json models = json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
    const json data = models.is_object() ? models.value("data", json()) : json();
    if (data.is_array() && !data.empty() && data[0].is_object()) {
      if (const json id = data[0].value("id", json()); id.is_string()) name_ = id.get<std::string>();
    }
    return absl::OkStatus();
  }
  std::string name() const override { return name_; }
  absl::StatusOr<ChatAnswer> Ask(const ChatQuestion& question, const OnText& on_text) override {
    Json body = {{"model", name_},
                 {"messages", ChatMessagesToJson(question.chat.messages)},
                 {"stream", true},
                 {"stream_options", {{"include_usage", true}}}};
    if (!question.chat.template_kwargs.empty()) body["chat_template_kwargs"] = question.chat.template_kwargs;
    if (question.sampling.temperature) body["temperature"] = *question.sampling.temperature;
    if (question.sampling.seed) body["seed"] = *question.sampling.seed;
    if (question.max_tokens) body["max_tokens"] = *question.max_tokens;
    if (drafting_.draft_given) {
      const bool mode = drafting_.draft == "auto" || drafting_.draft == "off";
      body["speculation"]["mode"] = mode ? drafting_.draft : drafting_.draft == "0" ? "off" : "fixed";
      if (!mode && drafting_.draft != "0")
        body["speculation"]["max_draft_tokens"] = DecimalNumber(drafting_.draft).value_or(0);
    }
    const auto answer = std::make_shared<HttpAnswer>(on_text);
    loop_->Send({.path = "/v1/chat/completions",
                 .body = body.dump(-1, ' ', false, Json::error_handler_t::replace),
                 .key = key_},
                answer);
    loop_->Run(Wanted);
    return answer->Take();
  }

 private:
  const std::unique_ptr<HttpLoop> loop_;
  const std::string key_;
  const DraftingFlags drafting_;
  std::string name_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatModel>> OpenHttpChatModel(const ChatOptions& options) {
  ASSIGN_OR_RETURN(const HttpUrl url, ParseHttpUrl(options.head.model));
  std::string key;
  if (!options.api_key_file.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(options.api_key_file));
    key = std::string(absl::StripAsciiWhitespace(text));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<HttpLoop> loop, HttpLoop::Open(url));
  auto model = std::make_unique<HttpModel>(std::move(loop), std::move(key), options.head.drafting);
  RETURN_IF_ERROR(model->Greet());
  return model;
}

}  // namespace paceline::cli
