// Plain memory in large amounts: zeroed, page aligned, on huge pages where the system gives them, and given
// back when its owner goes. A page counts from its first touch.
#pragma once

#include <cstdint>
#include <utility>

namespace paceline {

class HugeMemory {
 public:
  HugeMemory() = default;
  explicit HugeMemory(int64_t bytes);
  ~HugeMemory();
  HugeMemory(HugeMemory&& other) noexcept { *this = std::move(other); }
  HugeMemory& operator=(HugeMemory&& other) noexcept;

  uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* mapped_ = nullptr;
  int64_t mapped_bytes_ = 0;
  uint8_t* data_ = nullptr;  // the first huge page of mapped_
  int64_t bytes_ = 0;
};

}  // namespace paceline
