// The multi-token-prediction layer: one attention and MoE layer that guesses the token after next from the
// target's hidden state and the next token, and, fed with its own output, the ones after. All of it is local
// to the head. Formulas: docs/ARCHITECTURE.md, Drafting; the tap is the hidden state after the target's final
// norm.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/decoder.h"
#include "model/head.h"

namespace paceline {

class MtpLayer {
 public:
  // FailedPrecondition (LOAD-004) names the first missing mtp.* tensor.
  static absl::StatusOr<std::unique_ptr<MtpLayer>> Load(const Checkpoint& checkpoint,
                                                        const kernels::KernelTable& table, ThreadPool& pool);

  // out [rows, hidden] (after mtp.norm) of hidden [rows, hidden] and the tokens that follow them. KV slot j
  // of a row's pages takes (h_j, t_(j+1)) at rotary position j.
  absl::Status Forward(const StepContext& context, const Embedding& embedding, const float* hidden,
                       std::span<const TokenId> next_tokens, const KvLayer& kv, float* out,
                       uint8_t* row_errors);

  // Greedy chains of `depth` drafts after every position of a text but the last two: hidden [tokens, hidden]
  // from the target, chain i from (h_i, t_(i+1)). What `score --drafts` prints.
  absl::StatusOr<std::vector<std::vector<TokenId>>> DraftChains(
      const kernels::KernelTable& table, ThreadPool& pool, kernels::Workspace& workspace,
      kernels::ActivationContract contract, const Embedding& embedding, const LmHead& head,
      kernels::KvDtype kv_dtype, const float* hidden, std::span<const TokenId> tokens, int32_t depth);

 private:
  ModelConfig config_;
  LinearPtr fc_;                                            // [hidden, 2 * hidden], embedding half first
  std::vector<float> norm_embedding_, norm_hidden_, norm_;  // [hidden]
  LayerWeights layer_;
  std::unique_ptr<ExpertStore> experts_;
  Placement placement_;  // one layer, all on the head
  std::vector<Part> parts_;
};

}  // namespace paceline
