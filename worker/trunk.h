// The head rank's model: runs steps. Holds the trunk's weights, the head's share of the experts, the caches
// and the exchange with the other ranks. Owned by the engine thread; no other thread calls it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/placement.h"
#include "base/sha256.h"
#include "base/step.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/caches.h"
#include "model/checkpoint.h"
#include "model/decoder.h"
#include "model/drafter.h"
#include "model/head.h"
#include "model/loader.h"
#include "model/mtp.h"
#include "model/mtp_drafter.h"
#include "model/sampler_states.h"
#include "model/sequence_state.h"
#include "model/verifier.h"
#include "worker/peers.h"

namespace paceline {

// Who drafts for this trunk. With nobody, no drafting weights are loaded.
struct DraftingOptions {
  bool mtp = false;       // the model's own MTP layer
  bool required = false;  // a model that cannot draft is an error, not a refusal in TrunkInfo
  bool suffix = false;    // the sequence's own text
  MtpFormat format = MtpFormat::kInt4;
  HiddenTap tap = HiddenTap::kPostNorm;
  std::vector<TokenId> vocabulary;  // ids the draft head keeps, ascending; empty: all
  double assume_acceptance = -1;    // benches: a draft is right with this probability; below 0: off
};

struct TrunkOptions {
  const kernels::KernelTable* table = nullptr;
  int threads = 1;
  std::vector<int> processors;  // [threads] that each stays on; empty: anywhere
  bool yield = false;           // compute threads on this machine outnumber its cores
  kernels::ActivationContract contract = kernels::ActivationContract::kInt16;
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
  HeadFormat lm_head = HeadFormat::kAuto;
  int32_t slots = 16;     // sequences at once
  int32_t pages = 64;     // KV pages in all
  int32_t snapshots = 0;  // states at page borders that can be stored
  uint32_t head_id = 0;   // names this head in every frame
  Duration exchange_timeout = std::chrono::seconds(30);
  std::vector<bool> has_token;  // [<= vocab] ids that may be drawn; empty: all
  std::string fingerprint;
  DraftingOptions drafting;
  LoadOptions load;
  LoadCallback progress;  // may be empty
};

class LocalTrunk final : public Trunk {
 public:
  // Loads everything rank 0 holds under `placement`. `peers` may be null (one rank) and outlives the trunk.
  static absl::StatusOr<std::unique_ptr<LocalTrunk>> Load(const Checkpoint& checkpoint,
                                                          const Placement& placement, const PeerSource* peers,
                                                          TrunkOptions options);

  const TrunkInfo& info() const override { return info_; }
  absl::StatusOr<StepResult> Run(const StepPlan& plan) override;
  void Release(SequenceId sequence) override;
  ExchangeCounters counters() const override;
  absl::Status MeasureLinks(bool bandwidth) override;

  // From now on the hidden states of every row of `sequence` are kept for Drafts().
  void KeepHidden(SequenceId sequence) { kept_[sequence]; }
  // Greedy MTP chains over a sequence whose hidden states were kept; `checkpoint` is read for the MTP layer.
  absl::StatusOr<std::vector<std::vector<TokenId>>> Drafts(const Checkpoint& checkpoint, SequenceId sequence,
                                                           std::span<const TokenId> tokens, int32_t depth);

  // For benches: random keys and values at positions [0, positions) of a text that has `pages`, in every
  // attention layer, as if its rows had run. Whole pages only.
  void FillKeysValues(std::span<const int32_t> pages, int64_t positions);

  // Puts another maker behind a source, for tests: oracles, adversaries. Null takes the source away.
  void SetDrafter(DraftSource source, std::unique_ptr<Drafter> drafter);

  // Books the stages of every step from now on; null: the trunk's own does again. Outlives the trunk or its
  // own replacement.
  void SetMeter(StageMeter* meter) { meter_ = meter != nullptr ? meter : &own_meter_; }

