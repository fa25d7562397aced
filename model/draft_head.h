// The LM head as a drafter reads it: fewer rows, fewer bits. A drafted token costs one pass over it, and on a
// large vocabulary that is most of what a draft costs; rows left out can be drawn but never guessed.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "model/checkpoint.h"
#include "model/head.h"
#include "model/step_context.h"

namespace paceline {

enum class DraftHeadFormat : uint8_t {
  kStored,
  kInt8,  // one scale per row (NUMERICS, INT8 head)
  kInt4,  // model/int4_weights.h
};

class DraftHead {
 public:
  // Keeps the rows of `vocabulary` (ids ascending; empty: all) that `has_token` has (empty: all). What is
  // stored in fewer bits than `format` stays. Ids are the model's (CHECKed). CFG-002 when none is left; other
  // errors are the checkpoint's.
  static absl::StatusOr<std::unique_ptr<DraftHead>> Load(const Checkpoint& checkpoint, DraftHeadFormat format,
                                                         std::span<const TokenId> vocabulary,
                                                         const std::vector<bool>& has_token,
                                                         const kernels::KernelTable& table, ThreadPool& pool);
  // The same as jobs of a load.
  static absl::StatusOr<std::unique_ptr<DraftHead>> Add(Loader& loader, DraftHeadFormat format,
                                                        std::span<const TokenId> vocabulary,
                                                        const std::vector<bool>& has_token,
                                                        const kernels::KernelTable& table);

  // logits [rows, size()] of x [rows, hidden].
  void Forward(const StepContext& context, const float* x, int32_t rows, float* logits) const;
  int64_t size() const { return head_->outputs; }
  // Of the rows kept, ascending; empty when all are.
  std::span<const TokenId> ids() const { return ids_; }
  TokenId id(int64_t row) const {
    return ids_.empty() ? static_cast<TokenId>(row) : ids_[static_cast<size_t>(row)];
  }
  kernels::WeightFormat weights() const { return head_->format; }
  int64_t bytes() const { return head_->bytes; }

 private:
  LinearPtr head_;  // [size(), hidden]
  std::vector<TokenId> ids_;
  int64_t hidden_ = 0;
};

}  // namespace paceline
