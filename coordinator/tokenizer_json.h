// tokenizer.json taken apart, without trust: the vocabulary and the merges as lists, the rest as a small
// tree. Nothing here recurses, so depth costs nothing; broken files give a sentence that names the part.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace paceline {

struct TokenizerFile {
  std::vector<std::pair<std::string, int64_t>> vocab;       // model.vocab in the file's order, as written
  std::vector<std::pair<std::string, std::string>> merges;  // model.merges by rank, either spelling
  nlohmann::json rest;                                      // an object: everything else
};

// InvalidArgument, without a code: "<part>: <what is wrong>".
absl::StatusOr<TokenizerFile> ReadTokenizerFile(std::string_view json);

}  // namespace paceline
