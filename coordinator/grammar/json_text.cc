#include "coordinator/grammar/json_text.h"

#include <algorithm>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/utf8.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace {

// Longest of what has no end in JSON itself: a model that has lost its way must come to an end. Decimals of
// this size are read back exactly enough by every JSON library.
constexpr int32_t kMaxIndent = 32;
constexpr int32_t kIntegerDigits = 18;
constexpr int32_t kWholeDigits = 16;     // in front of a number's point
constexpr int32_t kFractionDigits = 16;  // behind it
constexpr int32_t kExponentDigits = 2;

Expression Digits(int32_t min, int32_t max) { return RepeatOf(OneOf('0', '9'), min, max); }

// Code points that stand for themselves in a string.
CodePointSet PlainCharacters() {
  CodePointSet set = AllCodePoints();
  set.Invert();
  set.Add(0, 0x1F);
  set.Add('"', '"');
  set.Add('\\', '\\');
  set.Invert();
  return set;
}

// Shortest escape of what does not stand for itself; "" for what does.
std::string EscapeOf(char32_t c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      break;
  }
  if (c >= 0x20) return "";
  constexpr char kHex[] = "0123456789abcdef";
  return std::string("\\u00") + kHex[c >> 4] + kHex[c & 15];
}

// `e` as it stands inside a JSON string.
Expression Escaped(const Expression& e) {
  switch (e.kind) {
    case Expression::Kind::kBytes: {
      std::string bytes;
      for (const char c : e.bytes) {
        const auto byte = static_cast<uint8_t>(c);
        const std::string escape = byte < 0x80 ? EscapeOf(byte) : "";
        bytes += escape.empty() ? std::string(1, c) : escape;
      }
      return Literal(std::move(bytes));
    }
    case Expression::Kind::kCodePoints: {
      CodePointSet plain = e.set;
      plain.Invert();
      CodePointSet others = PlainCharacters();
      others.Invert();
      plain.Add(others);
      plain.Invert();
      std::vector<Expression> choices = {OneOf(std::move(plain))};
      for (char32_t c = 0; c < 0x80; ++c) {
        if (e.set.Contains(c) && !EscapeOf(c).empty()) choices.push_back(Literal(EscapeOf(c)));
      }
      return choices.size() == 1 ? std::move(choices[0]) : ChoiceOf(std::move(choices));
    }
    default: {
      Expression copy = e;
      for (Expression& part : copy.parts) part = Escaped(part);
      return copy;
    }
  }
}

// Digit strings of one length from `low` to `high`, of that length too.
Expression SameLength(std::string_view low, std::string_view high) {
  if (low.empty()) return Literal("");
  const auto rest = static_cast<int32_t>(low.size()) - 1;
  const auto digit = [](char c) { return OneOf(static_cast<char32_t>(c), static_cast<char32_t>(c)); };
  if (low[0] == high[0]) return SequenceOf({digit(low[0]), SameLength(low.substr(1), high.substr(1))});
  const std::string nines(low.size() - 1, '9'), zeros(low.size() - 1, '0');
  char first = low[0], last = high[0];
  std::vector<Expression> choices;
  if (low.substr(1) != zeros) {
    choices.push_back(SequenceOf({digit(low[0]), SameLength(low.substr(1), nines)}));
    ++first;
  }
  if (high.substr(1) != nines) {
    choices.push_back(SequenceOf({digit(high[0]), SameLength(zeros, high.substr(1))}));
    --last;
  }
  if (first <= last) {
    choices.push_back(
        SequenceOf({OneOf(static_cast<char32_t>(first), static_cast<char32_t>(last)), Digits(rest, rest)}));
  }
  return ChoiceOf(std::move(choices));
}

// Whole numbers without a sign.
Expression Unsigned(int64_t low, int64_t high) {
  CHECK(low >= 0);
  std::vector<Expression> choices;
  int64_t power = 1;  // the least number of this length, and 1 for the first
  for (size_t length = 1; length <= static_cast<size_t>(kIntegerDigits); ++length, power *= 10) {
    const int64_t first = std::max(low, length == 1 ? 0 : power);
    const int64_t last = std::min(high, power * 10 - 1);
    if (first > last) continue;
    choices.push_back(SameLength(std::to_string(first), std::to_string(last)));
  }
  return ChoiceOf(std::move(choices));
}

// A decimal without a sign, cut at the point.
struct Cut {
  int64_t whole = 0;
  std::string fraction;  // no zeros at its end
  bool strict = false;
};

