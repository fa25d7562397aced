// A whole cluster in one process for tests: the head's trunk here, every other rank a thread that serves its
// link. The real trunk, exchange, links and expert servers; only the join protocol is left out.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/placement.h"
#include "base/step.h"
#include "model/checkpoint.h"
#include "transport/simulated_link.h"
#include "worker/expert_server.h"
#include "worker/peers.h"
#include "worker/trunk.h"

namespace paceline::testing {

struct LocalClusterOptions {
  std::string placement = "contiguous";  // as --placement
  int32_t ranks = 1;
  std::string link = "loopback";
  std::optional<SimulationOptions> simulate;  // around every worker link, on the head's side
  bool head_split = false;
  std::string head_backend = "reference", head_isa;
  std::string worker_backend = "reference", worker_isa;
  const kernels::KernelTable* table = nullptr;  // instead of the backends above, on every rank
  int threads = 1;
  kernels::ActivationContract contract = kernels::ActivationContract::kInt16;
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
  HeadFormat lm_head = HeadFormat::kAuto;
  int32_t slots = 8;
  int32_t pages = 32;
  int32_t snapshots = 0;
  std::vector<bool> has_token;  // as TrunkOptions
  DraftingOptions drafting;
};

class LocalCluster final : public PeerSource {
 public:
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Start(const Checkpoint& checkpoint,
                                                             const LocalClusterOptions& options);
  ~LocalCluster() override;

  LocalTrunk& trunk() { return *trunk_; }
  const Placement& placement() const { return placement_; }
  uint64_t version() const override { return version_; }
  PeerSnapshot Peers() const override;

  // The rank's process dies: its link goes down, and the head has not been told.
  void Kill(RankId rank);
  // The cluster has noticed: the next step's snapshot has no link of the rank.
  void Forget(RankId rank);

 private:
  Placement placement_;
  std::vector<std::shared_ptr<Link>> links_;  // head's ends, ranks 1.., null once forgotten
  uint64_t version_ = 1;
  std::vector<std::thread> workers_;
  std::atomic<bool> stop_{false};
  std::unique_ptr<LocalTrunk> trunk_;
};

// Log-probabilities, hash and candidates of a text, `chunk` rows a step.
struct Scores {
  std::vector<RowResult> rows;  // row i predicts token i + 1
  std::string logits_hash;
};
absl::StatusOr<Scores> ScoreText(LocalTrunk& trunk, const std::vector<TokenId>& tokens, int32_t chunk,
                                 int32_t top, SequenceId sequence = SequenceId(1), bool release = true);

// The same text `batch` times in one run, each sequence one step behind the one before it, so that steps mix
// rows of different positions; the hash of each.
absl::StatusOr<std::vector<std::string>> HashStaggered(LocalTrunk& trunk, const std::vector<TokenId>& tokens,
                                                       int32_t chunk, int32_t batch);

// Greedy or sampled continuation: the prompt in chunks, then one row a step. Stops after `count` tokens or at
// one of `ends`.
absl::StatusOr<std::vector<TokenId>> Continue(LocalTrunk& trunk, const std::vector<TokenId>& prompt,
                                              int32_t count, const std::vector<TokenId>& ends, int32_t chunk,
                                              const Sampling& sampling, SequenceId sequence = SequenceId(2));

}  // namespace paceline::testing
