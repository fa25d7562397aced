// The expected tensors of both families, and how a linear layer's format follows from the tensors it has.
#include "model/census.h"

#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "model/json_guard.h"

namespace paceline {
namespace {

using kernels::WeightFormat;

// A dimension of an expected shape, with the fields of config.json that it comes from.
struct Dim {
  int64_t size;
  std::string fields;
};

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

class Taker {
 public:
  Taker(const ModelConfig& config, const QuantisationHints& hints, const TensorStore& store)
      : config_(config), hints_(hints), store_(store) {}

  absl::StatusOr<Census> Take() {
    RETURN_IF_ERROR(Gather());
    RETURN_IF_ERROR(Trunk());
    RETURN_IF_ERROR(Mtp());
    RETURN_IF_ERROR(NothingLeft());
    if (act_order_linears_ > 0) {
      census_.warnings.push_back(
          absl::StrCat(act_order_linears_, " INT4 linear layers (first: ", act_order_first_,
                       ") have a g_idx that is not monotone; they are dequantised at load and run as F32, ",
                       act_order_bytes_ >> 20, " MiB instead of ", act_order_stored_ >> 20,
                       " MiB. A checkpoint without act-order is smaller and faster"));
    }
    return std::move(census_);
  }

 private:
  struct Entry {
    StoredTensor tensor;
    bool used = false;
  };

  // Logical names are suffixes of full names, so the map holds views.
  absl::Status Gather() {
    for (const auto& file : store_.files()) {
      for (const TensorEntry& entry : file->entries()) {
        std::string_view name = entry.name;
        if (StartsWith(name, "model.visual.") || StartsWith(name, "visual.")) continue;
        std::string_view prefix;
        for (const std::string_view candidate :
             {"model.language_model.", "language_model.model.", "model."}) {
          if (StartsWith(name, candidate)) {
            prefix = candidate;
            break;
          }
        }
        if (prefix.empty() && StartsWith(name, "language_model.lm_head.")) {
          name.remove_prefix(std::string_view("language_model.").size());
        } else if (prefix.empty() && !StartsWith(name, "mtp.") && !StartsWith(name, "lm_head.")) {
          return Unexpected({file.get(), &entry});
        }
        name.remove_prefix(prefix.size());
        if (!prefix.empty() && prefix_.empty()) prefix_ = prefix;
        const auto [at, fresh] = entries_.try_emplace(name, Entry{{file.get(), &entry}, false});
        if (!fresh) {
          return Error(errors::kModelTensor,
                       absl::StrCat(at->second.tensor.Describe(), " and ",
                                    StoredTensor{file.get(), &entry}.Describe(), " are the same tensor"));
        }
        has_mtp_ |= StartsWith(name, "mtp.");
      }
    }
    if (prefix_.empty()) prefix_ = "model.";
    return absl::OkStatus();
  }

  StoredTensor Use(const std::string& name) {
    const auto at = entries_.find(name);
    if (at == entries_.end()) return {};
    at->second.used = true;
    return at->second.tensor;
  }
  bool There(const std::string& name) const { return entries_.contains(name); }

  std::string FullName(std::string_view name) const {
    if (StartsWith(name, "mtp.") || StartsWith(name, "lm_head.")) return std::string(name);
    return absl::StrCat(prefix_, absl::string_view(name.data(), name.size()));
  }

  static std::string Expected(const std::vector<Dim>& dims) {
    std::string sizes, fields;
    for (const Dim& dim : dims) {
      absl::StrAppend(&sizes, sizes.empty() ? "" : ", ", dim.size);
      absl::StrAppend(&fields, fields.empty() ? "" : ", ", dim.fields);
    }
    return absl::StrCat("[", sizes, "], that is [", fields, "] of config.json");
  }

