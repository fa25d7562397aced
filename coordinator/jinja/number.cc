#include "coordinator/jinja/number.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/text.h"

namespace paceline::jinja {
namespace {

Value TooWide(Runtime& runtime) { return runtime.Fail("an integer beyond 64 bits is not covered"); }

Value Unsupported(Runtime& runtime, Operator op, const Value& a, const Value& b) {
  if (a.is_undefined() || b.is_undefined()) return runtime.FailUndefined(a.is_undefined() ? a : b);
  const auto view = [](const Value& v) { return v.is_sequence() && !v.sequence().indexable(); };
  if (op == Operator::kSubtract && (view(a) || view(b))) {
    return runtime.Fail("'-' with a view of a dictionary is not covered");
  }
  if (op == Operator::kAdd && a.is_text()) {
    return runtime.Fail(absl::StrCat("can only concatenate str (not \"", TypeName(b), "\") to str"));
  }
  return runtime.Fail(absl::StrCat("unsupported operand type(s) for ", OperatorSign(op), ": '", TypeName(a),
                                   "' and '", TypeName(b), "'"));
}

// Python's: towards minus infinity, and the sign of the divisor.
int64_t FloorDivide(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0); }
int64_t FloorModulo(int64_t a, int64_t b) {
  const int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}
double FloorModulo(double a, double b) {
  const double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  return (rest < 0) != (b < 0) ? rest + b : rest;
}
double FloorDivide(double a, double b) {
  const double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0 && (rest < 0) != (b < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

Value PowerOfIntegers(Runtime& runtime, int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return runtime.Fail("0.0 cannot be raised to a negative power");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return TooWide(runtime);
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return TooWide(runtime);
  }
  return Value::Int(result);
}

Value ApplyToIntegers(Runtime& runtime, Operator op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case Operator::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Operator::kSubtract:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Operator::kMultiply:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Operator::kDivide:
      if (b == 0) return runtime.Fail("division by zero");
      // 64 bits of significand hold both, so one rounding is left.
      return Value::Float(static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
    case Operator::kFloorDivide:
    case Operator::kModulo:
      if (b == 0) return runtime.Fail("integer division or modulo by zero");
      if (b == -1) {  // the one quotient that may not fit
        if (op == Operator::kModulo) return Value::Int(0);
        overflow = __builtin_sub_overflow(int64_t{0}, a, &result);
        break;
      }
      return Value::Int(op == Operator::kModulo ? FloorModulo(a, b) : FloorDivide(a, b));
    case Operator::kPower:
      return PowerOfIntegers(runtime, a, b);
  }
  return overflow ? TooWide(runtime) : Value::Int(result);
}

Value ApplyToFloats(Runtime& runtime, Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd:
      return Value::Float(a + b);
    case Operator::kSubtract:
      return Value::Float(a - b);
    case Operator::kMultiply:
      return Value::Float(a * b);
    case Operator::kDivide:
      if (b == 0) return runtime.Fail("float division by zero");
      return Value::Float(a / b);
    case Operator::kFloorDivide:
      if (b == 0) return runtime.Fail("float floor division by zero");
      return Value::Float(FloorDivide(a, b));
    case Operator::kModulo:
      if (b == 0) return runtime.Fail("float modulo");
      return Value::Float(FloorModulo(a, b));
    case Operator::kPower: {
      if (a == 0 && b < 0) return runtime.Fail("0.0 cannot be raised to a negative power");
      if (a < 0 && std::isfinite(b) && b != std::floor(b))
        return runtime.Fail("complex numbers are not covered");
      const double power = std::pow(a, b);
      if (std::isinf(power) && std::isfinite(a) && std::isfinite(b)) {
        return runtime.Fail("(34, 'Numerical result out of range')");
      }
      return Value::Float(power);
    }
  }
  return {};
}

Value Repeat(Runtime& runtime, const Value& value, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (value.is_text()) {
    const std::string& text = value.text();
    if (!text.empty() && !runtime.Spend(0, times > (int64_t{1} << 40) / static_cast<int64_t>(text.size())
                                               ? int64_t{1} << 40
                                               : times * static_cast<int64_t>(text.size()))) {
      return {};
    }
    std::string out;
    if (!text.empty()) {
      out.reserve(text.size() * static_cast<size_t>(times));
      for (int64_t i = 0; i < times; ++i) out += text;
    }
    return Value::Text(std::move(out), value.text_object().markup);
  }
  const std::vector<Value>& items = value.sequence().items;
  std::vector<Value> out;
  if (!items.empty()) {
    constexpr int64_t kMany = int64_t{1} << 32;
    const auto size = static_cast<int64_t>(items.size());
    if (times > kMany / size || !runtime.Spend(times * size, times * size * 32)) {
      return runtime.Fail("a list is repeated too often");
    }
    for (int64_t i = 0; i < times; ++i) out.insert(out.end(), items.begin(), items.end());
  }
  return runtime.NewSequence(
      value.sequence().tuple() ? SequenceObject::Kind::kTuple : SequenceObject::Kind::kList, std::move(out));
}

bool Repeatable(const Value& value) {
  return value.is_text() || (value.is_sequence() && (value.sequence().kind == SequenceObject::Kind::kList ||
                                                     value.sequence().tuple()));
}

Value Concatenate(Runtime& runtime, const Value& a, const Value& b) {
  if (a.is_text() && b.is_text()) {
    const bool markup = a.text_object().markup || b.text_object().markup;
    const auto part = [&](const Value& v) {
      return markup && !v.text_object().markup ? EscapeHtml(v.text()) : v.text();
    };
    return runtime.NewText(markup ? absl::StrCat(part(a), part(b)) : absl::StrCat(a.text(), b.text()),
                           markup);
  }
  if (!a.is_sequence() || !b.is_sequence()) return Unsupported(runtime, Operator::kAdd, a, b);
  const SequenceObject &x = a.sequence(), &y = b.sequence();
  const bool lists = x.kind == SequenceObject::Kind::kList && y.kind == SequenceObject::Kind::kList;
  if (!lists && !(x.tuple() && y.tuple())) return Unsupported(runtime, Operator::kAdd, a, b);
  if (!runtime.Spend(static_cast<int64_t>(x.items.size() + y.items.size()))) return {};
  std::vector<Value> items = x.items;
  items.insert(items.end(), y.items.begin(), y.items.end());
  return runtime.NewSequence(lists ? SequenceObject::Kind::kList : SequenceObject::Kind::kTuple,
                             std::move(items));
}

}  // namespace

