// Kernels of the cuda backend, and a whole decode step of them, at the shapes of Qwen3.5-122B-A10B with
// random weights made on the device: times as shares of the copy bandwidth that the same run measured.
//   gpu_bench [--layers N]     a step of fewer layers where 48 of them (63 GB) do not fit; times are not
//   scaled
// Every figure is a graph that walks over enough different weights that none is in the L2 when its turn
// comes; the median of several replays counts. bench/gpu.sh runs it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/choose.h"
#include "kernels/cuda/delta_net.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/facts.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/gpu_graph.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/vocabulary.h"

namespace paceline::kernels::cuda {
namespace {

constexpr int64_t kHidden = 3072, kColumns = 1024, kVocab = 248320;
constexpr int32_t kExperts = 256, kTopK = 8;
constexpr DeltaShape kDelta{16, 64, 128, 128, 4};
constexpr int32_t kHeads = 32, kKvHeads = 2, kHeadDim = 256, kRotated = 64;
constexpr int64_t kContext = 4096;
constexpr int32_t kLayers = 48, kFullAttentionEvery = 4;

// Memory that lives as long as the program, filled with random words.
class Device {
 public:
  explicit Device(GpuMachine& machine) : machine_(machine) {}
  GpuMachine& machine() { return machine_; }

  void* Bytes(int64_t bytes, uint32_t keep, uint32_t set) {
    DeviceMemory& memory = owned_.emplace_back(machine_, (bytes + 3) / 4 * 4);
    if (memory.as<void>() == nullptr) {
      std::fprintf(stderr,
                   "gpu_bench: no room for %lld more bytes on the device; give --layers a smaller number\n",
                   static_cast<long long>(bytes));
      std::exit(5);
    }
    machine_.Launch<FillRandom>({memory.as<uint32_t>(), memory.bytes() / 4, ++seed_, keep, set, 0});
    return memory.as<void>();
  }
  // +- 2^-7 to 2^-6.
  float* Floats(int64_t count) { return static_cast<float*>(Bytes(4 * count, 0x807FFFFF, 0x3C000000)); }
  template <class T>
  T* Zeros(int64_t count) {
    void* memory = Bytes(count * static_cast<int64_t>(sizeof(T)), 0, 0);
    return static_cast<T*>(memory);
  }
  template <class T>
  T* Copy(const std::vector<T>& from) {
    T* to = Zeros<T>(static_cast<int64_t>(from.size()));
    machine_.CopyIn(to, from.data(), static_cast<int64_t>(from.size() * sizeof(T)));
    return to;
  }

  // A matrix of random codes with scales of about 2^-11.
  Matrix MakeMatrix(WeightFormat format, int64_t outputs, int64_t inputs) {
    Matrix m{};
    m.format = format;
    m.outputs = outputs;
    m.inputs = inputs;
    const bool int4 = format == WeightFormat::kInt4, int8 = format == WeightFormat::kInt8;
    const bool fp8 = format == WeightFormat::kFp8Block128;
    const int64_t half_bytes = int4 ? 1 : int8 || fp8 ? 2 : 4;  // of an element, halves
    m.tile_bytes = inputs * kTile * half_bytes / 2;
    // No code of FP8 is a NaN, no BF16 large.
    const uint32_t keep = fp8 ? 0xBFBFBFBF : int4 || int8 ? 0xFFFFFFFF : 0x807F807F;
    m.data = static_cast<const uint8_t*>(
        Bytes(m.tiles() * m.tile_bytes, keep, format == WeightFormat::kBF16 ? 0x3C003C00 : 0));
    bytes_ = m.tiles() * m.tile_bytes;
    if (fp8) {
      m.column_blocks = Parts(inputs, 128);
      const int64_t scales = Parts(outputs, 128) * m.column_blocks;
      m.block_scales = Floats(scales);
      bytes_ += 4 * scales;
    }
    if (int4 || int8) {
      m.even = m.regular = true;
      m.zero = int4 ? 8 : 0;
      m.terms = static_cast<int32_t>(Parts(inputs, 128));
      m.scale_format = ScaleFormat::kF16;
      m.groups = m.terms;
      const int64_t scales = m.tiles() * m.groups * kTile;
      m.scales = Bytes(2 * scales, 0x00FF00FF, 0x10001000);
      bytes_ += 2 * scales;
    }
    return m;
  }
  // Of the matrix made last.
  int64_t matrix_bytes() const { return bytes_; }

