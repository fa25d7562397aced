// Verification: the target's rows of a step decide, one by one, how many drafts were right. Under kCoupled
// the token emitted is always the one the target draws by itself, so the text is that of plain decoding;
// under kRejection it has the target's distribution. Leviathan et al., "Fast inference from transformers via
// speculative decoding", 2023. NUMERICS, Sampling.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "base/ids.h"
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
    std::span<const SparseDistribution> distributions;  // [drafts] under kRejection, else empty
    int64_t position = 0;                               // of the first token to be emitted
    // Benches only: each draft is right with this probability, whatever the target says. Below 0: off.
    double assume_acceptance = -1;
  };
  explicit Verification(const Options& options) : options_(options) {}

  // The token behind the next row. `logits` [vocab] are adjusted in place (bias, penalties); ids that must
  // not be drawn are minus infinity on entry. Not to be called when done(). DataLoss (REQ-003) as
  // SampleToken.
  absl::StatusOr<TokenId> Judge(const kernels::KernelTable& table, ThreadPool& pool, std::span<float> logits);
  // Rows after this one are not text.
  bool done() const { return done_; }
  int32_t accepted() const { return accepted_; }  // drafts found right so far

 private:
  const Options options_;
  int32_t row_ = 0;
  int32_t accepted_ = 0;
  bool done_ = false;
};

}  // namespace paceline