Cut CutAtPoint(const DecimalBound& bound) {
  std::string digits = bound.digits;
  if (digits[0] == '-') digits.erase(0, 1);
  Cut cut;
  cut.strict = bound.strict;
  const size_t point = digits.find('.');
  cut.whole = std::stoll(digits.substr(0, point));
  if (point != std::string::npos) cut.fraction = digits.substr(point + 1);
  while (!cut.fraction.empty() && cut.fraction.back() == '0') cut.fraction.pop_back();
  return cut;
}

// Digits behind the point from the i-th on, and whether they may end there. `low`, `high`: bounds that the
// digits so far are equal to; null where they are inside already.
Expression FractionDigits(const Cut* low, const Cut* high, int32_t i) {
  const auto index = static_cast<size_t>(i);
  const auto at = [index](const Cut* cut) {
    return index < cut->fraction.size() ? cut->fraction[index] : '0';
  };
  if (low != nullptr && index >= low->fraction.size() && !low->strict) low = nullptr;
  if (low == nullptr && high == nullptr) return Digits(0, kFractionDigits - i);
  const bool may_end = (low == nullptr) && (index < high->fraction.size() || !high->strict);
  std::vector<Expression> choices;
  if (i < kFractionDigits) {
    const char first = low != nullptr ? at(low) : '0', last = high != nullptr ? at(high) : '9';
    const auto go_on = [&](char from, char to, const Cut* next_low, const Cut* next_high) {
      if (from > to) return;
      Expression rest = FractionDigits(next_low, next_high, i + 1);
      choices.push_back(
          SequenceOf({OneOf(static_cast<char32_t>(from), static_cast<char32_t>(to)), std::move(rest)}));
    };
    if (low != nullptr && high != nullptr && first == last) {
      go_on(first, last, low, high);
    } else {
      if (low != nullptr) go_on(first, first, low, nullptr);
      if (high != nullptr) go_on(last, last, nullptr, high);
      go_on(static_cast<char>(first + (low != nullptr ? 1 : 0)),
            static_cast<char>(last - (high != nullptr ? 1 : 0)), nullptr, nullptr);
    }
  }
  Expression digits = ChoiceOf(std::move(choices));
  return may_end ? OptionalOf(std::move(digits)) : digits;
}

// What may stand behind the whole part; see FractionDigits.
Expression Fraction(const Cut* low, const Cut* high) {
  const bool none_needed = low == nullptr || (low->fraction.empty() && !low->strict);
  const bool none_allowed = high == nullptr || !high->fraction.empty() || !high->strict;
  Expression digits = FractionDigits(low, high, 0);
  // At least one digit stands behind a point.
  if (digits.kind == Expression::Kind::kRepeat) digits.min = 1;
  Expression point = SequenceOf({Literal("."), std::move(digits)});
  return none_needed && none_allowed ? OptionalOf(std::move(point)) : point;
}

// Decimals without a sign.
Expression UnsignedDecimal(const Cut& low, const std::optional<Cut>& high) {
  const int64_t most = 999'999'999'999'999;
  std::vector<Expression> choices;
  const auto add = [&](int64_t from, int64_t to, const Cut* lower, const Cut* upper) {
    if (from > to) return;
    choices.push_back(SequenceOf({Unsigned(from, to), Fraction(lower, upper)}));
  };
  if (!high) {
    add(low.whole, low.whole, &low, nullptr);
    add(low.whole + 1, most, nullptr, nullptr);
  } else if (low.whole == high->whole) {
    add(low.whole, low.whole, &low, &*high);
  } else {
    add(low.whole, low.whole, &low, nullptr);
    add(low.whole + 1, high->whole - 1, nullptr, nullptr);
    if (low.whole < high->whole) add(high->whole, high->whole, nullptr, &*high);
  }
  return ChoiceOf(std::move(choices));
}

}  // namespace

std::string JsonQuoted(std::string_view text) {
  return absl::StrCat("\"", Escaped(Literal(std::string(text))).bytes, "\"");
}

int32_t JsonText::Rule(const std::string& name, Expression expression) {
  const int32_t rule = builder_.AddRule(name);
  rules_[name] = rule;
  builder_.Define(rule, std::move(expression));
  return rule;
}

Expression JsonText::Space() {
  const auto known = rules_.find("line break");
  const int32_t rule =
      known != rules_.end()
          ? known->second
          : Rule("line break", SequenceOf({Literal("\n"), RepeatOf(ChoiceOf({Literal(" "), Literal("\t")}), 0,
                                                                   kMaxIndent)}));
  return OptionalOf(ChoiceOf({Literal(" "), CallOf(rule)}));
}

