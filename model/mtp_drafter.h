// The MTP layer as a drafter: one chain per sequence, all of it on the head. Its KV cache holds, for every
// committed position j, what (h_j, t_(j+1)) gives, from the target's own hidden states; rows a chain wrote
// with its own output are overwritten before the next chain reads them. Keys and values are all that
// committed positions leave behind, so only the last row of a catch-up runs attention and experts. Formulas:
// docs/ARCHITECTURE.md, Drafting. Draft arithmetic is outside the token contract.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"
#include "model/decoder.h"
#include "model/drafter.h"
#include "model/head.h"

namespace paceline {

enum class MtpFormat : uint8_t {
  kInt4,    // every matrix of the layer becomes INT4 g128 at load, activations have one 8-bit plane
  kStored,  // as in the file, under the trunk's activation contract
};

// Which hidden state of the target the layer sees, and which of its own it feeds back.
enum class MtpTap : uint8_t {
  kPostNorm,  // after the final norm: what the LM head reads
  kPreNorm,   // the residual stream before it
};

struct MtpDrafterOptions {
  MtpFormat format = MtpFormat::kInt4;
  MtpTap tap = MtpTap::kPostNorm;
  kernels::ActivationContract contract = kernels::ActivationContract::kInt16;  // of kStored
  HeadFormat lm_head = HeadFormat::kAuto;                                      // of kStored
  // Ids the draft head keeps, ascending; empty: all. A draft is never another id.
  std::vector<TokenId> vocabulary;
  std::vector<bool> has_token;  // as TrunkOptions: ids that may be drawn; empty: all
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
  int32_t pages = 0;  // the trunk's; page ids are shared with it
};

class MtpDrafter : public Drafter {
 public:
  // `embedding` is the trunk's and outlives the drafter. FailedPrecondition (LOAD-004) names the first
  // missing mtp.* tensor.
  static absl::StatusOr<std::unique_ptr<MtpDrafter>> Load(const Checkpoint& checkpoint,
                                                          const kernels::KernelTable& table, ThreadPool& pool,
                                                          const Embedding& embedding,
                                                          MtpDrafterOptions options);
};

}  // namespace paceline
