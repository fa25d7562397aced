// One safetensors file: its header checked whole before anything believes it, its bytes read by range.
// Source: the published format (8 bytes of header length, JSON, data; docs/FORMATS.md, Container).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace paceline {

enum class Dtype : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0
};
const char* DtypeName(Dtype dtype);
int64_t DtypeBytes(Dtype dtype);
// F32, F16, BF16: what norms, vectors and scales may be.
constexpr bool IsPlainFloat(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16;
}

struct TensorEntry {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // bytes from the start of the data block
  int64_t end = 0;
  int64_t bytes() const { return end - begin; }
};

// "BF16 [2, 3]"
std::string ShapeText(const std::vector<int64_t>& shape);
std::string TypeText(const TensorEntry& entry);

// Every entry of a header whose data block has `data_bytes`. LOAD-003, naming `file` and the tensors
// concerned: not JSON, nested, a name twice, unknown dtype, a dimension that is negative or too large, a size
// that contradicts the offsets, offsets outside the data, tensors that share bytes.
absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(std::string_view header, int64_t data_bytes,
                                                                const std::string& file);

// Open for its life; reads are thread-safe.
class SafetensorsFile {
 public:
  // LOAD-001 (cannot be opened), LOAD-003.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const std::vector<TensorEntry>& entries() const { return entries_; }
  int64_t file_bytes() const { return file_bytes_; }
  const std::string& header_digest() const { return header_digest_; }  // SHA-256 of the header, hex
  int64_t data_begin() const { return data_begin_; }                   // where entries count from
  int fd() const { return fd_; }
  // Among the files of a folder: what FileRange::file says.
  int32_t number() const { return number_; }
  void set_number(int32_t number) { number_ = number; }

  // Bytes [offset, offset + bytes) of a tensor. LOAD-003 naming tensor and file when the file ends early or
  // cannot be read.
  absl::Status Read(const TensorEntry& entry, int64_t offset, int64_t bytes, void* out) const;
  // Bytes of the file at an absolute position, for samples. LOAD-003.
  absl::Status ReadAt(int64_t position, int64_t bytes, void* out) const;
  // A second descriptor, the caller's, whose reads go past the page cache. Unavailable says why there is
  // none.
  absl::StatusOr<int> OpenDirect() const;
  // LOAD-003 when the file is no longer what was opened: its size or the time of its last change.
  absl::Status CheckUnchanged() const;

 private:
  SafetensorsFile() = default;

  std::string path_;
  int32_t number_ = 0;
  int fd_ = -1;
  int64_t file_bytes_ = 0;
  int64_t changed_ns_ = 0;  // time of the last change when it was opened
  int64_t data_begin_ = 0;
  std::vector<TensorEntry> entries_;
  std::string header_digest_;
};

}  // namespace paceline
