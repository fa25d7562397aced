// Text that an API takes as a string or in pieces, each {"type": .., "text": ..}: responses' parts, messages'
// blocks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "coordinator/http/fields.h"

namespace paceline {

struct TextPartKind {
  const char* plural;                   // "parts"
  std::vector<std::string_view> types;  // that are text
  const char* expected;                 // of them, what a client is told
  const char* separator;                // between two pieces that are not empty
  std::string_view left_out;            // pieces that begin so; empty: none
};

// The text of `content`, which stands at `name`. REQ-001 names the piece that is none.
std::string ReadTextParts(Fields& fields, const std::string& name, const Json& content,
                          const TextPartKind& kind);

}  // namespace paceline
