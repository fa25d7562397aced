#include "coordinator/http/front.h"

#include <algorithm>
#include <atomic>
#include <ctime>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/http/answer_head.h"
#include "coordinator/http/call.h"
#include "coordinator/http/chat_completions.h"
#include "coordinator/http/fields.h"
#include "coordinator/http/messages.h"
#include "coordinator/http/page.h"
#include "coordinator/http/responses.h"
#include "coordinator/utf8.h"

namespace paceline {
namespace {

constexpr size_t kMaxRequestId = 128;
constexpr char kModelsPrefix[] = "/v1/models/";
constexpr char kNoRoute[] = "none";  // what no route has answered, among calls

bool IsAnthropic(const std::string& path) { return absl::StartsWith(path, "/v1/messages"); }

// What a client may have us repeat: printable ASCII, not too long.
bool GoodId(std::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestId &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

constexpr int kClientGone = 499;  // nginx' word for it; nobody gets to hear it

void Count(CallCounters& calls, const char* call, int status) {
  calls.Count({"http", call, std::to_string(status)});
}

// Puts headers on whatever is answered, and counts it.
class Headed final : public HttpResponse {
 public:
  // `call` lives as long as the program.
  Headed(std::shared_ptr<HttpResponse> inner, HttpHeaders headers, std::shared_ptr<CallCounters> calls,
         const char* call)
      : inner_(std::move(inner)), headers_(std::move(headers)), calls_(std::move(calls)), call_(call) {}
  ~Headed() override { Said(kClientGone); }
  void Send(HttpAnswer answer) override {
    Said(answer.status);
    answer.headers.insert(answer.headers.end(), headers_.begin(), headers_.end());
    inner_->Send(std::move(answer));
  }
  void Begin(int status, HttpHeaders headers) override {
    Said(status);
    headers.insert(headers.end(), headers_.begin(), headers_.end());
    inner_->Begin(status, std::move(headers));
  }
  void Write(std::string bytes) override { inner_->Write(std::move(bytes)); }
  void End() override { inner_->End(); }
  void Abort() override { inner_->Abort(); }
  void Post(std::function<void()> work) override { inner_->Post(std::move(work)); }
  void After(Duration delay, std::function<void()> work) override { inner_->After(delay, std::move(work)); }
  void OnGone(std::function<void()> gone) override { inner_->OnGone(std::move(gone)); }

 private:
  // The first word counts.
  void Said(int status) {
    if (!said_.exchange(true)) Count(*calls_, call_, status);
  }

  const std::shared_ptr<HttpResponse> inner_;
  const HttpHeaders headers_;
  const std::shared_ptr<CallCounters> calls_;
  const char* const call_;
  std::atomic<bool> said_{false};
};

// Seconds since 1970 as RFC 3339 writes them.
std::string TimeText(int64_t seconds) {
  const time_t time = seconds;
  tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  return std::string(text, strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts));
}

// Bytes as clients can read them: text where it is UTF-8, else the bytes as numbers.
Json Piece(std::string_view bytes) {
  if (ValidUtf8Prefix(bytes) == bytes.size()) return std::string(bytes);
  Json numbers = Json::array();
  for (const char c : bytes) numbers.push_back(static_cast<unsigned char>(c));
  return numbers;
}

}  // namespace

struct HttpFront::Route {
  const char* method;
  const char* path;
  void (HttpFront::*handler)(const HttpRequest&, const Responder&);
  bool open = false;   // asked by probes, which have no key
  bool quick = false;  // runs on the server's thread
};

const std::vector<HttpFront::Route>& HttpFront::Routes() {
  static const std::vector<Route> routes = {
      {"POST", "/v1/chat/completions", &HttpFront::ChatCompletions},
      {"POST", "/v1/completions", &HttpFront::Completions},
      {"POST", "/v1/responses", &HttpFront::Responses},
      {"POST", "/v1/messages", &HttpFront::Messages},
      {"POST", "/v1/messages/count_tokens", &HttpFront::CountTokens},
      {"POST", "/tokenize", &HttpFront::Tokenize},
      {"POST", "/detokenize", &HttpFront::Detokenize},
      {"POST", "/apply-template", &HttpFront::ApplyTemplate},
      {"GET", "/v1/models", &HttpFront::Models, false, true},
      {"GET", kModelsPrefix, &HttpFront::OneModel, false, true},
      {"GET", "/health", &HttpFront::Ready, true, true},
      {"GET", "/ready", &HttpFront::Ready, true, true},
      {"GET", "/readyz", &HttpFront::Ready, true, true},
      {"GET", "/ping", &HttpFront::Ready, true, true},
      {"GET", "/livez", &HttpFront::Live, true, true},
      {"GET", "/metrics", &HttpFront::Metrics, false, true},
      {"GET", "/version", &HttpFront::Version, false, true},
      {"GET", "/cluster", &HttpFront::Cluster, false, true},
      {"GET", "/", &HttpFront::Page, false, true},
  };
  return routes;
}

const HttpFront::Route* HttpFront::Find(const std::string& path, const std::string& method,
                                        bool* path_known) {
  *path_known = false;
  for (const Route& route : Routes()) {
    const bool prefix = std::string_view(route.path) == kModelsPrefix;
    if (prefix ? !absl::StartsWith(path, kModelsPrefix) : path != route.path) continue;
    *path_known = true;
    if (method == route.method || (method == "HEAD" && std::string_view(route.method) == "GET"))
      return &route;
  }
  return nullptr;
}

HttpFront::HttpFront(Engine& engine, const ServingState& state, const ClusterView& cluster,
                     const ChatTemplate* chat_template, HttpOptions options)
    : engine_(engine),
      state_(state),
      cluster_(cluster),
      chat_template_(chat_template),
      options_(std::move(options)),
      created_(UnixSeconds()),
      server_(options_.limits, {[this](HttpRequest& request) { return Admit(request); },
                                [](const HttpRequest& request) {
                                  bool known = false;
                                  const Route* route = Find(request.path, request.method, &known);
                                  return route != nullptr && route->quick;
                                },
                                [this](HttpRequest request, Responder response) {
                                  Handle(std::move(request), std::move(response));
                                },
                                [this](int status, const std::string& sentence) {
                                  Count(*state_.calls(), kNoRoute, status);
                                  return OpenAiError(ProblemOf(status, sentence));
                                }}) {}

HttpFront::~HttpFront() { Stop(Duration::zero()); }

absl::StatusOr<int> HttpFront::Start(const std::string& host, int port) { return server_.Start(host, port); }

void HttpFront::Stop(Duration grace) { server_.Stop(grace); }

bool HttpFront::AllowedOrigin(const HttpRequest& request) const {
  const std::string_view origin = request.Header("origin");
  const std::string_view host = request.Header("host");
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (origin.substr(0, scheme.size()) == scheme && origin.substr(scheme.size()) == host) return true;
  }
  return std::any_of(options_.cors_origins.begin(), options_.cors_origins.end(),
                     [origin](const std::string& allowed) { return allowed == "*" || allowed == origin; });
}

