#include "coordinator/http/usage.h"

#include <algorithm>

namespace paceline {
namespace {

void Add(std::vector<int64_t>* sum, const std::vector<int64_t>& counts) {
  if (sum->size() < counts.size()) sum->resize(counts.size());
  for (size_t i = 0; i < counts.size(); ++i) (*sum)[i] += counts[i];
}

double Ratio(double a, double b) { return b > 0 ? a / b : 0.0; }

}  // namespace

void Totals::Started(const GenerationStarted& started, bool first_choice) {
  if (!first_choice) return;
  prompt_ += static_cast<int64_t>(started.prompt.size());
  cached_ += started.cached_tokens;
}

void Totals::Token(bool reasoning) {
  ++completion_;
  if (reasoning) ++reasoning_;
}

void Totals::Ended(const GenerationEnd& end) {
  const SpeculationStats& one = end.speculation;
  if (one.drafted > 0) speculation_.method = one.method;
  speculation_.decode_steps += one.decode_steps;
  speculation_.steps += one.steps;
  speculation_.drafted += one.drafted;
  speculation_.accepted += one.accepted;
  Add(&speculation_.acceptance_histogram, one.acceptance_histogram);
  Add(&speculation_.drafted_per_position, one.drafted_per_position);
  Add(&speculation_.accepted_per_position, one.accepted_per_position);
  timings_.queue_s = std::max(timings_.queue_s, end.timings.queue_s);
  timings_.prefill_s = std::max(timings_.prefill_s, end.timings.prefill_s);
  timings_.first_token_s = std::max(timings_.first_token_s, end.timings.first_token_s);
  timings_.decode_s = std::max(timings_.decode_s, end.timings.decode_s);
}

Json Totals::Usage() const {
  return {{"prompt_tokens", prompt_},
          {"completion_tokens", completion_},
          {"total_tokens", prompt_ + completion_},
          {"prompt_tokens_details", {{"cached_tokens", cached_}}},
          {"completion_tokens_details",
           {{"reasoning_tokens", reasoning_},
            {"accepted_prediction_tokens", speculation_.accepted},
            {"rejected_prediction_tokens", speculation_.drafted - speculation_.accepted}}}};
}

Json Totals::Timings() const {
  const double prompt_ms = timings_.prefill_s * 1e3;
  const double predicted_ms = timings_.decode_s * 1e3;
  const auto prompt = static_cast<double>(prompt_ - cached_);
  // The first token comes with the prompt; decode_s runs from it to the last.
  const auto predicted = static_cast<double>(std::max<int64_t>(completion_ - 1, 0));
  return {{"queue_ms", timings_.queue_s * 1e3},
          {"cache_n", cached_},
          {"prompt_n", prompt_ - cached_},
          {"prompt_ms", prompt_ms},
          {"prompt_per_token_ms", Ratio(prompt_ms, prompt)},
          {"prompt_per_second", Ratio(prompt * 1e3, prompt_ms)},
          {"predicted_n", completion_},
          {"predicted_ms", predicted_ms},
          {"predicted_per_token_ms", Ratio(predicted_ms, predicted)},
          {"predicted_per_second", Ratio(predicted * 1e3, predicted_ms)},
          {"draft_n", speculation_.drafted},
          {"draft_n_accepted", speculation_.accepted}};
}

Json Totals::Metrics() const {
  const SpeculationStats& stats = speculation_;
  const auto most = static_cast<int64_t>(stats.drafted_per_position.size());
  return {{"speculative_decoding",
           {{"method", stats.method},
            {"mean_acceptance_length", stats.mean_accepted_length()},
            {"draft_acceptance_rate",
             Ratio(static_cast<double>(stats.accepted), static_cast<double>(stats.drafted))},
            {"acceptance_histogram", stats.acceptance_histogram},
            {"num_decode_steps", stats.decode_steps},
            {"num_spec_steps", stats.steps},
            {"num_accepted_draft_tokens", stats.accepted},
            {"num_draft_tokens", stats.drafted},
            {"num_spec_tokens", most},
            {"accepted_per_position", stats.accepted_per_position},
            {"drafted_per_position", stats.drafted_per_position}}}};
}

}  // namespace paceline
