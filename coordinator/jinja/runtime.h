// One render's bookkeeping and Python's basic operations on values: what built-in functions see of the
// interpreter.
//
// Nothing throws. The first error of a render stays (failed()), every later operation gives undefined without
// doing anything, and the interpreter unwinds. The same holds for the budget: steps, bytes made, containers
// within one another. Used by the thread of its render.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/jinja/value.h"

namespace paceline::jinja {

// What a render may cost. The defaults are a hundred times what a long conversation takes.
struct Limits {
  int64_t steps = 20'000'000;        // nodes visited and items touched by built-ins
  int64_t bytes = int64_t{1} << 30;  // of all values made, those already dropped included
  int64_t output = int64_t{64} << 20;
  int32_t depth = 1000;  // nodes within one another, macro calls included
};

class Runtime {
 public:
  explicit Runtime(const Limits& limits) : limits_(limits) {}
  virtual ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  bool failed() const { return error_.has_value(); }
  const std::optional<std::string>& error() const { return error_; }
  // Ends the render with a sentence, unless it has ended. Always undefined.
  Value Fail(std::string sentence);
  // The same for raise_exception: the template's own words, which the caller passes on without the line.
  Value Raise(std::string sentence);
  bool raised() const { return raised_; }
  // What Python says of an operation on a missing value.
  Value FailUndefined(const Value& value) { return Fail(value.undefined_sentence()); }

  // False (and failed) when the budget is used up. Steps: work; bytes: what is about to be made.
  bool Spend(int64_t steps, int64_t bytes = 0);

  // Values made during a render: charged, and refused where they are too deep.
  Value NewText(std::string text, bool markup = false);
  Value NewSequence(SequenceObject::Kind kind, std::vector<Value> items);
  Value NewList(std::vector<Value> items) {
    return NewSequence(SequenceObject::Kind::kList, std::move(items));
  }
  Value NewTuple(std::vector<Value> items) {
    return NewSequence(SequenceObject::Kind::kTuple, std::move(items));
  }
  Value NewDict(std::shared_ptr<DictObject> dict);
  Value NewGenerator(std::vector<Value> items);
  Value NewNamespace(std::shared_ptr<DictObject> attributes);
  // Sets an attribute of a namespace; fails for any other value.
  void SetAttribute(const Value& target, const std::string& name, Value value);

  bool Truth(const Value& value) const;
  // All items of what Python can iterate; a generator is used up. Nullopt and failed for the rest.
  std::optional<std::vector<Value>> Iterate(const Value& value);
  bool Iterable(const Value& value) const;
  // len(); nullopt and failed where there is none.
  std::optional<int64_t> Length(const Value& value);
  // `item in container`.
  bool Contains(const Value& container, const Value& item);
  // Python's <, with `less` deciding and failure for types that have no order. -1, 0, 1; nullopt when failed.
  std::optional<int> Order(const Value& a, const Value& b, const char* sign);
  // A stable sort; false when two keys have no order. `keys` stand beside `items`.
  bool Sort(std::vector<Value>* items, const std::vector<Value>& keys, bool reverse);

  // str() and repr().
  std::string Str(const Value& value);
  std::string Repr(const Value& value);

  // obj.name, obj[key] and obj[start:stop:step] as the sandbox resolves them.
  Value GetAttribute(const Value& object, std::string_view name);
  Value GetItem(const Value& object, const Value& key);
  Value GetSlice(const Value& object, const Value& start, const Value& stop, const Value& step);
  Value Call(const Value& callable, const Arguments& arguments);

  // Filters and tests by name; failed where there is none.
  Value CallFilter(std::string_view name, const Value& input, const Arguments& arguments);
  bool CallTest(std::string_view name, const Value& input, const Arguments& arguments);

  // What strftime_now shows.
  std::function<int64_t()> now;

 private:
  Value Method(const Value& object, std::string_view name);

  const Limits limits_;
  int64_t steps_ = 0;
  int64_t bytes_ = 0;
  std::optional<std::string> error_;
  bool raised_ = false;
  std::vector<std::shared_ptr<NamespaceObject>> namespaces_;  // all of this render, emptied at its end
};

// Arguments by position and by name, matched against a signature.
class Bound {
 public:
  // `names`: in order of position; one that begins with '/' is known by position only. The first `required`
  // must be there. Fails `runtime` with Python's complaint.
  Bound(Runtime& runtime, std::string_view function, const Arguments& arguments,
        std::initializer_list<std::string_view> names, size_t required = 0);
  explicit operator bool() const { return ok_; }
  // Null when not given.
  const Value* operator[](size_t i) const { return values_[i]; }
  // Null when not given or None.
  const Value* Given(size_t i) const {
    return values_[i] != nullptr && !values_[i]->is_none() ? values_[i] : nullptr;
  }
  // With a default. Fail where the argument is of another type.
  int64_t Int(size_t i, int64_t absent);
  bool Truth(size_t i, bool absent) const;
  std::string_view Text(size_t i, std::string_view absent);

 private:
  Runtime& runtime_;
  const std::string function_;
  std::vector<const Value*> values_;
  bool ok_ = true;
};

// A callable made of a function and what it is bound to.
using Builtin = Value (*)(Runtime& runtime, const Value& self, const Arguments& arguments);
Value MakeCallable(std::string name, Builtin function, Value self = {});

// What the names of a template mean where its context has none: range, namespace, raise_exception, .. Null:
// nothing.
const Value* FindGlobal(std::string_view name);

using Filter = Value (*)(Runtime& runtime, const Value& input, const Arguments& arguments);
using Test = bool (*)(Runtime& runtime, const Value& input, const Arguments& arguments);
// Null where there is none.
Filter FindFilter(std::string_view name);
Test FindTest(std::string_view name);
// A method of the value's type, or null.
Builtin FindTextMethod(std::string_view name);
Builtin FindDictMethod(std::string_view name);
Builtin FindSequenceMethod(std::string_view name, bool list);

// json.dumps. `indent`: what one level adds, nullopt for one line.
struct JsonFormat {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent = {};
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
std::string ToJson(Runtime& runtime, const Value& value, const JsonFormat& format);

}  // namespace paceline::jinja