HttpHeaders HttpFront::CommonHeaders(const HttpRequest& request) const {
  HttpHeaders headers = {{"x-request-id", request.id}, {"x-content-type-options", "nosniff"}};
  if (IsAnthropic(request.path)) headers.emplace_back("request-id", request.id);
  const std::string origin(request.Header("origin"));
  if (!origin.empty() && !options_.cors_origins.empty() && AllowedOrigin(request)) {
    headers.emplace_back("access-control-allow-origin", origin);
    headers.emplace_back("access-control-expose-headers", "x-request-id, retry-after, retry-after-ms");
    headers.emplace_back("vary", "origin");
  }
  return headers;
}

HttpAnswer HttpFront::Refusal(const HttpRequest& request, const ApiProblem& problem) const {
  return IsAnthropic(request.path) ? AnthropicError(problem, request.id) : OpenAiError(problem);
}

std::optional<HttpAnswer> HttpFront::Admit(HttpRequest& request) const {
  bool known = false;
  const Route* route = Find(request.path, request.method, &known);
  std::optional<HttpAnswer> refusal = Refuse(request, route, known);
  if (refusal) Count(*state_.calls(), route != nullptr ? route->path : kNoRoute, refusal->status);
  return refusal;
}

std::optional<HttpAnswer> HttpFront::Refuse(HttpRequest& request, const Route* route, bool path_known) const {
  const std::string_view id = request.Header("x-request-id");
  request.id = GoodId(id) ? std::string(id) : "req_" + RandomHex();
  const auto answer = [&](HttpAnswer what) {
    const HttpHeaders common = CommonHeaders(request);
    what.headers.insert(what.headers.end(), common.begin(), common.end());
    return what;
  };
  const auto refuse = [&](int status, const std::string& code, const std::string& sentence) {
    ApiProblem problem = ProblemOf(status, sentence);
    problem.code = code;
    return answer(Refusal(request, problem));
  };
  if (request.method == "OPTIONS" && !request.Header("access-control-request-method").empty()) {
    if (options_.cors_origins.empty() || !AllowedOrigin(request))
      return refuse(403, "", "pages of other origins may not ask here; allow theirs with --cors-origin");
    return answer(
        {204,
         {{"access-control-allow-methods", "GET, POST, OPTIONS"},
          {"access-control-allow-headers", std::string(request.Header("access-control-request-headers"))},
          {"access-control-max-age", "600"}},
         ""});
  }
  const bool open = route != nullptr && route->open;
  if (!open && !options_.keys.empty()) {
    const std::string* name =
        options_.keys.NameOf(request.Header("authorization"), request.Header("x-api-key"));
    if (name == nullptr) {
      HttpAnswer refusal = refuse(401, "invalid_api_key",
                                  "this server needs an API key: send it as Authorization: Bearer KEY");
      // A browser asks for it; the key is the password.
      if (request.path == "/") refusal.headers.emplace_back("www-authenticate", "Basic realm=\"paceline\"");
      return refusal;
    }
    request.key = *name;
  }
  if (!path_known || (request.path == "/" && !options_.page)) {
    return refuse(404, "unknown_url",
                  absl::StrCat("there is nothing at ", request.method, " ", request.path));
  }
  if (route == nullptr) {
    return refuse(405, "method_not_allowed",
                  absl::StrCat(request.path, " is not asked with ", request.method, "; see docs/API.md"));
  }
  // A page of another origin can send what a form sends without asking first, and a browser adds what it
  // knows to log in. JSON it must ask for.
  const std::string_view type = request.Header("content-type");
  const bool json =
      absl::StartsWithIgnoreCase(absl::string_view(type.data(), type.size()), "application/json");
  if (request.method == "POST" && !json && !request.Header("origin").empty() && !AllowedOrigin(request))
    return refuse(415, "", "a page of another origin must send application/json");
  return std::nullopt;
}

