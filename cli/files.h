// Inputs of commands: whole files, and files that hold token ids.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "cli/options.h"
#include "coordinator/tokenizer.h"

namespace paceline::cli {

// Every byte of a file. CFG-002 names the file.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path);

// A JSON array of token ids. CFG-002 names the file and the first entry that is no id.
absl::StatusOr<std::vector<TokenId>> ReadTokensJson(const std::string& path);

// JSON text of ids, without a library at the caller's.
std::string TokensToJson(const std::vector<TokenId>& ids);

}  // namespace paceline::cli
