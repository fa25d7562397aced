// Walks a program: one object per render, used by its thread. Scopes are kept by hand: a macro remembers the
// scope it was written in, so a scope that one may come back to lives until the end of the render; all others
// are used again.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/jinja/ast.h"
#include "coordinator/jinja/runtime.h"
#include "coordinator/jinja/template.h"

namespace paceline::jinja {

struct Scope {
  Scope* parent = nullptr;
  bool held = false;  // a macro may come back to it
  std::vector<std::pair<Symbol, Value>> variables;
};

class LoopObject;

class Interpreter final : public Runtime {
 public:
  // `program` outlives the interpreter. `context`: by symbol, null for names that were not given.
  Interpreter(const Program& program, std::vector<const Value*> context, const RenderOptions& options);

  Rendered Run();

  // For the callables below. The text that the body of a macro, or of a recursive loop, gives.
  Value CallMacro(const MacroNode& macro, Scope* outer, const Arguments& arguments);
  Value CallLoop(const Statement& loop, Scope* outer, const Value& items, int64_t depth);

 private:
  enum class Flow { kOn, kBreak, kContinue };
  class InnerScope;
  class Level;

  Flow Execute(const Block& block);
  Flow ExecuteOne(const Statement& statement);
  Flow ExecuteIf(const Statement& statement);
  // `outer` is where the loop stands; the cursor's scope may be another when it calls itself.
  Flow ExecuteFor(const Statement& statement, Scope* outer, const Value& iterable, int64_t depth);
  void ExecuteMacro(const Statement& statement);
  void ExecuteCallBlock(const Statement& statement);
  Flow ExecuteWith(const Statement& statement);
  // What a block prints, in a scope of its own.
  std::string Capture(const Block& block, Flow* flow);
  void Emit(std::string_view text);

  Value Evaluate(const Expression& expression);
  Value EvaluateKind(const Expression& expression);
  Value EvaluateDict(const Expression& expression);
  Value EvaluateCompare(const Expression& expression);
  Value EvaluateConcatenate(const Expression& expression);
  Value EvaluateSlice(const Expression& expression);
  // A chain of filters whose innermost takes `input`.
  Value EvaluateFilters(const Expression& expression, const Value& input);
  bool EvaluateArguments(const CallArguments& arguments, Arguments* out);
  bool Compare(Comparison comparison, const Value& left, const Value& right);

  Value Lookup(Symbol symbol);
  void Set(Symbol symbol, Value value);
  void Assign(const Target& target, Value value);

  Scope* NewScope(Scope* parent);
  void Return(Scope* scope);
  static void Hold(Scope* scope);

  const Program& program_;
  const std::vector<const Value*> context_;  // [Symbol]
  const int64_t output_limit_;
  const int32_t depth_limit_;
  std::deque<Scope> scopes_;
  std::vector<Scope*> free_;
  Scope* scope_ = nullptr;
  std::string* out_ = nullptr;
  int32_t depth_ = 0;
  int32_t line_ = 0;  // of the first error
};

}  // namespace paceline::jinja
