#include "coordinator/jinja/runtime.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/number.h"
#include "coordinator/jinja/text.h"

namespace paceline::jinja {
namespace {

// What one value takes, roughly: enough to bound memory by the budget.
constexpr int64_t kValueBytes = 64;

absl::string_view Abseil(std::string_view text) { return absl::string_view(text.data(), text.size()); }

class BoundCallable final : public CallableObject {
 public:
  BoundCallable(std::string name, Builtin function, Value self)
      : name_(std::move(name)), function_(function), self_(std::move(self)) {
    depth = self_.depth() + 1;
  }
  Value Call(Runtime& runtime, const Arguments& arguments) override {
    return function_(runtime, self_, arguments);
  }
  std::string Describe() const override { return absl::StrCat("<function ", name_, ">"); }

 private:
  const std::string name_;
  const Builtin function_;
  const Value self_;
};

}  // namespace

Runtime::~Runtime() {
  // One after the other, while all of them are held: an attribute may hold another namespace, or its own.
  for (const auto& name_space : namespaces_) name_space->attributes.reset();
}

Value Runtime::Fail(std::string sentence) {
  if (!error_) error_ = std::move(sentence);
  return {};
}

Value Runtime::Raise(std::string sentence) {
  raised_ = raised_ || !failed();
  return Fail(std::move(sentence));
}

bool Runtime::Spend(int64_t steps, int64_t bytes) {
  steps_ += steps;
  bytes_ += bytes;
  if (steps_ > limits_.steps) Fail(absl::StrCat("the template takes more than ", limits_.steps, " steps"));
  if (bytes_ > limits_.bytes)
    Fail(absl::StrCat("the template makes more than ", limits_.bytes, " bytes of values"));
  return !failed();
}

Value Runtime::NewText(std::string text, bool markup) {
  if (!Spend(0, static_cast<int64_t>(text.size()) + kValueBytes)) return {};
  return Value::Text(std::move(text), markup);
}

Value Runtime::NewSequence(SequenceObject::Kind kind, std::vector<Value> items) {
  if (!Spend(1, (static_cast<int64_t>(items.size()) + 1) * kValueBytes)) return {};
  Value value = Value::Sequence(kind, std::move(items));
  if (value.depth() > kMaxDepth)
    return Fail(absl::StrCat("lists lie more than ", kMaxDepth, " deep in one another"));
  return value;
}

Value Runtime::NewDict(std::shared_ptr<DictObject> dict) {
  if (!Spend(1, (static_cast<int64_t>(dict->entries().size()) + 1) * 2 * kValueBytes)) return {};
  if (dict->depth > kMaxDepth) {
    return Fail(absl::StrCat("dictionaries lie more than ", kMaxDepth, " deep in one another"));
  }
  return Value::Dict(std::move(dict));
}

Value Runtime::NewGenerator(std::vector<Value> items) {
  if (!Spend(1, (static_cast<int64_t>(items.size()) + 1) * kValueBytes)) return {};
  auto generator = std::make_shared<GeneratorObject>(std::move(items));
  if (generator->depth > kMaxDepth)
    return Fail(absl::StrCat("values lie more than ", kMaxDepth, " deep in one another"));
  return Value::Of(std::move(generator));
}

Value Runtime::NewNamespace(std::shared_ptr<DictObject> attributes) {
  if (!Spend(1, 4 * kValueBytes)) return {};
  auto name_space = std::make_shared<NamespaceObject>();
  name_space->attributes = std::move(attributes);
  namespaces_.push_back(name_space);
  return Value::Of(std::move(name_space));
}

void Runtime::SetAttribute(const Value& target, const std::string& name, Value value) {
  if (target.type() != Value::Type::kNamespace) {
    Fail("cannot assign attribute on non-namespace object");
    return;
  }
  if (Spend(1, 2 * kValueBytes)) target.name_space().attributes->Set(Value::Text(name), std::move(value));
}

bool Runtime::Truth(const Value& value) const {
  switch (value.type()) {
    case Value::Type::kUndefined:
    case Value::Type::kNone:
      return false;
    case Value::Type::kBool:
    case Value::Type::kInt:
      return value.integer() != 0;
    case Value::Type::kFloat:
      return value.number() != 0;
    case Value::Type::kText:
      return !value.text().empty();
    case Value::Type::kSequence:
      return !value.sequence().items.empty();
    case Value::Type::kDict:
      return !value.dict().entries().empty();
    default:
      return true;
  }
}

bool Runtime::Iterable(const Value& value) const {
  switch (value.type()) {
    case Value::Type::kUndefined:
    case Value::Type::kText:
    case Value::Type::kSequence:
    case Value::Type::kDict:
    case Value::Type::kGenerator:
      return true;
    default:
      return false;
  }
}

std::optional<std::vector<Value>> Runtime::Iterate(const Value& value) {
  std::vector<Value> items;
  switch (value.type()) {
    case Value::Type::kUndefined:
      break;
    case Value::Type::kText: {
      const TextObject& text = value.text_object();
      if (!Spend(text.length, text.length * kValueBytes)) return std::nullopt;
      items.reserve(static_cast<size_t>(text.length));
      for (size_t i = 0; i < text.text.size();) {
        size_t next = i + 1;
        while (next < text.text.size() && (static_cast<unsigned char>(text.text[next]) & 0xC0) == 0x80)
          ++next;
        items.push_back(Value::Text(text.text.substr(i, next - i), text.markup));
        i = next;
      }
      break;
    }
    case Value::Type::kSequence:
      if (!Spend(static_cast<int64_t>(value.sequence().items.size()))) return std::nullopt;
      items = value.sequence().items;
      break;
    case Value::Type::kDict:
      if (!Spend(static_cast<int64_t>(value.dict().entries().size()))) return std::nullopt;
      for (const auto& [key, ignored] : value.dict().entries()) items.push_back(key);
      break;
    case Value::Type::kGenerator: {
      GeneratorObject& generator = value.generator();
      if (!Spend(static_cast<int64_t>(generator.items.size() - generator.next))) return std::nullopt;
      items.assign(generator.items.begin() + static_cast<std::ptrdiff_t>(generator.next),
                   generator.items.end());
      generator.next = generator.items.size();
      break;
    }
    default:
      Fail(absl::StrCat("'", TypeName(value), "' object is not iterable"));
      return std::nullopt;
  }
  return items;
}

std::optional<int64_t> Runtime::Length(const Value& value) {
  switch (value.type()) {
    case Value::Type::kUndefined:
      return 0;
    case Value::Type::kText:
      return value.text_object().length;
    case Value::Type::kSequence:
      return static_cast<int64_t>(value.sequence().items.size());
    case Value::Type::kDict:
      return static_cast<int64_t>(value.dict().entries().size());
    default:
      Fail(absl::StrCat("object of type '", TypeName(value), "' has no len()"));
      return std::nullopt;
  }
}

bool Runtime::Contains(const Value& container, const Value& item) {
  switch (container.type()) {
    case Value::Type::kText:
      if (!item.is_text()) {
        Fail(absl::StrCat("'in <string>' requires string as left operand, not ", TypeName(item)));
        return false;
      }
      Spend(1 + static_cast<int64_t>(container.text().size()) / 64);
      return container.text().find(item.text()) != std::string::npos;
    case Value::Type::kDict:
      if (!Hashable(item)) {
        Fail(absl::StrCat("unhashable type: '", TypeName(item), "'"));
        return false;
      }
      return container.dict().Find(item) != nullptr;
    case Value::Type::kSequence: {
      const std::vector<Value>& items = container.sequence().items;
      if (container.sequence().kind == SequenceObject::Kind::kKeys && !Hashable(item)) {
        Fail(absl::StrCat("unhashable type: '", TypeName(item), "'"));
        return false;
      }
      if (!Spend(static_cast<int64_t>(items.size()))) return false;
      return std::any_of(items.begin(), items.end(), [&](const Value& other) { return Equal(item, other); });
    }
    case Value::Type::kGenerator: {
      GeneratorObject& generator = container.generator();
      while (generator.next < generator.items.size()) {
        if (!Spend(1)) return false;
        if (Equal(item, generator.items[generator.next++])) return true;
      }
      return false;
    }
    case Value::Type::kUndefined:
      return false;
    default:
      Fail(absl::StrCat("argument of type '", TypeName(container), "' is not iterable"));
      return false;
  }
}

std::optional<int> Runtime::Order(const Value& a, const Value& b, const char* sign) {
  const auto compare = [](const auto& x, const auto& y) { return x < y ? -1 : y < x ? 1 : 0; };
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return compare(a.integer(), b.integer());
    const auto wide = [](const Value& v) {
      return v.is_float() ? static_cast<long double>(v.number()) : static_cast<long double>(v.integer());
    };
    return compare(wide(a), wide(b));
  }
  // UTF-8 sorts as code points do.
  if (a.is_text() && b.is_text()) return compare(a.text(), b.text());
  if (a.is_sequence() && b.is_sequence()) {
    const SequenceObject &x = a.sequence(), &y = b.sequence();
    const bool lists = x.kind == SequenceObject::Kind::kList && y.kind == SequenceObject::Kind::kList;
    if (lists || (x.tuple() && y.tuple())) {
      for (size_t i = 0; i < std::min(x.items.size(), y.items.size()); ++i) {
        if (!Spend(1)) return std::nullopt;
        if (!Equal(x.items[i], y.items[i])) return Order(x.items[i], y.items[i], sign);
      }
      return compare(x.items.size(), y.items.size());
    }
  }
  const auto view = [](const Value& v) { return v.is_sequence() && !v.sequence().indexable(); };
  if (a.is_undefined() || b.is_undefined()) {
    FailUndefined(a.is_undefined() ? a : b);
  } else if (view(a) && view(b)) {
    Fail(absl::StrCat("'", sign, "' between views of dictionaries is not covered"));
  } else {
    Fail(absl::StrCat("'", sign, "' not supported between instances of '", TypeName(a), "' and '",
                      TypeName(b), "'"));
  }
  return std::nullopt;
}

