// Records of blocks, and who uses which.
#include "model/gdn_cache.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/step.h"

namespace paceline {

// Inputs that a run's first row reads stay while its last row is stored.
static_assert(kernels::kGdnMaxTaps - 1 + kMaxDraft + 1 <= kernels::kGdnWindow);

GdnLayer::GdnLayer(const kernels::GdnShape& shape, const std::vector<GdnPlace>& places, int32_t records,
                   int32_t snapshots)
    : places_(&places),
      state_(int64_t{shape.value_heads} * shape.key_dim * shape.value_dim),
      k_(int64_t{kernels::kGdnBlock} * shape.key_heads * shape.key_dim),
      u_(int64_t{kernels::kGdnBlock} * shape.value_heads * shape.value_dim),
      c_(int64_t{kernels::kGdnBlock} * shape.value_heads),
      record_(state_ + k_ + u_ + c_),
      window_(kernels::kGdnWindow * shape.channels()),
      channels_(shape.channels()),
      inputs_(shape.conv_taps - 1),
      snapshot_(state_ + inputs_ * channels_),
      records_(record_ * records * static_cast<int64_t>(sizeof(float))),
      windows_(window_ * static_cast<int64_t>(places.size() * sizeof(float))),
      snapshots_(snapshot_ * snapshots * static_cast<int64_t>(sizeof(float))) {
  CHECK_LE(shape.conv_taps, kernels::kGdnMaxTaps);
}

kernels::GdnBlock GdnLayer::Record(int32_t record) const {
  kernels::GdnBlock block;
  block.state = reinterpret_cast<float*>(records_.data()) + record * record_;
  block.k = block.state + state_;
  block.u = block.k + k_;
  block.c = block.u + u_;
  return block;
}

kernels::GdnState GdnLayer::at(int32_t slot) const {
  const GdnPlace& place = (*places_)[slot];
  return {Record(place.block), Record(place.next),
          reinterpret_cast<float*>(windows_.data()) + slot * window_};
}

void GdnLayer::Reset(int32_t slot) {
  const kernels::GdnState s = at(slot);
  std::fill_n(s.block.state, state_, 0.0f);
  std::fill_n(s.window, window_, 0.0f);
}

float* GdnLayer::Input(const kernels::GdnState& state, int64_t border, int64_t j) const {
  return state.window + (border - inputs_ + j) % kernels::kGdnWindow * channels_;
}

void GdnLayer::Keep(int32_t slot, int64_t border, int32_t snapshot) const {
  const kernels::GdnState s = at(slot);
  float* to = reinterpret_cast<float*>(snapshots_.data()) + snapshot * snapshot_;
  to = std::copy_n(s.block.state, state_, to);
  for (int64_t j = 0; j < inputs_; ++j) to = std::copy_n(Input(s, border, j), channels_, to);
}

void GdnLayer::Restore(int32_t slot, int64_t border, int32_t snapshot) const {
  const kernels::GdnState s = at(slot);
  const float* from = reinterpret_cast<const float*>(snapshots_.data()) + snapshot * snapshot_;
  std::copy_n(from, state_, s.block.state);
  from += state_;
  for (int64_t j = 0; j < inputs_; ++j, from += channels_) std::copy_n(from, channels_, Input(s, border, j));
}

GdnCache::GdnCache(const kernels::GdnShape& shape, const std::vector<bool>& has_layer, int32_t slots,
                   int32_t snapshots)
    : places_(slots),
      owners_(slots, SequenceId(0)),
      reached_(slots, 0),
      rows_taken_back_(kernels::kGdnWindow - (shape.conv_taps - 1)),
      snapshots_(snapshots),
      borders_(slots, 0) {
  for (int32_t slot = 0; slot < slots; ++slot) places_[slot] = {slot, slot};
  for (int32_t record = 2 * slots - 1; record >= slots; --record) spares_.push_back(record);
  for (const bool has : has_layer)
    layers_.push_back(has ? GdnLayer(shape, places_, 2 * slots, snapshots) : GdnLayer());
}

int32_t GdnCache::SlotOf(SequenceId sequence) const {
  const auto slot = slots_.find(sequence);
  CHECK(slot != slots_.end());
  CHECK_EQ(owners_[slot->second], sequence);
  return slot->second;
}

void GdnCache::Settle(int32_t slot, bool next) {
  GdnPlace& place = places_[slot];
  if (place.next == place.block) return;
  if (next) std::swap(place.block, place.next);
  spares_.push_back(place.next);
  place.next = place.block;
}

void GdnCache::Open(SequenceId sequence, int32_t slot) {
  CHECK_GE(slot, 0);
  CHECK_LT(slot, static_cast<int32_t>(places_.size()));
  Close(sequence);
  Settle(slot, false);  // of a sequence that had the slot before and was not closed
  owners_[slot] = sequence;
  reached_[slot] = 0;
  slots_[sequence] = slot;
  for (GdnLayer& layer : layers_) {
    if (!layer.empty()) layer.Reset(slot);
  }
}

void GdnCache::Extend(SequenceId sequence, int64_t first, int32_t rows, bool speculative) {
  const int32_t slot = SlotOf(sequence);
  CHECK_EQ(places_[slot].block, places_[slot].next);
  if (!speculative) return;
  CHECK_LE(rows, kMaxDraft + 1);
  const int64_t border = (first / kernels::kGdnBlock + 1) * kernels::kGdnBlock;
  if (first + rows < border) return;
  CHECK(!spares_.empty());
  places_[slot].next = spares_.back();
  spares_.pop_back();
  borders_[slot] = border;
}

void GdnCache::Commit(SequenceId sequence, int64_t position) {
  const int32_t slot = SlotOf(sequence);
  Settle(slot, position >= borders_[slot]);
  reached_[slot] = position;
}

void GdnCache::Keep(SequenceId sequence, int64_t border, int32_t snapshot, ThreadPool& pool) const {
  const int32_t slot = SlotOf(sequence);
  CHECK(snapshot >= 0 && snapshot < snapshots_);
  CHECK_EQ(border % kernels::kGdnBlock, 0);
  CHECK_EQ(reached_[slot] / kernels::kGdnBlock * kernels::kGdnBlock, border);
  CHECK_LE(reached_[slot] - border, rows_taken_back_);
  pool.Run(static_cast<int64_t>(layers_.size()), [&](int64_t layer) {
    const GdnLayer& of = layers_[static_cast<size_t>(layer)];
    if (!of.empty()) of.Keep(slot, border, snapshot);
  });
}

void GdnCache::Restore(SequenceId sequence, int64_t border, int32_t snapshot, ThreadPool& pool) {
  const int32_t slot = SlotOf(sequence);
  CHECK(snapshot >= 0 && snapshot < snapshots_);
  CHECK_EQ(reached_[slot], 0);
  pool.Run(static_cast<int64_t>(layers_.size()), [&](int64_t layer) {
    const GdnLayer& of = layers_[static_cast<size_t>(layer)];
    if (!of.empty()) of.Restore(slot, border, snapshot);
  });
  reached_[slot] = border;
}

void GdnCache::Close(SequenceId sequence) {
  const auto slot = slots_.find(sequence);
  if (slot == slots_.end()) return;
  if (owners_[slot->second] == sequence) Settle(slot->second, false);
  slots_.erase(slot);
}

}  // namespace paceline
