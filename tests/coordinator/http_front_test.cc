// The HTTP API over a real server and a real engine, with a trunk and a tokenizer that say what a test wants
// said: routes, keys, streams byte by byte, errors, clients that leave. The model that really chats is asked
// in tests/end_to_end/openai_test.py.
#include <atomic>
#include <chrono>
#include <mutex>
#include <semaphore>
#include <thread>

#include "coordinator/api_error.h"
#include "coordinator/generation.h"
#include "coordinator/http/front.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fake_tokenizer.h"
#include "tests/coordinator/fake_trunk.h"
#include "tests/coordinator/raw_http.h"

namespace paceline {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr TokenId kEnd = 0;

class FakeCluster final : public ClusterView {
 public:
  ClusterFacts Facts() const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return facts_;
  }
  void Lose(const std::string& sentence) {
    const std::lock_guard<std::mutex> lock(mutex_);
    facts_.degraded = sentence;
  }
  FakeCluster() {
    facts_.nodes.resize(2);
    facts_.nodes[0] = {"head", true, 11, "127.0.0.1:1", NodeState::kReady, 4, 8, 1000, "cpu", "f00d"};
    facts_.nodes[1] = {"box", false, 12, "127.0.0.1:2", NodeState::kReady, 3, 6, 900, "cpu", "f00d"};
  }

 private:
  mutable std::mutex mutex_;
  ClusterFacts facts_;
};

// A line per message, and a thinking block that the prompt opens when it is told to.
constexpr char kTemplate[] =
    "{%- for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}assistant: {% if enable_thinking %}{{ '<think>\\n' }}{% endif %}{%- "
    "endif %}";

// One token per character of these, besides the end. Enough for prompts and for what the model says.
std::vector<std::string> Vocabulary() {
  std::vector<std::string> tokens = {"<end>"};
  for (char c = ' '; c <= '~'; ++c) tokens.emplace_back(1, c);
  tokens.emplace_back("\n");
  for (const char* const byte : {"\xF0", "\x9F", "\x9A", "\xB4", "\xC3", "\xA9"}) tokens.emplace_back(byte);
  return tokens;
}

class HttpFrontTest : public ::testing::Test {
 protected:
  HttpFrontTest() : trunk_(Info(), 64, [this](const std::vector<TokenId>& prefix) { return Draw(prefix); }) {}

  void SetUp() override {
    GenerationDefaults defaults;
    defaults.temperature = 0.0f;
    defaults.eos_token_ids = {kEnd};
    SchedulerOptions scheduling;
    scheduling.speculation.mode = DraftMode::kOff;  // but where a request asks
    engine_ = std::make_unique<Engine>(Engine::Parts{&trunk_, &tokenizer_, &cluster_}, defaults, scheduling);
    state_ = std::make_unique<ServingState>(cluster_);
    auto chat_template = ChatTemplate::Create(kTemplate);
    ASSERT_TRUE(chat_template.ok()) << chat_template.status();
    chat_template_ = *std::move(chat_template);
    options_.metrics.version = "1.2.3";
  }
  void TearDown() override {
    gate_.release(1 << 19);
    front_.reset();
    engine_.reset();
  }
  void StartFront(bool ready = true) {
    engine_->Start();
    state_->SetServing(ready);
    front_ = std::make_unique<HttpFront>(*engine_, *state_, cluster_, chat_template_.get(), options_);
    const absl::StatusOr<int> port = front_->Start("127.0.0.1", 0);
    ASSERT_TRUE(port.ok()) << port.status();
    port_ = *port;
  }
  static TrunkInfo Info() {
    TrunkInfo info = FakeTrunk::SmallInfo();
    info.vocab = 110;
    info.context = 4096;
    info.pages = 64;
    info.drafters = {DraftSource::kMtp};
    return info;
  }
  // The model says `says_` behind the prompt, whose end it finds by its length, then ends.
  TokenId Draw(const std::vector<TokenId>& prefix) {
    const size_t at = prefix.size() - prompt_tokens_;
    return at < says_.size() ? says_[at] : kEnd;
  }
  // What the model will say to a prompt of so many tokens.
  void Says(const std::string& text, size_t prompt_tokens) {
    says_ = *tokenizer_.Encode(text, true);
    prompt_tokens_ = prompt_tokens;
  }
  void Gate() {
    trunk_.before_step = [this](const StepPlan&) {
      gate_.acquire();
      return absl::OkStatus();
    };
  }
  RawAnswer Get(const std::string& path, const std::string& headers = "") {
    return RawConnection(port_).Ask(RawGet(path, headers));
  }
  RawAnswer Post(const std::string& path, const Json& body, const std::string& headers = "") {
    return RawConnection(port_).Ask(RawPost(path, body.dump(), headers));
  }
  static std::vector<std::string> Frames(const std::string& body) {
    std::vector<std::string> frames;
    size_t at = 0;
    for (size_t end; (end = body.find("\n\n", at)) != std::string::npos; at = end + 2) {
      const std::string frame = body.substr(at, end - at);
      EXPECT_THAT(frame, StartsWith("data: "));
      frames.push_back(frame.substr(6));
    }
    EXPECT_EQ(at, body.size());
    return frames;
  }
  void AwaitIdle() {
    const TimePoint deadline = Clock::Real().Now() + std::chrono::seconds(60);
    while (engine_->stats().running + engine_->stats().waiting > 0 && Clock::Real().Now() < deadline)
      std::this_thread::yield();
    EXPECT_EQ(engine_->stats().running, 0);
    EXPECT_EQ(engine_->stats().pages_used, 0);
  }