void HttpFront::Handle(HttpRequest request, Responder response) {
  bool known = false;
  const Route* route = Find(request.path, request.method, &known);
  const Responder headed =
      std::make_shared<Headed>(std::move(response), CommonHeaders(request), state_.calls(), route->path);
  (this->*route->handler)(request, headed);
}

ServedModel HttpFront::Model() const {
  return {engine_.info().model, engine_.info().fingerprint, engine_.tokenizer(),
          engine_.defaults().eos_token_ids};
}

absl::Status HttpFront::CheckModel(Fields& fields) const {
  const std::string model = fields.Text("model").value_or("");
  RETURN_IF_ERROR(fields.status());
  if (model.empty() || model == engine_.info().model) return absl::OkStatus();
  absl::Status status = WithReason(
      absl::NotFoundError(absl::StrCat("model: this head serves ", engine_.info().model, ", not ", model)),
      reasons::kModelNotFound);
  return WithField(std::move(status), "model");
}

template <class Read>
void HttpFront::Generate(const HttpRequest& request, const Responder& response, Read read) {
  const auto made = [&]() -> absl::StatusOr<ReadRequest> {
    RETURN_IF_ERROR(state_.Admit());
    ASSIGN_OR_RETURN(const Json body, ParseBody(request.body));
    Fields fields(body);
    RETURN_IF_ERROR(CheckModel(fields));
    return read(fields);
  };
  absl::StatusOr<ReadRequest> call = made();
  if (!call.ok()) {
    const FieldNames names = IsAnthropic(request.path) ? AnthropicNames() : OpenAiNames("prompt");
    return response->Send(Refusal(request, ProblemOf(RenameField(call.status(), names))));
  }
  call->call.heartbeat = options_.heartbeat;
  for (GenerateRequest& one : call->requests) {
    one.request_id = request.id;
    one.key = request.key;
  }
  GenerationCall::Run(engine_, std::move(call->requests), std::move(call->format), response, call->call);
}

