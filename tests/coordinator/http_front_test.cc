// Routes, keys, origins, readiness, and what every endpoint refuses in the same way.
#include "coordinator/api_error.h"
#include "gmock/gmock.h"
#include "tests/coordinator/http_fixture.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

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
