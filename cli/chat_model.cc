// Heads of ours: the same request, over gRPC or to an engine in this process, and the same text taken apart.
#include "cli/chat_model.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/console.h"
#include "cli/drafting.h"
#include "cli/head.h"
#include "cli/http_client.h"
#include "cli/report.h"
#include "coordinator/chat_template.h"
#include "coordinator/client.h"
#include "coordinator/engine.h"
#include "coordinator/generation.h"
#include "coordinator/output_parser.h"

namespace paceline::cli {
namespace {

constexpr Duration kLook = std::chrono::milliseconds(20);  // between two looks at the signals
constexpr Duration kStatusPatience = std::chrono::seconds(5);

bool Wanted() { return !StopRequested(); }

// Tokens into an answer: text by the parser, times by this process's clock.
class AnswerTaker {
 public:
  AnswerTaker(bool starts_in_reasoning, const ChatModel::OnText& on_text)
      : parser_({.starts_in_reasoning = starts_in_reasoning, .parse_tools = false}),
        on_text_(on_text),
        asked_(Clock::Real().Now()) {}

  void Take(const GeneratedToken& token) {
    last_ = Clock::Real().Now();
    if (answer_.tokens++ == 0) first_ = last_;
    Hear(parser_.Feed(token.text));
  }
  ChatAnswer End(const GenerationEnd& end, const GenerationStarted& started) {
    Hear(parser_.Finish());
    answer_.reason = end.reason;
    answer_.prompt_tokens = static_cast<int64_t>(started.prompt.size());
    answer_.cached_tokens = started.cached_tokens;
    if (end.speculation.decode_steps > 0) answer_.steps = end.speculation.decode_steps;
    answer_.drafted = end.speculation.drafted;
    answer_.accepted = end.speculation.accepted;
    if (answer_.tokens > 0) {
      answer_.first_token = first_ - asked_;
      answer_.decode = last_ - first_;
    }
    return std::move(answer_);
  }

 private:
  void Hear(const std::vector<OutputEvent>& events) {
    for (const OutputEvent& event : events) {
      const bool reasoning = event.kind == OutputEvent::Kind::kReasoning;
      (reasoning ? answer_.reasoning : answer_.content).append(event.text);
      on_text_(reasoning, event.text);
    }
  }

  OutputParser parser_;
  const ChatModel::OnText& on_text_;
  const TimePoint asked_;
  TimePoint first_{}, last_{};
  ChatAnswer answer_;
};

GenerateRequest RequestOf(const ChatQuestion& question, const DraftingFlags& drafting) {
  GenerateRequest request;
  request.sampling = question.sampling;
  request.stopping.max_tokens = question.max_tokens;
  if (drafting.draft_given) request.speculation = SpeculationOf(drafting.draft);
  return request;
}

class RemoteModel final : public ChatModel {
 public:
  RemoteModel(const std::string& address, DraftingFlags drafting)
      : client_(address), drafting_(std::move(drafting)) {}

  absl::Status Greet() {
    ASSIGN_OR_RETURN(const ClusterStatus status, client_.Status(kStatusPatience));
    name_ = status.model;
    return absl::OkStatus();
  }
  std::string name() const override { return name_; }
  absl::StatusOr<ChatAnswer> Ask(const ChatQuestion& question, const OnText& on_text) override {
    ASSIGN_OR_RETURN(TemplatedChat prompt, client_.ApplyChatTemplate(question.chat));
    GenerateRequest request = RequestOf(question, drafting_);
    request.input = std::move(prompt.ids);
    AnswerTaker taker(prompt.starts_in_reasoning, on_text);
    const auto on_token = [&taker](const GeneratedToken& token) {
      taker.Take(token);
      return Wanted();
    };
    ASSIGN_OR_RETURN(const GenerationResult result, client_.Generate(std::move(request), on_token, Wanted));
    return taker.End(result.end, result.started);
  }

 private:
  ApiClient client_;
  const DraftingFlags drafting_;
  std::string name_;
};

class LocalModel final : public ChatModel {
 public:
  explicit LocalModel(const HeadOptions& options) : options_(options) {}
  ~LocalModel() override {
    if (engine_) engine_->Stop();
  }

  absl::Status Load() {
    HeadConfig config;
    config.options = options_;
    config.nodes = 1 + options_.cluster.local_workers;
    // Pages that remember the conversation: each turn begins with all the turns before.
    config.serving = ServingOptions{.max_sequences = 1};
    ASSIGN_OR_RETURN(head_, Head::Open(config));
    if (head_->tokenizer() == nullptr) return head_->tokenizer_status();
    ASSIGN_OR_RETURN(template_, ChatTemplate::Load(options_.model));
    if (template_ == nullptr) {
      return Error(
          errors::kTokenizer,
          absl::StrCat(options_.model, " has no chat template; `paceline generate` goes on with a text"));
    }
    RETURN_IF_ERROR(head_->Load(kLocalPatience));
    engine_ =
        std::make_unique<Engine>(head_->EngineParts(head_->trunk()), head_->defaults(), head_->scheduling());
    engine_->Start();
    return absl::OkStatus();
  }
  std::string name() const override { return head_->model_name(); }
  absl::StatusOr<ChatAnswer> Ask(const ChatQuestion& question, const OnText& on_text) override {
    ASSIGN_OR_RETURN(ChatPrompt prompt, template_->Apply(question.chat));
    GenerateRequest request = RequestOf(question, options_.drafting);
    request.input = std::move(prompt.text);
    AnswerTaker taker(prompt.starts_in_reasoning, on_text);
    const auto queue = std::make_shared<GenerationQueue>();
    ASSIGN_OR_RETURN(const std::shared_ptr<GenerationTicket> ticket,
                     engine_->Submit(std::move(request), queue));
    GenerationStarted started;
    for (;;) {
      if (!Wanted()) ticket->Cancel();
      std::optional<GenerationQueue::Event> event = queue->Next(Clock::Real().Now() + kLook);
      if (!event) continue;
      if (auto* begun = std::get_if<GenerationStarted>(&*event)) {
        started = std::move(*begun);
      } else if (const auto* tokens = std::get_if<std::vector<GeneratedToken>>(&*event)) {
        for (const GeneratedToken& token : *tokens) taker.Take(token);
      } else {
        const auto& end = std::get<GenerationEnd>(*event);
        if (!end.status.ok()) return end.status;
        return taker.End(end, started);
      }
    }
  }

 private:
  const HeadOptions options_;
  std::unique_ptr<ChatTemplate> template_;
  std::unique_ptr<Head> head_;
  std::unique_ptr<Engine> engine_;  // goes before its trunk, which is the head's
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatModel>> OpenChatModel(const ChatOptions& options) {
  const std::string& model = options.head.model;
  if (IsHttpUrl(model)) return OpenHttpChatModel(options);
  if (IsGrpcUrl(model)) {
    ASSIGN_OR_RETURN(const std::string address, AddressOfUrl(model));
    auto remote = std::make_unique<RemoteModel>(address, options.head.drafting);
    RETURN_IF_ERROR(remote->Greet());
    return remote;
  }
  auto local = std::make_unique<LocalModel>(options.head);
  RETURN_IF_ERROR(local->Load());
  return local;
}

}  // namespace paceline::cli
