// What the records of one load come to: rates, percentiles, counts, failures; as JSON and as tables.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/serve_load.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {

// What a request has to keep to count as good; absent: anything goes.
struct ServiceGoals {
  std::optional<double> ttft_ms;  // time to the first chunk
  std::optional<double> itl_ms;   // mean time per token behind the first
};

// Of a set of figures in milliseconds. Percentiles lie between two neighbours in proportion, as numpy's do.
struct Spread {
  int64_t count = 0;
  double mean = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;
};
Spread SpreadOf(std::vector<double> values);

struct LoadSummary {
  LoadPlan plan;
  int64_t requests = 0;   // sent
  int64_t completed = 0;  // ended well
  int64_t good = 0;       // of them within the goals
  std::map<std::string, int64_t> failures;
  std::string first_message;  // of the failures
  double seconds = 0;         // from the first arrival to the last end
  // Of the completed ones.
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  bool counted_by_server = true;  // else output_tokens are chunks
  int64_t chunks = 0;
  int64_t bursts = 0;
  std::optional<int64_t> steps;  // absent where a server does not count
  std::optional<int64_t> drafted;
  std::optional<int64_t> accepted;
  Spread ttft;       // due to first chunk
  Spread itl;        // between chunks
  Spread burst_gap;  // between bursts
  Spread tpot;       // per request: first to last chunk, per token behind the first
  Spread e2e;        // due to end
  Spread refusal;    // due to end, of refused requests
};
LoadSummary Summarize(const LoadPlan& plan, const std::vector<RequestRecord>& records,
                      const ServiceGoals& goals);

nlohmann::ordered_json SummaryJson(const LoadSummary& summary, const ServiceGoals& goals);
// Tables of several loads: throughput, latency, counts; failures below them. In Markdown or aligned by
// blanks.
std::string SummaryTables(const std::vector<LoadSummary>& summaries, const ServiceGoals& goals,
                          bool markdown);

}  // namespace paceline::cli
