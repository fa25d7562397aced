// Measuring steps.
#include "coordinator/calibration.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/random.h"
#include "base/status.h"

namespace paceline {
namespace {

constexpr double kBudgetSeconds = 1.5;
constexpr double kBudgetOfOne = 0.75;  // of which for one sequence alone
constexpr int kRounds = 5;             // over all depths; of each the lower middle counts
constexpr int32_t kPromptTokens = 8;
constexpr uint64_t kSeed = 0x63616C6962726174;  // any; the same tokens at every start
// Rows per sequence less one. Few sequences, the commonest batches, are measured at every depth.
constexpr int32_t kFew = 4;
constexpr std::array<int32_t, 9> kDepths = {0, 1, 4, 8, 2, 6, 3, 5, 7};
constexpr size_t kCoarse = 5;  // the first of these, where there are more sequences
// The first of these are measured of one sequence, however long it takes: a curve has no fewer.
constexpr size_t kLeast = 3;

class Calibration {
 public:
  Calibration(Trunk& trunk, const CalibrationLimits& limits, const std::function<SequenceId()>& new_sequence,
              const std::function<StepId()>& new_step)
      : trunk_(trunk), limits_(limits), new_sequence_(new_sequence), new_step_(new_step) {}
  ~Calibration() { Close(); }

  absl::StatusOr<std::vector<StepCost>> Run() {
    for (int32_t batch = 1; batch <= limits_.sequences && (batch == 1 || !exhausted()); batch *= 2) {
      RETURN_IF_ERROR(Open(batch));
      if (spent_ == 0) break;  // nobody holds a watch
      RETURN_IF_ERROR(MeasureBatch(batch));
      Close();
    }
    return std::move(costs_);
  }

 private:
  struct Member {
    SequenceRows rows;
    int64_t end = 0;  // positions run
    TokenId last = 0;
  };

  bool exhausted() const { return spent_ >= kBudgetSeconds; }

  TokenId RandomToken() {
    return static_cast<TokenId>(RandomBits(kSeed, 0, RandomPurpose::kSynth, drawn_++, 0) %
                                static_cast<uint64_t>(trunk_.info().vocab));
  }

  absl::StatusOr<StepResult> Step(StepPlan plan) {
    plan.step = new_step_();
    ASSIGN_OR_RETURN(StepResult result, trunk_.Run(plan));
    CHECK_EQ(result.sequences.size(), plan.sequences.size());
    for (const SequenceResult& sequence : result.sequences) RETURN_IF_ERROR(sequence.status);
    spent_ += result.run_s + result.draft_s;
    return result;
  }

  // Starts sequences until there are `batch`, each with a short prompt.
  absl::Status Open(int32_t batch) {
    if (batch > trunk_.info().pages) return absl::OkStatus();
    while (static_cast<int32_t>(members_.size()) < batch) {
      Member member;
      const auto index = static_cast<int32_t>(members_.size());
      member.rows.sequence = new_sequence_();
      member.rows.slot = index;
      member.rows.pages = {index};
      member.rows.prompt_tokens = std::min(kPromptTokens, limits_.prefill_chunk);
      for (int64_t i = 0; i < member.rows.prompt_tokens; ++i) member.rows.tokens.push_back(RandomToken());
      member.rows.sampled_rows = 1;
      member.rows.sampling.temperature = 0;
      StepPlan plan;
      plan.sequences.push_back(member.rows);
      members_.push_back(member);
      ASSIGN_OR_RETURN(const StepResult result, Step(std::move(plan)));
      members_.back().end = member.rows.prompt_tokens;
      members_.back().last = result.sequences[0].rows.back().token;
    }
    return absl::OkStatus();
  }

  void Close() {
    for (const Member& member : members_) trunk_.Release(member.rows.sequence);
    members_.clear();
  }

