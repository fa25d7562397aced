// Filters of one value: texts, numbers, JSON.
#include "coordinator/jinja/filters.h"

#include <cmath>
#include <cstdio>
#include <map>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/number.h"
#include "coordinator/jinja/text.h"

namespace paceline::jinja {
namespace {

bool Markup(const Value& value) { return value.is_text() && value.text_object().markup; }

// The input as a text; a text stays what it is.
Value Soft(Runtime& runtime, const Value& input) {
  return input.is_text() ? input : runtime.NewText(runtime.Str(input));
}

template <std::string (*function)(std::string_view)>
Value MapText(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "filter", arguments, {});
  if (!bound) return {};
  const Value text = Soft(runtime, input);
  if (runtime.failed() || !runtime.Spend(static_cast<int64_t>(text.text().size()) / 16)) return {};
  return runtime.NewText(function(text.text()), Markup(text));
}

// Words begin behind white space and opening brackets, not behind every character that is no letter.
std::string TitleOfWords(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto separates = [&](size_t at, size_t* length) {
      size_t end = at + 1;
      while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
      *length = end - at;
      const std::string_view c = text.substr(at, *length);
      return (c.size() == 1 && std::string_view("-({[<").find(c[0]) != std::string_view::npos) ||
             Strip(c).empty();
    };
    size_t length = 0;
    size_t end = i;
    while (end < text.size() && !separates(end, &length)) end += length;
    if (end > i) {
      size_t first = 0;
      separates(i, &first);
      out += Upper(text.substr(i, first)) + Lower(text.substr(i + first, end - i - first));
    }
    while (end < text.size() && separates(end, &length)) {
      out += text.substr(end, length);
      end += length;
    }
    i = end;
  }
  return out;
}

Value Trim(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "trim", arguments, {"chars"});
  if (!bound) return {};
  const Value text = Soft(runtime, input);
  if (runtime.failed()) return {};
  if (bound.Given(0) == nullptr) return runtime.NewText(std::string(Strip(text.text())), Markup(text));
  const std::string_view characters = bound.Text(0, "");
  if (!bound) return {};
  return runtime.NewText(std::string(Strip(text.text(), characters, Side::kBoth)), Markup(text));
}

Value ReplaceFilter(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "replace", arguments, {"old", "new", "count"}, 2);
  const int64_t limit = bound && bound.Given(2) != nullptr ? bound.Int(2, -1) : -1;
  if (!bound) return {};
  const std::string text = runtime.Str(input), from = runtime.Str(*bound[0]), to = runtime.Str(*bound[1]);
  if (!runtime.Spend(static_cast<int64_t>(text.size()) / 16,
                     Count(text, from) * static_cast<int64_t>(to.size()))) {
    return {};
  }
  return runtime.NewText(Replace(text, from, to, limit));
}

Value Default(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "default", arguments, {"default_value", "boolean"});
  if (!bound) return {};
  if (!input.is_undefined() && !(bound.Truth(1, false) && !runtime.Truth(input))) return input;
  return bound[0] == nullptr ? Value::Text("") : *bound[0];
}

Value String(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "string", arguments, {});
  return bound ? Soft(runtime, input) : Value();
}

Value Safe(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "safe", arguments, {});
  return bound ? runtime.NewText(runtime.Str(input), true) : Value();
}

template <bool force>
Value Escape(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "escape", arguments, {});
  if (!bound) return {};
  if (!force && Markup(input)) return input;
  return runtime.NewText(EscapeHtml(runtime.Str(input)), true);
}

Value Int(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "int", arguments, {"default", "base"});
  const int64_t base = bound ? bound.Int(1, 10) : 10;
  if (!bound) return {};
  const Value absent = bound[0] == nullptr ? Value::Int(0) : *bound[0];
  if (input.is_undefined()) return runtime.FailUndefined(input);
  if (input.is_integral()) return Value::Int(input.integer());
  double number = 0;
  if (input.is_text()) {
    if (const auto value = ParseInt(input.text(), static_cast<int>(std::min<int64_t>(base, 100)))) {
      return Value::Int(*value);
    }
    const auto value = ParseFloat(input.text());
    if (!value || !std::isfinite(*value)) return absent;
    number = *value;
  } else if (input.is_float()) {
    number = input.number();
    if (std::isinf(number)) return runtime.Fail("cannot convert float infinity to integer");
    if (std::isnan(number)) return absent;
  } else {
    return absent;
  }
  if (!(std::abs(number) < 0x1p63)) return runtime.Fail("an integer beyond 64 bits is not covered");
  return Value::Int(static_cast<int64_t>(number));
}

