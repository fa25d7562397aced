// Python's two ways to fill in a text: "%s" % value, and "{}".format(value).
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/number.h"
#include "coordinator/jinja/text.h"

namespace paceline::jinja {
namespace {

constexpr int kMaxField = 10'000;  // width and precision; nobody means more

struct Conversion {
  std::string flags;
  int width = -1;
  int precision = -1;
  char type = 's';
};

std::string Pad(std::string text, const Conversion& conversion) {
  const int64_t missing = conversion.width - PointsIn(text);
  if (missing <= 0) return text;
  const std::string space(static_cast<size_t>(missing), ' ');
  return conversion.flags.find('-') != std::string::npos ? text + space : space + text;
}

// One of C's conversions, whose rules Python took over.
template <class T>
std::string Print(const Conversion& conversion, const char* length, T value) {
  std::string format = absl::StrCat("%", conversion.flags);
  if (conversion.width >= 0) absl::StrAppend(&format, conversion.width);
  if (conversion.precision >= 0) absl::StrAppend(&format, ".", conversion.precision);
  absl::StrAppend(&format, length, std::string(1, conversion.type));
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  const int size = std::snprintf(nullptr, 0, format.c_str(), value);
  std::string out(static_cast<size_t>(size) + 1, '\0');
  std::snprintf(out.data(), out.size(), format.c_str(), value);
#pragma GCC diagnostic pop
  out.pop_back();
  return out;
}

class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, std::string_view format, const Value& values)
      : runtime_(runtime), format_(format), values_(values) {
    if (values.is_sequence() && values.sequence().tuple()) {
      arguments_ = values.sequence().items;
    } else {
      arguments_ = {values};
      mapping_ = !values.is_number() && !values.is_text() && !values.is_none();
    }
  }

  std::string Run() {
    std::string out;
    while (at_ < format_.size() && !runtime_.failed()) {
      const size_t percent = std::min(format_.find('%', at_), format_.size());
      out += format_.substr(at_, percent - at_);
      at_ = percent + 1;
      if (percent == format_.size()) break;
      if (at_ < format_.size() && format_[at_] == '%') {
        out += '%';
        ++at_;
        continue;
      }
      out += One();
      runtime_.Spend(1, static_cast<int64_t>(out.size()));
    }
    if (!runtime_.failed() && next_ < arguments_.size() && !mapping_) {
      runtime_.Fail("not all arguments converted during string formatting");
    }
    return out;
  }

 private:
  Value Next() {
    if (next_ >= arguments_.size()) return runtime_.Fail("not enough arguments for format string");
    return arguments_[next_++];
  }

  int Number() {
    if (at_ < format_.size() && format_[at_] == '*') {
      ++at_;
      const Value value = Next();
      if (runtime_.failed()) return 0;
      if (!value.is_integral() || value.integer() < 0 || value.integer() > kMaxField) {
        runtime_.Fail("* wants an int that is no more than a page");
        return 0;
      }
      return static_cast<int>(value.integer());
    }
    int number = 0;
    while (at_ < format_.size() && format_[at_] >= '0' && format_[at_] <= '9') {
      number = number * 10 + (format_[at_++] - '0');
      if (number > kMaxField) {
        runtime_.Fail("a width in a format string is too large");
        return 0;
      }
    }
    return number;
  }

  std::string One() {
    std::optional<Value> named;
    if (at_ < format_.size() && format_[at_] == '(') {
      const size_t end = format_.find(')', at_);
      if (end == std::string_view::npos) return Wrong("incomplete format key");
      if (!mapping_) return Wrong("format requires a mapping");
      const std::string key(format_.substr(at_ + 1, end - at_ - 1));
      const Value* value = values_.is_dict() ? values_.dict().Find(std::string_view(key)) : nullptr;
      if (value == nullptr) return Wrong(jinja::Repr(std::string_view(key)));
      named = *value;
      at_ = end + 1;
    }
    Conversion conversion;
    while (at_ < format_.size() && std::string_view("-+ 0#").find(format_[at_]) != std::string_view::npos) {
      conversion.flags += format_[at_++];
    }
    if (conversion.flags.find('#') != std::string::npos)
      return Wrong("the flag # in a format string is not covered");
    if (at_ < format_.size() && (format_[at_] == '*' || (format_[at_] >= '0' && format_[at_] <= '9'))) {
      conversion.width = Number();
    }
    if (at_ < format_.size() && format_[at_] == '.') {
      ++at_;
      conversion.precision = Number();
    }
    if (at_ >= format_.size()) return Wrong("incomplete format");
    conversion.type = format_[at_++];
    if (runtime_.failed()) return "";
    if (std::string_view("srdiuxXoeEfFgGc").find(conversion.type) == std::string_view::npos) {
      return Wrong(absl::StrCat("unsupported format character '", std::string(1, conversion.type), "'"));
    }
    const Value value = named ? *named : Next();
    if (runtime_.failed()) return "";
    return Convert(conversion, value);
  }

