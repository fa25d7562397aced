// Memory of caches.
#include "model/lazy_memory.h"

#include "base/check.h"

namespace paceline {

namespace {

constexpr size_t kLine = 64;  // bytes

}  // namespace

// calloc, because fresh memory of the system is zero without being touched.
LazyMemory::LazyMemory(int64_t bytes)
    : memory_(static_cast<std::byte*>(std::calloc(static_cast<size_t>(bytes) + kLine, 1))) {
  CHECK(memory_ != nullptr);
  size_t room = static_cast<size_t>(bytes) + kLine;
  void* at = memory_.get();
  data_ = static_cast<std::byte*>(std::align(kLine, 1, at, room));
}

}  // namespace paceline
