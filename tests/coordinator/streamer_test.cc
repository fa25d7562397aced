// Stopping and text: the same text whatever tokens it is cut into.
#include "coordinator/streamer.h"

#include <random>

#include "gtest/gtest.h"
#include "tests/coordinator/fake_tokenizer.h"

namespace paceline {
namespace {

struct Outcome {
  std::string text;
  std::optional<FinishReason> finish;
  StopMatch match;
  int64_t tokens = 0;
};

// Cuts `text` into tokens of the given sizes and streams them.
Outcome Stream(const std::string& text, const std::vector<size_t>& sizes, StoppingOptions stopping,
               int64_t max_tokens = 1000) {
  std::vector<std::string> tokens;
  size_t at = 0;
  for (size_t i = 0; at < text.size(); ++i) {
    tokens.push_back(text.substr(at, sizes[i % sizes.size()]));
    at += tokens.back().size();
  }
  const FakeTokenizer tokenizer(tokens);
  Streamer streamer(&tokenizer, {{}, std::move(stopping), max_tokens});
  Outcome out;
  for (size_t id = 0; id < tokens.size(); ++id) {
    const StreamedPiece piece = streamer.Next(static_cast<TokenId>(id));
    out.text += piece.text;
    ++out.tokens;
    if (piece.finish) {
      out.finish = piece.finish;
      out.match = piece.match;
      return out;
    }
  }
  out.text += streamer.Flush();
  return out;
}

TEST(Streamer, StopStringsDoNotDependOnTokenBorders) {
  const std::string text = "one </s> two <stop> th\xC3\xA9 end</sto";
  StoppingOptions stopping;
  stopping.stop_strings = {"<stop>", "top> th", "</st"};
  std::mt19937 random(7);
  const Outcome whole = Stream(text, {text.size()}, stopping);
  EXPECT_EQ(whole.text, "one </s> two ");
  EXPECT_EQ(whole.match.stop_string, "<stop>");
  for (int i = 0; i < 500; ++i) {
    std::vector<size_t> sizes;
    for (int n = 0; n < 30; ++n) sizes.push_back(1 + random() % 6);
    const Outcome cut = Stream(text, sizes, stopping);
    EXPECT_EQ(cut.text, whole.text);
    EXPECT_EQ(cut.match.stop_string, whole.match.stop_string);
    EXPECT_EQ(cut.finish, FinishReason::kStop);
  }
}

TEST(Streamer, HeldTextComesOutWhenItWasNoStop) {
  StoppingOptions stopping;
  stopping.stop_strings = {"END."};
  const Outcome out = Stream("the END, and EN", {1}, stopping);
  EXPECT_EQ(out.text, "the END, and EN");
  EXPECT_FALSE(out.finish);
  const Outcome cut = Stream("the EN", {1}, stopping, 6);
  EXPECT_EQ(cut.text, "the EN") << "length lets out what was held";
  EXPECT_EQ(cut.finish, FinishReason::kLength);
}

TEST(Streamer, NothingOfAStopStringShows) {
  const FakeTokenizer tokenizer({"a", "<", "x", ">"});
  Streamer streamer(&tokenizer, {{}, {.stop_strings = {"<x>"}}, 100});
  EXPECT_EQ(streamer.Next(0).text, "a");
  EXPECT_EQ(streamer.Next(1).text, "");
  EXPECT_EQ(streamer.Next(2).text, "");
  const StreamedPiece last = streamer.Next(3);
  EXPECT_EQ(last.text, "");
  EXPECT_EQ(last.finish, FinishReason::kStop);
}

TEST(Streamer, IncludeStopKeepsIt) {
  StoppingOptions stopping;
  stopping.stop_strings = {"lo w"};
  stopping.include_stop = true;
  EXPECT_EQ(Stream("hello world", {3}, stopping).text, "hello w");
}

TEST(Streamer, EosStopsAndBringsNoText) {
  const FakeTokenizer tokenizer({"a", "<eos>", "b"}, {1});
  Streamer streamer(&tokenizer, {{1}, {}, 100});
  EXPECT_EQ(streamer.Next(0).text, "a");
  const StreamedPiece stop = streamer.Next(1);
  EXPECT_EQ(stop.text, "");
  EXPECT_EQ(stop.finish, FinishReason::kStop);
  EXPECT_EQ(stop.match.eos_token, 1);
}

TEST(Streamer, IgnoreEosGoesOnWithoutItsText) {
  const FakeTokenizer tokenizer({"a", "<eos>", "b"}, {1});
  Streamer streamer(&tokenizer, {{1}, {.ignore_eos = true}, 3});
  EXPECT_EQ(streamer.Next(0).text, "a");
  EXPECT_EQ(streamer.Next(1).text, "");
  const StreamedPiece last = streamer.Next(2);
  EXPECT_EQ(last.text, "b");
  EXPECT_EQ(last.finish, FinishReason::kLength);
}

TEST(Streamer, StopTokensAndMinTokens) {
  const FakeTokenizer tokenizer({"a", "b"});
  Streamer streamer(&tokenizer, {{}, {.min_tokens = 2, .stop_strings = {"bb"}, .stop_token_ids = {1}}, 100});
  EXPECT_FALSE(streamer.Next(1).finish);
  EXPECT_FALSE(streamer.Next(1).finish);
  const StreamedPiece stop = streamer.Next(1);
  EXPECT_EQ(stop.finish, FinishReason::kStop);
  EXPECT_EQ(stop.match.stop_token, 1);
}

TEST(Streamer, WithoutTokenizerIdsStillStop) {
  Streamer streamer(nullptr, {{5}, {}, 3});
  EXPECT_FALSE(streamer.Next(1).finish);
  EXPECT_EQ(streamer.Next(5).finish, FinishReason::kStop);
}

TEST(Streamer, AnUnfinishedCodePointIsFlushedAtTheEnd) {
  const FakeTokenizer tokenizer({"\xE2\x82"});
  Streamer streamer(&tokenizer, {{}, {}, 1});
  EXPECT_EQ(streamer.Next(0).text, "\xEF\xBF\xBD");
}

}  // namespace
}  // namespace paceline
