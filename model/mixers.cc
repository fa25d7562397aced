// Token mixers: projections around the kernels.
#include "model/mixers.h"

namespace paceline {

namespace {

// Keys and values of every position that each run attends to, read once.
int64_t KvBytes(const Batch& batch, const ModelConfig& config, const KvLayer& kv) {
  int64_t positions = 0;
  for (const kernels::RowRun& run : batch.runs) positions += run.first_position + run.rows;
  return 2 * positions * config.kv_heads * kernels::KvVectorBytes(kv.view().dtype, config.head_dim);
}

// What every run reads of its past: the state at the last border, once, and once more and back where a border
// is crossed; the rows since that border; the inputs of the convolution. And the layer's own vectors.
int64_t DeltaNetBytes(const Batch& batch, const kernels::GdnShape& shape) {
  const int64_t values = int64_t{shape.value_heads} * shape.value_dim;
  const int64_t state = values * shape.key_dim;                                               // elements
  const int64_t row = int64_t{shape.key_heads} * shape.key_dim + values + shape.value_heads;  // k, u, c
  int64_t elements = shape.channels() * shape.conv_taps + 2 * shape.value_heads + shape.value_dim;
  for (const kernels::RowRun& run : batch.runs) {
    const int64_t borders =
        (run.first_position + run.rows) / kernels::kGdnBlock - run.first_position / kernels::kGdnBlock;
    elements += state * (1 + 2 * borders) + run.first_position % kernels::kGdnBlock * row +
                (shape.conv_taps - 1) * shape.channels();
  }
  return elements * static_cast<int64_t>(sizeof(float));
}

// in: x as codes or values, whatever the projections want.
void StoreFrom(const StepContext& context, const AttentionWeights& weights, const ModelConfig& config,
               const KvLayer& kv, const kernels::Activations& in) {
  const kernels::Workspace::Scope scope(context.workspace);
  const kernels::KernelTable& table = context.table;
  ThreadPool& pool = context.pool;
  const Batch& batch = context.batch;
  const int32_t rows = batch.rows;
  const int32_t dim = config.head_dim;
  const float plus = config.norm_plus_one ? 1.0f : 0.0f;
  const int64_t kv_width = int64_t{config.kv_heads} * dim;

  StageLap lap(context.meter);
  float* k_raw = context.workspace.Take<float>(rows * kv_width);  // [rows, kv_heads, head_dim]
  float* v = context.workspace.Take<float>(rows * kv_width);      // [rows, kv_heads, head_dim]
  float* k = context.workspace.Take<float>(rows * kv_width);      // [rows, kv_heads, head_dim]
  table.linear(pool, *weights.k, in, k_raw, kv_width);
  table.linear(pool, *weights.v, in, v, kv_width);
  if (!weights.k_bias.empty()) {
    table.add_bias(pool, k_raw, rows, kv_width, weights.k_bias.data());
    table.add_bias(pool, v, rows, kv_width, weights.v_bias.data());
  }
  lap.Lap(Stage::kAttentionProjections, weights.k->bytes + weights.v->bytes);
  table.head_norm_rope(pool, k_raw, kv_width, dim, rows, config.kv_heads, dim, weights.k_norm.data(), plus,
                       config.norm_eps, batch.cos.data(), batch.sin.data(), batch.rotary_half, k);
  table.write_kv(pool, AttentionShapeOf(config), kv.view(), batch.runs, k, v);
  lap.Lap(Stage::kAttention, 0);
}

void AttendFrom(const StepContext& context, const AttentionWeights& weights, const ModelConfig& config,
                const KvLayer& kv, const kernels::Activations& in, float* out) {
  const kernels::Workspace::Scope scope(context.workspace);
  const kernels::KernelTable& table = context.table;
  ThreadPool& pool = context.pool;
  const Batch& batch = context.batch;
  const int32_t rows = batch.rows;
  const int32_t dim = config.head_dim;
  const float plus = config.norm_plus_one ? 1.0f : 0.0f;
  const int64_t query_width = weights.q->outputs;  // heads * dim, twice that with gates
  const int64_t head_stride = query_width / config.heads;
  const int64_t width = int64_t{config.heads} * dim;

  StageLap lap(context.meter);
  float* projected =
      context.workspace.Take<float>(rows * query_width);   // [rows, heads, query (and gate), head_dim]
  float* q = context.workspace.Take<float>(rows * width);  // [rows, heads, head_dim]
  float* o = context.workspace.Take<float>(rows * width);  // [rows, heads, head_dim]
  table.linear(pool, *weights.q, in, projected, query_width);
  if (!weights.q_bias.empty()) table.add_bias(pool, projected, rows, query_width, weights.q_bias.data());
  lap.Lap(Stage::kAttentionProjections, weights.q->bytes);
  table.head_norm_rope(pool, projected, query_width, head_stride, rows, config.heads, dim,
                       weights.q_norm.data(), plus, config.norm_eps, batch.cos.data(), batch.sin.data(),
                       batch.rotary_half, q);
  table.attention(pool, context.workspace, AttentionShapeOf(config), kv.view(), batch.runs, q, o);
  if (weights.gated)
    table.sigmoid_gate(pool, projected + dim, query_width, head_stride, rows, config.heads, dim, o);
  lap.Lap(Stage::kAttention, KvBytes(batch, config, kv));
  const kernels::Activations mixed = Activate(context, o, rows, width, {weights.o.get()});
  table.linear(pool, *weights.o, mixed, out, config.hidden);
  if (!weights.o_bias.empty()) table.add_bias(pool, out, rows, config.hidden, weights.o_bias.data());
  lap.Lap(Stage::kAttentionProjections, weights.o->bytes);
}

}  // namespace

void StoreKeysValues(const StepContext& context, const AttentionWeights& weights, const ModelConfig& config,
                     const KvLayer& kv, const float* x) {
  const kernels::Workspace::Scope scope(context.workspace);
  StoreFrom(context, weights, config, kv,
            Activate(context, x, context.batch.rows, config.hidden, {weights.k.get(), weights.v.get()}));
}

void AttendStored(const StepContext& context, const AttentionWeights& weights, const ModelConfig& config,
                  const KvLayer& kv, const float* x, float* out) {
  const kernels::Workspace::Scope scope(context.workspace);
  AttendFrom(context, weights, config, kv,
             Activate(context, x, context.batch.rows, config.hidden, {weights.q.get()}), out);
}

void RunAttention(const StepContext& context, const AttentionWeights& weights, const ModelConfig& config,
                  const KvLayer& kv, const float* x, float* out) {
  const kernels::Workspace::Scope scope(context.workspace);
  StageLap lap(context.meter);
  const kernels::Activations in = Activate(context, x, context.batch.rows, config.hidden,
                                           {weights.q.get(), weights.k.get(), weights.v.get()});
  lap.Lap(Stage::kAttentionProjections, 0);
  StoreFrom(context, weights, config, kv, in);
  AttendFrom(context, weights, config, kv, in, out);
}

void RunDeltaNet(const StepContext& context, const DeltaNetWeights& weights, const ModelConfig& config,
                 const GdnLayer& states, const float* x, float* out) {
  const kernels::Workspace::Scope scope(context.workspace);
  const kernels::KernelTable& table = context.table;
  ThreadPool& pool = context.pool;
  const Batch& batch = context.batch;
  const int32_t rows = batch.rows;
  const kernels::GdnShape shape = GdnShapeOf(config);
  const int64_t width = int64_t{shape.value_heads} * shape.value_dim;

  StageLap lap(context.meter);
  float* qkv = context.workspace.Take<float>(rows * shape.channels());  // [rows, channels]
  float* z = context.workspace.Take<float>(rows * width);               // [rows, value_heads, value_dim]
  float* b = context.workspace.Take<float>(int64_t{rows} * shape.value_heads);  // [rows, value_heads]
  float* a = context.workspace.Take<float>(int64_t{rows} * shape.value_heads);  // [rows, value_heads]
  const kernels::Activations in =
      Activate(context, x, rows, config.hidden,
               {weights.qkv.get(), weights.z.get(), weights.b.get(), weights.a.get()});
  table.linear(pool, *weights.qkv, in, qkv, shape.channels());
  table.linear(pool, *weights.z, in, z, width);
  table.linear(pool, *weights.b, in, b, shape.value_heads);
  table.linear(pool, *weights.a, in, a, shape.value_heads);
  lap.Lap(Stage::kDeltaNetProjections,
          weights.qkv->bytes + weights.z->bytes + weights.b->bytes + weights.a->bytes);

  auto* slots = context.workspace.Take<kernels::GdnState>(static_cast<int64_t>(batch.runs.size()));
  for (size_t i = 0; i < batch.runs.size(); ++i) new (&slots[i]) kernels::GdnState(states.at(batch.slots[i]));
  float* o = context.workspace.Take<float>(rows * width);  // [rows, value_heads, value_dim]
  const kernels::GdnWeights gdn{weights.conv.data(), weights.decay.data(), weights.dt_bias.data()};
  table.gated_delta_net(pool, context.workspace, shape, gdn, qkv, b, a, batch.runs,
                        {slots, batch.runs.size()}, o);
  table.gated_norm(pool, o, z, rows, shape.value_heads, shape.value_dim, weights.norm.data(), config.norm_eps,
                   o);
  lap.Lap(Stage::kDeltaNet, DeltaNetBytes(batch, shape));
  const kernels::Activations mixed = Activate(context, o, rows, width, {weights.out.get()});
  table.linear(pool, *weights.out, mixed, out, config.hidden);
  lap.Lap(Stage::kDeltaNetProjections, weights.out->bytes);
}

}  // namespace paceline
