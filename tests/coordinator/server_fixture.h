// A gRPC server over an engine over a trunk without a model, and a channel to it: what the tests of its
// services share.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/engine.h"
#include "coordinator/server.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "paceline/inference/v1/inference.grpc.pb.h"
#include "tests/coordinator/fake_tokenizer.h"
#include "tests/coordinator/fake_trunk.h"
#include "tests/coordinator/two_nodes.h"

namespace paceline {

namespace pb = inference::v1;

inline constexpr Duration kLimit = std::chrono::seconds(60);

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
  TwoNodes cluster_;
  std::counting_semaphore<1 << 20> gate_{0};
  std::counting_semaphore<1 << 20> at_gate_{0};
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ApiServer> server_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::InferenceService::Stub> stub_;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_;
};

}  // namespace paceline
