// config.json and generation_config.json to ModelConfig. Field names and defaults: docs/FORMATS.md,
// Configuration.
#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/placement.h"
#include "base/status.h"
#include "kernels/kernels.h"
#include "model/json_guard.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxHidden = int64_t{1} << 20;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxExperts = 65536;
constexpr int64_t kMaxHeads = 65536;
constexpr int64_t kMaxHeadDim = 65536;
constexpr int64_t kMaxContext = int64_t{1} << 30;
// The exact sum has room for this many addends per token and layer (docs/NUMERICS.md, Exact sum).
constexpr int64_t kMaxAddends = 512;

// Reads fields of one object; the first problem sticks and later reads return their fallback.
class Fields {
 public:
  Fields(const Json& object, std::string file, std::string path)
      : object_(object), file_(std::move(file)), path_(std::move(path)) {}

  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }

  // Null counts as absent: exporters write it for "not set".
  const Json* Find(const char* name) const {
    const auto at = object_.find(name);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }

  void Fail(const char* name, const std::string& sentence, const ErrorCode& code = errors::kModelConfig) {
    if (status_.ok()) status_ = Error(code, absl::StrCat(file_, ": ", path_, name, " ", sentence));
  }

  int64_t Int(const char* name, int64_t low, int64_t high) {
    if (Find(name) == nullptr) Fail(name, "is missing; expected an integer");
    return Int(name, low, high, low);
  }
  int64_t Int(const char* name, int64_t low, int64_t high, int64_t fallback) {
    const Json* value = Find(name);
    if (value == nullptr) return fallback;
    if (!value->is_number_integer()) {
      Fail(name, absl::StrCat("is ", Show(*value), "; expected an integer"));
      return fallback;
    }
    const bool too_large =
        value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
    if (too_large || value->get<int64_t>() < low || value->get<int64_t>() > high) {
      Fail(name, absl::StrCat("is ", Show(*value), "; expected ", low, " to ", high));
      return fallback;
    }
    return value->get<int64_t>();
  }
  double Number(const char* name, double low, double high, double fallback) {
    const Json* value = Find(name);
    if (value == nullptr) return fallback;
    if (!value->is_number() || !(value->get<double>() >= low && value->get<double>() <= high)) {
      Fail(name, absl::StrCat("is ", Show(*value), "; expected a number from ", low, " to ", high));
      return fallback;
    }
    return value->get<double>();
  }
  bool Bool(const char* name, bool fallback) {
    const Json* value = Find(name);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) {
      Fail(name, absl::StrCat("is ", Show(*value), "; expected true or false"));
      return fallback;
    }
    return value->get<bool>();
  }
  // "" when absent.
  std::string Text(const char* name) {
    const Json* value = Find(name);
    if (value == nullptr) return "";
    if (!value->is_string()) {
      Fail(name, absl::StrCat("is ", Show(*value), "; expected a string"));
      return "";
    }
    return value->get<std::string>();
  }
  std::vector<int64_t> Ints(const char* name, int64_t low, int64_t high) {
    const Json* value = Find(name);
    std::vector<int64_t> out;
    if (value == nullptr) return out;
    const Json list = value->is_array() ? *value : Json::array({*value});
    for (const Json& item : list) {
      if (!item.is_number_integer() ||
          (item.is_number_unsigned() && item.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) ||
          item.get<int64_t>() < low || item.get<int64_t>() > high) {
        Fail(name, absl::StrCat("holds ", Show(item), "; expected integers from ", low, " to ", high));
        return {};
      }
      out.push_back(item.get<int64_t>());
    }
    return out;
  }

  static std::string Show(const Json& value) {
    return Printable(value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80));
  }

 private:
  const Json& object_;
  std::string file_;
  std::string path_;
  absl::Status status_;
};

bool OneOf(std::string_view text, std::initializer_list<std::string_view> known) {
  for (const std::string_view k : known) {
    if (text == k) return true;
  }
  return false;
}