  Codes MakeCodes(int64_t rows, int64_t width) {
    Codes codes;
    codes.chunks = ChunksOf(width);
    codes.bytes = Zeros<uint8_t>(rows * codes.chunks * codes.planes * kChunk);
    codes.sums = Zeros<int32_t>(rows * codes.chunks);
    codes.scales = Zeros<float>(rows * codes.chunks / 4);
    return codes;
  }

 private:
  GpuMachine& machine_;
  std::vector<DeviceMemory> owned_;
  uint32_t seed_ = 0;
  int64_t bytes_ = 0;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Seconds of one of the `count` calls that a graph holds.
double TimeCalls(GpuMachine& machine, int count, const std::function<void(int)>& call) {
  GpuGraph graph(machine, [&] {
    for (int i = 0; i < count; ++i) call(i);
  });
  graph.Replay();
  graph.Replay();
  std::vector<double> seconds;
  for (int i = 0; i < 9; ++i) seconds.push_back(graph.Replay());
  return Median(seconds) / count;
}

double bandwidth = 0;  // bytes per second

void Print(const std::string& name, int rows, double seconds, double bytes, const char* goal) {
  std::printf("| %-34s | %4d | %9.2f | %8.1f | %5.1f %% | %s |\n", name.c_str(), rows, seconds * 1e6,
              bytes / seconds / 1e9, 100 * bytes / seconds / bandwidth, goal);
  std::fflush(stdout);
}

// ---------------------------------------------------------------- single kernels

LinearStep LinearArgs(const Matrix& m, const Inputs& x, int64_t rows, float* y) {
  return {m, x, rows, y, m.outputs};
}
void RunLinear(GpuMachine& machine, const Matrix& m, const Inputs& x, int64_t rows, float* y) {
  const Kind kind = m.format == WeightFormat::kInt4   ? Kind::kInt4
                    : m.format == WeightFormat::kInt8 ? Kind::kInt8
                                                      : Kind::kAny;
  LaunchFor<LinearTile>(machine, kind, LinearArgs(m, x, rows, y), x.codes.planes, rows);
}

void Linears(GpuMachine& machine, const char* name, WeightFormat format, int64_t outputs,
             const std::vector<int>& all_rows, const char* goal) {
  Device device(machine);
  constexpr int64_t kCold = int64_t{1} << 30;
  std::vector<Matrix> matrices;
  for (int64_t bytes = 0; bytes < kCold; bytes += device.matrix_bytes())
    matrices.push_back(device.MakeMatrix(format, outputs, kHidden));
  for (const int rows : all_rows) {
    Inputs x{.codes = device.MakeCodes(rows, kHidden),
             .values = device.Floats(rows * kHidden),
             .stride = kHidden,
             .width = kHidden};
    machine.Launch<QuantiseRows>({x.values, rows, kHidden, 32639.0f, x.codes, nullptr, nullptr});
    float* y = device.Floats(rows * outputs);
    const int calls = static_cast<int>(matrices.size());
    const double seconds = TimeCalls(
        machine, calls, [&](int i) { RunLinear(machine, matrices[static_cast<size_t>(i)], x, rows, y); });
    Print(name, rows, seconds, static_cast<double>(device.matrix_bytes()), goal);
  }
}

ExpertStep MakeExperts(Device& device, std::vector<ExpertMatrices>& experts, int64_t& bytes) {
  ExpertStep step{};
  for (int32_t e = 0; e < kExperts; ++e) {
    bytes = 0;
    ExpertMatrices one;
    one.gate = device.MakeMatrix(WeightFormat::kInt4, kColumns, kHidden);
    bytes += device.matrix_bytes();
    one.up = device.MakeMatrix(WeightFormat::kInt4, kColumns, kHidden);
    bytes += device.matrix_bytes();
    one.down = device.MakeMatrix(WeightFormat::kInt4, kHidden, kColumns);
    bytes += device.matrix_bytes();
    experts.push_back(one);
  }
  return step;
}

// Scratch and inputs of an expert layer of up to `rows` rows.
ExpertStep ExpertScratch(Device& device, int64_t rows, int32_t tasks) {
  const int64_t routes = rows * kTopK;
  ExpertStep step{};
  step.task_count = tasks;
  step.most_columns = kColumns;
  step.top = 32639.0f;
  step.middle_stride = kColumns;
  step.middle = device.Floats(routes * kColumns);
  step.middle_codes = device.MakeCodes(routes, kColumns);
  step.ready = device.Zeros<int32_t>(tasks * (kColumns / 128));
  step.hidden = kHidden;
  step.sums = device.Zeros<int64_t>(rows * kHidden);
  step.row_errors = device.Zeros<uint8_t>(rows);
  step.x.codes = device.MakeCodes(rows, kHidden);
  step.x.values = device.Floats(rows * kHidden);
  step.x.stride = step.x.width = kHidden;
  return step;
}

void ExpertLayer(GpuMachine& machine) {
  Device device(machine);
  std::vector<ExpertMatrices> experts;
  int64_t bytes = 0;
  MakeExperts(device, experts, bytes);
  const ExpertMatrices* on_device = device.Copy(experts);
  struct Case {
    int rows, distinct;
    const char* goal;
  };
  // Distinct experts of rows that route independently (shared/reference/performance.md, 7).
  for (const Case& c : {Case{1, 8, "50 %"}, Case{4, 30, ""}, Case{8, 57, "70 %"}, Case{32, 163, "75 %"}}) {
    ExpertStep step = ExpertScratch(device, c.rows, c.distinct);
    machine.Launch<QuantiseRows>({step.x.values, c.rows, kHidden, 32639.0f, step.x.codes, nullptr, nullptr});
    step.route_weights = device.Floats(c.rows * kTopK);
    // Calls with different experts, each with its share of the routes.
    const int calls = std::max(2, kExperts / c.distinct);
    std::vector<ExpertStep> steps;
    for (int call = 0; call < calls; ++call) {
      std::vector<Task> tasks;
      std::vector<int32_t> rows;
      for (int t = 0; t < c.distinct; ++t) {
        const int64_t first = int64_t{c.rows} * kTopK * t / c.distinct;
        const int64_t end = int64_t{c.rows} * kTopK * (t + 1) / c.distinct;
        const int32_t expert = (call * c.distinct + t) % kExperts;
        tasks.push_back({on_device + expert * 37 % kExperts, 0, kColumns, first, end - first});
        for (int64_t r = first; r < end; ++r) rows.push_back(static_cast<int32_t>(r % c.rows));
      }
      step.tasks = device.Copy(tasks);
      step.route_rows = device.Copy(rows);
      steps.push_back(step);
    }
    const double seconds = TimeCalls(machine, calls, [&](int i) {
      LaunchFor<ExpertMiddle>(machine, Kind::kInt4, steps[static_cast<size_t>(i)], 2, 4);
      LaunchFor<ExpertDown>(machine, Kind::kInt4, steps[static_cast<size_t>(i)], 2, 4);
    });
    Print("INT4 MoE layer, " + std::to_string(c.distinct) + " experts", c.rows, seconds,
          static_cast<double>(bytes) * c.distinct, c.goal);
  }
}

// ---------------------------------------------------------------- mixers

// One sequence's place in a step, in one Gated DeltaNet layer.
DeltaStep MakeDelta(Device& device, int rows) {
  const int64_t channels = kDelta.channels(), heads = kDelta.value_heads;
  DeltaStep step{};
  step.shape = kDelta;
  step.conv = device.Floats(channels * kDelta.taps);
  step.decay = device.Floats(heads);
  step.dt_bias = device.Floats(heads);
  step.qkv = device.Floats(rows * channels);
  step.b = device.Floats(rows * heads);
  step.a = device.Floats(rows * heads);
  DeltaRun run{};
  run.block = {device.Floats(heads * kDelta.key_dim * kDelta.value_dim),
               device.Floats(kGdnBlock * kDelta.keys()), device.Floats(kGdnBlock * heads * kDelta.value_dim),
               device.Floats(kGdnBlock * heads)};
  run.next = run.block;
  run.window = device.Floats(kGdnWindow * channels);
  run.first_position = 16;  // half a block of rows behind the border
  run.rows = rows;
  step.runs = device.Copy(std::vector<DeltaRun>{run});
  step.run_of = device.Zeros<int32_t>(rows);
  step.rows = rows;
  step.run_count = 1;
  step.mixed = device.Floats(rows * channels);
  step.beta = device.Floats(rows * heads);
  step.c = device.Floats(rows * heads);
  step.dots = device.Floats(rows * kDelta.key_heads * 2 * kGdnBlock);
  step.out = device.Floats(rows * heads * kDelta.value_dim);
  return step;
}
void RunDelta(GpuMachine& machine, const DeltaStep& step) {
  machine.Launch<DeltaConvolve>(step);
  machine.Launch<DeltaNormalise>(step);
  machine.Launch<DeltaGates>(step);
  machine.Launch<DeltaDots>(step);
  machine.Launch<DeltaSolve>(step);
  machine.Launch<DeltaStore>(step);
}
// What a step has to read: the state, and the rows since the border.
double DeltaBytes() {
  const double state = 4.0 * kDelta.value_heads * kDelta.key_dim * kDelta.value_dim;
  return state +
         4.0 * 16 * static_cast<double>(kDelta.keys() + int64_t{kDelta.value_heads} * kDelta.value_dim);
}

struct AttentionStep {
  WriteKv::Args write;
  AttentionBlocks::Args blocks;
  AttentionMerge::Args merge;
};
AttentionStep MakeAttention(Device& device, int rows) {
  const int64_t pages = kContext / kAttentionBlock + 1, width = int64_t{kHeads} * kHeadDim;
  const int64_t page = int64_t{kKvHeads} * kAttentionBlock * kHeadDim;
  AttentionStep step{};
  const Pages kv{1, device.Bytes(2 * pages * page, 0x807F807F, 0x3C003C00),
                 device.Bytes(2 * pages * page, 0x807F807F, 0x3C003C00)};
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < pages; ++i) ids.push_back(i);
  const int32_t* on_device = device.Copy(ids);
  std::vector<RowPlace> places;
  for (int r = 0; r < rows; ++r) places.push_back({kContext - rows + r, on_device});
  const RowPlace* rows_on_device = device.Copy(places);
  step.write = {kv,
                rows_on_device,
                device.Floats(rows * kKvHeads * kHeadDim),
                device.Floats(rows * kKvHeads * kHeadDim),
                rows,
                kKvHeads,
                kHeadDim};
  AttentionBlocks::Args& a = step.blocks;
  a.kv = kv;
  a.places = rows_on_device;
  a.q = device.Floats(rows * width);
  a.rows = rows;
  a.heads = kHeads;
  a.kv_heads = kKvHeads;
  a.head_dim = kHeadDim;
  a.blocks = kContext / kAttentionBlock;
  a.m = device.Floats(rows * kHeads * a.blocks);
  a.l = device.Floats(rows * kHeads * a.blocks);
  a.o = device.Floats(rows * a.blocks * width);
  step.merge = {rows_on_device, a.m, a.l, a.o, rows, a.blocks, kHeads, kHeadDim, device.Floats(rows * width)};
  return step;
}
void RunAttention(GpuMachine& machine, const AttentionStep& step) {
  machine.Launch<WriteKv>(step.write);
  machine.Launch<AttentionBlocks>(step.blocks);
  machine.Launch<AttentionMerge>(step.merge);
}
constexpr double kAttentionBytes = 2.0 * 2 * kContext * kKvHeads * kHeadDim;

void Mixers(GpuMachine& machine) {
  constexpr int kCopies = 40;
  for (const int rows : {1, 4}) {
    Device device(machine);
    std::vector<DeltaStep> steps;
    for (int i = 0; i < kCopies; ++i) steps.push_back(MakeDelta(device, rows));
    const double seconds =
        TimeCalls(machine, kCopies, [&](int i) { RunDelta(machine, steps[static_cast<size_t>(i)]); });
    Print("Gated DeltaNet", rows, seconds, DeltaBytes(), rows == 1 ? "6 us" : "9 us");
  }
  for (const int rows : {1, 4}) {
    Device device(machine);
    std::vector<AttentionStep> steps;
    for (int i = 0; i < kCopies; ++i) steps.push_back(MakeAttention(device, rows));
    const double seconds =
        TimeCalls(machine, kCopies, [&](int i) { RunAttention(machine, steps[static_cast<size_t>(i)]); });
    Print("attention, 4 K positions", rows, seconds, kAttentionBytes, "");
  }
}

void Small(GpuMachine& machine) {
  Device device(machine);
  constexpr int kCalls = 100;
  for (const int rows : {1, 8}) {
    float *x = device.Floats(rows * kHidden), *w = device.Floats(kHidden);
    const Codes codes = device.MakeCodes(rows, kHidden);
    float *logits = device.Floats(int64_t{rows} * kExperts), *weights = device.Floats(rows * kTopK);
    int32_t* ids = device.Zeros<int32_t>(rows * kTopK);
    const double bytes = 4.0 * rows * kHidden;
    Print("quantise", rows,
          TimeCalls(machine, kCalls,
                    [&](int) {
                      machine.Launch<QuantiseRows>({x, rows, kHidden, 32639.0f, codes, nullptr, nullptr});
                    }),
          bytes, "");
    Print("RMS norm", rows,
          TimeCalls(machine, kCalls,
                    [&](int) { machine.Launch<RmsNorm>({x, rows, kHidden, w, 1.0f, 1e-6f, x}); }),
          bytes, "");
    Print("route", rows,
          TimeCalls(machine, kCalls,
                    [&](int) { machine.Launch<Route>({logits, rows, kExperts, kTopK, 1, ids, weights}); }),
          4.0 * rows * kExperts, "");
  }
}

// ---------------------------------------------------------------- a step

struct Layer {
  bool attention;
  Matrix in[4];  // qkv, z, b and a; or q with gate, k, v
  Matrix out, router, shared_gate_weight, shared[3];
  std::vector<ExpertMatrices> experts;
  const ExpertMatrices* experts_on_device;
};

// All layers and the head, and scratch for up to `rows` rows. Rows are verified drafts of one sequence, or
// single rows of several: with these kernels the step's bytes of weights do not tell them apart.
class Step {
 public:
  Step(GpuMachine& machine, int layers) : machine_(machine), device_(machine) {
    for (int l = 0; l < layers; ++l) {
      Layer& layer = layers_.emplace_back();
      layer.attention = l % kFullAttentionEvery == kFullAttentionEvery - 1;
      const WeightFormat fp8 = WeightFormat::kFp8Block128, bf16 = WeightFormat::kBF16;
      if (layer.attention) {
        layer.in[0] = Dense(fp8, 2 * kHeads * kHeadDim, kHidden);
        layer.in[1] = Dense(fp8, kKvHeads * kHeadDim, kHidden);
        layer.in[2] = Dense(fp8, kKvHeads * kHeadDim, kHidden);
        layer.out = Dense(fp8, kHidden, kHeads * kHeadDim);
      } else {
        layer.in[0] = Dense(fp8, kDelta.channels(), kHidden);
        layer.in[1] = Dense(fp8, kDelta.value_heads * kDelta.value_dim, kHidden);
        layer.in[2] = Dense(bf16, kDelta.value_heads, kHidden);
        layer.in[3] = Dense(bf16, kDelta.value_heads, kHidden);
        layer.out = Dense(fp8, kHidden, kDelta.value_heads * kDelta.value_dim);
      }
      layer.router = Dense(bf16, kExperts, kHidden);
      layer.shared_gate_weight = Dense(bf16, 1, kHidden);
      layer.shared[0] = Dense(fp8, kColumns, kHidden);
      layer.shared[1] = Dense(fp8, kColumns, kHidden);
      layer.shared[2] = Dense(fp8, kHidden, kColumns);
      MakeExperts(device_, layer.experts, expert_bytes_);
      layer.experts_on_device = device_.Copy(layer.experts);
    }
    head_ = Dense(WeightFormat::kInt8, kVocab, kHidden);
    norm_ = device_.Floats(kHidden);
  }

