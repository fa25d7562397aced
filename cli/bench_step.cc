// `bench step`: whole model steps on this machine, as a share of the read bandwidth measured in the same run.
// Decode is one row of one sequence; verify is T rows of one sequence; prefill runs a prompt in chunks. Rows
// in front of the measured ones are run up to a page; deeper in a text the pages below hold random vectors.
#include <algorithm>
#include <cstdio>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/random.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/head.h"
#include "cli/report.h"
#include "cli/step_report.h"
#include "kernels/cpu/bandwidth.h"
#include "kernels/cpu/cpu.h"
#include "model/stage_meter.h"

namespace paceline::cli {
namespace {

constexpr int kWarmSteps = 3;
constexpr int kSteps = 15;  // measured; the median counts
constexpr int kPrompts = 3;

// What the meter saw of a step that took `step_s`; what it did not see belongs to "other".
MeasuredStep Described(std::string kind, int rows, int64_t tokens, double step_s, const StageMeter& meter) {
  MeasuredStep step{.kind = std::move(kind), .rows = rows, .tokens = tokens, .step_s = step_s, .stages = {}};
  double unseen = step_s;
  for (int s = 0; s < static_cast<int>(Stage::kCount); ++s) unseen -= meter.at(static_cast<Stage>(s)).seconds;
  for (int s = 0; s < static_cast<int>(Stage::kCount); ++s) {
    const auto stage = static_cast<Stage>(s);
    const StageMeter::Entry& entry = meter.at(stage);
    const double seconds = entry.seconds + (stage == Stage::kOther ? std::max(0.0, unseen) : 0.0);
    if (seconds > 0 || entry.bytes > 0) step.stages.push_back({StageName(stage), seconds, entry.bytes});
  }
  return step;
}

const SequenceId kSequence(1);

// Pages for the deepest of the measured rows, and one state at a page's end where pages are not run.
ServingOptions MemoryFor(const BenchStepOptions& options, const std::vector<int>& rows) {
  const int64_t most = *std::max_element(rows.begin(), rows.end());
  const int64_t positions =
      std::max<int64_t>(options.context + (kWarmSteps + kSteps) * most, options.prefill);
  ServingOptions memory;
  memory.kv_pages = static_cast<int>(positions / kPagePositions + 1);
  memory.prefix_cache = options.context > kPagePositions ? "1G" : "off";
  return memory;
}

class StepBench {
 public:
  StepBench(LocalTrunk& trunk, int64_t vocab, int chunk, int64_t context)
      : trunk_(trunk), vocab_(vocab), chunk_(chunk), context_(context) {}

  // `rows` rows of one sequence, drawn again from the same position: state and context are those of a real
  // step.
  absl::StatusOr<MeasuredStep> Rows(int rows) {
    RETURN_IF_ERROR(Reach(context_));
    std::vector<Timed> steps;
    int64_t position = context_;
    for (int i = 0; i < kWarmSteps + kSteps; ++i) {
      StageMeter meter;
      trunk_.SetMeter(&meter);
      const absl::StatusOr<double> seconds = Run(position, rows, rows);
      trunk_.SetMeter(nullptr);
      RETURN_IF_ERROR(seconds.status());
      position += rows;
      if (i >= kWarmSteps) steps.push_back({*seconds, meter});
    }
    const auto& [seconds, meter] = Median(steps);
    return Described(rows == 1 ? "decode" : "verify", rows, rows, seconds, meter);
  }

  absl::StatusOr<MeasuredStep> Prefill(int tokens) {
    RETURN_IF_ERROR(Prompt(std::min(tokens, chunk_)).status());
    std::vector<Timed> prompts;
    for (int i = 0; i < kPrompts; ++i) {
      StageMeter meter;
      trunk_.SetMeter(&meter);
      const absl::StatusOr<double> seconds = Prompt(tokens);
      trunk_.SetMeter(nullptr);
      RETURN_IF_ERROR(seconds.status());
      prompts.push_back({*seconds, meter});
    }
    const auto& [seconds, meter] = Median(prompts);
    return Described("prefill", tokens, tokens, seconds, meter);
  }

