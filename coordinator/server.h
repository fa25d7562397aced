// The API listener of a head: generation, control, health and reflection on one gRPC port.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cluster.h"
#include "coordinator/api_keys.h"
#include "coordinator/engine.h"
#include "coordinator/metrics.h"
#include "coordinator/serving_state.h"

namespace paceline {

class ChatTemplate;

struct ApiOptions {
  ApiKeys keys;            // empty: everybody may ask
  MetricsOptions metrics;  // of GetMetrics
};

// SetServing, ProveReady and Drain may be called from any thread between Start and Stop.
class ApiServer {
 public:
  // `engine`, `cluster` and `chat_template` outlive the server. Without a template chat input is refused.
  ApiServer(Engine& engine, const ClusterView& cluster, const ChatTemplate* chat_template = nullptr,
            ApiOptions options = {});
  // Stops.
  ~ApiServer();
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  // Listens; answers NOT_SERVING to health checks and MODEL_LOADING to requests until SetServing(true).
  // Returns the port, which for port 0 is a free one. CFG-002 when the address cannot be listened on.
  absl::StatusOr<int> Start(const std::string& host, int port);

  // What health says and whether requests are taken.
  void SetServing(bool serving);
  // To be called once everything is loaded and after every change of membership: not serving while an expert
  // has no holder, else serving if and only if the engine proves it by a token and a probe of every worker.
  // Returns what stands in the way. At most one call at a time works; others wait for it.
  absl::Status ProveReady(Duration limit);
  // No new requests; those that run go on. Health turns NOT_SERVING for good.
  void Drain();
  // Gives running calls `grace` to end, then cancels them. Idempotent.
  void Stop(Duration grace);

  ClusterState state() const;
  // The same for another front over the same engine; lives as long as the server.
  const ServingState& serving() const { return state_; }

 private:
  struct Parts;
  Engine& engine_;
  ServingState state_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace paceline
