// All safetensors files of a folder as one set of names. The index file only adds requirements.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/read_plan.h"
#include "model/safetensors.h"

namespace paceline {

// A tensor and the file it lies in.
struct StoredTensor {
  const SafetensorsFile* file = nullptr;
  const TensorEntry* entry = nullptr;

  bool present() const { return entry != nullptr; }
  const std::string& name() const { return entry->name; }
  // "model.norm.weight (BF16 [64] in /m/model.safetensors)"
  std::string Describe() const;
  absl::Status Read(int64_t offset, int64_t bytes, void* out) const {
    return file->Read(*entry, offset, bytes, out);
  }
  // Where [offset, offset + bytes) of the tensor lies in its file.
  FileRange RangeOf(int64_t offset, int64_t bytes) const {
    const int64_t begin = file->data_begin() + entry->begin + offset;
    return {file->number(), begin, begin + bytes};
  }
};

class TensorStore {
 public:
  // LOAD-001 (no file), LOAD-003, LOAD-004 (one name in two files, a tensor or file of the index that is not
  // there).
  static absl::StatusOr<TensorStore> Open(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }
  // Not present() when there is none.
  StoredTensor Find(std::string_view full_name) const;

  // SHA-256 over `config_text`, every file's header and size, and 64 evenly spaced samples of 4 KiB per file.
  // LOAD-003.
  absl::StatusOr<std::string> Digest(std::string_view config_text) const;

 private:
  absl::Status CheckIndex() const;

  std::string directory_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  absl::flat_hash_map<std::string_view, StoredTensor> tensors_;
};

}  // namespace paceline
