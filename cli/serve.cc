// `serve`: the head's life, from the first listener to the last request.
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/deferred_trunk.h"
#include "cli/head.h"
#include "coordinator/chat_template.h"
#include "coordinator/engine.h"
#include "coordinator/http/front.h"
#include "coordinator/server.h"

#ifndef PACELINE_VERSION
#error "cli/CMakeLists.txt defines PACELINE_VERSION"
#endif

namespace paceline::cli {
namespace {

constexpr Duration kProofLimit = std::chrono::seconds(60);   // for a token and a probe of every worker
constexpr Duration kGrace = std::chrono::seconds(30);        // for running requests after SIGTERM
constexpr Duration kSlice = std::chrono::milliseconds(100);  // between two looks at the signals

// Changes of membership, from the cluster's threads to the main one.
class ChangeBell {
 public:
  void Ring() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      rung_ = true;
    }
    changed_.notify_all();
  }
  // True when it has rung since the last call; waits `limit` for it.
  bool Wait(Duration limit) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, limit, [this] { return rung_; });
    return std::exchange(rung_, false);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool rung_ = false;
};

HeadConfig ConfigOf(const ServeOptions& options) {
  HeadConfig config;
  config.options = options.head;
  config.host = options.host;
  config.join_port = options.join_port;
  config.nodes = options.nodes;
  config.open_join = true;
  config.slots = options.serving.max_sequences;
  config.serving = options.serving;
  return config;
}

absl::StatusOr<HttpOptions> HttpOptionsOf(const ServeOptions& options) {
  HttpOptions http;
  http.limits.body_bytes = int64_t{options.http.max_body_mib} << 20;
  http.cors_origins = options.http.cors_origins;
  http.page = !options.http.no_ui;
  http.strict = options.http.strict_api;
  http.metrics = {.version = PACELINE_VERSION, .vllm_names = options.metrics_compat == "vllm"};
  if (!options.http.api_keys_file.empty()) {
    ASSIGN_OR_RETURN(http.keys, ApiKeys::Load(options.http.api_keys_file));
  }
  return http;
}

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host == "[::1]" || host.rfind("127.", 0) == 0;
}

// Null, with a warning, where the model has none or one that this program cannot run.
std::unique_ptr<ChatTemplate> LoadTemplate(const std::string& model) {
  absl::StatusOr<std::unique_ptr<ChatTemplate>> found = ChatTemplate::Load(model);
  if (found.ok() && *found != nullptr) return *std::move(found);
  StdErr().Line(absl::StrCat(
      "warning: ", found.ok() ? "the model has no chat template" : std::string(found.status().message()),
      "; the chat endpoints refuse requests"));
  return nullptr;
}

// Until a signal comes: keeps health in step with membership.
void Watch(Head& head, ApiServer& api, ChangeBell& bell) {
  absl::Status said;
  while (!StopRequested()) {
    const bool changed = bell.Wait(kSlice);
    head.CheckLocalWorkers().IgnoreError();  // reaps; the loss itself is the cluster's news
    if (!changed) continue;
    const absl::Status proof = api.ProveReady(kProofLimit);
    if (proof == said) continue;
    said = proof;
    StdErr().Line(proof.ok() ? "serving" : absl::StrCat("not serving: ", std::string(proof.message())));
  }
}

absl::Status Serve(const ServeOptions& options) {
  ASSIGN_OR_RETURN(HttpOptions http_options, HttpOptionsOf(options));
  if (http_options.keys.empty() && !IsLoopback(options.host)) {
    StdErr().Line(absl::StrCat("warning: everybody who reaches ", options.host,
                               " may use the APIs; --api-keys-file FILE names who may"));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Head> head, Head::Open(ConfigOf(options)));
  if (const absl::Status& missing = head->tokenizer_status(); absl::IsNotFound(missing)) {
    StdErr().Line(absl::StrCat("warning: ", std::string(missing.message()), "; prompts must be token ids"));
  } else if (!missing.ok()) {
    return missing;
  }

  const std::unique_ptr<ChatTemplate> chat_template = LoadTemplate(options.head.model);
  DeferredTrunk trunk(head->info());
  Engine engine(head->EngineParts(&trunk), head->defaults(), head->scheduling());
  ApiServer api(engine, head->cluster(), chat_template.get(), {http_options.keys, http_options.metrics});
  HttpFront http(engine, api.serving(), head->cluster(), chat_template.get(), std::move(http_options));
  ASSIGN_OR_RETURN(const int grpc_port, api.Start(options.host, options.grpc_port));
  ASSIGN_OR_RETURN(const int http_port, http.Start(options.host, options.http_port));
  StdErr().Line(absl::StrCat("serving ", head->model_name(), " on ", options.nodes,
                             options.nodes == 1 ? " node" : " nodes", "; workers join at ",
                             head->cluster().join_address()));

  const Duration patience =
      options.join_timeout_s > 0 ? Duration(std::chrono::seconds(options.join_timeout_s)) : Duration::max();
  RETURN_IF_ERROR(head->Load(patience));
  trunk.Set(head->trunk());
  engine.Start();
  const auto bell = std::make_shared<ChangeBell>();  // a call of it may outlast this function
  head->cluster().SetOnChange([bell] { bell->Ring(); });
  RETURN_IF_ERROR(api.ProveReady(kProofLimit));
  std::printf("ready http=%s:%d grpc=%s:%d join=%s nodes=%d\n", options.host.c_str(), http_port,
              options.host.c_str(), grpc_port, head->cluster().join_address().c_str(), options.nodes);
  std::fflush(stdout);

  Watch(*head, api, *bell);
  head->cluster().SetOnChange(nullptr);
  api.Drain();
  const TimePoint deadline = Clock::Real().Now() + kGrace;
  api.Stop(kGrace);
  http.Stop(std::max(Duration::zero(), deadline - Clock::Real().Now()));
  engine.Stop();
  return absl::OkStatus();
}

}  // namespace

int Run(const ServeOptions& options) {
  const absl::Status ended = Serve(options);
  if (ended.ok() || (StopRequested() && absl::IsCancelled(ended))) return 0;
  return StdErr().Fail(ended);
}

}  // namespace paceline::cli
