// Recurrent state of the Gated DeltaNet layers. Every layer has physical records, each holding one block (the
// state at a border and the rows since); a slot uses the same record in all layers. Rows that may be taken
// back roll back by position inside a block. When they cross a border, a spare record takes the next block
// until it is known which of the two the text has reached; the other becomes the spare.
//
// A state at a border can be stored as a snapshot, and a fresh sequence can start from one: the state and
// the few convolution inputs in front of the border are all that rows behind it read.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/lazy_memory.h"
#include "model/sequence_state.h"

namespace paceline {

// Records of a slot.
struct GdnPlace {
  int32_t block = 0;
  int32_t next = 0;  // `block` where borders are folded in place
};

// One layer.
class GdnLayer {
 public:
  GdnLayer() = default;
  // `places` [slots] outlives the layer.
  GdnLayer(const kernels::GdnShape& shape, const std::vector<GdnPlace>& places, int32_t records,
           int32_t snapshots);
  kernels::GdnState at(int32_t slot) const;
  // A fresh sequence: zero state, zero window.
  void Reset(int32_t slot);
  // The state of the slot's block, which starts at `border`, and the inputs in front of it. And back.
  void Keep(int32_t slot, int64_t border, int32_t snapshot) const;
  void Restore(int32_t slot, int64_t border, int32_t snapshot) const;
  bool empty() const { return places_ == nullptr; }

 private:
  kernels::GdnBlock Record(int32_t record) const;
  // The window's row of the j-th of the kept inputs.
  float* Input(const kernels::GdnState& state, int64_t border, int64_t j) const;

  const std::vector<GdnPlace>* places_ = nullptr;
  int64_t state_ = 0, k_ = 0, u_ = 0, c_ = 0;  // elements of each part of a record
  int64_t record_ = 0;                         // elements of a record
  int64_t window_ = 0;                         // elements of a slot's window
  int64_t channels_ = 0, inputs_ = 0;          // inputs in front of a border that rows behind it read
  int64_t snapshot_ = 0;                       // elements of a snapshot
  LazyMemory records_;                         // [records, record_]
  LazyMemory windows_;                         // [slots, kGdnWindow, channels]
  LazyMemory snapshots_;                       // [snapshots], each state and [inputs, channels]
};

// All layers. A slot is the sequence's that opened it last; CHECKs that no other one uses it.
class GdnCache final : public StateKind {
 public:
  // has_layer [layers]: which layers of the trunk are Gated DeltaNet.
  GdnCache(const kernels::GdnShape& shape, const std::vector<bool>& has_layer, int32_t slots,
           int32_t snapshots = 0);
  GdnCache(const GdnCache&) = delete;
  GdnCache& operator=(const GdnCache&) = delete;

  void Open(SequenceId sequence, int32_t slot) override;
  void Extend(SequenceId sequence, int64_t first, int32_t rows, bool speculative) override;
  void Commit(SequenceId sequence, int64_t position) override;
  void Close(SequenceId sequence) override;

  // Stores the sequence's state at `border`, a multiple of kGdnBlock that its last commit has reached by less
  // than a block and by no more rows than the window takes back (CHECKed).
  void Keep(SequenceId sequence, int64_t border, int32_t snapshot, ThreadPool& pool) const;
  // A sequence just opened goes on behind `border`.
  void Restore(SequenceId sequence, int64_t border, int32_t snapshot, ThreadPool& pool);

  const GdnLayer& layer(size_t layer) const { return layers_[layer]; }  // by index of the trunk
  int32_t free_spares() const { return static_cast<int32_t>(spares_.size()); }
  int32_t spares() const { return static_cast<int32_t>(places_.size()); }

 private:
  int32_t SlotOf(SequenceId sequence) const;
  // The slot's text goes on in the next block or in the one it has; the other record is free.
  void Settle(int32_t slot, bool next);

  std::vector<GdnPlace> places_;    // [slots]
  std::vector<SequenceId> owners_;  // [slots]
  std::vector<int64_t> reached_;    // [slots] last commit
  const int64_t rows_taken_back_;   // behind a border, with its inputs still in the window
  const int32_t snapshots_;
  std::vector<int64_t> borders_;  // [slots] where the next block starts, while it has a record of its own
  // One for every slot, since all may cross a border in one step. Last in, first out: what has not been
  // touched takes no memory.
  std::vector<int32_t> spares_;
  std::vector<GdnLayer> layers_;  // [layers], empty where the mixer is another
  std::unordered_map<SequenceId, int32_t> slots_;
};

}  // namespace paceline
