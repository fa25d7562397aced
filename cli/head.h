// A head, put together: checkpoint, placement, cluster with its local workers, trunk, tokenizer. `serve`
// opens it step by step; the others open it whole.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/compute.h"
#include "cli/drafting.h"
#include "cli/options.h"
#include "coordinator/engine.h"
#include "coordinator/sampling_defaults.h"
#include "coordinator/tokenizer.h"
#include "model/checkpoint.h"
#include "worker/cluster.h"
#include "worker/local_workers.h"
#include "worker/loopback_workers.h"
#include "worker/trunk.h"

namespace paceline::cli {

struct HeadConfig {
  HeadOptions options;
  std::string host = "127.0.0.1";
  int join_port = 0;
  int nodes = 1;           // the head counted
  bool open_join = false;  // other machines may join; local workers always can
  int32_t slots = 1;       // sequences at once
  // `serve` has more: memory, queues. Others run one engine for a few requests.
  std::optional<ServingOptions> serving;
};

// Owned by the main thread, which must live as long as it: local workers end with that thread.
class Head {
 public:
  // Opens the checkpoint, places it, listens. LOAD-*, CFG-*, NET-*, DEV-*.
  static absl::StatusOr<std::unique_ptr<Head>> Open(HeadConfig config);
  ~Head();

  // Starts local workers, loads the head's own share, then waits for every node. Called once. The first error
  // of a local worker ends it in its own words; Cancelled when a signal came. `patience`: for workers to join
  // and load.
  absl::Status Load(Duration patience);

  Cluster& cluster() { return *cluster_; }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const ContractOptions& contract() const { return contract_; }
  const Compute& compute() const { return compute_; }
  // Null when the directory holds no tokenizer.json; tokenizer_status() says why.
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  const absl::Status& tokenizer_status() const { return tokenizer_status_; }
  // How the flags let an engine schedule, and what it is made from but for its trunk, which outlives it.
  SchedulerOptions scheduling() const;
  Engine::Parts EngineParts(Trunk* trunk) const;
  // Null before Load.
  LocalTrunk* trunk() { return trunk_.get(); }
  // What trunk()->info() is or will be.
  TrunkInfo info() const { return InfoBeforeLoading(MakeTrunkRequest(), model_name()); }
  // NET-001 when a local worker process has exited. Reaps it.
  absl::Status CheckLocalWorkers() { return processes_ ? processes_->Check() : absl::OkStatus(); }
  GenerationDefaults defaults() const;
  // The model's name for people: the folder's.
  std::string model_name() const;
  Epoch epoch() const { return cluster_->placement().epoch(); }
  // By rank, head first: what the placement says.
  std::vector<int64_t> LeavesPerNode() const;

 private:
  Head() = default;
  absl::Status Start();
  absl::Status StartLocalWorkers();
  void ShowHead(NodeState state);
  TrunkRequest MakeTrunkRequest() const;

  HeadConfig config_;
  Compute compute_;
  std::string known_answer_;
  ContractOptions contract_;
  Drafting drafting_;
  Placement placement_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Tokenizer> tokenizer_;
  absl::Status tokenizer_status_;
  // Destroyed from the last: trunk, workers, cluster.
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<LoopbackWorkers> threads_;
  std::unique_ptr<LocalWorkers> processes_;
  std::unique_ptr<LocalTrunk> trunk_;
};

}  // namespace paceline::cli
