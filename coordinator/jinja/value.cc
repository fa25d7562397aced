#include "coordinator/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"
#include "coordinator/utf8.h"

namespace paceline::jinja {
namespace {

int64_t CountPoints(std::string_view text) {
  int64_t points = 0;
  for (size_t i = 0; i < text.size(); ++points) {
    i += static_cast<unsigned char>(text[i]) < 0x80 ? 1 : ReadUtf8(text.substr(i)).length;
  }
  return points;
}

size_t HashText(std::string_view text) {
  return absl::Hash<absl::string_view>()(absl::string_view(text.data(), text.size()));
}

// Equal values have equal hashes: a float that is whole hashes as the integer.
size_t HashOf(const Value& value) {
  switch (value.type()) {
    case Value::Type::kText:
      return HashText(value.text());
    case Value::Type::kFloat: {
      const double number = value.number();
      if (number == std::floor(number) && std::abs(number) < 0x1p63) {
        return absl::Hash<int64_t>()(static_cast<int64_t>(number));
      }
      return absl::Hash<double>()(number);
    }
    case Value::Type::kBool:
    case Value::Type::kInt:
      return absl::Hash<int64_t>()(value.integer());
    case Value::Type::kSequence: {
      size_t hash = 1;
      for (const Value& item : value.sequence().items) hash = hash * 1000003 + HashOf(item);
      return hash;
    }
    default:
      return static_cast<size_t>(value.type());
  }
}

bool EqualSequences(const SequenceObject& a, const SequenceObject& b) {
  if (a.kind != b.kind && !(a.tuple() && b.tuple())) return false;
  return std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(), Equal);
}

bool EqualDicts(const DictObject& a, const DictObject& b) {
  if (a.entries().size() != b.entries().size()) return false;
  for (const auto& [key, value] : a.entries()) {
    const Value* other = b.Find(key);
    if (other == nullptr || !Equal(value, *other)) return false;
  }
  return true;
}

}  // namespace

int32_t DepthOf(const std::vector<Value>& items) {
  int32_t depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return depth + 1;
}

TextObject::TextObject(std::string words, bool safe)
    : text(std::move(words)), length(CountPoints(text)), markup(safe) {}

SequenceObject::SequenceObject(Kind what, std::vector<Value> values) : kind(what), items(std::move(values)) {
  depth = DepthOf(items);
}
SequenceObject::~SequenceObject() = default;
DictObject::DictObject() { depth = 1; }
DictObject::~DictObject() = default;
GeneratorObject::GeneratorObject(std::vector<Value> values) : items(std::move(values)) {
  depth = DepthOf(items);
}
GeneratorObject::~GeneratorObject() = default;

template <class Equal>
int64_t DictObject::Lookup(size_t hash, const Equal& equal) const {
  if (table_.empty()) {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (hashes_[i] == hash && equal(entries_[i].first)) return static_cast<int64_t>(i);
    }
    return -1;
  }
  const size_t mask = table_.size() - 1;
  for (size_t slot = hash & mask; table_[slot] >= 0; slot = (slot + 1) & mask) {
    const auto i = static_cast<size_t>(table_[slot]);
    if (hashes_[i] == hash && equal(entries_[i].first)) return table_[slot];
  }
  return -1;
}

void DictObject::Rehash() {
  constexpr size_t kFew = 8;  // searched one by one
  if (entries_.size() <= kFew || entries_.size() * 2 <= table_.size()) return;
  table_.assign(std::max<size_t>(32, table_.size() * 4), -1);
  const size_t mask = table_.size() - 1;
  for (size_t i = 0; i < entries_.size(); ++i) {
    size_t slot = hashes_[i] & mask;
    while (table_[slot] >= 0) slot = (slot + 1) & mask;
    table_[slot] = static_cast<int32_t>(i);
  }
}

const Value* DictObject::Find(const Value& key) const {
  const int64_t i = Lookup(HashOf(key), [&](const Value& other) { return Equal(key, other); });
  return i < 0 ? nullptr : &entries_[static_cast<size_t>(i)].second;
}

const Value* DictObject::Find(std::string_view key) const {
  const int64_t i =
      Lookup(HashText(key), [&](const Value& other) { return other.is_text() && other.text() == key; });
  return i < 0 ? nullptr : &entries_[static_cast<size_t>(i)].second;
}

