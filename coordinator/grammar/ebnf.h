// Grammars as people write them for llama.cpp and vLLM (GBNF): rules, literals, classes, repetitions and
// comments. docs/STRUCTURED.md has the list.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "coordinator/grammar/grammar.h"

namespace paceline {

// Adds the grammar's rules to `builder`; the rule `root`. InvalidArgument with line and column.
absl::StatusOr<int32_t> ParseEbnf(std::string_view text, GrammarBuilder& builder);

}  // namespace paceline
