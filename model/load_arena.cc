// First fit, so that a small model touches little of the arena.
#include "model/load_arena.h"

#include <iterator>
#include <utility>

#include "base/check.h"

namespace paceline {

LoadArena::LoadArena(int64_t bytes, int64_t block) : block_(block), memory_(bytes) {
  CHECK(bytes > 0 && bytes % block == 0);
  free_[0] = bytes;
}

uint8_t* LoadArena::Take(int64_t bytes) {
  const int64_t wanted = Rounded(bytes);
  if (wanted > memory_.bytes()) {
    if (lent_ > 0) return nullptr;
    single_ = HugeMemory(wanted);
    lent_ += wanted;
    return single_.data();
  }
  for (auto at = free_.begin(); at != free_.end(); ++at) {
    if (at->second < wanted) continue;
    const auto [offset, room] = *at;
    free_.erase(at);
    if (room > wanted) free_[offset + wanted] = room - wanted;
    lent_ += wanted;
    return memory_.data() + offset;
  }
  return nullptr;
}

void LoadArena::Give(uint8_t* memory, int64_t bytes) {
  const int64_t given = Rounded(bytes);
  lent_ -= given;
  CHECK_GE(lent_, 0);
  if (memory == single_.data() && single_.bytes() > 0) {
    single_ = HugeMemory();
    return;
  }
  int64_t offset = memory - memory_.data();
  int64_t room = given;
  CHECK(offset >= 0 && offset + room <= memory_.bytes());
  auto next = free_.lower_bound(offset);
  CHECK(next == free_.end() || offset + room <= next->first);
  if (next != free_.end() && offset + room == next->first) {
    room += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    CHECK_LE(before->first + before->second, offset);
    if (before->first + before->second == offset) {
      before->second += room;
      return;
    }
  }
  free_[offset] = room;
}

}  // namespace paceline