  // In the MTP layer a missing tensor only switches drafting off.
  absl::Status Missing(const std::string& name, const std::string& expected) {
    if (in_mtp_) {
      if (census_.missing_mtp.empty()) census_.missing_mtp = FullName(name);
      return absl::OkStatus();
    }
    return Error(errors::kModelTensor, absl::StrCat(FullName(name), " is in no *.safetensors file of ",
                                                    store_.directory(), "; expected ", expected));
  }
  absl::Status Unexpected(const StoredTensor& tensor) const {
    return Error(errors::kModelTensor,
                 absl::StrCat(tensor.Describe(), " belongs to no tensor of a ", config_.model_type,
                              " model as config.json describes it"));
  }
  static absl::Status CheckShape(const StoredTensor& tensor, const std::vector<Dim>& dims) {
    std::vector<int64_t> shape;
    for (const Dim& dim : dims) shape.push_back(dim.size);
    if (tensor.entry->shape == shape) return absl::OkStatus();
    return Error(errors::kModelTensor,
                 absl::StrCat(tensor.Describe(), " has the wrong shape; expected ", Expected(dims)));
  }
  static absl::Status CheckFloat(const StoredTensor& tensor) {
    if (IsPlainFloat(tensor.entry->dtype)) return absl::OkStatus();
    return Error(errors::kModelTensor,
                 absl::StrCat(tensor.Describe(), " has the wrong dtype; expected F32, F16 or BF16"));
  }
  static absl::Status CheckWords(const StoredTensor& tensor) {
    if (tensor.entry->dtype == Dtype::kI32 || tensor.entry->dtype == Dtype::kU32) return absl::OkStatus();
    return Error(errors::kModelTensor, absl::StrCat(tensor.Describe(), " has the wrong dtype; expected I32"));
  }

  absl::Status Vector(const std::string& name, const std::vector<Dim>& dims) {
    const StoredTensor tensor = Use(name);
    if (!tensor.present()) return Missing(name, Expected(dims));
    RETURN_IF_ERROR(CheckFloat(tensor));
    RETURN_IF_ERROR(CheckShape(tensor, dims));
    census_.vectors.emplace(name, tensor);
    return absl::OkStatus();
  }

  absl::Status Linear(const std::string& name, const Dim& outputs, const Dim& inputs) {
    LinearSource source;
    RETURN_IF_ERROR(Resolve(name, outputs, inputs, source));
    if (source.present()) census_.linears.emplace(name, std::move(source));
    return absl::OkStatus();
  }

  absl::Status Resolve(const std::string& name, const Dim& outputs, const Dim& inputs, LinearSource& out) {
    out.outputs = outputs.size;
    out.inputs = inputs.size;
    const StoredTensor weight = Use(name + ".weight");
    const StoredTensor words = Use(name + ".qweight");
    if (weight.present() && words.present()) {
      return Error(errors::kModelTensor, absl::StrCat(weight.Describe(), " and ", words.Describe(),
                                                      " are two forms of one linear layer; remove one"));
    }
    if (words.present()) return ResolveInt4(name, words, outputs, inputs, out);
    if (!weight.present()) {
      const bool parts = There(name + ".scales") || There(name + ".qzeros");
      return Missing(name + (parts ? ".qweight" : ".weight"), Expected({outputs, inputs}));
    }
    RETURN_IF_ERROR(CheckShape(weight, {outputs, inputs}));
    RETURN_IF_ERROR(FloatFormat(weight, out));
    if (out.format != WeightFormat::kFp8Block128) return absl::OkStatus();
    const std::vector<Dim> blocks = {{(outputs.size + 127) / 128, absl::StrCat(outputs.fields, " / 128")},
                                     {(inputs.size + 127) / 128, absl::StrCat(inputs.fields, " / 128")}};
    out.scales = Use(name + ".weight_scale_inv");
    if (!out.scales.present()) {
      out.weight = {};
      return Missing(name + ".weight_scale_inv", Expected(blocks));
    }
    RETURN_IF_ERROR(CheckFloat(out.scales));
    return CheckShape(out.scales, blocks);
  }

