// The multi-token-prediction layer: one attention and MoE layer that guesses the token after next from the
// target's hidden state and the next token, and, fed with its own output, the ones after. All of it is local
// to the head. Formulas: docs/ARCHITECTURE.md, Drafting.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/decoder.h"
#include "model/head.h"

namespace paceline {

enum class MtpFormat : uint8_t {
  kInt4,    // matrices but router and shared gate become INT4 g128 at load, activations have one 8-bit plane
  kStored,  // as in the file, under the trunk's activation contract
};

class MtpLayer {
 public:
  // FailedPrecondition (LOAD-004) names the first missing mtp.* tensor.
  static absl::StatusOr<std::unique_ptr<MtpLayer>> Load(const Checkpoint& checkpoint,
                                                        const kernels::KernelTable& table, ThreadPool& pool,
                                                        MtpFormat format = MtpFormat::kStored);
  // The same as jobs of a load.
  static absl::StatusOr<std::unique_ptr<MtpLayer>> Add(Loader& loader, const kernels::KernelTable& table,
                                                       MtpFormat format);

  struct Outputs {
    float* normed = nullptr;        // [wanted, hidden], after mtp.norm: what the LM head reads
    float* residual = nullptr;      // [wanted, hidden], before it; may be null
    uint8_t* row_errors = nullptr;  // [wanted], or-ed
  };
  // Of hidden [rows, hidden] and the tokens that follow them. KV slot j of a row's pages takes (h_j, t_(j+1))
  // at rotary position j, for every row; attention, experts and `out` are for the rows of `wanted` only
  // (ascending), and nothing but keys and values when it is empty.
  absl::Status Forward(const StepContext& context, const Embedding& embedding, const float* hidden,
                       std::span<const TokenId> next_tokens, const KvLayer& kv,
                       std::span<const int32_t> wanted, const Outputs& out);

  // Greedy chains of `depth` drafts after every position of a text but the last two: hidden [tokens, hidden]
  // from the target, chain i from (h_i, t_(i+1)). What `score --drafts` prints.
  absl::StatusOr<std::vector<std::vector<TokenId>>> DraftChains(
      const kernels::KernelTable& table, ThreadPool& pool, kernels::Workspace& workspace,
      kernels::ActivationContract contract, const Embedding& embedding, const LmHead& head,
      kernels::KvDtype kv_dtype, const float* hidden, std::span<const TokenId> tokens, int32_t depth);

  const ModelConfig& config() const { return config_; }
  // Weights read for one row that is wanted.
  int64_t bytes_per_row() const;
  int64_t weight_bytes() const {
    return fc_->bytes + layer_.mixer_bytes + layer_.feed_forward_bytes + experts_->bytes();
  }

 private:
  void PickRows(const Batch& batch, std::span<const int32_t> wanted);

  ModelConfig config_;
  LinearPtr fc_;                                            // [hidden, 2 * hidden], embedding half first
  std::vector<float> norm_embedding_, norm_hidden_, norm_;  // [hidden]
  LayerWeights layer_;
  std::unique_ptr<ExpertStore> experts_;
  Placement placement_;  // one layer, all on the head
  std::vector<Part> parts_;
  Batch picked_;  // the wanted rows of the batch at hand
};

}  // namespace paceline