Expression JsonText::Comma() { return SequenceOf({Literal(","), Space()}); }

Expression JsonText::Enclosed(char open, Expression inner, char close) {
  return SequenceOf(
      {Literal(std::string(1, open)), Space(), std::move(inner), Space(), Literal(std::string(1, close))});
}

Expression JsonText::Member(Expression key, Expression value) {
  return SequenceOf({std::move(key), Literal(":"), OptionalOf(Literal(" ")), std::move(value)});
}

Expression JsonText::Character() {
  const auto known = rules_.find("escape");
  int32_t rule = known != rules_.end() ? known->second : -1;
  if (rule < 0) {
    const auto set = [](std::string_view members) {
      CodePointSet made;
      for (const char c : members) made.Add(static_cast<char32_t>(c), static_cast<char32_t>(c));
      return OneOf(std::move(made));
    };
    const Expression hex = set("0123456789abcdefABCDEF");
    // Surrogates come in pairs: half of one is no text.
    rule = Rule("escape",
                SequenceOf({Literal("\\"),
                            ChoiceOf({set("\"\\/bfnrt"),
                                      SequenceOf({Literal("u"), set("0123456789abcefABCEF"), hex, hex, hex}),
                                      SequenceOf({Literal("u"), set("dD"), set("01234567"), hex, hex}),
                                      SequenceOf({Literal("u"), set("dD"), set("89abAB"), hex, hex,
                                                  Literal("\\u"), set("dD"), set("cdefCDEF"), hex, hex})})}));
  }
  return ChoiceOf({OneOf(PlainCharacters()), CallOf(rule)});
}

Expression JsonText::AnyString(int32_t min, int32_t max) {
  const std::string name = absl::StrCat("string ", min, " ", max);
  if (const auto known = rules_.find(name); known != rules_.end()) return CallOf(known->second);
  return CallOf(Rule(name, SequenceOf({Literal("\""), RepeatOf(Character(), min, max), Literal("\"")})));
}

Expression JsonText::StringOf(const Expression& content) {
  return SequenceOf({Literal("\""), Escaped(content), Literal("\"")});
}

Expression JsonText::OtherKey(const std::vector<std::string>& names) {
  // Down the tree of the names' code points: what leaves it is free, what ends inside it is another key.
  std::vector<std::u32string> keys;
  for (const std::string& name : names) {
    std::u32string key;
    for (std::string_view left = name; !left.empty();) {
      const Utf8Unit unit = ReadUtf8(left);
      key.push_back(unit.code_point);
      left.remove_prefix(unit.length);
    }
    keys.push_back(std::move(key));
  }
  std::sort(keys.begin(), keys.end());
  const Expression any = RepeatOf(OneOf(PlainCharacters()), 0, kUnbounded);
  const auto below = [&](const auto& self, size_t begin, size_t end, size_t depth) -> Expression {
    // keys[begin, end) share their first `depth` code points.
    const bool is_name = begin < end && keys[begin].size() == depth;
    CodePointSet other = PlainCharacters();
    other.Invert();
    std::vector<Expression> choices;
    for (size_t i = begin; i < end;) {
      if (keys[i].size() == depth) {
        ++i;
        continue;
      }
      const char32_t c = keys[i][depth];
      size_t next = i;
      while (next < end && keys[next].size() > depth && keys[next][depth] == c) ++next;
      // A name with characters that are escaped is not in the way of keys without.
      if (EscapeOf(c).empty()) {
        choices.push_back(SequenceOf({OneOf(c, c), self(self, i, next, depth + 1)}));
        other.Add(c, c);
      }
      i = next;
    }
    other.Invert();
    choices.push_back(SequenceOf({OneOf(std::move(other)), any}));
    if (!is_name) choices.push_back(Literal(""));
    return ChoiceOf(std::move(choices));
  };
  return SequenceOf({Literal("\""), below(below, 0, keys.size(), 0), Literal("\"")});
}

Expression JsonText::AnyNumber() {
  const auto known = rules_.find("number");
  if (known != rules_.end()) return CallOf(known->second);
  const Expression sign = OptionalOf(ChoiceOf({Literal("+"), Literal("-")}));
  return CallOf(
      Rule("number",
           SequenceOf({OptionalOf(Literal("-")),
                       ChoiceOf({Literal("0"), SequenceOf({OneOf('1', '9'), Digits(0, kWholeDigits - 1)})}),
                       OptionalOf(SequenceOf({Literal("."), Digits(1, kFractionDigits)})),
                       OptionalOf(SequenceOf(
                           {ChoiceOf({Literal("e"), Literal("E")}), sign, Digits(1, kExponentDigits)}))})));
}

