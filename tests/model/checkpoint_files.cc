// Writing small checkpoints.
#include "tests/model/checkpoint_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace paceline::testing {

std::vector<float> Values(int64_t count, uint32_t seed) {
  std::vector<float> out(static_cast<size_t>(count));
  uint32_t state = seed * 2654435761u + 1;
  for (float& value : out) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<int32_t>(state >> 25) - 64) / 64.0f;
  }
  return out;
}

RawTensor F32(std::vector<int64_t> shape, uint32_t seed) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return {"F32", std::move(shape), Bytes(Values(count, seed))};
}

RawTensor Bf16(std::vector<int64_t> shape, uint32_t seed) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  std::vector<uint16_t> bits;
  for (const float value : Values(count, seed))
    bits.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
  return {"BF16", std::move(shape), Bytes(bits)};
}

nlohmann::json SmallConfig() {
  return {
      {"architectures", {"Qwen3_5MoeForCausalLM"}},
      {"model_type", "qwen3_5_moe_text"},
      {"vocab_size", 24},
      {"hidden_size", 256},
      {"num_hidden_layers", 2},
      {"layer_types", {"linear_attention", "full_attention"}},
      {"num_attention_heads", 2},
      {"num_key_value_heads", 1},
      {"head_dim", 16},
      {"hidden_act", "silu"},
      {"max_position_embeddings", 512},
      {"rms_norm_eps", 1e-6},
      {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}, {"partial_rotary_factor", 0.5}}},
      {"linear_num_key_heads", 1},
      {"linear_num_value_heads", 2},
      {"linear_key_head_dim", 8},
      {"linear_value_head_dim", 16},
      {"linear_conv_kernel_dim", 4},
      {"num_experts", 4},
      {"num_experts_per_tok", 2},
      {"moe_intermediate_size", 144},
      {"shared_expert_intermediate_size", 24},
      {"mtp_num_hidden_layers", 1},
      {"eos_token_id", 3}};
}

Tensors SmallTensors(const std::string& prefix) {
  constexpr int64_t kHidden = 256;
  Tensors out;
  uint32_t seed = 1;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    out[name] = Bf16(std::move(shape), seed++);
  };
  const auto moe = [&](const std::string& p) {
    add(p + "gate.weight", {4, kHidden});
    for (int e = 0; e < 4; ++e) {
      const std::string q = p + "experts." + std::to_string(e) + ".";
      add(q + "gate_proj.weight", {144, kHidden});
      add(q + "up_proj.weight", {144, kHidden});
      add(q + "down_proj.weight", {kHidden, 144});
    }
    add(p + "shared_expert.gate_proj.weight", {24, kHidden});
    add(p + "shared_expert.up_proj.weight", {24, kHidden});
    add(p + "shared_expert.down_proj.weight", {kHidden, 24});
    add(p + "shared_expert_gate.weight", {1, kHidden});
  };
  const auto attention = [&](const std::string& p) {
    add(p + "q_proj.weight", {64, kHidden});
    add(p + "k_proj.weight", {16, kHidden});
    add(p + "v_proj.weight", {16, kHidden});
    add(p + "o_proj.weight", {kHidden, 32});
    add(p + "q_norm.weight", {16});
    add(p + "k_norm.weight", {16});
  };
  const auto norms = [&](const std::string& p) {
    add(p + "input_layernorm.weight", {kHidden});
    add(p + "post_attention_layernorm.weight", {kHidden});
  };
  add(prefix + "embed_tokens.weight", {24, kHidden});
  add(prefix + "norm.weight", {kHidden});
  add("lm_head.weight", {24, kHidden});
  norms(prefix + "layers.0.");
  const std::string gdn = prefix + "layers.0.linear_attn.";
  add(gdn + "in_proj_qkv.weight", {48, kHidden});
  add(gdn + "in_proj_z.weight", {32, kHidden});
  add(gdn + "in_proj_a.weight", {2, kHidden});
  add(gdn + "in_proj_b.weight", {2, kHidden});
  add(gdn + "conv1d.weight", {48, 1, 4});
  out[gdn + "A_log"] = F32({2}, seed++);
  add(gdn + "dt_bias", {2});
  add(gdn + "norm.weight", {16});
  add(gdn + "out_proj.weight", {kHidden, 32});
  moe(prefix + "layers.0.mlp.");
  norms(prefix + "layers.1.");
  attention(prefix + "layers.1.self_attn.");
  moe(prefix + "layers.1.mlp.");
  add("mtp.fc.weight", {kHidden, 2 * kHidden});
  add("mtp.pre_fc_norm_embedding.weight", {kHidden});
  add("mtp.pre_fc_norm_hidden.weight", {kHidden});
  add("mtp.norm.weight", {kHidden});
  norms("mtp.layers.0.");
  attention("mtp.layers.0.self_attn.");
  moe("mtp.layers.0.mlp.");
  return out;
}

Folder::Folder() {
  std::string pattern = ::testing::TempDir() + "paceline-model-XXXXXX";
  path_ = ::mkdtemp(pattern.data());
}
Folder::~Folder() { std::filesystem::remove_all(path_); }

void Folder::Write(const std::string& name, const std::string& bytes) const {
  std::ofstream(path_ + "/" + name, std::ios::binary) << bytes;
}

void Folder::WriteModel(const nlohmann::json& config, const Tensors& tensors) const {
  Write("config.json", config.dump());
  Write("model.safetensors", Safetensors(tensors));
}

Tensors ReadTensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(file), {}};
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, all.data(), 8);
  Tensors tensors;
  const nlohmann::json header = nlohmann::json::parse(all.substr(8, header_bytes));
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const size_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
    tensors[name] = {entry["dtype"], entry["shape"].get<std::vector<int64_t>>(),
                     all.substr(8 + header_bytes + begin, end - begin)};
  }
  return tensors;
}

std::string WithHeader(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

std::string Safetensors(const Tensors& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  return WithHeader(text, data);
}

}  // namespace paceline::testing