  static absl::Status FloatFormat(const StoredTensor& weight, LinearSource& out) {
    out.weight = weight;
    switch (weight.entry->dtype) {
      case Dtype::kF32:
        out.format = WeightFormat::kF32;
        return absl::OkStatus();
      case Dtype::kF16:
        out.format = WeightFormat::kF16;
        return absl::OkStatus();
      case Dtype::kBF16:
        out.format = WeightFormat::kBF16;
        return absl::OkStatus();
      case Dtype::kF8E4M3:
        out.format = WeightFormat::kFp8Block128;
        return absl::OkStatus();
      default:
        break;
    }
    return Error(errors::kModelTensor,
                 absl::StrCat(weight.Describe(), " has the wrong dtype; expected F32, F16, BF16 or F8_E4M3"));
  }

  absl::Status ResolveInt4(const std::string& name, const StoredTensor& words, const Dim& outputs,
                           const Dim& inputs, LinearSource& out) {
    const int64_t n = outputs.size;
    const int64_t k = inputs.size;
    if (hints_.bits != 0 && hints_.bits != 4) {
      return Error(errors::kModelUnsupported,
                   absl::StrCat("quantization_config.bits of config.json is ", hints_.bits,
                                "; only 4 is supported for ", words.Describe()));
    }
    if (n % 8 != 0 || k % 8 != 0) {
      return Error(errors::kModelUnsupported,
                   absl::StrCat(words.Describe(), ": an INT4 layer needs multiples of 8, not ",
                                Expected({outputs, inputs})));
    }
    RETURN_IF_ERROR(CheckWords(words));
    RETURN_IF_ERROR(CheckShape(words, {{k / 8, absl::StrCat(inputs.fields, " / 8")}, outputs}));
    out.scales = Use(name + ".scales");
    out.zeros = Use(name + ".qzeros");
    const StoredTensor g_idx = Use(name + ".g_idx");
    for (const auto& [part, suffix] : {std::pair(&out.scales, ".scales"), std::pair(&out.zeros, ".qzeros")}) {
      if (!part->present()) {
        return Missing(name + suffix, absl::StrCat("it beside ", words.Describe(),
                                                   ": a GPTQ layer has qweight, qzeros and scales"));
      }
    }
    RETURN_IF_ERROR(CheckFloat(out.scales));
    RETURN_IF_ERROR(CheckWords(out.zeros));
    const int64_t groups = out.scales.entry->shape.empty() ? 0 : out.scales.entry->shape[0];
    if (groups < 1 || groups > k) {
      return Error(errors::kModelTensor, absl::StrCat(out.scales.Describe(), " has ", groups, " groups for ",
                                                      k, " inputs (", inputs.fields, ")"));
    }
    RETURN_IF_ERROR(CheckShape(out.scales, {{groups, "groups"}, outputs}));
    RETURN_IF_ERROR(
        CheckShape(out.zeros, {{groups, "groups"}, {n / 8, absl::StrCat(outputs.fields, " / 8")}}));
    out.weight = words;
    out.format = WeightFormat::kInt4;
    out.true_zeros = hints_.true_zeros;
    out.group = GroupSize(k, groups);
    if (g_idx.present()) RETURN_IF_ERROR(CheckGroupIndex(g_idx, {k, inputs.fields}, groups, out));
    const bool supported =
        out.group == k || (out.group >= 8 && 128 % out.group == 0) || (out.group > 0 && out.group % 128 == 0);
    if (!out.act_order && !supported) {
      return Error(
          errors::kModelUnsupported,
          absl::StrCat(
              out.scales.Describe(), ": ", groups, " groups for ", k,
              " inputs; supported group sizes (quantization_config.group_size): 8 to 128 by powers of two, "
              "multiples of 128, -1"));
    }
    return absl::OkStatus();
  }

  // The configuration only settles the case of a short last group. 0 when nothing fits.
  int64_t GroupSize(int64_t inputs, int64_t groups) const {
    const int64_t said = hints_.group_size;
    if (said > 0 && said <= inputs && (inputs + said - 1) / said == groups) return said;
    return inputs % groups == 0 ? inputs / groups : 0;
  }

