// The sequence state of a trunk: KV pages of the attention layers, recurrent state of the Gated DeltaNet
// layers. Physical memory only: who owns which page and slot is the coordinator's bookkeeping. Memory is
// touched when used.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "model/config.h"
#include "model/gdn_cache.h"
#include "model/lazy_memory.h"
#include "model/sequence_state.h"

namespace paceline {

// KV pages of one attention layer.
class KvLayer {
 public:
  KvLayer() = default;
  KvLayer(const kernels::AttentionShape& shape, kernels::KvDtype dtype, int32_t pages);
  kernels::KvPages view() const {
    return {dtype_, k_.data(), v_.data(), reinterpret_cast<float*>(k_scales_.data()),
            reinterpret_cast<float*>(v_scales_.data())};
  }

 private:
  kernels::KvDtype dtype_ = kernels::KvDtype::kBF16;
  LazyMemory k_, v_;                // [pages, kv_heads, kAttentionBlock, head_dim]
  LazyMemory k_scales_, v_scales_;  // [pages, kv_heads, kAttentionBlock] fp32; empty but for codes
};

// Everything, by layer index of the trunk. Before rows of a sequence run, gdn_state() has heard of them. KV
// rolls back by itself: a row reads no position behind its own, and what was taken back is written again
// before it is read, since rows follow on (StateRegistry CHECKs that).
class Caches {
 public:
  Caches(const ModelConfig& config, kernels::KvDtype dtype, int32_t slots, int32_t pages,
         int32_t snapshots = 0);
  const KvLayer& kv(size_t layer) const { return kv_[layer]; }
  const GdnLayer& gdn(size_t layer) const { return gdn_.layer(layer); }
  GdnCache& gdn_state() { return gdn_; }

 private:
  std::vector<KvLayer> kv_;  // [layers], empty where the mixer is another
  GdnCache gdn_;
};

// Bytes of one KV page in all layers, the MTP layer's aside, and of one snapshot.
int64_t KvPageBytes(const ModelConfig& config, kernels::KvDtype dtype);
int64_t SnapshotBytes(const ModelConfig& config);

kernels::AttentionShape AttentionShapeOf(const ModelConfig& config);
kernels::GdnShape GdnShapeOf(const ModelConfig& config);

}  // namespace paceline