 private:
  using Timed = std::pair<double, StageMeter>;  // seconds
  // The one of median length speaks for its stages too.
  static const Timed& Median(std::vector<Timed>& all) {
    const auto middle = all.begin() + static_cast<int64_t>(all.size() / 2);
    std::nth_element(all.begin(), middle, all.end(),
                     [](const Timed& a, const Timed& b) { return a.first < b.first; });
    return *middle;
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

  // A text of `positions`, whole pages of which are not run: a state that rows left at the end of the first
  // page stands in for that at the end of the last.
  absl::Status Reach(int64_t positions) {
    if (positions <= kPagePositions) return RunAll(0, positions, {});
    RETURN_IF_ERROR(RunAll(0, kPagePositions, {.keep = 0, .keep_position = kPagePositions}));
    const int64_t filled = positions / kPagePositions * kPagePositions;
    trunk_.FillKeysValues(PagesOf(filled), filled);
    trunk_.Release(kSequence);
    restore_ = filled;
    return RunAll(filled, positions - filled, {});
  }

  // Rows [first, first + rows) in chunks; the last one keeps a state where `last` says so.
  absl::Status RunAll(int64_t first, int64_t rows, const SequenceRows& last) {
    for (int64_t done = 0; done < rows;) {
      const int n = static_cast<int>(std::min<int64_t>(chunk_, rows - done));
      done += n;
      RETURN_IF_ERROR(Run(first + done - n, n, 0, done == rows ? last : SequenceRows()).status());
    }
    return absl::OkStatus();
  }

  static std::vector<int32_t> PagesOf(int64_t positions) {
    std::vector<int32_t> pages(static_cast<size_t>((positions + kPagePositions - 1) / kPagePositions));
    std::iota(pages.begin(), pages.end(), 0);
    return pages;
  }

  // `base` brings what is not said here.
  absl::StatusOr<double> Run(int64_t position, int rows, int sampled, const SequenceRows& base = {}) {
    SequenceRows s = base;
    s.sequence = kSequence;
    s.pages = PagesOf(position + rows);
    s.first_position = position;
    if (restore_ == position) {
      s.restore = 0;
      s.prefix.resize(static_cast<size_t>(position));
      restore_ = -1;
    }
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
  const int64_t context_;  // positions in front of the measured steps
  int64_t restore_ = -1;   // where the next rows begin with the kept state; -1: they do not
  uint64_t step_ = 0;
};

absl::Status Bench(const BenchStepOptions& options) {
  HeadConfig config;
  config.options = options.head;
  config.nodes = 1 + options.head.cluster.local_workers;
  const std::vector<int> all_rows = options.rows.empty() ? std::vector<int>{1, 4, 8} : options.rows;
  config.serving = MemoryFor(options, all_rows);
  ASSIGN_OR_RETURN(const std::unique_ptr<Head> head, Head::Open(config));
  RETURN_IF_ERROR(head->Load(kLocalPatience));
  LocalTrunk& trunk = *head->trunk();
  const double bandwidth = kernels::cpu::MeasureReadBandwidth(trunk.pool());
  StepBench bench(trunk, head->checkpoint().config().vocab, options.head.options.prefill_chunk,
                  options.context);
  StepReport report{.cpu = absl::StrCat(CpuName(), " (", std::string(kernels::cpu::CpuClass()), ")"),
                    .isa = std::string(head->compute().table->name),
                    .threads = head->compute().threads,
                    .steps = {}};
  for (const int rows : all_rows) {
    ASSIGN_OR_RETURN(MeasuredStep step, bench.Rows(rows));
    report.steps.push_back(std::move(step));
  }
  if (options.prefill > 0) {
    ASSIGN_OR_RETURN(MeasuredStep step, bench.Prefill(options.prefill));
    report.steps.push_back(std::move(step));
  }
  report.read_bandwidth_gbps = std::max(bandwidth, kernels::cpu::MeasureReadBandwidth(trunk.pool()));
  std::printf("%s", options.json ? absl::StrCat(StepReportJson(report).dump(), "\n").c_str()
                                 : StepReportText(report, options.markdown).c_str());
  return absl::OkStatus();
}

}  // namespace

int Run(const BenchStepOptions& options) {
  const absl::Status done = Bench(options);
  if (StopRequested() && absl::IsCancelled(done)) return SignalStatus();
  return done.ok() ? 0 : StdErr().Fail(done);
}

}  // namespace paceline::cli
