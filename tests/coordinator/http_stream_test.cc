// Streams byte by byte: characters, silence, failures in the middle, clients that leave.
#include "gmock/gmock.h"
#include "tests/coordinator/http_fixture.h"

namespace paceline {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;

TEST_F(HttpFrontTest, APartialCharacterWaitsForItsRest) {
  Says("a\xF0\x9F\x9A\xB4z\xC3\xA9", 1);
  Gate();
  StartFront();
  RawConnection client(port_);
  ASSERT_TRUE(client.Send(RawPost("/v1/completions", R"({"prompt":"a","stream":true})")));
  // Step by step: each token has its own frame, and no frame holds half a character.
  std::vector<std::string> texts;
  gate_.release();
  client.TakeHead();
  for (int i = 0; i < 8; ++i) {
    const std::string chunk = client.Chunk();
    const std::vector<std::string> frames = Frames(chunk);
    ASSERT_EQ(frames.size(), 1u) << chunk;
    texts.push_back(Json::parse(frames[0])["choices"][0]["text"]);
    gate_.release();
  }
  EXPECT_THAT(texts, ElementsAre("a", "", "", "", "\xF0\x9F\x9A\xB4", "z", "", "\xC3\xA9"));
}

TEST_F(HttpFrontTest, AFailureInTheMiddleIsAFrame) {
  Says("hello", 1);
  trunk_.row_error = [](const SequenceRows&, const std::vector<TokenId>& prefix) {
    return prefix.size() < 4 ? absl::OkStatus()
                             : absl::Status(absl::StatusCode::kDataLoss, "REQ-003: no number");
  };
  StartFront();
  const RawAnswer stream = Post("/v1/completions", {{"prompt", "a"}, {"stream", true}});
  EXPECT_EQ(stream.status, 200);
  const std::vector<std::string> frames = Frames(stream.body);
  const Json last = Json::parse(frames.back());  // and no [DONE]
  EXPECT_EQ(last["error"]["type"], "server_error");
  EXPECT_EQ(last["error"]["code"], "non_finite");
  // In one piece it is a status.
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "a"}}).status, 500);
}

TEST_F(HttpFrontTest, AClientThatLeavesFreesItsPlace) {
  says_.assign(3000, 20);
  prompt_tokens_ = 1;
  Gate();
  StartFront();
  for (const bool stream : {true, false}) {
    auto client = std::make_unique<RawConnection>(port_);
    ASSERT_TRUE(
        client->Send(RawPost("/v1/completions", Json{{"prompt", "a"}, {"n", 2}, {"stream", stream}}.dump())));
    while (engine_->stats().running < 2) {
      gate_.release();
      std::this_thread::yield();
    }
    client.reset();
    // 3,000 steps would be needed to end by itself; permits are given only while it runs.
    const int64_t before = trunk_.steps();
    while (engine_->stats().running > 0) {
      gate_.release();
      std::this_thread::yield();
    }
    EXPECT_LT(trunk_.steps() - before, 2900);
    AwaitIdle();
  }
}

// The step takes as long as it takes. The connection is closed, the front gone with its server, and only then
// the engine has something to say.
TEST_F(HttpFrontTest, AnAnswerMayOutliveItsFront) {
  says_.assign(3000, 20);
  prompt_tokens_ = 1;
  Gate();
  StartFront();
  RawConnection stream(port_), whole(port_);
  for (RawConnection* const client : {&stream, &whole}) {
    ASSERT_TRUE(client->Send(
        RawPost("/v1/completions", Json{{"prompt", "a"}, {"stream", client == &stream}}.dump())));
    if (client == &stream) client->TakeHead();  // so it has started
  }
  front_.reset();
  gate_.release(1 << 18);
  AwaitIdle();
}

TEST_F(HttpFrontTest, SilenceIsFilled) {
  options_.heartbeat = std::chrono::milliseconds(20);
  Says("x", 1);
  Gate();
  StartFront();
  RawConnection client(port_);
  ASSERT_TRUE(client.Send(RawPost("/v1/completions", R"({"prompt":"a","stream":true})")));
  client.TakeHead();
  EXPECT_THAT(client.Chunk(), StartsWith(":"));  // a comment, while the step stands at the gate
  EXPECT_THAT(client.Chunk(), StartsWith(":"));
  gate_.release(10);
  std::string chunk = client.Chunk();
  while (chunk.front() == ':') chunk = client.Chunk();
  EXPECT_THAT(chunk, StartsWith("data: "));
}

}  // namespace
}  // namespace paceline
