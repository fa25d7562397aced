// The descriptors that a load reads through: past the page cache where the file system allows it, so that
// loading neither copies every byte once more nor throws other people's files out of memory. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/safetensors.h"

namespace paceline {

class ReadFiles {
 public:
  // `files` outlive this.
  ReadFiles(const std::vector<std::unique_ptr<SafetensorsFile>>& files, bool direct);
  ~ReadFiles();
  ReadFiles(const ReadFiles&) = delete;
  ReadFiles& operator=(const ReadFiles&) = delete;

  const SafetensorsFile& file(int32_t number) const { return *files_[static_cast<size_t>(number)]; }
  // Opened at the first call.
  int fd(int32_t number);
  bool direct(int32_t number) const { return opened_[static_cast<size_t>(number)].direct; }
  // From now on through the page cache: the file system took the flag but not the reads. The old descriptor
  // stays open, for other reads may be under way on it.
  void GiveUpDirect(int32_t number, const std::string& why);

  // LOAD-003 names the first file read here that is no longer what was opened.
  absl::Status CheckUnchanged() const;
  // "O_DIRECT", "page cache", or both.
  std::string Describe() const;
  // Why some file is read through the page cache; empty when none is, or that was asked for.
  const std::string& note() const { return note_; }

 private:
  struct Opened {
    bool used = false;
    bool direct = false;
    int direct_fd = -1;
  };
  void Note(const std::string& why);

  const std::vector<std::unique_ptr<SafetensorsFile>>& files_;
  const bool direct_;
  std::vector<Opened> opened_;
  std::string note_;
};

}  // namespace paceline
