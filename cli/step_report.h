// What `bench step` says about steps it has measured: how fast, how many bytes, and where the time goes that
// reading those bytes at the machine's speed would not take. Nothing here measures anything.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace paceline::cli {

struct StepStage {
  std::string name;
  double seconds = 0;
  int64_t bytes = 0;  // that have to be read once
};

// A step of one kind, or a prompt of several.
struct MeasuredStep {
  std::string kind;  // decode, verify, prefill
  int rows = 0;
  int64_t tokens = 0;  // in step_s
  double step_s = 0;
  std::vector<StepStage> stages;  // their seconds add up to step_s
  int64_t bytes() const;
};

struct StepReport {
  double read_bandwidth_gbps = 0;  // R, 1e9 bytes per second; 0: unknown
  std::string cpu, isa;
  int threads = 1;
  std::vector<MeasuredStep> steps;
};

// Seconds beyond what reading `bytes` at `gbps` takes; below 0 where caches were faster. All of `seconds`
// when gbps is 0.
double LostSeconds(double seconds, int64_t bytes, double gbps);

// A stage that takes more than 5 % of its step and more than twice its share of the bytes: what it does is
// not reading.
bool Conspicuous(const StepStage& stage, const MeasuredStep& step);

// contracts: read_bandwidth_gbps, cpu, isa, results[rows, kind, tokens_per_second, step_s, bytes, gbps,
// share_of_read_bandwidth, stages[name, seconds, bytes]], and what follows from these.
nlohmann::ordered_json StepReportJson(const StepReport& report);

// Tables for people, or the same in Markdown. Stages of a step stand in the order of what they lose.
std::string StepReportText(const StepReport& report, bool markdown);

}  // namespace paceline::cli
