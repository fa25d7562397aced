// The generation API. Each call is a reactor (gRPC's side) and a sink (the engine's side) in one object,
// owned by both sides together: gRPC's share ends with OnDone, the engine's with OnFinished.
#include "coordinator/inference_service.h"

#include <algorithm>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "coordinator/answer_channels.h"
#include "coordinator/api_error.h"
#include "coordinator/chat_wire.h"
#include "coordinator/choices.h"
#include "coordinator/sampling_defaults.h"
#include "coordinator/service_caller.h"
#include "coordinator/status_wire.h"
#include "coordinator/wire.h"

namespace paceline {

namespace pb = inference::v1;

namespace {

grpc::Status ToGrpc(const absl::Status& status) { return paceline::ToGrpc(status, kInferenceServiceName); }

// Tokens of a prompt in one message, that no message grows beyond what clients take.
constexpr size_t kPromptPiece = 1024;

// How a generation without an error status ends as a call: a cancelled one has nobody left to hear more.
grpc::Status CallStatus(const GenerationEnd& end) {
  if (!end.status.ok()) return ToGrpc(end.status);
  if (end.reason == FinishReason::kCancelled)
    return grpc::Status(grpc::StatusCode::CANCELLED, "the request was cancelled");
  return grpc::Status::OK;
}

// Answers a streaming call without a single message.
template <class Response>
class RefusedCall final : public grpc::ServerWriteReactor<Response> {
 public:
  explicit RefusedCall(const grpc::Status& status) { this->Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

// One call that reads a stream's log: one write in flight, the next when it is out. gRPC holds it until
// OnDone.
template <class Response>
class InferenceService::StreamReader final : public grpc::ServerWriteReactor<Response>,
                                             public StreamLog::Reader {
 public:
  StreamReader(std::shared_ptr<StreamLog> log, uint64_t after) : log_(std::move(log)), next_(after + 1) {}

  // After Attach.
  void Begin(std::shared_ptr<StreamReader> self) {
    {
      const std::lock_guard lock(mutex_);
      self_ = std::move(self);
    }
    Go();
  }
  void OnMore() override { Go(); }
  void OnWriteDone(bool ok) override {
    {
      const std::lock_guard lock(mutex_);
      writing_ = false;
      ++next_;
      if (!ok) gone_ = true;
    }
    Go();
  }
  void OnCancel() override {
    {
      const std::lock_guard lock(mutex_);
      gone_ = true;
    }
    Go();
  }
  void OnDone() override {
    log_->Detach(this);
    std::shared_ptr<StreamReader> last;  // goes after the lock
    const std::lock_guard lock(mutex_);
    last = std::move(self_);
  }

 private:
  static void Fill(const StreamLog::Message& message, pb::GenerateStreamResponse* response) {
    *response = message;
  }
  static void Fill(const StreamLog::Message& message, pb::ResumeGenerationResponse* response) {
    *response->mutable_response() = message;
  }

  // Writes the next message or, when all are out and the stream has ended, or the client is gone, finishes
  // the call. Finish comes last and outside the lock: OnDone may follow at once.
  void Go() {
    std::optional<grpc::Status> finish;
    {
      const std::lock_guard lock(mutex_);
      if (self_ == nullptr || writing_ || finished_) return;
      if (gone_) {
        finish = grpc::Status(grpc::StatusCode::CANCELLED, "the client has gone");
      } else {
        const StreamLog::Next next = log_->Read(this, next_);
        if (next.message != nullptr) {
          Fill(*next.message, &response_);
          writing_ = true;
          this->StartWrite(&response_);
          return;
        }
        finish = next.end;
      }
      if (!finish) return;
      finished_ = true;
    }
    log_->Detach(this);
    this->Finish(*finish);
  }

  const std::shared_ptr<StreamLog> log_;
  std::mutex mutex_;  // guards what follows
  std::shared_ptr<StreamReader> self_;
  uint64_t next_;
  Response response_;
  bool writing_ = false;
  bool gone_ = false;
  bool finished_ = false;
};

bool RequestIds::Take(const std::string& id) {
  std::lock_guard lock(mutex_);
  return ids_.insert(id).second;
}

void RequestIds::Return(const std::string& id) {
  std::lock_guard lock(mutex_);
  ids_.erase(id);
}

// What both kinds of call remember of their request.
class CallBasics {
 public:
  explicit CallBasics(std::shared_ptr<RequestIds> ids) : ids_(std::move(ids)) {}
  // Before the client can know of the end, or it might use the id again too early.
  void ReturnId() {
    if (id_taken_) ids_->Return(*id_taken_);
    id_taken_.reset();
  }
  absl::Status TakeId(const std::string& id) {
    if (id.empty()) return absl::OkStatus();
    if (!ids_->Take(id)) {
      return WithField(
          WithReason(absl::AlreadyExistsError(absl::StrCat(
                         "request_id: ", id, " is in use by a request that still runs; choose another")),
                     reasons::kRequestIdReused),
          "request_id");
    }
    id_taken_ = id;
    return absl::OkStatus();
  }

  ResponseShape shape;
  std::string caller;  // name of the API key

 private:
  std::shared_ptr<RequestIds> ids_;
  std::optional<std::string> id_taken_;
};

absl::Status InferenceService::CheckModel(const std::string& model) const {
  if (model.empty() || model == engine_.info().model) return absl::OkStatus();
  absl::Status status = WithReason(
      absl::NotFoundError(absl::StrCat("model: this head serves ", engine_.info().model, ", not ", model)),
      reasons::kModelNotFound);
  return WithMetadata(WithField(std::move(status), "model"), "model", model);
}

template <class Answer>
grpc::ServerUnaryReactor* InferenceService::Reply(grpc::CallbackServerContext* context, Answer answer) const {
  const absl::StatusOr<std::string> caller = CallerOf(*context, keys_);
  const absl::Status status = caller.ok() ? answer() : caller.status();
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

absl::StatusOr<WireRequest> InferenceService::Accept(const grpc::CallbackServerContext& context,
                                                     const pb::GenerateRequest& wire, CallBasics& call) {
  ASSIGN_OR_RETURN(std::string caller, CallerOf(context, keys_));
  RETURN_IF_ERROR(state_.Admit());
  RETURN_IF_ERROR(CheckModel(wire.model()));
  ASSIGN_OR_RETURN(WireRequest request, RequestFromWire(wire, chat_template_));
  RETURN_IF_ERROR(call.TakeId(wire.request_id()));
  request.request.key = call.caller = std::move(caller);
  call.shape = request.shape;
  return request;
}

// An answer as it grows.
class LiveOutput {
 public:
  explicit LiveOutput(const ResponseShape& shape) : shape_(shape), channels_(WithSeed(shape.parser)) {}

  // `token` in its pieces, and those of calls, in order.
  void Hear(GeneratedToken token, const std::function<void(const AnswerPiece&, GeneratedToken)>& say) {
    last_ = token.id;
    std::string text = std::exchange(token.text, {});
    for (AnswerPiece& piece : channels_.Feed(text)) Say(piece, piece.continued ? Again() : token, say);
  }
  void End(const std::function<void(const AnswerPiece&, GeneratedToken)>& say) {
    for (AnswerPiece& piece : channels_.Finish()) Say(piece, Again(), say);
  }
  void Finish(const GenerationEnd& end, pb::Finished* wire) const {
    FinishedToWire(end, wire);
    if (channels_.called() && wire->reason() == pb::FINISH_REASON_STOP)
      wire->set_reason(pb::FINISH_REASON_TOOL_CALLS);
  }
  void TokenTo(const AnswerPiece& piece, const GeneratedToken& token, pb::Token* wire) const {
    TokenToWire(token, shape_, wire);
    wire->set_continued(piece.continued);
  }
  int64_t reasoning_tokens() const { return channels_.reasoning_tokens(); }

 private:
  static std::optional<OutputParserOptions> WithSeed(std::optional<OutputParserOptions> parser) {
    if (parser) parser->id_seed = RandomSeed();
    return parser;
  }
  GeneratedToken Again() const {
    GeneratedToken token;
    token.id = last_;
    return token;
  }
  void Say(AnswerPiece& piece, GeneratedToken token,
           const std::function<void(const AnswerPiece&, GeneratedToken)>& say) const {
    if (piece.call && piece.call->call > 0 && !shape_.parallel_calls) return;
    token.text = std::move(piece.text);
    say(piece, std::move(token));
  }

  const ResponseShape shape_;
  AnswerChannels channels_;
  TokenId last_ = 0;
};

int64_t ReasoningTokens(const std::vector<LiveOutput>& answers) {
  int64_t sum = 0;
  for (const LiveOutput& answer : answers) sum += answer.reasoning_tokens();
  return sum;
}

void CallToWire(const OutputEvent& event, uint32_t output, pb::ToolCall* wire) {
  wire->set_output_index(output);
  wire->set_index(static_cast<uint32_t>(event.call));
  wire->set_id(event.id);
  wire->set_name(event.name);
  wire->set_arguments_fragment(event.text);
}

// Generate: collects, then answers once.
class InferenceService::UnaryCall final : public grpc::ServerUnaryReactor, public ChoicesSink {
 public:
  UnaryCall(std::shared_ptr<RequestIds> ids, pb::GenerateResponse* response)
      : basics_(std::move(ids)), response_(response) {}

  void Begin(std::shared_ptr<UnaryCall> self, InferenceService& service,
             const grpc::CallbackServerContext& context, const pb::GenerateRequest& request) {
    self_ = self;
    const auto submit = [&]() -> absl::Status {
      ASSIGN_OR_RETURN(WireRequest wire, service.Accept(context, request, basics_));
      for (int32_t i = 0; i < wire.choices; ++i) {
        response_->add_outputs()->set_index(static_cast<uint32_t>(i));
        answers_.emplace_back(basics_.shape);
      }
      ASSIGN_OR_RETURN(std::shared_ptr<GenerationTicket> ticket,
                       SubmitChoices(service.engine_, std::move(wire.request), wire.choices, self));
      const std::lock_guard lock(mutex_);
      ticket_ = std::move(ticket);
      if (gone_) ticket_->Cancel();
      return absl::OkStatus();
    };
    if (const absl::Status submitted = submit(); !submitted.ok()) {
      basics_.ReturnId();
      Finish(ToGrpc(submitted));
    }
  }

  void OnStarted(const GenerationStarted& started) override { response_->set_request_id(started.request_id); }
  void OnPrompt(std::vector<PromptToken> tokens) override {
    for (const PromptToken& token : tokens)
      PromptTokenToWire(token, basics_.shape, response_->mutable_prompt()->add_tokens());
  }
  void OnTokens(uint32_t index, std::vector<GeneratedToken> tokens) override {
    for (GeneratedToken& token : tokens) {
      answers_[index].Hear(std::move(token),
                           [&](const AnswerPiece& piece, GeneratedToken said) { Add(index, piece, said); });
    }
  }
  void OnChoice(uint32_t index, const GenerationEnd& end) override {
    answers_[index].End([&](const AnswerPiece& piece, GeneratedToken said) { Add(index, piece, said); });
    pb::Finished finished;
    answers_[index].Finish(end, &finished);
    response_->mutable_outputs(static_cast<int>(index))->set_reason(finished.reason());
  }
  void OnEnd(const GenerationEnd& end) override {
    basics_.ReturnId();
    const grpc::Status status = CallStatus(end);
    if (status.ok()) {
      CompletedToWire(end, response_->mutable_completed());
      response_->mutable_completed()->mutable_usage()->set_reasoning_tokens(
          static_cast<uint32_t>(ReasoningTokens(answers_)));
    }
    Finish(status);
  }

  void OnCancel() override {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    if (ticket_ != nullptr) ticket_->Cancel();
  }
  void OnDone() override { self_.reset(); }

 private:
  void Add(uint32_t index, const AnswerPiece& piece, const GeneratedToken& token) {
    pb::Output* output = response_->mutable_outputs(static_cast<int>(index));
    if (piece.call) {
      const bool begins = piece.call->kind == OutputEvent::Kind::kToolCallStart;
      if (begins) return CallToWire(*piece.call, index, output->add_tool_calls());
      pb::ToolCall* call = output->mutable_tool_calls(piece.call->call);
      call->mutable_arguments_fragment()->append(piece.call->text);
      return;
    }
    answers_[index].TokenTo(piece, token, output->add_tokens());
    if (!basics_.shape.text || piece.channel == kToolCallChannel) return;
    (piece.channel == kReasoningChannel ? output->mutable_reasoning() : output->mutable_text())
        ->append(token.text);
  }

  CallBasics basics_;
  std::vector<LiveOutput> answers_;       // [choices]; after Begin the engine thread's
  pb::GenerateResponse* const response_;  // gRPC's, until OnDone
  std::mutex mutex_;                      // guards the next two
  std::shared_ptr<GenerationTicket> ticket_;
  bool gone_ = false;
  std::shared_ptr<UnaryCall> self_;
};

// The engine's side of GenerateStream: writes the log. It may outlive its call, which ends as soon as the
// client has gone, and with it the service: a step takes as long as it takes.
class InferenceService::StreamWriter final : public ChoicesSink {
 public:
  StreamWriter(std::shared_ptr<StreamLogs> streams, const CallBasics& basics, int32_t choices)
      : streams_(std::move(streams)),
        basics_(basics),
        log_(std::make_shared<StreamLog>(basics.shape.resume_window, basics.caller)),
        gathered_(static_cast<size_t>(choices)) {
    for (int32_t i = 0; i < choices; ++i) answers_.emplace_back(basics.shape);
  }

  const std::shared_ptr<StreamLog>& log() const { return log_; }
  CallBasics& basics() { return basics_; }

  void OnStarted(const GenerationStarted& started) override {
    request_id_ = started.request_id;
    streams_->Add(request_id_, log_);
    pb::GenerateStreamResponse message;
    StartedToWire(started, message.mutable_started());
    Send(std::move(message));
    usage_.prompt_tokens = static_cast<int64_t>(started.prompt.size());
    usage_.cached_prompt_tokens = started.cached_tokens;
  }
  void OnPrompt(std::vector<PromptToken> tokens) override {
    for (size_t first = 0; first < tokens.size(); first += kPromptPiece) {
      pb::GenerateStreamResponse message;
      for (size_t i = first; i < std::min(first + kPromptPiece, tokens.size()); ++i)
        PromptTokenToWire(tokens[i], basics_.shape, message.mutable_prompt()->add_tokens());
      Send(std::move(message));
    }
  }
  void OnTokens(uint32_t index, std::vector<GeneratedToken> tokens) override {
    for (GeneratedToken& token : tokens) {
      ++usage_.completion_tokens;
      accepted_ += token.drafted ? 1 : 0;
      answers_[index].Hear(std::move(token), [&](const AnswerPiece& piece, GeneratedToken said) {
        Gather(index, piece, said);
      });
    }
  }
  void OnChoice(uint32_t index, const GenerationEnd& end) override {
    answers_[index].End([&](const AnswerPiece& piece, GeneratedToken said) { Gather(index, piece, said); });
    SendGathered(index);
    pb::GenerateStreamResponse finished;
    answers_[index].Finish(end, finished.mutable_finished());
    finished.mutable_finished()->set_output_index(index);
    Send(std::move(finished));
  }
  void OnEnd(const GenerationEnd& end) override {
    basics_.ReturnId();
    const grpc::Status status = CallStatus(end);
    // Of answers that were cut off, what had come.
    for (uint32_t index = 0; index < gathered_.size(); ++index) SendGathered(index);
    if (status.ok()) {
      pb::GenerateStreamResponse completed;
      CompletedToWire(end, completed.mutable_completed());
      completed.mutable_completed()->mutable_usage()->set_reasoning_tokens(
          static_cast<uint32_t>(ReasoningTokens(answers_)));
      Send(std::move(completed));
    }
    if (!request_id_.empty()) streams_->Ended(request_id_, log_);
    log_->Close(status);
  }

 private:
  // Tokens of one channel share a message, up to the interval.
  void Gather(uint32_t index, const AnswerPiece& piece, const GeneratedToken& token) {
    pb::Tokens& gathered = gathered_[index];
    if (piece.call) {
      SendGathered(index);
      pb::GenerateStreamResponse message;
      CallToWire(*piece.call, index, message.mutable_tool_call());
      return Send(std::move(message));
    }
    if (gathered.channel() != piece.channel) SendGathered(index);
    gathered.set_channel(std::string(piece.channel));
    answers_[index].TokenTo(piece, token, gathered.add_tokens());
    if (gathered.tokens_size() >= basics_.shape.interval_tokens) SendGathered(index);
  }
  void SendGathered(uint32_t index) {
    if (gathered_[index].tokens_size() == 0) return;
    pb::GenerateStreamResponse message;
    message.mutable_tokens()->Swap(&gathered_[index]);
    message.mutable_tokens()->set_output_index(index);
    if (basics_.shape.usage) {
      pb::Usage* usage = message.mutable_tokens()->mutable_usage();
      UsageToWire(usage_, usage);
      usage->set_reasoning_tokens(static_cast<uint32_t>(ReasoningTokens(answers_)));
      usage->set_accepted_draft_tokens(static_cast<uint32_t>(accepted_));
    }
    Send(std::move(message));
  }
  void Send(pb::GenerateStreamResponse message) {
    message.set_request_id(request_id_);
    log_->Append(std::move(message));
  }

  const std::shared_ptr<StreamLogs> streams_;
  CallBasics basics_;
  const std::shared_ptr<StreamLog> log_;
  // The engine thread's.
  std::string request_id_;
  std::vector<LiveOutput> answers_;   // [choices]
  std::vector<pb::Tokens> gathered_;  // [choices] of one channel each
  Usage usage_;                       // so far
  int64_t accepted_ = 0;              // drafts
};

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                     const pb::GenerateRequest* request,
                                                     pb::GenerateResponse* response) {
  auto call = std::make_shared<UnaryCall>(request_ids_, response);
  UnaryCall* reactor = call.get();
  reactor->Begin(std::move(call), *this, *context, *request);
  return reactor;
}

grpc::ServerWriteReactor<pb::GenerateStreamResponse>* InferenceService::GenerateStream(
    grpc::CallbackServerContext* context, const pb::GenerateStreamRequest* wire) {
  using Refused = RefusedCall<pb::GenerateStreamResponse>;
  CallBasics basics(request_ids_);
  absl::StatusOr<WireRequest> request = Accept(*context, wire->request(), basics);
  if (!request.ok()) {
    basics.ReturnId();
    return new Refused(ToGrpc(request.status()));
  }
  const auto writer = std::make_shared<StreamWriter>(streams_, basics, request->choices);
  const auto reader = std::make_shared<StreamReader<pb::GenerateStreamResponse>>(writer->log(), 0);
  CHECK(writer->log()->Attach(reader, 0).ok());
  auto ticket = SubmitChoices(engine_, std::move(request->request), request->choices, writer);
  if (!ticket.ok()) {
    writer->basics().ReturnId();
    return new Refused(ToGrpc(ticket.status()));
  }
  writer->log()->SetTicket(*std::move(ticket));
  reader->Begin(reader);
  return reader.get();
}

grpc::ServerWriteReactor<pb::ResumeGenerationResponse>* InferenceService::ResumeGeneration(
    grpc::CallbackServerContext* context, const pb::ResumeGenerationRequest* request) {
  using Refused = RefusedCall<pb::ResumeGenerationResponse>;
  const absl::StatusOr<std::string> caller = CallerOf(*context, keys_);
  if (!caller.ok()) return new Refused(ToGrpc(caller.status()));
  const std::shared_ptr<StreamLog> log = streams_->Find(request->request_id());
  // Of another key's streams nothing is known.
  if (log == nullptr || log->owner() != *caller)
    return new Refused(ToGrpc(UnknownRequest(request->request_id())));
  const auto reader =
      std::make_shared<StreamReader<pb::ResumeGenerationResponse>>(log, request->after_sequence());
  if (const absl::Status attached = log->Attach(reader, request->after_sequence()); !attached.ok())
    return new Refused(ToGrpc(WithField(attached, "after_sequence")));
  reader->Begin(reader);
  return reader.get();
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const pb::TokenizeRequest* request,
                                                     pb::TokenizeResponse* response) {
  return Reply(context, [&]() -> absl::Status {
    RETURN_IF_ERROR(CheckModel(request->model()));
    if (engine_.tokenizer() == nullptr) return absl::UnimplementedError("this model has no tokenizer");
    ASSIGN_OR_RETURN(const std::vector<TokenId> ids, engine_.tokenizer()->Encode(request->text()));
    for (const TokenId id : ids) response->add_ids(static_cast<uint32_t>(id));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const pb::DetokenizeRequest* request,
                                                       pb::DetokenizeResponse* response) {
  return Reply(context, [&]() -> absl::Status {
    RETURN_IF_ERROR(CheckModel(request->model()));
    const Tokenizer* tokenizer = engine_.tokenizer();
    if (tokenizer == nullptr) return absl::UnimplementedError("this model has no tokenizer");
    std::vector<TokenId> ids;
    for (const uint32_t id : request->ids()) {
      if (id >= static_cast<uint64_t>(tokenizer->size())) {
        return FieldError("ids",
                          absl::StrCat("id ", id, " at index ", ids.size(),
                                       " is outside the vocabulary; expected 0 to ", tokenizer->size() - 1));
      }
      ids.push_back(static_cast<TokenId>(id));
    }
    response->set_text(tokenizer->Decode(ids));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* InferenceService::ApplyChatTemplate(grpc::CallbackServerContext* context,
                                                              const pb::ApplyChatTemplateRequest* request,
                                                              pb::ApplyChatTemplateResponse* response) {
  return Reply(context, [&]() -> absl::Status {
    RETURN_IF_ERROR(CheckModel(request->model()));
    ASSIGN_OR_RETURN(ChatPrompt prompt, PromptFromWire(request->chat(), chat_template_));
    if (request->tokenize()) {
      if (engine_.tokenizer() == nullptr) return absl::UnimplementedError("this model has no tokenizer");
      ASSIGN_OR_RETURN(const std::vector<TokenId> ids, engine_.tokenizer()->Encode(prompt.text));
      for (const TokenId id : ids) response->add_ids(static_cast<uint32_t>(id));
    }
    response->set_text(std::move(prompt.text));
    response->set_starts_in_reasoning(prompt.starts_in_reasoning);
    return absl::OkStatus();
  });
}

}  // namespace paceline
