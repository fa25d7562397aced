// The APIs that take messages: /v1/chat/completions, /v1/responses, /v1/messages.
#include "gmock/gmock.h"
#include "tests/coordinator/http_fixture.h"

namespace paceline {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(HttpFrontTest, AChatThinksAndAnswers) {
  Says("because</think>\n\nyes", std::string("user: why?\nassistant: <think>\n").size());
  StartFront();
  const Json request = {{"messages", {{{"role", "user"}, {"content", "why?"}}}},
                        {"chat_template_kwargs", {{"enable_thinking", true}}}};
  const Json body = Json::parse(Post("/v1/chat/completions", request).body);
  const Json& message = body["choices"][0]["message"];
  EXPECT_EQ(message["role"], "assistant");
  EXPECT_EQ(message["content"], "yes");
  EXPECT_EQ(message["reasoning_content"], "because");
  EXPECT_EQ(message["reasoning"], "because");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(body["choices"][0].contains("logprobs"));
  EXPECT_GT(body["usage"]["completion_tokens_details"]["reasoning_tokens"], 5);

  Json streamed = request;
  streamed["stream"] = true;
  std::string content;
  std::string reasoning;
  const std::vector<std::string> frames = Frames(Post("/v1/chat/completions", streamed).body);
  const Json first = Json::parse(frames.front())["choices"][0]["delta"];
  EXPECT_EQ(first, Json({{"role", "assistant"}, {"content", ""}}));
  for (size_t i = 1; i + 1 < frames.size(); ++i) {
    const Json frame = Json::parse(frames[i]);
    EXPECT_EQ(frame["object"], "chat.completion.chunk");
    const Json& delta = frame["choices"][0]["delta"];
    content += delta.value("content", "");
    reasoning += delta.value("reasoning_content", "");
    EXPECT_EQ(delta.value("reasoning", ""), delta.value("reasoning_content", ""));
  }
  EXPECT_EQ(content, "yes");
  EXPECT_EQ(reasoning, "because");
  EXPECT_EQ(Json::parse(frames[frames.size() - 2])["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(frames.back(), "[DONE]");
}

TEST_F(HttpFrontTest, AnthropicMessages) {
  const size_t prompt = std::string("system: be kind\nuser: hi\nassistant: ").size();
  Says("hello", prompt);
  StartFront();
  const Json request = {
      {"model", "fake"},
      {"max_tokens", 100},
      {"system",
       {{{"type", "text"}, {"text", "x-anthropic-billing-header: 1"}},
        {{"type", "text"}, {"text", "be kind"}}}},
      {"messages", {{{"role", "user"}, {"content", {{{"type", "text"}, {"text", "hi"}}}}}}}};
  const RawAnswer answer = Post("/v1/messages", request);
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json body = Json::parse(answer.body);
  EXPECT_EQ(body["type"], "message");
  EXPECT_EQ(body["content"], Json::parse(R"([{"type":"text","text":"hello"}])"));
  EXPECT_EQ(body["stop_reason"], "end_turn");
  EXPECT_EQ(body["usage"]["input_tokens"], prompt);
  EXPECT_EQ(body["usage"]["output_tokens"], 6);
  EXPECT_EQ(Json::parse(Post("/v1/messages/count_tokens", request).body)["input_tokens"], prompt);

  Json streamed = request;
  streamed["stream"] = true;
  const RawAnswer stream = Post("/v1/messages", streamed);
  std::vector<std::string> kinds;
  for (size_t at = 0; (at = stream.body.find("event: ", at)) != std::string::npos; at += 7)
    kinds.push_back(stream.body.substr(at + 7, stream.body.find('\n', at) - at - 7));
  EXPECT_THAT(
      kinds, ElementsAre("message_start", "content_block_start", "content_block_delta", "content_block_delta",
                         "content_block_delta", "content_block_delta", "content_block_delta",
                         "content_block_stop", "message_delta", "message_stop"));
  EXPECT_THAT(stream.body, HasSubstr("\"input_tokens\":" + std::to_string(prompt)));

  Json stopping = request;
  stopping["stop_sequences"] = {"ll"};
  const Json stopped = Json::parse(Post("/v1/messages", stopping).body);
  EXPECT_EQ(stopped["stop_reason"], "stop_sequence");
  EXPECT_EQ(stopped["stop_sequence"], "ll");
  Json short_one = request;
  short_one["max_tokens"] = 2;
  EXPECT_EQ(Json::parse(Post("/v1/messages", short_one).body)["stop_reason"], "max_tokens");

  const RawAnswer wrong = Post("/v1/messages", {{"messages", Json::array()}});
  EXPECT_EQ(wrong.status, 400);
  const Json error = Json::parse(wrong.body);
  EXPECT_EQ(error["type"], "error");
  EXPECT_EQ(error["error"]["type"], "invalid_request_error");
  EXPECT_EQ(error["request_id"], wrong.Header("request-id"));
}

TEST_F(HttpFrontTest, ResponsesWithoutState) {
  const size_t prompt = std::string("system: be kind\nuser: hi\nassistant: ").size();
  Says("hello", prompt);
  StartFront();
  const Json request = {{"model", "fake"}, {"instructions", "be kind"}, {"input", "hi"}};
  const Json body = Json::parse(Post("/v1/responses", request).body);
  EXPECT_EQ(body["object"], "response");
  EXPECT_EQ(body["status"], "completed");
  EXPECT_EQ(body["output"][0]["content"][0]["text"], "hello");
  EXPECT_EQ(body["usage"]["input_tokens"], prompt);
  Json streamed = request;
  streamed["stream"] = true;
  const std::string stream = Post("/v1/responses", streamed).body;
  int64_t number = 0;
  std::string text;
  std::string last;
  for (size_t at = 0; (at = stream.find("data: ", at)) != std::string::npos; ++at) {
    const Json frame = Json::parse(stream.substr(at + 6, stream.find('\n', at) - at - 6));
    EXPECT_EQ(frame["sequence_number"], number++);
    last = frame["type"];
    if (last == "response.output_text.delta") text += frame["delta"];
  }
  EXPECT_EQ(text, "hello");
  EXPECT_EQ(last, "response.completed");
  EXPECT_EQ(Post("/v1/responses", {{"input", "hi"}, {"previous_response_id", "resp_1"}}).status, 400);
}

}  // namespace
}  // namespace paceline
