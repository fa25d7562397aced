// The table's functions over a machine: copy in, launch, copy out. This is the first stage of the backend:
// weights live on the device, everything else crosses for each call, so that every path of the product has
// the right bits; the kernels and their arguments are those that a step of device memory alone launches
// (docs/ARCHITECTURE.md, The cuda backend). M is a Machine with
//   static M& Instance()
//   template <class K> void Launch(const typename K::Args&)
// Included by one .cc file per machine.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/choose.h"
#include "kernels/cuda/codes.h"
#include "kernels/cuda/delta_net.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/vocabulary.h"
#include "kernels/kernels.h"

namespace paceline::kernels::cuda {

template <class M>
class Backend {
 public:
  static KernelTable Table(std::string_view name) {
    return {.name = name,
            .pack_linear = PackLinear,
            .pack_expert = PackExpert,
            .start_linear = StartLinear,
            .quantise = Quantise,
            .linear = LinearForward,
            .experts = Experts,
            .rms_norm = RmsNormRows,
            .add = AddRows,
            .add_bias = AddBias,
            .silu_mul = SiluMulRows,
            .head_norm_rope = HeadNormRopeRows,
            .write_kv = WriteKvRows,
            .attention = Attention,
            .sigmoid_gate = SigmoidGateRows,
            .gated_delta_net = GatedDeltaNet,
            .gated_norm = GatedNormRows,
            .route = RouteRows,
            .combine = CombineRows,
            .log_sum_exp = LogSumExp,
            .arg_max = ArgMax};
  }

 private:
  // One call: the machine's lock and its scratch memory.
  class Call {
   public:
    Call() : lock_(M::Instance().lock()) {}
    ~Call() { Memory().Reset(); }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    template <class T>
    T* Take(int64_t count) {
      return Memory().template Take<T>(count);
    }
    template <class T>
    T* Zeros(int64_t count) {
      return Memory().template Zeros<T>(count);
    }
    template <class T>
    T* Put(const T* from, int64_t count) {
      return Memory().Put(from, count);
    }
    template <class T>
    T* Put(const std::vector<T>& from) {
      return Put(from.data(), static_cast<int64_t>(from.size()));
    }
    template <class T>
    void Get(T* to, const T* from, int64_t count) {
      M::Instance().CopyOut(to, from, count * static_cast<int64_t>(sizeof(T)));
    }
    template <class K>
    void Launch(const typename K::Args& args) {
      M::Instance().template Launch<K>(args);
    }

   private:
    static Scratch& Memory() {
      // Never destroyed: the driver may be gone when statics are.
      static Scratch* const scratch = new Scratch(M::Instance());
      return *scratch;
    }
    std::lock_guard<std::mutex> lock_;
  };

  static absl::StatusOr<std::unique_ptr<Linear>> PackLinear(PlainLinear plain) {
    return cuda::PackLinear(M::Instance(), std::move(plain));
  }
  static absl::StatusOr<std::unique_ptr<Expert>> PackExpert(PlainExpert plain) {
    return cuda::PackExpert(M::Instance(), std::move(plain));
  }
  static absl::StatusOr<std::unique_ptr<LinearPacker>> StartLinear(const PlainLinear& form) {
    return cuda::StartLinear(M::Instance(), form);
  }

  // ---------------------------------------------------------------- linears

  static Codes TakeCodes(Call& call, int64_t rows, int64_t width, ActivationContract contract) {
    Codes codes;
    codes.planes = contract == ActivationContract::kInt16 ? 2 : 1;
    codes.chunks = ChunksOf(width);
    codes.bytes = call.template Take<uint8_t>(rows * codes.chunks * codes.planes * kChunk);
    codes.sums = call.template Take<int32_t>(rows * codes.chunks);
    codes.scales = call.template Take<float>(rows * (codes.chunks / 4));
    return codes;
  }

  // The rows as a kernel reads them: codes that came, or new ones.
  static Inputs PutInputs(Call& call, const Activations& x, bool values, bool codes,
                          ActivationContract contract) {
    Inputs in{.stride = x.width, .width = x.width};
    const int64_t count = x.rows * x.width;
    if (values || (codes && x.codes == nullptr)) in.values = call.Put(x.values, count);
    if (!codes) return in;
    in.codes = TakeCodes(call, x.rows, x.width, contract);
    if (x.codes == nullptr) {
      call.template Launch<QuantiseRows>(
          {in.values, x.rows, x.width, TopCode(contract), in.codes, nullptr, nullptr});
      return in;
    }
    in.codes.scales = call.Put(x.scales, x.rows * ActivationGroups(x.width));
    call.template Launch<SplitCodes>({call.Put(x.codes, count), x.rows, x.width, in.codes});
    return in;
  }

