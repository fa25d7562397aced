// The HTTP front of a head: which route says what, who may ask, and what a browser is told. docs/API.md is
// its reference.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/cluster.h"
#include "coordinator/api_keys.h"
#include "coordinator/chat_template.h"
#include "coordinator/engine.h"
#include "coordinator/http/api_problem.h"
#include "coordinator/http/completions.h"
#include "coordinator/http/server.h"
#include "coordinator/metrics.h"
#include "coordinator/serving_state.h"

namespace paceline {

struct HttpOptions {
  HttpLimits limits;
  ApiKeys keys;                           // empty: everybody may ask
  std::vector<std::string> cors_origins;  // that pages of other servers may come from; "*": all
  bool page = true;                       // a page to try the model at /
  bool strict = false;                    // refuse members of a body that nobody knows
  Duration heartbeat = std::chrono::seconds(10);
  MetricsOptions metrics;  // and the version that /version says
};

class HttpFront {
 public:
  // `chat_template` may be null. All outlive the front, and the engine is stopped before they go.
  HttpFront(Engine& engine, const ServingState& state, const ClusterView& cluster,
            const ChatTemplate* chat_template, HttpOptions options);
  // Stops.
  ~HttpFront();

  // Answers from here on: not ready until the head serves. CFG-002 when the address cannot be listened on.
  absl::StatusOr<int> Start(const std::string& host, int port);
  // Running answers may end within `grace`. Idempotent.
  void Stop(Duration grace);

 private:
  struct Route;
  using Responder = std::shared_ptr<HttpResponse>;

  static const std::vector<Route>& Routes();
  // The route of a path, and of its method; null where there is none.
  static const Route* Find(const std::string& path, const std::string& method, bool* path_known);

  std::optional<HttpAnswer> Admit(HttpRequest& request) const;
  std::optional<HttpAnswer> Refuse(HttpRequest& request, const Route* route, bool path_known) const;
  void Handle(HttpRequest request, Responder response);
  // Whether a page from the request's Origin may read answers: its own, or one that was allowed.
  bool AllowedOrigin(const HttpRequest& request) const;
  HttpHeaders CommonHeaders(const HttpRequest& request) const;
  HttpAnswer Refusal(const HttpRequest& request, const ApiProblem& problem) const;
  // Reads the body, checks the model, runs what `read` makes of it.
  template <class Read>
  void Generate(const HttpRequest& request, const Responder& response, Read read);
  absl::Status CheckModel(Fields& fields) const;
  ServedModel Model() const;

  void ChatCompletions(const HttpRequest& request, const Responder& response);
  void Completions(const HttpRequest& request, const Responder& response);
  void Responses(const HttpRequest& request, const Responder& response);
  void Messages(const HttpRequest& request, const Responder& response);
  void CountTokens(const HttpRequest& request, const Responder& response);
  void Tokenize(const HttpRequest& request, const Responder& response);
  void Detokenize(const HttpRequest& request, const Responder& response);
  void ApplyTemplate(const HttpRequest& request, const Responder& response);
  void Models(const HttpRequest& request, const Responder& response);
  void OneModel(const HttpRequest& request, const Responder& response);
  void Live(const HttpRequest& request, const Responder& response);
  void Ready(const HttpRequest& request, const Responder& response);
  void Metrics(const HttpRequest& request, const Responder& response);
  void Version(const HttpRequest& request, const Responder& response);
  void Cluster(const HttpRequest& request, const Responder& response);
  void Page(const HttpRequest& request, const Responder& response);
  Json ModelJson() const;

  Engine& engine_;
  const ServingState& state_;
  const ClusterView& cluster_;
  const ChatTemplate* const chat_template_;
  const HttpOptions options_;
  const int64_t created_;
  HttpServer server_;
};

}  // namespace paceline
