// `bench kernels`: single kernels at the shapes of Qwen3.5-122B-A10B, on random weights made in memory, as a
// share of the read bandwidth measured in the same run. Weights are walked so that none is in a cache when
// its turn comes; calls repeat for a while and the median counts.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/compute.h"
#include "cli/console.h"
#include "cli/random_weights.h"
#include "kernels/cpu/bandwidth.h"
#include "kernels/cpu/cpu.h"
#include "model/caches.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {
namespace {

using kernels::ActivationContract;
using kernels::Activations;
using kernels::KernelTable;
using kernels::WeightFormat;

// Qwen3.5-122B-A10B.
constexpr int64_t kHidden = 3072, kColumns = 1024, kVocab = 248320;
constexpr int32_t kExperts = 256, kTopK = 8;
constexpr kernels::AttentionShape kAttention{32, 2, 256};
constexpr kernels::GdnShape kGdn{16, 64, 128, 128, 4};
constexpr int64_t kColdBytes = int64_t{512} << 20;  // of small weights: many times the largest L3 of a core
constexpr int64_t kColdPages = int64_t{128} << 20;  // of keys and values

constexpr int kFewestCalls = 7;
constexpr int kMostCalls = 2000;

struct Figure {
  std::string name;
  int rows = 0;    // per expert, or of the step
  int active = 0;  // experts; 0 where there are none
  double seconds = 0;
  double best_seconds = 0;
  int64_t bytes = 0;  // read once
  double ops = 0;     // a product and its sum are two
};

class KernelBench {
 public:
  KernelBench(const BenchKernelsOptions& options, const Compute& compute)
      : options_(options), table_(*compute.table), pool_(compute.threads, compute.processors) {
    pool_.StayOnFirst();
  }

  ThreadPool& pool() { return pool_; }
  const std::vector<Figure>& figures() const { return figures_; }
  // Time with the contract over time without it, by rows.
  const std::vector<std::pair<int, double>>& prices() const { return prices_; }

  absl::Status Run() {
    RETURN_IF_ERROR(Experts());
    RETURN_IF_ERROR(
        Linears("fp8 linear 4096 x 3072", WeightFormat::kFp8Block128, 4096, {1, 2, 4, 8, 64, 512}));
    RETURN_IF_ERROR(Linears("bf16 linear 3072 x 3072", WeightFormat::kBF16, 3072, {1, 2, 4, 8, 64, 512}));
    RETURN_IF_ERROR(Linears("int8 head 248320 x 3072", WeightFormat::kInt8, kVocab, {1, 4, 8}));
    RETURN_IF_ERROR(Linears("bf16 router 256 x 3072", WeightFormat::kBF16, kExperts, {1, 8}));
    Small();
    Attention();
    DeltaNet();
    return absl::OkStatus();
  }

 private:
  bool Wanted(const std::string& name) const { return name.find(options_.filter) != std::string::npos; }

  // Calls `call(i)` for a while; the first call warms.
  Figure Measure(const std::string& name, int rows, int64_t bytes, double ops,
                 const std::function<void(int)>& call) {
    call(0);
    std::vector<double> seconds;
    double total = 0;
    for (int i = 1; i <= kMostCalls && (i <= kFewestCalls || total < options_.seconds); ++i) {
      const TimePoint begin = Clock::Real().Now();
      call(i);
      seconds.push_back(Seconds(Clock::Real().Now() - begin));
      total += seconds.back();
    }
    std::sort(seconds.begin(), seconds.end());
    return {name, rows, 0, seconds[seconds.size() / 2], seconds.front(), bytes, ops};
  }

  // Rows as a step hands them to integer and float layers.
  struct Rows {
    std::vector<float> values;   // [rows, width]
    std::vector<int16_t> codes;  // [rows, width]
    std::vector<float> scales;   // [rows, groups]
    Activations view;
  };
  Rows MakeRows(int32_t rows, int64_t width) {
    Rows x;
    x.values = Noise(static_cast<uint64_t>(rows + width)).Floats(rows * width);
    x.codes.resize(x.values.size());
    x.scales.resize(static_cast<size_t>(rows * kernels::ActivationGroups(width)));
    table_.quantise(pool_, x.values.data(), rows, width, ActivationContract::kInt16, x.codes.data(),
                    x.scales.data());
    x.view = {rows, width, x.values.data(), x.codes.data(), x.scales.data()};
    return x;
  }

