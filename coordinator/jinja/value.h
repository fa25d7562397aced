// Values of the template language: Python's, as far as templates can tell. A value is immutable once made;
// the three exceptions (a namespace, a loop, a generator that has been read) live no longer than the render
// they belong to. Values made at load time are read by many renders at once; the others belong to the thread
// of their render.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "coordinator/chat.h"

namespace paceline::jinja {

class Runtime;
class Value;

// What a call was given. Names are checked by whoever takes them (Bound in runtime.h).
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Everything that does not fit into a word.
struct Object {
  virtual ~Object() = default;
  // Objects that hold values, within one another, itself included; 0 for one that holds none. Bounded by
  // kMaxDepth: what prints, compares and frees them goes down by recursion.
  int32_t depth = 0;
};

struct TextObject : Object {
  TextObject(std::string text, bool markup);
  const std::string text;
  const int64_t length;  // code points; equal to text.size() for ASCII
  const bool markup;     // came through `safe`: "+" escapes what is put beside it
  bool ascii() const { return length == static_cast<int64_t>(text.size()); }
};

// Why a value is missing: what an operation on it will say.
struct UndefinedObject : Object {
  explicit UndefinedObject(std::string sentence) : sentence(std::move(sentence)) {}
  const std::string sentence;
};

struct SequenceObject : Object {
  enum class Kind : uint8_t {
    kList,
    kTuple,
    kGroup,  // a tuple of two whose parts are also called `grouper` and `list`
    kRange,
    kKeys,  // the three views of a dictionary: counted and iterated, not indexed
    kValues,
    kItems,
  };
  SequenceObject(Kind kind, std::vector<Value> items);
  ~SequenceObject() override;
  const Kind kind;
  const std::vector<Value> items;
  int64_t start = 0, stop = 0, step = 1;  // of kRange
  bool indexable() const { return kind <= Kind::kRange; }
  bool tuple() const { return kind == Kind::kTuple || kind == Kind::kGroup; }
};

// Insertion order, keys unique by Python's equality (1, 1.0 and True are one key).
class DictObject : public Object {
 public:
  using Entry = std::pair<Value, Value>;
  DictObject();
  ~DictObject() override;
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  // `key` is hashable. A key that is there keeps its place and gets the new value.
  void Set(Value key, Value value);
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  template <class Equal>
  int64_t Lookup(size_t hash, const Equal& equal) const;
  void Rehash();

  std::vector<Entry> entries_;
  std::vector<size_t> hashes_;  // [entries]
  std::vector<int32_t> table_;  // open addressing into entries_, -1 = free; empty while there are few
};

// Attributes that templates may set. The render that made it clears it at its end, so that cycles do not
// leak.
struct NamespaceObject : Object {
  std::shared_ptr<DictObject> attributes;
};

// What a filter like `map` gives: read once, without a length.
struct GeneratorObject : Object {
  explicit GeneratorObject(std::vector<Value> items);
  ~GeneratorObject() override;
  std::vector<Value> items;
  size_t next = 0;
};

struct CallableObject : Object {
  virtual Value Call(Runtime& runtime, const Arguments& arguments) = 0;
  virtual std::string Describe() const = 0;  // what str() of it says
};

// `loop`, and other things with attributes of their own.
struct AttributesObject : Object {
  virtual Value Attribute(Runtime& runtime, std::string_view name) = 0;  // undefined where there is none
  virtual std::string Describe() const = 0;
  virtual CallableObject* callable() { return nullptr; }
};

class Value {
 public:
  enum class Type : uint8_t {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kFloat,
    kText,
    kSequence,
    kDict,
    kNamespace,
    kGenerator,
    kCallable,
    kAttributes,
  };

