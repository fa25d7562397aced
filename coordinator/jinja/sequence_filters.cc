// Filters of what can be iterated.
#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/filters.h"
#include "coordinator/jinja/number.h"
#include "coordinator/jinja/text.h"

namespace paceline::jinja {
namespace {

// "a.b.0": attributes of attributes, digits as indices.
class AttributePath {
 public:
  AttributePath(Runtime& runtime, const Value& attribute) : runtime_(runtime) {
    if (attribute.is_none()) return;
    if (!attribute.is_text()) {
      parts_.push_back(attribute);
      return;
    }
    for (const std::string_view part : SplitAt(attribute.text(), ".", -1, false)) {
      const std::optional<int64_t> index =
          AllOf(part, CharacterClass::kDigit) ? ParseInt(part, 10) : std::nullopt;
      parts_.push_back(index ? Value::Int(*index) : Value::Text(std::string(part)));
    }
  }

  // `absent` stands for a part that is missing, where it is given.
  Value Of(Value item, const Value* absent = nullptr) const {
    for (const Value& part : parts_) {
      item = runtime_.GetItem(item, part);
      if (absent != nullptr && item.is_undefined()) item = *absent;
    }
    return item;
  }

 private:
  Runtime& runtime_;
  std::vector<Value> parts_;
};

// What items are compared by: an attribute, texts in small letters unless case counts.
class Key {
 public:
  Key(Runtime& runtime, const Value* attribute, bool case_sensitive)
      : runtime_(runtime), case_sensitive_(case_sensitive) {
    if (attribute == nullptr || attribute->is_none()) {
      paths_.emplace_back(runtime, Value::None());
    } else if (attribute->is_text()) {
      for (const std::string_view part : SplitAt(attribute->text(), ",", -1, false)) {
        paths_.emplace_back(runtime, Value::Text(std::string(part)));
      }
    } else {
      paths_.emplace_back(runtime, *attribute);
    }
  }

  Value Of(const Value& item) const {
    if (paths_.size() == 1) return Fold(paths_[0].Of(item));
    std::vector<Value> parts;
    for (const AttributePath& path : paths_) parts.push_back(Fold(path.Of(item)));
    return runtime_.NewList(std::move(parts));
  }

 private:
  Value Fold(Value value) const {
    return value.is_text() && !case_sensitive_ ? runtime_.NewText(Lower(value.text())) : value;
  }
  Runtime& runtime_;
  const bool case_sensitive_;
  std::vector<AttributePath> paths_;
};

std::optional<std::vector<Value>> Keys(Runtime& runtime, const std::vector<Value>& items, const Key& key) {
  std::vector<Value> keys;
  keys.reserve(items.size());
  for (const Value& item : items) {
    keys.push_back(key.Of(item));
    if (runtime.failed()) return std::nullopt;
  }
  return keys;
}

Value LengthFilter(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "length", arguments, {});
  const auto length = bound ? runtime.Length(input) : std::nullopt;
  return length ? Value::Int(*length) : Value();
}

Value ListFilter(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "list", arguments, {});
  auto items = bound ? runtime.Iterate(input) : std::nullopt;
  return items ? runtime.NewList(*std::move(items)) : Value();
}

Value First(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "first", arguments, {});
  if (!bound) return {};
  if (input.type() == Value::Type::kGenerator) {
    GeneratorObject& generator = input.generator();
    if (generator.next < generator.items.size()) return generator.items[generator.next++];
  } else {
    const auto items = runtime.Iterate(input);
    if (!items) return {};
    if (!items->empty()) return items->front();
  }
  return Value::Undefined("No first item, sequence was empty.");
}

bool Reversible(const Value& value) { return value.is_text() || value.is_sequence() || value.is_dict(); }

Value Last(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "last", arguments, {});
  if (!bound) return {};
  if (input.is_undefined()) return Value::Undefined("No last item, sequence was empty.");
  if (!Reversible(input))
    return runtime.Fail(absl::StrCat("'", TypeName(input), "' object is not reversible"));
  const auto items = runtime.Iterate(input);
  if (!items) return {};
  return items->empty() ? Value::Undefined("No last item, sequence was empty.") : items->back();
}

