// Looking bytes up.
#include "model/read_ahead.h"

#include <cstring>

namespace paceline {

const ReadAhead& ReadAhead::None() {
  static const ReadAhead none;
  return none;
}

const uint8_t* ReadAhead::View(const StoredTensor& tensor, int64_t offset, int64_t bytes) const {
  const FileRange wanted = tensor.RangeOf(offset, bytes);
  for (const Held& held : held_) {
    if (held.range.file == wanted.file && held.range.begin <= wanted.begin && wanted.end <= held.range.end)
      return held.bytes + (wanted.begin - held.range.begin);
  }
  return nullptr;
}

absl::Status ReadAhead::Read(const StoredTensor& tensor, int64_t offset, int64_t bytes, void* out) const {
  if (const uint8_t* here = View(tensor, offset, bytes); here != nullptr) {
    std::memcpy(out, here, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
  if (this != &None() && bytes > 0) ++misses_;
  return tensor.Read(offset, bytes, out);
}

}  // namespace paceline
