// One sequence as the scheduler books it: its tokens, how far they have been run, and the slot and pages it
// holds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/ids.h"
#include "base/step.h"
#include "coordinator/speculation.h"

namespace paceline {

// What the scheduler is given.
struct SequenceSpec {
  SequenceId id{0};
  std::vector<TokenId> prompt;  // never empty
  int64_t max_tokens = 1;       // generated at most; pages are set aside for all of them
  Sampling sampling;
  DraftChoice draft;
  std::shared_ptr<const std::vector<TokenId>> stops;  // ids that end the text; null: none
  int32_t top = 0;
  bool logprobs = false;
  bool hash_logits = false;
};

struct Sequence {
  SequenceSpec spec;
  std::vector<TokenId> tokens;  // the prompt and what was drawn; the last one drawn has not been run yet
  int64_t computed = 0;         // positions run so far
  int32_t slot = -1;
  std::vector<int32_t> pages;
  std::vector<DraftOffer> offers;  // for the next step

  // Tokens whose rows have not been run.
  int64_t pending() const { return static_cast<int64_t>(tokens.size()) - computed; }
  bool in_prompt() const { return computed < static_cast<int64_t>(spec.prompt.size()); }
  // Drafts whose tokens could all be used: a step emits one token more than it has drafts. That keeps every
  // position within positions_needed(), so within the pages and the context.
  int32_t max_draft() const {
    const int64_t drawn = static_cast<int64_t>(tokens.size() - spec.prompt.size());
    return static_cast<int32_t>(std::clamp<int64_t>(spec.max_tokens - drawn - 1, 0, kMaxDraft));
  }
  // The last token drawn is never run, hence the one less.
  int64_t positions_needed() const { return static_cast<int64_t>(spec.prompt.size()) + spec.max_tokens - 1; }
};

constexpr int64_t PagesOf(int64_t positions) { return (positions + kPagePositions - 1) / kPagePositions; }

}  // namespace paceline
