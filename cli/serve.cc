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
#include "coordinator/engine.h"
#include "coordinator/server.h"

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
  ASSIGN_OR_RETURN(const std::unique_ptr<Head> head, Head::Open(ConfigOf(options)));
  if (const absl::Status& missing = head->tokenizer_status(); absl::IsNotFound(missing)) {
    StdErr().Line(absl::StrCat("warning: ", std::string(missing.message()), "; prompts must be token ids"));
  } else if (!missing.ok()) {
    return missing;
  }

  DeferredTrunk trunk(head->info());
  Engine engine(head->EngineParts(&trunk), head->defaults(), head->scheduling());
  ApiServer api(engine, head->cluster());
  ASSIGN_OR_RETURN(const int grpc_port, api.Start(options.host, options.grpc_port));
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
  std::printf("ready http=- grpc=%s:%d join=%s nodes=%d\n", options.host.c_str(), grpc_port,
              head->cluster().join_address().c_str(), options.nodes);
  std::fflush(stdout);

  Watch(*head, api, *bell);
  head->cluster().SetOnChange(nullptr);
  api.Drain();
  api.Stop(kGrace);
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
