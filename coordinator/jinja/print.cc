// How values print: str(), repr() and json.dumps().
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/number.h"
#include "coordinator/jinja/runtime.h"
#include "coordinator/jinja/text.h"
#include "coordinator/utf8.h"

namespace paceline::jinja {
namespace {

void AppendUnicodeEscape(char32_t c, std::string* out) {
  char buffer[16];
  if (c > 0xFFFF) {  // a surrogate pair
    c -= 0x10000;
    std::snprintf(buffer, sizeof(buffer), "\\u%04x\\u%04x", static_cast<unsigned>(0xD800 + (c >> 10)),
                  static_cast<unsigned>(0xDC00 + (c & 0x3FF)));
  } else {
    std::snprintf(buffer, sizeof(buffer), "\\u%04x", static_cast<unsigned>(c));
  }
  *out += buffer;
}

void AppendJsonString(std::string_view text, bool ensure_ascii, std::string* out) {
  *out += '"';
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      case '\f':
        *out += "\\f";
        break;
      case '\b':
        *out += "\\b";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || (ensure_ascii && c == 0x7F)) {
          AppendUnicodeEscape(static_cast<unsigned char>(c), out);
        } else if (ensure_ascii && static_cast<unsigned char>(c) >= 0x80) {
          const Utf8Unit unit = ReadUtf8(text.substr(i));
          AppendUnicodeEscape(unit.kind == Utf8Kind::kValid ? unit.code_point : 0xFFFD, out);
          i += unit.length - 1u;
        } else {
          *out += c;
        }
    }
  }
  *out += '"';
}

std::string JsonFloat(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return FloatRepr(value);
}

// Writes one document. Containers are at most kMaxDepth deep.
class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const JsonFormat& format, std::string* out)
      : runtime_(runtime), format_(format), out_(*out) {}

  void Write(const Value& value) {
    const size_t before = out_.size();
    switch (value.type()) {
      case Value::Type::kNone:
        out_ += "null";
        break;
      case Value::Type::kBool:
        out_ += value.integer() != 0 ? "true" : "false";
        break;
      case Value::Type::kInt:
        absl::StrAppend(&out_, value.integer());
        break;
      case Value::Type::kFloat:
        out_ += JsonFloat(value.number());
        break;
      case Value::Type::kText:
        AppendJsonString(value.text(), format_.ensure_ascii, &out_);
        break;
      case Value::Type::kSequence: {
        const SequenceObject& sequence = value.sequence();
        if (sequence.kind == SequenceObject::Kind::kList || sequence.tuple()) return List(sequence);
        Refuse(value);
        break;
      }
      case Value::Type::kDict:
        return Dict(value.dict());
      default:
        Refuse(value);
    }
    runtime_.Spend(1, static_cast<int64_t>(out_.size() - before));
  }

 private:
  void Refuse(const Value& value) {
    runtime_.Fail(absl::StrCat("Object of type ", TypeName(value), " is not JSON serializable"));
  }

  void Line(int level) {
    if (!format_.indent) return;
    out_ += '\n';
    for (int i = 0; i < level; ++i) out_ += *format_.indent;
    runtime_.Spend(0, static_cast<int64_t>(format_.indent->size()) * level + 1);
  }

  void List(const SequenceObject& list) {
    if (list.items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    ++level_;
    for (size_t i = 0; i < list.items.size() && !runtime_.failed(); ++i) {
      if (i > 0) out_ += format_.item_separator;
      Line(level_);
      Write(list.items[i]);
    }
    Line(--level_);
    out_ += ']';
  }

  // A key as JSON has it: a text.
  void Key(const Value& key) {
    switch (key.type()) {
      case Value::Type::kText:
        return AppendJsonString(key.text(), format_.ensure_ascii, &out_);
      case Value::Type::kNone:
        out_ += "\"null\"";
        return;
      case Value::Type::kBool:
        out_ += key.integer() != 0 ? "\"true\"" : "\"false\"";
        return;
      case Value::Type::kInt:
        absl::StrAppend(&out_, "\"", key.integer(), "\"");
        return;
      case Value::Type::kFloat:
        absl::StrAppend(&out_, "\"", JsonFloat(key.number()), "\"");
        return;
      default:
        runtime_.Fail(absl::StrCat("keys must be str, int, float, bool or None, not ", TypeName(key)));
    }
  }

  void Dict(const DictObject& dict) {
    if (dict.entries().empty()) {
      out_ += "{}";
      return;
    }
    std::vector<Value> order;
    for (size_t i = 0; i < dict.entries().size(); ++i) order.push_back(Value::Int(static_cast<int64_t>(i)));
    if (format_.sort_keys) {
      std::vector<Value> keys;
      for (const auto& [key, value] : dict.entries()) keys.push_back(key);
      if (!runtime_.Sort(&order, keys, false)) return;
    }
    out_ += '{';
    ++level_;
    for (size_t i = 0; i < order.size() && !runtime_.failed(); ++i) {
      const auto& [key, value] = dict.entries()[static_cast<size_t>(order[i].integer())];
      if (i > 0) out_ += format_.item_separator;
      Line(level_);
      Key(key);
      out_ += format_.key_separator;
      Write(value);
    }
    Line(--level_);
    out_ += '}';
  }

  Runtime& runtime_;
  const JsonFormat& format_;
  std::string& out_;
  int level_ = 0;
};