  absl::Status CheckGroupIndex(const StoredTensor& g_idx, const Dim& inputs, int64_t groups,
                               LinearSource& out) {
    if (g_idx.entry->dtype != Dtype::kI32) {
      return Error(errors::kModelTensor,
                   absl::StrCat(g_idx.Describe(), " has the wrong dtype; expected I32"));
    }
    RETURN_IF_ERROR(CheckShape(g_idx, {inputs}));
    g_idx_.resize(static_cast<size_t>(inputs.size));
    RETURN_IF_ERROR(g_idx.Read(0, inputs.size * 4, g_idx_.data()));
    bool plain = out.group > 0;
    for (int64_t k = 0; k < inputs.size; ++k) {
      const int64_t g = g_idx_[static_cast<size_t>(k)];
      if (g < 0 || g >= groups) {
        return Error(errors::kModelValues, absl::StrCat(g_idx.Describe(), ": input ", k, " is in group ", g,
                                                        "; there are ", groups, " groups"));
      }
      plain &= out.group > 0 && g == k / out.group;
    }
    if (plain) return absl::OkStatus();
    out.g_idx = g_idx;
    out.act_order = true;
    out.format = WeightFormat::kF32;
    if (act_order_linears_++ == 0) act_order_first_ = g_idx.name();
    act_order_bytes_ += out.outputs * out.inputs * 4;
    act_order_stored_ += out.stored_bytes();
    return absl::OkStatus();
  }

  absl::Status Attention(const std::string& p) {
    const Dim hidden{config_.hidden, "hidden_size"};
    const int64_t query = int64_t{config_.heads} * config_.head_dim;
    const Dim from{query, "num_attention_heads * head_dim"};
    const Dim keys{int64_t{config_.kv_heads} * config_.head_dim, "num_key_value_heads * head_dim"};
    const Dim queries =
        config_.family == Family::kQwen35Moe ? Dim{2 * query, "2 * num_attention_heads * head_dim"} : from;
    const Dim head{config_.head_dim, "head_dim"};
    RETURN_IF_ERROR(Linear(p + "q_proj", queries, hidden));
    RETURN_IF_ERROR(Linear(p + "k_proj", keys, hidden));
    RETURN_IF_ERROR(Linear(p + "v_proj", keys, hidden));
    RETURN_IF_ERROR(Linear(p + "o_proj", hidden, from));
    RETURN_IF_ERROR(Vector(p + "q_norm.weight", {head}));
    RETURN_IF_ERROR(Vector(p + "k_norm.weight", {head}));
    if (!config_.attention_bias) return absl::OkStatus();
    RETURN_IF_ERROR(Vector(p + "q_proj.bias", {queries}));
    RETURN_IF_ERROR(Vector(p + "k_proj.bias", {keys}));
    RETURN_IF_ERROR(Vector(p + "v_proj.bias", {keys}));
    return Vector(p + "o_proj.bias", {hidden});
  }

  absl::Status DeltaNet(const std::string& p) {
    const Dim hidden{config_.hidden, "hidden_size"};
    const Dim values{int64_t{config_.gdn_value_heads} * config_.gdn_value_dim,
                     "linear_num_value_heads * linear_value_head_dim"};
    const Dim channels{config_.conv_channels(),
                       "2 * linear_num_key_heads * linear_key_head_dim + " + values.fields};
    const Dim heads{config_.gdn_value_heads, "linear_num_value_heads"};
    RETURN_IF_ERROR(Vector(p + "A_log", {heads}));
    RETURN_IF_ERROR(Vector(p + "dt_bias", {heads}));
    RETURN_IF_ERROR(Linear(p + "in_proj_qkv", channels, hidden));
    RETURN_IF_ERROR(Linear(p + "in_proj_z", values, hidden));
    RETURN_IF_ERROR(Linear(p + "in_proj_b", heads, hidden));
    RETURN_IF_ERROR(Linear(p + "in_proj_a", heads, hidden));
    RETURN_IF_ERROR(
        Vector(p + "conv1d.weight", {channels, {1, "1"}, {config_.conv_taps, "linear_conv_kernel_dim"}}));
    RETURN_IF_ERROR(Vector(p + "norm.weight", {{config_.gdn_value_dim, "linear_value_head_dim"}}));
    return Linear(p + "out_proj", hidden, values);
  }