  static void Quantise(ThreadPool&, const float* x, int32_t rows, int64_t width, ActivationContract contract,
                       int16_t* codes, float* scales) {
    Call call;
    const int64_t groups = ActivationGroups(width);
    int16_t* to = call.template Take<int16_t>(rows * width);
    float* to_scales = call.template Take<float>(rows * groups);
    call.template Launch<QuantiseRows>(
        {call.Put(x, rows * width), rows, width, TopCode(contract), Codes{}, to, to_scales});
    call.Get(codes, to, rows * width);
    call.Get(scales, to_scales, rows * groups);
  }

  static void LinearForward(ThreadPool&, const Linear& linear, const Activations& x, float* y,
                            int64_t stride) {
    const Matrix& m = static_cast<const DeviceLinear&>(linear).matrix.view;
    CHECK_EQ(m.inputs, x.width);
    if (x.rows == 0) return;
    Call call;
    const Inputs in = PutInputs(call, x, !m.integer(), m.integer(), x.contract);
    float* out = call.template Take<float>(x.rows * m.outputs);
    LaunchFor<LinearTile>(call, KindOf(m), LinearStep{m, in, x.rows, out, m.outputs}, in.codes.planes,
                          x.rows);
    if (stride == m.outputs) return call.Get(y, out, x.rows * m.outputs);
    for (int64_t row = 0; row < x.rows; ++row) call.Get(y + row * stride, out + row * m.outputs, m.outputs);
  }

  // ---------------------------------------------------------------- experts

  static void Experts(ThreadPool&, Workspace&, const Activations& x, std::span<const ExpertTask> tasks,
                      ActivationContract contract, int64_t* sums, uint8_t* row_errors) {
    std::vector<Task> views;
    std::vector<int32_t> rows;
    std::vector<float> weights;
    ExpertStep step{.top = TopCode(contract), .hidden = x.width};
    bool integer_inputs = false, float_inputs = false, integer_middle = false;
    int64_t most_routes = 0;
    Kind kind = Kind::kAny;
    for (const ExpertTask& task : tasks) {
      const DeviceExpert& expert = static_cast<const DeviceExpert&>(*task.expert);
      CHECK_EQ(expert.hidden, x.width);
      CHECK_GE(task.first_group, expert.first_group);
      CHECK_LE(task.first_group + task.groups, expert.first_group + expert.groups);
      CHECK_EQ(task.rows.size(), task.weights.size());
      if (task.rows.empty() || task.groups == 0) continue;
      Task view;
      view.expert = expert.matrices.template as<ExpertMatrices>();
      view.first_column = int64_t{task.first_group - expert.first_group} * kActivationGroup;
      view.columns = std::min(task.groups * kActivationGroup, expert.columns - view.first_column);
      view.first_route = static_cast<int64_t>(rows.size());
      view.routes = static_cast<int64_t>(task.rows.size());
      rows.insert(rows.end(), task.rows.begin(), task.rows.end());
      weights.insert(weights.end(), task.weights.begin(), task.weights.end());
      for (const DeviceMatrix* m : {&expert.gate, &expert.up}) {
        integer_inputs = integer_inputs || m->view.integer();
        float_inputs = float_inputs || !m->view.integer();
      }
      integer_middle = integer_middle || expert.down.view.integer();
      const Kind own = KindOf(expert.gate.view);
      const bool same = own == KindOf(expert.up.view) && own == KindOf(expert.down.view);
      if (views.empty()) kind = own;
      if (!same || own != kind) kind = Kind::kAny;
      most_routes = std::max(most_routes, view.routes);
      step.most_columns = std::max(step.most_columns, view.columns);
      views.push_back(view);
    }
    if (views.empty()) return;
    Call call;
    const int64_t routes = static_cast<int64_t>(rows.size());
    step.tasks = call.Put(views);
    step.task_count = static_cast<int32_t>(views.size());
    step.route_rows = call.Put(rows);
    step.route_weights = call.Put(weights);
    step.x = PutInputs(call, x, float_inputs, integer_inputs, contract);
    step.middle_stride = ActivationGroups(step.most_columns) * kActivationGroup;
    step.middle = call.template Take<float>(routes * step.middle_stride);
    step.middle_codes.planes = contract == ActivationContract::kInt16 ? 2 : 1;
    if (integer_middle) step.middle_codes = TakeCodes(call, routes, step.middle_stride, contract);
    step.ready = call.template Zeros<int32_t>(step.task_count * (step.middle_stride / kActivationGroup));
    step.sums = call.Put(sums, x.rows * x.width);
    step.row_errors = call.Put(row_errors, x.rows);
    LaunchFor<ExpertMiddle>(call, kind, step, step.middle_codes.planes, most_routes);
    LaunchFor<ExpertDown>(call, kind, step, step.middle_codes.planes, most_routes);
    call.Get(sums, step.sums, x.rows * x.width);
    call.Get(row_errors, step.row_errors, x.rows);
  }

