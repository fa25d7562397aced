// The step's scratch memory, and names of formats.
#include <new>

#include "kernels/kernels.h"

namespace paceline::kernels {
namespace {

constexpr std::align_val_t kAlignment{64};

}  // namespace

void Workspace::Free::operator()(std::byte* p) const { ::operator delete[](p, kAlignment); }

void Workspace::Reset() {
  // One chunk next time: after the largest step nothing is allocated any more.
  if (chunks_.size() > 1) {
    int64_t total = 0;
    for (const Chunk& chunk : chunks_) total += chunk.bytes;
    chunks_.clear();
    chunks_.push_back({std::unique_ptr<std::byte, Free>(new (kAlignment) std::byte[total]), total});
  }
  chunk_ = 0;
  used_ = 0;
}

void* Workspace::TakeBytes(int64_t bytes) {
  const int64_t rounded = (bytes + 63) / 64 * 64;
  while (chunk_ < chunks_.size() && used_ + rounded > chunks_[chunk_].bytes) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    const int64_t size = std::max<int64_t>(rounded, int64_t{1} << 20);
    chunks_.push_back({std::unique_ptr<std::byte, Free>(new (kAlignment) std::byte[size]), size});
  }
  void* memory = chunks_[chunk_].memory.get() + used_;
  used_ += rounded;
  return memory;
}

const char* WeightFormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "F32";
    case WeightFormat::kF16:
      return "F16";
    case WeightFormat::kBF16:
      return "BF16";
    case WeightFormat::kFp8Block128:
      return "FP8 block-128";
    case WeightFormat::kInt4:
      return "INT4";
    case WeightFormat::kInt8:
      return "INT8";
  }
  return "?";
}

}  // namespace paceline::kernels
