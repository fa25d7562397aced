// The sequence state of a trunk: KV pages of the attention layers, recurrent state slots of the Gated
// DeltaNet layers. Physical memory only: who owns which page and slot is the coordinator's bookkeeping.
// Memory is touched when used.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "model/config.h"

namespace paceline {

// Zeroed memory that the system hands out page by page, on first touch.
class LazyMemory {
 public:
  LazyMemory() = default;
  explicit LazyMemory(int64_t bytes);
  std::byte* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> memory_;
};

// KV pages of one attention layer.
class KvLayer {
 public:
  KvLayer() = default;
  KvLayer(const kernels::AttentionShape& shape, kernels::KvDtype dtype, int32_t pages);
  kernels::KvPages view() const { return {dtype_, k_.data(), v_.data()}; }

 private:
  kernels::KvDtype dtype_ = kernels::KvDtype::kBF16;
  LazyMemory k_, v_;  // [pages, kv_heads, kAttentionBlock, head_dim]
};

// Recurrent state of one Gated DeltaNet layer, all slots.
class GdnLayer {
 public:
  GdnLayer() = default;
  GdnLayer(const kernels::GdnShape& shape, int32_t slots);
  kernels::GdnState at(int32_t slot) const;
  // A fresh sequence: zero state, zero window.
  void Reset(int32_t slot);

 private:
  kernels::GdnShape shape_;
  LazyMemory memory_;
  int64_t state_ = 0, k_ = 0, u_ = 0, c_ = 0, window_ = 0;  // elements of each part of a slot
  int64_t slot_ = 0;                                        // elements of a slot
};

// Everything, by layer index of the trunk.
class Caches {
 public:
  Caches(const ModelConfig& config, kernels::KvDtype dtype, int32_t slots, int32_t pages);
  const KvLayer& kv(size_t layer) const { return kv_[layer]; }
  GdnLayer& gdn(size_t layer) { return gdn_[layer]; }
  void ResetSlot(int32_t slot);

 private:
  std::vector<KvLayer> kv_;    // [layers], empty where the mixer is another
  std::vector<GdnLayer> gdn_;  // [layers]
  std::vector<bool> has_gdn_;
};

kernels::AttentionShape AttentionShapeOf(const ModelConfig& config);
kernels::GdnShape GdnShapeOf(const ModelConfig& config);

}  // namespace paceline