Value Reverse(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "reverse", arguments, {});
  if (!bound) return {};
  if (input.is_text()) return runtime.GetSlice(input, Value::None(), Value::None(), Value::Int(-1));
  if (!runtime.Iterable(input)) return runtime.Fail("argument must be iterable");
  auto items = runtime.Iterate(input);
  if (!items) return {};
  std::reverse(items->begin(), items->end());
  return Reversible(input) ? runtime.NewGenerator(*std::move(items)) : runtime.NewList(*std::move(items));
}

Value Join(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "join", arguments, {"d", "attribute"});
  const auto items = bound ? runtime.Iterate(input) : std::nullopt;
  if (!items) return {};
  const std::string between = bound[0] == nullptr ? "" : runtime.Str(*bound[0]);
  const AttributePath path(runtime, bound[1] == nullptr ? Value::None() : *bound[1]);
  std::string out;
  for (size_t i = 0; i < items->size(); ++i) {
    if (i > 0) out += between;
    const std::string item = runtime.Str(path.Of((*items)[i]));
    out += item;
    if (!runtime.Spend(1, static_cast<int64_t>(item.size() + between.size()))) return {};
  }
  return runtime.NewText(std::move(out));
}

Value Items(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "items", arguments, {});
  if (!bound) return {};
  std::vector<Value> items;
  if (!input.is_undefined()) {
    if (!input.is_dict()) return runtime.Fail("Can only get item pairs from a mapping.");
    for (const auto& [key, value] : input.dict().entries()) items.push_back(runtime.NewTuple({key, value}));
  }
  return runtime.NewGenerator(std::move(items));
}

Value DictSort(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string_view by = bound ? bound.Text(1, "key") : "";
  if (!bound) return {};
  if (by != "key" && by != "value") return runtime.Fail("You can only sort by either \"key\" or \"value\"");
  if (!input.is_dict()) {
    if (input.is_undefined()) return runtime.FailUndefined(input);
    return runtime.Fail(absl::StrCat("'", TypeName(input), "' object has no attribute 'items'"));
  }
  const Key key(runtime, nullptr, bound.Truth(0, false));
  std::vector<Value> items, keys;
  for (const auto& [name, value] : input.dict().entries()) {
    items.push_back(runtime.NewTuple({name, value}));
    keys.push_back(key.Of(by == "key" ? name : value));
  }
  if (runtime.failed() || !runtime.Sort(&items, keys, bound.Truth(2, false))) return {};
  return runtime.NewList(std::move(items));
}

Value Sort(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "sort", arguments, {"reverse", "case_sensitive", "attribute"});
  auto items = bound ? runtime.Iterate(input) : std::nullopt;
  if (!items) return {};
  const auto keys = Keys(runtime, *items, Key(runtime, bound[2], bound.Truth(1, false)));
  if (!keys || !runtime.Sort(&*items, *keys, bound.Truth(0, false))) return {};
  return runtime.NewList(*std::move(items));
}

Value Unique(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "unique", arguments, {"case_sensitive", "attribute"});
  const auto items = bound ? runtime.Iterate(input) : std::nullopt;
  if (!items) return {};
  const auto keys = Keys(runtime, *items, Key(runtime, bound[1], bound.Truth(0, false)));
  if (!keys) return {};
  DictObject seen;
  std::vector<Value> kept;
  for (size_t i = 0; i < items->size(); ++i) {
    const Value& key = (*keys)[i];
    if (!Hashable(key)) return runtime.Fail(absl::StrCat("unhashable type: '", TypeName(key), "'"));
    if (seen.Find(key) != nullptr) continue;
    seen.Set(key, Value::None());
    kept.push_back((*items)[i]);
  }
  return runtime.NewGenerator(std::move(kept));
}

