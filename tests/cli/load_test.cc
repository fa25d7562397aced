// What `bench serve` is made of, without a server: addresses, event streams, answers, prompts, figures.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "cli/bench_text.h"
#include "cli/event_stream.h"
#include "cli/http_client.h"
#include "cli/load_prompts.h"
#include "cli/load_summary.h"
#include "cli/openai_answer.h"
#include "cli/serve_load.h"

namespace paceline::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(HttpUrlTest, HostPortAndPrefix) {
  const auto parse = [](const char* url) {
    const absl::StatusOr<HttpUrl> parsed = ParseHttpUrl(url);
    return parsed.ok() ? parsed->Text() : std::string(parsed.status().message());
  };
  EXPECT_EQ(parse("http://127.0.0.1:8000"), "http://127.0.0.1:8000");
  EXPECT_EQ(parse("http://box/v1/"), "http://box:80");
  EXPECT_EQ(parse("http://box:81/api/v1"), "http://box:81/api");
  EXPECT_EQ(parse("http://[::1]:8000/"), "http://[::1]:8000");
  EXPECT_THAT(parse("https://box"), HasSubstr("https is not spoken"));
  for (const char* wrong :
       {"box:80", "http://", "http://:80", "http://box:", "http://box:0", "http://box:65536", "http://box:8x",
        "http://a b", "http://box/a\r\nx: y", "http://me@box"})
    EXPECT_THAT(parse(wrong), HasSubstr("CFG-002")) << wrong;
}

TEST(EventStreamTest, AnyCutGivesTheSameEvents) {
  const std::string text =
      ": comment\n\ndata: one\n\nevent: x\r\ndata: two\r\ndata:three\r\n\r\nid: 7\n\ndata:\n\ndata: "
      "unfinished";
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    EventStream stream;
    std::vector<std::string> events;
    for (size_t at = 0; at < text.size(); at += piece) {
      for (std::string& event : stream.Feed(std::string_view(text).substr(at, piece)))
        events.push_back(std::move(event));
    }
    EXPECT_THAT(events, ElementsAre("one", "two\nthree", "")) << piece;
  }
}

class Heard final : public OpenAiAnswer {
 public:
  void OnText(std::string_view content, std::string_view reasoning, TimePoint) override {
    pieces.push_back(std::string(content) + "|" + std::string(reasoning));
  }
  void OnDone(const absl::Status& status, TimePoint) override { done = status; }
  void Say(std::string_view text) { OnBody(text, {}); }

  std::vector<std::string> pieces;
  absl::Status done;
};

TEST(OpenAiAnswerTest, TextAndCountsOfOurOwn) {
  Heard heard;
  heard.OnStatus(200);
  heard.Say(R"(data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]})"
            "\n\n");
  heard.Say(
      R"(data: {"choices":[{"delta":{"reasoning_content":"hm","reasoning":"hm"},"finish_reason":null}]})"
      "\n\n");
  heard.Say(R"(data: {"choices":[{"delta":{"content":"yes"},"finish_reason":null}]})"
            "\n\n");
  heard.Say(R"(data: {"choices":[{"delta":{},"finish_reason":"length"}]})"
            "\n\n");
  heard.Say(R"(data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":)"
            R"({"cached_tokens":8}},"timings":{"draft_n":4,"draft_n_accepted":2},)"
            R"("metrics":{"speculative_decoding":{"num_decode_steps":1}}})"
            "\n\ndata: [DONE]\n\n");
  heard.OnEnd(absl::OkStatus(), {});
  EXPECT_TRUE(heard.done.ok());
  EXPECT_THAT(heard.pieces, ElementsAre("|hm", "yes|"));
  EXPECT_EQ(heard.finish_reason(), "length");
  EXPECT_EQ(heard.counts().prompt_tokens, 9);
  EXPECT_EQ(heard.counts().cached_tokens, 8);
  EXPECT_EQ(heard.counts().output_tokens, 3);
  EXPECT_EQ(heard.counts().steps, 1);
  EXPECT_EQ(heard.counts().drafted, 4);
  EXPECT_EQ(heard.counts().accepted, 2);
}

