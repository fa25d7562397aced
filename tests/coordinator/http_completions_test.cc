// /v1/completions: in one piece and token by token, prompts, choices, logprobs.
#include "gmock/gmock.h"
#include "tests/coordinator/http_fixture.h"

namespace paceline {
namespace {

using ::testing::StartsWith;

TEST_F(HttpFrontTest, ACompletionInOnePiece) {
  Says("hello", 3);
  StartFront();
  const RawAnswer answer = Post("/v1/completions", {{"model", "fake"}, {"prompt", "abc"}, {"seed", 5}},
                                "X-Request-Id: mine-1\r\n");
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.Header("x-request-id"), "mine-1");
  const Json body = Json::parse(answer.body);
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "fake");
  const Json& choice = body["choices"][0];
  EXPECT_EQ(choice["text"], "hello");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_TRUE(choice["logprobs"].is_null());
  EXPECT_EQ(body["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(body["usage"]["completion_tokens"], 6);  // the end is a token too
  EXPECT_EQ(body["usage"]["total_tokens"], 9);
  EXPECT_TRUE(body["timings"].contains("predicted_per_second"));
  EXPECT_TRUE(body["metrics"]["speculative_decoding"].contains("acceptance_histogram"));
}

TEST_F(HttpFrontTest, ACompletionStreamsTokenByToken) {
  Says("hello", 3);
  StartFront();
  const RawAnswer answer =
      Post("/v1/completions",
           {{"prompt", "abc"}, {"stream", true}, {"stream_options", {{"include_usage", true}}}});
  ASSERT_EQ(answer.status, 200);
  EXPECT_THAT(answer.Header("content-type"), StartsWith("text/event-stream"));
  ASSERT_TRUE(answer.complete);
  const std::vector<std::string> frames = Frames(answer.body);
  ASSERT_EQ(frames.size(), 8u);  // five tokens, the finish, the usage, the end
  for (int i = 0; i < 5; ++i) {
    const Json frame = Json::parse(frames[i]);
    EXPECT_EQ(frame["choices"][0]["text"], std::string(1, "hello"[i]));
    EXPECT_TRUE(frame["choices"][0]["finish_reason"].is_null());
    EXPECT_TRUE(frame["usage"].is_null());
    EXPECT_EQ(frame["id"], Json::parse(frames[0])["id"]);
  }
  EXPECT_EQ(Json::parse(frames[5])["choices"][0]["finish_reason"], "stop");
  const Json usage = Json::parse(frames[6]);
  EXPECT_EQ(usage["choices"].size(), 0u);
  EXPECT_EQ(usage["usage"]["completion_tokens"], 6);
  EXPECT_EQ(frames[7], "[DONE]");
}

TEST_F(HttpFrontTest, DraftedTokensShareAWriteAndNotAFrame) {
  Says("hello world", 1);
  trunk_.right_drafts = [](const SequenceRows& rows, const std::vector<TokenId>&) {
    return rows.draft_depth;
  };
  Gate();
  StartFront();
  RawConnection client(port_);
  ASSERT_TRUE(client.Send(
      RawPost("/v1/completions",
              R"({"prompt":"a","stream":true,"speculation":{"mode":"fixed","max_draft_tokens":3}})")));
  gate_.release();
  client.TakeHead();
  EXPECT_EQ(Frames(client.Chunk()).size(), 1u);  // the prompt's own
  gate_.release();
  EXPECT_EQ(Frames(client.Chunk()).size(), 4u);  // three drafts and one more
  gate_.release(100);
  const std::string rest = client.Chunk();
  EXPECT_FALSE(rest.empty());
}

TEST_F(HttpFrontTest, SeveralPromptsAndChoices) {
  Says("xy", 2);
  StartFront();
  const Json body = Json::parse(
      Post("/v1/completions", {{"prompt", {"ab", "cd"}}, {"n", 2}, {"max_tokens", 1}, {"echo", true}}).body);
  ASSERT_EQ(body["choices"].size(), 4u) << body;
  EXPECT_EQ(body["choices"][1]["text"], "abx");
  EXPECT_EQ(body["choices"][2]["text"], "cdx");
  EXPECT_EQ(body["choices"][3]["index"], 3);
  EXPECT_EQ(body["choices"][3]["finish_reason"], "length");
  EXPECT_EQ(body["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(body["usage"]["completion_tokens"], 4);
}

TEST_F(HttpFrontTest, ChoicesHaveNoiseOfTheirOwn) {
  std::mutex mutex;
  std::map<uint32_t, uint64_t> seen;  // choice -> seed
  trunk_.before_step = [&](const StepPlan& plan) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (const SequenceRows& rows : plan.sequences) seen[rows.sampling.choice] = rows.sampling.seed;
    return absl::OkStatus();
  };
  Says("x", 1);
  StartFront();
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "a"}, {"n", 3}}).status, 200);
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0], seen[1]);
  EXPECT_EQ(seen[0], seen[2]);
}

