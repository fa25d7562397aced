// Loading of a layer's head-side weights.
#include "model/layer_weights.h"

#include "base/status.h"
#include "kernels/scalar_math.h"

namespace paceline {

absl::StatusOr<LinearPtr> LoadLinear(const Checkpoint& checkpoint, const std::string& name,
                                     const kernels::KernelTable& table, const LinearRule& rule) {
  ASSIGN_OR_RETURN(kernels::PlainLinear plain, checkpoint.ReadLinear(name));
  if (rule) rule(plain);
  return table.pack_linear(std::move(plain));
}

absl::StatusOr<RowFormat> RowFormatOf(const Checkpoint& checkpoint, const std::string& mlp) {
  for (int32_t e = 0; e < checkpoint.config().experts; ++e) {
    for (const char* projection : {"gate_proj", "up_proj"}) {
      ASSIGN_OR_RETURN(const Checkpoint::LinearFacts facts, checkpoint.DescribeExpert(mlp, e, projection));
      if (!kernels::IsInteger(facts.format)) return RowFormat::kFloat32;
    }
  }
  return RowFormat::kInt16Group128;
}

namespace {

class LayerLoader {
 public:
  LayerLoader(const Checkpoint& checkpoint, const kernels::KernelTable& table, const LinearRule& rule,
              int64_t* bytes)
      : checkpoint_(checkpoint), table_(table), rule_(rule), bytes_(bytes) {}

  void CountInto(int64_t* bytes) { bytes_ = bytes; }
  absl::Status Linear(const std::string& name, LinearPtr& to) {
    ASSIGN_OR_RETURN(to, LoadLinear(checkpoint_, name, table_, rule_));
    *bytes_ += to->bytes;
    return absl::OkStatus();
  }
  // Small, and much hangs on its bits: as stored, and portable under every float math.
  absl::Status Router(const std::string& name, LinearPtr& to) {
    ASSIGN_OR_RETURN(
        to, LoadLinear(checkpoint_, name, table_, [](kernels::PlainLinear& w) { w.portable = true; }));
    *bytes_ += to->bytes;
    return absl::OkStatus();
  }
  absl::Status Vector(const std::string& name, std::vector<float>& to) {
    ASSIGN_OR_RETURN(to, checkpoint_.ReadVector(name));
    return absl::OkStatus();
  }
  absl::Status FeedForward(const std::string& prefix, FeedForwardWeights& to) {
    RETURN_IF_ERROR(Linear(prefix + ".gate_proj", to.gate));
    RETURN_IF_ERROR(Linear(prefix + ".up_proj", to.up));
    return Linear(prefix + ".down_proj", to.down);
  }

 private:
  const Checkpoint& checkpoint_;
  const kernels::KernelTable& table_;
  const LinearRule& rule_;
  int64_t* bytes_;  // where what is loaded is counted
};

}  // namespace

absl::StatusOr<LayerWeights> LoadLayer(const Checkpoint& checkpoint, const std::string& prefix,
                                       const LayerConfig& config, const kernels::KernelTable& table,
                                       const LinearRule& rule) {
  LayerWeights layer;
  LayerLoader load(checkpoint, table, rule, &layer.mixer_bytes);
  RETURN_IF_ERROR(load.Vector(prefix + ".input_layernorm.weight", layer.input_norm));
  RETURN_IF_ERROR(load.Vector(prefix + ".post_attention_layernorm.weight", layer.post_norm));

  if (config.mixer == Mixer::kGatedDeltaNet) {
    const std::string p = prefix + ".linear_attn.";
    auto w = std::make_unique<DeltaNetWeights>();
    RETURN_IF_ERROR(load.Linear(p + "in_proj_qkv", w->qkv));
    RETURN_IF_ERROR(load.Linear(p + "in_proj_z", w->z));
    RETURN_IF_ERROR(load.Linear(p + "in_proj_b", w->b));
    RETURN_IF_ERROR(load.Linear(p + "in_proj_a", w->a));
    RETURN_IF_ERROR(load.Linear(p + "out_proj", w->out));
    RETURN_IF_ERROR(load.Vector(p + "conv1d.weight", w->conv));
    RETURN_IF_ERROR(load.Vector(p + "A_log", w->decay));
    RETURN_IF_ERROR(load.Vector(p + "dt_bias", w->dt_bias));
    RETURN_IF_ERROR(load.Vector(p + "norm.weight", w->norm));
    for (float& x : w->decay) x = kernels::Exp(x);
    layer.delta_net = std::move(w);
  } else {
    const std::string p = prefix + ".self_attn.";
    auto w = std::make_unique<AttentionWeights>();
    w->gated = config.mixer == Mixer::kGatedAttention;
    RETURN_IF_ERROR(load.Linear(p + "q_proj", w->q));
    RETURN_IF_ERROR(load.Linear(p + "k_proj", w->k));
    RETURN_IF_ERROR(load.Linear(p + "v_proj", w->v));
    RETURN_IF_ERROR(load.Linear(p + "o_proj", w->o));
    RETURN_IF_ERROR(load.Vector(p + "q_norm.weight", w->q_norm));
    RETURN_IF_ERROR(load.Vector(p + "k_norm.weight", w->k_norm));
    if (checkpoint.config().attention_bias) {
      RETURN_IF_ERROR(load.Vector(p + "q_proj.bias", w->q_bias));
      RETURN_IF_ERROR(load.Vector(p + "k_proj.bias", w->k_bias));
      RETURN_IF_ERROR(load.Vector(p + "v_proj.bias", w->v_bias));
      RETURN_IF_ERROR(load.Vector(p + "o_proj.bias", w->o_bias));
    }
    layer.attention = std::move(w);
  }

  const std::string mlp = prefix + ".mlp";
  load.CountInto(&layer.feed_forward_bytes);
  if (config.feed_forward == FeedForward::kDense) {
    layer.dense = std::make_unique<FeedForwardWeights>();
    RETURN_IF_ERROR(load.FeedForward(mlp, *layer.dense));
    return layer;
  }
  auto w = std::make_unique<MoeWeights>();
  RETURN_IF_ERROR(load.Router(mlp + ".gate", w->router));
  ASSIGN_OR_RETURN(w->row_format, RowFormatOf(checkpoint, mlp));
  if (checkpoint.config().shared_columns > 0) {
    RETURN_IF_ERROR(load.FeedForward(mlp + ".shared_expert", w->shared));
    RETURN_IF_ERROR(load.Router(mlp + ".shared_expert_gate", w->shared_gate));
  }
  layer.moe = std::move(w);
  return layer;
}

}  // namespace paceline
