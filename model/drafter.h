// Drafters: whoever guesses the next tokens of a sequence. A draft changes speed, never the text: the
// verifier emits the target's own tokens (model/verifier.h). Drafters are disposable: one that forgets
// everything costs acceptance only. They see committed tokens and the target's hidden states, and own nothing
// else.
//
// Order of calls for a sequence: Commit for every run of rows that became text (prompt chunks and verified
// rows alike), Draft any number of times, Close. Instead of rows at position 0 the first call may be Restore.
// The interface fits a block-diffusion drafter (DFlash) as
// well: docs/ARCHITECTURE.md, Drafting, has the sketch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "base/step.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/sampler_state.h"

namespace paceline {

// Which hidden state of the target a drafter reads.
enum class HiddenTap : uint8_t {
  kNone,
  kPostNorm,  // after the final norm: what the LM head reads
  kPreNorm,   // the residual stream before it
};

// Rows of one sequence that are text for good.
struct CommittedRows {
  SequenceId sequence{0};
  int64_t first_position = 0;       // of tokens[0]
  std::span<const TokenId> tokens;  // [rows], the rows' own tokens
  const float* hidden = nullptr;  // [rows, hidden] of the target, at the drafter's tap; valid during the call
  std::span<const int32_t> pages;  // position p lives in KV page pages[p / kPagePositions]
};

struct DraftRequest {
  SequenceId sequence{0};
  TokenId last_token = 0;                 // drawn, not run yet
  int64_t position = 0;                   // of last_token; everything before it has been committed
  int32_t depth = 0;                      // tokens wanted, 1..kMaxDraft
  std::span<const int32_t> pages;         // position p lives in KV page pages[p / kPagePositions]
  const Sampling* sampling = nullptr;     // of the request
  const SamplerState* sampler = nullptr;  // of the text so far, last_token included
  // Where the text stands in its constraint, last_token included; null: any text. Whoever moves it on moves
  // it back. Drafts that it does not allow are cut off: they would be run for nothing.
  ConstraintMatcher* matcher = nullptr;
};

// A distribution over few tokens; the rest has probability 0.
struct SparseDistribution {
  struct Entry {
    TokenId token = 0;
    double probability = 0;
  };
  std::vector<Entry> entries;  // ids ascending; probabilities sum to 1
};

struct DraftResult {
  std::vector<TokenId> tokens;                    // at most the depth asked for; may be empty
  std::vector<SparseDistribution> distributions;  // [tokens] what each was drawn from; only under kRejection
};

// Where a drafter computes. The trunk's own, between two steps.
struct DraftContext {
  const kernels::KernelTable& table;
  ThreadPool& pool;
  kernels::Workspace& workspace;
};

// Owned by the trunk; used from the step thread.
class Drafter {
 public:
  virtual ~Drafter() = default;
  virtual DraftSource source() const = 0;
  // Which hidden states Commit wants.
  virtual HiddenTap tap() const = 0;
  // Rows at position 0 start the sequence afresh. The context is that of Draft.
  virtual void Commit(const DraftContext& context, const CommittedRows& rows) = 0;
  // drafts[i] answers requests[i]. An error fails the step's drafts, not the step: the caller runs plain
  // rows.
  virtual absl::Status Draft(const DraftContext& context, std::span<const DraftRequest> requests,
                             std::span<DraftResult> drafts) = 0;
  // What could be drafted once `last_token` has been drawn; depth 0 when nothing.
  virtual DraftOffer Offer(SequenceId sequence, TokenId last_token) const = 0;
  // The text has passed a page border: whoever starts from snapshot `snapshot` goes on behind it. `hidden`
  // [hidden]: at the drafter's tap, of the position in front of the border. What the drafter has of earlier
  // positions goes to the pages, which others may read from now on.
  virtual void Keep(const DraftContext& /*context*/, SequenceId /*sequence*/, int32_t /*snapshot*/,
                    const float* /*hidden*/, std::span<const int32_t> /*pages*/) {}
  // A fresh sequence that goes on behind `tokens`, where Keep was called.
  virtual void Restore(const DraftContext& /*context*/, SequenceId /*sequence*/, int32_t /*snapshot*/,
                       std::span<const TokenId> /*tokens*/) {}
  virtual void Close(SequenceId sequence) = 0;
  virtual int64_t bytes_per_draft() const = 0;  // weights read for one drafted token, for the byte meter
};

}  // namespace paceline
