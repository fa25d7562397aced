// `bench draft`: speed at several depths of drafting, beside plain decoding. One load; every round measures
// every depth once, so that a machine whose speed wanders slows all of them alike; ratios are to the plain
// run of the same round. Forced acceptance is drawn by a round's seed: all its depths meet the same luck.
// Runs the engine that serves, with its controller. `auto` has an engine of its own, so that its controller
// knows what a user's would, and nothing from the runs at fixed depths.
#include <algorithm>
#include <cstdio>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/drafting.h"
#include "cli/files.h"
#include "cli/head.h"
#include "cli/metered_trunk.h"
#include "cli/prompts.h"
#include "cli/report.h"
#include "coordinator/engine.h"
#include "coordinator/generation.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {
namespace {

constexpr char kPlain[] = "0";
constexpr char kAutomatic[] = "auto";
constexpr int64_t kWarmTokens = 16;
constexpr uint64_t kWarmSeed = 0;

// One request at one depth.
struct Sample {
  double tokens_per_second = 0;  // after the first token
  double ratio = 0;              // to the plain run of the same round
  double step_s = 0;             // of a decode step
  double draft_s = 0;            // of it drafting
  double exchange_s = 0;         // of it waiting for workers
  SpeculationStats speculation;

  double tokens_per_step() const { return tokens_per_second * step_s; }
};

// With an even number, half-way between the middle two.
double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

struct Depth {
  std::string name;
  std::vector<Sample> samples;  // [rounds]

  // The middle one by speed speaks for its depth; of two the slower.
  const Sample& median() const {
    std::vector<const Sample*> order;
    for (const Sample& s : samples) order.push_back(&s);
    std::sort(order.begin(), order.end(),
              [](const Sample* a, const Sample* b) { return a->tokens_per_second < b->tokens_per_second; });
    return *order[(order.size() - 1) / 2];
  }
  // Of what is paired by round.
  double median_ratio() const {
    std::vector<double> ratios;
    for (const Sample& s : samples) ratios.push_back(s.ratio);
    return Median(std::move(ratios));
  }
};

class DraftBench {
 public:
  // Starts to measure; `head` has loaded.
  DraftBench(Head& head, std::variant<std::string, std::vector<TokenId>> prompt)
      : fixed_trunk_(*head.trunk(), last_step_),
        auto_trunk_(*head.trunk(), last_step_),
        fixed_(head.EngineParts(&fixed_trunk_), head.defaults(), Uncalibrated(head.scheduling())),
        auto_(head.EngineParts(&auto_trunk_), head.defaults(), head.scheduling()),
        prompt_(std::move(prompt)) {
    fixed_.Start();
    auto_.Start();
  }

  absl::StatusOr<Sample> Measure(const std::string& depth, int64_t tokens, uint64_t seed) {
    Engine& engine = depth == kAutomatic ? auto_ : fixed_;
    const MeteredTrunk& trunk = depth == kAutomatic ? auto_trunk_ : fixed_trunk_;
    GenerateRequest request;
    request.input = prompt_;
    request.sampling.temperature = 0.0f;
    request.sampling.seed = seed;
    request.stopping.max_tokens = tokens;
    request.stopping.ignore_eos = true;
    request.speculation = SpeculationOf(depth);
    const DecodeMeter before = trunk.decode();
    ASSIGN_OR_RETURN(
        const GenerationResult result,
        RunGeneration(engine, std::move(request), [](const GeneratedToken&) { return !StopRequested(); }));
    const DecodeMeter after = trunk.decode();
    if (result.end.reason == FinishReason::kCancelled) return absl::CancelledError("stopped by a signal");
    Sample sample;
    sample.speculation = result.end.speculation;
    const double decode_s = result.end.timings.decode_s;
    const auto decoded = static_cast<double>(result.end.usage.completion_tokens - 1);
    // The first token is the prompt's.
    const auto steps = static_cast<double>(std::max<int64_t>(1, sample.speculation.decode_steps - 1));
    sample.tokens_per_second = decode_s > 0 ? decoded / decode_s : 0;
    sample.step_s = decode_s / steps;
    sample.draft_s = (after.draft_s - before.draft_s) / steps;
    sample.exchange_s = (after.exchange_s - before.exchange_s) / steps;
    return sample;
  }