  FakeCluster cluster_;
  FakeTokenizer tokenizer_{Vocabulary(), {kEnd}};
  std::vector<TokenId> says_;
  size_t prompt_tokens_ = 0;
  FakeTrunk trunk_;
  std::counting_semaphore<1 << 20> gate_{0};
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ServingState> state_;
  std::unique_ptr<ChatTemplate> chat_template_;
  HttpOptions options_;
  std::unique_ptr<HttpFront> front_;
  int port_ = 0;
};

TEST_F(HttpFrontTest, Routes) {
  StartFront();
  EXPECT_EQ(Get("/version").body, R"({"version":"1.2.3"})");
  const Json models = Json::parse(Get("/v1/models").body);
  EXPECT_EQ(models["object"], "list");
  EXPECT_EQ(models["data"][0]["id"], "fake");
  EXPECT_EQ(models["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(Json::parse(Get("/v1/models/fake").body)["object"], "model");
  const RawAnswer other = Get("/v1/models/some%2Fother");
  EXPECT_EQ(other.status, 404);
  EXPECT_EQ(Json::parse(other.body)["error"]["code"], "model_not_found");
  EXPECT_THAT(Get("/metrics").body, HasSubstr("vllm:num_requests_running"));
  EXPECT_EQ(Json::parse(Get("/cluster").body)["nodes"][1]["name"], "box");
  const RawAnswer page = Get("/");
  EXPECT_THAT(page.body, HasSubstr("</html>"));
  EXPECT_THAT(page.Header("content-security-policy"), HasSubstr("default-src 'none'"));
  EXPECT_EQ(Get("/nothing").status, 404);
  EXPECT_EQ(Get("/v1/completions").status, 405);
  EXPECT_EQ(Post("/version", {}).status, 405);
}

TEST_F(HttpFrontTest, NoPageWhereItIsOff) {
  options_.page = false;
  StartFront();
  EXPECT_EQ(Get("/").status, 404);
}

TEST_F(HttpFrontTest, ReadinessIsTrue) {
  StartFront(/*ready=*/false);
  EXPECT_EQ(Get("/livez").status, 200);
  for (const char* const path : {"/health", "/ready", "/readyz", "/ping"}) {
    const RawAnswer loading = Get(path);
    EXPECT_EQ(loading.status, 503) << path;
    EXPECT_EQ(Json::parse(loading.body)["status"], "loading");
    EXPECT_EQ(loading.Header("retry-after"), "5");
  }
  const RawAnswer refused = Post("/v1/completions", {{"prompt", "a"}});
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(Json::parse(refused.body)["error"]["code"], "model_loading");
  EXPECT_EQ(Post("/v1/messages", {{"max_tokens", 1}, {"messages", Json::array()}}).status, 529);
  state_->SetServing(true);
  EXPECT_EQ(Get("/health").status, 200);
  cluster_.Lose("NET-001: worker box is lost");
  const RawAnswer degraded = Get("/health");
  EXPECT_EQ(degraded.status, 503);
  EXPECT_THAT(degraded.body, HasSubstr("worker box is lost"));
  const RawAnswer lost = Post("/v1/completions", {{"prompt", "a"}});
  EXPECT_EQ(lost.status, 503);
  EXPECT_EQ(Json::parse(lost.body)["error"]["code"], "node_lost");
  EXPECT_EQ(lost.Header("x-should-retry"), "true");
  cluster_.Lose("");
  EXPECT_EQ(Get("/health").status, 200);
  state_->SetDraining();
  EXPECT_EQ(Json::parse(Get("/ready").body)["status"], "draining");
}

TEST_F(HttpFrontTest, KeysOpenEverythingButProbes) {
  options_.keys = *ApiKeys::Parse("ann secret-of-ann\nsecret-of-nobody", "keys");
  StartFront();
  for (const char* const path : {"/health", "/ready", "/readyz", "/livez", "/ping"})
    EXPECT_EQ(Get(path).status, 200) << path;
  for (const char* const path : {"/v1/models", "/metrics", "/version", "/cluster", "/", "/nothing"}) {
    const RawAnswer refused = Get(path);
    EXPECT_EQ(refused.status, 401) << path;
    const Json error = Json::parse(refused.body)["error"];
    EXPECT_EQ(error["type"], "authentication_error");
    EXPECT_EQ(error["code"], "invalid_api_key");
  }
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "a"}}).status, 401);
  EXPECT_EQ(Json::parse(Post("/v1/messages", {}).body)["error"]["type"], "authentication_error");
  EXPECT_EQ(Get("/v1/models", "Authorization: Bearer secret-of-ann\r\n").status, 200);
  EXPECT_EQ(Get("/v1/models", "authorization: bearer  secret-of-nobody\r\n").status, 200);
  EXPECT_EQ(Get("/v1/models", "x-api-key: secret-of-ann\r\n").status, 200);
  EXPECT_EQ(Get("/v1/models", "Authorization: Bearer secret-of-ben\r\n").status, 401);
  EXPECT_EQ(Get("/v1/models", "Authorization: Bearer secret-of-an\r\n").status, 401);
  EXPECT_THAT(Get("/").Header("www-authenticate"), StartsWith("Basic"));
  EXPECT_EQ(Get("/", "Authorization: Basic YW55Ym9keTpzZWNyZXQtb2YtYW5u\r\n").status, 200);
}

