// Opening past the page cache.
#include "model/read_files.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace paceline {

ReadFiles::ReadFiles(const std::vector<std::unique_ptr<SafetensorsFile>>& files, bool direct)
    : files_(files), direct_(direct), opened_(files.size()) {}

ReadFiles::~ReadFiles() {
  for (const Opened& file : opened_) {
    if (file.direct_fd >= 0) ::close(file.direct_fd);
  }
}

int ReadFiles::fd(int32_t number) {
  Opened& opened = opened_[static_cast<size_t>(number)];
  const SafetensorsFile& file = *files_[static_cast<size_t>(number)];
  if (!opened.used) {
    opened.used = true;
    if (direct_) {
      const absl::StatusOr<int> direct = file.OpenDirect();
      if (direct.ok()) {
        opened.direct_fd = *direct;
        opened.direct = true;
      } else {
        Note(std::string(direct.status().message()));
      }
    }
  }
  return opened.direct ? opened.direct_fd : file.fd();
}

void ReadFiles::GiveUpDirect(int32_t number, const std::string& why) {
  Opened& opened = opened_[static_cast<size_t>(number)];
  if (!opened.direct) return;
  opened.direct = false;
  Note(absl::StrCat(file(number).path(), " cannot be read past the page cache (", why, ")"));
}

void ReadFiles::Note(const std::string& why) {
  if (note_.empty()) note_ = why;
}

absl::Status ReadFiles::CheckUnchanged() const {
  for (size_t i = 0; i < opened_.size(); ++i) {
    if (opened_[i].used) RETURN_IF_ERROR(files_[i]->CheckUnchanged());
  }
  return absl::OkStatus();
}

std::string ReadFiles::Describe() const {
  const auto count = [&](bool direct) {
    return std::count_if(opened_.begin(), opened_.end(),
                         [&](const Opened& f) { return f.used && f.direct == direct; });
  };
  if (count(false) == 0) return "O_DIRECT";
  return count(true) == 0 ? "page cache" : "O_DIRECT and page cache";
}

}  // namespace paceline
