// The LM head: logits of chosen rows. Kept whole here, or cut over the ranks by rows of the vocabulary
// (outputs only concatenate, so the bits stay).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/placement.h"
#include "model/checkpoint.h"
#include "model/layer_weights.h"
#include "model/step_context.h"
#include "transport/exchange.h"

namespace paceline {

// Above so many rows a 16-bit head is worth fewer bits.
inline constexpr int64_t kLargeHeadRows = 65536;

enum class HeadFormat { kAuto, kStored, kInt8 };

// What is asked, for this checkpoint. `auto`: a 16-bit head of more than 65,536 rows becomes INT8 per row at
// load. `int8`: so does every 16-bit or fp32 head; one stored in 8 bits or fewer stays.
absl::StatusOr<HeadFormat> ResolveHeadFormat(const Checkpoint& checkpoint, HeadFormat asked);

class LmHead {
 public:
  // Rows [range.first, range.first + range.count) of the vocabulary; all of them when count is 0. `format` is
  // resolved.
  static absl::StatusOr<std::unique_ptr<LmHead>> Load(const Checkpoint& checkpoint, HeadFormat format,
                                                      RowRange range, const kernels::KernelTable& table);
  // The same as jobs of a load.
  static absl::StatusOr<std::unique_ptr<LmHead>> Add(Loader& loader, HeadFormat format, RowRange range,
                                                     const kernels::KernelTable& table);

  // logits [rows, vocab] of x [rows, hidden]: rows here, and over `exchange` where placement.head_rows() says
  // so.
  absl::Status Forward(const StepContext& context, const float* x, int32_t rows, const Placement& placement,
                       Exchange* exchange, StepId step, float* logits) const;
  // Only the rows held here: y [rows, held()].
  void ForwardHeld(const StepContext& context, const float* x, int32_t rows, float* y, int64_t stride) const;

  int64_t held() const { return head_->outputs; }
  int64_t bytes() const { return head_->bytes; }

 private:
  LinearPtr head_;  // [held rows, hidden]
  int64_t vocab_ = 0;
  int64_t hidden_ = 0;
};

}  // namespace paceline