TEST_F(HttpFrontTest, PagesOfOthersMayNotAsk) {
  StartFront();
  const std::string preflight =
      "OPTIONS /v1/completions HTTP/1.1\r\nHost: test\r\nOrigin: http://evil\r\n"
      "Access-Control-Request-Method: POST\r\n\r\n";
  EXPECT_EQ(RawConnection(port_).Ask(preflight).status, 403);
  EXPECT_EQ(Get("/v1/models", "Origin: http://evil\r\n").Header("access-control-allow-origin"), "");
  // What a form can send without asking.
  const std::string form =
      "POST /v1/completions HTTP/1.1\r\nHost: test\r\nOrigin: http://evil\r\n"
      "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
  EXPECT_EQ(RawConnection(port_).Ask(form).status, 415);
}

TEST_F(HttpFrontTest, AnOriginMayBeAllowed) {
  options_.cors_origins = {"http://good"};
  StartFront();
  const auto preflight = [&](const std::string& origin) {
    return RawConnection(port_).Ask("OPTIONS /v1/completions HTTP/1.1\r\nHost: test\r\nOrigin: " + origin +
                                    "\r\nAccess-Control-Request-Method: POST\r\n"
                                    "Access-Control-Request-Headers: content-type\r\n\r\n");
  };
  const RawAnswer good = preflight("http://good");
  EXPECT_EQ(good.status, 204);
  EXPECT_EQ(good.Header("access-control-allow-origin"), "http://good");
  EXPECT_EQ(good.Header("access-control-allow-headers"), "content-type");
  EXPECT_EQ(preflight("http://evil").status, 403);
  EXPECT_EQ(Get("/v1/models", "Origin: http://good\r\n").Header("access-control-allow-origin"),
            "http://good");
}

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

