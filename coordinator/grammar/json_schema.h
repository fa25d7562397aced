// JSON schemas to expressions. docs/STRUCTURED.md has the subset; what is not of it is refused by name and
// place, never passed over.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "coordinator/grammar/grammar.h"

namespace paceline {

// Adds the schema's rules to `builder`; the rule a text begins with. InvalidArgument names the keyword and
// where in the schema it stands ("#/properties/age/multipleOf").
absl::StatusOr<int32_t> ParseJsonSchema(std::string_view text, GrammarBuilder& builder);

}  // namespace paceline
