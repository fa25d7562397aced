// Sequence state memory.
#include "model/caches.h"

#include "kernels/kv_codes.h"

namespace paceline {
namespace {

std::vector<bool> GdnLayers(const ModelConfig& config) {
  std::vector<bool> gdn;
  for (const LayerConfig& layer : config.layers) gdn.push_back(layer.mixer == Mixer::kGatedDeltaNet);
  return gdn;
}

}  // namespace

KvLayer::KvLayer(const kernels::AttentionShape& shape, kernels::KvDtype dtype, int32_t pages)
    : dtype_(dtype) {
  const int64_t vectors = int64_t{pages} * shape.kv_heads * kernels::kAttentionBlock;
  const int64_t scale = kernels::KvInCodes(dtype) ? static_cast<int64_t>(sizeof(float)) : 0;  // bytes
  const int64_t vector = kernels::KvVectorBytes(dtype, shape.head_dim) - scale;               // bytes
  k_ = LazyMemory(vectors * vector);
  v_ = LazyMemory(vectors * vector);
  if (scale == 0) return;
  k_scales_ = LazyMemory(vectors * scale);
  v_scales_ = LazyMemory(vectors * scale);
}

Caches::Caches(const ModelConfig& config, kernels::KvDtype dtype, int32_t slots, int32_t pages,
               int32_t snapshots)
    : gdn_(GdnShapeOf(config), GdnLayers(config), slots, snapshots) {
  for (const LayerConfig& layer : config.layers) {
    const bool gdn = layer.mixer == Mixer::kGatedDeltaNet;
    kv_.push_back(gdn ? KvLayer() : KvLayer(AttentionShapeOf(config), dtype, pages));
  }
}

int64_t KvPageBytes(const ModelConfig& config, kernels::KvDtype dtype) {
  int64_t layers = 0;
  for (const bool gdn : GdnLayers(config)) layers += gdn ? 0 : 1;
  return 2 * layers * config.kv_heads * kernels::kAttentionBlock *
         kernels::KvVectorBytes(dtype, config.head_dim);
}

int64_t SnapshotBytes(const ModelConfig& config) {
  const kernels::GdnShape shape = GdnShapeOf(config);
  const int64_t layer =
      int64_t{shape.value_heads} * shape.key_dim * shape.value_dim + (shape.conv_taps - 1) * shape.channels();
  int64_t layers = 0;
  for (const bool gdn : GdnLayers(config)) layers += gdn ? 1 : 0;
  // What a drafter keeps beside it: one hidden state.
  return (layers * layer + config.hidden) * static_cast<int64_t>(sizeof(float));
}

kernels::AttentionShape AttentionShapeOf(const ModelConfig& config) {
  return {config.heads, config.kv_heads, config.head_dim};
}

kernels::GdnShape GdnShapeOf(const ModelConfig& config) {
  return {config.gdn_key_heads, config.gdn_value_heads, config.gdn_key_dim, config.gdn_value_dim,
          config.conv_taps};
}

}  // namespace paceline
