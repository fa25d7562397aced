// Both families in all their spellings; every wrong value is refused by the name of its field.
#include "model/config.h"

#include <gtest/gtest.h>

#include <functional>

#include "tests/model/checkpoint_files.h"

namespace paceline {
namespace {

using Json = nlohmann::json;
using testing::SmallConfig;

absl::StatusOr<ModelConfig> Parse(const Json& config, const std::string& generation = "") {
  return ParseModelConfig(config.dump(), generation, "/m");
}

Json Qwen3() {
  return {{"architectures", {"Qwen3MoeForCausalLM"}},
          {"model_type", "qwen3_moe"},
          {"vocab_size", 100},
          {"hidden_size", 96},
          {"num_hidden_layers", 6},
          {"num_attention_heads", 6},
          {"num_key_value_heads", 2},
          {"hidden_act", "silu"},
          {"max_position_embeddings", 4096},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"rope_scaling", nullptr},
          {"use_sliding_window", false},
          {"num_experts", 8},
          {"num_experts_per_tok", 2},
          {"moe_intermediate_size", 40},
          {"intermediate_size", 200},
          {"decoder_sparse_step", 2},
          {"mlp_only_layers", {1}},
          {"eos_token_id", {5, 6}}};
}

TEST(ModelConfig, Qwen35) {
  const auto flat = Parse(SmallConfig());
  ASSERT_TRUE(flat.ok()) << flat.status();
  EXPECT_EQ(flat->family, Family::kQwen35Moe);
  EXPECT_TRUE(flat->norm_plus_one);
  EXPECT_TRUE(flat->renormalise);
  EXPECT_EQ(flat->rotary_dims, 8);
  EXPECT_EQ(flat->rope_theta, 1e6);
  EXPECT_EQ(flat->conv_channels(), 48);
  EXPECT_EQ(flat->layers[0].mixer, Mixer::kGatedDeltaNet);
  EXPECT_EQ(flat->layers[1].mixer, Mixer::kGatedAttention);
  EXPECT_EQ(flat->eos_tokens, (std::vector<int32_t>{3}));
  Json nested = {{"model_type", "qwen3_5_moe"},
                 {"architectures", {"Qwen3_5MoeForConditionalGeneration"}},
                 {"tie_word_embeddings", true},
                 {"text_config", SmallConfig()}};
  nested["text_config"].erase("architectures");
  const auto wrapped = Parse(nested);
  ASSERT_TRUE(wrapped.ok()) << wrapped.status();
  EXPECT_TRUE(wrapped->tied_embeddings);
  EXPECT_EQ(wrapped->model_type, "qwen3_5_moe");
  EXPECT_EQ(wrapped->vocab, 24);
}

TEST(ModelConfig, LayerPatternAndRopeSpellings) {
  Json config = SmallConfig();
  config.erase("layer_types");
  config["num_hidden_layers"] = 6;
  config["full_attention_interval"] = 3;
  config["rope_parameters"] = nullptr;
  config["rope_theta"] = 5000;
  config["partial_rotary_factor"] = 0.25;
  const auto parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(parsed->layers[i].mixer, i % 3 == 2 ? Mixer::kGatedAttention : Mixer::kGatedDeltaNet) << i;
  }
  EXPECT_EQ(parsed->rotary_dims, 4);
  EXPECT_EQ(parsed->rope_theta, 5000);
}

TEST(ModelConfig, Qwen3Moe) {
  const auto parsed = Parse(Qwen3());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->head_dim, 16);
  EXPECT_EQ(parsed->rotary_dims, 16);
  EXPECT_FALSE(parsed->norm_plus_one);
  EXPECT_FALSE(parsed->renormalise);
  EXPECT_EQ(parsed->shared_columns, 0);
  EXPECT_EQ(parsed->mtp_layers, 0);
  EXPECT_EQ(parsed->dense_columns, 200);
  EXPECT_EQ(parsed->eos_tokens, (std::vector<int32_t>{5, 6}));
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(parsed->layers[i].mixer, Mixer::kAttention);
    EXPECT_EQ(parsed->layers[i].feed_forward, i % 2 == 1 && i != 1 ? FeedForward::kMoe : FeedForward::kDense)
        << i;
  }
}

