// config.json, a NUL byte, generation_config.json. Whatever passes must be inside the bounds that the model
// relies on.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/placement.h"
#include "model/config.h"
#include "model/quantisation.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string all(reinterpret_cast<const char*>(data), size);
  const size_t cut = all.find('\0');
  const std::string config_text = all.substr(0, cut);
  const std::string generation = cut == std::string::npos ? "" : all.substr(cut + 1);
  const auto hints = paceline::ParseQuantisation(config_text, "f");
  const auto config = paceline::ParseModelConfig(config_text, generation, "f");
  if (!config.ok()) {
    CHECK(config.status().message().find("f/") != absl::string_view::npos);
    return 0;
  }
  CHECK_GE(config->hidden, 1);
  CHECK_LE(config->hidden, int64_t{1} << 20);
  CHECK(!config->layers.empty());
  CHECK_LE(config->top_k, config->experts);
  CHECK_LE(config->top_k * paceline::GroupsOf(config->expert_columns), 512);
  CHECK_EQ(config->heads % config->kv_heads, 0);
  CHECK_EQ(config->rotary_dims % 2, 0);
  CHECK_LE(config->rotary_dims, config->head_dim);
  CHECK_GE(config->conv_channels(), 0);
  for (const int32_t id : config->eos_tokens) CHECK_LT(id, config->vocab);
  return 0;
}