bool Runtime::Sort(std::vector<Value>* items, const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> order(items->size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  // Merge sort from the bottom: a comparison may fail at any time, which std::stable_sort would not survive.
  std::vector<size_t> other(order.size());
  for (size_t width = 1; width < order.size(); width *= 2) {
    for (size_t begin = 0; begin < order.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, order.size()),
                   end = std::min(begin + 2 * width, order.size());
      size_t left = begin, right = middle;
      for (size_t to = begin; to < end; ++to) {
        bool take_right = left == middle;
        if (!take_right && right < end) {
          if (!Spend(1)) return false;
          const std::optional<int> compared = Order(keys[order[right]], keys[order[left]], "<");
          if (!compared) return false;
          take_right = reverse ? *compared > 0 : *compared < 0;
        }
        other[to] = take_right ? order[right++] : order[left++];
      }
    }
    order.swap(other);
  }
  std::vector<Value> sorted;
  sorted.reserve(items->size());
  for (const size_t i : order) sorted.push_back(std::move((*items)[i]));
  *items = std::move(sorted);
  return true;
}

Value Runtime::Call(const Value& callable, const Arguments& arguments) {
  if (!Spend(1)) return {};
  if (callable.type() == Value::Type::kCallable) return callable.callable().Call(*this, arguments);
  if (callable.type() == Value::Type::kAttributes && callable.attributes().callable() != nullptr) {
    return callable.attributes().callable()->Call(*this, arguments);
  }
  if (callable.is_undefined()) return FailUndefined(callable);
  return Fail(absl::StrCat("'", TypeName(callable), "' object is not callable"));
}

