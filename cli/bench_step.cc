// `bench step`: whole model steps on this machine, as a share of the read bandwidth measured in the same run.
// Decode is one row of one sequence; verify is T rows of one sequence; prefill runs a prompt in chunks.
#include <algorithm>
#include <cstdio>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/error.h"
#include "base/random.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/head.h"
#include "cli/report.h"
#include "kernels/cpu/bandwidth.h"
#include "kernels/cpu/cpu.h"
#include "model/stage_meter.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {
namespace {

constexpr int64_t kContext = 64;  // positions before the measured steps
constexpr int kWarmSteps = 3;
constexpr int kSteps = 15;  // measured; the median counts

struct Measured {
  int rows = 0;
  std::string kind;
  double step_s = 0;   // of one step, or of the whole prompt
  int64_t tokens = 0;  // in that time
  int64_t bytes = 0;
  StageMeter meter;  // of one step
};

class StepBench {
 public:
  StepBench(LocalTrunk& trunk, int64_t vocab, int chunk) : trunk_(trunk), vocab_(vocab), chunk_(chunk) {}

  // `rows` rows of one sequence, drawn again from the same position: state and context are those of a real
  // step.
  absl::StatusOr<Measured> Rows(int rows) {
    RETURN_IF_ERROR(Run(0, kContext, 0).status());
    Measured m;
    m.rows = rows;
    m.kind = rows == 1 ? "decode" : "verify";
    m.tokens = rows;
    std::vector<double> seconds;
    std::vector<StageMeter> meters;
    int64_t position = kContext;
    for (int i = 0; i < kWarmSteps + kSteps; ++i) {
      StageMeter meter;
      trunk_.SetMeter(&meter);
      ASSIGN_OR_RETURN(const double s, Run(position, rows, rows));
      position += rows;
      if (i < kWarmSteps) continue;
      seconds.push_back(s);
      meters.push_back(meter);
    }
    trunk_.SetMeter(nullptr);
    // The step of median length speaks for the stages too.
    std::vector<size_t> order(seconds.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return seconds[a] < seconds[b]; });
    const size_t median = order[order.size() / 2];
    m.step_s = seconds[median];
    m.meter = meters[median];
    m.bytes = BytesOf(m.meter);
    return m;
  }

  absl::StatusOr<Measured> Prefill(int tokens) {
    Measured m;
    m.rows = tokens;
    m.kind = "prefill";
    m.tokens = tokens;
    RETURN_IF_ERROR(Prompt(std::min(tokens, chunk_)).status());
    trunk_.SetMeter(&m.meter);
    ASSIGN_OR_RETURN(m.step_s, Prompt(tokens));
    trunk_.SetMeter(nullptr);
    m.bytes = BytesOf(m.meter);
    return m;
  }

 private:
  static int64_t BytesOf(const StageMeter& meter) {
    int64_t bytes = 0;
    for (int s = 0; s < static_cast<int>(Stage::kCount); ++s) bytes += meter.at(static_cast<Stage>(s)).bytes;
    return bytes;
  }

  absl::StatusOr<double> Prompt(int tokens) {
    double seconds = 0;
    for (int first = 0; first < tokens; first += chunk_) {
      const int n = std::min(chunk_, tokens - first);
      ASSIGN_OR_RETURN(const double s, Run(first, n, first + n == tokens ? 1 : 0));
      seconds += s;
    }
    return seconds;
  }

  absl::StatusOr<double> Run(int64_t position, int rows, int sampled) {
    SequenceRows s;
    s.sequence = SequenceId(1);
    s.pages.resize((position + rows + kPagePositions - 1) / kPagePositions);
    std::iota(s.pages.begin(), s.pages.end(), 0);
    s.first_position = position;
    // Random tokens: routing then spreads as widely as it can, which is the dear case.
    for (int i = 0; i < rows; ++i) {
      s.tokens.push_back(static_cast<TokenId>(
          RandomBits(7, 0, RandomPurpose::kSynth, static_cast<uint64_t>(position + i), 0) %
          static_cast<uint64_t>(vocab_)));
    }
    s.sampled_rows = sampled;
    s.sampling.temperature = 0;
    StepPlan plan;
    plan.step = StepId(++step_);
    plan.sequences.push_back(std::move(s));
    const TimePoint begin = Clock::Real().Now();
    ASSIGN_OR_RETURN(const StepResult result, trunk_.Run(plan));
    const double seconds = Seconds(Clock::Real().Now() - begin);
    RETURN_IF_ERROR(result.sequences.front().status);
    return seconds;
  }

