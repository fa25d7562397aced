// Memory that bytes are read into while a model loads: one stretch, lent out in pieces of any size that come
// back in any order. No locks: the loader's own guards it.
#pragma once

#include <cstdint>
#include <map>

#include "model/huge_memory.h"

namespace paceline {

class LoadArena {
 public:
  LoadArena(int64_t bytes, int64_t block);  // `bytes` is a multiple of `block`

  // Null when no stretch of so many bytes is free. One that is larger than the whole arena is had while
  // nothing else is lent, from memory of its own.
  uint8_t* Take(int64_t bytes);
  void Give(uint8_t* memory, int64_t bytes);

  uint8_t* data() const { return memory_.data(); }
  int64_t bytes() const { return memory_.bytes(); }
  int64_t lent_bytes() const { return lent_; }

 private:
  int64_t Rounded(int64_t bytes) const { return (bytes + block_ - 1) / block_ * block_; }

  const int64_t block_;
  HugeMemory memory_;
  HugeMemory single_;                // the one that did not fit
  std::map<int64_t, int64_t> free_;  // offset -> bytes, never two that touch
  int64_t lent_ = 0;
};

}  // namespace paceline
