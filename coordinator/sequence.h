// One sequence as the scheduler books it: its tokens, how far they have been run, and the slot and pages it
// holds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/step.h"
#include "coordinator/speculation.h"

namespace paceline {

// Whether a request's text may meet texts that were run before, and whose.
struct TextSharing {
  bool prefix_cache = true;  // goes on from such a text, and is one for later ones
  std::string salt;          // requests of other salts never meet; nor do those of other keys
};

// What the scheduler is given.
struct SequenceSpec {
  SequenceId id{0};
  std::vector<TokenId> prompt;  // never empty
  int64_t max_tokens = 1;       // generated at most
  Sampling sampling;
  DraftChoice draft;
  std::shared_ptr<const std::vector<TokenId>> stops;  // ids that end the text; null: none
  int32_t top = 0;
  bool logprobs = false;
  std::optional<int32_t> prompt_top;  // the prompt is scored, with so many candidates per token
  bool hash_logits = false;
  std::string key;       // whose it is: keys have equal shares
  int32_t priority = 0;  // higher first
  TextSharing sharing;
};

struct Sequence {
  SequenceSpec spec;            // less the prompt
  std::vector<TokenId> tokens;  // the prompt and what was drawn; the last one drawn has not been run yet
  int64_t prompt_tokens = 0;
  uint64_t arrival = 0;     // in order of Admit
  int32_t preemptions = 0;  // times it had to give everything back
  bool ever_started = false;
  int64_t cached_tokens = 0;  // found in the prefix cache when it first started
  int64_t scored = 0;         // rows of the prompt whose scores have come, of those that are wanted

  // While it runs.
  int64_t computed = 0;     // positions run so far, or found
  int64_t prefill_end = 0;  // the tokens it started with: up to here its rows are a prompt's
  int32_t slot = -1;        // -1: it waits
  std::vector<int32_t> pages;
  std::vector<DraftOffer> offers;    // for the next step
  int32_t restore = -1;              // snapshot its first step starts from
  int32_t keep = -1;                 // snapshot that the step at hand may write
  std::vector<std::string> digests;  // of its text's pages, the first ones; empty without prefix cache
  size_t published = 0;              // pages, the first ones
  int64_t rows = 0;                  // in the step at hand, drafts aside

  // Rows of the prompt are still to be scored: all but the last, which draws a token.
  bool scores_due() const { return spec.prompt_top && scored < prompt_tokens - 1; }
  // Tokens whose rows have not been run.
  int64_t pending() const { return static_cast<int64_t>(tokens.size()) - computed; }
  // Its tokens run in chunks, the prompt or, after a preemption, the whole text so far.
  bool prefilling() const { return computed < prefill_end; }
  // Drafts whose tokens could all be used: a step emits one token more than it has drafts. That keeps every
  // position within the context.
  int32_t max_draft() const {
    const int64_t drawn = static_cast<int64_t>(tokens.size()) - prompt_tokens;
    return static_cast<int32_t>(std::clamp<int64_t>(spec.max_tokens - drawn - 1, 0, kMaxDraft));
  }
  // Positions of its tokens and the next one's; the last token of all is never run.
  int64_t next_positions() const {
    return std::min(static_cast<int64_t>(tokens.size()) + 1, prompt_tokens + spec.max_tokens - 1);
  }
};

constexpr int64_t PagesOf(int64_t positions) { return (positions + kPagePositions - 1) / kPagePositions; }

}  // namespace paceline