void HttpFront::ChatCompletions(const HttpRequest& request, const Responder& response) {
  Generate(request, response, [this](Fields& fields) {
    return ReadChatCompletion(fields, Model(), chat_template_, options_.strict);
  });
}

void HttpFront::Completions(const HttpRequest& request, const Responder& response) {
  Generate(request, response,
           [this](Fields& fields) { return ReadCompletion(fields, Model(), options_.strict); });
}

void HttpFront::Responses(const HttpRequest& request, const Responder& response) {
  Generate(request, response,
           [this](Fields& fields) { return ReadResponse(fields, Model(), chat_template_, options_.strict); });
}

void HttpFront::Messages(const HttpRequest& request, const Responder& response) {
  Generate(request, response, [this, &request](Fields& fields) {
    return ReadMessages(fields, Model(), chat_template_, request.id, options_.strict);
  });
}

void HttpFront::CountTokens(const HttpRequest& request, const Responder& response) {
  const auto count = [&]() -> absl::StatusOr<int64_t> {
    ASSIGN_OR_RETURN(const Json body, ParseBody(request.body));
    Fields fields(body);
    RETURN_IF_ERROR(CheckModel(fields));
    return CountMessageTokens(fields, Model(), chat_template_);
  };
  const absl::StatusOr<int64_t> tokens = count();
  response->Send(tokens.ok() ? JsonAnswer(200, {{"input_tokens", *tokens}})
                             : Refusal(request, ProblemOf(RenameField(tokens.status(), AnthropicNames()))));
}

void HttpFront::Tokenize(const HttpRequest& request, const Responder& response) {
  const auto tokenize = [&]() -> absl::StatusOr<Json> {
    const Tokenizer* const tokenizer = engine_.tokenizer();
    if (tokenizer == nullptr) return absl::UnimplementedError("this model has no tokenizer");
    ASSIGN_OR_RETURN(const Json body, ParseBody(request.body));
    Fields fields(body);
    RETURN_IF_ERROR(CheckModel(fields));
    std::string text;
    if (const Json* messages = fields.Array("messages")) {
      ChatRequest chat;
      ASSIGN_OR_RETURN(chat.messages, ChatMessagesFromJson(*messages));
      if (const Json* tools = fields.Array("tools")) {
        ASSIGN_OR_RETURN(chat.tools, ToolsFromJson(*tools));
      }
      if (const Json* kwargs = fields.Object("chat_template_kwargs")) chat.template_kwargs = *kwargs;
      chat.add_generation_prompt = fields.Bool("add_generation_prompt").value_or(true);
      ASSIGN_OR_RETURN(const PreparedChat prepared, PrepareChat(std::move(chat), {}, {}, chat_template_));
      text = std::get<std::string>(prepared.request.input);
    } else {
      const std::optional<std::string> content = fields.Text("content");  // llama-server's name
      const std::optional<std::string> prompt = fields.Text("prompt");
      if (!content && !prompt) fields.Refuse("prompt", "expected the text to cut into tokens");
      text = prompt ? *prompt : content.value_or("");
    }
    const bool pieces = fields.Bool("with_pieces").value_or(false);
    const bool strings = fields.Bool("return_token_strs").value_or(false);
    const bool special = fields.Bool("parse_special").value_or(true);
    RETURN_IF_ERROR(fields.status());
    ASSIGN_OR_RETURN(const std::vector<TokenId> ids, tokenizer->Encode(text, special));
    Json out = {{"count", ids.size()}, {"max_model_len", engine_.context()}, {"tokens", Json::array()}};
    for (const TokenId id : ids) {
      out["tokens"].push_back(pieces ? Json{{"id", id}, {"piece", Piece(tokenizer->TokenBytes(id))}}
                                     : Json(id));
      if (strings) out["token_strs"].push_back(TokenText(tokenizer, id));
    }
    return out;
  };
  const absl::StatusOr<Json> out = tokenize();
  response->Send(out.ok() ? JsonAnswer(200, *out)
                          : OpenAiError(ProblemOf(RenameField(out.status(), OpenAiNames("prompt")))));
}