  std::string Convert(Conversion conversion, const Value& value) {
    switch (conversion.type) {
      case 's':
      case 'r': {
        std::string text = conversion.type == 's' ? runtime_.Str(value) : runtime_.Repr(value);
        if (conversion.precision >= 0 && conversion.precision < PointsIn(text)) {
          text = SliceText(TextObject(text, false), 0, 1, conversion.precision);
        }
        return Pad(std::move(text), conversion);
      }
      case 'c':
        if (!value.is_text() || value.text_object().length != 1) return Wrong("%c requires int or char");
        return Pad(value.text(), conversion);
      case 'd':
      case 'i':
      case 'u': {
        if (!value.is_number()) {
          return Wrong(absl::StrCat("%", std::string(1, conversion.type),
                                    " format: a real number is required, not ", TypeName(value)));
        }
        if (value.is_float() && !(std::abs(value.number()) < 0x1p63))
          return Wrong("cannot convert float to integer");
        conversion.type = 'd';
        return Print(conversion, "ll",
                     value.is_float() ? static_cast<long long>(value.number())
                                      : static_cast<long long>(value.integer()));
      }
      case 'x':
      case 'X':
      case 'o':
        if (!value.is_integral() || value.integer() < 0) {
          return Wrong(absl::StrCat("%", std::string(1, conversion.type),
                                    " format: an integer of at least 0 is required"));
        }
        return Print(conversion, "ll", static_cast<unsigned long long>(value.integer()));
      default:
        if (!value.is_number()) {
          return Wrong(absl::StrCat("must be real number, not ", TypeName(value)));
        }
        return Print(conversion, "", value.number());
    }
  }

  std::string Wrong(std::string sentence) {
    runtime_.Fail(std::move(sentence));
    return "";
  }

  Runtime& runtime_;
  const std::string_view format_;
  const Value& values_;
  std::vector<Value> arguments_;
  bool mapping_ = false;
  size_t next_ = 0;
  size_t at_ = 0;
};

// The value that "name.attribute[index]" names.
Value Field(Runtime& runtime, std::string_view field, const Arguments& arguments, int64_t* automatic) {
  const size_t first = std::min(field.find_first_of(".["), field.size());
  const std::string name(field.substr(0, first));
  Value value;
  const std::optional<int64_t> index = name.empty() ? (*automatic)++ : ParseInt(name, 10);
  if (index) {
    if (*index < 0 || *index >= static_cast<int64_t>(arguments.positional.size())) {
      return runtime.Fail(
          absl::StrCat("Replacement index ", *index, " out of range for positional args tuple"));
    }
    value = arguments.positional[static_cast<size_t>(*index)];
  } else {
    const Value* found = nullptr;
    for (const auto& [key, named] : arguments.named) {
      if (key == name) found = &named;
    }
    if (found == nullptr) return runtime.Fail(jinja::Repr(std::string_view(name)));
    value = *found;
  }
  field.remove_prefix(first);
  while (!field.empty() && !runtime.failed()) {
    if (field[0] == '.') {
      const size_t end = std::min(field.find_first_of(".[", 1), field.size());
      value = runtime.GetAttribute(value, field.substr(1, end - 1));
      field.remove_prefix(end);
      continue;
    }
    const size_t end = field.find(']');
    if (field[0] != '[' || end == std::string_view::npos) return runtime.Fail("Missing ']' in format string");
    const std::string key(field.substr(1, end - 1));
    const std::optional<int64_t> number = ParseInt(key, 10);
    value = runtime.GetItem(value, number ? Value::Int(*number) : Value::Text(key));
    field.remove_prefix(end + 1);
  }
  return value;
}

}  // namespace

std::string FormatPercent(Runtime& runtime, std::string_view format, const Value& values) {
  return PercentFormatter(runtime, format, values).Run();
}

std::string FormatBraces(Runtime& runtime, std::string_view format, const Arguments& arguments) {
  std::string out;
  int64_t automatic = 0;
  for (size_t at = 0; at < format.size() && !runtime.failed();) {
    const char c = format[at++];
    if (c != '{' && c != '}') {
      out += c;
      continue;
    }
    if (at < format.size() && format[at] == c) {
      out += c;
      ++at;
      continue;
    }
    const size_t end = format.find('}', at);
    if (c == '}' || end == std::string_view::npos) {
      runtime.Fail(c == '}' ? "Single '}' encountered in format string"
                            : "expected '}' before end of string");
      break;
    }
    std::string_view field = format.substr(at, end - at);
    at = end + 1;
    if (field.find(':') != std::string_view::npos || field.find('{') != std::string_view::npos) {
      runtime.Fail("a format within {} of str.format is not covered");
      break;
    }
    char conversion = 's';
    if (field.size() >= 2 && field[field.size() - 2] == '!') {
      conversion = field.back();
      field.remove_suffix(2);
    }
    const Value value = Field(runtime, field, arguments, &automatic);
    if (runtime.failed()) break;
    out += conversion == 'r' ? runtime.Repr(value) : runtime.Str(value);
    runtime.Spend(1, static_cast<int64_t>(out.size()));
  }
  return out;
}

}  // namespace paceline::jinja
