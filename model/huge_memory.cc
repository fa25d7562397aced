// Anonymous mappings.
#include "model/huge_memory.h"

#include <sys/mman.h>

#include "base/check.h"

namespace paceline {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

}  // namespace

HugeMemory::HugeMemory(int64_t bytes) : bytes_(bytes) {
  if (bytes <= 0) return;
  mapped_bytes_ = (bytes + kHugePage - 1) / kHugePage * kHugePage + kHugePage;
  mapped_ = mmap(nullptr, static_cast<size_t>(mapped_bytes_), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(mapped_ != MAP_FAILED);
  const auto start = reinterpret_cast<uintptr_t>(mapped_);
  data_ = static_cast<uint8_t*>(mapped_) + (kHugePage - start % kHugePage) % kHugePage;
  madvise(data_, static_cast<size_t>(mapped_bytes_ - kHugePage), MADV_HUGEPAGE);
}

HugeMemory::~HugeMemory() {
  if (mapped_ != nullptr) munmap(mapped_, static_cast<size_t>(mapped_bytes_));
}

HugeMemory& HugeMemory::operator=(HugeMemory&& other) noexcept {
  std::swap(mapped_, other.mapped_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace paceline
