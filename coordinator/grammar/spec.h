// What a request says its text must be, as plain data. The subset of each kind, its limits and its errors:
// docs/STRUCTURED.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace paceline {

struct ConstraintSpec {
  enum class Kind : uint8_t {
    kNone,        // any text
    kJsonSchema,  // JSON that the schema `text` accepts
    kJsonObject,  // a JSON object
    kRegex,       // matches the regular expression `text` from its first to its last byte
    kEbnf,        // derives from `root` of the grammar `text`
    kChoice,      // one of `choices`
  };
  Kind kind = Kind::kNone;
  std::string text = {};
  std::vector<std::string> choices = {};
  // The constraint begins behind the first occurrence of this in the generated text; what stands in front is
  // free. Empty: it begins at once. Absent: behind `</think>` when the prompt ends inside a `<think>` block,
  // else at once.
  std::optional<std::string> after = {};
};

// The request field that holds what `kind` reads: "constraint.json_schema".
constexpr const char* ConstraintField(ConstraintSpec::Kind kind) {
  switch (kind) {
    case ConstraintSpec::Kind::kNone:
      break;
    case ConstraintSpec::Kind::kJsonSchema:
      return "constraint.json_schema";
    case ConstraintSpec::Kind::kJsonObject:
      return "constraint.json_object";
    case ConstraintSpec::Kind::kRegex:
      return "constraint.regex";
    case ConstraintSpec::Kind::kEbnf:
      return "constraint.ebnf";
    case ConstraintSpec::Kind::kChoice:
      return "constraint.choice";
  }
  return "constraint";
}

}  // namespace paceline
