// All layers of the trunk in order: the file to read first. Rows in as token ids, hidden states after the
// final norm out.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/placement.h"
#include "model/caches.h"
#include "model/checkpoint.h"
#include "model/expert_store.h"
#include "model/huge_memory.h"
#include "model/layer_weights.h"
#include "model/moe.h"
#include "model/step_context.h"

namespace paceline {

// A lookup table stays as stored: a row is decoded when it is looked up.
class Embedding {
 public:
  Embedding() = default;
  explicit Embedding(kernels::PlainLinear table) : table_(std::move(table)) {}
  // Adds the jobs that read it; `to` stays where it is until the loader has run.
  static absl::Status Add(Loader& loader, Embedding* to);
  // out [tokens, hidden]. Ids are the caller's to check.
  void Lookup(std::span<const TokenId> tokens, float* out) const;
  int64_t bytes() const { return table_.outputs * table_.inputs * kernels::ElementBytes(table_.format); }

 private:
  kernels::PlainLinear table_;  // [vocab, hidden], borrowed from memory_ where it is not its own
  HugeMemory memory_;
};

class Decoder {
 public:
  static absl::StatusOr<std::unique_ptr<Decoder>> Load(const Checkpoint& checkpoint,
                                                       const kernels::KernelTable& table,
                                                       const LoadCallback& progress);
  // The same as jobs of a load.
  static absl::StatusOr<std::unique_ptr<Decoder>> Add(Loader& loader, const kernels::KernelTable& table);

  // hidden_out [rows, hidden], after the final norm; returns the residual stream before it [rows, hidden], in
  // the caller's workspace scope. row_errors [rows] is or-ed. Unavailable (NET-001) names a lost worker: the
  // caches of these rows are then undefined.
  absl::StatusOr<const float*> Forward(const StepContext& context, std::span<const TokenId> tokens,
                                       Caches& caches, const ExpertStore& local, const Placement& placement,
                                       Exchange* exchange, StepId step, bool probe, float* hidden_out,
                                       uint8_t* row_errors);

  const Embedding& embedding() const { return embedding_; }
  const std::vector<LayerWeights>& layers() const { return layers_; }

 private:
  ModelConfig config_;
  Embedding embedding_;
  std::vector<LayerWeights> layers_;
  std::vector<float> final_norm_;  // [hidden]
  std::vector<Part> parts_;        // scratch of the exchange
};

}  // namespace paceline
