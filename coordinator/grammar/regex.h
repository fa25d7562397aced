// Regular expressions to expressions: the part of the language that is regular, and that Python, ECMAScript
// and RE2 read alike. docs/STRUCTURED.md has the list.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "coordinator/grammar/expression.h"

namespace paceline {

enum class RegexMatch : uint8_t {
  kWhole,   // the text from end to end
  kSearch,  // somewhere in the text, unless anchored: what `pattern` means in a JSON schema
};

// InvalidArgument: what stands at which column is not of the subset, or nests too deeply.
absl::StatusOr<Expression> ParseRegex(std::string_view pattern, RegexMatch match);

// \d, \w and \s; false for another letter. The capitals leave out what any of the common dialects counts to
// the small ones, so a text is right whoever checks it.
bool ShorthandClass(char letter, CodePointSet* set);

}  // namespace paceline