  void Measure(int rows, bool verify, const char* goal) {
    Device scratch(machine_);
    Buffers b(scratch, rows, verify, layers_);
    GpuGraph graph(machine_, [&] { Run(b, rows); });
    graph.Replay();
    graph.Replay();
    std::vector<double> seconds;
    for (int i = 0; i < 7; ++i) seconds.push_back(graph.Replay());
    // The experts that the router chose.
    double bytes = dense_bytes_ + static_cast<double>(layers_.size()) *
                                      (0.75 * DeltaBytes() + 0.25 * kAttentionBytes) * (verify ? 1 : rows);
    for (const Task* tasks : b.tasks) {
      std::vector<Task> chosen(static_cast<size_t>(b.experts.task_count));
      machine_.CopyOut(chosen.data(), tasks, static_cast<int64_t>(chosen.size() * sizeof(Task)));
      for (const Task& task : chosen) bytes += task.routes > 0 ? static_cast<double>(expert_bytes_) : 0;
    }
    Print(std::string(verify ? "step, verify" : "step, batch") + " (" + std::to_string(graph.kernels()) +
              " kernels)",
          rows, Median(seconds), bytes, goal);
  }

 private:
  struct Buffers {
    float *h, *x, *in[4], *mixed, *y, *logits, *weights, *gate, *up, *shared, *shared_gate, *vocabulary;
    float *cos, *sin, *q;
    int32_t* ids;
    ExpertStep experts;
    std::vector<const Task*> tasks;  // [layers]
    std::vector<DeltaStep> delta;    // [layers], used where the layer is no attention
    std::vector<AttentionStep> attention;
    Buffers(Device& d, int rows, bool verify, const std::vector<Layer>& layers) {
      const int64_t most =
          kDelta.channels() > 2 * kHeads * kHeadDim ? kDelta.channels() : 2 * kHeads * kHeadDim;
      h = d.Floats(rows * kHidden);
      x = d.Floats(rows * kHidden);
      for (float*& buffer : in) buffer = d.Floats(rows * most);
      mixed = d.Floats(rows * most);
      y = d.Floats(rows * kHidden);
      logits = d.Floats(int64_t{rows} * kExperts);
      weights = d.Floats(rows * kTopK);
      gate = d.Floats(rows * kColumns);
      up = d.Floats(rows * kColumns);
      shared = d.Floats(rows * kHidden);
      shared_gate = d.Floats(rows);
      vocabulary = d.Floats(rows * kVocab);
      cos = d.Floats(rows * kRotated / 2);
      sin = d.Floats(rows * kRotated / 2);
      q = d.Floats(rows * kHeads * kHeadDim);
      ids = d.Zeros<int32_t>(rows * kTopK);
      experts = ExpertScratch(d, rows, std::min(kExperts, rows * kTopK));
      experts.route_rows = d.Zeros<int32_t>(rows * kTopK);
      experts.route_weights = d.Floats(rows * kTopK);
      for (const Layer& layer : layers) {
        tasks.push_back(d.Zeros<Task>(experts.task_count));
        delta.emplace_back();
        attention.emplace_back();
        if (layer.attention) {
          attention.back() = MakeAttention(d, rows);
        } else {
          delta.back() = MakeDelta(d, rows);
          if (!verify && rows > 1) Spread(d, rows, delta.back());
        }
      }
    }
    // Every row a sequence of its own.
    static void Spread(Device& d, int rows, DeltaStep& step) {
      const int64_t heads = kDelta.value_heads;
      std::vector<DeltaRun> runs;
      std::vector<int32_t> run_of;
      for (int r = 0; r < rows; ++r) {
        DeltaRun run{};
        run.block = {d.Floats(heads * kDelta.key_dim * kDelta.value_dim), d.Floats(kGdnBlock * kDelta.keys()),
                     d.Floats(kGdnBlock * heads * kDelta.value_dim), d.Floats(kGdnBlock * heads)};
        run.next = run.block;
        run.window = d.Floats(kGdnWindow * kDelta.channels());
        run.first_position = 16;
        run.first_row = r;
        run.rows = 1;
        runs.push_back(run);
        run_of.push_back(r);
      }
      step.runs = d.Copy(runs);
      step.run_of = d.Copy(run_of);
      step.run_count = rows;
    }
  };

