// By rank, by count, or as listed.
#include "cli/draft_vocabulary.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/files.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {
namespace {

struct Counted {
  TokenId id = 0;
  int64_t count = 0;
};

// Most frequent first; of equals the lower id.
void SortByCount(std::vector<Counted>& counts) {
  std::sort(counts.begin(), counts.end(), [](const Counted& a, const Counted& b) {
    return a.count != b.count ? a.count > b.count : a.id < b.id;
  });
}

// Ids that no merge makes: special tokens and other added ones. A text ends with them, so they are drafted.
std::vector<TokenId> AddedIds(const Tokenizer& tokenizer, int64_t vocab) {
  std::vector<bool> merged(static_cast<size_t>(tokenizer.size()));
  for (const TokenId id : tokenizer.ByRank()) merged[static_cast<size_t>(id)] = true;
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < std::min(tokenizer.size(), vocab); ++id) {
    if (tokenizer.HasToken(id) && !merged[static_cast<size_t>(id)]) ids.push_back(id);
  }
  return ids;
}

// Ascending, each once.
std::vector<TokenId> Ordered(std::vector<TokenId> ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

absl::Status NoId(const std::string& file, const std::string& what, int64_t vocab) {
  return Error(errors::kOption, absl::StrCat("--draft-vocab ", file, ": ", what,
                                             " is no token id of this model; ids run from 0 to ", vocab - 1));
}

absl::StatusOr<std::vector<TokenId>> FromFile(const std::string& file, const Tokenizer* tokenizer,
                                              int64_t vocab) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(file));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if ((!json.is_array() && !json.is_object()) || json.empty()) {
    return Error(errors::kOption, absl::StrCat("--draft-vocab ", file,
                                               " must hold a JSON array of token ids, or an object of counts "
                                               "as `paceline tokenize --counts` writes it"));
  }
  std::vector<TokenId> ids;
  if (json.is_array()) {
    for (const nlohmann::json& entry : json) {
      if (!entry.is_number_integer() || entry.get<int64_t>() < 0 || entry.get<int64_t>() >= vocab)
        return NoId(file, entry.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace), vocab);
      ids.push_back(entry.get<TokenId>());
    }
    return Ordered(std::move(ids));
  }
  std::vector<Counted> counts;
  for (const auto& [key, value] : json.items()) {
    Counted counted;
    const std::from_chars_result read = std::from_chars(key.data(), key.data() + key.size(), counted.id);
    if (read.ec != std::errc() || read.ptr != key.data() + key.size() || counted.id < 0 ||
        counted.id >= vocab)
      return NoId(file, absl::StrCat("'", key, "'"), vocab);
    if (!value.is_number_integer() || value.get<int64_t>() < 0) {
      return Error(errors::kOption, absl::StrCat("--draft-vocab ", file, ": the count of id ", counted.id,
                                                 " must be a whole number of 0 or more"));
    }
    counted.count = value.get<int64_t>();
    counts.push_back(counted);
  }
  SortByCount(counts);
  if (static_cast<int64_t>(counts.size()) > kDraftIdsOfAFile) counts.resize(kDraftIdsOfAFile);
  if (tokenizer != nullptr) ids = AddedIds(*tokenizer, vocab);
  for (const Counted& counted : counts) ids.push_back(counted.id);
  return Ordered(std::move(ids));
}

}  // namespace

absl::StatusOr<std::vector<TokenId>> BuildDraftVocabulary(const std::string& choice,
                                                          const Tokenizer* tokenizer, int64_t vocab) {
  if (choice == "all") return std::vector<TokenId>();
  int64_t wanted = 0;
  const std::from_chars_result read = std::from_chars(choice.data(), choice.data() + choice.size(), wanted);
  if (read.ec != std::errc() || read.ptr != choice.data() + choice.size())
    return FromFile(choice, tokenizer, vocab);
  if (tokenizer == nullptr) {
    // Ids are given in the order of merges, so that low ones are frequent ones.
    std::vector<TokenId> ids(static_cast<size_t>(wanted < vocab ? wanted : 0));
    std::iota(ids.begin(), ids.end(), 0);
    return ids;
  }
  const std::span<const TokenId> ranked = tokenizer->ByRank();
  if (wanted >= static_cast<int64_t>(ranked.size())) return std::vector<TokenId>();
  std::vector<TokenId> ids = AddedIds(*tokenizer, vocab);
  for (const TokenId id : ranked.first(static_cast<size_t>(wanted))) {
    if (id < vocab) ids.push_back(id);
  }
  return Ordered(std::move(ids));
}

std::string CountsToJson(std::span<const TokenId> ids) {
  std::map<TokenId, int64_t> count;
  for (const TokenId id : ids) ++count[id];
  std::vector<Counted> counts;
  for (const auto& [id, n] : count) counts.push_back({id, n});
  SortByCount(counts);
  std::string out = "{";
  for (const Counted& counted : counts)
    absl::StrAppend(&out, out.size() > 1 ? "," : "", "\"", counted.id, "\":", counted.count);
  return out + "}\n";
}

}  // namespace paceline::cli
