// What a template finds without being given it: Jinja's globals, and the two functions Transformers adds.
#include <ctime>
#include <map>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/runtime.h"

namespace paceline::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // the sandbox's

Value Range(Runtime& runtime, const Value&, const Arguments& arguments) {
  Bound bound(runtime, "range", arguments, {"/start", "/stop", "/step"}, 1);
  if (!bound) return {};
  const int64_t first = bound.Int(0, 0);
  const int64_t start = bound[1] == nullptr ? 0 : first;
  const int64_t stop = bound[1] == nullptr ? first : bound.Int(1, 0);
  const int64_t step = bound.Int(2, 1);
  if (!bound) return {};
  if (step == 0) return runtime.Fail("range() arg 3 must not be zero");
  // Unsigned, since any two bounds may be given: their distance fits.
  const auto from = static_cast<uint64_t>(start), to = static_cast<uint64_t>(stop);
  const uint64_t distance = step > 0 ? (stop > start ? to - from : 0) : (start > stop ? from - to : 0);
  const uint64_t stride = step > 0 ? static_cast<uint64_t>(step) : uint64_t{0} - static_cast<uint64_t>(step);
  const uint64_t count = distance == 0 ? 0 : (distance - 1) / stride + 1;
  if (count > kMaxRange) {
    return runtime.Fail(
        absl::StrCat("Range too big. The sandbox blocks ranges larger than MAX_RANGE (", kMaxRange, ")."));
  }
  if (!runtime.Spend(static_cast<int64_t>(count), static_cast<int64_t>(count) * 64)) return {};
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < static_cast<int64_t>(count); ++i) items.push_back(Value::Int(start + i * step));
  auto range = std::make_shared<SequenceObject>(SequenceObject::Kind::kRange, std::move(items));
  range->start = start;
  range->stop = stop;
  range->step = step;
  return Value::Of(std::move(range));
}

