// What the four APIs do alike, each in its words: a prompt that does not fit is refused before a stream
// begins, and no byte that a stream writes is part of a character.
#include "coordinator/utf8.h"
#include "gmock/gmock.h"
#include "tests/coordinator/http_fixture.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;

struct Dialect {
  const char* path;
  const char* limit;  // its name for max_tokens
  // The member that has the prompt, as a text of the user.
  Json (*prompt)(const std::string& text);
  // Characters, tokens here, that the template puts around it.
  size_t around;
  // The text of one event of a stream, and that of an answer in one piece.
  std::string (*delta)(const Json& event);
  std::string (*whole)(const Json& body);
};

Json UserMessage(const std::string& text) { return Json::array({{{"role", "user"}, {"content", text}}}); }
constexpr size_t kAround = sizeof("user: \nassistant: ") - 1;

const Dialect kDialects[] = {
    {"/v1/completions", "max_tokens", [](const std::string& text) { return Json{{"prompt", text}}; }, 0,
     [](const Json& event) {
       return event["choices"].empty() ? "" : event["choices"][0]["text"].get<std::string>();
     },
     [](const Json& body) { return body["choices"][0]["text"].get<std::string>(); }},
    {"/v1/chat/completions", "max_completion_tokens",
     [](const std::string& text) { return Json{{"messages", UserMessage(text)}}; }, kAround,
     [](const Json& event) {
       return event["choices"].empty() ? "" : event["choices"][0]["delta"].value("content", "");
     },
     [](const Json& body) { return body["choices"][0]["message"]["content"].get<std::string>(); }},
    {"/v1/responses", "max_output_tokens", [](const std::string& text) { return Json{{"input", text}}; },
     kAround,
     [](const Json& event) {
       return event["type"] == "response.output_text.delta" ? event["delta"].get<std::string>() : "";
     },
     [](const Json& body) { return body["output"][0]["content"][0]["text"].get<std::string>(); }},
    {"/v1/messages", "max_tokens",
     [](const std::string& text) { return Json{{"messages", UserMessage(text)}}; }, kAround,
     [](const Json& event) {
       return event["type"] == "content_block_delta" ? event["delta"]["text"].get<std::string>() : "";
     },
     [](const Json& body) { return body["content"][0]["text"].get<std::string>(); }},
};

Json Body(const Dialect& dialect, const std::string& text, size_t limit, bool stream) {
  Json body = dialect.prompt(text);
  body[dialect.limit] = limit;
  body["stream"] = stream;
  return body;
}

TEST_F(HttpFrontTest, APromptOneTokenOverTheContextIsRefusedBeforeAnyStream) {
  StartFront();
  const auto context = static_cast<size_t>(Info().context);
  for (const Dialect& dialect : kDialects) {
    for (const bool stream : {false, true}) {
      SCOPED_TRACE(std::string(dialect.path) + (stream ? ", stream" : ""));
      const auto ask = [&](size_t prompt_tokens, size_t limit) {
        Says("x", prompt_tokens);
        const std::string text(prompt_tokens - dialect.around, 'a');
        return Post(dialect.path, Body(dialect, text, limit, stream));
      };
      const RawAnswer fits = ask(context - 1, 1);
      EXPECT_EQ(fits.status, 200) << fits.body;
      AwaitIdle();
      for (const size_t limit : {size_t{1}, size_t{2}}) {  // a prompt too long; too much of an answer
        const RawAnswer over = ask(context + 1 - limit, limit);
        EXPECT_EQ(over.status, 400) << over.body;
        EXPECT_THAT(over.Header("content-type"), HasSubstr("application/json"));
        const Json error = Json::parse(over.body)["error"];
        EXPECT_EQ(error["type"], "invalid_request_error");
        EXPECT_THAT(error["message"].get<std::string>(),
                    HasSubstr(std::to_string(context + 1 - limit) + " tokens"));
        if (std::string(dialect.path) != "/v1/messages") {
          EXPECT_EQ(error["code"], "context_length_exceeded");
        }
      }
    }
  }
}

// The payloads of server-sent events, but for the closing word.
std::vector<Json> Events(const std::string& stream) {
  std::vector<Json> events;
  size_t at = 0;
  for (size_t end; (end = stream.find("\n\n", at)) != std::string::npos; at = end + 2) {
    const std::string event = stream.substr(at, end - at);
    const size_t data = event.find("data: ");
    EXPECT_NE(data, std::string::npos) << event;
    const std::string payload = event.substr(data + 6);
    if (payload != "[DONE]") events.push_back(Json::parse(payload));
  }
  EXPECT_EQ(at, stream.size());
  return events;
}

TEST_F(HttpFrontTest, NoWriteOfAStreamHoldsPartOfACharacter) {
  const std::string says = "a\xF0\x9F\x9A\xB4z\xC3\xA9";  // a token per byte
  StartFront();
  for (const Dialect& dialect : kDialects) {
    // 3: the text is cut off inside its second character.
    for (const size_t limit : {size_t{20}, size_t{3}}) {
      SCOPED_TRACE(std::string(dialect.path) + ", " + std::to_string(limit));
      Says(says, 1 + dialect.around);
      RawConnection client(port_);
      ASSERT_TRUE(client.Send(RawPost(dialect.path, Body(dialect, "a", limit, true).dump())));
      client.TakeHead();
      std::string stream, text;
      for (std::string chunk = client.Chunk(); !chunk.empty(); chunk = client.Chunk()) {
        EXPECT_EQ(ValidUtf8Prefix(chunk), chunk.size()) << chunk;
        stream += chunk;
      }
      for (const Json& event : Events(stream)) text += dialect.delta(event);
      EXPECT_EQ(text, limit == 3 ? "a\xEF\xBF\xBD" : says);
      // On the wire as it is, not as an escape.
      if (limit != 3) {
        EXPECT_THAT(stream, HasSubstr("\"\xF0\x9F\x9A\xB4\""));
      }
      AwaitIdle();
      const RawAnswer whole = Post(dialect.path, Body(dialect, "a", limit, false));
      ASSERT_EQ(whole.status, 200) << whole.body;
      EXPECT_EQ(dialect.whole(Json::parse(whole.body)), text);
      AwaitIdle();
    }
  }
}

}  // namespace
}  // namespace paceline
