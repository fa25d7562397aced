// One step: what the coordinator asks of the trunk and what comes back. No tensors cross this line, so a
// trunk may one day stand in another process. Rows of several sequences, prefill chunks, decode and verify
// rows mix freely.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/constraint.h"
#include "base/ids.h"
#include "base/placement.h"

namespace paceline {

// Positions per KV page; equal to the attention block of docs/NUMERICS.md, so a page is read by exactly one
// block.
inline constexpr int64_t kPagePositions = 256;

// Drafts a sequence may have in one step; its verify rows are one more.
inline constexpr int32_t kMaxDraft = 8;

// Who guesses. docs/ARCHITECTURE.md, Drafting.
enum class DraftSource : uint8_t {
  kNone,
  kMtp,     // the model's own multi-token-prediction layer
  kSuffix,  // what followed the same words earlier in the sequence's own text
};
constexpr const char* DraftSourceName(DraftSource source) {
  switch (source) {
    case DraftSource::kNone:
      return "off";
    case DraftSource::kMtp:
      return "mtp";
    case DraftSource::kSuffix:
      return "suffix";
  }
  return "?";
}

// When a draft counts as right.
enum class AcceptanceRule : uint8_t {
  kCoupled,    // it is the token the target draws with its own noise: the text never depends on drafts
  kRejection,  // with probability min(1, p / q), else a draw from the rest of p: the same distribution, but
               // the text depends on drafts. For requests without a seed.
};

// What is added to logits before anything else; shared by all steps of a request.
struct LogitAdjustments {
  std::vector<std::pair<TokenId, float>> bias;  // ids ascending
  std::vector<TokenId> allowed;                 // ascending; empty: all. Others count as minus infinity
};

// How a row's logits become a token. Order: the constraint's mask, allowed ids and bias, repetition, presence
// and frequency penalties, temperature, top-k, top-p, min-p, then argmax of log p + Gumbel noise keyed by
// (seed, choice, position of the token drawn).
struct Sampling {
  float temperature = 1.0f;  // 0 = greedy
  int32_t top_k = 0;         // 0 = off
  float top_p = 1.0f;
  float min_p = 0.0f;
  uint64_t seed = 0;
  uint32_t choice = 0;
  float repetition_penalty =
      1.0f;                       // of ids in prompt or text: logits above 0 divided by it, others multiplied
  float presence_penalty = 0.0f;  // subtracted from ids generated so far
  float frequency_penalty = 0.0f;                       // subtracted once for every time the id was generated
  std::shared_ptr<const LogitAdjustments> adjustments;  // null: none
  std::shared_ptr<const Constraint> constraint;         // null: any text
  AcceptanceRule acceptance = AcceptanceRule::kCoupled;

