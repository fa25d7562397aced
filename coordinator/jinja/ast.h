// The parsed template: a tree of statements and expressions, immutable after the parser is done, read by any
// number of renders at once. Names are numbers (Program::names): a scope finds them without comparing texts.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/jinja/number.h"
#include "coordinator/jinja/value.h"

namespace paceline::jinja {

using Symbol = int32_t;

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class Comparison : uint8_t {
  kEqual,
  kNotEqual,
  kLess,
  kLessOrEqual,
  kGreater,
  kGreaterOrEqual,
  kIn,
  kNotIn
};

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr all_positional;  // *args, may be null
  ExpressionPtr all_named;       // **kwargs, may be null
};

struct Expression {
  enum class Kind : uint8_t {
    kConstant,     // constant
    kName,         // symbol, text
    kTuple,        // parts
    kList,         // parts
    kDict,         // parts: key, value, key, value, ..
    kAttribute,    // parts[0].text
    kItem,         // parts[0][parts[1]]
    kSlice,        // parts[0][parts[1] : parts[2] : parts[3]], each but the first may be null
    kCall,         // parts[0](arguments)
    kFilter,       // parts[0] | text(arguments); parts[0] is null where a block is the input
    kTest,         // parts[0] is text(arguments)
    kNot,          // not parts[0]
    kNegate,       // -parts[0]
    kPlus,         // +parts[0]
    kAnd,          // parts[0] and parts[1]
    kOr,           // parts[0] or parts[1]
    kBinary,       // parts[0] op parts[1]
    kConcatenate,  // parts[0] ~ parts[1] ~ ..
    kCompare,      // parts[0] comparisons[0] parts[1] comparisons[1] parts[2] ..
    kConditional,  // parts[1] if parts[0] else parts[2], which may be null
  };
  Kind kind = Kind::kConstant;
  int32_t line = 0;
  int32_t depth = 1;  // nodes within one another, itself included
  Symbol symbol = -1;
  Operator op = Operator::kAdd;
  std::string text = {};
  Value constant = {};
  std::vector<ExpressionPtr> parts = {};
  std::vector<Comparison> comparisons = {};
  std::unique_ptr<CallArguments> arguments = {};
};

// What `set` and `for` assign to.
struct Target {
  enum class Kind : uint8_t { kName, kAttribute, kTuple };
  Kind kind = Kind::kName;
  Symbol symbol = -1;              // of kName; of kAttribute the namespace
  std::string name = {};           // of kAttribute the attribute, else as written
  std::vector<Target> parts = {};  // of kTuple
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

// A macro, or the body of a call block.
struct MacroNode {
  std::string name;  // empty for a call block's
  std::vector<Symbol> parameters;
  std::vector<std::string> parameter_names;  // [parameters]
  std::vector<ExpressionPtr> defaults;       // of the last parameters
  Block body;
  // Which of the three special names its body reads.
  bool reads_caller = false;
  bool reads_varargs = false;
  bool reads_kwargs = false;
};

struct Statement {
  enum class Kind : uint8_t {
    kText,         // text
    kOutput,       // expression
    kIf,           // branches in order; the last may be without a condition
    kFor,          // for target in expression if test: body else otherwise
    kSet,          // target = expression
    kSetBlock,     // target = body, through the filter `expression` where there is one
    kMacro,        // symbol = macro
    kCallBlock,    // expression is the call, macro what its `caller` runs
    kFilterBlock,  // body through the filter `expression`
    kWith,         // targets, values, body
    kScope,        // body in a scope of its own ({% generation %})
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr condition;  // null: else
    Block body;
  };
  Kind kind = Kind::kText;
  int32_t line = 0;
  std::string text = {};
  Symbol symbol = -1;
  bool recursive = false;
  ExpressionPtr expression = {};
  ExpressionPtr test = {};
  Target target = {};
  Block body = {};
  Block otherwise = {};
  std::vector<Branch> branches = {};
  std::unique_ptr<MacroNode> macro = {};
  std::vector<Target> targets = {};
  std::vector<ExpressionPtr> values = {};
};

struct Program {
  Block body;
  std::vector<std::string> names;  // [Symbol]
  Symbol loop = -1, caller = -1, varargs = -1, kwargs = -1;
};

}  // namespace paceline::jinja