void HttpFront::Detokenize(const HttpRequest& request, const Responder& response) {
  const auto detokenize = [&]() -> absl::StatusOr<Json> {
    if (engine_.tokenizer() == nullptr) return absl::UnimplementedError("this model has no tokenizer");
    ASSIGN_OR_RETURN(const Json body, ParseBody(request.body));
    Fields fields(body);
    RETURN_IF_ERROR(CheckModel(fields));
    if (fields.Any("tokens") == nullptr) fields.Refuse("tokens", "expected an array of token ids");
    const std::vector<TokenId> ids = fields.Ids("tokens");
    RETURN_IF_ERROR(fields.status());
    for (size_t i = 0; i < ids.size(); ++i) {
      if (!engine_.tokenizer()->HasToken(ids[i]))
        return FieldError("tokens",
                          absl::StrCat("id ", ids[i], " at index ", i, " is no token of this model"));
    }
    const std::string text = engine_.tokenizer()->Decode(ids);
    return Json{{"prompt", text}, {"content", text}};  // vLLM's name and llama-server's
  };
  const absl::StatusOr<Json> out = detokenize();
  response->Send(out.ok() ? JsonAnswer(200, *out) : OpenAiError(ProblemOf(out.status())));
}

void HttpFront::ApplyTemplate(const HttpRequest& request, const Responder& response) {
  const auto apply = [&]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const Json body, ParseBody(request.body));
    Fields fields(body);
    RETURN_IF_ERROR(CheckModel(fields));
    ChatRequest chat;
    const Json* messages = fields.Array("messages");
    if (messages == nullptr) fields.Refuse("messages", "expected an array of messages");
    if (const Json* kwargs = fields.Object("chat_template_kwargs")) chat.template_kwargs = *kwargs;
    chat.add_generation_prompt = fields.Bool("add_generation_prompt").value_or(true);
    const Json* tools = fields.Array("tools");
    RETURN_IF_ERROR(fields.status());
    ASSIGN_OR_RETURN(chat.messages, ChatMessagesFromJson(*messages));
    if (tools != nullptr) {
      ASSIGN_OR_RETURN(chat.tools, ToolsFromJson(*tools));
    }
    ASSIGN_OR_RETURN(PreparedChat prepared, PrepareChat(std::move(chat), {}, {}, chat_template_));
    return std::get<std::string>(std::move(prepared.request.input));
  };
  const absl::StatusOr<std::string> text = apply();
  response->Send(text.ok() ? JsonAnswer(200, {{"prompt", *text}}) : OpenAiError(ProblemOf(text.status())));
}

Json HttpFront::ModelJson() const {
  const TrunkInfo& info = engine_.info();
  return {{"id", info.model},
          {"object", "model"},
          {"created", created_},
          {"owned_by", "paceline"},
          {"root", info.model},
          {"parent", nullptr},
          {"max_model_len", engine_.context()},
          {"type", "model"},  // these three for Anthropic's clients
          {"display_name", info.model},
          {"created_at", TimeText(created_)},
          {"meta", {{"n_ctx_train", info.context}, {"n_vocab", info.vocab}, {"mtp", info.has_mtp}}}};
}

