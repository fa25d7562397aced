// Scratch memory: chunks that become one when the call is over.
#include "kernels/cuda/machine.h"

#include <algorithm>
#include <cstdint>

#include "base/check.h"

namespace paceline::kernels::cuda {

void* Scratch::TakeBytes(int64_t bytes) {
  if (machine_.watches_borders()) return chunks_.emplace_back(machine_, bytes).as<void>();
  const int64_t rounded = std::max<int64_t>(256, (bytes + 255) / 256 * 256);
  if (chunks_.empty() || used_ + rounded > chunks_.back().bytes()) {
    chunks_.emplace_back(machine_, std::max<int64_t>(rounded, int64_t{1} << 20));
    CHECK(chunks_.back().as<void>() != nullptr);  // weights are loaded with room left
    used_ = 0;
  }
  void* memory = chunks_.back().as<uint8_t>() + used_;
  used_ += rounded;
  return memory;
}

void Scratch::Reset() {
  used_ = 0;
  if (machine_.watches_borders()) chunks_.clear();
  if (chunks_.size() < 2) return;
  int64_t total = 0;
  for (const DeviceMemory& chunk : chunks_) total += chunk.bytes();
  chunks_.clear();
  chunks_.emplace_back(machine_, total);
}

}  // namespace paceline::kernels::cuda