  // ---------------------------------------------------------------- rows

  static void RmsNormRows(ThreadPool&, const float* x, int32_t rows, int64_t width, const float* w,
                          float plus, float eps, float* y) {
    Call call;
    float* out = call.Put(x, rows * width);
    call.template Launch<RmsNorm>({out, rows, width, call.Put(w, width), plus, eps, out});
    call.Get(y, out, rows * width);
  }
  static void AddRows(ThreadPool&, float* h, const float* y, int64_t count) {
    Call call;
    float* out = call.Put(h, count);
    call.template Launch<Add>({out, call.Put(y, count), count, count});
    call.Get(h, out, count);
  }
  static void AddBias(ThreadPool&, float* x, int32_t rows, int64_t width, const float* bias) {
    Call call;
    float* out = call.Put(x, rows * width);
    call.template Launch<Add>({out, call.Put(bias, width), rows * width, width});
    call.Get(x, out, rows * width);
  }
  static void SiluMulRows(ThreadPool&, const float* gate, const float* up, int64_t count, float* out) {
    Call call;
    float* to = call.template Take<float>(count);
    call.template Launch<SiluMul>({call.Put(gate, count), call.Put(up, count), count, to});
    call.Get(out, to, count);
  }
  // Heads that lie apart, as [rows, heads, head_dim].
  static float* PutHeads(Call& call, const float* x, int64_t row_stride, int64_t head_stride, int64_t rows,
                         int64_t heads, int64_t dim) {
    std::vector<float> gathered(static_cast<size_t>(rows * heads * dim));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < heads; ++j)
        std::copy_n(x + r * row_stride + j * head_stride, dim, gathered.data() + (r * heads + j) * dim);
    }
    return call.Put(gathered);
  }
  static void HeadNormRopeRows(ThreadPool&, const float* x, int64_t row_stride, int64_t head_stride,
                               int32_t rows, int32_t heads, int32_t head_dim, const float* w, float plus,
                               float eps, const float* cos, const float* sin, int32_t half, float* out) {
    Call call;
    const int64_t count = int64_t{rows} * heads * head_dim;
    float* to = call.template Take<float>(count);
    HeadNormRope::Args a{};
    a.x = PutHeads(call, x, row_stride, head_stride, rows, heads, head_dim);
    a.row_stride = int64_t{heads} * head_dim;
    a.head_stride = head_dim;
    a.rows = rows;
    a.heads = heads;
    a.head_dim = head_dim;
    a.w = call.Put(w, head_dim);
    a.plus = plus;
    a.eps = eps;
    a.cos = call.Put(cos, int64_t{rows} * half);
    a.sin = call.Put(sin, int64_t{rows} * half);
    a.half = half;
    a.out = to;
    call.template Launch<HeadNormRope>(a);
    call.Get(out, to, count);
  }
  static void SigmoidGateRows(ThreadPool&, const float* gate, int64_t row_stride, int64_t head_stride,
                              int32_t rows, int32_t heads, int32_t head_dim, float* out) {
    Call call;
    const int64_t count = int64_t{rows} * heads * head_dim;
    float* to = call.Put(out, count);
    call.template Launch<SigmoidGate>({PutHeads(call, gate, row_stride, head_stride, rows, heads, head_dim),
                                       int64_t{heads} * head_dim, head_dim, rows, heads, head_dim, to});
    call.Get(out, to, count);
  }
  static void GatedNormRows(ThreadPool&, const float* x, const float* z, int32_t rows, int32_t heads,
                            int32_t dim, const float* w, float eps, float* out) {
    Call call;
    const int64_t count = int64_t{rows} * heads * dim;
    float* to = call.template Take<float>(count);
    call.template Launch<GatedNorm>(
        {call.Put(x, count), call.Put(z, count), int64_t{rows} * heads, dim, call.Put(w, dim), eps, to});
    call.Get(out, to, count);
  }
  static void CombineRows(ThreadPool&, const int64_t* sums, const float* shared, const float* gate,
                          int32_t rows, int64_t hidden, float* h) {
    Call call;
    const int64_t count = rows * hidden;
    float* to = call.Put(h, count);
    call.template Launch<Combine>({call.Put(sums, count),
                                   shared == nullptr ? nullptr : call.Put(shared, count),
                                   gate == nullptr ? nullptr : call.Put(gate, rows), rows, hidden, to});
    call.Get(h, to, count);
  }

  // ---------------------------------------------------------------- attention

  // The rows of the runs, one run behind the other, and the pages they touch.
  struct Places {
    std::vector<RowPlace> rows;
    std::vector<std::pair<const RowRun*, int64_t>> runs;  // and its first row among these
    std::map<int32_t, int32_t> slots;                     // of pages on the device
    const RowPlace* device = nullptr;
    Pages kv;
    int64_t page_bytes = 0;
  };
  // `read`: pages from position 0 on; else those of the runs' own positions.
  static Places PutPlaces(Call& call, const AttentionShape& shape, const KvPages& kv,
                          std::span<const RowRun> runs, bool read) {
    CHECK(kv.dtype == KvDtype::kBF16 || kv.dtype == KvDtype::kF32);
    Places places;
    places.page_bytes = int64_t{shape.kv_heads} * kAttentionBlock * shape.head_dim * KvDtypeBytes(kv.dtype);
    for (const RowRun& run : runs) {
      if (run.rows == 0) continue;
      const int64_t last = (run.first_position + run.rows - 1) / kAttentionBlock;
      const int64_t first = read ? 0 : run.first_position / kAttentionBlock;
      std::vector<int32_t> pages(static_cast<size_t>(last + 1), -1);  // slots
      for (int64_t p = first; p <= last; ++p) {
        const int32_t next = static_cast<int32_t>(places.slots.size());
        pages[static_cast<size_t>(p)] = places.slots.try_emplace(run.pages[p], next).first->second;
      }
      const int32_t* device_pages = call.Put(pages);
      places.runs.emplace_back(&run, static_cast<int64_t>(places.rows.size()));
      for (int32_t i = 0; i < run.rows; ++i) places.rows.push_back({run.first_position + i, device_pages});
    }
    const int64_t bytes = static_cast<int64_t>(places.slots.size()) * places.page_bytes;
    places.kv = {kv.dtype == KvDtype::kBF16 ? 1 : 0, call.template Take<uint8_t>(bytes),
                 call.template Take<uint8_t>(bytes)};
    EachPage(places, kv,
             [&](uint8_t* device, uint8_t* host) { M::Instance().CopyIn(device, host, places.page_bytes); });
    places.device = call.Put(places.rows);
    return places;
  }
  template <class Copy>
  static void EachPage(const Places& places, const KvPages& kv, const Copy& copy) {
    for (const auto& [page, slot] : places.slots) {
      for (const auto& [device, host] : {std::pair(places.kv.k, kv.k), std::pair(places.kv.v, kv.v)})
        copy(static_cast<uint8_t*>(device) + slot * places.page_bytes,
             static_cast<uint8_t*>(host) + page * places.page_bytes);
    }
  }
  // Rows of [rows, width] of the runs alone.
  static float* PutRuns(Call& call, const Places& places, const float* from, int64_t width) {
    std::vector<float> rows(places.rows.size() * static_cast<size_t>(width));
    for (const auto& [run, first] : places.runs)
      std::copy_n(from + run->first_row * width, run->rows * width, rows.data() + first * width);
    return call.Put(rows);
  }

  static void WriteKvRows(ThreadPool&, const AttentionShape& shape, const KvPages& kv,
                          std::span<const RowRun> runs, const float* k, const float* v) {
    Call call;
    const Places places = PutPlaces(call, shape, kv, runs, /*read=*/false);
    if (places.rows.empty()) return;
    const int64_t width = int64_t{shape.kv_heads} * shape.head_dim;
    call.template Launch<WriteKv>({places.kv, places.device, PutRuns(call, places, k, width),
                                   PutRuns(call, places, v, width), static_cast<int64_t>(places.rows.size()),
                                   shape.kv_heads, shape.head_dim});
    EachPage(places, kv,
             [&](uint8_t* device, uint8_t* host) { M::Instance().CopyOut(host, device, places.page_bytes); });
  }

  static void Attention(ThreadPool&, Workspace&, const AttentionShape& shape, const KvPages& kv,
                        std::span<const RowRun> runs, const float* q, float* out) {
    Call call;
    const Places places = PutPlaces(call, shape, kv, runs, /*read=*/true);
    if (places.rows.empty()) return;
    const int64_t rows = static_cast<int64_t>(places.rows.size());
    const int64_t width = int64_t{shape.heads} * shape.head_dim;
    int64_t blocks = 0;
    for (const RowPlace& place : places.rows) blocks = std::max(blocks, place.position / kAttentionBlock + 1);
    AttentionBlocks::Args a{};
    a.kv = places.kv;
    a.places = places.device;
    a.q = PutRuns(call, places, q, width);
    a.rows = rows;
    a.heads = shape.heads;
    a.kv_heads = shape.kv_heads;
    a.head_dim = shape.head_dim;
    a.blocks = blocks;
    a.m = call.template Take<float>(rows * shape.heads * blocks);
    a.l = call.template Take<float>(rows * shape.heads * blocks);
    a.o = call.template Take<float>(rows * blocks * width);
    float* to = call.template Take<float>(rows * width);
    call.template Launch<AttentionBlocks>(a);
    call.template Launch<AttentionMerge>(
        {places.device, a.m, a.l, a.o, rows, blocks, shape.heads, shape.head_dim, to});
    for (const auto& [run, first] : places.runs)
      call.Get(out + run->first_row * width, to + first * width, run->rows * width);
  }

  // ---------------------------------------------------------------- Gated DeltaNet

  static void GatedDeltaNet(ThreadPool&, Workspace&, const GdnShape& shape, const GdnWeights& weights,
                            const float* qkv, const float* b, const float* a, std::span<const RowRun> runs,
                            std::span<const GdnState> states, float* out) {
    CHECK_EQ(runs.size(), states.size());
    CHECK_LE(shape.conv_taps, kGdnMaxTaps);
    Call call;
    const int64_t channels = shape.channels(), heads = shape.value_heads;
    DeltaStep step{};
    step.shape = {shape.key_heads, shape.value_heads, shape.key_dim, shape.value_dim, shape.conv_taps};
    // Parts of a block: state, k, u, c.
    const int64_t sizes[4] = {heads * shape.key_dim * shape.value_dim, kGdnBlock * step.shape.keys(),
                              kGdnBlock * heads * shape.value_dim, kGdnBlock * heads};
    const auto put = [&](const GdnBlock& block) {
      return DeltaBlock{call.Put(block.state, sizes[0]), call.Put(block.k, sizes[1]),
                        call.Put(block.u, sizes[2]), call.Put(block.c, sizes[3])};
    };
    std::vector<DeltaRun> views;
    std::vector<const RowRun*> of;
    std::vector<const GdnState*> state_of;
    std::vector<int32_t> run_of;
    std::vector<float> own_qkv, own_b, own_a;  // [rows of the runs, ..]
    for (size_t i = 0; i < runs.size(); ++i) {
      const RowRun& run = runs[i];
      if (run.rows == 0) continue;
      DeltaRun view{};
      view.first_position = run.first_position;
      view.first_row = static_cast<int32_t>(run_of.size());
      view.rows = run.rows;
      view.block = put(states[i].block);
      view.next = view.block;
      if (states[i].next.state != states[i].block.state && run.rows >= view.border())
        view.next = put(states[i].next);
      view.window = call.Put(states[i].window, kGdnWindow * channels);
      run_of.insert(run_of.end(), static_cast<size_t>(run.rows), static_cast<int32_t>(views.size()));
      const auto append = [&](std::vector<float>& to, const float* from, int64_t width) {
        to.insert(to.end(), from + run.first_row * width, from + (run.first_row + run.rows) * width);
      };
      append(own_qkv, qkv, channels);
      append(own_b, b, heads);
      append(own_a, a, heads);
      views.push_back(view);
      of.push_back(&run);
      state_of.push_back(&states[i]);
    }
    if (views.empty()) return;
    step.rows = static_cast<int64_t>(run_of.size());
    step.run_count = static_cast<int32_t>(views.size());
    step.conv = call.Put(weights.conv, channels * shape.conv_taps);
    step.decay = call.Put(weights.decay, heads);
    step.dt_bias = call.Put(weights.dt_bias, heads);
    step.qkv = call.Put(own_qkv);
    step.b = call.Put(own_b);
    step.a = call.Put(own_a);
    step.runs = call.Put(views);
    step.run_of = call.Put(run_of);
    step.mixed = call.template Take<float>(step.rows * channels);
    step.beta = call.template Take<float>(step.rows * heads);
    step.c = call.template Take<float>(step.rows * heads);
    step.dots = call.template Take<float>(step.rows * shape.key_heads * 2 * kGdnBlock);
    step.out = call.template Take<float>(step.rows * heads * shape.value_dim);
    call.template Launch<DeltaConvolve>(step);
    call.template Launch<DeltaNormalise>(step);
    call.template Launch<DeltaGates>(step);
    call.template Launch<DeltaDots>(step);
    call.template Launch<DeltaSolve>(step);
    call.template Launch<DeltaStore>(step);
    for (size_t i = 0; i < views.size(); ++i) {
      const auto get = [&](const GdnBlock& to, const DeltaBlock& from, bool state) {
        if (state) call.Get(to.state, from.state, sizes[0]);
        call.Get(to.k, from.k, sizes[1]);
        call.Get(to.u, from.u, sizes[2]);
        call.Get(to.c, from.c, sizes[3]);
      };
      const GdnState& state = *state_of[i];
      const bool crossed = of[i]->rows >= views[i].border();
      const bool apart = views[i].next.state != views[i].block.state;
      get(state.block, views[i].block, crossed && !apart);
      if (apart) get(state.next, views[i].next, true);
      call.Get(state.window, views[i].window, kGdnWindow * channels);
      const int64_t width = heads * shape.value_dim;
      call.Get(out + of[i]->first_row * width, step.out + views[i].first_row * width, of[i]->rows * width);
    }
  }

  // ---------------------------------------------------------------- vocabulary

  static void RouteRows(ThreadPool&, const float* logits, int32_t rows, int32_t experts, int32_t top_k,
                        bool renormalise, int32_t* ids, float* weights) {
    CHECK_LE(top_k, experts);
    Call call;
    const int64_t count = int64_t{rows} * top_k;
    int32_t* to = call.template Take<int32_t>(count);
    float* to_weights = call.template Take<float>(count);
    call.template Launch<Route>({call.Put(logits, int64_t{rows} * experts), rows, experts, top_k,
                                 renormalise ? 1 : 0, to, to_weights});
    call.Get(ids, to, count);
    call.Get(weights, to_weights, count);
  }
  static float LogSumExp(ThreadPool&, const float* logits, int64_t count) {
    Call call;
    const int64_t blocks = Parts(count, kVocabBlock);
    float *m = call.template Take<float>(blocks), *s = call.template Take<float>(blocks);
    float *result = call.template Take<float>(1), value = 0;
    call.template Launch<LogSumExpBlocks>({call.Put(logits, count), count, m, s});
    call.template Launch<LogSumExpMerge>({m, s, blocks, result});
    call.Get(&value, result, 1);
    return value;
  }
  static int64_t ArgMax(ThreadPool&, const float* logits, int64_t count) {
    Call call;
    const int64_t stretches = Parts(count, ArgMaxBlocks::kStretch);
    Candidate* best = call.template Take<Candidate>(stretches);
    int64_t *result = call.template Take<int64_t>(1), value = 0;
    call.template Launch<ArgMaxBlocks>({call.Put(logits, count), count, best});
    call.template Launch<ArgMaxMerge>({best, stretches, result});
    call.Get(&value, result, 1);
    return value;
  }
};

}  // namespace paceline::kernels::cuda
