// Files that the command line names: whole ones, those that hold token ids, and prompts.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "cli/options.h"
#include "coordinator/tokenizer.h"

namespace paceline::cli {

// Every byte of a file. CFG-002 names the file.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path);

// CFG-002 names the file.
absl::Status WriteWholeFile(const std::string& path, const std::string& content);

// A JSON array of token ids. CFG-002 names the file and the first entry that is no id.
absl::StatusOr<std::vector<TokenId>> ReadTokensJson(const std::string& path);

// The prompt of whichever flag was given: text, or ids. Empty text when none was.
absl::StatusOr<std::variant<std::string, std::vector<TokenId>>> ReadPrompt(const PromptOptions& prompt);

// The last part of a folder's path: what its model is called.
std::string FolderName(const std::string& path);

// JSON text of ids, without a library at the caller's.
std::string TokensToJson(const std::vector<TokenId>& ids);

}  // namespace paceline::cli