TEST_F(HttpFrontTest, ARequestThatDoesNotFitIsRefusedBeforeItsStream) {
  StartFront();
  const RawAnswer answer = Post("/v1/completions", {{"prompt", std::string(5000, 'a')}, {"stream", true}});
  EXPECT_EQ(answer.status, 400);
  const Json error = Json::parse(answer.body)["error"];
  EXPECT_EQ(error["code"], "context_length_exceeded");
  EXPECT_EQ(error["type"], "invalid_request_error");
  EXPECT_TRUE(error.contains("param"));
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("5000 tokens"));
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "abc"}, {"max_tokens", 4094}}).status, 400);
  Says("x", 3);
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "abc"}, {"max_tokens", 4093}}).status, 200);
}

TEST_F(HttpFrontTest, AWrongFieldIsNamed) {
  StartFront();
  const std::pair<Json, const char*> cases[] = {
      {{{"prompt", "a"}, {"temperature", "hot"}}, "temperature"},
      {{{"prompt", "a"}, {"temperature", -1}}, "temperature"},
      {{{"prompt", "a"}, {"top_p", 2}}, "top_p"},
      {{{"prompt", "a"}, {"stop", {"a", 3}}}, "stop[1]"},
      {{{"prompt", "a"}, {"stop", ""}}, "stop"},
      {{{"prompt", "a"}, {"max_tokens", 0}}, "max_tokens"},
      {{{"prompt", "a"}, {"max_tokens", 1.5}}, "max_tokens"},
      {{{"prompt", "a"}, {"logit_bias", {{"x", 1}}}}, "logit_bias"},
      {{{"prompt", "a"}, {"logit_bias", {{"5", 101}}}}, "logit_bias"},
      {{{"prompt", "a"}, {"logprobs", 6}}, "logprobs"},
      {{{"prompt", "a"}, {"n", 0}}, "n"},
      {{{"prompt", "a"}, {"stream_options", 3}}, "stream_options"},
      {{{"prompt", {1, 2, 4000}}}, "prompt"},
      {{{"prompt", {1, -2}}}, "prompt[1]"},
      {{{"prompt", Json::array()}}, "prompt"},
      {Json::object(), "prompt"},
      {{{"prompt", "a"}, {"suffix", "b"}}, "suffix"},
      {{{"prompt", "a"}, {"response_format", {{"type", "xml"}}}}, "response_format.type"},
      {{{"prompt", "a"}, {"speculation", {{"mode", "wild"}}}}, "speculation.mode"},
      {Json::array(), "body"},
  };
  for (const auto& [body, param] : cases) {
    const RawAnswer answer = Post("/v1/completions", body);
    EXPECT_EQ(answer.status, 400) << body << answer.body;
    const Json error = Json::parse(answer.body)["error"];
    EXPECT_EQ(error["param"], param) << error;
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(param));
    EXPECT_EQ(answer.Header("x-should-retry"), "false");
  }
  const RawAnswer broken = RawConnection(port_).Ask(RawPost("/v1/completions", "{\"prompt\":"));
  EXPECT_EQ(broken.status, 400);
  const RawAnswer model = Post("/v1/completions", {{"prompt", "a"}, {"model", "gpt-9"}});
  EXPECT_EQ(model.status, 404);
  EXPECT_EQ(Json::parse(model.body)["error"]["code"], "model_not_found");
}