void HttpFront::Models(const HttpRequest&, const Responder& response) {
  response->Send(JsonAnswer(200, {{"object", "list"},
                                  {"data", Json::array({ModelJson()})},
                                  {"has_more", false},
                                  {"first_id", engine_.info().model},
                                  {"last_id", engine_.info().model}}));
}

void HttpFront::OneModel(const HttpRequest& request, const Responder& response) {
  const std::string id = request.path.substr(sizeof(kModelsPrefix) - 1);
  if (id == engine_.info().model) return response->Send(JsonAnswer(200, ModelJson()));
  ApiProblem problem =
      ProblemOf(404, absl::StrCat("model: this head serves ", engine_.info().model, ", not ", id));
  problem.code = "model_not_found";
  problem.param = "model";
  response->Send(OpenAiError(problem));
}

void HttpFront::Live(const HttpRequest&, const Responder& response) {
  response->Send(JsonAnswer(200, {{"status", "alive"}}));
}

void HttpFront::Ready(const HttpRequest&, const Responder& response) {
  const ClusterState now = state_.Now();
  if (now == ClusterState::kReady) return response->Send(JsonAnswer(200, {{"status", "ok"}}));
  absl::Status why = state_.Admit();
  if (why.ok()) why = engine_.Degraded();
  HttpAnswer answer = OpenAiError(ProblemOf(why.ok() ? absl::UnavailableError("not ready") : why));
  Json body = {{"status", ClusterStateName(now)}};
  body.update(OpenAiErrorJson(ProblemOf(why)));
  answer.status = 503;
  answer.body = Dump(body);
  response->Send(std::move(answer));
}

void HttpFront::Metrics(const HttpRequest&, const Responder& response) {
  response->Send({200,
                  {{"content-type", "text/plain; version=0.0.4; charset=utf-8"}},
                  MetricsText(TakeSnapshot(engine_, cluster_, state_), options_.metrics)});
}

void HttpFront::Version(const HttpRequest&, const Responder& response) {
  response->Send(JsonAnswer(200, {{"version", options_.metrics.version}}));
}

void HttpFront::Cluster(const HttpRequest&, const Responder& response) {
  const ClusterFacts facts = cluster_.Facts();
  const EngineStats stats = engine_.stats();
  SourceStats drafts;
  for (const SourceStats& source : stats.speculation.sources) {
    drafts.drafted += source.drafted;
    drafts.accepted += source.accepted;
  }
  Json out = {{"state", ClusterStateName(state_.Now())},
              {"epoch", facts.epoch.value()},
              {"model", engine_.info().model},
              {"context", engine_.context()},
              {"degraded", facts.degraded},
              {"nodes", Json::array()},
              {"load",
               {{"running", stats.running},
                {"waiting", stats.waiting},
                {"max_running", stats.max_running},
                {"kv_pages_used", stats.pages_used},
                {"kv_pages_total", stats.pages_total},
                {"steps", stats.steps},
                {"tokens", stats.tokens},
                {"drafted", drafts.drafted},
                {"accepted", drafts.accepted}}}};
  for (const NodeFacts& node : facts.nodes) {
    out["nodes"].push_back({{"name", node.name},
                            {"role", node.head ? "head" : "worker"},
                            {"state", NodeStateName(node.state)},
                            {"experts", node.experts},
                            {"leaves", node.leaves},
                            {"bytes", node.bytes},
                            {"backend", node.backend}});
  }
  response->Send(JsonAnswer(200, out));
}

void HttpFront::Page(const HttpRequest&, const Responder& response) {
  response->Send(
      {200,
       {{"content-type", "text/html; charset=utf-8"},
        {"cache-control", "no-cache"},
        {"content-security-policy",
         "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
         "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
        {"referrer-policy", "no-referrer"}},
       std::string(kPage)});
}

}  // namespace paceline
