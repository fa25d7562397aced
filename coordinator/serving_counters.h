// What requests and steps took, since the start: the histograms and counts behind /metrics. Owned and filled
// by the engine's thread, copied for everybody else. docs/METRICS.md says what each of them means.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/step.h"
#include "coordinator/histogram.h"
#include "coordinator/request.h"

namespace paceline {

// How a request that was taken ended, by the name that vLLM's finished_reason has for it.
enum class RequestEnd : uint8_t { kStop, kLength, kTimeLimit, kAbort, kError };
inline constexpr size_t kRequestEnds = 5;
constexpr const char* RequestEndName(RequestEnd end) {
  constexpr const char* kNames[kRequestEnds] = {"stop", "length", "time_limit", "abort", "error"};
  return kNames[static_cast<size_t>(end)];
}

// What a step was mostly for.
enum class StepKind : uint8_t {
  kPrefill,  // it ran rows of a prompt, whatever else
  kDecode,
  kVerify,  // it judged drafts, and ran no prompt
};
inline constexpr size_t kStepKinds = 3;
constexpr const char* StepKindName(StepKind kind) {
  constexpr const char* kNames[kStepKinds] = {"prefill", "decode", "verify"};
  return kNames[static_cast<size_t>(kind)];
}

struct ServingCounters {
  ServingCounters();

  // A request's first token came `waited_s` after it had been sent.
  void FirstToken(int64_t prompt_tokens, double waited_s);
  // `tokens` came `gap_s` after the one before them.
  void MoreTokens(int64_t tokens, double gap_s);
  // `total_s`: since it was sent.
  void Ended(const GenerationEnd& end, double total_s);
  void Step(StepKind kind, int64_t rows, const StepResult& result);

  int64_t prompt_tokens = 0;                           // of requests whose first token came
  std::array<int64_t, kRequestEnds> ended{};           // [RequestEnd]
  std::map<std::string, int64_t, std::less<>> failed;  // by reason (api_error.h)

  // Of requests, in seconds. All but the last three: of those that ended well.
  Histogram first_token_s, inter_token_s;  // the second has one value per token after the first
  Histogram total_s, per_token_s, queue_s, prefill_s, decode_s, inference_s;
  Histogram request_prompt_tokens, request_generation_tokens;
  // Of steps.
  Histogram step_rows;
  std::vector<Histogram> step_s;   // [StepKind]
  std::vector<Histogram> phase_s;  // [StepPhase]; a step counts in the phases it had
  // [MoE layers] the busiest node's leaves over the mean of all nodes, of the last hundred steps or so.
  struct Imbalance {
    double busiest = 0;
    double all = 0;
  };
  std::vector<Imbalance> imbalance;
};

// Reasons that are shown from the start, with 0: of requests that were taken and failed, and of those that
// were refused.
std::vector<std::string> KnownFailures();
std::vector<std::string> KnownRefusals();

}  // namespace paceline