Value Runtime::CallFilter(std::string_view name, const Value& input, const Arguments& arguments) {
  const Filter filter = FindFilter(name);
  if (filter == nullptr) return Fail(absl::StrCat("no filter named '", Abseil(name), "' is covered"));
  if (!Spend(1)) return {};
  return filter(*this, input, arguments);
}

bool Runtime::CallTest(std::string_view name, const Value& input, const Arguments& arguments) {
  const Test test = FindTest(name);
  if (test == nullptr) {
    Fail(absl::StrCat("no test named '", Abseil(name), "' is covered"));
    return false;
  }
  return Spend(1) && test(*this, input, arguments);
}

namespace {

// Fills `values`; what Python would complain about, or nothing.
std::string Match(const Arguments& arguments, std::initializer_list<std::string_view> names, size_t required,
                  std::vector<const Value*>& values) {
  if (arguments.positional.size() > names.size()) {
    return absl::StrCat("takes at most ", names.size(), " arguments (", arguments.positional.size(),
                        " given)");
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto* const found = std::find(names.begin(), names.end(), std::string_view(name));
    if (found == names.end()) return absl::StrCat("got an unexpected keyword argument '", name, "'");
    const Value*& slot = values[static_cast<size_t>(found - names.begin())];
    if (slot != nullptr) return absl::StrCat("got multiple values for argument '", name, "'");
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    const std::string_view name = names.begin()[i];
    if (values[i] != nullptr) continue;
    return absl::StrCat("missing a required argument: '", Abseil(name.substr(name.starts_with('/') ? 1 : 0)),
                        "'");
  }
  return "";
}

}  // namespace

Bound::Bound(Runtime& runtime, std::string_view function, const Arguments& arguments,
             std::initializer_list<std::string_view> names, size_t required)
    : runtime_(runtime), function_(function), values_(names.size(), nullptr) {
  const std::string complaint = Match(arguments, names, required, values_);
  if (complaint.empty()) return;
  ok_ = false;
  runtime.Fail(absl::StrCat(function_, "() ", complaint));
}

int64_t Bound::Int(size_t i, int64_t absent) {
  const Value* value = values_[i];
  if (value == nullptr) return absent;
  if (value->is_integral()) return value->integer();
  ok_ = false;
  if (value->is_undefined()) {
    runtime_.FailUndefined(*value);
  } else {
    runtime_.Fail(absl::StrCat(function_, "() wants an integer, got '", TypeName(*value), "'"));
  }
  return absent;
}

bool Bound::Truth(size_t i, bool absent) const {
  return values_[i] == nullptr ? absent : runtime_.Truth(*values_[i]);
}

std::string_view Bound::Text(size_t i, std::string_view absent) {
  const Value* value = values_[i];
  if (value == nullptr) return absent;
  if (value->is_text()) return value->text();
  ok_ = false;
  if (value->is_undefined()) {
    runtime_.FailUndefined(*value);
  } else {
    runtime_.Fail(absl::StrCat(function_, "() wants a string, got '", TypeName(*value), "'"));
  }
  return absent;
}

Value MakeCallable(std::string name, Builtin function, Value self) {
  return Value::Of(std::make_shared<BoundCallable>(std::move(name), function, std::move(self)));
}

}  // namespace paceline::jinja