// The model types of the outer and, where there is one, the inner object; and the architectures.
absl::Status ReadFamily(Fields& outer, Fields& text, ModelConfig& config) {
  constexpr auto kKnown = "qwen3_5_moe, qwen3_5_moe_text, qwen3_moe";
  config.model_type = outer.Text("model_type");
  for (Fields* fields : {&outer, &text}) {
    const std::string type = fields->Text("model_type");
    if (type.empty() && fields == &text) continue;
    if (!OneOf(type, {"qwen3_5_moe", "qwen3_5_moe_text", "qwen3_moe"})) {
      fields->Fail("model_type",
                   type.empty() ? absl::StrCat("is missing; supported: ", kKnown)
                                : absl::StrCat("is \"", Printable(type), "\"; supported: ", kKnown),
                   errors::kModelUnsupported);
    }
    if (config.model_type.empty()) config.model_type = type;
  }
  RETURN_IF_ERROR(outer.status());
  RETURN_IF_ERROR(text.status());
  config.family = config.model_type == "qwen3_moe" ? Family::kQwen3Moe : Family::kQwen35Moe;
  const Json* architectures = outer.Find("architectures");
  if (architectures == nullptr) return absl::OkStatus();
  bool known = false;
  if (architectures->is_array()) {
    for (const Json& name : *architectures) {
      if (!name.is_string()) continue;
      const auto& text_name = name.get_ref<const std::string&>();
      known |= config.family == Family::kQwen3Moe
                   ? text_name == "Qwen3MoeForCausalLM"
                   : OneOf(text_name, {"Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"});
    }
  }
  if (!known) {
    outer.Fail(
        "architectures",
        absl::StrCat(
            "is ", Fields::Show(*architectures), ", which does not go with model_type ", config.model_type,
            "; supported: Qwen3_5MoeForConditionalGeneration, Qwen3_5MoeForCausalLM, Qwen3MoeForCausalLM"),
        errors::kModelUnsupported);
  }
  return outer.status();
}

// Only plain RoPE: position interpolation of any kind changes every angle, so an unknown kind must not pass.
absl::Status ReadRope(Fields& text, const std::string& file, const std::string& path, ModelConfig& config) {
  double partial = config.family == Family::kQwen3Moe ? 1.0 : 0.25;
  partial = text.Number("partial_rotary_factor", 0, 1, partial);
  double theta = text.Number("rope_theta", 0, 1e30, 0);
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const Json* value = text.Find(name);
    if (value == nullptr) continue;
    if (!value->is_object()) {
      text.Fail(name, absl::StrCat("is ", Fields::Show(*value), "; expected an object or null"));
      break;
    }
    Fields rope(*value, file, absl::StrCat(path, name, "."));
    for (const char* key : {"rope_type", "type"}) {
      const std::string type = rope.Text(key);
      if (!type.empty() && type != "default") {
        rope.Fail(key, absl::StrCat("is \"", Printable(type), "\"; only \"default\" is supported"),
                  errors::kModelUnsupported);
      }
    }
    theta = rope.Number("rope_theta", 0, 1e30, theta);
    partial = rope.Number("partial_rotary_factor", 0, 1, partial);
    RETURN_IF_ERROR(rope.status());
  }
  if (theta <= 0)
    text.Fail("rope_theta", "is missing (here or in rope_parameters); expected a positive number");
  config.rope_theta = theta;
  config.rotary_dims = static_cast<int32_t>(static_cast<double>(config.head_dim) * partial);
  if (config.family == Family::kQwen3Moe && partial != 1.0) {
    text.Fail("partial_rotary_factor", absl::StrCat("is ", partial, "; qwen3_moe rotates the whole head"),
              errors::kModelUnsupported);
  }
  if (config.rotary_dims < 2 || config.rotary_dims % 2 != 0) {
    text.Fail("partial_rotary_factor",
              absl::StrCat("is ", partial, ", which makes ", config.rotary_dims, " of head_dim ",
                           config.head_dim, " dimensions rotate; expected an even number, at least 2"));
  }
  return text.status();
}

absl::Status ReadLayers(Fields& text, ModelConfig& config) {
  const int64_t count = text.Int("num_hidden_layers", 1, kMaxLayers);
  RETURN_IF_ERROR(text.status());
  const bool qwen35 = config.family == Family::kQwen35Moe;
  config.layers.assign(static_cast<size_t>(count),
                       {qwen35 ? Mixer::kGatedAttention : Mixer::kAttention, FeedForward::kMoe});
  if (const Json* types = text.Find("layer_types")) {
    if (!types->is_array() || static_cast<int64_t>(types->size()) != count) {
      text.Fail("layer_types", absl::StrCat("has ", types->size(), " entries; num_hidden_layers is ", count));
      return text.status();
    }
    for (size_t i = 0; i < types->size(); ++i) {
      const Json& type = (*types)[i];
      if (qwen35 && type == "linear_attention") {
        config.layers[i].mixer = Mixer::kGatedDeltaNet;
      } else if (type != "full_attention") {
        text.Fail("layer_types",
                  absl::StrCat("has ", Fields::Show(type), " at layer ", i, "; supported: full_attention",
                               qwen35 ? ", linear_attention" : ""),
                  errors::kModelUnsupported);
        return text.status();
      }
    }
  } else if (qwen35) {
    const int64_t interval = text.Int("full_attention_interval", 1, kMaxLayers, 4);
    for (int64_t i = 0; i < count; ++i) {
      if ((i + 1) % interval != 0) config.layers[static_cast<size_t>(i)].mixer = Mixer::kGatedDeltaNet;
    }
  }
  if (qwen35) return text.status();
  const int64_t step = text.Int("decoder_sparse_step", 1, kMaxLayers, 1);
  for (int64_t i = 0; i < count; ++i) {
    if ((i + 1) % step != 0) config.layers[static_cast<size_t>(i)].feed_forward = FeedForward::kDense;
  }
  for (const int64_t i : text.Ints("mlp_only_layers", 0, kMaxLayers)) {
    if (i < count) config.layers[static_cast<size_t>(i)].feed_forward = FeedForward::kDense;
  }
  return text.status();
}

