// Expressions of a render.
#include "absl/strings/str_cat.h"
#include "coordinator/jinja/callables.h"
#include "coordinator/jinja/interpreter.h"

namespace paceline::jinja {

using Kind = Expression::Kind;

Value Interpreter::Evaluate(const Expression& expression) {
  if (++depth_ > depth_limit_) Fail("the template calls itself too deeply");
  Value value = Spend(1) ? EvaluateKind(expression) : Value();
  --depth_;
  // The innermost expression returns first.
  if (failed() && line_ == 0) line_ = expression.line;
  return value;
}

Value Interpreter::EvaluateKind(const Expression& expression) {
  const auto part = [&](size_t i) { return Evaluate(*expression.parts[i]); };
  switch (expression.kind) {
    case Kind::kConstant:
      return expression.constant;
    case Kind::kName:
      return Lookup(expression.symbol);
    case Kind::kTuple:
    case Kind::kList: {
      std::vector<Value> items;
      items.reserve(expression.parts.size());
      for (size_t i = 0; i < expression.parts.size() && !failed(); ++i) items.push_back(part(i));
      return expression.kind == Kind::kTuple ? NewTuple(std::move(items)) : NewList(std::move(items));
    }
    case Kind::kDict:
      return EvaluateDict(expression);
    case Kind::kAttribute: {
      const Value object = part(0);
      return failed() ? Value() : GetAttribute(object, expression.text);
    }
    case Kind::kItem: {
      const Value object = part(0);
      const Value key = failed() ? Value() : part(1);
      return failed() ? Value() : GetItem(object, key);
    }
    case Kind::kSlice:
      return EvaluateSlice(expression);
    case Kind::kCall: {
      const Value callee = part(0);
      Arguments arguments;
      if (failed() || !EvaluateArguments(*expression.arguments, &arguments)) return {};
      return Call(callee, arguments);
    }
    case Kind::kFilter:
      return EvaluateFilters(expression, {});
    case Kind::kTest: {
      const Value input = part(0);
      Arguments arguments;
      if (failed() || !EvaluateArguments(*expression.arguments, &arguments)) return {};
      return Value::Bool(CallTest(expression.text, input, arguments));
    }
    case Kind::kNot:
      return Value::Bool(!Truth(part(0)));
    case Kind::kNegate: {
      const Value value = part(0);
      return failed() ? Value() : Negate(*this, value);
    }
    case Kind::kPlus: {
      const Value value = part(0);
      return failed() ? Value() : Plus(*this, value);
    }
    case Kind::kAnd: {
      Value left = part(0);
      return failed() || !Truth(left) ? left : part(1);
    }
    case Kind::kOr: {
      Value left = part(0);
      return failed() || Truth(left) ? left : part(1);
    }
    case Kind::kBinary: {
      const Value left = part(0);
      const Value right = failed() ? Value() : part(1);
      return failed() ? Value() : Apply(*this, expression.op, left, right);
    }
    case Kind::kConcatenate:
      return EvaluateConcatenate(expression);
    case Kind::kCompare:
      return EvaluateCompare(expression);
    case Kind::kConditional: {
      const bool holds = Truth(part(0));
      if (failed()) return {};
      if (holds) return part(1);
      if (expression.parts[2] != nullptr) return part(2);
      return Value::Undefined("the inline if-expression evaluated to false and no else section was defined.");
    }
  }
  return {};
}

Value Interpreter::EvaluateDict(const Expression& expression) {
  auto dict = std::make_shared<DictObject>();
  for (size_t i = 0; i + 1 < expression.parts.size(); i += 2) {
    Value key = Evaluate(*expression.parts[i]);
    if (failed()) return {};
    if (!Hashable(key)) return Fail(absl::StrCat("unhashable type: '", TypeName(key), "'"));
    Value value = Evaluate(*expression.parts[i + 1]);
    if (failed()) return {};
    dict->Set(std::move(key), std::move(value));
  }
  return NewDict(std::move(dict));
}

Value Interpreter::EvaluateSlice(const Expression& expression) {
  Value parts[4];
  for (size_t i = 0; i < 4 && !failed(); ++i) {
    parts[i] = expression.parts[i] == nullptr ? Value::None() : Evaluate(*expression.parts[i]);
  }
  return failed() ? Value() : GetSlice(parts[0], parts[1], parts[2], parts[3]);
}

Value Interpreter::EvaluateConcatenate(const Expression& expression) {
  std::string text;
  for (const ExpressionPtr& part : expression.parts) {
    const Value value = Evaluate(*part);
    if (failed()) return {};
    if (value.is_text()) {
      text += value.text();
    } else {
      text += Str(value);
    }
  }
  return NewText(std::move(text));
}

bool Interpreter::Compare(Comparison comparison, const Value& left, const Value& right) {
  switch (comparison) {
    case Comparison::kEqual:
      return Equal(left, right);
    case Comparison::kNotEqual:
      return !Equal(left, right);
    case Comparison::kLess:
      return Order(left, right, "<").value_or(0) < 0;
    case Comparison::kLessOrEqual:
      return Order(left, right, "<=").value_or(1) <= 0;
    case Comparison::kGreater:
      return Order(left, right, ">").value_or(0) > 0;
    case Comparison::kGreaterOrEqual:
      return Order(left, right, ">=").value_or(-1) >= 0;
    case Comparison::kIn:
      return Contains(right, left);
    case Comparison::kNotIn:
      return !Contains(right, left);
  }
  return false;
}

Value Interpreter::EvaluateCompare(const Expression& expression) {
  Value left = Evaluate(*expression.parts[0]);
  for (size_t i = 0; i < expression.comparisons.size(); ++i) {
    if (failed()) return {};
    Value right = Evaluate(*expression.parts[i + 1]);
    if (failed()) return {};
    const bool holds = Compare(expression.comparisons[i], left, right);
    if (failed()) return {};
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Value Interpreter::EvaluateFilters(const Expression& expression, const Value& input) {
  const bool chained = expression.parts[0] != nullptr && expression.parts[0]->kind == Kind::kFilter;
  // A chain of filters goes down node by node, so each is one level.
  if (++depth_ > depth_limit_) Fail("the template calls itself too deeply");
  const Value value = failed()                         ? Value()
                      : expression.parts[0] == nullptr ? input
                      : chained                        ? EvaluateFilters(*expression.parts[0], input)
                                                       : Evaluate(*expression.parts[0]);
  --depth_;
  Arguments arguments;
  if (failed() || !EvaluateArguments(*expression.arguments, &arguments)) return {};
  Value out = CallFilter(expression.text, value, arguments);
  if (failed() && line_ == 0) line_ = expression.line;
  return out;
}

bool Interpreter::EvaluateArguments(const CallArguments& arguments, Arguments* out) {
  out->positional.reserve(arguments.positional.size());
  for (const ExpressionPtr& argument : arguments.positional) {
    out->positional.push_back(Evaluate(*argument));
    if (failed()) return false;
  }
  for (const auto& [name, argument] : arguments.named) {
    out->named.emplace_back(name, Evaluate(*argument));
    if (failed()) return false;
  }
  if (arguments.all_positional != nullptr) {
    const Value list = Evaluate(*arguments.all_positional);
    auto items = failed() ? std::nullopt : Iterate(list);
    if (!items) return false;
    for (Value& item : *items) out->positional.push_back(std::move(item));
  }
  if (arguments.all_named != nullptr) {
    const Value dict = Evaluate(*arguments.all_named);
    if (failed()) return false;
    if (!dict.is_dict()) {
      Fail(absl::StrCat("argument after ** must be a mapping, not ", TypeName(dict)));
      return false;
    }
    for (const auto& [key, value] : dict.dict().entries()) {
      if (!key.is_text()) {
        Fail("keywords must be strings");
        return false;
      }
      out->named.emplace_back(key.text(), value);
    }
  }
  return true;
}

}  // namespace paceline::jinja