Expression JsonText::AnyInteger() {
  const auto known = rules_.find("integer");
  if (known != rules_.end()) return CallOf(known->second);
  return CallOf(Rule(
      "integer",
      SequenceOf({OptionalOf(Literal("-")),
                  ChoiceOf({Literal("0"), SequenceOf({OneOf('1', '9'), Digits(0, kIntegerDigits - 1)})})})));
}

Expression JsonText::IntegerBetween(int64_t low, int64_t high) {
  std::vector<Expression> choices;
  if (low <= high && high >= 0) choices.push_back(Unsigned(std::max<int64_t>(low, 0), high));
  if (low <= high && low < 0)
    choices.push_back(SequenceOf({Literal("-"), Unsigned(std::max<int64_t>(-high, 1), -low)}));
  return ChoiceOf(std::move(choices));
}

Expression JsonText::NumberBetween(const std::optional<DecimalBound>& low,
                                   const std::optional<DecimalBound>& high) {
  const auto negative = [](const DecimalBound& bound) { return bound.digits[0] == '-'; };
  const auto is_zero = [](const DecimalBound& bound) {
    return bound.digits.find_first_not_of("-0.") == std::string::npos;
  };
  const auto cut = [](const std::optional<DecimalBound>& bound) {
    return bound ? std::optional<Cut>(CutAtPoint(*bound)) : std::nullopt;
  };
  const bool low_negative = !low || (negative(*low) && !is_zero(*low));
  const bool high_negative = high && negative(*high) && !is_zero(*high);
  std::vector<Expression> choices;
  if (!high_negative) choices.push_back(UnsignedDecimal(low_negative ? Cut{} : *cut(low), cut(high)));
  if (low_negative) {
    // -x lies between where x lies between the bounds without their signs, which change places.
    Cut least = high_negative ? *cut(high) : Cut{};
    if (high && is_zero(*high)) least.strict = high->strict;
    choices.push_back(SequenceOf({Literal("-"), UnsignedDecimal(least, cut(low))}));
  }
  return ChoiceOf(std::move(choices));
}

Expression JsonText::AnyValue() {
  const auto known = rules_.find("value");
  if (known != rules_.end()) return CallOf(known->second);
  const int32_t rule = builder_.AddRule("value");
  rules_["value"] = rule;
  builder_.Define(rule, ChoiceOf({AnyObject(), AnyArray(), AnyString(), AnyNumber(), Literal("true"),
                                  Literal("false"), Literal("null")}));
  return CallOf(rule);
}

Expression JsonText::AnyObject() {
  const auto known = rules_.find("object");
  if (known != rules_.end()) return CallOf(known->second);
  const int32_t rule = builder_.AddRule("object");
  rules_["object"] = rule;
  const Expression member = Member(AnyString(), AnyValue());
  builder_.Define(
      rule,
      Enclosed('{', OptionalOf(SequenceOf({member, RepeatOf(SequenceOf({Comma(), member}), 0, kUnbounded)})),
               '}'));
  return CallOf(rule);
}

Expression JsonText::AnyArray() {
  const auto known = rules_.find("array");
  if (known != rules_.end()) return CallOf(known->second);
  const int32_t rule = builder_.AddRule("array");
  rules_["array"] = rule;
  builder_.Define(
      rule,
      Enclosed(
          '[',
          OptionalOf(SequenceOf({AnyValue(), RepeatOf(SequenceOf({Comma(), AnyValue()}), 0, kUnbounded)})),
          ']'));
  return CallOf(rule);
}

Expression JsonText::Constant(const nlohmann::ordered_json& value) {
  if (value.is_string()) return Literal(JsonQuoted(value.get_ref<const std::string&>()));
  if (!value.is_structured()) return Literal(value.dump());
  std::vector<Expression> parts;
  for (const auto& [key, inner] : value.items()) {
    if (!parts.empty()) parts.push_back(Comma());
    Expression made = Constant(inner);
    parts.push_back(value.is_object() ? Member(Literal(JsonQuoted(key)), std::move(made)) : std::move(made));
  }
  return value.is_object() ? Enclosed('{', SequenceOf(std::move(parts)), '}')
                           : Enclosed('[', SequenceOf(std::move(parts)), ']');
}

}  // namespace paceline
