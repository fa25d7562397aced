// The sequence state of a trunk: KV pages of the attention layers, recurrent state of the Gated DeltaNet
// layers. Physical memory only: who owns which page and slot is the coordinator's bookkeeping. Memory is
// touched when used.
#pragma once

#include <cstdint>
#include <unordered_map>
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
  kernels::KvPages view() const { return {dtype_, k_.data(), v_.data()}; }

 private:
  kernels::KvDtype dtype_ = kernels::KvDtype::kBF16;
  LazyMemory k_, v_;  // [pages, kv_heads, kAttentionBlock, head_dim]
};

// KV rolls back by itself: a row reads no position behind its own, and what was taken back is written again
// before it is read. That holds as long as rows follow on, which is CHECKed here.
class KvCursors final : public StateKind {
 public:
  void Open(SequenceId sequence, int32_t slot) override;
  void Extend(SequenceId sequence, int64_t first, int32_t rows, bool speculative) override;
  void Commit(SequenceId sequence, int64_t position) override;
  void Close(SequenceId sequence) override;

 private:
  struct Written {
    int64_t committed = 0;
    int64_t end = 0;
  };
  std::unordered_map<SequenceId, Written> sequences_;
};

// Everything, by layer index of the trunk. Before rows of a sequence run, both kinds have heard of them.
class Caches {
 public:
  Caches(const ModelConfig& config, kernels::KvDtype dtype, int32_t slots, int32_t pages);
  const KvLayer& kv(size_t layer) const { return kv_[layer]; }
  const GdnLayer& gdn(size_t layer) const { return gdn_.layer(layer); }
  KvCursors& kv_state() { return cursors_; }
  GdnCache& gdn_state() { return gdn_; }

 private:
  std::vector<KvLayer> kv_;  // [layers], empty where the mixer is another
  KvCursors cursors_;
  GdnCache gdn_;
};

kernels::AttentionShape AttentionShapeOf(const ModelConfig& config);
kernels::GdnShape GdnShapeOf(const ModelConfig& config);

}  // namespace paceline