// repr() into one text. Containers are at most kMaxDepth deep; namespaces may hold themselves, so they are
// counted.
class ReprWriter {
 public:
  ReprWriter(Runtime& runtime, std::string* out) : runtime_(runtime), out_(*out) {}

  void Write(const Value& value) {
    const size_t before = out_.size();
    switch (value.type()) {
      case Value::Type::kText:
        out_ += value.text_object().markup
                    ? absl::StrCat("Markup(", jinja::Repr(std::string_view(value.text())), ")")
                    : jinja::Repr(std::string_view(value.text()));
        break;
      case Value::Type::kUndefined:
        out_ += "Undefined";
        break;
      case Value::Type::kSequence:
        Sequence(value.sequence());
        break;
      case Value::Type::kDict:
        Dict(value.dict());
        break;
      case Value::Type::kNamespace:
        if (++namespaces_ > 16) {
          runtime_.Fail("namespaces lie too deep in one another to be printed");
          break;
        }
        out_ += "<Namespace ";
        Dict(*value.name_space().attributes);
        out_ += ">";
        --namespaces_;
        break;
      default:
        out_ += runtime_.Str(value);
    }
    runtime_.Spend(1, static_cast<int64_t>(out_.size() - before));
  }

 private:
  void Items(const std::vector<Value>& items) {
    for (size_t i = 0; i < items.size() && !runtime_.failed(); ++i) {
      if (i > 0) out_ += ", ";
      Write(items[i]);
    }
  }

  void Sequence(const SequenceObject& sequence) {
    switch (sequence.kind) {
      case SequenceObject::Kind::kList:
        out_ += '[';
        Items(sequence.items);
        out_ += ']';
        return;
      case SequenceObject::Kind::kTuple:
      case SequenceObject::Kind::kGroup:
        out_ += '(';
        Items(sequence.items);
        out_ += sequence.items.size() == 1 ? ",)" : ")";
        return;
      case SequenceObject::Kind::kRange:
        absl::StrAppend(&out_, "range(", sequence.start, ", ", sequence.stop);
        if (sequence.step != 1) absl::StrAppend(&out_, ", ", sequence.step);
        out_ += ')';
        return;
      case SequenceObject::Kind::kKeys:
        out_ += "dict_keys([";
        break;
      case SequenceObject::Kind::kValues:
        out_ += "dict_values([";
        break;
      case SequenceObject::Kind::kItems:
        out_ += "dict_items([";
        break;
    }
    Items(sequence.items);
    out_ += "])";
  }

  void Dict(const DictObject& dict) {
    out_ += '{';
    bool first = true;
    for (const auto& [key, value] : dict.entries()) {
      if (runtime_.failed()) return;
      if (!first) out_ += ", ";
      first = false;
      Write(key);
      out_ += ": ";
      Write(value);
    }
    out_ += '}';
  }

  Runtime& runtime_;
  std::string& out_;
  int namespaces_ = 0;
};

}  // namespace

std::string Runtime::Str(const Value& value) {
  switch (value.type()) {
    case Value::Type::kUndefined:
      return "";
    case Value::Type::kNone:
      return "None";
    case Value::Type::kBool:
      return value.integer() != 0 ? "True" : "False";
    case Value::Type::kInt:
      return absl::StrCat(value.integer());
    case Value::Type::kFloat:
      return FloatRepr(value.number());
    case Value::Type::kText:
      return value.text();
    case Value::Type::kGenerator:
      return "<generator object>";
    case Value::Type::kCallable:
      return value.callable().Describe();
    case Value::Type::kAttributes:
      return value.attributes().Describe();
    default:
      return Repr(value);
  }
}

std::string Runtime::Repr(const Value& value) {
  std::string out;
  ReprWriter(*this, &out).Write(value);
  return out;
}

std::string ToJson(Runtime& runtime, const Value& value, const JsonFormat& format) {
  std::string out;
  JsonWriter(runtime, format, &out).Write(value);
  return out;
}

}  // namespace paceline::jinja
