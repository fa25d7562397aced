#include "coordinator/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "coordinator/jinja/parser_state.h"

namespace paceline::jinja {
namespace {

using Kind = Statement::Kind;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : state_(std::move(tokens)) {}

  absl::StatusOr<Program> Run() {
    Program program;
    program.loop = state_.SymbolOf("loop");
    program.caller = state_.SymbolOf("caller");
    program.varargs = state_.SymbolOf("varargs");
    program.kwargs = state_.SymbolOf("kwargs");
    program.body = ParseBlock({});
    if (state_.failed()) return state_.status();
    program.names = state_.TakeNames();
    return program;
  }

 private:
  using Ends = std::initializer_list<const char*>;

  // Statements until a tag of `ends`, whose name is then the current token; all there are where it is empty.
  Block ParseBlock(Ends ends) {
    const ParserState::Level level(state_);
    Block block;
    while (!state_.failed()) {
      const Token& token = state_.token();
      switch (token.kind) {
        case Token::Kind::kEnd:
          if (ends.size() > 0) {
            state_.Fail(
                absl::StrCat("Unexpected end of template. Jinja was looking for the following tags: '",
                             absl::StrJoin(ends, "' or '"), "'."));
          }
          return block;
        case Token::Kind::kData: {
          auto text = New(Kind::kText, token.line);
          text->text = state_.Take().text;
          block.push_back(std::move(text));
          break;
        }
        case Token::Kind::kVariableBegin: {
          auto output = New(Kind::kOutput, token.line);
          state_.Take();
          output->expression = state_.ParseTuple(true);
          state_.Expect(Token::Kind::kVariableEnd);
          block.push_back(std::move(output));
          break;
        }
        case Token::Kind::kBlockBegin: {
          state_.Take();
          const bool ended = std::any_of(ends.begin(), ends.end(),
                                         [&](const char* end) { return state_.token().IsName(end); });
          if (ended) return block;
          ParseStatement(ends, &block);
          state_.Expect(Token::Kind::kBlockEnd);
          break;
        }
        default:
          state_.Fail(absl::StrCat("unexpected '", state_.Describe(token), "'"));
      }
    }
    return block;
  }

  // The rest of an opening tag, and its body up to one of `ends`, whose name is then the current token.
  Block ParseBody(Ends ends) {
    state_.SkipOperator(":");
    state_.Expect(Token::Kind::kBlockEnd);
    return ParseBlock(ends);
  }
  // The same where there is one end; the cursor stands behind its name.
  Block ParseBodyTo(const char* end) {
    Block block = ParseBody({end});
    if (!state_.failed()) state_.Take();
    return block;
  }

  static std::unique_ptr<Statement> New(Kind kind, int32_t line) {
    auto made = std::make_unique<Statement>();
    made->kind = kind;
    made->line = line;
    return made;
  }

  void ParseStatement(Ends ends, Block* block) {
    if (state_.token().kind != Token::Kind::kName) return state_.Fail("tag name expected");
    const Token tag = state_.Take();
    const auto add = [&](std::unique_ptr<Statement> statement) { block->push_back(std::move(statement)); };
    if (tag.text == "if") return add(ParseIf(tag.line));
    if (tag.text == "for") return add(ParseFor(tag.line));
    if (tag.text == "set") return add(ParseSet(tag.line));
    if (tag.text == "macro") return add(ParseMacro(tag.line));
    if (tag.text == "call") return add(ParseCallBlock(tag.line));
    if (tag.text == "filter") return add(ParseFilterBlock(tag.line));
    if (tag.text == "with") return add(ParseWith(tag.line));
    if (tag.text == "print") return ParsePrint(tag.line, block);
    if (tag.text == "generation") return add(ParseGeneration(tag.line));
    if (tag.text == "break" || tag.text == "continue") {
      if (loops_ == 0) state_.FailAt(tag.line, absl::StrCat("'", tag.text, "' outside loop"));
      return add(New(tag.text == "break" ? Kind::kBreak : Kind::kContinue, tag.line));
    }
    for (const char* refused : {"include", "import", "from", "extends", "block", "autoescape"}) {
      if (tag.text == refused)
        return state_.FailAt(tag.line, absl::StrCat("the tag '", tag.text, "' is not covered"));
    }
    std::string sentence = absl::StrCat("Encountered unknown tag '", tag.text, "'.");
    if (ends.size() > 0) {
      absl::StrAppend(&sentence, " Jinja was looking for the following tags: '",
                      absl::StrJoin(ends, "' or '"), "'.");
    }
    state_.FailAt(tag.line, sentence);
  }

  std::unique_ptr<Statement> ParseIf(int32_t line) {
    auto made = New(Kind::kIf, line);
    while (!state_.failed()) {
      ExpressionPtr condition = state_.ParseTuple(false);
      Block body = ParseBody({"elif", "else", "endif"});
      made->branches.push_back({std::move(condition), std::move(body)});
      if (state_.failed()) break;
      const Token end = state_.Take();
      if (end.text == "elif") continue;
      if (end.text == "else") made->branches.push_back({nullptr, ParseBodyTo("endif")});
      break;
    }
    return made;
  }

