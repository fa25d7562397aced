// Memory of caches: zeroed, and handed out by the system page by page, on first touch.
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
  std::byte* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace paceline
