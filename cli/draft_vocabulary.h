// Which ids are worth drafting. A draft head that knows few ids reads few rows; whatever it cannot say, the
// target still can, so the choice costs acceptance and never text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "coordinator/tokenizer.h"

namespace paceline::cli {

// Ids of a file of counts that are kept, special ones aside.
inline constexpr int64_t kDraftIdsOfAFile = 32768;

// The ids of `choice`, ascending; empty: all.
// - a number N: the N ids that merging makes first (frequent pieces are merged early), and every added token
// - "all"
// - a file: a JSON array of ids, taken as it is; or an object id -> count (`tokenize --counts`), of which the
//   most frequent are taken, and every added token.
// `tokenizer` may be null: then a number N means the ids below N. `vocab`: the model's. CFG-002 names the
// file and what in it is no id.
absl::StatusOr<std::vector<TokenId>> BuildDraftVocabulary(const std::string& choice,
                                                          const Tokenizer* tokenizer, int64_t vocab);

// The file of counts: {"id":count,..}, most frequent first.
std::string CountsToJson(std::span<const TokenId> ids);

}  // namespace paceline::cli
