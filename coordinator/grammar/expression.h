// What every kind of constraint is read into: a tree over bytes, code points and calls of rules. From here on
// nobody knows whether a schema, a regular expression or a grammar stood in front.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/code_point_set.h"

namespace paceline {

// `max` of a repetition without an end.
inline constexpr int32_t kUnbounded = -1;

struct Expression {
  enum class Kind : uint8_t {
    kBytes,       // `bytes` as they stand; none: the empty text
    kCodePoints,  // one code point of `set`, in UTF-8; an empty set matches nothing
    kSequence,    // `parts` one behind the other
    kChoice,      // one of `parts`; none: matches nothing
    kRepeat,      // parts[0], `min` to `max` times
    kMembers,     // parts[1..] in order, those that are not `required` left out or not, parts[0] between two
    kRule,        // what `rule` derives
    kTextBegin,   // the anchors of a regular expression, until they have been resolved
    kTextEnd,
  };
  Kind kind = Kind::kBytes;
  std::string bytes = {};
  CodePointSet set = {};
  std::vector<Expression> parts = {};
  int32_t min = 0;
  int32_t max = 0;
  std::vector<bool> required = {};  // kMembers: [parts - 1]
  bool repeat_last = false;         // kMembers: the last part any number of times
  int32_t rule = -1;
  int64_t at = 0;  // where an anchor stands in its source
};

Expression Literal(std::string bytes);
Expression OneOf(CodePointSet set);
Expression OneOf(char32_t first, char32_t last);
Expression SequenceOf(std::vector<Expression> parts);
Expression ChoiceOf(std::vector<Expression> parts);
Expression RepeatOf(Expression part, int32_t min, int32_t max);
Expression OptionalOf(Expression part);
Expression CallOf(int32_t rule);

// Every code point that text may hold: all but surrogates.
CodePointSet AllCodePoints();

}  // namespace paceline
