// JSON as grammars write it: values, strings, numbers, and how much white space a model may put between them.
// A comma and a brace may be followed by one space or by a line break and an indent, a colon by one space;
// nothing else. That is what models write, in one line or in many, and it cannot go on for ever.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "coordinator/grammar/expression.h"
#include "coordinator/grammar/grammar.h"
#include "nlohmann/json_fwd.hpp"

namespace paceline {

// A bound of a number; `strict`: it is not among them.
struct DecimalBound {
  std::string digits;  // "-12.5": digits, at most one point, no exponent
  bool strict = false;
};

// The rules of JSON in one grammar, made when they are asked for. Every expression is one whole piece,
// without white space around it.
class JsonText {
 public:
  explicit JsonText(GrammarBuilder& builder) : builder_(builder) {}

  Expression AnyValue();
  Expression AnyObject();
  Expression AnyArray();
  // Of `min` to `max` code points; kUnbounded: no end.
  Expression AnyString(int32_t min = 0, int32_t max = kUnbounded);
  // A string whose text matches `content`, which speaks of the text before anything is escaped.
  Expression StringOf(const Expression& content);
  // An object's key that is none of `names`, written without escapes.
  Expression OtherKey(const std::vector<std::string>& names);
  Expression AnyNumber();
  Expression AnyInteger();
  // Bounds within +-(10^18 - 1).
  static Expression IntegerBetween(int64_t low, int64_t high);
  // Without exponents; absent: no bound.
  static Expression NumberBetween(const std::optional<DecimalBound>& low,
                                  const std::optional<DecimalBound>& high);
  // Exactly this value.
  Expression Constant(const nlohmann::ordered_json& value);

  // One member of an object; `key` with its quotes.
  Expression Member(Expression key, Expression value);
  Expression Comma();
  // Between brackets of either kind.
  Expression Enclosed(char open, Expression inner, char close);

 private:
  Expression Character();  // one code point of a string, raw or escaped
  Expression Space();
  int32_t Rule(const std::string& name, Expression expression);

  GrammarBuilder& builder_;
  std::map<std::string, int32_t> rules_;
};

// How a JSON string writes `text`, quotes included.
std::string JsonQuoted(std::string_view text);

}  // namespace paceline
