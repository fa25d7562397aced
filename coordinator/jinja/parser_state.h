// The parser's insides, shared by its two files: expressions (parser_expressions.cc) and statements
// (parser.cc). Like everything that runs on templates it keeps its first error; after it, every rule returns
// at once.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/jinja/ast.h"
#include "coordinator/jinja/lexer.h"

namespace paceline::jinja {

class ParserState {
 public:
  explicit ParserState(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  // Grammar, from loose to tight. Null once failed.
  ExpressionPtr ParseExpression(bool with_conditional = true);
  // One expression, or several with commas between them: a tuple. `end_name` ends it where not empty.
  ExpressionPtr ParseTuple(bool with_conditional, std::string_view end_name = "", bool parentheses = false);
  // `name`, `name(arguments)` and further filters behind `|`; the first is applied to `input`, which may be
  // null.
  ExpressionPtr ParseFilters(ExpressionPtr input, bool without_pipe);
  Target ParseTarget(bool attributes, std::string_view end_name = "");

  const Token& token() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  Token Take();
  bool SkipOperator(std::string_view sign);
  bool SkipName(std::string_view name);
  void ExpectOperator(std::string_view sign);
  std::string ExpectName();
  void Expect(Token::Kind kind);

  bool failed() const { return !status_.ok(); }
  const absl::Status& status() const { return status_; }
  void Fail(std::string_view sentence) { FailAt(token().line, sentence); }
  void FailAt(int32_t line, std::string_view sentence);
  std::string Describe(const Token& token) const;

  Symbol SymbolOf(const std::string& name);
  std::vector<std::string> TakeNames() { return std::move(names_); }
  // The macros around the cursor; a name that is read is noted in all of them.
  std::vector<MacroNode*>& macros() { return macros_; }

  // One level of recursion; fails when there are too many.
  class Level {
   public:
    explicit Level(ParserState& parser);
    ~Level() { --parser_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ParserState& parser_;
  };

 private:
  ExpressionPtr ParseConditional();
  ExpressionPtr ParseOr();
  ExpressionPtr ParseAnd();
  ExpressionPtr ParseNot();
  ExpressionPtr ParseCompare();
  ExpressionPtr ParseSum();
  ExpressionPtr ParseConcatenation();
  ExpressionPtr ParseProduct();
  ExpressionPtr ParsePower();
  ExpressionPtr ParseUnary(bool with_filter);
  ExpressionPtr ParsePrimary();
  ExpressionPtr ParseList();
  ExpressionPtr ParseDict();
  ExpressionPtr ParsePostfix(ExpressionPtr expression);
  ExpressionPtr ParseSubscript(ExpressionPtr expression);
  ExpressionPtr ParseFilterTail(ExpressionPtr expression);
  ExpressionPtr ParseTest(ExpressionPtr expression);
  ExpressionPtr ParseCall(ExpressionPtr callee);
  std::unique_ptr<CallArguments> ParseArguments();
  Target ParseOneTarget(bool attributes);
  ExpressionPtr Name(const Token& token);
  // A node over `parts`; fails where it becomes too deep.
  ExpressionPtr Make(Expression::Kind kind, int32_t line, std::vector<ExpressionPtr> parts);
  // Accounts for a child that `expression` took besides its parts.
  void Deepen(Expression& expression, const ExpressionPtr& child);
  void CheckDepth(const Expression& expression);

  const std::vector<Token> tokens_;  // ends with kEnd
  size_t at_ = 0;
  int level_ = 0;
  absl::Status status_;
  std::unordered_map<std::string, Symbol> symbols_;
  std::vector<std::string> names_;
  std::vector<MacroNode*> macros_;
};

}  // namespace paceline::jinja
