#include "coordinator/grammar/expression.h"

#include <utility>

namespace paceline {

Expression Literal(std::string bytes) {
  Expression e;
  e.bytes = std::move(bytes);
  return e;
}

Expression OneOf(CodePointSet set) {
  Expression e;
  e.kind = Expression::Kind::kCodePoints;
  e.set = std::move(set);
  return e;
}

Expression OneOf(char32_t first, char32_t last) {
  CodePointSet set;
  set.Add(first, last);
  return OneOf(std::move(set));
}

Expression SequenceOf(std::vector<Expression> parts) {
  Expression e;
  e.kind = Expression::Kind::kSequence;
  e.parts = std::move(parts);
  return e;
}

Expression ChoiceOf(std::vector<Expression> parts) {
  Expression e;
  e.kind = Expression::Kind::kChoice;
  e.parts = std::move(parts);
  return e;
}

Expression RepeatOf(Expression part, int32_t min, int32_t max) {
  Expression e;
  e.kind = Expression::Kind::kRepeat;
  e.parts.push_back(std::move(part));
  e.min = min;
  e.max = max;
  return e;
}

Expression OptionalOf(Expression part) { return RepeatOf(std::move(part), 0, 1); }

Expression CallOf(int32_t rule) {
  Expression e;
  e.kind = Expression::Kind::kRule;
  e.rule = rule;
  return e;
}

CodePointSet AllCodePoints() {
  CodePointSet set;
  set.Add(0, 0xD7FF);
  set.Add(0xE000, 0x10FFFF);
  return set;
}

}  // namespace paceline