template <bool largest>
Value Extreme(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, largest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const auto items = bound ? runtime.Iterate(input) : std::nullopt;
  if (!items) return {};
  if (items->empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  const auto keys = Keys(runtime, *items, Key(runtime, bound[1], bound.Truth(0, false)));
  if (!keys) return {};
  size_t best = 0;
  for (size_t i = 1; i < items->size(); ++i) {
    const auto order = runtime.Order((*keys)[i], (*keys)[best], largest ? ">" : "<");
    if (!order) return {};
    if (largest ? *order > 0 : *order < 0) best = i;
  }
  return (*items)[best];
}

Value Sum(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "sum", arguments, {"attribute", "start"});
  const auto items = bound ? runtime.Iterate(input) : std::nullopt;
  if (!items) return {};
  const AttributePath path(runtime, bound[0] == nullptr ? Value::None() : *bound[0]);
  Value sum = bound[1] == nullptr ? Value::Int(0) : *bound[1];
  if (sum.is_text()) return runtime.Fail("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : *items) {
    sum = Apply(runtime, Operator::kAdd, sum, path.Of(item));
    if (runtime.failed()) return {};
  }
  return sum;
}

Value Batch(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "batch", arguments, {"linecount", "fill_with"}, 1);
  const auto items = bound ? runtime.Iterate(input) : std::nullopt;
  const int64_t count = items ? bound.Int(0, 1) : 1;
  if (!items || !bound) return {};
  std::vector<Value> lines, line;
  for (const Value& item : *items) {
    if (static_cast<int64_t>(line.size()) == count) lines.push_back(runtime.NewList(std::exchange(line, {})));
    line.push_back(item);
  }
  if (!line.empty()) {
    const int64_t missing =
        bound.Given(1) == nullptr ? 0 : std::max<int64_t>(0, count - static_cast<int64_t>(line.size()));
    if (!runtime.Spend(missing, missing)) return {};
    line.insert(line.end(), static_cast<size_t>(missing), bound.Given(1) == nullptr ? Value() : *bound[1]);
    lines.push_back(runtime.NewList(std::move(line)));
  }
  return runtime.NewGenerator(std::move(lines));
}

Value Slice(Runtime& runtime, const Value& input, const Arguments& arguments) {
  Bound bound(runtime, "slice", arguments, {"slices", "fill_with"}, 1);
  const auto items = bound ? runtime.Iterate(input) : std::nullopt;
  const int64_t slices = items ? bound.Int(0, 1) : 1;
  if (!items || !bound) return {};
  if (slices == 0) return runtime.Fail("integer division or modulo by zero");
  std::vector<Value> out;
  const auto size = static_cast<int64_t>(items->size());
  for (int64_t i = 0, from = 0; i < slices; ++i) {
    const int64_t count = size / slices + (i < size % slices ? 1 : 0);
    if (!runtime.Spend(count + 1)) return {};
    std::vector<Value> slice(items->begin() + from, items->begin() + from + count);
    if (bound.Given(1) != nullptr && i >= size % slices) slice.push_back(*bound[1]);
    out.push_back(runtime.NewList(std::move(slice)));
    from += count;
  }
  return runtime.NewGenerator(std::move(out));
}

