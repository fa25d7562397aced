// What config.json and generation_config.json say of a model, checked and in one plain struct. Families are
// data: a pattern of mixers and feed-forwards. Every size a user can get wrong is bounded here, before
// anything is allocated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace paceline {

enum class Family { kQwen35Moe, kQwen3Moe };
enum class Mixer : uint8_t { kGatedAttention, kAttention, kGatedDeltaNet };
enum class FeedForward : uint8_t { kMoe, kDense };

struct LayerConfig {
  Mixer mixer = Mixer::kGatedAttention;
  FeedForward feed_forward = FeedForward::kMoe;
};

struct ModelConfig {
  Family family = Family::kQwen35Moe;
  std::string model_type;  // as written
  int64_t vocab = 0;
  int64_t hidden = 0;
  std::vector<LayerConfig> layers;
  int64_t context = 0;  // max_position_embeddings
  float norm_eps = 1e-6f;
  bool norm_plus_one = true;  // norms multiply by 1 + w (qwen3_5_moe) or by w (qwen3_moe)
  bool tied_embeddings = false;

  // Attention.
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t rotary_dims = 0;
  double rope_theta = 0;
  bool attention_bias = false;

  // Gated DeltaNet; zeros when no layer uses it.
  int32_t gdn_key_heads = 0;
  int32_t gdn_value_heads = 0;
  int32_t gdn_key_dim = 0;
  int32_t gdn_value_dim = 0;
  int32_t conv_taps = 0;
  int64_t conv_channels() const {
    return int64_t{2} * gdn_key_heads * gdn_key_dim + int64_t{gdn_value_heads} * gdn_value_dim;
  }

  // Experts.
  int32_t experts = 0;
  int32_t top_k = 0;
  int64_t expert_columns = 0;  // moe_intermediate_size
  int64_t shared_columns = 0;  // shared_expert_intermediate_size; 0 = no shared expert
  int64_t dense_columns = 0;   // intermediate_size of dense layers
  bool renormalise = true;     // top-k router weights divided by their sum

  int32_t mtp_layers = 0;  // 0 or 1; 0 as well when no mtp.* tensor is there

  // generation_config.json.
  std::vector<int32_t> eos_tokens;  // the stop set
  bool do_sample = true;
  float temperature = 1.0f;
  int32_t top_k_sampling = 0;
  float top_p = 1.0f;
};

// `directory` names files in errors. LOAD-001 (absent), LOAD-002 (not JSON, a field missing or out of range:
// named), LOAD-007.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& directory);
// The same from texts, for tests and fuzzing; `generation_text` may be empty.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& text, const std::string& generation_text,
                                             const std::string& directory);

}  // namespace paceline
