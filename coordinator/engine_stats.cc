// Counting steps and drafts.
#include "coordinator/engine_stats.h"

#include <algorithm>

namespace paceline {
namespace {

template <size_t n>
void AddTo(std::vector<int64_t>* sum, const std::array<int64_t, n>& counts) {
  sum->resize(n);
  for (size_t i = 0; i < n; ++i) (*sum)[i] += counts[i];
}

}  // namespace

SpeculationStats StatsOf(int64_t decode_steps, const std::array<SourceStats, kDraftSources>& sources) {
  SpeculationStats stats;
  stats.decode_steps = decode_steps;
  int64_t most = 0;
  for (const DraftSource source : {DraftSource::kMtp, DraftSource::kSuffix}) {
    const SourceStats& from = sources[IndexOf(source)];
    if (from.steps == 0) continue;
    stats.steps += from.steps;
    stats.drafted += from.drafted;
    stats.accepted += from.accepted;
    AddTo(&stats.acceptance_histogram, from.histogram);
    AddTo(&stats.drafted_per_position, from.drafted_per_position);
    AddTo(&stats.accepted_per_position, from.accepted_per_position);
    stats.sources.push_back({DraftSourceName(source), from.steps, from.drafted, from.accepted});
    if (from.drafted > most) {
      most = from.drafted;
      stats.method = DraftSourceName(source);
    }
  }
  const auto shorten = [](std::vector<int64_t>* counts) {
    while (!counts->empty() && counts->back() == 0) counts->pop_back();
  };
  shorten(&stats.acceptance_histogram);
  // As deep as drafts went: a depth at which none was ever right says so with a zero.
  shorten(&stats.drafted_per_position);
  stats.accepted_per_position.resize(stats.drafted_per_position.size());
  return stats;
}

void ExpertHistogram::Count(int32_t experts) {
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), experts);
  ++counts[static_cast<size_t>(bound - kBounds.begin())];
  sum += experts;
}

void EngineStats::CountStep(const StepPlan& plan, const StepResult& result) {
  step_rows = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    step_rows += static_cast<int64_t>(plan.sequences[i].tokens.size()) + result.sequences[i].drafted;
  }
  rows += step_rows;
  step_s = result.run_s + result.draft_s;
  const bool drafts = std::any_of(result.sequences.begin(), result.sequences.end(),
                                  [](const SequenceResult& s) { return s.drafted > 0; });
  speculation.draft_s += result.draft_s;
  if (drafts) speculation.verify_s += result.run_s;
  if (distinct_experts.size() < result.distinct_experts.size())
    distinct_experts.resize(result.distinct_experts.size());
  for (size_t layer = 0; layer < result.distinct_experts.size(); ++layer)
    distinct_experts[layer].Count(result.distinct_experts[layer]);
  const bool prompts = std::any_of(plan.sequences.begin(), plan.sequences.end(), [](const SequenceRows& s) {
    return s.tokens.size() > 1 || s.first_position < s.prompt_tokens;
  });
  serving.Step(prompts  ? StepKind::kPrefill
               : drafts ? StepKind::kVerify
                        : StepKind::kDecode,
               step_rows, result);
}

}  // namespace paceline