  std::unique_ptr<Statement> ParseFor(int32_t line) {
    auto made = New(Kind::kFor, line);
    made->target = state_.ParseTarget(false, "in");
    if (!state_.SkipName("in"))
      state_.Fail(absl::StrCat("expected token 'in', got '", state_.Describe(state_.token()), "'"));
    made->expression = state_.ParseTuple(false, "recursive");
    if (state_.SkipName("if")) made->test = state_.ParseExpression();
    made->recursive = state_.SkipName("recursive");
    ++loops_;
    made->body = ParseBody({"endfor", "else"});
    --loops_;
    if (!state_.failed() && state_.Take().text == "else") made->otherwise = ParseBodyTo("endfor");
    return made;
  }

  std::unique_ptr<Statement> ParseSet(int32_t line) {
    auto made = New(Kind::kSet, line);
    made->target = state_.ParseTarget(true);
    if (state_.SkipOperator("=")) {
      made->expression = state_.ParseTuple(true);
      return made;
    }
    made->kind = Kind::kSetBlock;
    made->expression = state_.ParseFilters(nullptr, false);
    made->body = ParseBodyTo("endset");
    return made;
  }

  void ParseSignature(MacroNode* macro) {
    state_.ExpectOperator("(");
    while (!state_.failed() && !state_.token().IsOperator(")")) {
      if (!macro->parameters.empty()) state_.ExpectOperator(",");
      const std::string name = state_.ExpectName();
      macro->parameters.push_back(state_.SymbolOf(name));
      macro->parameter_names.push_back(name);
      if (state_.SkipOperator("=")) {
        macro->defaults.push_back(state_.ParseExpression());
      } else if (!macro->defaults.empty()) {
        state_.Fail("non-default argument follows default argument");
      }
    }
    state_.ExpectOperator(")");
  }

  // A body that runs elsewhere: a loop around it is none of its own.
  void ParseMacroBody(MacroNode* macro, const char* end) {
    const int loops = std::exchange(loops_, 0);
    state_.macros().push_back(macro);
    macro->body = ParseBodyTo(end);
    state_.macros().pop_back();
    loops_ = loops;
  }

  std::unique_ptr<Statement> ParseMacro(int32_t line) {
    auto made = New(Kind::kMacro, line);
    made->macro = std::make_unique<MacroNode>();
    made->macro->name = state_.ExpectName();
    made->symbol = state_.SymbolOf(made->macro->name);
    ParseSignature(made->macro.get());
    ParseMacroBody(made->macro.get(), "endmacro");
    return made;
  }

  std::unique_ptr<Statement> ParseCallBlock(int32_t line) {
    auto made = New(Kind::kCallBlock, line);
    made->macro = std::make_unique<MacroNode>();
    if (state_.token().IsOperator("(")) ParseSignature(made->macro.get());
    made->expression = state_.ParseExpression();
    if (!state_.failed() && made->expression->kind != Expression::Kind::kCall)
      state_.FailAt(line, "expected call");
    ParseMacroBody(made->macro.get(), "endcall");
    return made;
  }

  std::unique_ptr<Statement> ParseFilterBlock(int32_t line) {
    auto made = New(Kind::kFilterBlock, line);
    made->expression = state_.ParseFilters(nullptr, true);
    made->body = ParseBodyTo("endfilter");
    return made;
  }

  std::unique_ptr<Statement> ParseWith(int32_t line) {
    auto made = New(Kind::kWith, line);
    while (!state_.failed() && state_.token().kind != Token::Kind::kBlockEnd) {
      if (!made->targets.empty()) state_.ExpectOperator(",");
      made->targets.push_back(state_.ParseTarget(false));
      state_.ExpectOperator("=");
      made->values.push_back(state_.ParseExpression());
    }
    made->body = ParseBodyTo("endwith");
    return made;
  }

  void ParsePrint(int32_t line, Block* block) {
    for (bool first = true; !state_.failed() && state_.token().kind != Token::Kind::kBlockEnd;
         first = false) {
      if (!first) state_.ExpectOperator(",");
      auto output = New(Kind::kOutput, line);
      output->expression = state_.ParseExpression();
      block->push_back(std::move(output));
    }
  }

  // Marks what the assistant wrote, for training; what it sets stays inside.
  std::unique_ptr<Statement> ParseGeneration(int32_t line) {
    auto made = New(Kind::kScope, line);
    const int loops = std::exchange(loops_, 0);
    made->body = ParseBodyTo("endgeneration");
    loops_ = loops;
    return made;
  }

  ParserState state_;
  int loops_ = 0;  // around the cursor, up to the macro it stands in
};

}  // namespace

absl::StatusOr<Program> Parse(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace paceline::jinja
