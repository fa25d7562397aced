// The methods of Python's dict, list and tuple that change nothing.
#include <map>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/runtime.h"

namespace paceline::jinja {
namespace {

Value Get(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(runtime, "get", arguments, {"/key", "/default"}, 1);
  if (!bound) return {};
  if (!Hashable(*bound[0])) return runtime.Fail(absl::StrCat("unhashable type: '", TypeName(*bound[0]), "'"));
  const Value* value = self.dict().Find(*bound[0]);
  if (value != nullptr) return *value;
  return bound[1] != nullptr ? *bound[1] : Value::None();
}

template <SequenceObject::Kind kind>
Value View(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(runtime, "method", arguments, {});
  if (!bound) return {};
  std::vector<Value> items;
  items.reserve(self.dict().entries().size());
  for (const auto& [key, value] : self.dict().entries()) {
    if (kind == SequenceObject::Kind::kItems) {
      items.push_back(runtime.NewTuple({key, value}));
    } else {
      items.push_back(kind == SequenceObject::Kind::kKeys ? key : value);
    }
  }
  return runtime.NewSequence(kind, std::move(items));
}

Value CopySelf(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(runtime, "copy", arguments, {});
  return bound ? self : Value();
}

Value CountItem(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(runtime, "count", arguments, {"/value"}, 1);
  if (!bound || !runtime.Spend(static_cast<int64_t>(self.sequence().items.size()))) return {};
  int64_t count = 0;
  for (const Value& item : self.sequence().items) count += Equal(item, *bound[0]) ? 1 : 0;
  return Value::Int(count);
}

Value IndexOf(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(runtime, "index", arguments, {"/value"}, 1);
  if (!bound || !runtime.Spend(static_cast<int64_t>(self.sequence().items.size()))) return {};
  for (size_t i = 0; i < self.sequence().items.size(); ++i) {
    if (Equal(self.sequence().items[i], *bound[0])) return Value::Int(static_cast<int64_t>(i));
  }
  return runtime.Fail(absl::StrCat(runtime.Repr(*bound[0]), " is not in ", TypeName(self)));
}

}  // namespace

Builtin FindDictMethod(std::string_view name) {
  static const std::map<std::string_view, Builtin> methods = {
      {"copy", CopySelf},
      {"get", Get},
      {"items", View<SequenceObject::Kind::kItems>},
      {"keys", View<SequenceObject::Kind::kKeys>},
      {"values", View<SequenceObject::Kind::kValues>},
  };
  const auto found = methods.find(name);
  return found == methods.end() ? nullptr : found->second;
}

Builtin FindSequenceMethod(std::string_view name, bool list) {
  if (name == "count") return CountItem;
  if (name == "index") return IndexOf;
  return list && name == "copy" ? CopySelf : nullptr;
}

}  // namespace paceline::jinja
