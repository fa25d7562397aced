// Which tensors a synthetic checkpoint has, and how each is filled.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/safetensors.h"
#include "model/synth.h"
#include "nlohmann/json_fwd.hpp"

namespace paceline::synth {

enum class Fill : uint8_t {
  kUniform,  // centre + amplitude * u, u uniform in [-1, 1)
  kWords,    // random bits
  kE4m3,     // random codes of magnitude below 2, never NaN
  kZeros8,   // INT4 zeros of 8 as GPTQ v1 stores them
};

struct PlannedTensor {
  std::string name;
  Dtype dtype = Dtype::kBF16;
  std::vector<int64_t> shape;
  Fill fill = Fill::kUniform;
  float centre = 0;
  float amplitude = 0;
  int64_t bytes() const;
};

// Fields of config.json that differ between the sizes of the family (flagship figures).
struct ModelShape {
  const char* name;
  int64_t hidden, heads, value_heads, experts, top_k, columns;
  int32_t layers;
  int64_t vocab = 248320;
};

// Null for an unknown name.
const ModelShape* FindShape(const std::string& name);
std::string KnownShapes();

// WriteSynthetic for a shape of the caller's own (options.like is only noted in config.json): small ones, for
// tests. Widths at multiples of 128, at least 16 value heads.
absl::Status WriteShape(const ModelShape& shape, const SynthOptions& options);

nlohmann::json MakeConfig(const ModelShape& shape, const SynthOptions& options);
std::vector<PlannedTensor> PlanTensors(const ModelShape& shape, const SynthOptions& options);

// A byte-level tokenizer of 256 bytes and the family's added tokens, at ids 256 and up.
inline constexpr int64_t kEndOfText = 256;
inline constexpr int64_t kEndOfTurn = 258;
nlohmann::json MakeTokenizer();
nlohmann::json MakeTokenizerConfig();
nlohmann::json MakeGenerationConfig();

// Bytes [first, first + count) of a tensor; first and count are multiples of 8. A function of (seed, name,
// position).
void FillTensor(const PlannedTensor& tensor, uint64_t seed, int64_t first, int64_t count, uint8_t* out);

}  // namespace paceline::synth
