// The objects that lead from a value back into the interpreter: macros, and `loop`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/jinja/interpreter.h"

namespace paceline::jinja {

// A macro together with the scope it was written in, which the interpreter holds to the end of the render.
class MacroObject final : public CallableObject {
 public:
  MacroObject(Interpreter& interpreter, const MacroNode& node, Scope* scope)
      : interpreter_(interpreter), node_(node), scope_(scope) {}
  Value Call(Runtime& runtime, const Arguments& arguments) override;
  std::string Describe() const override;
  // Its name and its parameters' names.
  const MacroNode& node() const { return node_; }

 private:
  Interpreter& interpreter_;
  const MacroNode& node_;
  Scope* const scope_;
};

// `loop`: where a for loop is.
class LoopObject final : public AttributesObject, public std::enable_shared_from_this<LoopObject> {
 public:
  LoopObject(Interpreter& interpreter, const Statement& statement, Scope* outer, std::vector<Value> items,
             int64_t depth0);

  // On to the next item; false behind the last.
  bool Next() { return ++index0_ < size(); }
  const Value& item() const { return items_[static_cast<size_t>(index0_)]; }
  // The loop is over: what it remembers beyond its items is dropped.
  void End();

  Value Attribute(Runtime& runtime, std::string_view name) override;
  std::string Describe() const override;
  CallableObject* callable() override { return &recursion_; }

 private:
  // loop(items): the loop's body for the items below.
  struct Recursion final : CallableObject {
    explicit Recursion(LoopObject& loop) : loop(loop) {}
    Value Call(Runtime& runtime, const Arguments& arguments) override;
    std::string Describe() const override { return loop.Describe(); }
    LoopObject& loop;
  };
  static Value Cycle(Runtime& runtime, const Value& self, const Arguments& arguments);
  static Value Changed(Runtime& runtime, const Value& self, const Arguments& arguments);
  int64_t size() const { return static_cast<int64_t>(items_.size()); }

  Interpreter& interpreter_;
  const Statement& statement_;
  Scope* const outer_;
  const std::vector<Value> items_;
  const int64_t depth0_;
  int64_t index0_ = -1;
  bool over_ = false;
  std::optional<std::vector<Value>> last_;  // what changed() was given last
  Recursion recursion_;
};

}  // namespace paceline::jinja
