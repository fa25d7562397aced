// gRPC client calls.
#include "coordinator/client.h"

#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/status_wire.h"
#include "coordinator/utf8.h"
#include "coordinator/wire.h"
#include "google/protobuf/util/json_util.h"
#include "grpcpp/create_channel.h"
#include "paceline/control/v1/control.grpc.pb.h"
#include "paceline/inference/v1/inference.grpc.pb.h"

namespace paceline {
namespace {

namespace control_pb = control::v1;
namespace inference_pb = inference::v1;

constexpr std::string_view kScheme = "grpc://";
constexpr int kMaxMessageBytes = 64 << 20;
// A head that vanishes without a word ends the call after so long; see the server for how often pings are
// allowed.
constexpr int kPingMs = 20'000;
constexpr int kPingTimeoutMs = 10'000;
constexpr auto kLook = std::chrono::milliseconds(20);  // between two questions whether a call is wanted

ClusterState FromWire(control_pb::ClusterState state) {
  switch (state) {
    case control_pb::CLUSTER_STATE_READY:
      return ClusterState::kReady;
    case control_pb::CLUSTER_STATE_DEGRADED:
      return ClusterState::kDegraded;
    case control_pb::CLUSTER_STATE_DRAINING:
      return ClusterState::kDraining;
    default:
      return ClusterState::kLoading;
  }
}

NodeState FromWire(control_pb::NodeState state) {
  switch (state) {
    case control_pb::NODE_STATE_LOADING:
      return NodeState::kLoading;
    case control_pb::NODE_STATE_READY:
      return NodeState::kReady;
    case control_pb::NODE_STATE_LOST:
      return NodeState::kLost;
    default:
      return NodeState::kJoining;
  }
}

std::shared_ptr<grpc::Channel> Dial(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kPingMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// Books one event of the stream. False when the caller wants no more.
bool Book(const inference_pb::GenerateStreamResponse& event,
          const std::function<bool(const GeneratedToken&)>& on_token, GenerationResult* result) {
  bool wanted = true;
  switch (event.event_case()) {
    case inference_pb::GenerateStreamResponse::kStarted:
      result->started.request_id = event.request_id();
      result->started.model = event.started().model();
      result->started.cached_tokens = event.started().cached_tokens();
      result->started.queue_s = event.started().queue_seconds();
      result->started.epoch = Epoch(static_cast<uint32_t>(event.started().epoch()));
      break;
    case inference_pb::GenerateStreamResponse::kTokens:
      for (const inference_pb::Token& wire : event.tokens().tokens()) {
        GeneratedToken token = TokenFromWire(wire);
        if (on_token && !on_token(token)) wanted = false;
        result->text += token.text;
        result->tokens.push_back(std::move(token));
      }
      break;
    case inference_pb::GenerateStreamResponse::kFinished:
      FinishedFromWire(event.finished(), &result->end);
      break;
    case inference_pb::GenerateStreamResponse::kCompleted:
      CompletedFromWire(event.completed(), &result->end);
      result->started.seed = result->end.seed;
      break;
    default:
      break;  // events of a newer head
  }
  return wanted;
}

// One call and its cancellation, by whoever no longer wants it: a read that waits cannot ask by itself.
class Cancellation {
 public:
  Cancellation(grpc::ClientContext& context, const std::function<bool()>& wanted) : context_(context) {
    if (wanted) thread_ = std::thread([this, &wanted] { Watch(wanted); });
  }
  ~Cancellation() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  void Cancel() {
    if (!cancelled_.exchange(true)) context_.TryCancel();
  }
  bool cancelled() const { return cancelled_; }

 private:
  void Watch(const std::function<bool()>& wanted) {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, kLook, [this] { return over_; })) {
      if (!wanted()) return Cancel();
    }
  }

  grpc::ClientContext& context_;
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace

struct ApiClient::Parts {
  Parts(const std::string& target, const std::string& api_key)
      : address(target),
        authorization(api_key.empty() ? "" : absl::StrCat("Bearer ", api_key)),
        channel(Dial(target)),
        inference(inference_pb::InferenceService::NewStub(channel)),
        control(control_pb::ControlService::NewStub(channel)) {}

  void Sign(grpc::ClientContext* context) const {
    if (!authorization.empty()) context->AddMetadata("authorization", authorization);
  }

  const std::string address;
  const std::string authorization;  // empty: none is needed
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<inference_pb::InferenceService::Stub> inference;
  std::unique_ptr<control_pb::ControlService::Stub> control;
};

bool IsGrpcUrl(const std::string& text) { return text.compare(0, kScheme.size(), kScheme) == 0; }

absl::StatusOr<std::string> AddressOfUrl(const std::string& url) {
  const std::string address = IsGrpcUrl(url) ? url.substr(kScheme.size()) : "";
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon != std::string::npos) {
    const char* end = address.data() + address.size();
    const auto parsed = std::from_chars(address.data() + colon + 1, end, port);
    if (parsed.ec != std::errc() || parsed.ptr != end) port = 0;
  }
  if (colon == 0 || port < 1 || port > 65535) {
    return Error(errors::kOption, absl::StrCat("expected an address like grpc://127.0.0.1:50051, got ", url));
  }
  return address;
}

ApiClient::ApiClient(const std::string& address, const std::string& api_key)
    : parts_(std::make_unique<Parts>(address, api_key)) {}
ApiClient::~ApiClient() = default;

// A failure without a reason came from the connection, not from the head.
absl::Status ApiClient::Explain(absl::Status status) const {
  const bool ours = !FactsOf(status).reason.empty() && FactsOf(status).reason != reasons::kInternal;
  if (ours || (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status))) return status;
  return Error(errors::kUnreachable,
               absl::StrCat("no head answers at ", parts_->address, " (", status.message(),
                            "); is `serve` running there, and is this its gRPC port?"));
}

