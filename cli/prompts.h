// Prompts of commands that measure and verify, where none was given.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "cli/options.h"
#include "coordinator/tokenizer.h"

namespace paceline::cli {

// Prose that repeats itself a little: every drafter finds something in it.
inline constexpr char kBuiltInText[] =
    "The ferry leaves at six. Nora walks to the harbour, counts the boats, and writes the number down. The "
    "ferry leaves at six, said the man at the harbour, and the number of boats is the same as every day. "
    "Nora "
    "counts the boats again and";

// Ids that every vocabulary of a model has.
inline constexpr int64_t kFewestIds = 256;

// Token ids without a tokenizer, below `vocab`.
std::vector<TokenId> BuiltInIds(int64_t vocab);

// As ids where there is a tokenizer. `tokenizer` may be null.
std::variant<std::string, std::vector<TokenId>> BuiltInPrompt(const Tokenizer* tokenizer, int64_t vocab);

// Whether any of its flags was given.
inline bool HasPrompt(const PromptOptions& prompt) {
  return prompt.text.has_value() || !prompt.file.empty() || !prompt.tokens_json.empty();
}

}  // namespace paceline::cli