  absl::Status SwiGlu(const std::string& p, const Dim& columns) {
    const Dim hidden{config_.hidden, "hidden_size"};
    RETURN_IF_ERROR(Linear(p + "gate_proj", columns, hidden));
    RETURN_IF_ERROR(Linear(p + "up_proj", columns, hidden));
    return Linear(p + "down_proj", hidden, columns);
  }

  absl::Status Moe(const std::string& mlp) {
    const Dim hidden{config_.hidden, "hidden_size"};
    RETURN_IF_ERROR(Linear(mlp + ".gate", {config_.experts, "num_experts"}, hidden));
    if (config_.shared_columns > 0) {
      RETURN_IF_ERROR(
          SwiGlu(mlp + ".shared_expert.", {config_.shared_columns, "shared_expert_intermediate_size"}));
      RETURN_IF_ERROR(Linear(mlp + ".shared_expert_gate", {1, "1"}, hidden));
    }
    std::vector<ExpertSource> experts;
    if (There(mlp + ".experts.gate_up_proj") || There(mlp + ".experts.down_proj")) {
      RETURN_IF_ERROR(FusedExperts(mlp, experts));
    } else {
      const Dim columns{config_.expert_columns, "moe_intermediate_size"};
      for (int32_t e = 0; e < config_.experts; ++e) {
        const std::string p = absl::StrCat(mlp, ".experts.", e, ".");
        ExpertSource expert;
        RETURN_IF_ERROR(Resolve(p + "gate_proj", columns, hidden, expert.gate));
        RETURN_IF_ERROR(Resolve(p + "up_proj", columns, hidden, expert.up));
        RETURN_IF_ERROR(Resolve(p + "down_proj", hidden, columns, expert.down));
        experts.push_back(std::move(expert));
      }
    }
    census_.experts.emplace(mlp, std::move(experts));
    return absl::OkStatus();
  }

  absl::Status FusedExperts(const std::string& mlp, std::vector<ExpertSource>& out) {
    const Dim count{config_.experts, "num_experts"};
    const Dim hidden{config_.hidden, "hidden_size"};
    const Dim both{2 * config_.expert_columns, "2 * moe_intermediate_size"};
    const Dim columns{config_.expert_columns, "moe_intermediate_size"};
    LinearSource gate_up, down;
    const struct {
      std::string name;
      std::vector<Dim> dims;
      LinearSource& source;
    } parts[] = {{mlp + ".experts.gate_up_proj", {count, both, hidden}, gate_up},
                 {mlp + ".experts.down_proj", {count, hidden, columns}, down}};
    for (const auto& part : parts) {
      const StoredTensor tensor = Use(part.name);
      if (!tensor.present()) {
        RETURN_IF_ERROR(Missing(part.name, Expected(part.dims)));
        return absl::OkStatus();
      }
      RETURN_IF_ERROR(CheckFloat(tensor));
      RETURN_IF_ERROR(CheckShape(tensor, part.dims));
      RETURN_IF_ERROR(FloatFormat(tensor, part.source));
    }
    for (int32_t e = 0; e < config_.experts; ++e) {
      ExpertSource expert{gate_up, gate_up, down};
      expert.gate.outputs = expert.up.outputs = columns.size;
      expert.gate.inputs = expert.up.inputs = hidden.size;
      expert.gate.first_row = e * both.size;
      expert.up.first_row = e * both.size + columns.size;
      expert.down.outputs = hidden.size;
      expert.down.inputs = columns.size;
      expert.down.first_row = e * hidden.size;
      out.push_back(std::move(expert));
    }
    return absl::OkStatus();
  }

  absl::Status Norms(const std::string& p) {
    const Dim hidden{config_.hidden, "hidden_size"};
    RETURN_IF_ERROR(Vector(p + "input_layernorm.weight", {hidden}));
    return Vector(p + "post_attention_layernorm.weight", {hidden});
  }