absl::Status ReadAttention(Fields& text, ModelConfig& config) {
  config.heads = static_cast<int32_t>(text.Int("num_attention_heads", 1, kMaxHeads));
  config.kv_heads = static_cast<int32_t>(text.Int("num_key_value_heads", 1, kMaxHeads, config.heads));
  RETURN_IF_ERROR(text.status());
  if (config.heads % config.kv_heads != 0) {
    text.Fail(
        "num_key_value_heads",
        absl::StrCat("is ", config.kv_heads, ", which does not divide num_attention_heads ", config.heads));
  }
  if (text.Find("head_dim") == nullptr && config.hidden % config.heads != 0) {
    text.Fail("head_dim", absl::StrCat("is missing, and hidden_size ", config.hidden,
                                       " is no multiple of num_attention_heads ", config.heads));
  }
  config.head_dim = static_cast<int32_t>(text.Int("head_dim", 1, kMaxHeadDim, config.hidden / config.heads));
  config.attention_bias = text.Bool("attention_bias", false);
  if (text.Bool("use_sliding_window", false)) {
    text.Fail("use_sliding_window", "is true; sliding-window attention is not supported",
              errors::kModelUnsupported);
  }
  if (config.family == Family::kQwen35Moe && !text.Bool("attn_output_gate", true)) {
    text.Fail("attn_output_gate", "is false; qwen3_5_moe without the attention gate is not supported",
              errors::kModelUnsupported);
  }
  return text.status();
}

absl::Status ReadDeltaNet(Fields& text, ModelConfig& config) {
  bool used = false;
  for (const LayerConfig& layer : config.layers) used |= layer.mixer == Mixer::kGatedDeltaNet;
  if (!used) return absl::OkStatus();
  config.gdn_key_heads = static_cast<int32_t>(text.Int("linear_num_key_heads", 1, kMaxHeads));
  config.gdn_value_heads = static_cast<int32_t>(text.Int("linear_num_value_heads", 1, kMaxHeads));
  config.gdn_key_dim = static_cast<int32_t>(text.Int("linear_key_head_dim", 1, kMaxHeadDim));
  config.gdn_value_dim = static_cast<int32_t>(text.Int("linear_value_head_dim", 1, kMaxHeadDim));
  config.conv_taps = static_cast<int32_t>(text.Int("linear_conv_kernel_dim", 1, kernels::kGdnMaxTaps));
  RETURN_IF_ERROR(text.status());
  if (config.gdn_value_heads % config.gdn_key_heads != 0) {
    text.Fail("linear_num_value_heads",
              absl::StrCat("is ", config.gdn_value_heads, ", which is no multiple of linear_num_key_heads ",
                           config.gdn_key_heads));
  }
  return text.status();
}

absl::Status ReadExperts(Fields& text, ModelConfig& config) {
  config.experts = static_cast<int32_t>(text.Int("num_experts", 1, kMaxExperts));
  config.top_k = static_cast<int32_t>(text.Int("num_experts_per_tok", 1, kMaxExperts));
  config.expert_columns = text.Int("moe_intermediate_size", 1, kMaxHidden);
  RETURN_IF_ERROR(text.status());
  if (config.top_k > config.experts) {
    text.Fail("num_experts_per_tok", absl::StrCat("is ", config.top_k, "; num_experts is ", config.experts));
  }
  const int64_t addends = int64_t{config.top_k} * GroupsOf(config.expert_columns);
  if (addends > kMaxAddends) {
    text.Fail("num_experts_per_tok",
              absl::StrCat("times the groups of 128 in moe_intermediate_size is ", addends,
                           "; the exact sum holds at most ", kMaxAddends),
              errors::kModelUnsupported);
  }
  if (config.family == Family::kQwen35Moe) {
    config.shared_columns = text.Int("shared_expert_intermediate_size", 1, kMaxHidden);
    config.mtp_layers = static_cast<int32_t>(text.Int("mtp_num_hidden_layers", 0, 1, 1));
    if (text.Bool("mtp_use_dedicated_embeddings", false)) {
      text.Fail("mtp_use_dedicated_embeddings",
                "is true; an MTP layer with its own embedding is not supported", errors::kModelUnsupported);
    }
  } else {
    config.renormalise = text.Bool("norm_topk_prob", false);
    for (const LayerConfig& layer : config.layers) {
      if (layer.feed_forward == FeedForward::kDense && config.dense_columns == 0) {
        config.dense_columns = text.Int("intermediate_size", 1, kMaxHidden);
      }
    }
  }
  return text.status();
}