  Matrix Dense(WeightFormat format, int64_t outputs, int64_t inputs) {
    const Matrix m = device_.MakeMatrix(format, outputs, inputs);
    dense_bytes_ += static_cast<double>(device_.matrix_bytes());
    return m;
  }

  void Linear(const Matrix& m, const float* x, int rows, float* y) {
    const Inputs in{.values = x, .stride = m.inputs, .width = m.inputs};
    RunLinear(machine_, m, in, rows, y);
  }

  void Run(Buffers& b, int rows) {
    for (size_t l = 0; l < layers_.size(); ++l) {
      const Layer& layer = layers_[l];
      machine_.Launch<RmsNorm>({b.h, rows, kHidden, norm_, 1.0f, 1e-6f, b.x});
      if (layer.attention) {
        Mix(b, layer, b.attention[l], rows);
      } else {
        Mix(b, layer, b.delta[l], rows);
      }
      Linear(layer.out, b.mixed, rows, b.y);
      machine_.Launch<Add>({b.h, b.y, rows * kHidden, rows * kHidden});
      machine_.Launch<RmsNorm>({b.h, rows, kHidden, norm_, 1.0f, 1e-6f, b.x});
      FeedForward(b, layer, b.tasks[l], rows);
    }
    machine_.Launch<RmsNorm>({b.h, rows, kHidden, norm_, 1.0f, 1e-6f, b.x});
    machine_.Launch<QuantiseRows>({b.x, rows, kHidden, 32639.0f, b.experts.x.codes, nullptr, nullptr});
    RunLinear(machine_, head_, b.experts.x, rows, b.vocabulary);
  }

