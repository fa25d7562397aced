// Memory of caches.
#include "model/lazy_memory.h"

#include <algorithm>

#include "base/check.h"

namespace paceline {

LazyMemory::LazyMemory(int64_t bytes)
    : memory_(static_cast<std::byte*>(std::calloc(std::max<int64_t>(bytes, 1), 1))) {
  CHECK(memory_ != nullptr);
}

}  // namespace paceline