  Value() = default;  // undefined, without a reason
  static Value None() { return Value(Type::kNone, int64_t{0}); }
  static Value Bool(bool value) { return Value(Type::kBool, int64_t{value}); }
  static Value Int(int64_t value) { return Value(Type::kInt, value); }
  static Value Float(double value);
  static Value Text(std::string text, bool markup = false);
  static Value Undefined(std::string sentence);
  static Value List(std::vector<Value> items) {
    return Sequence(SequenceObject::Kind::kList, std::move(items));
  }
  static Value Tuple(std::vector<Value> items) {
    return Sequence(SequenceObject::Kind::kTuple, std::move(items));
  }
  static Value Sequence(SequenceObject::Kind kind, std::vector<Value> items);
  static Value Dict(std::shared_ptr<DictObject> dict);
  static Value Of(std::shared_ptr<SequenceObject> object) {
    return Value(Type::kSequence, std::move(object));
  }
  static Value Of(std::shared_ptr<NamespaceObject> object) {
    return Value(Type::kNamespace, std::move(object));
  }
  static Value Of(std::shared_ptr<GeneratorObject> object) {
    return Value(Type::kGenerator, std::move(object));
  }
  static Value Of(std::shared_ptr<CallableObject> object) {
    return Value(Type::kCallable, std::move(object));
  }
  static Value Of(std::shared_ptr<AttributesObject> object) {
    return Value(Type::kAttributes, std::move(object));
  }
  // Objects, arrays and strings become dictionaries, lists and texts. Integers beyond 64 bits become floats.
  // `json` is not deeper than ParseJson lets through.
  static Value FromJson(const Json& json);

  Type type() const { return type_; }
  bool is_undefined() const { return type_ == Type::kUndefined; }
  bool is_none() const { return type_ == Type::kNone; }
  bool is_bool() const { return type_ == Type::kBool; }
  bool is_text() const { return type_ == Type::kText; }
  bool is_float() const { return type_ == Type::kFloat; }
  bool is_sequence() const { return type_ == Type::kSequence; }
  bool is_dict() const { return type_ == Type::kDict; }
  // Python's int: booleans are 0 and 1.
  bool is_integral() const { return type_ == Type::kInt || type_ == Type::kBool; }
  bool is_number() const { return is_integral() || is_float(); }

  // Each only for a value of its type.
  int64_t integer() const { return integer_; }
  double number() const { return is_float() ? float_ : static_cast<double>(integer_); }
  const std::string& text() const { return text_object().text; }
  const TextObject& text_object() const { return static_cast<const TextObject&>(*object_); }
  const SequenceObject& sequence() const { return static_cast<const SequenceObject&>(*object_); }
  const DictObject& dict() const { return static_cast<const DictObject&>(*object_); }
  NamespaceObject& name_space() const { return static_cast<NamespaceObject&>(*object_); }
  GeneratorObject& generator() const { return static_cast<GeneratorObject&>(*object_); }
  CallableObject& callable() const { return static_cast<CallableObject&>(*object_); }
  AttributesObject& attributes() const { return static_cast<AttributesObject&>(*object_); }
  const std::string& undefined_sentence() const;

  // The same object, or the same value of a type without one (Python's `is`).
  bool Is(const Value& other) const;
  int32_t depth() const { return object_ == nullptr ? 0 : object_->depth; }

 private:
  Value(Type type, int64_t integer) : type_(type), integer_(integer) {}
  Value(Type type, std::shared_ptr<Object> object) : type_(type), object_(std::move(object)) {}

  Type type_ = Type::kUndefined;
  union {
    int64_t integer_ = 0;
    double float_;
  };
  std::shared_ptr<Object> object_;
};

// Python's names: "str", "NoneType", "dict".
const char* TypeName(const Value& value);
// A list, a dictionary and what holds one cannot be a key.
bool Hashable(const Value& value);
// Python's ==. Containers are not deeper than kMaxDepth, so this ends.
bool Equal(const Value& a, const Value& b);

inline constexpr int32_t kMaxDepth = 200;

// One more than the deepest of them.
int32_t DepthOf(const std::vector<Value>& items);

}  // namespace paceline::jinja
