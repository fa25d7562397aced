// The gRPC server as a whole, through real clients: health from the first instant, readiness, keys,
// reflection, its ports, a worker that is lost, the end.
#include "coordinator/server.h"

#include "base/error.h"
#include "coordinator/api_error.h"
#include "coordinator/api_keys.h"
#include "coordinator/client.h"
#include "coordinator/generation.h"
#include "coordinator/inference_service.h"
#include "coordinator/status_wire.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/generic/generic_stub.h"
#include "paceline/control/v1/control.grpc.pb.h"
#include "tests/coordinator/server_fixture.h"

namespace paceline {
namespace {

using grpc::health::v1::HealthCheckResponse;
using ::testing::HasSubstr;

// What a call of any method with an empty message ends with.
grpc::StatusCode CodeOf(grpc::GenericStub& stub, const std::string& method,
                        const std::string& authorization) {
  grpc::ClientContext context;
  if (!authorization.empty()) context.AddMetadata("authorization", authorization);
  grpc::CompletionQueue queue;
  const grpc::Slice nothing;
  const auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&nothing, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->Finish(&answer, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  EXPECT_TRUE(queue.Next(&tag, &ok));
  return status.error_code();
}

HealthCheckResponse::ServingStatus Health(grpc::health::v1::Health::Stub& stub, const std::string& name) {
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(name);
  HealthCheckResponse response;
  const grpc::Status status = stub.Check(&context, request, &response);
  return status.ok() ? response.status() : HealthCheckResponse::SERVICE_UNKNOWN;
}

TEST_F(ServerTest, HealthFollowsReadiness) {
  const std::vector<std::string> names = {"", "readiness", "paceline.inference.v1.InferenceService",
                                          "paceline.control.v1.ControlService"};
  for (const std::string& name : names)
    EXPECT_EQ(Health(*health_, name), HealthCheckResponse::NOT_SERVING) << name;
  EXPECT_EQ(Health(*health_, "liveness"), HealthCheckResponse::SERVING);
  EXPECT_EQ(Health(*health_, "nobody"), HealthCheckResponse::SERVICE_UNKNOWN);
  Ready();
  for (const std::string& name : names)
    EXPECT_EQ(Health(*health_, name), HealthCheckResponse::SERVING) << name;
  EXPECT_EQ(trunk_.probes(), 1);
  cluster_.Lose("expert 2 of layer 1 has no holder since worker box was lost");
  EXPECT_FALSE(server_->ProveReady(kLimit).ok());
  for (const std::string& name : names)
    EXPECT_EQ(Health(*health_, name), HealthCheckResponse::NOT_SERVING) << name;
  EXPECT_EQ(server_->state(), ClusterState::kDegraded);
  cluster_.Lose("");
  EXPECT_EQ(server_->state(), ClusterState::kLoading) << "back, but still to prove itself";
  Ready();
  EXPECT_EQ(Health(*health_, ""), HealthCheckResponse::SERVING);
  server_->Drain();
  EXPECT_EQ(Health(*health_, ""), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(server_->state(), ClusterState::kDraining);
}

TEST_F(ServerTest, WatchSeesEveryChange) {
  grpc::ClientContext context;
  const auto watch = health_->Watch(&context, {});
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  Ready();
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server_->Stop(kLimit);  // would wait all that time for a watch that does not end
  while (watch->Read(&response)) {
  }
  EXPECT_FALSE(watch->Finish().ok());
}

TEST_F(ServerTest, RequestsBeforeReadinessAreRefusedAsLoading) {
  const grpc::Status status = Refusal(Request(1));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(FactsOf(FromGrpc(status)).reason, reasons::kModelLoading);
}

TEST_F(ServerTest, KeysOpenEverythingButHealth) {
  ApiOptions options;
  options.keys = *ApiKeys::Parse("ann secret-of-ann\nben secret-of-ben", "keys");
  ApiServer server(*engine_, cluster_, nullptr, options);
  const absl::StatusOr<int> port = server.Start("127.0.0.1", 0);
  ASSERT_TRUE(port.ok()) << port.status();
  server.SetServing(true);
  const std::string address = "127.0.0.1:" + std::to_string(*port);
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  grpc::GenericStub generic(channel);
  // Every method of both services, by reflection, so that none is forgotten.
  for (const char* const service : {kInferenceServiceName, "paceline.control.v1.ControlService"}) {
    const auto* descriptor = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service);
    ASSERT_NE(descriptor, nullptr);
    for (int i = 0; i < descriptor->method_count(); ++i) {
      for (const char* const key : {"", "Bearer secret-of-nobody"}) {
        const std::string method = std::string("/") + service + "/" + descriptor->method(i)->name();
        EXPECT_EQ(CodeOf(generic, method, key), grpc::StatusCode::UNAUTHENTICATED) << method;
      }
    }
  }
  const auto health = grpc::health::v1::Health::NewStub(channel);
  grpc::ClientContext context;
  HealthCheckResponse healthy;
  EXPECT_TRUE(health->Check(&context, {}, &healthy).ok());

  EXPECT_EQ(ApiClient(address).Status(kLimit).status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_TRUE(ApiClient(address, "secret-of-ann").Status(kLimit).ok());
  GenerateRequest request;
  request.input = std::vector<TokenId>{1, 2};
  request.stopping.max_tokens = 3;
  request.request_id = "anns";
  EXPECT_TRUE(ApiClient(address, "secret-of-ann").Generate(request).ok());
  // A stream belongs to its key.
  const auto stub = pb::InferenceService::NewStub(channel);
  const auto resume = [&](const std::string& key) {
    grpc::ClientContext call;
    call.AddMetadata("authorization", "Bearer " + key);
    pb::ResumeGenerationRequest again;
    again.set_request_id("anns");
    const auto reader = stub->ResumeGeneration(&call, again);
    pb::ResumeGenerationResponse event;
    while (reader->Read(&event)) {
    }
    return reader->Finish().error_code();
  };
  EXPECT_EQ(resume("secret-of-ann"), grpc::StatusCode::OK);
  EXPECT_EQ(resume("secret-of-ben"), grpc::StatusCode::NOT_FOUND);
  const auto text = ApiClient(address, "secret-of-ben").Metrics(kLimit);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_NE(text->find("ControlService/GetLoad\",code=\"UNAUTHENTICATED\",model=\"fake\"} 2\n"),
            std::string::npos);
  server.Stop(kLimit);
}

TEST_F(ServerTest, AbortEndsARequestOfAnotherCall) {
  Ready();
  control::v1::AbortRequest abort;
  control::v1::AbortResponse done;
  const auto control = control::v1::ControlService::NewStub(channel_);
  const auto ask = [&](const std::string& id) {
    grpc::ClientContext context;
    abort.set_request_id(id);
    return control->Abort(&context, abort, &done);
  };
  EXPECT_EQ(ask("endless").error_code(), grpc::StatusCode::NOT_FOUND);
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(kEndless);
  request.mutable_request()->set_request_id("endless");
  grpc::ClientContext context;
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_TRUE(ask("endless").ok());
  while (stream->Read(&event)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  AwaitIdle();
  EXPECT_EQ(ask("endless").error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerTest, ALostWorkerIsNamedToRunningAndToNewRequests) {
  Ready();
  trunk_.before_step = [](const StepPlan&) { return Error(errors::kNodeLost, "worker box is gone"); };
  grpc::Status status = Refusal(Request(5));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("box"));
  EXPECT_EQ(FactsOf(FromGrpc(status)).reason, "NODE_LOST");
  EXPECT_EQ(FactsOf(FromGrpc(status)).metadata.at("node"), "box");
  cluster_.Lose("expert 0 of layer 0 has no holder since worker box was lost");
  status = Refusal(Request(5));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(FactsOf(FromGrpc(status)).reason, "NODE_LOST");
  EXPECT_EQ(FactsOf(FromGrpc(status)).metadata.at("node"), "box");
}

TEST_F(ServerTest, ReflectionListsTheServices) {
  // ServerReflectionInfo by hand: field 7 of the request asks for the list of services.
  grpc::GenericStub stub(channel_);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  const auto call =
      stub.PrepareCall(&context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  void* tag = nullptr;
  bool ok = false;
  call->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  const grpc::Slice ask(std::string("\x3a\x00", 2));
  call->WriteLast(grpc::ByteBuffer(&ask, 1), grpc::WriteOptions(), nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(answer.Dump(&slices).ok());
  std::string text;
  for (const grpc::Slice& slice : slices)
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  EXPECT_THAT(text, HasSubstr("paceline.inference.v1.InferenceService"));
  EXPECT_THAT(text, HasSubstr("paceline.control.v1.ControlService"));
  EXPECT_THAT(text, HasSubstr("grpc.health.v1.Health"));
  grpc::Status status;
  call->Finish(&status, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok));
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
}

TEST_F(ServerTest, ATakenPortIsAnError) {
  ApiServer second(*engine_, cluster_);
  const auto port = second.Start("127.0.0.1", std::stoi(address_.substr(address_.rfind(':') + 1)));
  ASSERT_FALSE(port.ok());
  EXPECT_THAT(std::string(port.status().message()), HasSubstr(address_));
}

TEST_F(ServerTest, StoppingTheEngineEndsAStreamAsDraining) {
  Ready();
  Gate();
  grpc::ClientContext context;
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(1000);
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  ASSERT_TRUE(stream->Read(&event));
  std::thread stopper([&] { engine_->Stop(); });
  // The step is held until the engine refuses new requests, so the stream cannot end on its own first.
  GenerateRequest late;
  late.input = std::vector<TokenId>{1};
  const auto refusal = [&] { return engine_->Submit(late, std::make_shared<GenerationQueue>()).status(); };
  while (FactsOf(refusal()).reason != reasons::kDraining) std::this_thread::yield();
  gate_.release(1 << 18);
  stopper.join();
  while (stream->Read(&event)) {
  }
  EXPECT_EQ(FactsOf(FromGrpc(stream->Finish())).reason, "DRAINING");
}

}  // namespace
}  // namespace paceline
