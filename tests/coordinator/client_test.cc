// Our own client of the gRPC API against a real server.
#include "coordinator/client.h"

#include "base/error.h"
#include "gmock/gmock.h"
#include "tests/coordinator/server_fixture.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;

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
