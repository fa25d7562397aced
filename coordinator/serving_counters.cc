// Bounds and bookkeeping.
#include "coordinator/serving_counters.h"

#include "coordinator/api_error.h"

namespace paceline {
namespace {

// vLLM's bounds, since quantiles of dashboards made for it depend on them; finer ones stand below its first,
// where small models and drafted tokens are.
constexpr double kFirstTokenBounds[] = {0.001, 0.005, 0.01, 0.02,  0.04,  0.06,  0.08, 0.1,
                                        0.25,  0.5,   0.75, 1.0,   2.5,   5.0,   7.5,  10.0,
                                        20.0,  40.0,  80.0, 160.0, 640.0, 2560.0};
constexpr double kTokenBounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,  0.15, 0.2,  0.3,
                                   0.4,   0.5,    0.75,  1.0,  2.5,   5.0,  7.5,   10.0, 20.0, 40.0, 80.0};
constexpr double kRequestBounds[] = {0.005, 0.01, 0.025, 0.05,  0.1,   0.3,   0.5,    0.8,   1.0,
                                     1.5,   2.0,  2.5,   5.0,   10.0,  15.0,  20.0,   30.0,  40.0,
                                     50.0,  60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
constexpr double kCountBounds[] = {1,    2,    5,     10,    20,    50,     100,    200,    500,    1000,
                                   2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000};
constexpr double kRowBounds[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
// Of steps and their parts: from what a small model's layer takes to a large prompt's chunk.
constexpr double kStepBounds[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                  0.05,   0.1,     0.25,   0.5,   1.0,    2.5,   5.0,  10.0};

// A step's share in the running sums of imbalance.
constexpr double kForget = 0.01;

RequestEnd EndOf(const GenerationEnd& end) {
  if (!end.status.ok()) return RequestEnd::kError;
  switch (end.reason) {
    case FinishReason::kStop:
      return RequestEnd::kStop;
    case FinishReason::kLength:
      return RequestEnd::kLength;
    case FinishReason::kTimeLimit:
      return RequestEnd::kTimeLimit;
    case FinishReason::kCancelled:
      break;
  }
  return RequestEnd::kAbort;
}

}  // namespace

ServingCounters::ServingCounters()
    : first_token_s(kFirstTokenBounds),
      inter_token_s(kTokenBounds),
      total_s(kRequestBounds),
      per_token_s(kTokenBounds),
      queue_s(kRequestBounds),
      prefill_s(kRequestBounds),
      decode_s(kRequestBounds),
      inference_s(kRequestBounds),
      request_prompt_tokens(kCountBounds),
      request_generation_tokens(kCountBounds),
      step_rows(kRowBounds),
      step_s(kStepKinds, Histogram(kStepBounds)),
      phase_s(kStepPhases, Histogram(kStepBounds)) {
  for (const std::string& reason : KnownFailures()) failed[reason] = 0;
}

void ServingCounters::FirstToken(int64_t tokens, double waited_s) {
  prompt_tokens += tokens;
  first_token_s.Observe(waited_s);
}

// Tokens that one step brought came at once; each counts its share of the time, so that sum and count are
// those of the tokens.
void ServingCounters::MoreTokens(int64_t tokens, double gap_s) {
  if (tokens > 0) inter_token_s.Observe(gap_s / static_cast<double>(tokens), tokens);
}

void ServingCounters::Ended(const GenerationEnd& end, double seconds) {
  const RequestEnd how = EndOf(end);
  ++ended[static_cast<size_t>(how)];
  if (how == RequestEnd::kError) ++failed[FactsOf(end.status).reason];
  if (how == RequestEnd::kError || how == RequestEnd::kAbort) return;
  total_s.Observe(seconds);
  queue_s.Observe(end.timings.queue_s);
  prefill_s.Observe(end.timings.prefill_s);
  decode_s.Observe(end.timings.decode_s);
  inference_s.Observe(end.timings.prefill_s + end.timings.decode_s);
  request_prompt_tokens.Observe(static_cast<double>(end.usage.prompt_tokens));
  request_generation_tokens.Observe(static_cast<double>(end.usage.completion_tokens));
  if (end.usage.completion_tokens > 1)
    per_token_s.Observe(end.timings.decode_s / static_cast<double>(end.usage.completion_tokens - 1));
}

void ServingCounters::Step(StepKind kind, int64_t rows, const StepResult& result) {
  step_rows.Observe(static_cast<double>(rows));
  step_s[static_cast<size_t>(kind)].Observe(result.run_s + result.draft_s);
  for (size_t phase = 0; phase < kStepPhases; ++phase) {
    if (result.phase_s[phase] > 0) phase_s[phase].Observe(result.phase_s[phase]);
  }
  if (imbalance.size() < result.leaf_loads.size()) imbalance.resize(result.leaf_loads.size());
  for (size_t layer = 0; layer < result.leaf_loads.size(); ++layer) {
    Imbalance& sums = imbalance[layer];
    sums.busiest += static_cast<double>(result.leaf_loads[layer].busiest) - kForget * sums.busiest;
    sums.all += static_cast<double>(result.leaf_loads[layer].all) - kForget * sums.all;
  }
}

std::vector<std::string> KnownFailures() {
  return {reasons::kDraining,  reasons::kInternal,     reasons::kNodeLost,
          reasons::kNonFinite, reasons::kQueueTimeout, reasons::kTimeLimit};
}

std::vector<std::string> KnownRefusals() {
  return {reasons::kContextLength, reasons::kDraining, reasons::kFeatureDisabled, reasons::kGrammarInvalid,
          reasons::kInvalidField,  reasons::kNodeLost, reasons::kQueueFull};
}

}  // namespace paceline
