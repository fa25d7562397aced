// A Hugging Face checkpoint directory, opened: configuration read and checked, every tensor of every
// *.safetensors file accounted for, formats decided from the tensors present. Nothing but headers and g_idx
// is read before a weight is asked for. Sources: safetensors' published format; GPTQ/AutoRound and FP8
// layouts as docs/FORMATS.md has them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/weights.h"
#include "model/config.h"
#include "model/read_ahead.h"

namespace paceline {

// Half-open range of outputs or inputs; {0, -1} means all.
struct Span64 {
  int64_t begin = 0;
  int64_t end = -1;
};

class Checkpoint {
 public:
  // LOAD-001..007. Opening checks names, shapes, dtypes, offsets and sizes of everything; it allocates in
  // proportion to the headers, never to what they claim.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& directory);
  virtual ~Checkpoint() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const std::string& directory() const = 0;
  // SHA-256 over configuration, headers, sizes and sampled bytes: equal on every node of a cluster.
  virtual const std::string& digest() const = 0;
  // First missing mtp.* tensor when only some are there ("" otherwise). None at all: config().mtp_layers is
  // 0.
  virtual const std::string& missing_mtp() const = 0;
  // Things a user should read: no MTP layer, act-order tensors dequantised, ...
  virtual const std::vector<std::string>& warnings() const = 0;
  // What FileRange::file counts.
  virtual const std::vector<std::unique_ptr<SafetensorsFile>>& files() const = 0;

  // Names below are logical: relative to the text model ("layers.3.self_attn.q_proj", "embed_tokens",
  // "lm_head", "mtp.layers.0.mlp.shared_expert.gate_proj"), whatever prefix, sharding or fusing the files
  // use.

  // How a linear layer is stored, without reading it.
  struct LinearFacts {
    kernels::WeightFormat format;  // after load rules: an act-order INT4 tensor is kF32
    int64_t outputs = 0;
    int64_t inputs = 0;
    int64_t stored_bytes = 0;
    int64_t group = 0;           // INT4: inputs per scale
    bool rows_by_input = false;  // stored with the inputs outermost (GPTQ): parts of it are ranges of inputs
  };
  virtual absl::StatusOr<LinearFacts> DescribeLinear(const std::string& name) const = 0;
  // Rows and columns of a linear layer; only the byte ranges needed are read (for INT4, whole rows of qweight
  // words). `inputs` must begin at a multiple of 128. LOAD-003..005.
  // Elements that `ahead` holds are borrowed from it, not copied (kernels/weights.h).
  virtual absl::StatusOr<kernels::PlainLinear> ReadLinear(
      const std::string& name, Span64 outputs = {}, Span64 inputs = {},
      const ReadAhead& ahead = ReadAhead::None()) const = 0;
  // Every byte range that the same read takes, appended to `ranges`; of a layer that is there (CHECKed).
  virtual void ListLinear(const std::string& name, Span64 outputs, Span64 inputs,
                          std::vector<FileRange>& ranges) const = 0;

  // One expert of `mlp` ("layers.3.mlp", "mtp.layers.0.mlp"), fused or not: gate and up rows [columns), down
  // columns. `projection` is "gate_proj", "up_proj" or "down_proj".
  virtual absl::StatusOr<LinearFacts> DescribeExpert(const std::string& mlp, int32_t expert,
                                                     std::string_view projection) const = 0;
  virtual absl::StatusOr<kernels::PlainExpert> ReadExpert(
      const std::string& mlp, int32_t expert, Span64 columns = {},
      const ReadAhead& ahead = ReadAhead::None()) const = 0;
  virtual void ListExpert(const std::string& mlp, int32_t expert, Span64 columns,
                          std::vector<FileRange>& ranges) const = 0;

  // A norm, bias, convolution, A_log or dt_bias as fp32, flattened.
  virtual absl::StatusOr<std::vector<float>> ReadVector(const std::string& name,
                                                        const ReadAhead& ahead = ReadAhead::None()) const = 0;
  virtual void ListVector(const std::string& name, std::vector<FileRange>& ranges) const = 0;
  virtual bool Has(const std::string& name) const = 0;  // "layers.0.self_attn.q_proj.bias"
};

// A 16-bit or fp32 head made INT8, one scale per row (docs/NUMERICS.md, INT8 head).
kernels::PlainLinear QuantiseRowsInt8(const kernels::PlainLinear& head);

}  // namespace paceline
