#include "coordinator/jinja/interpreter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/callables.h"
#include "coordinator/jinja/number.h"
#include "coordinator/jinja/parser.h"

namespace paceline::jinja {

// A scope for the duration of a block.
class Interpreter::InnerScope {
 public:
  InnerScope(Interpreter& interpreter, Scope* parent)
      : interpreter_(interpreter), before_(interpreter.scope_) {
    interpreter.scope_ = interpreter.NewScope(parent);
  }
  ~InnerScope() {
    interpreter_.Return(interpreter_.scope_);
    interpreter_.scope_ = before_;
  }
  InnerScope(const InnerScope&) = delete;
  InnerScope& operator=(const InnerScope&) = delete;

 private:
  Interpreter& interpreter_;
  Scope* const before_;
};

// One node within another. Bounds the C++ stack.
class Interpreter::Level {
 public:
  explicit Level(Interpreter& interpreter) : interpreter_(interpreter) {
    if (++interpreter.depth_ > interpreter.depth_limit_)
      interpreter.Fail("the template calls itself too deeply");
  }
  ~Level() { --interpreter_.depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  Interpreter& interpreter_;
};

Interpreter::Interpreter(const Program& program, std::vector<const Value*> context,
                         const RenderOptions& options)
    : Runtime(options.limits),
      program_(program),
      context_(std::move(context)),
      output_limit_(options.limits.output),
      depth_limit_(options.limits.depth) {
  now = options.now;
}

Rendered Interpreter::Run() {
  Rendered rendered;
  std::string text;
  out_ = &text;
  scope_ = NewScope(nullptr);
  Execute(program_.body);
  rendered.ok = !failed();
  if (rendered.ok) {
    rendered.text = std::move(text);
    return rendered;
  }
  rendered.sentence = *error();
  rendered.line = line_;
  rendered.raised = raised();
  return rendered;
}

Scope* Interpreter::NewScope(Scope* parent) {
  if (free_.empty()) {
    Spend(0, sizeof(Scope));
    free_.push_back(&scopes_.emplace_back());
  }
  Scope* scope = free_.back();
  free_.pop_back();
  scope->parent = parent;
  return scope;
}

void Interpreter::Return(Scope* scope) {
  if (scope->held) return;
  scope->variables.clear();
  free_.push_back(scope);
}

void Interpreter::Hold(Scope* scope) {
  for (; scope != nullptr && !scope->held; scope = scope->parent) scope->held = true;
}

Value Interpreter::Lookup(Symbol symbol) {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    for (const auto& [name, value] : scope->variables) {
      if (name == symbol) return value;
    }
  }
  const auto at = static_cast<size_t>(symbol);
  if (context_[at] != nullptr) return *context_[at];
  if (const Value* global = FindGlobal(program_.names[at])) return *global;
  return Value::Undefined(absl::StrCat("'", program_.names[at], "' is undefined"));
}

void Interpreter::Set(Symbol symbol, Value value) {
  for (auto& [name, old] : scope_->variables) {
    if (name != symbol) continue;
    old = std::move(value);
    return;
  }
  scope_->variables.emplace_back(symbol, std::move(value));
}

void Interpreter::Assign(const Target& target, Value value) {
  if (failed()) return;
  switch (target.kind) {
    case Target::Kind::kName:
      return Set(target.symbol, std::move(value));
    case Target::Kind::kAttribute: {
      const Value name_space = Lookup(target.symbol);
      return SetAttribute(name_space, target.name, std::move(value));
    }
    case Target::Kind::kTuple: {
      auto parts = Iterate(value);
      if (!parts) return;
      if (parts->size() != target.parts.size()) {
        Fail(parts->size() < target.parts.size()
                 ? absl::StrCat("not enough values to unpack (expected ", target.parts.size(), ", got ",
                                parts->size(), ")")
                 : absl::StrCat("too many values to unpack (expected ", target.parts.size(), ")"));
        return;
      }
      for (size_t i = 0; i < parts->size(); ++i) Assign(target.parts[i], std::move((*parts)[i]));
    }
  }
}

void Interpreter::Emit(std::string_view text) {
  if (!Spend(0, static_cast<int64_t>(text.size()))) return;
  if (static_cast<int64_t>(out_->size() + text.size()) > output_limit_) {
    Fail(absl::StrCat("the template prints more than ", output_limit_, " bytes"));
    return;
  }
  out_->append(text);
}

std::string Interpreter::Capture(const Block& block, Flow* flow) {
  const InnerScope inner(*this, scope_);
  std::string text;
  std::string* const before = std::exchange(out_, &text);
  *flow = Execute(block);
  out_ = before;
  return text;
}

Interpreter::Flow Interpreter::Execute(const Block& block) {
  for (const auto& statement : block) {
    const Flow flow = ExecuteOne(*statement);
    if (failed()) {
      if (line_ == 0) line_ = statement->line;
      return Flow::kBreak;
    }
    if (flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Interpreter::Flow Interpreter::ExecuteOne(const Statement& statement) {
  const Level level(*this);
  if (!Spend(1)) return Flow::kBreak;
  Flow flow = Flow::kOn;
  switch (statement.kind) {
    case Statement::Kind::kText:
      Emit(statement.text);
      break;
    case Statement::Kind::kOutput: {
      const Value value = Evaluate(*statement.expression);
      if (failed()) break;
      if (value.is_text()) {
        Emit(value.text());
      } else {
        Emit(Str(value));
      }
      break;
    }
    case Statement::Kind::kIf:
      return ExecuteIf(statement);
    case Statement::Kind::kFor: {
      const Value iterable = Evaluate(*statement.expression);
      return failed() ? Flow::kBreak : ExecuteFor(statement, scope_, iterable, 0);
    }
    case Statement::Kind::kSet: {
      Value value = Evaluate(*statement.expression);
      Assign(statement.target, std::move(value));
      break;
    }
    case Statement::Kind::kSetBlock:
    case Statement::Kind::kFilterBlock: {
      std::string text = Capture(statement.body, &flow);
      if (failed() || flow != Flow::kOn) return flow;
      Value value = NewText(std::move(text));
      if (statement.expression != nullptr) value = EvaluateFilters(*statement.expression, value);
      if (failed()) break;
      if (statement.kind == Statement::Kind::kSetBlock) {
        Assign(statement.target, std::move(value));
      } else {
        Emit(Str(value));
      }
      break;
    }
    case Statement::Kind::kMacro:
      ExecuteMacro(statement);
      break;
    case Statement::Kind::kCallBlock:
      ExecuteCallBlock(statement);
      break;
    case Statement::Kind::kWith:
      return ExecuteWith(statement);
    case Statement::Kind::kScope: {
      const InnerScope inner(*this, scope_);
      return Execute(statement.body);
    }
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  return flow;
}

Interpreter::Flow Interpreter::ExecuteIf(const Statement& statement) {
  for (const Statement::Branch& branch : statement.branches) {
    if (branch.condition != nullptr && !Truth(Evaluate(*branch.condition))) {
      if (failed()) return Flow::kBreak;
      continue;
    }
    return failed() ? Flow::kBreak : Execute(branch.body);
  }
  return Flow::kOn;
}

Interpreter::Flow Interpreter::ExecuteFor(const Statement& statement, Scope* outer, const Value& iterable,
                                          int64_t depth) {
  auto items = Iterate(iterable);
  if (!items) return Flow::kBreak;
  if (statement.test != nullptr) {
    std::vector<Value> kept;
    for (Value& item : *items) {
      const InnerScope inner(*this, outer);
      Assign(statement.target, item);
      const bool holds = !failed() && Truth(Evaluate(*statement.test));
      if (failed()) return Flow::kBreak;
      if (holds) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  if (items->empty()) {
    const InnerScope inner(*this, outer);
    return Execute(statement.otherwise);
  }
  if (statement.recursive) Hold(outer);
  const auto loop = std::make_shared<LoopObject>(*this, statement, outer, *std::move(items), depth);
  if (loop->depth > kMaxDepth) {
    Fail(absl::StrCat("values lie more than ", kMaxDepth, " deep in one another"));
    return Flow::kBreak;
  }
  Flow flow = Flow::kOn;
  while (loop->Next() && Spend(1)) {
    const InnerScope inner(*this, outer);
    scope_->variables.emplace_back(program_.loop, Value::Of(std::shared_ptr<AttributesObject>(loop)));
    Assign(statement.target, loop->item());
    if (!failed()) flow = Execute(statement.body);
    if (failed() || flow == Flow::kBreak) break;
  }
  loop->End();
  // A break ends this loop and nothing around it.
  return failed() ? Flow::kBreak : Flow::kOn;
}

void Interpreter::ExecuteMacro(const Statement& statement) {
  Hold(scope_);
  if (!Spend(1, 64)) return;
  Set(statement.symbol, Value::Of(std::shared_ptr<CallableObject>(
                            std::make_shared<MacroObject>(*this, *statement.macro, scope_))));
}

void Interpreter::ExecuteCallBlock(const Statement& statement) {
  Hold(scope_);
  const Expression& call = *statement.expression;
  const Value callee = Evaluate(*call.parts[0]);
  Arguments arguments;
  if (failed() || !EvaluateArguments(*call.arguments, &arguments)) return;
  arguments.named.emplace_back("caller",
                               Value::Of(std::shared_ptr<CallableObject>(
                                   std::make_shared<MacroObject>(*this, *statement.macro, scope_))));
  const Value text = Call(callee, arguments);
  if (!failed()) Emit(Str(text));
}

Interpreter::Flow Interpreter::ExecuteWith(const Statement& statement) {
  std::vector<Value> values;
  for (const ExpressionPtr& value : statement.values) {
    values.push_back(Evaluate(*value));
    if (failed()) return Flow::kBreak;
  }
  const InnerScope inner(*this, scope_);
  for (size_t i = 0; i < values.size(); ++i) Assign(statement.targets[i], std::move(values[i]));
  return failed() ? Flow::kBreak : Execute(statement.body);
}

Value Interpreter::CallMacro(const MacroNode& macro, Scope* outer, const Arguments& arguments) {
  const Level level(*this);
  if (failed()) return {};
  const size_t count = macro.parameters.size();
  std::vector<const Value*> given(count, nullptr);
  for (size_t i = 0; i < std::min(count, arguments.positional.size()); ++i)
    given[i] = &arguments.positional[i];
  auto extra = std::make_shared<DictObject>();
  const Value* caller = nullptr;
  const bool caller_is_parameter = std::find(macro.parameter_names.begin(), macro.parameter_names.end(),
                                             "caller") != macro.parameter_names.end();
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(macro.parameter_names.begin(), macro.parameter_names.end(), name);
    const auto at = static_cast<size_t>(found - macro.parameter_names.begin());
    if (found != macro.parameter_names.end() && given[at] == nullptr) {
      given[at] = &value;
    } else if (name == "caller" && macro.reads_caller && !caller_is_parameter) {
      caller = &value;
    } else {
      extra->Set(Value::Text(name), value);
    }
  }
  const std::string name = macro.name.empty() ? "None" : absl::StrCat("'", macro.name, "'");
  if (!macro.reads_kwargs && !extra->entries().empty()) {
    return Fail(absl::StrCat("macro ", name, " takes no keyword argument ", Repr(extra->entries()[0].first)));
  }
  if (!macro.reads_varargs && arguments.positional.size() > count) {
    return Fail(absl::StrCat("macro ", name, " takes not more than ", count, " argument(s)"));
  }
  const InnerScope inner(*this, outer);
  if (macro.reads_caller && !caller_is_parameter) {
    Set(program_.caller, caller != nullptr ? *caller : Value::Undefined("No caller defined"));
  }
  if (macro.reads_kwargs) Set(program_.kwargs, NewDict(extra));
  if (macro.reads_varargs) {
    const auto from = arguments.positional.begin() +
                      static_cast<std::ptrdiff_t>(std::min(count, arguments.positional.size()));
    Set(program_.varargs, NewTuple({from, arguments.positional.end()}));
  }
  // All that were given are known to the defaults, which are evaluated now.
  for (size_t i = 0; i < count; ++i) {
    if (given[i] != nullptr) Set(macro.parameters[i], *given[i]);
  }
  const size_t required = count - macro.defaults.size();
  for (size_t i = 0; i < count && !failed(); ++i) {
    if (given[i] != nullptr) continue;
    Set(macro.parameters[i],
        i < required
            ? Value::Undefined(absl::StrCat("parameter '", macro.parameter_names[i], "' was not provided"))
            : Evaluate(*macro.defaults[i - required]));
  }
  if (failed()) return {};
  std::string text;
  std::string* const before = std::exchange(out_, &text);
  Execute(macro.body);
  out_ = before;
  return NewText(std::move(text));
}

Value Interpreter::CallLoop(const Statement& loop, Scope* outer, const Value& items, int64_t depth) {
  const Level level(*this);
  if (failed()) return {};
  std::string text;
  std::string* const before = std::exchange(out_, &text);
  ExecuteFor(loop, outer, items, depth);
  out_ = before;
  return NewText(std::move(text));
}

Template::Template(std::unique_ptr<Program> program) : program_(std::move(program)) {}
Template::~Template() = default;

absl::StatusOr<std::unique_ptr<Template>> Template::Parse(std::string_view source) {
  auto program = jinja::Parse(source);
  if (!program.ok()) return program.status();
  return std::unique_ptr<Template>(new Template(std::make_unique<Program>(*std::move(program))));
}

Rendered Template::Render(const std::vector<std::pair<std::string, Value>>& context,
                          const RenderOptions& options) const {
  std::vector<const Value*> by_symbol(program_->names.size(), nullptr);
  for (const auto& [name, value] : context) {
    const auto found = std::find(program_->names.begin(), program_->names.end(), name);
    if (found != program_->names.end())
      by_symbol[static_cast<size_t>(found - program_->names.begin())] = &value;
  }
  return Interpreter(*program_, std::move(by_symbol), options).Run();
}

}  // namespace paceline::jinja
