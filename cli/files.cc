// Reading and writing what the command line names.
#include "cli/files.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {

std::string FolderName(const std::string& path) {
  const std::filesystem::path plain = std::filesystem::path(path).lexically_normal();
  return plain.filename().empty() ? plain.parent_path().filename().string() : plain.filename().string();
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (file) content << file.rdbuf();
  // An empty file leaves the output stream failed: nothing was inserted.
  if (!file.is_open() || file.bad() || errno == EISDIR) {
    return Error(errors::kOption, absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  }
  return content.str();
}

absl::Status WriteWholeFile(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  file.close();
  if (file) return absl::OkStatus();
  return Error(errors::kOption,
               absl::StrCat("cannot write ", path, "; give a file in a folder that can be written"));
}

absl::StatusOr<std::variant<std::string, std::vector<TokenId>>> ReadPrompt(const PromptOptions& prompt) {
  if (!prompt.tokens_json.empty()) return ReadTokensJson(prompt.tokens_json);
  if (!prompt.file.empty()) return ReadWholeFile(prompt.file);
  return prompt.text.value_or("");
}

absl::StatusOr<std::vector<TokenId>> ReadTokensJson(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path));
  const nlohmann::json array = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!array.is_array()) {
    return Error(errors::kOption,
                 absl::StrCat(path, " must hold a JSON array of token ids, such as [1, 2, 3]"));
  }
  std::vector<TokenId> ids;
  ids.reserve(array.size());
  for (const nlohmann::json& entry : array) {
    const bool id = entry.is_number_integer() && entry.get<int64_t>() >= 0 &&
                    entry.get<int64_t>() <= std::numeric_limits<TokenId>::max();
    if (!id) {
      return Error(errors::kOption,
                   absl::StrCat(path, ": entry ", ids.size(), " is ",
                                entry.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace),
                                ", not a token id"));
    }
    ids.push_back(entry.get<TokenId>());
  }
  return ids;
}

std::string TokensToJson(const std::vector<TokenId>& ids) {
  return absl::StrCat("[", absl::StrJoin(ids, ","), "]");
}

}  // namespace paceline::cli
