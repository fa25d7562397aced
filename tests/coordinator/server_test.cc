// The API through a real server and real clients in one process: health from the first instant, streams,
// cancellation, errors with their details, reflection, status.
#include "coordinator/server.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <semaphore>
#include <thread>

#include "base/error.h"
#include "coordinator/api_error.h"
#include "coordinator/api_keys.h"
#include "coordinator/chat_template.h"
#include "coordinator/client.h"
#include "coordinator/generation.h"
#include "coordinator/inference_service.h"
#include "coordinator/server_stream.h"
#include "coordinator/status_wire.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "google/rpc/error_details.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "paceline/control/v1/control.grpc.pb.h"
#include "paceline/inference/v1/inference.grpc.pb.h"
#include "tests/coordinator/fake_tokenizer.h"
#include "tests/coordinator/fake_trunk.h"

namespace paceline {
namespace {

namespace pb = inference::v1;
using grpc::health::v1::HealthCheckResponse;
using ::testing::HasSubstr;

constexpr Duration kLimit = std::chrono::seconds(60);

class FakeCluster final : public ClusterView {
 public:
  ClusterFacts Facts() const override {
    std::lock_guard lock(mutex_);
    return facts_;
  }
  void Lose(const std::string& sentence) {
    std::lock_guard lock(mutex_);
    facts_.degraded = sentence;
    facts_.nodes[1].state = sentence.empty() ? NodeState::kReady : NodeState::kLost;
  }
  FakeCluster() {
    facts_.epoch = Epoch(7);
    facts_.nodes.resize(2);
    facts_.nodes[0] = {"head", true, 11, "127.0.0.1:1", NodeState::kReady, 4, 8, 1000, "cpu", "f00d"};
    facts_.nodes[1] = {"box", false, 12, "127.0.0.1:2", NodeState::kReady, 3, 6, 900, "reference", "f00d"};
  }

 private:
  mutable std::mutex mutex_;
  ClusterFacts facts_;
};

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    trunk_.right_drafts = [](const SequenceRows& rows, const std::vector<TokenId>&) {
      return std::min(2, rows.draft_depth);
    };
    GenerationDefaults defaults;
    defaults.temperature = 0.0f;
    SchedulerOptions options;
    options.speculation.mode = DraftMode::kOff;  // but where a request asks
    engine_ = std::make_unique<Engine>(Engine::Parts{&trunk_, &tokenizer_, &cluster_}, defaults, options);
    engine_->Start();
    server_ = std::make_unique<ApiServer>(*engine_, cluster_);
    const absl::StatusOr<int> port = server_->Start("127.0.0.1", 0);
    ASSERT_TRUE(port.ok()) << port.status();
    address_ = "127.0.0.1:" + std::to_string(*port);
    channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
    stub_ = pb::InferenceService::NewStub(channel_);
    health_ = grpc::health::v1::Health::NewStub(channel_);
  }
  void TearDown() override {
    gate_.release(1 << 19);
    server_.reset();
    engine_.reset();
  }

