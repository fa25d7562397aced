// Memory of caches: zeroed, handed out by the system page by page, on first touch, and aligned to cache
// lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace paceline {

class LazyMemory {
 public:
  LazyMemory() = default;
  explicit LazyMemory(int64_t bytes);
  std::byte* data() const { return data_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::byte* data_ = nullptr;  // the first line that begins in it
};

}  // namespace paceline
