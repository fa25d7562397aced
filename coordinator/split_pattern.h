// Rewrites a split pattern of tokenizer.json (Oniguruma, Ruby syntax) into a PCRE2 pattern that means the
// same: character classes and case folding become explicit ranges from coordinator/unicode_tables.h, so that
// nothing is left to PCRE2's Unicode version. What the two engines read differently and is not rewritten is
// refused by name.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace paceline {

// InvalidArgument, without a code, saying what in the pattern is not supported.
absl::StatusOr<std::string> RewriteSplitPattern(std::string_view pattern);

}  // namespace paceline
