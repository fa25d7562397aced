// One mixture-of-experts feed-forward: choose, send, compute what is here while the workers work, add what
// comes back.
#pragma once

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "base/placement.h"
#include "model/expert_store.h"
#include "model/layer_weights.h"
#include "model/step_context.h"
#include "transport/exchange.h"

namespace paceline {

// Where the experts of a step are.
struct ExpertHome {
  const ExpertStore& local;
  const Placement& placement;    // of the trunk, or of the MTP layer alone (all on the head)
  LayerId layer{0};              // in `placement` and `local`
  Exchange* exchange = nullptr;  // null without workers
  StepId step{0};
  bool probe = false;  // send every worker one row through one leaf it holds
};

// Splits the choices of the rows over the ranks. parts[r].rank is r; routes of one (expert, segment) stand
// together. ids and weights: [rows, top_k]. Among replicas the rank with the fewest leaves so far in this
// block gets the segment.
void SplitRoutes(const Placement& placement, LayerId layer, const int32_t* ids, const float* weights,
                 int32_t rows, int32_t top_k, std::vector<Part>& parts);

// h [rows, hidden] += experts(x) + shared(x), x [rows, hidden] already normed. row_errors [rows].
// `scratch_parts` is reused between layers. Unavailable (NET-001) names a lost worker.
absl::Status RunMoe(const StepContext& context, const MoeWeights& weights, const ModelConfig& config,
                    const ExpertHome& home, const float* x, float* h, uint8_t* row_errors,
                    std::vector<Part>& scratch_parts);

// out [rows, hidden] = down(silu(gate x) * up x).
void RunFeedForward(const StepContext& context, const FeedForwardWeights& weights, const float* x,
                    int64_t hidden, float* out);

}  // namespace paceline
