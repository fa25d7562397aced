// obj.name, obj[key], obj[a:b:c]: what the sandbox lets a template reach. An attribute is a method before it
// is a key; an item is a key before it is a method.
#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/runtime.h"
#include "coordinator/jinja/text.h"

namespace paceline::jinja {
namespace {

absl::string_view Abseil(std::string_view text) { return absl::string_view(text.data(), text.size()); }

// How Jinja names the holder of a missing attribute.
std::string Holder(const Value& object) {
  if (object.is_none()) return "None";
  if (object.type() == Value::Type::kNamespace) return "jinja2.utils.Namespace object";
  if (object.type() == Value::Type::kAttributes) return "jinja2.runtime.LoopContext object";
  return absl::StrCat(TypeName(object), " object");
}

Value NoAttribute(const Value& object, std::string_view name) {
  return Value::Undefined(absl::StrCat("'", Holder(object), "' has no attribute '", Abseil(name), "'"));
}

Value Unsafe(const Value& object, std::string_view name) {
  return Value::Undefined(
      absl::StrCat("access to attribute '", Abseil(name), "' of '", TypeName(object), "' object is unsafe."));
}

template <size_t N>
bool OneOf(std::string_view name, const char* const (&names)[N]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// Python's methods that would change a value: the sandbox refuses them.
constexpr const char* kListChangers[] = {"append", "clear", "pop",    "reverse",
                                         "insert", "sort",  "extend", "remove"};
constexpr const char* kDictChangers[] = {"clear", "pop", "popitem", "setdefault", "update"};

const Value* At(const std::vector<Value>& items, int64_t index) {
  const auto size = static_cast<int64_t>(items.size());
  if (index < 0) index += size;
  return index < 0 || index >= size ? nullptr : &items[static_cast<size_t>(index)];
}

// start, stop and step of Python's slices, made to lie within `length`: first index, number of items.
struct Span {
  int64_t start = 0;
  int64_t stop = 0;
  int64_t step = 1;
  int64_t count = 0;
};

std::optional<Span> Resolve(Runtime& runtime, int64_t length, const Value& start, const Value& stop,
                            const Value& step) {
  for (const Value* bound : {&start, &stop, &step}) {
    if (!bound->is_none() && !bound->is_integral()) {
      runtime.Fail("slice indices must be integers or None or have an __index__ method");
      return std::nullopt;
    }
  }
  Span span;
  if (!step.is_none()) span.step = step.integer();
  if (span.step == 0) {
    runtime.Fail("slice step cannot be zero");
    return std::nullopt;
  }
  span.step = std::max(span.step, -std::numeric_limits<int64_t>::max());
  const bool back = span.step < 0;
  const auto clamp = [&](int64_t index) {
    if (index < 0) index = std::max(index, -length - 1) + length;
    return std::clamp(index, back ? int64_t{-1} : int64_t{0}, back ? length - 1 : length);
  };
  span.start = start.is_none() ? (back ? length - 1 : 0) : clamp(start.integer());
  span.stop = stop.is_none() ? (back ? -1 : length) : clamp(stop.integer());
  const int64_t distance = back ? span.start - span.stop : span.stop - span.start;
  if (distance > 0) span.count = (distance - 1) / std::abs(span.step) + 1;
  return span;
}

}  // namespace

// A bound method, or undefined without a sentence where the type has none of that name.
Value Runtime::Method(const Value& object, std::string_view name) {
  Builtin method = nullptr;
  if (object.is_text()) {
    method = FindTextMethod(name);
  } else if (object.is_dict()) {
    if (OneOf(name, kDictChangers)) return Unsafe(object, name);
    method = FindDictMethod(name);
  } else if (object.is_sequence()) {
    const bool list = object.sequence().kind == SequenceObject::Kind::kList;
    if (list && OneOf(name, kListChangers)) return Unsafe(object, name);
    if (object.sequence().indexable()) method = FindSequenceMethod(name, list);
  }
  return method == nullptr ? Value() : MakeCallable(std::string(name), method, object);
}

Value Runtime::GetAttribute(const Value& object, std::string_view name) {
  if (!Spend(1)) return {};
  switch (object.type()) {
    case Value::Type::kUndefined:
      return FailUndefined(object);
    case Value::Type::kNamespace:
      // Its attributes are all it has, names with underscores among them.
      if (const Value* value = object.name_space().attributes->Find(name)) {
        return name.starts_with('_') ? Unsafe(object, name) : *value;
      }
      return NoAttribute(object, name);
    case Value::Type::kAttributes: {
      Value value = object.attributes().Attribute(*this, name);
      return value.is_undefined() && value.undefined_sentence() == Value().undefined_sentence()
                 ? NoAttribute(object, name)
                 : value;
    }
    case Value::Type::kDict: {
      if (name.starts_with("__")) break;
      Value method = Method(object, name);
      if (!method.is_undefined() || method.undefined_sentence() != Value().undefined_sentence())
        return method;
      const Value* value = object.dict().Find(name);
      return value != nullptr ? *value : NoAttribute(object, name);
    }
    case Value::Type::kSequence:
      if (object.sequence().kind == SequenceObject::Kind::kGroup) {
        if (name == "grouper") return object.sequence().items[0];
        if (name == "list") return object.sequence().items[1];
      }
      [[fallthrough]];
    case Value::Type::kText: {
      Value method = Method(object, name);
      if (!method.is_undefined() || method.undefined_sentence() != Value().undefined_sentence())
        return method;
      break;
    }
    default:
      break;
  }
  return NoAttribute(object, name);
}

Value Runtime::GetItem(const Value& object, const Value& key) {
  if (!Spend(1)) return {};
  switch (object.type()) {
    case Value::Type::kUndefined:
      return FailUndefined(object);
    case Value::Type::kDict:
      if (Hashable(key)) {
        if (const Value* value = object.dict().Find(key)) return *value;
      }
      break;
    case Value::Type::kSequence:
      if (key.is_integral() && object.sequence().indexable()) {
        if (const Value* value = At(object.sequence().items, key.integer())) return *value;
      }
      break;
    case Value::Type::kText:
      if (key.is_integral()) {
        const TextObject& text = object.text_object();
        const int64_t index = key.integer() < 0 ? key.integer() + text.length : key.integer();
        if (index >= 0 && index < text.length) {
          if (!text.ascii()) Spend(index / 16);
          return NewText(SliceText(text, index, 1, 1), text.markup);
        }
      }
      break;
    default:
      break;
  }
  if (key.is_text()) {
    // A dictionary without the key still has its methods.
    if (object.is_dict()) {
      Value method = Method(object, key.text());
      if (!method.is_undefined() || method.undefined_sentence() != Value().undefined_sentence())
        return method;
      return NoAttribute(object, key.text());
    }
    return GetAttribute(object, key.text());
  }
  return Value::Undefined(absl::StrCat(Holder(object), " has no element ", Repr(key)));
}

Value Runtime::GetSlice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (!Spend(1)) return {};
  if (object.is_text()) {
    const TextObject& text = object.text_object();
    const std::optional<Span> span = Resolve(*this, text.length, start, stop, step);
    if (!span || !Spend(text.length / 64)) return {};
    return NewText(SliceText(text, span->start, span->step, span->count), text.markup);
  }
  if (object.is_sequence() && object.sequence().indexable()) {
    const SequenceObject& sequence = object.sequence();
    const std::optional<Span> span =
        Resolve(*this, static_cast<int64_t>(sequence.items.size()), start, stop, step);
    if (!span || !Spend(span->count)) return {};
    std::vector<Value> items;
    items.reserve(static_cast<size_t>(span->count));
    for (int64_t i = 0; i < span->count; ++i) {
      items.push_back(sequence.items[static_cast<size_t>(span->start + i * span->step)]);
    }
    if (sequence.kind != SequenceObject::Kind::kRange) {
      return NewSequence(sequence.tuple() ? SequenceObject::Kind::kTuple : SequenceObject::Kind::kList,
                         std::move(items));
    }
    auto range = std::make_shared<SequenceObject>(SequenceObject::Kind::kRange, std::move(items));
    // Only for printing; unsigned, since any step may be given.
    const auto at = [&](int64_t index) {
      return static_cast<int64_t>(static_cast<uint64_t>(index) * static_cast<uint64_t>(sequence.step));
    };
    range->start = sequence.start + at(span->start);
    range->stop = sequence.start + at(span->stop);
    range->step = at(span->step);
    return Value::Of(std::move(range));
  }
  if (object.is_undefined()) return FailUndefined(object);
  if (object.is_dict()) return Fail("unhashable type: 'slice'");
  return Fail(absl::StrCat("'", TypeName(object), "' object is not subscriptable"));
}

}  // namespace paceline::jinja
