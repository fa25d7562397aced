// The gRPC server.
#include "coordinator/server.h"

#include <chrono>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "coordinator/control_service.h"
#include "coordinator/health_service.h"
#include "coordinator/inference_service.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/support/server_interceptor.h"

namespace paceline {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;
constexpr int kPingIdleMs = 30'000;  // we ping a quiet connection, so that a long prefill does not look dead
constexpr int kPingAllowedMs = 10'000;  // clients may ping this often

// The names that follow readiness; "liveness" is true as long as somebody answers.
const std::vector<std::string>& ReadyNames() {
  static const std::vector<std::string> names = {"", kInferenceServiceName, kControlServiceName, "readiness"};
  return names;
}

// Counts how calls end, refused ones and cancelled ones among them.
class CallCounting final : public grpc::experimental::Interceptor {
 public:
  CallCounting(std::string call, std::shared_ptr<CallCounters> calls)
      : call_(std::move(call)), calls_(std::move(calls)) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_STATUS)) {
      // The numbers are the same by design.
      const auto code = static_cast<absl::StatusCode>(methods->GetSendStatus().error_code());
      calls_->Count({"grpc", call_, absl::StatusCodeToString(code)});
    }
    methods->Proceed();
  }

 private:
  const std::string call_;
  const std::shared_ptr<CallCounters> calls_;
};

// gRPC makes one of its interceptors per call, of the services' own methods alone.
class CallCountingFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallCountingFactory(std::shared_ptr<CallCounters> calls) : calls_(std::move(calls)) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    return new CallCounting(info->method() + 1, calls_);  // without the slash in front; gRPC deletes it
  }

 private:
  const std::shared_ptr<CallCounters> calls_;
};

}  // namespace

struct ApiServer::Parts {
  Parts(Engine& engine, const ClusterView& cluster, const ServingState& state,
        const ChatTemplate* chat_template, ApiOptions the_options)
      : options(std::move(the_options)),
        inference(engine, state, chat_template, options.keys),
        control(engine, cluster, state, options.keys, options.metrics),
        health(ReadyNames()) {
    health.Set("liveness", true);
  }

  const ApiOptions options;
  InferenceService inference;
  ControlService control;
  HealthService health;
  std::unique_ptr<grpc::Server> server;
  std::mutex proving;        // held while readiness is being proved
  std::mutex serving_mutex;  // state and health change together
  bool draining = false;     // guarded by serving_mutex
};

ApiServer::ApiServer(Engine& engine, const ClusterView& cluster, const ChatTemplate* chat_template,
                     ApiOptions options)
    : engine_(engine),
      state_(cluster),
      parts_(std::make_unique<Parts>(engine, cluster, state_, chat_template, std::move(options))) {}

ApiServer::~ApiServer() { Stop(Duration::zero()); }

absl::StatusOr<int> ApiServer::Start(const std::string& host, int port) {
  CHECK(parts_->server == nullptr);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::EnableDefaultHealthCheckService(false);
  grpc::ServerBuilder builder;
  int bound = 0;
  const bool bare_ipv6 = host.find(':') != std::string::npos && host.front() != '[';
  const std::string address = absl::StrCat(bare_ipv6 ? absl::StrCat("[", host, "]") : host, ":", port);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &bound);
  builder.RegisterService(&parts_->inference);
  builder.RegisterService(&parts_->control);
  builder.RegisterService(&parts_->health);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kPingIdleMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kPingAllowedMs);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<CallCountingFactory>(state_.calls()));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  // Two heads on one port would share its clients by chance.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  parts_->server = builder.BuildAndStart();
  if (parts_->server == nullptr || bound == 0) {
    parts_->server.reset();
    return Error(errors::kOption,
                 absl::StrCat("cannot listen on ", address,
                              " for gRPC: the port is taken or the address is not this machine's; "
                              "choose another with --grpc-port or --host"));
  }
  return bound;
}

void ApiServer::SetServing(bool serving) {
  std::lock_guard lock(parts_->serving_mutex);
  if (parts_->draining) return;
  state_.SetServing(serving);
  for (const std::string& name : ReadyNames()) parts_->health.Set(name, serving);
}

absl::Status ApiServer::ProveReady(Duration limit) {
  std::lock_guard lock(parts_->proving);
  absl::Status status = engine_.Degraded();
  if (!status.ok()) SetServing(false);  // at once: the proof below would only take time to fail
  if (status.ok()) status = engine_.Warm(limit);
  if (status.ok()) status = engine_.Degraded();  // the loss may have come after the step
  SetServing(status.ok());
  return status;
}

void ApiServer::Drain() {
  SetServing(false);
  std::lock_guard lock(parts_->serving_mutex);
  parts_->draining = true;
  state_.SetDraining();
}

void ApiServer::Stop(Duration grace) {
  if (parts_->server == nullptr) return;
  Drain();
  parts_->health.Close();
  parts_->server->Shutdown(std::chrono::system_clock::now() +
                           std::chrono::duration_cast<std::chrono::system_clock::duration>(grace));
  parts_->server->Wait();
  parts_->server.reset();
}

ClusterState ApiServer::state() const { return state_.Now(); }

}  // namespace paceline
