// paceline.inference.v1 over an engine. A client that cancels, hangs up or runs into its deadline frees its
// sequence within a step, or when nobody has resumed its stream within the time it asked for. What can be
// refused is refused before the first message.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "coordinator/api_keys.h"
#include "coordinator/chat_template.h"
#include "coordinator/engine.h"
#include "coordinator/server_stream.h"
#include "coordinator/serving_state.h"
#include "coordinator/wire.h"
#include "paceline/inference/v1/inference.grpc.pb.h"

namespace paceline {

inline constexpr char kInferenceServiceName[] = "paceline.inference.v1.InferenceService";

// Request ids in flight: a second request of the same id would be indistinguishable from the first.
// Thread-safe.
class RequestIds {
 public:
  bool Take(const std::string& id);
  void Return(const std::string& id);

 private:
  std::mutex mutex_;
  std::set<std::string> ids_;  // guarded by mutex_
};

// Thread-safe. Destroyed after its server is shut down. The engine may have to end generations even then:
// they hold what they need of the service.
class InferenceService final : public inference::v1::InferenceService::CallbackService {
 public:
  // `engine`, `state`, `keys` and `chat_template`, which may be null, outlive the service.
  InferenceService(Engine& engine, const ServingState& state, const ChatTemplate* chat_template,
                   const ApiKeys& keys)
      : engine_(engine), state_(state), chat_template_(chat_template), keys_(keys) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const inference::v1::GenerateRequest* request,
                                     inference::v1::GenerateResponse* response) override;
  grpc::ServerWriteReactor<inference::v1::GenerateStreamResponse>* GenerateStream(
      grpc::CallbackServerContext* context, const inference::v1::GenerateStreamRequest* request) override;
  grpc::ServerWriteReactor<inference::v1::ResumeGenerationResponse>* ResumeGeneration(
      grpc::CallbackServerContext* context, const inference::v1::ResumeGenerationRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const inference::v1::TokenizeRequest* request,
                                     inference::v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const inference::v1::DetokenizeRequest* request,
                                       inference::v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ApplyChatTemplate(grpc::CallbackServerContext* context,
                                              const inference::v1::ApplyChatTemplateRequest* request,
                                              inference::v1::ApplyChatTemplateResponse* response) override;

 private:
  class UnaryCall;
  class StreamWriter;
  template <class Response>
  class StreamReader;

  absl::Status CheckModel(const std::string& model) const;
  // What can be refused before the engine has seen it is.
  absl::StatusOr<WireRequest> Accept(const grpc::CallbackServerContext& context,
                                     const inference::v1::GenerateRequest& wire, class CallBasics& call);
  // Answers a call that runs nothing: with what `answer` says, if the caller may ask.
  template <class Answer>
  grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, Answer answer) const;

  Engine& engine_;
  const ServingState& state_;
  const ChatTemplate* const chat_template_;
  const ApiKeys& keys_;
  const std::shared_ptr<RequestIds> request_ids_ = std::make_shared<RequestIds>();
  const std::shared_ptr<StreamLogs> streams_ = std::make_shared<StreamLogs>();
};

}  // namespace paceline