TEST(ModelConfig, RefusesByField) {
  const struct {
    const char* field;
    Json value;
    bool qwen3 = false;
  } cases[] = {
      {"hidden_size", int64_t{1} << 40},
      {"hidden_size", 0},
      {"hidden_size", "64"},
      {"hidden_size", 64.5},
      {"hidden_size", 18446744073709551615ull},
      {"vocab_size", (1 << 24) + 1},
      {"vocab_size", -1},
      {"num_hidden_layers", 4097},
      {"num_attention_heads", 0},
      {"num_key_value_heads", 3, true},
      {"head_dim", -1},
      {"rms_norm_eps", 0},
      {"rms_norm_eps", "small"},
      {"num_experts", 0},
      {"num_experts", 65537},
      {"num_experts_per_tok", 5},
      {"moe_intermediate_size", 0},
      {"shared_expert_intermediate_size", -3},
      {"linear_num_value_heads", 0},
      {"linear_conv_kernel_dim", 1000},
      {"hidden_act", "gelu"},
      {"use_sliding_window", true},
      {"use_sliding_window", 1},
      {"model_type", "qwen9_moe"},
      {"model_type", nullptr},
      {"architectures", {"GptForCausalLM"}},
      {"attn_output_gate", false},
      {"mtp_num_hidden_layers", 2},
      {"mtp_use_dedicated_embeddings", true},
      {"layer_types", {"full_attention"}},
      {"layer_types", {"full_attention", "sliding_attention"}},
      {"tie_word_embeddings", "yes"},
      {"eos_token_id", 24},
      {"eos_token_id", {1, -1}},
      {"max_position_embeddings", 0},
      {"rope_theta", -1, true},
      {"rope_theta", nullptr, true},
      {"rope_scaling", {{"rope_type", "yarn"}}, true},
      {"rope_scaling", {{"type", "linear"}}, true},
      {"rope_scaling", 3, true},
      {"decoder_sparse_step", 0, true},
      {"mlp_only_layers", {-1}, true},
      {"intermediate_size", nullptr, true},
      {"partial_rotary_factor", 0.5, true},
      {"norm_topk_prob", 2, true},
  };
  for (const auto& c : cases) {
    Json config = c.qwen3 ? Qwen3() : SmallConfig();
    config[c.field] = c.value;
    if (std::string(c.field) == "num_key_value_heads") config["num_attention_heads"] = 8;
    const auto parsed = Parse(config);
    ASSERT_FALSE(parsed.ok()) << c.field << " " << c.value;
    const std::string message(parsed.status().message());
    EXPECT_NE(message.find(c.field), std::string::npos) << message;
    EXPECT_NE(message.find("/m/config.json"), std::string::npos) << message;
  }
  for (const char* field :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_experts",
        "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size",
        "linear_num_key_heads", "linear_key_head_dim", "max_position_embeddings"}) {
    Json config = SmallConfig();
    config.erase(field);
    const auto parsed = Parse(config);
    ASSERT_FALSE(parsed.ok()) << field;
    EXPECT_NE(parsed.status().message().find(field), absl::string_view::npos);
  }
  Json wide = SmallConfig();
  wide["moe_intermediate_size"] = 128 * 300;
  EXPECT_NE(Parse(wide).status().message().find("moe_intermediate_size"), absl::string_view::npos);
}

TEST(ModelConfig, TextsThatAreNoConfiguration) {
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("3"), std::string("{\"a\":1,\"a\":2}"),
        std::string(300000, '['), std::string("{\"text_config\":7}")}) {
    const auto parsed = ParseModelConfig(text, "", "/m");
    ASSERT_FALSE(parsed.ok());
    EXPECT_EQ(parsed.status().message().find("LOAD-002: /m/config.json"), 0u) << parsed.status();
  }
}

TEST(ModelConfig, AMistakeInTheTextIsShown) {
  std::string text = SmallConfig().dump();
  text.replace(text.find("1e-06"), 5, "NaN");
  const auto parsed = ParseModelConfig(text, "", "/m");
  ASSERT_FALSE(parsed.ok());
  EXPECT_NE(parsed.status().message().find("rms_norm_eps"), absl::string_view::npos) << parsed.status();
}

TEST(ModelConfig, Generation) {
  const auto parsed = Parse(
      SmallConfig(), R"({"eos_token_id":[7,3],"do_sample":false,"temperature":0.6,"top_k":20,"top_p":0.95})");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->eos_tokens, (std::vector<int32_t>{7, 3}));
  EXPECT_FALSE(parsed->do_sample);
  EXPECT_EQ(parsed->temperature, 0.6f);
  EXPECT_EQ(parsed->top_k_sampling, 20);
  EXPECT_EQ(parsed->top_p, 0.95f);
  EXPECT_EQ(Parse(SmallConfig(), R"({"eos_token_id":9})")->eos_tokens, (std::vector<int32_t>{9}));
  EXPECT_EQ(Parse(SmallConfig(), "{}")->eos_tokens, (std::vector<int32_t>{3}));
  for (const char* bad :
       {"{", R"({"temperature":"hot"})", R"({"eos_token_id":[99]})", R"({"top_p":2})", "[]"}) {
    const auto refused = Parse(SmallConfig(), bad);
    ASSERT_FALSE(refused.ok()) << bad;
    EXPECT_NE(refused.status().message().find("generation_config.json"), absl::string_view::npos);
  }
}

}  // namespace
}  // namespace paceline
