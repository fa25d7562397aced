// Jinja's tests: what stands behind `is`.
#include <map>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/number.h"
#include "coordinator/jinja/runtime.h"
#include "coordinator/jinja/text.h"

namespace paceline::jinja {
namespace {

// A test without arguments.
template <bool (*holds)(const Value&)>
bool Plain(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "test", arguments, {});
  return bound && holds(input);
}

// A test with one.
template <bool (*holds)(Runtime&, const Value&, const Value&)>
bool With(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "test", arguments, {"/other"}, 1);
  return bound && holds(runtime, input, *bound[0]);
}

bool Defined(const Value& value) { return !value.is_undefined(); }
bool Undefined(const Value& value) { return value.is_undefined(); }
bool None(const Value& value) { return value.is_none(); }
bool Boolean(const Value& value) { return value.is_bool(); }
bool True(const Value& value) { return value.is_bool() && value.integer() != 0; }
bool False(const Value& value) { return value.is_bool() && value.integer() == 0; }
bool Integer(const Value& value) { return value.type() == Value::Type::kInt; }
bool Float(const Value& value) { return value.is_float(); }
bool Number(const Value& value) { return value.is_number(); }
bool String(const Value& value) { return value.is_text(); }
bool Mapping(const Value& value) { return value.is_dict(); }
bool Escaped(const Value& value) { return value.is_text() && value.text_object().markup; }
bool Callable(const Value& value) {
  return value.type() == Value::Type::kCallable || value.is_undefined() ||
         (value.type() == Value::Type::kAttributes && value.attributes().callable() != nullptr);
}
// What has a length and takes an index; a missing value claims both.
bool Sequence(const Value& value) {
  return value.is_text() || value.is_dict() || value.is_undefined() ||
         (value.is_sequence() && value.sequence().indexable());
}
bool Iterable(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "test", arguments, {});
  return bound && runtime.Iterable(input);
}

template <bool (*holds)(std::string_view)>
bool OfText(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "test", arguments, {});
  return bound && holds(runtime.Str(input));
}

template <int remainder>
bool Parity(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "test", arguments, {});
  return bound && Equal(Apply(runtime, Operator::kModulo, input, Value::Int(2)), Value::Int(remainder));
}

bool DivisibleBy(Runtime& runtime, const Value& a, const Value& b) {
  return Equal(Apply(runtime, Operator::kModulo, a, b), Value::Int(0));
}
bool Equals(Runtime&, const Value& a, const Value& b) { return Equal(a, b); }
bool Differs(Runtime&, const Value& a, const Value& b) { return !Equal(a, b); }
bool Same(Runtime&, const Value& a, const Value& b) { return a.Is(b); }
bool In(Runtime& runtime, const Value& a, const Value& b) { return runtime.Contains(b, a); }
bool Less(Runtime& runtime, const Value& a, const Value& b) {
  return runtime.Order(a, b, "<").value_or(0) < 0;
}
bool Greater(Runtime& runtime, const Value& a, const Value& b) {
  return runtime.Order(a, b, ">").value_or(0) > 0;
}
bool LessOrEqual(Runtime& runtime, const Value& a, const Value& b) {
  return runtime.Order(a, b, "<=").value_or(1) <= 0;
}
bool GreaterOrEqual(Runtime& runtime, const Value& a, const Value& b) {
  return runtime.Order(a, b, ">=").value_or(-1) >= 0;
}
bool IsFilter(Runtime&, const Value& input, const Arguments&) {
  return input.is_text() && FindFilter(input.text()) != nullptr;
}
bool IsTest(Runtime&, const Value& input, const Arguments&) {
  return input.is_text() && FindTest(input.text()) != nullptr;
}

}  // namespace

Test FindTest(std::string_view name) {
  static const std::map<std::string_view, Test> tests = {
      {"!=", With<Differs>},
      {"<", With<Less>},
      {"<=", With<LessOrEqual>},
      {"==", With<Equals>},
      {">", With<Greater>},
      {">=", With<GreaterOrEqual>},
      {"boolean", Plain<Boolean>},
      {"callable", Plain<Callable>},
      {"defined", Plain<Defined>},
      {"divisibleby", With<DivisibleBy>},
      {"eq", With<Equals>},
      {"equalto", With<Equals>},
      {"escaped", Plain<Escaped>},
      {"even", Parity<0>},
      {"false", Plain<False>},
      {"filter", IsFilter},
      {"float", Plain<Float>},
      {"ge", With<GreaterOrEqual>},
      {"greaterthan", With<Greater>},
      {"gt", With<Greater>},
      {"in", With<In>},
      {"integer", Plain<Integer>},
      {"iterable", Iterable},
      {"le", With<LessOrEqual>},
      {"lessthan", With<Less>},
      {"lower", OfText<IsLower>},
      {"lt", With<Less>},
      {"mapping", Plain<Mapping>},
      {"ne", With<Differs>},
      {"none", Plain<None>},
      {"number", Plain<Number>},
      {"odd", Parity<1>},
      {"sameas", With<Same>},
      {"sequence", Plain<Sequence>},
      {"string", Plain<String>},
      {"test", IsTest},
      {"true", Plain<True>},
      {"undefined", Plain<Undefined>},
      {"upper", OfText<IsUpper>},
  };
  const auto found = tests.find(name);
  return found == tests.end() ? nullptr : found->second;
}

}  // namespace paceline::jinja
