// Histograms and counts of requests and steps.
#include "coordinator/serving_counters.h"

#include "absl/status/status.h"
#include "coordinator/api_error.h"
#include "coordinator/metrics.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Histogram, ABoundBelongsToWhatIsBelowIt) {
  static constexpr double kBounds[] = {1, 2, 5};
  Histogram histogram(kBounds);
  for (const double value : {0.5, 1.0, 1.5, 2.0, 5.0, 5.1}) histogram.Observe(value);
  histogram.Observe(3, 4);
  EXPECT_THAT(histogram.counts, ElementsAre(2, 2, 5, 1));
  EXPECT_DOUBLE_EQ(histogram.sum, 27.1);
  EXPECT_EQ(histogram.count(), 10);
}

TEST(ServingCounters, TokensOfAStepShareItsTime) {
  ServingCounters counters;
  counters.FirstToken(12, 0.25);
  counters.MoreTokens(3, 0.03);
  counters.MoreTokens(0, 9);
  EXPECT_EQ(counters.prompt_tokens, 12);
  EXPECT_EQ(counters.first_token_s.count(), 1);
  EXPECT_EQ(counters.inter_token_s.count(), 3);
  EXPECT_DOUBLE_EQ(counters.inter_token_s.sum, 0.03);
}

TEST(ServingCounters, OnlyWhatEndedWellIsALatency) {
  ServingCounters counters;
  GenerationEnd end;
  end.usage = {5, 11, 0};
  end.timings.decode_s = 2;
  end.timings.prefill_s = 1;
  end.reason = FinishReason::kLength;
  counters.Ended(end, 3.5);
  end.reason = FinishReason::kCancelled;
  counters.Ended(end, 3.5);
  end.status = WithReason(absl::UnavailableError("gone"), reasons::kNodeLost);
  counters.Ended(end, 3.5);
  EXPECT_THAT(counters.ended, ElementsAre(0, 1, 0, 1, 1));
  EXPECT_EQ(counters.failed.at("NODE_LOST"), 1);
  EXPECT_EQ(counters.total_s.count(), 1);
  EXPECT_DOUBLE_EQ(counters.per_token_s.sum, 0.2);
  EXPECT_DOUBLE_EQ(counters.inference_s.sum, 3);
}

TEST(Metrics, ALinkHasSamplesOnceItIsMeasured) {
  MetricsSnapshot now;
  now.model.model = "m";
  now.cluster.nodes.resize(3);
  now.cluster.nodes[0].head = true;
  for (size_t rank : {1, 2}) {
    now.cluster.nodes[rank].name = rank == 1 ? "near" : "far";
    now.cluster.nodes[rank].rank = static_cast<int32_t>(rank);
    now.cluster.nodes[rank].interface = "eth1";
  }
  now.engine.exchange.peers.resize(2);
  EXPECT_THAT(MetricsText(now), Not(HasSubstr("paceline_link_rtt_seconds{")));
  PeerCounters& far = now.engine.exchange.peers[1];
  far.rtt_s = 0.25;
  far.sent_bytes_per_s = 1000;
  far.received_bytes_per_s = 2000;
  const std::string text = MetricsText(now);
  const std::string labels = "interface=\"eth1\",model=\"m\",node=\"far\",rank=\"2\",role=\"worker\"} ";
  EXPECT_THAT(text, HasSubstr("paceline_link_rtt_seconds{" + labels + "0.25\n"));
  EXPECT_THAT(text, HasSubstr("paceline_link_bandwidth_bytes{direction=\"sent\"," + labels + "1000\n"));
  EXPECT_THAT(text, HasSubstr("paceline_link_bandwidth_bytes{direction=\"received\"," + labels + "2000\n"));
  EXPECT_THAT(text, Not(HasSubstr("paceline_link_rtt_seconds{interface=\"eth1\",model=\"m\",node=\"near\"")));
}

TEST(Metrics, ImbalanceIsTheBusiestOverTheMean) {
  MetricsSnapshot now;
  now.model.model = "m";
  now.cluster.nodes.resize(4);
  StepResult step;
  step.run_s = 0.002;
  step.phase_s[static_cast<size_t>(StepPhase::kCombine)] = 0.0015;
  step.leaf_loads = {{.busiest = 2, .all = 8}, {.busiest = 8, .all = 8}};
  for (int i = 0; i < 10; ++i) now.engine.serving.Step(StepKind::kDecode, 3, step);
  const std::string text = MetricsText(now);
  EXPECT_THAT(text, HasSubstr("paceline_expert_load_imbalance{layer=\"0\",model=\"m\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("paceline_expert_load_imbalance{layer=\"1\",model=\"m\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("paceline_step_seconds_count{kind=\"decode\",model=\"m\"} 10\n"));
  EXPECT_THAT(text, HasSubstr("paceline_ep_phase_seconds_count{model=\"m\",phase=\"combine\"} 10\n"));
  EXPECT_THAT(text, HasSubstr("vllm:iteration_tokens_total_sum{engine=\"0\",model_name=\"m\"} 30\n"));
  EXPECT_THAT(MetricsText(now, {.version = "1", .vllm_names = false}), Not(HasSubstr("vllm:")));
}

}  // namespace
}  // namespace paceline
