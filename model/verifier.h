// Verification: the target's rows of a step decide, one by one, how many drafts were right. Under kCoupled
// the token emitted is always the one the target draws by itself, so the text is that of plain decoding;
// under kRejection it has the target's distribution. Leviathan et al., "Fast inference from transformers via
// speculative decoding", 2023. NUMERICS, Sampling.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "base/random.h"
#include "base/step.h"
#include "kernels/kernels.h"
#include "model/drafter.h"
#include "model/sampler_state.h"

namespace paceline {

// One sequence's rows of one step, from the row of its last token on. Everything given outlives it.
class Verification {
 public:
  struct Options {
    const Sampling* sampling = nullptr;
    SamplerState* state = nullptr;  // tokens emitted are appended to it
    std::span<const TokenId> drafts;
    // [drafts] what each was drawn from, under kRejection. Empty, as a whole or for one draft: the draft was
    // certain, q = 1.
    std::span<const SparseDistribution> distributions;
    int64_t position = 0;  // of the first token to be emitted; equals state->size()
    // Benches only: each draft is right with this probability, whatever the target says. Below 0: off.
    double assume_acceptance = -1;
  };
  explicit Verification(const Options& options) : options_(options) {}

  // The token behind the next row. `logits` [vocab] are masked by the sequence's constraint, at the place
  // that the drafts accepted so far lead to, and adjusted (bias, penalties), in place; ids that must not be
  // drawn for other reasons are minus infinity on entry. Not to be called when done(). DataLoss (REQ-003) as
  // SampleToken; InvalidArgument (REQ-001) when the constraint and the allowed ids leave nothing to draw.
  absl::StatusOr<TokenId> Judge(const kernels::KernelTable& table, ThreadPool& pool, std::span<float> logits);
  // Rows after this one are not text.
  bool done() const { return done_; }
  int32_t accepted() const { return accepted_; }  // drafts found right so far

 private:
  struct Judgement {
    TokenId token = 0;
    bool right = false;  // the draft is what stands here
  };
  absl::StatusOr<Judgement> JudgeRow(const kernels::KernelTable& table, ThreadPool& pool,
                                     std::span<const float> logits) const;
  absl::StatusOr<Judgement> JudgeDraft(const kernels::KernelTable& table, ThreadPool& pool,
                                       std::span<const float> logits, TokenId draft) const;
  absl::StatusOr<Judgement> Reject(const kernels::KernelTable& table, ThreadPool& pool,
                                   std::span<const float> logits, TokenId draft) const;
  int64_t position() const { return options_.position + row_; }
  double Uniform(RandomPurpose purpose) const;

  const Options options_;
  int32_t row_ = 0;
  int32_t accepted_ = 0;
  bool done_ = false;
};

}  // namespace paceline