  absl::Status Experts() {
    const std::string name = "int4 g128 experts", price = "price of the contract";
    if (!Wanted(name) && !Wanted(price)) return absl::OkStatus();
    std::vector<std::unique_ptr<kernels::Expert>> experts(kExperts);
    pool_.Run(kExperts, [&](int64_t e) {
      const uint64_t seed = static_cast<uint64_t>(3 * e + 1);
      auto packed = table_.pack_expert({RandomLinear(WeightFormat::kInt4, kColumns, kHidden, 128, seed),
                                        RandomLinear(WeightFormat::kInt4, kColumns, kHidden, 128, seed + 1),
                                        RandomLinear(WeightFormat::kInt4, kHidden, kColumns, 128, seed + 2)});
      if (packed.ok()) experts[static_cast<size_t>(e)] = *std::move(packed);
    });
    for (const auto& e : experts) {
      if (e == nullptr) return Error(errors::kModelUnsupported, "this backend has no INT4 experts");
    }
    // As routing leaves them: in ascending order, but far apart.
    std::vector<int32_t> order(kExperts);
    std::iota(order.begin(), order.end(), 0);
    Noise noise(5);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[noise.Next() % i]);
    for (const int active : {1, 2, 8, 30, 256}) {
      for (const int rows : {1, 2, 4, 8, 16, 32}) {
        const Call call = MakeCall(experts, order, active, rows);
        if (Wanted(name)) {
          Figure figure = Measure(name, rows, call.bytes, call.ops, [&](int i) { call.Contract(*this, i); });
          figure.active = active;
          figures_.push_back(figure);
        }
        const auto loose = kernels::cpu::ExpertsWithoutContract;
        if (active != 8 || !Wanted(price) || !options_.compute.backend.starts_with("cpu")) continue;
        // Turn by turn, so that what else the machine does weighs on both.
        std::vector<double> ratios;
        for (int round = 0; round < 15; ++round) {
          const TimePoint begin = Clock::Real().Now();
          call.Contract(*this, 2 * round);
          const TimePoint middle = Clock::Real().Now();
          call.Loose(*this, loose(table_), 2 * round + 1);
          ratios.push_back(Seconds(middle - begin) / Seconds(Clock::Real().Now() - middle));
        }
        std::sort(ratios.begin(), ratios.end());
        prices_.emplace_back(rows, ratios[ratios.size() / 2]);
      }
    }
    return absl::OkStatus();
  }

  // Steps of `active` experts with `rows` rows each, others in every call as long as there are any.
  struct Call {
    std::vector<std::vector<kernels::ExpertTask>> steps;
    std::vector<int32_t> row_ids;
    std::vector<float> weights;
    Rows x;
    int64_t bytes = 0;
    double ops = 0;
    mutable std::vector<int64_t> sums;      // [x rows, hidden]
    mutable std::vector<float> loose_sums;  // [x rows, hidden]
    mutable std::vector<uint8_t> errors;    // [x rows]

    void Contract(KernelBench& bench, int i) const {
      const kernels::Workspace::Scope scope(bench.workspace_);
      bench.table_.experts(bench.pool_, bench.workspace_, x.view,
                           steps[static_cast<size_t>(i) % steps.size()], ActivationContract::kInt16,
                           sums.data(), errors.data());
    }
    void Loose(KernelBench& bench, kernels::cpu::ExpertsWithoutContractFunction experts, int i) const {
      const kernels::Workspace::Scope scope(bench.workspace_);
      experts(bench.pool_, bench.workspace_, x.view, steps[static_cast<size_t>(i) % steps.size()],
              ActivationContract::kInt16, loose_sums.data());
    }
  };
  Call MakeCall(const std::vector<std::unique_ptr<kernels::Expert>>& experts,
                const std::vector<int32_t>& order, int active, int rows) {
    Call call;
    const int32_t step_rows = std::max(rows, active * rows / kTopK);
    call.x = MakeRows(step_rows, kHidden);
    call.row_ids.resize(static_cast<size_t>(active * rows));
    for (size_t i = 0; i < call.row_ids.size(); ++i) call.row_ids[i] = static_cast<int32_t>(i) % step_rows;
    call.weights.assign(static_cast<size_t>(rows), 0.125f);
    const int steps = std::max(1, kExperts / active);
    for (int s = 0; s < steps; ++s) {
      std::vector<int32_t> ids(order.begin() + s * active, order.begin() + (s + 1) * active);
      std::sort(ids.begin(), ids.end());
      std::vector<kernels::ExpertTask>& tasks = call.steps.emplace_back();
      for (int a = 0; a < active; ++a) {
        tasks.push_back(
            {experts[static_cast<size_t>(ids[static_cast<size_t>(a)])].get(), 0,
             static_cast<int32_t>(kColumns / 128),
             std::span(call.row_ids).subspan(static_cast<size_t>(a * rows), static_cast<size_t>(rows)),
             call.weights});
      }
    }
    call.bytes = experts[0]->bytes * active;
    call.ops = 2.0 * 3 * kHidden * kColumns * active * rows;
    call.sums.resize(static_cast<size_t>(step_rows * kHidden));
    call.loose_sums.resize(call.sums.size());
    call.errors.resize(static_cast<size_t>(step_rows));
    return call;
  }

