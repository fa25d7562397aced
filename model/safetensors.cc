// Opening and reading a safetensors file. The header's own rules are in safetensors_header.cc.
#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "base/sha256.h"
#include "base/status.h"
#include "model/json_guard.h"

namespace paceline {
namespace {

// "" or why fewer bytes came.
std::string ReadWhole(int fd, int64_t position, int64_t bytes, char* out) {
  while (bytes > 0) {
    const ssize_t got = ::pread(fd, out, static_cast<size_t>(bytes), position);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::strerror(errno);
    if (got == 0) return absl::StrCat("the file ends at byte ", position);
    bytes -= got;
    position += got;
    out += got;
  }
  return "";
}

int64_t ChangedNs(const struct stat& facts) {
  return int64_t{facts.st_mtim.tv_sec} * 1'000'000'000 + facts.st_mtim.tv_nsec;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = path;
  // Not to hang where the name is that of a pipe.
  file->fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat facts{};
  if (file->fd_ < 0 || ::fstat(file->fd_, &facts) != 0) {
    return Error(errors::kModelMissing, absl::StrCat(path, ": cannot be opened: ", std::strerror(errno)));
  }
  if (!S_ISREG(facts.st_mode))
    return Error(errors::kModelFile, absl::StrCat(path, ": expected a plain file"));
  // A ring would give up on reads that have to wait for the disk.
  ::fcntl(file->fd_, F_SETFL, 0);
  file->file_bytes_ = facts.st_size;
  file->changed_ns_ = ChangedNs(facts);
  uint64_t header_bytes = 0;
  if (facts.st_size < 8) {
    return Error(errors::kModelFile,
                 absl::StrCat(path, ": ", facts.st_size, " bytes; a safetensors file has at least 8"));
  }
  if (const std::string why = ReadWhole(file->fd_, 0, 8, reinterpret_cast<char*>(&header_bytes));
      !why.empty()) {
    return Error(errors::kModelFile, absl::StrCat(path, ": cannot be read: ", why));
  }
  const auto room = static_cast<uint64_t>(facts.st_size - 8);
  if (header_bytes > room || header_bytes > static_cast<uint64_t>(kMaxHeaderBytes)) {
    return Error(errors::kModelFile,
                 absl::StrCat(path, ": says that its header has ", header_bytes, " bytes; the file has ",
                              room, " after the length, and at most ", kMaxHeaderBytes, " are read"));
  }
  std::string header(static_cast<size_t>(header_bytes), '\0');
  if (const std::string why = ReadWhole(file->fd_, 8, static_cast<int64_t>(header_bytes), header.data());
      !why.empty()) {
    return Error(errors::kModelFile, absl::StrCat(path, ": the header cannot be read: ", why));
  }
  file->data_begin_ = 8 + static_cast<int64_t>(header_bytes);
  ASSIGN_OR_RETURN(file->entries_, ParseSafetensorsHeader(header, facts.st_size - file->data_begin_, path));
  Sha256 digest;
  digest.Add(header);
  file->header_digest_ = digest.Hex();
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status SafetensorsFile::Read(const TensorEntry& entry, int64_t offset, int64_t bytes, void* out) const {
  CHECK_GE(offset, 0);
  CHECK_LE(offset + bytes, entry.bytes());
  const std::string why = ReadWhole(fd_, data_begin_ + entry.begin + offset, bytes, static_cast<char*>(out));
  if (why.empty()) return absl::OkStatus();
  return Error(errors::kModelFile,
               absl::StrCat(path_, ": ", Printable(entry.name), ": ", bytes, " bytes at offset ", offset,
                            " of the tensor cannot be read: ", why));
}

absl::Status SafetensorsFile::ReadAt(int64_t position, int64_t bytes, void* out) const {
  const std::string why = ReadWhole(fd_, position, bytes, static_cast<char*>(out));
  if (why.empty()) return absl::OkStatus();
  return Error(errors::kModelFile, absl::StrCat(path_, ": cannot be read: ", why));
}

absl::StatusOr<int> SafetensorsFile::OpenDirect() const {
  const auto refused = [&](const char* why) {
    return absl::UnavailableError(absl::StrCat(path_, " cannot be read past the page cache (", why, ")"));
  };
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (fd < 0) return refused(std::strerror(errno));
  // The name may lead to another file by now; what was opened first is what is read.
  struct stat first{}, second{};
  if (::fstat(fd_, &first) == 0 && ::fstat(fd, &second) == 0 && first.st_dev == second.st_dev &&
      first.st_ino == second.st_ino) {
    return fd;
  }
  ::close(fd);
  return refused("another file has its name now");
}

absl::Status SafetensorsFile::CheckUnchanged() const {
  struct stat facts{};
  if (::fstat(fd_, &facts) == 0 && facts.st_size == file_bytes_ && ChangedNs(facts) == changed_ns_)
    return absl::OkStatus();
  return Error(errors::kModelFile,
               absl::StrCat(path_, ": was changed while it was read: it had ", file_bytes_, " bytes and has ",
                            facts.st_size, "; load again when nobody writes to it"));
}

}  // namespace paceline