Value GroupBy(Runtime& runtime, const Value& input, const Arguments& arguments) {
  const Bound bound(runtime, "groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  auto items = bound ? runtime.Iterate(input) : std::nullopt;
  if (!items) return {};
  const AttributePath path(runtime, *bound[0]);
  const bool case_sensitive = bound.Truth(2, false);
  const auto key_of = [&](const Value& item) {
    Value value = path.Of(item, bound.Given(1));
    return value.is_text() && !case_sensitive ? runtime.NewText(Lower(value.text())) : value;
  };
  std::vector<Value> keys;
  for (const Value& item : *items) keys.push_back(key_of(item));
  if (runtime.failed() || !runtime.Sort(&*items, keys, false)) return {};
  std::vector<Value> groups;
  for (size_t i = 0; i < items->size() && !runtime.failed();) {
    const Value key = key_of((*items)[i]);
    std::vector<Value> group;
    const Value name = path.Of((*items)[i], bound.Given(1));  // as it is written in the first of them
    for (; i < items->size() && Equal(key, key_of((*items)[i])); ++i) group.push_back((*items)[i]);
    if (group.empty()) break;
    groups.push_back(
        runtime.NewSequence(SequenceObject::Kind::kGroup, {name, runtime.NewList(std::move(group))}));
  }
  return runtime.failed() ? Value() : runtime.NewList(std::move(groups));
}

Value Map(Runtime& runtime, const Value& input, const Arguments& arguments) {
  std::vector<Value> out;
  if (!runtime.Truth(input)) return runtime.NewGenerator({});
  const auto items = runtime.Iterate(input);
  if (!items) return {};
  if (arguments.positional.empty()) {
    const Bound bound(runtime, "map", arguments, {"attribute", "default"});
    if (!bound) return {};
    if (bound[0] == nullptr) return runtime.Fail("map requires a filter argument");
    const AttributePath path(runtime, *bound[0]);
    for (const Value& item : *items) {
      out.push_back(path.Of(item, bound.Given(1)));
      if (runtime.failed()) return {};
    }
    return runtime.NewGenerator(std::move(out));
  }
  if (!arguments.positional[0].is_text()) return runtime.Fail("map wants the name of a filter");
  const std::string& name = arguments.positional[0].text();
  const Arguments rest = {{arguments.positional.begin() + 1, arguments.positional.end()}, arguments.named};
  for (const Value& item : *items) {
    out.push_back(runtime.CallFilter(name, item, rest));
    if (runtime.failed()) return {};
  }
  return runtime.NewGenerator(std::move(out));
}

template <bool wanted, bool by_attribute>
Value Select(Runtime& runtime, const Value& input, const Arguments& arguments) {
  if (!runtime.Truth(input)) return runtime.NewGenerator({});
  const auto items = runtime.Iterate(input);
  if (!items) return {};
  size_t used = 0;
  if (by_attribute && arguments.positional.empty())
    return runtime.Fail("Missing parameter for attribute name");
  const AttributePath path(runtime, by_attribute ? arguments.positional[used++] : Value::None());
  const Value* test = used < arguments.positional.size() ? &arguments.positional[used++] : nullptr;
  if (test != nullptr && !test->is_text()) return runtime.Fail("select wants the name of a test");
  const Arguments rest = {
      {arguments.positional.begin() + static_cast<std::ptrdiff_t>(used), arguments.positional.end()},
      arguments.named};
  std::vector<Value> out;
  for (const Value& item : *items) {
    const Value value = path.Of(item);
    const bool holds = test == nullptr ? runtime.Truth(value) : runtime.CallTest(test->text(), value, rest);
    if (runtime.failed()) return {};
    if (holds == wanted) out.push_back(item);
  }
  return runtime.NewGenerator(std::move(out));
}

}  // namespace

Filter FindSequenceFilter(std::string_view name) {
  static const std::map<std::string_view, Filter> filters = {
      {"batch", Batch},
      {"count", LengthFilter},
      {"dictsort", DictSort},
      {"first", First},
      {"groupby", GroupBy},
      {"items", Items},
      {"join", Join},
      {"last", Last},
      {"length", LengthFilter},
      {"list", ListFilter},
      {"map", Map},
      {"max", Extreme<true>},
      {"min", Extreme<false>},
      {"reject", Select<false, false>},
      {"rejectattr", Select<false, true>},
      {"reverse", Reverse},
      {"select", Select<true, false>},
      {"selectattr", Select<true, true>},
      {"slice", Slice},
      {"sort", Sort},
      {"sum", Sum},
      {"unique", Unique},
  };
  const auto found = filters.find(name);
  return found == filters.end() ? nullptr : found->second;
}

}  // namespace paceline::jinja
