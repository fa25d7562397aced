// The grammar of required tool calls lets through what the output parser reads, and nothing else.
#include "coordinator/grammar/constraint.h"
#include "coordinator/http/tool_grammar.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fake_tokenizer.h"

namespace paceline {
namespace {

constexpr TokenId kEnd = 0;

std::vector<std::string> Characters() {
  std::vector<std::string> tokens = {"<end>"};
  for (char c = ' '; c <= '~'; ++c) tokens.emplace_back(1, c);
  tokens.emplace_back("\n");
  return tokens;
}

class ToolGrammarTest : public ::testing::Test {
 protected:
  ToolGrammarTest() {
    tools_.push_back(ToolDefinition::Make("ride", "Ride somewhere", Json::parse(R"({
      "type": "object", "required": ["to", "km"], "properties": {
        "to": {"type": "string"}, "km": {"type": "integer"}, "fast": {"type": "boolean"},
        "bike": {"enum": ["road", "track"]}, "with": {"type": "array"}}})")));
    tools_.push_back(ToolDefinition::Make("stop", std::nullopt, Json::object()));
  }
  // Whether the grammar lets the whole text through, its end included.
  bool Takes(const std::string& name, bool parallel, const std::string& text) {
    ConstraintSpec spec;
    spec.kind = ConstraintSpec::Kind::kEbnf;
    spec.text = ToolCallGrammar(tools_, name, parallel);
    const std::vector<TokenId> stops = {kEnd};
    const auto constraint = compiler_.Compile(spec, {}, stops);
    EXPECT_TRUE(constraint.ok()) << constraint.status() << "\n" << spec.text;
    const std::unique_ptr<ConstraintMatcher> matcher = (*constraint)->Start();
    for (const char c : text) {
      const auto ids = tokenizer_.Encode(std::string(1, c), true);
      if (!matcher->Accept(ids->front())) return false;
    }
    return matcher->Accept(kEnd);
  }
  static std::string Call(const std::string& inner) {
    return "<tool_call>\n<function=" + inner + "</function>\n</tool_call>";
  }
  static std::string Parameter(const std::string& name, const std::string& value) {
    return "<parameter=" + name + ">\n" + value + "\n</parameter>\n";
  }

  std::vector<ToolDefinition> tools_;
  FakeTokenizer tokenizer_{Characters(), {kEnd}};
  ConstraintCompiler compiler_{&tokenizer_, 128};
};

TEST_F(ToolGrammarTest, CallsOfTheSchema) {
  const std::string ride = "ride>\n" + Parameter("to", "the <b> hill") + Parameter("km", "-12");
  EXPECT_TRUE(Takes("", false, Call(ride)));
  EXPECT_TRUE(Takes("ride", false, "\n\n" + Call(ride)));
  EXPECT_TRUE(Takes("", false,
                    Call(ride + Parameter("fast", "true") + Parameter("bike", "track") +
                         Parameter("with", R"(["Ann", {"a": 1.5e3}, null])"))));
  EXPECT_FALSE(Takes("", false, Call("ride>\n" + Parameter("to", "x"))));  // km is missing
  EXPECT_FALSE(
      Takes("", false, Call("ride>\n" + Parameter("to", "x") + Parameter("km", "far"))));  // no integer
  EXPECT_FALSE(Takes("", false, Call(ride + Parameter("bike", "trike"))));                 // not listed
  EXPECT_FALSE(Takes("", false, Call(ride + Parameter("speed", "9"))));  // not in the schema
  EXPECT_FALSE(Takes("", false, Call("fly>\n")));
  EXPECT_FALSE(Takes("", false, "Sure!\n" + Call(ride)));
  EXPECT_FALSE(Takes("", false, ""));
}

TEST_F(ToolGrammarTest, NamedAndParallel) {
  const std::string stop = Call("stop>\n");
  EXPECT_TRUE(Takes("", false, stop));
  EXPECT_TRUE(Takes("stop", false, Call("stop>\n" + Parameter("why", "rain"))));  // a tool without a schema
  EXPECT_FALSE(Takes("ride", false, stop));
  EXPECT_FALSE(Takes("", false, stop + "\n" + stop));
  EXPECT_TRUE(Takes("", true, stop + "\n" + stop + "\n\n" + stop));
}

TEST_F(ToolGrammarTest, NamesCannotEscapeTheirQuotes) {
  tools_.push_back(ToolDefinition::Make(
      "od\"d\\n", std::nullopt,
      Json::parse(R"({"properties": {"\"x\"": {"const": "\"]\n"}}, "required": ["\"x\""]})")));
  EXPECT_TRUE(Takes("od\"d\\n", false, Call("od\"d\\n>\n" + Parameter("\"x\"", "\"]\n"))));
}

}  // namespace
}  // namespace paceline
