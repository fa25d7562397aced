// Shapes of the Qwen3.5-MoE family and the composition of each format.
#include "model/synth_plan.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace paceline::synth {
namespace {

constexpr int64_t kKeyHeads = 16, kKvHeads = 2, kHeadDim = 256, kGdnDim = 128, kTaps = 4;
constexpr ModelShape kShapes[] = {
    {"Qwen3.5-122B-A10B", 3072, 32, 64, 256, 8, 1024, 48},
    {"Qwen3.5-35B-A3B", 2048, 16, 32, 256, 8, 512, 40},
    {"Qwen3.5-397B-A17B", 4096, 32, 64, 512, 10, 1024, 60},
};

enum class Store { kBf16, kFp8, kInt4 };

class Planner {
 public:
  Planner(const ModelShape& shape, const SynthOptions& options)
      : shape_(shape), bf16_(options.format == "bf16") {
    const bool hybrid = options.format == "hybrid";
    experts_ = bf16_ ? Store::kBf16 : Store::kInt4;
    projections_ = bf16_ ? Store::kBf16 : hybrid ? Store::kFp8 : Store::kInt4;
    shared_ = hybrid ? Store::kFp8 : Store::kBf16;
    gates_ = bf16_ || hybrid ? Store::kBf16 : Store::kInt4;
  }

  std::vector<PlannedTensor> Take(int32_t layers, bool mtp) {
    const std::string text = "model.language_model.";
    Uniform(text + "embed_tokens.weight", {shape_.vocab, shape_.hidden}, 1.0f);
    for (int32_t i = 0; i < layers; ++i) {
      const std::string p = absl::StrCat(text, "layers.", i, ".");
      if ((i + 1) % 4 == 0) {
        Attention(p + "self_attn.");
      } else {
        DeltaNet(p + "linear_attn.");
      }
      Layer(p);
    }
    Norm(text + "norm.weight");
    Linear("lm_head", shape_.vocab, shape_.hidden, Store::kBf16, 3.0f);
    if (mtp) Mtp();
    return std::move(out_);
  }

 private:
  void Uniform(const std::string& name, std::vector<int64_t> shape, float deviation, float centre = 0,
               Dtype dtype = Dtype::kBF16) {
    out_.push_back({name, dtype, std::move(shape), Fill::kUniform, centre, deviation * std::sqrt(3.0f)});
  }
  void Norm(const std::string& name) { Uniform(name, {shape_.hidden}, 0.1f); }

  // Weights of standard deviation gain / sqrt(inputs): unit inputs give outputs of size gain.
  void Linear(const std::string& name, int64_t n, int64_t k, Store store, float gain = 1) {
    const float deviation = gain / std::sqrt(static_cast<float>(k));
    switch (store) {
      case Store::kBf16:
        Uniform(name + ".weight", {n, k}, deviation);
        return;
      case Store::kFp8: {
        constexpr float kCodeDeviation = 0.63f;  // of Fill::kE4m3
        out_.push_back({name + ".weight", Dtype::kF8E4M3, {n, k}, Fill::kE4m3, 0, 0});
        Scales(name + ".weight_scale_inv", Dtype::kBF16, (n + 127) / 128, (k + 127) / 128,
               deviation / kCodeDeviation);
        return;
      }
      case Store::kInt4:
        constexpr float kCodeDeviation = 4.6f;  // of a uniform code minus 8
        out_.push_back({name + ".qweight", Dtype::kI32, {k / 8, n}, Fill::kWords, 0, 0});
        out_.push_back({name + ".qzeros", Dtype::kI32, {k / 128, n / 8}, Fill::kZeros8, 0, 0});
        Scales(name + ".scales", Dtype::kF16, k / 128, n, deviation / kCodeDeviation);
    }
  }
  void Scales(const std::string& name, Dtype dtype, int64_t rows, int64_t columns, float mean) {
    out_.push_back({name, dtype, {rows, columns}, Fill::kUniform, mean, 0.2f * mean});
  }

  void Attention(const std::string& p) {
    Linear(p + "q_proj", 2 * shape_.heads * kHeadDim, shape_.hidden, projections_);
    Linear(p + "k_proj", kKvHeads * kHeadDim, shape_.hidden, projections_);
    Linear(p + "v_proj", kKvHeads * kHeadDim, shape_.hidden, projections_);
    Linear(p + "o_proj", shape_.hidden, shape_.heads * kHeadDim, projections_);
    Uniform(p + "q_norm.weight", {kHeadDim}, 0.2f);
    Uniform(p + "k_norm.weight", {kHeadDim}, 0.2f);
  }

  void DeltaNet(const std::string& p) {
    const int64_t values = shape_.value_heads * kGdnDim;
    const int64_t channels = 2 * kKeyHeads * kGdnDim + values;
    Linear(p + "in_proj_qkv", channels, shape_.hidden, projections_);
    Linear(p + "in_proj_z", values, shape_.hidden, projections_);
    Linear(p + "in_proj_b", shape_.value_heads, shape_.hidden, gates_, 1.5f);
    Linear(p + "in_proj_a", shape_.value_heads, shape_.hidden, gates_);
    Uniform(p + "conv1d.weight", {channels, 1, kTaps}, 0.5f);
    Uniform(p + "A_log", {shape_.value_heads}, 1.5f, -1.3f, Dtype::kF32);  // decay rates of about 0.02 to 4
    Uniform(p + "dt_bias", {shape_.value_heads}, 1.0f, -1.0f);
    Uniform(p + "norm.weight", {kGdnDim}, 0.1f, 1.0f);
    Linear(p + "out_proj", shape_.hidden, values, projections_);
  }

