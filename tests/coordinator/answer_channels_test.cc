// Answers taken apart token by token: nothing is lost, nothing is said twice, however the text is cut.
#include "coordinator/answer_channels.h"

#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline {
namespace {

using ::testing::ElementsAre;

constexpr char kText[] =
    "I had better look.\n</think>\n\nOne moment, 1 < 2.\n\n<tool_call>\n<function=find>\n<parameter=what>\n"
    "a <b> c\n</parameter>\n</function>\n</tool_call>";

struct Heard {
  std::map<std::string, std::string> text;  // by channel
  std::string arguments;
  int tokens = 0;
  int calls = 0;
};

void Add(const std::vector<AnswerPiece>& pieces, Heard* heard) {
  for (const AnswerPiece& piece : pieces) {
    if (piece.call) {
      heard->calls += piece.call->kind == OutputEvent::Kind::kToolCallStart ? 1 : 0;
      heard->arguments += piece.call->text;
      continue;
    }
    heard->tokens += piece.continued ? 0 : 1;
    heard->text[std::string(piece.channel)] += piece.text;
  }
}

TEST(AnswerChannels, EveryCutSaysTheSame) {
  const std::string text = kText;
  for (size_t step = 1; step <= text.size(); ++step) {
    AnswerChannels channels(OutputParserOptions{.starts_in_reasoning = true});
    Heard heard;
    int tokens = 0;
    for (size_t at = 0; at < text.size(); at += step, ++tokens)
      Add(channels.Feed(text.substr(at, step)), &heard);
    EXPECT_EQ(heard.tokens, tokens) << "each token is one piece, and stands once";
    Add(channels.Finish(), &heard);
    EXPECT_EQ(heard.tokens, tokens) << "the end is no token";
    EXPECT_EQ(heard.text["reasoning"], "I had better look.") << step;
    EXPECT_EQ(heard.text["content"], "One moment, 1 < 2.") << step;
    EXPECT_EQ(heard.calls, 1);
    EXPECT_EQ(heard.arguments, R"({"what": "a <b> c"})");
    EXPECT_TRUE(channels.called());
  }
}

TEST(AnswerChannels, ATokenOfTwoChannelsIsContinued) {
  AnswerChannels channels(OutputParserOptions{.starts_in_reasoning = true});
  const std::vector<AnswerPiece> pieces = channels.Feed("so</think>yes");
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[0].channel, "reasoning");
  EXPECT_EQ(pieces[0].text, "so");
  EXPECT_FALSE(pieces[0].continued);
  EXPECT_EQ(pieces[1].channel, "content");
  EXPECT_EQ(pieces[1].text, "yes");
  EXPECT_TRUE(pieces[1].continued);
  EXPECT_EQ(channels.reasoning_tokens(), 1);
}

TEST(AnswerChannels, InACallTheTextIsTheModels) {
  AnswerChannels channels(OutputParserOptions{});
  std::string form;
  for (const char* const token : {"<tool_call>", "\n<function=f>", "</function>", "</tool_call>"}) {
    for (const AnswerPiece& piece : channels.Feed(token)) {
      if (piece.call) continue;
      EXPECT_EQ(piece.channel, "tool_call") << token;
      form += piece.text;
    }
  }
  EXPECT_EQ(form, "<tool_call>\n<function=f></function></tool_call>");
}

TEST(AnswerChannels, WithoutAParserAllIsContent) {
  AnswerChannels channels(std::nullopt);
  const std::vector<AnswerPiece> pieces = channels.Feed("<think>x</think>");
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].channel, "content");
  EXPECT_EQ(pieces[0].text, "<think>x</think>");
  EXPECT_TRUE(channels.Finish().empty());
}

}  // namespace
}  // namespace paceline
