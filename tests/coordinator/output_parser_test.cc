// A model's text taken apart: the same events however it is cut.
#include "coordinator/output_parser.h"

#include <random>

#include "coordinator/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline {
namespace {

using Kind = OutputEvent::Kind;

std::vector<ToolDefinition> Tools() {
  return {ToolDefinition::Make("weather", "w", Json::parse(R"({"type":"object","properties":{
      "city":{"type":"string"},"days":{"type":"integer"},"where":{"type":"object"},"tags":{"type":"array"},"on":{"type":"boolean"},
      "note":{"type":["string","null"]},"maybe":{"anyOf":[{"type":"number"},{"type":"null"}]},"unit":{"enum":["C","F"]},
      "ref":{"$ref":"#/$defs/Point"},"any":{}},"$defs":{"Point":{"type":"object"}}})"))};
}

OutputParserOptions Options(bool reasoning = false) {
  OutputParserOptions options;
  options.starts_in_reasoning = reasoning;
  options.tools = Tools();
  options.id_seed = 7;
  return options;
}

// Neighbours of one kind made one: where a piece is cut says nothing.
std::vector<OutputEvent> Joined(std::vector<OutputEvent> events) {
  std::vector<OutputEvent> out;
  for (OutputEvent& event : events) {
    const bool pieces = event.kind == Kind::kReasoning || event.kind == Kind::kContent ||
                        event.kind == Kind::kToolCallArguments;
    if (pieces && !out.empty() && out.back().kind == event.kind && out.back().call == event.call) {
      out.back().text += event.text;
    } else {
      out.push_back(std::move(event));
    }
  }
  return out;
}

std::vector<OutputEvent> Parse(const OutputParserOptions& options, const std::vector<std::string>& chunks) {
  OutputParser parser(options);
  std::vector<OutputEvent> events;
  for (const std::string& chunk : chunks) {
    for (OutputEvent& event : parser.Feed(chunk)) {
      EXPECT_EQ(ValidUtf8Prefix(event.text), event.text.size()) << "a split code point";
      events.push_back(std::move(event));
    }
  }
  for (OutputEvent& event : parser.Finish()) events.push_back(std::move(event));
  return Joined(std::move(events));
}

std::string Show(const std::vector<OutputEvent>& events) {
  std::string out;
  for (const OutputEvent& event : events) {
    switch (event.kind) {
      case Kind::kReasoning:
        out += "R[" + event.text + "]";
        break;
      case Kind::kContent:
        out += "C[" + event.text + "]";
        break;
      case Kind::kToolCallStart:
        out += std::to_string(event.call) + ":" + event.name + "(";
        break;
      case Kind::kToolCallArguments:
        out += event.text;
        break;
      case Kind::kToolCallEnd:
        out += ")";
        break;
    }
  }
  return out;
}

std::string ShowText(const std::string& text, bool reasoning = false) {
  return Show(Parse(Options(reasoning), {text}));
}

constexpr char kCall[] =
    "<tool_call>\n<function=weather>\n<parameter=city>\nZürich\n\"x\"\n</parameter>\n<parameter=days>\n3\n</"
    "parameter>\n</function>\n</tool_call>";

TEST(OutputParser, ReasoningAndContent) {
  EXPECT_EQ(ShowText("plain text\n"), "C[plain text\n]");
  EXPECT_EQ(ShowText("<think>\nhm\n</think>\n\nSo."), "R[hm]C[So.]");
  EXPECT_EQ(ShowText("\nhm\n</think>\n\nSo.\n", true), "R[hm]C[So.\n]");
  EXPECT_EQ(ShowText("<think>\nhm</think>So.", true), "R[hm]C[So.]");
  EXPECT_EQ(ShowText("\n\n</think>\n\nSo.", true), "C[So.]");
  EXPECT_EQ(ShowText("cut in though", true), "R[cut in though]");
  EXPECT_EQ(ShowText("cut </thi", true), "R[cut </thi]");
  EXPECT_EQ(ShowText("a <think> b </think> c"), "C[a <think> b </think> c]");
  EXPECT_EQ(ShowText("  lead"), "C[  lead]");
  EXPECT_EQ(ShowText(""), "");
  EXPECT_EQ(ShowText("1 < 2 </b> <"), "C[1 < 2 </b> <]");
}

TEST(OutputParser, CallsBecomeJson) {
  EXPECT_EQ(ShowText(std::string("Let me see.\n\n") + kCall),
            "C[Let me see.]0:weather({\"city\": \"Zürich\\n\\\"x\\\"\", \"days\": 3})");
  EXPECT_EQ(ShowText(std::string("</think>\n\n") + kCall + "\n" + kCall + "\n\nDone.", true),
            "0:weather({\"city\": \"Zürich\\n\\\"x\\\"\", \"days\": 3})1:weather({\"city\": "
            "\"Zürich\\n\\\"x\\\"\", \"days\": 3})C[Done.]");
  EXPECT_EQ(ShowText("<tool_call><function=f></function></tool_call>"), "0:f({})");
  // A call within the thinking block is a call; the thinking goes on.
  EXPECT_EQ(ShowText("hm " + std::string(kCall) + " more</think>x", true),
            "R[hm]0:weather({\"city\": \"Zürich\\n\\\"x\\\"\", \"days\": 3})R[more]C[x]");
}

std::string Argument(const std::string& name, const std::string& value) {
  const std::vector<OutputEvent> events =
      Parse(Options(), {"<tool_call>\n<function=weather>\n<parameter=" + name + ">\n" + value +
                        "\n</parameter>\n</function>\n</tool_call>"});
  return events.size() == 3 ? Json::parse(events[1].text)[name].dump() : Show(events);
}

TEST(OutputParser, SchemasDecideWhatAnArgumentIs) {
  EXPECT_EQ(Argument("city", "12"), "\"12\"");
  EXPECT_EQ(Argument("city", "null"), "\"null\"");
  EXPECT_EQ(Argument("city", "\n a \n"), "\"\\n a \\n\"");
  EXPECT_EQ(Argument("city", ""), "\"\"");
  EXPECT_EQ(Argument("days", "12"), "12");
  EXPECT_EQ(Argument("days", "-1.5e3"), "-1500.0");
  EXPECT_EQ(Argument("days", "soon"), "\"soon\"");
  EXPECT_EQ(Argument("on", "True"), "true");
  EXPECT_EQ(Argument("on", "false"), "false");
  EXPECT_EQ(Argument("where", "{\n \"a\": [1, {\"b\": null}]\n}"), "{\"a\":[1,{\"b\":null}]}");
  EXPECT_EQ(Argument("where", "{broken"), "\"{broken\"");
  EXPECT_EQ(Argument("tags", "[\"x\", 1]"), "[\"x\",1]");
  EXPECT_EQ(Argument("note", "null"), "null");
  EXPECT_EQ(Argument("note", "nullify"), "\"nullify\"");
  EXPECT_EQ(Argument("maybe", "null"), "null");
  EXPECT_EQ(Argument("maybe", "2.5"), "2.5");
  EXPECT_EQ(Argument("unit", "C"), "\"C\"");
  EXPECT_EQ(Argument("ref", "{\"x\": 1}"), "{\"x\":1}");
  EXPECT_EQ(Argument("any", "5"), "\"5\"");
  EXPECT_EQ(Argument("unknown", "5"), "\"5\"");
  EXPECT_EQ(Argument("city", "a < b </param> </parameters <parameter=x> </function> y"),
            "\"a < b </param> </parameters <parameter=x> </function> y\"");
}

TEST(OutputParser, OutputsThatLeaveTagsOut) {
  EXPECT_EQ(ShowText("<tool_call>\n<function=weather>\n<parameter=city>\nBern\n<parameter=days>\n2\n</"
                     "function>\n</tool_call>after"),
            "0:weather({\"city\": \"Bern\", \"days\": 2})C[after]");
  EXPECT_EQ(ShowText("<tool_call>\n<function=f>\n<parameter=a>\nb\n</tool_call>\nx"),
            "0:f({\"a\": \"b\"})C[x]");
  EXPECT_EQ(ShowText("<tool_call>\n<function=f>\n</function>\nx"), "0:f({})C[x]");
  EXPECT_EQ(ShowText("<tool_call>\n<function=f>\n<tool_call>\n<function=g>\n</function>\n</tool_call>"),
            "0:f({})1:g({})");
  // Cut at a limit: what there is, as valid JSON.
  EXPECT_EQ(ShowText("<tool_call>\n<function=f>\n<parameter=a>\nhalf a wor"), "0:f({\"a\": \"half a wor\"})");
  EXPECT_EQ(ShowText("<tool_call>\n<function=f>\n<parameter=a>\nb\n</param"), "0:f({\"a\": \"b\"})");
  EXPECT_EQ(ShowText("<tool_call>\n<function=weather>\n<parameter=where>\n{\"a\": "),
            "0:weather({\"where\": \"{\\\"a\\\": \"})");
  EXPECT_EQ(ShowText("<tool_call>\n<function=f>\n<parameter=a"), "0:f({})");
  EXPECT_EQ(ShowText("<tool_call>\n<function=f>\n</function>\n</tool_c"), "0:f({})");
  // No call at all.
  EXPECT_EQ(ShowText("x <tool_call> y"), "C[x <tool_call> y]");
  EXPECT_EQ(ShowText("x <tool_call>\n{\"name\": 1}</tool_call>"),
            "C[x <tool_call>\n{\"name\": 1}</tool_call>]");
  EXPECT_EQ(ShowText("<tool_call>\n<function=f"), "C[<tool_call>\n<function=f]");
  EXPECT_EQ(ShowText("<tool_call>"), "C[<tool_call>]");
  EXPECT_EQ(ShowText("<tool_call><tool_call>"), "C[<tool_call><tool_call>]");
}

TEST(OutputParser, SwitchedOffTagsAreText) {
  OutputParserOptions options = Options();
  options.parse_tools = false;
  EXPECT_EQ(Show(Parse(options, {"<think>a</think>" + std::string("<tool_call>\n<function=f>")})),
            "R[a]C[<tool_call>\n<function=f>]");
  options = Options(true);
  options.split_reasoning = false;
  EXPECT_EQ(Show(Parse(options, {"<think>a</think><tool_call><function=f></function></tool_call>"})),
            "C[<think>a</think>]0:f({})");
}

TEST(OutputParser, TextLeavesAsSoonAsItCan) {
  OutputParser parser(Options());
  EXPECT_EQ(Show(parser.Feed("Hello <")), "C[Hello]");
  EXPECT_EQ(Show(parser.Feed("b> and")), "C[ <b> and]");
  EXPECT_EQ(Show(parser.Feed("<tool_call>\n<function=weather>\n<parameter=city>\nBe")),
            "0:weather({\"city\": \"Be");
  EXPECT_EQ(Show(parser.Feed("rn\n")), "rn");
  EXPECT_EQ(Show(parser.Feed("is nice\n</param")), "\\nis nice");
  EXPECT_EQ(Show(parser.Feed("eter>")), "\"");
  EXPECT_EQ(Show(parser.Feed("</function></tool_call>")), "})");
  EXPECT_EQ(parser.calls(), 1);
  EXPECT_FALSE(parser.in_reasoning());
}

TEST(OutputParser, IdsFollowFromSeedAndIndex) {
  const std::string two = std::string(kCall) + kCall;
  const auto ids = [&](uint64_t seed) {
    OutputParserOptions options = Options();
    options.id_seed = seed;
    std::vector<std::string> out;
    for (const OutputEvent& event : Parse(options, {two})) {
      if (event.kind == Kind::kToolCallStart) out.push_back(event.id);
    }
    return out;
  };
  ASSERT_EQ(ids(1).size(), 2u);
  EXPECT_THAT(ids(1)[0], testing::MatchesRegex("call_[0-9a-f]+"));
  EXPECT_EQ(ids(1)[0].size(), 29u);
  EXPECT_NE(ids(1)[0], ids(1)[1]);
  EXPECT_EQ(ids(1), ids(1));
  EXPECT_NE(ids(1)[0], ids(2)[0]);
}

// Pieces of real outputs and of broken ones, in any order.
std::string RandomOutput(std::mt19937& rng) {
  static const std::vector<std::string> pieces = {"<think>",
                                                  "</think>",
                                                  "<tool_call>",
                                                  "</tool_call>",
                                                  "<function=weather>",
                                                  "<function=f>",
                                                  "</function>",
                                                  "<parameter=city>",
                                                  "<parameter=days>",
                                                  "<parameter=where>",
                                                  "</parameter>",
                                                  "\n",
                                                  "\n\n",
                                                  " ",
                                                  "word",
                                                  "Zürich",
                                                  "東京",
                                                  "🌍",
                                                  "{\"a\": 1}",
                                                  "12",
                                                  "<",
                                                  "</",
                                                  "<tool",
                                                  "_call>",
                                                  "</param",
                                                  "eter>",
                                                  "<function=",
                                                  "<parameter=",
                                                  ">",
                                                  "\"",
                                                  "\\",
                                                  "null",
                                                  kCall,
                                                  "\xff",
                                                  "\xe6\x9d"};
  std::string out;
  const auto count = std::uniform_int_distribution<int>(0, 14)(rng);
  for (int i = 0; i < count; ++i)
    out += pieces[std::uniform_int_distribution<size_t>(0, pieces.size() - 1)(rng)];
  return out;
}

TEST(OutputParser, AnyChunkingGivesTheSameEvents) {
  std::mt19937 rng(5);
  for (int round = 0; round < 20'000; ++round) {
    const std::string text = RandomOutput(rng);
    OutputParserOptions options = Options(round % 2 == 0);
    options.split_reasoning = round % 7 != 0;
    options.parse_tools = round % 5 != 0;
    const std::vector<OutputEvent> whole = Parse(options, {text});
    std::vector<std::string> chunks;
    const size_t longest = 1 + rng() % 6;
    for (size_t at = 0; at < text.size();) {
      const size_t size = 1 + rng() % longest;
      chunks.push_back(text.substr(at, size));
      at += size;
    }
    ASSERT_EQ(Show(whole), Show(Parse(options, chunks))) << testing::PrintToString(text);
    // Every call is whole and its arguments are an object.
    std::string arguments;
    for (const OutputEvent& event : whole) {
      if (event.kind == Kind::kToolCallArguments) arguments += event.text;
      if (event.kind == Kind::kToolCallEnd) {
        ASSERT_TRUE(Json::accept(arguments)) << arguments << " from " << testing::PrintToString(text);
        ASSERT_EQ(arguments[0], '{');
        arguments.clear();
      }
    }
    ASSERT_EQ(arguments, "");
  }
}

}  // namespace
}  // namespace paceline