void DictObject::Set(Value key, Value value) {
  depth = std::max({depth, value.depth() + 1, key.depth() + 1});
  const size_t hash = HashOf(key);
  const int64_t i = Lookup(hash, [&](const Value& other) { return Equal(key, other); });
  if (i >= 0) {
    entries_[static_cast<size_t>(i)].second = std::move(value);
    return;
  }
  entries_.emplace_back(std::move(key), std::move(value));
  hashes_.push_back(hash);
  if (entries_.size() * 2 > table_.size()) return Rehash();
  const size_t mask = table_.size() - 1;
  size_t slot = hash & mask;
  while (table_[slot] >= 0) slot = (slot + 1) & mask;
  table_[slot] = static_cast<int32_t>(entries_.size() - 1);
}

Value Value::Float(double number) {
  Value value(Type::kFloat, int64_t{0});
  value.float_ = number;
  return value;
}

Value Value::Text(std::string text, bool markup) {
  return Value(Type::kText, std::make_shared<TextObject>(std::move(text), markup));
}

Value Value::Undefined(std::string sentence) {
  return Value(Type::kUndefined, std::make_shared<UndefinedObject>(std::move(sentence)));
}

Value Value::Sequence(SequenceObject::Kind kind, std::vector<Value> items) {
  return Of(std::make_shared<SequenceObject>(kind, std::move(items)));
}

Value Value::Dict(std::shared_ptr<DictObject> dict) { return Value(Type::kDict, std::move(dict)); }

Value Value::FromJson(const Json& json) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return Bool(json.get<bool>());
    case Json::value_t::number_integer:
      return Int(json.get<int64_t>());
    case Json::value_t::number_unsigned: {
      const uint64_t number = json.get<uint64_t>();
      if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        return Float(static_cast<double>(number));
      return Int(static_cast<int64_t>(number));
    }
    case Json::value_t::number_float:
      return Float(json.get<double>());
    case Json::value_t::string:
      return Text(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& item : json) items.push_back(FromJson(item));
      return List(std::move(items));
    }
    case Json::value_t::object: {
      auto dict = std::make_shared<DictObject>();
      for (const auto& [key, value] : json.items()) dict->Set(Text(key), FromJson(value));
      return Dict(std::move(dict));
    }
    default:
      return None();
  }
}

const std::string& Value::undefined_sentence() const {
  static const std::string none = "the value is undefined";
  return object_ == nullptr ? none : static_cast<const UndefinedObject&>(*object_).sentence;
}

bool Value::Is(const Value& other) const {
  if (type_ != other.type_) return false;
  if (object_ != nullptr || other.object_ != nullptr) return object_ == other.object_;
  return is_float() ? float_ == other.float_ : integer_ == other.integer_;
}

const char* TypeName(const Value& value) {
  switch (value.type()) {
    case Value::Type::kUndefined:
      return "Undefined";
    case Value::Type::kNone:
      return "NoneType";
    case Value::Type::kBool:
      return "bool";
    case Value::Type::kInt:
      return "int";
    case Value::Type::kFloat:
      return "float";
    case Value::Type::kText:
      return value.text_object().markup ? "Markup" : "str";
    case Value::Type::kSequence:
      switch (value.sequence().kind) {
        case SequenceObject::Kind::kList:
          return "list";
        case SequenceObject::Kind::kTuple:
        case SequenceObject::Kind::kGroup:
          return "tuple";
        case SequenceObject::Kind::kRange:
          return "range";
        case SequenceObject::Kind::kKeys:
          return "dict_keys";
        case SequenceObject::Kind::kValues:
          return "dict_values";
        case SequenceObject::Kind::kItems:
          return "dict_items";
      }
      return "?";
    case Value::Type::kDict:
      return "dict";
    case Value::Type::kNamespace:
      return "Namespace";
    case Value::Type::kGenerator:
      return "generator";
    case Value::Type::kCallable:
      return "function";
    case Value::Type::kAttributes:
      return "LoopContext";
  }
  return "?";
}

bool Hashable(const Value& value) {
  if (value.is_dict()) return false;
  if (!value.is_sequence()) return true;
  const SequenceObject& sequence = value.sequence();
  if (sequence.kind == SequenceObject::Kind::kRange) return true;
  return sequence.tuple() && std::all_of(sequence.items.begin(), sequence.items.end(), Hashable);
}

bool Equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
    // 64 bits of significand hold both an int64 and a double.
    const auto wide = [](const Value& v) {
      return v.is_float() ? static_cast<long double>(v.number()) : static_cast<long double>(v.integer());
    };
    return wide(a) == wide(b);
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Value::Type::kUndefined:
    case Value::Type::kNone:
      return true;
    case Value::Type::kText:
      return a.text() == b.text();
    case Value::Type::kSequence:
      return a.Is(b) || EqualSequences(a.sequence(), b.sequence());
    case Value::Type::kDict:
      return a.Is(b) || EqualDicts(a.dict(), b.dict());
    default:
      return a.Is(b);
  }
}

}  // namespace paceline::jinja