const char* OperatorSign(Operator op) {
  switch (op) {
    case Operator::kAdd:
      return "+";
    case Operator::kSubtract:
      return "-";
    case Operator::kMultiply:
      return "*";
    case Operator::kDivide:
      return "/";
    case Operator::kFloorDivide:
      return "//";
    case Operator::kModulo:
      return "%";
    case Operator::kPower:
      return "** or pow()";
  }
  return "?";
}

Value Apply(Runtime& runtime, Operator op, const Value& a, const Value& b) {
  if (!runtime.Spend(1)) return {};
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return ApplyToIntegers(runtime, op, a.integer(), b.integer());
    return ApplyToFloats(runtime, op, a.number(), b.number());
  }
  if (op == Operator::kModulo && a.is_text() && !b.is_undefined()) {
    return runtime.NewText(FormatPercent(runtime, a.text(), b), a.text_object().markup);
  }
  if (a.is_undefined() || b.is_undefined()) return Unsupported(runtime, op, a, b);
  if (op == Operator::kAdd) return Concatenate(runtime, a, b);
  if (op == Operator::kMultiply) {
    if (Repeatable(a) && b.is_integral()) return Repeat(runtime, a, b.integer());
    if (Repeatable(b) && a.is_integral()) return Repeat(runtime, b, a.integer());
    if (Repeatable(a) || Repeatable(b)) {
      return runtime.Fail(
          absl::StrCat("can't multiply sequence by non-int of type '", TypeName(Repeatable(a) ? b : a), "'"));
    }
  }
  return Unsupported(runtime, op, a, b);
}

Value Negate(Runtime& runtime, const Value& value) {
  if (value.is_float()) return Value::Float(-value.number());
  if (value.is_integral()) return ApplyToIntegers(runtime, Operator::kSubtract, 0, value.integer());
  if (value.is_undefined()) return runtime.FailUndefined(value);
  return runtime.Fail(absl::StrCat("bad operand type for unary -: '", TypeName(value), "'"));
}