  void Mix(Buffers& b, const Layer& layer, AttentionStep& step, int rows) {
    Linear(layer.in[0], b.x, rows, b.in[0]);
    Linear(layer.in[1], b.x, rows, b.in[1]);
    Linear(layer.in[2], b.x, rows, const_cast<float*>(step.write.v));
    const HeadNormRope::Args queries{b.in[0],
                                     2 * kHeads * kHeadDim,
                                     2 * kHeadDim,
                                     rows,
                                     kHeads,
                                     kHeadDim,
                                     norm_,
                                     1.0f,
                                     1e-6f,
                                     b.cos,
                                     b.sin,
                                     kRotated / 2,
                                     const_cast<float*>(step.blocks.q)};
    const HeadNormRope::Args keys{b.in[1],
                                  kKvHeads * kHeadDim,
                                  kHeadDim,
                                  rows,
                                  kKvHeads,
                                  kHeadDim,
                                  norm_,
                                  1.0f,
                                  1e-6f,
                                  b.cos,
                                  b.sin,
                                  kRotated / 2,
                                  const_cast<float*>(step.write.k)};
    machine_.Launch<HeadNormRope>(queries);
    machine_.Launch<HeadNormRope>(keys);
    step.merge.out = b.mixed;
    RunAttention(machine_, step);
    machine_.Launch<SigmoidGate>(
        {b.in[0] + kHeadDim, 2 * kHeads * kHeadDim, 2 * kHeadDim, rows, kHeads, kHeadDim, b.mixed});
  }
  void Mix(Buffers& b, const Layer& layer, DeltaStep& step, int rows) {
    Linear(layer.in[0], b.x, rows, const_cast<float*>(step.qkv));
    Linear(layer.in[1], b.x, rows, b.in[1]);
    Linear(layer.in[2], b.x, rows, const_cast<float*>(step.b));
    Linear(layer.in[3], b.x, rows, const_cast<float*>(step.a));
    RunDelta(machine_, step);
    machine_.Launch<GatedNorm>(
        {step.out, b.in[1], int64_t{rows} * kDelta.value_heads, kDelta.value_dim, norm_, 1e-6f, b.mixed});
  }