TEST_F(HttpFrontTest, LogprobsOfBothEndpoints) {
  Says("xy", 1);
  StartFront();
  const Json old = Json::parse(Post("/v1/completions", {{"prompt", "a"}, {"logprobs", 1}}).body);
  const Json& lists = old["choices"][0]["logprobs"];
  EXPECT_EQ(lists["tokens"], Json({"x", "y"}));
  EXPECT_EQ(lists["token_logprobs"].size(), 2u);
  EXPECT_EQ(lists["text_offset"], Json({0, 1}));
  prompt_tokens_ = std::string("user: a\nassistant: ").size();
  const Json chat = Json::parse(
      Post("/v1/chat/completions",
           {{"messages", {{{"role", "user"}, {"content", "a"}}}}, {"logprobs", true}, {"top_logprobs", 2}})
          .body);
  const Json& content = chat["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 2u) << chat;
  EXPECT_EQ(content[0]["token"], "x");
  EXPECT_EQ(content[0]["bytes"], Json({'x'}));
  EXPECT_TRUE(content[0].contains("logprob"));
  EXPECT_TRUE(content[0].contains("top_logprobs"));
}

TEST_F(HttpFrontTest, ThePromptIsScoredWhereAsked) {
  prompt_tokens_ = 3;
  Says("xy", 3);
  StartFront();
  const TokenId b = tokenizer_.Encode("b", true)->front();
  const Json echoed = Json::parse(
      Post("/v1/completions", {{"prompt", "abc"}, {"logprobs", 1}, {"echo", true}, {"max_tokens", 2}}).body);
  const Json& choice = echoed["choices"][0];
  EXPECT_EQ(choice["text"], "abcxy");
  EXPECT_EQ(choice["logprobs"]["tokens"], Json({"a", "b", "c", "x", "y"}));
  EXPECT_EQ(choice["logprobs"]["text_offset"], Json({0, 1, 2, 3, 4}));
  EXPECT_EQ(choice["logprobs"]["token_logprobs"][0], nullptr);
  EXPECT_EQ(choice["logprobs"]["token_logprobs"][2].get<float>(), FakeTrunk::ScoreOf(b, b + 1));
  EXPECT_FALSE(choice.contains("prompt_logprobs"));

  const Json scored = Json::parse(
      Post("/v1/completions", {{"prompt", "abc"}, {"prompt_logprobs", 1}, {"max_tokens", 2}}).body);
  const Json& list = scored["choices"][0]["prompt_logprobs"];
  ASSERT_EQ(list.size(), 3u) << scored;
  EXPECT_EQ(list[0], nullptr);
  EXPECT_EQ(list[1].size(), 2u) << "the token itself and the likeliest";
  EXPECT_EQ(list[1][std::to_string(b)]["decoded_token"], "b");
  EXPECT_EQ(list[1][std::to_string(b)]["rank"], 1 + b);
  const RawAnswer streamed =
      Post("/v1/completions", {{"prompt", "abc"}, {"prompt_logprobs", 1}, {"stream", true}});
  EXPECT_EQ(streamed.status, 400);
  EXPECT_EQ(Json::parse(streamed.body)["error"]["param"], "prompt_logprobs");
  EXPECT_EQ(Json::parse(
                Post("/v1/completions", {{"prompt", "abc"}, {"prompt_logprobs", 21}}).body)["error"]["param"],
            "prompt_logprobs");
}

}  // namespace
}  // namespace paceline