  absl::Status Trunk() {
    const Dim vocab{config_.vocab, "vocab_size"};
    const Dim hidden{config_.hidden, "hidden_size"};
    RETURN_IF_ERROR(Linear("embed_tokens", vocab, hidden));
    const LinearSource embedding = census_.linears.at("embed_tokens");
    RETURN_IF_ERROR(CheckFloat(embedding.weight));
    RETURN_IF_ERROR(Vector("norm.weight", {hidden}));
    if (config_.tied_embeddings) {
      census_.linears.emplace("lm_head", embedding);
      Use("lm_head.weight");
    } else {
      RETURN_IF_ERROR(Linear("lm_head", vocab, hidden));
    }
    for (size_t i = 0; i < config_.layers.size(); ++i) {
      const std::string p = absl::StrCat("layers.", i, ".");
      const LayerConfig& layer = config_.layers[i];
      RETURN_IF_ERROR(Norms(p));
      RETURN_IF_ERROR(layer.mixer == Mixer::kGatedDeltaNet ? DeltaNet(p + "linear_attn.")
                                                           : Attention(p + "self_attn."));
      RETURN_IF_ERROR(layer.feed_forward == FeedForward::kMoe
                          ? Moe(p + "mlp")
                          : SwiGlu(p + "mlp.", {config_.dense_columns, "intermediate_size"}));
    }
    return absl::OkStatus();
  }

  absl::Status Mtp() {
    if (config_.mtp_layers == 0) {
      if (has_mtp_)
        census_.warnings.push_back(
            "the files hold mtp.* tensors, but mtp_num_hidden_layers is 0: they are ignored");
      for (auto& [name, entry] : entries_) entry.used |= StartsWith(name, "mtp.");
      return absl::OkStatus();
    }
    if (!has_mtp_) {
      census_.warnings.push_back(absl::StrCat("no mtp.* tensor in ", store_.directory(),
                                              ": the model runs without drafts of its own"));
      return absl::OkStatus();
    }
    in_mtp_ = true;
    const Dim hidden{config_.hidden, "hidden_size"};
    RETURN_IF_ERROR(Linear("mtp.fc", hidden, {2 * config_.hidden, "2 * hidden_size"}));
    for (const char* norm :
         {"mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight", "mtp.norm.weight"}) {
      RETURN_IF_ERROR(Vector(norm, {hidden}));
    }
    RETURN_IF_ERROR(Norms("mtp.layers.0."));
    RETURN_IF_ERROR(Attention("mtp.layers.0.self_attn."));
    RETURN_IF_ERROR(Moe("mtp.layers.0.mlp"));
    in_mtp_ = false;
    census_.mtp = census_.missing_mtp.empty();
    if (!census_.mtp) {
      census_.warnings.push_back(
          absl::StrCat(census_.missing_mtp, " is missing while other mtp.* tensors are there: no drafts"));
    }
    return absl::OkStatus();
  }

  // The smallest name, so that the message does not depend on a hash.
  absl::Status NothingLeft() const {
    const StoredTensor* first = nullptr;
    for (const auto& [name, entry] : entries_) {
      if (entry.used || name.find("rotary_emb.inv_freq") != std::string_view::npos) continue;
      if (first == nullptr || entry.tensor.name() < first->name()) first = &entry.tensor;
    }
    return first == nullptr ? absl::OkStatus() : Unexpected(*first);
  }

  const ModelConfig& config_;
  const QuantisationHints& hints_;
  const TensorStore& store_;
  Census census_;
  absl::flat_hash_map<std::string_view, Entry> entries_;
  std::string prefix_;
  bool has_mtp_ = false;
  bool in_mtp_ = false;
  std::vector<int32_t> g_idx_;  // [inputs], reused
  int64_t act_order_linears_ = 0;
  int64_t act_order_bytes_ = 0;
  int64_t act_order_stored_ = 0;
  std::string act_order_first_;
};

}  // namespace

absl::StatusOr<Census> TakeCensus(const ModelConfig& config, const QuantisationHints& hints,
                                  const TensorStore& store) {
  return Taker(config, hints, store).Take();
}

}  // namespace paceline