TEST(OpenAiAnswerTest, ARefusalIsAnErrorAndASilentEndToo) {
  Heard refused;
  refused.OnStatus(429);
  refused.Say(R"({"error":{"message":"full","type":"t","code":"rate_limit_)");
  refused.Say(R"(exceeded"}})");
  refused.OnEnd(absl::OkStatus(), {});
  ASSERT_TRUE(refused.error().has_value());
  EXPECT_EQ(refused.error()->status, 429);
  EXPECT_EQ(refused.error()->code, "rate_limit_exceeded");
  EXPECT_EQ(refused.error()->message, "full");

  Heard cut;
  cut.OnStatus(200);
  cut.Say("data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: {not json\n\n");
  cut.OnEnd(absl::OkStatus(), {});
  EXPECT_THAT(cut.pieces, ElementsAre("a|"));
  EXPECT_THAT(std::string(cut.done.message()), HasSubstr("NET-002"));

  EXPECT_EQ(ReadOpenAiError(500, "plain words").message, "plain words");
  EXPECT_EQ(ReadOpenAiError(400, R"({"object":"error","message":"old vLLM","code":400})").message,
            "old vLLM");
  EXPECT_EQ(ReadOpenAiError(404, R"({"error":"Not found"})").message, "Not found");
}

TEST(BenchTextTest, ProseAloneIsTaken) {
  EXPECT_EQ(ProseOf("# Head\n\nOne line\ngoes on.\n\n| a | b |\n\n- item\n  its rest\n\n    "
                    "code\n```sh\ncode\n```\nEnd."),
            "One line goes on. item its rest End.");
  EXPECT_GT(ProseOf(kBenchDocuments).size(), 20'000u);
}

Corpus SmallCorpus() {
  Corpus corpus;
  for (int i = 0; i < 50; ++i) {
    corpus.text += (i == 0 ? "word" : " word") + std::to_string(i);
    corpus.ids.insert(corpus.ids.end(), {100 + i, 200 + i});
  }
  corpus.salt_ids = {1, 2, 3};
  return corpus;
}

TEST(PromptBookTest, IdsHaveTheirLengthAndBeginAlikeAsFarAsAsked) {
  const ProsePlan plan{.form = PromptForm::kText, .tokens = 40, .shared = 10, .salt = "salt", .seed = 5};
  const PromptBook book = PromptBook::Prose(plan, SmallCorpus());
  std::set<std::vector<TokenId>> prompts;
  const auto first = book.Prompt(0)["prompt"].get<std::vector<TokenId>>();
  for (int64_t i = 0; i < 100; ++i) {
    const auto ids = book.Prompt(i)["prompt"].get<std::vector<TokenId>>();
    EXPECT_EQ(ids.size(), 40u);
    EXPECT_TRUE(std::equal(ids.begin(), ids.begin() + 10, first.begin()));
    prompts.insert(ids);
  }
  EXPECT_EQ(prompts.size(), 100u);  // the corpus has as many beginnings
  EXPECT_EQ(book.Prompt(100), book.Prompt(0));
  ProsePlan unlike = plan;
  unlike.seed = 6;
  EXPECT_NE(PromptBook::Prose(unlike, SmallCorpus()).Prompt(0), book.Prompt(0));
}

TEST(PromptBookTest, TextsAreOfWholeWordsAndAboutAsLong) {
  const PromptBook book = PromptBook::Prose({.tokens = 40, .shared = 20, .salt = "Note x."}, SmallCorpus());
  std::set<std::string> prompts;
  for (int64_t i = 0; i < 50; ++i) {
    const auto text = book.Prompt(i)["messages"][0]["content"].get<std::string>();
    EXPECT_THAT(text, testing::StartsWith("Note x. word0 word1 word2"));
    EXPECT_NEAR(static_cast<double>(text.size()), 40 * 3.3, 12);  // 100 ids make 339 bytes
    prompts.insert(text);
  }
  EXPECT_EQ(prompts.size(), 50u);
}

TEST(PromptBookTest, LinesOfAFile) {
  const auto read = [](const char* text, PromptForm form) { return PromptBook::Read(text, form, "F"); };
  const auto book = read("plain\r\n\n\"a \\\"string\\\"\"\n{\"prompt\":\"object\"}", PromptForm::kText);
  ASSERT_TRUE(book.ok());
  EXPECT_EQ(book->Prompt(0)["prompt"], "plain");
  EXPECT_EQ(book->Prompt(1)["prompt"], "a \"string\"");
  EXPECT_EQ(book->Prompt(2)["prompt"], "object");
  EXPECT_EQ(book->Prompt(3)["prompt"], "plain");
  for (const char* wrong : {"a\n{\"x\":1}", "a\n{broken", "a\n{\"messages\":[{}]}", "a\n{\"prompt\":[1]}"})
    EXPECT_THAT(std::string(read(wrong, PromptForm::kText).status().message()), HasSubstr("F: line 2"))
        << wrong;
  EXPECT_THAT(std::string(read("\n \n", PromptForm::kText).status().message()), HasSubstr("holds no prompt"));
}

TEST(LoadTest, ArrivalsAreThoseOfAPoissonProcess) {
  const std::vector<double> arrivals = PoissonArrivals(50, 20'000, 3);
  EXPECT_TRUE(std::is_sorted(arrivals.begin(), arrivals.end()));
  EXPECT_NEAR(arrivals.back() / 20'000, 0.02, 0.0006);  // four deviations of the mean
  // Of exponential gaps, the share 1 - 1/e is shorter than their mean.
  int64_t shorter = 0;
  for (size_t i = 1; i < arrivals.size(); ++i) shorter += arrivals[i] - arrivals[i - 1] < 0.02 ? 1 : 0;
  EXPECT_NEAR(static_cast<double>(shorter) / 19'999, 1 - std::exp(-1), 0.014);
  EXPECT_EQ(PoissonArrivals(50, 10, 3), std::vector<double>(arrivals.begin(), arrivals.begin() + 10));
  EXPECT_NE(PoissonArrivals(50, 1, 4)[0], arrivals[0]);
}

TEST(LoadSummaryTest, PercentilesAreInterpolated) {
  const Spread spread = SpreadOf({4, 1, 3, 2});
  EXPECT_EQ(spread.count, 4);
  EXPECT_DOUBLE_EQ(spread.mean, 2.5);
  EXPECT_DOUBLE_EQ(spread.p50, 2.5);
  EXPECT_DOUBLE_EQ(spread.p90, 3.7);
  EXPECT_DOUBLE_EQ(spread.max, 4);
  EXPECT_DOUBLE_EQ(SpreadOf({7}).p99, 7);
  EXPECT_EQ(SpreadOf({}).count, 0);
}

TimePoint At(int ms) { return TimePoint(std::chrono::milliseconds(ms)); }

RequestRecord Done(int due, int first, int last, int64_t tokens) {
  RequestRecord record;
  record.due = At(due);
  record.first = At(first);
  record.last = At(last);
  record.end = At(last + 1);
  record.chunks = tokens;
  record.bursts = 2;
  record.chunk_gaps_ms.assign(static_cast<size_t>(tokens - 1), 1);
  record.burst_gaps_ms = {5};
  record.counts = {
      .prompt_tokens = 10, .output_tokens = tokens, .steps = 2, .drafted = 4, .accepted = tokens - 2};
  return record;
}

TEST(LoadSummaryTest, FiguresOfALoad) {
  std::vector<RequestRecord> records = {Done(0, 100, 200, 5), Done(50, 350, 550, 3)};
  RequestRecord refused;
  refused.due = At(60);
  refused.end = At(63);
  refused.failure = "429 rate_limit_exceeded";
  refused.message = "full";
  refused.refused = true;
  records.push_back(refused);
  const ServiceGoals goals{.ttft_ms = 200, .itl_ms = 50};
  const LoadSummary s = Summarize({.concurrency = 2}, records, goals);
  EXPECT_EQ(s.requests, 3);
  EXPECT_EQ(s.completed, 2);
  EXPECT_EQ(s.good, 1);  // the second came after 300 ms, and took 100 per token
  EXPECT_DOUBLE_EQ(s.seconds, 0.551);
  EXPECT_EQ(s.output_tokens, 8);
  EXPECT_EQ(s.steps, 4);
  EXPECT_DOUBLE_EQ(s.ttft.max, 300);
  EXPECT_DOUBLE_EQ(s.tpot.max, 100);
  EXPECT_EQ(s.itl.count, 6);
  EXPECT_DOUBLE_EQ(s.refusal.p50, 3);
  EXPECT_EQ(Summarize({}, records, {.itl_ms = 50}).good, 1);
  EXPECT_EQ(Summarize({}, records, {}).good, 2);
  const auto json = SummaryJson(s, goals);
  EXPECT_EQ(json["failures"]["429 rate_limit_exceeded"], 1);
  EXPECT_DOUBLE_EQ(json["output_tokens_per_second"].get<double>(), 8 / 0.551);
  EXPECT_DOUBLE_EQ(json["goodput_per_second"].get<double>(), 1 / 0.551);
  EXPECT_THAT(SummaryTables({s}, goals, true), HasSubstr("| 2 at once | 3 | 2 | 1 |"));
  EXPECT_THAT(SummaryTables({s}, goals, false),
              HasSubstr("2 at once: 1 failed with 429 rate_limit_exceeded"));
  // One answer without the server's word makes the sums unknown.
  records[0].counts = {};
  const LoadSummary partly = Summarize({.rate = 2}, records, {});
  EXPECT_FALSE(partly.steps.has_value());
  EXPECT_FALSE(partly.counted_by_server);
  EXPECT_EQ(partly.output_tokens, 8);
}

}  // namespace
}  // namespace paceline::cli