  // Weights held here, by kind. What a step reads of them: SetMeter.
  struct Bytes {
    int64_t dense = 0;        // mixers, shared experts, routers
    int64_t head = 0;         // LM head rows held here
    int64_t experts = 0;      // all routed experts held here
    int64_t all_experts = 0;  // of every rank
  };
  Bytes bytes() const;
  const LoadReport& load_report() const { return load_report_; }
  // Of every packed weight held here: experts, dense layers, head, embedding, drafting layer and head.
  int64_t weight_bytes() const {
    return bytes().dense + bytes().head + bytes().experts + extra_weight_bytes_;
  }
  int64_t expert_leaves() const { return experts_->leaves(); }
  int64_t expert_count() const { return experts_->experts(); }
  ThreadPool& pool() { return pool_; }

 private:
  // A step from its plan to its answer, on the step thread.
  struct Step {
    Batch batch;
    std::vector<TokenId> tokens;              // [rows], drafts included
    std::vector<int32_t> first_row;           // [sequences]
    std::vector<int32_t> logit_rows;          // rows whose logits are wanted, ascending
    std::vector<DraftResult> drafts;          // [sequences], empty where none were asked for
    std::vector<Verification> verifications;  // [sequences]
    std::vector<uint8_t> row_errors;          // [rows]
    const float* hidden = nullptr;            // [rows, hidden] after the final norm
    const float* residual = nullptr;          // [rows, hidden] before it
  };

  explicit LocalTrunk(TrunkOptions options);
  // Adds the drafters' jobs and runs the load.
  absl::Status LoadWith(Loader& loader);
  void RefreshPeers();
  void Suspend(SequenceId sequence);
  void Admit(const StepPlan& plan);
  void Restore(const SequenceRows& rows);
  int64_t MakeDrafts(const StepPlan& plan, Step& step);
  void Assemble(const StepPlan& plan, Step& step);
  void Extend(const StepPlan& plan, const Step& step);
  void GiveUp(const StepPlan& plan);
  absl::Status RunRows(const StepPlan& plan, Step& step, StepResult& result);
  absl::Status RunLayers(const StepContext& context, const StepPlan& plan, Step& step);
  absl::Status ReadLogits(const StepContext& context, const StepPlan& plan, Step& step, StepResult& result);
  absl::Status ReadRow(const StepContext& context, const SequenceRows& rows, int32_t row,
                       Verification& verification, float* logits, SequenceResult& result);
  void Commit(const StepPlan& plan, const Step& step, StepResult& result);
  void KeepStates(const StepPlan& plan, StepResult& result);
  void InformDrafters(const StepPlan& plan, const Step& step, StepResult& result);
  const float* Tapped(const Drafter& drafter, const Step& step, int64_t row) const;
  static absl::Status CheckRowErrors(const Step& step, int32_t first, int32_t end);

  const TrunkOptions options_;
  const kernels::KernelTable& table_;
  ModelConfig config_;
  TrunkInfo info_;
  ThreadPool pool_;
  kernels::Workspace workspace_;
  Placement placement_;  // whom to ask: the holders of `assigned_` less lost replicas
  Placement assigned_;   // as loaded
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<ExpertStore> experts_;
  std::unique_ptr<LmHead> head_;
  std::unique_ptr<Caches> caches_;
  SamplerStates samplers_;
  StateRegistry states_;  // of caches_ and samplers_
  const PeerSource* peers_ = nullptr;
  std::unique_ptr<Exchange> exchange_;
  uint64_t peers_version_ = 0;
  absl::Status degraded_;                // of the last snapshot
  std::vector<TokenId> missing_tokens_;  // ids the tokenizer lacks
  StageMeter own_meter_;
  StageMeter* meter_ = &own_meter_;  // never null: every step says what its time went to
  int64_t exchanged_layers_ = 0;
  LoadReport load_report_;
  int64_t extra_weight_bytes_ = 0;  // embedding, and what drafters brought
  std::vector<std::unique_ptr<Drafter>> drafters_;
  std::unordered_map<SequenceId, Sha256> hashes_;            // logits so far
  std::unordered_map<SequenceId, std::vector<float>> kept_;  // [rows so far, hidden]
};

}  // namespace paceline