  // Round after round over all depths, so that a spell of other load falls on all of them alike.
  absl::Status MeasureBatch(int32_t batch) {
    const size_t depths = batch <= kFew ? kDepths.size() : kCoarse;
    std::array<std::vector<StepCost>, kDepths.size()> seen;
    if (batch == 1) {
      // The first steps meet cold caches, and buffers that are not there yet.
      for (const size_t i : {kLeast - 1, size_t{0}}) RETURN_IF_ERROR(Measure(batch, kDepths[i], nullptr));
    }
    for (int round = 0; round < kRounds; ++round) {
      if (batch == 1 && round > 0 && spent_ >= kBudgetOfOne) break;
      for (size_t i = 0; i < depths; ++i) {
        const bool needed = batch == 1 && round == 0 && i < kLeast;
        if (needed || !exhausted()) RETURN_IF_ERROR(Measure(batch, kDepths[i], &seen[i]));
      }
    }
    // One point is no curve: what would be made of it is worse than what other batches say.
    const auto measured = std::count_if(seen.begin(), seen.end(), [](const auto& s) { return !s.empty(); });
    if (measured < 2) return absl::OkStatus();
    for (std::vector<StepCost>& steps : seen) {
      if (steps.empty()) continue;
      std::sort(steps.begin(), steps.end(), [](const StepCost& a, const StepCost& b) {
        return a.run_s + a.draft_s < b.run_s + b.draft_s;
      });
      // Of two the first: what delays a step only ever adds.
      costs_.push_back(steps[(steps.size() - 1) / 2]);
    }
    return absl::OkStatus();
  }

  // One step, added to `seen` unless that is null or the step is not what was wanted: a drafter may offer
  // less.
  absl::Status Measure(int32_t batch, int32_t depth, std::vector<StepCost>* seen) {
    if (int64_t{batch} * (1 + depth) > limits_.rows) return absl::OkStatus();
    if (!limits_.mtp && int64_t{batch} * (1 + depth) > limits_.prefill_chunk) return absl::OkStatus();
    const int64_t room = std::min<int64_t>(kPagePositions, trunk_.info().context) - depth;
    const auto full = [&] {
      return members_.empty() ||
             std::any_of(members_.begin(), members_.end(), [&](const Member& m) { return m.end >= room; });
    };
    if (full()) {
      Close();
      RETURN_IF_ERROR(Open(batch));
      if (full()) return absl::OkStatus();  // a context that short, or too few pages
    }
    StepPlan plan;
    for (const Member& member : members_) {
      SequenceRows& rows = plan.sequences.emplace_back(member.rows);
      rows.first_position = member.end;
      rows.tokens = {member.last};
      if (depth == 0) continue;
      if (limits_.mtp) {
        rows.drafter = DraftSource::kMtp;
        rows.draft_depth = depth;
      } else {
        // Rows cost what rows cost: a piece of a prompt in place of verified drafts.
        for (int32_t i = 0; i < depth; ++i) rows.tokens.push_back(RandomToken());
        rows.prompt_tokens = member.end + 1 + depth;
      }
    }
    ASSIGN_OR_RETURN(const StepResult result, Step(std::move(plan)));
    bool whole = result.run_s > 0;
    for (size_t m = 0; m < members_.size(); ++m) {
      const SequenceResult& got = result.sequences[m];
      whole &= got.drafted == (limits_.mtp ? depth : 0);
      members_[m].end += static_cast<int64_t>(got.rows.size()) + (limits_.mtp ? 0 : depth);
      members_[m].last = got.rows.back().token;
    }
    if (whole && seen != nullptr) seen->push_back({batch, depth, result.run_s, result.draft_s});
    return absl::OkStatus();
  }

  Trunk& trunk_;
  const CalibrationLimits limits_;
  const std::function<SequenceId()>& new_sequence_;
  const std::function<StepId()>& new_step_;
  std::vector<Member> members_;
  std::vector<StepCost> costs_;
  double spent_ = 0;  // seconds of steps
  uint64_t drawn_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<StepCost>> MeasureStepCosts(Trunk& trunk, const CalibrationLimits& limits,
                                                       const std::function<SequenceId()>& new_sequence,
                                                       const std::function<StepId()>& new_step) {
  return Calibration(trunk, limits, new_sequence, new_step).Run();
}

}  // namespace paceline