  absl::Status Linears(const std::string& name, WeightFormat format, int64_t outputs,
                       const std::vector<int>& all_rows) {
    if (!Wanted(name)) return absl::OkStatus();
    std::vector<std::unique_ptr<kernels::Linear>> linears;
    for (int64_t bytes = 0; bytes < kColdBytes; bytes += linears.back()->bytes) {
      ASSIGN_OR_RETURN(
          std::unique_ptr<kernels::Linear> linear,
          table_.pack_linear(RandomLinear(format, outputs, kHidden, kHidden, linears.size() + 11)));
      linears.push_back(std::move(linear));
    }
    for (const int rows : all_rows) {
      const Rows x = MakeRows(rows, kHidden);
      std::vector<float> y(static_cast<size_t>(rows * outputs));
      figures_.push_back(Measure(name, rows, linears[0]->bytes, 2.0 * outputs * kHidden * rows, [&](int i) {
        table_.linear(pool_, *linears[static_cast<size_t>(i) % linears.size()], x.view, y.data(), outputs);
      }));
    }
    return absl::OkStatus();
  }

  void Small() {
    for (const int rows : {1, 8}) {
      Rows x = MakeRows(rows, kHidden);
      const int64_t bytes = rows * kHidden * 4;
      std::vector<float> out(x.values.size());
      const std::vector<float> w = Noise(3).Floats(kHidden);
      if (Wanted("quantise")) {
        figures_.push_back(Measure("quantise", rows, bytes, 0, [&](int) {
          table_.quantise(pool_, x.values.data(), rows, kHidden, ActivationContract::kInt16, x.codes.data(),
                          x.scales.data());
        }));
      }
      if (Wanted("rms norm")) {
        figures_.push_back(Measure("rms norm", rows, bytes, 0, [&](int) {
          table_.rms_norm(pool_, x.values.data(), rows, kHidden, w.data(), 1.0f, 1e-6f, out.data());
        }));
      }
      if (Wanted("route")) {
        const std::vector<float> logits = Noise(4).Floats(int64_t{rows} * kExperts, 4.0f);
        std::vector<int32_t> ids(static_cast<size_t>(rows * kTopK));
        std::vector<float> weights(ids.size());
        figures_.push_back(Measure("route", rows, int64_t{rows} * kExperts * 4, 0, [&](int) {
          table_.route(pool_, logits.data(), rows, kExperts, kTopK, true, ids.data(), weights.data());
        }));
      }
      if (Wanted("arg max")) {
        const std::vector<float> logits = Noise(6).Floats(int64_t{kVocab});
        if (rows == 1) {
          figures_.push_back(Measure("arg max of 248320", 1, kVocab * 4, 0,
                                     [&](int) { table_.arg_max(pool_, logits.data(), kVocab); }));
        }
      }
    }
  }

  void Attention() {
    for (const int64_t positions : {int64_t{4096}, int64_t{32768}}) {
      AttentionOver("bf16", kernels::KvDtype::kBF16, positions);
      AttentionOver("int8", kernels::KvDtype::kInt8, positions);
      AttentionOver("int4", kernels::KvDtype::kInt4, positions);
    }
  }