// dict(mapping or pairs, name=value, ..)
std::shared_ptr<DictObject> MakeDict(Runtime& runtime, const Arguments& arguments) {
  auto dict = std::make_shared<DictObject>();
  if (arguments.positional.size() > 1) {
    runtime.Fail(absl::StrCat("dict expected at most 1 argument, got ", arguments.positional.size()));
    return nullptr;
  }
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.is_dict()) {
      for (const auto& [key, value] : from.dict().entries()) dict->Set(key, value);
    } else {
      const auto pairs = runtime.Iterate(from);
      if (!pairs) return nullptr;
      for (const Value& pair : *pairs) {
        const auto parts = runtime.Iterate(pair);
        if (!parts) return nullptr;
        if (parts->size() != 2) {
          runtime.Fail(absl::StrCat("dictionary update sequence element has length ", parts->size(),
                                    "; 2 is required"));
          return nullptr;
        }
        if (!Hashable((*parts)[0])) {
          runtime.Fail(absl::StrCat("unhashable type: '", TypeName((*parts)[0]), "'"));
          return nullptr;
        }
        dict->Set((*parts)[0], (*parts)[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) dict->Set(Value::Text(name), value);
  return runtime.failed() ? nullptr : dict;
}

Value Dict(Runtime& runtime, const Value&, const Arguments& arguments) {
  auto dict = MakeDict(runtime, arguments);
  return dict == nullptr ? Value() : runtime.NewDict(std::move(dict));
}

Value Namespace(Runtime& runtime, const Value&, const Arguments& arguments) {
  auto dict = MakeDict(runtime, arguments);
  return dict == nullptr ? Value() : runtime.NewNamespace(std::move(dict));
}

// joiner(", "): empty the first time, the separator from then on.
class Joiner final : public CallableObject {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) { depth = separator_.depth() + 1; }
  Value Call(Runtime&, const Arguments&) override {
    return std::exchange(used_, true) ? separator_ : Value::Text("");
  }
  std::string Describe() const override { return "<Joiner>"; }

 private:
  const Value separator_;
  bool used_ = false;
};

Value MakeJoiner(Runtime& runtime, const Value&, const Arguments& arguments) {
  const Bound bound(runtime, "joiner", arguments, {"sep"});
  if (!bound || !runtime.Spend(1, 64)) return {};
  return Value::Of(std::shared_ptr<CallableObject>(
      std::make_shared<Joiner>(bound[0] == nullptr ? Value::Text(", ") : *bound[0])));
}

// cycler(a, b, ..): next(), reset() and current.
class Cycler final : public AttributesObject, public std::enable_shared_from_this<Cycler> {
 public:
  explicit Cycler(std::vector<Value> items) : items_(std::move(items)) { depth = DepthOf(items_); }
  Value Attribute(Runtime&, std::string_view name) override {
    if (name == "current") return items_[at_];
    if (name == "next")
      return MakeCallable("next", Next, Value::Of(std::shared_ptr<AttributesObject>(shared_from_this())));
    if (name == "reset") {
      return MakeCallable("reset", Reset, Value::Of(std::shared_ptr<AttributesObject>(shared_from_this())));
    }
    return {};
  }
  std::string Describe() const override { return "<Cycler>"; }

 private:
  static Value Next(Runtime&, const Value& self, const Arguments&) {
    auto& cycler = static_cast<Cycler&>(self.attributes());
    Value item = cycler.items_[cycler.at_];
    cycler.at_ = (cycler.at_ + 1) % cycler.items_.size();
    return item;
  }
  static Value Reset(Runtime&, const Value& self, const Arguments&) {
    static_cast<Cycler&>(self.attributes()).at_ = 0;
    return Value::None();
  }

  const std::vector<Value> items_;  // not empty
  size_t at_ = 0;
};

Value MakeCycler(Runtime& runtime, const Value&, const Arguments& arguments) {
  if (arguments.positional.empty()) return runtime.Fail("at least one item has to be provided");
  if (!runtime.Spend(1, 64)) return {};
  return Value::Of(std::shared_ptr<AttributesObject>(std::make_shared<Cycler>(arguments.positional)));
}

Value RaiseException(Runtime& runtime, const Value&, const Arguments& arguments) {
  const Bound bound(runtime, "raise_exception", arguments, {"message"}, 1);
  return bound ? runtime.Raise(runtime.Str(*bound[0])) : Value();
}

Value StrftimeNow(Runtime& runtime, const Value&, const Arguments& arguments) {
  Bound bound(runtime, "strftime_now", arguments, {"format"}, 1);
  const std::string_view format = bound ? bound.Text(0, "") : "";
  if (!bound) return {};
  const auto seconds = static_cast<std::time_t>(runtime.now ? runtime.now() : std::time(nullptr));
  std::tm local{};
  localtime_r(&seconds, &local);
  // An empty result and one that does not fit look the same to strftime: a character in front tells them
  // apart.
  const std::string padded = absl::StrCat(" ", absl::string_view(format.data(), format.size()));
  std::string out(1024, '\0');
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  const size_t size = std::strftime(out.data(), out.size(), padded.c_str(), &local);
#pragma GCC diagnostic pop
  if (size == 0) return runtime.Fail("strftime_now: the date is too long");
  return runtime.NewText(out.substr(1, size - 1));
}

}  // namespace

const Value* FindGlobal(std::string_view name) {
  static const std::map<std::string_view, Value> globals = {
      {"cycler", MakeCallable("cycler", MakeCycler)},
      {"dict", MakeCallable("dict", Dict)},
      {"joiner", MakeCallable("joiner", MakeJoiner)},
      {"namespace", MakeCallable("namespace", Namespace)},
      {"raise_exception", MakeCallable("raise_exception", RaiseException)},
      {"range", MakeCallable("range", Range)},
      {"strftime_now", MakeCallable("strftime_now", StrftimeNow)},
  };
  const auto found = globals.find(name);
  return found == globals.end() ? nullptr : &found->second;
}

}  // namespace paceline::jinja
