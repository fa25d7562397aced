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
constexpr int kRepeats = 3;  // of which the middle counts
constexpr int32_t kPromptTokens = 8;
constexpr uint64_t kSeed = 0x63616C6962726174;  // any; the same tokens at every start
// Rows per sequence less one. Few sequences, the commonest batches, are measured at every depth.
constexpr int32_t kFew = 4;
constexpr std::array<int32_t, 5> kDepths = {0, 1, 2, 4, 8};
constexpr std::array<int32_t, 4> kDepthsBetween = {3, 5, 6, 7};

class Calibration {
 public:
  Calibration(Trunk& trunk, const CalibrationLimits& limits, const std::function<SequenceId()>& new_sequence,
              const std::function<StepId()>& new_step)
      : trunk_(trunk), limits_(limits), new_sequence_(new_sequence), new_step_(new_step) {}
  ~Calibration() { Close(); }

  absl::StatusOr<std::vector<StepCost>> Run() {
    for (int32_t batch = 1; batch <= limits_.sequences && !exhausted(); batch *= 2) {
      RETURN_IF_ERROR(Open(batch));
      if (spent_ == 0) break;  // nobody holds a watch
      for (const int32_t depth : kDepths) RETURN_IF_ERROR(Measure(depth));
      for (const int32_t depth : kDepthsBetween) {
        if (batch <= kFew) RETURN_IF_ERROR(Measure(depth));
      }
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

  absl::Status Measure(int32_t depth) {
    const auto batch = static_cast<int32_t>(members_.size());
    if (batch == 0 || int64_t{batch} * (1 + depth) > limits_.rows) return absl::OkStatus();
    std::vector<StepCost> seen;
    for (int i = 0; i < kRepeats && !exhausted(); ++i) {
      StepPlan plan;
      for (const Member& member : members_) {
        if (member.end + depth >= std::min<int64_t>(kPagePositions, trunk_.info().context))
          return absl::OkStatus();
        SequenceRows& rows = plan.sequences.emplace_back(member.rows);
        rows.first_position = member.end;
        rows.tokens = {member.last};
        rows.drafter = depth > 0 ? DraftSource::kMtp : DraftSource::kNone;
        rows.draft_depth = depth;
      }
      ASSIGN_OR_RETURN(const StepResult result, Step(std::move(plan)));
      bool whole = result.run_s > 0;
      for (size_t m = 0; m < members_.size(); ++m) {
        const SequenceResult& got = result.sequences[m];
        whole &= got.drafted == depth;  // a drafter may offer less
        members_[m].end += static_cast<int64_t>(got.rows.size());
        members_[m].last = got.rows.back().token;
      }
      if (whole) seen.push_back({batch, depth, result.run_s, result.draft_s});
    }
    if (seen.empty()) return absl::OkStatus();
    std::sort(seen.begin(), seen.end(),
              [](const StepCost& a, const StepCost& b) { return a.run_s + a.draft_s < b.run_s + b.draft_s; });
    // Of two the first: what delays a step only ever adds.
    costs_.push_back(seen[(seen.size() - 1) / 2]);
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