  void AttentionOver(const std::string& word, kernels::KvDtype dtype, int64_t positions) {
    const std::string name = absl::StrCat("attention ", word, ", ", positions / 1024, " K positions");
    if (!Wanted(name)) return;
    const int64_t pages = positions / kernels::kAttentionBlock;
    const int64_t vectors = 2 * positions * kAttention.kv_heads;
    const int64_t bytes = vectors * kernels::KvVectorBytes(dtype, kAttention.head_dim);
    std::vector<int32_t> ids(static_cast<size_t>(pages));
    std::iota(ids.begin(), ids.end(), 0);
    // One page of vectors, in every page of as many layers as no cache holds.
    Noise noise(9);
    const std::vector<float> page =
        noise.Floats(kernels::kAttentionBlock * kAttention.kv_heads * kAttention.head_dim);
    std::vector<KvLayer> layers;
    for (int64_t held = 0; held < kColdPages; held += bytes) {
      layers.emplace_back(kAttention, dtype, static_cast<int32_t>(pages));
      for (int64_t first = 0; first < positions; first += kernels::kAttentionBlock) {
        const kernels::RowRun run{0, static_cast<int32_t>(kernels::kAttentionBlock), first, ids.data()};
        table_.write_kv(pool_, kAttention, layers.back().view(), std::span(&run, 1), page.data(),
                        page.data());
      }
    }
    for (const int rows : {1, 4}) {
      const int64_t width = int64_t{kAttention.heads} * kAttention.head_dim;
      const std::vector<float> q = noise.Floats(rows * width);
      std::vector<float> out(q.size());
      const kernels::RowRun run{0, rows, positions - rows, ids.data()};
      const double ops = 4.0 * static_cast<double>(positions * width * rows);
      figures_.push_back(Measure(name, rows, bytes, ops, [&](int i) {
        const kernels::Workspace::Scope scope(workspace_);
        table_.attention(pool_, workspace_, kAttention, layers[static_cast<size_t>(i) % layers.size()].view(),
                         std::span(&run, 1), q.data(), out.data());
      }));
    }
  }

  void DeltaNet() {
    const std::string name = "gated delta net";
    if (!Wanted(name)) return;
    constexpr int kLayers = 36;
    const int64_t channels = kGdn.channels();
    const int64_t state = int64_t{kGdn.value_heads} * kGdn.key_dim * kGdn.value_dim;
    const int64_t k = int64_t{kernels::kGdnBlock} * kGdn.key_heads * kGdn.key_dim;
    const int64_t u = int64_t{kernels::kGdnBlock} * kGdn.value_heads * kGdn.value_dim;
    const int64_t c = int64_t{kernels::kGdnBlock} * kGdn.value_heads, window = kernels::kGdnWindow * channels;
    Noise noise(10);
    std::vector<float> memory = noise.Floats(kLayers * (state + k + u + c + window), 0.01f);
    const std::vector<float> conv = noise.Floats(channels * kGdn.conv_taps),
                             decay = noise.Floats(kGdn.value_heads), bias = noise.Floats(kGdn.value_heads);
    constexpr int64_t kPosition = 16;  // half a block of rows behind the border
    for (const int rows : {1, 4}) {
      const std::vector<float> qkv = noise.Floats(rows * channels), b = noise.Floats(rows * kGdn.value_heads),
                               a = noise.Floats(rows * kGdn.value_heads);
      std::vector<float> out(static_cast<size_t>(int64_t{rows} * kGdn.value_heads * kGdn.value_dim));
      const kernels::RowRun run{0, rows, kPosition, nullptr};
      figures_.push_back(Measure(name, rows, 4 * (state + (k + u) / 2), 0, [&](int i) {
        const kernels::Workspace::Scope scope(workspace_);
        float* base = memory.data() + i % kLayers * (state + k + u + c + window);
        const kernels::GdnBlock block{base, base + state, base + state + k, base + state + k + u};
        const kernels::GdnState of{block, block, base + state + k + u + c};
        table_.gated_delta_net(pool_, workspace_, kGdn, {conv.data(), decay.data(), bias.data()}, qkv.data(),
                               b.data(), a.data(), std::span(&run, 1), std::span(&of, 1), out.data());
      }));
    }
  }