  // Norms and experts.
  void Layer(const std::string& p) {
    Norm(p + "input_layernorm.weight");
    Norm(p + "post_attention_layernorm.weight");
    const std::string mlp = p + "mlp.";
    Linear(mlp + "gate", shape_.experts, shape_.hidden, Store::kBf16, 1.7f);
    Linear(mlp + "shared_expert.gate_proj", shape_.columns, shape_.hidden, shared_);
    Linear(mlp + "shared_expert.up_proj", shape_.columns, shape_.hidden, shared_);
    Linear(mlp + "shared_expert.down_proj", shape_.hidden, shape_.columns, shared_);
    Linear(mlp + "shared_expert_gate", 1, shape_.hidden, Store::kBf16);
    if (bf16_) {  // the published BF16 checkpoints fuse experts, quantisers do not
      const float hidden = static_cast<float>(shape_.hidden), columns = static_cast<float>(shape_.columns);
      Uniform(mlp + "experts.gate_up_proj", {shape_.experts, 2 * shape_.columns, shape_.hidden},
              1 / std::sqrt(hidden));
      Uniform(mlp + "experts.down_proj", {shape_.experts, shape_.hidden, shape_.columns},
              1 / std::sqrt(columns));
      return;
    }
    for (int64_t e = 0; e < shape_.experts; ++e) {
      const std::string expert = absl::StrCat(mlp, "experts.", e, ".");
      Linear(expert + "gate_proj", shape_.columns, shape_.hidden, experts_);
      Linear(expert + "up_proj", shape_.columns, shape_.hidden, experts_);
      Linear(expert + "down_proj", shape_.hidden, shape_.columns, experts_);
    }
  }

  // BF16 in every format, as the published INT4 checkpoints ship it.
  void Mtp() {
    experts_ = projections_ = shared_ = Store::kBf16;
    Linear("mtp.fc", shape_.hidden, 2 * shape_.hidden, Store::kBf16);
    Norm("mtp.pre_fc_norm_embedding.weight");
    Norm("mtp.pre_fc_norm_hidden.weight");
    Attention("mtp.layers.0.self_attn.");
    Layer("mtp.layers.0.");
    Norm("mtp.norm.weight");
  }

  const ModelShape& shape_;
  bool bf16_;
  Store experts_, projections_, shared_, gates_;
  std::vector<PlannedTensor> out_;
};

}  // namespace

int64_t PlannedTensor::bytes() const {
  int64_t out = DtypeBytes(dtype);
  for (const int64_t dim : shape) out *= dim;
  return out;
}

const ModelShape* FindShape(const std::string& name) {
  for (const ModelShape& shape : kShapes) {
    if (name == shape.name) return &shape;
  }
  return nullptr;
}

std::string KnownShapes() {
  std::string out;
  for (const ModelShape& shape : kShapes) absl::StrAppend(&out, out.empty() ? "" : ", ", shape.name);
  return out;
}

std::vector<PlannedTensor> PlanTensors(const ModelShape& shape, const SynthOptions& options) {
  return Planner(shape, options).Take(options.layers == 0 ? shape.layers : options.layers, options.mtp);
}

nlohmann::json MakeConfig(const ModelShape& shape, const SynthOptions& options) {
  using Json = nlohmann::json;
  const int32_t layers = options.layers == 0 ? shape.layers : options.layers;
  Json types = Json::array();
  for (int32_t i = 0; i < layers; ++i)
    types.push_back((i + 1) % 4 == 0 ? "full_attention" : "linear_attention");
  Json text = {{"model_type", "qwen3_5_moe_text"},
               {"vocab_size", shape.vocab},
               {"hidden_size", shape.hidden},
               {"num_hidden_layers", layers},
               {"layer_types", types},
               {"full_attention_interval", 4},
               {"num_attention_heads", shape.heads},
               {"num_key_value_heads", kKvHeads},
               {"head_dim", kHeadDim},
               {"attention_bias", false},
               {"attn_output_gate", true},
               {"linear_num_key_heads", kKeyHeads},
               {"linear_num_value_heads", shape.value_heads},
               {"linear_key_head_dim", kGdnDim},
               {"linear_value_head_dim", kGdnDim},
               {"linear_conv_kernel_dim", kTaps},
               {"mamba_ssm_dtype", "float32"},
               {"num_experts", shape.experts},
               {"num_experts_per_tok", shape.top_k},
               {"moe_intermediate_size", shape.columns},
               {"shared_expert_intermediate_size", shape.columns},
               {"hidden_act", "silu"},
               {"rms_norm_eps", 1e-6},
               {"max_position_embeddings", 262144},
               {"tie_word_embeddings", false},
               {"mtp_num_hidden_layers", options.mtp ? 1 : 0},
               {"mtp_use_dedicated_embeddings", false},
               {"eos_token_id", kEndOfText},
               {"dtype", "bfloat16"},
               {"rope_parameters",
                {{"rope_type", "default"},
                 {"rope_theta", 1e7},
                 {"partial_rotary_factor", 0.25},
                 {"mrope_section", {11, 11, 10}},
                 {"mrope_interleaved", true}}}};
  Json config = {{"architectures", {"Qwen3_5MoeForConditionalGeneration"}},
                 {"model_type", "qwen3_5_moe"},
                 {"tie_word_embeddings", false},
                 {"text_config", std::move(text)},
                 {"synthetic", {{"like", options.like}, {"format", options.format}, {"seed", options.seed}}}};
  if (options.format != "bf16") {
    config["quantization_config"] = {{"quant_method", "auto-round"},
                                     {"bits", 4},
                                     {"group_size", 128},
                                     {"sym", true},
                                     {"data_type", "int"},
                                     {"packing_format", "auto_round:auto_gptq"},
                                     {"block_name_to_quantize", "model.language_model.layers"}};
  }
  return config;
}

}  // namespace paceline::synth