  bool penalises() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
};

// Consecutive rows of one sequence.
struct SequenceRows {
  SequenceId sequence{0};
  int32_t slot = 0;             // recurrent state; rows at position 0 start it afresh
  std::vector<int32_t> pages;   // position p lives in KV page pages[p / kPagePositions]
  int64_t first_position = 0;   // position of tokens[0]
  std::vector<TokenId> tokens;  // [rows]
  // The last n rows get a token drawn: 0 inside a prompt, 1 for plain decode. More, in benches: each row by
  // itself, without penalties, adjustments, constraint or drafts.
  int32_t sampled_rows = 0;
  // Leading tokens of the sequence that penalties count as prompt; a constraint begins behind them.
  int64_t prompt_tokens = 0;
  Sampling sampling;
  // The first rows of a sequence may start behind position 0, at a multiple of kPagePositions, where snapshot
  // `restore` has the state (-1: they start at 0, or go on). The pages below then hold what these tokens left
  // there; pages may be shared below the positions that all their sequences have run.
  int32_t restore = -1;
  std::vector<TokenId> prefix;  // [first_position] with restore: the tokens in front
  // Snapshot that takes the state at `keep_position`, a multiple of kPagePositions above first_position. The
  // rows end there; or there is one, and its drafts may lead there and behind. -1: none.
  int32_t keep = -1;
  int64_t keep_position = 0;
  // With one token and sampled_rows 1: `drafter` guesses up to `draft_depth` tokens behind it, and all of
  // them are verified in this step. Positions up to first_position + draft_depth must have pages.
  DraftSource drafter = DraftSource::kNone;
  int32_t draft_depth = 0;
  std::shared_ptr<const std::vector<TokenId>> stops;  // ids that end the text: nothing is drafted behind one
  int32_t top = 0;                                    // candidates to report per sampled or scored row
  bool logprobs = false;                              // report the drawn token's log-probability
  std::vector<TokenId>
      targets;  // scoring: log-probability of targets[i] after row i; size 0 or rows; -1 = none
  bool hash_logits =
      false;  // feed the logits of sampled (or, when scoring, all) rows into the sequence's hash
};

struct StepPlan {
  StepId step{0};
  std::vector<SequenceRows> sequences;
  // Sequences that gave up slot and pages for now: their state goes, their hash stays. They come back with
  // first rows, all of their text so far among the tokens. Done before anything in the step can fail.
  std::vector<SequenceId> suspended;
  bool probe_workers = false;  // send every worker one row through one leaf it holds
};

struct Candidate {
  TokenId token = 0;
  float logprob = 0;
};

struct RowResult {
  TokenId token = -1;          // drawn, or the target when scoring
  float logprob = 0;           // of `token`, before any transform; set when asked for
  int32_t rank = 0;            // of a target: 1 and those likelier than it
  std::vector<Candidate> top;  // highest first, ties to the lower id
  std::string
      logits_hash;  // as SequenceResult's, up to this row; set when asked for and the plan wanted drafts
};

// What a drafter could do for a sequence in its next step.
struct DraftOffer {
  DraftSource source = DraftSource::kNone;
  int32_t depth = 0;  // at most
  int32_t match = 0;  // suffix: tokens of context that agreed; 0 for others
};

struct SequenceResult {
  SequenceId sequence{0};
  absl::Status status;  // a row whose arithmetic left the numbers fails its own sequence only
  // The sampled rows, or all rows when scoring. With drafts: one row per accepted draft and one more, in
  // order; the tokens of all but the last were drafted.
  std::vector<RowResult> rows;
  std::string logits_hash;         // first 16 hex digits over everything hashed so far; set when asked for
  int32_t drafted = 0;             // drafts verified; at most what was asked for
  std::vector<DraftOffer> offers;  // for the next step, after a sampled row
  bool kept = false;               // the text has reached keep_position, and the snapshot is written
};

// What a step does with its time, as operators name it.
enum class StepPhase : uint8_t {
  kAttention,  // embedding, norms, attention and recurrent layers
  kDispatch,   // routing, and sending rows to workers
  kExpert,     // the head's own experts and the shared one
  kCombine,    // waiting for the workers' sums
  kHead,       // logits, sampling, judging drafts
  kDraft,
  kOther,
};
inline constexpr size_t kStepPhases = 7;
constexpr const char* StepPhaseName(StepPhase phase) {
  constexpr const char* kNames[kStepPhases] = {"attention", "dispatch", "expert", "combine",
                                               "head",      "draft",    "other"};
  return kNames[static_cast<size_t>(phase)];
}
using PhaseSeconds = std::array<double, kStepPhases>;  // [StepPhase]

// How the leaves of a layer that a step visited were spread over the nodes.
struct LeafLoad {
  int64_t busiest = 0;  // of the node that had most to do
  int64_t all = 0;
};

struct StepResult {
  std::vector<SequenceResult> sequences;  // in plan order
  double draft_s = 0;                     // seconds spent drafting
  double run_s = 0;                       // seconds of everything else
  PhaseSeconds phase_s{};                 // of both; zeros where the trunk does not say
  std::vector<int32_t> distinct_experts;  // [MoE layers] experts that at least one row of the step visited
  std::vector<LeafLoad> leaf_loads;       // [MoE layers]
};

// What a coordinator must know of the model and the machine behind a trunk.
struct TrunkInfo {
  std::string model;        // name for people: the folder's
  std::string fingerprint;  // digest of the arithmetic contracts in force
  int64_t vocab = 0;
  int64_t context = 0;    // positions a sequence may have
  int32_t slots = 0;      // sequences at once
  int32_t pages = 0;      // KV pages in all
  int32_t snapshots = 0;  // states at page borders that can be stored; 0: no prefix cache
  bool has_mtp = false;
  std::vector<DraftSource> drafters;  // that are loaded
  std::string draft_refusal;          // why the MTP layer does not draft; empty when it does or was not asked
  std::string mtp_format;             // "int4" or "stored", when the MTP layer drafts
  std::string lm_head;                // "stored" or "int8"
  std::vector<LayerShape> layers;
};

// What went to one worker and came back since the start, and what the link to it is like.
struct PeerCounters {
  int64_t sent_bytes = 0;      // headers included
  int64_t received_bytes = 0;  // the same
  double straggler_s = 0;      // the head waited for this worker alone
  // As last measured; 0: not yet, or there is no link.
  double rtt_s = 0;                 // of an empty frame
  double sent_bytes_per_s = 0;      // of a large one
  double received_bytes_per_s = 0;  // the same

  void ForgetLink() { rtt_s = sent_bytes_per_s = received_bytes_per_s = 0; }
};

// Counters of the exchange since the start.
struct ExchangeCounters {
  int64_t layers = 0;               // layer exchanges with at least one remote part
  int64_t bytes = 0;                // both directions, headers included
  double seconds = 0;               // waiting for answers after local work was done
  std::vector<PeerCounters> peers;  // [ranks - 1], of ranks 1..; empty where the trunk does not say
};

// Runs steps. Owned by the engine thread; every call blocks until the step is done.
class Trunk {
 public:
  virtual ~Trunk() = default;
  virtual const TrunkInfo& info() const = 0;
  // Unavailable names the lost worker. Sequences of the plan with at most kMaxDraft + 1 rows then stand where
  // they stood, unless they hash logits, and may run again; all others must be given up.
  virtual absl::StatusOr<StepResult> Run(const StepPlan& plan) = 0;
  // Forgets a sequence's hash and buffers. Its slot and pages are the caller's to reuse.
  virtual void Release(SequenceId sequence) = 0;
  virtual ExchangeCounters counters() const = 0;
  // Between two steps: measures the links to the workers, their bandwidth where asked for, for counters().
  // The status is that of the first link that could not be measured.
  virtual absl::Status MeasureLinks(bool /*bandwidth*/) { return absl::OkStatus(); }
};

}  // namespace paceline