 private:
  static SchedulerOptions Uncalibrated(SchedulerOptions options) {
    options.speculation.calibrate = false;  // a fixed depth is never chosen
    return options;
  }

  StepId last_step_{0};
  MeteredTrunk fixed_trunk_;
  MeteredTrunk auto_trunk_;
  Engine fixed_;
  Engine auto_;
  const std::variant<std::string, std::vector<TokenId>> prompt_;
};

// `auto` warms up on a whole measurement: its controller is new, and the first request of a head is no
// measure of those that follow.
absl::Status WarmUp(DraftBench& bench, const std::vector<Depth>& depths, int64_t tokens) {
  for (const Depth& depth : depths)
    RETURN_IF_ERROR(
        bench.Measure(depth.name, depth.name == kAutomatic ? tokens : kWarmTokens, kWarmSeed).status());
  return absl::OkStatus();
}

// Every second round goes backwards, so that none is always measured on a machine that others have warmed.
absl::Status MeasureRound(DraftBench& bench, int round, int64_t tokens, std::vector<Depth>& depths) {
  std::vector<Depth*> order;
  for (Depth& depth : depths) order.push_back(&depth);
  if (round % 2 == 1) std::reverse(order.begin(), order.end());
  for (Depth* depth : order) {
    ASSIGN_OR_RETURN(Sample sample, bench.Measure(depth->name, tokens, static_cast<uint64_t>(round) + 1));
    depth->samples.push_back(std::move(sample));
  }
  const double plain = depths.front().samples.back().tokens_per_second;
  for (Depth& depth : depths)
    depth.samples.back().ratio = plain > 0 ? depth.samples.back().tokens_per_second / plain : 0;
  return absl::OkStatus();
}

nlohmann::ordered_json ToJson(const Depth& depth, const Sample& plain) {
  const Sample& m = depth.median();
  const SpeculationStats& s = m.speculation;
  nlohmann::ordered_json out;
  if (depth.name == kAutomatic) {
    out["depth"] = "auto";
  } else {
    out["depth"] = *DecimalNumber(depth.name);
  }
  out["tokens_per_second"] = m.tokens_per_second;
  out["rounds"] = nlohmann::ordered_json::array();
  out["round_ratios"] = nlohmann::ordered_json::array();
  for (const Sample& sample : depth.samples) {
    out["rounds"].push_back(sample.tokens_per_second);
    out["round_ratios"].push_back(sample.ratio);
  }
  out["ratio"] = depth.median_ratio();
  out["steps"] = s.decode_steps;
  out["verify_steps"] = s.steps;
  out["tokens_per_step"] = m.tokens_per_step();
  out["step_s"] = m.step_s;
  out["step_ratio"] = plain.step_s > 0 ? m.step_s / plain.step_s : 0.0;
  out["draft_s"] = m.draft_s;
  out["verify_s"] = m.step_s - m.draft_s;
  out["exchange_s"] = m.exchange_s;
  out["drafted"] = s.drafted;
  out["accepted"] = s.accepted;
  out["drafted_per_position"] = s.drafted_per_position;
  out["accepted_per_position"] = s.accepted_per_position;
  out["acceptance_per_position"] = AcceptancePerPosition(s);
  out["histogram"] = s.acceptance_histogram;
  out["per_source"] = PerSourceJson(s);
  return out;
}

void PrintTable(const std::vector<Depth>& depths, const Sample& plain) {
  std::printf(
      "| depth | tok/s | of plain | tokens per step | step | of plain | draft | verify | exchange | "
      "drafted | accepted | by position |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
  for (const Depth& depth : depths) {
    const Sample& m = depth.median();
    std::printf(
        "| %s | %.1f | %.3fx | %.2f | %.2f ms | %.3fx | %.2f ms | %.2f ms | %.2f ms | %lld | %lld | %s |\n",
        depth.name.c_str(), m.tokens_per_second, depth.median_ratio(), m.tokens_per_step(), m.step_s * 1e3,
        plain.step_s > 0 ? m.step_s / plain.step_s : 0.0, m.draft_s * 1e3, (m.step_s - m.draft_s) * 1e3,
        m.exchange_s * 1e3, static_cast<long long>(m.speculation.drafted),
        static_cast<long long>(m.speculation.accepted), AcceptanceText(m.speculation).c_str());
  }
}

absl::Status Bench(const BenchDraftOptions& options) {
  HeadConfig config;
  config.options = options.head;
  config.nodes = 1 + options.head.cluster.local_workers;
  ASSIGN_OR_RETURN(const std::unique_ptr<Head> head, Head::Open(config));
  std::variant<std::string, std::vector<TokenId>> prompt =
      BuiltInPrompt(head->tokenizer(), head->checkpoint().config().vocab);
  if (HasPrompt(options.prompt)) {
    ASSIGN_OR_RETURN(prompt, ReadPrompt(options.prompt));
  }
  RETURN_IF_ERROR(head->Load(kLocalPatience));
  if (head->trunk()->info().drafters.empty()) {
    return Error(errors::kModelUnsupported,
                 absl::StrCat("this model drafts nothing: ", head->trunk()->info().draft_refusal.empty()
                                                                 ? "it has no MTP layer; try --drafter suffix"
                                                                 : head->trunk()->info().draft_refusal));
  }
  DraftBench bench(*head, std::move(prompt));

  std::vector<Depth> depths = {{.name = kPlain, .samples = {}}};
  for (const std::string& name : options.depths) {
    const bool known =
        std::any_of(depths.begin(), depths.end(), [&](const Depth& d) { return d.name == name; });
    if (!known) depths.push_back({.name = name, .samples = {}});
  }
  RETURN_IF_ERROR(WarmUp(bench, depths, options.tokens));
  for (int round = 0; round < options.rounds; ++round)
    RETURN_IF_ERROR(MeasureRound(bench, round, options.tokens, depths));

  const Sample& plain = depths.front().median();
  const ClusterOptions& cluster = options.head.cluster;
  const double assumed = options.head.drafting.assume_acceptance;
  if (options.json) {
    nlohmann::ordered_json out;
    out["model"] = head->model_name();
    out["nodes"] = config.nodes;
    out["link"] = cluster.local_workers > 0 ? nlohmann::ordered_json(cluster.link) : nullptr;
    out["simulate_link"] =
        cluster.simulate_link.empty() ? nullptr : nlohmann::ordered_json(cluster.simulate_link);
    out["assume_acceptance"] = assumed < 0 ? nullptr : nlohmann::ordered_json(assumed);
    out["mtp_format"] = head->trunk()->info().mtp_format;
    out["cpu"] = CpuName();
    out["threads"] = head->compute().threads;
    out["tokens"] = options.tokens;
    out["results"] = nlohmann::ordered_json::array();
    for (const Depth& depth : depths) out["results"].push_back(ToJson(depth, plain));
    std::printf("%s\n", out.dump().c_str());
    return absl::OkStatus();
  }
  std::printf("%s, %d node%s%s%s, %s, %d tokens, %d rounds\n\n", head->model_name().c_str(), config.nodes,
              config.nodes == 1 ? "" : "s", cluster.simulate_link.empty() ? "" : ", simulated link ",
              cluster.simulate_link.c_str(),
              assumed < 0 ? "real acceptance" : absl::StrFormat("acceptance taken as %.2f", assumed).c_str(),
              static_cast<int>(options.tokens), options.rounds);
  PrintTable(depths, plain);
  return absl::OkStatus();
}

}  // namespace

int Run(const BenchDraftOptions& options) {
  const absl::Status done = Bench(options);
  if (StopRequested() && absl::IsCancelled(done)) return SignalStatus();
  return done.ok() ? 0 : StdErr().Fail(done);
}

}  // namespace paceline::cli
