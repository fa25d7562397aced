// The weights of one layer that live on the head: everything but the routed experts. Packed by a backend at
// load.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/kernels.h"
#include "model/checkpoint.h"
#include "model/linear_assembly.h"
#include "model/loader.h"
#include "transport/exchange.h"

namespace paceline {

struct AttentionWeights {
  bool gated = false;    // q_proj holds, per head, a query and a gate
  LinearPtr q, k, v, o;  // [heads * (1 or 2) * head_dim, hidden], [kv_heads * head_dim, hidden] x 2, [hidden,
                         // heads * head_dim]
  std::vector<float> q_norm, k_norm;                  // [head_dim]
  std::vector<float> q_bias, k_bias, v_bias, o_bias;  // empty unless attention_bias
};

struct DeltaNetWeights {
  LinearPtr qkv, z, b, a, out;  // [channels, hidden], [value_heads * value_dim, hidden], [value_heads,
                                // hidden] x 2, [hidden, value_heads * value_dim]
  std::vector<float> conv;      // [channels, taps]
  std::vector<float> decay;     // [value_heads], exp(A_log)
  std::vector<float> dt_bias;   // [value_heads]
  std::vector<float> norm;      // [value_dim]
};

struct FeedForwardWeights {  // a dense SwiGLU: dense layers and shared experts
  LinearPtr gate, up, down;  // [columns, hidden] x 2, [hidden, columns]
};

struct MoeWeights {
  LinearPtr router;  // [experts, hidden]
  RowFormat row_format = RowFormat::kFloat32;
  FeedForwardWeights shared;  // null pointers without a shared expert
  LinearPtr shared_gate;      // [1, hidden]
};

struct LayerWeights {
  std::vector<float> input_norm, post_norm;  // [hidden]
  std::unique_ptr<AttentionWeights> attention;
  std::unique_ptr<DeltaNetWeights> delta_net;
  std::unique_ptr<FeedForwardWeights> dense;
  std::unique_ptr<MoeWeights> moe;
  int64_t mixer_bytes = 0, feed_forward_bytes = 0;  // of the linears; routed experts not counted
};

// Adds the jobs that fill `to`, which stays where it is until the loader has run. `rule` sees every matrix
// but routers and shared gates. `prefix` is "layers.3" or "mtp.layers.0". Errors are the checkpoint's.
absl::Status AddLayer(Loader& loader, const std::string& prefix, const LayerConfig& layer,
                      const kernels::KernelTable& table, const LinearRule& rule, LayerWeights* to);
// One layer by itself, on the caller's thread.
absl::StatusOr<LayerWeights> LoadLayer(const Checkpoint& checkpoint, const std::string& prefix,
                                       const LayerConfig& layer, const kernels::KernelTable& table);

// Norms, biases and the like, read in one job.
struct NamedVector {
  std::string name;
  std::vector<float>* to;
};
void AddVectors(Loader& loader, std::vector<NamedVector> vectors);

// int16g128 when gate and up of every expert of the layer are integer, else fp32: a property of the layer,
// not of a node.
absl::StatusOr<RowFormat> RowFormatOf(const Checkpoint& checkpoint, const std::string& mlp);
// How rows of a layer of `format`, one of those two, travel: codes of one plane take a byte.
constexpr RowFormat WireFormat(RowFormat format, kernels::ActivationContract contract) {
  return format == RowFormat::kInt16Group128 && contract == kernels::ActivationContract::kInt8
             ? RowFormat::kInt8Group128
             : format;
}

}  // namespace paceline