Value Plus(Runtime& runtime, const Value& value) {
  if (value.is_float()) return value;
  if (value.is_integral()) return Value::Int(value.integer());
  if (value.is_undefined()) return runtime.FailUndefined(value);
  return runtime.Fail(absl::StrCat("bad operand type for unary +: '", TypeName(value), "'"));
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  // d[.ddd]e[+-]dd: the digits and the exponent, to be laid out as Python does: plain from 1e-4 to below
  // 1e16.
  const std::string_view all(buffer, static_cast<size_t>(end - buffer));
  const size_t e = all.find('e');
  std::string digits(all.substr(0, e));
  const bool negative = digits[0] == '-';
  if (negative) digits.erase(0, 1);
  if (digits.size() > 1) digits.erase(1, 1);
  int exponent = 0;
  const char* const from = all.data() + e + (all[e + 1] == '+' ? 2 : 1);
  std::from_chars(from, all.data() + all.size(), exponent);
  std::string out = negative ? "-" : "";
  const auto count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) absl::StrAppend(&out, ".", digits.substr(1));
    const std::string size = std::to_string(std::abs(exponent));
    return absl::StrCat(out, exponent < 0 ? "e-" : "e+", size.size() < 2 ? "0" : "", size);
  }
  const auto zeros = [](int n) { return std::string(static_cast<size_t>(n), '0'); };
  if (exponent < 0) return absl::StrCat(out, "0.", zeros(-exponent - 1), digits);
  if (count <= exponent + 1) return absl::StrCat(out, digits, zeros(exponent + 1 - count), ".0");
  const auto whole = static_cast<size_t>(exponent + 1);
  return absl::StrCat(out, digits.substr(0, whole), ".", digits.substr(whole));
}

namespace {

// The digits without Python's underscores; nullopt where one does not stand between two digits.
std::optional<std::string> WithoutUnderscores(std::string_view text) {
  const auto alnum = [](char c) { return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z'); };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() || !alnum(text[i - 1]) || !alnum(text[i + 1])) {
      return std::nullopt;
    }
  }
  return out;
}

}  // namespace

std::optional<int64_t> ParseInt(std::string_view text, int base) {
  text = Strip(text);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 32);
    const int named = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (named != 0 && (base == named || base == 0)) {
      base = named;
      text.remove_prefix(2);
      if (text.starts_with('_')) text.remove_prefix(1);
    }
  }
  if (base == 0) {
    base = 10;
    // Without a prefix a leading zero means nothing but zero.
    if (text.size() > 1 && text[0] == '0' && text.find_first_not_of("0_") != std::string_view::npos)
      return std::nullopt;
  }
  if (base < 2 || base > 36) return std::nullopt;
  const std::optional<std::string> digits = WithoutUnderscores(text);
  if (!digits || digits->empty() || (*digits)[0] == '-') return std::nullopt;
  const std::string all = absl::StrCat(negative ? "-" : "", *digits);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(all.data(), all.data() + all.size(), value, base);
  if (error != std::errc() || end != all.data() + all.size()) return std::nullopt;
  return value;
}

std::optional<double> ParseFloat(std::string_view text) {
  text = Strip(text);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const std::string lower = Lower(text);
  const double sign = negative ? -1 : 1;
  if (lower == "inf" || lower == "infinity") return sign * std::numeric_limits<double>::infinity();
  if (lower == "nan") return std::numeric_limits<double>::quiet_NaN();
  const std::optional<std::string> digits = WithoutUnderscores(lower);
  // from_chars takes words and hexadecimal digits' signs that Python does not.
  if (!digits || digits->empty() || digits->find_first_not_of("0123456789.e+-") != std::string::npos)
    return std::nullopt;
  if ((*digits)[0] == '-' || (*digits)[0] == '+') return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(digits->data(), digits->data() + digits->size(), value);
  if (end != digits->data() + digits->size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) return sign * std::strtod(digits->c_str(), nullptr);
  if (error != std::errc()) return std::nullopt;
  return sign * value;
}

}  // namespace paceline::jinja
