// The parts of tokenizer.json beside vocabulary and merges, checked and reduced to what encoding needs.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/added_tokens.h"
#include "nlohmann/json.hpp"

namespace paceline {

// All errors are InvalidArgument, without a code: "<part>: <what is wrong>".

// Whether text is normalised to NFC; every other normaliser is refused by name.
absl::StatusOr<bool> ReadNormalizer(const nlohmann::json& rest);

// The split patterns in the order they run.
absl::StatusOr<std::vector<std::string>> ReadPretokenizer(const nlohmann::json& rest);

// Refuses what is not the byte-level decoder.
absl::Status CheckDecoder(const nlohmann::json& rest);

struct ModelOptions {
  bool ignore_merges = false;
  bool needs_all_bytes =
      false;  // an option says what happens to bytes without a token: it must never be asked
};
absl::StatusOr<ModelOptions> ReadModelOptions(const nlohmann::json& rest);

// As written: contents not normalised, ids not compared with the vocabulary.
absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(const nlohmann::json& rest);

}  // namespace paceline