  const BenchKernelsOptions& options_;
  const KernelTable& table_;
  ThreadPool pool_;
  kernels::Workspace workspace_;
  std::vector<Figure> figures_;
  std::vector<std::pair<int, double>> prices_;
};

double Gbps(const Figure& f) { return static_cast<double>(f.bytes) / f.seconds / 1e9; }
double Share(const Figure& f, double bandwidth) { return bandwidth > 0 ? Gbps(f) / bandwidth : 0.0; }

void PrintJson(const KernelBench& bench, double bandwidth, const std::string& cpu, const Compute& compute) {
  nlohmann::json out;
  out["read_bandwidth_gbps"] = bandwidth;
  out["cpu"] = cpu;
  out["isa"] = std::string(compute.table->name);
  out["threads"] = compute.threads;
  out["results"] = nlohmann::json::array();
  for (const Figure& f : bench.figures()) {
    out["results"].push_back({{"name", f.name},
                              {"rows", f.rows},
                              {"active_experts", f.active},
                              {"seconds", f.seconds},
                              {"best_seconds", f.best_seconds},
                              {"bytes", f.bytes},
                              {"gbps", Gbps(f)},
                              {"share_of_read_bandwidth", Share(f, bandwidth)},
                              {"ops_per_second", f.ops / f.seconds}});
  }
  out["price_of_contract"] = nlohmann::json::array();
  for (const auto& [rows, ratio] : bench.prices())
    out["price_of_contract"].push_back({{"rows", rows}, {"active_experts", 8}, {"ratio", ratio}});
  std::printf("%s\n", out.dump().c_str());
}

void PrintTable(const KernelBench& bench, double bandwidth, bool markdown) {
  const char* line =
      markdown ? "| %s | %d | %s | %s | %s | %s | %s | %s |\n" : "%-26s %5d %7s %12s %12s %8s %6s %8s\n";
  const char* head =
      markdown ? "| %s | %s | %s | %s | %s | %s | %s | %s |\n" : "%-26s %5s %7s %12s %12s %8s %6s %8s\n";
  std::printf(head, "kernel", "rows", "experts", "median us", "best us", "GB/s", "of R", "Gop/s");
  if (markdown) std::printf("|---|---|---|---|---|---|---|---|\n");
  for (const Figure& f : bench.figures()) {
    std::printf(line, f.name.c_str(), f.rows, f.active > 0 ? absl::StrCat(f.active).c_str() : "-",
                absl::StrFormat("%.1f", f.seconds * 1e6).c_str(),
                absl::StrFormat("%.1f", f.best_seconds * 1e6).c_str(),
                absl::StrFormat("%.1f", Gbps(f)).c_str(),
                absl::StrFormat("%.0f %%", 100 * Share(f, bandwidth)).c_str(),
                f.ops > 0 ? absl::StrFormat("%.0f", f.ops / f.seconds / 1e9).c_str() : "-");
  }
  if (bench.prices().empty()) return;
  std::printf("\nprice of the contract: time of 8 INT4 experts over the same without exact sums\n");
  for (const auto& [rows, ratio] : bench.prices()) std::printf("%d rows: %.3f\n", rows, ratio);
}

absl::Status Bench(const BenchKernelsOptions& options) {
  ASSIGN_OR_RETURN(const Compute compute, ResolveCompute(options.compute, 1));
  KernelBench bench(options, compute);
  const double before = kernels::cpu::MeasureReadBandwidth(bench.pool());
  RETURN_IF_ERROR(bench.Run());
  const double after = kernels::cpu::MeasureReadBandwidth(bench.pool());
  const double bandwidth = std::max(before, after);
  const std::string cpu = absl::StrCat(CpuName(), " (", std::string(kernels::cpu::CpuClass()), ")");
  if (options.json) {
    PrintJson(bench, bandwidth, cpu, compute);
    return absl::OkStatus();
  }
  std::printf("%s, %s, %d threads, read bandwidth %.1f GB/s (before %.1f, after %.1f)\n\n", cpu.c_str(),
              std::string(compute.table->name).c_str(), compute.threads, bandwidth, before, after);
  PrintTable(bench, bandwidth, options.markdown);
  return absl::OkStatus();
}

}  // namespace

int Run(const BenchKernelsOptions& options) {
  const absl::Status done = Bench(options);
  return done.ok() ? 0 : StdErr().Fail(done);
}

}  // namespace paceline::cli
