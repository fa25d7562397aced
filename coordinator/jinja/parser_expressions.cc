// Expressions and what is assigned to. One rule per level of precedence.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/parser_state.h"

namespace paceline::jinja {
namespace {

using Kind = Expression::Kind;

// Rules within one another, and nodes within one another. A level of rules takes a dozen C++ frames.
constexpr int kMaxLevels = 300;
constexpr int32_t kMaxNodes = 400;

std::vector<ExpressionPtr> Parts(ExpressionPtr a, ExpressionPtr b = nullptr, ExpressionPtr c = nullptr,
                                 ExpressionPtr d = nullptr) {
  std::vector<ExpressionPtr> parts;
  parts.push_back(std::move(a));
  parts.push_back(std::move(b));
  parts.push_back(std::move(c));
  parts.push_back(std::move(d));
  return parts;
}

}  // namespace

ParserState::Level::Level(ParserState& parser) : parser_(parser) {
  if (++parser_.level_ > kMaxLevels) parser_.Fail("expressions and tags lie too deep in one another");
}

void ParserState::FailAt(int32_t line, std::string_view sentence) {
  if (!failed()) status_ = TemplateError(line, sentence);
}

Token ParserState::Take() {
  Token taken = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return taken;
}

bool ParserState::SkipOperator(std::string_view sign) {
  if (failed() || !token().IsOperator(sign)) return false;
  Take();
  return true;
}

bool ParserState::SkipName(std::string_view name) {
  if (failed() || !token().IsName(name)) return false;
  Take();
  return true;
}

std::string ParserState::Describe(const Token& token) const {
  switch (token.kind) {
    case Token::Kind::kData:
      return "template data";
    case Token::Kind::kVariableBegin:
      return "begin of print statement";
    case Token::Kind::kVariableEnd:
      return "end of print statement";
    case Token::Kind::kBlockBegin:
      return "begin of statement block";
    case Token::Kind::kBlockEnd:
      return "end of statement block";
    case Token::Kind::kEnd:
      return "end of template";
    default:
      return token.text;
  }
}

void ParserState::ExpectOperator(std::string_view sign) {
  if (SkipOperator(sign)) return;
  Fail(absl::StrCat("expected token '", std::string(sign), "', got '", Describe(token()), "'"));
}

std::string ParserState::ExpectName() {
  if (!failed() && token().kind == Token::Kind::kName) return Take().text;
  Fail(absl::StrCat("expected a name, got '", Describe(token()), "'"));
  return "";
}

void ParserState::Expect(Token::Kind kind) {
  if (failed()) return;
  if (token().kind == kind) {
    Take();
    return;
  }
  Fail(absl::StrCat("expected token '", Describe({kind}), "', got '", Describe(token()), "'"));
}

Symbol ParserState::SymbolOf(const std::string& name) {
  const auto [found, added] = symbols_.emplace(name, static_cast<Symbol>(names_.size()));
  if (added) names_.push_back(name);
  return found->second;
}

void ParserState::CheckDepth(const Expression& expression) {
  if (expression.depth > kMaxNodes) FailAt(expression.line, "an expression is too deep");
}

void ParserState::Deepen(Expression& expression, const ExpressionPtr& child) {
  if (child == nullptr) return;
  expression.depth = std::max(expression.depth, child->depth + 1);
  CheckDepth(expression);
}

ExpressionPtr ParserState::Make(Kind kind, int32_t line, std::vector<ExpressionPtr> parts) {
  auto made = std::make_unique<Expression>();
  made->kind = kind;
  made->line = line;
  made->parts = std::move(parts);
  for (const ExpressionPtr& part : made->parts) Deepen(*made, part);
  return made;
}

ExpressionPtr ParserState::ParseExpression(bool with_conditional) {
  const Level level(*this);
  if (failed()) return nullptr;
  return with_conditional ? ParseConditional() : ParseOr();
}

ExpressionPtr ParserState::ParseConditional() {
  const int32_t line = token().line;
  ExpressionPtr value = ParseOr();
  while (SkipName("if")) {
    ExpressionPtr condition = ParseOr();
    ExpressionPtr otherwise = SkipName("else") ? ParseExpression() : nullptr;
    value =
        Make(Kind::kConditional, line, Parts(std::move(condition), std::move(value), std::move(otherwise)));
  }
  return value;
}

ExpressionPtr ParserState::ParseOr() {
  ExpressionPtr left = ParseAnd();
  while (SkipName("or")) {
    const int32_t line = token().line;
    ExpressionPtr right = ParseAnd();
    left = Make(Kind::kOr, line, Parts(std::move(left), std::move(right)));
  }
  return left;
}

ExpressionPtr ParserState::ParseAnd() {
  ExpressionPtr left = ParseNot();
  while (SkipName("and")) {
    const int32_t line = token().line;
    ExpressionPtr right = ParseNot();
    left = Make(Kind::kAnd, line, Parts(std::move(left), std::move(right)));
  }
  return left;
}

ExpressionPtr ParserState::ParseNot() {
  const Level level(*this);
  const int32_t line = token().line;
  if (SkipName("not")) return Make(Kind::kNot, line, Parts(ParseNot()));
  return ParseCompare();
}

ExpressionPtr ParserState::ParseCompare() {
  static constexpr std::pair<const char*, Comparison> kSigns[] = {
      {"==", Comparison::kEqual},       {"!=", Comparison::kNotEqual}, {"<", Comparison::kLess},
      {"<=", Comparison::kLessOrEqual}, {">", Comparison::kGreater},   {">=", Comparison::kGreaterOrEqual},
  };
  const int32_t line = token().line;
  std::vector<ExpressionPtr> parts;
  std::vector<Comparison> comparisons;
  parts.push_back(ParseSum());
  while (!failed()) {
    const auto* const sign = std::find_if(std::begin(kSigns), std::end(kSigns),
                                          [&](const auto& pair) { return token().IsOperator(pair.first); });
    if (sign != std::end(kSigns)) {
      Take();
      comparisons.push_back(sign->second);
    } else if (SkipName("in")) {
      comparisons.push_back(Comparison::kIn);
    } else if (token().IsName("not") && next().IsName("in")) {
      Take();
      Take();
      comparisons.push_back(Comparison::kNotIn);
    } else {
      break;
    }
    parts.push_back(ParseSum());
  }
  if (comparisons.empty()) return std::move(parts[0]);
  ExpressionPtr made = Make(Kind::kCompare, line, std::move(parts));
  made->comparisons = std::move(comparisons);
  return made;
}

ExpressionPtr ParserState::ParseSum() {
  ExpressionPtr left = ParseConcatenation();
  while (!failed() && (token().IsOperator("+") || token().IsOperator("-"))) {
    const Token sign = Take();
    ExpressionPtr right = ParseConcatenation();
    left = Make(Kind::kBinary, sign.line, Parts(std::move(left), std::move(right)));
    left->op = sign.text == "+" ? Operator::kAdd : Operator::kSubtract;
  }
  return left;
}

ExpressionPtr ParserState::ParseConcatenation() {
  const int32_t line = token().line;
  std::vector<ExpressionPtr> parts;
  do parts.push_back(ParseProduct());
  while (SkipOperator("~"));
  return parts.size() == 1 ? std::move(parts[0]) : Make(Kind::kConcatenate, line, std::move(parts));
}

ExpressionPtr ParserState::ParseProduct() {
  static constexpr std::pair<const char*, Operator> kSigns[] = {{"*", Operator::kMultiply},
                                                                {"/", Operator::kDivide},
                                                                {"//", Operator::kFloorDivide},
                                                                {"%", Operator::kModulo}};
  ExpressionPtr left = ParsePower();
  while (!failed()) {
    const auto* const sign = std::find_if(std::begin(kSigns), std::end(kSigns),
                                          [&](const auto& pair) { return token().IsOperator(pair.first); });
    if (sign == std::end(kSigns)) break;
    const int32_t line = Take().line;
    ExpressionPtr right = ParsePower();
    left = Make(Kind::kBinary, line, Parts(std::move(left), std::move(right)));
    left->op = sign->second;
  }
  return left;
}

// From the left, unlike Python's.
ExpressionPtr ParserState::ParsePower() {
  ExpressionPtr left = ParseUnary(true);
  while (!failed() && token().IsOperator("**")) {
    const int32_t line = Take().line;
    ExpressionPtr right = ParseUnary(true);
    left = Make(Kind::kBinary, line, Parts(std::move(left), std::move(right)));
    left->op = Operator::kPower;
  }
  return left;
}

ExpressionPtr ParserState::ParseUnary(bool with_filter) {
  const Level level(*this);
  if (failed()) return nullptr;
  const int32_t line = token().line;
  ExpressionPtr value;
  if (SkipOperator("-")) {
    value = Make(Kind::kNegate, line, Parts(ParseUnary(false)));
  } else if (SkipOperator("+")) {
    value = Make(Kind::kPlus, line, Parts(ParseUnary(false)));
  } else {
    value = ParsePrimary();
  }
  value = ParsePostfix(std::move(value));
  return with_filter ? ParseFilterTail(std::move(value)) : std::move(value);
}

ExpressionPtr ParserState::Name(const Token& token) {
  ExpressionPtr made = Make(Kind::kName, token.line, {});
  made->text = token.text;
  made->symbol = SymbolOf(token.text);
  for (MacroNode* macro : macros_) {
    macro->reads_caller |= token.text == "caller";
    macro->reads_varargs |= token.text == "varargs";
    macro->reads_kwargs |= token.text == "kwargs";
  }
  return made;
}

ExpressionPtr ParserState::ParsePrimary() {
  if (failed()) return nullptr;
  const auto constant = [&](int32_t line, Value value) {
    ExpressionPtr made = Make(Kind::kConstant, line, {});
    made->constant = std::move(value);
    return made;
  };
  switch (token().kind) {
    case Token::Kind::kName: {
      const Token name = Take();
      if (name.text == "true" || name.text == "True") return constant(name.line, Value::Bool(true));
      if (name.text == "false" || name.text == "False") return constant(name.line, Value::Bool(false));
      if (name.text == "none" || name.text == "None") return constant(name.line, Value::None());
      return Name(name);
    }
    case Token::Kind::kText: {
      const int32_t line = token().line;
      std::string text;
      while (token().kind == Token::Kind::kText) text += Take().text;
      return constant(line, Value::Text(std::move(text)));
    }
    case Token::Kind::kInteger: {
      const Token number = Take();
      return constant(number.line, Value::Int(number.integer));
    }
    case Token::Kind::kFloat: {
      const Token number = Take();
      return constant(number.line, Value::Float(number.number));
    }
    default:
      break;
  }
  if (SkipOperator("(")) {
    ExpressionPtr value = ParseTuple(true, "", true);
    ExpectOperator(")");
    return value;
  }
  if (token().IsOperator("[")) return ParseList();
  if (token().IsOperator("{")) return ParseDict();
  Fail(absl::StrCat("unexpected '", Describe(token()), "'"));
  return nullptr;
}

ExpressionPtr ParserState::ParseTuple(bool with_conditional, std::string_view end_name, bool parentheses) {
  const int32_t line = token().line;
  std::vector<ExpressionPtr> parts;
  bool tuple = false;
  while (!failed()) {
    const bool ends = token().kind == Token::Kind::kVariableEnd || token().kind == Token::Kind::kBlockEnd ||
                      token().IsOperator(")") || (!end_name.empty() && token().IsName(end_name));
    if (ends) break;
    parts.push_back(ParseExpression(with_conditional));
    if (!SkipOperator(",")) break;
    tuple = true;
  }
  if (failed()) return nullptr;
  if (!tuple) {
    if (!parts.empty()) return std::move(parts[0]);
    if (!parentheses) {
      Fail(absl::StrCat("Expected an expression, got '", Describe(token()), "'"));
      return nullptr;
    }
  }
  return Make(Kind::kTuple, line, std::move(parts));
}

ExpressionPtr ParserState::ParseList() {
  const int32_t line = Take().line;
  std::vector<ExpressionPtr> parts;
  while (!failed() && !token().IsOperator("]")) {
    if (!parts.empty()) ExpectOperator(",");
    if (token().IsOperator("]")) break;
    parts.push_back(ParseExpression());
  }
  ExpectOperator("]");
  return Make(Kind::kList, line, std::move(parts));
}

ExpressionPtr ParserState::ParseDict() {
  const int32_t line = Take().line;
  std::vector<ExpressionPtr> parts;
  while (!failed() && !token().IsOperator("}")) {
    if (!parts.empty()) ExpectOperator(",");
    if (token().IsOperator("}")) break;
    parts.push_back(ParseExpression());
    ExpectOperator(":");
    parts.push_back(ParseExpression());
  }
  ExpectOperator("}");
  return Make(Kind::kDict, line, std::move(parts));
}

ExpressionPtr ParserState::ParsePostfix(ExpressionPtr expression) {
  while (!failed()) {
    if (token().IsOperator(".") || token().IsOperator("[")) {
      expression = ParseSubscript(std::move(expression));
    } else if (token().IsOperator("(")) {
      expression = ParseCall(std::move(expression));
    } else {
      break;
    }
  }
  return expression;
}

ExpressionPtr ParserState::ParseSubscript(ExpressionPtr expression) {
  const Token sign = Take();
  if (sign.text == ".") {
    const Token name = Take();
    if (name.kind == Token::Kind::kName) {
      ExpressionPtr made = Make(Kind::kAttribute, sign.line, Parts(std::move(expression)));
      made->text = name.text;
      return made;
    }
    if (name.kind != Token::Kind::kInteger) {
      FailAt(name.line, "expected name or number");
      return nullptr;
    }
    ExpressionPtr index = Make(Kind::kConstant, name.line, {});
    index->constant = Value::Int(name.integer);
    return Make(Kind::kItem, sign.line, Parts(std::move(expression), std::move(index)));
  }
  // Bounds of a slice, or one index; several with commas between them are a tuple.
  const auto bound = [&]() -> ExpressionPtr {
    if (token().IsOperator(":") || token().IsOperator("]") || token().IsOperator(",")) return nullptr;
    return ParseExpression();
  };
  ExpressionPtr start = bound();
  if (SkipOperator(":")) {
    ExpressionPtr stop = bound();
    ExpressionPtr step = SkipOperator(":") ? bound() : nullptr;
    if (token().IsOperator(",")) Fail("a slice within a tuple is not covered");
    ExpectOperator("]");
    return Make(Kind::kSlice, sign.line,
                Parts(std::move(expression), std::move(start), std::move(stop), std::move(step)));
  }
  std::vector<ExpressionPtr> indices;
  if (start != nullptr) indices.push_back(std::move(start));
  while (!failed() && !token().IsOperator("]")) {
    ExpectOperator(",");
    indices.push_back(ParseExpression());
    if (token().IsOperator(":")) Fail("a slice within a tuple is not covered");
  }
  ExpectOperator("]");
  ExpressionPtr index =
      indices.size() == 1 ? std::move(indices[0]) : Make(Kind::kTuple, sign.line, std::move(indices));
  return Make(Kind::kItem, sign.line, Parts(std::move(expression), std::move(index)));
}

std::unique_ptr<CallArguments> ParserState::ParseArguments() {
  auto arguments = std::make_unique<CallArguments>();
  const int32_t line = token().line;
  ExpectOperator("(");
  bool first = true;
  while (!failed() && !token().IsOperator(")")) {
    if (!first) {
      ExpectOperator(",");
      if (token().IsOperator(")")) break;
    }
    first = false;
    const bool closed = arguments->all_positional != nullptr || arguments->all_named != nullptr;
    bool fits = true;
    if (SkipOperator("*")) {
      fits = !closed;
      arguments->all_positional = ParseExpression();
    } else if (SkipOperator("**")) {
      fits = arguments->all_named == nullptr;
      arguments->all_named = ParseExpression();
    } else if (token().kind == Token::Kind::kName && next().IsOperator("=")) {
      fits = arguments->all_named == nullptr;
      std::string name = Take().text;
      Take();
      arguments->named.emplace_back(std::move(name), ParseExpression());
    } else {
      fits = !closed && arguments->named.empty();
      arguments->positional.push_back(ParseExpression());
    }
    if (!fits) FailAt(line, "invalid syntax for function call expression");
  }
  ExpectOperator(")");
  return arguments;
}

namespace {

template <class Visit>
void ForEachArgument(const CallArguments& arguments, const Visit& visit) {
  for (const ExpressionPtr& argument : arguments.positional) visit(argument);
  for (const auto& [name, argument] : arguments.named) visit(argument);
  visit(arguments.all_positional);
  visit(arguments.all_named);
}

}  // namespace

ExpressionPtr ParserState::ParseCall(ExpressionPtr callee) {
  const int32_t line = token().line;
  ExpressionPtr made = Make(Kind::kCall, line, Parts(std::move(callee)));
  made->arguments = ParseArguments();
  ForEachArgument(*made->arguments, [&](const ExpressionPtr& argument) { Deepen(*made, argument); });
  return made;
}

ExpressionPtr ParserState::ParseFilters(ExpressionPtr input, bool without_pipe) {
  while (!failed() && (without_pipe || token().IsOperator("|"))) {
    if (!without_pipe) Take();
    without_pipe = false;
    ExpressionPtr made = Make(Kind::kFilter, token().line, Parts(std::move(input)));
    made->text = ExpectName();
    while (SkipOperator(".")) made->text += absl::StrCat(".", ExpectName());
    made->arguments = token().IsOperator("(") ? ParseArguments() : std::make_unique<CallArguments>();
    ForEachArgument(*made->arguments, [&](const ExpressionPtr& argument) { Deepen(*made, argument); });
    input = std::move(made);
  }
  return input;
}

ExpressionPtr ParserState::ParseFilterTail(ExpressionPtr expression) {
  while (!failed()) {
    if (token().IsOperator("|")) {
      expression = ParseFilters(std::move(expression), false);
    } else if (token().IsName("is")) {
      expression = ParseTest(std::move(expression));
    } else if (token().IsOperator("(")) {
      expression = ParseCall(std::move(expression));
    } else {
      break;
    }
  }
  return expression;
}

ExpressionPtr ParserState::ParseTest(ExpressionPtr expression) {
  const int32_t line = Take().line;
  const bool negated = SkipName("not");
  ExpressionPtr made = Make(Kind::kTest, line, Parts(std::move(expression)));
  made->text = ExpectName();
  while (SkipOperator(".")) made->text += absl::StrCat(".", ExpectName());
  made->arguments = std::make_unique<CallArguments>();
  const Token& ahead = token();
  if (ahead.IsOperator("(")) {
    made->arguments = ParseArguments();
  } else if (!failed()) {
    // One argument may follow bare: a name other than those that go on with the expression, a literal, a
    // bracket.
    const bool argument = ahead.kind == Token::Kind::kName || ahead.kind == Token::Kind::kText ||
                          ahead.kind == Token::Kind::kInteger || ahead.kind == Token::Kind::kFloat ||
                          ahead.IsOperator("[") || ahead.IsOperator("{");
    if (argument && !ahead.IsName("else") && !ahead.IsName("or") && !ahead.IsName("and")) {
      if (ahead.IsName("is")) Fail("You cannot chain multiple tests with is");
      made->arguments->positional.push_back(ParsePostfix(ParsePrimary()));
    }
  }
  ForEachArgument(*made->arguments, [&](const ExpressionPtr& argument) { Deepen(*made, argument); });
  return negated ? Make(Kind::kNot, line, Parts(std::move(made))) : std::move(made);
}

Target ParserState::ParseOneTarget(bool attributes) {
  const Level level(*this);
  Target target;
  if (SkipOperator("(")) {
    target = ParseTarget(attributes);
    ExpectOperator(")");
    return target;
  }
  const int32_t line = token().line;
  target.name = ExpectName();
  for (const char* reserved : {"true", "false", "none", "True", "False", "None"}) {
    if (target.name == reserved) FailAt(line, "can't assign to 'const'");
  }
  target.symbol = SymbolOf(target.name);
  if (attributes && SkipOperator(".")) {
    target.kind = Target::Kind::kAttribute;
    target.name = ExpectName();
  }
  return target;
}

Target ParserState::ParseTarget(bool attributes, std::string_view end_name) {
  Target tuple{Target::Kind::kTuple};
  bool comma = false;
  while (!failed()) {
    if (token().kind == Token::Kind::kBlockEnd || token().IsOperator(")") || token().IsOperator("=") ||
        (!end_name.empty() && token().IsName(end_name))) {
      break;
    }
    tuple.parts.push_back(ParseOneTarget(attributes));
    if (!SkipOperator(",")) break;
    comma = true;
  }
  if (tuple.parts.empty()) Fail(absl::StrCat("Expected an expression, got '", Describe(token()), "'"));
  if (failed() || comma) return tuple;
  return std::move(tuple.parts[0]);
}

}  // namespace paceline::jinja
