// One step: what the coordinator asks of the trunk and what comes back. No tensors cross this line, so a
// trunk may one day stand in another process. Rows of several sequences, prefill chunks, decode and (later)
// verify rows mix freely.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "base/placement.h"

namespace paceline {

// Positions per KV page; equal to the attention block of docs/NUMERICS.md, so a page is read by exactly one
// block.
inline constexpr int64_t kPagePositions = 256;

// How a row's logits become a token. Order: temperature, top-k, top-p, min-p, then argmax of log p + Gumbel
// noise keyed by (seed, choice, position of the token drawn).
struct Sampling {
  float temperature = 1.0f;  // 0 = greedy
  int32_t top_k = 0;         // 0 = off
  float top_p = 1.0f;
  float min_p = 0.0f;
  uint64_t seed = 0;
  uint32_t choice = 0;
};

// Consecutive rows of one sequence.
struct SequenceRows {
  SequenceId sequence{0};
  int32_t slot = 0;             // recurrent state; rows at position 0 start it afresh
  std::vector<int32_t> pages;   // position p lives in KV page pages[p / kPagePositions]
  int64_t first_position = 0;   // position of tokens[0]
  std::vector<TokenId> tokens;  // [rows]
  int32_t sampled_rows = 0;     // the last n rows get a token drawn: 0 inside a prompt, 1 for plain decode
  Sampling sampling;
  int32_t top = 0;        // candidates to report per sampled or scored row
  bool logprobs = false;  // report the drawn token's log-probability
  std::vector<TokenId>
      targets;  // scoring: log-probability of targets[i] after row i; size 0 or rows; -1 = none
  bool hash_logits =
      false;  // feed the logits of sampled (or, when scoring, all) rows into the sequence's hash
};

struct StepPlan {
  StepId step{0};
  std::vector<SequenceRows> sequences;
  bool probe_workers = false;  // send every worker one row through one leaf it holds
};

struct Candidate {
  TokenId token = 0;
  float logprob = 0;
};

struct RowResult {
  TokenId token = -1;          // drawn, or the target when scoring
  float logprob = 0;           // of `token`, before any transform; set when asked for
  std::vector<Candidate> top;  // highest first, ties to the lower id
};

struct SequenceResult {
  SequenceId sequence{0};
  absl::Status status;          // a row whose arithmetic left the numbers fails its own sequence only
  std::vector<RowResult> rows;  // the sampled rows, or all rows when scoring
  std::string logits_hash;      // first 16 hex digits over everything hashed so far; set when asked for
};

struct StepResult {
  std::vector<SequenceResult> sequences;  // in plan order
};

// What a coordinator must know of the model and the machine behind a trunk.
struct TrunkInfo {
  std::string model;        // name for people: the folder's
  std::string fingerprint;  // digest of the arithmetic contracts in force
  int64_t vocab = 0;
  int64_t context = 0;  // positions a sequence may have
  int32_t slots = 0;    // sequences at once
  int32_t pages = 0;    // KV pages in all
  bool has_mtp = false;
  std::string lm_head;  // "stored" or "int8"
  std::vector<LayerShape> layers;
};

// Counters of the exchange since the start.
struct ExchangeCounters {
  int64_t layers = 0;  // layer exchanges with at least one remote part
  int64_t bytes = 0;   // both directions, headers included
  double seconds = 0;  // waiting for answers after local work was done
};

// Runs steps. Owned by the engine thread; every call blocks until the step is done.
class Trunk {
 public:
  virtual ~Trunk() = default;
  virtual const TrunkInfo& info() const = 0;
  // Unavailable names the lost worker; every sequence of the plan must then be given up.
  virtual absl::StatusOr<StepResult> Run(const StepPlan& plan) = 0;
  // Forgets a sequence's hash and buffers. Its slot and pages are the caller's to reuse.
  virtual void Release(SequenceId sequence) = 0;
  virtual ExchangeCounters counters() const = 0;
};

}  // namespace paceline
