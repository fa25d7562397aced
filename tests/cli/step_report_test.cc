// What a profile says about a step: shares, what is lost against reading at full speed, and what stands out.
#include "cli/step_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace paceline::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// R = 10 GB/s: 10 MB are read in a millisecond.
StepReport Report() {
  StepReport report{
      .read_bandwidth_gbps = 10, .cpu = "A CPU (AVX2)", .isa = "cpu/avx2", .threads = 2, .steps = {}};
  report.steps.push_back({.kind = "decode",
                          .rows = 1,
                          .tokens = 1,
                          .step_s = 0.010,
                          .stages = {{"norms", 0.001, 100'000},
                                     {"experts", 0.004, 36'000'000},
                                     {"head", 0.0046, 40'000'000},
                                     {"router", 0.0004, 900'000},
                                     {"draft", 0.0000001, 0}}});
  report.steps.push_back({.kind = "verify",
                          .rows = 4,
                          .tokens = 4,
                          .step_s = 0.030,
                          .stages = {{"experts", 0.0201, 114'000'000}, {"head", 0.0099, 40'000'000}}});
  return report;
}

// Cells of the table lines that contain `first` as their first cell.
std::vector<std::vector<std::string>> Lines(const std::string& markdown, const std::string& first) {
  std::vector<std::vector<std::string>> out;
  std::istringstream in(markdown);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("| " + first + " |", 0) != 0) continue;
    std::vector<std::string> cells;
    size_t at = 2;
    for (size_t bar = line.find(" |", at); bar != std::string::npos; bar = line.find(" |", at)) {
      cells.push_back(bar >= at ? line.substr(at, bar - at) : "");
      at = bar + 3;
    }
    out.push_back(cells);
  }
  return out;
}

TEST(StepReport, LossIsWhatReadingDoesNotExplain) {
  EXPECT_DOUBLE_EQ(LostSeconds(0.004, 36'000'000, 10), 0.0004);
  EXPECT_LT(LostSeconds(0.001, 36'000'000, 10), 0);  // out of a cache
  EXPECT_EQ(LostSeconds(0.004, 36'000'000, 0), 0.004);
}

TEST(StepReport, AStageStandsOutThatTakesTimeAndNoBytes) {
  const MeasuredStep step = Report().steps[0];
  EXPECT_TRUE(Conspicuous(step.stages[0], step));   // 10 % for 0.1 %
  EXPECT_FALSE(Conspicuous(step.stages[1], step));  // 40 % for 47 %
  EXPECT_FALSE(Conspicuous(step.stages[3], step));  // 4 % only
  EXPECT_TRUE(Conspicuous({"x", 0.0006, 2'000'000}, step));
  EXPECT_FALSE(Conspicuous({"x", 0.0006, 3'000'000}, step));  // 6 % for nearly 4 %
}

TEST(StepReport, StagesComeInTheOrderOfTheirLoss) {
  const std::string text = StepReportText(Report(), true);
  const size_t decode = text.find("decode of 1 row\n"), norms = text.find("| norms", decode),
               head = text.find("| head", decode), experts = text.find("| experts", decode),
               router = text.find("| router", decode);
  ASSERT_NE(decode, std::string::npos);
  EXPECT_LT(norms, head);
  EXPECT_LT(head, experts);
  EXPECT_LT(experts, router);
  EXPECT_LT(router, text.find("verify of 4 rows\n"));
  EXPECT_THAT(text, Not(HasSubstr("draft"))) << "no time, no bytes";
  EXPECT_THAT(text,
              HasSubstr("decode of 1 row: 2.300 ms of 10.000 ms go beyond reading its bytes, 0.990 ms of "
                        "them in norms."));
  EXPECT_THAT(Lines(text, "norms")[0],
              ElementsAre("norms", "1.000 ms", "10.0 %", "0.10 MB", "0.1 %", "0.1", "1.0 %", "0.990 ms",
                          "! 10.0 % of the step for 0.1 % of its bytes"));
  EXPECT_THAT(Lines(text, "decode")[0],
              ElementsAre("decode", "1", "100.0", "10.000 ms", "77.00 MB", "7.7", "77.0 %", "-"));
  // Three times the time for twice the bytes.
  EXPECT_THAT(Lines(text, "verify")[0],
              ElementsAre("verify", "4", "133.3", "30.000 ms", "154.00 MB", "5.1", "51.3 %", "1.50"));
}

TEST(StepReport, TextHasTheColumnsOfTheMarkdown) {
  const std::string text = StepReportText(Report(), false);
  EXPECT_THAT(text, Not(HasSubstr("|")));
  EXPECT_THAT(text, HasSubstr("A CPU (AVX2), cpu/avx2, 2 threads, read bandwidth R = 10.0 GB/s"));
  EXPECT_THAT(text, HasSubstr("lost against R"));
  EXPECT_THAT(text, HasSubstr("! 10.0 % of the step for 0.1 % of its bytes"));
  std::istringstream in(text);
  std::vector<size_t> ends;  // of the time column: its numbers stand below one another
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("norms", 0) == 0 || line.rfind("router", 0) == 0) ends.push_back(line.find(" ms") + 3);
  }
  ASSERT_EQ(ends.size(), 2u);
  EXPECT_EQ(ends[0], ends[1]);
}

TEST(StepReport, JsonHasTheContractsFields) {
  const nlohmann::ordered_json out = StepReportJson(Report());
  EXPECT_EQ(out["read_bandwidth_gbps"], 10.0);
  EXPECT_EQ(out["cpu"], "A CPU (AVX2)");
  EXPECT_EQ(out["isa"], "cpu/avx2");
  const auto& decode = out["results"][0];
  EXPECT_EQ(decode["rows"], 1);
  EXPECT_EQ(decode["kind"], "decode");
  EXPECT_DOUBLE_EQ(decode["tokens_per_second"], 100);
  EXPECT_DOUBLE_EQ(decode["step_s"], 0.010);
  EXPECT_EQ(decode["bytes"], 77'000'000);
  EXPECT_DOUBLE_EQ(decode["gbps"], 7.7);
  EXPECT_DOUBLE_EQ(decode["share_of_read_bandwidth"], 0.77);
  EXPECT_FALSE(decode.contains("step_over_decode"));
  EXPECT_EQ(decode["stages"].size(), 5u);
  EXPECT_EQ(decode["stages"][0]["name"], "norms");
  EXPECT_EQ(decode["stages"][0]["conspicuous"], true);
  EXPECT_DOUBLE_EQ(decode["stages"][1]["lost_s"], 0.0004);
  EXPECT_DOUBLE_EQ(out["results"][1]["step_over_decode"], 3.0);
  EXPECT_DOUBLE_EQ(out["results"][1]["step_over_decode_by_bytes"], 1.5);
}

TEST(StepReport, WithoutABandwidthNothingIsDividedByIt) {
  StepReport report = Report();
  report.read_bandwidth_gbps = 0;
  EXPECT_EQ(StepReportJson(report)["results"][0]["share_of_read_bandwidth"], 0.0);
  EXPECT_THAT(StepReportText(report, true), Not(HasSubstr("inf")));
}

}  // namespace
}  // namespace paceline::cli
