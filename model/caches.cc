// Sequence state memory.
#include "model/caches.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace paceline {

LazyMemory::LazyMemory(int64_t bytes)
    : memory_(static_cast<std::byte*>(std::calloc(std::max<int64_t>(bytes, 1), 1))) {
  CHECK(memory_ != nullptr);
}

KvLayer::KvLayer(const kernels::AttentionShape& shape, kernels::KvDtype dtype, int32_t pages)
    : dtype_(dtype) {
  const int64_t bytes = int64_t{pages} * shape.kv_heads * kernels::kAttentionBlock * shape.head_dim *
                        kernels::KvDtypeBytes(dtype);
  k_ = LazyMemory(bytes);
  v_ = LazyMemory(bytes);
}

GdnLayer::GdnLayer(const kernels::GdnShape& shape, int32_t slots)
    : shape_(shape),
      state_(int64_t{shape.value_heads} * shape.key_dim * shape.value_dim),
      k_(int64_t{kernels::kGdnBlock} * shape.key_heads * shape.key_dim),
      u_(int64_t{kernels::kGdnBlock} * shape.value_heads * shape.value_dim),
      c_(int64_t{kernels::kGdnBlock} * shape.value_heads),
      window_((shape.conv_taps - 1) * shape.channels()) {
  slot_ = state_ + k_ + u_ + c_ + window_;
  memory_ = LazyMemory(slot_ * slots * static_cast<int64_t>(sizeof(float)));
}

kernels::GdnState GdnLayer::at(int32_t slot) const {
  float* base = reinterpret_cast<float*>(memory_.data()) + slot * slot_;
  kernels::GdnState s;
  s.state = base;
  s.k = s.state + state_;
  s.u = s.k + k_;
  s.c = s.u + u_;
  s.window = s.c + c_;
  return s;
}

void GdnLayer::Reset(int32_t slot) {
  const kernels::GdnState s = at(slot);
  std::fill_n(s.state, state_, 0.0f);
  std::fill_n(s.window, window_, 0.0f);
}

Caches::Caches(const ModelConfig& config, kernels::KvDtype dtype, int32_t slots, int32_t pages) {
  for (const LayerConfig& layer : config.layers) {
    const bool gdn = layer.mixer == Mixer::kGatedDeltaNet;
    has_gdn_.push_back(gdn);
    kv_.push_back(gdn ? KvLayer() : KvLayer(AttentionShapeOf(config), dtype, pages));
    gdn_.push_back(gdn ? GdnLayer(GdnShapeOf(config), slots) : GdnLayer());
  }
}

void Caches::ResetSlot(int32_t slot) {
  for (size_t i = 0; i < gdn_.size(); ++i) {
    if (has_gdn_[i]) gdn_[i].Reset(slot);
  }
}

kernels::AttentionShape AttentionShapeOf(const ModelConfig& config) {
  return {config.heads, config.kv_heads, config.head_dim};
}

kernels::GdnShape GdnShapeOf(const ModelConfig& config) {
  return {config.gdn_key_heads, config.gdn_value_heads, config.gdn_key_dim, config.gdn_value_dim,
          config.conv_taps};
}

}  // namespace paceline