  void Ready() { ASSERT_TRUE(server_->ProveReady(kLimit).ok()); }
  // Room for a request that cannot end on its own while a test runs: kEndless tokens.
  static constexpr uint32_t kEndless = 500'000;
  static TrunkInfo LongInfo() {
    TrunkInfo info = FakeTrunk::SmallInfo();
    info.context = 1 << 20;
    info.pages = 5000;
    info.drafters = {DraftSource::kMtp};
    return info;
  }
  // Steps run one by one, each after a release of the gate.
  void Gate() {
    trunk_.before_step = [this](const StepPlan&) {
      at_gate_.release();
      gate_.acquire();
      return absl::OkStatus();
    };
  }
  // What a call of any method with an empty message ends with.
  static grpc::StatusCode CodeOf(grpc::GenericStub& stub, const std::string& method,
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
  HealthCheckResponse::ServingStatus Health(const std::string& name) {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(name);
    HealthCheckResponse response;
    const grpc::Status status = health_->Check(&context, request, &response);
    return status.ok() ? response.status() : HealthCheckResponse::SERVICE_UNKNOWN;
  }
  static pb::GenerateRequest Request(uint32_t max_tokens) {
    pb::GenerateRequest request;
    request.mutable_token_ids()->add_ids(1);
    request.mutable_token_ids()->add_ids(2);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    return request;
  }
  grpc::Status Generate(const pb::GenerateRequest& request, pb::GenerateResponse* response) {
    grpc::ClientContext context;
    return stub_->Generate(&context, request, response);
  }
  grpc::Status Refusal(const pb::GenerateRequest& request) {
    pb::GenerateResponse response;
    return Generate(request, &response);
  }
  // Waits until the engine has nothing left.
  void AwaitIdle() {
    const TimePoint deadline = Clock::Real().Now() + kLimit;
    while (engine_->stats().running + engine_->stats().waiting > 0 && Clock::Real().Now() < deadline) {
      std::this_thread::yield();
    }
    EXPECT_EQ(engine_->stats().running, 0);
    EXPECT_EQ(engine_->stats().pages_used, 0);
  }
  static std::vector<TokenId> Expected(int n) {
    const FakeTrunk::Model model = FakeTrunk::Hash(100);
    std::vector<TokenId> tokens = {1, 2};
    for (int i = 0; i < n; ++i) tokens.push_back(model(tokens));
    return {tokens.begin() + 2, tokens.end()};
  }

  FakeTokenizer tokenizer_{{"a", "b", "c"}};
  FakeTrunk trunk_{LongInfo(), 64, FakeTrunk::Hash(100)};
  FakeCluster cluster_;
  std::counting_semaphore<1 << 20> gate_{0};
  std::counting_semaphore<1 << 20> at_gate_{0};
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ApiServer> server_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::InferenceService::Stub> stub_;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_;
};

TEST_F(ServerTest, HealthFollowsReadiness) {
  const std::vector<std::string> names = {"", "readiness", "paceline.inference.v1.InferenceService",
                                          "paceline.control.v1.ControlService"};
  for (const std::string& name : names) EXPECT_EQ(Health(name), HealthCheckResponse::NOT_SERVING) << name;
  EXPECT_EQ(Health("liveness"), HealthCheckResponse::SERVING);
  EXPECT_EQ(Health("nobody"), HealthCheckResponse::SERVICE_UNKNOWN);
  Ready();
  for (const std::string& name : names) EXPECT_EQ(Health(name), HealthCheckResponse::SERVING) << name;
  EXPECT_EQ(trunk_.probes(), 1);
  cluster_.Lose("expert 2 of layer 1 has no holder since worker box was lost");
  EXPECT_FALSE(server_->ProveReady(kLimit).ok());
  for (const std::string& name : names) EXPECT_EQ(Health(name), HealthCheckResponse::NOT_SERVING) << name;
  EXPECT_EQ(server_->state(), ClusterState::kDegraded);
  cluster_.Lose("");
  EXPECT_EQ(server_->state(), ClusterState::kLoading) << "back, but still to prove itself";
  Ready();
  EXPECT_EQ(Health(""), HealthCheckResponse::SERVING);
  server_->Drain();
  EXPECT_EQ(Health(""), HealthCheckResponse::NOT_SERVING);
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

TEST_F(ServerTest, GenerateAnswersWhole) {
  Ready();
  pb::GenerateRequest request = Request(5);
  request.set_request_id("mine");
  request.mutable_sampling()->set_seed(42);
  request.mutable_response()->set_output_logprobs(2);
  request.mutable_speculation()->set_mode(pb::SpeculationOptions::MODE_OFF);
  pb::GenerateResponse response;
  const grpc::Status status = Generate(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.request_id(), "mine");
  ASSERT_EQ(response.outputs_size(), 1);
  std::vector<TokenId> ids;
  for (const pb::Token& token : response.outputs(0).tokens()) {
    ids.push_back(static_cast<TokenId>(token.id()));
    EXPECT_TRUE(token.has_logprob());
    EXPECT_EQ(token.candidates_size(), 2);
  }
  EXPECT_EQ(ids, Expected(5));
  EXPECT_EQ(response.outputs(0).reason(), pb::FINISH_REASON_LENGTH);
  EXPECT_EQ(response.completed().seed(), 42u);
  EXPECT_EQ(response.completed().usage().total_tokens(), 7u);
  EXPECT_EQ(response.completed().speculation().method(), "off");
  EXPECT_EQ(response.completed().cluster().nodes(), 2u);
  EXPECT_EQ(response.completed().cluster().epoch(), 7u);
  EXPECT_EQ(response.completed().cluster().fingerprint(), "f00d");
}

TEST_F(ServerTest, StreamIsStartedTokensFinishedCompleted) {
  Ready();
  Gate();
  grpc::ClientContext context;
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(3);
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  ASSERT_TRUE(stream->Read(&event)) << "started comes while the first step is still held";
  EXPECT_TRUE(event.has_started());
  EXPECT_EQ(event.sequence(), 1u);
  EXPECT_EQ(event.started().prompt_tokens(), 2u);
  EXPECT_EQ(event.started().epoch(), 7u);
  gate_.release(100);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(stream->Read(&event));
    ASSERT_TRUE(event.has_tokens());
    ASSERT_EQ(event.tokens().tokens_size(), 1);
    EXPECT_EQ(event.tokens().channel(), "content");
    EXPECT_EQ(static_cast<TokenId>(event.tokens().tokens(0).id()), Expected(3)[static_cast<size_t>(i)]);
  }
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_EQ(event.finished().reason(), pb::FINISH_REASON_LENGTH);
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_TRUE(event.has_completed());
  EXPECT_EQ(event.sequence(), 6u);
  EXPECT_FALSE(stream->Read(&event));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ServerTest, IntervalGathersTokens) {
  Ready();
  grpc::ClientContext context;
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(5);
  request.mutable_request()->mutable_response()->set_stream_interval_tokens(2);
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  std::vector<int> sizes;
  while (stream->Read(&event)) {
    if (event.has_tokens()) sizes.push_back(event.tokens().tokens_size());
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(sizes, (std::vector<int>{2, 2, 1}));
}

TEST_F(ServerTest, TheEndOfTheStreamFreesTheSlot) {
  Ready();
  grpc::ClientContext context;
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(kEndless);
  Gate();
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  ASSERT_TRUE(stream->Read(&event));
  gate_.release(1);
  ASSERT_TRUE(stream->Read(&event));
  context.TryCancel();
  while (stream->Read(&event)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  gate_.release(1 << 18);
  AwaitIdle();
}

TEST_F(ServerTest, ACancelledUnaryCallFreesTheSlot) {
  Ready();
  Gate();
  grpc::ClientContext context;
  grpc::Status status;
  std::thread caller([&] {
    pb::GenerateResponse response;
    status = stub_->Generate(&context, Request(kEndless), &response);
  });
  at_gate_.acquire();  // inside its first step
  context.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  gate_.release(1 << 18);
  AwaitIdle();
}

TEST_F(ServerTest, ADeadlineEndsTheRequest) {
  Ready();
  Gate();  // the first step is held until the client has given up
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  pb::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&context, Request(kEndless), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  gate_.release(1 << 18);
  AwaitIdle();
}

TEST_F(ServerTest, ErrorsCarryDetailsUnderPublicNames) {
  Ready();
  pb::GenerateRequest request = Request(1);
  request.mutable_sampling()->set_top_p(2.0f);
  const grpc::Status status = Refusal(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("REQ-001"));
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
  ASSERT_EQ(details.details_size(), 2);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
  EXPECT_EQ(details.details(1).type_url(), "type.googleapis.com/google.rpc.BadRequest");
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad;
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  ASSERT_TRUE(details.details(1).UnpackTo(&bad));
  EXPECT_EQ(info.reason(), "INVALID_FIELD");
  EXPECT_EQ(info.domain(), "paceline.inference.v1.InferenceService");
  EXPECT_EQ(bad.field_violations(0).field(), "sampling.top_p");
}

TEST_F(ServerTest, WhatCannotBeIsNamed) {
  Ready();
  const auto reason_of = [&](const pb::GenerateRequest& request) {
    return FactsOf(FromGrpc(Refusal(request)));
  };
  pb::GenerateRequest request = Request(1);
  request.set_model("another");
  EXPECT_EQ(Refusal(request).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(reason_of(request).reason, "MODEL_NOT_FOUND");
  request = Request(2'000'000);
  EXPECT_EQ(reason_of(request).reason, "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_EQ(reason_of(request).metadata.at("promptTokens"), "2");
  request = Request(1);
  request.clear_input();
  EXPECT_EQ(reason_of(request).field, "input");
  request = Request(1);
  request.mutable_token_ids()->add_ids(100);
  EXPECT_THAT(Refusal(request).error_message(), HasSubstr("id 100 at index 2"));
  request = Request(1);
  request.mutable_token_ids()->clear_ids();
  EXPECT_EQ(reason_of(request).field, "token_ids");
}

TEST_F(ServerTest, AChatNeedsATemplate) {
  Ready();
  pb::GenerateRequest request = Request(1);
  request.mutable_chat();
  const grpc::Status status = Refusal(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), HasSubstr("chat"));
  EXPECT_EQ(FactsOf(FromGrpc(status)).reason, "FEATURE_DISABLED");
  pb::GenerateRequest neutral = Request(1);
  neutral.mutable_sampling()->set_presence_penalty(0);
  neutral.mutable_sampling()->set_repetition_penalty(1);
  neutral.mutable_sampling()->set_num_sequences(1);
  EXPECT_TRUE(Refusal(neutral).ok()) << "values that change nothing are fine";
}

TEST_F(ServerTest, ThePromptIsScoredWhereAsked) {
  Ready();
  pb::GenerateRequest request = Request(2);
  request.mutable_token_ids()->clear_ids();
  for (uint32_t i = 0; i < 300; ++i) request.mutable_token_ids()->add_ids((7 * i + 3) % 100);
  request.mutable_response()->set_prompt_logprobs(2);
  request.mutable_sampling()->set_num_sequences(2);
  for (int run = 0; run < 2; ++run) {  // the second time the text is in the prefix cache
    pb::GenerateResponse response;
    ASSERT_TRUE(Generate(request, &response).ok());
    ASSERT_EQ(response.prompt().tokens_size(), 300);
    EXPECT_EQ(response.completed().usage().cached_prompt_tokens(), 0u);
    const pb::Token& first = response.prompt().tokens(0);
    EXPECT_EQ(first.id(), 3u);
    EXPECT_FALSE(first.has_logprob());
    EXPECT_FALSE(first.has_rank());
    for (int i = 1; i < 300; ++i) {
      const pb::Token& token = response.prompt().tokens(i);
      const auto before = static_cast<TokenId>(request.token_ids().ids(i - 1));
      EXPECT_EQ(token.id(), request.token_ids().ids(i));
      EXPECT_EQ(token.logprob(), FakeTrunk::ScoreOf(before, static_cast<TokenId>(token.id()))) << i;
      EXPECT_EQ(token.rank(), token.id() + 1);
      EXPECT_EQ(token.candidates_size(), 2);
    }
    EXPECT_EQ(response.outputs(0).tokens_size(), 2);
    EXPECT_EQ(response.outputs(1).tokens_size(), 2);
  }
  // One token has nothing in front of it that could say anything.
  request.mutable_token_ids()->mutable_ids()->Truncate(1);
  pb::GenerateResponse alone;
  ASSERT_TRUE(Generate(request, &alone).ok());
  ASSERT_EQ(alone.prompt().tokens_size(), 1);
  EXPECT_FALSE(alone.prompt().tokens(0).has_logprob());

  request.mutable_response()->set_prompt_logprobs(21);
  EXPECT_EQ(FactsOf(FromGrpc(Refusal(request))).field, "response.prompt_logprobs");
}

TEST_F(ServerTest, UsageComesWithEveryMessageWhereAsked) {
  Ready();
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(7);
  request.mutable_request()->mutable_response()->set_usage_every_chunk(true);
  request.mutable_request()->mutable_response()->set_stream_interval_tokens(3);
  request.mutable_request()->mutable_response()->set_prompt_logprobs(0);
  grpc::ClientContext context;
  const auto reader = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  std::vector<uint32_t> counts;
  std::string order;
  while (reader->Read(&event)) {
    order += event.has_started() ? 's' : event.has_prompt() ? 'p' : event.has_tokens() ? 't' : '.';
    if (!event.has_tokens()) continue;
    EXPECT_EQ(event.tokens().usage().prompt_tokens(), 2u);
    EXPECT_EQ(event.tokens().usage().total_tokens(), 2 + event.tokens().usage().completion_tokens());
    counts.push_back(event.tokens().usage().completion_tokens());
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_THAT(counts, ::testing::ElementsAre(3, 6, 7));
  EXPECT_EQ(order, "spttt..");
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

TEST_F(ServerTest, SeveralAnswersAreSeveralOutputs) {
  Ready();
  pb::GenerateRequest request = Request(12);
  request.mutable_sampling()->set_num_sequences(3);
  pb::GenerateResponse response;
  ASSERT_TRUE(Generate(request, &response).ok());
  ASSERT_EQ(response.outputs_size(), 3);
  for (int i = 0; i < 3; ++i) {
    std::vector<TokenId> tokens;
    for (const pb::Token& token : response.outputs(i).tokens())
      tokens.push_back(static_cast<TokenId>(token.id()));
    EXPECT_EQ(tokens, Expected(12)) << "the model without noise says the same each time";
    EXPECT_EQ(response.outputs(i).index(), static_cast<uint32_t>(i));
    EXPECT_EQ(response.outputs(i).reason(), pb::FINISH_REASON_LENGTH);
  }
  EXPECT_EQ(response.completed().usage().prompt_tokens(), 2u);
  EXPECT_EQ(response.completed().usage().completion_tokens(), 36u);

  pb::GenerateStreamRequest stream_request;
  *stream_request.mutable_request() = request;
  grpc::ClientContext context;
  const auto stream = stub_->GenerateStream(&context, stream_request);
  pb::GenerateStreamResponse event;
  std::map<uint32_t, std::vector<TokenId>> tokens;
  int started = 0, finished = 0, completed = 0;
  while (stream->Read(&event)) {
    started += event.has_started() ? 1 : 0;
    finished += event.has_finished() ? 1 : 0;
    completed += event.has_completed() ? 1 : 0;
    for (const pb::Token& token : event.tokens().tokens())
      tokens[event.tokens().output_index()].push_back(static_cast<TokenId>(token.id()));
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(started, 1);
  EXPECT_EQ(finished, 3);
  EXPECT_EQ(completed, 1);
  ASSERT_EQ(tokens.size(), 3u);
  for (const auto& [index, got] : tokens) EXPECT_EQ(got, Expected(12)) << index;

  request.mutable_sampling()->set_num_sequences(0);
  EXPECT_EQ(FactsOf(FromGrpc(Refusal(request))).field, "sampling.num_sequences");
  // One bad row ends all of them.
  trunk_.row_error = [](const SequenceRows& rows, const std::vector<TokenId>& prefix) {
    return rows.sampling.choice == 1 && prefix.size() > 6 ? Error(errors::kNonFinite, "a leaf is not finite")
                                                          : absl::OkStatus();
  };
  request = Request(kEndless);
  request.mutable_sampling()->set_num_sequences(3);
  EXPECT_EQ(Refusal(request).error_code(), grpc::StatusCode::DATA_LOSS);
  AwaitIdle();
}

TEST_F(ServerTest, AStreamThatBrokeOffIsResumed) {
  Ready();
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(40);
  request.mutable_request()->set_request_id("mine");
  request.mutable_request()->mutable_response()->mutable_resume_window()->set_seconds(60);
  std::vector<pb::GenerateStreamResponse> events;
  const auto resume = [&](uint64_t after) {
    grpc::ClientContext context;
    pb::ResumeGenerationRequest again;
    again.set_request_id("mine");
    again.set_after_sequence(after);
    const auto stream = stub_->ResumeGeneration(&context, again);
    pb::ResumeGenerationResponse event;
    std::vector<pb::GenerateStreamResponse> more;
    while (stream->Read(&event)) more.push_back(event.response());
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return more;
  };
  Gate();
  {
    grpc::ClientContext context;
    const auto stream = stub_->GenerateStream(&context, request);
    gate_.release(3);
    pb::GenerateStreamResponse event;
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(stream->Read(&event));
      events.push_back(event);
    }
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  gate_.release(1 << 19);
  const std::vector<pb::GenerateStreamResponse> rest = resume(events.back().sequence());
  events.insert(events.end(), rest.begin(), rest.end());
  std::vector<TokenId> tokens;
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].sequence(), i + 1);
    EXPECT_EQ(events[i].request_id(), "mine");
    for (const pb::Token& token : events[i].tokens().tokens())
      tokens.push_back(static_cast<TokenId>(token.id()));
  }
  EXPECT_EQ(tokens, Expected(40));
  EXPECT_TRUE(events.back().has_completed());
  // And once more from the start, after its end.
  const std::vector<pb::GenerateStreamResponse> whole = resume(0);
  ASSERT_EQ(whole.size(), events.size());
  for (size_t i = 0; i < whole.size(); ++i)
    EXPECT_EQ(whole[i].SerializeAsString(), events[i].SerializeAsString());
  AwaitIdle();
}

TEST_F(ServerTest, OnlyWhatIsKnownIsResumed) {
  Ready();
  const auto refusal = [&](const std::string& id, uint64_t after) {
    grpc::ClientContext context;
    pb::ResumeGenerationRequest request;
    request.set_request_id(id);
    request.set_after_sequence(after);
    pb::ResumeGenerationResponse event;
    const auto stream = stub_->ResumeGeneration(&context, request);
    EXPECT_FALSE(stream->Read(&event));
    return stream->Finish();
  };
  const grpc::Status unknown = refusal("never", 0);
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(FactsOf(FromGrpc(unknown)).reason, "REQUEST_NOT_FOUND");
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(5);
  request.mutable_request()->set_request_id("short");
  grpc::ClientContext context;
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  while (stream->Read(&event)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(refusal("short", event.sequence() + 1).error_code(), grpc::StatusCode::OUT_OF_RANGE);
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

TEST(StreamLog, KeepsTheLastMessagesAndWhatReadersStillWant) {
  struct Idle final : StreamLog::Reader {
    void OnMore() override {}
  };
  StreamLog log(Duration::zero());
  const auto slow = std::make_shared<Idle>(), late = std::make_shared<Idle>();
  ASSERT_TRUE(log.Attach(slow, 0).ok());
  const size_t all = StreamLog::kKept + 10;
  for (size_t i = 0; i < all; ++i) log.Append({});
  EXPECT_EQ(log.Read(slow.get(), 1).message->sequence(), 1u) << "however slow, it loses nothing";
  log.Detach(slow.get());
  log.Append({});
  EXPECT_EQ(log.Attach(late, 3).code(), absl::StatusCode::kOutOfRange);
  ASSERT_TRUE(log.Attach(late, all - 1).ok());
  EXPECT_EQ(log.Read(late.get(), all).message->sequence(), all);
  EXPECT_TRUE(log.Read(late.get(), all + 2).message == nullptr);
  EXPECT_FALSE(log.Read(late.get(), all + 2).end);
  log.Close(grpc::Status::OK);
  EXPECT_TRUE(log.Read(late.get(), all + 2).end->ok());
}

// A second listener of the engine, which has a template.
TEST_F(ServerTest, ChatInputBecomesAPrompt) {
  const auto chat = ChatTemplate::Create(
      "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No orders.') }}{% endif %}{{ "
      "m.content }}"
      "{% for t in tools or [] %}<{{ t|tojson }}>{% endfor %}{% endfor %}{{ 'c' if add_generation_prompt "
      "}}{{ extra }}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  ApiServer server(*engine_, cluster_, chat->get());
  const absl::StatusOr<int> port = server.Start("127.0.0.1", 0);
  ASSERT_TRUE(port.ok()) << port.status();
  server.SetServing(true);
  const auto stub = pb::InferenceService::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(*port), grpc::InsecureChannelCredentials()));
  const auto message = [](const char* role, const char* content) {
    google::protobuf::Struct made;
    (*made.mutable_fields())["role"].set_string_value(role);
    (*made.mutable_fields())["content"].set_string_value(content);
    return made;
  };
  const auto apply = [&](const pb::ApplyChatTemplateRequest& request,
                         pb::ApplyChatTemplateResponse* response) {
    grpc::ClientContext context;
    return stub->ApplyChatTemplate(&context, request, response);
  };

  pb::ApplyChatTemplateRequest request;
  *request.mutable_chat()->add_messages() = message("user", "ab");
  (*request.mutable_chat()->mutable_template_kwargs()->mutable_fields())["extra"].set_string_value("b");
  request.set_tokenize(true);
  pb::ApplyChatTemplateResponse prompt;
  ASSERT_TRUE(apply(request, &prompt).ok());
  EXPECT_EQ(prompt.text(), "abcb");
  EXPECT_THAT(prompt.ids(), ::testing::ElementsAre(0, 1, 2, 1));
  EXPECT_FALSE(prompt.starts_in_reasoning());

  // The same prompt generates the same tokens, whichever way it comes.
  pb::GenerateRequest by_ids = Request(5), by_chat = Request(5);
  *by_ids.mutable_token_ids()->mutable_ids() = prompt.ids();
  *by_chat.mutable_chat() = request.chat();
  pb::GenerateResponse first, second;
  grpc::ClientContext one, two;
  ASSERT_TRUE(stub->Generate(&one, by_ids, &first).ok());
  ASSERT_TRUE(stub->Generate(&two, by_chat, &second).ok());
  EXPECT_EQ(first.outputs(0).SerializeAsString(), second.outputs(0).SerializeAsString());
  EXPECT_EQ(second.completed().usage().prompt_tokens(), 4u);

  // Order: a Struct's is made up, a text's is the client's.
  request.mutable_chat()->set_add_generation_prompt(false);
  request.clear_tokenize();
  google::protobuf::Struct* tool = request.mutable_chat()->add_tools();
  google::protobuf::Struct* function = (*tool->mutable_fields())["function"].mutable_struct_value();
  (*function->mutable_fields())["parameters"].mutable_struct_value();
  (*function->mutable_fields())["name"].set_string_value("f");
  (*tool->mutable_fields())["type"].set_string_value("function");
  ASSERT_TRUE(apply(request, &prompt).ok());
  EXPECT_EQ(prompt.text(), R"(ab<{"type": "function", "function": {"name": "f", "parameters": {}}}>b)");
  pb::ApplyChatTemplateRequest text;
  text.mutable_chat()->set_json(
      R"({"tools":[{"function":{"parameters":{"z":1,"a":2.0},"name":"f"}}],"messages":[{"role":"user","content":"a"}]})");
  ASSERT_TRUE(apply(text, &prompt).ok());
  EXPECT_EQ(prompt.text(), R"(a<{"function": {"parameters": {"z": 1, "a": 2.0}, "name": "f"}}>c)");

  // Refusals name the field.
  const auto field = [&](const pb::ApplyChatTemplateRequest& wrong) {
    const grpc::Status status = apply(wrong, &prompt);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    return FactsOf(FromGrpc(status)).field;
  };
  *text.mutable_chat()->add_messages() = message("user", "a");
  EXPECT_EQ(field(text), "chat.json");
  *request.mutable_chat()->add_messages() = message("robot", "a");
  EXPECT_EQ(field(request), "chat.messages[1].role");
  *request.mutable_chat()->mutable_messages(1) = message("system", "a");
  EXPECT_EQ(field(request), "chat.messages");
  EXPECT_THAT(apply(request, &prompt).error_message(), HasSubstr("No orders."));

  // And back: ids to text.
  grpc::ClientContext back, outside;
  pb::DetokenizeRequest ids;
  for (const uint32_t id : {2, 0, 1}) ids.add_ids(id);
  pb::DetokenizeResponse words;
  ASSERT_TRUE(stub->Detokenize(&back, ids, &words).ok());
  EXPECT_EQ(words.text(), "cab");
  ids.add_ids(3);
  EXPECT_THAT(stub->Detokenize(&outside, ids, &words).error_message(), HasSubstr("id 3 at index 3"));
  server.Stop(kLimit);
}

TEST_F(ServerTest, AConstraintIsCompiledOrRefusedByName) {
  Ready();
  const auto refusal = [&](const std::function<void(pb::GenerateRequest*)>& set) {
    pb::GenerateRequest request = Request(3);
    request.mutable_stopping()->add_stop_token_ids(9);
    set(&request);
    const grpc::Status status = Refusal(request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    return FactsOf(FromGrpc(status));
  };
  ErrorFacts facts = refusal([](auto* r) { r->mutable_constraint()->set_regex("a("); });
  EXPECT_EQ(facts.reason, "GRAMMAR_INVALID");
  EXPECT_EQ(facts.field, "constraint.regex");
  facts = refusal([](auto* r) { r->mutable_constraint()->set_json_schema("{\"not\": {}}"); });
  EXPECT_EQ(facts.field, "constraint.json_schema");
  facts = refusal([](auto* r) { r->mutable_constraint()->mutable_choice(); });
  EXPECT_EQ(facts.field, "constraint.choice");
  facts = refusal([](auto* r) {
    r->mutable_constraint()->set_json_object(true);
    r->mutable_stopping()->set_min_tokens(2);
  });
  EXPECT_EQ(facts.field, "stopping.min_tokens");
  facts = refusal([](auto* r) {
    r->mutable_constraint()->set_regex("a");
    r->mutable_stopping()->clear_stop_token_ids();
  });
  EXPECT_EQ(facts.field, "constraint");

  std::atomic<int> constrained{0};
  trunk_.before_step = [&](const StepPlan& plan) {
    for (const SequenceRows& rows : plan.sequences)
      constrained += rows.sampling.constraint != nullptr ? 1 : 0;
    return absl::OkStatus();
  };
  pb::GenerateRequest request = Request(3);
  request.mutable_stopping()->add_stop_token_ids(99);
  request.mutable_constraint()->set_ebnf("root ::= [a-z]*");
  EXPECT_TRUE(Refusal(request).ok());
  EXPECT_GT(constrained, 0);
}

TEST_F(ServerTest, DraftsAreToldAndCounted) {
  Ready();
  pb::GenerateRequest request = Request(11);
  request.mutable_speculation()->set_mode(pb::SpeculationOptions::MODE_FIXED);
  request.mutable_speculation()->set_max_draft_tokens(3);
  pb::GenerateResponse response;
  ASSERT_TRUE(Generate(request, &response).ok());
  std::vector<TokenId> ids;
  std::string marks;
  for (const pb::Token& token : response.outputs(0).tokens()) {
    ids.push_back(static_cast<TokenId>(token.id()));
    marks += token.drafted() ? 'd' : '.';
  }
  EXPECT_EQ(ids, Expected(11));
  EXPECT_EQ(marks, ".dd.dd.dd..");
  const pb::SpeculationStats& stats = response.completed().speculation();
  EXPECT_EQ(stats.method(), "mtp");
  EXPECT_EQ(stats.verify_steps(), 3u);
  EXPECT_EQ(stats.decode_steps(), 5u);
  EXPECT_EQ(stats.drafted(), 9u);
  EXPECT_EQ(stats.accepted(), 6u);
  EXPECT_DOUBLE_EQ(stats.mean_accepted_length(), 3.0);
  EXPECT_THAT(stats.acceptance_histogram(), ::testing::ElementsAre(0, 0, 3));
  EXPECT_THAT(stats.drafted_per_position(), ::testing::ElementsAre(3, 3, 3));
  EXPECT_THAT(stats.accepted_per_position(), ::testing::ElementsAre(3, 3, 0));
  ASSERT_EQ(stats.sources_size(), 1);
  EXPECT_EQ(stats.sources(0).source(), "mtp");
  EXPECT_EQ(response.completed().usage().accepted_draft_tokens(), 6u);
  EXPECT_EQ(response.completed().usage().rejected_draft_tokens(), 3u);

  ApiClient client(address_);
  GenerateRequest ours;
  ours.input = std::vector<TokenId>{1, 2};
  ours.stopping.max_tokens = 11;
  ours.speculation.mode = DraftMode::kFixed;
  ours.speculation.max_draft_tokens = 3;
  const auto result = client.Generate(ours);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->token_ids(), Expected(11));
  EXPECT_TRUE(result->tokens[1].drafted);
  EXPECT_FALSE(result->tokens[3].drafted);
  EXPECT_EQ(result->end.speculation.decode_steps, 5);
  EXPECT_EQ(result->end.speculation.acceptance_histogram, (std::vector<int64_t>{0, 0, 3}));
  EXPECT_EQ(result->end.speculation.drafted_per_position, (std::vector<int64_t>{3, 3, 3}));
  EXPECT_EQ(result->end.speculation.accepted_per_position, (std::vector<int64_t>{3, 3, 0}));
  EXPECT_EQ(result->end.speculation.sources[0].accepted, 6);

  const auto metrics = client.Metrics(kLimit);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_THAT(*metrics,
              HasSubstr("vllm:spec_decode_num_draft_tokens_total{engine=\"0\",model_name=\"fake\"} 18\n"));

  pb::GenerateRequest seeded = request;
  seeded.mutable_speculation()->set_acceptance(pb::SpeculationOptions::ACCEPTANCE_REJECTION);
  EXPECT_TRUE(Refusal(seeded).ok());
  seeded.mutable_sampling()->set_seed(1);
  EXPECT_EQ(FactsOf(FromGrpc(Refusal(seeded))).field, "speculation.acceptance");
  request.mutable_speculation()->set_max_draft_tokens(9);
  EXPECT_EQ(FactsOf(FromGrpc(Refusal(request))).field, "speculation.max_draft_tokens");
}

TEST_F(ServerTest, EveryKnobReachesTheTrunkFromBothKindsOfClient) {
  Ready();
  std::mutex mutex;
  std::vector<Sampling> seen;
  trunk_.before_step = [&](const StepPlan& plan) {
    std::lock_guard lock(mutex);
    for (const SequenceRows& rows : plan.sequences) seen.push_back(rows.sampling);
    return absl::OkStatus();
  };
  GenerateRequest request;
  request.input = std::vector<TokenId>{1, 2};
  request.stopping.max_tokens = 1;
  request.sampling.presence_penalty = 1.5f;
  request.sampling.frequency_penalty = -0.5f;
  request.sampling.repetition_penalty = 1.1f;
  request.sampling.logit_bias = {{7, -100.0f}, {1, 2.5f}};
  request.sampling.allowed_token_ids = {2, 0, 1, 2, 50};  // 50 is no token of the tokenizer
  request.speculation.acceptance = AcceptanceRule::kRejection;
  ASSERT_TRUE(ApiClient(address_).Generate(request).ok());
  std::lock_guard lock(mutex);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].presence_penalty, 1.5f);
  EXPECT_EQ(seen[0].frequency_penalty, -0.5f);
  EXPECT_EQ(seen[0].repetition_penalty, 1.1f);
  EXPECT_EQ(seen[0].acceptance, AcceptanceRule::kRejection);
  ASSERT_NE(seen[0].adjustments, nullptr);
  EXPECT_EQ(seen[0].adjustments->bias, (std::vector<std::pair<TokenId, float>>{{1, 2.5f}, {7, -100.0f}}));
  EXPECT_EQ(seen[0].adjustments->allowed, (std::vector<TokenId>{0, 1, 2}));
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

TEST_F(ServerTest, ARequestIdIsUniqueInFlightOnly) {
  Ready();
  Gate();
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(2);
  request.mutable_request()->set_request_id("twice");
  grpc::ClientContext context;
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_EQ(event.request_id(), "twice");
  EXPECT_EQ(Refusal(request.request()).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  gate_.release(1000);
  while (stream->Read(&event)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(Refusal(request.request()).ok()) << "free again once it has ended";
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

TEST_F(ServerTest, OurClientGeneratesTokenizesAndAsksForStatus) {
  Ready();
  ApiClient client(address_);
  GenerateRequest request;
  request.input = std::string("bc");
  request.stopping.max_tokens = 6;
  request.logprobs = true;
  int seen = 0;
  const auto result = client.Generate(request, [&](const GeneratedToken&) { return ++seen < 100; });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(seen, 6);
  EXPECT_EQ(result->started.prompt, (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(result->token_ids(), Expected(6));
  EXPECT_EQ(result->end.reason, FinishReason::kLength);
  EXPECT_EQ(result->end.usage.prompt_tokens, 2);
  EXPECT_EQ(result->end.fingerprint, "f00d");
  EXPECT_EQ(result->tokens[0].logprob, -0.5f);

  request.stopping.max_tokens = kEndless;
  const auto cancelled = client.Generate(request, [](const GeneratedToken&) { return false; });
  ASSERT_TRUE(cancelled.ok()) << cancelled.status();
  EXPECT_EQ(cancelled->end.reason, FinishReason::kCancelled);
  AwaitIdle();

  request.input = std::string("b\xFF");
  EXPECT_THAT(std::string(client.Generate(request).status().message()), HasSubstr("byte 1"));
  request.input = std::vector<TokenId>{1, 200};
  EXPECT_EQ(ExitStatus(client.Generate(request).status()), kExitUsage) << "the head's code survives";

  const auto status = client.Status(kLimit);
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->state, ClusterState::kReady);
  EXPECT_EQ(status->model, "fake");
  ASSERT_EQ(status->facts.nodes.size(), 2u);
  EXPECT_EQ(status->facts.nodes[1].name, "box");
  EXPECT_EQ(status->facts.nodes[1].leaves, 6);
  EXPECT_EQ(status->facts.nodes[1].pid, 12);
  EXPECT_EQ(status->facts.nodes[1].backend, "reference");
  EXPECT_TRUE(status->facts.nodes[0].head);
}

TEST_F(ServerTest, NobodyThereIsSaidSo) {
  server_->Stop(Duration::zero());
  ApiClient client(address_);
  const auto status = client.Status(kLimit);
  EXPECT_EQ(ExitStatus(status.status()), kExitUnreachable);
  EXPECT_THAT(std::string(status.status().message()), HasSubstr(address_));
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

TEST(GrpcUrl, IsTakenApart) {
  EXPECT_EQ(*AddressOfUrl("grpc://localhost:50051"), "localhost:50051");
  EXPECT_EQ(*AddressOfUrl("grpc://[::1]:7"), "[::1]:7");
  for (const char* bad :
       {"grpc://localhost", "grpc://:1", "grpc://h:0", "grpc://h:70000", "grpc://h:1x", "http://h:1", ""}) {
    EXPECT_FALSE(AddressOfUrl(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace paceline
