// Jinja's grammar: from a template's source to a program.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "coordinator/jinja/ast.h"

namespace paceline::jinja {

// InvalidArgument with the line and what was expected. Includes, imports, inheritance and autoescape are
// refused by name; so are nodes more than a few hundred deep in one another, which bounds every recursion
// over the tree.
absl::StatusOr<Program> Parse(std::string_view source);

}  // namespace paceline::jinja
