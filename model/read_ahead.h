// Bytes that were read before anybody asked for them. Reading a tensor looks here first and goes to its file
// for what is missing, so a read that failed ahead fails again, in the words of the tensor, or not at all.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "model/read_plan.h"
#include "model/tensor_store.h"

namespace paceline {

// Filled by one thread, then read by another.
class ReadAhead {
 public:
  // Holds nothing.
  static const ReadAhead& None();

  void Add(const FileRange& range, const uint8_t* bytes) { held_.push_back({range, bytes}); }

  // Bytes [offset, offset + bytes) of a tensor where they lie; null unless all of them are here, in one
  // piece.
  const uint8_t* View(const StoredTensor& tensor, int64_t offset, int64_t bytes) const;
  // The same as a copy, from the file where they are not here. LOAD-003.
  absl::Status Read(const StoredTensor& tensor, int64_t offset, int64_t bytes, void* out) const;

  // Reads that went to a file.
  int64_t misses() const { return misses_; }

 private:
  struct Held {
    FileRange range;
    const uint8_t* bytes;
  };
  std::vector<Held> held_;
  mutable int64_t misses_ = 0;
};

}  // namespace paceline
