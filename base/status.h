// The two macros that carry absl::Status upwards. Debian's Abseil (20220623) has none; names follow the later
// official ones.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expression)                                         \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define PACELINE_CONCAT_INNER(a, b) a##b
#define PACELINE_CONCAT(a, b) PACELINE_CONCAT_INNER(a, b)
#define PACELINE_ASSIGN_OR_RETURN(result, declaration, expression) \
  auto result = (expression);                                      \
  if (!result.ok()) return std::move(result).status();             \
  declaration = *std::move(result)
#define ASSIGN_OR_RETURN(declaration, expression) \
  PACELINE_ASSIGN_OR_RETURN(PACELINE_CONCAT(status_or_, __LINE__), declaration, expression)