Value Float(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "float", arguments, {"default"});
  if (!bound) return {};
  if (input.is_undefined()) return runtime.FailUndefined(input);
  if (input.is_number()) return Value::Float(input.number());
  if (input.is_text()) {
    if (const auto value = ParseFloat(input.text())) return Value::Float(*value);
  }
  return bound[0] == nullptr ? Value::Float(0) : *bound[0];
}

Value Abs(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "abs", arguments, {});
  if (!bound) return {};
  if (input.is_float()) return Value::Float(std::abs(input.number()));
  if (input.is_integral()) return input.integer() < 0 ? Negate(runtime, input) : Value::Int(input.integer());
  if (input.is_undefined()) return runtime.FailUndefined(input);
  return runtime.Fail(absl::StrCat("bad operand type for abs(): '", TypeName(input), "'"));
}

Value Round(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "round", arguments, {"precision", "method"});
  const int64_t precision = bound ? bound.Int(0, 0) : 0;
  const std::string_view method = bound ? bound.Text(1, "common") : "";
  if (!bound) return {};
  if (input.is_undefined()) return runtime.FailUndefined(input);
  if (!input.is_number())
    return runtime.Fail(absl::StrCat("type ", TypeName(input), " doesn't define __round__ method"));
  if (precision < 0 || precision > 300) return runtime.Fail("round to this precision is not covered");
  if (method == "common") {
    if (input.is_integral()) return Value::Int(input.integer());
    if (!std::isfinite(input.number())) return input;
    // printf rounds the exact value to nearest, ties to even, which is Python's round().
    char buffer[700];
    std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(precision), input.number());
    return Value::Float(ParseFloat(buffer).value_or(0));
  }
  if (method != "ceil" && method != "floor") return runtime.Fail("method must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = input.number() * scale;
  // Python's ceil and floor are integers, which have no negative zero.
  return Value::Float(((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) + 0.0) / scale);
}

Value Indent(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "indent", arguments, {"width", "first", "blank"});
  if (!bound) return {};
  if (!input.is_text()) {
    if (input.is_undefined()) return runtime.FailUndefined(input);
    return runtime.Fail(absl::StrCat("indent wants a string, got '", TypeName(input), "'"));
  }
  const bool named = bound[0] != nullptr && bound[0]->is_text();
  const int64_t width = named ? 0 : bound.Int(0, 4);
  if (!bound) return {};
  if (width > 100'000) return runtime.Fail("an indent is too wide");
  const std::string indent =
      named ? bound[0]->text() : std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  const bool first = bound.Truth(1, false), blank = bound.Truth(2, false);
  const std::string text = input.text() + "\n";
  std::string out = first ? indent : "";
  bool begun = false;
  for (const std::string_view line : SplitLines(text, false)) {
    if (begun) {
      out += '\n';
      if (blank || !line.empty()) out += indent;
    }
    begun = true;
    out += line;
    if (!runtime.Spend(1, static_cast<int64_t>(indent.size() + line.size()))) return {};
  }
  return runtime.NewText(std::move(out), Markup(input));
}

Value Truncate(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "truncate", arguments, {"length", "killwords", "end", "leeway"});
  if (!bound) return {};
  const int64_t length = bound.Int(0, 255), leeway = bound.Given(3) != nullptr ? bound.Int(3, 5) : 5;
  const std::string_view end = bound.Text(2, "...");
  if (!bound) return {};
  if (!input.is_text())
    return runtime.Fail(absl::StrCat("truncate wants a string, got '", TypeName(input), "'"));
  const int64_t mark = PointsIn(end);
  if (length < mark || leeway < 0) {
    return runtime.Fail(
        absl::StrCat("expected length >= ", mark, " and leeway >= 0, got ", length, " and ", leeway));
  }
  if (input.text_object().length - leeway <= length) return input;
  std::string kept = SliceText(input.text_object(), 0, 1, length - mark);
  if (!bound.Truth(1, false)) kept = std::string(SplitAt(kept, " ", 1, true)[0]);
  kept += end;
  return runtime.NewText(std::move(kept), Markup(input));
}

Value WordCount(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "wordcount", arguments, {});
  if (!bound) return {};
  const std::string text = runtime.Str(input);
  return runtime.Spend(static_cast<int64_t>(text.size()) / 8) ? Value::Int(CountWords(text)) : Value();
}