  void FeedForward(Buffers& b, const Layer& layer, const Task* tasks, int rows) {
    Linear(layer.router, b.x, rows, b.logits);
    machine_.Launch<Route>({b.logits, rows, kExperts, kTopK, 1, b.ids, b.weights});
    ExpertStep step = b.experts;
    step.tasks = tasks;
    machine_.Launch<GatherTasks>(
        {b.ids, b.weights, layer.experts_on_device, rows, kTopK, kExperts, kColumns, const_cast<Task*>(tasks),
         step.task_count, 0, const_cast<int32_t*>(step.route_rows), const_cast<float*>(step.route_weights)});
    machine_.Launch<QuantiseRows>({b.x, rows, kHidden, 32639.0f, step.x.codes, nullptr, nullptr});
    machine_.Clear(step.sums, rows * kHidden * 8);
    LaunchFor<ExpertMiddle>(machine_, Kind::kInt4, step, 2, std::min(rows, 4));
    LaunchFor<ExpertDown>(machine_, Kind::kInt4, step, 2, std::min(rows, 4));
    Linear(layer.shared[0], b.x, rows, b.gate);
    Linear(layer.shared[1], b.x, rows, b.up);
    machine_.Launch<SiluMul>({b.gate, b.up, rows * kColumns, b.gate});
    Linear(layer.shared[2], b.gate, rows, b.shared);
    Linear(layer.shared_gate_weight, b.x, rows, b.shared_gate);
    machine_.Launch<Combine>({step.sums, b.shared, b.shared_gate, rows, kHidden, b.h});
  }