absl::Status ReadGeneration(const std::string& text, const std::string& file, ModelConfig& config) {
  if (text.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Json root, ParseJson(text, kMaxConfigBytes, errors::kModelConfig, file));
  if (!root.is_object()) return Error(errors::kModelConfig, absl::StrCat(file, ": expected a JSON object"));
  Fields fields(root, file, "");
  const std::vector<int64_t> ends = fields.Ints("eos_token_id", 0, config.vocab - 1);
  if (!ends.empty()) config.eos_tokens.assign(ends.begin(), ends.end());
  config.do_sample = fields.Bool("do_sample", true);
  config.temperature = static_cast<float>(fields.Number("temperature", 0, 1000, 1));
  config.top_k_sampling = static_cast<int32_t>(std::max<int64_t>(0, fields.Int("top_k", -1, INT32_MAX, 0)));
  config.top_p = static_cast<float>(fields.Number("top_p", 0, 1, 1));
  return fields.status();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& config_text,
                                             const std::string& generation_text,
                                             const std::string& directory) {
  const std::string file = absl::StrCat(directory, "/config.json");
  ASSIGN_OR_RETURN(const Json root, ParseJson(config_text, kMaxConfigBytes, errors::kModelConfig, file));
  if (!root.is_object()) return Error(errors::kModelConfig, absl::StrCat(file, ": expected a JSON object"));
  const bool nested = root.contains("text_config");
  if (nested && !root["text_config"].is_object()) {
    return Error(errors::kModelConfig, absl::StrCat(file, ": text_config: expected an object"));
  }
  const std::string path = nested ? "text_config." : "";
  Fields outer(root, file, "");
  Fields text(nested ? root["text_config"] : root, file, path);

  ModelConfig config;
  RETURN_IF_ERROR(ReadFamily(outer, text, config));
  const bool qwen35 = config.family == Family::kQwen35Moe;
  config.norm_plus_one = qwen35;
  config.vocab = text.Int("vocab_size", 1, kMaxVocab);
  config.hidden = text.Int("hidden_size", 1, kMaxHidden);
  config.context = text.Int("max_position_embeddings", 1, kMaxContext);
  config.norm_eps = static_cast<float>(text.Number("rms_norm_eps", 1e-30, 1, 1e-6));
  config.tied_embeddings = outer.Bool("tie_word_embeddings", text.Bool("tie_word_embeddings", false));
  const std::string activation = text.Text("hidden_act");
  if (!activation.empty() && activation != "silu") {
    text.Fail("hidden_act", absl::StrCat("is \"", Printable(activation), "\"; only silu is supported"),
              errors::kModelUnsupported);
  }
  RETURN_IF_ERROR(outer.status());
  RETURN_IF_ERROR(text.status());
  RETURN_IF_ERROR(ReadLayers(text, config));
  RETURN_IF_ERROR(ReadAttention(text, config));
  RETURN_IF_ERROR(ReadRope(text, file, path, config));
  RETURN_IF_ERROR(ReadDeltaNet(text, config));
  RETURN_IF_ERROR(ReadExperts(text, config));
  for (Fields* fields : {&text, &outer}) {
    if (!config.eos_tokens.empty()) break;
    const std::vector<int64_t> ends = fields->Ints("eos_token_id", 0, config.vocab - 1);
    config.eos_tokens.assign(ends.begin(), ends.end());
    RETURN_IF_ERROR(fields->status());
  }
  RETURN_IF_ERROR(
      ReadGeneration(generation_text, absl::StrCat(directory, "/generation_config.json"), config));
  return config;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(absl::StrCat(directory, "/config.json"),
                                                        kMaxConfigBytes, errors::kModelConfig));
  const absl::StatusOr<std::string> generation =
      ReadTextFile(absl::StrCat(directory, "/generation_config.json"), kMaxConfigBytes, errors::kModelConfig);
  if (!generation.ok() && CodeOf(std::string(generation.status().message())) != errors::kModelMissing.id) {
    return generation.status();
  }
  if (generation.ok() && generation->empty()) {
    return Error(errors::kModelConfig, absl::StrCat(directory, "/generation_config.json: the file is empty"));
  }
  return ParseModelConfig(text, generation.ok() ? *generation : "", directory);
}

}  // namespace paceline