Value Center(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "center", arguments, {"width"});
  const int64_t width = bound ? bound.Int(0, 80) : 80;
  if (!bound) return {};
  const Value text = Soft(runtime, input);
  if (runtime.failed()) return {};
  return FindTextMethod("center")(runtime, text, {{Value::Int(width)}, {}});
}

Value Format(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Value text = Soft(runtime, input);
  if (runtime.failed()) return {};
  if (arguments.named.empty()) {
    return Apply(runtime, Operator::kModulo, text, runtime.NewTuple(arguments.positional));
  }
  if (!arguments.positional.empty()) {
    return runtime.Fail("can't handle positional and keyword arguments at the same time");
  }
  auto values = std::make_shared<DictObject>();
  for (const auto& [name, value] : arguments.named) values->Set(Value::Text(name), value);
  return Apply(runtime, Operator::kModulo, text, runtime.NewDict(std::move(values)));
}

Value UrlEncode(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "urlencode", arguments, {});
  if (!bound) return {};
  if (!input.is_text() && runtime.Iterable(input))
    return runtime.Fail("urlencode of anything but a text is not covered");
  std::string out;
  for (const char c : runtime.Str(input)) {
    const bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
                       std::string_view("_.-~/").find(c) != std::string_view::npos;
    if (plain) {
      out += c;
    } else {
      char buffer[8];
      std::snprintf(buffer, sizeof(buffer), "%%%02X", static_cast<unsigned char>(c));
      out += buffer;
    }
  }
  return runtime.NewText(std::move(out));
}

Value Attr(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "attr", arguments, {"name"}, 1);
  const std::string_view name = bound ? bound.Text(0, "") : "";
  if (!bound) return {};
  // Attributes only: a dictionary's keys are none.
  if (input.is_dict() && FindDictMethod(name) == nullptr) {
    return Value::Undefined(absl::StrCat("'dict object' has no attribute ", runtime.Repr(*bound[0])));
  }
  return runtime.GetAttribute(input, name);
}

// Transformers' own, not Jinja's: nothing is escaped for HTML.
Value ToJsonFilter(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  if (!bound) return {};
  JsonFormat format;
  format.ensure_ascii = bound.Truth(0, false);
  format.sort_keys = bound.Truth(3, false);
  if (const Value* indent = bound.Given(1)) {
    const int64_t width = indent->is_text() ? 0 : bound.Int(1, 0);
    if (!bound) return {};
    if (width > 1000) return runtime.Fail("an indent of tojson is too wide");
    format.indent = indent->is_text() ? indent->text()
                                      : std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    format.item_separator.assign(1, ',');
  }
  if (const Value* separators = bound.Given(2)) {
    if (!separators->is_sequence() || separators->sequence().items.size() != 2 ||
        !separators->sequence().items[0].is_text() || !separators->sequence().items[1].is_text()) {
      return runtime.Fail("tojson wants two strings as separators");
    }
    format.item_separator = separators->sequence().items[0].text();
    format.key_separator = separators->sequence().items[1].text();
  }
  return runtime.NewText(ToJson(runtime, input, format));
}

}  // namespace

Filter FindValueFilter(std::string_view name) {
  static const std::map<std::string_view, Filter> filters = {
      {"abs", Abs},
      {"attr", Attr},
      {"capitalize", MapText<Capitalize>},
      {"center", Center},
      {"d", Default},
      {"default", Default},
      {"e", Escape<false>},
      {"escape", Escape<false>},
      {"float", Float},
      {"forceescape", Escape<true>},
      {"format", Format},
      {"indent", Indent},
      {"int", Int},
      {"lower", MapText<Lower>},
      {"replace", ReplaceFilter},
      {"round", Round},
      {"safe", Safe},
      {"string", String},
      {"title", MapText<TitleOfWords>},
      {"tojson", ToJsonFilter},
      {"trim", Trim},
      {"truncate", Truncate},
      {"upper", MapText<Upper>},
      {"urlencode", UrlEncode},
      {"wordcount", WordCount},
  };
  const auto found = filters.find(name);
  return found == filters.end() ? nullptr : found->second;
}

Filter FindFilter(std::string_view name) {
  const Filter filter = FindValueFilter(name);
  return filter != nullptr ? filter : FindSequenceFilter(name);
}

}  // namespace paceline::jinja
