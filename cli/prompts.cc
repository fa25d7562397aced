// The built-in text, or ids that repeat as text does.
#include "cli/prompts.h"

#include "absl/status/statusor.h"

namespace paceline::cli {
namespace {

constexpr int kIds = 48;
constexpr int kPeriod = 12;

}  // namespace

std::vector<TokenId> BuiltInIds(int64_t vocab) {
  std::vector<TokenId> ids;
  for (int64_t i = 0; i < kIds; ++i) {
    const int64_t p = i % kPeriod;
    ids.push_back(static_cast<TokenId>((17 * p * p + 5 * p + 3) % vocab));
  }
  return ids;
}

std::variant<std::string, std::vector<TokenId>> BuiltInPrompt(const Tokenizer* tokenizer, int64_t vocab) {
  if (tokenizer == nullptr) return BuiltInIds(vocab);
  absl::StatusOr<std::vector<TokenId>> ids = tokenizer->Encode(kBuiltInText);
  // A tokenizer may be larger than a test model's vocabulary.
  if (!ids.ok() || ids->empty()) return BuiltInIds(vocab);
  for (const TokenId id : *ids) {
    if (id >= vocab) return BuiltInIds(vocab);
  }
  return *std::move(ids);
}

}  // namespace paceline::cli
