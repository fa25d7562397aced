#include "coordinator/jinja/callables.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace paceline::jinja {

Value MacroObject::Call(Runtime&, const Arguments& arguments) {
  return interpreter_.CallMacro(node_, scope_, arguments);
}

std::string MacroObject::Describe() const {
  return node_.name.empty() ? "<Macro anonymous>" : absl::StrCat("<Macro '", node_.name, "'>");
}

LoopObject::LoopObject(Interpreter& interpreter, const Statement& statement, Scope* outer,
                       std::vector<Value> items, int64_t depth0)
    : interpreter_(interpreter),
      statement_(statement),
      outer_(outer),
      items_(std::move(items)),
      depth0_(depth0),
      recursion_(*this) {
  depth = DepthOf(items_);
}

void LoopObject::End() {
  over_ = true;
  last_.reset();
}

std::string LoopObject::Describe() const {
  return absl::StrCat("<LoopContext ", index0_ + 1, "/", size(), ">");
}

Value LoopObject::Attribute(Runtime&, std::string_view name) {
  if (name == "index") return Value::Int(index0_ + 1);
  if (name == "index0") return Value::Int(index0_);
  if (name == "first") return Value::Bool(index0_ == 0);
  if (name == "last") return Value::Bool(index0_ + 1 >= size());
  if (name == "length") return Value::Int(size());
  if (name == "revindex") return Value::Int(size() - index0_);
  if (name == "revindex0") return Value::Int(size() - index0_ - 1);
  if (name == "depth") return Value::Int(depth0_ + 1);
  if (name == "depth0") return Value::Int(depth0_);
  if (name == "previtem") {
    return index0_ > 0 ? items_[static_cast<size_t>(std::min(index0_, size())) - 1]
                       : Value::Undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index0_ + 1 < size() ? items_[static_cast<size_t>(index0_ + 1)]
                                : Value::Undefined("there is no next item");
  }
  const Value self = Value::Of(std::shared_ptr<AttributesObject>(shared_from_this()));
  if (name == "cycle") return MakeCallable("cycle", Cycle, self);
  if (name == "changed") return MakeCallable("changed", Changed, self);
  return {};
}

Value LoopObject::Cycle(Runtime& runtime, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) return runtime.Fail("no items for cycling given");
  const auto& loop = static_cast<const LoopObject&>(self.attributes());
  return arguments.positional[static_cast<size_t>(loop.index0_) % arguments.positional.size()];
}

Value LoopObject::Changed(Runtime& runtime, const Value& self, const Arguments& arguments) {
  auto& loop = static_cast<LoopObject&>(self.attributes());
  // Kept no longer than the loop runs: a loop that remembers itself would never be freed.
  if (loop.over_) return runtime.Fail("loop.changed behind the end of its loop is not covered");
  const bool same = loop.last_ && std::equal(loop.last_->begin(), loop.last_->end(),
                                             arguments.positional.begin(), arguments.positional.end(), Equal);
  if (!same) loop.last_ = arguments.positional;
  return Value::Bool(!same);
}

Value LoopObject::Recursion::Call(Runtime& runtime, const Arguments& arguments) {
  const Bound bound(runtime, "loop", arguments, {"/iterable"}, 1);
  if (!bound) return {};
  if (!loop.statement_.recursive) {
    return runtime.Fail("The loop must have the 'recursive' marker to be called recursively.");
  }
  return loop.interpreter_.CallLoop(loop.statement_, loop.outer_, *bound[0], loop.depth0_ + 1);
}

}  // namespace paceline::jinja