  LocalTrunk& trunk_;
  const int64_t vocab_;
  const int chunk_;
  uint64_t step_ = 0;
};

nlohmann::json ToJson(const Measured& m, double read_bandwidth) {
  const double gbps = static_cast<double>(m.bytes) / m.step_s / 1e9;
  nlohmann::json stages = nlohmann::json::array();
  for (int s = 0; s < static_cast<int>(Stage::kCount); ++s) {
    const StageMeter::Entry& e = m.meter.at(static_cast<Stage>(s));
    if (e.seconds > 0)
      stages.push_back(
          {{"name", StageName(static_cast<Stage>(s))}, {"seconds", e.seconds}, {"bytes", e.bytes}});
  }
  return {{"rows", m.rows},
          {"kind", m.kind},
          {"tokens_per_second", static_cast<double>(m.tokens) / m.step_s},
          {"step_s", m.step_s},
          {"bytes", m.bytes},
          {"gbps", gbps},
          {"share_of_read_bandwidth", read_bandwidth > 0 ? gbps / read_bandwidth : 0.0},
          {"stages", stages}};
}

absl::Status Bench(const BenchStepOptions& options) {
  HeadConfig config;
  config.options = options.head;
  config.nodes = 1 + options.head.cluster.local_workers;
  ASSIGN_OR_RETURN(const std::unique_ptr<Head> head, Head::Open(config));
  RETURN_IF_ERROR(head->Load(kLocalPatience));
  LocalTrunk& trunk = *head->trunk();
  double bandwidth = kernels::cpu::MeasureReadBandwidth(trunk.pool());
  StepBench bench(trunk, head->checkpoint().config().vocab, options.head.options.prefill_chunk);
  std::vector<Measured> all;
  for (const int rows : options.rows.empty() ? std::vector<int>{1, 4, 8} : options.rows) {
    ASSIGN_OR_RETURN(Measured m, bench.Rows(rows));
    all.push_back(std::move(m));
  }
  if (options.prefill > 0) {
    ASSIGN_OR_RETURN(Measured m, bench.Prefill(options.prefill));
    all.push_back(std::move(m));
  }
  bandwidth = std::max(bandwidth, kernels::cpu::MeasureReadBandwidth(trunk.pool()));

  const std::string cpu = absl::StrCat(CpuName(), " (", std::string(kernels::cpu::CpuClass()), ")");
  if (options.json) {
    nlohmann::json out;
    out["read_bandwidth_gbps"] = bandwidth;
    out["cpu"] = cpu;
    out["isa"] = std::string(head->compute().table->name);
    out["threads"] = head->compute().threads;
    out["results"] = nlohmann::json::array();
    for (const Measured& m : all) out["results"].push_back(ToJson(m, bandwidth));
    std::printf("%s\n", out.dump().c_str());
    return absl::OkStatus();
  }
  std::printf("%s, %s, %d threads, read bandwidth %.1f GB/s\n\n", cpu.c_str(),
              std::string(head->compute().table->name).c_str(), head->compute().threads, bandwidth);
  std::printf("| kind | rows | tok/s | step | GB/s | share of read bandwidth |\n|---|---|---|---|---|---|\n");
  for (const Measured& m : all) {
    const double gbps = static_cast<double>(m.bytes) / m.step_s / 1e9;
    std::printf("| %s | %d | %.1f | %.2f ms | %.2f | %.0f %% |\n", m.kind.c_str(), m.rows,
                static_cast<double>(m.tokens) / m.step_s, m.step_s * 1e3, gbps,
                bandwidth > 0 ? 100 * gbps / bandwidth : 0.0);
  }
  std::printf("\n| kind | rows | stage | time | GB/s |\n|---|---|---|---|---|\n");
  for (const Measured& m : all) {
    for (int s = 0; s < static_cast<int>(Stage::kCount); ++s) {
      const StageMeter::Entry& e = m.meter.at(static_cast<Stage>(s));
      if (e.seconds > 0) {
        std::printf("| %s | %d | %s | %.2f ms | %.2f |\n", m.kind.c_str(), m.rows,
                    StageName(static_cast<Stage>(s)), e.seconds * 1e3,
                    static_cast<double>(e.bytes) / e.seconds / 1e9);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

int Run(const BenchStepOptions& options) {
  const absl::Status done = Bench(options);
  if (StopRequested() && absl::IsCancelled(done)) return SignalStatus();
  return done.ok() ? 0 : StdErr().Fail(done);
}

}  // namespace paceline::cli
