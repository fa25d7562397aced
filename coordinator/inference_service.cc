// The generation API. Each call is a reactor (gRPC's side) and a sink (the engine's side) in one object,
// owned by both sides together: gRPC's share ends with OnDone, the engine's with OnFinished.
#include "coordinator/inference_service.h"

#include <deque>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/chat_wire.h"
#include "coordinator/status_wire.h"
#include "coordinator/wire.h"

namespace paceline {

namespace pb = inference::v1;

namespace {

grpc::Status ToGrpc(const absl::Status& status) { return paceline::ToGrpc(status, kInferenceServiceName); }

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
  explicit CallBasics(RequestIds& ids) : ids_(ids) {}
  // Before the client can know of the end, or it might use the id again too early.
  void ReturnId() {
    if (id_taken_) ids_.Return(*id_taken_);
    id_taken_.reset();
  }
  absl::Status TakeId(const std::string& id) {
    if (id.empty()) return absl::OkStatus();
    if (!ids_.Take(id)) {
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

 private:
  RequestIds& ids_;
  std::optional<std::string> id_taken_;
};

absl::Status InferenceService::CheckModel(const std::string& model) const {
  if (model.empty() || model == engine_.info().model) return absl::OkStatus();
  absl::Status status = WithReason(
      absl::NotFoundError(absl::StrCat("model: this head serves ", engine_.info().model, ", not ", model)),
      reasons::kModelNotFound);
  return WithMetadata(WithField(std::move(status), "model"), "model", model);
}

absl::StatusOr<std::shared_ptr<GenerationTicket>> InferenceService::Submit(
    const pb::GenerateRequest& wire, std::shared_ptr<GenerationSink> sink, CallBasics& call) {
  RETURN_IF_ERROR(state_.Admit());
  RETURN_IF_ERROR(CheckModel(wire.model()));
  ASSIGN_OR_RETURN(WireRequest request, RequestFromWire(wire, chat_template_));
  RETURN_IF_ERROR(call.TakeId(wire.request_id()));
  call.shape = request.shape;
  return engine_.Submit(std::move(request.request), std::move(sink));
}

// Generate: collects, then answers once.
class InferenceService::UnaryCall final : public grpc::ServerUnaryReactor, public GenerationSink {
 public:
  UnaryCall(RequestIds& ids, pb::GenerateResponse* response) : basics_(ids), response_(response) {}

  void Begin(std::shared_ptr<UnaryCall> self, InferenceService& service, const pb::GenerateRequest& request) {
    self_ = self;
    auto ticket = service.Submit(request, std::move(self), basics_);
    if (!ticket.ok()) {
      basics_.ReturnId();
      return Finish(ToGrpc(ticket.status()));
    }
    ticket_ = *std::move(ticket);
  }

  void OnStarted(const GenerationStarted& started) override {
    response_->set_request_id(started.request_id);
    response_->add_outputs();
  }
  void OnTokens(std::vector<GeneratedToken> tokens) override {
    pb::Output* output = response_->mutable_outputs(0);
    for (const GeneratedToken& token : tokens) {
      if (basics_.shape.text) output->mutable_text()->append(token.text);
      TokenToWire(token, basics_.shape, output->add_tokens());
    }
  }
  void OnFinished(const GenerationEnd& end) override {
    basics_.ReturnId();
    const grpc::Status status = CallStatus(end);
    if (status.ok()) {
      pb::Finished finished;
      FinishedToWire(end, &finished);
      response_->mutable_outputs(0)->set_reason(finished.reason());
      CompletedToWire(end, response_->mutable_completed());
    }
    Finish(status);
  }

  void OnCancel() override {
    if (ticket_ != nullptr) ticket_->Cancel();
  }
  void OnDone() override { self_.reset(); }

 private:
  CallBasics basics_;
  pb::GenerateResponse* const response_;  // gRPC's, until OnDone
  std::shared_ptr<GenerationTicket> ticket_;
  std::shared_ptr<UnaryCall> self_;
};

// GenerateStream: a queue of messages, one write in flight. The queue is as long as the client is slow, and
// at most as long as the context.
class InferenceService::StreamCall final : public grpc::ServerWriteReactor<pb::GenerateStreamResponse>,
                                           public GenerationSink {
 public:
  explicit StreamCall(RequestIds& ids) : basics_(ids) {}

  void Begin(std::shared_ptr<StreamCall> self, InferenceService& service,
             const pb::GenerateRequest& request) {
    self_ = self;
    auto ticket = service.Submit(request, std::move(self), basics_);
    if (!ticket.ok()) {
      basics_.ReturnId();
      return Finish(ToGrpc(ticket.status()));
    }
    ticket_ = *std::move(ticket);
  }

  void OnStarted(const GenerationStarted& started) override {
    request_id_ = started.request_id;
    pb::GenerateStreamResponse message;
    StartedToWire(started, message.mutable_started());
    Send(std::move(message));
  }
  void OnTokens(std::vector<GeneratedToken> tokens) override {
    for (const GeneratedToken& token : tokens) {
      TokenToWire(token, basics_.shape, gathered_.add_tokens());
      if (gathered_.tokens_size() >= basics_.shape.interval_tokens) SendGathered();
    }
  }
  void OnFinished(const GenerationEnd& end) override {
    basics_.ReturnId();
    if (gathered_.tokens_size() > 0) SendGathered();
    const grpc::Status status = CallStatus(end);
    if (status.ok()) {
      pb::GenerateStreamResponse finished;
      FinishedToWire(end, finished.mutable_finished());
      Send(std::move(finished));
      pb::GenerateStreamResponse completed;
      CompletedToWire(end, completed.mutable_completed());
      Send(std::move(completed));
    }
    {
      std::lock_guard lock(mutex_);
      end_ = status;
    }
    Go();
  }

  void OnWriteDone(bool ok) override {
    const std::shared_ptr<StreamCall> alive = self_;
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      messages_.pop_front();
      if (!ok) broken_ = true;
    }
    if (!ok) ticket_->Cancel();
    Go();
  }
  void OnCancel() override {
    if (ticket_ != nullptr) ticket_->Cancel();
  }
  void OnDone() override { self_.reset(); }

 private:
  void SendGathered() {
    gathered_.set_channel("content");
    pb::GenerateStreamResponse message;
    message.mutable_tokens()->Swap(&gathered_);
    gathered_.Clear();
    Send(std::move(message));
  }

  void Send(pb::GenerateStreamResponse message) {
    message.set_request_id(request_id_);
    message.set_sequence(++sequence_);
    {
      std::lock_guard lock(mutex_);
      messages_.push_back(std::move(message));
    }
    Go();
  }

  // Writes the next message or, when all are out and the generation has ended, finishes the call. Finish
  // comes last and outside the lock: OnDone may follow at once.
  void Go() {
    std::optional<grpc::Status> finish;
    {
      std::lock_guard lock(mutex_);
      if (writing_ || finished_) return;
      if (!messages_.empty() && !broken_) {
        writing_ = true;
        StartWrite(&messages_.front());
        return;
      }
      if (!end_) return;
      finished_ = true;
      finish = end_;
    }
    Finish(*finish);
  }

  CallBasics basics_;
  std::shared_ptr<GenerationTicket> ticket_;
  std::shared_ptr<StreamCall> self_;

  // The engine thread's.
  std::string request_id_;
  uint64_t sequence_ = 0;
  pb::Tokens gathered_;

  std::mutex mutex_;  // guards what follows
  std::deque<pb::GenerateStreamResponse> messages_;
  std::optional<grpc::Status> end_;
  bool writing_ = false;
  bool broken_ = false;
  bool finished_ = false;
};

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext*,
                                                     const pb::GenerateRequest* request,
                                                     pb::GenerateResponse* response) {
  auto call = std::make_shared<UnaryCall>(request_ids_, response);
  UnaryCall* reactor = call.get();
  reactor->Begin(std::move(call), *this, *request);
  return reactor;
}

grpc::ServerWriteReactor<pb::GenerateStreamResponse>* InferenceService::GenerateStream(
    grpc::CallbackServerContext*, const pb::GenerateStreamRequest* request) {
  auto call = std::make_shared<StreamCall>(request_ids_);
  StreamCall* reactor = call.get();
  reactor->Begin(std::move(call), *this, request->request());
  return reactor;
}

grpc::ServerWriteReactor<pb::ResumeGenerationResponse>* InferenceService::ResumeGeneration(
    grpc::CallbackServerContext*, const pb::ResumeGenerationRequest*) {
  return new RefusedCall<pb::ResumeGenerationResponse>(ToGrpc(absl::UnimplementedError(
      "ResumeGeneration: this version keeps no journal of generations; send the request again")));
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const pb::TokenizeRequest* request,
                                                     pb::TokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto answer = [&]() -> absl::Status {
    RETURN_IF_ERROR(CheckModel(request->model()));
    if (engine_.tokenizer() == nullptr) return absl::UnimplementedError("this model has no tokenizer");
    ASSIGN_OR_RETURN(const std::vector<TokenId> ids, engine_.tokenizer()->Encode(request->text()));
    for (const TokenId id : ids) response->add_ids(static_cast<uint32_t>(id));
    return absl::OkStatus();
  };
  reactor->Finish(ToGrpc(answer()));
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const pb::DetokenizeRequest* request,
                                                       pb::DetokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto answer = [&]() -> absl::Status {
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
  };
  reactor->Finish(ToGrpc(answer()));
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::ApplyChatTemplate(grpc::CallbackServerContext* context,
                                                              const pb::ApplyChatTemplateRequest* request,
                                                              pb::ApplyChatTemplateResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto answer = [&]() -> absl::Status {
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
  };
  reactor->Finish(ToGrpc(answer()));
  return reactor;
}

}  // namespace paceline
