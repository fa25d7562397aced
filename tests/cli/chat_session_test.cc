// Lines and commands of a conversation, without a model.
#include "cli/chat_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace paceline::cli {
namespace {

using ::testing::HasSubstr;
using Step = ChatSession::Step;

ChatAnswer Answer(std::string content, std::string reasoning = "") {
  ChatAnswer answer;
  answer.content = std::move(content);
  answer.reasoning = std::move(reasoning);
  answer.tokens = 11;
  answer.first_token = std::chrono::milliseconds(250);
  answer.decode = std::chrono::milliseconds(500);
  return answer;
}

std::string TextOf(const ChatMessage& message) { return std::get<std::string>(message.content); }

TEST(ChatSessionTest, TurnsBecomeHistoryWithTheirReasoning) {
  ChatSession session({.system = "Be brief."});
  ASSERT_EQ(session.Take("one").step, Step::kAsk);
  EXPECT_TRUE(session.Answered(Answer("1", "thinking")));
  ASSERT_EQ(session.Take("two").step, Step::kAsk);
  const ChatQuestion question = session.Question();
  ASSERT_EQ(question.chat.messages.size(), 4u);
  EXPECT_EQ(question.chat.messages[0].role, "system");
  EXPECT_EQ(TextOf(question.chat.messages[2]), "1");
  EXPECT_EQ(question.chat.messages[2].reasoning_content, "thinking");
  EXPECT_EQ(TextOf(question.chat.messages[3]), "two");
  EXPECT_TRUE(question.chat.template_kwargs.empty());
  session.TakeBack();
  EXPECT_EQ(session.history().size(), 2u);
  session.Take("/reset");
  EXPECT_TRUE(session.history().empty());
  EXPECT_EQ(session.Question().chat.messages.size(), 1u);  // the system message stays
}

TEST(ChatSessionTest, AnAnswerStoppedInSilenceTakesItsQuestionWithIt) {
  ChatSession session({});
  session.Take("one");
  ChatAnswer silent = Answer("", "half a thought");
  silent.reason = FinishReason::kCancelled;
  EXPECT_FALSE(session.Answered(silent));
  EXPECT_TRUE(session.history().empty());
  session.Take("one");
  ChatAnswer half = Answer("half an ans");
  half.reason = FinishReason::kCancelled;
  EXPECT_TRUE(session.Answered(half));
  EXPECT_EQ(session.history().size(), 2u);
}

TEST(ChatSessionTest, CommandsSetWhatTheNextQuestionCarries) {
  ChatSession session({});
  for (const char* line :
       {"/think off", "/temp 0.25", "/seed 18446744073709551615", "/max 7", "/system  Answer. "})
    EXPECT_EQ(session.Take(line).step, Step::kSaid) << line;
  ChatQuestion question = session.Question();
  EXPECT_EQ(question.chat.template_kwargs, (Json{{"enable_thinking", false}}));
  EXPECT_EQ(question.sampling.temperature, 0.25f);
  EXPECT_EQ(question.sampling.seed, UINT64_MAX);
  EXPECT_EQ(question.max_tokens, 7);
  EXPECT_EQ(TextOf(question.chat.messages.front()), "Answer.");
  for (const char* line : {"/think auto", "/temp", "/seed", "/max", "/system"})
    EXPECT_EQ(session.Take(line).step, Step::kSaid) << line;
  question = session.Question();
  EXPECT_TRUE(question.chat.template_kwargs.empty());
  EXPECT_FALSE(question.sampling.temperature || question.sampling.seed || question.max_tokens);
  EXPECT_TRUE(question.chat.messages.empty());
}

TEST(ChatSessionTest, WrongCommandsChangeNothing) {
  ChatSession session({});
  for (const char* line :
       {"/think", "/think maybe", "/temp -1", "/temp nan", "/temp 1x", "/seed -1", "/max 0", "/max 1.5",
        "/save", "/load", "/load /no/such/file", "/nonsense", "/", "bad \xff"})
    EXPECT_EQ(session.Take(line).step, Step::kWrong) << line;
  EXPECT_THAT(session.Take("/nonsense").text, HasSubstr("/nonsense"));
  const ChatQuestion question = session.Question();
  EXPECT_TRUE(question.chat.messages.empty());
  EXPECT_FALSE(question.sampling.temperature || question.sampling.seed || question.max_tokens);
  EXPECT_EQ(session.Take("").step, Step::kSaid);
  EXPECT_EQ(session.Take("  ").text, "");
  EXPECT_EQ(session.Take("/exit").step, Step::kLeave);
  EXPECT_EQ(session.Take("//exit").step, Step::kAsk);
  EXPECT_EQ(TextOf(session.history().back()), "/exit");
}

TEST(ChatSessionTest, WhatIsSavedIsReadBack) {
  const std::string file =
      std::filesystem::temp_directory_path() / ("chat_session_test." + std::to_string(getpid()));
  ChatSession session({.system = "Be \"brief\"."});
  session.Take("Größe?");
  session.Answered(Answer("1 m", "a rule"));
  ASSERT_EQ(session.Take("/save " + file).step, Step::kSaid);
  ChatSession other({.system = "another"});
  other.Take("something");
  EXPECT_EQ(other.Take("/load " + file).step, Step::kSaid);
  const auto before = ChatMessagesToJson(session.Question().chat.messages);
  EXPECT_EQ(ChatMessagesToJson(other.Question().chat.messages), before);
  std::filesystem::remove(file);
}

TEST(ChatSessionTest, TheLineBehindAnAnswer) {
  ChatAnswer answer = Answer("x");
  EXPECT_EQ(AnswerLine(answer), "11 tokens at 20.0 tok/s, the first after 0.25 s");
  answer.drafted = 8;
  answer.accepted = 6;
  answer.steps = 5;
  answer.prompt_tokens = 600;
  answer.cached_tokens = 512;
  answer.reason = FinishReason::kLength;
  EXPECT_EQ(AnswerLine(answer),
            "11 tokens at 20.0 tok/s, the first after 0.25 s; 6 of 8 drafts accepted (75 %), 2.20 tokens per "
            "step; 512 "
            "of 600 prompt tokens cached; ended by the limit of tokens");
  EXPECT_EQ(AnswerLine({}), "0 tokens");
}

}  // namespace
}  // namespace paceline::cli