  GpuMachine& machine_;
  Device device_;
  std::vector<Layer> layers_;
  Matrix head_;
  float* norm_ = nullptr;
  double dense_bytes_ = 0;
  int64_t expert_bytes_ = 0;
};

int Main(int argc, char** argv) {
  int layers = kLayers;
  if (argc == 3 && std::strcmp(argv[1], "--layers") == 0) layers = std::atoi(argv[2]);
  if ((argc != 1 && argc != 3) || layers < 1 || layers > kLayers) {
    std::fprintf(stderr, "usage: gpu_bench [--layers 1..48]\n");
    return 2;
  }
  GpuMachine* machine = GpuMachine::Find();
  const Facts facts = Inspect();
  if (machine == nullptr) {
    std::fprintf(
        stderr, "gpu_bench: %s\n",
        facts.problem.empty() ? "no GPU here is one that kernels were built for" : facts.problem.c_str());
    return 9;
  }
  bandwidth = MeasureCopyBandwidth(*machine);
  const DeviceFacts& device = facts.devices[static_cast<size_t>(machine->device())];
  std::printf("%s, compute capability %d.%d, copies at %.0f GB/s\n\n", device.name.c_str(), device.major,
              device.minor, bandwidth / 1e9);
  std::printf("| kernel | rows | us | GB/s | of copies | goal |\n|---|---|---|---|---|---|\n");
  Small(*machine);
  ExpertLayer(*machine);
  Linears(*machine, "INT8 head 248320 x 3072", WeightFormat::kInt8, kVocab, {1, 4, 8}, "85 %");
  Linears(*machine, "FP8 linear 12288 x 3072", WeightFormat::kFp8Block128, 12288, {1, 4, 8}, "");
  Linears(*machine, "BF16 linear 3072 x 3072", WeightFormat::kBF16, 3072, {1, 8}, "");
  Mixers(*machine);
  Step step(*machine, layers);
  step.Measure(1, false, layers == kLayers ? "45 %" : "");
  step.Measure(4, false, "");
  step.Measure(8, false, layers == kLayers ? "60 %" : "");
  step.Measure(32, false, layers == kLayers ? "65 %" : "");
  for (const int rows : {2, 4, 8}) step.Measure(rows, true, "");
  std::printf(
      "\nmedian of 7 to 9 replays of a graph; GB/s of the bytes a step must read once; weights random\n");
  return 0;
}

}  // namespace
}  // namespace paceline::kernels::cuda

int main(int argc, char** argv) { return paceline::kernels::cuda::Main(argc, argv); }