absl::StatusOr<std::vector<TokenId>> ApiClient::Tokenize(const std::string& text) {
  // Protobuf would refuse the bytes without saying where.
  if (const size_t valid = ValidUtf8Prefix(text); valid < text.size()) {
    return FieldError("text", absl::StrCat("not UTF-8 at byte ", valid));
  }
  grpc::ClientContext context;
  parts_->Sign(&context);
  inference_pb::TokenizeRequest request;
  request.set_text(text);
  inference_pb::TokenizeResponse response;
  const grpc::Status status = parts_->inference->Tokenize(&context, request, &response);
  if (!status.ok()) return Explain(FromGrpc(status));
  std::vector<TokenId> ids;
  for (const uint32_t id : response.ids()) ids.push_back(static_cast<TokenId>(id));
  return ids;
}

absl::StatusOr<GenerationResult> ApiClient::Generate(
    GenerateRequest request, const std::function<bool(const GeneratedToken&)>& on_token,
    const std::function<bool()>& wanted) {
  if (const std::string* text = std::get_if<std::string>(&request.input)) {
    ASSIGN_OR_RETURN(request.input, Tokenize(*text));
  }
  GenerationResult result;
  result.started.prompt = std::get<std::vector<TokenId>>(request.input);
  inference_pb::GenerateStreamRequest wire;
  RequestToWire(request, wire.mutable_request());
  grpc::ClientContext context;
  parts_->Sign(&context);
  const auto stream = parts_->inference->GenerateStream(&context, wire);
  inference_pb::GenerateStreamResponse event;
  Cancellation cancellation(context, wanted);
  while (stream->Read(&event)) {
    if (!Book(event, on_token, &result)) cancellation.Cancel();
  }
  const grpc::Status status = stream->Finish();
  if (cancellation.cancelled() && status.error_code() == grpc::StatusCode::CANCELLED) {
    result.end.reason = FinishReason::kCancelled;
    result.end.usage = {static_cast<int64_t>(result.started.prompt.size()),
                        static_cast<int64_t>(result.tokens.size())};
    return result;
  }
  if (!status.ok()) return Explain(FromGrpc(status));
  return result;
}

absl::StatusOr<TemplatedChat> ApiClient::ApplyChatTemplate(const ChatRequest& chat) {
  inference_pb::ApplyChatTemplateRequest request;
  inference_pb::ChatInput* input = request.mutable_chat();
  Json whole = {{"messages", ChatMessagesToJson(chat.messages)}, {"tools", Json::array()}};
  for (const ToolDefinition& tool : chat.tools) whole["tools"].push_back(tool.definition);
  input->set_json(whole.dump(-1, ' ', false, Json::error_handler_t::replace));
  const auto kwargs = google::protobuf::util::JsonStringToMessage(
      chat.template_kwargs.dump(-1, ' ', false, Json::error_handler_t::replace),
      input->mutable_template_kwargs());
  if (!kwargs.ok()) return FieldError("template_kwargs", "expected an object of JSON values");
  input->set_add_generation_prompt(chat.add_generation_prompt);
  input->set_continue_final_message(chat.continue_final_message);
  request.set_tokenize(true);
  grpc::ClientContext context;
  inference_pb::ApplyChatTemplateResponse response;
  const grpc::Status status = parts_->inference->ApplyChatTemplate(&context, request, &response);
  if (!status.ok()) return Explain(FromGrpc(status));
  TemplatedChat out;
  for (const uint32_t id : response.ids()) out.ids.push_back(static_cast<TokenId>(id));
  out.starts_in_reasoning = response.starts_in_reasoning();
  return out;
}

absl::StatusOr<std::string> ApiClient::Metrics(Duration limit) {
  grpc::ClientContext context;
  parts_->Sign(&context);
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(limit));
  control_pb::GetMetricsResponse response;
  const grpc::Status status = parts_->control->GetMetrics(&context, {}, &response);
  if (!status.ok()) return Explain(FromGrpc(status));
  return response.text();
}

absl::StatusOr<ClusterStatus> ApiClient::Status(Duration limit) {
  grpc::ClientContext context;
  parts_->Sign(&context);
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(limit));
  control_pb::GetClusterStatusResponse response;
  const grpc::Status status = parts_->control->GetClusterStatus(&context, {}, &response);
  if (!status.ok()) return Explain(FromGrpc(status));
  ClusterStatus out;
  out.state = FromWire(response.state());
  out.model = response.model();
  out.facts.epoch = Epoch(static_cast<uint32_t>(response.epoch()));
  out.facts.degraded = response.degraded();
  for (const control_pb::Node& wire : response.nodes()) {
    NodeFacts node;
    node.name = wire.name();
    node.head = wire.role() == control_pb::NODE_ROLE_HEAD;
    node.pid = wire.pid();
    node.address = wire.address();
    node.state = FromWire(wire.state());
    node.experts = wire.experts();
    node.leaves = wire.leaves();
    node.bytes = wire.bytes();
    node.backend = wire.backend();
    node.fingerprint = wire.fingerprint();
    out.facts.nodes.push_back(std::move(node));
  }
  return out;
}

}  // namespace paceline