TEST(HttpBody, MembersAreLimited) {
  const auto object = [](int members) {
    std::string text = "{";
    for (int i = 0; i < members; ++i) text += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":0";
    return text + "}";
  };
  EXPECT_TRUE(ParseBody(object(10'000)).ok());
  EXPECT_EQ(FactsOf(ParseBody(object(200'000)).status()).field, "body");
  std::string many = "[";
  for (int i = 0; i < 100; ++i) many += object(3000) + ",";
  EXPECT_FALSE(ParseBody(many + "0]").ok());
  EXPECT_TRUE(ParseBody("\"" + std::string(100'000, ':') + "\"").ok());  // colons that are text
}

TEST_F(HttpFrontTest, UnknownFieldsAreIgnoredUnlessToldOtherwise) {
  Says("x", 1);
  StartFront();
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "a"}, {"novelty", 1}}).status, 200);
}

TEST_F(HttpFrontTest, UnknownFieldsAreRefusedWhereToldSo) {
  options_.strict = true;
  Says("x", 1);
  StartFront();
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "a"}, {"user", "me"}}).status, 200);
  const RawAnswer answer = Post("/v1/completions", {{"prompt", "a"}, {"novelty", 1}});
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(Json::parse(answer.body)["error"]["param"], "novelty");
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

TEST_F(HttpFrontTest, TimeLimitBeforeTheFirstToken) {
  Says("x", 1);
  Gate();
  StartFront();
  RawConnection client(port_);
  ASSERT_TRUE(client.Send(RawPost("/v1/completions", R"({"prompt":"a","timeout":1e-9})")));
  gate_.release(10);
  const RawAnswer answer = client.Answer();
  EXPECT_EQ(answer.status, 408);
  EXPECT_EQ(answer.Header("x-should-retry"), "false");
}

TEST_F(HttpFrontTest, TextToTokensAndBack) {
  StartFront();
  const Json ids =
      Json::parse(Post("/tokenize", {{"prompt", "a\xC3\xA9"}, {"return_token_strs", true}}).body);
  EXPECT_EQ(ids["count"], 3);
  EXPECT_EQ(ids["max_model_len"], 4096);
  EXPECT_EQ(ids["token_strs"][0], "a");
  EXPECT_EQ(Json::parse(Post("/detokenize", {{"tokens", ids["tokens"]}}).body)["prompt"], "a\xC3\xA9");
  const Json pieces = Json::parse(Post("/tokenize", {{"content", "\xC3\xA9"}, {"with_pieces", true}}).body);
  EXPECT_EQ(pieces["tokens"][0]["piece"], Json({0xC3}));
  const Json chat =
      Json::parse(Post("/tokenize", {{"messages", {{{"role", "user"}, {"content", "a"}}}}}).body);
  EXPECT_EQ(chat["count"], std::string("user: a\nassistant: ").size());
  EXPECT_EQ(
      Json::parse(
          Post("/apply-template", {{"messages", {{{"role", "user"}, {"content", "a"}}}}}).body)["prompt"],
      "user: a\nassistant: ");
  EXPECT_EQ(Post("/detokenize", {{"tokens", {100000}}}).status, 400);
  EXPECT_EQ(Post("/tokenize", Json::object()).status, 400);
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

TEST(ApiKeysTest, File) {
  const auto keys = ApiKeys::Parse("# who may\nann   0123456789\n\n  abcdefghij # nobody's\n", "keys");
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->size(), 2u);
  ASSERT_NE(keys->NameOf("Bearer abcdefghij", ""), nullptr);
  EXPECT_EQ(*keys->NameOf("Bearer abcdefghij", ""), "key-2");
  EXPECT_EQ(*keys->NameOf("Bearer abcdefghij", "0123456789"), "ann");
  EXPECT_EQ(keys->NameOf("Bearer abcdefghi", ""), nullptr);
  const auto message = [](std::string_view text) {
    return std::string(ApiKeys::Parse(text, "keys").status().message());
  };
  EXPECT_THAT(message("ann 0123456789\nben short"), HasSubstr("keys, line 2: a key needs at least 8"));
  EXPECT_THAT(message("ann 0123456789\nann 9876543210"), HasSubstr("ann stands in the file twice"));
  EXPECT_THAT(message("ann 0123456789\nben 0123456789"), HasSubstr("the same as that of ann"));
  EXPECT_THAT(message("ann ben 0123456789"), HasSubstr("NAME KEY"));
  EXPECT_THAT(message("# none\n"), HasSubstr("holds no key"));
  EXPECT_THAT(message("ben short"), Not(HasSubstr("short")));  // a key never shows in an error
  EXPECT_FALSE(ApiKeys::Load("/no/such/file").ok());
}

}  // namespace
}  // namespace paceline
